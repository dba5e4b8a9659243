"""The tables of `accuracy.py`, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.group_scores import POLYPHONY_BINS
from benchmarks.held_out import GROUPS
from benchmarks.note_errors import NAMES
from mt3.scoring import counts as metrics
from mt3.scoring.instruments import format_rows

ROWS = (
    *metrics.MAIN_METRICS,
    "Onset precision",
    "Onset recall",
    "Instrument detection F1 (midi_class)",
    "Instrument leakage (midi_class)",
    "Right class",
    "One instrument",
    *NAMES,
)
# Of the comparison of choices, where there are columns for few.
SHORT_NAMES = {
    "Onset F1": "onset",
    "Onset + offset F1": "on+off",
    "Frame F1": "frame",
    "Onset + offset + program F1 (midi_class)": "multi",
    "Drum onset F1 (midi_class)": "drums",
    "Instrument leakage (midi_class)": "leakage",
}
GROUP_SCORES = {
    "found": "onset recall of each group's notes, found as any instrument",
    "F1": "onset F1 within the group",
    "precision": "onset precision within the group",
    "recall": "onset recall within the group",
}
SOLO_SCORES = {
    "Onset F1": "onset F1",
    "Onset + offset F1": "onset + offset F1",
    "Group F1": "onset F1 of the notes given to the right group",
    "Right class": "share in which most notes have the right class",
    "One instrument": "share written as one instrument",
}

# Column label -> set -> what `accuracy.summarise` returns.
Summaries = Mapping[str, Mapping[str, Mapping[str, Any]]]


def all_tables(summaries: Summaries) -> str:
    """Returns every table, a column for each model or folder."""
    first = next(iter(summaries.values()))
    tables = [
        _table(
            f"{kind}: mean over {summary['pieces']} pieces",
            [row for row in ROWS if _is_number(row, kind, summaries)],
            summaries,
            lambda s, row, kind=kind: s[kind]["scores"].get(row, math.nan),
        )
        for kind, summary in first.items()
    ]
    # Solos have tables by group of their own.
    mixed = [kind for kind, summary in first.items() if not summary["solos"]]
    for kind in mixed:
        played = [c for c in first[kind]["groups"].values() if c.reference]
        for score, title in GROUP_SCORES.items() if len(played) > 1 else ():
            tables.append(_count_table(f"{kind}: {title}", summaries, kind, score))
    for kind in mixed:
        title = f"{kind}: onset recall by how many notes sound at once"
        tables.append(_count_table(title, summaries, kind, "found", "polyphony"))
    for kind in (kind for kind in first if kind not in mixed):
        for score, title in SOLO_SCORES.items():
            tables.append(
                _table(
                    f"{kind}: {title}, by group",
                    list(first[kind]["solos"]),
                    summaries,
                    lambda s, row, k=kind, score=score: s[k]["solos"][row][score],
                )
            )
    return "\n\n".join(tables)


def _is_number(row: str, kind: str, summaries: Summaries) -> bool:
    scores = (
        by_set[kind]["scores"].get(row, math.nan) for by_set in summaries.values()
    )
    return not all(map(math.isnan, scores))


def comparison(summaries: Summaries) -> str:
    """Returns a table with a row for each model and choice, one for each set."""
    tables = []
    for kind in next(iter(summaries.values())):
        rows = {
            label: [by_set[kind]["scores"].get(name, math.nan) for name in SHORT_NAMES]
            for label, by_set in summaries.items()
        }
        tables.append(_lines(kind, list(SHORT_NAMES.values()), rows))
    return "\n\n".join(tables)


def to_json(
    settings: Mapping[str, Any],
    summaries: Mapping[str, Summaries],
    records: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str:
    """Returns everything as JSON, by soundfont and column; NaN becomes null."""
    everything = {"settings": settings, "summaries": summaries, "pieces": records}
    return json.dumps(_plain(everything), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turns counts into their numbers and scores, and what is no number into None."""
    if dataclasses.is_dataclass(value):
        value = {**dataclasses.asdict(value), **value.scores()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _count_table(
    title: str, summaries: Summaries, kind: str, score: str, counts: str = "groups"
) -> str:
    """Returns a table by group or polyphony, with the number of reference notes."""
    rows: dict[str, int] = {}
    for by_set in summaries.values():
        for row, count in by_set[kind][counts].items():
            rows[row] = count.reference
    order = (*GROUPS, *(name for name, _ in POLYPHONY_BINS))
    rows = {row: rows[row] for row in order if row in rows}

    def cell(by_set, row):
        count = by_set[kind][counts].get(row)
        return math.nan if count is None else count.scores()[score]

    return _table(title, list(rows), summaries, cell, {"notes": rows})


def _table(
    title: str,
    rows: Sequence[str],
    summaries: Summaries,
    cell: Callable[[Mapping[str, Any], str], float],
    before: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """Returns a table with a column for each label, and integers before them."""
    before = before or {}
    cells = {
        row: [
            *(numbers[row] for numbers in before.values()),
            *(cell(by_set, row) for by_set in summaries.values()),
        ]
        for row in rows
    }
    return _lines(title, [*before, *summaries], cells)


def _lines(
    title: str, heads: Sequence[str], rows: Mapping[str, Sequence[float]]
) -> str:
    """Aligns rows of numbers under a title."""
    cells = [[row, *map(_number, values)] for row, values in rows.items()]
    return "\n".join([title, *format_rows([["", *heads], *cells])])


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"
