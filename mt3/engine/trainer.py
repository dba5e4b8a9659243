"""The training step, the evaluation step, and the loops over batches.

Differences from T5X's `Trainer`:

1. Each microbatch has its own dropout; T5X gives all of them the same one.
2. Metrics are float32 sums per step (see `metric_sums`), checked for values that are
   not finite before any checkpoint is written.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from mt3 import losses
from mt3.engine import metrics_writer
from mt3.engine.partitioning import PjitPartitioner
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError

_LOG = logging.getLogger("mt3")

# Name -> (total,) or (total, count); see `metric_sums`.
Metrics = dict[str, tuple[jax.Array, ...]]

_PER_STEP = ("loss", "z_loss", "cross_ent_loss")
# Steps that may be in flight before the host waits for one to end.
_STEPS_IN_FLIGHT = 2

# Dense bfloat16 FLOP/s by what is in the device's name; of several that fit, the
# first. From the makers' data sheets.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
# Matrix products for devices that are not listed: (size, type). A processor has no
# fast bfloat16.
_MEASURED = {"cpu": (1536, jnp.float32), "other": (8192, jnp.bfloat16)}


def metric_sums(
    model: Any,
    objective: jax.Array,
    metrics: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
) -> Metrics:
    """Returns a model's metrics as float32 sums that add up over batches.

    The result has a tuple for each name: `(total, count)` for an average (an object
    with these attributes), whose value is total / count; `(total,)` for a value that
    counts once per step. T5X counts `_PER_STEP` in the latter way, so that microbatches
    add up to their step.

    Beside the model's own names there are `loss`, `loss_per_token` (before any division
    by the model, over non-padding targets) and `objective` (what is minimised).

    Args:
      model: its `_loss_normalizing_factor` tells how the loss is divided.
      objective: the value that `loss_fn` returned.
      metrics: the metrics that it returned.
      batch: arrays [B, ...].
    """
    sums = {}
    for name, value in metrics.items():
        if name not in _PER_STEP and hasattr(value, "count"):
            sums[name] = (value.total, value.count)
        elif jnp.ndim(total := getattr(value, "total", value)) == 0:
            sums[name] = (total,)
    factor = getattr(model, "_loss_normalizing_factor", None)
    divisor, weights = losses.normalizing_factor_and_weights(factor, batch)
    sums.setdefault("loss", (objective,))
    loss = sums["loss"][0]
    undivided = loss if divisor is None else loss * divisor
    sums["loss_per_token"] = (undivided, jnp.sum(weights > 0))
    sums["objective"] = (objective,)
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), sums)


def accumulate_gradients(
    model: Any,
    params: Any,
    batch: Mapping[str, jax.Array],
    dropout_rng: jax.Array,
    num_microbatches: int | None,
    constrain: Callable[[Any], Any] = lambda batch: batch,
) -> tuple[Any, Metrics]:
    """Returns the gradients of the summed loss and the summed metrics.

    Args:
      model: offers loss_fn(params, batch, dropout_rng) -> (loss, metrics).
      params: the model's parameters.
      batch: arrays [B, ...]; every key is handed to the model.
      dropout_rng: key of this step.
      num_microbatches: parts that go through the model one after the other, to
        save memory; None or 1 for the whole batch at once.
      constrain: puts a microbatch on the mesh.

    Raises:
      ConfigError: the parts do not divide the batch.
    """

    def loss_fn(params, batch, rng):
        loss, metrics = model.loss_fn(params, batch, rng)
        return loss, metric_sums(model, loss, metrics, batch)

    gradient_fn = jax.grad(loss_fn, has_aux=True)
    if not num_microbatches or num_microbatches == 1:
        return gradient_fn(params, batch, dropout_rng)
    size = len(next(iter(batch.values())))
    if size % num_microbatches:
        raise ConfigError(
            f"trainer: {num_microbatches} microbatches do not divide a batch of {size}"
        )
    parts = jax.tree.map(
        lambda x: x.reshape(num_microbatches, size // num_microbatches, *x.shape[1:]),
        dict(batch),
    )

    def add_one(total, index_and_part):
        index, part = index_and_part
        rng = jax.random.fold_in(dropout_rng, index)
        new = gradient_fn(params, constrain(part), rng)
        return jax.tree.map(jnp.add, total, new), None

    shapes = jax.eval_shape(
        gradient_fn, params, jax.tree.map(lambda x: x[0], parts), dropout_rng
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add_one, zeros, (jnp.arange(num_microbatches), parts))
    return total


class Trainer:
    """Holds the state of a run, and moves it."""

    def __init__(
        self,
        model: Any,
        train_state: TrainState,
        partitioner: PjitPartitioner,
        eval_names: Sequence[str],
        summary_dir: str | None,
        train_state_axes: TrainState,
        rng: jax.Array,
        learning_rate_fn: Callable[[Any], jax.Array],
        num_microbatches: int | None = None,
        weight_metrics_computer: Any = None,
        peak_flops: float | str | None = None,
    ):
        """Sets up the compiled steps (compiled at their first call).

        Args:
          model: offers loss_fn, eval_fn, optimizer_def.
          train_state: state to go on from, placed by `train_state_axes`.
          partitioner: the devices.
          eval_names: names of evaluation streams; kept for T5X's signature.
          summary_dir: folder for metrics; kept for T5X's signature.
          train_state_axes: one sharding per leaf of the state.
          rng: key of the run; each step folds its number into it.
          learning_rate_fn: step -> learning rate.
          num_microbatches: parts of a batch that run one after the other.
          weight_metrics_computer: refused unless None.
          peak_flops: what one device can do in a second, for the FLOP utilisation;
            'auto' for the listed or else a measured figure; None for no such metric.

        Raises:
          ConfigError: an option that is not offered is set.
        """
        del eval_names, summary_dir
        if weight_metrics_computer is not None:
            raise ConfigError("trainer: weight_metrics_computer is not offered")
        self.train_state = train_state
        self._model = model
        self._partitioner = partitioner
        self._rng = rng
        self._learning_rate_fn = learning_rate_fn
        self._num_microbatches = num_microbatches
        devices = partitioner.mesh.devices.flat
        self.peak_flops = device_peak(peak_flops, devices[0])
        if self.peak_flops is not None:
            self.peak_flops *= len(devices)
        self._step_flops: dict[tuple, float] = {}
        self._train_step = partitioner.partition(
            self._one_step,
            in_shardings=(train_state_axes, partitioner.batch_sharding),
            out_shardings=(train_state_axes, partitioner.replicated),
            donate_argnums=(0,),
        )
        self._eval_step = partitioner.partition(
            self._one_evaluation,
            in_shardings=(train_state_axes.params, partitioner.batch_sharding),
            out_shardings=partitioner.replicated,
        )

    def _one_step(self, state: TrainState, batch):
        rng = jax.random.fold_in(self._rng, state.step)
        sharding = NamedSharding(self._partitioner.mesh, PartitionSpec("data"))
        grads, metrics = accumulate_gradients(
            self._model,
            state.params,
            batch,
            rng,
            self._num_microbatches,
            lambda part: jax.lax.with_sharding_constraint(part, sharding),
        )
        learning_rate = self._learning_rate_fn(state.step)
        params, opt_state = self._model.optimizer_def.apply_gradient(
            state.params, state.opt_state, grads, learning_rate=learning_rate
        )
        metrics["learning_rate"] = (jnp.asarray(learning_rate, jnp.float32),)
        metrics["grad_norm"] = (optax.tree.norm(grads),)
        # Catches a parameter that is not finite before a checkpoint is written; the
        # loss would show it one step later.
        metrics["param_norm"] = (optax.tree.norm(params),)
        return TrainState(state.step + 1, params, opt_state), metrics

    def _one_evaluation(self, params, batch):
        loss, metrics = self._model.eval_fn(params, batch)
        return metric_sums(self._model, loss, metrics, batch)

    def train_step(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """Applies one update and returns its metrics, still on the devices."""
        placed = self._partitioner.put_batch(batch)
        self.train_state, metrics = self._train_step(self.train_state, placed)
        return metrics

    def step_flops(self, batch: Mapping[str, np.ndarray]) -> float:
        """Returns the floating-point operations of a step on such a batch.

        Counted before XLA chooses library calls: it does not count the work inside
        cuBLAS and cuDNN, so a compiled step for a GPU seems to need much less. 0 where
        no peak is asked for or XLA gives no figure.
        """
        if self.peak_flops is None:
            return 0.0
        shapes = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for name, array in batch.items()
        }
        key = tuple(sorted((name, s.shape, str(s.dtype)) for name, s in shapes.items()))
        if key not in self._step_flops:
            lowered = self._train_step.lower(self.train_state, shapes)
            # A loop's body is counted once, however often it runs.
            flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
            repeats = self._num_microbatches or 1
            self._step_flops[key] = max(float(flops), 0.0) * repeats
        return self._step_flops[key]

    def train(
        self,
        batch_iter: Iterable[Mapping[str, np.ndarray]],
        num_steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainResult:
        """Runs steps until their number, or until asked to stop.

        Args:
          batch_iter: batches; one is drawn per step.
          num_steps: steps to take at most.
          should_stop: asked after each step.

        Returns:
          The metrics of each step taken, on the host, checked for finiteness.

        Raises:
          TrainingError: a metric is not finite.
          DataError: the batches ended, or the data source failed.
        """
        result = TrainResult()
        pending: collections.deque[Metrics] = collections.deque()
        first = int(self.train_state.step) + 1

        def take_oldest():
            result.steps.extend(metrics_writer.to_host([pending.popleft()]))
            metrics_writer.check_finite(
                result.steps[-1:], first + len(result.steps) - 1
            )

        for _ in range(num_steps):
            waited = time.monotonic()
            batch = next(batch_iter, None)
            if batch is None:
                result.ended = True
                break
            result.data_seconds += time.monotonic() - waited
            result.examples += len(next(iter(batch.values())))
            result.flops += self.step_flops(batch)
            pending.append(self.train_step(batch))
            if len(pending) > _STEPS_IN_FLIGHT:
                take_oldest()
            if should_stop():
                break
        while pending:
            take_oldest()
        return result

    def eval(
        self, batch_iters: Mapping[str, Iterable[Mapping[str, np.ndarray]]]
    ) -> dict[str, dict[str, float]]:
        """Returns the mean metrics of each evaluation stream, without dropout."""
        results = {}
        for name, batches in batch_iters.items():
            steps = [
                self._eval_step(
                    self.train_state.params, self._partitioner.put_batch(batch)
                )
                for batch in batches
            ]
            results[name] = metrics_writer.summarize(metrics_writer.to_host(steps))
        return results


class TrainResult:
    """What `Trainer.train` did.

    Attributes:
      steps: metrics of each step; see `metric_sums`.
      examples: examples trained on.
      flops: floating-point operations of the steps, where they are counted.
      data_seconds: time spent waiting for batches.
      ended: the batches ran out.
    """

    def __init__(self):
        self.steps: list[metrics_writer.Sums] = []
        self.examples = 0
        self.flops = 0.0
        self.data_seconds = 0.0
        self.ended = False


def device_peak(setting: float | str | None, device: Any) -> float | None:
    """Returns the peak FLOP/s of a device.

    Args:
      setting: a number; None for none; 'auto' for what `PEAKS` lists, or else what a
        large matrix product reaches.
      device: a JAX device.

    Raises:
      ConfigError: another text, or a number that is not positive.
    """
    if setting is None:
        return None
    if setting == "auto":
        kind = device.device_kind
        for name, peak in PEAKS.items():
            if name.lower() in kind.lower():
                _LOG.info("%s: peak of %.4g TFLOP/s (listed)", kind, peak / 1e12)
                return peak
        peak = measure_peak(device)
        _LOG.info("%s: peak of %.4g TFLOP/s (measured)", kind, peak / 1e12)
        return peak
    if isinstance(setting, int | float) and setting > 0:
        return float(setting)
    raise ConfigError(
        f"trainer: peak_flops is {setting!r}; expected a positive number, 'auto' or "
        "None"
    )


def measure_peak(device: Any, *, tries: int = 5) -> float:
    """Returns the FLOP/s that the best of some large matrix products reaches."""
    size, dtype = _MEASURED.get(device.platform, _MEASURED["other"])
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.dot)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(tries):
        started = time.monotonic()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.monotonic() - started)
    return 2.0 * size**3 / best
