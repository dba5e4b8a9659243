"""The metric function that seqio calls, from segments to event files."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json
import math

import numpy as np
import pytest
import seqio
import soundfile
import tensorflow as tf

from mt3 import (
    metrics,
    metrics_utils,
    note_sequences,
    spectrograms,
    tasks,
    vocabularies,
)
from mt3.configs import MT3
from mt3.data import feature_converters
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import Note, TrackSpec
from mt3.tokenizer import NoteTokenizer
from tests.support.event_files import events

FRAMES = 256
TOKENIZER = NoteTokenizer(MT3)
PIANO = [Note(t / 2, t / 2 + 0.4, 60 + t, 127, 0) for t in range(8)]
DRUMS = [Note(t, t + 0.01, 38, 127, 0, True) for t in range(4)]


def examples(unique_id, reference, estimate, seconds=6.0):
    """Pairs of a segment's features and the ids that a model would predict for it."""
    num_frames = round(seconds * MT3.spectrogram.frames_per_second)
    samples = round(seconds * MT3.spectrogram.sample_rate)
    frames_of_song = spectrograms.number_of_frames(samples, MT3.spectrogram)
    song = TOKENIZER.encode_song(estimate, frames_of_song)
    notes = note_sequences.array_to_notes(note_sequences.note_array(reference))
    sequence = note_sequences.to_note_sequence(notes).SerializeToString()
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
    targets, predictions = [], []
    for unique_id, reference, *rest in songs:
        for number, (example, ids) in enumerate(
            examples(unique_id, reference, *rest, **options)
        ):
            ref_ns = None if number else reference
            targets.append({"unique_id": unique_id, "ref_ns": ref_ns})
            start_time = TOKENIZER.segment_start_time(number * FRAMES)
            predictions.append(
                {
                    "unique_id": unique_id,
                    "start_time": start_time,
                    "est_tokens": TOKENIZER.predicted_events(ids),
                    "raw_inputs": example["raw_inputs"],
                }
            )
    return targets, predictions


def score(targets, predictions, track_specs=None, **options):
    """The metrics under the original's name, as they are by default."""
    return metrics.transcription_metrics(
        targets,
        predictions,
        codec=TOKENIZER.codec,
        spectrogram_config=MT3.spectrogram,
        onsets_only=False,
        use_ties=True,
        track_specs=track_specs,
        **{"num_summary_examples": 0, **options},
    )


def evaluate(*songs, track_specs=None, seconds=6.0, **options):
    (metric_fn,) = metrics.metric_fns(
        MT3, track_specs, **{"num_summary_examples": 0, **options}
    )
    return metric_fn(*records(*songs, seconds=seconds))


def scalars(values):
    return {name: value for name, value in values.items() if isinstance(value, float)}


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
    specs = [TrackSpec(*spec) for spec in case["track_specs"] or ()]
    return songs, specs, case["scores"]


def reference_sequence(notes):
    """A NoteSequence without instrument numbers, as the original scored it."""
    sequence = note_sequences.to_note_sequence(notes)
    for note in sequence.notes:
        note.instrument = 0
    return sequence


@pytest.mark.parametrize("convert", [list, reference_sequence])
def test_original_scores_are_reproduced(original, convert, monkeypatch):
    songs, specs, want = original
    decoded = iter(
        {"est_ns": song[2], "est_invalid_events": 0, "est_dropped_events": 0}
        for song in songs
    )
    monkeypatch.setattr(
        metrics_utils, "event_predictions_to_ns", lambda *_, **__: next(decoded)
    )
    targets, predictions = records(*((i, convert(r), []) for i, r, _ in songs))
    got = score(targets, predictions, specs)
    assert list(scalars(got)) == [
        *("Invalid events", "Dropped events"),
        *(name for name in want if "events" not in name),
    ]
    assert scalars(got) == pytest.approx(want, abs=1e-9)
    assert set(got) == {*want, *(f"{name} (hist)" for name in want)}


def test_original_scores_come_out_of_segments(original):
    songs, specs, want = original
    got = scalars(score(*records(*songs, seconds=30.0), specs))
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


