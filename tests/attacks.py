"""Attacks on a running `mt3 serve`: what a stranger or another site could try.

    python -m tests.attacks
    python -m tests.attacks idle slow_headers

Starts a server with tiny random weights and tries each attack, of those named or of
all. After each one, and during those that last, the server must answer another client;
no recording, result or connection may be left. Prints a table; ends with 1 if an attack
succeeds. Needs Linux, where each client has an address of its own on loopback.
"""

# check: needs a quarter of an hour
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import httpx
import numpy as np
import soundfile

from benchmarks.serve import memory
from tests.support import tiny_model

_MEGABYTES, _MINUTES = 16, 10
_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
_TAIL = b"\r\n--b--\r\n"
_FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
ATTACKS: list[Callable[[Server], str]] = []


def attack(function: Callable[[Server], str]) -> Callable[[Server], str]:
    """Adds to the attacks."""
    ATTACKS.append(function)
    return function


class Server:
    """The server under attack.

    Attributes:
      address: of its socket.
    """

    def __init__(self, process: subprocess.Popen, folder: pathlib.Path):
        self._process, self._folder = process, folder
        self.url = process.stdout.readline().strip()
        self.address = ("127.0.0.1", httpx.URL(self.url).port)

    def client(self, number: int = 1) -> httpx.Client:
        """Returns a client with an address of its own."""
        transport = httpx.HTTPTransport(local_address=f"127.0.1.{number}")
        return httpx.Client(
            base_url=self.url, transport=transport, timeout=120, trust_env=False
        )

    def connect(self, number: int = 1) -> socket.socket:
        """Returns a connection of a client."""
        source = (f"127.0.1.{number}", 0)
        return socket.create_connection(self.address, 600, source)

    def says(self, request: bytes, number: int = 1) -> bytes:
        """Sends bytes; returns all that comes until the connection is closed."""
        with self.connect(number) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(request)
            return _rest(connection)
        return b""

    def post(self, form: bytes, number: int = 1, path: str = "/jobs") -> bytes:
        """Sends a form; returns the whole answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{_FORM}"
            f"Content-Length: {len(form)}\r\n\r\n"
        )
        return self.says(head.encode() + form, number)

    def seconds_to_answer(self) -> float:
        """Asks as somebody else; returns how long the answer took."""
        begin = time.monotonic()
        with self.client(250) as client:
            client.get("/about").raise_for_status()
        return time.monotonic() - begin

    def check(self) -> None:
        """Raises AssertionError unless the server works, and nothing is left."""
        with self.client(250) as client:
            form = {"file": ("song.wav", _wav(1.0))}
            answer = client.post("/transcribe?format=csv", files=form)
            assert answer.status_code == 200, answer.text
        _until(lambda: self.files() == ["lock"], 60)
        assert self._process.poll() is None

    def files(self) -> list[str]:
        """Returns what lies in its folder."""
        (folder,) = self._folder.glob("mt3-serve-*")
        return [path.name for path in folder.iterdir()]

    def connections(self) -> int:
        """Returns how many connections and files it has open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def memory(self) -> float:
        """Returns megabytes."""
        return memory(self._process.pid)


