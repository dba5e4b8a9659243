"""Notes as a structured array: what the synthesis code works on.

A list of `Note` objects is the public form; the array form makes transposing,
windowing and re-orchestrating thousands of notes a matter of a few NumPy calls.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mt3.note_sequences import NOTE_DTYPE, Note, array_to_notes, notes_to_array

# `NOTE_DTYPE` and the part: it separates two parts played by the same program (two
# violins, two hands) until notes are re-orchestrated.
PART_DTYPE = np.dtype([*NOTE_DTYPE.descr, ("track", "<u2")])

# Two onsets of one (program, pitch) closer than this are one note: the token grid
# has steps of 10 ms, and a unison of two parts is heard once.
UNISON_SECONDS = 0.02


def empty() -> np.ndarray:
    """Returns a note array without notes."""
    return np.zeros(0, PART_DTYPE)


def to_array(notes: Iterable[Note] | np.ndarray) -> np.ndarray:
    """Turns notes into an array [n] of `PART_DTYPE`.

    Args:
      notes: `Note` objects, or an array of `NOTE_DTYPE` or `PART_DTYPE`.
    """
    array = notes if isinstance(notes, np.ndarray) else notes_to_array(list(notes))
    if array.dtype == PART_DTYPE:
        return array
    parts = np.zeros(len(array), PART_DTYPE)
    for name in NOTE_DTYPE.names:
        parts[name] = array[name]
    return parts


def without_tracks(array: np.ndarray) -> np.ndarray:
    """Returns the notes as an array [n] of `NOTE_DTYPE`."""
    plain = np.zeros(len(array), NOTE_DTYPE)
    for name in NOTE_DTYPE.names:
        plain[name] = array[name]
    return plain


def to_notes(array: np.ndarray) -> list[Note]:
    """Turns a note array into a list of `Note`, in the array's order."""
    return array_to_notes(without_tracks(array))


def part_keys(array: np.ndarray) -> np.ndarray:
    """Returns one integer per note that names its part: program, or 128 for drums."""
    return np.where(array["is_drum"], 128, array["program"].astype(np.int64))


def parts(array: np.ndarray) -> list[tuple[int, bool]]:
    """Returns the (program, is_drum) pairs that play, in rising order, drums last."""
    return [
        (0, True) if key == 128 else (int(key), False)
        for key in np.unique(part_keys(array))
    ]


def sort(array: np.ndarray) -> np.ndarray:
    """Returns the notes ordered by start time, then part, then pitch."""
    return array[np.lexsort((array["pitch"], part_keys(array), array["start_time"]))]


def resolve_overlaps(
    array: np.ndarray, unison_seconds: float = UNISON_SECONDS
) -> np.ndarray:
    """Makes notes of one (program, pitch) follow each other without overlap.

    A note that is struck again ends at the new onset. Onsets closer than
    `unison_seconds` become one note: the first start, the last end and the
    greatest velocity.

    Args:
      array: note array in any order.
      unison_seconds: what counts as the same onset.

    Returns:
      A new note array, sorted by start time.
    """
    if not len(array):
        return array.copy()
    keys = part_keys(array) * 128 + array["pitch"]
    order = np.lexsort((array["start_time"], keys))
    array, keys = array[order].copy(), keys[order]
    new_run = np.ones(len(array), bool)
    new_run[1:] = (keys[1:] != keys[:-1]) | (
        array["start_time"][1:] - array["start_time"][:-1] >= unison_seconds
    )
    first = np.flatnonzero(new_run)
    ends = np.maximum.reduceat(array["end_time"], first)
    velocities = np.maximum.reduceat(array["velocity"], first)
    array, keys = array[first], keys[first]
    array["end_time"], array["velocity"] = ends, velocities
    same = keys[1:] == keys[:-1]
    array["end_time"][:-1] = np.where(
        same,
        np.minimum(array["end_time"][:-1], array["start_time"][1:]),
        array["end_time"][:-1],
    )
    return sort(array)


def window(array: np.ndarray, start: float, end: float) -> np.ndarray:
    """Returns the notes that sound in [start, end), times relative to `start`.

    Notes that began earlier keep their true, then negative, start time; notes that
    end later keep their true end. Drum hits belong to the window of their onset.
    """
    inside = (array["start_time"] < end) & (array["start_time"] >= start)
    held = (
        (array["start_time"] < start) & (array["end_time"] > start) & ~array["is_drum"]
    )
    chosen = array[inside | held].copy()
    chosen["start_time"] -= start
    chosen["end_time"] -= start
    return chosen
