"""The pulse on which the onsets of a recording lie, where its tempo is constant.

Music that was sequenced, or played to a click, has its onsets on a grid: sixteenths,
triplets, the beats themselves. The grid is found as the frequency f at which the sum
of exp(2 pi i f t) over all onsets t is largest; its size, as a share of the weight of
all onsets, is the coherence: 1 where all lie on the grid, near 0 where none do. The
grid's phase and period are then fitted to the onsets. Which multiple of it is the beat
is decided elsewhere (`levels`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.fft

from mt3.beats.grid import Beats
from mt3.beats.onsets import Onsets

# Pulses per second that are looked for: from slow beats to fast sixteenths.
SLOWEST, FASTEST = 1.2, 14.0
_IMPULSES_PER_SECOND = 200
# Coherence of a steady recording, and of each stretch of it that has notes enough.
_LEAST_COHERENCE = 0.6
_LEAST_LOCAL_COHERENCE = 0.3
_STRETCH_SECONDS = 10.0
_FEWEST_IN_STRETCH = 8
# How far above what onsets at random reach. Chance alone has a coherence of
# sqrt(log(frequencies tried) / onsets).
_ABOVE_CHANCE = 1.25
FEWEST_ONSETS = 8
_ROUNDS_OF_FITTING = 3
# Parts of beats of a given tempo that grids may consist of.
_PARTS_OF_BEATS = (1, 2, 3, 4, 6)


class Pulse(NamedTuple):
    """A grid of one tempo.

    Attributes:
      start: seconds at which one of its points lies.
      period: seconds between its points.
      coherence: of the onsets, 0 to 1.
    """

    start: float
    period: float
    coherence: float

    def beats(self) -> Beats:
        """Returns two points of the grid, which say where all others are."""
        return Beats([self.start, self.start + self.period])


def find(onsets: Onsets) -> Pulse:
    """Returns the grid on which most onsets lie; at least one onset is expected."""
    rate, length = _IMPULSES_PER_SECOND, float(onsets.time[-1]) + 1.0
    size = scipy.fft.next_fast_len(int(2 * length * rate), real=True)
    place, share = np.divmod(onsets.time * rate, 1.0)
    place = place.astype(np.int64)
    impulses = np.bincount(place, onsets.weight * (1.0 - share), size)
    impulses += np.bincount(place + 1, onsets.weight * share, size)
    spectrum = scipy.fft.rfft(impulses)
    low, high = (int(f * size / rate) for f in (SLOWEST, FASTEST))
    best = low + int(np.abs(spectrum[low:high]).argmax())
    period = size / rate / best
    start = -np.angle(spectrum[best]) / (2.0 * np.pi) * period
    start, period = _fitted(onsets, float(start), period)
    return Pulse(start, period, coherence(onsets, start, period))


def at_tempo(onsets: Onsets, tempo: float) -> Pulse:
    """Returns the grid that fits best of those that divide the beats of a tempo.

    Args:
      onsets: at least one.
      tempo: beats per minute.
    """
    grids = []
    for parts in _PARTS_OF_BEATS:
        period = 60.0 / tempo / parts
        turns = np.exp(2j * np.pi * onsets.time / period)
        start = float(np.angle(onsets.weight @ turns)) / (2.0 * np.pi) * period % period
        grids.append(Pulse(start, period, coherence(onsets, start, period)))
    return max(grids, key=lambda grid: grid.coherence)


def _fitted(onsets: Onsets, start: float, period: float) -> tuple[float, float]:
    """Returns start and period by least squares of the onsets near the grid."""
    for _ in range(_ROUNDS_OF_FITTING):
        position = (onsets.time - start) / period
        number = np.round(position)
        weight = onsets.weight * (np.abs(position - number) < 0.25)
        total = weight.sum()
        if not total:
            break
        middle, time = (weight @ x / total for x in (number, onsets.time))
        spread = weight @ (number - middle) ** 2
        if not spread:
            break
        period = float(weight @ ((number - middle) * (onsets.time - time)) / spread)
        start = float(time - period * middle)
    return start % period, period


def coherence(onsets: Onsets, start: float, period: float) -> float:
    """Returns how well onsets lie on a given grid: 1 exactly, 0 by chance."""
    angle = 2.0 * np.pi * (onsets.time - start) / period
    return float(onsets.weight @ np.cos(angle) / onsets.weight.sum())


def chance(onsets: Onsets) -> float:
    """Returns the coherence below which onsets may lie on a grid by chance."""
    count = max(1, len(onsets.chord_times()))
    tried = max(2.0, (FASTEST - SLOWEST) * float(onsets.time[-1] - onsets.time[0]))
    return _ABOVE_CHANCE * float(np.sqrt(np.log(tried) / count))


def is_steady(onsets: Onsets, pulse: Pulse) -> bool:
    """Tells whether the whole recording keeps to a grid."""
    if pulse.coherence < max(_LEAST_COHERENCE, chance(onsets)):
        return False
    angle = 2.0 * np.pi * (onsets.time - pulse.start) / pulse.period
    closeness = onsets.weight * np.cos(angle)
    stretch = (onsets.time // _STRETCH_SECONDS).astype(np.int64)
    counts = np.bincount(stretch)
    weights = np.bincount(stretch, onsets.weight)
    close = np.bincount(stretch, closeness)
    enough = counts >= _FEWEST_IN_STRETCH
    return bool((close[enough] >= _LEAST_LOCAL_COHERENCE * weights[enough]).all())
