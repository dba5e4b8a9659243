"""Records written by hand are what TensorFlow would write."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mt3.datasets import FeatureSpec
from mt3.errors import DataError
from mt3.prepare import examples

SPECS = {
    "text": FeatureSpec("string"),
    "names": FeatureSpec("string", repeated=True),
    "rate": FeatureSpec("float32"),
    "audio": FeatureSpec("float32", repeated=True),
    "count": FeatureSpec("int64"),
    "numbers": FeatureSpec("int64", repeated=True),
}


@given(
    text=st.text(),
    names=st.lists(st.binary(max_size=300)),
    audio=hnp.arrays(np.float32, st.integers(0, 400)),
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1)),
)
def test_tensorflow_reads_it(text, names, audio, numbers):
    features = {
        "text": text,
        "names": names,
        "rate": 16000.0,
        "audio": audio,
        "count": -1,
        "numbers": numbers,
    }
    found = tf.train.Example.FromString(examples.encode(features, SPECS, "song"))
    found = found.features.feature
    assert set(found) == set(SPECS)
    assert list(found["text"].bytes_list.value) == [text.encode()]
    assert list(found["names"].bytes_list.value) == names
    assert list(found["rate"].float_list.value) == [16000.0]
    np.testing.assert_array_equal(found["audio"].float_list.value, audio)
    assert list(found["count"].int64_list.value) == [-1]
    assert list(found["numbers"].int64_list.value) == numbers


def test_other_features_than_the_data_sets():
    with pytest.raises(DataError, match="song: features size, text are missing or"):
        examples.encode({"size": 3}, {"text": FeatureSpec("string")}, "song")


def test_more_than_a_record_can_hold():
    class Large(list):
        nbytes = 3 << 30

    specs = {"stems": FeatureSpec("float32", repeated=True)}
    with pytest.raises(DataError, match=r"song: 3.0 GB of audio; .* --sample-rate"):
        examples.encode({"stems": Large()}, specs, "song")
