"""Options of the commands: every two together, and the wrong ones."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import zipfile

import numpy as np
import PIL.Image
import pytest
import soundfile

from mt3 import checkpoints, cli, decoding, inference, outputs
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import ConfigError
from mt3.midi import reader
from mt3.note_sequences import Note
from mt3.options import TranscribeOptions
from mt3.outputs import midi
from mt3.synthesis import command as synthesis
from mt3.vocabularies import EOS_ID
from tests.support import musicxml, pairwise, soundfonts, tiny_heads

# Values of each option of `mt3 transcribe`; None leaves it out, True is a flag.
# An option that is added needs a line here, and where it contradicts others, a line
# in `refusals`.
TRANSCRIBE = {
    "inputs": ["noise.wav", "silence.wav", "one_sample.wav", "folder"],
    "--output": ["out", "-", "out/one.json"],
    "--format": [None, "mid,csv", "jsonl", "json", "png,html,wav", "musicxml", "mxl"],
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
    "--beats": [None, "track", "steady", "off", "known.beats"],
    "--tempo": [None, "90"],
    "--quantize": [None, "1/16", "auto"],
    "--swing": [None, "0.6"],
    "--no-velocity": [None, True],
    "--tablature": [None, True],
    "--slots": [None, "1", "3"],
    "--dtype": [None, "float32", "bfloat16"],
    "--device": [None, "cpu"],
    "--num-heads": [None, "2"],
    "--allow-truncated": [None, True],
    "--overwrite": [None, True],
    "--quiet": [None, True],
    "--log-json": [None, True],
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
    if "--swing" in known and "--quantize" in default:
        yield "swing: it needs a grid"
    written = formats or ("--format" in default and "mid")
    if "--tablature" in known and written in ("mid", "mid,csv", "jsonl", "json"):
        yield "no sheet music is written"
    beats = known.get("--beats")
    if beats not in (None, "off") and written == "jsonl" and "--quantize" in default:
        yield "none of the formats jsonl has beats"
    if beats == "known.beats" and "--tempo" in known:
        yield "with given beats"
    if beats == "known.beats" and known.get("inputs") == "folder":
        yield "the beats of one recording"
    if output == "-":
        if formats and ("," in formats or "wav" in formats):
            yield "on standard output"
        changed = cleaned | ({"--quantize", "--no-velocity"} & known.keys())
        if formats == "jsonl" and changed:
            yield "needs all of them"
        if known.get("inputs") == "folder" and formats not in (None, "jsonl"):
            yield "expected one recording, or jsonl"
        if known.get("inputs") == "folder" and "--format" in case and not formats:
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
    actions = cli._parsers()[1][command]._actions
    return {
        max(action.option_strings, key=len, default=action.dest).replace("--no-", "--")
        if isinstance(action, argparse.BooleanOptionalAction)
        else max(action.option_strings, key=len, default=action.dest)
        for action in actions
        if not isinstance(action, argparse._HelpAction)
    }


# Folders of songs.
SETS = ("songs", "more")


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
    (folder / "known.beats").write_text("0.1 1\n0.4 2\n0.7 3\n1.0 1\n")
    song = [Note(0.1, 0.5, 60, 80), Note(0.2, 0.7, 64, 90, 40), Note(0.3, 0.4, 36, 70)]
    song.append(dataclasses.replace(song[2], is_drum=True))
    songs = {"song": song, "note": song[:1], "silent": [], "one": song[1:2]}
    for name, notes in songs.items():
        places = [folder / f"{name}.mid", *(folder / s / f"{name}.mid" for s in SETS)]
        for place in places if name != "one" else places[:1]:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(midi.midi_bytes(outputs.Transcription(notes)))
    soundfonts.tiny_font(folder / "tone.sf2", programs=range(0, 128, 8))
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
        return list(csv.DictReader(path.read_text().splitlines()))
    if path.suffix == ".png":
        with PIL.Image.open(path) as picture:
            return picture.size
    if path.suffix == ".musicxml":
        return musicxml.sounding(musicxml.read(path.read_bytes()))
    if path.suffix == ".mxl":
        return zipfile.ZipFile(path).namelist()
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


WRONG = {
    "--tempo": ["nan", "inf", "0", "-1", "fast"],
    "--beats": ["", "sideways", "noise.wav", "folder"],
    "--sensitivity": ["2", "nan", "-0.1"],
    "--min-duration": ["-1", "nan", "inf"],
    "--merge-gap": ["-1", "inf"],
    "--instrument-flicker": ["1", "nan"],
    "--slots": ["0", "-3", "1.5", "99999999"],
    "--num-heads": ["0", "-1", "two", "9" * 5000],
    "--decode": ["best", "beam0", "beam999", "temperature0", "beam" + "9" * 5000],
    "--dtype": ["int8"],
    "--device": ["abacus", "gpu"],
    "--quantize": ["", "1/5", "1/16t"],
    "--swing": ["0.4", "0.8", "nan", "0.6", "hard"],
    "--start": ["-1", "1:60", "nan", "1:2:3:4", "", "1e3"],
    "--end": ["0", "x"],
    "--times": ["sideways"],
    "--instruments": ["", ",", "pianno", "128"],
    "--format": ["", "midi"],
    "--output": ["", "noise.wav", "noise.wav/below"],
    "--model": ["", "no_such_model", "~nobody_of_that_name/x", "x" * 5000],
}


def test_wrong_options_are_told_before_anything_is_read(at, capsys, monkeypatch):
    """By the message, the exit code and nothing else; no model is loaded."""
    monkeypatch.setattr(checkpoints, "load", None)
    before = sorted(at.iterdir())
    for name, values in WRONG.items():
        for value in values:
            line = ["transcribe", "noise.wav", f"{name}={value}"]
            try:
                code = cli.main(line)
            except SystemExit as ended:
                code = ended.code
            message = capsys.readouterr().err
            assert code in (1, 2), line
            assert "error: " in message, line
            assert sorted(at.iterdir()) == before, line


def test_wrong_options_in_python():
    wrong = [
        {"sensitivity": 1.5},
        {"sensitivity": "0.5"},
        {"num_slots": 0},
        {"num_slots": True},
        {"max_length": -1},
        {"programs": (128,)},
        {"programs": (), "drums": False},
        {"unclosed_ties": "cut"},
        {"times": "never"},
        {"dtype": "float31"},
        {"decode": "best"},
        {"decode": "frames", "grammar": True},
        {"decode": "greedy", "sensitivity": 0.6},
        {"decode": "frames", "cleanup": CleanupOptions(merge_gap=0.1)},
    ]
    for values in wrong:
        with pytest.raises(ConfigError, match="expected|Known"):
            TranscribeOptions(**values)
    for tempo in (float("nan"), 0, "fast", None):
        with pytest.raises(ConfigError, match="expected a number from 4 to 1000"):
            outputs.OutputOptions(tempo=tempo)


def test_results_that_could_not_be_kept_are_not_made(at, capsys, monkeypatch):
    monkeypatch.setattr(inference, "InferenceModel", None)
    (at / "out").mkdir()
    # Whoever runs the tests may be allowed to write anywhere; nobody makes files here.
    monkeypatch.setattr("mt3.files.tempfile.TemporaryFile", _refuse)
    assert cli.main(["transcribe", "folder", "noise.wav", "-o", "out"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "mt3: error: out: results cannot be written here: Read-only"


def _refuse(dir):  # noqa: A002
    raise OSError(30, "Read-only")


@pytest.mark.parametrize("times", ["recording", "part"])
def test_a_part_fits_in_every_format(at, capsys, times):
    line = ["--model", "heads", "-o", "out", "--quiet", "--times", times]
    line += ["--start", "0:00.5", "--end", "1", "--format", "json,mid,wav,html"]
    assert cli.main(["transcribe", "noise.wav", *line]) == 0
    zero = 0.5 if times == "recording" else 0.0
    record = json.loads((at / "out" / "noise.json").read_text())
    assert record["start"] == 0.5
    assert record["duration"] == zero + 0.5
    starts = [note["start_time"] for note in record["notes"]]
    assert len(starts) > 3
    assert all(zero <= start < zero + 0.6 for start in starts)
    read = reader.read_midi(at / "out" / "noise.mid")
    assert min(note.start_time for note in read) == pytest.approx(starts[0], abs=1e-3)
    # Left is the recording, from what times count from to the part's end.
    sound, rate = soundfile.read(at / "out" / "noise.notes.wav")
    recording, _ = soundfile.read("noise.wav")
    count = round((zero + 0.5) * rate)
    loud = np.sqrt(np.mean(recording**2))
    assert np.sqrt(np.mean(sound[:count, 0] ** 2)) == pytest.approx(loud, rel=0.1)
    assert not sound[count + 50 :, 0].any()
    assert not sound[: round(zero * rate), 1].any()
    # One that ends before is named; the others are done.
    line = ["one_sample.wav", "noise.wav", *line, "--overwrite"]
    assert cli.main(["transcribe", *line]) == 1
    message = capsys.readouterr().err
    assert "one_sample.wav: reading audio: found the end at 0.000 s" in message
    assert not (at / "out" / "one_sample.mid").exists()


def test_warnings_are_printed_and_recorded(at, capsys, monkeypatch):
    monkeypatch.setattr(
        "mt3.audio.reading.AudioSource.warnings", ["0.2 s are missing at 0.5 s"]
    )
    line = ["transcribe", "noise.wav", "--model", "heads", "-o", "out/x.json", "-q"]
    assert cli.main(line) == 0
    expected = "mt3: warning: noise.wav: 0.2 s are missing at 0.5 s\n"
    assert capsys.readouterr().err == expected
    record = json.loads((at / "out" / "x.json").read_text())
    assert record["warnings"] == ["0.2 s are missing at 0.5 s"]


def test_a_device_that_is_not_there(capsys):
    assert cli.main(["transcribe", "noise.wav", "--device", "gpu"]) == 1
    message = capsys.readouterr().err
    assert "pip install 'jax[cuda13]'" in message
    assert "Platforms present are: cpu" in message


SCORE = {
    "reference": ["song.mid", "silent.mid", "songs"],
    "estimate": ["song.mid", "note.mid", "silent.mid", "songs"],
    "--output": [None, "scores.csv", "scores.json", "notes.png", "out"],
    "--compare": [None, "one.mid", "more"],
    "--json": [None, True],
    "--main": [None, True],
    "--log-json": [None, True],
    "--metrics": [None, "Onset F1", "*f1*,drum*"],
    "--convention": [None, "mt3", "mr-mt3", "yourmt3"],
    "--start": [None, "0:00.1"],
    "--end": [None, "0.4"],
    "--no-sustain": [None, True],
}


def score_refusal(case):
    """The message for which options of `mt3 score` are refused together, or False."""
    known = {name: value for name, value in case.items() if value is not None}
    paths = known.keys() & {"reference", "estimate", "--compare"}
    folders = {known[name] in ("songs", "more") for name in paths}
    several = "--compare" in known or True in folders
    if known.get("--output") == "notes.png" and several:
        return "a picture shows one pair"
    if len(folders) > 1:
        return "expected two files or two folders"
    is_mr_mt3 = known.get("--convention") == "mr-mt3"
    return is_mr_mt3 and known.get("--metrics") == "Onset F1" and "no metric fits"


def test_score_with_every_two_options(at, capsys):
    assert declared("score") == SCORE.keys()
    cases, impossible = pairwise.covering_array(SCORE, score_refusal)
    assert len(cases) >= 20
    for case in cases:
        # What follows --compare up to the next option is compared.
        line = arguments_of({name: case[name] for name in SCORE})
        assert cli.main(["score", *line]) == 0, case
        printed = capsys.readouterr().out
        if case["--json"]:
            record = json.loads(printed)
            (one, *_) = record["systems"].values() if case["--compare"] else (record,)
            assert any(name.startswith("Onset F1") for name in one["mean"]), case
        else:
            assert "Onset F1" in printed, case
        assert (at / (case["--output"] or "")).exists(), case
    assert len(impossible) > 8
    for pair in impossible:
        case = {**dict.fromkeys(SCORE), "reference": "song.mid", "estimate": "note.mid"}
        case |= pair
        assert cli.main(["score", *arguments_of(case)]) == 1
        assert score_refusal(case) in capsys.readouterr().err
    assert cli.main(["score", "song.mid", "song.mid", "--metrics", "Onset F3"]) == 1
    assert "Did you mean Onset F1" in capsys.readouterr().err


SYNTHESIZE = {
    "inputs": [None, "song.mid", "silent.mid", "songs"],
    "--output": ["out"],
    "--random": [None, "1"],
    "--seconds": ["0.5", "1"],
    "--hours": [None, "0.0001"],
    "--soundfont": [None, "tone.sf2"],
    "--exact": [None, "tone.sf2"],
    "--seed": [None, "3"],
    "--reorchestrate": [None, True],
    "--sample-rate": [None, "8000", "44100"],
    "--workers": [None, "1"],
    "--overwrite": [None, True],
    "--log-json": [None, True],
}


def test_synthesize_with_every_two_options(at, capsys, monkeypatch):
    assert declared("synthesize") == SYNTHESIZE.keys()
    monkeypatch.setitem(synthesis.synthesize.__kwdefaults__, "clips_per_shard", 1)

    def refusal(case):
        default = {name for name, value in case.items() if value is None}
        if case.get("--hours") and case.get("--random"):
            return "expected one of the two"
        if case.get("--exact") and "--hours" in default:
            return "are for a corpus"
        return {"inputs", "--random", "--hours"} <= default and "Nothing to render"

    cases, impossible = pairwise.covering_array(SYNTHESIZE, refusal)
    assert len(cases) > 10
    for number, case in enumerate(cases):
        case["--output"] = f"out{number}"
        assert cli.main(["synthesize", *arguments_of(case)]) == 0, case
        made = {path.suffix for path in (at / case["--output"]).rglob("*")}
        assert made >= ({".json", ".npy"} if case["--hours"] else {".wav", ".mid"})
        capsys.readouterr()
    for pair in impossible:
        case = {**dict.fromkeys(SYNTHESIZE), "inputs": "song.mid", **pair}
        case["--output"] = "out"
        reason = refusal(case)
        assert cli.main(["synthesize", *arguments_of(case)]) == 1
        assert reason in capsys.readouterr().err


WRONG_SYNTHESIS = {
    "--random": ["-1", "x", "4294967296"],
    "--seconds": ["0", "nan", "inf", "-5"],
    "--hours": ["0", "nan", "-1", "inf"],
    "--seed": ["-1"],
    "--sample-rate": ["0", "-16000", "100", "99999999"],
    "--workers": ["0", "-1"],
    "--soundfont": ["none.sf2", "song.mid"],
    "--exact": ["tone.sf2"],
    "--output": ["song.mid"],
}


def test_wrong_options_of_synthesize(at, capsys):
    for name, values in WRONG_SYNTHESIS.items():
        for value in values:
            line = ["synthesize", "song.mid", "--output=out", f"{name}={value}"]
            try:
                code = cli.main(line)
            except SystemExit as ended:
                code = ended.code
            assert code in (1, 2), line
            assert "error: " in capsys.readouterr().err, line
            assert not (at / "out").exists(), line


SHORT = [
    ["--instruments", "drums"],
    ["--instruments", "drums", "--decode", "greedy"],
    ["--sensitivity", "1", "--min-duration", "0.1", "--instrument-flicker", "0.2"],
]


@pytest.mark.slow
def test_the_default_weights_with_some_options(at):
    for number, options in enumerate(SHORT):
        out = f"out{number}"
        line = ["transcribe", "noise.wav", "one_sample.wav", "silence.wav", *options]
        assert cli.main([*line, "-o", out, "--format", "mid,html"]) == 0
        assert len(list((at / out).iterdir())) == 6
        notes = reader.read_midi(at / out / "noise.mid")
        assert all(note.is_drum for note in notes) or "drums" not in options


def test_a_steady_sine_is_one_note():
    model = inference.InferenceModel()
    time = np.arange(5 * 16000) / 16000
    sines = [
        (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        for hertz in (440.0, 261.63, 1000.0)
    ]
    for sine, pitch in zip(sines, (69, 60, 83), strict=True):
        (note,) = model(sine)
        assert note.pitch == pitch
        assert note.start_time == pytest.approx(0.0, abs=0.05)
        assert note.end_time == pytest.approx(5.0, abs=0.1)
