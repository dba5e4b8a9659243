"""Spectrogram settings and the frames of one segment.

Derived constants follow from exact division: 16000 Hz / 128 samples = 125
frames per second, 256 frames = 2.048 s.

Differences from the original:

1. Functions return arrays of the kind that they get (`spectral_ops`), where the
   original always returned TensorFlow's tensors.
2. `SpectrogramConfig` has further fields, whose defaults are the original's constants,
   and checks them.
3. `split_audio` fills up the last hop, as in the original, whose callers pad the
   samples first. `split_recording` does both for them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mt3 import spectral_ops
from mt3.errors import ConfigError, ShapeError, check_number, near_misses

DEFAULT_SAMPLE_RATE = 16000
DEFAULT_HOP_WIDTH = 128
DEFAULT_NUM_MEL_BINS = 512
FFT_SIZE = 2048
MEL_LO_HZ = 20.0
# Of any setting: what still fits memory.
_MOST_SIZE = 1_000_000


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

    sample_rate: int = DEFAULT_SAMPLE_RATE
    hop_width: int = DEFAULT_HOP_WIDTH
    num_mel_bins: int = DEFAULT_NUM_MEL_BINS
    fft_size: int = FFT_SIZE
    lo_hz: float = MEL_LO_HZ
    hi_hz: float = 7600.0
    scale: str = "mel"

    def __post_init__(self):
        scale = str(self.scale)
        if scale not in spectral_ops.BAND_MATRICES:
            raise ConfigError(
                f"spectrogram: unknown scale {scale!r}."
                f"{near_misses(scale, spectral_ops.BAND_MATRICES)}"
            )
        for name in ("sample_rate", "hop_width", "num_mel_bins", "fft_size"):
            value = getattr(self, name)
            check_number(f"spectrogram: {name}", value, 1, _MOST_SIZE, whole=True)
        for name in ("lo_hz", "hi_hz"):
            check_number(f"spectrogram: {name}", getattr(self, name), 0, _MOST_SIZE)

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


def split_audio(samples: Any, spectrogram_config: SpectrogramConfig) -> Any:
    """Cuts samples into hops, the last one filled up with zeros.

    Args:
      samples: [..., n], of any type.
      spectrogram_config: hop width.

    Returns:
      [..., ceil(n / hop_width), hop_width], of the same type.
    """
    if not hasattr(samples, "shape"):
        samples = np.asarray(samples)
    hop = spectrogram_config.hop_width
    return spectral_ops.frame(samples, hop, hop)


def split_recording(samples: np.ndarray, config: SpectrogramConfig) -> np.ndarray:
    """Cuts a whole recording into hops, with the padding that MT3 gives it.

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
        raise ShapeError(
            f"split_recording: got shape {samples.shape}; expected [samples]"
        )
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


def compute_spectrogram(samples: Any, spectrogram_config: SpectrogramConfig) -> Any:
    """Computes the model's input for one segment (or a batch of segments).

    Each segment is transformed alone: its last frames look into zeros, not into
    the next segment.

    Args:
      samples: [n] or [batch, n], float32 of full scale 1; integers are not scaled.
      spectrogram_config: settings.

    Returns:
      float32 [..., ceil(n / hop_width), num_mel_bins], natural logarithms.
    """
    config = spectrogram_config
    return spectral_ops.compute_logmel(
        samples,
        lo_hz=config.lo_hz,
        hi_hz=config.hi_hz,
        bins=config.num_mel_bins,
        fft_size=config.fft_size,
        # Half a sample more, since the hop is computed back and rounded down.
        overlap=1 - (config.hop_width + 0.5) / config.fft_size,
        sample_rate=config.sample_rate,
        scale=config.scale,
    )


def flatten_frames(frames: Any) -> Any:
    """Joins hops [frames, hop_width] to samples [frames * hop_width]."""
    return spectral_ops.array_module(frames).reshape(frames, -1)


def input_depth(spectrogram_config: SpectrogramConfig) -> int:
    """Returns the features of one input frame."""
    return spectrogram_config.num_mel_bins
