"""The pipeline's stages: whole chain against the golden file, cuts, errors."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import pathlib
import zlib

import note_seq
import numpy as np
import pytest
import seqio
import tensorflow as tf

import gin
from mt3 import (
    configs,
    datasets,
    errors,
    note_sequences,
    preprocessors,
    run_length_encoding,
    spectrograms,
    tokenizer,
    vocabularies,
)
from mt3.configs import ModelConfig
from mt3.data import adapters, note_sequence_io, records, tf_bridge
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import Note
from mt3.vocabularies import VocabularyConfig
from tests.support import tiny_datasets

RATE = 16000
SYNTHETIC = datasets.SYNTHETIC_CONFIG
TINY_SPECTROGRAM = spectrograms.SpectrogramConfig(num_mel_bins=32, fft_size=512)
CONFIG = dataclasses.replace(configs.MT3, spectrogram=TINY_SPECTROGRAM)
NO_TIES = dataclasses.replace(configs.ISMIR2021, spectrogram=TINY_SPECTROGRAM)
ONSETS = dataclasses.replace(CONFIG, include_ties=False, onsets_only=True)
CLASSES = dataclasses.replace(CONFIG, program_granularity="midi_class")
LENGTHS = {"inputs": 256, "targets": 1024}


def payload(notes, seconds, name="song"):
    """A record of silence with notes."""
    audio = tiny_datasets.wav(np.zeros(round(seconds * RATE), np.float32))
    features = {"id": name, "audio": audio}
    features["sequence"] = note_sequences.to_note_sequence(notes).SerializeToString()
    return example(**features)


def example(**features):
    values = {
        key: value.encode() if isinstance(value, str) else value
        for key, value in features.items()
    }
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in values.items()
            }
        )
    ).SerializeToString()


def record_ds(payloads, config=SYNTHETIC):
    names = [f"data/{config.name}.tfrecord#{i}" for i in range(len(payloads))]
    description = records.feature_description(config.features)
    return tf.data.Dataset.from_tensor_slices((payloads, names)).map(
        lambda data, name: {
            **tf.io.parse_single_example(data, description),
            "record": name,
        }
    )


def tiny_songs(name="synthetic", split="train", seconds=4.0):
    config = datasets.DATASETS[name]
    songs = tiny_datasets.songs(name, split, seconds=seconds)
    return record_ds([tiny_datasets.record(name, song) for song in songs], config)


def codec_of(config):
    return vocabularies.build_codec(config.vocabulary)


def features_of(config):
    return {
        "inputs": seqio.ContinuousFeature(
            seqio.PassThroughVocabulary(0), dtype=tf.float32, rank=2, add_eos=False
        ),
        "targets": seqio.Feature(vocabularies.vocabulary_from_codec(codec_of(config))),
    }


def tokenized(ds, config=CONFIG, training=True, dataset=SYNTHETIC, **options):
    settings = (training, config.onsets_only, config.include_ties)
    options = {"lean": True, "stale_end_state": False, **options}
    return preprocessors.tokenize(
        ds,
        config.spectrogram,
        codec_of(config),
        *settings,
        adapter=adapters.of(dataset),
        **options,
    )


def cut(ds, first, frames):
    """The part that `select_random_chunk` would take if it drew this start."""
    names = preprocessors._PER_FRAME

    def part(chunk):
        return {**chunk, **{n: chunk[n][first : first + frames] for n in names}}

    return ds.map(part)


def stages(ds, config, lengths=LENGTHS, *, skip=False):
    """Training's single stages after the random chunk."""
    codec = codec_of(config)
    tie = codec.event_type_range("tie")[0] if config.include_ties else None
    extract = run_length_encoding.extract_target_sequence_with_indices
    ds = ds.map(functools.partial(extract, state_events_end_token=tie))
    ds = preprocessors.map_midi_programs(ds, codec, config.program_granularity)
    ds = run_length_encoding.run_length_encode_shifts_fn(codec)(ds)
    ds = run_length_encoding.remove_redundant_state_changes_fn(
        codec, state_change_event_types=["velocity", "program"]
    )(ds)
    return last_stages(ds, config, lengths, skip=skip)


def last_stages(ds, config, lengths, *, skip=False):
    ds = preprocessors.compute_spectrograms(
        ds, config.spectrogram, sequence_length=lengths, padding=config.padding
    )
    features = features_of(config)
    ds = preprocessors.handle_too_long(ds, features, lengths, skip)
    return preprocessors.encode_events(ds, features)


