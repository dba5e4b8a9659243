"""A server in a thread, and a model that writes one note per second at once."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import soundfile

from mt3.audio import reading
from mt3.errors import MT3Error
from mt3.inference import FileResult, SegmentNotes
from mt3.note_sequences import Note
from mt3.outputs import Transcription
from mt3.serve import app
from mt3.serve import server as serving
from mt3.serve.limits import Limits
from mt3.serve.queue import Job, JobQueue, Request

RATE = 8000


class SlowModel:
    """Finds middle C in each second of a recording, when it may.

    Attributes:
      may_go: cleared, it waits before the next segment.
      began: names of the recordings that it began, in order.
      left: names of those that it was told to leave.
      fault: raised in the second segment of recordings that are named "fault".
    """

    name = "slow"
    arrangement = "usual"

    def __init__(self):
        self.may_go = threading.Event()
        self.may_go.set()
        self.began: list[str] = []
        self.left: list[str] = []
        self.fault: Exception = RuntimeError("out of order")

    def arrangement_for(self, options):
        return "usual" if options.decode is None else options.decode

    def with_options(self, options):
        return self

    def run(self, recordings):
        (source,) = recordings
        self.began.append(source.name)
        try:
            yield from self._notes(source)
        except GeneratorExit:
            self.left.append(source.name)
            raise

    def _notes(self, source):
        notes, end = [], source.start
        try:
            for start, samples in reading.segments(
                source, sample_rate=RATE, segment_samples=RATE
            ):
                assert self.may_go.wait(60)
                if source.name == "fault" and start:
                    raise self.fault
                note = Note(end, end + len(samples) / RATE, 60, 100, 0, False)
                notes.append(note)
                end = note.end_time
                yield SegmentNotes(0, end, [note])
        except MT3Error as error:
            yield FileResult(0, source.name, None, error)
            return
        result = Transcription(
            notes, duration=end, source=source.name, warnings=source.warnings
        )
        yield FileResult(0, source.name, result, None)


def sound(seconds: float = 2.0) -> np.ndarray:
    """Returns audio of the slow model's rate."""
    return (0.1 * np.sin(np.arange(round(seconds * RATE)))).astype(np.float32)


def wav(seconds: float = 2.0) -> bytes:
    """Returns the bytes of a recording."""
    stream = io.BytesIO()
    soundfile.write(stream, sound(seconds), RATE, format="WAV")
    return stream.getvalue()


def form(seconds: float = 2.0, name: str = "song.wav") -> dict:
    """Returns what is posted."""
    return {"file": (name, wav(seconds))}


def job(queue: JobQueue, request: Request, client: str, name: str, seconds=2.0) -> Job:
    """Puts a recording into a queue."""
    upload = queue.begin_upload(client)
    upload.path.write_bytes(b"recording")
    queue.grow(upload, len(b"recording"))
    source = reading.from_samples(sound(seconds), RATE, name=name)
    made = Job(name, request, source, upload)
    queue.add(made)
    queue.end_upload(upload)
    return made


def until(condition, seconds: float = 60.0) -> None:
    """Waits until something holds.

    Raises:
      AssertionError: it never did.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Running:
    """A server that runs.

    Attributes:
      application: what answers.
      url: where.
      address: of its socket.
      server: that answers there.
    """

    def __init__(self, application: Any, address: tuple[str, int], server: Any):
        self.application = application
        self.server = server
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}"

    @property
    def queue(self) -> JobQueue:
        return self.application.state.queue

    def client(self, address: str = "127.0.0.1", **more: Any) -> httpx.Client:
        """Returns a client with an address of its own (Linux has many on loopback)."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(
            base_url=self.url, transport=transport, timeout=60, trust_env=False, **more
        )


@contextlib.contextmanager
def running(model: Any, limits: Limits | None = None) -> Iterator[Running]:
    """Runs a server until the block ends."""
    application = app.create_app(model, limits=limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        server = serving.make_server(application)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            yield Running(application, address, server)
        finally:
            server.should_exit = True
            thread.join()


def error(response: httpx.Response, status: int) -> str:
    """Returns the message of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    return response.json()["error"]


HEAD = b"--b\r\nContent-Disposition: form-data; name=file; filename=song.wav\r\n\r\n"
TAIL = b"\r\n--b--\r\n"


def request(server: Running, *, length="Content-Length: 999999", body=HEAD):
    """Opens a connection and sends an upload, or its beginning."""
    connection = socket.create_connection(server.address, timeout=60)
    lines = [
        "POST /jobs HTTP/1.1",
        f"Host: 127.0.0.1:{server.address[1]}",
        "Content-Type: multipart/form-data; boundary=b",
        length,
        "",
        "",
    ]
    connection.sendall("\r\n".join(lines).encode() + body)
    return connection


def answer(connection: socket.socket) -> str:
    """Returns all that comes until the connection is closed."""
    with connection, contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
