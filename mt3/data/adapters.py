"""Songs from records: one small function for each way of storing them.

A record is a dict of features, as read from a TFRecord (bytes for strings, NumPy
arrays for numbers and lists). An adapter makes a `Song` of it: mono samples at the
model's rate, and the notes, with pedal applied and programs set.

* maestro: WAV bytes; notes as stored.
* guitarset: WAV bytes; notes of program 24; pitch bends are an error.
* urmp: WAV bytes; a sequence for each instrument, its program by the instrument's
  name; pitch bends are an error.
* musicnet: floats at `sample_rate`; notes as stored.
* slakh: floats at `audio_sample_rate`; a sequence for each stem, its program by the
  class that `inst_names` gives.
* cerberus4: as slakh; a sequence for each track that the data set lists.
* folder: WAV, FLAC or OGG bytes; notes as stored.

`slakh`, `cerberus4` and `folder` merge parts that may share a program. Tokens cannot
say that one pitch of one program sounds twice, so for training they trim such notes;
for evaluation the notes stay as they are.

Everything that is wrong with a record is a `DataError` that names the record
(`record` is "<path>#<index>") and the field.

Differences from the original, numbered:

1. Names that are not known, counts that differ and bytes that cannot be read are
   errors that say so; the original stops with an assertion or a foreign error.
2. A song is known by the record's id. Several records of Slakh and Cerberus4 are
   mixes of one track, so there the file and index are part of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mt3 import note_sequences
from mt3.data import note_sequence_io, record_fields
from mt3.data.note_sequence_io import PitchBends
from mt3.data.record_fields import Record
from mt3.datasets import DatasetConfig
from mt3.errors import ConfigError, DataError, near_misses
from mt3.note_sequences import Note

GUITARSET_PROGRAM = 24
# Ends of ids that name the recording of an excerpt: microphone, mix of pickups.
GUITARSET_RECORDINGS = ("_mic", "_mix")

URMP_PROGRAMS: Mapping[str, int] = {
    "vn": 40,
    "va": 41,
    "vc": 42,
    "db": 43,
    "tpt": 56,
    "tbn": 57,
    "tba": 58,
    "hn": 60,
    "sax": 64,
    "ob": 68,
    "bn": 70,
    "cl": 71,
    "fl": 73,
}

SLAKH_DRUMS = "Drums"
SLAKH_PROGRAMS: Mapping[str, int] = {
    "Acoustic Piano": 0,
    "Electric Piano": 4,
    "Chromatic Percussion": 8,
    "Organ": 16,
    "Acoustic Guitar": 24,
    "Clean Electric Guitar": 26,
    "Distorted Electric Guitar": 29,
    "Acoustic Bass": 32,
    "Electric Bass": 33,
    "Violin": 40,
    "Viola": 41,
    "Cello": 42,
    "Contrabass": 43,
    "Orchestral Harp": 46,
    "Timpani": 47,
    "String Ensemble": 48,
    "Synth Strings": 50,
    "Choir and Voice": 52,
    "Orchestral Hit": 55,
    "Trumpet": 56,
    "Trombone": 57,
    "Tuba": 58,
    "French Horn": 60,
    "Brass Section": 61,
    "Soprano/Alto Sax": 64,
    "Tenor Sax": 66,
    "Baritone Sax": 67,
    "Oboe": 68,
    "English Horn": 69,
    "Bassoon": 70,
    "Clarinet": 71,
    "Pipe": 73,
    "Synth Lead": 80,
    "Synth Pad": 88,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Song:
    """One recording and its notes.

    Attributes:
      id: what it is known by, unique within its data set.
      audio: mono, at the model's sample rate: float32 [n], or int16 [n] as stored.
      note_array: pedal applied, programs set, [n] of `NOTE_DTYPE`.
    """

    id: str
    audio: np.ndarray
    note_array: np.ndarray

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The audio as float32 [n]."""
        return record_fields.as_floats(self.audio)

    @functools.cached_property
    def notes(self) -> list[Note]:
        """The notes one by one."""
        return note_sequences.array_to_notes(self.note_array)

    @functools.cached_property
    def sequence(self) -> bytes:
        """The notes as a serialized NoteSequence."""
        return note_sequence_io.from_notes(self.notes).SerializeToString()


class Adapter(Protocol):
    """Makes a song of a record."""

    def __call__(
        self,
        record: Record,
        *,
        dataset: DatasetConfig,
        sample_rate: int,
        training: bool,
    ) -> Song:
        """Reads a record.

        Args:
          record: features by name.
          dataset: where the record comes from.
          sample_rate: Hz of the result's samples.
          training: trim overlapping notes of one pitch and program.

        Returns:
          The song.

        Raises:
          DataError: names the record and the field that cannot be used.
        """
        ...


