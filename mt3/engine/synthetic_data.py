"""Training batches from synthesis, without TensorFlow.

`RandomNotes` renders random notes with a soundfont as they are asked for;
`Corpus` cuts segments from clips that `mt3 synthesize` rendered before. Either is
bound in gin as `train.get_dataset_fn = @synthetic_data.RandomNotes()`.

A batch is a pure function of (seed, split, number), so any worker can prepare any
batch, and a resumed run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mt3 import spectrograms
from mt3.beyond import grids
from mt3.configs import ModelConfig
from mt3.engine.utils import DatasetConfig
from mt3.errors import ConfigError, DataError
from mt3.tokenizer import NoteTokenizer

# Draws of one example before a source counts as unusable.
_MOST_DRAWS = 50

ExtraFeature = Callable[[np.ndarray, ModelConfig], np.ndarray]


class SegmentFunction(Protocol):
    """Segments as a pure function of their number."""

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples float32 [segment_samples], notes NOTE_DTYPE [n]).

        Times of notes count from the segment's start; notes that sound at it have
        a negative start time.
        """


def example_features(
    samples: np.ndarray,
    notes: np.ndarray,
    tokenizer: NoteTokenizer,
    extra_features: Mapping[str, ExtraFeature] | None = None,
) -> dict[str, np.ndarray] | None:
    """Makes a segment's model features.

    Args:
      samples: float32 [segment_samples].
      notes: NOTE_DTYPE [n], times from the segment's start.
      tokenizer: with the model's configuration.
      extra_features: further features, each from (notes, configuration).

    Returns:
      encoder_input_tokens float32 [T, D], decoder_target_tokens int32 [L],
      decoder_input_tokens int32 [L], decoder_loss_weights float32 [L] and the
      extra ones; None when the targets are longer than L tokens.
    """
    config = tokenizer.config
    features = token_features(notes, tokenizer)
    if features is None:
        return None
    frames = spectrograms.compute_spectrogram(samples, config.spectrogram)
    features["encoder_input_tokens"] = np.asarray(frames, np.float32)
    for name, function in (extra_features or {}).items():
        features[name] = function(notes, config)
    return features


def token_features(
    notes: np.ndarray, tokenizer: NoteTokenizer
) -> dict[str, np.ndarray] | None:
    """Makes the decoder's features of a segment; see `example_features`."""
    config = tokenizer.config
    ids = tokenizer.encode_segment(notes, config.inputs_length)
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


