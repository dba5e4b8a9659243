"""Notes read from what the encoder hears in each frame, without the token decoder.

`FrameHearing` runs the encoder and its heads (`frame_heads`) over segments;
`FrameReader` reads the notes of one recording from what they say. The segments' middles
are joined, and frame t of the recording is frame t of the first segment's middle. These
rules read across the joins:

* Begin: a note begins in a frame where the log odds of this frame and the next together
  are a local maximum, and one of the two is likelier than a threshold. Onsets are
  marked in two frames, so their sum peaks in the first.
* Name: see `names`.
* End: where the pitch's next note begins, or where the note has stopped sounding: in a
  frame that is not likelier than h, unless it is likelier than 0.3 h and the next one
  sounds. h is 0.5, and 0.8 for pianos, whose strings ring on after the key.
* Time: the heads say where between two frames the onset lies. The centre of frame t is
  at t / frames per second + half the window. Notes that are shorter than 0.04 s by
  h = 0.5 are dropped.
* Velocity: from the front end's levels around the onset, relative to the loudness of
  the recording (`frame_heads.velocities`).
* Drums: as notes begin, but by a threshold of the recording's own, since drums in a
  mixture are less certain than drums alone.

`sensitivity` moves the thresholds of notes and of drums by log odds: 0.5 leaves them,
0 subtracts half of `SENSITIVITY_RANGE` from what is heard, 1 adds half of it.

A recording's frames are not kept: only a record of each note, and what the rules still
need of the last segment. Names, velocities and the drums' threshold go by the whole
recording once it has ended (`FrameReader.finish`); `take` goes by what came until then.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import frame_heads, network
from mt3.beyond import names
from mt3.configs import ModelConfig
from mt3.errors import ConfigError
from mt3.frame_heads import NUM_CLASSES, Heard
from mt3.harmonic_stem import LOWEST_PITCH, NUM_BANDS, NUM_PITCHES
from mt3.note_sequences import DEFAULT_NOTE_DURATION, DEFAULT_VELOCITY, Note
from mt3.vocabularies import NUM_PROGRAMS

ONSET_THRESHOLD = 0.4
SENSITIVITY_RANGE = 5.0
# Probabilities of sounding by which notes end: usually, and for pianos.
END_THRESHOLDS = (0.5, 0.8)
_PIANO = 0
# A frame that is this likely, against the threshold, may stand between two that sound.
_GAP = 0.3
SHORTEST_SECONDS = 0.04
# Least length of a note that is written.
_LEAST_SECONDS = 0.03
# Least length of a note that the next one of its pitch cuts short.
_SHORTEST_TRIMMED = 0.01
# Frames by which an onset may lie beside its frame's centre.
_FURTHEST = 0.6
# Drums: share of the percentile of all peaks above a level; at least a floor. It takes
# some likely hits; otherwise the threshold is that of notes.
DRUM_SHARE, DRUM_PERCENTILE, DRUM_LEVEL, DRUM_FLOOR = 0.35, 90, 0.1, 0.12
DRUM_SURE, DRUM_FEWEST = 0.5, 12
# Log odds of what is never heard, and of the least that counts as the next frame's.
_NEVER, _LEAST = -1e9, -20.0
# Notes of tokens belong to onsets that are heard this near to them.
MATCH_SECONDS = 0.05
# Segments that are computed together.
BATCH = 4
_CLASS_SIZE = NUM_PROGRAMS // NUM_CLASSES

_HIT_FIELDS = [
    ("frame", np.int64),
    ("pitch", np.int64),  # MIDI
    ("height", np.float32),  # probability, 0..1
    ("time", np.float32),  # frames from the frame's centre
]
_NOTE_FIELDS = [
    *_HIT_FIELDS,
    ("ends", np.int64, len(END_THRESHOLDS)),  # frames, `_OPEN` while unknown
    ("logits", np.float32, NUM_CLASSES),
]
_OPEN = -(1 << 40)


def _with_levels(fields: list[tuple], *, drums: bool) -> np.dtype:
    """Adds what velocities are told from (`frame_heads.velocity_features`)."""
    nothing = np.zeros(0, np.int64)
    silence = np.zeros((1, NUM_BANDS), np.float32)
    features = frame_heads.velocity_features(silence, nothing, nothing, drums=drums)
    return np.dtype([*fields, ("levels", np.float32, features.shape[1])])


_NOTE = _with_levels(_NOTE_FIELDS, drums=False)
_HIT = _with_levels(_HIT_FIELDS, drums=True)


def sigmoid(x: Any) -> Any:
    """Returns the probabilities of log odds."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x)))


