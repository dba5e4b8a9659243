"""Metrics against the original's scores, and where they rightly differ."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given

from mt3.errors import ConfigError, MidiError
from mt3.note_sequences import Note
from mt3.scoring import counts
from tests.support.note_strategies import note_lists

UNKNOWN_FROM_NOTES = {"Invalid events", "Dropped events"}


@pytest.fixture(scope="module")
def cases(request):
    path = request.config.rootpath / "tests" / "golden" / "data" / "metrics.json"
    cases = json.loads(path.read_text(encoding="utf-8"))
    assert len(cases) == 4
    for case in cases:
        for side in ("reference_notes", "estimated_notes"):
            case[side] = [[Note(**n) for n in song] for song in case[side]]
    return cases


@pytest.mark.parametrize("number", range(4))
def test_original_scores_are_reproduced(cases, number):
    case = cases[number]
    got = counts.transcription_metrics(
        case["reference_notes"],
        case["estimated_notes"],
        case["track_specs"],
        **counts.ORIGINAL,
    )
    want = {k: v for k, v in case["scores"].items() if k not in UNKNOWN_FROM_NOTES}
    assert len(want) >= 60
    assert list(got) == list(want)
    assert got == pytest.approx(want, abs=1e-9)


def test_sweep_agrees_with_the_plain_score_by_default(cases):
    for case in cases:
        scores = counts.transcription_metrics(
            case["reference_notes"], case["estimated_notes"]
        )
        for kind in ("precision", "recall", "F1"):
            plain = scores[f"Onset + offset {kind}"]
            assert scores[f"Onset + offset {kind} (0.05)"] == plain


def test_counts_of_events_are_averaged(cases):
    case = cases[0]
    scores = counts.transcription_metrics(
        case["reference_notes"],
        case["estimated_notes"],
        invalid_events=[1, 4],
        dropped_events=[0, 0],
    )
    assert scores["Invalid events"] == 2.5
    assert scores["Dropped events"] == 0.0
    with pytest.raises(MidiError, match="3 counts"):
        counts.transcription_metrics(
            case["reference_notes"], case["estimated_notes"], invalid_events=[1, 2, 3]
        )


@given(note_lists())
def test_a_perfect_estimate_scores_one(notes):
    scores = counts.song_metrics(notes, notes)
    # Quiet reference notes are invisible to frame scores.
    perfect = {k: v for k, v in scores.items() if "Frame" not in k}
    assert all(v == pytest.approx(1) or math.isnan(v) for v in perfect.values())


def test_drums_match_whatever_their_program():
    reference = [Note(t, t + 0.1, 38, 100, 25, True) for t in (0.0, 1.0)]
    estimate = [Note(t, t + 0.01, 38, 100, 0, True) for t in (0.02, 1.01)]
    spec = [("drums", 0, True)]
    name = "Drum onset F1 (full)"
    scores = counts.transcription_metrics([reference], [estimate], spec)
    assert scores[name] == scores["drums/Onset F1"] == 1.0
    original = counts.transcription_metrics(
        [reference], [estimate], spec, original_drum_programs=True
    )
    assert original[name] == original["drums/Onset F1"] == 0.0


def test_programs_count_at_their_granularity():
    reference = [Note(0, 1, 60, program=24), Note(2, 3, 60, program=40)]
    estimate = [Note(0, 1, 60, program=25), Note(2, 3, 60, program=40)]
    scores = counts.song_metrics(reference, estimate)
    name = "Onset + offset + program F1"
    assert scores[f"{name} (flat)"] == scores[f"{name} (midi_class)"] == 1.0
    assert scores[f"{name} (full)"] == 0.5


def test_frames_show_every_reference_note_by_default():
    notes = [Note(0, 1, 60, program=0), Note(0, 1, 72, program=40)]
    assert counts.song_metrics(notes, notes)["Frame F1"] == 1.0
    original = counts.song_metrics(notes, notes, original_reference_roll=True)
    assert original["Frame Precision"] == 0.5


def test_nothing_to_score_is_left_out_of_the_mean():
    song, silence = [Note(0, 1, 60)], []
    spec = [counts.TrackSpec("bass", 33)]
    scores = counts.transcription_metrics([song, silence], [song, silence], spec)
    assert scores["Onset F1"] == 1.0
    assert math.isnan(scores["Drum onset F1 (full)"])
    assert math.isnan(scores["bass/Onset + offset F1"])
    zeros = counts.transcription_metrics(
        [song, silence], [song, silence], spec, empty="zero"
    )
    assert zeros["Onset F1"] == 0.5
    assert zeros["Drum onset F1 (full)"] == zeros["bass/Frame F1"] == 0.0


@pytest.mark.parametrize("reverse", [False, True])
def test_one_empty_side_scores_zero(reverse):
    sides = [[Note(0, 1, 60), Note(0, 0.1, 36, is_drum=True)], []]
    scores = counts.song_metrics(*(sides[::-1] if reverse else sides))
    assert set(scores.values()) == {0.0}


def test_no_songs_have_no_scores():
    assert counts.transcription_metrics([], []) == {}


def test_wrong_arguments_are_named():
    with pytest.raises(MidiError, match="2 reference songs but 1"):
        counts.transcription_metrics([[], []], [[]])
    with pytest.raises(ConfigError, match="'none'"):
        counts.song_metrics([], [], empty="none")
