"""JSON, JSON lines and CSV, as `tables` writes them, back to notes.

Columns by other names are passed over, so that files of later versions can be read.
"""

from __future__ import annotations

import csv
import io
import json
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mt3.errors import MidiError
from mt3.midi.reader import check_length
from mt3.note_sequences import Note, validate_notes
from mt3.outputs.transcription import FORMAT_NAME, FORMAT_VERSION

# By the ending of a file's name, what reads its text as rows.
SUFFIXES = (".json", ".jsonl", ".csv")
# A million notes in JSON.
MOST_BYTES = 256 << 20


def read_notes(path: str | os.PathLike[str]) -> list[Note]:
    """Reads the notes of a JSON, JSON lines or CSV file.

    Args:
      path: a file that `mt3 transcribe` wrote; the ending of its name says which kind.

    Returns:
      Notes sorted by onset.

    Raises:
      MidiError: the file cannot be read, is damaged or not such a file, or a note is
        out of range; the message names file and note.
    """
    path = Path(path)
    text = _text(path)
    try:
        if path.suffix.lower() == ".json":
            rows = _json_rows(json.loads(text))
        elif path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except (ValueError, RecursionError, csv.Error) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise MidiError(
            f"{path}: not {path.suffix[1:].upper()} as mt3 transcribe writes it: "
            f"{reason}"
        ) from error
    notes = _notes(rows, path)
    validate_notes(notes, str(path))
    check_length(max((note.end_time for note in notes), default=0.0), str(path))
    return sorted(notes)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise MidiError(
                f"{path}: larger than {MOST_BYTES >> 20} MiB; expected notes of a song"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise MidiError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MidiError(f"{path}: not UTF-8 text: {error.reason}") from error


def _json_rows(record: Any) -> list[Any]:
    """Returns the notes of a JSON record; raises ValueError if it is none of ours."""
    if not isinstance(record, dict) or record.get("format") != FORMAT_NAME:
        raise ValueError(f'expected an object with "format": "{FORMAT_NAME}"')
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version {version}; expected {FORMAT_VERSION}")
    rows = record.get("notes")
    if not isinstance(rows, list):
        raise ValueError('expected a list of "notes"')
    return rows


def _number(value: Any) -> int:
    return int(value) if isinstance(value, str) else operator.index(value)


_TRUTH = {True: True, False: False, "true": True, "false": False}
_COLUMNS = {
    "start_time": float,
    "end_time": float,
    "pitch": _number,
    "velocity": _number,
    "program": _number,
    "is_drum": _TRUTH.__getitem__,
}


def _notes(rows: Iterable[Mapping[str, Any]], path: Path) -> list[Note]:
    notes = []
    for number, row in enumerate(rows):
        values = {}
        for name, read in _COLUMNS.items():
            try:
                values[name] = read(row[name])
                # Beyond 64 bits no column can be checked.
                if name in ("pitch", "velocity", "program"):
                    values[name].to_bytes(8, "big", signed=True)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                found = row.get(name) if isinstance(row, Mapping) else row
                shown = "nothing" if found is None else repr(found)[:40]
                raise MidiError(
                    f"{path}: note {number}: {name}: found {shown}; expected "
                    f"{'true or false' if name == 'is_drum' else 'a number'}"
                ) from error
        notes.append(Note(**values))
    return notes
