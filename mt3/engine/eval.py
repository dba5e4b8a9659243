"""`evaluate`: decode a task with one checkpoint or many, and score the notes.

The function has T5X's name and parameters, so that T5X's gin files bind it. Below
`output_dir` it leaves

    inference_eval/             files of seqio's loggers, such as <task>-metrics.jsonl
    metrics.jsonl               every scalar, one line per checkpoint and task
    eval.<task>.ckpt            the evaluated checkpoints, for mode 'all'
    config.gin, model-info.txt  configuration and parameters

Differences from T5X's function:

1. Every form of checkpoint that `mt3.checkpoints` reads is accepted.
2. It returns the metrics.
3. Without loggers bound, metrics are logged as JSON lines and to TensorBoard.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mt3 import files
from mt3.engine import gin_utils, metrics_writer, utils
from mt3.engine.evaluation import InferenceEvaluator, Report
from mt3.engine.partitioning import PjitPartitioner
from mt3.engine.restoring import WeightLoader, checkpoint_paths
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError

_LOG = logging.getLogger("mt3")


def evaluate(
    *,
    model: Any,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: PjitPartitioner,
    output_dir: str,
    inference_evaluator_cls: Callable[..., Any] | None = None,
    training_evaluator_cls: Callable[..., Any] | None = None,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    train_state_initializer_cls: Any = None,
    train_eval_get_dataset_fn: Callable[..., Any] = utils.get_training_eval_datasets,
    fallback_init_rng: int | None = None,
    use_orbax: bool = True,
) -> dict[int, dict[str, dict[str, float]]]:
    """Evaluates checkpoints on a seqio task or mixture.

    Args:
      model: offers predict_batch and its like, get_initial_variables.
      dataset_cfg: task or mixture, split, lengths, batch size.
      restore_checkpoint_cfg: which checkpoints; mode 'all' skips those that were
        evaluated before, according to `output_dir`.
      partitioner: the devices.
      output_dir: folder for the results.
      inference_evaluator_cls: `seqio.Evaluator` with its loggers bound; None for
        one that logs to JSON lines and TensorBoard.
      training_evaluator_cls: `trainer.Trainer`, to compute the loss as well; or None.
      summarize_config_fn: called as (model_dir=, summary_writer=None, step=0).
      train_state_initializer_cls: accepted for T5X's files, unused.
      train_eval_get_dataset_fn: makes the streams that the loss is computed on.
      fallback_init_rng: accepted for T5X's files, unused.
      use_orbax: accepted for T5X's files; every form is read.

    Returns:
      Step -> task -> metric -> value; the loss, where it is computed, under the name
      of its stream.

    Raises:
      ConfigError: no such task or split, no metric, other vocabularies.
      CheckpointError: there is no checkpoint, or it belongs to another model.
      DataError: the data cannot be read, or a metric failed.
      OutputError: `output_dir` cannot be written.
    """
    del train_state_initializer_cls, fallback_init_rng, use_orbax
    with utils.output_folder(output_dir, "eval") as folder:
        summarize_config_fn(model_dir=str(folder), summary_writer=None, step=0)
        done = _Done(folder / f"eval.{dataset_cfg.mixture_or_task_name}.ckpt")
        paths = checkpoint_paths(restore_checkpoint_cfg)
        if restore_checkpoint_cfg.mode == "all":
            paths = done.left_of(paths)
    with contextlib.ExitStack() as stack:
        evaluator = InferenceEvaluator(
            dataset_cfg, inference_evaluator_cls, model, partitioner, folder
        )
        stack.callback(evaluator.close)
        if not evaluator.eval_tasks:
            raise ConfigError(
                f"eval: no task of {dataset_cfg.mixture_or_task_name!r} has a metric"
            )
        specs = evaluator.specs()
        loader = WeightLoader(model, specs, partitioner)
        with utils.output_folder(folder, "eval"):
            utils.write_model_info(folder, loader.like.params)
            writer = stack.enter_context(metrics_writer.MetricsWriter(folder))
        compute_loss = _loss_function(
            training_evaluator_cls,
            train_eval_get_dataset_fn,
            dataset_cfg,
            model,
            partitioner,
            loader.shardings,
        )
        results: dict[int, dict[str, dict[str, float]]] = {}
        for path in paths:
            state = loader.load(path, restore_checkpoint_cfg.dtype)
            step = int(state.step)
            found = results.setdefault(step, {})
            for name, values in compute_loss(state).items():
                metrics_writer.log_line(name, step, values)
                writer.write(name, step, values)
                found.setdefault(name, {}).update(values)
            evaluator.evaluate(state)
            for report in evaluator.finished(wait=True):
                _write(report, writer)
                found.setdefault(report.task, {}).update(report.values)
            with utils.output_folder(folder, "eval"):
                done.add(path)
    return results


def _write(report: Report, writer: metrics_writer.MetricsWriter) -> None:
    report.log()
    writer.write_line(report.split, report.step, report.values)


def _loss_function(
    trainer_cls: Callable[..., Any] | None,
    get_streams: Callable[..., Any],
    cfg: utils.DatasetConfig,
    model: Any,
    partitioner: PjitPartitioner,
    shardings: TrainState,
) -> Callable[[TrainState], dict[str, dict[str, float]]]:
    """Returns what computes the loss of every evaluation stream."""
    if trainer_cls is None:
        return lambda state: {}
    streams = get_streams(cfg, 0, 1, feature_converter_cls=model.FEATURE_CONVERTER_CLS)
    trainer = trainer_cls(
        model=model,
        train_state=None,
        partitioner=partitioner,
        train_state_axes=shardings,
        eval_names=tuple(streams),
        summary_dir=None,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=None,
    )

    def compute(state: TrainState) -> dict[str, dict[str, float]]:
        trainer.train_state = state
        return trainer.eval(streams)

    return compute


class _Done:
    """The list of checkpoints that were evaluated, kept in a file."""

    def __init__(self, path: Path):
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._paths = text.split("\n") if text else []

    def left_of(self, paths: Sequence[str]) -> list[str]:
        """Returns the paths that are not in the list."""
        left = [path for path in paths if path not in self._paths]
        if len(left) < len(paths):
            _LOG.info(
                "eval: %d checkpoints were evaluated before, according to %s",
                len(paths) - len(left),
                self._path,
            )
        return left

    def add(self, path: str) -> None:
        """Adds a path, and writes the file."""
        if path not in self._paths:
            self._paths.append(path)
            files.write_text(self._path, "\n".join(self._paths))


if __name__ == "__main__":
    from mt3.engine import launch

    raise SystemExit(launch.main(mode="eval"))
