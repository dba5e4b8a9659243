"""A tiny model with random weights, for tests of what surrounds a model."""

from __future__ import annotations

import functools
import pathlib

import jax
import numpy as np

from mt3 import checkpoints, configs, network
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import EOS_ID

CONFIG = configs.ModelConfig(
    network={
        "vocab_size": 1536,
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 8,
        "mlp_dim": 16,
        "input_depth": 32,
    },
    spectrogram=SpectrogramConfig(hop_width=256, num_mel_bins=32, fft_size=1024),
    # Random weights never leave a tie section.
    include_ties=False,
    inputs_length=64,
    targets_length=24,
)


def write(path: pathlib.Path) -> None:
    """Writes the weights as one file."""
    module = network.Transformer(network.T5Config.from_dict(CONFIG.network))
    # Compiled: op by op is several times slower.
    params = jax.jit(functools.partial(module.init, enable_dropout=False))(
        jax.random.key(1),
        np.zeros((1, 64, 32), np.float32),
        np.ones((1, 4), np.int32),
        np.ones((1, 4), np.int32),
    )["params"]
    # Random weights like to end at once; with a logit of 0 for EOS they write on.
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, EOS_ID].set(0.0)
    info = {"name": "tiny", "licence": "CC0-1.0"}
    checkpoints.save_safetensors(path, params, CONFIG, info=info)
