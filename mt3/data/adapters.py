"""Songs from records: one small function for each way of storing them.

A record is a dict of features, as read from a TFRecord (bytes for strings, NumPy
arrays for numbers and lists). An adapter makes a `Song` of it: mono samples at the
model's rate, and the notes, with pedal applied and programs set.

* `recording`: one audio file (WAV, FLAC or OGG bytes in `audio`) or floats at
  `sample_rate`, and one sequence. MAESTRO, MusicNet, your own and synthetic data.
* `guitarset`: the same; all notes get program 24, pitch bends are an error.
* `ensemble`: an audio file and one sequence for each instrument, whose program follows
  from the instrument's name; pitch bends are an error. URMP.
* `clip`: floats at `sampling_rate` and one sequence, of a part of a recording, whose
  name and place are the song's id. The monophonic clips.
* `stems`: floats at `audio_sample_rate` and one sequence for each stem, whose program
  follows from the class in `inst_names`, or from the tracks that the data set lists.
  Slakh, Cerberus4.

Slakh, Cerberus4, your own and synthetic data merge parts that may share a program.
Tokens cannot express that one pitch of one program sounds twice, so for training such
notes are trimmed; for evaluation they stay as they are.

Every problem with a record is a `DataError` that names the record (`record` is
"<path>#<index>") and the field.

Differences from the original, numbered:

1. Unknown names, counts that differ and bytes that cannot be read are errors that say
   so. The original stops with an assertion or an error of some library.
2. A song's id is the record's id. Several records of Slakh and Cerberus4 are mixes of
   one track, so there the file and index are part of it.
3. The tracks of Cerberus4 may come in any order.
4. Notes without a duration are dropped where notes are trimmed. The original stops.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mt3 import note_sequences
from mt3.audio import reading
from mt3.data import note_sequence_io
from mt3.data.note_sequence_io import PitchBends
from mt3.datasets import DatasetConfig
from mt3.errors import AudioError, ConfigError, DataError, near_misses
from mt3.note_sequences import Note, TrackSpec

Record = Mapping[str, "bytes | np.ndarray"]

GUITARSET_INSTRUMENT = "Clean Guitar"
GUITARSET_PROGRAM = 24
# Ends of ids that name the recording of an excerpt: microphone or mix of pickups.
GUITARSET_RECORDINGS = ("_mic", "_mix")

# fmt: off
URMP_PROGRAMS: Mapping[str, int] = {
    "vn": 40, "va": 41, "vc": 42, "db": 43, "tpt": 56, "tbn": 57, "tba": 58, "hn": 60,
    "sax": 64, "ob": 68, "bn": 70, "cl": 71, "fl": 73,
}
# fmt: on

SLAKH_DRUMS = "Drums"
# fmt: off
SLAKH_PROGRAMS: Mapping[str, int] = {
    "Acoustic Piano": 0, "Electric Piano": 4, "Chromatic Percussion": 8, "Organ": 16,
    "Acoustic Guitar": 24, "Clean Electric Guitar": 26,
    "Distorted Electric Guitar": 29, "Acoustic Bass": 32, "Electric Bass": 33,
    "Violin": 40, "Viola": 41, "Cello": 42, "Contrabass": 43, "Orchestral Harp": 46,
    "Timpani": 47, "String Ensemble": 48, "Synth Strings": 50, "Choir and Voice": 52,
    "Orchestral Hit": 55, "Trumpet": 56, "Trombone": 57, "Tuba": 58,
    "French Horn": 60, "Brass Section": 61, "Soprano/Alto Sax": 64, "Tenor Sax": 66,
    "Baritone Sax": 67, "Oboe": 68, "English Horn": 69, "Bassoon": 70, "Clarinet": 71,
    "Pipe": 73, "Synth Lead": 80, "Synth Pad": 88,
}
# fmt: on


@dataclasses.dataclass(frozen=True, eq=False)
class Song:
    """One recording and its notes.

    Attributes:
      id: its name, unique within its data set.
      audio: mono, at the model's sample rate: float32 [n], or int16 [n] as stored.
      note_array: pedal applied, programs set, [n] of `NOTE_DTYPE`.
    """

    id: str
    audio: np.ndarray
    note_array: np.ndarray

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The audio as float32 [n]."""
        if self.audio.dtype == np.int16:
            return self.audio * np.float32(1 / 32768)
        return self.audio

    @functools.cached_property
    def notes(self) -> list[Note]:
        """The notes one by one."""
        return note_sequences.array_to_notes(self.note_array)

    @functools.cached_property
    def sequence(self) -> bytes:
        """The notes as a serialized NoteSequence."""
        sequence = note_sequences.to_note_sequence(self.notes)
        sequence.id = self.id
        return sequence.SerializeToString()


