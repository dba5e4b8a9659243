"""Writing one run's checkpoints, in today's T5X form or in the released weights'.

Both writers have the same methods, and both write under a temporary name that they
change when all is on disk. In the background what fails is told by the next call.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mt3.checkpoints import save_t5x

PREFIX = "checkpoint"
STATE_ITEM = "state"
DATA_ITEM = "data"
# The data position in the form without items.
DATA_FILE = "data.json"
_NAME = re.compile(rf"{PREFIX}_(\d+)")
# One of these is in a complete checkpoint: Orbax's mark, an older Orbax's, T5X's index.
_MARKS = ("_CHECKPOINT_METADATA", f"{STATE_ITEM}/_METADATA", "checkpoint")


def checkpoint_steps(model_dir: str | Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, ascending."""
    folder = Path(model_dir)
    steps = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and any((path / mark).exists() for mark in _MARKS):
            steps.append(int(match[1]))
    return sorted(steps)


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
    """Orbax folders: item `state` with T5X's tree, item `data` with JSON."""

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
            item_names=(STATE_ITEM, DATA_ITEM),
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
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(tree),
                data=ocp.args.JsonSave(dict(data_state)),
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
    """Folders in the form of the released weights, with the data position beside."""

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
            files={DATA_FILE: json.dumps(data_state).encode()},
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
