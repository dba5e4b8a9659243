"""Metrics of a training batch: plain sums, or `clu.metrics` objects for T5X."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mt3.errors import ConfigError

Array = jax.Array
Metrics = dict[str, Any]


def plain_metrics(
    *, logits: Array, targets: Array, weights: Array, loss: Array, z_loss: Array
) -> Metrics:
    """Returns float32 sums over the batch; those of several batches add up.

    Args:
      logits: [B, L, V].
      targets: int [B, L].
      weights: [B, L]; positions of weight 0 do not count.
      loss: the loss, z-loss included.
      z_loss: the z-loss alone.

    Returns:
      `loss`, `z_loss`, `num_correct` and `num_tokens` (non-padding targets, and
      those whose best logit is right), `num_examples` (rows with a target).
    """
    counts = weights > 0
    correct = jnp.logical_and(jnp.argmax(logits, axis=-1) == targets, counts)
    return {
        "loss": jnp.asarray(loss, jnp.float32),
        "z_loss": jnp.asarray(z_loss, jnp.float32),
        "num_correct": jnp.sum(correct, dtype=jnp.float32),
        "num_tokens": jnp.sum(counts, dtype=jnp.float32),
        "num_examples": jnp.sum(jnp.any(counts, axis=-1), dtype=jnp.float32),
    }


def clu_metrics(
    *, logits: Array, targets: Array, weights: Array, loss: Array, z_loss: Array
) -> Metrics:
    """Returns the same facts as `clu.metrics` objects, for T5X's trainer.

    Args: as `plain_metrics`.

    Returns:
      Averages: `loss`, `z_loss` and `cross_ent_loss` per batch,
      `loss_per_nonpadding_target_token`, `accuracy`, and
      `non_padding_fraction/loss_weights`.

    Raises:
      ConfigError: clu is not installed.
    """
    try:
        from clu.metrics import Average
    except ImportError as error:
        raise ConfigError(
            "models: metrics='clu' needs the package clu; install "
            "mt3-transcription[engine], or use metrics='plain'"
        ) from error
    sums = plain_metrics(
        logits=logits, targets=targets, weights=weights, loss=loss, z_loss=z_loss
    )
    one = jnp.ones((), jnp.float32)
    size = jnp.asarray(targets.size, jnp.float32)
    pairs = {
        "loss": (sums["loss"], one),
        "z_loss": (sums["z_loss"], one),
        "cross_ent_loss": (sums["loss"] - sums["z_loss"], one),
        "loss_per_nonpadding_target_token": (sums["loss"], sums["num_tokens"]),
        "accuracy": (sums["num_correct"], sums["num_tokens"]),
        "non_padding_fraction/loss_weights": (sums["num_tokens"], size),
    }
    return {
        name: Average(total=total, count=count)
        for name, (total, count) in pairs.items()
    }


METRICS: dict[str, Callable[..., Metrics]] = {
    "plain": plain_metrics,
    "clu": clu_metrics,
}