def fused(ds, config=CONFIG, lengths=LENGTHS, *, skip=False, seed=7):
    """All of training's stages in one."""
    with seqio.utils.map_seed_manager(seed):
        return preprocessors.random_training_example(
            ds,
            lengths,
            tokenizer=tokenizer.NoteTokenizer(config),
            skip_too_long=skip,
            padding=config.padding,
        )


def evaluation(ds, config, lengths=LENGTHS):
    ds = preprocessors.split_tokens_to_inputs_length(ds, lengths)
    ds = preprocessors.add_dummy_targets(ds)
    return last_stages(ds, config, lengths)


def elements(ds):
    return list(ds.as_numpy_iterator())


def assert_equal(one, other, names):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        for name in names:
            assert np.asarray(left[name]).dtype == np.asarray(right[name]).dtype, name
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def golden_cases():
    path = pathlib.Path(__file__).parent / "golden" / "data"
    cases = json.loads((path / "notes_to_tokens.json").read_text())
    assert len(cases) > 5
    return cases


@pytest.mark.parametrize("index", range(10))
def test_whole_chain_gives_the_original_ids(index):
    case = golden_cases()[index]
    config = ModelConfig(
        network={},
        vocabulary=VocabularyConfig(num_velocity_bins=case["num_velocity_bins"]),
        spectrogram=TINY_SPECTROGRAM,
        include_ties=case["ties"],
        onsets_only=case["onsets_only"],
        program_granularity=case["program_granularity"],
    )
    notes = [Note(**note) for note in case["notes"]]
    ds = record_ds([payload(notes, case["seconds"])])
    # As evaluation reads them: the golden notes are not trimmed.
    ds = tokenized(ds, config, training=False).cache()
    expected = [segment["vocabulary_ids"] for segment in case["segments"]]
    parts = functools.reduce(
        tf.data.Dataset.concatenate,
        [cut(ds, s["first_frame"], s["num_frames"]) for s in case["segments"]],
    )
    found = elements(stages(parts, config, None))
    assert [example["targets"].tolist() for example in found] == expected


@pytest.mark.parametrize("config", [CONFIG, NO_TIES, ONSETS, CLASSES])
def test_ids_are_those_of_the_tokenizer(config):
    songs = tiny_datasets.songs("synthetic", "train")
    tok = tokenizer.NoteTokenizer(config)
    ds = preprocessors.split_tokens(tokenized(tiny_songs(), config), max_frames=200)
    found = elements(stages(cut(ds, 30, 100), config))
    assert len(found) == 3 * len(songs)
    for song, chunks in zip(songs, np.array_split(np.array(found), 3), strict=True):
        encoded = tok.encode_song(song.notes, 501)
        for index, chunk in enumerate(chunks):
            first = 200 * index + 30
            ids = tok.segment_ids(encoded, first, 100) if first < 501 else []
            assert chunk["targets"].tolist() == ids.tolist()


def test_features_of_a_song():
    (song, *_) = elements(tokenized(tiny_songs(), training=False))
    truth = tiny_datasets.songs("synthetic", "train")[0]
    # A length that is a multiple of the hop gets one frame more.
    assert song["inputs"].shape == (501, 128)
    assert song["inputs"].dtype == np.float32
    np.testing.assert_allclose(
        song["inputs"].reshape(-1)[: 4 * RATE], truth.samples(), atol=1e-4
    )
    np.testing.assert_allclose(song["input_times"], np.arange(501) / 125)
    assert song["unique_id"].tolist() == [truth.id.encode()]
    sequence = note_sequence_io.parse(song["sequence"])
    assert sorted(note_sequence_io.to_notes(sequence)) == truth.notes
    (song, *_) = elements(tokenized(tiny_songs()))
    assert song["sequence"] == b""


