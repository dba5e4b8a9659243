"""Options of the commands: every two together, and the wrong ones."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import math
import re

import jax
import numpy as np
import PIL.Image
import pytest
import soundfile

from mt3 import checkpoints, cli, decoding, frame_heads, inference, outputs
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import ConfigError
from mt3.midi import reader
from mt3.note_sequences import Note
from mt3.options import TranscribeOptions
from mt3.synthesis import command as synthesis
from mt3.vocabularies import EOS_ID
from tests.support import pairwise, tiny_heads

# Values of each option of `mt3 transcribe`; None leaves it out, True is a flag.
# An option that is added needs a line here, and where it contradicts others, a line
# in `refusals`.
TRANSCRIBE = {
    "inputs": ["noise.wav", "silence.wav", "one_sample.wav", "folder"],
    "--output": ["out", "-", "out/one.json"],
    "--format": [None, "mid,csv", "jsonl", "json", "png,html,wav"],
    "--model": ["tiny", "heads"],
    "--instruments": [None, "drums", "piano", "0,strings,drums"],
    "--decode": [None, "frames", "greedy", "beam4"],
    "--sensitivity": [None, "0", "1"],
    "--grammar": [None, "--grammar", "--no-grammar"],
    "--unclosed-ties": [None, "keep", "end"],
    "--faithful": [None, True],
    "--min-duration": [None, "0.05", "100"],
    "--short-notes": [None, "drop", "lengthen"],
    "--merge-gap": [None, "0.2"],
    "--instrument-flicker": [None, "0.5"],
    "--start": [None, "0:00.1", "0"],
    "--end": [None, "0.4", "9:00:00"],
    "--times": [None, "recording", "part"],
    "--tempo": [None, "90"],
    "--slots": [None, "1", "3"],
    "--dtype": [None, "float32", "bfloat16"],
    "--device": [None, "cpu"],
    "--num-heads": [None, "2"],
    "--allow-truncated": [None, True],
    "--overwrite": [None, True],
    "--quiet": [None, True],
}


def refusals(case):
    """Yields the message of each reason for which options are refused together.

    Args:
      case: values by option; those that are missing are not known yet.
    """
    known = {name: value for name, value in case.items() if value is not None}
    default = {name for name, value in case.items() if value is None}
    model, decode = known.get("--model"), known.get("--decode")
    faithful = known.get("--faithful")
    by_frames = decode == "frames"
    if not faithful and {"--decode", "--faithful"} <= default and model == "heads":
        by_frames = True
    by_tokens = decode not in (None, "frames") or (
        "--decode" in default and model == "tiny"
    )
    sensitive = "--sensitivity" in known
    cleaned = {"--min-duration", "--merge-gap", "--instrument-flicker"} & known.keys()
    if faithful:
        asked = {"--instruments", "--sensitivity", "--decode"} & known.keys()
        asked |= {known.get("--unclosed-ties"), known.get("--grammar")} & {
            "end",
            "--grammar",
        }
        if asked or cleaned:
            yield "--faithful can't be combined with"
    if decode == "frames" and model == "tiny":
        yield "no frame heads"
    if by_tokens and sensitive:
        yield "has no threshold"
    written = {
        "grammar": known.get("--grammar") == "--grammar",
        "unclosed_ties": known.get("--unclosed-ties") == "end",
        "merge_gap": "--merge-gap" in known,
    }
    if by_frames and any(written.values()):
        yield "with decode='frames', which writes no tokens"
    if "--short-notes" in known and "--min-duration" in default:
        yield "--short-notes: expected --min-duration"
    if known.get("inputs") == "one_sample.wav" and known.get("--start") == "0:00.1":
        yield "expected a part that starts before it"
    output, formats = known.get("--output"), known.get("--format")
    if output == "-":
        if formats and ("," in formats or "wav" in formats):
            yield "on standard output"
        if formats == "jsonl" and cleaned:
            yield "a clean-up needs all of them"
        if known.get("inputs") == "folder" and "--format" in case:
            if formats != "jsonl":
                yield "expected one recording, or jsonl"
    if output == "out/one.json":
        if formats not in (None, "json"):
            yield "expected a folder, or no --format"
        if known.get("inputs") == "folder":
            yield "one file for several recordings"


def arguments_of(case):
    """The command line of a case."""
    line = []
    for name, value in case.items():
        if not name.startswith("-"):
            line += [value] if value is not None else []
        elif value is True:
            line += [name]
        elif str(value).startswith("--"):
            line += [value]
        elif value is not None:
            line += [name, value]
    return line


def declared(command):
    """The options and arguments that a command declares, by their longest name."""
    parser = cli._parser()
    (commands,) = parser._subparsers._group_actions
    actions = commands.choices[command]._actions
    return {
        max(action.option_strings, key=len, default=action.dest).replace("--no-", "--")
        if isinstance(action, argparse.BooleanOptionalAction)
        else max(action.option_strings, key=len, default=action.dest)
        for action in actions
        if not isinstance(action, argparse._HelpAction)
    }


class CannedDecoder:
    """Writes drawn tokens at once: compiling a decoder for each case would take long.

    Decoders under every option are the business of `test_decoding_*`.
    """

    def __init__(self, params, config, options):
        assert isinstance(options, decoding.DecodeOptions)
        self._vocabulary = config.vocab_size
        self._length = options.max_length

    def run(self, segments):
        for number, (key, _) in enumerate(segments):
            rng = np.random.default_rng(number)
            ids = rng.integers(3, self._vocabulary, self._length).astype(np.int32)
            ids[-1] = EOS_ID
            yield decoding.Result(key, ids, 0.0, self._length)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights):
    """Recordings and models to transcribe with."""
    folder = tmp_path_factory.mktemp("options")
    noise = (0.1 * np.random.default_rng(1).normal(size=20000)).astype(np.float32)
    soundfile.write(folder / "noise.wav", noise, 16000)
    soundfile.write(folder / "silence.wav", 0 * noise, 16000)
    soundfile.write(folder / "one_sample.wav", noise[:1], 16000)
    (folder / "folder").mkdir()
    soundfile.write(folder / "folder" / "a.flac", noise[:9000], 16000)
    soundfile.write(folder / "folder" / "b.wav", noise[:17000], 22050)
    (folder / "tiny").write_bytes(tiny_weights.read_bytes())
    params = tiny_heads.make_params()
    config = dataclasses.replace(
        tiny_heads.CONFIG, context_frames=10, padding="silence", targets_length=40
    )
    info = {"name": "heads", "decode": "frames", "grammar": True}
    checkpoints.save_safetensors(folder / "heads", params, config, info=info)
    return folder


@pytest.fixture
def at(folder, tmp_path, monkeypatch):
    """Runs the commands beside the recordings, in a folder of their own."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path, path.is_dir())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(path):
    """Reads a result in its own format; fails if it is none."""
    if path.suffix == ".mid":
        return reader.read_midi(path)
    if path.suffix == ".json":
        return json.loads(path.read_text())["notes"]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open()))
    if path.suffix == ".png":
        return PIL.Image.open(path).size
    if path.suffix == ".html":
        assert "</html>" in path.read_text()
        return path.name
    return soundfile.read(path)


