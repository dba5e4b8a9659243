"""Monophonic clips: which are kept, what notes they get, and that tasks read them."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from mt3 import cli, datasets, tasks
from mt3.audio import reading
from mt3.data import adapters, records, tfrecords
from mt3.errors import ConfigError, DataError
from mt3.prepare import monophonic, pitch_trackers
from mt3.prepare.items import Settings
from mt3.prepare.monophonic import Monophonic, Rules, judge, program_of
from tests.support import drawn
from tests.support import lookalike_archives as archives

RATE = 22050
# Onset, offset, pitch: a line with a leap, a rest and a note that is held to the end.
LINE = ((0.0, 0.8, 57), (0.8, 1.6, 61), (2.0, 3.1, 69), (3.1, 5.0, 64))
CHORD = tuple((0.0, 5.0, pitch) for pitch in (57, 61, 64))


def tones(notes, seconds=5.0):
    """Renders notes with eight harmonics each, float32 [samples]."""
    audio = np.zeros(round(seconds * RATE), np.float32)
    for onset, offset, pitch in notes:
        first, last = round(onset * RATE), min(len(audio), round(offset * RATE))
        time = np.arange(last - first) / RATE
        fade = np.minimum(1, time / 0.01) * np.minimum(1, time[::-1] / 0.01)
        for harmonic in range(1, 9):
            phase = 2 * np.pi * harmonic * 440 * 2 ** ((pitch - 69) / 12) * time
            audio[first:last] += 0.1 / harmonic * fade * np.sin(phase)
    return audio


def run(*arguments):
    return cli.main(["prepare", "monophonic", *map(str, arguments)])


def report(root):
    path = root / "datasets" / "monophonic" / "prepare-report.json"
    return json.loads(path.read_text())


def decisions(root):
    """What was decided on every clip, by recording."""
    return {
        song: {row["seconds"]: row["decision"] for row in rows}
        for split in report(root)["splits"].values()
        for song, rows in split["remarks"].items()
    }


def stored(root, split="train"):
    """The records of a split as the pipeline hands them over."""
    config = datasets.MONOPHONIC_CONFIG
    found = []
    for path in datasets.files(config, split, str(root)):
        for span in tfrecords.scan(path):
            payload = tfrecords.read_payload(path, span)
            parsed = records.parse(payload, config.features, path)
            found.append({key: value.numpy() for key, value in parsed.items()})
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root, made with the default tracker."""
    source = tmp_path_factory.mktemp("recordings")
    archives.write_audio(source / "Violin/take 1/a.flac", tones(LINE, 5.5), RATE)
    archives.write_audio(source / "Flute/chord.wav", tones(CHORD), RATE)
    root = tmp_path_factory.mktemp("root")
    arguments = ("-q", "--program", "folder", "--validation", 0)
    assert run(source, "-o", root, *arguments) == 0
    return root


def test_one_line_of_notes_is_kept_and_a_chord_is_not(root):
    assert decisions(root) == {
        "Violin/take 1/a.flac": {0.0: "kept", 5.0: "shorter than 5 s"},
        "Flute/chord.wav": {0.0: "not sure"},
    }
    (skipped,) = [row for s in report(root)["splits"].values() for row in s["skipped"]]
    assert skipped["kind"] == "left out"
    assert "none of its clips: 1 not sure" in skipped["reason"]


def test_the_notes_are_those_that_were_played(root):
    (record,) = stored(root)
    assert (record["offset"], record["sampling_rate"]) == (0, 16000.0)
    assert record["audio"].shape == (80000,)
    song = adapters.clip(record, sample_rate=16000, training=True)
    assert song.id == "Violin/take 1/a.flac 0"
    notes = sorted(song.notes)
    assert [(n.pitch, n.velocity, n.program) for n in notes] == [
        (pitch, 100, 40) for _, _, pitch in LINE
    ]
    times = np.array([(n.start_time, n.end_time) for n in notes])
    np.testing.assert_allclose(times, np.array(LINE)[:, :2], atol=0.05)


@pytest.mark.slow
def test_pretraining_mixes_the_clips(root, tmp_path):
    """Two steps of gin/ismir2022/pretrain.gin, with a tiny network."""
    from mt3.engine import launch

    names = ("ismir2022/pretrain.gin", "model.gin", "train.gin", "local_tiny.gin")
    bindings = (
        f"DATA_DIR='{root}'",
        f"MODEL_DIR='{tmp_path}'",
        "TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 64}",
        "TRAIN_STEPS=2",
        "BATCH_SIZE=2",
        "tasks.register.shuffle_buffer_size=4",
        # One layer of each kind is compiled in half the time of two.
        "network.T5Config.num_encoder_layers=1",
        "network.T5Config.num_decoder_layers=1",
        "train.train_eval_dataset_cfg=None",
        "train.infer_eval_dataset_cfg=None",
    )
    with drawn.first_parameters():
        step, _ = launch.run(
            [
                *(f"--gin_file=gin/{name}" for name in names),
                *(f"--gin.{binding}" for binding in bindings),
            ]
        )
    assert step == 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss_per_token"] for line in lines]
    assert losses
    assert np.isfinite(losses).all()


