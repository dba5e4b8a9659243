"""Adafactor with T5X's parameters, made of Optax's parts.

Every parameter of MT3's networks has at most two dimensions. For those T5X
ignores its logical factor rules and factors a matrix only when both dimensions
are at least `min_dim_size_to_factor` (128), which is Optax's rule as well.

Source: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear
Memory Cost", ICML 2018. Differences from T5X's class:

1. Parameters of more than two dimensions (T5X: an explicit factor rule or an
   error) are factored over their two largest dimensions.
2. `max_parameter_scale` and `skip_nan_updates` are refused: training stops at a
   loss that is not finite.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from mt3.errors import ConfigError


class FactorDim(enum.Enum):
    """What one dimension of a parameter is for the second-moment estimate."""

    NONE = None
    BATCH = 1
    ROW = 2
    COLUMN = 3


def standard_logical_factor_rules() -> Mapping[str, FactorDim]:
    """Returns T5X's rules: logical axis name -> role in the factorisation."""
    return {
        "vocab": FactorDim.COLUMN,
        "embed": FactorDim.ROW,
        "mlp": FactorDim.COLUMN,
        "heads": FactorDim.COLUMN,
        "kv": FactorDim.COLUMN,
        "joined_kv": FactorDim.COLUMN,
        "relpos_buckets": FactorDim.NONE,
        "layers": FactorDim.BATCH,
        "stack": FactorDim.BATCH,
        "q_wi_fused": FactorDim.COLUMN,
        "o_wo_fused": FactorDim.COLUMN,
        "multiquery_heads": FactorDim.COLUMN,
        "kv_fused": FactorDim.COLUMN,
        "layer_norm_scale": FactorDim.NONE,
        "mlp_activations": FactorDim.COLUMN,
    }


class HParamMap:
    """A setting that depends on the parameter: first matching pattern wins."""

    def __init__(self, rules: Sequence[tuple[str, Any]]):
        """Takes (pattern searched in 'a/b/c' names, value) pairs."""
        self._rules = [(re.compile(pattern), value) for pattern, value in rules]

    def __getitem__(self, key: str) -> Any:
        for pattern, value in self._rules:
            if pattern.search(key):
                return value
        raise ConfigError(f"adafactor: no rule matches the parameter {key!r}")

    def __call__(self, params: Any) -> Any:
        """Returns the values, one per parameter, as a tree like `params`."""
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        return flax.traverse_util.unflatten_dict(
            {name: self[name] for name in flat}, sep="/"
        )


@flax.struct.dataclass
class AdafactorState:
    """The optimiser's arrays, each a tree like the parameters.

    Attributes:
      count: int32 scalar, updates so far.
      m: momentum; zeros of shape [1] without `beta1`.
      v: second moments of what is not factored, else zeros of shape [1].
      v_col: their means over the largest but one dimension, where factored.
      v_row: their means over the largest dimension, where factored.
    """

    count: jax.Array
    m: Any
    v: Any
    v_col: Any
    v_row: Any

    def to_param_states(self) -> dict[str, Any]:
        """Returns T5X's tree: at each parameter a dict `m`, `v`, `v_col`, `v_row`."""
        flat = {}
        for field in _MOMENTS:
            tree = flax.core.unfreeze(getattr(self, field))
            for path, leaf in flax.traverse_util.flatten_dict(tree).items():
                flat[*path, field] = leaf
        return flax.traverse_util.unflatten_dict(flat)

    def from_param_states(self, step: Any, tree: Mapping[str, Any]) -> AdafactorState:
        """Returns the state that T5X's tree and step describe."""
        fields = {field: {} for field in _MOMENTS}
        for path, leaf in flax.traverse_util.flatten_dict(dict(tree)).items():
            fields[path[-1]][path[:-1]] = leaf
        return AdafactorState(
            # A buffer of its own: a training step takes both over.
            count=step + 0 if isinstance(step, jax.Array) else step,
            **{
                field: flax.traverse_util.unflatten_dict(leaves)
                for field, leaves in fields.items()
            },
        )


_MOMENTS = ("m", "v", "v_col", "v_row")


def _scale_by_parameter_rms(least: float) -> optax.GradientTransformation:
    """Multiplies updates by the root mean square of their parameter, at least `least`.

    Optax's `scale_by_param_block_rms` gives the same numbers, and has derivatives at
    0 by way of a masked copy of each parameter and a second mean of it. Nobody needs
    them here, and the copies cost time and memory.
    """

    def scale(update, parameter):
        return update * jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(parameter))), least)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, params))


