"""Scores of transcribed MIDI files against reference MIDI files: `mt3 score`.

A pair of files, or two folders whose files are paired by their path without
extension. Scores are those of `counts` and `instruments`, per song and averaged over
songs; with several songs also over all of them together ("micro"), and a table of the
instrument classes.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt3 import errors
from mt3.midi.reader import MIDI_SUFFIXES, read_midi

if TYPE_CHECKING:
    from mt3.scoring.instruments import ClassCounts


@dataclasses.dataclass(frozen=True)
class SongScore:
    """Scores of one song.

    Attributes:
      name: the file's stem, with folders below the one that was given.
      reference: path of the reference.
      estimate: path of the estimate.
      num_reference_notes: notes in the reference.
      num_estimated_notes: notes in the estimate.
      scores: score by name, NaN where there was nothing to score.
    """

    name: str
    reference: Path
    estimate: Path
    num_reference_notes: int
    num_estimated_notes: int
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ScoreReport:
    """Everything that scoring found.

    Attributes:
      songs: songs that were scored.
      failures: message by song name, of files without partner and unreadable files.
      mean: scores averaged over the songs.
      micro: scores of all songs together, their notes added up.
      classes: notes and matches by instrument class, of all songs together.
      settings: what the scores were computed with.
    """

    songs: tuple[SongScore, ...]
    failures: Mapping[str, str]
    mean: Mapping[str, float]
    micro: Mapping[str, float]
    classes: Mapping[str, ClassCounts]
    settings: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """0 when every song was scored, else 1."""
        return 1 if self.failures or not self.songs else 0

    def to_json(self) -> str:
        """Returns everything as JSON; scores that are not numbers become null."""
        songs = [
            {
                "name": song.name,
                "reference": str(song.reference),
                "estimate": str(song.estimate),
                "num_reference_notes": song.num_reference_notes,
                "num_estimated_notes": song.num_estimated_notes,
                "scores": _nulls(song.scores),
            }
            for song in self.songs
        ]
        record = {
            "settings": dict(self.settings),
            "mean": _nulls(self.mean),
            "micro": _nulls(self.micro),
            "classes": {
                name: {
                    **dataclasses.asdict(counts),
                    "onset_f1": counts.onset_f1,
                    "offset_f1": counts.offset_f1,
                }
                for name, counts in self.classes.items()
            },
            "songs": songs,
            "failures": dict(self.failures),
        }
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)


def score_files(
    reference: str | os.PathLike[str],
    estimate: str | os.PathLike[str],
    *,
    apply_sustain: bool = True,
    metrics: Sequence[str] = (),
    **options: Any,
) -> ScoreReport:
    """Scores a pair of MIDI files, or two folders of them.

    A song that fails is named in the report and the others are scored.

    Args:
      reference: MIDI file or folder with the truth.
      estimate: MIDI file or folder with transcriptions.
      apply_sustain: lengthen notes by the sustain pedal, in both.
      metrics: names or patterns of the scores to keep ("*F1*"); all by default.
      **options: as for `mt3.scoring.counts.song_counts`.

    Returns:
      The report; nothing is printed.

    Raises:
      MidiError: a path that does not exist, or a file where the other is a folder.
      ConfigError: a pattern that no metric has.
    """
    from mt3.scoring import counts as metrics_lib
    from mt3.scoring import instruments as instrument_metrics

    pairs, failures = pair_files(reference, estimate)
    songs, all_counts, all_instruments = [], [], []
    for name, (reference_path, estimate_path) in pairs.items():
        try:
            truth = read_midi(reference_path, apply_sustain=apply_sustain)
            found = read_midi(estimate_path, apply_sustain=apply_sustain)
            counts = metrics_lib.song_counts(truth, found, **options)
            instruments = instrument_metrics.count_instruments(truth, found)
        except errors.MidiError as error:
            failures[name] = str(error)
            continue
        scores = metrics_lib.scores_of_counts(counts) | instruments.scores()
        songs.append(
            SongScore(
                name,
                reference_path,
                estimate_path,
                len(truth),
                len(found),
                select_metrics(scores, metrics),
            )
        )
        all_counts.append([*counts, *instruments.detection])
        all_instruments.append(instruments)
    mean = metrics_lib.mean_metrics([song.scores for song in songs])
    micro = metrics_lib.micro_metrics(all_counts)
    return ScoreReport(
        songs=tuple(songs),
        failures=failures,
        mean=mean,
        micro={name: value for name, value in micro.items() if name in mean},
        classes=instrument_metrics.sum_classes(all_instruments),
        settings={"apply_sustain": apply_sustain, **options},
    )


def pair_files(
    reference: str | os.PathLike[str], estimate: str | os.PathLike[str]
) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pairs files, or the files of two folders by stem.

    Returns:
      (reference, estimate) by name, and messages by name of files without partner.

    Raises:
      MidiError: as `score_files`.
    """
    reference, estimate = Path(reference), Path(estimate)
    for path in (reference, estimate):
        if not path.exists():
            raise errors.MidiError(f"{path}: no such file or folder")
    if reference.is_dir() != estimate.is_dir():
        folder, file = sorted((reference, estimate), key=lambda p: not p.is_dir())
        raise errors.MidiError(
            f"scoring: {folder} is a folder but {file} is a file; expected two files "
            "or two folders"
        )
    if not reference.is_dir():
        return {estimate.stem: (reference, estimate)}, {}
    failures: dict[str, str] = {}
    truths, found = _by_stem(reference, failures), _by_stem(estimate, failures)
    for name in sorted(truths.keys() ^ found.keys()):
        have, lacking = (truths, estimate) if name in truths else (found, reference)
        failures[name] = (
            f"{have[name]}: no partner: found no {name} with "
            f"{'/'.join(MIDI_SUFFIXES)} in {lacking}"
        )
    both = sorted((truths.keys() & found.keys()) - failures.keys())
    if not both and not failures:
        raise errors.MidiError(
            f"scoring: no MIDI files ({', '.join(MIDI_SUFFIXES)}) in {reference} "
            f"or {estimate}"
        )
    return {name: (truths[name], found[name]) for name in both}, failures


