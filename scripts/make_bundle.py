r"""Makes an archive to train from on a machine that has neither a network nor `mt3`.

    python scripts/make_bundle.py --gin_file=gin/synthetic.gin \
      --midi=MIDI_FOLDER --soundfont=BANK.sf2 -o mt3-bundle.tar.xz

It holds the code, the gin files, the notes of the MIDI files, the soundfonts, the
packages that such a machine lacks, and `bundle_run.py`, which trains. See
docs/bundle.md.
"""

# check: needs a network

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bundle import songs
from bundle.contents import Contents
from mt3 import terminal
from mt3.errors import ConfigError, DataError, OutputError

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 60_000_000
# What training imports beside JAX, Flax, Optax, Orbax, NumPy and SciPy.
PACKAGES = ("gin-config", "safetensors", "tinysoundfont")
_GLIBC = ("2_28", "2_27", "2_24", "2_17")
_TOP = "mt3-bundle"
# A training machine does not need weights, data preparation or web pages.
_LEFT_OUT = ("pretrained", "prepare", "report_page", "serve", "__pycache__")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses arguments and makes the bundle; errors go to standard error.

    Returns:
      The exit status: 1 after an error.
    """
    options = _parser().parse_args(argv)

    def run() -> int:
        size = make(options, terminal.print_result)
        terminal.print_result(f"{options.output}: {size / 1e6:.1f} MB")
        return 0

    return terminal.run_program(run, "make_bundle")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Makes a bundle to train from.", allow_abbrev=False
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="FILE.tar.xz")
    add("--gin_file", default="gin/synthetic.gin", help="what is to be trained")
    add(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for every piece; may be repeated",
    )
    add(
        "--midi",
        action="append",
        default=[],
        type=Path,
        metavar="FILE|FOLDER",
        help="MIDI files to render; without any, random notes",
    )
    add("--soundfont", action="append", default=[], type=Path, metavar="SF2|SF3")
    add(
        "--exact",
        action="append",
        default=[],
        type=Path,
        metavar="SF2|SF3",
        help="soundfont of real samples that only plays the programs that it has",
    )
    add("--initial_weights", help="parameters to begin with: a file, or 'default'")
    add("--python", default="3.12", help="of the machine to train on")
    add(
        "--wheels",
        type=Path,
        metavar="FOLDER",
        help=f"wheels of {', '.join(PACKAGES)} (default: pip downloads them)",
    )
    add("--preset", type=int, default=6, choices=range(10), help="of the compression")
    return parser


def make(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Makes the bundle that the arguments describe.

    Args:
      options: parsed arguments.
      say: called with lines of progress.

    Returns:
      The archive's size in bytes.

    Raises:
      ConfigError: files of one name, or a wrong binding.
      DataError: inputs are missing or cannot be read, or packages cannot be had.
      OutputError: the bundle would be too large, or cannot be written.
    """
    for binding in options.gin_bindings:
        if "=" not in binding:
            raise ConfigError(f"--gin_bindings={binding}: expected NAME=VALUE")
    with tempfile.TemporaryDirectory(prefix="mt3_bundle_") as scratch:
        folder = Path(scratch) / _TOP
        _copy_code(folder)
        contents = Contents(
            python=options.python,
            gin_file=_copy_gin(options.gin_file, folder),
            bindings=tuple(options.gin_bindings),
            soundfonts=_copy_files(options.soundfont, folder / "soundfonts"),
            exact_soundfonts=_copy_files(options.exact, folder / "exact"),
            songs=_write_songs(options.midi, folder, say),
            initial_weights=_copy_weights(options.initial_weights, folder),
            wheels=_add_wheels(options, folder / "wheels"),
        )
        contents.write(folder)
        say("compressing")
        return _write_archive(folder, options.output, options.preset)


