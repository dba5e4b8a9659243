"""Vocabularies of seqio tasks: the same ids, equal in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mt3 import vocabularies
from mt3.data import seqio_vocabularies
from mt3.errors import TokenError
from mt3.vocabularies import VocabularyConfig

ONE_BIN = VocabularyConfig(num_velocity_bins=1)


@pytest.fixture
def vocabulary():
    return seqio_vocabularies.build_vocabulary(ONE_BIN)


@pytest.mark.parametrize(("bins", "size"), [(1, 1491), (127, 1617)])
def test_sizes(bins, size):
    config = VocabularyConfig(num_velocity_bins=bins)
    found = seqio_vocabularies.build_vocabulary(config)
    assert isinstance(found, seqio.Vocabulary)
    assert found.vocab_size == size
    assert found.base_vocab_size == size - 100
    assert (found.pad_id, found.eos_id, found.unk_id) == (0, 1, 2)
    assert found.bos_id is None


def test_equal_in_both_directions(vocabulary):
    plain = vocabulary.vocabulary
    other = seqio_vocabularies.build_vocabulary(VocabularyConfig())
    assert vocabulary == plain
    assert plain == vocabulary
    assert vocabulary == seqio_vocabularies.build_vocabulary(ONE_BIN)
    assert hash(vocabulary) == hash(plain)
    # `!=` is what engines compare with.
    assert not vocabulary != plain  # noqa: SIM202
    assert not plain != vocabulary  # noqa: SIM202
    assert vocabulary != other
    assert plain != other
    assert other != plain
    assert vocabulary != seqio.PassThroughVocabulary(size=0)
    assert plain != seqio.PassThroughVocabulary(size=0)


def test_encode_adds_three(vocabulary):
    assert vocabulary.encode([0, 1, 1387]).tolist() == [3, 4, 1390]
    assert vocabulary.encode_tf(tf.constant([0, 1, 1387])).numpy().tolist() == [
        3,
        4,
        1390,
    ]


@pytest.mark.parametrize("wrong", [-1, 1388])
def test_encode_refuses_what_is_no_event(vocabulary, wrong):
    with pytest.raises(TokenError, match=str(wrong)):
        vocabulary.encode([3, wrong])
    with pytest.raises(tf.errors.InvalidArgumentError, match="event indices"):
        vocabulary.encode_tf(tf.constant([3, wrong]))


@pytest.mark.parametrize("shape", [(9,), (2, 9)])
def test_decode_is_the_same_everywhere(vocabulary, rng, shape):
    ids = rng.integers(0, vocabulary.vocab_size, shape).astype(np.int32)
    ids[..., 3] = 2
    ids[..., 6] = 1
    expected = vocabulary.vocabulary.decode(ids)
    assert (expected[..., 6:] == vocabularies.DECODED_EOS_ID).all()
    assert (expected[..., 3] == vocabularies.DECODED_INVALID_ID).all()
    np.testing.assert_array_equal(vocabulary.decode(ids), expected)
    np.testing.assert_array_equal(vocabulary.decode(ids.tolist()), expected)
    np.testing.assert_array_equal(vocabulary.decode(tf.constant(ids)), expected)
    np.testing.assert_array_equal(vocabulary.decode_tf(tf.constant(ids)), expected)
    in_graph = tf.function(vocabulary.decode_tf)(tf.constant(ids, tf.int64))
    np.testing.assert_array_equal(in_graph, expected)


def test_inputs_have_no_vocabulary():
    assert seqio_vocabularies.pass_through() == seqio.PassThroughVocabulary(size=0)
    assert seqio_vocabularies.pass_through().vocab_size == 0
