"""The compiled functions of decoding, and one batch as one program.

Each function of `steps` is compiled once for each `Spec` and set of shapes; `slots`
chooses the shapes, and keeps them few. Arrays that a function gives a new version of
are donated, so that they are changed in place.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import network
from mt3.decoding.steps import (
    Carry,
    Encoded,
    Spec,
    admit,
    encode,
    fit_cache,
    run_steps,
    split_weights,
    start,
    take_slots,
)
from mt3.errors import ShapeError

Array = jax.Array


@functools.partial(jax.jit, static_argnames=("spec", "cache_sizes"))
def decode_batch(
    spec: Spec, params: Any, frames: Array, *, cache_sizes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Decodes one batch from start to end inside one program (it can be traced).

    Args:
      spec: what the program is made for.
      params: nested dict as in T5X checkpoints.
      frames: float32 [B, T, input_depth].
      cache_sizes: rising lengths of cache; the last is `spec.max_length`.

    Returns:
      ids int32 [B, N, max_length] and scores float32 [B, N], best last.
    """
    batch, num_frames, _ = frames.shape
    weights = split_weights(params, spec)
    carry = start(spec, batch, num_frames, cache_sizes[0])
    everyone = jnp.arange(batch)
    carry = carry._replace(
        encoded=encode(spec, weights, frames),
        running=jnp.ones((batch,), bool),
        choice=spec.strategy.init(everyone, spec.max_length),
    )
    for size in cache_sizes:
        carry = carry._replace(cache=fit_cache(carry.cache, size))
        carry = run_steps(spec, weights, carry, jnp.int32(size), jnp.int32(batch))
    return spec.strategy.result(carry.choice)


_SPEC = ("spec",)
_split_weights = jax.jit(split_weights, static_argnames=_SPEC)
_encode = jax.jit(encode, static_argnames=_SPEC)
_start = jax.jit(
    start, static_argnames=("spec", "num_slots", "num_frames", "cache_length")
)
_admit = jax.jit(admit, static_argnames=_SPEC, donate_argnames="carry")
_run_steps = jax.jit(run_steps, static_argnames=_SPEC, donate_argnames="carry")
_fit_cache = jax.jit(fit_cache, static_argnames="length")
_take_slots = jax.jit(take_slots, static_argnames=_SPEC)


@functools.partial(jax.jit, static_argnames=_SPEC)
def _result(spec: Spec, choice: Any) -> tuple[Array, Array]:
    return spec.strategy.result(choice)


class Program:
    """The compiled functions bound to one set of parameters; see the functions."""

    def __init__(self, params: Mapping[str, Any], spec: Spec):
        """Arranges the parameters.

        Raises:
          CheckpointError: a layer is missing.
          ShapeError: more tokens than the position table has rows.
        """
        if spec.max_length > network.MAX_POSITIONS:
            raise ShapeError(
                f"decoding: max_length is {spec.max_length}; expected at most "
                f"{network.MAX_POSITIONS}, the rows of the position table"
            )
        self.spec = spec
        self._weights = _split_weights(dict(params), spec)

    def encode(self, frames: np.ndarray) -> Encoded:
        """Encodes segments [B, T, input_depth]."""
        return _encode(self.spec, self._weights, jnp.asarray(frames))

    def start(self, num_slots: int, num_frames: int, cache_length: int) -> Carry:
        """Returns a carry of empty slots."""
        return _start(self.spec, num_slots, num_frames, cache_length)

    def admit(
        self, carry: Carry, encoded: Encoded, row: int, slot: int, serial: int
    ) -> Carry:
        """Puts one encoded segment into a slot. `carry` must not be used again."""
        numbers = (np.int32(row), np.int32(slot), np.int32(serial))
        # Without the cache, whose length would make another program.
        admitted = _admit(self.spec, carry._replace(cache=()), encoded, *numbers)
        return admitted._replace(cache=carry.cache)

    def run(self, carry: Carry, max_steps: int, enough: int) -> Carry:
        """Runs steps until the host is wanted. `carry` must not be used again."""
        limits = (np.int32(max_steps), np.int32(enough))
        return _run_steps(self.spec, self._weights, carry, *limits)

    def fit_cache(self, carry: Carry, length: int) -> Carry:
        """Changes the length of the self-attention cache."""
        return carry._replace(cache=_fit_cache(carry.cache, length))

    def take_slots(self, carry: Carry, slots: np.ndarray) -> Carry:
        """Keeps some slots, int [S'], in that order."""
        return _take_slots(self.spec, carry, np.asarray(slots, np.int32))

    def status(self, carry: Carry) -> tuple[np.ndarray, np.ndarray]:
        """Returns which slots run, bool [S], and their positions, int32 [S]."""
        # Copies: views would keep the buffers from being donated.
        return np.array(carry.running), np.array(carry.choice.index)

    def result(self, carry: Carry) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [S, N, max_length] and scores float32 [S, N]."""
        ids, scores = _result(self.spec, carry.choice)
        return np.asarray(ids), np.asarray(scores)
