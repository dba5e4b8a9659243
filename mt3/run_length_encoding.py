"""Streams of events: index by frame, cut, run-length code, merge, decode.

A song's full stream holds one shift of one step per step, so that any frame can
be the start of a segment. A segment's tokens hold, before each group of
simultaneous events, one shift that is *absolute* from the segment's start.

All functions work on whole arrays. Differences from the original, numbered:

1. A state section after the last event is that of the time asked for.
2. Streams with tie sections are merged into one stream with one tie section. The
   original keeps one section per source, which splits held notes.
3. Where merged streams hold one pitch of one program together, the note ends with the
   last of them, and equal onsets count once. In the original the first offset ends
   the note, and later ones are invalid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mt3 import event_codec, vocabularies
from mt3.errors import ShapeError
from mt3.note_sequences import NoteDecoder, TimedEvents


@dataclasses.dataclass(frozen=True)
class IndexedEvents:
    """A song's event stream, and where each audio frame finds its part.

    Attributes:
      events: int32 [n], event indices; every shift is one step.
      event_start_indices: int32 [frames], first event of each frame.
      event_end_indices: int32 [frames], end (exclusive) of each frame's events.
      state_events: int32 [m], sections of program, pitch, ..., tie; empty where
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


def steps_of_times(times: np.ndarray, codec: event_codec.Codec) -> np.ndarray:
    """Rounds seconds to steps, halves to even as Python does; int64, same shape."""
    return np.rint(np.asarray(times) * codec.steps_per_second).astype(np.int64)


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
    timed: TimedEvents,
    frame_times: np.ndarray,
    codec: event_codec.Codec,
    *,
    with_state: bool = False,
) -> IndexedEvents:
    """Writes out a song's event stream and indexes it by audio frame.

    Events before the first frame are not part of the stream; with state they
    count in the sections.

    Args:
      timed: note events in time order.
      frame_times: float64 [frames], seconds, ascending, not empty.
      codec: event indices.
      with_state: whether to write state sections.

    Returns:
      The stream.

    Raises:
      ShapeError: there are no frames.
    """
    if len(frame_times) == 0:
        raise ShapeError("encode_and_index_events: got no frames; expected at least 1")
    steps = steps_of_times(timed.times, codec)
    frame_steps = first_steps_of_frames(np.asarray(frame_times, np.float64), codec)
    first_step = int(frame_steps[0])
    # The last frame is covered by a shift that leads past its start.
    last_step = int(frame_steps[-1]) + 1
    if len(steps):
        last_step = max(last_step, int(steps[-1]))
    num_shifts = last_step - first_step

    begin = int(np.searchsorted(steps, first_step))
    used_steps, used_tokens = steps[begin:], timed.tokens[begin:]
    present = used_tokens >= 0
    counts = present.sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(counts)])

    # Position of a token = the shifts before it + the tokens before it.
    shift_index, _ = codec.event_type_range(event_codec.SHIFT)
    events = np.full(num_shifts + int(ends[-1]), shift_index + 1, np.int32)
    token_steps = np.repeat(used_steps - first_step, counts)
    events[np.arange(len(token_steps)) + token_steps] = used_tokens[present]

    processed = np.searchsorted(used_steps, frame_steps)
    starts = (frame_steps - first_step) + ends[processed]
    state_events = np.zeros(0, np.int32)
    state_indices = np.zeros(len(starts), np.int32)
    if with_state:
        state_events, state_indices = _state_sections(timed, processed + begin, codec)
    return IndexedEvents(
        events=events,
        event_start_indices=starts.astype(np.int32),
        event_end_indices=np.append(starts[1:], len(events)).astype(np.int32),
        state_events=state_events,
        state_event_indices=state_indices,
    )


