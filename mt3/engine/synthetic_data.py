"""Training batches from synthesis, without TensorFlow.

`RandomNotes` renders random notes with a soundfont when they are asked for; `Corpus`
cuts segments from clips that `mt3 synthesize` rendered before. Either is bound in gin
as `train.get_dataset_fn = @synthetic_data.RandomNotes()`.

A batch is a function of (seed, split, number) alone, so any worker can prepare any
batch, and a resumed run sees exactly what an uninterrupted run would have seen.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mt3 import spectrograms
from mt3.beyond import grids
from mt3.configs import ModelConfig
from mt3.engine.utils import DatasetConfig
from mt3.errors import ConfigError, DataError
from mt3.midi import note_arrays
from mt3.synthesis import random_notes
from mt3.synthesis.augmentation import NO_AUGMENTATION, AugmentationConfig
from mt3.synthesis.sampler import ClipSampler
from mt3.synthesis.soundfont import open_soundfont
from mt3.tokenizer import NoteTokenizer

# Draws of one example before a source counts as unusable.
_MOST_DRAWS = 50


class SegmentFunction(Protocol):
    """Segments as a function of their number.

    If it depends on more, it also has `settings`, and `with_settings` that returns the
    same function with the settings of a checkpoint.
    """

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples float32 [input_samples], notes NOTE_DTYPE [n]).

        Args:
          key: seed, hash of the split, number of the example, number of the draw.

        The times of notes count from the end of the context before the segment; notes
        that already sound at its start keep their own start time.
        """


