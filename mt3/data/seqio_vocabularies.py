"""Vocabularies as seqio tasks have them.

`EventVocabulary` is `vocabularies.GenericTokenVocabulary` in seqio's class family. The
two compare equal in both directions, so that a model, which has the one, fits tasks,
which have the other.

Differences from seqio's other vocabularies, numbered:

1. What is encoded are event indices, not text.
2. `decode` keeps the length of what it is given: EOS and all after it become
   `DECODED_EOS_ID` (-1), and ids that are no event `DECODED_INVALID_ID` (-2), so that
   invalid predictions can be counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from mt3 import event_codec, vocabularies


class EventVocabulary(seqio.Vocabulary):
    """Event indices as token ids, for seqio."""

    def __init__(self, vocabulary: vocabularies.GenericTokenVocabulary):
        """Wraps a vocabulary.

        Args:
          vocabulary: what does the work.
        """
        super().__init__(extra_ids=vocabulary.extra_ids)
        self._vocabulary = vocabulary

    @property
    def vocabulary(self) -> vocabularies.GenericTokenVocabulary:
        """The vocabulary without seqio."""
        return self._vocabulary

    @property
    def bos_id(self) -> int | None:
        """None: there is no beginning of sequence."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        """Id of the end of a sequence."""
        return self._vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        """Id that stands for nothing known."""
        return self._vocabulary.unk_id

    @property
    def base_vocab_size(self) -> int:
        """Special ids and events."""
        return self._vocabulary.base_vocab_size

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.base_vocab_size

    def encode(self, tokens: Sequence[int]) -> np.ndarray:
        """Returns the ids of event indices, int32 [n], without EOS.

        Raises:
          TokenError: an index is not an event of the vocabulary.
        """
        return self._vocabulary.encode(tokens)

    def decode(self, ids: Sequence[int] | tf.Tensor) -> np.ndarray:
        """Returns the event indices of ids, int32 of the same shape; never raises."""
        return self._vocabulary.decode(np.asarray(ids))

    def encode_tf(self, tokens: tf.Tensor) -> tf.Tensor:
        """As `encode`, as TensorFlow operations; an unknown index stops the run."""
        events = self.base_vocab_size - vocabularies.NUM_SPECIAL_IDS
        check = tf.debugging.Assert(
            tf.reduce_all((tokens >= 0) & (tokens < events)),
            [f"vocabulary: event indices outside 0..{events - 1}:", tokens],
        )
        with tf.control_dependencies([check] if check is not None else []):
            return tokens + vocabularies.NUM_SPECIAL_IDS

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """As `decode`, as TensorFlow operations."""
        regular = (ids >= vocabularies.NUM_SPECIAL_IDS) & (ids < self.base_vocab_size)
        invalid = tf.fill(
            tf.shape(ids), tf.cast(vocabularies.DECODED_INVALID_ID, ids.dtype)
        )
        events = tf.where(regular, ids - vocabularies.NUM_SPECIAL_IDS, invalid)
        ended = tf.cumsum(tf.cast(ids == self.eos_id, tf.int32), axis=-1) > 0
        return tf.where(ended, tf.cast(vocabularies.DECODED_EOS_ID, ids.dtype), events)

    # seqio's base class asks for these; the public methods above do not use them.
    _encode, _decode, _encode_tf, _decode_tf = encode, decode, encode_tf, decode_tf

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EventVocabulary):
            return self._vocabulary == other._vocabulary
        if isinstance(other, vocabularies.GenericTokenVocabulary):
            return self._vocabulary == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._vocabulary)

    def __str__(self) -> str:
        return (
            f"EventVocabulary(events={self.base_vocab_size} with the special ids, "
            f"extra_ids={self.extra_ids})"
        )


def vocabulary_from_codec(codec: event_codec.Codec) -> EventVocabulary:
    """Returns the vocabulary over a codec's events."""
    return EventVocabulary(vocabularies.vocabulary_from_codec(codec))


def build_vocabulary(config: vocabularies.VocabularyConfig) -> EventVocabulary:
    """Returns the vocabulary of some settings."""
    return vocabulary_from_codec(vocabularies.build_codec(config))


def pass_through() -> seqio.PassThroughVocabulary:
    """Returns the vocabulary of the inputs, which are frames and no ids."""
    return seqio.PassThroughVocabulary(size=0)
