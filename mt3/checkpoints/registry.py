"""The models that come with the package, and what a model's name means.

Standard library only, through `safetensors_file.read_header`, so that listing models
is instant.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from mt3 import files
from mt3.checkpoints import released, storage
from mt3.checkpoints.safetensors_file import read_header
from mt3.errors import CheckpointError, near_misses
from mt3.files import file_sha256

logger = logging.getLogger(__name__)

PRETRAINED_FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
DEFAULT = "default"
RELEASED = tuple(released.RELEASED)


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model that can be used by name.

    Attributes:
      name: the file's name without its ending.
      path: the file.
      description: one line.
      licence: of the weights.
      size: bytes of the file.
      num_parameters: how many numbers it holds.
      sha256: of the file.
      is_default: whether `default` means it.
      info: all of the file's provenance.
    """

    name: str
    path: Path
    description: str
    licence: str
    size: int
    num_parameters: int
    sha256: str
    is_default: bool
    info: dict[str, Any]


def available(folder: str | Path | None = None) -> list[ModelEntry]:
    """Returns the models in the package, the default first, then by name.

    Args:
      folder: where to look instead of `mt3/pretrained`.

    Returns:
      Entries; a file that cannot be read is left out, with a warning.
    """
    entries = []
    for path in _files(folder):
        try:
            header = read_header(path)
            digest = file_sha256(path)
        except (CheckpointError, OSError) as error:
            logger.warning("left out: %s", error)
            continue
        entries.append(
            ModelEntry(
                name=path.stem,
                path=path,
                description=str(header.info.get("description", "")),
                licence=str(header.info.get("licence", "")),
                size=path.stat().st_size,
                num_parameters=header.num_parameters,
                sha256=digest,
                is_default=False,
                info=header.info,
            )
        )
    default = _default_name([(e.name, e.info) for e in entries])
    entries = [dataclasses.replace(e, is_default=e.name == default) for e in entries]
    return sorted(entries, key=lambda e: (not e.is_default, e.name))


def _files(folder: str | Path | None) -> list[Path]:
    folder = PRETRAINED_FOLDER if folder is None else Path(folder)
    return sorted(folder.glob("*.safetensors")) if folder.is_dir() else []


def _default_name(models: list[tuple[str, dict[str, Any]]]) -> str | None:
    """Returns the name that `default` means: marked so, called so, or the only one."""
    marked = [name for name, info in models if info.get("default") is True]
    called = [name for name, _ in models if name == DEFAULT]
    names = marked or called or [name for name, _ in models]
    return names[0] if len(names) == 1 else None


def resolve(name_or_path: str | Path, *, folder: str | Path | None = None) -> str:
    """Returns the path or URL that a model's name or path means.

    A name in the package comes before a file or folder of that name (`./name` means
    the latter). The name of a released checkpoint means a copy of it, a folder of that
    name in the current one. Nothing is downloaded.

    Args:
      name_or_path: 'default', a name that `available` lists, a path, or a URL.
      folder: where the package's models are, instead of `mt3/pretrained`.

    Returns:
      What `load` takes; a local path is absolute.

    Raises:
      CheckpointError: there is no such model.
    """
    text = str(name_or_path)
    if storage.is_url(text):
        return text
    named = {path.stem: path for path in _files(folder)}
    if text in named:
        return str(named[text])
    if text == DEFAULT:
        return str(named[_resolve_default(named)])
    # In this project's own source tree `mt3` is a folder of another kind.
    if text in RELEASED and not _holds_checkpoint(Path(text)):
        raise CheckpointError(
            f"model {text!r}: one of Magenta's released checkpoints, which are not in "
            "this package, nor in a folder of that name here. "
            + released.how_to_copy(f"{released.ROOT}/{text}")
        )
    # Path's own functions raise errors for some names that can't be.
    path = Path(os.path.expanduser(text))
    if text and files.exists(path, CheckpointError):
        return str(path.absolute())
    if len(path.parts) > 1 or path.suffix:
        hint = ""
        if path.name in RELEASED:
            hint = ". " + released.how_to_copy(f"{released.ROOT}/{path.name}")
        raise CheckpointError(f"model {text!r}: no such file or folder{hint}")
    known = [DEFAULT, *named, *RELEASED]
    raise CheckpointError(
        f"model {text!r}: no such name, file or folder.{near_misses(text, known)}"
    )


def _holds_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint, or a copy of one that was cut."""
    marks = ("checkpoint", "checkpoint_*", "target.*")
    return any(next(folder.glob(mark), None) for mark in marks)


def _resolve_default(files: dict[str, Path]) -> str:
    """Returns the name of the default model; CheckpointError if there is none."""
    if not files:
        raise CheckpointError(
            "model 'default': this installation has no weights in "
            f"{PRETRAINED_FOLDER}; give the path of a model"
        )
    # With one file there is nothing to read, however damaged it is: `load` will say.
    headers = [
        (name, read_header(path).info if len(files) > 1 else {})
        for name, path in files.items()
    ]
    name = _default_name(headers)
    if name is None:
        raise CheckpointError(
            f"model 'default': none of {', '.join(sorted(files))} is marked as the "
            "default; give a name"
        )
    return name
