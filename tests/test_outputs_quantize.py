"""Notes on a grid: which one, and that none is lost or turned around."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3.beats import Beats
from mt3.errors import ConfigError
from mt3.note_sequences import Note
from mt3.outputs import quantize
from tests.support.note_strategies import note_lists

BEATS = Beats.steady(120.0, 0.5, seconds=10.0)


def at(*places, length=0.4, pitch=60):
    """Notes at positions in beats."""
    return [
        Note(0.5 + place / 2, 0.5 + (place + length) / 2, pitch + index)
        for index, place in enumerate(places)
    ]


def places(notes):
    return [round((note.start_time - 0.5) * 2, 6) for note in notes]


def shaken(notes, seed, seconds):
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(note, start_time=note.start_time + rng.normal(0, seconds))
        for note in notes
    ]


@pytest.mark.parametrize(
    ("grid", "wanted"),
    [
        ("1/4", 1.0),
        ("1/8", 1.5),
        ("1/16", 1.25),
        ("1/32", 1.375),
        ("1/4T", 4 / 3),
        ("1/8T", 4 / 3),
        ("1/16T", 4 / 3),
    ],
)
def test_notes_go_to_the_nearest_grid_point(grid, wanted):
    (note,) = quantize.quantize_notes(at(1.34), BEATS, grid)
    assert places([note]) == [pytest.approx(wanted, abs=1e-5)]


def test_grids_are_of_quarters_whatever_the_beat_is():
    eighths = Beats.steady(240.0, 0.5, seconds=10.0, beats_per_bar=6, beat_unit=8)
    for grid in quantize.GRIDS[:-1]:
        one = quantize.quantize_notes(at(1.34, 2.05), BEATS, grid)
        other = quantize.quantize_notes(at(1.34, 2.05), eighths, grid)
        assert places(one) == pytest.approx(places(other)), grid


def test_grids_begin_with_the_bar():
    beats = Beats(BEATS.times, np.arange(len(BEATS.times)) % 3 + 1, 3)
    # Two thirds of a quarter go into a bar of three four times and a half.
    got = quantize.quantize_notes(at(0.1, 2.6, 3.1, 3.6), beats, "1/4T")
    assert places(got) == pytest.approx([0, 8 / 3, 3, 3 + 2 / 3], abs=1e-5)


def test_ends_move_too_and_no_note_is_without_length():
    notes = [Note(0.52, 1.23, 60), Note(0.99, 1.0, 62)]
    got = quantize.quantize_notes(notes, BEATS, "1/8")
    assert [(n.start_time, n.end_time) for n in got] == [(0.5, 1.25), (1.0, 1.25)]


def test_automatic_grids_hear_triplets_where_they_are():
    straight = [k / 4 for k in range(32)]
    triplets = [8 + k / 3 for k in range(6)]
    more = [10 + k / 4 for k in range(8)]
    wanted = [*straight, *triplets, *more]
    notes = shaken(at(*wanted), 3, 0.008)
    got = places(quantize.quantize_notes(notes, BEATS, "auto"))
    assert got == pytest.approx(wanted, abs=1e-5)


def test_automatic_grids_need_no_finer_ones_than_the_notes_do():
    wanted = [float(k) for k in range(16)]
    got = places(quantize.quantize_notes(shaken(at(*wanted), 4, 0.02), BEATS, "auto"))
    assert got == wanted


def test_swing_is_taken_off_and_put_on():
    swung = [k // 2 + (0.64 if k % 2 else 0.0) for k in range(16)]
    got = places(quantize.quantize_notes(at(*swung), BEATS, "1/8", swing=0.66))
    assert got == pytest.approx([k // 2 + 0.66 * (k % 2) for k in range(16)])
    straight, _ = quantize.positions(at(*swung), BEATS, "1/8", swing=0.66)
    assert straight == pytest.approx([k / 2 for k in range(16)])


def test_chords_stay_together():
    # Across the middle between two grid points.
    notes = at(1.11, 1.12, 1.14, 1.15)
    assert len(set(places(quantize.quantize_notes(notes, BEATS, "1/16")))) == 1


def test_repeated_notes_stay_apart():
    roll = [dataclasses.replace(note, pitch=38) for note in at(1.0, 1.08, 1.13, 1.2)]
    got = places(quantize.quantize_notes(roll, BEATS, "1/8"))
    assert got == sorted(set(got))
    unison, _ = quantize.positions(roll, BEATS, "1/8", unisons=True)
    assert len(set(unison)) == 1


@given(
    note_lists(),
    st.sampled_from(quantize.GRIDS),
    st.floats(0.5, 0.75),
    st.floats(0.0, 2.0),
    st.sampled_from([2, 4, 8]),
)
def test_count_and_order_stay(notes, grid, swing, first, unit):
    beats = Beats(first + np.array([0.0, 0.4, 0.9, 1.3, 2.1]), beat_unit=unit)
    got = quantize.quantize_notes(notes, beats, grid, swing=swing)
    assert [(n.pitch, n.program, n.is_drum, n.velocity) for n in got] == [
        (n.pitch, n.program, n.is_drum, n.velocity) for n in notes
    ]
    assert all(note.end_time > note.start_time >= 0 for note in got)
    different = {(n.start_time, n.pitch, n.program, n.is_drum) for n in notes}
    assert len({(n.start_time, n.pitch, n.program, n.is_drum) for n in got}) == len(
        different
    )
    order = np.argsort([n.start_time for n in notes], kind="stable")
    if len({n.pitch for n in notes}) == len(notes):
        starts = np.array([n.start_time for n in got])[order]
        assert (np.diff(starts) >= -1e-9).all()


def test_what_is_on_the_grid_stays():
    notes = at(0, 0.25, 1.5, 3.0, length=0.25)
    assert quantize.quantize_notes(notes, BEATS, "1/16") == notes
    once = quantize.quantize_notes(shaken(notes, 1, 0.01), BEATS, "auto")
    assert quantize.quantize_notes(once, BEATS, "auto") == once


@pytest.mark.parametrize(
    ("grid", "swing", "message"),
    [
        ("1/5", 0.5, "quantize is '1/5'; expected '1/4' or"),
        ("1/16", 0.8, "swing is 0.8; expected a number from 0.5 to 0.75"),
        ("1/16", float("nan"), "swing is nan"),
        (None, 0.6, "needs a grid"),
    ],
)
def test_what_cannot_work_is_refused(grid, swing, message):
    with pytest.raises(ConfigError, match=message):
        quantize.check_grid(grid, swing)
