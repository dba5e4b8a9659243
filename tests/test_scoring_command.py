"""What `mt3 score` writes, and which part of songs it scores."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mt3 import cli
from mt3.note_sequences import Note, notes_to_array
from mt3.outputs.pianoroll import WIDTH
from mt3.scoring import picture
from tests.support.note_files import write_notes

REFERENCE = [
    Note(0.0, 0.9, 60),
    Note(1.0, 3.0, 64),
    Note(2.0, 2.9, 67, program=40),
    Note(2.0, 2.1, 38, is_drum=True),
]
ESTIMATE = [
    Note(0.02, 0.9, 60, program=24),
    Note(2.5, 2.9, 72),
    Note(2.0, 2.1, 38, is_drum=True),
]


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_notes(f"truth/{name}", REFERENCE)
        write_notes(f"found/{name}", ESTIMATE)
        write_notes(f"other/{name}", REFERENCE)
    return tmp_path


def score(capsys, *line):
    code = cli.main(["score", *line])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_csv_with_settings_beside_it(at, capsys):
    code, out, err = score(capsys, "truth", "found", "-o", "new/scores.csv")
    assert code == 0
    assert "Onset F1" in out
    assert err.splitlines() == [
        "mt3: wrote new/scores.csv",
        "mt3: wrote new/scores.settings.json",
    ]
    table = (at / "new" / "scores.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["row"], row["song"]) for row in rows] == [
        ("song", "a"),
        ("song", "b"),
        ("mean", ""),
        ("micro", ""),
    ]
    assert {float(row["Onset recall"]) for row in rows} == {1 / 3}
    assert {row["system"] for row in rows} == {"found"}
    assert rows[0]["reference notes"] == "4"
    record = json.loads((at / "new" / "scores.settings.json").read_text())
    assert record["settings"]["onset_tolerance"] == 0.05
    assert record["settings"]["reference"] == "truth"
    assert [song["name"] for song in record["songs"]] == ["a", "b"]
    assert len(record["songs"][0]["estimate_sha256"]) == 64


def test_a_picture_of_a_pair(at, capsys):
    line = ["truth/a.mid", "found/a.mid", "-o", "notes.png", "--main"]
    code, _, err = score(capsys, *line)
    assert code == 0
    assert "mt3: wrote notes.settings.json" in err
    image = PIL.Image.open("notes.png")
    assert image.width == WIDTH
    colours = {colour: count for count, colour in image.convert("RGB").getcolors(4096)}
    for name, colour in picture._COLOURS.items():
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        # In the legend and in the notes.
        assert colours.get(rgb, 0) > 50, name


def test_another_convention_is_named_in_the_table(at, capsys):
    for line in ([], ["--main"], ["--compare", "other"]):
        _, out, _ = score(capsys, "truth", "found", *line, "--convention", "mr-mt3")
        assert out.splitlines()[-1] == "counted by the convention mr-mt3"
        assert "class " not in out
        assert "Onset F1 (with drums)" in out


def test_colours_differ_in_brightness():
    def brightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    levels = sorted(map(brightness, picture._COLOURS.values()))
    contrasts = np.divide(np.add(levels[1:], 0.05), np.add(levels[:-1], 0.05))
    assert contrasts.min() > 1.5


def test_notes_are_matched_missed_or_extra():
    found = picture.compare_notes(*map(notes_to_array, (REFERENCE, ESTIMATE)))
    assert found.matched == (REFERENCE[0], REFERENCE[3])
    assert found.missed == (REFERENCE[1], REFERENCE[2])
    assert found.extra == (ESTIMATE[1],)


def test_a_folder_gets_everything(at, capsys):
    code, _, err = score(capsys, "truth", "found", "-o", "out")
    assert code == 0
    assert err.splitlines()[-1] == "mt3: wrote 2 pictures below out"
    made = sorted(path.name for path in (at / "out").iterdir())
    assert made == ["a.matches.png", "b.matches.png", "scores.csv", "scores.json"]
    record = json.loads((at / "out" / "scores.json").read_text())
    assert record["settings"]["convention"] == "default"
    code, *_ = score(capsys, "truth", "found", "--compare", "other", "-o", "both/")
    assert code == 0
    made = {path.relative_to(at) for path in (at / "both").rglob("*.png")}
    names = [f"{s}/{n}" for s in ("found", "other") for n in "ab"]
    assert made == {Path("both") / f"{name}.matches.png" for name in names}
    record = json.loads((at / "both" / "scores.json").read_text())
    assert record["systems"]["other"]["mean"]["Onset F1"]["value"] == 1.0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("scores.txt", "ends in .txt; expected a folder or .csv, .json, .png"),
        ("notes.png", "a picture shows one pair of files"),
        ("truth/a.mid/x", "results cannot be written here"),
    ],
)
def test_wrong_outputs_are_refused_before_anything_is_read(
    at, capsys, monkeypatch, output, message
):
    monkeypatch.setattr("mt3.scoring.files.score_files", None)
    code, out, err = score(capsys, "truth", "found", "-o", output)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize("format", ["csv", "json"])
def test_notes_are_not_written_over(at, capsys, format):
    path = write_notes("found/c", ESTIMATE, format)
    before = path.read_bytes()
    code, _, err = score(capsys, "truth", "found", "-o", f"found/c.{format}")
    assert code == 1
    assert f"found/c.{format}: holds notes" in err
    assert path.read_bytes() == before
    # Scores are.
    for _ in range(2):
        score(capsys, "truth", "found", "-o", f"found/s.{format}")
        assert (at / "found" / f"s.{format}").exists()


def test_missing_partners_are_named_once_and_the_others_scored(at, capsys):
    (at / "found" / "b.mid").unlink()
    code, out, err = score(capsys, "truth", "found", "-o", "scores.csv")
    assert code == 1
    assert "1 song not scored" in out
    assert "partner" not in out
    assert err.count("truth/b.mid: no partner") == 1
    assert len((at / "scores.csv").read_text().splitlines()) == 4
    record = json.loads((at / "scores.settings.json").read_text())
    assert "no partner" in record["failures"]["b"]


def test_a_part_of_the_songs(at, capsys):
    line = ["truth/a.mid", "found/a.mid", "--json", "--start", "0:01", "--end", "2.5"]
    code, out, _ = score(capsys, *line)
    assert code == 0
    record = json.loads(out)
    (song,) = record["songs"]
    assert (song["num_reference_notes"], song["num_estimated_notes"]) == (3, 1)
    assert (record["settings"]["start"], record["settings"]["end"]) == (1.0, 2.5)
    assert song["scores"]["Onset F1"] == 0.0
    assert song["scores"]["Drum onset F1 (full)"] == 1.0
    # Notes end with the part: 1 to 2.5 s and 2 to 2.5 s, of 62.5 frames each.
    line = ["truth/a.mid", "other/a.mid", "--start", "1", "--end", "2.5", "--json"]
    write_notes("other/a", [Note(1.0, 2.5, 64), Note(2.0, 2.5, 67)])
    scores = json.loads(score(capsys, *line)[1])["mean"]
    assert scores["Frame F1"] == scores["Onset + offset F1"] == 1.0


def test_wrong_parts_and_missing_estimates(at, capsys):
    code, _, err = score(capsys, "truth", "found", "--start", "2", "--end", "1")
    assert code == 1
    assert "end 1 s is not after start 2 s" in err
    code, _, err = score(capsys, "truth")
    assert code == 1
    assert "expected an estimate, or systems to --compare" in err
