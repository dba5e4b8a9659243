"""The TFRecord format: scanning, reading, counting, and writing whole sets of shards.

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
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c

from mt3.errors import ConfigError, DataError, OutputError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
_FOOTER_BYTES = _CHECKSUM.size
_MASK_DELTA = 0xA282EAD8
_MAX_SHARDS = 99999


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
    with _open(path) as file:
        size = _size(path)
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


def count_records(path: str) -> int:
    """Returns the number of records in a file.

    Raises:
      DataError: a length is damaged, or the file is cut off or cannot be opened.
    """
    spans = scan(path)
    if spans and spans[-1].problem:
        raise DataError(_problem(path, spans[-1], spans[-1].problem))
    return len(spans)


def read_payload(path: str, span: RecordSpan) -> bytes:
    """Returns the bytes of one record.

    Raises:
      DataError: the record is damaged; names file, record, byte and problem.
    """
    if span.problem:
        raise DataError(_problem(path, span, span.problem))
    with _open(path) as file:
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


def read_records(path: str) -> Iterator[bytes]:
    """Yields the payloads of a file.

    Raises:
      DataError: a record is damaged.
    """
    for span in scan(path):
        yield read_payload(path, span)


class ShardWriter:
    """Writes records to shards, all of which appear at the end, or none.

    Use it as a context manager. Until then the shards have temporary names beside
    their place; when an error ends the block they are removed.

    Attributes:
      paths: the shards' final names.
      num_records: records written so far.
    """

    def __init__(self, path_prefix: str | os.PathLike[str], num_shards: int | None):
        """Opens the shards.

        Args:
          path_prefix: "<folder>/train.tfrecord" makes
            "<folder>/train.tfrecord-00000-of-00004"; folders are made.
          num_shards: how many; None for one file named `path_prefix`.

        Raises:
          ConfigError: a number of shards that names cannot hold.
          OutputError: the files cannot be made.
        """
        prefix = os.fspath(path_prefix)
        if num_shards is not None and not 1 <= num_shards <= _MAX_SHARDS:
            raise ConfigError(
                f"{prefix}: {num_shards} shards; expected 1..{_MAX_SHARDS}"
            )
        self.paths: tuple[str, ...] = (
            (prefix,)
            if num_shards is None
            else tuple(
                f"{prefix}-{shard:05d}-of-{num_shards:05d}"
                for shard in range(num_shards)
            )
        )
        self.num_records = 0
        self._temporary = [f"{path}.writing-{os.getpid()}" for path in self.paths]
        self._files: list[BinaryIO] = []
        try:
            _make_folder(os.path.dirname(prefix) or ".")
            for path in self._temporary:
                self._files.append(_open_to_write(path))
        except _file_errors() as error:
            self._remove()
            raise OutputError(f"{prefix}: cannot be written: {error}") from error

    def write(self, record: bytes) -> None:
        """Adds a record to the shard whose turn it is.

        Raises:
          OutputError: it cannot be written.
        """
        shard = self.num_records % len(self.paths)
        length = _LENGTH.pack(len(record))
        try:
            self._files[shard].write(
                length
                + _CHECKSUM.pack(masked_checksum(length))
                + record
                + _CHECKSUM.pack(masked_checksum(record))
            )
        except _file_errors() as error:
            raise OutputError(f"{self.paths[shard]}: {error}") from error
        self.num_records += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        try:
            for file in self._files:
                file.close()
            if kind is None:
                for temporary, path in zip(self._temporary, self.paths, strict=True):
                    _rename(temporary, path)
        except _file_errors() as error:
            raise OutputError(f"{self.paths[0]}: cannot be written: {error}") from error
        finally:
            self._remove()

    def _remove(self) -> None:
        """Removes what has still a temporary name."""
        for file in self._files:
            file.close()
        for path in self._temporary:
            # Nothing more can be done, and an error is on its way if it matters.
            with contextlib.suppress(*_file_errors()):
                _remove(path)


def _is_local(path: str) -> bool:
    return "://" not in path


def _bucket_files() -> Any:
    """Returns TensorFlow's functions for files in buckets."""
    import tensorflow as tf

    return tf.io.gfile


def _file_errors() -> tuple[type[Exception], ...]:
    """Returns what a file or a bucket raises."""
    tf = sys.modules.get("tensorflow")
    return (OSError,) if tf is None else (OSError, tf.errors.OpError)


def _open(path: str) -> BinaryIO:
    """Opens a file for reading; DataError if that fails."""
    try:
        if _is_local(path):
            return pathlib.Path(path).open("rb")
        file = _bucket_files().GFile(path, "rb")
        # Opening alone does not touch the bucket.
        file.size()
    except _file_errors() as error:
        raise DataError(f"{path}: cannot be opened: {error}") from error
    return file


def _size(path: str) -> int:
    if _is_local(path):
        return os.stat(path).st_size
    return _bucket_files().stat(path).length


def _open_to_write(path: str) -> BinaryIO:
    if _is_local(path):
        return pathlib.Path(path).open("wb")
    return _bucket_files().GFile(path, "wb")


def _make_folder(path: str) -> None:
    if _is_local(path):
        os.makedirs(path, exist_ok=True)


def _rename(temporary: str, path: str) -> None:
    if _is_local(path):
        os.replace(temporary, path)
    else:
        _bucket_files().rename(temporary, path, overwrite=True)


def _remove(path: str) -> None:
    if _is_local(path):
        pathlib.Path(path).unlink(missing_ok=True)
    elif _bucket_files().exists(path):
        _bucket_files().remove(path)


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
