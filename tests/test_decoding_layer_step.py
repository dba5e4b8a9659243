"""Tests of mt3.decoding.layer_step: one decoding step against the network itself."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import network
from mt3.decoding import layer_step
from tests.support import golden_model

TINY = dataclasses.replace(golden_model.TINY, num_decoder_layers=2)
params = golden_model.tiny_params


def whole(config, tree, encoded, inputs):
    """Logits of all positions at once, by the network."""
    run = functools.partial(
        network.Transformer(config).apply, enable_dropout=False, method="decode"
    )
    run = jax.jit(run, compiler_options=golden_model.QUICK)
    return run({"params": tree}, encoded, encoded, inputs, jnp.ones_like(inputs))


def step_by_step(config, tree, encoded, inputs, rows=1):
    """The same by `columns`; each segment has `rows` equal rows."""
    length = inputs.shape[1]
    weights = layer_step.arrange(tree["decoder"], config, length)
    inputs = jnp.repeat(inputs, rows, axis=0)
    batch = inputs.shape[0]
    cross = [layer_step.project_cross(config, w, encoded) for w in weights.layers]
    shape = (batch, config.num_heads, config.head_dim, length + 2)
    # Not zeros: what lies beyond the position must not matter.
    filled = jnp.full(shape, 3.0, config.dtype)
    caches = [(filled, jnp.swapaxes(filled, 2, 3)) for _ in weights.layers]

    @functools.partial(jax.jit, compiler_options=golden_model.QUICK)
    def step(tokens, index, caches):
        y = layer_step.embed(weights, tokens, index)
        new = []
        for layer, kv, cache in zip(weights.layers, cross, caches, strict=True):
            y, *cache = layer_step.layer_step(config, layer, y, *kv, *cache, index)
            new.append(tuple(cache))
        return layer_step.to_logits(config, weights, y), new

    logits = []
    for i in range(length):
        out, caches = step(inputs[:, i], jnp.full((batch,), i), caches)
        logits.append(out)
    return jnp.stack(logits, axis=1)


def test_equals_teacher_forcing_on_golden_weights():
    batch = golden_model.training_batch()
    config, tree = golden_model.CONFIG, golden_model.params()
    inputs = batch["decoder_input_tokens"][2:3, :12]
    assert (batch["decoder_target_tokens"][2:3, :12] > 0).all()
    frames = batch["encoder_input_tokens"][2:3]
    encode = jax.jit(
        functools.partial(network.Encoder(config).apply, deterministic=True)
    )
    encoded = encode({"params": tree["encoder"]}, frames)
    np.testing.assert_allclose(
        step_by_step(config, tree, encoded, inputs),
        whole(config, tree, encoded, inputs),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (1, {}),
        (3, {}),
        (1, {"logits_via_embedding": True}),
        (1, {"mlp_activations": ("relu",)}),
        (1, {"mlp_activations": ("gelu", "linear", "tanh")}),
        (2, {"dtype": "bfloat16"}),
    ],
)
def test_equals_teacher_forcing(rows, changes):
    config = dataclasses.replace(TINY, **changes)
    tree = params(config)
    encoded = jax.random.normal(jax.random.key(1), (3, 6, 8)).astype(config.dtype)
    inputs = jax.random.randint(jax.random.key(2), (3, 5), 0, TINY.vocab_size)
    steps = step_by_step(config, tree, encoded, inputs, rows)
    full = jnp.repeat(whole(config, tree, encoded, inputs), rows, axis=0)
    assert steps.dtype == full.dtype == jnp.float32
    tolerance = 0.1 if config.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(steps, full, atol=tolerance)
    assert jnp.std(full) > 5 * tolerance, "logits that say something"


def test_rows_may_stand_at_different_positions():
    layer = layer_step.arrange(params(TINY)["decoder"], TINY, 8).layers[0]
    y = jax.random.normal(jax.random.key(0), (8, 2))
    encoded = jax.random.normal(jax.random.key(1), (2, 6, 8))
    cross = layer_step.project_cross(TINY, layer, encoded)
    cache = (
        jax.random.normal(jax.random.key(2), (2, 2, 3, 4)),
        jax.random.normal(jax.random.key(3), (2, 2, 4, 3)),
    )
    step = jax.jit(functools.partial(layer_step.layer_step, TINY, layer))
    together, *_ = step(y, *cross, *cache, jnp.array([3, 1]))
    for row, index in enumerate((3, 1)):
        cut = slice(row, row + 1)
        alone, *_ = step(
            y[:, cut], *(x[cut] for x in (*cross, *cache)), jnp.array([index])
        )
        np.testing.assert_allclose(alone, together[:, cut], atol=1e-6)


def test_cache_is_written_at_each_rows_position():
    cache_k, cache_v = jnp.zeros((3, 2, 4, 5)), jnp.zeros((3, 2, 5, 4))
    new = jnp.arange(1.0, 25.0).reshape(3, 2, 4)
    index = jnp.array([4, 0, 5])
    k, v = layer_step.update_cache(cache_k, cache_v, new, new * 2, index)
    np.testing.assert_array_equal(k[0, :, :, 4], new[0])
    np.testing.assert_array_equal(k[1, :, :, 0], new[1])
    np.testing.assert_array_equal(v[0, :, 4], new[0] * 2)
    assert jnp.count_nonzero(k) == jnp.count_nonzero(v) == 16
    assert not k[2].any(), "a position past the end must not be written"
