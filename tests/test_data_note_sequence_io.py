"""NoteSequences to notes and back: pedal, pitch bends, what is refused."""

from __future__ import annotations

import note_seq
import pytest
from hypothesis import given

from mt3 import note_sequences
from mt3.data import note_sequence_io
from mt3.errors import DataError
from mt3.note_sequences import Note
from tests.support.note_strategies import note_lists


def sequence(notes, *, pedals=(), bends=()):
    """Notes are (start, end, pitch, instrument, is_drum), pedals (time, value,
    instrument), bends times.
    """
    result = note_seq.NoteSequence()
    for start, end, pitch, instrument, is_drum in notes:
        result.notes.add(
            start_time=start,
            end_time=end,
            pitch=pitch,
            velocity=80,
            program=4,
            instrument=instrument,
            is_drum=is_drum,
        )
    for time, value, instrument in pedals:
        result.control_changes.add(
            time=time, control_number=64, control_value=value, instrument=instrument
        )
    for time in bends:
        result.pitch_bends.add(time=time, bend=12)
    return result


def ends(notes):
    return [note.end_time for note in notes]


@given(note_lists())
def test_notes_come_back(notes):
    data = note_sequences.to_note_sequence(notes).SerializeToString()
    assert note_sequence_io.to_notes(note_sequence_io.parse(data)) == notes


def test_the_pedal_holds_notes_of_its_own_instrument():
    stored = sequence(
        [
            (0.0, 1.0, 60, 0, False),  # Held until the pedal goes up.
            (0.5, 0.8, 62, 0, False),  # Held until it is struck again.
            (1.5, 3.0, 62, 0, False),  # Outlasts the pedal.
            (0.0, 1.0, 64, 1, False),  # Another instrument.
            (0.2, 0.3, 38, 0, True),  # A drum.
        ],
        pedals=[(0.1, 127, 0), (2.0, 0, 0), (0.1, 20, 1)],
    )
    assert ends(note_sequence_io.to_notes(stored)) == [2.0, 1.5, 3.0, 1.0, 0.3]
    plain = note_sequence_io.to_notes(stored, apply_sustain=False)
    assert ends(plain) == [1.0, 0.8, 3.0, 1.0, 0.3]
    # The stored sequence is as it was.
    assert stored.notes[0].end_time == 1.0


def test_a_part_that_is_drums_is_drums_before_the_pedal():
    stored = sequence([(0.0, 0.1, 38, 0, False)], pedals=[(0.0, 127, 0), (2.0, 0, 0)])
    notes = note_sequence_io.to_notes(stored, program=0, is_drum=True)
    assert notes == [Note(0.0, 0.1, 38, 80, 0, True)]
    assert not stored.notes[0].is_drum
    held = note_sequence_io.to_notes(stored, program=33)
    assert held == [Note(0.0, 2.0, 38, 80, 33, False)]


def test_pitch_bends():
    stored = sequence([(0.0, 1.0, 60, 0, False)], bends=[0.25, 0.5])
    with pytest.raises(DataError, match=r"song: found 2 pitch bends.* at 0\.250 s"):
        note_sequence_io.to_notes(stored, name="song")
    assert len(note_sequence_io.to_notes(stored, pitch_bends="ignore")) == 1


def test_what_is_refused():
    with pytest.raises(DataError, match="song: found 4 bytes that are no NoteSequence"):
        note_sequence_io.parse(b"\xff\xff\xff\xff", "song")
    quantized = sequence([(0.0, 1.0, 60, 0, False)])
    quantized.quantization_info.steps_per_quarter = 4
    with pytest.raises(DataError, match="song: found a quantized sequence"):
        note_sequence_io.to_notes(quantized, name="song")
    backwards = sequence([(0.0, 1.0, 60, 0, False), (1.0, 0.5, 61, 0, False)])
    with pytest.raises(DataError, match="song: note 1: offset before its onset"):
        note_sequence_io.to_notes(backwards, name="song")


def test_numbers_that_do_not_fit():
    for field, value in {"pitch": 65536 + 60, "velocity": 0, "program": -1}.items():
        stored = sequence([(0.0, 1.0, 60, 0, False), (1.0, 2.0, 61, 0, False)])
        setattr(stored.notes[1], field, value)
        with pytest.raises(DataError, match=f"song: note 1: {field} outside .*{value}"):
            note_sequence_io.to_array(stored, name="song")


def test_notes_without_a_duration():
    stored = sequence([(0.0, 0.0, 38, 0, True), (1.0, 1.0, 60, 0, False)])
    with pytest.raises(DataError, match="song: note 1: ends where it begins"):
        note_sequence_io.to_notes(stored, name="song")
    assert len(note_sequence_io.to_notes(stored, allow_empty=True)) == 2


def test_songs_of_years_are_refused():
    stored = sequence([(0.0, 1.0, 60, 0, False), (1.0, 1e12, 61, 0, False)])
    with pytest.raises(DataError, match="song: the last note ends after 277,777,778 h"):
        note_sequence_io.to_array(stored, name="song")
