"""`benchmarks/train_step.py`: operations counted, and the engine's own losses."""

import math

import jax
import numpy as np
import pytest

from benchmarks import train_engines, train_step
from mt3 import decoding, models, network
from mt3.engine import adafactor, launch

SETTINGS = train_engines.Settings("one layer", batch=2, frames=8, tokens=16)
# Without dropout: its random numbers are most of what is slow to compile.
CONFIG = network.T5Config.from_dict(
    {
        "vocab_size": 24,
        "emb_dim": 8,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 6,
        "mlp_dim": 16,
        "mlp_activations": ("linear",),
        "dropout_rate": 0.0,
        "input_depth": 10,
    }
)


class OneLayerEngine(train_engines.OurEngine):
    """The benchmark's engine with less to compile than the smallest of its sizes."""

    def _make_model(self, settings):
        return models.ContinuousInputsEncoderDecoderModel(
            network.Transformer(CONFIG),
            None,
            None,
            adafactor.Adafactor(),
            input_depth=CONFIG.input_depth,
        )


@pytest.fixture(scope="module")
def engine():
    decoding.enable_compilation_cache()
    return OneLayerEngine(SETTINGS)


def is_jaxpr(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def product_flops(jaxpr):
    """Counts the operations of all matrix products of a traced function."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * depth * equation.outvars[0].aval.size
        for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                total += product_flops(getattr(inner, "jaxpr", inner))
    return total


def test_operations_are_those_of_the_traced_gradient(engine):
    """Every matrix product, forward and backward, and no more."""
    gradient = jax.grad(engine.model.loss_fn, has_aux=True)
    params = engine.trainer.train_state.params
    traced = jax.make_jaxpr(gradient)(params, engine.batch, jax.random.key(0))
    assert product_flops(traced.jaxpr) == engine.flops > 0


def test_operations_by_hand():
    """Two layers each, by the sizes that local_tiny.gin has."""
    with launch.engine_as_t5x():
        config = train_engines.make_model("tiny", "float32").module.config
    assert (config.emb_dim, config.num_heads * config.head_dim) == (8, 12)
    assert (config.mlp_dim, config.vocab_size, config.input_depth) == (16, 1536, 512)
    # Projections of queries, results, keys and values; then the two attention products.
    encoder = 4 * 8 * 8 * 12 + 2 * 8 * 8 * 12 + 8 * 3 * 8 * 16
    own = 4 * 16 * 8 * 12 + 2 * 16 * 16 * 12
    cross = 2 * 16 * 8 * 12 + 2 * 8 * 8 * 12 + 2 * 16 * 8 * 12
    decoder = own + cross + 16 * 3 * 8 * 16
    logits, inputs = 16 * 8 * 1536, 8 * 512 * 8
    by_hand = 2 * 3 * (3 * (2 * encoder + 2 * decoder + logits) + 2 * inputs)
    assert train_engines.step_flops(config, batch=3, frames=8, tokens=16) == by_hand


def test_the_loss_is_that_of_the_engine(engine):
    params = engine.trainer.train_state.params
    loss, _ = jax.jit(engine.model.eval_fn)(params, engine.batch)
    np.testing.assert_allclose(engine.losses(1), [loss], rtol=1e-6)
    assert engine.trainer.train_state.step == 1
    assert engine.turn(2) > 0
    assert engine.trainer.train_state.step == 3


def test_losses_that_differ_are_refused():
    losses = {"ours": [3.0, 2.0, 1.0], "T5X": [3.0, 2.0, 1.0 + 1e-6]}
    assert "T5X's differ by 1.0e-06" in train_step.check_losses(losses)
    for wrong in (1.01, math.nan):
        with pytest.raises(SystemExit, match="do not agree"):
            train_step.check_losses({**losses, "T5X": [3.0, 2.0, wrong]})
