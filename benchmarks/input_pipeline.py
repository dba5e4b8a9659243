"""Examples per second of the training input pipeline, against the original's way.

Writes a small data set of its own (WAV records with a given number of notes a
second), then draws training examples from it:

* cached: chunks of songs lie in memory in the form that a cache stores;
* uncached: from the records, with decoding and tokenizing;

each with and without the spectrogram. The other side does the same work as the
original does, see `original_inputs.py`; both sides' examples are checked to be equal
before anything is timed. Below them stands what trains the default weights, without
TensorFlow: random notes rendered as they are asked for, and clips of a rendered corpus
(`synthesis_inputs.py`). There is no original of that.

    python benchmarks/input_pipeline.py --profile --json rates.json

Rates are per second of processor time, which is per core; both sides use all cores.
Examples are taken in padded batches, as training takes them: one at a time, handing
them to Python would cost a third of a millisecond on either side. The two sides take
turns, and the median over the turns is printed, with `--profile` also where an
example's time goes.
"""

# check: needs half an hour

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import seqio
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import input_stages, synthesis_inputs
from benchmarks import original_inputs as original
from benchmarks.original_inputs import CONFIG, DATASET, FRAMES, LENGTHS, RATE
from mt3 import datasets, note_sequences, preprocessors
from mt3.data import adapters, records, tfrecords
from mt3.data.tf_bridge import numpy_map
from mt3.note_sequences import Note
from mt3.run_length_encoding import IndexedEvents
from mt3.tokenizer import NoteTokenizer

SEED = 7
BATCH = 8


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes-per-second", type=float, default=20.0)
    parser.add_argument("--songs", type=int, default=4)
    # Just below four chunks of 2000 frames, so that no chunk is a single frame.
    parser.add_argument("--song-seconds", type=float, default=63.9)
    parser.add_argument("--examples", type=int, default=480, help="to time, a turn")
    parser.add_argument("--turns", type=int, default=3, help="of each side")
    parser.add_argument("--profile", action="store_true", help="time per stage")
    parser.add_argument("--json", help="also write the results here")
    return parser.parse_args()


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
    folder = Path(root, DATASET.paths["train"]).parent
    with tfrecords.write_records(folder / "train.tfrecord-00000-of-00001") as write:
        for index in range(options.songs):
            samples = rng.normal(0, 0.1, round(options.song_seconds * RATE))
            stream = io.BytesIO()
            soundfile.write(stream, samples, RATE, format="WAV")
            notes = make_notes(rng, options.song_seconds, options.notes_per_second)
            values = {
                "id": f"song {index}".encode(),
                "audio": stream.getvalue(),
                "sequence": note_sequences.to_note_sequence(notes).SerializeToString(),
            }
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            write(example.SerializeToString())


def read(root: str) -> tf.data.Dataset:
    """The records, again and again."""
    source = records.RecordDataSource(DATASET, {"train": "train"}, root=root)
    return source.get_dataset("train", shuffle=False).repeat()


def our_chunks(root: str) -> tf.data.Dataset:
    """Chunks from records."""
    ds = preprocessors.tokenize(
        read(root),
        CONFIG.spectrogram,
        original.CODEC,
        is_training_data=True,
        onsets_only=False,
        include_ties=True,
        adapter=adapters.of(DATASET),
        lean=True,
        stale_end_state=False,
    )
    return preprocessors.split_tokens(ds)


def original_chunks(root: str) -> tf.data.Dataset:
    """Chunks from records, the original's way."""
    ds = original.tokenize_one_by_one(original.read_records(root))
    return original.split_one_by_one(ds)


