"""Scores of files of notes against references: `mt3 score`.

The files are MIDI, or JSON, JSON lines or CSV that `mt3 transcribe` wrote; reference
and estimate may be of different kinds. A pair of files is scored, or two folders whose
files are paired by their path without extension. Where a folder has a name in several
kinds, the first of the order above counts; of two MIDI files (`a.mid`, `a.midi`) none
does. JSON and CSV of other origin are passed over: data sets have lists in them.

Scores are those of `counts` and `instruments`, or of another of the `conventions`, per
song and averaged over songs; with several songs also over all of them together
("micro"), and a table of the instrument classes.

A song that cannot be scored, for whatever reason, does not cost the others.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import mt3
from mt3 import errors, files
from mt3.midi.reader import MIDI_SUFFIXES, read_midi
from mt3.note_sequences import Note, notes_to_array
from mt3.outputs import is_ours, reading
from mt3.scoring import conventions, counts, instruments, matching
from mt3.scoring.counts import MatchCounts
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
      counts: what the scores are ratios of, those of songs that add up.
      classes: notes and matches by instrument class.
      sha256: hashes of the reference and the estimate, hexadecimal.
    """

    name: str
    reference: Path
    estimate: Path
    num_reference_notes: int
    num_estimated_notes: int
    scores: Mapping[str, float]
    counts: tuple[MatchCounts, ...] = ()
    classes: Mapping[str, ClassCounts] = dataclasses.field(default_factory=dict)
    sha256: tuple[str, str] = ("", "")


