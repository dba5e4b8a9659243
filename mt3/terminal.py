"""What people read: messages, progress and results, and how a program ends.

Messages and progress go to standard error, results to standard output. Any name of a
file can be printed, whatever the terminal's encoding: what it cannot show is escaped.

A result that standard output does not take (a full disk, a pipe that its reader
closed) ends the program with a message and the exit code 1. Messages that standard
error does not take do not stop the work, except where its reader closed the pipe.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TextIO

from mt3.errors import MT3Error, StreamError, near_misses

# All but line feed and tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Seconds from one line of progress to the next, where there is no terminal.
_LOG_INTERVAL = 10.0
FAILED = 1
INTERRUPTED = 130  # As a shell has it: 128 and the number of SIGINT.
TERMINATED = 143  # The same of SIGTERM.


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


def to_json(record: Any, *, ensure_ascii: bool = True) -> str:
    """Returns strict JSON of a record in which names of files may be no text.

    Args:
      record: JSON values.
      ensure_ascii: escape what is not ASCII, so that any terminal can show it.
    """

    def text(value: Any) -> Any:
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, Mapping):
            return {text(key): text(item) for key, item in value.items()}
        return [text(v) for v in value] if isinstance(value, list | tuple) else value

    return json.dumps(
        text(record), indent=2, ensure_ascii=ensure_ascii, allow_nan=False
    )


def _shown(text: str) -> str:
    """Returns text that does not steer the terminal, as names of files might."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", printable(text))


def say(line: str) -> None:
    """Prints a message on standard error, above the progress bar if there is one.

    Raises:
      StreamError: the reader of standard error closed it.
    """
    with _saying():
        print(_shown(line), file=sys.stderr, flush=True)


def print_result(text: str, *, end: str = "\n") -> None:
    """Prints a result on standard output.

    Raises:
      StreamError: standard output does not take it.
    """
    with _writing(sys.stdout):
        print(_shown(text), end=end, flush=True)


def write_result(data: bytes) -> None:
    """Writes a result on standard output as it is.

    Raises:
      StreamError: standard output does not take it.
    """
    with _writing(sys.stdout):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def run_program(body: Callable[[], int], name: str = "mt3") -> int:
    """Runs a program; failures that are to be expected become messages.

    Args:
      body: does the work and returns the exit code.
      name: of the program, with which its messages begin.

    Returns:
      The exit code: that of `body`, 1 after an error, 130 after an interruption, 143
      after a request to end (SIGTERM).

    Raises:
      SystemExit: as `body` does (argparse ends a program so).
    """
    _open_streams()
    ended_by: list[int] = []
    try:
        with _interrupts_arrive(ended_by):
            try:
                return body()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with _writing(stream):
                        stream.flush()
    except MT3Error as error:
        return _end(f"{name}: error: {error}", FAILED)
    except KeyboardInterrupt:
        if signal.SIGTERM in ended_by:
            line = f"{name}: told to end (SIGTERM); what was finished stays"
            return _end(line, TERMINATED)
        return _end(f"{name}: interrupted; what was finished stays", INTERRUPTED)
    except OSError as error:
        reason = error.strerror or str(error)
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _end(f"{name}: error: {where}{reason}", FAILED)


@contextlib.contextmanager
def _interrupts_arrive(received: list[int]) -> Iterator[None]:
    """Makes every Ctrl-C and SIGTERM end the block, and none end in a crash.

    An exception in the midst of an import can break modules written in C++ (those of
    JAX crash), and one in a callback of the garbage collector (JAX has one) is ignored.
    So the former waits for the import's end, and the latter is raised again.

    Args:
      received: gets the signals' numbers.
    """
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    # Those that nobody ignores or handles: a shell's background jobs ignore Ctrl-C.
    ours = [number for number in usual if signal.getsignal(number) is usual[number]]
    if threading.current_thread() is not threading.main_thread() or not ours:
        yield
        return
    waiting: list[threading.Timer] = []

    def interrupt_later(number: int) -> None:
        waiting.append(threading.Timer(0.05, _thread.interrupt_main, [number]))
        waiting[-1].start()

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        received.append(number)
        while frame is not None and frame.f_code is not run_program.__code__:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                interrupt_later(number)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def ignored(problem: Any) -> None:
        if issubclass(problem.exc_type, KeyboardInterrupt):
            interrupt_later(received[-1])
        else:
            hook(problem)

    hook, sys.unraisablehook = sys.unraisablehook, ignored
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])
        sys.unraisablehook = hook
        for timer in waiting:
            timer.cancel()


def end_with_parent() -> None:
    """Ends this worker process when the process that started it is gone: killed, say.

    It would else wait for work for ever, or write beside the next run.
    """
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()


def _end(line: str, code: int) -> int:
    with contextlib.suppress(StreamError):
        say(line)
        with _writing(sys.stderr):
            sys.stderr.flush()
    return code


@contextlib.contextmanager
def _writing(stream: TextIO) -> Iterator[None]:
    """Names the stream that cannot be written to, and gives up what it still holds.

    Python would else try again when it ends, and fail with a traceback.
    """
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # No descriptor: a test's, say.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        name = "standard error" if stream is sys.stderr else "standard output"
        reason = error.strerror or str(error)
        if isinstance(error, BrokenPipeError):
            reason = "its reader closed the pipe"
        raise StreamError(f"{name}: cannot write: {reason}") from error


