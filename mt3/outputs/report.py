"""A report in one HTML file: piano roll, playback, score, note table and summary.

The file needs nothing else: no network, no other file, and a content security
policy in it forbids loading any. The piano roll draws only what is in view, so an
hour of music scrolls as well as a minute. All text from outside is escaped.
"""

from __future__ import annotations

import html
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, BinaryIO

from mt3.midi import general_midi
from mt3.outputs.pianoroll import clock_time, instrument_colours
from mt3.outputs.score import engraving
from mt3.outputs.score.notation import Score
from mt3.outputs.transcription import Transcription

# The page's scripts, in the order in which they import one another; the local page of
# `mt3.serve` uses all but the last.
_MODULES = ("tracks", "roll", "player", "sheets", "report")
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def write_html(
    result: Transcription,
    stream: BinaryIO,
    *,
    scores: Mapping[str, float] | None = None,
    score: Score | None = None,
) -> None:
    """Writes the report.

    Args:
      result: what to report.
      stream: binary file to write to.
      scores: metric values to list, by name.
      score: sheet music to show; its pages turn as the playback goes on.
    """
    pages = engraving.engrave(score, to_print=False) if score else []
    heading = result.source or "Transcription"
    plural = "" if len(result.notes) == 1 else "s"
    facts = f"{clock_time(result.end_time)} long, {len(result.notes)} note{plural}"
    page = string.Template(_part("report.html")).substitute(
        title=html.escape(f"{heading}: transcription"),
        heading=html.escape(heading),
        version=html.escape(result.version),
        facts=html.escape(facts),
        style=_part("common.css"),
        instruments=_instruments_table(result),
        scores=_scores_section(scores) if scores else "",
        score=_score_section(pages) if pages else "",
        facts_table=_facts_table(result),
        data=_data(result, score, pages),
        script=_script(),
    )
    # File names may hold bytes that are no text.
    stream.write(page.encode("utf-8", errors="replace"))


def _part(name: str) -> str:
    """Returns one of the page's parts that lie beside this module."""
    return (resources.files(__package__) / "report_page" / name).read_text("utf-8")


def _script() -> str:
    """Returns the modules of the page as one script, which no module loader needs."""
    modules = "\n".join(_part(f"{name}.js") for name in _MODULES)
    lines = _IMPORT.sub("", _EXPORT.sub("", modules))
    return f'"use strict";\n(() => {{\n{lines}}})();'


def _data(
    result: Transcription, score: Score | None, pages: Sequence[engraving.Page]
) -> str:
    """Returns the notes as JSON that cannot close the element it stands in."""
    groups = result.by_instrument()
    colours = instrument_colours(groups)
    record = {
        "duration": round(max(result.end_time, 0.1), 3),
        "drum_lanes": general_midi.DRUM_LANES,
        "drum_lane_of": [general_midi.drum_lane(pitch) for pitch in range(128)],
        "instruments": [
            {
                "name": general_midi.instrument_name(*key),
                "program": key[0],
                "is_drum": key[1],
                "colour": colours[key],
                "notes": [
                    value
                    for note in notes
                    for value in (
                        round(note.start_time, 3),
                        round(note.end_time, 3),
                        note.pitch,
                        note.velocity,
                    )
                ],
                "confidence": [
                    None if note.confidence is None else round(note.confidence, 2)
                    for note in notes
                ],
            }
            for key, notes in groups.items()
        ],
    }
    if score:
        # When each bar begins, and how many there are on each page.
        record["bars"] = [round(bar.seconds, 3) for bar in score.bars]
        record["pages"] = [page.bars for page in pages]
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _instruments_table(result: Transcription) -> str:
    """Returns counts and ranges by instrument."""
    groups = result.by_instrument()
    colours = instrument_colours(groups)
    rows = []
    for key, notes in groups.items():
        low, high = min(n.pitch for n in notes), max(n.pitch for n in notes)
        span = f"{general_midi.pitch_name(low)} to {general_midi.pitch_name(high)}"
        swatch = f'<span class="swatch" style="--colour: {colours[key]}"></span>'
        name = html.escape(general_midi.instrument_name(*key))
        # A drum kit has no program and no pitches.
        program, span = ("", "") if key[1] else (str(key[0]), span)
        rows.append([swatch + name, program, str(len(notes)), span])
    if not rows:
        return "<p>None.</p>"
    return _table(
        ["Instrument", "Program", "Notes", "Range"],
        rows,
        classes={1: "number", 2: "number"},
    )


def _scores_section(scores: Mapping[str, float]) -> str:
    """Returns the scores as a section of the page."""
    rows = [
        [html.escape(name), "-" if math.isnan(value) else f"{value:.4f}"]
        for name, value in scores.items()
    ]
    table = _table(["Score", "Value"], rows, classes={1: "number"})
    return (
        '<section aria-labelledby="scores-heading">\n'
        f'<h2 id="scores-heading">Scores</h2>\n{table}\n</section>'
    )


def _score_section(pages: Sequence[engraving.Page]) -> str:
    """Returns the pages of sheet music; all are shown where scripts don't run."""
    sheets = "\n".join(
        f'<div class="sheet" role="img" aria-label="Score, page {number}">'
        f"{page.svg}</div>"
        for number, page in enumerate(pages, 1)
    )
    return (
        '<section aria-labelledby="score-heading">\n'
        f'<h2 id="score-heading">Score</h2>\n<div id="sheets">{sheets}</div>\n'
        "</section>"
    )


def _facts_table(result: Transcription) -> str:
    """Returns source, model, counts and settings."""
    facts: dict[str, Any] = {
        "Recording": result.source or "unknown",
        "Length": f"{clock_time(result.end_time)} ({result.end_time:.2f} s)",
        "Part from": clock_time(result.start) if result.start else "the beginning",
        "Warnings": "; ".join(result.warnings) or "none",
        "Model": result.model or "unknown",
        "Model SHA-256": result.model_sha256 or "unknown",
        "mt3 version": result.version,
        "Invalid events": result.invalid_events,
        "Dropped events": result.dropped_events,
    }
    facts.update((f"Option {name}", value) for name, value in result.settings.items())
    rows = [
        [html.escape(name), html.escape(str(value))] for name, value in facts.items()
    ]
    return _table(["What", "Value"], rows, classes={1: "long"})


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    classes: Mapping[int, str] | None = None,
) -> str:
    """Returns a table of cells that are HTML already; first cells are row headers.

    `classes` gives the style class of columns by their number.
    """
    kinds = {column: f' class="{name}"' for column, name in (classes or {}).items()}

    def line(row: Sequence[str], head: bool) -> str:
        made = []
        for column, cell in enumerate(row):
            tag = "th" if head or column == 0 else "td"
            scope = ' scope="col"' if head else ' scope="row"' if column == 0 else ""
            made.append(f"<{tag}{scope}{kinds.get(column, '')}>{cell}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(line(row, head=False) for row in rows)
    return (
        f'<div class="wide"><table>\n<thead>{line(heads, head=True)}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
