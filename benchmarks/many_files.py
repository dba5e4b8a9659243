"""Folders of very many recordings: how soon work begins, and whether memory grows.

    python benchmarks/many_files.py list --files 100000
    python benchmarks/many_files.py run --files 3000

`list` makes files and looks for them as `mt3 transcribe` does before it loads the
model, first with no result there, then with all of them.

`run` makes recordings of one second in several formats, transcribes them with the
default weights, interrupts that in the middle (SIGINT) and starts the same command
again. It prints the resident memory of the process in tenths of all results, and fails
if a result is missing or was written twice.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from mt3 import jobs, outputs

FILES_IN_A_FOLDER = 1000
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".caf")
SAMPLE_RATE = 16000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("list", "run"))
    parser.add_argument("--files", type=int, default=3000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        measure = measure_list if options.what == "list" else measure_run
        measure(Path(name), options.files)
    return 0


def measure_list(root: Path, num_files: int) -> None:
    """Prints how long it takes to list recordings and find out what is done."""
    result = root / "result.mid"
    outputs.write_file(outputs.Transcription([]), result, "mid")
    data = result.read_bytes()
    for number in range(num_files):
        path = root / "in" / str(number // FILES_IN_A_FOLDER) / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for done in (False, True):
        before, start = _peak_megabytes(), time.process_time()
        start_wall = time.perf_counter()
        listed, problems = jobs.find_jobs([str(root / "in")], str(root / "out"))
        waiting, _ = jobs.unfinished(listed, ["mid"])
        seconds = time.process_time() - start
        wall = time.perf_counter() - start_wall
        assert (len(listed), len(problems)) == (num_files, 0)
        assert len(waiting) == (0 if done else num_files)
        print(
            f"{num_files} files, {num_files - len(waiting)} done: {wall:.1f} s "
            f"({seconds:.1f} s of processor time), "
            f"{_peak_megabytes() - before:.0f} MB more"
        )
        for job in waiting:
            path = Path(f"{job.stem}.mid")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def measure_run(root: Path, num_files: int) -> None:
    """Transcribes, interrupts, resumes; prints memory on the way."""
    make_recordings(root / "in", num_files)
    results = root / "out"
    transcribe(root, stop_at=num_files // 2, num_files=num_files)
    first = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert num_files // 2 <= len(first) < num_files
    assert all(outputs.is_ours(path, "mid") for path in first)
    transcribe(root, stop_at=None, num_files=num_files)
    assert len(list(results.iterdir())) == num_files
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())


def make_recordings(folder: Path, num_files: int) -> None:
    """Writes recordings of one second, each with two tones."""
    folder.mkdir()
    seconds = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    for number in range(num_files):
        pitches = rng.integers(45, 85, size=2)
        tones = np.sin(2 * np.pi * np.outer(440 * 2 ** ((pitches - 69) / 12), seconds))
        samples = 0.2 * tones.sum(0) * np.exp(-2 * seconds)
        name = f"{number:05d}{SUFFIXES[number % len(SUFFIXES)]}"
        soundfile.write(folder / name, samples, SAMPLE_RATE)


def transcribe(root: Path, *, stop_at: int | None, num_files: int) -> None:
    """Runs `mt3 transcribe`, until a number of results are there if one is given."""
    command = [sys.executable, "-m", "mt3", "transcribe", str(root / "in"), "-q"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "-o", str(root / "out")],
        # A shell's background jobs, and so their children, would not take it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    shown = 0
    while process.poll() is None:
        done = len(list((root / "out").glob("*.mid")))
        if done >= shown:
            megabytes = _resident_megabytes(process.pid)
            wall = time.perf_counter() - start
            print(f"{done:6} results, {wall:5.0f} s, {megabytes:.0f} MB", flush=True)
            shown = (10 * done // num_files + 1) * num_files // 10
        if stop_at is not None and done >= stop_at:
            process.send_signal(signal.SIGINT)
            stop_at = None
            print("interrupted: exit code", process.wait())
            assert process.returncode == 130
            return
        time.sleep(0.5)
    print(f"exit code {process.returncode} after {time.perf_counter() - start:.0f} s")
    assert process.returncode == 0


def _resident_megabytes(pid: int) -> float:
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(told.stdout.strip() or 0) / 1024


def _peak_megabytes() -> float:
    # Bytes on macOS, kibibytes elsewhere.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


if __name__ == "__main__":
    sys.exit(main())
