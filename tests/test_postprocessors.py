"""What evaluation keeps of each segment."""

from __future__ import annotations

import json

import note_seq
import numpy as np
import pytest
import seqio

from mt3 import note_sequences, postprocessors, vocabularies
from mt3.configs import ISMIR2021, MT3
from mt3.errors import DataError
from mt3.note_sequences import Note
from mt3.tokenizer import NoteTokenizer

NOTES = [Note(0.5, 1.0, 60, 90, 40), Note(2.0, 2.1, 38, 90, 0, True)]


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
    post = postprocessors.postprocess_fn(MT3)
    first = post([5, 6, -1, -1], example=example(), is_target=True)
    assert first["unique_id"] == "song"
    assert first["ref_ns"] == NOTES
    assert first["ref_tokens"].tolist() == [5, 6]
    later = post([], example=example(256, sequence=b""), is_target=True)
    assert later["ref_ns"] is None
    assert later["ref_tokens"].tolist() == []


@pytest.mark.parametrize("config", [MT3, ISMIR2021])
def test_predictions_start_on_the_step_before(config):
    post = postprocessors.postprocess_fn(config)
    tokenizer = NoteTokenizer(config)
    for first_frame in (0, 1, 255, 256, 3 * 256, 1001 * 512, 4_000_000):
        got = post([5], example=example(first_frame), is_target=False)
        assert got["start_time"] == tokenizer.segment_start_time(first_frame)


def test_recordings_are_kept_of_the_first_seconds():
    def samples(frame, **options):
        post = postprocessors.postprocess_fn(MT3, **options)
        return post([5], example=example(frame), is_target=False)["raw_inputs"]

    assert samples(3749).shape == (512,)
    assert samples(3750) is None
    assert samples(125, raw_inputs_seconds=1.0) is None
    without = example()
    del without["raw_inputs"]
    got = postprocessors.postprocess([5], without, is_target=False, config=MT3)
    assert got["raw_inputs"] is None


def test_special_ids_are_told_from_eos():
    codec = vocabularies.build_codec(MT3.vocabulary)
    vocabulary = vocabularies.vocabulary_from_codec(codec)
    decoded = vocabulary.decode([10, 0, 2, 11, 1, 12, 0])
    got = postprocessors.postprocess(decoded, example(), is_target=False, config=MT3)
    assert got["est_tokens"].tolist() == [7, -2, -2, 8]


def test_records_are_json():
    encoder = seqio.loggers.TensorAndNumpyEncoder
    for is_target in (True, False):
        record = postprocessors.postprocess([5], example(), is_target, config=MT3)
        assert "song" in json.dumps(record, cls=encoder)


def test_bent_and_empty_notes_do_not_stop_an_evaluation():
    sequence = note_seq.NoteSequence()
    sequence.notes.add(pitch=60, velocity=80, start_time=1, end_time=1)
    sequence.pitch_bends.add(bend=100)
    data = example(sequence=sequence.SerializeToString())
    got = postprocessors.postprocess([], data, is_target=True, config=MT3)
    assert got["ref_ns"] == [Note(1, 1, 60, 80)]


def test_missing_and_broken_features_are_named():
    for name in ("unique_id", "input_times", "sequence"):
        broken = example()
        del broken[name]
        with pytest.raises(DataError, match=f"'{name}' is missing; found"):
            postprocessors.postprocess([], broken, is_target=True, config=MT3)
    with pytest.raises(DataError, match="song: feature 'input_times' is empty"):
        postprocessors.postprocess(
            [], example(input_times=np.zeros(0)), is_target=False, config=MT3
        )
    with pytest.raises(DataError, match="song: feature 'sequence'"):
        postprocessors.postprocess(
            [], example(sequence=b"\xff\xff"), is_target=True, config=MT3
        )
