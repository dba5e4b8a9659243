"""JSON, JSON lines and CSV back to notes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3.errors import MidiError
from mt3.note_sequences import Note
from mt3.outputs import Transcription, reading, write
from tests.support.note_strategies import note_lists

FORMATS = ("json", "jsonl", "csv")
NOTE = {
    "start_time": 0.5,
    "end_time": 1.0,
    "pitch": 60,
    "velocity": 90,
    "program": 3,
    "instrument": "Honky-tonk Piano",
    "is_drum": False,
}


def json_text(*notes, **fields):
    record = {"format": "mt3-transcription", "format_version": 1, **fields}
    return json.dumps({**record, "notes": notes})


@given(note_lists(max_size=6), st.sampled_from(FORMATS), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, notes, format, sure):
    if sure:
        notes = [dataclasses.replace(note, confidence=0.5) for note in notes]
    stem = tmp_path_factory.mktemp("written") / "song"
    (written,) = write(Transcription(notes), stem, [format])
    assert reading.read_notes(written.path) == sorted(notes)


def test_other_columns_and_byte_order_marks_are_passed_over(tmp_path):
    path = tmp_path / "a.JSON"
    path.write_text("\ufeff" + json_text({**NOTE, "later": [1]}, new={}), "utf-8")
    assert reading.read_notes(path) == [Note(0.5, 1.0, 60, 90, 3)]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "", "not JSON as mt3 transcribe writes it: Expecting value"),
        ("a.json", '{"notes": [', "not JSON"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", '{"a": 1}', 'expected an object with "format": "mt3-transc'),
        ("a.json", "[]", "expected an object"),
        ("a.json", json_text(format_version=9), "format_version 9; expected 1"),
        ("a.json", json_text(NOTE, 7), "note 1: start_time: found 7; expected a nu"),
        ("a.json", json_text({**NOTE, "pitch": None}), "pitch: found nothing"),
        ("a.json", json_text({**NOTE, "pitch": 60.5}), "pitch: found 60.5"),
        ("a.json", json_text({**NOTE, "pitch": 10**30}), "pitch: found 1000"),
        ("a.json", json_text({**NOTE, "pitch": 200}), "note 0: pitch outside 0..127"),
        ("a.json", json_text({**NOTE, "start_time": "x"}), "start_time: found 'x'"),
        ("a.json", json_text({**NOTE, "is_drum": []}), "is_drum: found []; expected t"),
        ("a.json", json_text({**NOTE, "end_time": float("nan")}), "times are not fin"),
        ("a.json", json_text({**NOTE, "end_time": 1e300}), "the last note ends after"),
        ("a.jsonl", json.dumps(NOTE) + "\n" + '{"start_time": 0.', "not JSONL"),
        ("a.csv", "start_time,end_time\n1,2\n", "note 0: pitch: found nothing"),
        ("a.csv", 'start_time\n"1', "not CSV"),
    ],
)
def test_other_files_are_named_with_the_reason(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MidiError) as caught:
        reading.read_notes(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with pytest.raises(MidiError, match=r"a\.json: cannot read: No such file"):
        reading.read_notes(path)
    path.write_bytes(b"\xff{}")
    with pytest.raises(MidiError, match=r"a\.json: not UTF-8 text"):
        reading.read_notes(path)
    monkeypatch.setattr(reading, "MOST_BYTES", 2)
    with pytest.raises(MidiError, match=r"a\.json: larger than"):
        reading.read_notes(path)