def maestro(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """MAESTRO: audio file and sequence; see `Adapter`."""
    del dataset, training
    return _file_song(record, sample_rate, _stored_notes(record, "ignore"))


def guitarset(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """GuitarSet: audio file and sequence, one instrument; see `Adapter`."""
    del dataset, training
    notes = _stored_notes(record, "error", program=GUITARSET_PROGRAM)
    # Each excerpt was recorded twice. An id that does not tell which recording it is
    # would join the two.
    ambiguous = not record_fields.song_id(record).endswith(GUITARSET_RECORDINGS)
    return _file_song(record, sample_rate, notes, with_position=ambiguous)


def urmp(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """URMP: audio file and a sequence per instrument; see `Adapter`."""
    del dataset, training
    notes: list[np.ndarray] = []
    for name, data in record_fields.parts_of(
        record, "inst_names", "instrument_sequences"
    ):
        if name not in URMP_PROGRAMS:
            raise _unknown_instrument(record, name, URMP_PROGRAMS)
        part = _part_notes(
            record,
            "instrument_sequences",
            data,
            pitch_bends="error",
            program=URMP_PROGRAMS[name],
            is_drum=False,
        )
        notes.append(part)
    return _file_song(record, sample_rate, _joined(notes))


def musicnet(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """MusicNet and MusicNetEM: floats and a sequence; see `Adapter`."""
    del dataset, training
    samples = record_fields.float_samples(record, "audio", "sample_rate", sample_rate)
    return Song(record_fields.song_id(record), samples, _stored_notes(record, "ignore"))


def slakh(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """Slakh: a mix and a sequence per stem, named by its class; see `Adapter`."""
    del dataset
    programs = {**SLAKH_PROGRAMS, SLAKH_DRUMS: 0}
    notes: list[np.ndarray] = []
    for name, data in record_fields.parts_of(record, "inst_names", "note_sequences"):
        if name not in programs:
            raise _unknown_instrument(record, name, programs)
        is_drum = name == SLAKH_DRUMS
        notes.append(_stem_notes(record, data, programs[name], is_drum, training))
    return _mix_song(record, sample_rate, notes, training)


def cerberus4(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """Cerberus4: a mix and a sequence for each track; see `Adapter`."""
    specs = {spec.name: spec for spec in dataset.track_specs or ()}
    parts = record_fields.parts_of(record, "inst_names", "note_sequences")
    names = [name for name, _ in parts]
    for name in names:
        if name not in specs:
            raise _unknown_instrument(record, name, specs)
    if sorted(names) != sorted(specs):
        raise record_fields.field_error(
            record,
            "inst_names",
            f"found {', '.join(names) or 'none'}; expected {', '.join(specs)}",
        )
    notes: list[np.ndarray] = []
    for name, data in parts:
        spec = specs[name]
        notes.append(_stem_notes(record, data, spec.program, spec.is_drum, training))
    return _mix_song(record, sample_rate, notes, training)


def folder(
    record: Record, *, dataset: DatasetConfig, sample_rate: int, training: bool
) -> Song:
    """One's own and synthetic data: audio file and sequence; see `Adapter`."""
    del dataset
    notes = _stored_notes(record, "ignore", allow_empty=training)
    notes = note_sequences.trim_overlaps(notes) if training else notes
    return _file_song(record, sample_rate, notes)


ADAPTERS: Mapping[str, Adapter] = {
    "maestro": maestro,
    "guitarset": guitarset,
    "urmp": urmp,
    "musicnet": musicnet,
    "slakh": slakh,
    "cerberus4": cerberus4,
    "folder": folder,
}


def get(name: str) -> Adapter:
    """Returns an adapter by name.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in ADAPTERS:
        raise ConfigError(
            f"record adapter: unknown name {name!r}.{near_misses(name, ADAPTERS)}"
        )
    return ADAPTERS[name]


def _unknown_instrument(
    record: Record, name: str, known: Mapping[str, object]
) -> DataError:
    return record_fields.field_error(
        record, "inst_names", f"unknown instrument {name!r}.{near_misses(name, known)}"
    )


def _part_notes(
    record: Record,
    field: str,
    data: bytes,
    *,
    pitch_bends: PitchBends,
    program: int | None = None,
    is_drum: bool | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    name = record_fields.place(record, field)
    return note_sequence_io.to_array(
        note_sequence_io.parse(data, name),
        pitch_bends=pitch_bends,
        program=program,
        is_drum=is_drum,
        allow_empty=allow_empty,
        name=name,
    )


def _stem_notes(
    record: Record, data: bytes, program: int, is_drum: bool, training: bool
) -> np.ndarray:
    return _part_notes(
        record,
        "note_sequences",
        data,
        pitch_bends="ignore",
        program=0 if is_drum else program,
        is_drum=is_drum,
        allow_empty=training,  # Trimming drops them.
    )


def _stored_notes(
    record: Record,
    pitch_bends: PitchBends,
    *,
    program: int | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    return _part_notes(
        record,
        "sequence",
        record_fields.bytes_of(record, "sequence"),
        pitch_bends=pitch_bends,
        program=program,
        allow_empty=allow_empty,
    )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([note_sequences.notes_to_array([]), *parts])


def _file_song(
    record: Record,
    sample_rate: int,
    notes: np.ndarray,
    *,
    with_position: bool = False,
) -> Song:
    audio = record_fields.stored_audio(
        record_fields.bytes_of(record, "audio"),
        sample_rate,
        record_fields.place(record, "audio"),
    )
    return Song(
        record_fields.song_id(record, with_position=with_position), audio, notes
    )


def _mix_song(
    record: Record, sample_rate: int, parts: Sequence[np.ndarray], training: bool
) -> Song:
    samples = record_fields.float_samples(
        record, "mix", "audio_sample_rate", sample_rate
    )
    notes = _joined(parts)
    return Song(
        record_fields.song_id(record, with_position=True),
        samples,
        note_sequences.trim_overlaps(notes) if training else notes,
    )
