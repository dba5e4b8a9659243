"""A picture of the notes: time to the right, pitch upwards, a colour per instrument.

A recording is laid out in up to `MAX_ROWS` rows of equal length, like the lines of
a page, so that three minutes and three hours both fit one picture. Instruments that
play one pitch at the same time share its height. The softer a note, the paler it is.
Drums have six lanes of their own below the pitches; below them is the spectrogram, if
it is given. Drawn with Pillow, which loads in a
fraction of the time that a plotting library takes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.outputs.transcription import Transcription
from mt3.vocabularies import MAX_VELOCITY

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

WIDTH = 1600
MAX_ROWS = 6
# Length of a row in seconds: the first that needs no more than MAX_ROWS rows.
_ROW_SECONDS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
_TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
_MAX_TICKS = 16

# Colours that most eyes can distinguish, dark enough on white; then repeated.
PALETTE = (
    "#1f6fb4",
    "#d9541e",
    "#2b8c4b",
    "#8e4fb0",
    "#c8961a",
    "#0f9ba3",
    "#c23b78",
    "#6b7a1f",
    "#7a5236",
    "#4a5fd0",
    "#e07b9b",
    "#5b6b7a",
)
DRUM_COLOUR = "#3a3f47"

_MARGIN = 24
_LABELS_WIDTH = 56
_LANE = 14
_GAP = 8
# Of all rows of pitches together, and of a single one.
_HEIGHT = 1500
_ONE_ROW_HEIGHT = 620
_AXIS_HEIGHT = 26
_SPECTROGRAM_HEIGHT = 220
# Of a spectrogram, what is softer than the loudest by this is white: natural logarithm
# of the magnitude, 70 dB.
_SPECTROGRAM_RANGE = 8.0
_WHITE, _INK, _FAINT = "#ffffff", "#1d2733", "#66717f"
_BLACK_KEY, _OCTAVE, _GRID, _FRAME = "#f4f5f8", "#d3d8e0", "#e9ecf1", "#b9c1cc"
_BLACK_KEYS = frozenset((1, 3, 6, 8, 10))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Sizes of one picture, in pixels, seconds and semitones."""

    row_seconds: float
    num_rows: int
    low: int
    high: int
    pitch_height: int
    num_lanes: int
    header: int
    spectrogram_height: int = 0

    @property
    def plot_width(self) -> int:
        return WIDTH - 2 * _MARGIN - _LABELS_WIDTH

    @property
    def left(self) -> int:
        return _MARGIN + _LABELS_WIDTH

    @property
    def pitches_height(self) -> int:
        return (self.high - self.low + 1) * self.pitch_height if self.high >= 0 else 0

    @property
    def lanes_top(self) -> int:
        """Height of everything above the drum lanes of a row."""
        gap = _GAP if self.pitches_height and self.num_lanes else 0
        return self.pitches_height + gap

    @property
    def plot_height(self) -> int:
        return self.lanes_top + self.num_lanes * _LANE

    @property
    def row_height(self) -> int:
        return self.plot_height + _AXIS_HEIGHT + self.spectrogram_height

    @property
    def height(self) -> int:
        return self.header + self.num_rows * self.row_height + _MARGIN

    def row_top(self, row: int) -> int:
        return self.header + row * self.row_height

    def x(self, seconds: float, row: int) -> float:
        """Horizontal place of a time in a row, held within the plot."""
        share = (seconds - row * self.row_seconds) / self.row_seconds
        return self.left + min(1.0, max(0.0, share)) * self.plot_width

    def pitch_top(self, pitch: int, row: int) -> int:
        return self.row_top(row) + (self.high - pitch) * self.pitch_height


def write_png(result: Transcription, stream: BinaryIO) -> None:
    """Draws a transcription and writes the picture as PNG.

    Args:
      result: what to draw.
      stream: binary file to write to.
    """
    model = result.model or "unknown model"
    if result.model_sha256:
        model += f" {result.model_sha256[:12]}"
    origin = f"transcribed by mt3 {result.version} with {model}"
    save_png(draw_picture(result, origin), stream, result.version)


