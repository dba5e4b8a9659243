"""The command line as a user meets it."""

import errno
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pretty_midi
import pytest
import soundfile

from mt3 import cli, options, outputs
from mt3.errors import ConfigError
from mt3.outputs import midi as midi_output


@pytest.fixture
def noise(rng):
    return (0.1 * rng.normal(size=3 * 16000)).astype(np.float32)


def transcribe(*arguments, weights):
    return cli.main(
        ["transcribe", *map(str, arguments), "--model", str(weights), "--grammar"]
    )


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom mt3 import cli\n"
        "try: cli.main(['transcribe', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'jax', 'flax', 'soundfile', 'tqdm'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().endswith("[]")


def test_no_command_prints_help(capsys):
    assert cli.main([]) == 2
    assert "transcribe" in capsys.readouterr().out


def test_bad_files_are_named_and_good_ones_done(tiny_weights, noise, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", noise, 16000)
    (tmp_path / "text.wav").write_text("not audio at all\n" * 9)
    (tmp_path / "empty.wav").write_bytes(b"")
    bad = noise.copy()
    bad[20000] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "one_sample.wav", noise[:1], 16000)
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    stereo = np.stack([np.repeat(noise, 3)] * 2, axis=1)
    soundfile.write(tmp_path / "stereo48k.wav", stereo, 48000)
    names = [
        "good",
        "text",
        "missing",
        "empty",
        "nan",
        "one_sample",
        "cut",
        "stereo48k",
    ]
    paths = [tmp_path / f"{name}.wav" for name in names]
    assert transcribe(*paths, "-o", tmp_path / "out", weights=tiny_weights) == 1
    errors = capsys.readouterr().err
    for name in ("text", "missing", "empty", "nan", "cut"):
        lines = [
            line
            for line in errors.splitlines()
            if line.startswith("mt3: error:") and f"{name}.wav" in line
        ]
        assert len(lines) == 1, (name, errors)
    assert "Traceback" not in errors
    assert errors.endswith("mt3: 3 transcribed; 5 errors, which stand above\n")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["good.mid", "one_sample.mid", "stereo48k.mid"]


def test_formats_and_resume(tiny_weights, noise, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    soundfile.write(tmp_path / "b.wav", noise[:20000], 16000)
    out = tmp_path / "out"
    formats = "mid,json,jsonl,csv,png,html,wav"
    run = [tmp_path / "a.wav", "-o", out, "--format", formats]
    assert transcribe(*run, weights=tiny_weights) == 0
    endings = {path.name[1:] for path in out.iterdir()}
    assert endings == {
        ".mid",
        ".json",
        ".jsonl",
        ".csv",
        ".png",
        ".html",
        ".notes.wav",
    }
    record = json.loads((out / "a.json").read_text())
    midi = pretty_midi.PrettyMIDI(str(out / "a.mid"))
    # MIDI cannot hold two notes of one instrument and pitch that start together.
    keys = ("start_time", "pitch", "program", "is_drum")
    distinct = {tuple(note[key] for key in keys) for note in record["notes"]}
    assert sum(len(i.notes) for i in midi.instruments) == len(distinct) > 0
    # A second run does what is missing, and nothing again.
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "a.csv").unlink()
    capsys.readouterr()
    assert transcribe(tmp_path, "-o", out, weights=tiny_weights) == 0
    assert "1 of 2 done already (--overwrite makes" in capsys.readouterr().err
    assert (out / "b.mid").exists()
    more = [tmp_path / "b.wav", "-o", out, "--format", "mid,csv"]
    assert transcribe(*more, weights=tiny_weights) == 0
    assert "b.csv; kept: mid (--overwrite makes all again)" in capsys.readouterr().err
    # Nothing is left to do, but not with a model that is not there.
    assert transcribe(*more, weights=tmp_path / "none") == 1
    assert "none': no such" in capsys.readouterr().err
    for path, stamp in stamps.items():
        if path.exists():
            assert path.stat().st_mtime_ns == stamp
    again = [tmp_path / "a.wav", "-o", out, "--overwrite", "-q"]
    assert transcribe(*again, weights=tiny_weights) == 0
    assert (out / "a.mid").stat().st_mtime_ns > stamps[out / "a.mid"]


