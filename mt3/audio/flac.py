"""FLAC: the frames after damage, and recordings that were joined.

libFLAC names the frame in which it finds damage, and libsndfile reads no further. The
header of each frame has its place in time and a checksum, so the next whole frame can
be found, and read with the file's own header before it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Generator

from mt3.audio.mpeg import after_tags
from mt3.audio.pieces import Piece, Shortage, Window

# The marker, and the STREAMINFO block that always comes first, with its size.
_SIGNATURE = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FRAME = re.compile(rb"\xff[\xf8\xf9]")
_INFO_BYTES = 34
_LONGEST_HEADER = 16
# Frames are shorter: libFLAC's largest have 65,535 samples, nearly all 4,608 or fewer.
_TAIL = 1 << 18
# After damage, what looks like a frame but begins this much later is none.
_LONGEST_GAP_SECONDS = 3600


def _crc_table() -> bytes:
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 7 if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return bytes(table)


_CRC = _crc_table()


@dataclasses.dataclass(frozen=True)
class _Info:
    """What STREAMINFO says.

    Attributes:
      position: of the signature in the file.
      block: its 34 bytes.
    """

    position: int
    block: bytes

    @property
    def block_size(self) -> int:
        """Samples in a frame, where that is always the same."""
        return struct.unpack(">H", self.block[2:4])[0]

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int.from_bytes(self.block[10:13], "big") >> 4

    @property
    def total(self) -> int:
        """Samples of one channel; 0 when the header does not say."""
        return int.from_bytes(self.block[13:18], "big") & 0xFFFFFFFFF

    def with_total(self, total: int) -> bytes:
        """Returns the start of a file with another length."""
        packed = int.from_bytes(self.block[13:18], "big") & ~0xFFFFFFFFF
        length = (packed | total).to_bytes(5, "big")
        block = self.block[:13] + length + self.block[18:]
        return b"fLaC\x80\x00\x00\x22" + block


def pieces(window: Window, start: int = 0) -> Generator[Piece | Shortage, int, None]:
    """Divides a file at damage, which its decoder finds.

    Yields:
      Pieces; after each, `send` takes the frames of the recording up to which it was
      read. Also what is missing at the end.
    """
    info = _find_info(window, after_tags(window, start))
    if info is None:
        yield Piece([(start, window.end)], begins=True)
    while info is not None:
        following = _find_info(window, info.position + 8)
        end = following.position if following else window.end
        yield from _recording(window, info, end)
        info = following


def _recording(
    window: Window, info: _Info, end: int
) -> Generator[Piece | Shortage, int, None]:
    total = info.total
    position = info.position
    piece: Piece | None = Piece([(position, end)], begins=True)
    while piece is not None:
        done = yield piece
        if total and done >= total:
            if not _goes_on(window, info, end):
                return
            # The header is wrong. The frame in which it ends the sound is read again.
            done, total = total - info.block_size, 0
        latest = done + _LONGEST_GAP_SECONDS * info.sample_rate
        found = _find_frame(window, position, end, info, done, latest)
        piece = None
        if found:
            position, sample = found
            left = total - sample if total > sample else 0
            piece = Piece([info.with_total(left), (position, end)], sample)
            position += 1
    if total > done:
        yield Shortage(f"the header promises {total} frames", total - done)


def _goes_on(window: Window, info: _Info, end: int) -> bool:
    """Whether there are frames after those that the header promises."""
    tail = max(info.position, end - _TAIL)
    return _find_frame(window, tail, end, info, info.total - 1) is not None


def _find_info(window: Window, position: int) -> _Info | None:
    while position < window.end:
        data = window.chunk(position)
        match = _SIGNATURE.search(data)
        if match:
            start = position + match.start()
            block = window.read(start + 8, _INFO_BYTES)
            return _Info(start, block) if len(block) == _INFO_BYTES else None
        # The signature may lie across the edge.
        position += max(1, len(data) - 7)
    return None


def _find_frame(
    window: Window,
    position: int,
    end: int,
    info: _Info,
    done: int,
    latest: float = math.inf,
) -> tuple[int, int] | None:
    """Returns position and sample of the first frame that begins between samples."""
    while position < end:
        data = window.chunk(position)[: end - position]
        for match in _FRAME.finditer(data):
            start = position + match.start()
            sample = _read_sample(window.read(start, _LONGEST_HEADER), info)
            if sample is not None and done < sample < latest:
                return start, sample
        position += max(1, len(data) - 1)
    return None


def _read_sample(head: bytes, info: _Info) -> int | None:
    """Returns the first sample of the frame with this header; None if it is none."""
    if len(head) < 6 or not head[2] >> 4 or head[2] & 15 == 15 or head[3] >> 4 > 10:
        return None
    # The number is coded as UTF-8 codes characters, up to seven bytes long.
    first, size = head[4], 1
    while size < 8 and first << size & 0x80 and first & 0x80:
        size += 1
    size = 1 if first < 0x80 else size
    if size > 7 or 0x80 <= first < 0xC0:
        return None
    number = first if size == 1 else first & (0x7F >> size)
    for byte in head[5 : 4 + size]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    size += 4 + {6: 1, 7: 2}.get(head[2] >> 4, 0)
    size += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    checksum = 0
    for byte in head[: size + 1]:
        checksum = _CRC[checksum ^ byte]
    if len(head) <= size or checksum:
        return None
    return number if head[1] & 1 else number * info.block_size
