"""The data sets: where their records lie, what a record holds, which split is for what.

A data root is a folder or a bucket. Below it every data set has the layout of the
published ones, `<root>/datasets/<data set>/<split>.tfrecord-00000-of-00010`, so that
a copy of the published buckets, the output of `mt3 prepare` and the buckets
themselves are all read the same way, whatever the number of shards. Nothing is
looked for, locally or in the network, before `files` or `check_files` is called.

A `dataset.json` beside the shards (`mt3 prepare` writes one) gives the number of
examples and the seconds of each split. For the published data sets it overrides the
numbers below; a folder under `<root>/datasets` that is none of them becomes a data
set of its own.

Differences from the original, numbered:

1. Splits that a data set does not have are not listed (the original asks GuitarSet
   and URMP for test splits).
2. Example counts and hours are given, so that mixtures work without a cache.
3. A `_subset` split, of which only the role is published, is the first few shards.
4. A missing shard is an error that names it; the original reads what there is.

Neither this module nor `mt3.dataset_configs` needs TensorFlow, unless a bucket is
listed.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mt3.dataset_configs import (
    AUDIO_FILE_FEATURES,
    CERBERUS4_CONFIG,
    CHUNK_FRAMES,
    DATASETS,
    FRAMES_PER_SECOND,
    GUITARSET_CONFIG,
    MAESTROV1_CONFIG,
    MAESTROV3_CONFIG,
    MUSICNET_CONFIG,
    MUSICNET_EM_CONFIG,
    SLAKH_CONFIG,
    SYNTHETIC_CONFIG,
    URMP_CONFIG,
    DatasetConfig,
    FeatureSpec,
    InferEvalSplit,
)
from mt3.errors import ConfigError, DataError, near_misses

__all__ = [
    "AUDIO_FILE_FEATURES",
    "CERBERUS4_CONFIG",
    "CHUNK_FRAMES",
    "DATASETS",
    "DATA_ROOT_VARIABLE",
    "FRAMES_PER_SECOND",
    "GUITARSET_CONFIG",
    "MAESTROV1_CONFIG",
    "MAESTROV3_CONFIG",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "MANIFEST_VERSION",
    "MIXTURE_NAMES",
    "MUSICNET_CONFIG",
    "MUSICNET_EM_CONFIG",
    "SLAKH_CONFIG",
    "SYNTHETIC_CONFIG",
    "URMP_CONFIG",
    "DatasetConfig",
    "FeatureSpec",
    "InferEvalSplit",
    "available",
    "check_files",
    "files",
    "find_custom",
    "get",
    "pattern",
    "read_manifest",
    "resolve_root",
    "with_manifest",
]

DATA_ROOT_VARIABLE = "MT3_DATA_DIR"
MANIFEST_NAME = "dataset.json"
MANIFEST_FORMAT = "mt3-dataset"
MANIFEST_VERSION = 1

# Mixtures of the published data sets (see `mt3.tasks`), whose tasks' names begin with
# these: no data set can be called so.
MIXTURE_NAMES = ("mega", "mega_iclr2022")
# A task's suffix that stands for several splits.
_RESERVED_SPLITS = ("eval", "eval_train")
_SHARD_NAME = re.compile(r"-(\d{5})-of-(\d{5})$")


def get(name: str, root: str | os.PathLike[str] | None = None) -> DatasetConfig:
    """Returns a data set by name, one's own below `root` included.

    Raises:
      ConfigError: there is none of that name.
      DataError: its `dataset.json` is damaged.
    """
    known = available(root)
    if name not in known:
        raise ConfigError(f"data set: unknown name {name!r}.{near_misses(name, known)}")
    return known[name]


def available(root: str | os.PathLike[str] | None = None) -> dict[str, DatasetConfig]:
    """Returns all data sets by name, with what manifests below a local root say.

    Raises:
      DataError: a `dataset.json` is damaged.
    """
    known = {name: with_manifest(config, root) for name, config in DATASETS.items()}
    return known | find_custom(root)


def resolve_root(data_root: str | os.PathLike[str] | None = None) -> str | None:
    """Returns the data root: the argument, else `MT3_DATA_DIR`, else None.

    None stands for the public buckets.
    """
    root = data_root if data_root is not None else os.environ.get(DATA_ROOT_VARIABLE)
    return os.path.expanduser(os.fspath(root)) if root else None


def pattern(config: DatasetConfig, split: str, root: str | None = None) -> str:
    """Returns the full file pattern of a split.

    Args:
      config: the data set.
      split: one of its splits.
      root: the data root; None for the data set's public bucket.

    Raises:
      ConfigError: there is no such split, or no root for a data set without bucket.
    """
    if split not in config.paths:
        raise ConfigError(
            f"data set {config.name!r}: unknown split {split!r}."
            f"{near_misses(split, config.paths)}"
        )
    if root is None:
        root = config.bucket
    if root is None:
        raise ConfigError(
            f"data set {config.name!r} is not published; give a data root (an "
            f"argument, DATA_DIR in gin, or {DATA_ROOT_VARIABLE}) that has "
            f"{config.paths[split]}"
        )
    folder = root if "://" in root else glob.escape(root)
    return f"{folder.rstrip('/')}/{config.paths[split]}"


def files(
    config: DatasetConfig, split: str, root: str | None = None
) -> tuple[str, ...]:
    """Lists the shards of a split.

    Args:
      config: the data set.
      split: one of its splits.
      root: the data root; None for the data set's public bucket.

    Returns:
      The paths in order of the shards.

    Raises:
      ConfigError: there is no such split, or no root.
      DataError: no file, or not all shards, or shards of several sets.
    """
    full = pattern(config, split, root)
    found = _glob(full)
    if not found:
        raise DataError(
            f"data set {config.name!r}, split {split!r}: no file matches {full}."
            f"{_root_hint(config, root)}"
        )
    _check_shards(config, split, full, found)
    return tuple(found)


def check_files(
    config: DatasetConfig,
    root: str | None = None,
    splits: Iterable[str] | None = None,
) -> None:
    """Checks that every shard of some splits (by default all) is there.

    Raises:
      ConfigError: there is no such split, or no root.
      DataError: names everything that is missing.
    """
    problems = []
    for split in splits if splits is not None else config.splits:
        try:
            files(config, split, root)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))


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

    A bucket is not asked: nothing touches the network before a task is read.

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
    """Finds one's own data sets: folders of a local root with a `dataset.json`.

    Args:
      root: the data root; None or a bucket has none.

    Returns:
      Data sets by name.

    Raises:
      DataError: a manifest is damaged, or a name is another's or a mixture's.
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
        if config.name in {*DATASETS, *MIXTURE_NAMES, *found}:
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
    # The test split is kept for the end, unless there is nothing else to watch.
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
