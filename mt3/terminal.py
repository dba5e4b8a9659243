"""What people read: messages, progress, results; how a program and its workers end.

Messages and progress go to standard error, results to standard output. Any name of a
file can be printed, whatever the terminal's encoding: what it cannot show is escaped.

A result that standard output does not take (a full disk, a pipe that its reader
closed) ends the program with a message and the exit code 1. Messages that standard
error does not take do not stop the work, except where its reader closed the pipe.

With `--log-json` (`log_as_json`) standard error gets one JSON object a line instead:
messages, progress, what Python's `logging` has of this package from DEBUG on and of
others from WARNING on, warnings, and how the program ended. `time` (ISO 8601, UTC),
`level`, `logger` and `message` are always there; other fields as they apply, `error`
being the class of an error.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import datetime
import functools
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TextIO

from mt3.errors import MT3Error, OutputError, StreamError, did_you_mean

# All but line feed and tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Seconds from one line of progress to the next, where there is no terminal.
_LOG_INTERVAL = 10.0
# The attributes that every record of `logging` has; the others are fields.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
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


def to_json(record: Any, *, ensure_ascii: bool = True, indent: int | None = 2) -> str:
    """Returns strict JSON of a record in which names of files may be no text.

    Args:
      record: JSON values.
      ensure_ascii: escape what is not ASCII, so that any terminal can show it.
      indent: of nested values; None for one line.
    """

    def text(value: Any) -> Any:
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, Mapping):
            return {text(key): text(item) for key, item in value.items()}
        return [text(v) for v in value] if isinstance(value, list | tuple) else value

    return json.dumps(
        text(record), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False
    )


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of a record of `logging`, with its extra attributes.

    For programs that use this package, too: `handler.setFormatter(JsonFormatter())`.
    Numbers that are not finite become null, and what JSON does not know becomes text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without a line feed."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        try:
            message = record.getMessage()
        except Exception:  # A library's arguments do not fit its text.
            message = f"{record.msg} {record.args}"
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = type(error).__name__
            line["traceback"] = "".join(traceback.format_exception(error))
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        # In this order, and whatever a library calls its fields.
        return to_json({**line, **_json_value(extra), **line}, indent=None)


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    try:  # A number of NumPy or JAX, perhaps.
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float):
            return number if math.isfinite(number) else None
        return number if isinstance(number, int) else str(value)
    except (TypeError, ValueError):
        return str(value)


class _JsonLines(logging.Handler):
    """Writes records to standard error, as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        # A library that logs must not fail because nobody reads it.
        with contextlib.suppress(StreamError):
            self.write(record)

    def write(self, record: logging.LogRecord) -> None:
        """As `emit`; raises StreamError where the reader of standard error has gone."""
        line = self.format(record)
        with self.lock, _saying():
            print(line, file=sys.stderr, flush=True)


# While a program logs as JSON: the handler, and what undoes it.
_json_lines: _JsonLines | None = None
_undo = contextlib.ExitStack()


def log_as_json() -> None:
    """Makes standard error a log of JSON lines, until `run_program` ends.

    For programs: it adds a handler to the root logger.
    """
    global _json_lines
    if _json_lines is not None:
        return
    _json_lines = _JsonLines()
    _json_lines.setFormatter(JsonFormatter())
    root, own = logging.getLogger(), logging.getLogger("mt3")
    _undo.callback(own.setLevel, own.level)
    own.setLevel(logging.DEBUG)
    root.addHandler(_json_lines)
    _undo.callback(root.removeHandler, _json_lines)
    logging.captureWarnings(True)
    _undo.callback(logging.captureWarnings, False)


def logs_json() -> bool:
    """Says whether standard error is a log of JSON lines."""
    return _json_lines is not None


def only_warnings() -> None:
    """Leaves out of the log what is neither a warning nor an error (`--quiet`)."""
    if _json_lines is not None:
        _json_lines.setLevel(logging.WARNING)


def _log_as_text() -> None:
    """Undoes `log_as_json`."""
    global _json_lines
    _undo.close()
    _json_lines = None


class LogJson(argparse.Action):
    """The option `--log-json`."""

    def __init__(self, option_strings, dest):
        text = "standard error as JSON: one object a line, in place of messages"
        super().__init__(option_strings, dest, nargs=0, default=False, help=text)

    def __call__(self, parser, namespace, values, option_string=None):
        """Begins the log at once: what follows may be wrong."""
        log_as_json()
        setattr(namespace, self.dest, True)


