"""The bytes of standard MIDI files -> events.

Files that do not keep to the standard are read as far as their notes are certain. What
is passed over does not matter to notes, or is named to whoever asks (`problems`):

* meta events of any kind, length and content, but for tempo changes; a tempo of 0, or
  one that is not three bytes long;
* chunks that are not tracks, and bytes between chunks; a chunk whose length leads to
  where no chunk begins ends where the next track does;
* tracks that the header announces and the file does not have;
* what follows the end of a track and makes no sense;
* system exclusive messages whose length goes past their track: they end with their
  closing byte (F7).

The running status outlives system and meta events, as many programs write it. A data
byte above 127 counts as 127. Times in parts of film frames (SMPTE) ignore the tempo.

A track that ends before its length and without an end-of-track event is cut short:
an error, like everything else that leaves notes in doubt.

What a file may ask for is bounded before it is taken: `MOST_BYTES`, `MOST_EVENTS`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from mt3.errors import MidiError

# An hour of orchestra has some hundred thousand events, in a megabyte.
MOST_BYTES = 32 << 20
MOST_EVENTS = 2_000_000

DEFAULT_TEMPO = 500_000  # microseconds per quarter note
_MOST_TRACKS = 2**16 - 1  # that a header can state
# Kinds of events, which are (tick, kind, track, channel, a, b).
TEMPO, OFF, PROGRAM, PEDAL, ON = range(5)
Event = tuple[int, int, int, int, int, int]

_PEDAL_CONTROL = 64
_PEDAL_DOWN = 64
# Data bytes of the system messages that have any.
_SYSTEM_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}
# Channel messages with one data byte: program, pressure of the channel.
_ONE_BYTE = (0xC0, 0xD0)
# What a tempo change has in the place of a channel message's status.
_TEMPO_STATUS = 0xFF
_END_OF_TRACK = b"\xff\x2f\x00"
# Old Macintoshes put 128 bytes before the file's own, RIFF files at least 20.
_MOST_BYTES_BEFORE = 4096


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of a MIDI file, without a header that is not MIDI's own.

    Raises:
      MidiError: the file cannot be read, is larger than `MOST_BYTES`, or does not
        begin as a MIDI file does.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        # A name with a zero byte is a ValueError.
        reason = getattr(error, "strerror", None) or error
        raise MidiError(f"{path}: cannot read: {reason}") from error
    if len(data) > MOST_BYTES:
        raise MidiError(
            f"{path}: larger than {MOST_BYTES >> 20} MiB; expected a MIDI file"
        )
    if data[:4] != b"MThd":
        start = data.find(b"MThd\0\0\0\6", 0, _MOST_BYTES_BEFORE)
        if start < 0:
            found = f"the first bytes are {data[:4]!r}" if data else "an empty file"
            raise MidiError(f"{path}: not a MIDI file: {found}, expected b'MThd'")
        data = data[start:]
    return data


def read_events(
    path: str | os.PathLike[str], problems: Counter[str] | None = None
) -> tuple[float, list[Event]]:
    """Reads what notes are made of.

    Args:
      path: a type 0 or 1 file, or one of type 2 with a single track.
      problems: counts what was passed over.

    Returns:
      Ticks per beat, and all tracks' events in time order: (tick, kind, track,
      channel, a, b), where a and b are microseconds per beat and 0 (`TEMPO`), pitch
      and velocity (`ON`, `OFF`), program and 0, whether the pedal is down and 0. Beats
      last `DEFAULT_TEMPO` until the first `TEMPO`.

    Raises:
      MidiError: the file cannot be read, is damaged, or has more than `MOST_EVENTS`;
        the message names it.
    """
    data = read_bytes(path)
    try:
        return _parse(data, Counter() if problems is None else problems)
    except ValueError as error:
        raise MidiError(f"{path}: damaged MIDI file: {error}") from error


def plain_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns a MIDI file that a strict reader can read.

    It has the tempo changes and channel messages (notes, controls, programs, bends) of
    the file, and none of what is passed over. Parts of film frames become parts of a
    beat that is a second long.

    Raises:
      MidiError: as `read_events`.
    """
    data = read_bytes(path)
    tracks = []
    try:
        division, fixed_tempo = _clock(data)
        for number, (chunk, whole) in enumerate(_tracks(data)):
            track, last = bytearray(), 0
            if fixed_tempo and not number:
                track += b"\0" + _tempo_change(fixed_tempo)
            for tick, status, a, b in _messages(chunk, number, whole, Counter()):
                if status == _TEMPO_STATUS and fixed_tempo:
                    continue
                track += _variable(tick - last)
                if status == _TEMPO_STATUS:
                    track += _tempo_change(a)
                else:
                    track += bytes((status, a, b)[: 3 - (status & 0xF0 in _ONE_BYTE)])
                last = tick
            track += b"\0" + _END_OF_TRACK
            tracks.append(b"MTrk" + len(track).to_bytes(4, "big") + track)
    except ValueError as error:
        raise MidiError(f"{path}: damaged MIDI file: {error}") from error
    # The number of tracks decides over types 0 and 1.
    head = (6, 4), (min(1, len(tracks) - 1), 2), (len(tracks), 2), (division, 2)
    fields = [number.to_bytes(size, "big") for number, size in head]
    return b"".join([b"MThd", *fields, *tracks])


