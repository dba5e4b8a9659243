"""The gin files: what they bind, in any order, and that they run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import jax
import pytest

import gin
from mt3 import checkpoints as model_checkpoints
from mt3 import configs, network
from mt3.engine import checkpoints, gin_utils, launch, seqio_data
from mt3.engine.train_state import shapes_of
from mt3.errors import ConfigError
from tests.support import drawn, page_commands

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

    def arguments_of(files, *bindings, mode="train", outputs=OUTPUTS):
        got = {}

        def get_configurable(name):
            def look():
                got.update(gin.get_bindings(name))
                if mode == "train":
                    got["trainer"] = gin.get_bindings("trainer.Trainer")

            return look

        with monkeypatch.context() as patch:
            patch.setattr(gin, "get_configurable", get_configurable)
            patch.setattr(launch, "_start", lambda mode, given: None)
            launch.run(arguments(files, *outputs.get(mode, ()), *bindings), mode)
        return got

    return arguments_of


def arguments(files, *bindings):
    return [
        *(f"--gin_file={Path('gin') / name}" for name in files),
        *(f"--gin.{binding}" for binding in bindings),
    ]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def parameter_shapes(model):
    """Names and shapes of the parameters; `test_checkpoints` traces networks."""
    config = configs.ModelConfig(network=model.module.config.to_dict())
    return model_checkpoints.expected_shapes(config)


def num_parameters(model):
    return sum(math.prod(shape) for shape in parameter_shapes(model).values())


PAGES = [
    block for page in page_commands.pages() for block in page_commands.blocks(page)
]
RUNS = [
    words[1:]
    for block in PAGES
    if block.language == "sh"
    for words in page_commands.commands(block)
    if words[0] == "mt3" and words[1] in OUTPUTS and not {"...", "$FILES"} & {*words}
]


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_commands_on_pages_bind_what_there_is(words, monkeypatch, tmp_path):
    """Those that need data or hours, too: files are there, and names are bound."""
    mode, *rest = words
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    # Data sets of one's own are only known where they are.
    rest = [re.sub("'(jazz_trio|synthetic)_", "'guitarset_", word) for word in rest]
    got = []
    monkeypatch.setattr(
        gin, "get_configurable", lambda name: lambda: got.append(gin.get_bindings(name))
    )
    monkeypatch.setattr(launch, "_start", lambda mode, given: None)
    launch.run(rest, mode)
    assert got[0]["model"]


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
        *("synthetic_gpu.gin", "decoder.gin", "recordings.gin"),
        *("default.gin", "default_network.gin"),
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
    assert got["model"].input_vocabulary is not None
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
    got = bound(files)
    model = got["model"]
    assert model.module.config.num_encoder_layers == 12
    assert model.module.config.dropout_rate == 0.0
    assert model._label_smoothing == 0.1
    assert got["total_steps"] == 500_000
    assert got["train_dataset_cfg"].batch_size == 1024
    import seqio

    task = seqio.get_mixture_or_task(got["train_dataset_cfg"].mixture_or_task_name)
    assert task.name == "monophonic_notes_ties_vb1_train"
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
    ],
    ids=[
        "undefined macro",
        "unused macro",
        "no task file",
        "data set",
        "granularity",
    ],
)
def test_mistakes_are_named(bound, files, bindings, message):
    with pytest.raises(ConfigError, match=message):
        bound(files, *bindings)


def test_macros_that_nothing_uses_are_warned_of(bound, tmp_path, caplog):
    path = tmp_path / "own.gin"
    lines = ["TRAIN_STEP = 100", "Q = [1]", "OWN = 3", "EVAL_OUTPUT_DIR = 'e'"]
    path.write_text("\n".join([*lines, "train/utils.DatasetConfig.batch_size = %OWN"]))
    got = bound((*MT3, "train.gin", path))
    assert got["total_steps"] == 1_000_000
    assert got["train_dataset_cfg"].batch_size == 3
    unused = [text for text in caplog.messages if "no file uses" in text]
    assert unused == [
        "gin: no file uses Q, which one sets.",
        "gin: no file uses TRAIN_STEP, which one sets. Did you mean TRAIN_STEPS?",
    ]


def test_split_that_a_data_set_lacks_is_named(bound):
    with pytest.raises(ConfigError, match="no task 'guitarset_notes_ties_vb1_test'"):
        bound((*MT3, "eval.gin"), "TASK_PREFIX='guitarset_notes_ties'", mode="eval")


# The names that the files of magenta/mt3 bind, in files of one's own.
MODEL_NAMES = """
from __gin__ import dynamic_registration
from mt3 import mixing
from mt3 import models
from mt3 import network
from mt3 import preprocessors
from mt3 import spectrograms
from mt3 import tasks
from mt3 import vocabularies
import seqio
from t5x import adafactor
from t5x import partitioning
from t5x import utils

