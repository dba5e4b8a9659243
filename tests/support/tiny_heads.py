"""A tiny model with a harmonic stem and frame heads."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from mt3 import (
    configs,
    frame_heads,
    harmonic_stem,
    network,
    spectrograms,
    vocabularies,
)
from tests.support import drawn

VOCABULARY = vocabularies.VocabularyConfig(
    steps_per_second=50, max_shift_seconds=1, num_velocity_bins=1
)
CODEC = vocabularies.build_codec(VOCABULARY)
NETWORK = network.T5Config.from_dict(
    {
        "vocab_size": vocabularies.num_embeddings(vocabularies.token_vocabulary(CODEC)),
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 8,
        "mlp_dim": 16,
        "dropout_rate": 0.0,
        "input_depth": harmonic_stem.NUM_BANDS,
        "harmonic_channels": 4,
        "note_channels": 4,
        "stem_blocks": 1,
        "memory_positions": True,
        "frame_heads": True,
    }
)
CONFIG = configs.ModelConfig(
    network=NETWORK.to_dict(),
    vocabulary=VOCABULARY,
    spectrogram=spectrograms.SpectrogramConfig(
        hop_width=320,
        num_mel_bins=harmonic_stem.NUM_BANDS,
        lo_hz=26.975577,
        hi_hz=7603.62,
        scale="pitch",
    ),
    program_granularity="midi_class",
    inputs_length=50,
    targets_length=200,
)


def make_params():
    """Returns random parameters of the network and of the heads."""
    model = network.Transformer(NETWORK)
    frames = jnp.zeros((1, CONFIG.inputs_length, NETWORK.input_depth))
    tokens = jnp.ones((1, 4), jnp.int32)
    init = functools.partial(model.init, enable_dropout=False)
    # A seed whose decoder writes notes of several velocities.
    tree = drawn.parameters(init, frames, tokens, tokens, seed=3)
    rng = np.random.default_rng(1)
    tree[frame_heads.HEADS] = {
        name: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
        for name, shape in frame_heads.head_shapes(16, 4).items()
    }
    return tree
