"""Pieces of a file: stretches of bytes that a decoder reads as if each were a file.

Decoders stop where a header says that the sound ends, and at the first damage. So the
modules beside this one (`mpeg`, `ogg`, `flac`) follow a file's own structure and divide
it into pieces that are whole, and say where each belongs in time.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import BinaryIO

# Of a file, from the first byte to before the last; or bytes that stand in for some.
Range = tuple[int, int] | bytes
_WINDOW = 1 << 20


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of sound that one decoder reads from its start to its end.

    Attributes:
      ranges: its bytes, in order; None for the whole file.
      start: where its first frame belongs, in frames from the start of the recording
        that it belongs to; None where `end` says it.
      end: where its last frame ends, by the file's own count.
      end_rate: of that count, Hz; None for the sound's own.
      begins: it begins a recording, which follows what came before.
    """

    ranges: Sequence[Range] | None
    start: int | None = 0
    end: int | None = None
    end_rate: int | None = None
    begins: bool = False


@dataclasses.dataclass(frozen=True)
class Shortage:
    """Sound that a file does not hold though it should, after all pieces so far.

    Attributes:
      reason: how that is known.
      frames: how much is missing; None where the file does not say.
      is_certain: False where the recording may be whole all the same.
    """

    reason: str
    frames: int | None = None
    is_certain: bool = True


class Window:
    """Bytes of a file by position, read in large steps.

    Args:
      file: an open file that can seek.
      end: where to stop; the end of the file if that comes first.
    """

    def __init__(self, file: BinaryIO, end: int | None = None) -> None:
        self._file = file
        length = file.seek(0, io.SEEK_END)
        self.end = length if end is None else min(end, length)
        self._start, self._data = 0, b""

    def read(self, position: int, count: int) -> bytes:
        """Returns `count` bytes from a position, fewer at the end."""
        offset = position - self._start
        if not 0 <= offset <= offset + count <= len(self._data):
            self._start, self._data = position, self._load(position, count)
            offset = 0
        return self._data[offset : offset + count]

    def chunk(self, position: int) -> bytes:
        """Returns the bytes from a position on: about a million, fewer at the end."""
        self._start, self._data = position, self._load(position, _WINDOW)
        return self._data

    def _load(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(min(max(count, _WINDOW), max(0, self.end - position)))


class PieceFile(io.RawIOBase):
    """A piece's ranges as one file, to be read through a buffer.

    Args:
      path: the file that has the ranges.
      ranges: what to read, in order.
    """

    def __init__(self, path, ranges: Sequence[Range]) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._ranges = list(ranges)
        self._position = 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Returns the position in the joined ranges."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves within the joined ranges."""
        base = 0
        if whence == io.SEEK_CUR:
            base = self._position
        elif whence == io.SEEK_END:
            base = sum(map(_length, self._ranges))
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        """Reads up to the end of the current range; returns how many bytes."""
        view = memoryview(buffer).cast("B")
        offset = self._position
        for each in self._ranges:
            length = _length(each)
            if offset < length:
                count = min(len(view), length - offset)
                if isinstance(each, bytes):
                    view[:count] = each[offset : offset + count]
                else:
                    self._file.seek(each[0] + offset)
                    count = self._file.readinto(view[:count]) or 0
                self._position += count
                return count
            offset -= length
        return 0


def _length(each: Range) -> int:
    return len(each) if isinstance(each, bytes) else each[1] - each[0]
