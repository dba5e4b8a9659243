"""`train`: a whole training run, from the configuration to the last checkpoint.

The function has T5X's name and parameters, so that T5X's gin files bind it. Below
`model_dir` it leaves

    checkpoint_<step>/   parameters, optimiser, data position, seed (`checkpoints`)
    metrics.jsonl        every metric, a line each time; TensorBoard files beside it
    inference_eval/      scores of the notes (`evaluation`)
    config.gin, model-info.txt, model.json   what was trained

A run goes through these steps:

1. Check the settings, and compare the vocabularies of task and model.
2. Choose the seed: the one that is set, else the one that the newest checkpoint
   holds, else a new one.
3. Open the data: training batches, the streams on which the loss is evaluated.
4. Make the state: the newest checkpoint in `model_dir`; else the one that
   `checkpoint_cfg.restore` names; else fresh parameters. The data source goes on with
   the batch after the last one trained on, so that an interrupted run ends with the
   same parameters, bit for bit, as one that was not interrupted.
5. Prepare the evaluation by inference, where one is asked for.
6. Write down what is trained: configuration, sizes, model.
7. Loop (`run_loop`): train until something is due, then report, save, evaluate.

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

Parameters of `train`, where the name does not say all:

    model                      offers loss_fn, eval_fn, get_initial_variables,
                               optimizer_def
    train_eval_dataset_cfg     what to evaluate the loss on, or None
    infer_eval_dataset_cfg     seqio task or mixture whose examples are decoded and
                               scored at each evaluation, or None
    trainer_cls                `trainer.Trainer` with its own settings bound
    total_steps                the step to stop after; with `relative_steps` that many
                               steps from where the run starts
    eval_steps                 batches of one evaluation
    stats_period               steps between lines of metrics; None for the least of
                               `eval_period`, the checkpoint period and 100
    random_seed                of initialisation and dropout, and of the data where
                               their own is None
    summarize_config_fn        called as (model_dir, metrics writer, step)
    inference_evaluator_cls    `seqio.Evaluator` with its loggers bound
    get_dataset_fn             (DatasetConfig, shard, shards, feature converter class)
                               -> batches; see `data_sources`. If it has an attribute
                               `uses_feature_converter` that is False, it gets None
                               for the class, and seqio is not imported
    concurrent_metrics         train on while the metrics of inference are computed
    train_eval_get_dataset_fn  makes the evaluation streams; gets `get_dataset_fn` too
                               where it takes that
    use_orbax                  write checkpoints as T5X does today; False for its former
                               way, that of the released weights. Either is read
    verify_matching_vocabs_fn  called as (DatasetConfig, model) unless None; the default
                               one for seqio tasks only
    max_minutes                stop, with a checkpoint, after this time
    prefetch                   batches prepared ahead

`use_hardware_rng`, `train_state_initializer_cls` and `gc_period` are accepted for T5X's
files and have no effect.

`train` raises ConfigError for settings that cannot work, CheckpointError for a
checkpoint of another model, DataError where the data source fails, OutputError where
`model_dir` cannot be written, and TrainingError for a metric that is not finite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from mt3 import files
from mt3.configs import ModelConfig
from mt3.engine import checkpoints, data_sources, gin_utils, metrics_writer, utils
from mt3.engine.evaluation import InferenceEvaluator
from mt3.engine.partitioning import PjitPartitioner, logical_axis_names
from mt3.engine.run_loop import Periods, RunLoop, stop_request
from mt3.engine.train_state import TrainState, shapes_of
from mt3.engine.trainer import Trainer
from mt3.errors import ConfigError, check_number

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
    verify_matching_vocabs_fn: Any = utils.verify_matching_vocabs,
    gc_period: int = 0,
    max_minutes: float | None = None,
    prefetch: int = 2,
) -> tuple[int, TrainState]:
    """Trains a model; returns the last step and the state after it.

    The module's docstring has the order of events, the parameters and the errors.
    """
    del use_hardware_rng, train_state_initializer_cls, gc_period
    _check_settings(actions, checkpoint_cfg.restore)
    counts = {
        "total_steps": total_steps,
        "eval_steps": eval_steps,
        "eval_period": eval_period,
        "relative_steps": relative_steps,
        "stats_period": stats_period,
        "prefetch": prefetch,
    }
    for name, value in counts.items():
        if value is not None:
            check_number(f"train.{name}", value, 0, whole=True)
    if max_minutes is not None:
        check_number("train.max_minutes", max_minutes, 0)
    if _compares_vocabularies(verify_matching_vocabs_fn, get_dataset_fn):
        for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg)):
            verify_matching_vocabs_fn(cfg, model)
    with contextlib.ExitStack() as stack:
        with utils.output_folder(model_dir, "train") as folder:
            # Two runs would take each other's checkpoints for their own.
            stack.enter_context(files.sole_writer(folder, "train"))
            seed = _choose_seed(folder, random_seed)
        init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(seed))
        source = _open_source(train_dataset_cfg, seed, model, get_dataset_fn)
        open_streams = _with_get_dataset_fn(train_eval_get_dataset_fn, get_dataset_fn)
        eval_streams = _open_eval_streams(
            train_eval_dataset_cfg, seed, model, eval_steps, open_streams
        )
        save_cfg = checkpoint_cfg.save or utils.SaveCheckpointConfig()
        manager = checkpoints.CheckpointManager(folder, save_cfg, use_orbax=use_orbax)
        stack.callback(manager.close)
        state, shardings = _start_state(
            model, source, partitioner, manager, checkpoint_cfg.restore, init_rng
        )
        step = int(state.step)
        total_steps = _last_step(step, total_steps, relative_steps, folder)
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
            stack.callback(inference.close)
        with utils.output_folder(folder, "train"):
            _write_model_config(folder, model, source, get_dataset_fn)
            utils.write_model_info(folder, state.params)
            writer = stack.enter_context(metrics_writer.MetricsWriter(folder))
            summarize_config_fn(str(folder), writer, step)
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
        prefetcher = data_sources.Prefetcher(source, depth=prefetch)
        stack.callback(prefetcher.close)
        run = RunLoop(
            trainer=trainer,
            batches=prefetcher,
            eval_streams=eval_streams,
            manager=manager if checkpoint_cfg.save else None,
            writer=writer,
            periods=Periods.of(stats_period, eval_period, save_cfg, total_steps),
            seed=seed,
            inference=inference,
            concurrent_metrics=concurrent_metrics,
        )
        stop = stack.enter_context(stop_request(max_minutes))
        step = run.run(step, stop, evaluate_first=run_eval_before_training)
        return step, trainer.train_state


def _last_step(
    step: int, total_steps: int, relative_steps: int | None, folder: Path
) -> int:
    last = step + relative_steps if relative_steps else total_steps
    if last < step:
        raise ConfigError(
            f"train: total_steps is {last}, but {folder} is at step {step}"
        )
    return last


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


def _feature_converter(model: Any, get_dataset_fn: Any) -> Any:
    """Returns the model's converter class; None if unused, or without seqio."""
    # The class needs seqio, whose import takes many seconds.
    if not getattr(get_dataset_fn, "uses_feature_converter", True):
        return None
    try:
        return getattr(model, "FEATURE_CONVERTER_CLS", None)
    except ConfigError:
        return None


