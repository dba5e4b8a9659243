"""Orbax checkpoint folders: of T5X as it is today, and of the embedded engine.

`checkpoint_N/state` is an Orbax item: a tree of arrays in an OCDBT database (or a
zarr folder each), named by their dotted paths. T5X has the parameters under `target`
and the optimiser under `state`; the engine has them under `params`. Only what is asked
for is read, through TensorStore, so neither Orbax nor the classes that wrote the
checkpoint are needed.
"""

from __future__ import annotations

from pathlib import Path

from mt3.checkpoints import storage
from mt3.checkpoints.layout import to_float32, unflatten
from mt3.checkpoints.storage import Folder
from mt3.checkpoints.training_checkpoint import TrainingCheckpoint, read_step
from mt3.errors import CheckpointError

# Where Orbax keeps a tree: T5X and the engine, then Orbax's own default, then the
# folder itself.
STATE_ITEM = "state"
_ITEM_NAMES = (STATE_ITEM, "default", "params")
_ITEM_FILES = ("manifest.ocdbt", "_METADATA")
_PARAMETER_ROOTS = ("target", "params")
_STATE_ROOT = "state.param_states."
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
      with_state: read T5X's optimiser state as well.

    Returns:
      The checkpoint. Its parameters are not compared with a model.

    Raises:
      CheckpointError: it is no such folder, or arrays are damaged or missing;
        everything wrong is listed.
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
    prefixes = (root + ".",) + ((_STATE_ROOT,) if with_state else ())
    step_name = next((name for name in _STEP_NAMES if name in arrays), None)
    wanted = {
        name: spec
        for name, spec in arrays.items()
        if name.startswith(prefixes) or name == step_name
    }
    read = storage.read_arrays(wanted, source=item)
    step = read_step(read.pop(step_name, None), item)
    tree = unflatten(read, ".")
    states = tree.get("state", {}).get("param_states", {}) if with_state else None
    return TrainingCheckpoint(
        params=to_float32(tree[root]), step=step, param_states=states, path=str(folder)
    )
