"""Recipes for training clips: which notes, which instruments, which sounds.

A clip is a few seconds of music of one kind (`KINDS`), drawn from a library of songs or
from random note processes. All draws come from the generator that the caller passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mt3.midi import note_arrays
from mt3.midi.reader import Song
from mt3.synthesis import expression, instruments, orchestration, random_notes
from mt3.synthesis.song_library import Library
from mt3.synthesis.soundfont import Sound, SoundFont

# Music before the clip that is rendered too, so that notes held into the clip sound as
# they do some time after their attack.
PRE_ROLL_SECONDS = 2.0
# Higher kits have effects or orchestral percussion on other keys than General MIDI.
_LAST_DRUM_KIT = 47
_LAST_VARIATION_BANK = 16
# Bowed strings, voices, brass, reeds, pipes and synth leads.
_VIBRATO_PROGRAMS = frozenset([*range(40, 45), 52, 53, 54, *range(56, 88)])
_PIANOS = np.array([0.5, 0.1, 0.07, 0.04, 0.1, 0.09, 0.06, 0.04])
# The chance that each part of a clip draws its own soundfont.
_MIXED_FONTS = 0.5
# The chance that a part is played by an exact soundfont, where one has its program.
_EXACT_FONTS = 0.4


@dataclasses.dataclass(frozen=True)
class Clip:
    """Notes of a clip and how they sound.

    Attributes:
      notes: note array, times relative to the clip's start (negative in the pre-roll),
        without overlaps of one (program, pitch).
      sounds: by (program, is_drum).
      fonts: the soundfont that plays each (program, is_drum).
    """

    notes: np.ndarray
    sounds: Mapping[tuple[int, bool], Sound]
    fonts: Mapping[tuple[int, bool], SoundFont]

    def render(self, seconds: float) -> np.ndarray:
        """Renders the clip: float32 [samples], the sum over its soundfonts."""
        audio: np.ndarray | float = 0.0
        fonts = list(dict.fromkeys(self.fonts.values()))
        for font in fonts:
            parts, chosen = _played_by(font, self.fonts, self.notes)
            # The loudness of soundfonts differs far more than that of parts in a mix.
            level = 1.0 if len(fonts) == 1 else 1.0 / font.level
            audio = audio + np.float32(level) * font.render(
                self.notes[chosen],
                seconds=seconds,
                pre_roll=PRE_ROLL_SECONDS,
                sounds={part: self.sounds[part] for part in parts},
            )
        return np.asarray(audio, np.float32)


def _played_by(
    font: SoundFont, fonts: Mapping[tuple[int, bool], SoundFont], notes: np.ndarray
) -> tuple[list[tuple[int, bool]], np.ndarray]:
    """Returns the parts that a soundfont plays, and bool [n], which notes these are."""
    parts = [part for part, player in fonts.items() if player is font]
    keys = [128 if is_drum else program for program, is_drum in parts]
    return parts, np.isin(note_arrays.part_keys(notes), keys)


def draw_clip(
    rng: np.random.Generator,
    kind: str,
    library: Library | None,
    soundfonts: Sequence[SoundFont],
    seconds: float,
) -> Clip:
    """Draws a clip of a kind, from random notes if the library has no such song.

    Args:
      rng: source of randomness.
      kind: one of `KINDS`.
      library: songs to draw from, or None.
      soundfonts: to choose from. Half of the clips are played by one of those that can
        play most of their parts (other soundfonts play the rest); the other half draw
        a soundfont for each part. Where exact ones (real samples) have just the part's
        program, one of them plays it with probability 0.4, in both halves. Kits,
        variations and notes are limited to those that the soundfonts contain.
      seconds: the clip's length.

    Raises:
      DataError: if no soundfont has a part's instrument or one of its class.
    """
    notes = KINDS[kind](rng, library, seconds)
    notes = orchestration.vary_velocities(rng, notes)
    notes = expression.perform(
        rng,
        notes,
        _HABITS.get(kind, expression.Expression()),
        start=-PRE_ROLL_SECONDS,
        end=seconds,
    )
    notes = orchestration.let_ring_out(notes)
    notes = note_arrays.resolve_overlaps(notes)
    notes = notes[
        (notes["start_time"] < seconds) & (notes["end_time"] > -PRE_ROLL_SECONDS)
    ]
    fonts = _draw_fonts(rng, note_arrays.parts(notes), soundfonts)
    sounds = draw_sounds(rng, notes, fonts)
    heard = np.ones(len(notes), bool)
    for font in dict.fromkeys(fonts.values()):
        _, played = _played_by(font, fonts, notes)
        heard[played] = font.audible(notes[played], sounds)
    return Clip(notes[heard], sounds, fonts)


def _draw_fonts(
    rng: np.random.Generator,
    parts: Sequence[tuple[int, bool]],
    soundfonts: Sequence[SoundFont],
) -> dict[tuple[int, bool], SoundFont]:
    """Draws the soundfont of each part."""
    exact = [font for font in soundfonts if font.exact]
    others = [font for font in soundfonts if not font.exact]
    counts = [sum(font.can_play(*part) for part in parts) for font in others]
    mains = [f for f, n in zip(others, counts, strict=True) if n == max(counts)]
    main = mains[int(rng.integers(len(mains)))]
    mixed = rng.random() < _MIXED_FONTS
    fonts = {}
    for part in parts:
        real = [font for font in exact if font.can_play(*part)]
        able = [font for font in others if font.can_play(*part)]
        if real and rng.random() < _EXACT_FONTS:
            fonts[part] = real[int(rng.integers(len(real)))]
        elif not able or (main in able and not mixed):
            # Where nobody can play the part, rendering says what is missing.
            fonts[part] = main
        else:
            fonts[part] = able[int(rng.integers(len(able)))]
    return fonts


def draw_sounds(
    rng: np.random.Generator,
    notes: np.ndarray,
    fonts: SoundFont | Mapping[tuple[int, bool], SoundFont],
) -> dict[tuple[int, bool], Sound]:
    """Draws loudness, variation, drum kit and tuning for each part.

    Args:
      rng: source of randomness.
      notes: a note array.
      fonts: the soundfont that plays everything, or that of each part.
    """
    # Recordings are tuned a little off 440 Hz, as a whole and part by part.
    clip_cents = rng.normal(0, 6) if rng.random() < 0.8 else rng.uniform(-35, 35)
    sounds = {}
    for program, is_drum in note_arrays.parts(notes):
        gain = 10 ** (float(np.clip(rng.normal(0, 4.5), -10, 9)) / 20)
        font = fonts if isinstance(fonts, SoundFont) else fonts[program, is_drum]
        if is_drum:
            kits = [kit for kit in font.kits if kit <= _LAST_DRUM_KIT]
            kit = int(rng.choice(kits)) if kits and rng.random() < 0.7 else 0
            sounds[0, True] = Sound(gain=gain, kit=kit)
            continue
        banks = [b for b in font.banks(program) if b <= _LAST_VARIATION_BANK]
        bank = int(rng.choice(banks)) if banks and rng.random() < 0.3 else 0
        cents = float(clip_cents + rng.normal(0, 3))
        depth = 0.0
        if program in _VIBRATO_PROGRAMS and rng.random() < 0.35:
            depth = float(rng.uniform(4, 35))
        sounds[program, False] = Sound(
            gain=gain,
            bank=bank,
            cents=cents,
            vibrato_cents=depth,
            vibrato_hz=float(rng.uniform(4.2, 7.0)),
        )
    return sounds


def _solo_piano(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    program = int(rng.choice(8, p=_PIANOS))
    song = _draw(rng, library, "pitched", random=0.3)
    if song is None:
        return _random_part(rng, program, seconds, int(rng.integers(1, 9)))
    notes = _excerpt(rng, song, seconds)
    # Half are reductions of the whole piece, half are parts of one or two hands.
    if rng.random() < 0.5:
        notes = _some_tracks(rng, notes, int(rng.integers(1, 3)))
    return orchestration.solo(notes, program)


def _solo(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    program = instruments.draw_soloist(rng)
    song = _draw(rng, library, "pitched", random=0.3)
    if song is None:
        return _random_part(rng, program, seconds, int(rng.integers(1, 6)))
    notes = _some_tracks(rng, _excerpt(rng, song, seconds), 1)
    return orchestration.solo(notes, program)


def _random(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    notes = random_notes.random_notes(rng, seconds=seconds + PRE_ROLL_SECONDS)
    return _shift(notes, -PRE_ROLL_SECONDS)


def _drums(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    """Drums alone, or with one or two instruments."""
    others = int(rng.choice(3, p=[0.35, 0.35, 0.3]))
    kind = "drums" if rng.random() < 0.6 else "bands"
    song = _draw(rng, library, kind, random=0.1)
    if song is None:
        drums = random_notes.random_drums(rng, seconds=seconds + PRE_ROLL_SECONDS)
        notes = _shift(drums, -PRE_ROLL_SECONDS)
    elif kind == "drums":
        tempo = song.beats_per_minute * rng.uniform(0.8, 1.25)
        notes = _with_groove(rng, note_arrays.empty(), song, tempo, seconds)
    else:
        notes = _excerpt(rng, song, seconds)
        if others and rng.random() < 0.6:
            parts = _some_tracks(rng, notes, others)
            parts = orchestration.redraw_programs(rng, parts, anywhere=0.4)
            return np.concatenate([notes[notes["is_drum"]], parts])
        notes = notes[notes["is_drum"]]
    for _ in range(others):
        bass = int(rng.integers(32, 40))
        program = bass if rng.random() < 0.5 else instruments.draw_program(rng)
        part = _random_part(rng, program, seconds, int(rng.integers(1, 4)))
        notes = orchestration.add_part(notes, part)
    return notes


def _band(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    """A song with drums, its instruments redrawn, often with a random lead."""
    song = _draw(rng, library, "bands")
    if song is None:
        return _random(rng, library, seconds)
    notes = _excerpt(rng, song, seconds)
    notes = orchestration.drop_tracks(rng, notes, float(rng.uniform(0, 0.4)))
    anywhere = 0.0 if rng.random() < 0.5 else float(rng.uniform(0, 1))
    notes = orchestration.redraw_programs(rng, notes, anywhere=anywhere)
    notes = orchestration.jitter_onsets(rng, notes, float(rng.uniform(0, 0.006)))
    if rng.random() < 0.4:
        lead = instruments.draw_program(rng)
        notes = orchestration.add_part(notes, _random_part(rng, lead, seconds, 1))
    return notes


def _score(
    rng: np.random.Generator, library: Library | None, seconds: float
) -> np.ndarray:
    """A score for other instruments, often with a drum groove."""
    song = _draw(rng, library, "scores")
    if song is None:
        return _random(rng, library, seconds)
    factor = float(rng.uniform(0.8, 1.25))
    notes = _excerpt(rng, song, seconds, factor)
    anywhere = 1.0 if rng.random() < 0.7 else 0.3
    notes = orchestration.redraw_programs(rng, notes, anywhere=anywhere)
    notes = orchestration.jitter_onsets(rng, notes, float(rng.uniform(0, 0.012)))
    groove = _draw(rng, library, "drums") if rng.random() < 0.5 else None
    if groove is not None:
        tempo = song.beats_per_minute * factor
        notes = _with_groove(rng, notes, groove, tempo, seconds)
    elif rng.random() < 0.3:
        lead = instruments.draw_program(rng)
        notes = orchestration.add_part(notes, _random_part(rng, lead, seconds, 1))
    return notes


KINDS: dict[str, Callable[..., np.ndarray]] = {
    "solo_piano": _solo_piano,
    "solo": _solo,
    "random": _random,
    "drums": _drums,
    "band": _band,
    "score": _score,
}

_HABITS = {
    "solo_piano": expression.SOLO_PIANO,
    "solo": expression.SOLO,
    "random": expression.RANDOM,
}


def _draw(
    rng: np.random.Generator, library: Library | None, kind: str, random: float = 0.0
) -> Song | None:
    """Draws a song, or None where random notes replace it."""
    by_chance = rng.random() < random
    if by_chance or library is None or not library.has(kind):
        return None
    return library.draw(rng, kind)


def _excerpt(
    rng: np.random.Generator, song: Song, seconds: float, factor: float | None = None
) -> np.ndarray:
    """Cuts an excerpt, transposed, at another tempo, with changed articulation.

    Returns:
      A note array whose time 0 is the clip's start, with the pre-roll before it.
    """
    if factor is None:
        factor = float(rng.uniform(0.8, 1.25))
    anchor = song.notes["start_time"][int(rng.integers(len(song.notes)))]
    start = float(anchor) - float(rng.uniform(0, 0.8)) * seconds * factor
    before = PRE_ROLL_SECONDS * factor
    notes = note_arrays.window(song.notes, start - before, start + seconds * factor)
    notes = _shift(notes, -before)
    notes = orchestration.change_tempo(notes, factor)
    notes = orchestration.transpose(notes, int(rng.integers(-5, 6)))
    return orchestration.change_articulation(rng, notes)


def _some_tracks(rng: np.random.Generator, notes: np.ndarray, count: int) -> np.ndarray:
    """Keeps up to `count` pitched tracks, those with many notes more often."""
    pitched = notes[~notes["is_drum"]]
    numbers, sizes = np.unique(pitched["track"], return_counts=True)
    if not len(numbers):
        return pitched
    chances = np.sqrt(sizes) / np.sqrt(sizes).sum()
    count = min(count, len(numbers))
    kept = rng.choice(numbers, size=count, replace=False, p=chances)
    return orchestration.keep_tracks(notes, kept)


def _random_part(
    rng: np.random.Generator, program: int, seconds: float, voices: int
) -> np.ndarray:
    part = random_notes.part(
        rng, program, seconds=seconds + PRE_ROLL_SECONDS, voices=voices
    )
    return _shift(part, -PRE_ROLL_SECONDS)


def _with_groove(
    rng: np.random.Generator,
    notes: np.ndarray,
    groove: Song,
    tempo: float,
    seconds: float,
) -> np.ndarray:
    """Adds a groove to the clip, which begins at a random beat of the groove."""
    start = -PRE_ROLL_SECONDS - float(rng.uniform(0, 4)) * 60.0 / tempo
    laid = orchestration.add_groove(
        notes,
        groove.notes,
        song_tempo=tempo,
        groove_tempo=groove.beats_per_minute,
        start=start,
        seconds=seconds - start,
    )
    return laid[laid["start_time"] >= -PRE_ROLL_SECONDS]


def _shift(notes: np.ndarray, seconds: float) -> np.ndarray:
    moved = notes.copy()
    moved["start_time"] += seconds
    moved["end_time"] += seconds
    return moved
