"""Scoring of MIDI files and folders."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from mt3 import cli
from mt3.errors import ConfigError, MidiError
from mt3.note_sequences import Note
from mt3.scoring import files, instruments, tables
from tests.support.midi_files import mutated, off, on, tempo, write_midi
from tests.support.note_files import write_notes

NOTES = [
    Note(0.0, 1.0, 60, 100, 0),
    Note(0.5, 1.5, 64, 90, 33),
    Note(1.0, 1.1, 38, 100, 0, True),
]


def midi(stem, notes=NOTES, format="mid"):
    return write_notes(stem, notes, format)


def test_a_pair_of_files(tmp_path):
    truth, found = midi(tmp_path / "truth"), midi(tmp_path / "found", NOTES[:2])
    report = files.score_files(truth, found)
    assert report.exit_code == 0
    (song,) = report.songs
    assert (song.num_reference_notes, song.num_estimated_notes) == (3, 2)
    assert song.scores["Onset F1"] == 1.0
    assert song.scores["Drum onset F1 (full)"] == 0.0
    assert report.mean == song.scores


def test_folders_are_paired_by_stem_and_the_rest_is_named(tmp_path):
    for name in ("a", "b/c", "lost"):
        midi(tmp_path / "truth" / name)
    for name in ("a", "b/c", "extra", "broken"):
        midi(tmp_path / "found" / name)
    midi(tmp_path / "truth" / "broken").write_bytes(b"MThd nonsense")
    (tmp_path / "found" / "a.mid").rename(tmp_path / "found" / "a.MIDI")
    report = files.score_files(tmp_path / "truth", tmp_path / "found")
    assert [song.name for song in report.songs] == ["a", "b/c"]
    assert set(report.failures) == {"lost", "extra", "broken"}
    assert "found no lost" in report.failures["lost"]
    assert "broken.mid" in report.failures["broken"]
    assert report.exit_code == 1
    assert "extra.mid: no partner" in report.failures["extra"]
    # Errors go to standard error, and the table says how many there are.
    assert tables.format_table(report).splitlines()[-1] == "3 songs not scored"


def test_json_is_strict_and_complete(tmp_path):
    truth = midi(tmp_path / "truth", NOTES[:1])
    report = files.score_files(truth, truth, metrics=["*F1 (full)"])
    record = json.loads(tables.to_json(report))
    assert record["mean"]["Drum onset F1 (full)"] is None
    assert record["songs"][0]["scores"]["Onset + offset + program F1 (full)"] == 1.0
    settings = record["settings"]
    assert settings["convention"] == "default"
    assert (settings["onset_tolerance"], settings["frames_per_second"]) == (0.05, 62.5)
    assert settings["versions"].keys() == {"mt3", "mir_eval", "numpy"}
    hash = hashlib.sha256(truth.read_bytes()).hexdigest()
    assert record["songs"][0]["reference_sha256"] == hash


def test_metrics_are_filtered_by_name_and_pattern(tmp_path):
    truth = midi(tmp_path / "truth")
    report = files.score_files(truth, truth, metrics=["frame f1", "Onset F?"])
    assert list(report.mean) == ["Onset F1", "Frame F1"]
    with pytest.raises(ConfigError, match="Did you mean Onset F1"):
        files.score_files(truth, truth, metrics=["Onset F2"])


def test_tables_are_aligned(tmp_path):
    truth = midi(tmp_path / "truth", NOTES[:2])
    report = files.score_files(truth, truth)
    lines = tables.format_table(report).splitlines()
    rows = lines[: len(report.mean) + 2]
    assert len({len(row) for row in rows}) == 1
    assert any(row.startswith("Drum onset F1") and row.endswith(" -") for row in rows)
    assert lines[-1] == "1 song, 2 notes in the reference, 2 in the estimate"
    short = tables.format_short_table(report)
    assert len(short.splitlines()) == 2 + 5
    assert short.endswith("\n")
    assert tables.format_short_table(report.of_songs([])) == ""


def test_many_songs_show_the_mean_first(tmp_path):
    for number in range(9):
        midi(tmp_path / "truth" / f"a song with a long name {number}")
    report = files.score_files(tmp_path / "truth", tmp_path / "truth")
    table = tables.format_table(report)
    assert table.splitlines()[0].split()[:2] == ["metric", "mean"]
    assert "3 more songs" in table


def test_impossible_pairs_are_refused(tmp_path):
    truth = midi(tmp_path / "truth")
    with pytest.raises(MidiError, match="No such file"):
        files.score_files(truth, tmp_path / "nowhere.mid")
    with pytest.raises(MidiError, match="is a folder but"):
        files.score_files(tmp_path, truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MidiError, match="no files of notes"):
        files.score_files(tmp_path / "empty", tmp_path / "empty")


def test_instruments_and_sums_over_songs(tmp_path):
    midi(tmp_path / "truth" / "long", NOTES)
    midi(tmp_path / "found" / "long", [*NOTES[:1], Note(3, 4, 70, 90, 40)])
    midi(tmp_path / "truth" / "short", NOTES[:1])
    midi(tmp_path / "found" / "short", NOTES[:1])
    report = files.score_files(tmp_path / "truth", tmp_path / "found")
    assert report.songs[0].scores["Instrument leakage (full)"] == pytest.approx(2 / 3)
    assert report.mean["Onset F1"] == 0.75
    assert report.micro["Onset F1"] == pytest.approx(2 / 3)
    assert report.micro["Instrument detection recall (full)"] == 2 / 4
    record = json.loads(tables.to_json(report))
    assert record["micro"]["Onset F1"] == pytest.approx(2 / 3)
    assert record["classes"]["Piano"]["reference"] == 2
    assert record["classes"]["Bass"]["onset_f1"] == 0.0
    table = tables.format_table(report)
    assert table.splitlines()[0].split()[:3] == ["metric", "mean", "micro"]
    rows = [line.split() for line in table.splitlines()]
    assert ["Strings", "0", "0", "1", "0.0000", "0.0000"] in rows
    assert "class " not in tables.format_table(report, classes=False)


def test_chosen_metrics_choose_their_sums_too(tmp_path):
    for name in ("a", "b"):
        midi(tmp_path / "truth" / name)
    report = files.score_files(
        tmp_path / "truth", tmp_path / "truth", metrics=["Onset F1", "*leakage*"]
    )
    assert list(report.micro) == ["Onset F1"]
    assert len(report.mean) == 3


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_tables_of_notes_are_scored_like_midi(tmp_path, format):
    truth, found = midi(tmp_path / "truth"), midi(tmp_path / "found", NOTES[:2])
    want = files.score_files(truth, found)
    table = midi(tmp_path / "found", NOTES[:2], format)
    assert files.score_files(truth, table).mean == want.mean
    reverse = files.score_files(table, truth).mean
    assert reverse["Onset precision"] == want.mean["Onset recall"]


def test_folders_pair_names_across_kinds_and_midi_comes_first(tmp_path):
    truth, found = tmp_path / "truth", tmp_path / "found"
    for name in ("a", "b", "c"):
        midi(truth / name)
    midi(found / "a", NOTES, "json")
    for format in ("csv", "jsonl", "json"):
        midi(found / "b", NOTES[:1], format)
    midi(found / "b", NOTES)
    midi(found / "c", NOTES[:1], "csv")
    midi(found / "c", NOTES, "jsonl")
    # A data set's own lists, and what macOS puts beside files.
    (truth / "list.json").write_text('{"songs": []}')
    (truth / "list.csv").write_text("title,split\n")
    (truth / "._a.mid").write_bytes(b"resource fork")
    report = files.score_files(truth, found)
    assert report.failures == {}
    names = [song.estimate.name for song in report.songs]
    assert names == ["a.json", "b.mid", "c.jsonl"]
    assert {song.scores["Onset F1"] for song in report.songs} == {1.0}


def test_two_midi_files_of_one_name_are_named(tmp_path):
    midi(tmp_path / "truth" / "a")
    midi(tmp_path / "found" / "a").with_suffix(".midi").write_bytes(b"")
    report = files.score_files(tmp_path / "truth", tmp_path / "found")
    assert "a.midi: same name as" in report.failures["a"]


def test_a_song_too_long_costs_itself_alone(tmp_path, capsys):
    for name in ("a", "b"):
        midi(tmp_path / "truth" / name)
    midi(tmp_path / "found" / "a")
    write_midi(
        tmp_path / "found" / "b.mid",
        [tempo(0, 0xFFFFFF), on(0x0FFFFFFF, 60), off(24, 60)],
        ticks_per_beat=24,
    )
    report = files.score_files(tmp_path / "truth", tmp_path / "found")
    assert [song.name for song in report.songs] == ["a"]
    message = "b.mid: the last note ends after 52,125 hours; expected at most 24"
    assert message in report.failures["b"]
    sides = [str(tmp_path / side) for side in ("truth", "found")]
    assert cli.main(["score", "--main", *sides]) == 1
    printed = capsys.readouterr()
    assert "Onset F1" in printed.out
    assert message in printed.err


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), MidiError("odd")])
def test_whatever_a_song_fails_of_costs_itself_alone(tmp_path, monkeypatch, error):
    for name in ("a", "b", "c"):
        midi(tmp_path / name, NOTES[: 1 + (name == "b")])
    count = instruments.count_instruments

    def failing(reference, estimate):
        if len(reference) == 2:
            raise error
        return count(reference, estimate)

    monkeypatch.setattr(instruments, "count_instruments", failing)
    report = files.score_files(tmp_path, tmp_path)
    assert [song.name for song in report.songs] == ["a", "c"]
    assert str(tmp_path / "b.mid") in report.failures["b"]
    assert report.exit_code == 1


def test_what_was_passed_over_in_files_is_reported(tmp_path, capsys):
    path = midi(tmp_path / "a")
    data = bytearray(path.read_bytes())
    data[11] += 1  # A track more than there are.
    path.write_bytes(data)
    report = files.score_files(path, path)
    line = f"{path}: only 4 of 5 tracks are there"
    assert report.warnings == (line, line)
    assert cli.main(["score", "--main", str(path), str(path)]) == 0
    assert capsys.readouterr().err == f"mt3: warning: {line}\n" * 2
    assert json.loads(tables.to_json(report))["warnings"] == [line, line]
    assert report.exit_code == 0


def test_a_folder_that_cannot_be_entered_is_named(tmp_path, monkeypatch):
    midi(tmp_path / "a")
    lock = f"{tmp_path}/locked: cannot enter this folder: Permission denied"
    search = files.files.search
    monkeypatch.setattr(
        files.files,
        "search",
        lambda *args: search(*args)._replace(problems=[lock]),
    )
    report = files.score_files(tmp_path, tmp_path)
    assert report.failures == {str(tmp_path): lock}
    assert len(report.songs) == 1


def test_a_folder_of_damaged_files_loses_none(tmp_path):
    sound = midi(tmp_path / "sound").read_bytes()
    draw = random.Random(1)
    for number in range(60):
        for side in ("truth", "found"):
            path = tmp_path / side / f"{number}.mid"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sound if side == "truth" else mutated(sound, draw))
    report = files.score_files(tmp_path / "truth", tmp_path / "found")
    names = [song.name for song in report.songs]
    assert len(report.songs) > 5
    assert len(report.failures) > 10
    assert sorted([*names, *report.failures]) == sorted(map(str, range(60)))
    for name, message in report.failures.items():
        assert f"{name}.mid: " in message
