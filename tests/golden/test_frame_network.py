"""The default weights' network, stage by stage, against outputs computed outside JAX.

`frame_network.npz` holds two segments of `examples/example.flac` and, at every tenth
frame, what a PyTorch implementation of the same network made of them in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import checkpoints, frame_heads, network, spectrograms
from tests.golden import test_golden

EVERY = slice(None, None, 10)
STAGES = {
    "frames": (2, 20, 294),
    "stem_notes": (2, 20, 88, 24),
    "stem_logits": (2, 20, 88, 2),
    "encoded": (2, 20, 256),
    "frame_logits": (2, 20, 400),
    "refined": (2, 20, 88, 2),
    "note_outputs": (2, 20, 88, 18),
    "drum_details": (2, 20, 256),
    "decoder_logits": (2, 8, 768),
}


@pytest.fixture(scope="module")
def expected():
    return test_golden.read_arrays("frame_network.npz")


@pytest.fixture(scope="module")
def stages(expected):
    """All stages, computed by this package with the default weights."""
    loaded = checkpoints.load(checkpoints.resolve("default"))
    config = network.T5Config.from_dict(loaded.config.network)
    model = network.Transformer(config)
    heads = loaded.params[frame_heads.HEADS]
    params = {key: loaded.params[key] for key in ("encoder", "decoder")}

    @jax.jit
    def compute(samples, tokens):
        frames = spectrograms.compute_spectrogram(samples, loaded.config.spectrogram)
        variables = {"params": params}
        encoded, sown = model.apply(
            variables,
            frames,
            enable_dropout=False,
            mutable=["intermediates"],
            method="encode",
        )
        stem = sown["intermediates"]["encoder"]["harmonic_stem"]
        notes, logits = stem["described"][0], stem["note_logits"][0]
        decoder_logits = model.apply(
            variables,
            encoded,
            frames,
            tokens,
            jnp.ones_like(tokens),  # Id 0 stands for nothing masked.
            enable_dropout=False,
            method="decode",
        )
        by_frame = {
            "frames": frames,
            "stem_notes": notes,
            "stem_logits": logits,
            "encoded": encoded,
            "frame_logits": jnp.concatenate(
                frame_heads.frame_logits(heads, encoded), axis=-1
            ),
            "refined": frame_heads.refined_logits(heads, encoded, notes),
            "note_outputs": frame_heads.note_outputs(heads, encoded, notes),
            "drum_details": frame_heads.drum_details(heads, encoded),
        }
        result = {name: value[:, EVERY] for name, value in by_frame.items()}
        return result | {"decoder_logits": decoder_logits}

    return compute(expected["samples"], expected["decoder_input_tokens"])


@pytest.mark.parametrize("stage", STAGES)
def test_stage(stage, stages, expected):
    assert expected[stage].shape == STAGES[stage]
    np.testing.assert_allclose(stages[stage], expected[stage], rtol=0, atol=1e-3)
