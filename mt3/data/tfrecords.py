"""The TFRecord format: scanning, reading and writing files.

A TFRecord file is a sequence of: length (8 bytes), checksum of the length (4 bytes),
payload, checksum of the payload (4 bytes); checksums are masked CRC-32C. Here the
lengths are scanned first, and each record is then read by its offset. So a damaged
payload costs one record, a damaged length the rest of its file, and what is wrong is
said with file, record and byte.

TensorFlow is needed for files in buckets alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

import google_crc32c

from mt3 import files
from mt3.errors import DataError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
_FOOTER_BYTES = _CHECKSUM.size
_MASK_DELTA = 0xA282EAD8


@dataclasses.dataclass(frozen=True)
class RecordSpan:
    """Where a record lies in its file.

    Attributes:
      index: number of the record in its file.
      offset: byte at which its length stands.
      length: bytes of the payload.
      problem: why it cannot be read, found while scanning; "" if nothing was found.
    """

    index: int
    offset: int
    length: int
    problem: str = ""


def masked_checksum(data: bytes) -> int:
    """Returns TFRecord's checksum of some bytes."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def scan(path: str) -> list[RecordSpan]:
    """Finds the records of a file by their lengths, without reading them.

    Args:
      path: a local file or one in a bucket.

    Returns:
      The records in order. If a length is damaged or the file is cut off, the last
      one has a `problem`, and nothing after it can be found.

    Raises:
      DataError: the file cannot be opened.
    """
    spans = []
    file, size = _open(path)
    with file:
        offset = 0
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER_BYTES)
            length, problem = _payload_length(header, size - offset)
            spans.append(RecordSpan(len(spans), offset, length, problem))
            if problem:
                break
            offset += _HEADER_BYTES + length + _FOOTER_BYTES
    return spans


def read_payload(path: str, span: RecordSpan) -> bytes:
    """Returns the bytes of one record.

    Raises:
      DataError: the record is damaged; names file, record, byte and problem.
    """
    if span.problem:
        raise DataError(_problem(path, span, span.problem))
    with _open(path)[0] as file:
        file.seek(span.offset + _HEADER_BYTES)
        payload = file.read(span.length)
        footer = file.read(_FOOTER_BYTES)
    if len(payload) < span.length or len(footer) < _FOOTER_BYTES:
        raise DataError(_problem(path, span, "the file ends within the record"))
    found, expected = masked_checksum(payload), _CHECKSUM.unpack(footer)[0]
    if found != expected:
        raise DataError(
            _problem(
                path,
                span,
                f"the payload of {span.length} bytes has checksum {found:08x}; "
                f"expected {expected:08x}",
            )
        )
    return payload


@contextlib.contextmanager
def write_records(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
    """Opens a file that appears under its name only when the block succeeds.

    Until then its name ends in ".writing-" and the number of the process, and on an
    error it is removed. Missing folders are made.

    Args:
      path: of the finished file, on this machine.

    Yields:
      A function that adds a record.

    Raises:
      OutputError: the file or a record cannot be written.
    """
    temporary = path.with_name(f"{path.name}.writing-{os.getpid()}")

    def write(record: bytes) -> None:
        length = _LENGTH.pack(len(record))
        parts = length, _checksum(length), record, _checksum(record)
        try:
            file.write(b"".join(parts))
        except OSError as error:
            raise files.cannot_write(path, error) from error

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield write
        os.replace(temporary, path)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    finally:
        # Gone already after success; may never have been made after a failure.
        with contextlib.suppress(OSError):
            temporary.unlink()


def _checksum(data: bytes) -> bytes:
    return _CHECKSUM.pack(masked_checksum(data))


def _open(path: str) -> tuple[BinaryIO, int]:
    """Opens a file for reading; returns it and its size. DataError if that fails."""
    failures: tuple[type[Exception], ...] = (OSError,)
    try:
        if "://" not in path:
            return pathlib.Path(path).open("rb"), os.stat(path).st_size
        import tensorflow as tf

        failures = OSError, tf.errors.OpError
        file = tf.io.gfile.GFile(path, "rb")
        # Opening alone does not touch the bucket.
        return file, file.size()
    except failures as error:
        raise DataError(f"{path}: cannot be opened: {error}") from error


def _payload_length(header: bytes, available: int) -> tuple[int, str]:
    """Returns the length that a header gives, and what is wrong with it."""
    if len(header) < _HEADER_BYTES:
        return 0, f"the file ends within the record's length ({len(header)} bytes)"
    length = _LENGTH.unpack_from(header)[0]
    expected = _CHECKSUM.unpack_from(header, _LENGTH.size)[0]
    found = masked_checksum(header[: _LENGTH.size])
    if found != expected:
        return 0, (
            f"the record's length has checksum {found:08x}; expected {expected:08x}. "
            "The rest of the file is lost"
        )
    needed = _HEADER_BYTES + length + _FOOTER_BYTES
    if needed > available:
        return 0, f"the file ends {needed - available} bytes before the record does"
    return length, ""


def _problem(path: str, span: RecordSpan, text: str) -> str:
    return f"{path}: record {span.index} at byte {span.offset}: {text}"
