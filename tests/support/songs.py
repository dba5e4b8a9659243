"""Songs as note arrays."""

from __future__ import annotations

import numpy as np

from mt3.midi import note_arrays


def overlaps(array):
    """Counts notes that begin before the last one of their key has ended."""
    last_end, count = {}, 0
    for note in array[np.argsort(array["start_time"], kind="stable")]:
        key = (int(note["program"]), bool(note["is_drum"]), int(note["pitch"]))
        count += note["start_time"] < last_end.get(key, -np.inf) - 1e-9
        last_end[key] = float(note["end_time"])
    return count


def song(rng, tracks=3, notes=40, drums=True):
    """A song with unlike tracks, the last of them drums."""
    parts = []
    for track in range(tracks):
        part = np.zeros(notes, note_arrays.PART_DTYPE)
        part["start_time"] = np.sort(rng.uniform(0, 10, notes))
        part["end_time"] = part["start_time"] + rng.uniform(0.05, 1, notes)
        part["pitch"] = rng.integers(40, 80, notes)
        part["velocity"] = 80
        part["program"] = (0, 33, 48)[track % 3]
        part["track"] = track
        parts.append(part)
    if drums:
        parts[-1]["is_drum"], parts[-1]["program"] = True, 0
    return note_arrays.sort(np.concatenate(parts))


def tune(seed, notes=60):
    """A tune of two parts and drums; every seed is another tune."""
    rng = np.random.default_rng(seed)
    parts = []
    for track, (program, low) in enumerate([(0, 60), (33, 36)]):
        part = np.zeros(notes, note_arrays.PART_DTYPE)
        part["start_time"] = np.arange(notes) * 0.25 + 0.5
        part["end_time"] = part["start_time"] + 0.2
        part["pitch"] = low + rng.integers(0, 20, notes)
        part["velocity"], part["program"], part["track"] = 80, program, track
        parts.append(part)
    drums = parts[0].copy()
    drums["pitch"], drums["is_drum"], drums["program"] = 38, True, 0
    return note_arrays.sort(np.concatenate([*parts, drums]))
