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

from collections.abc import Mapping
from typing import Any

import jax

from mt3 import network

Array = jax.Array


class LogitFilter:
    """A rule about the next token; all methods are pure and can be traced."""

    def __call__(self, logits: Array, state: Any, heard: Any) -> Array:
        """Returns the changed logits.

        Args:
          logits: float32 [R, V].
          state: of each row, from `init` and `advance`.
          heard: of each row's segment, from `hear`.
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

    def take(self, params: Mapping[str, Any], config: network.T5Config) -> Any:
        """Returns what the filter needs of a model's parameters.

        Raises:
          ConfigError: the network has no such part.
          CheckpointError: a parameter is missing.
        """
        return None

    def hear(self, taken: Any, encoded: Array, sown: Mapping[str, Any]) -> Any:
        """Returns what the filter wants to know of the encoder's output.

        It is computed once a segment, kept while the segment is decoded, and handed to
        each call.

        Args:
          taken: from `take`.
          encoded: the encoder's output, [B, T, emb_dim].
          sown: what the encoder's parts sow into "intermediates", by part.

        Returns:
          Arrays with B in front, or `None`.
        """
        return None

    def silence(self, slots: int) -> Any:
        """Returns arrays as `hear` does, for slots that hold no segment."""
        return None
