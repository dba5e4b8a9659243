"""Checkpoints of a training run, in T5X's two forms.

Layout, below the run's `model_dir`:

    checkpoint_<step>/state     Orbax tree {'target', 'state': {'step', 'param_states'}}
    checkpoint_<step>/data      JSON: the data source's position and the run's seed
    checkpoint_<step>/checksums JSON: of all arrays, and of `data`
    model.json                  sizes, vocabulary, spectrogram (ModelConfig)
    config.gin                  the run's configuration

T5X writes the same today, without `data` and `checksums`. With `use_orbax=False` a
checkpoint is a folder in the form of the released weights (msgpack and zarr, see
`mt3.checkpoints.t5x`), with the position in its file `data.json` and the checksums in
`checksums.json`. Both forms are restored, whether T5X or this engine wrote them, and so
are the Orbax trees of early versions of this engine ('params', 'opt_state' and 'step').

A checkpoint is written under a temporary name and renamed when complete, so that
one cut off in the middle is never taken for a valid one.

Differences from T5X's module:

1. The data position is always saved, as a few numbers.
2. A complete checkpoint that cannot be read, or is not what its checksums say, is put
   aside, and the one before it taken.
3. Arrays are read whole on the host and then placed, so one machine's memory must hold
   the state once; any mesh may have written them.
4. A checkpoint without any optimiser state starts a new one at step 0.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mt3 import files, frame_heads
from mt3.checkpoints import (
    TrainingCheckpoint,
    checksums,
    find_checkpoint,
    flatten,
    load,
    load_t5x,
    save_t5x,
    unflatten,
)
from mt3.checkpoints.storage import Folder, is_url
from mt3.checkpoints.t5x import DATA_FILE
from mt3.configs import ModelConfig
from mt3.engine.train_state import TrainState
from mt3.engine.utils import RestoreCheckpointConfig, SaveCheckpointConfig
from mt3.errors import CheckpointError, ConfigError

PREFIX = "checkpoint"
STATE_ITEM = "state"
DATA_ITEM = "data"
_NAME = re.compile(rf"{PREFIX}_(\d+)")
# One of these is in a complete checkpoint: Orbax's mark, an older Orbax's, T5X's index.
_MARKS = ("_CHECKPOINT_METADATA", f"{STATE_ITEM}/_METADATA", "checkpoint")
_LISTED = 8
_LOG = logging.getLogger("mt3")


def checkpoint_steps(model_dir: str | Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, ascending."""
    folder = Path(model_dir)
    steps = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and any((path / mark).exists() for mark in _MARKS):
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
            f"{', '.join(f'{PREFIX}_{found}' for found in steps) or 'none'}"
        )
    return Path(model_dir) / f"{PREFIX}_{step}"


