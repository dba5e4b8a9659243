"""Spectrogram settings and the frames of one segment.

Derived constants follow from exact division: 16000 Hz / 128 samples = 125
frames per second, 256 frames = 2.048 s.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mt3 import spectral_ops
from mt3.errors import ConfigError, ShapeError, near_misses


@dataclasses.dataclass(frozen=True)
class SpectrogramConfig:
    """How samples become input frames.

    Attributes:
      sample_rate: samples per second, mono.
      hop_width: samples from one frame to the next.
      num_mel_bins: mel bands of a frame, the depth of the model's input.
      fft_size: samples that one frame looks at.
      lo_hz: lower edge of the lowest band, Hz; with `scale` "pitch" its centre.
      hi_hz: upper edge of the highest band, Hz; with `scale` "pitch" its centre.
      scale: "mel", the original's, or "pitch", equal steps of pitch; see
        `spectral_ops`.
    """

    sample_rate: int = 16000
    hop_width: int = 128
    num_mel_bins: int = 512
    fft_size: int = 2048
    lo_hz: float = 20.0
    hi_hz: float = 7600.0
    scale: str = "mel"

    def __post_init__(self):
        if self.scale not in spectral_ops.BAND_MATRICES:
            raise ConfigError(
                f"spectrogram: unknown scale {self.scale!r}."
                f"{near_misses(self.scale, spectral_ops.BAND_MATRICES)}"
            )
        for name in ("sample_rate", "hop_width", "num_mel_bins", "fft_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"spectrogram: {name} is {getattr(self, name)}; expected >= 1"
                )
        if not 0 <= self.lo_hz < self.hi_hz <= self.sample_rate / 2:
            raise ConfigError(
                f"spectrogram: bands from {self.lo_hz} to {self.hi_hz} Hz do not fit "
                f"below half the sample rate, {self.sample_rate / 2} Hz"
            )

    @property
    def frames_per_second(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_width

    @property
    def abbrev_str(self) -> str:
        """The part of a task's name that tells settings off the default."""
        default = SpectrogramConfig()
        text = ""
        if self.sample_rate != default.sample_rate:
            text += f"sr{self.sample_rate}"
        if self.hop_width != default.hop_width:
            text += f"hw{self.hop_width}"
        if self.num_mel_bins != default.num_mel_bins:
            text += f"mb{self.num_mel_bins}"
        if self.scale != default.scale:
            text += self.scale
        return text


def number_of_frames(num_samples: int, config: SpectrogramConfig) -> int:
    """Returns the frames of a recording, its final padding counted.

    MT3 always pads: a length that is already a multiple of the hop gets one more
    frame, of silence.
    """
    return num_samples // config.hop_width + 1


def split_audio(samples: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Cuts samples into hops, the last one filled up with zeros.

    Args:
      samples: float [n], or int16 [n] at full scale.
      config: hop width.

    Returns:
      [number_of_frames(n), hop_width]: floats of the same type, float32 of int16.

    Raises:
      ShapeError: the samples are not [n].
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ShapeError(f"split_audio: got shape {samples.shape}; expected [samples]")
    frames = number_of_frames(len(samples), config)
    count = frames * config.hop_width
    if samples.dtype not in (np.int16, np.float32):
        padded = np.pad(samples, (0, count - len(samples)))
        return padded.reshape(frames, config.hop_width)
    # Written once: whole songs are tens of megabytes.
    padded = spectral_ops.aligned_empty((count,))
    scale = np.float32(1 / 32768 if samples.dtype == np.int16 else 1)
    np.multiply(samples, scale, out=padded[: len(samples)])
    padded[len(samples) :] = 0
    return padded.reshape(frames, config.hop_width)


def flatten_frames(frames: np.ndarray) -> np.ndarray:
    """Joins hops [frames, hop_width] to samples [frames * hop_width]."""
    return np.reshape(frames, -1)


def compute_spectrogram(samples: Any, config: SpectrogramConfig, xp: Any = np) -> Any:
    """Computes the model's input for one segment (or a batch of segments).

    Each segment is transformed alone: its last frames look into zeros, not into
    the next segment.

    Args:
      samples: float32 [..., n].
      config: settings.
      xp: array module, `numpy` or `jax.numpy`.

    Returns:
      float32 [..., ceil(n / hop_width), num_mel_bins], natural logarithms.
    """
    return spectral_ops.log_mel_spectrogram(
        samples,
        sample_rate=config.sample_rate,
        hop_width=config.hop_width,
        fft_size=config.fft_size,
        num_mel_bins=config.num_mel_bins,
        lo_hz=config.lo_hz,
        hi_hz=config.hi_hz,
        scale=config.scale,
        xp=xp,
    )


def input_depth(spectrogram_config: SpectrogramConfig) -> int:
    """Returns the features of one input frame."""
    return spectrogram_config.num_mel_bins
