"""Prints the licences of the packages that are required, for docs/licences.md.

    python scripts/licences.py

reads them from what is installed: each package that setup.py names, and what these
require in turn. A package that is not installed is named on standard error.
"""

# check: needs every extra

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SETUP = Path(__file__).resolve().parents[1] / "setup.py"
_SPDX = {
    "Apache-2.0": ("apache",),
    "MIT": ("mit license", "the mit license", "mit"),
    "ISC": ("isc license", "isc"),
    "MPL-2.0": ("mozilla public license 2", "mpl 2", "mpl-2"),
    "BSD-3-Clause": ("bsd 3", "3-clause bsd", "bsd-3", "new bsd", "modified bsd"),
    "BSD-2-Clause": ("bsd 2", "2-clause bsd", "bsd-2", "simplified bsd"),
    "BSD": ("bsd",),
    "PSF": ("python software foundation", "psf"),
}


def requirements() -> dict[str, list[str]]:
    """Returns the packages that setup.py names, and the extras that ask for each.

    The base install is the extra "". What comes with another extra is listed there.
    """
    lists: dict[str, list[str]] = {}
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            texts = [part.value for part in node.value.elts if _is_text(part)]
            lists[node.targets[0].id.lower()] = texts
    found: dict[str, list[str]] = {}
    for extra, texts in lists.items():
        for text in texts:
            name = Requirement(text).name
            found.setdefault(name, []).append("" if extra == "install" else extra)
    return found


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def licence(name: str) -> str:
    """Returns an installed package's licence, as an SPDX name where it is known.

    Raises:
      PackageNotFoundError: the package is not installed.
    """
    fields = metadata.metadata(name)
    if expression := fields.get("License-Expression"):
        return expression
    text = (fields.get("License") or "").strip().split("\n")[0]
    kinds = [
        kind.rpartition(" :: ")[2]
        for kind in fields.get_all("Classifier", [])
        if kind.startswith("License :: ") and "approved" not in kind
    ]
    # A short text is more exact than a class, a long one is the licence itself.
    exact = " AND " in text or " OR " in text
    if exact and len(text) < 60:
        return text
    for said in (text, *(kinds if len(kinds) == 1 else ())):
        for spdx, beginnings in _SPDX.items():
            if len(said) < 40 and said.lower().startswith(beginnings):
                return spdx
    return ", ".join(kinds) or (text if 0 < len(text) < 40 else "not stated")


def required_by(names: list[str]) -> Iterator[str]:
    """Yields what installed packages require in turn, each once."""
    waiting, seen = list(names), {canonicalize_name(name) for name in names}
    while waiting:
        try:
            lines = metadata.requires(waiting.pop()) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            wanted = not requirement.marker or requirement.marker.evaluate(
                {"extra": ""}
            )
            if wanted and name not in seen:
                seen.add(name)
                waiting.append(name)
                yield name


def main() -> int:
    """Prints the tables; returns 1 if a package is not installed."""
    direct, missing = requirements(), []
    print("| package | licence | extras |\n|---|---|---|")
    for name, extras in direct.items():
        try:
            said = licence(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        shown = ", ".join(f"`[{extra}]`" if extra else "always" for extra in extras)
        print(f"| {name} | {said} | {shown} |")
    by_licence: dict[str, list[str]] = {}
    for name in sorted(required_by(list(direct))):
        try:
            by_licence.setdefault(licence(name), []).append(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    print("\n| licence | packages that these require in turn |\n|---|---|")
    for said, names in sorted(by_licence.items(), key=lambda item: -len(item[1])):
        print(f"| {said} | {', '.join(names)} |")
    if missing:
        print(f"licences: not installed: {', '.join(missing)}", file=sys.stderr)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
