"""What an archive is to the rest of `mt3 prepare`: lists of songs, made one by one."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3.errors import ConfigError
from mt3.terminal import printable

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

    def __post_init__(self) -> None:
        # Records and hashes take text, which not every name of a file is.
        object.__setattr__(self, "id", printable(self.id))


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


# What is said of a part of a song: text, or values by name.
Remark = str | Mapping[str, Any]


class LeftOut(Exception):
    """Raised for a song that the data set's own rules leave out.

    Attributes:
      remarks: on its parts.
    """

    def __init__(self, reason: str, remarks: Sequence[Remark] = ()):
        super().__init__(reason)
        self.remarks = tuple(remarks)


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of one record.

    Attributes:
      id: its name in messages.
      features: by name; bytes, text, a number, or a sequence of these.
      seconds: of audio.
      num_notes: in all its sequences.
      remarks: what was left out of it; of a song's records, the last one's count.
    """

    id: str
    features: Mapping[str, Any]
    seconds: float
    num_notes: int
    remarks: tuple[Remark, ...] = ()


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
