"""Peak memory of `mt3 transcribe` against the length of the audio and number of files.

Makes recordings of each length by repeating a short one, and folders of as many short
recordings; transcribes each in a process of its own, and prints peak resident memory
and the speed.

    python benchmarks/memory.py --minutes 1 10 60 120 --files 1 10 100

What a process holds before it has transcribed anything (Python, JAX, compiled
programs, weights) is about what the shortest recording shows.
"""

# check: needs hours

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import soundfile

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """What one process needed.

    Attributes:
      minutes: of audio in all.
      files: how many.
      seconds: that it took.
      megabytes: peak resident memory.
    """

    minutes: float
    files: int
    seconds: float
    megabytes: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 10, 60, 120])
    parser.add_argument("--files", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument(
        "--file-minutes", type=float, default=0.2, help="length of each of many files"
    )
    parser.add_argument("--audio", default=str(ROOT / "examples" / "example.flac"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--json", help="also write the rows here")
    return parser.parse_args(arguments)


def make_recording(source: str, minutes: float, path: Path) -> None:
    """Repeats a recording until it has the asked-for length."""
    samples, rate = soundfile.read(source, dtype="int16")
    left = int(minutes * 60 * rate)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        while left > 0:
            file.write(samples[:left])
            left -= len(samples[:left])


def measure(source: Path, model: str, output: Path) -> tuple[float, float]:
    """Transcribes in a child process; returns seconds and peak megabytes."""
    command = [sys.executable, "-m", "mt3.cli", "transcribe", str(source), "-q"]
    command += ["-o", str(output), "--model", model]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    # Bytes on macOS, kibibytes elsewhere.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, usage.ru_maxrss / scale


def run_case(options: argparse.Namespace, minutes: float, files: int) -> Row:
    """Transcribes a folder of recordings, each of the given number of minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "audio"
        folder.mkdir()
        first = folder / "0.wav"
        make_recording(options.audio, minutes, first)
        for number in range(1, files):
            shutil.copyfile(first, folder / f"{number}.wav")
        seconds, peak = measure(folder, options.model, Path(name) / "results")
        found = len(list((Path(name) / "results").rglob("*.mid")))
        if found != files:
            raise SystemExit(f"{found} results of {files} recordings")
    return Row(minutes * files, files, seconds, peak)


def main(arguments: list[str] | None = None) -> int:
    """Prints a row for each length, and for each number of files."""
    options = parse_arguments(arguments)
    run_case(options, 0.5, 1)  # Compiles; the figures below are for warm processes.
    print(f"{'minutes':>8} {'files':>6} {'seconds':>8} {'x real time':>12} {'MB':>6}")
    cases = [(minutes, 1) for minutes in options.minutes]
    cases += [(options.file_minutes, files) for files in options.files]
    rows = []
    for minutes, files in cases:
        row = run_case(options, minutes, files)
        rows.append(row._asdict())
        print(
            f"{row.minutes:8g} {files:6} {row.seconds:8.1f} "
            f"{row.minutes * 60 / row.seconds:12.1f} {row.megabytes:6.0f}",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
