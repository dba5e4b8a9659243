"""Mixing of training examples: several pieces that sound at once.

The stage stands between `preprocessors.extract_targets` and the rest of the training
pipeline. It shuffles, forms groups whose sizes are uniform over 1..N, and makes each
group one example: audio is summed and divided by its maximum absolute value, events
are merged by time. Every example goes into one mix.

Differences from the original, numbered:

1. A mix has one tie section, with the held notes of all its parts. The original keeps
   one section for each part, which splits held notes and makes tokens invalid.
2. A mix with more events than the targets hold does not stop the training: its
   examples are drawn again as mixes of fewer, or the mix is left out
   (`dense="skip"`). It is never truncated.
3. Groups come from one shuffled stream. The original runs the pipeline below once for
   each group size.
4. Silence stays silence; in the original its samples become not-a-number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import seqio
import tensorflow as tf

from mt3 import run_length_encoding
from mt3.configs import ModelConfig
from mt3.data.tf_bridge import Features, numpy_map
from mt3.errors import ConfigError
from mt3.example_encoder import LengthCheck, SegmentEncoder, SequenceLength

Dense = Literal["redraw", "skip"]

# Fills up `targets` of different lengths; no event index.
_NO_EVENT = -1


def mix_transcription_examples(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    *,
    config: ModelConfig,
    max_examples_per_mix: int | None = None,
    shuffle_buffer_size: int = seqio.SHUFFLE_BUFFER_SIZE,
    dense: Dense = "redraw",
) -> tf.data.Dataset:
    """Makes examples of several.

    Args:
      ds: examples with `inputs` float32 [frames, hop_width], `targets` int32 [n] of
        run-length coded events without EOS, and `unique_id` string [1].
      sequence_length: `targets` is the most ids of a mix, EOS included; without it
        there is no limit.
      config: vocabulary and encoding.
      max_examples_per_mix: most examples of a mix; None for no mixing, which leaves
        the examples as they are.
      shuffle_buffer_size: examples among which the parts of a mix are drawn.
      dense: what happens to a mix with too many events: "redraw" splits it into as
        many mixes as its events need, "skip" leaves it out. An example that is too
        long by itself is left out either way. Both leave a log line.

    Returns:
      Mixes: `inputs` (of the longest part's frames), `targets` without redundant
      state changes, `unique_id` (the parts' names, joined by " + "). Same seed of
      seqio's, same stream.

    Raises:
      ConfigError: a number that is not positive, or an unknown `dense`.
    """
    if max_examples_per_mix is None:
        return ds
    if max_examples_per_mix < 1 or shuffle_buffer_size < 1:
        raise ConfigError(
            f"mixing: max_examples_per_mix is {max_examples_per_mix}, "
            f"shuffle_buffer_size {shuffle_buffer_size}; expected at least 1"
        )
    if dense not in ("redraw", "skip"):
        raise ConfigError(f"mixing: dense is {dense!r}; expected 'redraw' or 'skip'")
    mixer = Mixer(config, sequence_length, redraw=dense == "redraw")
    seed = _seqio_seed()
    ds = ds.shuffle(
        shuffle_buffer_size, seed=seed, reshuffle_each_iteration=seed is None
    )
    ds = _grouped(ds, max_examples_per_mix)
    outputs = {
        "inputs": tf.TensorSpec([None, None, config.spectrogram.hop_width], tf.float32),
        "frames": tf.TensorSpec([None], tf.int32),
        "targets": tf.TensorSpec([None, None], tf.int32),
        "unique_id": tf.TensorSpec([None, 1], tf.string),
    }
    return numpy_map(ds, mixer, list(outputs), outputs).unbatch().map(_unpadded)


class Mixer:
    """Makes mixes of one group of examples.

    Args:
      config: vocabulary and encoding.
      sequence_length: `targets` is the most ids of a mix, EOS included.
      redraw: split a group that is too dense; else leave it out.
    """

    def __init__(
        self, config: ModelConfig, sequence_length: SequenceLength, *, redraw: bool
    ):
        self._encoder = SegmentEncoder(config)
        self._codec = self._encoder.tokenizer.codec
        # Frames do not become more by mixing.
        limits = {"targets": (sequence_length or {}).get("targets")}
        self._check = LengthCheck(limits, skip=True)
        self._redraw = redraw

    def __call__(
        self,
        inputs: np.ndarray,
        frames: np.ndarray,
        targets: np.ndarray,
        unique_id: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mixes one group.

        Args:
          inputs: float32 [k, frames, hop_width], zeros after each example's end.
          frames: int32 [k], each example's own frames.
          targets: int32 [k, n], -1 after each example's end.
          unique_id: bytes [k, 1].

        Returns:
          The same for m mixes; m is 1 unless the group is too dense.
        """
        streams = [row[row != _NO_EVENT] for row in targets]
        mixes = self.draw(streams, unique_id)
        longest = max((len(events) for _, events in mixes), default=0)
        mixed = np.full((len(mixes), longest), _NO_EVENT, np.int32)
        for row, (_, events) in zip(mixed, mixes, strict=True):
            row[: len(events)] = events
        samples = np.zeros((len(mixes), *inputs.shape[1:]), np.float32)
        for row, (parts, _) in zip(samples, mixes, strict=True):
            row[:] = mix_samples(inputs[parts])
        lengths = [frames[parts].max() for parts, _ in mixes]
        names = [b" + ".join(unique_id[parts, 0]) for parts, _ in mixes]
        return (
            samples,
            np.array(lengths, np.int32),
            mixed,
            np.array(names, object).reshape(-1, 1),
        )

    def draw(
        self, streams: Sequence[np.ndarray], unique_id: np.ndarray
    ) -> list[tuple[list[int], np.ndarray]]:
        """Divides a group into mixes that are not too dense.

        Args:
          streams: int32 [n_i], run-length coded events of each example.
          unique_id: bytes [k, 1].

        Returns:
          For each mix the examples in it and its events.
        """
        everything = list(range(len(streams)))
        events = self.merge(streams)
        if self._fits(events):
            return [(everything, events)]
        if not self._redraw:
            self._check.report(unique_id, 0, len(events) + 1)
            return []
        mixes = []
        waiting = everything
        while waiting:
            parts, mixed, left = self._fill(streams, waiting)
            if not parts:
                for index in left:
                    ids = len(self.merge([streams[index]])) + 1
                    self._check.report(unique_id[index], 0, ids)
                break
            mixes.append((parts, mixed))
            waiting = left
        return mixes

    def merge(self, streams: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the events of streams that sound together, int32 [n]."""
        merged = run_length_encoding.merge_run_length_encoded_targets(
            streams, self._codec, one_tie_section=True
        )
        return self._encoder.reduce(merged)

    def _fits(self, events: np.ndarray) -> bool:
        return self._check.fits(0, len(events) + 1)

    def _fill(
        self, streams: Sequence[np.ndarray], waiting: list[int]
    ) -> tuple[list[int], np.ndarray, list[int]]:
        """Takes into one mix, in order, every example that still fits."""
        parts: list[int] = []
        left: list[int] = []
        mixed = np.zeros(0, np.int32)
        for index in waiting:
            trial = self.merge([streams[i] for i in [*parts, index]])
            if self._fits(trial):
                parts.append(index)
                mixed = trial
            else:
                left.append(index)
        return parts, mixed, left


def mix_samples(samples: np.ndarray) -> np.ndarray:
    """Sums float32 [k, ...] over k and divides by the largest absolute value."""
    mixed = samples.sum(axis=0)
    peak = np.abs(mixed).max(initial=0.0)
    return mixed / peak if peak > 0 else mixed


def _grouped(ds: tf.data.Dataset, most: int) -> tf.data.Dataset:
    """Groups consecutive examples; sizes are uniform over 1..`most`."""

    @seqio.map_over_dataset(num_seeds=1)
    def with_size(example: Features, seed: tf.Tensor) -> tuple[Features, tf.Tensor]:
        size = tf.random.stateless_uniform(
            [], seed, minval=1, maxval=most + 1, dtype=tf.int64
        )
        kept = {name: example[name] for name in ("inputs", "targets", "unique_id")}
        return {**kept, "frames": tf.shape(example["inputs"])[0]}, size

    def next_group(state, element):
        left, current = state
        example, drawn = element
        # A group has the size that its first example drew.
        current = tf.where(left == 0, drawn, current)
        left = tf.where(left == 0, drawn, left) - 1
        return (left, current), (example, current)

    def batch(unused_key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        return window.map(lambda example, size: example).padded_batch(
            most,
            padding_values={
                "inputs": np.float32(0),
                "targets": np.int32(_NO_EVENT),
                "unique_id": b"",
                "frames": np.int32(0),
            },
        )

    zero = tf.constant(0, tf.int64)
    # Groups follow one another, so their size is a key that tells them apart.
    return (
        with_size(ds)
        .scan((zero, zero), next_group)
        .group_by_window(
            key_func=lambda example, size: size,
            reduce_func=batch,
            window_size_func=lambda size: size,
        )
    )


def _unpadded(mix: Features) -> Features:
    targets = mix["targets"]
    return {
        "inputs": mix["inputs"][: mix["frames"]],
        "targets": targets[targets != _NO_EVENT],
        "unique_id": mix["unique_id"],
    }


def _seqio_seed() -> int | None:
    """The seed that seqio is about to give to the next preprocessor, if it has one."""
    # Not public; `Dataset.shuffle` needs a number, and seqio hands out tensors.
    seed = getattr(seqio.utils, "_NEXT_MAP_SEED", None)
    return None if seed is None else int(seed)
