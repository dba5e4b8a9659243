"""Makes the shards of an archive, in one process or several."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mt3 import files, terminal
from mt3.errors import ConfigError, DataError, OutputError, near_misses
from mt3.prepare import shards
from mt3.prepare.items import Archive, Problem
from mt3.prepare.plan import SplitPlan, config_of, make_plan
from mt3.prepare.report import Report, SplitReport
from mt3.prepare.shards import ShardJob, ShardState

_LOG = logging.getLogger("mt3")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run that do not change the content of the records.

    Attributes:
      splits: which to make; none for all.
      num_shards: of each split; None for the published number.
      jobs: processes.
      limit: the most songs of each split.
      overwrite: make everything again.
    """

    splits: tuple[str, ...] = ()
    num_shards: int | None = None
    jobs: int = 1
    limit: int | None = None
    overwrite: bool = False

    def validate(self) -> None:
        """Raises ConfigError on a number below 1."""
        for name, value in (
            ("--jobs", self.jobs),
            ("--shards", self.num_shards),
            ("--limit", self.limit),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"prepare: {name} {value}; expected at least 1")


def prepare(
    archive: Archive,
    data_root: str | os.PathLike[str],
    *,
    source: str,
    options: Options = Options(),
    log: Callable[[str], None] | None = None,
) -> Report:
    """Writes the records of an archive below a data root.

    Existing shards stay. The report and the manifest are written at the
    end, and when the run is ended by an error, too, for the splits that are whole.

    Args:
      archive: what to read.
      data_root: where to write; `<data_root>/datasets/...`.
      source: what to call the archive in the report.
      options: see `Options`.
      log: called with lines of progress, which the logger `mt3` gets, too.

    Returns:
      The report. Songs that could not be read are listed in it and do not stop the run.

    Raises:
      ConfigError: a split that the data set does not have, or numbers that make no
        sense.
      DataError: no songs, or existing shards were made with other settings.
      OutputError: the disk is full, say, or another run is writing there; finished
        shards stay.
    """
    archive.settings.validate()
    options.validate()
    if "://" in os.fspath(data_root):
        raise ConfigError(
            f"prepare: {data_root} is not a local folder; prepare into one, and copy it"
        )
    root = Path(data_root)
    plans, problems, without_songs = _plans(archive, root, options)
    with files.sole_writer(plans[0].folder, "prepare"):
        if not options.overwrite:
            for plan in plans:
                plan.check()
        for plan in plans:
            plan.begin(overwrite=options.overwrite)
        kept = {job.path: shards.finished(job) for plan in plans for job in plan.jobs}
        missing = [job for plan in plans for job in plan.jobs if kept[job.path] is None]
        states = {path: state for path, state in kept.items() if state is not None}
        say = functools.partial(_say, log)
        if states:
            say(
                f"{len(states)} of {len(kept)} shards are there already",
                there=len(states),
                shards=len(kept),
            )
        progress = _Progress(sum(len(job.items) for job in missing), say)
        try:
            for job, state in _make_all(missing, options.jobs, progress):
                states[job.path] = state
        finally:
            report = dataclasses.replace(
                _report(archive, source, plans, states, kept, problems),
                without_songs=without_songs,
            )
            # If another error is under way (a full disk, say), that one is reported.
            failing = sys.exc_info()[0] is not None
            with contextlib.suppress(*([OutputError] if failing else [])):
                report.write()
        return report


def _plans(
    archive: Archive, root: Path, options: Options
) -> tuple[list[SplitPlan], tuple[Problem, ...], tuple[str, ...]]:
    """Lists the songs and divides them; raises as `prepare`.

    Returns:
      The plans, the songs that cannot be used, and the splits without songs.
    """
    listing = archive.listing()
    known = tuple(config_of(archive).paths)
    whole = [split for split in known if split in listing.splits]
    for split in options.splits:
        if split not in whole:
            raise ConfigError(
                f"prepare: {archive.dataset} has no split {split!r}."
                f"{near_misses(split, whole)}"
            )
    wanted = [split for split in whole if split in (options.splits or whole)]
    plans = [
        make_plan(
            archive,
            split,
            listing.splits[split][: options.limit],
            root,
            num_shards=options.num_shards,
        )
        for split in wanted
        if listing.splits[split]
    ]
    problems = tuple(p for p in listing.problems if p.split in (None, *wanted))
    if not plans:
        reasons = "".join(f"\n{problem.reason}" for problem in problems[:20])
        raise DataError(
            f"{archive.dataset}: no songs of {' or '.join(wanted) or 'any split'}"
            f"{reasons}"
        )
    return plans, problems, tuple(s for s in wanted if not listing.splits[s])


def _make_all(
    jobs: Sequence[ShardJob], workers: int, progress: _Progress
) -> Iterator[tuple[ShardJob, ShardState]]:
    """Makes shards, yielding each when it is there; raises OutputError."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, shards.make(job, lambda seconds: progress.add(1, seconds))
        return
    with terminal.worker_processes(min(workers, len(jobs))) as pool:
        running = {pool.submit(shards.make, job): job for job in jobs}
        for future in concurrent.futures.as_completed(running):
            job, state = running[future], future.result()
            progress.add(len(job.items), state.seconds)
            yield job, state


def _say(log: Callable[[str], None] | None, line: str, **fields: object) -> None:
    _LOG.info("%s", line, extra={"stage": "prepare", **fields})
    if log is not None:
        log(line)


class _Progress:
    """Says every few seconds how many songs and how much audio are done."""

    def __init__(self, total: int, say: Callable[..., None], every: float = 5.0):
        self._total, self._say, self._every = total, say, every
        self._songs, self._seconds = 0, 0.0
        self._start = self._last = time.monotonic()

    def add(self, songs: int, seconds: float) -> None:
        """Counts finished songs with their audio."""
        self._songs += songs
        self._seconds += seconds
        now = time.monotonic()
        if now - self._last < self._every and self._songs < self._total:
            return
        self._last = now
        left = (now - self._start) / self._songs * (self._total - self._songs)
        self._say(
            f"{self._songs} of {self._total} songs, {_clock(self._seconds)} of audio"
            + (f", {_clock(left)} left" if self._songs < self._total else ""),
            finished=self._songs,
            songs=self._total,
            seconds=round(self._seconds, 3),
            elapsed=round(now - self._start, 3),
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _report(
    archive: Archive,
    source: str,
    plans: Sequence[SplitPlan],
    states: dict[Path, ShardState],
    kept: dict[Path, ShardState | None],
    problems: tuple[Problem, ...],
) -> Report:
    """Makes the report on the splits that are complete."""
    splits = tuple(
        SplitReport(
            plan=plan,
            states=tuple(states[job.path] for job in plan.jobs),
            made=sum(kept[job.path] is None for job in plan.jobs),
            listing_problems=tuple(p for p in problems if p.split == plan.split),
        )
        for plan in plans
        if all(job.path in states for job in plan.jobs)
    )
    named = {plan.split for plan in plans}
    return Report(
        dataset=archive.dataset,
        folder=plans[0].folder,
        source=source,
        splits=splits,
        problems=tuple(p for p in problems if p.split not in named),
        unfinished=tuple(named - {split.plan.split for split in splits}),
    )
