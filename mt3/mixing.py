"""Mixing of training examples: several pieces that sound at once.

The stage stands between run-length coding and the removal of redundant state changes
(see `mt3.preprocessors`). It shuffles, forms groups whose sizes are uniform over 1..N,
and makes each group one example: audio is summed and divided by its maximum absolute
value, events are merged by time, all other features are stacked.

Differences from the original, numbered. Options have the original's behaviour as their
default; `mt3.tasks` sets the other one for the tasks that it registers.

1. With `one_tie_section=True`, a mix has one tie section with the held notes of all its
   parts. The original writes one section for each part, which splits held notes and
   makes tokens invalid.
2. `dense="redraw"` divides a mix with more events than the targets can take into mixes
   of fewer examples, `dense="skip"` leaves it out. In the original ("keep") it stops
   the training at the length check.
3. Groups come from one shuffled stream. The original runs the pipeline before this
   stage once for each group size.
4. Silence stays silence. In the original its samples become not-a-number.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import gin
from mt3 import preprocessors, run_length_encoding
from mt3.data.lengths import LengthCheck, SequenceLength
from mt3.data.tf_bridge import Features, numpy_map
from mt3.errors import ConfigError
from mt3.event_codec import Codec
from mt3.tokenizer import NoteTokenizer

if TYPE_CHECKING:
    import tensorflow as tf

Dense = Literal["keep", "redraw", "skip"]

SHUFFLE_BUFFER_SIZE = 1000  # seqio's.

# Fills up targets of different lengths; no event index.
_NO_EVENT = -1
_FRAMES, _PARTS = "_frames", "_parts"


@gin.configurable
def mix_transcription_examples(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Mapping[str, Any],
    codec: Codec,
    inputs_feature_key: str = "inputs",
    targets_feature_keys: Sequence[str] = ("targets",),
    max_examples_per_mix: int | None = None,
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
    *,
    one_tie_section: bool = False,
    dense: Dense = "keep",
) -> tf.data.Dataset:
    """Makes examples of several.

    Args:
      ds: examples with inputs float32 [frames, hop_width] and targets int32 [n] of
        run-length coded events without EOS.
      sequence_length: the most ids of a mix's targets, EOS included; without it there
        is no limit.
      output_features: seqio's features, which say whether EOS follows.
      codec: what the events mean.
      inputs_feature_key: name of the inputs.
      targets_feature_keys: names of the targets, each of which is merged.
      max_examples_per_mix: most examples of a mix; None for no mixing, which leaves
        the examples as they are. Gin files may bind it.
      shuffle_buffer_size: examples among which the parts of a mix are drawn.
      one_tie_section: difference 1.
      dense: difference 2. An example that is too long by itself is left out, unless
        "keep". What is left out or divided leaves a log line.

    Returns:
      Mixes: inputs with the longest part's frames, merged targets, and all other
      features [parts, ...], filled up with zeros or empty strings. The stream follows
      from seqio's seed.

    Raises:
      ConfigError: a number that is not positive, or an unknown `dense`.
    """
    if max_examples_per_mix is None:
        return ds
    import tensorflow as tf

    if max_examples_per_mix < 1 or shuffle_buffer_size < 1:
        raise ConfigError(
            f"mixing: max_examples_per_mix is {max_examples_per_mix}, "
            f"shuffle_buffer_size {shuffle_buffer_size}; expected at least 1"
        )
    if dense not in ("keep", "redraw", "skip"):
        raise ConfigError(
            f"mixing: dense is {dense!r}; expected 'keep', 'redraw' or 'skip'"
        )
    targets = list(targets_feature_keys)
    mixer = Mixer(
        codec,
        {name: int(output_features[name].add_eos) for name in targets},
        None if dense == "keep" else sequence_length,
        one_tie_section=one_tie_section,
        redraw=dense == "redraw",
    )
    seed = _seqio_seed()
    ds = ds.shuffle(
        shuffle_buffer_size, seed=seed, reshuffle_each_iteration=seed is None
    )
    ds = _grouped(ds, max_examples_per_mix, inputs_feature_key, targets)
    mixed = {
        inputs_feature_key: tf.TensorSpec(
            [None, None, ds.element_spec[inputs_feature_key].shape[-1]], tf.float32
        ),
        _FRAMES: tf.TensorSpec([None], tf.int32),
        _PARTS: tf.TensorSpec([None, None], tf.int32),
        **dict.fromkeys(targets, tf.TensorSpec([None, None], tf.int32)),
    }
    names = "unique_id" if "unique_id" in ds.element_spec else _FRAMES
    arguments = [inputs_feature_key, _FRAMES, names, *targets]
    ds = numpy_map(ds, mixer, arguments, mixed)

    def mixes(group: Features) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices({name: group[name] for name in mixed})
        return rows.map(lambda row: one_mix(group, row))

    def one_mix(group: Features, row: Features) -> Features:
        parts = row[_PARTS][row[_PARTS] >= 0]
        mix = {
            name: tf.gather(value, parts)
            for name, value in group.items()
            if name not in mixed
        }
        mix[inputs_feature_key] = row[inputs_feature_key][: row[_FRAMES]]
        return mix | {n: row[n][row[n] != _NO_EVENT] for n in targets}

    return ds.flat_map(mixes)


def mixed_training_example(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    output_features: Mapping[str, Any],
    *,
    tokenizer: NoteTokenizer,
    max_examples_per_mix: int,
    skip_too_long: bool,
    padding: str = "zero_frames",
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
    original: bool = False,
) -> tf.data.Dataset:
    """Does what `preprocessors.random_training_example` does, with mixing.

    Args:
      ds: chunks as `split_tokens` gives them.
      sequence_length: as for the stages.
      output_features: seqio's features.
      tokenizer: codec, encoding, granularity and spectrogram.
      max_examples_per_mix: as for `mix_transcription_examples`.
      skip_too_long: as `skip` of `handle_too_long`.
      padding: as for `compute_spectrograms`.
      shuffle_buffer_size: as for `mix_transcription_examples`.
      original: mix as the original, see differences 1 and 2.

    Returns:
      Mixes without `raw_inputs`, which would only fill the shuffle buffer.
    """
    codec, config = tokenizer.codec, tokenizer.config
    tie = codec.event_type_range("tie")[0] if config.include_ties else None
    ds = preprocessors.select_random_chunk(ds, sequence_length)
    ds = ds.map(
        functools.partial(
            run_length_encoding.extract_target_sequence_with_indices,
            state_events_end_token=tie,
        )
    )
    ds = preprocessors.map_midi_programs(ds, codec, config.program_granularity)
    ds = run_length_encoding.run_length_encode_shifts_fn(codec)(ds)
    ds = mix_transcription_examples(
        ds,
        sequence_length,
        output_features,
        codec,
        max_examples_per_mix=max_examples_per_mix,
        shuffle_buffer_size=shuffle_buffer_size,
        one_tie_section=not original,
        dense="keep" if original else "redraw",
    )
    ds = run_length_encoding.remove_redundant_state_changes_fn(
        codec, state_change_event_types=("velocity", "program")
    )(ds)
    ds = preprocessors.compute_spectrograms(
        ds, config.spectrogram, sequence_length=sequence_length, padding=padding
    )
    ds = preprocessors.handle_too_long(
        ds, output_features, sequence_length, skip_too_long
    )
    ds = preprocessors.encode_events(ds, output_features)
    return ds.map(lambda e: {n: v for n, v in e.items() if n != "raw_inputs"})


class Mixer:
    """Makes mixes of one group of examples.

    Args:
      codec: what the events mean.
      targets: names of the targets, and how many ids are appended to each (EOS).
      limits: the most ids of each; without one there may be any number.
      one_tie_section: as for `mix_transcription_examples`.
      redraw: divide a group that is too dense; else leave it out.
    """

    def __init__(
        self,
        codec: Codec,
        targets: Mapping[str, int],
        limits: SequenceLength,
        *,
        one_tie_section: bool,
        redraw: bool,
    ):
        self._codec = codec
        self._targets = targets
        self._check = LengthCheck(limits, skip=True)
        self._one_tie_section = one_tie_section
        self._redraw = redraw

    def __call__(
        self,
        inputs: np.ndarray,
        frames: np.ndarray,
        unique_id: np.ndarray,
        *targets: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Mixes one group.

        Args:
          inputs: float32 [k, frames, hop_width], zeros after each example's end.
          frames: int32 [k], each example's own frames.
          unique_id: bytes [k, 1].
          *targets: each int32 [k, n], -1 after each example's end.

        Returns:
          For m mixes inputs [m, frames, hop_width], frames [m], the parts [m, k]
          (filled up with -1), and the targets as above; m is 1 unless the group is
          too dense.
        """
        streams = [[row[row != _NO_EVENT] for row in rows] for rows in targets]
        mixes = self.draw(streams, unique_id)
        samples = np.zeros((len(mixes), *inputs.shape[1:]), np.float32)
        for row, (parts, _) in zip(samples, mixes, strict=True):
            row[:] = mix_samples(inputs[parts])
        lengths = np.array([frames[parts].max() for parts, _ in mixes], np.int32)
        merged = (
            _padded([events[i] for _, events in mixes]) for i in range(len(targets))
        )
        return samples, lengths, _padded([parts for parts, _ in mixes]), *merged

    def draw(
        self, streams: Sequence[Sequence[np.ndarray]], unique_id: np.ndarray
    ) -> list[tuple[list[int], list[np.ndarray]]]:
        """Divides a group into mixes that are not too dense.

        Args:
          streams: for each of the targets int32 [n_i], events of each example.
          unique_id: bytes [k, 1].

        Returns:
          For each mix the examples in it and its events, one array for each target.
        """
        waiting = list(range(len(streams[0])))
        events = self._merge(streams, waiting)
        if not self._problems(events):
            return [(waiting, events)]
        if not self._redraw:
            self._report(unique_id, events)
            return []
        mixes = []
        while waiting:
            parts, mixed, left = self._fill(streams, waiting)
            if not parts:
                for index in left:
                    self._report(unique_id[index], self._merge(streams, [index]))
                break
            mixes.append((parts, mixed))
            waiting = left
        return mixes

    def _merge(
        self, streams: Sequence[Sequence[np.ndarray]], parts: Sequence[int]
    ) -> list[np.ndarray]:
        """Returns the events of some examples that sound together, by target."""
        merged = (
            run_length_encoding.merge_run_length_encoded_targets(
                [rows[i] for i in parts],
                self._codec,
                one_tie_section=self._one_tie_section,
            )
            for rows in streams
        )
        if not self._check.limits and not self._one_tie_section:
            return list(merged)
        # A later stage does it anyway; what counts is the length after that.
        return [
            run_length_encoding.remove_redundant_state_changes(events, self._codec)
            for events in merged
        ]

    def _lengths(self, events: Sequence[np.ndarray]) -> dict[str, int]:
        return {
            name: len(found) + eos
            for (name, eos), found in zip(self._targets.items(), events, strict=True)
        }

    def _problems(self, events: Sequence[np.ndarray]) -> list[str]:
        return self._check.problems(**self._lengths(events))

    def _report(self, unique_id: np.ndarray, events: Sequence[np.ndarray]) -> None:
        self._check.report(unique_id, **self._lengths(events))

    def _fill(
        self, streams: Sequence[Sequence[np.ndarray]], waiting: list[int]
    ) -> tuple[list[int], list[np.ndarray], list[int]]:
        """Takes into one mix, in order, every example that still fits."""
        parts: list[int] = []
        left: list[int] = []
        mixed: list[np.ndarray] = []
        for index in waiting:
            trial = self._merge(streams, [*parts, index])
            if self._problems(trial):
                left.append(index)
            else:
                parts.append(index)
                mixed = trial
        return parts, mixed, left


