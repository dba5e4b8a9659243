"""What an archive is to the rest of `mt3 prepare`: lists of songs, made one by one."""

from __future__ import annotations

import abc
import csv
import dataclasses
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3.errors import ConfigError, DataError

DEFAULT_SAMPLE_RATE = 16000
DEFAULT_MAX_MISMATCH = 10.0


@dataclasses.dataclass(frozen=True)
class Item:
    """A song of an archive, not yet read.

    Attributes:
      id: unique in its split.
      files: everything that it is made from.
      data: what its archive needs to know of it besides.
    """

    id: str
    files: tuple[Path, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A song, or a part of one, that does not become a record.

    Attributes:
      id: of the song.
      reason: why, with the file.
      is_error: false where the data set's own rules leave it out.
      split: of the song, None where it has none.
      files: the state of the song's files, to notice when they change.
    """

    id: str
    reason: str
    is_error: bool = True
    split: str | None = None
    files: tuple[tuple[str, int, int], ...] = ()


class LeftOut(Exception):
    """Raised for a song that the data set's own rules leave out."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of one record.

    Attributes:
      id: its name in messages.
      features: by name; bytes, text, a number, or a sequence of these.
      seconds: of audio.
      num_notes: in all its sequences.
      remarks: what was left out of it.
    """

    id: str
    features: Mapping[str, Any]
    seconds: float
    num_notes: int
    remarks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Listing:
    """All songs of an archive.

    Attributes:
      splits: the songs of each split, in the order in which they are written.
      problems: what was found to be wrong without reading a song.
    """

    splits: Mapping[str, Sequence[Item]]
    problems: tuple[Problem, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that every data set has.

    Attributes:
      sample_rate: Hz of the audio in the records; 0 keeps each recording's own.
      max_mismatch: seconds by which the lengths of a recording and of its notes may
        differ. None stands for 10 s, and then notes of the public archives may end
        any time before the audio does, since their songs may end in silence.
      seed: of everything that is drawn.
    """

    sample_rate: int = DEFAULT_SAMPLE_RATE
    max_mismatch: float | None = None
    seed: int = 0

    def validate(self) -> None:
        """Raises ConfigError on a number that makes no sense."""
        if self.sample_rate < 0:
            raise ConfigError(
                f"prepare: sample rate {self.sample_rate} Hz; expected a positive "
                "one, or 0 for each recording's own"
            )
        if self.max_mismatch is not None and not self.max_mismatch > 0:
            raise ConfigError(
                f"prepare: max mismatch {self.max_mismatch} s; expected more than 0"
            )
        if self.seed < 0:
            raise ConfigError(f"prepare: seed {self.seed}; expected 0 or more")


class Archive(abc.ABC):
    """The unpacked archive of one data set.

    An archive goes to other processes, so it holds nothing but paths and settings.

    Attributes:
      dataset: name of the data set in `mt3.datasets`.
      settings: see `Settings`.
    """

    dataset: str
    settings: Settings

    def options(self) -> dict[str, Any]:
        """Returns every setting on which the content of the records depends."""
        return {}

    @abc.abstractmethod
    def listing(self) -> Listing:
        """Finds the songs.

        Raises:
          DataError: the folder is not this archive; says what was looked for.
        """

    @abc.abstractmethod
    def records(self, item: Item) -> Iterator[Record]:
        """Reads a song.

        Yields:
          Its records: most data sets make one of a song.

        Raises:
          MT3Error: it cannot be read or used.
          LeftOut: the data set's rules leave it out.
        """


def check_lengths(
    name: str,
    *,
    seconds: float,
    last_offset: float,
    settings: Settings,
    both_ways: bool = False,
) -> None:
    """Compares a recording's length with that of its notes.

    Args:
      name: what to call the song in the message.
      seconds: length of the audio.
      last_offset: end of the last note, in seconds.
      settings: with `max_mismatch`.
      both_ways: also without `max_mismatch`, audio without notes at its end counts.

    Raises:
      DataError: the lengths differ by more than is allowed.
    """
    limit = settings.max_mismatch
    both_ways = both_ways or limit is not None
    limit = DEFAULT_MAX_MISMATCH if limit is None else limit
    late = last_offset - seconds
    if late > limit or (both_ways and -late > limit):
        raise DataError(
            f"{name}: the audio lasts {seconds:.2f} s, its notes {last_offset:.2f} s; "
            f"expected a difference of at most {limit:g} s (--max-mismatch)"
        )


def without_duplicates(
    split: str, items: Iterable[Item]
) -> tuple[list[Item], list[Problem]]:
    """Keeps the first song of each id, and reports the others."""
    kept: dict[str, Item] = {}
    problems = []
    for item in items:
        if item.id in kept:
            first = kept[item.id].files
            reason = f"{_names(item.files)}: has the id of {_names(first)}"
            problems.append(Problem(item.id, reason, split=split))
        else:
            kept[item.id] = item
    return list(kept.values()), problems


def find_root(
    source: str | os.PathLike[str], patterns: Sequence[str], what: str
) -> Path:
    """Finds the folder of an archive: the one given, or one up to two levels below.

    Archives unpack to a folder of their own, in which their user may not look.

    Args:
      source: the folder given.
      patterns: globs; a folder in which each of them finds something is the one.
      what: the archive, for the message.

    Raises:
      DataError: no such folder, or none that fits, or several that do.
    """
    source = Path(source)
    if not source.is_dir():
        found = "a file" if source.exists() else "nothing there"
        raise DataError(f"{source}: expected the folder of {what}, found {found}")
    for depth in ("", "*", "*/*"):
        folders = [source] if not depth else sorted(source.glob(depth))
        fits = [
            folder
            for folder in folders
            if folder.is_dir() and all(any(folder.glob(p)) for p in patterns)
        ]
        if len(fits) > 1:
            names = ", ".join(str(folder) for folder in fits)
            raise DataError(f"{source}: holds {what} several times; name one: {names}")
        if fits:
            return fits[0]
    looked_for = " and ".join(patterns)
    raise DataError(
        f"{source}: not {what}: looked for {looked_for}; found {contents(source)}"
    )


def contents(folder: Path) -> str:
    """Describes what is in a folder, for messages."""
    entries = sorted(folder.iterdir())
    if not entries:
        return "an empty folder"
    names = [f"{entry.name}{'/' * entry.is_dir()}" for entry in entries[:8]]
    if len(entries) <= 8:
        return ", ".join(names)
    kinds = Counter(e.suffix.lower() or "folders" for e in entries)
    kind, count = kinds.most_common(1)[0]
    return f"{', '.join(names)} and {len(entries) - 8} more (mostly {kind}: {count})"


def read_table(
    path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads a CSV table whose first line names the columns.

    Args:
      path: the file.
      columns: names that it must have.

    Yields:
      (number of the line, its cells by column).

    Raises:
      DataError: it cannot be read, columns are missing, or a line lacks one.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            found = reader.fieldnames or ()
            if missing := set(columns) - set(found):
                raise DataError(
                    f"{path}: lacks the columns {', '.join(sorted(missing))}; "
                    f"found {', '.join(found) or 'none'}"
                )
            for row in reader:
                if not all(map(row.get, columns)):
                    raise DataError(
                        f"{path}: line {reader.line_num}: expected "
                        f"{', '.join(columns)}; found {row}"
                    )
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a table: {error}") from error


def random_seed(seed: int, name: str) -> list[int]:
    """Returns a seed for one song: that of the run, and the song's own."""
    return [seed, zlib.crc32(name.encode("utf-8"))]


def _names(files: Sequence[Path]) -> str:
    return " and ".join(str(file) for file in files) or "a song"
