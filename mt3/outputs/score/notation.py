"""A transcription as parts, bars and voices: what a score is written from.

Positions are in divisions, `values.DIVISIONS` to a quarter, from the first bar's start.
The score begins with the bar of the first note, and where that bar is short or the note
lies in its second half, with the note's beat: an upbeat.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from mt3.beats import Beats
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.outputs import key as keys
from mt3.outputs import quantize
from mt3.outputs.score import instruments, voices
from mt3.outputs.score.instruments import Clef, Instrument
from mt3.outputs.score.values import DIVISIONS, Metre
from mt3.outputs.transcription import Transcription

DRUM_STAFF = Instrument((instruments.PERCUSSION,))
# The natural notes in steps of a fifth from F, and their semitones above C.
_STEPS, _NATURALS = "FCGDAEB", (5, 0, 7, 2, 9, 4, 11)
_LOWEST_PITCH = 12  # C0: MusicXML has no lower octave


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
      start: position.
      length: in divisions.
      number: counted from 1; 0 for an upbeat.
      beats: upper number of its time signature.
      unit: lower number.
      seconds: when it begins in the recording.
      tempo: quarters per minute in it.
    """

    start: int
    length: int
    number: int
    beats: int
    unit: int
    seconds: float
    tempo: float

    @property
    def metre(self) -> Metre:
        """How it is divided."""
        return Metre.of(self.beats, self.unit, self.length)


@dataclasses.dataclass(frozen=True)
class Head:
    """One notehead.

    Attributes:
      pitch: sounding MIDI pitch, or the percussion key.
      velocity: 1 to 127.
      step: written note name.
      octave: written octave.
      alter: sharps (positive) or flats.
      string: of a guitar, 1 the highest; 0 for none.
      fret: on that string.
    """

    pitch: int
    velocity: int
    step: str
    octave: int
    alter: int = 0
    string: int = 0
    fret: int = 0


@dataclasses.dataclass(frozen=True)
class Chord:
    """Notes of a voice that start together.

    Attributes:
      start: position.
      end: position.
      heads: from the lowest.
    """

    start: int
    end: int
    heads: tuple[Head, ...]


@dataclasses.dataclass(frozen=True)
class Staff:
    """A staff.

    Attributes:
      clef: at its start.
      voices: one or two, the upper first: chords in order that don't overlap.
      lines: number of lines.
    """

    clef: Clef
    voices: tuple[tuple[Chord, ...], ...]
    lines: int = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """What one instrument plays.

    Attributes:
      name: of the instrument.
      program: General MIDI program.
      is_drum: whether it is a drum kit.
      instrument: how it is written.
      key: written key; None without a key signature.
      steps: staff steps from written to sounding pitch.
      staves: from above.
    """

    name: str
    program: int
    is_drum: bool
    instrument: Instrument
    key: keys.Key | None
    steps: int
    staves: tuple[Staff, ...]


@dataclasses.dataclass(frozen=True)
class Score:
    """A piece of music on paper.

    Attributes:
      title: of the piece.
      bars: one or more.
      parts: one or more, drums last.
      end: seconds of the last bar's end.
      warnings: what is not as it was heard.
    """

    title: str
    bars: tuple[Bar, ...]
    parts: tuple[Part, ...]
    end: float
    warnings: tuple[str, ...] = ()


def make_score(
    result: Transcription,
    *,
    grid: str = quantize.AUTO,
    swing: float = quantize.STRAIGHT,
    tablature: bool = False,
    tempo: float = 120.0,
) -> Score:
    """Turns a transcription into a score.

    Args:
      result: the transcription; with its beats, if they are known.
      grid: of `quantize.GRIDS`.
      swing: as the notes are played; they are written straight.
      tablature: whether guitars and basses get a second staff of their strings.
      tempo: beats per minute where beats are not known; bars of four begin at 0.

    Raises:
      ConfigError: an unknown grid, a swing or tempo out of range.
    """
    quantize.check_grid(grid, swing)
    warnings = []
    beats = result.beats
    if beats is None:
        beats = Beats.steady(tempo, seconds=result.end_time)
        if result.notes:
            warnings.append(
                f"no beats were found: bars are counted at {tempo:g} beats a minute"
            )
    beats = beats.from_zero()
    notes = result.notes
    starts = ends = np.zeros(0, int)
    if notes:
        scale = beats.quarters_per_beat * DIVISIONS
        places = quantize.positions(notes, beats, grid, swing=swing, unisons=True)
        starts, ends = (np.rint(place * scale).astype(int) for place in places)
        ends = np.maximum(ends, starts + 1)
    bars = _bars(beats, starts, ends)
    starts, ends = starts - bars[0].start, ends - bars[0].start
    bars = tuple(dataclasses.replace(b, start=b.start - bars[0].start) for b in bars)
    low = sum(note.pitch < _LOWEST_PITCH and not note.is_drum for note in notes)
    if low:
        warnings.append(f"{low} notes below C0 are written an octave higher")
    key = keys.estimate_key(notes)
    fifths = _spell(notes, starts, ends, key)
    parts = []
    for program, is_drum in result.by_instrument():
        chosen = [
            index
            for index, note in enumerate(notes)
            if note.is_drum == is_drum and (is_drum or note.program == program)
        ]
        mine = _Notes(notes, starts, ends, fifths, chosen)
        if is_drum:
            parts.append(_drum_part(_without_doubles(mine)))
        else:
            parts.append(_pitched_part(mine, program, key, tablature))
    if not parts:
        clef = Staff(instruments.TREBLE, ((),))
        parts = [Part("Piano", 0, False, Instrument(), None, 0, (clef,))]
    last = bars[-1]
    end = last.seconds + last.length / DIVISIONS * 60.0 / last.tempo
    title = pathlib.PurePath(result.source).stem
    return Score(title, bars, tuple(parts), end, tuple(warnings))


