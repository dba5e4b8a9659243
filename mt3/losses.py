"""Cross-entropy of token targets, as T5X computes it, and the metrics of a batch.

The loss is a sum over targets, with z-loss. The formulas are those of T5X's `losses`
module; the targets are never written out as one-hot rows, which saves an array of the
size of the logits.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from mt3.errors import ConfigError, ShapeError, near_misses

Array = jax.Array
Metrics = dict[str, Any]

# Ways of dividing the loss, by name; a number divides by itself.
NORMALIZERS = (
    "NUM_REAL_TARGET_TOKENS",
    "NUM_TOTAL_TARGET_TOKENS",
    "AVERAGE_PER_SEQUENCE",
)


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Returns each target's cross-entropy in nats.

    With smoothing s the target distribution has 1 - s at the target and s / (V - 1)
    at each other token, and its own entropy is subtracted, so that 0 can be reached.

    Args:
      logits: float32 [B, L, V].
      targets: int [B, L].
      z_loss: weight of the squared log of the softmax's denominator, which keeps the
        logits near log-probabilities. It is part of the first result.
      label_smoothing: s, in [0, 1).

    Returns:
      Loss with z-loss, and the z-loss alone, each float32 [B, L].

    Raises:
      ShapeError: the targets do not fit the logits.
    """
    if logits.shape[:-1] != targets.shape:
        raise ShapeError(
            f"loss: targets of shape {tuple(targets.shape)}, expected "
            f"{tuple(logits.shape[:-1])} for logits of shape {tuple(logits.shape)}"
        )
    logits = jnp.asarray(logits, jnp.float32)
    vocab_size = logits.shape[-1]
    log_z = jax.scipy.special.logsumexp(logits, axis=-1)
    # A sum over a comparison instead of a gather: it fuses, and it splits well when
    # the vocabulary lies on several devices.
    vocabulary = jnp.arange(vocab_size).reshape((1,) * targets.ndim + (vocab_size,))
    is_target = vocabulary == targets[..., jnp.newaxis]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    if label_smoothing:
        high = 1.0 - label_smoothing
        low = label_smoothing / max(vocab_size - 1, 1)
        entropy = -(
            high * math.log(high) + (vocab_size - 1) * low * math.log(low + 1e-20)
        )
        expected_logit = (high - low) * target_logit + low * jnp.sum(logits, axis=-1)
        loss = log_z - expected_logit - entropy
    else:
        loss = log_z - target_logit
    penalty = z_loss * jnp.square(log_z)
    return loss + penalty, penalty


def weighted_cross_entropy(
    logits: Array,
    targets: Array,
    weights: Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    loss_normalizing_factor: float | Array | None = None,
) -> tuple[Array, Array]:
    """Returns the weighted sum of `cross_entropy` over a batch.

    Args:
      logits: float32 [B, L, V].
      targets: int [B, L].
      weights: float [B, L], 0 for padding.
      z_loss: see `cross_entropy`.
      label_smoothing: see `cross_entropy`.
      loss_normalizing_factor: divisor of both sums; `None` for 1.

    Returns:
      The loss with z-loss, and the z-loss alone, float32 scalars.
    """
    loss, penalty = cross_entropy(
        logits, targets, z_loss=z_loss, label_smoothing=label_smoothing
    )
    scale = 1.0 if loss_normalizing_factor is None else 1.0 / loss_normalizing_factor
    return jnp.sum(loss * weights) * scale, jnp.sum(penalty * weights) * scale


def target_weights(batch: Mapping[str, Array]) -> Array:
    """Returns `decoder_loss_weights`, or 1 for each target that is not padding."""
    weights = batch.get("decoder_loss_weights")
    if weights is None:
        weights = batch["decoder_target_tokens"] > 0
    return jnp.asarray(weights, jnp.float32)


def check_normalizing_factor(factor: float | str | None) -> float | str | None:
    """Returns the factor, names in upper case.

    Raises:
      ConfigError: an unknown name, or a number that can't divide.
    """
    if factor is None:
        return None
    # T5X hands an enumeration member where gin did not hand a string.
    name = getattr(factor, "name", factor)
    if isinstance(name, str):
        if name.upper() not in NORMALIZERS:
            raise ConfigError(
                f"loss_normalizing_factor: unknown {name!r}."
                + near_misses(name.upper(), NORMALIZERS)
            )
        return name.upper()
    if not float(factor) > 0:
        raise ConfigError(
            f"loss_normalizing_factor: got {factor}, expected a positive number"
        )
    return float(factor)


