"""MIDI files -> songs: tempo, pedal, odd notes, damaged files, the library."""

from __future__ import annotations

import numpy as np
import pytest

from mt3.errors import DataError, MidiError
from mt3.midi import library as midi_library
from mt3.midi import note_arrays
from mt3.midi.reader import read_midi as read_reference
from mt3.synthesis import song_library
from tests.support.midi_files import (
    make_library,
    off,
    on,
    pedal,
    program,
    scale,
    tempo,
    write_midi,
)


def times(notes):
    return [(n.pitch, round(n.start_time, 4), round(n.end_time, 4)) for n in notes]


def test_tempo_changes_on_any_track_count(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [on(0, 60), off(480, 60), on(480, 62), off(480, 62)],
        [tempo(480, 1_000_000), tempo(480, 250_000)],
    )
    # Beats last 0.5, 1 and 0.25 s.
    assert times(midi_library.read_midi(path)) == [(60, 0.0, 0.5), (62, 1.5, 1.75)]


def test_programs_velocities_and_drums(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [
            program(24),
            on(0, 60, 33),
            off(480, 60),
            program(40),
            on(0, 60),
            off(480, 60),
        ],
        [on(0, 36, 101, channel=9), off(10, 36, channel=9)],
    )
    notes = midi_library.read_midi(path)
    assert [(n.program, n.is_drum, n.velocity) for n in notes] == [
        (24, False, 33),
        (0, True, 101),
        (40, False, 90),
    ]


def test_the_pedal_lengthens_notes_until_it_is_lifted_or_the_key_is_struck(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [
            pedal(0, 127),
            on(0, 60),
            off(240, 60),
            on(240, 62),
            off(240, 62),
            on(240, 60),
            off(240, 60),
            pedal(480, 0),
        ],
    )
    assert times(midi_library.read_midi(path)) == [
        (60, 0.0, 1.0),
        (62, 0.5, 1.75),
        (60, 1.0, 1.75),
    ]


def test_odd_notes_get_a_positive_length_and_never_overlap(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [
            on(0, 60),
            off(0, 60),  # no length
            on(480, 64),
            on(480, 64),  # struck again while down
            off(480, 64),
            off(480, 64),
            on(0, 70),  # never ended
            on(480, 72),
            off(480, 72),
        ],
    )
    assert times(midi_library.read_midi(path)) == [
        (60, 0.0, midi_library.SHORTEST_SECONDS),
        (64, 0.5, 1.0),
        (64, 1.0, 2.0),
        (70, 2.0, 3.0),
        (72, 2.5, 3.0),
    ]


def test_agrees_with_the_reader_of_references_on_plain_music(tmp_path, rng):
    messages = [program(7)]
    for pitch in rng.integers(40, 90, 200).tolist():
        messages += [on(int(rng.integers(0, 200)), pitch), off(150, pitch)]
    messages.insert(77, pedal(10, 100))
    messages.insert(133, pedal(10, 0))
    path = write_midi(tmp_path / "a.mid", messages, [tempo(0, 412_345)])
    ours, reference = midi_library.read_midi(path), read_reference(path)
    assert len(ours) == len(reference) == 200
    for note, expected in zip(
        sorted(ours, key=lambda n: (n.start_time, n.pitch)),
        sorted(reference, key=lambda n: (n.start_time, n.pitch)),
        strict=True,
    ):
        assert note.pitch == expected.pitch
        assert note.start_time == pytest.approx(expected.start_time, abs=1e-6)
        assert note.end_time == pytest.approx(expected.end_time, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin with an MThd header"),
        (b"RIFFxxxxWAVEfmt ", "does not begin with an MThd header"),
        (b"MThd\0\0\0\6\0\1\0\1\0\0", "no ticks per beat"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0", "no tracks"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\3\0\x90\x40", "cut short"),
        (b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\3\0\x40\x40", "status byte"),
    ],
)
def test_bad_files_are_named_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "broken.mid"
    path.write_bytes(data)
    with pytest.raises(MidiError, match=rf"broken\.mid.*{reason}"):
        midi_library.read_midi(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(MidiError, match="gone.mid"):
        midi_library.read_midi(tmp_path / "gone.mid")
    with pytest.raises(DataError, match="gone"):
        midi_library.find_midi([tmp_path / "gone"])
    with pytest.raises(DataError, match="No MIDI files"):
        midi_library.find_midi([tmp_path])


def test_find_midi_looks_into_folders_once(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("x/a.mid", "x/y/b.MIDI", "x/y/c.txt"):
        (tmp_path / name).write_bytes(b"")
    found = midi_library.find_midi([tmp_path, tmp_path / "x", tmp_path / "x" / "a.mid"])
    assert found == [tmp_path / "x" / "a.mid", tmp_path / "x" / "y" / "b.MIDI"]


def test_the_library_sorts_songs_by_kind_and_reports_what_it_left_out(tmp_path, rng):
    make_library(tmp_path)
    library, problems = song_library.load_library([tmp_path])
    assert len(library.songs) == 3
    assert len(problems) == 1
    assert "broken.mid" in problems[0]
    for kind, name in (("bands", "band"), ("scores", "score"), ("drums", "groove")):
        assert library.draw(rng, kind).name.endswith(f"{name}.mid")
    assert library.draw(rng, "scores").beats_per_minute == 60.0
    names = {library.draw(rng, "pitched").name for _ in range(50)}
    assert len(names) == 2


def test_the_librarys_cache_gives_the_same_songs_until_files_change(tmp_path):
    midi = tmp_path / "midi"
    midi.mkdir()
    make_library(midi)
    cache = tmp_path / "cache.npz"
    first, problems = song_library.load_library([midi], cache)
    again, same_problems = song_library.load_library([midi], cache)
    assert cache.is_file()
    assert problems == same_problems
    for song, other in zip(first.songs, again.songs, strict=True):
        assert (song.name, song.beats_per_minute) == (
            other.name,
            other.beats_per_minute,
        )
        np.testing.assert_array_equal(song.notes, other.notes)
    write_midi(midi / "new.mid", scale(0))
    assert len(song_library.load_library([midi], cache)[0].songs) == 4


def test_an_empty_kind_is_an_error(rng):
    library = song_library.Library([])
    assert not library.has("drums")
    with pytest.raises(DataError, match="'drums'"):
        library.draw(rng, "drums")


def test_parts_of_one_program_stay_apart_until_overlaps_are_resolved(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [on(0, 60), off(960, 60)],
        [on(480, 60, channel=1), off(960, 60, channel=1)],
    )
    song = midi_library.read_song(path)
    assert song.notes["track"].tolist() == [0, 1]
    assert times(note_arrays.to_notes(song.notes)) == [(60, 0, 1.0), (60, 0.5, 1.5)]
    assert times(midi_library.read_midi(path)) == [(60, 0, 0.5), (60, 0.5, 1.5)]
