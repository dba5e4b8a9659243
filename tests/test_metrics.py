"""The metric function that seqio calls, from segments to event files."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf

from mt3 import metrics as evaluation_metrics
from mt3 import (
    metrics_utils,
    note_sequences,
    postprocessors,
    spectrograms,
    summaries,
    vocabularies,
)
from mt3.configs import MT3
from mt3.data import feature_converters
from mt3.errors import ConfigError, DataError
from mt3.metrics_utils import DecodedSong
from mt3.note_sequences import Note
from mt3.scoring import counts
from mt3.tokenizer import NoteTokenizer
from tests.support.event_files import events

FRAMES = 256
ORIGINAL = {
    "original_side_effects": True,
    "original_drum_programs": True,
    "reference_instruments": 0,
    "empty": "zero",
}
TOKENIZER = NoteTokenizer(MT3)
PIANO = [Note(t / 2, t / 2 + 0.4, 60 + t, 127, 0) for t in range(8)]
DRUMS = [Note(t, t + 0.01, 38, 127, 0, True) for t in range(4)]


def examples(unique_id, reference, estimate, seconds=6.0):
    """Pairs of a segment's features and the ids that a model would predict for it."""
    num_frames = round(seconds * MT3.spectrogram.frames_per_second)
    samples = round(seconds * MT3.spectrogram.sample_rate)
    frames_of_song = spectrograms.number_of_frames(samples, MT3.spectrogram)
    song = TOKENIZER.encode_song(estimate, frames_of_song)
    sequence = note_sequences.to_note_sequence(reference).SerializeToString()
    for first in range(0, num_frames, FRAMES):
        frames = min(FRAMES, num_frames - first)
        example = {
            "inputs": np.zeros((frames, 512), np.float32),
            "targets": np.zeros(0, np.int32),
            "unique_id": np.array([unique_id.encode()], object),
            "input_times": ((first + np.arange(frames)) / 125).astype(np.float32),
            "sequence": sequence if first == 0 else b"",
            "raw_inputs": np.full(frames * 128, first / 1e4, np.float32),
        }
        yield example, TOKENIZER.segment_ids(song, first, frames)


def records(*songs, **options):
    """What seqio hands to a metric function: targets and predictions."""
    post = postprocessors.postprocess_fn(MT3)
    vocabulary = vocabularies.vocabulary_from_codec(TOKENIZER.codec)
    targets, predictions = [], []
    for song in songs:
        for example, ids in examples(*song, **options):
            targets.append(post([], example=example, is_target=True))
            decoded = vocabulary.decode([*ids, 0, 0])
            predictions.append(post(decoded, example=example, is_target=False))
    return targets, predictions


def evaluate(*songs, track_specs=None, seconds=6.0, **options):
    (metric_fn,) = evaluation_metrics.metric_fns(
        MT3, track_specs, **{"num_summary_examples": 0, **options}
    )
    return metric_fn(*records(*songs, seconds=seconds))


def scalars(values):
    return {
        name: value.value
        for name, value in values.items()
        if isinstance(value, seqio.metrics.Scalar)
    }


@pytest.fixture(params=range(4))
def original(request, golden_data):
    """Songs as (id, reference, estimate), tracks and the original's scores of them."""
    cases = json.loads((golden_data / "metrics.json").read_text(encoding="utf-8"))
    case = cases[request.param]
    sides = [
        [[Note(**note) for note in song] for song in case[side]]
        for side in ("reference_notes", "estimated_notes")
    ]
    songs = [(f"song {i}", *pair) for i, pair in enumerate(zip(*sides, strict=True))]
    assert len(case["scores"]) >= 62
    return songs, case["track_specs"], case["scores"]


def test_original_scores_are_reproduced(original, monkeypatch):
    songs, specs, want = original
    decoded = iter(DecodedSong(song[2], 0, 0, np.zeros(1)) for song in songs)
    monkeypatch.setattr(
        metrics_utils, "event_predictions_to_ns", lambda *_, **__: next(decoded)
    )
    got = scalars(evaluate(*songs, track_specs=specs, **ORIGINAL))
    assert {name: got[name] for name in want} == pytest.approx(want, abs=1e-9)


def test_original_scores_come_out_of_segments(original):
    songs, specs, want = original
    got = scalars(evaluate(*songs, track_specs=specs, seconds=30.0, **ORIGINAL))
    # The sum of a segment's start and a shift differs in its last digits from the
    # time that the original's scores were made from: a note that begins on the edge
    # of a frame of 16 ms may begin in the next one.
    rounded = {name for name in want if "Frame" in name}
    exact = want.keys() - rounded
    assert {name: got[name] for name in exact} == pytest.approx(
        {name: want[name] for name in exact}, abs=1e-9
    )
    assert {name: got[name] for name in rounded} == pytest.approx(
        {name: want[name] for name in rounded}, abs=0.02
    )


