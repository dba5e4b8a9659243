"""The data sets: where their records lie, what a record holds, which split is for what.

A `DatasetConfig` describes one data set; the eight published ones, `synthetic` and
`monophonic` are written down here. A data root is a folder or a bucket. Below it every
data set has the layout of the published ones,
`datasets/<data set>/<split>.tfrecord-00000-of-00010`, so a copy of the published
buckets, the output of `mt3 prepare` and the buckets themselves are all read the same
way, whatever the number of shards. Nothing is opened, locally or in the network, before
`files` is called.

A `dataset.json` beside the shards (`mt3 prepare` writes one) gives the number of
examples and the seconds of each split. For the published data sets it overrides the
numbers below. Any other folder under `<root>/datasets` that has such a file is a data
set of its own.

Differences from the original, numbered:

1. Splits that a data set does not have are not listed. The original asks GuitarSet and
   URMP for test splits.
2. Example counts and hours are given, so that mixtures work without a cache.
3. Paths are relative to the data root, which is configurable. A path with "://" or a
   leading "/" is used as it stands, as in the original. A `_subset` split is the first
   few shards, since the number of shards is not fixed.
4. A missing shard is an error that names it. The original reads whatever is there.

TensorFlow is imported only to list a bucket.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mt3.errors import ConfigError, DataError, near_misses
from mt3.note_sequences import TrackSpec

DATA_ROOT_VARIABLE = "MT3_DATA_DIR"
# The data root that stands for the public buckets. Without it nothing is downloaded.
PUBLIC_ROOT = "gs://"
MANIFEST_NAME = "dataset.json"
MANIFEST_FORMAT = "mt3-dataset"
MANIFEST_VERSION = 1

_OTHERS = ("maestrov3", "guitarset", "urmp", "cerberus4", "slakh")
# Mixtures of the published data sets (see `mt3.tasks`). The names of their tasks begin
# with these, so no data set can have such a name.
MIXTURES: Mapping[str, tuple[str, ...]] = {
    "mega": (*_OTHERS, "musicnet_em"),
    "mega_iclr2022": (*_OTHERS, "musicnet"),
}
# A task's suffix that stands for several splits.
_RESERVED_SPLITS = ("eval", "eval_train")
_SHARD_NAME = re.compile(r"-(\d{5})-of-(\d{5})$")

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
      used: whether readers parse it. Features that no adapter needs cost nothing.
    """

    dtype: str
    repeated: bool = False
    used: bool = True

    @classmethod
    def of(cls, feature: Any) -> FeatureSpec:
        """Returns a feature given in TensorFlow's terms (`tf.io.FixedLenFeature`)."""
        if isinstance(feature, cls):
            return feature
        single = type(feature).__name__ == "FixedLenFeature" and not feature.shape
        return cls(feature.dtype.name, repeated=not single)


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
      features: what a record holds: `FeatureSpec`, or TensorFlow's feature classes.
      train_split: split to train on; None for a data set that is only scored.
      train_eval_split: split whose loss is watched during training.
      infer_eval_splits: splits that are transcribed and scored.
      track_specs: tracks that are scored on their own.
      adapter: name in `data.adapters.ADAPTERS`.
      num_examples: records of each split, where known.
      hours: hours of audio of each split, where known.
      bucket: the public data root.

    Raises:
      ConfigError: a split that is to be read has no path.
    """

    name: str
    paths: Mapping[str, str]
    features: Mapping[str, FeatureSpec]
    train_split: str | None
    train_eval_split: str | None
    infer_eval_splits: Sequence[InferEvalSplit]
    track_specs: Sequence[TrackSpec] = dataclasses.field(default_factory=list)
    adapter: str = "folder"
    num_examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    hours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bucket: str | None = None

    def __post_init__(self):
        features = {name: FeatureSpec.of(f) for name, f in self.features.items()}
        object.__setattr__(self, "features", features)
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

    def num_chunks(self, split: str) -> int | None:
        """Estimates how many pieces of at most `CHUNK_FRAMES` frames a split makes.

        A cached task has an exact count; this is its substitute. A song's last piece is
        half full on average.

        Returns:
          The number of pieces, at least one for each song; None where it is unknown.
        """
        hours, songs = self.hours.get(split), self.num_examples.get(split, 0)
        if hours is None:
            return songs or None
        full = hours * 3600 * FRAMES_PER_SECOND / CHUNK_FRAMES
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

# Data sets with subsets: the subsets are scored while training, the whole splits on
# request.
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
    # The ICLR 2022 paper's numbers: two recordings of nearly each of 360 pieces of half
    # a minute. The hours are estimated from 3 hours for 360 pieces.
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
    # 1.3 hours in all, divided by the number of pieces.
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
        # For MusicNetEM this is an estimate: it labels the same recordings. 34 hours in
        # all, divided by the number of recordings.
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
    # that its stems allow. The number of quartets assumes 4.14 minutes each, the mean
    # length of Slakh2100's songs (145 hours, 2100 songs).
    num_examples={"train": 6060, "validation": 1136, "test": 668},
    hours={"train": 418.13, "validation": 78.4, "test": 46.1},
    track_specs=[
        TrackSpec("bass", program=32),
        TrackSpec("drums", is_drum=True),
        TrackSpec("guitar", program=24),
        TrackSpec("piano", program=0),
    ],
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
    # of 1405 songs. Validation and test are the whole splits of Slakh2100; their hours
    # assume 4.14 minutes a song.
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

# Clips judged monophonic, with inferred notes (`mt3 prepare monophonic`); the paper's
# are not published.
MONOPHONIC_CONFIG = DatasetConfig(
    name="monophonic",
    paths={
        split: f"datasets/monophonic/{split}.tfrecord{_SHARDS}"
        for split in ("train", "validation")
    },
    adapter="monophonic",
    features={
        **_text("filename", "sequence"),
        "audio": FeatureSpec("float32", repeated=True),
        "offset": FeatureSpec("int64"),
        "sampling_rate": FeatureSpec("float32"),
    },
    train_split="train",
    train_eval_split="validation",
    infer_eval_splits=_TWO_SPLIT_EVAL,
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
        MONOPHONIC_CONFIG,
    )
}


def available(root: str | os.PathLike[str] | None = None) -> dict[str, DatasetConfig]:
    """Returns all data sets by name, with the manifests of a local root applied.

    Raises:
      DataError: a `dataset.json` is damaged.
    """
    known = {name: with_manifest(config, root) for name, config in DATASETS.items()}
    return known | find_custom(root)


def choose(names: Iterable[str] | None, root: str | None) -> dict[str, DatasetConfig]:
    """Returns data sets by name: those that are wanted, or all that can be read.

    Args:
      names: the wanted ones; None for all.
      root: the data root; None and `PUBLIC_ROOT` have the public data sets only.

    Raises:
      ConfigError: there is none of that name.
      DataError: a `dataset.json` is damaged.
    """
    known = available(root)
    if root in (None, PUBLIC_ROOT):
        known = {name: config for name, config in known.items() if config.bucket}
    if names is None:
        return known
    chosen = {}
    for name in names:
        if name not in known:
            hint = near_misses(name, known)
            if name in DATASETS:
                hint = f" It needs a data root ({DATA_ROOT_VARIABLE})."
            raise ConfigError(f"data set {name!r} is not known.{hint}")
        chosen[name] = known[name]
    return chosen


def resolve_root(data_root: str | os.PathLike[str] | None = None) -> str | None:
    """Returns the data root: the argument, else `MT3_DATA_DIR`, else None."""
    root = data_root if data_root is not None else os.environ.get(DATA_ROOT_VARIABLE)
    return os.path.expanduser(os.fspath(root)) if root else None


def pattern(config: DatasetConfig, split: str, root: str | None = None) -> str:
    """Returns the full file pattern of a split.

    Args:
      config: the data set.
      split: one of its splits.
      root: the data root; None or `PUBLIC_ROOT` for the data set's public bucket.

    Raises:
      ConfigError: there is no such split, or no root for a data set without bucket.
    """
    if split not in config.paths:
        raise ConfigError(
            f"data set {config.name!r}: unknown split {split!r}."
            f"{near_misses(split, config.paths)}"
        )
    path = config.paths[split]
    if "://" in path or os.path.isabs(path):
        return path
    root = config.bucket if root in (None, PUBLIC_ROOT) else root
    if root is None:
        raise ConfigError(
            f"data set {config.name!r} is not published; give a data root (an "
            f"argument, DATA_DIR in gin, or {DATA_ROOT_VARIABLE}) that has {path}"
        )
    folder = root if "://" in root else glob.escape(root)
    return f"{folder.rstrip('/')}/{path}"


def files(
    config: DatasetConfig, split: str, root: str | None = None
) -> tuple[str, ...]:
    """Lists the shards of a split.

    Args:
      config: the data set.
      split: one of its splits.
      root: the data root; `PUBLIC_ROOT` for the data set's public bucket.

    Returns:
      The paths in order of the shards.

    Raises:
      ConfigError: there is no such split, or no root.
      DataError: no file, or not all shards, or shards of several sets.
    """
    full = pattern(config, split, root)
    if root is None and config.paths[split] != full:
        raise ConfigError(
            f"data set {config.name!r}: no data root is named (an argument, DATA_DIR "
            f"in gin, or {DATA_ROOT_VARIABLE}). It is a folder, or {PUBLIC_ROOT} for "
            f"the public buckets: then {full} is read over the network"
        )
    found = _glob(full)
    if not found:
        raise DataError(
            f"data set {config.name!r}, split {split!r}: no file matches {full}."
            f"{_root_hint(config, root)}"
        )
    _check_shards(config, split, full, found)
    return tuple(found)


def _glob(full: str) -> list[str]:
    if "://" not in full:
        return sorted(glob.glob(full))
    import tensorflow as tf

    return sorted(tf.io.gfile.glob(full))


def _check_shards(
    config: DatasetConfig, split: str, full: str, found: list[str]
) -> None:
    """Raises DataError unless the shards are all of one set."""
    named = [match for path in found if (match := _SHARD_NAME.search(path))]
    if not named:
        return
    where = f"data set {config.name!r}, split {split!r}"
    totals = sorted({int(match[2]) for match in named})
    if len(totals) > 1:
        raise DataError(
            f"{where}: {full} matches shards of several sets "
            f"({', '.join(f'of-{total:05d}' for total in totals)}); keep one"
        )
    wanted = os.path.basename(full)
    start = os.path.basename(found[0])[: -len(named[0][0])]
    names = (f"{start}-{i:05d}-of-{totals[0]:05d}" for i in range(totals[0]))
    present = {os.path.basename(path) for path in found}
    missing = [n for n in names if fnmatch.fnmatch(n, wanted) and n not in present]
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{where}: {len(missing)} of {totals[0]} shards are missing in "
            f"{os.path.dirname(found[0])}: {listed}"
        )


def _root_hint(config: DatasetConfig, root: str | None) -> str:
    """Says what may be wrong with a data root."""
    if root is None or "://" in root:
        return ""
    folder = pathlib.Path(root)
    if not folder.is_dir():
        return f" The data root {root} does not exist."
    if folder.name == "datasets":
        return f" The data root is the folder above 'datasets': {folder.parent}?"
    if not (folder / "datasets").is_dir():
        return (
            " A data root has a folder 'datasets', as `mt3 prepare` writes it; "
            f"{root} has none."
        )
    there = sorted(path.name for path in (folder / "datasets").iterdir())
    return f" There: {', '.join(there) or 'nothing'}."


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks a `dataset.json`.

    Returns:
      {"name": str, "description": str, "splits": {split: {"pattern": str,
      "num_examples": int, "seconds": float}}}; the numbers may be absent.

    Raises:
      DataError: not readable, or not such a file.
    """
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a manifest: {error}") from error
    if not isinstance(values, dict) or values.get("format") != MANIFEST_FORMAT:
        raise DataError(f'{path}: expected "format": "{MANIFEST_FORMAT}"')
    if values.get("version") != MANIFEST_VERSION:
        raise DataError(
            f"{path}: manifest version {values.get('version')!r}; this program reads "
            f"version {MANIFEST_VERSION}"
        )
    name, splits = values.get("name"), values.get("splits")
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise DataError(
            f"{path}: name is {name!r}; expected letters, digits and underscores"
        )
    if not isinstance(splits, dict) or not splits:
        raise DataError(f"{path}: no splits; expected at least one")
    for split, entry in splits.items():
        _check_manifest_split(path, split, entry)
    return {"description": "", **values}


