"""Logit filters: rules about the next token, applied one after another.

The decoder gives a logit for each token, and a strategy chooses by them. A list of
filters stands in between; each sees the logits that the one before it returns.
Forbidden tokens have the logit `NEG_INF`, and every filter keeps them forbidden.

A filter is a frozen dataclass, so that it is hashable and can be a static argument of a
compiled function, and overrides what it needs of `LogitFilter`: a rule about the logits
alone is one method. Shapes: S slots hold a segment each, with N rows (beams), so that
there are R = S * N rows; V is the size of the vocabulary.

Further filters are in `mt3.beyond`; nothing in this folder knows them.
"""

from __future__ import annotations

from typing import Any

import jax

Array = jax.Array


class LogitFilter:
    """A rule about the next token; all methods are pure and can be traced."""

    def __call__(self, logits: Array, state: Any) -> Array:
        """Returns the changed logits.

        Args:
          logits: float32 [R, V].
          state: of each row, from `init` and `advance`.
        """
        raise NotImplementedError

    def init(self, rows: int) -> Any:
        """Returns the state of fresh rows: arrays with `rows` in front, or `None`."""
        return None

    def advance(self, state: Any, tokens: Array) -> Any:
        """Follows the chosen tokens, int32 [R].

        With several beams, `state` is already that of the rows which the tokens
        continue.
        """
        return state
