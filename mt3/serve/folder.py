"""The folder of recordings, and of results on their way out; others can't read it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import BinaryIO

from mt3 import files

_PREFIX, _LOCK = "mt3-serve-", "lock"


def private_folder() -> tuple[pathlib.Path, BinaryIO]:
    """Makes a folder that only this user can read.

    Folders of servers that were killed are deleted: nobody holds their lock.

    Returns:
      The folder, and its lock, an open file.
    """
    for old in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (old / _LOCK).open("rb") as lock:
            if files.lock(lock):
                shutil.rmtree(old, ignore_errors=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = private_file(folder / f"{_LOCK}.new")
    # Others look for the lock only under its name, which it gets when it is locked.
    if files.lock(lock):
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
    return folder, lock


def private_file(path: pathlib.Path) -> BinaryIO:
    """Opens a new file that only this user can read, for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
