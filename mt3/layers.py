"""T5 layers: dense, embedding, RMS norm, gated MLP, attention, masks, positions.

These are the layers of T5 1.1 without relative positions (Raffel et al. 2020;
Shazeer 2020 for the gated MLP), with the parameter names, the 2-D kernels and the
logical axis names that T5X checkpoints and T5X partitioners know. Nothing here has
a bias.

Logical axes (for partitioning rules): `vocab`, `embed`, `mlp`, `joined_kv` on
parameters; `batch`, `length`, `heads`, `kv`, `mlp` on activations. Outside an
`axis_rules` context they have no effect.

Differences from T5X's layers:

1. Attention logits and the softmax are always float32, whatever `dtype` is (T5X has
   an option for it, off by default). In float32 the results are equal.
2. There is no Flax cache collection. Decoding step by step is in `decoding.columns`,
   which passes keys and values in and out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint

from mt3.errors import ConfigError, ShapeError, near_misses

Array = jax.Array
Initializer = Callable[..., Array]

# What a masked attention logit becomes. Finite, so that a row with nothing to attend
# to (a padded target) gives uniform weights and no NaN.
MASKED_LOGIT = -1e10

_dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=True),
    "linear": lambda x: x,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": nn.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Returns the activation function of that name.

    Args:
      name: `gelu` (tanh approximation, as in T5 1.1), `linear`, `relu`, `sigmoid`,
        `silu`, `swish` or `tanh`.

    Raises:
      ConfigError: there is no such activation.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"mlp_activations: {name!r} is not an activation."
            + near_misses(str(name), _ACTIVATIONS)
        )
    return _ACTIVATIONS[name]


@functools.lru_cache(maxsize=4)
def sinusoidal_table(
    num_positions: int, features: int, max_scale: float = 10000.0
) -> np.ndarray:
    """Returns the fixed position embedding of T5-style MT3 models.

    The first half of the features are sines, the second half cosines, of
    `position / s` with `s` from 1 to `max_scale` in `features // 2` geometric steps
    (exponents divided by `features // 2 - 1`, so that both ends are reached).

    Args:
      num_positions: rows of the table.
      features: columns, at least 4. With an odd number the last column is 0.
      max_scale: the largest divisor of a position.

    Returns:
      float32 [num_positions, features], read-only.

    Raises:
      ConfigError: fewer than 4 features.
    """
    half = features // 2
    if half < 2:
        raise ConfigError(f"sinusoidal_table: {features} features, expected at least 4")
    scales = np.exp(np.arange(half) * (-math.log(max_scale) / (half - 1)))
    angles = np.arange(num_positions)[:, np.newaxis] * scales[np.newaxis, :]
    table = np.zeros((num_positions, features), np.float32)
    table[:, :half] = np.sin(angles)
    table[:, half : 2 * half] = np.cos(angles)
    table.setflags(write=False)
    return table


def make_attention_mask(
    query_input: Array,
    key_input: Array,
    pairwise_fn: Callable[[Array, Array], Array] = jnp.multiply,
) -> Array:
    """Returns who may attend to whom, from one value per query and per key.

    Args:
      query_input: [B, Q], for example `tokens > 0`, or segment ids.
      key_input: [B, K].
      pairwise_fn: combines a query's value with a key's value; not 0 means allowed
        (`jnp.equal` for segment ids).

    Returns:
      bool [B, 1, Q, K], true where attention is allowed.
    """
    mask = pairwise_fn(query_input[:, :, np.newaxis], key_input[:, np.newaxis, :])
    return mask.astype(bool)[:, np.newaxis, :, :]


def make_causal_mask(tokens: Array) -> Array:
    """Returns a mask by which each position sees itself and what came before.

    Args:
      tokens: [B, L]; only the shape matters.

    Returns:
      bool [B, 1, L, L].
    """
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length)[np.newaxis, :], (batch, length))
    return make_attention_mask(positions, positions, jnp.greater_equal)


def combine_masks(*masks: Array | None) -> Array | None:
    """Returns the logical "and" of masks of equal rank; `None` allows everything."""
    present = [mask.astype(bool) for mask in masks if mask is not None]
    return functools.reduce(jnp.logical_and, present) if present else None


def make_decoder_mask(
    decoder_target_tokens: Array, decoder_segment_ids: Array | None = None
) -> Array:
    """Returns the decoder's self-attention mask: causal, without padding.

    Args:
      decoder_target_tokens: int [B, L], 0 is padding.
      decoder_segment_ids: int [B, L] for packed examples (0 is padding): a position
        sees its own segment only.

    Returns:
      bool [B, 1, L, L].
    """
    real = decoder_target_tokens > 0
    segments = None
    if decoder_segment_ids is not None:
        segments = make_attention_mask(
            decoder_segment_ids, decoder_segment_ids, jnp.equal
        )
    return combine_masks(
        make_causal_mask(decoder_target_tokens),
        make_attention_mask(real, real),
        segments,
    )


class DenseGeneral(nn.Module):
    """A linear map of the last axes, without bias, whose kernel is stored 2-D.

    Attributes:
      features: sizes of the output axes, one or several.
      axis: how many of the last input axes are contracted.
      dtype: what inputs and kernel are cast to before the product.
      kernel_init: initialiser of the 2-D kernel.
      kernel_axes: the logical names of the kernel's two axes.
    """

    features: int | tuple[int, ...]
    axis: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer = _dense_init
    kernel_axes: tuple[str, str] = ("embed", "mlp")

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps [..., *in] to [..., *features]."""
        features = self.features
        features = (features,) if isinstance(features, int) else tuple(features)
        batch_shape = inputs.shape[: inputs.ndim - self.axis]
        depth = math.prod(inputs.shape[inputs.ndim - self.axis :])
        kernel = param_with_axes(
            "kernel",
            self.kernel_init,
            (depth, math.prod(features)),
            jnp.float32,
            axes=self.kernel_axes,
        )
        flat = jnp.asarray(inputs, self.dtype).reshape(*batch_shape, depth)
        return (flat @ jnp.asarray(kernel, self.dtype)).reshape(*batch_shape, *features)


