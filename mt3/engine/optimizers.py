"""Optimisers of Optax behind the small interface that the trainer calls.

Differences from T5X's module of the same name:

1. An optimiser made without `learning_rate` follows the trainer's
   `learning_rate_fn`. T5X demands the rate twice, and ignores the trainer's.
2. The state holds no copy of the step; the train state has it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import optax


class OptimizerDef(Protocol):
    """What the trainer needs of an optimiser."""

    def init_state(self, params: Any) -> Any:
        """Returns the optimiser's state for parameters."""

    def apply_gradient(
        self, params: Any, opt_state: Any, grads: Any, *, learning_rate: jax.Array
    ) -> tuple[Any, Any]:
        """Returns (new parameters, new state) after one update."""


class OptaxWrapper:
    """An Optax transformation as `OptimizerDef`.

    Attributes:
      uses_trainer_learning_rate: False when the transformation came with its own
        learning rate, so that the trainer's is only logged.
    """

    def __init__(
        self,
        optax_optimizer: optax.GradientTransformation | None = None,
        *,
        factory: Callable[[Any], optax.GradientTransformation] | None = None,
    ):
        """Wraps a finished transformation, or a factory taking a learning rate.

        Args:
          optax_optimizer: a transformation with its learning rate inside.
          factory: learning rate (a number or traced array) -> transformation,
            called anew at each trace; used when `optax_optimizer` is None.
        """
        if (optax_optimizer is None) == (factory is None):
            raise TypeError("OptaxWrapper takes either optax_optimizer or factory")
        self.uses_trainer_learning_rate = factory is not None
        self._factory = factory or (lambda learning_rate: optax_optimizer)

    def init_state(self, params: Any) -> Any:
        """Returns the optimiser's state for parameters."""
        return self._factory(0.0).init(params)

    def apply_gradient(
        self, params: Any, opt_state: Any, grads: Any, *, learning_rate: jax.Array
    ) -> tuple[Any, Any]:
        """Returns (new parameters, new state) after one update."""
        transformation = self._factory(learning_rate)
        updates, opt_state = transformation.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def wrap_optax_optimizer(
    optax_optimizer: Callable[..., optax.GradientTransformation],
) -> Callable[..., OptaxWrapper]:
    """Turns an Optax constructor into one that returns an `OptaxWrapper`.

    The result takes the constructor's parameters, plus `max_grad_norm` to clip
    the gradients' global norm before everything else. Where the constructor has a
    `learning_rate` and the caller leaves it out, the trainer's rate is used.
    """
    takes_rate = "learning_rate" in inspect.signature(optax_optimizer).parameters

    @functools.wraps(optax_optimizer)
    def wrapped(*args, max_grad_norm: float | None = None, **kwargs) -> OptaxWrapper:
        def clipped(transformation):
            if max_grad_norm is None:
                return transformation
            clip = optax.clip_by_global_norm(max_grad_norm)
            return optax.chain(clip, transformation)

        if not takes_rate or args or "learning_rate" in kwargs:
            return OptaxWrapper(clipped(optax_optimizer(*args, **kwargs)))
        return OptaxWrapper(
            factory=lambda rate: clipped(optax_optimizer(learning_rate=rate, **kwargs))
        )

    signature = inspect.signature(optax_optimizer)
    extra = inspect.Parameter(
        "max_grad_norm", inspect.Parameter.KEYWORD_ONLY, default=None
    )
    parameters = [
        parameter.replace(default=None) if name == "learning_rate" else parameter
        for name, parameter in signature.parameters.items()
    ]
    position = next(
        (
            index
            for index, parameter in enumerate(parameters)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD
        ),
        len(parameters),
    )
    parameters.insert(position, extra)
    wrapped.__signature__ = signature.replace(parameters=parameters)
    wrapped.__module__ = __name__
    # Gin would look through the wrapper, and miss `max_grad_norm`.
    del wrapped.__wrapped__
    return wrapped


def _chain(
    transformations: Sequence[optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Applies Optax transformations one after the other."""
    return optax.chain(*transformations)


def matrices_only(params: Any) -> Any:
    """Marks parameters of two or more dimensions: a mask for weight decay.

    Norm scales and other vectors are left alone.
    """
    return jax.tree.map(lambda parameter: parameter.ndim >= 2, params)


def _muon(
    learning_rate: Any,
    *,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    consistent_rms: float = 0.2,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    adam_weight_decay: float = 0.0,
    trained: Sequence[str] | None = None,
) -> optax.GradientTransformation:
    """Muon for the matrices of attention and MLP, AdamW for everything else.

    Muon orthogonalises the momentum of a matrix (Jordan et al. 2024). Its updates are
    scaled so that their root mean square is that of AdamW's (Liu et al. 2025), and one
    learning rate serves both.

    Args:
      learning_rate: of both; a number or a traced array.
      beta: decay of Muon's momentum.
      weight_decay: of Muon's matrices, times the learning rate.
      consistent_rms: root mean square of Muon's updates, times the learning rate.
      adam_b1: decay of AdamW's mean of gradients.
      adam_b2: decay of AdamW's mean of squares.
      adam_weight_decay: of AdamW's matrices, times the learning rate.
      trained: the first part of the paths of parameters to train, for example
        'decoder'; None for all. The others keep their values and have no state.
    """
    transformations = {
        "muon": optax.contrib.muon(
            learning_rate,
            beta=beta,
            weight_decay=weight_decay,
            consistent_rms=consistent_rms,
        ),
        "adamw": optax.adamw(
            learning_rate,
            b1=adam_b1,
            b2=adam_b2,
            weight_decay=adam_weight_decay,
            mask=matrices_only,
        ),
        "frozen": optax.set_to_zero(),
    }

    def label(path: tuple[Any, ...], parameter: Any) -> str:
        names = [str(key.key) for key in path]
        if trained is not None and names[0] not in trained:
            return "frozen"
        inside = any(name == "mlp" or name.endswith("attention") for name in names)
        return "muon" if inside and parameter.ndim == 2 else "adamw"

    return optax.partition(
        transformations, lambda params: jax.tree_util.tree_map_with_path(label, params)
    )


chain = wrap_optax_optimizer(_chain)
adabelief = wrap_optax_optimizer(optax.adabelief)
adagrad = wrap_optax_optimizer(optax.adagrad)
adam = wrap_optax_optimizer(optax.adam)
adamw = wrap_optax_optimizer(optax.adamw)
lamb = wrap_optax_optimizer(optax.lamb)
lion = wrap_optax_optimizer(optax.lion)
muon = wrap_optax_optimizer(_muon)
radam = wrap_optax_optimizer(optax.radam)
rmsprop = wrap_optax_optimizer(optax.rmsprop)
sgd = wrap_optax_optimizer(optax.sgd)