@contextlib.contextmanager
def _saying() -> Iterator[None]:
    """Leaves in the buffer what standard error does not take now, to try it again."""
    with _writing(sys.stderr):
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError:
            pass


def _open_streams() -> None:
    """Opens standard streams that were closed, and lets them show any text.

    A file that is opened later would else get the number of a closed stream, and with
    it the chatter that libraries write there.
    """
    # In this order, since an opened file gets the lowest number that is free.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Writing to a closed standard output fails, as it should: a result is
            # lost. Without standard error, messages are not wanted.
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            descriptor = os.open(os.devnull, flags)
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, "w" if number else "r")  # noqa: SIM115
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class ArgumentParser(argparse.ArgumentParser):
    """Says in two lines what is wrong with arguments, with the names meant perhaps."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the program with the exit code 2."""
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        unknown = re.match(r"unrecognized arguments: (?:.* )?(--?[^\s=]+)", message)
        if choice:
            message += _meant(choice[1], re.findall(r"[^\s,']+", choice[2]))
        elif unknown:
            message += _meant(unknown[1], self._known_options())
        say(f"{self.prog}: error: {message}")
        say(f"{self.prog} --help tells what is expected")
        raise SystemExit(2)

    def _known_options(self) -> set[str]:
        """Returns the options of the program, and of its commands if it has some."""
        known = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    known |= command._option_string_actions.keys()
        return known


def _meant(name: str, known: Iterable[str]) -> str:
    """Returns "Did you mean ...?" for a name that resembles a known one, else ""."""
    hint = near_misses(name, known)
    return "." + hint if hint.startswith(" Did") else ""


class Progress:
    """Files and seconds of audio done, speed and time left, on standard error.

    On a terminal a bar, above which everything else is printed that goes to
    `sys.stderr`; elsewhere (a log file) a line now and then.

    Recordings are told of as they are opened. Those that are still to come are taken to
    be as long as the others, so a single one has its own length.

    Args:
      files: how many there are in all.
      quiet: tell nothing but what is said `always`.
    """

    def __init__(self, files: int, quiet: bool):
        self._files = files
        self._finished = 0
        # Of recordings in the middle: seconds done, and the length if it is known.
        self._open: dict[int, tuple[float, float | None]] = {}
        # How many lengths are known, and their sum.
        self._known, self._seconds = 0, 0.0
        self._done = 0.0
        self._quiet = quiet
        self._bar: Any = None
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        self._start = self._told = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            from tqdm import contrib, tqdm

            bar = tqdm(
                file=sys.stderr,
                leave=False,
                desc=self._counts(),
                bar_format="{desc}",
                dynamic_ncols=True,
                mininterval=0.3,
            )
            self._bar = self._closing.enter_context(bar)
            above = contrib.DummyTqdmFile(sys.stderr)
            self._closing.enter_context(contextlib.redirect_stderr(above))
        return self

    def __exit__(self, *unused) -> None:
        self._closing.close()
        self._bar = None

    def begin(self, file: int, seconds: float | None) -> None:
        """Notes that a recording is opened, and what length its header promises."""
        self._open[file] = (0.0, seconds)
        if seconds is not None:
            self._known, self._seconds = self._known + 1, self._seconds + seconds

    def advance(self, file: int, seconds: float) -> None:
        """Notes that a recording is transcribed up to a time."""
        done, length = self._open[file]
        self._open[file] = (seconds, length)
        self._add(seconds - done)

    def finish(self, file: int) -> None:
        """Notes the end of a recording, whatever its header had promised."""
        done, length = self._open.pop(file)
        self._finished += 1
        self._known += length is None
        self._seconds += done - (length or 0.0)
        self._add(0.0)

    def _add(self, seconds: float) -> None:
        self._done += seconds
        now = time.monotonic()
        if self._bar is not None:
            self._draw(now - self._start)
        elif not self._quiet and now - self._told >= _LOG_INTERVAL:
            self._told = now
            say(f"mt3: {self._counts()}, {self._speed(now - self._start)}")

    def _draw(self, elapsed: float) -> None:
        bar, total = self._bar, self._total()
        bar.total = total
        bar.bar_format = "{desc} |{bar}| left {remaining}, {postfix}"
        if total is None:
            bar.bar_format = "{desc}, {postfix}"
        bar.set_description_str(self._counts(), refresh=False)
        bar.set_postfix_str(self._speed(elapsed), refresh=False)
        bar.update(self._done - bar.n)

    def _total(self) -> float | None:
        if not self._known:
            return None
        # Headers may promise less than there is.
        return max(self._done, self._seconds / self._known * self._files)

    def _counts(self) -> str:
        files = f"{self._finished}/{self._files} files" if self._files > 1 else "audio"
        total = self._total()
        return f"{files}, {self._done:.1f}{'' if total is None else f'/{total:.1f}'} s"

    def _speed(self, elapsed: float) -> str:
        return f"{self._done / max(elapsed, 1e-3):.2f} x real time"

    def say(self, line: str, *, always: bool = False) -> None:
        """Prints a message, unless only those that are `always` said are wanted."""
        if always or not self._quiet:
            say(line)
