"""`train`: a whole training run, from the configuration to the last checkpoint.

The function has T5X's name and parameters, so that T5X's gin files bind it.
Order of a start: the newest checkpoint in `model_dir`; else the one that
`checkpoint_cfg.restore` names; else fresh parameters. The data source goes on
with the batch after the last one trained on, so that an interrupted run ends with
the same parameters, bit for bit, as one that was not.

Differences from T5X's function:

1. Seeds left as None are drawn once and kept in the checkpoints; T5X draws new
   ones at each start.
2. The data position is always saved.
3. A loss that is not finite stops the run; no checkpoint is made of it.
4. SIGTERM or Ctrl-C ends the run after the step in progress, with a checkpoint.
   So does `max_minutes`.
5. At a pause the checkpoint is written before the evaluations, which are done at the
   last step too.
6. Without an `inference_evaluator_cls` the metrics of inference are logged as JSON
   lines and to TensorBoard; T5X's default logs nothing. In either case the scalars
   are in `metrics.jsonl`.
7. Actions and hardware random numbers are not offered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from mt3.configs import ModelConfig
from mt3.engine import checkpoints, data_sources, gin_utils, metrics_writer, utils
from mt3.engine.evaluation import InferenceEvaluator
from mt3.engine.partitioning import PjitPartitioner, logical_axis_names
from mt3.engine.run_loop import Periods, RunLoop, stop_request
from mt3.engine.train_state import TrainState
from mt3.engine.trainer import Trainer
from mt3.errors import ConfigError

_LOG = logging.getLogger("mt3")


def train(
    *,
    model: Any,
    train_dataset_cfg: utils.DatasetConfig,
    train_eval_dataset_cfg: utils.DatasetConfig | None,
    infer_eval_dataset_cfg: utils.DatasetConfig | None = None,
    checkpoint_cfg: utils.CheckpointConfig,
    partitioner: PjitPartitioner,
    trainer_cls: Callable[..., Trainer],
    model_dir: str,
    total_steps: int,
    eval_steps: int = 20,
    eval_period: int = 1000,
    relative_steps: int | None = None,
    stats_period: int | None = None,
    random_seed: int | None = None,
    use_hardware_rng: bool = False,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    inference_evaluator_cls: Any = None,
    get_dataset_fn: Callable[..., Any] = utils.get_dataset,
    concurrent_metrics: bool = True,
    actions: Mapping[str, Any] | None = None,
    train_eval_get_dataset_fn: Callable[..., Any] = utils.get_training_eval_datasets,
    run_eval_before_training: bool = False,
    train_state_initializer_cls: Any = None,
    use_orbax: bool = True,
    verify_matching_vocabs_fn: Callable[..., None]
    | None = utils.verify_matching_vocabs,
    gc_period: int = 0,
    max_minutes: float | None = None,
    prefetch: int = 2,
) -> tuple[int, TrainState]:
    """Trains a model.

    Args:
      model: offers loss_fn, eval_fn, get_initial_variables, optimizer_def.
      train_dataset_cfg: what to train on; handed to `get_dataset_fn`.
      train_eval_dataset_cfg: what to evaluate the loss on, or None.
      infer_eval_dataset_cfg: seqio task or mixture whose examples are decoded and
        scored at each evaluation, or None.
      checkpoint_cfg: saving, and what to start from.
      partitioner: the devices.
      trainer_cls: `trainer.Trainer` with its own settings bound.
      model_dir: folder for checkpoints, metrics and configuration.
      total_steps: step to stop after.
      eval_steps: batches of one evaluation.
      eval_period: steps between evaluations.
      relative_steps: steps to take from where the run starts, instead of
        `total_steps`.
      stats_period: steps between lines of metrics; None for the least of
        `eval_period`, the checkpoint period and 100.
      random_seed: seed of initialisation and dropout, and of the data where their
        own is None. None for a new one, kept in the checkpoints.
      use_hardware_rng: accepted for T5X's files; random numbers are always
        reproducible.
      summarize_config_fn: called as (model_dir, metrics writer, step).
      inference_evaluator_cls: `seqio.Evaluator` with its loggers bound; None for
        one that logs to JSON lines and TensorBoard.
      get_dataset_fn: (DatasetConfig, shard, shards, feature converter class) ->
        batches; see `data_sources`.
      concurrent_metrics: train on while the metrics of inference are computed.
      actions: refused unless None.
      train_eval_get_dataset_fn: makes the evaluation streams; called with
        `get_dataset_fn` as well where it takes that.
      run_eval_before_training: evaluate before the first step too.
      train_state_initializer_cls: accepted for T5X's files, unused.
      use_orbax: write checkpoints as T5X does today; False for its former way, that
        of the released weights. Either is read.
      verify_matching_vocabs_fn: called as (DatasetConfig, model) unless None; the
        default one for seqio tasks only.
      gc_period: accepted for T5X's files, unused.
      max_minutes: stop, with a checkpoint, after this time.
      prefetch: batches prepared ahead.

    Returns:
      (last step, state after it).

    Raises:
      ConfigError: settings that cannot work.
      CheckpointError: the checkpoint to start from is of another model.
      DataError: the data source failed.
      OutputError: `model_dir` cannot be written.
      TrainingError: a metric is not finite.
    """
    del use_hardware_rng, train_state_initializer_cls, gc_period
    _check_settings(actions, checkpoint_cfg.restore)
    if _compares_vocabularies(verify_matching_vocabs_fn, get_dataset_fn):
        for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg)):
            verify_matching_vocabs_fn(cfg, model)
    with utils.output_folder(model_dir, "train") as folder:
        pass
    seed = _choose_seed(folder, random_seed)
    init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(seed))

    # Without seeds of their own, both streams follow the run's.
    train_dataset_cfg = _with_seed(train_dataset_cfg, seed)
    converter = _feature_converter(model)
    data = get_dataset_fn(train_dataset_cfg, 0, 1, converter)
    source = data_sources.as_data_source(
        data, num_workers=train_dataset_cfg.num_workers or 0
    )
    eval_streams = {}
    if train_eval_dataset_cfg is not None:
        eval_streams = _eval_streams(
            train_eval_get_dataset_fn,
            _with_seed(train_eval_dataset_cfg, seed),
            eval_steps,
            converter,
            get_dataset_fn,
        )

    save_cfg = checkpoint_cfg.save
    manager = checkpoints.CheckpointManager(
        folder, save_cfg or utils.SaveCheckpointConfig(), use_orbax=use_orbax
    )
    state, shardings, position = _start_state(
        model,
        data_sources.batch_specs(source),
        partitioner,
        manager,
        checkpoint_cfg,
        init_rng,
    )
    if position is not None:
        source.restore(position)
    inference = None
    if infer_eval_dataset_cfg is not None:
        inference = InferenceEvaluator(
            infer_eval_dataset_cfg,
            inference_evaluator_cls,
            model,
            partitioner,
            folder,
            verify_matching_vocabs_fn,
        )
        if not inference.eval_tasks:
            _LOG.warning("inference evaluation: no task has a metric; none is done")

    step = int(state.step)
    if relative_steps:
        total_steps = step + relative_steps
    if total_steps < step:
        raise ConfigError(
            f"train: total_steps is {total_steps}, but {folder} is at step {step}"
        )
    with utils.output_folder(folder, "train"):
        _write_model_config(folder, model, source, get_dataset_fn)
        utils.write_model_info(folder, state.params)

    trainer = trainer_cls(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=tuple(eval_streams),
        summary_dir=str(folder),
        train_state_axes=shardings,
        rng=trainer_rng,
    )
    del state
    periods = Periods(
        stats=stats_period,
        evaluation=eval_period if eval_streams or inference else None,
        checkpoint=save_cfg.period if save_cfg else None,
        checkpoint_steps=tuple(save_cfg.checkpoint_steps or ()) if save_cfg else (),
        total=total_steps,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(manager.close)
        with utils.output_folder(folder, "train"):
            writer = metrics_writer.MetricsWriter(folder)
            stack.callback(writer.close)
            summarize_config_fn(str(folder), writer, step)
        if inference is not None:
            stack.callback(inference.close)
        prefetcher = data_sources.Prefetcher(source, depth=prefetch)
        stack.callback(prefetcher.close)
        run = RunLoop(
            trainer=trainer,
            batches=prefetcher,
            eval_streams=eval_streams,
            manager=manager if save_cfg else None,
            writer=writer,
            periods=periods,
            seed=seed,
            inference=inference,
            concurrent_metrics=concurrent_metrics,
        )
        stop = stack.enter_context(stop_request(max_minutes))
        if run_eval_before_training:
            run.evaluate(step)
        step = run.run(step, stop)
    return step, trainer.train_state


def _check_settings(
    actions: Any, restore_cfg: utils.RestoreCheckpointConfig | None
) -> None:
    if actions:
        raise ConfigError("train: actions is not offered by this engine")
    if restore_cfg is not None and restore_cfg.mode == "all":
        raise ConfigError(
            "train: RestoreCheckpointConfig.mode is 'all'; expected 'specific' or "
            "'latest', since training starts from one checkpoint"
        )


def _compares_vocabularies(verify: Any, get_dataset_fn: Any) -> bool:
    """Whether to call `verify`: the default one only knows seqio tasks."""
    if verify is None:
        return False
    is_default = inspect.unwrap(verify) is utils.verify_matching_vocabs
    return utils.reads_seqio(get_dataset_fn) or not is_default


def _choose_seed(folder: Path, random_seed: int | None) -> int:
    if random_seed is not None:
        return random_seed
    for step in reversed(checkpoints.checkpoint_steps(folder)):
        saved = checkpoints.read_data_state(folder / f"checkpoint_{step}")
        if "random_seed" in saved:
            return int(saved["random_seed"])
    seed = int(np.random.SeedSequence().entropy % 2**31)
    _LOG.info("random_seed is None: drew %d", seed)
    return seed


def _feature_converter(model: Any) -> Any:
    """Returns the model's converter class, or None where seqio is not installed."""
    try:
        return getattr(model, "FEATURE_CONVERTER_CLS", None)
    except ConfigError:
        return None


