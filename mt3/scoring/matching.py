"""How notes and piano rolls are compared: what every score is counted from.

Notes are structured arrays of `note_sequences.NOTE_DTYPE`, one song or a part of one.
Nothing here changes them.

Matching (`match_notes`)
  A reference note and an estimated note match if their pitches are equal, their onsets
  lie within 50 ms of each other and, where offsets count, their offsets lie within 20 %
  of the reference note's length or 50 ms, whichever is larger. Each note matches at
  most one other; of all such matchings, a largest one is taken. The rule and the search
  are those of `mir_eval.transcription`. The notes are only split beforehand into blocks
  that cannot match one another (by pitch, then at silences), so that an hour of music
  needs no matrix of all pairs of notes. A block that is too much for `mir_eval` even so
  (thousands of notes of one pitch without a silence) is matched by SciPy, over the
  pairs whose onsets fit: a largest matching too, perhaps of other notes. Notes without
  length cannot match: `with_length` leaves them out.

Velocities (`match_velocities`)
  Of the matched notes, those whose velocities fit as well: the rule of
  `mir_eval.transcription_velocity` (Hawthorne et al., "Onsets and Frames", 2018).

Piano rolls (`piano_roll`, `frame_counts`, `note_frame_counts`)
  A piano roll has a row for each pitch and 62.5 frames per second. A note covers the
  frames `int(start * rate)` to `int(end * rate)`, the last one excluded, and the
  velocities of notes that overlap add up, as in `pretty_midi`. Pitched notes last at
  least 50 ms and drum hits exactly 50 ms. A cell of the reference sounds if its
  velocity is above 30, a cell of the estimate if it is above 0. `note_frame_counts`
  counts cells from the notes' edges: its memory grows with the notes, not with time.

Precision, recall, F1 (`precision_recall_f1`)
  With m matches between r reference items and e estimated ones: m / e, m / r, and
  their harmonic mean. Each is 0 where it is undefined.

Example:
    >>> from mt3.note_sequences import Note
    >>> reference = note_array([Note(0.0, 1.0, 60), Note(1.0, 2.0, 64)])
    >>> estimate = note_array([Note(0.03, 1.1, 60), Note(1.2, 2.0, 64)])
    >>> match_notes(reference, estimate).tolist()
    [[0, 0]]
    >>> precision_recall_f1(1, len(reference), len(estimate))
    (0.5, 0.5, 0.5)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mt3 import errors, note_sequences
from mt3.vocabularies import NUM_PITCHES, NUM_PROGRAMS

ONSET_TOLERANCE = 0.05
OFFSET_RATIO = 0.2
OFFSET_MIN_TOLERANCE = 0.05
VELOCITY_TOLERANCE = 0.1
FRAMES_PER_SECOND = 62.5
MIN_ROLL_SECONDS = 0.05
# Reference cells at or below this velocity are silent.
REFERENCE_VELOCITY_THRESHOLD = 30
# mir_eval rounds distances to 0.1 ms; blocks must not split what rounding joins.
_ROUNDING_MARGIN = 1e-3
# Pairs of notes compared at once: 2**20 pairs are 8 MB per matrix in mir_eval.
_MAX_PAIRS = 2**20
_BLOCK_NOTES = 512
_MOST_PAIRS_OF_MIR_EVAL = 2**22
# Pairs of one pitch with fitting onsets; 2**23 of them take a gigabyte. Of music that
# people play, none has a thousandth.
MOST_PAIRS = 2**23
# 128 times as much is exact to far less than `_ROUNDING_MARGIN`.
_LONGEST_SECONDS = 1e9
# Later frames are not counted; whole numbers are exact up to here.
_LAST_FRAME = 2.0**53


def note_array(notes: Any) -> np.ndarray:
    """Returns notes as an array [n] of `NOTE_DTYPE`, in the order given.

    Args:
      notes: `Note`s, a NoteSequence, or such an array, which is returned as it is.

    Raises:
      MidiError: a pitch or program outside 0..127, or a time that is not finite.
    """
    notes = note_sequences.note_array(notes)
    bad = ~(np.isfinite(notes["start_time"]) & np.isfinite(notes["end_time"]))
    bad |= (notes["pitch"] < 0) | (notes["pitch"] >= NUM_PITCHES)
    bad |= (notes["program"] < 0) | (notes["program"] >= NUM_PROGRAMS)
    if bad.any():
        (note,) = note_sequences.array_to_notes(notes[bad][:1])
        raise errors.MidiError(
            f"scoring: note {note} cannot be scored: times must be finite seconds, "
            "pitch and program 0..127"
        )
    return notes


def with_length(notes: np.ndarray) -> np.ndarray:
    """Returns the notes that end after they start."""
    return notes[notes["end_time"] > notes["start_time"]]


def match_notes(
    reference: np.ndarray,
    estimate: np.ndarray,
    *,
    onset_tolerance: float = ONSET_TOLERANCE,
    offset_ratio: float | None = OFFSET_RATIO,
    offset_min_tolerance: float = OFFSET_MIN_TOLERANCE,
) -> np.ndarray:
    """Finds a largest one-to-one matching of notes, as `mir_eval` does.

    Programs are not compared: hand in the groups of notes to be compared.

    Args:
      reference: reference notes that have a length, [r] of `NOTE_DTYPE`.
      estimate: estimated notes that have a length, [e] of `NOTE_DTYPE`.
      onset_tolerance: largest distance of onsets, seconds.
      offset_ratio: largest distance of offsets as a share of the reference note's
        length; None to ignore offsets.
      offset_min_tolerance: distance of offsets that is always allowed, seconds.

    Returns:
      int64 [matches, 2]: indices of reference and estimate, by reference index.

    Raises:
      MidiError: more than `MOST_PAIRS` pairs of notes of one pitch, without a silence
        between them, have fitting onsets.
    """
    options = {
        "onset_tolerance": onset_tolerance,
        "offset_ratio": offset_ratio,
        "offset_min_tolerance": offset_min_tolerance,
    }
    fitting = _fitting_pairs(reference, estimate, **options)
    if fitting is None:
        return _match_ambiguous(reference, estimate, **options)
    one, other = fitting
    # Two notes that fit nothing but each other are in every largest matching.
    alone = (np.bincount(one)[one] == 1) & (np.bincount(other)[other] == 1)
    pairs = np.stack([one[alone], other[alone]], axis=1)
    if not alone.all():
        rest = np.unique(one[~alone]), np.unique(other[~alone])
        found = _match_ambiguous(reference[rest[0]], estimate[rest[1]], **options)
        in_song = np.stack([rest[0][found[:, 0]], rest[1][found[:, 1]]], axis=1)
        pairs = np.concatenate([pairs, in_song])
    return pairs[np.argsort(pairs[:, 0])]


def _fitting_pairs(
    reference: np.ndarray,
    estimate: np.ndarray,
    *,
    onset_tolerance: float,
    offset_ratio: float | None,
    offset_min_tolerance: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the indices of all notes that may match, by `match_notes`' rule.

    None stands for more than `MOST_PAIRS` pairs of near onsets, or for more time than
    numbers of this precision can hold.
    """
    if not len(reference) or not len(estimate):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    margin = onset_tolerance + _ROUNDING_MARGIN
    onsets = reference["start_time"], estimate["start_time"]
    begin = min(times.min() for times in onsets)
    # Pitches one after the other on one line, so far apart that none reaches another.
    step = max(times.max() for times in onsets) - begin + 3 * margin
    if step > _LONGEST_SECONDS:
        return None
    places = reference["pitch"] * step + (onsets[0] - begin)
    line = estimate["pitch"] * step + (onsets[1] - begin)
    order = np.argsort(line, kind="stable")
    line = line[order]
    first = np.searchsorted(line, places - margin, "left")
    last = np.searchsorted(line, places + margin, "right")
    sizes = last - first
    if sizes.sum() > MOST_PAIRS:
        return None
    one = np.repeat(np.arange(len(reference)), sizes)
    steps = np.arange(len(one)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    other = order[np.repeat(first, sizes) + steps]

    def distances(name: str) -> np.ndarray:
        # mir_eval's rounding.
        return np.around(np.abs(reference[name][one] - estimate[name][other]), 4)

    fits = distances("start_time") <= onset_tolerance
    if offset_ratio is not None:
        lengths = np.abs(reference["end_time"] - reference["start_time"])
        tolerances = np.maximum(offset_ratio * lengths, offset_min_tolerance)
        fits &= distances("end_time") <= tolerances[one]
    return one[fits], other[fits]


def _match_ambiguous(
    reference: np.ndarray, estimate: np.ndarray, **options: float | None
) -> np.ndarray:
    """Matches notes by `match_notes`' rule with `mir_eval`, block by block."""
    from mir_eval import transcription

    pairs = [np.zeros((0, 2), np.int64)]
    blocks = _blocks(reference, estimate, options["onset_tolerance"])
    for in_reference, in_estimate in blocks:
        block = reference[in_reference], estimate[in_estimate]
        sides = map(_intervals_and_pitches, block)
        try:
            if len(in_reference) * len(in_estimate) > _MOST_PAIRS_OF_MIR_EVAL:
                raise RecursionError
            matching = transcription.match_notes(*itertools.chain(*sides), **options)
        except RecursionError:
            # mir_eval's search calls itself along chains of repeated notes.
            matching = _match_many(*block, **options)
        if len(matching):
            one, other = np.array(matching, np.int64).T
            pairs.append(np.stack([in_reference[one], in_estimate[other]], axis=1))
    return np.concatenate(pairs)


def _match_many(
    reference: np.ndarray, estimate: np.ndarray, **options: float | None
) -> np.ndarray:
    """Matches notes of one pitch by `match_notes`' rule, over pairs of near onsets."""
    from scipy.sparse import csgraph, csr_array

    fitting = _fitting_pairs(reference, estimate, **options)
    if fitting is None:
        raise errors.MidiError(
            f"scoring: {len(reference)} and {len(estimate)} notes of pitch "
            f"{reference['pitch'][0]} follow without a silence, more than "
            f"{MOST_PAIRS:,} pairs of them with fitting onsets; expected fewer"
        )
    graph = csr_array(
        (np.ones(len(fitting[0]), np.int8), fitting), (len(reference), len(estimate))
    )
    matched = csgraph.maximum_bipartite_matching(graph, perm_type="column")
    found = np.flatnonzero(matched >= 0)
    return np.stack([found, matched[found]], axis=1)


def _intervals_and_pitches(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns `mir_eval`'s float [n, 2] intervals and float [n] pitches in Hz."""
    intervals = np.stack([notes["start_time"], notes["end_time"]], axis=1)
    return intervals, 440.0 * 2.0 ** ((notes["pitch"].astype(np.int64) - 69) / 12.0)


def _blocks(
    reference: np.ndarray, estimate: np.ndarray, onset_tolerance: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields index arrays, in note order, of notes that may match one another."""
    for pitch in np.intersect1d(reference["pitch"], estimate["pitch"]):
        in_reference = np.flatnonzero(reference["pitch"] == pitch)
        in_estimate = np.flatnonzero(estimate["pitch"] == pitch)
        if len(in_reference) * len(in_estimate) <= _MAX_PAIRS:
            yield in_reference, in_estimate
            continue
        onsets = reference["start_time"][in_reference]
        estimated_onsets = estimate["start_time"][in_estimate]
        bounds = _silences(
            np.concatenate([onsets, estimated_onsets]),
            onset_tolerance + _ROUNDING_MARGIN,
        )
        blocks = np.searchsorted(bounds, onsets)
        estimated_blocks = np.searchsorted(bounds, estimated_onsets)
        for block in np.intersect1d(blocks, estimated_blocks):
            yield in_reference[blocks == block], in_estimate[estimated_blocks == block]


def _silences(onsets: np.ndarray, gap: float) -> np.ndarray:
    """Returns times inside gaps between onsets, about one per `_BLOCK_NOTES` onsets."""
    onsets = np.sort(onsets)
    bounds, last = [], -1
    for i in np.flatnonzero(np.diff(onsets) > gap):
        if i - last >= _BLOCK_NOTES:
            bounds.append((onsets[i] + onsets[i + 1]) / 2)
            last = i
    return np.array(bounds)


def match_velocities(
    matching: np.ndarray,
    reference_velocities: np.ndarray,
    estimated_velocities: np.ndarray,
    tolerance: float = VELOCITY_TOLERANCE,
) -> np.ndarray:
    """Keeps the matched notes whose velocities fit as well, by `mir_eval`'s rule.

    Reference velocities are mapped to 0..1 over the whole song, estimated ones by the
    straight line that fits the matched notes best; the two must differ by less than
    `tolerance`. The rule accepts any estimate of constant velocity whose reference is
    nearly constant, so it says little about models with one velocity bin.

    Args:
      matching: int [matches, 2] from `match_notes`.
      reference_velocities: int [r].
      estimated_velocities: int [e].
      tolerance: largest difference, exclusive, on the 0..1 scale.

    Returns:
      The rows of `matching` that are kept.
    """
    if not len(matching):
        return matching
    velocities = reference_velocities.astype(np.int64)
    low, high = velocities.min(), velocities.max()
    target = ((velocities - low) / float(max(1, high - low)))[matching[:, 0]]
    matched = estimated_velocities.astype(np.int64)[matching[:, 1]]
    design = np.vstack([matched, np.ones(len(matched))]).T
    slope, intercept = np.linalg.lstsq(design, target, rcond=None)[0]
    return matching[np.abs(slope * matched + intercept - target) < tolerance]


def lengthened(notes: np.ndarray) -> np.ndarray:
    """Returns the notes as piano rolls show them: 50 ms at least, drums 50 ms."""
    notes = notes.copy()
    shortest = notes["start_time"] + MIN_ROLL_SECONDS
    pitched_ends = np.maximum(notes["end_time"], shortest)
    notes["end_time"] = np.where(notes["is_drum"], shortest, pitched_ends)
    return notes


def piano_roll(
    notes: np.ndarray,
    frames_per_second: float = FRAMES_PER_SECOND,
    *,
    most_frames: int | None = None,
) -> np.ndarray:
    """Computes the piano roll that `pretty_midi` computes, with the drums.

    Args:
      notes: [n] of `NOTE_DTYPE`.
      frames_per_second: frame rate, Hz.
      most_frames: leave out the frames after these; None for all, whose memory grows
        with the time of the last offset.

    Returns:
      int32 [128, frames]: the sum of the velocities that sound in each frame.
    """
    starts, ends, num_frames = _note_frames(notes, frames_per_second)
    num_frames = min(num_frames, num_frames if most_frames is None else most_frames)
    edges = [np.minimum(edge, num_frames) for edge in (starts, ends)]
    # One column more, where notes that end with the song are switched off.
    roll = np.zeros((NUM_PITCHES, num_frames + 1), np.int32)
    velocities = notes["velocity"].astype(np.int32)
    np.add.at(roll, (notes["pitch"], edges[0]), velocities)
    np.add.at(roll, (notes["pitch"], edges[1]), -velocities)
    np.cumsum(roll, axis=1, out=roll)
    return roll[:, :num_frames]


def _note_frames(
    notes: np.ndarray, frames_per_second: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the first frame of each note and the one after its last, and of all."""
    notes = lengthened(notes)
    # Times before 0 are cut off. The product is compared as a float, since a time may
    # be too large for an integer.
    starts, ends = (
        np.clip(notes[name] * frames_per_second, 0, _LAST_FRAME).astype(np.int64)
        for name in ("start_time", "end_time")
    )
    return starts, ends, int(ends.max(initial=0))


def note_frame_counts(
    reference: np.ndarray,
    estimate: np.ndarray,
    frames_per_second: float = FRAMES_PER_SECOND,
    velocity_threshold: float = REFERENCE_VELOCITY_THRESHOLD,
) -> tuple[int, int, int]:
    """Counts the sounding cells of two lists of notes, without their piano rolls.

    Args:
      reference: reference notes, [r] of `NOTE_DTYPE`.
      estimate: estimated notes, [e] of `NOTE_DTYPE`.
      frames_per_second: frame rate, Hz.
      velocity_threshold: as for `frame_counts`, 0 or more.

    Returns:
      What `frame_counts` returns for the piano rolls.

    Raises:
      ConfigError: a threshold below 0, above which silent cells sound.
    """
    if not velocity_threshold >= 0:
        raise errors.ConfigError(
            f"frame metrics: velocity threshold {velocity_threshold}; expected 0 or "
            "more"
        )
    # Where velocities change: (pitch, frame), and by how much on each side.
    pitches, frames, changes = [], [], []
    for side, notes in enumerate((reference, estimate)):
        starts, ends, _ = _note_frames(notes, frames_per_second)
        for edges, sign in ((starts, 1), (ends, -1)):
            change = np.zeros((len(notes), 2), np.int64)
            change[:, side] = sign * notes["velocity"].astype(np.int64)
            pitches.append(notes["pitch"])
            frames.append(edges)
            changes.append(change)
    pitch, frame = np.concatenate(pitches), np.concatenate(frames)
    order = np.lexsort((frame, pitch))
    # Every pitch ends in silence, so one sum runs over all. From each change to the
    # next the velocities stay; changes of one frame have no length between them.
    velocities = np.cumsum(np.concatenate(changes)[order], axis=0)[:-1]
    lengths = np.diff(frame[order])
    truth = velocities[:, 0] > velocity_threshold
    found = velocities[:, 1] > 0
    # After a pitch's last change both are false, whatever the step to the next pitch.
    return tuple(int(lengths[cells].sum()) for cells in (truth & found, truth, found))


def frame_counts(
    reference_roll: np.ndarray,
    estimated_roll: np.ndarray,
    velocity_threshold: float = REFERENCE_VELOCITY_THRESHOLD,
) -> tuple[int, int, int]:
    """Counts the sounding cells of two piano rolls.

    Args:
      reference_roll: [pitches, frames] velocities of the reference.
      estimated_roll: [pitches, frames] velocities of the estimate. The two may differ
        in length; missing frames are silent.
      velocity_threshold: reference cells at or below it are silent.

    Returns:
      Cells that sound in both, in the reference, and in the estimate.

    Raises:
      ShapeError: the rolls are not matrices with the same number of pitches.
    """
    shapes = reference_roll.shape, estimated_roll.shape
    if any(len(s) != 2 for s in shapes) or shapes[0][0] != shapes[1][0]:
        raise errors.ShapeError(
            f"frame metrics: piano rolls have shapes {shapes[0]} and {shapes[1]}; "
            "expected [pitches, frames] with the same number of pitches"
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
