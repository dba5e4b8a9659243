"""Starting points: new parameters that make learning easier, and those of a file."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from mt3 import checkpoints, harmonic_stem, network, vocabularies
from mt3.beyond import guided, starts
from mt3.errors import CheckpointError
from tests.support.tiny_guided import (
    CONFIG,
    SMALL_GUIDE,
    STEM_CONFIG,
    initial,
    make_model,
    make_stem_model,
)


def test_initial_weights(tmp_path):
    model = make_model()
    # Other numbers than a new network has.
    params = jax.tree.map(lambda x: x + 1, starts.network_params(initial(model)))
    path = tmp_path / "start.safetensors"
    checkpoints.save_safetensors(path, params, CONFIG, info={"name": "start"})
    again = initial(make_model(initial_weights=str(path)))
    assert set(again) == {"encoder", "decoder", "auxiliary"}
    found, expected = (
        checkpoints.flatten(starts.network_params(tree)) for tree in (again, params)
    )
    for name, value in expected.items():
        assert (np.asarray(found[name]) == np.asarray(value)).all(), name
    module = network.Transformer(network.T5Config.from_dict(CONFIG.network))
    other = dataclasses.replace(module.config, mlp_dim=24)
    wrong = guided.GuidedModel(
        network.Transformer(other),
        None,
        None,
        None,
        input_depth=32,
        config=CONFIG,
        guide=SMALL_GUIDE,
        initial_weights=str(path),
    )
    with pytest.raises(CheckpointError, match="mlp"):
        initial(wrong)


def random_parameters(model, monkeypatch):
    """The parameters that a model starts from without an easier start."""
    with monkeypatch.context() as patch:
        patch.setattr(starts, "from_nothing", lambda params, *unused: params)
        return initial(model)


def test_initial_parameters(monkeypatch):
    params = initial(make_model())
    kernel = params["encoder"]["continuous_inputs_projection"]["kernel"]
    np.testing.assert_allclose(kernel.mean(axis=0), 0.0, atol=1e-6)
    table = np.asarray(params["decoder"]["token_embedder"]["embedding"])
    # Neighbouring times are alike, distant ones are not, others are as they were.
    first, near, far = table[3 + 20], table[3 + 21], table[3 + 90]
    similarity = np.dot(first, near) / np.dot(first, first)
    assert similarity > 0.8
    assert abs(np.dot(first, far) / np.dot(first, first)) < similarity
    plain = random_parameters(make_model(), monkeypatch)
    untouched = np.asarray(plain["decoder"]["token_embedder"]["embedding"])
    assert (table[1004:] == untouched[1004:]).all()
    assert not (table[3:100] == untouched[3:100]).any()
    assert starts.network_params(params).keys() == {"encoder", "decoder"}


def test_a_decoder_that_looks_at_an_onset_writes_its_pitch(monkeypatch):
    params = initial(make_stem_model())
    attention = params["decoder"]["layers_1"]["encoder_decoder_attention"]
    for name in ("value", "out"):
        kernel = np.asarray(attention[name]["kernel"])
        np.testing.assert_array_equal(kernel.reshape(16, 16), np.eye(16))
    stem = params["encoder"]["harmonic_stem"]
    marks = np.asarray(stem["probabilities_projection"]["kernel"]).reshape(88, 2, 16)
    kernel = np.asarray(params["decoder"]["logits_dense"]["kernel"])
    codec = vocabularies.build_codec(STEM_CONFIG.vocabulary)
    first = vocabularies.NUM_SPECIAL_IDS + codec.event_type_range("pitch")[0]
    logits = marks[:, 0] @ kernel[:, first : first + 128]
    pitches = harmonic_stem.LOWEST_PITCH + np.arange(88)
    # The directions of 88 pitches are not orthogonal in 16 numbers.
    np.testing.assert_array_equal(logits[:, 21:109].argmax(axis=1) + 21, pitches)
    plain = np.asarray(
        random_parameters(make_stem_model(), monkeypatch)["decoder"]["logits_dense"][
            "kernel"
        ]
    )
    other = slice(first + 128, None)
    np.testing.assert_array_equal(kernel[:, other], plain[:, other])
    assert not np.array_equal(kernel, plain)
