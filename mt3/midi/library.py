"""MIDI files -> notes.

Our own reader of Standard MIDI Files, because the labels of the audio that we
render hang on it: tempo changes count on whatever track they stand, the sustain
pedal lengthens notes, every note has a positive length, and notes of one program
and pitch never overlap. It is also several times faster than building the objects
of a general MIDI library.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mt3.errors import DataError, MidiError
from mt3.midi import note_arrays
from mt3.note_sequences import Note

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
DRUM_CHANNEL = 9
DEFAULT_TEMPO = 500_000  # microseconds per quarter note
# A note whose off has the same time as its on was meant to be heard briefly.
SHORTEST_SECONDS = 0.02
# Nobody holds a note this long: the note-off is missing.
LONGEST_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Song:
    """A MIDI file as notes.

    Attributes:
      name: the path it was read from.
      notes: note array sorted by start; tracks keep the file's parts apart, so notes
        of one program may still overlap (`note_arrays.resolve_overlaps`).
      beats_per_minute: the first tempo.
    """

    name: str
    notes: np.ndarray
    beats_per_minute: float = 120.0

    @property
    def seconds(self) -> float:
        """The time of the last note's end."""
        return float(self.notes["end_time"].max(initial=0.0))


def read_midi(path: str | os.PathLike) -> list[Note]:
    """Reads the notes of a MIDI file.

    Returns:
      Notes sorted by start time, without overlaps of one program and pitch.

    Raises:
      MidiError: if the file cannot be read; the message names it.
    """
    return note_arrays.to_notes(note_arrays.resolve_overlaps(read_song(path).notes))


def read_song(path: str | os.PathLike) -> Song:
    """Reads a MIDI file, keeping its parts apart; see `Song`.

    Raises:
      MidiError: if the file cannot be read; the message names it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise MidiError(f"{path}: cannot be opened: {error.strerror}.") from error
    try:
        ticks_per_beat, events = _parse(data)
    except (ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is cut short"
        raise MidiError(f"{path}: is not a readable MIDI file: {reason}.") from error
    return _song(str(path), ticks_per_beat, events)


def find_midi(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Returns the MIDI files in folders (searched to any depth) or named outright.

    Raises:
      DataError: if a folder does not exist or none holds a MIDI file.
    """
    found = set()
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        if folder.is_file():
            found.add(folder)
        elif folder.is_dir():
            found.update(
                p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES
            )
        else:
            raise DataError(f"{folder}: there is no such MIDI file or folder.")
    if not found:
        named = ", ".join(map(str, folders)) or "(none given)"
        raise DataError(
            f"No MIDI files ({', '.join(MIDI_SUFFIXES)}) in the folders: {named}."
        )
    return sorted(found)


# Kinds of events, which are (tick, kind, track, channel, a, b).
_TEMPO, _OFF, _PROGRAM, _PEDAL, _ON = range(5)


def _parse(data: bytes) -> tuple[int, list[tuple]]:
    """Returns the ticks per beat and all tracks' events in time order."""
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[20:]
    if data[:4] != b"MThd":
        raise ValueError("it does not begin with an MThd header")
    division = int.from_bytes(data[12:14], "big")
    if division & 0x8000:
        # Frames per second and ticks per frame: at 120 beats a minute a beat is half
        # a second, so this many ticks make one beat.
        ticks_per_beat = (256 - (division >> 8)) * (division & 0xFF) // 2
    else:
        ticks_per_beat = division
    if ticks_per_beat < 1:
        raise ValueError("its header gives no ticks per beat")
    position = 8 + int.from_bytes(data[4:8], "big")
    events: list[tuple] = []
    track = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "big")
        if data[position : position + 4] == b"MTrk":
            chunk = data[position + 8 : position + 8 + size]
            _parse_track(chunk, track, events)
            track += 1
        position += 8 + size
    if not track:
        raise ValueError("it has no tracks")
    # Within a tick the file's own order stands (a note may begin and end in it, and
    # an old note may end before or after the new one begins); only tempo goes first.
    events.sort(key=lambda event: (event[0], event[1] != _TEMPO))
    return ticks_per_beat, events