def _check_manifest_split(
    path: str | os.PathLike[str], split: str, entry: object
) -> None:
    where = f"{path}: split {split!r}"
    if not re.fullmatch(r"\w+", split) or not isinstance(entry, dict):
        raise DataError(f"{where}: expected a name and an object")
    if split in _RESERVED_SPLITS:
        raise DataError(f"{where}: this name is kept for a mixture; choose another")
    if not isinstance(entry.get("pattern"), str):
        raise DataError(f"{where}: 'pattern' is missing; expected the shards' names")
    for key in ("num_examples", "seconds"):
        value = entry.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise DataError(f"{where}: {key} is {value!r}; expected a number >= 0")


def with_manifest(
    config: DatasetConfig, root: str | os.PathLike[str] | None
) -> DatasetConfig:
    """Returns a data set with the counts of the `dataset.json` beside its shards.

    A bucket is not read: nothing touches the network before a task does.

    Raises:
      DataError: the manifest is damaged.
    """
    if root is None or "://" in os.fspath(root):
        return config
    folder = pathlib.Path(root, next(iter(config.paths.values()))).parent
    if not (folder / MANIFEST_NAME).is_file():
        return config
    splits = read_manifest(folder / MANIFEST_NAME)["splits"]
    return dataclasses.replace(
        config,
        num_examples={**config.num_examples, **_numbers(splits, "num_examples", int)},
        hours={**config.hours, **_hours(splits)},
    )


