"""A finished run's weights as one file."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt3 import checkpoints as model_checkpoints
from mt3 import frame_heads
from mt3.beyond import starts
from mt3.engine import checkpoints
from mt3.errors import CheckpointError

_LOG = logging.getLogger("mt3")


def export(
    model_dir: str | Path,
    path: str | Path,
    *,
    step: int | None = None,
    info: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Writes the parameters of a checkpoint as a safetensors file.

    Parameters that the network does not have (training aids) are left out, but for
    what decoding can use: `frame_heads`.

    Args:
      model_dir: the run's folder, with `model.json`.
      path: the file to write.
      step: which checkpoint; None for the newest.
      info: provenance and licence, JSON-able; `step` is added, and for a file with
        heads that notes are read from them (`decode`), unless it says otherwise.
      dtype: storage type of matrices, 'float32', 'bfloat16' or 'float16'.
      overwrite: replace a file that is there.

    Returns:
      The path of the file.

    Raises:
      CheckpointError: no checkpoint, or not of the model in `model.json`.
      OutputError: the file is there already or cannot be written.
    """
    config = checkpoints.read_model_config(model_dir)
    folder = checkpoints.checkpoint_path(model_dir, step)
    saved = model_checkpoints.load_orbax(folder)
    found = dict(saved.params)
    heads = starts.trained_heads(found, config)
    if heads:
        network = {**config.network, "frame_heads": True}
        config = dataclasses.replace(config, network=network)
        found[frame_heads.HEADS] = heads
        info = {"decode": "frames", "grammar": True, **(info or {})}
    expected = model_checkpoints.expected_shapes(config)
    known = {name.split("/")[0] for name in expected}
    left_out = sorted(found.keys() - known)
    if left_out:
        _LOG.info("export: left out %s", ", ".join(left_out))
    params = {name: found[name] for name in found.keys() & known}
    if not params:
        raise CheckpointError(
            f"{folder}: none of {sorted(known)} among the parameters; found "
            f"{sorted(saved.params)}"
        )
    # Dropout is a matter of training.
    network = {**config.network, "dropout_rate": 0.0}
    return model_checkpoints.save_safetensors(
        path,
        params,
        dataclasses.replace(config, network=network),
        info={**(info or {}), "step": saved.step},
        dtype=dtype,
        overwrite=overwrite,
    )
