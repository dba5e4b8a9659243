"""Files written whole or not at all, locks, and the search for files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mt3 import errors

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

# Errors of a disk, or of a user's share of it, without room.
FULL = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = re.compile(r"\.mt3-[0-9a-f]{16}\.tmp")
# Folders in which this process has looked for what others left.
_tidied: set[str] = set()
# .txt, .midi, .gp5, .m4a; not .v2 or .2024, which folders end with.
_FILE_SUFFIX = re.compile(r"[^/\\]\.([A-Za-z]{2,5}\d?|[A-Za-z]\d[A-Za-z])$")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name only when the block succeeds.

    The bytes go to a temporary file in the same folder, which then replaces
    whatever bore the name. On an error it is removed and the old file stays. Those of
    processes that were killed are removed when another one writes to the folder.
    Missing folders are made.

    Args:
      path: of the finished file.

    Yields:
      A binary file to write and seek in.

    Raises:
      OutputError: the operating system refuses; path and reason are named.
        DiskFullError where there is no room.
    """
    path = Path(path)
    temporary = guard = None
    try:
        if exists(path, errors.OutputError) and path.is_dir():
            raise IsADirectoryError("a folder of that name is in the way")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        with _new_temporary(path.parent) as file:
            temporary = file.name
            # Keeps the lock when the file is closed. Windows has no lock to keep, and
            # renames no file that is open.
            guard = None if fcntl is None else os.dup(file.fileno())
            yield file
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if guard is not None:
            os.close(guard)
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; raises OutputError."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def cannot_write(place: object, error: OSError) -> errors.OutputError:
    """Returns the error that says where writing failed, why, and what to do about it.

    Args:
      place: path, and whatever else the message should begin with.
      error: the operating system's.

    Returns:
      A DiskFullError where there is no room.
    """
    text = f"{place}: cannot write: {error.strerror or error}"
    if error.errno in FULL:
        return errors.DiskFullError(
            f"{text}; make room and run the command again: what is finished stays"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        text += "; name a folder that you may write to"
    return errors.OutputError(text)


def _new_temporary(folder: Path) -> BinaryIO:
    """Opens a new file and locks it."""
    while True:
        # A short name of its own: the final one may already be as long as is allowed.
        file = open(folder / f".mt3-{secrets.token_hex(8)}.tmp", "xb")  # noqa: SIM115
        # Until it was locked, another process may have taken it for abandoned.
        if lock(file) is not False and os.path.exists(file.name):
            return file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Removes temporary files of processes that were killed, once in a process."""
    if fcntl is None or (name := os.path.abspath(folder)) in _tidied:
        return
    _tidied.add(name)
    with contextlib.suppress(OSError):
        left = [entry for entry in os.listdir(name) if _TEMPORARY.fullmatch(entry)]
        for entry in left:
            path = os.path.join(name, entry)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if lock(file):
                    os.unlink(path)


def lock(file: BinaryIO | int) -> bool | None:
    """Locks a file, or a folder, until it is closed; the end of a process closes it.

    Args:
      file: open, or its descriptor.

    Returns:
      Whether it is locked now: False if another process keeps it locked, None where
      nothing can be locked (Windows, some network disks).
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike[str], stage: str) -> Iterator[None]:
    """Keeps other runs from writing to a folder until the block ends.

    Where nothing can be locked, nothing is kept from anything.

    Args:
      folder: made if it is missing.
      stage: who writes, for the message.

    Raises:
      OutputError: another run writes to it, or it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        # Windows opens no folders.
        descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(f"{stage}: {folder}", error) from error
    try:
        if descriptor is not None and lock(descriptor) is False:
            raise errors.OutputError(
                f"{stage}: {folder}: another run is writing to this folder; wait for "
                "its end, or name another folder"
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def why_unwritable(folder: str) -> str | None:
    """Says why no file can be made in a folder, which need not be there yet.

    Args:
      folder: its path; "" for the current one.

    Returns:
      The operating system's reason; None where files can be made.
    """
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def looks_like_file(path: str) -> bool:
    """Says whether a path that should be a folder ends like a file: `song.txt`.

    Not if there is a folder of that name, or the path ends with a separator.
    """
    return bool(_FILE_SUFFIX.search(path)) and not os.path.isdir(path)


def exists(path: str | os.PathLike[str], error: type[errors.MT3Error]) -> bool:
    """Says whether there is a file or a folder.

    Args:
      path: where to look.
      error: class of the error to raise.

    Raises:
      MT3Error: of that class, if it may not be looked at, or cannot be a path.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as problem:  # ValueError: a null character.
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: {reason}") from problem
    return True


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
      files: paths that begin with the folder's, in a fixed order.
      problems: messages about what could not be looked at, each naming its path.
    """

    files: list[str]
    problems: list[str]


def search(folder: str | os.PathLike[str], suffixes: Container[str]) -> Found:
    """Searches a folder and all folders below it for files by their endings.

    Names that begin with a dot are left out: hidden files and folders, and the `._`
    files that macOS puts beside others. Links are followed. A folder is entered once,
    whatever links lead to it, so that links cannot make circles.

    Args:
      folder: where to begin.
      suffixes: endings in lower case, with the dot.

    Returns:
      The files and the problems. A link that leads nowhere counts as a file: whoever
      opens it learns that it is missing.
    """
    found = Found([], [])
    entered: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
            if (identity := (status.st_dev, status.st_ino)) in entered:
                continue
            entered.add(identity)
            with os.scandir(path) as entries:
                by_name = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.problems.append(f"{path}: cannot enter this folder: {error.strerror}")
            continue
        folders = []
        for entry in by_name:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif _is_wanted(entry, suffixes):
                    found.files.append(entry.path)
            except OSError as error:
                found.problems.append(
                    f"{entry.path}: cannot follow this link: {error.strerror}"
                )
        waiting += reversed(folders)
    return found


def _is_wanted(entry: os.DirEntry[str], suffixes: Container[str]) -> bool:
    # Pipes and devices are not searched for: reading one may never end.
    return os.path.splitext(entry.name)[1].lower() in suffixes and (
        entry.is_file() or not os.path.exists(entry.path)
    )
