"""MIDI files that do not keep to the standard: what is read, what is refused."""

from __future__ import annotations

import random
from collections import Counter

import mido
import pretty_midi
import pytest

from mt3.errors import MidiError
from mt3.midi import events
from mt3.midi.reader import read_midi, read_song
from mt3.note_sequences import Note
from tests.support.midi_files import header, mutated, scale, track_bytes, write_midi

# Notes of a beat each: 60 with a running status, and 62.
FIRST = b"\0\x90\x3c\x40\x83\x60\x3c\0"
SECOND = b"\0\x3e\x50\x83\x60\x3e\0"
END = b"\0\xff\x2f\0"
NOTES = [Note(0.0, 0.5, 60, 64), Note(0.5, 1.0, 62, 80)]


def file_of(*tracks, **fields):
    return header(len(tracks), **fields) + b"".join(map(track_bytes, tracks))


def between(extra):
    """A file with something between the notes, whose status runs on."""
    return file_of(FIRST + extra + SECOND + END)


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a MIDI file; returns its notes and what was passed over."""

    def read_data(data):
        path = tmp_path / "a.mid"
        path.write_bytes(data)
        lines = []
        notes = read_midi(path, log=lines.append)
        assert read_midi(path, pairing="first") == notes
        return notes, [line.removeprefix(f"{path}: ") for line in lines]

    return read_data


HARMLESS = {
    "nothing odd": between(b""),
    "key signature out of range": between(b"\0\xff\x59\2\x20\2"),
    "key signature too short": between(b"\0\xff\x59\0"),
    "SMPTE offset of no time": between(b"\0\xff\x54\5\xff\xff\xff\xff\xff"),
    "time signature of nothing": between(b"\0\xff\x58\4\0\xff\0\0"),
    "text that is no UTF-8": between(b"\0\xff\1\3\xff\xfe\x80"),
    "channel prefix": between(b"\0\xff\x20\1\x63"),
    "unknown meta event": between(b"\0\xff\x66\2\x90\x3c"),
    "name of a track chunk in a text": between(b"\0\xff\1\4MTrk"),
    "system exclusive": between(b"\0\xf0\3\x43\1\xf7"),
    "system exclusive in two parts": between(b"\0\xf0\2\x43\1\0\xf7\2\1\xf7"),
    "song position": between(b"\0\xf2\1\2"),
    "active sensing": between(b"\0\xfe"),
    "chunk of another kind": between(b"").replace(b"MTrk", b"XFIH\0\0\0\1?MTrk"),
    "longer header": b"MThd\0\0\0\x08\0\1\0\1\1\xe0??" + track_bytes(FIRST + SECOND),
    "bytes between chunks": between(b"").replace(b"MTrk", b"\0\0\0MTrk"),
    "bytes behind all": between(b"") + b"\0" * 100,
    "no end of track": file_of(FIRST + SECOND),
    "RIFF": b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + between(b""),
    "RIFF with a list": b"RIFF\0\0\0\0RMIDLIST\4\0\0\0INFOdata\0\0\0\0" + between(b""),
    "MacBinary": b"\0" * 128 + between(b""),
    "one song of type 2": file_of(FIRST + SECOND, midi_type=2),
    "type 7": file_of(FIRST + SECOND, midi_type=7),
    "time with leading zeros": between(b"\x80\x80\x80\x80\0\xff\1\0"),
    "length too long": header() + track_bytes(FIRST + SECOND + END, 1 << 20),
    "length of none": header() + track_bytes(FIRST + SECOND + END, 0),
}


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS)
def test_notes_do_not_suffer(read, data):
    assert read(data) == (NOTES, [])


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (between(b"\0\xff\x51\3\0\0\0"), "a tempo change that gives no tempo is left"),
        (between(b"\0\xff\x51\1\7"), "a tempo change that gives no tempo is left out"),
        (between(b"\0\xf0\x7f\x43\xf7"), "a system exclusive message has a wrong len"),
        (header(3) + track_bytes(FIRST + SECOND), "only 1 of 3 tracks are there"),
        (file_of(FIRST + SECOND + END + b"\x40"), "something follows the end of a tr"),
        (file_of(FIRST + SECOND + END + b"\xff" * 9), "something follows the end of"),
    ],
)
def test_what_is_passed_over_is_named(read, data, line):
    notes, lines = read(data)
    assert notes == NOTES
    assert [found[: len(line)] for found in lines] == [line]


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_a_track_of_wrong_length_ends_where_the_next_begins(read, size):
    first = track_bytes(FIRST + END, size)
    second = track_bytes(b"\x83\x60\x90\x3e\x50\x83\x60\x3e\0" + END, size)
    assert read(header(2) + first + second) == (NOTES, [])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a MIDI file: an empty file"),
        (b"RIFFxxxxWAVEfmt ", "not a MIDI file: the first bytes are b'RIFF'"),
        (b"MThd", "damaged MIDI file: its header is cut short"),
        (header(division=0), "no ticks per beat"),
        (header(division=0xE700), "no ticks per beat"),
        (header(), "no tracks"),
        (b"MThd\xff\xff\xff\xff" + header()[8:], "no tracks"),
        (header() + b"MTrk\0\0\0\x10\0", "damaged MIDI file: track 0 is cut short"),
        (header() + track_bytes(FIRST + SECOND, 99), "track 0 is cut short"),
        (header() + track_bytes(b"\0\x90\x40"), "track 0 is cut short"),
        (header() + track_bytes(b"\0\xff\1\5a"), "track 0 is cut short"),
        (header() + track_bytes(b"\0\xf0\5a"), "track 0 is cut short"),
        (header() + track_bytes(b"\0\x40\x40"), "track 0 has data without a status"),
        (header() + track_bytes(b"\xff\xff\xff\xff\x7f\xff\1\0"), "than four bytes"),
        (file_of(b"", b"", midi_type=2), "type 2"),
        (header() + 2**16 * track_bytes(b""), "more than 65,535 tracks"),
    ],
)
def test_damaged_files_are_named_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "broken.mid"
    path.write_bytes(data)
    for reading in (read_midi, read_song, events.plain_bytes):
        with pytest.raises(MidiError, match=rf"broken\.mid: .*{reason}"):
            reading(path)


def test_ticks_may_be_parts_of_film_frames(read, tmp_path):
    # 25 frames a second, 40 ticks each; no tempo changes that.
    notes = b"\0\x90\x3c\x40\0\xff\x51\3\1\0\0\x83\x74\x3c\0"
    assert read(file_of(notes, division=0xE728))[0] == [Note(0.0, 0.5, 60, 64)]
    (tmp_path / "plain.mid").write_bytes(events.plain_bytes(tmp_path / "a.mid"))
    assert read_midi(tmp_path / "plain.mid") == [Note(0.0, 0.5, 60, 64)]
    # 29 stands for 29.97 frames a second; one tick each.
    (note,), _ = read(file_of(b"\0\x90\x3c\x40\x1e\x3c\0", division=0xE301))
    assert note.end_time == pytest.approx(1.001)
    (tmp_path / "plain.mid").write_bytes(events.plain_bytes(tmp_path / "a.mid"))
    assert read_midi(tmp_path / "plain.mid")[0].end_time == pytest.approx(1.001)


def test_bytes_above_127_count_as_127(read):
    assert read(file_of(b"\0\x90\x3c\xc8\x83\x60\x3c\0"))[0][0].velocity == 127


def test_what_a_file_asks_for_is_bounded(tmp_path, monkeypatch):
    path = write_midi(tmp_path / "a.mid", scale(0, count=12))
    monkeypatch.setattr(events, "MOST_EVENTS", 24)
    assert len(read_midi(path)) == 12
    monkeypatch.setattr(events, "MOST_EVENTS", 23)
    with pytest.raises(MidiError, match=r"a\.mid: .* more than 23 notes and controls"):
        read_midi(path)
    monkeypatch.setattr(events, "MOST_BYTES", 64)
    with pytest.raises(MidiError, match=r"a\.mid: larger than"):
        read_midi(path)


def test_plain_files_satisfy_strict_readers_and_have_the_same_notes(tmp_path):
    odd = b"\0\xff\x59\2\x20\2\0\xf0\3\x43\1\xf7\0\xe0\1\2\0\xd0\7\0\x90"
    path = tmp_path / "a.mid"
    tempo = b"\0\xff\x51\3\x07\xa1\x20"
    path.write_bytes(header(9) + track_bytes(tempo + FIRST + odd + SECOND[1:]))
    with pytest.raises(mido.KeySignatureError):
        mido.MidiFile(path)
    plain = tmp_path / "plain.mid"
    plain.write_bytes(events.plain_bytes(path))
    (track,) = mido.MidiFile(plain).tracks
    kinds = Counter(message.type for message in track)
    assert kinds["note_on"] == 4
    assert kinds["pitchwheel"] == kinds["aftertouch"] == kinds["set_tempo"] == 1
    (instrument,) = pretty_midi.PrettyMIDI(str(plain)).instruments
    found = [Note(n.start, n.end, n.pitch, n.velocity) for n in instrument.notes]
    assert found == read_midi(path) == NOTES


def test_mutated_files_are_read_or_named(tmp_path):
    sound = write_midi(tmp_path / "sound.mid", scale(0), scale(9), [*scale(3)] * 2)
    data, draw = sound.read_bytes(), random.Random(0)
    path, plain = tmp_path / "a.mid", tmp_path / "plain.mid"
    read = refused = 0
    for _ in range(600):
        path.write_bytes(mutated(data, draw))
        try:
            notes = read_midi(path)
            read_song(path)
        except MidiError as error:
            refused += str(error).startswith(f"{path}: ")
            continue
        read += 1
        plain.write_bytes(events.plain_bytes(path))
        assert read_midi(plain) == notes
    assert read + refused == 600
    assert min(read, refused) > 100
