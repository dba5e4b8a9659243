"""Standard MIDI files to notes, as references of the published data sets are read.

Pairing of note-ons and note-offs and the sustain pedal follow the readers that the
published data sets were made with, because scores depend on them: a reference read
without its pedal loses dozens of points of offset F1.
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mt3 import errors
from mt3.midi import general_midi
from mt3.note_sequences import Note

if TYPE_CHECKING:
    import mido

_SUSTAIN_CONTROL = 64
_PEDAL_DOWN = 64
_DEFAULT_TEMPO = 500_000  # microseconds per beat
_Part = tuple[int, int]  # track, channel


def read_midi(
    path: str | os.PathLike[str], *, apply_sustain: bool = True
) -> list[Note]:
    """Reads the notes of a MIDI file.

    Tempo changes of any track count. A note-off ends all notes of its channel and
    pitch in its track that began earlier; notes that are never ended are left
    out. Channel 10 holds drums, whose program number is kept. The program of a note
    is the last one set in its own track, else on its channel in any track.

    Args:
      path: a type 0 or 1 file.
      apply_sustain: lengthen pitched notes while the sustain pedal of their channel
        is down, at most until the same pitch starts again.

    Returns:
      Notes sorted by onset.

    Raises:
      MidiError: not readable or not a MIDI file; names the file.
    """
    file = _load(path)
    events = _merged_events(file)
    to_seconds = _tempo_map(events, file.ticks_per_beat)
    notes, pedals = _collect(events, to_seconds)
    if apply_sustain and pedals:
        notes = _apply_sustain(notes, pedals)
    return sorted(note for _, note in notes)


def _load(path: str | os.PathLike[str]) -> mido.MidiFile:
    """Parses a file; every way in which that can fail is a `MidiError`."""
    import mido
    from mido.midifiles.meta import KeySignatureError

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.MidiError(
            f"{path}: cannot read: {error.strerror or error}"
        ) from error
    if data[:4] != b"MThd":
        found = "an empty file" if not data else f"the first bytes are {data[:4]!r}"
        raise errors.MidiError(f"{path}: not a MIDI file: {found}, expected b'MThd'")
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    except (
        OSError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        KeySignatureError,
    ) as e:
        raise errors.MidiError(f"{path}: damaged MIDI file: {e!r}") from e
    if file.type == 2 or file.ticks_per_beat <= 0:
        what = "type 2" if file.type == 2 else "SMPTE time"
        raise errors.MidiError(
            f"{path}: MIDI file of {what}; expected type 0 or 1 with beats as time"
        )
    return file


def _merged_events(file: mido.MidiFile) -> list[tuple[int, int, mido.Message]]:
    """Returns (tick, track, message) of all tracks in time order."""
    events = []
    for index, track in enumerate(file.tracks):
        tick = 0
        for message in track:
            tick += message.time
            events.append((tick, index, message))
    # Stable: on one tick the order of tracks, and within each its own.
    events.sort(key=lambda event: event[0])
    return events


def _tempo_map(
    events: list[tuple[int, int, mido.Message]], ticks_per_beat: int
) -> Callable[[int], float]:
    """Returns a function from ticks to seconds."""
    ticks, seconds, tempos = [0], [0.0], [_DEFAULT_TEMPO]
    for tick, _, message in events:
        if message.type == "set_tempo" and message.tempo != tempos[-1]:
            passed = (tick - ticks[-1]) * tempos[-1] / 1e6 / ticks_per_beat
            ticks.append(tick)
            seconds.append(seconds[-1] + passed)
            tempos.append(message.tempo)

    def to_seconds(tick: int) -> float:
        i = bisect.bisect_right(ticks, tick) - 1
        return seconds[i] + (tick - ticks[i]) * tempos[i] / (1e6 * ticks_per_beat)

    return to_seconds


def _collect(
    events: list[tuple[int, int, mido.Message]], to_seconds: Callable[[int], float]
) -> tuple[list[tuple[_Part, Note]], list[tuple[_Part, float, bool]]]:
    """Pairs note-ons with note-offs.

    Returns:
      [(part, note)] and [(part, seconds, pedal is down)].
    """
    own_program: dict[_Part, int] = {}
    channel_program: dict[int, int] = {}
    sounding = defaultdict(list)
    notes, pedals = [], []
    for tick, track, message in events:
        kind = message.type
        if kind == "program_change":
            own_program[track, message.channel] = message.program
            channel_program[message.channel] = message.program
        elif kind == "note_on" and message.velocity > 0:
            part = track, message.channel
            default = channel_program.get(message.channel, 0)
            program = own_program.get(part, default)
            sounding[part, message.note].append((tick, message.velocity, program))
        elif kind in ("note_on", "note_off"):
            part = track, message.channel
            open_notes = sounding.pop((part, message.note), [])
            for start, velocity, program in open_notes:
                if start < tick:
                    span = to_seconds(start), to_seconds(tick)
                    is_drum = message.channel == general_midi.DRUM_CHANNEL
                    note = Note(*span, message.note, velocity, program, is_drum)
                    notes.append((part, note))
            started_now = [note for note in open_notes if note[0] == tick]
            if started_now and len(started_now) < len(open_notes):
                sounding[part, message.note] = started_now
        elif kind == "control_change" and message.control == _SUSTAIN_CONTROL:
            part = track, message.channel
            pedals.append((part, to_seconds(tick), message.value >= _PEDAL_DOWN))
    return notes, pedals


def _apply_sustain(
    notes: list[tuple[_Part, Note]], pedals: list[tuple[_Part, float, bool]]
) -> list[tuple[_Part, Note]]:
    """Lengthens pitched notes under the pedal; takes and returns `_collect`'s form.

    At equal times: pedal down, pedal up, onsets, offsets. A note that the pedal
    still holds when the music ends lasts until the last event.
    """
    events = [(time, 0 if down else 1, part, None) for part, time, down in pedals]
    ends: dict[int, float] = {}
    for index, (part, note) in enumerate(notes):
        ends[index] = note.end_time
        if not note.is_drum:
            events.append((note.start_time, 2, part, index))
            events.append((note.end_time, 3, part, index))
    events.sort(key=lambda event: event[:2])
    down: dict[_Part, bool] = defaultdict(bool)
    # Notes that sound or are held, per part, by pitch.
    active: dict[_Part, dict[int, int]] = defaultdict(dict)
    time = 0.0
    for time, kind, part, index in events:
        held = active[part]
        if kind == 0:
            down[part] = True
        elif kind == 1:
            down[part] = False
            for other in [i for i in held if ends[i] < time]:
                ends[other] = time
                del held[other]
        elif kind == 2:
            pitch = notes[index][1].pitch
            if down[part]:
                for other in [i for i, p in held.items() if p == pitch]:
                    ends[other] = time
                    del held[other]
            held[index] = pitch
        elif not down[part]:
            held.pop(index, None)
    for held in active.values():
        ends.update(dict.fromkeys(held, time))
    return [
        (part, dataclasses.replace(note, end_time=ends[index]))
        for index, (part, note) in enumerate(notes)
        if ends[index] > note.start_time or note.is_drum
    ]
