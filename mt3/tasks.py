"""The tasks and mixtures of MT3, registered with seqio by a call.

`register(data_root)` registers, for each data set, families of tasks (see
`task_names` for how they are called):

    maestrov1_notes, maestrov3_notes      127 velocity bins, programs flat
    {data set}_notes_ties_vb1             all but maestrov1, `synthetic` and one's own
                                          data sets below the root included

and in each family, for the splits that the data set has:

    _train                                splits `train`, and `eval` for the loss
    _eval_train, _validation, _test       split `eval`, whole songs in segments
    _eval_train_full, _validation_full    the same of whole splits, where the names
                                          above stand for a part of a large split
    _eval                                 mixture of those marked for it

Mixtures of data sets: `mega_notes_ties_vb1_train`, `_eval` and `_test`, and the same
with `mega_iclr2022`, in which MusicNet has its original labels as in the ICLR 2022
paper. They draw in proportion to the size of the training sets to the power of 0.3.
Where a data set has no test split, its validation split stands in `_test`, as the
papers report it.

Other combinations of data set, encoding, vocabulary, spectrogram and granularity are
registered when `construct_task_name` is asked for them.

Nothing is read, and no network touched, before a task is.

Differences from the original, numbered:

1. Registration is a call with a data root, not an effect of an import.
   `mt3.registered_tasks` is for tools that need the import.
2. Mixing rates come from the hours of the data sets where nothing is cached; the
   original needs the cache.
3. Examples too long for the model are left out of training with a log line
   (`on_too_long="stop"` for the original's way).
4. Test splits that do not exist are not registered; mega test mixtures are.
5. Training examples do not carry the samples along, which only evaluation shows.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio

from mt3 import datasets, metrics, postprocessors, task_names, task_pipelines
from mt3.configs import ModelConfig
from mt3.data import records
from mt3.datasets import DatasetConfig
from mt3.errors import ConfigError, DataError, near_misses
from mt3.spectrograms import SpectrogramConfig
from mt3.task_names import TaskFamily
from mt3.task_pipelines import PipelineOptions
from mt3.vocabularies import VocabularyConfig

MIXTURE_TEMPERATURE = 10 / 3
_OTHERS = ("maestrov3", "guitarset", "urmp", "cerberus4", "slakh")
MIXTURES: Mapping[str, tuple[str, ...]] = {
    "mega": (*_OTHERS, "musicnet_em"),
    "mega_iclr2022": (*_OTHERS, "musicnet"),
}
_ONE_BIN = VocabularyConfig(num_velocity_bins=1)
_FULL_VELOCITY = ("maestrov1", "maestrov3")
_WITHOUT_TIES = ("maestrov1",)
# Split of the tasks on whole songs, and of the training tasks' watched loss.
EVAL_SPLIT = "eval"

_LOG = logging.getLogger("mt3")
# What was registered here with which settings; None is never a setting.
_DONE: dict[str, tuple[object, seqio.Task | seqio.Mixture]] = {}


@dataclasses.dataclass(frozen=True)
class Registered:
    """What `register` did.

    Attributes:
      names: tasks and mixtures that it registered, or found as they should be.
      data_sets: the data sets by name.
      options: settings of the tasks.
    """

    names: tuple[str, ...]
    data_sets: Mapping[str, DatasetConfig]
    options: PipelineOptions

    def ensure(self, family: TaskFamily) -> tuple[str, ...]:
        """Registers a family if it is not there.

        Args:
          family: of a data set or a key of `MIXTURES`.

        Returns:
          The family's tasks and mixtures.

        Raises:
          ConfigError: there is no such data set.
        """
        known = {**self.data_sets, **_mixtures_of(self.data_sets)}
        if family.source not in known:
            raise ConfigError(
                f"task {family.name!r}: no data set or mixture {family.source!r} is "
                f"registered.{near_misses(family.source, known)}"
            )
        return tuple(_register_family(family, self.data_sets, self.options))


def register(
    data_root: str | os.PathLike[str] | None = None,
    *,
    data_sets: Iterable[str] | None = None,
    cache_dirs: Sequence[str] | None = None,
    vocabulary: VocabularyConfig | None = None,
    num_velocity_bins: int | None = None,
    spectrogram: SpectrogramConfig | None = None,
    program_granularity: str | None = None,
    max_examples_per_mix: int | None = None,
    on_corrupt: str = "stop",
    on_too_long: str = "skip",
    padding: str = "zero_frames",
    shuffle_buffer_size: int = seqio.SHUFFLE_BUFFER_SIZE,
    metric_options: Mapping[str, Any] | None = None,
    check_files: bool = False,
) -> Registered:
    """Registers tasks and mixtures with seqio.

    Calling it again with the same settings changes nothing; with others, tasks of the
    same names are replaced, and a log line says so.

    Args:
      data_root: folder or bucket (see `datasets`); else `MT3_DATA_DIR`, else the
        public buckets.
      data_sets: names of those to register; all by default.
      cache_dirs: folders with cached tasks, for tasks read with `use_cached`.
      vocabulary: registers besides the usual families those with these settings.
      num_velocity_bins: short for a vocabulary with that many bins.
      spectrogram: as `vocabulary`.
      program_granularity: as `vocabulary`.
      max_examples_per_mix: train on mixes of up to this many examples.
      on_corrupt: what a record that cannot be used does: "stop" or "skip".
      on_too_long: what a training example with too many tokens does: "stop" or
        "skip". In evaluation it always stops.
      padding: how short segments are filled up, as in `ModelConfig`.
      shuffle_buffer_size: examples among which training shuffles; each takes half a
        megabyte, for each data set of a mixture.
      metric_options: handed to `evaluation_metrics.metric_fns`.
      check_files: look now whether all files are there.

    Returns:
      What is registered; `construct_task_name` takes it.

    Raises:
      ConfigError: an unknown data set or option, or a name that was registered by
        someone else.
      DataError: the data root is no folder, a manifest is damaged, or files are
        missing (with `check_files`).
    """
    root = datasets.resolve_root(data_root)
    if root is not None and "://" not in root and not os.path.isdir(root):
        raise DataError(f"data root {root!r}: there is no such folder")
    if vocabulary is not None and num_velocity_bins is not None:
        raise ConfigError("tasks: give either vocabulary or num_velocity_bins")
    if num_velocity_bins is not None:
        vocabulary = VocabularyConfig(num_velocity_bins=num_velocity_bins)
    options = PipelineOptions(
        root=root,
        max_examples_per_mix=max_examples_per_mix,
        on_corrupt=on_corrupt,
        on_too_long=on_too_long,
        padding=padding,
        shuffle_buffer_size=shuffle_buffer_size,
        metric_options=tuple(sorted((metric_options or {}).items())),
    )
    chosen = _chosen(data_sets, root)
    if check_files:
        for dataset in chosen.values():
            datasets.check_files(dataset, root)
    seqio.add_global_cache_dirs([str(path) for path in cache_dirs or ()])
    families = list(_usual_families(chosen))
    if vocabulary or spectrogram or program_granularity:
        extra = (
            TaskFamily(
                source,
                encoding,
                vocabulary or VocabularyConfig(),
                spectrogram or SpectrogramConfig(),
                program_granularity,
            )
            for source in (*chosen, *_mixtures_of(chosen))
            for encoding in task_names.ENCODINGS
        )
        families += [family for family in extra if family not in families]
    names: list[str] = []
    for family in families:
        names += _register_family(family, chosen, options)
    return Registered(tuple(dict.fromkeys(names)), chosen, options)


def construct_task_name(
    task_prefix: str,
    vocab_config: VocabularyConfig | None = None,
    spectrogram_config: SpectrogramConfig | None = None,
    task_suffix: str | None = None,
    program_granularity: str | None = None,
    registered: Registered | None = None,
) -> str:
    """Returns the name of a task, registering its family where that is possible.

    Args:
      task_prefix: data set (or mixture) and encoding, as "mega_notes_ties".
      vocab_config: the default one if None.
      spectrogram_config: the default one if None.
      task_suffix: "train", "eval", "validation", "test", ...; None for the bare
        family.
      program_granularity: the encoding's usual one if None.
      registered: what `register` returned, which binding it in gin also calls; then
        the name is sure to be registered.

    Returns:
      The name.

    Raises:
      ConfigError: the prefix is no data set and encoding, or, with `registered`, no
        such task exists.
    """
    source, encoding = task_names.split_prefix(task_prefix)
    family = TaskFamily(
        source,
        encoding,
        vocab_config or VocabularyConfig(),
        spectrogram_config or SpectrogramConfig(),
        program_granularity,
    )
    if task_suffix is None:
        return family.name
    name = family.task_name(task_suffix)
    if registered is not None:
        there = registered.ensure(family)
        if name not in there:
            raise ConfigError(
                f"no task {name!r}: {source!r} has no {task_suffix!r}."
                f"{near_misses(name, there)}"
            )
    return name


def mixing_rate(
    task: seqio.Task, temperature: float = MIXTURE_TEMPERATURE, split: str = "train"
) -> float:
    """Returns how often a mixture draws from a task, in proportion to the others.

    Args:
      task: a training task registered here.
      temperature: the rate is the size to the power of 1 / temperature.
      split: the task's split that is counted.

    Returns:
      The rate. The size is the number of stored pieces: of the cached task if it is
      cached, else estimated from the hours of the data set, so that both give nearly
      the same proportions.

    Raises:
      ConfigError: nothing is known about the size of the data set.
    """
    if task.cache_dir:
        size = task.get_cached_stats(split)["examples"]
    else:
        source = task.source
        size = source.dataset.num_chunks(source.data_splits[split])
        if size is None:
            raise ConfigError(
                f"mixture: the size of data set {source.dataset.name!r} is not known; "
                f"write {datasets.MANIFEST_NAME} beside its shards, as `mt3 prepare` "
                "does"
            )
    return float(size) ** (1 / temperature)


def _chosen(
    data_sets: Iterable[str] | None, root: str | None
) -> dict[str, DatasetConfig]:
    """Returns the data sets to register by name."""
    known = datasets.available(root)
    if root is None:
        # What is in no bucket.
        known = {name: config for name, config in known.items() if config.bucket}
    if data_sets is None:
        return known
    chosen = {}
    for name in data_sets:
        if name not in known:
            hint = near_misses(name, known)
            if name in datasets.DATASETS:
                hint = f" It needs a data root ({datasets.DATA_ROOT_VARIABLE})."
            raise ConfigError(f"data set {name!r} is not known.{hint}")
        chosen[name] = known[name]
    return chosen


def _mixtures_of(data_sets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the mixtures all of whose data sets are there."""
    there = set(data_sets)
    return {name: parts for name, parts in MIXTURES.items() if there >= set(parts)}


