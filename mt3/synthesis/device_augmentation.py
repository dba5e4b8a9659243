"""The changes of `augmentation`, computed on the accelerator for a whole batch.

Hosts then only cut and add samples. The draws are JAX's, so examples differ from
those of `augmentation.Augmenter`; chances and ranges are the same `AugmentationConfig`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

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
        keys = jax.random.split(key, 7)
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
        low, high = np.log(0.5), np.log(4.0)
        drive = jnp.exp(uniform(keys[4], low, high)) / (3 * level)
        squeezed = jnp.tanh(audio * drive) / drive
        audio = jnp.where(happens(keys[5], config.compression), squeezed, audio)
        return jnp.clip(audio, -1.0, 1.0)

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
        chances = jax.random.uniform(keys[0], (4, batch, 1))
        draw = jax.random.split(keys[1], 6)
        weights = jax.random.normal(draw[0], (batch, len(self._cosines)))
        weights *= config.equaliser_db * np.log(10) / 20
        weights *= chances[0] < config.equaliser
        response = jnp.exp(weights @ self._cosines)
        frequency = self._frequencies[None]

        def log_uniform(key, low, high):
            exponent = jax.random.uniform(
                key, (batch, 1), minval=np.log(low), maxval=np.log(high)
            )
            return jnp.exp(exponent)

        cut = jnp.where(
            chances[1] < config.low_pass, log_uniform(draw[1], 2500, 7500), 1e6
        )
        response /= 1.0 + (frequency / cut) ** 8
        cut = jnp.where(
            chances[2] < config.high_pass, log_uniform(draw[2], 60, 250), 1e-3
        )
        response /= 1.0 + (cut / frequency) ** 4
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