def moved(threshold: float, sensitivity: float) -> float:
    """Returns a threshold (a probability) moved by a sensitivity, 0..1."""
    odds = np.log(threshold / (1.0 - threshold))
    return float(sigmoid(odds - log_odds_shift(sensitivity)))


def log_odds_shift(sensitivity: float) -> float:
    """Returns what is added to the log odds of onsets.

    Raises:
      ConfigError: a sensitivity that is not from 0 to 1.
    """
    if not 0.0 <= sensitivity <= 1.0:
        raise ConfigError(
            f"decoding: sensitivity is {sensitivity}; expected a number from 0 to 1"
        )
    return SENSITIVITY_RANGE * (sensitivity - 0.5)


class FrameHearing:
    """Runs the encoder and its heads; keeps their parameters, and no decoder's."""

    def __init__(
        self,
        params: Mapping[str, Any],
        config: network.T5Config,
        *,
        batch: int = BATCH,
        dtype: str | None = None,
    ):
        """Takes the parameters that it needs.

        Args:
          params: nested dict with `encoder` and `frame_heads`.
          config: sizes of the network.
          batch: segments that are computed together.
          dtype: computation type of the encoder; None is the model's.

        Raises:
          ConfigError: the network has no frame heads.
          CheckpointError: a parameter is missing.
        """
        self.heads = frame_heads.take(params, config)
        self._encoder = params["encoder"]
        self._config = dataclasses.replace(config, dtype=dtype or config.dtype)
        self._batch = batch

    def __call__(self, frames: np.ndarray) -> Heard:
        """Returns what is heard in segments, float32 [B, T, bands]; JAX arrays."""
        return _hear(self._config, self._encoder, self.heads, jnp.asarray(frames))

    def run(
        self, segments: Iterable[tuple[Hashable, np.ndarray]]
    ) -> Iterator[tuple[Hashable, Heard]]:
        """Hears any number of segments.

        It is one batch ahead of what it yields, but for the first: a recording's first
        notes should not wait.

        Args:
          segments: (key, frames [T, bands]); pulled as needed.

        Yields:
          Each key with what was heard, NumPy arrays [T, ...], in order.
        """
        pending: collections.deque[tuple[list[Hashable], Heard]] = collections.deque()
        for number, (keys, frames) in enumerate(self._batches(segments)):
            pending.append((keys, self(frames)))
            if not number or len(pending) > 1:
                yield from _apart(*pending.popleft())
        for batch in pending:
            yield from _apart(*batch)

    def one(self, frames: np.ndarray) -> Heard:
        """Returns what is heard in one segment [T, bands]; NumPy arrays [T, ...]."""
        ((_, heard),) = self.run([(None, frames)])
        return heard

    def _batches(
        self, segments: Iterable[tuple[Hashable, np.ndarray]]
    ) -> Iterator[tuple[list[Hashable], np.ndarray]]:
        """Yields batches, the last one filled up: one shape, one program."""
        source = iter(segments)
        while batch := list(itertools.islice(source, self._batch)):
            keys = [key for key, _ in batch]
            frames = [segment for _, segment in batch]
            frames += [np.zeros_like(frames[0])] * (self._batch - len(frames))
            yield keys, np.stack(frames)


@functools.partial(jax.jit, static_argnames="config")
def _hear(
    config: network.T5Config, encoder: Any, heads: Mapping[str, Any], frames: jax.Array
) -> Heard:
    encoded, sown = network.Encoder(config).apply(
        {"params": encoder}, frames, deterministic=True, mutable=["intermediates"]
    )
    described = sown["intermediates"]["harmonic_stem"]["described"][0]
    return frame_heads.hear(
        heads, frames, encoded.astype(jnp.float32), described.astype(jnp.float32)
    )