def mix_samples(samples: np.ndarray) -> np.ndarray:
    """Sums float32 [k, ...] over k and divides by the largest absolute value."""
    mixed = samples.sum(axis=0)
    peak = np.abs(mixed).max(initial=0.0)
    return mixed / peak if peak > 0 else mixed


def _padded(rows: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Returns rows of different lengths as one array, -1 after each one's end."""
    array = np.full((len(rows), max(map(len, rows), default=0)), _NO_EVENT, np.int32)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array


def _grouped(
    ds: tf.data.Dataset, most: int, inputs: str, targets: Sequence[str]
) -> tf.data.Dataset:
    """Stacks consecutive examples in groups whose sizes are uniform over 1..`most`."""
    import seqio
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def with_size(example: Features, seed: tf.Tensor) -> tuple[Features, tf.Tensor]:
        size = tf.random.stateless_uniform(
            [], seed, minval=1, maxval=most + 1, dtype=tf.int64
        )
        return {**example, _FRAMES: tf.shape(example[inputs])[0]}, size

    def next_group(state, element):
        left, current = state
        example, drawn = element
        # A group has the size that its first example drew.
        current = tf.where(left == 0, drawn, current)
        left = tf.where(left == 0, drawn, left) - 1
        return (left, current), (example, current)

    ds = with_size(ds)
    fill = {
        name: _NO_EVENT
        if name in targets
        else ("" if spec.dtype == tf.string else spec.dtype.as_numpy_dtype(0))
        for name, spec in ds.element_spec[0].items()
    }

    def batch(unused_key: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        examples = window.map(lambda example, size: example)
        return examples.padded_batch(most, padding_values=fill)

    zero = tf.constant(0, tf.int64)
    # Groups follow one another, so the size is a key that separates them.
    return ds.scan((zero, zero), next_group).group_by_window(
        key_func=lambda example, size: size,
        reduce_func=batch,
        window_size_func=lambda size: size,
    )


def _seqio_seed() -> int | None:
    """Returns the seed that seqio is about to give to the next preprocessor, if any."""
    import seqio

    # Not public; `Dataset.shuffle` needs a number, and seqio hands out tensors.
    seed = getattr(seqio.utils, "_NEXT_MAP_SEED", None)
    return None if seed is None else int(seed)
