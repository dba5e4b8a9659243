"""The parameter tree: its names and shapes, strict checks, sizes from shapes.

A tree is nested dicts; in messages, files and flat dicts a parameter's name is its
path joined by slashes, as in `decoder/layers_0/mlp/wi_0/kernel`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.checkpoints.storage import problem_list
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError, ConfigError, did_you_mean

Shapes = dict[str, tuple[int, ...]]


def flatten(tree: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Returns the leaves of nested dicts by their joined names, sorted."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Mapping[str, Any]) -> None:
        for key in sorted(node):
            name = prefix + key
            if isinstance(node[key], Mapping):
                visit(name + separator, node[key])
            else:
                flat[name] = node[key]

    visit("", tree)
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Returns nested dicts of leaves by joined names; undoes `flatten`.

    Raises:
      CheckpointError: a name is both a leaf and a branch.
    """
    tree: dict[str, Any] = {}
    for name in sorted(flat):
        *branches, leaf = name.split(separator)
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                raise CheckpointError(
                    f"parameters: {name!r} lies below another parameter"
                )
        node[leaf] = flat[name]
    return tree


def num_parameters(params: Mapping[str, Any]) -> int:
    """Returns how many numbers a tree of arrays holds."""
    return sum(int(np.size(value)) for value in flatten(params).values())


def network_config(config: ModelConfig, *, source: Any = "parameters") -> Any:
    """Returns the `network.T5Config` of a model; messages name `source`.

    Raises:
      CheckpointError: the network's fields are unknown or make no network.
    """
    from mt3 import network

    try:
        return network.T5Config.from_dict(config.network)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{source}: model configuration: network: {error}"
        ) from error


def expected_shapes(config: ModelConfig, *, source: Any = "parameters") -> Shapes:
    """Returns the name and shape of every parameter of a configuration's network.

    These are the shapes that `network.Transformer` initialises (a test compares
    them), and those of `frame_heads` where the network's fields have them; written
    out because tracing the network takes a second.

    Raises:
      CheckpointError: the network's fields are unknown or make no network.
    """
    from mt3 import frame_heads, harmonic_stem

    sizes = network_config(config, source=source)
    width = sizes.emb_dim
    joined = sizes.num_heads * sizes.head_dim
    activations = sizes.mlp_activations
    hidden_names = (
        ["wi"]
        if len(activations) == 1
        else [f"wi_{i}" for i in range(len(activations))]
    )
    shapes: Shapes = {}

    def add_attention(name: str) -> None:
        for projection in ("query", "key", "value"):
            shapes[f"{name}/{projection}/kernel"] = (width, joined)
        shapes[f"{name}/out/kernel"] = (joined, width)

    def add_mlp(layer: str) -> None:
        for hidden in hidden_names:
            shapes[f"{layer}/mlp/{hidden}/kernel"] = (width, sizes.mlp_dim)
        shapes[f"{layer}/mlp/wo/kernel"] = (sizes.mlp_dim, width)
        shapes[f"{layer}/pre_mlp_layer_norm/scale"] = (width,)

    if sizes.harmonic_channels:
        stem = harmonic_stem.parameter_shapes(
            width, sizes.harmonic_channels, sizes.note_channels, sizes.stem_blocks
        )
        for name, shape in stem.items():
            shapes[f"encoder/harmonic_stem/{name}"] = shape
    else:
        shapes["encoder/continuous_inputs_projection/kernel"] = (
            sizes.input_depth,
            width,
        )
    shapes["encoder/encoder_norm/scale"] = (width,)
    for i in range(sizes.num_encoder_layers):
        layer = f"encoder/layers_{i}"
        shapes[f"{layer}/pre_attention_layer_norm/scale"] = (width,)
        add_attention(f"{layer}/attention")
        add_mlp(layer)
    shapes["decoder/token_embedder/embedding"] = (sizes.vocab_size, width)
    shapes["decoder/decoder_norm/scale"] = (width,)
    if not sizes.logits_via_embedding:
        shapes["decoder/logits_dense/kernel"] = (width, sizes.vocab_size)
    for i in range(sizes.num_decoder_layers):
        layer = f"decoder/layers_{i}"
        shapes[f"{layer}/pre_self_attention_layer_norm/scale"] = (width,)
        add_attention(f"{layer}/self_attention")
        shapes[f"{layer}/pre_cross_attention_layer_norm/scale"] = (width,)
        add_attention(f"{layer}/encoder_decoder_attention")
        add_mlp(layer)
    if sizes.frame_heads:
        heads = frame_heads.head_shapes(width, sizes.note_channels)
        for name, shape in heads.items():
            shapes[f"{frame_heads.HEADS}/{name}"] = shape
    return shapes


def check_parameters(
    params: Mapping[str, Any], config: ModelConfig, *, source: Any = "parameters"
) -> None:
    """Checks that a tree is exactly the parameters of a configuration's network.

    Args:
      params: nested dict of floating-point arrays.
      config: the model.
      source: where the tree comes from, for messages.

    Raises:
      CheckpointError: parameters are missing, unexpected, of another shape or type,
        or hold values that are not finite. All are named: the first 20 of each
        kind, and how many more.
    """
    expected = expected_shapes(config, source=source)
    flat = flatten(params)
    problems: dict[str, list[str]] = {
        "missing": [
            f"missing: {name} {shape}"
            for name, shape in sorted(expected.items())
            if name not in flat
        ]
    }
    for name, value in flat.items():
        if name in expected:
            kind, text = _value_problem(np.asarray(value), expected[name])
        else:
            hint = did_you_mean(name, expected.keys() - flat.keys())
            kind, text = "unexpected", f"{np.shape(value)}.{hint}"
        if kind:
            problems.setdefault(kind, []).append(f"{kind}: {name} {text}")
    problems = {kind: texts for kind, texts in problems.items() if texts}
    if problems:
        counts = ", ".join(f"{len(texts)} {kind}" for kind, texts in problems.items())
        raise CheckpointError(
            f"{source}: not the {len(expected)} parameters that the model expects: "
            + counts
            + "".join(problem_list(texts) for texts in problems.values())
        )


def _value_problem(value: np.ndarray, shape: tuple[int, ...]) -> tuple[str, str]:
    """Returns the kind of what is wrong with a parameter and its text, or blanks."""
    if value.shape != shape:
        return "misshapen", f"is {value.shape}, expected {shape}"
    if not _is_floating(value):
        return "of another type", f"is {value.dtype}, expected floating point"
    finite = int(np.isfinite(value).sum())
    if finite < value.size:
        return (
            "not finite",
            f"has {value.size - finite} NaN or infinite values of {value.size}",
        )
    return "", ""


def _is_floating(value: np.ndarray) -> bool:
    # bfloat16 is no NumPy type, so `np.floating` does not cover it.
    return np.issubdtype(value.dtype, np.floating) or value.dtype.name == "bfloat16"


def to_float32(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree with floating-point leaves as float32 NumPy arrays.

    Leaves that are float32 already are not copied; others than floating point are
    left for `check_parameters` to name.
    """
    flat = {}
    for name, value in flatten(params).items():
        value = np.asarray(value)
        flat[name] = (
            value.astype(np.float32, copy=False) if _is_floating(value) else value
        )
    return unflatten(flat)


def count_layers(flat: Mapping[str, Any], stack: str) -> int:
    """Returns one more than the highest `layers_N` below `stack`, 0 if none."""
    pattern = re.compile(rf"{stack}/layers_(\d+)/")
    numbers = [int(m.group(1)) for name in flat if (m := pattern.match(name))]
    return max(numbers, default=-1) + 1
