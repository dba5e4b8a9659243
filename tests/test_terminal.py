"""What is printed, where it cannot be printed, and how a program ends."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from mt3 import cli, terminal
from mt3.errors import DataError, StreamError

CAFE = os.fsdecode(b"caf\xe9.wav")


class Refusing(io.TextIOWrapper):
    """A stream whose system calls fail."""

    def __init__(self, number: int):
        class Raw(io.RawIOBase):
            def writable(self):
                return True

            def write(self, data):
                raise OSError(number, os.strerror(number))

        super().__init__(io.BufferedWriter(Raw()), encoding="utf-8")

    def close(self):
        """Does not try again to write what was not taken."""


def test_names_that_are_no_text_become_escapes():
    assert terminal.printable(CAFE) == r"caf\xe9.wav"
    assert terminal.printable("Übung 1 – \U0001f3b9") == "Übung 1 – \U0001f3b9"
    # What a C locale makes of a name in UTF-8 is that name again.
    assert terminal.printable("\udcc3\udcbc.wav") == "ü.wav"
    # Surrogates that stand for no byte, as Windows allows them in names.
    assert terminal.printable("\ud800 \udcff") == r"\ud800 \udcff"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_text_prints_on_any_terminal(encoding, monkeypatch):
    streams = {}
    for name in ("stdout", "stderr"):
        streams[name] = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, streams[name])

    def body():
        terminal.print_result(f"{CAFE} 音楽\t\x1b[31m")
        terminal.say(f"{CAFE} 音楽\t\x1b[31m")
        return 0

    assert terminal.run_program(body) == 0
    name = "音楽" if encoding == "utf-8" else r"\u97f3\u697d"
    for stream in streams.values():
        # Nor does a name colour the terminal.
        expected = rf"caf\xe9.wav {name}" + "\t" + r"\x1b[31m" + "\n"
        assert stream.buffer.getvalue().decode() == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_result_that_is_not_taken_ends_the_program(number, monkeypatch, capsys):
    done = []

    def body():
        # Bytes and text alike.
        (terminal.write_result if done else terminal.print_result)(
            b"notes" if done else "notes"
        )
        raise AssertionError("the program went on")

    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", Refusing(number))
        assert terminal.run_program(body, "program") == 1
        done.append(1)
    (first, second) = capsys.readouterr().err.splitlines()
    reason = {errno.ENOSPC: "No space left", errno.EPIPE: "its reader closed the pipe"}
    assert first == second
    assert first.startswith(
        f"program: error: standard output: cannot write: {reason[number]}"
    )


def test_what_is_in_the_buffer_at_the_end_counts(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Refusing(errno.ENOSPC))
    assert cli.main(["models"]) == 1
    assert "standard output: cannot write" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", Refusing(errno.ENOSPC))
    # Help, whose own exit code is 0.
    assert cli.main(["--help"]) == 1
    assert "standard output: cannot write" in capsys.readouterr().err


def test_a_message_that_is_not_taken_does_not_stop_the_work(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Refusing(errno.ENOSPC))
    done = []

    def body():
        terminal.say("first")
        done.append(1)
        return 0

    assert terminal.run_program(body) == 1
    assert done
    # But nobody waits for a program whose reader has gone.
    monkeypatch.setattr(sys, "stderr", Refusing(errno.EPIPE))
    with pytest.raises(StreamError, match="standard error.*closed the pipe"):
        terminal.say("first")
    monkeypatch.setattr(sys, "stderr", Refusing(errno.EPIPE))
    assert terminal.run_program(body) == 1
    assert len(done) == 1


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "interrupted; what was finished stays"),
        (signal.SIGTERM, 143, "told to end (SIGTERM); what was finished stays"),
    ],
)
def test_signals_end_a_program_in_order(monkeypatch, capsys, number, code, line):
    # As at a terminal, whatever this test was started from.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tidied = []

    def body():
        try:
            signal.raise_signal(number)
        finally:
            tidied.append(1)
        raise AssertionError("the program went on")

    try:
        assert terminal.run_program(body, "program") == code
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == f"program: {line}\n"
    assert tidied


WORKER = """
import multiprocessing, sys, time
from mt3 import terminal
def work():
    terminal.end_with_parent()
    print("works", flush=True)
    time.sleep(600)
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
"""


def test_a_worker_ends_when_the_program_that_started_it_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(WORKER)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout.readline().strip() == b"works"
        process.kill()
        # Open as long as the worker is there.
        assert process.stdout.read() == b""


POOL = """
import os, signal, sys, time
from mt3 import terminal
from mt3.errors import OutputError
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
def sleep():
    print("works", flush=True)
    time.sleep(600)
