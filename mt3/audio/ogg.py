"""Ogg: its pages, each checked, with the time at which it ends.

A page has a checksum, a number and a granule position, which is the time of its end.
libsndfile reads the first of several recordings in a file (a chain, as stations send
them), and where pages are missing it goes on without them, so that all that follows
comes too early. Here each recording is a piece, and so is each run of pages after
damage, with the recording's headers before it.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Generator, Iterator

from mt3.audio.pieces import Piece, Range, Shortage, Window

_FIXED = struct.Struct("<4xBBqIIIB")
_BEGIN, _END = 2, 4
_LARGEST_PAGE = 27 + 255 + 255 * 255
# Of Opus at 48 kHz: 255 packets of 120 ms.
_LONGEST_PAGE = 255 * 5760
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclasses.dataclass(frozen=True)
class _Page:
    """A page whose checksum is right.

    Attributes:
      start: position in the file.
      end: position after it.
      flags: begin and end of a stream, and a packet continued.
      granule: time of its end, -1 when no packet ends on it.
      serial: of its stream.
      number: counted from 0 in its stream.
    """

    start: int
    end: int
    flags: int
    granule: int
    serial: int
    number: int


def pieces(window: Window, start: int = 0) -> Generator[Piece | Shortage, int, None]:
    """Follows the pages from a position to the window's end.

    Yields:
      Runs of whole pages, and what is missing. A file that is no chain of Vorbis or
      Opus streams (a video, say) is one piece.
    """
    pages = _pages(window, start)
    stream, follower = _Stream.read(window, pages, next(pages, None))
    if stream is None:
        yield Piece([(start, window.end)], begins=True)
        return
    while stream is not None:
        end = yield from stream.pieces(follower, pages)
        begin = stream.follower
        yield from _shortage(window, stream, begin)
        stream, follower = _Stream.read(window, pages, begin)
        if stream is None and begin is not None:
            rest = window.end - end
            yield Shortage(f"the last {rest} bytes are a stream of another kind")


def _shortage(
    window: Window, stream: _Stream, follower: _Page | None
) -> Iterator[Shortage]:
    stop = follower.start if follower else window.end
    rest = stop - stream.end
    if rest and (follower or window.read(stream.end, 4) == b"OggS"):
        yield Shortage(f"{rest} bytes at its end are damaged, or a page that was cut")
    elif not stream.has_ended and not follower:
        yield Shortage("it has no end-of-stream page", is_certain=False)


class _Stream:
    """One stream of a chain.

    Attributes:
      end: position after its last whole page.
      has_ended: an end-of-stream page was seen.
      follower: the page that begins the next stream, once `pieces` has ended.
    """

    def __init__(self, headers: list[_Page], pre_skip: int | None) -> None:
        self._serial = headers[0].serial
        self._headers: list[Range] = [(page.start, page.end) for page in headers]
        self._number = headers[-1].number + 1
        self._pre_skip = pre_skip or 0
        # Opus counts at 48 kHz whatever it decodes to.
        self._rate = None if pre_skip is None else 48000
        self.end = headers[-1].end
        self.has_ended = False
        self.follower: _Page | None = None

    @classmethod
    def read(
        cls, window: Window, pages: Iterator[_Page], begin: _Page | None
    ) -> tuple[_Stream | None, _Page | None]:
        """Reads the headers; returns the stream and the first page after them.

        None for the stream when it is not Vorbis or Opus, or not alone.
        """
        if begin is None or not begin.flags & _BEGIN:
            return None, begin
        head = window.read(begin.start, 28 + 19)[28:]
        pre_skip = None
        if head[:8] == b"OpusHead":
            pre_skip = struct.unpack("<H", head[10:12])[0]
        elif head[:7] != b"\x01vorbis":
            return None, begin
        headers, page = [begin], next(pages, None)
        while page and page.granule <= 0 and page.serial == begin.serial:
            if page.number != headers[-1].number + 1:
                break
            headers.append(page)
            page = next(pages, None)
        while len(headers) > 1 and headers[-1].granule < 0:
            headers.pop()
        if page and page.flags & _BEGIN and len(headers) == 1:
            return None, begin
        return cls(headers, pre_skip), page

    def pieces(
        self, page: _Page | None, pages: Iterator[_Page]
    ) -> Iterator[Piece | Shortage]:
        """Yields the runs of pages; returns the position after the last."""
        begins, run, granule = True, None, -1
        while page and not page.flags & _BEGIN:
            if page.serial != self._serial:
                page = next(pages, None)
                continue
            follows = page.number == self._number and page.start == self.end
            if follows and self._is_impossible(page.granule, granule):
                page = next(pages, None)
                continue
            if run is not None and not follows:
                if granule >= 0:
                    yield self._piece(run, granule, begins)
                    begins = False
                run, granule = None, -1
            if run is None:
                run = page.start
                self._starts_whole = follows and begins
            if page.granule >= 0:
                granule = page.granule
            self.end, self._number = page.end, page.number + 1
            self.has_ended = self.has_ended or bool(page.flags & _END)
            page = next(pages, None)
        if run is not None and granule >= 0:
            yield self._piece(run, granule, begins)
        self.follower = page
        return self.end

    def _is_impossible(self, granule: int, last: int) -> bool:
        """Whether an Opus page cannot have this time: libsndfile invents its sound."""
        is_later = 0 <= last < granule - _LONGEST_PAGE
        return self._rate is not None and (granule < -1 or is_later)

    def _piece(self, run: int, granule: int, begins: bool) -> Piece:
        ranges = [*self._headers, (run, self.end)]
        if self._starts_whole:
            return Piece(ranges, 0, granule, self._rate, begins)
        # libsndfile leaves what decoders skip at the start out of the length alone.
        return Piece(ranges, None, granule - self._pre_skip, self._rate, begins)


def _pages(window: Window, position: int) -> Iterator[_Page]:
    """Yields the whole pages of a file; what lies between them is left out."""
    while position < window.end:
        head = window.read(position, 27 + 255)
        page = _read_page(window, position, head)
        if page:
            yield page
            position = page.end
            continue
        # The next place where a page may begin.
        data = window.chunk(position + 1)
        at = data.find(b"OggS")
        position += 1 + (at if at >= 0 else max(1, len(data) - 3))


def _read_page(window: Window, position: int, head: bytes) -> _Page | None:
    if head[:4] != b"OggS" or len(head) < 27:
        return None
    _, flags, granule, serial, number, checksum, count = _FIXED.unpack(head[:27])
    size = 27 + count + sum(head[27 : 27 + count])
    data = window.read(position, size)
    if len(data) < size or _checksum(data) != checksum:
        return None
    return _Page(position, position + size, flags, granule, serial, number)


def _checksum(page: bytes) -> int:
    """Ogg's CRC, which is zlib's with the bits of each byte, and the sum, reversed."""
    data = b"".join([page[:22], bytes(4), page[26:]]).translate(_REVERSED)
    value = zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")
