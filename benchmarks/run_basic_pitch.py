"""Transcribes a folder of WAV files with Basic Pitch, to score it beside our models.

Basic Pitch (Bittner et al. 2022, package `basic-pitch`) asks for a TensorFlow that no
current Python has, but its wheel brings the network as an ONNX file too. It is run
from a virtual environment of its own, so that its packages meet none of ours:

    python -m venv BP
    BP/bin/pip install --no-deps basic-pitch
    BP/bin/pip install onnxruntime librosa mir_eval pretty_midi resampy scipy \
        'setuptools<81'
    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --write-audio AUDIO
    BP/bin/python benchmarks/run_basic_pitch.py AUDIO BP_ESTIMATES
    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 \
        --estimates basic_pitch=BP_ESTIMATES

Its own thresholds and shortest note are left as they are. It knows pitches, not
instruments: its notes are written as program 0, without its pitch bends.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from pathlib import Path

# A tick of half a millisecond at 120 beats a minute.
TICKS_PER_BEAT = 1000


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("audio", type=Path, help="folder of WAV files")
    parser.add_argument("estimates", type=Path, help="folder for the MIDI files")
    parser.add_argument("--overwrite", action="store_true", help="also existing ones")
    return parser.parse_args()


def load_model():
    """Loads the network; returns it and Basic Pitch's function `predict`."""
    # It warns of every engine that is not installed.
    logging.disable(logging.WARNING)
    try:
        from basic_pitch import FilenameSuffix, build_icassp_2022_model_path, inference
    except ImportError as error:
        sys.exit(
            f"run_basic_pitch: {error}; run it in an environment that has Basic Pitch "
            "(see the top of this file)"
        )
    path = build_icassp_2022_model_path(FilenameSuffix.onnx)
    return inference.Model(path), inference.predict


def transcribe(wav: Path, midi: Path, model, predict) -> int:
    """Writes the notes of one recording; returns how many there are."""
    import pretty_midi

    # It prints the name of every file.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        _, _, events = predict(wav, model)
    instrument = pretty_midi.Instrument(program=0)
    for start, end, pitch, amplitude, *_ in sorted(events, key=lambda e: e[:3]):
        velocity = max(1, min(127, round(127 * float(amplitude))))
        instrument.notes.append(
            pretty_midi.Note(velocity, int(pitch), float(start), float(end))
        )
    file = pretty_midi.PrettyMIDI(resolution=TICKS_PER_BEAT, initial_tempo=120)
    file.instruments.append(instrument)
    midi.parent.mkdir(parents=True, exist_ok=True)
    unfinished = midi.with_suffix(".part")
    file.write(str(unfinished))
    unfinished.replace(midi)
    return len(instrument.notes)


def main() -> int:
    """Transcribes what is not there yet."""
    options = parse_arguments()
    recordings = sorted(options.audio.rglob("*.wav"))
    if not recordings:
        sys.exit(f"run_basic_pitch: {options.audio}: no WAV files; expected some")
    model, predict = load_model()
    start = time.monotonic()
    for wav in recordings:
        place = wav.relative_to(options.audio).with_suffix(".mid")
        midi = options.estimates / place
        if midi.exists() and not options.overwrite:
            continue
        count = transcribe(wav, midi, model, predict)
        print(f"{place}: {count} notes", flush=True)
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
