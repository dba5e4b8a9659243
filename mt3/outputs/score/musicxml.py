"""Scores as MusicXML 3.1, plain and compressed (.mxl).

Written here rather than by a library, none of which writes percussion staves with their
instruments, beams, tablature and transposition so that the schema takes them.

Velocities are the notes' `dynamics` (per cent of 90, as the format defines it). Gaps of
a staff's second voice are left empty, without rests.
"""

from __future__ import annotations

import dataclasses
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

from mt3.midi import general_midi
from mt3.outputs.score import instruments, values
from mt3.outputs.score.notation import Bar, Chord, Head, Part, Score, Staff
from mt3.outputs.score.values import DIVISIONS, Value

_DOCTYPE = (
    '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 3.1 Partwise//EN" '
    '"http://www.musicxml.org/dtds/partwise.dtd">'
)
_FORTE = 90  # the velocity of which `dynamics` are per cent
_ACCIDENTALS = {
    -2: "flat-flat",
    -1: "flat",
    0: "natural",
    1: "sharp",
    2: "double-sharp",
}
_VOICES_OF_STAFF = 4
# The tempo is written again where it has changed by this share.
_SAME_TEMPO = 0.02
_CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<!-- {} -->
<container><rootfiles><rootfile full-path="score.musicxml" \
media-type="application/vnd.recordare.musicxml+xml"/></rootfiles></container>
"""
# What XML 1.0 can't hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_musicxml(score: Score, stream: BinaryIO, *, software: str = "mt3") -> None:
    """Writes a score as one XML file.

    Args:
      score: what to write.
      stream: binary file to write to.
      software: name and version of the program that made it.
    """
    stream.write(f'<?xml version="1.0" encoding="UTF-8"?>\n{_DOCTYPE}\n'.encode())
    head, end = _text(_header(score, software), 0).rsplit("</", 1)
    stream.write(head.encode())
    for number, part in enumerate(score.parts, 1):
        # Bar by bar: the elements of hours of music would take gigabytes.
        stream.write(f' <part id="P{number}">\n'.encode())
        for measure in _measures(score, part, number):
            stream.write(_text(measure, 2).encode())
        stream.write(b" </part>\n")
    stream.write(f"</{end}".encode())


def write_mxl(score: Score, stream: BinaryIO, *, software: str = "mt3") -> None:
    """Writes a score as compressed MusicXML; arguments as for `write_musicxml`."""
    plain = io.BytesIO()
    write_musicxml(score, plain, software=software)
    # As it is, so that the file's beginning says what wrote it.
    container = zipfile.ZipInfo("META-INF/container.xml"), zipfile.ZIP_STORED
    # `ZipInfo` has a fixed date: equal scores are equal files.
    content = zipfile.ZipInfo("score.musicxml"), zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(container[0], _CONTAINER.format(software), container[1])
        archive.writestr(content[0], plain.getvalue(), content[1])


def _add(parent: ElementTree.Element, tag: str, text: object = None, **attributes):
    """Appends an element; `_` in attribute names stands for `-`."""
    names = {key.replace("_", "-"): str(value) for key, value in attributes.items()}
    child = ElementTree.SubElement(parent, tag, names)
    if text is not None:
        child.text = _NOT_XML.sub("\ufffd", str(text))
    return child


def _text(element: ElementTree.Element, level: int) -> str:
    """Returns an element as lines of text."""
    ElementTree.indent(element, " ", level)
    return " " * level + ElementTree.tostring(element, encoding="unicode") + "\n"


def _header(score: Score, software: str) -> ElementTree.Element:
    """Returns the root, with all that comes before the parts."""
    root = ElementTree.Element("score-partwise", version="3.1")
    if score.title:
        _add(_add(root, "work"), "work-title", score.title)
    encoding = _add(_add(root, "identification"), "encoding")
    _add(encoding, "software", software)
    listed = _add(root, "part-list")
    channels = _channels(score.parts)
    for number, (part, channel) in enumerate(
        zip(score.parts, channels, strict=True), 1
    ):
        _list_part(listed, part, f"P{number}", channel)
    return root


def _channels(parts: Sequence[Part]) -> list[int]:
    """Returns MIDI channels, counted from 1; beyond 15 parts they repeat."""
    melodic = [c + 1 for c in range(16) if c != general_midi.DRUM_CHANNEL]
    return [
        general_midi.DRUM_CHANNEL + 1 if part.is_drum else melodic[i % len(melodic)]
        for i, part in enumerate(parts)
    ]


def _list_part(listed: ElementTree.Element, part: Part, name: str, channel: int):
    element = _add(listed, "score-part", id=name)
    _add(element, "part-name", part.name)
    sounds = {f"{name}-I1": (part.name, None)}
    if part.is_drum:
        # Each drum is an instrument of its own.
        pitches = sorted({head.pitch for head in _heads(part)})
        sounds = {f"{name}-I{pitch}": (f"Drum {pitch}", pitch) for pitch in pitches}
    for sound, (text, _) in sounds.items():
        _add(_add(element, "score-instrument", id=sound), "instrument-name", text)
    for sound, (_, pitch) in sounds.items():
        midi = _add(element, "midi-instrument", id=sound)
        _add(midi, "midi-channel", channel)
        _add(midi, "midi-program", part.program + 1)
        if pitch is not None:
            _add(midi, "midi-unpitched", pitch + 1)


def _heads(part: Part) -> Iterator[Head]:
    for staff in part.staves:
        for voice in staff.voices:
            for chord in voice:
                yield from chord.heads


def _measures(score: Score, part: Part, number: int) -> Iterator[ElementTree.Element]:
    """Yields the bars of a part; the first part has the tempos."""
    cursors = [
        [_pieces(voice, score.bars) for voice in staff.voices] for staff in part.staves
    ]
    tempo = 0.0
    previous: Bar | None = None
    for index, bar in enumerate(score.bars):
        measure = ElementTree.Element("measure", number=str(bar.number))
        if bar.number == 0:
            measure.set("implicit", "yes")
        _attributes(measure, part, bar, previous)
        if number == 1 and abs(bar.tempo - tempo) > _SAME_TEMPO * bar.tempo:
            _tempo(measure, bar.tempo, shown=previous is None)
            tempo = bar.tempo
        first = True
        for staff_number, (staff, voices) in enumerate(
            zip(part.staves, cursors, strict=True), 1
        ):
            pieces = [voice[index] for voice in voices]
            if part.is_drum:
                # A hit has no length that could go on.
                pieces = [[p for p in voice if not p.from_before] for voice in pieces]
            for voice, stem, written in _layout(pieces, part, staff):
                if not first:
                    _add(_add(measure, "backup"), "duration", bar.length)
                first = False
                place = _Place(part, f"P{number}", staff, staff_number, voice, stem)
                _write_voice(measure, written, bar, place)
            if staff.clef is not instruments.TABLATURE:
                _accidentals(measure, part, staff_number)
        if bar is score.bars[-1]:
            end = _add(measure, "barline", location="right")
            _add(end, "bar-style", "light-heavy")
        previous = bar
        yield measure


class _Piece(NamedTuple):
    """The stretch of a chord that lies in one bar.

    Attributes:
      start: position in the bar.
      end: position in the bar.
      chord: what it is a stretch of.
      from_before: whether it goes on from the bar before.
      goes_on: whether it goes on into the next bar.
    """

    start: int
    end: int
    chord: Chord
    from_before: bool
    goes_on: bool


class _Place(NamedTuple):
    """Where a voice is written: part and its id, staff and its number, voice, stem."""

    part: Part
    part_id: str
    staff: Staff
    staff_number: int
    voice: int
    stem: str


def _pieces(voice: Sequence[Chord], bars: Sequence[Bar]) -> list[list[_Piece]]:
    """Cuts the chords of a voice at the bar lines; one list for each bar."""
    made: list[list[_Piece]] = [[] for _ in bars]
    bar = 0
    for chord in voice:
        while chord.start >= bars[bar].start + bars[bar].length:
            bar += 1
        here = bar
        while here < len(bars) and bars[here].start < chord.end:
            start, end = bars[here].start, bars[here].start + bars[here].length
            made[here].append(
                _Piece(
                    max(chord.start, start) - start,
                    min(chord.end, end) - start,
                    chord,
                    chord.start < start,
                    chord.end > end and here + 1 < len(bars),
                )
            )
            here += 1
    return made


def _layout(
    pieces: list[list[_Piece]], part: Part, staff: Staff
) -> Iterator[tuple[int, str, list[_Piece]]]:
    """Yields number, stems and content of the voices of a bar; the first one always.

    A second voice that is alone in a bar is written as the first, unless it is tied to
    a neighbouring bar.
    """
    stems = ["up", "down"] if len(pieces) > 1 and pieces[1] else ["", ""]
    if part.is_drum:
        stems = ["up", "down"]
    elif staff.clef is instruments.TABLATURE:
        stems = ["none", "none"]
    if len(pieces) > 1 and pieces[1] and not pieces[0]:
        tied = any(piece.from_before or piece.goes_on for piece in pieces[1])
        if not tied:
            stem = stems[1] if part.is_drum else ""
            yield 1, stem, pieces[1]
            return
    yield 1, stems[0], pieces[0]
    if len(pieces) > 1 and pieces[1]:
        yield 2, stems[1], pieces[1]


def _attributes(measure, part: Part, bar: Bar, previous: Bar | None) -> None:
    """Writes what changes at a bar: all of it at the first one."""
    changed = previous is None or (previous.beats, previous.unit) != (
        bar.beats,
        bar.unit,
    )
    if not changed:
        return
    element = _add(measure, "attributes")
    if previous is None:
        _add(element, "divisions", DIVISIONS)
        key = _add(element, "key")
        _add(key, "fifths", part.key.fifths if part.key else 0)
        if part.key:
            _add(key, "mode", "minor" if part.key.minor else "major")
    time = _add(element, "time")
    _add(time, "beats", bar.beats)
    _add(time, "beat-type", bar.unit)
    if previous is not None:
        return
    if len(part.staves) > 1:
        _add(element, "staves", len(part.staves))
    for number, staff in enumerate(part.staves, 1):
        clef = _add(element, "clef", number=number)
        _add(clef, "sign", staff.clef.sign)
        _add(clef, "line", staff.clef.line)
        if staff.clef.octave:
            _add(clef, "clef-octave-change", staff.clef.octave)
    for number, staff in enumerate(part.staves, 1):
        if staff.clef is instruments.TABLATURE:
            details = _add(element, "staff-details", number=number)
            _add(details, "staff-lines", staff.lines)
            for line, pitch in enumerate(part.instrument.strings, 1):
                tuning = _add(details, "staff-tuning", line=line)
                name = general_midi.pitch_name(pitch)
                _add(tuning, "tuning-step", name[0])
                if "#" in name:
                    _add(tuning, "tuning-alter", 1)
                _add(tuning, "tuning-octave", name[-1])
    if part.instrument.transposition:
        transpose = _add(element, "transpose")
        semitones = part.instrument.transposition
        # Whole octaves apart from the rest, as the format asks.
        octaves = int(semitones / 12)
        _add(transpose, "diatonic", part.steps - 7 * octaves)
        _add(transpose, "chromatic", semitones - 12 * octaves)
        if octaves:
            _add(transpose, "octave-change", octaves)


def _tempo(measure, tempo: float, *, shown: bool) -> None:
    if not shown:
        _add(measure, "sound", tempo=f"{tempo:.2f}")
        return
    direction = _add(measure, "direction", placement="above")
    metronome = _add(_add(direction, "direction-type"), "metronome")
    _add(metronome, "beat-unit", "quarter")
    _add(metronome, "per-minute", round(tempo))
    _add(direction, "sound", tempo=f"{tempo:.2f}")


def _write_voice(measure, pieces: Sequence[_Piece], bar: Bar, place: _Place) -> None:
    """Writes the notes, and for a first voice the rests, of one bar."""
    if not pieces:
        note = _add(measure, "note")
        _add(note, "rest", measure="yes")
        _add(note, "duration", bar.length)
        _add(note, "voice", _voice_number(place))
        _add(note, "staff", place.staff_number)
        return
    metre = bar.metre
    edges = {edge for piece in pieces for edge in (piece.start, piece.end)}
    triplets = values.triplet_places(edges, metre)
    written: list[tuple[Value, _Piece | None]] = []
    now = 0
    for piece in [*pieces, None]:
        until = piece.start if piece else bar.length
        gap = values.split(now, until - now, metre, triplets, rest=True)
        written += [(value, None) for value in gap]
        if piece:
            length = piece.end - piece.start
            parts = values.split(piece.start, length, metre, triplets)
            if place.part.is_drum:
                # A hit has no length: no ties.
                parts = parts[:1]
            written += [(value, piece) for value in parts]
            now = parts[-1].start + parts[-1].length
    _write_values(measure, written, place, metre)


def _write_values(measure, written, place: _Place, metre: values.Metre) -> None:
    line = [value for value, _ in written]
    is_note = [piece is not None for _, piece in written]
    words: dict[int, list[str]] = {}
    for group in values.beam_groups(line, metre, is_note):
        counts = [line[index].beams for index in group]
        words |= zip(group, values.beams(counts), strict=True)
    marks = _tuplet_marks(line, metre)
    for index, (value, piece) in enumerate(written):
        tablature = place.staff.clef is instruments.TABLATURE
        if piece is None and (place.voice > 1 or tablature) and not value.triplet:
            _add(_add(measure, "forward"), "duration", value.length)
            continue
        heads: tuple[Head | None, ...] = (None,)
        ties: list[str] = []
        if piece is not None:
            heads = piece.chord.heads
            if piece.from_before or value.start > piece.start:
                ties.append("stop")
            if piece.goes_on or value.start + value.length < piece.end:
                ties.append("start")
            if place.part.is_drum:
                ties = []
        if tablature and piece is not None:
            heads = tuple(head for head in heads if head.string) or (None,)
        for number, head in enumerate(heads):
            note = _Note(value, ties, words.get(index, []), marks.get(index, []))
            _write_note(measure, head, note, place, in_chord=number > 0)


def _tuplet_marks(line: Sequence[Value], metre: values.Metre) -> dict[int, list[str]]:
    """Returns the indices at which triplets start and stop."""
    marks: dict[int, list[str]] = {}
    spans: dict[int, list[int]] = {}
    for index, value in enumerate(line):
        if value.triplet:
            spans.setdefault(value.start // metre.triplet, []).append(index)
    for members in spans.values():
        if len(members) > 1:
            marks.setdefault(members[0], []).append("start")
            marks.setdefault(members[-1], []).append("stop")
    return marks


class _Note(NamedTuple):
    """What the notes of a chord have in common: value, ties, beams, triplet marks."""

    value: Value
    ties: list[str]
    beams: list[str]
    tuplets: list[str]


def _voice_number(place: _Place) -> int:
    return _VOICES_OF_STAFF * (place.staff_number - 1) + place.voice


def _write_note(
    measure, head: Head | None, note: _Note, place: _Place, *, in_chord: bool
) -> None:
    """Writes one note, or a rest where there is no head, in the schema's order."""
    part, value = place.part, note.value
    element = _add(measure, "note")
    if head is None:
        _add(element, "rest")
    else:
        element.set("dynamics", f"{100 * head.velocity / _FORTE:.2f}")
        if in_chord:
            _add(element, "chord")
        kind, prefix = ("unpitched", "display-") if part.is_drum else ("pitch", "")
        pitch = _add(element, kind)
        _add(pitch, f"{prefix}step", head.step)
        if head.alter and not part.is_drum:
            _add(pitch, "alter", head.alter)
        _add(pitch, f"{prefix}octave", head.octave)
    _add(element, "duration", value.length)
    if head is not None:
        for tie in note.ties:
            _add(element, "tie", type=tie)
        if part.is_drum:
            _add(element, "instrument", id=f"{place.part_id}-I{head.pitch}")
    _add(element, "voice", _voice_number(place))
    _add(element, "type", value.type)
    for _ in range(value.dots):
        _add(element, "dot")
    if value.triplet:
        modification = _add(element, "time-modification")
        _add(modification, "actual-notes", 3)
        _add(modification, "normal-notes", 2)
    if head is not None:
        if place.stem:
            _add(element, "stem", place.stem)
        if part.is_drum and instruments.drum(head.pitch).head != "normal":
            _add(element, "notehead", instruments.drum(head.pitch).head)
    _add(element, "staff", place.staff_number)
    if head is not None and not in_chord and place.stem != "none":
        for level, word in enumerate(note.beams, 1):
            _add(element, "beam", word, number=level)
    if place.staff.clef is not instruments.TABLATURE and head is not None:
        head = dataclasses.replace(head, string=0)
    _notations(element, head, note, in_chord)


