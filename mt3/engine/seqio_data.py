"""seqio tasks and mixtures: their examples, and batches with a position.

A training source is a sequence of streams. Stream k is a fresh seqio pipeline with a
seed of its own, cut off after `stream_batches` batches; its position is the pair
(k, batches drawn from it). Returning to a position rebuilds stream k alone and drops
the batches drawn before, which costs at most one stream. Checkpoints of TensorFlow's
own iterators would hold the whole shuffle buffers, gigabytes of spectrograms.

    seed of stream 0    the configuration's
    seed of stream k    drawn from (configuration's seed, k)

Stream 0 therefore has the batches, in the order, that T5X draws with that seed. A
stream should be several passes over a small data set, or a sizeable part of a large
one: each begins by filling its shuffle buffers, and shuffles anew.

Mistakes in names, splits and caches are `ConfigError`s before anything is read; errors
inside TensorFlow's pipeline become a `DataError` with the message of their cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import logging
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

_LOG = logging.getLogger("mt3")

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

# Batches that TensorFlow prepares ahead, beside those of the engine's own thread.
_PREFETCH = 2


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

    Its tasks have them as their attribute `model_config`.

    Args:
      provider: a task, or a mixture, whose tasks agree.
      lengths: most `inputs` frames and `targets` tokens of an example.
    """
    for task in seqio.get_subtasks(provider):
        config = getattr(task, "model_config", None)
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


def open_source(
    cfg: Any,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., Any],
    *,
    num_epochs: int | None = None,
    stream_batches: int = 1000,
) -> SeqioSource:
    """Opens a task for training; see `utils.get_dataset`."""
    if cfg.batch_size % num_shards:
        raise ConfigError(
            f"DatasetConfig: {num_shards} shards do not divide a batch of "
            f"{cfg.batch_size}"
        )
    if stream_batches < 1:
        raise ConfigError(
            f"get_dataset: stream_batches is {stream_batches}; expected >= 1"
        )
    provider = get_provider(cfg)
    check_readable(provider, cfg.split, use_cached=cfg.use_cached)
    seed = cfg.seed
    if seed is None:
        seed = int(np.random.SeedSequence().entropy % 2**31)
        _LOG.info("data set %s: no seed is set; drew %d", provider.name, seed)
    shard = seqio.ShardInfo(index=shard_id, num_shards=num_shards)

    def make_dataset(seed: int) -> tf.data.Dataset:
        return model_dataset(
            cfg,
            provider,
            feature_converter_cls,
            seed=seed,
            shard=shard,
            num_epochs=num_epochs,
            batch_size=cfg.batch_size // num_shards,
        )

    return SeqioSource(
        make_dataset,
        name=f"{provider.name}, split {cfg.split}",
        seed=seed,
        stream_batches=stream_batches if num_epochs is None else None,
        model_config=model_config(provider, cfg.task_feature_lengths),
    )


@tf.autograph.experimental.do_not_convert
def model_dataset(
    cfg: Any,
    provider: Provider,
    feature_converter_cls: Callable[..., Any],
    *,
    seed: int | None,
    shard: seqio.ShardInfo | None,
    num_epochs: int | None,
    batch_size: int | None,
) -> tf.data.Dataset:
    """Builds the pipeline from files to batches of model features, as T5X does."""
    if feature_converter_cls is None:
        raise ConfigError(
            f"{provider.name!r}: the model has no FEATURE_CONVERTER_CLS to make its "
            "features of a task's"
        )
    converter = feature_converter_cls(
        pack=cfg.pack, use_custom_packing_ops=cfg.use_custom_packing_ops
    )
    with reading(f"{provider.name}, split {cfg.split}"):
        return seqio.get_dataset(
            mixture_or_task_name=provider,
            task_feature_lengths=cfg.task_feature_lengths,
            dataset_split=cfg.split,
            shuffle=cfg.shuffle,
            num_epochs=num_epochs,
            feature_converter=converter,
            shard_info=shard,
            use_cached=cfg.use_cached,
            seed=seed,
            trim_output_features=cfg.trim_output_features,
            batch_size=batch_size,
        )


