"""Loading of any checkpoint: which folder, which model, strict comparison."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import checkpoints, configs, network
from mt3.checkpoints import sizes, storage
from mt3.configs import ModelConfig
from mt3.engine import checkpoints as engine_checkpoints
from mt3.engine.train_state import TrainState
from mt3.engine.utils import SaveCheckpointConfig
from mt3.errors import CheckpointError

TINY = {
    "vocab_size": 1536,
    "emb_dim": 8,
    "num_heads": 2,
    "head_dim": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "mlp_dim": 16,
    "input_depth": 12,
}


def random_params(config: ModelConfig, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return checkpoints.unflatten(
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in checkpoints.expected_shapes(config).items()
        }
    )


def unpack(golden_data, name: str, folder):
    archive = golden_data / name
    assert archive.stat().st_size > 1000, f"golden file {archive} is empty"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def t5x_run(golden_data, tmp_path):
    """A folder that holds the golden `checkpoint_0`."""
    folder = unpack(golden_data, "t5x_checkpoint.tar.gz", tmp_path)
    return next(folder.rglob("checkpoint_0")).parent


@pytest.fixture
def tiny():
    return ModelConfig(network=TINY)


def save_orbax(folder, tree) -> None:
    """Writes a tree as the engine does, through Orbax."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


@pytest.mark.parametrize("name", ["mt3", "ismir2021", "ismir2022_base"])
def test_expected_shapes_are_the_released_ones(name, golden_data):
    golden = json.loads((golden_data / "parameter_shapes.json").read_text())[name]
    assert golden
    fields = {"vocab_size": golden["decoder/token_embedder/embedding"][0]}
    if name == "ismir2022_base":
        fields |= {
            "emb_dim": 768,
            "num_heads": 12,
            "mlp_dim": 2048,
            "num_encoder_layers": 12,
            "num_decoder_layers": 12,
        }
    shapes = checkpoints.expected_shapes(ModelConfig(network=fields))
    assert shapes == {key: tuple(value) for key, value in golden.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"logits_via_embedding": True},
        {"mlp_activations": ("relu",)},
        {"num_encoder_layers": 3, "num_heads": 3, "vocab_size": 1664},
    ],
)
def test_expected_shapes_are_those_the_network_makes(changes):
    fields = TINY | changes
    model = network.Transformer(config=network.T5Config.from_dict(fields))
    frames = jnp.zeros((1, 4, fields["input_depth"]))
    tokens = jnp.zeros((1, 3), jnp.int32)
    made = jax.eval_shape(
        lambda key: model.init(key, frames, tokens, tokens, enable_dropout=False),
        jax.random.key(0),
    )["params"]
    flat = {name: leaf.shape for name, leaf in checkpoints.flatten(made).items()}
    assert checkpoints.expected_shapes(ModelConfig(network=fields)) == flat


@pytest.mark.parametrize(
    ("name", "base", "heads"),
    [
        ("mt3", configs.MT3, 6),
        ("ismir2021", configs.ISMIR2021, 6),
        ("ismir2022_base", configs.MT3, 12),
    ],
)
def test_released_models_are_recognised_by_their_shapes(
    name, base, heads, golden_data, caplog
):
    golden = json.loads((golden_data / "parameter_shapes.json").read_text())[name]
    # Shapes without memory: only shapes are looked at.
    params = checkpoints.unflatten(
        {key: np.broadcast_to(np.float32(0), shape) for key, shape in golden.items()}
    )
    with caplog.at_level(logging.WARNING):
        config = checkpoints.infer_config(params)
    assert not caplog.records
    assert config.network["num_heads"] == heads
    assert config.network["head_dim"] == 64
    for field in ("vocabulary", "spectrogram", "include_ties", "program_granularity"):
        assert getattr(config, field) == getattr(base, field)
    assert config.inputs_length == base.inputs_length
    assert config.targets_length == base.targets_length
    checkpoints.check_parameters(params, config)