class Adapter(Protocol):
    """Makes a song of a record."""

    def __call__(self, record: Record, *, sample_rate: int, training: bool) -> Song:
        """Reads a record.

        Args:
          record: features by name.
          sample_rate: Hz of the result's samples.
          training: trim overlapping notes of one pitch and program where the data set
            needs it.

        Returns:
          The song.

        Raises:
          DataError: names the record and the field that cannot be used.
        """
        ...


def recording(
    record: Record,
    *,
    sample_rate: int,
    training: bool,
    audio_is_samples: bool = False,
    rate_field: str = "sample_rate",
    program: int | None = None,
    pitch_bends: PitchBends = "ignore",
    trim: bool = False,
    id_feature_key: str | None = None,
) -> Song:
    """One recording with one sequence; see `Adapter`.

    Args:
      record: features by name.
      sample_rate: Hz of the result's samples.
      training: whether `trim` applies.
      audio_is_samples: `audio` holds floats, not a file's bytes.
      rate_field: the feature that holds their sample rate.
      program: of all notes; None for each note's own.
      pitch_bends: "error" or "ignore".
      trim: end each note where the next one of its pitch and program begins.
      id_feature_key: the feature that holds the id, if it is not `id`.
    """
    notes = _part_notes(
        record,
        "sequence",
        _bytes_of(record, "sequence"),
        pitch_bends=pitch_bends,
        program=program,
        allow_empty=trim and training,
    )
    if trim and training:
        notes = note_sequences.trim_overlapping_notes(notes)
    if audio_is_samples:
        audio = float_samples(record, "audio", rate_field, sample_rate)
    else:
        audio = _file_audio(record, sample_rate)
    return Song(_song_id(record, id_feature_key), audio, notes)


def guitarset(record: Record, *, sample_rate: int, training: bool) -> Song:
    """GuitarSet: a recording of one instrument; see `Adapter`."""
    song = recording(
        record,
        sample_rate=sample_rate,
        training=training,
        program=GUITARSET_PROGRAM,
        pitch_bends="error",
    )
    # Each excerpt was recorded twice. An id that does not name the recording would
    # join the two.
    if song.id.endswith(GUITARSET_RECORDINGS):
        return song
    return dataclasses.replace(song, id=_song_id(record, with_position=True))


def clip(record: Record, *, sample_rate: int, training: bool) -> Song:
    """A part of a recording; see `Adapter`. Its id is "<file name> <first sample>"."""
    song = recording(
        record,
        sample_rate=sample_rate,
        training=training,
        audio_is_samples=True,
        rate_field="sampling_rate",
        trim=True,
        id_feature_key="filename",
    )
    return dataclasses.replace(song, id=f"{song.id} {_text(record['offset'])}")


def urmp_program(name: str) -> int:
    """Returns the program of an instrument of URMP ("vn", "fl", ...).

    Raises:
      DataError: there is no such instrument.
    """
    return look_up(name, URMP_PROGRAMS, "URMP instrument")


def slakh_program(name: str) -> tuple[int, bool]:
    """Returns program and is_drum of a class of Slakh ("Electric Bass", ...).

    Raises:
      DataError: there is no such class.
    """
    known = {**SLAKH_PROGRAMS, SLAKH_DRUMS: 0}
    return look_up(name, known, "Slakh class"), name == SLAKH_DRUMS


def ensemble(
    record: Record,
    *,
    sample_rate: int,
    training: bool,
    program_of: Callable[[str], int] = urmp_program,
    id_feature_key: str | None = None,
) -> Song:
    """One recording with a sequence for each instrument; see `Adapter`.

    Args:
      record: features by name.
      sample_rate: Hz of the result's samples.
      training: not used.
      program_of: instrument name -> program; raises ValueError for others.
      id_feature_key: the feature that holds the id, if it is not `id`.
    """
    del training
    notes: list[np.ndarray] = []
    for name, data in _parts_of(record, "inst_names", "instrument_sequences"):
        part = _part_notes(
            record,
            "instrument_sequences",
            data,
            pitch_bends="error",
            program=_known(record, program_of, name),
            is_drum=False,
        )
        notes.append(part)
    audio = _file_audio(record, sample_rate)
    return Song(_song_id(record, id_feature_key), audio, _joined(notes))


