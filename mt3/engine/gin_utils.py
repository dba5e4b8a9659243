"""Gin configuration at the edge: finding files, parsing, saving.

`parse_gin_flags` turns gin's errors into `ConfigError`s that name the file or the
setting. Nothing in the library carries a gin decorator: the files register what
they bind (`from __gin__ import dynamic_registration`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import mt3
from mt3 import files
from mt3.errors import ConfigError, did_you_mean, near_misses

_LOG = logging.getLogger("mt3")


def search_paths() -> list[Path]:
    """Returns the folders of the gin files that come with `mt3`.

    In the first one `train.gin` is found, in the second one `gin/train.gin`. `mt3/gin`
    is a folder of the wheel; in a checkout it is a link to `gin/` beside the package,
    which stands in for it where the link was not made.
    """
    package = Path(mt3.__file__).parent
    for folder in (package / "gin", package.parent / "gin"):
        if folder.is_dir():
            return [folder, folder.parent]
    return []


def find(name: str, folders: Sequence[str | Path] = ()) -> Path:
    """Returns the path of a gin file.

    Args:
      name: a path, absolute or relative to the current folder, to one of
        `folders`, or to the files that come with `mt3` (with or without `gin/`).
      folders: looked up before the files of `mt3`.

    Raises:
      ConfigError: no such file; the message has those that look alike.
    """
    known = search_paths()
    candidates = [Path(name).expanduser()]
    if not candidates[0].is_absolute():
        candidates += [Path(folder) / name for folder in (*folders, *known)]
    for path in candidates:
        if path.is_file():
            return path
    names = {
        str(path.relative_to(known[0]))
        for folder in known[:1]
        for path in folder.rglob("*.gin")
    }
    looked = ", ".join(str(folder) for folder in (Path.cwd(), *folders, *known))
    wanted = name.removeprefix("gin/")
    raise ConfigError(
        f"{name}: no such gin file (looked in {looked}).{near_misses(wanted, names)}"
    )


def parse_gin_flags(
    gin_search_paths: Sequence[str],
    gin_files: Sequence[str],
    gin_bindings: Sequence[str],
    skip_unknown: bool | Sequence[str] = False,
    finalize_config: bool = True,
) -> None:
    """Parses gin files and then bindings, which override them.

    Args:
      gin_search_paths: folders in which relative paths are looked up, first.
      gin_files: files, looked up in the current folder, in `gin_search_paths`
        and among the files of `mt3`; later ones override earlier ones.
      gin_bindings: 'name.parameter = value' lines.
      skip_unknown: names that need not exist.
      finalize_config: forbid changes from then on.

    Raises:
      ConfigError: a file is missing, a name unknown, a value not Python, a macro of
        `gin_bindings` used nowhere.
    """
    folders = [*gin_search_paths, *search_paths()]
    for folder in folders:
        _add_search_path(str(folder))
    paths = [find(name, gin_search_paths) for name in gin_files]
    try:
        with _places_unlogged():
            gin.parse_config_files_and_bindings(
                [str(path) for path in paths],
                None,
                skip_unknown=skip_unknown,
                finalize_config=False,
            )
        _check_macros(gin_bindings)
        for binding in gin_bindings:
            _parse_binding(binding, skip_unknown)
        if finalize_config:
            gin.finalize()
    except tokenize.TokenError as error:
        raise ConfigError(
            f"gin: {error.args[0]} in one of {[*map(str, paths)]}"
        ) from error
    except ConfigError:
        raise
    except _GIN_ERRORS as error:
        raise ConfigError(f"gin: {_first_lines(error)}") from error


def _parse_binding(binding: str, skip_unknown: bool | Sequence[str]) -> None:
    """Parses a binding of the command line, where quotes are easily forgotten.

    Raises:
      ConfigError: its value is no Python.
    """
    try:
        gin.parse_config([binding], skip_unknown=skip_unknown)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        is_unknown_name = type(error) is ValueError and "malformed" not in str(error)
        if is_unknown_name:
            raise
        name, _, value = (part.strip() for part in binding.partition("="))
        text = value.strip("'\"")
        raise ConfigError(
            f"gin: {name} = {value}: the value cannot be read; expected Python. A text "
            f"has quotes inside the quotes of the shell: --gin.{name}=\"'{text}'\""
        ) from error


# Gin appends a folder again each time, and looks there again.
_add_search_path = functools.cache(gin.add_config_file_search_path)


@contextlib.contextmanager
def _places_unlogged() -> Iterator[None]:
    """Keeps gin from logging every place where a file is not; its error says it."""

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Path not found")

    # Of the root logger itself, which is the one that gin uses.
    logger = logging.getLogger()
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _check_macros(gin_bindings: Sequence[str]) -> None:
    """Refuses values for macros that nothing refers to: misspelt, most likely.

    Those that files set may be for other runs: they are warned of. The files of `mt3`,
    and values for their macros, fit several modes.
    """
    parsed = gin.config_str()
    defined = set(re.findall(r"^(\w+) =", parsed, re.MULTILINE))
    used = set(re.findall(r"%(\w+)", "\n".join([parsed, *gin_bindings])))
    known = defined | used
    for binding in gin_bindings:
        name = binding.partition("=")[0].strip()
        if re.fullmatch(r"\w+", name) and name not in known:
            raise ConfigError(
                f"gin: {binding}: no file uses {name}.{near_misses(name, known)}"
            )
    for name in sorted(defined - used):
        if not any(re.search(rf"\b{name}\b", text) for text in _own_files()):
            hint = did_you_mean(name, known - {name})
            _LOG.warning("gin: no file uses %s, which one sets.%s", name, hint)


@functools.cache
def _own_files() -> list[str]:
    """Returns the text of the gin files of `mt3`."""
    paths = [path for folder in search_paths()[:1] for path in folder.rglob("*.gin")]
    return [path.read_text("utf-8") for path in paths]


# What gin raises for a mistake in a file or binding.
_GIN_ERRORS = (
    AttributeError,
    ImportError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def _first_lines(error: Exception) -> str:
    missing = re.match(r"(\w+)/macro\.value set to `%gin\.REQUIRED`", str(error))
    if missing:
        name = missing[1]
        return f"{name} has no value; expected one, e.g. --gin.{name}=\"'a text'\""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


def rewrite_gin_args(args: Sequence[str]) -> list[str]:
    """Rewrites `--gin.NAME=VALUE` to `--gin_bindings=NAME = VALUE`.

    Raises:
      ConfigError: such an argument has no '='.
    """
    rewritten = []
    for arg in args:
        if arg.startswith("--gin."):
            name, equals, value = arg.removeprefix("--gin.").partition("=")
            if not equals:
                raise ConfigError(f"{arg}: expected --gin.NAME=VALUE")
            arg = f"--gin_bindings={name} = {value}"
        rewritten.append(arg)
    return rewritten


def get_gin_config_str(show_provenance: bool = False) -> str:
    """Returns the whole configuration as gin text.

    Args:
      show_provenance: accepted for T5X's files; this version of gin has no such
        comments.
    """
    del show_provenance
    return gin.config_str()


def summarize_gin_config(model_dir: str, summary_writer: Any, step: int) -> None:
    """Saves the configuration as `config.gin` and as a TensorBoard text.

    Args:
      model_dir: the run's folder.
      summary_writer: a `MetricsWriter`, or None.
      step: steps taken so far.
    """
    text = get_gin_config_str()
    files.write_text(Path(model_dir) / "config.gin", text)
    if summary_writer is not None:
        # An indented block is code in Markdown.
        block = "\n".join(f"    {line}" for line in text.splitlines())
        summary_writer.write_text("config", block, step)


def sum_fn(var1: Any, var2: Any) -> Any:
    """Adds two values inside a gin file."""
    return var1 + var2


def bool_fn(var1: Any) -> bool:
    """Turns a value into a truth value inside a gin file."""
    return bool(var1)


def string_split_fn(
    text: str, separator: str, maxsplit: int = -1, index: int | None = None
) -> Any:
    """Splits a text inside a gin file; the part `index`, or all parts."""
    parts = text.split(separator, maxsplit)
    return parts if index is None else parts[index]
