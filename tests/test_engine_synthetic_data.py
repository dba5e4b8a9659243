"""Training batches of random notes and of a corpus."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mt3 import spectrograms
from mt3.configs import ModelConfig
from mt3.engine import data_sources, synthetic_data, utils
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import NOTE_DTYPE
from mt3.spectrograms import SpectrogramConfig
from mt3.synthesis import corpus
from mt3.synthesis.augmentation import HISTORY_SAMPLES, NO_AUGMENTATION
from mt3.tokenizer import NoteTokenizer

CONFIG = ModelConfig(
    network={},
    spectrogram=SpectrogramConfig(num_mel_bins=16, hop_width=256, fft_size=1024),
    inputs_length=32,
    targets_length=48,
)


def dataset_config(**changes):
    """Returns a DatasetConfig for `CONFIG`."""
    values = {
        "mixture_or_task_name": "synthetic",
        "task_feature_lengths": {"inputs": 32, "targets": 48},
        "split": "train",
        "batch_size": 3,
        "shuffle": True,
        "seed": 1,
    }
    return utils.DatasetConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def random_batches():
    """Batches of single random notes."""
    data = synthetic_data.RandomNotes(
        CONFIG,
        max_programs=1,
        max_polyphony=1,
        drums=0.0,
    )
    return data(dataset_config())


def test_features_have_the_models_shapes(random_batches):
    batch = random_batches.batch(0)
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {
        "encoder_input_tokens": ((3, 32, 16), np.float32),
        "decoder_target_tokens": ((3, 48), np.int32),
        "decoder_input_tokens": ((3, 48), np.int32),
        "decoder_loss_weights": ((3, 48), np.float32),
    }
    targets, inputs = batch["decoder_target_tokens"], batch["decoder_input_tokens"]
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    assert not inputs[:, 0].any()
    np.testing.assert_array_equal(batch["decoder_loss_weights"], targets > 0)
    ended = (targets == 1).sum(axis=1)
    np.testing.assert_array_equal(ended, 1)
    assert np.ptp(batch["encoder_input_tokens"]) > 1


def test_batches_are_a_function_of_seed_split_and_number(random_batches):
    again = synthetic_data.RandomNotes(
        CONFIG, max_programs=1, max_polyphony=1, drums=0.0
    )
    first = random_batches.batch(4)["encoder_input_tokens"]
    same = again(dataset_config()).batch(4)["encoder_input_tokens"]
    np.testing.assert_array_equal(first, same)
    for changes in ({"seed": 2}, {"split": "validation"}):
        other = again(dataset_config(**changes)).batch(4)["encoder_input_tokens"]
        assert not np.array_equal(first, other)
    assert not np.array_equal(first, random_batches.batch(5)["encoder_input_tokens"])


class Crowded:
    """Segments that have too many notes unless the draw is late."""

    def __init__(self, needed_draws):
        self._needed = needed_draws

    def segment(self, key):
        count = 1 if key[3] >= self._needed else 100
        notes = np.zeros(count, NOTE_DTYPE)
        notes["start_time"] = np.linspace(0, 0.4, count)
        notes["end_time"] = notes["start_time"] + 0.05
        notes["pitch"] = 30 + np.arange(count) % 60
        notes["velocity"] = 90
        return np.zeros(CONFIG.segment_samples, np.float32), notes


def test_segments_with_too_many_tokens_are_skipped_and_counted():
    batches = synthetic_data.SegmentBatches(Crowded(2), CONFIG, 3, seed=0)
    batch = batches.batch(0)
    assert batches.skipped == 6
    assert (batch["decoder_target_tokens"] > 0).sum() < 3 * 10
    with pytest.raises(DataError, match="more than 48 tokens"):
        synthetic_data.SegmentBatches(Crowded(99), CONFIG, 3, seed=0).batch(0)


class Varied:
    """Segments with 0 to 5 notes."""

    def segment(self, key):
        notes = np.zeros(key[2] * 7 % 6, NOTE_DTYPE)
        notes["start_time"] = 0.05 * np.arange(len(notes))
        notes["end_time"] = notes["start_time"] + 0.05
        notes["pitch"] = 60
        notes["velocity"] = 90
        return np.zeros(CONFIG.segment_samples, np.float32), notes


def test_pools_bring_equal_lengths_together():
    plain = synthetic_data.SegmentBatches(Varied(), CONFIG, 3, seed=0)
    pooled = synthetic_data.SegmentBatches(
        Varied(), CONFIG, 3, seed=0, length_multiple=4, pool=4
    )

    def targets(batches):
        return [batches.batch(index)["decoder_target_tokens"] for index in range(8)]

    def rows(batches):
        return sorted(
            tuple(row[row > 0].tolist()) for batch in batches for row in batch
        )

    # The same examples, cut to what the longest of a batch needs.
    assert rows(targets(pooled)) == rows(targets(plain))
    shapes = {batch.shape[1] for batch in targets(pooled)}
    assert all(length % 4 == 0 for length in shapes)
    assert len(shapes) > 1
    for batch in targets(pooled):
        assert batch[:, -4:].any()
    padding = sum((batch == 0).sum() for batch in targets(pooled))
    assert padding < sum((batch == 0).sum() for batch in targets(plain)) / 2
    # A function of the number, in whatever order batches are asked for.
    again = synthetic_data.SegmentBatches(
        Varied(), CONFIG, 3, seed=0, length_multiple=4, pool=4
    )
    for index in (6, 1, 7, 0):
        np.testing.assert_array_equal(
            again.batch(index)["decoder_target_tokens"],
            pooled.batch(index)["decoder_target_tokens"],
        )


def test_targets_tell_the_notes():
    tokenizer = NoteTokenizer(CONFIG)
    notes = np.zeros(1, NOTE_DTYPE)
    notes[0] = (0.1, 0.2, 60, 90, 5, False)
    samples = np.zeros(CONFIG.segment_samples, np.float32)
    features = synthetic_data.example_features(samples, notes, tokenizer)
    events = [
        tokenizer.codec.decode_event_index(int(index))
        for index in tokenizer.predicted_events(features["decoder_target_tokens"])
    ]
    assert [(event.type, event.value) for event in events] == [
        ("tie", 0),
        ("shift", 10),
        ("program", 5),
        ("velocity", 1),
        ("pitch", 60),
        ("shift", 20),
        ("velocity", 0),
        ("pitch", 60),
    ]


def test_lengths_of_dataset_and_model_must_agree():
    data = synthetic_data.RandomNotes(CONFIG)
    with pytest.raises(ConfigError, match="inputs=64"):
        data(dataset_config(task_feature_lengths={"inputs": 64}))
    with pytest.raises(ConfigError, match="needs a seed"):
        data(dataset_config(seed=None))


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    """Two shards of two clips of 1.5 s."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    return corpus.build_corpus(
        folder,
        hours=6.0 / 3600,
        clip_seconds=1.5,
        clips_per_shard=2,
        mixture={"random": 1.0},
    )


