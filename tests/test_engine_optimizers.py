"""Adafactor's options, learning-rate schedules, the Optax wrapper.

`tests/golden` compares Adafactor's steps with T5X's.
"""

from __future__ import annotations

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mt3.engine import adafactor, optimizers, utils
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError


def test_adafactor_factors_matrices_of_128_by_128():
    params = {"big": jnp.ones((128, 130)), "small": jnp.ones((127, 200))}
    state = TrainState.create(params, adafactor.Adafactor()).opt_state
    shapes = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }
    assert shapes[".v_row['big']"] == (128,)
    assert shapes[".v_col['big']"] == (130,)
    assert shapes[".v['small']"] == (127, 200)


@pytest.mark.parametrize(
    "kwargs",
    [{"max_parameter_scale": 1.0}, {"skip_nan_updates": True}, {"factor_map": {}}],
)
def test_adafactor_refuses_what_it_does_not_do(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        adafactor.Adafactor(**kwargs)


def test_adafactor_options_change_the_update():
    params = {"a": {"kernel": jnp.full((3, 2), 2.0)}, "scale": jnp.full((2,), 2.0)}
    grads = jax.tree.map(jnp.ones_like, params)

    def updated(**kwargs):
        definition = adafactor.Adafactor(**kwargs)
        new, _ = definition.apply_gradient(
            params, definition.init_state(params), grads, learning_rate=0.1
        )
        return new

    # The first update has root mean square 1: rate times scale off each value.
    assert updated()["scale"][0] == pytest.approx(2.0 - 0.1 * 2.0)
    plain = updated(multiply_by_parameter_scale=False)
    assert plain["scale"][0] == pytest.approx(2.0 - 0.1)
    rules = adafactor.HParamMap([("kernel", True), (".*", False)])
    mapped = updated(multiply_by_parameter_scale=rules)
    assert mapped["scale"][0] == pytest.approx(1.9)
    assert mapped["a"]["kernel"][0, 0] == pytest.approx(1.8)
    assert updated(beta1=0.9)["scale"][0] == pytest.approx(2.0 - 0.1 * 0.2)
    decayed = updated(weight_decay_rate=0.5)
    assert decayed["scale"][0] == pytest.approx(2.0 - 0.2 - 1.0)


def test_wrapped_optimizer_takes_the_trainers_rate_unless_it_has_its_own():
    params = {"w": jnp.ones((2,))}
    grads = {"w": jnp.ones((2,))}
    follows = optimizers.sgd()
    fixed = optimizers.sgd(learning_rate=0.5)
    assert follows.uses_trainer_learning_rate
    assert not fixed.uses_trainer_learning_rate
    for definition, expected in ((follows, 0.9), (fixed, 0.5)):
        new, _ = definition.apply_gradient(
            params, definition.init_state(params), grads, learning_rate=0.1
        )
        np.testing.assert_allclose(new["w"], expected, rtol=1e-6)


def test_wrapped_optimizer_clips_the_global_norm():
    params = {"w": jnp.zeros((4,))}
    grads = {"w": jnp.full((4,), 10.0)}
    definition = optimizers.sgd(max_grad_norm=1.0)
    new, _ = definition.apply_gradient(
        params, definition.init_state(params), grads, learning_rate=1.0
    )
    assert np.linalg.norm(new["w"]) == pytest.approx(1.0)


def test_chain_and_mask():
    definition = optimizers.chain([optax.clip(0.5), optax.sgd(1.0)])
    params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros((2,))}
    grads = jax.tree.map(lambda x: x + 3.0, params)
    new, _ = definition.apply_gradient(
        params, definition.init_state(params), grads, learning_rate=0.0
    )
    np.testing.assert_allclose(new["w"], -0.5)
    assert optimizers.matrices_only(params) == {"w": True, "b": False}


def layers(width=8):
    """Parameters of the kinds that Muon and AdamW share out."""
    shapes = {
        "decoder": {
            "layers_0": {
                "self_attention": {"query": {"kernel": (width, width)}},
                "mlp": {"wi_0": {"kernel": (width, 3 * width)}},
                "pre_mlp_layer_norm": {"scale": (width,)},
            },
            "logits_dense": {"kernel": (width, 5)},
        },
        "encoder": {"layers_0": {"attention": {"query": {"kernel": (width, width)}}}},
    }
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )


def muon_update(rate=0.1, **kwargs):
    """Returns (change of the parameters in units of the rate, optimiser's state)."""
    params, grads = layers(), jax.tree.map(lambda x: 0.3 * x + 0.1, layers())
    definition = optimizers.muon(**kwargs)
    new, state = definition.apply_gradient(
        params, definition.init_state(params), grads, learning_rate=rate
    )
    return jax.tree.map(lambda a, b: (a - b) / rate, new, params), state


