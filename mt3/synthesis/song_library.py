"""A library of songs in memory, from which clips draw their music."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mt3.errors import DataError, MidiError
from mt3.files import atomic_file
from mt3.midi.reader import Song, find_midi, read_song

_LEAST_NOTES = 8


class Library:
    """Songs in memory, by kind.

    Args:
      songs: the songs; those with fewer than 8 notes are dropped.

    Attributes:
      songs: the songs that were not dropped.
      bands: indices of songs with drums and at least one pitched part.
      scores: indices of songs with pitched parts only.
      drums: indices of songs with drums only.
    """

    def __init__(self, songs: Sequence[Song]):
        self.songs = [song for song in songs if len(song.notes) >= _LEAST_NOTES]
        self.bands, self.scores, self.drums = [], [], []
        for index, song in enumerate(self.songs):
            is_drum = song.notes["is_drum"]
            if is_drum.all():
                self.drums.append(index)
            elif is_drum.any():
                self.bands.append(index)
            else:
                self.scores.append(index)
        self._chances: dict[str, np.ndarray] = {}

    def draw(self, rng: np.random.Generator, kind: str) -> Song:
        """Draws a song of a kind: "bands", "scores", "drums" or "pitched".

        The chance of a folder is proportional to the square root of its number of
        notes, and so is that of a song in it, so that neither large folders nor long
        pieces dominate.

        Raises:
          DataError: if the library has no such song.
        """
        pool = self._pool(kind)
        if not pool:
            raise DataError(f"The MIDI folders contain no songs of kind {kind!r}.")
        if kind not in self._chances:
            self._chances[kind] = np.cumsum(self._weights(pool))
        chances = self._chances[kind]
        place = int(np.searchsorted(chances, rng.random() * chances[-1], "right"))
        return self.songs[pool[min(place, len(pool) - 1)]]

    def has(self, kind: str) -> bool:
        """Tells whether there is any song of a kind; see `draw`."""
        return bool(self._pool(kind))

    def _pool(self, kind: str) -> list[int]:
        if kind == "pitched":
            return self.scores + self.bands
        return getattr(self, kind)

    def _weights(self, pool: list[int]) -> np.ndarray:
        sizes = np.array([len(self.songs[i].notes) for i in pool], float)
        folders = [str(Path(self.songs[i].name).parent) for i in pool]
        _, which = np.unique(folders, return_inverse=True)
        roots = np.sqrt(sizes)
        folder_notes = np.bincount(which, sizes)
        folder_roots = np.bincount(which, roots)
        return np.sqrt(folder_notes)[which] * roots / folder_roots[which]


def load_library(
    folders: Iterable[str | os.PathLike], cache: str | os.PathLike | None = None
) -> tuple[Library, list[str]]:
    """Reads all MIDI files of some folders.

    Args:
      folders: MIDI folders or files.
      cache: a file (.npz) for the notes, so that the next call with the same files
        need not parse them again.

    Returns:
      The library, and one message for each file that could not be read.

    Raises:
      DataError: if no file can be read.
    """
    problems: list[str] = []
    paths = find_midi(folders, log=problems.append)
    stamp = hashlib.sha256(
        json.dumps([(str(p), _size(p)) for p in paths]).encode()
    ).hexdigest()
    if cache is not None and Path(cache).is_file():
        with np.load(cache) as stored:
            if str(stored["stamp"]) == stamp:
                return Library(_unpack(stored)), stored["problems"].tolist()
    songs = []
    for path in paths:
        try:
            songs.append(read_song(path))
        except MidiError as error:
            problems.append(str(error))
        except MemoryError:
            problems.append(f"{path}: not enough memory for it")
    if not songs:
        raise DataError(f"None of {len(paths)} MIDI files can be read: {problems[0]}")
    if cache is not None:
        _store(Path(cache), songs, stamp, problems)
    return Library(songs), problems


def _size(path: Path) -> int:
    """Returns a file's size, or -1 for what only opening will tell about."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _unpack(stored: np.lib.npyio.NpzFile) -> list[Song]:
    notes, offsets = stored["notes"], stored["offsets"]
    return [
        Song(str(name), notes[offsets[i] : offsets[i + 1]], float(tempo))
        for i, (name, tempo) in enumerate(
            zip(stored["names"], stored["tempos"], strict=True)
        )
    ]


def _store(path: Path, songs: list[Song], stamp: str, problems: list[str]) -> None:
    sizes = [0] + [len(song.notes) for song in songs]
    with atomic_file(path) as file:
        np.savez(
            file,
            stamp=np.array(stamp),
            problems=np.array(problems, str),
            names=np.array([song.name for song in songs], str),
            tempos=np.array([song.beats_per_minute for song in songs]),
            offsets=np.cumsum(sizes),
            notes=np.concatenate([song.notes for song in songs]),
        )