def _shown(text: str) -> str:
    """Returns text that does not steer the terminal, as names of files might."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", printable(text))


def say(line: str, **fields: Any) -> None:
    """Prints a message on standard error, above the progress bar if there is one.

    Args:
      line: the message.
      **fields: what of it a log of JSON has apart, such as `file` and `seconds`.

    Raises:
      StreamError: the reader of standard error closed it.
    """
    _say(logging.INFO, line, line.removeprefix("mt3: "), fields)


def warn(message: str, *, program: str = "mt3", **fields: Any) -> None:
    """Prints a warning on standard error; as `say`."""
    _say(logging.WARNING, f"{program}: warning: {message}", message, fields)


def fail(problem: Exception | str, *, program: str = "mt3", **fields: Any) -> None:
    """Prints an error on standard error; as `say`."""
    if isinstance(problem, Exception):
        fields["error"] = type(problem).__name__
    _say(logging.ERROR, f"{program}: error: {problem}", str(problem), fields)


def defect(error: Exception) -> None:
    """Prints the traceback of an error that is no fault of the user's."""
    trace = "".join(traceback.format_exception(error))
    if _json_lines is None:
        say(trace.rstrip("\n"))
    else:
        fail(error, traceback=trace)


def _say(level: int, line: str, message: str, fields: Mapping[str, Any]) -> None:
    """Prints a line; in a log of JSON a message with its fields."""
    if _json_lines is None:
        with _saying():
            print(_shown(line), file=sys.stderr, flush=True)
    elif level >= _json_lines.level:
        levels = {"levelno": level, "levelname": logging.getLevelName(level)}
        record = {"name": "mt3", "msg": message, **levels, **fields}
        _json_lines.write(logging.makeLogRecord(record))


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
        return _end(functools.partial(fail, error, program=name), FAILED)
    except KeyboardInterrupt:
        if signal.SIGTERM in ended_by:
            text = f"{name}: told to end (SIGTERM); what was finished stays"
            return _end(functools.partial(say, text), TERMINATED)
        text = f"{name}: interrupted; what was finished stays"
        return _end(functools.partial(say, text), INTERRUPTED)
    except OSError as error:
        reason = error.strerror or str(error)
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        kind = {"program": name, "error": type(error).__name__}
        return _end(functools.partial(fail, f"{where}{reason}", **kind), FAILED)
    except Exception as error:
        if _json_lines is None:
            raise
        # Python would print the traceback beside the log.
        return _end(functools.partial(defect, error), FAILED)
    finally:
        _log_as_text()


@contextlib.contextmanager
def _interrupts_arrive(received: list[int]) -> Iterator[None]:
    """Makes every Ctrl-C and SIGTERM end the block, and none end in a crash.

    An exception in the midst of an import can break modules written in C++ (those of
    JAX crash), and one in a callback of C code (libsndfile's, the garbage collector's)
    is ignored. So the former waits for the import's end. The latter is raised again, or
    takes the place of the error that the broken callback leads to.

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
    except Exception:
        if waiting:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in ours:
            signal.signal(number, usual[number])
        sys.unraisablehook = hook
        for timer in waiting:
            timer.cancel()


def end_with_parent() -> None:
    """Ends this worker process with the process that started it, and not before.

    When that one is killed, a worker would else wait for work for ever, or write beside
    the next run. Ctrl-C in a terminal reaches both: what it means is for that one to
    decide, which may still need the worker.
    """
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def worker_processes(
    count: int, start: Callable[[], None] = end_with_parent
) -> Iterator[Any]:
    """Starts processes that work until the block ends.

    An interruption ends them at once: to finish what they have at hand would take long.

    Args:
      count: how many.
      start: called in each before anything else; calls `end_with_parent`.

    Yields:
      A `concurrent.futures.ProcessPoolExecutor`.

    Raises:
      OutputError: one of them was killed.
    """
    import multiprocessing
    from concurrent.futures import process

    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = process.ProcessPoolExecutor(count, context, initializer=start)
    try:
        yield pool
    except process.BrokenProcessPool as error:
        raise OutputError(
            "a worker process was killed, for want of memory perhaps; run the command "
            "again, with fewer workers: what is finished stays"
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end(tell: Callable[[], None], code: int) -> int:
    with contextlib.suppress(StreamError):
        tell()
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
        hint = ""
        if choice:
            hint = did_you_mean(choice[1], re.findall(r"[^\s,']+", choice[2]))
        elif unknown:
            hint = did_you_mean(unknown[1], self._known_options())
        fail(f"{message}.{hint}" if hint else message, program=self.prog)
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


class Progress:
    """Files and seconds of audio done, speed and time left, on standard error.

    On a terminal a bar, above which everything else is printed that goes to
    `sys.stderr`; elsewhere (a log file, or one of JSON) a line now and then.

    Recordings are told of as they are opened. Those that are still to come are taken to
    be as long as the others, so a single one has its own length.

    Args:
      files: how many there are in all.
      quiet: tell nothing.
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
        if not self._quiet and not logs_json() and sys.stderr.isatty():
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
            elapsed = now - self._start
            say(
                f"mt3: {self._counts()}, {self._speed(elapsed)}",
                stage="progress",
                finished=self._finished,
                files=self._files,
                seconds=round(self._done, 3),
                elapsed=round(elapsed, 3),
            )

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

    def say(self, line: str, **fields: Any) -> None:
        """Prints a message, as the function `say`, unless none are wanted."""
        if not self._quiet:
            say(line, **fields)
