"""Recordings from the browser in which a notebook is open: its files, its microphone.

In Colab a recording reaches the kernel by Colab's own calls. In JupyterLab and Notebook
the page hands it to Jupyter's server, which stores it in the notebook's folder, where
the waiting cell finds it; that needs no package beside IPython. It goes nowhere else.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import string
import time
from importlib import resources
from pathlib import Path
from typing import Any

from mt3.errors import AudioError

FOLDER = "recordings"
_SECONDS_BETWEEN_LOOKS = 0.2


def upload(folder: str | os.PathLike[str] = FOLDER) -> Path:
    """Lets the user of a notebook choose a file, and waits for it.

    Args:
      folder: where to store it, below the notebook's folder; made if missing. A file of
        the same name is replaced.

    Returns:
      The file's path.

    Raises:
      AudioError: not in a notebook.
    """
    return _receive("upload", Path(folder))


def record(folder: str | os.PathLike[str] = FOLDER) -> Path:
    """Lets the user of a notebook record with the microphone, and waits for the end.

    Arguments and errors as for `upload`.

    Returns:
      The path of `recording.wav`, one channel of 16 bits.
    """
    return _receive("record", Path(folder))


def _receive(kind: str, folder: Path) -> Path:
    """Shows the page's controls and returns the path of what comes."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        shell = None
    else:
        shell = get_ipython()
    if not hasattr(shell, "kernel"):
        raise AudioError(
            f"{kind}: there is no browser here; expected a cell of a notebook (or name "
            "a file)"
        )
    try:
        from google.colab import output as colab
    except ImportError:
        colab = None
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    settings = {
        "kind": kind,
        "token": token,
        "folder": folder.as_posix(),
        "kernel": "" if colab else _kernel_id(),
    }
    page = resources.files(__package__).joinpath("browser.html").read_text("utf-8")
    page = string.Template(page).substitute(token=token, settings=json.dumps(settings))
    shown = display(HTML(page), display_id=True)
    if colab:
        path = _from_colab(colab.eval_js(f"mt3Recordings['{token}']"), folder)
    else:
        path = _from_server(folder, token)
    shown.update(HTML(""))
    print(path)
    return path


def _kernel_id() -> str:
    """Returns the id by which Jupyter's server knows this kernel."""
    from ipykernel.connect import get_connection_file

    return Path(get_connection_file()).stem.removeprefix("kernel-")


def _from_colab(sent: dict[str, Any], folder: Path) -> Path:
    """Writes what Colab's page sent."""
    path = folder / Path(sent["name"]).name
    path.write_bytes(base64.b64decode(sent["content"]))
    return path


def _from_server(folder: Path, token: str) -> Path:
    """Waits until the server has stored the file; interrupting the cell ends that."""
    while True:
        for path in folder.glob(f"{token}-*"):
            _, size, name = path.name.split("-", 2)
            # The server shows a file while it writes it.
            if path.stat().st_size == int(size):
                return path.replace(folder / name)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
