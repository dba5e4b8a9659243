"""A strategy that ends segments where the benchmark wants them to end.

Random weights emit no sensible EOS, and a comparison needs equal work on both sides:
`ForcedLengths` forbids EOS before the last token of a segment and allows nothing else
there. The choice of all other tokens stays that of the strategy inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mt3.decoding.strategies import NEG_INF, Beam, Strategy
from mt3.vocabularies import EOS_ID

Array = jax.Array


class ForcedState(NamedTuple):
    """The inner strategy's state and the segments' lengths."""

    inner: Any
    lengths: Array  # int32 [S]

    @property
    def index(self) -> Array:
        """Tokens emitted, int32 [S]."""
        return self.inner.index


@dataclasses.dataclass(frozen=True)
class ForcedLengths:
    """Segment number n has `lengths[n % len(lengths)]` tokens, EOS included."""

    lengths: tuple[int, ...]
    inner: Strategy = Beam()

    @property
    def beams(self) -> int:
        """Rows a slot."""
        return self.inner.beams

    def init(self, serials: Array, max_length: int) -> ForcedState:
        """Returns the state of fresh slots; see `Strategy`."""
        lengths = jnp.asarray(self.lengths, jnp.int32)
        return ForcedState(
            self.inner.init(serials, max_length), lengths[serials % len(self.lengths)]
        )

    def advance(
        self, state: ForcedState, logits: Array
    ) -> tuple[ForcedState, Array, Array]:
        """Appends a token to every row; see `Strategy`."""
        logits = forced(logits, state.index + 1 >= state.lengths)
        inner, tokens, parents = self.inner.advance(state.inner, logits)
        return state._replace(inner=inner), tokens, parents

    def done(self, state: ForcedState) -> Array:
        """Says which slots have ended; see `Strategy`."""
        return (state.index >= state.lengths) | self.inner.done(state.inner)

    def result(self, state: ForcedState) -> tuple[Array, Array]:
        """Returns ids and scores; see `Strategy`."""
        return self.inner.result(state.inner)


def forced(logits: Array, at_end: Array) -> Array:
    """Forbids EOS, or everything else where `at_end`; logits [S, N, V], bool [S]."""
    is_eos = jnp.arange(logits.shape[-1]) == EOS_ID
    wanted = is_eos[None, None, :] == at_end[:, None, None]
    return jnp.where(wanted, logits, NEG_INF)
