"""Scores as text, CSV and JSON.

The CSV has one line for each system and song, named by its first columns:

  system
    Which estimate.
  row
    "song"; "mean" and "micro" for all songs. With several systems also what each
    differs from the first by, and the ends of the intervals: "mean low", "mean high",
    "mean difference", "mean difference low", ... and so for "micro".
  song, reference, estimate, reference notes, estimated notes
    Empty where `row` is not "song".

and then a column for each metric, empty where there is no score.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import terminal
from mt3.scoring import conventions, instruments
from mt3.scoring.comparison import FEW_SONGS, Comparison, Estimate
from mt3.scoring.files import ScoreReport
from mt3.scoring.instruments import ClassCounts

_MAX_COLUMNS = 6
_NAME_WIDTH = 16
_CSV_HEADS = (
    "system",
    "row",
    "song",
    "reference",
    "estimate",
    "reference notes",
    "estimated notes",
)


def format_table(report: ScoreReport, *, classes: bool = True) -> str:
    """Returns the report as aligned text: songs and means.

    One song gives a line per metric. Several give a line per metric with the mean, the
    score of all songs together and, as far as they fit beside one another, each song's
    value. A line per instrument class follows.

    Args:
      report: what to show.
      classes: whether to show the classes, which only the default convention has.
    """
    lines = []
    if report.songs:
        columns = {}
        if len(report.songs) > 1:
            columns = {"mean": report.mean, "micro": report.micro}
        columns.update((song.name, song.scores) for song in report.songs[:_MAX_COLUMNS])
        lines += _score_lines(columns)
        hidden = len(report.songs) - _MAX_COLUMNS
        if hidden > 0:
            lines.append(
                f"({hidden} more songs in the mean; CSV and JSON list them all)"
            )
        if len(report.songs) > 1:
            lines.append("mean: over songs; micro: the notes of all songs together")
        lines.append("")
        classes &= report.settings["convention"] == conventions.DEFAULT
        if classes and report.classes:
            rows = instruments.class_table(report.classes)
            lines += [*instruments.format_rows(rows), ""]
        notes = [(s.num_reference_notes, s.num_estimated_notes) for s in report.songs]
        lines.append(
            f"{_count(len(report.songs), 'song')}, {sum(n for n, _ in notes)} notes in "
            f"the reference, {sum(n for _, n in notes)} in the estimate"
        )
    if report.failures:
        lines.append(f"{_count(len(report.failures), 'song')} not scored")
    return "\n".join([*lines, *_convention_lines(report.settings)]) + "\n"


def format_short_table(report: ScoreReport) -> str:
    """Returns the mean of the convention's main scores as text, "" for none."""
    names = conventions.convention(report.settings["convention"]).main
    main = {name: report.mean[name] for name in names if name in report.mean}
    songs = len(report.songs)
    column = "score" if songs == 1 else f"mean of {songs} songs"
    lines = [*_score_lines({column: main}), *_convention_lines(report.settings), ""]
    return "\n".join(lines) if main else ""


def _convention_lines(settings: Mapping[str, Any]) -> list[str]:
    name = settings["convention"]
    return [] if name == conventions.DEFAULT else [f"counted by the convention {name}"]


def format_comparison(comparison: Comparison, metrics: Sequence[str]) -> str:
    """Returns a table for each metric, systems with the highest mean first.

    Args:
      comparison: what to show.
      metrics: names of the metrics.
    """
    first, *_ = comparison.systems
    songs, lines = len(comparison.songs), []
    for metric in metrics:
        rows = [
            (metric, "mean", "95 %", "micro", f"minus {_short(first)}", "95 %", ""),
        ]
        for name in comparison.ranked(metric):
            system = comparison.systems[name]
            micro = system.micro.get(metric)
            difference = system.mean_difference.get(metric)
            rows.append(
                (
                    _short(name, 32),
                    _number(system.mean[metric].value),
                    _ends(system.mean[metric]),
                    "-" if micro is None else _number(micro.value),
                    "-" if difference is None else _number(difference.value, "+"),
                    "-" if difference is None else _ends(difference, "+"),
                    "" if difference is None else _verdict(difference),
                )
            )
        lines += [*instruments.format_rows(rows), ""]
    lines.append(
        f"{_count(songs, 'song')} that all {len(comparison.systems)} systems have"
    )
    if songs < 2:
        lines.append("intervals need two songs")
    else:
        bootstrap = comparison.settings["bootstrap"]
        lines.append(
            "95 %: interval of the paired bootstrap over songs, "
            f"{bootstrap['draws']:,} draws, seed {bootstrap['seed']}"
        )
        if songs < FEW_SONGS:
            lines.append(f"with fewer than {FEW_SONGS} songs, intervals are too narrow")
    missing = sum(len(failures) for failures in comparison.failures.values())
    if missing:
        lines.append(f"{_count(missing, 'song')} not scored, counted by system")
    return "\n".join([*lines, *_convention_lines(comparison.settings)]) + "\n"


