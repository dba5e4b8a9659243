"""`mt3 prepare` on the command line, and its records read by the registered tasks."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from mt3 import cli, tasks
from tests.support import lookalike_archives as archives


def run(*arguments):
    return cli.main(["prepare", *map(str, arguments)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with every data set, prepared from look-alikes."""
    folder = tmp_path_factory.mktemp("archives")
    root = tmp_path_factory.mktemp("root")
    slakh = archives.slakh(folder)
    musicnet = archives.musicnet(folder, em=["1727", "2336", "2118"])
    sources = {
        "maestro": archives.maestro(folder),
        "guitarset": archives.guitarset(folder),
        "urmp": archives.urmp(folder),
        "musicnet": musicnet,
        "musicnet_em": musicnet,
        "slakh": slakh,
        "cerberus4": slakh,
        "folder": archives.songs(folder, ["train/a", "validation/b", "test/c"]),
    }
    for name, source in sources.items():
        assert run(name, source, "-o", root, "-q") == 0
    return root


def test_tasks_read_what_was_prepared(root):
    import seqio

    registered = tasks.register(root)
    names = ["maestrov3", "guitarset", "urmp", "musicnet", "musicnet_em"]
    names += ["cerberus4", "slakh", "songs"]
    wanted = [(f"{name}_notes_ties_vb1_train", "train") for name in names]
    wanted += [
        (f"{name}_notes_ties_vb1_validation", "eval") for name in ("urmp", "songs")
    ]
    for task, split in wanted:
        assert task in registered.names
        ds = seqio.get_mixture_or_task(task).get_dataset(
            {"inputs": 256, "targets": 256}, split=split, shuffle=False, seed=0
        )
        examples = list(ds.as_numpy_iterator())
        assert examples
        for example in examples:
            assert example["inputs"].shape[1] == 512
            assert np.isfinite(example["inputs"]).all()
            # The end-of-sequence token comes last.
            assert example["targets"][-1] == 1
        # The notes are there, not silence alone.
        if split == "train":
            assert max(len(example["targets"]) for example in examples) > 10


def test_every_data_set_of_the_mixture_is_there(root):
    registered = tasks.register(root)
    assert "mega_notes_ties_vb1_train" in registered.names
    assert registered.data_sets["slakh"].num_examples["train"] == 20
    assert registered.data_sets["songs"].num_examples == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


def test_table_progress_and_exit_code(tmp_path, capsys):
    source = archives.songs(tmp_path, ["train/a", "train/b"])
    assert run("folder", source, "-o", tmp_path, "--name", "mine") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split()[:3] == ["split", "songs", "records"]
    assert "2 of 2 songs, 0:00:04 of audio" in printed.err
    (source / "train" / "b.mid").write_bytes(b"")
    arguments = ("folder", source, "-o", tmp_path, "--name", "mine", "-q")
    assert run(*arguments, "--overwrite") == 1
    printed = capsys.readouterr()
    assert "b.mid: not a MIDI file: an empty file" in printed.out
    assert not printed.err


def test_several_processes_make_the_same(tmp_path, capsys):
    source = archives.songs(tmp_path, [f"train/s{number}" for number in range(3)])
    for jobs in (1, 2):
        place = tmp_path / f"by_{jobs}"
        arguments = ("folder", source, "-o", place, "--shards", 3, "--jobs", jobs)
        assert run(*arguments) == 0
        assert "3 of 3 songs" in capsys.readouterr().err
    first, second = (
        {
            p.name: p.read_bytes()
            for p in (tmp_path / place).glob("datasets/*/*.tfrecord*")
        }
        for place in ("by_1", "by_2")
    )
    assert len(first) == 3
    assert first == second


def test_options_of_data_sets_reach_them(tmp_path):
    source = archives.slakh(tmp_path)
    arguments = ["-o", tmp_path, "-q", "--split", "train,test", "--limit", 1]
    assert run("slakh", source, *arguments, "--subsets", 2, "--min-stems", 5) == 0
    report = tmp_path / "datasets" / "slakh" / "prepare-report.json"
    train = json.loads(report.read_text())["splits"]["train"]
    assert train["records"] == 2
    assert train["settings"]["subsets"] == 2
    assert train["settings"]["min_stems"] == 5
    assert run("cerberus4", source, *arguments, "--combinations", 1) == 0
    source = archives.guitarset(tmp_path)
    arguments = ["-o", tmp_path, "-q", "--sample-rate", 8000]
    assert run("guitarset", source, *arguments, "--recordings", "mic") == 0
    source = archives.musicnet(tmp_path)
    archives.write_midi(tmp_path / "em" / "1727.mid", archives.part(0))
    arguments = ["-o", tmp_path, "-q", "--labels", tmp_path / "em"]
    assert run("musicnet_em", source, *arguments) == 0


def test_synthetic(tmp_path):
    arguments = ["-o", tmp_path, "-q", "--songs", 3, "--seconds", 1, "--jobs", 1]
    assert run("synthetic", *arguments) == 0
    assert (tmp_path / "datasets" / "synthetic" / "dataset.json").is_file()


def test_the_data_root_may_come_from_the_environment(tmp_path, monkeypatch, capsys):
    source = archives.urmp(tmp_path)
    monkeypatch.delenv("MT3_DATA_DIR", raising=False)
    assert run("urmp", source) == 1
    assert "Name a data root (-o, or MT3_DATA_DIR)" in capsys.readouterr().err
    monkeypatch.setenv("MT3_DATA_DIR", str(tmp_path / "root"))
    assert run("urmp", source) == 0
    assert (tmp_path / "root" / "datasets" / "urmp" / "train.tfrecord").is_file()


def test_the_wrong_folder(tmp_path, capsys):
    source = archives.urmp(tmp_path)
    assert run("maestro", source, "-o", tmp_path) == 1
    error = capsys.readouterr().err
    assert "mt3: error:" in error
    assert "looked for maestro-v*.csv" in error


def test_a_missing_package_is_named():
    program = (
        "import sys; sys.modules['google_crc32c'] = None; from mt3 import cli; "
        "sys.exit(cli.main(['prepare', 'urmp', 'here', '-o', 'there']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "mt3: error: prepare: needs the package google_crc32c, which is not "
        "installed; install mt3-transcription[train]\n"
    )


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["slakh"], ["folder", "--x"]])
def test_wrong_calls(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("mt3 prepare")
    assert len(error.splitlines()) == 2


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    assert "cerberus4" in capsys.readouterr().out
