"""Fields of a record: names for messages, bytes, lists of strings, samples.

A record is a dict of features, as read from a TFRecord: bytes for strings, NumPy
arrays for numbers and lists. What a field holds is checked when it is read; a
`DataError` names the record ("<path>#<index>") and the field.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import numpy as np

from mt3 import audio_io
from mt3.errors import AudioError, DataError

Record = Mapping[str, "bytes | np.ndarray"]


def record_name(record: Record) -> str:
    """Returns "<path>#<index>", else the id, for messages."""
    for feature in ("record", "id", "track_id"):
        if record.get(feature) not in (None, b"", ""):
            return as_text(record[feature])
    return "a record without a name"


def song_id(record: Record, *, with_position: bool = False) -> str:
    """Returns the record's own id, else its file name and index.

    Args:
      record: features by name.
      with_position: add the file name and index to an id that several records share.

    Raises:
      DataError: the record has neither.
    """
    own = record.get("id", record.get("track_id", b""))
    own = "" if isinstance(own, (bytes, str)) and not own else as_text(own)
    position = os.path.basename(as_text(record.get("record", b"")))
    parts = [own, position] if with_position else [own or position]
    if not any(parts):
        raise DataError("record: fields 'id' and 'record' are empty; expected a name")
    return " ".join(filter(None, parts))


def decode_audio(data: bytes, sample_rate: int, name: str) -> np.ndarray:
    """Decodes the bytes of an audio file.

    Args:
      data: WAV, FLAC, OGG or what else libsndfile reads.
      sample_rate: Hz of the result.
      name: record and field, for messages.

    Returns:
      float32 [n], mono.

    Raises:
      DataError: not audio, no samples, or samples that are not finite.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except (soundfile.LibsndfileError, TypeError) as error:
        raise DataError(
            f"{name}: found {len(data)} bytes that are no WAV or FLAC file ({error})"
        ) from error
    return resample(samples, rate, sample_rate, name)


def resample(
    samples: np.ndarray, from_rate: float, to_rate: int, name: str
) -> np.ndarray:
    """Mixes samples [n] or [n, channels] to float32 [m] at another rate, in Hz.

    Raises:
      DataError: no samples, samples that are not finite, or a bad rate.
    """
    try:
        source = audio_io.from_samples(samples, from_rate, name=name)
        return np.concatenate(list(source.blocks(to_rate)))
    except AudioError as error:
        raise DataError(str(error)) from error


def as_text(value: object) -> str:
    """Text of a feature: bytes, text, or a number used as an id."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def field_error(record: Record, field: str, problem: str) -> DataError:
    """Returns an error that names record, field and problem."""
    return DataError(f"{place(record, field)}: {problem}")


def place(record: Record, field: str) -> str:
    """Returns the name of a record and a field, for messages."""
    return f"{record_name(record)}: field {field!r}"


def bytes_of(record: Record, field: str) -> bytes:
    """Returns a field of bytes.

    Raises:
      DataError: it is missing, empty or something else.
    """
    value = record.get(field, b"")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if not isinstance(value, bytes) or not value:
        found = "nothing" if isinstance(value, bytes) else f"{value!r:.60}"
        raise field_error(record, field, f"found {found}, expected bytes")
    return value


def strings_of(record: Record, field: str) -> list[bytes]:
    """Returns a list of strings; one string alone is a list of one.

    Raises:
      DataError: the field is missing.
    """
    value = record.get(field)
    if value is None:
        raise field_error(record, field, "is missing")
    return [value] if isinstance(value, bytes) else list(np.ravel(value))


def parts_of(record: Record, names: str, sequences: str) -> list[tuple[str, bytes]]:
    """Pairs instrument names with their serialized sequences.

    Raises:
      DataError: a field is missing, or there is not one sequence for each name.
    """
    found, data = strings_of(record, names), strings_of(record, sequences)
    if len(found) != len(data):
        raise field_error(
            record,
            sequences,
            f"found {len(data)} sequences for {len(found)} instruments ({names!r})",
        )
    return [(as_text(name), part) for name, part in zip(found, data, strict=True)]


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
        raise field_error(record, missing, "is missing")
    rate = float(np.ravel(record[rate_field])[0])
    samples = np.asarray(record[field])
    return resample(samples, rate, sample_rate, place(record, field))
