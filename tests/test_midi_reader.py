"""MIDI files -> notes: both pairings, tempo, pedal, odd notes, damaged files."""

from __future__ import annotations

import numpy as np
import pretty_midi
import pytest

from mt3.errors import DataError, MidiError
from mt3.midi import note_arrays
from mt3.midi import reader as midi_reader
from mt3.midi.reader import read_midi
from mt3.synthesis import song_library
from tests.support.midi_files import (
    header,
    make_library,
    off,
    on,
    pedal,
    program,
    scale,
    tempo,
    track_bytes,
    write_midi,
)


def times(notes):
    return [(n.pitch, round(n.start_time, 4), round(n.end_time, 4)) for n in notes]


both = pytest.mark.parametrize("pairing", ["every", "first"])


@both
def test_tempo_changes_on_any_track_count(tmp_path, pairing):
    path = write_midi(
        tmp_path / "a.mid",
        [on(0, 60), off(480, 60), on(480, 62), off(480, 62)],
        [tempo(480, 1_000_000), tempo(480, 250_000)],
    )
    # Beats last 0.5, 1 and 0.25 s.
    assert times(read_midi(path, pairing=pairing)) == [(60, 0.0, 0.5), (62, 1.5, 1.75)]


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
    notes = read_midi(path, pairing="first")
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
    assert times(read_midi(path, pairing="first")) == [
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
    assert times(read_midi(path, pairing="first")) == [
        (60, 0.0, midi_reader.SHORTEST_SECONDS),
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
    ours, reference = read_midi(path, pairing="first"), read_midi(path)
    assert len(ours) == len(reference) == 200
    for note, expected in zip(
        sorted(ours, key=lambda n: (n.start_time, n.pitch)),
        sorted(reference, key=lambda n: (n.start_time, n.pitch)),
        strict=True,
    ):
        assert note.pitch == expected.pitch
        assert note.start_time == pytest.approx(expected.start_time, abs=1e-6)
        assert note.end_time == pytest.approx(expected.end_time, abs=1e-6)


def test_plain_music_is_what_another_reader_reads(tmp_path, rng):
    messages = [program(7)]
    for pitch in rng.integers(40, 90, 100).tolist():
        messages += [on(int(rng.integers(0, 200)), pitch), off(150, pitch)]
    path = write_midi(tmp_path / "a.mid", [tempo(400, 412_345)], messages)
    (instrument,) = pretty_midi.PrettyMIDI(str(path)).instruments
    theirs = sorted((n.start, n.end, n.pitch, n.velocity) for n in instrument.notes)
    ours = [(n.start_time, n.end_time, n.pitch, n.velocity) for n in read_midi(path)]
    assert len(ours) == 100
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_a_note_off_ends_every_note_or_the_first(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [
            on(0, 60),
            on(480, 60),  # struck again while down
            off(480, 60),
            off(480, 60),
            on(0, 70),  # never ended
        ],
        [on(960, 36, channel=9), program(5), off(960, 36, channel=9)],
    )
    every = times(read_midi(path))
    assert every == [(60, 0, 1.0), (60, 0.5, 1.0), (36, 1.0, 2.0)]
    first = times(note_arrays.to_notes(midi_reader.read_song(path).notes))
    assert first == [(60, 0, 1.0), (60, 0.5, 1.5), (36, 1.0, 2.0), (70, 1.5, 2.0)]


def test_a_program_is_the_tracks_own_or_the_channels(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [program(24), on(0, 60), off(480, 60), on(480, 62), off(480, 62)],
        [on(480, 64), off(1, 64), program(40), on(479, 65), off(480, 65)],
    )

    def programs(**options):
        return [(n.pitch, n.program) for n in read_midi(path, **options)]

    assert programs() == [(60, 24), (64, 24), (62, 24), (65, 40)]
    assert programs(pairing="first") == [(60, 24), (64, 24), (62, 40), (65, 40)]


PEDALLED = [
    # 60 and 64 lie under one pedal; 60 is struck again; a drum is hit.
    pedal(0, 127),
    on(0, 60),
    off(10, 60),
    on(0, 64),
    off(10, 64),
    on(30, 60),
    off(10, 60),
    pedal(40, 0),
    on(10, 62),
    off(10, 62),
    on(0, 36, channel=9),
    off(10, 36, channel=9),
]


@both
def test_the_pedal_lengthens_notes_unless_it_is_not_asked_for(tmp_path, pairing):
    path = write_midi(tmp_path / "a.mid", PEDALLED, ticks_per_beat=50)
    assert times(read_midi(path, pairing=pairing)) == [
        (60, 0.0, 0.5),
        (64, 0.1, 1.0),
        (60, 0.5, 1.0),
        (62, 1.1, 1.2),
        (36, 1.2, 1.3),
    ]
    dry = read_midi(path, pairing=pairing, apply_sustain=False)
    assert [n.end_time for n in dry] == pytest.approx([0.1, 0.2, 0.6, 1.2, 1.3])


def test_drum_programs_and_late_program_changes_are_kept(tmp_path):
    path = write_midi(
        tmp_path / "a.mid",
        [
            program(25, channel=9),
            on(0, 36, channel=9),
            off(10, 36, channel=9),
            on(0, 60),
            off(10, 60),
            program(33),
            on(0, 60),
            off(10, 60),
        ],
    )
    assert [(n.program, n.is_drum) for n in read_midi(path)] == [
        (25, True),
        (0, False),
        (33, False),
    ]


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(MidiError, match=r"gone\.mid: cannot read: No such file"):
        read_midi(tmp_path / "gone.mid")
    with pytest.raises(DataError, match="gone"):
        midi_reader.find_midi([tmp_path / "gone"])
    with pytest.raises(DataError, match="No MIDI files"):
        midi_reader.find_midi([tmp_path])


def test_find_midi_looks_into_folders_once(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("x/a.mid", "x/y/b.MIDI", "x/y/c.txt"):
        (tmp_path / name).write_bytes(b"")
    found = midi_reader.find_midi([tmp_path, tmp_path / "x", tmp_path / "x" / "a.mid"])
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
    song = midi_reader.read_song(path)
    assert song.notes["track"].tolist() == [0, 1]
    assert times(note_arrays.to_notes(song.notes)) == [(60, 0, 1.0), (60, 0.5, 1.5)]
    assert times(read_midi(path, pairing="first")) == [(60, 0, 0.5), (60, 0.5, 1.5)]


@both
def test_a_song_longer_than_a_day_is_refused(tmp_path, pairing):
    path = write_midi(
        tmp_path / "slow.mid",
        [tempo(0, 0xFFFFFF), on(0x0FFFFFFF, 60), off(24, 60)],
        ticks_per_beat=24,
    )
    with pytest.raises(MidiError, match=r"slow\.mid: the last note ends after 52,"):
        read_midi(path, pairing=pairing)
    with pytest.raises(MidiError, match="expected at most 24"):
        midi_reader.read_song(path)


def test_time_after_the_last_note_does_not_count(tmp_path):
    # 60 is never ended, and its track goes on for years.
    path = write_midi(
        tmp_path / "a.mid",
        [on(0, 60), tempo(0, 0xFFFFFF), pedal(0x0FFFFFFF, 0)],
        [on(0, 62, channel=1), off(240, 62, channel=1)],
    )
    assert times(read_midi(path)) == [(62, 0.0, 8.3886)]
    assert times(read_midi(path, pairing="first")) == [
        (60, 0.0, midi_reader.LONGEST_SECONDS),
        (62, 0.0, 8.3886),
    ]


def test_more_parts_than_there_are_numbers_of_parts(tmp_path):
    track = b"".join(
        bytes((0, 0xC0 | channel, number, 0, 0x90 | channel, 60, 64, 1, 60, 0))
        for number in range(128)
        for channel in range(16)
    )
    path = tmp_path / "a.mid"
    path.write_bytes(header(36) + track_bytes(track) * 36)
    notes = midi_reader.read_song(path).notes
    # 15 channels of 128 programs, and one of drums, in each track.
    assert len(notes) == 36 * 128 * 16
    assert len(np.unique(notes["track"])) == 2**16


def test_what_was_passed_over_is_logged(tmp_path):
    path = tmp_path / "a.mid"
    path.write_bytes(header(2) + track_bytes(2 * b"\0\xff\x51\3\0\0\0"))
    lines = []
    read_midi(path, log=lines.append)
    midi_reader.read_song(path, log=lines.append)
    assert lines[:2] == [
        f"{path}: a tempo change that gives no tempo is left out (2 times)",
        f"{path}: only 1 of 2 tracks are there",
    ]
    assert lines[2:] == lines[:2]
