"""Notes, and their three encodings as events.

Inside the package, music is `Note`s or a structured array of `NOTE_DTYPE`. A
NoteSequence (note_seq) is what the outside has: the functions with the original's names
take either, and note_seq is imported when one has to be made. The encodings:

* `NoteOnsetEncodingSpec`: the pitch of each onset, nothing else;
* `NoteEncodingSpec`: program, velocity and pitch of onsets and offsets (velocity 0);
* `NoteEncodingWithTiesSpec`: the same, and every segment begins with the notes that
  go on sounding.

Note events are kept in columns (`NoteEvents`), which are encoded at once. Decoding is a
small state machine: a `NoteDecodingState` that `decode_note_event` takes from event to
event.

Differences from the original, numbered:

1. A segment that ends without a tie event ends no notes, as in the original;
   `note_encoding_spec(..., unclosed_ties="end")` makes an encoding that ends every note
   which such a segment did not name.
2. `NoteDecodingState.note_sequence` is made when it is read; what is added to it is not
   kept. `NoteDecodingState.notes` are the notes.
3. `note_sequence_to_onsets` and its relatives return an array and `NoteEvents`, a
   sequence of `NoteEventData`, where the original returns two lists.
4. `note_arrays_to_note_sequence` raises where arrays differ in length; the original
   fills in zeros and defaults.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mt3 import event_codec, run_length_encoding, vocabularies
from mt3.errors import ConfigError, MidiError, TokenError
from mt3.event_codec import Event

if TYPE_CHECKING:
    import note_seq

DEFAULT_VELOCITY = 100
# Seconds; what drums and notes without an offset last.
DEFAULT_NOTE_DURATION = 0.01
# Seconds.
MIN_NOTE_DURATION = 0.01
TICKS_PER_QUARTER = 220
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
# The same with integers large enough for what a file may contain, before it is checked.
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
      program: General MIDI program 0..127; without meaning for drums.
      is_drum: whether the note is a drum hit.
      confidence: how sure the model is that a note begins here, 0..1; None where
        nothing is known. It does not count when notes are compared, and arrays of
        notes don't have it.
    """

    start_time: float
    end_time: float
    pitch: int
    velocity: int = DEFAULT_VELOCITY
    program: int = 0
    is_drum: bool = False
    confidence: float | None = dataclasses.field(default=None, compare=False)


def note_values(note: Note) -> dict[str, Any]:
    """Returns a note's values by their names in `NOTE_DTYPE`."""
    return {name: getattr(note, name) for name in NOTE_DTYPE.names}


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


def note_array(notes: Any) -> np.ndarray:
    """Returns notes as a structured array [n] of `NOTE_DTYPE`, in their order.

    Args:
      notes: such an array (returned as it is), `Note`s, or a NoteSequence.
    """
    if isinstance(notes, np.ndarray):
        return notes
    if hasattr(notes, "notes"):
        return note_sequence_rows(notes).astype(NOTE_DTYPE)
    return notes_to_array(notes)


def note_sequence_rows(ns: note_seq.NoteSequence) -> np.ndarray:
    """Returns the notes of a NoteSequence unchecked, an array [n] of `WIDE_DTYPE`."""
    rows = map(operator.attrgetter(*WIDE_DTYPE.names), ns.notes)
    return np.fromiter(rows, WIDE_DTYPE, count=len(ns.notes))


def to_note_sequence(
    notes: Sequence[Note], *, ticks_per_quarter: int = TICKS_PER_QUARTER
) -> note_seq.NoteSequence:
    """Makes a NoteSequence.

    Args:
      notes: the notes; their order is kept.
      ticks_per_quarter: resolution of a MIDI file made of it.

    Returns:
      The sequence, with instruments as `assign_instruments` numbers them.

    Raises:
      ConfigError: note-seq is not installed.
    """
    ns = _note_sequence(notes, ticks_per_quarter)
    assign_instruments(ns)
    return ns


