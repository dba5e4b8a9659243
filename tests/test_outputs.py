"""Tables, pictures, reports and sound; and that files are whole or absent."""

from __future__ import annotations

import csv
import dataclasses
import errno
import html.parser
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pretty_midi
import pytest
import soundfile
from hypothesis import given
from PIL import Image

from mt3 import outputs
from mt3.audio import reading
from mt3.beats import Beats
from mt3.errors import MidiError, OutputError
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.outputs import pianoroll, sonify, tables
from tests.support.note_strategies import note_lists

HOSTILE = '</script><script>alert("1")</script>&\u2028\udcff.wav'
NOTES = [
    Note(0.0, 1.0, 60, 100, 0),
    Note(0.5, 1.5, 60, 90, 33),
    Note(1.0, 1.1, 38, 100, 0, True),
]


def make(notes=NOTES, **fields):
    defaults = {"duration": 2.0, "source": "song.wav", "model": "small"}
    return outputs.Transcription(notes, **(defaults | fields))


def data_of(result, name, **options):
    stream = io.BytesIO()
    options = outputs.OutputOptions(**options)
    outputs.write_stream(result, stream, name, options)
    return stream.getvalue()


def test_every_format_is_written_under_its_name(tmp_path):
    stem = tmp_path / "new" / "song.v2"
    written = outputs.write(make(), stem, outputs.FORMATS)
    assert [w.format for w in written] == list(outputs.FORMATS)
    assert sorted(os.listdir(stem.parent)) == sorted(w.path.name for w in written)
    assert all(w.path == outputs.output_path(stem, w.format) for w in written)
    assert all(w.path.name.startswith("song.v2.") for w in written)
    assert all(w.path.stat().st_size for w in written)


def test_a_full_disk_is_an_error_and_nothing_is_printed(capfd):
    class Full(io.BytesIO):
        """Takes the header and little more."""

        def write(self, data):
            if self.tell() > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    with pytest.raises(OSError, match="No space left"):
        sonify.write_wav(make(NOTES), Full())
    assert capfd.readouterr() == ("", "")


def test_unknown_formats_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match="Did you mean json"):
        outputs.write(make(), tmp_path / "song", ["mid", "jso"])
    assert not os.listdir(tmp_path)


def test_notes_that_no_format_can_hold_are_refused():
    with pytest.raises(MidiError, match="song.wav"):
        make([Note(0, 1, 128)])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "song.json"
    path.write_text("old")
    with pytest.raises(OutputError, match="settings cannot be written"):
        outputs.write(make(settings={"x": object()}), tmp_path / "song", ["json"])
    half = outputs.atomic_file(path)
    half.__enter__().write(b"half")
    assert half.__exit__(RuntimeError, RuntimeError(), None) is not True
    assert os.listdir(tmp_path) == ["song.json"]
    assert path.read_text() == "old"


def test_the_path_and_the_reason_of_a_failure_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/song\.mid: cannot write: "):
        outputs.write(make(), tmp_path / "file" / "song", ["mid"])
    (tmp_path / "song.csv").mkdir()
    with pytest.raises(OutputError, match="a folder of that name"):
        outputs.write(make(), tmp_path / "song", ["csv"])
    assert sorted(os.listdir(tmp_path)) == ["file", "song.csv"]


def read_back(record):
    """The transcription that a JSON record describes."""
    record = dict(record)
    assert (record.pop("format"), record.pop("format_version")) == (
        "mt3-transcription",
        1,
    )
    instruments = record.pop("instruments")
    notes = [dict(note) for note in record.pop("notes")]
    assert sum(row["notes"] for row in instruments) == len(notes)
    names = {row["instrument"] for row in instruments}
    assert {note.pop("instrument") for note in notes} == names
    if record["beats"]:
        record["beats"] = Beats(**record["beats"])
    return outputs.Transcription(notes=[Note(**note) for note in notes], **record)


@given(note_lists())
def test_json_round_trip(notes):
    result = make(notes, settings={"decode": "beam1"}, model_sha256="ab", duration=12)
    assert read_back(json.loads(data_of(result, "json"))) == result
    result = dataclasses.replace(result, beats=Beats.steady(120.0, 0.25, seconds=12.0))
    assert read_back(json.loads(data_of(result, "json"))) == result


def test_json_is_read_back_from_a_file(tmp_path):
    result = make(source="Bühne.wav")
    (written,) = outputs.write(result, tmp_path / "song", ["json"])
    assert read_back(json.loads(written.path.read_text(encoding="utf-8"))) == result


