"""Every data set's records become the songs that they were made of."""

from __future__ import annotations

import dataclasses
import io

import note_seq
import numpy as np
import pytest
import soundfile

from mt3 import datasets, note_sequences
from mt3.audio import resampling
from mt3.data import adapters, note_sequence_io, records
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import Note, trim_overlapping_notes
from tests.support import tiny_datasets

NAME = "data/train.tfrecord-00000-of-00002#1"
SECONDS = 3.0
TRIMMED = {"slakh", "cerberus4", "synthetic"}


def song_of(name, split="train", index=0):
    return tiny_datasets.songs(name, split, seconds=SECONDS)[index]


def record_of(name, split="train", index=0):
    """One record as the pipeline hands it over."""
    payload = tiny_datasets.record(name, song_of(name, split, index))
    parsed = records.parse(payload, datasets.DATASETS[name].features, NAME)
    return {**{key: value.numpy() for key, value in parsed.items()}, "record": NAME}


def adapt(name, record, *, training=False, sample_rate=16000):
    config = datasets.DATASETS[name]
    return adapters.of(config)(record, sample_rate=sample_rate, training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", list(datasets.DATASETS))
def test_songs(name, training):
    song = song_of(name)
    adapted = adapt(name, record_of(name), training=training)
    expected = song.notes
    if training and name in TRIMMED:
        expected = trim_overlapping_notes(expected)
    assert sorted(adapted.notes) == expected
    truth = song.samples()
    assert adapted.samples.shape == truth.shape
    assert adapted.samples.dtype == np.float32
    # What resampling does at attacks and to the noise of drums, and 16 bits.
    assert np.abs(adapted.samples - truth).mean() < 2e-3
    assert song.id in adapted.id


def test_two_recordings_of_one_excerpt_stay_two_songs():
    record = record_of("guitarset")
    assert adapt("guitarset", record).id == song_of("guitarset").id
    unclear = {**record, "id": b"00_Jazz1-130-D_comp"}
    ids = {
        adapt("guitarset", {**unclear, "record": f"train.tfrecord#{index}"}).id
        for index in range(2)
    }
    assert ids == {f"00_Jazz1-130-D_comp train.tfrecord#{index}" for index in range(2)}


def test_slakh_is_trimmed_in_training_alone():
    record = record_of("slakh")
    kept = adapt("slakh", record).notes
    assert {(n.start_time, n.end_time) for n in kept if n.pitch == 28} >= {(2.2, 2.9)}
    trimmed = adapt("slakh", record, training=True).notes
    assert (2.2, 2.5) in {(n.start_time, n.end_time) for n in trimmed if n.pitch == 28}
    assert kept != trimmed


def test_the_sequence_is_the_notes():
    adapted = adapt("urmp", record_of("urmp"))
    parsed = note_sequence_io.parse(adapted.sequence)
    assert note_sequence_io.to_notes(parsed) == adapted.notes
    programs = {note.program: note.instrument for note in parsed.notes}
    assert len(set(programs.values())) == len(programs) == 3


def test_ids():
    assert adapt("maestrov3", record_of("maestrov3")).id == "maestrov3-train-0"
    # Of these, several records are mixes of one track.
    expected = "slakh-train-0 train.tfrecord-00000-of-00002#1"
    assert adapt("slakh", record_of("slakh")).id == expected
    nameless = {**record_of("maestrov3"), "id": b""}
    assert adapt("maestrov3", nameless).id == "train.tfrecord-00000-of-00002#1"
    with pytest.raises(DataError, match="'id' and 'record' are empty"):
        adapt("maestrov3", {**nameless, "record": b""})


@pytest.mark.parametrize("file_format", ["WAV", "FLAC"])
def test_audio_files_of_any_rate_and_channels(file_format):
    time = np.arange(44100) / 44100
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([left, 0 * left], 1), 44100, format=file_format)
    samples = adapters.decode_audio(stream.getvalue(), 16000, "x")
    assert samples.shape == (resampling.resampled_length(44100, 44100, 16000),)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=1e-3)


def wav_bytes(subtype="PCM_16", channels=1, rate=16000, file_format="WAV"):
    samples = np.random.default_rng(0).uniform(-1, 1, (1000, channels))
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, subtype=subtype, format=file_format)
    return stream.getvalue()


def decoded(data):
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return adapters.resample(samples, rate, 16000, "x")


def test_plain_wav_files_keep_their_type():
    data = wav_bytes()
    # Another chunk before the samples, of an odd size, as editors write it.
    at = data.index(b"data")
    longer = data[:at] + b"LIST\x03\x00\x00\x00abc\x00" + data[at:]
    for plain, size in ((data, 1000), (longer, 1000), (data[:-100], 950)):
        stored = adapters.decode_audio(plain, 16000, "x")
        assert stored.dtype == np.int16
        found = adapters.Song("x", stored, None).samples
        np.testing.assert_array_equal(found, decoded(data)[:size])


def test_other_files_are_decoded():
    cases = [
        wav_bytes("PCM_24"),
        wav_bytes("FLOAT"),
        wav_bytes(channels=2),
        wav_bytes(rate=8000),
        wav_bytes(file_format="FLAC"),
        wav_bytes(file_format="WAVEX"),
    ]
    for data in cases:
        stored = adapters.decode_audio(data, 16000, "x")
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, decoded(data))
    with pytest.raises(DataError, match="no WAV or FLAC"):
        adapters.decode_audio(wav_bytes()[:20], 16000, "x")


