"""The benchmark of beats: the MIDI files' own beats, the scores, the fitted weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pretty_midi
import pytest

from benchmarks import beats as benchmark
from mt3.beats import Beats
from mt3.note_sequences import Note
from scripts import fit_beats


def midi_file(path, signatures):
    midi = pretty_midi.PrettyMIDI(initial_tempo=120.0)
    for numerator, denominator, time in signatures:
        change = pretty_midi.TimeSignature(numerator, denominator, time)
        midi.time_signature_changes.append(change)
    midi.instruments.append(pretty_midi.Instrument(0))
    midi.instruments[0].notes.append(pretty_midi.Note(90, 60, 0.0, 9.0))
    midi.write(str(path))
    return path


def test_beats_of_a_midi_file(tmp_path):
    path = midi_file(tmp_path / "a.mid", [(3, 4, 0.0), (4, 4, 3.0)])
    beats = benchmark.midi_beats(path, 6.0)
    np.testing.assert_allclose(beats.times, np.arange(12) * 0.5, atol=1e-6)
    assert beats.numbers.tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 1, 2]
    plain = benchmark.midi_beats(midi_file(tmp_path / "b.mid", []), 4.0)
    assert (plain.beats_per_bar, plain.beat_unit, len(plain.times)) == (4, 4, 8)


def test_three_eighths_are_felt_as_a_beat(tmp_path):
    beats = benchmark.midi_beats(midi_file(tmp_path / "a.mid", [(6, 8, 0.0)]), 3.0)
    assert (beats.beats_per_bar, beats.beat_unit) == (6, 8)
    np.testing.assert_allclose(benchmark.felt(beats), np.arange(4) * 0.75, atol=1e-6)


def test_scores_of_right_and_wrong_beats():
    true = Beats.steady(120.0, seconds=30.0)
    notes = [Note(0.5 * n, 0.5 * n + 0.45, 60 + n % 5, 90) for n in range(60)]
    scores = benchmark.score_beats(true, true, notes, notes)
    assert scores == dict.fromkeys(benchmark.ROWS, 1.0)
    double = Beats.steady(240.0, seconds=30.0)
    scores = benchmark.score_beats(true, double, notes, notes)
    assert scores["beat F1"] == pytest.approx(2 / 3, abs=0.02)
    assert (scores["tempo 1"], scores["tempo 2"]) == (0.0, 1.0)
    assert scores["with value"] == 0.0
    late = dataclasses.replace(true, numbers=np.roll(true.numbers, 1))
    scores = benchmark.score_beats(true, late, notes, notes)
    assert (scores["beat F1"], scores["downbeat F1"], scores["metre"]) == (1, 0, 1)
    assert scores["place"] < 0.1
    nothing = benchmark.score_beats(true, None, notes, notes)
    assert nothing == dict.fromkeys(benchmark.ROWS, 0.0)


def test_fitted_weights_choose_what_is_right():
    rng = np.random.default_rng(0)
    wanted, choices = np.array([2.0, -1.0, 0.0]), []
    for _ in range(60):
        features = rng.normal(size=(5, 3))
        choices.append(fit_beats.Choice(features, int((features @ wanted).argmax()), 1))
    fitted = fit_beats.fit(choices)
    assert fitted @ wanted > 0.98 * np.linalg.norm(fitted) * np.linalg.norm(wanted)
