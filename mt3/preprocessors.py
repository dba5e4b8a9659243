"""The stages from records to examples, as tf.data transformations.

Training, in this order; the result of the first two can be cached:

    tokenize_...                    record -> song, its events indexed by frame
    split_tokens                    song -> chunks of at most 2000 frames
    --- cache ---
    select_random_chunk             chunk -> a random part of `inputs` frames
    extract_target_sequence_with_indices, map_midi_programs, run_length_encode_shifts
                                    -> state section and events, run-length coded
    (mixing.mix_transcription_examples)
    remove_redundant_state_changes
    compute_spectrograms            hops -> mel frames
    handle_too_long
    encode_events                   events -> vocabulary ids with EOS

`random_training_example` does everything after the cache in one step, which is faster:
a call of Python inside tf.data costs a quarter of a millisecond, and so does handing an
element from stage to stage, as much as the work on an example without its spectrogram.
Evaluation:

    tokenize_...
    --- cache ---
    split_tokens_to_inputs_length   song -> consecutive segments
    add_dummy_targets
    compute_spectrograms, handle_too_long, encode_events

`NoteTokenizer` and `run_length_encoding` do all symbolic work, called through
`tf.numpy_function`. Order and random numbers depend on the seed alone. Features between
the stages:

    inputs                    float32 [frames, hop_width], then [frames, mel bands]
    raw_inputs                float32 [samples], of an example
    input_times               float32 [frames], seconds
    targets                   int32 [n], event indices, at last vocabulary ids
    input_event_start_indices, input_event_end_indices, input_state_event_indices
                              int32 [frames], into `targets` and `state_events`
    state_events              int32 [m]
    sequence                  serialized NoteSequence; empty in all segments of a song
                              but the first
    unique_id                 string [1], the song's name

Errors inside tf.data arrive as `tf.errors.OpError` with the message;
`original_error` turns one into an `MT3Error` again. TensorFlow is imported by the
functions, not by this module.

Differences from the original, numbered. Options have the original's behaviour as their
default; `mt3.tasks` sets the other one for the tasks that it registers.

1. A chunk has its own part of the song's events, not all of them, so that a cache does
   not grow with the square of the songs' length. The examples are the same.
2. The tokenizers add `unique_id`, the record's id. The original numbers songs as it
   reads them (`add_unique_id`), so several readers give one number to several songs.
3. `lean=True` leaves out the record's own features, and `sequence` in training, which
   no later stage reads.
4. `skip` names errors that leave a record out with a log line. Every error names its
   record or example.
5. `stale_end_state=False` writes the state of notes after a song's last event as it is;
   see `run_length_encoding`.
6. `padding="silence"` fills a short segment with silence instead of empty frames, as
   the transcriber does.
7. A length without a limit in `sequence_length` is not checked.
8. `context_frames` gives the encoder that many frames before and after each segment,
   silence where there are none; `sequence_length["inputs"]` counts them. Targets and
   `raw_inputs` are those of the middle, and the next segment begins where it ends.
   See `configs.ModelConfig`.
9. `sequence` holds the notes that were encoded, with the pedal applied also where only
   onsets are encoded, and nothing but notes.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import gin
from mt3 import spectrograms, vocabularies
from mt3.data import adapters
from mt3.data.lengths import LengthCheck, SequenceLength
from mt3.data.tf_bridge import OK, Features, empty_values, keep_ok, numpy_map
from mt3.datasets import CHUNK_FRAMES
from mt3.errors import ConfigError, MT3Error
from mt3.errors import PitchBendError as PitchBendError
from mt3.event_codec import Codec
from mt3.note_sequences import TrackSpec
from mt3.run_length_encoding import IndexedEvents
from mt3.spectrograms import SpectrogramConfig
from mt3.tokenizer import NoteTokenizer

if TYPE_CHECKING:
    import note_seq
    import tensorflow as tf

# Decoding audio does not hold Python's lock, so several songs at a time are faster;
# each takes up to 100 MB and more.
PARALLEL_SONGS = min(8, os.cpu_count() or 1)

_log = logging.getLogger(__name__)

_FRAME_INDICES = (
    "input_event_start_indices",
    "input_event_end_indices",
    "input_state_event_indices",
)
_PER_FRAME = ("inputs", "input_times", *_FRAME_INDICES)
# In the order of the fields of `IndexedEvents`.
_INDEXED_EVENTS = ("targets", *_FRAME_INDICES[:2], "state_events", _FRAME_INDICES[2])
# Features of records that `inputs` replaces.
_AUDIO = ("audio", "mix", "stems")


def add_unique_id(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Adds `unique_id`, int64 [1]: the number of the example (see difference 2)."""
    return ds.enumerate().map(lambda i, example: {**example, "unique_id": i[None]})


