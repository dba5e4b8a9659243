"""The Python interface under load: threads that share one model, and many recordings.

    python -m benchmarks.python_api --threads 50 --files 3000
    python -m benchmarks.python_api --threads 50 --files 200 --model tiny.safetensors

The threads call the model with short parts of the example, as many as `--files` says
together; then as many files go through `InferenceModel.run` in one stream. Each result
is compared with what the model finds in that part alone. Prints throughput, and the
memory as it goes.
"""

# check: needs many minutes of processor time
from __future__ import annotations

import argparse
import itertools
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.serve import parts
from mt3.inference import FileResult, InferenceModel


def memory() -> str:
    """Returns the megabytes that this process has in memory, and had at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    now, most = (
        int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) // 1024
        for name in ("VmRSS", "VmHWM")
    )
    return f"{now} MB (at most {most})"


class Count:
    """Results, as they come; prints a line now and then."""

    def __init__(self, name: str, files: int):
        self._name, self._files = name, files
        self._lock = threading.Lock()
        self._done = self._right = 0
        self._begin, self._computed = time.monotonic(), time.process_time()

    def add(self, right: bool) -> None:
        """Counts one result."""
        with self._lock:
            self._done += 1
            self._right += right
            if self._done % max(1, self._files // 6) == 0:
                self._print()

    def _print(self) -> None:
        passed = time.monotonic() - self._begin
        computed = time.process_time() - self._computed
        print(
            f"{self._name}: {self._right} right of {self._done}, "
            f"{self._done / passed:.1f} per second, "
            f"{computed / self._done:.3f} s of processor time each; {memory()}",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both, and prints what it measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each file")
    parser.add_argument("--model", default="default")
    options = parser.parse_args(argv)
    model = InferenceModel(options.model)
    files = list(parts(options.seconds))
    wanted = [model(file) for file in files]
    print(f"before: {memory()}")
    count = Count(f"{options.threads} threads", options.files)
    numbers = iter(range(options.files))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            part = number % len(files)
            count.add(model(files[part]) == wanted[part])

    threads = [threading.Thread(target=work) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = Count("run", options.files)
    with tempfile.TemporaryDirectory() as folder:
        for item in model.run(_written(pathlib.Path(folder), files, options.files)):
            if isinstance(item, FileResult):
                notes = item.transcription.notes
                count.add(list(notes) == wanted[item.file % len(files)])


def _written(folder: Path, files: list[bytes], count: int) -> Iterator[Path]:
    """Yields paths of files, which are written as they are asked for."""
    for number, data in zip(range(count), itertools.cycle(files), strict=False):
        path = folder / f"{number}.wav"
        path.write_bytes(data)
        yield path


if __name__ == "__main__":
    main()
