"""The synthetic data set: rendered songs as records."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from mt3 import datasets
from mt3.data import adapters, records
from mt3.errors import ConfigError, DataError
from mt3.prepare import items, running
from mt3.prepare.synthetic import Synthetic
from tests.support import lookalike_archives as archives
from tests.support import record_files

SETTINGS = items.Settings()


def songs(root, split):
    config = datasets.available(root)["synthetic"]
    found = []
    for path in datasets.files(config, split, str(root)):
        for payload in record_files.read_records(path):
            parsed = records.parse(payload, config.features, path)
            record = {key: value.numpy() for key, value in parsed.items()}
            found.append(adapters.of(config)(record, sample_rate=16000, training=False))
    return found


def prepare(root, settings=SETTINGS, **options):
    archive = Synthetic.open(settings, **options)
    return running.prepare(archive, root, source="synthetic")


def test_random_songs(tmp_path):
    report = prepare(tmp_path, songs=4, seconds=2.0)
    assert report.exit_code == 0
    assert [split.num_records for split in report.splits] == [2, 1, 1]
    found = songs(tmp_path, "train")
    assert [song.id for song in found] == ["song_00000", "song_00001"]
    for song in found:
        assert song.notes
        assert max(note.start_time for note in song.notes) < 2.0
        assert np.abs(song.samples).max() == pytest.approx(0.9, abs=1e-3)
        # Where notes are, there is sound.
        first = min(note.start_time for note in song.notes)
        onset = round(16000 * (first + 0.1))
        assert np.abs(song.samples[:onset]).max() > 1e-3
    manifest = datasets.read_manifest(report.folder / "dataset.json")
    assert manifest["name"] == "synthetic"


def test_songs_depend_on_seed_and_number_alone(tmp_path):
    prepare(tmp_path / "a", songs=3, seconds=1.0, validation=0, test=0)
    prepare(tmp_path / "b", songs=2, seconds=1.0, validation=0, test=0)
    other = items.Settings(seed=1)
    prepare(tmp_path / "c", other, songs=2, seconds=1.0, validation=0, test=0)
    a, b, c = (songs(tmp_path / name, "train") for name in "abc")
    assert [song.notes for song in a[:2]] == [song.notes for song in b]
    np.testing.assert_array_equal(a[0].samples, b[0].samples)
    assert a[0].notes != c[0].notes


def test_midi_files(tmp_path):
    folder = tmp_path / "midi"
    archives.write_midi(folder / "a.mid", archives.part(1), program=73)
    archives.write_midi(folder / "b.mid", archives.part(2), program=56)
    prepare(tmp_path, midi=folder, validation=0, test=0)
    first, second = songs(tmp_path, "train")
    assert [song.id for song in (first, second)] == ["song_00000_a", "song_00001_b"]
    assert [(n.pitch, n.program) for n in first.notes] == [
        (pitch, 73) for _, _, pitch in archives.part(1)
    ]
    # The audio lasts until the notes have rung out.
    assert len(first.samples) / 16000 == pytest.approx(2.7, abs=0.01)


def test_part_of_midi_files(tmp_path):
    folder = tmp_path / "midi"
    archives.write_midi(folder / "a.mid", archives.part(1))
    prepare(tmp_path, midi=folder, songs=2, seconds=1.0, validation=0, test=0)
    found = songs(tmp_path, "train")
    assert [song.id for song in found] == ["song_00000_a", "song_00001_a"]
    assert [len(song.notes) for song in found] == [2, 2]
    # The same notes sound otherwise the second time.
    assert not np.array_equal(found[0].samples, found[1].samples)


def test_a_missing_synthesizer_is_told_before_anything_is_made(tmp_path, monkeypatch):
    from mt3.synthesis import soundfont

    real = builtins.__import__

    def without_synthesizers(name, *args, **kwargs):
        if name.split(".")[0] in ("tinysoundfont", "fluidsynth"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    soundfont._open_cached.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_synthesizers)
    with pytest.raises(DataError, match="pip install --no-deps tinysoundfont"):
        Synthetic.open(SETTINGS, songs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "no songs; expected a number of them"),
        ({"songs": 0}, ConfigError, "no songs"),
        ({"songs": 1, "seconds": 0.0}, ConfigError, "songs of 0 s"),
        ({"songs": 1, "validation": 2.0}, ConfigError, "shares of 2"),
        ({"midi": "nowhere"}, DataError, "nowhere: there is no such"),
        ({"songs": 1, "soundfonts": ["no.sf2"]}, DataError, "no.sf2"),
    ],
)
def test_wrong_calls(options, error, message):
    with pytest.raises(error, match=message):
        Synthetic.open(SETTINGS, **options)
