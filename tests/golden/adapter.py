"""The stable test surface: golden files and outside checkers call these functions.

A thin layer over the public API. Notes are dicts with start_time, end_time, pitch,
velocity, program and is_drum; `sizes` is a dict of `network.T5Config` fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mt3 import tokenizer
from mt3.configs import ModelConfig
from mt3.note_sequences import Note
from mt3.vocabularies import VocabularyConfig


def _tokenizer(num_velocity_bins, ties, onsets_only=False, granularity="full"):
    return tokenizer.NoteTokenizer(
        ModelConfig(
            network={},
            vocabulary=VocabularyConfig(num_velocity_bins=num_velocity_bins),
            include_ties=ties,
            onsets_only=onsets_only,
            program_granularity=granularity,
        )
    )


def _notes(dicts: Sequence[Mapping[str, Any]]) -> list[Note]:
    return [Note(**note) for note in dicts]


def notes_to_tokens(
    notes,
    seconds,
    first_frame,
    num_frames,
    *,
    num_velocity_bins,
    ties,
    onsets_only,
    program_granularity,
):
    """Returns event tokens and vocabulary ids (with EOS) of one segment, as lists."""
    tok = _tokenizer(num_velocity_bins, ties, onsets_only, program_granularity)
    song = tok.encode_duration(_notes(notes), seconds)
    events = tok.segment_events(song, first_frame, num_frames)
    return events.tolist(), tok.to_ids(events).tolist()


def tokens_to_notes(predictions, *, num_velocity_bins, ties):
    """Returns notes (dicts), invalid and dropped event counts of a song.

    Args:
      predictions: dicts with `start_time` (seconds) and `tokens`.
      num_velocity_bins: of the codec.
      ties: whether segments begin with a tie section.
    """
    pairs = [(item["start_time"], item["tokens"]) for item in predictions]
    notes, invalid, dropped = tokenizer.decode_predictions(
        pairs, _tokenizer(num_velocity_bins, ties)
    )
    return [dataclasses.asdict(note) for note in notes], invalid, dropped


def log_mel(samples) -> np.ndarray:
    """Returns the log-mel spectrogram, float32 [frames, 512]."""
    from mt3 import spectrograms

    config = spectrograms.SpectrogramConfig()
    return spectrograms.compute_spectrogram(np.asarray(samples), config)


def scores(reference_notes, estimated_notes, track_specs=None) -> dict[str, float]:
    """Returns the mean of all metrics over songs, as the original computes them.

    Args:
      reference_notes: one list of notes per song.
      estimated_notes: likewise.
      track_specs: [name, program, is_drum] of tracks to score apart.
    """
    from mt3 import metrics

    specs = None
    if track_specs is not None:
        specs = [metrics.TrackSpec(*spec) for spec in track_specs]
    return metrics.transcription_metrics(
        [_notes(song) for song in reference_notes],
        [_notes(song) for song in estimated_notes],
        track_specs=specs,
        **metrics.ORIGINAL,
    )
