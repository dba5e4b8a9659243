"""Streams against a direct, event-by-event reading of the rules."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from mt3 import event_codec, note_sequences, run_length_encoding, vocabularies
from mt3.errors import ShapeError, TokenError
from mt3.note_sequences import Note
from mt3.vocabularies import VocabularyConfig
from tests.support.note_strategies import note_lists

CODEC = vocabularies.build_codec(VocabularyConfig(num_velocity_bins=1))
TIE = CODEC.event_type_range("tie")[0]


def encode(*events):
    return np.concatenate(
        [CODEC.encode_values(kind, np.array([value])) for kind, value in events]
    )


def decode(tokens):
    events = [CODEC.decode_event_index(int(token)) for token in tokens]
    return [(event.type, event.value) for event in events]


def direct_stream(steps, values, frame_times):
    """Writes the stream one event and one shift at a time, as the rules read."""
    rate = CODEC.steps_per_second
    events, starts, states = [], [], []
    state = note_sequences.NoteEncodingState()
    step, next_event = 0, 0
    for frame_time in frame_times:
        while (step + 1) / rate <= frame_time:
            while next_event < len(steps) and steps[next_event] <= step:
                next_event = _emit(values, next_event, events, state)
            events.append(1)
            step += 1
        starts.append(len(events))
        states.append(encode_all(note_sequences.note_encoding_state_to_events(state)))
    last = max([step + 1, *steps])
    while step <= last:
        while next_event < len(steps) and steps[next_event] <= step:
            next_event = _emit(values, next_event, events, state)
        if step < last:
            events.append(1)
        step += 1
    return events, starts, states


def _emit(values, index, events, state):
    value = values[index]
    events += encode_all(note_sequences.note_event_data_to_events(state, value, CODEC))
    return index + 1


def encode_all(events):
    return [CODEC.encode_event(event) for event in events]


def index(notes, frame_times, spec=note_sequences.NoteEncodingWithTiesSpec, **options):
    times, values = note_sequences.note_sequence_to_onsets_and_offsets_and_programs(
        notes
    )
    convert = options.pop("convert", lambda values: values)
    return run_length_encoding.encode_and_index_events(
        spec.init_encoding_state_fn(),
        times,
        convert(values),
        spec.encode_event_fn,
        CODEC,
        frame_times,
        spec.encoding_state_to_events_fn,
        **options,
    )


def section(indexed, frame):
    states = indexed.state_events[indexed.state_event_indices[frame] :].tolist()
    return states[: states.index(TIE) + 1]


@given(note_lists(max_size=12), st.integers(1, 400))
def test_stream_equals_direct_reading(notes, num_frames):
    times, values = note_sequences.note_sequence_to_onsets_and_offsets_and_programs(
        notes
    )
    order = np.argsort(times, kind="stable")
    steps = [round(time * CODEC.steps_per_second) for time in times[order].tolist()]
    frame_times = np.arange(num_frames) / 125
    indexed = index(notes, frame_times, stale_end_state=False)
    events, starts, states = direct_stream(steps, values[order], frame_times)
    assert indexed.events.tolist() == events
    assert indexed.event_start_indices.tolist() == starts
    assert indexed.event_end_indices.tolist() == [*starts[1:], len(events)]
    for frame in range(0, num_frames, 17):
        assert section(indexed, frame) == states[frame]


@given(
    note_lists(max_size=12),
    st.integers(1, 400),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_columns_are_encoded_as_one_by_one(notes, num_frames, stale, clip, ties):
    spec = note_sequences.NoteEncodingSpec
    if ties:
        spec = note_sequences.NoteEncodingWithTiesSpec
    array = note_sequences.notes_to_array(notes)
    # Some events lie before the first step.
    array["start_time"] -= 1
    array["end_time"] -= 1
    options = {"stale_end_state": stale, "clip_early_events": clip}
    frame_times = np.arange(num_frames) / 125
    whole = index(array, frame_times, spec, **options)
    single = index(array, frame_times, spec, convert=list, **options)
    for found, expected in zip(whole, single, strict=True):
        assert found.tolist() == expected.tolist()
        assert found.dtype == expected.dtype == np.int32


# Made by the original: notes, the state section of each event, and where the sections
# of some frames begin. The last frames have the state before the last two events.
ORIGINAL_NOTES = [
    Note(0.5, 1.0, 62, 80, 5),
    Note(0.5, 1.0, 60, 90, 5),
    Note(0.2, 0.7, 70, 90, 3),
    Note(0.2, 0.3, 38, 90, 0, True),
]
ORIGINAL_SECTIONS = [
    [],
    [(3, 70)],
    [(3, 70)],
    [(3, 70), (5, 60)],
    [(3, 70), (5, 60), (5, 62)],
    [(5, 60), (5, 62)],
    [(5, 62)],
]
ORIGINAL_STATE_INDICES = [0] * 27 + [4] * 37 + [12] * 25 + [19] * 161


def test_sections_are_the_originals():
    expected = []
    for pairs in ORIGINAL_SECTIONS:
        for program, pitch in pairs:
            expected += encode(("program", program), ("pitch", pitch)).tolist()
        expected.append(TIE)
    indexed = index(ORIGINAL_NOTES, np.arange(250) / 125)
    assert indexed.state_events.tolist() == expected
    assert indexed.state_event_indices.tolist() == ORIGINAL_STATE_INDICES
    starts = indexed.event_start_indices
    assert starts[[26, 27, 63, 64, 88, 89, 126, 127, 249]].tolist() == [
        *[20, 26, 55, 62, 81, 85, 114, 121, 219]
    ]
    assert len(indexed.events) == 220
    # The option adds the state at the end, for the frames after it.
    right = index(ORIGINAL_NOTES, np.arange(250) / 125, stale_end_state=False)
    assert right.state_events.tolist() == [*expected, TIE]
    last = len(expected)
    # The last events are at 1 s; frame 127 is the first of the next step.
    expected_indices = [*ORIGINAL_STATE_INDICES[:127], *([last] * 123)]
    assert right.state_event_indices.tolist() == expected_indices


@pytest.mark.parametrize("convert", [lambda values: values, list])
def test_the_state_is_left_as_at_the_end(convert):
    spec = note_sequences.NoteEncodingWithTiesSpec
    times, values = note_sequences.note_sequence_to_onsets_and_offsets_and_programs(
        [*ORIGINAL_NOTES, Note(0.9, 9.0, 50, 20, 5)]
    )
    before_nine = times < 9
    state = note_sequences.NoteEncodingState({(60, 3): 1})
    indexed = run_length_encoding.encode_and_index_events(
        state,
        times[before_nine],
        convert(values[before_nine]),
        spec.encode_event_fn,
        CODEC,
        [0.0],
        spec.encoding_state_to_events_fn,
    )
    # Sections begin with what sounded before.
    expected = [("program", 3), ("pitch", 60), ("tie", 0)]
    assert section(indexed, 0) == encode(*expected).tolist()
    # As the original leaves it.
    assert state.active_pitches == {
        **{(60, 3): 1, (70, 3): 0, (60, 5): 0, (62, 5): 0, (50, 5): 1}
    }


def test_events_before_the_first_step():
    frame_times = np.arange(20) / 125
    notes = note_sequences.notes_to_array([Note(0.0, 0.02, 60, 100, 3)])
    notes["start_time"] = -0.5
    # Made by the original.
    on = encode(("program", 3), ("velocity", 1), ("pitch", 60)).tolist()
    off = encode(("program", 3), ("velocity", 0), ("pitch", 60)).tolist()
    indexed = index(notes, frame_times)
    assert indexed.events.tolist() == [*on, 1, 1, *off, *[1] * 14]
    assert indexed.event_start_indices.tolist() == [
        *[0, 0, 4, 5, 9, 10, 10, 11, 12, 13, 14, 14, 15, 16, 17, 18, 18, 19, 20, 21]
    ]
    assert indexed.state_event_indices.tolist() == [0, 0] + [1] * 18
    # The option: in the state alone.
    indexed = index(notes, frame_times, clip_early_events=False)
    assert indexed.events.tolist() == [1, 1, *off, *[1] * 14]
    assert section(indexed, 0) == [on[0], on[2], TIE]


def test_any_function_encodes():
    def encode_word(state, value, codec):
        state.append(value)
        return [event_codec.Event("pitch", letter) for letter in value]

    def write_state(state):
        return [event_codec.Event("program", len(state)), event_codec.Event("tie", 0)]

    indexed = run_length_encoding.encode_and_index_events(
        [],
        [0.02, 0.01],
        [b"\x02\x03", b"\x01"],
        encode_word,
        CODEC,
        [0.0, 0.01, 0.02, 0.03],
        write_state,
        stale_end_state=False,
    )
    pitches = encode(("pitch", 1), ("pitch", 2), ("pitch", 3)).tolist()
    assert indexed.events.tolist() == [1, pitches[0], 1, *pitches[1:], 1, 1]
    sections = encode(*[e for n in range(3) for e in (("program", n), ("tie", 0))])
    assert indexed.state_events.tolist() == sections.tolist()
    assert indexed.state_event_indices.tolist() == [0, 0, 2, 4]


def test_no_frames():
    with pytest.raises(ShapeError, match="no frames"):
        index([], np.zeros(0))


def test_segment_outside_song():
    song = index([Note(0.0, 1.0, 60)], np.arange(9) / 125)
    with pytest.raises(ShapeError, match="frame 9.*song's 9"):
        run_length_encoding.extract_segment(song, 9, 1, TIE)


def test_state_sections_must_end():
    song = index(ORIGINAL_NOTES, np.arange(99) / 125)
    with pytest.raises(TokenError, match="frame 50: its state section has no end"):
        run_length_encoding.extract_segment(song, 50, 1, 9999)


STREAM = {
    "targets": np.array([1, 2, 3, 4, 5, 6], np.int32),
    "input_event_start_indices": np.array([1, 2], np.int32),
    "input_event_end_indices": np.array([2, 4], np.int32),
    "state_events": np.array([9, 8, 7, 6, 7], np.int32),
    "input_state_event_indices": np.array([1, 3], np.int32),
}


@pytest.mark.parametrize(("end", "expected"), [(None, []), (7, [8, 7]), (6, [8, 7, 6])])
def test_extracting_targets_from_features(end, expected):
    """The original's outputs, of examples and of datasets."""
    extract = run_length_encoding.extract_target_sequence_with_indices
    found = extract(STREAM, end)
    assert found["targets"].tolist() == [*expected, 2, 3, 4]
    assert STREAM["targets"].tolist() == [1, 2, 3, 4, 5, 6]
    ds = tf.data.Dataset.from_tensors(STREAM)
    (example,) = extract(ds, state_events_end_token=end).as_numpy_iterator()
    assert example.keys() == STREAM.keys()
    assert example["targets"].tolist() == [*expected, 2, 3, 4]
    without = {k: tf.constant(v) for k, v in STREAM.items() if "state" not in k}
    assert extract(without)["targets"].numpy().tolist() == [2, 3, 4]


