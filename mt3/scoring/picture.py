"""A picture of where a transcription is right and wrong.

Matched notes are pale, missed ones hollow and dark blue, extra ones solid and orange:
brightness, form and colour differ, so that they can be told without seeing colours.
Notes match by pitch and onset whatever their instrument, drums only drums, as
for "Onset F1" (`matching`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

import mt3
from mt3.note_sequences import Note, array_to_notes
from mt3.outputs.pianoroll import Layer, clock_time, draw_layers, save_png
from mt3.outputs.transcription import Transcription
from mt3.scoring import counts, matching
from mt3.vocabularies import MAX_VELOCITY

if TYPE_CHECKING:
    from PIL import Image

# Of Okabe and Ito's palette for all kinds of colour vision, and a grey.
_COLOURS = {"matched": "#a9b4bf", "missed": "#0a4f9c", "extra": "#e0680a"}
_HEIGHT = 2400


@dataclasses.dataclass(frozen=True)
class Compared:
    """The notes of a song by what became of them.

    Attributes:
      matched: notes of the reference that were found.
      missed: notes of the reference that were not.
      extra: notes of the estimate that match none.
    """

    matched: tuple[Note, ...]
    missed: tuple[Note, ...]
    extra: tuple[Note, ...]


def compare_notes(reference: np.ndarray, estimate: np.ndarray) -> Compared:
    """Sorts the notes of a song into matched, missed and extra ones.

    Args:
      reference: the true notes, [r] of `NOTE_DTYPE`.
      estimate: the transcribed notes, [e] of `NOTE_DTYPE`.

    Raises:
      MidiError: as `matching.match_notes`.
    """
    groups: dict[str, list[Note]] = {name: [] for name in _COLOURS}
    sides = [
        matching.with_length(counts.one_drum_kit(notes))
        for notes in (reference, estimate)
    ]
    for is_drum in (False, True):
        one, other = (notes[notes["is_drum"] == is_drum] for notes in sides)
        pairs = matching.match_notes(one, other, offset_ratio=None)
        groups["matched"] += array_to_notes(one[pairs[:, 0]])
        groups["missed"] += array_to_notes(np.delete(one, pairs[:, 0]))
        groups["extra"] += array_to_notes(np.delete(other, pairs[:, 1]))
    return Compared(**{name: tuple(notes) for name, notes in groups.items()})


def draw_comparison(compared: Compared, title: str) -> Image.Image:
    """Draws matched, missed and extra notes with a legend.

    Args:
      compared: the notes.
      title: the picture's first line.

    Returns:
      The picture, RGB.
    """
    layers = []
    for name, colour in _COLOURS.items():
        # Shades would say something of velocities, which are not compared.
        notes = [
            dataclasses.replace(note, velocity=MAX_VELOCITY)
            for note in getattr(compared, name)
        ]
        label = f"{name} ({len(notes)})"
        layers.append(Layer(label, colour, notes, hollow=name == "missed"))
    scale = Transcription([note for layer in layers for note in layer.notes])
    _, _, f1 = matching.precision_recall_f1(
        len(compared.matched),
        len(compared.matched) + len(compared.missed),
        len(compared.matched) + len(compared.extra),
    )
    milliseconds = round(1000 * matching.ONSET_TOLERANCE)
    facts = (
        f"{clock_time(scale.end_time)} long, F1 {f1:.4f}: pitch and onset match within "
        f"{milliseconds} ms, whatever the instrument; drums among drums; "
        f"mt3 {mt3.__version__}"
    )
    return draw_layers(layers, title, facts, scale=scale, height=_HEIGHT)


def write_picture(compared: Compared, title: str, stream: BinaryIO) -> None:
    """Draws matched, missed and extra notes and writes them as PNG."""
    save_png(draw_comparison(compared, title), stream, mt3.__version__)