def token_features(
    notes: np.ndarray, tokenizer: NoteTokenizer
) -> dict[str, np.ndarray] | None:
    """Makes the decoder's features of a segment.

    Args:
      notes: NOTE_DTYPE [n], see `SegmentFunction`; tokens have those that sound in the
        segment's middle.
      tokenizer: with the model's configuration.

    Returns:
      decoder_target_tokens int32 [L], decoder_input_tokens int32 [L] and
      decoder_loss_weights float32 [L]; None when the targets exceed L tokens.
    """
    config = tokenizer.config
    ids = tokenizer.encode_segment(notes, config.segment_frames)
    if len(ids) > config.targets_length:
        return None
    targets = np.zeros(config.targets_length, np.int32)
    targets[: len(ids)] = ids
    inputs = np.zeros_like(targets)
    inputs[1:] = targets[:-1]
    return {
        "decoder_target_tokens": targets,
        "decoder_input_tokens": inputs,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


def example_features(
    samples: np.ndarray, notes: np.ndarray, tokenizer: NoteTokenizer
) -> dict[str, np.ndarray] | None:
    """Makes a segment's features: `token_features` and encoder_input_tokens [T, D].

    Args:
      samples: float32 [input_samples].
      notes: as for `token_features`.
      tokenizer: with the model's configuration.
    """
    features = token_features(notes, tokenizer)
    if features is None:
        return None
    frames = spectrograms.compute_spectrogram(samples, tokenizer.config.spectrogram)
    return {"encoder_input_tokens": np.asarray(frames, np.float32), **features}


def device_features(
    samples: np.ndarray, notes: np.ndarray, tokenizer: NoteTokenizer
) -> dict[str, np.ndarray] | None:
    """Makes a segment's features for `guided.GuidedModel`, which computes the frames.

    Args:
      samples: float32 [history + input_samples].
      notes: as for `token_features`.
      tokenizer: with the model's configuration.

    Returns:
      `token_features`, samples int16 [history + input_samples] and notes float32
      [L / 2, 5] (`grids.note_rows`); None when there are too many tokens or notes.
    """
    # A velocity of 0, which nobody knows, is no note's end.
    sounding = notes.copy()
    sounding["velocity"] = np.maximum(notes["velocity"], 1)
    features = token_features(sounding, tokenizer)
    rows = grids.note_rows(notes, tokenizer.config.targets_length // 2)
    if features is None or rows is None:
        return None
    peak = max(float(np.abs(samples).max(initial=0.0)), 1.0)
    whole = np.round(samples * np.float32(32767 / peak)).astype(np.int16)
    return {"samples": whole, "notes": rows, **features}


@dataclasses.dataclass
class SegmentBatches:
    """Batches of model features, as a function of their number.

    Attributes:
      segments: the source of audio and notes.
      config: the model's configuration.
      batch_size: examples in a batch.
      seed: of all random draws.
      split: streams of different splits have nothing in common.
      on_device: make `device_features` instead of `example_features`.
      length_multiple: cut the batch's padding after its longest target, rounded up to
        a multiple of this (each length that occurs costs one compilation); None
        keeps all padding.
      pool: number of batches that are drawn together and sorted by the length of their
        targets, so that each is padded less; their order is shuffled again.
      skipped: segments skipped so far in this process because their targets were too
        long.
    """

    segments: SegmentFunction
    config: ModelConfig
    batch_size: int
    seed: int
    split: str = "train"
    on_device: bool = False
    length_multiple: int | None = None
    pool: int = 1
    skipped: int = 0

    def __post_init__(self):
        self._tokenizer = NoteTokenizer(self.config)
        self._pooled: tuple[int, list[dict[str, np.ndarray]]] = (-1, [])

    def __reduce__(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return functools.partial(SegmentBatches, **fields), ()

    def settings(self) -> dict[str, Any]:
        """Returns what the segments depend on beside their key, for checkpoints."""
        return getattr(self.segments, "settings", {})

    def apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Restores `settings`, so that a resumed run draws the same segments."""
        if hasattr(self.segments, "with_settings"):
            self.segments = self.segments.with_settings(settings)

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """Returns the features of batch `index`, stacked.

        Raises:
          DataError: nearly all segments have too many tokens.
        """
        examples = self._examples(index)
        batch = {
            name: np.stack([example[name] for example in examples])
            for name in examples[0]
        }
        if self.length_multiple:
            longest = max(map(_target_length, examples))
            length = -(-longest // self.length_multiple) * self.length_multiple
            for name in batch:
                if name.startswith("decoder_"):
                    batch[name] = batch[name][:, :length]
        return batch

    def _examples(self, index: int) -> list[dict[str, np.ndarray]]:
        """Returns the examples of a batch, and keeps the pool it belongs to."""
        number, place = divmod(index, self.pool)
        if self._pooled[0] != number:
            size = self.pool * self.batch_size
            examples = [self.example(number * size + i) for i in range(size)]
            if self.pool > 1:
                examples.sort(key=_target_length)
            self._pooled = (number, examples)
        order = np.random.default_rng([self.seed, number]).permutation(self.pool)
        first = int(order[place]) * self.batch_size
        return self._pooled[1][first : first + self.batch_size]

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example; segments with too many tokens are drawn again."""
        make = device_features if self.on_device else example_features
        for draw in range(_MOST_DRAWS):
            key = (self.seed, zlib.crc32(self.split.encode()), index, draw)
            features = make(*self.segments.segment(key), self._tokenizer)
            if features is not None:
                return features
            self.skipped += 1
        raise DataError(
            f"synthetic data, split {self.split!r}, example {index}: {_MOST_DRAWS} "
            f"segments in a row have more than {self.config.targets_length} tokens; "
            "raise the length of targets or draw fewer notes"
        )


def _target_length(example: Mapping[str, np.ndarray]) -> int:
    return int((example["decoder_target_tokens"] > 0).sum())


def check_lengths(cfg: DatasetConfig, config: ModelConfig) -> None:
    """Raises ConfigError if lengths differ from the model's, or a seed is missing."""
    wanted = {"inputs": config.inputs_length, "targets": config.targets_length}
    for name, length in (cfg.task_feature_lengths or {}).items():
        if wanted.get(name) != length:
            raise ConfigError(
                f"DatasetConfig: task_feature_lengths has {name}={length}; the "
                f"model configuration has {wanted}"
            )
    if cfg.seed is None:
        raise ConfigError("DatasetConfig: synthetic data needs a seed")


@dataclasses.dataclass(frozen=True)
class RandomNotes:
    """Random notes, rendered when they are asked for, up to 2 s into their piece.

    Attributes:
      model_config: sizes, tokens and spectrogram.
      soundfont: .sf2 or .sf3 file; None for the one that `pretty_midi` contains.
      max_programs: the most programs that play at a time.
      max_polyphony: the most voices of each.
      drums: the chance that drums play along.
    """

    uses_feature_converter = False

    model_config: ModelConfig
    soundfont: str | None = None
    max_programs: int = 4
    max_polyphony: int = 3
    drums: float = 0.4

    def __call__(self, cfg: DatasetConfig, *_: Any, **__: Any) -> SegmentBatches:
        """Returns the batches; the shard and the converter of T5X have no meaning."""
        config = self.model_config
        check_lengths(cfg, config)
        return SegmentBatches(self, config, cfg.batch_size, cfg.seed, cfg.split)

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples, notes); see `SegmentFunction`."""
        rng = np.random.default_rng(key)
        config = self.model_config
        sample_rate = config.spectrogram.sample_rate
        seconds = config.input_samples / sample_rate
        start = float(rng.uniform(0.0, 2.0))
        notes = random_notes.random_notes(
            rng,
            seconds=start + seconds,
            max_programs=self.max_programs,
            max_polyphony=self.max_polyphony,
            drums=self.drums,
        )
        font = open_soundfont(self.soundfont, sample_rate)
        samples = font.render(notes, seconds=seconds, start_time=start)
        peak = float(np.abs(samples).max(initial=0.0))
        level = rng.uniform(0.3, 0.95)
        if peak > 0:
            samples = samples * np.float32(level / peak)
        window = note_arrays.window(notes, start, start + seconds)
        window["start_time"] -= config.context_seconds
        window["end_time"] -= config.context_seconds
        return samples[: config.input_samples], note_arrays.without_tracks(window)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Segments of clips that `mt3 synthesize` rendered, mixed and augmented.

    Evaluation splits are neither mixed nor augmented.

    Attributes:
      model_config: sizes, tokens and spectrogram.
      folder: the corpus.
      mix: the chance that another clip is added, and then another.
      augmentation: how audio is changed; None for the defaults.
      num_shards: number of shards in use; None for all that exist at the start, a
        number that checkpoints keep.
      stages: (first batch, limits of `ClipSampler.example`) pairs in order: an easy
        beginning. Evaluation has the limits of the last stage.
      length_multiple: see `SegmentBatches`.
      pool: see `SegmentBatches`.
      on_device: leave augmentation and spectrogram to `guided.GuidedModel`, which has
        an `augmentation` of its own.

    Raises:
      ConfigError: stages are not in order, or do not begin with batch 0.
    """

    uses_feature_converter = False

    model_config: ModelConfig
    folder: str
    mix: float = 0.2
    augmentation: AugmentationConfig | None = None
    num_shards: int | None = None
    stages: Sequence[tuple[int, Mapping[str, Any]]] = ((0, {}),)
    length_multiple: int | None = None
    pool: int = 1
    on_device: bool = False

    def __post_init__(self):
        starts = [first for first, _ in self.stages]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(
                f"Corpus: stages begin at batches {starts}; expected 0 and then "
                "rising numbers"
            )

    def __call__(self, cfg: DatasetConfig, *_: Any, **__: Any) -> SegmentBatches:
        """Returns the batches; the shard and the converter of T5X have no meaning.

        Raises:
          DataError: there is no such corpus, or it has another sample rate.
        """
        config = self.model_config
        check_lengths(cfg, config)
        sample_rate = config.spectrogram.sample_rate
        training = cfg.split == "train"
        changes = self.augmentation or AugmentationConfig()
        if not training:
            changes = NO_AUGMENTATION
        seed = np.random.SeedSequence([cfg.seed, zlib.crc32(cfg.split.encode())])
        sampler = ClipSampler(
            self.folder,
            segment_seconds=config.input_samples / sample_rate,
            context_seconds=config.context_seconds,
            seed=int(seed.generate_state(1)[0]),
            mix=self.mix if training else 0.0,
            augmentation=None if self.on_device else changes,
            num_shards=self.num_shards,
        )
        if sampler.sample_rate != sample_rate:
            raise DataError(
                f"{self.folder}: the corpus has {sampler.sample_rate} samples per "
                f"second; the model's spectrogram needs {sample_rate}"
            )
        stages = self.stages if training else ((0, self.stages[-1][1]),)
        return SegmentBatches(
            CorpusSegments(sampler, stages, cfg.batch_size),
            config,
            cfg.batch_size,
            cfg.seed,
            cfg.split,
            on_device=self.on_device,
            length_multiple=self.length_multiple,
            pool=self.pool,
        )


@dataclasses.dataclass(frozen=True)
class CorpusSegments:
    """Segments of a corpus, with limits that depend on the batch's number."""

    sampler: ClipSampler
    stages: Sequence[tuple[int, Mapping[str, Any]]]
    batch_size: int

    @property
    def settings(self) -> dict[str, Any]:
        """The number of shards in use."""
        return {"num_shards": self.sampler.num_shards}

    def with_settings(self, settings: Mapping[str, Any]) -> CorpusSegments:
        """Returns the same with the number of shards of a checkpoint."""
        count = settings.get("num_shards", self.sampler.num_shards)
        sampler = dataclasses.replace(self.sampler, num_shards=int(count))
        return dataclasses.replace(self, sampler=sampler)

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples, notes); see `SegmentFunction`."""
        _, _, index, draw = key
        batch = index // self.batch_size
        limits = [limits for first, limits in self.stages if first <= batch][-1]
        example = self.sampler.example(index * _MOST_DRAWS + draw, **limits)
        return example.samples, example.notes
