"""Segments with context: what is heard, what is written, and when."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import seqio

from mt3 import configs, preprocessors, spectrograms, tasks, tokenizer
from mt3.engine import synthetic_data
from mt3.errors import ConfigError
from mt3.note_sequences import NOTE_DTYPE, Note, notes_to_array
from mt3.synthesis import corpus
from mt3.synthesis.augmentation import NO_AUGMENTATION
from mt3.synthesis.sampler import ClipSampler
from tests.support import tiny_datasets
from tests.test_preprocessors import elements, tiny_songs, tokenized

CONFIG = configs.ModelConfig(
    network={},
    spectrogram=spectrograms.SpectrogramConfig(num_mel_bins=32, fft_size=512),
    inputs_length=100,
    context_frames=20,
    padding="silence",
)
LENGTHS = {"inputs": 100, "targets": 512}
HOP = CONFIG.spectrogram.hop_width


def heard(samples, first):
    """The frames of the segment whose middle begins at a frame of a recording."""
    start = (first - CONFIG.context_frames) * HOP
    padded = np.pad(samples, (CONFIG.input_samples, CONFIG.input_samples))
    start += CONFIG.input_samples
    segment = padded[start : start + CONFIG.input_samples]
    return spectrograms.compute_spectrogram(segment, CONFIG.spectrogram)


def song_samples(song):
    whole = song.samples
    return np.pad(whole, (0, -len(whole) % HOP)).astype(np.float32)


def test_evaluation_segments_have_context_and_the_times_of_their_middles():
    ds = tokenized(tiny_songs(), CONFIG, training=False)
    hops = {e["unique_id"][0]: e["inputs"].reshape(-1) for e in elements(ds)}
    ds = preprocessors.split_tokens_to_inputs_length(ds, LENGTHS, context_frames=20)
    ds = preprocessors.compute_spectrograms(
        ds,
        CONFIG.spectrogram,
        sequence_length=LENGTHS,
        padding="silence",
        context_frames=20,
    )
    found = elements(ds)
    for name, samples in hops.items():
        own = [e for e in found if e["unique_id"][0] == name]
        # 4 s and what the last window needs are 501 frames: 8 whole middles, and 21.
        assert len(own) == -(-len(samples) // (60 * HOP)) == 9
        for index, segment in enumerate(own):
            assert segment["inputs"].shape == (100, 32)
            expected = heard(samples, 60 * index)
            np.testing.assert_allclose(segment["inputs"], expected, atol=1e-5)
            start = segment["input_times"][0]
            np.testing.assert_allclose(start, 60 * index * HOP / 16000, rtol=1e-6)
        raw = np.concatenate([segment["raw_inputs"] for segment in own])
        np.testing.assert_array_equal(raw, samples)


def test_training_segments_write_what_is_in_the_middle():
    songs = tokenized(tiny_songs(), CONFIG)
    samples = {e["unique_id"][0]: e["inputs"].reshape(-1) for e in elements(songs)}
    notes = {s.id.encode(): s.notes for s in tiny_datasets.songs("synthetic", "train")}
    ours = tokenizer.NoteTokenizer(CONFIG)
    ds = preprocessors.split_tokens(songs, max_frames=2000)
    starts = set()
    for seed in range(3):
        with seqio.utils.map_seed_manager(seed):
            found = preprocessors.random_training_example(
                ds,
                LENGTHS,
                tokenizer=ours,
                skip_too_long=False,
                padding="silence",
                context_frames=20,
            )
        for example in elements(found):
            name = example["unique_id"][0]
            assert len(example["input_times"]) == CONFIG.segment_frames
            first = round(float(example["input_times"][0]) * 16000 / HOP)
            starts.add(first)
            np.testing.assert_allclose(
                example["inputs"], heard(samples[name], first), atol=1e-5
            )
            start = ours.segment_start_time(first)
            ids = ours.encode_segment(notes[name], start_time=first * HOP / 16000)
            assert example["targets"].tolist() == ids.tolist(), (name, start)
    assert len(starts) > 3


def test_tasks_know_their_context(tmp_path):
    family = tasks.TaskFamily("synthetic", "notes_ties", tasks.VOCAB_CONFIG_NOVELOCITY)
    options = tasks.TaskOptions(padding="silence", context_frames=25)
    config = family.model_config(options.padding, options.context_frames)
    assert (config.context_frames, config.padding) == (25, "silence")
    with pytest.raises(ConfigError, match="padded with 'silence'"):
        tasks.TaskOptions(context_frames=25)
    mixed = dataclasses.replace(options, max_examples_per_mix=2)
    with pytest.raises(ConfigError, match="mixing knows no context"):
        tasks.training_examples(None, LENGTHS, {}, family=family, options=mixed)


def test_a_task_with_context(tmp_path):
    root = tiny_datasets.write_all(tmp_path, data_sets=["synthetic"], seconds=2.0)
    registered = tasks.register(
        root, data_sets=["synthetic"], padding="silence", context_frames=20
    )
    name = tasks.construct_task_name(
        "synthetic_notes_ties",
        vocab_config=tasks.VOCAB_CONFIG_NOVELOCITY,
        task_suffix="validation",
        registered=registered,
    )
    task = seqio.get_mixture_or_task(name)
    assert task.model_config.context_frames == 20
    found = list(task.get_dataset(LENGTHS, "eval", shuffle=False).as_numpy_iterator())
    record = task.postprocess_fn(np.array([-1]), example=found[1], is_target=False)
    assert record["start_time"] == pytest.approx(0.48)
    assert len(record["raw_inputs"]) == CONFIG.segment_samples


def test_tokens_and_ties_belong_to_the_middle():
    ours = tokenizer.NoteTokenizer(CONFIG)
    context = CONFIG.context_seconds
    notes = notes_to_array(
        [
            Note(-0.1, 0.1, 60, 90, 3),  # sounds at the middle's start: a tie
            Note(-0.15, -0.05, 61, 90, 3),  # in the context alone
            Note(0.2, 0.3, 62, 90, 3),
            Note(CONFIG.segment_seconds + 0.05, 1.0, 63, 90, 3),  # after the middle
        ]
    )
    features = synthetic_data.example_features(
        np.zeros(CONFIG.input_samples, np.float32), notes, ours
    )
    assert features["encoder_input_tokens"].shape == (100, 32)
    events = [
        ours.codec.decode_event_index(int(index))
        for index in ours.predicted_events(features["decoder_target_tokens"])
    ]
    assert [(event.type, event.value) for event in events] == [
        ("program", 3),
        ("pitch", 60),
        ("tie", 0),
        ("shift", 10),
        ("velocity", 0),
        ("pitch", 60),
        ("shift", 20),
        ("velocity", 1),
        ("pitch", 62),
        ("shift", 30),
        ("velocity", 0),
        ("pitch", 62),
    ]
    assert context == pytest.approx(0.16)


def test_corpus_segments_count_from_their_middle(tmp_path):
    folder = corpus.build_corpus(
        tmp_path / "corpus",
        hours=4.0 / 3600,
        clip_seconds=2.0,
        clips_per_shard=2,
        mixture={"random": 1.0},
    )
    settings = {"mix": 0.0, "augmentation": NO_AUGMENTATION, "segment_seconds": 1.024}
    plain = ClipSampler(folder, **settings)
    shifted = ClipSampler(folder, **settings, context_seconds=0.25)
    count = 0
    for index in range(6):
        ours, theirs = shifted.example(index), plain.example(index)
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.notes.dtype == NOTE_DTYPE
        for name in ("start_time", "end_time"):
            np.testing.assert_allclose(ours.notes[name], theirs.notes[name] - 0.25)
        count += len(ours.notes)
    assert count
