"""Grouping, decoding and joining of predictions."""

from __future__ import annotations

import numpy as np

from mt3 import configs, metrics_utils, tokenizer
from mt3.note_sequences import Note


def test_predictions_are_grouped_and_decoded_in_time_order():
    tokens = tokenizer.NoteTokenizer(configs.ModelConfig({}, include_ties=False))
    notes = [Note(0.5, 1.0, 60, 127), Note(2.5, 3.0, 64, 127)]
    song = tokens.encode_song(notes, 512)
    segments = [
        {
            "unique_id": np.array(["a"]),
            "start_time": tokens.segment_start_time(first),
            "est_tokens": tokens.segment_events(song, first, 256),
        }
        for first in (256, 0)
    ]
    other = {"unique_id": "b", "start_time": 0.0, "est_tokens": []}
    songs = metrics_utils.combine_predictions_by_id(
        [segments[0], other, segments[1]],
        lambda records: metrics_utils.event_predictions_to_ns(records, tokens),
    )
    assert list(songs) == ["a", "b"]
    assert songs["b"].notes == []
    assert [(n.start_time, n.pitch) for n in songs["a"].notes] == [(0.5, 60), (2.5, 64)]
    assert songs["a"].start_times.tolist() == sorted(s["start_time"] for s in segments)
