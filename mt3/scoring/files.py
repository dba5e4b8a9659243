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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import errors
from mt3.midi.reader import MIDI_SUFFIXES, read_midi
from mt3.scoring import counts, instruments
from mt3.scoring.instruments import ClassCounts
from mt3.terminal import printable


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
        """Returns everything as JSON in ASCII; scores that are no numbers become null.

        ASCII, so that it can be printed on any terminal.
        """
        record = {
            "settings": dict(self.settings),
            "mean": _nulls(self.mean),
            "micro": _nulls(self.micro),
            "classes": {
                name: {
                    **dataclasses.asdict(notes),
                    "onset_f1": notes.onset_f1,
                    "offset_f1": notes.offset_f1,
                }
                for name, notes in self.classes.items()
            },
            "songs": [
                {
                    **vars(song),
                    "name": printable(song.name),
                    "reference": printable(str(song.reference)),
                    "estimate": printable(str(song.estimate)),
                    "scores": _nulls(song.scores),
                }
                for song in self.songs
            ],
            "failures": {
                printable(name): printable(problem)
                for name, problem in self.failures.items()
            },
        }
        return json.dumps(record, indent=2, allow_nan=False)


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
    pairs, failures = pair_files(reference, estimate)
    songs, all_counts, all_instruments = [], [], []
    for name, (reference_path, estimate_path) in pairs.items():
        try:
            truth = read_midi(reference_path, apply_sustain=apply_sustain)
            found = read_midi(estimate_path, apply_sustain=apply_sustain)
            matches = counts.song_counts(truth, found, **options)
            played = instruments.count_instruments(truth, found)
        except errors.MidiError as error:
            failures[name] = str(error)
            continue
        scores = counts.scores_of_counts(matches) | played.scores()
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
        all_counts.append([*matches, *played.detection])
        all_instruments.append(played)
    mean = counts.mean_metrics([song.scores for song in songs])
    micro = counts.micro_metrics(all_counts)
    return ScoreReport(
        songs=tuple(songs),
        failures=failures,
        mean=mean,
        micro={name: value for name, value in micro.items() if name in mean},
        classes=instruments.sum_classes(all_instruments),
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

    One song gives a line per metric. Several give a line per metric with the mean, the
    score of all songs together and, as far as they fit beside one another, each song's
    value. A line per instrument class follows.

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
        lines += _score_lines(columns)
        hidden = len(report.songs) - _MAX_COLUMNS
        if hidden > 0:
            lines.append(f"({hidden} more songs in the mean; JSON lists them all)")
        if len(report.songs) > 1:
            lines.append("mean: over songs; micro: the notes of all songs together")
        lines.append("")
        if classes and report.classes:
            rows = instruments.class_table(report.classes)
            lines += [*instruments.format_rows(rows), ""]
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
    """Returns the main scores (`counts.MAIN_METRICS`) as aligned text."""
    main = {name: scores[name] for name in counts.MAIN_METRICS if name in scores}
    return "\n".join(_score_lines({"score": main})) + "\n"


_MAX_COLUMNS = 6
_NAME_WIDTH = 16


def _score_lines(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Aligns metrics (rows) by columns of scores, "-" where there is none."""
    heads = (
        head if len(head) <= _NAME_WIDTH else f"{head[: _NAME_WIDTH - 3]}..."
        for head in columns
    )
    rows = [["metric", *(head.rjust(6) for head in heads)]]
    for name in dict.fromkeys(name for scores in columns.values() for name in scores):
        values = (scores.get(name, math.nan) for scores in columns.values())
        rows.append([name, *("-" if math.isnan(v) else f"{v:.4f}" for v in values)])
    return instruments.format_rows(rows)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _nulls(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(v) else v for name, v in scores.items()}
