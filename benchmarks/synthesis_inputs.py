"""Examples per second of the data that need no TensorFlow, for `input_pipeline.py`.

* Random notes rendered as they are asked for: `gin/synthetic_tiny.gin`, and the same
  with the sizes and frames of `mt3`.
* Clips of a rendered corpus, with the settings of `gin/synthetic.gin`: there the device
  augments and transforms; and with both done here.

The corpus is rendered first, small, from random notes. What renders needs
`tinysoundfont`; without it there are no such rows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.input_stages import microseconds
from mt3 import configs, spectrograms
from mt3.beyond import grids
from mt3.engine import synthetic_data
from mt3.engine.utils import DatasetConfig
from mt3.spectrograms import SpectrogramConfig
from mt3.tokenizer import NoteTokenizer
from mt3.vocabularies import VocabularyConfig

TINY = dataclasses.replace(
    configs.MT3,
    spectrogram=SpectrogramConfig(hop_width=256, fft_size=1024, num_mel_bins=64),
    inputs_length=64,
    targets_length=64,
)
SYNTHETIC = dataclasses.replace(
    configs.MT3,
    program_granularity="midi_class",
    padding="silence",
    vocabulary=VocabularyConfig(
        steps_per_second=50, max_shift_seconds=2, num_velocity_bins=1
    ),
    spectrogram=SpectrogramConfig(
        hop_width=320,
        scale="pitch",
        num_mel_bins=294,
        lo_hz=26.975577,
        hi_hz=7603.62,
    ),
    inputs_length=100,
    targets_length=320,
)
CLIPS = 16
CLIP_SECONDS = 8.0
BATCH_SIZE = 16
STAGES = ((0, {"max_notes_per_second": 30}),)


def batches(source: Any, config: configs.ModelConfig) -> Any:
    """Returns a source's batches, as `mt3 train` gets them."""
    lengths = {"inputs": config.inputs_length, "targets": config.targets_length}
    return source(
        DatasetConfig(
            mixture_or_task_name="synthesis",
            task_feature_lengths=lengths,
            split="train",
            batch_size=BATCH_SIZE,
            shuffle=True,
            seed=1,
        )
    )


def rate(data: Any, pools: int = 2) -> float:
    """Returns examples per second of processor time, over whole pools of batches."""
    count = pools * max(data.pool, 8)
    # Opens soundfonts and presets, or the corpus.
    for index in range(count, count + data.pool):
        data.batch(index)
    start = time.process_time()
    for index in range(count):
        data.batch(index)
    return count * data.batch_size / (time.process_time() - start)


def shares(data: Any) -> dict[str, float]:
    """Returns microseconds per example of each part of the work."""
    tokenizer = NoteTokenizer(data.config)
    keys = [(1, 0, index, 0) for index in range(2 * BATCH_SIZE)]
    segments = [data.segments.segment(key) for key in keys]
    parts = {
        "render, or cut, mix and augment": lambda key, _: data.segments.segment(key),
        "tokens": lambda _, pair: synthetic_data.token_features(pair[1], tokenizer),
    }
    if data.on_device:
        most = data.config.targets_length // 2
        parts["note rows"] = lambda _, pair: grids.note_rows(pair[1], most)
    else:
        settings = data.config.spectrogram
        parts["spectrogram"] = lambda _, pair: spectrograms.compute_spectrogram(
            pair[0], settings
        )

    def all_of(part):
        return [part(key, pair) for key, pair in zip(keys, segments, strict=True)]

    return {
        name: float(np.round(microseconds(lambda p=part: all_of(p), 5) / len(keys)))
        for name, part in parts.items()
    }


def sources(folder: str) -> Mapping[str, tuple[Any, configs.ModelConfig]]:
    """Returns what to measure by name, with the corpus in a folder."""
    random, corpus = synthetic_data.RandomNotes, synthetic_data.Corpus
    one = random(TINY, max_programs=1, max_polyphony=1, drums=0.0)
    clips = {"folder": folder, "stages": STAGES}
    device = corpus(SYNTHETIC, pool=8, length_multiple=64, on_device=True, **clips)
    return {
        "random notes, synthetic_tiny.gin": (one, TINY),
        "random notes, mt3's frames": (random(configs.MT3), configs.MT3),
        "corpus, synthetic.gin": (device, SYNTHETIC),
        "corpus, all on the host": (corpus(SYNTHETIC, **clips), SYNTHETIC),
        "corpus, all on the host, mt3's frames": (
            corpus(configs.MT3, **clips),
            configs.MT3,
        ),
    }


def measure(*, profile: bool) -> dict[str, dict[str, Any]]:
    """Prints and returns the rates, with `profile` the microseconds of the parts."""
    if importlib.util.find_spec("tinysoundfont") is None:
        print("\ntinysoundfont is not installed: no rows for synthesis")
        return {}
    from mt3.synthesis import corpus

    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        corpus.build_corpus(
            folder,
            hours=CLIPS * CLIP_SECONDS / 3600,
            mixture={"random": 1.0},
            clip_seconds=CLIP_SECONDS,
            clips_per_shard=CLIPS,
        )
        speed = CLIPS * CLIP_SECONDS / (time.process_time() - start)
        print(f"\n{'without TensorFlow, examples/s/core':46}{'ours':>10}")
        for name, (source, config) in sources(folder).items():
            data = batches(source, config)
            results[name] = {"ours": rate(data)}
            print(f"{name:46}{results[name]['ours']:10.1f}", flush=True)
            if profile:
                results[name]["microseconds"] = shares(data)
                for part, time_of in results[name]["microseconds"].items():
                    print(f"    {part + ', us':42}{time_of:10.0f}")
    name = "rendering a corpus, seconds of audio"
    results[name] = {"ours": speed}
    print(f"{name:46}{speed:10.1f}")
    return results
