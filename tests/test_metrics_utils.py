"""Grouping, decoding and joining of predictions; piano rolls of NoteSequences."""

from __future__ import annotations

import functools

import note_seq
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import configs, metrics_utils, note_sequences, tokenizer
from mt3.errors import ShapeError
from mt3.note_sequences import Note, NoteDecodingState
from tests.support.note_strategies import note_lists


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.NoteTokenizer(configs.ModelConfig({}, include_ties=False))


@pytest.fixture
def segments(tokens):
    """Two segments of a song, the later one first."""
    notes = [Note(0.5, 1.0, 60, 127), Note(2.5, 3.0, 64, 127)]
    song = tokens.encode_song(notes, 512)
    return [
        {
            "unique_id": np.array(["a"]),
            "start_time": tokens.segment_start_time(first),
            "est_tokens": tokens.segment_events(song, first, 256),
            "raw_inputs": np.full(2, first),
        }
        for first in (256, 0)
    ]


def test_predictions_are_grouped_in_their_order(segments):
    other = {"unique_id": "b", "start_time": 0.0}
    groups = metrics_utils._group_predictions_by_id([segments[0], other, segments[1]])
    assert list(groups) == ["a", "b"]
    assert [p["start_time"] for p in groups["a"]] == [
        segment["start_time"] for segment in segments
    ]
    sizes = metrics_utils.combine_predictions_by_id([*segments, other], len)
    assert sizes == {"a": 2, "b": 1}


def test_predictions_are_decoded_in_time_order(tokens, segments):
    spec = note_sequences.NoteEncodingSpec
    song = metrics_utils.event_predictions_to_ns(segments, tokens.codec, spec)
    assert [(n.start_time, n.pitch) for n in song["est_ns"].notes] == [
        (0.5, 60),
        (2.5, 64),
    ]
    assert isinstance(song["est_ns"], note_seq.NoteSequence)
    assert song["est_ns"].total_time == 3.0
    assert song["start_times"] == sorted(s["start_time"] for s in segments)
    assert song["raw_inputs"].tolist() == [0, 0, 256, 256]
    assert song["est_invalid_events"] == song["est_dropped_events"] == 0


def test_samples_may_be_missing(tokens, segments):
    spec = note_sequences.NoteEncodingSpec
    del segments[0]["raw_inputs"]
    song = metrics_utils.event_predictions_to_ns(segments, tokens.codec, spec)
    assert song["raw_inputs"].tolist() == [0, 0]
    segments[1]["raw_inputs"] = None
    song = metrics_utils.event_predictions_to_ns(segments, tokens.codec, spec)
    assert song["raw_inputs"].shape == (0,)
    nothing = metrics_utils.event_predictions_to_ns([], tokens.codec, spec)
    assert (len(nothing["est_ns"].notes), nothing["start_times"]) == (0, [])


def test_functions_of_any_decoder_are_called_in_order():
    calls = []

    def decode(state, tokens, start, end):
        state.append(tokens)
        calls.append((start, end))
        return 1, 2

    segments = [
        {"start_time": start, "est_tokens": number}
        for number, start in enumerate((2.0, 0.0, 1.0))
    ]
    result = metrics_utils.decode_and_combine_predictions(
        segments,
        init_state_fn=list,
        begin_segment_fn=lambda state: state.append("begin"),
        decode_tokens_fn=decode,
        flush_state_fn=tuple,
    )
    assert result == (("begin", 1, "begin", 2, "begin", 0), 3, 6)
    assert calls == [(0.0, 1.0), (1.0, 2.0), (2.0, None)]


def test_notes_need_no_note_sequence(tokens, segments):
    spec = note_sequences.NoteEncodingSpec
    notes, invalid, dropped = metrics_utils.decode_and_combine_predictions(
        segments,
        spec.init_decoding_state_fn,
        spec.begin_decoding_segment_fn,
        functools.partial(spec.decode_tokens, codec=tokens.codec),
        NoteDecodingState.finish,
    )
    assert [(note.pitch, note.velocity) for note in notes] == [(60, 127), (64, 127)]
    assert invalid == dropped == 0


def through_pretty_midi(ns, fps, is_drum):
    """The piano roll as the libraries make it of lengthened notes."""
    for note in ns.notes:
        if is_drum or note.end_time - note.start_time < 0.05:
            note.end_time = note.start_time + 0.05
        if is_drum:
            note.is_drum = False
    return note_seq.note_sequence_to_pretty_midi(ns).get_piano_roll(fps)


@given(
    note_lists(),
    st.lists(st.sampled_from([0, 0, 1, 9]), min_size=30, max_size=30),
    st.sampled_from([62.5, 100.0]),
    st.booleans(),
)
def test_piano_roll_is_pretty_midis_and_changes_the_notes(notes, numbers, fps, is_drum):
    ns, want_ns = note_sequences.to_note_sequence(notes), note_seq.NoteSequence()
    for note, number in zip(ns.notes, numbers, strict=False):
        note.instrument = number
    want_ns.CopyFrom(ns)
    before = note_seq.NoteSequence.FromString(ns.SerializeToString())
    metrics_utils.get_prettymidi_pianoroll(
        before, fps, is_drum, original_side_effects=False
    )
    assert before == ns
    want = through_pretty_midi(want_ns, fps, is_drum)
    got = metrics_utils.get_prettymidi_pianoroll(ns, fps, is_drum)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want)
    assert [note.is_drum for note in ns.notes] == [n.is_drum for n in want_ns.notes]
    np.testing.assert_allclose(
        [note.end_time for note in ns.notes],
        [note.end_time for note in want_ns.notes],
        rtol=1e-12,
    )


def test_programs_of_one_instrument_number():
    notes = [Note(0, 1, 60, program=0), Note(0, 1, 64, program=40)]
    ns = note_sequences.to_note_sequence(notes)
    ns.notes[1].instrument = 0
    roll = metrics_utils.get_prettymidi_pianoroll(ns, 10, False)
    assert np.flatnonzero(roll.any(axis=1)).tolist() == [64]
    both = metrics_utils.get_prettymidi_pianoroll(
        ns, 10, False, original_reference_roll=False
    )
    assert np.flatnonzero(both.any(axis=1)).tolist() == [60, 64]
    # Notes without numbers are all shown.
    roll = metrics_utils.get_prettymidi_pianoroll(notes, 10, False)
    np.testing.assert_array_equal(roll, both)


def test_frame_metrics():
    reference = np.zeros((128, 4), int)
    estimate = np.zeros((128, 6), int)
    reference[60] = [30, 31, 31, 31]  # The first is too quiet to count.
    estimate[60] = [1, 1, 1, 0, 0, 1]
    scores = metrics_utils.frame_metrics(reference, estimate, velocity_threshold=30)
    assert scores == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    nothing = metrics_utils.frame_metrics(reference[:, :0], estimate[:, :0], 30)
    assert nothing == (0, 0, 0)
    with pytest.raises(ShapeError, match=r"\(3, 4\)"):
        metrics_utils.frame_metrics(reference, np.zeros((3, 4)), 30)
