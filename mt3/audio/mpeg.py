"""MPEG audio (MP3, MP2): its frames, followed from one to the next.

A frame's header gives its size, so the true length is known without decoding. Where a
header does not follow on a frame there are tags, or damage; the next frame is the first
position after it from which three headers follow on one another.

mpg123, inside libsndfile, takes the number of frames from a "Xing" header, or guesses
it from the size of the first frame, and stops there. So each piece gets a Xing header
that is right. A second Xing header begins another recording: files that were joined.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Generator, Iterator

from mt3.audio.pieces import Piece, Range, Shortage, Window

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# kbit/s by (MPEG 1, layer).
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# What mpg123 adds to the encoder's delay.
_DECODER_DELAY = 529
# Frames by which a Xing header may be wrong: some writers count the header's own.
_TOLERANCE = 2
# A tail of other bytes is damage from this length on; shorter ones are padding.
_TAIL_SECONDS = 0.5
# A stream that was recorded begins with the end of a frame, and no frame is longer.
_LARGEST_START = 4096
_XING_FIELDS = ((1, 4), (2, 4), (4, 100), (8, 4))


@dataclasses.dataclass(frozen=True)
class _Format:
    """What stays the same from frame to frame.

    Attributes:
      second: the second byte of the header, with the bit of the checksum set.
      mono: one channel.
      sample_rate: Hz.
      samples: of one channel in a frame.
      layer: 1, 2 or 3.
      sizes: bytes of a frame by its third byte without the lowest bit; 0 where that
        is no frame of this format.
    """

    second: int
    mono: bool
    sample_rate: int
    samples: int
    layer: int
    sizes: tuple[int, ...]

    @property
    def xing_offset(self) -> int:
        """Where in a frame without a checksum a Xing header begins."""
        if self.second & 0x08:
            return 21 if self.mono else 36
        return 13 if self.mono else 21


@dataclasses.dataclass(frozen=True)
class _Xing:
    """A Xing header.

    Attributes:
      frames: how many follow, None if it does not say.
      count_position: where in the file it says so.
      skipped: samples that decoders leave out at the start.
    """

    frames: int | None
    count_position: int
    skipped: int


def pieces(window: Window, start: int = 0) -> Generator[Piece | Shortage, int, int]:
    """Follows the frames from a position to the window's end.

    Yields:
      Runs of whole frames, in order, and what is missing. Free-format streams, whose
      frames do not tell their size, are one piece.

    Returns:
      The samples that were read of the last recording, as `send` said.
    """
    position = after_tags(window, start)
    found = _find_frame(window, position)
    done = 0
    if found is None:
        done = yield Piece([(start, window.end)], begins=True)
    elif found[0] - position > _LARGEST_START:
        reason = f"the first {found[0] - position} bytes are no MPEG frames"
        yield Shortage(reason, is_certain=False)
    while found is not None:
        song = _Song(window, *found)
        done = yield from song.pieces()
        found = song.follower
    return done


class _Song:
    """One recording: frames of one format up to another's first.

    Attributes:
      follower: the first frame of the next recording, once `pieces` has ended.
    """

    def __init__(self, window: Window, position: int, form: _Format) -> None:
        self._window, self._position, self._form = window, position, form
        self._xing = _read_xing(window, position, form)
        self._frames = self._bytes = self._lost = 0
        self.follower: tuple[int, _Format] | None = None

    def pieces(self) -> Generator[Piece | Shortage, int, int]:
        """Yields the runs of frames, and what is missing at the end."""
        done = 0
        window, form = self._window, self._form
        position, xing, begins = self._position, self._xing, True
        while True:
            end, count = _follow(window, position, form)
            skipped = _DECODER_DELAY
            if xing:
                count, skipped = count - 1, xing.skipped
            if count:
                start = (self._frames + self._lost) * form.samples + skipped
                ranges = self._ranges(position, end, count, xing)
                done = yield Piece(ranges, start, begins=begins)
                begins = False
            self._frames += count
            self._bytes += end - position
            after = after_tags(window, end)
            found = _find_frame(window, after)
            if found is None or found[1] != form or _read_xing(window, *found):
                self.follower = found
                break
            self._lost += self._in_frames(found[0] - after)
            position, xing = found[0], None
        yield from self._shortage(end)
        return done

    def _in_frames(self, size: int) -> int:
        return round(size * self._frames / max(1, self._bytes))

    def _ranges(
        self, start: int, end: int, count: int, xing: _Xing | None
    ) -> list[Range]:
        form = self._form
        if form.layer != 3:
            return [(start, end)]
        # More than there are, else mpg123 cuts off what is padding in the whole.
        frames = struct.pack(">I", count + _TOLERANCE)
        if xing is None:
            return [_xing_frame(form, frames), (start, end)]
        if xing.frames in (None, count):
            return [(start, end)]
        place = xing.count_position
        return [(start, place), frames, (place + 4, end)]

    def _shortage(self, end: int) -> Iterator[Shortage]:
        form = self._form
        promised = self._xing.frames if self._xing else None
        if promised is not None:
            missing = promised - self._frames - self._lost
            if missing > _TOLERANCE:
                yield Shortage(
                    f"the header promises {promised} frames and {self._frames} can be "
                    "read",
                    missing * form.samples,
                )
            return
        stop = self.follower[0] if self.follower else self._window.end
        rest = stop - after_tags(self._window, end)
        missing = self._in_frames(rest) * form.samples
        if missing > _TAIL_SECONDS * form.sample_rate:
            yield Shortage(f"the last {rest} bytes are no MPEG frames", missing)
        elif not self.follower and _read_format(self._window.read(end, 4)) == form:
            yield Shortage("it ends in the middle of a frame", is_certain=False)


def _read_format(header: bytes) -> _Format | None:
    """Reads the four bytes of a frame's header; None if they are none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, bits = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate == 3 or not 0 < bits < 15:
        return None
    return _format(header[1] | 1, header[3] >> 6 == 3, rate)


