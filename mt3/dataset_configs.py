"""The data sets of MT3: what a record holds, which split is for what.

A `DatasetConfig` says where the records of a data set lie below a data root; the
eight published ones and `synthetic` are written down here. `mt3.datasets` finds and
checks the files.

Difference from the original: see `mt3.datasets`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from mt3.errors import ConfigError, near_misses
from mt3.scoring.counts import TrackSpec

# Songs are stored in pieces of this many frames: 16 s at 125 frames a second.
CHUNK_FRAMES = 2000
FRAMES_PER_SECOND = 125.0

_MAGENTA_BUCKET = "gs://magentadata"
_MT3_BUCKET = "gs://mt3/data"
_SHARDS = "-?????-of-?????"


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One feature of a record (a tf.Example).

    Attributes:
      dtype: 'string', 'float32' or 'int64'.
      repeated: a list of any length instead of a single value.
      used: whether readers parse it; what no adapter needs costs nothing.
    """

    dtype: str
    repeated: bool = False
    used: bool = True


@dataclasses.dataclass(frozen=True)
class InferEvalSplit:
    """A split on which whole songs are transcribed and scored.

    Attributes:
      name: split of the data set.
      suffix: end of the task's name.
      include_in_mixture: whether it is part of the `eval` mixture.
    """

    name: str
    suffix: str
    include_in_mixture: bool = True


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One data set.

    Attributes:
      name: first part of its tasks' names.
      paths: file pattern of each split, relative to the data root.
      adapter: name in `data.adapters.ADAPTERS`.
      features: what a record holds.
      train_split: split to train on; None for a data set that is only scored.
      train_eval_split: split whose loss is watched during training.
      infer_eval_splits: splits that are transcribed and scored.
      num_examples: records of each split, where known.
      hours: hours of audio of each split, where known.
      track_specs: tracks to score on their own.
      bucket: the public data root.
    """

    name: str
    paths: Mapping[str, str]
    adapter: str
    features: Mapping[str, FeatureSpec]
    train_split: str | None
    train_eval_split: str | None
    infer_eval_splits: tuple[InferEvalSplit, ...]
    num_examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    hours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    track_specs: tuple[TrackSpec, ...] | None = None
    bucket: str | None = None

    def __post_init__(self):
        used = {split.name for split in self.infer_eval_splits}
        used |= {self.train_split, self.train_eval_split} - {None}
        for split in sorted(used - set(self.paths)):
            raise ConfigError(
                f"data set {self.name!r}: split {split!r} has no path."
                f"{near_misses(split, self.paths)}"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.paths)

    def num_chunks(
        self,
        split: str,
        *,
        frames_per_second: float = FRAMES_PER_SECOND,
        max_frames: int = CHUNK_FRAMES,
    ) -> int | None:
        """Estimates the pieces of at most `max_frames` frames that a split makes.

        A cached task has an exact count; this stands in for it. A song's last piece
        is on average half full.

        Args:
          split: a split.
          frames_per_second: frame rate of the spectrogram.
          max_frames: frames of one piece.

        Returns:
          The number, at least that of the songs; None where nothing is known.
        """
        hours, songs = self.hours.get(split), self.num_examples.get(split, 0)
        if hours is None:
            return songs or None
        full = hours * 3600 * frames_per_second / max_frames
        return max(1, songs, math.ceil(full + songs / 2))


def _text(*names: str) -> dict[str, FeatureSpec]:
    return {name: FeatureSpec("string") for name in names}


AUDIO_FILE_FEATURES = _text("audio", "sequence", "id")
_FLOAT_AUDIO = {
    **_text("id", "sequence"),
    "sample_rate": FeatureSpec("float32"),
    "audio": FeatureSpec("float32", repeated=True),
}
_STEMS = {
    "audio_sample_rate": FeatureSpec("int64"),
    "inst_names": FeatureSpec("string", repeated=True),
    "mix": FeatureSpec("float32", repeated=True),
    "note_sequences": FeatureSpec("string", repeated=True),
    "track_id": FeatureSpec("string"),
    "midi_class": FeatureSpec("int64", repeated=True, used=False),
    "plugin_name": FeatureSpec("int64", repeated=True, used=False),
    "program_num": FeatureSpec("int64", repeated=True, used=False),
    "slakh_class": FeatureSpec("int64", repeated=True, used=False),
    "src_ids": FeatureSpec("string", repeated=True, used=False),
    # Every instrument's audio: several times the size of all the rest.
    "stems": FeatureSpec("float32", repeated=True, used=False),
    "stems_shape": FeatureSpec("int64", repeated=True, used=False),
    "target_type": FeatureSpec("string", used=False),
}

# What is scored where a data set has subsets: the subsets while training, the whole
# splits on request.
_SUBSET_EVAL = (
    InferEvalSplit("train", "eval_train_full", include_in_mixture=False),
    InferEvalSplit("train_subset", "eval_train"),
    InferEvalSplit("validation", "validation_full", include_in_mixture=False),
    InferEvalSplit("validation_subset", "validation"),
    InferEvalSplit("test", "test", include_in_mixture=False),
)
_TWO_SPLIT_EVAL = (
    InferEvalSplit("train", "eval_train"),
    InferEvalSplit("validation", "validation"),
)
_THREE_SPLIT_EVAL = (
    *_TWO_SPLIT_EVAL,
    InferEvalSplit("test", "test", include_in_mixture=False),
)


def _maestro(
    name: str, version: str, songs: tuple[int, int, int], hours: Iterable[float]
) -> DatasetConfig:
    """Returns a version of MAESTRO; its counts and hours are the published ones."""
    start = f"datasets/maestro/v{version}/maestro-v{version}_ns_wav_"
    splits = ("train", "validation", "test")
    paths = {split: f"{start}{split}.tfrecord{_SHARDS}" for split in splits}
    paths["train_subset"] = f"{start}train.tfrecord-00000-of-?????"
    paths["validation_subset"] = f"{start}validation.tfrecord-0000[0-2]-of-?????"
    return DatasetConfig(
        name=name,
        paths=paths,
        adapter="maestro",
        features=AUDIO_FILE_FEATURES,
        train_split="train",
        train_eval_split="validation_subset",
        infer_eval_splits=_SUBSET_EVAL,
        num_examples=dict(zip(splits, songs, strict=True)),
        hours=dict(zip(splits, hours, strict=True)),
        bucket=_MAGENTA_BUCKET,
    )


MAESTROV1_CONFIG = _maestro("maestrov1", "1.0.0", (954, 105, 125), (140.1, 15.3, 16.9))
MAESTROV3_CONFIG = _maestro("maestrov3", "3.0.0", (962, 137, 177), (159.2, 19.4, 20.0))

GUITARSET_CONFIG = DatasetConfig(
    name="guitarset",
    paths={
        "train": f"datasets/guitarset/train.tfrecord{_SHARDS}",
        "validation": f"datasets/guitarset/validation.tfrecord{_SHARDS}",
    },
    adapter="guitarset",
    features={
        **AUDIO_FILE_FEATURES,
        "velocity_range": FeatureSpec("string", used=False),
    },
    train_split="train",
    train_eval_split="validation",
    infer_eval_splits=_TWO_SPLIT_EVAL,
    # As the ICLR 2022 paper gives them: two recordings of nearly each of 360 pieces
    # of half a minute. The hours are estimated from 3 hours for 360 pieces.
    num_examples={"train": 478, "validation": 238},
    hours={"train": 3.98, "validation": 1.98},
    bucket=_MT3_BUCKET,
)

URMP_CONFIG = DatasetConfig(
    name="urmp",
    paths={
        "train": "datasets/urmp/train.tfrecord",
        "validation": "datasets/urmp/validation.tfrecord",
    },
    adapter="urmp",
    features={
        **AUDIO_FILE_FEATURES,
        "tracks": FeatureSpec("int64", repeated=True, used=False),
        "inst_names": FeatureSpec("string", repeated=True),
        "instrument_sequences": FeatureSpec("string", repeated=True),
    },
    train_split="train",
    train_eval_split="validation",
    infer_eval_splits=_TWO_SPLIT_EVAL,
    num_examples={"train": 35, "validation": 9},
    # 1.3 hours in all; how they divide is estimated from the number of pieces.
    hours={"train": 1.03, "validation": 0.27},
    bucket=_MT3_BUCKET,
)


def _musicnet(name: str, start: str) -> DatasetConfig:
    """Returns MusicNet with one of its two labellings."""
    splits = ("train", "validation", "test")
    return DatasetConfig(
        name=name,
        paths={s: f"datasets/{name}/{start}{s}.tfrecord{_SHARDS}" for s in splits},
        adapter="musicnet",
        features=_FLOAT_AUDIO,
        train_split="train",
        train_eval_split="validation",
        infer_eval_splits=_THREE_SPLIT_EVAL,
        # For MusicNetEM this is an estimate: it labels the same recordings. 34 hours
        # in all; how they divide is estimated from the number of recordings.
        num_examples={"train": 300, "validation": 15, "test": 15},
        hours={"train": 30.9, "validation": 1.55, "test": 1.55},
        bucket=_MT3_BUCKET,
    )


MUSICNET_CONFIG = _musicnet("musicnet", "musicnet-")
MUSICNET_EM_CONFIG = _musicnet("musicnet_em", "")


def _slakh_paths(
    folder: str, splits: Mapping[str, str], validation_subset: str
) -> dict[str, str]:
    start = f"datasets/{folder}/"
    paths = {s: f"{start}{name}.tfrecord{_SHARDS}" for s, name in splits.items()}
    subset = "0000[0-9]"
    paths["train_subset"] = f"{start}{splits['train']}.tfrecord-{subset}-of-?????"
    paths["validation_subset"] = (
        f"{start}{splits['validation']}.tfrecord-{validation_subset}-of-?????"
    )
    return paths


_QUARTET = "bass:drums:guitar:piano"
CERBERUS4_CONFIG = DatasetConfig(
    name="cerberus4",
    paths=_slakh_paths(
        "cerberus4",
        {
            split: f"slakh_multi_cerberus_{split}_{_QUARTET}"
            for split in ("train", "validation", "test")
        },
        "000[01][0-9]",
    ),
    adapter="cerberus4",
    features=_STEMS,
    train_split="train",
    train_eval_split="validation_subset",
    infer_eval_splits=_SUBSET_EVAL,
    # The paper gives the hours, and 960, 235 and 132 pieces, each with every quartet
    # that can be formed from it. The quartets are estimated at 4.14 minutes each, the
    # mean length of Slakh2100's songs (145 hours, 2100 songs).
    num_examples={"train": 6060, "validation": 1136, "test": 668},
    hours={"train": 418.13, "validation": 78.4, "test": 46.1},
    track_specs=(
        TrackSpec("bass", program=32),
        TrackSpec("drums", is_drum=True),
        TrackSpec("guitar", program=24),
        TrackSpec("piano", program=0),
    ),
    bucket=_MT3_BUCKET,
)

SLAKH_CONFIG = DatasetConfig(
    name="slakh",
    paths=_slakh_paths(
        "slakh",
        {
            "train": "slakh_multi_full_subsets_10_train_all_inst",
            "validation": "slakh_multi_full_validation_all_inst",
            "test": "slakh_multi_full_test_all_inst",
        },
        "0000[0-9]",
    ),
    adapter="slakh",
    features=_STEMS,
    train_split="train",
    train_eval_split="validation_subset",
    infer_eval_splits=_SUBSET_EVAL,
    # The paper: 968.5 hours to train on, ten mixes of some of the instruments of each
    # of 1405 songs. Validation and test are the whole splits of Slakh2100, their
    # hours estimated at 4.14 minutes a song.
    num_examples={"train": 14050, "validation": 375, "test": 225},
    hours={"train": 968.5, "validation": 25.9, "test": 15.5},
    bucket=_MT3_BUCKET,
)

SYNTHETIC_CONFIG = DatasetConfig(
    name="synthetic",
    paths={
        split: f"datasets/synthetic/{split}.tfrecord{_SHARDS}"
        for split in ("train", "validation", "test")
    },
    adapter="folder",
    features=AUDIO_FILE_FEATURES,
    train_split="train",
    train_eval_split="validation",
    infer_eval_splits=_THREE_SPLIT_EVAL,
)

DATASETS: Mapping[str, DatasetConfig] = {
    config.name: config
    for config in (
        MAESTROV1_CONFIG,
        MAESTROV3_CONFIG,
        GUITARSET_CONFIG,
        URMP_CONFIG,
        MUSICNET_CONFIG,
        MUSICNET_EM_CONFIG,
        CERBERUS4_CONFIG,
        SLAKH_CONFIG,
        SYNTHETIC_CONFIG,
    )
}