def test_golden_checkpoint_loads_with_two_heads_and_a_warning(t5x_run, caplog):
    with caplog.at_level(logging.INFO):
        params, config, info = checkpoints.load(t5x_run)
    assert config.network["num_heads"] == 2
    assert config.network["head_dim"] == 16
    assert config.inputs_length == 256
    assert info["format"] == "t5x"
    assert info["step"] == 0
    assert info["config_origin"] == "inferred"
    assert info["num_parameters"] == checkpoints.num_parameters(params)
    assert "taking the newest checkpoint, checkpoint_0" in caplog.text
    warning = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warning) == 1
    assert "--num-heads" in warning[0].getMessage()


def test_heads_can_be_given(t5x_run, caplog):
    with caplog.at_level(logging.WARNING):
        model = checkpoints.load(t5x_run, num_heads=4)
    assert not caplog.records
    assert model.config.network["num_heads"] == 4
    assert model.config.network["head_dim"] == 8
    with pytest.raises(CheckpointError, match="32 is not divisible"):
        checkpoints.load(t5x_run, num_heads=5)


@pytest.mark.parametrize(
    "gin",
    [
        "network.T5Config.num_heads = 4",
        "network.T5Config.head_dim = 8\n",
        "NUM_HEADS = 4\nnetwork.T5Config:\n  num_heads = %NUM_HEADS\n  head_dim = 8",
        "# Macros:\nH = 4\ntrain/network.T5Config.num_heads = \\\n    %H",
    ],
)
def test_heads_are_read_from_gin(gin, t5x_run, caplog):
    (t5x_run / "config.gin").write_text(gin)
    with caplog.at_level(logging.WARNING):
        model = checkpoints.load(t5x_run / "checkpoint_0")
    assert not caplog.records
    assert model.config.network["num_heads"] == 4
    assert model.config.network["head_dim"] == 8


@pytest.mark.parametrize(
    "gin",
    [
        "",
        "a.num_heads = 4\nb.num_heads = 8",
        "num_heads = %A\nA = %B\nB = %A",
        "my_num_heads = 4",
    ],
)
def test_gin_without_a_clear_number_is_no_help(gin, t5x_run, caplog):
    (t5x_run / "config.gin").write_text(gin)
    with caplog.at_level(logging.WARNING):
        model = checkpoints.load(t5x_run / "checkpoint_0")
    assert model.config.network["num_heads"] == 2
    assert "assuming" in caplog.text


def test_gin_that_does_not_fit_is_an_error(t5x_run):
    (t5x_run / "config.gin").write_text("network.T5Config.num_heads = 7")
    with pytest.raises(CheckpointError, match=r"config\.gin says num_heads = 7"):
        checkpoints.load(t5x_run)


def test_unknown_vocabulary_needs_a_configuration(tiny, tmp_path):
    other = ModelConfig(network=TINY | {"vocab_size": 1408})
    params = random_params(other)
    checkpoints.save_t5x(tmp_path / "checkpoint_1", params, step=1)
    with pytest.raises(CheckpointError, match="1408 rows"):
        checkpoints.load(tmp_path)
    model = checkpoints.load(tmp_path, config=other)
    assert model.config == other
    assert model.info["config_origin"] == "given"
    with pytest.raises(CheckpointError, match="1408, 8"):
        checkpoints.load(tmp_path, config=tiny)


