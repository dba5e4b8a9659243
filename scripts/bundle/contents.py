"""What is in an unpacked bundle, and the gin files it runs."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mt3.engine import gin_utils
from mt3.errors import ConfigError, DataError

FORMAT = 1
FILE = "bundle.json"
_INCLUDE = re.compile(r"""^\s*include\s+["'](.+?)["']""", re.MULTILINE)
_MACRO = re.compile(r"%(?:gin\.)?(\w+)")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What `bundle.json` says; paths are relative to its folder.

    Attributes:
      python: the version that the wheels are for, such as '3.12'.
      gin_file: what is trained.
      bindings: NAME=VALUE, for every piece.
      soundfonts: of the corpus.
      exact_soundfonts: of real samples, see `mt3.synthesis.corpus.CorpusConfig`.
      songs: notes of MIDI files; None for random notes alone.
      initial_weights: parameters to begin with, or None.
      wheels: packages that the machine may lack.
    """

    python: str
    gin_file: str
    bindings: tuple[str, ...] = ()
    soundfonts: tuple[str, ...] = ()
    exact_soundfonts: tuple[str, ...] = ()
    songs: str | None = None
    initial_weights: str | None = None
    wheels: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Writes `bundle.json`."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Contents:
        """Reads `bundle.json`, and makes sure that what it lists is there.

        Raises:
          DataError: it is missing or damaged, or files are missing.
        """
        path = folder / FILE
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = stored.pop("format")
            for name in ("bindings", "soundfonts", "exact_soundfonts", "wheels"):
                stored[name] = tuple(stored[name])
            contents = cls(**stored)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read as a bundle's list ({error}); expected the "
                "folder that an archive of make_bundle unpacks to"
            ) from error
        if found != FORMAT:
            raise DataError(f"{path}: has format {found}; expected {FORMAT}")
        optional = (contents.songs, contents.initial_weights)
        for name in (
            *contents.soundfonts,
            *contents.exact_soundfonts,
            *contents.wheels,
            *(name for name in optional if name),
        ):
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder / name}: missing, though {FILE} lists it; unpack the "
                    "bundle again"
                )
        return contents


def install_wheels(folder: Path, wheels: Sequence[str], target: Path) -> None:
    """Unpacks wheels into a folder for the search path; needs neither pip nor network.

    Raises:
      DataError: a wheel is damaged.
    """
    for name in wheels:
        try:
            with zipfile.ZipFile(folder / name) as archive:
                archive.extractall(target)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{folder / name}: is not a wheel: {error}") from error


def check_python(wanted: str) -> None:
    """Raises ConfigError where the wheels are for another Python."""
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found != wanted:
        raise ConfigError(
            f"this Python is {found}; the bundle's wheels are for {wanted}: run it "
            f"with python{wanted}, or make the bundle with --python {found}"
        )


def used_macros(name: str, folder: Path) -> set[str]:
    """Returns the macros that a gin file and what it includes refer to.

    Args:
      name: of the file, in `folder` or among those that come with `mt3`.
      folder: the bundle.

    Raises:
      ConfigError: a file is missing.
    """
    path = folder / name
    if not path.is_file():
        path = gin_utils.find(name)
    text = path.read_text(encoding="utf-8")
    found = set(_MACRO.findall(text))
    for included in _INCLUDE.findall(text):
        found |= used_macros(included, folder)
    return found