class Embed(nn.Module):
    """Token embedding, normal with standard deviation 1 at the start.

    Attributes:
      num_embeddings: rows.
      features: columns.
      dtype: type of what is returned.
    """

    num_embeddings: int
    features: int
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        self.embedding = param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (self.num_embeddings, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, tokens: Array) -> Array:
        """Looks up tokens, int [B, L] -> [B, L, features].

        Raises:
          ShapeError: the tokens are not integers.
        """
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ShapeError(
                f"token embedding: tokens of type {tokens.dtype}, expected integers"
            )
        output = jnp.take(jnp.asarray(self.embedding, self.dtype), tokens, axis=0)
        return with_sharding_constraint(output, ("batch", "length", "embed"))

    def attend(self, query: Array) -> Array:
        """Returns float32 products with every row: [..., features] -> [..., rows]."""
        return jnp.asarray(query, jnp.float32) @ self.embedding.T


class LayerNorm(nn.Module):
    """Division by the root mean square over features, computed in float32, and a scale.

    No mean is subtracted and there is no bias (Zhang and Sennrich 2019).

    Attributes:
      epsilon: added to the mean square.
      dtype: type of what is returned.
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises [..., features]."""
        x = jnp.asarray(x, jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        y = jnp.asarray(x * jax.lax.rsqrt(mean_square + self.epsilon), self.dtype)
        scale = param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        scale = jnp.asarray(scale, self.dtype)
        return y * jnp.expand_dims(scale, tuple(range(y.ndim - 1)))


class MlpBlock(nn.Module):
    """Feed-forward block; with several activations their products gate each other.

    Attributes:
      intermediate_dim: width of the middle.
      activations: names, one per input projection (`wi_0`, `wi_1`, ...; a single one
        is called `wi`).
      dropout_rate: dropout on the middle, one draw for all positions of an example.
      dtype: computation type.
    """

    intermediate_dim: int
    activations: Sequence[str] = ("gelu", "linear")
    dropout_rate: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Array, *, deterministic: bool = True) -> Array:
        """Maps [B, L, features] to [B, L, features]."""
        branches = []
        for i, name in enumerate(self.activations):
            x = DenseGeneral(
                self.intermediate_dim,
                dtype=self.dtype,
                kernel_axes=("embed", "mlp"),
                name="wi" if len(self.activations) == 1 else f"wi_{i}",
            )(inputs)
            branches.append(activation(name)(x))
        x = functools.reduce(jnp.multiply, branches)
        x = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            x, deterministic=deterministic
        )
        x = with_sharding_constraint(x, ("batch", "length", "mlp"))
        return DenseGeneral(
            inputs.shape[-1], dtype=self.dtype, kernel_axes=("mlp", "embed"), name="wo"
        )(x)