def test_each_correction_is_an_option():
    names = {
        "original_side_effects": "Onset + offset F1 (0.01)",
        "original_drum_programs": "Drum onset F1 (full)",
        "original_reference_roll": "Frame F1",
    }
    short = [Note(5, 5.01, 90, 127)], [Note(5, 5.04, 90, 127)]
    drums = [Note(n.start_time, n.end_time, 38, 127, 25, True) for n in DRUMS]
    violin = [Note(t, t + 1, 50, 127, 40) for t in range(4)]
    sides = [*PIANO, *violin, *drums, *short[0]], [*PIANO, *violin, *DRUMS, *short[1]]
    song = records(("a", *sides))
    default = scalars(score(*song))
    for option, name in names.items():
        changed = scalars(score(*song, **{option: False}))
        assert changed[name] != default[name], option
    assert scalars(score(*song, empty="skip")) == default
    piano = records(("a", PIANO, PIANO))
    assert score(*piano)["Drum onset F1 (full)"] == 0.0
    assert "Drum onset F1 (full)" not in score(*piano, empty="skip")
    assert "micro/Onset F1" in score(*piano, beyond_original=True)
    assert "Onset F1 (hist)" not in score(*piano, histograms=False)


def test_corrections_are_the_default_of_our_tasks():
    (function,) = metrics.metric_fns(MT3)
    chosen = function.keywords
    assert [k for k, v in chosen.items() if v is False] == [
        "onsets_only",
        "original_side_effects",
        "original_drum_programs",
        "original_reference_roll",
    ]
    assert (chosen["empty"], chosen["beyond_original"]) == ("skip", True)
    # seqio looks at the names of the arguments that have no value yet.
    positional = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == ["targets", "predictions"]


def test_onsets_alone_have_no_offsets():
    config = dataclasses.replace(MT3, onsets_only=True, include_ties=False)
    (function,) = metrics.metric_fns(config, num_summary_examples=0)
    pitch = TOKENIZER.codec.encode_values("pitch", np.array([60]))
    values = function(
        [{"unique_id": "a", "ref_ns": [Note(0, 1, 60)]}],
        [{"unique_id": "a", "start_time": 0.0, "est_tokens": pitch}],
    )
    assert values["Onset F1"] == 1.0
    assert not {"Onset + offset F1", "Onset + velocity F1"} & set(values)


def test_scores_of_pairs_of_sequences():
    drum = Note(0, 0.1, 38, 90, 0, True)
    reference = [Note(0, 1, 60, 90, 3), Note(0, 1, 64, 90, 40), drum]
    estimate = [Note(0, 1, 60, 90, 0), Note(0, 1.3, 64, 90, 40), drum]
    sides = [note_sequences.to_note_sequence(side) for side in (reference, estimate)]
    for pair in (sides, (reference, estimate)):
        scores = metrics._program_aware_note_scores(*pair, "midi_class")
        assert scores["Onset + offset + program F1 (midi_class)"] == 2 / 3
        assert scores["Drum onset precision (midi_class)"] == 1.0
        assert scores["Nondrum onset + offset + program recall (midi_class)"] == 0.5
        full = metrics._program_aware_note_scores(*pair, "full")
        assert full["Nondrum onset + offset + program F1 (full)"] == 0.0
        assert len(scores) == 9
        # Drums count like other notes.
        sweep = metrics._note_onset_tolerance_sweep(*pair, (0.1, 0.5))
        assert sweep["Onset + offset F1 (0.1)"] == pytest.approx(2 / 3)
        assert sweep["Onset + offset F1 (0.5)"] == 1.0
    assert len(metrics._note_onset_tolerance_sweep(*sides)) == 18
    empty = metrics._program_aware_note_scores([], [], "flat")
    assert set(empty.values()) == {0.0}


def test_the_order_of_segments_and_songs_does_not_matter(rng):
    targets, predictions = records(("a", PIANO, PIANO), ("b", PIANO, PIANO[:4]))
    (metric_fn,) = metrics.metric_fns(MT3, num_summary_examples=0)
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


def test_notes_of_any_system_are_averaged_in_both_ways():
    pairs = [(PIANO, PIANO), (PIANO[:4], PIANO[4:6])]
    macro, micro = metrics.note_metrics(pairs)
    assert macro["Onset F1"] == 0.5
    # 8 of 10 estimated notes, 8 of 12 true ones.
    assert micro["Onset precision"] == pytest.approx(8 / 10)
    assert micro["Onset recall"] == pytest.approx(8 / 12)
    tokens = scalars(evaluate(("a", PIANO, PIANO), ("b", PIANO[:4], PIANO[4:6])))
    for name in ("Onset F1", "Frame F1", "Onset + offset + program F1 (full)"):
        assert tokens[name] == pytest.approx(macro[name])
        assert tokens[f"micro/{name}"] == pytest.approx(micro[name])
    assert math.isnan(macro["Drum onset F1 (full)"])
    sequences = [[note_sequences.to_note_sequence(n) for n in pair] for pair in pairs]
    zeros = metrics.note_metrics(sequences, [TrackSpec("piano")], empty="zero")
    assert zeros.macro["Drum onset F1 (full)"] == 0.0
    assert zeros.micro["piano/Onset F1"] == micro["Onset F1"]