def _format(second: int, mono: bool, rate: int) -> _Format:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    sample_rate = _RATES[version][rate]
    samples = 384 if layer == 1 else 1152
    if layer == 3 and version != 3:
        samples = 576
    slot = 4 if layer == 1 else 1
    sizes = [0] * 128
    for index, kilobits in enumerate(_BIT_RATES[version == 3, layer], 1):
        size = samples // 8 // slot * kilobits * 1000 // sample_rate
        for padding in (0, 1):
            sizes[index << 3 | rate << 1 | padding] = (size + padding) * slot
    return _Format(second, mono, sample_rate, samples, layer, tuple(sizes))


def _follow(window: Window, position: int, form: _Format) -> tuple[int, int]:
    """Follows frames of a format; returns where they end and how many they are.

    They end before a Xing header, unless it is the first.
    """
    second, mono, sizes = form.second, form.mono, form.sizes
    marker = form.xing_offset
    count = 0
    while True:
        data = window.chunk(position)
        at, length = 0, len(data)
        while at + 4 <= length:
            if data[at] != 0xFF or data[at + 1] | 1 != second:
                return position + at, count
            size = sizes[data[at + 2] >> 1]
            if not size or (data[at + 3] >= 0xC0) != mono:
                return position + at, count
            if at + size > length:
                break
            if count and data[at + marker : at + marker + 4] in (b"Xing", b"Info"):
                return position + at, count
            at += size
            count += 1
        if not at:
            return position, count
        position += at


def _find_frame(window: Window, position: int) -> tuple[int, _Format] | None:
    """Returns the first position from which frames follow on one another."""
    while position < window.end:
        data = window.chunk(position)
        at = data.find(b"\xff")
        while at >= 0:
            form = _read_format(data[at : at + 4])
            if form and _has_followers(window, position + at, form):
                return position + at, form
            at = data.find(b"\xff", at + 1)
        # A header may lie across the edge.
        position += max(1, len(data) - 3)
    return None


def _has_followers(window: Window, position: int, form: _Format) -> bool:
    for _ in range(2):
        position += form.sizes[window.read(position + 2, 1)[0] >> 1]
        if position == window.end:
            return True
        if _read_format(window.read(position, 4)) != form:
            return window.read(position, 3) in (b"TAG", b"ID3", b"APE")
    return True


def after_tags(window: Window, position: int) -> int:
    """Returns the position after tags (ID3, APE), if some begin here."""
    while True:
        head = window.read(position, 32)
        if head[:3] == b"ID3" and len(head) >= 10:
            sizes = [byte & 0x7F for byte in head[6:10]]
            size = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size, _, flags = struct.unpack("<III", head[12:24])
            is_header = flags & 0x20000000
            position += 32 + (size if is_header else 0)
        elif head[:3] == b"TAG":
            position += 128
        else:
            return min(position, window.end)


def _read_xing(window: Window, position: int, form: _Format) -> _Xing | None:
    if form.layer != 3:
        return None
    place = position + form.xing_offset
    head = window.read(place, 156)
    if head[:4] not in (b"Xing", b"Info") or len(head) < 8:
        return None
    flags = struct.unpack(">I", head[4:8])[0]
    offset = 8 + sum(size for flag, size in _XING_FIELDS if flags & flag)
    frames = struct.unpack(">I", head[8:12])[0] if flags & 1 else None
    # LAME and its like name themselves, and say how much they put before the sound.
    encoder, delay = head[offset : offset + 4], head[offset + 21 : offset + 24]
    skipped = 0
    if len(delay) == 3 and encoder.isalnum():
        skipped = (delay[0] << 4 | delay[1] >> 4) + _DECODER_DELAY
    return _Xing(frames, place + 8, skipped)


def _xing_frame(form: _Format, frames: bytes) -> bytes:
    """Returns a frame that is a Xing header with a number of frames."""
    needed = form.xing_offset + 12
    third, size = next(
        (index << 1, size) for index, size in enumerate(form.sizes) if size >= needed
    )
    header = bytes([0xFF, form.second, third, 0xC0 if form.mono else 0x00])
    body = bytes(form.xing_offset - 4) + b"Xing\0\0\0\1" + frames
    return (header + body).ljust(size, b"\0")