def our_examples(chunks: tf.data.Dataset, spectrogram: bool) -> tf.data.Dataset:
    """Chunks to examples."""
    tokenizer = NoteTokenizer(CONFIG)
    if spectrogram:
        return preprocessors.random_training_example(
            chunks, LENGTHS, tokenizer=tokenizer, skip_too_long=True
        )
    parts = preprocessors.select_random_chunk(chunks, LENGTHS)

    def ids(*arrays):
        song = IndexedEvents(*arrays)
        return tokenizer.segment_ids(song, 0, song.num_frames)

    names = ("targets", *FRAMES[1:3], "state_events", FRAMES[3])
    output = {"targets": tf.TensorSpec([None], tf.int32)}
    return numpy_map(parts, ids, names, output)


def in_memory(chunks: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """The first chunks, kept in memory."""
    return chunks.take(count).cache().repeat()


def build(
    examples: Callable, chunks: tf.data.Dataset, spectrogram: bool
) -> tf.data.Dataset:
    """Makes a pipeline with the seed."""
    with seqio.utils.map_seed_manager(SEED):
        return examples(chunks, spectrogram)


def check_equal(root: str, count: int = 24) -> None:
    """Checks that both ways give the same examples.

    Raises:
      SystemExit: they do not.
    """
    ours = build(our_examples, our_chunks(root), True).take(count)
    theirs = build(original.examples_one_by_one, original_chunks(root), True)
    tokens = 0
    for one, other in zip(ours, theirs.take(count), strict=True):
        same = np.array_equal(one["targets"], other["targets"])
        # Single precision: what the golden spectrograms allow, three times over.
        if not same or not np.allclose(one["inputs"], other["inputs"], atol=1e-2):
            raise SystemExit("the two ways do not give the same examples")
        tokens += len(one["targets"])
    print(f"{count} examples are equal; {tokens / count:.0f} targets in the mean")


def rate(ds: tf.data.Dataset, count: int, warm_up: int) -> float:
    """Returns examples per second of processor time."""
    depth = ds.element_spec["inputs"].shape[-1]
    shapes = {"inputs": [LENGTHS["inputs"], depth], "targets": [LENGTHS["targets"]]}
    ds = ds.map(lambda example: {name: example[name] for name in shapes})
    iterator = iter(ds.padded_batch(BATCH, shapes))
    for _ in range(-(-warm_up // BATCH)):
        next(iterator)
    batches = -(-count // BATCH)
    start = time.process_time()
    for _ in range(batches):
        next(iterator)
    return batches * BATCH / (time.process_time() - start)


def compare(root: str, options: argparse.Namespace) -> dict[str, dict]:
    """Prints and returns the rates of both sides, and their ratio, in four forms."""
    frames = CONFIG.spectrogram.frames_per_second * options.song_seconds + 1
    count = options.songs * int(-(-frames // datasets.CHUNK_FRAMES))
    forms = {
        "cached": (
            in_memory(our_chunks(root), count),
            in_memory(original_chunks(root), count),
        ),
        "uncached": (our_chunks(root), original_chunks(root)),
    }
    print(f"{'examples/s/core':36}{'original':>10}{'ours':>10}{'ratio':>8}")
    results = {}
    for form, (ours, theirs) in forms.items():
        for spectrogram in (True, False):
            slow = build(original.examples_one_by_one, theirs, spectrogram)
            fast = build(our_examples, ours, spectrogram)
            # Enough songs that those which were read ahead do not count.
            few = max(2 * BATCH, options.examples // 5)
            turns = [
                (rate(slow, few, count), rate(fast, options.examples, count))
                for _ in range(options.turns)
            ]
            one, other = (statistics.median(side) for side in zip(*turns, strict=True))
            name = f"{form}, {'with' if spectrogram else 'without'} spectrogram"
            results[name] = {"original": one, "ours": other, "ratio": other / one}
            print(f"{name:36}{one:10.1f}{other:10.1f}{other / one:8.1f}", flush=True)
    return results


def main() -> int:
    """Prints a row for each form."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as root:
        write_records(root, options)
        check_equal(root)
        results = compare(root, options)
        if options.profile:
            (record,) = original.read_records(root).take(1).as_numpy_iterator()
            results["profile"] = input_stages.profile(record, results)
    results |= synthesis_inputs.measure(profile=options.profile)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