class MultiHeadDotProductAttention(nn.Module):
    """Multi-head attention whose logits are not divided by the root of the head size.

    That factor is in the query initialiser instead (as in T5), so it must not be
    applied to the weights of a T5X checkpoint.

    Attributes:
      num_heads: heads.
      head_dim: features of a head.
      out_features: features of what is returned.
      dropout_rate: dropout on the attention weights, one draw for all queries.
      dtype: computation type; logits and softmax are float32.
      sow_weights: offer the weights as `intermediates/attention_weights`, [B, H, Q, K]
        (kept only by calls that make that collection mutable).
    """

    num_heads: int
    head_dim: int
    out_features: int
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    sow_weights: bool = False

    def setup(self):
        """Makes the sublayers; Flax calls it."""

        def projection(kernel_init: Initializer) -> DenseGeneral:
            return DenseGeneral(
                (self.num_heads, self.head_dim),
                dtype=self.dtype,
                kernel_init=kernel_init,
                kernel_axes=("embed", "joined_kv"),
            )

        def query_init(*args):
            return _attention_init(*args) / math.sqrt(self.head_dim)

        self.query = projection(query_init)
        self.key = projection(_attention_init)
        self.value = projection(_attention_init)
        self.out = DenseGeneral(
            self.out_features,
            axis=2,
            dtype=self.dtype,
            kernel_init=_attention_init,
            kernel_axes=("joined_kv", "embed"),
        )
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

    def __call__(
        self,
        inputs_q: Array,
        inputs_kv: Array,
        mask: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Attends from queries to keys and values made from `inputs_kv`.

        Args:
          inputs_q: [B, Q, features].
          inputs_kv: [B, K, features].
          mask: bool [B, 1, Q, K], true where attention is allowed; `None` allows all.
          deterministic: no dropout.

        Returns:
          [B, Q, out_features].
        """
        key, value = self.project_keys_values(inputs_kv)
        return self.attend(inputs_q, key, value, mask, deterministic=deterministic)

    def project_keys_values(self, inputs_kv: Array) -> tuple[Array, Array]:
        """Returns keys and values, each [B, K, H, D], of inputs [B, K, features]."""
        axes = ("batch", "length", "heads", "kv")
        key = with_sharding_constraint(self.key(inputs_kv), axes)
        value = with_sharding_constraint(self.value(inputs_kv), axes)
        return key, value

    def attend(
        self,
        inputs_q: Array,
        key: Array,
        value: Array,
        mask: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Attends to given keys and values.

        Args:
          inputs_q: [B, Q, features].
          key: [B, K, H, D], from `project_keys_values`.
          value: [B, K, H, D].
          mask: bool [B, 1, Q, K] or [B, 1, 1, K].
          deterministic: no dropout.

        Returns:
          [B, Q, out_features].
        """
        # With heads before positions from here on, XLA's products on CPU are 2 to 5
        # times faster than with heads in between.
        query, key, value = (
            jnp.swapaxes(x, 1, 2) for x in (self._project_query(inputs_q), key, value)
        )
        logits = jnp.einsum(
            "bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32
        )
        if mask is not None:
            logits = jnp.where(mask, logits, MASKED_LOGIT)
        weights = jax.nn.softmax(logits, axis=-1)
        if self.sow_weights:
            self.sow("intermediates", "attention_weights", weights)
        weights = self.dropout(weights.astype(self.dtype), deterministic=deterministic)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
        return self.out(jnp.swapaxes(mixed, 1, 2))

    def _project_query(self, inputs_q: Array) -> Array:
        return with_sharding_constraint(
            self.query(inputs_q), ("batch", "length", "heads", "kv")
        )
