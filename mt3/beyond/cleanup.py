"""Corrects what weak models get wrong in a finished transcription.

The original has none of this. Nothing happens unless `CleanupOptions` ask for it, or
the model itself does (`cleanup` in the provenance of its weights):

1. `instrument_flicker`: a program with few notes and little sound in the recording
   passes its notes to the program of the same or a neighbouring General MIDI family
   that plays most around each of them.
2. `merge_gap`: a note that should have continued into a segment, but began anew there,
   is joined with its first part.
3. `min_duration`: pitched notes that are too short are dropped or lengthened.

They are applied in this order, so that the parts of a cut note are joined before their
length counts. Drums are never changed.

All of it needs the notes of the whole recording: which programs are rare, which note
follows which. Streamed notes are therefore not corrected. Notes that were read from
frames are not cut where segments meet, so nothing is joined there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mt3 import errors
from mt3.note_sequences import NOTE_DTYPE, Note, notes_to_array
from mt3.vocabularies import midi_class

# A note that begins this near to a segment's start may be the rest of another note: a
# segment starts on a step of 10 ms, and models are a step or two off.
BOUNDARY_SECONDS = 0.03
# What a program plays this long before and after a note counts as around it.
AROUND_SECONDS = 2.0
# When two programs become one, onsets of one pitch that are nearer than the metrics'
# tolerance become one note.
UNISON_SECONDS = 0.05
# Notes with their confidence, NaN where it is not known.
_DTYPE = np.dtype([*NOTE_DTYPE.descr, ("confidence", np.float64)])
SHORT_NOTES = ("drop", "lengthen")


@dataclasses.dataclass(frozen=True)
class CleanupOptions:
    """What to correct; by default nothing.

    Attributes:
      min_duration: pitched notes shorter than this, in seconds, are too short; 0 for
        none.
      short_notes: "drop" them, or "lengthen" them to `min_duration`, but not beyond
        the next onset of their pitch and program.
      merge_gap: two notes of one pitch and program become one if the second begins
        where a segment does and less than this, in seconds, after the first ends; 0
        for never.
      instrument_flicker: a program whose share of the recording's pitched notes, and
        of their summed length, is below this (0..1) passes its notes on; 0 for none.

    Raises:
      ConfigError: a value out of range.
    """

    min_duration: float = 0.0
    short_notes: str = "drop"
    merge_gap: float = 0.0
    instrument_flicker: float = 0.0

    def __post_init__(self):
        limits = {
            "min_duration": (math.inf, "seconds >= 0"),
            "merge_gap": (math.inf, "seconds >= 0"),
            "instrument_flicker": (1.0, "a share from 0 to below 1"),
        }
        for name, (limit, expected) in limits.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 <= value < limit:
                raise errors.ConfigError(
                    f"note clean-up: {name} is {value!r}; expected {expected}"
                )
        if self.short_notes not in SHORT_NOTES:
            raise errors.ConfigError(
                f"note clean-up: short_notes is {self.short_notes!r}; expected "
                f"{' or '.join(map(repr, SHORT_NOTES))}"
            )

    def __bool__(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.min_duration or self.merge_gap or self.instrument_flicker)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CleanupOptions:
        """Reads options by name, as a model's provenance holds them.

        Raises:
          ConfigError: an unknown name or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise errors.ConfigError(
                    f"note clean-up: unknown option {name!r}."
                    f"{errors.near_misses(name, known)}"
                )
        return cls(**values)


def clean_up(
    notes: Sequence[Note], options: CleanupOptions, *, segment_seconds: float
) -> list[Note]:
    """Corrects the notes of one recording.

    Args:
      notes: all its notes, in any order.
      options: what to correct.
      segment_seconds: length of the segments it was transcribed in.

    Returns:
      The notes in the order of their onsets.
    """
    array = _to_array(notes)
    drums, pitched = array[array["is_drum"]], array[~array["is_drum"]]
    if options.instrument_flicker:
        pitched = settle_programs(pitched, options.instrument_flicker)
    if options.merge_gap:
        pitched = merge_cut_notes(pitched, options.merge_gap, segment_seconds)
    if options.min_duration and options.short_notes == "drop":
        pitched = pitched[~_too_short(pitched, options.min_duration)]
    elif options.min_duration:
        pitched = lengthen_short_notes(pitched, options.min_duration)
    order = ("start_time", "is_drum", "program", "pitch", "end_time", "velocity")
    return _to_notes(np.sort(np.concatenate([pitched, drums]), order=order))


def _to_array(notes: Sequence[Note]) -> np.ndarray:
    """Returns notes as an array [n] of `_DTYPE`."""
    array = np.zeros(len(notes), _DTYPE)
    known = notes_to_array(notes)
    for name in NOTE_DTYPE.names:
        array[name] = known[name]
    # None becomes NaN.
    array["confidence"] = np.array([note.confidence for note in notes], np.float64)
    return array


def _to_notes(array: np.ndarray) -> list[Note]:
    return [
        Note(*values, confidence=None if math.isnan(confidence) else confidence)
        for *values, confidence in array.tolist()
    ]


def _too_short(notes: np.ndarray, seconds: float) -> np.ndarray:
    """Says which notes are too short, bool [n]; rounding does not count."""
    return notes["end_time"] - notes["start_time"] < seconds - 1e-6


def _pitch_order(notes: np.ndarray) -> np.ndarray:
    """Returns the order of notes [n] by program and pitch, then onset."""
    keys = ("end_time", "start_time", "pitch", "program")
    return np.lexsort([notes[key] for key in keys])