def _verdict(difference: Estimate) -> str:
    if math.isnan(difference.low):
        return "no interval"
    if difference.includes_zero:
        return "includes 0: no difference shown"
    return "higher" if difference.low > 0 else "lower"


def to_csv(result: ScoreReport | Comparison) -> str:
    """Returns all scores as CSV; see the module for its lines."""
    systems = {"": result}
    if isinstance(result, Comparison):
        systems = {name: s.report for name, s in result.systems.items()}
    metrics = list(
        dict.fromkeys(name for report in systems.values() for name in report.mean)
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_CSV_HEADS, *metrics])

    def write(facts: Sequence[Any], scores: Mapping[str, float]) -> None:
        values = [scores.get(name, math.nan) for name in metrics]
        numbers = ["" if math.isnan(value) else repr(value) for value in values]
        writer.writerow([*(terminal.printable(str(fact)) for fact in facts), *numbers])

    for name, report in systems.items():
        label = name or Path(report.settings["estimate"]).name
        for song in report.songs:
            notes = song.num_reference_notes, song.num_estimated_notes
            facts = label, "song", song.name, song.reference, song.estimate, *notes
            write(facts, song.scores)
        rows = {"mean": report.mean, "micro": report.micro}
        if isinstance(result, Comparison):
            rows = dict(_interval_rows(result, name))
        for row, scores in rows.items():
            write([label, row, *[""] * (len(_CSV_HEADS) - 2)], scores)
    return stream.getvalue()


def _interval_rows(
    comparison: Comparison, name: str
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields what the lines of a system are called, and their scores."""
    for row, estimates in _averages(comparison, name):
        if estimates:
            yield row, {m: e.value for m, e in estimates.items()}
            yield f"{row} low", {m: e.low for m, e in estimates.items()}
            yield f"{row} high", {m: e.high for m, e in estimates.items()}


def _averages(
    comparison: Comparison, name: str
) -> Iterable[tuple[str, Mapping[str, Estimate]]]:
    system = comparison.systems[name]
    return (
        ("mean", system.mean),
        ("micro", system.micro),
        ("mean difference", system.mean_difference),
        ("micro difference", system.micro_difference),
    )


def to_json(result: ScoreReport | Comparison) -> str:
    """Returns everything as JSON in ASCII; scores that are no numbers become null.

    ASCII, so that it can be printed on any terminal.
    """
    record: dict[str, Any] = {"settings": result.settings}
    if isinstance(result, Comparison):
        record["songs"] = list(result.songs)
        record["systems"] = {
            name: {
                **{
                    row.replace(" ", "_"): {
                        metric: _nulls(vars(estimate))
                        for metric, estimate in estimates.items()
                    }
                    for row, estimates in _averages(result, name)
                    if estimates
                },
                "classes": _classes(system.report.classes),
                "songs": _songs(system.report),
            }
            for name, system in result.systems.items()
        }
    else:
        record |= {
            "mean": _nulls(result.mean),
            "micro": _nulls(result.micro),
            "classes": _classes(result.classes),
            "songs": _songs(result),
        }
    record |= {"failures": result.failures, "warnings": result.warnings}
    return terminal.to_json(record)


def settings_json(result: ScoreReport | Comparison) -> str:
    """Returns as JSON what the scores were computed with, and of which files."""
    reports = {"": result}
    if isinstance(result, Comparison):
        reports = {name: s.report for name, s in result.systems.items()}
    songs = {
        name: [_song_files(song) for song in report.songs]
        for name, report in reports.items()
    }
    record = {
        "settings": result.settings,
        "songs": songs if isinstance(result, Comparison) else songs[""],
        "failures": result.failures,
    }
    return terminal.to_json(record)


def _songs(report: ScoreReport) -> list[dict[str, Any]]:
    return [
        {
            **_song_files(song),
            "num_reference_notes": song.num_reference_notes,
            "num_estimated_notes": song.num_estimated_notes,
            "scores": _nulls(song.scores),
        }
        for song in report.songs
    ]


def _song_files(song) -> dict[str, str]:
    hashes = dict(
        zip(("reference_sha256", "estimate_sha256"), song.sha256, strict=True)
    )
    paths = {"reference": str(song.reference), "estimate": str(song.estimate)}
    return {"name": song.name, **paths, **hashes}


def _classes(classes: Mapping[str, ClassCounts]) -> dict[str, Any]:
    return {
        name: {
            **dataclasses.asdict(notes),
            "onset_f1": notes.onset_f1,
            "offset_f1": notes.offset_f1,
        }
        for name, notes in classes.items()
    }


def _score_lines(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Aligns metrics (rows) by columns of scores, "-" where there is none."""
    rows = [["metric", *(_short(head).rjust(6) for head in columns)]]
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        values = (scores.get(name, math.nan) for scores in columns.values())
        rows.append([name, *map(_number, values)])
    return instruments.format_rows(rows)


def _short(text: str, width: int = _NAME_WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


def _ends(estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.low):
        return "-"
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _nulls(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in scores.items()}
