"""A split of a data set: its songs in shards, and whether any of it has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import datasets, files
from mt3.datasets import DatasetConfig
from mt3.errors import ConfigError, DataError
from mt3.prepare import shards
from mt3.prepare.items import Archive, Item

# The published numbers of shards, used where there are enough songs.
PUBLISHED_SHARDS: Mapping[str, Mapping[str, int]] = {
    "maestrov1": {"train": 10, "validation": 10, "test": 10},
    "maestrov3": {"train": 25, "validation": 25, "test": 25},
    "guitarset": {"train": 19, "validation": 6},
    "musicnet": {"train": 36, "validation": 5, "test": 3},
    "musicnet_em": {"train": 103, "validation": 5, "test": 6},
    "cerberus4": {"train": 286, "validation": 212, "test": 106},
    "slakh": {"train": 2307, "validation": 168, "test": 109},
}
# Songs in a shard of other data sets: about a quarter of an hour each.
_SONGS_PER_SHARD = 8
_WILDCARDS = re.compile(r"-\?{5}-of-\?{5}$")


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """The shards to make for one split.

    Attributes:
      split: its name.
      folder: where its shards lie.
      prefix: common beginning of the shards' names.
      pattern: of the shards' names, for the manifest.
      jobs: its shards.
      settings: everything that their content depends on.
    """

    split: str
    folder: Path
    prefix: str
    pattern: str
    jobs: tuple[shards.ShardJob, ...]
    settings: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Where the settings of the split are kept."""
        return self.folder / shards.STATE_FOLDER / f"{self.split}.json"

    def check(self) -> None:
        """Compares the plan with the shards that exist.

        Raises:
          DataError: shards that were made with other settings or songs, or not by
            this program. Names the differences.
        """
        there = self._present()
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if there:
                raise DataError(
                    f"{there[0]}: was not made by `mt3 prepare`; choose another data "
                    "root, or --overwrite it"
                ) from None
            return
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path}: cannot be read ({error}); --overwrite makes split "
                f"{self.split!r} again"
            ) from error
        # Through JSON, so that tuples are lists on both sides.
        wanted = json.loads(json.dumps(self.settings))
        differences = [
            f"{key} {_short(stored.get(key))}, now {_short(wanted.get(key))}"
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        ]
        if differences:
            raise DataError(
                f"{self.folder}: split {self.split!r} was made with "
                f"{'; '.join(differences)}. Use --overwrite to make it again, or "
                "another data root"
            )

    def begin(self, *, overwrite: bool) -> None:
        """Stores the settings; with `overwrite`, removes existing shards.

        Raises:
          OutputError: they cannot be written.
        """
        if overwrite:
            for path in self._present():
                path.unlink()
            for path in self.path.parent.glob(f"{self.prefix}*.json"):
                path.unlink()
        files.write_text(self.path, json.dumps(self.settings, indent=1) + "\n")

    def _present(self) -> list[Path]:
        """Returns the shards that are there, whatever their number."""
        names = re.compile(re.escape(self.prefix) + r"(-\d{5}-of-\d{5})?$")
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if names.match(p.name))


def config_of(archive: Archive) -> DatasetConfig:
    """Returns the data set that an archive makes, one's own too."""
    name = archive.dataset
    if name in datasets.DATASETS:
        return datasets.DATASETS[name]
    return dataclasses.replace(
        datasets.SYNTHETIC_CONFIG,
        name=name,
        paths={
            split: path.replace("/synthetic/", f"/{name}/")
            for split, path in datasets.SYNTHETIC_CONFIG.paths.items()
        },
    )


def make_plan(
    archive: Archive,
    split: str,
    items: Sequence[Item],
    root: Path,
    num_shards: int | None = None,
) -> SplitPlan:
    """Divides the songs of a split among shards.

    Args:
      archive: where they come from.
      split: its name.
      items: its songs, at least one.
      root: the data root.
      num_shards: how many; by default as many as published, or one for eight songs.

    Raises:
      ConfigError: more shards than songs, or several where the data set has one file.
    """
    config = config_of(archive)
    path = root / config.paths[split]
    prefix = _WILDCARDS.sub("", path.name)
    is_sharded = prefix != path.name
    published = PUBLISHED_SHARDS.get(archive.dataset, {}).get(split)
    default = published or -(-len(items) // _SONGS_PER_SHARD)
    count = num_shards or (min(default, len(items)) if is_sharded else 1)
    if count > len(items):
        raise ConfigError(
            f"prepare: {count} shards for the {len(items)} songs of split {split!r} of "
            f"{archive.dataset}; expected at most as many (--shards)"
        )
    if count > 1 and not is_sharded:
        raise ConfigError(
            f"prepare: {count} shards; split {split!r} of {archive.dataset} is a "
            "single file"
        )
    names = [prefix]
    if is_sharded:
        names = [f"{prefix}-{i:05d}-of-{count:05d}" for i in range(count)]
    jobs = tuple(
        shards.ShardJob(
            archive=archive,
            split=split,
            items=tuple(items[i::count]),
            specs=config.features,
            path=path.parent / name,
            max_mismatch=archive.settings.max_mismatch,
        )
        for i, name in enumerate(names)
    )
    ids = "\n".join(item.id for item in items)
    return SplitPlan(
        split=split,
        folder=path.parent,
        prefix=prefix,
        pattern=f"{prefix}-?????-of-{count:05d}" if is_sharded else prefix,
        jobs=jobs,
        settings={
            "dataset": archive.dataset,
            "sample_rate": archive.settings.sample_rate,
            "seed": archive.settings.seed,
            **archive.options(),
            "split": split,
            "shards": count,
            "songs": len(items),
            "ids": hashlib.sha256(ids.encode("utf-8")).hexdigest(),
        },
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