def stems(
    record: Record,
    *,
    sample_rate: int,
    training: bool,
    track_specs: Sequence[TrackSpec] = (),
    pitch_bends: PitchBends = "ignore",
) -> Song:
    """A mix and a sequence for each stem; see `Adapter`.

    Args:
      record: features by name.
      sample_rate: Hz of the result's samples.
      training: trim overlapping notes.
      track_specs: the tracks, by which stems are named; if empty, `inst_names` holds
        classes of Slakh.
      pitch_bends: "error" or "ignore".
    """
    specs = {spec.name: (spec.program, spec.is_drum) for spec in track_specs}
    track_of = functools.partial(look_up, known=specs, what="track")
    parts = _parts_of(record, "inst_names", "note_sequences")
    kind_of = track_of if specs else slakh_program
    kinds = [_known(record, kind_of, name) for name, _ in parts]
    if specs and sorted(name for name, _ in parts) != sorted(specs):
        found = ", ".join(name for name, _ in parts) or "none"
        raise _field_error(
            record, "inst_names", f"found {found}; expected {', '.join(specs)}"
        )
    notes = _joined(
        [
            _part_notes(
                record,
                "note_sequences",
                data,
                pitch_bends=pitch_bends,
                program=0 if is_drum else program,
                is_drum=is_drum,
                allow_empty=training,  # Trimming drops them.
            )
            for (_, data), (program, is_drum) in zip(parts, kinds, strict=True)
        ]
    )
    return Song(
        _song_id(record, with_position=True),
        float_samples(record, "mix", "audio_sample_rate", sample_rate),
        note_sequences.trim_overlapping_notes(notes) if training else notes,
    )


ADAPTERS: Mapping[str, Adapter] = {
    "maestro": recording,
    "guitarset": guitarset,
    "urmp": ensemble,
    "musicnet": functools.partial(recording, audio_is_samples=True),
    "slakh": stems,
    "cerberus4": stems,
    "folder": functools.partial(recording, trim=True),
    "monophonic": clip,
}


def of(dataset: DatasetConfig) -> Adapter:
    """Returns the adapter of a data set.

    Raises:
      ConfigError: its name is not one of `ADAPTERS`.
    """
    if dataset.adapter not in ADAPTERS:
        raise ConfigError(
            f"data set {dataset.name!r}: unknown adapter {dataset.adapter!r}."
            f"{near_misses(dataset.adapter, ADAPTERS)}"
        )
    adapter = ADAPTERS[dataset.adapter]
    if dataset.adapter == "cerberus4":
        return functools.partial(adapter, track_specs=dataset.track_specs)
    return adapter


def look_up(name: str, known: Mapping[str, Any], what: str) -> Any:
    """Returns what a name stands for.

    Raises:
      DataError: it is not known; `what` says what kind of name it is.
    """
    if name not in known:
        raise DataError(f"unknown {what} {name!r}.{near_misses(name, known)}")
    return known[name]


def _known(record: Record, look_up: Callable[[str], Any], name: str) -> Any:
    """Looks an instrument up; the error names the record."""
    try:
        return look_up(name)
    except ValueError as error:
        raise _field_error(record, "inst_names", str(error)) from error


def _part_notes(record: Record, field: str, data: bytes, **options: Any) -> np.ndarray:
    """Returns the notes of a sequence; `note_sequence_io.to_array` has the options."""
    name = _place(record, field)
    return note_sequence_io.to_array(
        note_sequence_io.parse(data, name), name=name, **options
    )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([note_sequences.notes_to_array([]), *parts])