def save_png(picture: Image.Image, stream: BinaryIO, version: str) -> None:
    """Writes a picture as PNG, with the version of mt3 as its mark."""
    from PIL import PngImagePlugin

    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", f"mt3 {version}")
    picture.save(stream, format="PNG", optimize=False, pnginfo=mark)


def draw_picture(
    result: Transcription,
    origin: str,
    *,
    scale: Transcription | None = None,
    spectrogram: np.ndarray | None = None,
) -> Image.Image:
    """Draws a transcription.

    Args:
      result: what to draw.
      origin: where the notes come from, for the picture's second line.
      scale: length, pitches and instruments of the picture are chosen for these
        notes, so that several pictures of one scale have the same axes and colours;
        by default for those of `result`.
      spectrogram: of the `duration` of `scale`, logarithm of magnitudes, [frames,
        bands], low bands first; drawn beneath the notes.

    Returns:
      The picture, RGB, `WIDTH` pixels wide.
    """
    groups = result.by_instrument()
    scale = scale or result
    colours = instrument_colours(scale.by_instrument())
    layers = {
        key: Layer(
            f"{general_midi.instrument_name(*key)} ({len(groups.get(key, ()))})",
            colour,
            groups.get(key, ()),
        )
        for key, colour in colours.items()
    }
    plural = "" if len(result.notes) == 1 else "s"
    length = clock_time(result.end_time)
    facts = f"{length} long, {len(result.notes)} note{plural}, {origin}"
    return draw_layers(
        layers.values(), result.source, facts, scale=scale, spectrogram=spectrogram
    )


@dataclasses.dataclass(frozen=True)
class Layer:
    """Notes that are drawn alike.

    Attributes:
      label: what the legend calls them.
      colour: "#rrggbb".
      notes: the notes, pitched ones and drums.
      hollow: draw outlines alone.
    """

    label: str
    colour: str
    notes: Sequence[Note]
    hollow: bool = False


def draw_layers(
    layers: Iterable[Layer],
    title: str,
    facts: str,
    *,
    scale: Transcription,
    height: int = _HEIGHT,
    spectrogram: np.ndarray | None = None,
) -> Image.Image:
    """Draws several kinds of notes into one picture.

    Args:
      layers: the kinds. Those that sound one pitch at the same time share its height.
      title: the picture's first line.
      facts: its second line.
      scale: the notes that length and pitches of the picture are chosen for.
      height: about how high all rows of pitches together may be, in pixels.
      spectrogram: of the `duration` of `scale`, as for `draw_picture`.

    Returns:
      The picture, RGB, `WIDTH` pixels wide.
    """
    from PIL import Image, ImageDraw

    layers = list(layers)
    fonts = _Fonts()
    lines = _wrap_legend(layers, fonts)
    layout = _choose_layout(scale, header=74 + 24 * len(lines), height=height)
    if spectrogram is not None:
        layout = dataclasses.replace(layout, spectrogram_height=_SPECTROGRAM_HEIGHT)
    image = Image.new("RGB", (WIDTH, layout.height), _WHITE)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, title, facts, lines, fonts)
    stripes = _stripes([[n for n in x.notes if not n.is_drum] for x in layers])
    hits = [[note for note in layer.notes if note.is_drum] for layer in layers]
    for row in range(layout.num_rows):
        _draw_grid(draw, layout, row, scale.end_time, fonts)
        for number, layer in enumerate(layers):
            _draw_pitched(draw, layout, row, stripes[number], layer)
            _draw_drums(draw, layout, row, hits[number], layer)
        _draw_frame(draw, layout, row)
        if spectrogram is not None:
            _draw_spectrogram(image, layout, row, spectrogram, scale.duration)
    if not any(layer.notes for layer in layers):
        middle = layout.row_top(0) + layout.plot_height / 2
        place = (layout.left + layout.plot_width / 2, middle)
        draw.text(place, "No notes", fill=_FAINT, font=fonts.title, anchor="mm")
    return image


