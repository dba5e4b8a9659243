"""Streams of events: index by frame, cut, run-length code, merge, decode.

A song's full stream has one shift of one step for every step, so that any frame can
be the start of a segment. A segment's tokens have, before each group of simultaneous
events, one shift that is *absolute* from the segment's start.

An `EventEncodingSpec` names the functions of one encoding. Functions here work on whole
arrays: event values that know how to encode themselves together (`EventColumns`, such
as `note_sequences.NoteEvents`) are encoded at once, all others one by one by the
`encode_event_fn` at hand.

Differences from the original, numbered:

1. In the original, frames after a song's last event have the state before that event,
   so that notes which have ended are declared as tied. `encode_and_index_events` and
   its callers have `stale_end_state` (default True) for this. With False the state is
   that of the frame, also where a song has no events at all.
2. In the original, events before 0 s count as if they were at 0 s. With
   `clip_early_events=False` (default True) they only count in the state.
3. The original merges streams with tie sections one after the other, which splits
   held notes, and cuts a stream at a shift of 0 steps. With `one_tie_section=True`
   (default False), `merge_run_length_encoded_targets` writes one tie section, and a
   note that several streams hold ends with the last of them; equal onsets count once.
4. A stream without events has no state section in the original, and cutting a segment
   from it fails. Here the segment has an empty section.
5. Arrays are int32 where the original has int64 (or float64, if empty), and functions
   of tokens return the kind of array that they get.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from mt3 import event_codec, vocabularies
from mt3.errors import DataError, ShapeError, TokenError

if TYPE_CHECKING:
    import tensorflow as tf

Event = event_codec.Event

# What the functions of an encoding hand to one another.
EventData = Any
EncodingState = Any
DecodingState = Any
DecodeResult = Any
T = TypeVar("T", bound=EventData)
ES = TypeVar("ES", bound=EncodingState)
DS = TypeVar("DS", bound=DecodingState)

EncodeEventFn = Callable[[Any, Any, event_codec.Codec], Sequence[Event]]
StateToEventsFn = Callable[[Any], Sequence[Event]]
DecodeEventFn = Callable[[Any, float, Event, event_codec.Codec], None]

# Of notes after a song's last frame. Every step until then takes memory.
_LONGEST_REST_SECONDS = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class EventEncodingSpec:
    """The functions of one encoding of timed events.

    Attributes:
      init_encoding_state_fn: () -> a state to encode from.
      encode_event_fn: (state, value, codec) -> the events of one value; changes the
        state.
      encoding_state_to_events_fn: (state) -> events that describe the state; None
        where segments begin without.
      init_decoding_state_fn: () -> a state to decode into.
      begin_decoding_segment_fn: (state) -> None; called before each segment.
      decode_event_fn: (state, time in seconds, event, codec) -> None; changes the
        state, or raises ValueError where the event is not valid.
      flush_decoding_state_fn: (state) -> the result.
    """

    init_encoding_state_fn: Callable[[], Any]
    encode_event_fn: EncodeEventFn
    encoding_state_to_events_fn: StateToEventsFn | None
    init_decoding_state_fn: Callable[[], Any]
    begin_decoding_segment_fn: Callable[[Any], None]
    decode_event_fn: DecodeEventFn
    flush_decoding_state_fn: Callable[[Any], Any]

    def decode_tokens(
        self,
        state: Any,
        tokens: Sequence[int],
        start_time: float,
        max_time: float | None,
        codec: event_codec.Codec,
    ) -> tuple[int, int]:
        """Decodes a segment that was begun; see `decode_events`."""
        return decode_events(
            state, tokens, start_time, max_time, codec, self.decode_event_fn
        )


class EncodedEvents(NamedTuple):
    """What event values were encoded as.

    Attributes:
      tokens: int32 [m], event indices of all values, one after the other.
      counts: int [n], how many of them each value has.
      state_tokens: int32 [s], the state before each value, and after the last.
      state_starts: int [n + 1], where each of these states begins.
    """

    tokens: np.ndarray
    counts: np.ndarray
    state_tokens: np.ndarray
    state_starts: np.ndarray


class EventColumns(Sequence[Any], abc.ABC):
    """Event values that can be encoded together."""

    @abc.abstractmethod
    def encode(
        self,
        order: np.ndarray,
        state: Any,
        encode_event_fn: EncodeEventFn,
        codec: event_codec.Codec,
        encoding_state_to_events_fn: StateToEventsFn | None,
    ) -> EncodedEvents | None:
        """Encodes the values in some order, as the functions would one by one.

        Args:
          order: int [n], indices of the values.
          state: the state to begin with; becomes the state at the end.
          encode_event_fn: as for `encode_and_index_events`.
          codec: event indices.
          encoding_state_to_events_fn: as for `encode_and_index_events`.

        Returns:
          The events; None where these functions are not known.
        """


class IndexedEvents(NamedTuple):
    """A song's event stream, and where each audio frame finds its part.

    Attributes:
      events: int32 [n], event indices; every shift is one step.
      event_start_indices: int32 [frames], first event of each frame.
      event_end_indices: int32 [frames], end (exclusive) of each frame's events.
      state_events: int32 [m], sections such as program, pitch, ..., tie; empty where
        the encoding has no state.
      state_event_indices: int32 [frames], start of each frame's section.
    """

    events: np.ndarray
    event_start_indices: np.ndarray
    event_end_indices: np.ndarray
    state_events: np.ndarray
    state_event_indices: np.ndarray

    @property
    def num_frames(self) -> int:
        """Number of audio frames."""
        return len(self.event_start_indices)


def first_steps_of_frames(
    frame_times: np.ndarray, codec: event_codec.Codec
) -> np.ndarray:
    """Returns the last step that is not after each frame's start, int64 [frames]."""
    rate = codec.steps_per_second
    steps = np.floor(frame_times * rate).astype(np.int64)
    # The product may round across a step; the comparison in seconds decides.
    steps += (steps + 1) / rate <= frame_times
    steps -= steps / rate > frame_times
    return steps


