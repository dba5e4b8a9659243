"""Where a transcription fails: by group of instruments, and by how much sounds at once.

Both only count onsets (50 ms, equal pitch, `mir_eval`'s matching), added up over the
pieces of a set.

* By group, the reference notes of each group are matched twice. *Found*: against all
  estimated notes but drums, whatever instrument they are given to; two groups that
  play one note may both find it in the same estimate. *Matched*: against the estimated
  notes of the same group, from which come precision, recall and F1. Drums are matched
  against drums in both.
* By polyphony, each pitched reference note counts where it belongs by the number of
  pitched notes that sound when it begins, itself included. All are matched against all
  pitched estimates at once, as onset recall is: of a pitch that two instruments begin
  together, one estimate can match only one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from benchmarks.held_out import DRUMS, GROUPS, group_of
from mt3.note_sequences import Note
from mt3.scoring.instruments import ClassCounts
from mt3.scoring.matching import (
    match_notes,
    note_array,
    precision_recall_f1,
    with_length,
)

# Name and most notes at once.
POLYPHONY_BINS = (("1", 1), ("2", 2), ("3-4", 4), ("5-8", 8), ("9+", np.inf))
# Notes written on one tick may differ by the rounding of their times.
_SAME_TIME = 1e-4


@dataclasses.dataclass(frozen=True)
class GroupCounts:
    """Notes of one group, in a piece or in several added up.

    Attributes:
      reference: notes of the reference.
      estimated: notes of the estimate.
      found: reference notes found, whatever instrument has them.
      matched: reference notes found in the same group.
    """

    reference: int = 0
    estimated: int = 0
    found: int = 0
    matched: int = 0

    def __add__(self, other: GroupCounts) -> GroupCounts:
        return GroupCounts(
            self.reference + other.reference,
            self.estimated + other.estimated,
            self.found + other.found,
            self.matched + other.matched,
        )

    def scores(self) -> dict[str, float]:
        """Returns the scores by name; recall of nothing is not a number."""
        precision, recall, f1 = precision_recall_f1(
            self.matched, self.reference, self.estimated
        )
        nothing = not self.reference
        return {
            "found": np.nan if nothing else self.found / self.reference,
            "precision": precision if self.estimated else np.nan,
            "recall": np.nan if nothing else recall,
            "F1": np.nan if nothing and not self.estimated else f1,
        }


@dataclasses.dataclass(frozen=True)
class FoundCounts:
    """Reference notes of one kind, and how many of them were found."""

    reference: int = 0
    found: int = 0

    def __add__(self, other: FoundCounts) -> FoundCounts:
        return FoundCounts(self.reference + other.reference, self.found + other.found)

    def scores(self) -> dict[str, float]:
        """Returns the share found, by name."""
        return {"found": self.found / self.reference if self.reference else np.nan}


_Counts = TypeVar("_Counts", GroupCounts, FoundCounts)


def count_groups(
    reference_notes: Iterable[Note], estimated_notes: Iterable[Note]
) -> dict[str, GroupCounts]:
    """Counts the notes of each group in one piece, groups in `GROUPS`' order."""
    reference = with_length(note_array(reference_notes))
    estimate = with_length(note_array(estimated_notes))
    pitched = estimate[~estimate["is_drum"]]
    of_reference, of_estimate = _groups(reference), _groups(estimate)
    counts = {}
    for group in GROUPS:
        one = reference[of_reference == group]
        other = estimate[of_estimate == group]
        if not len(one) and not len(other):
            continue
        matched = len(match_notes(one, other, offset_ratio=None))
        found = matched
        if group != DRUMS:
            found = len(match_notes(one, pitched, offset_ratio=None))
        counts[group] = GroupCounts(len(one), len(other), found, matched)
    return counts


def count_polyphony(
    reference_notes: Iterable[Note], estimated_notes: Iterable[Note]
) -> dict[str, FoundCounts]:
    """Counts the pitched reference notes of one piece by polyphony."""
    reference = with_length(note_array(reference_notes))
    estimate = with_length(note_array(estimated_notes))
    reference = reference[~reference["is_drum"]]
    estimate = estimate[~estimate["is_drum"]]
    found = np.zeros(len(reference), bool)
    found[match_notes(reference, estimate, offset_ratio=None)[:, 0]] = True
    moments = reference["start_time"] + _SAME_TIME
    begun = np.searchsorted(np.sort(reference["start_time"]), moments, side="right")
    ended = np.searchsorted(np.sort(reference["end_time"]), moments, side="right")
    # A note shorter than the rounding has ended by then, but does sound.
    sounding = np.maximum(begun - ended, 1)
    bins = np.searchsorted([most for _, most in POLYPHONY_BINS], sounding)
    return {
        name: FoundCounts(int(np.sum(bins == i)), int(np.sum(found[bins == i])))
        for i, (name, _) in enumerate(POLYPHONY_BINS)
    }


def solo_scores(classes: Mapping[str, ClassCounts]) -> dict[str, float]:
    """Scores the name of a solo, 0 or 1.

    Args:
      classes: its notes by instrument class, drums among them.

    Returns:
      "Right class": most notes are written in the solo's class. "One instrument": all
      notes are written in one class.
    """
    written = [counts.estimated for counts in classes.values()]
    right = [counts.estimated for counts in classes.values() if counts.reference]
    most = max(written, default=0)
    return {
        "Right class": float(0 < most <= max(right, default=0)),
        "One instrument": float(sum(count > 0 for count in written) == 1),
    }


def add_up(pieces: Iterable[Mapping[str, _Counts]]) -> dict[str, _Counts]:
    """Adds the counts of all pieces up, in the order of groups or bins."""
    sums: dict[str, _Counts] = {}
    for counts in pieces:
        for name, value in counts.items():
            sums[name] = sums[name] + value if name in sums else value
    order = (*GROUPS, *(name for name, _ in POLYPHONY_BINS))
    return {name: sums[name] for name in order if name in sums}


def _groups(notes: np.ndarray) -> np.ndarray:
    """Returns the group of each note, an array of text."""
    names = [
        group_of(program, drum)
        for program, drum in zip(
            notes["program"].tolist(), notes["is_drum"].tolist(), strict=True
        )
    ]
    return np.array(names, dtype=object)
