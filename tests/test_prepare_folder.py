"""One's own songs: which files belong together, which song is in which split."""

from __future__ import annotations

import pytest

from mt3 import datasets
from mt3.data import adapters, records
from mt3.errors import ConfigError, DataError
from mt3.prepare import items, running
from mt3.prepare.folder import Folder, divide
from tests.support import lookalike_archives as archives
from tests.support import record_files

SETTINGS = items.Settings()


def listing(source, **options):
    return Folder.open(source, SETTINGS, name="mine", **options).listing()


def ids(found):
    return {split: [item.id for item in songs] for split, songs in found.splits.items()}


def test_pairs_are_found_at_any_depth(tmp_path):
    source = archives.songs(tmp_path, ["one", "live/two", "live/hall/three"])
    (source / "one.mid").rename(source / "one.MIDI")
    (source / "notes.txt").write_text("no song")
    archives.write_audio(source / ".hidden" / "four.wav", archives.sines([]))
    found = listing(source, validation=0, test=0)
    assert ids(found)["train"] == ["live/hall/three", "live/two", "one"]
    assert not found.problems


def test_audio_and_midi_in_folders_of_their_own(tmp_path):
    for name in ("a", "b"):
        archives.write_audio(tmp_path / "in/audio" / f"{name}.wav", archives.sines([]))
        archives.write_midi(tmp_path / "in/midi" / f"{name}.mid", archives.part(0))
    found = listing(tmp_path / "in", validation=0, test=0)
    assert ids(found)["train"] == ["a", "b"]
    assert not found.problems


def test_a_pair_of_one_path_keeps_its_name(tmp_path):
    source = archives.songs(tmp_path, ["one", "x/one", "y/one"])
    (source / "x/one.mid").unlink()
    (source / "y/one.flac").unlink()
    found = listing(source, validation=0, test=0)
    (song,) = found.splits["train"]
    assert song.files == (source / "one.flac", source / "one.mid")
    assert [problem.id for problem in found.problems] == ["x/one", "y/one"]


def test_what_has_no_partner_is_reported(tmp_path):
    source = archives.songs(tmp_path, ["one", "two", "x/three", "y/three"])
    (source / "one.flac").unlink()
    (source / "two.mid").unlink()
    # Two songs of one name: which MIDI file belongs to which recording?
    (source / "x/three.mid").rename(source / "three.mid")
    (source / "y/three.mid").unlink()
    found = listing(source, validation=0, test=0)
    assert ids(found)["train"] == []
    reasons = {problem.id: problem.reason for problem in found.problems}
    assert reasons["one"] == f"{source / 'one.mid'}: no recording of the same name"
    assert reasons["two"] == f"{source / 'two.flac'}: no MIDI file of the same name"
    assert set(reasons) == {"one", "two", "three", "x/three", "y/three"}


def test_two_recordings_of_one_name(tmp_path):
    source = archives.songs(tmp_path, ["one"])
    archives.write_audio(source / "one.wav", archives.sines([]))
    found = listing(source, validation=0, test=0)
    assert ids(found)["train"] == ["one"]
    (problem,) = found.problems
    assert problem.is_error
    assert "one.wav: same name as one.flac" in problem.reason


def test_split_folders(tmp_path):
    source = archives.songs(tmp_path, ["train/a", "valid/b", "Test/c", "elsewhere/d"])
    found = listing(source)
    assert ids(found) == {"train": ["a"], "validation": ["b"], "test": ["c"]}


def test_the_hash_divides(tmp_path):
    songs = [items.Item(f"song {number}") for number in range(400)]
    splits = divide(songs, 0.1, 0.2)
    sizes = {split: len(found) for split, found in splits.items()}
    assert sum(sizes.values()) == 400
    assert 20 <= sizes["validation"] <= 60
    assert 55 <= sizes["test"] <= 105
    # More songs move none of them.
    more = divide([*songs, *(items.Item(f"more {n}") for n in range(50))], 0.1, 0.2)
    for split, found in splits.items():
        assert found == [item for item in more[split] if item in songs]


def test_small_sets_get_every_split():
    splits = divide([items.Item(name) for name in "abc"], 0.1, 0.1)
    assert [len(found) for found in splits.values()] == [1, 1, 1]
    splits = divide([items.Item(name) for name in "abc"], 0.1, 0.0)
    assert [len(found) for found in splits.values()] == [2, 1, 0]
    splits = divide([items.Item("a")], 0.1, 0.1)
    assert sum(map(len, splits.values())) == 1


def test_the_record(tmp_path):
    source = archives.songs(tmp_path, ["train/one"])
    archive = Folder.open(source, SETTINGS)
    report = running.prepare(archive, tmp_path, source="")
    assert report.dataset == "songs"
    config = datasets.available(tmp_path)["songs"]
    (path,) = datasets.files(config, "train", str(tmp_path))
    (payload,) = record_files.read_records(path)
    parsed = records.parse(payload, config.features, path)
    song = adapters.of(config)(
        {key: value.numpy() for key, value in parsed.items()},
        sample_rate=16000,
        training=True,
    )
    assert song.id == "one"
    assert [(n.pitch, n.program) for n in song.notes] == [(48, 40), (52, 40), (55, 40)]
    assert len(song.samples) == 32000


def test_audio_that_goes_on_long_after_the_notes(tmp_path):
    source = archives.songs(tmp_path, ["train/one", "train/two"])
    archives.write_audio(source / "train/two.flac", archives.sines([], seconds=13))
    archive = Folder.open(source, SETTINGS)
    report = running.prepare(archive, tmp_path, source="")
    (problem,) = report.all_problems
    assert "two.flac: the audio lasts 13.00 s, its notes 1.70 s" in problem.reason
    assert "at most 10 s (--max-mismatch)" in problem.reason


@pytest.mark.parametrize(
    "name", ["slakh", "maestro", "synthetic", "mega", "1st", "my set", ""]
)
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(ConfigError, match="--name"):
        Folder.open(tmp_path, SETTINGS, name=name)


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0, 1.5)])
def test_shares_that_cannot_be(tmp_path, shares):
    with pytest.raises(ConfigError, match="below 1 together"):
        Folder.open(
            tmp_path, SETTINGS, name="mine", validation=shares[0], test=shares[1]
        )


def test_a_folder_without_songs(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(DataError, match=r"looked for recordings .*; found readme.txt"):
        listing(tmp_path)
    with pytest.raises(DataError, match="found nothing there"):
        listing(tmp_path / "nowhere")
