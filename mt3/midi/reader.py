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

Tempo changes count on whatever track they are. What files may do wrong without losing
their notes is said in `events`. A song that ends after `MOST_SECONDS` is an error.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from mt3 import files
from mt3.errors import DataError, MidiError
from mt3.midi import events, note_arrays
from mt3.midi.events import DEFAULT_TEMPO, OFF, ON, PEDAL, PROGRAM, TEMPO, Event
from mt3.midi.general_midi import DRUM_CHANNEL
from mt3.note_sequences import Note

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi", ".smf")
# A note whose off has the same time as its on was meant to be heard briefly.
SHORTEST_SECONDS = 0.02
# Nobody holds a note this long: the note-off is missing.
LONGEST_SECONDS = 60.0
# Nobody plays this long: the longest operas take six hours, and one wrong time between
# two events makes days or years.
MOST_SECONDS = 24 * 3600.0
_NUM_PARTS = 2**16  # of `note_arrays.PART_DTYPE`


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
    log: Callable[[str], None] | None = None,
) -> list[Note]:
    """Reads the notes of a MIDI file.

    Args:
      path: a type 0 or 1 file.
      pairing: which notes a note-off ends; see the module. With "first", notes of
        one program and pitch do not overlap.
      apply_sustain: lengthen pitched notes while the sustain pedal is down, at most
        until the same pitch starts again.
      log: called with a line about each kind of thing that was passed over, see
        `events`.

    Returns:
      Notes sorted by onset.

    Raises:
      MidiError: the file cannot be read, or is too long; the message names it.
    """
    ticks_per_beat, found = _load(path, log)
    if not apply_sustain:
        found = [event for event in found if event[1] != PEDAL]
    if pairing == "every":
        notes = _pair_every(found, ticks_per_beat)
    else:
        array = _pair_first(found, ticks_per_beat)
        notes = note_arrays.to_notes(note_arrays.resolve_overlaps(array))
    check_length(max((note.end_time for note in notes), default=0.0), str(path))
    return notes


def read_song(
    path: str | os.PathLike[str], *, log: Callable[[str], None] | None = None
) -> Song:
    """Reads a MIDI file to be rendered: pairing "first", parts kept separate.

    Args:
      path: the file.
      log: as for `read_midi`.

    Raises:
      MidiError: as `read_midi`.
    """
    ticks_per_beat, found = _load(path, log)
    tempo = next((e[4] for e in found if e[1] == TEMPO), DEFAULT_TEMPO)
    song = Song(str(path), _pair_first(found, ticks_per_beat), 60e6 / tempo)
    check_length(song.seconds, song.name)
    return song


def find_midi(
    folders: Iterable[str | os.PathLike[str]],
    *,
    log: Callable[[str], None] | None = None,
) -> list[Path]:
    """Returns the MIDI files in folders (searched to any depth) or named outright.

    Args:
      folders: folders and files.
      log: called with a line about each folder that cannot be entered.

    Raises:
      DataError: a folder does not exist, or none holds a MIDI file.
    """
    found: set[Path] = set()
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        if os.path.isdir(folder):
            searched = files.search(folder, MIDI_SUFFIXES)
            found.update(map(Path, searched.files))
            for problem in searched.problems if log is not None else ():
                log(problem)
        elif files.exists(folder, DataError):
            found.add(folder)
        else:
            raise DataError(f"{folder}: there is no such MIDI file or folder.")
    if not found:
        named = ", ".join(map(str, folders)) or "(none given)"
        raise DataError(
            f"No MIDI files ({', '.join(MIDI_SUFFIXES)}) in the folders: {named}."
        )
    return sorted(found)


def check_length(seconds: float, name: str) -> None:
    """Refuses a song that is longer than music is.

    Args:
      seconds: the time of the last note's end.
      name: of the file, for the message.

    Raises:
      MidiError: it ends after `MOST_SECONDS`.
    """
    if not seconds <= MOST_SECONDS:
        raise MidiError(
            f"{name}: the last note ends after {seconds / 3600:,.0f} hours; expected "
            f"at most {MOST_SECONDS / 3600:g}: is one of the times wrong?"
        )


