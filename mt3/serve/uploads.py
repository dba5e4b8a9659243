"""Taking in a recording that a client sends as a form with one file.

What comes is written as it comes. Its size is counted, whatever the client says of it,
and it must come fast enough on average: slow and endless uploads end in time. The name
of the file is for people; nothing is stored under it.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import BinaryIO

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from mt3.serve.folder import private_file
from mt3.serve.limits import RefusedError, too_large
from mt3.serve.queue import JobQueue, Upload
from mt3.terminal import printable

FIELD = "file"
_LONGEST_NAME = 200
# Around the file: boundaries and headers.
_MOST_FORM_BYTES = 64 << 10
# A form with one file has two. Each takes the parser long, whatever follows it.
_MOST_BOUNDARIES = 8


async def receive(request: Request, queue: JobQueue, upload: Upload) -> str:
    """Writes the recording of a request to its place.

    Args:
      request: whose body is a form with one file.
      queue: accounts for the bytes.
      upload: where the recording goes.

    Returns:
      The name of the file, for people.

    Raises:
      RefusedError: no such form, or too large, too slow, or no room for it.
      ClientDisconnect: the client left.
    """
    limits = queue.limits
    length = int(request.headers.get("content-length", 0))
    if length > limits.upload_bytes + _MOST_FORM_BYTES:
        raise too_large(limits.upload_bytes)
    with private_file(upload.path) as stream:
        form = _Form(boundary_of(request), queue, upload, stream)
        begin, received = time.monotonic(), 0
        while True:
            allowed = limits.upload_grace + received / limits.upload_rate
            try:
                left = begin + allowed - time.monotonic()
                message = await asyncio.wait_for(request.receive(), max(0.0, left))
            except TimeoutError:
                raise RefusedError(
                    408,
                    f"the upload is too slow: {received} bytes came in {allowed:.0f} s;"
                    f" expected {limits.upload_rate / 1024:g} kilobytes per second",
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            received += len(message["body"])
            if received > upload.size + len(message["body"]) + _MOST_FORM_BYTES:
                raise RefusedError(413, "the form has more than a recording in it")
            form.write(message["body"])
            if not message["more_body"]:
                return form.finish()


def boundary_of(request: Request) -> bytes:
    """Returns what separates the parts of a form.

    Raises:
      RefusedError: the body is no such form.
    """
    kind, values = parse_options_header(request.headers.get("content-type"))
    boundary = values.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        found = kind.decode("latin-1") or "no type"
        raise RefusedError(
            415,
            f"the request has a body of {found!r}; expected multipart/form-data with "
            f"the field {FIELD!r} (curl -F {FIELD}=@song.mp3)",
        )
    return boundary


class _Form:
    """Reads a form as it comes, and writes its one file."""

    def __init__(
        self, boundary: bytes, queue: JobQueue, upload: Upload, stream: BinaryIO
    ):
        self._queue, self._upload, self._stream = queue, upload, stream
        self._boundary, self._boundaries = b"\r\n--" + boundary, 0
        self._header, self._value = b"", b""
        self._name: str | None = None
        self._ended = False
        callbacks = {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_part_begin": self._on_part_begin,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = python_multipart.MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _malformed(error) from error

    def write(self, data: bytes) -> None:
        self._boundaries += data.count(self._boundary)
        if self._boundaries > _MOST_BOUNDARIES:
            raise RefusedError(
                400, "the form's boundary is in the recording; expected it around it"
            )
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(error) from error

    def finish(self) -> str:
        if not self._ended:
            raise RefusedError(400, "the form was cut; expected its last boundary")
        if self._name is None:
            raise RefusedError(422, f"the form is empty; expected the field {FIELD!r}")
        return self._name

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, values = parse_options_header(self._disposition)
        field = values.get(b"name", b"").decode("utf-8", "replace")
        if field != FIELD or self._name is not None:
            raise RefusedError(
                422,
                f"the form has {'a second' if field == FIELD else 'the'} field "
                f"{field[:50]!r}; expected the field {FIELD!r} alone (settings are "
                "given in the address, as in /jobs?instruments=piano)",
            )
        self._name = shown_name(values.get(b"filename", b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._queue.grow(self._upload, end - start)
        self._stream.write(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


def shown_name(raw: bytes) -> str:
    """Returns the name of a file for people: its last part, as text, not too long."""
    text = printable(raw.decode("utf-8", "replace"))
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", text)
    text = re.split(r"[/\\]", text)[-1].strip()
    return text[-_LONGEST_NAME:] or "recording"


def _malformed(error: Exception) -> RefusedError:
    return RefusedError(400, f"the form cannot be read: {error}")
