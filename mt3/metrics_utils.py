"""Building blocks of the metrics: decoding and joining predictions, piano rolls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from mt3.note_sequences import Note
from mt3.tokenizer import NoteTokenizer, decode_predictions


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
