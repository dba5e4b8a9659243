"""Random parameters without compiling what draws them.

To compile a network's own initializers takes longer than most tests that need only
some parameters of its shapes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import checkpoints, network


def parameters(init: Callable[..., Any], *arguments: Any, seed: int = 0) -> Any:
    """Draws parameters of the shapes and about the sizes of a module's own.

    Args:
      init: called with a key and the arguments; returns variables with `params`.
      *arguments: arrays, of which the shapes are used.
      seed: of the numbers.

    Returns:
      The tree of parameters, float32.
    """
    shapes = jax.eval_shape(init, jax.random.key(0), *arguments)["params"]
    return _draw(shapes, np.random.default_rng(seed))


def _draw(shapes: Any, rng: np.random.Generator) -> Any:
    """Draws a tree of parameters."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        *_, module, leaf = f"/{name}".split("/")
        if leaf == "scale":
            return np.ones(shape)
        if leaf.endswith("bias"):
            return np.zeros(shape)
        fan_in = 1 if leaf == "embedding" else np.prod(shape[:-1])
        # A query's own initializer divides by the root of the head's depth.
        depth = 8 if module == "query" else 1
        return rng.normal(size=shape) / np.sqrt(max(1, fan_in) * depth)

    flat = checkpoints.flatten(shapes)
    values = {name: draw(name, leaf.shape) for name, leaf in flat.items()}
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return checkpoints.unflatten(arrays)


@contextlib.contextmanager
def first_parameters() -> Iterator[None]:
    """Lets networks begin with such parameters, whatever key they are given.

    For training runs: all else that a model does to its first parameters is done.
    """
    init = network.Transformer.init

    def draw(module: network.Transformer, key: Any, *arguments: Any, **options: Any):
        own = functools.partial(init, module, **options)
        variables = jax.eval_shape(own, key, *arguments)
        params = _draw(variables["params"], np.random.default_rng(0))
        return {**variables, "params": params}

    with mock.patch.object(network.Transformer, "init", draw):
        yield
