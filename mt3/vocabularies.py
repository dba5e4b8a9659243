"""Token vocabularies: codec, special ids, velocity bins, program granularities.

Ids: 0 padding, 1 end of sequence (EOS), 2 unknown, then the codec's events, then 100
extra ids that T5 reserves and MT3 never uses. They count in the size of the
embedding table, so released checkpoints only load with them.

`TokenVocabulary` needs NumPy alone. `GenericTokenVocabulary` is the same in seqio's
class family; seqio is imported when that name is first used. The two compare equal, so
a model that has the one fits tasks that have the other.

Differences from the original, numbered:

1. `VocabularyConfig` refuses numbers that no codec can be built from.
2. Vocabularies can be hashed and compared with anything, and have no `bos_id` (None),
   where the original raises.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mt3 import event_codec
from mt3.errors import ConfigError, TokenError, check_number, near_misses

if TYPE_CHECKING:
    import tensorflow as tf

NUM_SPECIAL_IDS = 3
PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
DEFAULT_EXTRA_IDS = 100
# What ids become that are EOS or after it, and ids that are no event.
DECODED_EOS_ID = -1
DECODED_INVALID_ID = -2

NUM_PITCHES = 128
NUM_PROGRAMS = 128
MAX_VELOCITY = 127
# Of a setting of the vocabulary: what still fits memory.
_MOST_STEPS = 10_000
# Programs of a General MIDI class, such as the 8 pianos.
MIDI_CLASS_SIZE = 8

DEFAULT_STEPS_PER_SECOND = 100
DEFAULT_MAX_SHIFT_SECONDS = 10
DEFAULT_NUM_VELOCITY_BINS = 127

# Accelerators are fastest where the embedding table's rows are a multiple of this.
EMBEDDING_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """Resolution of time and velocity.

    Attributes:
      steps_per_second: time steps per second; 100 is a grid of 10 ms.
      max_shift_seconds: longest single time shift, in seconds.
      num_velocity_bins: velocity bins besides bin 0 (note off); 1 means that
        velocity is not transcribed.
    """

    steps_per_second: int = DEFAULT_STEPS_PER_SECOND
    max_shift_seconds: int = DEFAULT_MAX_SHIFT_SECONDS
    num_velocity_bins: int = DEFAULT_NUM_VELOCITY_BINS

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check_number(f"vocabulary: {field.name}", value, 1, _MOST_STEPS, whole=True)
        if self.num_velocity_bins > MAX_VELOCITY:
            raise ConfigError(
                f"vocabulary: num_velocity_bins is {self.num_velocity_bins}; "
                f"expected at most {MAX_VELOCITY}"
            )

    @property
    def abbrev_str(self) -> str:
        """The part of a task's name that states settings other than the default."""
        default = VocabularyConfig()
        text = ""
        if self.steps_per_second != default.steps_per_second:
            text += f"ss{self.steps_per_second}"
        if self.max_shift_seconds != default.max_shift_seconds:
            text += f"ms{self.max_shift_seconds}"
        if self.num_velocity_bins != default.num_velocity_bins:
            text += f"vb{self.num_velocity_bins}"
        return text


def build_codec(vocab_config: VocabularyConfig) -> event_codec.Codec:
    """Returns MT3's codec: shift, pitch, velocity, tie, program, drum."""
    return event_codec.Codec(
        max_shift_steps=(
            vocab_config.steps_per_second * vocab_config.max_shift_seconds
        ),
        steps_per_second=vocab_config.steps_per_second,
        event_ranges=[
            event_codec.EventRange("pitch", 0, NUM_PITCHES - 1),
            event_codec.EventRange("velocity", 0, vocab_config.num_velocity_bins),
            event_codec.EventRange("tie", 0, 0),
            event_codec.EventRange("program", 0, NUM_PROGRAMS - 1),
            event_codec.EventRange("drum", 0, NUM_PITCHES - 1),
        ],
    )


def num_velocity_bins_from_codec(codec: event_codec.Codec) -> int:
    """Returns the number of velocity bins, not counting bin 0 (note off).

    Raises:
      TokenError: the codec has no velocities.
    """
    first, last = codec.event_type_range("velocity")
    return last - first


