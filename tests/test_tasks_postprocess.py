"""What evaluation keeps of each segment."""

from __future__ import annotations

import functools
import json

import note_seq
import numpy as np
import pytest
import seqio

from mt3 import note_sequences, tasks, vocabularies
from mt3.configs import ISMIR2021, MT3
from mt3.errors import DataError
from mt3.note_sequences import Note
from mt3.tokenizer import NoteTokenizer

NOTES = [Note(0.5, 1.0, 60, 90, 40), Note(2.0, 2.1, 38, 90, 0, True)]
CODEC = vocabularies.build_codec(MT3.vocabulary)
# As `tasks.register` has it.
OURS = functools.partial(
    tasks.postprocess,
    codec=CODEC,
    as_notes=True,
    float_modulo=False,
    raw_inputs_seconds=30.0,
)


def example(first_frame=0, **features):
    return {
        "unique_id": np.array([b"song"], object),
        "input_times": np.arange(first_frame, first_frame + 4, dtype=np.float32)
        * np.float32(0.008),
        "sequence": note_sequences.to_note_sequence(NOTES).SerializeToString(),
        "raw_inputs": np.ones(512, np.float32),
        **features,
    }


def test_targets_carry_the_reference_in_the_first_segment_alone():
    first = OURS([5, 6, -1, -1], example=example(), is_target=True)
    assert first["unique_id"] == "song"
    assert first["ref_ns"] == NOTES
    assert first["ref_tokens"].tolist() == [5, 6]
    later = OURS([], example=example(256, sequence=b""), is_target=True)
    assert later["ref_ns"] is None
    assert later["ref_tokens"].tolist() == []


def test_the_original_way():
    """Values of the original, run on the same examples."""
    data = note_sequences.to_note_sequence(NOTES).SerializeToString()
    for sequence in (data, np.array([data, b"", b""], object)):
        found = tasks.postprocess([5, -1], example(sequence=sequence), True, CODEC)
        assert found["unique_id"] == b"song"
        assert found["ref_ns"] == note_seq.NoteSequence.FromString(data)
    # An empty sequence says that a segment is not the first one, whatever its time.
    for frame, sequence, there in ((0, b"", False), (3, data, True), (3, b"", False)):
        found = tasks.postprocess([], example(frame, sequence=sequence), True, CODEC)
        assert (found["ref_ns"] is not None) == there
    starts = [
        tasks.postprocess([5], example(256 * i), False, CODEC)["start_time"]
        for i in range(12)
    ]
    expected = (0.0, 2.04, 4.0899997, 6.14, 8.19, 10.24, 12.28, 14.33, 16.38, 18.43)
    expected = np.array([*expected, 20.48, 22.519999], np.float32)
    np.testing.assert_array_equal(np.array(starts, np.float32), expected)
    later = tasks.postprocess([5], example(100_000), False, CODEC)
    assert later["raw_inputs"].shape == (512,)
    numbered = example(unique_id=np.array([7]))
    assert tasks.postprocess([5], numbered, False, CODEC)["unique_id"] == 7


def test_tokens_end_at_eos():
    for tokens, expected in (
        ([1, 2, -1, 3, -1], [1, 2]),
        ([], []),
        (np.array([3, 4]), [3, 4]),
        ([-1], []),
    ):
        found = tasks.trim_eos(tokens)
        assert found.dtype == np.int32
        assert found.tolist() == expected


@pytest.mark.parametrize("config", [MT3, ISMIR2021])
def test_predictions_start_on_the_step_before(config):
    tokenizer = NoteTokenizer(config)
    for first_frame in (0, 1, 255, 256, 3 * 256, 1001 * 512, 4_000_000):
        got = OURS([5], example=example(first_frame), is_target=False)
        assert got["start_time"] == tokenizer.segment_start_time(first_frame)


def test_recordings_are_kept_of_the_first_seconds():
    def samples(frame, **options):
        return OURS([5], example=example(frame), is_target=False, **options)[
            "raw_inputs"
        ]

    assert samples(3749).shape == (512,)
    assert samples(3750) is None
    assert samples(125, raw_inputs_seconds=1.0) is None
    without = example()
    del without["raw_inputs"]
    assert OURS([5], without, is_target=False)["raw_inputs"] is None


def test_special_ids_are_not_eos():
    vocabulary = vocabularies.vocabulary_from_codec(CODEC)
    decoded = vocabulary.decode([10, 0, 2, 11, 1, 12, 0])
    got = OURS(decoded, example(), is_target=False)
    assert got["est_tokens"].tolist() == [7, -2, -2, 8]


def test_records_are_json():
    encoder = seqio.loggers.TensorAndNumpyEncoder
    for is_target in (True, False):
        record = OURS([5], example(), is_target)
        assert "song" in json.dumps(record, cls=encoder)


def test_bent_and_empty_notes_do_not_stop_an_evaluation():
    sequence = note_seq.NoteSequence()
    sequence.notes.add(pitch=60, velocity=80, start_time=1, end_time=1)
    sequence.pitch_bends.add(bend=100)
    data = example(sequence=sequence.SerializeToString())
    got = OURS([], data, is_target=True)
    assert got["ref_ns"] == [Note(1, 1, 60, 80)]


def test_missing_and_broken_features_are_named():
    for name in ("unique_id", "input_times", "sequence"):
        broken = example()
        del broken[name]
        with pytest.raises(DataError, match=f"'{name}' is missing.*; found"):
            OURS([], broken, is_target=True)
    with pytest.raises(DataError, match="feature 'input_times' is missing or empty"):
        OURS([], example(input_times=np.zeros(0)), is_target=False)
    with pytest.raises(DataError, match="song: feature 'sequence'"):
        OURS([], example(sequence=b"\xff\xff"), is_target=True)
