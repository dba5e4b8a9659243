"""URMP: 44 pieces of chamber music, each part recorded alone and mixed.

    01_Jupiter_vn_vc/AuMix_01_Jupiter_vn_vc.wav
    01_Jupiter_vn_vc/AuSep_1_vn_01_Jupiter.wav
    01_Jupiter_vn_vc/Notes_1_vn_01_Jupiter.txt    onset (s), frequency (Hz), length (s)
    01_Jupiter_vn_vc/Sco_01_Jupiter_vn_vc.mid     not aligned with the audio: not used

Nine pieces are for validation, as published; the other 35 are for training.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

from mt3.data.adapters import URMP_PROGRAMS
from mt3.errors import DataError
from mt3.note_sequences import DRUM_INSTRUMENT, Note, validate_notes
from mt3.prepare import recordings, sequences
from mt3.prepare.archives import contents, find_root
from mt3.prepare.items import Archive, Item, Listing, Problem, Record, Settings

VALIDATION_PIECES = frozenset({1, 2, 12, 13, 24, 25, 31, 38, 39})
_PIECE = re.compile(r"(?P<number>\d\d)_[^_]+_[a-z_]+$")
_NOTES = re.compile(r"Notes_(?P<track>\d+)_(?P<instrument>[a-z]+)_")


@dataclasses.dataclass(frozen=True)
class Urmp(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    dataset: str = "urmp"

    @classmethod
    def open(cls, source: str, settings: Settings) -> Urmp:
        """Finds the pieces' folders.

        Raises:
          DataError: there are none.
        """
        root = find_root(source, ["[0-9][0-9]_*/AuMix_*.wav"], "URMP")
        return cls(root, settings)

    def listing(self) -> Listing:
        """See `Archive`."""
        splits: dict[str, list[Item]] = {"train": [], "validation": []}
        problems = []
        for folder in sorted(self.root.glob("[0-9][0-9]_*")):
            name = _PIECE.match(folder.name)
            if not folder.is_dir() or not name:
                reason = f"{folder}: expected a folder such as 01_Jupiter_vn_vc"
                problems.append(Problem(folder.name, reason))
                continue
            last = int(name["number"]) in VALIDATION_PIECES
            split = "validation" if last else "train"
            mixes = sorted(folder.glob("AuMix_*.wav"))
            labels = sorted(folder.glob("Notes_*.txt"))
            if len(mixes) != 1 or not labels:
                reason = (
                    f"{folder}: expected one AuMix_*.wav and a Notes_*.txt for each "
                    f"part; found {contents(folder)}"
                )
                problems.append(Problem(folder.name, reason, split=split))
                continue
            splits[split].append(Item(folder.name, (mixes[0], *labels)))
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        recording, *labels = item.files
        parts = sorted(_read_part(path) for path in labels)
        if not any(notes for _, _, notes in parts):
            raise DataError(f"{recording.parent}: no part has notes")
        everything = [note for _, _, notes in parts for note in notes]
        places = [i for i, (_, _, notes) in enumerate(parts) for _ in notes]
        places = [i + (i >= DRUM_INSTRUMENT) for i in places]
        sequence = sequences.from_notes(everything, instruments=places)
        by_part = [sequences.from_notes(notes, name=item.id) for _, _, notes in parts]
        for part in by_part:
            sequences.drop_empty_notes(part)
        yield recordings.make_record(
            item,
            sequence,
            self.settings,
            tracks=[track for track, _, _ in parts],
            inst_names=[instrument for _, instrument, _ in parts],
            instrument_sequences=[part.SerializeToString() for part in by_part],
        )


def _read_part(path: Path) -> tuple[int, str, list[Note]]:
    """Reads the notes of one part.

    Returns:
      (number of the part, its instrument's abbreviation, its notes).

    Raises:
      DataError: a name, a line or an instrument that URMP does not have.
    """
    name = _NOTES.match(path.name)
    if not name or name["instrument"] not in URMP_PROGRAMS:
        raise DataError(
            f"{path}: expected a name such as Notes_1_vn_01_Jupiter.txt with one of "
            f"the instruments {', '.join(URMP_PROGRAMS)}"
        )
    program = URMP_PROGRAMS[name["instrument"]]
    notes = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):  # noqa: B007 - named on failure.
            if not line.strip():
                continue
            onset, frequency, length = map(float, line.replace(",", " ").split())
            pitch = round(69 + 12 * math.log2(frequency / 440.0))
            notes.append(Note(onset, onset + length, pitch, program=program))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"{path}: line {number}: {line!r}: expected onset in seconds, frequency in "
            "Hz, length in seconds"
        ) from error
    validate_notes(notes, str(path))
    return int(name["track"]), name["instrument"], notes
