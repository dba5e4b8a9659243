"""Builds, checks and describes a release, in `dist/`.

    python scripts/make_release.py

It builds what is committed, twice, in folders of different names, time zones and seeds,
and stops unless both give the same bytes. It checks the metadata with `twine`,
installs the wheel in an empty environment, and there transcribes and scores the example
in an empty folder with an empty home. It leaves:

    dist/mt3_transcription-VERSION-py3-none-any.whl
    dist/mt3_transcription-VERSION.tar.gz
    dist/mt3_transcription-VERSION.cdx.json   bill of materials (CycloneDX): what
                                              installing the wheel brings
    dist/SHA256SUMS

The time in the files is that of the last commit (`SOURCE_DATE_EPOCH`). The tools that
build and check are installed in an environment of their own, from the package index.
"""

# check: needs a network, and ten minutes

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("build", "cyclonedx-bom", "setuptools>=77", "twine")
# The wheel beside the weights: code, gin files, examples, pages.
MOST_BYTES = 3_000_000
# Where the two builds must not differ.
_VARIATIONS = (
    {"TZ": "UTC", "PYTHONHASHSEED": "0", "LC_ALL": "C"},
    {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8"},
)


class ReleaseError(Exception):
    """Something that must not be released."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes a release; returns the exit code."""
    parser = argparse.ArgumentParser(description="Builds and checks a release.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args(arguments)
    # The modes of files that are made while building.
    os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder), options.output)
    except (ReleaseError, subprocess.CalledProcessError) as error:
        print(f"make_release: error: {error}", file=sys.stderr)
        return 1
    print("\n".join(made))
    return 0


