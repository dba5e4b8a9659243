"""Settings of the output formats: grids, velocities, sheet music."""

from __future__ import annotations

import importlib.util
import io
import json
import re

import pytest

from mt3 import outputs, transcribe
from mt3.beats import Beats
from mt3.errors import ConfigError, OutputError
from mt3.note_sequences import Note
from tests.support import musicxml

BEATS = Beats.steady(120.0, 0.5, seconds=100.0)
NOTES = [Note(0.51 + k / 4, 0.7 + k / 4, 60 + k % 12, 50 + k % 50) for k in range(300)]


def written(result, format, **options):
    stream = io.BytesIO()
    options = outputs.OutputOptions(**options)
    warnings = outputs.write_stream(result, stream, format, options)
    return stream.getvalue(), warnings


def rows(data):
    return [json.loads(line) for line in data.splitlines()]


def test_every_format_has_its_notes_on_the_grid():
    result = outputs.Transcription(NOTES, beats=BEATS)
    data, warnings = written(result, "jsonl", quantize="1/8")
    assert [row["start_time"] for row in rows(data)] == [
        0.5 + k / 4 for k in range(len(NOTES))
    ]
    assert not warnings
    data, _ = written(result, "jsonl")
    assert [row["start_time"] for row in rows(data)] == [n.start_time for n in NOTES]


def test_without_beats_notes_stay_and_a_warning_says_so():
    data, warnings = written(outputs.Transcription(NOTES), "jsonl", quantize="1/8")
    assert rows(data)[0]["start_time"] == 0.51
    assert warnings == ["no beats were found: the notes stay where they are"]
    assert written(outputs.Transcription([]), "jsonl", quantize="1/8") == (b"", [])


def test_notes_can_be_equally_loud():
    data, _ = written(outputs.Transcription(NOTES), "jsonl", velocities=False)
    assert {row["velocity"] for row in rows(data)} == {100}


def test_what_contradicts_is_refused():
    with pytest.raises(ConfigError, match="needs a grid"):
        outputs.OutputOptions(swing=0.6)
    with pytest.raises(ConfigError, match="quantize is '1/7'"):
        outputs.OutputOptions(quantize="1/7")


@pytest.mark.parametrize(
    ("format", "package"),
    [("musicxml", "partitura"), ("mxl", "partitura")]
    + [("pdf", name) for name in ("partitura", "verovio", "cairosvg", "pypdf")],
)
def test_packages_that_are_missing_are_named(format, package, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == package else find(name),
    )
    with pytest.raises(OutputError, match=rf"{package}.*pip install '.*\[score\]'"):
        outputs.write(outputs.Transcription(NOTES), tmp_path / "x", ["mid", format])
    with pytest.raises(OutputError, match=package):
        transcribe._formats(None, f"song.{format}")
    assert not list(tmp_path.iterdir())


def test_a_missing_cairo_library_is_named(monkeypatch):
    def fail(name, load=importlib.import_module):
        if name == "cairosvg":
            raise OSError("no library called cairo was found")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(OutputError, match="apt-get install libcairo2"):
        outputs.check_formats(["mid", "pdf"])


def test_a_part_of_a_formats_name_means_that_format():
    with pytest.raises(OutputError, match=r"Did you mean musicxml\?"):
        outputs.check_formats(["xml"])


def test_sheet_music_follows_the_options():
    guitar = [Note(k / 2, k / 2 + 0.4, 52 + k, 80, 25) for k in range(8)]
    result = outputs.Transcription(guitar, beats=Beats.steady(120.0, seconds=4.0))
    plain, _ = written(result, "musicxml")
    assert b"<fret>" not in plain
    with_strings, _ = written(result, "musicxml", tablature=True)
    assert b"<fret>" in with_strings
    halves, _ = written(result, "musicxml", quantize="1/4")
    (notes,) = musicxml.sounding(musicxml.read(halves)).values()
    assert [start for start, _, _ in notes] == [24 * k for k in range(8)]
    data, warnings = written(
        outputs.Transcription(guitar), "musicxml", tempo=60.0, quantize="auto"
    )
    assert warnings == ["no beats were found: bars are counted at 60 beats a minute"]
    (notes,) = musicxml.sounding(musicxml.read(data)).values()
    assert [start for start, _, _ in notes] == [12 * k for k in range(8)]


@pytest.fixture(scope="module")
def report():
    notes = NOTES + [Note(n.start_time, n.end_time, 40, 80, 33) for n in NOTES[::2]]
    data, _ = written(outputs.Transcription(notes, beats=BEATS), "html")
    return data.decode()


def test_reports_show_the_score(report):
    record = json.loads(re.search(r'id="data">(.*?)</script>', report)[1])
    assert len(record["bars"]) == sum(record["pages"]) == 38
    assert record["bars"][:3] == [0.5, 2.5, 4.5]
    assert report.count('<div class="sheet"') == len(record["pages"]) > 0
    assert report.count('class="measure"') == len(record["bars"])


def test_pages_on_a_screen_end_with_the_music():
    result = outputs.Transcription(NOTES[:8], beats=BEATS)
    text = written(result, "html")[0].decode()
    width, height = re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups()
    assert int(height) < int(width)


def test_reports_without_beats_or_packages_have_no_score(monkeypatch):
    few = NOTES[:5]
    for result in (
        outputs.Transcription(few),
        outputs.Transcription([], beats=BEATS),
        outputs.Transcription(few, beats=BEATS, duration=5000.0),
    ):
        assert b'<div class="sheet"' not in written(result, "html")[0]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "verovio" else find(n)
    )
    result = outputs.Transcription(few, beats=BEATS)
    assert b'<div class="sheet"' not in written(result, "html")[0]
