"""How many beats a bar has, and which beat is its first.

Every candidate, a number of beats and a phase, is described by numbers (`FEATURES`):
how much more than on other beats the pitched notes, the bass, the bass drum, the snare,
long notes and new harmonies begin on its downbeats, and on the middle of a bar of
four; how alike beats are that lie a bar apart; and whether the music begins with a
bar. As in `levels`, a weighted sum is the score, with weights by
`scripts/fit_beats.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mt3.beats.levels import PARTS
from mt3.beats.onsets import KINDS, Onsets

LENGTHS = (2, 3, 4)
_SIGNALS = (*KINDS, "long", "harmony")
_LONGEST_BEATS = 4.0
# A note that ends this many beats after a beat does not sound in it.
_LINGERS = 0.1
# Beats by which an onset may miss the beat it belongs to.
_NEAR = 1.5 / PARTS
_MOST = 3.0

# Fitted by an earlier form of `scripts/fit_beats.py`, which was not run anew.
WEIGHTS = {
    "pitched downbeat": 1.27,
    "bass downbeat": 2.45,
    "kick downbeat": 0.20,
    "snare downbeat": -0.23,
    "long downbeat": 0.63,
    "harmony downbeat": 0.54,
    "pitched middle": -0.19,
    "bass middle": 1.57,
    "kick middle": 0.03,
    "snare middle": -1.12,
    "long middle": -1.30,
    "harmony middle": -2.08,
    "alike": 6.48,
    "alike two bars": 4.55,
    "begins": 2.09,
    "three": -1.13,
    "four": 0.52,
}
FEATURES = tuple(WEIGHTS)
_WEIGHTS = np.array(list(WEIGHTS.values()))
# Of three parts: this share of pitched notes begins on thirds, this many times more
# than on halves and quarters; and the first third is not much rarer than the second, as
# it is in a shuffle.
_THIRDS, _MORE_THAN_OTHERS, _BALANCE = 0.25, 1.5, 0.2


class Bar(NamedTuple):
    """Bars of one length.

    Attributes:
      length: beats.
      first: number of a beat that is a downbeat, less than `length`.
    """

    length: int
    first: int


def candidates() -> list[Bar]:
    """Returns all bars."""
    return [Bar(length, first) for length in LENGTHS for first in range(length)]


def choose(onsets: Onsets, position: np.ndarray, count: int) -> Bar:
    """Returns the likeliest bars.

    Args:
      onsets: of the recording.
      position: in beats, [n].
      count: number of beats; those at 0 to `count` - 1 are looked at.
    """
    described = describe(onsets, position, count)
    return candidates()[int(np.argmax(described @ _WEIGHTS))]


def describe(onsets: Onsets, position: np.ndarray, count: int) -> np.ndarray:
    """Returns `FEATURES` of all candidates, [candidates, features]."""
    # Where a bar has not room, what there is not is silence.
    count = max(count, LENGTHS[-1])
    signals = _signals(onsets, position, count)
    level = signals.mean(axis=1, keepdims=True)
    belief = level > 0
    relative = np.minimum(signals / np.where(belief, level, 1.0), _MOST)
    begins = int(np.round(position[0])) if len(position) else 0
    vectors = relative / (np.linalg.norm(relative, axis=0) + 1e-9)
    rows = []
    for length, first in candidates():
        down = relative[:, first::length].mean(axis=1) - belief[:, 0]
        middle = np.zeros(len(down))
        if length == 4:
            half = relative[:, (first + 2) % length :: length]
            middle = half.mean(axis=1) - belief[:, 0] if half.size else middle
        alike = [
            float((vectors[:, n:] * vectors[:, :-n]).sum(axis=0).mean())
            if count > n
            else 0.0
            for n in (length, 2 * length)
        ]
        begin = (begins - first) % length == 0
        rows.append([*down, *middle, *alike, begin, length == 3, length == 4])
    return np.array(rows, np.float64)


def _signals(onsets: Onsets, position: np.ndarray, count: int) -> np.ndarray:
    """Returns what begins on each beat, [signals, count]."""
    nearest = np.round(position).astype(np.int64)
    here = (np.abs(position - nearest) <= _NEAR) & (nearest >= 0) & (nearest < count)
    period = _seconds_of_beat(onsets.time, position)
    length = np.minimum((onsets.end - onsets.time) / period, _LONGEST_BEATS)
    rows = []
    for kind in KINDS:
        chosen = here & onsets.kinds[kind]
        rows.append(np.bincount(nearest[chosen], onsets.weight[chosen], count))
    chosen = here & onsets.kinds["pitched"]
    long = (onsets.weight * length)[chosen]
    rows.append(np.bincount(nearest[chosen], long, count))
    rows.append(_new_harmony(onsets, position, length, count))
    return np.array(rows)


def _seconds_of_beat(time: np.ndarray, position: np.ndarray) -> float:
    """Returns seconds of a beat, on average."""
    beats = float(position[-1] - position[0]) if len(position) else 0.0
    return float(time[-1] - time[0]) / beats if beats > 0 else 1.0


def _new_harmony(
    onsets: Onsets, position: np.ndarray, length: np.ndarray, count: int
) -> np.ndarray:
    """Returns how different the pitch classes of each beat are from the last one's."""
    pitched = onsets.kinds["pitched"]
    begin = np.clip(np.round(position[pitched]), 0, count).astype(np.int64)
    end = np.round(position + length - _LINGERS)[pitched]
    end = np.clip(np.maximum(end, begin + 1), 0, count).astype(np.int64)
    sounding = np.zeros((count + 1, 12))
    classes = onsets.pitch[pitched] % 12
    np.add.at(sounding, (begin, classes), 1.0)
    np.add.at(sounding, (end, classes), -1.0)
    sounding = np.cumsum(sounding[:count], axis=0)
    sounding /= np.linalg.norm(sounding, axis=1, keepdims=True) + 1e-9
    alike = (sounding[1:] * sounding[:-1]).sum(axis=1)
    heard = sounding.any(axis=1)
    new = np.where(heard[1:] & heard[:-1], 1.0 - alike, 0.0)
    return np.concatenate([[0.0], new])


def is_compound(onsets: Onsets, position: np.ndarray) -> bool:
    """Tells whether beats have three parts: 6/8, not a shuffle.

    Args:
      onsets: of the recording.
      position: in beats, [n].
    """
    pitched = onsets.kinds["pitched"]
    part = np.round(position[pitched] * PARTS).astype(np.int64) % PARTS
    share = np.bincount(part, onsets.weight[pitched], PARTS)
    first, second = share[4], share[8]
    others = share[6] + share[3] + share[9]
    return bool(
        first + second > _THIRDS * share.sum()
        and first + second > _MORE_THAN_OTHERS * others
        and first > _BALANCE * second
    )
