"""Music from scores: music21's corpus, and accompaniments by MMA.

free_scores      the works of music21's corpus that may be used, and reasons for others
convert_scores   works -> MIDI files, with Verovio
random_song      a song for the accompaniment program MMA: chords in random grooves
make_songs       such songs -> MIDI files, with the program
"""

from __future__ import annotations

import base64
import glob
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mt3.errors import DataError

_SUFFIXES = (".abc", ".krn", ".mxl", ".xml")
# Year of the composer's death, or of the collection, by folder of music21's corpus.
# Other folders are not used: exercises, tests, a song collection whose licence excludes
# commercial use, lead sheets of the 20th century.
_YEARS = {
    "airdsAirs": 1801,
    "bach": 1750,
    "beethoven": 1827,
    "chopin": 1849,
    "ciconia": 1412,
    "corelli": 1713,
    "cpebach": 1788,
    "handel": 1759,
    "haydn": 1809,
    "johnson_j_r": 1954,
    "joplin": 1917,
    "josquin": 1521,
    "liliuokalani": 1917,
    "luca": 1426,
    "lusitano": 1561,
    "miscFolk": 1882,
    "monteverdi": 1643,
    "mozart": 1791,
    "oneills1850": 1903,
    "palestrina": 1594,
    "ryansMammoth": 1883,
    "schoenberg": 1951,
    "schubert": 1828,
    "schumann_clara": 1896,
    "schumann_robert": 1856,
    "trecento": 1420,
    "verdi": 1901,
    "weber": 1826,
    "webern": 1945,
}
# Phrases in encodings that restrict their use.
_RESTRICTED = re.compile(
    r"non-?\s?commercial|by-nc|all rights reserved|formats reserved|licensing agreement"
    r"|personal use|edizioni",
    re.IGNORECASE,
)
# Verovio is a C++ library that some scores crash; each batch has its own process.
_BATCH = 16
_BATCH_SECONDS = 240


def free_scores(
    corpus: Path, died_before: int = 1926
) -> tuple[list[Path], dict[Path, str]]:
    """Divides music21's corpus into files that may be used and others.

    Args:
      corpus: the folder `music21/corpus`.
      died_before: composers must have died, or collections appeared, before this year.

    Returns:
      Files to use, and the reason for each other file.
    """
    used, refused = [], {}
    for path in sorted(p for p in corpus.rglob("*") if p.suffix in _SUFFIXES):
        folder = path.relative_to(corpus).parts[0]
        year = _YEARS.get(folder)
        if year is None:
            refused[path] = f"{folder}: not known to be free"
        elif year >= died_before:
            refused[path] = f"{folder}: {year} is not before {died_before}"
        else:
            match = _RESTRICTED.search(read_score(path))
            if match is None:
                used.append(path)
            else:
                refused[path] = f'{folder}: the file says "{match.group()}"'
    return used, refused


def read_score(path: Path) -> str:
    """Returns a score's text, also from compressed MusicXML.

    Raises:
      DataError: if it cannot be read.
    """
    try:
        if path.suffix != ".mxl":
            return path.read_text(encoding="utf-8", errors="replace")
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("xml") and not name.startswith("META-INF"):
                    return archive.read(name).decode("utf-8", "replace")
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the score cannot be read: {error}.") from error
    raise DataError(f"{path}: the compressed score contains no MusicXML.")


def tunes_of(path: Path) -> list[str]:
    """Returns the tunes of a file: ABC collections contain many, others one."""
    text = read_score(path)
    if path.suffix != ".abc":
        return [text]
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    return [
        text[start:end]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
    ]


def convert_scores(
    files: Sequence[Path],
    root: Path,
    output: Path,
    verovio_path: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, str]]:
    """Converts scores to MIDI files, in batches with a process each.

    Args:
      files: scores; results that exist already are kept.
      root: the folder of the scores; results have the same relative paths in `output`.
      output: folder to write to.
      verovio_path: folder to import Verovio from, if it is not installed.
      progress: called with a line from time to time.

    Returns:
      The number of scores with results, and the reason for each other score.
    """
    failures: dict[str, str] = {}
    waiting = [path for path in files if not _results(path, root, output)]
    for first in range(0, len(waiting), _BATCH):
        if progress is not None and first % (16 * _BATCH) == 0:
            progress(f"converting scores: {first} of {len(waiting)}")
        batch = waiting[first : first + _BATCH]
        error = _run_batch(batch, root, output, verovio_path)
        for path in batch if error else ():
            # One of them stopped the batch: convert each in its own process.
            if not _results(path, root, output):
                reason = _run_batch([path], root, output, verovio_path)
                if reason:
                    failures[str(path.relative_to(root))] = reason
    for path in waiting:
        name = str(path.relative_to(root))
        if name not in failures and not _results(path, root, output):
            failures[name] = "Verovio could not convert it"
    return len(files) - len(failures), failures


