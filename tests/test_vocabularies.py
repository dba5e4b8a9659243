"""Ids, velocity bins and program granularities."""

import itertools
import math
import pickle
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mt3 import event_codec, vocabularies
from mt3.errors import ConfigError, TokenError
from mt3.vocabularies import VocabularyConfig

CODEC = vocabularies.build_codec(VocabularyConfig(num_velocity_bins=1))


@pytest.mark.parametrize(
    ("bins", "classes", "size", "rows"),
    [(1, 1388, 1491, 1536), (127, 1514, 1617, 1664)],
)
def test_sizes(bins, classes, size, rows):
    codec = vocabularies.build_codec(VocabularyConfig(num_velocity_bins=bins))
    vocabulary = vocabularies.vocabulary_from_codec(codec)
    assert codec.num_classes == classes
    assert vocabulary.vocab_size == size
    assert vocabularies.num_embeddings(vocabulary) == rows
    assert vocabularies.num_velocity_bins_from_codec(codec) == bins


@pytest.fixture(params=["TokenVocabulary", "GenericTokenVocabulary"])
def vocabulary(request):
    """Ten events and four extra ids."""
    return getattr(vocabularies, request.param)(10, extra_ids=4)


def test_ids_of_vocabularies(vocabulary):
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.bos_id is None
    assert (vocabulary.base_vocab_size, vocabulary.vocab_size) == (13, 17)
    assert type(vocabulary)(10).extra_ids == 0


def test_encode_adds_three(vocabulary):
    assert vocabulary.encode([0, 9, 4]) == [3, 12, 7]
    assert vocabulary.encode([]) == []
    assert vocabulary.encode_array([[0], [9]]).tolist() == [[3], [12]]
    found = vocabulary.encode_tf(tf.constant([0, 9, 4], tf.int64))
    assert (found.dtype, found.numpy().tolist()) == (tf.int64, [3, 12, 7])


@pytest.mark.parametrize("wrong", [-1, 10])
def test_encode_refuses_what_is_no_event(vocabulary, wrong):
    with pytest.raises(TokenError, match=f"{wrong} is outside 0..9"):
        vocabulary.encode([3, wrong])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"outside 0\.\.9"):
        vocabulary.encode_tf(tf.constant([3, wrong]))


def test_decode_ids(vocabulary):
    ids = [3, 0, 2, 13, 17, -1, 12, 1, 5, 1, 0]
    expected = [0, -2, -2, -2, -2, -2, 9, -1]
    # As the original: a list that ends with EOS.
    assert vocabulary.decode(ids) == expected
    assert vocabulary.decode(tf.constant(ids)) == expected
    assert vocabulary.decode([4, 5]) == [1, 2]
    assert vocabulary.decode([]) == []
    # These keep the shape.
    expected += [-1, -1, -1]
    assert vocabulary.decode_array(ids).tolist() == expected
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().tolist() == expected
    batch = [[3, 1, 4], [4, 5, 6]]
    expected = [[0, -1, -1], [1, 2, 3]]
    assert vocabulary.decode_array(batch).tolist() == expected
    in_graph = tf.function(vocabulary.decode_tf)(tf.constant(batch, tf.int64))
    assert in_graph.numpy().tolist() == expected


def test_with_and_without_seqio_are_equal():
    plain = vocabularies.token_vocabulary(CODEC)
    full = vocabularies.vocabulary_from_codec(CODEC)
    assert isinstance(full, vocabularies.GenericTokenVocabulary)
    assert isinstance(full, seqio.Vocabulary)
    assert not isinstance(plain, seqio.Vocabulary)
    for one, other in itertools.product([plain, full], repeat=2):
        assert one == other
        # Engines compare with `!=`.
        assert not one != other  # noqa: SIM202
        assert hash(one) == hash(other)
    for kind in (vocabularies.TokenVocabulary, vocabularies.GenericTokenVocabulary):
        assert kind(10, 4) != full
        assert plain != kind(10, 4)
        assert kind(10, 4) != kind(11, 3)
    assert full != seqio.PassThroughVocabulary(size=0)
    assert plain != seqio.PassThroughVocabulary(size=0)
    assert "1388, extra_ids=100" in repr(full)


