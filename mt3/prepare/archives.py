"""What the readers of archives share: folders, tables, lengths, duplicates."""

from __future__ import annotations

import csv
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mt3.errors import DataError
from mt3.files import exists
from mt3.prepare.items import DEFAULT_MAX_MISMATCH, Item, Problem, Settings


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
    if not os.path.isdir(source):
        found = "a file" if exists(source, DataError) else "nothing there"
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
