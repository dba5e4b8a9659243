"""Tries the lowest and the newest versions that setup.py allows.

    python -m tests.versions                     # every row; `make versions` does this
    python -m tests.versions --row newest-3.13 --folder build/versions

Each row is a virtual environment that uv makes, tries and, without `--folder`, removes.
The `lowest` row has the floors of `setup.py` exactly, `newest` rows the newest releases
that fit together; the newest for Python 3.11 are those of `requirements.lock`, with
which `make test` runs the whole suite. The rows run `QUICK`, tests that reach every
package that transcribing needs, and some `DATA_LAYER` too, with TensorFlow, seqio and
Beam; slow tests are left out. Warnings are errors, as in every run (`pytest.ini`).
`plain` rows have the wheel without extras, away from the checkout: every module that
needs no extra is imported, and the example transcribed and scored.

Python 3.11 and so on are looked up as uv does, first on the PATH; none is downloaded.
The table is written to `build/versions.md` after each row. The exit status is 1 if
something failed.
"""

# check: needs an hour

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "versions.md"

QUICK = [
    "golden/test_golden.py",
    "test_audio.py",
    "test_checkpoints_safetensors.py",
    "test_checkpoints_t5x.py",
    "test_decoding_layer_step.py",
    "test_decoding_strategies.py",
    "test_doctor.py",
    "test_engine_metrics_writer.py",
    "test_engine_optimizers.py",
    "test_event_codec.py",
    "test_examples.py",
    "test_frame_heads.py",
    "test_harmonic_stem.py",
    "test_midi_reader.py",
    "test_outputs_midi.py",
    "test_outputs_score.py",
    "test_scoring_conventions.py",
    "test_scoring_matching.py",
    "test_serve_queue.py",
    "test_spectrograms.py",
    "test_synthesis_effects.py",
    "test_synthesis_soundfont.py",
    "test_tokenizer.py",
]
DATA_LAYER = [
    "test_data_records.py",
    "test_mixing.py",
    "test_note_sequences.py",
    "test_preprocessors.py",
    "test_run_length_encoding.py",
    "test_vocabularies.py",
]

PACKAGES = (
    "jax",
    "flax",
    "numpy",
    "scipy",
    "librosa",
    "orbax-checkpoint",
    "tensorflow",
)
_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | found))
"""
# Each module, and every warning that an import gives.
_IMPORTS = """
import importlib, sys, warnings
warnings.simplefilter("always")
failed = 0
with warnings.catch_warnings(record=True) as given:
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed += 1
            print(f"{name}: {error!r}", file=sys.stderr)
ours = [w for w in given if "mt3" in w.filename]
print(len(sys.argv) - 1 - failed, failed, len(ours))
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """An environment and what is tried in it.

    Attributes:
      kind: 'lowest', 'newest' or 'plain'.
      python: version of Python, e.g. '3.11'.
      tests: test files; none to try the wheel without extras.
    """

    kind: str
    python: str
    tests: Sequence[str] = ()

    @property
    def name(self) -> str:
        """E.g. 'newest-3.13'."""
        return f"{self.kind}-{self.python}"


ROWS = (
    Row("lowest", "3.11", (*QUICK, *DATA_LAYER)),
    Row("newest", "3.12", QUICK),
    Row("newest", "3.13", (*QUICK, *DATA_LAYER)),
    Row("plain", "3.11"),
    Row("plain", "3.12"),
    Row("plain", "3.13"),
)


@dataclasses.dataclass
class Result:
    """What came of a row: versions by package, and counts."""

    versions: Mapping[str, str]
    passed: int = 0
    failed: int = 0
    warnings: int = 0
    remark: str = ""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--row", action="append", choices=names, help="this row only")
    parser.add_argument("--folder", help="make environments here, and keep them")
    parser.add_argument("--processes", default="auto", help="of pytest (%(default)s)")
    return parser.parse_args(arguments)