def test_every_difference_is_listed(tiny):
    flat = checkpoints.flatten(random_params(tiny))
    checkpoints.check_parameters(checkpoints.unflatten(flat), tiny)
    del flat["decoder/decoder_norm/scale"]
    flat["decoder/decoder_nrom/scale"] = np.ones(8, np.float32)
    flat["encoder/layers_0/mlp/wo/kernel"] = np.ones((8, 16), np.float32)
    flat["encoder/layers_1/mlp/wo/kernel"] = np.ones((16, 8), np.float32)
    flat["decoder/layers_0/mlp/wo/kernel"][0, 0] = np.nan
    flat["decoder/layers_1/mlp/wo/kernel"][:2, 0] = np.inf
    flat["encoder/encoder_norm/scale"] = np.ones(8, np.int32)
    with pytest.raises(CheckpointError) as error:
        checkpoints.check_parameters(
            checkpoints.unflatten(flat), tiny, source="here.safetensors"
        )
    message = str(error.value)
    assert message.startswith(
        "here.safetensors: not the 42 parameters that the model expects: 1 missing, "
        "2 unexpected, 2 not finite, 1 of another type, 1 misshapen"
    )
    for text in (
        "missing: decoder/decoder_norm/scale (8,)",
        "unexpected: decoder/decoder_nrom/scale (8,). Did you mean decoder/decoder_n",
        "misshapen: encoder/layers_0/mlp/wo/kernel is (8, 16), expected (16, 8)",
        "unexpected: encoder/layers_1/mlp/wo/kernel",
        "not finite: decoder/layers_0/mlp/wo/kernel has 1 NaN or infinite",
        "not finite: decoder/layers_1/mlp/wo/kernel has 2 NaN or infinite",
        "of another type: encoder/encoder_norm/scale is int32",
    ):
        assert text in message


def test_long_lists_are_cut_and_counted(tiny):
    with pytest.raises(CheckpointError) as error:
        checkpoints.check_parameters({}, tiny)
    total = len(checkpoints.expected_shapes(tiny))
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + storage.LISTED_PROBLEMS + 1
    assert lines[-1].strip() == f"and {total - storage.LISTED_PROBLEMS} more"


def test_bad_network_fields_are_an_error():
    with pytest.raises(CheckpointError, match="num_hedas"):
        checkpoints.expected_shapes(ModelConfig(network=TINY | {"num_hedas": 2}))


def test_a_tree_of_another_model_is_named_as_such():
    with pytest.raises(CheckpointError, match="not an MT3 model"):
        checkpoints.infer_config({"dense": {"kernel": np.zeros((2, 2))}})


def test_the_newest_complete_checkpoint_is_taken(t5x_run, caplog):
    for step in (9, 10, 200):
        shutil.copytree(t5x_run / "checkpoint_0", t5x_run / f"checkpoint_{step}")
    (t5x_run / "checkpoint_200" / "checkpoint").unlink()
    (t5x_run / "checkpoint_300.orbax-checkpoint-tmp-17").mkdir()
    (t5x_run / "notes.txt").write_text("")
    with caplog.at_level(logging.INFO):
        model = checkpoints.load(t5x_run)
    assert model.info["source"].endswith("checkpoint_10")
    assert "taking the newest checkpoint, checkpoint_10" in caplog.text
    assert "checkpoint_200: is no complete checkpoint" in caplog.text


