"""A plain T5X-style decoder, to measure `mt3.decoding` against.

It does what decoding with T5X does for the original model:

* segments are decoded in fixed batches, and a batch runs until its slowest segment has
  ended;
* the keys and values of the cross-attention are computed in every step, from the
  encoder's output (XLA may move that out of the loop, as it may for T5X; on CPU it
  does);
* the self-attention cache has its full length from the start, and every step attends
  to all of it.

The decoder is `network.Decoder` with its cache, and the choice of tokens is that of
`decoding.strategies` (tested to be T5X's), so the tokens must be equal. With T5X
installed, `t5x_decoder` runs T5X's own search around the same step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.forced_lengths import forced
from mt3 import network
from mt3.decoding.strategies import Strategy
from mt3.vocabularies import EOS_ID

Array = jax.Array
Cache = Mapping[str, Any]  # Flax's collection, see `layers`.

BATCH = 8
"""Segments decoded together, as in the original's notebook."""


def empty_cache(
    config: network.T5Config, params: Mapping[str, Any], encoded: Array, max_length: int
) -> Cache:
    """Returns the cache of `max_length` tokens for each row of `encoded`."""
    tokens = jnp.zeros((encoded.shape[0], max_length), jnp.int32)
    return _decode(config, params, encoded, tokens)[1]


def plain_step(
    config: network.T5Config,
    params: Mapping[str, Any],
    encoded: Array,
    tokens: Array,
    cache: Cache,
) -> tuple[Array, Cache]:
    """Returns float32 logits [B, V] after `tokens` int [B], and the new cache."""
    logits, cache = _decode(config, params, encoded, tokens[:, None], {"cache": cache})
    return logits[:, 0], cache


def _decode(config, params, encoded, tokens, cache=()) -> tuple[Array, Cache]:
    logits, changed = network.Decoder(config).apply(
        {"params": params["decoder"], **dict(cache)},
        encoded,
        tokens,
        deterministic=True,
        decode=True,
        mutable=["cache"],
    )
    return logits, changed["cache"]


@functools.partial(jax.jit, static_argnums=0)
def encode(config: network.T5Config, params: Mapping[str, Any], frames: Array) -> Array:
    """Encodes segments: [B, T, input_depth] to [B, T, emb_dim]."""
    return network.Encoder(config).apply(
        {"params": params["encoder"]}, frames, deterministic=True
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def decode_encoded(
    config: network.T5Config,
    strategy: Strategy,
    max_length: int,
    params: Mapping[str, Any],
    encoded: Array,
    first: Array,
) -> tuple[Array, Array]:
    """Decodes one batch until its last segment has ended.

    Args:
      config: sizes of the network.
      strategy: how tokens are chosen; one row a segment.
      max_length: most tokens of a segment.
      params: nested dict as in T5X checkpoints.
      encoded: encoder output, [B, T, emb_dim].
      first: int32 scalar, the number of the batch's first segment.

    Returns:
      ids int32 [B, max_length], and the number of steps that the batch took.
    """
    batch = encoded.shape[0]
    serials = first + jnp.arange(batch)

    def go_on(state):
        _, choice, _, index = state
        return (index < max_length) & ~jnp.all(strategy.done(choice))

    def body(state):
        tokens, choice, cache, index = state
        logits, cache = plain_step(config, params, encoded, tokens, cache)
        new, chosen, _ = strategy.advance(choice, logits[:, None, :])
        # A finished segment is computed on, but keeps its result.
        ended = strategy.done(choice)
        choice = jax.tree.map(
            lambda a, b: jnp.where(ended.reshape((-1,) + (1,) * (a.ndim - 1)), b, a),
            new,
            choice,
        )
        return chosen[:, 0], choice, cache, index + 1

    state = (
        jnp.zeros((batch,), jnp.int32),
        strategy.init(serials, max_length),
        empty_cache(config, params, encoded, max_length),
        jnp.int32(0),
    )
    _, choice, _, steps = jax.lax.while_loop(go_on, body, state)
    ids, _ = strategy.result(choice)
    return ids[:, -1], steps


class PlainDecoder:
    """Decodes segments in fixed batches, as a T5X inference job does."""

    def __init__(
        self,
        params: Mapping[str, Any],
        config: network.T5Config,
        strategy: Strategy,
        max_length: int = 1024,
        batch: int = BATCH,
    ):
        """Keeps the parameters; see `decode_encoded` for the arguments."""
        self.params = jax.tree.map(jnp.asarray, dict(params))
        self.config, self.strategy = config, strategy
        self.max_length, self.batch = max_length, batch

    def encode(self, frames: np.ndarray) -> Array:
        """Encodes one batch [B, T, input_depth]."""
        return encode(self.config, self.params, frames)

    def run(self, frames: np.ndarray) -> list[np.ndarray]:
        """Decodes all segments; frames [n, T, input_depth], ids with EOS at the end."""
        results: list[np.ndarray] = []
        for first, batch in batches(frames, self.batch):
            ids, _ = decode_encoded(
                self.config,
                self.strategy,
                self.max_length,
                self.params,
                self.encode(batch),
                np.int32(first),
            )
            results += list(np.asarray(ids))
        return [trimmed(ids) for ids in results[: len(frames)]]


def trimmed(ids: np.ndarray) -> np.ndarray:
    """Cuts ids after their first EOS."""
    ends = np.flatnonzero(ids == EOS_ID)
    return ids[: ends[0] + 1] if len(ends) else ids


def t5x_decoder(
    params: Mapping[str, Any], config: network.T5Config, lengths: tuple[int, ...]
) -> Callable[[np.ndarray], list[np.ndarray]] | None:
    """Returns a decoder that runs T5X's own beam search around the plain step.

    Args:
      params: nested dict as in T5X checkpoints.
      config: sizes of the network.
      lengths: tokens of the segments, as for `ForcedLengths`.

    Returns:
      A function of frames [n, T, input_depth] that returns the ids of each segment;
      `None` where T5X can't be imported.
    """
    try:
        from t5x import decoding
    except ImportError:
        return None
    params = jax.tree.map(jnp.asarray, dict(params))
    max_length = 1024
    table = jnp.asarray(lengths, jnp.int32)

    @jax.jit
    def search(params, encoded, first):
        batch = encoded.shape[0]
        ends = table[(first + jnp.arange(batch)) % len(lengths)]

        def tokens_to_logits(state):
            index = jnp.ravel(state.cur_index)[0]
            tokens = state.cur_token[:, 0]
            logits, cache = plain_step(config, params, encoded, tokens, state.cache)
            return forced(logits[:, None], index + 1 >= ends)[:, 0], cache

        ids, _ = decoding.beam_search(
            jnp.zeros((batch, max_length), jnp.int32),
            empty_cache(config, params, encoded, max_length),
            tokens_to_logits,
            eos_id=EOS_ID,
            num_decodes=1,
        )
        return ids[:, -1]

    def run(frames: np.ndarray) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for first, batch in batches(frames, BATCH):
            ids = search(params, encode(config, params, batch), np.int32(first))
            results += list(np.asarray(ids))
        return [trimmed(ids) for ids in results[: len(frames)]]

    return run


def batches(frames: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of the first segment and a batch, the last one filled up."""
    for first in range(0, len(frames), size):
        batch = frames[first : first + size]
        missing = np.zeros((size - len(batch), *frames.shape[1:]), np.float32)
        yield first, np.concatenate([batch.astype(np.float32), missing])