def _rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def _wav(seconds: float, rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    sound = 0.1 * np.sin(np.arange(round(seconds * rate)))
    soundfile.write(stream, sound, rate, format="WAV")
    return stream.getvalue()


def _until(condition: Callable[[], bool], seconds: float) -> float:
    """Waits until something holds; returns how long."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, "it never came about"
        time.sleep(0.05)
    return time.monotonic() - begin


def _status(answer: bytes) -> int:
    """Returns the status of an answer; errors must be ours."""
    found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    assert found, answer[:200]
    status = int(found[1])
    assert status < 500 or status == 503, answer[:500]
    if status >= 400:
        _, _, body = answer.partition(b"\r\n\r\n")
        assert json.loads(body).keys() == {"error"}, body[:200]
    return status


def _statuses(answers: Sequence[bytes]) -> str:
    found = sorted(_status(answer) for answer in answers)
    return ", ".join(f"{found.count(each)} x {each}" for each in sorted(set(found)))


def _get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Connection: close", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: localhost")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@attack
def paths(server: Server) -> str:
    """File names, job ids and names of the page's files that lead out of a folder."""
    names = ["../../../tmp/out.wav", "/etc/passwd", "..\\..\\out.wav", "a\0b.wav",
             "lock", ".", "..", "con", "%2e%2e%2fout", "x" * 3000]  # fmt: skip
    answers = []
    for name in names:
        form = _HEAD.replace(b"a.wav", name.encode()) + _wav(0.2) + _TAIL
        answer = server.post(form, path="/transcribe?format=csv")
        answers.append(answer)
        disposition = re.search(rb"filename\*?=(.*)\r\n", answer)
        assert disposition, answer[:300]
        assert not re.search(rb"[/\\\0]|%2f", disposition[1], re.IGNORECASE)
    out = ["..", "../lock", "..%2flock", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00", "."]
    out += ["....//....//etc/passwd", "/etc/passwd", "..%5c..%5capp.py", "%c0%ae%c0%ae"]
    for name in out:
        for path in (f"/page/{name}", f"/jobs/{name}", f"/jobs/{name}/result", name):
            answer = server.says(_get(path if path[0] == "/" else f"/{path}"))
            assert _status(answer) in (404, 405), answer[:200]
            answers.append(answer)
    return _statuses(answers)


@attack
def too_large(server: Server) -> str:
    """A recording above the limit: announced, and not announced (chunked, endless)."""
    begin = time.monotonic()
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\n{_FORM}"
    length = f"Content-Length: {(_MEGABYTES + 1) << 20}\r\n\r\n"
    announced = server.says((head + length).encode())
    assert _status(announced) == 413
    took = time.monotonic() - begin
    chunk = b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16))
    sent = 0
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        connection.sendall(b"%x\r\n%s\r\n" % (len(_HEAD), _HEAD))
        while True:
            connection.sendall(chunk)
            sent += 1 << 16
    assert sent < (_MEGABYTES + 16) << 20
    return f"413 after {took:.1f} s; endless: closed after {sent >> 20} MB"


@attack
def slow_headers(server: Server) -> str:
    """Headers that come a byte at a time, on 200 connections."""
    return _dripping(server, b"GET /about HTTP/1.1\r\nX: ", 200, 25)


@attack
def slow_bodies(server: Server) -> str:
    """Uploads that come a byte at a time, on 150 connections."""
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\n{_FORM}Content-Length: 100000"
    return _dripping(server, f"{head}\r\n\r\n".encode() + _HEAD, 150, 45)


def _dripping(server: Server, begin: bytes, count: int, seconds: float) -> str:
    started, slowest = time.monotonic(), 0.0
    connections = [server.connect() for _ in range(count)]
    for connection in connections:
        connection.sendall(begin)
        connection.setblocking(False)
    answers = {connection: b"" for connection in connections}
    while connections:
        assert time.monotonic() < started + seconds, f"{len(connections)} are open"
        for connection in list(connections):
            try:
                connection.send(b"x")
                found = connection.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionError:
                found = b""
            answers[connection] += found
            if not found:
                connection.close()
                connections.remove(connection)
        slowest = max(slowest, server.seconds_to_answer())
        time.sleep(0.5)
    took = time.monotonic() - started
    told = _statuses([answer for answer in answers.values() if answer])
    return (
        f"closed after {took:.0f} s ({told or 'no answer'}); others waited at most "
        f"{slowest:.2f} s"
    )


@attack
def idle(server: Server) -> str:
    """2,000 connections without a request, of four addresses."""
    before, started = server.connections(), time.monotonic()
    with contextlib.ExitStack() as stack:
        opened = []
        for number in range(2000):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(server.connect(1 + number % 4))
                connection.settimeout(60)
                opened.append(connection)
        most = server.connections() - before
        assert most <= 1010, f"{most} connections are open"
        answers = []
        for connection in opened:
            with contextlib.suppress(ConnectionError):
                answers.append(_rest(connection))
        took = time.monotonic() - started
    told = _statuses([answer for answer in answers if answer])
    _until(lambda: server.connections() <= before + 2, 30)
    return f"at most {most} were open; {told}; all were closed after {took:.0f} s"


