"""Decoding with libsndfile, piece by piece (`pieces`), and writing WAV files."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from mt3.audio import chatter, flac, headers, mpeg, ogg
from mt3.audio.decoders import AudioInfo
from mt3.audio.headers import audio_error
from mt3.audio.pieces import Piece, PieceFile, Range, Shortage, Window
from mt3.audio.resampling import resample

# libsndfile's length for "not known".
_UNKNOWN_FRAMES = 0x7FFFFFFFFFFFFFFF
# Formats whose structure is followed. Others are one piece, in which seeking is exact.
_DIVIDED = ("OGG", "FLAC", "MP3")
# At less than the lowest, a small file is weeks of sound that nobody can hear.
_LOWEST_RATE, _HIGHEST_RATE = 1000, 1_000_000
_BUFFER_BYTES = 1 << 16
# What is read at a time: damage is found this exactly where the format is no help.
_STEP_SECONDS = 0.25
# The first frames of an MP3 that was cut out of another lack what they build upon.
_SETTLING_SECONDS = 0.5
# Silence that is put where sound is missing: times in a damaged file may say centuries.
_MOST_SILENCE_SECONDS = 3600
_UNREADABLE = "nothing that is whole is there"
_NOTHING = contextlib.nullcontext(())


def write_wav(
    stream: BinaryIO,
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    *,
    channels: int = 1,
    software: str | None = None,
) -> None:
    """Writes a 16-bit WAV file.

    Args:
      stream: binary file that can seek.
      blocks: float arrays [samples] or [samples, channels] within -1..1.
      sample_rate: Hz.
      channels: of each block.
      software: what the file says that it was written by.

    Raises:
      OSError: as the stream does.
    """
    import soundfile

    guarded = _Guarded(stream)
    try:
        with soundfile.SoundFile(
            guarded, "w", sample_rate, channels, format="WAV", subtype="PCM_16"
        ) as file:
            if software is not None:
                file.software = software
            for block in blocks:
                file.write(block)
                if guarded.error is not None:
                    break
    finally:
        # Rather than what libsndfile makes of it.
        if guarded.error is not None:
            raise guarded.error from None


class _Guarded:
    """A file for libsndfile to write to, which keeps an error for later.

    Raised in a callback of a C library it would be printed, and lost.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._try(self._stream.write, data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._try(self._stream.seek, offset, whence)

    def tell(self) -> int:
        return self._try(self._stream.tell)

    def _try(self, function: Any, *arguments: Any) -> int:
        if self.error is None:
            try:
                return function(*arguments)
            except OSError as error:
                self.error = error
        return 0


class SoundFileDecoder:
    """Decodes with libsndfile.

    Args:
      path: the file.
      name: what messages call it.
      chunk: where its sound lies, if its format says so.
      allow_truncated: puts silence where the file is damaged instead of raising.

    Raises:
      soundfile.LibsndfileError: libsndfile does not know the format.
      AudioError: the header promises more sound than there is.
    """

    def __init__(
        self,
        path: pathlib.Path,
        name: str,
        chunk: headers.SoundChunk | None,
        allow_truncated: bool,
    ) -> None:
        self.path = path
        self.allow_truncated = allow_truncated
        self.warnings: list[str] = []
        self._chunk = chunk
        with self.opened(self._plain_ranges()) as file:
            is_mpeg = file.format == "MP3" or file.subtype.startswith("MPEG")
            known = 0 <= file.frames < _UNKNOWN_FRAMES
            self._promised = file.frames if known else None
            self.info = AudioInfo(
                name=name,
                format="MP3" if is_mpeg else file.format,
                sample_rate=file.samplerate,
                channels=file.channels,
                duration=file.frames / file.samplerate if known else None,
            )
        if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
            raise audio_error(
                name,
                f"found a sample rate of {file.samplerate} Hz",
                f"expected {_LOWEST_RATE} to {_HIGHEST_RATE} Hz",
            )
        if chunk and self.info.format != "MP3":
            self._compare(chunk)

    def _plain_ranges(self) -> list[Range] | None:
        """The whole file as libsndfile reads all of it; None for just as it is."""
        chunk = self._chunk
        if chunk and chunk.patch:
            position, size = chunk.patch
            end = chunk.start + chunk.present
            if chunk.present >= 1 << 32:
                # Beyond what 4 bytes say there is RF64, with the size at its start.
                start = headers.rf64_start(chunk.present)
                return [start, (12, position), size, (position + len(size), end)]
            return [(0, position), size, (position + len(size), end)]
        if chunk and chunk.follower is not None:
            return [(0, chunk.follower)]
        return None

    def _compare(self, chunk: headers.SoundChunk) -> None:
        """Says where the header's size is not what there is."""
        seconds = self.info.duration or 0.0
        if chunk.missing:
            lost = seconds * chunk.missing / max(1, chunk.present)
            self._say(
                f"the file was cut after {seconds:.3f} s, and the {lost:.3f} s from "
                f"there on are missing: its header promises {chunk.promised} bytes of "
                f"sound and {chunk.present} are there"
            )
        elif chunk.patch and chunk.promised is not None:
            self.warnings.append(
                f"the header's size is wrong: it promises {chunk.promised} bytes of "
                f"sound; all {chunk.present} were read, {seconds:.3f} s"
            )

    @contextlib.contextmanager
    def opened(self, ranges: list[Range] | None) -> Iterator[Any]:
        """Opens some ranges of the file; the file itself if None."""
        import soundfile

        if ranges is None:
            # Bytes: soundfile encodes a text as UTF-8, which not every name is.
            source = str(self.path) if os.name == "nt" else os.fsencode(self.path)
        else:
            source = io.BufferedReader(PieceFile(self.path, ranges), _BUFFER_BYTES)
        with contextlib.ExitStack() as stack:
            if ranges is not None:
                stack.enter_context(source)
            with chatter.caught():
                file = soundfile.SoundFile(source)
            yield stack.enter_context(file)

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Decoder.blocks`."""
        timeline = _Timeline(self, block_frames, start)
        with self.path.open("rb") as file:
            pieces = self._pieces(file)
            item = next(pieces, None)
            while item is not None:
                if isinstance(item, Piece):
                    yield from timeline.read(item)
                else:
                    timeline.fall_short(item)
                try:
                    item = pieces.send(timeline.frames)
                except StopIteration:
                    break
        timeline.finish()

    def _pieces(self, file: BinaryIO) -> Generator[Piece | Shortage, int, None]:
        window = Window(file)
        if self.info.format == "OGG":
            return ogg.pieces(window)
        if self.info.format == "FLAC":
            return flac.pieces(window)
        if self.info.format == "MP3":
            return self._mpeg_pieces(file)
        return self._plain_pieces()

    def _mpeg_pieces(self, file: BinaryIO) -> Generator[Piece | Shortage, int, None]:
        chunk = self._chunk
        if chunk is None:
            yield from mpeg.pieces(Window(file))
            return
        size = chunk.promised or chunk.present
        done = yield from mpeg.pieces(Window(file, chunk.start + size), chunk.start)
        if chunk.missing:
            yield Shortage(
                f"the header promises {chunk.promised} bytes of sound and "
                f"{chunk.present} are there",
                round(done * chunk.missing / max(1, chunk.present)),
            )

    def _plain_pieces(self) -> Generator[Piece | Shortage, int, None]:
        done = yield Piece(self._plain_ranges(), begins=True)
        if self._promised is not None and done < self._promised:
            yield Shortage(
                f"the header promises {self._promised} frames", self._promised - done
            )
        chunk = self._chunk
        while chunk and chunk.follower is not None:
            position = chunk.follower
            chunk = headers.find_sound_chunk(self.path, position)
            end = self.path.stat().st_size
            if chunk and chunk.follower is not None:
                end = chunk.follower
            yield Piece([(position, end)], begins=True)

    def _say(self, problem: str) -> None:
        if not self.allow_truncated:
            raise audio_error(
                self.info.name,
                problem,
                "expected it to be whole (--allow-truncated reads what is there)",
            )
        if problem not in self.warnings:
            self.warnings.append(problem)

    def damaged(self, start: float, end: float | None, reason: str) -> None:
        """Raises, or notes, that seconds of the recording cannot be read."""
        if end is None:
            where = f"is damaged or cut after {start:.3f} s"
        else:
            where = f"is damaged or cut from {start:.3f} s to {end:.3f} s"
        self._say(f"the {self.info.format} data {where}: {reason}")

    def note(self, remark: str) -> None:
        """Adds a warning, once."""
        if remark not in self.warnings:
            self.warnings.append(remark)


class _Timeline:
    """Puts pieces where they belong in time, and silence between them.

    Frames are counted at the rate of the first piece. A later recording of another
    rate or other channels is converted.

    Args:
      decoder: whose pieces they are.
      block_frames: of a block at most.
      start: frames that are not wanted.
    """

    def __init__(self, decoder: SoundFileDecoder, block_frames: int, start: int):
        self._decoder, self._info = decoder, decoder.info
        self._block_frames, self._start = block_frames, start
        self._done = self._silence = 0
        # Where the recording that is read began, and how its frames compare.
        self._base, self._scale = 0.0, 1.0
        # Frames of a piece that were read before it.
        self._overlap = 0
        # Why the last piece ended; damage that may yet turn out to be longer.
        self._reason = ""
        self._expected = 0
        self._damage: tuple[int, int, str] | None = None

    @property
    def frames(self) -> int:
        """How far the recording was read, in its own frames."""
        return round((self._done - self._base) / self._scale)

    def read(self, piece: Piece) -> Iterator[np.ndarray]:
        """Yields the silence before a piece, and the piece."""
        import soundfile

        try:
            with self._decoder.opened(piece.ranges) as file:
                silence = self._place(piece, file)
                yield from self._wanted(silence)
                yield from self._wanted(self._samples(file, piece))
        except soundfile.LibsndfileError as error:
            # Only opening raises it here: a piece too small or damaged to begin with.
            self._reason = _reason(error)
            if piece.begins:
                self._base, self._scale = float(self._done), 1.0
            if piece.end is not None:
                rate = piece.end_rate or self._info.sample_rate / self._scale
                seconds = self._base / self._info.sample_rate + piece.end / rate
                self._expected = round(seconds * self._info.sample_rate)

    def fall_short(self, shortage: Shortage) -> None:
        """Reports sound that is missing after what was read."""
        self._settle()
        start, rate = self._done, self._info.sample_rate
        if not shortage.is_certain:
            self._decoder.note(
                f"the recording may have been cut after {start / rate:.3f} s: "
                f"{shortage.reason}"
            )
            return
        end = None
        if shortage.frames is not None:
            end = (start + round(shortage.frames * self._scale)) / rate
        self._decoder.damaged(start / rate, end, shortage.reason)
        self._reason = ""

    def finish(self) -> None:
        """Reports damage at the end of the last piece."""
        self._settle()
        if self._reason:
            missing = max(0, self._expected - self._done)
            self.fall_short(Shortage(self._reason, missing or None))

    def _place(self, piece: Piece, file: Any) -> Iterator[np.ndarray]:
        """Finds where a piece belongs; yields the silence before it."""
        self._scale = self._info.sample_rate / file.samplerate
        counted = piece.start or 0
        if piece.end is not None:
            rate = piece.end_rate or file.samplerate
            counted = piece.end * file.samplerate // rate - file.frames
        if piece.begins:
            self._base = self._done
            if piece.start is not None:
                self._base -= counted * self._scale
        gap = round(self._base + counted * self._scale) - self._done
        if gap > 0:
            self._report(self._done, self._done + gap, self._reason or _UNREADABLE)
            self._settle()
            self._silence += gap
            if self._silence > _MOST_SILENCE_SECONDS * self._info.sample_rate:
                raise audio_error(
                    self._info.name,
                    f"sound is missing for {self._silence / self._info.sample_rate:g} "
                    "s in all",
                    f"expected at most {_MOST_SILENCE_SECONDS} s (is a time in it "
                    "wrong?)",
                )
        self._reason = ""
        for first in range(0, gap, self._block_frames):
            count = min(self._block_frames, gap - first)
            yield np.zeros((count, self._info.channels), np.float32)
        self._overlap = max(0, -gap)

    def _report(self, start: int, end: int, reason: str) -> None:
        """Notes damage; what follows on earlier damage is the same."""
        if self._damage and start <= self._damage[1]:
            start, _, reason = self._damage
        else:
            self._settle()
        self._damage = (start, end, reason)

    def _settle(self) -> None:
        """Raises, or warns of, the damage noted, where it is wanted."""
        if self._damage:
            (start, end, reason), self._damage = self._damage, None
            if end > self._start:
                rate = self._info.sample_rate
                self._decoder.damaged(start / rate, end / rate, reason)

    def _wanted(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Counts blocks and yields what does not lie before the start."""
        for block in blocks:
            again = min(self._overlap, len(block))
            self._overlap -= again
            block = block[again:]
            skipped = max(0, self._start - self._done)
            self._done += len(block)
            if skipped < len(block):
                yield block[skipped:]

    def _samples(self, file: Any, piece: Piece) -> Iterator[np.ndarray]:
        blocks = self._decoded(file, piece)
        if (file.samplerate, file.channels) == (
            self._info.sample_rate,
            self._info.channels,
        ):
            yield from blocks
            return
        mono = (block.mean(1) for block in blocks)
        if file.samplerate != self._info.sample_rate:
            mono = resample(mono, file.samplerate, self._info.sample_rate)
        for block in mono:
            yield np.repeat(block[:, None], self._info.channels, axis=1)

    def _decoded(self, file: Any, piece: Piece) -> Iterator[np.ndarray]:
        """Yields what libsndfile decodes, up to the first damage that ends it."""
        import soundfile

        is_plain = self._info.format not in _DIVIDED and file.seekable()
        if self._start > self._done == 0 and is_plain:
            self._done = file.seek(min(self._start, file.frames))
        # soundfile seeks after every read where it can, to where the file stands
        # already. mpg123 then begins anew: 0.1 s of each block of an MP3 was noise.
        file.seekable = lambda: False
        step = max(1, round(_STEP_SECONDS * file.samplerate))
        is_mpeg = self._info.format == "MP3"
        settled = _SETTLING_SECONDS * file.samplerate
        read = 0
        while not self._reason:
            block = np.empty((self._block_frames, file.channels), np.float32)
            filled = 0
            while filled < len(block):
                out = block[filled : filled + step]
                try:
                    with chatter.caught() if is_mpeg else _NOTHING as lines:
                        count = len(file.read(out=out))
                except soundfile.LibsndfileError as error:
                    # libsndfile stands before what it could not read.
                    count = min(max(0, file.tell() - read), len(out))
                    self._reason = _reason(error)
                position = self._done + filled
                filled, read = filled + count, read + count
                if any("error" in line for line in lines) and read > settled:
                    self._report(position, position + count, lines[-1])
                if count < len(out):
                    break
            if filled == len(block):
                self._settle()
            if filled:
                yield block[:filled]
            if filled < len(block):
                break


def _reason(error: Exception) -> str:
    """What libsndfile says, without the name that it gives the file."""
    return str(error).rpartition(">: ")[2].removeprefix("Error : ").rstrip(".")