class SeqioSource:
    """An iterator of NumPy batches that knows its position (a `DataSource`)."""

    def __init__(
        self,
        make_dataset: Callable[[int], tf.data.Dataset],
        *,
        name: str,
        seed: int,
        stream_batches: int | None,
        model_config: ModelConfig | None = None,
    ):
        """Builds nothing yet.

        Args:
          make_dataset: seed -> a dataset of batches, the same ones each time.
          name: of the data, for messages.
          seed: of stream 0; the others' seeds derive from it.
          stream_batches: batches of a stream; None for a single stream, as long as
            the dataset is.
          model_config: what the examples are made for, kept as an attribute.
        """
        self.model_config = model_config
        self._make_dataset = make_dataset
        self._name = name
        self._seed = seed
        self._stream_batches = stream_batches
        self._go_to(0, 0)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.peek()
        if batch is None:
            raise StopIteration
        self._next = None
        self._drawn += 1
        return batch

    def peek(self) -> Batch | None:
        """Returns the next batch without going on; None at the end.

        Raises:
          DataError: reading failed, or there is not a single batch.
        """
        while self._next is None:
            if self._drawn == self._stream_batches:
                self._go_to(self._stream + 1, 0)
            self._next = self._pull()
            if self._next is None:
                if self._drawn == 0 and (self._stream_batches or self._stream == 0):
                    raise DataError(
                        f"{self._name}: not a single batch in it; expected at least "
                        "as many examples as a batch has"
                    )
                if self._stream_batches is None:
                    return None
                # The pipeline itself ended early; its successor goes on.
                self._go_to(self._stream + 1, 0)
        return self._next

    def specs(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Returns the shapes and types of a batch; None if some are not known."""
        spec = self._dataset().element_spec
        if not all(part.shape.is_fully_defined() for part in spec.values()):
            return None
        return {
            name: jax.ShapeDtypeStruct(tuple(part.shape), part.dtype.as_numpy_dtype)
            for name, part in spec.items()
        }

    def state(self) -> dict[str, Any]:
        """Returns the position: stream, batches drawn from it, length of streams."""
        return {
            "stream": self._stream,
            "drawn": self._drawn,
            "stream_batches": self._stream_batches,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position; streams keep the length they had when it was told.

        Raises:
          DataError: it is the position of another kind of source.
        """
        names = ("stream", "drawn", "stream_batches")
        if any(name not in state for name in names):
            raise DataError(
                f"{self._name}: the saved data position is {dict(state)}; expected "
                f"{', '.join(names)}, so it is another kind of data source's. To go "
                "on from the first batch, start from the checkpoint in a new "
                "MODEL_DIR"
            )
        self._stream_batches = state["stream_batches"]
        self._go_to(int(state["stream"]), int(state["drawn"]))

    def close(self) -> None:
        """Lets the pipeline go, with its threads and buffers."""
        self._go_to(self._stream, self._drawn)

    def _go_to(self, stream: int, drawn: int) -> None:
        self._stream = stream
        self._drawn = drawn
        self._next: Batch | None = None
        self._built: tf.data.Dataset | None = None
        self._iterator: Iterator[Batch] | None = None

    def _dataset(self) -> tf.data.Dataset:
        if self._built is None:
            dataset = self._make_dataset(stream_seed(self._seed, self._stream))
            if self._stream_batches is not None:
                dataset = dataset.take(self._stream_batches)
            self._built = dataset
        return self._built

    def _pull(self) -> Batch | None:
        with reading(self._name):
            if self._iterator is None:
                dataset = self._dataset()
                if self._drawn:
                    _LOG.info(
                        "data set %s: going back to batch %d of stream %d",
                        self._name,
                        self._drawn,
                        self._stream,
                    )
                    dataset = dataset.skip(self._drawn)
                self._iterator = dataset.prefetch(_PREFETCH).as_numpy_iterator()
            return next(self._iterator, None)


def stream_seed(seed: int, stream: int) -> int:
    """Returns the seed of a stream: `seed` for stream 0, else one drawn from both."""
    if stream == 0:
        return seed
    # SeedSequence takes no negative numbers.
    drawn = np.random.SeedSequence([seed % 2**64, stream]).generate_state(1)
    return int(drawn[0] % 2**31)


def training_eval_streams(
    cfg: Any,
    shard_id: int,
    num_shards: int,
    eval_steps: int,
    feature_converter_cls: Callable[..., Any],
) -> dict[str, EvalBatches]:
    """Opens evaluation streams; see `utils.get_training_eval_datasets`."""
    provider = get_provider(cfg)
    check_readable(provider, cfg.split, use_cached=cfg.use_cached)
    parts = []
    for task in seqio.get_subtasks(provider):
        if cfg.split in task.splits:
            parts.append(task)
        else:
            _LOG.info("task %s has no split %s: not evaluated", task.name, cfg.split)
    if isinstance(provider, seqio.Mixture):
        parts.append(provider)

    def batches(part: Provider) -> EvalBatches:
        def make_dataset() -> tf.data.Dataset:
            # As many passes as could be needed: without an end, a task whose examples
            # are all left out would never answer.
            dataset = model_dataset(
                cfg,
                part,
                feature_converter_cls,
                seed=cfg.seed,
                shard=None,
                num_epochs=eval_steps * cfg.batch_size,
                batch_size=None,
            )
            dataset = dataset.repeat().shard(num_shards, shard_id)
            dataset = dataset.batch(cfg.batch_size // num_shards, drop_remainder=True)
            return dataset.take(eval_steps)

        return EvalBatches(make_dataset, name=f"{part.name}, split {cfg.split}")

    return {part.name: batches(part) for part in parts}


class EvalBatches:
    """Batches that are the same each time they are iterated."""

    def __init__(self, make_dataset: Callable[[], tf.data.Dataset], *, name: str):
        """Takes what makes the dataset, anew for each iteration."""
        self._make_dataset = make_dataset
        self._name = name

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches.

        Raises:
          DataError: reading failed, or there is none.
        """
        iterator = iterate(self._make_dataset(), self._name)
        first = next(iterator, None)
        if first is None:
            raise DataError(f"{self._name}: no examples to evaluate on")
        return itertools.chain([first], iterator)


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
        # By task: building a pipeline takes long, and every chunk asks for it.
        self._datasets: dict[str, tf.data.Dataset] = {}

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
        if task.name not in self._datasets:
            self._datasets[task.name] = task.get_dataset(
                sequence_length=cfg.task_feature_lengths,
                split=cfg.split,
                shuffle=False,
                num_epochs=1,
                shard_info=self._shard,
                use_cached=cfg.use_cached,
                seed=cfg.seed,
            )
        return self._datasets[task.name]