def test_vocabularies_can_be_pickled():
    full = vocabularies.vocabulary_from_codec(CODEC)
    assert type(pickle.loads(pickle.dumps(full))) is type(full)


def test_without_seqio(monkeypatch):
    uncached = vocabularies._generic_token_vocabulary.__wrapped__
    monkeypatch.setattr(vocabularies, "_generic_token_vocabulary", uncached)
    monkeypatch.setitem(sys.modules, "seqio", None)
    found = vocabularies.vocabulary_from_codec(CODEC)
    assert type(found) is vocabularies.TokenVocabulary
    with pytest.raises(ImportError):
        _ = vocabularies.GenericTokenVocabulary
    with pytest.raises(AttributeError, match="GenericTokenVocab"):
        _ = vocabularies.GenericTokenVocab


@pytest.mark.parametrize("bins", [1, 4, 127])
def test_velocity_bins_match_their_formula(bins):
    velocities = np.arange(128)
    expected = [math.ceil(bins * v / 127) for v in velocities]
    assert vocabularies.velocity_to_bin(velocities, bins).tolist() == expected
    for velocity_bin in range(bins + 1):
        velocity = vocabularies.bin_to_velocity(velocity_bin, bins)
        assert velocity == int(127 * velocity_bin / bins)
        assert vocabularies.velocity_to_bin(velocity, bins) == velocity_bin


@pytest.mark.parametrize("kind", [np.array, tf.constant])
def test_program_granularities(kind):
    program = CODEC.encode_values("program", np.array([0, 7, 8, 33])).tolist()
    pitch = CODEC.encode_values("pitch", np.array([60])).tolist()
    tokens = kind([*program, *pitch])
    expected = {
        "flat": pitch,
        "midi_class": [program[0], program[0], program[2], program[3] - 1, *pitch],
        "full": [*program, *pitch],
    }
    for name, events in expected.items():
        granularity = vocabularies.program_granularity(name)
        found = granularity.tokens_map_fn(tokens, CODEC)
        assert tf.is_tensor(found) == tf.is_tensor(tokens)
        assert np.asarray(found).tolist() == events
    with pytest.raises(ConfigError, match="midi_class"):
        vocabularies.program_granularity("midi_clas")


def test_midi_classes():
    assert [vocabularies.midi_class(program) for program in (0, 7, 8, 127)] == [
        *[0, 0, 1, 15]
    ]
    assert (
        vocabularies.midi_class(np.arange(128)).tolist()
        == np.repeat(np.arange(16), 8).tolist()
    )
    to_class = vocabularies.program_granularity("midi_class").program_map_fn
    assert [to_class(program) for program in (0, 33, 127)] == [0, 32, 120]


def test_program_granularities_in_a_graph():
    @tf.function
    def classes(tokens):
        return vocabularies.programs_to_midi_classes(tokens, CODEC)

    first = CODEC.event_type_range("program")[0]
    found = classes(tf.constant([first + 33], tf.int64))
    assert (found.dtype, found.numpy().tolist()) == (tf.int64, [first + 32])


def test_codecs_without_a_range():
    codec = event_codec.Codec(9, 100, [event_codec.EventRange("pitch", 0, 127)])
    with pytest.raises(TokenError, match="velocity"):
        vocabularies.num_velocity_bins_from_codec(codec)
    with pytest.raises(TokenError, match="program"):
        vocabularies.programs_to_midi_classes(np.array([12]), codec)
    assert vocabularies.drop_programs(np.array([12]), codec).tolist() == [12]


@pytest.mark.parametrize("bins", [0, 128, 1.5])
def test_bad_velocity_bins(bins):
    with pytest.raises(ConfigError, match="num_velocity_bins"):
        VocabularyConfig(num_velocity_bins=bins)


def test_names_of_settings():
    assert VocabularyConfig().abbrev_str == ""
    assert VocabularyConfig(num_velocity_bins=1).abbrev_str == "vb1"
    assert VocabularyConfig(50, 5, 1).abbrev_str == "ss50ms5vb1"