def _note_sequence(
    notes: Iterable[Note], ticks_per_quarter: int = TICKS_PER_QUARTER
) -> note_seq.NoteSequence:
    try:
        import note_seq
    except ImportError as error:
        raise ConfigError(
            "a NoteSequence needs the package note-seq; install "
            "mt3-transcription[train], or use the notes as they are"
        ) from error
    ns = note_seq.NoteSequence(ticks_per_quarter=ticks_per_quarter)
    for note in notes:
        ns.notes.add(
            start_time=note.start_time,
            end_time=note.end_time,
            pitch=note.pitch,
            velocity=note.velocity,
            program=note.program,
            is_drum=note.is_drum,
        )
    ns.total_time = max((note.end_time for note in ns.notes), default=0.0)
    return ns


@dataclasses.dataclass(frozen=True)
class TrackSpec:
    """A track to score by itself.

    Attributes:
      name: of the track.
      program: its program.
      is_drum: whether it is drums.
    """

    name: str
    program: int = 0
    is_drum: bool = False


def extract_track(
    ns: note_seq.NoteSequence, program: int, is_drum: bool
) -> note_seq.NoteSequence:
    """Returns the notes of one program, or of its drums, as a new NoteSequence."""
    track = _note_sequence(())
    track.notes.extend(
        note for note in ns.notes if note.program == program and note.is_drum == is_drum
    )
    track.total_time = max((note.end_time for note in track.notes), default=0.0)
    return track


def trim_overlapping_notes(ns: Any) -> Any:
    """Ends each note where the next of the same pitch, program and kind begins.

    Tokens cannot distinguish two sounding notes of one pitch and program. Notes with
    the same onset count as in the order given.

    Args:
      ns: a NoteSequence, a structured array [n] of `NOTE_DTYPE`, or `Note`s.

    Returns:
      A copy of the same kind, in the same order, without the notes that have no
      length (left).
    """
    array = note_array(ns).copy()
    names = ("start_time", "program", "is_drum", "pitch")
    order = np.lexsort([array[name] for name in names])
    here, following = order[:-1], order[1:]
    same = np.ones(len(here), bool)
    for name in names[1:]:
        same &= array[name][here] == array[name][following]
    ends = array["end_time"]
    limit = np.where(same, array["start_time"][following], np.inf)
    ends[here] = np.minimum(ends[here], limit)
    keep = ends > array["start_time"]
    if isinstance(ns, np.ndarray):
        return array[keep]
    if not hasattr(ns, "notes"):
        return array_to_notes(array[keep])
    trimmed = type(ns)()
    trimmed.CopyFrom(ns)
    del trimmed.notes[:]
    for index in np.flatnonzero(keep):
        trimmed.notes.add().CopyFrom(ns.notes[index])
        trimmed.notes[-1].end_time = ends[index]
    return trimmed


def assign_instruments(ns: note_seq.NoteSequence) -> None:
    """Numbers a NoteSequence's instruments by program in order of appearance.

    Drums get 9, which other programs skip.
    """
    numbers: dict[int, int] = {}
    for note in ns.notes:
        if note.is_drum:
            note.instrument = DRUM_INSTRUMENT
            continue
        if note.program not in numbers:
            count = len(numbers)
            numbers[note.program] = count + (count >= DRUM_INSTRUMENT)
        note.instrument = numbers[note.program]


def validate_note_sequence(ns: note_seq.NoteSequence) -> None:
    """Checks that every note, drums included, has a length and a velocity.

    Raises:
      MidiError: names the first note that has not.
    """
    for index, note in enumerate(ns.notes):
        if note.start_time >= note.end_time:
            problem = f"start time {note.start_time:f} >= end time {note.end_time:f}"
        elif note.velocity == 0:
            problem = "zero velocity"
        else:
            continue
        raise MidiError(f"NoteSequence: note {index} has {problem}")


def validate_notes(notes: Any, name: str = "notes") -> None:
    """Checks what every encoding relies on.

    Args:
      notes: `Note`s, or an array [n] of `NOTE_DTYPE` or `WIDE_DTYPE`.
      name: file or data set, for the message.

    Raises:
      MidiError: a note ends before it starts, or a number is out of range; it names
        the first such note.
    """
    array = notes
    if not isinstance(notes, np.ndarray):
        rows = map(operator.attrgetter(*WIDE_DTYPE.names), notes)
        array = np.array(list(rows), WIDE_DTYPE)
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


