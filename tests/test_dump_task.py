"""The script that prints examples of tasks."""

from __future__ import annotations

import importlib.util
import re
import types

import numpy as np
import pytest
import seqio
from PIL import Image

from mt3 import vocabularies
from mt3.configs import MT3
from tests.support import tiny_datasets

CODEC = vocabularies.build_codec(MT3.vocabulary)


@pytest.fixture(scope="module")
def dump_task(repository):
    path = repository / "scripts" / "dump_task.py"
    spec = importlib.util.spec_from_file_location("dump_task", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return tiny_datasets.write_all(root, data_sets=["urmp", "maestrov3"])


@pytest.fixture
def run(dump_task, data_root, capsys):
    def run(**options):
        options = {"data_root": data_root, "sequence_length_inputs": 125, **options}
        status = dump_task.main([f"--{k}={v}" for k, v in options.items()])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_shapes_and_targets_are_printed(run):
    status, out, err = run(task="urmp_notes_ties_vb1_train", max_examples=2)
    assert (status, err.count("error:")) == (0, 0)
    assert out.count("Example ") == 2
    assert re.search(r"^  inputs: float32 \[\d+, 512\]$", out, re.MULTILINE)
    assert "  unique_id: string [1]\n" in out
    assert re.search(r"^  targets: int32 \[\d+\]$", out, re.MULTILINE)
    (first, second) = re.findall(r"^targets = \[(.*)\]$", out, re.MULTILINE)
    events = [int(item) for item in first.split(", ")]
    # The ids' meaning: events, then EOS.
    assert events[-1] == -1
    assert all(0 <= event < CODEC.num_classes for event in events[:-1])
    assert first != second


def test_events_are_words(run):
    status, out, _ = run(
        task="urmp_notes_ties_vb1_train", max_examples=-1, format_string="= {events}"
    )
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("= ")]
    assert len(lines) == tiny_datasets.NUM_SONGS["train"]
    programs = {int(p) for line in lines for p in re.findall(r"program=(\d+)", line)}
    assert programs == {40, 42, 73}
    for line in lines:
        # Events at the very start have no time before them.
        assert re.search(r" tie( \w+=\d+)*( @\d\.\d\ds( \w+=\d+)+)+$", line)


def test_random_cuts_follow_the_seed(run):
    cuts = [
        run(task="urmp_notes_ties_vb1_train", max_examples=2, seed=seed)[1]
        for seed in (1, 1, 2)
    ]
    assert cuts[0] == cuts[1] != cuts[2]


def test_evaluation_tasks_show_their_songs(run):
    status, out, _ = run(
        task="urmp_notes_ties_vb1_validation",
        max_examples=-1,
        format_string="{unique_id} | {sequence}",
    )
    assert status == 0
    lines = [line.split(" | ") for line in out.splitlines() if " | " in line]
    # Two songs of 4 s in segments of one, and the frame that ends each song.
    assert len(lines) in (8, 10)
    songs = tiny_datasets.songs("urmp", "validation")
    assert [song for song, _ in lines][:: len(lines) - 1] == [s.id for s in songs]
    assert re.fullmatch(r"<\d+ bytes>", lines[0][1])
    assert "  sequence: string []\n" in out


@pytest.mark.parametrize(
    ("suffix", "split", "count"), [("train", "train", 1), ("validation", "eval", 2)]
)
def test_examples_are_drawn(run, tmp_path, suffix, split, count):
    """Notes of targets and of songs: in their place, above what is heard then."""
    options = {"task": f"urmp_notes_ties_vb1_{suffix}", "split": split}
    folder = tmp_path / "new" / "pictures"
    status, out, _ = run(**options, max_examples=count, plot_dir=folder)
    names = [f"{number:05d}.png" for number in range(1, count + 1)]
    assert status == 0
    assert re.findall(r"^  drawn: .*?(\w+\.png)$", out, re.MULTILINE) == names
    assert sorted(path.name for path in folder.iterdir()) == names
    picture = np.asarray(Image.open(folder / names[-1]).convert("RGB")).astype(int)
    # Coloured: the notes; their sines make the darkest bands beneath.
    colourful = np.ptp(picture[130:-240], axis=2).max(axis=0) > 60
    loud = (picture[-240:].max(axis=2) < 60).any(axis=0)
    assert 200 < colourful.sum() < 1500
    shared = (colourful & loud).sum() / colourful.sum()
    assert shared > 0.9


