"""From encoder inputs to token ids.

`SegmentDecoder` decodes any number of segments as a stream; `decode` one batch.
Strategies say how tokens are chosen (`Beam`, `Greedy`, `Temperature`), masks which
ones may be (`GrammarMask`); `TypeFirst` weighs types of tokens before single ones,
`FrameEvidence` tokens by what the encoder hears in each frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mt3 import network
from mt3.beyond.evidence import FrameEvidence
from mt3.beyond.type_first import TypeFirst
from mt3.decoding.compilation import cache_folder, enable_compilation_cache
from mt3.decoding.masks import GrammarMask, LogitMask
from mt3.decoding.program import decode_batch
from mt3.decoding.steps import Spec
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
    usable_cache_sizes,
)
from mt3.errors import ShapeError

__all__ = [
    "Beam",
    "DecodeOptions",
    "FrameEvidence",
    "GrammarMask",
    "Greedy",
    "LogitMask",
    "Result",
    "SegmentDecoder",
    "Strategy",
    "Temperature",
    "TypeFirst",
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
    mask: LogitMask | None = None,
    type_first: TypeFirst | None = None,
    evidence: FrameEvidence | None = None,
    cache_sizes: tuple[int, ...] = (),
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
      mask: which tokens may be chosen; `None` is all.
      type_first: choose the type of the next token first; `None` for not.
      evidence: weigh tokens by what the encoder hears; `None` for not.
      cache_sizes: lengths below `max_length` that the self-attention cache goes
        through. Each costs a compilation and makes short segments faster.

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
        Spec(config, strategy, mask, max_length, type_first, evidence),
        params,
        jnp.asarray(inputs, jnp.float32),
        cache_sizes=usable_cache_sizes(cache_sizes, max_length),
    )
    if strategy.beams == 1:
        return ids[:, 0], scores[:, 0]
    return ids, scores
