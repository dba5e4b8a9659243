"""Variations of songs: instruments, pitch, tempo, loudness.

All functions take and return note arrays (`note_arrays`), change nothing in place, and
take their randomness from the `numpy.random.Generator` that the caller passes. Drums
keep their keys, since other keys are other instruments.
"""

from __future__ import annotations

import numpy as np

from mt3.midi import note_arrays
from mt3.synthesis import instruments

DRUM_TRACK = 65535
# 32 dB below the loudest: what a player still does, and a listener still hears.
SOFTEST = 20


def tracks(notes: np.ndarray) -> np.ndarray:
    """Returns the numbers of the pitched tracks, in rising order."""
    return np.unique(notes["track"][~notes["is_drum"]])


def transpose(notes: np.ndarray, semitones: int) -> np.ndarray:
    """Moves the pitched notes; notes that would leave 0..127 are dropped."""
    moved = notes.copy()
    pitch = notes["pitch"].astype(int) + np.where(notes["is_drum"], 0, semitones)
    inside = (pitch >= 0) & (pitch <= 127)
    moved["pitch"] = np.where(inside, pitch, 0)
    return moved[inside]


def change_tempo(notes: np.ndarray, factor: float) -> np.ndarray:
    """Makes the notes `factor` times as fast."""
    moved = notes.copy()
    moved["start_time"] /= factor
    moved["end_time"] /= factor
    return moved


def keep_tracks(notes: np.ndarray, kept: np.ndarray | list[int]) -> np.ndarray:
    """Returns the notes of some pitched tracks, without drums."""
    return notes[np.isin(notes["track"], kept) & ~notes["is_drum"]]


def drop_tracks(
    rng: np.random.Generator, notes: np.ndarray, chance: float
) -> np.ndarray:
    """Drops each pitched track, and the drums, with some chance, but never all."""
    numbers = tracks(notes)
    if not len(numbers):
        return notes
    kept = numbers[rng.random(len(numbers)) >= chance]
    if not len(kept):
        kept = numbers[[int(rng.integers(len(numbers)))]]
    drums = notes["is_drum"] if rng.random() >= chance else np.zeros(len(notes), bool)
    return notes[np.isin(notes["track"], kept) & ~notes["is_drum"] | drums]


def redraw_programs(
    rng: np.random.Generator, notes: np.ndarray, *, anywhere: float = 0.0
) -> np.ndarray:
    """Gives each pitched track another instrument, and moves it into its range.

    Args:
      rng: source of randomness.
      notes: a song.
      anywhere: the chance that a track's instrument is drawn among all programs;
        otherwise it stays in its family (programs 8k to 8k + 7).
    """
    changed = notes.copy()
    for track in tracks(notes):
        chosen = (notes["track"] == track) & ~notes["is_drum"]
        program = int(notes["program"][chosen][0])
        like = None if rng.random() < anywhere else program
        changed[chosen] = assign_program(
            changed[chosen], instruments.draw_program(rng, like)
        )
    return changed


