"""Mixing: the union of notes, no mix too long, the same stream from the same seed."""

from __future__ import annotations

import collections
import dataclasses
import logging

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import gin
from mt3 import configs, mixing, tokenizer
from mt3.errors import ConfigError
from mt3.note_sequences import Note
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import VocabularyConfig
from tests.support.note_strategies import expressible, note_lists, rounded

FRAMES = 256
CONFIG = configs.ModelConfig(
    network={},
    vocabulary=VocabularyConfig(),
    spectrogram=SpectrogramConfig(num_mel_bins=32, fft_size=512),
)
TIES = tokenizer.NoteTokenizer(CONFIG)
TARGETS = seqio.Feature(seqio.PassThroughVocabulary(1617))


def new_mixer(limit=None, *, one_tie_section=True, redraw=True):
    limits = {"targets": limit}
    return mixing.Mixer(
        TIES.codec,
        {"targets": 1},
        limits,
        one_tie_section=one_tie_section,
        redraw=redraw,
    )


def merge(mixer, streams):
    """Events of streams that sound together, without a limit."""
    ((_, (events,)),) = mixer.draw([streams], ids(len(streams)))
    return events


def part_streams(notes, first, frames, tok):
    """Events of consecutive parts of a song, written as for mixing."""
    song = tok.encode_song(notes, 1600)
    return [
        tok.segment_events(song, start, frames) for start in range(first, 1600, frames)
    ]


@st.composite
def songs_that_mix(draw):
    """Two to four songs, each with programs of its own, drums in one."""
    count = draw(st.integers(2, 4))
    songs = []
    for index in range(count):
        notes = draw(note_lists(max_size=12))
        notes = [n for n in notes if index == 0 or not n.is_drum]
        moved = [
            n
            if n.is_drum
            else dataclasses.replace(n, program=n.program // 4 + 32 * index)
            for n in notes
        ]
        songs.append(expressible(moved))
    return songs


@given(songs_that_mix())
def test_a_mix_decodes_to_the_union_of_the_notes(songs):
    mixer = new_mixer()
    streams = [part_streams(notes, 0, FRAMES, TIES) for notes in songs]
    predictions = []
    for index, parts in enumerate(zip(*streams, strict=True)):
        ((members, (events,)),) = mixer.draw([parts], ids(len(parts)))
        assert members == list(range(len(songs)))
        tie = TIES.codec.event_type_range("tie")[0]
        assert (events == tie).sum() == 1
        predictions.append((TIES.segment_start_time(index * FRAMES), events))
    decoded, invalid, dropped = tokenizer.decode_predictions(predictions, TIES)
    assert rounded(decoded) == rounded([note for song in songs for note in song])
    assert (invalid, dropped) == (0, 0)


def ids(count):
    return np.array([[f"song {i}".encode()] for i in range(count)], object)


@given(songs_that_mix(), st.integers(4, 120))
def test_no_mix_is_too_long_and_none_is_truncated(songs, limit):
    mixer = new_mixer(limit)
    streams = [part_streams(notes, 0, FRAMES, TIES)[0] for notes in songs]
    mixes = mixer.draw([streams], ids(len(streams)))
    used = sorted(index for members, _ in mixes for index in members)
    alone = [len(merge(new_mixer(), [stream])) + 1 for stream in streams]
    # Each example is in one mix, unless it is too long by itself.
    assert used == [index for index, length in enumerate(alone) if length <= limit]
    for members, (events,) in mixes:
        assert len(events) + 1 <= limit
        whole = merge(new_mixer(), [streams[index] for index in members])
        np.testing.assert_array_equal(events, whole)


@given(st.lists(note_lists(max_size=12), min_size=2, max_size=4))
def test_parts_that_share_keys_leave_no_invalid_events(songs):
    songs = [expressible(notes) for notes in songs]
    mixer = new_mixer()
    streams = [part_streams(notes, 0, FRAMES, TIES) for notes in songs]
    predictions = [
        (TIES.segment_start_time(index * FRAMES), merge(mixer, parts))
        for index, parts in enumerate(zip(*streams, strict=True))
    ]
    decoded, invalid, dropped = tokenizer.decode_predictions(predictions, TIES)
    assert (invalid, dropped) == (0, 0)
    union = [note for notes in songs for note in notes]
    # Every onset once, and each key sounds exactly while some part holds it.
    assert sorted(onsets(decoded)) == sorted(set(onsets(union)))
    assert sounding_steps(decoded) == sounding_steps(union)


def onsets(notes):
    return [(round(100 * n.start_time), n.pitch, n.program, n.is_drum) for n in notes]


def sounding_steps(notes):
    return {
        (step, n.pitch, n.program)
        for n in notes
        if not n.is_drum
        for step in range(round(100 * n.start_time), round(100 * n.end_time))
    }


def test_one_example_stays_as_it_is():
    mixer = new_mixer()
    notes = [
        Note(0.1, 5.0, 60),
        Note(0.31, 0.33, 61, 90, 7),
        Note(1, 1.1, 38, 80, 0, True),
    ]
    for stream in part_streams(notes, 0, FRAMES, TIES):
        np.testing.assert_array_equal(merge(mixer, [stream]), stream)


def test_samples():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(3, 4, 128)).astype(np.float32)
    mixed = mixing.mix_samples(parts)
    total = parts.sum(0)
    np.testing.assert_allclose(mixed, total / np.abs(total).max(), rtol=1e-6)
    assert np.abs(mixed).max() == 1
    assert mixed.dtype == np.float32
    silence = mixing.mix_samples(np.zeros((2, 4, 128), np.float32))
    assert not silence.any()
    assert np.isfinite(silence).all()


