"""Free soundfonts and samples in Debian packages, and how packages are downloaded.

Packages are downloaded by name with the ordinary clients (`pip download`, `apt-get
download`); nothing is installed.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mt3.errors import DataError

from . import sample_sets, soundfont_writer

_SUFFIXES = (".sf2", ".sf3")
_DOWNLOAD_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class FontPackage:
    """A Debian package with sounds.

    Attributes:
      name: the package's.
      licence: of the sounds, as the package or the soundfont itself states it.
      form: "soundfont"; "drums" (a soundfont whose kit is in a melodic bank); "gus"
        (Gravis patches); "hydrogen" (drum kits).
    """

    name: str
    licence: str
    form: str = "soundfont"


# csound-soundfont is not among them: 86 of its 112 programs sound nearly the same as
# those of timgm6mb-soundfont. Nor are fluid-soundfont-gm and
# musescore-general-soundfont, since fluidr3mono-gm-soundfont contains most of them.
FONT_PACKAGES = (
    FontPackage("timgm6mb-soundfont", "GPL-2"),
    FontPackage("fluidr3mono-gm-soundfont", "MIT"),
    FontPackage("minuet-data", "GeneralUser GS licence 2.0: free for any use"),
    FontPackage("opl3-soundfont", "CC-BY-SA-4.0"),
    FontPackage("freepats", "GPL-2+, with an exception for compositions", "gus"),
    FontPackage(
        "hydrogen-drumkits",
        "GPL-2, GPL-2+, CC0, CC-BY-3.0 or CC-BY-SA-3.0, by kit",
        "hydrogen",
    ),
    FontPackage("hydrogen-data", "GPL-2+", "hydrogen"),
    FontPackage("avldrums.lv2-soundfont", "CC-BY-SA-3.0", "drums"),
)


def make_fonts(package: FontPackage, unpacked: Path, output: Path) -> list[Path]:
    """Makes soundfonts from the files of a package.

    Args:
      package: the package.
      unpacked: the folder with its files.
      output: folder to write to; soundfonts that exist there are kept.

    Returns:
      The soundfonts.

    Raises:
      DataError: if the package does not contain what is expected.
    """
    output.mkdir(parents=True, exist_ok=True)
    if package.form in ("gus", "hydrogen"):
        target = output / f"{package.name}.sf2"
        if not target.exists():
            presets = (
                sample_sets.gus_presets(unpacked)
                if package.form == "gus"
                else _hydrogen_presets(unpacked)
            )
            soundfont_writer.write_soundfont(target, package.name, presets)
        return [target]
    made = []
    for source in sorted(p for p in unpacked.rglob("*") if p.suffix in _SUFFIXES):
        # Packages contain links to their own soundfonts.
        if source.is_symlink():
            continue
        target = output / source.name
        if not target.exists():
            if package.form == "drums":
                sample_sets.as_drum_font(source, target)
            else:
                partial = target.with_name(f"{target.name}.partial")
                partial.write_bytes(source.read_bytes())
                partial.replace(target)
        made.append(target)
    if not made:
        raise DataError(
            f"{unpacked}: the package {package.name} contains no soundfont."
        )
    return made


def _hydrogen_presets(unpacked: Path) -> list[soundfont_writer.Preset]:
    """Returns the presets of all kits that have known instruments."""
    presets: list[soundfont_writer.Preset] = []
    reasons = []
    for path in sorted(unpacked.rglob("drumkit.xml")):
        try:
            presets += sample_sets.hydrogen_kits(path.parent, len(presets))
        except DataError as error:
            reasons.append(str(error))
    if not presets:
        raise DataError(f"{unpacked}: no drum kit can be used: {reasons[:1]}.")
    return presets


def download_debian(name: str, folder: Path) -> Path:
    """Downloads and unpacks a Debian package; returns the folder of its files.

    Raises:
      DataError: if the programs are missing, or refuse.
    """
    # The programs run in this folder, so it must not be relative.
    folder = folder.resolve()
    unpacked = folder / _checked(name)
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", name], folder, name)
    archives = sorted(folder.glob(f"{name}_*.deb"))
    if not archives:
        raise DataError(f"{name}: apt-get download left no package file in {folder}.")
    partial = folder / f"{name}.partial"
    _run(["dpkg", "-x", str(archives[-1]), str(partial)], folder, name)
    partial.replace(unpacked)
    return unpacked


def download_wheel(name: str, folder: Path, only: str = "") -> Path:
    """Downloads and unpacks a Python package; returns the folder of its files.

    Args:
      name: the package's.
      folder: where to.
      only: unpack only files whose names begin with this.

    Raises:
      DataError: if pip is missing, or refuses, or there is no wheel.
    """
    # The programs run in this folder, so it must not be relative.
    folder = folder.resolve()
    unpacked = folder / _checked(name)
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), name]
    _run(command, folder, name)
    wheels = sorted(folder.glob(f"{name.replace('-', '_')}-*.whl"))
    if not wheels:
        raise DataError(f"{name}: pip download left no wheel in {folder}.")
    partial = folder / f"{name}.partial"
    with zipfile.ZipFile(wheels[-1]) as wheel:
        members = [n for n in wheel.namelist() if n.startswith(only)]
        wheel.extractall(partial, members)
    partial.replace(unpacked)
    return unpacked


def _checked(name: str) -> str:
    """Returns a package's name; refuses paths, options and patterns."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise DataError(f"{name!r}: is not the name of a package.")
    return name


def _run(command: Sequence[str], folder: Path, what: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{what}: cannot be downloaded: {error}.") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((s for s in said if "rror" in s or s.startswith("E:")), "")
        raise DataError(
            f"{what}: {command[0]} ended with code {done.returncode}: "
            f"{reason or ' '.join(said[-1:])}"
        )
