"""Expressive playing: pedal, rubato, spread chords, dynamics.

Scores and random notes are exact; recordings are not. All functions here change the
notes, and with them the labels as well as the audio. The synthesizer has no pedal: its
effect on the sound is applied to the ends of the notes.

All functions take and return note arrays (`note_arrays`), change nothing in place, and
take their randomness from the `numpy.random.Generator` that the caller passes. Notes of
one key may overlap afterwards, as when a key is struck while the pedal still holds it:
call `note_arrays.resolve_overlaps`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mt3.synthesis.orchestration import SOFTEST

# How long a pedal stays down.
SHORTEST_PEDAL_SECONDS = 0.4
LONGEST_PEDAL_SECONDS = 4.0
PEDAL_STYLES = ("free", "legato", "bar")
# Acoustic pianos, electric pianos, harpsichord and clavinet.
PIANOS = range(8)
_ACOUSTIC_PIANOS = range(4)
# Onsets of one part closer than this were written as a chord.
CHORD_SECONDS = 0.02
SHORTEST_NOTE_SECONDS = 0.03


@dataclasses.dataclass(frozen=True)
class Expression:
    """The chances in a clip that each habit of players is imitated.

    Attributes:
      pedal: chance that pianos are played with the sustain pedal.
      rubato: chance that the tempo varies.
      rubato_depth: greatest standard deviation of the tempo, as a fraction.
      spread: chance that a part's chords are spread.
      phrasing: chance that loudness rises and falls over phrases.
    """

    pedal: float = 0.3
    rubato: float = 0.4
    rubato_depth: float = 0.06
    spread: float = 0.3
    phrasing: float = 0.5


SOLO_PIANO = Expression(
    pedal=0.65, rubato=0.7, rubato_depth=0.15, spread=0.6, phrasing=0.7
)
SOLO = Expression(pedal=0.6, rubato=0.6, rubato_depth=0.12, spread=0.5, phrasing=0.7)
# Random notes have no beat that could vary.
RANDOM = Expression(pedal=0.3, rubato=0.0, spread=0.3, phrasing=0.4)


def perform(
    rng: np.random.Generator,
    notes: np.ndarray,
    habits: Expression,
    *,
    start: float,
    end: float,
) -> np.ndarray:
    """Plays notes as a player might.

    Args:
      rng: source of randomness.
      notes: note array.
      habits: chances of the habits.
      start: beginning of the interval in which the tempo may vary.
      end: its end; both keep their times.
    """
    if rng.random() < habits.rubato:
        depth = habits.rubato_depth * float(rng.uniform(0.2, 1.0))
        notes = rubato(rng, notes, depth, start=start, end=end)
    for track in np.unique(notes["track"][~notes["is_drum"]]):
        if rng.random() < habits.spread:
            chosen = (notes["track"] == track) & ~notes["is_drum"]
            notes = spread_chords(rng, notes, chosen)
    if rng.random() < habits.phrasing:
        notes = phrase_velocities(rng, notes)
    for program in np.unique(notes["program"][~notes["is_drum"]]).tolist():
        # Electric pianos and harpsichords are played with less pedal.
        chance = habits.pedal * (1.0 if program in _ACOUSTIC_PIANOS else 0.4)
        if program in PIANOS and rng.random() < chance:
            chosen = (notes["program"] == program) & ~notes["is_drum"]
            notes = pedal(rng, notes, chosen, start=start, end=end)
    return notes


def pedal(
    rng: np.random.Generator,
    notes: np.ndarray,
    chosen: np.ndarray,
    *,
    start: float,
    end: float,
    style: str | None = None,
) -> np.ndarray:
    """Holds notes that end while the pedal is down until it is lifted.

    Args:
      rng: source of randomness.
      notes: note array.
      chosen: bool [n]: the notes of the instrument with the pedal.
      start: the first time at which the pedal may go down.
      end: no pedal goes down later.
      style: "free" presses and lifts at random times; "legato" lifts when the harmony
        changes (the bass moves) and presses again at once; "bar" does so at regular
        times. Drawn if None.
    """
    if style is None:
        style = PEDAL_STYLES[int(rng.choice(3, p=(0.3, 0.45, 0.25)))]
    downs, ups = _pedal_spans(rng, notes[chosen], style, start, end)
    changed = notes.copy()
    if not len(downs):
        return changed
    ends = notes["end_time"]
    # The last pedal that went down before the note's end, if it is still down.
    span = np.searchsorted(downs, ends, "right") - 1
    held = chosen & (span >= 0) & (ends < ups[span])
    changed["end_time"] = np.where(held, ups[span], ends)
    return changed


def _pedal_spans(
    rng: np.random.Generator, notes: np.ndarray, style: str, start: float, end: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns when the pedal goes down and up again, in rising order."""
    low, high = np.log(SHORTEST_PEDAL_SECONDS), np.log(LONGEST_PEDAL_SECONDS)
    if style == "free":
        count = int((end - start) / SHORTEST_PEDAL_SECONDS) + 1
        down_for = np.exp(rng.uniform(low, high, count))
        up_for = np.exp(rng.uniform(np.log(0.05), np.log(1.0), count))
        ups = start + float(rng.uniform(0, 1)) + np.cumsum(down_for + up_for) - up_for
        downs = ups - down_for
        return downs[downs < end], ups[downs < end]
    if style == "bar":
        period = float(np.exp(rng.uniform(low, high)))
        lifts = np.arange(start + float(rng.uniform(0, period)), end + period, period)
        lifts = lifts + rng.normal(0, 0.02, len(lifts))
    else:
        lifts = _bass_moves(notes)
        # The foot follows the fingers: the old notes are damped after the new onset.
        lifts = lifts + float(rng.uniform(0.0, 0.12))
        lifts = lifts[(lifts > start) & (lifts < end + LONGEST_PEDAL_SECONDS)]
    if len(lifts) < 2:
        return np.zeros(0), np.zeros(0)
    again = float(rng.uniform(0.04, 0.2))
    downs, ups = lifts[:-1] + again, lifts[1:]
    # Pedals are held for a limited time, and not for all harmonies.
    ups = np.minimum(ups, downs + LONGEST_PEDAL_SECONDS)
    kept = (ups - downs > 0.1) & (rng.random(len(downs)) < rng.uniform(0.6, 1.0))
    return downs[kept], ups[kept]