@dataclasses.dataclass(frozen=True)
class ScoreReport:
    """Everything that scoring found.

    Attributes:
      songs: songs that were scored.
      failures: message by song name, of files without partner and unreadable files;
        by path, of folders that cannot be entered.
      settings: what the scores were computed with.
      warnings: lines about what was passed over in files, each naming its file.
      mean: scores averaged over the songs.
      micro: scores of all songs together, their notes added up.
      classes: notes and matches by instrument class, of all songs together.
    """

    songs: tuple[SongScore, ...]
    failures: Mapping[str, str]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    mean: Mapping[str, float] = dataclasses.field(init=False)
    micro: Mapping[str, float] = dataclasses.field(init=False)
    classes: Mapping[str, ClassCounts] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        convention = conventions.convention(self.settings["convention"])
        mean = counts.mean_metrics([song.scores for song in self.songs])
        micro = counts.micro_metrics(
            (song.counts for song in self.songs), empty=convention.empty
        )
        derived = {
            "mean": mean,
            "micro": {name: value for name, value in micro.items() if name in mean},
            "classes": instruments.add_classes(song.classes for song in self.songs),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def exit_code(self) -> int:
        """0 when every song was scored, else 1."""
        return 1 if self.failures or not self.songs else 0

    def of_songs(self, names: Sequence[str]) -> ScoreReport:
        """Returns the report of some of the songs, in the order of `names`."""
        by_name = {song.name: song for song in self.songs}
        chosen = tuple(by_name[name] for name in names)
        return ScoreReport(chosen, self.failures, self.settings, self.warnings)


def score_files(
    reference: str | os.PathLike[str],
    estimate: str | os.PathLike[str],
    *,
    convention: str = conventions.DEFAULT,
    apply_sustain: bool = True,
    start: float = 0.0,
    end: float | None = None,
    metrics: Sequence[str] = (),
    **options: Any,
) -> ScoreReport:
    """Scores a pair of files of notes, or two folders of them.

    A song that fails is named in the report and the others are scored.

    Args:
      reference: file or folder with the truth; see the module for the kinds.
      estimate: file or folder with transcriptions.
      convention: what is counted, a name of `conventions.CONVENTIONS`.
      apply_sustain: lengthen notes of MIDI files by the sustain pedal.
      start: only notes from here on, seconds; see `cut_notes`.
      end: only notes before this, seconds; None for the song's end.
      metrics: names or patterns of the scores to keep ("*F1*"); all by default.
      **options: as for `counts.song_counts`, with the default convention.

    Returns:
      The report; nothing is printed.

    Raises:
      MidiError: a path that does not exist, or a file where the other is a folder.
      ConfigError: a pattern that no metric has, an unknown convention, options of
        another than the default, or an end that is not after the start.
    """
    rules = conventions.convention(convention)
    if options and convention != conventions.DEFAULT:
        raise errors.ConfigError(
            f"scoring: {', '.join(options)} with the convention {convention}, which "
            "says what is counted; expected one of the two"
        )
    check_part(start, end)
    pairs, failures = pair_files(reference, estimate)
    songs: list[SongScore] = []
    warnings: list[str] = []
    for name, paths in pairs.items():
        try:
            truth, found = read_pair(
                paths,
                apply_sustain=apply_sustain,
                start=start,
                end=end,
                log=warnings.append,
            )
            matches = rules.count(truth, found, **options)
            played = instruments.count_instruments(truth, found)
            hashes = tuple(map(_sha256, paths))
        except (errors.MidiError, OSError) as error:
            message = str(error)
            named = any(str(path) in message for path in paths)
            failures[name] = message if named else f"{paths[1]}: {message}"
            continue
        except (MemoryError, RecursionError) as error:
            failures[name] = f"{paths[1]}: cannot be scored: {type(error).__name__}"
            continue
        scores = counts.scores_of_counts(matches, empty=rules.empty)
        if rules.instruments:
            scores |= played.scores()
            matches = [*matches, *played.detection]
        songs.append(
            SongScore(
                name,
                *paths,
                len(truth),
                len(found),
                select_metrics(scores, metrics),
                tuple(matches),
                played.classes,
                hashes,
            )
        )
    settings = {
        "convention": convention,
        "reference": os.fspath(reference),
        "estimate": os.fspath(estimate),
        "apply_sustain": apply_sustain,
        "start": start,
        "end": end,
        "metrics": list(metrics),
        "onset_tolerance": matching.ONSET_TOLERANCE,
        "offset_ratio": matching.OFFSET_RATIO,
        "offset_min_tolerance": matching.OFFSET_MIN_TOLERANCE,
        "velocity_tolerance": matching.VELOCITY_TOLERANCE,
        "frames_per_second": matching.FRAMES_PER_SECOND,
        "frame_velocity_threshold": matching.REFERENCE_VELOCITY_THRESHOLD,
        "empty": rules.empty,
        **rules.settings,
        **options,
        "versions": {
            "mt3": mt3.__version__,
            **{name: metadata.version(name) for name in ("mir_eval", "numpy")},
        },
    }
    return ScoreReport(tuple(songs), failures, settings, tuple(warnings))


def check_part(start: float, end: float | None) -> None:
    """Raises ConfigError unless a part of songs begins at 0 or later and has length."""
    errors.check_number("scoring: start in seconds", start, 0)
    if end is not None:
        errors.check_number("scoring: end in seconds", end, 0)
        if end <= start:
            raise errors.ConfigError(
                f"scoring: end {end:g} s is not after start {start:g} s"
            )


def cut_notes(
    notes: np.ndarray, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Returns the notes of a part of a song.

    Args:
      notes: [n] of `NOTE_DTYPE`.
      start: where the part begins, seconds. Notes that began before it are left out.
      end: where it ends; notes end there at the latest. None for the song's end.

    Returns:
      The notes that begin in the part, in their order and with their times.
    """
    if end is None:
        return notes[notes["start_time"] >= start] if start else notes
    notes = notes[(notes["start_time"] >= start) & (notes["start_time"] < end)].copy()
    notes["end_time"] = np.minimum(notes["end_time"], end)
    return notes


def _sha256(path: Path) -> str:
    # A pipe has been read to its end.
    return files.file_sha256(path) if path.is_file() else ""


def read_pair(
    paths: tuple[Path, Path],
    *,
    apply_sustain: bool = True,
    start: float = 0.0,
    end: float | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the notes of a reference and an estimate, arrays of `NOTE_DTYPE`.

    Arguments as for `read_notes` and `cut_notes`.

    Raises:
      MidiError: one cannot be read; the message names it.
    """
    truth, found = (
        cut_notes(
            notes_to_array(read_notes(path, apply_sustain=apply_sustain, log=log)),
            start,
            end,
        )
        for path in paths
    )
    return truth, found


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