def make(row: Row, folder: pathlib.Path) -> None:
    """Makes the environment of a row.

    Raises:
      subprocess.CalledProcessError: there is no such Python, or no set of packages.
    """
    uv, python = shutil.which("uv"), row.python
    if uv is None:
        raise SystemExit("uv is missing: pip install uv")
    environment = [uv, "venv", "--quiet", "--clear", "--no-python-downloads"]
    subprocess.run([*environment, "--python", python, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", folder]
    if row.tests:
        lowest = "lowest-direct" if row.kind == "lowest" else "highest"
        install += ["--resolution", lowest]
        subprocess.run([*install, "--editable", f"{ROOT}[test]"], check=True)
        # As in the Makefile: it declares what it does not need.
        subprocess.run([*install, "--no-deps", "tinysoundfont>=0.3.7"], check=True)
        return
    with tempfile.TemporaryDirectory() as built:
        # By way of the source distribution, so that nothing old is in it.
        subprocess.run([uv, "build", "--quiet", "-o", built, ROOT], check=True)
        (wheel,) = pathlib.Path(built).glob("*.whl")
        subprocess.run([*install, wheel], check=True)


def program(folder: pathlib.Path, name: str) -> str:
    """The path of a program in an environment."""
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / name)


def clean_environment() -> dict[str, str]:
    """The environment's variables, without what would lead to other packages."""
    return {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
    }


def count(log: str) -> dict[str, int]:
    """What the last line of a test run says: passed, failed, warnings."""
    last = (log.strip().splitlines() or [""])[-1]
    said = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last)}
    return {
        "passed": said.get("passed", 0),
        "failed": said.get("failed", 0) + said.get("error", 0),
        "warnings": said.get("warning", 0),
    }


def run_tests(row: Row, folder: pathlib.Path, processes: str, result: Result) -> None:
    """Runs a row's tests that are not slow, and counts."""
    command = [program(folder, "python"), "-m", "pytest", "-q", "-m", "not slow"]
    command += ["-n", processes, "--dist", "loadfile", "-p", "no:cacheprovider"]
    command += [f"tests/{name}" for name in row.tests]
    log = OUTPUT.parent / "versions" / f"{row.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        ended = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), stdout=file, stderr=file
        )
    for name, number in count(log.read_text(encoding="utf-8")).items():
        setattr(result, name, number)
    if ended.returncode:
        result.remark = f"status {ended.returncode}; see {log.relative_to(ROOT)}"
        result.failed = max(result.failed, 1)


def try_plain(folder: pathlib.Path, result: Result) -> None:
    """Imports what needs no extra, transcribes and scores the example."""
    from tests import test_packaging

    package = ROOT / "mt3"
    modules = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name.split("/")[0] in ("engine", "serve", "__main__.py"):
            continue
        if not test_packaging.in_data_layer(name):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules.append(".".join(parts).removesuffix(".__init__"))
    with tempfile.TemporaryDirectory() as away:
        run = {"cwd": away, "env": clean_environment(), "text": True}
        python = program(folder, "python")
        counts = subprocess.check_output([python, "-c", _IMPORTS, *modules], **run)
        result.passed, result.failed, result.warnings = map(int, counts.split())
        mt3, example = program(folder, "mt3"), str(ROOT / "examples" / "example")
        for arguments in (
            ["--help"],
            ["doctor"],
            ["transcribe", f"{example}.flac", "-o", "out"],
            ["score", f"{example}.mid", "out/example.mid", "--main"],
        ):
            ended = subprocess.run(
                [mt3, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **run,
            )
            result.warnings += len(re.findall(r"\w+Warning: ", ended.stdout))
            result.passed += ended.returncode == 0
            if ended.returncode:
                result.failed += 1
                print(f"mt3 {' '.join(arguments)}:\n{ended.stdout}", file=sys.stderr)
    found = re.search(r"^Onset F1\s+[\d.]+", ended.stdout, re.MULTILINE)
    result.remark = found[0] if found else "no score"


def run_row(row: Row, folder: pathlib.Path, processes: str) -> Result:
    """Makes an environment and tries it."""
    try:
        make(row, folder)
    except subprocess.CalledProcessError as error:
        # uv has said why.
        return Result({"python": row.python}, failed=1, remark=f"not made: {error}")
    python = program(folder, "python")
    text = subprocess.check_output([python, "-c", _VERSIONS], env=clean_environment())
    result = Result(json.loads(text))
    if row.tests:
        run_tests(row, folder, processes, result)
    else:
        try_plain(folder, result)
    return result


def table(results: Mapping[str, Result]) -> str:
    """The results as a table in Markdown."""
    heads = ("row", "python", *PACKAGES, "passed", "failed", "warnings", "")
    lines = [heads, ["---"] * len(heads)]
    for name, result in results.items():
        versions = [result.versions.get(p, "") for p in ("python", *PACKAGES)]
        counts = (result.passed, result.failed, result.warnings, result.remark)
        lines.append([name, *versions, *map(str, counts)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs the rows and writes the table."""
    options = parse_arguments(arguments)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for row in ROWS:
            if options.row and row.name not in options.row:
                continue
            folder = pathlib.Path(options.folder or temporary).resolve() / row.name
            print(f"{row.name} ...", flush=True)
            results[row.name] = run_row(row, folder, options.processes)
            if not options.folder:
                shutil.rmtree(folder, ignore_errors=True)
            OUTPUT.parent.mkdir(exist_ok=True)
            OUTPUT.write_text(table(results), encoding="utf-8")
    print(table(results), end="")
    return 1 if any(result.failed for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