def instrument_colours(
    keys: Iterable[tuple[int, bool]],
) -> dict[tuple[int, bool], str]:
    """Returns a colour for each (program, is_drum), the same for equal lists."""
    melodic = [key for key in keys if not key[1]]
    colours = {key: PALETTE[i % len(PALETTE)] for i, key in enumerate(melodic)}
    return {key: colours.get(key, DRUM_COLOUR) for key in keys}


class _Fonts:
    """The sizes of Pillow's own font that a picture uses."""

    def __init__(self) -> None:
        from PIL import ImageFont

        self.title = ImageFont.load_default(22)
        self.text = ImageFont.load_default(15)
        self.small = ImageFont.load_default(13)


def _choose_layout(result: Transcription, header: int, height: int) -> _Layout:
    """Fits rows, pitch range and heights to the notes."""
    seconds = max(result.end_time, 1.0)
    fitting = [r for r in _ROW_SECONDS if seconds <= r * MAX_ROWS]
    row_seconds = fitting[0] if fitting else math.ceil(seconds / MAX_ROWS)
    # Half a minute reads best on one line.
    row_seconds = max(row_seconds, min(30, math.ceil(seconds)))
    pitched = [note.pitch for note in result.notes if not note.is_drum]
    has_drums = len(pitched) < len(result.notes)
    num_rows = max(1, math.ceil(seconds / row_seconds))
    low, high = 0, -1
    if pitched or not has_drums:
        low, high = (min(pitched), max(pitched)) if pitched else (60, 71)
        # Whole octaves, two at least.
        low, high = 12 * (low // 12), 12 * (high // 12) + 11
        if high - low < 23:
            low = max(0, low - 12)
            high = low + 23
        high = min(high, 127)
    available = _ONE_ROW_HEIGHT if num_rows == 1 else height // num_rows
    pitch_height = min(12, max(3, available // (high - low + 1))) if high >= 0 else 0
    lanes = len(general_midi.DRUM_LANES) if has_drums else 0
    return _Layout(row_seconds, num_rows, low, high, pitch_height, lanes, header)


def _wrap_legend(
    layers: Iterable[Layer], fonts: _Fonts
) -> list[list[tuple[int, Layer]]]:
    """Breaks the legend into lines of (x, layer)."""
    lines: list[list[tuple[int, Layer]]] = []
    x = WIDTH
    for layer in layers:
        width = 22 + math.ceil(fonts.text.getlength(layer.label)) + 26
        if x + width > WIDTH - _MARGIN:
            lines.append([])
            x = _MARGIN
        lines[-1].append((x, layer))
        x += width
    return lines


def _draw_header(
    draw: ImageDraw.ImageDraw,
    title: str,
    facts: str,
    legend: Sequence[Sequence[tuple[int, Layer]]],
    fonts: _Fonts,
) -> None:
    """Draws title, facts and legend."""
    title = title.encode("utf-8", "replace").decode() or "Transcription"
    title = "".join(c if c.isprintable() else " " for c in title)
    draw.text((_MARGIN, 16), _shorten(title, fonts.title), fill=_INK, font=fonts.title)
    facts = _shorten(facts, fonts.text)
    draw.text((_MARGIN, 46), facts, fill=_FAINT, font=fonts.text)
    for number, line in enumerate(legend):
        top = 72 + 24 * number
        for x, layer in line:
            box = (x, top + 3, x + 13, top + 16)
            draw.rectangle(box, **_paint(layer, layer.colour))
            draw.text((x + 21, top), layer.label, fill=_INK, font=fonts.text)


def _shorten(text: str, font) -> str:
    """Returns text that fits the picture's width."""
    if font.getlength(text) <= WIDTH - 2 * _MARGIN:
        return text
    while text and font.getlength(f"{text}...") > WIDTH - 2 * _MARGIN:
        text = text[: -max(1, len(text) // 20)]
    return f"{text}..."


def _draw_grid(
    draw: ImageDraw.ImageDraw, layout: _Layout, row: int, end: float, fonts: _Fonts
) -> None:
    """Draws keys, octaves, drum lanes, time lines and their labels of one row."""
    top, left = layout.row_top(row), layout.left
    right = left + layout.plot_width
    for pitch in range(layout.low, layout.high + 1):
        y = layout.pitch_top(pitch, row)
        if pitch % 12 in _BLACK_KEYS:
            box = (left, y, right, y + layout.pitch_height - 1)
            draw.rectangle(box, fill=_BLACK_KEY)
    lanes = top + layout.lanes_top
    for lane in range(0, layout.num_lanes, 2):
        box = (left, lanes + lane * _LANE, right, lanes + (lane + 1) * _LANE - 1)
        draw.rectangle(box, fill=_BLACK_KEY)
    step = next(
        (s for s in _TICK_SECONDS if layout.row_seconds / s <= _MAX_TICKS),
        layout.row_seconds / _MAX_TICKS,
    )
    bottom = top + layout.plot_height
    first = row * layout.row_seconds
    for number in range(math.floor(layout.row_seconds / step) + 1):
        seconds = first + number * step
        x = layout.x(seconds, row)
        draw.line((x, top, x, bottom), fill=_GRID)
        draw.line((x, bottom, x, bottom + 4), fill=_FRAME)
        if seconds <= end or row == 0:
            label = clock_time(seconds)
            draw.text(
                (x, bottom + 6), label, fill=_FAINT, font=fonts.small, anchor="mt"
            )
    for pitch in range(layout.low, layout.high + 1, 12):
        y = layout.pitch_top(pitch, row) + layout.pitch_height - 1
        draw.line((left, y, right, y), fill=_OCTAVE)
        name = general_midi.pitch_name(pitch)
        draw.text((left - 8, y), name, fill=_FAINT, font=fonts.small, anchor="rs")
    for lane in range(layout.num_lanes):
        y = lanes + lane * _LANE + _LANE // 2
        name = general_midi.DRUM_LANES[lane]
        draw.text((left - 8, y), name, fill=_FAINT, font=fonts.small, anchor="rm")


def _draw_frame(draw: ImageDraw.ImageDraw, layout: _Layout, row: int) -> None:
    """Draws the outlines of the pitches and of the drum lanes."""
    top, left = layout.row_top(row), layout.left
    right = left + layout.plot_width
    if layout.pitches_height:
        box = (left, top, right, top + layout.pitches_height - 1)
        draw.rectangle(box, outline=_FRAME)
    if layout.num_lanes:
        box = (left, top + layout.lanes_top, right, top + layout.plot_height - 1)
        draw.rectangle(box, outline=_FRAME)


def _draw_spectrogram(
    image: Image.Image,
    layout: _Layout,
    row: int,
    spectrogram: np.ndarray,
    duration: float,
) -> None:
    """Draws what was heard in a row beneath it, the louder the darker."""
    from PIL import Image

    first, last = row * layout.row_seconds, (row + 1) * layout.row_seconds
    rate = len(spectrogram) / duration
    shown = spectrogram[round(first * rate) : round(last * rate)]
    if not len(shown):
        return
    softness = (spectrogram.max() - shown) / _SPECTROGRAM_RANGE
    grey = (255 * np.clip(softness, 0, 1)).astype(np.uint8)
    left, right = round(layout.x(first, row)), round(layout.x(duration, row))
    height = layout.spectrogram_height - _GAP
    panel = Image.fromarray(grey.T[::-1]).resize((max(1, right - left), height))
    image.paste(panel, (left, layout.row_top(row) + layout.plot_height + _AXIS_HEIGHT))


_Stripe = tuple[Note, int, int]  # note, place among those at its pitch, their number


def _stripes(groups: Sequence[Sequence[Note]]) -> list[list[_Stripe]]:
    """Finds, for each pitched note, which other groups sound its pitch meanwhile."""
    notes = sorted(
        (note.pitch, note.start_time, note.end_time, rank, number)
        for rank, group in enumerate(groups)
        for number, note in enumerate(group)
    )
    together = [{rank} for _, _, _, rank, _ in notes]
    active: list[int] = []
    for i, (pitch, start, _, rank, _) in enumerate(notes):
        active = [j for j in active if notes[j][0] == pitch and notes[j][2] > start]
        for j in active:
            together[j].add(rank)
            together[i].add(notes[j][3])
        active.append(i)
    stripes: list[list[_Stripe]] = [[] for _ in groups]
    for (_, _, _, rank, number), ranks in zip(notes, together, strict=True):
        place = sum(other < rank for other in ranks)
        stripes[rank].append((groups[rank][number], place, len(ranks)))
    return stripes


def _touches(layout: _Layout, row: int, note: Note) -> bool:
    """Whether a note is to be seen in a row."""
    first, last = row * layout.row_seconds, (row + 1) * layout.row_seconds
    return note.start_time < last and max(note.end_time, note.start_time) >= first


def _draw_pitched(
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    row: int,
    stripes: Iterable[_Stripe],
    layer: Layer,
) -> None:
    """Draws bars whose left ends are darker, so that repeated notes show."""
    thickness = max(2, layout.pitch_height - 1)
    edge = _darker(layer.colour)
    for note, place, count in stripes:
        if not _touches(layout, row, note):
            continue
        top = layout.pitch_top(note.pitch, row)
        bottom = top + max(1, thickness * (place + 1) // count) - 1
        top = min(bottom, top + thickness * place // count)
        start = round(layout.x(note.start_time, row))
        end = max(start + 1, round(layout.x(note.end_time, row)) - 1)
        shade = _shade(layer.colour, note.velocity)
        draw.rectangle((start, top, end, bottom), **_paint(layer, shade))
        if end - start >= 3:
            draw.line((start, top, start, bottom), fill=edge)


def _draw_drums(
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    row: int,
    notes: Iterable[Note],
    layer: Layer,
) -> None:
    """Draws one mark per hit in its lane."""
    lanes = layout.row_top(row) + layout.lanes_top
    for note in notes:
        if not _touches(layout, row, note):
            continue
        y = lanes + general_midi.drum_lane(note.pitch) * _LANE
        start = round(layout.x(note.start_time, row))
        box = (start, y + 2, start + 2, y + _LANE - 3)
        shade = _shade(layer.colour, note.velocity)
        draw.rectangle(box, **_paint(layer, shade))


def _paint(layer: Layer, colour: str) -> dict[str, str]:
    """Returns how Pillow fills a rectangle of a layer."""
    return {"outline": colour, "fill": _WHITE if layer.hollow else colour}


def _darker(colour: str) -> str:
    """Returns a colour at two thirds of its brightness."""
    parts = [int(colour[i : i + 2], 16) * 2 // 3 for i in (1, 3, 5)]
    return "#{:02x}{:02x}{:02x}".format(*parts)


@functools.lru_cache(maxsize=4096)
def _shade(colour: str, velocity: int) -> str:
    """Returns a colour, the paler the softer a note is; that of 127 as it is."""
    share = 0.4 + 0.6 * velocity / MAX_VELOCITY
    parts = [255 - (255 - int(colour[i : i + 2], 16)) * share for i in (1, 3, 5)]
    return "#{:02x}{:02x}{:02x}".format(*map(round, parts))


def clock_time(seconds: float) -> str:
    """Returns a time as "m:ss" or "h:mm:ss", with tenths where it has some."""
    tenths = round(seconds * 10)
    whole, fraction = divmod(tenths, 10)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{text}.{fraction}" if fraction else text