@pytest.mark.parametrize("config", [CONFIG, NO_TIES])
def test_chunks_cover_the_song(config):
    ds = tokenized(tiny_songs(), config)
    songs = elements(ds)
    chunks = elements(preprocessors.split_tokens(ds, max_frames=200))
    assert [len(chunk["inputs"]) for chunk in chunks] == [200, 200, 101] * 3
    for index, song in enumerate(songs):
        own = chunks[3 * index : 3 * index + 3]
        for name in ("inputs", "input_times", "targets"):
            np.testing.assert_array_equal(
                np.concatenate([chunk[name] for chunk in own]), song[name]
            )
        assert {chunk["unique_id"][0] for chunk in own} == {song["unique_id"][0]}
        if config.include_ties:
            # Each holds its own sections, one more at the edges at most.
            held = sum(len(chunk["state_events"]) for chunk in own)
            assert all(len(c["state_events"]) < len(song["state_events"]) for c in own)
            assert len(song["state_events"]) <= held < 1.2 * len(song["state_events"])


@pytest.mark.parametrize("padding", configs.PADDINGS)
@pytest.mark.parametrize("name", ["synthetic", "maestrov3", "classes"])
def test_the_fused_stage_equals_the_single_stages(name, padding):
    base = {"synthetic": CONFIG, "maestrov3": NO_TIES, "classes": CLASSES}[name]
    config = dataclasses.replace(base, padding=padding)
    lengths = {"inputs": 128, "targets": 1024}
    dataset = datasets.DATASETS["synthetic" if name == "classes" else name]
    ds = tokenized(tiny_songs(dataset.name), config, dataset=dataset)
    ds = preprocessors.split_tokens(ds, max_frames=300).cache().repeat(4)
    one = fused(ds, config, lengths)
    with seqio.utils.map_seed_manager(7):
        parts = preprocessors.select_random_chunk(ds, lengths)
    single = stages(parts, config, lengths)
    names = ("inputs", "targets", "input_times", "sequence", "unique_id")
    assert sorted(one.element_spec) == sorted(names)
    found = elements(one)
    assert_equal(found, elements(single), names)
    assert len(found) == 24
    for key in ("inputs", "targets"):
        assert one.element_spec[key] == single.element_spec[key]
    frames = {len(example["inputs"]) for example in found}
    assert frames == {128} if padding == "silence" else min(frames) < 128


def test_both_ways_leave_out_the_same_examples():
    lengths = {"inputs": 128, "targets": 20}
    ds = preprocessors.split_tokens(tokenized(tiny_songs()), max_frames=300)
    ds = ds.cache().repeat(4)
    found = elements(fused(ds, lengths=lengths, skip=True))
    with seqio.utils.map_seed_manager(7):
        parts = preprocessors.select_random_chunk(ds, lengths)
    single = elements(stages(parts, CONFIG, lengths, skip=True))
    assert_equal(found, single, ("inputs", "targets", "unique_id"))
    assert len(found) < 24
    with pytest.raises(ConfigError, match="random_training_example: sequence_length"):
        fused(ds, lengths=None)


def test_random_chunks():
    def starts(seed, count):
        ds = preprocessors.split_tokens(tokenized(tiny_songs()), max_frames=300)
        ds = ds.take(1).cache().repeat(count)
        with seqio.utils.map_seed_manager(seed):
            ds = preprocessors.select_random_chunk(ds, {"inputs": 100})
        times = ds.map(lambda part: part["input_times"])
        return [np.rint(125 * part).astype(int) for part in times.as_numpy_iterator()]

    parts = starts(3, 4000)
    # Every frame is as likely as any other.
    counts = np.bincount(np.concatenate(parts), minlength=300)
    expected = 4000 * 100 / 399
    assert len(counts) == 300
    assert counts.min() > 0.8 * expected
    assert counts.max() < 1.2 * expected
    assert {len(part) for part in parts} == set(range(1, 101))
    first = [part[0] for part in parts]
    assert [part[0] for part in starts(3, 40)] == first[:40]
    assert [part[0] for part in starts(4, 40)] != first[:40]
    with pytest.raises(ConfigError, match="sequence_length is None"):
        preprocessors.select_random_chunk(tokenized(tiny_songs()), None)


