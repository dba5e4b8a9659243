"""The notes of many MIDI files in one small file.

A machine should not spend its first minute on parsing. Times are
kept as whole steps of 10 microseconds and each song's as differences, in columns,
which the archive around them compresses to less than the MIDI files themselves.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mt3.errors import DataError, MidiError
from mt3.midi import note_arrays
from mt3.midi.reader import Song, find_midi, read_song

_STEPS_PER_SECOND = 100_000
_TIMES = ("start_time", "end_time")
_OTHERS = tuple(n for n in note_arrays.PART_DTYPE.names if n not in _TIMES)


def read_midi_folders(
    folders: Iterable[str | os.PathLike],
) -> tuple[list[Song], list[str]]:
    """Reads MIDI files, and names them without the path to their folder.

    Args:
      folders: MIDI files, and folders searched to any depth.

    Returns:
      The songs, and one message for each file that could not be read.

    Raises:
      DataError: if a folder is missing, or no file can be read.
    """
    songs, problems = [], []
    for folder in map(Path, folders):
        for path in find_midi([folder]):
            name = str(path.relative_to(folder.parent))
            try:
                songs.append(dataclasses.replace(read_song(path), name=name))
            except MidiError as error:
                problems.append(str(error))
    if problems and not songs:
        raise DataError(
            f"None of {len(problems)} MIDI files can be read: {problems[0]}"
        )
    return songs, problems


def write_songs(path: str | os.PathLike, songs: Sequence[Song]) -> None:
    """Writes songs to an .npz file; what packs it compresses it."""
    notes = [song.notes for song in songs] or [note_arrays.empty()]
    starts = [_steps(part["start_time"]) for part in notes]
    ends = [_steps(part["end_time"]) for part in notes]
    columns = {
        name: _narrow(np.concatenate([p[name] for p in notes])) for name in _OTHERS
    }
    columns["start"] = np.concatenate(
        [np.diff(s, prepend=s.dtype.type(0)) for s in starts]
    )
    columns["length"] = np.concatenate(
        [e - s for s, e in zip(starts, ends, strict=True)]
    )
    np.savez(
        path,
        song_names=np.array([song.name for song in songs], str),
        song_tempos=np.array([song.beats_per_minute for song in songs], float),
        song_sizes=np.array([len(song.notes) for song in songs], np.int32),
        **columns,
    )


def read_songs(path: str | os.PathLike) -> list[Song]:
    """Reads what `write_songs` wrote; times are those of the MIDI files to 5 us.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with np.load(path) as stored:
            columns = {name: stored[name] for name in stored.files}
        sizes = columns["song_sizes"]
        notes = np.zeros(len(columns["start"]), note_arrays.PART_DTYPE)
        for name in _OTHERS:
            notes[name] = columns[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read as a bundle's songs: {error}"
        ) from error
    ends = np.cumsum(sizes)
    songs = []
    for name, tempo, first, end in zip(
        columns["song_names"], columns["song_tempos"], ends - sizes, ends, strict=True
    ):
        own = notes[first:end]
        start = np.cumsum(columns["start"][first:end], dtype=np.int64)
        own["start_time"] = start / _STEPS_PER_SECOND
        own["end_time"] = (start + columns["length"][first:end]) / _STEPS_PER_SECOND
        songs.append(Song(str(name), own, float(tempo)))
    return songs


def _steps(times: np.ndarray) -> np.ndarray:
    return np.round(times * _STEPS_PER_SECOND).astype(np.int32)


def _narrow(values: np.ndarray) -> np.ndarray:
    fits = values.size == 0 or (values.min() >= 0 and values.max() <= 255)
    return values.astype(np.uint8) if fits else values
