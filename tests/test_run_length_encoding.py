"""Streams against a direct, event-by-event reading of the rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import note_sequences, run_length_encoding, vocabularies
from mt3.errors import ShapeError
from mt3.note_sequences import Note
from mt3.vocabularies import VocabularyConfig
from tests.support.note_strategies import note_lists

CODEC = vocabularies.build_codec(VocabularyConfig(num_velocity_bins=1))


def encode(*events):
    return np.concatenate(
        [CODEC.encode_values(kind, np.array([value])) for kind, value in events]
    )


def decode(tokens):
    events = [CODEC.decode_event_index(int(token)) for token in tokens]
    return [(event.type, event.value) for event in events]


def direct_stream(timed, frame_times):
    """Writes the stream one event and one shift at a time, as the rules read."""
    rate = CODEC.steps_per_second
    steps = [round(time * rate) for time in timed.times.tolist()]
    events, starts, states, sounding = [], [], [], {}
    step, next_event = 0, 0
    for frame_time in frame_times:
        while (step + 1) / rate <= frame_time:
            while next_event < len(steps) and steps[next_event] <= step:
                next_event = _emit(timed, next_event, events, sounding)
            events.append(1)
            step += 1
        starts.append(len(events))
        states.append(sorted(key for key, on in sounding.items() if on))
    last = max([step + 1, *steps])
    while step <= last:
        while next_event < len(steps) and steps[next_event] <= step:
            next_event = _emit(timed, next_event, events, sounding)
        if step < last:
            events.append(1)
        step += 1
    return events, starts, states


def _emit(timed, index, events, sounding):
    events.extend(int(token) for token in timed.tokens[index] if token >= 0)
    if timed.keys[index] >= 0:
        sounding[int(timed.keys[index])] = bool(timed.is_on[index])
    return index + 1


@given(note_lists(max_size=12), st.integers(1, 400))
def test_stream_equals_direct_reading(notes, num_frames):
    timed = note_sequences.note_events(notes, CODEC)
    frame_times = np.arange(num_frames) / 125
    indexed = run_length_encoding.encode_and_index_events(
        timed, frame_times, CODEC, with_state=True
    )
    events, starts, states = direct_stream(timed, frame_times)
    assert indexed.events.tolist() == events
    assert indexed.event_start_indices.tolist() == starts
    assert indexed.event_end_indices.tolist() == [*starts[1:], len(events)]
    for frame in range(0, num_frames, 17):
        begin = indexed.state_event_indices[frame]
        section = decode(
            indexed.state_events[begin : begin + 2 * len(states[frame]) + 1]
        )
        assert section[-1] == ("tie", 0)
        values = [value for _, value in section[:-1]]
        keys = [128 * p + q for p, q in zip(values[::2], values[1::2], strict=True)]
        assert keys == states[frame]


def test_no_frames():
    timed = note_sequences.note_events([], CODEC)
    with pytest.raises(ShapeError, match="no frames"):
        run_length_encoding.encode_and_index_events(timed, np.zeros(0), CODEC)


def test_segment_outside_song():
    timed = note_sequences.note_events([Note(0.0, 1.0, 60)], CODEC)
    song = run_length_encoding.encode_and_index_events(timed, np.arange(9) / 125, CODEC)
    with pytest.raises(ShapeError, match="frame 9.*song's 9"):
        run_length_encoding.extract_segment(song, 9, 1, CODEC)


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
    assert len(run_length_encoding.merge_run_length_encoded_targets([], CODEC)) == 0


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
        [first, second], CODEC
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
        [first, second], CODEC
    )
    pitches = [("pitch", 61), ("shift", 3), ("pitch", 60), ("pitch", 62)]
    assert decode(merged) == pitches
