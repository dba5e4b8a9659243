"""T5X checkpoints in the form of the released MT3 weights: msgpack and zarr.

A folder `checkpoint_N` holds the msgpack file `checkpoint` (Flax serialisation),
`{version, optimizer: {target, state: {step, param_states}}}`. A leaf of it is an
array, or says that the array lies beside the file: a TensorStore specification in a
dict, or the text `PLACEHOLDER://name`. The arrays are zarr folders named
`target.<dotted.name>` and `state.param_states.<dotted.name>`.

Only the folder's name is taken from a specification: checkpoints are copied between
disks and buckets, so the driver and path that were true when it was written no longer
need to be. What T5X writes today is another form: see `orbax_folder`. `save_t5x`
adds checksums, see `checksums`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt3.checkpoints import checksums, storage
from mt3.checkpoints.layout import flatten, to_float32, unflatten
from mt3.checkpoints.orbax_folder import load_orbax
from mt3.checkpoints.storage import ArraySpec, Folder
from mt3.checkpoints.training_checkpoint import (
    TrainingCheckpoint,
    read_step,
    stored_types,
)
from mt3.errors import CheckpointError, OutputError

INDEX_FILE = "checkpoint"
DATA_FILE = "data.json"
_PLACEHOLDER = "PLACEHOLDER://"
# T5X's number for the layout of the index.
_VERSION = 3
# Kept in the index whatever their size, as T5X does.
_INDEX_LEAVES = ("v_row", "v_col")


def is_t5x_folder(folder: Folder) -> bool:
    """Whether the folder has an index file of this form."""
    return folder.has(INDEX_FILE)


def load_t5x(
    path: str | Path | Folder, *, with_state: bool = False
) -> TrainingCheckpoint:
    """Reads a T5X checkpoint folder, either form.

    Args:
      path: the folder `checkpoint_N`, local or a URL such as `gs://...`.
      with_state: read the optimiser's state as well.

    Returns:
      The checkpoint. Its parameters are not compared with a model.

    Raises:
      CheckpointError: it is no such folder, or its index or arrays are damaged or
        missing, or not those of its checksums; everything wrong is listed.
    """
    folder = Folder.of(path)
    if not is_t5x_folder(folder):
        return load_orbax(folder, with_state=with_state)
    index = _read_index(folder)
    wanted = {"target": index["target"]}
    state = index.get("state", {})
    if isinstance(state, Mapping):
        step = {"step": state["step"]} if "step" in state else {}
        wanted["state"] = dict(state) if with_state else step
    try:
        flat, specs = _split_leaves(wanted, folder)
    except (TypeError, ValueError, OverflowError, RecursionError, OSError) as error:
        raise CheckpointError(f"{folder}/{INDEX_FILE}: damaged: {error}") from error
    flat |= storage.read_arrays(specs, source=folder)
    checksums.check_arrays(folder, flat, with_state=with_state)
    tree = unflatten(flat)
    if not isinstance(tree.get("target"), Mapping):
        raise CheckpointError(f"{folder}/{INDEX_FILE}: it names no parameters")
    states = tree.get("state", {}).get("param_states", {}) if with_state else None
    return TrainingCheckpoint(
        params=to_float32(tree["target"]),
        step=read_step(tree.get("state", {}).get("step"), folder),
        param_states=states,
        path=str(folder),
        dtypes=stored_types(tree["target"]),
    )


def _read_index(folder: Folder) -> dict[str, Any]:
    """Reads the msgpack file and returns the dict that has `target`."""
    from flax import serialization

    data = folder.read(INDEX_FILE)
    if data is None:
        raise CheckpointError(f"{folder}/{INDEX_FILE}: expected a file")
    try:
        index = serialization.msgpack_restore(data)
    except Exception as error:  # msgpack and Flax raise many types on damaged bytes.
        raise CheckpointError(
            f"{folder}/{INDEX_FILE}: not a T5X checkpoint index, or cut short or "
            f"damaged ({len(data)} bytes): {storage.short_reason(error)}"
        ) from error
    for key in ("optimizer", "train_state"):
        if isinstance(index, Mapping) and isinstance(index.get(key), Mapping):
            index = index[key]
    # Orbax's older form, an index without the T5X layers around it.
    if isinstance(index, Mapping) and "target" not in index and "params" in index:
        index = dict(index, target=index["params"])
    if not isinstance(index, Mapping) or not isinstance(index.get("target"), Mapping):
        found = ", ".join(map(str, index)) if isinstance(index, Mapping) else "no dict"
        raise CheckpointError(
            f"{folder}/{INDEX_FILE}: expected parameters under optimizer/target, "
            f"found: {found}"
        )
    return dict(index)


def _split_leaves(
    tree: Mapping[str, Any], folder: Folder
) -> tuple[dict[str, np.ndarray], dict[str, ArraySpec]]:
    """Separates leaves that are arrays from those that lie in folders."""
    arrays: dict[str, np.ndarray] = {}
    specs: dict[str, ArraySpec] = {}

    def base_name(path: Any) -> str:
        name = str(path).rstrip("/").rsplit("/", 1)[-1]
        if name in ("", ".", ".."):
            raise ValueError(f"array at {path!r}, expected a folder's name")
        return name

    def visit(name: str, node: Any) -> None:
        if isinstance(node, Mapping) and "driver" in node:
            kvstore = node.get("kvstore")
            path = kvstore.get("path") if isinstance(kvstore, Mapping) else None
            path = path or node.get("path") or name.replace("/", ".")
            metadata = node.get("metadata")
            shape = metadata.get("shape") if isinstance(metadata, Mapping) else None
            shape = None if shape is None else tuple(int(n) for n in shape)
            specs[name] = storage.array_in_folder(folder, base_name(path), shape=shape)
        elif isinstance(node, Mapping):
            for key, value in node.items():
                visit(f"{name}/{key}" if name else str(key), value)
        elif isinstance(node, str) and node.startswith(_PLACEHOLDER):
            place = base_name(node.removeprefix(_PLACEHOLDER))
            specs[name] = storage.array_in_folder(folder, place)
        elif node is not None:
            arrays[name] = np.asarray(node)
            if arrays[name].dtype.hasobject:
                raise ValueError(f"{name} is {type(node).__name__}, expected an array")

    visit("", tree)
    return arrays, specs


def save_t5x(
    folder: str | Path,
    params: Mapping[str, Any],
    *,
    step: int,
    optimizer_state: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    data_state: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint folder in the form of the released MT3 weights.

    The folder appears complete or not at all.

    Args:
      folder: what to make; T5X looks for `<model_dir>/checkpoint_<step>`. Local.
      params: nested dict of arrays.
      step: optimiser steps taken.
      optimizer_state: `TrainingCheckpoint.param_states`; without it T5X can evaluate
        and fine-tune from the checkpoint (restoring parameters only), not resume.
      dtype: type in which parameters are written, 'float32' or 'bfloat16'.
      data_state: position of the data source, JSON values; written as `data.json`,
        which T5X passes over.

    Returns:
      The folder.

    Raises:
      OutputError: the folder is there already, is a URL, or cannot be written.
    """
    if storage.is_url(folder):
        raise OutputError(f"{folder}: checkpoints are written to local folders only")
    folder = Path(folder).expanduser()
    if folder.exists():
        raise OutputError(
            f"{folder}: is there already; checkpoints are not overwritten"
        )
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent)
        )
        sums = _write_checkpoint(temporary, params, step, optimizer_state or {}, dtype)
        if data_state is not None:
            (temporary / DATA_FILE).write_text(json.dumps(data_state))
            sums[checksums.DATA] = checksums.of_data(data_state)
        text = json.dumps(checksums.to_json(sums))
        (temporary / checksums.FILE).write_text(text)
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except storage.STORE_ERRORS as error:
        raise OutputError(
            f"{folder}: cannot be written: {storage.short_reason(error)}"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_checkpoint(
    folder: Path,
    params: Mapping[str, Any],
    step: int,
    param_states: Mapping[str, Any],
    dtype: str,
) -> dict[str, str]:
    """Writes arrays, then the index that names them; returns checksums."""
    from flax import serialization
    from ml_dtypes import bfloat16

    param_type = bfloat16 if dtype == "bfloat16" else np.float32

    leaves: dict[str, Any] = {}
    sums: dict[str, str] = {}
    writing = []
    for name, value in flatten(
        {"state": {"param_states": param_states}, "target": params}
    ).items():
        array = np.asarray(value)
        if name.startswith("target/"):
            array = np.ascontiguousarray(array, param_type)
        sums[name] = checksums.of_array(array)
        small = array.shape in ((), (1,)) or name.rsplit("/", 1)[-1] in _INDEX_LEAVES
        if small and not name.startswith("target/"):
            leaves[name] = array
            continue
        place = name.replace("/", ".")
        writing.append(storage.write_array(folder, place, array))
        leaves[name] = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": place + "/"},
            "metadata": storage.array_metadata(array),
        }
    for future in writing:
        future.result()
    tree = unflatten(leaves)
    state = {
        "param_states": tree.get("state", {}).get("param_states", {}),
        "step": np.asarray(step, np.int32),
    }
    sums["state/step"] = checksums.of_array(state["step"])
    index = {
        "version": _VERSION,
        "optimizer": {"state": state, "target": tree.get("target", {})},
    }
    # In place keeps the order of the keys, which is T5X's.
    data = serialization.msgpack_serialize(index, in_place=True)
    (folder / INDEX_FILE).write_bytes(data)
    return sums
