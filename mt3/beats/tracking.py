"""Finds the beats of a recording in its transcription.

1. The pulse: a grid of one tempo on which the onsets lie (`pulse`); where there is
   none, a series of pulses that follows the tempo (`following`).
2. The beat: a multiple of the pulse (`levels`).
3. The bar: a number of beats and a first one (`bars`). Beats of three parts, in bars
   of two or four, are written as 6/8, in eighths.

A given tempo leaves out step 2 but for the phase. Where nothing repeats (few notes,
speech, a drone), there are no beats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from mt3.beats import bars, following, levels, pulse
from mt3.beats.grid import Beats
from mt3.beats.onsets import Onsets
from mt3.note_sequences import Note

# Pulses can follow whatever there is, most closely where there are few onsets to each:
# the coherence that is asked of them, with this added for one onset per pulse.
_LEAST_FOLLOWED, _FOR_FEW = 0.5, 0.3
_PARTS = (1, 2, 3, 4, 6)
# Followed tempos are as far as this from a given one.
_SAME_TEMPO = 1.2
# A beat may come this much before the recording's beginning or after its end, beats.
_EARLY = 0.1


def track(
    notes: Iterable[Note] | np.ndarray,
    duration: float = 0.0,
    *,
    mode: str = "track",
    tempo: float | None = None,
    strength: np.ndarray | None = None,
) -> Beats | None:
    """Finds the beats of a recording.

    Args:
      notes: its notes.
      duration: its length, seconds; beats go to its end.
      mode: "track" decides between "steady", one tempo throughout, and "follow".
      tempo: beats per minute, if known.
      strength: of onsets, float32 [frames at `following.RATE`], for following; None
        for that of the notes.

    Returns:
      The beats; None where none are found.
    """
    onsets = Onsets.of(notes)
    found = None
    if len(onsets.chord_times()) >= pulse.FEWEST_ONSETS:
        found = _pulses(onsets, mode, tempo, strength)
    if found is None:
        return None if tempo is None else Beats.steady(tempo, seconds=duration)
    pulses, among = found
    points, period = pulses.to_beats(onsets.time), 60.0 / pulses.tempo
    beat = levels.choose(onsets, points, period, among)
    last = max(duration, float(onsets.time[-1]))
    ends = (pulses.to_beats([0.0, last]) - beat.first) / beat.multiple
    numbers = np.arange(math.ceil(ends[0] - _EARLY), math.floor(ends[1] + _EARLY) + 1)
    times = pulses.to_seconds(beat.first + beat.multiple * numbers)
    if len(times) < 2:
        return None
    return _in_bars(onsets, Beats(np.maximum(times, 0.0)))


def _pulses(
    onsets: Onsets, mode: str, tempo: float | None, strength: np.ndarray | None
) -> tuple[Beats, list[levels.Candidate]] | None:
    """Returns pulses, and which multiples of them may be the beats."""
    if tempo is not None and mode != "follow":
        grid = pulse.at_tempo(onsets, tempo)
        parts = round(60.0 / tempo / grid.period)
        beats = [levels.Candidate(float(n), float(parts)) for n in range(parts)]
        return grid.beats(), beats
    grid = pulse.find(onsets)
    if mode == "steady" or (mode == "track" and pulse.is_steady(onsets, grid)):
        if grid.coherence < pulse.chance(onsets):
            return None
        return grid.beats(), levels.candidates(grid.period)
    if strength is None:
        strength = following.envelope(onsets)
    times = following.follow(strength, tempo)
    if len(times) < pulse.FEWEST_ONSETS:
        return None
    pulses = Beats(times)
    few = _FOR_FEW * len(times) / len(onsets.chord_times())
    if _coherence(onsets, pulses) < _LEAST_FOLLOWED + few:
        return None
    near = (tempo / _SAME_TEMPO, tempo * _SAME_TEMPO) if tempo else ()
    among = levels.candidates(60.0 / pulses.tempo, *near)
    return (pulses, among) if among else None


def _coherence(onsets: Onsets, pulses: Beats) -> float:
    """Returns how well onsets lie on pulses or on parts of them, 0 to 1."""
    points = pulses.to_beats(onsets.time)
    weight = onsets.weight / onsets.weight.sum()
    return max(float(weight @ np.cos(2.0 * np.pi * parts * points)) for parts in _PARTS)


def _in_bars(onsets: Onsets, beats: Beats) -> Beats:
    """Numbers beats in bars; those of three parts become eighths."""
    position = beats.to_beats(onsets.time)
    count = len(beats.times)
    bar = bars.choose(onsets, position, count)
    if bar.length == 3 or not bars.is_compound(onsets, position):
        numbers = (np.arange(count) - bar.first) % bar.length + 1
        return dataclasses.replace(beats, numbers=numbers, beats_per_bar=bar.length)
    eighths = np.arange(3 * count - 2)
    return Beats(
        beats.to_seconds(eighths / 3.0),
        (eighths - 3 * bar.first) % 6 + 1,
        beats_per_bar=6,
        beat_unit=8,
    )