def _usual_families(data_sets: Iterable[str]) -> Iterable[TaskFamily]:
    """Yields the families that `register` registers unasked."""
    for name in data_sets:
        if name in _FULL_VELOCITY:
            yield TaskFamily(name, "notes")
        if name not in _WITHOUT_TIES:
            yield TaskFamily(name, "notes_ties", _ONE_BIN)
    for name in _mixtures_of(data_sets):
        yield TaskFamily(name, "notes_ties", _ONE_BIN)


def _register_family(
    family: TaskFamily, data_sets: Mapping[str, DatasetConfig], options: PipelineOptions
) -> list[str]:
    """Registers a family and returns its tasks and mixtures."""
    if family.source in data_sets:
        return _register_data_set(family, data_sets[family.source], options)
    parts = [
        dataclasses.replace(family, source=name) for name in MIXTURES[family.source]
    ]
    for part in parts:
        _register_data_set(part, data_sets[part.source], options)
    train = [part.task_name("train") for part in parts]
    evaluation = [
        part.task_name(split.suffix)
        for part in parts
        for split in data_sets[part.source].infer_eval_splits
        if split.include_in_mixture
    ]
    test = [part.task_name(_reported_suffix(data_sets[part.source])) for part in parts]
    return [
        _add_mixture(family.task_name("train"), train, mixing_rate),
        _add_mixture(family.task_name("eval"), evaluation, 1),
        _add_mixture(family.task_name("test"), test, 1),
    ]


