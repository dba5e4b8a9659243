"""Notes moved to a grid of note values.

    notes = quantize_notes(transcription.notes, transcription.beats, "1/16")
    notes = quantize_notes(transcription.notes, transcription.beats, "auto", swing=0.62)

Grids: `GRIDS`, where "1/8T" is a triplet of eighths, three to a quarter; "auto" chooses
for each beat among 1, 2, 4 and 8 (straight) and 3 and 6 (triplets) equal parts.

How "auto" chooses: onsets lie at a grid point plus an error that is normal with
`ONSET_ERROR` seconds, and each of a beat's n grid points is as probable as the others.
The n of the greatest likelihood is taken, where each n counts as often as it was found
in the whole piece before: few beats of a piece differ from the rest.

Rules:

1. Notes that start within `CHORD_SECONDS` of the first of them move together.
2. An end goes to the nearest grid point after its note's start.
3. Count and order of the starts stay. Where two notes of one pitch and instrument would
   start together, the later one goes to a finer grid.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mt3 import errors
from mt3.beats import Beats
from mt3.note_sequences import Note

AUTO = "auto"
GRIDS = ("1/4", "1/8", "1/16", "1/32", "1/4T", "1/8T", "1/16T", AUTO)
STRAIGHT = 0.5
SWING_RANGE = (0.5, 0.75)
CHORD_SECONDS = 0.03
ONSET_ERROR = 0.02
# Notes of one pitch start at least this part of a beat apart.
_CLOSEST = 1 / 64
# Equal parts of a beat among which "auto" chooses, and how often each is expected.
_PARTS = np.array([1, 2, 4, 8, 3, 6])
_EXPECTED = np.array([8.0, 8.0, 8.0, 0.5, 2.0, 0.5])
_FINEST = 8  # parts of a quarter: thirty-seconds
# Ends are less sure than onsets, which have chosen the grid: they may lie between.
_PARTS_FOR_ENDS = {1: 4, 2: 4, 4: 4, 8: 8, 3: 3, 6: 6}


def check_grid(grid: str | None, swing: float = STRAIGHT) -> None:
    """Checks the options of `quantize_notes`; None stands for no grid.

    Raises:
      ConfigError: an unknown grid, a swing out of range, or a swing without a grid.
    """
    if grid is not None:
        errors.check_choice("quantize", grid, GRIDS)
    # The share of a beat that its first half takes.
    errors.check_number("swing", swing, *SWING_RANGE)
    if swing != STRAIGHT and grid is None:
        raise errors.ConfigError("swing: it needs a grid to quantize to")


def quantize_notes(
    notes: Sequence[Note], beats: Beats, grid: str, *, swing: float = STRAIGHT
) -> list[Note]:
    """Returns the notes with starts and ends on a grid.

    Args:
      notes: the notes, in any order.
      beats: of the recording.
      grid: one of `GRIDS`.
      swing: share of a beat that its first half takes, 0.5 to 0.75.

    Returns:
      Notes in the order of `notes`.

    Raises:
      ConfigError: see `check_grid`.
    """
    check_grid(grid, swing)
    if not notes:
        return []
    beats = beats.from_zero()
    places = positions(notes, beats, grid, swing=swing)
    starts, ends = (beats.to_seconds(_swung(place, swing)) for place in places)
    return [
        dataclasses.replace(note, start_time=start, end_time=end)
        for note, start, end in zip(notes, starts.tolist(), ends.tolist(), strict=True)
    ]


def positions(
    notes: Sequence[Note],
    beats: Beats,
    grid: str,
    *,
    swing: float = STRAIGHT,
    unisons: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where notes lie on a grid.

    Args:
      notes: the notes, in any order; n > 0.
      beats: of the recording.
      grid: one of `GRIDS`.
      swing: as the notes are played; the positions are straight.
      unisons: whether notes of one pitch and instrument may start together.

    Returns:
      Starts and ends, float64 [n] each, in beats from the first one.
    """
    played = np.array([note.start_time for note in notes])
    exact = _straight(beats.to_beats(played), swing)
    starts = _together(played, exact)
    ends = _straight(beats.to_beats([note.end_time for note in notes]), swing)
    # One more beat than there are: a note may move to its beginning.
    count = int(_beat_of(np.maximum(starts, ends)).max()) + 2
    if grid == AUTO:
        parts = _choose_parts(starts, count, beats)
        parts_for_ends = np.array([_PARTS_FOR_ENDS[part] for part in parts.tolist()])
    else:
        parts = np.full(count, _parts_of(grid) * beats.quarters_per_beat)
        parts_for_ends = parts
    bars = _bars(beats, count)
    places = _Grid(parts, *bars).nearest(starts)
    if not unisons:
        _separate(notes, exact, places, _Grid(parts, *bars))
    for_ends = _Grid(parts_for_ends, *bars)
    return places, np.maximum(for_ends.nearest(ends), for_ends.after(places))


