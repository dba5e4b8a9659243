"""Command lines: options and values of every kind, to `mt3.cli.main`.

An input is a text file with an argument on each line. What it says is done in a folder
of its own, with files that are small or missing; the exit code is 0, 1 or 2.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import tempfile

from mt3 import cli
from mt3.note_sequences import Note
from tests.fuzz.target import Target
from tests.support.note_files import write_notes

_LINES = {
    "formats": "transcribe missing.wav -o out --format mid,json,csv --tempo 90 --quiet",
    "part": "transcribe missing.wav --start 0:01.5 --end 1:00:03.25 --times part",
    "decoding": "transcribe missing.wav --decode temperature0.8 --grammar --slots 3",
    "frames": "transcribe missing.wav --decode frames --sensitivity 0.25 --num-heads 2",
    "cleanup": "transcribe missing.wav --min-duration 0.05 --short-notes lengthen "
    "--merge-gap 0.2 --instrument-flicker 0.5 --instruments 0,strings,drums",
    "notation": "transcribe missing.wav --beats b.beats --quantize 1/16 --swing 0.6 "
    "--format musicxml --tablature --no-velocity",
    "stream": "transcribe missing.wav -o - --format jsonl --faithful --dtype float32",
    "score": "score a.mid b.csv --metrics Onset*,Frame* --start 0 --end 9:00 --json",
    "convention": "score a.mid b.csv --convention yourmt3 --no-sustain -o s.csv",
    "compare": "score one --compare two three --main",
    "models": "models model.safetensors --json",
    "convert": "models --convert missing out.safetensors --num-heads 6",
    "synthesize": "synthesize missing.mid -o out --seed 7 --sample-rate 8000",
    "random": "synthesize -o out --random 0 --seconds 0.5 --reorchestrate --overwrite",
}
_KNOWN = {"transcribe", "score", "models", "synthesize"}
_NOTES = [Note(0.5, 1.0, 60, 90, 0, False), Note(1.0, 1.01, 38, 127, 0, True)]


def _seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = []
    for name, line in _LINES.items():
        paths.append(folder / f"{name}.txt")
        paths[-1].write_text("\n".join(line.split()))
    # The first one is done without an error.
    return sorted(paths, key=lambda path: path.stem != "convention")


def _run(path: pathlib.Path) -> None:
    text = path.read_bytes().replace(b"\0", b"").decode(errors="surrogateescape")
    arguments = text.split("\n")
    # Other commands would serve or train; paths lead nowhere else.
    if arguments[0] not in _KNOWN or any(".." in a or "/" in a[:1] for a in arguments):
        return
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_notes("a", _NOTES)
        write_notes("b", _NOTES, "csv")
        pathlib.Path("b.beats").write_text("0.5 1\n1.0 2\n")
        pathlib.Path("model.safetensors").write_bytes(bytes(20))
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                code = cli.main(arguments)
            except SystemExit as error:
                code = error.code
        # Nothing is made but what was asked for.
        assert len(os.listdir()) < 12
    assert code in (0, 1, 2), code
    assert "Traceback" not in said.getvalue()
    # A log in JSON has the level ERROR.
    assert code == 0 or "error" in said.getvalue().lower()


TARGETS = (Target("commands", _seeds, _run, quick=20),)