def _copy_code(folder: Path) -> None:
    left_out = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(ROOT / "mt3", folder / "mt3", ignore=left_out)
    shutil.copytree(ROOT / "scripts" / "bundle", folder / "bundle", ignore=left_out)
    shutil.copytree(ROOT / "gin", folder / "gin")
    shutil.copy(ROOT / "scripts" / "bundle_run.py", folder)
    shutil.copy(ROOT / "LICENSE", folder)


def _copy_gin(name: str, folder: Path) -> str:
    """Makes sure that the gin file is in the bundle; returns its name there."""
    from mt3.engine import gin_utils

    path = gin_utils.find(name).resolve()
    if path.is_relative_to(ROOT / "gin"):
        return str(path.relative_to(ROOT))
    target = folder / "gin" / path.name
    if target.exists():
        raise ConfigError(f"{path}: has the name of a gin file of mt3; rename it")
    shutil.copy(path, target)
    return f"gin/{path.name}"


def _copy_files(paths: Sequence[Path | None], folder: Path) -> tuple[str, ...]:
    """Copies files into a folder of the bundle; returns their names there."""
    names = []
    for path in filter(None, paths):
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
        folder.mkdir(exist_ok=True, parents=True)
        if (folder / path.name).exists():
            raise ConfigError(f"{path}: two files are named {path.name}; rename one")
        shutil.copy(path, folder)
        names.append(f"{folder.name}/{path.name}")
    return tuple(names)


def _copy_weights(name: str | None, folder: Path) -> str | None:
    """Puts the weights to begin with into the bundle; returns their name there."""
    if name is None:
        return None
    from mt3 import checkpoints

    path = name if Path(name).exists() else checkpoints.resolve(name)
    return _copy_files([Path(path)], folder / "weights")[0]


def _write_songs(
    folders: Sequence[Path], folder: Path, say: Callable[[str], None]
) -> str | None:
    if not folders:
        return None
    found, problems = songs.read_midi_folders(folders)
    for problem in problems:
        say(f"left out: {problem}")
    songs.write_songs(folder / "songs.npz", found)
    notes = sum(len(song.notes) for song in found)
    say(f"{len(found)} songs with {notes} notes")
    return "songs.npz"


def _add_wheels(options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Puts the wheels into the bundle; returns their names there."""
    folder.mkdir()
    source = options.wheels or folder
    if options.wheels is None:
        _download(options.python, folder)
    elif not options.wheels.is_dir():
        raise DataError(f"{options.wheels}: there is no such folder of wheels")
    names = []
    for package in PACKAGES:
        found = sorted(source.glob(f"{package.replace('-', '_')}-*.whl"))
        if len(found) != 1:
            raise DataError(
                f"{source}: expected one wheel of {package}, found "
                f"{[path.name for path in found] or 'none'}"
            )
        if source != folder:
            shutil.copy(found[0], folder)
        names.append(f"wheels/{found[0].name}")
    return tuple(names)


def _download(python: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    # tinysoundfont declares pyaudio, which it needs for loudspeakers only.
    command += ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}"]
    command += [f"--python-version={python}", "--implementation=cp"]
    for version in _GLIBC:
        command.append(f"--platform=manylinux_{version}_x86_64")
    command += ["--platform=manylinux2014_x86_64", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(
            f"pip could not download wheels of {', '.join(PACKAGES)} for Python "
            f"{python}: {reason}. --wheels names a folder that has them"
        )


def _write_archive(folder: Path, output: Path, preset: int) -> int:
    partial = output.with_name(f"{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            lzma.open(partial, "wb", preset=preset) as stream,
            tarfile.open(fileobj=stream, mode="w|") as archive,
        ):
            archive.add(folder, _TOP, filter=_anonymous)
        size = partial.stat().st_size
        if size >= MOST_BYTES:
            partial.unlink()
            raise OutputError(
                f"{output}: the bundle would have {size / 1e6:.1f} MB; expected less "
                f"than {MOST_BYTES / 1e6:.0f} MB: leave out soundfonts or MIDI files"
            )
        os.replace(partial, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error}") from error
    return size


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leaves out who made the bundle and when, so that equal ones are equal."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    sys.exit(main())
