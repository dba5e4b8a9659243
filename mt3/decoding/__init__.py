"""From encoder inputs to token ids.

`SegmentDecoder` decodes any number of segments as a stream; `decode` one batch.
A strategy chooses tokens (`Beam`, `Greedy`, `Temperature`); logit filters are rules
about them that come before the choice (`GrammarMask` allows what is grammatical).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mt3 import network
from mt3.decoding.compilation import cache_folder, enable_compilation_cache
from mt3.decoding.filters import LogitFilter
from mt3.decoding.masks import GrammarMask
from mt3.decoding.steps import Spec, decode_batch
from mt3.decoding.strategies import (
    Beam,
    Greedy,
    Strategy,
    Temperature,
    from_name,
)
from mt3.decoding.stream import (
    DecodeOptions,
    Result,
    SegmentDecoder,
)
from mt3.errors import ShapeError

__all__ = [
    "Beam",
    "DecodeOptions",
    "GrammarMask",
    "Greedy",
    "LogitFilter",
    "Result",
    "SegmentDecoder",
    "Strategy",
    "Temperature",
    "cache_folder",
    "decode",
    "enable_compilation_cache",
    "from_name",
]


def decode(
    params: Mapping[str, Any],
    config: network.T5Config,
    inputs: jax.Array,
    *,
    max_length: int = 1024,
    strategy: Strategy | None = None,
    filters: Sequence[LogitFilter] = (),
) -> tuple[jax.Array, jax.Array]:
    """Decodes one batch from start to end; can be traced (inside `jax.jit`).

    It ends when the last segment has ended. For many segments `SegmentDecoder` is
    faster.

    Args:
      params: nested dict as in T5X checkpoints, `encoder` and `decoder`.
      config: sizes of the network.
      inputs: frames, float [B, T, input_depth].
      max_length: most tokens a segment may have, EOS included.
      strategy: `Beam()` if `None`, which is one-beam search.
      filters: rules about the next token, in the order in which they are applied.

    Returns:
      ids int32 [B, max_length], 0 after EOS, and scores float32 [B]. With several
      beams [B, N, max_length] and [B, N] in rising order of score.

    Raises:
      ShapeError: inputs or `max_length` do not fit the network.
      CheckpointError: a layer's parameters are missing.
    """
    if inputs.ndim != 3 or inputs.shape[-1] != config.input_depth:
        raise ShapeError(
            f"decoding: inputs of shape {tuple(inputs.shape)}; expected "
            f"[batch, frames, {config.input_depth}]"
        )
    if not 1 <= max_length <= network.MAX_POSITIONS:
        raise ShapeError(
            f"decoding: max_length is {max_length}; expected 1 to "
            f"{network.MAX_POSITIONS}"
        )
    strategy = strategy or Beam()
    ids, scores = decode_batch(
        Spec(config, strategy, tuple(filters), max_length),
        params,
        jnp.asarray(inputs, jnp.float32),
    )
    if strategy.beams == 1:
        return ids[:, 0], scores[:, 0]
    return ids, scores