def _bass_moves(notes: np.ndarray) -> np.ndarray:
    """Returns onsets in the lowest third of the pitches, at least 0.4 s apart."""
    if not len(notes):
        return np.zeros(0)
    low = notes["pitch"] <= np.quantile(notes["pitch"], 0.33)
    moves: list[float] = []
    for time in np.sort(notes["start_time"][low]).tolist():
        if not moves or time - moves[-1] >= SHORTEST_PEDAL_SECONDS:
            moves.append(time)
    return np.array(moves)


def rubato(
    rng: np.random.Generator,
    notes: np.ndarray,
    depth: float,
    *,
    start: float,
    end: float,
) -> np.ndarray:
    """Varies the tempo slowly, in the same way for all parts.

    Args:
      rng: source of randomness.
      notes: note array.
      depth: standard deviation of the tempo, as a fraction.
      start: beginning of the interval in which the tempo varies.
      end: its end. Both, and everything outside, keep their times.
    """
    grid = np.linspace(start, end, 65)
    slowness = np.exp(depth * _wander(rng, grid))
    elapsed = np.concatenate([[0.0], np.cumsum(0.5 * (slowness[1:] + slowness[:-1]))])
    moved_grid = start + (end - start) * elapsed / elapsed[-1]
    changed = notes.copy()
    for name in ("start_time", "end_time"):
        time = notes[name]
        moved = np.interp(time, grid, moved_grid)
        changed[name] = np.where((time < start) | (time > end), time, moved)
    return changed


def spread_chords(
    rng: np.random.Generator, notes: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Spreads the onsets of a part's chords.

    Either the whole part is slightly uneven, as hands are, or some chords are rolled,
    mostly upwards, as on a harp or a strummed guitar.
    """
    places = np.flatnonzero(chosen)
    if len(places) < 2:
        return notes
    part = notes[places]
    order = np.lexsort((part["pitch"], part["start_time"]))
    places, part = places[order], part[order]
    begins = np.ones(len(part), bool)
    begins[1:] = np.diff(part["start_time"]) >= CHORD_SECONDS
    chord = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    size = np.diff(np.append(first, len(part)))[chord]
    rank = np.arange(len(part)) - first[chord]
    if rng.random() < 0.4:
        # Hands: each note on its own, the melody (the highest) slightly ahead.
        late = np.abs(rng.normal(0, rng.uniform(0.002, 0.012), len(part)))
        ahead = float(rng.uniform(0.0, 0.02))
        late = np.where(rank == size - 1, 0.0, late + ahead)
    else:
        count = int(chord[-1]) + 1
        rolled = rng.random(count) < rng.uniform(0.1, 0.9)
        step = np.exp(rng.uniform(np.log(0.004), np.log(0.06)))
        step = step * rng.uniform(0.7, 1.4, count) * rolled
        # Guitars are strummed downwards and upwards; others roll mostly upwards.
        program = int(part["program"][0])
        down = rng.random(count) < (0.4 if 24 <= program < 32 else 0.1)
        place = np.where(down[chord], size - 1 - rank, rank)
        late = np.minimum(place * step[chord], 0.35)
    late = np.where(size > 1, late, 0.0)
    changed = notes.copy()
    starts = part["start_time"] + late
    changed["start_time"][places] = starts
    changed["end_time"][places] = np.maximum(
        part["end_time"], starts + SHORTEST_NOTE_SECONDS
    )
    return changed


def phrase_velocities(rng: np.random.Generator, notes: np.ndarray) -> np.ndarray:
    """Makes loudness rise and fall over seconds, and emphasises the highest notes."""
    if not len(notes):
        return notes
    swing = float(rng.uniform(3, 25))
    gain = swing * _wander(rng, notes["start_time"])
    # Drums follow only a little.
    gain = np.where(notes["is_drum"], 0.3 * gain, gain)
    pitched = ~notes["is_drum"]
    if pitched.any():
        middle = float(np.median(notes["pitch"][pitched]))
        slope = float(rng.normal(0.15, 0.25))
        gain = gain + np.where(
            pitched, np.clip(slope * (notes["pitch"] - middle), -12, 12), 0.0
        )
    changed = notes.copy()
    changed["velocity"] = np.clip(notes["velocity"] + gain, SOFTEST, 127)
    return changed


def _wander(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Returns a smooth random curve over time with a standard deviation near 1."""
    periods = np.exp(rng.uniform(np.log(2.0), np.log(12.0), 4))
    phases = rng.uniform(0, 2 * np.pi, 4)
    turns = 2 * np.pi * np.asarray(time, float)[..., None] / periods + phases
    return np.sin(turns).sum(axis=-1) / np.sqrt(2.0)