def encode_and_index_events(
    state: Any,
    event_times: Sequence[float] | np.ndarray,
    event_values: Sequence[Any],
    encode_event_fn: EncodeEventFn,
    codec: event_codec.Codec,
    frame_times: Sequence[float] | np.ndarray,
    encoding_state_to_events_fn: StateToEventsFn | None = None,
    *,
    stale_end_state: bool = True,
    clip_early_events: bool = True,
) -> IndexedEvents:
    """Writes a song's event stream and indexes it by audio frame.

    Args:
      state: the state to encode from; it is left as after the last event.
      event_times: [n], seconds, in any order; rounded to steps, halves to even.
        Events at equal times keep their order.
      event_values: [n], what happens at these times.
      encode_event_fn: (state, value, codec) -> events of one value.
      codec: event indices.
      frame_times: [frames], seconds, ascending, not empty.
      encoding_state_to_events_fn: (state) -> events that describe the state; None
        for no state sections.
      stale_end_state: difference 1.
      clip_early_events: difference 2.

    Returns:
      The stream. There is a section for the state before each event, and with
      `stale_end_state=False` for the state at the end.

    Raises:
      ShapeError: there are no frames.
      TokenError: a value has no event in the codec.
      DataError: an event is not at a finite time, or a day after the last frame.
    """
    if len(frame_times) == 0:
        raise ShapeError("encode_and_index_events: got no frames; expected at least 1")
    times = np.asarray(event_times, np.float64)
    latest = float(frame_times[-1]) + _LONGEST_REST_SECONDS
    if not (np.abs(times) <= latest).all():
        wrong = times[~(np.abs(times) <= latest)][0]
        raise DataError(
            f"encoding notes: found an event at {wrong:g} s; expected none later than "
            f"{latest:g} s, a day after the last frame"
        )
    order = np.argsort(times, kind="stable")
    encoded = None
    arguments = (state, encode_event_fn, codec, encoding_state_to_events_fn)
    if isinstance(event_values, EventColumns):
        encoded = event_values.encode(order, *arguments)
    if encoded is None:
        encoded = _encode_one_by_one([event_values[i] for i in order], *arguments)

    steps = np.rint(times[order] * codec.steps_per_second).astype(np.int64)
    if clip_early_events:
        steps = np.maximum(steps, 0)
    frame_steps = first_steps_of_frames(np.asarray(frame_times, np.float64), codec)
    frame_steps = np.maximum(frame_steps, 0)
    # The last frame is covered by a shift that leads past its start.
    last_step = int(steps[-1]) if len(steps) else 0
    num_shifts = max(int(frame_steps[-1]) + 1, last_step)

    # The position of a token = the shifts before it + the tokens before it.
    ends = np.append(0, np.cumsum(encoded.counts))
    begin = ends[np.searchsorted(steps, 0)]
    shift, _ = codec.event_type_range(event_codec.SHIFT)
    events = np.full(num_shifts + ends[-1] - begin, shift + 1, np.int32)
    positions = np.arange(ends[-1] - begin)
    positions += np.repeat(steps, encoded.counts)[begin:]
    events[positions] = encoded.tokens[begin:]

    before = np.searchsorted(steps, frame_steps)
    starts = frame_steps + ends[before] - begin
    if stale_end_state:
        # No section is written after the last event, nor referred to after the last
        # shift that leads to an event.
        state_events = encoded.state_tokens[: encoded.state_starts[-1]]
        before = np.minimum(before, np.searchsorted(steps, last_step))
    else:
        state_events = encoded.state_tokens
    return IndexedEvents(
        events=events,
        event_start_indices=starts.astype(np.int32),
        event_end_indices=np.append(starts[1:], len(events)).astype(np.int32),
        state_events=state_events,
        state_event_indices=encoded.state_starts[before].astype(np.int32),
    )


