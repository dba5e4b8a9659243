"""The stem hears every pitch alike, at any level."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import checkpoints, configs, harmonic_stem, network, spectrograms
from mt3.errors import ConfigError
from tests.support import drawn

SPECTROGRAM = spectrograms.SpectrogramConfig(
    hop_width=320,
    num_mel_bins=harmonic_stem.NUM_BANDS,
    scale="pitch",
    lo_hz=harmonic_stem.LO_HZ,
    hi_hz=harmonic_stem.HI_HZ,
)
SIZES = {
    "vocab_size": 64,
    "emb_dim": 16,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "head_dim": 8,
    "mlp_dim": 16,
    "input_depth": harmonic_stem.NUM_BANDS,
    "harmonic_channels": 4,
    "note_channels": 3,
}


def tone(pitch, seconds=0.5):
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    time = np.arange(int(16000 * seconds)) / 16000
    partials = (np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, 5))
    return 0.2 * sum(partials).astype(np.float32)


@pytest.mark.parametrize("pitch", [45, 60, 81])
def test_bands_around_the_fundamental_are_loudest(pitch):
    frames = spectrograms.compute_spectrogram(tone(pitch), SPECTROGRAM)
    levels = harmonic_stem.relative_levels(jnp.asarray(frames)[None])
    stacked = np.asarray(harmonic_stem.stack_harmonics(levels))[0]
    assert stacked.shape == (25, 88, 3 * len(harmonic_stem.HARMONICS))
    middle = stacked[10].reshape(88, len(harmonic_stem.HARMONICS), 3)[:, :, 1]
    # First four harmonics together, which only the right pitch has.
    assert middle[:, 1:5].sum(axis=1).argmax() == pitch - harmonic_stem.LOWEST_PITCH


def test_levels_do_not_depend_on_the_recordings():
    frames = [
        jnp.asarray(spectrograms.compute_spectrogram(gain * tone(60), SPECTROGRAM))
        for gain in (1.0, 0.1)
    ]
    loud, quiet = (harmonic_stem.relative_levels(f[None]) for f in frames)
    np.testing.assert_allclose(loud, quiet, atol=2e-3)
    silence = spectrograms.compute_spectrogram(np.zeros(8000), SPECTROGRAM)
    assert not np.asarray(harmonic_stem.relative_levels(silence[None])).any()


def test_every_pitch_is_described_alike():
    stem = harmonic_stem.HarmonicStem(8, 4, 3)
    # Where all harmonics, of the octave above too, lie within the bands, moving the
    # bands by a semitone moves the notes by one.
    levels = np.full((1, 12, harmonic_stem.NUM_BANDS), -20.0, np.float32)
    levels[:, 4:8, 120:140] = np.random.default_rng(0).uniform(0, 8, (1, 4, 20))
    frames = np.stack([levels[0], np.roll(levels[0], 3, axis=-1)])
    params = {"params": drawn.parameters(stem.init, frames)}
    _, sown = stem.apply(params, frames, mutable=["intermediates"])
    first, second = np.asarray(sown["intermediates"]["described"][0])
    assert np.abs(first).max() > 0
    np.testing.assert_allclose(first[:, 27:44], second[:, 28:45], atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 2])
def test_parameters_are_the_ones_that_checkpoints_expect(blocks):
    sizes = {**SIZES, "stem_blocks": blocks}
    config = configs.ModelConfig(network=sizes, spectrogram=SPECTROGRAM)
    module = network.Transformer(network.T5Config.from_dict(sizes))
    frames = jnp.zeros((1, 8, harmonic_stem.NUM_BANDS))
    tokens = jnp.ones((1, 4), jnp.int32)
    init = functools.partial(module.init, enable_dropout=False)
    variables = jax.eval_shape(init, jax.random.key(0), frames, tokens, tokens)
    found = {
        name: tuple(value.shape)
        for name, value in checkpoints.flatten(variables["params"]).items()
    }
    assert found == checkpoints.expected_shapes(config)
    axes = checkpoints.flatten(variables["params_axes"])
    assert len(axes) == len(found)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="expected 294"):
        network.T5Config.from_dict({**SIZES, "input_depth": 512})
    with pytest.raises(ConfigError, match="harmonic_channels"):
        network.T5Config.from_dict({**SIZES, "harmonic_channels": -1})
    with pytest.raises(ConfigError, match="scale 'pitch'"):
        configs.ModelConfig(network=SIZES)
    with pytest.raises(ConfigError, match="less than half of the 256 frames"):
        configs.ModelConfig(network={}, context_frames=128)


def test_context_belongs_to_a_segment_and_does_not_lengthen_it():
    config = configs.ModelConfig(network={}, inputs_length=200, context_frames=25)
    assert config.segment_frames == 150
    assert config.input_samples == 200 * 128
    assert config.segment_samples == 150 * 128
    assert config.segment_seconds == pytest.approx(1.2)
    assert config.context_seconds == pytest.approx(0.2)
    assert configs.ModelConfig.from_dict(config.to_dict()) == config


def test_the_decoder_hears_where_each_frame_lies():
    """Frames in another order change the logits only where positions are added."""
    tokens = jnp.asarray([[0, 2, 3]])
    encoded = jax.random.normal(jax.random.key(0), (1, 6, SIZES["emb_dim"]))
    turned = encoded[:, ::-1]
    differs = {}
    for memory_positions in (False, True):
        sizes = {**SIZES, "memory_positions": memory_positions}
        module = network.Transformer(network.T5Config.from_dict(sizes))
        frames = jnp.zeros((1, 6, harmonic_stem.NUM_BANDS))
        init = functools.partial(module.init, enable_dropout=False)
        params = {"params": drawn.parameters(init, frames, tokens, tokens)}
        # Compiled: op by op is several times slower.
        decode = jax.jit(
            functools.partial(module.apply, enable_dropout=False, method="decode")
        )
        logits = [
            decode(params, memory, frames, tokens, tokens + 1)
            for memory in (encoded, turned)
        ]
        differs[memory_positions] = float(jnp.abs(logits[0] - logits[1]).max())
    assert differs[False] < 1e-5 < 1e-3 < differs[True]
