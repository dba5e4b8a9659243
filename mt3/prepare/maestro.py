"""MAESTRO (versions 1 and 3): solo piano, aligned to about 3 ms.

    maestro-v3.0.0/maestro-v3.0.0.csv
    maestro-v3.0.0/2018/MIDI-Unprocessed_....wav
    maestro-v3.0.0/2018/MIDI-Unprocessed_....midi

The table lists the performances with their split. Sustain pedals stay control
changes in the NoteSequence; the reading side lengthens the notes.

mirdata knows MAESTRO too, but version 2 only, so the table is read here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from mt3.errors import DataError
from mt3.prepare import recordings
from mt3.prepare.archives import find_root, read_table, without_duplicates
from mt3.prepare.items import Archive, Item, Listing, Problem, Record, Settings

TABLE = "maestro-v*.csv"
DATASETS = {"1": "maestrov1", "3": "maestrov3"}
_COLUMNS = ("split", "midi_filename", "audio_filename")
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Maestro(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    table: Path
    dataset: str
    settings: Settings

    @classmethod
    def open(cls, source: str, settings: Settings) -> Maestro:
        """Finds the table, whose name gives the version.

        Raises:
          DataError: no table, several, or one of another version.
        """
        root = find_root(source, [TABLE], "MAESTRO")
        tables = sorted(root.glob(TABLE))
        if len(tables) > 1:
            raise DataError(
                f"{root}: expected one table {TABLE}, found "
                f"{', '.join(table.name for table in tables)}"
            )
        version = re.match(r"maestro-v(\d+)", tables[0].name)
        name = DATASETS.get(version[1] if version else "")
        if name is None:
            raise DataError(
                f"{tables[0]}: the tasks read version 1 or 3 of MAESTRO, not this one"
            )
        return cls(root, tables[0], name, settings)

    def listing(self) -> Listing:
        """See `Archive`."""
        splits: dict[str, list[Item]] = {split: [] for split in _SPLITS}
        problems: list[Problem] = []
        for _, row in read_table(self.table, _COLUMNS):
            name = Path(row["midi_filename"]).with_suffix("").as_posix()
            files = (
                self.root / row["audio_filename"],
                self.root / row["midi_filename"],
            )
            missing = [str(file) for file in files if not file.is_file()]
            split = row["split"]
            if split not in splits:
                reason = f"{self.table}: {name}: unknown split {split!r}"
                problems.append(Problem(name, reason))
            elif missing:
                reason = f"no such file: {' and '.join(missing)}"
                problems.append(Problem(name, reason, split=split))
            else:
                splits[split].append(Item(name, files))
        for split in _SPLITS:
            splits[split], repeated = without_duplicates(split, splits[split])
            problems += repeated
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        yield recordings.midi_record(item, self.settings)
