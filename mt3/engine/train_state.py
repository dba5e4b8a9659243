"""What a training run carries from step to step, and T5X's tree of it.

Checkpoints hold T5X's tree, `{'target': params, 'state': {'step', 'param_states'}}`,
so that either engine goes on from the other's. For Adafactor `param_states` is the
tree of the parameters with four arrays at each (see `adafactor.AdafactorState`); for
an Optax optimiser it is Flax's dict of the Optax state, a tuple being a dict with the
keys '0', '1' and so on, without what is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import serialization
from flax.traverse_util import empty_node, flatten_dict, unflatten_dict

from mt3.errors import CheckpointError


@flax.struct.dataclass
class TrainState:
    """Parameters, optimiser state and the number of steps taken.

    Attributes:
      step: int32 scalar, updates applied so far.
      params: nested dict of arrays, whatever the model initialises.
      opt_state: the optimiser's own tree. A state with the methods
        `to_param_states` and `from_param_states` says itself how T5X spells it.
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

    def state_dict(self) -> dict[str, Any]:
        """Returns T5X's tree; leaves may be arrays, shapes or shardings."""
        if hasattr(self.opt_state, "to_param_states"):
            param_states = self.opt_state.to_param_states()
        else:
            flat = flatten_dict(_optax_dict(self.opt_state))
            param_states = unflatten_dict(flat)
        return {
            "target": flax.core.unfreeze(self.params),
            "state": {"step": self.step, "param_states": param_states},
        }

    def restore_state(self, tree: Mapping[str, Any]) -> TrainState:
        """Returns the state that a tree like `state_dict`'s describes.

        Args:
          tree: of the names that `state_dict` gives, with any leaves.

        Raises:
          CheckpointError: the optimiser's names are others.
        """
        state = tree["state"]
        param_states = state.get("param_states", {})
        if hasattr(self.opt_state, "from_param_states"):
            opt_state = self.opt_state.from_param_states(state["step"], param_states)
        else:
            flat = flatten_dict(_optax_dict(self.opt_state), keep_empty_nodes=True)
            empty = {name: leaf for name, leaf in flat.items() if leaf is empty_node}
            full = unflatten_dict(empty | flatten_dict(dict(param_states)))
            try:
                opt_state = serialization.from_state_dict(self.opt_state, full)
            except ValueError as error:
                raise CheckpointError(f"optimiser state: {error}") from error
        return TrainState(state["step"], tree["target"], opt_state)


def _optax_dict(opt_state: Any) -> dict[str, Any]:
    tree = serialization.to_state_dict(opt_state)
    # An optimiser whose state is one array, or nothing.
    return tree if isinstance(tree, dict) else {"state": tree}


def shapes_of(create: Callable[[jax.Array], Any], rng: jax.Array) -> tuple[Any, Any]:
    """Returns the shapes of what `create(rng)` makes, without making it.

    A model that computes initial values with NumPy cannot be traced: then the second
    result is what `create` made; otherwise it is None.
    """
    try:
        return jax.eval_shape(create, rng), None
    except jax.errors.TracerArrayConversionError:
        made = create(rng)
        return jax.eval_shape(lambda: made), made