def test_the_task_is_registered_where_there_is_a_data_root(tmp_path):
    assert "monophonic_notes_ties_vb1_train" in tasks.register(tmp_path).names
    assert "monophonic_notes_ties_vb1_train" not in tasks.register().names


# ------------------------------------------------- with a tracker that costs nothing


@pytest.fixture
def tracked(monkeypatch):
    """Puts a tracker of sines in pYIN's place; returns the clips that it was given."""
    seen = []

    def tracker(samples):
        seen.append(samples)
        padded = np.pad(samples, 512)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[:-1:160]
        power = np.abs(np.fft.rfft(frames * np.hanning(1024), 4096)) ** 2
        peak = power.argmax(axis=1)
        near = np.abs(np.arange(2049) - peak[:, None]) <= 8
        share = (power * near).sum(axis=1) / (power.sum(axis=1) + 1e-9)
        return peak * 16000 / 4096, np.where(share > 0.9, 0.99, 0.1)

    monkeypatch.setitem(pitch_trackers.TRACKERS, "pyin", tracker)
    return seen


def sines(*pitches):
    """A clip in which each pitch sounds alike long, at 16 kHz."""
    length = 5.0 / len(pitches)
    notes = [(i * length, (i + 1) * length, p) for i, p in enumerate(pitches)]
    return archives.sines(notes, 5.0, 16000)


def test_why_clips_are_left_out(tracked):
    assert [n.pitch for n in judge(sines(60, 64), program=7).notes] == [60, 64]
    found = judge(sines(60, 64))
    assert (found.reason, found.sure_frames > 0.9) == ("", True)
    assert judge(sines(60) + sines(64)).reason == "not sure"
    assert judge(np.zeros(80000, np.float32)).reason == "not sure"
    # A third of the frames are sure.
    third = np.concatenate([sines(60)[:27000], np.zeros(53000, np.float32)])
    assert judge(third, Rules(log_likelihood=-9)).reason == ""
    assert judge(third, Rules(sure_frames=0.4, log_likelihood=-9)).reason == "not sure"
    assert judge(third, Rules(log_likelihood=9)).reason == "not likely"
    assert judge(third, Rules(confidence=0.995)).reason == "not sure"
    none = Rules(confidence=0, log_likelihood=-9)
    assert judge(np.zeros(80000, np.float32), none).reason == "no notes"


def test_clips_of_a_long_recording(tmp_path, tracked, capsys):
    """Those that are kept, and where; in the summary, too."""
    source = tmp_path / "in"
    chord = sines(60) + sines(65)
    samples = np.concatenate([sines(60, 62), chord, sines(71), sines(60)[:100]])
    archives.write_audio(source / "long.wav", samples, 16000)
    root = tmp_path / "root"
    assert run(source, "-o", root, "-q", "--validation", 0) == 0
    found = stored(root)
    assert [record["offset"] for record in found] == [0, 160000]
    heard = reading.read_audio(source / "long.wav")
    np.testing.assert_array_equal(found[1]["audio"], heard[160000:240000])
    assert list(decisions(root)["long.wav"].values()) == [
        "kept",
        "not sure",
        "kept",
        "shorter than 5 s",
    ]
    printed = capsys.readouterr().out
    assert "4 parts of songs: 2 kept, 1 not sure, 1 shorter than 5 s" in printed


def test_a_single_recording_is_for_training(tmp_path, tracked, capsys):
    """Whatever its name's hash; splits without records are named."""
    for number in range(9):
        source = tmp_path / f"in{number}"
        archives.write_audio(source / f"{number * number}.wav", sines(60), 16000)
        splits = Monophonic.open(source, Settings(), validation=0.9).listing().splits
        assert {split: len(found) for split, found in splits.items()} == {
            "train": 1,
            "validation": 0,
        }
    assert run(source, "-o", tmp_path / "one", "-q", "--validation", 0.9) == 0
    assert len(stored(tmp_path / "one")) == 1
    printed = capsys.readouterr().out
    assert "split 'validation' has no songs\n" in printed
    assert "warning" not in printed
    archives.write_audio(source / "64.wav", sines(60) + sines(65), 16000)
    assert run(source, "-o", tmp_path / "none", "-q") == 0
    assert "warning: no record was made for split 'train'\n" in capsys.readouterr().out


def test_unreadable_recordings_are_reported(tmp_path, tracked, capsys):
    source = tmp_path / "in"
    archives.write_audio(source / "good.wav", sines(60), 16000)
    (source / "bad.wav").write_bytes(b"no sound")
    assert run(source, "-o", tmp_path, "-q", "--validation", 0) == 1
    printed = capsys.readouterr().out
    assert "error: bad.wav: " in printed
    assert decisions(tmp_path) == {"good.wav": {0.0: "kept"}}
    assert len(stored(tmp_path)) == 1


