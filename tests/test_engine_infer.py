"""Inference on a task: notes as JSON lines, chunks, restarts, shards."""

from __future__ import annotations

import functools
import json
import sys

import pytest

import gin
from mt3 import inference
from mt3.engine import infer as infer_module
from mt3.engine import launch, partitioning, utils
from mt3.engine.infer import write_inferences_to_file
from mt3.errors import ConfigError, OutputError
from tests.support import tiny_datasets, tiny_training

pytestmark = pytest.mark.usefixtures("quick_start")
TASK = f"{tiny_training.FAMILY}_validation"
RESULT = f"{TASK}-predict.jsonl-00000-of-00001"

write_notes = functools.partial(
    inference.write_inferences_to_file,
    vocab_config=tiny_training.VOCABULARY,
    onsets_only=False,
    use_ties=True,
    counts=True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with GuitarSet's records; its tasks are registered."""
    root = tmp_path_factory.mktemp("data")
    tiny_training.write_data(root)
    tiny_training.register(root)
    return root


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A checkpoint of two steps."""
    folder = tmp_path_factory.mktemp("run")
    tiny_training.train(folder, total_steps=2)
    return folder / "checkpoint_2"


@pytest.fixture
def infer(checkpoint, tmp_path):
    """Infers on the validation split, in `tmp_path`."""

    def run(**arguments):
        cfg = tiny_training.dataset_config("validation")
        arguments = {
            "mode": "predict",
            "dataset_cfg": cfg,
            "checkpoint_period": 100,
            "write_fn": write_notes,
            "path": str(checkpoint),
            **arguments,
        }
        path = arguments.pop("path")
        return infer_module.infer(
            model=tiny_training.make_model(),
            restore_checkpoint_cfg=utils.RestoreCheckpointConfig(path, "specific"),
            partitioner=partitioning.PjitPartitioner(),
            output_dir=str(tmp_path),
            summarize_config_fn=lambda **_: None,
            **arguments,
        )

    return run


def lines(path):
    """Reads JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def song_names():
    """The songs of the split."""
    return [
        song.id for song in tiny_datasets.songs("guitarset", "validation", seconds=3)
    ]


@pytest.mark.slow
def test_every_recording_is_one_line_however_it_is_chunked(infer, tmp_path):
    (path,) = infer()
    assert path == str(tmp_path / RESULT)
    whole = lines(tmp_path / RESULT)
    assert sorted(line["id"] for line in whole) == sorted(song_names())
    assert {*whole[0]} == {"id", "est_notes", "invalid_events", "dropped_events"}
    assert (tmp_path / f"{RESULT}.COMPLETED").exists()
    assert not list(tmp_path.glob("tmp-*"))
    (tmp_path / f"{RESULT}.COMPLETED").unlink()
    # Two segments a chunk, if recordings were not kept whole.
    calls = []

    def write(path, *arguments):
        calls.append(path)
        write_notes(path, *arguments)

    cfg = tiny_training.dataset_config("validation", batch_size=2)
    infer(checkpoint_period=1, dataset_cfg=cfg, write_fn=write)
    assert len(calls) == 2
    assert sorted(lines(tmp_path / RESULT), key=lambda line: line["id"]) == whole


def test_a_stopped_run_goes_on_with_the_next_chunk(infer, tmp_path):
    calls = []

    def failing(path, *arguments):
        calls.append(path)
        if len(calls) == 2:
            raise OutputError("the disk is full")
        write_notes(path, *arguments)

    small = {
        "checkpoint_period": 1,
        "dataset_cfg": tiny_training.dataset_config("validation", batch_size=2),
        "write_fn": failing,
    }
    with pytest.raises(OutputError, match="the disk is full"):
        infer(**small)
    assert not (tmp_path / RESULT).exists()
    infer(**small)
    assert [path[-5:] for path in calls] == ["00000", "00001", "00001"]
    assert len(lines(tmp_path / RESULT)) == 2
    infer(**small)
    assert len(calls) == 3
    with pytest.raises(OutputError, match=r"other settings \(chunk 2\)"):
        infer(**{**small, "checkpoint_period": 3})


def test_chunks_of_other_settings_are_made_again(infer, tmp_path):
    calls = []

    def count(path, *arguments):
        calls.append(path)
        write_notes(path, *arguments)

    small = {
        "checkpoint_period": 1,
        "dataset_cfg": tiny_training.dataset_config("validation", batch_size=2),
        "write_fn": count,
        "merge_chunked_results": False,
    }
    infer(**small)
    (tmp_path / f"{RESULT}.COMPLETED").unlink()
    record = tmp_path / f"tmp-{TASK}-00000-of-00001" / "settings.json"
    record.write_text("{}")
    infer(**small)
    assert len(calls) == 4
    assert not (tmp_path / RESULT).exists()


def test_shards_share_the_recordings(infer, tmp_path):
    found = []
    for shard in range(2):
        (path,) = infer(shard_id=shard, num_shards=2)
        assert path.endswith(f"predict.jsonl-0000{shard}-of-00002")
        found.append([line["id"] for line in lines(tmp_path / path)])
    assert all(found)
    assert sorted(found[0] + found[1]) == sorted(song_names())


@pytest.mark.parametrize("mode", ["score", "predict_with_aux"])
def test_other_modes_write_a_line_per_example(infer, tmp_path, mode):
    (path,) = infer(mode=mode, write_fn=write_inferences_to_file)
    found = lines(tmp_path / path)
    assert len(found) == 6
    for line in found:
        assert line["inputs"]["unique_id"][0] in song_names()
        if mode == "score":
            # The task's own targets are EOS alone.
            assert line["score"] < 0
            assert "prediction" not in line
        else:
            assert len(line["prediction"]) == 64
            assert line["aux"]["scores"] < 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "predct"}, "'predct' is unknown. Did you mean predict"),
        ({"shard_id": 2, "num_shards": 2}, "shard_id is 2; expected 0 to 1"),
        ({"checkpoint_period": 0}, "checkpoint_period is 0"),
        ({"path": ["a", "b"]}, r"2 checkpoints, \['a', 'b'\]; expected one"),
        ({"output_vocab_feature_name": "target"}, "Did you mean targets"),
    ],
)
def test_mistakes_are_named(infer, arguments, message):
    with pytest.raises(ConfigError, match=message):
        infer(**arguments)


