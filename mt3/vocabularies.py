"""Token vocabularies: codec, special ids, velocity bins, program granularities.

Ids: 0 padding, 1 end of sequence, 2 unknown, then the codec's events, then 100
extra ids that T5 reserves and MT3 never uses. They count in the size of the
embedding table, so released checkpoints only load with them.

Pure NumPy. `GenericTokenVocabulary` offers what seqio asks of a vocabulary
without inheriting from seqio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mt3 import event_codec
from mt3.errors import ConfigError, TokenError, near_misses

NUM_SPECIAL_IDS = 3
PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
DEFAULT_EXTRA_IDS = 100
DECODED_EOS_ID = -1
DECODED_INVALID_ID = -2

NUM_PITCHES = 128
NUM_PROGRAMS = 128
MAX_VELOCITY = 127

# Rows of the embedding table are a multiple of this, for accelerators' sake.
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

    steps_per_second: int = 100
    max_shift_seconds: int = 10
    num_velocity_bins: int = 127

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"vocabulary: {field.name} is {value!r}; expected an integer >= 1"
                )
        if self.num_velocity_bins > MAX_VELOCITY:
            raise ConfigError(
                f"vocabulary: num_velocity_bins is {self.num_velocity_bins}; "
                f"expected at most {MAX_VELOCITY}"
            )

    @property
    def abbrev_str(self) -> str:
        """The part of a task's name that tells settings off the default."""
        default = VocabularyConfig()
        text = ""
        if self.steps_per_second != default.steps_per_second:
            text += f"ss{self.steps_per_second}"
        if self.max_shift_seconds != default.max_shift_seconds:
            text += f"ms{self.max_shift_seconds}"
        if self.num_velocity_bins != default.num_velocity_bins:
            text += f"vb{self.num_velocity_bins}"
        return text


def build_codec(config: VocabularyConfig) -> event_codec.Codec:
    """Returns MT3's codec: shift, pitch, velocity, tie, program, drum."""
    return event_codec.Codec(
        max_shift_steps=config.steps_per_second * config.max_shift_seconds,
        steps_per_second=config.steps_per_second,
        event_ranges=[
            event_codec.EventRange("pitch", 0, NUM_PITCHES - 1),
            event_codec.EventRange("velocity", 0, config.num_velocity_bins),
            event_codec.EventRange("tie", 0, 0),
            event_codec.EventRange("program", 0, NUM_PROGRAMS - 1),
            event_codec.EventRange("drum", 0, NUM_PITCHES - 1),
        ],
    )


def num_velocity_bins_from_codec(codec: event_codec.Codec) -> int:
    """Returns the number of velocity bins, bin 0 (note off) not counted."""
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
    """Maps a bin to the highest MIDI velocity that falls into it; 0 to 0."""
    return 0 if velocity_bin == 0 else MAX_VELOCITY * velocity_bin // num_velocity_bins


class GenericTokenVocabulary:
    """Event indices as token ids: special ids, events, extra ids.

    It has the methods and properties of `seqio.Vocabulary` that pipelines and
    models use.
    """

    def __init__(self, regular_ids: int, extra_ids: int = DEFAULT_EXTRA_IDS):
        self._num_regular_ids = regular_ids
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
        return NUM_SPECIAL_IDS + self._num_regular_ids

    @property
    def vocab_size(self) -> int:
        """All ids: special, events and extra."""
        return self.base_vocab_size + self._extra_ids

    def encode(self, tokens: Sequence[int]) -> np.ndarray:
        """Returns the ids of event indices, int32 [n], without EOS.

        Raises:
          TokenError: an index is not an event of the vocabulary.
        """
        tokens = np.asarray(tokens, np.int64)
        bad = (tokens < 0) | (tokens >= self._num_regular_ids)
        if bad.any():
            raise TokenError(
                f"vocabulary: event index {tokens[bad][0]} is outside "
                f"0..{self._num_regular_ids - 1}"
            )
        return (tokens + NUM_SPECIAL_IDS).astype(np.int32)

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the event indices of ids, int32 of the same shape.

        EOS and everything after it on the last axis become `DECODED_EOS_ID`;
        padding, unknown and extra ids become `DECODED_INVALID_ID`. Never raises.
        """
        ids = np.asarray(ids, np.int64)
        regular = (ids >= NUM_SPECIAL_IDS) & (ids < self.base_vocab_size)
        events = np.where(regular, ids - NUM_SPECIAL_IDS, DECODED_INVALID_ID)
        ended = np.cumsum(ids == EOS_ID, axis=-1) > 0
        return np.where(ended, DECODED_EOS_ID, events).astype(np.int32)

    def __eq__(self, other):
        if not isinstance(other, GenericTokenVocabulary):
            # Leaves the answer to the other, which may be a wrapper of one of these.
            return NotImplemented
        return (
            self._num_regular_ids == other._num_regular_ids
            and self._extra_ids == other._extra_ids
        )

    def __hash__(self):
        return hash((self._num_regular_ids, self._extra_ids))


def vocabulary_from_codec(codec: event_codec.Codec) -> GenericTokenVocabulary:
    """Returns the vocabulary over a codec's events."""
    return GenericTokenVocabulary(codec.num_classes, extra_ids=DEFAULT_EXTRA_IDS)


def num_embeddings(vocabulary: GenericTokenVocabulary) -> int:
    """Returns the rows of the embedding table: size rounded up to 128."""
    return EMBEDDING_MULTIPLE * -(-vocabulary.vocab_size // EMBEDDING_MULTIPLE)


def drop_programs(tokens: np.ndarray, codec: event_codec.Codec) -> np.ndarray:
    """Removes the program events, so that every note is of program 0."""
    return tokens[~codec.is_type(tokens, "program")]


def programs_to_midi_classes(
    tokens: np.ndarray, codec: event_codec.Codec
) -> np.ndarray:
    """Replaces every program by the first of its class of 8."""
    first, _ = codec.event_type_range("program")
    is_program = codec.is_type(tokens, "program")
    return np.where(is_program, first + 8 * ((tokens - first) // 8), tokens)


@dataclasses.dataclass(frozen=True)
class ProgramGranularity:
    """How finely instruments are told apart.

    Attributes:
      tokens_map_fn: (event indices, codec) -> event indices.
      program_map_fn: program number -> program number.
    """

    tokens_map_fn: Callable[[np.ndarray, event_codec.Codec], np.ndarray]
    program_map_fn: Callable[[int], int]


PROGRAM_GRANULARITIES = {
    "flat": ProgramGranularity(drop_programs, lambda program: 0),
    "midi_class": ProgramGranularity(
        programs_to_midi_classes, lambda program: 8 * (program // 8)
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
