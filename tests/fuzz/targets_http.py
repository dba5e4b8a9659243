"""Raw bytes of HTTP requests, through the server's protocol and the application.

There is no socket: the protocol writes to memory, and its client leaves where it would
wait for more.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import pathlib
import re
from collections.abc import Iterator

import soundfile
from uvicorn.server import ServerState

from mt3.options import TranscribeOptions
from mt3.outputs import OutputOptions
from mt3.serve import app
from mt3.serve import server as serving
from mt3.serve.limits import Limits
from mt3.serve.queue import Job
from mt3.serve.queue import Request as Wanted
from tests.fuzz.target import Target
from tests.support import serving as support

_JOB = "known-job"
# Rounds of the event loop after which a request that is not whole is given up.
_ROUNDS = 30
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


class _Memory(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self, protocol: serving.Protocol, loop: asyncio.AbstractEventLoop):
        super().__init__({"peername": ("127.0.0.9", 5), "sockname": ("127.0.0.1", 80)})
        self.written = b""
        self._protocol, self._loop, self._closing = protocol, loop, False

    def write(self, data: bytes) -> None:
        if not self._closing:
            self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        """Everything was read at once."""

    resume_reading = pause_reading


class _Faults(logging.Handler):
    """Keeps what the server logs: its faults."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(logging.Formatter().format(record))