def test_notes_that_sound_over_the_edges_are_drawn(dump_task, tmp_path, monkeypatch):
    """Tied notes from the segment's start on, those without an end to its end."""
    drawn = []
    draw_picture = dump_task.pianoroll.draw_picture

    def draw(transcription, *args, **options):
        drawn.extend(transcription.notes)
        return draw_picture(transcription, *args, **options)

    monkeypatch.setattr(dump_task.pianoroll, "draw_picture", draw)
    task = types.SimpleNamespace(name="task", model_config=MT3)
    events = [
        CODEC.encode_values(kind, np.array([value])).item()
        for kind, value in (
            ("program", 73),
            ("pitch", 60),
            ("pitch", 64),
            ("tie", 0),
            ("shift", 130),
            ("velocity", 0),
            ("pitch", 64),
            ("velocity", 1),
            ("pitch", 67),
        )
    ]
    fields = {
        "unique_id": b"song",
        "input_times": np.arange(250, dtype=np.float32) / 125,
        "inputs": np.zeros((250, 512), np.float32),
        "targets": [*events, -1],
    }
    dump_task._Painter(task, tmp_path).draw(fields, 1)
    assert sorted((n.start_time, n.end_time, n.pitch, n.program) for n in drawn) == [
        (0.0, 1.3, 64, 73),
        (0.0, 2.0, 60, 73),
        (1.3, 2.0, 67, 73),
    ]


def test_names_are_listed(run, dump_task, data_root, capsys):
    assert dump_task.main([f"--data_root={data_root}"]) == 0
    names = capsys.readouterr().out.split()
    assert names == sorted(names)
    assert {"urmp_notes_ties_vb1_train", "maestrov3_notes_eval"} <= set(names)


def test_flags_have_the_names_of_the_original_and_ours(dump_task):
    parse = dump_task._parser().parse_args
    ours = parse(["--task=t", "--inputs_length=3", "--targets_length=4"])
    theirs = parse(
        ["--task", "t", "--sequence_length_inputs=3", "--sequence_length_targets=4"]
    )
    assert vars(ours) == vars(theirs)
    assert (ours.sequence_length_inputs, ours.sequence_length_targets) == (3, 4)
    assert (ours.max_examples, ours.split) == (10, None)


def test_max_examples_of_zero(run):
    assert run(task="urmp_notes_ties_vb1_train", max_examples=0)[:2] == (0, "")


def test_events_in_words(dump_task):
    events = [
        CODEC.encode_values(kind, np.array([value])).item()
        for kind, value in (
            ("program", 40),
            ("pitch", 60),
            ("tie", 0),
            ("shift", 1000),
            ("shift", 35),
            ("velocity", 1),
            ("drum", 38),
            ("shift", 1),
        )
    ]
    text = dump_task.events_text([*events, -2, -1, -1], CODEC)
    assert text == ("program=40 pitch=60 tie @10.35s velocity=1 drum=38 @0.01s invalid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "urmp_notes_ties_vb1_trian"},
            "no task or mixture 'urmp_notes_ties_vb1_trian'. Did you mean "
            "urmp_notes_ties_vb1_train",
        ),
        (
            {"task": "urmp_notes_ties_vb1_train", "split": "test"},
            "has no split 'test'; it has train, eval",
        ),
        (
            {"task": "urmp_notes_ties_vb1_train", "format_string": "{target}"},
            "no field 'target'. Did you mean targets",
        ),
        (
            {"task": "urmp_notes_ties_vb1_train", "format_string": "{targets"},
            "format string '{targets': expected '}'",
        ),
        (
            {"task": "urmp_notes_ties_vb1_train", "module_import": "no_such_module"},
            "--module_import=no_such_module: No module named 'no_such_module'",
        ),
        (
            {"task": "urmp_notes_ties_vb1_train", "task_cache_dir": "/nowhere"},
            "'urmp_notes_ties_vb1_train' is not cached in /nowhere",
        ),
        (
            {"task": "guitarset_notes_ties_vb1_train"},
            "guitarset",
        ),
    ],
)
def test_errors_name_what_exists(run, options, message):
    status, _, err = run(**options)
    assert status == 1
    assert "dump_task: error: " in err
    assert message in err
    assert "Traceback" not in err


def test_own_tasks_are_imported(run, tmp_path, monkeypatch):
    source = (
        "import seqio, tensorflow as tf\n"
        "def data(split, shuffle_files, seed=None):\n"
        "    return tf.data.Dataset.from_tensors({'targets': [3, 4], 'who': 'me'})\n"
        "seqio.TaskRegistry.add('my_own_task', preprocessors=[],\n"
        "    source=seqio.FunctionDataSource(data, splits=['train']),\n"
        "    output_features={'targets':\n"
        "        seqio.Feature(seqio.PassThroughVocabulary(size=9))})\n"
    )
    (tmp_path / "my_own_tasks.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    options = {"task": "my_own_task", "module_import": "my_own_tasks"}
    status, out, _ = run(**options, format_string="{who}: {targets}")
    assert (status, out.splitlines()[-1]) == (0, "me: [3, 4]")
    # What the targets mean is known of our tasks only.
    assert "my_own_task' is not one of MT3's" in run(**options, plot_dir=tmp_path)[2]
    assert "no field 'events'" in run(**options, format_string="{events}")[2]
    seqio.TaskRegistry.remove("my_own_task")
