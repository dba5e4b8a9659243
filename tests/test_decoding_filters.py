"""Logit filters see what they are promised, in batches and in streams."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import decoding, network
from mt3.decoding.strategies import NEG_INF
from tests.support import drawn

EOS = 1
MAX_LENGTH = 12
CONFIG = network.T5Config.from_dict(
    {
        "vocab_size": 24,
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 8,
        "mlp_dim": 32,
        "input_depth": 6,
    }
)


TOKENS = np.arange(CONFIG.vocab_size)[None]  # [1, V]


@dataclasses.dataclass(frozen=True)
class OnceOnly(decoding.LogitFilter):
    """No token twice in a segment, but EOS."""

    def init(self, rows):
        return jnp.zeros((rows, CONFIG.vocab_size), bool)

    def advance(self, state, tokens):
        chosen = tokens[:, None] == TOKENS
        return state | (chosen & (tokens != EOS)[:, None])

    def __call__(self, logits, state):
        return jnp.where(state, NEG_INF, logits)


@dataclasses.dataclass(frozen=True)
class Scaled(decoding.LogitFilter):
    """Multiplies logits, and adds to them."""

    factor: float
    summand: float = 0.0

    def __call__(self, logits, state):
        return self.factor * logits + self.summand * TOKENS


@pytest.fixture(scope="module")
def params():
    tokens = jnp.ones((1, 4), jnp.int32)
    frames = jnp.zeros((1, 5, CONFIG.input_depth))
    init = functools.partial(network.Transformer(CONFIG).init, enable_dropout=False)
    params = drawn.parameters(init, frames, tokens, tokens)
    kernel = np.array(params["decoder"]["logits_dense"]["kernel"]) * 3
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(kernel)
    return params


@pytest.fixture(scope="module")
def segments():
    rng = np.random.default_rng(1)
    return 3 * rng.normal(size=(7, 5, CONFIG.input_depth)).astype(np.float32)


def batch(params, segments, strategy, *filters):
    ids, _ = decoding.decode(
        params,
        CONFIG,
        segments,
        max_length=MAX_LENGTH,
        strategy=strategy,
        filters=filters,
    )
    return np.asarray(ids)


def stream(params, segments, strategy, *filters):
    options = decoding.DecodeOptions(
        strategy=strategy,
        max_length=MAX_LENGTH,
        filters=filters,
        num_slots=2,
        encode_batch=2,
        cache_sizes=(4,),
    )
    decoder = decoding.SegmentDecoder(params, CONFIG, options)
    return {result.key: result.ids for result in decoder.run(enumerate(segments))}


def repeats(row):
    written = [token for token in row.tolist() if token > EOS]
    return len(written) - len(set(written))


@pytest.mark.slow
def test_state_follows_the_tokens_of_its_row(params, segments):
    """A hypothesis carries the state of the one that it continues."""
    beams = decoding.Beam(2)
    free = batch(params, segments, beams).reshape(-1, MAX_LENGTH)
    assert sum(map(repeats, free)) > 5
    ids = batch(params, segments, beams, OnceOnly())
    for row in ids.reshape(-1, MAX_LENGTH):
        assert repeats(row) == 0
    streamed = stream(params, segments, beams, OnceOnly())
    for key, row in enumerate(ids[:, -1]):
        found = streamed[key]
        np.testing.assert_array_equal(found, row[: len(found)])


def test_filters_apply_in_their_order(params, segments):
    greedy = decoding.Greedy()
    double, ramp = Scaled(0.1), Scaled(1.0, 0.2)
    one = batch(params, segments, greedy, double, ramp)
    joined = batch(params, segments, greedy, Scaled(0.1, 0.2))
    np.testing.assert_array_equal(one, joined)
    other = batch(params, segments, greedy, ramp, double)
    assert (one != other).any()