def test_functions_of_datasets():
    """The original's outputs."""
    codec = vocabularies.build_codec(VocabularyConfig())
    one = {"a": np.array([1, 1, 1061, 2], np.int64), "targets": [3]}
    ds = tf.data.Dataset.from_tensors(one)
    ds = ds.apply(run_length_encoding.run_length_encode_shifts_fn(codec, "a"))
    assert ds.element_spec["a"] == tf.TensorSpec([None], tf.int32)
    (example,) = ds.as_numpy_iterator()
    assert (example["a"].tolist(), example["targets"].tolist()) == ([2, 1061], [3])
    # 1259, 1132: program 1, velocity 3; 1061: pitch 60.
    events = [3, 1259, 3, 1132, 3, 1061, 1259, 1132, 1062]
    for types, expected in (
        ((), events),
        (("velocity", "program"), [3, 1259, 3, 1132, 3, 1061, 1062]),
        (("velocity", "program", "shift"), [3, 1259, 1132, 1061, 1062]),
    ):
        reduce = run_length_encoding.remove_redundant_state_changes_fn(
            codec, state_change_event_types=types
        )
        ds = tf.data.Dataset.from_tensors({"targets": events}).apply(reduce)
        (example,) = ds.as_numpy_iterator()
        assert example["targets"].tolist() == expected


