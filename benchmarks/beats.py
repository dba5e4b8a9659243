"""Beats found in rendered tunes: against their MIDI files' own beats.

Renders MIDI files through a soundfont, transcribes the audio, tracks the beats and
compares them with the beats, tempo and metre of the MIDI files:

    python benchmarks/beats.py --midi MIDI --soundfont A320U.sf2

Columns: the transcription's notes; the true notes, which are the ceiling; `librosa`'s
tracker on the audio; `partitura`'s on the true notes. Rows:

* beat F1, downbeat F1: `mir_eval.beat`, within 70 ms, from the sixth second on;
* tempo 1: within 4 %; tempo 2: also of a third, half, double or triple the tempo;
* metre: the beats of a bar are as in the MIDI file;
* place: of the notes that were found (50 ms, the same pitch), the share whose place in
  the bar is right on the grid that sheet music is written on; with value: and whose
  note value is right too.

In 6/8 and 12/8 a beat has three eighths. Tunes whose notes lie on no grid of their own
MIDI file's beats say nothing of tracking, and are left out (`LEAST_ON_GRID`).
`--rubato 0.08` plays the tunes with a tempo that varies by as much.
"""

# check: needs music and a soundfont
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mir_eval
import numpy as np
import pretty_midi

# Run as a file, its neighbours are found from the root of the source tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import held_out
from mt3.beats import Beats, tracking
from mt3.errors import MT3Error
from mt3.midi import note_arrays, reader
from mt3.note_sequences import Note
from mt3.outputs import quantize
from mt3.synthesis import expression, soundfont

OURS, CEILING = "mt3", "mt3, true notes"
LIBROSA, PARTITURA = "librosa, audio", "partitura, true notes"
ROWS = ("beat F1", "tempo 1", "tempo 2", "downbeat F1", "metre", "place", "with value")
# Coherence of true notes with a part of their beats.
LEAST_ON_GRID = 0.5
_PARTS = (1, 2, 3, 4, 6, 8)
_TEMPO_TOLERANCE = 0.04
_NEAR_SECONDS = 0.05
_SAME_PLACE = 0.02
_LIBROSA_RATE = 22050


def midi_beats(path: Path, seconds: float) -> Beats:
    """Returns the beats that a MIDI file's tempos and time signatures say."""
    midi = pretty_midi.PrettyMIDI(str(path))
    signatures = [(0.0, 4, 4)] + [
        (s.time, s.numerator, s.denominator) for s in midi.time_signature_changes
    ]
    if len(signatures) > 1 and signatures[1][0] == 0.0:
        del signatures[0]
    end = midi.time_to_tick(seconds)
    times: list[float] = []
    numbers: list[int] = []
    for index, (begin, numerator, denominator) in enumerate(signatures):
        stop = end
        if index + 1 < len(signatures):
            stop = min(end, midi.time_to_tick(signatures[index + 1][0]))
        step = midi.resolution * 4.0 / denominator
        ticks = np.arange(midi.time_to_tick(begin), stop, step)
        times += [midi.tick_to_time(round(tick)) for tick in ticks]
        numbers += [n % numerator + 1 for n in range(len(ticks))]
    _, numerator, denominator = signatures[0]
    return Beats(times, numbers, numerator, denominator)


def felt(beats: Beats) -> np.ndarray:
    """Returns the seconds of the beats that are felt: in 6/8, of every third."""
    if beats.beat_unit < 8 or beats.beats_per_bar % 3 or beats.beats_per_bar == 3:
        return beats.times
    return beats.times[(beats.numbers - 1) % 3 == 0]


def on_grid(notes: np.ndarray, beats: Beats) -> float:
    """Returns how well notes lie on parts of beats, 0 to 1."""
    place = beats.to_beats(notes["start_time"])
    return max(float(np.cos(2.0 * np.pi * parts * place).mean()) for parts in _PARTS)


