"""Decoders: one audio file, or one array, as blocks of samples at its own rate.

Three implementations of one small interface (`Decoder`): libsndfile through
`soundfile` (WAV, FLAC, MP3, OGG, AIFF and others), the `ffmpeg` program for what
libsndfile does not know (M4A, AAC, WMA, the sound of a video), and an array in
memory. `mt3.audio.reading` puts mixing down, resampling and segments on top of them.

What a decoder promises:

1.  Every fault is an `AudioError` that names the file, what was found and what was
    expected; faults past the header also say at which second.
2.  A file whose header promises more than it holds is an error (libsndfile reads
    such WAV files without a word), unless `allow_truncated` is set. Headers of
    streams, which hold no length (size 0, or 0xFFFFFFFF and its like), are fine.
    MP3 lengths are estimates, so a shorter MP3 is not an error.
3.  Memory does not grow with the length of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mt3.audio import formats, headers
from mt3.audio.headers import audio_error as _error
from mt3.errors import AudioError

# libsndfile's length for "not known".
_UNKNOWN_FRAMES = 0x7FFFFFFFFFFFFFFF
_AU_HEADER_BYTES = 24


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


def open_decoder(
    path: pathlib.Path, name: str, *, allow_truncated: bool = False
) -> Decoder:
    """Finds out what a file is and returns the decoder for it.

    Args:
      path: an audio file that can be rewound.
      name: what messages call it.
      allow_truncated: reads what is there of a file that was cut or is damaged
        further on, instead of raising.

    Returns:
      A decoder whose `info` is filled in; no samples have been read.

    Raises:
      AudioError: missing, not a file, empty, cut, no audio, or an unknown format.
    """
    head = headers.read_head(path, name)
    chunk = headers.find_sound_chunk(path, head)
    if chunk and chunk.missing and not allow_truncated:
        raise _error(
            name,
            f"the file was cut: its header promises {chunk.promised} bytes of sound "
            f"and {chunk.present} are there",
            "expected all of it (allow_truncated reads what is there)",
        )
    import soundfile

    try:
        return SoundFileDecoder(path, name, chunk, allow_truncated)
    except (soundfile.LibsndfileError, TypeError) as error:
        # TypeError: soundfile wants a sample rate for *.raw.
        reason = str(error).rstrip(".")
    kind = headers.what_it_is(path, head)
    if kind:
        raise _error(name, f"found {kind}", f"expected {formats.SUPPORTED}")
    program = shutil.which("ffmpeg")
    if program is None:
        raise _error(
            name,
            f"libsndfile cannot read it ({reason})",
            f"expected {formats.SUPPORTED}. {formats.FFMPEG_HELP}",
        )
    return FfmpegDecoder(path, name, program, allow_truncated)


class SoundFileDecoder:
    """Decodes with libsndfile.

    Args:
      path: the file.
      name: what messages call it.
      chunk: where its sound lies, when it is a WAV or AIFF file.
      allow_truncated: stops quietly at damage instead of raising.

    Raises:
      soundfile.LibsndfileError: libsndfile does not know the format.
    """

    def __init__(
        self,
        path: pathlib.Path,
        name: str,
        chunk: headers.SoundChunk | None,
        allow_truncated: bool,
    ) -> None:
        self._path = path
        self.warnings: list[str] = []
        self._unwritten = chunk.size_position if chunk and chunk.unwritten else None
        self._allow_truncated = allow_truncated
        with self._opened() as file:
            known = 0 <= file.frames < _UNKNOWN_FRAMES
            self._promised = file.frames if known and file.format != "MP3" else None
            self.info = AudioInfo(
                name=name,
                format=file.format,
                sample_rate=file.samplerate,
                channels=file.channels,
                duration=file.frames / file.samplerate if known else None,
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator:
        import soundfile

        if self._unwritten is None:
            # Bytes: soundfile encodes a text as UTF-8, which not every name is.
            path = str(self._path) if os.name == "nt" else os.fsencode(self._path)
            with soundfile.SoundFile(path) as file:
                yield file
            return
        with (
            headers.UnknownLengthFile(self._path, self._unwritten) as raw,
            soundfile.SoundFile(raw) as file,
        ):
            yield file

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Decoder.blocks`."""
        import soundfile

        done = 0
        with self._opened() as file:
            if start and self._promised is not None:
                done = file.seek(min(start, self._promised))
            # soundfile seeks after every read where it can, to where the file stands
            # already. mpg123 then begins anew: 0.1 s of each block of an MP3 was noise.
            file.seekable = lambda: False
            while True:
                try:
                    block = file.read(block_frames, dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as error:
                    if self._allow_truncated:
                        return
                    raise self._damaged(done, str(error).rstrip(".")) from error
                if not len(block):
                    break
                skipped = max(0, start - done)
                done += len(block)
                if skipped < len(block):
                    yield block[skipped:]
        cut = self._promised is not None and done < self._promised
        if cut and not self._allow_truncated:
            raise self._damaged(done, f"the header promises {self._promised} frames")

    def _damaged(self, done: int, reason: str) -> AudioError:
        seconds = done / self.info.sample_rate
        return _error(
            self.info.name,
            f"the {self.info.format} data is damaged or cut after {seconds:.3f} s "
            f"({done} frames): {reason}",
            "expected it to be whole",
        )


class FfmpegDecoder:
    """Decodes with the ffmpeg program, which writes an AU stream to a pipe.

    AU, since its header is 24 bytes that carry the rate and the channels and need
    no length. ffmpeg may open the file itself and nothing else: a playlist or a
    container cannot make it reach for the network.

    Args:
      path: the file.
      name: what messages call it.
      program: path of ffmpeg.
      allow_truncated: stops quietly at damage instead of raising.

    Raises:
      AudioError: ffmpeg finds no sound in the file.
    """

    def __init__(
        self, path: pathlib.Path, name: str, program: str, allow_truncated: bool
    ) -> None:
        self._path = path
        self.warnings: list[str] = []
        self._program = program
        self._allow_truncated = allow_truncated
        result = subprocess.run(
            self._command("info", "-t", "0.01"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        chatter = result.stderr.decode(errors="replace")
        header = _parse_au_header(result.stdout)
        if header is None and "matches no streams" in chatter:
            raise _error(name, "the file holds no sound", "expected some")
        if header is None:
            raise _error(
                name,
                f"neither libsndfile nor ffmpeg can read it ({_last_line(chatter)})",
                f"expected {formats.SUPPORTED}, or a format that ffmpeg knows",
            )
        sample_rate, channels, _ = header
        self.info = AudioInfo(
            name=name,
            format="ffmpeg",
            sample_rate=sample_rate,
            channels=channels,
            duration=_parse_duration(chatter),
        )

    def _command(self, verbosity: str, *options: str) -> list[str]:
        return [
            *(self._program, "-hide_banner", "-nostdin", "-v", verbosity),
            *("-protocol_whitelist", "file,pipe", "-i", f"file:{self._path}"),
            *("-map", "0:a:0", *options, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
        ]

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Decoder.blocks`."""
        channels, done = self.info.channels, 0
        with self._running() as (process, errors):
            header = _parse_au_header(process.stdout.read(_AU_HEADER_BYTES))
            if header is not None:
                process.stdout.read(header[2] - _AU_HEADER_BYTES)
            while True:
                # A buffered pipe: a short read means the end.
                data = process.stdout.read(block_frames * channels * 4)
                whole = len(data) // (4 * channels)
                if not whole:
                    break
                block = np.frombuffer(data, ">f4", count=whole * channels)
                block = block.astype(np.float32).reshape(whole, channels)
                skipped = max(0, start - done)
                done += whole
                if skipped < whole:
                    yield block[skipped:]
            status = process.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        # A container cut short makes ffmpeg say so and end with status 0.
        broken = status != 0 or "partial file" in said
        if broken and not self._allow_truncated:
            raise _error(
                self.info.name,
                f"ffmpeg stopped after {done / self.info.sample_rate:.3f} s "
                f"({_last_line(said)})",
                "expected it to be whole",
            )

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple]:
        """The decoding process and what it says; ended when the caller stops early."""
        # To a file: a full pipe that nobody reads would stop ffmpeg.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._command("error"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                yield process, errors
            finally:
                process.kill()
                process.stdout.close()
                process.wait()


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
        # `not (...)`, since a rate that is not a number is wrong too.
        if not (0 < sample_rate < 2**31 and sample_rate == int(sample_rate)):
            raise AudioError(
                f"{name}: reading samples: found a sample rate of {sample_rate!r}, "
                "expected a positive whole number of Hz"
            )
        self._samples = samples[:, None] if samples.ndim == 1 else samples
        self.warnings: list[str] = []
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
            yield _to_float32(self._samples[first : first + block_frames])


def _to_float32(samples: np.ndarray) -> np.ndarray:
    """Integers at full scale become -1..1; unsigned ones are centred first."""
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f":
        # A float64 beyond float32 becomes an infinity, which the caller names.
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    half = 2.0 ** (bits - 1)
    offset = half if kind == "u" else 0.0
    return ((samples.astype(np.float64) - offset) / half).astype(np.float32)


def _parse_au_header(data: bytes) -> tuple[int, int, int] | None:
    """Returns (sample rate, channels, offset of the samples) of an AU stream."""
    if len(data) < _AU_HEADER_BYTES or data[:4] != b".snd":
        return None
    header = struct.unpack(">5I", data[4:_AU_HEADER_BYTES])
    offset, _, _, sample_rate, channels = header
    usable = offset >= _AU_HEADER_BYTES and sample_rate and channels
    return (sample_rate, channels, offset) if usable else None


def _parse_duration(chatter: str) -> float | None:
    """Seconds from ffmpeg's "Duration: 00:03:21.45"."""
    match = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", chatter)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _last_line(chatter: str) -> str:
    lines = [line.strip() for line in chatter.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