def note_arrays_to_note_sequence(
    onset_times: Sequence[float],
    pitches: Sequence[int],
    offset_times: Sequence[float] | None = None,
    velocities: Sequence[int] | None = None,
    programs: Sequence[int] | None = None,
    is_drums: Sequence[bool] | None = None,
) -> note_seq.NoteSequence:
    """Makes a NoteSequence of columns [n].

    Args:
      onset_times: seconds.
      pitches: MIDI pitches.
      offset_times: seconds; None for notes of 10 ms.
      velocities: MIDI velocities; None for 100.
      programs: MIDI programs; None for 0.
      is_drums: whether notes are drums; None if none are.

    Returns:
      The sequence; see `to_note_sequence`.

    Raises:
      MidiError: the columns differ in length.
      ConfigError: note-seq is not installed.
    """
    count = len(onset_times)
    if offset_times is None:
        offset_times = np.asarray(onset_times) + DEFAULT_NOTE_DURATION
    columns = {
        "start_time": onset_times,
        "end_time": offset_times,
        "pitch": pitches,
        "velocity": [DEFAULT_VELOCITY] * count if velocities is None else velocities,
        "program": [0] * count if programs is None else programs,
        "is_drum": [False] * count if is_drums is None else is_drums,
    }
    lengths = [len(column) for column in columns.values()]
    if set(lengths) != {count}:
        raise MidiError(
            f"note_arrays_to_note_sequence: columns have {lengths} values; expected "
            "the same number in each"
        )
    array = np.zeros(count, WIDE_DTYPE)
    for name, column in columns.items():
        array[name] = column
    return to_note_sequence(array_to_notes(array))


@dataclasses.dataclass(slots=True)
class NoteEventData:
    """One note event.

    Attributes:
      pitch: MIDI pitch.
      velocity: MIDI velocity, 0 for an offset; None for onsets without velocity.
      program: MIDI program; None where programs are not encoded.
      is_drum: whether the event is a drum hit, if `program` is given.
      instrument: not encoded.
    """

    pitch: int
    velocity: int | None = None
    program: int | None = None
    is_drum: bool | None = None
    instrument: int | None = None


