"""Transcribes a folder of WAV files with another program, to score it beside ours.

    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --write-audio AUDIO
    ENV/bin/python benchmarks/run_peers.py PROGRAM AUDIO ESTIMATES
    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --estimates ESTIMATES

Each program runs in a virtual environment of its own, so that its packages meet none
of ours:

* basic-pitch (Bittner et al. 2022) asks for a TensorFlow that no current Python has,
  but its wheel brings the network as an ONNX file too:

    ENV/bin/pip install --no-deps basic-pitch
    ENV/bin/pip install onnxruntime librosa mir_eval pretty_midi resampy scipy \
        'setuptools<81'

* harmonica (harmonica-amt, the default model "medium") needs Python 3.12:

    ENV/bin/pip install harmonica-amt pretty_midi

Their own thresholds are left as they are; Harmonica computes in float32. Both know
pitches and velocities, not instruments: notes are written as program 0, without pitch
bends.
"""

# check: needs other programs

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# A tick of half a millisecond at 120 beats a minute.
TICKS_PER_BEAT = 1000

# Seconds, seconds, MIDI pitch, velocity 0 to 1.
Notes = Iterable[tuple[float, float, int, float]]


def load_basic_pitch() -> Callable[[Path], Notes]:
    """Loads Basic Pitch; returns a function from a file to its notes."""
    # It warns of every engine that is not installed.
    logging.disable(logging.WARNING)
    from basic_pitch import FilenameSuffix, build_icassp_2022_model_path, inference

    path = build_icassp_2022_model_path(FilenameSuffix.onnx)
    model = inference.Model(path)

    def transcribe(wav: Path) -> Notes:
        # It prints the name of every file.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            _, _, events = inference.predict(wav, model)
        return [event[:4] for event in events]

    return transcribe


def load_harmonica() -> Callable[[Path], Notes]:
    """Loads Harmonica; returns a function from a file to its notes."""
    import torch
    from harmonica import Harmonica

    # It computes in bfloat16, which most processors can only emulate, slowly.
    torch.autocast = lambda **options: contextlib.nullcontext()
    model = Harmonica(device="cpu")

    def transcribe(wav: Path) -> Notes:
        found = model.transcribe(wav)
        velocities = (velocity / 127 for velocity in found.velocities)
        return zip(found.onsets, found.offsets, found.pitches, velocities, strict=True)

    return transcribe


PROGRAMS = {"basic-pitch": load_basic_pitch, "harmonica": load_harmonica}


def write_midi(midi: Path, notes: Notes) -> int:
    """Writes the notes of one recording; returns how many there are."""
    import pretty_midi

    instrument = pretty_midi.Instrument(program=0)
    for start, end, pitch, loudness in sorted(notes):
        velocity = max(1, min(127, round(127 * float(loudness))))
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


def main(arguments: list[str] | None = None) -> int:
    """Transcribes what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", choices=sorted(PROGRAMS))
    parser.add_argument("audio", type=Path, help="folder of WAV files")
    parser.add_argument("estimates", type=Path, help="folder for the MIDI files")
    parser.add_argument("--overwrite", action="store_true", help="also existing ones")
    options = parser.parse_args(arguments)
    recordings = sorted(options.audio.rglob("*.wav"))
    if not recordings:
        sys.exit(f"run_peers: {options.audio}: no WAV files; expected some")
    try:
        transcribe = PROGRAMS[options.program]()
    except ImportError as error:
        sys.exit(
            f"run_peers: {error}; run it in an environment that has {options.program} "
            "(see the top of this file)"
        )
    start = time.monotonic()
    for wav in recordings:
        place = wav.relative_to(options.audio).with_suffix(".mid")
        midi = options.estimates / place
        if midi.exists() and not options.overwrite:
            continue
        print(f"{place}: {write_midi(midi, transcribe(wav))} notes", flush=True)
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