def _encode_one_by_one(
    values: Sequence[Any],
    state: Any,
    encode_event_fn: EncodeEventFn,
    codec: event_codec.Codec,
    encoding_state_to_events_fn: StateToEventsFn | None,
) -> EncodedEvents:
    tokens: list[int] = []
    ends: list[int] = []
    state_tokens: list[int] = []
    state_starts: list[int] = []

    def write_state() -> None:
        state_starts.append(len(state_tokens))
        if encoding_state_to_events_fn is not None:
            state_tokens.extend(
                map(codec.encode_event, encoding_state_to_events_fn(state))
            )

    for value in values:
        write_state()
        tokens.extend(map(codec.encode_event, encode_event_fn(state, value, codec)))
        ends.append(len(tokens))
    write_state()
    return EncodedEvents(
        np.array(tokens, np.int32),
        np.diff(np.array(ends, np.int64), prepend=0),
        np.array(state_tokens, np.int32),
        np.array(state_starts, np.int64),
    )


def extract_segment(
    indexed: IndexedEvents,
    first_frame: int,
    num_frames: int,
    state_events_end_token: int | None = None,
) -> np.ndarray:
    """Returns the events of some frames, the state section first if there is one.

    Args:
      indexed: a song's stream.
      first_frame: first frame of the segment.
      num_frames: frames of the segment; fewer at the song's end.
      state_events_end_token: the event that ends a state section; None for segments
        without.

    Returns:
      int32 [n]; every shift is still one step.

    Raises:
      ShapeError: the song has no such frame.
      TokenError: the state section has no end.
    """
    if not 0 <= first_frame < indexed.num_frames or num_frames < 1:
        raise ShapeError(
            f"segment of {num_frames} frames at frame {first_frame}: expected at "
            f"least 1, within the song's {indexed.num_frames}"
        )
    last_frame = min(first_frame + num_frames, indexed.num_frames) - 1
    start = indexed.event_start_indices[first_frame]
    events = indexed.events[start : indexed.event_end_indices[last_frame]]
    if state_events_end_token is None:
        return events
    section = indexed.state_events[indexed.state_event_indices[first_frame] :]
    if not len(indexed.state_events):
        section = np.array([state_events_end_token], events.dtype)
    is_end = section == state_events_end_token
    end = np.argmax(is_end) + 1 if len(is_end) else 0
    if not is_end[end - 1 : end].any():
        raise TokenError(
            f"segment at frame {first_frame}: its state section has no end, which "
            f"is token {state_events_end_token}"
        )
    return np.concatenate([section[:end], events])


def extract_target_sequence_with_indices(
    features: Any, state_events_end_token: int | None = None
) -> Any:
    """Replaces `targets`, a song's stream, by the events of the frames at hand.

    Args:
      features: an example, or a `tf.data.Dataset` of examples, with `targets`,
        `input_event_start_indices`, `input_event_end_indices` and, where there are
        state sections, `state_events` and `input_state_event_indices`; arrays or
        tensors. See `IndexedEvents`.
      state_events_end_token: as for `extract_segment`.

    Returns:
      The same with other `targets`.
    """
    names = ["targets", "input_event_start_indices", "input_event_end_indices"]
    if state_events_end_token is not None:
        names += ["state_events", "input_state_event_indices"]

    def segment(*arrays: np.ndarray) -> np.ndarray:
        none = (np.zeros(0, np.int32),) * (5 - len(arrays))
        indexed = IndexedEvents(*arrays, *none)
        return extract_segment(indexed, 0, indexed.num_frames, state_events_end_token)

    def extract(example: Mapping[str, Any]) -> dict[str, Any]:
        arrays = [example[name] for name in names]
        return {**example, "targets": vocabularies.apply_to_array(segment, *arrays)}

    return features.map(extract) if hasattr(features, "map") else extract(features)


