"""Checkpoints of a training run, through Orbax.

Layout, below the run's `model_dir`:

    checkpoint_<step>/state     Orbax tree {'params', 'opt_state', 'step'}
    checkpoint_<step>/data      JSON: the data source's position
    model.json                  sizes, vocabulary, spectrogram (ModelConfig)
    config.gin                  the run's configuration

A checkpoint is written under a temporary name and renamed when complete, so that
one cut off in the middle is never taken for a valid one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mt3.configs import ModelConfig
from mt3.engine.train_state import TrainState
from mt3.engine.utils import RestoreCheckpointConfig, SaveCheckpointConfig
from mt3.errors import CheckpointError

_PREFIX = "checkpoint"
_NAME = re.compile(rf"{_PREFIX}_(\d+)")
_LOG = logging.getLogger("mt3")


def checkpoint_steps(model_dir: str | Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, ascending."""
    folder = Path(model_dir)
    steps = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / "_CHECKPOINT_METADATA").exists():
            steps.append(int(match[1]))
    return sorted(steps)


def checkpoint_path(model_dir: str | Path, step: int | None = None) -> Path:
    """Returns the folder of a checkpoint; the newest one's if no step is given.

    Raises:
      CheckpointError: there is none.
    """
    steps = checkpoint_steps(model_dir)
    if step is None and steps:
        step = steps[-1]
    if step not in steps:
        wanted = "any complete checkpoint" if step is None else f"step {step}"
        raise CheckpointError(
            f"{model_dir}: looked for {wanted}; found "
            f"{', '.join(f'{_PREFIX}_{found}' for found in steps) or 'none'}"
        )
    return Path(model_dir) / f"{_PREFIX}_{step}"


class CheckpointManager:
    """Writes, lists and restores the checkpoints of one run."""

    def __init__(self, model_dir: str | Path, config: SaveCheckpointConfig):
        """Opens (or makes) the folder.

        Args:
          model_dir: folder of the run.
          config: how many to keep, which type, in the background or not.
        """
        self._folder = Path(model_dir).absolute()
        self._config = config
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder,
            item_names=("state", "data"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._config.keep,
                step_prefix=_PREFIX,
                enable_async_checkpointing=self._config.asynchronous,
            ),
        )

    def steps(self) -> list[int]:
        """Returns the steps with a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data_state: Mapping[str, Any]) -> None:
        """Saves the state; does nothing where this step is saved already.

        Args:
          state: after `state.step` updates.
          data_state: position of the data source after the same updates.

        Raises:
          CheckpointError: writing failed.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        tree = state.as_dict()
        if self._config.dtype == "bfloat16":
            tree["params"] = _cast(tree["params"], jnp.bfloat16)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree),
                    data=ocp.args.JsonSave(dict(data_state)),
                ),
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._folder}: saving step {step} failed: {error}"
            ) from error
        _LOG.info("saving %s_%d", _PREFIX, step)

    def restore_latest(
        self, like: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest checkpoint that can be read.

        One that cannot be read, though it is complete by its marks, is put aside
        as `damaged_checkpoint_<step>` and the next older one is tried.

        Args:
          like: shapes and types of the state.
          shardings: where each leaf goes.

        Returns:
          (state, data position), or None when there is no checkpoint.

        Raises:
          CheckpointError: the newest checkpoint is of another model.
        """
        for step in reversed(self.steps()):
            path = self._folder / f"{_PREFIX}_{step}"
            try:
                return restore(path, like, shardings)
            except CheckpointError:
                raise
            except Exception as error:  # whatever a damaged file brings about
                aside = path.with_name(f"damaged_{path.name}")
                _LOG.warning(
                    "%s cannot be read (%s: %s); put aside as %s",
                    path,
                    type(error).__name__,
                    error,
                    aside.name,
                )
                path.rename(aside)
        self._manager.close()
        self._manager = self._open()
        return None

    def wait(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and ends background threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        ),
        tree,
    )


def restore(
    path: str | Path, like: TrainState, shardings: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Restores one checkpoint folder.

    Args:
      path: `<model_dir>/checkpoint_<step>`.
      like: shapes and types of the state.
      shardings: where each leaf goes.

    Returns:
      (state, data position).

    Raises:
      CheckpointError: parameters or optimiser state are of other names or shapes.
    """
    path = Path(path).absolute()
    if not (path / "state").is_dir():
        raise CheckpointError(
            f"{path}: no folder 'state' in it; expected a checkpoint of this engine"
        )
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        like.as_dict(),
        shardings.as_dict(),
    )
    handler = ocp.StandardCheckpointHandler()
    _check_same_tree(path, handler.metadata(path / "state"), target)
    tree = handler.restore(path / "state", args=ocp.args.StandardRestore(target))
    return TrainState.from_dict(tree), read_data_state(path)


