"""The gin files: what they bind, in any order, and that they run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re

import jax
import pytest
from flax.traverse_util import flatten_dict

import gin
from mt3 import checkpoints as model_checkpoints
from mt3.engine import checkpoints, gin_utils, launch
from mt3.errors import ConfigError

FOLDER = gin_utils.search_paths()[0]
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.gin"))
MT3 = ("mt3.gin", "model.gin")
OUTPUTS = {
    "train": ["MODEL_DIR='m'"],
    "eval": ["CHECKPOINT_PATH='c'", "EVAL_OUTPUT_DIR='e'"],
    "infer": ["CHECKPOINT_PATH='c'", "INFER_OUTPUT_DIR='i'"],
}
ORDERS = list(itertools.permutations((*MT3, "train.gin")))
PRETRAINING = ("ismir2022/pretrain.gin", "ismir2022/base.gin", "train.gin")
TINY_TRAIN = (*MT3, "train.gin", "local_tiny.gin")


@pytest.fixture
def bound(monkeypatch, tmp_path):
    """Parses files and bindings, and returns what the run's function would get."""
    # No data set is read; without a root, names of data sets of one's own are unknown.
    monkeypatch.setenv("MT3_DATA_DIR", str(tmp_path))

    def arguments_of(files, *bindings, mode="train"):
        got = {}

        def get_configurable(name):
            def look():
                got.update(gin.get_bindings(name))
                if mode == "train":
                    got["trainer"] = gin.get_bindings("trainer.Trainer")

            return look

        with monkeypatch.context() as patch:
            patch.setattr(gin, "get_configurable", get_configurable)
            launch.run(arguments(files, *OUTPUTS[mode], *bindings), mode)
        return got

    return arguments_of