VOCAB_CONFIG = @vocabularies.VocabularyConfig()
vocabularies.VocabularyConfig.num_velocity_bins = 1
vocabularies.build_codec.vocab_config = %VOCAB_CONFIG
vocabularies.vocabulary_from_codec.codec = @vocabularies.build_codec()
vocabularies.num_embeddings.vocabulary = @vocabularies.vocabulary_from_codec()
spectrograms.input_depth.spectrogram_config = @spectrograms.SpectrogramConfig()
preprocessors.map_midi_programs.granularity_type = 'midi_class'
mixing.mix_transcription_examples.max_examples_per_mix = 3

models.ContinuousInputsEncoderDecoderModel:
  module = @network.Transformer()
  input_vocabulary = @seqio.vocabularies.PassThroughVocabulary()
  output_vocabulary = @vocabularies.vocabulary_from_codec()
  optimizer_def = @adafactor.Adafactor()
  input_depth = @spectrograms.input_depth()
  z_loss = 0.0001
  label_smoothing = 0.0
  loss_normalizing_factor = None
seqio.vocabularies.PassThroughVocabulary.size = 0
adafactor.Adafactor.logical_factor_rules = @adafactor.standard_logical_factor_rules()
network.Transformer.config = @network.T5Config()
network.T5Config:
  vocab_size = @vocabularies.num_embeddings()
  emb_dim = 8
  num_heads = 2

tasks.construct_task_name:
  task_prefix = 'guitarset_notes_ties'
  vocab_config = %VOCAB_CONFIG
utils.DatasetConfig:
  mixture_or_task_name = @tasks.construct_task_name()
  task_feature_lengths = {'inputs': 16, 'targets': 32}
  split = 'train'
  batch_size = 2
  shuffle = False
  seed = 42
  use_cached = False
  pack = False
  use_custom_packing_ops = False
partitioning.PjitPartitioner.num_partitions = 1
"""
RUN_NAMES = {
    "train": """
import __main__ as train_script
from t5x import gin_utils
from t5x import trainer

tasks.construct_task_name.task_suffix = 'train'
train_script.train:
  model = @models.ContinuousInputsEncoderDecoderModel()
  model_dir = 'm'
  train_dataset_cfg = @train/utils.DatasetConfig()
  train_eval_dataset_cfg = None
  checkpoint_cfg = @utils.CheckpointConfig()
  partitioner = @partitioning.PjitPartitioner()
  trainer_cls = @trainer.Trainer
  total_steps = 3
  random_seed = None
  summarize_config_fn = @gin_utils.summarize_gin_config
  inference_evaluator_cls = @seqio.Evaluator
seqio.Evaluator:
  logger_cls = [@seqio.PyLoggingLogger, @seqio.TensorBoardLogger, @seqio.JSONLogger]
  num_examples = None
  use_memory_cache = True
seqio.JSONLogger.write_n_results = 0
utils.CheckpointConfig:
  restore = None
  save = @utils.SaveCheckpointConfig()
utils.SaveCheckpointConfig:
  period = 5000
  dtype = 'float32'
  keep = None
  save_dataset = False
partitioning.PjitPartitioner.model_parallel_submesh = None
trainer.Trainer:
  num_microbatches = 0
  learning_rate_fn = @utils.create_learning_rate_scheduler()
utils.create_learning_rate_scheduler:
  factors = 'constant'
  base_learning_rate = 0.001
  warmup_steps = 1000
""",
    "eval": """
import __main__ as eval_script

tasks.construct_task_name.task_suffix = 'validation'
eval_script.evaluate:
  model = @models.ContinuousInputsEncoderDecoderModel()
  dataset_cfg = @utils.DatasetConfig()
  partitioner = @partitioning.PjitPartitioner()
  restore_checkpoint_cfg = @utils.RestoreCheckpointConfig()
  output_dir = 'e'
utils.RestoreCheckpointConfig:
  path = 'c'
  mode = 'specific'
