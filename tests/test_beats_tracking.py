"""Beats found in notes: tempo, metre, downbeats, tempos that change, and nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mt3.beats import bars, following, levels, pulse, tracking
from mt3.beats.onsets import Onsets
from mt3.note_sequences import Note


def band(tempo, beats_per_bar=4, bars=12, *, warp=lambda beat: beat, start=0.4):
    """Bass, chords and drums; `warp` maps beats of one tempo to where they are played.

    The bass plays the first beat of a bar, where the chord changes; chords lie on every
    beat, a melody between them.
    """
    notes = []
    period = 60.0 / tempo

    def add(beat, length, pitch, program=0, drum=False):
        begin, end = start + period * warp(np.array([beat, beat + length]))
        notes.append(Note(float(begin), float(end), pitch, 90, program, drum))

    for bar in range(bars):
        first, root = bar * beats_per_bar, (0, 5, 7, 2)[bar % 4]
        add(first, beats_per_bar - 0.2, 36 + root, 33)
        add(first, 0.1, 36, drum=True)
        for beat in range(first, first + beats_per_bar):
            for pitch in (60, 64, 67):
                add(beat, 0.9, pitch + root)
            add(beat, 0.1, 42, drum=True)
            add(beat + 0.5, 0.1, 42, drum=True)
            if (beat - first) % 2:
                add(beat, 0.1, 38, drum=True)
    return notes


def jig(bars=16, tempo=90.0):
    """A melody in 6/8 over a bass on the two beats of its bars."""
    notes, eighth = [], 60.0 / tempo / 3.0
    for number in range(6 * bars):
        begin = 0.2 + number * eighth
        pitch = 72 + (0, 4, 7, 9, 7, 4)[number % 6] + (number // 6) % 4
        notes.append(Note(begin, begin + 0.8 * eighth, pitch, 80, 73))
        if number % 3 == 0:
            low = 43 if number % 6 == 0 else 50
            length = (3 if number % 6 else 2.5) * eighth
            notes.append(Note(begin, begin + length, low + (number // 6) % 4, 80, 33))
    return notes


def played(notes, seed=0, deviation=0.008, missed=0.1):
    """Notes as they are transcribed: some are missed, none is quite in time."""
    rng = np.random.default_rng(seed)
    return [
        Note(begin, begin + n.end_time - n.start_time, *tuple(_rest(n)))
        for n in notes
        if rng.random() > missed
        for begin in [max(0.0, n.start_time + rng.normal(0.0, deviation))]
    ]


def _rest(note):
    return note.pitch, note.velocity, note.program, note.is_drum


@pytest.mark.parametrize(("tempo", "length"), [(84, 4), (120, 4), (132, 3), (150, 4)])
def test_tempo_beats_and_bars_of_a_band(tempo, length):
    beats = tracking.track(played(band(tempo, length)), 30.0)
    assert beats.tempo == pytest.approx(tempo, rel=2e-3)
    assert (beats.beats_per_bar, beats.beat_unit) == (length, 4)
    bar = length * 60.0 / tempo
    off = (beats.downbeats - 0.4 + bar / 2) % bar - bar / 2
    assert np.abs(off).max() < 0.02
    # One tempo throughout; only a beat at 0 may have been moved there.
    assert len(beats.tempo_map()) == 1 + (beats.times[0] == 0.0)
    assert beats.times[0] < 60.0 / tempo <= beats.times[0] + 60.0 / tempo
    assert beats.times[-1] > 30.0 - 60.0 / tempo


def test_beats_of_three_parts_are_written_as_eighths():
    beats = tracking.track(played(jig()), 20.0)
    assert (beats.beats_per_bar, beats.beat_unit) == (6, 8)
    assert beats.tempo == pytest.approx(270.0, rel=2e-3)
    bar = 120.0 / 90.0
    off = (beats.downbeats - 0.2 + bar / 2) % bar - bar / 2
    assert np.abs(off).max() < 0.02
    assert set(beats.numbers.tolist()) == set(range(1, 7))


def test_a_tempo_that_changes_is_followed():
    def warp(beat):
        return beat - 0.006 * beat**2  # From 100 beats a minute to some 170.

    notes = played(band(100.0, warp=warp, bars=8))
    assert not pulse.is_steady(Onsets.of(notes), pulse.find(Onsets.of(notes)))
    beats = tracking.track(notes, 20.0)
    true = 0.4 + 0.6 * warp(np.arange(32.0))
    inner = true[(true > 3.0) & (true < 13.0)]
    nearest = np.abs(beats.times[:, None] - inner).min(axis=0)
    assert np.mean(nearest < 0.07) > 0.9
    assert len(beats.tempo_map()) > 5
    # Asked for one tempo, it gives one or none.
    steady = tracking.track(notes, 20.0, mode="steady")
    assert steady is None or len(steady.tempo_map()) == 1


def test_a_given_tempo_is_kept():
    notes = played(band(120.0))
    for tempo in (60.0, 120.0, 240.0):
        beats = tracking.track(notes, 24.0, tempo=tempo)
        assert beats.tempo == pytest.approx(tempo, abs=1e-6)
        off = (beats.times - 0.4 + 0.25) % 0.5 - 0.25
        assert np.abs(off[off < 0.2]).max() < 0.02
    # Even where there is nothing to be found.
    assert tracking.track([], 4.0, tempo=90.0).tempo == pytest.approx(90.0)
    with_changes = tracking.track(notes, 24.0, tempo=120.0, mode="follow")
    assert with_changes.tempo == pytest.approx(120.0, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_notes_have_no_beats(count):
    notes = [Note(float(n), n + 0.5, 60, 90) for n in range(count)]
    assert tracking.track(notes, 60.0) is None


@pytest.mark.parametrize("tempo", [20.0, 30.0, 600.0])
def test_less_than_a_bar_has_bars(tempo):
    notes = [Note(0.25 * n, 0.25 * n + 0.2, 60, 90) for n in range(12)]
    beats = tracking.track(notes, 3.0, tempo=tempo)
    assert beats is None or beats.tempo == pytest.approx(tempo)


def test_a_drone_has_no_beats():
    chord = [Note(0.0, 600.0, pitch, 80) for pitch in range(40, 60)]
    assert tracking.track(chord, 600.0) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [20, 60, 200])
def test_notes_at_random_have_no_beats(seed, count):
    rng = np.random.default_rng(seed)
    begins = np.sort(rng.uniform(0.0, 40.0, count))
    notes = [Note(t, t + 0.2, int(rng.integers(50, 80)), 90) for t in begins.tolist()]
    assert tracking.track(notes, 40.0) is None


def test_the_result_does_not_depend_on_the_order_of_notes():
    notes = played(band(110.0))
    assert tracking.track(notes[::-1], 20.0) == tracking.track(notes, 20.0)


def test_candidates_have_tempos_within_the_range():
    for period in (0.08, 0.125, 0.2, 0.5, 0.8):
        found = levels.candidates(period)
        tempos = {round(60.0 / (c.multiple * period), 6) for c in found}
        assert min(tempos) >= levels.SLOWEST
        assert max(tempos) <= levels.FASTEST
        assert len(set(found)) == len(found)
        assert all(0 <= c.first < c.multiple for c in found)


def test_each_feature_has_a_weight():
    onsets = Onsets.of(band(120.0))
    position = (onsets.time - 0.4) / 0.5
    assert levels.describe(onsets, position, 0.5).shape == (len(levels.FEATURES),)
    shape = (len(bars.candidates()), len(bars.FEATURES))
    assert bars.describe(onsets, position, 48).shape == shape


def test_a_grid_is_found_to_a_fraction_of_a_millisecond():
    times = np.sort(np.random.default_rng(1).choice(400, 200, False)) * 0.1234 + 0.05
    found = pulse.find(Onsets.of([Note(t, t + 0.1, 60, 90) for t in times]))
    assert found.period == pytest.approx(0.1234, abs=1e-5)
    assert found.start == pytest.approx(0.05, abs=1e-3)
    assert found.coherence == pytest.approx(1.0, abs=1e-3)


def test_an_envelope_peaks_where_notes_begin():
    strength = following.envelope(Onsets.of([Note(1.0, 2.0, 60, 90)] * 3))
    assert strength.argmax() == following.RATE
    assert not len(following.follow(np.zeros(1000, np.float32)))
    assert not len(following.follow(strength[:100]))


def test_beats_are_those_of_librosa(rng):
    """On music whose tempo drifts, with and without what comes before it."""
    import librosa

    for seconds, tempo, silence in ((12, 90.0, 0.0), (25, 140.0, 3.0), (60, 63.0, 1.0)):
        steps = 60 / tempo * (1 + 0.2 * np.sin(np.arange(400) / 9))
        times = silence + np.cumsum(steps * rng.choice([0.5, 1, 1, 2], 400))
        times = times[times < seconds] + rng.normal(0, 0.01, sum(times < seconds))
        notes = [Note(time, time + 0.2, 60, 90) for time in times]
        strength = following.envelope(Onsets.of(notes))
        tempos = following._local_tempo(strength, None)
        period = np.round(60 * following.RATE / tempos).astype(int)
        _, expected = librosa.beat.beat_track(
            onset_envelope=strength,
            sr=following.RATE,
            hop_length=1,
            bpm=tempos,
            trim=False,
        )
        assert len(expected) > 8
        found = following._track(strength, period)
        # Release 1.0 leaves out a first and a last beat that lie in silence.
        first = np.searchsorted(found, expected[0])
        assert first <= 1
        assert len(found) - first - len(expected) <= 1
        np.testing.assert_array_equal(found[first:][: len(expected)], expected)