@attack
def slow_readers(server: Server) -> str:
    """8 clients that ask for more than all buffers hold and take nothing."""
    before, started = server.connections(), time.monotonic()
    asked = _get("/page/page.js").replace(b"close", b"keep-alive") * 600
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(server.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            connection.setblocking(False)
            connection.send(asked)
        _until(lambda: server.connections() >= before + 8, 60)
        held, slowest = server.connections() - before, 0.0
        while server.connections() > before + 2:
            assert time.monotonic() < started + 300
            slowest = max(slowest, server.seconds_to_answer())
            time.sleep(1)
    took = time.monotonic() - started
    return f"{held} were held, closed after {took:.0f} s; others waited {slowest:.2f} s"


@attack
def forms(server: Server) -> str:
    """Forms with 5,000 parts, 5,000 headers, a header or a boundary without end."""
    part = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\ny\r\n"
    answers = [
        server.post(part * 5000 + b"--b--\r\n"),
        server.post(_HEAD + _wav(0.2) + b"\r\n" + _HEAD + _wav(0.2) + _TAIL),
        server.post(b"--b\r\n" + b"X: y\r\n" * 5000 + _HEAD[3:] + _TAIL),
        server.post(b"--b\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n" + _TAIL),
        server.post(b"--b\r\n" * 20000),
        server.post(b"\r\n" * (1 << 19)),
        server.post(_HEAD + (b"\r\n--" * (1 << 20)) + _TAIL),
        server.post(_HEAD + (b"\r\n--b!" * (1 << 19)) + _TAIL),
        server.post(b"x" * (1 << 20)),
    ]
    return _statuses([answer for answer in answers if answer])


@attack
def headers(server: Server) -> str:
    """A header of a megabyte, 20,000 headers, an address of a megabyte, no HTTP."""
    answers = [
        server.says(_get("/about", "X: " + "y" * (1 << 20))),
        server.says(_get("/about", *["X: y"] * 20000)),
        server.says(_get("/" + "a" * (1 << 20))),
        server.says(_get("/about?" + "a=b&" * 200000)),
        server.says(b"\x16\x03\x01" + bytes(1 << 16)),
        server.says(_get("/about", "Content-Length: 5", "Content-Length: 6")),
        server.says(_get("/about", "Content-Length: -1")),
        server.says(_get("/about", "Host: localhost", "Host: evil.example")),
    ]
    # All at once, and none is read.
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(
            _get("/openapi.json").replace(b"close", b"keep-alive") * 2000
        )
    return _statuses([answer for answer in answers if answer])


def _flac_of_hours() -> bytes:
    """Returns a FLAC file whose header declares 2^36 - 1 samples."""
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(4000), 8000, format="FLAC")
    data = bytearray(stream.getvalue())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    return bytes(data)


def _wav_header(rate: int, channels: int, size: int) -> bytes:
    values = (1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", size, b"WAVE", b"fmt ", 16)
        + struct.pack("<HHIIHH", *(value & 0xFFFFFFFF for value in values))
        + struct.pack("<4sI", b"data", size - 36)
    )