def program():
    try:
        with terminal.worker_processes(1) as pool:
            pool.submit(killed).result()
    except OutputError as error:
        print(error, flush=True)
    with terminal.worker_processes(1) as pool:
        print(pool.submit(interrupted).result(), flush=True)
        for _ in range(3):
            pool.submit(sleep)
        time.sleep(600)
if __name__ == "__main__":
    sys.exit(terminal.run_program(program))
"""


def test_workers_that_are_killed_and_a_program_that_is_interrupted(tmp_path):
    (tmp_path / "program.py").write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert b"a worker process was killed" in process.stdout.readline()
        assert process.stdout.readline().strip() == b"went on"
        assert process.stdout.readline().strip() == b"works"
        process.terminate()
        rest, messages = process.communicate(timeout=60)
    assert process.returncode == 143
    assert rest == b""
    assert messages == b"mt3: told to end (SIGTERM); what was finished stays\n"


def test_failures_become_messages(capsys):
    def failing(error):
        def body():
            raise error

        code = terminal.run_program(body, "program")
        return code, capsys.readouterr().err

    assert failing(DataError("x.txt: bad")) == (1, "program: error: x.txt: bad\n")
    code, message = failing(PermissionError(errno.EACCES, "Permission denied", CAFE))
    assert code == 1
    assert message == "program: error: caf\\xe9.wav: Permission denied\n"
    assert failing(OSError("no reason")) == (1, "program: error: no reason\n")
    code, message = failing(KeyboardInterrupt())
    assert code == 130
    assert message.startswith("program: interrupted")
    # A defect shows where it is.
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


# Command lines and their exit codes where everything can be printed.
COMMANDS = {
    "models --json": 0,
    "--help": 0,
    "score {missing} {missing}": 1,
    "unknown": 2,
}


def run(arguments, redirection, **environment):
    # Without it a stream has no buffer, and argparse ignores what is not taken.
    environment = {**os.environ, **environment}
    environment.pop("PYTHONUNBUFFERED", None)
    command = " ".join([f'"{sys.executable}" -m mt3', arguments, redirection])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("arguments", COMMANDS)
def test_redirections(arguments, tmp_path):
    code = COMMANDS[arguments]
    arguments = arguments.format(missing=tmp_path / "ü.mid")
    said = {}
    for redirection in ("", "> /dev/full", ">&-", "2>&-", "2> /dev/full"):
        result = run(arguments, redirection)
        said[redirection] = result
        assert b"Traceback" not in result.stderr, redirection
        assert b"Exception ignored" not in result.stderr, redirection
        lost = code == 0 and redirection in ("> /dev/full", ">&-")
        unsaid = code != 0 and redirection == "2> /dev/full"
        assert (result.returncode or 0) == (1 if lost or unsaid else code), redirection
        if lost:
            assert result.stderr.startswith(
                b"mt3: error: standard output: cannot write"
            )
    assert said["2>&-"].stdout == said[""].stdout


def test_a_closed_pipe_ends_with_a_message():
    result = run("models --json", "| true")
    assert result.returncode == 1
    assert result.stderr == (
        b"mt3: error: standard output: cannot write: its reader closed the pipe\n"
    )


def test_a_name_outside_the_terminals_encoding(example_pair):
    arguments = f"score {example_pair} {example_pair} --json"
    # So that Python does not take the C locale for one with UTF-8.
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run(arguments, "", **ascii_only)
    assert result.returncode == 0, result.stderr
    (song,) = json.loads(result.stdout)["songs"]
    assert song["name"] == "ü"


@pytest.fixture
def example_pair(tmp_path, repository):
    path = tmp_path / "ü.mid"
    path.write_bytes((repository / "examples" / "example.mid").read_bytes())
    return path


@pytest.fixture
def interruptible():
    """As a terminal starts programs, where SIGINT is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for_interruption():
    for _ in range(1000):
        time.sleep(0.01)
    raise AssertionError("the interruption was lost")


