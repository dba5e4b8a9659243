"""Training metrics: sums over steps, a line of JSON, TensorBoard, a log line.

A step's metrics arrive as sums, `(total, count)` for averages and `(total,)` for what
counts once per step (`trainer.metric_sums`), and leave as one value for each name: the
totals of the steps over their counts, or over the number of steps. Names that T5X
writes as well have T5X's values.

`metrics.jsonl` holds one object a line with `step`, `split` and the values. A
resumed run appends: where a step occurs twice, the last line counts. A line is there
whole or not at all. One that cannot be written (a full disk) is logged, and the run
goes on: the numbers are in the log, and its checkpoints matter more. Without the
package tensorboardX nothing is written for TensorBoard.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mt3.errors import TrainingError

Sums = Mapping[str, tuple[float, ...]]

_LOG = logging.getLogger("mt3")


def summarize(steps: Sequence[Sums]) -> dict[str, float]:
    """Reduces the metrics of steps to one value each (see the module docstring).

    Args:
      steps: the sums of each step, all with the same names.

    Returns:
      Name -> value; 0 where nothing was counted.
    """
    result = {}
    for name in steps[0] if steps else ():
        total, *count = map(sum, zip(*(step[name] for step in steps), strict=True))
        count = count[0] if count else len(steps)
        result[name] = total / count if count else 0.0
    return result


def check_finite(steps: Sequence[Sums], first_step: int) -> None:
    """Stops a run whose metrics are no longer numbers.

    Args:
      steps: the sums of each step.
      first_step: number of the first of them, counted from 1.

    Raises:
      TrainingError: naming the metric and the step.
    """
    for offset, step in enumerate(steps):
        for name, (value, *_) in step.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"training: {name} is {value} at step {first_step + offset}; "
                    "stopped without saving that state. A lower learning rate, or "
                    "going on from the last checkpoint with another seed, may help"
                )


class MetricsWriter:
    """Writes to `metrics.jsonl` and to TensorBoard."""

    def __init__(self, summary_dir: str | Path):
        """Opens the files.

        Args:
          summary_dir: the run's folder; TensorBoard files go to `<split>/` in it.
        """
        # Slow to import, and not needed where nothing is trained. It imports Google's
        # cloud storage where that is installed, whose warnings say nothing here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import tensorboardX
            except ImportError:
                tensorboardX = None
                _LOG.info("tensorboardX is not installed: no files for TensorBoard")

        self._make_writer = getattr(tensorboardX, "SummaryWriter", None)
        self._folder = Path(summary_dir)
        self._writers = {}
        # Unbuffered: what could not be written must not come back with the next line.
        self._lines = open(  # noqa: SIM115 - closed by close()
            self._folder / "metrics.jsonl", "ab", buffering=0
        )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one moment.

        Args:
          split: `train`, or the evaluation stream's name.
          step: steps taken.
          values: finite or not; JSON has null for those that are not.
        """
        self.write_line(split, step, values)
        if self._make_writer is None:
            return
        with self._logging_failures("TensorBoard file"):
            writer = self._writer(split)
            for name, value in values.items():
                writer.add_scalar(name, float(value), step)
            writer.flush()

    def write_line(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one moment to `metrics.jsonl` alone."""
        line = {"step": step, "split": split, "time": round(time.time(), 3)}
        for name, value in values.items():
            value = float(value)
            line[name] = value if math.isfinite(value) else None
        data = (json.dumps(line) + "\n").encode()
        with self._logging_failures("metrics.jsonl"):
            end = self._lines.seek(0, os.SEEK_END)
            try:
                if self._lines.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._lines.truncate(end)
                raise

    def write_text(self, name: str, text: str, step: int) -> None:
        """Writes a text (the configuration) to TensorBoard."""
        if self._make_writer is None:
            return
        with self._logging_failures("TensorBoard file"):
            self._writer("train").add_text(name, text, step)

    def close(self) -> None:
        """Closes all files."""
        self._lines.close()
        with self._logging_failures("TensorBoard file"):
            for writer in self._writers.values():
                writer.close()

    def _writer(self, split: str):
        if split not in self._writers:
            self._writers[split] = self._make_writer(
                logdir=str(self._folder / split), flush_secs=30
            )
        return self._writers[split]

    @contextlib.contextmanager
    def _logging_failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _LOG.error("%s: cannot write %s: %s", self._folder, what, error)


def to_host(steps: Sequence[Mapping[str, Any]]) -> list[Sums]:
    """Copies the sums of steps from the devices."""
    return [jax.tree.map(float, jax.device_get(dict(step))) for step in steps]


class ProgressClock:
    """Speed and time left, without the time to compile and to evaluate."""

    def __init__(self, total_steps: int):
        """Starts idle; `total_steps` is the step to stop after."""
        self._total_steps = total_steps
        self._started: float | None = None
        self._steps = 0
        self._examples = 0
        self._window_started = 0.0
        self._paused_at: float | None = None

    def start(self) -> None:
        """Begins timing: call when the first step (compilation) is through."""
        if self._started is None:
            self._started = self._window_started = time.monotonic()

    def pause(self) -> None:
        """Stops the clock for an evaluation or a wait for the disk."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Goes on after `pause`."""
        if self._started is not None and self._paused_at is not None:
            away = time.monotonic() - self._paused_at
            self._started += away
            self._window_started += away
        self._paused_at = None

    def read(self, step: int, new_steps: int, new_examples: int) -> dict[str, float]:
        """Returns the speed since the last reading, and the seconds left.

        Args:
          step: steps taken in all.
          new_steps: timed steps since the last reading.
          new_examples: examples in those.
        """
        if self._started is None or new_steps < 1:
            return {}
        now = time.monotonic()
        window = max(now - self._window_started, 1e-9)
        self._steps += new_steps
        self._window_started = now
        per_step = (now - self._started) / self._steps
        return {
            "steps_per_second": new_steps / window,
            "examples_per_second": new_examples / window,
            "seconds_left": per_step * (self._total_steps - step),
        }


def log_line(split: str, step: int, values: Mapping[str, float]) -> None:
    """Logs the values that tell how a run goes."""
    shown = (
        ("loss_per_token", "loss/token {:.4f}"),
        ("accuracy", "accuracy {:.4f}"),
        ("learning_rate", "rate {:.3g}"),
        ("grad_norm", "gradient {:.3g}"),
        ("steps_per_second", "{:.3g} steps/s"),
        ("examples_per_second", "{:.3g} examples/s"),
        ("mfu", "{:.2%} of peak FLOP/s"),
        ("data_share", "{:.1%} waiting for data"),
    )
    parts = [form.format(values[name]) for name, form in shown if name in values]
    if "seconds_left" in values:
        left = round(values["seconds_left"])
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    # Apart, since a model may give metrics any names.
    fields = {"split": split, "step": step, "metrics": dict(values)}
    if "loss_per_token" in values:
        fields["loss"] = values["loss_per_token"]
    _LOG.info("%s step %d: %s", split, step, ", ".join(parts), extra=fields)