def velocity_to_bin(velocity, num_velocity_bins: int):
    """Maps MIDI velocities 0..127 to bins 0..`num_velocity_bins`.

    Args:
      velocity: an integer or an array of any shape; 0 means note off.
      num_velocity_bins: number of bins besides bin 0.

    Returns:
      The bins, int64, of the same shape; an int for an int.
    """
    # ceil in integers: -(-a // b).
    bins = -(-np.asarray(velocity, np.int64) * num_velocity_bins // MAX_VELOCITY)
    return int(bins) if bins.ndim == 0 else bins


def bin_to_velocity(velocity_bin: int, num_velocity_bins: int) -> int:
    """Maps a bin to the highest MIDI velocity that falls into it, and 0 to 0."""
    return 0 if velocity_bin == 0 else MAX_VELOCITY * velocity_bin // num_velocity_bins


class TokenVocabulary:
    """Event indices as token ids: special ids, events, extra ids."""

    def __init__(self, regular_ids: int, extra_ids: int = 0):
        """Sets the sizes.

        Args:
          regular_ids: number of events.
          extra_ids: number of reserved ids after the events.
        """
        self._num_regular_tokens = regular_ids
        self._extra_ids = extra_ids

    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID
    bos_id = None

    @property
    def extra_ids(self) -> int:
        """Number of reserved ids after the events."""
        return self._extra_ids

    @property
    def base_vocab_size(self) -> int:
        """Special ids and events."""
        return NUM_SPECIAL_IDS + self._num_regular_tokens

    @property
    def vocab_size(self) -> int:
        """All ids: special, events and extra."""
        return self.base_vocab_size + self._extra_ids

    def encode(self, tokens: Sequence[int]) -> list[int]:
        """Returns the ids of event indices, without EOS.

        Raises:
          TokenError: an index is not an event of the vocabulary.
        """
        return self.encode_array(tokens).tolist()

    def decode(self, ids: Sequence[int]) -> list[int]:
        """Returns the event indices of ids [n] up to the first EOS. Never raises.

        EOS becomes `DECODED_EOS_ID`, which is last; padding, unknown and extra ids
        become `DECODED_INVALID_ID`.
        """
        events = self.decode_array(ids).tolist()
        if DECODED_EOS_ID in events:
            del events[events.index(DECODED_EOS_ID) + 1 :]
        return events

    def encode_array(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the ids of event indices, int32 [...]; raises as `encode`."""
        tokens = np.asarray(tokens, np.int64)
        bad = (tokens < 0) | (tokens >= self._num_regular_tokens)
        if bad.any():
            raise TokenError(
                f"vocabulary: event index {tokens[bad][0]} is outside "
                f"0..{self._num_regular_tokens - 1}"
            )
        return (tokens + NUM_SPECIAL_IDS).astype(np.int32)

    def decode_array(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the event indices of ids, int32 of the same shape. Never raises.

        As `decode`, but keeps the length: everything after EOS on the last axis
        becomes `DECODED_EOS_ID` too.
        """
        ids = np.asarray(ids, np.int64)
        regular = (ids >= NUM_SPECIAL_IDS) & (ids < self.base_vocab_size)
        events = np.where(regular, ids - NUM_SPECIAL_IDS, DECODED_INVALID_ID)
        ended = np.cumsum(ids == EOS_ID, axis=-1) > 0
        return np.where(ended, DECODED_EOS_ID, events).astype(np.int32)

    def encode_tf(self, tokens: tf.Tensor) -> tf.Tensor:
        """As `encode_array`, as TensorFlow operations; bad indices stop the run."""
        import tensorflow as tf

        last = self._num_regular_tokens - 1
        check = tf.debugging.Assert(
            tf.reduce_all((tokens >= 0) & (tokens <= last)),
            [f"vocabulary: event indices outside 0..{last}:", tokens],
        )
        # Executed eagerly, the assertion is None.
        with tf.control_dependencies([check] if check is not None else []):
            return tokens + NUM_SPECIAL_IDS

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """As `decode_array`, as TensorFlow operations."""
        import tensorflow as tf

        regular = (ids >= NUM_SPECIAL_IDS) & (ids < self.base_vocab_size)
        invalid = tf.cast(DECODED_INVALID_ID, ids.dtype)
        events = tf.where(regular, ids - NUM_SPECIAL_IDS, invalid)
        ended = tf.cumsum(tf.cast(ids == EOS_ID, tf.int32), axis=-1) > 0
        return tf.where(ended, tf.cast(DECODED_EOS_ID, ids.dtype), events)

    # seqio's abstract class asks for these.
    _base_vocab_size = base_vocab_size
    _encode, _decode, _encode_tf, _decode_tf = encode, decode, encode_tf, decode_tf

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenVocabulary):
            return NotImplemented
        return (
            self._num_regular_tokens == other._num_regular_tokens
            and self._extra_ids == other._extra_ids
        )

    def __hash__(self) -> int:
        return hash((self._num_regular_tokens, self._extra_ids))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._num_regular_tokens}, "
            f"extra_ids={self._extra_ids})"
        )


