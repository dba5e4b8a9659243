"""Audio in: any file or array as mono float32 at the model's sample rate.

    source = reading.open_audio("song.mp3")
    for block in source.blocks(16000):        # bounded memory, any length
        ...
    samples = reading.read_audio("song.mp3")  # all of it
    for start, samples in reading.segments("song.mp3", segment_samples=32768):
        ...

Channels are mixed by their mean; resampling is soxr's "HQ" (the quality that
librosa uses by default), as one stream, so neither blocks nor segments leave a seam.
N samples at rate r become exactly `resampled_length(N, r, R)` samples at rate R, the
nearest whole number to N R / r and at least one: nothing drifts over hours.

Samples that are not finite are an error that names their time. One sample is
audio; none is an error. See `mt3.audio.decoders` for formats and damaged files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from mt3.audio.decoders import ArrayDecoder, AudioInfo, Decoder, open_decoder
from mt3.errors import AudioError

DEFAULT_SAMPLE_RATE = 16000
DEFAULT_BLOCK_SECONDS = 10.0


class AudioSource:
    """Audio that can be read from the start as often as wanted.

    Args:
      decoder: where the samples come from.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    @property
    def info(self) -> AudioInfo:
        """Everything the header says."""
        return self._decoder.info

    @property
    def name(self) -> str:
        """The path, or the name given to an array."""
        return self.info.name

    @property
    def sample_rate(self) -> int:
        """Hz, of the source."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """How many the source has; `blocks` mixes them to one."""
        return self.info.channels

    @property
    def duration(self) -> float | None:
        """Seconds, None when the header does not say; an estimate for MP3."""
        return self.info.duration

    def __repr__(self) -> str:
        return f"AudioSource({self.info})"

    def blocks(
        self,
        target_sample_rate: int = DEFAULT_SAMPLE_RATE,
        block_seconds: float = DEFAULT_BLOCK_SECONDS,
    ) -> Iterator[np.ndarray]:
        """Decodes, mixes to mono and resamples, block by block.

        Args:
          target_sample_rate: Hz of the result.
          block_seconds: about how much audio to hold at a time.

        Yields:
          float32 [n], n > 0 and different from block to block. Their lengths add up
          to `resampled_length(N, sample_rate, target_sample_rate)`.

        Raises:
          AudioError: no samples, samples that are not finite, or damage further on in
            the file (with its time); or a rate or block length that is not positive.
        """
        _check_positive(target_sample_rate, "a target sample rate", "Hz")
        _check_positive(block_seconds, "a block length", "seconds")
        mono = self._mono(max(1, round(block_seconds * self.sample_rate)))
        if target_sample_rate == self.sample_rate:
            yield from mono
        else:
            yield from _resample(mono, self.sample_rate, target_sample_rate)

    def _mono(self, block_frames: int) -> Iterator[np.ndarray]:
        """Yields checked float32 [n] at the source's own rate."""
        done = 0
        for block in self._decoder.blocks(block_frames):
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                bad = int(np.argmin(finite))
                at = done + bad
                raise AudioError(
                    f"{self.name}: reading audio: found {_bad_value(block[bad])} at "
                    f"{at / self.sample_rate:.4f} s (sample {at}), "
                    "expected finite samples"
                )
            # float64: a sum of many loud channels must not overflow.
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(1, np.float64)
            mono = mono.astype(np.float32, copy=False)
            done += len(mono)
            yield mono
        if not done:
            raise AudioError(
                f"{self.name}: reading audio: found 0 samples, expected at least 1"
            )


def open_audio(
    path: str | os.PathLike[str], *, allow_truncated: bool = False
) -> AudioSource:
    """Opens an audio file; only its header is read.

    Args:
      path: WAV, FLAC, MP3, OGG and what else libsndfile reads; anything that ffmpeg
        reads when that program is on the PATH.
      allow_truncated: uses what is there of a file that was cut or is damaged.

    Returns:
      A source of blocks.

    Raises:
      AudioError: missing, a directory, empty, not audio, cut, or a format that
        cannot be read here.
    """
    return AudioSource(open_decoder(path, allow_truncated=allow_truncated))


def from_samples(
    samples: np.ndarray, sample_rate: int, *, name: str = "samples"
) -> AudioSource:
    """Wraps an array.

    Args:
      samples: [n] or [n, channels]; floats as they are, integers scaled by their full
        range (int16 by 1/32768).
      sample_rate: Hz.
      name: what to call it in messages.

    Returns:
      A source of blocks.

    Raises:
      AudioError: complex or other types, other shapes, no samples, a bad rate.
    """
    return AudioSource(ArrayDecoder(samples, sample_rate, name))


def read_audio(
    path: str | os.PathLike[str],
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    *,
    allow_truncated: bool = False,
) -> np.ndarray:
    """Reads a whole file into memory.

    Args:
      path: as for `open_audio`.
      sample_rate: Hz of the result.
      allow_truncated: as for `open_audio`.

    Returns:
      float32 [n], mono.

    Raises:
      AudioError: as `open_audio` and `AudioSource.blocks`.
    """
    source = open_audio(path, allow_truncated=allow_truncated)
    return np.concatenate(list(source.blocks(sample_rate)))


def segments(
    audio: str | os.PathLike[str] | np.ndarray | AudioSource,
    *,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    segment_samples: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts audio into consecutive segments, holding about one at a time.

    Args:
      audio: a path, a source, or an array that already has the rate `sample_rate`
        (`from_samples` for one of another rate).
      sample_rate: Hz of the segments.
      segment_samples: samples in a segment.

    Yields:
      (start, samples): where the segment starts, in samples at `sample_rate`, and
      float32 [segment_samples]; the last one may be shorter, never empty.

    Raises:
      AudioError: as `open_audio` and `AudioSource.blocks`; or a segment length that
        is not positive.
    """
    _check_positive(segment_samples, "a segment length", "samples")
    if isinstance(audio, AudioSource):
        source = audio
    elif isinstance(audio, (str, os.PathLike)):
        source = open_audio(audio)
    else:
        source = from_samples(audio, sample_rate)
    start, held = 0, np.zeros(0, np.float32)
    for block in source.blocks(sample_rate):
        held = np.concatenate([held, block]) if len(held) else block
        whole = len(held) // segment_samples * segment_samples
        for offset in range(0, whole, segment_samples):
            # A copy: a view would keep the whole block alive.
            yield start + offset, held[offset : offset + segment_samples].copy()
        start, held = start + whole, held[whole:]
    if len(held):
        yield start, held.copy()


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` become: nearest whole number, halves up, at least 1.

    Returns:
      0 for no samples.
    """
    if num_samples <= 0:
        return 0
    return max(1, (2 * num_samples * to_rate + from_rate) // (2 * from_rate))


def _resample(
    blocks: Iterator[np.ndarray], from_rate: int, to_rate: int
) -> Iterator[np.ndarray]:
    """Resamples a stream of float32 [n] without seams, to the exact length."""
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


def _bad_value(frame: np.ndarray) -> float:
    """The first of a frame's channels that is not finite."""
    return float(frame[~np.isfinite(frame)][0])


def _check_positive(value: float, what: str, unit: str) -> None:
    # Not `<= 0`: NaN is wrong too.
    if not value > 0:
        raise AudioError(
            f"reading audio: found {what} of {value} {unit}, expected more than 0"
        )