""",
    "infer": """
import __main__ as infer_script
from mt3 import inference

tasks.construct_task_name.task_suffix = 'validation'
inference.write_inferences_to_file:
  vocab_config = %VOCAB_CONFIG
  onsets_only = False
  use_ties = True
infer_script.infer:
  mode = 'predict'
  model = @models.ContinuousInputsEncoderDecoderModel()
  dataset_cfg = @utils.DatasetConfig()
  partitioner = @partitioning.PjitPartitioner()
  restore_checkpoint_cfg = @utils.RestoreCheckpointConfig()
  output_dir = 'i'
  checkpoint_period = 1000000
  shard_id = 0
  num_shards = 1
  write_fn = @inference.write_inferences_to_file
utils.RestoreCheckpointConfig:
  path = 'c'
  mode = 'specific'
""",
}


@pytest.mark.parametrize("mode", list(RUN_NAMES))
def test_names_that_other_files_of_mt3_bind(bound, mode, tmp_path):
    import seqio

    path = tmp_path / "own.gin"
    imports, rest = MODEL_NAMES.split("\n\n", 1)
    lines = RUN_NAMES[mode].splitlines()
    more = [line for line in lines if line.startswith(("import", "from"))]
    others = [line for line in lines if line not in more]
    path.write_text("\n".join([imports, *more, "", rest, *others]))
    got = bound((path,), mode=mode, outputs={})
    config = got["model"].module.config
    assert (config.vocab_size, config.emb_dim) == (1536, 8)
    cfg = got["train_dataset_cfg" if mode == "train" else "dataset_cfg"]
    suffix = "train" if mode == "train" else "validation"
    assert cfg.mixture_or_task_name == f"guitarset_notes_ties_vb1_{suffix}"
    task = seqio.get_mixture_or_task(cfg.mixture_or_task_name)
    features = task.output_features
    assert features["inputs"].vocabulary == got["model"].input_vocabulary
    assert features["targets"].vocabulary == got["model"].output_vocabulary


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Tiny look-alikes of the data sets that MT3 trains on."""
    from mt3 import datasets
    from tests.support import tiny_datasets

    return tiny_datasets.write_all(
        tmp_path_factory.mktemp("data"),
        data_sets=datasets.MIXTURES["mega"],
        splits=("train", "validation"),
        seconds=3.0,
    )


