"""From gin files to checkpoints: the launcher, the tiny run, several devices."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import gin
from bundle.growing import GrowingCorpus
from mt3 import checkpoints as model_checkpoints
from mt3 import network
from mt3.engine import (
    checkpoints,
    encoded_data,
    export,
    gin_utils,
    launch,
    recorded_data,
    synthetic_data,
    train,
)
from mt3.errors import ConfigError

STEPS = 3


def arguments(model_dir, *bindings):
    """Returns the command line of the tiny run, a few steps long."""
    return [
        "--gin_file=gin/synthetic_tiny.gin",
        f"--gin.MODEL_DIR='{model_dir}'",
        f"--gin.CHECKPOINT_PERIOD={STEPS}",
        "--gin.EVAL_STEPS=1",
        "--gin.BATCH_SIZE=4",
        "--gin.KEEP_CHECKPOINTS=None",
        *(f"--gin.{binding}" for binding in bindings),
    ]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Folder of a run of three steps, resumed for nine more."""
    folder = tmp_path_factory.mktemp("tiny")
    launch.run(arguments(folder, f"train.total_steps={STEPS}"))
    launch.run(arguments(folder, "train.total_steps=12", "train.stats_period=3"))
    return folder


def metrics(folder, split):
    """Returns the lines of one split in metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == split]


def test_tiny_run_learns(tiny_run):
    train = metrics(tiny_run, "train")
    assert [line["step"] for line in train] == [3, 6, 9, 12]
    assert train[0]["loss_per_token"] > 6.0
    assert train[-1]["loss_per_token"] < train[0]["loss_per_token"] - 0.5
    assert 0 <= train[-1]["accuracy"] <= 1
    evaluated = metrics(tiny_run, "synthetic_eval")
    assert evaluated[-1]["loss_per_token"] < evaluated[0]["loss_per_token"]


def test_run_leaves_its_configuration(tiny_run):
    text = (tiny_run / "config.gin").read_text()
    assert "train_script.train.total_steps = 12" in text
    assert "from t5x import adafactor" in text
    config = checkpoints.read_model_config(tiny_run)
    assert config.network["emb_dim"] == 32
    assert config.network["vocab_size"] == 1536
    assert config.inputs_length == 64


def test_export_is_a_loadable_model(tiny_run, tmp_path):
    path = export.export(tiny_run, tmp_path / "model.safetensors", info={"name": "t"})
    loaded = model_checkpoints.load(path)
    saved = model_checkpoints.load_orbax(tiny_run / "checkpoint_12")
    assert saved.step == 12
    jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)
    assert loaded.config.network["emb_dim"] == 32


@pytest.mark.slow
def test_mt3_train_on_four_devices_equals_one(tiny_run, tmp_path):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "mt3.cli", "train"),
            *arguments(
                tmp_path,
                f"train.total_steps={STEPS}",
                "partitioning.PjitPartitioner.num_partitions=2",
                "train.train_eval_dataset_cfg=None",
            ),
        ],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=4",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "mt3.engine stands for the module t5x" in process.stderr.splitlines()[0]
    one = model_checkpoints.load_orbax(tiny_run / f"checkpoint_{STEPS}").params
    four = model_checkpoints.load_orbax(tmp_path / f"checkpoint_{STEPS}").params
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(
            left, right, rtol=2e-3, atol=2e-5
        ),
        one,
        four,
    )
    assert metrics(tmp_path, "train")[-1]["loss"] == pytest.approx(
        metrics(tiny_run, "train")[0]["loss"], rel=1e-5
    )


def test_rendered_and_recorded_data_do_without_seqio():
    """Its import takes many seconds."""

    class Model:
        @property
        def FEATURE_CONVERTER_CLS(self):
            raise AssertionError("the feature converter is asked for")

    for data in (
        synthetic_data.RandomNotes,
        synthetic_data.Corpus,
        recorded_data.Recordings,
        encoded_data.EncodedCorpus,
        GrowingCorpus,
    ):
        assert train._feature_converter(Model(), data) is None
    with pytest.raises(AssertionError, match="asked for"):
        train._feature_converter(Model(), print)


def test_names_are_put_back():
    before = sys.modules.get("__main__")
    with pytest.raises(ConfigError):
        launch.run(["--gin_file=gin/model.gin", "--gin.TYPO.x=1"])
    assert sys.modules.get("__main__") is before
    assert "t5x.utils" not in sys.modules


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gin_file=gin/synthetic_tyni.gin"], "Did you mean synthetic_tiny.gin"),
        (
            ["--gin_file=gin/mt3.gin", "--gin_file=gin/model.gin"],
            "do not bind what 'train' needs",
        ),
        (
            ["--gin_file=gin/synthetic_tiny.gin", "--gin.train.total_stepz=3"],
            "total_stepz",
        ),
        (
            ["--gin_file=gin/synthetic_tiny.gin", "--gin.nothing.total_steps=3"],
            "nothing",
        ),
        (["--gin_file=gin/synthetic_tiny.gin", "--gin.BATCH_SIZE=("], "BATCH_SIZE"),
        (["--gin_file=gin/synthetic_tiny.gin"], "MODEL_DIR has no value"),
        *(
            (
                ["--gin_file=gin/synthetic_tiny.gin", f"--gin.MODEL_DIR={value}"],
                f"MODEL_DIR = {value}: the value cannot be read; expected Python. A "
                "text has quotes inside the quotes of the shell: "
                """--gin.MODEL_DIR="'""",
            )
            for value in ("runs/x", "/runs", "../x", "'x", "[1,", "1.2.3", "C:/x")
        ),
        (
            ["--gin_file=gin/synthetic_tiny.gin", "--gin.MODEL_DIR=True"],
            "the folder is True; expected a text",
        ),
        *(
            (
                [
                    "--gin_file=gin/synthetic_tiny.gin",
                    "--gin.MODEL_DIR='runs'",
                    f"--gin.train.{name}='x'",
                ],
                f"train.{name} is 'x'; expected a",
            )
            for name in ("total_steps", "eval_period", "max_minutes")
        ),
        (
            ["--gin_file=gin/synthetic_tiny.gin", "--gin.BATCHSIZE=3"],
            "no file uses BATCHSIZE. Did you mean BATCH_SIZE",
        ),
        (["--gin_file=gin/synthetic_tiny.gin", "--gin.NAME"], "--gin.NAME=VALUE"),
        (
            ["--gin_file=gin/synthetic_tiny.gin", "--gin.network.T5Config.emb_dmi=3"],
            "emb_dmi",
        ),
    ],
)
def test_mistakes_are_named(argv, message, capsys):
    assert launch.main(argv) == 1
    assert message in capsys.readouterr().err


