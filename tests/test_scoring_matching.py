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

from mt3.errors import ConfigError, MidiError, ShapeError
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


@given(
    note_lists(max_step=60),
    moves,
    st.sampled_from([None, 0.2]),
    st.sampled_from([0.01, 0.05, 0.5]),
)
def test_blocks_too_large_for_mir_eval_are_matched_as_well(
    notes, moves, ratio, tolerance
):
    sides = note_array(notes), note_array(shuffled(notes, moves))
    options = {
        "onset_tolerance": tolerance,
        "offset_ratio": ratio,
        "offset_min_tolerance": tolerance,
    }
    want = matching.match_notes(*sides, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_MOST_PAIRS_OF_MIR_EVAL", 0)
        got = matching.match_notes(*sides, **options)
    assert len(got) == len(want)
    assert len(np.unique(got[:, 0])) == len(np.unique(got[:, 1])) == len(got)
    one, other = sides[0][got[:, 0]], sides[1][got[:, 1]]
    assert (one["pitch"] == other["pitch"]).all()
    distance = np.abs(one["start_time"] - other["start_time"])
    assert (distance < tolerance + 1e-4).all()


def test_long_chains_of_repeated_notes_are_matched():
    # Each estimate lies between two notes and takes the first; the last one listed can
    # only have the first note, so that all must move on.
    count = 1200
    reference = [Note(0.08 * n, 0.08 * n + 0.03, 60) for n in range(count)]
    onsets = [0.08 * n + 0.04 for n in range(count - 1)] + [-0.03]
    estimate = [Note(onset, onset + 0.03, 60) for onset in onsets]
    sides = note_array(reference), note_array(estimate)
    with pytest.raises(RecursionError):
        mir_eval.transcription.match_notes(
            *intervals_and_pitches(reference),
            *intervals_and_pitches(estimate),
            offset_ratio=None,
        )
    assert len(matching.match_notes(*sides, offset_ratio=None)) == count


def test_pairs_of_notes_are_counted_before_they_are_made(monkeypatch):
    notes = note_array([Note(0.001 * n, 0.001 * n + 1, 60) for n in range(5000)])
    assert len(matching.match_notes(notes, notes)) == 5000
    monkeypatch.setattr(matching, "MOST_PAIRS", 100_000)
    with pytest.raises(MidiError, match=r"5000 and 5000 notes of pitch 60.* 100,000"):
        matching.match_notes(notes, notes)


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


# Times off the frames' grid too, before 0, and notes that end before they start.
any_notes = st.lists(
    st.builds(
        Note,
        start_time=st.floats(-0.5, 2.0),
        end_time=st.floats(-0.5, 2.0),
        pitch=st.integers(60, 62),
        velocity=st.integers(0, 127),
        program=st.just(0),
        is_drum=st.booleans(),
    ),
    max_size=12,
)


@given(
    any_notes, any_notes, st.sampled_from([10.0, 62.5]), st.sampled_from([0, 30, 100])
)
def test_frames_counted_by_edges_are_those_of_the_piano_rolls(
    notes, others, rate, threshold
):
    sides = note_array(notes), note_array(others)
    rolls = (matching.piano_roll(side, rate) for side in sides)
    want = matching.frame_counts(*rolls, threshold)
    assert matching.note_frame_counts(*sides, rate, threshold) == want


def test_frames_of_any_length_of_time_are_counted():
    year = 365 * 86400.0
    reference = note_array([Note(0, year, 60), Note(1e300, 2e300, 61)])
    estimate = note_array([Note(0.5 * year, 2 * year, 60)])
    found = matching.note_frame_counts(reference, estimate)
    assert found == tuple(int(62.5 * year * share) for share in (0.5, 1, 1.5))
    with pytest.raises(ConfigError, match="velocity threshold -1; expected 0 or more"):
        matching.note_frame_counts(reference, estimate, velocity_threshold=-1)


def test_the_beginning_of_a_piano_roll():
    notes = note_array([Note(0, 1, 60), Note(0.5, 9e9, 62)])
    roll = matching.piano_roll(notes, 10, most_frames=7)
    whole = matching.piano_roll(note_array([Note(0, 1, 60), Note(0.5, 2, 62)]), 10)
    np.testing.assert_array_equal(roll, whole[:, :7])


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
