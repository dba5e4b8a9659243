"""Evaluation by inference: decode a task's examples, score the notes, report.

`InferenceEvaluator` joins a seqio evaluator (which knows the task's targets, metrics
and loggers) and a `Predictor`. Loggers write below `<folder>/inference_eval`, as
T5X's do; the scalars come back as `Report`s, for the log and `metrics.jsonl`.

Metrics may be computed in seqio's own thread while training goes on. A failure there
is raised by the next `finished()` or `evaluate()`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mt3.engine import utils
from mt3.engine.partitioning import PjitPartitioner
from mt3.engine.prediction import Predictor
from mt3.engine.train_state import TrainState
from mt3.errors import DataError
from mt3.scoring.counts import MAIN_METRICS

_LOG = logging.getLogger("mt3")

# Scores in one line of the log.
_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Report:
    """The scalar metrics of one task at one step."""

    step: int
    task: str
    values: Mapping[str, float]

    @property
    def split(self) -> str:
        """Its name among the splits in `metrics.jsonl`."""
        return f"inference_eval/{self.task}"

    def log(self) -> None:
        """Logs a line with the main metrics, or the first ones."""
        names = [name for name in MAIN_METRICS if name in self.values]
        names = names or list(self.values)
        shown = ", ".join(f"{n} {self.values[n]:.4f}" for n in names[:_SHOWN])
        fields = {"split": self.split, "step": self.step, "metrics": dict(self.values)}
        text = shown or "no scalars"
        _LOG.info("%s step %d: %s", self.split, self.step, text, extra=fields)


class InferenceEvaluator:
    """Evaluates weights on one task or mixture, again and again."""

    def __init__(
        self,
        infer_eval_dataset_cfg: utils.DatasetConfig,
        inference_evaluator_cls: Callable[..., Any] | None,
        model: Any,
        partitioner: PjitPartitioner,
        log_dir: str | Path | None = None,
        verify_matching_vocabs_fn: Callable[..., None]
        | None = utils.verify_matching_vocabs,
    ):
        """Reads the evaluation data once, to keep it and to measure it.

        Args:
          infer_eval_dataset_cfg: what to evaluate on.
          inference_evaluator_cls: `seqio.Evaluator` with its loggers bound; None for
            one that logs to JSON lines and TensorBoard.
          model: offers the methods of `prediction.METHODS`.
          partitioner: the devices.
          log_dir: folder above `inference_eval`; None for no loggers.
          verify_matching_vocabs_fn: called as (DatasetConfig, model) unless None.

        Raises:
          ConfigError: no such task or split, not cached though asked for, other
            vocabularies, or seqio is not installed.
          DataError: the data cannot be read.
        """
        cfg = infer_eval_dataset_cfg
        self._reader = utils.seqio_data(f"evaluation on {cfg.mixture_or_task_name!r}")
        if verify_matching_vocabs_fn is not None:
            verify_matching_vocabs_fn(cfg, model)
        provider = self._reader.get_provider(cfg)
        self._reader.check_readable(provider, cfg.split, use_cached=cfg.use_cached)
        self._name = f"evaluation on {provider.name}, split {cfg.split}"
        self._cfg = cfg
        self._model = model
        self._partitioner = partitioner
        self._predictor: Predictor | None = None
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._reports: list[Report] = []
        logging_to = {"logger_cls": ()}
        if log_dir is not None:
            # seqio's JSON logger expects its folder to be there.
            with utils.output_folder(Path(log_dir) / "inference_eval", "eval") as path:
                logging_to = {"log_dir": str(path)}
        with self._reader.reading(self._name):
            self._evaluator = (inference_evaluator_cls or _default_evaluator())(
                mixture_or_task_name=provider.name,
                feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
                eval_split=cfg.split,
                use_cached=cfg.use_cached,
                seed=cfg.seed,
                sequence_length=cfg.task_feature_lengths,
                use_memory_cache=cfg.use_memory_cache,
                **logging_to,
            )
        if not self.eval_tasks:
            _LOG.warning("%s: no task has a metric; none is computed", self._name)

    @property
    def eval_tasks(self) -> list[Any]:
        """The tasks that have the split and a metric."""
        return list(self._evaluator.eval_tasks)

    def specs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the features of a batch, as objects with shape and dtype."""
        dataset = next(iter(self._evaluator.cached_model_datasets.values()))
        _, features = dataset.element_spec
        return {
            name: jax.ShapeDtypeStruct(
                (self._cfg.batch_size, *spec.shape), spec.dtype.as_numpy_dtype
            )
            for name, spec in features.items()
        }

    def evaluate(self, train_state: TrainState) -> None:
        """Decodes and scores all examples, and starts computing the metrics.

        Args:
          train_state: weights, placed on the devices, and step.

        Raises:
          DataError: reading failed, or the metrics of the evaluation before did.
        """
        if not self.eval_tasks:
            return
        self._reports = self.finished(wait=True)
        step = int(train_state.step)
        started = time.monotonic()
        if self._predictor is None:
            self._predictor = Predictor(
                self._model,
                self._partitioner,
                jax.tree.map(lambda leaf: leaf.sharding, train_state.params),
                self._cfg.batch_size,
            )

        def infer(mode: str, dataset: Any) -> Any:
            examples = self._reader.iterate(dataset, self._name)
            return self._predictor.run(mode, train_state.params, examples)

        future, _ = self._evaluator.evaluate(
            compute_metrics=True,
            step=step,
            predict_fn=functools.partial(infer, "predict"),
            score_fn=functools.partial(infer, "score"),
            predict_with_aux_fn=functools.partial(infer, "predict_with_aux"),
        )
        self._pending = (step, future)
        elapsed = time.monotonic() - started
        fields = {"stage": "decode", "elapsed": round(elapsed, 3)}
        _LOG.info("%s: decoded in %.1f s", self._name, elapsed, extra=fields)

    def finished(self, *, wait: bool = False) -> list[Report]:
        """Returns the reports of an evaluation that has ended; none twice.

        Args:
          wait: until the evaluation under way has ended.

        Raises:
          DataError: computing or logging the metrics failed.
        """
        reports, self._reports = self._reports, []
        if self._pending is None or not (wait or self._pending[1].done()):
            return reports
        step, future = self._pending
        self._pending = None
        try:
            results = future.result() or {}
        except Exception as error:  # whatever a metric or a logger raises
            raise DataError(f"{self._name}, step {step}: {error}") from error
        reports += [
            Report(step, task, dict(_scalars(values)))
            for task, values in results.items()
        ]
        return reports

    def close(self) -> None:
        """Waits for the thread; a failure that nobody has seen yet is logged."""
        try:
            self.finished(wait=True)
        except DataError as error:
            _LOG.error("%s", error)
        self._evaluator.close()


def _scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the metrics that are one number."""
    for name, value in values.items():
        number = np.asarray(getattr(value, "value", value))
        if number.size == 1 and np.issubdtype(number.dtype, np.number):
            yield name, float(number.reshape(()))


def _default_evaluator() -> Callable[..., Any]:
    import seqio

    loggers = [
        # Every example's prediction beside its spectrogram would be gigabytes.
        functools.partial(seqio.JSONLogger, write_n_results=0),
        seqio.TensorBoardLogger,
    ]

    def make(**kwargs: Any) -> Any:
        return seqio.Evaluator(**{"logger_cls": loggers, **kwargs})

    return make
