"""Trying inputs in a process of their own, which may crash, hang or run out of memory.

A process tries one input after another. One that dies is replaced, and the input
that it had is a failure, as are more than `MOST_SECONDS` of processor time or
`MOST_WAITED` seconds altogether. Failing inputs are kept, the first few of each cause.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection

from tests.fuzz import mutation
from tests.fuzz.target import (
    Result,
    Target,
    find_targets,
    make_input,
    summary,
    try_input,
)

MOST_SECONDS = 20.0
MOST_WAITED = 200.0
# Warming up imports and compiles.
_MOST_WARMING = 600.0
_KEPT = 3


@dataclasses.dataclass
class Findings:
    """What a target gave.

    Attributes:
      answers: inputs by answer: "read", or the error's class.
      failures: inputs by cause.
      kept: where a failing input of each cause lies.
      slowest: the longest time of an input, in seconds, and its number.
    """

    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    kept: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return self.answers.total() + self.failures.total()


class Runner:
    """Tries inputs of one target.

    Args:
      target: the target.
      seed: of everything that is drawn.
      kept: folder for failing inputs.
    """

    def __init__(self, target: Target, seed: int, kept: pathlib.Path) -> None:
        self._target, self._seed, self._kept = target, seed, kept
        self._process: multiprocessing.process.BaseProcess | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="mt3-fuzz-")
        self._folder = pathlib.Path(self._temporary.name)
        self.findings = Findings()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *unused) -> None:
        self._stop()
        self._temporary.cleanup()

    def run(self, start: int, seconds: float, most: int | None) -> int:
        """Tries inputs from a number on, for some time or `most` of them.

        Returns:
          The number behind the last one.
        """
        if self._process is None:
            self._start()
        end = time.monotonic() + seconds
        number = start
        while time.monotonic() < end and (most is None or number < start + most):
            self._try(number)
            number += 1
        return number

    def _try(self, number: int) -> None:
        began = time.monotonic()
        if self._process is None:
            self._start()
            began = time.monotonic()
        self._pipe.send(number)
        try:
            if not self._pipe.poll(MOST_WAITED):
                raise TimeoutError
            result = self._pipe.recv()
        except (EOFError, ConnectionError, TimeoutError) as error:
            result = self._died(error)
        findings = self.findings
        findings.slowest = max(findings.slowest, (time.monotonic() - began, number))
        if result.failure:
            self._keep(number, result.failure)
        else:
            findings.answers[result.answer] += 1

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_work, args=(self._target.name, self._seed, self._folder, other)
        )
        self._process.start()
        other.close()
        if not self._pipe.poll(_MOST_WARMING):
            raise TimeoutError(f"{self._target.name}: no process that tries inputs")
        self._pipe.recv()

    def _died(self, error: Exception) -> Result:
        """Says how the process ended, and where."""
        process = self._process
        process.join(0 if isinstance(error, TimeoutError) else 10)
        code = process.exitcode
        self._stop()
        said = (self._folder / "crash").read_text(errors="replace")[-8000:]
        if code is None:
            how = f"no answer after {MOST_WAITED:g} s"
        elif code == -getattr(signal, "SIGPROF", 0):
            how = f"more than {MOST_SECONDS:g} s of processor time"
        else:
            how = f"the process ended with {code}"
        # Python's report has the innermost place first.
        said = "\n".join(reversed(said.splitlines()))
        return Result("died", f"{said}\n{how}")

    def _keep(self, number: int, failure: str) -> None:
        cause = summary(failure)
        self.findings.failures[cause] += 1
        if self.findings.failures[cause] > _KEPT:
            return
        source = next(self._folder.glob("input*"))
        path = self._kept / self._target.name / f"{self._seed}-{number}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        mutation.copy(source, path)
        path.with_name(f"{path.name}.txt").write_text(failure)
        self.findings.kept.setdefault(cause, path)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._pipe.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process = None


def _work(name: str, seed: int, folder: pathlib.Path, pipe: Connection) -> None:
    """Tries the inputs whose numbers come, and answers each with a `Result`.

    What a library in C prints is a failure: it would stand among a program's results.
    """
    with (folder / "crash").open("w") as crash, (folder / "said").open("a+b") as said:
        faulthandler.enable(crash)
        faulthandler.register(signal.SIGPROF, crash, chain=True)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        target = find_targets()[name]
        seeds_folder = folder / "seeds"
        shutil.rmtree(seeds_folder, ignore_errors=True)
        seeds_folder.mkdir()
        seeds = target.seeds(seeds_folder)
        # Imports and compiles, which no input shall answer for.
        target.run(seeds[0])
        # A user sees warnings as noise.
        warnings.simplefilter("error")
        pipe.send(None)
        while True:
            try:
                number = pipe.recv()
            except EOFError:
                return
            for old in folder.glob("input*"):
                mutation.remove(old)
            path = make_input(target, seeds, number, seed, folder)
            said.truncate(0)
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            result = try_input(target, path)
            signal.setitimer(signal.ITIMER_PROF, 0)
            said.seek(0)
            text = said.read(1000).decode(errors="replace")
            if not result.failure and not re.match(target.printed, text):
                result = Result("printed", f"{text}\nprinted on a standard stream")
            pipe.send(result)
