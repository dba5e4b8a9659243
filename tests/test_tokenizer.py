"""Notes to tokens to notes, splitting and stitching, merging, arbitrary ids."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import configs, note_sequences, run_length_encoding, tokenizer
from mt3.errors import ConfigError, MidiError
from mt3.note_sequences import Note, NoteDecoder
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
    # Different programs and drums, so that the sources can be told apart again.
    one = expressible([n for n in one if not n.is_drum and n.program < 30])
    other = expressible([n for n in other if n.is_drum or n.program > 30])
    tok = FULL_VELOCITY

    def stream(notes):
        song = tok.encode_song(notes, 1600)
        return tok.segment_events(song, first_frame, 256)

    merged = run_length_encoding.merge_run_length_encoded_targets(
        [stream(one), stream(other)], tok.codec
    )
    merged = run_length_encoding.remove_redundant_state_changes(merged, tok.codec)
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


def test_decoder_options():
    with pytest.raises(ConfigError, match="unclosed_ties"):
        NoteDecoder(TIES.codec, ties=True, unclosed_ties="maybe")
    with pytest.raises(ConfigError, match="ties"):
        NoteDecoder(TIES.codec, ties=True, onsets_only=True)


def test_trim_overlapping_notes():
    notes = [Note(0, 2, 60), Note(1, 3, 60), Note(0, 2, 60, program=1), Note(1, 4, 61)]
    trimmed = note_sequences.trim_overlapping_notes(notes)
    assert rounded(trimmed) == rounded([Note(0, 1, 60), *notes[1:]])
    assert note_sequences.trim_overlapping_notes([]) == []


def test_trimming_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    # Times on a coarse grid, so that many are equal.
    notes = [
        Note(start, start + rng.integers(1, 6), 60 + p, 100 + v, program, bool(is_drum))
        for start, p, v, program, is_drum in rng.integers(0, [30, 2, 3, 2, 2], (300, 5))
    ]
    last, expected = {}, []
    for note in sorted(notes):
        key = (note.pitch, note.program, note.is_drum)
        if key in last:
            before = expected[last[key]]
            end = min(before.end_time, note.start_time)
            expected[last[key]] = dataclasses.replace(before, end_time=end)
        last[key] = len(expected)
        expected.append(note)
    expected = [note for note in expected if note.end_time > note.start_time]
    assert 20 < len(expected) < 300
    assert note_sequences.trim_overlapping_notes(notes) == expected


def test_assign_instruments():
    programs = [5, 5, 7, *range(20, 29)]
    notes = [Note(0, 1, 60, program=p) for p in programs]
    notes.insert(2, Note(0, 1, 38, is_drum=True))
    numbers = note_sequences.assign_instruments(notes)
    assert numbers == [0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        (Note(1.0, 0.5, 60), "before its onset"),
        (Note(-1.0, 0.5, 60), "before 0 s"),
        (Note(0.0, float("nan"), 60), "not finite"),
        (Note(0.0, 1.0, 128), "pitch"),
        (Note(0.0, 1.0, 60, 0), "velocity"),
        (Note(0.0, 1.0, 60, 100, 128), "program"),
    ],
)
def test_validate_notes(note, problem):
    with pytest.raises(MidiError, match=f"song.mid: note 1: .*{problem}"):
        note_sequences.validate_notes([Note(0, 1, 60), note], "song.mid")


def test_configuration_round_trip_and_errors():
    config = configs.ISMIR2021
    assert configs.ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="did you mean|Did you mean network"):
        configs.ModelConfig.from_dict({"netwrok": {}})
    with pytest.raises(ConfigError, match="onsets_only and include_ties"):
        configs.ModelConfig(network={}, onsets_only=True)
