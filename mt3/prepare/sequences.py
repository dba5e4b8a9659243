"""The labels of records: NoteSequences, from MIDI files and from tables.

Pitched notes that end where they begin are left out: tokens cannot say them, and the
reading side refuses a record that has one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from note_seq import midi_io
from note_seq.protobuf import music_pb2

from mt3 import note_sequences
from mt3.errors import MidiError
from mt3.midi import events, reader
from mt3.note_sequences import Note

NoteSequence = music_pb2.NoteSequence


def read_midi(
    path: str | os.PathLike[str], *, allow_empty: bool = False
) -> NoteSequence:
    """Reads a MIDI file as it is: the pedal stays control changes.

    Args:
      path: the file.
      allow_empty: whether a file without notes will do.

    Returns:
      A NoteSequence. Of a file that breaks the standard it has what sounds and the
      tempo, see `events`.

    Raises:
      MidiError: not readable, damaged, with numbers outside of MIDI's ranges, or
        without notes.
    """
    # What is damaged, or asks for too much, is named before mido reads it.
    count = len(reader.read_midi(path, apply_sustain=False))
    try:
        sequence = _decode(events.read_bytes(path))
    except (midi_io.MIDIConversionError, ValueError):
        sequence = None
    if sequence is None or len(sequence.notes) != count:
        # mido stops at some events, and misreads what follows others.
        try:
            sequence = _decode(events.plain_bytes(path))
        except (midi_io.MIDIConversionError, ValueError) as error:
            raise MidiError(f"{path}: damaged MIDI file: {error}") from error
    if not sequence.notes and not allow_empty:
        raise MidiError(f"{path}: the MIDI file holds no notes")
    sequence.filename = Path(path).name
    return sequence


def _decode(data: bytes) -> NoteSequence:
    with warnings.catch_warnings():
        # Tempo changes on other tracks than the first count too.
        warnings.simplefilter("ignore")
        return midi_io.midi_to_note_sequence(data)


def from_notes(
    notes: Sequence[Note], *, instruments: Sequence[int] | None = None, name: str = ""
) -> NoteSequence:
    """Returns notes, sorted by onset, as a NoteSequence.

    Args:
      notes: the notes.
      instruments: number of each note's part (default: by program as they appear).
      name: goes into the sequence as its id.
    """
    order = sorted(range(len(notes)), key=lambda i: notes[i])
    sequence = note_sequences.to_note_sequence([notes[i] for i in order])
    if instruments is not None:
        for note, index in zip(sequence.notes, order, strict=True):
            note.instrument = instruments[index]
    sequence.id = name
    return sequence


def drop_empty_notes(sequence: NoteSequence) -> int:
    """Takes pitched notes out that end where they begin; returns how many."""
    kept = [n for n in sequence.notes if n.end_time > n.start_time or n.is_drum]
    dropped = len(sequence.notes) - len(kept)
    if dropped:
        kept = [NoteSequence.Note.FromString(n.SerializeToString()) for n in kept]
        del sequence.notes[:]
        sequence.notes.extend(kept)
    return dropped


def last_offset(*sequences: NoteSequence) -> float:
    """Returns the end of the last note of NoteSequences, in seconds; 0 if none."""
    return max((note.end_time for s in sequences for note in s.notes), default=0.0)
