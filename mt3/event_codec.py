"""Events and their integer indices.

An event is a type and a value ("pitch", 60). A `Codec` lays the ranges of all
types side by side, so that every event has one index. The first range is always
the time shift, 0 to `max_shift_steps`.

This is the codec of MT3 (Gardner et al., ICLR 2022), in NumPy alone. In addition it
classifies, encodes and decodes whole arrays of indices at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from mt3.errors import TokenError, near_misses

# The type of time shifts, whose index is their number of steps.
SHIFT = "shift"


@dataclasses.dataclass(frozen=True, slots=True)
class EventRange:
    """The values that events of one type may take, both ends included."""

    type: str
    min_value: int
    max_value: int

    @property
    def size(self) -> int:
        """Number of values in the range."""
        return self.max_value - self.min_value + 1


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One event, e.g. `Event("pitch", 60)`."""

    type: str
    value: int


class Codec:
    """Maps events to indices 0 .. `num_classes` - 1 and back."""

    def __init__(
        self,
        max_shift_steps: int,
        steps_per_second: float,
        event_ranges: Sequence[EventRange],
    ):
        """Builds the codec.

        Args:
          max_shift_steps: the longest single time shift, in steps.
          steps_per_second: resolution of time in steps per second.
          event_ranges: ranges of the other event types, in index order.

        Raises:
          TokenError: two ranges have the same type, or a range is empty.
        """
        self.steps_per_second = steps_per_second
        self.event_ranges = (EventRange(SHIFT, 0, max_shift_steps), *event_ranges)
        self._first_index: dict[str, int] = {}
        self._range: dict[str, EventRange] = {}
        index = 0
        for event_range in self.event_ranges:
            if event_range.size < 1:
                raise TokenError(f"event codec: empty range {event_range}")
            if event_range.type in self._range:
                raise TokenError(
                    f"event codec: type {event_range.type!r} appears twice; "
                    "expected each type once"
                )
            self._first_index[event_range.type] = index
            self._range[event_range.type] = event_range
            index += event_range.size
        self._num_classes = index
        sizes = [event_range.size for event_range in self.event_ranges]
        self._type_of_index = np.repeat(np.arange(len(sizes)), sizes)
        self._value_of_index = np.concatenate(
            [np.arange(r.min_value, r.max_value + 1) for r in self.event_ranges]
        )

    @property
    def num_classes(self) -> int:
        """The number of event indices."""
        return self._num_classes

    @property
    def max_shift_steps(self) -> int:
        """The longest single time shift, in steps."""
        return self.event_ranges[0].max_value

    @property
    def types(self) -> tuple[str, ...]:
        """Event types in index order."""
        return tuple(self._range)

    @functools.cached_property
    def events(self) -> tuple[Event, ...]:
        """The events of all indices, in index order."""
        types = np.array(self.types)[self._type_of_index].tolist()
        return tuple(map(Event, types, self._value_of_index.tolist()))

    def event_type_range(self, event_type: str) -> tuple[int, int]:
        """Returns the first and the last index of a type.

        Raises:
          TokenError: the codec has no such type.
        """
        if event_type not in self._range:
            raise TokenError(
                f"event codec: unknown event type {event_type!r}."
                f"{near_misses(event_type, self._range)}"
            )
        first = self._first_index[event_type]
        return first, first + self._range[event_type].size - 1

    def encode_event(self, event: Event) -> int:
        """Returns the index of one event.

        Raises:
          TokenError: unknown type, or a value outside the type's range.
        """
        first, _ = self.event_type_range(event.type)
        event_range = self._range[event.type]
        if not event_range.min_value <= event.value <= event_range.max_value:
            raise TokenError(
                f"event codec: value {event.value} of {event.type!r} is outside "
                f"{event_range.min_value}..{event_range.max_value}"
            )
        return first + int(event.value) - event_range.min_value

    def encode_values(self, event_type: str, values: np.ndarray) -> np.ndarray:
        """Returns the indices of many events of one type, as int32 [...].

        Raises:
          TokenError: unknown type, or any value outside the type's range.
        """
        first, _ = self.event_type_range(event_type)
        event_range = self._range[event_type]
        values = np.asarray(values)
        bad = (values < event_range.min_value) | (values > event_range.max_value)
        if bad.any():
            raise TokenError(
                f"event codec: value {values[bad].flat[0]} of {event_type!r} is "
                f"outside {event_range.min_value}..{event_range.max_value}"
            )
        return (values - event_range.min_value + first).astype(np.int32)

    def decode_event_index(self, index: int) -> Event:
        """Returns the event of one index.

        Raises:
          TokenError: the index is outside 0 .. `num_classes` - 1.
        """
        if not 0 <= index < self._num_classes:
            raise TokenError(
                f"event codec: index {index} is outside 0..{self._num_classes - 1}"
            )
        return self.events[index]

    def is_type(self, indices: np.ndarray, event_type: str) -> np.ndarray:
        """Marks the indices of one type, as bool [...]; none if it is unknown."""
        indices = np.asarray(indices)
        if event_type not in self._range:
            return np.zeros(indices.shape, bool)
        first, last = self.event_type_range(event_type)
        return (indices >= first) & (indices <= last)

    def is_shift_event_index(self, index: int) -> bool:
        """Whether an index is a time shift."""
        return 0 <= index <= self.max_shift_steps

    def values(self, indices: np.ndarray) -> np.ndarray:
        """Returns the values of valid indices, as int64 [...]."""
        return self._value_of_index[indices]
