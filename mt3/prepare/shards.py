"""One shard: a few songs, read and written one by one, whole or not at all.

A shard is the unit of work of a process, and what is not made again. Beside the
shards, in `.prepare/`, a small file for each describes its content. It is written
last: where it exists and its size agrees with the shard's, the shard is complete.
A shard in which songs failed is made again when their files, or the limit that they
exceeded, have changed since.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from mt3 import files
from mt3.data import tfrecords
from mt3.datasets import FeatureSpec
from mt3.errors import MT3Error, OutputError
from mt3.prepare import examples
from mt3.prepare.items import Archive, Item, LeftOut, Problem, Record, Remark

STATE_FOLDER = ".prepare"
# Called with the seconds of audio of each finished song, 0 if it has no record.
Progress = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """A shard to make.

    Attributes:
      archive: where the songs come from.
      split: their split.
      items: the songs.
      specs: features of a record.
      path: of the shard.
      max_mismatch: of the settings; a failure depends on it.
    """

    archive: Archive
    split: str
    items: tuple[Item, ...]
    specs: Mapping[str, FeatureSpec]
    path: Path
    max_mismatch: float | None = None

    @property
    def state_path(self) -> Path:
        """The file that says what went into the shard."""
        return self.path.parent / STATE_FOLDER / f"{self.path.name}.json"


@dataclasses.dataclass(frozen=True)
class ShardState:
    """The content of a shard.

    Attributes:
      songs: that have records.
      records: in the shard.
      notes: in the records.
      seconds: of audio in the records.
      size: of the file, in bytes.
      problems: songs that are not in it.
      remarks: by song, what was left out of it.
      max_mismatch: with which it was made.
    """

    songs: int
    records: int
    notes: int
    seconds: float
    size: int
    problems: tuple[Problem, ...] = ()
    remarks: Mapping[str, tuple[Remark, ...]] = dataclasses.field(default_factory=dict)
    max_mismatch: float | None = None

    def to_json(self) -> str:
        """Returns the state as a file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ShardState:
        """Reads a state; raises ValueError, KeyError or TypeError if it is none."""
        values = json.loads(text)
        problems = [
            Problem(
                **{
                    **problem,
                    "files": tuple((n, s, t) for n, s, t in problem["files"]),
                }
            )
            for problem in values["problems"]
        ]
        remarks = {song: tuple(lines) for song, lines in values["remarks"].items()}
        return cls(**{**values, "problems": tuple(problems), "remarks": remarks})


def finished(job: ShardJob) -> ShardState | None:
    """Returns what is in a shard that need not be made; None for one that must."""
    try:
        state = ShardState.from_json(job.state_path.read_text(encoding="utf-8"))
        if job.path.stat().st_size != state.size:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    items = {item.id: item for item in job.items}
    for problem in state.problems:
        if not problem.is_error:
            continue
        item = items.get(problem.id)
        if item is None or _stamps(item) != problem.files:
            return None
        if state.max_mismatch != job.max_mismatch:
            return None
    return state


def make(job: ShardJob, progress: Progress = lambda seconds: None) -> ShardState:
    """Makes a shard.

    Args:
      job: what to make.
      progress: called after each song.

    Returns:
      What went into it; songs that failed are among its problems.

    Raises:
      OutputError: it cannot be written; then it is not there.
    """
    for left in job.path.parent.glob(f"{job.path.name}.writing-*"):
        left.unlink(missing_ok=True)
    job.state_path.unlink(missing_ok=True)
    songs, problems, remarks = 0, [], {}
    made: list[tuple[float, int]] = []
    with tfrecords.write_records(job.path) as write:
        for item in job.items:
            before = len(made)
            try:
                for record in job.archive.records(item):
                    write(_encode(job, item, record))
                    made.append((record.seconds, record.num_notes))
                    if record.remarks:
                        remarks[item.id] = record.remarks
                songs += 1
            except OutputError:
                raise
            except (MT3Error, OSError) as error:
                problem = Problem(item.id, str(error), True, job.split, _stamps(item))
                problems.append(problem)
            except LeftOut as reason:
                problems.append(Problem(item.id, str(reason), False, job.split))
                if reason.remarks:
                    remarks[item.id] = reason.remarks
            progress(sum(seconds for seconds, _ in made[before:]))
    state = ShardState(
        songs=songs,
        records=len(made),
        notes=sum(notes for _, notes in made),
        seconds=sum(seconds for seconds, _ in made),
        size=job.path.stat().st_size,
        problems=tuple(problems),
        remarks=remarks,
        max_mismatch=job.max_mismatch,
    )
    files.write_text(job.state_path, state.to_json())
    return state


def _encode(job: ShardJob, item: Item, record: Record) -> bytes:
    source = item.files[0] if item.files else item.id
    return examples.encode(record.features, job.specs, str(source))


def _stamps(item: Item) -> tuple[tuple[str, int, int], ...]:
    """Returns size and time of a song's files, to notice when they change."""
    stamps = []
    for path in item.files:
        try:
            status = path.stat()
            stamps.append((str(path), status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append((str(path), -1, -1))
    return tuple(stamps)
