"""Choosing the type of the next token first, and times by their neighbourhood.

A model that is sure that time moves on, but not how far, spreads its probability over
many time shifts. Each of them alone is then less likely than some unlikely pitch, and a
search for likely tokens writes that pitch: notes pile up at one time, and the rest of
the segment stays empty. `TypeFirst` changes the logits before a strategy sees them:

1. The best token of each type of event gets the probability of the whole type, or
   with `share` below 1 a part of what the others have (in logarithms), and these keep
   their distances to it. The likeliest type is then chosen, and in it the likeliest
   token.
2. Among time shifts, a token counts for itself and for those up to `reach` steps
   away: an onset some hundredths of a second off is nearly right.

This is not part of the original, and off by default. The scores of sequences are no
longer log-probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from mt3 import event_codec
from mt3.decoding.filters import LogitFilter
from mt3.decoding.strategies import NEG_INF
from mt3.errors import ConfigError
from mt3.vocabularies import NUM_SPECIAL_IDS

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TypeFirst(LogitFilter):
    """Chooses the type of a token before the token; see the module.

    Attributes:
      shifts: first and last id of the time shifts.
      others: first and last id of each other type of event.
      reach: steps to either side that count with a time shift.
      share: 1 for the whole type's probability, 0 for the best token's own.

    Raises:
      ConfigError: a negative reach, or a share outside 0..1.
    """

    shifts: tuple[int, int]
    others: tuple[tuple[int, int], ...]
    reach: int = 3
    share: float = 1.0

    def __post_init__(self):
        if self.reach < 0:
            raise ConfigError(
                f"decoding: a reach of {self.reach} steps; expected 0 or more"
            )
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"decoding: a share of {self.share}; expected 0 to 1")

    @classmethod
    def from_codec(
        cls, codec: event_codec.Codec, *, merged: bool = False, **settings
    ) -> TypeFirst:
        """Takes the types of a codec.

        Args:
          codec: MT3's codec.
          merged: all types but time shifts are one.
          **settings: `reach` and `share`.
        """
        ids = {}
        for name in codec.types:
            first, last = codec.event_type_range(name)
            ids[name] = (first + NUM_SPECIAL_IDS, last + NUM_SPECIAL_IDS)
        shifts = ids.pop("shift")
        others = tuple(sorted(ids.values()))
        if merged:
            others = ((others[0][0], others[-1][1]),)
        return cls(shifts, others, **settings)

    def __call__(self, logits: Array, state: Any = None, heard: Any = None) -> Array:
        """Changes logits [..., V]; see `LogitFilter`."""
        for first, last in (self.shifts, *self.others):
            part = logits[..., first : last + 1]
            own = jnp.max(part, axis=-1, keepdims=True)
            total = logsumexp(part, axis=-1, keepdims=True)
            total = own + self.share * (total - own)
            allowed = part > NEG_INF / 2
            if (first, last) == self.shifts and self.reach:
                part = jnp.where(allowed, self._with_neighbours(part), NEG_INF)
            best = jnp.max(part, axis=-1, keepdims=True)
            changed = jnp.where(allowed, part - best + total, NEG_INF)
            logits = logits.at[..., first : last + 1].set(changed)
        return logits

    def _with_neighbours(self, part: Array) -> Array:
        """Returns the logarithm of each probability with those up to `reach` away."""
        size = part.shape[-1]
        widths = [(0, 0)] * (part.ndim - 1) + [(self.reach, self.reach)]
        padded = jnp.pad(part, widths, constant_values=NEG_INF)
        around = [padded[..., i : i + size] for i in range(2 * self.reach + 1)]
        return logsumexp(jnp.stack(around), axis=0)