def normalizing_factor_and_weights(
    factor: float | str | None, batch: Mapping[str, Array]
) -> tuple[float | Array | None, Array]:
    """Turns a normalisation by name into a divisor and weights for one batch.

    Args:
      factor: `None`, a number, or one of `NORMALIZERS`: divide by the number of
        non-padding targets, by the number of all positions, or weigh every sequence
        equally (a packed batch by its segments) and divide by their number.
      batch: `decoder_target_tokens` [B, L], and `decoder_loss_weights` and
        `decoder_segment_ids` where there are any.

    Returns:
      The divisor (`None` for 1) and float32 weights [B, L].
    """
    weights = target_weights(batch)
    if factor == "NUM_REAL_TARGET_TOKENS":
        return _positive_sum(weights), weights
    if factor == "NUM_TOTAL_TARGET_TOKENS":
        return float(weights.size), weights
    if factor == "AVERAGE_PER_SEQUENCE":
        sums = _sums_per_sequence(weights, batch.get("decoder_segment_ids"))
        weights = jnp.where(sums > 0, weights / jnp.where(sums > 0, sums, 1.0), 0.0)
        return _positive_sum(weights), weights
    return factor, weights


def _positive_sum(weights: Array) -> Array:
    """Returns the sum, or 1 where it is 0: a batch of padding has loss 0, not NaN."""
    total = jnp.sum(weights)
    return jnp.where(total > 0, total, 1.0)


def _sums_per_sequence(weights: Array, segment_ids: Array | None) -> Array:
    """Returns, at each position, the sum of weights of its sequence: [B, L]."""
    if segment_ids is None:
        total = jnp.sum(weights, axis=-1, keepdims=True)
        return jnp.broadcast_to(total, weights.shape)
    same = segment_ids[:, :, jnp.newaxis] == segment_ids[:, jnp.newaxis, :]
    return jnp.sum(jnp.where(same, weights[:, jnp.newaxis, :], 0.0), axis=-1)


@flax.struct.dataclass
class Average:
    """A metric over batches: the sum of the totals over the sum of the counts."""

    total: Array
    count: Array

    def compute(self) -> Array:
        """Returns the value."""
        return self.total / self.count


def batch_metrics(
    *, logits: Array, targets: Array, weights: Array, loss: Array, z_loss: Array
) -> Metrics:
    """Returns the metrics of a batch under the names that T5X's models use.

    Args:
      logits: [B, L, V].
      targets: int [B, L].
      weights: [B, L]; positions of weight 0 do not count.
      loss: the loss, z-loss included.
      z_loss: the z-loss alone.

    Returns:
      `loss`, `z_loss` and `cross_ent_loss` per step, each again per target as
      `*_per_all_target_tokens`, padding counted; `loss_per_nonpadding_target_token`;
      `accuracy` of non-padding targets; and `non_padding_fraction/loss_weights`. They
      are objects with `total` and `count`: `Average`, or in a process of T5X's trainer
      the classes that it asks for.
    """
    average, per_step = _metric_classes()
    counts = weights > 0
    correct = jnp.logical_and(jnp.argmax(logits, axis=-1) == targets, counts)
    real = jnp.sum(counts, dtype=jnp.float32)
    size = jnp.asarray(targets.size, jnp.float32)
    metrics = {
        "loss_per_nonpadding_target_token": average(total=loss, count=real),
        "accuracy": average(total=jnp.sum(correct, dtype=jnp.float32), count=real),
        "non_padding_fraction/loss_weights": average(total=real, count=size),
    }
    parts = {"loss": loss, "z_loss": z_loss, "cross_ent_loss": loss - z_loss}
    for name, total in parts.items():
        metrics[name] = per_step(total=total)
        metrics[f"{name}_per_all_target_tokens"] = average(total=total, count=size)
    return metrics


def _metric_classes() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the classes of averages over counts and over steps.

    T5X's trainer sorts metrics by their classes, so it gets its own. They are taken
    from the running process, since nothing here needs T5X otherwise.
    """
    t5x_metrics = sys.modules.get("t5x.metrics")
    if hasattr(t5x_metrics, "AveragePerStep"):
        return t5x_metrics.clu_metrics.Average, t5x_metrics.AveragePerStep
    return Average, functools.partial(Average, count=jnp.ones((), jnp.float32))