def _without_doubles(mine: _Notes) -> _Notes:
    """Leaves out the second sound of a drum that is struck once."""
    struck = {
        (start, n.pitch) for start, n in zip(mine.starts, mine.notes, strict=True)
    }
    kept = [
        index
        for index, (start, note) in enumerate(zip(mine.starts, mine.notes, strict=True))
        if (start, instruments.SAME_DRUM.get(note.pitch)) not in struck
    ]
    return _Notes(mine.notes, mine.starts, mine.ends, mine.fifths, kept)


@dataclasses.dataclass
class _Notes:
    """Some of the notes, with where they lie; in order of starts, then pitches."""

    notes: Sequence[Note]
    starts: np.ndarray
    ends: np.ndarray
    fifths: np.ndarray

    def __init__(self, notes, starts, ends, fifths, chosen: Sequence[int]):
        # Of two that begin together on one pitch, the longer one is written.
        last: dict[tuple[int, int], int] = {}
        for index in sorted(chosen, key=lambda i: ends[i]):
            last[int(starts[index]), notes[index].pitch] = index
        order = [index for _, index in sorted(last.items())]
        self.notes = [notes[index] for index in order]
        self.starts, self.ends, self.fifths = starts[order], ends[order], fifths[order]

    @property
    def pitches(self) -> np.ndarray:
        """MIDI pitches [n]."""
        return np.array([note.pitch for note in self.notes], int)