class CheckpointManager:
    """Writes, lists and restores the checkpoints of one run."""

    def __init__(
        self,
        model_dir: str | Path,
        config: SaveCheckpointConfig,
        *,
        use_orbax: bool = True,
    ):
        """Opens (or makes) the folder.

        Args:
          model_dir: folder of the run.
          config: how many to keep, which type, in the background or not.
          use_orbax: write the form that T5X writes today; False for the form of the
            released weights.

        Raises:
          CheckpointError: the folder cannot be made or read.
        """
        self._folder = Path(model_dir).absolute()
        self._config = config
        self._use_orbax = use_orbax
        self._saving: int | None = None
        self._writer = self._open()

    def _open(self) -> Writer:
        kind = OrbaxWriter if self._use_orbax else LegacyWriter
        try:
            return kind(
                self._folder,
                keep=self._config.keep,
                dtype=self._config.dtype,
                asynchronous=self._config.asynchronous,
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._folder}: cannot be used for checkpoints: {error}"
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending."""
        return checkpoint_steps(self._folder)

    def save(self, state: TrainState, data_state: Mapping[str, Any]) -> None:
        """Saves the state; does nothing where this step is saved already.

        Args:
          state: after `state.step` updates.
          data_state: position of the data source after the same updates.

        Raises:
          CheckpointError: writing failed, now or, in the background, the last time.
        """
        step = int(state.step)
        if step == self._saving or step in self.steps():
            return
        self.wait()
        self._saving = step
        try:
            self._writer.save(step, state.state_dict(), data_state)
        except Exception as error:  # Orbax and TensorStore raise many types
            raise self._failed(error) from error
        fields = {"stage": "save", "step": step}
        _LOG.info("saving %s_%d", PREFIX, step, extra=fields)

    def restore_latest(
        self, like: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest checkpoint that can be read.

        Newer ones that cannot be read, though they are complete by their marks, are put
        aside as `damaged_checkpoint_<step>`.

        Args:
          like: shapes and types of the state.
          shardings: where each leaf goes.

        Returns:
          (state, data position), or None when there is no checkpoint.

        Raises:
          CheckpointError: none of them can be read, or the newest one that can belongs
            to another model.
        """
        self.wait()
        damaged: dict[Path, CheckpointError] = {}
        result = None
        for step in reversed(self.steps()):
            path = self._folder / f"{PREFIX}_{step}"
            try:
                saved, position = _read(path)
            except CheckpointError as error:
                damaged[path] = error
                continue
            result = _place(saved, like, shardings), position
            break
        there = {path: error for path, error in damaged.items() if path.exists()}
        if there and result is None:
            raise CheckpointError(
                f"{self._folder}: no checkpoint can be read, so the run would begin at "
                f"its start; move them away if it is to. "
                + "; ".join(map(str, there.values()))
            )
        for path, error in damaged.items():
            _put_aside(path, error)
        if damaged:
            # Orbax has listed the folder before.
            self._writer.close()
            self._writer = self._open()
        return result

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: writing failed.
        """
        try:
            self._writer.wait()
        except Exception as error:  # Orbax and TensorStore raise many types
            raise self._failed(error) from error
        self._saving = None

    def close(self) -> None:
        """Waits until everything is on disk, and ends background threads.

        Raises:
          CheckpointError: writing failed.
        """
        try:
            self.wait()
        finally:
            self._writer.close()

    def _failed(self, error: Exception) -> CheckpointError:
        step, self._saving = self._saving, None
        return CheckpointError(
            f"{self._folder}: saving {PREFIX}_{step} failed: "
            f"{' '.join(str(error).split()) or type(error).__name__}. When that is put "
            "right, start the run again: it goes on at the last complete checkpoint"
        )


def _put_aside(path: Path, error: CheckpointError) -> None:
    """Renames a checkpoint that cannot be read, and says so."""
    aside = _free_name(path.with_name(f"damaged_{path.name}"))
    try:
        path.rename(aside)
        _LOG.warning("%s; put aside as %s", error, aside.name)
    except FileNotFoundError:
        _LOG.warning("%s was removed while it was read", path)
    except OSError as problem:
        raise CheckpointError(
            f"{error}; it cannot be put aside: {problem.strerror}"
        ) from error


def _free_name(path: Path) -> Path:
    """Returns the path, with a number where something is there already."""
    number, result = 1, path
    while result.exists():
        number += 1
        result = path.with_name(f"{path.name}.{number}")
    return result


def restore(
    path: str | Path, like: TrainState, shardings: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Restores one checkpoint folder, of this engine or of T5X, either form.

    Args:
      path: `<model_dir>/checkpoint_<step>`.
      like: shapes and types of the state.
      shardings: where each leaf goes.

    Returns:
      (state, data position; empty where T5X wrote the checkpoint).

    Raises:
      CheckpointError: it cannot be read, or parameters or optimiser state have other
        names or shapes.
    """
    saved, position = _read(Path(path).absolute())
    return _place(saved, like, shardings), position


def _read(path: Path) -> tuple[TrainingCheckpoint, dict[str, Any]]:
    saved = load_t5x(path, with_state=True)
    if saved.step is None:
        raise CheckpointError(f"{path}: the number of steps is not recorded")
    return saved, read_data_state(path)


def _place(
    saved: TrainingCheckpoint, like: TrainState, shardings: TrainState
) -> TrainState:
    """Checks names and shapes, and puts the arrays on the devices."""
    tree = {
        "target": saved.params,
        "state": {"step": saved.step, "param_states": saved.param_states},
    }
    wanted = like.state_dict()
    check_same_tree(saved.path, tree, wanted)
    found = flatten(tree)
    places = flatten(shardings.state_dict())
    placed = {
        name: jax.device_put(jnp.asarray(found[name], leaf.dtype), places[name])
        for name, leaf in flatten(wanted).items()
    }
    return like.restore_state(unflatten(placed))