def find_custom(root: str | os.PathLike[str] | None) -> dict[str, DatasetConfig]:
    """Finds your own data sets: folders of a local root with a `dataset.json`.

    Args:
      root: the data root. There are none below None or a bucket.

    Returns:
      Data sets by name.

    Raises:
      DataError: a manifest is damaged, or its name is taken.
    """
    if root is None or "://" in os.fspath(root):
        return {}
    public = {
        path.split("/")[1] for c in DATASETS.values() for path in c.paths.values()
    }
    found: dict[str, DatasetConfig] = {}
    for path in sorted(pathlib.Path(root, "datasets").glob(f"*/{MANIFEST_NAME}")):
        if path.parent.name in public:
            continue
        config = _from_manifest(path)
        if config.name in {*DATASETS, *MIXTURES, *found}:
            raise DataError(
                f"{path}: the name {config.name!r} is taken; choose another"
            )
        found[config.name] = config
    return found


def _from_manifest(path: pathlib.Path) -> DatasetConfig:
    """Makes a data set from its manifest, `<root>/datasets/<folder>/dataset.json`."""
    manifest = read_manifest(path)
    splits = manifest["splits"]
    folder = f"datasets/{path.parent.name}"
    train = "train" if "train" in splits else None
    suffixes = {split: split for split in splits} | {"train": "eval_train"}
    others = [split for split in splits if split != "train"]
    # The test split is not watched, unless there is no other.
    kept_back = {"test"} if "validation" in splits else set()
    watched = "validation" if "validation" in splits else next(iter(others), train)
    return DatasetConfig(
        name=manifest["name"],
        paths={s: f"{folder}/{entry['pattern']}" for s, entry in splits.items()},
        adapter="folder",
        features=AUDIO_FILE_FEATURES,
        train_split=train,
        train_eval_split=watched if train else None,
        infer_eval_splits=tuple(
            InferEvalSplit(split, suffixes[split], split not in kept_back)
            for split in splits
        ),
        num_examples=_numbers(splits, "num_examples", int),
        hours=_hours(splits),
    )


def _numbers(splits: Mapping[str, Any], key: str, kind: type) -> dict[str, Any]:
    return {s: kind(entry[key]) for s, entry in splits.items() if key in entry}


def _hours(splits: Mapping[str, Any]) -> dict[str, float]:
    seconds = _numbers(splits, "seconds", float)
    return {split: value / 3600 for split, value in seconds.items()}