@attack
def bombs(server: Server) -> str:
    """Small files that declare, or are, hours of sound."""
    before = server.memory()
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(9 * 60 * 8000), 8000, format="FLAC")
    longer = io.BytesIO()
    soundfile.write(longer, np.zeros(11 * 60 * 8000), 8000, format="FLAC")
    files = {
        "FLAC that declares hours": _flac_of_hours(),
        "WAV of 4 GB": _wav_header(8000, 1, 0xFFFFFFF0) + bytes(8000),
        "WAV of 4 GHz": _wav_header(0xFFFFFFFF, 1, 8036) + bytes(8000),
        "WAV of 1 Hz": _wav_header(1, 1, 8036) + bytes(8000),
        "65,535 channels": _wav_header(8000, 65535 // 2, 1 << 20) + bytes(1 << 20),
        "11 minutes of silence": longer.getvalue(),
        "9 minutes of silence": silence.getvalue(),
    }
    told = []
    for name, data in files.items():
        answer = server.post(_HEAD + data + _TAIL, path="/transcribe?format=csv")
        told.append(f"{name} ({len(data) >> 10} kB): {_status(answer)}")
    grown = server.memory() - before
    assert grown < 200, f"memory grew by {grown:.0f} MB"
    return f"{'; '.join(told)}; memory grew by {grown:.0f} MB"


@attack
def other_sites(server: Server) -> str:
    """What a page of another site can make a browser send."""
    answers = []
    for headers in (
        ["Origin: https://evil.example"],
        ["Origin: null"],
        ["Origin: http://localhost.evil.example"],
        ["Origin: http://localhost:1"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate",
         "Sec-Fetch-Dest: iframe"],
    ):  # fmt: skip
        form = _HEAD + _wav(0.2) + _TAIL
        for request in (
            _get("/about", *headers),
            _get("/jobs/x/events", *headers),
            _get("/about", *headers).replace(b"GET", b"OPTIONS"),
            _get("/jobs/x", *headers).replace(b"GET", b"DELETE"),
            _get("/jobs", *headers, _FORM.strip(), f"Content-Length: {len(form)}")
            .replace(b"GET", b"POST") + form,
        ):  # fmt: skip
            answers.append(server.says(request))
            assert _status(answers[-1]) == 403, request
    # A browser too old to say where a form comes from sends its type.
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        request = _get("/jobs", "Referer: https://evil.example/", "Content-Length: 3",
                       f"Content-Type: {kind}").replace(b"GET", b"POST")  # fmt: skip
        answers.append(server.says(request + b"a=b"))
        assert _status(answers[-1]) == 415
    allowed = server.says(_get("/about", "Origin: http://localhost"))
    assert _status(allowed) == 200
    assert b"access-control" not in allowed.lower()
    return _statuses(answers)


@attack
def rebinding(server: Server) -> str:
    """Names of strangers that lead to this machine (DNS rebinding)."""
    port = server.address[1]
    answers = [
        server.says(_get("/about", f"Host: {host}"))
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "localhost@evil.example",
            "10.0.0.1",
            "",
            "localhost, evil.example",
            "127.1",
            "2130706433",
        )  # fmt: skip
    ]
    answers.append(server.says(b"GET /about HTTP/1.0\r\n\r\n"))
    assert {_status(answer) for answer in answers} <= {400, 421}
    return _statuses(answers)


@attack
def jobs_of_others(server: Server) -> str:
    """A job that somebody else guesses, or looks for in all answers of the server."""
    with server.client(1) as owner, server.client(2) as other:
        form = {"file": ("private-name.wav", _wav(1.0))}
        job = owner.post("/jobs", files=form).json()["id"]
        assert len(job) == 32
        guesses = [job[:-1], job[:-1] + "-", job.swapcase(), job[::-1], job + "%00"]
        guesses += [f"{number:032d}" for number in range(300)]
        for guess in guesses:
            for path in (f"/jobs/{guess}", f"/jobs/{guess}/result"):
                assert other.get(path).status_code == 404
            assert other.delete(f"/jobs/{guess}").status_code == 404
        own = other.post("/jobs", files={"file": ("b.wav", _wav(1.0))}).json()["id"]
        said = [other.get(path) for path in ("/", "/about", "/jobs", "/jobs/",
                "/openapi.json", f"/jobs/{own}", f"/jobs/{own}/events")]  # fmt: skip
        for answer in said:
            assert job not in answer.text
            assert "private-name" not in answer.text
        assert owner.get(f"/jobs/{job}").status_code == 200
    return f"{3 * len(guesses)} guesses: 404; no answer names another's job"


@attack
def open_streams(server: Server) -> str:
    """Event streams left open, as many as one client may have, and more."""
    with server.client(1) as client, contextlib.ExitStack() as stack:
        form = {"file": ("long.wav", _wav(590.0))}
        jobs = [client.post("/jobs", files=form).json()["id"] for _ in range(3)]
        answers = []
        for _ in range(260):
            connection = stack.enter_context(server.connect(1))
            connection.sendall(_get(f"/jobs/{jobs[-1]}/events"))
            answers.append((connection.recv(1 << 16), connection))
        refused = 0
        for answer, connection in answers:
            if not answer.startswith(b"HTTP/1.1 200"):
                refused += 1
                whole = answer + _rest(connection)
                assert _status(whole) == 429
                assert b"retry-after: " in whole.lower()
        assert refused
        took = server.seconds_to_answer()
    with server.client(1) as client:
        _until(lambda: client.get("/about").status_code == 200, 20)
        for job in jobs:
            assert client.delete(f"/jobs/{job}").status_code == 204
    held = len(answers) - refused
    return f"{held} open, {refused} x 429; others waited {took:.2f} s"


