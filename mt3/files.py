"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mt3 import errors


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name only when the block succeeds.

    The bytes go to a temporary file in the same folder, which then replaces
    whatever bore the name. On an error it is removed and the old file stays.
    Missing folders are made.

    Args:
      path: of the finished file.

    Yields:
      A binary file to write and seek in.

    Raises:
      OutputError: the operating system refuses; path and reason are named.
    """
    path = Path(path)
    # A short name of its own: the final one may already be as long as is allowed.
    temporary = path.parent / f".mt3-{secrets.token_hex(8)}.tmp"
    try:
        if path.is_dir():
            raise IsADirectoryError("a folder of that name is in the way")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.OutputError(f"{path}: cannot write: {reason}") from error
    finally:
        # Gone already after success; may never have been made after a failure.
        with contextlib.suppress(OSError):
            temporary.unlink()
