"""One's own data: a folder of recordings with their MIDI files.

    songs/one.flac  songs/one.mid  songs/live/two.mp3  songs/live/two.midi

A recording and a MIDI file belong together when they have the same path but for the
ending; failing that, when they alone of all have the same name (`audio/one.wav` and
`midi/one.mid`). The path is the song's id.

Splits are the folders `train`, `validation` (or `valid`, `val`) and `test`, if any
is there. Without them the id decides, by its hash: so a song stays in its split when
others are added. Small sets get at least one song for each split that is asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mt3 import datasets, files
from mt3.audio import formats
from mt3.errors import ConfigError, DataError
from mt3.midi.reader import MIDI_SUFFIXES
from mt3.prepare import recordings
from mt3.prepare.archives import contents
from mt3.prepare.items import Archive, Item, Listing, Problem, Record, Settings

SPLITS = ("train", "validation", "test")
_NAMED_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
_SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


@dataclasses.dataclass(frozen=True)
class Folder(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    dataset: str
    validation: float = 0.1
    test: float = 0.1

    @classmethod
    def open(
        cls,
        source: str,
        settings: Settings,
        *,
        name: str | None = None,
        validation: float = 0.1,
        test: float = 0.1,
    ) -> Folder:
        """Checks the folder and the name.

        Args:
          source: the folder.
          settings: see `Settings`.
          name: what to call the data set (default: as the folder).
          validation: share of the songs, where no folders say the split.
          test: share of the songs.

        Raises:
          DataError: there is no such folder.
          ConfigError: a name that cannot be one or is taken, or shares outside 0..1.
        """
        root = Path(source)
        if not os.path.isdir(root):
            found = "a file" if files.exists(root, DataError) else "nothing there"
            raise DataError(f"{source}: expected a folder of songs, found {found}")
        if name is None:
            name = re.sub(r"\W+", "_", root.resolve().name).strip("_").lower()
        check_name(name)
        check_shares(validation, test)
        return cls(root, settings, name, validation, test)

    def options(self) -> dict[str, Any]:
        """See `Archive`."""
        return {"validation": self.validation, "test": self.test}

    def listing(self) -> Listing:
        """See `Archive`."""
        split_folders = [
            folder
            for folder in sorted(self.root.iterdir())
            if folder.is_dir() and folder.name.lower() in _SPLIT_FOLDERS
        ]
        if not split_folders:
            items, problems = _pairs(self.root)
            splits = divide(items, self.validation, self.test)
        else:
            splits, problems = {split: [] for split in SPLITS}, []
            for folder in split_folders:
                split = _SPLIT_FOLDERS[folder.name.lower()]
                items, found = _pairs(folder)
                taken = {item.id for item in splits[split]}
                for item in items:
                    if item.id in taken:
                        reason = f"{item.files[0]}: a song of this name is there"
                        found.append(Problem(item.id, reason))
                    else:
                        splits[split].append(item)
                problems += [dataclasses.replace(p, split=split) for p in found]
        if not any(splits.values()) and not problems:
            raise DataError(
                f"{self.root}: looked for recordings ({', '.join(_NAMED_SUFFIXES)} "
                f"...) and MIDI files ({', '.join(MIDI_SUFFIXES)}) of the same "
                f"names; found {contents(self.root)}"
            )
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        yield recordings.midi_record(item, self.settings, both_ways=True)


def check_name(name: str) -> None:
    """Raises ConfigError for a name that one's own data set cannot have."""
    taken = {*datasets.DATASETS, *datasets.MIXTURES} | {
        path.split("/")[1]
        for config in datasets.DATASETS.values()
        for path in config.paths.values()
    }
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in taken:
        reason = "is taken" if name in taken else "cannot be a name"
        raise ConfigError(
            f"prepare: {name!r} {reason}; choose one of letters, digits and "
            "underscores (--name)"
        )


def check_shares(validation: float, test: float) -> None:
    """Raises ConfigError for shares that are not below 1 together."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ConfigError(
            f"prepare: shares of {validation:g} and {test:g} for validation and test; "
            "expected 0 or more, below 1 together"
        )


def divide(items: list[Item], validation: float, test: float) -> dict[str, list[Item]]:
    """Divides songs by the hash of their ids.

    Args:
      items: the songs.
      validation: their share for validation; 0 for no such split.
      test: likewise.

    Returns:
      The songs of each split, in their own order. Training has at least one.
    """
    place = {item.id: _hash(item.id) for item in items}
    chosen = {
        song: "test" if p < test else "validation" if p < test + validation else "train"
        for song, p in place.items()
    }
    for split, share in (("validation", validation), ("test", test)):
        left = [song for song, taken in chosen.items() if taken == "train"]
        if share and split not in chosen.values() and len(left) > 1:
            chosen[min(left, key=place.get)] = split
    if chosen and "train" not in chosen.values():
        chosen[max(chosen, key=place.get)] = "train"
    return {s: [item for item in items if chosen[item.id] == s] for s in SPLITS}


def _hash(name: str) -> float:
    """Returns a number from 0 to 1 that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _pairs(folder: Path) -> tuple[list[Item], list[Problem]]:
    """Finds recordings with their MIDI files."""
    recordings, problems = _by_name(folder, formats.SUFFIXES)
    midis, more = _by_name(folder, MIDI_SUFFIXES)
    # A folder that can't be entered is met in both searches.
    problems += [problem for problem in more if problem not in problems]
    pairs = {
        name: (recordings[name], midis[name])
        for name in recordings.keys() & midis.keys()
    }
    # The rest is paired by the name alone, where that is unambiguous.
    taken = {Path(name).name for name in pairs}
    by_stem: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for kind, found in enumerate((recordings, midis)):
        for name in found.keys() - pairs.keys():
            by_stem[Path(name).name][kind].append(name)
    for stem, (audio_names, midi_names) in by_stem.items():
        if len(audio_names) == len(midi_names) == 1 and stem not in taken:
            pairs[stem] = (recordings[audio_names[0]], midis[midi_names[0]])
            continue
        for names, found, other in (
            (audio_names, recordings, "MIDI file"),
            (midi_names, midis, "recording"),
        ):
            for name in names:
                reason = f"{found[name]}: no {other} of the same name"
                problems.append(Problem(name, reason))
    items = [Item(name, files) for name, files in sorted(pairs.items())]
    return items, sorted(problems, key=lambda problem: problem.id)


def _by_name(
    folder: Path, extensions: Collection[str]
) -> tuple[Mapping[str, Path], list[Problem]]:
    """Returns files by their path without ending, and those that share one."""
    found = files.search(folder, extensions)
    problems = [Problem(str(folder), reason) for reason in found.problems]
    by_name: dict[str, Path] = {}
    for path in map(Path, found.files):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in by_name:
            reason = f"{path}: same name as {by_name[name].name}; expected one file"
            problems.append(Problem(name, reason))
        else:
            by_name[name] = path
    return by_name, problems
