"""What a checkpoint turned out to be, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt3.checkpoints import layout, released, storage
from mt3.configs import ModelConfig
from mt3.files import file_sha256

_FORMS = {
    "t5x": "T5X checkpoint (msgpack and zarr)",
    "orbax": "Orbax checkpoint",
    "safetensors": "safetensors file",
}
_ORIGINS = {
    "recorded": "recorded with it",
    "given": "given",
    "inferred": "worked out from its shapes",
}


def describe(info: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Returns what is known of a model, JSON values.

    Args:
      info: of a `LoadedModel`.
      config: of it.

    Returns:
      `info`, and: `size` (bytes of the file, or of all files of the folder,
      None behind a URL), `sha256` (of the file, else None), `same_settings` (released
      models with its sizes and settings), `config` (`ModelConfig.to_dict`).
    """
    path = info["source"]
    is_file = os.path.isfile(path)
    return {
        **info,
        "size": None if storage.is_url(path) else _size(Path(path)),
        "sha256": file_sha256(path) if is_file else None,
        "same_settings": released.same_settings(config),
        "config": config.to_dict(),
    }


def describe_lines(info: Mapping[str, Any], config: ModelConfig) -> list[str]:
    """Returns what is known of a model as three lines: what it is, settings, hash."""
    step = "" if info["step"] is None else f"step {info['step']}, "
    settings = ", ".join(_settings(config, source=info["source"]))
    same = released.same_settings(config)
    as_released = f" (as in the released {' and '.join(same)})" if same else ""
    return [
        f"{_FORMS[info['format']]}, {step}{info['num_parameters'] / 1e6:.1f} million "
        f"parameters, {' and '.join(info['dtypes'])}",
        f"settings {_ORIGINS[info['config_origin']]}{as_released}: {settings}",
        f"parameters' sha256 {info['parameters_sha256']}",
    ]


def _settings(config: ModelConfig, *, source: Any) -> list[str]:
    bins = config.vocabulary.num_velocity_bins
    seconds = config.input_samples / config.spectrogram.sample_rate
    sizes = layout.network_config(config, source=source)
    return [
        f"{bins} velocity bin{'' if bins == 1 else 's'}",
        "ties" if config.include_ties else "no ties",
        f"programs {config.program_granularity}",
        f"segments of {config.inputs_length} frames ({seconds:.3f} s)",
        f"{sizes.num_encoder_layers} and {sizes.num_decoder_layers} layers",
        f"{sizes.num_heads} heads of {sizes.head_dim}",
    ]


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
