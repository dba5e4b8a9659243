"""Scores: what MusicXML says is what was played, written so that it can be read."""

from __future__ import annotations

import io
import zipfile
from concurrent import futures

import numpy as np
import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3.beats import Beats
from mt3.note_sequences import Note
from mt3.outputs import Transcription
from mt3.outputs.score import engraving, instruments, musicxml, notation, values, voices
from mt3.outputs.score.values import DIVISIONS, Metre
from tests.support.musicxml import read, sounding

COMMON, THREE, SIX_EIGHT = Metre.of(4, 4), Metre.of(3, 4), Metre.of(6, 8)


def score_of(notes, beats="steady", **options):
    """A score of notes whose times are in quarters."""
    if beats == "steady":
        beats = Beats.steady(60.0, seconds=max([n.end_time for n in notes], default=1))
    result = Transcription(notes, beats=beats, source="Song & <dance>")
    return notation.make_score(result, **options)


def xml_of(score):
    stream = io.BytesIO()
    musicxml.write_musicxml(score, stream, software="mt3 test")
    return read(stream.getvalue())


def scale(program=0, count=8, start=0.0, low=60, **fields):
    steps = (0, 2, 4, 5, 7, 9, 11, 12)
    return [
        Note(start + i, start + i + 0.9, low + steps[i % 8], 80, program, **fields)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("metre", "start", "length", "lengths"),
    [
        (COMMON, 0, 96, [96]),
        (COMMON, 0, 72, [72]),
        (COMMON, 24, 48, [48]),
        (COMMON, 12, 24, [24]),  # an eighth behind the beat
        (COMMON, 36, 24, [12, 12]),  # across the middle of the bar
        (COMMON, 0, 60, [48, 12]),
        (COMMON, 6, 12, [12]),
        (COMMON, 18, 12, [6, 6]),
        (COMMON, 12, 84, [36, 48]),
        (THREE, 0, 72, [72]),
        (THREE, 24, 48, [48]),
        (THREE, 36, 36, [36]),
        (SIX_EIGHT, 0, 72, [72]),
        (SIX_EIGHT, 0, 48, [36, 12]),
        (SIX_EIGHT, 24, 24, [12, 12]),
        (SIX_EIGHT, 12, 24, [24]),
    ],
)
def test_notes_are_split_where_beats_are_seen(metre, start, length, lengths):
    assert [v.length for v in values.split(start, length, metre, ())] == lengths


@pytest.mark.parametrize(
    ("metre", "start", "length", "lengths"),
    [
        (COMMON, 24, 72, [24, 48]),
        (COMMON, 12, 36, [12, 24]),
        (COMMON, 6, 18, [6, 12]),
        (THREE, 24, 48, [24, 24]),
        (SIX_EIGHT, 12, 24, [12, 12]),
    ],
)
def test_rests_show_every_beat(metre, start, length, lengths):
    got = values.split(start, length, metre, (), rest=True)
    assert [value.length for value in got] == lengths


def test_triplets_have_their_values():
    triplets = values.triplet_places({24, 32, 40, 48}, COMMON)
    assert triplets == {24}
    got = values.split(16, 24, COMMON, {0, 24})
    assert [(v.length, v.type, v.triplet) for v in got] == [
        (8, "eighth", True),
        (16, "quarter", True),
    ]
    (whole,) = values.split(24, 24, COMMON, {24})
    assert (whole.type, whole.triplet) == ("quarter", False)


