"""Examples per second of the training input pipeline, against the original's way.

Writes a small data set of its own (WAV records with a given number of notes a
second), then draws training examples from it:

* cached: songs lie in memory in the form that a cache stores;
* uncached: from the records, with decoding and tokenizing;

each with and without the spectrogram. The other side does the same work as the
original does: songs indexed event by event in Python, and tensors that grow token by
token in autograph loops, spectrograms with tf.signal. It is written here for the
comparison, and both sides' examples are checked to be equal before anything is timed.

    python benchmarks/input_pipeline.py

Rates are per second of processor time, which is per core; both sides use all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import seqio
import tensorflow as tf

from mt3 import (
    configs,
    datasets,
    note_sequence_io,
    note_sequences,
    preprocessors,
    record_adapters,
    records,
    vocabularies,
)
from mt3.example_encoder import SegmentEncoder
from mt3.note_sequences import Note
from mt3.run_length_encoding import IndexedEvents
from mt3.spectrograms import split_audio
from mt3.tf_bridge import numpy_map

CONFIG = configs.MT3
CODEC = vocabularies.build_codec(CONFIG.vocabulary)
LENGTHS = {"inputs": CONFIG.inputs_length, "targets": CONFIG.targets_length}
DATASET = datasets.SYNTHETIC_CONFIG
RATE = CONFIG.spectrogram.sample_rate
SEED = 7

SHIFT_RANGE = CODEC.event_type_range("shift")
VELOCITY_RANGE = CODEC.event_type_range("velocity")
PROGRAM_RANGE = CODEC.event_type_range("program")
TIE = CODEC.event_type_range("tie")[0]
FRAMES = (
    "inputs",
    "input_event_start_indices",
    "input_event_end_indices",
    "input_state_event_indices",
)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes-per-second", type=float, default=20.0)
    parser.add_argument("--songs", type=int, default=4)
    parser.add_argument("--song-seconds", type=float, default=64.0)
    parser.add_argument("--examples", type=int, default=600, help="to time")
    parser.add_argument("--json", help="also write the rates here")
    return parser.parse_args()


# The data set.


def make_notes(rng: np.random.Generator, seconds: float, rate: float) -> list[Note]:
    """Returns notes of four instruments and drums."""
    count = round(seconds * rate)
    starts = np.sort(rng.uniform(0, seconds - 1, count))
    lengths = rng.uniform(0.05, 0.8, count)
    kinds = rng.integers(0, 5, count)
    pitches = rng.integers(36, 96, count)
    notes = [
        Note(float(s), float(s + d), int(p), 100, 0 if k == 4 else int(8 * k), k == 4)
        for s, d, k, p in zip(starts, lengths, kinds, pitches, strict=True)
    ]
    return note_sequences.trim_overlapping_notes(notes)


def write_records(root: str, options: argparse.Namespace) -> None:
    """Writes the songs as the `synthetic` data set below a data root."""
    import io

    import soundfile

    rng = np.random.default_rng(SEED)
    prefix = Path(root, DATASET.paths["train"]).parent / "train.tfrecord"
    with records.ShardWriter(prefix, 1) as writer:
        for index in range(options.songs):
            samples = rng.normal(0, 0.1, round(options.song_seconds * RATE))
            stream = io.BytesIO()
            soundfile.write(stream, samples, RATE, format="WAV")
            notes = make_notes(rng, options.song_seconds, options.notes_per_second)
            values = {
                "id": f"song {index}".encode(),
                "audio": stream.getvalue(),
                "sequence": note_sequence_io.from_notes(notes).SerializeToString(),
            }
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


# The original's way.


def index_events_one_by_one(notes: list[Note], num_frames: int) -> IndexedEvents:
    """Writes a song's events in a loop over steps, and indexes them by frame."""
    timed = note_sequences.note_events(notes, CODEC)
    by_step: dict[int, list[int]] = {}
    for number, at in enumerate(timed.times.tolist()):
        by_step.setdefault(round(at * 100), []).append(number)
    frame_steps = [
        frame * CONFIG.spectrogram.hop_width * 100 // RATE
        for frame in range(num_frames)
    ]
    events: list[int] = []
    starts: list[int] = []
    state: list[int] = []
    state_starts: list[int] = []
    sounding: set[int] = set()
    frame = 0
    for step in range(max(frame_steps[-1] + 1, *by_step, 0) + 1):
        while frame < num_frames and frame_steps[frame] == step:
            starts.append(len(events))
            state_starts.append(len(state))
            for key in sorted(sounding):
                state += [PROGRAM_RANGE[0] + key // 128, 1001 + key % 128]
            state.append(TIE)
            frame += 1
        for number in by_step.get(step, []):
            events += [token for token in timed.tokens[number].tolist() if token >= 0]
            key = int(timed.keys[number])
            if key >= 0:
                (sounding.add if timed.is_on[number] else sounding.discard)(key)
        events.append(1)
    events.pop()
    arrays = (events, starts, [*starts[1:], len(events)], state, state_starts)
    return IndexedEvents(*(np.array(array, np.int32) for array in arrays))


def tokenize_one_by_one(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Records to songs."""
    names = sorted(ds.element_spec)

    def song_of(*values):
        song = record_adapters.folder(
            dict(zip(names, values, strict=True)),
            dataset=DATASET,
            sample_rate=RATE,
            training=True,
        )
        inputs = split_audio(song.samples, CONFIG.spectrogram)
        indexed = index_events_one_by_one(song.notes, len(inputs))
        return (
            inputs,
            indexed.event_start_indices,
            indexed.event_end_indices,
            indexed.state_event_indices,
            indexed.events,
            indexed.state_events,
        )

    outputs = {name: tf.TensorSpec([None], tf.int32) for name in FRAMES}
    outputs["inputs"] = tf.TensorSpec([None, 128], tf.float32)
    outputs["targets"] = outputs["state_events"] = tf.TensorSpec([None], tf.int32)
    return numpy_map(ds, song_of, names, outputs, drop=names)


def split_one_by_one(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Songs to chunks, which keep all the song's events."""

    def chunks(song):
        count = -(-tf.shape(song["inputs"], tf.int64)[0] // datasets.CHUNK_FRAMES)
        return tf.data.Dataset.range(count).map(
            lambda i: {
                name: value[i * datasets.CHUNK_FRAMES : (i + 1) * datasets.CHUNK_FRAMES]
                if name in FRAMES
                else value
                for name, value in song.items()
            }
        )

    return ds.flat_map(chunks)


@seqio.map_over_dataset(num_seeds=1)
def random_chunk(chunk, seed):
    """A random part of a chunk."""
    length = LENGTHS["inputs"]
    frames = tf.shape(chunk["inputs"])[0]
    start = tf.random.stateless_uniform([], seed, 1 - length, frames, tf.int32)
    first, end = tf.maximum(start, 0), tf.minimum(start + length, frames)
    return {
        name: value[first:end] if name in FRAMES else value
        for name, value in chunk.items()
    }


def targets_one_by_one(example):
    """Extracts, run-length codes and reduces one example's events, token by token."""
    events = example["targets"][
        example["input_event_start_indices"][0] : example["input_event_end_indices"][-1]
    ]
    position = example["input_state_event_indices"][0]
    state = example["state_events"][position : position + 1]
    while example["state_events"][position] != TIE:
        tf.autograph.experimental.set_loop_options(
            shape_invariants=[(state, tf.TensorShape([None]))]
        )
        position += 1
        state = tf.concat([state, example["state_events"][position : position + 1]], 0)
    events = tf.concat([state, events], 0)

    coded = tf.zeros([0], tf.int32)
    total = 0
    pending = 0
    for event in events:
        tf.autograph.experimental.set_loop_options(
            shape_invariants=[(coded, tf.TensorShape([None]))]
        )
        if SHIFT_RANGE[0] <= event and event <= SHIFT_RANGE[1]:
            total += event
            pending += 1
        else:
            if pending > 0:
                left = total
                while left > 0:
                    tf.autograph.experimental.set_loop_options(
                        shape_invariants=[(coded, tf.TensorShape([None]))]
                    )
                    shift = tf.minimum(CODEC.max_shift_steps, left)
                    coded = tf.concat([coded, [shift]], 0)
                    left -= shift
                pending = 0
            coded = tf.concat([coded, [event]], 0)

    reduced = tf.zeros([0], tf.int32)
    velocity = -1
    program = -1
    for event in coded:
        tf.autograph.experimental.set_loop_options(
            shape_invariants=[(reduced, tf.TensorShape([None]))]
        )
        keep = True
        if VELOCITY_RANGE[0] <= event and event <= VELOCITY_RANGE[1]:
            keep = event != velocity
            velocity = event
        if PROGRAM_RANGE[0] <= event and event <= PROGRAM_RANGE[1]:
            keep = event != program
            program = event
        if keep:
            reduced = tf.concat([reduced, [event]], 0)
    return tf.concat([reduced + 3, [1]], 0)


def tf_spectrogram(hops):
    """Log-mel frames of hops [frames, 128] with tf.signal."""
    settings = CONFIG.spectrogram
    samples = tf.reshape(hops, [-1])
    frames = tf.signal.stft(samples, 2048, settings.hop_width, 2048, pad_end=True)
    weights = tf.signal.linear_to_mel_weight_matrix(
        settings.num_mel_bins, 1025, RATE, settings.lo_hz, settings.hi_hz
    )
    mel = tf.matmul(tf.abs(frames), weights)
    return tf.math.log(tf.where(mel <= 0.0, 1e-5, mel))


def examples_one_by_one(chunks: tf.data.Dataset, spectrogram: bool) -> tf.data.Dataset:
    """Chunks to examples, the original's way."""

    def example(part):
        inputs = tf_spectrogram(part["inputs"]) if spectrogram else part["inputs"]
        return {"inputs": inputs, "targets": targets_one_by_one(part)}

    return random_chunk(chunks).map(example, num_parallel_calls=tf.data.AUTOTUNE)


# Ours.


def examples_at_once(chunks: tf.data.Dataset, spectrogram: bool) -> tf.data.Dataset:
    """Chunks to examples."""
    parts = preprocessors.select_random_chunk(chunks, LENGTHS)
    if spectrogram:
        return preprocessors.training_example(
            parts, LENGTHS, config=CONFIG, skip_too_long=True
        )
    encoder = SegmentEncoder(CONFIG)

    def ids(*arrays):
        events = encoder.reduce(encoder.extract(IndexedEvents(*arrays)))
        return encoder.tokenizer.to_ids(events)

    names = ("targets", *FRAMES[1:3], "state_events", FRAMES[3])
    output = {"targets": tf.TensorSpec([None], tf.int32)}
    return numpy_map(parts, ids, names, output)


def read(root: str) -> tf.data.Dataset:
    """The records, again and again."""
    source = records.RecordDataSource(DATASET, {"train": "train"}, root=root)
    return source.get_dataset("train", shuffle=False).repeat()


def our_chunks(root: str) -> tf.data.Dataset:
    """Chunks from records."""
    ds = preprocessors.tokenize(
        read(root), dataset=DATASET, config=CONFIG, training=True
    )
    return preprocessors.split_tokens(ds)


def original_chunks(root: str) -> tf.data.Dataset:
    """Chunks from records, the original's way."""
    return split_one_by_one(tokenize_one_by_one(read(root)))


def in_memory(chunks: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """The first chunks, kept in memory."""
    return chunks.take(count).cache().repeat()


# Measuring.


def build(examples: Callable, chunks: tf.data.Dataset, spectrogram: bool):
    """Makes a pipeline with the seed."""
    with seqio.utils.map_seed_manager(SEED):
        return examples(chunks, spectrogram)


def check_equal(root: str, count: int = 24) -> None:
    """Checks that both ways give the same examples.

    Raises:
      SystemExit: they do not.
    """
    ours = build(examples_at_once, our_chunks(root), True).take(count)
    original = build(examples_one_by_one, original_chunks(root), True).take(count)
    tokens = 0
    for one, other in zip(ours, original, strict=True):
        same = np.array_equal(one["targets"], other["targets"])
        # Single precision: what the golden spectrograms allow, three times over.
        if not same or not np.allclose(one["inputs"], other["inputs"], atol=1e-2):
            raise SystemExit("the two ways do not give the same examples")
        tokens += len(one["targets"])
    print(f"{count} examples are equal; {tokens / count:.0f} targets in the mean")


def rate(ds: tf.data.Dataset, count: int, warm_up: int) -> float:
    """Returns examples per second of processor time."""
    iterator = iter(ds)
    for _ in range(warm_up):
        next(iterator)
    start = time.process_time()
    for _ in range(count):
        next(iterator)
    return count / (time.process_time() - start)


def main() -> int:
    """Prints a row for each form."""
    options = parse_arguments()
    rates = {}
    with tempfile.TemporaryDirectory() as root:
        write_records(root, options)
        check_equal(root)
        frames = CONFIG.spectrogram.frames_per_second * options.song_seconds + 1
        count = options.songs * int(-(-frames // datasets.CHUNK_FRAMES))
        forms = {
            "cached": (
                in_memory(our_chunks(root), count),
                in_memory(original_chunks(root), count),
            ),
            "uncached": (our_chunks(root), original_chunks(root)),
        }
        title = "examples per second and core"
        print(f"{title:36}{'original':>10}{'ours':>10}{'ratio':>8}")
        for form, (ours, original) in forms.items():
            for spectrogram in (True, False):
                theirs = build(examples_one_by_one, original, spectrogram)
                slow = rate(theirs, max(20, options.examples // 10), count)
                fast = rate(
                    build(examples_at_once, ours, spectrogram), options.examples, count
                )
                name = f"{form}, {'with' if spectrogram else 'without'} spectrogram"
                print(f"{name:36}{slow:10.1f}{fast:10.1f}{fast / slow:8.1f}")
                rates[name] = {"original": slow, "ours": fast}
    if options.json:
        Path(options.json).write_text(json.dumps(rates, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
