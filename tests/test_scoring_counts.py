"""Metrics against the original's scores, and where they rightly differ."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given

from mt3.errors import ConfigError
from mt3.note_sequences import Note, TrackSpec
from mt3.scoring import counts
from tests.support.note_strategies import note_lists

UNKNOWN_FROM_NOTES = {"Invalid events", "Dropped events"}
ORIGINAL = {
    "original_side_effects": True,
    "original_drum_programs": True,
    "reference_instruments": 0,
}


def song_scores(*sides, empty="skip", **options):
    return counts.scores_of_counts(counts.song_counts(*sides, **options), empty=empty)


def mean_scores(references, estimates, *specs, **options):
    songs = zip(references, estimates, strict=True)
    return counts.mean_metrics([song_scores(*s, *specs, **options) for s in songs])


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
    got = mean_scores(
        case["reference_notes"],
        case["estimated_notes"],
        [TrackSpec(*spec) for spec in case["track_specs"] or ()],
        empty="zero",
        **ORIGINAL,
    )
    want = {k: v for k, v in case["scores"].items() if k not in UNKNOWN_FROM_NOTES}
    assert len(want) >= 60
    assert list(got) == list(want)
    assert got == pytest.approx(want, abs=1e-9)


def test_sweep_agrees_with_the_plain_score_by_default(cases):
    for case in cases:
        scores = mean_scores(case["reference_notes"], case["estimated_notes"])
        for kind in ("precision", "recall", "F1"):
            plain = scores[f"Onset + offset {kind}"]
            assert scores[f"Onset + offset {kind} (0.05)"] == plain


@given(note_lists())
def test_a_perfect_estimate_scores_one(notes):
    scores = song_scores(notes, notes)
    # Quiet reference notes are invisible to frame scores.
    perfect = {k: v for k, v in scores.items() if "Frame" not in k}
    assert all(v == pytest.approx(1) or math.isnan(v) for v in perfect.values())


def test_drums_match_whatever_their_program():
    reference = [Note(t, t + 0.1, 38, 100, 25, True) for t in (0.0, 1.0)]
    estimate = [Note(t, t + 0.01, 38, 100, 0, True) for t in (0.02, 1.01)]
    spec = [TrackSpec("drums", 0, True)]
    name = "Drum onset F1 (full)"
    scores = mean_scores([reference], [estimate], spec)
    assert scores[name] == scores["drums/Onset F1"] == 1.0
    original = mean_scores([reference], [estimate], spec, original_drum_programs=True)
    assert original[name] == original["drums/Onset F1"] == 0.0


def test_programs_count_at_their_granularity():
    reference = [Note(0, 1, 60, program=24), Note(2, 3, 60, program=40)]
    estimate = [Note(0, 1, 60, program=25), Note(2, 3, 60, program=40)]
    scores = song_scores(reference, estimate)
    name = "Onset + offset + program F1"
    assert scores[f"{name} (flat)"] == scores[f"{name} (midi_class)"] == 1.0
    assert scores[f"{name} (full)"] == 0.5


def test_frames_show_every_reference_note_by_default():
    notes = [Note(0, 1, 60, program=0), Note(0, 1, 72, program=40)]
    assert song_scores(notes, notes)["Frame F1"] == 1.0
    original = song_scores(notes, notes, reference_instruments=0)
    assert original["Frame Precision"] == 0.5


def test_nothing_to_score_is_left_out_of_the_mean():
    song, silence = [Note(0, 1, 60)], []
    spec = [TrackSpec("bass", 33)]
    scores = mean_scores([song, silence], [song, silence], spec)
    assert scores["Onset F1"] == 1.0
    assert math.isnan(scores["Drum onset F1 (full)"])
    assert math.isnan(scores["bass/Onset + offset F1"])
    zeros = mean_scores([song, silence], [song, silence], spec, empty="zero")
    assert zeros["Onset F1"] == 0.5
    assert zeros["Drum onset F1 (full)"] == zeros["bass/Frame F1"] == 0.0


@pytest.mark.parametrize("reverse", [False, True])
def test_one_empty_side_scores_zero(reverse):
    sides = [[Note(0, 1, 60), Note(0, 0.1, 36, is_drum=True)], []]
    scores = song_scores(*(sides[::-1] if reverse else sides))
    assert set(scores.values()) == {0.0}


def test_only_the_highest_program_of_instrument_0_is_shown():
    notes = [Note(t, t + 1, 60, program=p) for t, p in enumerate((0, 40, 5, 3))]
    scores = song_scores(notes, notes, reference_instruments=np.array([0, 0, 2, 2]))
    assert scores["Frame Precision"] == pytest.approx(3 / 4, abs=0.01)
    assert scores["Frame Recall"] == 1.0


def test_onsets_alone():
    notes = [Note(0, 1, 60)]
    names = song_scores(notes, notes, [TrackSpec("piano")], onsets_only=True)
    assert {"Onset F1", "Frame F1", "piano/Onset F1"} < set(names)
    assert not {"Onset + offset F1", "Onset + velocity F1"} & set(names)
    assert not any(name.startswith("piano/Onset +") for name in names)


def test_frame_rate_and_threshold_are_options():
    notes = [Note(0, 1, 60, velocity=50)]
    assert song_scores(notes, notes, velocity_threshold=50)["Frame Recall"] == 0.0
    moved = [Note(0.012, 1, 60, velocity=50)]
    assert song_scores(notes, moved)["Frame F1"] == 1.0
    assert song_scores(notes, moved, frames_per_second=1000)["Frame F1"] < 1.0


def test_sums_over_songs():
    one, two = [Note(0, 1, 60)], [Note(0, 1, 60), Note(1, 2, 60), Note(2, 3, 60)]
    songs = [counts.song_counts(one, one), counts.song_counts(two, one)]
    assert counts.micro_metrics(songs)["Onset recall"] == 2 / 4
    assert math.isnan(counts.micro_metrics(songs)["Drum onset F1 (full)"])


def test_no_songs_have_no_scores():
    assert mean_scores([], []) == counts.micro_metrics([]) == {}


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="'none'"):
        song_scores([], [], empty="none")
