"""MusicXML, read as its notes sound, and checked against its schema."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import tempfile
from collections import defaultdict

from lxml import etree

_NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ATTRIBUTES = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"
targetNamespace="{}">{}</xs:schema>"""


@functools.cache
def schema() -> etree.XMLSchema:
    """The schema of MusicXML 3.1, which partitura brings along."""
    folder = pathlib.Path(importlib.util.find_spec("partitura").origin).parent
    text = (folder / "assets" / "musicxml.xsd").read_text(encoding="utf-8")
    others = {
        "xml": ("http://www.w3.org/XML/1998/namespace", ["lang", "space"]),
        "xlink": (
            "http://www.w3.org/1999/xlink",
            ["href", "type", "role", "title", "show", "actuate"],
        ),
    }
    with tempfile.TemporaryDirectory() as made:
        # The schemas that it imports lie on the net; only their attributes count.
        main = pathlib.Path(made) / "musicxml.xsd"
        main.write_text(text.replace("http://www.musicxml.org/xsd/", ""), "utf-8")
        for name, (space, attributes) in others.items():
            declared = "".join(f'<xs:attribute name="{a}"/>' for a in attributes)
            target = pathlib.Path(made) / f"{name}.xsd"
            target.write_text(_ATTRIBUTES.format(space, declared), "utf-8")
        return etree.XMLSchema(etree.parse(main))


def read(data: bytes) -> etree._Element:
    """Parses a file that the schema must take."""
    root = etree.fromstring(data)
    schema().assertValid(root)
    return root


def sounding(root: etree._Element) -> dict[str, list[tuple[int, int, int]]]:
    """(start, end, MIDI pitch) of each part's notes, sorted; ties are joined.

    Positions are in divisions from the first bar's start. Every voice must fill its bar
    or go back from where it ended, and every tie must lead to a note.
    """
    names = {p.get("id"): p.findtext("part-name") for p in root.iter("score-part")}
    drums = {
        i.get("id"): int(i.findtext("midi-unpitched", "1")) - 1
        for i in root.iter("midi-instrument")
    }
    found = defaultdict(list)
    for part in root.findall("part"):
        transposition, begin = 0, 0
        tied: dict[tuple[int, int], tuple[int, int]] = {}
        for measure in part.findall("measure"):
            now = at = furthest = 0
            for element in measure:
                duration = int(element.findtext("duration", "0"))
                if element.tag == "attributes":
                    transpose = element.find("transpose")
                    if transpose is not None:
                        octaves = int(transpose.findtext("octave-change", "0"))
                        semitones = int(transpose.findtext("chromatic"))
                        transposition = semitones + 12 * octaves
                elif element.tag == "backup":
                    assert now == furthest
                    now -= duration
                elif element.tag == "forward":
                    now += duration
                    furthest = max(furthest, now)
                elif element.tag == "note":
                    if element.find("chord") is None:
                        at, now = now, now + duration
                        furthest = max(furthest, now)
                    staff = int(element.findtext("staff"))
                    pitch = _pitch(element, drums)
                    if pitch is None:
                        continue
                    pitch += transposition
                    ties = {tie.get("type") for tie in element.findall("tie")}
                    start, end = begin + at, begin + at + duration
                    if "stop" in ties:
                        start, before = tied.pop((staff, pitch))
                        assert before == begin + at
                    if "start" in ties:
                        tied[staff, pitch] = start, end
                    else:
                        found[names[part.get("id")]].append((start, end, pitch))
            assert now == furthest
            begin += furthest
        assert not tied
    return {name: sorted(notes) for name, notes in found.items()}


def _pitch(note: etree._Element, drums: dict[str, int]) -> int | None:
    pitch = note.find("pitch")
    if pitch is not None:
        natural = _NATURALS[pitch.findtext("step")]
        alter = int(pitch.findtext("alter", "0"))
        return 12 * (int(pitch.findtext("octave")) + 1) + natural + alter
    if note.find("unpitched") is not None:
        return drums[note.find("instrument").get("id")]
    return None