@functools.cache
def _generic_token_vocabulary() -> type[TokenVocabulary]:
    import seqio

    name = "GenericTokenVocabulary"
    members = {"__doc__": TokenVocabulary.__doc__, "__module__": __name__}
    return type(seqio.Vocabulary)(name, (TokenVocabulary, seqio.Vocabulary), members)


def __getattr__(name: str) -> Any:
    """Makes `GenericTokenVocabulary` when it is first asked for."""
    if name == "GenericTokenVocabulary":
        return _generic_token_vocabulary()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def token_vocabulary(codec: event_codec.Codec) -> TokenVocabulary:
    """Returns the vocabulary over a codec's events, without seqio."""
    return TokenVocabulary(codec.num_classes, extra_ids=DEFAULT_EXTRA_IDS)


def vocabulary_from_codec(codec: event_codec.Codec) -> TokenVocabulary:
    """Returns the vocabulary over a codec's events, a `GenericTokenVocabulary`.

    Imports seqio; where that is not installed, returns a `TokenVocabulary`.
    """
    try:
        vocabulary_class = _generic_token_vocabulary()
    except ImportError:
        vocabulary_class = TokenVocabulary
    return vocabulary_class(codec.num_classes, extra_ids=DEFAULT_EXTRA_IDS)


def num_embeddings(vocabulary: TokenVocabulary) -> int:
    """Returns the rows of the embedding table: the size rounded up to 128."""
    return EMBEDDING_MULTIPLE * -(-vocabulary.vocab_size // EMBEDDING_MULTIPLE)


def apply_to_array(function: Callable[..., np.ndarray], *arrays: Any) -> Any:
    """Calls NumPy code on arrays, or on TensorFlow tensors as `tf.numpy_function`.

    Args:
      function: takes arrays, and returns one of any length.
      *arrays: NumPy arrays (or sequences of numbers), or tensors.

    Returns:
      The result, of the first argument's kind; int [n] of its data type.
    """
    if not any(type(array).__module__.startswith("tensorflow") for array in arrays):
        return function(*map(np.asarray, arrays))
    import tensorflow as tf

    dtype = arrays[0].dtype
    result = tf.numpy_function(
        lambda *values: function(*values).astype(dtype.as_numpy_dtype),
        arrays,
        dtype,
        stateful=False,
    )
    return tf.ensure_shape(result, [None])


def midi_class(program: Any) -> Any:
    """Returns the General MIDI class, 0..15, of a program 0..127 or an array [...]."""
    return program // MIDI_CLASS_SIZE


def drop_programs(
    tokens: np.ndarray | tf.Tensor, codec: event_codec.Codec
) -> np.ndarray | tf.Tensor:
    """Removes the program events [n], so that every note has program 0."""
    return apply_to_array(lambda t: t[~codec.is_type(t, "program")], tokens)


def programs_to_midi_classes(
    tokens: np.ndarray | tf.Tensor, codec: event_codec.Codec
) -> np.ndarray | tf.Tensor:
    """Replaces every program among events [n] by the first of its class of 8."""
    first, _ = codec.event_type_range("program")

    def to_class(events: np.ndarray) -> np.ndarray:
        is_program = codec.is_type(events, "program")
        programs = MIDI_CLASS_SIZE * midi_class(events - first)
        return np.where(is_program, first + programs, events)

    return apply_to_array(to_class, tokens)


@dataclasses.dataclass(frozen=True)
class ProgramGranularity:
    """How finely instruments are distinguished.

    Attributes:
      tokens_map_fn: (event indices [n], codec) -> event indices [m].
      program_map_fn: program number -> program number.
    """

    tokens_map_fn: Callable[[np.ndarray, event_codec.Codec], np.ndarray]
    program_map_fn: Callable[[int], int]


PROGRAM_GRANULARITIES = {
    "flat": ProgramGranularity(drop_programs, lambda program: 0),
    "midi_class": ProgramGranularity(
        programs_to_midi_classes,
        lambda program: MIDI_CLASS_SIZE * midi_class(program),
    ),
    "full": ProgramGranularity(lambda tokens, codec: tokens, lambda program: program),
}


def program_granularity(name: str) -> ProgramGranularity:
    """Returns a granularity by name.

    Raises:
      ConfigError: there is none of that name.
    """
    if name not in PROGRAM_GRANULARITIES:
        raise ConfigError(
            f"program granularity: unknown name {name!r}."
            f"{near_misses(name, PROGRAM_GRANULARITIES)}"
        )
    return PROGRAM_GRANULARITIES[name]