def _with_shifts(
    tokens: np.ndarray, steps: np.ndarray, codec: event_codec.Codec
) -> np.ndarray:
    """Puts absolute shifts before each group of tokens of one step.

    A group at the very start (step 0) has no shift. A shift longer than the codec
    allows is split into several that add up.
    """
    previous = np.concatenate([[0], steps[:-1]])
    longest = codec.max_shift_steps
    if len(steps) and steps[-1] <= longest:
        # As nearly always: no shift is split.
        moves = steps > previous
        positions = np.arange(len(tokens)) + np.cumsum(moves)
        out = np.empty(positions[-1] + 1, np.int32)
        out[positions] = tokens
        first, _ = codec.event_type_range(event_codec.SHIFT)
        out[positions[moves] - 1] = first + steps[moves]
        return out
    counts = np.where(steps > previous, -(-steps // longest), 0)
    owner = np.repeat(np.arange(len(tokens)), counts)
    rank = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    shifts = np.minimum(longest, steps[owner] - rank * longest)
    out = np.empty(len(tokens) + len(owner), np.int32)
    token_positions = np.arange(len(tokens)) + np.cumsum(counts)
    is_token = np.zeros(len(out), bool)
    is_token[token_positions] = True
    out[is_token] = tokens
    out[~is_token] = codec.encode_values(event_codec.SHIFT, shifts)
    return out


def run_length_encode_shifts(
    events: np.ndarray, codec: event_codec.Codec
) -> np.ndarray:
    """Replaces runs of shifts by shifts that are absolute from the start.

    Args:
      events: int [n]; each shift counts as one step.
      codec: event indices.

    Returns:
      int32 [m]; trailing shifts are dropped.
    """
    is_shift = codec.is_type(events, event_codec.SHIFT)
    steps = np.cumsum(is_shift)
    return _with_shifts(events[~is_shift], steps[~is_shift], codec)


def run_length_encode_shifts_fn(
    codec: event_codec.Codec, feature_key: str = "targets"
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns `run_length_encode_shifts` for a feature of a dataset's examples."""
    return _feature_map(lambda t: run_length_encode_shifts(t, codec), feature_key)


def remove_redundant_state_changes(
    events: np.ndarray,
    codec: event_codec.Codec,
    state_change_event_types: Sequence[str] = ("velocity", "program"),
) -> np.ndarray:
    """Removes events that set a state to the value that it has, from int [n]."""
    keep = np.ones(len(events), bool)
    for event_type in state_change_event_types:
        positions = np.flatnonzero(codec.is_type(events, event_type))
        # Index 0 is a shift, so the first state change of a stream always stays.
        previous = np.concatenate([[0], events[positions[:-1]]])
        keep[positions] = events[positions] != previous[: len(positions)]
    return events[keep]


def remove_redundant_state_changes_fn(
    codec: event_codec.Codec,
    feature_key: str = "targets",
    state_change_event_types: Sequence[str] = (),
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns `remove_redundant_state_changes` for a feature of a dataset's examples.

    The original's parameters: no type of event is removed unless it is named.
    """
    types = tuple(state_change_event_types)
    return _feature_map(
        lambda t: remove_redundant_state_changes(t, codec, types), feature_key
    )


def _feature_map(
    function: Callable[[np.ndarray], np.ndarray], feature_key: str
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a map over datasets that replaces one feature, which becomes int32."""

    def replace(example: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        tokens = tf.cast(example[feature_key], tf.int32)
        return {**example, feature_key: vocabularies.apply_to_array(function, tokens)}

    return lambda ds: ds.map(replace)


def absolute_steps(events: np.ndarray, codec: event_codec.Codec) -> np.ndarray:
    """Returns each event's step from the segment's start.

    Consecutive shifts add up; a shift after any other event starts from zero.

    Args:
      events: int [n] of run-length coded events.
      codec: event indices.

    Returns:
      int64 [n]; for a shift the step it leads to.
    """
    is_shift = codec.is_type(events, event_codec.SHIFT)
    running = np.cumsum(np.where(is_shift, codec.values(events), 0))
    fresh = is_shift & ~np.concatenate([[False], is_shift[:-1]])
    before = np.where(fresh, running - codec.values(events), 0)
    return running - np.maximum.accumulate(before) if len(events) else running


def merge_run_length_encoded_targets(
    targets: Any, codec: event_codec.Codec, *, one_tie_section: bool = False
) -> Any:
    """Merges the streams of several segments that sound together, by time.

    Args:
      targets: int [streams, n], run-length coded events without EOS, filled up with
        zeros, as an array or a tensor; or a sequence of int [n_i].
      codec: event indices.
      one_tie_section: difference 3. State changes are then written out before every
        note, so the streams may have had their redundant ones removed; remove
        them from the result.

    Returns:
      int [m]: all events by time, at equal times in the order of the streams; with
      `one_tie_section` after one tie section (if any stream has one) with the
      notes of all, each once, by program and pitch.
    """
    merge = _merge_with_one_tie_section if one_tie_section else _merge_groups
    if isinstance(targets, (list, tuple)):
        return merge([np.asarray(row, np.int32) for row in targets], codec)
    return vocabularies.apply_to_array(lambda rows: merge(rows, codec), targets)


def _merge_groups(
    streams: Sequence[np.ndarray], codec: event_codec.Codec
) -> np.ndarray:
    """Merges as the original does: by the numbers of shifts, group by group."""
    groups = []
    for number, stream in enumerate(streams):
        shift, latest = 0, 0
        # A shift of 0 steps is what streams are filled up with.
        stream = stream[: np.append(np.flatnonzero(stream == 0), len(stream))[0]]
        starts = np.flatnonzero(codec.is_type(stream, event_codec.SHIFT))
        for group in np.split(stream, starts):
            if len(group) and codec.is_shift_event_index(group[0]):
                shift, group = int(group[0]), group[1:]
            latest = max(latest, shift)
            # At the start the last stream comes first, as in the original.
            groups.append((latest, number if latest else -number, shift, group))
    merged: list[np.ndarray] = [np.zeros(0, np.int32)]
    now = 0
    for _, _, shift, group in sorted(groups, key=lambda group: group[:2]):
        if shift != now:
            merged.append(np.array([shift]))
            now = shift
        merged.append(group)
    return np.concatenate(merged).astype(np.int32)


def _merge_with_one_tie_section(
    streams: Sequence[np.ndarray], codec: event_codec.Codec
) -> np.ndarray:
    tie, _ = codec.event_type_range("tie")
    tied, notes, note_steps, any_tie = [], [], [], False
    for stream in streams:
        is_program = codec.is_type(stream, "program")
        is_velocity = codec.is_type(stream, "velocity")
        is_pitch = codec.is_type(stream, "pitch")
        program = _forward_fill(stream, is_program)
        velocity = _forward_fill(stream, is_velocity)
        ties = np.flatnonzero(stream == tie)
        body = int(ties[0]) + 1 if len(ties) else 0
        any_tie |= body > 0
        in_body = np.arange(len(stream)) >= body
        declared = is_pitch & ~in_body
        tied.append(np.stack([program[declared], stream[declared]], axis=1))
        at = (is_pitch | codec.is_type(stream, "drum")) & in_body
        triples = np.stack([program[at], velocity[at], stream[at]], axis=1)
        triples[~is_pitch[at], 0] = -1  # Drums have no program.
        notes.append(triples)
        note_steps.append(absolute_steps(stream, codec)[at])
    section = np.zeros(0, np.int32)
    if any_tie:
        pairs = np.unique(np.concatenate(tied), axis=0)
        section = np.append(pairs[pairs >= 0], tie)
    triples = np.concatenate([np.zeros((0, 3), np.int32), *notes])
    steps = np.concatenate([np.zeros(0, np.int64), *note_steps])
    owners = np.repeat(np.arange(len(notes)), [len(stream) for stream in notes])
    order = np.argsort(steps, kind="stable")
    triples, steps, owners = triples[order], steps[order], owners[order]
    keep = _without_collisions(triples, steps, owners, tied, codec)
    triples, steps = triples[keep], steps[keep]
    present = triples >= 0
    body = _with_shifts(triples[present], np.repeat(steps, present.sum(1)), codec)
    return np.concatenate([section, body]).astype(np.int32)


def _forward_fill(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The last present value at or before each position, -1 if none."""
    last = np.maximum.accumulate(np.where(present, np.arange(len(values)), -1))
    return np.where(last >= 0, values[last], -1)


def _without_collisions(
    triples: np.ndarray,
    steps: np.ndarray,
    owners: np.ndarray,
    tied: Sequence[np.ndarray],
    codec: event_codec.Codec,
) -> np.ndarray:
    """Which merged notes to keep where several streams play one pitch or drum.

    Args:
      triples: int [n, 3], program, velocity and pitch or drum events in time order.
      steps: int [n], their times.
      owners: int [n], the streams they come from.
      tied: (program, pitch) events [k, 2] that sound at the start of each stream.
      codec: event indices.

    Returns:
      bool [n].
    """
    keep = np.ones(len(triples), bool)
    off, _ = codec.event_type_range("velocity")
    sounds_first = [set(map(tuple, pairs.tolist())) for pairs in tied]
    events: dict[tuple[int, int], list[int]] = {}
    for index, (program, _, note) in enumerate(triples.tolist()):
        events.setdefault((program, note), []).append(index)
    for key, indices in events.items():
        sounding = {stream for stream, keys in enumerate(sounds_first) if key in keys}
        if len(sounding | set(owners[indices].tolist())) < 2:
            continue
        last_onset = -1
        for index in indices:
            stream, step = int(owners[index]), int(steps[index])
            if triples[index, 1] != off:
                sounding.add(stream)
                keep[index] = step != last_onset
                last_onset = step
            else:
                sounding.discard(stream)
                keep[index] = not sounding
    return keep


def decode_events(
    state: Any,
    tokens: Sequence[int] | np.ndarray,
    start_time: float,
    max_time: float | None,
    codec: event_codec.Codec,
    decode_event_fn: DecodeEventFn,
) -> tuple[int, int]:
    """Feeds one segment's tokens to a decoding state. Never raises on any integers.

    Args:
      state: takes the events.
      tokens: event indices [n] of the segment, up to but without EOS; ids outside
        the codec are invalid.
      start_time: start of the segment, seconds.
      max_time: tokens from the first shift that leads past this time on are dropped;
        None (or 0, as in the original) for no limit.
      codec: event indices.
      decode_event_fn: (state, time, event, codec) -> None; raises ValueError where
        the event is not valid.

    Returns:
      Numbers of invalid and of dropped tokens.
    """
    tokens = np.asarray(tokens, np.int64).reshape(-1).tolist()
    events, rate = codec.events, codec.steps_per_second
    num_classes, max_shift = codec.num_classes, codec.max_shift_steps
    invalid = steps = 0
    time = start_time
    for position, token in enumerate(tokens):
        if not 0 <= token < num_classes:
            invalid += 1
        elif token <= max_shift:
            steps += token
            time = start_time + steps / rate
            if max_time and time > max_time:
                return invalid, len(tokens) - position
        else:
            steps = 0
            try:
                decode_event_fn(state, time, events[token], codec)
            except ValueError:
                invalid += 1
    return invalid, 0


def decode_segments(
    predictions: Iterable[tuple[float, Sequence[int]]],
    init_state_fn: Callable[[], DS],
    begin_segment_fn: Callable[[DS], None],
    decode_tokens_fn: Callable[
        [DS, Sequence[int], float, float | None], tuple[int, int]
    ],
    flush_state_fn: Callable[[DS], Any],
) -> tuple[Any, int, int]:
    """Joins the predictions of one song's segments.

    Args:
      predictions: (start time in seconds, event tokens without EOS), in any order.
      init_state_fn: () -> a decoding state.
      begin_segment_fn: (state) -> None; called before each segment.
      decode_tokens_fn: (state, tokens, start time, start time of the next segment or
        None) -> numbers of invalid and of dropped tokens.
      flush_state_fn: (state) -> the result.

    Returns:
      The result, and the numbers of invalid and of dropped tokens of all segments.
    """
    predictions = sorted(predictions, key=lambda prediction: prediction[0])
    following = [start for start, _ in predictions[1:]]
    state = init_state_fn()
    total_invalid = total_dropped = 0
    for (start, tokens), next_start in zip(
        predictions, [*following, None], strict=False
    ):
        begin_segment_fn(state)
        invalid, dropped = decode_tokens_fn(state, tokens, start, next_start)
        total_invalid += invalid
        total_dropped += dropped
    return flush_state_fn(state), total_invalid, total_dropped
