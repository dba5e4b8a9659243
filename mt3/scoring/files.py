"""Scores of files of notes against references: `mt3 score`.

The files are MIDI, or JSON, JSON lines or CSV that `mt3 transcribe` wrote; reference
and estimate may be of different kinds. A pair of files is scored, or two folders whose
files are paired by their path without extension. Where a folder has a name in several
kinds, the first of the order above counts; of two MIDI files (`a.mid`, `a.midi`) none
does. JSON and CSV of other origin are passed over: data sets have lists in them.

Scores are those of `counts` and `instruments`, per song and averaged over songs; with
several songs also over all of them together ("micro"), and a table of the instrument
classes.

A song that cannot be scored, for whatever reason, does not cost the others.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import errors, files, terminal
from mt3.midi.reader import MIDI_SUFFIXES, read_midi
from mt3.note_sequences import Note
from mt3.outputs import is_ours, reading
from mt3.scoring import counts, instruments
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
      failures: message by song name, of files without partner and unreadable files;
        by path, of folders that cannot be entered.
      mean: scores averaged over the songs.
      micro: scores of all songs together, their notes added up.
      classes: notes and matches by instrument class, of all songs together.
      settings: what the scores were computed with.
      warnings: lines about what was passed over in files, each naming its file.
    """

    songs: tuple[SongScore, ...]
    failures: Mapping[str, str]
    mean: Mapping[str, float]
    micro: Mapping[str, float]
    classes: Mapping[str, ClassCounts]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

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
                    "reference": str(song.reference),
                    "estimate": str(song.estimate),
                    "scores": _nulls(song.scores),
                }
                for song in self.songs
            ],
            "failures": dict(self.failures),
            "warnings": list(self.warnings),
        }
        return terminal.to_json(record)


def score_files(
    reference: str | os.PathLike[str],
    estimate: str | os.PathLike[str],
    *,
    apply_sustain: bool = True,
    metrics: Sequence[str] = (),
    **options: Any,
) -> ScoreReport:
    """Scores a pair of files of notes, or two folders of them.

    A song that fails is named in the report and the others are scored.

    Args:
      reference: file or folder with the truth; see the module for the kinds.
      estimate: file or folder with transcriptions.
      apply_sustain: lengthen notes of MIDI files by the sustain pedal.
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
    warnings: list[str] = []
    for name, paths in pairs.items():
        try:
            truth, found = (
                read_notes(path, apply_sustain=apply_sustain, log=warnings.append)
                for path in paths
            )
            matches = counts.song_counts(truth, found, **options)
            played = instruments.count_instruments(truth, found)
        except errors.MidiError as error:
            message = str(error)
            named = any(str(path) in message for path in paths)
            failures[name] = message if named else f"{paths[1]}: {message}"
            continue
        except (MemoryError, RecursionError) as error:
            failures[name] = f"{paths[1]}: cannot be scored: {type(error).__name__}"
            continue
        scores = counts.scores_of_counts(matches) | played.scores()
        songs.append(
            SongScore(
                name,
                *paths,
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
        warnings=tuple(warnings),
    )


def read_notes(
    path: Path,
    *,
    apply_sustain: bool = True,
    log: Callable[[str], None] | None = None,
) -> list[Note]:
    """Reads a MIDI file, or JSON, JSON lines or CSV by the ending of its name.

    Args:
      path: the file.
      apply_sustain: as for `read_midi`.
      log: as for `read_midi`.

    Raises:
      MidiError: it cannot be read; the message names it.
    """
    if path.suffix.lower() in reading.SUFFIXES:
        return reading.read_notes(path)
    return read_midi(path, apply_sustain=apply_sustain, log=log)


def pair_files(
    reference: str | os.PathLike[str], estimate: str | os.PathLike[str]
) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pairs files, or the files of two folders by stem.

    Returns:
      (reference, estimate) by name, and messages by name of files without partner.

    Raises:
      MidiError: as `score_files`.
    """
    sides = Path(reference), Path(estimate)
    for path in sides:
        try:
            path.stat()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise errors.MidiError(f"{path}: {reason}") from error
    folders = [path for path in sides if path.is_dir()]
    if len(folders) == 1:
        (file,) = set(sides) - set(folders)
        raise errors.MidiError(
            f"scoring: {folders[0]} is a folder but {file} is a file; expected two "
            "files or two folders"
        )
    if not folders:
        return {sides[1].stem: sides}, {}
    failures: dict[str, str] = {}
    truths, found = (_by_stem(folder, failures) for folder in folders)
    for name in sorted(truths.keys() ^ found.keys()):
        have, lacking = (truths, sides[1]) if name in truths else (found, sides[0])
        failures.setdefault(
            name,
            f"{have[name]}: no partner: found no {name} with {_ENDINGS} in {lacking}",
        )
    both = sorted((truths.keys() & found.keys()) - failures.keys())
    if not both and not failures:
        raise errors.MidiError(
            f"scoring: no files of notes ({_ENDINGS}) in {sides[0]} or {sides[1]}"
        )
    return {name: (truths[name], found[name]) for name in both}, failures


_ENDINGS = "/".join((*MIDI_SUFFIXES, *reading.SUFFIXES))


def _by_stem(folder: Path, failures: dict[str, str]) -> dict[str, Path]:
    """Returns a folder's files of notes by relative path without extension."""
    searched = files.search(folder, (*MIDI_SUFFIXES, *reading.SUFFIXES))
    if searched.problems:
        failures[str(folder)] = "; ".join(searched.problems)
    ranks = dict.fromkeys(MIDI_SUFFIXES, -1)
    ranks |= {suffix: rank for rank, suffix in enumerate(reading.SUFFIXES)}
    found: dict[str, Path] = {}
    for path in sorted(
        map(Path, searched.files), key=lambda path: ranks[path.suffix.lower()]
    ):
        name = path.relative_to(folder).with_suffix("").as_posix()
        suffix = path.suffix.lower()
        if suffix in MIDI_SUFFIXES:
            if name in found:
                failures[name] = (
                    f"{path}: same name as {found[name]}; expected one file"
                )
            found[name] = path
        elif is_ours(path, suffix[1:]):
            found.setdefault(name, path)
    return found


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
    """Returns the main scores (`counts.MAIN_METRICS`) as aligned text, "" for none."""
    main = {name: scores[name] for name in counts.MAIN_METRICS if name in scores}
    return "\n".join([*_score_lines({"score": main}), ""]) if main else ""


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
