"""Events and indices are inverse; bad events are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import event_codec, vocabularies
from mt3.errors import TokenError

CODEC = vocabularies.build_codec(vocabularies.VocabularyConfig())


@given(st.integers(0, CODEC.num_classes - 1))
def test_decode_then_encode(index):
    assert CODEC.encode_event(CODEC.decode_event_index(index)) == index


@pytest.mark.parametrize(
    ("event_type", "value", "index"),
    [
        ("shift", 0, 0),
        ("shift", 1000, 1000),
        ("pitch", 0, 1001),
        ("velocity", 0, 1129),
        ("velocity", 127, 1256),
        ("tie", 0, 1257),
        ("program", 0, 1258),
        ("drum", 127, 1513),
    ],
)
def test_order_of_ranges(event_type, value, index):
    assert CODEC.encode_event(event_codec.Event(event_type, value)) == index


def test_arrays_agree_with_single_events():
    indices = np.arange(CODEC.num_classes)
    events = [CODEC.decode_event_index(i) for i in indices]
    assert CODEC.values(indices).tolist() == [event.value for event in events]
    for event_type in CODEC.types:
        marked = [event.type == event_type for event in events]
        assert CODEC.is_type(indices, event_type).tolist() == marked
    pitches = CODEC.encode_values("pitch", np.arange(128))
    assert CODEC.is_type(indices, "pitch").nonzero()[0].tolist() == pitches.tolist()


def test_shift_indices():
    assert CODEC.is_shift_event_index(0)
    assert CODEC.is_shift_event_index(1000)
    assert not CODEC.is_shift_event_index(1001)
    assert CODEC.max_shift_steps == 1000


@pytest.mark.parametrize("index", [-1, CODEC.num_classes])
def test_index_outside_codec(index):
    with pytest.raises(TokenError, match=f"{index} is outside 0..1513"):
        CODEC.decode_event_index(index)


def test_unknown_type_lists_near_misses():
    with pytest.raises(TokenError, match="did you mean|Did you mean pitch"):
        CODEC.encode_event(event_codec.Event("pich", 3))


def test_values_outside_range():
    with pytest.raises(TokenError, match="128"):
        CODEC.encode_event(event_codec.Event("pitch", 128))
    with pytest.raises(TokenError, match="-1"):
        CODEC.encode_values("drum", np.array([3, -1]))


def test_ranges_must_differ():
    ranges = [event_codec.EventRange("a", 0, 1), event_codec.EventRange("a", 0, 1)]
    with pytest.raises(TokenError, match="twice"):
        event_codec.Codec(10, 100, ranges)
    with pytest.raises(TokenError, match="empty"):
        event_codec.Codec(10, 100, [event_codec.EventRange("a", 1, 0)])