def recordings_of(case):
    return ["a", "b"] if case["inputs"] == "folder" else [case["inputs"][:-4]]


def check_results(case, at, printed):
    """Checks that a case's results are those that its options promise."""
    formats = (case["--format"] or "mid").split(",")
    if case["--output"] == "-":
        assert not (at / "out").exists()
        assert printed or formats == ["jsonl"]
        return
    endings = [outputs.FORMATS[name][0] for name in formats]
    wanted = [stem + end for stem in recordings_of(case) for end in endings]
    if case["--output"] == "out/one.json":
        wanted = ["one.json"]
    found = sorted((at / "out").iterdir())
    assert [path.name for path in found] == sorted(wanted)
    for path in found:
        notes = parsed(path)
        if path.suffix != ".json" or case["--model"] == "tiny":
            continue
        names = {(note["program"] // 8, note["is_drum"]) for note in notes}
        if case["--instruments"] == "drums" and case["--decode"] != "greedy":
            assert all(is_drum for _, is_drum in names)


def test_transcribe_with_every_two_options(at, monkeypatch, capfdbinary):
    assert declared("transcribe") == TRANSCRIBE.keys()
    monkeypatch.setattr(decoding, "SegmentDecoder", CannedDecoder)
    cases, refused = pairwise.covering_array(
        TRANSCRIBE, lambda case: next(refusals(case), None)
    )
    assert 20 < len(cases) < 60
    for case in cases:
        line = arguments_of(case)
        code = cli.main(["transcribe", *line])
        printed, messages = capfdbinary.readouterr()
        assert code == 0, (line, messages.decode())
        check_results(case, at, printed)
        for path in (at / "out").glob("*"):
            path.unlink()
        (at / "out").rmdir() if (at / "out").exists() else None
    # Every pair that is in no case is refused, and the message says why.
    base = {**dict.fromkeys(TRANSCRIBE), "inputs": "noise.wav", "--output": "out"}
    for pair in refused:
        case = {**base, "--model": "heads", **pair}
        reasons = list(refusals(case))
        assert reasons, pair
        assert cli.main(["transcribe", *arguments_of(case)]) == 1, pair
        _, messages = capfdbinary.readouterr()
        assert any(reason in messages.decode() for reason in reasons), pair
        assert not (at / "out").exists()


def test_an_option_without_values_is_noticed(monkeypatch):
    original = cli._add_part

    def with_another(parser):
        original(parser)
        parser.add_argument("--another")

    monkeypatch.setattr(cli, "_add_part", with_another)
    assert declared("transcribe") - TRANSCRIBE.keys() == {"--another"}
