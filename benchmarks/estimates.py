"""Where the transcriptions that are compared come from: models, or folders of MIDI.

A `Column` is one of them in the tables. A model can be asked for several times with
other options; where only the clean-up differs, it transcribes once.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.held_out import Piece
from mt3 import inference
from mt3.beyond import cleanup as note_cleanup
from mt3.errors import ConfigError, MidiError, near_misses
from mt3.midi import reader
from mt3.note_sequences import Note

# A soundfont's name, or "recordings", and the set.
SetKey = tuple[str, str]

_CLEANUP = {field.name for field in dataclasses.fields(note_cleanup.CleanupOptions)}
_OPTIONS = _CLEANUP | {
    field.name for field in dataclasses.fields(inference.TranscribeOptions)
} - {"cleanup"}


@dataclasses.dataclass(frozen=True)
class Column:
    """One kind of transcription.

    Attributes:
      label: what it is called in tables.
      source: name or path of a model, or a folder of MIDI files.
      is_model: which of the two.
      options: of the model: fields of `TranscribeOptions` and `CleanupOptions`.
    """

    label: str
    source: str
    is_model: bool
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def transcribe_options(self) -> inference.TranscribeOptions:
        """How the model writes notes, before the clean-up."""
        values = {k: v for k, v in self.options.items() if k not in _CLEANUP}
        # No clean-up here: it follows.
        values["cleanup"] = note_cleanup.CleanupOptions()
        return inference.TranscribeOptions(**values)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Reads options such as "decode=greedy" or "grammar=false".

    Raises:
      ConfigError: no such option, or no value.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in _OPTIONS:
            raise ConfigError(
                f"accuracy: option {text!r}; expected NAME=VALUE."
                f"{near_misses(name, _OPTIONS)}"
            )
        options[name] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    """Reads true, false, none, a number or a tuple; all else is text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def make_columns(
    models: Sequence[str],
    folders: Sequence[str],
    options: Mapping[str, Any],
    choices: Sequence[str] = (),
) -> list[Column]:
    """Makes the columns of the tables.

    Args:
      models: "[LABEL=]NAME or path".
      folders: "[LABEL=]folder of MIDI files".
      options: of all models.
      choices: further options, each a comma-separated list; every model is asked for
        once more with each.

    Raises:
      ConfigError: an unknown option, or two columns of one label.
    """
    columns = []
    for text in models:
        label, source = _labelled(text)
        columns.append(Column(label, source, True, options))
        for choice in choices:
            changed = {**options, **parse_options(choice.split(","))}
            name = choice if len(models) == 1 else f"{label} {choice}"
            columns.append(Column(name, source, True, changed))
    for text in folders:
        columns.append(Column(*_labelled(text), False))
    labels = [column.label for column in columns]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"accuracy: two columns are called {label!r}; expected LABEL=... to "
                "tell them apart"
            )
    return columns


def _labelled(text: str) -> tuple[str, str]:
    label, equals, source = text.partition("=")
    return (label, source) if equals else (Path(text).stem, text)


def transcribe(
    columns: Sequence[Column], sets: Mapping[SetKey, Sequence[Piece]]
) -> Iterator[tuple[Column, SetKey, list[list[Note]]]]:
    """Transcribes every piece in every way.

    Args:
      columns: the ways.
      sets: pieces by soundfont (or "recordings") and set.

    Yields:
      Column, set of pieces, and the notes of each of its pieces; columns in order.

    Raises:
      MT3Error: a model cannot be loaded, or a transcription is missing.
    """
    made: dict[str, _Made] = {}
    for column in columns:
        if not column.is_model:
            for key, pieces in sets.items():
                yield column, key, [_read(Path(column.source), p) for p in pieces]
            continue
        model = inference.InferenceModel(column.source, column.transcribe_options)
        # What was left to the model may be what another column asks for.
        way = json.dumps([column.source, model.resolved.settings()], sort_keys=True)
        if way not in made:
            made[way] = _Made(
                model.info.get("cleanup", {}),
                model.config.segment_seconds,
                {
                    key: _run(model, pieces, ", ".join((column.label, *key)))
                    for key, pieces in sets.items()
                },
            )
        for key, found in made[way].found.items():
            yield column, key, made[way].cleaned(found, column.options)


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a model has written, before the clean-up.

    Attributes:
      cleanup: the clean-up that the model asks for, by name.
      segment_seconds: length of its segments.
      found: notes of each piece, by set.
    """

    cleanup: Mapping[str, Any]
    segment_seconds: float
    found: Mapping[SetKey, list[list[Note]]]

    def cleaned(
        self, songs: Sequence[Sequence[Note]], options: Mapping[str, Any]
    ) -> list[list[Note]]:
        """Cleans up as asked for, else as the model asks for."""
        given = {name: value for name, value in options.items() if name in _CLEANUP}
        cleanup = note_cleanup.CleanupOptions.from_dict(given or self.cleanup)
        if not cleanup:
            return [list(notes) for notes in songs]
        return [
            note_cleanup.clean_up(notes, cleanup, segment_seconds=self.segment_seconds)
            for notes in songs
        ]


def _run(
    model: inference.InferenceModel, pieces: Sequence[Piece], title: str
) -> list[list[Note]]:
    """Transcribes pieces with a model; tells the speed on standard error."""
    for piece in pieces:
        _ = piece.samples  # Rendered now, so that it does not count as transcribing.
    found: dict[int, list[Note]] = {}
    start = time.monotonic()
    for item in model.run(piece.samples for piece in pieces):
        if isinstance(item, inference.FileResult):
            if item.error:
                raise item.error
            found[item.file] = list(item.transcription.notes)
    speed = sum(piece.seconds for piece in pieces) / (time.monotonic() - start)
    print(f"{title}: {speed:.1f} times real time", file=sys.stderr, flush=True)
    return [found[index] for index in range(len(pieces))]


def _read(folder: Path, piece: Piece) -> list[Note]:
    """Reads the transcription of a piece from a folder."""
    path = folder / f"{piece.name}.mid"
    if not path.is_file():
        raise MidiError(
            f"{path}: accuracy: there is no such transcription; expected one for each "
            "of the pieces that --write-audio writes with the same options"
        )
    notes = reader.read_midi(path)
    latest = max((note.start_time for note in notes), default=0.0)
    if latest > piece.seconds + 1.0:
        raise MidiError(
            f"{path}: accuracy: a note begins at {latest:.1f} s; expected the "
            f"transcription of {piece.seconds:g} s of audio"
        )
    return notes
