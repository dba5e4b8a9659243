"""Cheap changes to rendered audio: equaliser, room, noise, compression, codecs, level.

The effects are in `effects`, as functions of their parameters; here those are drawn.
Everything linear is one multiplication in the spectral domain, and rooms and noises
come from banks made once, so that two seconds of audio cost about a millisecond.
The caller hands in audio that begins some `history` earlier than wanted: what
sounded before then rings on in the room, and nothing wraps around.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mt3.synthesis import effects


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How often and how strongly audio is changed.

    Effects come in the order of their attributes. Ranges that are not settings are
    named here; log-uniform draws are marked (log).

    Attributes:
      equaliser: chance of a random smooth frequency response: the exponential of a
        sum of 7 cosines over the octaves from 30 Hz on, with normal weights.
      equaliser_db: standard deviation of each cosine's weight, in dB.
      low_pass: chance of a cut-off of 2500 to 7500 Hz (log), 48 dB an octave, as of
        worn or compressed recordings.
      high_pass: chance of a lower limit of 60 to 250 Hz (log), 24 dB an octave, as of
        small loudspeakers and microphones.
      comb: chance that the sound is added once more 0.1 to 4 ms (log) later, with a
        gain of 0.2 to 0.8 and either sign: stereo folded down to mono, a near wall.
      room: chance of a synthetic room, 5 to 26 dB below the direct sound.
      noise: chance of noise: white, pink, brown or mains hum.
      noise_snr_db: lowest and highest ratio of signal to noise, in dB.
      limiter: chance of strong compression: from 0.5 to 2 times (log) the root mean
        square of the segment on, ratio 2 to 20 (log), release 0.05 to 0.8 s (log).
      compression: chance of soft clipping, with a drive of 1/6 to 4/3 (log) over the
        segment's root mean square.
      clipping: chance of hard clipping at 1.2 to 4 times (log) that.
      codec: chance of a low-rate codec: depth 35 to 60 dB, rounding steps of -14 to
        2 dB against a band's level (`effects.codec`).
      level_db: lowest and highest level (root mean square of the segment, in dB
        relative to full scale), before what squeezes it, and lower where peaks would
        exceed full scale.
    """

    equaliser: float = 0.7
    equaliser_db: float = 3.5
    low_pass: float = 0.15
    high_pass: float = 0.15
    comb: float = 0.15
    room: float = 0.5
    noise: float = 0.5
    noise_snr_db: tuple[float, float] = (15.0, 50.0)
    limiter: float = 0.25
    compression: float = 0.2
    clipping: float = 0.04
    codec: float = 0.15
    level_db: tuple[float, float] = (-32.0, -12.0)


NO_AUGMENTATION = AugmentationConfig(
    equaliser=0.0,
    low_pass=0.0,
    high_pass=0.0,
    comb=0.0,
    room=0.0,
    noise=0.0,
    limiter=0.0,
    compression=0.0,
    clipping=0.0,
    codec=0.0,
    level_db=(-20.0, -20.0),
)

# Effects that have a chance, in the order in which their chances are drawn.
_EFFECTS = (
    "equaliser",
    "low_pass",
    "room",
    "noise",
    "compression",
    "high_pass",
    "comb",
    "limiter",
    "clipping",
    "codec",
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
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        self.history = history
        self.config = config or AugmentationConfig()
        self.size = fft.next_fast_len(history + num_samples + _PAD, real=True)
        frequencies = fft.rfftfreq(self.size, 1.0 / sample_rate)
        self.frequencies = frequencies.astype(np.float32)
        # Cosines over the octaves from 30 Hz to the top: tilt, bows and bumps.
        octaves = np.log2(np.maximum(frequencies, 30.0) / 30.0)
        place = octaves / octaves[-1]
        order = np.arange(1, _EQUALISER_COMPONENTS + 1)[:, None]
        self.cosines = np.cos(np.pi * order * place).astype(np.float32)
        rng = np.random.default_rng([seed, 0x5EED])
        self.rooms = self._make_rooms(rng, sample_rate)
        self.noises = _make_noises(rng, sample_rate)

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
        chances = rng.random(len(_EFFECTS))
        happens = {
            name: chance < getattr(config, name)
            for name, chance in zip(_EFFECTS, chances, strict=True)
        }
        audio = self._filter(rng, audio, happens)
        power = float(np.dot(audio, audio)) / len(audio)
        level = 10 ** (rng.uniform(*config.level_db) / 20)
        if power > 1e-12:
            audio = audio * np.float32(level / np.sqrt(power))
        if happens["noise"]:
            snr = rng.uniform(*config.noise_snr_db)
            noise = self.noises[int(rng.integers(len(self.noises)))]
            start = int(rng.integers(len(noise) - len(audio)))
            gain = np.float32(level * 10 ** (-snr / 20))
            audio = audio + gain * noise[start : start + len(audio)]
        audio = self._squeeze(rng, audio, happens, level)
        if happens["codec"]:
            audio = effects.codec(
                audio, depth_db=rng.uniform(35, 60), step_db=rng.uniform(-14, 2)
            )
        # Short loud peaks lower the level; to clip them is an effect of its own.
        peak = float(np.abs(audio).max(initial=0.0))
        return (audio / np.float32(max(peak, 1.0))).astype(np.float32, copy=False)

    def _squeeze(
        self,
        rng: np.random.Generator,
        audio: np.ndarray,
        happens: dict[str, bool],
        level: float,
    ) -> np.ndarray:
        """Limits, bends and clips audio of a level."""
        if happens["limiter"]:
            audio = effects.limit(
                audio,
                threshold=level * _log_uniform(rng, 0.5, 2.0),
                ratio=_log_uniform(rng, 2.0, 20.0),
                release=_log_uniform(rng, 0.05, 0.8),
                sample_rate=self.sample_rate,
            )
        if happens["compression"]:
            audio = effects.soft_clip(audio, _log_uniform(rng, 0.5, 4.0) / level / 3)
        if happens["clipping"]:
            audio = effects.hard_clip(audio, level * _log_uniform(rng, 1.2, 4.0))
        return audio

    def _filter(
        self, rng: np.random.Generator, audio: np.ndarray, happens: dict[str, bool]
    ) -> np.ndarray:
        """Equaliser, band limits, comb and room, as one product of spectra."""
        config = self.config
        responses: list[np.ndarray] = []
        if happens["equaliser"]:
            weights = rng.normal(0, config.equaliser_db, _EQUALISER_COMPONENTS)
            weights = (weights * np.log(10) / 20).astype(np.float32)
            responses.append(np.exp(weights @ self.cosines))
        if happens["low_pass"]:
            cut = _log_uniform(rng, 2500, 7500)
            responses.append(effects.low_pass(self.frequencies, cut))
        if happens["high_pass"]:
            cut = _log_uniform(rng, 60, 250)
            responses.append(effects.high_pass(self.frequencies, cut))
        if happens["comb"]:
            delay = _log_uniform(rng, 0.0001, 0.004)
            gain = rng.choice([-1, 1]) * rng.uniform(0.2, 0.8)
            responses.append(effects.comb(self.frequencies, delay, gain))
        if happens["room"]:
            wet = np.float32(10 ** (rng.uniform(-26, -5) / 20))
            responses.append(1.0 + wet * self.rooms[int(rng.integers(_ROOMS))])
        if not responses:
            return audio[self.history :]
        spectrum = self._fft.rfft(audio, self.size)
        for response in responses:
            spectrum *= response
        filtered = self._fft.irfft(spectrum, self.size)
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
            rooms.append(self._fft.rfft(tail.astype(np.float32), self.size))
        return np.stack(rooms)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


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
