"""Programs that run beside this one, and the log that all write to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_MOST_LOG_BYTES = 1_000_000
_SECONDS_TO_END = 5.0


class Log:
    """Lines on standard output and in a file, which stops growing in the end."""

    def __init__(self, path: Path):
        # A signal handler writes too, possibly in the middle of a line.
        self._lock = threading.RLock()
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - see close()
        self._room = _MOST_LOG_BYTES

    def write(self, line: str) -> None:
        """Writes a line, with its end."""
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()
            if self._room > 0 and not self._file.closed:
                self._room -= len(line)
                self._file.write(line)
                self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()


def start(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Log
) -> subprocess.Popen:
    """Starts a program in a group of its own; what it prints goes to the log."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own, so that its workers can be ended with it.
        start_new_session=True,
    )

    def pass_on():
        with contextlib.suppress(ValueError), process.stdout:
            for line in process.stdout:
                log.write(line)

    process.reader = threading.Thread(target=pass_on, daemon=True)
    process.reader.start()
    return process


def end(process: subprocess.Popen | None) -> None:
    """Ends a program that `start` started, and its workers, whatever they do."""
    if process is None:
        return
    # The workers may outlive the program that started them.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_END)
    process.reader.join(_SECONDS_TO_END)