def test_corpus_batches_keep_their_shards_when_resumed(corpus_folder):
    config = CONFIG.from_dict({**CONFIG.to_dict(), "targets_length": 200})
    lengths = {"inputs": 32, "targets": 200}
    cfg = dataset_config(task_feature_lengths=lengths)
    whole = synthetic_data.Corpus(config, corpus_folder)(cfg)
    assert whole.settings() == {"num_shards": 2}
    before = synthetic_data.Corpus(config, corpus_folder, num_shards=1)(cfg)
    source = data_sources.as_data_source(before)
    next(source)
    position = source.state()
    assert position == {"batch": 1, "num_shards": 1}
    resumed = data_sources.as_data_source(whole)
    resumed.restore(position)
    one, other = next(source), next(resumed)
    np.testing.assert_array_equal(
        one["encoder_input_tokens"], other["encoder_input_tokens"]
    )


def test_corpus_for_the_device_leaves_samples_as_they_are(corpus_folder):
    config = CONFIG.from_dict({**CONFIG.to_dict(), "targets_length": 200})
    cfg = dataset_config(task_feature_lengths={"inputs": 32, "targets": 200})
    plain = synthetic_data.Corpus(
        config, corpus_folder, mix=0.0, augmentation=NO_AUGMENTATION
    )(cfg).batch(0)
    raw = synthetic_data.Corpus(config, corpus_folder, mix=0.0, on_device=True)(cfg)
    batch = raw.batch(0)
    assert set(batch) == {
        *("samples", "notes", "decoder_target_tokens"),
        *("decoder_input_tokens", "decoder_loss_weights"),
    }
    size = HISTORY_SAMPLES + config.segment_samples
    assert batch["samples"].shape == (cfg.batch_size, size)
    assert batch["samples"].dtype == np.int16
    np.testing.assert_array_equal(
        batch["decoder_target_tokens"], plain["decoder_target_tokens"]
    )
    # The same segments, but for their level.
    segment = batch["samples"][:, HISTORY_SAMPLES:].astype(np.float32)
    scale = np.sqrt(np.mean(segment**2, axis=1, keepdims=True)) / 0.1
    frames = spectrograms.compute_spectrogram(segment / scale, config.spectrogram)
    loud = frames > frames.max() - 5
    np.testing.assert_allclose(
        plain["encoder_input_tokens"][loud], frames[loud], atol=0.05
    )
    onsets = batch["notes"][..., 3] >= 0
    assert onsets.any(axis=1).all()


