"""A recording and its notes, read together and written as features of a record."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mt3.prepare import audio, sequences
from mt3.prepare.items import Item, Record, Settings, check_lengths


def read(
    path: str | os.PathLike[str],
    sequence: sequences.NoteSequence,
    settings: Settings,
    *,
    both_ways: bool = False,
) -> tuple[np.ndarray, int, float]:
    """Reads a recording that the notes are of.

    Args:
      path: any file that `mt3.audio.reading` reads.
      sequence: its notes.
      settings: sample rate, and how far the two lengths may be apart.
      both_ways: see `check_lengths`.

    Returns:
      (samples float32 [n], their rate in Hz, their length in seconds).

    Raises:
      AudioError: the recording cannot be read.
      DataError: the lengths differ by more than is allowed.
    """
    samples, rate = audio.read(path, settings.sample_rate)
    seconds = len(samples) / rate
    check_lengths(
        str(path),
        seconds=seconds,
        last_offset=sequences.last_offset(sequence),
        settings=settings,
        both_ways=both_ways,
    )
    return samples, rate, seconds


def file_features(
    name: str, samples: np.ndarray, rate: int, sequence: sequences.NoteSequence
) -> dict[str, Any]:
    """Returns the features that all records with an audio file have."""
    return {
        "id": name,
        "audio": audio.wav_bytes(samples, rate),
        "sequence": sequence.SerializeToString(),
    }


def midi_record(item: Item, settings: Settings, *, both_ways: bool = False) -> Record:
    """Makes the record of a song whose files are a recording and a MIDI file.

    Raises:
      AudioError, DataError: as `read`.
      MidiError: the MIDI file cannot be used.
    """
    recording, midi = item.files
    sequence = sequences.read_midi(midi)
    samples, rate, seconds = read(recording, sequence, settings, both_ways=both_ways)
    sequence.id = item.id
    features = file_features(item.id, samples, rate, sequence)
    return Record(item.id, features, seconds, len(sequence.notes))