def _reported_suffix(dataset: DatasetConfig) -> str:
    """Returns the suffix of the split that papers report: test, else validation."""
    suffixes = {split.suffix for split in dataset.infer_eval_splits}
    return "test" if "test" in suffixes else "validation"


def _register_data_set(
    family: TaskFamily, dataset: DatasetConfig, options: PipelineOptions
) -> list[str]:
    """Registers the tasks of one data set and their `eval` mixture."""
    config = family.model_config(options.padding)
    names = []
    if dataset.train_split is not None:
        splits = {"train": dataset.train_split}
        if dataset.train_eval_split is not None:
            splits[EVAL_SPLIT] = dataset.train_eval_split
        names.append(
            _add_task(
                family.task_name("train"),
                (dataset, config, options),
                splits,
                preprocessors=task_pipelines.training_stages(dataset, config, options),
                shuffle_buffer_size=options.shuffle_buffer_size,
            )
        )
    mixed = []
    for split in dataset.infer_eval_splits:
        name = _add_task(
            family.task_name(split.suffix),
            (dataset, config, options),
            {EVAL_SPLIT: split.name},
            preprocessors=task_pipelines.evaluation_stages(dataset, config, options),
            postprocess_fn=postprocessors.postprocess_fn(config),
            metric_fns=metrics.metric_fns(
                config, dataset.track_specs, **dict(options.metric_options)
            ),
        )
        names.append(name)
        if split.include_in_mixture:
            mixed.append(name)
    if mixed:
        names.append(_add_mixture(family.task_name("eval"), mixed, 1))
    return names


