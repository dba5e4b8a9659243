"""What T5X's gin files bind as `utils.NAME`: records, data sets, schedules.

The records carry T5X's names and fields; a field that this engine does not need says
so. Data sets are read by `seqio_data`, which is imported where one is asked for, so
that runs on other data sources need no TensorFlow.

Differences from T5X:

1. `get_dataset` returns a source that knows its position (`seqio_data`), and takes
   the number of batches after which a fresh stream begins.
2. `verify_matching_vocabs` passes over a vocabulary that the model does not state.
3. `create_cosine_schedule` and `create_stable_schedule` are additions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp

from mt3 import files
from mt3.engine import data_sources
from mt3.errors import TRAIN_EXTRA, ConfigError, check_number, near_misses

LearningRateFn = Callable[[Any], jax.Array]


@dataclasses.dataclass
class DatasetConfig:
    """Which examples to draw, and how.

    Attributes:
      mixture_or_task_name: task or mixture; data sources without tasks ignore it.
      task_feature_lengths: feature -> length, `inputs` frames and `targets` tokens.
      split: split of the data set.
      batch_size: examples of one batch, over all devices.
      shuffle: draw in random order.
      seed: seed of the order and of random cuts; None for a new one each run.
      use_cached: read the task's cached form; it must be there.
      pack: put several short examples in one row; unused by MT3.
      use_custom_packing_ops: unused.
      module: module whose import registers the task.
      use_memory_cache: keep evaluation data in memory.
      trim_output_features: cut features to their lengths.
      runtime_preprocessors: unused.
      num_prefetch_threads: unused.
      num_workers: worker processes that prepare batches, 0 for a thread.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    shuffle: bool
    seed: int | None
    use_cached: bool = False
    pack: bool = False
    use_custom_packing_ops: bool = False
    module: str | None = None
    use_memory_cache: bool = True
    trim_output_features: bool = True
    runtime_preprocessors: Sequence[Any] | None = None
    num_prefetch_threads: int | None = None
    num_workers: int | None = 0

    def __post_init__(self):
        check_number("DatasetConfig: batch_size", self.batch_size, 1, whole=True)


