"""What this machine reaches at best: matrix products and reading memory.

The other benchmarks divide by these, so that the distance to the limit is a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Limits(NamedTuple):
    """Best of some tries.

    Attributes:
      flops: multiplications and additions a second of a large matrix product.
      bytes: bytes a second of a matrix, larger than the caches, times a vector.
    """

    flops: float
    bytes: float


def best_seconds(function: Callable[[], Any], tries: int = 7) -> float:
    """Returns the shortest of some calls, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def measure(dtype: str = "float32") -> Limits:
    """Measures the default device."""
    on_cpu = jax.default_backend() == "cpu"
    size, rows = (2048, 16384) if on_cpu else (8192, 65536)
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    seconds = best_seconds(lambda: product(matrix, matrix))
    flops = 2 * size**3 / seconds
    tall = jnp.ones((rows, 4096), dtype)
    vector = jnp.ones((4096,), dtype)
    seconds = best_seconds(lambda: product(tall, vector))
    return Limits(flops, tall.nbytes / seconds)