def test_muon_makes_matrices_of_attention_and_mlp_orthogonal():
    change, _ = muon_update()
    attention = change["decoder"]["layers_0"]["self_attention"]["query"]["kernel"]
    mlp = change["decoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    for update in (attention, mlp):
        values = np.linalg.svd(update, compute_uv=False)
        # Newton and Schulz's five steps leave singular values between 0.7 and 1.2.
        scaled = values / (0.2 * np.sqrt(max(update.shape)))
        assert scaled.min() > 0.6
        assert scaled.max() < 1.3
        rms = np.sqrt(np.mean(np.square(update)))
        assert rms == pytest.approx(0.2, rel=0.3)
    # AdamW's first update is the gradient's sign.
    for rest in (
        change["decoder"]["logits_dense"]["kernel"],
        change["decoder"]["layers_0"]["pre_mlp_layer_norm"]["scale"],
    ):
        np.testing.assert_allclose(np.abs(rest), 1.0, rtol=1e-4)


def test_muon_decays_matrices_and_spares_norms():
    plain, _ = muon_update()
    decayed, _ = muon_update(weight_decay=0.03, adam_weight_decay=0.01)
    lost = jax.tree.map(lambda a, b: a - b, plain, decayed)["decoder"]
    params = layers()["decoder"]
    for path, decay in (
        (("layers_0", "mlp", "wi_0", "kernel"), 0.03),
        (("logits_dense", "kernel"), 0.01),
        (("layers_0", "pre_mlp_layer_norm", "scale"), 0.0),
    ):
        found, parameter = lost, params
        for name in path:
            found, parameter = found[name], parameter[name]
        np.testing.assert_allclose(found, decay * parameter, atol=1e-5)


def test_muon_leaves_the_rest_of_the_network_alone():
    change, state = muon_update(trained=("decoder",), max_grad_norm=1.0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(change["encoder"]))
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(change["decoder"]))
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]
    ]
    assert any("decoder" in path for path in paths)
    assert not any("encoder'" in path for path in paths)


@pytest.mark.parametrize(
    ("kwargs", "step", "expected"),
    [
        ({"factors": "constant", "base_learning_rate": 1e-3}, 7, 1e-3),
        ({"warmup_steps": 100}, 50, 0.5 * 0.5 / math.sqrt(100)),
        ({"warmup_steps": 100}, 400, 0.5 / math.sqrt(400)),
        ({"warmup_steps": 100}, 0, 1e-8),
        ({"factors": "rsqrt_normalized_decay", "warmup_steps": 100}, 400, 0.5),
        ({"factors": "constant * decay_every", "steps_per_decay": 10}, 25, 0.125),
        (
            {"factors": "cosine_decay", "warmup_steps": 0, "steps_per_cycle": 8},
            4,
            0.5,
        ),
        (
            {"factors": "linear_decay", "warmup_steps": 10, "decay_factor": 0.1},
            15,
            0.25,
        ),
        ({"factors": "linear_warmup", "warmup_steps": 10, "step_offset": 5}, 10, 0.5),
    ],
)
def test_learning_rate_factors(kwargs, step, expected):
    rate = utils.create_learning_rate_scheduler(**kwargs)(jnp.asarray(step))
    assert rate.dtype == jnp.float32
    assert rate == pytest.approx(expected, rel=1e-5)


def test_unknown_factor_has_a_near_miss():
    with pytest.raises(ConfigError, match="Did you mean rsqrt_decay"):
        utils.create_learning_rate_scheduler("constant * rsqr_decay")


def test_cosine_schedule():
    rate = utils.create_cosine_schedule(1.0, 110, warmup_steps=10, final_fraction=0.1)
    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.55)
    assert rate(500) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="warmup_steps is 5"):
        utils.create_cosine_schedule(1.0, 5, warmup_steps=5)


def test_stable_schedule():
    rate = utils.create_stable_schedule(
        1.0, 100, decay_steps=20, warmup_steps=10, final_fraction=0.1
    )
    assert rate(0) == pytest.approx(0.1)
    assert [float(rate(step)) for step in (9, 40, 80)] == [1.0, 1.0, 1.0]
    assert rate(90) == pytest.approx(0.55)
    assert rate(100) == rate(500) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="decay_steps 95"):
        utils.create_stable_schedule(1.0, 100, decay_steps=95, warmup_steps=10)


def test_gin_sees_the_extra_parameter():
    # Gin looks through functools.wraps, which would hide it.
    assert not hasattr(optimizers.adamw, "__wrapped__")
    assert "max_grad_norm" in inspect.signature(optimizers.adamw).parameters