def test_the_order_of_segments_and_songs_does_not_matter(rng):
    targets, predictions = records(("a", PIANO, PIANO), ("b", PIANO, PIANO[:4]))
    (metric_fn,) = evaluation_metrics.metric_fns(MT3, num_summary_examples=0)
    want = scalars(metric_fn(targets, predictions))
    assert want["Onset F1"] == pytest.approx((1 + 2 / 3) / 2)
    order = rng.permutation(len(targets))
    got = metric_fn([targets[i] for i in order], [predictions[i] for i in order[::-1]])
    assert scalars(got) == pytest.approx(want)


def test_macro_and_micro_averages_and_instruments():
    other = [Note(n.start_time, n.end_time, n.pitch, 127, 40) for n in PIANO[:4]]
    got = scalars(evaluate(("a", PIANO, PIANO), ("b", PIANO[:4], other)))
    name = "Onset + offset + program F1 (full)"
    assert got[name] == 0.5
    assert got[f"micro/{name}"] == pytest.approx(8 / 12)
    assert got["Instrument leakage (midi_class)"] == 1.0
    assert got["micro/Instrument detection F1 (midi_class)"] == 0.5
    assert got["Class onset F1 (Piano)"] == pytest.approx(2 * 8 / (12 + 8))
    plain = scalars(evaluate(("a", PIANO, PIANO), beyond_original=False))
    assert not any("micro" in n or "nstrument" in n or "Class" in n for n in plain)
    assert len(plain) > 40


def test_what_nobody_plays_is_left_out():
    values = evaluate(("a", PIANO, PIANO), ("b", PIANO, []))
    assert "Drum onset F1 (full)" not in values
    assert "Drum onset F1 (full) histogram" not in values
    assert all(math.isfinite(value) for value in scalars(values).values())
    np.testing.assert_array_equal(values["Onset F1 histogram"].values, [1, 0])
    zeros = scalars(evaluate(("a", PIANO, PIANO), empty="zero"))
    assert zeros["Drum onset F1 (full)"] == zeros["micro/Drum onset F1 (full)"] == 0.0


def test_silence_and_missing_tracks_have_no_scores():
    specs = [("bass", 33, False), counts.TrackSpec("drums", is_drum=True)]
    silent = evaluate(("a", [], []), track_specs=specs)
    assert set(scalars(silent)) == {"Invalid events", "Dropped events"}
    got = scalars(evaluate(("a", PIANO + DRUMS, DRUMS), track_specs=specs))
    assert got["drums/Onset F1"] == 1.0
    assert got["Onset F1"] == 0.0
    assert "bass/Onset F1" not in got


def test_bad_tokens_are_counted_per_song():
    targets, predictions = records(("a", PIANO, PIANO), ("b", PIANO, PIANO))
    predictions[0]["est_tokens"] = np.array([-2, -2, -2], np.int32)
    late = [TOKENIZER.codec.encode_values("shift", np.array([900])).item(), 1001, 1002]
    predictions[1]["est_tokens"] = np.array(late, np.int32)
    (metric_fn,) = evaluation_metrics.metric_fns(MT3, num_summary_examples=0)
    values = metric_fn(targets, predictions)
    assert values["Invalid events histogram"].values[0] >= 3
    assert (
        values["Dropped events"].value
        == values["Dropped events histogram"].values[0] / 2
    )
    assert values["Dropped events"].value > 0


def test_a_reference_may_be_a_note_sequence():
    targets, predictions = records(("a", PIANO, PIANO))
    targets[0]["ref_ns"] = note_sequences.to_note_sequence(PIANO)
    (metric_fn,) = evaluation_metrics.metric_fns(MT3, num_summary_examples=0)
    assert metric_fn(targets, predictions)["Onset F1"].value == 1.0


def test_no_examples_have_no_scores(caplog):
    (metric_fn,) = evaluation_metrics.metric_fns(MT3)
    assert metric_fn([], []) == {}
    assert "no examples" in caplog.text


def test_songs_without_reference_or_predictions_are_named():
    targets, predictions = records(("a", PIANO, PIANO), ("b", PIANO, PIANO))
    half = len(targets) // 2
    (metric_fn,) = evaluation_metrics.metric_fns(MT3)
    with pytest.raises(DataError, match=r"of 2 songs, 1 \('b'\) with no predictions"):
        metric_fn(targets, predictions[:half])
    with pytest.raises(DataError, match=r"1 \('a'\) with no targets"):
        metric_fn(targets[half:], predictions)
    with pytest.raises(DataError, match=r"1 \('a'\) with no reference"):
        metric_fn(targets[1:], predictions)


