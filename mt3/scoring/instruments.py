"""How well instruments are told apart: beyond the scores of the original.

All of it compares notes alone, at the granularity of a MIDI program (`full`) or of
the General MIDI class of eight programs (`midi_class`). All drums together count as
one instrument, whatever program numbers they carry.

1. Instrument leakage: the number of instruments that the estimate uses, divided by
   the number in the reference. 1 is ideal; 3 says that one piano came out as three
   instruments. It counts, and does not ask whether they are the right ones.
   Undefined (NaN) for a song whose reference is empty.
2. Instrument detection: precision, recall and F1 of the set of instruments of each
   song, whatever they play.
3. Scores per class: within each class and within the drums, onset and onset +
   offset F1 of the notes of all songs together, with their numbers. A note found
   under another class is missed in its own and wrong in the other.

Leakage and detection are means over songs (and, for detection, sums over songs);
the table is of sums, since many songs have no note of a class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mt3.metrics_utils import NoteArrays, match_notes, precision_recall_f1
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.scoring.counts import GRANULARITIES, MatchCounts

# At "flat" all pitched notes are one instrument, so there is nothing to tell apart.
DETECTION_GRANULARITIES = ("midi_class", "full")
CLASS_NAMES = (*general_midi.FAMILIES, general_midi.DRUMS)
_DRUM_CLASS = len(general_midi.FAMILIES)


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Counts of one instrument class, in one song or in several added up.

    Attributes:
      songs: songs whose reference has the class.
      reference: notes of the reference.
      estimated: notes of the estimate.
      onset_matched: notes whose pitch and onset match.
      offset_matched: notes whose offset matches too; for drums, which have none
        that matters, equal to `onset_matched`.
    """

    songs: int = 0
    reference: int = 0
    estimated: int = 0
    onset_matched: int = 0
    offset_matched: int = 0

    def __add__(self, other: ClassCounts) -> ClassCounts:
        columns = (field.name for field in dataclasses.fields(self))
        return ClassCounts(
            **{name: getattr(self, name) + getattr(other, name) for name in columns}
        )

    @property
    def onset_f1(self) -> float:
        """F1 of onsets, 0..1."""
        return self._f1(self.onset_matched)

    @property
    def offset_f1(self) -> float:
        """F1 of onsets and offsets, 0..1; of onsets for drums."""
        return self._f1(self.offset_matched)

    def _f1(self, matched: int) -> float:
        _, _, f1 = precision_recall_f1(matched, self.reference, self.estimated)
        return f1


@dataclasses.dataclass(frozen=True)
class InstrumentCounts:
    """What the instrument scores of one song are made of.

    Attributes:
      detection: matching instruments, one item per granularity.
      classes: counts by class name, of the classes that occur in either side.
    """

    detection: tuple[MatchCounts, ...]
    classes: Mapping[str, ClassCounts]

    def scores(self) -> dict[str, float]:
        """Returns leakage and detection scores by name, NaN where undefined."""
        leakage, detection = {}, {}
        for counts in self.detection:
            leakage[f"Instrument leakage ({counts.qualifier})"] = (
                counts.estimated / counts.reference if counts.reference else math.nan
            )
            detection.update(counts.scores())
        return leakage | detection


def count_instruments(
    reference_notes: Iterable[Note], estimated_notes: Iterable[Note]
) -> InstrumentCounts:
    """Counts instruments and their notes in one song.

    Args:
      reference_notes: the true notes.
      estimated_notes: the transcribed notes.

    Raises:
      MidiError: a note that cannot be scored.
    """
    reference = NoteArrays.from_notes(reference_notes)
    estimate = NoteArrays.from_notes(estimated_notes)
    detection = []
    for granularity in DETECTION_GRANULARITIES:
        truth = _instruments(reference, granularity)
        found = _instruments(estimate, granularity)
        detection.append(
            MatchCounts(
                "Instrument detection",
                len(truth & found),
                len(truth),
                len(found),
                defined=bool(truth or found),
                qualifier=granularity,
            )
        )
    return InstrumentCounts(tuple(detection), _count_classes(reference, estimate))


def sum_classes(songs: Iterable[InstrumentCounts]) -> dict[str, ClassCounts]:
    """Adds the classes' counts of all songs up, classes in General MIDI's order."""
    sums: dict[str, ClassCounts] = {}
    for song in songs:
        for name, counts in song.classes.items():
            sums[name] = sums.get(name, ClassCounts()) + counts
    return {name: sums[name] for name in CLASS_NAMES if name in sums}


def class_scores(classes: Mapping[str, ClassCounts]) -> dict[str, float]:
    """Returns the classes' F1 by name, of those that have a note in the reference."""
    scores = {}
    for name, counts in classes.items():
        if not counts.reference:
            continue
        scores[f"Class onset F1 ({name})"] = counts.onset_f1
        if name != general_midi.DRUMS:
            scores[f"Class onset + offset F1 ({name})"] = counts.offset_f1
    return scores


_HEADS = ("class", "songs", "notes", "estimated", "onset F1", "onset + offset F1")


def class_table(classes: Mapping[str, ClassCounts]) -> list[tuple[str, ...]]:
    """Returns the classes as rows of text, the heads first.

    Args:
      classes: counts by class name.

    Returns:
      Rows of equal length; "-" where there is no number.
    """
    rows = [_HEADS]
    for name, counts in classes.items():
        onset, offset = f"{counts.onset_f1:.4f}", f"{counts.offset_f1:.4f}"
        if name == general_midi.DRUMS:
            offset = "-"
        numbers = (counts.songs, counts.reference, counts.estimated)
        rows.append((name, *map(str, numbers), onset, offset))
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows, the heads first, as a Markdown table, as TensorBoard shows it."""
    rule = [":--", *["--:"] * (len(rows[0]) - 1)]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _instruments(notes: NoteArrays, granularity: str) -> set[tuple[int, bool]]:
    """Returns the (program, is_drum) that occur, all drums as program 0."""
    programs = np.where(notes.is_drum, 0, GRANULARITIES[granularity](notes.program))
    return set(zip(programs.tolist(), notes.is_drum.tolist(), strict=True))


def _count_classes(
    reference: NoteArrays, estimate: NoteArrays
) -> dict[str, ClassCounts]:
    """Matches notes class by class; notes without length are left out, as always."""
    reference, estimate = reference.with_length(), estimate.with_length()
    classes_of_reference, classes_of_estimate = _classes(reference), _classes(estimate)
    counts = {}
    for number in np.union1d(classes_of_reference, classes_of_estimate).tolist():
        one = reference.select(classes_of_reference == number)
        other = estimate.select(classes_of_estimate == number)
        onsets = len(match_notes(one, other, offset_ratio=None))
        is_drum = number == _DRUM_CLASS
        counts[CLASS_NAMES[number]] = ClassCounts(
            songs=int(len(one) > 0),
            reference=len(one),
            estimated=len(other),
            onset_matched=onsets,
            offset_matched=onsets if is_drum else len(match_notes(one, other)),
        )
    return counts


def _classes(notes: NoteArrays) -> np.ndarray:
    """Returns the class number of each note, int64 [notes]."""
    families = notes.program // general_midi.FAMILY_SIZE
    return np.where(notes.is_drum, _DRUM_CLASS, families)