def with_rubato(
    notes: np.ndarray, beats: Beats, depth: float, seconds: float, seed: int
) -> tuple[np.ndarray, Beats]:
    """Returns notes and beats as a player might play them."""
    marks = np.zeros(len(beats.times), notes.dtype)
    marks["start_time"], marks["end_time"] = beats.times, beats.times + 0.1
    played = expression.rubato(
        np.random.default_rng(seed),
        np.concatenate([notes, marks]),
        depth,
        start=0.0,
        end=seconds,
    )
    times = played["start_time"][len(notes) :]
    return played[: len(notes)], Beats(times, beats.numbers, beats.beats_per_bar)


def score_times(
    true: Beats, times: np.ndarray, tempo: float | None = None
) -> dict[str, float]:
    """Scores beats, in seconds.

    Args:
      true: the MIDI file's.
      times: those that were found.
      tempo: that was found; None for that of `times`.
    """
    reference = felt(true)
    trimmed = [mir_eval.beat.trim_beats(np.asarray(x)) for x in (reference, times)]
    expected = 60.0 / np.median(np.diff(reference))
    if tempo is None:
        tempo = 60.0 / np.median(np.diff(times)) if len(times) > 1 else 0.0
    right = [
        abs(tempo / (expected * ratio) - 1.0) < _TEMPO_TOLERANCE
        for ratio in (1.0, 1 / 3, 1 / 2, 2.0, 3.0)
    ]
    return {
        "beat F1": mir_eval.beat.f_measure(*trimmed),
        "tempo 1": float(right[0]),
        "tempo 2": float(any(right)),
    }


def score_beats(
    true: Beats, found: Beats | None, true_notes: list[Note], notes: list[Note]
) -> dict[str, float]:
    """Scores beats, bars, and where notes lie in them."""
    if found is None:
        return dict.fromkeys(ROWS, 0.0)
    downbeats = [mir_eval.beat.trim_beats(b.downbeats) for b in (true, found)]
    places = score_places(true, found, true_notes, notes)
    return {
        **score_times(true, felt(found)),
        "downbeat F1": mir_eval.beat.f_measure(*downbeats),
        "metre": float(_metre(true) == _metre(found)),
        **places,
    }


def _metre(beats: Beats) -> tuple[int, bool]:
    """Returns the beats of a bar, and whether they are eighths."""
    return beats.beats_per_bar, beats.beat_unit >= 8


def score_places(
    true: Beats, found: Beats, true_notes: list[Note], notes: list[Note]
) -> dict[str, float]:
    """Returns the share of notes whose place in the bar, and value, is right."""
    starts, ends = np.array([(n.start_time, n.end_time) for n in true_notes]).T
    pairs = mir_eval.transcription.match_note_onsets(
        np.stack([starts, np.maximum(ends, starts + 1e-3)], axis=1),
        np.array([(n.start_time, n.end_time) for n in notes]),
        onset_tolerance=_NEAR_SECONDS,
    )
    same = [
        (a, b)
        for a, b in pairs
        if (true_notes[a].pitch, true_notes[a].is_drum)
        == (notes[b].pitch, notes[b].is_drum)
        and not notes[b].is_drum
    ]
    if not same:
        return {"place": 0.0, "with value": 0.0}
    first, second = np.array(same).T
    known, known_value = _places(true, true_notes)
    place, value = _places(found, notes)
    right = np.abs(known[first] - place[second]) < _SAME_PLACE
    both = right & (np.abs(known_value[first] - value[second]) < _SAME_PLACE)
    return {"place": float(right.mean()), "with value": float(both.mean())}


def _places(beats: Beats, notes: list[Note]) -> tuple[np.ndarray, np.ndarray]:
    """Returns places in the bar and note values, in quarters."""
    beats = beats.from_zero()
    start, end = quantize.positions(notes, beats, "auto")
    beat = np.floor(start + 1e-6).astype(int)
    known = np.clip(beat, 0, len(beats.times) - 1)
    number = (beats.numbers[known] - 1 + beat - known) % beats.beats_per_bar
    place = number + start - beat
    return place * beats.quarters_per_beat, (end - start) * beats.quarters_per_beat


def librosa_scores(true: Beats, samples: np.ndarray) -> dict[str, float]:
    """Scores `librosa`'s tracker with its own settings."""
    import librosa

    audio = librosa.resample(
        samples, orig_sr=held_out.SAMPLE_RATE, target_sr=_LIBROSA_RATE
    )
    tempo, times = librosa.beat.beat_track(y=audio, sr=_LIBROSA_RATE, units="time")
    return score_times(true, times, float(np.atleast_1d(tempo)[0]))


