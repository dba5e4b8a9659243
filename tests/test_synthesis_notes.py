"""Note arrays, random notes and re-orchestration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3.midi import note_arrays
from mt3.note_sequences import Note
from mt3.synthesis import instruments, orchestration, random_notes
from tests.support.note_strategies import note_lists
from tests.support.songs import overlaps, song

seeds = st.integers(0, 2**32 - 1)


@given(note_lists())
def test_notes_and_arrays_are_two_forms_of_one_thing(notes):
    assert note_arrays.to_notes(note_arrays.to_array(notes)) == notes


@given(note_lists())
def test_resolved_notes_do_not_overlap_and_keep_their_onsets(notes):
    array = note_arrays.to_array(notes)
    resolved = note_arrays.resolve_overlaps(array, unison_seconds=1e-6)
    assert overlaps(resolved) == 0
    assert (resolved["end_time"] > resolved["start_time"]).all()
    onsets = {(n.start_time, n.pitch, n.program, n.is_drum) for n in notes}
    columns = ("start_time", "pitch", "program", "is_drum")
    assert {tuple(n) for n in resolved[list(columns)].tolist()} == onsets


def test_unisons_become_one_note_with_the_last_end():
    array = note_arrays.to_array(
        [Note(1.0, 2.0, 60, 50), Note(1.01, 3.0, 60, 90), Note(1.01, 3.0, 61, 90)]
    )
    merged = note_arrays.to_notes(note_arrays.resolve_overlaps(array))
    assert merged == [Note(1.0, 3.0, 60, 90), Note(1.01, 3.0, 61, 90)]


def test_a_window_keeps_held_notes_with_their_true_times():
    array = note_arrays.to_array(
        [
            Note(0.0, 1.0, 60),
            Note(0.5, 4.0, 61),
            Note(2.0, 2.5, 62),
            Note(2.9, 9.0, 63),
            Note(3.0, 4.0, 64),
            Note(0.9, 4.0, 38, is_drum=True),
        ]
    )
    inside = note_arrays.window(array, 1.0, 3.0)
    assert [
        (int(n["pitch"]), round(float(n["start_time"]), 6), float(n["end_time"]))
        for n in inside
    ] == [(61, -0.5, 3.0), (62, 1.0, 1.5), (63, 1.9, 8.0)]


@given(seeds)
def test_random_notes_keep_to_ranges_times_and_voices(seed):
    rng = np.random.default_rng(seed)
    notes = random_notes.random_notes(rng, seconds=5.0)
    again = random_notes.random_notes(np.random.default_rng(seed), seconds=5.0)
    np.testing.assert_array_equal(notes, again)
    assert len(notes)
    assert overlaps(notes) == 0
    assert notes["start_time"].min() >= 0
    assert notes["start_time"].max() < 5.0 + 0.1
    assert (notes["end_time"] > notes["start_time"]).all()
    assert 1 <= len(note_arrays.parts(notes)) <= 9
    assert notes["velocity"].min() >= 1
    assert notes["velocity"].max() <= 127
    for note in notes[~notes["is_drum"]]:
        low, high = instruments.pitch_range(int(note["program"]))
        assert low <= note["pitch"] <= high


@pytest.mark.parametrize("pattern", random_notes.PATTERNS)
def test_every_pattern_keeps_to_its_voices(rng, pattern):
    for _ in range(10):
        notes = random_notes.part(rng, 0, seconds=6.0, voices=4, pattern=pattern)
        assert len(notes)
        if pattern == "free":
            time = np.linspace(0, 6, 500)[:, None]
            sounding = (notes["start_time"] <= time) & (time < notes["end_time"])
            assert sounding.sum(axis=1).max() <= 4


def test_monophonic_instruments_play_one_note_at_a_time(rng):
    for program in (56, 66, 73):
        notes = random_notes.part(rng, program, seconds=20.0, voices=5, pattern="free")
        assert (notes["start_time"][1:] >= notes["end_time"][:-1] - 1e-9).all()


def test_drawn_programs_stay_in_their_class_and_are_never_noises(rng):
    for _ in range(300):
        assert 40 <= instruments.draw_program(rng, like=44) < 48
        assert instruments.draw_program(rng) < 120
    assert instruments.draw_program(rng, like=124) == 124
    for program in range(128):
        low, high = instruments.pitch_range(program)
        assert 21 <= low < high <= 108


@given(seeds, st.integers(-5, 5))
def test_transposing_moves_pitches_and_leaves_drums(seed, semitones):
    notes = song(np.random.default_rng(seed))
    moved = orchestration.transpose(notes, semitones)
    drums = notes["is_drum"]
    assert (moved["pitch"][drums] == notes["pitch"][drums]).all()
    assert (moved["pitch"][~drums] - notes["pitch"][~drums] == semitones).all()
    np.testing.assert_array_equal(orchestration.transpose(moved, -semitones), notes)


def test_notes_transposed_off_the_keyboard_are_dropped():
    array = note_arrays.to_array([Note(0, 1, 126), Note(0, 1, 60)])
    assert orchestration.transpose(array, 4)["pitch"].tolist() == [64]


@given(seeds, st.floats(0.8, 1.25))
def test_tempo_scales_every_time(seed, factor):
    notes = song(np.random.default_rng(seed))
    faster = orchestration.change_tempo(notes, factor)
    np.testing.assert_allclose(faster["start_time"] * factor, notes["start_time"])
    np.testing.assert_allclose(faster["end_time"] * factor, notes["end_time"])


@given(seeds)
def test_redrawn_programs_keep_class_rhythm_and_drums(seed):
    rng = np.random.default_rng(seed)
    notes = song(rng)
    changed = orchestration.redraw_programs(rng, notes)
    assert (changed["program"] // 8 == notes["program"] // 8).all()
    assert (changed["start_time"] == notes["start_time"]).all()
    drums = notes["is_drum"]
    np.testing.assert_array_equal(changed[drums], notes[drums])
    for note in changed[~drums]:
        low, high = instruments.pitch_range(int(note["program"]))
        assert low <= note["pitch"] <= high
    # Octaves only: the tune keeps its pitch classes.
    assert ((changed["pitch"] - notes["pitch"])[~drums] % 12 == 0).all()


def test_re_orchestration_changes_nothing_in_place(rng):
    notes = song(rng)
    before = notes.copy()
    orchestration.redraw_programs(rng, notes, anywhere=1.0)
    orchestration.vary_velocities(rng, notes)
    orchestration.jitter_onsets(rng, notes, 0.01)
    orchestration.change_articulation(rng, notes, 1.0)
    orchestration.let_ring_out(notes)
    np.testing.assert_array_equal(notes, before)


def test_dropping_tracks_never_drops_all(rng):
    notes = song(rng, tracks=4)
    for _ in range(20):
        assert len(orchestration.drop_tracks(rng, notes, 0.9))
    np.testing.assert_array_equal(orchestration.drop_tracks(rng, notes, 0.0), notes)


def test_a_solo_leaves_one_program_and_no_drums(rng):
    piano = orchestration.solo(song(rng), 0)
    assert note_arrays.parts(piano) == [(0, False)]
    assert overlaps(piano) == 0


def test_a_flute_gets_the_melody():
    chord = [Note(0, 2, p) for p in (60, 64, 67)] + [Note(1, 2, 62)]
    flute = orchestration.solo(note_arrays.to_array(chord), 73)
    assert note_arrays.to_notes(flute) == [
        Note(0, 1, 67, program=73),
        Note(1, 2, 62, program=73),
    ]


def test_velocities_stay_velocities(rng):
    varied = orchestration.vary_velocities(rng, song(rng))["velocity"]
    assert varied.min() >= 1
    assert varied.max() <= 127
    assert len(np.unique(varied)) > 5


def test_struck_bars_do_not_sound_for_ever():
    array = note_arrays.to_array(
        [Note(0, 9, 70, program=13), Note(0, 9, 70, program=48)]
    )
    ends = orchestration.let_ring_out(array)["end_time"].tolist()
    assert ends == [instruments.ring_seconds(13), 9.0]


def test_a_groove_repeats_in_the_songs_tempo(rng):
    groove = np.zeros(4, note_arrays.PART_DTYPE)
    groove["start_time"] = np.arange(4) * 0.5  # a bar at 120 beats a minute
    groove["end_time"] = groove["start_time"] + 0.1
    groove["pitch"] = (36, 22, 58, 42)
    groove["is_drum"] = True
    laid = orchestration.add_groove(
        song(rng),
        groove,
        song_tempo=100.0,
        groove_tempo=120.0,
        start=1.3,
        seconds=6.0,
    )
    hits = laid[laid["is_drum"]]
    np.testing.assert_allclose(hits["start_time"], np.arange(1.2, 7.3, 0.6))
    # Keys that electronic kits have of their own are put right.
    assert hits["pitch"][:4].tolist() == [36, 42, 43, 42]