def arguments(files, *bindings):
    return [
        *(f"--gin_file=gin/{name}" for name in files),
        *(f"--gin.{binding}" for binding in bindings),
    ]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def parameter_shapes(model):
    """Names and shapes of the parameters, without making them."""
    shapes = {"encoder_input_tokens": (1, 8, 512), "decoder_input_tokens": (1, 8)}
    variables = jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)
    )
    flat = flatten_dict(variables["params"].unfreeze(), sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def num_parameters(model):
    return sum(math.prod(shape) for shape in parameter_shapes(model).values())


@pytest.mark.parametrize("name", FILES)
def test_file_begins_as_a_lab_note(name):
    head = (FOLDER / name).read_text().split("\n\n")[0]
    lines = head.splitlines()
    assert all(line.startswith("#") for line in lines)
    entries = re.findall(r"^# (Goal|Source|Command|Hardware|Result): +\S", head, re.M)
    assert entries == ["Goal", "Source", "Command", "Hardware", "Result"]


def test_all_files_are_there():
    assert {
        *("model.gin", "tasks.gin", "train.gin", "eval.gin", "infer.gin"),
        *("mt3.gin", "ismir2021.gin", "finetune.gin", "local_tiny.gin"),
        *(f"ismir2022/{n}.gin" for n in ("small", "base", "pretrain", "finetune")),
        *("synthetic.gin", "synthetic_run.gin", "synthetic_tiny.gin"),
        "synthetic_gpu.gin",
    } == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_commands_in_notes_name_files_that_exist(name):
    for other in re.findall(r"--gin_file=gin/(\S+)", (FOLDER / name).read_text()):
        assert (FOLDER / other).is_file(), other


@pytest.mark.parametrize(
    ("files", "bindings", "golden", "size"),
    [
        ((*MT3, "train.gin"), (), "mt3", 45_896_704),
        (("ismir2021.gin", "model.gin", "train.gin"), (), "ismir2021", 46_027_776),
        (
            PRETRAINING,
            ("TASK_PREFIX='urmp_notes_ties'",),
            "ismir2022_base",
            200_980_992,
        ),
        (
            ("ismir2022/finetune.gin", "ismir2022/small.gin", "train.gin"),
            ("CHECKPOINT_PATH='c'",),
            "mt3",
            45_896_704,
        ),
    ],
    ids=["mt3", "ismir2021", "ismir2022 base", "ismir2022 small"],
)
def test_model_has_the_published_parameters(
    bound, golden_data, files, bindings, golden, size
):
    expected = json.loads((golden_data / "parameter_shapes.json").read_text())[golden]
    model = bound(files, *bindings)["model"]
    found = parameter_shapes(model)
    assert found
    assert found == {name: tuple(shape) for name, shape in expected.items()}
    assert num_parameters(model) == size


@pytest.mark.parametrize("files", ORDERS)
def test_mt3_in_any_order(bound, files):
    got = bound(files)
    assert got["model_dir"] == "m"
    assert got["total_steps"] == 1_000_000
    assert got["eval_period"] == 5000
    assert got["eval_steps"] == 20
    assert got["random_seed"] is None
    names = {
        key: got[f"{key}_dataset_cfg"] for key in ("train", "train_eval", "infer_eval")
    }
    assert {key: cfg.mixture_or_task_name for key, cfg in names.items()} == {
        "train": "mega_notes_ties_vb1_train",
        "train_eval": "mega_notes_ties_vb1_train",
        "infer_eval": "mega_notes_ties_vb1_eval",
    }
    for cfg in names.values():
        assert cfg.task_feature_lengths == {"inputs": 256, "targets": 1024}
        assert cfg.batch_size == 256
        assert not cfg.use_cached
        assert not cfg.pack
    assert [cfg.split for cfg in names.values()] == ["train", "eval", "eval"]
    assert [cfg.shuffle for cfg in names.values()] == [True, False, False]
    assert [cfg.seed for cfg in names.values()] == [None, 42, 42]
    save = got["checkpoint_cfg"].save
    assert (save.period, save.dtype, save.keep) == (5000, "float32", None)
    assert got["checkpoint_cfg"].restore is None
    assert got["partitioner"].mesh.shape["model"] == 1
    model = got["model"]
    assert model.module.config.dropout_rate == 0.1
    assert model.module.config.vocab_size == 1536
    assert model._label_smoothing == 0.0
    assert model._z_loss == 1e-4
    assert model._loss_normalizing_factor is None


def test_rate_is_constant_and_the_batch_whole(bound):
    trainer = bound((*MT3, "train.gin"))["trainer"]
    assert trainer["num_microbatches"] is None
    for step in (0, 1, 999_999):
        assert trainer["learning_rate_fn"](step) == pytest.approx(1e-3)


def test_ismir2021(bound):
    got = bound(("train.gin", "ismir2021.gin", "model.gin"))
    assert got["train_dataset_cfg"].mixture_or_task_name == "maestrov3_notes_train"
    assert got["infer_eval_dataset_cfg"].mixture_or_task_name == "maestrov3_notes_eval"
    lengths = {"inputs": 512, "targets": 1024}
    assert got["train_dataset_cfg"].task_feature_lengths == lengths
    assert got["total_steps"] == 400_000
    assert got["model"].output_vocabulary.vocab_size == 1617


@pytest.mark.parametrize("files", list(itertools.permutations(PRETRAINING)))
def test_pretraining_in_any_order(bound, files):
    got = bound(files, "TASK_PREFIX='urmp_notes_ties'")
    model = got["model"]
    assert model.module.config.num_encoder_layers == 12
    assert model.module.config.dropout_rate == 0.0
    assert model._label_smoothing == 0.1
    assert got["total_steps"] == 500_000
    assert got["train_dataset_cfg"].batch_size == 1024
    import seqio

    task = seqio.get_mixture_or_task(got["train_dataset_cfg"].mixture_or_task_name)
    assert task.name == "urmp_notes_ties_vb1_train"
    assert any("mix" in str(stage) for stage in task.preprocessors)


def test_finetuning_counts_on_from_the_checkpoint(bound):
    files = ("ismir2022/finetune.gin", "train.gin", "ismir2022/base.gin")
    got = bound(files, "CHECKPOINT_PATH='weights/checkpoint_500000'")
    assert got["total_steps"] == 650_000
    restore = got["checkpoint_cfg"].restore
    assert (restore.path, restore.mode) == ("weights/checkpoint_500000", "specific")
    assert got["checkpoint_cfg"].save.period == 5000
    assert got["model"].module.config.dropout_rate == 0.1
    got = bound((*MT3, "train.gin", "finetune.gin"), "CHECKPOINT_PATH='w'")
    assert got["checkpoint_cfg"].restore.path == "w"
    assert got["total_steps"] == 1_000_000


@pytest.mark.parametrize("mode", ["eval", "infer"])
@pytest.mark.parametrize("reverse", [False, True])
def test_evaluation_and_inference(bound, mode, reverse):
    files = (*MT3, f"{mode}.gin")[:: -1 if reverse else 1]
    got = bound(files, "TASK_PREFIX='maestrov3_notes_ties'", mode=mode)
    cfg = got["dataset_cfg"]
    assert cfg.mixture_or_task_name == "maestrov3_notes_ties_vb1_test"
    assert (cfg.split, cfg.batch_size, cfg.shuffle) == ("eval", 32, False)
    assert cfg.task_feature_lengths == {"inputs": 256, "targets": 1024}
    restore = got["restore_checkpoint_cfg"]
    assert (restore.path, restore.mode) == ("c", "specific")
    if mode == "infer":
        assert (got["mode"], got["shard_id"], got["num_shards"]) == ("predict", 0, 1)
        assert got["write_fn"].__name__ == "write_inferences_to_file"
    else:
        assert got["output_dir"] == "e"


def test_local_tiny_is_tiny(bound):
    got = bound(TINY_TRAIN)
    config = got["model"].module.config
    assert (config.emb_dim, config.num_heads, config.head_dim) == (8, 4, 3)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (2, 2)
    assert config.mlp_dim == 16
    assert num_parameters(got["model"]) < 40_000
    assert got["train_dataset_cfg"].task_feature_lengths == {"inputs": 8, "targets": 16}
    assert got["train_dataset_cfg"].batch_size == 8
    assert got["total_steps"] == 3
    assert got["random_seed"] == 42


@pytest.mark.parametrize(
    ("files", "bindings", "message"),
    [
        ((*MT3, "train.gin"), ("MODEL_DIR=%MODLE",), "MODLE"),
        ((*MT3, "train.gin"), ("NUM_VELOCITY_BIN=3",), "mean NUM_VELOCITY_BINS"),
        (("model.gin", "train.gin"), (), "TASK_PREFIX|macro"),
        (
            (*MT3, "train.gin"),
            ("TASK_PREFIX='guitarsett_notes_ties'",),
            "guitarset",
        ),
        ((*MT3, "train.gin"), ("PROGRAM_GRANULARITY='ful'",), "full"),
        (("ismir2022/pretrain.gin", "model.gin", "train.gin"), (), "TASK_PREFIX"),
    ],
    ids=[
        "undefined macro",
        "unused macro",
        "no task file",
        "data set",
        "granularity",
        "required",
    ],
)
def test_mistakes_are_named(bound, files, bindings, message):
    with pytest.raises(ConfigError, match=message):
        bound(files, *bindings)


def test_split_that_a_data_set_lacks_is_named(bound):
    with pytest.raises(ConfigError, match="no task 'guitarset_notes_ties_vb1_test'"):
        bound((*MT3, "eval.gin"), "TASK_PREFIX='guitarset_notes_ties'", mode="eval")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Tiny look-alikes of all data sets."""
    from tests.support import tiny_datasets

    folder = tmp_path_factory.mktemp("data")
    tiny_datasets.write_all(folder)
    return folder


def test_mt3_trains_and_is_evaluated_and_infers(data_root, tmp_path):
    """All six data sets, uncached, from the files as they are."""
    run = tmp_path / "run"
    data = f"DATA_DIR='{data_root}'"
    step, state = launch.run(
        arguments(
            TINY_TRAIN,
            f"MODEL_DIR='{run}'",
            data,
            # Filling six large buffers and scoring all six take a while.
            "tasks.register.shuffle_buffer_size=4",
            "train.infer_eval_dataset_cfg=None",
        )
    )
    assert step == int(state.step) == 3
    lines = read_lines(run / "metrics.jsonl")
    assert {line["split"] for line in lines} > {"train"}
    for line in lines:
        assert math.isfinite(line["loss_per_token"])
    config = checkpoints.read_model_config(run)
    assert config.network["emb_dim"] == 8
    assert config.include_ties
    assert (config.inputs_length, config.targets_length) == (8, 16)

    common = (
        "TASK_PREFIX='guitarset_notes_ties'",
        "TASK_SUFFIX='validation'",
        f"CHECKPOINT_PATH='{run / 'checkpoint_3'}'",
        data,
    )
    evaluated = tmp_path / "eval"
    files = (*MT3, "eval.gin", "local_tiny.gin")
    launch.run(arguments(files, *common, f"EVAL_OUTPUT_DIR='{evaluated}'"), "eval")
    (scores,) = evaluated.rglob("guitarset_notes_ties_vb1_validation-metrics.jsonl")
    assert "Onset F1" in read_lines(scores)[-1]

    inferred = tmp_path / "infer"
    files = (*MT3, "infer.gin", "local_tiny.gin")
    launch.run(arguments(files, *common, f"INFER_OUTPUT_DIR='{inferred}'"), "infer")
    name = "guitarset_notes_ties_vb1_validation-predict.jsonl-00000-of-00001"
    songs = read_lines(inferred / name)
    assert len(songs) == 2
    assert all("est_notes" in song for song in songs)


@pytest.mark.parametrize("name", ["synthetic.gin", "synthetic_gpu.gin"])
def test_the_default_weights_recipe(bound, name):
    got = bound((name,), "CORPUS='c'", "MODEL_DIR='m'")
    model = got["model"]
    assert model.augmenter is not None
    assert model.module.config.harmonic_channels
    # At most 40 MB of weights with two bytes for each; and at most 60 MB of a state
    # with moments in bfloat16, which is what a piece of training may leave.
    sizes = model.module.config.to_dict()
    config = dataclasses.replace(model.config, network=sizes)
    shapes = model_checkpoints.expected_shapes(config).values()
    count = sum(map(math.prod, shapes))
    assert 2 * count < 40e6
    assert (4 + 2 + 2) * count < 60e6
    data = got["get_dataset_fn"]
    assert data.model_config == model.config


def test_files_need_no_tensorflow_where_they_read_no_tasks():
    """What synthetic runs include imports nothing of the data layer."""
    for name in ("model.gin", *(file for file in FILES if "synthetic" in file)):
        imported = re.findall(
            r"^(?:from|import) (.*)$", (FOLDER / name).read_text(), re.MULTILINE
        )
        for line in imported:
            assert not re.search(r"seqio|\btasks\b|preprocessors|inference", line), line