def test_shifts_become_absolute_and_trailing_ones_go():
    one, pitch = ("shift", 1), ("pitch", 60)
    stream = encode(pitch, one, one, pitch, one, pitch, one, one)
    coded = run_length_encoding.run_length_encode_shifts(stream, CODEC)
    assert decode(coded) == [pitch, ("shift", 2), pitch, ("shift", 3), pitch]
    steps = run_length_encoding.absolute_steps(coded, CODEC)
    assert steps.tolist() == [0, 2, 2, 3, 3]


def test_long_shifts_are_split():
    stream = np.concatenate([np.ones(2500, np.int32), encode(("pitch", 60))])
    coded = run_length_encoding.run_length_encode_shifts(stream, CODEC)
    shifts = [("shift", 1000), ("shift", 1000), ("shift", 500)]
    assert decode(coded) == [*shifts, ("pitch", 60)]
    assert run_length_encoding.absolute_steps(coded, CODEC)[-1] == 2500


def test_empty_streams():
    empty = np.zeros(0, np.int32)
    assert len(run_length_encoding.run_length_encode_shifts(empty, CODEC)) == 0
    assert len(run_length_encoding.remove_redundant_state_changes(empty, CODEC)) == 0
    assert len(run_length_encoding.absolute_steps(empty, CODEC)) == 0
    for option in (True, False):
        merged = run_length_encoding.merge_run_length_encoded_targets(
            [], CODEC, one_tie_section=option
        )
        assert len(merged) == 0


