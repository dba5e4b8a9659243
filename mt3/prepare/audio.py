"""Recordings as the records hold them: mono, as floats or as bytes of a WAV file."""

from __future__ import annotations

import io
import os

import numpy as np

from mt3.audio import reading


def read(path: str | os.PathLike[str], sample_rate: int) -> tuple[np.ndarray, int]:
    """Reads a recording.

    Args:
      path: any file that `mt3.audio.reading` reads.
      sample_rate: Hz of the result; 0 for the file's own.

    Returns:
      (float32 [n], its sample rate in Hz).

    Raises:
      AudioError: as `reading.open_audio`.
    """
    source = reading.open_audio(path)
    rate = sample_rate or source.sample_rate
    return np.concatenate(list(source.blocks(rate))), rate


def wav_bytes(samples: np.ndarray, sample_rate: int) -> bytes:
    """Returns float samples [n] as a 16-bit WAV file; what is beyond 1 is clipped."""
    import soundfile

    scaled = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, scaled, sample_rate, subtype="PCM_16", format="WAV")
    return stream.getvalue()
