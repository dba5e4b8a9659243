"""Orbax checkpoint folders: of T5X as it is today, and of the embedded engine.

`checkpoint_N/state` is an Orbax item: a tree of arrays in an OCDBT database (or a
zarr folder each), named by their dotted paths. The parameters are under `target` and
the optimiser under `state`; the engine's first version had them under `params` and
`opt_state`. Only what is asked for is read, through TensorStore, so neither Orbax nor
the classes that wrote the checkpoint are needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mt3.checkpoints import checksums, storage
from mt3.checkpoints.layout import flatten, to_float32, unflatten
from mt3.checkpoints.storage import Folder
from mt3.checkpoints.training_checkpoint import (
    TrainingCheckpoint,
    read_step,
    stored_types,
)
from mt3.errors import CheckpointError

# Where Orbax keeps a tree: T5X and the engine, then Orbax's own default, then the
# folder itself.
STATE_ITEM = "state"
_ITEM_NAMES = (STATE_ITEM, "default", "params")
_ITEM_FILES = ("manifest.ocdbt", "_METADATA")
_PARAMETER_ROOTS = ("target", "params")
_STATE_ROOTS = ("state.param_states.", "opt_state.")
_STEP_NAMES = ("state.step", "step")


def find_item(folder: Folder) -> Folder | None:
    """Returns the Orbax item in or at a folder, None if there is none."""
    names = folder.children()
    if names.intersection(_ITEM_FILES):
        return folder
    for name in _ITEM_NAMES:
        if name in names and (folder / name).children().intersection(_ITEM_FILES):
            return folder / name
    return None


def load_orbax(
    path: str | Path | Folder, *, with_state: bool = False
) -> TrainingCheckpoint:
    """Reads an Orbax checkpoint folder.

    Args:
      path: the folder `checkpoint_N` or the item in it, local or a URL.
      with_state: read the optimiser's state as well.

    Returns:
      The checkpoint. Its parameters are not compared with a model.

    Raises:
      CheckpointError: it is no such folder, or arrays are damaged, missing or not
        those of its checksums; everything wrong is listed.
    """
    folder = Folder.of(path)
    item = find_item(folder)
    if item is None:
        raise CheckpointError(
            f"{folder}: expected an Orbax checkpoint (a folder with `state/_METADATA`)"
        )
    arrays = storage.list_arrays(item)
    if not arrays:
        raise CheckpointError(
            f"{item}: no arrays found; the database's manifest is missing or empty"
        )
    root = next(
        (r for r in _PARAMETER_ROOTS if any(n.startswith(r + ".") for n in arrays)),
        None,
    )
    if root is None:
        found = ", ".join(sorted({name.split(".")[0] for name in arrays}))
        raise CheckpointError(
            f"{item}: expected parameters under {' or '.join(_PARAMETER_ROOTS)}, "
            f"found: {found}"
        )
    prefixes = (root + ".",) + (_STATE_ROOTS if with_state else ())
    step_name = next((name for name in _STEP_NAMES if name in arrays), None)
    wanted = {
        name: spec
        for name, spec in arrays.items()
        if name.startswith(prefixes) or name == step_name
    }
    read = storage.read_arrays(wanted, source=item)
    inside = item == folder and folder.name == STATE_ITEM
    checksums.check_arrays(
        folder.parent if inside else folder,
        {name.replace(".", "/"): value for name, value in read.items()},
        with_state=with_state,
    )
    step = read_step(read.pop(step_name, None), item)
    tree = unflatten(read, ".")
    states = None
    if with_state:
        states = tree.get("state", {}).get("param_states")
        if states is None:
            states = _per_parameter(tree.get("opt_state", {}))
    return TrainingCheckpoint(
        params=to_float32(tree[root]),
        step=step,
        param_states=states,
        path=str(folder),
        dtypes=stored_types(tree[root]),
    )


def _per_parameter(opt_state: dict[str, Any]) -> dict[str, Any]:
    """Returns the optimiser's state of the engine's first layout as T5X has it.

    It was the tuple of an Optax chain, which T5X keeps like that; only Adafactor's
    arrays are sorted by parameter in T5X, and have a momentum even if it is unused.
    """
    parts = [part for part in opt_state.values() if isinstance(part, dict)]
    moments = next((part for part in parts if "v_row" in part), None)
    if moments is None:
        return opt_state
    momentum = next((part["ema"] for part in parts if "ema" in part), None)
    flat = {}
    for field in ("v", "v_col", "v_row"):
        for name, value in flatten(moments[field]).items():
            flat[f"{name}/{field}"] = value
    if momentum is None:
        momentum = _unused(moments["v"])
    for name, value in flatten(momentum).items():
        flat[f"{name}/m"] = value
    return unflatten(flat)


def _unused(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree with T5X's sign for an unused array, zeros of shape [1]."""
    return unflatten({name: np.zeros((1,), np.float32) for name in flatten(tree)})
