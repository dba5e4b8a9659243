"""Runs T5X gin files on the embedded engine: `mt3 train|eval|infer --gin_file=...`.

T5X's files import modules of `t5x` and bind functions of `__main__`. For its
process this launcher maps the module name `t5x` to `mt3.engine`, and replaces
`__main__` by a module with the engine's functions, before it parses any gin file.
No other code asks which engine runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import inspect
import logging
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mt3 import terminal
from mt3.errors import ConfigError, MT3Error, near_misses

_LOG = logging.getLogger("mt3")

# What the engine offers under T5X's names.
T5X_MODULES = (
    "adafactor",
    "checkpoints",
    "eval",
    "gin_utils",
    "infer",
    "optimizers",
    "partitioning",
    "train",
    "trainer",
    "utils",
)
# Mode -> module and function that T5X's program of that name has.
_MODES = {
    "train": ("train", "train"),
    "eval": ("eval", "evaluate"),
    "infer": ("infer", "infer"),
}
# Function -> a file that binds it.
_EXAMPLES = {
    "train": "synthetic_run.gin",
    "evaluate": "eval.gin",
    "infer": "infer.gin",
}
# Packages of the extra [train] that gin files may import, or import through ours.
_TRAIN_PACKAGES = ("apache_beam", "clu", "mirdata", "note_seq", "seqio", "tensorflow")


def main(argv: Sequence[str] | None = None, mode: str = "train") -> int:
    """Parses arguments and gin files, and runs.

    Args:
      argv: arguments after the command's name; None for the process's.
      mode: `train`, `eval` or `infer`.

    Returns:
      Exit code: 0; 1 after an error, which is printed on standard error.
    """
    if mode not in _MODES:
        raise ConfigError(f"mode {mode!r} is unknown.{near_misses(mode, _MODES)}")
    if not terminal.logs_json():
        logging.basicConfig(
            level=logging.WARNING,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            stream=sys.stderr,
        )
        _LOG.setLevel(logging.INFO)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).addFilter(_is_news)
    # Silences TensorFlow's messages at start-up; its errors are still shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A dependency of note_seq warns about a program that is not used here.
    warnings.filterwarnings("ignore", "Couldn't find ffmpeg", RuntimeWarning)
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        # A resumed run starts without compiling again.
        from mt3 import decoding

        decoding.enable_compilation_cache()
        run(argv, mode)
    except MT3Error as error:
        # Gin appends its own call stack, which does not help the reader.
        message = re.sub(r"\s*In call to configurable '.*", "", str(error))
        kind = type(error).__name__
        terminal.fail(message, program=f"mt3 {mode}", error=kind)
        return 1
    return 0


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log of seqio or Orbax says what nothing else does."""
    # Orbax's threads and tasks log what they raise: the run ends with that message.
    # seqio logs the other for every histogram, sound and picture of an evaluation.
    is_raised = record.exc_info is not None
    return not (is_raised or str(record.msg).startswith("Skipping JSON logging"))


def run(argv: Sequence[str], mode: str = "train"):
    """As `main`, but returns the function's result and raises its errors.

    Raises:
      ConfigError: wrong arguments or configuration.
    """
    from mt3.engine import gin_utils

    options = _parser(mode).parse_args(gin_utils.rewrite_gin_args(argv))
    import gin

    if getattr(options, "init", None) is not None:
        options.gin_bindings.append(f"INITIAL_WEIGHTS = {options.init!r}")
    module_name, function_name = _MODES[mode]
    with engine_as_t5x(module_name, function_name):
        _LOG.info("engine: mt3.engine stands for the module t5x in this process")
        gin.clear_config()
        with _naming_the_extra():
            gin_utils.parse_gin_flags(
                options.gin_search_paths, options.gin_file, options.gin_bindings
            )
        arguments = {}
        if getattr(options, "shard_id", None) is not None:
            arguments["shard_id"] = options.shard_id
        try:
            try:
                with _naming_the_extra():
                    # `_recorder`'s: what the files bind, made, before anything runs.
                    arguments = gin.get_configurable(function_name)(**arguments)
            except (MT3Error, ImportError):
                raise
            except Exception as error:  # whatever made of a wrong value
                raise _wrong_value(function_name, error) from error
            return _start(mode, arguments)
        finally:
            gin.clear_config()


