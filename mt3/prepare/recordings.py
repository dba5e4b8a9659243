"""A recording and its notes, read together and written as a record.

Recordings are mono; a record holds them as floats or as the bytes of a WAV file.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from mt3.audio import reading
from mt3.prepare import sequences
from mt3.prepare.archives import check_lengths
from mt3.prepare.items import Item, Record, Settings


def read_audio(
    path: str | os.PathLike[str], sample_rate: int
) -> tuple[np.ndarray, int]:
    """Reads a recording.

    Args:
      path: any file that `mt3.audio.reading` reads.
      sample_rate: Hz of the result; 0 for the file's own.

    Returns:
      (float32 [n], its sample rate in Hz).

    Raises:
      AudioError: as `reading.open_audio`.
    """
    source = reading.open_audio(path)
    rate = sample_rate or source.sample_rate
    return np.concatenate(list(source.blocks(rate))), rate


def wav_bytes(samples: np.ndarray, sample_rate: int) -> bytes:
    """Returns float samples [n] as a 16-bit WAV file; samples beyond 1 are clipped."""
    import soundfile

    scaled = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, scaled, sample_rate, subtype="PCM_16", format="WAV")
    return stream.getvalue()


def file_features(
    name: str, samples: np.ndarray, rate: int, sequence: sequences.NoteSequence
) -> dict[str, Any]:
    """Returns the features that all records with an audio file have."""
    return {
        "id": name,
        "audio": wav_bytes(samples, rate),
        "sequence": sequence.SerializeToString(),
    }


def make_record(
    item: Item,
    sequence: sequences.NoteSequence,
    settings: Settings,
    *,
    both_ways: bool = False,
    as_floats: bool = False,
    **features: Any,
) -> Record:
    """Makes the record of a song from its recording and its notes.

    Pitched notes of no length are left out; the record's remarks say how many.

    Args:
      item: the song; its first file is the recording.
      sequence: its notes; gets the song's id.
      settings: sample rate, and how far the two lengths may be apart.
      both_ways: see `check_lengths`.
      as_floats: the audio as floats with their sample rate, not as a WAV file.
      **features: further features of the record.

    Raises:
      AudioError: the recording cannot be read.
      DataError: the lengths differ by more than is allowed.
    """
    recording = item.files[0]
    samples, rate = read_audio(recording, settings.sample_rate)
    seconds = len(samples) / rate
    check_lengths(
        str(recording),
        seconds=seconds,
        last_offset=sequences.last_offset(sequence),
        settings=settings,
        both_ways=both_ways,
    )
    sequence.id = item.id
    dropped = sequences.drop_empty_notes(sequence)
    if as_floats:
        features |= {
            "id": item.id,
            "sample_rate": float(rate),
            "audio": samples,
            "sequence": sequence.SerializeToString(),
        }
    else:
        features |= file_features(item.id, samples, rate, sequence)
    remarks = (f"{dropped} notes of no length were left out",) if dropped else ()
    return Record(item.id, features, seconds, len(sequence.notes), remarks)


def midi_record(item: Item, settings: Settings, *, both_ways: bool = False) -> Record:
    """Makes the record of a song whose files are a recording and a MIDI file.

    Raises:
      AudioError, DataError: as `make_record`.
      MidiError: the MIDI file cannot be used.
    """
    sequence = sequences.read_midi(item.files[1])
    return make_record(item, sequence, settings, both_ways=both_ways)