def pad_notesequence_array(ex: tf.data.Dataset) -> tf.data.Dataset:
    """Makes `sequence` an array, string [frames], with the sequence at its start."""
    import tensorflow as tf

    def pad(example: Features) -> Features:
        rest = tf.fill([tf.size(example["input_times"]) - 1], "")
        return {**example, "sequence": tf.concat([[example["sequence"]], rest], 0)}

    return ex.map(pad)


def add_dummy_targets(ex: tf.data.Dataset) -> tf.data.Dataset:
    """Adds empty `targets`: whole songs are scored as notes, not as tokens."""
    import tensorflow as tf

    return ex.map(lambda example: {**example, "targets": tf.zeros([0], tf.int32)})


def tokenize(
    ds: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    codec: Codec,
    is_training_data: bool,
    onsets_only: bool,
    include_ties: bool,
    *,
    adapter: adapters.Adapter,
    lean: bool = False,
    skip: tuple[type[MT3Error], ...] = (),
    stale_end_state: bool = True,
) -> tf.data.Dataset:
    """Reads songs from records and indexes their events by frame.

    Args:
      ds: records: the data set's features, and `record`, "<path>#<index>", which
        errors name.
      spectrogram_config: hop width and sample rate.
      codec: event indices.
      is_training_data: trim notes that overlap where the data set needs it.
      onsets_only: encode onsets alone.
      include_ties: write the sounding notes that a segment may begin with.
      adapter: makes a song of a record.
      lean: difference 3.
      skip: kinds of errors that leave a record out with a log line.
      stale_end_state: difference 5.

    Returns:
      Songs: inputs, input_times, targets, the three indices, state_events, sequence,
      unique_id; and, unless lean, the record's features but for its audio.

    Raises:
      ConfigError: `onsets_only` with `include_ties`.
    """
    import tensorflow as tf

    tokenizer = NoteTokenizer.from_codec(
        codec, spectrogram_config, onsets_only=onsets_only, include_ties=include_ties
    )
    names = sorted(ds.element_spec)
    features = {
        "inputs": tf.TensorSpec([None, spectrogram_config.hop_width], tf.float32),
        "input_times": tf.TensorSpec([None], tf.float32),
        **dict.fromkeys(_INDEXED_EVENTS, tf.TensorSpec([None], tf.int32)),
        "sequence": tf.TensorSpec([], tf.string),
        "unique_id": tf.TensorSpec([1], tf.string),
    }

    def song_of(*values: Any) -> tuple[Any, ...]:
        record = dict(zip(names, values, strict=True))
        if not record.keys() & {"record", "id", "track_id"}:
            record["record"] = b"record"
        try:
            song = adapter(
                record,
                sample_rate=spectrogram_config.sample_rate,
                training=is_training_data,
            )
        except skip as error:
            _log.warning("Leaving out a record. %s", error)
            return (*empty_values(features), False)
        inputs = spectrograms.split_recording(song.audio, spectrogram_config)
        times = np.arange(len(inputs)) / spectrogram_config.frames_per_second
        events = tokenizer.encode_song(
            song.note_array, len(inputs), stale_end_state=stale_end_state
        )
        return (
            inputs,
            times.astype(np.float32),
            *events,
            b"" if lean and is_training_data else song.sequence,
            np.array([song.id.encode()], object),
            True,
        )

    outputs = {**features, OK: tf.TensorSpec([], tf.bool)}
    drop = names if lean else [n for n in names if n in _AUDIO]
    return keep_ok(
        numpy_map(
            ds, song_of, names, outputs, drop=drop, num_parallel_calls=PARALLEL_SONGS
        )
    )