def restore_for_finetuning(
    config: RestoreCheckpointConfig,
    like: TrainState,
    shardings: TrainState,
    optimizer_def: Any,
) -> tuple[TrainState, dict[str, Any] | None]:
    """Starts from another run's checkpoint or from weights of any form.

    A checkpoint of this engine or of T5X is restored whole, its step and optimiser
    state too. Of weights without an optimiser state, and with `strict = False` of
    those with another optimiser's, the parameters are read, and the optimiser starts
    anew at step 0.

    Args:
      config: where from.
      like: shapes and types of the state.
      shardings: where each leaf goes.
      optimizer_def: makes a new optimiser state.

    Returns:
      (state, data position; None unless `config.restore_dataset`).

    Raises:
      CheckpointError: there is nothing, or it belongs to another model.
    """
    path = config.path
    if isinstance(path, list | tuple) and len(path) == 1:
        path = path[0]
    if not isinstance(path, str):
        raise CheckpointError(
            f"RestoreCheckpointConfig: path is {config.path!r}; training starts from "
            "one path"
        )
    saved, position = _read_start(path)
    states = None if saved is None or saved.step is None else saved.param_states
    wanted = like.state_dict()
    if states:
        same = _shapes(states).keys() == _shapes(wanted["state"]["param_states"]).keys()
        if same or config.strict:
            state = _place(saved, like, shardings)
            _LOG.info("starting from %s, step %d", saved.path, int(state.step))
            return state, position.get("source") if config.restore_dataset else None
    params = dict(load(path).params if saved is None else saved.params)
    if frame_heads.HEADS not in wanted["target"]:
        params.pop(frame_heads.HEADS, None)
    check_same_tree(path, {"target": params}, {"target": wanted["target"]})
    found, places = flatten(params), flatten(shardings.state_dict()["target"])
    params = unflatten(
        {
            name: jax.device_put(jnp.asarray(found[name], leaf.dtype), places[name])
            for name, leaf in flatten(wanted["target"]).items()
        }
    )
    create = jax.jit(
        lambda params: TrainState.create(params, optimizer_def),
        out_shardings=shardings,
    )
    _LOG.info("starting from the weights in %s, step 0", path)
    return create(params), None


def _read_start(path: str) -> tuple[TrainingCheckpoint | None, dict[str, Any]]:
    """Returns what a training checkpoint holds; None for a file of weights."""
    # A URL must not pass through Path, which takes two slashes for one.
    if not is_url(path) and not Path(path).expanduser().is_dir():
        return None, {}
    folder = find_checkpoint(path)
    return load_t5x(folder, with_state=True), read_data_state(folder)


def check_same_tree(source: Any, saved: Any, wanted: Any) -> None:
    """Compares the names and shapes of two trees.

    Raises:
      CheckpointError: they differ; the message lists the first differences.
    """
    saved, wanted = _shapes(saved), _shapes(wanted)
    problems = [f"missing {name}" for name in sorted(wanted.keys() - saved.keys())]
    problems += [f"unexpected {name}" for name in sorted(saved.keys() - wanted.keys())]
    problems += [
        f"{name} is {saved[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & saved.keys())
        if saved[name] != wanted[name]
    ]
    if not problems:
        return
    shown = "; ".join(problems[:_LISTED])
    if len(problems) > _LISTED:
        shown += f"; and {len(problems) - _LISTED} more"
    only_optimizer = all("param_states/" in problem for problem in problems)
    what = "optimiser" if only_optimizer else "model"
    hint = (
        ". RestoreCheckpointConfig.strict = False takes the parameters alone"
        if only_optimizer
        else ""
    )
    raise CheckpointError(
        f"{source}: the checkpoint belongs to another {what}: {shown}{hint}"
    )


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(np.shape(leaf)) for name, leaf in flatten(tree).items()}


def read_data_state(path: str | Path | Folder) -> dict[str, Any]:
    """Reads the data position that a checkpoint folder holds; {} if there is none.

    Raises:
      CheckpointError: it is damaged.
    """
    folder = Folder.of(path)
    # Orbax's name of the file of a JSON item.
    text = (folder / DATA_ITEM).read("metadata")
    text = folder.read(DATA_FILE) if text is None else text
    try:
        position = {} if text is None else dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: data position: {error}") from error
    checksums.check_data(folder, position)
    return position


