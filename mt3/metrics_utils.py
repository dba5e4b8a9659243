"""Building blocks of the transcription metrics: note arrays, matching, piano rolls.

Everything here reads notes and changes none of them. The rules are those of the
published system (its evaluation code and `mir_eval`):

1. A note is matched when pitch is equal and the onset within a tolerance; with
   offsets, when the offset too lies within the larger of 20 % of the reference
   note's length and a minimum tolerance. `mir_eval` does the matching; here the
   notes are only split into blocks that cannot match one another (by pitch, then
   at silences), so that an hour of music needs no matrix of all pairs. The
   matching found is the one that `mir_eval` finds for the whole song.
2. Notes without length cannot be matched (`mir_eval` refuses them) and are left
   out; piano rolls still show them, lengthened.
3. Piano rolls have the meaning of `pretty_midi`: 62.5 frames a second, a note
   covers frames `int(start * rate)` up to `int(end * rate)`, overlapping
   velocities add up. Pitched notes last at least 50 ms, drum hits exactly 50 ms.

Difference from the original: there, making a piano roll lengthens the notes
themselves, and whatever is computed afterwards reads the lengthened ones. Here
`NoteArrays.lengthened` returns new notes, and only the metrics that ask for the
original's side effects read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from mt3 import errors
from mt3.note_sequences import Note
from mt3.tokenizer import NoteTokenizer, decode_predictions
from mt3.vocabularies import NUM_PITCHES, NUM_PROGRAMS

FRAMES_PER_SECOND = 62.5
MIN_ROLL_SECONDS = 0.05
# Reference frames at or below this velocity count as silent.
REFERENCE_VELOCITY_THRESHOLD = 30
# mir_eval rounds distances to 0.1 ms; blocks must not split what rounding joins.
_ROUNDING_MARGIN = 1e-3
# Pairs of notes compared at once: 2**20 pairs are 8 MB per matrix in mir_eval.
_MAX_PAIRS = 2**20
_BLOCK_NOTES = 512


@dataclasses.dataclass(frozen=True)
class NoteArrays:
    """The notes of one song as columns, in the order given.

    Attributes:
      start: float64 [notes], onsets in seconds.
      end: float64 [notes], offsets in seconds.
      pitch: int64 [notes], MIDI numbers.
      velocity: int64 [notes], MIDI velocities.
      program: int64 [notes], MIDI programs.
      is_drum: bool [notes].
    """

    start: np.ndarray
    end: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    program: np.ndarray
    is_drum: np.ndarray

    @classmethod
    def from_notes(cls, notes: Iterable[Note]) -> NoteArrays:
        """Gathers the columns of `notes`.

        Raises:
          MidiError: a pitch or program outside 0..127 or a time that is not finite.
        """
        notes = list(notes)
        arrays = cls(
            start=np.array([n.start_time for n in notes], np.float64),
            end=np.array([n.end_time for n in notes], np.float64),
            pitch=np.array([n.pitch for n in notes], np.int64),
            velocity=np.array([n.velocity for n in notes], np.int64),
            program=np.array([n.program for n in notes], np.int64),
            is_drum=np.array([n.is_drum for n in notes], bool),
        )
        bad = ~(np.isfinite(arrays.start) & np.isfinite(arrays.end))
        bad |= (arrays.pitch < 0) | (arrays.pitch >= NUM_PITCHES)
        bad |= (arrays.program < 0) | (arrays.program >= NUM_PROGRAMS)
        if bad.any():
            raise errors.MidiError(
                f"scoring: note {notes[int(np.argmax(bad))]} cannot be scored: times "
                "must be finite seconds, pitch and program 0..127"
            )
        return arrays

    def __len__(self) -> int:
        return len(self.start)

    def select(self, mask: np.ndarray) -> NoteArrays:
        """Returns the notes where `mask` (bool [notes]) holds."""
        columns = (f.name for f in dataclasses.fields(self))
        return NoteArrays(**{name: getattr(self, name)[mask] for name in columns})

    def lengthened(self) -> NoteArrays:
        """Returns the notes as piano rolls show them: at least 50 ms, drums 50 ms."""
        shortest_end = self.start + MIN_ROLL_SECONDS
        end = np.where(self.is_drum, shortest_end, np.maximum(self.end, shortest_end))
        return dataclasses.replace(self, end=end)

    def with_length(self) -> NoteArrays:
        """Returns the notes that last longer than nothing."""
        keep = self.end > self.start
        return self if keep.all() else self.select(keep)

    def group(self, program: int, is_drum: bool) -> NoteArrays:
        """Returns the notes of one (program, is_drum)."""
        return self.select((self.program == program) & (self.is_drum == is_drum))


def get_prettymidi_pianoroll(
    notes: Iterable[Note] | NoteArrays,
    frames_per_second: float = FRAMES_PER_SECOND,
) -> np.ndarray:
    """Computes the piano roll that `pretty_midi` computes, drums included.

    Args:
      notes: notes of one song; they are not changed.
      frames_per_second: frame rate in Hz.

    Returns:
      int32 [128, frames]: the sum of the velocities sounding in each frame.
    """
    arrays = notes if isinstance(notes, NoteArrays) else NoteArrays.from_notes(notes)
    if not len(arrays):
        return np.zeros((NUM_PITCHES, 0), np.int32)
    arrays = arrays.lengthened()
    num_frames = max(0, int(frames_per_second * arrays.end.max()))
    # One column more: a note that ends with the song is switched off there.
    first = np.clip((arrays.start * frames_per_second).astype(int), 0, num_frames)
    last = np.clip((arrays.end * frames_per_second).astype(int), 0, num_frames)
    roll = np.zeros((NUM_PITCHES, num_frames + 1), np.int32)
    np.add.at(roll, (arrays.pitch, first), arrays.velocity)
    np.add.at(roll, (arrays.pitch, last), -arrays.velocity)
    np.cumsum(roll, axis=1, out=roll)
    return roll[:, :num_frames]


def frame_metrics(
    reference_roll: np.ndarray,
    estimated_roll: np.ndarray,
    velocity_threshold: int = REFERENCE_VELOCITY_THRESHOLD,
) -> tuple[float, float, float]:
    """Compares two piano rolls frame by frame; arguments as in `frame_counts`.

    Returns:
      Precision, recall and F1 over all (pitch, frame) cells; 0 where undefined.
    """
    return precision_recall_f1(
        *frame_counts(reference_roll, estimated_roll, velocity_threshold)
    )


def frame_counts(
    reference_roll: np.ndarray,
    estimated_roll: np.ndarray,
    velocity_threshold: int = REFERENCE_VELOCITY_THRESHOLD,
) -> tuple[int, int, int]:
    """Counts the cells of two piano rolls.

    Args:
      reference_roll: [128, frames] velocities of the reference.
      estimated_roll: [128, frames] velocities of the estimate; the two may
        differ in length, the missing frames are silent.
      velocity_threshold: reference cells at or below it are silent. Every
        estimated cell above 0 counts.

    Returns:
      Cells that sound in both, in the reference, and in the estimate.

    Raises:
      ShapeError: the rolls are not matrices with equally many pitches.
    """
    shapes = reference_roll.shape, estimated_roll.shape
    if any(len(s) != 2 for s in shapes) or shapes[0][0] != shapes[1][0]:
        raise errors.ShapeError(
            f"frame metrics: piano rolls have shapes {shapes[0]} and {shapes[1]}; "
            "expected [pitches, frames] with equally many pitches"
        )
    reference = reference_roll > velocity_threshold
    estimate = estimated_roll > 0
    common = min(reference.shape[1], estimate.shape[1])
    hits = np.count_nonzero(reference[:, :common] & estimate[:, :common])
    return int(hits), int(np.count_nonzero(reference)), int(np.count_nonzero(estimate))


def precision_recall_f1(
    num_matched: int, num_reference: int, num_estimated: int
) -> tuple[float, float, float]:
    """Returns precision, recall and F1 of counts; 0 where undefined."""
    precision = num_matched / num_estimated if num_estimated else 0.0
    recall = num_matched / num_reference if num_reference else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def match_notes(
    reference: NoteArrays,
    estimate: NoteArrays,
    *,
    onset_tolerance: float = 0.05,
    offset_ratio: float | None = 0.2,
    offset_min_tolerance: float = 0.05,
) -> np.ndarray:
    """Finds a largest one-to-one matching of notes, as `mir_eval` does.

    Program and drum flag are not compared: hand in the group to be compared.

    Args:
      reference: reference notes, each longer than nothing.
      estimate: estimated notes, each longer than nothing.
      onset_tolerance: largest distance of onsets, in seconds.
      offset_ratio: largest distance of offsets as a share of the reference
        note's length; None to ignore offsets.
      offset_min_tolerance: distance of offsets that is always allowed, in seconds.

    Returns:
      int64 [matches, 2]: indices of reference and estimate, by reference index.
    """
    from mir_eval import transcription

    pairs = []
    for in_reference, in_estimate in _blocks(reference, estimate, onset_tolerance):
        matching = transcription.match_notes(
            *_intervals_and_pitches(reference, in_reference),
            *_intervals_and_pitches(estimate, in_estimate),
            onset_tolerance=onset_tolerance,
            offset_ratio=offset_ratio,
            offset_min_tolerance=offset_min_tolerance,
        )
        if matching:
            rows = np.array(matching, np.int64)
            pairs.append(
                np.stack([in_reference[rows[:, 0]], in_estimate[rows[:, 1]]], axis=1)
            )
    if not pairs:
        return np.zeros((0, 2), np.int64)
    pairs = np.concatenate(pairs)
    return pairs[np.argsort(pairs[:, 0])]


def _intervals_and_pitches(
    notes: NoteArrays, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `mir_eval`'s float [n, 2] intervals and float [n] pitches in Hz."""
    intervals = np.stack([notes.start[index], notes.end[index]], axis=1)
    return intervals, 440.0 * 2.0 ** ((notes.pitch[index] - 69) / 12.0)


