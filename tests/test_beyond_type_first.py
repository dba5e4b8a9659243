"""Choosing the type of a token before the token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import vocabularies
from mt3.beyond.type_first import TypeFirst
from mt3.decoding.strategies import NEG_INF
from mt3.errors import ConfigError
from mt3.vocabularies import NUM_SPECIAL_IDS

CODEC = vocabularies.build_codec(
    vocabularies.VocabularyConfig(
        steps_per_second=50, max_shift_seconds=1, num_velocity_bins=1
    )
)
SIZE = 640


def first_id(name):
    return CODEC.event_type_range(name)[0] + NUM_SPECIAL_IDS


def logits_of(probabilities):
    """Logits [1, V] of tokens by id; all others are not allowed."""
    logits = np.full((1, SIZE), NEG_INF, np.float32)
    for token, probability in probabilities.items():
        logits[0, token] = np.log(probability)
    return jnp.asarray(logits)


@pytest.fixture
def spread():
    """Time goes on, in one of ten ways; or one pitch begins, which is less likely."""
    shifts = {first_id("shift") + step: 0.06 for step in range(5, 45, 4)}
    return {**shifts, first_id("pitch") + 60: 0.3, 1: 0.1}


def test_the_likeliest_type_wins(spread):
    logits = logits_of(spread)
    assert int(logits.argmax()) == first_id("pitch") + 60
    chosen = int(TypeFirst.from_codec(CODEC)(logits).argmax())
    low, high = CODEC.event_type_range("shift")
    assert low + NUM_SPECIAL_IDS <= chosen <= high + NUM_SPECIAL_IDS


def test_without_a_share_the_best_token_wins(spread):
    changed = TypeFirst.from_codec(CODEC, share=0.0, reach=0)(logits_of(spread))
    np.testing.assert_allclose(changed, logits_of(spread), atol=1e-5)


def test_times_count_with_their_neighbourhood():
    """Three shifts beside each other are likelier than a single one that is higher."""
    shift = first_id("shift")
    logits = logits_of({shift + 10: 0.3, shift + 20: 0.2, shift + 21: 0.25})
    alone = TypeFirst.from_codec(CODEC, reach=0)(logits)
    together = TypeFirst.from_codec(CODEC, reach=1)(logits)
    assert int(alone.argmax()) == shift + 10
    assert int(together.argmax()) in (shift + 20, shift + 21)


def test_forbidden_tokens_stay_forbidden(spread):
    changed = np.asarray(TypeFirst.from_codec(CODEC)(logits_of(spread)))[0]
    assert set(np.flatnonzero(changed > NEG_INF / 2)) == set(spread)
    nothing = jnp.full((1, SIZE), NEG_INF)
    changed = np.asarray(TypeFirst.from_codec(CODEC)(nothing))
    assert (changed <= NEG_INF / 2).all()


def test_merged_types_stand_together(spread):
    """A program or a drum, each less likely than a shift, are likelier together."""
    tokens = {
        first_id("shift") + 7: 0.4,
        first_id("program") + 8: 0.31,
        first_id("drum") + 38: 0.29,
    }
    logits = logits_of(tokens)
    apart = TypeFirst.from_codec(CODEC, reach=0)(logits)
    merged = TypeFirst.from_codec(CODEC, reach=0, merged=True)(logits)
    assert int(apart.argmax()) == first_id("shift") + 7
    assert int(merged.argmax()) == first_id("program") + 8


def test_within_a_type_the_order_stays():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, SIZE)).astype(np.float32))
    changed = TypeFirst.from_codec(CODEC, reach=0)(logits)
    for name in CODEC.types:
        low, high = (x + NUM_SPECIAL_IDS for x in CODEC.event_type_range(name))
        before = np.argsort(np.asarray(logits)[:, low : high + 1], axis=1)
        after = np.argsort(np.asarray(changed)[:, low : high + 1], axis=1)
        np.testing.assert_array_equal(before, after)
        best = np.asarray(changed)[:, low : high + 1].max(axis=1)
        total = jax.scipy.special.logsumexp(logits[:, low : high + 1], axis=1)
        np.testing.assert_allclose(best, total, rtol=1e-5, atol=1e-5)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="reach of -1"):
        TypeFirst.from_codec(CODEC, reach=-1)
    with pytest.raises(ConfigError, match="share of 2"):
        TypeFirst.from_codec(CODEC, share=2.0)
