"""Writes the example recordings: their MIDI, and their sound through a soundfont.

    python examples/make_example.py A320U.sf2      # with mt3 installed

`example`: the theme of Beethoven's "Ode to Joy" (Symphony No. 9, 1824), arranged here
for flute, violin, piano, nylon-string guitar, acoustic bass and drums; 30 seconds.
`piano`: the first eight bars of the Minuet in G by Christian Petzold (about 1725),
for piano; 12 seconds. Both pieces are in the public domain.

Players are a little early or late and uneven in strength, from a fixed random seed, so
that running this again gives the same notes. The sound is rendered from the MIDI file
as it was written, so that the file is exactly what is heard.
"""

# check: first
# python -c "import shutil; from mt3.synthesis import soundfont; \
# shutil.copy(soundfont.default_soundfont(), 'A320U.sf2')"

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import pretty_midi
import soundfile

from mt3.note_sequences import Note
from mt3.synthesis import soundfont

PIANO, GUITAR, BASS, VIOLIN, FLUTE = 0, 24, 32, 40, 73
KICK, STICK, SNARE, HAT, OPEN_HAT, LOW_TOM, HIGH_TOM = 36, 37, 38, 42, 46, 45, 48
CRASH, RIDE = 49, 51
SAMPLE_RATE = 16000
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
TAIL_SECONDS = 1.2
PEAK = 0.6

# Pitch and length in quarter notes. Four bars of 4/4 each.
ODE_OPEN = "F#4:1 F#4:1 G4:1 A4:1 A4:1 G4:1 F#4:1 E4:1 D4:1 D4:1 E4:1 F#4:1"
ODE_HALF_CLOSE = "F#4:1.5 E4:.5 E4:2"
ODE_CLOSE = "E4:1.5 D4:.5 D4:2"
ODE_MIDDLE = (
    "E4:1 E4:1 F#4:1 D4:1 E4:1 F#4:.5 G4:.5 F#4:1 D4:1 "
    "E4:1 F#4:.5 G4:.5 F#4:1 E4:1 D4:1 E4:1 A3:2"
)
# A second voice for the middle and the end.
ODE_COUNTER_MIDDLE = "C#5:2 D5:2 C#5:1.5 A4:.5 A4:2 C#5:2 D#5:2 E5:1 C#5:1 A4:2"
ODE_COUNTER_END = (
    "D5:2 E5:1 F#5:1 F#5:1 E5:1 D5:1 C#5:1 B4:1 B4:1 C#5:1 D5:1 C#5:1.5 D5:.5 D5:2"
)
# Two chords a bar.
CHORDS_OPEN = "D D D A Bm G"
ODE_CHORDS = (
    f"{CHORDS_OPEN} D A {CHORDS_OPEN} A D A D A D A B7 E A {CHORDS_OPEN} A D".split()
)
CHORD_TONES = {
    "D": "D3 F#3 A3",
    "A": "C#3 E3 A3",
    "Bm": "D3 F#3 B3",
    "G": "D3 G3 B3",
    "B7": "D#3 A3 B3",
    "E": "E3 G#3 B3",
}
CHORD_ROOTS = {"D": "D2", "A": "A1", "Bm": "B1", "G": "G1", "B7": "B1", "E": "E2"}
MINUET_RIGHT = (
    "D5:1 G4:.5 A4:.5 B4:.5 C5:.5 D5:1 G4:1 G4:1 E5:1 C5:.5 D5:.5 E5:.5 F#5:.5 "
    "G5:1 G4:1 G4:1 C5:1 D5:.5 C5:.5 B4:.5 A4:.5 B4:1 C5:.5 B4:.5 A4:.5 G4:.5 "
    "F#4:1 G4:.5 A4:.5 B4:.5 G4:.5 A4:3"
)
MINUET_LEFT = (
    "G3+B3+D4:2 A3:1 B3:3 C4:3 B3:3 A3:3 G3:3 D4:1 B3:1 G3:1 "
    "D4:1 D3:.5 C4:.5 B3:.5 A3:.5"
)


def pitch(name: str) -> int:
    """MIDI number of a pitch such as "F#4" (C4 is 60)."""
    sharp = name.count("#")
    return 12 * (int(name[-1]) + 1) + SEMITONES[name[0]] + sharp


class Score:
    """Notes in quarter notes, played by somebody human.

    Args:
      beats_per_minute: quarter notes a minute.
      seed: of the deviations.
    """

    def __init__(self, beats_per_minute: float, seed: int) -> None:
        self.seconds_per_beat = 60 / beats_per_minute
        self.notes: list[Note] = []
        self._rng = np.random.default_rng(seed)

    def add(self, program, number, beat, beats, velocity, is_drum=False) -> None:
        """Adds a note: up to 12 ms off the beat, up to 6 steps louder or softer."""
        late = float(np.clip(self._rng.normal(0, 0.005), -0.012, 0.012))
        start = max(0.0, beat * self.seconds_per_beat + late)
        end = start + (0.1 if is_drum else beats * self.seconds_per_beat)
        louder = int(self._rng.integers(-6, 7))
        strength = int(np.clip(velocity + louder, 1, 127))
        self.notes.append(Note(start, end, number, strength, program, is_drum))

    def line(self, program, text, beat, velocity, transpose=0, legato=0.92) -> None:
        """Adds a melody written as "C4:1 E4+G4:.5"."""
        for word in text.split():
            names, length = word.split(":")
            for name in names.split("+"):
                number = pitch(name) + transpose
                self.add(program, number, beat, float(length) * legato, velocity)
            beat += float(length)

    def drums(self, pattern: dict[int, str], beat, velocity) -> None:
        """Adds a bar of drums: a character for each eighth, "X" loud, "x" softer."""
        for number, hits in pattern.items():
            for index, hit in enumerate(hits):
                if hit != ".":
                    strength = velocity + (14 if hit == "X" else 0)
                    self.add(0, number, beat + index / 2, 0.2, strength, is_drum=True)


