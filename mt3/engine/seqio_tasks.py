"""Tasks and mixtures of seqio as the engine asks for them, and their examples.

Mistakes in names, splits and caches are `ConfigError`s before anything is read; errors
inside TensorFlow's pipeline come out as `DataError` with the message of their cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf

from mt3.configs import ModelConfig
from mt3.data.tf_bridge import original_error
from mt3.errors import ConfigError, DataError, MT3Error, near_misses

Batch = Mapping[str, np.ndarray]
Provider = seqio.Task | seqio.Mixture

# What TensorFlow says about its graph, around the message of an error.
_GRAPH_TEXT = re.compile(
    r"(?s)Error in user-defined function passed to .*?: Iterator::[\w:\[\]]+: "
    r"|\{\{function_node .*?\}\} |\s+\[\[\{\{node.*|\nTraceback .*"
)

with contextlib.suppress(RuntimeError):
    # TensorFlow reads files here; the accelerator's memory is JAX's.
    tf.config.set_visible_devices([], "GPU")


def get_provider(cfg: Any) -> Provider:
    """Returns the task or mixture that a `DatasetConfig` names.

    Args:
      cfg: its `module`, if any, is imported first; `mixture_or_task_name` is a name,
        or a task or mixture itself.

    Raises:
      ConfigError: the module cannot be imported, or there is no such task.
    """
    if cfg.module:
        try:
            importlib.import_module(cfg.module)
        except ImportError as error:
            raise ConfigError(
                f"DatasetConfig: module {cfg.module!r} cannot be imported: {error}"
            ) from error
    name = cfg.mixture_or_task_name
    if isinstance(name, (seqio.Task, seqio.Mixture)):
        return name
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in known:
        hint = near_misses(str(name), known)
        if not known:
            hint = (
                " None is registered: bind `DatasetConfig.module = "
                "'mt3.registered_tasks'`, or call mt3.tasks.register() first."
            )
        raise ConfigError(f"no task or mixture is named {name!r}.{hint}")
    return seqio.get_mixture_or_task(name)


def check_readable(provider: Provider, split: str, *, use_cached: bool) -> None:
    """Checks that a split exists, and is cached where that is asked for.

    Of a mixture's tasks, those without the split count for nothing.

    Raises:
      ConfigError: naming the tasks, and what to do.
    """
    tasks = seqio.get_subtasks(provider)
    splits = {name for task in tasks for name in task.splits}
    if split not in splits:
        raise ConfigError(
            f"{provider.name!r} has no split {split!r}.{near_misses(split, splits)}"
        )
    if not use_cached:
        return
    missing = [
        task.name
        for task in tasks
        if split in task.splits and task.supports_caching and not task.cache_dir
    ]
    if missing:
        folders = ", ".join(seqio.utils.get_global_cache_dirs()) or "none"
        raise ConfigError(
            f"{provider.name!r}: use_cached is True, but nothing is cached for "
            f"{', '.join(missing)}; cache folders: {folders}. Either bind "
            "USE_CACHED_TASKS = False (the same examples, prepared as they are read), "
            "or build the cache once with `seqio_cache_tasks "
            f"--tasks='{missing[0]}' --output_cache_dir=FOLDER "
            "--module_import=mt3.registered_tasks` and name FOLDER in CACHE_DIRS"
        )


def model_config(
    provider: Provider, lengths: Mapping[str, int] | None
) -> ModelConfig | None:
    """Returns the tokens and frames that a task of this package is made for.

    Its preprocessors have them as their argument `config`.

    Args:
      provider: a task, or a mixture, whose tasks agree.
      lengths: most `inputs` frames and `targets` tokens of an example.
    """
    for task in seqio.get_subtasks(provider):
        for stage in task.preprocessors:
            config = getattr(stage, "keywords", {}).get("config")
            if isinstance(config, ModelConfig):
                sizes = {
                    f"{name}_length": length
                    for name, length in (lengths or {}).items()
                    if name in ("inputs", "targets") and isinstance(length, int)
                }
                return dataclasses.replace(config, **sizes)
    return None


def get_vocabulary(cfg: Any) -> tuple[Any, Any]:
    """Returns the input and target vocabularies; see `utils.get_vocabulary`."""
    provider = get_provider(cfg)
    features = provider.output_features
    if "inputs" in features and "targets" in features:
        return features["inputs"].vocabulary, features["targets"].vocabulary
    every = [feature.vocabulary for feature in features.values()]
    real = [v for v in every if not isinstance(v, seqio.PassThroughVocabulary)]
    candidates: Sequence[Any] = real or every
    if not candidates or any(other != candidates[0] for other in candidates[1:]):
        raise ConfigError(
            f"task {provider.name!r}: features {sorted(features)}; expected 'inputs' "
            "and 'targets', or one vocabulary for all"
        )
    return candidates[0], candidates[0]


def iterate(dataset: tf.data.Dataset, name: str) -> Iterator[Any]:
    """Yields a dataset's elements as NumPy arrays; errors as `reading` has them."""
    with reading(name):
        iterator = dataset.as_numpy_iterator()
    while True:
        with reading(name):
            item = next(iterator, None)
        if item is None:
            return
        yield item


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns what TensorFlow and seqio raise into errors that name their cause.

    Args:
      name: what is read.

    Raises:
      DataError: with the message of the cause, without TensorFlow's graph and
        traceback.
      ConfigError: settings that seqio refuses.
    """
    try:
        yield
    except MT3Error:
        raise
    except tf.errors.OpError as error:
        raise DataError(f"{name}: {_cause(error)}") from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        # seqio's own checks of features, lengths and splits.
        raise ConfigError(f"{name}: {error}") from error


def _cause(error: tf.errors.OpError) -> str:
    """Returns the message of the Python error behind TensorFlow's, or TensorFlow's."""
    original = original_error(error)
    if original is not None:
        return str(original)
    text = re.sub(_GRAPH_TEXT, "", error.message or str(error))
    return " ".join(text.split())


class InferenceExamples:
    """A task's examples in order, once, and the model's features of them."""

    def __init__(
        self,
        cfg: Any,
        feature_converter_cls: Callable[..., Any],
        shard_id: int,
        num_shards: int,
    ):
        """Takes what to read: a `DatasetConfig`, and which shard of it."""
        self._cfg = cfg
        self._converter = feature_converter_cls(pack=False)
        self._shard = seqio.ShardInfo(index=shard_id, num_shards=num_shards)

    def tasks(self, provider: Provider) -> list[seqio.Task]:
        """Returns the tasks that have the split."""
        tasks = seqio.get_subtasks(provider)
        return [task for task in tasks if self._cfg.split in task.splits]

    def read(self, task: seqio.Task) -> Iterator[Batch]:
        """Yields a task's examples; errors as `reading` has them."""
        with reading(self._name(task)):
            dataset = self._task_dataset(task)
        return iterate(dataset, self._name(task))

    def dataset(self, task: seqio.Task, examples: Sequence[Batch]) -> tf.data.Dataset:
        """Returns examples that were read as a dataset again."""
        spec = self._task_dataset(task).element_spec
        return tf.data.Dataset.from_generator(
            lambda: iter(examples), output_signature=spec
        ).apply(tf.data.experimental.assert_cardinality(len(examples)))

    def model_features(
        self, task: seqio.Task, examples: Sequence[Batch]
    ) -> Iterator[Batch]:
        """Yields the model's features of examples that were read."""
        with reading(self._name(task)):
            dataset = self._converter(
                self.dataset(task, examples), self._cfg.task_feature_lengths
            )
        return iterate(dataset, self._name(task))

    def specs(self, provider: Provider) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns a batch's features, as objects with shape and dtype."""
        task = self.tasks(provider)[0]
        with reading(self._name(task)):
            dataset = self._converter(
                self._task_dataset(task), self._cfg.task_feature_lengths
            )
        return {
            name: jax.ShapeDtypeStruct(
                (self._cfg.batch_size, *part.shape), part.dtype.as_numpy_dtype
            )
            for name, part in dataset.element_spec.items()
        }

    def _name(self, task: seqio.Task) -> str:
        return f"{task.name}, split {self._cfg.split}"

    def _task_dataset(self, task: seqio.Task) -> tf.data.Dataset:
        cfg = self._cfg
        return task.get_dataset(
            sequence_length=cfg.task_feature_lengths,
            split=cfg.split,
            shuffle=False,
            num_epochs=1,
            shard_info=self._shard,
            use_cached=cfg.use_cached,
            seed=cfg.seed,
        )
