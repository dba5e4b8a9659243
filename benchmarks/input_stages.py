"""Where the time of a training example goes, for `input_pipeline.py --profile`.

The stages are called by themselves, in one thread, on a record of the data set; what
of the whole pipeline's time they do not explain is TensorFlow's: reading records,
its own operations, handing elements from thread to thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks import original_inputs as original
from benchmarks.original_inputs import CONFIG, DATASET, RATE
from mt3 import spectrograms
from mt3.data import adapters
from mt3.datasets import CHUNK_FRAMES
from mt3.tokenizer import NoteTokenizer


def microseconds(function: Callable[[], object], repeats: int = 30) -> float:
    """Returns the median processor time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e6 * statistics.median(times)


def our_stages(record: Mapping[str, bytes]) -> dict[str, float]:
    """Returns microseconds per example of our stages; a song's shared by its chunks."""
    song = adapters.of(DATASET)(record, sample_rate=RATE, training=True)
    tokenizer = NoteTokenizer(CONFIG)
    hops = spectrograms.split_recording(song.audio, CONFIG.spectrogram)
    events = tokenizer.encode_song(song.note_array, len(hops))
    chunks = -(-len(hops) // CHUNK_FRAMES)

    def audio():
        samples = adapters.stored_audio(record["audio"], RATE, "benchmark")
        return spectrograms.split_recording(samples, CONFIG.spectrogram)

    def whole_song():
        return adapters.of(DATASET)(record, sample_rate=RATE, training=True)

    def tokens():
        # Not the song's start, where no note goes on sounding.
        return tokenizer.segment_ids(events, len(hops) // 2, CONFIG.inputs_length)

    def spectrogram():
        samples = spectrograms.flatten_frames(hops[: CONFIG.inputs_length])
        return spectrograms.compute_spectrogram(samples, CONFIG.spectrogram)

    decode = microseconds(
        lambda: adapters.stored_audio(record["audio"], RATE, "benchmark")
    )
    return {
        "WAV to hops": microseconds(audio) / chunks,
        "notes": (microseconds(whole_song) - decode) / chunks,
        "events by frame": microseconds(
            lambda: tokenizer.encode_song(song.note_array, len(hops))
        )
        / chunks,
        "tokens": microseconds(tokens),
        "spectrogram": microseconds(spectrogram),
    }


def original_stages(record: Mapping[str, bytes]) -> dict[str, float]:
    """Returns microseconds per example of the original's stages in Python."""
    samples = original.note_seq.audio_io.wav_data_to_samples_librosa(
        record["audio"], RATE
    )
    frames = spectrograms.number_of_frames(len(samples), CONFIG.spectrogram)
    notes = original.notes_one_by_one(record["sequence"])
    chunks = -(-frames // CHUNK_FRAMES)
    calls = {
        "WAV to hops": lambda: original.note_seq.audio_io.wav_data_to_samples_librosa(
            record["audio"], RATE
        ),
        "notes": lambda: original.notes_one_by_one(record["sequence"]),
        "events by frame": lambda: original.index_events_one_by_one(notes, frames),
    }
    return {name: microseconds(call, 7) / chunks for name, call in calls.items()}


def profile(
    record: Mapping[str, bytes], rates: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Prints and returns the stages of an example with spectrogram.

    Args:
      record: features of one of the songs.
      rates: examples per second of each form and side.

    Returns:
      Microseconds per example, by side and stage.
    """

    def total(form: str, side: str, spectrogram: bool = True) -> float:
        how = "with" if spectrogram else "without"
        return 1e6 / rates[f"{form}, {how} spectrogram"][side]

    stages = {"original": original_stages(record), "ours": our_stages(record)}
    theirs, ours = stages["original"], stages["ours"]
    theirs["spectrogram"] = total("cached", "original") - total(
        "cached", "original", spectrogram=False
    )
    # The loops that grow tensors are operations of TensorFlow, as the rest is.
    theirs["tokens and tf.data"] = total("cached", "original", spectrogram=False)
    ours["tf.data"] = total("cached", "ours") - ours["tokens"] - ours["spectrogram"]
    song = ("WAV to hops", "notes", "events by frame")
    for side in stages:
        stages[side]["reading, tf.data for songs"] = (
            total("uncached", side)
            - total("cached", side)
            - sum(stages[side][name] for name in song)
        )
        stages[side] = {name: float(np.round(v)) for name, v in stages[side].items()}
    names = dict.fromkeys([*ours, *theirs])
    print(f"\n{'microseconds per example':36}{'original':>10}{'ours':>10}")
    for name in names:
        cells = (stages[side].get(name) for side in ("original", "ours"))
        text = "".join(f"{'' if cell is None else f'{cell:.0f}':>10}" for cell in cells)
        print(f"{name:36}{text}")
    return stages
