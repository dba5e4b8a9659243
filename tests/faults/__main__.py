"""Runs scenarios; see the package."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import traceback

import numpy as np

from tests.faults import disk, disturbed, driver, killed

SCENARIOS = {**killed.SCENARIOS, **disk.SCENARIOS, **disturbed.SCENARIOS}
_OUTPUT = pathlib.Path("build/faults")


def main() -> int:
    """Runs the scenarios that are named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    if unknown := set(options.names) - SCENARIOS.keys():
        parser.error(f"{sorted(unknown)}; known: {', '.join(SCENARIOS)}")
    names = options.names or list(SCENARIOS)
    _enter_mount_namespace()
    # A shell's background jobs ignore Ctrl-C, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = _OUTPUT.resolve()
    output.mkdir(parents=True, exist_ok=True)
    # The caches of this run alone: killed programs may leave them in any state.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(output / "compiled")
    lines = ["| fault | times | result |", "|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    failed = False
    for name in names:
        folder, said = output / name, output / f"{name}.txt"
        shutil.rmtree(folder, ignore_errors=True)
        said.unlink(missing_ok=True)
        folder.mkdir()
        seed = [options.seed, list(SCENARIOS).index(name)]
        begin = time.monotonic()
        try:
            rows = SCENARIOS[name](driver.Place(folder, np.random.default_rng(seed)))
        except driver.NotPossible as error:
            rows = [driver.Row(name, "0", f"**not tried**: {error}")]
        except Exception as error:  # The other scenarios run all the same.
            failed = True
            expected = isinstance(error, driver.Failed)
            text = str(error) if expected else traceback.format_exc()
            said.write_text(f"{text}\n")
            first = str(error).split("\n")[0]
            rows = [driver.Row(name, "", f"**failed**: {first}; see {said.name}")]
        else:
            shutil.rmtree(folder)
        lines += [f"| {row.fault} | {row.times} | {row.result} |" for row in rows]
        print(*lines[len(lines) - len(rows) :], sep="\n", flush=True)
        seconds = time.monotonic() - begin
        print(f"{name}: {seconds:.0f} seconds", file=sys.stderr, flush=True)
    (output / "table.md").write_text("\n".join(lines) + "\n")
    return int(failed)


def _enter_mount_namespace() -> None:
    """Starts this program again where it may mount what nobody else sees."""
    if disk.MOUNTS in os.environ:
        return
    for options in (["--mount"], ["--mount", "--user", "--map-root-user"]):
        command = ["unshare", *options, "true"]
        try:
            allowed = not subprocess.run(command, capture_output=True).returncode
        except FileNotFoundError:
            allowed = False
        if allowed:
            os.environ[disk.MOUNTS] = "yes"
            again = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
            os.execvp("unshare", ["unshare", *options, *again])
    os.environ[disk.MOUNTS] = "no"


if __name__ == "__main__":
    sys.exit(main())
