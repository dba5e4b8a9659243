"""T5 layers: dense, embedding, RMS norm, gated MLP, attention, masks, positions.

These are the layers of T5 1.1 without relative positions (Raffel et al. 2020;
Shazeer 2020 for the gated MLP), with the parameter names, the 2-D kernels and the
logical axis names that T5X checkpoints and T5X partitioners know. Nothing here has
a bias. Equal keys give equal initial parameters and equal dropout as in the original.

Logical axes (for partitioning rules): `vocab`, `embed`, `mlp`, `joined_kv` on
parameters; `batch`, `length`, `heads`, `kv`, `mlp` on activations. Outside an
`axis_rules` context they have no effect.

Decoding step by step uses Flax's collection `cache`: a first call with `decode=True`
and inputs of the full length creates it, and every later call takes one position.
`mt3.decoding` does without it and is several times faster.

Differences from the original's layers:

1. A position beyond the table of `FixedEmbed` raises `ShapeError` where its value is
   known (outside of `jit`); the original returned NaN, as this does inside `jit`.
2. Shapes that do not fit raise `ShapeError`, unknown activations `ConfigError`.
3. `MultiHeadDotProductAttention.sow_weights` (off by default) offers the attention
   weights as `intermediates/attention_weights`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint

from mt3.errors import ConfigError, ShapeError, near_misses

Array = jax.Array
DType = np.dtype
PRNGKey = jax.Array
Shape = Sequence[int]
Activation = Callable[..., Array]
# Called with a key, a shape and a type.
Initializer = Callable[..., Array]

# What is added to a masked attention logit. Finite, so that a row with nothing to
# attend to (a padded target) gives uniform weights and no NaN.
MASKED_LOGIT = -1e10

default_embed_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "normal", out_axis=0
)
_dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

# Takes one slice per start index: (operand, start_indices, slice_size, axis).
dynamic_vector_slice_in_dim = jax.vmap(
    jax.lax.dynamic_slice_in_dim, in_axes=(None, 0, None, None)
)

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": functools.partial(nn.gelu, approximate=True),
    "linear": lambda x: x,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": nn.tanh,
}


def activation(name: str | Activation) -> Activation:
    """Returns the activation function of that name; a function is returned as it is.

    Args:
      name: `gelu` (tanh approximation, as in T5 1.1), `linear`, `relu`, `sigmoid`,
        `silu`, `swish` or `tanh`.

    Raises:
      ConfigError: there is no such activation.
    """
    if callable(name):
        return name
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"mlp_activations: {name!r} is not an activation."
            + near_misses(str(name), _ACTIVATIONS)
        )
    return _ACTIVATIONS[name]


@functools.lru_cache(maxsize=4)
def sinusoidal_table(
    num_positions: int,
    features: int,
    max_scale: float = 10000.0,
    min_scale: float = 1.0,
) -> np.ndarray:
    """Returns the fixed position embedding of T5-style MT3 models.

    The first half of the features are sines, the second half cosines, of a position
    times frequencies that fall in geometric steps from `min_scale` to
    `min_scale**2 / max_scale` (with the defaults from 1 to 1/10000).

    Args:
      num_positions: rows of the table.
      features: columns, at least 4. With an odd number the last column is 0.
      max_scale: the largest divisor of a position, where `min_scale` is 1.
      min_scale: the largest frequency, in radians per position.

    Returns:
      float32 [num_positions, features], read-only.

    Raises:
      ConfigError: fewer than 4 features.
    """
    half = features // 2
    if half < 2:
        raise ConfigError(f"sinusoidal_table: {features} features, expected at least 4")
    step = -math.log(max_scale / min_scale) / (half - 1)
    frequencies = min_scale * np.exp(np.arange(half) * step)
    angles = np.arange(num_positions)[:, np.newaxis] * frequencies[np.newaxis, :]
    table = np.zeros((num_positions, features), np.float32)
    table[:, :half] = np.sin(angles)
    table[:, half : 2 * half] = np.cos(angles)
    table.setflags(write=False)
    return table


def sinusoidal(
    min_scale: float = 1.0, max_scale: float = 10000.0, dtype: Any = jnp.float32
) -> Initializer:
    """Returns an initialiser that makes `sinusoidal_table`; it ignores its key.

    The initialiser raises ConfigError where the shape is not (positions, features).
    """

    def init(key: PRNGKey | None, shape: Shape, dtype: Any = dtype) -> Array:
        del key
        if len(shape) != 2:
            raise ConfigError(
                f"sinusoidal: shape {tuple(shape)}, expected (positions, features)"
            )
        return jnp.asarray(sinusoidal_table(*shape, max_scale, min_scale), dtype)

    return init


def make_attention_mask(
    query_input: Array,
    key_input: Array,
    pairwise_fn: Callable[[Array, Array], Array] = jnp.multiply,
    extra_batch_dims: int = 0,
    dtype: Any = jnp.float32,
) -> Array:
    """Returns who may attend to whom, from one value per query and per key.

    Args:
      query_input: [..., Q], for example `tokens > 0`, or segment ids.
      key_input: [..., K].
      pairwise_fn: combines a query's value with a key's value; not 0 means allowed
        (`jnp.equal` for segment ids).
      extra_batch_dims: axes of size 1 to put in front.
      dtype: type of the mask.

    Returns:
      [..., 1, Q, K], not 0 where attention is allowed.
    """
    mask = pairwise_fn(query_input[..., :, np.newaxis], key_input[..., np.newaxis, :])
    mask = jnp.expand_dims(mask, (*range(extra_batch_dims), -3))
    return mask.astype(dtype)


def make_causal_mask(
    x: Array, extra_batch_dims: int = 0, dtype: Any = jnp.float32
) -> Array:
    """Returns a mask by which each position sees itself and what came before.

    Args:
      x: [..., L]; only the shape matters.
      extra_batch_dims: axes of size 1 to put in front.
      dtype: type of the mask.

    Returns:
      [..., 1, L, L].
    """
    positions = jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape)
    return make_attention_mask(
        positions, positions, jnp.greater_equal, extra_batch_dims, dtype
    )


def combine_masks(*masks: Array | None, dtype: Any = jnp.float32) -> Array | None:
    """Returns the logical "and" of masks of equal rank; `None` allows everything.

    Raises:
      ShapeError: masks of several ranks.
    """
    present = _of_one_rank("combine_masks", masks)
    if not present:
        return None
    return functools.reduce(jnp.logical_and, present).astype(dtype)


def combine_biases(*masks: Array | None) -> Array | None:
    """Returns the sum of biases of equal rank; `None` adds nothing.

    Raises:
      ShapeError: biases of several ranks.
    """
    present = _of_one_rank("combine_biases", masks)
    return functools.reduce(operator.add, present) if present else None


def _of_one_rank(stage: str, arrays: Sequence[Array | None]) -> list[Array]:
    """Returns the arrays that are there."""
    present = [array for array in arrays if array is not None]
    if len({array.ndim for array in present}) > 1:
        shapes = ", ".join(str(tuple(array.shape)) for array in present)
        raise ShapeError(f"{stage}: shapes {shapes}; expected equal ranks")
    return present


def make_decoder_mask(
    decoder_target_tokens: Array,
    dtype: Any,
    decoder_causal_attention: Array | None = None,
    decoder_segment_ids: Array | None = None,
) -> Array:
    """Returns the decoder's self-attention mask: causal, without padding.

    Args:
      decoder_target_tokens: int [B, L], 0 is padding.
      dtype: type of the mask.
      decoder_causal_attention: int [B, L] for prefix models: positions with 1 see one
        another, earlier or later (within their segment).
      decoder_segment_ids: int [B, L] for packed examples (0 is padding): a position
        sees its own segment only.

    Returns:
      [B, 1, L, L].
    """
    visible = make_causal_mask(decoder_target_tokens, dtype=bool)
    if decoder_causal_attention is not None:
        prefix = decoder_causal_attention
        visible |= make_attention_mask(prefix, prefix, jnp.logical_and, dtype=bool)
    real = decoder_target_tokens > 0
    segments = None
    if decoder_segment_ids is not None:
        segments = make_attention_mask(
            decoder_segment_ids, decoder_segment_ids, jnp.equal, dtype=bool
        )
    return combine_masks(
        visible, make_attention_mask(real, real, dtype=bool), segments, dtype=dtype
    )


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Any = jnp.float32,
    float32_logits: bool = False,
    see_weights: Callable[[Array], Any] | None = None,
) -> Array:
    """Returns values mixed by the softmax of query-key products, which are not scaled.

    Args:
      query: [B, Q, H, D].
      key: [B, K, H, D].
      value: [B, K, H, D'].
      bias: added to the products, [B, H, Q, K] or broadcast to it.
      dropout_rng: key of the dropout; needed where there is any.
      dropout_rate: dropout on the weights, one draw for all queries.
      deterministic: no dropout.
      dtype: type of the weights that the values are multiplied with.
      float32_logits: compute products and softmax in float32, whatever the inputs are.
      see_weights: called with the weights [B, H, Q, K] before dropout.

    Returns:
      [B, Q, H, D'].

    Raises:
      ShapeError: query, key and value do not fit together.
    """
    if not (
        query.ndim == key.ndim == value.ndim == 4
        and query.shape[::2] == key.shape[::2]
        and query.shape[3] == key.shape[3]
        and key.shape[:3] == value.shape[:3]
    ):
        raise ShapeError(
            f"attention: query {tuple(query.shape)}, key {tuple(key.shape)}, value "
            f"{tuple(value.shape)}; expected [B, Q, H, D], [B, K, H, D], [B, K, H, D']"
        )
    # With heads before positions from here on, XLA's products on CPU are 2 to 5 times
    # faster than with heads in between.
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    logits = jnp.einsum(
        "bhqd,bhkd->bhqk",
        query,
        key,
        preferred_element_type=jnp.float32 if float32_logits else None,
    )
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    weights = jax.nn.softmax(logits, axis=-1)
    if see_weights is not None:
        see_weights(weights)
    weights = weights.astype(dtype)
    if not deterministic and dropout_rate > 0.0:
        keep = 1.0 - dropout_rate
        # One draw for all queries (as in T5).
        shape = (*weights.shape[:-2], 1, weights.shape[-1])
        kept = jax.random.bernoulli(dropout_rng, keep, shape)
        weights = weights * (kept.astype(dtype) / jnp.asarray(keep, dtype))
    return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, value), 1, 2)


class DenseGeneral(nn.Module):
    """A linear map of some axes, without bias, whose kernel is stored 2-D.

    Attributes:
      features: sizes of the output axes, one or several; they come last.
      axis: the input axes that are contracted, one or several.
      dtype: what inputs and kernel are cast to before the product.
      kernel_init: initialiser of the 2-D kernel.
      kernel_axes: the logical names of the kernel's two axes.
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    dtype: Any = jnp.float32
    kernel_init: Initializer = _dense_init
    kernel_axes: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps the axes `axis` of the inputs to `features`."""
        features = self.features
        features = (features,) if isinstance(features, int) else tuple(features)
        axes = (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
        inputs = jnp.moveaxis(
            jnp.asarray(inputs, self.dtype), axes, range(-len(axes), 0)
        )
        batch_shape = inputs.shape[: inputs.ndim - len(axes)]
        depth = math.prod(inputs.shape[inputs.ndim - len(axes) :])
        kernel = param_with_axes(
            "kernel",
            self.kernel_init,
            (depth, math.prod(features)),
            jnp.float32,
            axes=self.kernel_axes,
        )
        flat = inputs.reshape(*batch_shape, depth)
        return (flat @ jnp.asarray(kernel, self.dtype)).reshape(*batch_shape, *features)


class MlpBlock(nn.Module):
    """Feed-forward block; with several activations their products gate each other.

    Attributes:
      intermediate_dim: width of the middle.
      activations: names or functions, one per input projection (`wi_0`, `wi_1`, ...;
        a single one is called `wi`).
      kernel_init: initialiser of the kernels.
      intermediate_dropout_rate: dropout on the middle, one draw for all positions.
      dtype: computation type.
    """

    intermediate_dim: int = 2048
    activations: Sequence[str | Activation] = ("relu",)
    kernel_init: Initializer = _dense_init
    intermediate_dropout_rate: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Array, decode: bool = False, deterministic: bool = False
    ) -> Array:
        """Maps [B, L, features] to [B, L, features]; `decode` changes nothing."""
        del decode
        dense = functools.partial(
            DenseGeneral, dtype=self.dtype, kernel_init=self.kernel_init
        )
        branches = []
        for i, name in enumerate(self.activations):
            x = dense(
                self.intermediate_dim,
                kernel_axes=("embed", "mlp"),
                name="wi" if len(self.activations) == 1 else f"wi_{i}",
            )(inputs)
            branches.append(activation(name)(x))
        x = functools.reduce(operator.mul, branches)
        x = nn.Dropout(self.intermediate_dropout_rate, broadcast_dims=(-2,))(
            x, deterministic=deterministic
        )
        x = with_sharding_constraint(x, ("batch", "length", "mlp"))
        return dense(inputs.shape[-1], kernel_axes=("mlp", "embed"), name="wo")(x)


class MultiHeadDotProductAttention(nn.Module):
    """Multi-head attention whose logits are not divided by the root of the head size.

    That factor is in the query initialiser instead (as in T5), so it must not be
    applied to the weights of a T5X checkpoint.

    Attributes:
      num_heads: heads.
      head_dim: features of a head.
      dtype: computation type.
      dropout_rate: dropout on the attention weights, one draw for all queries.
      kernel_init: initialiser of the kernels.
      float32_logits: compute logits and softmax in float32, whatever `dtype` is.
      sow_weights: offer the weights as `intermediates/attention_weights`, [B, H, Q, K]
        (kept only by calls that make that collection mutable).
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    kernel_init: Initializer = _attention_init
    float32_logits: bool = False
    sow_weights: bool = False

    @nn.compact
    def __call__(
        self,
        inputs_q: Array,
        inputs_kv: Array,
        mask: Array | None = None,
        bias: Array | None = None,
        *,
        decode: bool = False,
        deterministic: bool = False,
    ) -> Array:
        """Attends from queries to keys and values made from `inputs_kv`.

        With `decode` the first call, on inputs of the full length L, creates the
        collection `cache`: `cached_key` and `cached_value`, [B, H, D, L] of zeros, and
        `cache_index`, 0. Each later call takes one position, writes it into the cache
        and attends to all positions so far.

        Args:
          inputs_q: [B, Q, features].
          inputs_kv: [B, K, features].
          mask: [B, 1, Q, K], above 0 where attention is allowed; `None` allows all.
          bias: added to the logits, [B, H, Q, K].
          decode: attend step by step.
          deterministic: no dropout.

        Returns:
          [B, Q, features].

        Raises:
          ShapeError: a step does not fit the cache.
        """

        def projection(name: str, kernel_init: Initializer, inputs: Array) -> Array:
            x = DenseGeneral(
                (self.num_heads, self.head_dim),
                dtype=self.dtype,
                kernel_init=kernel_init,
                kernel_axes=("embed", "joined_kv"),
                name=name,
            )(inputs)
            return with_sharding_constraint(x, ("batch", "length", "heads", "kv"))

        def query_init(*args):
            return self.kernel_init(*args) / jnp.sqrt(self.head_dim).astype(self.dtype)

        query = projection("query", query_init, inputs_q)
        key = projection("key", self.kernel_init, inputs_kv)
        value = projection("value", self.kernel_init, inputs_kv)
        if decode:
            key, value, mask, bias = self._cached(query, key, value, mask, bias)
        if mask is not None:
            masked = jnp.where(mask > 0, 0.0, MASKED_LOGIT).astype(self.dtype)
            bias = combine_biases(masked, bias)
        use_dropout = not deterministic and self.dropout_rate > 0.0
        mixed = dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            dropout_rng=self.make_rng("dropout") if use_dropout else None,
            dropout_rate=self.dropout_rate,
            deterministic=deterministic,
            dtype=self.dtype,
            float32_logits=self.float32_logits,
            see_weights=functools.partial(
                self.sow, "intermediates", "attention_weights"
            )
            if self.sow_weights
            else None,
        )
        return DenseGeneral(
            inputs_q.shape[-1],
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            kernel_axes=("joined_kv", "embed"),
            name="out",
        )(mixed)

    def _cached(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        bias: Array | None,
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """Creates the cache, or writes one position into it.

        Returns:
          Keys and values of all positions, [B, L, H, D], and mask and bias for them.
        """
        exists = self.has_variable("cache", "cached_key")
        # Positions last: the layout that T5X's decoding knows.
        shape = (key.shape[0], *key.shape[2:], key.shape[1])
        keys = self.variable("cache", "cached_key", jnp.zeros, shape, key.dtype)
        values = self.variable("cache", "cached_value", jnp.zeros, shape, value.dtype)
        index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
        if not exists:
            return key, value, mask, bias
        batch, heads, depth, length = keys.value.shape
        if query.shape != (batch, 1, heads, depth):
            raise ShapeError(
                f"attention: a decoding step of shape {tuple(query.shape)}, expected "
                f"{(batch, 1, heads, depth)}: one position for each row of the cache"
            )
        position = index.value
        for cache, new in ((keys, key), (values, value)):
            cache.value = jax.lax.dynamic_update_slice_in_dim(
                cache.value,
                jnp.moveaxis(new, 1, -1).astype(cache.value.dtype),
                position,
                axis=3,
            )
        index.value = position + 1
        so_far = (jnp.arange(length) <= position)[np.newaxis, np.newaxis, np.newaxis]
        mask = combine_masks(mask, jnp.broadcast_to(so_far, (batch, 1, 1, length)))
        if bias is not None:
            bias = jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=-2)
        key, value = (jnp.moveaxis(cache.value, -1, 1) for cache in (keys, values))
        return key, value, mask, bias


class Embed(nn.Module):
    """Token embedding.

    Attributes:
      num_embeddings: rows.
      features: columns.
      cast_input_dtype: type to cast the tokens to first; `None` for none.
      dtype: type of what is returned.
      attend_dtype: type of the table in `attend`; `None` for `dtype`.
      embedding_init: initialiser of the table.
      one_hot: multiply by one-hot rows instead of looking up, which splits better
        over devices.
    """

    num_embeddings: int
    features: int
    cast_input_dtype: Any = None
    dtype: Any = jnp.float32
    attend_dtype: Any = None
    embedding_init: Initializer = default_embed_init
    one_hot: bool = False
    embedding: Array = dataclasses.field(init=False)

    def setup(self):
        """Makes the table; Flax calls it."""
        self.embedding = param_with_axes(
            "embedding",
            self.embedding_init,
            (self.num_embeddings, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, inputs: Array) -> Array:
        """Looks up tokens, int [B, L] -> [B, L, features].

        Raises:
          ShapeError: the tokens are not integers.
        """
        if self.cast_input_dtype:
            inputs = inputs.astype(self.cast_input_dtype)
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ShapeError(
                f"token embedding: tokens of type {inputs.dtype}. Input type must be "
                "an integer or unsigned integer."
            )
        table = jnp.asarray(self.embedding, self.dtype)
        if self.one_hot:
            output = jax.nn.one_hot(inputs, self.num_embeddings, dtype=self.dtype)
            output = output @ table
        else:
            output = jnp.take(table, inputs, axis=0)
        return with_sharding_constraint(output, ("batch", "length", "embed"))

    def attend(self, query: Array) -> Array:
        """Returns products with every row: [..., features] -> [..., rows]."""
        dtype = self.attend_dtype or self.dtype
        return query @ jnp.asarray(self.embedding, dtype).T


class FixedEmbed(nn.Module):
    """Embedding of positions that is not learnt and has no parameters.

    Attributes:
      features: columns.
      max_length: rows.
      embedding_init: makes the table, of a key (`None`), a shape and a type.
      dtype: type of what is returned.
    """

    features: int
    max_length: int = 2048
    embedding_init: Initializer = sinusoidal()
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the table; Flax calls it."""
        self.embedding = self.embedding_init(
            None, (self.max_length, self.features), self.dtype
        )

    @nn.compact
    def __call__(self, inputs: Array, *, decode: bool = False) -> Array:
        """Looks up positions, int [B, L] -> [B, L, features].

        With `decode` the inputs are ignored: the result, [1, features], is the row of
        `position_embedder_index` in the collection `cache`, which each call but the
        first (the one that creates the collection) raises by 1.

        Raises:
          ShapeError: a position, known outside of `jit`, is beyond the table.
        """
        if decode:
            exists = self.has_variable("cache", "position_embedder_index")
            index = self.variable(
                "cache", "position_embedder_index", jnp.zeros, (), jnp.uint32
            )
            row = jnp.take(self.embedding, index.value[np.newaxis], axis=0)
            if exists:
                index.value = index.value + 1
            return row
        # Inside of jit a position beyond the table gives NaN (jnp.take's rule), which
        # no loss survives silently.
        if not isinstance(inputs, jax.core.Tracer) and np.size(inputs):
            low, high = int(np.min(inputs)), int(np.max(inputs))
            if low < -self.max_length or high >= self.max_length:
                raise ShapeError(
                    f"positions: values {low} to {high}, expected 0 to "
                    f"{self.max_length - 1}"
                )
        return jnp.take(self.embedding, inputs, axis=0)


class LayerNorm(nn.Module):
    """Division by the root mean square over features, computed in float32, and a scale.

    No mean is subtracted and there is no bias (Zhang and Sennrich 2019).

    Attributes:
      epsilon: added to the mean square.
      dtype: type of what is returned.
      scale_init: initialiser of the scale.
    """

    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises [..., features]."""
        x = jnp.asarray(x, jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        y = jnp.asarray(x * jax.lax.rsqrt(mean_square + self.epsilon), self.dtype)
        scale = param_with_axes(
            "scale", self.scale_init, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        scale = jnp.asarray(scale, self.dtype)
        return y * jnp.expand_dims(scale, tuple(range(y.ndim - 1)))
