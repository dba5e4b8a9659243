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

Samples that are not finite, or beyond 2^31, are an error that names their time. One
sample is audio; none is an error. See `mt3.audio.decoders` for formats and damage.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mt3.audio import headers, opening
from mt3.audio.decoders import ArrayDecoder, AudioInfo, Decoder
from mt3.audio.mono import MonoMix
from mt3.audio.resampling import resample
from mt3.errors import AudioError

# What `open_audio` takes.
Recording = str | os.PathLike[str] | bytes | BinaryIO

DEFAULT_SAMPLE_RATE = 16000
DEFAULT_BLOCK_SECONDS = 10.0
# In memory at once, of all channels: 32 MiB.
_MOST_SAMPLES = 1 << 23
# A mean of 10 s: of music a thousandth at most, of recorders with a fault much more.
_LEAST_OFFSET = 0.01
# Samples of 32 bits whose writer did not scale them are at most this. With much larger
# ones resampling and spectrograms overflow.
_LOUDEST = 2.0**31
# Peaks below this share of full scale are named: 0.5 % costs the default weights no
# note of the examples, 0.1 % a quarter of them.
_QUIET = 5e-3


class AudioSource:
    """Audio, or a part of it, that can be read from the start as often as wanted.

    Args:
      decoder: where the samples come from.
      start: where the part begins, in the decoder's frames.
      end: where it ends; None for the end of the audio.
    """

    def __init__(
        self, decoder: Decoder, start: int = 0, end: int | None = None
    ) -> None:
        self._decoder = decoder
        self._start = start
        self._end = end
        self._notes: list[str] = []

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
        known = self.info.duration
        end = self._end
        if known is not None:
            end = round(known * self.sample_rate)
            end = end if self._end is None else min(end, self._end)
        return None if end is None else max(0, end - self._start) / self.sample_rate

    @property
    def start(self) -> float:
        """Where this part of the audio begins, in seconds; 0 for all of it."""
        return self._start / self.sample_rate

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the audio; complete when `blocks` has ended."""
        return [*self._decoder.warnings, *self._notes]

    def part(self, start: float, end: float | None = None) -> AudioSource:
        """Returns a part of this audio, whose times count from its own start.

        Args:
          start: seconds from the start of this audio.
          end: likewise; None, or a time past the end, for the end of the audio.

        Raises:
          AudioError: times that are not 0 <= start < end, or a start past the end;
            where the header does not say how long the audio is, `blocks` raises it.
        """
        try:
            is_part = 0 <= start < math.inf and (end is None or start < end)
        except TypeError:  # A text, for instance.
            is_part = False
        if not is_part:
            until = "the end" if end is None else repr(end)
            raise AudioError(
                f"{self.name}: reading audio: found a part from {start!r} to {until}, "
                "expected seconds, with 0 <= start < end"
            )
        first = self._start + round(start * self.sample_rate)
        last = self._end
        if end is not None and end < math.inf:
            last = self._start + max(1, round(end * self.sample_rate))
            last = last if self._end is None else min(last, self._end)
        whole = self.duration
        if whole is not None and self.info.is_exact and start >= whole:
            raise self._starts_too_late(start, whole)
        return AudioSource(self._decoder, first, last)

    def _starts_too_late(self, start: float, duration: float) -> AudioError:
        return AudioError(
            f"{self.name}: reading audio: found the end at {duration:.3f} s, expected "
            f"a part that starts before it, not at {start:.3f} s"
        )

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
          AudioError: no samples, samples beyond 2^31 or not finite, or damage further
            on in the file (with its time); or a rate or block length that is not
            positive.
        """
        _check_positive(target_sample_rate, "a target sample rate", "Hz")
        _check_positive(block_seconds, "a block length", "seconds")
        # A damaged header may state a thousand channels.
        most = max(1, _MOST_SAMPLES // self.channels)
        mono = self._mono(max(1, min(most, round(block_seconds * self.sample_rate))))
        if target_sample_rate == self.sample_rate:
            yield from mono
        else:
            yield from resample(mono, self.sample_rate, target_sample_rate)

    def _mono(self, block_frames: int) -> Iterator[np.ndarray]:
        """Yields checked float32 [n] at the source's own rate."""
        done = self._start
        mixer = MonoMix(self.sample_rate, self.note)
        for block in self._decoder.blocks(block_frames, self._start):
            if self._end is not None:
                block = block[: self._end - done]
            # Of all channels: a mix may leave one out. Not a number fails too.
            low, high = block.min(initial=0), block.max(initial=0)
            if not -_LOUDEST <= low <= high <= _LOUDEST:
                self._raise_no_sample(block, done)
            mono = mixer.mix(block, done)
            done += len(mono)
            yield mono
            if done == self._end:
                break
        if done == self._start:
            expected = (
                f"sound from {self.start:.3f} s on" if self._start else "at least 1"
            )
            raise AudioError(
                f"{self.name}: reading audio: found 0 samples, expected {expected}"
            )
        self._judge_level(mixer.peak)

    def _raise_no_sample(self, block: np.ndarray, position: int) -> None:
        bad = int(np.argmin((np.abs(block) <= _LOUDEST).all(axis=1)))
        at = position + bad
        raise AudioError(
            f"{self.name}: reading audio: found {_bad_value(block[bad]):g} at "
            f"{at / self.sample_rate:.4f} s (sample {at}), expected finite samples of "
            f"at most {_LOUDEST:g}; full scale is 1"
        )

    def _judge_level(self, peak: float) -> None:
        if peak == 0:
            self.note("it is digital silence: every sample is 0")
        elif peak < _QUIET:
            self.note(
                f"it is very quiet: its loudest sample is {peak:.2g} of full scale, "
                "and soft notes may be missed"
            )

    def note(self, warning: str) -> None:
        """Adds a warning, once."""
        if warning not in self._notes:
            self._notes.append(warning)


def open_audio(
    source: Recording, *, allow_truncated: bool = False, name: str | None = None
) -> AudioSource:
    """Opens a recording; only its header is read.

    Args:
      source: a path, the bytes of a file, or a binary file object, which is read from
        where it stands to its end. WAV, FLAC, MP3, OGG and what else libsndfile
        reads; anything that ffmpeg reads when that program is on the PATH
        (`mt3.audio.formats`). Bytes, file objects and pipes are copied to a temporary
        file, which goes with the last source of its audio.
      allow_truncated: uses what is there of a file that was cut or is damaged.
      name: what messages call it; by default the path or the file object's name.

    Returns:
      A source of blocks.

    Raises:
      AudioError: missing, a directory, empty, not audio, cut, or a format that
        cannot be read here.
    """
    if isinstance(source, (str, os.PathLike)):
        path = pathlib.Path(source)
        name = name or str(path)
        if not headers.is_pipe(path):
            return AudioSource(
                opening.open_decoder(path, name, allow_truncated=allow_truncated)
            )
        with path.open("rb") as pipe:
            return _open_copy(pipe, name, allow_truncated)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_copy(io.BytesIO(source), name or "bytes", allow_truncated)
    if not hasattr(source, "read"):
        raise AudioError(
            f"reading audio: found {type(source).__name__}, expected a path, bytes or "
            "a binary file object (samples: a NumPy array, for InferenceModel or "
            "from_samples)"
        )
    if name is None:
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else type(source).__name__
    return _open_copy(source, name, allow_truncated)


def _open_copy(stream: BinaryIO, name: str, allow_truncated: bool) -> AudioSource:
    """Opens a copy of what a stream holds, since decoders rewind and seek."""
    suffix = pathlib.Path(name).suffix
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
        path = pathlib.Path(file.name)
        try:
            _copy(stream, file, name)
            file.close()
            decoder = opening.open_decoder(path, name, allow_truncated=allow_truncated)
        except BaseException:
            file.close()
            path.unlink()
            raise
    weakref.finalize(decoder, path.unlink, missing_ok=True)
    return AudioSource(decoder)


def _copy(stream: BinaryIO, copy: BinaryIO, name: str) -> None:
    try:
        shutil.copyfileobj(stream, copy, 1 << 20)
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(f"{name}: reading audio: {reason}") from error
    except TypeError as error:
        raise AudioError(
            f"{name}: reading audio: found text, expected a file opened in binary mode"
        ) from error


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
    path: Recording,
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
    audio: Recording | np.ndarray | AudioSource,
    *,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    segment_samples: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts audio into consecutive segments, holding about one at a time.

    Args:
      audio: as for `open_audio`, a source, or an array that already has the rate
        `sample_rate` (`from_samples` for one of another rate).
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
    elif isinstance(audio, np.ndarray):
        source = from_samples(audio, sample_rate)
    else:
        source = open_audio(audio)
    start, held = 0, np.zeros(0, np.float32)
    for block in _without_offset(source, sample_rate):
        held = np.concatenate([held, block]) if len(held) else block
        whole = len(held) // segment_samples * segment_samples
        for offset in range(0, whole, segment_samples):
            # A copy: a view would keep the whole block alive.
            yield start + offset, held[offset : offset + segment_samples].copy()
        start, held = start + whole, held[whole:]
    if len(held):
        yield start, held.copy()


def _without_offset(source: AudioSource, sample_rate: int) -> Iterator[np.ndarray]:
    """Yields blocks less their constant offset, if they have one.

    The offset is the mean of the first block with sound, a number for the whole
    recording, so that there are no seams. Ordinary recordings stay as they are. With
    an offset, the jump where the sound starts is heard as a drum.
    """
    offset = None
    for block in source.blocks(sample_rate):
        first = 0
        if offset is None and block.any():
            first = int(np.argmax(block != 0))
            sound = block[first:]
            if len(sound) >= sample_rate:
                offset = float(sound.mean(dtype=np.float64))
                if abs(offset) < _LEAST_OFFSET:
                    offset = 0.0
                else:
                    source.note(f"a constant offset of {offset:.3f} was subtracted")
        if offset:
            block = block.copy()
            block[first:] -= np.float32(offset)
        yield block


def _bad_value(frame: np.ndarray) -> float:
    """The first of a frame's channels that is no sample."""
    return float(frame[~(np.abs(frame) <= _LOUDEST)][0])


def _check_positive(value: float, what: str, unit: str) -> None:
    # Not `<= 0`: NaN is wrong too.
    if not value > 0:
        raise AudioError(
            f"reading audio: found {what} of {value} {unit}, expected more than 0"
        )
