"""The stages from records to examples, as tf.data transformations.

Training, in this order; what is before the cache placeholder can be stored:

    tokenize                        record -> song, its events indexed by frame
    split_tokens                    song -> chunks of at most 2000 frames
    --- cache ---
    select_random_chunk             chunk -> a random part of `inputs` frames
    extract_targets                 -> state section and events, run-length coded
    (mixing.mix_transcription_examples)
    remove_redundant_state_changes
    compute_spectrograms            hops -> mel frames
    handle_too_long
    encode_and_append_eos           events -> vocabulary ids with EOS

`training_example` does the last six (without mixing) in one step, and
`random_training_example` the random part too, which is faster.
Evaluation:

    tokenize
    --- cache ---
    split_tokens_to_inputs_length   song -> consecutive segments
    add_dummy_targets
    compute_spectrograms, handle_too_long, encode_and_append_eos

All symbolic work is that of `NoteTokenizer` and `run_length_encoding`, called through
`tf.numpy_function`; order and random numbers depend on the seed alone. Features
between the stages:

    inputs                    float32 [frames, hop_width], then [frames, mel bands]
    raw_inputs                float32 [samples], of an example
    input_times               float32 [frames], seconds
    targets                   int32 [n], event indices, at last vocabulary ids
    input_event_start_indices, input_event_end_indices, input_state_event_indices
                              int32 [frames], into `targets` and `state_events`
    state_events              int32 [m]
    sequence                  serialized NoteSequence; empty in training, and in all
                              segments of a song but the first
    unique_id                 string [1], the song's name

Errors inside tf.data come out as `tf.errors.OpError` that holds the message;
`original_error` makes an `MT3Error` of it again.

Differences from the original, numbered:

1. A chunk holds its own part of the song's events, not all of them, so that a cache
   does not grow with the square of the length of the songs.
2. A song is known by the record's id. The original numbers songs as it reads them,
   so that several readers give the same number to different songs.
3. Records and examples that cannot be used are named, and can be left out.
4. A short segment can be padded with silence instead of empty frames
   (`ModelConfig.padding`), as the transcriber does.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import numpy as np
import seqio
import tensorflow as tf

from mt3 import spectrograms
from mt3.configs import ModelConfig
from mt3.data import adapters
from mt3.data.tf_bridge import OK, Features, empty_values, keep_ok, numpy_map
from mt3.data.tf_bridge import original_error as original_error
from mt3.datasets import CHUNK_FRAMES, DatasetConfig
from mt3.errors import ConfigError, MT3Error
from mt3.example_encoder import LengthCheck, SegmentEncoder, SequenceLength
from mt3.run_length_encoding import IndexedEvents
from mt3.tokenizer import NoteTokenizer
from mt3.training_examples import FRAME_INDICES, INDEXED_EVENTS, frames_of, random_part
from mt3.training_examples import random_training_example as random_training_example
from mt3.training_examples import training_example as training_example

OnError = Literal["stop", "skip"]

# Decoding audio does not hold Python's lock, so several songs at a time do go faster.
PARALLEL_SONGS = min(8, os.cpu_count() or 1)

_log = logging.getLogger(__name__)

_PER_FRAME = ("inputs", "input_times", *FRAME_INDICES)


def tokenize(
    ds: tf.data.Dataset,
    *,
    dataset: DatasetConfig,
    config: ModelConfig,
    training: bool,
    on_error: OnError = "stop",
    parallel_songs: int = PARALLEL_SONGS,
) -> tf.data.Dataset:
    """Reads songs from records and indexes their events by frame.

    Args:
      ds: records: the data set's features, and `record`, "<path>#<index>".
      dataset: whose records they are.
      config: vocabulary, encoding and spectrogram.
      training: trim notes that overlap where the data set needs it; leave out
        `sequence`.
      on_error: what a bad record does: "stop", or "skip" it with a log line.
      parallel_songs: songs in memory at a time, each up to 100 MB and more.

    Returns:
      Songs: inputs, input_times, targets, the three indices, state_events, sequence,
      unique_id.

    Raises:
      ConfigError: an unknown adapter or `on_error`.
    """
    if on_error not in ("stop", "skip"):
        raise ConfigError(
            f"tokenize: on_error is {on_error!r}; expected 'stop' or 'skip'"
        )
    adapter = adapters.of(dataset)
    tokenizer = NoteTokenizer(config)
    names = sorted(ds.element_spec)
    features = _song_features(config)

    def song_of(*values: Any) -> tuple[Any, ...]:
        record = dict(zip(names, values, strict=True))
        try:
            song = adapter(
                record,
                sample_rate=config.spectrogram.sample_rate,
                training=training,
            )
        except MT3Error as error:
            if on_error == "stop":
                raise
            _log.warning("Leaving out a record. %s", error)
            return (*empty_values(features), False)
        sequence = b"" if training else song.sequence
        return (*_encode_song(song, tokenizer, sequence), True)

    outputs = {**features, OK: tf.TensorSpec([], tf.bool)}
    ds = numpy_map(
        ds, song_of, names, outputs, drop=names, num_parallel_calls=parallel_songs
    )
    return keep_ok(ds)


def split_tokens(
    ds: tf.data.Dataset, *, max_frames: int = CHUNK_FRAMES
) -> tf.data.Dataset:
    """Cuts songs into chunks of at most `max_frames` frames, the last one shorter.

    Args:
      ds: songs as `tokenize` gives them.
      max_frames: frames of a chunk.

    Returns:
      Chunks with the same features; `targets` and `state_events` are those that the
      chunk's frames refer to.
    """

    def chunks(song: Features) -> tf.data.Dataset:
        count = -(-tf.shape(song["inputs"], tf.int64)[0] // max_frames)
        return tf.data.Dataset.range(count).map(
            lambda i: _chunk(song, tf.cast(i, tf.int32) * max_frames, max_frames)
        )

    return ds.flat_map(chunks)


def select_random_chunk(
    ds: tf.data.Dataset, sequence_length: SequenceLength
) -> tf.data.Dataset:
    """Takes a random part of at most `sequence_length["inputs"]` frames of each chunk.

    The start is uniform over all places where the part and the chunk share a frame,
    so every frame is as likely as any other to be taken; parts that reach over an end
    of the chunk are shorter. Random numbers come from seqio's seed.

    Args:
      ds: chunks as `split_tokens` gives them (or songs).
      sequence_length: `inputs` frames of a part.

    Returns:
      One part of each; its indices refer to the whole chunk's events.

    Raises:
      ConfigError: no length is given.
    """
    length = frames_of(sequence_length, "inputs", "select_random_chunk")

    @seqio.map_over_dataset(num_seeds=1)
    def part(chunk: Features, seed: tf.Tensor) -> Features:
        first, end = random_part(chunk, length, seed)
        return {**chunk, **{name: chunk[name][first:end] for name in _PER_FRAME}}

    return part(ds)


def extract_targets(ds: tf.data.Dataset, *, config: ModelConfig) -> tf.data.Dataset:
    """Writes the events of each part's frames: state, mapped programs, run lengths.

    Args:
      ds: parts as `select_random_chunk` gives them.
      config: vocabulary, encoding and program granularity.

    Returns:
      The parts with `targets` int32 [n], event indices without EOS; indices and state
      are gone.
    """
    encoder = SegmentEncoder(config)
    return numpy_map(
        ds,
        lambda *arrays: encoder.extract(IndexedEvents(*arrays)),
        INDEXED_EVENTS,
        {"targets": tf.TensorSpec([None], tf.int32)},
        drop=(*FRAME_INDICES, "state_events"),
    )


def remove_redundant_state_changes(
    ds: tf.data.Dataset, *, config: ModelConfig
) -> tf.data.Dataset:
    """Removes from `targets` events that set a state to the value that it has."""
    encoder = SegmentEncoder(config)
    output = {"targets": tf.TensorSpec([None], tf.int32)}
    return numpy_map(ds, encoder.reduce, ["targets"], output)


def compute_spectrograms(
    ds: tf.data.Dataset, *, config: ModelConfig, sequence_length: SequenceLength = None
) -> tf.data.Dataset:
    """Turns each example's hops into mel frames, each example alone.

    Args:
      ds: examples with `inputs` float32 [frames, hop_width].
      config: spectrogram; with padding "silence", short examples are filled up.
      sequence_length: frames to fill up to; the model's if None.

    Returns:
      The examples with `inputs` float32 [frames, mel bands] and `raw_inputs` float32
      [samples].
    """
    encoder = SegmentEncoder(config, sequence_length)

    def features(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return encoder.mel_frames(inputs), spectrograms.flatten_frames(inputs)

    outputs = {
        "inputs": tf.TensorSpec([None, config.spectrogram.num_mel_bins], tf.float32),
        "raw_inputs": tf.TensorSpec([None], tf.float32),
    }
    return numpy_map(ds, features, ["inputs"], outputs)


def handle_too_long(
    ds: tf.data.Dataset, sequence_length: SequenceLength, *, skip: bool
) -> tf.data.Dataset:
    """Finds examples that are longer than the model takes.

    Args:
      ds: examples with `targets` still without EOS, which is counted here.
      sequence_length: most `inputs` frames and `targets` ids; None for any number.
      skip: leave such examples out with a log line; else they stop the run with an
        error that names the example.

    Returns:
      The examples that are not too long.
    """
    check = LengthCheck(sequence_length, skip=skip)

    def fits(example: Features) -> tf.Tensor:
        frames = tf.shape(example["inputs"])[0]
        ids = tf.size(example["targets"]) + 1
        short = tf.constant(True)
        for count, limit in ((frames, check.max_frames), (ids, check.max_ids)):
            if limit is not None:
                short &= count <= limit
        return tf.cond(
            short,
            lambda: True,
            lambda: tf.ensure_shape(
                tf.numpy_function(
                    check.report, [example["unique_id"], frames, ids], tf.bool
                ),
                [],
            ),
        )

    return ds.filter(fits)


def encode_and_append_eos(
    ds: tf.data.Dataset, *, config: ModelConfig
) -> tf.data.Dataset:
    """Turns the event indices of `targets` into vocabulary ids, and appends EOS."""
    tokenizer = NoteTokenizer(config)
    output = {"targets": tf.TensorSpec([None], tf.int32)}
    return numpy_map(ds, tokenizer.to_ids, ["targets"], output)


def split_tokens_to_inputs_length(
    ds: tf.data.Dataset, sequence_length: SequenceLength
) -> tf.data.Dataset:
    """Cuts songs into consecutive segments that cover them, the last one shorter.

    Args:
      ds: songs as `tokenize` gives them.
      sequence_length: `inputs` frames of a segment.

    Returns:
      Segments in time order: inputs, input_times, unique_id, and `sequence`, which is
      empty but in the song's first segment.

    Raises:
      ConfigError: no length is given.
    """
    length = frames_of(sequence_length, "inputs", "split_tokens_to_inputs_length")

    def segments(song: Features) -> tf.data.Dataset:
        count = -(-tf.shape(song["inputs"], tf.int64)[0] // length)
        return tf.data.Dataset.range(count).map(
            lambda i: {
                "inputs": song["inputs"][i * length : (i + 1) * length],
                "input_times": song["input_times"][i * length : (i + 1) * length],
                "unique_id": song["unique_id"],
                "sequence": tf.where(i == 0, song["sequence"], ""),
            }
        )

    return ds.flat_map(segments)


@seqio.map_over_dataset
def add_dummy_targets(example: Features) -> Features:
    """Adds empty `targets`: whole songs are scored as notes, not as tokens."""
    return {**example, "targets": tf.zeros([0], tf.int32)}


def _song_features(config: ModelConfig) -> dict[str, tf.TensorSpec]:
    frames = dict.fromkeys(FRAME_INDICES, tf.TensorSpec([None], tf.int32))
    return {
        "inputs": tf.TensorSpec([None, config.spectrogram.hop_width], tf.float32),
        "input_times": tf.TensorSpec([None], tf.float32),
        "targets": tf.TensorSpec([None], tf.int32),
        **frames,
        "state_events": tf.TensorSpec([None], tf.int32),
        "sequence": tf.TensorSpec([], tf.string),
        "unique_id": tf.TensorSpec([1], tf.string),
    }


def _encode_song(
    song: adapters.Song, tokenizer: NoteTokenizer, sequence: bytes
) -> tuple[Any, ...]:
    """Returns the features of `_song_features`, in its order."""
    config = tokenizer.config.spectrogram
    inputs = spectrograms.split_audio(song.audio, config)
    times = np.arange(len(inputs)) / config.frames_per_second
    events = tokenizer.encode_song(song.note_array, len(inputs))
    return (
        inputs,
        times.astype(np.float32),
        events.events,
        events.event_start_indices,
        events.event_end_indices,
        events.state_event_indices,
        events.state_events,
        sequence,
        np.array([song.id.encode()], object),
    )


def _chunk(song: Features, first: tf.Tensor, max_frames: int) -> Features:
    """Frames [first, first + max_frames) of a song, and the events they refer to."""
    chunk = dict(song)
    for name in _PER_FRAME:
        chunk[name] = song[name][first : first + max_frames]
    starts, ends, states = (chunk[name] for name in FRAME_INDICES)
    chunk["targets"] = song["targets"][starts[0] : ends[-1]]
    chunk["input_event_start_indices"] = starts - starts[0]
    chunk["input_event_end_indices"] = ends - starts[0]
    # The last frame's section ends where the song's next one begins.
    all_states = song["input_state_event_indices"]
    following = tf.searchsorted(all_states, states[-1:], side="right")[0]
    bounds = tf.concat([all_states, [tf.size(song["state_events"])]], 0)
    chunk["state_events"] = song["state_events"][states[0] : bounds[following]]
    chunk["input_state_event_indices"] = states - states[0]
    return chunk
