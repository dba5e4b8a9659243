"""How General MIDI instruments are written: clefs, transposition, strings, drums.

Transpositions are those of the common instrument of a name: B flat for trumpet and
clarinet, F for the horn. Guitars and basses sound an octave below what is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MOST_FRETS = 24


class Clef(NamedTuple):
    """A clef.

    Attributes:
      sign: MusicXML name of its sign.
      line: the line that it stands on, counted from below.
      octave: by how many octaves notes lie above where they are written.
    """

    sign: str
    line: int
    octave: int = 0


TREBLE, ALTO, BASS = Clef("G", 2), Clef("C", 3), Clef("F", 4)
PERCUSSION, TABLATURE = Clef("percussion", 2), Clef("TAB", 5)
# Median pitches that a clef is read well at, lowest and highest.
_RANGES = {
    BASS._replace(octave=-1): (0, 38),
    BASS: (38, 57),
    TREBLE: (57, 88),
    TREBLE._replace(octave=1): (88, 128),
    ALTO: (50, 74),
}
# An instrument's own clef stays for parts that are up to this much out of its range.
_LENIENCE = 7


@dataclasses.dataclass(frozen=True)
class Instrument:
    """How a part is written.

    Attributes:
      clefs: of its staves, from above; None to be chosen by the notes.
      transposition: semitones from written to sounding pitch.
      strings: open strings as they sound, from the lowest; empty for other instruments.
    """

    clefs: tuple[Clef, ...] | None = None
    transposition: int = 0
    strings: tuple[int, ...] = ()


class Drum(NamedTuple):
    """Where a drum stands on a percussion staff, and its notehead.

    Attributes:
      step: note name in the treble clef.
      octave: of that note.
      head: MusicXML notehead.
      foot: whether feet play it: its stem points down.
    """

    step: str
    octave: int
    head: str = "normal"
    foot: bool = False


_OCTAVE_UP, _OCTAVE_DOWN, _B_FLAT = 12, -12, -2
_KEYBOARD = Instrument((TREBLE, BASS))
_GUITAR = Instrument((TREBLE,), _OCTAVE_DOWN, (40, 45, 50, 55, 59, 64))
_BASS_GUITAR = Instrument((BASS,), _OCTAVE_DOWN, (28, 33, 38, 43))
_BASS_STAFF = Instrument((BASS,))
_TREBLE_STAFF = Instrument((TREBLE,))

# By General MIDI program; the others have one staff, whose clef the notes choose.
_INSTRUMENTS: dict[int, Instrument] = {
    **dict.fromkeys((*range(8), *range(16, 20), 46), _KEYBOARD),
    8: Instrument((TREBLE,), _OCTAVE_UP),
    9: Instrument((TREBLE,), 24),
    13: Instrument((TREBLE,), _OCTAVE_UP),
    **dict.fromkeys(range(24, 32), _GUITAR),
    32: Instrument((BASS,), _OCTAVE_DOWN),
    **dict.fromkeys(range(33, 40), _BASS_GUITAR),
    40: _TREBLE_STAFF,
    41: Instrument((ALTO,)),
    42: _BASS_STAFF,
    43: Instrument((BASS,), _OCTAVE_DOWN),
    47: _BASS_STAFF,
    56: Instrument((TREBLE,), _B_FLAT),
    57: _BASS_STAFF,
    58: _BASS_STAFF,
    59: Instrument((TREBLE,), _B_FLAT),
    60: Instrument((TREBLE,), -7),
    64: Instrument((TREBLE,), _B_FLAT),
    65: Instrument((TREBLE,), -9),
    66: Instrument((TREBLE,), -14),
    67: Instrument((TREBLE,), -21),
    68: _TREBLE_STAFF,
    69: Instrument((TREBLE,), -7),
    70: _BASS_STAFF,
    71: Instrument((TREBLE,), _B_FLAT),
    72: Instrument((TREBLE,), _OCTAVE_UP),
    73: _TREBLE_STAFF,
}

# By pitch of the General MIDI percussion map, after the Percussive Arts Society's guide
# (Weinberg 1998): drums are round, cymbals crosses.
_DRUMS: dict[int, Drum] = {
    35: Drum("F", 4, foot=True),
    36: Drum("F", 4, foot=True),
    37: Drum("C", 5, "x"),
    38: Drum("C", 5),
    39: Drum("C", 5, "triangle"),
    40: Drum("C", 5),
    41: Drum("G", 4),
    42: Drum("G", 5, "x"),
    43: Drum("A", 4),
    44: Drum("D", 4, "x", foot=True),
    45: Drum("B", 4),
    46: Drum("G", 5, "circle-x"),
    47: Drum("D", 5),
    48: Drum("E", 5),
    49: Drum("A", 5, "x"),
    50: Drum("F", 5),
    51: Drum("F", 5, "x"),
    52: Drum("B", 5, "x"),
    53: Drum("F", 5, "diamond"),
    54: Drum("D", 5, "triangle"),
    55: Drum("B", 5, "x"),
    56: Drum("E", 5, "triangle"),
    57: Drum("B", 5, "x"),
    59: Drum("F", 5, "x"),
}
# Two sounds of one drum: of those that are heard together, one is written.
SAME_DRUM = {35: 36, 40: 38}
_OTHER_DRUM = Drum("E", 5, "diamond")


def of_program(program: int) -> Instrument:
    """Returns how a General MIDI program (0..127) is written."""
    return _INSTRUMENTS.get(program, Instrument())


def drum(pitch: int) -> Drum:
    """Returns how a percussion pitch is written."""
    return _DRUMS.get(pitch, _OTHER_DRUM)


def choose_clef(pitches: Sequence[int], usual: Clef | None = None) -> Clef:
    """Returns the clef for written pitches: the usual one unless they lie far off."""
    middle = float(np.median(pitches)) if len(pitches) else 60.0
    if usual is not None:
        low, high = _RANGES[usual]
        if low - _LENIENCE <= middle <= high + _LENIENCE:
            return usual
    return next(c for c, (low, high) in _RANGES.items() if low <= middle < high)


def fingering(
    chords: list[list[int]], strings: tuple[int, ...]
) -> list[list[tuple[int, int]]]:
    """Gives every note a string and a fret.

    Each chord takes, from the highest note on, the free string on which the hand moves
    least; an open string needs no hand. Notes below the lowest string, or more of them
    than strings, have no place.

    Args:
      chords: sounding pitches that start together, in order of time.
      strings: open strings as they sound, from the lowest.

    Returns:
      For each chord, (string, fret) of each pitch; string 1 is the highest, 0 is none.
    """
    hand, placed = 0.0, []
    for pitches in chords:
        free = dict(enumerate(reversed(strings), 1))
        places: dict[int, tuple[int, int]] = {}
        for pitch in sorted(set(pitches), reverse=True):
            frets = [(s, pitch - open_) for s, open_ in free.items()]
            frets = [(s, fret) for s, fret in frets if 0 <= fret <= _MOST_FRETS]
            if not frets:
                continue
            string, fret = min(
                frets, key=lambda f: (abs(f[1] - hand) if f[1] else 0.5) + 0.3 * f[1]
            )
            places[pitch] = string, fret
            del free[string]
        pressed = [fret for _, fret in places.values() if fret]
        if pressed:
            hand = 0.5 * hand + 0.5 * min(pressed)
        placed.append([places.get(pitch, (0, 0)) for pitch in pitches])
    return placed
