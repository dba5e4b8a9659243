"""Effects, as functions of their parameters; the level of what comes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mt3.synthesis import effects
from mt3.synthesis.augmentation import NO_AUGMENTATION, AugmentationConfig, Augmenter

RATE = 16000
CHANCES = [
    field.name
    for field in dataclasses.fields(AugmentationConfig)
    if not field.name.endswith("_db")
]


def tone(hertz, seconds=1.0, gain=0.5):
    time = np.arange(int(seconds * RATE)) / RATE
    return (gain * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def decibels(ratio):
    return 20 * np.log10(ratio)


def test_filters_pass_and_stop_what_they_say():
    frequencies = np.array([0.0, 30.0, 100.0, 1000.0, 4000.0, 8000.0], np.float32)
    low = effects.low_pass(frequencies, 4000.0)
    assert low[3] == pytest.approx(1.0, abs=1e-3)
    assert low[4] == pytest.approx(0.5)
    assert decibels(low[5]) == pytest.approx(-48, abs=1)
    high = effects.high_pass(frequencies, 100.0)
    assert high[3] == pytest.approx(1.0, abs=1e-3)
    assert high[2] == pytest.approx(0.5)
    assert high[0] < 1e-6


def test_a_comb_cancels_what_comes_back_upside_down():
    frequencies = np.array([500.0, 1000.0], np.float32)
    response = effects.comb(frequencies, 0.001, 1.0)
    np.testing.assert_allclose(np.abs(response), [0.0, 2.0], atol=1e-3)


def test_the_limiter_turns_down_at_once_and_up_again_slowly():
    audio = np.concatenate([tone(400, gain=0.05), tone(400), tone(400, gain=0.05)])
    out = effects.limit(
        audio, threshold=0.05, ratio=10.0, release=0.4, sample_rate=RATE
    )

    def peak(start, end):
        return np.abs(out[int(start * RATE) : int(end * RATE)]).max()

    assert peak(0.2, 0.9) == pytest.approx(0.05, rel=0.02)
    assert decibels(peak(1.1, 1.9) / 0.05) == pytest.approx(2.0, abs=0.3)
    assert peak(2.01, 2.05) < 0.02
    assert peak(2.8, 3.0) == pytest.approx(0.05, rel=0.05)
    assert out.dtype == np.float32


def test_clipping_keeps_below_its_ceiling():
    audio = tone(300, gain=0.9)
    assert np.abs(effects.hard_clip(audio, 0.3)).max() == pytest.approx(0.3)
    soft = effects.soft_clip(audio, 5.0)
    assert np.abs(soft).max() < 0.2
    np.testing.assert_allclose(effects.soft_clip(audio, 0.01), audio, atol=1e-4)


def test_a_codec_loses_more_at_lower_rates(rng):
    audio = rng.normal(0, 0.1, 9001).astype(np.float32)

    def error(depth, step):
        out = effects.codec(audio, depth_db=depth, step_db=step)
        assert out.shape == audio.shape
        assert out.dtype == np.float32
        return decibels(np.std(out - audio) / np.std(audio))

    assert error(120, -80) < -60
    assert error(60, -14) < -20
    assert error(60, -14) < error(45, -6) < error(35, 2) < -5


def test_a_codec_makes_holes_far_below_the_loudest():
    loud, weak = tone(1000), tone(3000, gain=0.5e-3)
    coded = effects.codec(loud + weak, depth_db=40, step_db=-14)
    kept = effects.codec(loud + weak, depth_db=80, step_db=-40)

    def level(audio, hertz):
        return np.abs(np.fft.rfft(audio * np.hanning(len(audio))))[hertz]

    assert level(coded, 3000) < 0.05 * level(kept, 3000)
    assert level(coded, 1000) == pytest.approx(level(kept, 1000), rel=0.05)
    assert not effects.codec(np.zeros(2000, np.float32), depth_db=40, step_db=0).any()


@pytest.mark.parametrize("cents", [-30, 30])
def test_speed_moves_pitch_and_time_alike(cents):
    audio = tone(1000, 2.0)
    audio[: RATE // 2] = 0.0
    length = int(round(len(audio) / 2 ** (cents / 1200)))
    out = effects.change_speed(audio, length)
    assert out.shape == (length,)
    factor = len(audio) / length
    steady = out[RATE : int(1.8 * RATE)]
    spectrum = np.abs(np.fft.rfft(steady * np.hanning(len(steady)), 1 << 18))
    hertz = np.argmax(spectrum) * RATE / (1 << 18)
    assert 1200 * np.log2(hertz / 1000) == pytest.approx(cents, abs=1)
    onset = np.argmax(np.abs(out) > 0.2) / RATE
    assert onset == pytest.approx(0.5 / factor, abs=0.002)
    assert effects.change_speed(audio, len(audio)) is audio


@pytest.mark.parametrize("name", CHANCES)
def test_each_effect_is_heard_and_only_when_asked_for(name, rng):
    time = np.arange(12000) / RATE
    # Loud and soft, high and low: each effect has something to change.
    audio = np.sin(2 * np.pi * 110 * time) + np.sin(2 * np.pi * 5000 * time)
    audio = (0.1 * audio * (0.2 + (time > 0.4))).astype(np.float32)
    one = dataclasses.replace(NO_AUGMENTATION, **{name: 1.0})
    plain = Augmenter(4000, history=8000, config=NO_AUGMENTATION)(rng, audio)
    augment = Augmenter(4000, history=8000, config=one)
    changed = [augment(np.random.default_rng(seed), audio) for seed in range(4)]
    assert max(np.abs(c - plain).max() for c in changed) > 1e-3
    assert all(np.abs(c).max() <= 1.0 for c in changed)
    assert getattr(NO_AUGMENTATION, name) == 0.0


def test_peaks_lower_the_level_instead_of_being_clipped(rng):
    audio = np.zeros(12000, np.float32)
    audio[9000] = 1.0
    config = dataclasses.replace(NO_AUGMENTATION, level_db=(-12.0, -12.0))
    out = Augmenter(4000, history=8000, config=config)(rng, audio)
    assert out.max() == 1.0
    assert np.count_nonzero(out) == 1