def test_float_samples_that_are_not_finite():
    record = {"audio": np.zeros(100, np.float32), "rate": 16000.0, "record": "r#1"}
    samples = adapters.float_samples(record, "audio", "rate", 16000)
    assert samples is record["audio"]
    for bad in (np.nan, np.inf):
        record["audio"][50] = bad
        with pytest.raises(DataError, match=r"r#1: field 'audio'.*sample 50"):
            adapters.float_samples(record, "audio", "rate", 16000)
    # Finite, but their sum is not.
    record["audio"][:] = 3e38
    with pytest.raises(DataError, match=r"r#1: field 'audio'.*found 3e\+38"):
        adapters.float_samples(record, "audio", "rate", 16000)
    record["audio"][:] = 2e9
    samples = adapters.float_samples(record, "audio", "rate", 16000)
    np.testing.assert_array_equal(samples, record["audio"])


def test_another_model_rate():
    samples = adapt("musicnet", record_of("musicnet"), sample_rate=8000).samples
    assert len(samples) == SECONDS * 8000


def bend(data):
    sequence = note_sequence_io.parse(bytes(data))
    sequence.pitch_bends.add(time=1.0, bend=5)
    return sequence.SerializeToString()


def damage(change):
    """A change to the first of a list of strings, or to a string."""

    def apply(value):
        if isinstance(value, bytes):
            return change(value)
        return np.array([change(value[0]), *value[1:]], object)

    return apply


@pytest.mark.parametrize(
    ("name", "field", "change", "problem"),
    [
        ("maestrov3", "audio", lambda _: b"RIFF????", "8 bytes that are no WAV or FLA"),
        ("maestrov3", "audio", lambda _: b"", "found nothing, expected bytes"),
        ("maestrov3", "sequence", lambda _: b"", "found nothing, expected bytes"),
        ("maestrov3", "sequence", lambda _: b"\xff" * 5, "5 bytes that are no NoteSe"),
        ("guitarset", "sequence", bend, "found 1 pitch bends"),
        ("urmp", "instrument_sequences", damage(bend), "found 1 pitch bends"),
        ("urmp", "instrument_sequences", lambda v: v[1:], "2 sequences for 3 instrum"),
        ("urmp", "inst_names", damage(lambda _: b"vnn"), "'vnn'.*mean .*vn"),
        (
            "slakh",
            "inst_names",
            damage(lambda _: b"Electric Bas"),
            "mean Electric Bass",
        ),
        ("cerberus4", "inst_names", damage(lambda _: b"bas"), "unknown .*mean bass"),
        ("cerberus4", "inst_names", damage(lambda _: b"piano"), "found piano, drums"),
        ("musicnet", "audio", lambda v: v[:0], "reading samples: found none"),
        ("musicnet", "audio", lambda v: v * np.nan, "found nan at 0.0000 s"),
        ("musicnet", "sample_rate", lambda _: np.float32(0), "sample rate of 0"),
        ("slakh", "mix", lambda v: v + np.inf, "expected finite samples"),
        ("synthetic", "audio", lambda _: b"none", "4 bytes that are no WAV or FLAC"),
    ],
)
def test_damaged_records_are_named(name, field, change, problem):
    record = record_of(name)
    record[field] = change(record[field])
    where = "audio" if field == "sample_rate" else field
    with pytest.raises(DataError, match=f"{NAME}: field '{where}': .*{problem}"):
        adapt(name, record)


def test_missing_fields_are_named():
    for name, field in (
        ("slakh", "mix"),
        ("urmp", "inst_names"),
        ("maestrov1", "audio"),
    ):
        record = record_of(name)
        del record[field]
        with pytest.raises(DataError, match=f"{NAME}: field '{field}'"):
            adapt(name, record)


def test_pitch_bends_are_ignored_where_the_published_sets_have_them():
    record = record_of("slakh")
    stems = [note_sequence_io.parse(stem) for stem in record["note_sequences"]]
    assert any(stem.pitch_bends for stem in stems)
    assert adapt("slakh", record).notes


def test_a_record_without_notes_is_a_song():
    record = record_of("synthetic")
    empty = {**record, "sequence": note_seq.NoteSequence(id="x").SerializeToString()}
    assert adapt("synthetic", empty).notes == []


def test_notes_without_a_duration_are_dropped_by_trimming_alone():
    record = record_of("synthetic")
    notes = [Note(0.5, 0.5, 60), Note(1.0, 2.0, 62)]
    stored = note_sequences.to_note_sequence(notes).SerializeToString()
    record["sequence"] = stored
    assert adapt("synthetic", record, training=True).notes == notes[1:]
    with pytest.raises(DataError, match="note 0: ends where it begins"):
        adapt("synthetic", record)


def test_unknown_adapter():
    config = dataclasses.replace(datasets.URMP_CONFIG, adapter="maestr")
    with pytest.raises(ConfigError, match="'urmp'.*'maestr'.*maestro"):
        adapters.of(config)
    used = {config.adapter for config in datasets.DATASETS.values()}
    assert used == set(adapters.ADAPTERS)
