"""Learning rates as functions of the step.

`create_learning_rate_scheduler` is T5X's, under T5X's name; the others are this
engine's. All of them are bound as `utils.NAME` in gin files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mt3.errors import ConfigError, near_misses

LearningRateFn = Callable[[Any], jax.Array]


def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    steps_per_decay: int = 20000,
    steps_per_cycle: int = 100000,
    step_offset: int = 0,
    min_learning_rate: float = 1e-8,
) -> LearningRateFn:
    """Returns T5X's product of factors as a function of the step.

    Args:
      factors: names joined by '*': `constant` (base_learning_rate),
        `linear_warmup` (step / warmup_steps, at most 1), `linear_decay` (warm-up
        to base_learning_rate, then a slope of decay_factor per step),
        `rsqrt_decay` (1 / sqrt(max(step, warmup_steps))),
        `rsqrt_normalized_decay` (the same, 1 during warm-up), `decay_every`
        (decay_factor every steps_per_decay), `cosine_decay` (half a cosine each
        steps_per_cycle after warm-up).
      base_learning_rate: rate where every other factor is 1.
      warmup_steps: steps of the warm-up.
      decay_factor: see `linear_decay` and `decay_every`.
      steps_per_decay: see `decay_every`.
      steps_per_cycle: see `cosine_decay`.
      step_offset: step that counts as 0.
      min_learning_rate: lower limit of the result.

    Returns:
      A function from the step (0 for the first update) to float32.

    Raises:
      ConfigError: a factor is unknown.
    """

    def linear_decay(step):
        down = 1.0 + decay_factor * (warmup_steps - step)
        return base_learning_rate * jnp.minimum(step / warmup_steps, down)

    def cosine_decay(step):
        progress = jnp.maximum(0.0, (step - warmup_steps) / steps_per_cycle)
        return jnp.maximum(0.0, 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0))))

    def late(step):
        return jnp.maximum(step, warmup_steps)

    known = {
        "constant": lambda step: base_learning_rate,
        "linear_warmup": lambda step: jnp.minimum(1.0, step / warmup_steps),
        "linear_decay": linear_decay,
        "rsqrt_decay": lambda step: 1.0 / jnp.sqrt(late(step)),
        "rsqrt_normalized_decay": lambda step: jnp.sqrt(warmup_steps / late(step)),
        "decay_every": lambda step: decay_factor ** (step // steps_per_decay),
        "cosine_decay": cosine_decay,
    }
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"create_learning_rate_scheduler: unknown factor {name!r}."
                f"{near_misses(name, known)}"
            )

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.maximum(0, jnp.asarray(step) - step_offset)
        rate = 1.0
        for name in names:
            rate = rate * known[name](step)
        return jnp.maximum(rate, min_learning_rate).astype(jnp.float32)

    return learning_rate


def create_cosine_schedule(
    base_learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
) -> LearningRateFn:
    """Returns a linear warm-up followed by half a cosine down to the end.

    Unlike T5X's `cosine_decay` factor it does not start over, ends at a chosen
    rate, and its first update already has a rate above 0.

    Args:
      base_learning_rate: rate at the end of the warm-up.
      total_steps: steps of the whole run, warm-up counted.
      warmup_steps: steps of the warm-up.
      final_fraction: rate at `total_steps` and later, relative to the base.

    Raises:
      ConfigError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(
            f"create_cosine_schedule: warmup_steps is {warmup_steps}; expected at "
            f"least 0 and less than total_steps, {total_steps}"
        )

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
        progress = jnp.clip(
            (step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0
        )
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        shape = final_fraction + (1.0 - final_fraction) * cosine
        return (base_learning_rate * warm * shape).astype(jnp.float32)

    return learning_rate


def create_stable_schedule(
    base_learning_rate: float,
    total_steps: int,
    decay_steps: int,
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
) -> LearningRateFn:
    """Returns a linear warm-up, a constant rate, and a line down to the end.

    How long the constant part lasts can be decided while the run goes on: resume it
    with other `total_steps`.

    Args:
      base_learning_rate: rate between warm-up and decay.
      total_steps: steps of the whole run.
      decay_steps: steps of the line down, at the end.
      warmup_steps: steps of the warm-up.
      final_fraction: rate at `total_steps`, relative to the base.

    Raises:
      ConfigError: warm-up and decay do not fit into the run.
    """
    if warmup_steps < 0 or decay_steps < 1 or warmup_steps + decay_steps > total_steps:
        raise ConfigError(
            f"create_stable_schedule: warmup_steps {warmup_steps} and decay_steps "
            f"{decay_steps} (at least 1) do not fit into total_steps, {total_steps}"
        )

    def learning_rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
        left = jnp.clip((total_steps - step) / decay_steps, 0.0, 1.0)
        shape = final_fraction + (1.0 - final_fraction) * left
        return (base_learning_rate * warm * shape).astype(jnp.float32)

    return learning_rate
