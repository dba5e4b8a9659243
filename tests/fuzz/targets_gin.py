"""Gin files, as `mt3 train --gin_file` reads them, up to the run itself."""

from __future__ import annotations

import logging
import pathlib
import re
from unittest import mock

from tests.fuzz.target import Target

_BINDINGS = ("--gin.MODEL_DIR='run'",)
_INCLUDE = re.compile(r"^include '(?:gin/)?(.*)'$", re.MULTILINE)


def _seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    """The smallest run, in one file: what is included takes the place of its line."""
    # What some settings import prints when it is imported first.
    import tensorflow  # noqa: F401

    from mt3.engine import gin_utils

    def whole(name: str) -> str:
        text = gin_utils.find(name).read_text(encoding="utf-8")
        text = re.sub(r"^#.*\n|^\n", "", text, flags=re.MULTILINE)
        return _INCLUDE.sub(lambda match: whole(match[1]), text)

    text = whole("synthetic_tiny.gin")
    # Gin reads all imports first, and wants no second line that registers.
    registers = "from __gin__ import dynamic_registration\n"
    path = folder / "run.gin"
    path.write_text(registers + text.replace(registers, ""), encoding="utf-8")
    short = folder / "short.gin"
    short.write_text(
        "include 'gin/synthetic_tiny.gin'\nBATCH_SIZE = 4\n", encoding="utf-8"
    )
    return [path, short]


def _instead_of_training(mode, arguments):
    return arguments


def _read(path: pathlib.Path) -> None:
    """Parses a file and makes all that it binds."""
    from mt3.engine import launch

    # Warnings of names that nothing uses are right.
    logging.disable(logging.WARNING)
    try:
        with mock.patch.object(launch, "_start", _instead_of_training):
            arguments = launch.run([f"--gin_file={path}", *_BINDINGS])
    finally:
        logging.disable(logging.NOTSET)
    assert "model" in arguments
    assert "model_dir" in arguments


TARGETS = (Target("gin", _seeds, _read),)
