"""Transcriptions to files: MIDI, scores, JSON, CSV, pictures, reports and sound.

    result = Transcription(notes=notes, duration=30.0, source="song.wav")
    write(result, "out/song", ["mid", "csv"])    # out/song.mid, out/song.csv

Every file is written whole or not at all, and an error names path and reason.
The format modules are imported when their format is asked for.

Every file says near its beginning that this software wrote it (`is_ours`), so that a
file of the same name and of another origin is neither taken for a result nor replaced.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mt3 import errors
from mt3.files import atomic_file
from mt3.midi import general_midi
from mt3.note_sequences import DEFAULT_VELOCITY
from mt3.outputs.quantize import AUTO, STRAIGHT, check_grid, quantize_notes
from mt3.outputs.transcription import NOTE_COLUMNS, Transcription

if TYPE_CHECKING:
    from mt3.outputs.score.notation import Score

__all__ = [
    "FORMATS",
    "NOTE_COLUMNS",
    "WITH_BEATS",
    "OutputOptions",
    "Transcription",
    "Written",
    "atomic_file",
    "check_formats",
    "format_of",
    "is_ours",
    "output_path",
    "score_to_show",
    "write",
    "write_file",
    "write_stream",
]

# Format -> (end of the file's name, what it is). The sonification has a name that
# no recording is likely to have: "song.wav" may be what was transcribed.
FORMATS: dict[str, tuple[str, str]] = {
    "mid": (".mid", "MIDI file, one track per instrument"),
    "json": (".json", "notes and how they came about"),
    "jsonl": (".jsonl", "one note per line"),
    "csv": (".csv", "table of notes"),
    "png": (".png", "picture of the piano roll"),
    "html": (".html", "report to look at, listen to and search"),
    "wav": (".notes.wav", "the notes, made audible"),
    "musicxml": (".musicxml", "sheet music for notation programs"),
    "mxl": (".mxl", "the same, compressed"),
    "pdf": (".pdf", "sheet music to print"),
}
# Formats that are written better where beats are known.
WITH_BEATS = frozenset({"mid", "html", "musicxml", "mxl", "pdf"})
# What sheet music needs beside the base install, and pip's name for it.
_DRAWING = ("partitura", "verovio")
_PACKAGES: dict[str, tuple[str, ...]] = {
    "musicxml": ("partitura",),
    "mxl": ("partitura",),
    "pdf": (*_DRAWING, "cairosvg", "pypdf"),
}
_SCORE_EXTRA = "mt3-transcription[score]"
# Scores of longer recordings, in seconds, are left out of reports: a page of sheet
# music is as long as the rest of the report of a song.
_LONGEST_SCORE_IN_REPORT = 1200.0
# What the first bytes of each format are when we wrote it: its mark, or its columns.
# A recording without notes has no lines.
_COLUMNS = b",".join(name.encode() for name in NOTE_COLUMNS)
_MARKS: dict[str, bytes] = {
    "mid": rb"MThd.*Transcribed by mt3 ",
    "json": rb'\{\s*"format": *"mt3-transcription"',
    "jsonl": rb'\Z|\{"start_time": [^\n]*"instrument": "[^\n]*"is_drum": ',
    "csv": re.escape(_COLUMNS),
    "png": rb"\x89PNG.*tEXtSoftware\0mt3 ",
    "html": rb'<!DOCTYPE html>.*<meta name="generator" content="mt3 ',
    "wav": rb"RIFF.*ISFT....mt3 ",
    "musicxml": rb"<\?xml.*<score-partwise.*<software>mt3 ",
    "mxl": rb"PK\x03\x04.*META-INF/container\.xml.*<!-- mt3 ",
    "pdf": rb"%PDF.*/Producer \(mt3 ",
}
_HEAD_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """Settings of the formats.

    Attributes:
      tempo: beats per minute of MIDI files and scores where no beats are known.
      quantize: grid that starts and ends of notes move to (`quantize.GRIDS`) in every
        format; None to leave them where they are. Sheet music is on a grid anyway,
        "auto" without this.
      swing: share of a beat that its first half takes on that grid, 0.5 to 0.75.
      velocities: whether notes keep theirs; else all have the same.
      tablature: whether guitars and basses get a second staff of their strings.
      scores: metric values to show in the report.
      original_audio: recording to put left of the notes in WAV files: a path or an
        `reading.AudioSource`; None for the notes alone.
      sample_rate: Hz of WAV files.

    Raises:
      ConfigError: a tempo out of range.
    """

    tempo: float = 120.0
    quantize: str | None = None
    swing: float = STRAIGHT
    velocities: bool = True
    tablature: bool = False
    scores: Mapping[str, float] | None = None
    original_audio: Any = None
    sample_rate: int = 22050

    def __post_init__(self) -> None:
        errors.check_number(
            "tempo in beats per minute", self.tempo, *general_midi.TEMPO_RANGE
        )
        check_grid(self.quantize, self.swing)


@dataclasses.dataclass(frozen=True)
class Written:
    """One file that was written.

    Attributes:
      path: where it lies.
      format: which of `FORMATS` it has.
      warnings: what the format could not hold.
    """

    path: Path
    format: str
    warnings: tuple[str, ...] = ()


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Returns the formats without repeats.

    Raises:
      OutputError: an unknown format, with those of similar names; or one that needs
        packages which are not installed.
    """
    # One name is a list of letters, too.
    formats = [formats] if isinstance(formats, str) else formats
    formats = tuple(dict.fromkeys(formats))
    for name in formats:
        if name not in FORMATS:
            raise errors.OutputError(
                f"unknown output format {name!r}.{errors.near_misses(name, FORMATS)}"
            )
        if missing := _missing(_PACKAGES.get(name, ())):
            raise errors.OutputError(
                f"output format {name}: it needs {', '.join(missing)}, not installed; "
                f"pip install '{_SCORE_EXTRA}'"
            )
        if name == "pdf":
            _check_cairo()
    return formats