@pytest.mark.parametrize("padding", configs.PADDINGS)
def test_each_segment_is_transformed_alone_as_the_transcriber_does(padding):
    config = dataclasses.replace(CONFIG, padding=padding)
    ds = evaluation(tokenized(tiny_songs(), config, training=False), config)
    song = tiny_datasets.songs("synthetic", "train")[0]
    samples = elements(tokenized(tiny_songs(), config))[0]["inputs"].reshape(-1)
    found = elements(ds)[:2]
    whole = spectrograms.compute_spectrogram(samples[: 256 * 128], TINY_SPECTROGRAM)
    np.testing.assert_array_equal(found[0]["inputs"], whole)
    rest = samples[256 * 128 :]
    assert len(rest) == 245 * 128 > song.seconds * RATE - 256 * 128
    if padding == "silence":
        rest = np.pad(rest, (0, 256 * 128 - len(rest)))
    last = spectrograms.compute_spectrogram(rest, TINY_SPECTROGRAM)
    np.testing.assert_array_equal(found[1]["inputs"], last)
    # What is heard is the same for both.
    assert [len(item["raw_inputs"]) for item in found] == [256 * 128, 245 * 128]
    np.testing.assert_array_equal(
        np.concatenate([item["raw_inputs"] for item in found]), samples
    )


def test_evaluation_segments_cover_the_song():
    ds = tokenized(tiny_songs(), training=False)
    found = elements(evaluation(ds, CONFIG, {"inputs": 100, "targets": 8}))
    songs = tiny_datasets.songs("synthetic", "train")
    assert len(found) == 6 * len(songs)
    for index, song in enumerate(songs):
        own = found[6 * index : 6 * index + 6]
        assert [len(item["inputs"]) for item in own] == [100] * 5 + [1]
        starts = [item["input_times"][0] for item in own]
        np.testing.assert_allclose(starts, np.arange(6) * 0.8)
        assert {item["unique_id"].tolist()[0] for item in own} == {song.id.encode()}
        notes = note_sequence_io.to_notes(note_sequence_io.parse(own[0]["sequence"]))
        assert sorted(notes) == song.notes
        assert {item["sequence"] for item in own[1:]} == {b""}
        assert all(item["targets"].tolist() == [1] for item in own)


def test_shapes_and_types_are_known():
    ds = tokenized(tiny_songs(), training=False)
    assert ds.element_spec["inputs"] == tf.TensorSpec([None, 128], tf.float32)
    assert ds.element_spec["sequence"] == tf.TensorSpec([], tf.string)
    assert ds.element_spec["unique_id"] == tf.TensorSpec([1], tf.string)
    found = evaluation(ds, CONFIG).element_spec
    assert found["inputs"] == tf.TensorSpec([None, 32], tf.float32)
    assert found["targets"] == tf.TensorSpec([1], tf.int32)  # EOS alone
    assert found["raw_inputs"] == tf.TensorSpec([None], tf.float32)
    split = preprocessors.split_tokens(ds).element_spec
    assert split["inputs"] == tf.TensorSpec([None, 128], tf.float32)
    assert {name: spec.dtype for name, spec in split.items()} == {
        name: spec.dtype for name, spec in ds.element_spec.items()
    }


def dense_song(name, onsets_per_second=40):
    """Notes whose 2 s do not fit into a few hundred targets."""
    count = 4 * onsets_per_second
    notes = [
        Note(i / onsets_per_second, i / onsets_per_second + 0.02, 30 + i % 60)
        for i in range(count)
    ]
    return payload(notes, 4.0, name)


@pytest.mark.parametrize("add_eos", [True, False])
def test_events_are_encoded_as_seqio_encodes_them(add_eos):
    features = features_of(CONFIG)
    features["targets"] = dataclasses.replace(features["targets"], add_eos=add_eos)
    example = {
        "inputs": np.ones((3, 2), np.float32),
        "targets": np.array([5, 0, 1300], np.int32),
        "unique_id": np.array([b"a song"]),
    }
    ds = tf.data.Dataset.from_tensors(example)
    expected = seqio.preprocessors.tokenize_and_append_eos(
        ds, features, copy_pretokenized=False
    )
    found = preprocessors.encode_events(ds, features)
    ((one,), (other,)) = (list(x.as_numpy_iterator()) for x in (found, expected))
    assert one["targets"].tolist() == [8, 3, 1303, 1][: 3 + add_eos]
    assert one["targets"].dtype == np.int32
    for name, value in other.items():
        np.testing.assert_array_equal(one[name], value)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_too_long_examples(in_one_step, caplog):
    songs = [payload([Note(0.5, 1.0, 60)], 4.0, "thin"), dense_song("thick")]
    whole = tokenized(record_ds(songs)).cache()
    parts = cut(whole, 0, 256)

    def run(limit, skip):
        lengths = {"inputs": 256, "targets": limit}
        if in_one_step:
            return elements(fused(whole, lengths=lengths, skip=skip))
        return elements(stages(parts, CONFIG, lengths, skip=skip))

    exact = len(run(None, False)[1]["targets"])
    assert len(run(exact, False)) == 2
    caplog.set_level(logging.WARNING)
    (left,) = run(exact - 1, True)
    assert left["unique_id"].tolist() == [b"thin"]
    problem = f"example thick: found {exact} targets with EOS, expected at most "
    assert problem + str(exact - 1) in caplog.text
    with pytest.raises(tf.errors.OpError) as caught:
        run(exact - 1, False)
    error = tf_bridge.original_error(caught.value)
    assert isinstance(error, DataError)
    assert str(error).startswith(problem + str(exact - 1))
    assert str(error).endswith("skipped")


