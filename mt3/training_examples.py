"""Training examples in one step: what several stages of `mt3.preprocessors` do.

A call of Python inside tf.data costs a quarter of a millisecond, and so does handing an
element from stage to stage: as much as the work on an example without its spectrogram.
So there is one call for each example. `preprocessors` has the single stages, which
give the same examples, and says what the features are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mt3.configs import ModelConfig
from mt3.data.tf_bridge import Features
from mt3.errors import ConfigError
from mt3.example_encoder import LengthCheck, SegmentEncoder, SequenceLength
from mt3.run_length_encoding import IndexedEvents

FRAME_INDICES = (
    "input_event_start_indices",
    "input_event_end_indices",
    "input_state_event_indices",
)
# In the order of the fields of `IndexedEvents`.
INDEXED_EVENTS = (
    "targets",
    "input_event_start_indices",
    "input_event_end_indices",
    "state_events",
    "input_state_event_indices",
)


def training_example(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    *,
    config: ModelConfig,
    skip_too_long: bool,
) -> tf.data.Dataset:
    """Does in one step what the stages from `extract_targets` to EOS do.

    Args:
      ds: parts as `select_random_chunk` gives them.
      sequence_length: as for `handle_too_long`.
      config: all settings.
      skip_too_long: as `skip` of `handle_too_long`.

    Returns:
      The same `inputs`, `targets`, `input_times`, `sequence` and `unique_id` as the
      single stages give; no `raw_inputs`, which would fill shuffle buffers.
    """
    encode = _ExampleMap(sequence_length, config, skip_too_long)

    def example(part: Features) -> Features:
        return encode(part, 0, tf.shape(part["inputs"])[0])

    ds = ds.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return ds.filter(_has_targets)


def random_training_example(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    *,
    config: ModelConfig,
    skip_too_long: bool,
) -> tf.data.Dataset:
    """Does in one step what `select_random_chunk` and `training_example` do.

    Args:
      ds: chunks as `split_tokens` gives them.
      sequence_length: as for these stages.
      config: all settings.
      skip_too_long: as `skip` of `handle_too_long`.

    Returns:
      The same examples, of the same random numbers.

    Raises:
      ConfigError: no length is given.
    """
    length = frames_of(sequence_length, "inputs", "random_training_example")
    encode = _ExampleMap(sequence_length, config, skip_too_long)

    @seqio.map_over_dataset(num_seeds=1)
    def example(chunk: Features, seed: tf.Tensor) -> Features:
        first, end = random_part(chunk, length, seed)
        for name in ("inputs", "input_times"):
            chunk = {**chunk, name: chunk[name][first:end]}
        return encode(chunk, first, end)

    return example(ds).filter(_has_targets)


def random_part(
    chunk: Features, length: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws the first frame and the end of a part; see `select_random_chunk`."""
    frames = tf.shape(chunk["inputs"])[0]
    start = tf.random.stateless_uniform(
        [], seed, minval=1 - length, maxval=frames, dtype=tf.int32
    )
    return tf.maximum(start, 0), tf.minimum(start + length, frames)


def _has_targets(example: Features) -> tf.Tensor:
    """Whether an example is to stay: what is too long came back without EOS."""
    return tf.size(example["targets"]) > 0


class _ExampleMap:
    """Makes an example of a part in one call of Python, whose price is per call."""

    def __init__(
        self, sequence_length: SequenceLength, config: ModelConfig, skip_too_long: bool
    ):
        self._encoder = SegmentEncoder(config, sequence_length)
        self._check = LengthCheck(sequence_length, skip=skip_too_long)
        self._mel_bins = config.spectrogram.num_mel_bins

    def __call__(self, part: Features, first: Any, end: Any) -> Features:
        """Returns the example.

        Args:
          part: `inputs` are the part's own; indices and events may be of more frames.
          first: the part's first frame among the indices.
          end: the end of its frames.

        Returns:
          The features of `training_example`; `targets` are empty if it is too long.
        """
        names = ("unique_id", "inputs", *INDEXED_EVENTS)
        inputs, targets = tf.numpy_function(
            self._example,
            [first, end, *(part[name] for name in names)],
            [tf.float32, tf.int32],
            stateful=False,
        )
        unused = (*FRAME_INDICES, "state_events")
        kept = {name: value for name, value in part.items() if name not in unused}
        return {
            **kept,
            "inputs": tf.ensure_shape(inputs, [None, self._mel_bins]),
            "targets": tf.ensure_shape(targets, [None]),
        }

    def _example(
        self,
        first: np.ndarray,
        end: np.ndarray,
        unique_id: np.ndarray,
        inputs: np.ndarray,
        *arrays: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        encoder = self._encoder
        events = encoder.extract(IndexedEvents(*arrays), int(first), int(end - first))
        ids = encoder.tokenizer.to_ids(encoder.reduce(events))
        if not self._check.fits(len(inputs), len(ids)):
            self._check.report(unique_id, len(inputs), len(ids))
            return encoder.mel_frames(inputs[:0]), ids[:0]
        return encoder.mel_frames(inputs), ids


def frames_of(sequence_length: SequenceLength, name: str, stage: str) -> int:
    """Returns the length of a feature.

    Raises:
      ConfigError: none is given; names the stage that needs it.
    """
    length = (sequence_length or {}).get(name)
    if not length:
        raise ConfigError(
            f"{stage}: sequence_length is {sequence_length!r}; expected a number of "
            f"frames for {name!r}"
        )
    return length
