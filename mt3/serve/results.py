"""Writing results: which formats there are here, and what each is called."""

from __future__ import annotations

import contextlib
import pathlib

from mt3 import outputs
from mt3.errors import OutputError
from mt3.serve.folder import private_file

MEDIA_TYPES = {
    "mid": "audio/midi",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "png": "image/png",
    "html": "text/html; charset=utf-8",
    "wav": "audio/wav",
    "musicxml": "application/vnd.recordare.musicxml+xml",
    "mxl": "application/vnd.recordare.musicxml",
    "pdf": "application/pdf",
}


def available_formats() -> tuple[str, ...]:
    """Returns the formats whose packages are installed."""
    found = []
    for name in outputs.FORMATS:
        with contextlib.suppress(OutputError):
            found += outputs.check_formats([name])
    return tuple(found)


def write(
    transcription: outputs.Transcription,
    path: pathlib.Path,
    format: str,
    options: outputs.OutputOptions,
) -> None:
    """Writes a result to a new file that only this user can read.

    Raises:
      OutputError: it cannot be written.
    """
    with private_file(path) as stream:
        outputs.write_stream(transcription, stream, format, options)