def test_redundant_state_changes_go():
    on, program = ("velocity", 1), ("program", 0)
    stream = encode(
        program, on, ("pitch", 60), program, on, ("pitch", 64), ("program", 5)
    )
    kept = run_length_encoding.remove_redundant_state_changes(stream, CODEC)
    pitches = [("pitch", 60), ("pitch", 64)]
    assert decode(kept) == [program, on, *pitches, ("program", 5)]


def test_merge_has_one_tie_section():
    on = ("velocity", 1)
    first = encode(
        ("program", 40), ("pitch", 70), ("tie", 0), ("shift", 5), on, ("pitch", 72)
    )
    second = encode(
        *[("program", 0), ("pitch", 50), ("tie", 0), on, ("pitch", 52)],
        *[("shift", 5), on, ("drum", 36)],
    )
    merged = run_length_encoding.merge_run_length_encoded_targets(
        [first, second], CODEC, one_tie_section=True
    )
    assert decode(merged) == [
        *[("program", 0), ("pitch", 50), ("program", 40), ("pitch", 70), ("tie", 0)],
        *[("program", 0), on, ("pitch", 52)],
        *[("shift", 5), ("program", 40), on, ("pitch", 72), on, ("drum", 36)],
    ]


def test_merge_without_ties_or_programs():
    first = encode(("shift", 3), ("pitch", 60))
    second = encode(("pitch", 61), ("shift", 3), ("pitch", 62))
    merged = run_length_encoding.merge_run_length_encoded_targets(
        [first, second], CODEC, one_tie_section=True
    )
    pitches = [("pitch", 61), ("shift", 3), ("pitch", 60), ("pitch", 62)]
    assert decode(merged) == pitches


