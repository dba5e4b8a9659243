"""Scoring of MIDI files and folders."""

from __future__ import annotations

import json

import pytest

from mt3.errors import ConfigError, MidiError
from mt3.note_sequences import Note
from mt3.outputs import Transcription, write
from mt3.scoring import files

NOTES = [
    Note(0.0, 1.0, 60, 100, 0),
    Note(0.5, 1.5, 64, 90, 33),
    Note(1.0, 1.1, 38, 100, 0, True),
]


def midi(stem, notes=NOTES):
    return write(Transcription(notes), stem, ["mid"])[0].path


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
    table = files.format_table(report)
    assert "3 songs not scored" in table
    assert "extra.mid: no partner" in table


def test_json_is_strict_and_complete(tmp_path):
    truth = midi(tmp_path / "truth", NOTES[:1])
    report = files.score_files(truth, truth, metrics=["*F1 (full)"])
    record = json.loads(report.to_json())
    assert record["mean"]["Drum onset F1 (full)"] is None
    assert record["songs"][0]["scores"]["Onset + offset + program F1 (full)"] == 1.0
    assert record["settings"] == {"apply_sustain": True}


def test_metrics_are_filtered_by_name_and_pattern(tmp_path):
    truth = midi(tmp_path / "truth")
    report = files.score_files(truth, truth, metrics=["frame f1", "Onset F?"])
    assert list(report.mean) == ["Onset F1", "Frame F1"]
    with pytest.raises(ConfigError, match="Did you mean Onset F1"):
        files.score_files(truth, truth, metrics=["Onset F2"])


def test_tables_are_aligned(tmp_path):
    truth = midi(tmp_path / "truth", NOTES[:2])
    report = files.score_files(truth, truth)
    lines = files.format_table(report).splitlines()
    rows = lines[: len(report.mean) + 2]
    assert len({len(row) for row in rows}) == 1
    assert any(row.startswith("Drum onset F1") and row.endswith(" -") for row in rows)
    assert lines[-1] == "1 song, 2 notes in the reference, 2 in the estimate"
    short = files.format_short_table(report.mean)
    assert len(short.splitlines()) == 2 + 5


def test_many_songs_show_the_mean_first(tmp_path):
    for number in range(9):
        midi(tmp_path / "truth" / f"a song with a long name {number}")
    report = files.score_files(tmp_path / "truth", tmp_path / "truth")
    table = files.format_table(report)
    assert table.splitlines()[0].split()[:2] == ["metric", "mean"]
    assert "3 more songs" in table


def test_impossible_pairs_are_refused(tmp_path):
    truth = midi(tmp_path / "truth")
    with pytest.raises(MidiError, match="no such file"):
        files.score_files(truth, tmp_path / "nowhere.mid")
    with pytest.raises(MidiError, match="is a folder but"):
        files.score_files(tmp_path, truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MidiError, match="no MIDI files"):
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
    record = json.loads(report.to_json())
    assert record["micro"]["Onset F1"] == pytest.approx(2 / 3)
    assert record["classes"]["Piano"]["reference"] == 2
    assert record["classes"]["Bass"]["onset_f1"] == 0.0
    table = files.format_table(report)
    assert table.splitlines()[0].split()[:3] == ["metric", "mean", "micro"]
    rows = [line.split() for line in table.splitlines()]
    assert ["Strings", "0", "0", "1", "0.0000", "0.0000"] in rows
    assert "class " not in files.format_table(report, classes=False)


def test_chosen_metrics_choose_their_sums_too(tmp_path):
    for name in ("a", "b"):
        midi(tmp_path / "truth" / name)
    report = files.score_files(
        tmp_path / "truth", tmp_path / "truth", metrics=["Onset F1", "*leakage*"]
    )
    assert list(report.micro) == ["Onset F1"]
    assert len(report.mean) == 3
