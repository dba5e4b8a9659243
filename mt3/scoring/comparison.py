"""Several systems against one reference: `mt3 score --compare`.

Only songs that every system has count. For each metric there are the mean over songs
and the score of all songs together ("micro"), and how far each system is from the first
one, with intervals of the paired bootstrap (`bootstrap`): songs are drawn, the same for
all systems. Where the interval of a difference includes 0, the songs do not show that
one system is better. Of many metrics and systems, some intervals miss 0 by chance: one
in twenty, where nothing differs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt3 import errors
from mt3.scoring import bootstrap, files
from mt3.scoring.files import ScoreReport

# With fewer songs, intervals are too narrow more often than they claim.
FEW_SONGS = 10


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, and the interval of its bootstrap.

    Attributes:
      value: of the songs at hand; NaN where undefined.
      low: lower end; NaN where there are fewer than two songs.
      high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether 0 lies in the interval; also where there is none."""
        return not (self.low > 0 or self.high < 0)


@dataclasses.dataclass(frozen=True)
class SystemScores:
    """The scores of one system, by metric.

    Attributes:
      report: of the songs that all systems have.
      mean: over songs.
      micro: of all songs together.
      mean_difference: `mean` less that of the first system; empty for the first.
      micro_difference: likewise.
    """

    report: ScoreReport
    mean: Mapping[str, Estimate]
    micro: Mapping[str, Estimate]
    mean_difference: Mapping[str, Estimate]
    micro_difference: Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several systems side by side.

    Attributes:
      systems: by name, in the order given.
      songs: names of the songs that all have.
      failures: messages by system and song, of what could not be scored.
      settings: what the scores and intervals were computed with.
    """

    systems: Mapping[str, SystemScores]
    songs: tuple[str, ...]
    failures: Mapping[str, Mapping[str, str]]
    settings: Mapping[str, Any]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about what was passed over in files, each once."""
        reports = (system.report for system in self.systems.values())
        return tuple(dict.fromkeys(line for r in reports for line in r.warnings))

    @property
    def exit_code(self) -> int:
        """0 when every song of every system was scored, else 1."""
        return 1 if any(self.failures.values()) or not self.songs else 0

    def ranked(self, metric: str) -> list[str]:
        """Returns the systems by their mean, the highest first, undefined ones last."""
        values = {name: s.mean[metric].value for name, s in self.systems.items()}
        return sorted(values, key=lambda name: -np.nan_to_num(values[name], nan=-1))


def compare(
    reference: str | os.PathLike[str],
    estimates: Sequence[str | os.PathLike[str]],
    *,
    seed: int = bootstrap.SEED,
    **options: Any,
) -> Comparison:
    """Scores several systems against one reference.

    Args:
      reference: folder (or file) with the truth.
      estimates: a folder (or file) for each system, the one that others are compared
        with first.
      seed: of the songs drawn.
      **options: as for `files.score_files`.

    Raises:
      ConfigError: fewer than two systems, or as `files.score_files`.
      MidiError: as `files.score_files`.
    """
    names = _system_names([Path(path) for path in estimates])
    if len(names) < 2:
        raise errors.ConfigError(
            f"scoring: {len(names)} system to compare; expected two or more"
        )
    reports = {
        name: files.score_files(reference, path, **options)
        for name, path in zip(names, estimates, strict=True)
    }
    is_pair = not Path(reference).is_dir()
    if is_pair:
        # Files are not paired by name: all of them are the reference's song.
        song = Path(reference).stem
        reports = {name: _renamed(report, song) for name, report in reports.items()}
    shared = set.intersection(
        *({song.name for song in report.songs} for report in reports.values())
    )
    first = next(iter(reports.values()))
    songs = tuple(song.name for song in first.songs if song.name in shared)
    settings = {
        **first.settings,
        "estimate": dict(zip(names, map(os.fspath, estimates), strict=True)),
        "bootstrap": {
            "draws": bootstrap.DRAWS,
            "level": bootstrap.LEVEL,
            "seed": seed,
            "over": "songs",
        },
    }
    return Comparison(
        _compared({name: r.of_songs(songs) for name, r in reports.items()}, seed),
        songs,
        {name: report.failures for name, report in reports.items()},
        settings,
    )