def examples(count, *, frames=None, notes_each=1):
    """Examples whose samples and notes tell which they are."""
    streams = []
    for index in range(count):
        notes = [Note(0.5 + 0.01 * k, 1.0, index % 128) for k in range(notes_each)]
        streams.append(
            TIES.segment_events(TIES.encode_song(notes, FRAMES + 1), 0, FRAMES)
        )
    spec = {
        "inputs": tf.TensorSpec([None, 128], tf.float32),
        "targets": tf.TensorSpec([None], tf.int32),
        "input_times": tf.TensorSpec([None], tf.float32),
        "unique_id": tf.TensorSpec([1], tf.string),
    }

    def generate():
        for index, stream in enumerate(streams):
            length = frames[index % len(frames)] if frames else 2
            yield {
                "inputs": np.full((length, 128), index + 1, np.float32),
                "targets": stream,
                "input_times": np.zeros(length, np.float32),
                "unique_id": [str(index).encode()],
            }

    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def mixed(ds, seed=5, *, lengths=None, **options):
    with seqio.utils.map_seed_manager(seed):
        ds = mixing.mix_transcription_examples(
            ds,
            lengths or {"inputs": FRAMES, "targets": 1024},
            {"targets": TARGETS},
            TIES.codec,
            **{"one_tie_section": True, "dense": "redraw", **options},
        )
    return list(ds.as_numpy_iterator())


def members(mix):
    return [int(name) for name in mix["unique_id"][:, 0]]


def mix_lengths(parts):
    return [[2, 5, 3][index % 3] for index in parts]


def test_a_stream_of_mixes():
    ds = examples(700, frames=[2, 5, 3])
    found = mixed(ds, max_examples_per_mix=4, shuffle_buffer_size=50)
    used = [index for mix in found for index in members(mix)]
    assert sorted(used) == list(range(700))
    assert used != list(range(700))
    sizes = collections.Counter(len(members(mix)) for mix in found)
    assert sorted(sizes) == [1, 2, 3, 4]
    # Uniform over the sizes: 70 mixes of each expected, deviation 7.
    assert all(45 < count < 95 for count in sizes.values())
    for mix in found:
        parts = members(mix)
        assert sorted(mix) == ["input_times", "inputs", "targets", "unique_id"]
        assert mix["input_times"].shape == (len(parts), max(mix_lengths(parts)))
        lengths = mix_lengths(parts)
        assert mix["inputs"].shape == (max(lengths), 128)
        # A part is silent after its end.
        sounding = [
            sum(index + 1 for index, n in zip(parts, lengths, strict=True) if n > frame)
            for frame in range(max(lengths))
        ]
        np.testing.assert_allclose(
            mix["inputs"][:, 0], np.array(sounding) / max(sounding), rtol=1e-6
        )
        notes, *_ = tokenizer.decode_predictions([(0.0, mix["targets"])], TIES)
        assert {n.pitch for n in notes} == {index % 128 for index in parts}


def test_the_same_seed_gives_the_same_stream():
    ds = examples(60)
    options = {"max_examples_per_mix": 3, "shuffle_buffer_size": 20}
    streams = [
        [members(mix) for mix in mixed(ds, seed, **options)] for seed in (1, 1, 2)
    ]
    assert streams[0] == streams[1] != streams[2]
    unseeded = mixed(ds, None, **options)
    assert sorted(i for mix in unseeded for i in members(mix)) == list(range(60))


