"""Draws docs/how-it-works.png: `python docs/how_it_works.py`.

Everything in the picture is computed: the waveform and spectrogram of a segment of
examples/piano.flac, the tokens that describe its notes, and the notes these tokens
stand for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mt3 import configs, inference, tokenizer
from mt3.audio import reading
from mt3.midi.reader import read_midi
from mt3.vocabularies import EOS_ID, NUM_SPECIAL_IDS

ROOT = Path(__file__).resolve().parent.parent
CONFIG = configs.MT3
SECONDS = CONFIG.segment_seconds
SEGMENT = 1  # The second one, which begins with notes that are still sounding.
SIZE = (1600, 900)
INK, FAINT, LINE, PAPER = "#1d2733", "#66717f", "#b9c1cc", "#ffffff"
BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#d9541e", "#2b8c4b", "#e9ecf1"
COLOURS = {"shift": ORANGE, "pitch": BLUE, "tie": GREEN, "end": INK}
TITLE, TEXT, SMALL = (ImageFont.load_default(size) for size in (22, 17, 15))

Box = tuple[int, int, int, int]


def panel(draw: ImageDraw.ImageDraw, box: Box, title: str, *lines: str) -> None:
    """Draws a frame with a title above and lines of text below."""
    left, top, right, bottom = box
    draw.text((left, top - 12), title, fill=INK, font=TITLE, anchor="ls")
    draw.rectangle(box, outline=LINE, width=2)
    for number, line in enumerate(lines):
        place = (left, bottom + 8 + 22 * number)
        draw.text(place, line, fill=FAINT, font=SMALL, anchor="la")


def arrow(draw: ImageDraw.ImageDraw, *points: tuple[int, int]) -> None:
    """Draws a line through points, with a head at the last."""
    draw.line(points, fill=INK, width=3)
    (x0, y0), (x, y) = points[-2:]
    dx, dy = np.sign(x - x0), np.sign(y - y0)
    back = (x - 14 * dx, y - 14 * dy)
    side = (8 * dy, 8 * dx)
    head = [(x, y), (back[0] + side[0], back[1] + side[1])]
    draw.polygon([*head, (back[0] - side[0], back[1] - side[1])], fill=INK)


def waveform(draw: ImageDraw.ImageDraw, box: Box, samples: np.ndarray) -> None:
    """Draws the lowest and highest sample of each column of pixels."""
    left, top, right, bottom = box
    middle, height = (top + bottom) / 2, (bottom - top) / 2 - 6
    scale = height / np.abs(samples).max()
    for x, part in enumerate(np.array_split(samples, right - left - 4)):
        ends = [middle - scale * part.max(), middle - scale * part.min()]
        draw.line([(left + 2 + x, ends[0]), (left + 2 + x, ends[1])], fill=BLUE)


def spectrogram(image: Image.Image, box: Box, frames: np.ndarray) -> None:
    """Pastes frames [T, bands]: time to the right, low bands below, loud is dark."""
    left, top, right, bottom = box
    low, high = np.percentile(frames, 40), frames.max()
    shade = 255 - 255 * np.clip((frames.T[::-1] - low) / (high - low), 0, 1)
    picture = Image.fromarray(shade.astype(np.uint8)).convert("RGB")
    image.paste(
        picture.resize((right - left - 2, bottom - top - 2)), (left + 1, top + 1)
    )


def network(draw: ImageDraw.ImageDraw, box: Box, name: str, *lines: str) -> None:
    """Draws a part of the network."""
    left, top, right, bottom = box
    draw.rounded_rectangle(box, 14, fill=GREY, outline=INK, width=2)
    top += (bottom - top - 24 * len(lines) - 42) // 2
    draw.text(((left + right) / 2, top + 12), name, INK, TITLE, anchor="mm")
    for number, line in enumerate(lines):
        place = ((left + right) / 2, top + 54 + 24 * number)
        draw.text(place, line, INK, SMALL, anchor="mm")


def tokens(draw: ImageDraw.ImageDraw, box: Box, ids: np.ndarray, codec) -> None:
    """Lists ids and what they mean, column by column."""
    left, top, right, bottom = box
    rows = (bottom - top - 12) // 22
    for number, token in enumerate(ids.tolist()):
        column, row = divmod(number, rows)
        x, y = left + 12 + 180 * column, top + 8 + 22 * row
        kind, value = "end", None
        if token != EOS_ID:
            event = codec.decode_event_index(token - NUM_SPECIAL_IDS)
            kind, value = event.type, event.value
        if kind == "shift":
            # A shift counts from the start of the segment.
            meaning = f"time {value / codec.steps_per_second:.2f} s"
        else:
            meaning = kind if value is None or kind == "tie" else f"{kind} {value}"
        draw.text((x + 44, y), str(token), FAINT, TEXT, anchor="ra")
        draw.text((x + 56, y), meaning, COLOURS.get(kind, INK), TEXT, anchor="la")


def piano_roll(draw: ImageDraw.ImageDraw, box: Box, notes: list, end: float) -> None:
    """Draws notes as bars, and where segments meet as a line."""
    left, top, right, bottom = box
    low = min(note.pitch for note in notes) - 2
    high = max(note.pitch for note in notes) + 3

    def x(seconds: float) -> float:
        return left + 2 + (right - left - 4) * min(seconds, end) / end

    step = (bottom - top) / (high - low)
    for border in np.arange(SECONDS, end, SECONDS):
        draw.line([(x(border), top), (x(border), bottom)], fill=ORANGE, width=2)
    for note in notes:
        if note.start_time >= end:
            continue
        y = bottom - (note.pitch - low + 1) * step
        place = (x(note.start_time), y, x(note.end_time) - 1, y + step - 1)
        draw.rectangle(place, fill=BLUE)


def main(output: Path = ROOT / "docs" / "how-it-works.png") -> None:
    """Computes what is shown, and draws it."""
    samples = [
        samples
        for _, samples in reading.segments(
            ROOT / "examples" / "piano.flac", segment_samples=CONFIG.segment_samples
        )
    ]
    frames = inference.segment_frames(samples[SEGMENT], CONFIG)
    notes = read_midi(ROOT / "examples" / "piano.mid")
    coder = tokenizer.NoteTokenizer(CONFIG)
    written = [
        coder.encode_segment(notes, start_time=SECONDS * number) for number in range(4)
    ]
    decoded, _, _ = tokenizer.decode_predictions(
        [
            (coder.segment_start_time(number * CONFIG.inputs_length), ids)
            for number, ids in enumerate(map(coder.predicted_events, written))
        ],
        coder,
    )
    image = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    audio_box, frames_box = (30, 60, 400, 330), (480, 60, 850, 330)
    encoder_box, decoder_box = (930, 60, 1200, 330), (1280, 60, 1570, 330)
    tokens_box, notes_box = (980, 480, 1570, 850), (30, 480, 900, 800)
    rate, hop = CONFIG.spectrogram.sample_rate, CONFIG.spectrogram.hop_width
    panel(
        draw,
        audio_box,
        "1  audio",
        f"{rate // 1000} kHz, mono; one segment is {SECONDS} s",
        f"= {CONFIG.segment_samples} samples",
    )
    waveform(draw, audio_box, samples[SEGMENT])
    panel(
        draw,
        frames_box,
        "2  spectrogram",
        f"a frame each {hop} samples ({1000 * hop // rate} ms):",
        f"{frames.shape[0]} frames of {frames.shape[1]} mel bands, log magnitude",
    )
    spectrogram(image, frames_box, frames)
    network(
        draw,
        encoder_box,
        "3  encoder",
        "reads all frames at once",
        "and gives a vector of 512",
        "numbers for each of the",
        f"{frames.shape[0]} frames",
    )
    network(
        draw,
        decoder_box,
        "4  decoder",
        "reads these vectors and",
        "the tokens so far, and gives",
        "a logit for each of 1536 ids;",
        "the chosen one is its next",
        "input, until 1 (the end)",
    )
    middle = (audio_box[1] + audio_box[3]) // 2
    for before, after in (
        (audio_box, frames_box),
        (frames_box, encoder_box),
        (encoder_box, decoder_box),
    ):
        arrow(draw, (before[2] + 12, middle), (after[0] - 12, middle))
    arrow(draw, (1425, 342), (1425, 430))
    panel(
        draw,
        tokens_box,
        "5  events",
        "ids and their meaning; times count from the segment's start, 10 ms a step",
    )
    for number, line in enumerate(
        (
            "Pitches before the tie",
            "token are still sounding.",
            "velocity 1: notes begin,",
            "velocity 0: notes end.",
        )
    ):
        draw.text((1360, 720 + 24 * number), line, FAINT, SMALL, anchor="la")
    tokens(draw, tokens_box, written[SEGMENT], coder.codec)
    arrow(draw, (968, 640), (912, 640))
    panel(
        draw,
        notes_box,
        "6  notes",
        "Pitch upwards, time to the right; segments meet at the lines. A note that",
        "continues is listed before the next segment's tie token, so it is not cut.",
    )
    piano_roll(draw, notes_box, decoded, 3 * SECONDS)
    image.quantize(128).save(output, optimize=True)


if __name__ == "__main__":
    main()