@pytest.mark.slow
def test_mt3_trains_and_is_evaluated_and_infers(data_root, tmp_path):
    """All six data sets, uncached, from the files as they are."""
    run = tmp_path / "run"
    common = (
        f"DATA_DIR='{data_root}'",
        # One layer of each kind is compiled in half the time of two.
        "network.T5Config.num_encoder_layers=1",
        "network.T5Config.num_decoder_layers=1",
    )
    with drawn.first_parameters():
        step, state = launch.run(
            arguments(
                TINY_TRAIN,
                *common,
                f"MODEL_DIR='{run}'",
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
        *common,
        "TASK_PREFIX='guitarset_notes_ties'",
        "TASK_SUFFIX='validation'",
        f"CHECKPOINT_PATH='{run / 'checkpoint_3'}'",
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
    assert got["checkpoint_cfg"].save.minutes == (3 if "gpu" in name else None)


def test_the_gpus_step_fits_together(bound):
    """Encoder, decoder and losses in bfloat16, by shapes; parameters in float32."""
    from mt3.synthesis.augmentation import HISTORY_SAMPLES

    # One layer of the encoder is traced sooner than four.
    bindings = "CORPUS='c'", "MODEL_DIR='m'", "network.T5Config.num_encoder_layers=1"
    model = bound(("synthetic_gpu.gin",), *bindings)["model"]
    assert model.module.config.dtype == "bfloat16"
    shapes = {"decoder_input_tokens": (2, 64), "decoder_target_tokens": (2, 64)}
    variables, _ = shapes_of(
        lambda key: model.get_initial_variables(key, shapes), jax.random.key(0)
    )
    params = variables["params"]
    kinds = {"samples": "int16", "notes": "float32", "decoder_loss_weights": "float32"}
    shapes |= {
        "samples": (2, HISTORY_SAMPLES + model.config.input_samples),
        "notes": (2, 320, 5),
        "decoder_loss_weights": (2, 64),
    }
    batch = {
        name: jax.ShapeDtypeStruct(shape, kinds.get(name, "int32"))
        for name, shape in shapes.items()
    }
    gradient, metrics = jax.eval_shape(
        jax.grad(lambda p, b: model.loss_fn(p, b, jax.random.key(0)), has_aux=True),
        params,
        batch,
    )
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(gradient)} == {"float32"}
    assert metrics.keys() >= {"velocity_loss", "time_loss", "attention_loss"}


RECORDINGS = ("DATA_SET='mine'", "MODEL_DIR='m'")


def test_the_default_weights_are_of_the_default_network(bound):
    """Runs, tasks and fine-tuning have the sizes, tokens and frames of the file."""
    file = model_checkpoints.load(model_checkpoints.resolve("default")).config
    half = {"dtype": None, "float32_logits": None, "frame_heads": None}
    expected = network.T5Config.from_dict({**file.network}).to_dict() | half
    for name, bindings in (
        ("synthetic.gin", ("CORPUS='c'", "MODEL_DIR='m'")),
        ("synthetic_gpu.gin", ("CORPUS='c'", "MODEL_DIR='m'")),
        ("recordings.gin", RECORDINGS),
    ):
        got = bound((name,), *bindings)
        model = got["model"]
        assert model.module.config.to_dict() | half == expected, name
        ours = dataclasses.replace(model.config, network=file.network)
        assert ours == file, name
        assert got["get_dataset_fn"].model_config == model.config


@pytest.mark.parametrize("mode", ["eval", "infer"])
def test_tasks_of_the_default_weights(bound, mode):
    import seqio

    names = ("default.gin", f"{mode}.gin")
    for files in (names, names[::-1]):
        got = bound(files, "TASK_PREFIX='maestrov3_notes_ties'", mode=mode)
        cfg = got["dataset_cfg"]
        assert cfg.task_feature_lengths == {"inputs": 200, "targets": 640}
        task = seqio.get_mixture_or_task(cfg.mixture_or_task_name)
        file = model_checkpoints.load(model_checkpoints.resolve("default")).config
        found = seqio_data.model_config(task, cfg.task_feature_lengths)
        assert dataclasses.replace(found, network=file.network) == file
        assert got["model"].module.config.memory_positions


def test_init_is_the_macro(monkeypatch):
    seen = []
    monkeypatch.setattr(
        gin_utils, "parse_gin_flags", lambda paths, files, values: seen.append(values)
    )
    monkeypatch.setattr(gin, "get_configurable", lambda name: dict)
    monkeypatch.setattr(launch, "_start", lambda mode, arguments: None)
    file = "--gin_file=gin/recordings.gin"
    launch.run([file, "--init", "default"])
    launch.run([file])
    assert seen == [["INITIAL_WEIGHTS = 'default'"], []]


def test_the_decoders_recipe(bound):
    """Only the decoder is trained, on what an encoder says of the same segments."""
    names = ("CORPUS", "VALIDATION", "ENCODED", "INITIAL_WEIGHTS", "MODEL_DIR")
    bindings = [f"{name}='{name.lower()}'" for name in names]
    got = bound(("decoder.gin",), *bindings)
    data, model = got["get_dataset_fn"], got["model"]
    assert data.model_config == data.source.model_config == model.config
    assert data.source.on_device
    assert (data.source.folder, data.evaluation_source.folder) == (
        "corpus",
        "validation",
    )
    params = {
        "decoder": {"mlp": {"wo": {"kernel": jax.numpy.ones((4, 4))}}},
        "encoder": {"mlp": {"wo": {"kernel": jax.numpy.ones((4, 4))}}},
    }
    optimizer = model.optimizer_def
    new, _ = optimizer.apply_gradient(
        params, optimizer.init_state(params), params, learning_rate=0.1
    )
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), new, params)
    assert changed["decoder"]["mlp"]["wo"]["kernel"]
    assert not changed["encoder"]["mlp"]["wo"]["kernel"]


def test_files_need_no_tensorflow_where_they_read_no_tasks():
    """What synthetic runs include imports nothing of the data layer."""
    lean = ("model.gin", "default_network.gin", "decoder.gin")
    for name in (*lean, *(f for f in FILES if "synthetic" in f)):
        imported = re.findall(
            r"^(?:from|import) (.*)$", (FOLDER / name).read_text(), re.MULTILINE
        )
        for line in imported:
            assert not re.search(r"seqio|\btasks\b|preprocessors|inference", line), line
