"""`mt3 serve` over a real socket: uploads, events, results, refusals, and its end."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from mt3 import cli, inference
from mt3.options import TranscribeOptions
from mt3.outputs.transcription import note_to_dict
from mt3.serve import app, command, uploads
from mt3.serve.limits import Limits
from mt3.terminal import INTERRUPTED
from tests.support.serving import (
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
    limits = Limits(upload_bytes=1 << 20, recording_seconds=30.0)
    with running(SlowModel(), limits) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def held(server):
    """The model, waiting before its next segment."""
    model = server.application.state.model
    model.may_go.clear()
    yield model
    model.may_go.set()


def events(client, job):
    """Yields names and data of a job's events."""
    with client.stream("GET", f"/jobs/{job}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_a_job_from_upload_to_result(server, client, held):
    response = client.post("/jobs", files=form(3.0))
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert job | {"state": "", "position": 0} == {
        "id": job["id"],
        "name": "song.wav",
        "state": "",
        "position": 0,
        "seconds_done": 0.0,
        "seconds_total": 3.0,
        "notes": 0,
        "error": None,
        "warnings": [],
        "formats": list(app.results.available_formats()),
    }
    address = response.headers["location"]
    waits = error(client.get(f"{address}/result"), 409)
    assert (
        waits in ("the job is running; expected one that is done",) or "queued" in waits
    )
    stream = events(client, job["id"])
    assert next(stream)[0] == "progress"
    held.may_go.set()
    told = list(stream)
    notes = [data for name, data in told if name == "notes"]
    assert [(n["start_time"], n["end_time"]) for n in notes] == [(0, 1), (1, 2), (2, 3)]
    assert notes[1]["notes"][0]["instrument"] == "Acoustic Grand Piano"
    name, last = told[-1]
    assert (name, last["state"], last["seconds_done"], last["notes"]) == (
        *("done", "done"),
        *(3.0, 3),
    )
    assert client.get(address).json() == last
    # Who comes late gets the same notes.
    late = list(events(client, job["id"]))
    assert [data for name, data in late if name == "notes"] == notes
    assert not [path for path in server.queue.folder.iterdir() if path.name != "lock"]
    assert client.delete(address).status_code == 204
    assert "no such job" in error(client.get(address), 404)
    assert "no such job" in error(client.delete(address), 404)
    assert "no such job" in error(client.get(f"{address}/events"), 404)


def test_results_in_every_format(server, client):
    job = client.post("/jobs", files=form(name="../a/b.c.wav")).json()["id"]
    until(lambda: client.get(f"/jobs/{job}").json()["state"] == "done")
    kinds = {"mid": b"MThd", "csv": b"start_time", "png": b"\x89PNG", "wav": b"RIFF"}
    kinds |= {"json": b"{", "jsonl": b'{"start'}
    for kind, begin in kinds.items():
        response = client.get(f"/jobs/{job}/result", params={"format": kind})
        assert response.content.startswith(begin), kind
        assert response.headers["content-type"] == app.results.MEDIA_TYPES[kind]
        end = "notes.wav" if kind == "wav" else kind
        disposition = f'attachment; filename="b.c.{end}"'
        assert response.headers["content-disposition"] == disposition
    # Settings of the notation may come with the result.
    query = {"format": "csv", "no_velocity": "true"}
    assert ",60,100," in client.get(f"/jobs/{job}/result", params=query).text
    query = {"format": "midi"}
    message = error(client.get(f"/jobs/{job}/result", params=query), 422)
    assert message == "unknown output format 'midi'. Did you mean mid?"
    assert "no sheet music" in error(client.get(f"/jobs/{job}/score"), 404)
    # Parts are not sent, whatever is asked for.
    for part in ("bytes=0-1", "bytes=9999999-", "notes=1"):
        response = client.get(f"/jobs/{job}/result", headers={"Range": part})
        assert response.status_code == 200, part
        assert response.content.startswith(b"MThd")
    # A file is deleted once it has been sent.
    until(lambda: [path.name for path in server.queue.folder.iterdir()] == ["lock"])


def test_transcribe_waits_and_keeps_nothing(server, client, tiny_weights):
    model = inference.InferenceModel(tiny_weights)
    with running(model) as own, own.client() as own_client:
        query = {"format": "json", "start": 0.5, "end": 2.5, "decode": "greedy"}
        response = own_client.post("/transcribe", files=form(3.0), params=query)
        assert not own.queue._jobs
    greedy = model.with_options(TranscribeOptions(decode="greedy"))
    wanted = greedy.transcribe(io.BytesIO(wav(3.0)), start=0.5, end=2.5)
    assert wanted.notes
    found = response.json()
    assert found["notes"] == [note_to_dict(note) for note in wanted.notes]
    assert (found["source"], found["start"]) == ("song.wav", 0.5)
    assert found["settings"]["decode"] == "greedy"


def test_a_client_that_leaves_ends_its_job(server, held):
    head = (
        b"--b\r\nContent-Disposition: form-data; name=file; filename=left.wav\r\n\r\n"
    )
    body = head + wav(3.0) + b"\r\n--b--\r\n"
    with socket.create_connection(server.address, timeout=60) as connection:
        lines = [
            "POST /transcribe HTTP/1.1",
            "Host: localhost",
            "Content-Type: multipart/form-data; boundary=b",
            f"Content-Length: {len(body)}\r\n\r\n",
        ]
        connection.sendall("\r\n".join(lines).encode() + body)
        until(lambda: "left.wav" in held.began)
    until(lambda: "left.wav" not in {job.name for job in server.queue._jobs.values()})
    held.may_go.set()
    until(lambda: held.left[-1:] == ["left.wav"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sensitivity=3", "sensitivity is 3.0; expected a number from 0 to 1"),
        ("sensitivity=much", "sensitivity is 'much'; expected a number"),
        ("faithful=perhaps", "faithful is 'perhaps'; expected true or false"),
        ("instruments=pianoo", "unknown instrument 'pianoo'. Did you mean piano"),
        ("instrument=piano", "unknown setting 'instrument'. Did you mean instruments"),
        ("beats=/etc/passwd", "beats is '/etc/passwd'; expected 'track' or"),
        ("model=other", "unknown setting 'model'."),
        ("start=2&end=1", "end is 1 s; expected more than start, 2"),
        ("start=-1", "start in seconds is -1.0; expected a number from 0 on"),
        ("start=nan", "start in seconds is nan; expected a number from 0 on"),
        ("start=7", "song.wav: reading audio: found the end at 2.000 s"),
        ("tempo=9999", "tempo in beats per minute is 9999.0; expected"),
        ("quantize=1/5", "1/5"),
        ("decode=bean4", "bean4"),
        ("short_notes=drop", "--short-notes: expected --min-duration beside it"),
        (
            "faithful=true&min_duration=1",
            "--faithful can't be combined with a clean-up",
        ),
        ("decode=" + "x" * 3000, "should have at most 2000 characters"),
    ],
)
def test_settings_are_checked_as_options_are(client, query, message):
    assert message in error(client.post(f"/jobs?{query}", files=form()), 422)


def test_settings_have_the_names_of_options(server):
    from tests.test_options import declared

    options = {name.lstrip("-").replace("-", "_") for name in declared("transcribe")}
    # The server's own, and what is asked for in other ways.
    own = {"inputs", "output", "model", "slots", "dtype", "device", "num_heads"}
    own |= {"overwrite", "quiet", "log_json", "format"}
    assert set(app.Settings.model_fields) == options - own


def test_what_is_no_recording_is_refused(client):
    def post(**more):
        return client.post("/jobs", **more)

    assert "expected multipart/form-data" in error(post(content=wav()), 415)
    assert "x-www-form-urlencoded" in error(post(data={"file": "x"}), 415)
    two = [("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]
    assert "a second field 'file'" in error(post(files=two), 422)
    assert "the field 'song'" in error(post(files={"song": wav()}), 422)
    both = {"files": form(), "data": {"tempo": "90"}}
    assert "/jobs?instruments=piano" in error(post(**both), 422)
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for body, status, message in [
        (b"--b--\r\n", 422, "the form is empty"),
        (b"", 400, "the form was cut"),
        (b"--c\r\n", 400, "the form cannot be read"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx',
            400,
            "was cut",
        ),
    ]:
        assert message in error(post(content=body, headers=kind), status)
    long = {"content-type": f"multipart/form-data; boundary={'b' * 500}"}
    assert "Boundary length" in error(post(content=b"x", headers=long), 400)
    text = {"file": ("../../etc/song.mp3", b"#!/bin/sh\necho\n")}
    message = error(post(files=text), 422)
    assert message.startswith("song.mp3: reading audio: found a text file")
    assert "empty" in error(post(files={"file": ("e.wav", b"")}), 422)
    assert "too long, expected at most 0.5 min" in error(post(files=form(31.0)), 413)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"song.wav", "song.wav"),
        ("Größe.mp3".encode(), "Größe.mp3"),
        (b"../../etc/passwd", "passwd"),
        (rb"C:\music\a.wav", "a.wav"),
        (b"a\x1b[31m\r\nb.wav", "a[31mb.wav"),
        (b"\xff.wav", "\ufffd.wav"),
        (b"", "recording"),
        (b"x" * 999 + b".wav", "x" * 196 + ".wav"),
    ],
)
def test_names_are_for_people_only(raw, shown):
    assert uploads.shown_name(raw) == shown