@attack
def leaving(server: Server) -> str:
    """Clients that leave: amid an upload, after it, while they wait for the result."""
    form = _HEAD + _wav(590.0) + _TAIL
    for path in ("/jobs", "/transcribe"):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{_FORM}"
            f"Content-Length: {len(form)}\r\n\r\n"
        ).encode()
        for amount in (0, 10, len(form) // 2, len(form) - 1, len(form)):
            for _ in range(10):
                with server.connect(1) as connection:
                    connection.sendall(head + form[:amount])
    # What was left would take minutes.
    begin = time.monotonic()
    with server.client(2) as client:
        waits = client.post("/jobs", files={"file": ("b.wav", _wav(1.0))}).json()
        client.delete(f"/jobs/{waits['id']}")
    seconds = _until(lambda: server.files() == ["lock"], 120)
    return (
        f"100 left; {waits['position'] or 0} of their recordings were in front of the "
        f"next; all gone after {time.monotonic() - begin:.1f} s ({seconds:.1f} s)"
    )


@attack
def too_many(server: Server) -> str:
    """More recordings than are taken, of one client and of all."""
    long = _HEAD + _wav(590.0) + _TAIL
    short = _HEAD + _wav(0.5) + _TAIL
    ids, refused = [], []
    for client, form, count in (
        (1, long, 4),
        (2, long, 4),
        (1, short, 200),
        (2, short, 200),
        (3, short, 20),
    ):
        for _ in range(count):
            answer = server.post(form, client)
            status = _status(answer)
            if status == 202:
                ids.append(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
            else:
                refused.append(answer)
                assert b"retry-after: " in answer.lower()
    told = _statuses(refused)
    with server.client(250) as client:
        for job in ids:
            client.delete(f"/jobs/{job}")
    return f"{len(ids)} taken, {told}"


@attack
def one_for_all(server: Server) -> str:
    """100 recordings at once of one client, while another sends one at a time."""
    form = _HEAD + _wav(60.0) + _TAIL
    ids = [
        json.loads(server.post(form, 1).partition(b"\r\n\r\n")[2])["id"]
        for _ in range(100)
    ]
    waits = []
    with server.client(2) as client:
        for _ in range(10):
            begin = time.monotonic()
            files = {"file": ("b.wav", _wav(1.0))}
            client.post("/transcribe?format=csv", files=files).raise_for_status()
            waits.append(time.monotonic() - begin)
    with server.client(1) as client:
        states = [client.get(f"/jobs/{job}").json()["state"] for job in ids]
        for job in ids:
            client.delete(f"/jobs/{job}")
    left = sum(state in ("queued", "running") for state in states)
    assert left > 10, "too fast a machine to say"
    return (
        f"the other one waited {min(waits):.2f} to {max(waits):.2f} s for each of 10, "
        f"while {left} of the 100 were left"
    )


@contextlib.contextmanager
def _running() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / "tiny.safetensors"
        tiny_model.write(weights)
        command = [sys.executable, "-m", "mt3", "serve", "--port", "0", "--model"]
        command += [str(weights), "--max-megabytes", str(_MEGABYTES)]
        command += ["--max-minutes", str(_MINUTES)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        ) as process:
            try:
                yield Server(process, pathlib.Path(folder))
            finally:
                process.terminate()


def main(argv: Sequence[str] | None = None) -> int:
    """Tries attacks; returns 1 if one succeeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {function.__name__: function for function in ATTACKS}
    parser.add_argument("names", nargs="*", choices=[*known, []], metavar="NAME")
    names = parser.parse_args(argv).names or list(known)
    failed = 0
    with _running() as server:
        server.check()
        print(f"memory before: {server.memory():.0f} MB")
        print("| attack | tried | result | memory after |\n|---|---|---|---|")
        for name in names:
            try:
                told = known[name](server)
                server.check()
            except Exception as error:
                traceback.print_exc()
                failed += 1
                told = f"FAILED: {error}"
            tried = known[name].__doc__.splitlines()[0]
            print(
                f"| {name} | {tried} | {told} | {server.memory():.0f} MB |", flush=True
            )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
