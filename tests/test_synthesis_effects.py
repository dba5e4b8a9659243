"""Effects as functions of their parameters."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mt3.synthesis import effects

RATE = 16000


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
    out = effects.limit(audio, 0.05, 10.0, 0.4, RATE)

    def peak(start, end):
        return np.abs(out[int(start * RATE) : int(end * RATE)]).max()

    assert peak(0.2, 0.9) == pytest.approx(0.05, rel=0.02)
    assert decibels(peak(1.1, 1.9) / 0.05) == pytest.approx(2.0, abs=0.3)
    assert peak(2.01, 2.05) < 0.02
    assert peak(2.8, 3.0) == pytest.approx(0.05, rel=0.05)
    assert out.dtype == np.float32


@pytest.mark.parametrize("ratio", [1.5, 4.0])
def test_the_limiter_of_a_batch_is_that_of_its_rows(rng, ratio):
    samples = rng.normal(0, 0.05, (3, 4096)).astype(np.float32)
    samples *= np.array([[1.0], [4.0], [8.0]], np.float32)
    column = jnp.ones((3, 1))
    found = effects.limit(
        samples, 0.1 * column, ratio * column, 0.2 * column, RATE, xp=jnp
    )
    for row, limited in zip(samples, np.asarray(found), strict=True):
        expected = effects.limit(row, 0.1, ratio, 0.2, RATE)
        np.testing.assert_allclose(limited, expected, atol=2e-6)


def test_soft_clipping_squeezes_what_is_loud():
    audio = tone(300, gain=0.9)
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