class NoteEvents(run_length_encoding.EventColumns):
    """Many note events as columns: a sequence of `NoteEventData`.

    Attributes:
      pitch: int [n].
      velocity: int [n] or None; see `NoteEventData`.
      program: int [n] or None.
      is_drum: bool [n] or None.
    """

    def __init__(
        self,
        pitch: np.ndarray,
        velocity: np.ndarray | None = None,
        program: np.ndarray | None = None,
        is_drum: np.ndarray | None = None,
    ):
        """Takes the columns. Programs need velocities and `is_drum`."""
        self.pitch = pitch
        self.velocity = velocity
        self.program = program
        self.is_drum = is_drum

    def __len__(self) -> int:
        return len(self.pitch)

    def __getitem__(self, index: Any) -> Any:
        columns = (self.pitch, self.velocity, self.program, self.is_drum)
        parts = [None if column is None else column[index] for column in columns]
        if np.ndim(parts[0]):
            return NoteEvents(*parts)
        return NoteEventData(*(None if p is None else p.item() for p in parts))

    def encode(
        self,
        order: np.ndarray,
        state: NoteEncodingState | None,
        encode_event_fn: run_length_encoding.EncodeEventFn,
        codec: event_codec.Codec,
        encoding_state_to_events_fn: run_length_encoding.StateToEventsFn | None,
    ) -> run_length_encoding.EncodedEvents | None:
        """As `note_event_data_to_events` and `note_encoding_state_to_events` do."""
        known = (
            encode_event_fn is note_event_data_to_events
            and encoding_state_to_events_fn in (None, note_encoding_state_to_events)
            and not (state is not None and state.active_pitches)
            and len(self)
        )
        if not known:
            return None
        events = self[order]
        tokens, bins = events._tokens(codec)
        keys = events._keys()
        if state is not None:
            last = dict(zip(keys.tolist(), bins.tolist(), strict=True))
            last.pop(-1, None)
            state.active_pitches = {
                (key % vocabularies.NUM_PITCHES, key // vocabularies.NUM_PITCHES): value
                for key, value in last.items()
            }
        sections = np.zeros(0, np.int32), np.zeros(len(self) + 1, np.int64)
        if encoding_state_to_events_fn is not None:
            sections = _state_sections(keys, bins > 0, codec)
        present = tokens >= 0
        return run_length_encoding.EncodedEvents(
            tokens[present], present.sum(axis=1), *sections
        )

    def _tokens(self, codec: event_codec.Codec) -> tuple[np.ndarray, np.ndarray]:
        """Returns event indices, int32 [n, k], -1 for none; and velocity bins [n]."""
        if self.velocity is None:
            tokens = codec.encode_values("pitch", self.pitch)
            return tokens[:, np.newaxis], np.zeros(len(self), np.int64)
        num_bins = vocabularies.num_velocity_bins_from_codec(codec)
        bins = vocabularies.velocity_to_bin(self.velocity, num_bins)
        tokens = np.full((len(self), 3), -1, np.int32)
        tokens[:, 1] = codec.encode_values("velocity", bins)
        if self.program is None:
            tokens[:, 2] = codec.encode_values("pitch", self.pitch)
            return tokens, bins
        # What a song has no notes of, the codec need not have either.
        for column, event_type, values, where in (
            (0, "program", self.program, ~self.is_drum),
            (2, "pitch", self.pitch, ~self.is_drum),
            (2, "drum", self.pitch, self.is_drum),
        ):
            if where.any():
                tokens[where, column] = codec.encode_values(event_type, values[where])
        return tokens, bins

    def _keys(self) -> np.ndarray:
        """Returns program * 128 + pitch, int64 [n], and -1 for what leaves no state."""
        if self.velocity is None:
            return np.full(len(self), -1, np.int64)
        keys = self.pitch.astype(np.int64)
        if self.program is not None:
            keys = keys + self.program.astype(np.int64) * vocabularies.NUM_PITCHES
            keys = np.where(self.is_drum, -1, keys)
        return keys


def _state_sections(
    keys: np.ndarray, is_on: np.ndarray, codec: event_codec.Codec
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the notes that sound before each event and after the last.

    Args:
      keys: int64 [n], program * 128 + pitch of the events, -1 for others.
      is_on: bool [n], whether the event starts a note.
      codec: event indices.

    Returns:
      Sections, int32 [m], and the start of each, int64 [n + 1].
    """
    # A note sounds from its onset to the next event of the same key.
    order = np.argsort(keys, kind="stable")
    following = np.full(len(keys), len(keys), np.int64)
    same = keys[order[:-1]] == keys[order[1:]]
    following[:-1][same] = order[1:][same]
    sounds = is_on[order] & (keys[order] >= 0)
    onset, offset = order[sounds], following[sounds]

    # Each note stands in the sections after its onset, up to that before its end.
    counts = offset - onset
    note = np.repeat(np.arange(len(onset)), counts)
    section = np.arange(len(note)) - (np.cumsum(counts) - counts - onset)[note] + 1
    # Notes are in the order of their keys already.
    by_section = np.argsort(section, kind="stable")
    section, keys = section[by_section], keys[onset][note[by_section]]

    sizes = np.bincount(section, minlength=len(is_on) + 1)
    ends = np.cumsum(2 * sizes + 1)
    events = np.empty(ends[-1], np.int32)
    positions = 2 * np.arange(len(keys)) + section
    programs, pitches = np.divmod(keys, vocabularies.NUM_PITCHES)
    if len(keys):
        events[positions] = codec.encode_values("program", programs)
        events[positions + 1] = codec.encode_values("pitch", pitches)
    events[ends - 1] = codec.event_type_range("tie")[0]
    return events, ends - 2 * sizes - 1


def note_sequence_to_onsets(ns: Any) -> tuple[np.ndarray, NoteEvents]:
    """Returns the onsets of a NoteSequence (or notes), by pitch.

    Args:
      ns: see `note_array`.

    Returns:
      Times, float64 [n] in seconds, and pitches.
    """
    array = note_array(ns)
    array = array[np.argsort(array["pitch"], kind="stable")]
    return array["start_time"], NoteEvents(array["pitch"])


def note_sequence_to_onsets_and_offsets(ns: Any) -> tuple[np.ndarray, NoteEvents]:
    """Returns all offsets by pitch, then all onsets; drums are notes as any other.

    Args:
      ns: see `note_array`.

    Returns:
      Times, float64 [n] in seconds, and pitches with velocities.
    """
    array = note_array(ns)
    array = array[np.argsort(array["pitch"], kind="stable")]
    times = np.concatenate([array["end_time"], array["start_time"]])
    velocity = np.concatenate([np.zeros_like(array["velocity"]), array["velocity"]])
    return times, NoteEvents(np.tile(array["pitch"], 2), velocity)


def note_sequence_to_onsets_and_offsets_and_programs(
    ns: Any,
) -> tuple[np.ndarray, NoteEvents]:
    """Returns all offsets, then all onsets, each by program and pitch, drums last.

    Args:
      ns: see `note_array`.

    Returns:
      Times, float64 [n] in seconds, and the events; drums have no offsets.
    """
    array = note_array(ns)
    array = array[np.lexsort((array["pitch"], array["program"], array["is_drum"]))]
    # Drums are last, so all others have an offset.
    pitched = array[: np.count_nonzero(~array["is_drum"])]
    both = np.concatenate([pitched, array])
    times = np.concatenate([pitched["end_time"], array["start_time"]])
    both["velocity"][: len(pitched)] = 0
    return times, NoteEvents(
        both["pitch"], both["velocity"], both["program"], both["is_drum"]
    )


@dataclasses.dataclass
class NoteEncodingState:
    """What sounds while notes are encoded.

    Attributes:
      active_pitches: (pitch, program) -> velocity bin of the last event, 0 where the
        note has ended.
    """

    active_pitches: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)


def note_event_data_to_events(
    state: NoteEncodingState | None, value: NoteEventData, codec: event_codec.Codec
) -> list[Event]:
    """Returns the events of one note event.

    Args:
      state: is told what sounds; None for encodings without.
      value: the note event.
      codec: its velocity bins are used.

    Returns:
      Pitch; velocity and pitch; program, velocity and pitch; or velocity and drum.
    """
    if value.velocity is None:
        return [Event("pitch", value.pitch)]
    num_bins = vocabularies.num_velocity_bins_from_codec(codec)
    velocity_bin = vocabularies.velocity_to_bin(value.velocity, num_bins)
    events = [Event("velocity", velocity_bin)]
    if value.program is not None and value.is_drum:
        return [*events, Event("drum", value.pitch)]
    if state is not None:
        state.active_pitches[value.pitch, value.program or 0] = velocity_bin
    if value.program is not None:
        events.insert(0, Event("program", value.program))
    return [*events, Event("pitch", value.pitch)]


def note_encoding_state_to_events(state: NoteEncodingState) -> list[Event]:
    """Returns program and pitch of what sounds, in this order, then a tie event."""
    events = []
    by_program = sorted(state.active_pitches, key=lambda key: key[::-1])
    for pitch, program in by_program:
        if state.active_pitches[pitch, program]:
            events += [Event("program", program), Event("pitch", pitch)]
    return [*events, Event("tie", 0)]


class _AsNoteSequence:
    """The notes of a decoding state as a NoteSequence, made when it is read."""

    def __get__(self, state: NoteDecodingState | None, owner: Any = None) -> Any:
        # Of the class: the field's default.
        return None if state is None else _note_sequence(state.notes)

    def __set__(self, state: NoteDecodingState, value: Any) -> None:
        state.notes = [] if value is None else array_to_notes(note_array(value))


@dataclasses.dataclass(repr=False, eq=False)
class NoteDecodingState:
    """What is known while events become notes; it lives across segments.

    Attributes:
      current_time: time of the last event that was taken, seconds.
      current_velocity: MIDI velocity of the notes to come, 0 for offsets.
      current_program: their program.
      active_pitches: (pitch, program) -> (onset in seconds, velocity) of the notes
        that sound, in order of onset.
      tied_pitches: (pitch, program) that the last tie section declared.
      is_tie_section: whether a tie section has begun and not ended.
      note_sequence: the finished notes as a NoteSequence; None for an empty one.
      notes: the finished notes, in the order in which they ended.
    """

    current_time: float = 0.0
    current_velocity: int = DEFAULT_VELOCITY
    current_program: int = 0
    active_pitches: dict[tuple[int, int], tuple[float, int]] = dataclasses.field(
        default_factory=dict
    )
    tied_pitches: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    is_tie_section: bool = False
    note_sequence: Any = _AsNoteSequence()

    def __post_init__(self):
        self._num_taken = 0

    def take_notes(self) -> list[Note]:
        """Returns the notes that have ended since the last call."""
        new = self.notes[self._num_taken :]
        self._num_taken = len(self.notes)
        return new

    def finish(self) -> list[Note]:
        """Ends every sounding note together, and returns all notes.

        The end is the time of the last event, or 10 ms after the last onset.
        """
        for start, _ in self.active_pitches.values():
            self.current_time = max(self.current_time, start + MIN_NOTE_DURATION)
        for key in list(self.active_pitches):
            self.end_note(*key, self.current_time)
        return self.notes

    def end_untied(self, time: float) -> None:
        """Ends the tie section, and every note that it did not declare."""
        for key in list(self.active_pitches):
            if key not in self.tied_pitches:
                self.end_note(*key, time)
        self.is_tie_section = False

    def end_note(self, pitch: int, program: int, time: float) -> None:
        """Ends a note that sounds, at some time but at least 10 ms after its onset."""
        start, velocity = self.active_pitches.pop((pitch, program))
        end = max(time, start + MIN_NOTE_DURATION)
        self.notes.append(Note(start, end, pitch, velocity, program))


def decode_note_onset_event(
    state: NoteDecodingState, time: float, event: Event, codec: event_codec.Codec
) -> None:
    """Takes an event of the encoding with onsets alone.

    Args:
      state: gets a note of 10 ms.
      time: of the event, seconds; any.
      event: a pitch.
      codec: not used.

    Raises:
      TokenError: the event is no pitch.
    """
    if event.type != "pitch":
        raise TokenError(f"note decoder: found {event}; expected a pitch")
    end = time + DEFAULT_NOTE_DURATION
    state.notes.append(Note(time, end, event.value, DEFAULT_VELOCITY))


def decode_note_event(
    state: NoteDecodingState, time: float, event: Event, codec: event_codec.Codec
) -> None:
    """Takes an event of the encodings with offsets.

    Args:
      state: what the event changes.
      time: of the event, seconds.
      event: pitch, drum, velocity, program or tie.
      codec: its velocity bins are used.

    Raises:
      TokenError: the event is not valid here; it changes nothing but the time.
    """
    if time < state.current_time:
        raise TokenError(
            f"note decoder: found {event} at {time:f} s; expected none before "
            f"{state.current_time:f} s"
        )
    state.current_time = time
    problem = None
    key = (event.value, state.current_program)
    match event.type:
        case "velocity":
            num_bins = vocabularies.num_velocity_bins_from_codec(codec)
            velocity = vocabularies.bin_to_velocity(event.value, num_bins)
            state.current_velocity = velocity
        case "program":
            state.current_program = event.value
        case "pitch" if state.is_tie_section:
            if key in state.active_pitches and key not in state.tied_pitches:
                state.tied_pitches.add(key)
            else:
                problem = "a tie of a note that sounds, once"
        case "pitch":
            if key in state.active_pitches:
                state.end_note(*key, time)
            elif state.current_velocity == 0:
                problem = "an offset of a note that sounds"
            if state.current_velocity:
                state.active_pitches[key] = (time, state.current_velocity)
        case "drum":
            if state.current_velocity:
                end = time + DEFAULT_NOTE_DURATION
                velocity = state.current_velocity
                state.notes.append(Note(time, end, event.value, velocity, 0, True))
            else:
                problem = "a velocity above 0"
        case "tie":
            if state.is_tie_section:
                state.end_untied(time)
            else:
                problem = "ties in a tie section alone"
        case _:
            problem = "an event of a note"
    if problem:
        raise TokenError(
            f"note decoder: found {event} of program {state.current_program}; "
            f"expected {problem}"
        )


def begin_tied_pitches_section(state: NoteDecodingState) -> None:
    """Begins the tie section of a segment."""
    state.tied_pitches = set()
    state.is_tie_section = True


def flush_note_decoding_state(state: NoteDecodingState) -> note_seq.NoteSequence:
    """Ends every sounding note, and returns all notes as a NoteSequence.

    Raises:
      ConfigError: note-seq is not installed (`NoteDecodingState.finish` needs none).
    """
    return to_note_sequence(state.finish())


@dataclasses.dataclass(frozen=True)
class NoteEncodingSpecType(run_length_encoding.EventEncodingSpec):
    """The functions of one encoding of notes.

    Attributes:
      unclosed_ties: what a segment whose tie section has no end does to the notes
        that it did not declare: "keep" or "end".
    """

    unclosed_ties: Literal["keep", "end"] = "keep"

    def decode_tokens(
        self,
        state: NoteDecodingState,
        tokens: Sequence[int],
        start_time: float,
        max_time: float | None,
        codec: event_codec.Codec,
    ) -> tuple[int, int]:
        """Decodes a segment that was begun; see `run_length_encoding.decode_events`."""
        counts = super().decode_tokens(state, tokens, start_time, max_time, codec)
        if self.unclosed_ties == "end" and state.is_tie_section:
            state.end_untied(max(state.current_time, start_time))
        return counts


def _no_state() -> None:
    """The encoding state of encodings without."""


def _begin_plain_segment(unused_state: NoteDecodingState) -> None:
    """Nothing is to be done where segments have no tie section."""


NoteOnsetEncodingSpec = NoteEncodingSpecType(
    init_encoding_state_fn=_no_state,
    encode_event_fn=note_event_data_to_events,
    encoding_state_to_events_fn=None,
    init_decoding_state_fn=NoteDecodingState,
    begin_decoding_segment_fn=_begin_plain_segment,
    decode_event_fn=decode_note_onset_event,
    flush_decoding_state_fn=flush_note_decoding_state,
)
NoteEncodingSpec = dataclasses.replace(
    NoteOnsetEncodingSpec, decode_event_fn=decode_note_event
)
NoteEncodingWithTiesSpec = dataclasses.replace(
    NoteEncodingSpec,
    init_encoding_state_fn=NoteEncodingState,
    encoding_state_to_events_fn=note_encoding_state_to_events,
    begin_decoding_segment_fn=begin_tied_pitches_section,
)


def note_encoding_spec(
    onsets_only: bool,
    include_ties: bool,
    *,
    unclosed_ties: Literal["keep", "end"] = "keep",
) -> NoteEncodingSpecType:
    """Returns the encoding that these settings name.

    Args:
      onsets_only: encode onsets alone.
      include_ties: begin each segment with a tie section.
      unclosed_ties: see `NoteEncodingSpecType`; without ties it changes nothing.

    Raises:
      ConfigError: settings that exclude one another.
    """
    if onsets_only and include_ties:
        raise ConfigError("note encoding: onsets have no ties")
    spec = NoteEncodingWithTiesSpec if include_ties else NoteEncodingSpec
    if onsets_only:
        spec = NoteOnsetEncodingSpec
    if unclosed_ties not in ("keep", "end"):
        raise ConfigError(
            f"note encoding: unclosed_ties is {unclosed_ties!r}; expected 'keep' or "
            "'end'"
        )
    if unclosed_ties == spec.unclosed_ties:
        return spec
    return dataclasses.replace(spec, unclosed_ties=unclosed_ties)