def make(work: Path, output: Path) -> list[str]:
    """Builds twice, checks, and writes everything.

    Args:
      work: an empty folder.
      output: where the release goes; what an earlier one left is removed.

    Returns:
      The lines of SHA256SUMS.

    Raises:
      ReleaseError: there are changes that are not committed, two builds differ, the
        wheel is too large, or holds what it should not.
      subprocess.CalledProcessError: a tool refuses.
    """
    if _git("status", "--porcelain"):
        raise ReleaseError("commit first: what is released is what is committed")
    commit = _git("rev-parse", "HEAD")
    epoch = int(_git("log", "-1", "--format=%ct", commit))
    tools = _environment(work / "tools", *TOOLS)
    builds = []
    for number, variation in enumerate(_VARIATIONS):
        _say(f"build {number + 1} of {len(_VARIATIONS)}")
        source = export(commit, work / f"build{'-again' * number}" / "mt3")
        builds.append(build(tools, source, epoch, variation))
    first, *others = ({p.name: _sha256(p) for p in built} for built in builds)
    if any(other != first for other in others):
        raise ReleaseError(f"two builds differ: {first}, {others}")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    wheel, sdist = (Path(shutil.copy(path, output)) for path in builds[0])
    _run(tools, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    check_wheel(wheel)
    _say("the wheel in an empty environment")
    installed = _environment(work / "installed", str(wheel))
    try_out(installed, work / "empty")
    materials = sbom(tools, installed, epoch)
    name = sdist.name.removesuffix(".tar.gz")
    text = json.dumps(materials, indent=2, ensure_ascii=False, sort_keys=True)
    (output / f"{name}.cdx.json").write_text(text + "\n", encoding="utf-8")
    lines = [f"{_sha256(path)}  {path.name}" for path in sorted(output.iterdir())]
    (output / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="ascii")
    return lines


def export(commit: str, target: Path) -> Path:
    """Unpacks what is in a commit."""
    command = ["git", "-C", str(ROOT), "archive", commit]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(target, filter="data")
    return target


def build(
    tools: Path, source: Path, epoch: int, variation: Mapping[str, str]
) -> tuple[Path, Path]:
    """Builds the source archive, and the wheel from what is in it.

    Returns:
      The wheel and the source archive.
    """
    environment = {**os.environ, **variation, "SOURCE_DATE_EPOCH": str(epoch)}
    command = ("-m", "build", "--no-isolation", "--outdir", "dist", ".")
    _run(tools, *command, cwd=source, env=environment, stdout=subprocess.DEVNULL)
    (wheel,) = (source / "dist").glob("*.whl")
    (sdist,) = (source / "dist").glob("*.tar.gz")
    sdist.write_bytes(repacked(sdist.read_bytes(), epoch))
    return wheel, sdist


def repacked(archive: bytes, epoch: int) -> bytes:
    """Returns a `.tar.gz` without what differs from build to build.

    That is the order of files, their times and owners, and the time in gzip's header.
    """
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as before,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            clean = tarfile.TarInfo(member.name)
            clean.type, clean.linkname = member.type, member.linkname
            clean.size, clean.mtime = member.size, epoch
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            after.addfile(clean, before.extractfile(member) if member.isreg() else None)
    return gzip.compress(packed.getvalue(), mtime=epoch)


def check_wheel(wheel: Path) -> None:
    """Raises ReleaseError unless a wheel is small and holds the package alone."""
    with zipfile.ZipFile(wheel) as archive:
        files = archive.infolist()
    tops = {file.filename.split("/")[0] for file in files}
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    if tops != {"mt3", info}:
        raise ReleaseError(f"{wheel.name}: holds {', '.join(sorted(tops))}")
    weights = sum(f.file_size for f in files if f.filename.endswith(".safetensors"))
    size = wheel.stat().st_size
    _say(f"{wheel.name}: {size / 1e6:.2f} MB, of which weights {weights / 1e6:.2f}")
    if not weights or size > weights + MOST_BYTES:
        raise ReleaseError(
            f"{wheel.name}: {size} bytes; expected at most {MOST_BYTES} more than the "
            f"weights, {weights}"
        )


def try_out(python: Path, folder: Path) -> None:
    """Transcribes and scores the example, as somebody who has just installed it.

    Args:
      python: of the environment.
      folder: an empty one, for the run and its home.
    """
    home, there = folder / "home", folder / "here"
    home.mkdir(parents=True)
    there.mkdir()
    environment = {"HOME": str(home), "PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    (examples,) = python.parents[1].glob("lib/python*/site-packages/mt3/examples")
    audio, reference = examples / "example.flac", examples / "example.mid"
    command = ("-I", "-m", "mt3")
    for arguments in (
        ("doctor",),
        ("transcribe", str(audio), "-o", "out"),
        ("score", str(reference), "out/example.mid", "--main"),
    ):
        _say(f"mt3 {' '.join(arguments)}")
        _run(python, *command, *arguments, cwd=there, env=environment)


def sbom(tools: Path, python: Path, epoch: int) -> dict[str, Any]:
    """Returns what an environment holds as a bill of materials, CycloneDX 1.6.

    Args:
      tools: the Python that has cyclonedx-bom.
      python: of the environment.
      epoch: the time in it.
    """
    for path in python.parents[1].glob("lib/python*/site-packages/*.dist-info"):
        # Whence a file was installed on this machine is nobody else's concern.
        (path / "direct_url.json").unlink(missing_ok=True)
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip")
    text = _run(
        tools,
        *("-m", "cyclonedx_py", "environment", "--sv", "1.6", "--output-reproducible"),
        str(python),
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        stdout=subprocess.PIPE,
    )
    return described(json.loads(text))


def described(materials: dict[str, Any]) -> dict[str, Any]:
    """Makes this package the subject of a bill of materials, not one of its parts."""
    ours = [c for c in materials["components"] if c["name"] == "mt3-transcription"]
    if len(ours) != 1:
        raise ReleaseError("the bill of materials has no mt3-transcription")
    (subject,) = ours
    subject["type"] = "application"
    materials["components"].remove(subject)
    materials["metadata"]["component"] = subject
    for component in materials["components"]:
        if not component.get("purl", "").startswith("pkg:pypi/"):
            raise ReleaseError(f"{component['name']} comes from no package index")
    return materials


def _environment(folder: Path, *packages: str) -> Path:
    """Makes an empty environment with packages; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "--no-input", *packages)
    return python


def _run(python: Path, *arguments: str, **options: Any) -> str | None:
    # Packages of whoever makes the release are not seen.
    environment = dict(options.pop("env", os.environ))
    for name in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    command = [str(python), *arguments]
    done = subprocess.run(command, check=True, text=True, env=environment, **options)
    return done.stdout


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, text=True, stdout=-1).stdout.strip()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(line: str) -> None:
    print(f"make_release: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
