"""Standard MIDI files -> notes.

One parser, and two ways to pair note-ons with note-offs, because labels and scores
depend on the pairing:

* `"every"`: as the readers that the published data sets were made with. A note-off
  ends every note of its channel and pitch in its track that began earlier; a note
  that is never ended is left out. The program of a note is the last one set in its
  own track, else on its channel in any track; drums keep theirs. The pedal acts
  within a track's channel. References are read this way.
* `"first"`: as a synthesizer plays the file. A note-off ends the note of its channel
  and pitch that has sounded longest; a note that is never ended lasts until the end
  of the file, at most `LONGEST_SECONDS`, and no note is shorter than
  `SHORTEST_SECONDS`. Programs and pedals belong to channels; drums have program 0.
  Audio is rendered from notes read this way.

Tempo changes count on whatever track they are.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from mt3.errors import DataError, MidiError
from mt3.midi import note_arrays
from mt3.midi.general_midi import DRUM_CHANNEL
from mt3.note_sequences import Note

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
DEFAULT_TEMPO = 500_000  # microseconds per quarter note
# A note whose off has the same time as its on was meant to be heard briefly.
SHORTEST_SECONDS = 0.02
# Nobody holds a note this long: the note-off is missing.
LONGEST_SECONDS = 60.0

# Kinds of events, which are (tick, kind, track, channel, a, b).
_TEMPO, _OFF, _PROGRAM, _PEDAL, _ON = range(5)
_PEDAL_CONTROL = 64
_PEDAL_DOWN = 64
# Data bytes of the system messages that have any.
_SYSTEM_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}


@dataclasses.dataclass(frozen=True)
class Song:
    """A MIDI file as notes.

    Attributes:
      name: the path it was read from.
      notes: note array sorted by start. Tracks keep the file's parts separate, so
        notes of one program may still overlap (`note_arrays.resolve_overlaps`).
      beats_per_minute: the first tempo.
    """

    name: str
    notes: np.ndarray
    beats_per_minute: float = 120.0

    @property
    def seconds(self) -> float:
        """The time of the last note's end."""
        return float(self.notes["end_time"].max(initial=0.0))


def read_midi(
    path: str | os.PathLike[str],
    *,
    pairing: Literal["every", "first"] = "every",
    apply_sustain: bool = True,
) -> list[Note]:
    """Reads the notes of a MIDI file.

    Args:
      path: a type 0 or 1 file.
      pairing: which notes a note-off ends; see the module. With "first", notes of
        one program and pitch do not overlap.
      apply_sustain: lengthen pitched notes while the sustain pedal is down, at most
        until the same pitch starts again.

    Returns:
      Notes sorted by onset.

    Raises:
      MidiError: the file cannot be read; the message names it.
    """
    ticks_per_beat, events = _load(path)
    if not apply_sustain:
        events = [event for event in events if event[1] != _PEDAL]
    if pairing == "every":
        return _pair_every(events, ticks_per_beat)
    notes = _pair_first(events, ticks_per_beat)
    return note_arrays.to_notes(note_arrays.resolve_overlaps(notes))


def read_song(path: str | os.PathLike[str]) -> Song:
    """Reads a MIDI file to be rendered: pairing "first", parts kept separate.

    Raises:
      MidiError: the file cannot be read; the message names it.
    """
    ticks_per_beat, events = _load(path)
    tempo = next((e[4] for e in events if e[1] == _TEMPO), DEFAULT_TEMPO)
    return Song(str(path), _pair_first(events, ticks_per_beat), 60e6 / tempo)


