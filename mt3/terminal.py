"""What is printed for people to read: messages, progress and results.

Messages and progress go to standard error, results to standard output. Any name of a
file can be printed, whatever the terminal's encoding: what it cannot show is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO


def printable(text: str) -> str:
    r"""Returns a text in which everything can be encoded as UTF-8.

    Bytes of a file's name that are not UTF-8, which Python keeps as surrogates, become
    escapes: `caf\xe9.wav`.
    """
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # Other surrogates, which stand for no byte.
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def say(line: str, *, progress: Progress | None = None) -> None:
    """Prints a message on standard error, above a progress bar if there is one."""
    if progress is None:
        _print(line, sys.stderr)
    else:
        progress.say(line, always=True)


def print_result(text: str) -> None:
    """Prints a result on standard output."""
    _print(text, sys.stdout)


def _print(text: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=True)


class Progress:
    """Seconds of audio done, speed and time left, on standard error."""

    def __init__(self, durations: Sequence[float | None], quiet: bool):
        self._done = [0.0] * len(durations)
        self._known = durations
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet:
            from tqdm import tqdm

            known = [duration for duration in self._known if duration is not None]
            total = sum(known) if len(known) == len(self._known) else None
            interactive = sys.stderr.isatty()
            self._bar = tqdm(
                total=total,
                file=sys.stderr,
                desc="audio",
                leave=False,
                # A log file wants a line now and then, not ten a second.
                mininterval=0.3 if interactive else 10.0,
                dynamic_ncols=interactive,
                bar_format="{desc}: {n:.1f}/{total:.1f} s |{bar}| left {remaining}"
                "{postfix}"
                if total is not None
                else "{desc}: {n:.1f} s{postfix}",
            )
        return self

    def __exit__(self, *unused) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, file: int, seconds: float) -> None:
        """Notes that a recording is transcribed up to a time."""
        self._add(file, seconds - self._done[file])

    def finish(self, file: int) -> None:
        """Notes the end of a recording, whatever its header had promised."""
        if self._known[file] is not None:
            self._add(file, self._known[file] - self._done[file])

    def _add(self, file: int, seconds: float) -> None:
        self._done[file] += seconds
        if self._bar is not None:
            # Headers may promise less than there is, and sums of times are rounded.
            if self._bar.total is not None:
                seconds = min(seconds, self._bar.total - self._bar.n)
            if elapsed := self._bar.format_dict["elapsed"]:
                speed = (self._bar.n + seconds) / elapsed
                self._bar.set_postfix_str(f"{speed:.2f} x real time", refresh=False)
            self._bar.update(seconds)

    def say(self, line: str, *, always: bool = False) -> None:
        """Prints a line above the bar; without a bar only if `always`."""
        if self._bar is not None:
            self._bar.write(printable(line), file=sys.stderr)
        elif always:
            say(line)
