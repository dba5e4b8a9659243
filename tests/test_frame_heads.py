"""Frame heads from training to a file, and from a file to transcribing and training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from mt3 import checkpoints, frame_heads, models, network
from mt3.beyond import guided, starts
from mt3.engine import checkpoints as engine_checkpoints
from mt3.engine import export, optimizers, utils
from mt3.engine.train_state import TrainState
from mt3.inference import InferenceModel
from tests.support import tiny_guided
from tests.support.tiny_heads import CONFIG, NETWORK, make_params

PLAIN = dataclasses.replace(NETWORK, frame_heads=False)


@pytest.fixture(scope="module")
def params():
    """Of the network and its heads."""
    return make_params()


@pytest.fixture(scope="module")
def exported(params, tmp_path_factory):
    """A training run's newest checkpoint as one file."""
    folder = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(CONFIG, network=PLAIN.to_dict())
    engine_checkpoints.write_model_config(folder, config)
    heads = {**params[frame_heads.HEADS], "next_event": jnp.ones((16, 64))}
    tree = {key: params[key] for key in ("encoder", "decoder")}
    tree = jax.tree.map(np.asarray, {**tree, starts.AUXILIARY: heads})
    item = folder / "checkpoint_3"
    orbax.checkpoint.PyTreeCheckpointer().save(
        item / "state", {"target": tree, "step": np.asarray(3)}
    )
    (item / "commit_success.txt").touch()
    return export.export(
        folder,
        folder / "model.safetensors",
        info={"name": "tiny"},
    )


def test_exported_weights_keep_the_heads_that_decoding_can_use(exported, params):
    loaded = checkpoints.load(exported)
    assert loaded.config.network["frame_heads"] is True
    assert sorted(loaded.params) == ["decoder", "encoder", frame_heads.HEADS]
    found = loaded.params[frame_heads.HEADS]
    assert sorted(found) == sorted(frame_heads.head_shapes(16, 4))
    for name, value in params[frame_heads.HEADS].items():
        np.testing.assert_array_equal(found[name], value)


def test_exported_weights_are_read_from_frames(exported):
    assert InferenceModel(exported).resolved.decode == "frames"


def test_training_goes_on_from_exported_heads(exported, params):
    model = guided.GuidedModel(
        network.Transformer(PLAIN),
        None,
        None,
        None,
        input_depth=PLAIN.input_depth,
        config=dataclasses.replace(CONFIG, network=PLAIN.to_dict()),
        guide=guided.GuideConfig(local_distances=(-1, 1)),
        initial_weights=str(exported),
    )
    shapes = {
        "encoder_input_tokens": (1, CONFIG.inputs_length, PLAIN.input_depth),
        "decoder_input_tokens": (1, 8),
        "decoder_target_tokens": (1, 8),
    }
    heads = tiny_guided.initial(model, shapes)[starts.AUXILIARY]
    for name, value in params[frame_heads.HEADS].items():
        np.testing.assert_array_equal(heads[name], value)
    assert "next_event" in heads


def test_plain_training_starts_without_the_heads(exported, params):
    """A model that has none of them takes the network's parameters alone."""
    model = models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(PLAIN),
        None,
        None,
        optimizers.adamw(),
        input_depth=PLAIN.input_depth,
    )
    network_params = starts.network_params(params)
    zeros = jax.tree.map(jnp.zeros_like, network_params)
    like = TrainState(
        jnp.zeros((), jnp.int32), zeros, model.optimizer_def.init_state(zeros)
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state, _ = engine_checkpoints.restore_for_finetuning(
        utils.RestoreCheckpointConfig(path=str(exported), mode="specific"),
        like,
        jax.tree.map(lambda leaf: place, like),
        model.optimizer_def,
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, network_params)