def test_missing_import_is_named(tmp_path, capsys):
    path = tmp_path / "broken.gin"
    path.write_text("from __gin__ import dynamic_registration\nimport t5x.infer_x\n")
    assert launch.main([f"--gin_file={path}"]) == 1
    assert "infer_x" in capsys.readouterr().err


def test_missing_include_is_named_once(tmp_path, capsys, caplog):
    path = tmp_path / "broken.gin"
    path.write_text("include 'gin/modle.gin'\n")
    assert launch.main([f"--gin_file={path}"]) == 1
    assert "gin/modle.gin" in capsys.readouterr().err
    assert "Path not found" not in caplog.text


def test_search_paths_come_first(tmp_path):
    (tmp_path / "model.gin").write_text("")
    assert gin_utils.find("model.gin", [tmp_path]) == tmp_path / "model.gin"
    assert gin_utils.find("model.gin").read_text() != ""
    assert gin_utils.find("gin/model.gin").samefile(gin_utils.find("model.gin"))


def test_every_gin_file_is_a_lab_note():
    folder = gin_utils.search_paths()[0]
    files = sorted(folder.rglob("*.gin"))
    assert len(files) >= 4
    for path in files:
        head = path.read_text().split("\n\n")[0] + path.read_text()[:2000]
        for entry in ("Goal:", "Source:", "Command:", "Hardware:", "Result:"):
            assert entry in head, (path.name, entry)


def test_logging_is_only_set_up_by_the_launcher():
    assert not logging.getLogger("mt3").handlers


def test_sizes_of_t5x_example_network_are_those_of_ours():
    """magenta/mt3's local_tiny.gin binds them, beside a model.gin that binds ours."""
    gin.clear_config()
    with launch.engine_as_t5x():
        gin.parse_config(
            "from __gin__ import dynamic_registration\n"
            "from mt3 import network\n"
            "network.Transformer.config = @network.T5Config()\n"
            "network.T5Config.vocab_size = 11"
        )
        gin.parse_config(
            "from __gin__ import dynamic_registration\n"
            "from t5x.examples.t5 import network\n"
            "network.T5Config.emb_dim = 8"
        )
        config = gin.get_configurable(network.Transformer)().config
    gin.clear_config()
    assert (config.vocab_size, config.emb_dim) == (11, 8)


def test_values_that_do_not_fit_are_named(tmp_path, capsys):
    """Gin makes what the files bind before anything runs; its errors are the files'."""
    argv = ["--gin_file=gin/synthetic_tiny.gin", f"--gin.MODEL_DIR='{tmp_path}'"]
    assert launch.main([*argv, "--gin.utils.SaveCheckpointConfig.period=[]"]) == 1
    message = capsys.readouterr().err
    assert "gin: SaveCheckpointConfig: TypeError" in message
    assert "Traceback" not in message


def test_what_is_raised_is_not_logged_too():
    log = logging.getLogger("test")
    try:
        raise ValueError("no space")
    except ValueError:
        raised = log.makeRecord("absl", 40, "", 0, "failed", (), sys.exc_info())
    said = log.makeRecord("absl", 30, "", 0, "saving took long", (), None)
    assert [launch._is_news(record) for record in (raised, said)] == [False, True]