def find_midi(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Returns the MIDI files in folders (searched to any depth) or named outright.

    Raises:
      DataError: a folder does not exist, or none holds a MIDI file.
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


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of a MIDI file, without the RIFF header that some have.

    Raises:
      MidiError: the file cannot be read, or does not begin as a MIDI file does.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise MidiError(f"{path}: cannot read: {reason}") from error
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[20:]
    if data[:4] != b"MThd":
        found = "an empty file" if not data else f"the first bytes are {data[:4]!r}"
        raise MidiError(f"{path}: not a MIDI file: {found}, expected b'MThd'")
    return data


def _load(path: str | os.PathLike[str]) -> tuple[int, list[tuple]]:
    """Returns the ticks per beat and all tracks' events in time order."""
    data = read_bytes(path)
    try:
        return _parse(data)
    except (ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is cut short"
        raise MidiError(f"{path}: damaged MIDI file: {reason}") from error


def _parse(data: bytes) -> tuple[int, list[tuple]]:
    if int.from_bytes(data[8:10], "big") == 2:
        raise ValueError("type 2, songs one after the other; expected type 0 or 1")
    tracks = int.from_bytes(data[10:12], "big")
    division = int.from_bytes(data[12:14], "big")
    if division & 0x8000:
        # SMPTE: frames per second and ticks per frame. At 120 beats a minute a beat
        # is half a second, so this many ticks make one beat.
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
            if len(chunk) < size:
                raise ValueError(f"track {track} is cut short")
            _parse_track(chunk, track, events)
            track += 1
        position += 8 + size
    if not track:
        raise ValueError("it has no tracks")
    if track < tracks:
        raise ValueError(f"it is cut short: {track} of {tracks} tracks")
    # Within a tick the file's own order stands (a note may begin and end in it, and
    # an old note may end before or after the new one begins); only tempo goes first.
    events.sort(key=lambda event: (event[0], event[1] != _TEMPO))
    return ticks_per_beat, events


def _parse_track(data: bytes, track: int, events: list[tuple]) -> None:
    """Appends (tick, kind, track, channel, a, b) for each event that matters."""
    position, tick, status, size = 0, 0, 0, len(data)
    while position < size:
        delta, position = _number(data, position)
        tick += delta
        if data[position] == 0xFF:
            # A meta event; it leaves the running status alone.
            kind = data[position + 1]
            length, position = _number(data, position + 2)
            if kind == 0x51 and length == 3:
                tempo = int.from_bytes(data[position : position + 3], "big")
                if tempo:
                    events.append((tick, _TEMPO, track, 0, tempo, 0))
            position += length
            continue
        if data[position] >= 0x80:
            status = data[position]
            position += 1
        elif status < 0x80:
            raise ValueError(f"track {track} has data without a status byte")
        if status >= 0xF0:
            if status in (0xF0, 0xF7):
                length, position = _number(data, position)
            else:
                length = _SYSTEM_BYTES.get(status, 0)
            position += length
            continue
        kind, channel, a = status & 0xF0, status & 0x0F, min(data[position], 127)
        position += 1
        if kind in (0xC0, 0xD0):
            if kind == 0xC0:
                events.append((tick, _PROGRAM, track, channel, a, 0))
            continue
        b = min(data[position], 127)
        position += 1
        if kind == 0x90 and b:
            events.append((tick, _ON, track, channel, a, b))
        elif kind in (0x80, 0x90):
            events.append((tick, _OFF, track, channel, a, 0))
        elif kind == 0xB0 and a == _PEDAL_CONTROL:
            events.append((tick, _PEDAL, track, channel, b >= _PEDAL_DOWN, 0))
    if position > size:
        raise ValueError(f"track {track} is cut short")


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Reads a number of variable length; returns it and the position behind it."""
    number = 0
    while True:
        byte = data[position]
        position += 1
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, position


def _pair_every(events: list[tuple], ticks_per_beat: int) -> list[Note]:
    """Pairing "every"; see the module."""
    own_program: dict[tuple[int, int], int] = {}
    channel_program: dict[int, int] = {}
    sounding = defaultdict(list)
    # Rows of (track, channel), [start, end, pitch, velocity, program, is_drum].
    parts, rows, pedals = [], [], []
    # Where the tempo last changed, and to what.
    since_tick, since, tempo = 0, 0.0, DEFAULT_TEMPO
    for tick, kind, track, channel, a, b in events:
        part = track, channel
        time = since + (tick - since_tick) * tempo / (1e6 * ticks_per_beat)
        if kind == _TEMPO and a != tempo:
            since += (tick - since_tick) * tempo / 1e6 / ticks_per_beat
            since_tick, tempo = tick, a
        elif kind == _PROGRAM:
            own_program[part] = channel_program[channel] = a
        elif kind == _PEDAL:
            pedals.append((time, 0 if a else 1, part, None))
        elif kind == _ON:
            program = own_program.get(part, channel_program.get(channel, 0))
            sounding[part, a].append((tick, time, b, program))
        elif kind == _OFF:
            open_notes = sounding.pop((part, a), [])
            for start_tick, start, velocity, program in open_notes:
                if start_tick < tick:
                    parts.append(part)
                    is_drum = channel == DRUM_CHANNEL
                    rows.append([start, time, a, velocity, program, is_drum])
            started_now = [note for note in open_notes if note[0] == tick]
            if started_now and len(started_now) < len(open_notes):
                sounding[part, a] = started_now
    if pedals:
        _hold(parts, rows, pedals)
    return sorted(Note(*row) for row in rows if row[1] > row[0] or row[5])


def _hold(parts: list[tuple], rows: list[list], pedals: list[tuple]) -> None:
    """Lengthens the pitched notes that a pedal holds, in place.

    At equal times: pedal down, pedal up, onsets, offsets. A note that the pedal still
    holds when the music ends lasts until the last event.

    Args:
      parts: (track, channel) of each note.
      rows: the notes, as `_pair_every` makes them.
      pedals: (seconds, 0 for down or 1 for up, part, None).
    """
    events = list(pedals)
    for index, (part, row) in enumerate(zip(parts, rows, strict=True)):
        if not row[5]:
            events.append((row[0], 2, part, index))
            events.append((row[1], 3, part, index))
    events.sort(key=lambda event: event[:2])
    down: dict[tuple, bool] = defaultdict(bool)
    # Notes that sound or are held, per part, by pitch.
    active: dict[tuple, dict[int, int]] = defaultdict(dict)
    time = 0.0
    for time, kind, part, index in events:
        held = active[part]
        if kind == 0:
            down[part] = True
        elif kind == 1:
            down[part] = False
            for other in [i for i in held if rows[i][1] < time]:
                rows[other][1] = time
                del held[other]
        elif kind == 2:
            pitch = rows[index][2]
            if down[part]:
                for other in [i for i, p in held.items() if p == pitch]:
                    rows[other][1] = time
                    del held[other]
            held[index] = pitch
        elif not down[part]:
            held.pop(index, None)
    for held in active.values():
        for index in held:
            rows[index][1] = time


def _pair_first(events: list[tuple], ticks_per_beat: int) -> np.ndarray:
    """Pairing "first"; see the module. Returns an array of `PART_DTYPE`."""
    programs: dict[int, int] = defaultdict(int)
    pedals: dict[int, bool] = defaultdict(bool)
    indices: dict[tuple, int] = {}
    # Keys held down, and keys released while the pedal holds their sound.
    down: dict[tuple, deque] = defaultdict(deque)
    held: dict[tuple, list] = defaultdict(list)
    rows: list[tuple] = []

    def finish(channel: int, notes: Iterable[tuple], end: float) -> None:
        is_drum = channel == DRUM_CHANNEL
        for start, pitch, velocity, track, program in notes:
            program = 0 if is_drum else program
            index = indices.setdefault((track, channel, program), len(indices))
            rows.append((start, end, pitch, velocity, program, is_drum, index))

    # A running sum, with its rounding: the labels of rendered audio have it.
    time, last_tick, tempo = 0.0, 0, DEFAULT_TEMPO
    for tick, kind, track, channel, a, b in events:
        time += (tick - last_tick) * tempo / (ticks_per_beat * 1e6)
        last_tick = tick
        key = channel, a
        if kind == _TEMPO:
            tempo = a
        elif kind == _ON:
            # A key that the pedal still holds is struck anew.
            finish(channel, held.pop(key, ()), time)
            down[key].append((time, a, b, track, programs[channel]))
        elif kind == _OFF and down[key]:
            note = down[key].popleft()
            if pedals[channel] and channel != DRUM_CHANNEL:
                held[key].append(note)
            else:
                finish(channel, [note], time)
        elif kind == _PROGRAM:
            programs[channel] = a
        elif kind == _PEDAL:
            pedals[channel] = a
            if not a:
                for key in [key for key in held if key[0] == channel]:
                    finish(channel, held.pop(key), time)
    for sounding in (held, down):
        for (channel, _), notes in sounding.items():
            finish(channel, notes, time)
    notes = np.array(rows, note_arrays.PART_DTYPE)
    starts = notes["start_time"]
    short = notes["end_time"] - starts < SHORTEST_SECONDS
    notes["end_time"][short] = starts[short] + SHORTEST_SECONDS
    notes["end_time"] = np.minimum(notes["end_time"], starts + LONGEST_SECONDS)
    return note_arrays.sort(notes)
