"""The border between `Note` and note_seq's `NoteSequence`.

Data sets store NoteSequences; everything inside the package works on `Note`. This
module is the only one that knows both: it parses the stored bytes, holds notes for
as long as the sustain pedal does, checks what the encodings rely on, and writes
NoteSequences for those who read them.

Pedalled notes are held by `note_seq.apply_sustain_control_changes`: per instrument,
until the pedal is released or the same pitch is struck again; drums are not touched.

Differences from the original, numbered:

1. A note that ends where it begins is an error that names the note, as there, but
   only for pitched notes: a drum has no offset.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal

import note_seq
import numpy as np

from mt3 import note_sequences
from mt3.errors import DataError, MidiError
from mt3.note_sequences import Note

SUSTAIN_CONTROL_NUMBER = 64

PitchBends = Literal["error", "ignore"]

_FIELDS = operator.attrgetter(*note_sequences.NOTE_DTYPE.names)


def parse(data: bytes, name: str = "NoteSequence") -> note_seq.NoteSequence:
    """Parses a serialized NoteSequence.

    Args:
      data: the bytes.
      name: record and field, for the message.

    Returns:
      The NoteSequence.

    Raises:
      DataError: the bytes are none.
    """
    try:
        return note_seq.NoteSequence.FromString(data)
    except Exception as error:  # protobuf's error classes differ by version.
        raise DataError(
            f"{name}: found {len(data)} bytes that are no NoteSequence ({error})"
        ) from error


def to_notes(sequence: note_seq.NoteSequence, **options: Any) -> list[Note]:
    """Returns the notes of a NoteSequence one by one; see `to_array`."""
    return note_sequences.array_to_notes(to_array(sequence, **options))


def to_array(
    sequence: note_seq.NoteSequence,
    *,
    apply_sustain: bool = True,
    pitch_bends: PitchBends = "error",
    program: int | None = None,
    is_drum: bool | None = None,
    allow_empty: bool = False,
    name: str = "NoteSequence",
) -> np.ndarray:
    """Returns the notes of a NoteSequence, without an object for each.

    Args:
      sequence: the NoteSequence; not changed.
      apply_sustain: hold notes while their instrument's pedal is down.
      pitch_bends: whether pitch bends are an "error" or are to "ignore": a bent note
        then counts with the pitch of its key.
      program: the program of all notes; None for each note's own.
      is_drum: whether all notes are drums; None for each note's own. It counts
        before the pedal does.
      allow_empty: let pitched notes pass that end where they begin.
      name: record and field, for messages.

    Returns:
      The notes in the sequence's order, an array [n] of `NOTE_DTYPE`.

    Raises:
      DataError: the sequence is quantized, has pitch bends, or a note is out of range
        or, unless allowed, ends where it begins.
    """
    if pitch_bends == "error" and sequence.pitch_bends:
        raise DataError(
            f"{name}: found {len(sequence.pitch_bends)} pitch bends, the first at "
            f"{sequence.pitch_bends[0].time:.3f} s; expected none, since notes have "
            "the pitch of their key"
        )
    if note_seq.sequences_lib.is_quantized_sequence(sequence):
        raise DataError(
            f"{name}: found a quantized sequence, expected times in seconds"
        )
    if apply_sustain and _has_pedal(sequence):
        if is_drum is not None:
            copy = note_seq.NoteSequence()
            copy.CopyFrom(sequence)
            for note in copy.notes:
                note.is_drum = is_drum
            sequence = copy
        sequence = note_seq.apply_sustain_control_changes(sequence)
    rows = map(_FIELDS, sequence.notes)
    stored = np.fromiter(rows, note_sequences.WIDE_DTYPE, count=len(sequence.notes))
    if program is not None:
        stored["program"] = program
    if is_drum is not None:
        stored["is_drum"] = is_drum
    try:
        note_sequences.validate_array(stored, name)
    except MidiError as error:
        raise DataError(str(error)) from error
    if not allow_empty:
        _check_durations(stored, name)
    return stored.astype(note_sequences.NOTE_DTYPE)


def from_notes(
    notes: Sequence[Note], *, ticks_per_quarter: int = 220
) -> note_seq.NoteSequence:
    """Makes a NoteSequence.

    Args:
      notes: the notes; their order is kept.
      ticks_per_quarter: resolution of a MIDI file made of it.

    Returns:
      The sequence, with instruments numbered by program in order of appearance,
      drums 9.
    """
    sequence = note_seq.NoteSequence(ticks_per_quarter=ticks_per_quarter)
    numbers = note_sequences.assign_instruments(notes)
    for note, instrument in zip(notes, numbers, strict=True):
        sequence.notes.add(
            instrument=instrument,
            start_time=note.start_time,
            end_time=note.end_time,
            pitch=note.pitch,
            velocity=note.velocity,
            program=note.program,
            is_drum=note.is_drum,
        )
    sequence.total_time = max((note.end_time for note in notes), default=0.0)
    return sequence


def _has_pedal(sequence: note_seq.NoteSequence) -> bool:
    """Whether there is anything to apply."""
    return any(
        change.control_number == SUSTAIN_CONTROL_NUMBER
        for change in sequence.control_changes
    )


def _check_durations(array: np.ndarray, name: str) -> None:
    empty = (array["end_time"] == array["start_time"]) & ~array["is_drum"]
    if empty.any():
        # Its offset would be written before its onset, and the note never end.
        index = int(np.argmax(empty))
        (note,) = note_sequences.array_to_notes(array[index : index + 1])
        raise DataError(f"{name}: note {index}: ends where it begins: {note}")
