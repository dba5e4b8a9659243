"""How well monophonic clips are told from others, and how good their notes are.

Renders clips of 5 s from MIDI files through soundfonts, and judges them as
`mt3 prepare monophonic` does:

    python benchmarks/monophonic.py --midi MIDI --soundfont A320U.sf2 --clips 24

* solo: the upper line of one part of a tune, played by an instrument that people play
  alone, in its range;
* duo: two such lines at once, of two parts of a tune;
* chords: all parts of a tune, played by a piano;
* song: a tune as it is, with its drums.

The first table has the share of clips that are kept for several least
log-likelihoods; its last column is the share of solos among them, where all four kinds
are alike frequent. The second one compares the notes of the solos that are kept with
those that were played (50 ms, the same pitch), and again where notes of one pitch that
follow one another within 50 ms count as one, as the tracker hears them.
"""

# check: needs music and a soundfont
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Run as a file, its neighbours are found from the root of the source tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mt3.midi import note_arrays, reader
from mt3.note_sequences import notes_to_array
from mt3.prepare import monophonic, pitch_trackers
from mt3.prepare.monophonic import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE, Judgement
from mt3.scoring import matching
from mt3.synthesis import instruments, orchestration
from mt3.synthesis.soundfont import SoundFont, open_soundfont

KINDS = ("solo", "duo", "chords", "song")
# Bowed strings, brass, reeds, flutes, a bass and a guitar.
SOLOISTS = (40, 41, 42, 56, 57, 58, 60, 64, 65, 66, 67, 68, 70, 71, 73, 74, 33, 26)
LIKELIHOODS = (-9.0, 0.0, 0.1, 0.2, 0.3)
REPEAT_SECONDS = 0.05


def main() -> None:
    """Prints both tables."""
    options = _parser().parse_args()
    rng = np.random.default_rng(options.seed)
    songs = [reader.read_song(path).notes for path in reader.find_midi(options.midi)]
    songs = [song for song in songs if np.count_nonzero(~song["is_drum"]) > 20]
    fonts = [open_soundfont(Path(f), SAMPLE_RATE) for f in options.soundfont]
    rules = monophonic.Rules(tracker=options.tracker)
    clips = []
    for number in range(options.clips * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        program = SOLOISTS[number // len(KINDS) % len(SOLOISTS)]
        notes, samples = draw(rng, kind, program, songs, fonts)
        clips.append((kind, notes, monophonic.judge(samples, rules)))
    print_tables(clips, rules)


def draw(
    rng: np.random.Generator,
    kind: str,
    program: int,
    songs: Sequence[np.ndarray],
    fonts: Sequence[SoundFont],
) -> tuple[np.ndarray, np.ndarray]:
    """Renders a clip.

    Args:
      rng: source of randomness.
      kind: one of `KINDS`.
      program: of a solo.
      songs: to choose from.
      fonts: to choose from.

    Returns:
      Its notes, and float32 [CLIP_SAMPLES].
    """
    while True:
        song = songs[rng.integers(len(songs))]
        start = rng.uniform(0, max(1.0, song["start_time"].max() - CLIP_SECONDS))
        notes = note_arrays.window(song, start, start + CLIP_SECONDS)
        notes["start_time"] = np.maximum(notes["start_time"], 0)
        notes["end_time"] = np.minimum(notes["end_time"], CLIP_SECONDS)
        pitched = notes[~notes["is_drum"]]
        if kind == "solo":
            notes = _line(rng, pitched, program)
        elif kind == "duo":
            parts = rng.permutation(np.unique(pitched["program"]))[:2]
            players = program, int(rng.choice(SOLOISTS))
            lines = [
                _line(rng, pitched[pitched["program"] == part], player)
                for part, player in zip(parts, players, strict=False)
            ]
            both = len(lines) == 2 and min(map(len, lines)) > 3
            notes = np.concatenate(lines) if both else notes[:0]
        elif kind == "chords":
            notes = orchestration.assign_program(pitched, 0)
        if len(notes) > 3:
            break
    font = fonts[rng.integers(len(fonts))]
    notes, samples = font.render_song(notes)
    samples = np.pad(samples, (0, CLIP_SAMPLES))[:CLIP_SAMPLES]
    return notes, samples.astype(np.float32)


def _line(rng: np.random.Generator, notes: np.ndarray, program: int) -> np.ndarray:
    """Gives the upper line of one of the parts to an instrument, in its range."""
    if not len(notes):
        return notes
    part = rng.choice(np.unique(notes["program"]))
    line = orchestration.melody(notes[notes["program"] == part])
    low, high = instruments.pitch_range(program)
    away = (low + high) / 2 - np.median(line["pitch"]) if len(line) else 0
    line["pitch"] += 12 * round(away / 12)
    line = line[(line["pitch"] >= low) & (line["pitch"] <= high)]
    return orchestration.assign_program(line, program)


def print_tables(
    clips: Sequence[tuple[str, np.ndarray, Judgement]], rules: monophonic.Rules
) -> None:
    """Prints what is kept of each kind, and how good the solos' notes are."""
    print(f"tracker {rules.tracker}, {len(clips)} clips")
    print("| log-likelihood |", " | ".join(KINDS), "| solos among them |")
    print("|---|", "---|" * (len(KINDS) + 1), sep="")
    for least in LIKELIHOODS:
        shares = [
            np.mean([_kept(j, rules, least) for k, _, j in clips if k == kind])
            for kind in KINDS
        ]
        pure = f"{shares[0] / sum(shares):.2f}" if any(shares) else "-"
        cells = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {least:g} | {cells} | {pure} |")
    print("\n| log-likelihood | notes | precision, recall, F1 | repeats as one |")
    print("|---|---|---|---|")
    for least in LIKELIHOODS:
        solos = [
            (notes, notes_to_array(judgement.notes))
            for kind, notes, judgement in clips
            if kind == "solo" and _kept(judgement, rules, least)
        ]
        count = sum(len(notes) for notes, _ in solos)
        merged = [(_merge(reference), estimate) for reference, estimate in solos]
        print(f"| {least:g} | {count} | {_score(solos)} | {_score(merged)} |")


def _kept(judgement: Judgement, rules: monophonic.Rules, least: float) -> bool:
    sure = judgement.sure_frames >= rules.sure_frames
    return sure and judgement.log_likelihood >= least and bool(judgement.notes)


def _merge(notes: np.ndarray) -> np.ndarray:
    """Joins notes of one pitch of which each begins where the one before it ends."""
    notes = np.sort(notes, order="start_time")
    apart = np.diff(notes["pitch"]) != 0
    apart |= notes["start_time"][1:] - notes["end_time"][:-1] > REPEAT_SECONDS
    first = np.flatnonzero(np.concatenate([[True], apart]))
    merged = notes[first].copy()
    merged["end_time"] = notes["end_time"][np.append(first[1:], len(notes)) - 1]
    return merged


def _score(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    counts = np.zeros(3, int)
    for reference, estimate in pairs:
        matched = matching.match_notes(reference, estimate, offset_ratio=None)
        counts += len(matched), len(reference), len(estimate)
    values = matching.precision_recall_f1(*counts.tolist())
    return " ".join(f"{value:.2f}" for value in values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--midi", action="append", required=True, help="folder of MIDI files; repeat")
    add("--soundfont", action="append", required=True, help=".sf2 or .sf3; repeat")
    add("--clips", type=int, default=24, help="of each kind (default: 24)")
    add("--tracker", default="pyin", help=" or ".join(pitch_trackers.TRACKERS))
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