def test_a_full_disk_ends_the_run(tiny_weights, noise, tmp_path, monkeypatch, capsys):
    for index in range(5):
        soundfile.write(tmp_path / f"{index}.wav", noise, 16000)
    (tmp_path / "0.wav").write_text("no sound")
    out = tmp_path / "out"
    run = functools.partial(transcribe, tmp_path, "-o", out, weights=tiny_weights)
    write = outputs.write_stream

    def full(result, *arguments):
        if list(out.glob("*.mid")):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(result, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_stream", full)
        assert run() == 1
    messages = capsys.readouterr().err
    assert messages.count(f"{os.strerror(errno.EDQUOT)}; make room and run") == 1
    assert "1 transcribed; 2 errors, which stand above; 2 not done\n" in messages
    assert len(list(out.iterdir())) == 1
    (tmp_path / "0.wav").unlink()
    assert run() == 0
    assert "1 of 4 done already" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 4


FILES = 4
# Runs the command as a terminal does, where SIGINT is not ignored, and stops for long
# when half of the second file is written.
INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from mt3 import cli, outputs
write, calls = outputs.write_stream, []
def stop_within_the_second(result, stream, *options):
    calls.append(result)
    if len(calls) == 2:
        stream.write(b"MThd")
        stream.flush()
        time.sleep(120)
    return write(result, stream, *options)
outputs.write_stream = stop_within_the_second
sys.exit(cli.main())
"""


def test_interrupted_run_resumes(tiny_weights, noise, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index in range(FILES):
        soundfile.write(folder / f"{index}.wav", noise, 16000)
    arguments = ["transcribe", str(folder), "-o", str(out)]
    arguments += ["--model", str(tiny_weights), "--slots", "4"]
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not out.is_dir() or len(list(out.iterdir())) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=60)[1]
    assert process.returncode == 130, messages
    assert "Traceback" not in messages
    first = {path: path.stat().st_mtime_ns for path in out.glob("*")}
    assert len(first) == 1
    assert all(path.suffix == ".mid" for path in first)  # no half-written files
    assert cli.main(arguments) == 0
    assert len(list(out.glob("*.mid"))) == FILES
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())


def test_standard_output(tiny_weights, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    command = [sys.executable, "-m", "mt3.cli", "transcribe", str(tmp_path / "a.wav")]
    command += [
        "--model",
        str(tiny_weights),
        "--grammar",
        "-o",
        "-",
        "--format",
        "jsonl",
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    notes = [json.loads(line) for line in result.stdout.splitlines()]
    assert notes
    assert {"start_time", "pitch", "instrument"} <= notes[0].keys()
    assert not (tmp_path / "a.mid").exists()


def test_wrong_options_are_told_before_the_model_loads(tmp_path, capsys):
    for arguments, message in (
        (["--format", "midi"], "Did you mean mid?"),
        (["--instruments", "pianno"], "Did you mean piano?"),
        (["--tempo", "0"], "tempo in beats per minute is 0.0"),
        (["-o", "-", "--format", "mid,csv"], "standard output"),
    ):
        assert cli.main(["transcribe", "x.wav", *arguments]) == 1
        assert message in capsys.readouterr().err


def test_unwritable_output(tiny_weights, noise, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    (tmp_path / "out").write_text("a file where the folder should be")
    status = transcribe(
        tmp_path / "a.wav", "-o", tmp_path / "out", weights=tiny_weights
    )
    assert status == 1
    errors = capsys.readouterr().err
    assert str(tmp_path / "out") in errors
    assert "Traceback" not in errors


def test_instruments():
    parse = options.parse_instruments
    assert parse("piano") == (tuple(range(8)), False)
    assert parse("Violin, drums,33") == ((33, 40), True)
    assert parse("synth_lead")[0] == tuple(range(80, 88))
    assert parse("drums") == ((), True)
    with pytest.raises(ConfigError, match="empty"):
        parse(" , ")
    for number in ("200", "128", "-1", "²", 5000 * "9"):
        with pytest.raises(ConfigError, match=f"unknown instrument '{number}'"):
            parse(number)


def test_score(tmp_path, capsys):
    example = pathlib.Path(__file__).parent.parent / "examples" / "example.mid"
    assert cli.main(["score", str(example), str(example), "--main"]) == 0
    assert "1.000" in capsys.readouterr().out
    assert cli.main(["score", str(example), str(example), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mean"]["Onset F1"] == 1.0
    assert cli.main(["score", str(example), str(tmp_path / "none.mid")]) == 1
    assert "none.mid" in capsys.readouterr().err


def test_models_lists_the_default(capsys):
    assert cli.main(["models", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["is_default"] for entry in entries].count(True) == 1
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    for entry in entries:
        assert entry["licence"]
        assert entry["sha256"] in text


def test_convert(tiny_weights, tmp_path, capsys):
    target = tmp_path / "copy.safetensors"
    assert cli.main(["models", "--convert", str(tiny_weights), str(target)]) == 0
    assert target.exists()
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(target.read_bytes()[:-50])
    assert cli.main(["models", "--convert", str(corrupt), str(tmp_path / "c")]) == 1
    assert "corrupt.safetensors" in capsys.readouterr().err


def test_synthesize(tmp_path, capsys):
    arguments = ["--random", "1", "--seconds", "2", "-o", str(tmp_path)]
    assert cli.main(["synthesize", *arguments]) == 0
    assert sorted(os.listdir(tmp_path)) == ["random_00000.mid", "random_00000.wav"]
    assert "1 written" in capsys.readouterr().out


def test_a_full_disk_ends_rendering(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(midi_output, "write_midi", full)
    arguments = ["--random", "3", "--seconds", "1", "-o", str(tmp_path)]
    assert cli.main(["synthesize", *arguments]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("make room and run")) == ("", 1)


def test_any_name_of_a_recording(tiny_weights, noise, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "mt3")
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    # Not UTF-8; with what HTML and terminals take for their own; and one that fits the
    # file system, while those of its results do not.
    odd, marked, long = os.fsdecode(b"caf\xe9"), "<b>\x1b[31m\n", "n" * 251
    for name in (odd, marked, long):
        os.link(tmp_path / "a.wav", folder / f"{name}.wav")
    formats = ("mid", "json", "csv", "png", "html", "notes.wav")
    arguments = [folder, "-o", out, "--format", "mid,json,csv,png,html,wav"]
    assert transcribe(*arguments, weights=tiny_weights) == 1
    assert set(os.listdir(out)) == {f"{n}.{f}" for n in (odd, marked) for f in formats}
    record = json.loads((out / f"{odd}.json").read_text("utf-8"))
    assert record["source"].endswith(r"caf\xe9.wav")
    for name, expected in ((odd, r"caf\xe9.wav"), (marked, "&lt;b&gt;")):
        assert expected in (out / f"{name}.html").read_text("utf-8")
    errors = capsys.readouterr().err
    assert rb"caf\xe9.wav: begins" in caplog.text.encode()
    assert r"caf\xe9.wav: " in errors
    assert "\x1b" not in errors
    (line,) = [line for line in errors.splitlines() if "mt3: error" in line]
    assert line.endswith(f"{long}.json: File name too long")
    # And all of that is found again.
    assert transcribe(*arguments, weights=tiny_weights) == 1
    assert "2 of 3 done already" in capsys.readouterr().err


# Paths that cannot be, or that no file can have.
IMPOSSIBLE = {
    "long": ("n" * 300, "File name too long"),
    "null": ("a\0b", "null"),
    "half of a pair": ("\ud800.mid", "surrogates not allowed"),
}
WITH_PATHS = (
    ("score", "PATH", "PATH"),
    ("models", "--convert", "PATH", "OUT"),
    ("models", "--convert", "default", "PATH"),
    ("synthesize", "PATH", "-o", "OUT"),
    ("synthesize", "--random", "1", "--seconds", "1", "-o", "PATH"),
    ("synthesize", "--random", "1", "-o", "OUT", "--soundfont", "PATH"),
    ("transcribe", "PATH", "-o", "OUT"),
    ("transcribe", "EXAMPLE", "-o", "PATH"),
    ("transcribe", "EXAMPLE", "-o", "OUT", "--model", "PATH"),
    ("train", "--gin_file", "PATH"),
)


@pytest.mark.parametrize("arguments", WITH_PATHS, ids=" ".join)
def test_impossible_paths(arguments, tmp_path, repository, capsys):
    fixed = {
        "OUT": str(tmp_path / "out"),
        "EXAMPLE": str(repository / "examples" / "example.flac"),
    }
    for path, reason in IMPOSSIBLE.values():
        values = {**fixed, "PATH": path}
        assert cli.main([values.get(a, a) for a in arguments]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(("mt3: error: ", "mt3 train: "))
        assert reason in line or "no such" in line, line


@pytest.mark.parametrize(
    "arguments",
    [
        ("transcribe", "", "-o", "out"),
        ("score", "a.mid", ""),
        ("synthesize", "--random", "1", "--output="),
        ("prepare", "folder", ""),
        ("train", "--gin_file", ""),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_argument_is_an_error(arguments, capsys):
    """It would name the folder that the shell is in."""
    assert cli.main(arguments) == 1
    assert "empty argument after" in capsys.readouterr().err


def test_a_missing_input_costs_only_itself(tmp_path, repository, capsys, monkeypatch):
    example = str(repository / "examples" / "example.mid")
    # The tests may run as root, from whom nothing is kept.
    stat = os.stat

    def denied(path, **options):
        if str(path) == "locked.mid":
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", denied)
    inputs = [str(tmp_path / "none.mid"), "locked.mid", example]
    assert cli.main(["synthesize", *inputs, "-o", str(tmp_path)]) == 1
    assert (tmp_path / "example.wav").exists()
    errors = [s for s in capsys.readouterr().err.splitlines() if "mt3: error" in s]
    assert len(errors) == 2
    assert errors[1] == "mt3: error: locked.mid: Permission denied"


def test_options_stand_anywhere(tmp_path, capsys):
    assert cli.main(["transcribe", "a.wav", "-o", str(tmp_path), "b.wav"]) == 1
    errors = capsys.readouterr().err
    assert "a.wav: " in errors
    assert "b.wav: " in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcibe", "a.wav"], "Did you mean transcribe?"),
        (["transcribe", "a.wav", "--formt", "mid"], "Did you mean --format?"),
        (["transcribe", "a.wav", "--device", "cup"], "Did you mean cpu?"),
        (["transcribe"], "required: FILE|FOLDER"),
        (["--versoin"], "Did you mean --version"),
        (["prepare", "maestr", "x"], "Did you mean maestro?"),
        (["prepare", "maestro", "x", "--shrads", "3"], "Did you mean --shards?"),
        (["train", "--gin_file", "x.gin", "--inti", "y"], "Did you mean --init"),
        (["doctor", "--quantum"], "unrecognized arguments: --quantum"),
        ([__file__], f"mt3 transcribe {__file__} transcribes a recording"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_told_in_two_lines(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert second.startswith("mt3 ")
    assert second.endswith("--help tells what is expected")


def test_addresses_are_not_downloaded(noise, tiny_weights, tmp_path, capsys):
    address = "https://example.com/song.mp3?id=1"
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    run = [address, tmp_path / "a.wav", "-o", tmp_path / "out"]
    assert transcribe(*run, weights=tiny_weights) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith(f"mt3: error: {address}: an address")
    assert f"curl -LO {address}" in error
    assert (tmp_path / "out" / "a.mid").exists()
    one_file = str(tmp_path / "out" / "b.mid")
    assert cli.main(["transcribe", address, "-o", one_file]) == 1
    assert f"mt3: error: {address}: an address" in capsys.readouterr().err


def test_a_folder_that_ends_like_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("song.txt", "song.mp3", "a/song.gp5"):
        assert cli.main(["transcribe", "none.wav", "-o", name]) == 1
        assert f"-o {name}: ends like a file" in capsys.readouterr().err
        assert not pathlib.Path(name).exists()
    pathlib.Path("old.txt").mkdir()
    for name in ("song.txt/", "old.txt", "songs.v2", "2024.11"):
        assert cli.main(["transcribe", "none.wav", "-o", name]) == 1
        assert "none.wav: reading audio: no such file" in capsys.readouterr().err


def test_a_failure_is_named_once(tmp_path, capsys):
    run = ["synthesize", str(tmp_path / "none.mid"), "-o", str(tmp_path / "out")]
    assert cli.main(run) == 1
    printed = capsys.readouterr()
    assert printed.err.count("none.mid") == 1
    assert "none.mid" not in printed.out
