"""Whole TFRecord files, read by the package's own functions."""

from __future__ import annotations

from collections.abc import Iterator

from mt3.data import tfrecords


def read_records(path: str) -> Iterator[bytes]:
    """Yields the payloads of a file; DataError at a damaged record."""
    for span in tfrecords.scan(path):
        yield tfrecords.read_payload(path, span)