class Adafactor:
    """Adafactor as `OptimizerDef`; the learning rate is the trainer's."""

    uses_trainer_learning_rate = True

    def __init__(
        self,
        learning_rate: float | None = None,
        factored: bool = True,
        multiply_by_parameter_scale: bool | HParamMap = True,
        beta1: float | None = None,
        decay_rate: float = 0.8,
        step_offset: int = 0,
        clipping_threshold: float | None = 1.0,
        weight_decay_rate: float | None = None,
        min_dim_size_to_factor: int = 128,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
        dtype_momentum: Any = jnp.float32,
        factor_map: HParamMap | None = None,
        logical_factor_rules: Mapping[str, FactorDim] | None = None,
        weight_decay_rate_lr_exponent: float | None = None,
        global_norm_clip_threshold: float | None = None,
        max_parameter_scale: float | None = None,
        skip_nan_updates: bool = False,
    ):
        """Sets up the optimiser.

        Args:
          learning_rate: ignored, as in T5X's trainer, which passes its own.
          factored: estimate second moments of large matrices by row and column.
          multiply_by_parameter_scale: make the rate relative to each parameter's
            root mean square; a map decides by parameter name.
          beta1: momentum, or None for none.
          decay_rate: exponent of the second moments' decay, 1 - t^-decay_rate.
          step_offset: step at which the second moments' decay starts anew.
          clipping_threshold: largest root mean square of an update before the
            rate, or None.
          weight_decay_rate: fraction of each parameter removed per step, or None.
          min_dim_size_to_factor: both dimensions must be this large to factor.
          epsilon1: added to squared gradients.
          epsilon2: least parameter scale.
          dtype_momentum: type of the momentum buffers.
          factor_map: refused unless None; by-name factorisation is not offered.
          logical_factor_rules: accepted for T5X's gin files; without effect on
            parameters of up to two dimensions (see the module docstring).
          weight_decay_rate_lr_exponent: makes the decay proportional to the
            learning rate to this power.
          global_norm_clip_threshold: clip gradients to this global norm first.
          max_parameter_scale: refused unless None.
          skip_nan_updates: refused unless False.

        Raises:
          ConfigError: an option that is not offered is set.
        """
        del learning_rate, logical_factor_rules
        for name, value in (
            ("factor_map", factor_map),
            ("max_parameter_scale", max_parameter_scale),
            ("skip_nan_updates", skip_nan_updates or None),
        ):
            if value is not None:
                raise ConfigError(
                    f"adafactor: {name}={value!r} is not offered by this engine; "
                    "leave it unset or train on T5X"
                )
        self._second_moments = optax.scale_by_factored_rms(
            factored=factored,
            decay_rate=decay_rate,
            step_offset=step_offset,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=epsilon1,
        )
        self._parameter_scale = multiply_by_parameter_scale
        self._beta1 = beta1
        self._clipping_threshold = clipping_threshold
        self._weight_decay_rate = weight_decay_rate
        self._weight_decay_exponent = weight_decay_rate_lr_exponent
        self._epsilon2 = epsilon2
        self._dtype_momentum = dtype_momentum
        self._global_norm = global_norm_clip_threshold

    def _scaling(self, learning_rate) -> optax.GradientTransformation:
        """Returns what follows the second moments; it has no state of its own."""
        parts = []
        if self._clipping_threshold is not None:
            parts.append(optax.clip_by_block_rms(self._clipping_threshold))
        parts.append(optax.scale(learning_rate))
        by_scale = _scale_by_parameter_rms(self._epsilon2)
        if isinstance(self._parameter_scale, HParamMap):
            parts.append(optax.masked(by_scale, self._parameter_scale))
        elif self._parameter_scale:
            parts.append(by_scale)
        return optax.chain(*parts)

    def init_state(self, params: Any) -> AdafactorState:
        """Returns the optimiser's state for parameters."""
        moments = self._second_moments.init(params)
        if self._beta1 is None:
            momentum = jax.tree.map(lambda _: jnp.zeros((1,)), params)
        else:
            momentum = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, self._dtype_momentum), params
            )
        return AdafactorState(
            moments.count, momentum, moments.v, moments.v_col, moments.v_row
        )

    def apply_gradient(
        self,
        params: Any,
        opt_state: AdafactorState,
        grads: Any,
        *,
        learning_rate: jax.Array,
    ) -> tuple[Any, AdafactorState]:
        """Returns (new parameters, new state) after one update."""
        if self._global_norm:
            clip = optax.clip_by_global_norm(self._global_norm)
            grads, _ = clip.update(grads, clip.init(params), params)
        moments = optax.FactoredState(
            opt_state.count, opt_state.v_row, opt_state.v_col, opt_state.v
        )
        updates, moments = self._second_moments.update(grads, moments, params)
        scaling = self._scaling(learning_rate)
        updates, _ = scaling.update(updates, scaling.init(params), params)
        momentum, beta1 = opt_state.m, self._beta1
        if beta1 is not None:
            updates = jax.tree.map(
                lambda old, new: beta1 * old + (1.0 - beta1) * new, momentum, updates
            )
            momentum = jax.tree.map(
                lambda leaf: leaf.astype(self._dtype_momentum), updates
            )
        decay = self._weight_decay_rate
        if self._weight_decay_exponent:
            decay = (decay or 1.0) * learning_rate**self._weight_decay_exponent
        if decay is not None:
            updates = jax.tree.map(
                lambda update, param: update + decay * param, updates, params
            )
        updates = jax.tree.map(lambda update: -update, updates)
        new_state = AdafactorState(
            moments.count, momentum, moments.v, moments.v_col, moments.v_row
        )
        return optax.apply_updates(params, updates), new_state