def _results(path: Path, root: Path, output: Path) -> list[Path]:
    folder = (output / path.relative_to(root)).parent
    return (
        sorted(folder.glob(f"{glob.escape(path.stem)}.*.mid"))
        if folder.is_dir()
        else []
    )


def _run_batch(
    batch: Sequence[Path], root: Path, output: Path, verovio_path: Path | None
) -> str | None:
    """Converts some scores in a process; returns its error if the process failed."""
    command = [sys.executable, __file__, str(root), str(output), *map(str, batch)]
    folders = [str(verovio_path)] if verovio_path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders + sys.path)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BATCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no result after {_BATCH_SECONDS} s"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return last[:200]


def _convert_here(arguments: Sequence[str]) -> None:
    """Converts scores in a process of their own; skips those that Verovio refuses."""
    # Not a requirement of this package: it is downloaded together with the scores.
    import verovio

    root, output = Path(arguments[0]), Path(arguments[1])
    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    for path in map(Path, arguments[2:]):
        target = output / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        for number, tune in enumerate(tunes_of(path)):
            if toolkit.loadData(tune):
                data = base64.b64decode(toolkit.renderToMIDI())
                target.with_name(f"{path.stem}.{number:04d}.mid").write_bytes(data)


_KEYS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
# Chords by degree of a major key, as MMA writes their kind.
_DEGREES = ((0, ""), (2, "m"), (4, "m"), (5, ""), (7, ""), (9, "m"), (11, "dim"))
_COLOURS = {
    "": ("", "", "M7", "6", "7", "9"),
    "m": ("m", "m", "m7", "m9"),
    "dim": ("dim7",),
}


def random_song(
    rng: np.random.Generator, grooves: Sequence[str], bars: int = 32
) -> str:
    """Writes a song for MMA: random chords of a key, in one to three grooves.

    Args:
      rng: source of randomness.
      grooves: names of grooves to draw from.
      bars: the song's length.
    """
    tonic = int(rng.integers(12))
    lines = [f"Tempo {int(rng.integers(60, 190))}", f"KeySig {_KEYS[tonic]}"]
    change = max(bars // int(rng.integers(1, 4)), 1)
    for bar in range(bars):
        if bar % change == 0:
            lines.append(f"Groove {grooves[int(rng.integers(len(grooves)))]}")
        chords = [_random_chord(rng, tonic) for _ in range(1 + (rng.random() < 0.3))]
        lines.append(f"{bar + 1} {' / '.join(chords)}")
    return "\n".join(lines) + "\n"


def _random_chord(rng: np.random.Generator, tonic: int) -> str:
    if rng.random() < 0.15:
        step, kind = int(rng.integers(12)), str(rng.choice(["", "m"]))
    else:
        step, kind = _DEGREES[int(rng.integers(len(_DEGREES)))]
    colours = _COLOURS[kind]
    return _KEYS[(tonic + step) % 12] + colours[int(rng.integers(len(colours)))]


def grooves_of(library: Path) -> list[str]:
    """Returns the names of the grooves that MMA's library files define."""
    found: set[str] = set()
    for path in library.rglob("*.mma"):
        text = path.read_text(encoding="latin-1")
        found.update(re.findall(r"^\s*DefGroove\s+([\w-]+)", text, re.MULTILINE))
    return sorted(found)


def make_songs(
    program: str, library: Path, output: Path, count: int, seed: int
) -> tuple[int, dict[str, str]]:
    """Makes accompaniments with MMA; those that exist already are kept.

    Args:
      program: the program `mma`.
      library: its library of grooves.
      output: folder to write to.
      count: total number of songs.
      seed: the n-th song is a function of it and of n.

    Returns:
      The number of songs that exist, and the reason for each missing one.

    Raises:
      DataError: if the library has no grooves.
    """
    grooves = grooves_of(library)
    if not grooves:
        raise DataError(f"{library}: MMA's library defines no grooves.")
    output.mkdir(parents=True, exist_ok=True)
    failures = {}
    for number in range(count):
        target = output / f"mma_{seed}_{number:05d}.mid"
        if target.exists():
            continue
        song = random_song(np.random.default_rng([seed, number]), grooves)
        error = _run_mma(program, song, target)
        if error:
            failures[target.name] = error
    return count - len(failures), failures


def _run_mma(program: str, song: str, target: Path) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "song.mma"
        result = Path(folder) / "song.mid"
        source.write_text(song)
        try:
            done = subprocess.run(
                [program, "-f", str(result), str(source)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)[:200]
        if done.returncode or not result.is_file():
            said = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
            return said[-1][:200]
        target.write_bytes(result.read_bytes())
    return None


if __name__ == "__main__":
    _convert_here(sys.argv[1:])
