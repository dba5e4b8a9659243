"""The key of a piece, by the correlation of its pitch classes with key profiles.

Method and profiles: Krumhansl and Kessler (1982), Krumhansl, "Cognitive Foundations of
Musical Pitch" (1990), chapter 4. Each pitch class counts as long as it sounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mt3.note_sequences import Note

# How well each pitch class fits a key on C, as listeners rated it.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
# Names along the circle of fifths, beginning with seven flats.
_NAMES = (
    "Cb Gb Db Ab Eb Bb F C G D A E B F# C#",
    "Abm Ebm Bbm Fm Cm Gm Dm Am Em Bm F#m C#m G#m D#m A#m",
)
_MOST_FIFTHS = 7


class Key(NamedTuple):
    """A key signature.

    Attributes:
      fifths: sharps (positive) or flats (negative), -7 to 7.
      minor: whether it is minor.
    """

    fifths: int
    minor: bool

    @property
    def name(self) -> str:
        """The key as MIDI libraries write it: "Eb", "F#m"."""
        return _NAMES[self.minor].split()[self.fifths + _MOST_FIFTHS]

    def transposed(self, semitones: int) -> Key:
        """Returns the key that lies this many semitones higher."""
        return _key((7 * self.fifths + semitones) % 12, self.minor)


def estimate_key(notes: Iterable[Note]) -> Key | None:
    """Returns the key that the pitched notes fit best; None without such notes."""
    sounding = np.zeros(12)
    for note in notes:
        if not note.is_drum:
            sounding[note.pitch % 12] += note.end_time - note.start_time
    if np.ptp(sounding) == 0.0:
        return None
    fits = [
        (np.corrcoef(np.roll(profile, tonic), sounding)[0, 1], tonic, minor)
        for minor, profile in ((False, _MAJOR), (True, _MINOR))
        for tonic in range(12)
    ]
    _, tonic, minor = max(fits)
    # A minor key has the signature of the major key three semitones above.
    return _key((tonic + 3 * minor) % 12, minor)


def _key(major_tonic: int, minor: bool) -> Key:
    """Returns the signature with the fewest accidentals; six are flats in minor."""
    fifths = 7 * major_tonic % 12
    return Key(fifths - 12 if fifths > 6 - minor else fifths, minor)
