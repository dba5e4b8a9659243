"""Runs programs, kills them at random moments, and collects what was found."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

# How long a program may take on a machine that does other things, too.
TIME_LIMIT = 600.0
# How long processes that a killed one had started may go on.
_ORPHAN_SECONDS = 60.0
_POLL_SECONDS = 0.01
# TensorStore prints this from a thread of its own when a write of Orbax's failed.
_CLOSED_LOOP = re.compile(
    r"Traceback[^\n]*\n(?:  [^\n]*\n)+RuntimeError: Event loop is closed\n"
)


class Failed(Exception):
    """Something that must not happen did; the message says what."""


class NotPossible(Exception):
    """What a scenario needs is not allowed on this machine."""


def check(condition: object, message: str) -> None:
    """Raises Failed unless something holds."""
    if not condition:
        raise Failed(message)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      fault: what was done to which program.
      times: how often.
      result: what was found.
    """

    fault: str
    times: str
    result: str


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a scenario works, and what it draws from.

    Attributes:
      folder: empty at the beginning.
      rng: random moments.
    """

    folder: pathlib.Path
    rng: np.random.Generator

    def below(self, name: str) -> pathlib.Path:
        """Returns a folder in it, made if need be."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path


Scenario = Callable[[Place], list[Row]]


@dataclasses.dataclass(frozen=True)
class Ended:
    """A program that has ended.

    Attributes:
      code: its exit code; minus the signal's number where one killed it.
      output: what it wrote, standard error included.
    """

    code: int
    output: str

    def needs(self, code: int, *texts: str) -> Ended:
        """Raises Failed unless it ended with a code, said something, and had no crash.

        Args:
          code: the exit code.
          texts: of what it must have said.
        """
        check(
            self.code == code, f"exit code {self.code}, expected {code}:\n{self.output}"
        )
        rest = _CLOSED_LOOP.sub("", self.output)
        check("Traceback" not in rest, f"a traceback:\n{self.output}")
        for text in texts:
            check(text in self.output, f"{text!r} is not in:\n{self.output}")
        return self


def mt3(*arguments: object) -> list[str]:
    """Returns the command line of `mt3`."""
    return [sys.executable, "-m", "mt3", *map(str, arguments)]


class Program:
    """A program that runs, in a session of its own."""

    def __init__(
        self,
        command: Sequence[str],
        log: pathlib.Path,
        environment: Mapping[str, str] | None = None,
    ):
        """Starts it.

        Args:
          command: what to run.
          log: file for what it writes.
          environment: what differs from this process's.
        """
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    @property
    def output(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> bool:
        """Waits for something; says whether it came before the program's end."""
        end = time.monotonic() + TIME_LIMIT
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                self.end()
                raise Failed(f"nothing in {TIME_LIMIT:.0f} seconds:\n{self.output}")
            time.sleep(_POLL_SECONDS)
        return True

    def wait(self) -> Ended:
        """Waits for its end, and for that of the processes that it started."""
        self.until(lambda: self.process.poll() is not None)
        end = time.monotonic() + _ORPHAN_SECONDS
        while left := _session(self.process.pid):
            if time.monotonic() > end:
                self.end()
                raise Failed(f"processes {left} outlive the program that started them")
            time.sleep(_POLL_SECONDS)
        return Ended(self.process.returncode, self.output)

    def send(self, number: int) -> Ended:
        """Sends a signal, to this process alone, and waits for the end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """Ends it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _session(leader: int) -> list[int]:
    """Returns the processes of a session that still run (Linux)."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may hold spaces: state, parent, group, session.
            state, _, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: pathlib.Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Starts a program, and ends it where the block failed to."""
    program = Program(command, log, environment)
    try:
        yield program
    finally:
        program.end()


def run(
    command: Sequence[str],
    folder: pathlib.Path,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Runs a program to its end; its output is kept in a folder."""
    with running(command, folder / "log.txt", environment) as program:
        return program.wait()


class Work(Protocol):
    """A run that can be killed and started again.

    Attributes:
      command: starts it, and goes on with it.
      environment: what differs from this process's.
    """

    command: Sequence[str]
    environment: Mapping[str, str] | None

    def progress(self) -> int:
        """Returns how many pieces of the work are finished."""

    def check_killed(self, ended: Ended) -> None:
        """Raises Failed if the kill left something that must not be there."""

    def check_whole(self, ended: Ended) -> None:
        """Raises Failed if the finished run differs from one never interrupted."""


@dataclasses.dataclass(frozen=True)
class Kills:
    """What `kill_often` did.

    Attributes:
      kills: processes that were killed.
      early: of them, those killed before they had finished any piece.
      runs: works that were brought to their end.
    """

    kills: int
    early: int
    runs: int

    def __str__(self) -> str:
        return f"{self.kills} ({self.early} before the first piece was finished)"


def kill_often(
    place: Place,
    make: Callable[[pathlib.Path], Work],
    *,
    times: int,
    ahead: int,
    start_seconds: float,
    piece_seconds: float,
) -> Kills:
    """Kills runs at random moments, goes on with them, and compares the end.

    A moment is a number of further finished pieces and a time after the last of them,
    so that runs get on, however busy the machine is. One in five is in the start-up.

    Args:
      place: where.
      make: the work in a folder of its own; asked for again when one is finished.
      times: how many processes to kill.
      ahead: the most pieces that a run may finish before it is killed.
      start_seconds: about how long the program takes to begin.
      piece_seconds: about how long a piece takes.

    Raises:
      Failed: by the checks of `Work`.
    """
    kills = early = runs = 0
    while kills < times:
        folder = place.below(f"run_{runs}")
        work = make(folder)
        while True:
            before = work.progress()
            if kills == times:
                goal = None
            elif place.rng.random() < 0.2:
                goal, delay = before, place.rng.uniform(0, start_seconds)
            else:
                goal = before + int(place.rng.integers(1, ahead + 1))
                delay = place.rng.uniform(0, piece_seconds)
            log = folder.with_name(f"{folder.name}_start_{kills}.txt")
            with running(work.command, log, work.environment) as program:
                if goal is not None and program.until(lambda: work.progress() >= goal):  # noqa: B023
                    time.sleep(delay)
                    ended = program.send(signal.SIGKILL)
                else:
                    ended = program.wait()
            if ended.code != -signal.SIGKILL:
                ended.needs(0)
                work.check_whole(ended)
                break
            kills += 1
            early += work.progress() == before
            work.check_killed(ended)
        runs += 1
    return Kills(kills, early, runs)
