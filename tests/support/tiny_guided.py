"""Tiny models with training aids, with and without the harmonic stem."""

from __future__ import annotations

import dataclasses

import jax

from mt3 import configs, harmonic_stem, network, spectrograms
from mt3.beyond import guided
from mt3.note_sequences import Note
from tests.support import drawn

CONFIG = configs.ModelConfig(
    network={
        "vocab_size": 1536,
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "head_dim": 8,
        "mlp_dim": 16,
        "input_depth": 32,
        "dropout_rate": 0.0,
    },
    spectrogram=spectrograms.SpectrogramConfig(hop_width=256, num_mel_bins=32),
    inputs_length=64,
)
STEM_CONFIG = dataclasses.replace(
    CONFIG,
    network={
        **CONFIG.network,
        "input_depth": harmonic_stem.NUM_BANDS,
        "harmonic_channels": 4,
        "note_channels": 4,
    },
    spectrogram=spectrograms.SpectrogramConfig(
        hop_width=256,
        num_mel_bins=harmonic_stem.NUM_BANDS,
        scale="pitch",
        lo_hz=harmonic_stem.LO_HZ,
        hi_hz=harmonic_stem.HI_HZ,
    ),
)
NOTES = [
    Note(-0.5, 0.3, 50, 100, 40),
    Note(0.4, 0.9, 60, 100, 9),
    Note(0.5, 0.51, 38, 100, 0, is_drum=True),
]
SMALL_GUIDE = guided.GuideConfig(local_distances=(-1, 1))


def make_model(guide=SMALL_GUIDE, **options):
    module = network.Transformer(network.T5Config.from_dict(CONFIG.network))
    return guided.GuidedModel(
        module,
        None,
        None,
        None,
        input_depth=32,
        z_loss=1e-4,
        config=CONFIG,
        guide=guide,
        **options,
    )


def make_stem_model(**options):
    module = network.Transformer(network.T5Config.from_dict(STEM_CONFIG.network))
    return guided.GuidedModel(
        module,
        None,
        None,
        None,
        input_depth=harmonic_stem.NUM_BANDS,
        z_loss=1e-4,
        config=STEM_CONFIG,
        guide=options.pop("guide", SMALL_GUIDE),
        **options,
    )


SHAPES = {
    "encoder_input_tokens": (1, 64, 32),
    "decoder_input_tokens": (1, 32),
    "decoder_target_tokens": (1, 32),
}


def initial(model, shapes=None):
    """The parameters that training begins with, made of a network's random ones."""
    shapes = SHAPES if shapes is None else shapes
    with drawn.first_parameters():
        # Compiled: op by op is several times slower.
        init = jax.jit(lambda key: model.get_initial_variables(key, shapes)["params"])
        return init(jax.random.key(0))


def random(model):
    """Random parameters of the same shapes, which are there much sooner."""
    return drawn.parameters(lambda key: model.get_initial_variables(key, SHAPES))
