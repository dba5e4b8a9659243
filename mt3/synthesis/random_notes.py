"""Random note processes: notes that cannot be predicted from other notes.

A network that is trained on songs alone learns which notes usually sound together and
writes them even if they do not sound. Random notes cannot be guessed. Besides voices of
completely random notes there are chords, arpeggios, scales and repeated notes, which
have the rhythms and close attacks of real playing.

All draws come from the `numpy.random.Generator` that the caller passes.
"""

from __future__ import annotations

import numpy as np

from mt3.midi import note_arrays
from mt3.synthesis import instruments

SHORTEST_SECONDS = 0.05
LONGEST_SECONDS = 3.0
PATTERNS = ("free", "chords", "arpeggio", "scale", "repeat")
# Chances of the patterns.
_SEVERAL_VOICES = (0.45, 0.2, 0.13, 0.12, 0.1)
_ONE_VOICE = (0.6, 0.0, 0.0, 0.25, 0.15)
_SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 4, 7, 9),
    tuple(range(12)),
)


def random_notes(
    rng: np.random.Generator,
    *,
    seconds: float,
    max_programs: int = 8,
    max_polyphony: int = 6,
    drums: float = 0.4,
) -> np.ndarray:
    """Draws a piece of random notes for several instruments.

    Args:
      rng: source of randomness.
      seconds: length of the piece; no note begins later.
      max_programs: 1 to this many programs play; small numbers are more frequent.
      max_polyphony: 1 to this many voices each, and about a dozen in total.
      drums: the chance that random drums play along.

    Returns:
      A note array without overlaps of one (program, pitch), sorted by start.
    """
    count = 1 + int((max_programs - 1) * rng.random() ** 1.5 + 0.5)
    parts, voices_left = [], 12
    for _ in range(count):
        program = instruments.draw_program(rng)
        voices = int(rng.integers(1, min(max_polyphony, max(voices_left, 1)) + 1))
        voices_left -= voices
        parts.append(part(rng, program, seconds=seconds, voices=voices))
    if rng.random() < drums:
        parts.append(random_drums(rng, seconds=seconds))
    return note_arrays.resolve_overlaps(np.concatenate(parts))


def part(
    rng: np.random.Generator,
    program: int,
    *,
    seconds: float,
    voices: int = 1,
    pattern: str | None = None,
) -> np.ndarray:
    """Draws the notes of one instrument.

    Args:
      rng: source of randomness.
      program: the instrument, which determines the range and limits the voices.
      seconds: no note begins later.
      voices: the most notes at a time (1 for instruments that play one at a time).
      pattern: one of `PATTERNS`; drawn if None.

    Returns:
      A note array without overlaps of one pitch, sorted by start.
    """
    if instruments.is_monophonic(program):
        voices = 1
    if pattern is None:
        chances = _SEVERAL_VOICES if voices > 1 else _ONE_VOICE
        pattern = PATTERNS[int(np.searchsorted(np.cumsum(chances), rng.random()))]
    low, high = _register(rng, program)
    if pattern == "free":
        rows = [
            row
            for _ in range(voices)
            for row in _free_voice(rng, seconds, low, high, rests=voices == 1)
        ]
    else:
        rows = _pattern_rows(rng, pattern, seconds, low, high, voices)
    base = rng.uniform(50, 110)
    spread = rng.uniform(2, 20)
    notes = np.zeros(len(rows), note_arrays.PART_DTYPE)
    if rows:
        notes["start_time"], notes["end_time"], notes["pitch"] = np.array(rows).T
    notes["velocity"] = np.clip(rng.normal(base, spread, len(rows)), 20, 127)
    notes["program"] = program
    ring = instruments.ring_seconds(program)
    notes["end_time"] = np.minimum(notes["end_time"], notes["start_time"] + ring)
    return note_arrays.resolve_overlaps(notes)


def random_drums(
    rng: np.random.Generator, *, seconds: float, max_keys: int = 8
) -> np.ndarray:
    """Draws drum hits: random times, or a random pattern on a beat.

    Returns:
      A note array of drum notes, sorted by start.
    """
    keys = instruments.draw_drum_keys(rng, int(rng.integers(1, max_keys + 1)))
    starts, pitches = [], []
    if rng.random() < 0.5:
        for key in keys:
            mean_gap = np.exp(rng.uniform(np.log(0.12), np.log(2.0)))
            times = np.cumsum(
                0.05 + rng.exponential(mean_gap, int(seconds / mean_gap * 2) + 2)
            )
            times = times[times < seconds]
            starts.append(times)
            pitches.append(np.full(len(times), key))
    else:
        step = rng.uniform(0.09, 0.25)
        bar = int(rng.choice([8, 12, 16]))
        grid = np.arange(0.0, seconds, step)
        for key in keys:
            hits = rng.random(bar) < rng.uniform(0.08, 0.5)
            times = grid[np.resize(hits, len(grid))]
            times = times + rng.normal(0, 0.006, len(times))
            starts.append(np.maximum(times, 0.0))
            pitches.append(np.full(len(times), key))
    start, pitch = np.concatenate(starts), np.concatenate(pitches)
    notes = np.zeros(len(start), note_arrays.PART_DTYPE)
    notes["start_time"], notes["end_time"], notes["pitch"] = start, start + 0.1, pitch
    notes["velocity"] = np.clip(rng.normal(90, 22, len(start)), 25, 127)
    notes["is_drum"] = True
    return note_arrays.resolve_overlaps(notes)