def test_what_nobody_plays_is_left_out():
    values = evaluate(("a", PIANO, PIANO), ("b", PIANO, []))
    assert "Drum onset F1 (full)" not in values
    assert "Drum onset F1 (full) (hist)" not in values
    assert all(math.isfinite(value) for value in scalars(values).values())
    np.testing.assert_array_equal(values["Onset F1 (hist)"].values, [1, 0])
    zeros = scalars(evaluate(("a", PIANO, PIANO), empty="zero"))
    assert zeros["Drum onset F1 (full)"] == zeros["micro/Drum onset F1 (full)"] == 0.0


def test_silence_and_missing_tracks_have_no_scores():
    specs = [TrackSpec("bass", 33), TrackSpec("drums", is_drum=True)]
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
    (metric_fn,) = metrics.metric_fns(MT3, num_summary_examples=0)
    values = metric_fn(targets, predictions)
    assert values["Invalid events (hist)"].values[0] >= 3
    assert values["Dropped events"] == values["Dropped events (hist)"].values[0] / 2
    assert values["Dropped events"] > 0


def test_a_reference_may_be_a_note_sequence():
    targets, predictions = records(("a", PIANO, PIANO))
    targets[0]["ref_ns"] = note_sequences.to_note_sequence(PIANO)
    (metric_fn,) = metrics.metric_fns(MT3, num_summary_examples=0)
    assert metric_fn(targets, predictions)["Onset F1"] == 1.0


def test_no_examples_have_no_scores(caplog):
    (metric_fn,) = metrics.metric_fns(MT3)
    assert metric_fn([], []) == {}
    assert "no examples" in caplog.text


def test_songs_without_reference_or_predictions_are_named():
    targets, predictions = records(("a", PIANO, PIANO), ("b", PIANO, PIANO))
    half = len(targets) // 2
    (metric_fn,) = metrics.metric_fns(MT3)
    with pytest.raises(DataError, match=r"of 2 songs, 1 \('b'\) with no predictions"):
        metric_fn(targets, predictions[:half])
    with pytest.raises(DataError, match=r"1 \('a'\) with no targets"):
        metric_fn(targets[half:], predictions)
    with pytest.raises(DataError, match=r"1 \('a'\) with no reference"):
        metric_fn(targets[1:], predictions)


def test_songs_of_one_id_are_not_taken_for_one():
    targets, predictions = records(("a", PIANO, PIANO), ("a", [], PIANO))
    (metric_fn,) = metrics.metric_fns(MT3)
    with pytest.raises(DataError, match=r"of 1 songs, 1 \('a'\) with several referenc"):
        metric_fn(targets, predictions)


def test_wrong_options_are_refused_at_once():
    with pytest.raises(ConfigError, match="Did you mean original_drum_programs"):
        metrics.metric_fns(MT3, original_drum_program=True)
    with pytest.raises(ConfigError, match="'nil'"):
        metrics.metric_fns(MT3, empty="nil")
    with pytest.raises(ConfigError, match="unclosed_ties"):
        metrics.metric_fns(MT3, unclosed_ties="open")


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
        postprocess_fn=functools.partial(
            tasks.postprocess, codec=TOKENIZER.codec, as_notes=True, float_modulo=False
        ),
        metric_fns=metrics.metric_fns(MT3, summary_seconds=3.0),
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
    assert values["Onset F1"] == pytest.approx((1 + 8 / 9) / 2)
    assert values["Drum onset F1 (full)"] == 0.0

    line = (tmp_path / f"{name}-metrics.jsonl").read_text(encoding="utf-8")
    logged = json.loads(line, parse_constant=pytest.fail)
    assert logged.pop("step") == 12
    assert logged.pop(metrics.CLASSES_TEXT).startswith("| class | songs |")
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
    assert found["eval/Onset F1"] == pytest.approx(values["Onset F1"])
    clip = found["eval/audio"][0, 0]
    wave, rate = soundfile.read(io.BytesIO(clip))
    assert (len(wave), rate) == (48000, 16000)
    # Each segment's samples hold its first frame.
    assert wave[32767] == 0
    assert wave[32768] == pytest.approx(0.0256, abs=1e-3)
    assert found["eval/Onset F1 (hist)"][:, 2].sum() == 2
