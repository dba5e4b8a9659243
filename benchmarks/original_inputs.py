"""The original's way of making training examples, for `input_pipeline.py`.

Songs are indexed event by event in Python, notes are read message by message, chunks
keep all the events of their song, tensors grow token by token in autograph loops, and
spectrograms are tf.signal's, with a dense matrix of mel bands. WAV files are decoded as
note-seq does it, through a temporary file and librosa.

It is written here for the comparison, from what the original is known to do; what it
computes is checked against the pipeline of `mt3`.
"""

from __future__ import annotations

import dataclasses

import note_seq
import numpy as np
import seqio
import tensorflow as tf

from mt3 import configs, datasets, note_sequences, vocabularies
from mt3.note_sequences import Note
from mt3.run_length_encoding import IndexedEvents

CONFIG = configs.MT3
CODEC = vocabularies.build_codec(CONFIG.vocabulary)
DATASET = datasets.SYNTHETIC_CONFIG
LENGTHS = {"inputs": CONFIG.inputs_length, "targets": CONFIG.targets_length}
RATE = CONFIG.spectrogram.sample_rate

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
SONG = {
    "inputs": tf.TensorSpec([None, CONFIG.spectrogram.hop_width], tf.float32),
    **dict.fromkeys(FRAMES[1:], tf.TensorSpec([None], tf.int32)),
    "targets": tf.TensorSpec([None], tf.int32),
    "state_events": tf.TensorSpec([None], tf.int32),
}


def index_events_one_by_one(notes: list[Note], num_frames: int) -> IndexedEvents:
    """Writes a song's events in a loop over steps, and indexes them by frame."""
    times, values = note_sequences.note_sequence_to_onsets_and_offsets_and_programs(
        notes
    )
    by_step: dict[int, list[int]] = {}
    for number in np.argsort(times, kind="stable").tolist():
        by_step.setdefault(round(float(times[number]) * 100), []).append(number)
    frame_steps = [
        frame * CONFIG.spectrogram.hop_width * 100 // RATE
        for frame in range(num_frames)
    ]
    events: list[int] = []
    starts: list[int] = []
    state: list[int] = []
    state_starts: list[int] = []
    sounding = note_sequences.NoteEncodingState()
    frame = 0
    for step in range(max(frame_steps[-1] + 1, *by_step, 0) + 1):
        while frame < num_frames and frame_steps[frame] == step:
            starts.append(len(events))
            state_starts.append(len(state))
            state += map(
                CODEC.encode_event,
                note_sequences.note_encoding_state_to_events(sounding),
            )
            frame += 1
        for number in by_step.get(step, []):
            encoded = note_sequences.note_event_data_to_events(
                sounding, values[number], CODEC
            )
            events += map(CODEC.encode_event, encoded)
        events.append(1)
    events.pop()
    arrays = (events, starts, [*starts[1:], len(events)], state, state_starts)
    return IndexedEvents(*(np.array(array, np.int32) for array in arrays))


def notes_one_by_one(data: bytes) -> list[Note]:
    """Reads a song's notes message by message: pedal, then overlaps."""
    sequence = note_seq.NoteSequence.FromString(data)
    sequence = note_seq.apply_sustain_control_changes(sequence)
    last: dict[tuple[int, int, bool], int] = {}
    notes: list[Note] = []
    for message in sorted(sequence.notes, key=lambda n: (n.start_time, n.end_time)):
        key = (message.pitch, message.program, message.is_drum)
        if key in last:
            before = notes[last[key]]
            end = min(before.end_time, message.start_time)
            notes[last[key]] = dataclasses.replace(before, end_time=end)
        last[key] = len(notes)
        notes.append(
            Note(
                message.start_time,
                message.end_time,
                message.pitch,
                message.velocity,
                message.program,
                message.is_drum,
            )
        )
    return [note for note in notes if note.end_time > note.start_time]


def song_one_by_one(audio: bytes, sequence: bytes) -> tuple[np.ndarray, ...]:
    """A record's hops and events, in the order of `SONG`."""
    samples = note_seq.audio_io.wav_data_to_samples_librosa(audio, RATE)
    hop = CONFIG.spectrogram.hop_width
    inputs = np.pad(samples, (0, hop - len(samples) % hop)).reshape(-1, hop)
    indexed = index_events_one_by_one(notes_one_by_one(sequence), len(inputs))
    return (
        inputs,
        indexed.event_start_indices,
        indexed.event_end_indices,
        indexed.state_event_indices,
        indexed.events,
        indexed.state_events,
    )


def read_records(root: str) -> tf.data.Dataset:
    """The records, again and again, by TensorFlow's own reader."""
    description = {
        name: tf.io.FixedLenFeature([], tf.string)
        for name in ("id", "audio", "sequence")
    }
    paths = datasets.files(DATASET, "train", root)
    ds = tf.data.TFRecordDataset(list(paths)).repeat()
    return ds.map(
        lambda record: tf.io.parse_single_example(record, description),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def tokenize_one_by_one(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Records to songs."""

    def song(record):
        values = tf.numpy_function(
            song_one_by_one,
            [record["audio"], record["sequence"]],
            [spec.dtype for spec in SONG.values()],
        )
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(SONG.items(), values, strict=True)
        }

    return ds.map(song, num_parallel_calls=tf.data.AUTOTUNE)


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
