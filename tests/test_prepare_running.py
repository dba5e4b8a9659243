"""Runs of `mt3 prepare`: resuming, settings, failures, reports."""

from __future__ import annotations

import json
import pickle
import resource

import pytest

from mt3 import datasets, files
from mt3.data import tfrecords
from mt3.errors import ConfigError, DataError, OutputError
from mt3.prepare import items, plan, running, shards
from mt3.prepare.folder import Folder
from mt3.prepare.maestro import Maestro
from mt3.prepare.urmp import Urmp
from tests.support import lookalike_archives as archives

SETTINGS = items.Settings()
NAMES = [f"train/s{number}" for number in range(6)] + ["validation/s6"]


@pytest.fixture
def source(tmp_path):
    return archives.songs(tmp_path, NAMES)


def prepare(source, root, *, settings=SETTINGS, log=None, **options):
    archive = Folder.open(source, settings, name="mine")
    return running.prepare(
        archive,
        root,
        source=str(source),
        options=running.Options(**{"num_shards": None, **options}),
        log=log,
    )


def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tfrecord*")}


def test_shards_report_and_manifest(source, tmp_path):
    report = prepare(source, tmp_path)
    folder = tmp_path / "datasets" / "mine"
    assert report.folder == folder
    assert sorted(stamps(folder)) == [
        "train.tfrecord-00000-of-00001",
        "validation.tfrecord-00000-of-00001",
    ]
    manifest = datasets.read_manifest(folder / "dataset.json")
    assert manifest["name"] == "mine"
    assert manifest["splits"] == {
        "train": {
            "pattern": "train.tfrecord-?????-of-00001",
            "num_examples": 6,
            "seconds": 12.0,
        },
        "validation": {
            "pattern": "validation.tfrecord-?????-of-00001",
            "num_examples": 1,
            "seconds": 2.0,
        },
    }
    stored = json.loads((folder / "prepare-report.json").read_text())
    train = stored["splits"]["train"]
    assert (train["songs"], train["records"], train["notes"]) == (6, 6, 18)
    assert train["skipped"] == []
    assert train["bytes"] == (folder / "train.tfrecord-00000-of-00001").stat().st_size
    rows = [line.split() for line in report.table().splitlines()[:3]]
    assert rows[0] == [
        "split",
        "songs",
        "records",
        "hours",
        "notes",
        *["left", "out", "errors"],
    ]
    assert rows[1] == ["train", "6", "6", "0.003", "18", "0", "0"]


def test_songs_are_dealt_out_to_shards(source, tmp_path):
    prepare(source, tmp_path, num_shards=4, splits=("train",))
    config = datasets.available(tmp_path)["mine"]
    paths = datasets.files(config, "train", str(tmp_path))
    assert [len(tfrecords.scan(path)) for path in paths] == [2, 2, 1, 1]


def test_a_second_run_makes_nothing(source, tmp_path):
    lines = []
    first = prepare(source, tmp_path, splits=("train",), num_shards=3)
    before = stamps(first.folder)
    second = prepare(
        source, tmp_path, splits=("train",), num_shards=3, log=lines.append
    )
    assert stamps(first.folder) == before
    assert (first.splits[0].made, second.splits[0].made) == (3, 0)
    assert second.splits[0].states == first.splits[0].states
    assert lines == ["3 of 3 shards are there already"]
    assert "0 shards made, 3 were there" in second.table()


def test_a_second_run_in_the_folder_is_refused(source, tmp_path):
    folder = tmp_path / "datasets" / "mine"
    with (
        files.sole_writer(folder, "test"),
        pytest.raises(OutputError, match=r"prepare: .*mine: another run is writing"),
    ):
        prepare(source, tmp_path, overwrite=True)
    assert not list(folder.iterdir())
    assert prepare(source, tmp_path).exit_code == 0


