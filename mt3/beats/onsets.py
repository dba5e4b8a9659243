"""What beats are told from: the onsets of a recording's notes, by what plays them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from mt3.note_sequences import Note, note_array

KINDS = ("pitched", "bass", "kick", "snare")
"""Kinds of onsets; the bass is pitched, other drums have no kind."""

# General MIDI keys. Rim shots and claps are played where snares are.
_KICKS, _SNARES = (35, 36), (37, 38, 39, 40)
_BASS_PROGRAMS = range(32, 40)
_HIGHEST_BASS = 50
# Hats and other drums play between beats too, and are many.
_OTHER_DRUMS_WEIGHT = 0.5
_LEAST_WEIGHT = 0.3
# Onsets of a chord lie this near to one another.
CHORD_SECONDS = 0.03


@dataclasses.dataclass(frozen=True)
class Onsets:
    """Onsets by time.

    Attributes:
      time: seconds, float64 [n], ascending.
      end: seconds, float64 [n].
      pitch: MIDI, int [n].
      weight: how much each counts, by its velocity and instrument, [n].
      kinds: which belong to each of `KINDS`, bool [n].
    """

    time: np.ndarray
    end: np.ndarray
    pitch: np.ndarray
    weight: np.ndarray
    kinds: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, notes: Iterable[Note] | np.ndarray) -> Onsets:
        """Sorts notes (`Note`s, or an array of `NOTE_DTYPE`) into kinds."""
        array = note_array(notes if isinstance(notes, np.ndarray) else list(notes))
        array = array[np.argsort(array["start_time"], kind="stable")]
        drums, pitch = array["is_drum"], array["pitch"].astype(np.int64)
        low = (pitch <= _HIGHEST_BASS) | np.isin(array["program"], _BASS_PROGRAMS)
        kinds = {
            "pitched": ~drums,
            "bass": ~drums & low,
            "kick": drums & np.isin(pitch, _KICKS),
            "snare": drums & np.isin(pitch, _SNARES),
        }
        weight = _LEAST_WEIGHT + array["velocity"] / 127.0
        others = drums & ~kinds["kick"] & ~kinds["snare"]
        weight = np.where(others, _OTHER_DRUMS_WEIGHT, 1.0) * weight
        return cls(array["start_time"], array["end_time"], pitch, weight, kinds)

    def __len__(self) -> int:
        """Number of onsets."""
        return len(self.time)

    def chord_times(self) -> np.ndarray:
        """Returns the times at which something begins: chords count once; [m]."""
        if not len(self.time):
            return self.time
        first = np.diff(self.time, prepend=-np.inf) > CHORD_SECONDS
        return self.time[first]