def test_too_large_whatever_the_header_says(server, client):
    def chunks():
        yield b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\n"
        for _ in range(80):
            yield bytes(1 << 14)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    # It is refused before all of it has come, which some clients see as a reset.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        response = client.post("/jobs", content=chunks(), headers=headers)
        assert "expected at most 1 megabytes" in error(response, 413)
    until(lambda: not server.queue._uploads)
    assert server.queue._held_bytes == 0
    assert [path.name for path in server.queue.folder.iterdir()] == ["lock"]


def test_an_upload_that_stops():
    with running(SlowModel(), Limits(upload_grace=0.3)) as server:
        begin = time.monotonic()
        said = answer(request(server))
        assert said.startswith("HTTP/1.1 408 ")
        assert "connection: close" in said
        assert "the upload is too slow" in said
        assert time.monotonic() - begin >= 0.3
        until(lambda: not server.queue._uploads)
        assert server.queue._held_bytes == 0


def test_an_upload_whose_client_leaves(server):
    request(server).close()
    until(lambda: not server.queue._uploads)
    assert [path.name for path in server.queue.folder.iterdir()] == ["lock"]


def test_a_full_disk(client, server, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads, "private_file", lambda path: Full())
    message = error(client.post("/jobs", files=form()), 507)
    assert message == "writing a file: No space left on device"
    assert server.queue._held_bytes == 0


