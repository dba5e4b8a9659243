"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """Parameters, optimiser state and the number of steps taken.

    Attributes:
      step: int32 scalar, updates applied so far.
      params: nested dict of arrays, whatever the model initialises.
      opt_state: the optimiser's own tree.
    """

    step: jax.Array
    params: Any
    opt_state: Any

    @classmethod
    def create(cls, params: Any, optimizer_def: Any) -> TrainState:
        """Returns the state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer_def.init_state(params),
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the tree that checkpoints hold under `state`."""
        return {
            "params": self.params,
            "opt_state": self.opt_state,
            "step": self.step,
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> TrainState:
        """Rebuilds the state from `as_dict`'s tree."""
        return cls(
            step=tree["step"], params=tree["params"], opt_state=tree["opt_state"]
        )