def _tempo_change(tempo: int) -> bytes:
    return b"\xff\x51\3" + tempo.to_bytes(3, "big")


def _clock(data: bytes) -> tuple[int, int | None]:
    """Returns ticks per beat, and the beat's microseconds where no tempo counts."""
    if len(data) < 14:
        raise ValueError("its header is cut short")
    division, fixed_tempo = int.from_bytes(data[12:14], "big"), None
    if data[12] >= 0x80:
        # Frames per second, of which 29 means 29.97, and ticks per frame.
        frames, fixed_tempo = 256 - data[12], 1_000_000
        if frames == 29:
            frames, fixed_tempo = 30, 1_001_000
        division = frames * data[13]
    if not division:
        raise ValueError("its header gives no ticks per beat")
    return division, fixed_tempo


def _parse(data: bytes, problems: Counter[str]) -> tuple[float, list[Event]]:
    division, fixed_tempo = _clock(data)
    events: list[Event] = []
    tracks = _tracks(data)
    for track, (chunk, whole) in enumerate(tracks):
        for tick, status, a, b in _messages(chunk, track, whole, problems):
            kind, channel = status & 0xF0, status & 0x0F
            if kind == 0x90 and b:
                events.append((tick, ON, track, channel, a, b))
            elif kind in (0x80, 0x90):
                events.append((tick, OFF, track, channel, a, 0))
            elif kind == 0xC0:
                events.append((tick, PROGRAM, track, channel, a, 0))
            elif kind == 0xB0 and a == _PEDAL_CONTROL:
                events.append((tick, PEDAL, track, channel, b >= _PEDAL_DOWN, 0))
            elif status == _TEMPO_STATUS and not fixed_tempo:
                events.append((tick, TEMPO, track, 0, a, 0))
            if len(events) > MOST_EVENTS:
                raise ValueError(
                    f"more than {MOST_EVENTS:,} notes and controls; music has fewer"
                )
    expected = int.from_bytes(data[10:12], "big")
    if len(tracks) < expected:
        problems[f"only {len(tracks)} of {expected} tracks are there"] += 1
    # Within a tick the file's own order stands (a note may begin and end in it, and
    # an old note may end before or after the new one begins); only tempo goes first.
    events.sort(key=lambda event: (event[0], event[1] != TEMPO))
    if fixed_tempo:
        return division * DEFAULT_TEMPO / fixed_tempo, events
    return division, events


