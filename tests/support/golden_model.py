"""The small model that the original system trained, saved and ran."""

from __future__ import annotations

import functools
import pathlib
import tarfile
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import checkpoints, network
from tests.support import drawn

DATA = pathlib.Path(__file__).resolve().parents[1] / "golden" / "data"
CONFIG = network.T5Config.from_dict(
    {
        "vocab_size": 1536,
        "emb_dim": 32,
        "num_heads": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "head_dim": 16,
        "mlp_dim": 64,
    }
)
# Compiling takes most of the time of tests with tiny arrays; this halves it.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# JAX 0.12 knows it no more.
if jax.__version_info__ < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False
# Smaller still, with everything present, for tests that need no trained weights.
TINY = network.T5Config.from_dict(
    {
        "vocab_size": 24,
        "emb_dim": 8,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 3,
        "mlp_dim": 12,
        "input_depth": 5,
    }
)


@functools.lru_cache(maxsize=1)
def outputs() -> dict[str, np.ndarray]:
    """What the original computed; float16 inputs become float32."""
    with np.load(DATA / "model.npz") as data:
        result = {name: data[name] for name in data.files}
    assert result, "golden file model.npz is empty"
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in result.items()
    }


@functools.lru_cache(maxsize=1)
def params() -> dict[str, Any]:
    """The parameters of the golden checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(DATA / "t5x_checkpoint.tar.gz") as tar:
            tar.extractall(folder, filter="data")
        path = next(pathlib.Path(folder).rglob("checkpoint_0"))
        loaded = checkpoints.load_t5x(path).params
    return jax.tree.map(jnp.asarray, loaded)


def training_batch() -> dict[str, jax.Array]:
    """The batch whose logits, loss and scores are golden, with T5X's names."""
    targets = jnp.asarray(outputs()["train_targets4"])
    return {
        "encoder_input_tokens": jnp.asarray(outputs()["train_inputs4"]),
        "decoder_input_tokens": shift_right(targets),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": jnp.asarray(targets > 0, jnp.float32),
    }


def shift_right(targets: jax.Array) -> jax.Array:
    """Decoder inputs of targets [B, L]: 0, then all but the last."""
    return jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]


@functools.lru_cache(maxsize=4)
def tiny_params(config: network.T5Config = TINY) -> dict[str, Any]:
    """Random parameters of a tiny network."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    frames = jnp.zeros((1, 3, config.input_depth))
    init = functools.partial(network.Transformer(config).init, enable_dropout=False)
    return drawn.parameters(init, frames, tokens, tokens)


def tiny_batch(batch: int = 3, frames: int = 6, length: int = 5, seed: int = 0):
    """Random inputs for `TINY`: frames, decoder inputs, targets with padding."""
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(rng.normal(size=(batch, frames, TINY.input_depth)), "float32")
    targets = rng.integers(3, TINY.vocab_size, size=(batch, length))
    targets[0, length - 2 :] = 0
    targets = jnp.asarray(targets, jnp.int32)
    return inputs, shift_right(targets), targets
