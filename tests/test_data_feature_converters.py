"""From task features to model features."""

from __future__ import annotations

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mt3.data.feature_converters import ContinuousInputsEncDecFeatureConverter
from mt3.errors import ConfigError

LENGTHS = {"inputs": 4, "targets": 5}


def examples(*sizes, depth=3):
    """Examples of (frames, ids); the last id is EOS."""

    def generate():
        for frames, ids in sizes:
            yield {
                "inputs": np.arange(1, frames * depth + 1, dtype=np.float32).reshape(
                    frames, depth
                ),
                "targets": np.append(np.arange(5, 4 + ids), 1).astype(np.int32),
                "unique_id": [b"a"],
            }

    signature = {
        "inputs": tf.TensorSpec([None, depth], tf.float32),
        "targets": tf.TensorSpec([None], tf.int32),
        "unique_id": tf.TensorSpec([1], tf.string),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def test_padding_and_shift():
    ds = ContinuousInputsEncDecFeatureConverter()(examples((2, 3), (4, 5)), LENGTHS)
    short, full = ds.as_numpy_iterator()
    assert short["encoder_input_tokens"].tolist() == [
        [1, 2, 3],
        [4, 5, 6],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert short["decoder_target_tokens"].tolist() == [5, 6, 1, 0, 0]
    assert short["decoder_input_tokens"].tolist() == [0, 5, 6, 1, 0]
    assert short["decoder_loss_weights"].tolist() == [1, 1, 1, 0, 0]
    assert full["decoder_target_tokens"].tolist() == [5, 6, 7, 8, 1]
    assert full["decoder_input_tokens"].tolist() == [0, 5, 6, 7, 8]
    assert full["decoder_loss_weights"].tolist() == [1] * 5
    assert full["encoder_input_tokens"].dtype == np.float32
    for name in ("target_tokens", "input_tokens", "loss_weights"):
        assert full[f"decoder_{name}"].dtype == np.int32


def test_shapes_are_static_but_for_the_depth():
    converter = ContinuousInputsEncDecFeatureConverter(pack=False)
    spec = converter(examples((2, 3)), LENGTHS).element_spec
    assert spec["encoder_input_tokens"].shape.as_list() == [4, 3]
    assert spec["decoder_target_tokens"].shape.as_list() == [5]


def test_other_features_pass_through_when_asked_for():
    converter = ContinuousInputsEncDecFeatureConverter(
        passthrough_features={
            "unique_id": seqio.FeatureConverter.FeatureSpec(dtype=tf.string)
        }
    )
    ds = converter(examples((2, 3)), {**LENGTHS, "unique_id": 1})
    assert next(ds.as_numpy_iterator())["unique_id"].tolist() == [b"a"]


def test_packing_is_refused():
    with pytest.raises(ConfigError, match="DatasetConfig.pack = False"):
        ContinuousInputsEncDecFeatureConverter(pack=True)


@pytest.mark.parametrize("size", [(5, 3), (4, 6)])
def test_too_long_is_an_error_and_not_cut(size):
    ds = ContinuousInputsEncDecFeatureConverter()(examples(size), LENGTHS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="length"):
        list(ds)


def test_types_are_checked():
    ds = examples((2, 3)).map(lambda e: {**e, "inputs": tf.cast(e["inputs"], tf.int32)})
    with pytest.raises(ValueError, match="incorrect type for feature 'inputs'"):
        ContinuousInputsEncDecFeatureConverter()(ds, LENGTHS)
