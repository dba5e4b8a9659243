"""The log of JSON lines, and what the library tells its logger."""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import json
import logging
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from mt3 import cli, inference, terminal
from mt3.engine import metrics_writer
from mt3.errors import ConfigError, StreamError
from mt3.prepare import running

OWN = logging.getLogger("mt3")


@pytest.fixture
def folder(tmp_path, monkeypatch, rng, tiny_weights):
    """A recording, something else, and the tiny model; the current folder."""
    noise = rng.normal(size=8000).astype(np.float32) / 4
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "tiny.safetensors").symlink_to(tiny_weights)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_stays():
    """Asserts that loggers are as they were."""
    before = (OWN.level, list(OWN.handlers), list(logging.getLogger().handlers))
    yield
    assert before == (OWN.level, OWN.handlers, logging.getLogger().handlers)
    assert not terminal.logs_json()


def records(text: str) -> list[dict]:
    """Reads a log, every line of which must be a record with the usual fields."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        moment = datetime.datetime.fromisoformat(line["time"])
        assert moment.utcoffset() == datetime.timedelta(0)
    assert lines
    return lines


class Terminal(io.StringIO):
    """What would have a progress bar."""

    def isatty(self):
        return True


def logged(body) -> list[dict]:
    """Runs a program that logs as JSON, on a terminal; returns the log."""

    def program():
        terminal.log_as_json()
        body()
        return 0

    stream, sys.stderr = sys.stderr, Terminal()
    try:
        terminal.run_program(program)
        return records(sys.stderr.getvalue())
    finally:
        stream, sys.stderr = sys.stderr, stream


def test_all_lines_of_a_recording_name_it_alike(folder, capfd):
    (folder / "songs").mkdir()
    (folder / "noise.wav").rename(folder / "songs" / "noise.wav")
    command = ["transcribe", "songs/noise.wav", "--model", "tiny.safetensors"]
    assert cli.main([*command, "--decode", "greedy", "-o", "out", "--log-json"]) == 0
    lines = [line for line in records(capfd.readouterr().err) if "file" in line]
    assert {line.get("stage") for line in lines} >= {"begin", "transcribe", "write"}
    assert {line["file"] for line in lines} == {"songs/noise.wav"}
    (written,) = [line for line in lines if line.get("stage") == "write"]
    plural = "" if written["notes"] == 1 else "s"
    assert f": {written['notes']} note{plural} -> " in written["message"]


def test_a_run_is_told_in_json(folder, capfd):
    command = ["transcribe", "noise.wav", "text.wav", "--model", "tiny.safetensors"]
    command += ["--format", "jsonl", "--decode", "greedy"]
    assert cli.main([*command, "-o", "-"]) == 1
    plain = capfd.readouterr()
    assert "mt3: error: text.wav" in plain.err
    assert cli.main(["transcribe", "--log-json", *command[1:], "-o", "-"]) == 1
    found = capfd.readouterr()
    assert found.out == plain.out
    lines = records(found.err)
    by_stage = {line.get("stage"): line for line in lines}
    assert by_stage["load"]["level"] == "DEBUG"
    assert by_stage["load"]["settings"]["decode"] == "greedy"
    assert len(by_stage["load"]["sha256"]) == 64
    begin, end = by_stage["begin"], by_stage["transcribe"]
    assert begin["level"] == end["level"] == "INFO"
    assert begin["file"] == end["file"] == "noise.wav"
    assert begin["seconds"] == end["seconds"] == 0.5
    assert end["elapsed"] >= 0
    assert end["notes"] == len(plain.out.splitlines())
    (error,) = [line for line in lines if line["level"] == "ERROR"]
    assert (error["error"], error["file"]) == ("AudioError", "text.wav")
    assert error["message"].startswith("text.wav: ")

    # Written, and told of warnings and errors only.
    assert cli.main([*command, "-o", "out", "--log-json"]) == 1
    lines = records(capfd.readouterr().err)
    (written,) = [line for line in lines if line.get("stage") == "write"]
    assert written["results"] == ["out/noise.jsonl"]
    assert written["notes"] == end["notes"]
    assert cli.main([*command, "-o", "other", "--log-json", "--quiet"]) == 1
    (error,) = records(capfd.readouterr().err)
    assert error["level"] == "ERROR"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("transcribe --slots x a.wav --log-json", 2, None),
        ("transcribe a.wav --log-json --modle b", 2, None),
        ("transcribe missing.wav --log-js --model nothing", 1, "CheckpointError"),
        ("score missing.mid missing.mid --log-json", 1, "MidiError"),
        ("models missing --log-json", 1, "CheckpointError"),
        ("doctor --modle --log-json", 2, None),
        ("serve --port 99999 --log-json", 1, "ConfigError"),
        ("train --gin_file=missing.gin --log-json", 1, "ConfigError"),
        ("prepare folder missing --log-json", 1, "ConfigError"),
        ("synthesize missing.mid -o out --log-json", 1, None),
    ],
)
def test_errors_have_their_class(arguments, code, error, folder, capsys):
    with pytest.raises(SystemExit) if code == 2 else contextlib.nullcontext() as ended:
        assert cli.main(arguments.split()) == code
    if ended is not None:
        assert ended.value.code == code
    lines = records(capsys.readouterr().err)
    (line,) = [line for line in lines if line["level"] == "ERROR"]
    assert line.get("error") == error
    assert not line["message"].startswith("mt3")


def test_what_ends_a_program_is_told():
    def raising(error):
        def body():
            raise error

        return logged(body)[-1]

    assert raising(ConfigError("bad"))["error"] == "ConfigError"
    assert raising(FileNotFoundError(2, "gone", "a"))["error"] == "FileNotFoundError"
    assert raising(KeyboardInterrupt())["level"] == "INFO"
    defect = raising(ZeroDivisionError("zero"))
    assert defect["error"] == "ZeroDivisionError"
    assert "in body" in defect["traceback"]


def test_fields_of_any_kind_are_json():
    loss = jnp.float32(0.5)

    def body():
        fields = {
            "loss": loss,
            "steps": np.int64(3),
            "rates": [float("nan"), np.float32(2)],
            "file": "caf\udce9.wav",
            "array": np.zeros(2),
            "nested": {1: (True, None)},
        }
        OWN.info("100%", extra=fields)
        try:
            raise ConfigError("bad")
        except ConfigError:
            OWN.exception("failed %d", 1)
        warnings.warn("old", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        first, second, third = logged(body)
    assert first["message"] == "100%"
    assert (first["loss"], first["steps"], first["rates"]) == (0.5, 3, [None, 2.0])
    assert (first["file"], first["array"]) == (r"caf\xe9.wav", "[0. 0.]")
    assert first["nested"] == {"1": [True, None]}
    assert (second["message"], second["error"]) == ("failed 1", "ConfigError")
    assert "raise ConfigError" in second["traceback"]
    assert (third["level"], third["logger"]) == ("WARNING", "py.warnings")


def test_mistakes_of_libraries_cost_no_line():
    wrong = {"msg": "%d of %s", "args": (1,), "levelname": "INFO", "level": 5}
    line = terminal.JsonFormatter().format(logging.makeLogRecord(wrong))
    (record,) = records(line)
    assert (record["message"], record["level"]) == ("%d of %s (1,)", "INFO")


def test_training_and_preparing_tell_numbers():
    def body():
        values = {"loss_per_token": 2.5, "name": 1.0, "seconds_left": 61.0}
        metrics_writer.log_line("train", 7, values)
        progress = running._Progress(2, functools.partial(running._say, None), 0.0)
        progress.add(1, 3.25)

    training, preparing = logged(body)
    assert (training["split"], training["step"], training["loss"]) == ("train", 7, 2.5)
    assert training["metrics"]["name"] == 1.0
    assert (preparing["finished"], preparing["songs"]) == (1, 2)
    assert preparing["seconds"] == 3.25
    assert preparing["elapsed"] >= 0


def test_progress_is_told_without_a_bar(monkeypatch):
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)

    def body():
        nonlocal now
        with terminal.Progress(2, quiet=False) as progress:
            progress.begin(0, 10.0)
            now += 20.0
            progress.advance(0, 5.0)

    (line,) = logged(body)
    assert (line["files"], line["finished"]) == (2, 0)
    assert (line["seconds"], line["elapsed"]) == (5.0, 20.0)


def test_a_log_that_nobody_reads(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    def body():
        monkeypatch.setattr(sys, "stderr", Closed())
        # A library goes on, which may be in the midst of training ...
        OWN.warning("a warning")
        done.append("library")
        # ... and a command ends.
        with pytest.raises(StreamError):
            terminal.say("a message")
        done.append("command")
        return 0

    def program():
        terminal.log_as_json()
        return body()

    done = []
    terminal.run_program(program)
    assert done == ["library", "command"]


def test_the_library_tells_its_logger(folder, caplog, capfd):
    with caplog.at_level(logging.DEBUG, logger="mt3"):
        model = inference.InferenceModel("tiny.safetensors")
        notes = model("noise.wav")
    stages = [getattr(record, "stage", None) for record in caplog.records]
    assert [s for s in stages if s != "compile"] == ["load", "begin", "transcribe"]
    assert caplog.records[-1].notes == len(notes)
    # Without a handler it says nothing.
    assert capfd.readouterr().err == ""