@pytest.mark.parametrize("dense", ["redraw", "skip"])
def test_dense_mixes_do_not_stop_training(dense, caplog):
    caplog.set_level(logging.WARNING)
    limit = 90
    found = mixed(
        examples(40, notes_each=12),
        lengths={"targets": limit},
        max_examples_per_mix=5,
        shuffle_buffer_size=10,
        dense=dense,
    )
    assert all(len(mix["targets"]) + 1 <= limit for mix in found)
    used = sorted(index for mix in found for index in members(mix))
    assert max(len(members(mix)) for mix in found) > 1
    if dense == "redraw":
        assert used == list(range(40))
        assert not caplog.records
    else:
        assert 0 < len(used) < 40
        assert "targets with EOS, expected at most 90" in caplog.text


def test_an_example_that_is_too_long_alone_is_left_out(caplog):
    caplog.set_level(logging.WARNING)
    ds = examples(4).concatenate(examples(1, notes_each=40)).concatenate(examples(2))
    found = mixed(ds, lengths={"targets": 40}, max_examples_per_mix=3)
    assert sum(len(members(mix)) for mix in found) == 6
    assert "Skipping example 0: found" in caplog.text


def test_no_mixing_and_wrong_settings():
    ds = examples(3)
    settings = ({"targets": TARGETS}, TIES.codec)
    assert mixing.mix_transcription_examples(ds, None, *settings) is ds
    for wrong, problem in (
        ({"max_examples_per_mix": 0}, "max_examples_per_mix is 0"),
        ({"max_examples_per_mix": 2, "shuffle_buffer_size": 0}, "buffer_size 0"),
        ({"max_examples_per_mix": 2, "dense": "drop"}, "dense is 'drop'"),
    ):
        with pytest.raises(ConfigError, match=problem):
            mixing.mix_transcription_examples(ds, None, *settings, **wrong)
    assert mixing.SHUFFLE_BUFFER_SIZE == seqio.SHUFFLE_BUFFER_SIZE


def test_the_original_way_keeps_dense_mixes_and_every_tie_section():
    ds = examples(40, notes_each=12)
    found = mixed(
        ds,
        lengths={"targets": 90},
        max_examples_per_mix=5,
        one_tie_section=False,
        dense="keep",
    )
    tie = TIES.codec.event_type_range("tie")[0]
    assert sorted(index for mix in found for index in members(mix)) == list(range(40))
    assert max(len(mix["targets"]) for mix in found) > 90
    for mix in found:
        assert (mix["targets"] == tie).sum() == len(members(mix))


def test_several_targets_and_other_names():
    def example(index):
        return {
            "audio": tf.fill([index + 1, 128], float(index + 1)),
            "notes": tf.constant([index + 1, 1001 + 50 + index]),
            "onsets": tf.constant([index + 1, 1001 + 70 + index]),
            "number": tf.constant(index),
            "lists": tf.range(index + 1),
        }

    ds = tf.data.Dataset.from_tensors(example(0)).concatenate(
        tf.data.Dataset.from_tensors(example(1))
    )
    with seqio.utils.map_seed_manager(0):
        ds = mixing.mix_transcription_examples(
            ds.repeat(20),
            None,
            {"notes": TARGETS, "onsets": TARGETS},
            TIES.codec,
            inputs_feature_key="audio",
            targets_feature_keys=("notes", "onsets"),
            max_examples_per_mix=2,
            shuffle_buffer_size=5,
        )
    found = [mix for mix in ds.as_numpy_iterator() if set(mix["number"]) == {0, 1}]
    assert found
    for mix in found:
        assert mix["notes"].tolist() == [1, 1051, 2, 1052]
        assert mix["onsets"].tolist() == [1, 1071, 2, 1072]
        assert mix["audio"].shape == (2, 128)
        np.testing.assert_allclose(mix["audio"][:, 0], [1, 2 / 3], rtol=1e-6)
        rows = [[0, 1] if number else [0, 0] for number in mix["number"]]
        assert mix["lists"].tolist() == rows


def test_gin_files_bind_the_number_of_examples():
    ds = examples(12)
    with gin.unlock_config():
        gin.parse_config("mixing.mix_transcription_examples.max_examples_per_mix = 3")
    try:
        assert max(len(members(mix)) for mix in mixed(ds)) > 1
    finally:
        gin.clear_config()