def _bars(beats: Beats, starts: np.ndarray, ends: np.ndarray) -> list[Bar]:
    """Returns the bars from the first note's to the last note's."""
    scale = beats.quarters_per_beat * DIVISIONS
    first = int(starts.min(initial=2**62)) if len(starts) else 0
    last = int(ends.max(initial=1))
    changes = [*beats.time_signatures(), None]
    bars: list[Bar] = []
    number, usual = 1, beats.beats_per_bar
    for change, following in zip(changes, changes[1:], strict=False):
        beat, stop = change.beat, following.beat if following else None
        while (beat < stop) if stop is not None else (beat * scale < last):
            length = change.beats_per_bar
            length = length if stop is None else min(length, stop - beat)
            begin, end = round(beat * scale), round((beat + length) * scale)
            if begin >= last:
                return bars
            if end > first:
                upbeat = not bars and (
                    length < usual or 2 * (first - begin) >= end - begin
                )
                if upbeat:
                    skipped = int((first - begin) // scale)
                    beat, length = beat + skipped, length - skipped
                    begin = round(beat * scale)
                number = 0 if upbeat else number
                seconds = beats.to_seconds([beat, beat + length])
                minutes = float(np.diff(seconds)[0]) / 60.0
                tempo = length * beats.quarters_per_beat / minutes
                signature = usual if upbeat else change.beats_per_bar
                bars.append(
                    Bar(
                        begin,
                        end - begin,
                        number,
                        signature,
                        beats.beat_unit,
                        float(seconds[0]),
                        tempo,
                    )
                )
                number += 1
            beat += length
    return bars


def _spell(notes: Sequence[Note], starts, ends, key: keys.Key | None) -> np.ndarray:
    """Returns each note's name in steps of a fifth from C: -1 for F, 6 for F sharp."""
    found = np.zeros(len(notes), int)
    pitched = np.array([i for i, note in enumerate(notes) if not note.is_drum], int)
    if not len(pitched) or key is None:
        return found
    from partitura.musicanalysis import estimate_spelling

    array = np.zeros(
        len(pitched), [("pitch", int), ("onset_div", int), ("duration_div", int)]
    )
    array["pitch"] = [notes[index].pitch for index in pitched]
    array["onset_div"] = starts[pitched]
    array["duration_div"] = (ends - starts)[pitched]
    spelling = estimate_spelling(array)
    natural = np.array([_STEPS.index(step) - 1 for step in spelling["step"]])
    fifths = natural + 7 * spelling["alter"]
    # The algorithm knows no key signature: it may be off by an enharmonic change.
    middle = key.fifths + 2
    found[pitched] = fifths - 12 * round((float(fifths.mean()) - middle) / 12)
    return found


def _head(note: Note, fifths: int, transposition: int = 0) -> Head:
    """Returns a notehead, with a written name and from written to sounding pitch."""
    pitch = note.pitch - transposition
    pitch += 12 * (pitch < _LOWEST_PITCH)
    # At most two accidentals.
    fifths = (fifths + 15) % 12 - 15 if fifths < -15 else fifths
    fifths = (fifths - 19) % 12 + 7 if fifths > 19 else fifths
    alter, step = (fifths + 1) // 7, (fifths + 1) % 7
    octave = (pitch - alter - _NATURALS[step]) // 12 - 1
    return Head(note.pitch, note.velocity, _STEPS[step], octave, alter)


def _pitched_part(
    mine: _Notes, program: int, key: keys.Key | None, tablature: bool
) -> Part:
    instrument = instruments.of_program(program)
    down = instrument.transposition
    written = key.transposed(-down) if key else None
    moved = written.fifths - key.fifths if key else 0
    # The number of staff steps that is nearest to the semitones.
    steps = (-4 * moved) % 7
    steps += 7 * round((down * 7 / 12 - steps) / 7)
    heads = [
        _head(note, fifths, down)
        for note, fifths in zip(mine.notes, (mine.fifths + moved).tolist(), strict=True)
    ]
    if tablature and instrument.strings:
        heads = _with_strings(heads, mine.starts, instrument.strings)
    clefs = instrument.clefs or (None,)
    on_upper = np.ones(len(heads), bool)
    if len(clefs) > 1:
        on_upper = voices.right_hand(mine.starts, mine.pitches)
    staves = []
    for clef, here in zip(clefs, (on_upper, ~on_upper), strict=False):
        index = np.flatnonzero(here)
        if len(clefs) == 1:
            clef = instruments.choose_clef(mine.pitches - down, clef)
        staves.append(Staff(clef, _chords(mine, heads, index)))
    if tablature and instrument.strings:
        staves.append(
            dataclasses.replace(
                staves[0], clef=instruments.TABLATURE, lines=len(instrument.strings)
            )
        )
    name = general_midi.instrument_name(program)
    return Part(name, program, False, instrument, written, steps, tuple(staves))


def _with_strings(heads: list[Head], starts, strings: tuple[int, ...]) -> list[Head]:
    """Returns the noteheads with their places on strings."""
    bounds = [*np.flatnonzero(np.diff(starts, prepend=-1)), len(heads)]
    chords = [heads[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    placed = instruments.fingering([[h.pitch for h in c] for c in chords], strings)
    return [
        dataclasses.replace(head, string=string, fret=fret)
        for chord, places in zip(chords, placed, strict=True)
        for head, (string, fret) in zip(chord, places, strict=True)
    ]


def _drum_part(mine: _Notes) -> Part:
    kit = [instruments.drum(note.pitch) for note in mine.notes]
    heads = [
        Head(note.pitch, note.velocity, drum.step, drum.octave)
        for note, drum in zip(mine.notes, kit, strict=True)
    ]
    feet = np.array([drum.foot for drum in kit], bool)
    made = []
    for here in (~feet, feet):
        index = np.flatnonzero(here)
        ends = voices.drum_ends(mine.starts[index])
        made.append(_as_chords(mine.starts[index], ends, [heads[i] for i in index]))
    staff = Staff(instruments.PERCUSSION, tuple(made))
    return Part(general_midi.DRUMS, 0, True, DRUM_STAFF, None, 0, (staff,))


def _chords(mine: _Notes, heads: list[Head], index: np.ndarray):
    """Returns the voices of a staff, which has the notes of an index."""
    starts, ends = mine.starts[index], mine.ends[index]
    voice = voices.voices(starts, ends, mine.pitches[index])
    made = []
    for number in range(1, int(voice.max(initial=1)) + 1):
        here = np.flatnonzero(voice == number)
        written = voices.written_ends(starts[here], ends[here])
        made.append(_as_chords(starts[here], written, [heads[index[i]] for i in here]))
    return tuple(made)


def _as_chords(starts, ends, heads: Sequence[Head]) -> tuple[Chord, ...]:
    """Joins notes that start together."""
    by_start: dict[int, list[int]] = {}
    for index, start in enumerate(starts.tolist()):
        by_start.setdefault(start, []).append(index)
    return tuple(
        Chord(start, int(ends[index[0]]), tuple(heads[i] for i in index))
        for start, index in by_start.items()
    )
