"""Instrument leakage, instrument detection and scores per class."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from mt3.note_sequences import Note
from mt3.scoring import counts as metrics
from mt3.scoring import instruments
from mt3.scoring.instruments import ClassCounts, count_instruments
from tests.support.note_strategies import note_lists

PIANO, SAME_CLASS, VIOLIN, DRUM = (
    Note(0, 1, 60, program=0),
    Note(1, 2, 60, program=3),
    Note(2, 3, 60, program=40),
    Note(3, 3.1, 38, program=16, is_drum=True),
)


def test_leakage_counts_instruments_at_each_granularity():
    reference = [PIANO, DRUM]
    estimate = [PIANO, SAME_CLASS, VIOLIN]
    scores = count_instruments(reference, estimate).scores()
    assert scores["Instrument leakage (midi_class)"] == 2 / 2
    assert scores["Instrument leakage (full)"] == 3 / 2
    # Of piano, harpsichord and violin, one is right; the drums were missed.
    assert scores["Instrument detection precision (full)"] == pytest.approx(1 / 3)
    assert scores["Instrument detection recall (full)"] == 1 / 2
    assert scores["Instrument detection F1 (full)"] == pytest.approx(2 / 5)
    assert scores["Instrument detection F1 (midi_class)"] == 1 / 2


def test_drums_are_one_instrument_whatever_their_programs():
    other = Note(5, 5.1, 40, program=0, is_drum=True)
    scores = count_instruments([DRUM, other], [other]).scores()
    assert set(scores.values()) == {1.0}


def test_empty_sides():
    nothing = count_instruments([], []).scores()
    assert all(math.isnan(value) for value in nothing.values())
    missed = count_instruments([PIANO], []).scores()
    assert set(missed.values()) == {0.0}
    invented = count_instruments([], [PIANO]).scores()
    assert math.isnan(invented["Instrument leakage (full)"])
    assert invented["Instrument detection F1 (full)"] == 0.0


def test_classes_are_summed_over_songs():
    late = Note(2.0, 2.2, 60, program=41)  # Offset wrong, onset right.
    songs = [
        count_instruments([PIANO, VIOLIN, DRUM], [PIANO, late, DRUM, SAME_CLASS]),
        count_instruments([SAME_CLASS], [Note(1, 2, 60, program=56)]),
    ]
    classes = instruments.sum_classes(songs)
    assert list(classes) == ["Piano", "Strings", "Brass", "Drums"]
    assert classes["Piano"] == ClassCounts(2, 2, 2, 1, 1)
    assert classes["Strings"] == ClassCounts(1, 1, 1, 1, 0)
    assert classes["Brass"] == ClassCounts(0, 0, 1, 0, 0)
    assert instruments.class_scores(classes) == {
        "Class onset F1 (Piano)": 0.5,
        "Class onset + offset F1 (Piano)": 0.5,
        "Class onset F1 (Strings)": 1.0,
        "Class onset + offset F1 (Strings)": 0.0,
        "Class onset F1 (Drums)": 1.0,
    }


@given(note_lists(), note_lists())
def test_classes_together_are_the_program_scores(reference, estimate):
    classes = count_instruments(reference, estimate).classes.values()
    counts = {
        (item.kind, item.qualifier): item
        for item in metrics.song_counts(reference, estimate)
    }
    whole = counts["Onset + offset + program", "midi_class"]
    assert sum(c.offset_matched for c in classes) == whole.matched
    assert sum(c.reference for c in classes) == whole.reference
    assert sum(c.estimated for c in classes) == whole.estimated


def test_tables():
    classes = {"Piano": ClassCounts(1, 4, 4, 2, 1), "Drums": ClassCounts(1, 1, 1, 1, 1)}
    rows = instruments.class_table(classes)
    assert rows[1] == ("Piano", "1", "4", "4", "0.5000", "0.2500")
    assert rows[2] == ("Drums", "1", "1", "1", "1.0000", "-")
    lines = instruments.format_rows(rows, markdown=True)
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[3] == "| Drums | 1 | 1 | 1 | 1.0000 | - |"
    aligned = instruments.format_rows(rows)
    assert aligned[0].startswith("class  songs  notes")
    assert aligned[1].startswith("-----  -----  -----")
    assert len({len(line) for line in aligned}) == 1
