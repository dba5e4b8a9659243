"""Decoding through Flax's collection `cache`, with the signatures of T5X.

T5X's decoding functions get a cache and a function from the last tokens to logits. The
functions here make both for a module such as `network.Transformer`, so that
`t5x.decoding.temperature_sample` or a function of one's own can decode it, and
`beam_search` is the one of that signature that this package offers. `decoding.decode`
finds the same tokens several times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from mt3.decoding.strategies import Beam
from mt3.errors import ConfigError
from mt3.vocabularies import EOS_ID

Array = jax.Array
Cache = Mapping[str, Any]
# Leaves that all rows share.
_INDICES = ("cache_index", "position_embedder_index")


class DecodingState(NamedTuple):
    """What a function from tokens to logits reads; T5X's has the same fields."""

    cur_index: Array  # int32 scalar: tokens before `cur_token`
    cur_token: Array  # int32 [rows, 1]
    cache: Cache
    sequences: Array | None = None  # int32 [rows, L], which `beam_search` leaves out


TokensToLogits = Callable[[DecodingState], tuple[Array, Cache]]


def empty_cache(module: Any, params: Any, frames: Array, tokens: Array) -> Cache:
    """Returns the cache for frames [B, T, input_depth] and as many tokens as [B, L]."""
    ones = jnp.ones_like(tokens)
    _, variables = module.apply(
        {"params": params},
        jnp.ones_like(frames),
        ones,
        ones,
        enable_dropout=False,
        decode=True,
        mutable=["cache"],
    )
    return variables["cache"]


def step_function(
    module: Any, params: Any, encoded: Array, frames: Array, max_length: int
) -> TokensToLogits:
    """Returns the function from the last tokens and the cache to logits [rows, V].

    Args:
      module: the network.
      params: its parameters.
      encoded: encoder output, [rows, T, emb_dim].
      frames: what it was made from, [rows, T, input_depth].
      max_length: tokens that the cache can hold.
    """

    def tokens_to_logits(state: DecodingState) -> tuple[Array, Cache]:
        logits, changed = module.apply(
            {"params": params, "cache": state.cache},
            encoded,
            frames,
            state.cur_token,
            state.cur_token,
            enable_dropout=False,
            decode=True,
            max_decode_length=max_length,
            mutable=["cache"],
            method="decode",
        )
        return logits[:, 0], changed["cache"]

    return tokens_to_logits


def beam_search(
    inputs: Array,
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    eos_id: int = EOS_ID,
    num_decodes: int = 4,
    alpha: float = 0.6,
    max_decode_len: int | None = None,
    decode_rng: Array | None = None,
    cache_offset: int = 0,
) -> tuple[Array, Array]:
    """Searches with `strategies.Beam`, and finds what T5X's function finds.

    Args:
      inputs: int32 [B, L]; only the shape matters, prompts are ignored.
      cache: of B rows.
      tokens_to_logits: makes logits of `num_decodes` rows for each row of the inputs,
        side by side.
      eos_id: must be 1.
      num_decodes: beams.
      alpha: strength of the length normalisation.
      max_decode_len: most tokens, `None` for L.
      decode_rng: ignored.
      cache_offset: axis of the rows in the cache's arrays.

    Returns:
      ids int32 [B, num_decodes, L], 0 after EOS, and scores float32 [B, num_decodes],
      both in rising order of score.

    Raises:
      ConfigError: `eos_id` is another one.
    """
    del decode_rng
    if eos_id != EOS_ID:
        raise ConfigError(f"beam_search: eos_id is {eos_id}, expected {EOS_ID}")
    strategy = Beam(num_decodes, alpha)
    batch, length = inputs.shape
    length = max_decode_len or length

    def go_on(state):
        index, _, choice, _ = state
        return (index < length) & ~jnp.all(strategy.done(choice))

    def body(state):
        index, tokens, choice, cache = state
        logits, cache = tokens_to_logits(
            DecodingState(index, tokens.reshape(-1, 1), cache)
        )
        logits = logits.reshape(batch, num_decodes, -1)
        advanced, tokens, parents = strategy.advance(choice, logits)
        ended = strategy.done(choice)
        # A finished row is computed with the others, but keeps its result.
        choice = jax.tree.map(
            lambda new, old: jnp.where(
                ended.reshape(-1, *[1] * (new.ndim - 1)), old, new
            ),
            advanced,
            choice,
        )
        rows = (jnp.arange(batch)[:, None] * num_decodes + parents).reshape(-1)
        cache = _map_rows(lambda x: jnp.take(x, rows, axis=cache_offset), cache)
        return index + 1, tokens, choice, cache

    state = (
        jnp.int32(0),
        jnp.zeros((batch, num_decodes), jnp.int32),
        strategy.init(jnp.arange(batch), length),
        _map_rows(lambda x: jnp.repeat(x, num_decodes, axis=cache_offset), cache),
    )
    _, _, choice, _ = jax.lax.while_loop(go_on, body, state)
    return strategy.result(choice)


def _map_rows(function: Callable[[Array], Array], cache: Cache) -> Cache:
    """Applies a function to the arrays of the cache that have rows."""
    flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(cache))
    return flax.traverse_util.unflatten_dict(
        {path: x if path[-1] in _INDICES else function(x) for path, x in flat.items()}
    )
