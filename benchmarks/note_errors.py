"""How far the notes that were found lie from the truth: in time and in velocity.

Notes are matched by pitch and onset, with `mir_eval`'s rule, whatever instrument they
are given to; drum hits with drum hits. Onsets may differ by 100 ms, so that the
tolerance cuts off few errors. Of each piece:

* onset errors, ms: the mean of (estimate - reference), positive where the estimate is
  late; the median and the 95th percentile of its size;
* velocity error: the mean size of the difference, in steps of MIDI velocity;
* velocity rank correlation: Spearman's, within each instrument of the reference that
  has at least 10 matched notes of different velocities, averaged over these; 0 where
  all estimates are equal. The drums are one instrument.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mt3.note_sequences import Note
from mt3.scoring.matching import match_notes, note_array, with_length

TOLERANCE_SECONDS = 0.1
FEWEST_NOTES = 10
_ERRORS = (
    "Onset error, mean (ms)",
    "Onset error, median (ms)",
    "Onset error, 95 % (ms)",
    "Velocity error",
    "Velocity rank correlation",
)
DRUM_PREFIX = "Drums: "
NAMES = (*_ERRORS, *(DRUM_PREFIX + name for name in _ERRORS))


def note_errors(
    reference_notes: Iterable[Note], estimated_notes: Iterable[Note]
) -> dict[str, float]:
    """Returns the errors of one piece by name (`NAMES`), NaN where nothing matches."""
    reference = with_length(note_array(reference_notes))
    estimate = with_length(note_array(estimated_notes))
    values: list[float] = []
    for is_drum in (False, True):
        one, other = (n[n["is_drum"] == is_drum] for n in (reference, estimate))
        pairs = match_notes(
            one, other, onset_tolerance=TOLERANCE_SECONDS, offset_ratio=None
        )
        values += _errors(one[pairs[:, 0]], other[pairs[:, 1]])
    return dict(zip(NAMES, values, strict=True))


def _errors(reference: np.ndarray, estimate: np.ndarray) -> list[float]:
    """Returns the values of `_ERRORS` for notes in pairs."""
    if not len(reference):
        return [np.nan] * len(_ERRORS)
    late = 1000 * (estimate["start_time"] - reference["start_time"])
    louder = estimate["velocity"].astype(float) - reference["velocity"]
    return [
        float(late.mean()),
        float(np.median(np.abs(late))),
        float(np.percentile(np.abs(late), 95)),
        float(np.abs(louder).mean()),
        _rank_correlation(reference, estimate),
    ]


def _rank_correlation(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Averages the rank correlations of velocities over the instruments."""
    from scipy import stats

    found = []
    programs = np.where(reference["is_drum"], 0, reference["program"])
    for program in np.unique(programs):
        one, other = (n["velocity"][programs == program] for n in (reference, estimate))
        if len(one) < FEWEST_NOTES or not np.ptp(one):
            continue
        found.append(stats.spearmanr(one, other).statistic if np.ptp(other) else 0.0)
    return float(np.mean(found)) if found else np.nan
