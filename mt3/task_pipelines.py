"""What a task does with records: the stages of training and of evaluation.

`mt3.preprocessors` has the stages themselves, and their order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import seqio
import tensorflow as tf

from mt3 import mixing, preprocessors, vocabularies
from mt3.configs import ModelConfig
from mt3.data import records
from mt3.datasets import DatasetConfig
from mt3.errors import ConfigError

ON_TOO_LONG = ("stop", "skip")


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """Settings that are not in a task's name; see `tasks.register`."""

    root: str | None = None
    max_examples_per_mix: int | None = None
    on_corrupt: str = "stop"
    on_too_long: str = "skip"
    padding: str = "zero_frames"
    shuffle_buffer_size: int = seqio.SHUFFLE_BUFFER_SIZE
    metric_options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        for name, known in (
            ("on_corrupt", records.ON_CORRUPT),
            ("on_too_long", ON_TOO_LONG),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"tasks: {name} is {getattr(self, name)!r}; expected one of {known}"
                )
        for name in ("max_examples_per_mix", "shuffle_buffer_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"tasks: {name} is {value}; expected at least 1")


class TranscriptionTask(seqio.Task):
    """A task whose data are never kept in memory.

    seqio keeps every data set below 10,000 examples, which is meant for text: that
    many stored pieces of audio are 10 GB.
    """

    def get_dataset(self, *args: Any, **options: Any) -> tf.data.Dataset:
        """As `seqio.Task.get_dataset`; `try_in_mem_cache` has no effect.

        Args:
          *args: seqio's.
          **options: seqio's.
        """
        return super().get_dataset(*args, **{**options, "try_in_mem_cache": False})


def output_features(config: ModelConfig) -> dict[str, seqio.Feature]:
    """Returns the features that a task gives: mel frames, and ids with EOS."""
    return {
        "inputs": seqio.ContinuousFeature(
            vocabulary=seqio.PassThroughVocabulary(size=0), dtype=tf.float32, rank=2
        ),
        "targets": seqio.Feature(
            vocabulary=vocabularies.vocabulary_from_codec(
                vocabularies.build_codec(config.vocabulary)
            )
        ),
    }


def _tokenize(
    dataset: DatasetConfig,
    config: ModelConfig,
    options: PipelineOptions,
    *,
    training: bool,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    return functools.partial(
        preprocessors.tokenize,
        dataset=dataset,
        config=config,
        training=training,
        on_error=options.on_corrupt,
    )


def training_stages(
    dataset: DatasetConfig, config: ModelConfig, options: PipelineOptions
) -> list[Callable[..., tf.data.Dataset]]:
    """Returns the way from records to training examples."""
    skip = options.on_too_long == "skip"
    stages = [
        _tokenize(dataset, config, options, training=True),
        preprocessors.split_tokens,
        seqio.CacheDatasetPlaceholder(),
    ]
    if options.max_examples_per_mix is None:
        return [
            *stages,
            functools.partial(
                preprocessors.random_training_example, config=config, skip_too_long=skip
            ),
        ]
    return [
        *stages,
        preprocessors.select_random_chunk,
        functools.partial(preprocessors.extract_targets, config=config),
        functools.partial(
            mixing.mix_transcription_examples,
            config=config,
            max_examples_per_mix=options.max_examples_per_mix,
            shuffle_buffer_size=options.shuffle_buffer_size,
        ),
        functools.partial(preprocessors.remove_redundant_state_changes, config=config),
        functools.partial(preprocessors.compute_spectrograms, config=config),
        functools.partial(preprocessors.handle_too_long, skip=skip),
        functools.partial(preprocessors.encode_and_append_eos, config=config),
        _without_samples,
    ]


def evaluation_stages(
    dataset: DatasetConfig, config: ModelConfig, options: PipelineOptions
) -> list[Callable[..., tf.data.Dataset]]:
    """Returns the way from records to the consecutive segments of songs."""
    return [
        _tokenize(dataset, config, options, training=False),
        seqio.CacheDatasetPlaceholder(),
        preprocessors.split_tokens_to_inputs_length,
        preprocessors.add_dummy_targets,
        functools.partial(preprocessors.compute_spectrograms, config=config),
        functools.partial(preprocessors.handle_too_long, skip=False),
        functools.partial(preprocessors.encode_and_append_eos, config=config),
    ]


def _without_samples(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves out `raw_inputs`, which would only fill the shuffle buffer."""
    return ds.map(
        lambda example: {k: v for k, v in example.items() if k != "raw_inputs"}
    )
