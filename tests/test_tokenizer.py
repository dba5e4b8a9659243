"""Notes to tokens to notes, splitting and stitching, merging, arbitrary ids."""

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import configs, note_sequences, run_length_encoding, tokenizer
from mt3.errors import ConfigError, DataError
from mt3.event_codec import Event
from mt3.note_sequences import Note
from mt3.vocabularies import VocabularyConfig
from tests.support.note_strategies import expressible, note_lists, rounded

TIES = tokenizer.NoteTokenizer(configs.MT3)
NOTES = tokenizer.NoteTokenizer(configs.ISMIR2021)
FULL_VELOCITY = tokenizer.NoteTokenizer(
    configs.ModelConfig(network={}, vocabulary=VocabularyConfig())
)
ONSETS = tokenizer.NoteTokenizer(
    configs.ModelConfig(network={}, include_ties=False, onsets_only=True)
)


def stitched(tok, notes, cuts, num_frames):
    """Encodes a song cut at the given frames, and decodes it again."""
    song = tok.encode_song(notes, num_frames)
    edges = [0, *cuts, num_frames]
    predictions = []
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        ids = tok.segment_ids(song, first, end - first)
        start = tok.segment_start_time(first)
        predictions.append((start, tok.predicted_events(ids)))
    return tokenizer.decode_predictions(predictions, tok)


@given(note_lists())
def test_notes_to_tokens_to_notes(notes):
    notes = expressible(notes)
    decoded, invalid, dropped = stitched(FULL_VELOCITY, notes, [], 1600)
    assert rounded(decoded) == rounded(notes)
    assert (invalid, dropped) == (0, 0)


@given(note_lists(), st.sets(st.integers(1, 1599), max_size=8))
def test_split_and_stitch_at_any_frames(notes, cuts):
    # Frame times are multiples of 8 ms; rounding down to a step and the step that a
    # frame begins with agree, so no note moves, wherever the song is cut.
    notes = expressible(notes)
    decoded, invalid, dropped = stitched(FULL_VELOCITY, notes, sorted(cuts), 1600)
    assert rounded(decoded) == rounded(notes)
    assert (invalid, dropped) == (0, 0)


@given(note_lists(max_size=15), note_lists(max_size=15), st.integers(0, 1000))
def test_merge_and_separate(one, other, first_frame):
    # Different programs and drums, so that the sources can be separated again.
    one = expressible([n for n in one if not n.is_drum and n.program < 30])
    other = expressible([n for n in other if n.is_drum or n.program > 30])
    tok = FULL_VELOCITY

    def stream(notes):
        song = tok.encode_song(notes, 1600)
        return tok.segment_events(song, first_frame, 256)

    merged = run_length_encoding.merge_run_length_encoded_targets(
        [stream(one), stream(other)], tok.codec, one_tie_section=True
    )
    merged = tok.reduce(merged)
    together = stream([*one, *other])
    # The order within one step may differ; as notes they are the same.
    assert _one_segment(tok, merged) == _one_segment(tok, together)
    assert len(merged) >= len(together)


def _one_segment(tok, events):
    """Events of a segment as sets: the tie section, and what happens at each step."""
    steps = run_length_encoding.absolute_steps(events, tok.codec)
    program, velocity, in_ties, result = None, None, True, set()
    for token, step in zip(events.tolist(), steps.tolist(), strict=True):
        event = tok.codec.decode_event_index(token)
        if event.type == "tie":
            in_ties = False
        elif event.type == "program":
            program = event.value
        elif event.type == "velocity":
            velocity = event.value
        elif event.type == "pitch":
            state = "tied" if in_ties else velocity
            result.add((step, "pitch", program, state, event.value))
        elif event.type == "drum":
            result.add((step, "drum", velocity, event.value))
    return result


@pytest.mark.parametrize("tok", [TIES, NOTES, FULL_VELOCITY, ONSETS])
@given(
    segments=st.lists(
        st.tuples(st.floats(0, 100), st.lists(st.integers(-(2**40), 2**40))), max_size=5
    ),
    ids=st.lists(st.lists(st.integers(-5, 1700), max_size=80), max_size=5),
    unclosed=st.sampled_from(["keep", "end"]),
)
def test_decoding_arbitrary_ids_never_raises(tok, segments, ids, unclosed):
    likely = [(2.048 * i, tok.predicted_events(row)) for i, row in enumerate(ids)]
    for predictions in (segments, likely):
        notes, invalid, dropped = tokenizer.decode_predictions(
            predictions, tok, unclosed_ties=unclosed
        )
        tokens = sum(len(row) for _, row in predictions)
        assert 0 <= invalid + dropped <= tokens
        for note in notes:
            assert note.end_time > note.start_time
            assert 1 <= note.velocity <= 127


@pytest.mark.parametrize("time", [np.nan, np.inf, -np.inf, 1e7, 1e12, 1e300])
def test_times_that_no_memory_holds_are_refused(time):
    notes = [Note(0.5, time, 60, 90, 0, False)]
    with pytest.raises(DataError, match=r"event at .*; expected none later than 864"):
        TIES.encode_song(notes, 300)
    # As late as the frames and a day more.
    late = Note(0.5, 3600.0, 60, 90, 0, False)
    assert len(TIES.encode_song([late], 300).events) == 360_006