def test_more_notes_than_rows_are_drawn_again():
    notes = np.zeros(5, NOTE_DTYPE)
    notes["pitch"] = np.arange(60, 65)
    notes["end_time"] = 0.1
    tokenizer = NoteTokenizer(CONFIG)
    samples = np.zeros(HISTORY_SAMPLES + CONFIG.segment_samples, np.float32)
    assert synthetic_data.device_features(samples, notes, tokenizer) is not None
    config = CONFIG.from_dict({**CONFIG.to_dict(), "targets_length": 8})
    small = NoteTokenizer(config)
    assert synthetic_data.device_features(samples, notes, small) is None


def test_corpus_refuses_stages_out_of_order(corpus_folder):
    with pytest.raises(ConfigError, match="stages"):
        synthetic_data.Corpus(CONFIG, corpus_folder, stages=((5, {}), (0, {})))


def test_corpus_of_another_sample_rate(corpus_folder):
    config = CONFIG.from_dict(
        {
            **CONFIG.to_dict(),
            "spectrogram": {
                "sample_rate": 22050,
                "num_mel_bins": 16,
                "hop_width": 256,
                "fft_size": 1024,
            },
        }
    )
    with pytest.raises(DataError, match="16000 samples per second"):
        synthetic_data.Corpus(config, corpus_folder)(dataset_config())


@pytest.mark.parametrize("on_device", [True, False])
def test_other_processes_get_the_same_batches(corpus_folder, on_device):
    config = CONFIG.from_dict({**CONFIG.to_dict(), "targets_length": 200})
    cfg = dataset_config(task_feature_lengths={"inputs": 32, "targets": 200})
    batches = synthetic_data.Corpus(config, corpus_folder, on_device=on_device)(cfg)
    expected = batches.batch(1)
    # Settings only, no audio and no banks of rooms and noises.
    sent = pickle.dumps(batches.segments)
    assert len(sent) < 5000
    batches.segments = pickle.loads(sent)
    for name, array in pickle.loads(pickle.dumps(batches)).batch(1).items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_easy_beginning_and_plain_evaluation(corpus_folder):
    stages = ((0, {"max_parts": 1}), (2, {"max_parts": 9}))
    data = synthetic_data.Corpus(CONFIG, corpus_folder, mix=0.9, stages=stages)
    segments = data(dataset_config()).segments
    assert (segments.sampler.mix, segments.stages) == (0.9, stages)
    segments = data(dataset_config(split="validation")).segments
    assert segments.sampler.mix == 0
    assert segments.sampler.augmentation == NO_AUGMENTATION
    assert segments.stages == ((0, {"max_parts": 9}),)