def restore_for_finetuning(
    config: RestoreCheckpointConfig,
    like: TrainState,
    shardings: TrainState,
    optimizer_def: Any,
) -> tuple[TrainState, dict[str, Any] | None]:
    """Starts from another run's checkpoint or from weights of any form.

    A checkpoint of this engine is restored whole, its step and optimiser state
    too. Of other forms the parameters are read, and the optimiser starts anew at
    step 0.

    Args:
      config: where from.
      like: shapes and types of the state.
      shardings: where each leaf goes.
      optimizer_def: makes a new optimiser state.

    Returns:
      (state, data position; None unless `config.restore_dataset`).

    Raises:
      CheckpointError: nothing there, or of another model.
    """
    if not isinstance(config.path, str):
        raise CheckpointError(
            f"RestoreCheckpointConfig: path is {config.path!r}; training starts from "
            "one path"
        )
    path = Path(config.path)
    if config.mode == "latest" and path.is_dir() and not (path / "state").is_dir():
        path = checkpoint_path(path)
    if (path / "state").is_dir() and (path / "data").is_dir():
        state, position = restore(path, like, shardings)
        _LOG.info("starting from %s, step %d", path, int(state.step))
        return state, position.get("source") if config.restore_dataset else None
    # The readers of other forms are of no use to a run that starts from scratch.
    from mt3.checkpoints import load

    # A URL must not pass through Path, which takes two slashes for one.
    source = config.path if "://" in config.path else str(path)
    params = load(source).params
    found, wanted = _shapes(params), _shapes(like.params)
    if found != wanted:
        different = sorted(
            name
            for name in found.keys() | wanted.keys()
            if found.get(name) != wanted.get(name)
        )
        raise CheckpointError(
            f"{source}: the weights are of another model; these differ: "
            f"{', '.join(different[:8])}"
        )
    params = jax.tree.map(
        lambda value, leaf, place: jax.device_put(
            jnp.asarray(value, leaf.dtype), place
        ),
        params,
        like.params,
        shardings.params,
    )
    create = jax.jit(
        lambda params: TrainState.create(params, optimizer_def),
        out_shardings=shardings,
    )
    _LOG.info("starting from the weights in %s, step 0", path)
    return create(params), None


def _check_same_tree(path: Path, metadata: Any, target: Any) -> None:
    """Compares names and shapes, for an error that a reader can act on."""
    metadata = getattr(metadata, "item_metadata", metadata)
    if metadata is None:
        raise OSError(f"{path}: the list of saved arrays cannot be read")
    saved = _shapes(metadata)
    wanted = _shapes(target)
    problems = [f"missing {name}" for name in sorted(wanted.keys() - saved.keys())]
    problems += [f"unexpected {name}" for name in sorted(saved.keys() - wanted.keys())]
    problems += [
        f"{name} is {saved[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & saved.keys())
        if saved[name] != wanted[name]
    ]
    if problems:
        shown = "; ".join(problems[:8])
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(
            f"{path}: the checkpoint is of another model or optimiser: {shown}{more}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(getattr(tree, "tree", tree))
    result = {}
    for path, leaf in leaves:
        if not hasattr(leaf, "shape"):
            continue
        keys = (
            getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))
            for key in path
        )
        result["/".join(str(key) for key in keys)] = tuple(leaf.shape)
    return result


def read_data_state(path: Path) -> dict[str, Any]:
    """Reads the data position that a checkpoint folder holds."""
    return ocp.JsonCheckpointHandler().restore(path / "data")


def write_model_config(model_dir: str | Path, config: ModelConfig) -> None:
    """Writes `model.json`, from which a checkpoint's model can be rebuilt."""
    text = json.dumps(config.to_dict(), indent=1) + "\n"
    (Path(model_dir) / "model.json").write_text(text, encoding="utf-8")


def read_model_config(model_dir: str | Path) -> ModelConfig:
    """Reads `model.json`.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(model_dir) / "model.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected the run's model settings")
    return ModelConfig.from_json(path.read_text(encoding="utf-8"))