def _by_pitch(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts notes [n] by program and pitch, then onset.

    Returns:
      The notes, and for each but the last whether the next has the same program and
      pitch, bool [n - 1].
    """
    notes = notes[_pitch_order(notes)]
    same = (notes["program"][1:] == notes["program"][:-1]) & (
        notes["pitch"][1:] == notes["pitch"][:-1]
    )
    return notes, same


def _first_of_runs(joined: np.ndarray) -> np.ndarray:
    """Returns where runs begin; `joined` bool [n - 1]: an item continues a run."""
    return np.flatnonzero(np.concatenate([[True], ~joined]))


def _join(notes: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Makes one note of each run of notes; `joined` as in `_first_of_runs`."""
    first = _first_of_runs(joined)
    ends = np.maximum.reduceat(notes["end_time"], first)
    notes = notes[first]
    notes["end_time"] = ends
    return notes


def lengthen_short_notes(notes: np.ndarray, seconds: float) -> np.ndarray:
    """Lengthens pitched notes [n] to `seconds`, at most up to the next onset."""
    notes, same = _by_pitch(notes)
    short = _too_short(notes, seconds)
    wanted = notes["start_time"] + seconds
    wanted[:-1] = np.where(
        same, np.minimum(wanted[:-1], notes["start_time"][1:]), wanted[:-1]
    )
    longer = np.maximum(notes["end_time"], wanted)
    notes["end_time"] = np.where(short, longer, notes["end_time"])
    return notes


def merge_cut_notes(
    notes: np.ndarray, gap: float, segment_seconds: float
) -> np.ndarray:
    """Joins pitched notes [n] that were cut where a segment begins.

    Args:
      notes: note array.
      gap: longest silence between the two parts, exclusive, seconds.
      segment_seconds: length of a segment.

    Returns:
      Note array; a joined note has velocity and confidence of its first part.
    """
    if len(notes) < 2:
        return notes
    notes, same = _by_pitch(notes)
    start = notes["start_time"][1:]
    nearest = np.round(start / segment_seconds)
    at_boundary = np.abs(start - nearest * segment_seconds) <= BOUNDARY_SECONDS
    # The end may lie behind the new onset only by a rounding.
    silence = start - notes["end_time"][:-1]
    return _join(notes, same & at_boundary & (nearest > 0) & (silence < gap))


def settle_programs(notes: np.ndarray, share: float) -> np.ndarray:
    """Passes the pitched notes [n] of rare programs to those that play around them.

    A program stays if all programs of its family, and of those beside it in General
    MIDI's order, are rare.

    Args:
      notes: note array.
      share: programs below this share of notes, and of their summed length, are rare.

    Returns:
      Note array. Where the program that takes a note has one there already, the two
      become one, or the first ends where the second begins.
    """
    programs, index = np.unique(notes["program"], return_inverse=True)
    if len(programs) < 2:
        return notes
    lengths = notes["end_time"] - notes["start_time"]
    counts = np.bincount(index)
    sounding = np.bincount(index, weights=lengths)
    classes = midi_class(programs)
    rare = (counts < share * counts.sum()) & (sounding < share * sounding.sum())
    notes = notes.copy()
    handed = np.zeros(len(notes), bool)
    for number in np.flatnonzero(rare):
        near = np.abs(classes - classes[number]) <= 1
        heirs = np.flatnonzero(near & ~rare)
        if not len(heirs):
            continue
        mine = index == number
        times = notes["start_time"][mine]
        activity = np.stack([_activity(notes[index == heir], times) for heir in heirs])
        # Where none of them plays nearby, the one that plays most does.
        activity += 1e-6 * sounding[heirs, None] / sounding.sum()
        notes["program"][mine] = programs[heirs[np.argmax(activity, axis=0)]]
        handed |= mine
    return _settle_overlaps(notes, handed)


def _activity(notes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns how many seconds notes sound around each time, float64 [times]."""

    def sounded_before(moments):
        total = np.zeros(len(moments))
        for name, sign in (("start_time", 1), ("end_time", -1)):
            edges = np.sort(notes[name])
            sums = np.concatenate([[0.0], np.cumsum(edges)])
            passed = np.searchsorted(edges, moments)
            total += sign * (passed * moments - sums[passed])
        return total

    return sounded_before(times + AROUND_SECONDS) - sounded_before(
        times - AROUND_SECONDS
    )


def _settle_overlaps(notes: np.ndarray, handed: np.ndarray) -> np.ndarray:
    """Makes room for the notes [n] that were passed on; others stay as they are.

    A note of the same program and pitch that begins with one of them becomes one note
    with it; one that overlaps with it ends where the later one begins.
    """
    if not handed.any():
        return notes
    handed = handed[_pitch_order(notes)]
    notes, same = _by_pitch(notes)
    joined = same & (handed[1:] | handed[:-1])
    joined &= np.diff(notes["start_time"]) < UNISON_SECONDS
    handed = np.logical_or.reduceat(handed, _first_of_runs(joined))
    # Joining keeps the order, so the two still match.
    notes, same = _by_pitch(_join(notes, joined))
    notes["end_time"][:-1] = np.where(
        same & (handed[1:] | handed[:-1]),
        np.minimum(notes["end_time"][:-1], notes["start_time"][1:]),
        notes["end_time"][:-1],
    )
    return notes