@given(
    st.sampled_from([COMMON, THREE, SIX_EIGHT, Metre.of(5, 8), Metre.of(2, 2)]),
    st.sampled_from([3, 4]),
    st.data(),
)
def test_values_fill_any_length(metre, unit, data):
    steps = metre.length // unit
    start = unit * data.draw(st.integers(0, steps - 1))
    end = unit * data.draw(st.integers(start // unit + 1, steps))
    triplets = values.triplet_places({start, end}, metre)
    for rest in (False, True):
        got = values.split(start, end - start, metre, triplets, rest)
        assert sum(value.length for value in got) == end - start
        for value in got:
            plain = {"breve": 192, "whole": 96, "half": 48, "quarter": 24}
            plain |= {"eighth": 12, "16th": 6, "32nd": 3}
            length = plain[value.type] * (1.5 if value.dots else 1.0)
            assert length * (2 / 3 if value.triplet else 1.0) == value.length


def test_beams_join_the_notes_of_a_beat():
    assert values.beams([1, 2, 2]) == [
        ["begin"],
        ["continue", "begin"],
        ["end", "end"],
    ]
    assert values.beams([1, 2]) == [["begin"], ["end", "backward hook"]]
    assert values.beams([2, 1]) == [["begin", "forward hook"], ["end"]]
    line = [v for start in (0, 12, 24, 36) for v in values.split(start, 12, COMMON, ())]
    assert list(values.beam_groups(line, COMMON, [True] * 4)) == [[0, 1], [2, 3]]
    assert list(values.beam_groups(line, COMMON, [True, False, True, True])) == [[2, 3]]


def test_short_gaps_are_closed_and_overlaps_cut():
    starts = np.array([0, 24, 48, 72, 96])
    ends = np.array([20, 54, 52, 80, 101])
    got = voices.written_ends(starts, ends)
    # The third stops long before the next: an eighth, and a rest.
    assert got.tolist() == [24, 48, 60, 84, 108]


def test_hands_are_divided_where_they_can_reach():
    starts = np.repeat(np.arange(8) * 24, 2)
    pitches = np.array([40, 64, 43, 67, 45, 69, 47, 71] * 2)
    assert (voices.right_hand(starts, pitches) == (pitches > 60)).all()
    high = np.tile([62, 74], 8)
    assert voices.right_hand(starts, high).all()


def test_a_melody_across_middle_c_stays_in_one_hand():
    pitches = np.array([62, 60, 59, 57, 59, 60, 62, 64, 60, 57, 60, 62])
    starts = np.arange(len(pitches)) * 12
    assert voices.right_hand(starts, pitches).all()
    bass = np.tile([40, 43], 6)
    both = np.stack([bass, pitches], axis=1).ravel()
    got = voices.right_hand(np.repeat(starts, 2), both)
    assert got.tolist() == [False, True] * len(pitches)


def test_a_held_note_under_a_melody_is_a_voice_of_its_own():
    melody = scale(73, 4, low=72)
    (part,) = score_of([*melody, Note(0, 4, 60, 80, 73)]).parts
    (staff,) = part.staves
    upper, lower = staff.voices
    assert len(upper) == 4
    assert [(chord.start, chord.end) for chord in lower] == [(0, 4 * DIVISIONS)]


def test_parts_have_names_clefs_and_transpositions():
    notes = [
        *scale(0),
        *scale(25, low=45),
        *scale(33, low=33),
        *scale(41, low=48),
        *scale(56),
        *scale(65),
        Note(0, 0.1, 36, 100, 0, True),
        Note(1, 1.1, 42, 100, 0, True),
    ]
    score = score_of(notes)
    assert [part.name for part in score.parts] == [
        "Acoustic Grand Piano",
        "Acoustic Guitar (steel)",
        "Electric Bass (finger)",
        "Viola",
        "Trumpet",
        "Alto Sax",
        "Drums",
    ]
    assert [[s.clef.sign for s in part.staves] for part in score.parts] == [
        ["G", "F"],
        ["G"],
        ["F"],
        ["C"],
        ["G"],
        ["G"],
        ["percussion"],
    ]
    root = xml_of(score)
    transposed = {
        part.get("id"): [t.text for t in part.find(".//transpose")]
        for part in root.findall("part")
        if part.find(".//transpose") is not None
    }
    # Octaves apart: diatonic, chromatic, octave-change.
    assert transposed == {
        "P2": ["0", "0", "-1"],
        "P3": ["0", "0", "-1"],
        "P5": ["-1", "-2"],
        "P6": ["-5", "-9"],
    }
    keys = [int(key.text) for key in root.iter("fifths")]
    assert keys == [0, 0, 0, 0, 2, 3, 0]
    played = sounding(root)
    assert [p for _, _, p in played["Trumpet"]] == [n.pitch for n in scale(56)]
    assert [p for _, _, p in played["Alto Sax"]] == [n.pitch for n in scale(65)]
    assert played["Drums"] == [(0, 24, 36), (24, 48, 42)]


def test_every_part_ends_with_a_final_bar_line():
    root = xml_of(score_of(scale(40) + scale(0)))
    for part in root.findall("part"):
        styles = [bar.findtext("barline/bar-style") for bar in part.findall("measure")]
        assert len(styles) > 1
        assert styles == [None] * (len(styles) - 1) + ["light-heavy"]


def test_notes_are_spelled_in_their_key():
    # E flat major.
    notes = [Note(i, i + 1, 63 + s) for i, s in enumerate((0, 2, 4, 5, 7, 9, 11, 12))]
    root = xml_of(score_of(notes))
    assert root.findtext(".//fifths") == "-3"
    spelled = [(p.findtext("step"), p.findtext("alter")) for p in root.iter("pitch")]
    assert spelled[:4] == [("E", "-1"), ("F", None), ("G", None), ("A", "-1")]
    assert not list(root.iter("accidental"))


def test_accidentals_hold_until_the_end_of_the_bar():
    pitches = [60, 62, 66, 66, 67, 66, 65, 64, 60, 62, 64, 65, 67, 65, 64, 60]
    notes = [Note(i / 2, i / 2 + 0.5, pitch, 80, 73) for i, pitch in enumerate(pitches)]
    root = xml_of(score_of(notes, grid="1/8"))
    marked = {
        number: accidental
        for number, note in enumerate(root.iter("note"))
        if (accidental := note.findtext("accidental"))
    }
    assert marked == {2: "sharp", 6: "natural"}


def test_an_upbeat_is_a_short_bar_and_silence_is_left_out():
    beats = Beats(1.0 + np.arange(12.0), np.arange(12) % 4 + 1)
    score = score_of([Note(8.0, 8.9, 60), *scale(start=9.0, count=4)], beats)
    assert [(b.number, b.length, b.beats) for b in score.bars] == [
        (0, 24, 4),
        (1, 96, 4),
    ]
    assert [bar.seconds for bar in score.bars] == [8.0, 9.0]
    assert score.end == pytest.approx(13.0)
    first = xml_of(score).find(".//measure")
    assert (first.get("implicit"), first.get("number")) == ("yes", "0")


def test_the_tempo_is_written_where_it_changes():
    times = np.concatenate([np.arange(8) * 0.5, 4.0 + np.arange(9) * 0.75])
    beats = Beats(times, np.arange(17) % 4 + 1)
    notes = [Note(t, t + 0.4, 60) for t in times[:16]]
    root = xml_of(score_of(notes, beats))
    assert [s.get("tempo") for s in root.iter("sound")] == ["120.00", "80.00"]
    assert root.findtext(".//per-minute") == "120"


def test_velocities_are_dynamics():
    root = xml_of(score_of([Note(0, 1, 60, 90), Note(1, 2, 62, 45)]))
    assert [n.get("dynamics") for n in root.iter("note")][:2] == ["100.00", "50.00"]


def test_tablature_has_a_playable_place_for_every_note():
    chord = [Note(1, 2, pitch, 80, 25) for pitch in (40, 47, 52, 55, 59, 64)]
    score = score_of(
        [Note(0, 1, 40, 80, 25), *chord, Note(2, 3, 67, 80, 25)], tablature=True
    )
    root = xml_of(score)
    (lines,) = root.iter("staff-lines")
    assert lines.text == "6"
    frets = [(int(t[0].text), int(t[1].text)) for t in root.iter("technical")]
    # E minor as every beginner plays it, and the G on the first string's third fret.
    assert frets == [(6, 0), (6, 0), (5, 2), (4, 2), (3, 0), (2, 0), (1, 0), (1, 3)]
    assert len(score_of([Note(0, 1, 60)], tablature=True).parts[0].staves) == 2


def test_notes_that_no_string_has_are_left_out_of_tablature():
    places = instruments.fingering([[30, 64], [64, 64]], (40, 45, 50, 55, 59, 64))
    assert places == [[(0, 0), (1, 0)], [(1, 0), (1, 0)]]


def test_a_drum_that_is_struck_once_is_written_once():
    notes = [Note(t, t + 0.1, pitch, 90, 0, True) for t, pitch in DRUMS]
    played = sounding(xml_of(score_of(notes)))
    assert played["Drums"] == [(0, 24, 36), (24, 48, 35), (48, 72, 38), (48, 72, 42)]


DRUMS = [(0, 36), (0, 35), (1, 35), (2, 38), (2, 40), (2, 42)]

NOTES = st.lists(
    st.builds(
        lambda start, length, pitch, velocity, what: Note(
            start / 4, (start + length) / 4, pitch, velocity, max(what, 0), what < 0
        ),
        st.integers(0, 40),
        st.integers(1, 20),
        st.integers(12, 127),
        st.integers(1, 127),
        st.sampled_from([-1, 0, 0, 25, 40, 56, 118]),
    ),
    max_size=30,
)


@settings(max_examples=25)
@given(
    NOTES, st.sampled_from([(4, 4), (3, 4), (6, 8)]), st.integers(0, 3), st.booleans()
)
def test_every_note_is_written_at_its_place(notes, metre, upbeat, tablature):
    beats_per_bar, unit = metre
    step = 4 / unit
    times = step * np.arange(60)
    numbers = (np.arange(60) - upbeat) % beats_per_bar + 1
    beats = Beats(times, numbers, beats_per_bar, unit)
    score = score_of(notes, beats, tablature=tablature, grid="1/16")
    played = sounding(xml_of(score))
    first = score.bars[0].seconds
    wanted: dict[str, set] = {}
    for note in notes:
        name = (
            "Drums"
            if note.is_drum
            else notation.general_midi.instrument_name(note.program)
        )
        start = round((note.start_time - first) * DIVISIONS)
        wanted.setdefault(name, set()).add((start, note.pitch))
    hits = wanted.get("Drums", set())
    hits -= {(t, p) for t, p in hits if (t, instruments.SAME_DRUM.get(p)) in hits}
    got = {
        name: {(start, pitch) for start, _, pitch in n} for name, n in played.items()
    }
    assert got == wanted


@pytest.mark.parametrize(
    "notes",
    [[], [Note(0.02, 0.03, 127)], [Note(50, 60, 12), Note(0, 0.1, 35, 1, 0, True)]],
)
def test_small_and_odd_pieces_have_a_score(notes):
    for beats in ("steady", None):
        score = score_of(notes, beats)
        xml_of(score)
        assert len(engraving.engrave(score)) >= 1
        assert bool(score.warnings) == (beats is None and bool(notes))


def test_notes_that_no_octave_holds_are_written_higher():
    score = score_of([Note(0, 1, 5), Note(1, 2, 60)])
    assert score.warnings == ("1 notes below C0 are written an octave higher",)
    xml_of(score)


def test_compressed_files_hold_the_same():
    score, plain, packed = score_of(scale()), io.BytesIO(), io.BytesIO()
    musicxml.write_musicxml(score, plain, software="mt3 test")
    musicxml.write_mxl(score, packed, software="mt3 test")
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist()[0] == "META-INF/container.xml"
        assert b'full-path="score.musicxml"' in archive.read("META-INF/container.xml")
        assert archive.read("score.musicxml") == plain.getvalue()


@pytest.fixture(scope="module")
def long_score():
    return score_of([*scale(0, 400), *scale(33, 400, low=36)])


def test_pages_hold_every_bar(long_score):
    pages = engraving.engrave(long_score)
    assert len(pages) > 1
    assert sum(page.bars for page in pages) == len(long_score.bars) == 100
    for page in pages:
        assert read_svg(page.svg).tag.endswith("svg")
    # In another thread, too, which Verovio does not know.
    with futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(engraving.engrave, long_score).result() == pages


def read_svg(text):
    from lxml import etree

    return etree.fromstring(text.encode())


def test_pdf_files_are_pages_of_a4(monkeypatch):
    score = score_of(scale())
    (page,) = engraving.engrave(score)
    monkeypatch.setattr(engraving, "engrave", lambda score: [page, page])
    stream = io.BytesIO()
    engraving.write_pdf(score, stream, software="mt3 test")
    file = pypdf.PdfReader(stream)
    assert len(file.pages) == 2
    for drawn in file.pages:
        assert (round(drawn.mediabox.width), round(drawn.mediabox.height)) == (595, 842)
    assert "Acoustic Grand Piano" in file.pages[0].extract_text()
    assert file.metadata.producer == "mt3 test"
