"""The command `mt3 score`: prints scores, writes them, draws what was matched."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from mt3 import files, terminal
from mt3.errors import ConfigError, OutputError
from mt3.outputs import is_ours
from mt3.scoring import comparison, conventions, picture, tables
from mt3.scoring import files as scored_files
from mt3.scoring.comparison import Comparison
from mt3.scoring.files import ScoreReport, SongScore

SUFFIXES = (".csv", ".json", ".png")


@dataclasses.dataclass(frozen=True)
class _Output:
    """Where scores are written.

    Attributes:
      path: a file or a folder.
      suffix: of `SUFFIXES`; "" for a folder, which gets everything.
    """

    path: Path
    suffix: str


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code.

    Raises:
      MT3Error: as `files.score_files` and `comparison.compare`, or because of where
        the scores are to be written.
    """
    output = _choose_output(options)
    settings = {
        "convention": options.convention,
        "apply_sustain": options.apply_sustain,
        "start": options.start,
        "end": options.end,
        "metrics": [m.strip() for m in options.metrics.split(",") if m.strip()],
    }
    if options.compare:
        estimates = [*filter(None, [options.estimate]), *options.compare]
        result = comparison.compare(options.reference, estimates, **settings)
        failures = {
            f"{system}: {song}": message
            for system, messages in result.failures.items()
            for song, message in messages.items()
        }
    elif options.estimate:
        result = scored_files.score_files(
            options.reference, options.estimate, **settings
        )
        failures = result.failures
    else:
        raise ConfigError("mt3 score: expected an estimate, or systems to --compare")
    text = tables.to_json(result) + "\n" if options.json else _table(result, options)
    terminal.print_result(text, end="")
    for line in result.warnings:
        terminal.warn(line)
    for name, problem in failures.items():
        terminal.fail(f"{name}: {problem}")
    if output:
        for line in _write(result, output):
            terminal.say(f"mt3: wrote {line}")
    return result.exit_code


def _table(result: ScoreReport | Comparison, options: argparse.Namespace) -> str:
    if isinstance(result, ScoreReport):
        if options.main:
            return tables.format_short_table(result)
        return tables.format_table(result, classes=not options.metrics)
    known = next(iter(result.systems.values())).mean
    main = conventions.convention(options.convention).main
    shown = [name for name in known if options.metrics or name in main]
    return tables.format_comparison(result, shown)


def _choose_output(options: argparse.Namespace) -> _Output | None:
    """Says what `-o` asks for.

    Raises:
      ConfigError: a name of another ending, or a picture of several pairs.
      OutputError: nothing can be written there.
    """
    if not options.output:
        return None
    path = Path(options.output)
    is_folder = options.output.endswith((os.sep, "/")) or not path.suffix
    if is_folder or path.is_dir():
        output = _Output(path, "")
    elif path.suffix.lower() in SUFFIXES:
        output = _Output(path, path.suffix.lower())
    else:
        raise ConfigError(
            f"--output {path}: ends in {path.suffix}; expected a folder or "
            f"{', '.join(SUFFIXES)}"
        )
    pair = filter(None, [options.reference, options.estimate])
    several = options.compare or any(Path(name).is_dir() for name in pair)
    if output.suffix == ".png" and several:
        raise ConfigError(
            f"--output {path}: a picture shows one pair of files; expected a folder "
            "for the pictures of several"
        )
    if output.suffix in (".csv", ".json") and is_ours(path, output.suffix[1:]):
        raise ConfigError(f"--output {path}: holds notes; expected another name")
    folder = path.parent if output.suffix else path
    reason = files.why_unwritable(os.fspath(folder))
    if reason:
        raise OutputError(f"{folder}: results cannot be written here: {reason}")
    return output


def _write(result: ScoreReport | Comparison, output: _Output) -> list[str]:
    """Writes what was asked for; returns what it wrote, for messages."""
    if output.suffix:
        path = output.path
        if output.suffix == ".json":
            texts = {path: tables.to_json(result)}
        else:
            # JSON has the settings in it.
            texts = {path.with_suffix(".settings.json"): tables.settings_json(result)}
        if output.suffix == ".csv":
            texts = {path: tables.to_csv(result), **texts}
        if output.suffix == ".png":
            for song in result.songs:
                _draw(song, result.settings, path)
            return [*(str(path) for _ in result.songs), *_write_texts(texts)]
        return _write_texts(texts)
    folder = output.path
    written = _write_texts(
        {
            folder / "scores.csv": tables.to_csv(result),
            folder / "scores.json": tables.to_json(result),
        }
    )
    reports = {"": result}
    if isinstance(result, Comparison):
        reports = {name: system.report for name, system in result.systems.items()}
    drawn = 0
    for name, report in reports.items():
        for song in report.songs:
            path = folder / name / f"{song.name}.matches.png"
            _draw(song, report.settings, path)
            drawn += 1
    return [*written, f"{drawn} picture{'' if drawn == 1 else 's'} below {folder}"]


def _write_texts(texts: Mapping[Path, str]) -> list[str]:
    for path, text in texts.items():
        files.write_text(path, text.rstrip("\n") + "\n")
    return list(map(str, texts))


def _draw(song: SongScore, settings: Mapping[str, object], path: Path) -> None:
    """Draws which notes of a song were matched."""
    sides = scored_files.read_pair(
        (song.reference, song.estimate),
        apply_sustain=settings["apply_sustain"],
        start=settings["start"],
        end=settings["end"],
    )
    title = f"{song.name}: {song.estimate} against {song.reference}"
    with files.atomic_file(path) as file:
        picture.write_picture(picture.compare_notes(*sides), title, file)
