"""Finds Chromium, or installs it: `python -m tests.browser.chromium`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Text without any font has no width.
_PACKAGES = ("chromium", "fonts-dejavu-core")
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
            get = [*become, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
            get += ["-o", "Acquire::Retries=3"]
            install = ["install", "--yes", "--no-install-recommends", *_PACKAGES]
            for command in (["update"], install):
                subprocess.run([*get, *command], check=False)
    if find():
        return 0
    print(_WANTED, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