def _tracks(data: bytes) -> list[tuple[bytes, bool]]:
    """Returns the content of each track, and whether its length is as stated.

    Raises:
      ValueError: there are none, or they are songs of their own.
    """
    tracks = []
    position = 8 + int.from_bytes(data[4:8], "big")
    if position > len(data) or not _is_chunk_name(data[position : position + 4]):
        position = data.find(b"MTrk", 8)
    while 0 <= position <= len(data) - 8:
        first = position + 8
        end = following = first + int.from_bytes(data[first - 4 : first], "big")
        is_right = end <= len(data)
        if not is_right or not _is_chunk_name(data[end : end + 4]):
            following = data.find(b"MTrk", first)
            last = following if following >= 0 else len(data)
            is_right &= (
                data[end - 3 : end] == _END_OF_TRACK
                or data.find(_END_OF_TRACK, end, last) < 0
            )
            end = end if is_right else last
        if data[position : position + 4] == b"MTrk":
            tracks.append((data[first:end], is_right))
            if len(tracks) > _MOST_TRACKS:
                raise ValueError(f"more than {_MOST_TRACKS:,} tracks")
        position = following
    if not tracks:
        raise ValueError("it has no tracks")
    if len(tracks) > 1 and data[8:10] == b"\0\2":
        raise ValueError("type 2, songs one after the other; expected type 0 or 1")
    return tracks


def _is_chunk_name(name: bytes) -> bool:
    """Whether a chunk may begin with these bytes, or the file ends."""
    return not name or (len(name) == 4 and name.isascii() and min(name) >= 0x20)


def _messages(
    data: bytes, track: int, whole: bool, problems: Counter[str]
) -> Iterator[tuple[int, int, int, int]]:
    """Yields (tick, status, a, b) of channel messages and tempo changes.

    Args:
      data: content of a track.
      track: its number, for messages.
      whole: whether it has the length that it states.
      problems: counts what was passed over.

    Raises:
      ValueError: the track is damaged.
    """
    position, tick, running, size, ended = 0, 0, 0, len(data), False
    try:
        while position < size:
            delta = data[position]
            position += 1
            if delta >= 0x80:
                delta, position = _number(data, position - 1)
            tick += delta
            status = data[position]
            if status < 0xF0:
                if status >= 0x80:
                    running = status
                    position += 1
                elif not running:
                    raise ValueError(f"track {track} has data without a status byte")
                a, b = min(data[position], 127), 0
                position += 1
                if running & 0xF0 not in _ONE_BYTE:
                    b = min(data[position], 127)
                    position += 1
                yield tick, running, a, b
            elif status == 0xFF:
                kind = data[position + 1]
                length, position = _number(data, position + 2)
                if kind == 0x51:
                    tempo = int.from_bytes(data[position : position + 3], "big")
                    if length == 3 and tempo:
                        yield tick, _TEMPO_STATUS, tempo, 0
                    else:
                        problems["a tempo change that gives no tempo is left out"] += 1
                ended = ended or kind == 0x2F
                position += length
            elif status in (0xF0, 0xF7):
                length, position = _number(data, position + 1)
                position += length
                close = data.find(b"\xf7", position - length) if position > size else -1
                if close >= 0:
                    problems["a system exclusive message has a wrong length"] += 1
                    position = close + 1
            else:
                position += 1 + _SYSTEM_BYTES.get(status, 0)
        if position > size or not (whole or ended):
            raise IndexError
    except (IndexError, ValueError) as error:
        if ended:
            problems["something follows the end of a track"] += 1
        elif isinstance(error, IndexError):
            raise ValueError(f"track {track} is cut short") from None
        else:
            raise


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Reads a number of variable length; returns it and the position behind it."""
    number = 0
    while True:
        byte = data[position]
        position += 1
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, position
        if number >= 1 << 21:
            raise ValueError("a time or length has more than four bytes")


def _variable(number: int) -> bytes:
    """Returns a number in MIDI's variable length."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