def _apart(keys: Sequence[Hashable], heard: Heard) -> Iterator[tuple[Hashable, Heard]]:
    arrays = [np.asarray(x) for x in heard]
    for row, key in enumerate(keys):
        yield key, Heard(*(x[row] for x in arrays))


class _Part(NamedTuple):
    """A segment, with where its first row lies in the recording."""

    heard: Heard
    first: int


class FrameReader:
    """Reads the notes of one recording, segment by segment; see the module."""

    def __init__(
        self,
        config: ModelConfig,
        heads: Mapping[str, Any],
        *,
        sensitivity: float = 0.5,
        programs: Sequence[int] | None = None,
        drums: bool = True,
        name: Callable[..., np.ndarray] = names.name_notes,
    ):
        """Starts a recording.

        Args:
          config: the model's.
          heads: parameters of the frame heads, of which those of velocities are used.
          sensitivity: 0..1, see the module.
          programs: General MIDI programs that may play; None for all.
          drums: whether drums may play.
          name: decides the classes of notes, as `names.name_notes` does.

        Raises:
          ConfigError: a sensitivity out of range.
        """
        self._config = config
        self._heads = {name: np.asarray(value) for name, value in heads.items()}
        self._loudness = frame_heads.Loudness.silence(NUM_BANDS)
        self._sensitivity = sensitivity
        self._onset_threshold = moved(ONSET_THRESHOLD, sensitivity)
        # Of drums, what decides about the threshold is kept too.
        self._drum_floor = min(DRUM_LEVEL, moved(DRUM_FLOOR, sensitivity))
        self._allowed, self._program_of = _classes_of(programs)
        self._drums = drums
        self._name = name
        spectrogram = config.spectrogram
        self._rate = spectrogram.frames_per_second
        self._centre = spectrogram.fft_size / (2 * spectrogram.hop_width)
        self._parts: list[_Part] = []
        # Log odds of frames that are still needed, from `_first` on: onsets, sounding,
        # drums.
        self._rows = [np.zeros((0, n)) for n in (NUM_PITCHES, NUM_PITCHES, 128)]
        self._first = self._decided = 0
        self._segments = 0
        self._open = np.zeros(0, _NOTE)
        self._notes: list[np.ndarray] = []
        self._hits: list[np.ndarray] = []
        # How many of them `take` has given.
        self._taken = [0, 0]
        self._votes = names.Votes(self._allowed if self._allowed.any() else None)
        self._heights = np.zeros(0, np.float32)

    def add(self, heard: Heard, *, last: bool, num_frames: int | None = None) -> None:
        """Takes the next segment.

        Args:
          heard: NumPy arrays [T, ...], context included.
          last: whether the recording ends with it.
          num_frames: frames of its middle that belong to the recording; all if None.
        """
        context, middle = self._config.context_frames, self._config.segment_frames
        begin = context if self._segments else 0
        end = context + (middle if num_frames is None else num_frames)
        part = _Part(heard, self._segments * middle - context)
        if not self._segments:
            self._first = self._decided = part.first
        self._segments += 1
        self._parts = [*self._parts[-1:], part]
        self._loudness = self._loudness.add(heard.frames[context:end])
        new = [heard.onset, heard.sounding, heard.drum_onset]
        # Four frames of silence, so that all rules come to their end.
        silence = 4 if last else 0
        for i, rows in enumerate(new):
            rows = np.pad(
                rows[begin:end], ((0, silence), (0, 0)), constant_values=_NEVER
            )
            self._rows[i] = np.concatenate([self._rows[i], rows])
        self._advance()

    def _advance(self) -> None:
        """Decides what the frames that are there can decide."""
        onsets, sounding, drums = self._rows
        first, begin = self._first, self._decided
        # A peak needs two frames more.
        end = max(begin, first + len(onsets) - 2)
        within = slice(begin - first, end - first)
        if self._allowed.any():
            frame, pitch, height = _peaks(onsets, within, self._onset_threshold)
            begun = self._records(frame + first, pitch, height, drum=False)
            self._end_notes(begun, sigmoid(sounding), begin, end)
        if self._drums:
            frame, key, height = _peaks(drums, within, self._drum_floor)
            hits = self._records(frame + first, key, height, drum=True)
            self._hits.append(hits)
            self._heights = np.concatenate([self._heights, hits["height"]])
        # Ends are one frame behind, and a peak is compared with the frame before.
        keep = max(end - 1, first)
        self._rows = [rows[keep - first :] for rows in self._rows]
        self._first, self._decided = keep, end

    def _records(
        self, frame: np.ndarray, index: np.ndarray, height: np.ndarray, *, drum: bool
    ) -> np.ndarray:
        """Returns what is to be known of onsets at frames of the recording, [n]."""
        records = np.zeros(len(frame), _HIT if drum else _NOTE)
        records["frame"], records["height"] = frame, height
        records["pitch"] = index if drum else index + LOWEST_PITCH
        # Onsets of the last frames of a segment are only known with the next one.
        newest = self._parts[-1].first + self._config.context_frames
        owner = np.where(frame < newest, 0, len(self._parts) - 1)
        for number, (heard, first) in enumerate(self._parts):
            mine = owner == number
            rows = np.clip(frame[mine] - first, 0, len(heard.onset) - 1)
            place = (rows, index[mine])
            if drum:
                records["time"][mine] = heard.drum_time[place]
            else:
                records["time"][mine] = heard.time[place]
                records["logits"][mine] = heard.classes[place]
                records["ends"] = _OPEN
            records["levels"][mine] = frame_heads.velocity_features(
                heard.frames, rows, records["pitch"][mine], drums=drum
            )
        return records

    def _end_notes(
        self, begun: np.ndarray, sounding: np.ndarray, begin: int, end: int
    ) -> None:
        """Ends notes by what is known of frames up to `end`.

        Args:
          begun: new notes, onsets in [begin, end).
          sounding: probabilities of the frames from `_first` on.
          begin: first frame whose peaks are new.
          end: first frame whose peaks are not known yet.
        """
        notes = np.concatenate([self._open, begun])
        notes = notes[np.lexsort([notes["frame"], notes["pitch"]])]
        column = notes["pitch"] - LOWEST_PITCH
        never = np.int64(1 << 40)
        following = np.full(len(notes), never)
        same = notes["pitch"][1:] == notes["pitch"][:-1]
        following[:-1] = np.where(same, notes["frame"][1:], never)
        # Frames in which an end can be decided: onsets there and in the next are known.
        low, high = self._first, max(end - 1, self._first)
        count = high - low
        for which, threshold in enumerate(END_THRESHOLDS):
            now, after = sounding[:count], sounding[1 : count + 1]
            sounds = (now > threshold) | (
                (after > threshold) & (now > _GAP * threshold)
            )
            place = np.where(sounds, never, np.arange(low, high)[:, None])
            place = np.concatenate([place, np.full((1, NUM_PITCHES), never)])
            stops = np.minimum.accumulate(place[::-1], axis=0)[::-1]
            earliest = notes["frame"] + 2
            ends = stops[np.clip(earliest - low, 0, count), column]
            # Before the next onset there is no next frame that sounds.
            before = np.clip(following - 1 - low, 0, len(sounding) - 1)
            cut = (following - 1 >= earliest) & (following < never)
            cut &= ~(sounding[before, column] > threshold)
            ends = np.minimum(ends, following - cut)
            known = notes["ends"][:, which]
            decided = (known == _OPEN) & (ends < never)
            notes["ends"][:, which] = np.where(decided, ends, known)
        ended = (notes["ends"] != _OPEN).all(axis=1)
        self._open = notes[~ended]
        self._notes.append(notes[ended])
        seconds = (end - begin) / self._rate
        self._votes.add(begun["pitch"], begun["logits"], seconds)

    def drum_threshold(self) -> float:
        """Returns the threshold of drum hits by what was heard until now."""
        heights = self._heights[self._heights > DRUM_LEVEL]
        threshold = ONSET_THRESHOLD
        if np.count_nonzero(heights > DRUM_SURE) >= DRUM_FEWEST:
            level = DRUM_SHARE * np.percentile(heights, DRUM_PERCENTILE)
            threshold = max(DRUM_FLOOR, float(level))
        return moved(threshold, self._sensitivity)

    def take(self) -> list[Note]:
        """Returns the notes that have ended since the last call."""
        taken, self._taken = self._taken, [len(self._notes), len(self._hits)]
        notes = _joined(self._notes[taken[0] :], _NOTE)
        hits = _joined(self._hits[taken[1] :], _HIT)
        classes = self._votes.classes(notes["pitch"])
        return sorted(self._to_notes(notes, classes) + self._drum(hits))

    def finish(self) -> list[Note]:
        """Returns all notes of the recording, by onset; the last segment was added."""
        notes, hits = _joined(self._notes, _NOTE), _joined(self._hits, _HIT)
        notes = notes[np.lexsort([notes["pitch"], notes["frame"]])]
        start, ends = self._starts(notes), self._ends(notes)
        heard = names.HeardNotes(
            start, ends[:, 0], notes["pitch"], notes["logits"], notes["height"]
        )
        allowed = None if self._allowed.all() else self._allowed
        classes = self._name(heard, allowed) if self._allowed.any() else None
        return _without_overlaps(self._to_notes(notes, classes) + self._drum(hits))

    def detail(self, notes: Sequence[Note]) -> list[Note]:
        """Gives notes of tokens the time, velocity and confidence that were heard.

        Each note takes those of the onset of its pitch that lies nearest, its end moves
        with its start, and it ends by the next onset of its pitch and program. Of notes
        of one program with the same onset, only the nearest moves to it. Where no onset
        was heard nearby, the time stays, the velocity is the others' median, and the
        confidence is 0.

        Args:
          notes: that ended by now.
        """
        detailed = []
        pitched = _joined([*self._notes, self._open], _NOTE)
        for drums, records in ((False, pitched), (True, _joined(self._hits, _HIT))):
            some = [note for note in notes if note.is_drum == drums]
            detailed += self._detailed(some, records)
        return _without_overlaps(detailed)

    def _detailed(self, notes: Sequence[Note], records: np.ndarray) -> list[Note]:
        """As `detail`, of notes and records that are all drums, or none."""
        starts = self._starts(records)
        pitch, time = (
            np.array([getattr(note, name) for note in notes], np.float64)
            for name in ("pitch", "start_time")
        )
        rows = _nearest(records["pitch"], starts, pitch, time)
        near = rows >= 0
        velocity = np.full(len(notes), DEFAULT_VELOCITY)
        if near.any():
            velocity[near] = self._velocities(records[rows[near]])
            velocity[~near] = np.median(velocity[near])
        moves = np.zeros(len(notes))
        moves[near] = starts[rows[near]] - time[near]
        taken: set[tuple[int, int]] = set()
        for i in np.argsort(np.abs(moves), kind="stable"):
            place = (int(rows[i]), notes[i].program)
            if place in taken:
                moves[i] = 0.0
            taken.add(place)
        changed = []
        for note, row, move, loud in zip(
            notes, rows, moves.tolist(), velocity, strict=True
        ):
            changed.append(
                dataclasses.replace(
                    note,
                    start_time=note.start_time + move,
                    end_time=note.end_time + move,
                    velocity=int(loud),
                    confidence=float(records["height"][row]) if row >= 0 else 0.0,
                )
            )
        return changed

    def _starts(self, records: np.ndarray) -> np.ndarray:
        """Returns seconds, [n]."""
        time = np.clip(records["time"], -_FURTHEST, _FURTHEST)
        start = (records["frame"] + time + self._centre) / self._rate
        return np.maximum(start, 0.0)

    def _ends(self, notes: np.ndarray) -> np.ndarray:
        """Returns seconds, [n, thresholds]."""
        return (notes["ends"] + self._centre) / self._rate

    def _velocities(self, records: np.ndarray) -> np.ndarray:
        """Returns MIDI velocities by what was heard until now, [n]."""
        return frame_heads.midi_velocities(
            self._heads,
            records["levels"],
            records["pitch"],
            self._loudness,
            drums=records.dtype == _HIT,
        )

    def _to_notes(self, notes: np.ndarray, classes: np.ndarray) -> list[Note]:
        start, ends = self._starts(notes), self._ends(notes)
        velocity = self._velocities(notes)
        made = []
        for i in np.flatnonzero(ends[:, 0] - start > SHORTEST_SECONDS - 1e-9):
            record, number = notes[i], int(classes[i])
            end = max(ends[i, int(number == _PIANO)], start[i] + _LEAST_SECONDS)
            made.append(
                Note(
                    float(start[i]),
                    float(end),
                    int(record["pitch"]),
                    int(velocity[i]),
                    self._program_of[number],
                    confidence=float(record["height"]),
                )
            )
        return made

    def _drum(self, hits: np.ndarray) -> list[Note]:
        hits = hits[hits["height"] > self.drum_threshold()]
        start, velocity = self._starts(hits), self._velocities(hits)
        return [
            Note(
                float(begin),
                float(begin) + DEFAULT_NOTE_DURATION,
                int(hit["pitch"]),
                int(loud),
                is_drum=True,
                confidence=float(hit["height"]),
            )
            for begin, loud, hit in zip(start, velocity, hits, strict=True)
        ]


