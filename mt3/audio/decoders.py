"""What a decoder is: a recording as blocks of samples at its own rate.

Three implementations of one small interface (`Decoder`): libsndfile (`sndfile`) for
WAV, FLAC, MP3, OGG, AIFF and others; the `ffmpeg` program for what libsndfile does not
know (M4A, AAC, WMA, the sound of a video); and an array in memory. `mt3.audio.reading`
puts mixing down, resampling and segments on top of them.

What a decoder promises:

1.  All sound that a file holds is read, whatever length its header states; or there is
    an error that says from which second to which it cannot be read.
2.  Damage, and a file whose header promises more than it holds, are such errors. With
    `allow_truncated` they are warnings: there is silence where sound is missing, so
    that what follows keeps its time. Headers of streams, which hold no length (size 0,
    or 0xFFFFFFFF and its like), are fine.
3.  Every error is an `AudioError` that names the file, what was found and what was
    expected.
4.  Memory does not grow with the length of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mt3.errors import AudioError


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What an audio file's header says.

    Attributes:
      name: the path, or a name for an array, as it appears in error messages.
      format: "WAV", "FLAC", "MP3", ...; "ffmpeg" when that program decodes it.
      sample_rate: Hz.
      channels: how many.
      duration: seconds, or None when the header does not say. An estimate for MP3.
    """

    name: str
    format: str
    sample_rate: int
    channels: int
    duration: float | None

    @property
    def is_exact(self) -> bool:
        """Whether the duration, if any, is more than an estimate."""
        return self.format not in ("MP3", "OGG", "ffmpeg")


class Decoder(Protocol):
    """One source of samples at its own rate and with its own channels.

    Attributes:
      info: what the header says.
      warnings: what was found that a user should know; grows while blocks are read.
    """

    info: AudioInfo
    warnings: list[str]

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yields float32 [n, channels] with 1 <= n <= block_frames.

        Args:
          block_frames: of a block at most.
          start: frames to leave out at the beginning.
        """
        ...


class ArrayDecoder:
    """An array in memory as a decoder.

    Args:
      samples: float [n] or [n, channels] in -1..1, or integers at full scale.
      sample_rate: Hz.
      name: what to call it in messages.

    Raises:
      AudioError: another shape or type, no samples, or a rate that is not positive.
    """

    def __init__(self, samples: np.ndarray, sample_rate: int, name: str) -> None:
        samples = np.asarray(samples)
        if samples.dtype.kind not in "fiu":
            raise AudioError(
                f"{name}: reading samples: found type {samples.dtype}, expected real "
                "floats or integers"
            )
        if samples.ndim not in (1, 2):
            raise AudioError(
                f"{name}: reading samples: found shape {samples.shape}, expected [n] "
                "or [n, channels]"
            )
        if samples.ndim == 2 and samples.shape[0] <= 16 < samples.shape[1]:
            raise AudioError(
                f"{name}: reading samples: found shape {samples.shape}, which looks "
                "like [channels, n]; expected [n, channels] (transpose it)"
            )
        if samples.size == 0:
            raise AudioError(
                f"{name}: reading samples: found none, expected at least 1"
            )
        try:
            is_rate = 0 < sample_rate < 2**31 and sample_rate == int(sample_rate)
        except TypeError:  # A text, for instance.
            is_rate = False
        if not is_rate:
            raise AudioError(
                f"{name}: reading samples: found a sample rate of {sample_rate!r}, "
                "expected a positive whole number of Hz"
            )
        self._samples = samples[:, None] if samples.ndim == 1 else samples
        self.warnings: list[str] = []
        self._bits = 8 * samples.dtype.itemsize
        if samples.dtype.kind in "iu" and self._bits == 64:
            self._bits = _least_bits(samples)
            self.warnings.append(
                "64-bit integers have no full scale of their own: the values were "
                f"taken for {self._bits}-bit samples"
            )
        self.info = AudioInfo(
            name=name,
            format="array",
            sample_rate=int(sample_rate),
            channels=self._samples.shape[1],
            duration=len(samples) / sample_rate,
        )

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Decoder.blocks`."""
        for first in range(start, len(self._samples), block_frames):
            block = self._samples[first : first + block_frames]
            yield _to_float32(block, self._bits)


def _least_bits(samples: np.ndarray) -> int:
    """Returns the first usual size of samples that holds these."""
    low, high = int(samples.min()), int(samples.max())
    needed = high.bit_length()
    if samples.dtype.kind == "i":
        needed = max(high, -1 - low).bit_length() + 1
    return next(bits for bits in (16, 24, 32, 64) if needed <= bits)


def _to_float32(samples: np.ndarray, bits: int) -> np.ndarray:
    """Integers at full scale become -1..1; unsigned ones are centred first."""
    kind = samples.dtype.kind
    if kind == "f":
        # A float64 beyond float32 becomes an infinity, which the caller names.
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    half = 2.0 ** (bits - 1)
    offset = half if kind == "u" else 0.0
    return ((samples.astype(np.float64) - offset) / half).astype(np.float32)