@pytest.mark.parametrize("damage", ["missing", "cut", "unrecorded"])
def test_an_unfinished_shard_is_made_again(source, tmp_path, damage):
    first = prepare(source, tmp_path, splits=("train",), num_shards=3)
    whole = {p.name: p.read_bytes() for p in first.folder.glob("*.tfrecord*")}
    path = first.folder / "train.tfrecord-00001-of-00003"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        (first.folder / ".prepare" / f"{path.name}.json").unlink()
    # What an interrupted process leaves.
    (first.folder / f"{path.name}.writing-1").write_bytes(b"half")
    second = prepare(source, tmp_path, splits=("train",), num_shards=3)
    assert second.splits[0].made == 1
    assert {p.name: p.read_bytes() for p in first.folder.glob("*.tfrecord*")} == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_shards": 2}, "shards 1, now 2"),
        ({"limit": 4}, "songs 6, now 4"),
        ({"settings": items.Settings(sample_rate=8000)}, "sample_rate 16000, now 8000"),
    ],
)
def test_changed_settings_are_noticed(source, tmp_path, change, message):
    report = prepare(source, tmp_path, splits=("train",))
    before = stamps(report.folder)
    with pytest.raises(DataError, match=rf"split 'train' was made with .*{message}"):
        prepare(source, tmp_path, splits=("train",), **change)
    assert stamps(report.folder) == before
    again = prepare(source, tmp_path, splits=("train",), overwrite=True, **change)
    assert again.splits[0].made == len(again.splits[0].states)
    # Shards of the old number would make the data set unreadable.
    assert len(stamps(report.folder)) == len(again.splits[0].states)
    config = datasets.available(tmp_path)["mine"]
    for split in config.splits:
        datasets.files(config, split, str(tmp_path))


def test_changed_songs_are_noticed(source, tmp_path):
    prepare(source, tmp_path, splits=("train",))
    archives.songs(tmp_path, [*NAMES, "train/another"])
    with pytest.raises(DataError, match="songs 6, now 7"):
        prepare(source, tmp_path, splits=("train",))


def test_shards_of_others_are_not_overwritten(source, tmp_path):
    folder = tmp_path / "datasets" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.tfrecord-00000-of-00002").write_bytes(b"precious")
    with pytest.raises(DataError, match="was not made by `mt3 prepare`"):
        prepare(source, tmp_path)
    assert list(stamps(folder)) == ["train.tfrecord-00000-of-00002"]
    prepare(source, tmp_path, overwrite=True)
    assert "train.tfrecord-00000-of-00002" not in stamps(folder)


def test_splits_one_after_the_other(source, tmp_path):
    prepare(source, tmp_path, splits=("validation",))
    report = prepare(source, tmp_path, splits=("train",))
    manifest = datasets.read_manifest(report.folder / "dataset.json")
    assert list(manifest["splits"]) == ["train", "validation"]
    stored = json.loads((report.folder / "prepare-report.json").read_text())
    assert sorted(stored["splits"]) == ["train", "validation"]


def test_failed_songs_are_reported_and_tried_again_when_they_change(source, tmp_path):
    (source / "train" / "s1.mid").write_bytes(b"MThd")
    archives.write_midi(source / "train" / "s2.mid", [])
    (source / "train" / "s3.flac").write_bytes(b"no audio")
    archives.write_midi(source / "train" / "s4.mid", [(0.1, 30.0, 60)])
    report = prepare(source, tmp_path, num_shards=1)
    assert report.exit_code == 1
    reasons = {problem.id: problem.reason for problem in report.all_problems}
    assert sorted(reasons) == ["s1", "s2", "s3", "s4"]
    assert "s1.mid: damaged MIDI file" in reasons["s1"]
    assert "s2.mid: the MIDI file holds no notes" in reasons["s2"]
    assert "s3.flac" in reasons["s3"]
    assert "the audio lasts 2.00 s, its notes 30.00 s" in reasons["s4"]
    assert "error: s1: " in report.table()
    manifest = datasets.read_manifest(report.folder / "dataset.json")
    assert manifest["splits"]["train"]["num_examples"] == 2
    # Nothing has changed: the same report, without work.
    again = prepare(source, tmp_path, num_shards=1)
    assert [split.made for split in again.splits] == [0, 0]
    assert again.all_problems == report.all_problems
    assert again.exit_code == 1
    # Repaired songs are taken in.
    archives.write_midi(source / "train" / "s1.mid", archives.part(1))
    repaired = prepare(source, tmp_path, num_shards=1)
    assert [split.made for split in repaired.splits] == [1, 0]
    assert repaired.splits[0].num_records == 3
    # So are those that another limit lets pass.
    lenient = items.Settings(max_mismatch=60.0)
    allowed = prepare(source, tmp_path, num_shards=1, settings=lenient)
    assert [split.made for split in allowed.splits] == [1, 0]
    assert sorted(p.id for p in allowed.all_problems) == ["s2", "s3"]


