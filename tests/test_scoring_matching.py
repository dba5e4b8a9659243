"""Matching and piano rolls against the libraries whose rules they follow."""

from __future__ import annotations

import doctest

import mir_eval.transcription
import mir_eval.transcription_velocity
import numpy as np
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3.errors import MidiError, ShapeError
from mt3.note_sequences import Note
from mt3.scoring import instruments, matching
from mt3.scoring.matching import note_array
from tests.support.note_strategies import note_lists


def intervals_and_pitches(notes):
    """mir_eval's view of the notes, made with its own and pretty_midi's helpers."""
    intervals = np.array([(n.start_time, n.end_time) for n in notes]).reshape(-1, 2)
    pitches = pretty_midi.note_number_to_hz(np.array([n.pitch for n in notes]))
    return intervals, pitches


def shuffled(notes, moves):
    """An estimate: the notes, some moved, some dropped."""
    estimate = []
    for note, move in zip(notes, moves, strict=False):
        if move != 9:
            estimate.append(
                Note(
                    max(0.0, note.start_time + move / 100),
                    max(0.0, note.start_time + move / 100)
                    + (note.end_time - note.start_time) * (1 + move / 30),
                    note.pitch,
                    1 + (note.velocity + 5 * move) % 127,
                    note.program,
                    note.is_drum,
                )
            )
    return estimate


moves = st.lists(st.integers(-9, 9), min_size=30, max_size=30)


@given(
    note_lists(max_step=60),
    moves,
    st.sampled_from([None, 0.2]),
    st.sampled_from([0.01, 0.05, 0.5]),
    st.booleans(),
)
def test_matching_is_the_one_mir_eval_finds(notes, moves, ratio, tolerance, tiny):
    estimate = shuffled(notes, moves)
    want = mir_eval.transcription.match_notes(
        *intervals_and_pitches(notes),
        *intervals_and_pitches(estimate),
        onset_tolerance=tolerance,
        offset_ratio=ratio,
        offset_min_tolerance=tolerance,
    )
    with pytest.MonkeyPatch.context() as patch:
        if tiny:  # Cut at every silence, as in very long songs.
            patch.setattr(matching, "_MAX_PAIRS", 0)
            patch.setattr(matching, "_BLOCK_NOTES", 1)
        got = matching.match_notes(
            note_array(notes),
            note_array(estimate),
            onset_tolerance=tolerance,
            offset_ratio=ratio,
            offset_min_tolerance=tolerance,
        )
    assert [tuple(row) for row in got] == want


@given(note_lists(max_step=60), moves)
def test_velocity_rule_is_mir_evals(notes, moves):
    estimate = shuffled(notes, moves)
    if not notes or not estimate:
        return
    velocities = [np.array([n.velocity for n in side]) for side in (notes, estimate)]
    want = mir_eval.transcription_velocity.match_notes(
        *intervals_and_pitches(notes),
        velocities[0],
        *intervals_and_pitches(estimate),
        velocities[1],
    )
    pairs = matching.match_notes(note_array(notes), note_array(estimate))
    got = matching.match_velocities(pairs, *velocities)
    assert [tuple(row) for row in got] == [tuple(int(i) for i in row) for row in want]


@given(note_lists(), st.sampled_from([62.5, 100.0]))
def test_piano_roll_is_pretty_midis(notes, rate):
    instrument = pretty_midi.Instrument(0)
    for n in notes:
        end = n.start_time + 0.05 if n.is_drum else max(n.end_time, n.start_time + 0.05)
        instrument.notes.append(
            pretty_midi.Note(n.velocity, n.pitch, n.start_time, end)
        )
    want = instrument.get_piano_roll(fs=rate)
    got = matching.piano_roll(note_array(notes), rate)
    np.testing.assert_array_equal(got, want)


def test_piano_roll_leaves_notes_alone():
    arrays = note_array([Note(1.0, 1.01, 60), Note(0.5, 3.0, 36, 90, 0, True)])
    before = arrays["end_time"].copy()
    roll = matching.piano_roll(arrays)
    np.testing.assert_array_equal(arrays["end_time"], before)
    # 50 ms are 3 frames of 16 ms; the drum's own length does not count.
    assert np.count_nonzero(roll[60]) == 3
    assert np.count_nonzero(roll[36]) == 3


def test_frame_counts():
    reference = np.zeros((128, 4), int)
    estimate = np.zeros((128, 6), int)
    reference[60] = [30, 31, 31, 31]  # The first is too quiet to count.
    estimate[60] = [1, 1, 1, 0, 0, 1]
    assert matching.frame_counts(reference, estimate) == (2, 3, 4)
    with pytest.raises(ShapeError, match=r"\(3, 4\)"):
        matching.frame_counts(reference, np.zeros((3, 4)))


@pytest.mark.parametrize(
    "note",
    [Note(0, float("nan"), 60), Note(0, 1, 128), Note(0, 1, 60, program=128)],
)
def test_notes_that_cannot_be_scored_are_named(note):
    with pytest.raises(MidiError, match="cannot be scored"):
        note_array([note])


@pytest.mark.parametrize("module", [matching, instruments])
def test_examples_of_the_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted >= 5
    assert found.failed == 0