def test_an_import_is_not_interrupted(interruptible, tmp_path, monkeypatch, capsys):
    """Modules in C++ would crash."""
    module = "import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n"
    (tmp_path / "interrupted_module.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)

    def body():
        import interrupted_module

        assert interrupted_module.whole
        wait_for_interruption()

    assert terminal.run_program(body) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interruption_in_a_callback_is_not_lost(interruptible, capsys):
    """Python ignores exceptions there."""

    class Last:
        # No callback of the garbage collector: another thread may be collecting.
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def body():
        Last()
        wait_for_interruption()

    assert terminal.run_program(body) == 130
    assert "ignored" not in capsys.readouterr().err


def test_an_error_that_an_interruption_led_to_is_not_shown(interruptible, capsys):
    """Called by libsndfile, `write` gives no answer, and soundfile's check fails."""

    class Interrupted(io.BytesIO):
        def write(self, data):
            signal.raise_signal(signal.SIGINT)
            return super().write(data)

    def body():
        soundfile.write(Interrupted(), np.zeros(100), 16000, format="WAV")
        raise AssertionError("written all the same")

    assert terminal.run_program(body) == 130
    captured = capsys.readouterr()
    assert captured.err == "mt3: interrupted; what was finished stays\n"


class Terminal(io.StringIO):
    """Standard error as a terminal that shows what is printed."""

    def isatty(self):
        return True

    def shown(self) -> list[str]:
        """The lines as they stand on the screen."""
        lines = []
        for line in self.getvalue().replace("\x1b[A", "").split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            lines.append("".join(cells).rstrip())
        return lines


def test_messages_stand_above_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = sys.stderr
    with terminal.Progress(2, quiet=False) as progress:
        progress.begin(0, 10.0)
        progress.advance(0, 5.0)
        terminal.say("mt3: error: a.wav: bad")
        assert screen.shown()[-1].startswith("0/2 files, 5.0/20.0 s |")
        # What other libraries print, in pieces.
        print("a", "warning", file=sys.stderr)
        progress.finish(0)
        progress.say("b.wav: 3 notes")
    assert sys.stderr is screen
    print("end", file=sys.stderr)
    assert screen.shown() == [
        "mt3: error: a.wav: bad",
        "a warning",
        "b.wav: 3 notes",
        "end",
        "",
    ]


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    """With a speed in real time, also below 1."""
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with terminal.Progress(1, quiet=False) as progress:
        progress.begin(0, 10.0)
        progress.advance(0, 2.5)
        now += 20.0
        progress.advance(0, 5.0)
        progress.advance(0, 7.5)
        progress.say("a.wav: 3 notes")
    assert capsys.readouterr().err == (
        "mt3: audio, 5.0/10.0 s, 0.25 x real time\na.wav: 3 notes\n"
    )
    with terminal.Progress(1, quiet=True) as progress:
        progress.begin(0, None)
        now += 20.0
        progress.advance(0, 5.0)
        progress.say("a.wav: 3 notes")
    assert capsys.readouterr().err == ""