def tokenize_transcription_example(
    ds: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    codec: Codec,
    is_training_data: bool,
    onsets_only: bool,
    include_ties: bool,
    audio_is_samples: bool,
    id_feature_key: str | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Tokenizes records of one recording and one sequence (MAESTRO, MusicNet).

    Arguments as for `tokenize`, and besides: `audio_is_samples`: `audio` is floats at
    `sample_rate`, not the bytes of a file; `id_feature_key`: the feature that holds
    the song's id.
    """
    adapter = functools.partial(
        adapters.recording,
        audio_is_samples=audio_is_samples,
        id_feature_key=id_feature_key,
    )
    settings = (spectrogram_config, codec, is_training_data, onsets_only, include_ties)
    return tokenize(ds, *settings, adapter=adapter, **options)


def tokenize_guitarset_example(
    ds: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    codec: Codec,
    is_training_data: bool,
    onsets_only: bool,
    include_ties: bool,
    **options: Any,
) -> tf.data.Dataset:
    """Tokenizes GuitarSet; all arguments as for `tokenize`."""
    settings = (spectrogram_config, codec, is_training_data, onsets_only, include_ties)
    return tokenize(ds, *settings, adapter=adapters.guitarset, **options)


def guitarset_instrument_to_program(instrument: str) -> int:
    """Returns the program of GuitarSet's only instrument, "Clean Guitar"."""
    known = {adapters.GUITARSET_INSTRUMENT: adapters.GUITARSET_PROGRAM}
    return adapters.look_up(instrument, known, "GuitarSet instrument")


def tokenize_example_with_program_lookup(
    ds: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    codec: Codec,
    is_training_data: bool,
    onsets_only: bool,
    include_ties: bool,
    inst_name_to_program_fn: Callable[[str], int],
    id_feature_key: str | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Tokenizes records of one recording and a sequence for each instrument (URMP).

    Arguments as for `tokenize`, and besides: `inst_name_to_program_fn`: instrument's
    name -> program, ValueError for others; `id_feature_key`: the feature that holds
    the song's id.
    """
    adapter = functools.partial(
        adapters.ensemble,
        program_of=inst_name_to_program_fn,
        id_feature_key=id_feature_key,
    )
    settings = (spectrogram_config, codec, is_training_data, onsets_only, include_ties)
    return tokenize(ds, *settings, adapter=adapter, **options)


def urmp_instrument_to_program(urmp_instrument: str) -> int:
    """Returns the program of an instrument of URMP ("vn", "fl", ...)."""
    return adapters.urmp_program(urmp_instrument)


def slakh_class_to_program_and_is_drum(slakh_class: str) -> tuple[int, bool]:
    """Returns program and is_drum of a class of Slakh ("Electric Bass", "Drums")."""
    return adapters.slakh_program(slakh_class)


def add_track_to_notesequence(
    ns: note_seq.NoteSequence,
    track: note_seq.NoteSequence,
    program: int,
    is_drum: bool,
    ignore_pitch_bends: bool,
) -> None:
    """Adds the notes of a track to a sequence, its sustain pedal applied.

    Args:
      ns: changed in place; `total_time` becomes the end of its last note.
      track: left as it is.
      program: of the added notes.
      is_drum: whether they are drums.
      ignore_pitch_bends: whether pitch bends are no error.

    Raises:
      PitchBendError: the track has pitch bends.
    """
    import note_seq

    if track.pitch_bends and not ignore_pitch_bends:
        raise PitchBendError(f"track: found {len(track.pitch_bends)} pitch bends")
    for note in note_seq.apply_sustain_control_changes(track).notes:
        ns.notes.add().CopyFrom(note)
        ns.notes[-1].program, ns.notes[-1].is_drum = program, is_drum
        ns.total_time = max(ns.total_time, note.end_time)


def tokenize_slakh_example(
    ds: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    codec: Codec,
    is_training_data: bool,
    onsets_only: bool,
    include_ties: bool,
    track_specs: list[TrackSpec] | None,
    ignore_pitch_bends: bool,
    **options: Any,
) -> tf.data.Dataset:
    """Tokenizes records of a mix and a sequence for each stem (Slakh, Cerberus4).

    Arguments as for `tokenize`, and besides: `track_specs`: the tracks that
    `inst_names` names; if None, it names Slakh classes; `ignore_pitch_bends`: if
    False, records with pitch bends are left out.
    """
    adapter = functools.partial(
        adapters.stems,
        track_specs=track_specs or (),
        pitch_bends="ignore" if ignore_pitch_bends else "error",
    )
    options["skip"] = (PitchBendError, *options.get("skip", ()))
    settings = (spectrogram_config, codec, is_training_data, onsets_only, include_ties)
    return tokenize(ds, *settings, adapter=adapter, **options)


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
    import tensorflow as tf

    def chunks(song: Features) -> tf.data.Dataset:
        count = -(-tf.shape(song["inputs"], tf.int64)[0] // max_frames)
        return tf.data.Dataset.range(count).map(
            lambda i: _chunk(song, tf.cast(i, tf.int32) * max_frames, max_frames)
        )

    return ds.flat_map(chunks)


def _chunk(song: Features, first: tf.Tensor, max_frames: int) -> Features:
    """Frames [first, first + max_frames) of a song, and the events they refer to."""
    import tensorflow as tf

    chunk = dict(song)
    for name in _PER_FRAME:
        chunk[name] = song[name][first : first + max_frames]
    starts, ends, states = (chunk[name] for name in _FRAME_INDICES)
    chunk["targets"] = song["targets"][starts[0] : ends[-1]]
    chunk["input_event_start_indices"] = starts - starts[0]
    chunk["input_event_end_indices"] = ends - starts[0]
    # The last frame's section ends where the next one that the song refers to begins.
    all_states = song["input_state_event_indices"]
    following = tf.searchsorted(all_states, states[-1:], side="right")[0]
    bounds = tf.concat([all_states, [tf.size(song["state_events"])]], 0)
    chunk["state_events"] = song["state_events"][states[0] : bounds[following]]
    chunk["input_state_event_indices"] = states - states[0]
    return chunk


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
    import seqio

    length = _frames_of(sequence_length, "select_random_chunk")

    @seqio.map_over_dataset(num_seeds=1)
    def part(chunk: Features, seed: tf.Tensor) -> Features:
        first, end = _random_part(chunk, length, seed)
        return {**chunk, **{name: chunk[name][first:end] for name in _PER_FRAME}}

    return part(ds)


def _random_part(
    chunk: Features, length: int, seed: tf.Tensor, within: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws the first frame and the end of a part; see `select_random_chunk`.

    Args:
      chunk: with `inputs`.
      length: frames of a part.
      seed: of the draw.
      within: draw parts that do not reach over an end of the chunk.
    """
    import tensorflow as tf

    frames = tf.shape(chunk["inputs"])[0]
    lowest = 0 if within else 1 - length
    highest = tf.maximum(frames - length, 0) + 1 if within else frames
    start = tf.random.stateless_uniform(
        [], seed, minval=lowest, maxval=highest, dtype=tf.int32
    )
    return tf.maximum(start, 0), tf.minimum(start + length, frames)


def _with_context(hops: tf.Tensor, frames: int) -> tf.Tensor:
    """Returns hops [n, hop_width] with this many silent ones before and after."""
    import tensorflow as tf

    return tf.pad(hops, [[frames, frames], [0, 0]]) if frames else hops


def random_training_example(
    ds: tf.data.Dataset,
    sequence_length: SequenceLength,
    *,
    tokenizer: NoteTokenizer,
    skip_too_long: bool,
    padding: str = "zero_frames",
    context_frames: int = 0,
) -> tf.data.Dataset:
    """Does in one step what the stages from `select_random_chunk` to EOS do.

    Args:
      ds: chunks as `split_tokens` gives them.
      sequence_length: as for these stages.
      tokenizer: codec, encoding, granularity and spectrogram.
      skip_too_long: as `skip` of `handle_too_long`.
      padding: as for `compute_spectrograms`.
      context_frames: difference 8. Segments then lie within their chunk, if it is long
        enough, and are filled up with silence.

    Returns:
      The same examples, of the same random numbers, without `raw_inputs`, which would
      fill shuffle buffers.

    Raises:
      ConfigError: no length is given.
    """
    import seqio
    import tensorflow as tf

    length = _frames_of(sequence_length, "random_training_example")
    filled = length if padding == "silence" or context_frames else 0
    middle = length - 2 * context_frames
    config = tokenizer.spectrogram
    check = LengthCheck(sequence_length, skip=skip_too_long)

    def encode(first, end, name, inputs, *arrays):
        part = IndexedEvents(*arrays)
        events = tokenizer.segment_events(part, int(first), int(end - first))
        ids = tokenizer.to_ids(events)
        if check.problems(inputs=len(inputs), targets=len(ids)):
            check.report(name, inputs=len(inputs), targets=len(ids))
            return _mel_frames(inputs[:0], config), ids[:0]
        return _mel_frames(inputs, config, filled), ids

    @seqio.map_over_dataset(num_seeds=1)
    def example(chunk: Features, seed: tf.Tensor) -> Features:
        first, end = _random_part(chunk, middle, seed, within=context_frames > 0)
        part = {n: v for n, v in chunk.items() if n not in _INDEXED_EVENTS}
        part["input_times"] = chunk["input_times"][first:end]
        heard = _with_context(chunk["inputs"], context_frames)
        part["inputs"] = heard[first : end + 2 * context_frames]
        events = [chunk[name] for name in _INDEXED_EVENTS]
        # One call of Python for each example, whose price is per call.
        inputs, targets = tf.numpy_function(
            encode,
            [first, end, _name_of(part), part["inputs"], *events],
            [tf.float32, tf.int32],
            stateful=False,
        )
        part["inputs"] = tf.ensure_shape(inputs, [None, config.num_mel_bins])
        part["targets"] = tf.ensure_shape(targets, [None])
        return part

    # What is too long came back without even EOS.
    return example(ds).filter(lambda example: tf.size(example["targets"]) > 0)


@gin.configurable
def map_midi_programs(
    ds: tf.data.Dataset,
    codec: Codec,
    granularity_type: str = "full",
    feature_key: str = "targets",
) -> tf.data.Dataset:
    """Maps the program events of a feature.

    Args:
      ds: examples with event indices, int32 [n].
      codec: what they mean.
      granularity_type: "flat" drops programs, "midi_class" keeps the first program of
        each class of 8, "full" changes nothing. Gin files may bind it.
      feature_key: the feature.

    Raises:
      ConfigError: an unknown granularity.
    """
    tokens_map = vocabularies.program_granularity(granularity_type).tokens_map_fn
    if granularity_type == "full":
        return ds
    import tensorflow as tf

    output = {feature_key: tf.TensorSpec([None], ds.element_spec[feature_key].dtype)}
    return numpy_map(ds, lambda t: tokens_map(t, codec), [feature_key], output)


def compute_spectrograms(
    ex: tf.data.Dataset,
    spectrogram_config: SpectrogramConfig,
    *,
    sequence_length: SequenceLength = None,
    padding: str = "zero_frames",
    context_frames: int = 0,
) -> tf.data.Dataset:
    """Turns each example's hops into mel frames, each example alone.

    Args:
      ex: examples with `inputs` float32 [frames, hop_width].
      spectrogram_config: the settings.
      sequence_length: frames that `padding` fills up to.
      padding: "silence" fills short examples up; "zero_frames" leaves that to those
        who make batches.
      context_frames: frames at either end that `raw_inputs` is to be without.

    Returns:
      The examples with `inputs` float32 [frames, mel bands] and `raw_inputs` float32
      [samples].
    """
    import tensorflow as tf

    length = (sequence_length or {}).get("inputs", 0) if padding == "silence" else 0

    def features(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mel = _mel_frames(inputs, spectrogram_config, length)
        middle = inputs[context_frames : len(inputs) - context_frames]
        return mel, spectrograms.flatten_frames(middle)

    outputs = {
        "inputs": tf.TensorSpec([None, spectrogram_config.num_mel_bins], tf.float32),
        "raw_inputs": tf.TensorSpec([None], tf.float32),
    }
    return numpy_map(ex, features, ["inputs"], outputs)


def _mel_frames(
    hops: np.ndarray, config: SpectrogramConfig, frames: int = 0
) -> np.ndarray:
    """Returns the mel frames of hops [n, hop_width], silence added up to `frames`."""
    samples = spectrograms.flatten_frames(hops)
    if not len(samples):
        return np.zeros((0, config.num_mel_bins), np.float32)
    missing = frames * config.hop_width - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    return spectrograms.compute_spectrogram(samples, config)


def handle_too_long(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: SequenceLength,
    skip: bool = False,
) -> tf.data.Dataset:
    """Finds examples that are longer than the model takes.

    Args:
      dataset: examples whose features are still without EOS, which is counted here.
      output_features: seqio's features; only these are checked.
      sequence_length: the greatest lengths, EOS included.
      skip: leave such examples out with a log line; else they stop the run with an
        error that names the example.

    Returns:
      The examples that are not too long.
    """
    import tensorflow as tf

    check = LengthCheck(sequence_length, skip=skip)
    names = [n for n in output_features if n in check.limits]

    def fits(example: Features) -> tf.Tensor:
        lengths = [
            tf.shape(example[name])[0] + int(output_features[name].add_eos)
            for name in names
        ]
        limits = [check.limits[name] for name in names]

        def report(unique_id: np.ndarray, *found: np.ndarray) -> np.bool_:
            return check.report(unique_id, **dict(zip(names, found, strict=True)))

        return tf.cond(
            tf.reduce_all(tf.stack(lengths) <= limits),
            lambda: True,
            lambda: tf.ensure_shape(
                tf.numpy_function(report, [_name_of(example), *lengths], tf.bool), []
            ),
        )

    return dataset.filter(fits) if names else dataset


def encode_events(
    ds: tf.data.Dataset, output_features: Mapping[str, Any]
) -> tf.data.Dataset:
    """Makes vocabulary ids of event indices, with EOS where the feature asks for it.

    As seqio's `tokenize_and_append_eos` for features of one axis. Its operations are
    for ragged tensors of any rank and take half of the time of opening a data set.

    Args:
      ds: examples.
      output_features: seqio's features; others stay as they are.
    """
    import tensorflow as tf

    def encode(example: Features) -> Features:
        encoded = dict(example)
        for name, feature in output_features.items():
            if name not in example:
                continue
            ids = feature.vocabulary.encode_tf(example[name])
            if feature.add_eos:
                ids = tf.concat([ids, [feature.vocabulary.eos_id]], axis=0)
            encoded[name] = ids
        return encoded

    return ds.map(encode, num_parallel_calls=tf.data.AUTOTUNE)


def split_tokens_to_inputs_length(
    ds: tf.data.Dataset, sequence_length: SequenceLength, *, context_frames: int = 0
) -> tf.data.Dataset:
    """Cuts songs into consecutive segments that cover them, the last one shorter.

    Args:
      ds: songs as `tokenize` gives them.
      sequence_length: `inputs` frames of a segment.
      context_frames: difference 8; `input_times` are those of the middle. The last
        segment's middle is shorter, with its context after it.

    Returns:
      Segments in time order: inputs, input_times, unique_id, and `sequence`, which is
      empty but in the song's first segment.

    Raises:
      ConfigError: no length is given.
    """
    import tensorflow as tf

    length = _frames_of(sequence_length, "split_tokens_to_inputs_length")
    length -= 2 * context_frames

    def segments(song: Features) -> tf.data.Dataset:
        count = -(-tf.shape(song["inputs"], tf.int64)[0] // length)
        heard = _with_context(song["inputs"], context_frames)
        return tf.data.Dataset.range(count).map(
            lambda i: {
                "inputs": heard[i * length : (i + 1) * length + 2 * context_frames],
                "input_times": song["input_times"][i * length : (i + 1) * length],
                "unique_id": song["unique_id"],
                "sequence": tf.where(i == 0, song["sequence"], ""),
            }
        )

    return ds.flat_map(segments)


def _name_of(example: Features) -> Any:
    """Returns the id of an example, which other tokenizers may not give it."""
    return example.get("unique_id", "without a name")


def _frames_of(sequence_length: SequenceLength, stage: str) -> int:
    """Returns the frames of `inputs`.

    Raises:
      ConfigError: none are given; names the stage that needs it.
    """
    length = (sequence_length or {}).get("inputs")
    if not length:
        raise ConfigError(
            f"{stage}: sequence_length is {sequence_length!r}; expected a number of "
            "frames for 'inputs'"
        )
    return length
