"""Accuracy on rendered music: what the model card's table comes from.

Renders MIDI files through a soundfont, transcribes the audio and scores the result
against the notes. Two versions of every piece: as it is (several instruments and
drums), and all pitched parts on a piano.

    python benchmarks/accuracy.py --midi MIDI_FOLDER --soundfont A320U.sf2

Needs a synthesizer (`pip install --no-deps tinysoundfont`). The same files, soundfont
and model give the same table to the digit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from mt3 import inference, metrics
from mt3.synthesis import midi_library, note_arrays, orchestration, soundfont

VERSIONS = ("all instruments", "piano")
ROWS = (
    "Onset F1",
    "Onset + offset F1",
    "Frame F1",
    "Onset + offset + program F1 (midi_class)",
    "Drum onset F1 (midi_class)",
)
SAMPLE_RATE = 16000
PEAK = 0.7


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--midi", required=True, help="folder of MIDI files")
    parser.add_argument("--soundfont", required=True, help=".sf2 or .sf3 file")
    parser.add_argument("--model", default="default", help="name or path")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each piece")
    parser.add_argument("--files", type=int, help="only the first so many")
    parser.add_argument("--decode", default="beam1")
    parser.add_argument("--json", help="also write the scores of every piece here")
    parser.add_argument("--grammar", action=argparse.BooleanOptionalAction)
    parser.add_argument("--unclosed-ties", default="keep", choices=("keep", "end"))
    return parser.parse_args()


def make_piece(
    path: Path, version: str, font: soundfont.SoundFont, seconds: float
) -> tuple[np.ndarray, list]:
    """Renders the beginning of a piece; returns samples and the notes that sound."""
    notes = midi_library.read_song(path).notes
    if version == "piano":
        notes = orchestration.piano_only(notes)
    notes = notes[notes["start_time"] < seconds]
    notes["end_time"] = np.minimum(notes["end_time"], seconds)
    notes = note_arrays.resolve_overlaps(notes)
    notes = notes[font.audible(notes, {})]
    samples = font.render(notes, seconds=seconds)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(PEAK / max(peak, 1e-6)), note_arrays.to_notes(notes)


def score_version(
    files: list[Path], version: str, font: soundfont.SoundFont, options
) -> tuple[dict[str, float], list[dict], float]:
    """Transcribes all pieces; returns mean scores, each piece's, and the speed."""
    pieces = [make_piece(path, version, font, options.seconds) for path in files]
    model = inference.InferenceModel(
        options.model,
        inference.TranscribeOptions(
            decode=options.decode,
            grammar=options.grammar,
            unclosed_ties=options.unclosed_ties,
        ),
    )
    start = time.monotonic()
    found = {}
    for item in model.run(samples for samples, _ in pieces):
        if isinstance(item, inference.FileResult):
            if item.error:
                raise item.error
            found[item.file] = item.transcription
    speed = len(files) * options.seconds / (time.monotonic() - start)
    references = [notes for _, notes in pieces]
    estimates = [found[index].notes for index in range(len(files))]
    songs = metrics.per_song_metrics(references, estimates)
    rows = [
        {"file": path.name, "version": version, **song}
        for path, song in zip(files, songs, strict=True)
    ]
    return metrics.mean_metrics(songs), rows, speed


def main() -> int:
    """Prints the table."""
    options = parse_arguments()
    files = midi_library.find_midi([options.midi])[: options.files]
    font = soundfont.open_soundfont(options.soundfont, SAMPLE_RATE)
    means, pieces, speeds = {}, [], {}
    for version in VERSIONS:
        means[version], rows, speeds[version] = score_version(
            files, version, font, options
        )
        pieces += rows
    width = max(map(len, ROWS))
    print(f"{len(files)} pieces, the first {options.seconds:g} s of each")
    print(f"{'':{width}}  " + "  ".join(f"{version:>15}" for version in VERSIONS))
    for row in ROWS:
        values = [means[version].get(row, float("nan")) for version in VERSIONS]
        cells = [f"{'-' if np.isnan(v) else format(v, '.3f'):>15}" for v in values]
        print(f"{row:{width}}  " + "  ".join(cells))
    for version, speed in speeds.items():
        print(f"{version}: {speed:.1f} times real time", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(pieces, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