def durations(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws log-uniform durations, 0.05 to 3 s."""
    return np.exp(rng.uniform(np.log(SHORTEST_SECONDS), np.log(LONGEST_SECONDS), count))


def _register(rng: np.random.Generator, program: int) -> tuple[int, int]:
    """Returns a part of the instrument's range, at least an octave if possible."""
    low, high = instruments.pitch_range(program)
    width = min(high - low, int(rng.integers(12, 49)))
    low = int(rng.integers(low, high - width + 1))
    return low, low + width


def _free_voice(
    rng: np.random.Generator, seconds: float, low: int, high: int, rests: bool
) -> list[tuple[float, float, int]]:
    """Draws a voice of random pitches, durations and rests."""
    tempo = np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    gap_chance = rng.uniform(0.0, 0.5)
    time = float(rng.uniform(0, 0.6))
    rows = []
    while time < seconds:
        length = float(durations(rng, 1)[0]) * tempo
        rows.append((time, time + length, int(rng.integers(low, high + 1))))
        time += length
        if rng.random() < gap_chance:
            time += float(durations(rng, 1)[0]) * (0.5 if rests else 1.0)
    return rows


def _pattern_rows(
    rng: np.random.Generator,
    pattern: str,
    seconds: float,
    low: int,
    high: int,
    voices: int,
) -> list[tuple[float, float, int]]:
    """Draws chords, arpeggios, scales or repeated notes on a loose beat."""
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    ladder = [p for p in range(low, high + 1) if (p - low) % 12 in scale]
    time = float(rng.uniform(0, 0.5))
    rows: list[tuple[float, float, int]] = []
    while time < seconds:
        step = float(np.exp(rng.uniform(np.log(0.07), np.log(0.6))))
        legato = float(rng.uniform(0.4, 1.05))
        if pattern == "chords":
            time = _chord(rng, rows, time, ladder, voices, legato)
        elif pattern == "arpeggio":
            size = min(int(rng.integers(3, 7)), len(ladder))
            chord = np.sort(rng.choice(ladder, size, replace=False))
            if rng.random() < 0.5:
                chord = chord[::-1]
            # Either each note is released at once, or all ring to the figure's end.
            ringing = voices > 1 and rng.random() < 0.5
            figure_end = time + step * size
            for pitch in chord.tolist():
                rows.append(
                    (time, figure_end if ringing else time + step * legato, pitch)
                )
                time += step
        elif pattern == "scale":
            size = int(rng.integers(4, 16))
            place = int(rng.integers(len(ladder)))
            direction = 1 if rng.random() < 0.5 else -1
            for _ in range(size):
                if not 0 <= place < len(ladder):
                    direction = -direction
                    place = min(max(place + 2 * direction, 0), len(ladder) - 1)
                rows.append((time, time + step * legato, ladder[place]))
                place += direction
                time += step
        else:
            pitches = rng.choice(ladder, min(voices, len(ladder)), replace=False)
            for _ in range(int(rng.integers(3, 13))):
                rows.extend((time, time + step * legato, int(p)) for p in pitches)
                time += step
        if rng.random() < 0.3:
            time += float(durations(rng, 1)[0]) * 0.5
    return [row for row in rows if row[0] < seconds]


def _chord(
    rng: np.random.Generator,
    rows: list[tuple[float, float, int]],
    time: float,
    ladder: list[int],
    voices: int,
    legato: float,
) -> float:
    """Appends a chord, sometimes slightly spread; returns the time of its end."""
    size = int(rng.integers(1, voices + 1)) if voices > 1 else 1
    size = min(max(size, min(2, voices)), len(ladder))
    length = float(durations(rng, 1)[0])
    spread = 0.0 if rng.random() < 0.5 else float(rng.uniform(0.0, 0.04))
    for place, pitch in enumerate(np.sort(rng.choice(ladder, size, replace=False))):
        start = time + spread * place
        rows.append((start, max(time + length * legato, start + 0.05), int(pitch)))
    return time + length
