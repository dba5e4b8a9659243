"""How well instruments are kept apart: scores that MT3 itself does not have.

They compare notes alone, at the granularity of a MIDI program (`full`) or of the
General MIDI class of eight programs (`midi_class`). All drums together count as one
instrument, whatever program numbers they carry.

Instrument leakage
  The number of instruments that the estimate uses, divided by the number in the
  reference. 1 is ideal; 3 means, say, that one piano came out as three instruments.
  Leakage does not ask whether they are the right ones. It is undefined (NaN) for a song
  whose reference is empty.

Instrument detection
  Precision, recall and F1 of the set of instruments of each song, whatever they play.

Class scores
  Within each class and within the drums, onset F1 and onset + offset F1 of the notes of
  all songs together. A note that was given to another class is missing in its own and
  wrong in the other.

Leakage and detection are means over songs; detection is also computed from sums over
songs. Class scores are computed from sums alone, since many songs have no note of a
class.

Example:
    >>> from mt3.note_sequences import Note
    >>> piano, violin = Note(0, 1, 60), Note(0, 1, 64, 90, 40)
    >>> song = count_instruments([piano], [piano, violin])
    >>> song.scores()["Instrument leakage (full)"]
    2.0
    >>> class_scores(sum_classes([song]))["Class onset F1 (Piano)"]
    1.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.scoring import matching
from mt3.scoring.counts import MatchCounts, by_instrument, one_drum_kit

# At "flat" all pitched notes are one instrument.
DETECTION_GRANULARITIES = ("midi_class", "full")
CLASS_NAMES = (*general_midi.FAMILIES, general_midi.DRUMS)


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Counts of one instrument class, in one song or in several added up.

    Attributes:
      songs: songs whose reference has the class.
      reference: notes of the reference.
      estimated: notes of the estimate.
      onset_matched: notes whose pitch and onset match.
      offset_matched: notes whose offset matches as well; for drums, whose offsets mean
        nothing, equal to `onset_matched`.
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
        return matching.precision_recall_f1(matched, self.reference, self.estimated)[2]


@dataclasses.dataclass(frozen=True)
class InstrumentCounts:
    """What the instrument scores of one song are made of.

    Attributes:
      detection: matching instruments, one item per granularity.
      classes: counts by class name, for the classes that occur in either side.
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
    reference_notes: Iterable[Note] | np.ndarray,
    estimated_notes: Iterable[Note] | np.ndarray,
) -> InstrumentCounts:
    """Counts the instruments of one song, and the notes of each class.

    Args:
      reference_notes: the true notes.
      estimated_notes: the transcribed notes.

    Raises:
      MidiError: a note that cannot be scored.
    """
    sides = [
        one_drum_kit(matching.note_array(notes))
        for notes in (reference_notes, estimated_notes)
    ]
    detection = []
    for granularity in DETECTION_GRANULARITIES:
        plays = [
            (len(one) > 0, len(other) > 0)
            for _, one, other in by_instrument(*sides, granularity)
        ]
        detection.append(
            MatchCounts(
                "Instrument detection",
                matched=sum(one and other for one, other in plays),
                reference=sum(one for one, _ in plays),
                estimated=sum(other for _, other in plays),
                qualifier=granularity,
            )
        )
    return InstrumentCounts(tuple(detection), _count_classes(*sides))


def sum_classes(songs: Iterable[InstrumentCounts]) -> dict[str, ClassCounts]:
    """Adds up the counts of all songs, classes in General MIDI's order."""
    return add_classes(song.classes for song in songs)


def add_classes(
    songs: Iterable[Mapping[str, ClassCounts]],
) -> dict[str, ClassCounts]:
    """Adds up the counts by class of all songs, classes in General MIDI's order."""
    sums: dict[str, ClassCounts] = {}
    for classes in songs:
        for name, counts in classes.items():
            sums[name] = sums.get(name, ClassCounts()) + counts
    return {name: sums[name] for name in CLASS_NAMES if name in sums}


def class_scores(classes: Mapping[str, ClassCounts]) -> dict[str, float]:
    """Returns F1 by name, for the classes that have a note in the reference."""
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
    """Returns the classes as rows of text, the heads first; "-" for no number."""
    rows = [_HEADS]
    for name, counts in classes.items():
        offset = "-" if name == general_midi.DRUMS else f"{counts.offset_f1:.4f}"
        numbers = counts.songs, counts.reference, counts.estimated
        rows.append((name, *map(str, numbers), f"{counts.onset_f1:.4f}", offset))
    return rows


def format_rows(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> list[str]:
    """Returns the lines of a table: a column of names, then columns of numbers.

    Args:
      rows: cells by row, the heads first.
      markdown: write Markdown, as TensorBoard shows it, and not aligned text.
    """
    if markdown:
        rule = [":--", *["--:"] * (len(rows[0]) - 1)]
        rows = [rows[0], rule, *rows[1:]]
        return [f"| {' | '.join(cells)} |" for cells in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in rows
    ]


def _count_classes(
    reference: np.ndarray, estimate: np.ndarray
) -> dict[str, ClassCounts]:
    """Matches notes class by class; notes without length are left out."""
    timed = matching.with_length(reference), matching.with_length(estimate)
    counts = {}
    for (program, is_drum), one, other in by_instrument(*timed, "midi_class"):
        name = general_midi.family_name(program)
        onsets = len(matching.match_notes(one, other, offset_ratio=None))
        counts[general_midi.DRUMS if is_drum else name] = ClassCounts(
            songs=int(len(one) > 0),
            reference=len(one),
            estimated=len(other),
            onset_matched=onsets,
            offset_matched=onsets if is_drum else len(matching.match_notes(one, other)),
        )
    return counts
