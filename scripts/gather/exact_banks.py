"""Soundfonts of real samples, each with the programs that it has exactly.

A folder of soundfonts may contain `banks.json`, which says what its files have:

    {"cello.sf2": {"programs": {"42": [0, 0]},
                   "licence": "CC0", "origin": "github.com/someone/cello"},
     "rock.sf2": {"kits": {"0": [0, 5]}, "licence": "CC BY 4.0, Someone"}}

`programs` and `kits` name, for General MIDI programs (from 0) and drum kits, the [bank,
preset] of the file that plays them; where neither is given, the presets are taken to
be at their General MIDI places already. Presets that are not named play nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mt3.errors import DataError

from . import sample_sets
from .soundfont_writer import DRUM_BANK

FILE = "banks.json"
SUFFIXES = (".sf2", ".sf3")
# Nothing draws variations from this bank.
_UNUSED_BANK = 127

Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ExactBank:
    """A soundfont and what is known of it.

    Attributes:
      path: the file.
      places: General MIDI (bank, preset) by that of the file; empty if they are equal.
      licence: of its samples.
      origin: where it comes from.
    """

    path: Path
    places: Mapping[Place, Place]
    licence: str
    origin: str

    def write(self, target: Path) -> None:
        """Writes the soundfont with its presets where General MIDI has them.

        Raises:
          DataError: it is no soundfont, or a preset that is named is not in it.
        """
        missing = set(self.places)

        def move(bank: int, number: int) -> Place:
            missing.discard((bank, number))
            unused = (_UNUSED_BANK, number) if self.places else (bank, number)
            return self.places.get((bank, number), unused)

        sample_sets.move_presets(self.path, target, move)
        if missing:
            target.unlink()
            raise DataError(
                f"{self.path}: has no preset [bank, preset] {list(min(missing))}, "
                f"which {FILE} names."
            )


def find_banks(root: Path) -> Iterator[ExactBank]:
    """Yields the soundfonts of a folder and the folders in it, or a single one.

    Raises:
      DataError: there is none, or a `banks.json` cannot be used.
    """
    paths = [root] if root.is_file() else sorted(root.rglob("*"))
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise DataError(f"{root}: contains no soundfont ({', '.join(SUFFIXES)}).")
    for folder in sorted({path.parent for path in paths}):
        listed = _read_list(folder / FILE)
        unknown = [name for name in listed if not (folder / name).is_file()]
        if unknown:
            raise DataError(f"{folder / FILE}: names {unknown[0]}, which is not there.")
        for path in (path for path in paths if path.parent == folder):
            found = listed.get(path.name, {})
            yield ExactBank(
                path,
                _places(folder / FILE, path.name, found),
                str(found.get("licence", "not stated")),
                str(found.get("origin", root)),
            )


def _read_list(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}.") from error
    if not isinstance(listed, dict) or not all(
        isinstance(found, dict) for found in listed.values()
    ):
        raise DataError(f"{path}: expected an object with an object for each file.")
    return listed


def _places(path: Path, name: str, found: Mapping[str, Any]) -> dict[Place, Place]:
    places = {}
    try:
        for kind in ("programs", "kits"):
            for number, (bank, preset) in found.get(kind, {}).items():
                if not 0 <= int(number) < 128:
                    raise ValueError(f"{kind} are 0 to 127")
                general = DRUM_BANK if kind == "kits" else 0
                place = int(bank), int(preset)
                if place in places:
                    raise ValueError(f"{list(place)} is named twice")
                places[place] = general, int(number)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: {name}: {error}; expected programs and kits such as "
            '{"42": [0, 0]}.'
        ) from error
    return places
