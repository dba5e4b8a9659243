"""One stream of bytes as several small files, each with its checksum."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mt3.errors import CheckpointError

# Below 16 MB, decimal or binary.
PART_BYTES = 15_000_000
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of a set.

    Attributes:
      name: within the folder.
      size: in bytes.
      sha256: of its content, hexadecimal.
    """

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Part:
        """Describes a file that is there."""
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path.name, path.stat().st_size, digest)

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold."""
        return dataclasses.asdict(self)

    def check(self, folder: Path) -> None:
        """Compares a file with its description.

        Raises:
          CheckpointError: it is missing, cut short or changed.
        """
        path = folder / self.name
        if not path.is_file():
            raise CheckpointError(
                f"{path}: missing; expected a file of {self.size} bytes, one of the "
                "set that is listed beside it"
            )
        found = Part.of(path)
        if found.size != self.size:
            raise CheckpointError(
                f"{path}: has {found.size} bytes, expected {self.size}; copy it again"
            )
        if found.sha256 != self.sha256:
            raise CheckpointError(
                f"{path}: damaged: its SHA-256 begins with {found.sha256[:12]}, "
                f"expected {self.sha256[:12]}; copy it again"
            )


class PartWriter:
    """A stream that is cut into files `<stem>.part1`, `<stem>.part2`, ..."""

    def __init__(self, folder: Path, stem: str, part_bytes: int = PART_BYTES):
        self._folder = folder
        self._stem = stem
        self._part_bytes = part_bytes
        self._stream: io.BufferedWriter | None = None
        self._room = 0
        self._paths: list[Path] = []

    def write(self, data: bytes) -> int:
        """Writes bytes, beginning a new file where one is full."""
        view = memoryview(data)
        while view:
            if not self._room:
                self._next_file()
            piece, view = view[: self._room], view[self._room :]
            self._stream.write(piece)
            self._room -= len(piece)
        return len(data)

    def close(self) -> list[Part]:
        """Closes the last file and describes all of them."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        return [Part.of(path) for path in self._paths]

    def _next_file(self) -> None:
        if self._stream is not None:
            self._stream.close()
        path = self._folder / f"{self._stem}.part{len(self._paths) + 1}"
        self._paths.append(path)
        self._stream = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._room = self._part_bytes


class PartReader(io.RawIOBase):
    """The stream that a set of files was cut from; check the files before."""

    def __init__(self, folder: Path, parts: Sequence[Part]):
        self._paths = [folder / part.name for part in parts]
        self._stream: io.BufferedReader | None = None

    def readable(self) -> bool:
        """Tells that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads the next bytes; 0 at the end of the last file."""
        while True:
            if self._stream is None:
                if not self._paths:
                    return 0
                self._stream = open(self._paths.pop(0), "rb")  # noqa: SIM115
            count = self._stream.readinto(memoryview(buffer)[:_BLOCK])
            if count:
                return count
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Closes the file that is open."""
        if self._stream is not None:
            self._stream.close()
        super().close()


def move(source: Path, target: Path) -> None:
    """Moves a file, on one disk or across two; the target is whole or not there."""
    try:
        os.replace(source, target)
    except OSError:
        partial = target.with_name(f"{target.name}.partial")
        partial.write_bytes(source.read_bytes())
        os.replace(partial, target)
        source.unlink()
