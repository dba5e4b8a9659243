"""Headers of audio files: the format, and whether the file is complete.

For three things that libsndfile does not do: naming what a file is when it is no audio,
noticing that a WAV or AIFF file was cut, and reading a WAV whose size is wrong, because
its writer could not, or did not live to, fill it in, or because it wrapped.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import pathlib
import re
import stat
import struct
from typing import BinaryIO

from mt3.audio import formats
from mt3.errors import AudioError

# Programs that write to a pipe cannot go back to fill in the length. They leave 0,
# 0xFFFFFFFF (ffmpeg), or a number just below 2^31 (sox: 0x7FFFF000).
_STREAMING_SIZE = 0x7FFFF000
_HEAD_BYTES = 512
# A 4-byte size that libsndfile takes for "up to the end of the file".
_TO_THE_END = b"\xff\xff\xff\xff"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
# Bytes after the sound that are no chunk: fewer are tags or padding, more are sound.
_LEAST_REST = 1 << 16
# Sizes of packets (CAF): seven bits a byte, all but the last byte with the eighth set.
_PACKET_SIZES = re.compile(rb"(?:[\x80-\xff]{0,4}[\x00-\x7f])*", re.DOTALL)
_CAF_CHUNK = struct.Struct(">4sq")
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
    """The part of a file that holds the sound, in formats that state its size.

    Attributes:
      start: position of the sound in the file.
      promised: bytes, as the header says; None for a stream's header.
      present: bytes from its start to the end of the file.
      patch: where the size stands if it is wrong, and what libsndfile has to read
        there: 0, though sound follows; smaller than what follows, as when a size
        wraps at 4 GiB; or one that libsndfile refuses.
      follower: position of another whole file after it, None without.
    """

    start: int
    promised: int | None
    present: int
    patch: tuple[int, bytes] | None = None
    follower: int | None = None

    @property
    def missing(self) -> int:
        """Bytes that are promised and not there."""
        return max(0, (self.promised or 0) - self.present)


def find_sound_chunk(path: pathlib.Path, start: int = 0) -> SoundChunk | None:
    """Finds the sound in a WAV (RIFF, RIFX, RF64), AIFF, AU, CAF or W64 file.

    Args:
      path: the file.
      start: where the file begins, for one that follows another in the same file.

    Returns:
      None for other formats, and when there is no such chunk.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(12)
        kind = head[:4]
        if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _in_chunks(file, length, b"data", ">" if kind == b"RIFX" else "<")
        if kind == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _in_chunks(file, length, b"SSND", ">")
        if kind in (b".snd", b"dns.") and len(head) == 12:
            sound, size = struct.unpack(">4xII" if kind == b".snd" else "<4xII", head)
            return _of_known_size(sound + start, size, length, 8 + start)
        if kind == b"caff":
            return _in_wide_chunks(file, length, 8, _CAF_CHUNK, b"data")
        if kind == b"riff":
            return _in_wide_chunks(file, length, 40, struct.Struct("<16sq"), _W64_DATA)
    return None


def has_damaged_packet_table(path: pathlib.Path) -> bool:
    """Whether the packet table of a CAF file (ALAC) has sizes that do not end.

    libsndfile reads past those, and prints of them among a program's results.
    """
    with path.open("rb") as file:
        length = path.stat().st_size
        table = _in_wide_chunks(file, length, 8, _CAF_CHUNK, b"pakt")
        if table is None or table.promised is None:
            return False
        file.seek(table.start + 24)
        sizes = file.read(max(min(table.promised, table.present) - 24, 0))
    return not _PACKET_SIZES.fullmatch(sizes)


def _in_chunks(
    file: BinaryIO, length: int, sound: bytes, order: str
) -> SoundChunk | None:
    wide_size = None
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", header)
        position = file.tell()
        if name == b"ds64":
            wide = file.read(16)
            wide_size = struct.unpack("<8xQ", wide)[0] if len(wide) == 16 else None
        if name == sound:
            if size == 0xFFFFFFFF and wide_size:
                return SoundChunk(position, wide_size, length - position)
            chunk = _of_known_size(position, size, length, position - 4)
            return _with_what_follows(file, chunk, size)
        file.seek(position + size + size % 2)
    return None


def _of_known_size(start: int, size: int, length: int, position: int) -> SoundChunk:
    """The chunk with a 4-byte size, which is wrong if much more follows."""
    promised = size if 0 < size < _STREAMING_SIZE else None
    is_short = promised is not None and length - start - promised >= _LEAST_REST
    patch = (position, _TO_THE_END) if is_short else None
    return SoundChunk(start, promised, length - start, patch)


def _with_what_follows(file: BinaryIO, chunk: SoundChunk, size: int) -> SoundChunk:
    """Judges a size by what comes after it: a chunk, another file, or more sound."""
    end = chunk.start + size + size % 2
    file.seek(end)
    follows = file.read(12)
    if follows[:4] in (b"RIFF", b"FORM") and follows[8:12] in (b"WAVE", b"AIFF"):
        return dataclasses.replace(chunk, patch=None, follower=end)
    if _is_chunk(follows[:8]):
        return dataclasses.replace(chunk, patch=None)
    if size == 0 and follows:
        return dataclasses.replace(chunk, patch=(chunk.start - 4, _TO_THE_END))
    return chunk


def _in_wide_chunks(
    file: BinaryIO, length: int, start: int, header: struct.Struct, sound: bytes
) -> SoundChunk | None:
    """Walks chunks with 64-bit sizes; W64 counts the header and fills up to 8 bytes."""
    counted = header.size if sound == _W64_DATA else 0
    position = start
    while position < length:
        file.seek(position)
        data = file.read(header.size)
        if len(data) < header.size:
            return None
        name, size = header.unpack(data)
        size -= counted
        position += header.size
        if name == sound:
            promised, present = size if size > 0 else None, length - position
            patch = None
            if not counted and (promised or present + 1) > present:
                patch = (position - 8, struct.pack(">q", present))
            return SoundChunk(position, promised, present, patch)
        if size < 0:
            return None
        position += size + (-size % 8 if counted else 0)
    return None


def rf64_start(size: int) -> bytes:
    """Returns the start of a WAV file whose sound has more bytes than 4 GiB."""
    start = b"RF64\xff\xff\xff\xffWAVEds64"
    return start + struct.pack("<IQQQI", 28, size + 72, size, 0, 0)


def _is_chunk(start: bytes) -> bool:
    """Whether bytes look like a chunk's four-letter name and size."""
    return len(start) == 8 and start[:4].isascii() and start[:4].strip().isalnum()
