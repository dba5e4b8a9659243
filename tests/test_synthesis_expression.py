"""How players play: pedal, rubato, chords, dynamics; and several soundfonts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gather import soundfont_writer
from mt3.errors import DataError
from mt3.midi import note_arrays
from mt3.note_sequences import Note
from mt3.synthesis import expression, instruments, recipes, soundfont
from tests.support.songs import overlaps, song

seeds = st.integers(0, 2**32 - 1)
ALWAYS = expression.Expression(
    pedal=1.0, rubato=1.0, rubato_depth=0.15, spread=1.0, phrasing=1.0
)


def piano(count=40, seed=0):
    rng = np.random.default_rng(seed)
    starts, pitches = np.sort(rng.uniform(0, 8, count)), rng.integers(36, 84, count)
    return note_arrays.to_array(
        [Note(t, t + 0.1, int(p)) for t, p in zip(starts, pitches, strict=True)]
    )


@pytest.mark.parametrize("style", expression.PEDAL_STYLES)
@given(seed=seeds)
def test_the_pedal_lengthens_notes_by_no_more_than_a_pedal(style, seed):
    rng = np.random.default_rng(seed)
    notes = piano(seed=seed)
    chosen = np.ones(len(notes), bool)
    held = expression.pedal(rng, notes, chosen, start=0.0, end=8.0, style=style)
    for name in ("start_time", "pitch", "velocity"):
        np.testing.assert_array_equal(held[name], notes[name])
    longer = held["end_time"] - notes["end_time"]
    assert (longer >= 0).all()
    assert longer.max() <= expression.LONGEST_PEDAL_SECONDS
    assert overlaps(note_arrays.resolve_overlaps(held)) == 0


def test_notes_that_one_pedal_holds_end_together(rng):
    notes = piano(200)
    chosen = np.ones(len(notes), bool)
    held = expression.pedal(rng, notes, chosen, start=0.0, end=8.0, style="free")
    moved = held["end_time"] > notes["end_time"]
    assert moved.mean() > 0.5
    assert len(np.unique(held["end_time"][moved])) < moved.sum() / 3
    # A key that is struck while the pedal holds it ends there.
    resolved = note_arrays.resolve_overlaps(held)
    assert resolved["end_time"].sum() < held["end_time"].sum()


def test_only_pianos_are_pedalled(rng):
    habits = expression.Expression(pedal=1.0, rubato=0.0, spread=0.0, phrasing=0.0)
    for program, longer in ((0, True), (40, False), (73, False)):
        notes = piano(100)
        notes["program"] = program
        played = expression.perform(rng, notes, habits, start=0.0, end=8.0)
        assert (played["end_time"] > notes["end_time"]).any() == longer
    drums = piano(100)
    drums["is_drum"] = True
    played = expression.perform(rng, drums, habits, start=0.0, end=8.0)
    np.testing.assert_array_equal(played, drums)


@given(seeds)
def test_rubato_keeps_the_order_and_both_ends(seed):
    rng = np.random.default_rng(seed)
    notes = song(rng)
    moved = expression.rubato(rng, notes, 0.15, start=1.0, end=9.0)
    outside = (notes["start_time"] < 1.0) | (notes["start_time"] > 9.0)
    np.testing.assert_array_equal(
        moved["start_time"][outside], notes["start_time"][outside]
    )
    inside = moved["start_time"][~outside]
    assert ((inside >= 1.0) & (inside <= 9.0)).all()
    assert (np.diff(moved["start_time"]) >= 0).all()
    assert (moved["end_time"] > moved["start_time"]).all()
    assert np.abs(moved["start_time"] - notes["start_time"]).max() > 0.005


@given(seeds)
def test_spread_chords_begin_one_after_the_other(seed):
    rng = np.random.default_rng(seed)
    chords = note_arrays.to_array(
        [Note(t, t + 0.4, p, 80, 24) for t in range(8) for p in (48, 52, 55, 60)]
    )
    spread = expression.spread_chords(rng, chords, np.ones(len(chords), bool))
    late = spread["start_time"] - chords["start_time"]
    assert (late >= 0).all()
    assert late.max() <= 0.35
    assert (spread["end_time"] > spread["start_time"]).all()
    single = chords[chords["pitch"] == 48]
    alone = expression.spread_chords(rng, single, np.ones(len(single), bool))
    np.testing.assert_array_equal(alone, single)


def test_loudness_follows_phrases(rng):
    notes = song(rng, notes=200)
    phrased = expression.phrase_velocities(rng, notes)
    assert phrased["velocity"].min() >= 1
    assert phrased["velocity"].max() <= 127
    changed = phrased["velocity"].astype(int) - notes["velocity"]
    near = np.abs(np.diff(changed[~notes["is_drum"]])).mean()
    far = np.abs(changed[~notes["is_drum"]] - np.roll(changed[~notes["is_drum"]], 99))
    assert near < far.mean() + 3


@given(seeds)
def test_playing_is_a_function_of_the_seed_and_copes_with_silence(seed):
    played = [
        expression.perform(
            np.random.default_rng(seed),
            song(np.random.default_rng(1)),
            ALWAYS,
            start=-2.0,
            end=8.0,
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(played[0], played[1])
    assert (played[0]["end_time"] > played[0]["start_time"]).all()
    rng = np.random.default_rng(seed)
    nothing = note_arrays.empty()
    assert not len(expression.perform(rng, nothing, ALWAYS, start=0.0, end=1.0))


def test_soloists_are_mostly_what_people_record(rng):
    drawn = [instruments.draw_soloist(rng) for _ in range(300)]
    assert max(drawn) < 120
    common = sum(p in (24, 25, 40, 42, 56, 65, 66, 71, 73) for p in drawn)
    assert common > 75


def font(path, program, pitch, drums=False, exact=False):
    """A soundfont with one sound: a sine that is the same for every key."""
    tone = np.sin(2 * np.pi * pitch * np.arange(4000) / 16000)
    zone = soundfont_writer.Zone(
        np.round(9000 * tone).astype(np.int16),
        16000,
        60.0,
        loop=(0, 4000),
        fixed_pitch=True,
    )
    bank = 128 if drums else 0
    preset = soundfont_writer.Preset(path.stem, bank, program, (zone,))
    soundfont_writer.write_soundfont(path, path.stem, [preset])
    return soundfont.SoundFont(path, exact=exact)


def test_parts_are_played_by_soundfonts_that_have_them(tmp_path, rng):
    low = font(tmp_path / "low.sf2", 0, 200)
    high = font(tmp_path / "high.sf2", 40, 2000)
    drums = font(tmp_path / "drums.sf2", 0, 900, drums=True)
    fonts = recipes._draw_fonts(
        rng, [(0, False), (40, False), (0, True)], [drums, low, high]
    )
    assert fonts == {(0, False): low, (40, False): high, (0, True): drums}
    notes = note_arrays.to_array([Note(0, 1, 60), Note(0, 1, 60, program=40)])
    sounds = {(0, False): soundfont.Sound(), (40, False): soundfont.Sound(gain=0.25)}
    clip = recipes.Clip(notes, sounds, {p: fonts[p] for p in sounds})
    audio = clip.render(1.0)
    assert audio.shape == (16000,)
    power = np.abs(np.fft.rfft(audio[4000:12000] * np.hanning(8000)))
    # Levels of the soundfonts are evened, the parts' own gains are kept.
    ratio = power[1000] / power[100]
    assert ratio == pytest.approx(0.25, rel=0.1)


def test_mixed_clips_use_several_soundfonts(tmp_path):
    fonts = [soundfont.open_soundfont(soundfont.default_soundfont())]
    fonts.append(font(tmp_path / "other.sf2", 0, 300))
    parts = [(0, False), (40, False), (0, True)]
    seen = set()
    for seed in range(40):
        drawn = recipes._draw_fonts(np.random.default_rng(seed), parts, fonts)
        assert drawn[40, False] is fonts[0]
        assert drawn[0, True] is fonts[0]
        seen.add(drawn[0, False] is fonts[1])
    assert seen == {True, False}


def test_real_samples_play_only_their_own_programs_and_some_of_their_parts(tmp_path):
    general = soundfont.open_soundfont(soundfont.default_soundfont())
    cello = font(tmp_path / "cello.sf2", 42, 300, exact=True)
    kit = font(tmp_path / "kit.sf2", 0, 900, drums=True, exact=True)
    parts = [(40, False), (42, False), (0, True)]
    draws = [
        recipes._draw_fonts(np.random.default_rng(seed), parts, [general, cello, kit])
        for seed in range(300)
    ]
    assert {drawn[40, False] for drawn in draws} == {general}
    for part, real in (((42, False), cello), ((0, True), kit)):
        assert {drawn[part] for drawn in draws} == {general, real}
        share = np.mean([drawn[part] is real for drawn in draws])
        assert share == pytest.approx(0.4, abs=0.1)
    # It has no program with which the others' loudness is measured.
    loud = np.sqrt(np.mean(cello._try_note(0, 42, 56, 0.3) ** 2))
    assert cello.level == pytest.approx(loud)
    assert not cello.can_play(40, False)
    with pytest.raises(DataError, match="no preset for General MIDI program 40"):
        cello.preset(40, False, soundfont.Sound())