def test_only_its_own_names_are_answered(server, client):
    port = server.address[1]
    for host in ("127.0.0.1", f"localhost:{port}", "LOCALHOST", "[::1]:1"):
        assert client.get("/about", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "",
                 "10.0.0.1", "localhost@evil.example", "127.0.0.1.nip.io"):  # fmt: skip
        message = error(client.get("/about", headers={"Host": host}), 421)
        assert "--allow-host" in message


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_sites_are_refused(server, client, method):
    path = "/about" if method == "GET" else "/jobs"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ):
        message = error(client.request(method, path, headers=headers), 403)
        assert "the request comes from" in message
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert client.request(method, path, headers=own).status_code in (200, 405, 415)
    # Somebody follows a link to the page.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    link["Sec-Fetch-Dest"] = "document"
    status = client.request(method, path, headers=link).status_code
    assert status == (200 if method == "GET" else 403)
    link["Sec-Fetch-Dest"] = "iframe"
    assert client.request(method, path, headers=link).status_code == 403


def test_what_browsers_are_told(client):
    for response in (client.get("/about"), client.get("/nothing")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert not [name for name in response.headers if name.startswith("access-co")]


def test_a_defect_is_answered_like_any_error(client, server, monkeypatch):
    def broken(options):
        raise RuntimeError("out of order")

    monkeypatch.setattr(server.application.state.model, "arrangement_for", broken)
    response = client.post("/jobs", files=form())
    assert error(response, 500) == "internal error (RuntimeError); please report it"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["connection"] == "close"


def test_files_of_the_page(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'lang="en"' in page.text
    style = client.get("/page/common.css")
    assert style.headers["content-type"].startswith("text/css")
    assert style.headers["cache-control"] == "no-cache"
    # Parts are not sent, and no part that is none is an error of another kind.
    for part in ("bytes=0-1", "bytes=0nan"):
        whole = client.get("/page/common.css", headers={"Range": part})
        assert (whole.status_code, whole.text) == (200, style.text)
    assert "no such file" in error(client.get("/page/app.py"), 404)
    for path in ("/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd"):
        error(client.get(path), 404)


def test_one_client_does_not_fill_the_queue(held):
    model = SlowModel()
    model.may_go.clear()
    with (
        running(model, Limits(jobs=3, jobs_of_client=2)) as server,
        server.client() as one,
        server.client("127.0.0.2") as two,
    ):
        for _ in range(2):
            assert one.post("/jobs", files=form()).status_code == 202
        refused = one.post("/jobs", files=form())
        assert "2 recordings of yours wait" in error(refused, 429)
        assert refused.headers["retry-after"] == "10"
        assert two.post("/jobs", files=form()).status_code == 202
        refused = two.post("/jobs", files=form())
        assert "3 recordings wait already" in error(refused, 503)
        assert refused.headers["retry-after"] == "10"
        # Nobody can say that the request is another's.
        refused = one.post(
            "/jobs", files=form(), headers={"X-Forwarded-For": "9.9.9.9"}
        )
        assert "of yours" in error(refused, 429)
        model.may_go.set()


def test_too_many_requests_at_once(server):
    model = SlowModel()
    model.may_go.clear()
    limits = Limits(requests=2, requests_of_client=1)
    with (
        running(model, limits) as server,
        server.client() as one,
        server.client("127.0.0.2") as two,
        server.client("127.0.0.3") as three,
    ):
        jobs = [each.post("/jobs", files=form()).json()["id"] for each in (one, two)]
        streams = [events(one, jobs[0]), events(two, jobs[1])]
        for stream in streams:
            next(stream)
        with server.client() as again:
            refused = again.get("/about")
        assert "too many requests of yours" in error(refused, 429)
        assert "retry-after" in refused.headers
        assert "too many requests are" in error(three.get("/about"), 503)
        model.may_go.set()
        assert [list(stream)[-1][0] for stream in streams] == ["done", "done"]


def test_streams_end_with_the_server(capsys):
    model = SlowModel()
    model.may_go.clear()
    with running(model) as server, server.client() as client:
        job = client.post("/jobs", files=form()).json()["id"]
        stream = events(client, job)
        next(stream)
        for _ in range(3):
            waiting = client.post("/jobs", files=form()).json()["id"]
        client.delete(f"/jobs/{waiting}")
        folder = server.queue.folder
        server.server.should_exit = True
        # Though the model is still in the midst of a segment.
        assert list(stream)[-1][0] == "cancelled"
        model.may_go.set()
    assert not folder.exists()
    assert server.application.state.ended
    lost = "warning: the server ends; jobs that are lost: 1 running, 2 waiting\n"
    assert capsys.readouterr().err == f"mt3: {lost}"


def test_the_description_is_complete(client):
    described = client.get("/openapi.json").json()
    routes = {
        (method, path): operation
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert routes.keys() == {
        ("get", "/about"),
        ("post", "/jobs"),
        ("get", "/jobs/{job_id}"),
        ("delete", "/jobs/{job_id}"),
        ("get", "/jobs/{job_id}/events"),
        ("get", "/jobs/{job_id}/result"),
        ("get", "/jobs/{job_id}/score"),
        ("post", "/transcribe"),
    }
    for (method, path), operation in routes.items():
        assert operation["summary"]
        assert operation["description"]
        responses = operation["responses"]
        assert {"403", "421", "429", "503"} < responses.keys()
        for code, response in responses.items():
            assert response["description"]
            if code >= "400":
                (schema,) = response["content"].values()
                assert schema["schema"] == {"$ref": "#/components/schemas/Error"}
            elif code != "204":
                assert response["content"]
        for parameter in operation.get("parameters", []):
            assert parameter["in"] == "path" or parameter["schema"]
            if parameter["in"] == "query":
                assert parameter["description"], (path, parameter["name"])
        if method == "post":
            (kind,) = operation["requestBody"]["content"]
            assert kind == "multipart/form-data"
    assert "HTTPValidationError" not in json.dumps(described)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 0)]
)
def test_the_command(number, code, tiny_weights, monkeypatch, capsys):
    found = {}

    def visit(address):
        try:
            with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
                found["about"] = client.get("/about").json()
                response = client.post("/transcribe?format=csv", files=form())
                found["csv"] = response.text
        finally:
            os.kill(os.getpid(), number)

    announce = command._announce

    def announced(address, model):
        announce(address, model)
        threading.Thread(target=visit, args=(address,)).start()

    monkeypatch.setattr(command, "_announce", announced)
    line = ["serve", "--port", "0", "--model", str(tiny_weights), "--max-minutes", "7"]
    assert cli.main(line) == code
    said = capsys.readouterr()
    assert found["about"]["model"] == "tiny"
    assert found["about"]["max_minutes"] == 7.0
    assert found["csv"].startswith("start_time")
    assert said.out.startswith("http://127.0.0.1:")
    assert "warning" not in said.err


def test_other_machines_are_warned_of(monkeypatch, capsys):
    def stop(*unused, **unused_too):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "InferenceModel", stop)
    assert cli.main(["serve", "--host", "0.0.0.0", "--port", "0"]) == INTERRUPTED
    said = capsys.readouterr().err
    assert "warning: --host 0.0.0.0: everybody who reaches this machine" in said


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert cli.main(["serve", "--port", port]) == 1
    assert f"--port {port}: Address already in use" in capsys.readouterr().err
    assert cli.main(["serve", "--port", "99999"]) == 1
    assert "--port is 99999; expected 0 to 65535" in capsys.readouterr().err
    assert cli.main(["serve", "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "expected an address of this machine" in capsys.readouterr().err


def test_without_the_packages(monkeypatch, capsys):
    find = command.importlib.util.find_spec
    monkeypatch.setattr(
        command.importlib.util,
        "find_spec",
        lambda name: None if name == "python_multipart" else find(name),
    )
    assert cli.main(["serve"]) == 1
    said = capsys.readouterr().err
    assert "it needs python-multipart, not installed" in said
    assert "pip install 'mt3-transcription[serve]'" in said
