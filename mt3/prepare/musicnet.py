"""MusicNet: 330 recordings of classical music; and MusicNetEM, its other labels.

    train_data/1727.wav     train_labels/1727.csv
    test_data/2303.wav      test_labels/2303.csv
    musicnet_em/1727.mid    (MusicNetEM, beside these or where `labels` says)

Labels give onset and offset in samples at 44.1 kHz, the instrument as a General MIDI
program counted from 1, and the pitch. The splits are those of the MT3 paper (its
random 300, 15 and 15), not the archive's own train and test folders.

MusicNetEM has better aligned labels of most of the recordings, as MIDI files named
by the recordings' numbers; recordings without one are left out. Notes of a bare
"mt3 prepare musicnet" are the original labels, which the ICLR paper used.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mt3.errors import DataError
from mt3.note_sequences import Note, validate_notes
from mt3.prepare.archives import contents, find_root, read_table, without_duplicates
from mt3.prepare.items import Archive, Item, Listing, Problem, Record, Settings

LABEL_RATE = 44100
_TEST = "2118 2501 1813 1729 1893 2296 1776 2487 2537 2186 2431 2432 2497 2621 2507"
_VALIDATION = (
    "2336 2466 2160 1818 1733 1765 2198 2300 2308 2477 2611 2289 1790 2315 2504"
)
TEST_IDS = frozenset(_TEST.split())
VALIDATION_IDS = frozenset(_VALIDATION.split())
EM_FOLDERS = ("musicnet_em", "musicnetem", "MusicNetEM", "MusicNet_EM")
_PARTS = ("train", "test")
_COLUMNS = ("start_time", "end_time", "instrument", "note")
_EM_NAME = re.compile(r"(\d{4})(?!\d)")


@dataclasses.dataclass(frozen=True)
class MusicNet(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    em_labels: Path | None = None

    @classmethod
    def open(cls, source: str, settings: Settings) -> MusicNet:
        """Finds recordings with the original labels.

        Raises:
          DataError: not MusicNet.
        """
        patterns = ["train_data/*.wav", "train_labels/*.csv"]
        return cls(find_root(source, patterns, "MusicNet"), settings)

    @classmethod
    def open_em(
        cls,
        source: str,
        settings: Settings,
        *,
        labels: str | os.PathLike[str] | None = None,
    ) -> MusicNet:
        """Finds recordings with the labels of MusicNetEM.

        Args:
          source: MusicNet's folder.
          settings: see `Settings`.
          labels: the folder with the MIDI files; by default looked for in MusicNet's
            folder and beside it.

        Raises:
          DataError: not MusicNet, or no such labels.
        """
        root = find_root(source, ["train_data/*.wav"], "MusicNet")
        if labels is None:
            places = [p / name for p in (root, root.parent) for name in EM_FOLDERS]
            labels = next((place for place in places if place.is_dir()), None)
            if labels is None:
                raise DataError(
                    f"{root}: MusicNetEM's labels: looked for a folder "
                    f"{' or '.join(EM_FOLDERS)} here and in {root.parent}; name it "
                    f"(--labels). Found {contents(root)}"
                )
        labels = Path(labels)
        if not labels.is_dir() or not _em_files(labels):
            found = contents(labels) if labels.is_dir() else "no such folder"
            raise DataError(
                f"{labels}: MusicNetEM's labels: looked for MIDI files named by the "
                f"recordings' numbers (1727.mid); found {found}"
            )
        return cls(root, settings, labels)

    @property
    def dataset(self) -> str:
        """See `Archive`."""
        return "musicnet_em" if self.em_labels else "musicnet"

    def listing(self) -> Listing:
        """See `Archive`."""
        splits: dict[str, list[Item]] = {"train": [], "validation": [], "test": []}
        problems: list[Problem] = []
        em_files = _em_files(self.em_labels) if self.em_labels else None
        for part in _PARTS:
            for recording in sorted((self.root / f"{part}_data").glob("*.wav")):
                name = recording.stem
                if em_files is None:
                    labels = self.root / f"{part}_labels" / f"{name}.csv"
                else:
                    labels = em_files.get(name)
                split = split_of(name)
                if labels is None:
                    reason = f"{name}: MusicNetEM has no labels for it"
                    problems.append(Problem(name, reason, is_error=False, split=split))
                elif not labels.is_file():
                    reason = f"no such file: {labels}"
                    problems.append(Problem(name, reason, split=split))
                else:
                    splits[split].append(Item(name, (recording, labels)))
        for split, items in splits.items():
            splits[split], repeated = without_duplicates(split, items)
            problems += repeated
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        # Reading labels alone needs no note-seq.
        from mt3.prepare import recordings, sequences

        labels = item.files[1]
        if self.em_labels:
            sequence = sequences.read_midi(labels)
        else:
            sequence = sequences.from_notes(read_labels(labels))
        yield recordings.make_record(item, sequence, self.settings, as_floats=True)


def split_of(name: str) -> str:
    """Returns the split of the MT3 paper that a recording's number is in."""
    if name in TEST_IDS:
        return "test"
    return "validation" if name in VALIDATION_IDS else "train"


def read_labels(path: Path) -> list[Note]:
    """Reads MusicNet's table of one recording.

    Raises:
      DataError: columns are missing, a row is not as it should be, or there is none.
      MidiError: a note is out of MIDI's ranges.
    """
    notes = []
    for line, row in read_table(path, _COLUMNS):
        try:
            start, end, instrument, pitch = (int(row[c]) for c in _COLUMNS)
        except ValueError as error:
            raise DataError(
                f"{path}: line {line}: {error}; expected whole numbers for "
                f"{', '.join(_COLUMNS)}"
            ) from error
        span = start / LABEL_RATE, end / LABEL_RATE
        notes.append(Note(*span, pitch, program=instrument - 1))
    if not notes:
        raise DataError(f"{path}: holds no notes")
    validate_notes(notes, str(path))
    return notes


def _em_files(folder: Path) -> dict[str, Path]:
    """Returns MusicNetEM's MIDI files by the number of the recording."""
    files = {}
    for path in sorted(folder.rglob("*")):
        number = _EM_NAME.match(path.stem)
        if number and path.suffix.lower() in (".mid", ".midi"):
            files.setdefault(number[1], path)
    return files