def test_a_full_disk_leaves_no_half_shard(source, tmp_path):
    prepare(source, tmp_path, splits=("validation",))
    folder = tmp_path / "datasets" / "mine"
    before = stamps(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A song is 64 kB.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="train.tfrecord-00000-of-00001"):
            prepare(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stamps(folder) == before
    manifest = datasets.read_manifest(folder / "dataset.json")
    assert list(manifest["splits"]) == ["validation"]
    report = prepare(source, tmp_path)
    assert [split.made for split in report.splits] == [1, 0]


def test_finished_shards_stay_when_a_later_one_fails(source, tmp_path, monkeypatch):
    make = shards.make

    def fail_at_second(job, progress):
        if job.path.name.startswith("train.tfrecord-00001"):
            raise OutputError(f"{job.path}: No space left on device")
        return make(job, progress)

    monkeypatch.setattr(shards, "make", fail_at_second)
    with pytest.raises(OutputError, match="No space left"):
        prepare(source, tmp_path, splits=("train",), num_shards=2)
    monkeypatch.undo()
    report = prepare(source, tmp_path, splits=("train",), num_shards=2)
    assert report.splits[0].made == 1


def test_a_shard_can_be_made_in_another_process(source, tmp_path):
    archive = Folder.open(source, SETTINGS, name="mine")
    found = archive.listing().splits["train"]
    made = plan.make_plan(archive, "train", found, tmp_path)
    (job,) = pickle.loads(pickle.dumps(made)).jobs
    done = []
    state = shards.make(job, done.append)
    assert done == [2.0] * 6
    assert shards.finished(made.jobs[0]) == state
    assert len(tfrecords.scan(str(job.path))) == state.records == 6


def test_progress_counts_songs_and_audio(source, tmp_path):
    lines = []
    prepare(source, tmp_path, splits=("train",), log=lines.append)
    assert lines == ["6 of 6 songs, 0:00:12 of audio"]


def test_limit(source, tmp_path):
    report = prepare(source, tmp_path, limit=2)
    assert [split.num_records for split in report.splits] == [2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ("valid",)}, "no split 'valid'. Did you mean validation"),
        ({"num_shards": 3, "splits": ("validation",)}, "3 shards for the 1 songs"),
        ({"num_shards": 0}, "--shards 0; expected at least 1"),
        ({"jobs": 0}, "--jobs 0"),
        ({"limit": -1}, "--limit -1"),
        ({"settings": items.Settings(sample_rate=-1)}, "sample rate -1"),
        ({"settings": items.Settings(max_mismatch=0.0)}, "max mismatch 0"),
        ({"settings": items.Settings(seed=-1)}, "seed -1"),
    ],
)
def test_wrong_calls(source, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        prepare(source, tmp_path, **options)
    assert not (tmp_path / "datasets").exists()


def test_a_bucket_is_no_place_to_prepare_into(source):
    with pytest.raises(ConfigError, match="gs://bucket is not a local folder"):
        prepare(source, "gs://bucket")


def test_data_sets_of_a_single_file(tmp_path):
    archive = Urmp.open(archives.urmp(tmp_path), SETTINGS)
    options = running.Options(splits=("train",), num_shards=2)
    with pytest.raises(ConfigError, match="'train' of urmp is a single file"):
        running.prepare(archive, tmp_path, source="", options=options)
    report = running.prepare(archive, tmp_path, source="")
    assert sorted(stamps(report.folder)) == ["train.tfrecord", "validation.tfrecord"]


def test_published_shard_counts():
    for name, counts in plan.PUBLISHED_SHARDS.items():
        paths = datasets.DATASETS[name].paths
        assert set(counts) == {split for split in paths if "subset" not in split}


def test_an_archive_without_songs_that_can_be_read(tmp_path):
    source = archives.maestro(tmp_path)
    for path in source.glob("2018/*.wav"):
        path.unlink()
    with pytest.raises(
        DataError, match="maestrov3: no songs of train or [^.]*\nno such file"
    ):
        running.prepare(Maestro.open(source, SETTINGS), tmp_path, source="")
