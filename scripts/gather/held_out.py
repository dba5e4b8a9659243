"""Recognises tunes that must not be trained on, whatever their source.

Several collections contain the same tune, under other names, in another key or tempo,
with tracks in another order. The intervals of the parts stay the same, so tunes are
compared by sequences of intervals of their parts' upper line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np

from mt3.midi.reader import Song

# A run of this many intervals rarely occurs in another tune by chance, if it has at
# least this many different intervals.
_RUN = 12
_LEAST_KINDS = 4
# Two files are the same tune if they share this part of the smaller one's runs, and at
# least this many.
_SHARE = 0.2
_LEAST_RUNS = 8
# Onsets closer than this are one chord.
_CHORD_SECONDS = 0.03


class HeldOut:
    """Tunes to hold out.

    Args:
      songs: the tunes.
    """

    def __init__(self, songs: Iterable[Song]):
        self._tunes: dict[bytes, list[int]] = {}
        self._digests: dict[str, int] = {}
        self._names: list[str] = []
        self._sizes: list[int] = []
        for song in songs:
            runs = _runs(song.notes)
            for run in runs:
                self._tunes.setdefault(run, []).append(len(self._names))
            self._digests[digest(song.notes)] = len(self._names)
            self._names.append(song.name)
            self._sizes.append(len(runs))

    def __len__(self) -> int:
        """The number of tunes."""
        return len(self._names)

    def find(self, song: Song) -> str | None:
        """Returns the name of the held-out tune that a song equals, or None."""
        exact = self._digests.get(digest(song.notes))
        if exact is not None:
            return self._names[exact]
        runs = _runs(song.notes)
        found = Counter(tune for run in runs for tune in self._tunes.get(run, ()))
        for tune, count in found.most_common(1):
            smaller = min(len(runs), self._sizes[tune])
            if count >= _LEAST_RUNS and count >= _SHARE * smaller:
                return self._names[tune]
        return None


def digest(notes: np.ndarray) -> str:
    """Returns a hash of pitches and times (in steps of 20 ms from the first onset)."""
    order = np.lexsort((notes["pitch"], notes["start_time"]))
    start = notes["start_time"][order]
    grid = np.round((start - start[:1].sum()) / 0.02)
    rows = np.stack([grid, notes["pitch"][order], notes["is_drum"][order]])
    return hashlib.sha256(rows.astype("<i4").tobytes()).hexdigest()


def _runs(notes: np.ndarray) -> set[bytes]:
    """Returns all runs of intervals of each part and of the song's upper line."""
    pitched = notes[~notes["is_drum"]]
    runs = _part_runs(pitched)
    for track in np.unique(pitched["track"]).tolist():
        runs |= _part_runs(pitched[pitched["track"] == track])
    return runs


def _part_runs(part: np.ndarray) -> set[bytes]:
    order = np.lexsort((-part["pitch"].astype(int), part["start_time"]))
    start, pitch = part["start_time"][order], part["pitch"][order].astype(int)
    first = np.ones(len(part), bool)
    first[1:] = np.diff(start) > _CHORD_SECONDS
    intervals = np.clip(np.diff(pitch[first]), -60, 60).astype(np.int8)
    if len(intervals) < _RUN:
        return set()
    runs = np.lib.stride_tricks.sliding_window_view(intervals, _RUN)
    kinds = 1 + (np.diff(np.sort(runs, axis=1), axis=1) != 0).sum(axis=1)
    return {run.tobytes() for run in runs[kinds >= _LEAST_KINDS]}
