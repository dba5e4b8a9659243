"""The `synthetic` data set: songs rendered from random notes or from MIDI files.

The records are those of one's own data (`mt3.prepare.folder`). A song is a function
of the seed and its number; the soundfonts take turns. Songs are divided by their
number: the last ones are for test, those before them for validation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt3.errors import ConfigError, DataError
from mt3.midi import note_arrays, reader
from mt3.prepare import recordings, sequences
from mt3.prepare.archives import random_seed
from mt3.prepare.folder import SPLITS, check_shares
from mt3.prepare.items import (
    DEFAULT_SAMPLE_RATE,
    Archive,
    Item,
    Listing,
    Record,
    Settings,
)
from mt3.synthesis import random_notes, recipes
from mt3.synthesis.soundfont import (
    check_length,
    default_soundfont,
    open_soundfont,
)

DEFAULT_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Synthetic(Archive):
    """See `mt3.prepare.items.Archive`."""

    settings: Settings
    songs: int
    seconds: float | None
    soundfonts: tuple[Path, ...]
    midi: tuple[Path, ...] = ()
    validation: float = 0.1
    test: float = 0.1
    dataset: str = "synthetic"

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        songs: int | None = None,
        seconds: float | None = None,
        soundfonts: Sequence[str | os.PathLike[str]] = (),
        midi: str | os.PathLike[str] | None = None,
        validation: float = 0.1,
        test: float = 0.1,
    ) -> Synthetic:
        """Checks what to render, and that it can be rendered.

        Args:
          settings: see `Settings`; a sample rate of 0 is 16 kHz.
          songs: how many; with `midi` by default one of each file, and files are
            used again, with other sounds, if more are asked for.
          seconds: length of a random song (default: 30), or the most of a MIDI file
            (default: all).
          soundfonts: .sf2 or .sf3 files (default: the one of pretty_midi).
          midi: a folder of MIDI files; without it notes are random.
          validation: share of the songs for validation.
          test: share of the songs for test.

        Raises:
          ConfigError: numbers that make no sense.
          DataError: no synthesizer is installed, a soundfont cannot be read, or there
            are no MIDI files.
        """
        check_shares(validation, test)
        files = tuple(reader.find_midi([midi])) if midi is not None else ()
        songs = (len(files) or None) if songs is None else songs
        if songs is None or songs < 1:
            raise ConfigError(
                f"prepare synthetic: {songs or 'no'} songs; expected a number of them "
                "(--songs), or MIDI files (--midi)"
            )
        if seconds is None and not files:
            seconds = DEFAULT_SECONDS
        if seconds is not None and not seconds > 0:
            raise ConfigError(
                f"prepare synthetic: songs of {seconds:g} s; expected more than 0"
            )
        rate = settings.sample_rate or DEFAULT_SAMPLE_RATE
        check_length(seconds or 0.0, rate, "prepare synthetic")
        settings = dataclasses.replace(settings, sample_rate=rate)
        fonts = tuple(Path(font) for font in soundfonts) or (Path(default_soundfont()),)
        for font in fonts:
            open_soundfont(font, rate)
        return cls(settings, songs, seconds, fonts, files, validation, test)

    def options(self) -> dict[str, Any]:
        """See `Archive`."""
        return {
            "songs": self.songs,
            "seconds": self.seconds,
            "soundfonts": [_identity(font) for font in self.soundfonts],
            "midi": [path.name for path in self.midi],
            "validation": self.validation,
            "test": self.test,
        }

    def listing(self) -> Listing:
        """See `Archive`."""
        items = []
        for number in range(self.songs):
            path = self.midi[number % len(self.midi)] if self.midi else None
            name = f"song_{number:05d}" + (f"_{path.stem}" if path else "")
            items.append(Item(name, (path,) if path else (), {"number": number}))
        counts = {}
        for split, share in (("validation", self.validation), ("test", self.test)):
            wanted = max(1, round(share * self.songs)) if share else 0
            counts[split] = min(wanted, max(0, self.songs - 1 - sum(counts.values())))
        first = self.songs - sum(counts.values())
        second = first + counts["validation"]
        parts = items[:first], items[first:second], items[second:]
        return Listing(dict(zip(SPLITS, parts, strict=True)))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        number = item.data["number"]
        rng = np.random.default_rng(random_seed(self.settings.seed, item.id))
        font_path = self.soundfonts[number % len(self.soundfonts)]
        font = open_soundfont(font_path, self.settings.sample_rate)
        if item.files:
            notes = reader.read_song(item.files[0]).notes
            if self.seconds is not None:
                notes = note_arrays.window(notes, 0.0, self.seconds)
        else:
            notes = random_notes.random_notes(rng, seconds=self.seconds)
        sounds = recipes.draw_sounds(rng, notes, font)
        source = item.files[0] if item.files else item.id
        notes, samples = font.render_song(notes, sounds, name=str(source))
        if not len(notes):
            raise DataError(f"{source}: no notes that {font_path.name} has a sound for")
        sequence = sequences.from_notes(note_arrays.to_notes(notes), name=item.id)
        rate = self.settings.sample_rate
        features = recordings.file_features(item.id, samples, rate, sequence)
        length = len(samples) / rate
        yield Record(item.id, features, length, len(sequence.notes))


def _identity(font: Path) -> str:
    """Returns a soundfont's name with a hash of its first part and its size."""
    with open(font, "rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 20)).hexdigest()[:12]
    return f"{font.name} ({font.stat().st_size} bytes, {digest})"
