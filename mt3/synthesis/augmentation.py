"""Cheap changes to rendered audio: equaliser, room, noise, compression, level.

Everything linear is one multiplication in the spectral domain, and rooms and noises
come from banks made once, so that two seconds of audio cost about a millisecond.
The caller hands in audio that begins some `history` earlier than wanted: what
sounded before then rings on in the room, and nothing wraps around.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How often and how strongly audio is changed.

    Attributes:
      equaliser: chance of a random smooth frequency response.
      equaliser_db: its standard deviation per component, in dB.
      low_pass: chance of a cut-off, as of worn or compressed recordings.
      room: chance of a synthetic room.
      noise: chance of noise.
      noise_snr_db: lowest and highest ratio of signal to noise, in dB.
      compression: chance of soft compression.
      level_db: lowest and highest level (root mean square of the segment, in dB
        relative to full scale).
    """

    equaliser: float = 0.7
    equaliser_db: float = 3.5
    low_pass: float = 0.15
    room: float = 0.5
    noise: float = 0.5
    noise_snr_db: tuple[float, float] = (15.0, 50.0)
    compression: float = 0.25
    level_db: tuple[float, float] = (-32.0, -12.0)


NO_AUGMENTATION = AugmentationConfig(
    equaliser=0.0,
    low_pass=0.0,
    room=0.0,
    noise=0.0,
    compression=0.0,
    level_db=(-20.0, -20.0),
)

_ROOMS = 32
_NOISE_SAMPLES = 1 << 19
_EQUALISER_COMPONENTS = 7
# Zeros behind the audio that take up the ringing of the (zero-phase) equaliser.
_PAD = 512


class Augmenter:
    """Changes segments of one length; see `AugmentationConfig`.

    Args:
      num_samples: samples that come out.
      history: samples before them that go in; the longest room, too.
      sample_rate: in Hz.
      config: how often and how strongly.
      seed: of the banks of rooms and noises.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        history: int = 8192,
        sample_rate: int = 16000,
        config: AugmentationConfig | None = None,
        seed: int = 0,
    ):
        from scipy import fft

        self._fft = fft
        self.num_samples = num_samples
        self.history = history
        self.config = config or AugmentationConfig()
        self._size = fft.next_fast_len(history + num_samples + _PAD, real=True)
        frequencies = fft.rfftfreq(self._size, 1.0 / sample_rate)
        self._frequencies = frequencies.astype(np.float32)
        # Cosines over the octaves from 30 Hz to the top: tilt, bows and bumps.
        octaves = np.log2(np.maximum(frequencies, 30.0) / 30.0)
        place = octaves / octaves[-1]
        order = np.arange(1, _EQUALISER_COMPONENTS + 1)[:, None]
        self._cosines = np.cos(np.pi * order * place).astype(np.float32)
        rng = np.random.default_rng([seed, 0x5EED])
        self._rooms = self._make_rooms(rng, sample_rate)
        self._noises = _make_noises(rng, sample_rate)

    def __call__(self, rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
        """Changes a segment.

        Args:
          rng: source of randomness.
          audio: float32 [history + num_samples].

        Returns:
          float32 [num_samples], within -1..1.
        """
        config = self.config
        # All draws are made whatever the outcome, so that examples stay comparable
        # when one chance is changed.
        chances = rng.random(5)
        audio = self._filter(rng, audio, chances)
        power = float(np.dot(audio, audio)) / len(audio)
        level = 10 ** (rng.uniform(*config.level_db) / 20)
        if power > 1e-12:
            audio = audio * np.float32(level / np.sqrt(power))
        if chances[3] < config.noise:
            snr = rng.uniform(*config.noise_snr_db)
            noise = self._noises[int(rng.integers(len(self._noises)))]
            start = int(rng.integers(len(noise) - len(audio)))
            gain = np.float32(level * 10 ** (-snr / 20))
            audio = audio + gain * noise[start : start + len(audio)]
        if chances[4] < config.compression:
            drive = np.float32(
                np.exp(rng.uniform(np.log(0.5), np.log(3.0))) / level / 3
            )
            audio = np.tanh(audio * drive) / drive
        return np.clip(audio, -1.0, 1.0, dtype=np.float32)

    def _filter(
        self, rng: np.random.Generator, audio: np.ndarray, chances: np.ndarray
    ) -> np.ndarray:
        config = self.config
        response: np.ndarray | None = None
        if chances[0] < config.equaliser:
            weights = rng.normal(0, config.equaliser_db, _EQUALISER_COMPONENTS)
            weights = (weights * np.log(10) / 20).astype(np.float32)
            response = np.exp(weights @ self._cosines)
        if chances[1] < config.low_pass:
            cut = np.float32(np.exp(rng.uniform(np.log(2500), np.log(7500))))
            ratio = (self._frequencies / cut) ** 8
            slope = 1.0 / (1.0 + ratio)
            response = slope if response is None else response * slope
        if chances[2] < config.room:
            wet = np.float32(10 ** (rng.uniform(-26, -5) / 20))
            room = wet * self._rooms[int(rng.integers(_ROOMS))]
            room += 1.0
            response = room if response is None else response * room
        if response is None:
            return audio[self.history :]
        spectrum = self._fft.rfft(audio, self._size)
        spectrum *= response
        filtered = self._fft.irfft(spectrum, self._size)
        return filtered[self.history : self.history + self.num_samples]

    def _make_rooms(self, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
        """Returns the spectra of rooms' reflections, without the direct sound."""
        rooms = []
        time = np.arange(self.history) / sample_rate
        for _ in range(_ROOMS):
            # The time in which the sound falls by 60 dB.
            fall = np.exp(rng.uniform(np.log(0.1), np.log(0.9)))
            tail = rng.normal(size=self.history) * 10 ** (-3 * time / fall)
            # Rooms swallow treble: each pass of this average takes some.
            for _ in range(int(rng.integers(0, 4))):
                tail = 0.5 * (tail + np.concatenate([[0.0], tail[:-1]]))
            tail[: int(rng.uniform(0.002, 0.02) * sample_rate)] = 0.0
            for _ in range(int(rng.integers(2, 8))):
                delay = int(rng.uniform(0.003, 0.04) * sample_rate)
                tail[delay] += rng.choice([-1, 1]) * rng.uniform(1, 6)
            tail *= np.linspace(1, 0, self.history) ** 0.5
            tail /= np.sqrt(np.sum(tail**2))
            rooms.append(self._fft.rfft(tail.astype(np.float32), self._size))
        return np.stack(rooms)


def _make_noises(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Returns white, pink and brown noise and mains hum, each of power 1."""
    size = _NOISE_SAMPLES
    white = np.fft.rfft(rng.normal(size=size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1.0 / sample_rate), 20.0)
    noises = [np.fft.irfft(white / frequency**power, size) for power in (0, 0.5, 1)]
    time = np.arange(size) / sample_rate
    hum = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(1, 8))
    noises.append(hum + 0.3 * rng.normal(size=size))
    return np.stack([n / np.sqrt(np.mean(n**2)) for n in noises]).astype(np.float32)
