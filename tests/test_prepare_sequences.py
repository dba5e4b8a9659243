"""MIDI files as labels of records."""

from __future__ import annotations

import pytest

from mt3.errors import MidiError
from mt3.prepare import sequences
from tests.support.midi_files import header, off, on, tempo, track_bytes, write_midi

# Notes of a beat each, the second with the first one's status.
FIRST = b"\0\x90\x3c\x40\x83\x60\x3c\0"
SECOND = b"\0\x3e\x50\x83\x60\x3e\0"


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\0\xff\x59\2\x20\2",  # a key signature that mido stops at
        b"\0\xf2\1\2",  # a system message after which mido misreads a note
        b"\0\xf0\3\x43\1\xf7",
    ],
)
@pytest.mark.parametrize("tracks", [1, 3])
def test_what_strict_readers_stumble_over_does_not_cost_notes(tmp_path, odd, tracks):
    path = tmp_path / "a.mid"
    path.write_bytes(header(tracks) + track_bytes(FIRST + odd + SECOND))
    notes = sequences.read_midi(path).notes
    found = [(n.pitch, n.start_time, n.end_time, n.velocity) for n in notes]
    assert found == [(60, 0.0, 0.5, 64), (62, 0.5, 1.0, 80)]


def test_ticks_in_parts_of_film_frames(tmp_path):
    path = tmp_path / "a.mid"
    notes = b"\0\x90\x3c\x40\x83\x74\x3c\0"
    path.write_bytes(header(division=0xE728) + track_bytes(notes))
    (note,) = sequences.read_midi(path).notes
    assert (note.start_time, note.end_time) == (0.0, 0.5)


def test_files_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "a.mid"
    path.write_bytes(header() + track_bytes(FIRST, 99))
    with pytest.raises(MidiError, match=r"a\.mid: damaged MIDI file: track 0"):
        sequences.read_midi(path)
    write_midi(path, [tempo(0, 0xFFFFFF), on(0x0FFFFFFF, 60), off(24, 60)])
    with pytest.raises(MidiError, match=r"a\.mid: the last note ends after"):
        sequences.read_midi(path)
    write_midi(path, [on(0, 60)])
    with pytest.raises(MidiError, match=r"a\.mid: the MIDI file holds no notes"):
        sequences.read_midi(path)
    assert not sequences.read_midi(path, allow_empty=True).notes
