"""Notes from the NoteSequences that data sets store.

This module parses the stored bytes, lengthens notes for as long as the sustain pedal
is down, and checks what the encodings rely on. `note_sequences.to_note_sequence` is the
way back.

`note_seq.apply_sustain_control_changes` lengthens the notes: for each instrument, until
the pedal is released or the same pitch is struck again; drums stay as they are.

Differences from the original, numbered:

1. A note that ends where it begins is an error that names the note, as there, but
   only for pitched notes: a drum has no offset.
"""

from __future__ import annotations

from typing import Any, Literal

import note_seq
import numpy as np

from mt3 import note_sequences
from mt3.errors import DataError, MidiError, PitchBendError
from mt3.note_sequences import Note

SUSTAIN_CONTROL_NUMBER = 64
# The same as of MIDI files: one wrong time makes years.
MOST_SECONDS = 24 * 3600.0

PitchBends = Literal["error", "ignore"]


def parse(data: bytes, name: str = "NoteSequence") -> note_seq.NoteSequence:
    """Parses a serialized NoteSequence.

    Args:
      data: the bytes.
      name: record and field, for the message.

    Returns:
      The NoteSequence.

    Raises:
      DataError: the bytes are not a NoteSequence.
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
      DataError: the sequence is quantized, has pitch bends, or a note is out of range,
        ends after `MOST_SECONDS` or, unless allowed, where it begins.
    """
    if pitch_bends == "error" and sequence.pitch_bends:
        raise PitchBendError(
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
    stored = note_sequences.note_sequence_rows(sequence)
    if program is not None:
        stored["program"] = program
    if is_drum is not None:
        stored["is_drum"] = is_drum
    try:
        note_sequences.validate_notes(stored, name)
    except MidiError as error:
        raise DataError(str(error)) from error
    latest = stored["end_time"].max(initial=0.0)
    if latest > MOST_SECONDS:
        raise DataError(
            f"{name}: the last note ends after {latest / 3600:,.0f} hours; expected "
            f"at most {MOST_SECONDS / 3600:g}"
        )
    if not allow_empty:
        _check_durations(stored, name)
    return stored.astype(note_sequences.NOTE_DTYPE)


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
