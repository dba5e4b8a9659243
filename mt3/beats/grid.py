"""Where the beats of a recording lie, and how they are counted in bars.

Positions in beats are counted from the first beat, which is 0.0. Between two beats
time runs evenly; before the first and after the last it runs as in the beat next to
them. A beat is the lower number of the time signature: in 6/8 it is an eighth.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, NamedTuple

import numpy as np

from mt3.errors import ConfigError, DataError

# Tempos within this relative distance are one: times are rounded where they are stored.
_SAME_TEMPO = 1e-4
_LOWEST_TEMPO, _HIGHEST_TEMPO = 4.0, 1000.0
# What a MIDI file can hold of a quarter note, seconds.
_LONGEST_QUARTER = 16.0
# Nearer than any music has them; the tempo of times that are next to equal overflows.
_SHORTEST_BEAT = 1e-3
_UNITS = (1, 2, 4, 8, 16, 32)
# A first beat this early, in beats, has no beat before it.
_EARLY = 0.1
_DEFAULT_BEATS_PER_BAR = 4


class TempoChange(NamedTuple):
    """From when on a tempo holds.

    Attributes:
      seconds: where it begins.
      tempo: beats per minute.
    """

    seconds: float
    tempo: float


class TimeSignature(NamedTuple):
    """From where on bars have a length.

    Attributes:
      beat: position of the first bar's first beat, counted from 0.
      beats_per_bar: upper number.
      beat_unit: lower number.
    """

    beat: int
    beats_per_bar: int
    beat_unit: int


@dataclasses.dataclass(frozen=True, eq=False)
class Beats:
    """The beats of a recording.

    Attributes:
      times: seconds, float64 [n], n >= 2, ascending by 1 ms at least, not negative.
      numbers: place of each beat in its bar, int64 [n]: 1 for the downbeat, 0 where it
        is unknown; None for all unknown.
      beats_per_bar: beats of a whole bar, 1 to 32.
      beat_unit: note value of a beat: 4 for a quarter, 8 for an eighth.

    Raises:
      ConfigError: values that are out of range or of another shape.
    """

    times: np.ndarray
    numbers: np.ndarray | None = None
    beats_per_bar: int = _DEFAULT_BEATS_PER_BAR
    beat_unit: int = 4

    def __post_init__(self):
        """Checks the values, and makes read-only arrays of them."""
        times = np.array(self.times, np.float64)
        numbers = self.numbers
        numbers = np.zeros(times.shape) if numbers is None else np.array(numbers)
        if times.ndim != 1 or len(times) < 2:
            raise ConfigError(f"beats: times {times.shape}; expected two or more")
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise ConfigError("beats: times do not ascend from 0 or later")
        if np.diff(times).min() < _SHORTEST_BEAT:
            raise ConfigError("beats: some are less than a millisecond apart")
        if not 1 <= self.beats_per_bar <= 32 or self.beat_unit not in _UNITS:
            raise ConfigError(
                f"beats: time signature {self.beats_per_bar}/{self.beat_unit}; "
                f"expected 1 to 32 beats of a unit in {_UNITS}"
            )
        longest = float(np.diff(times).max()) * self.beat_unit / 4.0
        if longest > _LONGEST_QUARTER:
            raise ConfigError(
                f"beats: a gap in which a quarter note lasts {longest:.1f} s; expected "
                f"{_LONGEST_QUARTER:g} s at most"
            )
        if numbers.shape != times.shape:
            raise ConfigError(f"beats: {numbers.shape} numbers of {times.shape} times")
        whole = numbers.astype(np.int64)
        if (whole != numbers).any() or (whole < 0).any():
            raise ConfigError("beats: numbers in the bar that are not 0, 1, 2, ...")
        for name, value in (("times", times), ("numbers", whole)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Tells whether the other is the same beats."""
        if not isinstance(other, Beats):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    @classmethod
    def steady(
        cls,
        tempo: float,
        start: float = 0.0,
        *,
        seconds: float = 0.0,
        beats_per_bar: int = _DEFAULT_BEATS_PER_BAR,
        beat_unit: int = 4,
    ) -> Beats:
        """Returns beats of one tempo.

        Args:
          tempo: beats per minute, 4 to 1000.
          start: seconds of the first beat, which is a downbeat.
          seconds: length of the recording; the beats go as far.
          beats_per_bar: beats of a bar.
          beat_unit: note value of a beat.

        Raises:
          ConfigError: a value out of range.
        """
        if not _LOWEST_TEMPO <= tempo <= _HIGHEST_TEMPO:
            raise ConfigError(
                f"beats: tempo {tempo} beats per minute; expected "
                f"{_LOWEST_TEMPO:g} to {_HIGHEST_TEMPO:g}"
            )
        if not (math.isfinite(start) and start >= 0.0 and math.isfinite(seconds)):
            raise ConfigError(f"beats: first beat at {start} s; expected 0 or later")
        period = 60.0 / tempo
        count = max(2, math.floor((seconds - start) / period + 1e-6) + 1)
        times = start + period * np.arange(count)
        numbers = np.arange(count) % max(beats_per_bar, 1) + 1
        return cls(times, numbers, beats_per_bar, beat_unit)

    @property
    def tempo(self) -> float:
        """Beats per minute: of the median beat."""
        return 60.0 / float(np.median(np.diff(self.times)))

    @property
    def quarters_per_beat(self) -> float:
        """Quarter notes in a beat, which MIDI counts in: 0.5 for eighths."""
        return 4.0 / self.beat_unit

    @property
    def downbeats(self) -> np.ndarray:
        """Seconds of the known downbeats, [m]."""
        return self.times[self.numbers == 1]

    def to_beats(self, seconds: Any) -> np.ndarray:
        """Returns positions in beats of times in seconds; the same shape."""
        return _interpolated(seconds, self.times, np.arange(len(self.times)))

    def to_seconds(self, beats: Any) -> np.ndarray:
        """Returns seconds of positions in beats; the same shape."""
        return _interpolated(beats, np.arange(len(self.times)), self.times)

    def tempo_map(self) -> list[TempoChange]:
        """Returns the tempos, each from the beat on where it begins; never empty."""
        tempos = 60.0 / np.diff(self.times)
        changes: list[TempoChange] = []
        for seconds, tempo in zip(self.times.tolist(), tempos.tolist(), strict=False):
            if not changes or abs(tempo / changes[-1].tempo - 1.0) > _SAME_TEMPO:
                changes.append(TempoChange(seconds, tempo))
        return changes

    def time_signatures(self) -> list[TimeSignature]:
        """Returns the lengths of bars, each from the bar on where it begins.

        A bar begins at each downbeat. Beats before the first downbeat are a bar of
        their own, the upbeat. Where no downbeat is known, or none in as long as two
        bars, bars have `beats_per_bar`. Never empty; the first one's beat is 0.
        """
        starts = np.flatnonzero(self.numbers == 1)
        if not len(starts) or starts[0] > 0:
            starts = np.concatenate([[0], starts])
        signatures: list[TimeSignature] = []
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            length = self.beats_per_bar
            if end is not None and end - start < 2 * length:
                length = int(end - start)
            if not signatures or signatures[-1].beats_per_bar != length:
                signatures.append(TimeSignature(int(start), length, self.beat_unit))
        return signatures

    def from_zero(self) -> Beats:
        """Returns the beats with more before them, so that one lies at 0 seconds.

        The time before the first beat is divided into beats that are nearly as long as
        the first; their numbers count down from the first one's. Where it is very
        short, the first beat begins earlier instead.
        """
        first, period = float(self.times[0]), float(self.times[1] - self.times[0])
        if first == 0.0:
            return self
        if first < _EARLY * period:
            return dataclasses.replace(self, times=[0.0, *self.times[1:]])
        count = max(1, round(first / period))
        before = first / count * np.arange(count)
        numbers = np.zeros(count, np.int64)
        if self.numbers[0]:
            back = self.numbers[0] - 1 - np.arange(count, 0, -1)
            numbers = back % self.beats_per_bar + 1
        return dataclasses.replace(
            self,
            times=np.concatenate([before, self.times]),
            numbers=np.concatenate([numbers, self.numbers]),
        )

    def moved(self, seconds: float) -> Beats | None:
        """Returns beats that many seconds later, without those that get before 0.

        None if fewer than two are left.
        """
        times = self.times + seconds
        kept = times >= 0.0
        if np.count_nonzero(kept) < 2:
            return None
        return dataclasses.replace(self, times=times[kept], numbers=self.numbers[kept])

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values, of which `Beats(**values)` makes them."""
        return {
            "times": self.times.tolist(),
            "numbers": self.numbers.tolist(),
            "beats_per_bar": self.beats_per_bar,
            "beat_unit": self.beat_unit,
        }


def _interpolated(values: Any, known: np.ndarray, at_known: np.ndarray) -> np.ndarray:
    """Maps values along straight lines between known ones, the outer ones continued."""
    values = np.asarray(values, np.float64)
    left = np.clip(np.searchsorted(known, values, side="right") - 1, 0, len(known) - 2)
    share = (values - known[left]) / (known[left + 1] - known[left])
    return at_known[left] + share * (at_known[left + 1] - at_known[left])


def read_beats(path: str | os.PathLike[str]) -> Beats:
    """Reads beats from a text file.

    A line holds a beat's time in seconds and, if known, its number in its bar (1 for
    the downbeat), apart by blanks or a tab. Empty lines and those that begin with "#"
    say nothing. Bars have as many beats as the largest number says; 4 without numbers.

    Raises:
      DataError: the file cannot be read, or a line is something else.
    """
    times, numbers = [], []
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise DataError(f"{path}: reading beats: {reason}") from error
    for count, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            seconds, *number = fields
            times.append(float(seconds))
            numbers.append(np.int64(int(*number) if number else 0))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{path}: reading beats: line {count} is {line[:60]!r}; expected "
                "seconds and, if known, the number of the beat in its bar"
            ) from error
    try:
        return Beats(
            np.array(times),
            np.array(numbers, np.int64),
            beats_per_bar=int(max(numbers, default=0)) or _DEFAULT_BEATS_PER_BAR,
        )
    except ConfigError as error:
        raise DataError(f"{path}: reading {error}") from error
