"""Changes rendered audio as recordings do: equaliser, room, noise, compression, codec.

One `Augmenter` serves the host (NumPy, one segment at a time) and the accelerator (JAX,
a batch in a compiled step). Both apply the same effects (`effects`) with the same
chances and ranges; they differ in two points:

1. Random numbers: the host draws from a `numpy.random.Generator`, and draws the
   parameters of an effect only if it happens. The accelerator draws everything from a
   JAX key, computes every effect, and selects.
2. The codec: the host imitates it on samples (`effects.codec`), the accelerator on the
   spectrogram (`Augmenter.frames`), which costs much less.

All linear effects are one multiplication in the spectral domain, and rooms and noises
come from banks made once, so that two seconds of audio cost about a millisecond. The
input begins `history` samples before the segment: sound from that time still rings in
the room, and nothing wraps around.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft as scipy_fft

from mt3.synthesis import effects

# Half a second before the segment, and with it the length of the longest room.
HISTORY_SAMPLES = 8192


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """How often and how strongly audio is changed.

    The effects are applied in the order of these attributes. Ranges that are not
    settings stand here; those marked (log) are drawn uniformly in the logarithm.

    Attributes:
      equaliser: chance of a random smooth frequency response: the exponential of a
        sum of 7 cosines over the octaves from 30 Hz on, with normal weights.
      equaliser_db: standard deviation of each cosine's weight, in dB.
      low_pass: chance of a cut-off at 2500 to 7500 Hz (log), 48 dB per octave, as in
        worn or compressed recordings.
      high_pass: chance of a lower limit at 60 to 250 Hz (log), 24 dB per octave, as of
        small loudspeakers and microphones.
      comb: chance that the sound is added once more 0.1 to 4 ms (log) later, with a
        gain of 0.2 to 0.8 and either sign: stereo folded down to mono, a near wall.
      room: chance of a synthetic room, 5 to 26 dB below the direct sound.
      noise: chance of noise: white, pink, brown or mains hum.
      noise_snr_db: lowest and highest signal-to-noise ratio, in dB.
      limiter: chance of strong compression. The threshold is 0.5 to 2 times (log) the
        root mean square of the segment, the ratio 2 to 20 (log), the release 0.05 to
        0.8 s (log).
      compression: chance of soft clipping. The drive is 1/6 to 4/3 (log) divided by
        the root mean square of the segment.
      clipping: chance of hard clipping at 1.2 to 4 times (log) the root mean square.
      codec: chance of a low-rate codec. On samples: depth 35 to 60 dB, rounding steps
        of -14 to 2 dB relative to a band's level. On spectrograms: depth 35 to 61 dB,
        steps of 0.4 to 3.5 dB.
      level_db: lowest and highest level (root mean square of the segment, in dB
        relative to full scale) before limiter, compression and clipping. The level is
        lower where peaks would exceed full scale.
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

    def augmenter(self, num_samples: int, **options: Any) -> Augmenter:
        """Returns the `Augmenter` for segments of `num_samples` samples."""
        return Augmenter(num_samples, config=self, **options)


# Effects that have a chance, in the order in which the host draws their chances.
_EFFECTS = (
    *("equaliser", "low_pass", "room", "noise", "compression"),
    *("high_pass", "comb", "limiter", "clipping", "codec"),
)
NO_AUGMENTATION = AugmentationConfig(
    **dict.fromkeys(_EFFECTS, 0.0), level_db=(-20.0, -20.0)
)

_LOW_PASS_HZ = (2500.0, 7500.0)
_HIGH_PASS_HZ = (60.0, 250.0)
_COMB_DELAY = (1e-4, 4e-3)
_COMB_GAIN = (0.2, 0.8)
_ROOM_DB = (-26.0, -5.0)
# Threshold relative to the level, ratio, release in seconds.
_LIMITER = ((0.5, 2.0), (2.0, 20.0), (0.05, 0.8))
_DRIVE = (0.5, 4.0)
_CEILING = (1.2, 4.0)
_CODEC_DEPTH_DB = (35.0, 60.0)
_CODEC_STEP_DB = (-14.0, 2.0)
# The codec on spectrograms, in natural logarithms of magnitudes.
_FRAMES_DEPTH = (4.0, 7.0)
_FRAMES_STEP = (0.05, 0.4)
_FRAMES_HOLE = 4.0