def _load(
    path: str | os.PathLike[str], log: Callable[[str], None] | None
) -> tuple[float, list[Event]]:
    """Returns `events.read_events`, and logs what was passed over."""
    problems: Counter[str] = Counter()
    found = events.read_events(path, problems)
    for problem, count in problems.items() if log is not None else ():
        log(f"{path}: {problem}" + (f" ({count} times)" if count > 1 else ""))
    return found


def _pair_every(found: list[Event], ticks_per_beat: float) -> list[Note]:
    """Pairing "every"; see the module."""
    own_program: dict[tuple[int, int], int] = {}
    channel_program: dict[int, int] = {}
    sounding = defaultdict(list)
    # Rows of (track, channel), [start, end, pitch, velocity, program, is_drum].
    parts, rows, pedals = [], [], []
    # Where the tempo last changed, and to what.
    since_tick, since, tempo = 0, 0.0, DEFAULT_TEMPO
    for tick, kind, track, channel, a, b in found:
        part = track, channel
        time = since + (tick - since_tick) * tempo / (1e6 * ticks_per_beat)
        if kind == TEMPO and a != tempo:
            since += (tick - since_tick) * tempo / 1e6 / ticks_per_beat
            since_tick, tempo = tick, a
        elif kind == PROGRAM:
            own_program[part] = channel_program[channel] = a
        elif kind == PEDAL:
            pedals.append((time, 0 if a else 1, part, None))
        elif kind == ON:
            program = own_program.get(part, channel_program.get(channel, 0))
            sounding[part, a].append((tick, time, b, program))
        elif kind == OFF:
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
    # Rows are compared much faster than notes, and alike.
    return [Note(*row) for row in sorted(r for r in rows if r[1] > r[0] or r[5])]


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
    # Notes that sound or are held, by part and pitch; the held ones of each part.
    active: dict[tuple, dict[int, None]] = defaultdict(dict)
    held: dict[tuple, list[int]] = defaultdict(list)
    time = 0.0
    for time, kind, part, index in events:
        if kind == 0:
            down[part] = True
        elif kind == 1:
            down[part] = False
            for other in held.pop(part, ()):
                # It may have been struck again since.
                if active[part, rows[other][2]].pop(other, 0) is None:
                    rows[other][1] = time
        else:
            notes = active[part, rows[index][2]]
            if kind == 2:
                if down[part]:
                    for other in notes:
                        rows[other][1] = time
                    notes.clear()
                notes[index] = None
            elif not down[part]:
                notes.pop(index, None)
            elif index in notes:
                held[part].append(index)
    for notes in active.values():
        for index in notes:
            rows[index][1] = time


def _pair_first(found: list[Event], ticks_per_beat: float) -> np.ndarray:
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
            # Files of tens of thousands of parts use the numbers of parts again.
            part = index % _NUM_PARTS
            rows.append((start, end, pitch, velocity, program, is_drum, part))

    # A running sum, with its rounding: the labels of rendered audio have it.
    time, last_tick, tempo = 0.0, 0, DEFAULT_TEMPO
    for tick, kind, track, channel, a, b in found:
        time += (tick - last_tick) * tempo / (ticks_per_beat * 1e6)
        last_tick = tick
        key = channel, a
        if kind == TEMPO:
            tempo = a
        elif kind == ON:
            # A key that the pedal still holds is struck anew.
            finish(channel, held.pop(key, ()), time)
            down[key].append((time, a, b, track, programs[channel]))
        elif kind == OFF and down[key]:
            note = down[key].popleft()
            if pedals[channel] and channel != DRUM_CHANNEL:
                held[key].append(note)
            else:
                finish(channel, [note], time)
        elif kind == PROGRAM:
            programs[channel] = a
        elif kind == PEDAL:
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
