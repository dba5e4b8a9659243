"""Which hand plays a note, which voice it belongs to, how long it is written.

Recorded notes overlap a little and stop a little early. Written as they are they would
be a thicket of ties and short rests, so ends are moved to where a reader expects them
(`written_ends`); starts stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mt3.outputs.score.values import DIVISIONS

_EIGHTH = DIVISIONS // 2
# A hand reaches this many semitones.
_SPAN = 12
_SPLITS = np.arange(48, 73)
_MIDDLE_C = 60
# Melodies move by steps up to this many semitones; what it costs to give one step's
# notes to different hands.
_STEP, _TORN = 7, 0.5
# Notes that end this much later than the next one begins belong to a second voice, if
# they are at least this share of a staff's notes.
_HELD = _EIGHTH
_HELD_SHARE = 0.1
# Voices are separated within stretches of this length: voices are few in each, and the
# time that it takes does not grow with the square of the piece.
_STRETCH = 16 * 4 * DIVISIONS
# A gap is closed if the note fills this share of the time to the next one.
_FILLED = 0.6


def right_hand(starts: np.ndarray, pitches: np.ndarray) -> np.ndarray:
    """Tells which notes of a keyboard the right hand plays.

    The pitch that divides the hands moves as little as lets each hand reach its notes
    and keeps melodies in one hand.

    Args:
      starts: ascending [n].
      pitches: MIDI pitches [n].

    Returns:
      Booleans [n].
    """
    if not len(starts):
        return np.zeros(0, bool)
    bounds = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    step = 0.15 * np.abs(_SPLITS[:, None] - _SPLITS)
    totals = np.zeros(len(_SPLITS))
    choices = []
    before = pitches[:0]
    for first, last in zip(bounds, [*bounds[1:], len(starts)], strict=True):
        chord = np.sort(pitches[first:last])
        above = np.searchsorted(chord, _SPLITS)
        low_span = chord[np.maximum(above - 1, 0)] - chord[0]
        high_span = chord[-1] - chord[np.minimum(above, len(chord) - 1)]
        cost = 0.02 * np.abs(_SPLITS - _MIDDLE_C) * len(chord)
        cost = cost + np.maximum(low_span - _SPAN, 0) * (above > 0)
        cost += np.maximum(high_span - _SPAN, 0) * (above < len(chord))
        sums = totals[:, None] + step
        if first and starts[first] - starts[first - 1] <= DIVISIONS:
            sums = sums + _TORN * _torn(before, chord)
        before = chord
        choices.append(sums.argmin(axis=0))
        totals = sums.min(axis=0) + cost
    split = np.empty(len(bounds), int)
    split[-1] = totals.argmin()
    for index in range(len(bounds) - 1, 0, -1):
        split[index - 1] = choices[index][split[index]]
    chord_of = np.cumsum(np.isin(np.arange(len(starts)), bounds)) - 1
    return pitches >= _SPLITS[split[chord_of]]


def _torn(chord: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Returns how many steps of melodies go from hand to hand.

    Args:
      chord: pitches.
      following: pitches of the next chord.

    Returns:
      Counts [splits at the chord, splits at the next one].
    """
    nearest = chord[np.abs(following[:, None] - chord).argmin(axis=1)]
    steps = np.abs(following - nearest) <= _STEP
    right = nearest[steps, None] >= _SPLITS
    right_then = following[steps, None] >= _SPLITS
    return (right[:, :, None] != right_then[:, None, :]).sum(axis=0)


def voices(starts: np.ndarray, ends: np.ndarray, pitches: np.ndarray) -> np.ndarray:
    """Returns the voice of each note of a staff: 1, or 2 for a lower one.

    Args:
      starts: ascending [n].
      ends: [n].
      pitches: MIDI pitches [n].
    """
    found = np.ones(len(starts), int)
    stretch = starts // _STRETCH
    for number in np.unique(stretch):
        here = np.flatnonzero(stretch == number)
        found[here] = _voices_of_stretch(starts[here], ends[here], pitches[here])
    return found


def _voices_of_stretch(starts, ends, pitches) -> np.ndarray:
    one = np.ones(len(starts), int)
    following = _following(starts)
    held = ends - following > _HELD
    if held.mean() < _HELD_SHARE:
        return one
    from partitura.musicanalysis import estimate_voices

    # Notes of a chord that end at nearly the same time are one.
    lengths = ends - starts
    for start in np.unique(starts):
        chord = starts == start
        lengths[chord & (lengths >= 0.5 * lengths[chord].max())] = lengths[chord].max()
    kind = [("pitch", int), ("onset_div", int), ("duration_div", int), ("id", int)]
    notes = np.zeros(len(starts), kind)
    notes["pitch"], notes["onset_div"], notes["duration_div"] = pitches, starts, lengths
    notes["id"] = np.arange(len(starts))
    voice = estimate_voices(notes, monophonic_voices=False)
    if voice.max() == 1:
        return one
    # More than two can't be read on a staff: neighbours in height are joined.
    names = np.unique(voice)
    heights = [pitches[voice == name].mean() for name in names]
    upper, count = [], 0
    for name in names[np.argsort(heights)[::-1]]:
        if upper and count + (voice == name).sum() > 0.6 * len(voice):
            break
        upper.append(name)
        count += (voice == name).sum()
    if len(upper) == len(names):
        return one
    return np.where(np.isin(voice, upper), 1, 2)


def written_ends(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns where the notes of one voice end on paper.

    No note lasts longer than until the next one begins; one that ends shortly before
    it is lengthened, and one that stops long before it lasts until an eighth.

    Args:
      starts: ascending [n]; notes of a chord have equal ones.
      ends: [n].

    Returns:
      Ends [n], equal for the notes of a chord.
    """
    following = _following(starts)
    chords = np.flatnonzero(np.diff(starts, prepend=-1))
    longest = np.maximum.reduceat(ends, chords) if len(starts) else ends
    size = np.diff([*chords, len(starts)])
    ends = np.minimum(np.repeat(longest, size), following)
    gap, length = following - ends, ends - starts
    full = (gap <= _EIGHTH // 2) | (
        (gap <= _EIGHTH) & (length >= _FILLED * (following - starts))
    )
    rounded = -(-ends // _EIGHTH) * _EIGHTH
    rounded = np.where(starts % 3 == 0, np.minimum(rounded, following), ends)
    return np.where(full, following, rounded)


def drum_ends(starts: np.ndarray) -> np.ndarray:
    """Returns ends [n] of drum hits: the next hit or beat, whichever comes first."""
    return np.minimum(_following(starts), (starts // DIVISIONS + 1) * DIVISIONS)


def _following(starts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns for each note when the next later one starts; far away for the last."""
    times = np.unique(starts)
    after = np.append(times[1:], times[-1:] + _STRETCH)
    return after[np.searchsorted(times, starts)]