def _check_cairo() -> None:
    """Raises OutputError unless the library is there that CairoSVG draws with."""
    try:
        importlib.import_module("cairosvg")
    except OSError as error:
        raise errors.OutputError(
            "output format pdf: the Cairo library is not installed (Debian: apt-get "
            "install libcairo2; macOS: brew install cairo)"
        ) from error


def _missing(packages: Iterable[str]) -> list[str]:
    """Returns the packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def output_path(path_stem: str | os.PathLike[str], format: str) -> Path:
    """Returns the path that `write` gives a format; dots in the stem are kept."""
    check_formats([format])
    return Path(os.fspath(path_stem) + FORMATS[format][0])


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Returns the format that a file's name asks for; None where it asks for none."""
    endings = {end[end.rindex(".") :]: name for name, (end, _) in FORMATS.items()}
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    return (endings | {".midi": "mid", ".xml": "musicxml"}).get(suffix)


def is_ours(path: str | os.PathLike[str], format: str) -> bool:
    """Says whether a file is a result of this software.

    MIDI files, JSON, JSON lines and CSV of earlier versions are recognised, too.
    Pictures, reports and sound of versions before 0.7.0 have no mark.

    Args:
      path: any path; what is not there or cannot be read is not ours.
      format: what the file should be, one of `FORMATS`.
    """
    # Opening a pipe would wait for its other end.
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return re.match(_MARKS[format], head, re.DOTALL) is not None


def write(
    result: Transcription,
    path_stem: str | os.PathLike[str],
    formats: Iterable[str],
    options: OutputOptions | None = None,
) -> list[Written]:
    """Writes a transcription in several formats.

    Args:
      result: what to write.
      path_stem: path without extension; missing folders are made.
      formats: keys of `FORMATS`.
      options: settings of the formats.

    Returns:
      The files, in the order of `formats`.

    Raises:
      OutputError: an unknown format (then nothing is written), or a file that
        cannot be written (those before it stay, it is not there).
    """
    return [
        write_file(result, output_path(path_stem, name), name, options)
        for name in check_formats(formats)
    ]


def write_file(
    result: Transcription,
    path: str | os.PathLike[str],
    format: str,
    options: OutputOptions | None = None,
) -> Written:
    """Writes one format to a file of any name, replacing what bears it.

    Raises:
      OutputError: an unknown format, or the file cannot be written.
    """
    with atomic_file(path) as stream:
        warnings = write_stream(result, stream, format, options)
    return Written(Path(path), format, tuple(warnings))


def write_stream(
    result: Transcription,
    stream: BinaryIO,
    format: str,
    options: OutputOptions | None = None,
) -> list[str]:
    """Writes one format to an open binary file (WAV needs one that can seek).

    Returns:
      Warnings: what the format could not hold.

    Raises:
      OutputError: an unknown format.
    """
    check_formats([format])
    options = options or OutputOptions()
    result, warnings = _adjusted(result, options)
    if format == "mid":
        warnings += _module("midi").write_midi(result, stream, tempo=options.tempo)
    elif format in ("json", "jsonl", "csv"):
        getattr(_module("tables"), f"write_{format}")(result, stream)
    elif format == "png":
        _module("pianoroll").write_png(result, stream)
    elif format == "html":
        score = score_to_show(result, options)
        _module("report").write_html(result, stream, scores=options.scores, score=score)
    elif format == "wav":
        _module("sonify").write_wav(
            result,
            stream,
            sample_rate=options.sample_rate,
            original=options.original_audio,
        )
    else:
        score = _score(result, options)
        # It is on a grid in any case.
        warnings = list(score.warnings)
        write = _module("score.engraving" if format == "pdf" else "score.musicxml")
        write = getattr(write, f"write_{format}")
        write(score, stream, software=f"mt3 {result.version}")
    return warnings


def _adjusted(
    result: Transcription, options: OutputOptions
) -> tuple[Transcription, list[str]]:
    """Returns the transcription as the options want it, and warnings."""
    notes, warnings = result.notes, []
    if not options.velocities:
        notes = [dataclasses.replace(n, velocity=DEFAULT_VELOCITY) for n in notes]
    if options.quantize is not None and result.beats is not None:
        notes = quantize_notes(
            notes, result.beats, options.quantize, swing=options.swing
        )
    elif options.quantize is not None and notes:
        warnings.append("no beats were found: the notes stay where they are")
    return dataclasses.replace(result, notes=notes), warnings


def _score(result: Transcription, options: OutputOptions) -> Score:
    """Returns the transcription as sheet music."""
    return _module("score.notation").make_score(
        result,
        grid=options.quantize or AUTO,
        swing=options.swing,
        tablature=options.tablature,
        tempo=options.tempo,
    )


def score_to_show(
    result: Transcription, options: OutputOptions | None = None
) -> Score | None:
    """Returns the sheet music that a page shows.

    It is None without beats or notes, for long recordings, and where the packages are
    not installed that draw it.
    """
    if (
        result.beats is None
        or not result.notes
        or result.end_time > _LONGEST_SCORE_IN_REPORT
        or _missing(_DRAWING)
    ):
        return None
    return _score(result, options or OutputOptions())


def _module(name: str):
    return importlib.import_module(f"mt3.outputs.{name}")
