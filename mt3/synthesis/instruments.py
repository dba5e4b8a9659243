"""Properties of the General MIDI instruments: range, voices, ring time, frequency.

Ranges follow orchestration handbooks, slightly widened, as MIDI note numbers (60 is
middle C). The weights with which instruments are drawn follow what recordings contain.
"""

from __future__ import annotations

import numpy as np

from mt3.midi.general_midi import FAMILY_SIZE, family_programs
from mt3.vocabularies import NUM_PROGRAMS

# Lowest and highest pitch by the first program of each family, then of the programs
# that differ from their family.
_FAMILY_RANGES = {
    0: (24, 105),  # pianos
    8: (60, 96),  # chromatic percussion
    16: (36, 96),  # organs
    24: (40, 86),  # guitars
    32: (28, 60),  # basses
    40: (48, 90),  # bowed strings
    48: (36, 91),  # ensembles
    56: (52, 84),  # brass
    64: (50, 88),  # reeds
    72: (60, 96),  # pipes
    80: (40, 96),  # synth leads
    88: (36, 90),  # synth pads
    96: (40, 90),  # synth effects
    104: (48, 84),  # folk instruments
    112: (48, 84),  # percussive
    120: (48, 84),  # sound effects
}
# fmt: off
_RANGES = {
    0: (21, 108), 4: (28, 100), 5: (28, 100), 6: (29, 89), 7: (36, 96), 8: (60, 108),
    9: (72, 108), 11: (53, 89), 12: (45, 96), 13: (65, 108), 14: (60, 84), 20: (36, 84),
    21: (53, 89), 22: (60, 96), 23: (53, 89), 40: (55, 100), 41: (48, 91), 42: (36, 76),
    43: (28, 60), 46: (24, 103), 47: (36, 57), 52: (43, 84), 53: (43, 84), 56: (54, 86),
    57: (40, 74), 58: (28, 60), 59: (54, 84), 60: (41, 77), 64: (56, 88), 65: (49, 81),
    66: (44, 76), 67: (36, 69), 68: (58, 91), 69: (52, 81), 70: (34, 74), 71: (50, 91),
    72: (74, 108), 73: (60, 96), 74: (60, 96), 79: (60, 84), 87: (28, 72),
    109: (55, 81), 111: (58, 84), 114: (60, 84),
}
# fmt: on

# Seconds after which a struck or plucked note is inaudible, whatever its length in
# MIDI. Labels must not claim a sound that nobody hears.
# fmt: off
_RING_SECONDS = {
    0: 12.0, 6: 5.0, 7: 5.0, 8: 2.5, 9: 2.0, 10: 3.0, 11: 4.0, 12: 1.0, 13: 0.6,
    14: 4.0, 15: 2.0, 24: 5.0, 25: 5.0, 26: 5.0, 27: 6.0, 28: 0.6, 32: 4.0, 45: 0.7,
    46: 5.0, 47: 2.0, 55: 1.5, 104: 3.0, 105: 2.0, 106: 2.0, 107: 3.0, 108: 1.5,
    **dict.fromkeys(range(112, 120), 1.5),
}
# fmt: on

# One note at a time: solo winds, brass and voices.
_MONOPHONIC = frozenset([*range(56, 61), *range(64, 80), 53, 54, 109, 111])

# Weights of programs that are drawn freely; the others have 1. Programs that are common
# in recordings count most, effects without a clear pitch or attack little.
_COMMON = {
    **dict.fromkeys((0, 4, 24, 25, 26, 27, 32, 33, 40, 42, 48, 73), 3.0),
    **dict.fromkeys((1, 5, 29, 30, 56, 65, 66, 71, 52, 16, 18), 2.5),
    **dict.fromkeys((41, 60, 57, 61, 64, 68, 11, 46, 34, 35, 49, 50), 2.0),
    **dict.fromkeys((6, 8, 9, 12, 19, 36, 38, 39, 43, 58, 70, 80, 81), 1.5),
    **dict.fromkeys((31, 55, 86), 0.3),
    **dict.fromkeys(range(96, 104), 0.35),
    **dict.fromkeys(range(112, 120), 0.1),
    **dict.fromkeys(range(120, 128), 0.0),
}

