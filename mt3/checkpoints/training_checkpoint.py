"""What a checkpoint of a training run holds, whatever its form on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.checkpoints.layout import flatten
from mt3.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class TrainingCheckpoint:
    """What a checkpoint folder of a training run holds.

    Attributes:
      params: nested dict of float32 arrays.
      step: optimiser steps taken, None where it is not recorded.
      param_states: the optimiser's state as T5X has it. Adafactor's is the tree of
        `params`, each parameter a dict of `m`, `v`, `v_row`, `v_col` (unused ones are
        zeros of shape [1]); an Optax optimiser's is the dict of its tuple, by '0',
        '1' and so on. None unless asked for, empty where there is none.
      path: the folder that was read.
      dtypes: names of the types in which the parameters are stored.
    """

    params: dict[str, Any]
    step: int | None
    param_states: dict[str, Any] | None
    path: str
    dtypes: tuple[str, ...] = ()


def stored_types(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the types of a tree's arrays, sorted."""
    arrays = flatten(params).values()
    return tuple(sorted({np.asarray(value).dtype.name for value in arrays}))


def read_step(value: Any, source: Any) -> int | None:
    """Returns a stored step as an int, None where there is none.

    Raises:
      CheckpointError: it is no integer.
    """
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
        raise CheckpointError(
            f"{source}: step is {array.dtype}{array.shape}, expected one integer"
        )
    return int(array.reshape(()))
