"""What mpg123, inside libsndfile, prints itself: caught before it reaches the terminal.

It writes to file descriptor 2, which the whole process shares. So the descriptor leads
to a file for as long as one call takes, and lines of anybody else that came meanwhile
are passed on afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_OF_MPG123 = re.compile(rb"\[[^\]]*libmpg123[^\]]*\]|Note: |Warning: |$")


@contextlib.contextmanager
def caught() -> Iterator[list[str]]:
    """Catches mpg123's lines, which the list holds once the block has ended."""
    lines: list[str] = []
    with _LOCK:
        try:
            terminal = os.dup(2)
        except OSError:  # Standard error is closed.
            yield lines
            return
        file = _file()
        os.dup2(file, 2)
        try:
            yield lines
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            if size := os.lseek(file, 0, os.SEEK_CUR):
                os.lseek(file, 0, os.SEEK_SET)
                _sort(os.read(file, size), lines)
                os.lseek(file, 0, os.SEEK_SET)


@functools.cache
def _file() -> int:
    """Returns the descriptor of a file without a name, for the whole process."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _sort(said: bytes, lines: list[str]) -> None:
    for line in said.splitlines(keepends=True):
        if _OF_MPG123.match(line.rstrip()):
            lines.append(line.decode(errors="replace").strip())
        else:
            os.write(2, line)