def _renamed(report: ScoreReport, song: str) -> ScoreReport:
    songs = tuple(dataclasses.replace(s, name=song) for s in report.songs)
    return dataclasses.replace(report, songs=songs)


def _system_names(paths: Sequence[Path]) -> list[str]:
    """Returns the last parts of the paths, as many as distinguish them."""
    # Without the root: names are those of folders, too, below that of the results.
    parts = [path.resolve().parts[1:] for path in paths]
    if len(set(parts)) < len(parts):
        raise errors.ConfigError(
            f"scoring: two of the systems {', '.join(map(str, paths))} are the same"
        )
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))


def _compared(reports: Mapping[str, ScoreReport], seed: int) -> dict[str, SystemScores]:
    """Adds intervals to the scores of each system; the songs are the same for all."""
    num_songs = len(next(iter(reports.values())).songs)
    # One song leaves nothing to draw.
    draws = bootstrap.draw_songs(num_songs, seed=seed) if num_songs > 1 else None
    systems: dict[str, SystemScores] = {}
    first: tuple[_Table, _Table] | None = None
    for name, report in reports.items():
        tables = _mean_table(report, draws), _micro_table(report, draws)
        first = first or tables
        differences = [_minus(*sides) for sides in zip(tables, first, strict=True)]
        systems[name] = SystemScores(
            report,
            *map(_estimates, tables),
            *(_estimates(d) if tables is not first else {} for d in differences),
        )
    return systems


@dataclasses.dataclass(frozen=True)
class _Table:
    """Scores by name, and the same of each draw, [draws, names]; None without draws."""

    scores: Mapping[str, float]
    drawn: np.ndarray | None


def _mean_table(report: ScoreReport, draws: np.ndarray | None) -> _Table:
    if draws is None:
        return _Table(report.mean, None)
    values = np.array([[s.scores[m] for m in report.mean] for s in report.songs])
    return _Table(report.mean, bootstrap.mean_of_draws(draws, values))


def _micro_table(report: ScoreReport, draws: np.ndarray | None) -> _Table:
    if draws is None or not report.songs:
        return _Table(report.micro, None)
    kinds = report.songs[0].counts
    numbers = np.array(
        [
            [(c.matched, c.reference, c.estimated) for c in s.counts]
            for s in report.songs
        ]
    )
    empty = report.settings["empty"]
    ratios = bootstrap.ratios_of_draws(draws, numbers)
    if empty == "skip_reference":
        ratios[draws @ numbers[:, :, 1] == 0] = np.nan
    names = [name for kind in kinds for name in kind.scores()]
    places = {name: place for place, name in enumerate(names)}
    columns = [places[name] for name in report.micro]
    drawn = ratios.reshape(len(draws), -1)[:, columns]
    if empty == "zero":
        drawn = np.nan_to_num(drawn)
    return _Table(report.micro, drawn)


def _minus(one: _Table, other: _Table) -> _Table:
    scores = {name: value - other.scores[name] for name, value in one.scores.items()}
    if one.drawn is None or other.drawn is None:
        return _Table(scores, None)
    return _Table(scores, one.drawn - other.drawn)


def _estimates(table: _Table) -> dict[str, Estimate]:
    if table.drawn is None:
        nothing = float("nan")
        return {name: Estimate(v, nothing, nothing) for name, v in table.scores.items()}
    low, high = bootstrap.interval(table.drawn).tolist()
    return {
        name: Estimate(value, *ends)
        for (name, value), *ends in zip(table.scores.items(), low, high, strict=True)
    }
