"""The changes of `augmentation`, computed on the accelerator for a whole batch.

Hosts then only cut and add samples. The draws are JAX's, so examples differ from
those of `augmentation.Augmenter`; chances and ranges are the same `AugmentationConfig`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mt3.synthesis import effects
from mt3.synthesis.augmentation import AugmentationConfig, Augmenter
from mt3.synthesis.sampler import HISTORY_SAMPLES

Array = jax.Array

# How deep below its loudest band a frame of a low-rate codec keeps anything, and how
# coarsely, in natural logarithms (35 to 60 dB; 0.4 to 3.5 dB).
_CODEC_DEPTH = (4.0, 7.0)
_CODEC_STEP = (0.05, 0.4)
_CODEC_HOLE = 4.0


class DeviceAugmenter:
    """Changes batches of segments; see `augmentation.Augmenter` for the effects.

    Args:
      num_samples: samples of a segment.
      history: samples before it that come along, for rooms to ring on.
      sample_rate: in Hz.
      config: how often and how strongly.
      seed: of the banks of rooms and noises.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        history: int = HISTORY_SAMPLES,
        sample_rate: int,
        config: AugmentationConfig | None = None,
        seed: int = 0,
    ):
        self.num_samples = num_samples
        self.history = history
        self.sample_rate = sample_rate
        self.config = config or AugmentationConfig()
        host = Augmenter(
            num_samples,
            history=history,
            sample_rate=sample_rate,
            config=self.config,
            seed=seed,
        )
        self._size = host.size
        self._frequencies = np.maximum(host.frequencies, 1.0)
        self._cosines = host.cosines
        self._rooms = host.rooms.astype(np.complex64)
        self._noises = host.noises

    def samples(self, key: Array, audio: Array) -> Array:
        """Changes segments.

        Args:
          key: a random key.
          audio: float32 [B, history + num_samples].

        Returns:
          float32 [B, num_samples], within -1..1.
        """
        config = self.config
        keys = jax.random.split(key, 6)
        audio = self._filter(keys[:2], audio)
        batch = audio.shape[0]

        def uniform(key, low, high):
            return jax.random.uniform(key, (batch, 1), minval=low, maxval=high)

        def happens(key, chance):
            return jax.random.uniform(key, (batch, 1)) < chance

        power = jnp.mean(jnp.square(audio), axis=1, keepdims=True)
        level = 10 ** (uniform(keys[2], *config.level_db) / 20)
        audio = audio * jnp.where(power > 1e-12, level * jax.lax.rsqrt(power), 1.0)
        snr_key, kind_key, start_key, chance_key = jax.random.split(keys[3], 4)
        gain = level * 10 ** (-uniform(snr_key, *config.noise_snr_db) / 20)
        noise = self._noise(kind_key, start_key, batch)
        audio += jnp.where(happens(chance_key, config.noise), gain * noise, 0.0)
        audio = self._squeeze(keys[4], audio, level)
        # Short loud peaks lower the level; to clip them is an effect of its own.
        return audio / jnp.maximum(jnp.max(jnp.abs(audio), axis=1, keepdims=True), 1.0)

    def _squeeze(self, key: Array, audio: Array, level: Array) -> Array:
        """Limits, bends and clips audio of a level; see `effects` for each."""
        config = self.config
        shape = (audio.shape[0], 1)
        keys = jax.random.split(key, 6)
        chances = jax.random.uniform(keys[5], (3, *shape))

        def log_uniform(key, low, high):
            return _log_uniform(key, shape, low, high)

        limited = self._limit(
            audio,
            level * log_uniform(keys[0], 0.5, 2.0),
            log_uniform(keys[1], 2.0, 20.0),
            log_uniform(keys[2], 0.05, 0.8),
        )
        audio = jnp.where(chances[0] < config.limiter, limited, audio)
        drive = log_uniform(keys[3], 0.5, 4.0) / (3 * level)
        bent = jnp.tanh(audio * drive) / drive
        audio = jnp.where(chances[1] < config.compression, bent, audio)
        ceiling = level * log_uniform(keys[4], 1.2, 4.0)
        clipped = jnp.clip(audio, -ceiling, ceiling)
        return jnp.where(chances[2] < config.clipping, clipped, audio)

    def _limit(
        self, audio: Array, threshold: Array, ratio: Array, release: Array
    ) -> Array:
        """The limiter of `effects.limit`, for a batch."""
        block = max(int(effects.LIMITER_BLOCK_SECONDS * self.sample_rate), 1)
        count = -(-self.num_samples // block)
        padded = jnp.pad(
            jnp.abs(audio), ((0, 0), (0, count * block - self.num_samples))
        )
        peaks = jnp.max(padded.reshape(-1, count, block), axis=2)
        fall = np.log(10.0) * block / (release * self.sample_rate)
        slope = fall * jnp.arange(count)[None]
        peaks = jnp.log(jnp.maximum(peaks, 1e-6)) + slope
        meter = jax.lax.cummax(peaks, axis=1) - slope
        over = jnp.maximum(meter - jnp.log(threshold), 0.0)
        gains = jnp.exp(-over * (1.0 - 1.0 / ratio))
        # Gains are those of the blocks' middles, with lines between them.
        place = (np.arange(self.num_samples) + 0.5) / block - 0.5
        place = np.clip(place, 0, count - 1)
        before = np.floor(place).astype(np.int32)
        after = np.minimum(before + 1, count - 1)
        part = (place - before).astype(np.float32)[None]
        return audio * ((1 - part) * gains[:, before] + part * gains[:, after])

    def frames(self, key: Array, frames: Array) -> Array:
        """Imitates what a low-rate codec leaves of a spectrogram.

        Bands far below a frame's loudest are lost, and levels become coarse.

        Args:
          key: a random key.
          frames: natural logarithms, [B, T, D].
        """
        shape = (frames.shape[0], 1, 1)
        keys = jax.random.split(key, 3)
        happens = jax.random.uniform(keys[0], shape) < self.config.codec
        depth = jax.random.uniform(
            keys[1], shape, minval=_CODEC_DEPTH[0], maxval=_CODEC_DEPTH[1]
        )
        step = jax.random.uniform(
            keys[2], shape, minval=_CODEC_STEP[0], maxval=_CODEC_STEP[1]
        )
        coarse = jnp.round(frames / step) * step
        lost = frames < jnp.max(frames, axis=-1, keepdims=True) - depth
        coded = jnp.where(lost, coarse - _CODEC_HOLE, coarse)
        return jnp.where(happens, coded, frames)

    def _filter(self, keys: Array, audio: Array) -> Array:
        """Equaliser, band limits and room, as one product of spectra."""
        config = self.config
        batch = audio.shape[0]
        chances = jax.random.uniform(keys[0], (5, batch, 1))
        draw = jax.random.split(keys[1], 8)
        weights = jax.random.normal(draw[0], (batch, len(self._cosines)))
        weights *= config.equaliser_db * np.log(10) / 20
        weights *= chances[0] < config.equaliser
        response = jnp.exp(weights @ self._cosines)
        frequency = self._frequencies[None]
        shape = (batch, 1)
        cut = _log_uniform(draw[1], shape, 2500, 7500)
        cut = jnp.where(chances[1] < config.low_pass, cut, 1e6)
        response /= 1.0 + (frequency / cut) ** 8
        cut = _log_uniform(draw[2], shape, 60, 250)
        cut = jnp.where(chances[2] < config.high_pass, cut, 1e-3)
        response /= 1.0 + (cut / frequency) ** 4
        delay = _log_uniform(draw[5], shape, 1e-4, 4e-3)
        gain = jax.random.uniform(draw[6], shape, minval=0.2, maxval=0.8)
        gain *= jnp.sign(jax.random.uniform(draw[7], shape) - 0.5)
        gain = jnp.where(chances[4] < config.comb, gain, 0.0)
        response = response * (1.0 + gain * jnp.exp(-2j * np.pi * delay * frequency))
        which = jax.random.randint(draw[3], (batch,), 0, len(self._rooms))
        wet = jax.random.uniform(draw[4], (batch, 1), minval=-26.0, maxval=-5.0)
        wet = jnp.where(chances[3] < config.room, 10 ** (wet / 20), 0.0)
        response = response * (1.0 + wet * jnp.asarray(self._rooms)[which])
        spectrum = jnp.fft.rfft(audio, self._size, axis=1)
        filtered = jnp.fft.irfft(spectrum * response, self._size, axis=1)
        return filtered[:, self.history : self.history + self.num_samples]

    def _noise(self, kind_key: Array, start_key: Array, batch: int) -> Array:
        """Returns a stretch of a bank's noise for each segment."""
        kinds, length = self._noises.shape
        kind = jax.random.randint(kind_key, (batch,), 0, kinds)
        start = jax.random.randint(start_key, (batch,), 0, length - self.num_samples)
        flat = jnp.asarray(self._noises).reshape(-1)

        def cut(place):
            return jax.lax.dynamic_slice(flat, (place,), (self.num_samples,))

        return jax.vmap(cut)(kind * length + start)


def _log_uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    exponent = jax.random.uniform(key, shape, minval=np.log(low), maxval=np.log(high))
    return jnp.exp(exponent)