@given(note_lists())
def test_csv_and_json_lines_hold_the_same_columns(notes):
    result = make(notes)
    rows = list(csv.DictReader(io.StringIO(data_of(result, "csv").decode())))
    lines = [json.loads(line) for line in data_of(result, "jsonl").splitlines()]
    assert len(rows) == len(lines) == len(notes)
    for row, line, note in zip(rows, lines, result.notes, strict=True):
        assert tuple(row) == tuple(line) == outputs.NOTE_COLUMNS
        assert row == {
            k: str(v).lower() if isinstance(v, bool) else str(v)
            for k, v in line.items()
        }
        assert line["end_time"] == note.end_time
        name = general_midi.instrument_name(note.program, note.is_drum)
        assert line["instrument"] == name


def test_confidence_is_written_where_it_is_known():
    notes = [Note(0.0, 1.0, 60, confidence=0.98765), Note(2.0, 3.0, 62)]
    result = make(notes)
    for name in ("json", "jsonl"):
        lines = data_of(result, name).decode().splitlines()
        sure, unsure = (line for line in lines if "start_time" in line)
        assert '"confidence": 0.988}' in sure
        assert "confidence" not in unsure
    rows = list(csv.DictReader(io.StringIO(data_of(result, "csv").decode())))
    assert [row["confidence"] for row in rows] == ["0.988", ""]
    assert "[0.99,null]" in data_of(result, "html").decode()
    assert notes[0] == Note(0.0, 1.0, 60)


def test_soft_notes_are_paler():
    result = make([Note(0, 1, 60, 127), Note(1, 2, 60, 20)])
    image, _ = colours_in(data_of(result, "png"))
    loud, soft = (int(colour[1:], 16) for colour in shades_of(image))
    assert loud == int(pianoroll.PALETTE[0][1:], 16)
    assert all(a < b for a, b in zip(loud.to_bytes(3), soft.to_bytes(3), strict=True))


