"""How far scores would move with other songs: the paired bootstrap.

Songs are drawn with replacement, as many as there are, thousands of times; the scores
of each draw show how much a score depends on which songs were at hand (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993). Two systems are compared on the
same draws: songs that are hard for both do not widen the interval of the difference.
Intervals are those of percentiles.

They say nothing of other kinds of music than the songs are, nor of a system's luck in
training.

Example: the second system is 0.1 better on every song.

    >>> import numpy as np
    >>> scores = np.array([[0.5], [0.7], [0.9]])
    >>> draws = draw_songs(3)
    >>> one, other = (mean_of_draws(draws, s) for s in (scores, scores + 0.1))
    >>> interval(other - one).round(6).tolist()
    [[0.1], [0.1]]
"""

from __future__ import annotations

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
SEED = 0


def draw_songs(num_songs: int, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Draws songs with replacement.

    Args:
      num_songs: how many there are, and how many each draw has.
      draws: how often.
      seed: of the generator; equal seeds give equal draws.

    Returns:
      float64 [draws, num_songs]: how often each song was drawn.
    """
    shares = np.full(num_songs, 1 / num_songs)
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_songs, shares, size=draws).astype(np.float64)


def mean_of_draws(draws: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Averages scores over the songs of each draw.

    Args:
      draws: [draws, songs] from `draw_songs`.
      scores: [songs, metrics], NaN where a song has no score: it is left out.

    Returns:
      float64 [draws, metrics]; NaN where no song of a draw has a score.
    """
    known = ~np.isnan(scores)
    sums = draws @ np.where(known, scores, 0.0)
    with np.errstate(invalid="ignore"):
        return sums / (draws @ known.astype(np.float64))


def ratios_of_draws(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Computes precision, recall and F1 of the songs of each draw, counts added up.

    Args:
      draws: [draws, songs] from `draw_songs`.
      counts: [songs, kinds, 3] of matched, reference and estimated notes.

    Returns:
      float64 [draws, kinds, 3]: precision, recall and F1; NaN where both sides are
      empty, 0 where one is.
    """
    songs, kinds, _ = counts.shape
    sums = draws @ counts.reshape(songs, 3 * kinds).astype(np.float64)
    matched, reference, estimated = np.moveaxis(sums.reshape(-1, kinds, 3), 2, 0)
    with np.errstate(invalid="ignore"):
        f1 = 2 * matched / (reference + estimated)
    nothing = reference + estimated == 0
    precision, recall = (
        np.where(nothing, np.nan, matched / np.maximum(total, 1))
        for total in (estimated, reference)
    )
    return np.stack([precision, recall, f1], axis=2)


def interval(values: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Returns the interval in which the middle of the draws lies.

    Args:
      values: [draws, ...] of `mean_of_draws`, say, or a difference of two.
      level: share of the draws that it holds.

    Returns:
      float64 [2, ...]: its lower and upper ends; NaN where a quantity is NaN in every
      draw. Draws in which it is NaN are left out.
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    if not np.isnan(values).any():
        return np.quantile(values, ends, axis=0)
    flat = values.reshape(len(values), -1)
    found = np.full((2, flat.shape[1]), np.nan)
    for column, numbers in enumerate(flat.T):
        numbers = numbers[~np.isnan(numbers)]
        if len(numbers):
            found[:, column] = np.quantile(numbers, ends)
    return found.reshape(2, *values.shape[1:])