def _parse_track(data: bytes, track: int, events: list[tuple]) -> None:
    """Appends (tick, kind, track, channel, a, b) for each event that matters."""
    position, tick, status, size = 0, 0, 0, len(data)
    while position < size:
        delta = 0
        while True:
            byte = data[position]
            position += 1
            delta = delta << 7 | byte & 0x7F
            if byte < 0x80:
                break
        tick += delta
        if data[position] >= 0x80:
            status = data[position]
            position += 1
        elif status < 0x80:
            raise ValueError(f"track {track} has data without a status byte")
        if status >= 0xF0:
            position = _parse_meta(data, position, status, tick, events)
            if position > size:
                raise ValueError(f"track {track} is cut short")
            continue
        kind, channel, a = status & 0xF0, status & 0x0F, data[position]
        if kind in (0xC0, 0xD0):
            position += 1
            if kind == 0xC0:
                events.append((tick, _PROGRAM, track, channel, a & 0x7F, 0))
            continue
        b = data[position + 1]
        position += 2
        if kind == 0x90 and b:
            events.append((tick, _ON, track, channel, a & 0x7F, b & 0x7F))
        elif kind in (0x80, 0x90):
            events.append((tick, _OFF, track, channel, a & 0x7F, 0))
        elif kind == 0xB0 and a == 64:
            events.append((tick, _PEDAL, track, channel, b, 0))


def _parse_meta(
    data: bytes, position: int, status: int, tick: int, events: list[tuple]
) -> int:
    """Reads a meta or system event; returns the position behind it."""
    kind = 0
    if status == 0xFF:
        kind = data[position]
        position += 1
    elif status not in (0xF0, 0xF7):
        return position
    length = 0
    while True:
        byte = data[position]
        position += 1
        length = length << 7 | byte & 0x7F
        if byte < 0x80:
            break
    if status == 0xFF and kind == 0x51 and length == 3:
        tempo = int.from_bytes(data[position : position + 3], "big")
        if tempo:
            events.append((tick, _TEMPO, 0, 0, tempo, 0))
    return position + length


def _song(name: str, ticks_per_beat: int, events: list[tuple]) -> Song:
    reader = _NoteReader()
    seconds, last_tick, tempo = 0.0, 0, DEFAULT_TEMPO
    first_tempo = None
    for tick, kind, track, channel, a, b in events:
        seconds += (tick - last_tick) * tempo / (ticks_per_beat * 1e6)
        last_tick = tick
        if kind == _TEMPO:
            tempo = a
            first_tempo = first_tempo or a
        else:
            reader.handle(seconds, kind, track, channel, a, b)
    reader.close(seconds)
    notes = np.array(reader.rows, note_arrays.PART_DTYPE)
    short = notes["end_time"] - notes["start_time"] < SHORTEST_SECONDS
    notes["end_time"][short] = notes["start_time"][short] + SHORTEST_SECONDS
    notes["end_time"] = np.minimum(
        notes["end_time"], notes["start_time"] + LONGEST_SECONDS
    )
    return Song(name, note_arrays.sort(notes), 60e6 / (first_tempo or DEFAULT_TEMPO))


class _NoteReader:
    """Follows programs, pedals and sounding keys of the channels, making notes."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self._programs: dict[int, int] = defaultdict(int)
        self._pedals: dict[int, bool] = defaultdict(bool)
        self._tracks: dict[tuple, int] = {}
        # Keys held down, and keys released while the pedal holds their sound.
        self._down: dict[tuple, deque] = defaultdict(deque)
        self._held: dict[tuple, list] = defaultdict(list)

    def handle(
        self, seconds: float, kind: int, track: int, channel: int, a: int, b: int
    ) -> None:
        """Takes the next event."""
        if kind == _ON:
            key = (channel, a)
            # A key that the pedal still holds is struck anew.
            for row in self._held.pop(key, ()):
                self._finish(row, seconds)
            self._down[key].append((seconds, a, b, track, self._programs[channel]))
        elif kind == _OFF:
            key = (channel, a)
            if self._down[key]:
                row = self._down[key].popleft()
                if self._pedals[channel] and channel != DRUM_CHANNEL:
                    self._held[key].append((channel, row))
                else:
                    self._finish((channel, row), seconds)
        elif kind == _PROGRAM:
            self._programs[channel] = a
        else:
            self._pedals[channel] = a >= 64
            if a < 64:
                for key in [key for key in self._held if key[0] == channel]:
                    for row in self._held.pop(key):
                        self._finish(row, seconds)

    def close(self, seconds: float) -> None:
        """Ends what still sounds at the end of the file."""
        for rows in self._held.values():
            for row in rows:
                self._finish(row, seconds)
        for (channel, _), rows in self._down.items():
            for row in rows:
                self._finish((channel, row), seconds)

    def _finish(self, held: tuple, end: float) -> None:
        channel, (start, pitch, velocity, track, program) = held
        is_drum = channel == DRUM_CHANNEL
        if is_drum:
            program = 0
        part = (track, channel, program)
        index = self._tracks.setdefault(part, len(self._tracks))
        self.rows.append((start, end, pitch, velocity, program, is_drum, index))