def _add_task(
    name: str,
    settings: tuple[DatasetConfig, ModelConfig, PipelineOptions],
    splits: Mapping[str, str],
    **arguments: Any,
) -> str:
    """Registers a task unless it is there with the same settings."""
    dataset, config, options = settings
    if _is_done(name, settings, seqio.TaskRegistry):
        return name
    task = seqio.TaskRegistry.add(
        name,
        source=records.RecordDataSource(
            dataset, splits, root=options.root, on_corrupt=options.on_corrupt
        ),
        output_features=task_pipelines.output_features(config),
        task_cls=task_pipelines.TranscriptionTask,
        **arguments,
    )
    _DONE[name] = settings, task
    return name


def _add_mixture(
    name: str, parts: Sequence[str], rate: float | Callable[[seqio.Task], float]
) -> str:
    """Registers a mixture unless it is there with the same tasks."""
    # Tasks compare by identity: a mixture of replaced tasks is replaced.
    settings = tuple(seqio.TaskRegistry.get(part) for part in parts)
    if not _is_done(name, settings, seqio.MixtureRegistry):
        mixture = seqio.MixtureRegistry.add(name, list(parts), default_rate=rate)
        _DONE[name] = settings, mixture
    return name


def _is_done(name: str, settings: object, registry: Any) -> bool:
    """Says whether a name is registered so; makes room for it if it is not.

    Raises:
      ConfigError: someone else registered the name.
    """
    if name not in registry.names():
        return False
    done, provider = _DONE.get(name, (None, None))
    if registry.get(name) is not provider:
        raise ConfigError(
            f"{name!r} is already registered with seqio, and not by mt3.tasks"
        )
    if done == settings:
        return True
    _LOG.info("%s: registered anew with other settings", name)
    registry.remove(name)
    return False