def test_wrong_paths_say_what_is_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        checkpoints.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="found: nothing"):
        checkpoints.load(tmp_path)
    (tmp_path / "song.mp3").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"found: song\.mp3"):
        checkpoints.load(tmp_path)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoints.load(tmp_path / "song.mp3")
    (tmp_path / "checkpoint_3.orbax-checkpoint-tmp-17").mkdir()
    with pytest.raises(CheckpointError, match="not finished"):
        checkpoints.load(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected the folder"):
        checkpoints.load(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="scheme"):
        checkpoints.load("nowhere://bucket/checkpoint")
    with pytest.raises(CheckpointError, match="web address"):
        checkpoints.load("http://127.0.0.1:9/checkpoint")


@pytest.mark.parametrize("model_json_at", ["", "checkpoint_5", "checkpoint_5/state"])
def test_engine_checkpoints_load_with_their_recorded_model(
    model_json_at, tiny, tmp_path, caplog
):
    params = random_params(tiny)
    step = np.asarray(5, np.int32)
    tree = {"params": params, "opt_state": {"count": step}, "step": step}
    save_orbax(tmp_path / "checkpoint_5" / "state", tree)
    (tmp_path / model_json_at / "model.json").write_text(json.dumps(tiny.to_dict()))
    with caplog.at_level(logging.WARNING):
        model = checkpoints.load(tmp_path)
        inside = checkpoints.load(tmp_path / "checkpoint_5" / "state")
    assert not caplog.records
    assert model.config == tiny == inside.config
    assert model.info["format"] == "orbax"
    assert model.info["step"] == 5
    assert model.info["config_origin"] == "recorded"
    expected = checkpoints.flatten(params)
    found = checkpoints.flatten(model.params)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(CheckpointError, match="num_heads=4"):
        checkpoints.load(tmp_path, num_heads=4)


def test_a_guided_run_must_be_exported(tiny, tmp_path):
    params = {**random_params(tiny), "auxiliary": {"kernel": np.ones(2, np.float32)}}
    save_orbax(tmp_path / "checkpoint_5" / "state", {"params": params})
    (tmp_path / "model.json").write_text(json.dumps(tiny.to_dict()))
    with pytest.raises(CheckpointError, match="from mt3.engine.export import export"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_engine_saves_loads(dtype, tiny, tmp_path):
    params = random_params(tiny)
    manager = engine_checkpoints.CheckpointManager(
        tmp_path, SaveCheckpointConfig(dtype=dtype)
    )
    for step in (3, 12):
        state = TrainState(jnp.asarray(step, jnp.int32), params, {"v": jnp.ones(3)})
        manager.save(state, {"position": step})
    manager.close()
    engine_checkpoints.write_model_config(tmp_path, tiny)
    model = checkpoints.load(tmp_path)
    assert model.config == tiny
    assert model.info["step"] == 12
    found = checkpoints.flatten(model.params)
    for name, value in checkpoints.flatten(params).items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(
            found[name], np.asarray(jnp.asarray(value, dtype), np.float32)
        )


def test_orbax_item_without_a_folder_around_it(tiny, tmp_path):
    params = random_params(tiny)
    save_orbax(tmp_path / "weights", {"params": params})
    model = checkpoints.load(tmp_path / "weights", num_heads=2)
    assert model.info["step"] is None
    assert model.config.network["head_dim"] == 4


@pytest.mark.parametrize(
    ("use_ocdbt", "use_zarr3"), [(False, False), (True, True), (False, True)]
)
def test_other_ways_of_orbax_to_store_arrays(use_ocdbt, use_zarr3, tiny, tmp_path):
    import orbax.checkpoint as ocp

    params = random_params(tiny)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    folder = tmp_path / "checkpoint_2" / "state"
    with ocp.Checkpointer(handler) as checkpointer:
        # As the T5X of some years ago: parameters under `target`.
        tree = {"target": params, "state": {"step": np.asarray(2, np.int32)}}
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
    assert (folder / "manifest.ocdbt").exists() == use_ocdbt
    model = checkpoints.load(tmp_path, num_heads=2)
    assert model.info["step"] == 2
    found = checkpoints.flatten(model.params)
    for name, value in checkpoints.flatten(params).items():
        np.testing.assert_array_equal(found[name], value)


def test_orbax_folder_of_something_else(tmp_path):
    save_orbax(tmp_path / "weights", {"dense": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match="found: dense"):
        checkpoints.load(tmp_path / "weights")


@pytest.mark.parametrize("text", ["{", "[]", '{"network": 3}', '{"networks": {}}'])
def test_damaged_model_json_is_an_error(text, t5x_run):
    (t5x_run / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.json: model configuration"):
        checkpoints.load(t5x_run)


def test_recorded_model_beside_a_run_only(t5x_run):
    """A file of that name above a folder that is no `checkpoint_N` is not ours."""
    shutil.move(t5x_run / "checkpoint_0", t5x_run / "weights")
    (t5x_run / sizes.MODEL_FILE).write_text("{")
    assert checkpoints.load(t5x_run / "weights").info["config_origin"] == "inferred"


def test_import_is_cheap():
    code = (
        "import sys, mt3.checkpoints as c; c.available();"
        "print([m for m in ('jax', 'flax', 'tensorstore', 'orbax', 'tensorflow')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_long_reason_keeps_its_end():
    """TensorStore tells paths first, and last what the system said."""
    error = OSError(f"Error writing {'folder/' * 60}.zarray: No space left on device")
    short = storage.short_reason(error)
    assert short.startswith("Error writing folder/")
    assert short.endswith("No space left on device")
    assert len(short) == 300