def test_an_interrupted_run_goes_on(tmp_path, tracked, monkeypatch):
    source = tmp_path / "in"
    for number in range(4):
        archives.write_audio(source / f"{number}.wav", sines(60 + number), 16000)
    arguments = (source, "-o", tmp_path, "-q", "--validation", 0, "--shards", 4)
    tracker = pitch_trackers.TRACKERS["pyin"]

    def interrupted(samples):
        if len(tracked) == 2:
            raise KeyboardInterrupt
        return tracker(samples)

    with monkeypatch.context() as patch:
        patch.setitem(pitch_trackers.TRACKERS, "pyin", interrupted)
        assert run(*arguments) == 130
    folder = tmp_path / "datasets" / "monophonic"
    assert len(list(folder.glob("*tfrecord*"))) == 2
    # Not taken for whole: there is no manifest yet, and shards are missing.
    with pytest.raises(DataError, match="2 of 4 shards are missing"):
        stored(tmp_path)
    assert run(*arguments) == 0
    assert len(tracked) == 4
    names = {record["filename"].decode() for record in stored(tmp_path)}
    assert names == {"0.wav", "1.wav", "2.wav", "3.wav"}
    assert run(*arguments) == 0
    assert len(tracked) == 4
    # Other rules make other records: never mixed with those that are there.
    assert run(*arguments, "--sure-frames", 0.5) == 1


def test_the_script_is_the_command(tmp_path, tracked, repository, capsys):
    path = repository / "scripts" / "extract_monophonic_examples.py"
    spec = importlib.util.spec_from_file_location("extract", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    archives.write_audio(tmp_path / "in/a.wav", sines(60), 16000)
    arguments = [str(tmp_path / "in"), "-o", str(tmp_path)]
    assert script.main([*arguments, "-q", "--program", "Oboe", "--validation=0"]) == 0
    (record,) = stored(tmp_path)
    song = adapters.clip(record, sample_rate=16000, training=True)
    assert [(n.pitch, n.program) for n in song.notes] == [(60, 68)]
    assert script.main(["/nowhere", "-o", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "extract_monophonic_examples: error: /nowhere: expected a folder" in error


def test_programs_by_name():
    assert program_of("40") == program_of("violin") == program_of("Violin") == 40
    assert program_of("acoustic_grand-piano") == 0
    assert program_of("127") == 127
    assert program_of("128") is program_of("violins") is program_of("") is None
    assert program_of(5000 * "9") is None


def test_recordings_without_a_program_are_reported(tmp_path, tracked):
    for name in ("cello/a.wav", "others/b.wav", "c.wav"):
        archives.write_audio(tmp_path / name, sines(60), 16000)
    archive = Monophonic.open(tmp_path, Settings(), program="folder", validation=0)
    found = archive.listing()
    (item,) = found.splits["train"]
    assert (item.id, item.data["program"]) == ("cello/a.wav", 42)
    assert [problem.id for problem in found.problems] == ["c.wav", "others/b.wav"]
    assert "no folder above it is named as a program" in found.problems[0].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracker": "crepe"}, "tracker is 'crepe'; expected 'pyin' or 'praat'"),
        ({"confidence": 1.5}, "confidence"),
        ({"program": "Voilin"}, "program 'Voilin'.*Did you mean Violin"),
        ({"program": "128"}, "program '128'; expected 0 to 127"),
        ({"validation": 1.0}, "shares of 1 and 0"),
        ({"settings": Settings(sample_rate=8000)}, "8000 Hz.*16000"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    arguments = {"settings": Settings(), **options}
    with pytest.raises(ConfigError, match=message):
        Monophonic.open(tmp_path, **arguments)


def test_folders_without_recordings(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="looked for recordings.*found notes.txt"):
        Monophonic.open(tmp_path, Settings()).listing()


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(ConfigError, match="package praat-parselmouth .pip install"):
        Monophonic.open(tmp_path, Settings(), tracker="praat")


def test_praats_frames_are_put_in_their_places(monkeypatch):
    """Its first one is where a whole window fits, here at 47 ms."""
    frames = np.zeros(490, [("frequency", float), ("strength", float)])
    frames["frequency"] = 440 * 2.0 ** (np.arange(490) / 120)
    frames["strength"] = 0.9
    frames["frequency"][10] = frames["strength"][10] = 0.0
    found = types.SimpleNamespace(x1=0.047, n_frames=490, selected_array=frames)

    class Sound:
        def __init__(self, samples, rate):
            assert (samples.shape, rate) == ((80000,), 16000)

        def to_pitch_ac(self, time_step, **unused):
            assert time_step == 0.01
            return found

    module = types.SimpleNamespace(Sound=Sound)
    monkeypatch.setitem(sys.modules, "parselmouth", module)
    samples = np.zeros(80000, np.float32)
    pitches, confidences = pitch_trackers.track(samples, "praat")
    assert pitches.shape == confidences.shape == (500,)
    # Frame 5, at 50 ms, is nearest to Praat's first one.
    place = np.clip(np.arange(500) - 5, 0, 489)
    expected = np.where(place == 10, np.nan, 69 + place / 10)
    np.testing.assert_allclose(pitches, expected)
    assert (confidences[15], np.count_nonzero(confidences)) == (0, 499)


def test_clip_length_is_whole_frames():
    assert monophonic.CLIP_SAMPLES == 500 * 160
