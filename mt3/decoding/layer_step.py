"""One decoding step of the decoder, laid out for the speed of few rows.

Activations are columns: [features, rows], and matrices are stored as [out, in], so
that a product is `matrix @ activations`. On CPUs this is 2 to 3 times faster than rows
times [in, out] with the 4 to 32 rows that decoding has: libraries of matrix products
copy their right operand into blocks first, which is cheap for a few columns and takes
longer than the product itself for a matrix. Products that read the same activations
are one product of joined matrices.

Keys are [segments, heads, head_dim, length] and values [segments, heads, length,
head_dim]: the products of attention then run along memory (3 times faster at length
512). Each layer has matrices and caches of its own: a `lax.scan` over stacked ones
copies every layer's out of the stack at every step (3 times slower).

The numbers are those of `network.Decoder` without dropout, up to rounding (the tests
compare them).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import layers
from mt3.network import MAX_POSITIONS, T5Config

Array = jax.Array

_NORM_EPSILON = layers.LayerNorm.epsilon


class LayerWeights(NamedTuple):
    """Parameters of one decoder layer; matrices [out, in] in the computation type."""

    self_norm: Array  # [E]
    self_qkv: Array  # [3 * H * D, E]
    self_out: Array  # [E, H * D]
    cross_norm: Array  # [E]
    cross_query: Array  # [H * D, E]
    cross_key: Array  # [H * D, E]
    cross_value: Array  # [H * D, E]
    cross_out: Array  # [E, H * D]
    mlp_norm: Array  # [E]
    mlp_in: Array  # [branches * M, E]
    mlp_out: Array  # [E, M]


class DecoderWeights(NamedTuple):
    """Parameters of the decoder."""

    embedding: Array  # [V, E], in the computation type
    positions: Array  # float32 [L, E]
    layers: tuple[LayerWeights, ...]
    norm: Array  # [E]
    logits: Array  # float32 [V, E]


def arrange(
    params: Mapping[str, Any], config: T5Config, max_length: int
) -> DecoderWeights:
    """Arranges the parameters of a decoder.

    Args:
      params: nested dict as in T5X checkpoints, the tree of `decoder`.
      config: sizes of the network.
      max_length: most tokens of a segment.
    """
    embedding = params["token_embedder"]["embedding"]
    if config.logits_via_embedding:
        logits = embedding
    else:
        logits = jnp.asarray(params["logits_dense"]["kernel"]).T
    return DecoderWeights(
        embedding=jnp.asarray(embedding, config.dtype),
        # An argument, since a constant of 4 MB would be stored in every program.
        positions=jnp.asarray(
            layers.sinusoidal_table(MAX_POSITIONS, config.emb_dim)[:max_length]
        ),
        layers=tuple(
            _arrange_layer(params[f"layers_{i}"], config)
            for i in range(config.num_decoder_layers)
        ),
        norm=jnp.asarray(params["decoder_norm"]["scale"], config.dtype),
        logits=jnp.asarray(logits, jnp.float32),
    )


def _arrange_layer(layer: Mapping[str, Any], config: T5Config) -> LayerWeights:
    """Arranges the tree of `layers_0` and so on."""
    own, cross, mlp = (
        layer["self_attention"],
        layer["encoder_decoder_attention"],
        layer["mlp"],
    )
    names = [f"wi_{i}" for i in range(len(config.mlp_activations))]
    if len(names) == 1:
        names = ["wi"]

    def norm(name: str) -> Array:
        return jnp.asarray(layer[f"pre_{name}_layer_norm"]["scale"], config.dtype)

    def matrix(*parts: Mapping[str, Any]) -> Array:
        kernels = [jnp.asarray(part["kernel"], config.dtype).T for part in parts]
        return jnp.concatenate(kernels, axis=0)

    return LayerWeights(
        self_norm=norm("self_attention"),
        self_qkv=matrix(own["query"], own["key"], own["value"]),
        self_out=matrix(own["out"]),
        cross_norm=norm("cross_attention"),
        cross_query=matrix(cross["query"]),
        cross_key=matrix(cross["key"]),
        cross_value=matrix(cross["value"]),
        cross_out=matrix(cross["out"]),
        mlp_norm=norm("mlp"),
        mlp_in=matrix(*(mlp[name] for name in names)),
        mlp_out=matrix(mlp["wo"]),
    )


def embed(weights: DecoderWeights, tokens: Array, position: Array) -> Array:
    """Returns what enters the first layer, [E, R], of tokens and positions int [R]."""
    y = jnp.take(weights.embedding, tokens, axis=0)
    y = y + jnp.take(weights.positions, position, axis=0).astype(y.dtype)
    return jnp.transpose(y)


def to_logits(config: T5Config, weights: DecoderWeights, y: Array) -> Array:
    """Returns float32 logits [R, V] of what the last layer gives, [E, R]."""
    y = _normalize(y, weights.norm, config.dtype)
    logits = _standing(weights.logits @ y.astype(jnp.float32))
    if config.logits_via_embedding:
        logits = logits / np.float32(np.sqrt(config.emb_dim))
    return jnp.transpose(logits)


def project_cross(
    config: T5Config, weights: LayerWeights, encoded: Array
) -> tuple[Array, Array]:
    """Returns a layer's keys and values of the encoder's output.

    They do not depend on the tokens: one computation per segment.

    Args:
      config: sizes of the network.
      weights: of the layer.
      encoded: [B, T, E].

    Returns:
      Keys [B, H, D, T] and values [B, H, T, D].
    """
    batch, length, _ = encoded.shape
    heads, depth = config.num_heads, config.head_dim
    encoded = encoded.astype(config.dtype)
    key = jnp.einsum("bte,oe->bto", encoded, weights.cross_key)
    value = jnp.einsum("bte,oe->bto", encoded, weights.cross_value)
    value = value.reshape(batch, length, heads, depth)
    key = key.reshape(batch, length, heads, depth)
    return jnp.transpose(key, (0, 2, 3, 1)), jnp.transpose(value, (0, 2, 1, 3))


def update_cache(
    cache_k: Array, cache_v: Array, key: Array, value: Array, index: Array
) -> tuple[Array, Array]:
    """Writes one position of each row into its caches.

    Args:
      cache_k: [R, H, D, C].
      cache_v: [R, H, C, D].
      key: [R, H, D].
      value: [R, H, D].
      index: int [R], the position; a row whose position is C or more is not written.

    Returns:
      The new caches.
    """
    rows = jnp.arange(index.shape[0])
    options = {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}
    cache_k = cache_k.at[rows, :, :, index].set(key.astype(cache_k.dtype), **options)
    cache_v = cache_v.at[rows, :, index].set(value.astype(cache_v.dtype), **options)
    return cache_k, cache_v


def _normalize(y: Array, scale: Array, dtype: Any) -> Array:
    """Divides columns [E, R] by their root mean square, and scales by [E]."""
    y = y.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(y), axis=0, keepdims=True)
    y = (y * jax.lax.rsqrt(mean_square + _NORM_EPSILON)).astype(dtype)
    return y * scale.astype(dtype)[:, None]


def layer_step(
    config: T5Config,
    weights: LayerWeights,
    y: Array,
    cross_k: Array,
    cross_v: Array,
    cache_k: Array,
    cache_v: Array,
    index: Array,
) -> tuple[Array, Array, Array]:
    """Runs a decoder layer on one new position per row, without dropout.

    S segments may have N rows (hypotheses) each, rows of a segment side by side.

    Args:
      config: sizes of the network.
      weights: from `arrange`.
      y: the position's input, [E, R] with R = S * N.
      cross_k: keys of the encoder's output, [S, H, D, T].
      cross_v: values of the encoder's output, [S, H, T, D].
      cache_k: self-attention keys, [R, H, D, C]; entries beyond `index` are ignored,
        so they may hold anything finite.
      cache_v: self-attention values, [R, H, C, D].
      index: int [R], the position of each row, below C.

    Returns:
      The output [E, R] and the caches with the position written in.
    """
    dtype = config.dtype
    x = _normalize(y, weights.self_norm, dtype)
    query, key, value = jnp.split(weights.self_qkv @ x, 3, axis=0)
    cache_k, cache_v = update_cache(
        cache_k, cache_v, _rows(key, config), _rows(value, config), index
    )
    visible = jnp.arange(cache_k.shape[-1])[None, :] <= index[:, None]
    mixed = _attend(config, query, cache_k, cache_v, visible[:, None, None, :])
    y = y + weights.self_out @ mixed
    x = _normalize(y, weights.cross_norm, dtype)
    mixed = _attend(config, weights.cross_query @ x, cross_k, cross_v)
    y = y + weights.cross_out @ mixed
    x = _normalize(y, weights.mlp_norm, dtype)
    branches = jnp.split(weights.mlp_in @ x, len(config.mlp_activations), axis=0)
    gates = [
        layers.activation(name)(branch)
        for name, branch in zip(config.mlp_activations, branches, strict=True)
    ]
    y = y + weights.mlp_out @ functools.reduce(jnp.multiply, gates)
    return y, cache_k, cache_v


def _rows(columns: Array, config: T5Config) -> Array:
    """Returns [R, H, D] of columns [H * D, R]."""
    shape = (columns.shape[1], config.num_heads, config.head_dim)
    return jnp.transpose(columns).reshape(shape)


def _standing(columns: Array) -> Array:
    """Returns columns that the compiler must make before it transposes them.

    It would otherwise draw the transposition into the product, which is then one of
    rows again.
    """
    return jax.lax.optimization_barrier(columns)


def _attend(
    config: T5Config, query: Array, key: Array, value: Array, mask: Array | None = None
) -> Array:
    """Attends from columns [H * D, R] to keys [S, H, D, K] and values [S, H, K, D]."""
    entries = key.shape[0]
    rows = _rows(_standing(query), config).reshape(
        entries, -1, config.num_heads, config.head_dim
    )
    logits = jnp.einsum(
        "bnhd,bhdk->bhnk", rows, key, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask, logits, layers.MASKED_LOGIT)
    attention = jax.nn.softmax(logits, axis=-1).astype(config.dtype)
    mixed = jnp.einsum("bhnk,bhkd->bnhd", attention, value)
    return _standing(jnp.transpose(mixed.reshape(query.shape[1], query.shape[0])))