# Streams (pitch 0 is 1001), padded with zeros, and how the original merges them. It
# takes the number of a shift as it stands, and ends a stream at a shift of 0.
MERGED = [
    (
        [[3, 1061, 1062, 5, 1063], [1060, 1064, 3, 1065, 0]],
        [1060, 1064, 3, 1061, 1062, 1065, 5, 1063],
    ),
    (
        [[1000, 500, 1061, 0], [1000, 200, 1062, 1000]],
        [1000, 500, 1061, 1000, 200, 1062, 1000],
    ),
    ([[3, 1061, 3, 1062]], [3, 1061, 1062]),
    ([[5, 1061, 3, 1062], [4, 1063, 6, 1064]], [4, 1063, 5, 1061, 3, 1062, 6, 1064]),
    ([[5, 1061, 0, 1062], [4, 1063, 6, 1064]], [4, 1063, 5, 1061, 6, 1064]),
    (
        [[5, 1061, 7, 8, 1062], [4, 1063, 6, 1064, 9]],
        [4, 1063, 5, 1061, 6, 1064, 7, 8, 1062, 9],
    ),
    ([[0, 0, 0, 0], [0, 0, 0, 0]], []),
]


@pytest.mark.parametrize(("streams", "expected"), MERGED)
def test_merge_as_the_original(streams, expected):
    merge = run_length_encoding.merge_run_length_encoded_targets
    assert merge(np.array(streams), CODEC).tolist() == expected
    assert merge(tf.constant(streams), CODEC).numpy().tolist() == expected
    unpadded = [np.trim_zeros(row, "b") for row in streams]
    assert merge(unpadded, CODEC).tolist() == expected


def test_the_original_keeps_a_tie_section_for_each_stream():
    first = encode(
        ("program", 3), ("pitch", 60), ("tie", 0), ("shift", 5), ("pitch", 60)
    )
    second = encode(
        ("program", 4), ("pitch", 62), ("tie", 0), ("shift", 5), ("drum", 36)
    )
    merged = run_length_encoding.merge_run_length_encoded_targets(
        [first, second], CODEC
    )
    assert decode(merged) == [
        # At the start the last stream comes first, later the first.
        *[("program", 4), ("pitch", 62), ("tie", 0)],
        *[("program", 3), ("pitch", 60), ("tie", 0)],
        *[("shift", 5), ("pitch", 60), ("drum", 36)],
    ]


@pytest.mark.parametrize(
    ("tokens", "limit", "counts", "seen"),
    [
        # Shifts add up until another event; invalid ids do not end a run.
        ([100, -1, 100, 1061, 3, 9999, 4, 1062], None, (2, 0), [(2.0, 60), (0.07, 61)]),
        # What is exactly at the limit stays; after the first late shift all is dropped.
        ([25, 1061, 26, 1062, 1, 1063], 0.25, (0, 4), [(0.25, 60)]),
        # A limit of 0 is none, as in the original.
        ([5, 1061, 30, 1062], 0.0, (0, 0), [(0.05, 60), (0.3, 61)]),
        # The function refuses pitch 5.
        ([1006, 1061], None, (1, 0), [(0.0, 60)]),
    ],
)
def test_decoding_with_any_function(tokens, limit, counts, seen):
    def take(state, time, event, codec):
        if event.value == 5:
            raise ValueError
        state.append((time, event.value))

    state = []
    arguments = (tokens, 0.0, limit, CODEC, take)
    assert run_length_encoding.decode_events(state, *arguments) == counts
    assert state == [(pytest.approx(time), value) for time, value in seen]


def test_other_errors_of_the_function_come_out():
    def fail(*unused):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run_length_encoding.decode_events(None, [1061], 0.0, None, CODEC, fail)


def test_segments_are_decoded_in_time_order():
    calls = []

    def take(state, tokens, start, end):
        state.append((tokens, start, end))
        return 1, 2

    result = run_length_encoding.decode_segments(
        [(2.0, "b"), (0.0, "a"), (4.5, "c")], list, calls.append, take, tuple
    )
    segments = (("a", 0.0, 2.0), ("b", 2.0, 4.5), ("c", 4.5, None))
    assert result == (segments, 3, 6)
    assert len(calls) == 3
