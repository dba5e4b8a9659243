"""Weights for evaluation and inference: which checkpoints, and one of them.

Every form that `mt3.checkpoints` reads is accepted: folders of this engine and of T5X,
single files, URLs, names of the package's models. Only parameters and step are read.

Differences from T5X: with several folders of checkpoints all of them count, not the
first that has any.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from mt3 import checkpoints, frame_heads
from mt3.checkpoints import orbax_folder, storage, t5x
from mt3.checkpoints.sizes import STEP_FOLDER
from mt3.checkpoints.storage import Folder
from mt3.engine.checkpoints import check_same_tree
from mt3.engine.partitioning import PjitPartitioner, logical_axis_names
from mt3.engine.train_state import TrainState, shapes_of
from mt3.engine.utils import RestoreCheckpointConfig
from mt3.errors import CheckpointError

_LOG = logging.getLogger("mt3")


def checkpoint_paths(config: RestoreCheckpointConfig) -> list[str]:
    """Returns the checkpoints that a configuration means, in its order.

    Mode `specific` takes the paths as they are; `latest` the newest of each folder;
    `all` every complete one of each folder, rising in step.

    Raises:
      CheckpointError: no path is given, or a folder holds no checkpoint.
    """
    paths = [config.path] if isinstance(config.path, str) else list(config.path or ())
    paths = [str(path) for path in paths]
    if not paths or not all(paths):
        raise CheckpointError(
            "RestoreCheckpointConfig: no path; expected a checkpoint, for example "
            "--gin.CHECKPOINT_PATH=\"'runs/mt3/checkpoint_100000'\""
        )
    if config.mode == "specific":
        return paths
    if config.mode == "latest":
        return [str(checkpoints.find_checkpoint(_existing(path))) for path in paths]
    return [found for path in paths for found in _all_checkpoints(path)]


def _existing(path: str) -> Folder:
    folder = Folder.of(path)
    if not folder.children():
        raise CheckpointError(f"{path}: no such folder of checkpoints, or it is empty")
    return folder


def _all_checkpoints(path: str) -> list[str]:
    folder = _existing(path)
    steps = {
        int(match[1]): name
        for name in sorted(folder.children())
        if (match := STEP_FOLDER.fullmatch(name))
    }
    found = []
    for step in sorted(steps):
        candidate = folder / steps[step]
        if t5x.is_t5x_folder(candidate) or orbax_folder.find_item(candidate):
            found.append(str(candidate))
        else:
            _LOG.warning("%s: is no complete checkpoint; passed over", candidate)
    if not found:
        raise CheckpointError(
            f"{path}: mode 'all' needs a folder that holds checkpoint_N folders; "
            f"found {', '.join(sorted(folder.children())[:8])}"
        )
    return found


class WeightLoader:
    """Places a model's weights on the devices, from any form of checkpoint."""

    def __init__(
        self, model: Any, specs: Mapping[str, Any], partitioner: PjitPartitioner
    ):
        """Works out what parameters the model has, and where they go.

        Args:
          model: offers get_initial_variables.
          specs: a batch's features, as objects with shape and dtype.
          partitioner: the devices.
        """
        shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
        types = {name: spec.dtype for name, spec in specs.items()}

        def create(rng):
            variables = model.get_initial_variables(rng, shapes, types)
            variables = flax.core.unfreeze(variables)
            params = variables.pop("params")
            return TrainState(jnp.zeros((), jnp.int32), params, {}), variables

        (self.like, other), _ = shapes_of(create, jax.random.PRNGKey(0))
        self.shardings = partitioner.state_shardings(
            self.like, logical_axis_names(other)
        )

    def load(self, path: str, dtype: str | None = None) -> TrainState:
        """Reads a checkpoint's parameters and step.

        Args:
          path: a file, folder or URL.
          dtype: type of the parameters; None for the model's.

        Raises:
          CheckpointError: there is nothing, or it is damaged or belongs to another
            model.
        """
        params, step = _read(path)
        if frame_heads.HEADS not in self.like.params:
            # They are for reading notes without the decoder.
            params = {k: v for k, v in params.items() if k != frame_heads.HEADS}
        check_same_tree(path, params, self.like.params)
        flat = checkpoints.flatten(params)
        bad = [name for name in sorted(flat) if not np.isfinite(flat[name]).all()]
        if bad:
            more = f" and {len(bad) - 1} more" if bad[1:] else ""
            raise CheckpointError(
                f"{path}: values that are not finite in {bad[0]}{more}"
            )
        kind = None if dtype is None else jnp.dtype(dtype)

        def place(value, leaf, sharding):
            return jax.device_put(np.asarray(value, kind or leaf.dtype), sharding)

        params = jax.tree.map(place, params, self.like.params, self.shardings.params)
        _LOG.info("weights of %s, step %d", path, step)
        step = jax.device_put(np.int32(step), self.shardings.step)
        return TrainState(step, params, {})


def _read(path: str) -> tuple[Any, int]:
    """Returns (parameters, step) of a checkpoint of any kind; step 0 if unknown."""
    if not storage.is_url(path):
        if not os.path.exists(path):
            path = checkpoints.resolve(path)
        local = Folder.of(path)
        if not local.children():
            # A file, or nothing.
            loaded = checkpoints.load(path)
            return loaded.params, int(loaded.info.get("step") or 0)
    folder = checkpoints.find_checkpoint(path)
    reader = t5x.load_t5x if t5x.is_t5x_folder(folder) else orbax_folder.load_orbax
    read = reader(folder)
    return read.params, int(read.step or 0)