def _by_stem(folder: Path, failures: dict[str, str]) -> dict[str, Path]:
    """Returns a folder's MIDI files by relative path without extension."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in MIDI_SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            failures[name] = f"{path}: same name as {files[name]}; expected one file"
        files[name] = path
    return files


def select_metrics(
    scores: Mapping[str, float], patterns: Sequence[str]
) -> dict[str, float]:
    """Keeps the scores that a name or pattern asks for, in their own order.

    Args:
      scores: scores by name.
      patterns: names, or patterns with `*` and `?`, in any case; none for all.

    Raises:
      ConfigError: a pattern that no name fits, with those of similar names.
    """
    if not patterns:
        return dict(scores)
    kept = set()
    for pattern in patterns:
        fits = {
            name
            for name in scores
            if fnmatch.fnmatchcase(name.lower(), pattern.lower())
        }
        if not fits:
            hint = errors.near_misses(pattern, scores)
            raise errors.ConfigError(f"scoring: no metric fits {pattern!r}.{hint}")
        kept |= fits
    return {name: value for name, value in scores.items() if name in kept}


def format_table(report: ScoreReport, *, classes: bool = True) -> str:
    """Returns the report as aligned text: failures, songs and means.

    One song: a line per metric. Several: a line per metric with the mean, the score
    of all songs together and, as far as they fit beside one another, each song's
    value. Below, a line per instrument class.

    Args:
      report: what to show.
      classes: whether to show the classes.
    """
    lines = []
    if report.songs:
        columns = {}
        if len(report.songs) > 1:
            columns = {"mean": report.mean, "micro": report.micro}
        columns.update((song.name, song.scores) for song in report.songs[:_MAX_COLUMNS])
        lines += _columns(columns)
        hidden = len(report.songs) - _MAX_COLUMNS
        if hidden > 0:
            lines.append(f"({hidden} more songs in the mean; JSON lists them all)")
        if len(report.songs) > 1:
            lines.append("mean: over songs; micro: the notes of all songs together")
        lines.append("")
        if classes and report.classes:
            lines += [*_class_lines(report.classes), ""]
        notes = [(s.num_reference_notes, s.num_estimated_notes) for s in report.songs]
        lines.append(
            f"{_count(len(report.songs), 'song')}, {sum(n for n, _ in notes)} notes in "
            f"the reference, {sum(n for _, n in notes)} in the estimate"
        )
    if report.failures:
        lines.append(f"{_count(len(report.failures), 'song')} not scored:")
        lines += [f"  {message}" for message in report.failures.values()]
    return "\n".join(lines) + "\n"


def format_short_table(scores: Mapping[str, float]) -> str:
    """Returns the handful of main scores as aligned text."""
    from mt3.scoring.counts import MAIN_METRICS

    main = {name: scores[name] for name in MAIN_METRICS if name in scores}
    return "\n".join(_columns({"score": main})) + "\n"


_MAX_COLUMNS = 6
_NAME_WIDTH = 16


def _columns(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Aligns metrics (rows) by columns of numbers, "-" where there is none."""
    names: Iterable[str] = dict.fromkeys(n for c in columns.values() for n in c)
    width = max([len("metric"), *map(len, names)])
    heads = [
        head if len(head) <= _NAME_WIDTH else f"{head[: _NAME_WIDTH - 3]}..."
        for head in columns
    ]
    widths = [max(6, len(head)) for head in heads]
    lines = [_row("metric", heads, width, widths)]
    lines.append(_row("-" * width, ["-" * w for w in widths], width, widths))
    for name in names:
        cells = []
        for column in columns.values():
            value = column.get(name, math.nan)
            cells.append("-" if math.isnan(value) else f"{value:.4f}")
        lines.append(_row(name, cells, width, widths))
    return lines


def _class_lines(classes: Mapping[str, ClassCounts]) -> list[str]:
    """Aligns the table of the instrument classes."""
    from mt3.scoring.instruments import class_table

    rows = class_table(classes)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return [_row(name, cells, widths[0], widths[1:]) for name, *cells in rows]


def _row(name: str, cells: Sequence[str], width: int, widths: Sequence[int]) -> str:
    padded = [cell.rjust(w) for cell, w in zip(cells, widths, strict=True)]
    return "  ".join([name.ljust(width), *padded])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _nulls(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in scores.items()}
