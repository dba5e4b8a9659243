"""Notes as JSON, JSON lines and CSV.

Columns of a note, in this order: start_time, end_time (seconds, microsecond
precision), pitch (MIDI number), velocity, program (0..127), instrument (General
MIDI name, or "Drums"), is_drum (true or false), and confidence (0..1, how sure the
model is that a note begins here) where it is known. Text is UTF-8, lines end in a line
feed, JSON is strict (no NaN, no infinity).
"""

from __future__ import annotations

import json
from typing import BinaryIO

from mt3 import errors
from mt3.note_sequences import Note
from mt3.outputs.transcription import NOTE_COLUMNS, Transcription, note_to_dict


def write_json(result: Transcription, stream: BinaryIO) -> None:
    """Writes the whole record as one JSON object, one note per line, beats on one."""
    record = result.to_dict()
    notes, beats = record.pop("notes"), record.pop("beats")
    try:
        head = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2)
    except (TypeError, ValueError) as error:
        raise errors.OutputError(
            f"{result.source or 'transcription'}: settings cannot be written as "
            f"JSON: {error}"
        ) from error
    lines = ",\n".join(f"    {json.dumps(note, ensure_ascii=False)}" for note in notes)
    body = f"[\n{lines}\n  ]" if notes else "[]"
    # The object's closing brace comes after the notes.
    head = f'{head[: head.rindex("}")].rstrip()},\n  "beats": {json.dumps(beats)}'
    text = f'{head},\n  "notes": {body}\n}}\n'
    stream.write(_encode(text))


def note_line(note: Note) -> bytes:
    """Returns one note as one line of JSON."""
    return _encode(json.dumps(note_to_dict(note), ensure_ascii=False) + "\n")


class JsonLinesWriter:
    """Writes notes one per line as they come, each line handed on at once.

    A reader at the other end of a pipe sees every note as soon as it is known.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, notes: list[Note] | tuple[Note, ...]) -> None:
        """Appends `notes` and flushes."""
        for note in notes:
            self._stream.write(note_line(note))
        self._stream.flush()


def write_jsonl(result: Transcription, stream: BinaryIO) -> None:
    """Writes one JSON object per note and line."""
    JsonLinesWriter(stream).write(result.notes)


def write_csv(result: Transcription, stream: BinaryIO) -> None:
    """Writes a header and one line per note."""
    # No value holds a comma, quote or line break: names come from a fixed list.
    names = NOTE_COLUMNS
    if any(note.confidence is not None for note in result.notes):
        names += ("confidence",)
    lines = [",".join(names)]
    for note in result.notes:
        columns = note_to_dict(note)
        columns["is_drum"] = "true" if note.is_drum else "false"
        lines.append(",".join(str(columns.get(name, "")) for name in names))
    stream.write(_encode("\n".join(lines) + "\n"))


def _encode(text: str) -> bytes:
    # File names may hold bytes that are no text (lone surrogates): replace them.
    return text.encode("utf-8", errors="replace")
