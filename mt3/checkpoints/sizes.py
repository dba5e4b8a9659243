"""The model's configuration where a checkpoint does not record it.

Sizes follow from the shapes of the parameters. Attention heads do not: query, key and
value kernels are stored with heads and head features joined. They are looked for in
the `config.gin` that T5X writes beside its checkpoints; else they are assumed, with a
warning that says so. What the tokens mean (ties, program granularity, segment length)
is taken from the released model with the same number of embedding rows.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3 import configs
from mt3.checkpoints import layout
from mt3.checkpoints.storage import Folder
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError, ConfigError
from mt3.spectrograms import SpectrogramConfig

logger = logging.getLogger(__name__)

STEP_FOLDER = re.compile(r"(?:checkpoint_)?(\d+)")
MODEL_FILE = "model.json"
GIN_FILE = "config.gin"

# Head size of T5 1.1, and of every released MT3 model.
_USUAL_HEAD_DIM = 64
# Embedding rows -> what the tokens mean.
_RELEASED = {1536: configs.MT3, 1664: configs.ISMIR2021}
# (encoder layers, decoder layers, emb_dim, joined heads, mlp_dim) of the released
# models, whose heads are known to be of 64.
_RELEASED_SIZES = {(8, 8, 512, 384, 1024), (12, 12, 768, 768, 2048)}


def recorded_config(folder: Folder) -> ModelConfig | None:
    """Returns the configuration in `model.json` in or above a folder, None if none.

    Raises:
      CheckpointError: there is one and it is damaged.
    """
    places = [folder, folder / "state"]
    if STEP_FOLDER.fullmatch(folder.name):
        places.append(folder.parent)  # the training run's folder
    for place in places:
        data = place.read(MODEL_FILE)
        if data is not None:
            try:
                return ModelConfig.from_json(data)
            except ConfigError as error:
                raise CheckpointError(f"{place}/{MODEL_FILE}: {error}") from error
    return None


def infer_config(
    params: Mapping[str, Any],
    *,
    folder: Folder | None = None,
    num_heads: int | None = None,
    source: Any = "parameters",
) -> ModelConfig:
    """Works out a configuration from the shapes of parameters.

    Args:
      params: nested dict of arrays.
      folder: the checkpoint's folder; `config.gin` is looked for in it and above it.
      num_heads: attention heads, where known.
      source: how messages name the checkpoint.

    Returns:
      The configuration. Parameters that do not fit together are left for
      `layout.check_parameters` to list.

    Raises:
      CheckpointError: the parameters that tell the sizes are missing, the embedding
        rows are none of a released model's, or the heads do not divide their joined
        size.
    """
    flat = layout.flatten(params)

    def shape(name: str) -> tuple[int, ...]:
        if np.ndim(flat.get(name)) != 2:
            found = np.shape(flat[name]) if name in flat else "nothing"
            raise CheckpointError(
                f"{source}: not an MT3 model: expected a matrix {name}, found {found} "
                f"(the tree has {len(flat)} parameters)"
            )
        return np.shape(flat[name])

    rows, emb_dim = shape("decoder/token_embedder/embedding")
    joined = shape("encoder/layers_0/attention/query/kernel")[1]
    mlp_dim = shape("encoder/layers_0/mlp/wo/kernel")[0]
    input_depth = shape("encoder/continuous_inputs_projection/kernel")[0]
    layers = [layout.count_layers(flat, stack) for stack in ("encoder", "decoder")]
    if rows not in _RELEASED:
        raise CheckpointError(
            f"{source}: the vocabulary has {rows} rows, expected 1536 (1 velocity bin) "
            "or 1664 (127); pass the model's configuration for any other"
        )
    known = (*layers, emb_dim, joined, mlp_dim) in _RELEASED_SIZES
    num_heads = _find_heads(joined, num_heads, folder, known=known, source=source)
    base = _RELEASED[rows]
    return dataclasses.replace(
        base,
        network={
            "vocab_size": rows,
            "emb_dim": emb_dim,
            "num_heads": num_heads,
            "num_encoder_layers": layers[0],
            "num_decoder_layers": layers[1],
            "head_dim": joined // num_heads,
            "mlp_dim": mlp_dim,
            "logits_via_embedding": "decoder/logits_dense/kernel" not in flat,
            "input_depth": input_depth,
        },
        spectrogram=SpectrogramConfig(num_mel_bins=input_depth),
    )


def _find_heads(
    joined: int,
    num_heads: int | None,
    folder: Folder | None,
    *,
    known: bool,
    source: Any,
) -> int:
    """Returns the number of heads: given, recorded in gin, or assumed."""
    origin = "num_heads was given as"
    if num_heads is None and folder is not None:
        num_heads, origin = _heads_in_gin(joined, folder)
    if num_heads is not None:
        if num_heads < 1 or joined % num_heads:
            raise CheckpointError(
                f"{source}: {origin} {num_heads}, but the heads' joined size "
                f"{joined} is not divisible by it"
            )
        return num_heads
    if joined % _USUAL_HEAD_DIM == 0:
        num_heads = joined // _USUAL_HEAD_DIM
    else:
        num_heads = 2 if joined % 2 == 0 else 1
    logger.log(
        logging.INFO if known else logging.WARNING,
        "%s: the checkpoint does not record its attention heads; assuming %d of %d "
        "features. Another number gives wrong notes without an error: set it with "
        "num_heads=N or --num-heads N",
        source,
        num_heads,
        joined // num_heads,
    )
    return num_heads


def _heads_in_gin(joined: int, folder: Folder) -> tuple[int | None, str]:
    """Reads heads from the `config.gin` in or above a folder; (None, "") if none."""
    for place in (folder, folder.parent):
        data = place.read(GIN_FILE)
        if data is None:
            continue
        text = data.decode("utf-8", "replace")
        num_heads = _gin_integer(text, "num_heads")
        head_dim = _gin_integer(text, "head_dim")
        if num_heads is None and head_dim and joined % head_dim == 0:
            num_heads = joined // head_dim
        if num_heads is not None:
            return num_heads, f"{place}/{GIN_FILE} says num_heads ="
        logger.info("%s/%s: tells no number of heads", place, GIN_FILE)
    return None, ""


def _gin_integer(text: str, name: str) -> int | None:
    """Returns the integer that gin binds to a parameter, through macros.

    None where there is no such binding or where bindings contradict each other.
    """
    values = set()
    for value in re.findall(
        rf"^[ \t]*(?:[\w./]+\.)?{name}[ \t]*=[ \t\\\n]*([%\w.]+)", text, re.MULTILINE
    ):
        for _ in range(8):  # macros may name macros; a circle ends here
            if not value.startswith("%"):
                break
            macro = re.escape(value[1:].split(".")[-1])
            found = re.search(
                rf"^[ \t]*(?:[\w./]+\.)?{macro}[ \t]*=[ \t\\\n]*([%\w.]+)"
                rf"|^[ \t]*{macro}/macro\.value[ \t]*=[ \t]*([%\w.]+)",
                text,
                re.MULTILINE,
            )
            if not found:
                break
            value = found.group(1) or found.group(2)
        if value.isdigit():
            values.add(int(value))
    return values.pop() if len(values) == 1 else None