def test_lengths_are_those_of_the_output_features():
    frames = {"inputs": tf.zeros([5, 4]), "targets": tf.ones([4], tf.int32)}
    ds = tf.data.Dataset.from_tensors({**frames, "other": tf.zeros([99])})
    features = features_of(CONFIG)

    def left(lengths, features=features):
        return len(elements(preprocessors.handle_too_long(ds, features, lengths, True)))

    # EOS is still to come for targets, and for them alone.
    assert left({"inputs": 5, "targets": 5, "other": 1}) == 1
    assert left({"inputs": 5, "targets": 4}) == left({"inputs": 4, "targets": 5}) == 0
    assert left({"inputs": 4, "targets": 4}, {}) == left(None) == 1


def test_bad_records(caplog):
    good = payload([Note(0.5, 1.0, 60)], 1.0, "good")
    bad = example(id="bad", audio="no audio", sequence="")
    ds = record_ds([good, bad, good])
    caplog.set_level(logging.WARNING)
    left = elements(tokenized(ds, skip=(DataError,)))
    assert [song["unique_id"][0] for song in left] == [b"good", b"good"]
    assert_equal(left[:1], left[1:], list(left[0]))
    problem = "data/synthetic.tfrecord#1: field 'sequence': found nothing"
    assert problem in caplog.text
    with pytest.raises(tf.errors.OpError) as caught:
        elements(preprocessors.split_tokens(tokenized(ds)))
    error = tf_bridge.original_error(caught.value)
    assert isinstance(error, DataError)
    assert str(error) == problem + ", expected bytes"


def test_original_error():
    error = errors.CheckpointError("first line\nsecond")
    assert tf_bridge.original_error(error) is error
    wrapper = ValueError("wrapped")
    wrapper.__cause__ = error
    assert tf_bridge.original_error(wrapper) is error
    assert tf_bridge.original_error(ValueError("SomeOtherError: x")) is None

    def fail(value):
        raise errors.MidiError(f"a.mid: bad\nvalue {value}")

    ds = tf.data.Dataset.range(1).map(lambda x: tf.numpy_function(fail, [x], tf.int64))
    with pytest.raises(tf.errors.OpError) as caught:
        elements(ds)
    found = tf_bridge.original_error(caught.value)
    assert type(found) is errors.MidiError
    assert str(found) == "a.mid: bad\nvalue 0"


def test_a_song_without_notes_or_with_one_sample():
    songs = [payload([], 4.0), payload([Note(0.0, 1.0, 60)], 1 / RATE)]
    found = elements(stages(cut(tokenized(record_ds(songs)), 0, 256), CONFIG))
    tie = tokenizer.NoteTokenizer(CONFIG).codec.event_type_range("tie")[0] + 3
    assert found[0]["targets"].tolist() == [tie, 1]
    assert found[1]["inputs"].shape == (1, 32)
    assert len(found[1]["targets"]) > 2


