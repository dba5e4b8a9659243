"""Few cases in which every two values of two options meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Case = dict[str, Any]
# Completions that are tried for a pair before it counts as impossible.
_TRIES = 100


def covering_array(
    values: Mapping[str, Sequence[Any]], refused: Callable[[Case], Any]
) -> tuple[list[Case], list[Case]]:
    """Chooses cases so that each pair of values is in one of them.

    Greedily: a case begins with a pair that is missing, and takes of each further
    option the value that adds most missing pairs.

    Args:
      values: of each option.
      refused: says whether a case, or a part of one, can't be; then no completion of
        it can.

    Returns:
      The cases, and the pairs that are in none because they are refused.
    """
    rng = np.random.default_rng(0)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(sorted(values), 2)
        for i in range(len(values[a]))
        for j in range(len(values[b]))
    }
    cases, impossible = [], []
    for pair in sorted(missing):
        if pair not in missing:
            continue
        chosen = None
        for _ in range(_TRIES):
            chosen = chosen or _completed(pair, values, missing, refused, rng)
        if chosen is None:
            missing.discard(pair)
            impossible.append(_case(dict(pair), values))
            continue
        missing -= set(itertools.combinations(sorted(chosen.items()), 2))
        cases.append(_case(chosen, values))
    return cases, impossible


def _completed(pair, values, missing, refused, rng) -> dict[str, int] | None:
    chosen = dict(pair)
    if refused(_case(chosen, values)):
        return None
    others = [name for name in sorted(values) if name not in chosen]
    for name in rng.permutation(others).tolist():
        gains = {}
        for i in rng.permutation(len(values[name])).tolist():
            if refused(_case({**chosen, name: i}, values)):
                continue
            gains[i] = sum(
                tuple(sorted([(name, i), taken])) in missing for taken in chosen.items()
            )
        if not gains:
            return None
        chosen[name] = max(gains, key=gains.__getitem__)
    return chosen


def _case(chosen: Mapping[str, int], values: Mapping[str, Sequence[Any]]) -> Case:
    return {name: values[name][i] for name, i in chosen.items()}
