"""The loop of a run: when it pauses, what it reports, and how it is stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mt3.engine import metrics_writer
from mt3.engine.checkpoints import CheckpointManager
from mt3.engine.data_sources import Prefetcher
from mt3.engine.evaluation import InferenceEvaluator
from mt3.engine.trainer import Trainer, TrainResult
from mt3.engine.utils import SaveCheckpointConfig
from mt3.errors import DataError

_LOG = logging.getLogger("mt3")


@dataclasses.dataclass(frozen=True)
class Periods:
    """The steps at which a run pauses: periodic ones and given ones.

    Attributes:
      stats: steps between lines of metrics, or None for the default of
        `stats_period`.
      evaluation: steps between evaluations, or None.
      checkpoint: steps between checkpoints, or None.
      checkpoint_steps: further steps with a checkpoint.
      total: the last step.
      checkpoint_minutes: write one, too, at the first pause after this time without
        any; or None.
    """

    stats: int | None
    evaluation: int | None
    checkpoint: int | None
    checkpoint_steps: tuple[int, ...]
    total: int
    checkpoint_minutes: float | None = None

    @classmethod
    def of(
        cls,
        stats: int | None,
        evaluation: int | None,
        save: SaveCheckpointConfig | None,
        total: int,
    ) -> Periods:
        """Returns the periods of a run with these checkpoints, or None."""
        period = save.period if save else None
        steps = tuple(save.checkpoint_steps or ()) if save else ()
        minutes = save.minutes if save else None
        return cls(stats, evaluation, period, steps, total, minutes)

    @property
    def stats_period(self) -> int:
        """Steps between lines of metrics."""
        return self.stats or min(self.evaluation or 100, self.checkpoint or 100, 100)

    def next_pause(self, step: int) -> int:
        """Returns the first step after `step` at which something is due."""
        regular = (self.stats_period, self.evaluation, self.checkpoint)
        candidates = [step + period - step % period for period in regular if period]
        candidates += [at for at in self.checkpoint_steps if at > step]
        return min(*candidates, self.total)

    def checkpoint_due(self, step: int, seconds: float = 0.0) -> bool:
        """Tells whether a checkpoint is written after this step.

        Args:
          step: the step.
          seconds: time since the last checkpoint, or since the start.
        """
        regular = self.checkpoint and step % self.checkpoint == 0
        minutes = self.checkpoint_minutes
        late = minutes is not None and seconds >= 60 * minutes
        return bool(regular) or late or step in self.checkpoint_steps


class _Window:
    """What happened since the last line of metrics."""

    def __init__(self):
        self.steps: list[metrics_writer.Sums] = []
        self._timed_steps = 0
        self._timed_examples = 0
        self._timed_flops = 0.0
        self._timed_data_seconds = 0.0
        self._data_seconds = 0.0

    def add(self, result: TrainResult, *, timed: bool) -> None:
        """Adds some steps; untimed ones do not count for the speed."""
        self.steps += result.steps
        self._data_seconds += result.data_seconds
        if timed:
            self._timed_steps += len(result.steps)
            self._timed_examples += result.examples
            self._timed_flops += result.flops
            self._timed_data_seconds += result.data_seconds

    def summary(
        self,
        step: int,
        clock: metrics_writer.ProgressClock,
        peak_flops: float | None = None,
    ) -> dict[str, float]:
        """Returns means, speed, and how long data were waited for.

        Where the devices' peak is known, `flops_per_second` and its share of the peak
        (`mfu`, the model's FLOP utilisation) are there too. The time to compile for
        another shape of batch counts like any other.
        """
        values = {
            **metrics_writer.summarize(self.steps),
            **clock.read(step, self._timed_steps, self._timed_examples),
            "data_wait_seconds": self._data_seconds,
        }
        if "steps_per_second" in values:
            per_second = values["steps_per_second"] / self._timed_steps
            values["data_share"] = min(self._timed_data_seconds * per_second, 1.0)
            if peak_flops and self._timed_flops:
                values["flops_per_second"] = self._timed_flops * per_second
                values["mfu"] = values["flops_per_second"] / peak_flops
        return values


class RunLoop:
    """The loop of one run: it trains, reports, saves and evaluates."""

    def __init__(
        self,
        *,
        trainer: Trainer,
        batches: Prefetcher,
        eval_streams: Mapping[str, Iterable[Any]],
        manager: CheckpointManager | None,
        writer: metrics_writer.MetricsWriter,
        periods: Periods,
        seed: int,
        inference: InferenceEvaluator | None = None,
        concurrent_metrics: bool = True,
    ):
        """Takes the run's parts.

        Args:
          trainer: takes the steps.
          batches: prepared ahead; knows its position.
          eval_streams: batches to evaluate on, by name.
          manager: writes checkpoints, or None for none.
          writer: takes the metrics.
          periods: when the run pauses.
          seed: kept in the checkpoints.
          inference: decodes and scores, after each evaluation of the loss; None for
            no such evaluation.
          concurrent_metrics: train on while its metrics are computed.
        """
        self._trainer = trainer
        self._batches = batches
        self._eval_streams = eval_streams
        self._manager = manager
        self._writer = writer
        self._periods = periods
        self._seed = seed
        self._inference = inference
        self._concurrent = concurrent_metrics
        self._clock = metrics_writer.ProgressClock(periods.total)
        self._saved = time.monotonic()

    def run(self, step: int, stop: StopRequest, *, evaluate_first: bool = False) -> int:
        """Trains until the last step or a request to stop; returns the step.

        At a pause the checkpoint comes first, so that an evaluation that fails, or is
        not waited for, costs no training. A run that is told to end at once (SIGTERM)
        is not evaluated.

        Raises:
          DataError: the batches ended too early, after a checkpoint was written; or
            computing the metrics of an evaluation failed.
          TrainingError: a metric is not finite.
        """
        if evaluate_first:
            self.evaluate(step)
        total = self._periods.total
        fields = {"stage": "train", "step": step, "steps": total}
        _LOG.info("training from step %d to %d", step, total, extra=fields)
        window = _Window()
        compiled = ended = False
        while step < self._periods.total and not stop.requested() and not ended:
            # The first step alone, since it compiles.
            pause = self._periods.next_pause(step) if compiled else step + 1
            result = self._trainer.train(self._batches, pause - step, stop.requested)
            step += len(result.steps)
            ended = result.ended
            window.add(result, timed=compiled)
            compiled = True
            self._clock.start()
            last = step == self._periods.total or stop.requested() or ended
            if window.steps and (last or step % self._periods.stats_period == 0):
                self._report_training(step, window)
                window = _Window()
            self._clock.pause()
            since = time.monotonic() - self._saved
            if last or self._periods.checkpoint_due(step, since):
                self._save(wait=stop.urgent)
            due = self._periods.evaluation and step % self._periods.evaluation == 0
            if (due or (last and self._periods.evaluation)) and not stop.urgent:
                self.evaluate(step)
            self._report_inference(wait=last and not stop.urgent)
            self._clock.resume()
        if stop.requested() and compiled:
            # The request may have come after `last` was decided.
            if window.steps:
                self._report_training(step, window)
            self._save(wait=stop.urgent)
        if ended and step < self._periods.total:
            raise DataError(
                f"train: the batches ended after step {step}; expected enough for "
                f"{self._periods.total} steps"
            )
        if stop.requested() and step < self._periods.total:
            _LOG.warning("stopped at step %d: %s", step, stop.reason)
        return step

    def evaluate(self, step: int) -> None:
        """Evaluates every stream and reports it, then starts decoding and scoring."""
        for name, values in self._trainer.eval(self._eval_streams).items():
            self._report(name, step, values)
        if self._inference is not None:
            self._inference.evaluate(self._trainer.train_state)
            self._report_inference(wait=not self._concurrent)

    def _report_inference(self, *, wait: bool) -> None:
        if self._inference is not None:
            for report in self._inference.finished(wait=wait):
                report.log()
                self._writer.write_line(report.split, report.step, report.values)

    def _report_training(self, step: int, window: _Window) -> None:
        values = window.summary(step, self._clock, self._trainer.peak_flops)
        self._report("train", step, values)

    def _report(self, split: str, step: int, values: Mapping[str, float]) -> None:
        metrics_writer.log_line(split, step, values)
        self._writer.write(split, step, values)

    def _save(self, *, wait: bool) -> None:
        if self._manager is not None:
            position = {"source": self._batches.state(), "random_seed": self._seed}
            self._manager.save(self._trainer.train_state, position)
            self._saved = time.monotonic()
            if wait:
                self._manager.wait()


class StopRequest:
    """Whether the run should end after the step in progress, and why.

    Attributes:
      reason: what asks for it; empty while nothing does.
      urgent: somebody waits for it, so nothing but the checkpoint is made.
    """

    def __init__(self, max_minutes: float | None):
        self._deadline = (
            None if max_minutes is None else time.monotonic() + 60 * max_minutes
        )
        self.reason = ""
        self.urgent = False

    def requested(self) -> bool:
        """Tells whether to stop."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if late and not self.reason:
            self.reason = "max_minutes is over"
        return bool(self.reason)


@contextlib.contextmanager
def stop_request(max_minutes: float | None) -> Iterator[StopRequest]:
    """Turns SIGTERM and Ctrl-C into a request; a second one ends at once."""
    request = StopRequest(max_minutes)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {}

    def handle(number, frame):
        del frame
        request.reason = f"received {signal.Signals(number).name}"
        request.urgent = True
        signal.signal(number, previous[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