def _with_seed(cfg: utils.DatasetConfig, seed: int) -> utils.DatasetConfig:
    return cfg if cfg.seed is not None else dataclasses.replace(cfg, seed=seed)


def _open_source(
    cfg: utils.DatasetConfig, seed: int, model: Any, get_dataset_fn: Callable[..., Any]
) -> data_sources.DataSource:
    converter = _feature_converter(model, get_dataset_fn)
    data = get_dataset_fn(_with_seed(cfg, seed), 0, 1, converter)
    return data_sources.as_data_source(data, num_workers=cfg.num_workers or 0)


def _open_eval_streams(
    cfg: utils.DatasetConfig | None,
    seed: int,
    model: Any,
    eval_steps: int,
    open_streams: Callable[..., Mapping[str, Any]],
) -> Mapping[str, Any]:
    if cfg is None:
        return {}
    get_dataset_fn = getattr(open_streams, "keywords", {}).get("get_dataset_fn")
    converter = _feature_converter(model, get_dataset_fn)
    return open_streams(_with_seed(cfg, seed), 0, 1, eval_steps, converter)


def _with_get_dataset_fn(
    open_streams: Callable[..., Any], get_dataset_fn: Callable[..., Any]
) -> Callable[..., Any]:
    """Binds the run's `get_dataset_fn`, which T5X's own functions do not take."""
    if "get_dataset_fn" in inspect.signature(open_streams).parameters:
        return functools.partial(open_streams, get_dataset_fn=get_dataset_fn)
    return open_streams


def _start_state(
    model: Any,
    source: data_sources.DataSource,
    partitioner: PjitPartitioner,
    manager: checkpoints.CheckpointManager,
    restore_cfg: utils.RestoreCheckpointConfig | None,
    init_rng: jax.Array,
) -> tuple[TrainState, TrainState]:
    """Returns the state to begin with and its shardings; moves the source there."""
    specs = data_sources.batch_specs(source)
    shapes = {name: spec.shape for name, spec in specs.items()}
    types = {name: spec.dtype for name, spec in specs.items()}

    def create(rng):
        variables = flax.core.unfreeze(model.get_initial_variables(rng, shapes, types))
        state = TrainState.create(variables.pop("params"), model.optimizer_def)
        return state, variables

    (like, other_variables), computed = shapes_of(create, init_rng)
    shardings = partitioner.state_shardings(like, logical_axis_names(other_variables))
    restored = manager.restore_latest(like, shardings)
    if restored is not None:
        state, position = restored[0], restored[1].get("source")
        _LOG.info("resuming at step %d", int(state.step))
    elif restore_cfg is not None and restore_cfg.path:
        state, position = checkpoints.restore_for_finetuning(
            restore_cfg, like, shardings, model.optimizer_def
        )
    else:
        position = None
        if computed is not None:
            state = jax.device_put(computed[0], shardings)
        else:
            state = jax.jit(lambda rng: create(rng)[0], out_shardings=shardings)(
                init_rng
            )
    if position is not None:
        source.restore(position)
    return state, shardings


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