def _notations(element, head: Head | None, note: _Note, in_chord: bool) -> None:
    tuplets = [] if in_chord else note.tuplets
    ties = note.ties if head is not None else []
    string = head is not None and head.string
    if not (tuplets or ties or string):
        return
    notations = _add(element, "notations")
    for tie in ties:
        _add(notations, "tied", type=tie)
    for mark in tuplets:
        _add(notations, "tuplet", type=mark)
    if string:
        technical = _add(notations, "technical")
        _add(technical, "string", head.string)
        _add(technical, "fret", head.fret)


def _accidentals(measure, part: Part, staff_number: int) -> None:
    """Marks the notes of a staff that are not as key and bar say."""
    if part.is_drum:
        return
    in_force: dict[tuple[str, str], int] = {}
    fifths = part.key.fifths if part.key else 0
    signature = dict.fromkeys("FCGDAEB"[: max(fifths, 0)], 1)
    signature |= dict.fromkeys("BEADGCF"[: max(-fifths, 0)], -1)
    notes = []
    now = at = 0
    for element in measure:
        duration = int(element.findtext("duration", "0"))
        if element.tag == "backup":
            now -= duration
        elif element.tag == "forward":
            now += duration
        elif element.tag == "note":
            if element.find("chord") is None:
                at, now = now, now + duration
            if int(element.findtext("staff", "1")) == staff_number:
                notes.append((at, element))
    for _, element in sorted(notes, key=lambda pair: pair[0]):
        pitch = element.find("pitch")
        if pitch is None:
            continue
        place = pitch.findtext("step", ""), pitch.findtext("octave", "")
        alter = int(pitch.findtext("alter", "0"))
        tied = any(tie.get("type") == "stop" for tie in element.findall("tie"))
        if in_force.get(place, signature.get(place[0], 0)) != alter and not tied:
            accidental = ElementTree.Element("accidental")
            accidental.text = _ACCIDENTALS[alter]
            before = [*element.findall("type"), *element.findall("dot")][-1]
            element.insert(list(element).index(before) + 1, accidental)
        in_force[place] = alter
