"""The single-file form: safetensors that rebuild the model by themselves.

Tensors are named by the parameter's path (`decoder/layers_0/mlp/wi_0/kernel`). The
header's metadata, all text, holds

* `format`: "mt3", and `format_version`: "1";
* `model_config`: JSON of `ModelConfig.to_dict()`;
* `info`: JSON object of provenance: name, description, version, licence, training
  data, command, date, whatever the writer knows;
* `parameters_sha256`: a digest of names, types, shapes and bytes, so that a changed
  byte is found when the file is loaded.

`read_header` needs the standard library only: listing models does not load JAX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt3 import files
from mt3.checkpoints import layout
from mt3.checkpoints.storage import short_reason
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError, ConfigError, OutputError, near_misses

FORMAT = "mt3"
FORMAT_VERSION = 1
DTYPES = ("float32", "bfloat16", "float16")
# Ours have some 50 kB. The format allows 100 MB, which would be a GB of Python objects.
_MAX_HEADER_BYTES = 10_000_000


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
      config: JSON value of the model configuration.
      info: provenance.
      parameters_sha256: digest of the parameters.
      num_parameters: how many numbers the tensors hold.
      dtypes: storage types in use, such as ("BF16", "F32").
    """

    config: dict[str, Any]
    info: dict[str, Any]
    parameters_sha256: str
    num_parameters: int
    dtypes: tuple[str, ...]


def read_header(path: str | Path) -> Header:
    """Reads a file's header; the parameters are not touched.

    Raises:
      CheckpointError: it is no safetensors file, none of ours, of a newer format, or
        its metadata is damaged.
    """
    raw = _read_raw_header(Path(path))
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: metadata: expected a JSON object")
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of mt3's: its metadata says "
            f"format {metadata.get('format')!r}, expected {FORMAT!r}"
        )
    version = metadata.get("format_version", "")
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise CheckpointError(
            f"{path}: format version {version!r}; this program reads 1 to "
            f"{FORMAT_VERSION}. A newer mt3 may read it"
        )
    try:
        config = json.loads(metadata["model_config"])
        info = json.loads(metadata.get("info", "{}"))
        digest = metadata["parameters_sha256"]
        count = sum(int(math.prod(t["shape"])) for t in raw.values())
        dtypes = tuple(sorted({str(t["dtype"]) for t in raw.values()}))
    except KeyError as error:
        raise CheckpointError(f"{path}: metadata: {error} is missing") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: metadata: {error}") from error
    if not isinstance(config, dict) or not isinstance(info, dict):
        raise CheckpointError(
            f"{path}: metadata: model_config and info: expected JSON objects"
        )
    return Header(config, info, digest, count, dtypes)


def _read_raw_header(path: Path) -> dict[str, Any]:
    """Returns the header's JSON object."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= size <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or cut short")
            header = json.loads(file.read(size))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file")
    return header


def parameters_sha256(flat: Mapping[str, np.ndarray]) -> str:
    """Returns the digest of parameters: sorted names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(flat):
        value = np.ascontiguousarray(flat[name])
        digest.update(f"{name}\0{value.dtype.name}\0{value.shape}\0".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def save_safetensors(
    path: str | Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    *,
    info: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Writes parameters and all that is needed to use them into one file.

    The file appears complete or not at all.

    Args:
      path: the file; its name should end in `.safetensors`.
      params: nested dict of arrays, exactly those of the configuration's network.
      config: the model.
      info: provenance, JSON-able: name, description, version, licence,
        training_data, command, date.
      dtype: storage type of matrices: 'float32', 'bfloat16' or 'float16'. Norm scales
        are always float32: they are few, and every feature passes through them.
      overwrite: replace a file that is there.

    Returns:
      The path.

    Raises:
      CheckpointError: the parameters are not those of the configuration, or do not
        fit the storage type.
      OutputError: the file is there already or cannot be written.
      ConfigError: unknown storage type.
    """
    from safetensors.numpy import save

    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: is there already")
    layout.check_parameters(params, config, source=path)
    flat = {
        name: _stored(name, value, dtype)
        for name, value in layout.flatten(params).items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "model_config": json.dumps(config.to_dict(), sort_keys=True),
        "info": json.dumps(dict(info or {}), sort_keys=True),
        "parameters_sha256": parameters_sha256(flat),
    }
    with files.atomic_file(path) as file:
        file.write(save(flat, metadata=metadata))
        file.flush()
        os.fsync(file.fileno())
    return path


def _stored(name: str, value: Any, dtype: str) -> np.ndarray:
    """Returns a parameter in its storage type."""
    import ml_dtypes

    types = {
        "float32": np.float32,
        "bfloat16": ml_dtypes.bfloat16,
        "float16": np.float16,
    }
    if dtype not in types:
        raise ConfigError(
            f"safetensors: unknown storage type {dtype!r}.{near_misses(dtype, DTYPES)}"
        )
    value = np.asarray(value)
    with np.errstate(over="ignore"):  # checked below, with the name in the message
        stored = np.ascontiguousarray(
            value.astype(np.float32 if value.ndim < 2 else types[dtype])
        )
    if not np.isfinite(stored).all():
        raise CheckpointError(
            f"{name}: values up to {np.abs(value).max():g} do not fit {dtype}; "
            "bfloat16 has the range of float32"
        )
    return stored


def load_safetensors(path: str | Path) -> tuple[dict[str, Any], ModelConfig, Header]:
    """Reads a file of `save_safetensors` and checks all of it.

    Args:
      path: the file.

    Returns:
      (nested dict of float32 arrays, configuration, header).

    Raises:
      CheckpointError: the file is missing, damaged, none of ours, of a newer format,
        or does not hold the parameters that its own configuration asks for.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    header = read_header(path)
    try:
        config = ModelConfig.from_dict(header.config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        with safe_open(path, "numpy") as file:
            names = file.keys()
            flat = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged or cut short: {short_reason(error)}"
        ) from error
    params = layout.to_float32(layout.unflatten(flat))
    layout.check_parameters(params, config, source=path)
    digest = parameters_sha256(flat)
    if digest != header.parameters_sha256:
        raise CheckpointError(
            f"{path}: damaged: the parameters' sha256 is {digest}, but the file was "
            f"written with {header.parameters_sha256}"
        )
    return params, config, header