def test_the_default_line_has_what_was_decoded(tmp_path):
    class Examples:
        def as_numpy_iterator(self):
            yield {"unique_id": [b"a"], "text_pretokenized": b"b", "inputs": [1.0]}

    write_inferences_to_file(
        str(tmp_path / "x.jsonl"), ([[5, 1, 0]], {"scores": [2]}), Examples(), "predict"
    )
    assert lines(tmp_path / "x.jsonl") == [
        {
            "inputs": {"unique_id": ["a"], "text_pretokenized": "b"},
            "prediction": [5, 1, 0],
            "aux": {"scores": 2},
        }
    ]


def test_the_command_line_names_the_shard(monkeypatch, tmp_path):
    file = tmp_path / "infer.gin"
    file.write_text("from __gin__ import dynamic_registration\n")
    monkeypatch.setattr(launch, "_start", lambda mode, given: given)
    # The file binds nothing.
    monkeypatch.setattr(gin, "get_configurable", lambda name: lambda **given: given)
    arguments = [f"--gin_file={file}", "--shard_id=3"]
    assert launch.run(arguments, "infer") == {"shard_id": 3}


def test_without_seqio_gin_files_name_the_extra(monkeypatch, tmp_path, capsys):
    file = tmp_path / "eval.gin"
    file.write_text("from __gin__ import dynamic_registration\nimport seqio\n")

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "seqio":
                raise ModuleNotFoundError("No module named 'seqio'")

    monkeypatch.delitem(sys.modules, "seqio")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert launch.main([f"--gin_file={file}"], mode="eval") == 1
    assert "install mt3-transcription[train]" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="Did you mean train"):
        launch.main([], mode="trein")
