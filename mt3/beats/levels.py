"""Which multiple of a pulse is the beat: octave errors, and beats off by half.

Every candidate, a period and a phase, is described by numbers (`FEATURES`) that say how
the notes lie on its beats: what begins on the beat, halfway, on the first and the last
third and quarter of it, of all pitched notes, the bass, the bass drum and the snare (a
shuffle has last thirds, and few first ones); whether every other beat is stronger;
whether long notes begin on it; how many notes there are in a beat, and how many beats
have one; the tempo. A weighted sum of them is its score.
`scripts/fit_beats.py` fits the weights to MIDI files whose beats are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mt3.beats.onsets import KINDS, Onsets

# Beats per minute that are considered.
SLOWEST, FASTEST = 38.0, 250.0
# Points of a pulse in a beat: (multiple, step between phases).
_MULTIPLES = (
    *((1.0 / n, 1.0 / n) for n in (4, 3, 2)),
    (2.0 / 3.0, 1.0 / 3.0),
    (1.0, 1.0),
    (1.5, 0.5),
    *((float(n), 1.0) for n in (2, 3, 4, 6, 8, 9, 12, 16)),
)
# Parts of a beat that are distinguished.
PARTS = 12
_USUAL_TEMPO = 110.0
# Shares of this many onsets are half believed.
_FEW = 8.0
_LONGEST_BEATS = 4.0

# Fitted by an earlier form of `scripts/fit_beats.py`, which was not run anew.
WEIGHTS = {
    "pitched on": -5.66,
    "pitched half": 2.64,
    "pitched first third": -2.71,
    "pitched last third": 8.50,
    "pitched first quarter": -1.65,
    "pitched last quarter": 2.80,
    "pitched alternating": -2.03,
    "bass on": 1.75,
    "bass half": -0.17,
    "bass first third": -1.55,
    "bass last third": -4.82,
    "bass first quarter": -2.52,
    "bass last quarter": 1.40,
    "bass alternating": 0.83,
    "kick on": 1.23,
    "kick half": -0.57,
    "kick first third": -5.87,
    "kick last third": 3.78,
    "kick first quarter": -1.52,
    "kick last quarter": 1.01,
    "kick alternating": 0.89,
    "snare on": 4.75,
    "snare half": 2.74,
    "snare first third": -2.58,
    "snare last third": 0.80,
    "snare first quarter": -0.63,
    "snare last quarter": 2.53,
    "snare alternating": 1.44,
    "long on": 7.01,
    "long half": -2.64,
    "long alternating": 1.08,
    "tempo": 0.81,
    "tempo squared": -3.77,
    "density": -0.06,
    "density squared": -0.46,
    "occupied": 4.65,
    "occupied squared": 3.40,
    "snare interval squared": -0.38,
}
FEATURES = tuple(WEIGHTS)
_WEIGHTS = np.array(list(WEIGHTS.values()))


class Candidate(NamedTuple):
    """Beats, in points of a pulse.

    Attributes:
      first: point of a beat.
      multiple: points from beat to beat.
    """

    first: float
    multiple: float

    def positions(self, points: np.ndarray) -> np.ndarray:
        """Returns positions in beats of positions in points of the pulse."""
        return (points - self.first) / self.multiple


def candidates(
    period: float, slowest: float = SLOWEST, fastest: float = FASTEST
) -> list[Candidate]:
    """Returns the beats that a pulse may have.

    Args:
      period: seconds between the points of the pulse.
      slowest: least tempo, beats per minute.
      fastest: greatest tempo.
    """
    found = []
    for multiple, step in _MULTIPLES:
        if slowest <= 60.0 / (multiple * period) <= fastest:
            for phase in range(round(multiple / step)):
                found.append(Candidate(phase * step, multiple))
    return found


def choose(
    onsets: Onsets, points: np.ndarray, period: float, among: Sequence[Candidate]
) -> Candidate:
    """Returns the likeliest beats.

    Args:
      onsets: of the recording.
      points: their positions in points of the pulse, [n].
      period: seconds between these, on average.
      among: what to choose from, at least one.
    """
    scores = [
        describe(onsets, candidate.positions(points), candidate.multiple * period)
        @ _WEIGHTS
        for candidate in among
    ]
    return among[int(np.argmax(scores))]


def describe(onsets: Onsets, position: np.ndarray, period: float) -> np.ndarray:
    """Returns `FEATURES` of beats.

    Args:
      onsets: of the recording.
      position: of the onsets, in beats [n].
      period: seconds of a beat.
    """
    part = np.round(position * PARTS).astype(np.int64)
    place = part % (2 * PARTS)
    features: list[float] = []
    for kind in KINDS:
        chosen = onsets.kinds[kind]
        features += _shares(place[chosen], onsets.weight[chosen])
    pitched = onsets.kinds["pitched"]
    length = np.minimum((onsets.end - onsets.time) / period, _LONGEST_BEATS)
    on, half, *_, alternating = _shares(
        place[pitched], (onsets.weight * length)[pitched]
    )
    features += [on, half, alternating]
    tempo = np.log2(60.0 / period / _USUAL_TEMPO)
    beats = max(1.0, float(position[-1] - position[0]))
    filled = np.unique(part)
    density = np.log2(len(filled) / beats)
    occupied = np.count_nonzero(filled % PARTS == 0) / beats
    for value in (tempo, density, occupied):
        features += [value, value * value]
    snares = np.unique(part[onsets.kinds["snare"]]) / PARTS
    interval = np.log2(np.median(np.diff(snares))) if len(snares) > _FEW else 0.0
    return np.array([*features, interval * interval])


def _shares(place: np.ndarray, weight: np.ndarray) -> list[float]:
    """Returns how much begins on the beat, halfway, and on thirds and quarters of it.

    Also how much the two beats of a pair differ, 0 to 1. Few onsets say little.
    """
    total = weight.sum()
    if not total:
        return [0.0] * 7
    belief = len(place) / (len(place) + _FEW)
    share = np.bincount(place, weight, 2 * PARTS) / total
    folded = share[:PARTS] + share[PARTS:]
    on, other = share[0], share[PARTS]
    alternating = abs(on - other) / (on + other) if on + other else 0.0
    parts = folded[[0, 6, 4, 8, 3, 9]]
    return [float(belief * value) for value in (*parts, alternating)]
