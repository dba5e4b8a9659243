"""Tasks and mixtures of records in the registries of seqio.

Unlike seqio, this module lets a name be registered again: with the same settings
nothing changes, with others the new one replaces the old one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import seqio
import tensorflow as tf

from mt3 import datasets, vocabularies
from mt3.configs import ModelConfig
from mt3.data.records import RecordDataSource
from mt3.errors import ConfigError

MIXING_TEMPERATURE = 10 / 3
CACHE_DIRS_VARIABLE = "MT3_TASK_CACHE_DIRS"

_LOG = logging.getLogger("mt3")


class RecordTask(seqio.Task):
    """A task whose data are never kept in memory, and whose steps are TensorFlow's.

    seqio keeps every data set below 10,000 examples, which is meant for text: that
    many stored pieces of audio are 10 GB. AutoGraph, which rewrites Python's `if` and
    `for` on tensors, takes most of the time of opening a data set; no step needs it.
    """

    @tf.autograph.experimental.do_not_convert
    def get_dataset(self, *args: Any, **options: Any) -> tf.data.Dataset:
        """As `seqio.Task.get_dataset`; `try_in_mem_cache` has no effect."""
        return super().get_dataset(*args, **{**options, "try_in_mem_cache": False})


def add_cache_dirs(cache_dirs: Sequence[str] | None) -> None:
    """Tells seqio the folders with cached tasks; None: those of the environment."""
    if cache_dirs is None:
        listed = os.environ.get(CACHE_DIRS_VARIABLE, "").split(os.pathsep)
        cache_dirs = [path for path in listed if path]
    seqio.add_global_cache_dirs([str(path) for path in cache_dirs])


def add_task(
    name: str,
    settings: object,
    source: RecordDataSource,
    config: ModelConfig,
    **arguments: Any,
) -> str:
    """Registers a task unless it is there with the same settings.

    Args:
      name: the task's name.
      settings: everything that the task depends on.
      source: the records.
      config: the encoding of the targets. A training run keeps it as its task's
        `model_config`; see `engine.seqio_data.model_config`.
      **arguments: of `seqio.Task`.

    Returns:
      The name.

    Raises:
      ConfigError: someone else registered the name.
    """
    if _is_done(name, settings, seqio.TaskRegistry):
        return name
    codec = vocabularies.build_codec(config.vocabulary)
    task = seqio.TaskRegistry.add(
        name,
        source=source,
        output_features={
            "inputs": seqio.ContinuousFeature(
                vocabulary=seqio.PassThroughVocabulary(size=0), dtype=tf.float32, rank=2
            ),
            "targets": seqio.Feature(
                vocabulary=vocabularies.vocabulary_from_codec(codec)
            ),
        },
        task_cls=RecordTask,
        **arguments,
    )
    task.model_config = config
    task.registered_settings = settings
    return name


def add_mixture(
    name: str, parts: Sequence[str], rate: float | Callable[[seqio.Task], float]
) -> str:
    """Registers a mixture unless it is there with the same tasks."""
    # Tasks compare by identity: a mixture of replaced tasks is replaced.
    settings = tuple(seqio.TaskRegistry.get(part) for part in parts)
    if not _is_done(name, settings, seqio.MixtureRegistry):
        mixture = seqio.MixtureRegistry.add(name, list(parts), default_rate=rate)
        mixture.registered_settings = settings
    return name


def mixing_rate(
    task: seqio.Task, temperature: float = MIXING_TEMPERATURE, split: str = "train"
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


def _is_done(name: str, settings: object, registry: Any) -> bool:
    """Says whether a name is registered so; makes room for it if it is not.

    Raises:
      ConfigError: someone else registered the name.
    """
    if name not in registry.names():
        return False
    # Kept by what is registered: seqio's registries can be emptied and exchanged.
    done = getattr(registry.get(name), "registered_settings", None)
    if done is None:
        raise ConfigError(
            f"{name!r} is already registered with seqio, and not by mt3.tasks"
        )
    if done == settings:
        return True
    _LOG.info("%s: registered anew with other settings", name)
    registry.remove(name)
    return False