@dataclasses.dataclass
class SaveCheckpointConfig:
    """When and how to write checkpoints.

    Attributes:
      dtype: type of saved parameters, 'float32' or 'bfloat16'. Only 'float32'
        resumes exactly.
      period: steps between checkpoints; None for one at the end only.
      minutes: also write one where the run pauses this long after the last; None
        leaves it to the steps.
      checkpoint_steps: further steps at which to save.
      keep: newest checkpoints kept; None for all.
      keep_dataset_checkpoints: accepted for T5X's files; the data position is
        always part of the checkpoint.
      save_dataset: accepted for T5X's files; the data position is always saved.
      checkpointer_cls: accepted for T5X's files, unused.
      state_transformation_fns: refused unless empty.
      checkpoint_manager_cls: accepted for T5X's files, unused.
      asynchronous: write in the background while training goes on.
    """

    dtype: str | None = "float32"
    period: int | None = None
    checkpoint_steps: Sequence[int] | None = None
    keep: int | None = None
    keep_dataset_checkpoints: int | None = None
    save_dataset: bool = False
    checkpointer_cls: Any = None
    state_transformation_fns: Sequence[Any] = ()
    checkpoint_manager_cls: Any = None
    asynchronous: bool = True
    minutes: float | None = None

    def __post_init__(self):
        _check_choice("SaveCheckpointConfig", "dtype", self.dtype, _SAVE_DTYPES)
        _refuse_transformations("SaveCheckpointConfig", self.state_transformation_fns)
        if self.period is not None and self.period < 1:
            raise ConfigError(
                f"SaveCheckpointConfig: period is {self.period}; expected >= 1 or None"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(
                f"SaveCheckpointConfig: minutes are {self.minutes}; expected more than "
                "0 or None"
            )


@dataclasses.dataclass
class RestoreCheckpointConfig:
    """Which checkpoint to begin from (where `model_dir` holds none), or to use.

    Attributes:
      path: a checkpoint (mode 'specific') or a folder of them ('latest', 'all'), or a
        list of these; an empty list or None for none.
      mode: 'specific', 'latest', or, for `evaluate` only, 'all': each in turn.
      assignment_map: refused unless None.
      strict: False takes the parameters alone where the state belongs to another
        optimiser; names and shapes of parameters are always checked.
      fallback_to_scratch: accepted only as False.
      dtype: type of the parameters once loaded; None as saved.
      restore_dataset: also go on at the checkpoint's data position.
      checkpointer_cls: accepted for T5X's files, unused.
      state_transformation_fns: refused unless empty.
      checkpoint_manager_cls: accepted for T5X's files, unused.
    """

    path: str | Sequence[str] | None = None
    mode: str = "latest"
    assignment_map: Sequence[tuple[str, str | None]] | None = None
    strict: bool = True
    fallback_to_scratch: bool = False
    dtype: str | None = None
    restore_dataset: bool = False
    checkpointer_cls: Any = None
    state_transformation_fns: Sequence[Any] = ()
    checkpoint_manager_cls: Any = None

    def __post_init__(self):
        _check_choice("RestoreCheckpointConfig", "mode", self.mode, _RESTORE_MODES)
        _check_choice("RestoreCheckpointConfig", "dtype", self.dtype, _RESTORE_DTYPES)
        _refuse_transformations(
            "RestoreCheckpointConfig", self.state_transformation_fns
        )
        if self.assignment_map is not None or self.fallback_to_scratch:
            raise ConfigError(
                "RestoreCheckpointConfig: assignment_map and fallback_to_scratch are "
                "not offered by this engine; leave them unset or train on T5X"
            )


@dataclasses.dataclass
class CheckpointConfig:
    """Saving and restoring; either may be None."""

    save: SaveCheckpointConfig | None = None
    restore: RestoreCheckpointConfig | None = None


_SAVE_DTYPES = (None, "float32", "bfloat16")
_RESTORE_DTYPES = (None, "float32", "bfloat16", "float16")
_RESTORE_MODES = ("specific", "latest", "all")


def _check_choice(record: str, name: str, value: Any, choices: Sequence[Any]):
    if value not in choices:
        raise ConfigError(
            f"{record}: {name} is {value!r}; expected one of {list(choices)}"
        )


def _refuse_transformations(record: str, functions: Sequence[Any]):
    if functions:
        raise ConfigError(
            f"{record}: state_transformation_fns are not offered by this engine; "
            "leave them unset or train on T5X"
        )


def get_dataset(
    cfg: DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any,
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = True,
    stream_batches: int = 1000,
) -> Any:
    """Reads a seqio task or mixture.

    Args:
      cfg: what to read, and how.
      shard_id: which of `num_shards` parts.
      num_shards: parts that the examples are dealt out to.
      feature_converter_cls: the model's, called as (pack, use_custom_packing_ops).
      num_epochs: passes over the data; None for no end.
      continue_from_last_checkpoint: accepted for T5X's signature; the caller restores
        the position.
      stream_batches: batches after which a fresh stream begins; see `seqio_data`.

    Returns:
      A `seqio_data.SeqioSource` of NumPy batches.

    Raises:
      ConfigError: no such task or split, not cached though asked for, shards that do
        not divide the batch, or seqio is not installed.
    """
    del continue_from_last_checkpoint
    stage = f"data set {cfg.mixture_or_task_name!r}"
    return seqio_data(stage).open_source(
        cfg,
        shard_id,
        num_shards,
        feature_converter_cls,
        num_epochs=num_epochs,
        stream_batches=stream_batches,
    )


def reads_seqio(get_dataset_fn: Any) -> bool:
    """Tells whether a `get_dataset_fn` is this module's, with settings bound or not."""
    while isinstance(get_dataset_fn, functools.partial):
        get_dataset_fn = get_dataset_fn.func
    return inspect.unwrap(get_dataset_fn) is get_dataset


def get_training_eval_datasets(
    cfg: DatasetConfig,
    shard_id: int,
    num_shards: int,
    eval_steps: int = 20,
    feature_converter_cls: Any = None,
    *,
    get_dataset_fn: Any = get_dataset,
) -> dict[str, Iterable[data_sources.Batch]]:
    """Returns the evaluation streams, each of `eval_steps` batches, by name.

    A mixture has one stream for each of its tasks that has the split, and one of its
    own. Every evaluation sees the same batches, kept in memory where the
    configuration says `use_memory_cache`.

    Args:
      cfg: the evaluation's data.
      shard_id: which of `num_shards` parts.
      num_shards: parts that the examples are dealt out to.
      eval_steps: batches of one evaluation.
      feature_converter_cls: the model's, handed on.
      get_dataset_fn: the training run's.

    Raises:
      ConfigError: as `get_dataset`.
    """
    if reads_seqio(get_dataset_fn):
        stage = f"data set {cfg.mixture_or_task_name!r}"
        streams = seqio_data(stage).training_eval_streams(
            cfg, shard_id, num_shards, eval_steps, feature_converter_cls
        )
    else:
        data = get_dataset_fn(cfg, shard_id, num_shards, feature_converter_cls)
        streams = {str(cfg.mixture_or_task_name or cfg.split): data}
    return {
        name: data_sources.FirstBatches(data, eval_steps, cfg.use_memory_cache)
        for name, data in streams.items()
    }


def get_vocabulary(cfg: DatasetConfig) -> tuple[Any, Any]:
    """Returns the vocabularies of a task's inputs and targets.

    Raises:
      ConfigError: no such task, or no such features and no common vocabulary.
    """
    return seqio_data("get_vocabulary").get_vocabulary(cfg)


def verify_matching_vocabs(cfg: DatasetConfig, model: Any) -> None:
    """Checks that a task and a model have the same vocabularies.

    Args:
      cfg: names the task.
      model: offers input_vocabulary and output_vocabulary; one that is None is not
        compared.

    Raises:
      ConfigError: they differ, or there is no such task.
    """
    found = get_vocabulary(cfg)
    wanted = (model.input_vocabulary, model.output_vocabulary)
    for name, ours, theirs in zip(("input", "output"), wanted, found, strict=True):
        if ours is not None and theirs != ours:
            raise ConfigError(
                f"task {cfg.mixture_or_task_name!r}: its {name} vocabulary is "
                f"{_describe(theirs)}, but the model's {name}_vocabulary is "
                f"{_describe(ours)}; a usual cause is another NUM_VELOCITY_BINS than "
                "the task's name says (vb1 is one bin)"
            )


def _describe(vocabulary: Any) -> str:
    size = getattr(vocabulary, "vocab_size", None)
    ids = "" if size is None else f" of {size} ids"
    return f"{type(vocabulary).__name__}{ids}"


def seqio_data(stage: str) -> Any:
    """Imports the engine's module `seqio_data`, which needs seqio.

    Args:
      stage: who asks, for the message.

    Raises:
      ConfigError: seqio or TensorFlow is not installed.
    """
    try:
        return importlib.import_module("mt3.engine.seqio_data")
    except ImportError as error:
        raise ConfigError(
            f"{stage}: reading seqio tasks needs TensorFlow and seqio ({error}); "
            f"install {TRAIN_EXTRA}, or bind `train.get_dataset_fn` to a data source "
            "without them, such as @synthetic_data.RandomNotes()"
        ) from error


@contextlib.contextmanager
def output_folder(path: str | Path, stage: str) -> Iterator[Path]:
    """Makes a folder for results; what goes wrong in the block is named.

    Args:
      path: the folder, made with its parents.
      stage: who writes, for the message.

    Yields:
      The folder.

    Raises:
      ConfigError: the path is no path.
      OutputError: the operating system refuses, now or within the block.
    """
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"{stage}: the folder is {path!r}; expected a text")
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        place = f"{stage}: {error.filename or folder}"
        raise files.cannot_write(place, error) from error


def parameter_overview(params: Any) -> str:
    """Returns a table of all parameters: name, shape, size; and their sum."""
    flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(params), sep="/")
    rows = [(name, str(tuple(leaf.shape)), leaf.size) for name, leaf in flat.items()]
    width = max((len(name) for name, _, _ in rows), default=4)
    lines = [f"{name:<{width}}  {shape:>14}  {size:>12,}" for name, shape, size in rows]
    total = sum(size for _, _, size in rows)
    lines.append(f"{'total':<{width}}  {'':>14}  {total:>12,}")
    return "\n".join(lines)


def write_model_info(folder: Path, params: Any) -> None:
    """Logs the table of parameters and writes it to `model-info.txt`."""
    overview = parameter_overview(params)
    log_text(overview)
    files.write_text(folder / "model-info.txt", overview + "\n")


def log_text(text: str) -> None:
    """Logs a text of several lines, one record a line."""
    for line in text.splitlines():
        logging.getLogger("mt3").info("%s", line)


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
