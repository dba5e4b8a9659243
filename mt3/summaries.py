"""What an evaluation shows beside its numbers: sound and pictures of a few songs.

For each song, cut to its first seconds:

* audio of the recording, of the reference and of the estimate, the latter two played
  by `mt3.outputs.sonify`;
* a picture that lays estimate over reference: notes in both, in the reference alone
  (missed) and in the estimate alone (wrong), in three colours;
* a picture of reference above estimate with a colour per instrument.

Pictures are 1200 pixels wide whatever the time they show, so that those of several
songs fit one seqio Image. Pitches go up the page, 21 to 108 (a piano's keys; notes
beyond are moved in by octaves); the drums have six lanes below them.

Difference from the original: pictures are drawn into arrays here, with a legend and
drums, where the original plots piano rolls without instruments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import seqio

from mt3.errors import ConfigError
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.outputs import Transcription, sonify
from mt3.outputs.pianoroll import clock_time, instrument_colours

DEFAULT_SECONDS = 30.0
# Names of the summaries.
INPUT_AUDIO = "Audio of the recording"
REFERENCE_AUDIO = "Audio of the reference"
ESTIMATE_AUDIO = "Audio of the estimate"
COMPARISON = "Piano roll of reference and estimate"
INSTRUMENTS = "Piano roll by instrument"

WIDTH = 1200
# Blue and orange are told apart by nearly all eyes; what is right is dark.
BOTH, MISSED, WRONG = (64, 72, 84), (33, 113, 199), (236, 112, 20)
_PAPER, _LINE, _INK = (255, 255, 255), (222, 226, 232), (29, 39, 51)
_LOW, _HIGH = 21, 108
_PITCH_HEIGHT = 4
_LANE_HEIGHT = 8
_GAP = 6
_HEADER = 24
_ROLL_HEIGHT = (
    (_HIGH - _LOW + 1) * _PITCH_HEIGHT
    + _GAP
    + len(general_midi.DRUM_LANES) * _LANE_HEIGHT
)
_DRUM_WIDTH = 3
_TITLE_WIDTH = 290
_LEGEND = 5  # names of instruments in one line

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class SummarySong:
    """A song to show.

    Attributes:
      name: what to call it.
      reference: the true notes.
      estimate: the transcribed notes.
      samples: float32 [samples], the recording or its beginning; empty if unknown.
    """

    name: str
    reference: Sequence[Note]
    estimate: Sequence[Note]
    samples: np.ndarray


def audio_summaries(
    songs: Sequence[SummarySong],
    *,
    sample_rate: int,
    seconds: float = DEFAULT_SECONDS,
) -> dict[str, seqio.metrics.MetricValue]:
    """Makes songs audible.

    Args:
      songs: the songs; none give no summaries.
      sample_rate: Hz, of the recordings and of what is rendered.
      seconds: how much of each song.

    Returns:
      Audio by name, float32 [songs, samples, 1] within -1..1; that of the recordings
      only if there are any.

    Raises:
      ConfigError: `seconds` is not positive.
    """
    _check(seconds)
    if not songs:
        return {}
    length = round(seconds * sample_rate)
    tracks = {
        INPUT_AUDIO: [_limited(song.samples[:length]) for song in songs],
        REFERENCE_AUDIO: [_play(s.reference, seconds, sample_rate) for s in songs],
        ESTIMATE_AUDIO: [_play(s.estimate, seconds, sample_rate) for s in songs],
    }
    result: dict[str, seqio.metrics.MetricValue] = {}
    for name, waves in tracks.items():
        longest = max(map(len, waves))
        if longest:
            data = np.zeros((len(waves), longest, 1), np.float32)
            for row, wave in zip(data, waves, strict=True):
                row[: len(wave), 0] = wave
            result[name] = seqio.metrics.Audio(
                data, sample_rate=sample_rate, max_outputs=len(waves)
            )
    return result


def image_summaries(
    songs: Sequence[SummarySong], *, seconds: float = DEFAULT_SECONDS
) -> dict[str, seqio.metrics.MetricValue]:
    """Draws songs.

    Args:
      songs: the songs; none give no summaries.
      seconds: how much of each song.

    Returns:
      Images by name, uint8 [songs, height, WIDTH, 3].

    Raises:
      ConfigError: `seconds` is not positive.
    """
    _check(seconds)
    if not songs:
        return {}
    drawings: dict[str, Callable[[SummarySong, float], np.ndarray]] = {
        COMPARISON: comparison_picture,
        INSTRUMENTS: instruments_picture,
    }
    return {
        name: seqio.metrics.Image(
            np.stack([draw(song, seconds) for song in songs]), max_outputs=len(songs)
        )
        for name, draw in drawings.items()
    }


def comparison_picture(song: SummarySong, seconds: float) -> np.ndarray:
    """Draws the estimate over the reference in three colours.

    Programs are not compared: a cell is right if pitch and time are.

    Returns:
      uint8 [height, WIDTH, 3].
    """
    in_reference = _cells(song.reference, seconds)
    in_estimate = _cells(song.estimate, seconds)
    picture = _paper(seconds)
    picture[in_reference & in_estimate] = BOTH
    picture[in_reference & ~in_estimate] = MISSED
    picture[in_estimate & ~in_reference] = WRONG
    legend = [("both", BOTH), ("reference only", MISSED), ("estimate only", WRONG)]
    return np.concatenate([_header(song.name, seconds, legend), picture])


def instruments_picture(song: SummarySong, seconds: float) -> np.ndarray:
    """Draws reference above estimate with a colour per instrument.

    Returns:
      uint8 [height, WIDTH, 3].
    """
    groups = [_by_instrument(notes) for notes in (song.reference, song.estimate)]
    keys = sorted({key for group in groups for key in group}, key=lambda k: k[::-1])
    colours = {key: _rgb(text) for key, text in instrument_colours(keys).items()}
    legend = [(general_midi.instrument_name(*key), colours[key]) for key in keys]
    parts = [_header(song.name, seconds, legend[:_LEGEND])]
    for row, group in enumerate(groups, 1):
        picture = _paper(seconds)
        for key, notes in group.items():
            picture[_cells(notes, seconds)] = colours[key]
        # The headers of the two rolls have room for what the first one has not.
        more = legend[row * _LEGEND : (row + 1) * _LEGEND]
        parts += [_header(("reference", "estimate")[row - 1], seconds, more), picture]
    return np.concatenate(parts)


def _check(seconds: float) -> None:
    if not seconds > 0:
        raise ConfigError(f"summaries: {seconds} seconds; expected more than 0")


def _limited(samples: np.ndarray) -> np.ndarray:
    """Returns samples within -1..1, as recordings in float may not be."""
    return np.clip(np.nan_to_num(samples), -1.0, 1.0).astype(np.float32)


def _play(notes: Iterable[Note], seconds: float, sample_rate: int) -> np.ndarray:
    """Renders the notes that begin in the first seconds, float32 [samples]."""
    length = round(seconds * sample_rate)
    kept = [
        dataclasses.replace(note, end_time=min(note.end_time, seconds))
        for note in notes
        # Scores may be asked for of notes that no instrument can play.
        if 0 <= note.start_time < seconds
        and note.end_time >= note.start_time
        and 1 <= note.velocity <= 127
    ]
    if not kept:
        return np.zeros(0, np.float32)
    return np.concatenate(list(sonify.render(Transcription(kept), sample_rate)))[
        :length
    ]


def _by_instrument(notes: Iterable[Note]) -> Mapping[tuple[int, bool], list[Note]]:
    """Returns notes by (program, is_drum), all drums under program 0."""
    groups: dict[tuple[int, bool], list[Note]] = {}
    for note in notes:
        key = (0 if note.is_drum else note.program, note.is_drum)
        groups.setdefault(key, []).append(note)
    return groups


def _cells(notes: Iterable[Note], seconds: float) -> np.ndarray:
    """Returns which pixels of a roll notes cover, bool [_ROLL_HEIGHT, WIDTH]."""
    cells = np.zeros((_ROLL_HEIGHT, WIDTH), bool)
    lanes = (_HIGH - _LOW + 1) * _PITCH_HEIGHT + _GAP
    scale = WIDTH / seconds
    for note in notes:
        if not 0 <= note.start_time < seconds:
            continue
        first = int(note.start_time * scale)
        if note.is_drum:
            top = lanes + general_midi.drum_lane(note.pitch) * _LANE_HEIGHT
            cells[top + 1 : top + _LANE_HEIGHT, first : first + _DRUM_WIDTH] = True
            continue
        # The last pixel stays free, so that repeated notes are seen as such.
        last = max(first + 1, int(note.end_time * scale) - 1)
        top = (_HIGH - _into_range(note.pitch)) * _PITCH_HEIGHT
        cells[top : top + _PITCH_HEIGHT - 1, first:last] = True
    return cells


def _into_range(pitch: int) -> int:
    """Moves a pitch by octaves to where there are rows."""
    while pitch < _LOW:
        pitch += 12
    while pitch > _HIGH:
        pitch -= 12
    return pitch


def _paper(seconds: float) -> np.ndarray:
    """Returns an empty roll with a line per octave and per second or ten."""
    picture = np.full((_ROLL_HEIGHT, WIDTH, 3), _PAPER, np.uint8)
    step = 1 if seconds <= 60 else 10
    for second in range(step, int(np.ceil(seconds)), step):
        picture[:, int(second * WIDTH / seconds)] = _LINE
    for pitch in range(_LOW + (-_LOW % 12), _HIGH + 1, 12):
        picture[(_HIGH - pitch + 1) * _PITCH_HEIGHT - 1] = _LINE
    bottom = (_HIGH - _LOW + 1) * _PITCH_HEIGHT
    picture[bottom : bottom + _GAP] = _LINE
    return picture


def _header(
    title: str, seconds: float, legend: Iterable[tuple[str, Colour]]
) -> np.ndarray:
    """Draws a line with a title, the time shown and a legend, uint8 [24, WIDTH, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, _HEADER), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)
    end = f", 0:00 to {clock_time(seconds)}"
    if font.getlength(title + end) > _TITLE_WIDTH:
        # Ids differ at their ends.
        while title and font.getlength(f"...{title}{end}") > _TITLE_WIDTH:
            title = title[1:]
        title = f"...{title}"
    draw.text((6, 4), title + end, fill=_INK, font=font)
    x = 6 + _TITLE_WIDTH + 24
    for name, colour in legend:
        draw.rectangle((x, 6, x + 11, 17), fill=colour)
        draw.text((x + 17, 4), name, fill=_INK, font=font)
        x += 17 + int(font.getlength(name)) + 22
    return np.asarray(image)


def _rgb(colour: str) -> Colour:
    """Returns the red, green and blue of "#rrggbb"."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