def test_as_a_seqio_task_and_from_its_cache_form():
    """The stages run under seqio, and songs survive what a cache stores."""
    task = seqio.Task(
        "unregistered",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tiny_songs(), splits=["train"]
        ),
        preprocessors=[
            tokenized,
            functools.partial(preprocessors.split_tokens, max_frames=300),
            seqio.CacheDatasetPlaceholder(),
            functools.partial(
                preprocessors.random_training_example,
                tokenizer=tokenizer.NoteTokenizer(CONFIG),
                skip_too_long=True,
            ),
        ],
        output_features={
            "inputs": seqio.ContinuousFeature(dtype=tf.float32, rank=2),
            "targets": seqio.Feature(seqio.PassThroughVocabulary(1491), add_eos=False),
        },
    )

    def run(seed):
        return elements(
            task.get_dataset(LENGTHS, "train", shuffle=True, seed=seed, num_epochs=2)
        )

    one = run(1)
    assert len(one) == 2 * 2 * 3
    assert_equal(one, run(1), ("inputs", "targets", "unique_id"))
    other = run(2)
    assert any(len(a["targets"]) != len(b["targets"]) for a, b in zip(one, other))  # noqa: B905

    chunks = task.preprocess_precache(tiny_songs())
    stored = seqio.utils.dict_to_tfexample(elements(chunks)[0])
    read = tf.io.parse_single_example(
        stored.SerializeToString(),
        {
            name: tf.io.FixedLenSequenceFeature(
                spec.shape[1:],
                tf.int64 if spec.dtype == tf.int32 else spec.dtype,
                allow_missing=True,
            )
            if spec.shape.rank
            else tf.io.FixedLenFeature([], spec.dtype)
            for name, spec in chunks.element_spec.items()
        },
    )
    for name, value in elements(chunks)[0].items():
        np.testing.assert_array_equal(read[name], value)


# The original's names: its tokenizers on the look-alike records, and small helpers.

