"""Conventions of papers, against scores computed by hand and the original's."""

from __future__ import annotations

import json
import math

import pytest

from mt3 import cli
from mt3.errors import ConfigError
from mt3.note_sequences import Note, notes_to_array
from mt3.scoring import conventions, counts, files
from tests.support.note_files import write_notes

# Piano, ensemble, sound effect and a drum of another program than 0.
REFERENCE = [
    Note(0.0, 1.0, 60, 20, 0),
    Note(1.0, 2.0, 64, 90, 48),
    Note(2.0, 3.0, 67, 90, 96),
    Note(0.0, 0.1, 36, 90, 16, True),
]
# The offset of the first is wrong, the second is a violin, the third is missing.
ESTIMATE = [
    Note(0.0, 1.5, 60, 90, 1),
    Note(1.0, 2.0, 64, 90, 40),
    Note(0.01, 0.1, 36, 90, 0, True),
]
BY_HAND = {
    "default": {
        "Onset F1": 2 * 2 / (3 + 2),
        "Onset + offset F1": 2 * 1 / (3 + 2),
        "Onset + offset + program F1 (midi_class)": 2 * 1 / (4 + 3),
        "Drum onset F1 (full)": 1.0,
        "Instrument detection F1 (full)": 2 * 1 / (4 + 3),
    },
    "mt3": {
        "Onset F1": 2 * 2 / (3 + 2),
        "Onset + offset F1": 2 * 1 / (3 + 2),
        # The drum has another program number.
        "Onset + offset + program F1 (midi_class)": 0.0,
        "Drum onset F1 (full)": 0.0,
        # The quiet piano note is not in the reference's piano roll; of 62 + 63 cells,
        # the estimate has those of the second.
        "Frame Recall": 63 / (63 + 62),
    },
    "mr-mt3": {
        "Onset F1 (with drums)": 2 * 3 / (4 + 3),
        "Onset + program F1 (midi_class)": 2 * 1 / (4 + 3),
        "Onset + program F1 (full)": 0.0,
        "Onset + program F1 (flat)": 2 * 2 / (4 + 3),
        "Onset + offset + program F1 (flat)": 2 * 1 / (4 + 3),
        "Instrument leakage (full)": 3 / 4,
        "Instrument detection F1 (full)": 2 * 1 / (4 + 3),
    },
    "yourmt3": {
        "Onset F1": 2 * 2 / (3 + 2),
        "Onset + offset F1": 2 * 1 / (3 + 2),
        # Ensemble and violin are one class; the sound effect is left out.
        "Onset + offset + program F1 (11 classes)": 2 * 2 / (3 + 3),
        "Drum onset F1": 1.0,
        # Of 16 frames a second: 16 + 16 + 16 in the reference, 24 + 16 in the estimate.
        "Frame F1 (16 Hz)": 2 * 32 / (48 + 40),
    },
}


def scores(name, reference, estimate):
    rules = conventions.convention(name)
    matches = rules.count(notes_to_array(reference), notes_to_array(estimate))
    return counts.scores_of_counts(matches, empty=rules.empty)


@pytest.mark.parametrize("name", conventions.CONVENTIONS)
def test_scores_computed_by_hand(tmp_path, name):
    sides = {"truth": REFERENCE, "found": ESTIMATE}
    paths = [write_notes(tmp_path / stem, n, "csv") for stem, n in sides.items()]
    report = files.score_files(*paths, convention=name)
    got = {metric: report.mean[metric] for metric in BY_HAND[name]}
    assert got == pytest.approx(BY_HAND[name], abs=1e-12)
    assert report.settings["convention"] == name
    assert set(conventions.convention(name).main) <= report.mean.keys()


def test_mt3_counts_as_the_original(request):
    path = request.config.rootpath / "tests" / "golden" / "data" / "metrics.json"
    cases = json.loads(path.read_text(encoding="utf-8"))
    assert len(cases) == 4
    for case in cases[::3]:
        sides = [
            [[Note(**note) for note in song] for song in case[side]]
            for side in ("reference_notes", "estimated_notes")
        ]
        got = counts.mean_metrics(
            [scores("mt3", *pair) for pair in zip(*sides, strict=True)]
        )
        # These references have one instrument number for all parts, files have not.
        compared = [metric for metric in got if "Frame" not in metric]
        assert len(compared) == 57
        want = {metric: case["scores"][metric] for metric in compared}
        assert {m: got[m] for m in compared} == pytest.approx(want, abs=1e-9)


def test_what_the_reference_lacks():
    piano, drum = Note(0, 1, 60), Note(0, 0.1, 36, is_drum=True)
    name = "Drum onset F1"
    assert scores("default", [piano], [piano, drum])[f"{name} (full)"] == 0.0
    assert math.isnan(scores("default", [piano], [piano])[f"{name} (full)"])
    assert scores("mt3", [piano], [piano])[f"{name} (full)"] == 0.0
    assert math.isnan(scores("yourmt3", [piano], [piano, drum])[name])
    assert scores("yourmt3", [drum], [])[name] == 0.0


def test_yourmt3_frames_have_a_range_of_pitches():
    notes = [Note(0, 1, pitch) for pitch in (15, 16, 109, 110)]
    assert scores("yourmt3", notes, notes[1:3])["Frame Recall (16 Hz)"] == 1.0
    assert scores("yourmt3", notes[1:3], notes)["Frame Precision (16 Hz)"] == 1.0
    assert scores("yourmt3", notes[1:3], notes[1:2])["Frame Recall (16 Hz)"] == 0.5


def test_mr_mt3_compares_drums_with_all_notes():
    drum = Note(0, 0.1, 60, is_drum=True)
    assert scores("mr-mt3", [drum], [Note(0, 1, 60)])["Onset F1 (with drums)"] == 1.0


def test_the_command_line_has_every_convention():
    parser = cli._parsers()[1]["score"]
    (choices,) = (a.choices for a in parser._actions if a.dest == "convention")
    assert tuple(choices) == tuple(conventions.CONVENTIONS)


def test_wrong_conventions(tmp_path):
    path = write_notes(tmp_path / "a", REFERENCE)
    with pytest.raises(ConfigError, match="'mt4'; expected 'default' or 'mt3'"):
        files.score_files(path, path, convention="mt4")
    with pytest.raises(ConfigError, match="onsets_only with the convention mt3"):
        files.score_files(path, path, convention="mt3", onsets_only=True)