def test_songs_of_one_id_are_not_taken_for_one():
    targets, predictions = records(("a", PIANO, PIANO), ("a", [], PIANO))
    (metric_fn,) = evaluation_metrics.metric_fns(MT3)
    with pytest.raises(DataError, match=r"of 1 songs, 1 \('a'\) with several referenc"):
        metric_fn(targets, predictions)


def test_wrong_options_are_refused_at_once():
    with pytest.raises(ConfigError, match="Did you mean original_drum_programs"):
        evaluation_metrics.metric_fns(MT3, original_drum_program=True)
    with pytest.raises(ConfigError, match="'nil'"):
        evaluation_metrics.metric_fns(MT3, empty="nil")
    with pytest.raises(ConfigError, match="unclosed_ties"):
        evaluation_metrics.metric_fns(MT3, unclosed_ties="open")


@pytest.fixture
def evaluation_task():
    """A seqio task of two songs, and the ids to predict for its examples."""
    pairs = [
        *examples("first", PIANO + DRUMS, PIANO, 4.0),
        *examples("second", PIANO[:5], PIANO[:4], 4.0),
    ]
    spec = {
        "inputs": tf.TensorSpec([None, 512], tf.float32),
        "targets": tf.TensorSpec([None], tf.int32),
        "unique_id": tf.TensorSpec([1], tf.string),
        "input_times": tf.TensorSpec([None], tf.float32),
        "sequence": tf.TensorSpec([], tf.string),
        "raw_inputs": tf.TensorSpec([None], tf.float32),
    }

    def dataset(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_generator(
            lambda: (example for example, _ in pairs), output_signature=spec
        )

    name = "tiny_evaluation"
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["validation"]),
        preprocessors=[],
        output_features={
            "inputs": seqio.Feature(
                seqio.PassThroughVocabulary(size=0), dtype=tf.float32, rank=2
            ),
            "targets": seqio.Feature(
                vocabularies.vocabulary_from_codec(TOKENIZER.codec)
            ),
        },
        postprocess_fn=postprocessors.postprocess_fn(MT3),
        metric_fns=evaluation_metrics.metric_fns(MT3, summary_seconds=3.0),
    )
    yield name, [ids for _, ids in pairs]
    seqio.TaskRegistry.remove(name)


def test_seqio_evaluates_and_its_loggers_write_everything(evaluation_task, tmp_path):
    name, ids = evaluation_task
    evaluator = seqio.Evaluator(
        name,
        feature_converters.ContinuousInputsEncDecFeatureConverter(),
        eval_split="validation",
        sequence_length={"inputs": FRAMES, "targets": 64},
        logger_cls=[
            seqio.loggers.PyLoggingLogger,
            seqio.loggers.TensorBoardLogger,
            seqio.loggers.JSONLogger,
        ],
        log_dir=str(tmp_path),
        async_compute_metrics=False,
    )

    def predict(dataset):
        padded = [np.pad(row, (0, 64 - len(row))) for row in ids]
        order = [int(index) for index, _ in dataset.as_numpy_iterator()]
        return [(index, padded[index]) for index in reversed(order)]

    future, _ = evaluator.evaluate(compute_metrics=True, step=12, predict_fn=predict)
    values = future.result()[name]
    assert values["Onset F1"].value == pytest.approx((1 + 8 / 9) / 2)
    assert values["Drum onset F1 (full)"].value == 0.0

    line = (tmp_path / f"{name}-metrics.jsonl").read_text(encoding="utf-8")
    logged = json.loads(line, parse_constant=pytest.fail)
    assert logged.pop("step") == 12
    assert logged.pop(evaluation_metrics.CLASSES_TEXT).startswith("| class | songs |")
    assert logged == scalars(values)
    # Every example with its target and its prediction, in readable form.
    rows = (tmp_path / f"{name}-000012.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(row) for row in rows]
    assert len(rows) == len(ids) == 4
    assert rows[0]["target"]["ref_ns"][0]["pitch"] == 60
    assert rows[3]["prediction"]["unique_id"] == "second"

    found = events(tmp_path)
    assert set(found) == {f"eval/{key}" for key in values}
    assert len(found) > 150
    assert found["eval/Onset F1"] == pytest.approx(values["Onset F1"].value)
    clip = found[f"eval/{summaries.INPUT_AUDIO}"][0, 0]
    wave, rate = soundfile.read(io.BytesIO(clip))
    assert (len(wave), rate) == (48000, 16000)
    # Each segment's samples hold its first frame.
    assert wave[32767] == 0
    assert wave[32768] == pytest.approx(0.0256, abs=1e-3)
    assert found["eval/Onset F1 histogram"][:, 2].sum() == 2