def shades_of(image):
    """The two commonest colours of notes from left to right."""
    pixels = np.asarray(image)[100:].reshape(-1, image.width, 3)
    bluish = pixels[..., 2].astype(int) - pixels[..., 0] > 30
    row = np.argmax(bluish.sum(axis=1))
    columns = np.flatnonzero(bluish[row])
    found = []
    for place in (columns[len(columns) // 4], columns[-len(columns) // 4]):
        found.append("#{:02x}{:02x}{:02x}".format(*pixels[row, place]))
    return found


def test_json_lines_are_handed_on_at_once():
    class Pipe(io.BytesIO):
        flushed = b""

        def flush(self):
            self.flushed = self.getvalue()

    pipe = Pipe()
    writer = tables.JsonLinesWriter(pipe)
    for count, note in enumerate(NOTES, 1):
        writer.write([note])
        assert pipe.flushed.count(b"\n") == count


def test_instruments_are_grouped_with_drums_last():
    notes = [Note(0, 1, 36, program=5, is_drum=True), Note(0, 1, 60, program=8), *NOTES]
    groups = make(notes).by_instrument()
    assert list(groups) == [(0, False), (8, False), (33, False), (0, True)]
    assert len(groups[0, True]) == 2


def test_program_names_are_general_midis():
    for program in range(128):
        ours = general_midi.instrument_name(program)
        theirs = pretty_midi.program_to_instrument_name(program)
        assert ours.lower().replace("(", "").replace(")", "") == theirs.lower().replace(
            "(", ""
        ).replace(")", "")
    assert general_midi.pitch_name(60) == "C4"


def colours_in(data):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.width == pianoroll.WIDTH
    return image, {
        f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.getcolors(1 << 20)
    }


def test_picture_shows_every_instrument_even_in_unison():
    notes = [Note(0, 2, 60, 127, p) for p in (0, 40, 73)]
    result = make([*notes, Note(1.0, 1.1, 38, 127, 0, True)])
    image, colours = colours_in(data_of(result, "png"))
    wanted = pianoroll.instrument_colours(result.by_instrument())
    assert set(wanted.values()) <= colours
    # Not only in the legend at the top.
    _, below = colours_in_region(image, 100)
    assert set(wanted.values()) <= below


def colours_in_region(image, top):
    stream = io.BytesIO()
    image.crop((0, top, image.width, image.height)).save(stream, "PNG")
    return colours_in(stream.getvalue())


@pytest.mark.parametrize("seconds", [0, 0.3, 31, 3600, 100_000])
def test_pictures_of_any_length_stay_readable(seconds):
    notes = [
        Note(seconds, seconds + 1, 127),
        Note(0, 1, 0),
        Note(0, 1, 36, is_drum=True),
    ]
    image, _ = colours_in(
        data_of(make(notes, duration=seconds, source="x" * 500), "png")
    )
    assert 300 < image.height < 4500


def test_silence_has_every_output():
    for name in outputs.FORMATS:
        assert data_of(make([], duration=0), name) or name == "jsonl"


class Page(html.parser.HTMLParser):
    """Collects a page's scripts and text."""

    def __init__(self):
        super().__init__()
        self.scripts, self.text, self.links, self._in_script = [], "", [], False

    def handle_starttag(self, tag, attributes):
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append((dict(attributes), ""))
        self.links += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data):
        if self._in_script:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text += data


def test_report_escapes_text_and_needs_no_network():
    result = make(source=HOSTILE, model=HOSTILE, settings={HOSTILE: HOSTILE})
    scores = {"Onset F1": 0.5, "Drum onset F1": float("nan"), "<b>": 1.0}
    text = data_of(result, "html", scores=scores).decode()
    page = Page()
    page.feed(text)
    assert len(page.scripts) == 2
    # One script that loads no modules.
    assert not re.search(r"^\s*(import|export)\b", page.scripts[1][1], re.MULTILINE)
    assert "class Roll " in page.scripts[1][1]
    assert page.links == ["data:,"]
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert page.text.count('</script><script>alert("1")</script>&') >= 4
    assert "Onset F10.5000" in page.text.replace("\n", "")
    assert "<b>" not in text


def test_report_holds_the_notes():
    page = Page()
    page.feed(data_of(make(), "html").decode())
    attributes, text = page.scripts[0]
    assert attributes["type"] == "application/json"
    data = json.loads(text)
    assert [i["name"] for i in data["instruments"]] == [
        "Acoustic Grand Piano",
        "Electric Bass (finger)",
        "Drums",
    ]
    assert data["instruments"][1]["notes"] == [0.5, 1.5, 60, 90]


def spectrum_peak(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate / len(samples)


def test_sound_has_the_pitch_and_the_times_of_the_notes():
    note = Note(1.0, 2.0, 69, 100, 73)
    samples, rate = soundfile.read(
        io.BytesIO(data_of(make([note], duration=3.0), "wav"))
    )
    assert len(samples) == round(3.5 * rate)
    assert spectrum_peak(samples[int(1.2 * rate) : int(1.9 * rate)], rate) == (
        pytest.approx(440, abs=2)
    )
    assert np.abs(samples[: int(0.99 * rate)]).max() == 0
    assert np.abs(samples[int(2.5 * rate) :]).max() < 1e-3


def test_blocks_of_sound_leave_no_seam(monkeypatch):
    notes = [Note(0.1, 3, 40, program=p) for p in (0, 48)]
    notes += [Note(0.95, 1.0, d, is_drum=True) for d in (36, 38, 42, 45, 49, 56)]
    whole = np.concatenate(list(sonify.render(make(notes), 8000)))
    monkeypatch.setattr(sonify, "BLOCK_SECONDS", 0.7)
    pieces = list(sonify.render(make(notes), 8000))
    assert len(pieces) > 3
    # A tone is dropped when it has faded by e**-6.
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert np.abs(whole).max() <= 1


def test_recording_beside_the_notes(rng):
    recording = rng.uniform(-0.5, 0.5, 8000 * 4).astype(np.float32)
    source = reading.from_samples(recording, 8000)
    data = data_of(make(), "wav", original_audio=source, sample_rate=8000)
    samples, rate = soundfile.read(io.BytesIO(data))
    assert (rate, samples.shape) == (8000, (32000, 2))
    np.testing.assert_allclose(samples[:, 0], recording, atol=1e-4)
    assert np.abs(samples[:, 1]).max() > 0.05
    with pytest.raises(OutputError, match="100 Hz"):
        data_of(make(), "wav", sample_rate=100)


def test_sound_longer_than_a_wav_file_holds_is_refused():
    day = make([Note(0, 86400 * 365, 60)])
    with pytest.raises(OutputError, match=r"8,760.0 hours of notes; .* holds 27.1"):
        data_of(day, "wav")
    # In stereo, half of it.
    with pytest.raises(OutputError, match="a WAV file of 8000 Hz holds 37.3"):
        data_of(day, "wav", sample_rate=8000, original_audio="song.wav")


def test_importing_outputs_is_cheap():
    code = (
        "import sys, mt3.outputs; "
        "print([m for m in ('jax', 'PIL', 'mido', 'soundfile', 'pretty_midi', "
        "'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
