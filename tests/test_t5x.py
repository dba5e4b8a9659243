"""The same gin files on T5X and on the embedded engine: losses, checkpoints, scores.

These run where T5X can be imported; docs/t5x.md says how to install it. They train a
tiny model on both engines, each from the other's checkpoint.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mt3 import checkpoints as model_checkpoints
from mt3.engine import launch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("t5x") is None,
    reason="T5X is not installed; it is on no package index (docs/t5x.md)",
)

START, STEPS = 3, 10
TASK = "guitarset_notes_ties_vb1_validation"
SIZES = [
    # Wide enough for Adafactor to factor some matrices.
    "network.T5Config.emb_dim=128",
    "DROPOUT_RATE=0.0",
    "TASK_PREFIX='guitarset_notes_ties'",
]
TRAIN = [
    "train.train_eval_dataset_cfg=None",
    "train.infer_eval_dataset_cfg=None",
    "train.stats_period=1",
    # T5X draws seeds that are None at each start.
    "train/utils.DatasetConfig.seed=42",
]
VALIDATION = [
    "TASK_SUFFIX='validation'",
    "utils.DatasetConfig.batch_size=8",
]


# What both engines write at each step.
METRICS = {
    "accuracy",
    "cross_ent_loss",
    "cross_ent_loss_per_all_target_tokens",
    "learning_rate",
    "loss",
    "loss_per_all_target_tokens",
    "loss_per_nonpadding_target_token",
    "non_padding_fraction/loss_weights",
    "z_loss",
    "z_loss_per_all_target_tokens",
}


def arguments(mode, *bindings, finetune=False):
    files = ["mt3.gin", "model.gin", f"{mode}.gin", "local_tiny.gin"]
    files += ["finetune.gin"] if finetune else []
    return [
        *(f"--gin_file=gin/{name}" for name in files),
        *(f"--gin.{binding}" for binding in (*SIZES, *bindings)),
    ]


def t5x(repository, mode, args):
    """Runs T5X's own program."""
    process = subprocess.run(
        [sys.executable, "-m", f"t5x.{mode}", *args],
        cwd=repository,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-5000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tests.support import tiny_datasets

    folder = tmp_path_factory.mktemp("data")
    tiny_datasets.write_all(folder)
    return f"DATA_DIR='{folder}'"


@pytest.fixture(scope="module")
def starts(repository, data, tmp_path_factory):
    """A checkpoint by each engine: ours in today's form, T5X's in its older one."""
    folder = tmp_path_factory.mktemp("starts")
    ours, theirs = folder / "ours", folder / "theirs"
    launch.run(arguments("train", *TRAIN, data, f"MODEL_DIR='{ours}'"))
    older = (*TRAIN, data, f"MODEL_DIR='{theirs}'", "train.use_orbax=False")
    t5x(repository, "train", arguments("train", *older))
    return {
        "ours": ours / f"checkpoint_{START}",
        "theirs": theirs / f"checkpoint_{START}",
    }


def t5x_metrics(folder):
    """Reads T5X's TensorBoard files: (step, name) -> value."""
    import tensorflow as tf
    from tensorflow.python.summary.summary_iterator import summary_iterator

    return {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for path in (folder / "train").glob("events*")
        for event in summary_iterator(str(path))
        for value in event.summary.value
        if tf.make_ndarray(value.tensor).dtype == np.float32
    }


def our_metrics(folder):
    """Reads metrics.jsonl: (step, name) -> value."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {(line["step"], name): line[name] for line in lines for name in line}


@pytest.mark.parametrize("start", ["ours", "theirs"])
def test_metrics_and_parameters_are_equal(repository, data, starts, tmp_path, start):
    """Ten steps of both engines from one checkpoint, on the same batches."""

    def args(folder):
        bindings = (
            *TRAIN,
            data,
            f"MODEL_DIR='{folder}'",
            f"CHECKPOINT_PATH='{starts[start]}'",
            f"TRAIN_STEPS={START + STEPS}",
            "CHECKPOINT_PERIOD=10",
        )
        return arguments("train", *bindings, finetune=True)

    launch.run(args(tmp_path / "ours"))
    t5x(repository, "train", args(tmp_path / "theirs"))
    found = our_metrics(tmp_path / "ours")
    expected = t5x_metrics(tmp_path / "theirs")
    common = {name for _, name in found.keys() & expected.keys()}
    assert common == METRICS
    for step in range(START + 1, START + STEPS + 1):
        for name in common:
            value = pytest.approx(expected[step, name], rel=1e-5)
            assert found[step, name] == value, (step, name)
    one, other = (
        model_checkpoints.load_t5x(
            tmp_path / engine / f"checkpoint_{START + STEPS}", with_state=True
        )
        for engine in ("ours", "theirs")
    )
    for tree in ("params", "param_states"):
        left = model_checkpoints.flatten(getattr(one, tree))
        right = model_checkpoints.flatten(getattr(other, tree))
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert value == pytest.approx(right[name], rel=1e-3, abs=1e-5), name


def test_evaluation_gives_equal_scores(repository, data, starts, tmp_path):
    def args(folder):
        bindings = (*VALIDATION, data, f"CHECKPOINT_PATH='{starts['ours']}'")
        return arguments("eval", *bindings, f"EVAL_OUTPUT_DIR='{folder}'")

    launch.run(args(tmp_path / "ours"), "eval")
    t5x(repository, "eval", args(tmp_path / "theirs"))
    scores = []
    for engine in ("ours", "theirs"):
        (path,) = (tmp_path / engine).rglob(f"{TASK}-metrics.jsonl")
        scores.append(json.loads(path.read_text().splitlines()[-1]))
    assert "Onset F1" in scores[0]
    assert scores[0] == pytest.approx(scores[1])


def test_inference_gives_equal_notes(repository, data, starts, tmp_path):
    def args(folder):
        bindings = (*VALIDATION, data, f"CHECKPOINT_PATH='{starts['ours']}'")
        return arguments("infer", *bindings, f"INFER_OUTPUT_DIR='{folder}'")

    launch.run(args(tmp_path / "ours"), "infer")
    t5x(repository, "infer", args(tmp_path / "theirs"))
    name = f"{TASK}-predict.jsonl-00000-of-00001"
    ours = (tmp_path / "ours" / name).read_text()
    assert len(ours.splitlines()) == 2
    assert ours == (tmp_path / "theirs" / name).read_text()