def _blocks(
    reference: NoteArrays, estimate: NoteArrays, onset_tolerance: float
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields index arrays, in note order, of notes that may match one another."""
    for pitch in np.intersect1d(reference.pitch, estimate.pitch):
        in_reference = np.flatnonzero(reference.pitch == pitch)
        in_estimate = np.flatnonzero(estimate.pitch == pitch)
        if len(in_reference) * len(in_estimate) <= _MAX_PAIRS:
            yield in_reference, in_estimate
            continue
        bounds = _silences(
            np.concatenate(
                [reference.start[in_reference], estimate.start[in_estimate]]
            ),
            onset_tolerance + _ROUNDING_MARGIN,
        )
        block_of_reference = np.searchsorted(bounds, reference.start[in_reference])
        block_of_estimate = np.searchsorted(bounds, estimate.start[in_estimate])
        for block in np.intersect1d(block_of_reference, block_of_estimate):
            yield (
                in_reference[block_of_reference == block],
                in_estimate[block_of_estimate == block],
            )


def _silences(onsets: np.ndarray, gap: float) -> np.ndarray:
    """Returns times inside gaps between onsets, about one per `_BLOCK_NOTES` onsets."""
    onsets = np.sort(onsets)
    after = np.flatnonzero(np.diff(onsets) > gap)
    bounds, last = [], -1
    for i in after:
        if i - last >= _BLOCK_NOTES:
            bounds.append((onsets[i] + onsets[i + 1]) / 2)
            last = i
    return np.array(bounds)


def match_velocities(
    matching: np.ndarray,
    reference_velocities: np.ndarray,
    estimated_velocities: np.ndarray,
    tolerance: float = 0.1,
) -> np.ndarray:
    """Keeps the matched notes whose velocity fits too, by `mir_eval`'s rule.

    Reference velocities are mapped to 0..1 over the whole song, estimated ones by
    the straight line that fits the matched notes best, and the two must differ by
    less than `tolerance`. The rule forgives any estimate of constant velocity
    whose reference is nearly constant: it means little for one velocity bin.

    Args:
      matching: int [matches, 2] from `match_notes`.
      reference_velocities: int [reference notes].
      estimated_velocities: int [estimated notes].
      tolerance: largest difference, exclusive, on the 0..1 scale.

    Returns:
      The rows of `matching` that are kept.
    """
    if not len(matching):
        return matching
    low, high = reference_velocities.min(), reference_velocities.max()
    scaled = (reference_velocities - low) / float(max(1, high - low))
    target = scaled[matching[:, 0]]
    matched = estimated_velocities[matching[:, 1]]
    design = np.vstack([matched, np.ones(len(matched))]).T
    slope, intercept = np.linalg.lstsq(design, target, rcond=None)[0]
    return matching[np.abs(slope * matched + intercept - target) < tolerance]


@dataclasses.dataclass(frozen=True)
class DecodedSong:
    """The joined predictions of one song.

    Attributes:
      notes: in the order in which they ended.
      invalid_events: tokens that were invalid where they stood.
      dropped_events: tokens that lay past their segment's end.
      start_times: float64 [segments], seconds, ascending.
    """

    notes: list[Note]
    invalid_events: int
    dropped_events: int
    start_times: np.ndarray


def decode_and_combine_predictions(
    predictions: Iterable[Mapping[str, Any]], tokenizer: NoteTokenizer, **options: Any
) -> tuple[list[Note], int, int]:
    """Decodes the segments of one song and joins them.

    Args:
      predictions: records with "start_time" (seconds) and "est_tokens" (event
        tokens without EOS), in any order.
      tokenizer: the encoding they were predicted in.
      **options: as for `tokenizer.decode_predictions`.

    Returns:
      Notes, the number of invalid events and the number of dropped events.
    """
    pairs = [(float(p["start_time"]), p["est_tokens"]) for p in predictions]
    return decode_predictions(pairs, tokenizer, **options)


def event_predictions_to_ns(
    predictions: Iterable[Mapping[str, Any]], tokenizer: NoteTokenizer, **options: Any
) -> DecodedSong:
    """Decodes one song's predictions to notes and counts.

    The name is the original's; the result holds `Note`s, which become a NoteSequence
    only where one is needed. Arguments as in `decode_and_combine_predictions`.
    """
    predictions = list(predictions)
    notes, invalid, dropped = decode_and_combine_predictions(
        predictions, tokenizer, **options
    )
    starts = np.sort([float(p["start_time"]) for p in predictions])
    return DecodedSong(notes, invalid, dropped, starts)


def combine_predictions_by_id(
    predictions: Iterable[Mapping[str, Any]],
    combine: Callable[[list[Mapping[str, Any]]], Any],
) -> dict[Hashable, Any]:
    """Groups the predictions of segments by song and combines each group.

    Args:
      predictions: records with at least "unique_id" and "start_time" (seconds),
        in any order.
      combine: makes one result of a song's records, handed over in time order.

    Returns:
      The results by unique id, in order of first appearance.
    """
    songs: dict[Hashable, list[Mapping[str, Any]]] = {}
    for prediction in predictions:
        songs.setdefault(_hashable(prediction["unique_id"]), []).append(prediction)
    return {
        unique_id: combine(sorted(records, key=lambda record: record["start_time"]))
        for unique_id, records in songs.items()
    }


def _hashable(unique_id: Any) -> Hashable:
    """Returns an id that NumPy may have wrapped (0-d or 1-element) as a scalar."""
    return unique_id.item() if isinstance(unique_id, np.ndarray) else unique_id
