"""Ids, velocity bins and program granularities."""

import math

import numpy as np
import pytest

from mt3 import vocabularies
from mt3.errors import ConfigError, TokenError
from mt3.vocabularies import VocabularyConfig


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


def test_encode_and_decode_ids():
    vocabulary = vocabularies.GenericTokenVocabulary(10)
    ids = vocabulary.encode([0, 9, 4])
    assert ids.tolist() == [3, 12, 7]
    assert vocabulary.decode(ids).tolist() == [0, 9, 4]
    with_special = [3, 0, 2, 13, 112, 12, 1, 5, 0]
    expected = [0, -2, -2, -2, -2, 9, -1, -1, -1]
    assert vocabulary.decode(with_special).tolist() == expected
    batch = vocabulary.decode([[3, 1, 4], [4, 5, 6]])
    assert batch.tolist() == [[0, -1, -1], [1, 2, 3]]
    with pytest.raises(TokenError, match="10 is outside 0..9"):
        vocabulary.encode([3, 10])


@pytest.mark.parametrize("bins", [1, 4, 127])
def test_velocity_bins_match_their_formula(bins):
    velocities = np.arange(128)
    expected = [math.ceil(bins * v / 127) for v in velocities]
    assert vocabularies.velocity_to_bin(velocities, bins).tolist() == expected
    for velocity_bin in range(bins + 1):
        velocity = vocabularies.bin_to_velocity(velocity_bin, bins)
        assert velocity == int(127 * velocity_bin / bins)
        assert vocabularies.velocity_to_bin(velocity, bins) == velocity_bin


def test_program_granularities():
    codec = vocabularies.build_codec(VocabularyConfig(num_velocity_bins=1))
    program = codec.encode_values("program", np.array([0, 7, 8, 33]))
    pitch = codec.encode_values("pitch", np.array([60]))
    tokens = np.concatenate([program, pitch])
    flat = vocabularies.program_granularity("flat").tokens_map_fn(tokens, codec)
    assert flat.tolist() == pitch.tolist()
    classes = vocabularies.program_granularity("midi_class").tokens_map_fn(
        tokens, codec
    )
    assert codec.values(classes).tolist() == [0, 0, 8, 32, 60]
    full = vocabularies.program_granularity("full").tokens_map_fn(tokens, codec)
    assert full.tolist() == tokens.tolist()
    with pytest.raises(ConfigError, match="midi_class"):
        vocabularies.program_granularity("midi_clas")


@pytest.mark.parametrize("bins", [0, 128, 1.5])
def test_bad_velocity_bins(bins):
    with pytest.raises(ConfigError, match="num_velocity_bins"):
        VocabularyConfig(num_velocity_bins=bins)


def test_names_of_settings():
    assert VocabularyConfig().abbrev_str == ""
    assert VocabularyConfig(num_velocity_bins=1).abbrev_str == "vb1"
    assert VocabularyConfig(50, 5, 1).abbrev_str == "ss50ms5vb1"