def device_features(
    samples: np.ndarray, notes: np.ndarray, tokenizer: NoteTokenizer
) -> dict[str, np.ndarray] | None:
    """Makes a segment's features for `guided.GuidedModel`, which does the rest.

    Args:
      samples: float32 [history + segment_samples].
      notes: NOTE_DTYPE [n], times from the segment's start.
      tokenizer: with the model's configuration.

    Returns:
      samples int16 [history + segment_samples], notes float32 [N, 4] (N is half of
      the targets' length) and the decoder's features; None when these are too long.
    """
    features = token_features(notes, tokenizer)
    rows = grids.note_rows(notes, tokenizer.config.targets_length // 2)
    if features is None or rows is None:
        return None
    peak = max(float(np.abs(samples).max(initial=0.0)), 1.0)
    whole = np.round(samples * np.float32(32767 / peak)).astype(np.int16)
    return {"samples": whole, "notes": rows, **features}


@dataclasses.dataclass
class SegmentBatches:
    """Batches of model features, as a pure function of their number.

    Attributes:
      segments: where audio and notes come from.
      config: the model's.
      batch_size: examples of a batch.
      seed: of everything drawn.
      split: streams of different splits have nothing in common.
      extra_features: see `example_features`.
      on_device: make `device_features` instead of `example_features`.
      length_multiple: cut the batch's padding after its longest target, rounded up to
        a multiple of this (each length that occurs is one more compilation); None
        keeps all.
      pool: so many batches are drawn together and sorted by the length of their
        targets, so that each is padded less; their order is shuffled again.
      skipped: segments passed over so far in this process, because their targets
        were too long.
    """

    segments: SegmentFunction
    config: ModelConfig
    batch_size: int
    seed: int
    split: str = "train"
    extra_features: Mapping[str, ExtraFeature] = dataclasses.field(default_factory=dict)
    on_device: bool = False
    length_multiple: int | None = None
    pool: int = 1
    skipped: int = 0

    def __post_init__(self):
        self._tokenizer = NoteTokenizer(self.config)
        self._pooled: tuple[int, list[dict[str, np.ndarray]]] = (-1, [])

    def settings(self) -> dict[str, Any]:
        """Returns what the segments depend on beside their key, for checkpoints."""
        settings = getattr(self.segments, "settings", None)
        return {} if settings is None else settings()

    def apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Takes back `settings`, so that a resumed run draws the same segments."""
        if hasattr(self.segments, "with_settings"):
            self.segments = self.segments.with_settings(settings)

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """Returns batch `index`: the features of `example_features`, stacked.

        Raises:
          DataError: nearly all segments have too many tokens.
        """
        examples = self._examples(index)
        batch = {
            name: np.stack([example[name] for example in examples])
            for name in examples[0]
        }
        if self.length_multiple:
            longest = int((batch["decoder_target_tokens"] > 0).sum(axis=1).max())
            length = -(-longest // self.length_multiple) * self.length_multiple
            for name in batch:
                if name.startswith("decoder_"):
                    batch[name] = batch[name][:, :length]
        return batch

    def _examples(self, index: int) -> list[dict[str, np.ndarray]]:
        """Returns the examples of a batch; the pool that it is of is kept."""
        number, place = divmod(index, self.pool)
        if self._pooled[0] != number:
            size = self.pool * self.batch_size
            examples = [self.example(number * size + i) for i in range(size)]
            if self.pool > 1:
                examples.sort(key=lambda e: int((e["decoder_target_tokens"] > 0).sum()))
            self._pooled = (number, examples)
        order = np.random.default_rng([self.seed, number]).permutation(self.pool)
        first = int(order[place]) * self.batch_size
        return self._pooled[1][first : first + self.batch_size]

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example; segments with too many tokens are drawn again."""
        for draw in range(_MOST_DRAWS):
            key = (self.seed, zlib.crc32(self.split.encode()), index, draw)
            samples, notes = self.segments.segment(key)
            if self.on_device:
                features = device_features(samples, notes, self._tokenizer)
            else:
                features = example_features(
                    samples, notes, self._tokenizer, self.extra_features
                )
            if features is not None:
                return features
            self.skipped += 1
        raise DataError(
            f"synthetic data, split {self.split!r}, example {index}: {_MOST_DRAWS} "
            f"segments in a row have more than {self.config.targets_length} tokens; "
            "raise the length of targets or draw fewer notes"
        )


class _SegmentDataset:
    """A `get_dataset_fn` over a `SegmentFunction`."""

    def __init__(
        self,
        model_config: ModelConfig,
        extra_features: Mapping[str, ExtraFeature] | None,
        length_multiple: int | None = None,
        pool: int = 1,
        on_device: bool = False,
    ):
        self.model_config = model_config
        self._on_device = on_device
        self._length_multiple = length_multiple
        self._pool = pool
        # Gin hands over wrappers, which worker processes cannot be sent.
        self._extra_features = {
            name: inspect.unwrap(function)
            for name, function in (extra_features or {}).items()
        }

    def segments(self, cfg: DatasetConfig) -> SegmentFunction:
        """Returns where audio and notes come from."""
        raise NotImplementedError

    def __call__(
        self,
        cfg: DatasetConfig,
        shard_id: int = 0,
        num_shards: int = 1,
        feature_converter_cls: Any = None,
        num_epochs: int | None = None,
        continue_from_last_checkpoint: bool = True,
    ) -> SegmentBatches:
        """Returns the batches of a dataset configuration.

        Raises:
          ConfigError: its lengths are not the model's, or it has no seed.
        """
        del shard_id, num_shards, feature_converter_cls, num_epochs
        del continue_from_last_checkpoint
        config = self.model_config
        wanted = {"inputs": config.inputs_length, "targets": config.targets_length}
        for name, length in (cfg.task_feature_lengths or {}).items():
            if wanted.get(name) != length:
                raise ConfigError(
                    f"DatasetConfig: task_feature_lengths has {name}={length}; the "
                    f"model configuration has {wanted}"
                )
        if cfg.seed is None:
            raise ConfigError("DatasetConfig: synthetic data needs a seed")
        return SegmentBatches(
            segments=self.segments(cfg),
            config=config,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            split=cfg.split,
            extra_features=self._extra_features,
            on_device=self._on_device,
            length_multiple=self._length_multiple,
            pool=self._pool,
        )


class RandomNotes(_SegmentDataset):
    """Random notes, rendered with a soundfont when they are asked for."""

    def __init__(
        self,
        model_config: ModelConfig,
        soundfont: str | None = None,
        max_programs: int = 4,
        max_polyphony: int = 3,
        drums: float = 0.4,
        extra_features: Mapping[str, ExtraFeature] | None = None,
    ):
        """Takes what to draw.

        Args:
          model_config: sizes, tokens and spectrogram.
          soundfont: .sf2 or .sf3 file; None for the one `pretty_midi` ships.
          max_programs: most programs that play at a time.
          max_polyphony: most voices of each.
          drums: the chance that drums play along.
          extra_features: see `example_features`.
        """
        super().__init__(model_config, extra_features)
        self._drawing = {
            "max_programs": max_programs,
            "max_polyphony": max_polyphony,
            "drums": drums,
        }
        self._soundfont = soundfont

    def segments(self, cfg: DatasetConfig) -> SegmentFunction:
        """Returns the drawing function."""
        del cfg
        return RandomSegments(self.model_config, self._soundfont, self._drawing)


@dataclasses.dataclass(frozen=True)
class RandomSegments:
    """Segments of random notes; a segment starts up to 2 s into its piece."""

    config: ModelConfig
    soundfont: str | None
    drawing: Mapping[str, Any]

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples, notes); see `SegmentFunction`."""
        # The synthesizer is only needed where something is rendered.
        from mt3.midi import note_arrays
        from mt3.synthesis import random_notes, soundfont

        rng = np.random.default_rng(key)
        seconds = self.config.segment_seconds
        start = float(rng.uniform(0.0, 2.0))
        notes = random_notes.random_notes(rng, seconds=start + seconds, **self.drawing)
        samples = soundfont.render(
            notes,
            self.soundfont,
            seconds=seconds,
            sample_rate=self.config.spectrogram.sample_rate,
            start_time=start,
        )
        peak = float(np.abs(samples).max(initial=0.0))
        level = rng.uniform(0.3, 0.95)
        if peak > 0:
            samples = samples * np.float32(level / peak)
        samples = samples[: self.config.segment_samples]
        window = note_arrays.window(notes, start, start + seconds)
        return samples, note_arrays.without_tracks(window)


class Corpus(_SegmentDataset):
    """Segments of clips that `mt3 synthesize` rendered, mixed and augmented."""

    def __init__(
        self,
        model_config: ModelConfig,
        folder: str,
        mix: float = 0.2,
        augmentation: Any = None,
        num_shards: int | None = None,
        stages: Sequence[tuple[int, Mapping[str, Any]]] = ((0, {}),),
        extra_features: Mapping[str, ExtraFeature] | None = None,
        length_multiple: int | None = None,
        pool: int = 1,
        on_device: bool = False,
    ):
        """Takes where clips are and how they are used.

        Args:
          model_config: sizes, tokens and spectrogram.
          folder: the corpus.
          mix: the chance that another clip is added, and then another again.
          augmentation: `augmentation.AugmentationConfig`; None for its defaults. The
            evaluation stream is never augmented or mixed.
          num_shards: shards in use; None for all that are there at the start, a
            number that checkpoints keep.
          stages: (first batch, limits of `ClipSampler.example`) pairs in order: an
            easy beginning. Evaluation has the last stage's limits.
          extra_features: see `example_features`.
          length_multiple: see `SegmentBatches`.
          pool: see `SegmentBatches`.
          on_device: leave augmentation, spectrogram and extra features to
            `guided.GuidedModel`; `augmentation` is then the model's.

        Raises:
          ConfigError: stages are not in order, or do not begin with batch 0.
        """
        super().__init__(model_config, extra_features, length_multiple, pool, on_device)
        starts = [first for first, _ in stages]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(
                f"Corpus: stages begin at batches {starts}; expected 0 and then "
                "rising numbers"
            )
        self._folder = folder
        self._mix = mix
        self._augmentation = augmentation
        self._num_shards = num_shards
        self._stages = tuple((first, dict(limits)) for first, limits in stages)

    def segments(self, cfg: DatasetConfig) -> SegmentFunction:
        """Returns the sampling function; evaluation splits are plain."""
        # The synthesis code is only needed where it is used.
        from mt3.synthesis import augmentation, corpus

        training = cfg.split == "train"
        count = self._num_shards
        if count is None:
            count = len(corpus.shard_folders(self._folder))
        changes = self._augmentation or augmentation.AugmentationConfig()
        sampler_seed = np.random.SeedSequence(
            [cfg.seed, zlib.crc32(cfg.split.encode())]
        ).generate_state(1)
        return CorpusSegments(
            folder=str(self._folder),
            segment_seconds=self.model_config.segment_seconds,
            sample_rate=self.model_config.spectrogram.sample_rate,
            seed=int(sampler_seed[0]),
            mix=self._mix if training else 0.0,
            augmentation=(
                None
                if self._on_device
                else changes
                if training
                else augmentation.NO_AUGMENTATION
            ),
            num_shards=count,
            stages=self._stages if training else ((0, self._stages[-1][1]),),
            batch_size=cfg.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class CorpusSegments:
    """Segments of a corpus; the sampler is opened in the process that uses it."""

    folder: str
    segment_seconds: float
    sample_rate: int
    seed: int
    mix: float
    augmentation: Any
    num_shards: int
    stages: tuple[tuple[int, Mapping[str, Any]], ...]
    batch_size: int

    def settings(self) -> dict[str, Any]:
        """Returns the number of shards in use."""
        return {"num_shards": self.num_shards}

    def with_settings(self, settings: Mapping[str, Any]) -> CorpusSegments:
        """Returns the same with the number of shards that a checkpoint holds."""
        count = int(settings.get("num_shards", self.num_shards))
        return dataclasses.replace(self, num_shards=count)

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples, notes); see `SegmentFunction`."""
        _, _, index, draw = key
        batch = index // self.batch_size
        limits = [limits for first, limits in self.stages if first <= batch][-1]
        sampler = _open_sampler(
            self.folder,
            self.segment_seconds,
            self.sample_rate,
            self.seed,
            self.mix,
            self.augmentation,
            self.num_shards,
        )
        example = sampler.example(index * _MOST_DRAWS + draw, **limits)
        return example.samples, example.notes


@functools.lru_cache(maxsize=4)
def _open_sampler(
    folder: str,
    segment_seconds: float,
    sample_rate: int,
    seed: int,
    mix: float,
    augmentation: Any,
    num_shards: int,
) -> Any:
    """Opens a corpus, once per process and settings."""
    from mt3.synthesis.sampler import ClipSampler

    sampler = ClipSampler(
        folder,
        segment_seconds=segment_seconds,
        seed=seed,
        mix=mix,
        augmentation=augmentation,
        num_shards=num_shards,
    )
    if sampler.sample_rate != sample_rate:
        raise DataError(
            f"{folder}: the corpus has {sampler.sample_rate} samples per second; the "
            f"model's spectrogram wants {sample_rate}"
        )
    return sampler
