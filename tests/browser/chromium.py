"""Finds Chromium, or installs it: `python -m tests.browser.chromium`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_WANTED = (
    "The browser tests need Chromium or Chrome in PATH; it was not found and could not "
    "be installed. On Debian: apt-get install chromium"
)


def find() -> str | None:
    """Returns the path of a browser; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def main() -> int:
    """Installs Debian's Chromium where no browser is found; returns the exit code."""
    if find():
        return 0
    if shutil.which("apt-get"):
        # Asks for no password: nobody may be there to type it.
        become = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not become or shutil.which("sudo"):
            install = [*become, "apt-get", "install", "--yes", "-qq", "chromium"]
            for command in ([*become, "apt-get", "update", "-qq"], install):
                subprocess.run(command, check=False)
    if find():
        return 0
    print(_WANTED, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