def _text(value: object) -> str:
    """Text of a feature: bytes, text, or a number used as an id."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _song_id(
    record: Record, id_feature_key: str | None = None, *, with_position: bool = False
) -> str:
    """Returns the record's own id, else its file name and index.

    Args:
      record: features by name.
      id_feature_key: the feature that holds the id; None for `id` or `track_id`.
      with_position: add the file name and index to an id that several records share.

    Raises:
      DataError: the record has neither.
    """
    keys = (id_feature_key,) if id_feature_key else ("id", "track_id")
    own = next((_text(record[key]) for key in keys if key in record), "")
    position = os.path.basename(_text(record.get("record", b"")))
    parts = [own, position] if with_position else [own or position]
    if not any(parts):
        raise DataError("record: fields 'id' and 'record' are empty; expected a name")
    return " ".join(filter(None, parts))


def _place(record: Record, field: str) -> str:
    """Returns the name of a record and a field, for messages."""
    names = [_text(record.get(key, b"")) for key in ("record", "id", "track_id")]
    return f"{next(filter(None, names), 'a record without a name')}: field {field!r}"


def _field_error(record: Record, field: str, problem: str) -> DataError:
    return DataError(f"{_place(record, field)}: {problem}")


def _bytes_of(record: Record, field: str) -> bytes:
    """Returns a field of bytes.

    Raises:
      DataError: it is missing, empty or something else.
    """
    value = record.get(field, b"")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if not isinstance(value, bytes) or not value:
        found = "nothing" if isinstance(value, bytes) else f"{value!r:.60}"
        raise _field_error(record, field, f"found {found}, expected bytes")
    return value


def _strings_of(record: Record, field: str) -> list[bytes]:
    """Returns a list of strings; one string alone is a list of one."""
    value = record.get(field)
    if value is None:
        raise _field_error(record, field, "is missing")
    return [value] if isinstance(value, bytes) else list(np.ravel(value))


def _parts_of(record: Record, names: str, sequences: str) -> list[tuple[str, bytes]]:
    """Pairs instrument names with their serialized sequences.

    Raises:
      DataError: a field is missing, or there is not one sequence for each name.
    """
    found, data = _strings_of(record, names), _strings_of(record, sequences)
    if len(found) != len(data):
        raise _field_error(
            record,
            sequences,
            f"found {len(data)} sequences for {len(found)} instruments ({names!r})",
        )
    return [(_text(name), part) for name, part in zip(found, data, strict=True)]


def _file_audio(record: Record, sample_rate: int) -> np.ndarray:
    data = _bytes_of(record, "audio")
    return decode_audio(data, sample_rate, _place(record, "audio"))


def decode_audio(data: bytes, sample_rate: int, name: str) -> np.ndarray:
    """Decodes the bytes of an audio file.

    Args:
      data: WAV, FLAC, OGG or another format that libsndfile reads.
      sample_rate: Hz of the result.
      name: record and field, for messages.

    Returns:
      int16 [n] of a WAV file of one channel, 16 bits and that rate, which is how data
      sets store theirs. Else float32 [n], mono.

    Raises:
      DataError: not audio, no samples, or samples that are not finite.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            found = file.format, file.subtype, file.channels, file.samplerate
            plain = file.frames and found == ("WAV", "PCM_16", 1, sample_rate)
            samples = file.read(dtype="int16" if plain else "float32")
    except (soundfile.LibsndfileError, TypeError) as error:
        raise DataError(
            f"{name}: found {len(data)} bytes that are no WAV or FLAC file ({error})"
        ) from error
    return samples if plain else resample(samples, found[-1], sample_rate, name)


def resample(
    samples: np.ndarray, from_rate: float, to_rate: int, name: str
) -> np.ndarray:
    """Mixes samples [n] or [n, channels] to float32 [m] at another rate, in Hz.

    Raises:
      DataError: no samples, samples that are not finite, or a bad rate.
    """
    if from_rate == to_rate and samples.ndim == 1 and samples.dtype == np.float32:
        # The sum is finite only if all samples are: one pass instead of three copies.
        with np.errstate(all="ignore"):
            finite = np.isfinite(samples.sum())
        if len(samples) and finite and from_rate > 0:
            return samples
    try:
        source = reading.from_samples(samples, from_rate, name=name)
        return np.concatenate(list(source.blocks(to_rate)))
    except AudioError as error:
        raise DataError(str(error)) from error


def float_samples(
    record: Record, field: str, rate_field: str, sample_rate: int
) -> np.ndarray:
    """Returns samples stored as floats, float32 [n] at `sample_rate`, in Hz.

    Args:
      record: features by name.
      field: the samples.
      rate_field: their sample rate.
      sample_rate: of the result.

    Raises:
      DataError: a field is missing, or as `resample`.
    """
    if field not in record or rate_field not in record:
        missing = field if field not in record else rate_field
        raise _field_error(record, missing, "is missing")
    rate = float(np.ravel(record[rate_field])[0])
    samples = np.asarray(record[field])
    return resample(samples, rate, sample_rate, _place(record, field))