def test_onsets_only():
    notes = [Note(0.5, 1.0, 60, 90, 3), Note(0.5, 0.7, 52, 90, 7)]
    decoded, invalid, _ = stitched(ONSETS, notes, [], 256)
    assert invalid == 0
    expected = [(50, 51, 52, 100, 0, False), (50, 51, 60, 100, 0, False)]
    assert rounded(decoded) == expected


@pytest.mark.parametrize("start", [0.0, 0.24, 3.12])
def test_encode_segment_equals_the_song_cut_there(start):
    notes = [Note(0.1, 5.0, 60), Note(0.31, 0.33, 61), Note(3.5, 4.0, 62, 100, 8)]
    frames = round(start * 125)
    song = TIES.encode_song(notes, 2000)
    alone = TIES.encode_segment(notes, 256, start_time=frames / 125)
    assert alone.tolist() == TIES.segment_ids(song, frames, 256).tolist()
    # The same on a clock that starts at the segment, onsets before it included.
    moved = [
        dataclasses.replace(
            n, start_time=n.start_time - start, end_time=n.end_time - start
        )
        for n in notes
    ]
    moved = note_sequences.notes_to_array(moved)
    tokens = TIES.encode_segment(moved[moved["end_time"] > 0], 256)
    assert tokens.tolist() == alone.tolist()


def test_segment_start_time_in_integers():
    starts = [TIES.segment_start_time(frame) for frame in range(0, 1280, 5)]
    assert starts == [round(step * 0.04, 2) for step in range(256)]
    early = [
        round(100 * (start - TIES.segment_start_time(5 * i, float_modulo=True)))
        for i, start in enumerate(starts)
    ]
    assert set(early) == {0, 1}


def test_unclosed_tie_section():
    codec = TIES.codec
    held = TIES.encode_segment([Note(0.5, 9.0, 60)], 256)
    held = TIES.predicted_events(held)
    shift = codec.encode_values("shift", np.array([100]))
    for option, end in (("keep", 4.048), ("end", 2.048)):
        notes, _, _ = tokenizer.decode_predictions(
            [(0.0, held), (2.048, []), (3.048, np.append(shift, 1001))],
            TIES,
            unclosed_ties=option,
        )
        assert notes[0].start_time == 0.5
        assert notes[0].end_time == pytest.approx(end)


def test_settings_that_exclude_one_another():
    with pytest.raises(ConfigError, match="unclosed_ties"):
        TIES.decoding_spec(unclosed_ties="maybe")
    with pytest.raises(ConfigError, match="onsets have no ties"):
        tokenizer.NoteTokenizer.from_codec(
            TIES.codec, onsets_only=True, include_ties=True
        )
    with pytest.raises(ConfigError, match="granularity"):
        tokenizer.NoteTokenizer.from_codec(
            TIES.codec, onsets_only=True, include_ties=False, program_granularity="no"
        )


def test_a_tokenizer_of_a_codec_is_that_of_the_configuration():
    notes = [Note(0.1, 5.0, 60, 90, 3), Note(0.31, 0.33, 38, 100, 0, True)]
    for config in (configs.MT3, configs.ISMIR2021):
        whole = tokenizer.NoteTokenizer(config)
        part = tokenizer.NoteTokenizer.from_codec(
            whole.codec,
            config.spectrogram,
            onsets_only=config.onsets_only,
            include_ties=config.include_ties,
            program_granularity=config.program_granularity,
        )
        song = part.encode_song(notes, 700)
        ids = part.segment_ids(song, 256, 256)
        assert ids.tolist() == whole.segment_ids(song, 256, 256).tolist()
        assert part.to_ids(part.reduce(part.extract(song, 256))).tolist() == (
            whole.segment_ids(song, 256, 700).tolist()
        )


def test_state_after_the_last_event():
    """The original declares notes as tied that have ended; golden cases have none."""
    notes = [Note(0.1, 0.5, 60, 90, 3)]
    tie = TIES.codec.event_type_range("tie")[0]
    song = TIES.encode_song(notes, 300)
    assert TIES.segment_events(song, 256, 44).tolist() == [tie]
    stale = TIES.encode_song(notes, 300, stale_end_state=True)
    assert TIES.segment_events(stale, 256, 44).tolist() == [
        TIES.codec.encode_event(Event("program", 3)),
        TIES.codec.encode_event(Event("pitch", 60)),
        tie,
    ]
    # Within the song both are the same, and so is a song without events.
    for first in (0, 20, 61):
        assert (
            TIES.segment_events(song, first, 200).tolist()
            == TIES.segment_events(stale, first, 200).tolist()
        )
    for option in (True, False):
        empty = TIES.encode_song([], 300, stale_end_state=option)
        assert TIES.segment_events(empty, 256, 44).tolist() == [tie]


def test_configuration_round_trip_and_errors():
    config = configs.ISMIR2021
    assert configs.ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="did you mean|Did you mean network"):
        configs.ModelConfig.from_dict({"netwrok": {}})
    with pytest.raises(ConfigError, match="onsets_only and include_ties"):
        configs.ModelConfig(network={}, onsets_only=True)


# What JSON can hold, as the metadata of a checkpoint may.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda values: st.lists(values) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=3,
)


@given(
    st.sampled_from(sorted(configs.MT3.to_dict())),
    st.sampled_from([None, "scale", "velocity_bins"]),
    JSON,
)
def test_any_json_is_a_configuration_or_our_error(field, inner, value):
    values = configs.MT3.to_dict()
    if inner and isinstance(values[field], dict):
        value = values[field] | {inner: value}
    with contextlib.suppress(ConfigError):
        configs.ModelConfig.from_dict(values | {field: value})
