"""The paired bootstrap, against loops and what is known of means."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from mt3.scoring import bootstrap
from mt3.scoring.matching import precision_recall_f1


def test_the_docstrings_example():
    found = doctest.testmod(bootstrap)
    assert (found.attempted, found.failed) == (5, 0)


def test_draws_have_as_many_songs_as_there_are_and_a_seed():
    draws = bootstrap.draw_songs(7, draws=500)
    assert draws.shape == (500, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert draws.mean() == 1.0
    assert abs(draws.mean(axis=0) - 1).max() < 0.2
    assert (bootstrap.draw_songs(7, draws=500) == draws).all()
    assert (bootstrap.draw_songs(7, draws=500, seed=1) != draws).any()


def test_means_and_ratios_are_those_of_the_songs_drawn(rng):
    scores = rng.uniform(size=(6, 3))
    scores[[0, 1], [0, 2]] = np.nan
    scores[1:, 1] = np.nan
    found = rng.integers(0, 9, (6, 2, 3))
    found[..., 0] = found.min(axis=2)
    found[1:, 1] = 0
    draws = bootstrap.draw_songs(6, draws=40)
    means = bootstrap.mean_of_draws(draws, scores)
    ratios = bootstrap.ratios_of_draws(draws, found)
    undefined = 0
    for number, times in enumerate(draws.astype(int)):
        songs = np.repeat(np.arange(6), times)
        for metric in range(3):
            values = scores[songs, metric]
            values = values[~np.isnan(values)]
            undefined += not len(values)
            want = values.mean() if len(values) else np.nan
            np.testing.assert_allclose(means[number, metric], want)
        for kind in range(2):
            sums = found[songs, kind].sum(axis=0)
            want = precision_recall_f1(*sums.tolist())
            if not sums[1:].any():
                want = (np.nan,) * 3
            np.testing.assert_allclose(ratios[number, kind], want)
    assert undefined > 0


def test_intervals_have_the_width_that_means_of_draws_have(rng):
    scores = rng.normal(0.5, 0.1, (200, 1))
    draws = bootstrap.draw_songs(200)
    low, high = bootstrap.interval(bootstrap.mean_of_draws(draws, scores))[:, 0]
    assert (low + high) / 2 == pytest.approx(scores.mean(), abs=0.001)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 200**0.5, rel=0.05)


def test_intervals_leave_out_draws_without_a_value():
    values = np.array([[0.1, np.nan], [np.nan, np.nan], [0.3, np.nan], [0.2, np.nan]])
    low, high = bootstrap.interval(values, level=1.0)
    assert (low[0], high[0]) == (0.1, 0.3)
    assert np.isnan([low[1], high[1]]).all()