class _Grid(NamedTuple):
    """A grid, given for each beat.

    Attributes:
      parts: into how many parts it is divided.
      bars: where its bar begins, which is a grid point.
      next_bars: where the next one does.
    """

    parts: np.ndarray
    bars: np.ndarray
    next_bars: np.ndarray

    def nearest(self, places: np.ndarray, finer: int = 1) -> np.ndarray:
        """Returns the grid points nearest to positions, or those of a finer grid."""
        bar, next_bar, parts = self._at(places)
        point = bar + np.rint((places - bar) * parts * finer) / (parts * finer)
        return np.where(next_bar - places < np.abs(places - point), next_bar, point)

    def after(self, places: np.ndarray) -> np.ndarray:
        """Returns the first grid points behind positions."""
        bar, next_bar, parts = self._at(places)
        point = bar + (np.floor((places - bar) * parts + 1e-6) + 1) / parts
        return np.minimum(point, next_bar)

    def _at(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        beat = np.minimum(_beat_of(places), len(self.parts) - 1)
        return self.bars[beat], self.next_bars[beat], self.parts[beat]


def _bars(beats: Beats, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns start and end of the bar of each of the first `count` beats."""
    beat = np.arange(count)
    starts, ends = np.zeros(count), np.zeros(count)
    for first, length, _ in beats.time_signatures():
        here = beat >= first
        starts[here] = first + (beat[here] - first) // length * length
        ends[beat < first] = np.minimum(ends[beat < first], first)
        ends[here] = starts[here] + length
    return starts, ends


def _parts_of(grid: str) -> float:
    """Returns into how many parts a fixed grid divides a quarter."""
    value, triplet = re.fullmatch(r"1/(\d+)(T?)", grid).groups()
    return int(value) / 4 * (1.5 if triplet else 1.0)


def _beat_of(places: np.ndarray) -> np.ndarray:
    """Returns the beat in which each position lies; those before the first are in 0."""
    return np.maximum(np.floor(places + 1e-6), 0).astype(int)


def _together(seconds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Gives notes that start together the mean of their positions (rule 1)."""
    order = np.argsort(seconds, kind="stable")
    chord = np.zeros(len(seconds), int)
    first = -np.inf
    for before, index in zip([order[0], *order], order, strict=False):
        new = seconds[index] - first > CHORD_SECONDS
        if new:
            first = seconds[index]
        chord[index] = chord[before] + new
    return (np.bincount(chord, places) / np.maximum(np.bincount(chord), 1))[chord]


def _choose_parts(starts: np.ndarray, count: int, beats: Beats) -> np.ndarray:
    """Returns into how many parts to divide each of the first `count` beats."""
    starts = np.unique(starts)
    beat = _beat_of(starts)
    lengths = np.diff(beats.times)
    error = ONSET_ERROR / lengths[np.minimum(np.arange(count), len(lengths) - 1)]
    finest = _FINEST * beats.quarters_per_beat
    # Minus the logarithm of the likelihood [beats, choices].
    off = (starts[:, None] * _PARTS - np.rint(starts[:, None] * _PARTS)) / _PARTS
    costs = 0.5 * (off / error[beat, None]) ** 2 + np.log(_PARTS)
    costs = np.stack([np.bincount(beat, column, count) for column in costs.T], axis=1)
    costs[:, finest < _PARTS] = np.inf
    seen, expected = np.unique(beat), _EXPECTED
    for _ in range(3):
        chosen = np.argmin(costs - np.log(expected), axis=1)
        expected = _EXPECTED + np.bincount(chosen[seen], minlength=len(_PARTS))
    return _PARTS[chosen]


def _separate(
    notes: Sequence[Note], exact: np.ndarray, places: np.ndarray, grid: _Grid
) -> None:
    """Gives notes of one pitch and instrument different starts (rule 3), in place."""
    # By pitch and instrument: exact position and place of the latest note.
    latest: dict[tuple, tuple[float, float]] = {}
    for index in np.argsort(exact, kind="stable"):
        note, here = notes[index], float(exact[index])
        key = (note.pitch, note.is_drum or note.program, note.is_drum)
        before, place_before = latest.get(key, (-np.inf, -np.inf))
        if here == before:
            places[index] = place_before
            continue
        candidates = [places[index], *(grid.nearest(here, n) for n in (2, 4, 8)), here]
        places[index] = next(
            (place for place in candidates if place > place_before + 1e-9),
            place_before + _CLOSEST,
        )
        latest[key] = here, float(places[index])


def _swung(places: np.ndarray, swing: float) -> np.ndarray:
    """Returns straight positions as they are played: first halves of beats longer."""
    return _bent(places, STRAIGHT, swing)


def _straight(places: np.ndarray, swing: float) -> np.ndarray:
    """The inverse of `_swung`."""
    return _bent(places, swing, STRAIGHT)


def _bent(places: np.ndarray, old: float, new: float) -> np.ndarray:
    """Moves the point at which beats are divided."""
    beat = np.floor(places)
    return beat + np.interp(places - beat, [0.0, old, 1.0], [0.0, new, 1.0])
