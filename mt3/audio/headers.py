"""Headers of audio files: the format, and whether the file is complete.

Used by `mt3.audio.decoders` before and after libsndfile has had its look, for three
things that libsndfile does not do: naming what a file is when it is no audio, noticing
that a WAV or AIFF file was cut, and reading a WAV whose writer could not, or did not
live to, fill in the length.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import os
import pathlib
import stat
import struct

from mt3.audio import formats
from mt3.errors import AudioError

# Programs that write to a pipe cannot go back to fill in the length. They leave 0,
# 0xFFFFFFFF (ffmpeg), or a number just below 2^31 (sox: 0x7FFFF000).
_STREAMING_SIZE = 0x7FFFF000
_HEAD_BYTES = 512
_CONTROL_BYTES = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")


def audio_error(name: str | os.PathLike, found: str, expected: str) -> AudioError:
    """Returns the error for a file, in the one form that all of them have."""
    return AudioError(f"{name}: reading audio: {found}; {expected}")


def is_pipe(path: pathlib.Path) -> bool:
    """Whether a path names a pipe, which can be read once.

    Raises:
      AudioError: missing, a directory, a device, or it may not be looked at.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        found = "no such file" if missing else str(error.strerror)
        raise audio_error(path, found, "expected an audio file") from error
    except ValueError as error:
        raise audio_error(path, str(error), "expected a path") from error
    if stat.S_ISDIR(mode):
        raise audio_error(path, "found a directory", "expected an audio file")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise audio_error(path, "found a device", "expected a file or a pipe")
    return stat.S_ISFIFO(mode)


def read_head(path: pathlib.Path, name: str) -> bytes:
    """Returns the first bytes of a file, at least one.

    Raises:
      AudioError: unreadable or empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise audio_error(
            name, f"{error.strerror}", "expected a readable file"
        ) from error
    if not head:
        raise audio_error(
            name, "the file is empty (0 bytes)", f"expected {formats.SUPPORTED}"
        )
    return head


def what_it_is(path: pathlib.Path, head: bytes) -> str | None:
    """Names what is certainly no audio; None when it may be."""
    if head.startswith(b"MThd"):
        return "a MIDI file (notes, no sound)"
    if path.suffix.lower() == ".raw":
        return "samples without a header"
    if head.startswith((b"#!", b"#EXTM3U")) or head.lstrip()[:1] == b"<":
        return "a text file (a script, a playlist or a web page)"
    if len(head) < 4 or _CONTROL_BYTES & set(head):
        return None
    try:
        # Incremental, since the last character may be cut in the middle.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return "text, not audio"


@dataclasses.dataclass(frozen=True)
class SoundChunk:
    """The part of a WAV or AIFF file that holds the sound.

    Attributes:
      size_position: where in the file its 4-byte size stands.
      promised: bytes, as the header says; None for a stream's header.
      present: bytes from its start to the end of the file.
      unwritten: the size is 0, yet bytes follow that are no further chunk.
    """

    size_position: int
    promised: int | None
    present: int
    unwritten: bool = False

    @property
    def missing(self) -> int:
        """Bytes that are promised and not there."""
        return max(0, (self.promised or 0) - self.present)


def find_sound_chunk(path: pathlib.Path, head: bytes) -> SoundChunk | None:
    """Walks the chunks of a WAV (RIFF, RIFX, RF64) or AIFF file to the sound.

    Returns:
      None for other formats, and when there is no such chunk.
    """
    kind = head[:4]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        sound, order = b"data", ">" if kind == b"RIFX" else "<"
    elif kind == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        sound, order = b"SSND", ">"
    else:
        return None
    length = path.stat().st_size
    wide_size = None
    position = 12
    with path.open("rb") as file:
        while position + 8 <= length:
            file.seek(position)
            name, size = struct.unpack(f"{order}4sI", file.read(8))
            position += 8
            if name == b"ds64" and position + 16 <= length:
                wide_size = struct.unpack("<8xQ", file.read(16))[0]
            if name == sound:
                present = length - position
                if size == 0xFFFFFFFF and wide_size:
                    return SoundChunk(position - 4, wide_size, present)
                promised = size if 0 < size < _STREAMING_SIZE else None
                follows = file.read(8)
                unwritten = size == 0 and present > 0 and not _is_chunk(follows)
                return SoundChunk(position - 4, promised, present, unwritten)
            position += size + size % 2
    return None


def _is_chunk(start: bytes) -> bool:
    """Whether bytes look like a chunk's four-letter name and size."""
    return len(start) == 8 and start[:4].isascii() and start[:4].strip().isalnum()


class UnknownLengthFile(io.FileIO):
    """A file that reads as if four of its bytes were 0xFF.

    libsndfile takes a WAV whose size field is 0 as empty, and one whose size field is
    0xFFFFFFFF as "up to the end of the file", which is what a recorder that was
    stopped, or wrote to a pipe, leaves.

    Args:
      path: the file, which is not changed.
      size_position: where the size field stands.
    """

    def __init__(self, path: str | os.PathLike[str], size_position: int) -> None:
        super().__init__(path, "rb")
        self._size_position = size_position

    def readinto(self, buffer) -> int:
        """Reads into a writable buffer; returns how many bytes were read."""
        start = self.tell()
        count = super().readinto(buffer) or 0
        view = memoryview(buffer).cast("B")
        first = max(self._size_position - start, 0)
        last = min(self._size_position + 4 - start, count)
        for index in range(first, last):
            view[index] = 0xFF
        return count
