"""Clients of `mt3 serve` that open much, take nothing, or leave; and whose fault it is.

`python -m tests.attacks` tries more, and longer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import types

import pytest

from mt3.audio import formats
from mt3.errors import AudioError
from mt3.serve import app, command, results
from mt3.serve import server as serving
from mt3.serve.limits import Limits
from tests.support.serving import (
    HEAD,
    TAIL,
    SlowModel,
    answer,
    error,
    form,
    request,
    running,
    until,
    wav,
)


@pytest.fixture(scope="module")
def server():
    with running(SlowModel(), Limits(upload_bytes=1 << 20)) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def refused(connection, status):
    """Returns the message of a refusal of a connection."""
    head, _, body = answer(connection).partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "connection: close" in head
    assert "default-src 'none'" in head
    assert ("retry-after: " in head) == (status != 400)
    return json.loads(body)["error"]


def connect(server, address="127.0.0.1"):
    """Opens a connection from an address."""
    return socket.create_connection(server.address, 60, (address, 0))


def test_too_many_connections():
    limits = Limits(connections=3, connections_of_client=2)
    with running(SlowModel(), limits) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(server))
        until(lambda: len(server.server.server_state.connections) == 2)
        message = refused(connect(server), 429)
        assert message.startswith("too many connections of yours")
        stack.enter_context(connect(server, "127.0.0.2"))
        assert refused(connect(server, "127.0.0.3"), 503).startswith("too many conn")
        stack.close()
        until(lambda: not server.server.server_state.connections)
        with server.client() as client:
            assert client.get("/about").status_code == 200


def test_a_connection_without_a_request_is_closed(server, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.2)
    with connect(server) as connection:
        connection.sendall(b"GET /about HTTP/1.1\r\nX: ")
        assert connection.recv(1) == b""


def test_a_client_that_takes_nothing_is_left(server, monkeypatch):
    monkeypatch.setattr(serving, "TAKING_SECONDS", 0.2)
    state = server.server.server_state
    until(lambda: not state.connections)
    with connect(server) as connection:
        ask = b"GET /page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            connection.sendall(ask * 2000)
        until(lambda: not state.connections)
        until(lambda: not state.tasks)


def test_what_is_no_request_is_answered_like_any_error(server):
    connection = connect(server)
    connection.sendall(b"\x16\x03\x01" + bytes(200))
    assert "the request cannot be read" in refused(connection, 400)
    # Amid an upload.
    connection = request(server, length="Transfer-Encoding: chunked", body=b"g\r\n")
    assert "the request cannot be read" in refused(connection, 400)
    until(lambda: not server.queue._uploads)
    # Amid a response.
    with connect(server) as connection:
        ask = b"GET /about HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(ask + b"Transfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"no chunk\r\n")
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass
    assert not [path for path in server.queue.folder.iterdir() if path.name != "lock"]


def test_no_address_is_corrected(client):
    assert "Not Found" in error(client.get("/about/"), 404)


def test_what_is_announced_as_too_large_is_not_waited_for(server):
    said = answer(request(server, length=f"Content-Length: {1 << 40}"))
    assert said.startswith("HTTP/1.1 413 ")
    assert "expected at most 1 megabytes" in said


def test_an_upload_that_never_ends(server):
    begin = b"%x\r\n%s\r\n" % (len(HEAD), HEAD)
    length = "Transfer-Encoding: chunked"
    connection = request(server, length=length, body=begin)
    with pytest.raises(ConnectionError):  # noqa: PT012
        while True:
            connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    connection.close()
    until(lambda: not server.queue._uploads)
    assert server.queue._held_bytes == 0


def test_boundaries_in_a_recording_are_not_read_on_and_on(server):
    body = HEAD + b"\r\n--b!" * 1000
    said = answer(request(server, length=f"Content-Length: {1 << 20}", body=body))
    assert said.startswith("HTTP/1.1 400 ")
    assert "boundary is in the recording" in said
    body = HEAD + b"\r\n--b!" + TAIL
    said = answer(request(server, length=f"Content-Length: {len(body)}", body=body))
    assert "reading audio" in said


def test_a_client_that_leaves_before_it_knows_its_job(server, monkeypatch):
    opened = app._opened

    def waited(*arguments):
        until(lambda: not server.server.server_state.connections)
        return opened(*arguments)

    monkeypatch.setattr(app, "_opened", waited)
    until(lambda: not server.server.server_state.connections)
    server.queue._jobs.clear()
    body = HEAD + wav(3.0) + TAIL
    request(server, length=f"Content-Length: {len(body)}", body=body).close()
    until(lambda: not server.server.server_state.tasks)
    assert not server.queue._jobs
    assert [path.name for path in server.queue.folder.iterdir()] == ["lock"]


def finished(client, name="song.wav", query=""):
    """Has a recording transcribed; returns the job's address."""
    files = form(3.0, name)
    address = client.post(f"/jobs{query}", files=files).headers["location"]
    until(lambda: client.get(address).json()["state"] in ("done", "failed"))
    return address


def test_notes_are_not_kept_waiting_by_pictures(client, server, monkeypatch):
    address, may_go, write = finished(client), threading.Event(), results.write

    def slow(result, path, format, options):
        if format == "png":
            assert may_go.wait(60)
        write(result, path, format, options)

    monkeypatch.setattr(results, "write", slow)
    with server.client() as other:
        pictures = []
        thread = threading.Thread(
            target=lambda: pictures.append(other.get(f"{address}/result?format=png"))
        )
        thread.start()
        until(server.application.state.drawing.locked)
        for format in ("mid", "json", "jsonl", "csv"):
            answer = client.get(f"{address}/result?format={format}")
            assert answer.status_code == 200
        assert not pictures
        may_go.set()
        thread.join()
    assert pictures[0].content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (RuntimeError("secret"), 500, "internal error (RuntimeError); please report"),
        (AudioError("fault: reading audio: found damage"), 422, "found damage"),
    ],
)
def test_whose_fault_it_is(client, server, capfd, fault, status, message):
    server.application.state.model.fault = fault
    address = finished(client, "fault")
    for path in ("result", "score"):
        assert message in error(client.get(f"{address}/{path}"), status)
    response = client.post("/transcribe", files=form(3.0, "fault"))
    assert message in error(response, status)
    assert ("secret" in capfd.readouterr().err) == (status == 500)


@pytest.mark.parametrize("program", [None, "/usr/bin/ffmpeg"])
def test_about_names_what_can_be_read(client, monkeypatch, program):
    monkeypatch.setattr(formats.shutil, "which", lambda name: program)
    accepts = client.get("/about").json()["accepts"]
    assert ".flac" in accepts
    assert (".m4a" in accepts) == (program is not None)


def test_room_for_connections(monkeypatch):
    limits, found = [(256, 4096)], []
    system = types.SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=-1,
        getrlimit=lambda kind: limits[-1],
        setrlimit=lambda kind, pair: found.append(pair),
    )
    monkeypatch.setitem(sys.modules, "resource", system)
    command._allow_files(2000)
    assert found == [(2000, 4096)]
    limits.append((256, 1000))
    command._allow_files(2000)
    assert found[1:] == [(1000, 1000)]
    limits.append((4096, 4096))
    command._allow_files(2000)
    assert len(found) == 2
