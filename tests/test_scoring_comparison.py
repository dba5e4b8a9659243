"""Several systems against one reference."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib

import numpy as np
import pytest

from mt3 import cli
from mt3.errors import ConfigError
from mt3.note_sequences import Note
from mt3.scoring import comparison, files, tables
from tests.support.note_files import write_notes

NUM_SONGS = 12
NOTES = 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Songs, and systems that find shares of their notes."""
    rng = np.random.default_rng(0)
    top = tmp_path_factory.mktemp("systems")
    for song in range(NUM_SONGS):
        notes = [Note(t, t + 0.5, 60 + t % 12) for t in range(NOTES)]
        write_notes(top / "truth" / f"song{song}", notes)
        # Songs differ more than systems do.
        found = int(rng.integers(5, 16))
        lucky = 1 if song % 2 else -1
        shares = {"good": found, "worse": found - 3, "alike": found + lucky}
        for system, number in shares.items():
            write_notes(top / system / f"song{song}", notes[:number])
    return top


@pytest.fixture(scope="module")
def compared(folders):
    systems = [folders / name for name in ("good", "worse", "alike")]
    return comparison.compare(folders / "truth", systems)


def test_differences_and_their_intervals(compared):
    assert len(compared.songs) == NUM_SONGS
    good, worse, alike = compared.systems.values()
    assert good.mean_difference == good.micro_difference == {}
    for average in ("mean", "micro"):
        interval = getattr(worse, f"{average}_difference")["Onset recall"]
        assert interval.value == pytest.approx(-3 / NOTES)
        # Paired: it is the same on every song.
        assert interval.low == pytest.approx(-3 / NOTES)
        assert interval.high == pytest.approx(-3 / NOTES)
        assert not interval.includes_zero
        own = getattr(worse, average)["Onset recall"]
        assert own.high - own.low > 0.1
        assert own.low < own.value < own.high
        interval = getattr(alike, f"{average}_difference")["Onset F1"]
        assert interval.low < 0 < interval.high
        assert interval.includes_zero
    single = files.score_files(compared.settings["reference"], worse_path(compared))
    assert worse.mean["Frame F1"].value == single.mean["Frame F1"]
    assert worse.micro["Frame F1"].value == single.micro["Frame F1"]


def worse_path(compared):
    return compared.settings["estimate"]["worse"]


def test_the_same_seed_gives_the_same_intervals(folders, compared):
    systems = [folders / name for name in ("good", "worse", "alike")]
    again = comparison.compare(folders / "truth", systems, metrics=["Onset F1"])
    other = comparison.compare(folders / "truth", systems, metrics=["Onset F1"], seed=1)
    (want,) = again.systems["worse"].mean.values()
    assert want == compared.systems["worse"].mean["Onset F1"]
    assert want != other.systems["worse"].mean["Onset F1"]
    assert compared.settings["bootstrap"]["seed"] == 0


def test_tables_are_sorted_and_say_what_includes_0(compared):
    ranked = compared.ranked("Onset F1")
    assert ranked[-1] == "worse"
    lines = tables.format_comparison(compared, ["Onset F1"]).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ranked
    rows = {line.split()[0]: line.rstrip() for line in lines[2:5]}
    assert rows["alike"].endswith("includes 0: no difference shown")
    assert rows["worse"].endswith(" lower")
    assert rows["good"].endswith(" -")
    assert "12 songs that all 3 systems have" in lines
    assert len({len(line) for line in lines[:5]}) == 1


def test_csv_and_json_have_songs_means_and_differences(compared):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(compared))))
    songs = [row for row in rows if row["row"] == "song"]
    assert len(songs) == 3 * NUM_SONGS
    by_name = {(row["system"], row["row"]): row for row in rows}
    low = float(by_name["worse", "mean difference low"]["Onset recall"])
    assert low == pytest.approx(-3 / NOTES)
    assert by_name["good", "mean"]["Drum onset F1 (full)"] == ""
    assert ("good", "mean difference") not in by_name
    record = json.loads(tables.to_json(compared))
    assert record["systems"]["worse"]["mean_difference"]["Onset recall"] == {
        "value": pytest.approx(-3 / NOTES),
        "low": pytest.approx(-3 / NOTES),
        "high": pytest.approx(-3 / NOTES),
    }
    empty = record["systems"]["good"]["mean"]["Drum onset F1 (full)"]
    assert empty == {"value": None, "low": None, "high": None}


def test_songs_that_one_system_lacks_are_left_out_and_named(folders, capsys):
    lacking = folders.parent / f"{folders.name}-lacking"
    for song in range(1, NUM_SONGS):
        write_notes(lacking / f"song{song}", [Note(0, 0.5, 60)])
    paths = [str(folders / "truth"), str(folders / "good"), "--compare", str(lacking)]
    assert cli.main(["score", *paths, "--main"]) == 1
    printed = capsys.readouterr()
    assert f"{NUM_SONGS - 1} songs that all 2 systems have" in printed.out
    assert "1 song not scored" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith(f"mt3: error: {lacking.name}: song0: ")
    assert "no partner" in line


def test_one_song_has_no_intervals(folders, capsys):
    song = [str(folders / s / "song0.mid") for s in ("truth", "good", "worse")]
    assert cli.main(["score", song[0], "--compare", *song[1:], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = ["good/song0.mid", "worse/song0.mid"]
    assert list(record["systems"]) == names
    (difference,) = {
        math.isclose(record["systems"][names[1]]["mean_difference"][m]["value"], v)
        for m, v in {"Onset recall": -3 / NOTES}.items()
    }
    assert difference
    assert cli.main(["score", song[0], "--compare", *song[1:]]) == 0
    printed = capsys.readouterr().out
    assert "no interval" in printed
    assert "intervals need two songs" in printed


def test_draws_without_what_is_scored_are_left_out(tmp_path):
    piano, drum = Note(0, 1, 60), Note(0, 0.1, 36, is_drum=True)
    # The second song has no drums; the estimate has one in both.
    for song, notes in {"a": [piano, drum], "b": [piano]}.items():
        write_notes(tmp_path / "truth" / song, notes)
        for system in ("one", "other"):
            write_notes(tmp_path / system / song, [piano, drum])
    systems = tmp_path / "one", tmp_path / "other"
    lows = {}
    for convention in ("default", "yourmt3"):
        compared = comparison.compare(
            tmp_path / "truth", systems, convention=convention, metrics=["Drum*F1*"]
        )
        found = next(iter(compared.systems["one"].micro.values()))
        assert found.value == pytest.approx(2 / 3)
        lows[convention] = found.low
    # With the second song alone, there is no reference.
    assert lows == {"default": 0.0, "yourmt3": pytest.approx(2 / 3)}


def test_names_of_systems_are_below_any_folder():
    paths = [pathlib.Path("/found"), pathlib.Path("/data/found")]
    assert comparison._system_names(paths) == ["found", "data/found"]


def test_wrong_comparisons(folders):
    with pytest.raises(ConfigError, match="1 system to compare; expected two or more"):
        comparison.compare(folders / "truth", [folders / "good"])
    with pytest.raises(ConfigError, match="are the same"):
        comparison.compare(folders / "truth", [folders / "good"] * 2)
