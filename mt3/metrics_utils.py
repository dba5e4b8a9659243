"""Steps of the metrics: joining the segments of a song, piano rolls, frame scores.

A prediction is a mapping of one segment's "unique_id" (the song), "start_time"
(seconds) and "est_tokens" (event indices without EOS), and perhaps "raw_inputs"
(samples). The functions below group predictions by song, decode a song's tokens to one
NoteSequence, and compare piano rolls. They are built on `run_length_encoding`,
`note_sequences` and `scoring.matching`.

Example: the notes of one song, whose second segment drops what comes too late.

    codec = vocabularies.build_codec(vocabularies.VocabularyConfig())
    spec = note_sequences.NoteEncodingWithTiesSpec
    song = event_predictions_to_ns(predictions, codec, spec)
    song["est_ns"].notes, song["est_invalid_events"], song["est_dropped_events"]

Differences from the original, numbered:

1. Predictions may lack samples, or have them for a song's first segments only.
2. Ids that NumPy wraps (arrays of one element) are taken; the original stops.
3. `get_prettymidi_pianoroll` also takes `Note`s and arrays of `NOTE_DTYPE`, and leaves
   those unchanged. A NoteSequence is changed as in the original, where whatever is
   computed afterwards reads the lengthened notes (`original_side_effects=False`).
4. `get_prettymidi_pianoroll` shows, of the notes of a NoteSequence whose instrument
   number is 0, those of the highest program, as in the original
   (`original_reference_roll=False` shows all). Pitch bends do not move notes; no
   reference of MT3's data sets has any.
5. Frame scores of piano rolls without frames are 0; the original stops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mt3 import run_length_encoding
from mt3.event_codec import Codec
from mt3.note_sequences import Note, NoteEncodingSpecType
from mt3.scoring import counts, matching

if TYPE_CHECKING:
    import note_seq

S = TypeVar("S")
T = TypeVar("T")

CombineExamplesFunctionType = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


def _group_predictions_by_id(
    predictions: Iterable[Mapping[str, T]],
) -> dict[Hashable, list[Mapping[str, T]]]:
    """Returns the predictions of each song, songs and predictions in their order."""
    songs: dict[Hashable, list[Mapping[str, T]]] = {}
    for prediction in predictions:
        unique_id = prediction["unique_id"]
        # NumPy may have wrapped it as an array of one element.
        song = unique_id.item() if isinstance(unique_id, np.ndarray) else unique_id
        songs.setdefault(song, []).append(prediction)
    return songs


def combine_predictions_by_id(
    predictions: Iterable[Mapping[str, Any]],
    combine_predictions_fn: CombineExamplesFunctionType,
) -> dict[Hashable, Any]:
    """Groups the predictions of segments by song and combines each group.

    Args:
      predictions: one per segment, in any order.
      combine_predictions_fn: makes one result of a song's predictions.

    Returns:
      The results by unique id, in order of first appearance.
    """
    return {
        unique_id: combine_predictions_fn(song)
        for unique_id, song in _group_predictions_by_id(predictions).items()
    }


def decode_and_combine_predictions(
    predictions: Iterable[Mapping[str, Any]],
    init_state_fn: Callable[[], S],
    begin_segment_fn: Callable[[S], None],
    decode_tokens_fn: Callable[
        [S, Sequence[int], float, float | None], tuple[int, int]
    ],
    flush_state_fn: Callable[[S], T],
) -> tuple[T, int, int]:
    """Decodes the segments of one song in time order and joins them.

    Args:
      predictions: one per segment, in any order.
      init_state_fn: () -> a decoding state.
      begin_segment_fn: (state) -> None; called before each segment.
      decode_tokens_fn: (state, tokens, start time, start time of the next segment or
        None for the last) -> numbers of invalid and of dropped tokens.
      flush_state_fn: (state) -> the result.

    Returns:
      The result, and the numbers of invalid and of dropped tokens of all segments.
    """
    segments = ((float(p["start_time"]), p["est_tokens"]) for p in predictions)
    return run_length_encoding.decode_segments(
        segments, init_state_fn, begin_segment_fn, decode_tokens_fn, flush_state_fn
    )


def event_predictions_to_ns(
    predictions: Sequence[Mapping[str, Any]],
    codec: Codec,
    encoding_spec: NoteEncodingSpecType,
) -> dict[str, Any]:
    """Decodes the predictions of one song to a NoteSequence.

    Args:
      predictions: one per segment, in any order.
      codec: event indices.
      encoding_spec: how notes were encoded.

    Returns:
      "est_ns", the NoteSequence; "est_invalid_events" and "est_dropped_events", the
      numbers of tokens that were invalid where they stood and that lay past the end of
      their segment; "start_times", the segments' starts in seconds, ascending;
      "raw_inputs", float64 [samples], the segments' samples as far as they are known.
    """
    ns, invalid, dropped = decode_and_combine_predictions(
        predictions,
        init_state_fn=encoding_spec.init_decoding_state_fn,
        begin_segment_fn=encoding_spec.begin_decoding_segment_fn,
        decode_tokens_fn=functools.partial(encoding_spec.decode_tokens, codec=codec),
        flush_state_fn=encoding_spec.flush_decoding_state_fn,
    )
    segments = sorted(predictions, key=lambda prediction: prediction["start_time"])
    samples = [np.zeros(0)]
    for segment in segments:
        if segment.get("raw_inputs") is None:
            break
        samples.append(np.reshape(segment["raw_inputs"], -1))
    return {
        "raw_inputs": np.concatenate(samples),
        "start_times": [float(segment["start_time"]) for segment in segments],
        "est_ns": ns,
        "est_invalid_events": invalid,
        "est_dropped_events": dropped,
    }


def get_prettymidi_pianoroll(
    ns: note_seq.NoteSequence | Iterable[Note] | np.ndarray,
    fps: float,
    is_drum: bool,
    *,
    original_side_effects: bool = True,
    original_reference_roll: bool = True,
) -> np.ndarray:
    """Computes the piano roll of one kind of notes, as `pretty_midi` does.

    Args:
      ns: a NoteSequence, `Note`s, or an array of `NOTE_DTYPE`.
      fps: frame rate, Hz.
      is_drum: show every note as a drum hit of 50 ms. Otherwise drums are not shown,
        and pitched notes last at least 50 ms.
      original_side_effects: give the notes of a NoteSequence these ends, and with
        `is_drum` clear their drum flags.
      original_reference_roll: of the notes of a NoteSequence whose instrument number
        is 0, show those of the highest program.

    Returns:
      float64 [128, frames]: the sum of the velocities that sound in each frame.

    Raises:
      MidiError: a note that cannot be scored.
    """
    notes = matching.note_array(ns).copy()
    notes["is_drum"] |= is_drum
    hidden = notes["is_drum"] & (not is_drum)
    shown = np.ones(len(notes), bool)
    if hasattr(ns, "notes") and original_reference_roll:
        numbers = np.array([note.instrument for note in ns.notes], np.int64)
        shown = counts.shown_in_roll(notes, numbers)
    notes["is_drum"] = is_drum
    notes = matching.lengthened(notes)
    if hasattr(ns, "notes") and original_side_effects:
        for note, end in zip(ns.notes, notes["end_time"].tolist(), strict=True):
            note.end_time = end
            note.is_drum = note.is_drum and not is_drum
    # Hidden drums still count for the length of the roll.
    notes["velocity"][hidden] = 0
    roll = matching.piano_roll(notes[shown], fps)
    return roll.astype(np.float64)


def frame_metrics(
    ref_pianoroll: np.ndarray, est_pianoroll: np.ndarray, velocity_threshold: float
) -> tuple[float, float, float]:
    """Compares two piano rolls frame by frame.

    Args:
      ref_pianoroll: [pitches, frames] velocities of the reference.
      est_pianoroll: likewise of the estimate; the shorter one is padded with silence.
      velocity_threshold: reference cells at or below it are silent; every estimated
        cell above 0 sounds.

    Returns:
      Precision, recall and F1 over all cells; 0 where undefined.

    Raises:
      ShapeError: the rolls are not matrices with the same number of pitches.
    """
    return matching.precision_recall_f1(
        *matching.frame_counts(ref_pianoroll, est_pianoroll, velocity_threshold)
    )
