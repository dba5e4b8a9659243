"""Lengths as note values: where a note is split and tied, triplets, beams.

Positions and lengths are in divisions, `DIVISIONS` to a quarter, positions from the
start of the bar. A length is split so that a reader sees the beats: notes go across a
beat only as usual syncopations do (an eighth after the beat, a half from the second
beat), in common time none but halves across the middle of the bar; rests never.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

DIVISIONS = 24
_QUARTER, _EIGHTH = DIVISIONS, DIVISIONS // 2
_TYPES = {
    192: "breve",
    96: "whole",
    48: "half",
    24: "quarter",
    12: "eighth",
    6: "16th",
    3: "32nd",
}
# Lengths that one note has, longest first, with its type and dots.
_VALUES: dict[int, tuple[str, int]] = dict(
    sorted(
        [(length, (name, 0)) for length, name in _TYPES.items()]
        + [(3 * n // 2, (name, 1)) for n, name in _TYPES.items() if n > 3],
        reverse=True,
    )
)
# In a triplet a note takes two thirds of its value.
_TRIPLET_VALUES = {length * 2 // 3: value for length, value in _VALUES.items()}
_BEAMS = {"eighth": 1, "16th": 2, "32nd": 3}


class Metre(NamedTuple):
    """How bars are divided.

    Attributes:
      length: of a bar.
      beat: what is beamed together: a quarter, or a dotted one.
      half: the middle of common time, across which little is written; else 0.
    """

    length: int
    beat: int = _QUARTER
    half: int = 0

    @classmethod
    def of(cls, beats_per_bar: int, beat_unit: int, length: int | None = None) -> Metre:
        """Returns the division of a time signature, or of a shorter bar of it."""
        whole = 4 * DIVISIONS * beats_per_bar // beat_unit
        compound = beat_unit == 8 and beats_per_bar % 3 == 0
        beat = 3 * _EIGHTH if compound else _QUARTER
        length = whole if length is None else length
        common = whole == length == 4 * _QUARTER and not compound
        return cls(length, beat, 2 * _QUARTER if common else 0)

    @property
    def triplet(self) -> int:
        """The length that is divided by three in a triplet."""
        return _QUARTER if self.beat == _QUARTER else _EIGHTH


@dataclasses.dataclass(frozen=True)
class Value:
    """One written note or rest.

    Attributes:
      start: position in the bar.
      length: in divisions.
      type: MusicXML name of its value.
      dots: augmentation dots.
      triplet: whether three are played in the time of two.
    """

    start: int
    length: int
    type: str
    dots: int = 0
    triplet: bool = False

    @property
    def beams(self) -> int:
        """Beams or flags that it has."""
        return _BEAMS.get(self.type, 0)


def triplet_places(positions: Collection[int], metre: Metre) -> set[int]:
    """Returns where the stretches begin that are written as triplets."""
    span = metre.triplet
    return {p // span * span for p in positions if p % 3}


def split(
    start: int, length: int, metre: Metre, triplets: Collection[int], rest: bool = False
) -> list[Value]:
    """Returns the values that make a note (to be tied) or rest.

    Args:
      start: position in the bar.
      length: at most as far as the end of the bar.
      metre: of the bar.
      triplets: what `triplet_places` says of all notes of the voice.
      rest: whether it is a rest.
    """
    values, end = [], start + length
    while start < end:
        value = _longest(start, end - start, metre, triplets, rest)
        values.append(value)
        start += value.length
    return values


def _longest(
    start: int, most: int, metre: Metre, triplets: Collection[int], rest: bool
) -> Value:
    """Returns the longest value that may stand at a position."""
    span = metre.triplet
    place = start // span * span
    if place in triplets and (start > place or most < span):
        most = min(most, place + span - start)
        length = next((n for n in _TRIPLET_VALUES if n <= most), 1)
        name, dots = _TRIPLET_VALUES.get(length, ("64th", 0))
        return Value(start, length, name, dots, triplet=True)
    for length, (name, dots) in _VALUES.items():
        end = start + length
        inside = end % span and end // span * span in triplets
        if length <= most and not inside and _fits(start, length, dots, metre, rest):
            return Value(start, length, name, dots)
    # No position of the grids that are offered comes here.
    length = next((n for n in _VALUES if n <= most), most)
    return Value(start, length, *_VALUES.get(length, ("64th", 0)))


def _fits(start: int, length: int, dots: int, metre: Metre, rest: bool) -> bool:
    """Tells whether a reader expects a value at a position."""
    beat, offset = metre.beat, start % metre.beat
    if offset + length <= beat:
        if beat == _QUARTER:
            if dots:
                return offset % _EIGHTH == 0 if rest else offset % (length // 3) == 0
            syncopated = length == _EIGHTH and offset == length // 2 and not rest
            return offset % length == 0 or syncopated
        if length == beat:
            return True
        if rest and (dots or length > _EIGHTH):
            return not dots and offset == 0
        return offset % min(length, _EIGHTH) == 0
    if beat != _QUARTER:
        return offset == 0 and length % beat == 0 and start % length == 0
    if rest:
        return dots == 0 and start % length == 0 and bool(metre.half)
    crosses = start < metre.half < start + length
    if length <= 3 * _EIGHTH:
        return offset % _EIGHTH == 0 and length >= _QUARTER and not crosses
    return offset == 0


def beam_groups(
    values: Sequence[Value], metre: Metre, beamable: Sequence[bool]
) -> Iterator[list[int]]:
    """Yields the indices of values that are beamed together: neighbours in one beat.

    Args:
      values: of one voice and bar, in order.
      metre: of the bar.
      beamable: which of them are notes.
    """
    group: list[int] = []
    for index, (value, is_note) in enumerate(zip(values, beamable, strict=True)):
        fits = is_note and value.beams > 0
        follows = group and (
            values[group[-1]].start // metre.beat == value.start // metre.beat
            and values[group[-1]].start + values[group[-1]].length == value.start
        )
        if group and not (fits and follows):
            if len(group) > 1:
                yield group
            group = []
        if fits:
            group.append(index)
    if len(group) > 1:
        yield group


def beams(counts: Sequence[int]) -> list[list[str]]:
    """Returns MusicXML's words for the beams of a group's notes, from the outer beam.

    Args:
      counts: beams of each note, two notes or more.
    """
    words: list[list[str]] = [[] for _ in counts]
    for level in range(1, max(counts) + 1):
        for index, count in enumerate(counts):
            if count < level:
                continue
            before = index > 0 and counts[index - 1] >= level
            after = index + 1 < len(counts) and counts[index + 1] >= level
            if before or after:
                word = "continue" if before and after else "end" if before else "begin"
            else:
                word = "backward hook" if index else "forward hook"
            words[index].append(word)
    return words