def assign_program(notes: np.ndarray, program: int) -> np.ndarray:
    """Gives all notes to one instrument, moved by octaves into its range.

    The part moves by the octaves that bring its median nearest to the range; notes
    that are still outside then move by octaves on their own. Notes longer than the
    instrument's ring time are shortened.
    """
    changed = notes.copy()
    low, high = instruments.pitch_range(program)
    pitch = notes["pitch"].astype(int)
    if len(pitch):
        median = float(np.median(pitch))
        if not low <= median <= high:
            target = low + 6 if median < low else high - 6
            pitch = pitch + 12 * int(round((target - median) / 12))
        pitch = pitch + 12 * np.maximum(0, -(-(low - pitch) // 12))
        pitch = pitch - 12 * np.maximum(0, -(-(pitch - high) // 12))
    changed["pitch"] = np.clip(pitch, 0, 127)
    changed["program"] = program
    changed["end_time"] = np.minimum(
        notes["end_time"], notes["start_time"] + instruments.ring_seconds(program)
    )
    return changed


def let_ring_out(notes: np.ndarray) -> np.ndarray:
    """Shortens notes of struck and plucked instruments to their ring time."""
    changed = notes.copy()
    for program in np.unique(notes["program"][~notes["is_drum"]]).tolist():
        chosen = (notes["program"] == program) & ~notes["is_drum"]
        ring = instruments.ring_seconds(program)
        changed["end_time"][chosen] = np.minimum(
            notes["end_time"][chosen], notes["start_time"][chosen] + ring
        )
    return changed


def melody(notes: np.ndarray) -> np.ndarray:
    """Reduces a part to its highest notes, each of which ends where the next begins."""
    if not len(notes):
        return notes.copy()
    order = np.lexsort((-notes["pitch"].astype(int), notes["start_time"]))
    chosen = notes[order]
    apart = np.ones(len(chosen), bool)
    apart[1:] = np.diff(chosen["start_time"]) >= 0.03
    chosen = chosen[apart].copy()
    chosen["end_time"][:-1] = np.minimum(
        chosen["end_time"][:-1], chosen["start_time"][1:]
    )
    return chosen[chosen["end_time"] - chosen["start_time"] >= 0.02]


def solo(notes: np.ndarray, program: int) -> np.ndarray:
    """Gives all pitched notes to one instrument, without drums.

    Instruments that play one note at a time get the melody.
    """
    pitched = notes[~notes["is_drum"]]
    if instruments.is_monophonic(program):
        pitched = melody(pitched)
    return note_arrays.resolve_overlaps(assign_program(pitched, program))


def vary_velocities(rng: np.random.Generator, notes: np.ndarray) -> np.ndarray:
    """Bends the velocity curve, and adds random deviations for each track.

    Scores often have the same velocity throughout, unlike recordings of players.
    """
    changed = notes.copy()
    velocity = notes["velocity"].astype(float)
    key = np.where(notes["is_drum"], DRUM_TRACK, notes["track"])
    power = np.exp(rng.normal(0, 0.3))
    velocity = 127.0 * (velocity / 127.0) ** power
    for track in np.unique(key):
        chosen = key == track
        shift, spread = rng.normal(0, 10), rng.uniform(1, 20)
        velocity[chosen] += shift + rng.normal(0, spread, int(chosen.sum()))
    changed["velocity"] = np.clip(velocity, SOFTEST, 127)
    return changed


def jitter_onsets(
    rng: np.random.Generator, notes: np.ndarray, seconds: float
) -> np.ndarray:
    """Moves each note's start and end by normal deviates of `seconds`."""
    changed = notes.copy()
    lengths = np.maximum(notes["end_time"] - notes["start_time"], 0.03)
    changed["start_time"] += rng.normal(0, seconds, len(notes))
    lengths = np.maximum(lengths + rng.normal(0, seconds, len(notes)), 0.03)
    changed["end_time"] = changed["start_time"] + lengths
    return changed


def change_articulation(
    rng: np.random.Generator, notes: np.ndarray, chance: float = 0.3
) -> np.ndarray:
    """Makes the notes of some tracks shorter (down to 30 %) or slightly longer."""
    changed = notes.copy()
    for track in tracks(notes):
        if rng.random() < chance:
            chosen = (notes["track"] == track) & ~notes["is_drum"]
            factor = rng.uniform(0.3, 1.15)
            lengths = (notes["end_time"] - notes["start_time"])[chosen] * factor
            changed["end_time"][chosen] = notes["start_time"][chosen] + np.maximum(
                lengths, 0.04
            )
    return changed


# Electronic kits have separate keys for edges and rims; in General MIDI these keys are
# silent or other instruments (58 is a vibraslap).
_ELECTRONIC_KIT = {22: 42, 26: 46, 58: 43}


def general_midi_drums(notes: np.ndarray) -> np.ndarray:
    """Moves an electronic kit's keys for edges and rims to those of General MIDI."""
    changed = notes.copy()
    for key, general in _ELECTRONIC_KIT.items():
        changed["pitch"][notes["is_drum"] & (notes["pitch"] == key)] = general
    return changed


def add_part(notes: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Adds a part with a new track number."""
    part = part.copy()
    part["track"] = int(notes["track"].max(initial=0)) + 1
    return note_arrays.sort(np.concatenate([notes, part]))


def add_groove(
    notes: np.ndarray,
    groove: np.ndarray,
    *,
    song_tempo: float,
    groove_tempo: float,
    start: float,
    seconds: float,
) -> np.ndarray:
    """Adds a drum groove to a song, in the song's tempo, repeated as needed.

    Args:
      notes: the song; its own drums are replaced.
      groove: drum notes, from time 0.
      song_tempo: beats per minute of the song.
      groove_tempo: beats per minute of the groove. Half and double tempo count as
        equal, so that no groove is stretched by more than 1.5.
      start: where the drums begin, in seconds of the song; moved back to a beat.
      seconds: how long they play.
    """
    factor = song_tempo / groove_tempo
    while factor > 1.45:
        factor /= 2
    while factor < 0.7:
        factor *= 2
    hits = change_tempo(general_midi_drums(groove[groove["is_drum"]]), factor)
    beat = 60.0 / song_tempo
    bar = 4 * beat
    begin = np.floor(start / beat) * beat
    period = (
        max(1, int(np.ceil(float(hits["start_time"].max(initial=0.0)) / bar))) * bar
    )
    laid = []
    for turn in range(int(np.ceil((start + seconds - begin) / period))):
        copy = hits.copy()
        copy["start_time"] += begin + turn * period
        copy["end_time"] += begin + turn * period
        laid.append(copy[copy["start_time"] < start + seconds])
    return add_part(notes[~notes["is_drum"]], np.concatenate(laid))