_ROOMS = 32
_NOISE_SAMPLES = 1 << 19
_EQUALISER_COMPONENTS = 7
_EQUALISER_LOWEST_HZ = 30.0
# Zeros after the audio that take up the ringing of the (zero-phase) equaliser.
_PAD = 512

# Effects by name: whether each happens, then its parameters. Scalars for one segment,
# columns [B, 1] for a batch. Effects that are missing do not happen.
_Drawn = dict[str, tuple]


class Augmenter:
    """Changes segments of one length; see `AugmentationConfig` for the effects.

    Args:
      num_samples: samples of the output.
      history: samples of the input before those; the longest room has this length.
      sample_rate: in Hz.
      config: how often and how strongly.
      seed: determines the banks of rooms and noises.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        history: int = HISTORY_SAMPLES,
        sample_rate: int = 16000,
        config: AugmentationConfig | None = None,
        seed: int = 0,
    ):
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        self.history = history
        self.config = config or AugmentationConfig()
        self._size = scipy_fft.next_fast_len(history + num_samples + _PAD, real=True)
        frequencies = scipy_fft.rfftfreq(self._size, 1.0 / sample_rate)
        self._frequencies = frequencies.astype(np.float32)
        # Cosines over the octaves from 30 Hz to the top: tilt, bows and bumps.
        lowest = _EQUALISER_LOWEST_HZ
        octaves = np.log2(np.maximum(frequencies, lowest) / lowest)
        order = np.arange(1, _EQUALISER_COMPONENTS + 1)[:, None]
        cosines = np.cos(np.pi * order * (octaves / octaves[-1]))
        self._cosines = cosines.astype(np.float32)
        rng = np.random.default_rng([seed, 0x5EED])
        self._rooms = _make_rooms(rng, history, self._size, sample_rate)
        self._noises = _make_noises(rng, sample_rate)

    def __call__(self, rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
        """Changes one segment on the host.

        Args:
          rng: source of randomness.
          audio: float32 [history + num_samples].

        Returns:
          float32 [num_samples], within -1..1.
        """
        return self._apply(self._draw(rng), audio, np)

    def batch(self, key: jax.Array, audio: jax.Array) -> jax.Array:
        """Changes a batch on the accelerator, all effects but the codec.

        Args:
          key: a random key.
          audio: float32 [B, history + num_samples].

        Returns:
          float32 [B, num_samples], within -1..1.
        """
        return self._apply(self._draw_batch(key, len(audio)), audio, jnp)

    def frames(self, key: jax.Array, frames: jax.Array) -> jax.Array:
        """Imitates a low-rate codec on spectrograms.

        Bands far below the loudest band of a frame are lost, and levels become coarse.

        Args:
          key: a random key.
          frames: natural logarithms of magnitudes, [B, T, D].

        Returns:
          [B, T, D].
        """
        shape = (len(frames), 1, 1)
        chance_key, depth_key, step_key = jax.random.split(key, 3)
        happens = jax.random.uniform(chance_key, shape) < self.config.codec
        depth = _uniform(depth_key, shape, _FRAMES_DEPTH)
        step = _uniform(step_key, shape, _FRAMES_STEP)
        coarse = jnp.round(frames / step) * step
        lost = frames < jnp.max(frames, axis=-1, keepdims=True) - depth
        coded = jnp.where(lost, coarse - _FRAMES_HOLE, coarse)
        return jnp.where(happens, coded, frames)

    def _apply(self, drawn: _Drawn, audio: Any, xp: ModuleType) -> Any:
        """Applies the drawn effects to audio [..., history + num_samples]."""

        def change(name: str, effect: Any, audio: Any) -> Any:
            if name not in drawn:
                return audio
            happens, *parameters = drawn[name]
            return _select(happens, effect(audio, *parameters), audio)

        def limit(audio: Any, threshold: Any, ratio: Any, release: Any) -> Any:
            rate = self.sample_rate
            return effects.limit(audio, threshold, ratio, release, rate, xp=xp)

        audio = self._filter(drawn, audio, xp)
        # In double precision on the host.
        power = xp.vecdot(audio, audio)[..., None].astype(float) / self.num_samples
        (level,) = drawn["level"]
        scale = level / xp.sqrt(xp.maximum(power, 1e-12))
        audio = audio * xp.where(power > 1e-12, scale, 1.0).astype(np.float32)
        audio = change("noise", lambda x, gain, noise: x + gain * noise, audio)
        audio = change("limiter", limit, audio)
        audio = change("compression", lambda x, d: effects.soft_clip(x, d, xp), audio)
        audio = change("clipping", lambda x, top: xp.clip(x, -top, top), audio)
        audio = change("codec", effects.codec, audio)
        # Short loud peaks lower the level; clipping them is a separate effect.
        peak = xp.max(xp.abs(audio), axis=-1, keepdims=True)
        return audio / xp.maximum(peak, 1.0)

    def _filter(self, drawn: _Drawn, audio: Any, xp: ModuleType) -> Any:
        """Applies equaliser, band limits, comb and room; cuts off the history."""
        frequencies = self._frequencies.reshape((1,) * (audio.ndim - 1) + (-1,))
        filters = {
            "equaliser": lambda weights: xp.exp(weights @ self._cosines),
            "low_pass": lambda cut: effects.low_pass(frequencies, cut),
            "high_pass": lambda cut: effects.high_pass(frequencies, cut),
            "comb": lambda delay, gain: effects.comb(frequencies, delay, gain, xp),
            "room": lambda gain, room: 1.0 + gain * room,
        }
        segment = slice(self.history, self.history + self.num_samples)
        if drawn.keys().isdisjoint(filters):
            return audio[..., segment]
        fft = scipy_fft if xp is np else xp.fft
        spectrum = fft.rfft(audio, self._size)
        for name, response in filters.items():
            if name in drawn:
                happens, *parameters = drawn[name]
                spectrum *= _select(happens, response(*parameters), 1.0)
        return fft.irfft(spectrum, self._size)[..., segment]

    def _draw(self, rng: np.random.Generator) -> _Drawn:
        """Draws the effects that happen to one segment, and their parameters."""
        config = self.config
        # All chances are drawn first, so that a change of one leaves the others.
        chances = dict(zip(_EFFECTS, rng.random(len(_EFFECTS)), strict=True))
        drawn: _Drawn = {}

        def happens(name: str) -> bool:
            return chances[name] < getattr(config, name)

        def log_uniform(bounds: tuple[float, float]) -> float:
            return float(np.exp(rng.uniform(*np.log(bounds))))

        if happens("equaliser"):
            weights = rng.normal(0, config.equaliser_db, _EQUALISER_COMPONENTS)
            drawn["equaliser"] = True, (weights * np.log(10) / 20).astype(np.float32)
        if happens("low_pass"):
            drawn["low_pass"] = True, log_uniform(_LOW_PASS_HZ)
        if happens("high_pass"):
            drawn["high_pass"] = True, log_uniform(_HIGH_PASS_HZ)
        if happens("comb"):
            delay, sign = log_uniform(_COMB_DELAY), float(rng.choice([-1, 1]))
            drawn["comb"] = True, delay, sign * rng.uniform(*_COMB_GAIN)
        if happens("room"):
            gain = 10 ** (rng.uniform(*_ROOM_DB) / 20)
            drawn["room"] = True, gain, self._rooms[int(rng.integers(_ROOMS))]
        level = 10 ** (rng.uniform(*config.level_db) / 20)
        drawn["level"] = (level,)
        if happens("noise"):
            gain = level * 10 ** (-rng.uniform(*config.noise_snr_db) / 20)
            noise = self._noises[int(rng.integers(len(self._noises)))]
            start = int(rng.integers(len(noise) - self.num_samples))
            drawn["noise"] = True, gain, noise[start : start + self.num_samples]
        if happens("limiter"):
            relative, ratio, release = map(log_uniform, _LIMITER)
            drawn["limiter"] = True, level * relative, ratio, release
        if happens("compression"):
            drawn["compression"] = True, log_uniform(_DRIVE) / level / 3
        if happens("clipping"):
            drawn["clipping"] = True, level * log_uniform(_CEILING)
        if happens("codec"):
            depth = rng.uniform(*_CODEC_DEPTH_DB)
            drawn["codec"] = True, depth, rng.uniform(*_CODEC_STEP_DB)
        return drawn

    def _draw_batch(self, key: jax.Array, batch: int) -> _Drawn:
        """Draws whether each effect happens to each segment, and all parameters."""
        config, shape = self.config, (batch, 1)
        chance_key, filter_key, level_key, noise_key, squeeze_key, _ = jax.random.split(
            key, 6
        )

        def uniform(key: jax.Array, bounds: tuple[float, float]) -> jax.Array:
            return _uniform(key, shape, bounds)

        def log_uniform(key: jax.Array, bounds: tuple[float, float]) -> jax.Array:
            return jnp.exp(_uniform(key, shape, np.log(bounds)))

        chances = jax.random.uniform(chance_key, (5, *shape))
        keys = jax.random.split(filter_key, 8)
        weights = jax.random.normal(keys[0], (batch, _EQUALISER_COMPONENTS))
        weights *= config.equaliser_db * np.log(10) / 20
        low, high = (
            log_uniform(keys[1], _LOW_PASS_HZ),
            log_uniform(keys[2], _HIGH_PASS_HZ),
        )
        room = jnp.asarray(self._rooms)[
            jax.random.randint(keys[3], (batch,), 0, _ROOMS)
        ]
        wet = 10 ** (uniform(keys[4], _ROOM_DB) / 20)
        sign = jnp.sign(uniform(keys[7], (0.0, 1.0)) - 0.5)
        gain = sign * uniform(keys[6], _COMB_GAIN)
        drawn = {
            "equaliser": (chances[0] < config.equaliser, weights),
            "low_pass": (chances[1] < config.low_pass, low),
            "high_pass": (chances[2] < config.high_pass, high),
            "room": (chances[3] < config.room, wet, room),
            "comb": (chances[4] < config.comb, log_uniform(keys[5], _COMB_DELAY), gain),
        }
        level = 10 ** (uniform(level_key, config.level_db) / 20)
        keys = jax.random.split(noise_key, 4)
        gain = level * 10 ** (-uniform(keys[0], config.noise_snr_db) / 20)
        noise = self._draw_noises(keys[1], keys[2], batch)
        happens = uniform(keys[3], (0.0, 1.0)) < config.noise
        drawn |= {"level": (level,), "noise": (happens, gain, noise)}
        keys = jax.random.split(squeeze_key, 6)
        chances = jax.random.uniform(keys[5], (3, *shape))
        relative, ratio, release = map(log_uniform, keys[:3], _LIMITER)
        drive = log_uniform(keys[3], _DRIVE) / (3 * level)
        ceiling = level * log_uniform(keys[4], _CEILING)
        return drawn | {
            "limiter": (chances[0] < config.limiter, level * relative, ratio, release),
            "compression": (chances[1] < config.compression, drive),
            "clipping": (chances[2] < config.clipping, ceiling),
        }

    def _draw_noises(
        self, kind_key: jax.Array, start_key: jax.Array, batch: int
    ) -> jax.Array:
        """Cuts a random stretch of noise for each segment, [B, num_samples]."""
        kinds, length = self._noises.shape
        kind = jax.random.randint(kind_key, (batch,), 0, kinds)
        start = jax.random.randint(start_key, (batch,), 0, length - self.num_samples)
        flat = jnp.asarray(self._noises).reshape(-1)

        def cut(place: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(flat, (place,), (self.num_samples,))

        return jax.vmap(cut)(kind * length + start)


def _select(happens: Any, changed: Any, unchanged: Any) -> Any:
    """Selects by row; on the host, where only what happens is drawn, the change."""
    return changed if happens is True else jnp.where(happens, changed, unchanged)


def _uniform(key: jax.Array, shape: tuple[int, ...], bounds: Any) -> jax.Array:
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])


def _make_rooms(
    rng: np.random.Generator, history: int, size: int, sample_rate: int
) -> np.ndarray:
    """Returns the spectra of rooms' reflections, without the direct sound."""
    rooms = []
    time = np.arange(history) / sample_rate
    for _ in range(_ROOMS):
        # The reverberation time, in which the sound decays by 60 dB.
        fall = np.exp(rng.uniform(np.log(0.1), np.log(0.9)))
        tail = rng.normal(size=history) * 10 ** (-3 * time / fall)
        # Rooms absorb treble: each pass of this average takes some away.
        for _ in range(int(rng.integers(0, 4))):
            tail = 0.5 * (tail + np.concatenate([[0.0], tail[:-1]]))
        tail[: int(rng.uniform(0.002, 0.02) * sample_rate)] = 0.0
        for _ in range(int(rng.integers(2, 8))):
            delay = int(rng.uniform(0.003, 0.04) * sample_rate)
            tail[delay] += rng.choice([-1, 1]) * rng.uniform(1, 6)
        tail *= np.linspace(1, 0, history) ** 0.5
        tail /= np.sqrt(np.sum(tail**2))
        rooms.append(scipy_fft.rfft(tail.astype(np.float32), size))
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
