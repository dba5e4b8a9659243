"""Fields of a record: names for messages, bytes, lists of strings, samples.

A record is a dict of features, as read from a TFRecord: bytes for strings, NumPy
arrays for numbers and lists. What a field holds is checked when it is read; a
`DataError` names the record ("<path>#<index>") and the field.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping

import numpy as np

from mt3.audio import reading
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


def stored_audio(data: bytes, sample_rate: int, name: str) -> np.ndarray:
    """Decodes the bytes of an audio file, unless they are what is asked for already.

    Args:
      data: as for `decode_audio`.
      sample_rate: Hz of the result.
      name: record and field, for messages.

    Returns:
      int16 [n] of a plain WAV file of one channel, 16 bits and that rate, which is how
      data sets store theirs: the bytes themselves, read-only. Else float32 [n].

    Raises:
      DataError: as `decode_audio`.
    """
    samples = _plain_samples(data, sample_rate)
    return decode_audio(data, sample_rate, name) if samples is None else samples


def as_floats(samples: np.ndarray) -> np.ndarray:
    """Returns float32 samples as they are, int16 ones by their full scale."""
    if samples.dtype == np.int16:
        return samples * np.float32(1 / 32768)
    return samples


# "RIFF", size, "WAVE"; then chunks: name, size.
_RIFF = struct.Struct("<4sI4s")
_CHUNK = struct.Struct("<4sI")
# Code (1: integers), channels, rate, bytes a second, bytes a sample, bits.
_FORMAT = struct.Struct("<HHIIHH")


def _plain_samples(data: bytes, sample_rate: int) -> np.ndarray | None:
    """Returns the samples of a plain WAV file, see `stored_audio`; None of others."""
    if len(data) < _RIFF.size or _RIFF.unpack_from(data)[::2] != (b"RIFF", b"WAVE"):
        return None
    offset, plain = _RIFF.size, False
    while offset + _CHUNK.size <= len(data):
        kind, size = _CHUNK.unpack_from(data, offset)
        offset += _CHUNK.size
        if size > len(data) - offset:
            return None
        if kind == b"fmt ":
            expected = (1, 1, sample_rate, 2 * sample_rate, 2, 16)
            plain = size >= _FORMAT.size
            plain = plain and _FORMAT.unpack_from(data, offset) == expected
        elif kind == b"data":
            if not plain or size < 2 or size % 2:
                return None
            return np.frombuffer(data, "<i2", count=size // 2, offset=offset)
        offset += size + size % 2
    return None


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
    if from_rate == to_rate and samples.ndim == 1 and samples.dtype == np.float32:
        # Their sum is finite only if they are: one look instead of three copies.
        with np.errstate(all="ignore"):
            finite = np.isfinite(samples.sum())
        if len(samples) and finite and from_rate > 0:
            return samples
    try:
        source = reading.from_samples(samples, from_rate, name=name)
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