# Weights of programs for solos: guitars, basses, bowed strings, harp, voices, brass,
# reeds, pipes, mallets, organs.
# fmt: off
_SOLOISTS = {
    24: 4.0, 25: 4.0, 26: 2.0, 27: 2.0, 29: 1.0, 30: 1.0, 32: 1.5, 33: 2.0, 40: 4.0,
    41: 2.0, 42: 3.0, 43: 1.0, 46: 1.5, 52: 1.0, 53: 1.0, 56: 2.5, 57: 1.5, 58: 0.7,
    60: 1.5, 64: 1.0, 65: 2.0, 66: 2.0, 67: 0.8, 68: 1.5, 70: 1.0, 71: 2.0, 72: 0.7,
    73: 3.0, 74: 1.0, 11: 1.0, 12: 1.0, 19: 1.5, 16: 1.0, 21: 1.0, 6: 1.5,
}
# fmt: on

_DRUM_KEYS = np.arange(35, 82)
# Kick, snares, side stick, hi-hats, toms, crash and ride are most common; the other
# keys have 0.3.
# fmt: off
_DRUM_WEIGHTS = {
    36: 8.0, 35: 2.0, 38: 8.0, 40: 2.0, 37: 2.0, 39: 1.5, 42: 8.0, 44: 2.0, 46: 3.0,
    49: 2.0, 57: 1.0, 51: 3.0, 53: 1.0, 59: 1.0, 41: 1.5, 43: 1.5, 45: 1.5, 47: 1.5,
    48: 1.5, 50: 1.5,
}
# fmt: on


def pitch_range(program: int) -> tuple[int, int]:
    """Returns the lowest and highest pitch that a program usually plays."""
    return _RANGES.get(program, _FAMILY_RANGES[family_programs(program)[0]])


def ring_seconds(program: int) -> float:
    """Returns the seconds after which a held note of a program is inaudible."""
    if program in _RING_SECONDS:
        return _RING_SECONDS[program]
    return _RING_SECONDS[0] if program < FAMILY_SIZE else float("inf")


def is_monophonic(program: int) -> bool:
    """Tells whether an instrument plays one note at a time."""
    return program in _MONOPHONIC


_CUMULATIVE = np.cumsum([_COMMON.get(program, 1.0) for program in range(NUM_PROGRAMS)])


def draw_program(rng: np.random.Generator, like: int | None = None) -> int:
    """Draws a program.

    Args:
      rng: source of randomness.
      like: a program whose family to stay in; None for any family.
    """
    low, high = 0.0, _CUMULATIVE[-1]
    if like is not None:
        family = family_programs(like)
        low = _CUMULATIVE[family[0] - 1] if family[0] else 0.0
        high = _CUMULATIVE[family[-1]]
        if high <= low:
            return like
    place = low + rng.random() * (high - low)
    return int(min(np.searchsorted(_CUMULATIVE, place, "right"), NUM_PROGRAMS - 1))


def draw_soloist(rng: np.random.Generator) -> int:
    """Draws a program for a solo: mostly instruments that people record alone."""
    if rng.random() < 0.4:
        return draw_program(rng)
    programs = np.array(list(_SOLOISTS))
    weights = np.array(list(_SOLOISTS.values()))
    return int(rng.choice(programs, p=weights / weights.sum()))


def draw_drum_keys(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws different General MIDI drum keys, the common ones more often."""
    weights = np.array([_DRUM_WEIGHTS.get(key, 0.3) for key in _DRUM_KEYS.tolist()])
    count = min(count, len(_DRUM_KEYS))
    return rng.choice(_DRUM_KEYS, size=count, replace=False, p=weights / weights.sum())
