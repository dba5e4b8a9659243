"""Checksums of what a training checkpoint holds, written with it, checked on reading.

Orbax's files of values have none, nor has the msgpack index of T5X's other form: a
changed byte in them would be a wrong weight. So a checkpoint that mt3 writes has one
more file, in Orbax's form the JSON item `checksums` (the file `checksums/metadata`),
else `checksums.json`; T5X passes over both:

    {"crc32": {"target/decoder/...": "0a1b2c3d", ..., "data": "4e5f6071"}}

Each array has the CRC-32 of its type, shape and values, as they were in memory; `data`
is the data position. CRC-32 finds every error that is confined to 32 bits in a row, and
misses one in 4 billion others. It guards against damage, not against forgery, and takes
about a fifth of SHA-256's time. The hash by which a model is known,
`parameters_sha256`, is another matter.

Checkpoints without the file, of T5X or of earlier versions, are read unchecked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.checkpoints.layout import flatten
from mt3.checkpoints.storage import Folder, problem_list
from mt3.errors import CheckpointError

ITEM = "checksums"
FILE = "checksums.json"
DATA = "data"
_KIND = "crc32"
_OPTIMIZER = "state/param_states/"


def of_array(value: Any) -> str:
    """Returns the CRC-32 of an array's type, shape and values, 8 hexadecimal digits."""
    array = np.ascontiguousarray(value)
    start = zlib.crc32(f"{array.dtype.name}{np.shape(value)}".encode())
    return f"{zlib.crc32(array.reshape(-1).view(np.uint8), start):08x}"


def of_data(value: Mapping[str, Any]) -> str:
    """Returns the CRC-32 of a data position, however JSON spells it."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def of_tree(tree: Mapping[str, Any]) -> dict[str, str]:
    """Returns the checksum of every array of nested dicts, by its joined name."""
    return {name: of_array(leaf) for name, leaf in flatten(tree).items()}


def to_json(sums: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the file of checksums says."""
    return {_KIND: dict(sums)}


def read(folder: Folder) -> dict[str, str] | None:
    """Returns the checksums that a checkpoint folder holds, None if there are none.

    Raises:
      CheckpointError: the file is damaged or cannot be read.
    """
    text = (folder / ITEM).read("metadata")
    text = folder.read(FILE) if text is None else text
    if text is None:
        return None
    try:
        sums = json.loads(text)[_KIND]
        return {str(name): str(value) for name, value in sums.items()}
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{folder}: the file of checksums is damaged: {error!r}"
        ) from error


def check_arrays(
    folder: Folder, arrays: Mapping[str, Any], *, with_state: bool
) -> None:
    """Compares arrays with the checksums in a folder; does nothing if it has none.

    Args:
      folder: the checkpoint.
      arrays: by joined name, of the stored types.
      with_state: whether the optimiser's state is among them.

    Raises:
      CheckpointError: arrays differ from what was written, are missing, or were not
        written with the others; all of them are listed.
    """
    sums = read(folder)
    if sums is None:
        return
    problems = []
    for name, value in arrays.items():
        found = of_array(value)
        if found != sums.get(name):
            problems.append(
                f"{name}: checksum {found}, written with {sums.get(name, 'none')}"
            )
    problems += [
        f"{name}: missing"
        for name in sums.keys() - arrays.keys() - {DATA}
        if with_state or not name.startswith(_OPTIMIZER)
    ]
    if problems:
        raise CheckpointError(
            f"{folder}: damaged: {len(problems)} of {len(sums)} checksums do not fit:"
            + problem_list(sorted(problems))
        )


def check_data(folder: Folder, value: Mapping[str, Any]) -> None:
    """Compares a data position with its checksum; does nothing if there is none.

    Raises:
      CheckpointError: it is not what was written.
    """
    written = (read(folder) or {}).get(DATA)
    found = of_data(value)
    if written not in (None, found):
        raise CheckpointError(
            f"{folder}: data position: damaged: checksum {found}, written with "
            f"{written}"
        )
