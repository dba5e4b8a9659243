"""Finds the gin files that come with `mt3`.

In an installed wheel they are data of the package `mt3.gin`; in a checkout they
are the folder `gin/` beside the package.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from mt3.errors import ConfigError, near_misses


def search_paths() -> list[Path]:
    """Returns the folders that relative gin paths are looked up in.

    The first level finds `train.gin`, the second one `gin/train.gin`.
    """
    package = Path(str(importlib.resources.files("mt3")))
    for folder in (package / "gin", package.parent / "gin"):
        if folder.is_dir() and any(folder.glob("*.gin")):
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