def write_model_config(model_dir: str | Path, config: ModelConfig) -> None:
    """Writes `model.json`, from which a checkpoint's model can be rebuilt."""
    text = json.dumps(config.to_dict(), indent=1) + "\n"
    files.write_text(Path(model_dir) / "model.json", text)


def read_model_config(model_dir: str | Path) -> ModelConfig:
    """Reads `model.json`.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    path = Path(model_dir) / "model.json"
    data = Folder.of(model_dir).read(path.name)
    if data is None:
        raise CheckpointError(f"{path}: missing; expected the run's model settings")
    try:
        return ModelConfig.from_json(data)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


class Writer(Protocol):
    """Writes `checkpoint_<step>` folders into one folder."""

    def save(
        self, step: int, tree: Mapping[str, Any], data_state: Mapping[str, Any]
    ) -> None:
        """Begins to write T5X's tree and the data position."""

    def wait(self) -> None:
        """Waits until everything is on disk; raises what failed."""

    def close(self) -> None:
        """Ends the background threads, whatever failed."""


class OrbaxWriter:
    """Orbax folders: item `state` with T5X's tree, `data` and `checksums` with JSON."""

    def __init__(
        self, folder: Path, *, keep: int | None, dtype: str | None, asynchronous: bool
    ):
        """Makes the folder.

        Args:
          folder: where `checkpoint_<step>` folders go, absolute.
          keep: newest checkpoints kept; None for all.
          dtype: 'bfloat16' to write parameters in it.
          asynchronous: write in the background.
        """
        self._dtype = dtype
        # Orbax can clean up as well, and stumbles over folders inside of folders.
        _remove(folder.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"))
        self._manager = ocp.CheckpointManager(
            folder,
            item_names=(STATE_ITEM, DATA_ITEM, checksums.ITEM),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                step_prefix=PREFIX,
                enable_async_checkpointing=asynchronous,
            ),
        )

    def save(
        self, step: int, tree: Mapping[str, Any], data_state: Mapping[str, Any]
    ) -> None:
        """Begins to write T5X's tree and the data position."""
        if self._dtype == "bfloat16":
            tree = {**tree, "target": _to_bfloat16(tree["target"])}
        sums = checksums.of_tree(tree) | {checksums.DATA: checksums.of_data(data_state)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(tree),
                data=ocp.args.JsonSave(dict(data_state)),
                checksums=ocp.args.JsonSave(checksums.to_json(sums)),
            ),
            force=True,
        )

    def wait(self) -> None:
        """Waits until everything is on disk; raises what failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the background threads, whatever failed."""
        self._manager.close()


class LegacyWriter:
    """Folders in the form of the released weights, with the data position in a file."""

    def __init__(
        self, folder: Path, *, keep: int | None, dtype: str | None, asynchronous: bool
    ):
        """As `OrbaxWriter`."""
        self._folder = folder
        self._keep = keep
        self._dtype = dtype or "float32"
        self._asynchronous = asynchronous
        # One thread, so that checkpoints are written in their order.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder.glob(f".{PREFIX}_*.tmp-*"))

    def save(
        self, step: int, tree: Mapping[str, Any], data_state: Mapping[str, Any]
    ) -> None:
        """Begins to write T5X's tree and the data position."""
        self.wait()
        # The next step overwrites the arrays on the devices.
        tree = jax.tree.map(np.asarray, jax.device_get(dict(tree)))
        self._pending = self._executor.submit(self._write, step, tree, dict(data_state))
        if not self._asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk; raises what failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Ends the background thread, whatever failed."""
        self._executor.shutdown(wait=True)

    def _write(self, step: int, tree: dict[str, Any], data_state: dict[str, Any]):
        save_t5x(
            self._folder / f"{PREFIX}_{step}",
            tree["target"],
            step=step,
            optimizer_state=tree["state"]["param_states"],
            dtype=self._dtype,
            data_state=data_state,
        )
        if self._keep is not None:
            for old in checkpoint_steps(self._folder)[: -self._keep]:
                shutil.rmtree(self._folder / f"{PREFIX}_{old}")


def _remove(folders: Iterable[Path]) -> None:
    """Removes what writers left that were killed."""
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)


def _to_bfloat16(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.bfloat16)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        tree,
    )
