"""Files of notes, as `mt3 transcribe` writes them."""

from __future__ import annotations

from mt3.outputs import Transcription, write


def write_notes(stem, notes, format="mid"):
    """Writes notes; returns the path, which has the ending of the format."""
    return write(Transcription(notes), stem, [format])[0].path
