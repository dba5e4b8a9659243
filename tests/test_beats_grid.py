"""Beats: positions, tempo map, time signatures, and files of beats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3.beats import Beats, TempoChange, read_beats
from mt3.errors import ConfigError, DataError


def test_time_runs_evenly_between_beats_and_on_outside():
    beats = Beats([1.0, 1.5, 2.5])
    seconds = [0.0, 1.0, 1.25, 1.5, 2.0, 2.5, 4.5]
    positions = [-2.0, 0.0, 0.5, 1.0, 1.5, 2.0, 4.0]
    np.testing.assert_allclose(beats.to_beats(seconds), positions)
    np.testing.assert_allclose(beats.to_seconds(positions), seconds)
    assert beats.to_beats(2.0).shape == ()


@given(
    st.lists(st.floats(0.05, 3.0), min_size=2, max_size=20),
    st.lists(st.floats(0.0, 100.0), max_size=20),
)
def test_there_and_back(gaps, seconds):
    beats = Beats(np.cumsum(gaps))
    back = beats.to_seconds(beats.to_beats(seconds))
    np.testing.assert_allclose(back, seconds, atol=1e-6)


def test_steady_beats_reach_to_the_end():
    beats = Beats.steady(120.0, 0.25, seconds=2.25, beats_per_bar=3)
    np.testing.assert_allclose(beats.times, [0.25, 0.75, 1.25, 1.75, 2.25])
    assert beats.numbers.tolist() == [1, 2, 3, 1, 2]
    assert beats.tempo == pytest.approx(120.0)
    assert beats.tempo_map() == [TempoChange(0.25, 120.0)]
    assert beats.downbeats.tolist() == [0.25, 1.75]


def test_tempo_map_names_each_change_once():
    beats = Beats([0.0, 0.5, 1.0, 2.0, 3.0])
    assert beats.tempo_map() == [(0.0, 120.0), (1.0, 60.0)]
    rounded = Beats(np.round(np.arange(500) * 60 / 113, 6))
    assert len(rounded.tempo_map()) == 1


def test_bars_begin_at_downbeats_after_an_upbeat():
    times = np.arange(12.0)
    numbers = [4, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4]
    found = Beats(times, numbers).time_signatures()
    assert found == [(0, 1, 4), (1, 4, 4), (5, 3, 4), (8, 4, 4)]
    assert Beats(times, beats_per_bar=6, beat_unit=8).time_signatures() == [(0, 6, 8)]
    # Without numbers in between, bars go on as they are.
    sparse = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert Beats(times, sparse).time_signatures() == [(0, 4, 4)]


def test_beats_can_be_made_to_begin_at_zero():
    beats = Beats([1.1, 1.6, 2.1], [2, 3, 1], beats_per_bar=3)
    whole = beats.from_zero()
    np.testing.assert_allclose(whole.times, [0.0, 0.55, 1.1, 1.6, 2.1])
    assert whole.numbers.tolist() == [3, 1, 2, 3, 1]
    assert whole.from_zero() is whole
    short = Beats([0.1, 0.6]).from_zero()
    assert short.times.tolist() == [0.0, 0.1, 0.6]
    assert short.numbers.tolist() == [0, 0, 0]
    early = Beats([0.04, 0.54], [1, 2]).from_zero()
    assert early == Beats([0.0, 0.54], [1, 2])


def test_beats_are_rebuilt_from_json_values():
    beats = Beats.steady(90.0, 0.3, seconds=4.0, beats_per_bar=6, beat_unit=8)
    assert Beats(**beats.to_dict()) == beats
    assert Beats(beats.times) != beats
    assert beats != 1


@pytest.mark.parametrize(
    "values",
    [
        {"times": [1.0]},
        {"times": [[0.0, 1.0]]},
        {"times": [0.0, 0.0]},
        {"times": [-1.0, 0.0]},
        {"times": [0.0, np.nan]},
        {"times": [0.0, 16.5]},
        {"times": [0.0, 9.0], "beat_unit": 8},
        {"times": [0.0, 1.0], "numbers": [1]},
        {"times": [0.0, 1.0], "numbers": [1, -2]},
        {"times": [0.0, 1.0], "numbers": [1, 1.5]},
        {"times": [0.0, 1.0], "beats_per_bar": 0},
        {"times": [0.0, 1.0], "beat_unit": 3},
    ],
)
def test_beats_that_cannot_be_are_refused(values):
    with pytest.raises(ConfigError, match="beats: "):
        Beats(**values)


@pytest.mark.parametrize("values", [(0.0, 0.0), (np.nan, 0.0), (120.0, -1.0)])
def test_steady_beats_that_cannot_be_are_refused(values):
    with pytest.raises(ConfigError, match="expected"):
        Beats.steady(*values)


def test_a_file_of_beats_is_read(tmp_path):
    path = tmp_path / "song.beats"
    path.write_text("# a waltz\n0.5 1\n\n1.0\t2\n1.5   3\n2.0 1\n", encoding="utf-8")
    beats = read_beats(path)
    assert beats.times.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert beats.numbers.tolist() == [1, 2, 3, 1]
    assert (beats.beats_per_bar, beats.beat_unit) == (3, 4)
    path.write_text("0.5\n1.5\n", encoding="utf-8")
    assert read_beats(path).beats_per_bar == 4
    assert not read_beats(path).numbers.any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected two or more"),
        ("1.0\n0.5\n", "ascend"),
        ("1.0\n1.0005\n", "less than a millisecond apart"),
        ("0.0\n5e-324\n", "less than a millisecond apart"),
        ("0.0 1\none 2\n", "line 2 is 'one 2'; expected seconds"),
        (f"0.0 1\n1.0 {2**64}\n", "line 2 is '1.0 18446744073709551616'; expected"),
        ("0.0 1 2\n", "line 1"),
        ("0.0 1.5\n", "line 1"),
        ("0.0 40\n1.0 1\n", "time signature 40/4"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, reason):
    path = tmp_path / "wrong.beats"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason) as caught:
        read_beats(path)
    assert "wrong.beats" in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.beats: reading beats: No such file"):
        read_beats(tmp_path / "none.beats")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary: reading beats: it is not text"):
        read_beats(tmp_path / "binary")
