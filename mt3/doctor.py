"""`mt3 doctor`: what this installation is, and whether it works.

Every line is a check with its state: "ok", "note" (something optional is not there) or
"broken". Nothing is sent anywhere and nothing is downloaded. The home folder is printed
as `~`, so that the result can go into a public report.
"""

from __future__ import annotations

import dataclasses
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from mt3 import terminal
from mt3.version import __version__

DISTRIBUTION = "mt3-transcription"
OK, NOTE, BROKEN = "ok", "note", "broken"
# What each extra is for.
_EXTRAS = {
    "score": "sheet music: MusicXML, PDF",
    "serve": "the local page, mt3 serve",
    "engine": "training on rendered music",
    "train": "training and evaluating on data sets",
    "notebooks": "the notebooks",
}
# Environment variables that change what is computed, by how their names begin.
_VARIABLES = ("MT3_", "JAX_", "XLA_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
# Of the self-test: MIDI pitch and when it begins, seconds.
_PITCH, _ONSET = 69, 0.2
_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      name: of it.
      state: `OK`, `NOTE` or `BROKEN`.
      found: what there is.
      hint: what to do about it, or "".
    """

    name: str
    state: str
    found: str
    hint: str = ""


def run(*, as_json: bool = False) -> int:
    """Prints all checks as they are made; returns the exit code.

    Args:
      as_json: print one JSON object with the list `checks`, at the end.

    Returns:
      0, or 1 if something is broken.
    """
    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            hint = f"\n{'':17}{check.hint}" if check.hint else ""
            found = check.found.replace("\n", f"\n{'':17}")
            terminal.print_result(f"{check.state:7}{check.name:10}{found}{hint}")
    broken = [check.name for check in checks if check.state == BROKEN]
    if as_json:
        rows = [dataclasses.asdict(check) for check in checks]
        terminal.print_result(terminal.to_json({"ok": not broken, "checks": rows}))
    elif broken:
        terminal.fail(f"doctor: broken: {', '.join(broken)}")
    return 1 if broken else 0


def examine() -> Iterator[Check]:
    """Yields all checks; one that fails in an unexpected way is broken."""
    steps: dict[str, Callable[[], Check]] = {
        "mt3": _package,
        "system": _system,
        "variables": _variables,
        "packages": _packages,
        "devices": _devices,
        "models": _models,
        "cache": _cache,
        "ffmpeg": _ffmpeg,
        "extras": _extras,
        "terminal": _terminal,
        "self-test": _self_test,
    }
    for name, step in steps.items():
        try:
            check = step()
        except Exception as error:  # Whatever it is, the others are to be seen.
            check = Check(name, BROKEN, f"{type(error).__name__}: {error}")
        yield dataclasses.replace(
            check, found=_without_home(check.found), hint=_without_home(check.hint)
        )


def _without_home(text: str) -> str:
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _package() -> Check:
    return Check("mt3", OK, f"{__version__} in {Path(__file__).parent}")


def _system() -> Check:
    return Check(
        "system",
        OK,
        f"Python {platform.python_version()}, {platform.platform()}, "
        f"{os.cpu_count()} processors",
    )


def _variables() -> Check:
    names = sorted(name for name in os.environ if name.startswith(_VARIABLES))
    found = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return Check("variables", OK, found or "none")


def _packages() -> Check:
    versions, problems = _installed("")
    if not versions and not problems:
        return Check("packages", NOTE, f"{DISTRIBUTION} was not installed by pip")
    if problems:
        hint = f"pip install --upgrade {DISTRIBUTION}"
        return Check("packages", BROKEN, ", ".join(problems), hint)
    return Check("packages", OK, ", ".join(versions))


def _installed(extra: str) -> tuple[list[str], list[str]]:
    """Returns the versions of an extra's packages, and what is wrong with them.

    Args:
      extra: its name; "" for what is always needed.

    Returns:
      Versions and problems, both empty where pip does not know this package.
    """
    versions, problems = [], []
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # A checkout that is only on the path.
        requirements = []
    for requirement in requirements:
        marker = re.search(r"""extra == ["']([\w-]+)["']""", requirement)
        if (marker[1] if marker else "") != extra or not _is_for_this(requirement):
            continue
        name = re.match(r"[\w.-]+", requirement)[0]
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        floor = re.search(r">=\s*([\d.]+)", requirement)
        if floor and _numbers(found) < _numbers(floor[1]):
            problems.append(f"{name} is {found}, expected {floor[1]} or newer")
        versions.append(f"{name} {found}")
    return versions, problems


def _is_for_this(requirement: str) -> bool:
    """Whether a requirement holds for this version of Python."""
    lowest = re.search(r"""python_version >= ["']([\d.]+)["']""", requirement)
    return not lowest or _numbers(platform.python_version()) >= _numbers(lowest[1])


def _numbers(version: str) -> list[int]:
    """Returns the numbers that a version begins with; 1.2.0rc1 counts as 1.2.0."""
    return [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]


def _devices() -> Check:
    import jax

    devices = jax.devices()
    kinds = [
        f"{device.platform}:{device.id} {device.device_kind}" for device in devices
    ]
    found = f"{jax.default_backend()}: {', '.join(kinds)}"
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        hint = "JAX does not use the NVIDIA GPU: pip install 'jax[cuda13]'"
        return Check("devices", NOTE, found, hint)
    return Check("devices", OK, found)


def _models() -> Check:
    from mt3.checkpoints import registry

    entries = registry.available()
    lines = [
        f"{entry.name}{' (default)' if entry.is_default else ''}: sha256 {entry.sha256}"
        for entry in entries
    ]
    if not any(entry.is_default for entry in entries):
        lines.append("no default model")
        return Check("models", BROKEN, "\n".join(lines), "install mt3 again")
    return Check("models", OK, "\n".join(lines))


def _cache() -> Check:
    from mt3.decoding import compilation

    folder = compilation.enable_compilation_cache()
    if folder is None:
        return Check(
            "cache",
            NOTE,
            f"off, or {compilation.cache_folder()} cannot be written",
            f"every start compiles anew; {compilation.CACHE_VARIABLE} names a folder",
        )
    return Check("cache", OK, str(folder))


def _ffmpeg() -> Check:
    program = shutil.which("ffmpeg")
    if program is None:
        return Check(
            "ffmpeg",
            NOTE,
            "not found",
            "M4A, AAC, WMA and the sound of videos need it; WAV, FLAC, MP3 and OGG "
            "do not",
        )
    told = subprocess.run(
        [program, "-version"], capture_output=True, text=True, check=True, timeout=30
    )
    return Check("ffmpeg", OK, f"{told.stdout.splitlines()[0]}, {program}")


def _extras() -> Check:
    lines, missing = [], []
    for extra, purpose in _EXTRAS.items():
        _, problems = _installed(extra)
        lines.append(f"{extra} ({purpose}): {'; '.join(problems) or 'installed'}")
        if problems:
            missing.append(extra)
    hint = ""
    if missing:
        hint = f"pip install '{DISTRIBUTION}[NAME]' installs one, if you need it"
    return Check("extras", NOTE if missing else OK, "\n".join(lines), hint)


def _terminal() -> Check:
    names = [
        f"locale {locale.setlocale(locale.LC_CTYPE)}",
        f"file names {sys.getfilesystemencoding()}",
        f"output {getattr(sys.stdout, 'encoding', None)}",
    ]
    found = ", ".join(names)
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        hint = "names with other letters may fail: set PYTHONUTF8=1"
        return Check("terminal", NOTE, found, hint)
    return Check("terminal", OK, found)


def _self_test() -> Check:
    """Transcribes one second with the default model: a decaying tone."""
    import numpy as np

    from mt3 import inference

    begin = time.monotonic()
    rate = 16000
    seconds = np.arange(rate) / rate - _ONSET
    frequency = 440.0 * 2 ** ((_PITCH - 69) / 12)
    partials = sum(np.sin(2 * np.pi * frequency * k * seconds) / k for k in range(1, 7))
    sound = 0.15 * partials * np.exp(-3 * np.abs(seconds)) * (seconds >= 0)
    notes = inference.InferenceModel()(sound.astype(np.float32), sample_rate=rate)
    took = time.monotonic() - begin
    found = ", ".join(f"pitch {n.pitch} at {n.start_time:.2f} s" for n in notes)
    is_right = [n.pitch for n in notes] == [_PITCH] and (
        abs(notes[0].start_time - _ONSET) < _TOLERANCE
    )
    if not is_right:
        return Check(
            "self-test",
            BROKEN,
            f"one second of A4: found {found or 'no notes'}; expected pitch {_PITCH} "
            f"at {_ONSET:.2f} s",
        )
    return Check("self-test", OK, f"one second of A4: {found}; took {took:.1f} s")