class _Served:
    """The application, answering bytes with bytes."""

    def __init__(self):
        self.faults = _Faults()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(
            lambda loop, context: self.faults.messages.append(str(context))
        )
        limits = Limits(upload_bytes=1 << 20, recording_seconds=60.0)
        self.app = app.create_app(support.SlowModel(), limits=limits)
        self.config = serving.make_server(self.app).config
        self.config.load()
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).handlers = [self.faults]
            logging.getLogger(name).propagate = False
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run_until_complete(self._lifespan.__aenter__())
        self.queue = self.app.state.queue
        self._job = self._finished_job()

    def _finished_job(self) -> Job:
        wanted = Wanted(TranscribeOptions(), OutputOptions())
        job = support.job(self.queue, wanted, "other", "song.wav")
        support.until(lambda: job.has_ended)
        return job

    def answer(self, request: bytes) -> bytes:
        """Returns all that is answered; afterwards nothing is left of the request."""
        self.queue._jobs = {_JOB: self._job}
        written = self.loop.run_until_complete(self._answer(request))
        support.until(lambda: not self.queue._lines)
        assert not self.queue._uploads
        assert self.queue._held_bytes == 0
        left = [path.name for path in self.queue.folder.iterdir()]
        assert left == ["lock"], left
        assert not self.faults.messages, "\n".join(self.faults.messages)
        return written

    async def _answer(self, request: bytes) -> bytes:
        state = ServerState()
        protocol = serving.Protocol(self.config, state, {}, self.loop)
        transport = _Memory(protocol, self.loop)
        protocol.connection_made(transport)
        for part in (request[: len(request) // 2], request[len(request) // 2 :]):
            if part and not transport.is_closing():
                protocol.data_received(part)
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
        # What is whole is answered. Without a cycle there is no request yet.
        while state.tasks and protocol.cycle and not protocol.cycle.more_body:
            await asyncio.wait(state.tasks, return_when="FIRST_COMPLETED")
            await asyncio.sleep(0)
        transport.close()
        if state.tasks:
            await asyncio.wait(state.tasks)
        await asyncio.sleep(0)
        protocol._unset_keepalive_if_required()
        return transport.written


@functools.cache
def _served() -> _Served:
    return _Served()


def _run(path: pathlib.Path) -> None:
    served = _served()
    request = path.read_bytes()
    for status, body in _responses(served.answer(request), b"HEAD" in request):
        assert status < 500, (status, body)
        if status >= 400:
            assert json.loads(body).keys() == {"error"}, body
    about = b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ((status, body),) = _responses(served.answer(about), False)
    assert status == 200, body


def _responses(written: bytes, has_head: bool) -> Iterator[tuple[int, bytes]]:
    """Yields status and body of each response; those to HEAD have no body."""
    while written:
        head = _HEAD.match(written)
        assert head, written[:200]
        status, fields = int(head[1]), head[2].lower()
        length = re.search(rb"content-length: (\d+)", fields)
        written = written[head.end() :]
        if length:
            body = written[: int(length[1])]
            if has_head and (not body or body.startswith(b"HTTP/1.1 ")):
                continue
            written = written[len(body) :]
        else:
            # A stream, the last response; 1xx and 204 have no body.
            body = written if b"chunked" in fields else b""
            written = written[len(body) :]
        yield status, body


def _wav() -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, support.sound(0.5), support.RATE, format="WAV")
    return stream.getvalue()


def _seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="song.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + _wav() + b"\r\n--b--\r\n"
    )
    post = (
        b"Host: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n" % len(form)
    )
    get = b"Host: 127.0.0.1:8000\r\nAccept: */*\r\nUser-Agent: curl/8\r\n\r\n"
    job = b"GET /jobs/" + _JOB.encode()
    requests = {
        "about": b"GET /about HTTP/1.1\r\n" + get,
        "page": b"GET /page/page.js HTTP/1.1\r\nRange: bytes=0-9\r\n" + get,
        "state": job + b" HTTP/1.1\r\n" + get,
        "events": job + b"/events HTTP/1.1\r\nLast-Event-ID: 1\r\n" + get,
        "result": job
        + b"/result?format=csv&quantize=1/8&swing=0.6&no_velocity=true HTTP/1.1\r\n"
        + get,
        "delete": b"DELETE /jobs/" + _JOB.encode() + b" HTTP/1.1\r\n" + get,
        "browser": b"GET / HTTP/1.1\r\nOrigin: http://127.0.0.1:8000\r\n"
        b"Referer: http://evil.example/\r\nSec-Fetch-Site: same-origin\r\n"
        b"Sec-Fetch-Mode: cors\r\nCookie: a=b\r\nIf-None-Match: x\r\n" + get,
        "jobs": b"POST /jobs?instruments=piano&sensitivity=0.5&start=0&end=0.4"
        b"&beats=off&tempo=90 HTTP/1.1\r\n" + post + b"\r\n" + form,
        "transcribe": b"POST /transcribe?format=mid&decode=greedy&min_duration=0.1"
        b"&merge_gap=0.01&times=part HTTP/1.1\r\nExpect: 100-continue\r\n"
        + post
        + b"\r\n"
        + form,
        "chunked": b"POST /jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + post[: post.index(b"Content-Length")]
        + b"\r\n%x;x=y\r\n" % len(form)
        + form
        + b"\r\n0\r\nTrailer: x\r\n\r\n",
        "pipelined": (b"GET /about HTTP/1.1\r\n" + get) * 3
        + b"POST /jobs HTTP/1.1\r\n"
        + post
        + b"\r\n"
        + form
        + b"DELETE /jobs/none HTTP/1.1\r\n"
        + get,
        "upgrade": b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n" + get,
        "smuggled": b"POST /jobs HTTP/1.1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n" + get + b"0\r\n\r\nGET /a HTTP/1.1\r\n\r\n",
        "many-headers": b"GET /about HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + get,
        "long-header": b"GET /about HTTP/1.1\r\nX: " + b"y" * (1 << 17) + b"\r\n" + get,
        "long-address": b"GET /" + b"a" * (1 << 17) + b" HTTP/1.1\r\n" + get,
        "other-forms": b"OPTIONS * HTTP/1.1\r\n"
        + get
        + b"GET http://evil.example/ HTTP/1.1\r\n"
        + get
        + b"HEAD / HTTP/1.0\r\n"
        + get,
        "no-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "encoded": b"GET /jobs/%00%ff%2e%2e%2f?format=%ed%a0%80&x=%zz HTTP/1.1\r\n"
        + get,
    }
    paths = []
    for name, request in requests.items():
        paths.append(folder / f"{name}.http")
        paths[-1].write_bytes(request)
    return paths


TARGETS = (Target("http", _seeds, _run, expected=()),)
