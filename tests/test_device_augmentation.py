"""Augmentation on the device: every effect acts, and none when it is switched off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3.synthesis import effects
from mt3.synthesis.augmentation import NO_AUGMENTATION
from mt3.synthesis.device_augmentation import DeviceAugmenter

HISTORY, LENGTH = 2048, 4096


def make(**chances):
    config = dataclasses.replace(NO_AUGMENTATION, **chances)
    return DeviceAugmenter(LENGTH, history=HISTORY, sample_rate=16000, config=config)


@pytest.fixture(scope="module")
def audio():
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.05, (3, HISTORY + LENGTH)).astype(np.float32)


def decibels(samples):
    return 10 * np.log10(np.mean(np.square(samples), axis=1))


def test_nothing_but_the_level_changes_when_all_is_off(audio, key):
    changed = np.asarray(make().samples(key, audio))
    np.testing.assert_allclose(decibels(changed), -20.0, atol=0.05)
    wanted = audio[:, HISTORY:]
    scale = changed.std(axis=1, keepdims=True) / wanted.std(axis=1, keepdims=True)
    np.testing.assert_allclose(changed, wanted * scale, atol=1e-3)
    frames = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 8)))
    assert (make().frames(key, frames) == frames).all()


@pytest.mark.parametrize(
    "effect",
    [
        *("equaliser", "low_pass", "high_pass", "comb", "room", "noise"),
        *("limiter", "compression", "clipping"),
    ],
)
def test_each_effect_acts(effect, audio, key):
    changed = np.asarray(jax.jit(make(**{effect: 1.0}).samples)(key, audio))
    plain = np.asarray(make().samples(key, audio))
    assert changed.shape == (3, LENGTH)
    assert np.abs(changed).max() <= 1.0
    assert (np.abs(changed - plain).max(axis=1) > 1e-3).all()


def test_low_pass_takes_treble(audio, key):
    changed = np.asarray(make(low_pass=1.0).samples(key, audio))
    spectrum = np.abs(np.fft.rfft(changed))
    assert (spectrum[:, -100:].mean(axis=1) < 0.6 * spectrum[:, 100:600].mean(1)).all()


def test_rooms_ring_on_from_before_the_segment(key):
    audio = np.zeros((2, HISTORY + LENGTH), np.float32)
    audio[:, HISTORY - 200 : HISTORY] = 0.5
    # Without a room, what is left is rounding of the transform.
    plain = np.abs(make()._filter(jax.random.split(key), audio))
    ringing = np.abs(make(room=1.0)._filter(jax.random.split(key), audio))
    assert plain.max() < 1e-6
    assert (ringing[:, :400].max(axis=1) > 1e-4).all()


def test_the_limiter_is_the_hosts(audio):
    augmenter = make()
    samples = audio[:, :LENGTH] * np.array([[1.0], [4.0], [8.0]], np.float32)
    column = np.ones((3, 1), np.float32)
    found = augmenter._limit(samples, 0.1 * column, 4.0 * column, 0.2 * column)
    for row, limited in zip(samples, np.asarray(found), strict=True):
        expected = effects.limit(
            row, threshold=0.1, ratio=4.0, release=0.2, sample_rate=16000
        )
        np.testing.assert_allclose(limited, expected, atol=1e-3)


def test_levels_and_draws_differ_within_a_batch(audio, key):
    augmenter = make(level_db=(-40.0, -10.0))
    levels = decibels(np.asarray(augmenter.samples(key, audio)))
    assert np.ptp(levels) > 1.0
    assert (levels > -40.5).all()
    assert (levels < -9.5).all()
    again = decibels(np.asarray(augmenter.samples(key, audio)))
    np.testing.assert_allclose(again, levels)


def test_codec_loses_quiet_bands(key):
    frames = jnp.asarray(np.linspace(-12, 2, 32)[None, None].repeat(4, axis=1))
    coded = np.asarray(make(codec=1.0).frames(key, frames))
    assert (coded[..., :4] < -12).all()
    np.testing.assert_allclose(coded[..., -4:], frames[..., -4:], atol=0.5)
    assert not np.allclose(coded[..., -4:], frames[..., -4:], atol=1e-3)