TOKENIZERS = {
    "maestrov3": functools.partial(
        preprocessors.tokenize_transcription_example,
        audio_is_samples=False,
        id_feature_key="id",
    ),
    "guitarset": preprocessors.tokenize_guitarset_example,
    "urmp": functools.partial(
        preprocessors.tokenize_example_with_program_lookup,
        inst_name_to_program_fn=preprocessors.urmp_instrument_to_program,
        id_feature_key="id",
    ),
    "musicnet": functools.partial(
        preprocessors.tokenize_transcription_example,
        audio_is_samples=True,
        id_feature_key="id",
    ),
    "cerberus4": functools.partial(
        preprocessors.tokenize_slakh_example,
        track_specs=datasets.CERBERUS4_CONFIG.track_specs,
        ignore_pitch_bends=True,
    ),
    "slakh": functools.partial(
        preprocessors.tokenize_slakh_example, track_specs=None, ignore_pitch_bends=True
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_give_the_original_events(name):
    """`tokenized_records.json`: lengths and checksums of the original's output."""
    path = pathlib.Path(__file__).parent / "golden" / "data" / "tokenized_records.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    paths = datasets.DATASETS[name].paths["train"]
    # The original read two shards, one after the other.
    songs = tiny_datasets.songs(name, "train")
    songs = songs if "?" not in paths else (*songs[::2], *songs[1::2])
    records_of = [tiny_datasets.record(name, song) for song in songs]
    ds = record_ds(records_of, datasets.DATASETS[name])
    checked = 0
    for key, expected in golden.items():
        data_set, encoding, use = key.split()
        if data_set != name:
            continue
        found = TOKENIZERS[name](
            ds,
            spectrogram_config=spectrograms.SpectrogramConfig(),
            codec=codec_of(CONFIG if encoding == "notes_ties" else NO_TIES),
            is_training_data=use == "training",
            onsets_only=encoding == "onsets",
            include_ties=encoding == "notes_ties",
        )
        sums = [
            {
                feature: [len(song[feature]), zlib.crc32(song[feature].tobytes())]
                for feature in preprocessors._INDEXED_EVENTS
            }
            for song in elements(found)
        ]
        assert sums == expected
        checked += 1
    assert checked == 6


def test_tokenizers_keep_the_features_of_the_record():
    (song, *_) = elements(tokenized(tiny_songs("urmp"), dataset=datasets.URMP_CONFIG))
    assert set(song) == {*preprocessors._PER_FRAME, "targets", "state_events"} | {
        "sequence",
        "unique_id",
    }
    (song, *_) = elements(
        TOKENIZERS["urmp"](
            tiny_songs("urmp"), TINY_SPECTROGRAM, codec_of(CONFIG), True, False, True
        )
    )
    assert song["inst_names"].tolist() == [b"vn", b"vc", b"fl"]
    assert "audio" not in song
    sequence = note_sequence_io.parse(song["sequence"])
    assert sequence.id == "urmp-train-0"
    assert {note.program for note in sequence.notes} == {40, 42, 73}


def test_records_without_ids():
    ds = record_ds([payload([Note(0.5, 1.0, 60)], 1.0)]).map(
        lambda record: {name: record[name] for name in ("audio", "sequence")}
    )
    (song,) = elements(
        preprocessors.tokenize_transcription_example(
            ds, TINY_SPECTROGRAM, codec_of(CONFIG), False, False, True, False
        )
    )
    assert song["unique_id"].tolist() == [b"record"]
    numbered = elements(preprocessors.add_unique_id(tf.data.Dataset.from_tensors(song)))
    assert numbered[0]["unique_id"].tolist() == [0]


def bent():
    sequence = note_seq.NoteSequence(ticks_per_quarter=220, total_time=7.0)
    sequence.notes.add(pitch=60, velocity=80, end_time=1.0, program=3, instrument=4)
    sequence.pitch_bends.add(bend=3, time=0.1)
    for time, value in ((0.5, 127), (1.4, 0)):
        sequence.control_changes.add(
            time=time, control_number=64, control_value=value, instrument=4
        )
    return sequence


def test_pitch_bends():
    ns = note_seq.NoteSequence()
    with pytest.raises(preprocessors.PitchBendError):
        preprocessors.add_track_to_notesequence(ns, bent(), 40, False, False)
    preprocessors.add_track_to_notesequence(ns, bent(), 40, False, True)
    (note,) = ns.notes
    assert (note.program, note.is_drum, note.instrument) == (40, False, 4)
    # The pedal holds it.
    assert note.end_time == ns.total_time == 1.4
    preprocessors.add_track_to_notesequence(ns, bent(), 0, True, True)
    assert ns.notes[1].is_drum

    record = {
        "audio_sample_rate": tf.constant(RATE),
        "mix": tf.zeros([RATE]),
        "inst_names": tf.constant(["Violin"]),
        "note_sequences": tf.constant([bent().SerializeToString()]),
        "track_id": tf.constant("t"),
    }
    for ignore, count in ((True, 1), (False, 0)):
        found = preprocessors.tokenize_slakh_example(
            tf.data.Dataset.from_tensors(record),
            TINY_SPECTROGRAM,
            codec_of(CONFIG),
            *(True, False, True, None, ignore),
        )
        assert len(elements(found)) == count


def test_instruments():
    assert preprocessors.guitarset_instrument_to_program("Clean Guitar") == 24
    assert preprocessors.urmp_instrument_to_program("fl") == 73
    assert preprocessors.slakh_class_to_program_and_is_drum("Synth Pad") == (88, False)
    assert preprocessors.slakh_class_to_program_and_is_drum("Drums") == (0, True)
    for function in (
        preprocessors.guitarset_instrument_to_program,
        preprocessors.urmp_instrument_to_program,
        preprocessors.slakh_class_to_program_and_is_drum,
    ):
        with pytest.raises(ValueError, match="'x'"):
            function("x")


def test_sequences_as_arrays():
    song = {"input_times": tf.zeros([3]), "sequence": tf.constant("abc")}
    (padded,) = elements(
        preprocessors.pad_notesequence_array(tf.data.Dataset.from_tensors(song))
    )
    assert padded["sequence"].tolist() == [b"abc", b"", b""]


def test_map_midi_programs():
    """Indices as the original maps them."""
    events = [1175, 1130, 1061, 1137]  # Programs 43 and 5, and a note.
    ds = tf.data.Dataset.from_tensors(
        {name: tf.constant(events) for name in ("targets", "other")}
    )

    def mapped(*arguments):
        (example,) = elements(
            preprocessors.map_midi_programs(ds, codec_of(CONFIG), *arguments)
        )
        return example["targets"].tolist(), example["other"].tolist()

    assert mapped() == mapped("full") == (events, events)
    assert mapped("flat") == ([1130, 1061], events)
    assert mapped("midi_class") == ([1172, 1130, 1061, 1132], events)
    assert mapped("flat", "other") == (events, [1130, 1061])
    with pytest.raises(ConfigError, match="'x'"):
        mapped("x")
    with gin.unlock_config():
        gin.parse_config("preprocessors.map_midi_programs.granularity_type = 'flat'")
    try:
        assert mapped() == ([1130, 1061], events)
    finally:
        gin.clear_config()
