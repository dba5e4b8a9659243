"""Augmentation on the host and on the device."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3.synthesis.augmentation import (
    HISTORY_SAMPLES,
    NO_AUGMENTATION,
    AugmentationConfig,
    Augmenter,
)

RATE = 16000
CHANCES = [
    field.name
    for field in dataclasses.fields(AugmentationConfig)
    if not field.name.endswith("_db")
]
HISTORY, LENGTH = 2048, 4096


def test_augmentation_is_repeatable_and_off_when_told(rng):
    audio = rng.normal(0, 0.1, HISTORY_SAMPLES + 4000).astype(np.float32)
    effects = [field.name for field in dataclasses.fields(AugmentationConfig)]
    always = AugmentationConfig(
        **{name: 1.0 for name in effects if not name.endswith("_db")}
    )
    augment = Augmenter(4000, config=always, seed=1)
    first, again = (augment(np.random.default_rng(2), audio) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4000,)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1.0
    assert not np.allclose(first, augment(np.random.default_rng(3), audio))
    plain = Augmenter(4000, config=NO_AUGMENTATION)(rng, audio)
    kept = audio[HISTORY_SAMPLES:]
    np.testing.assert_allclose(plain / np.std(plain), kept / np.std(kept), rtol=1e-3)


def test_rooms_never_sound_before_their_cause(rng):
    room = dataclasses.replace(NO_AUGMENTATION, room=1.0)
    augment = Augmenter(8000, config=room)
    audio = np.zeros(HISTORY_SAMPLES + 8000, np.float32)
    audio[HISTORY_SAMPLES + 4000] = 1.0
    heard = augment(rng, audio)
    assert np.argmax(np.abs(heard)) == 4000
    assert np.abs(heard[:4000]).max() < 1e-4 * np.abs(heard).max()
    assert np.abs(heard[4100:]).max() > 1e-4 * np.abs(heard).max()


def test_silence_stays_silence_without_noise(rng):
    augment = Augmenter(1000, config=AugmentationConfig(noise=0.0))
    assert not augment(rng, np.zeros(HISTORY_SAMPLES + 1000, np.float32)).any()


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


def make(**chances):
    config = dataclasses.replace(NO_AUGMENTATION, **chances)
    return Augmenter(LENGTH, history=HISTORY, config=config)


@pytest.fixture(scope="module")
def audio():
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.05, (3, HISTORY + LENGTH)).astype(np.float32)


def decibels(samples):
    return 10 * np.log10(np.mean(np.square(samples), axis=1))


def test_nothing_but_the_level_changes_when_all_is_off(audio, key):
    changed = np.asarray(make().batch(key, audio))
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
    # Not compiled as a whole, which would take longer for each effect.
    changed = np.asarray(make(**{effect: 1.0}).batch(key, audio))
    plain = np.asarray(make().batch(key, audio))
    assert changed.shape == (3, LENGTH)
    assert np.abs(changed).max() <= 1.0
    assert (np.abs(changed - plain).max(axis=1) > 1e-3).all()


def test_low_pass_takes_treble(audio, key):
    changed = np.asarray(make(low_pass=1.0).batch(key, audio))
    spectrum = np.abs(np.fft.rfft(changed))
    assert (spectrum[:, -100:].mean(axis=1) < 0.6 * spectrum[:, 100:600].mean(1)).all()


def test_rooms_ring_on_from_before_the_segment(key):
    audio = np.zeros((2, HISTORY + LENGTH), np.float32)
    audio[:, HISTORY - 200 : HISTORY] = 0.5

    def filtered(augmenter):
        drawn = augmenter._draw_batch(key, len(audio))
        return np.abs(augmenter._filter(drawn, jnp.asarray(audio), jnp))

    # Without a room, only rounding errors of the transform are left.
    plain, ringing = filtered(make()), filtered(make(room=1.0))
    assert plain.max() < 1e-6
    assert (ringing[:, :400].max(axis=1) > 1e-4).all()


def test_levels_and_draws_differ_within_a_batch(audio, key):
    augmenter = make(level_db=(-40.0, -10.0))
    levels = decibels(np.asarray(jax.jit(augmenter.batch)(key, audio)))
    assert np.ptp(levels) > 1.0
    assert (levels > -40.5).all()
    assert (levels < -9.5).all()
    again = decibels(np.asarray(augmenter.batch(key, audio)))
    np.testing.assert_allclose(again, levels, rtol=1e-5)


def test_codec_loses_quiet_bands(key):
    frames = jnp.asarray(np.linspace(-12, 2, 32)[None, None].repeat(4, axis=1))
    coded = np.asarray(make(codec=1.0).frames(key, frames))
    assert (coded[..., :4] < -12).all()
    np.testing.assert_allclose(coded[..., -4:], frames[..., -4:], atol=0.5)
    assert not np.allclose(coded[..., -4:], frames[..., -4:], atol=1e-3)