def _joined(parts: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Returns records [n], also of no parts."""
    return np.concatenate([np.zeros(0, dtype), *parts])


def _peaks(
    logits: np.ndarray, within: slice, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds local maxima of pairs of frames.

    Args:
      logits: log odds [T, P]; two frames more than `within`, and one before it unless
        the recording begins there.
      within: frames that are looked at.
      threshold: of the likelier frame of each pair.

    Returns:
      Frames [n], columns [n], and probabilities [n] of the likelier frame.
    """
    following = logits[1:]
    pair = logits[:-1] + np.maximum(following, _LEAST)
    before = np.concatenate([np.full((1, logits.shape[1]), -np.inf), pair[:-1]])
    here = slice(within.start, max(within.start, within.stop))
    after = pair[here.start + 1 : here.stop + 1]
    height = sigmoid(np.maximum(logits[:-1], following)[here])
    highest = (pair[here] >= before[here]) & (pair[here] > after)
    frame, column = np.nonzero(highest & (height > threshold))
    return frame + here.start, column, height[frame, column]


def _nearest(
    pitches: np.ndarray, starts: np.ndarray, pitch: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Finds for each note the nearest onset of its pitch.

    Args:
      pitches: of the onsets, [N].
      starts: of the onsets, seconds [N].
      pitch: of the notes, [n].
      time: of the notes, seconds [n].

    Returns:
      Numbers of onsets, int64 [n]; -1 where none is within `MATCH_SECONDS`.
    """
    if not len(starts):
        return np.full(len(pitch), -1)
    # Further from one pitch to the next than any recording is long.
    apart = 1e6
    places = pitches * apart + starts
    order = np.argsort(places, kind="stable")
    wanted = pitch * apart + time
    after = np.searchsorted(places[order], wanted)
    beside = np.stack([after - 1, after])
    beside = order[np.clip(beside, 0, len(order) - 1)]
    distances = np.abs(places[beside] - wanted)
    rows = np.where(distances[0] <= distances[1], beside[0], beside[1])
    return np.where(distances.min(axis=0) <= MATCH_SECONDS, rows, -1)


def _without_overlaps(notes: Sequence[Note]) -> list[Note]:
    """Ends each note by the next onset of its pitch and program; by onset.

    Every note keeps a length of `_SHORTEST_TRIMMED` at least.
    """
    trimmed: list[Note] = []
    latest: dict[tuple[int, int, bool], int] = {}
    for note in sorted(notes):
        key = (note.pitch, note.program, note.is_drum)
        before = latest.get(key)
        if before is not None and trimmed[before].end_time > note.start_time:
            end = max(note.start_time, trimmed[before].start_time + _SHORTEST_TRIMMED)
            trimmed[before] = dataclasses.replace(trimmed[before], end_time=end)
        latest[key] = len(trimmed)
        trimmed.append(note)
    return trimmed


def _classes_of(
    programs: Sequence[int] | None,
) -> tuple[np.ndarray, dict[int, int]]:
    """Returns which classes may play, bool [NUM_CLASSES], and what they are written as.

    A class is written as its first program that was asked for.
    """
    listed = range(NUM_PROGRAMS) if programs is None else sorted(programs)
    first: dict[int, int] = {}
    for program in listed:
        first.setdefault(program // _CLASS_SIZE, program)
    return np.isin(np.arange(NUM_CLASSES), list(first)), first