def _with_seed(cfg: utils.DatasetConfig, seed: int) -> utils.DatasetConfig:
    return cfg if cfg.seed is not None else dataclasses.replace(cfg, seed=seed)


def _eval_streams(
    make: Callable[..., Any],
    cfg: utils.DatasetConfig,
    eval_steps: int,
    converter: Any,
    get_dataset_fn: Callable[..., Any],
) -> Mapping[str, Any]:
    """Opens the evaluation streams; T5X's own functions take no `get_dataset_fn`."""
    extra = {}
    if "get_dataset_fn" in inspect.signature(make).parameters:
        extra["get_dataset_fn"] = get_dataset_fn
    return make(cfg, 0, 1, eval_steps, converter, **extra)


def _start_state(
    model: Any,
    specs: Mapping[str, Any],
    partitioner: PjitPartitioner,
    manager: checkpoints.CheckpointManager,
    checkpoint_cfg: utils.CheckpointConfig,
    init_rng: jax.Array,
) -> tuple[TrainState, TrainState, dict[str, Any] | None]:
    """Returns (state, its shardings, data position or None)."""
    shapes = {name: spec.shape for name, spec in specs.items()}
    types = {name: spec.dtype for name, spec in specs.items()}

    def create(rng):
        variables = flax.core.unfreeze(model.get_initial_variables(rng, shapes, types))
        state = TrainState.create(variables.pop("params"), model.optimizer_def)
        return state, variables

    fresh = None
    try:
        like, other_variables = jax.eval_shape(create, init_rng)
    except jax.errors.TracerArrayConversionError:
        # A model that computes initial values with NumPy is initialised as it is.
        fresh, other_variables = create(init_rng)
        like = jax.eval_shape(lambda: fresh)
    shardings = partitioner.state_shardings(like, logical_axis_names(other_variables))
    restored = manager.restore_latest(like, shardings)
    if restored is not None:
        _LOG.info("resuming at step %d", int(restored[0].step))
        return restored[0], shardings, restored[1].get("source")
    restore_cfg = checkpoint_cfg.restore
    if restore_cfg is not None and restore_cfg.path:
        state, position = checkpoints.restore_for_finetuning(
            restore_cfg, like, shardings, model.optimizer_def
        )
        return state, shardings, position
    if fresh is not None:
        return jax.device_put(fresh, shardings), shardings, None
    initialize = jax.jit(lambda rng: create(rng)[0], out_shardings=shardings)
    return initialize(init_rng), shardings, None


def _write_model_config(folder: Path, model: Any, *data: Any) -> None:
    """Writes model.json from what the data source and the network say."""
    candidates = (getattr(part, "model_config", None) for part in (model, *data))
    config = next((c for c in candidates if isinstance(c, ModelConfig)), None)
    if config is None:
        _LOG.warning(
            "neither the model nor the data source has a model_config: no model.json"
        )
        return
    network = getattr(getattr(model, "module", None), "config", None)
    if dataclasses.is_dataclass(network):
        sizes = dataclasses.asdict(network)
        config = dataclasses.replace(config, network=sizes)
    checkpoints.write_model_config(folder, config)


if __name__ == "__main__":
    from mt3.engine import launch

    raise SystemExit(launch.main())
