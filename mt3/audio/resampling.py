"""Resampling a stream of samples, without seams and to the exact length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` become: nearest whole number, halves up, at least 1.

    Returns:
      0 for no samples.
    """
    if num_samples <= 0:
        return 0
    return max(1, (2 * num_samples * to_rate + from_rate) // (2 * from_rate))


def resample(
    blocks: Iterator[np.ndarray], from_rate: int, to_rate: int
) -> Iterator[np.ndarray]:
    """Resamples a stream with soxr's "HQ".

    Args:
      blocks: float32 [n], n > 0.
      from_rate: their rate, Hz.
      to_rate: the result's, Hz.

    Yields:
      float32 [n], n > 0, together `resampled_length` of what came.
    """
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    taken = given = 0
    last = 0.0
    for block in blocks:
        taken, last = taken + len(block), float(block[-1])
        resampled = stream.resample_chunk(np.ascontiguousarray(block))
        given += len(resampled)
        if len(resampled):
            yield resampled
    tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    missing = resampled_length(taken, from_rate, to_rate) - given - len(tail)
    if missing > 0:
        # A sample or two at a high rate round to nothing at a low one.
        tail = np.append(tail, np.full(missing, last, np.float32))
    elif missing < 0:
        tail = tail[:missing]
    if len(tail):
        yield tail
