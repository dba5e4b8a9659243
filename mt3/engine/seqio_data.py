"""Batches of seqio tasks and mixtures, with a position that can be gone back to.

A training source is a sequence of streams. Stream k is a fresh seqio pipeline with a
seed of its own, cut off after `stream_batches` batches; its position is the pair
(k, batches drawn from it). Going back to a position rebuilds stream k alone and drops
what was drawn, so that it costs at most one stream. Checkpoints of TensorFlow's own
iterators would hold the whole shuffle buffers, gigabytes of spectrograms.

    seed of stream 0    the configuration's
    seed of stream k    drawn from (configuration's seed, k)

Stream 0 therefore has the batches, in the order, that T5X draws with that seed. A
stream should be several passes over a small data set, or a sizeable part of a large
one: each begins by filling its shuffle buffers, and shuffles anew.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf

from mt3.configs import ModelConfig
from mt3.engine.seqio_tasks import (
    Batch,
    Provider,
    check_readable,
    get_provider,
    iterate,
    model_config,
    reading,
)
from mt3.errors import ConfigError, DataError

_LOG = logging.getLogger("mt3")

# Batches that TensorFlow prepares ahead, beside those of the engine's own thread.
_PREFETCH = 2


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
