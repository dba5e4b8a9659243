"""Notes, and their three encodings as events.

A `Note` is the only representation of music inside the package; a NoteSequence
is made at the border. The encodings are those of MT3:

* `onsets`: the pitch of each onset, nothing else;
* `notes`: program, velocity and pitch for onsets and offsets (velocity bin 0);
* `ties`: as `notes`, and every segment begins with the notes that go on sounding.

Encoding works on whole arrays. Decoding is a small state machine, `NoteDecoder`.

Differences from the original, numbered:

1. A segment that ends without a tie event ends nothing (as in the original); with
   `unclosed_ties="end"` it ends every note that it did not name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from mt3 import event_codec, vocabularies
from mt3.errors import ConfigError, MidiError

# Also the length that drums and onset-only notes get, in seconds.
MIN_NOTE_DURATION = 0.01
DEFAULT_VELOCITY = 100
DRUM_INSTRUMENT = 9

NOTE_DTYPE = np.dtype(
    [
        ("start_time", np.float64),
        ("end_time", np.float64),
        ("pitch", np.int16),
        ("velocity", np.int16),
        ("program", np.int16),
        ("is_drum", np.bool_),
    ]
)
# The same with integers that hold whatever a file does, for what is not checked yet.
WIDE_DTYPE = np.dtype(
    [
        (name, np.int64 if kind == np.int16 else kind)
        for name, (kind, _) in NOTE_DTYPE.fields.items()
    ]
)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Note:
    """One note.

    Attributes:
      start_time: onset, seconds.
      end_time: offset, seconds.
      pitch: MIDI pitch 0..127; for drums the General MIDI drum.
      velocity: MIDI velocity 1..127.
      program: General MIDI program 0..127; of no meaning for drums.
      is_drum: whether the note is a drum hit.
    """

    start_time: float
    end_time: float
    pitch: int
    velocity: int = DEFAULT_VELOCITY
    program: int = 0
    is_drum: bool = False


def notes_to_array(notes: Iterable[Note]) -> np.ndarray:
    """Returns notes as a structured array [n] of `NOTE_DTYPE`."""
    return np.array(
        [
            (n.start_time, n.end_time, n.pitch, n.velocity, n.program, n.is_drum)
            for n in notes
        ],
        dtype=NOTE_DTYPE,
    )


def array_to_notes(array: np.ndarray) -> list[Note]:
    """Returns the notes of a structured array [n] of `NOTE_DTYPE`."""
    return [Note(*row) for row in array.tolist()]


def validate_notes(notes: Sequence[Note], name: str = "notes") -> None:
    """As `validate_array`, of notes."""
    rows = [dataclasses.astuple(note) for note in notes]
    validate_array(np.array(rows, WIDE_DTYPE), name)


def validate_array(array: np.ndarray, name: str = "notes") -> None:
    """Checks what every encoding relies on.

    Args:
      array: the notes, [n] of `NOTE_DTYPE` or `WIDE_DTYPE`.
      name: file or data set, for the message.

    Raises:
      MidiError: a note ends before it starts, or a number is out of range; it names
        the first such note.
    """
    start, end = array["start_time"], array["end_time"]
    pitch, velocity, program = (array[k] for k in ("pitch", "velocity", "program"))
    problems = {
        "times are not finite": ~(np.isfinite(start) & np.isfinite(end)),
        "onset before 0 s": start < 0,
        "offset before its onset": end < start,
        "pitch outside 0..127": (pitch < 0) | (pitch >= vocabularies.NUM_PITCHES),
        "velocity outside 1..127": (velocity < 1)
        | (velocity > vocabularies.MAX_VELOCITY),
        "program outside 0..127": (program < 0)
        | (program >= vocabularies.NUM_PROGRAMS),
    }
    wrong = np.logical_or.reduce(list(problems.values()))
    if wrong.any():
        index = int(np.argmax(wrong))
        problem = next(text for text, where in problems.items() if where[index])
        (note,) = array_to_notes(array[index : index + 1])
        raise MidiError(f"{name}: note {index}: {problem}: {note}")


def trim_overlapping_notes(notes: Sequence[Note]) -> list[Note]:
    """Ends each note where the next of the same pitch, program and kind begins.

    Tokens cannot tell two sounding notes of one pitch and program apart.

    Returns:
      Notes sorted by onset; those trimmed to nothing are dropped.
    """
    return array_to_notes(trim_overlaps(notes_to_array(notes)))


def trim_overlaps(array: np.ndarray) -> np.ndarray:
    """As `trim_overlapping_notes`, of and to an array [n] of `NOTE_DTYPE`."""
    keys = ("is_drum", "program", "velocity", "pitch", "end_time", "start_time")
    array = array[np.lexsort([array[key] for key in keys])]
    order = np.lexsort(
        (array["start_time"], array["program"], array["is_drum"], array["pitch"])
    )
    here, following = order[:-1], order[1:]
    same = np.ones(len(here), bool)
    for key in ("pitch", "program", "is_drum"):
        same &= array[key][here] == array[key][following]
    ends = array["end_time"]
    ends[here] = np.where(
        same, np.minimum(ends[here], array["start_time"][following]), ends[here]
    )
    return array[ends > array["start_time"]]


def assign_instruments(notes: Sequence[Note]) -> list[int]:
    """Numbers instruments by program in order of appearance; drums are 9."""
    numbers: dict[int, int] = {}
    result = []
    for note in notes:
        if note.is_drum:
            result.append(DRUM_INSTRUMENT)
            continue
        if note.program not in numbers:
            count = len(numbers)
            numbers[note.program] = count + (count >= DRUM_INSTRUMENT)
        result.append(numbers[note.program])
    return result


@dataclasses.dataclass(frozen=True)
class TimedEvents:
    """Note events in time order, not yet cut into segments.

    Attributes:
      times: float64 [n], seconds, ascending.
      tokens: int32 [n, 3], event indices; -1 where an event has fewer.
      keys: int64 [n], program * 128 + pitch of pitched events, -1 for others.
      is_on: bool [n], whether the event starts a note.
    """

    times: np.ndarray
    tokens: np.ndarray
    keys: np.ndarray
    is_on: np.ndarray

    def __len__(self):
        return len(self.times)


def note_onset_events(
    notes: Sequence[Note] | np.ndarray, codec: event_codec.Codec
) -> TimedEvents:
    """Encodes onsets alone: by time, at equal times by pitch."""
    array = notes if isinstance(notes, np.ndarray) else notes_to_array(notes)
    array = array[np.lexsort((array["pitch"], array["start_time"]))]
    tokens = np.full((len(array), 3), -1, np.int32)
    tokens[:, 0] = codec.encode_values("pitch", array["pitch"])
    return TimedEvents(
        times=array["start_time"],
        tokens=tokens,
        keys=np.full(len(array), -1, np.int64),
        is_on=np.ones(len(array), bool),
    )


def note_events(
    notes: Sequence[Note] | np.ndarray, codec: event_codec.Codec
) -> TimedEvents:
    """Encodes onsets and offsets.

    At equal times offsets come before onsets, each sorted by drums last, program
    and pitch. Drums have no offsets.
    """
    array = notes if isinstance(notes, np.ndarray) else notes_to_array(notes)
    array = array[np.lexsort((array["pitch"], array["program"], array["is_drum"]))]
    pitched = array[~array["is_drum"]]
    both = np.concatenate([pitched, array])
    is_on = np.arange(len(both)) >= len(pitched)
    times = np.where(is_on, both["start_time"], both["end_time"])
    order = np.argsort(times, kind="stable")
    both, is_on, times = both[order], is_on[order], times[order]

    num_bins = vocabularies.num_velocity_bins_from_codec(codec)
    bins = vocabularies.velocity_to_bin(np.where(is_on, both["velocity"], 0), num_bins)
    is_drum = both["is_drum"]
    tokens = np.full((len(both), 3), -1, np.int32)
    tokens[:, 0] = np.where(
        is_drum, -1, codec.encode_values("program", both["program"])
    )
    tokens[:, 1] = codec.encode_values("velocity", bins)
    tokens[:, 2] = np.where(
        is_drum,
        codec.encode_values("drum", both["pitch"]),
        codec.encode_values("pitch", both["pitch"]),
    )
    keys = both["program"].astype(np.int64) * vocabularies.NUM_PITCHES + both["pitch"]
    return TimedEvents(times, tokens, np.where(is_drum, -1, keys), is_on)


class NoteDecoder:
    """Turns events, in order, back into notes.

    State lives across segments: velocity, program and the notes that sound.

    Attributes:
      notes: finished notes, in the order in which they ended.
      current_time: time of the last accepted event, seconds.
    """

    def __init__(
        self,
        codec: event_codec.Codec,
        *,
        ties: bool,
        onsets_only: bool = False,
        unclosed_ties: str = "keep",
    ):
        """Starts with silence.

        Args:
          codec: meaning of the event values (velocity bins).
          ties: whether segments begin with a tie section.
          onsets_only: whether pitches are onsets without offsets.
          unclosed_ties: what a tie section without a tie event does to notes it
            did not name: "keep" (as the original) or "end".

        Raises:
          ConfigError: options that exclude one another.
        """
        if unclosed_ties not in ("keep", "end"):
            raise ConfigError(
                f"note decoder: unclosed_ties is {unclosed_ties!r}; expected 'keep' "
                "or 'end'"
            )
        if ties and onsets_only:
            raise ConfigError("note decoder: onsets have no ties")
        self.notes: list[Note] = []
        self.current_time = 0.0
        self._ties = ties
        self._end_unclosed = unclosed_ties == "end"
        self._num_bins = vocabularies.num_velocity_bins_from_codec(codec)
        self._velocity = DEFAULT_VELOCITY
        self._program = 0
        # (pitch, program) -> (onset, velocity), in order of onset.
        self._sounding: dict[tuple[int, int], tuple[float, int]] = {}
        self._in_tie_section = False
        self._tied: set[tuple[int, int]] = set()
        self._segment_start = 0.0
        self._handlers = {
            "pitch": self._onset if onsets_only else self._pitch,
            "drum": self._drum,
            "velocity": self._set_velocity,
            "program": self._set_program,
            "tie": self._tie,
        }

    @property
    def sounding(self) -> list[tuple[int, int]]:
        """(pitch, program) of the notes that sound now."""
        return list(self._sounding)

    def begin_segment(self, start_time: float) -> None:
        """Starts a segment, and with ties its tie section."""
        self.end_segment()
        self._segment_start = start_time
        if self._ties:
            self._in_tie_section = True
            self._tied = set()

    def end_segment(self) -> None:
        """Closes a tie section that no tie event closed, if that is asked for."""
        if self._in_tie_section and self._end_unclosed:
            self._end_untied(max(self.current_time, self._segment_start))

    def accept(self, time: float, event_type: str, value: int) -> bool:
        """Takes one event other than a shift.

        Returns:
          Whether the event was valid here; an invalid one changes nothing.
        """
        if time < self.current_time:
            return False
        self.current_time = time
        handler = self._handlers.get(event_type)
        return handler is not None and handler(value)

    def flush(self) -> list[Note]:
        """Ends every sounding note together, and returns all notes.

        The end is the time of the last event, or 10 ms after the last onset.
        """
        self.end_segment()
        for start, _ in self._sounding.values():
            self.current_time = max(self.current_time, start + MIN_NOTE_DURATION)
        for pitch, program in list(self._sounding):
            self._finish(pitch, program, self.current_time)
        return self.notes

    def _add(self, start, end, pitch, velocity, program, is_drum=False):
        end = max(end, start + MIN_NOTE_DURATION)
        self.notes.append(Note(start, end, pitch, velocity, program, is_drum))

    def _finish(self, pitch, program, end):
        start, velocity = self._sounding.pop((pitch, program))
        self._add(start, end, pitch, velocity, program)

    def _onset(self, pitch):
        now = self.current_time
        self._add(now, now + MIN_NOTE_DURATION, pitch, DEFAULT_VELOCITY, 0)
        return True

    def _pitch(self, pitch):
        key = (pitch, self._program)
        if self._in_tie_section:
            if key not in self._sounding or key in self._tied:
                return False
            self._tied.add(key)
            return True
        if key in self._sounding:
            self._finish(*key, self.current_time)
        elif self._velocity == 0:
            return False
        if self._velocity:
            self._sounding[key] = (self.current_time, self._velocity)
        return True

    def _drum(self, pitch):
        if self._velocity == 0:
            return False
        now = self.current_time
        self._add(now, now + MIN_NOTE_DURATION, pitch, self._velocity, 0, True)
        return True

    def _set_velocity(self, velocity_bin):
        self._velocity = vocabularies.bin_to_velocity(velocity_bin, self._num_bins)
        return True

    def _set_program(self, program):
        self._program = program
        return True

    def _tie(self, unused_value):
        if not self._in_tie_section:
            return False
        self._end_untied(self.current_time)
        return True

    def _end_untied(self, time):
        for key in list(self._sounding):
            if key not in self._tied:
                self._finish(*key, time)
        self._in_tie_section = False