@contextlib.contextmanager
def _naming_the_extra() -> Iterator[None]:
    """Says what to install where a package of the extra [train] is missing."""
    try:
        yield
    except (ConfigError, ImportError) as error:
        missing = re.search(r"No module named '(\w+)", str(error))
        if missing is None or missing[1] not in _TRAIN_PACKAGES:
            raise
        if "[train]" in str(error):
            raise
        raise ConfigError(
            f"gin: the files need the package {missing[1]}, which is not installed; "
            "install mt3-transcription[train]"
        ) from error


def _start(mode: str, arguments: Mapping[str, Any]) -> Any:
    """Calls the mode's function."""
    module, function = _MODES[mode]
    return getattr(importlib.import_module(f"mt3.engine.{module}"), function)(
        **arguments
    )


def _wrong_value(function_name: str, error: Exception) -> ConfigError:
    """Returns what an error says that came when the files' values were used."""
    text, *calls = str(error).split("In call to configurable ")
    text = " ".join(text.split())
    if "No configurable" in text or "in the Gin registry" in text:
        return _not_bound(function_name, "nothing of it")
    if isinstance(error, TypeError) and "required" in text:
        return _not_bound(function_name, text)
    name = re.match(r"'([^']*)'", calls[0]) if calls else None
    place = f"{name[1]}: " if name else ""
    return ConfigError(f"gin: {place}{type(error).__name__}: {text}")


def _not_bound(function_name: str, found: str) -> ConfigError:
    return ConfigError(
        f"gin: the files do not bind what {function_name!r} needs: {found}; expected "
        f"`import __main__` and bindings of `__main__.{function_name}`, as "
        f"gin/{_EXAMPLES[function_name]} has them"
    )


def _parser(mode: str) -> argparse.ArgumentParser:
    parser = terminal.ArgumentParser(
        prog=f"mt3 {mode}",
        description="Runs T5X gin files on all devices of this machine.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gin_file",
        action="append",
        required=True,
        metavar="FILE",
        help="gin file; may be repeated, later files override earlier ones",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a binding; may be repeated. Also written --gin.NAME=VALUE",
    )
    parser.add_argument(
        "--gin_search_paths",
        type=lambda text: [path for path in text.split(",") if path],
        default=[],
        metavar="DIR,DIR",
        help="folders in which gin files are looked up first",
    )
    parser.add_argument("--log-json", action=terminal.LogJson)
    if mode == "train":
        parser.add_argument(
            "--init",
            metavar="MODEL",
            help="what to begin with: 'default', a file, or a run's folder. Sets the "
            "macro INITIAL_WEIGHTS, as in gin/recordings.gin",
        )
    if mode == "infer":
        parser.add_argument(
            "--shard_id",
            type=int,
            metavar="N",
            help="which of infer.num_shards parts this run does (from 0)",
        )
    return parser


@functools.cache
def _recorder(function: Callable) -> Callable:
    """Returns a function of the same signature that returns its arguments.

    Gin makes the objects that it passes: an error there is one of the files, an error
    of the function itself is not.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def record(**arguments):
        signature.bind(**arguments)  # TypeError: something required is missing
        return arguments

    record.__signature__ = signature
    return record


@contextlib.contextmanager
def engine_as_t5x(
    module_name: str = "train", function_name: str = "train"
) -> Iterator[None]:
    """Maps the names `t5x` and `__main__` for gin files, and puts both back at the end.

    Args:
      module_name: module of `mt3.engine` that stands for T5X's program.
      function_name: its function, which the files bind as `__main__`'s.
    """
    mapped = {"t5x": importlib.import_module("mt3.engine")}
    for name in T5X_MODULES:
        mapped[f"t5x.{name}"] = importlib.import_module(f"mt3.engine.{name}")
    # magenta/mt3's local_tiny.gin binds the sizes of T5X's example network, where
    # those of MT3's are meant.
    mapped["t5x.examples.t5.network"] = importlib.import_module("mt3.network")
    for name in ("t5x.examples.t5", "t5x.examples"):
        mapped[name] = types.ModuleType(name)
    # A module of its own, without a file: worker processes started by `spawn`
    # would otherwise import the whole engine again as their `__main__`.
    script = types.ModuleType("__main__")
    source = importlib.import_module(f"mt3.engine.{module_name}")
    setattr(script, function_name, _recorder(getattr(source, function_name)))
    mapped["__main__"] = script
    previous = {name: sys.modules.get(name) for name in mapped}
    sys.modules.update(mapped)
    try:
        yield
    finally:
        for name, module in previous.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