def _state_sections(
    timed: TimedEvents, processed: np.ndarray, codec: event_codec.Codec
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the notes sounding after each number of processed events.

    Args:
      timed: note events.
      processed: int [frames], events that precede each frame, ascending.
      codec: event indices.

    Returns:
      Sections, int32 [m], and each frame's start among them, int32 [frames].
    """
    points, which = np.unique(processed, return_inverse=True)
    # A note sounds from its onset to the next event of the same key.
    order = np.lexsort((np.arange(len(timed)), timed.keys))
    keys = timed.keys[order]
    following = np.full(len(timed), len(timed), np.int64)
    same = keys[:-1] == keys[1:]
    following[:-1][same] = order[1:][same]
    sounds = timed.is_on[order] & (keys >= 0)
    onset, offset, keys = order[sounds], following[sounds], keys[sounds]

    # Each note stands in all sections after its onset and not after its end.
    low = np.searchsorted(points, onset, side="right")
    high = np.searchsorted(points, offset, side="right")
    counts = np.maximum(high - low, 0)
    note = np.repeat(np.arange(len(onset)), counts)
    first_of_note = np.cumsum(counts) - counts
    section = np.arange(len(note)) - first_of_note[note] + low[note]
    order = np.lexsort((keys[note], section))
    section, keys = section[order], keys[note][order]

    sizes = np.bincount(section, minlength=len(points))
    section_starts = np.concatenate([[0], np.cumsum(2 * sizes + 1)])
    state_events = np.empty(section_starts[-1], np.int32)
    positions = 2 * np.arange(len(keys)) + section
    pitches = vocabularies.NUM_PITCHES
    state_events[positions] = codec.encode_values("program", keys // pitches)
    state_events[positions + 1] = codec.encode_values("pitch", keys % pitches)
    state_events[section_starts[1:] - 1] = codec.event_type_range("tie")[0]
    return state_events, section_starts[:-1][which].astype(np.int32)


def extract_segment(
    indexed: IndexedEvents,
    first_frame: int,
    num_frames: int,
    codec: event_codec.Codec,
) -> np.ndarray:
    """Returns the events of some frames, the state section first if there is one.

    Args:
      indexed: a song's stream.
      first_frame: first frame of the segment.
      num_frames: frames of the segment; fewer at the song's end.
      codec: event indices.

    Returns:
      int32 [n]; every shift is still one step.

    Raises:
      ShapeError: the song has no such frame.
    """
    if not 0 <= first_frame < indexed.num_frames or num_frames < 1:
        raise ShapeError(
            f"segment of {num_frames} frames at frame {first_frame}: expected at "
            f"least 1, within the song's {indexed.num_frames}"
        )
    last_frame = min(first_frame + num_frames, indexed.num_frames) - 1
    start = indexed.event_start_indices[first_frame]
    events = indexed.events[start : indexed.event_end_indices[last_frame]]
    if not len(indexed.state_events):
        return events
    begin = indexed.state_event_indices[first_frame]
    tie, _ = codec.event_type_range("tie")
    end = begin + np.argmax(indexed.state_events[begin:] == tie) + 1
    return np.concatenate([indexed.state_events[begin:end], events])


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
      events: int [n], each shift relative to the one before.
      codec: event indices.

    Returns:
      int32 [m]; trailing shifts are dropped.
    """
    is_shift = codec.is_type(events, event_codec.SHIFT)
    steps = np.cumsum(np.where(is_shift, codec.values(events), 0))
    return _with_shifts(events[~is_shift], steps[~is_shift], codec)


def remove_redundant_state_changes(
    events: np.ndarray,
    codec: event_codec.Codec,
    state_change_event_types: Sequence[str] = ("velocity", "program"),
) -> np.ndarray:
    """Removes events that set a state to the value that it has."""
    keep = np.ones(len(events), bool)
    for event_type in state_change_event_types:
        positions = np.flatnonzero(codec.is_type(events, event_type))
        values = events[positions]
        keep[positions[1:]] = values[1:] != values[:-1]
    return events[keep]


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
      tied: (program, pitch) events [k, 2] that each stream holds from before.
      codec: event indices.

    Returns:
      bool [n].
    """
    keep = np.ones(len(triples), bool)
    off, _ = codec.event_type_range("velocity")
    held = [set(map(tuple, pairs.tolist())) for pairs in tied]
    events: dict[tuple[int, int], list[int]] = {}
    for index, (program, _, note) in enumerate(triples.tolist()):
        events.setdefault((program, note), []).append(index)
    for key, indices in events.items():
        sounding = {stream for stream, keys in enumerate(held) if key in keys}
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


def merge_run_length_encoded_targets(
    targets: Sequence[np.ndarray], codec: event_codec.Codec
) -> np.ndarray:
    """Merges the streams of several segments that sound together.

    State changes are written out before every note, so the streams may have had
    their redundant ones removed or not; remove them from the result afterwards.

    Args:
      targets: streams int [n_i] of run-length coded events, without EOS.
      codec: event indices.

    Returns:
      int32 [m]: one tie section (if any stream has one) with the notes of all,
      each once, by program and pitch; then all other events by time, at equal
      times in the order of the streams.
    """
    tie, _ = codec.event_type_range("tie")
    tied, notes, note_steps, any_tie = [], [], [], False
    for stream in targets:
        stream = np.asarray(stream, np.int32)
        is_program = codec.is_type(stream, "program")
        is_velocity = codec.is_type(stream, "velocity")
        is_pitch = codec.is_type(stream, "pitch")
        program = _forward_fill(stream, is_program)
        velocity = _forward_fill(stream, is_velocity)
        ties = np.flatnonzero(stream == tie)
        body = int(ties[0]) + 1 if len(ties) else 0
        any_tie |= body > 0
        in_body = np.arange(len(stream)) >= body
        held = is_pitch & ~in_body
        tied.append(np.stack([program[held], stream[held]], axis=1))
        at = (is_pitch | codec.is_type(stream, "drum")) & in_body
        triples = np.stack([program[at], velocity[at], stream[at]], axis=1)
        triples[~is_pitch[at], 0] = -1  # Drums have no program.
        notes.append(triples)
        note_steps.append(absolute_steps(stream, codec)[at])
    section = np.zeros(0, np.int32)
    if any_tie:
        pairs = np.unique(np.concatenate(tied), axis=0)
        section = np.append(pairs[pairs >= 0], tie)
    triples = np.concatenate(notes) if notes else np.zeros((0, 3), np.int32)
    steps = np.concatenate(note_steps) if notes else np.zeros(0, np.int64)
    owners = np.repeat(np.arange(len(notes)), [len(stream) for stream in notes])
    order = np.argsort(steps, kind="stable")
    triples, steps, owners = triples[order], steps[order], owners[order]
    keep = _without_collisions(triples, steps, owners, tied, codec)
    triples, steps = triples[keep], steps[keep]
    present = triples >= 0
    body = _with_shifts(triples[present], np.repeat(steps, present.sum(1)), codec)
    return np.concatenate([section, body]).astype(np.int32)


def decode_events(
    decoder: NoteDecoder,
    tokens: Sequence[int],
    start_time: float,
    max_time: float | None,
    codec: event_codec.Codec,
) -> tuple[int, int]:
    """Feeds one segment's tokens to a decoder. Never raises on any integers.

    Args:
      decoder: takes the events; keeps the notes.
      tokens: event indices of the segment, up to but without EOS; ids outside
        the codec are invalid.
      start_time: start of the segment, seconds.
      max_time: tokens after the first shift that leads past this are dropped;
        None for no limit.
      codec: event indices.

    Returns:
      Numbers of invalid and of dropped tokens.
    """
    tokens = np.asarray(tokens, np.int64).reshape(-1)
    valid = (tokens >= 0) & (tokens < codec.num_classes)
    types = [event_range.type for event_range in codec.event_ranges]
    type_numbers = codec.type_numbers(np.where(valid, tokens, 0)).tolist()
    values = codec.values(np.where(valid, tokens, 0)).tolist()
    invalid = 0
    steps = 0
    time = start_time
    for position, is_valid in enumerate(valid.tolist()):
        if not is_valid:
            invalid += 1
            continue
        number = type_numbers[position]
        if number == 0:
            steps += values[position]
            time = start_time + steps / codec.steps_per_second
            # A limit of 0 s is none, as in the original.
            if max_time and time > max_time:
                return invalid, len(tokens) - position
            continue
        steps = 0
        if not decoder.accept(time, types[number], values[position]):
            invalid += 1
    return invalid, 0
