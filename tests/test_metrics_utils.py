"""Matching and piano rolls against the libraries whose rules they follow."""

from __future__ import annotations

import mir_eval.transcription
import mir_eval.transcription_velocity
import numpy as np
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import configs, metrics_utils, tokenizer
from mt3.errors import MidiError, ShapeError
from mt3.metrics_utils import NoteArrays
from mt3.note_sequences import Note
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
            patch.setattr(metrics_utils, "_MAX_PAIRS", 0)
            patch.setattr(metrics_utils, "_BLOCK_NOTES", 1)
        got = metrics_utils.match_notes(
            NoteArrays.from_notes(notes),
            NoteArrays.from_notes(estimate),
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
    matching = metrics_utils.match_notes(
        NoteArrays.from_notes(notes), NoteArrays.from_notes(estimate)
    )
    got = metrics_utils.match_velocities(matching, *velocities)
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
    got = metrics_utils.get_prettymidi_pianoroll(notes, rate)
    np.testing.assert_array_equal(got, want)


def test_piano_roll_leaves_notes_alone():
    arrays = NoteArrays.from_notes(
        [Note(1.0, 1.01, 60), Note(0.5, 3.0, 36, 90, 0, True)]
    )
    before = arrays.end.copy()
    roll = metrics_utils.get_prettymidi_pianoroll(arrays)
    np.testing.assert_array_equal(arrays.end, before)
    # 50 ms are 3 frames of 16 ms; the drum's own length does not count.
    assert np.count_nonzero(roll[60]) == 3
    assert np.count_nonzero(roll[36]) == 3


def test_frame_metrics_counts_cells():
    reference = np.zeros((128, 4), int)
    estimate = np.zeros((128, 6), int)
    reference[60] = [30, 31, 31, 31]  # The first is too quiet to count.
    estimate[60] = [1, 1, 1, 0, 0, 1]
    assert metrics_utils.frame_metrics(reference, estimate) == pytest.approx(
        (2 / 4, 2 / 3, 4 / 7)
    )
    with pytest.raises(ShapeError, match=r"\(3, 4\)"):
        metrics_utils.frame_metrics(reference, np.zeros((3, 4)))


@pytest.mark.parametrize(
    "note",
    [Note(0, float("nan"), 60), Note(0, 1, 128), Note(0, 1, 60, program=128)],
)
def test_notes_that_cannot_be_scored_are_named(note):
    with pytest.raises(MidiError, match="cannot be scored"):
        NoteArrays.from_notes([note])


def test_predictions_are_grouped_and_decoded_in_time_order():
    tokens = tokenizer.NoteTokenizer(configs.ModelConfig({}, include_ties=False))
    notes = [Note(0.5, 1.0, 60, 127), Note(2.5, 3.0, 64, 127)]
    song = tokens.encode_song(notes, 512)
    segments = [
        {
            "unique_id": np.array(["a"]),
            "start_time": tokens.segment_start_time(first),
            "est_tokens": tokens.segment_events(song, first, 256),
        }
        for first in (256, 0)
    ]
    other = {"unique_id": "b", "start_time": 0.0, "est_tokens": []}
    songs = metrics_utils.combine_predictions_by_id(
        [segments[0], other, segments[1]],
        lambda records: metrics_utils.event_predictions_to_ns(records, tokens),
    )
    assert list(songs) == ["a", "b"]
    assert songs["b"].notes == []
    assert [(n.start_time, n.pitch) for n in songs["a"].notes] == [(0.5, 60), (2.5, 64)]
    assert songs["a"].start_times.tolist() == sorted(s["start_time"] for s in segments)