def ode_to_joy() -> tuple[list[Note], float]:
    """Sixteen bars; returns the notes and the beats per minute."""
    score = Score(beats_per_minute=134, seed=9)
    opening, closing = f"{ODE_OPEN} {ODE_HALF_CLOSE}", f"{ODE_OPEN} {ODE_CLOSE}"
    score.line(FLUTE, opening, 0, 88, transpose=12)
    score.line(FLUTE, closing, 16, 92, transpose=12)
    score.line(VIOLIN, ODE_MIDDLE, 32, 94, transpose=12)
    score.line(FLUTE, ODE_COUNTER_MIDDLE, 32, 76)
    score.line(VIOLIN, closing, 48, 100, transpose=12)
    score.line(FLUTE, ODE_COUNTER_END, 48, 86, transpose=12)
    for index, chord in enumerate(ODE_CHORDS):
        _accompany(score, 2 * index, chord)
    _drums(score)
    for name in ("D3", "A3", "D4"):
        score.add(GUITAR, pitch(name), 62, 1.9, 84)
    return score.notes, 134


def _accompany(score: Score, beat: float, chord: str) -> None:
    """Half a bar of guitar, bass, and from the fifth bar on piano."""
    tones = [pitch(name) for name in CHORD_TONES[chord].split()]
    root = pitch(CHORD_ROOTS[chord])
    last = beat == 62
    if not last:
        for index, tone in enumerate([0, 1, 2, 1]):
            score.add(GUITAR, tones[tone] + 12, beat + index / 2, 0.48, 72)
    if beat < 32 or last:
        score.add(BASS, root, beat, 1.85, 92)
    else:
        score.add(BASS, root, beat, 0.9, 96)
        score.add(BASS, root + 7, beat + 1, 0.9, 86)
    if beat >= 16:
        for tone in tones:
            score.add(PIANO, tone, beat, 1.8 if last else 0.9, 74)
            if beat >= 48 and not last:
                score.add(PIANO, tone, beat + 1.5, 0.4, 62)


def _drums(score: Score) -> None:
    light = {RIDE: "x.x.x.x.", KICK: "x...x...", STICK: "..x...x."}
    full = {
        HAT: "xxxxxxx.",
        KICK: "X...X.x.",
        SNARE: "..X...X.",
        OPEN_HAT: 7 * "." + "x",
    }
    fill = {
        SNARE: "xx..X...",
        HIGH_TOM: "..xx....",
        LOW_TOM: ".....xX.",
        KICK: "x...x...",
    }
    for bar in range(4, 15):
        pattern = light if bar < 8 else full
        score.drums(fill if bar in (7, 11) else pattern, 4 * bar, 78)
    score.drums({CRASH: "X"}, 32, 84)
    score.drums({CRASH: "X"}, 48, 84)
    score.drums({KICK: "X.x.X...", SNARE: "..X.X...", CRASH: "....X..."}, 60, 84)


def minuet() -> tuple[list[Note], float]:
    """Eight bars; returns the notes and the beats per minute."""
    score = Score(beats_per_minute=124, seed=3)
    score.line(PIANO, MINUET_RIGHT, 0, 84)
    score.line(PIANO, MINUET_LEFT, 0, 68)
    return score.notes, 124


def write_midi(path: pathlib.Path, notes: list[Note], beats_per_minute: float) -> None:
    """Writes one named track for each instrument."""
    midi = pretty_midi.PrettyMIDI(initial_tempo=beats_per_minute, resolution=960)
    for program, is_drum in sorted({(n.program, n.is_drum) for n in notes}):
        name = "Drums" if is_drum else pretty_midi.program_to_instrument_name(program)
        instrument = pretty_midi.Instrument(program, is_drum, name)
        for note in sorted(notes, key=lambda n: (n.start_time, n.pitch)):
            if (note.program, note.is_drum) == (program, is_drum):
                instrument.notes.append(
                    pretty_midi.Note(
                        note.velocity, note.pitch, note.start_time, note.end_time
                    )
                )
        midi.instruments.append(instrument)
    midi.write(str(path))


def read_midi(path: pathlib.Path) -> list[Note]:
    """Reads the notes back, at the times that the file can express."""
    midi = pretty_midi.PrettyMIDI(str(path))
    return [
        Note(n.start, n.end, n.pitch, n.velocity, track.program, track.is_drum)
        for track in midi.instruments
        for n in track.notes
    ]


def main() -> None:
    """Writes example.mid, example.flac, piano.mid and piano.flac beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("soundfont", type=pathlib.Path, help="a General MIDI .sf2 file")
    parser.add_argument(
        "-o",
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent,
        help="folder to write to (default: beside this program)",
    )
    arguments = parser.parse_args()
    for name, piece in (("example", ode_to_joy), ("piano", minuet)):
        notes, beats_per_minute = piece()
        path = arguments.output / f"{name}.mid"
        write_midi(path, notes, beats_per_minute)
        notes = read_midi(path)
        font = soundfont.open_soundfont(arguments.soundfont, SAMPLE_RATE)
        seconds = max(note.end_time for note in notes) + TAIL_SECONDS
        audio = font.render(notes, seconds=seconds)
        audio *= PEAK / np.abs(audio).max()
        # Level 1 is the smallest file.
        flac = path.with_suffix(".flac")
        soundfile.write(flac, audio, SAMPLE_RATE, compression_level=1.0)
        print(f"{path}: {len(notes)} notes, {len(audio) / SAMPLE_RATE:.1f} s")


if __name__ == "__main__":
    main()