def partitura_scores(true: Beats, notes: np.ndarray) -> dict[str, float]:
    """Scores `partitura.musicanalysis.estimate_time` on notes."""
    from partitura.musicanalysis import estimate_time

    fields = [("onset_sec", "f4"), ("duration_sec", "f4"), ("pitch", "i4")]
    array = np.zeros(len(notes), [*fields, ("velocity", "i4"), ("id", "U8")])
    array["onset_sec"] = notes["start_time"]
    array["duration_sec"] = notes["end_time"] - notes["start_time"]
    array["pitch"], array["velocity"] = notes["pitch"], notes["velocity"]
    found = estimate_time(array[np.argsort(array["onset_sec"], kind="stable")])
    metre = float(found["meter_numerator"] == true.beats_per_bar)
    # Each beat has its time and the strength of what begins there.
    return {**score_times(true, np.asarray(found["beats"])[:, 0]), "metre": metre}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--midi", required=True, metavar="DIR", help="MIDI files, to be rendered")
    add("--soundfont", required=True, metavar="SF2", help=".sf2 or .sf3 file")
    add("--seconds", type=float, default=60.0, help="of each tune (default: 60)")
    add("--files", type=int, metavar="N", help="only the first N")
    add("--odd", action="store_true", help="only every second tune")
    add("--rubato", type=float, default=0.0, metavar="DEPTH", help="e.g. 0.08")
    add("--mode", default="track", help="track, steady or follow (default: track)")
    add("--model", default="default", help="name or path")
    return parser.parse_args(arguments)


def score_tune(model, font, path: Path, options, seed: int) -> dict[str, dict] | None:
    """Returns scores by column and row; None for a tune that is left out."""
    notes = held_out._beginning(reader.read_song(path).notes, options.seconds)
    length = min(options.seconds, float(notes["end_time"].max(initial=0.0)) + 1.0)
    true = midi_beats(path, length)
    if on_grid(notes, true) < LEAST_ON_GRID:
        return None
    if options.rubato:
        notes, true = with_rubato(notes, true, options.rubato, length, seed)
    notes = note_arrays.resolve_overlaps(notes)
    notes = notes[font.audible(notes, {})]
    samples = held_out.Piece(path.stem, "", notes, length, font).samples
    result = model.transcribe(samples)
    found = tracking.track(result.notes, length, mode=options.mode)
    ceiling = tracking.track(notes, length, mode=options.mode)
    true_notes = note_arrays.to_notes(notes)
    return {
        OURS: score_beats(true, found, true_notes, list(result.notes)),
        CEILING: score_beats(true, ceiling, true_notes, true_notes),
        LIBROSA: librosa_scores(true, samples),
        PARTITURA: partitura_scores(true, notes),
    }


def table(scores: Sequence[dict[str, dict[str, float]]]) -> str:
    """Returns mean scores as a Markdown table."""
    columns = list(scores[0])
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in ROWS:
        cells = [
            f"{np.mean([s[column][row] for s in scores]):.3f}"
            if row in scores[0][column]
            else "-"
            for column in columns
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        from mt3.inference import InferenceModel
        from mt3.options import TranscribeOptions

        font = soundfont.open_soundfont(options.soundfont, held_out.SAMPLE_RATE)
        files = reader.find_midi([options.midi])
        model = InferenceModel(options.model, TranscribeOptions(beats="off"))
    except MT3Error as error:
        print(f"beats: error: {error}", file=sys.stderr)
        return 1
    chosen = files[: options.files][1::2] if options.odd else files[: options.files]
    scores, left_out = [], 0
    for seed, path in enumerate(chosen):
        found = score_tune(model, font, path, options, seed)
        if found is None:
            left_out += 1
            continue
        scores.append(found)
        line = ", ".join(f"{c} {s['beat F1']:.2f}" for c, s in found.items())
        print(f"{path.stem}: {line}", file=sys.stderr)
    print(f"{len(scores)} tunes; {left_out} left out\n")
    if scores:
        print(table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
