"""Runs of a tiny model on meshes of eight virtual devices, for their tests.

`python -m tests.support.eight_devices FOLDER` writes `FOLDER/results.json`. It needs
`XLA_FLAGS=--xla_force_host_platform_device_count=8`, which JAX reads at its start, and
therefore a process of its own.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
from unittest import mock

import jax
import numpy as np

from mt3 import models, network
from mt3.checkpoints import flatten
from mt3.engine import adafactor, checkpoints, partitioning, trainer, utils
from mt3.engine.partitioning import logical_axis_names
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError
from tests.support import drawn

STEPS = 3
# Data axis x model axis -> devices, partitions, dimensions that are split.
BOTH = "4x2, parameters over both axes"
MESHES = {"1x1": (1, 1, 1), "8x1": (8, 1, 1), "4x2": (8, 2, 1), BOTH: (8, 2, 2)}
# Those with a program of their own. It takes long to compile; that of a mesh whose
# parameters are split over one axis is run in test_engine_launch.
TRAINED = ("1x1", BOTH)
CONFIG = network.T5Config.from_dict(
    {
        "vocab_size": 256,
        "emb_dim": 128,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 8,
        "mlp_dim": 256,
        "dropout_rate": 0.1,
        "input_depth": 16,
    }
)


def batch(index, size=16):
    rng = np.random.default_rng(index)
    targets = rng.integers(1, 256, (size, 12)).astype(np.int32)
    targets[:, 9:] = 0
    return {
        "encoder_input_tokens": rng.normal(size=(size, 8, 16)).astype(np.float32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    }


@functools.cache
def start():
    """Returns a model, its first state, the state's form, and its other variables."""
    model = models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(CONFIG),
        None,
        None,
        adafactor.Adafactor(),
        input_depth=16,
        z_loss=1e-4,
    )
    shapes = {name: array.shape for name, array in batch(0).items()}

    def create():
        variables = model.get_initial_variables(jax.random.PRNGKey(1), shapes)
        variables = variables.unfreeze()
        params = variables.pop("params")
        return TrainState.create(params, model.optimizer_def), variables

    params = drawn.parameters(lambda key: model.get_initial_variables(key, shapes))
    state = TrainState.create(params, model.optimizer_def)
    return model, jax.device_get(state), *jax.eval_shape(create)


class Run:
    """The model and its state on one mesh."""

    def __init__(self, mesh):
        count, partitions, dims = MESHES[mesh]
        devices = jax.devices()[:count]
        with mock.patch.object(jax, "local_devices", return_value=devices):
            self.partitioner = partitioning.PjitPartitioner(
                num_partitions=partitions,
                logical_axis_rules=partitioning.standard_logical_axis_rules(
                    parameter_partitioning_dims=dims
                ),
            )
        model, state, self.like, other = start()
        self.shardings = self.partitioner.state_shardings(
            self.like, logical_axis_names(other)
        )
        self.trainer = trainer.Trainer(
            model=model,
            train_state=jax.device_put(state, self.shardings),
            partitioner=self.partitioner,
            eval_names=(),
            summary_dir=None,
            train_state_axes=self.shardings,
            rng=jax.random.PRNGKey(2),
            learning_rate_fn=lambda step: 0.01,
        )

    @property
    def state(self):
        return self.trainer.train_state

    def train(self):
        """Takes steps and returns the loss of each."""
        first = int(self.state.step)
        batches = (batch(first + index) for index in range(STEPS))
        return [step["loss"][0] for step in self.trainer.train(batches, STEPS).steps]

    def split(self):
        """Returns, for each array on several devices, its shape and a piece's."""
        return {
            name: (leaf.shape, leaf.addressable_shards[0].data.shape)
            for name, leaf in flatten(self.state.state_dict()).items()
            if leaf.shape != leaf.addressable_shards[0].data.shape
        }


def main(folder: pathlib.Path) -> None:
    results = {"devices": jax.device_count(), "errors": []}
    runs = {mesh: Run(mesh) for mesh in MESHES}
    results["losses"] = {name: runs[name].train() for name in TRAINED}
    results["split"] = {name: run.split() for name, run in runs.items()}

    # From one mesh to every other.
    source = runs[BOTH].state
    managers = {
        form: checkpoints.CheckpointManager(
            folder / form, utils.SaveCheckpointConfig(), use_orbax=form == "orbax"
        )
        for form in ("orbax", "legacy")
    }
    for manager in managers.values():
        manager.save(source, {})
    results["continued"] = {"uninterrupted": runs["1x1"].train()}
    for form, manager in managers.items():
        for name, run in runs.items():
            restored, _ = manager.restore_latest(run.like, run.shardings)
            run.trainer.train_state = restored
            results["split"][f"{form}, {name}"] = run.split()
            if name not in TRAINED:
                run = runs["1x1"]
                run.trainer.train_state = jax.device_put(restored, run.shardings)
            results["continued"][f"{form}, {BOTH} to {name}"] = run.train()
        manager.close()

    for fail in (
        lambda: runs["8x1"].partitioner.put_batch(batch(0, size=12)),
        lambda: partitioning.PjitPartitioner(num_partitions=3),
    ):
        try:
            fail()
        except ConfigError as error:
            results["errors"].append(str(error))
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
