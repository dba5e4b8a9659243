"""Peak memory of `mt3 transcribe` against the length of the audio.

Makes recordings of each length by repeating a short one, transcribes each in a
process of its own, and prints peak resident memory and the speed.

    python benchmarks/memory.py --minutes 1 10 60
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--audio", default=str(ROOT / "examples" / "example.flac"))
    parser.add_argument("--model", default="default")
    return parser.parse_args()


def make_recording(source: str, minutes: float, path: Path) -> None:
    """Repeats a recording until it has the asked-for length."""
    samples, rate = soundfile.read(source, dtype="int16")
    left = int(minutes * 60 * rate)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        while left > 0:
            file.write(samples[:left])
            left -= len(samples[:left])


def measure(path: Path, model: str, folder: Path) -> tuple[float, float]:
    """Transcribes in a child process; returns seconds and peak megabytes."""
    command = [sys.executable, "-m", "mt3.cli", "transcribe", str(path), "-q"]
    command += ["-o", str(folder), "--model", model]
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return seconds, usage.ru_maxrss / 1024


def main() -> int:
    """Prints a row for each length."""
    options = parse_arguments()
    print(f"{'minutes':>8} {'seconds':>8} {'x real time':>12} {'peak MB':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first run compiles; the figures are of warm ones.
        for number, minutes in enumerate([0.5, *options.minutes]):
            path = folder / f"{number}.wav"
            make_recording(options.audio, minutes, path)
            seconds, peak = measure(path, options.model, folder)
            if number:
                speed = minutes * 60 / seconds
                print(
                    f"{minutes:8g} {seconds:8.1f} {speed:12.1f} {peak:8.0f}", flush=True
                )
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
