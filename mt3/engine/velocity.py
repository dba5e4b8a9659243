"""Trains the velocity head alone, on a corpus of rendered clips.

The head reads levels of the front end (`frame_heads.velocity_features`), so the network
is not run: each clip is augmented and transformed once, and what is kept of each note
fits into memory. Two hours of clips take minutes on a CPU.

Levels are relative to the recording's loudest, and a clip is not its whole recording.
So a louder recording is drawn around each clip: one whose loudest notes have a velocity
that is drawn too. Soft clips thus have low levels, and a swell over many segments is
one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mt3 import frame_heads, harmonic_stem, spectrograms
from mt3.beyond import velocity
from mt3.beyond.grids import frame_of_time
from mt3.configs import ModelConfig
from mt3.errors import DataError
from mt3.synthesis.augmentation import HISTORY_SAMPLES, AugmentationConfig
from mt3.synthesis.corpus import read_config, shard_folders
from mt3.synthesis.sampler import ClipSampler
from mt3.vocabularies import MAX_VELOCITY, midi_class

CLIPS_PER_STEP = 48
_MOST_NOTES = {False: 6144, True: 3072}
_PARTS = frame_heads.NUM_CLASSES + 1
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-3
# The share of clips that belong to a louder recording; the velocity of its loudest.
_LOUDER = 0.7
_LOUDEST = (60, MAX_VELOCITY)
# How many dB louder it is than velocities tell: the standard deviation.
_MISJUDGED_DB = 2.0
# By which share of that (in dB) its mean power is greater.
_MEAN_SHARE = (0.5, 1.0)
# Magnitudes go with this power of the velocity (`synthesis.synthesizers`).
_LAW = 2.0
_NEPERS_PER_DB = np.log(10) / 20
# What the rank correlation of a part needs.
_FEWEST_NOTES = 10


@dataclasses.dataclass(frozen=True)
class Notes:
    """What is kept of the pitched notes, or of the drum hits, of some clips.

    Attributes:
      features: float16 [n, F], see `frame_heads.velocity_features`.
      pitch: int32 [n].
      velocity: float32 [n], velocity / 127.
      part: int32 [n], MIDI class, or the number of classes for drums.
      program: int32 [n].
      first: int64 [clips + 1], where each clip's notes begin and end.
      peak: float32 [clips], the largest level of each clip.
      power: float32 [clips, bands], its mean power in each band.
      loudest: float32 [clips], the velocity / 127 of its loudest notes.
    """

    features: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    part: np.ndarray
    program: np.ndarray
    first: np.ndarray
    peak: np.ndarray
    power: np.ndarray
    loudest: np.ndarray


def hear(
    folders: Sequence[str | Path],
    config: ModelConfig,
    *,
    passes: float = 1.0,
    seed: int = 0,
    mix: float = 0.2,
    augment: bool = True,
) -> dict[bool, Notes]:
    """Reads the levels of the notes of whole clips.

    Args:
      folders: corpora that `mt3 synthesize` rendered.
      config: the front end.
      passes: clips that are drawn, as a multiple of those that there are.
      seed: of all random draws.
      mix: see `ClipSampler`.
      augment: whether rooms, noise and so on change the audio.

    Returns:
      By whether they are drums.

    Raises:
      DataError: no corpus, another sample rate, or too few notes.
    """
    kept: dict[bool, list[tuple]] = {False: [], True: []}
    clips: list[tuple] = []
    for frames, notes in _clips(folders, config, passes, seed, mix, augment):
        peak, power = frames.max(), np.exp(2.0 * frames).mean(axis=0)
        loudest = np.percentile(notes["velocity"], 95) / MAX_VELOCITY
        clips.append((peak, power, loudest))
        onset = np.rint(frame_of_time(notes["start_time"], config)).astype(int)
        onset -= config.context_frames
        inside = (onset >= 0) & (onset < len(frames) - harmonic_stem.TIME_TAPS)
        for drums, found in kept.items():
            pitch = notes["pitch"].astype(np.int32)
            mine = inside & (notes["is_drum"] == drums)
            if not drums:
                pitches = harmonic_stem.LOWEST_PITCH + harmonic_stem.NUM_PITCHES
                mine &= (pitch >= harmonic_stem.LOWEST_PITCH) & (pitch < pitches)
            part = midi_class(notes["program"].astype(np.int32))
            found.append(
                (
                    frame_heads.velocity_features(
                        frames, onset[mine], pitch[mine], drums=drums
                    ).astype(np.float16),
                    pitch[mine],
                    notes["velocity"][mine] / np.float32(MAX_VELOCITY),
                    np.full(mine.sum(), _PARTS - 1) if drums else part[mine],
                    notes["program"][mine].astype(np.int32),
                )
            )
    peak, power, loudest = (np.float32(x) for x in zip(*clips, strict=True))
    heard = {}
    for drums, found in kept.items():
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        first = np.cumsum([0, *(len(pitch) for _, pitch, *_ in found)])
        heard[drums] = Notes(*columns, first, peak, power, loudest)
    return heard


def _clips(
    folders: Sequence[str | Path],
    config: ModelConfig,
    passes: float,
    seed: int,
    mix: float,
    augment: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the frames [T, bands] of clips, and their notes."""
    spectrogram = config.spectrogram
    transform = jax.jit(
        functools.partial(
            spectrograms.compute_spectrogram, spectrogram_config=spectrogram
        )
    )
    for place, folder in enumerate(folders):
        corpus = read_config(folder)
        if corpus.sample_rate != spectrogram.sample_rate:
            raise DataError(
                f"{folder}: the corpus has {corpus.sample_rate} samples per second; "
                f"the model's spectrogram needs {spectrogram.sample_rate}."
            )
        sampler = ClipSampler(
            folder,
            segment_seconds=corpus.clip_seconds,
            seed=seed + place,
            mix=mix,
            augmentation=AugmentationConfig() if augment else None,
        )
        count = len(shard_folders(folder)) * corpus.clips_per_shard
        for index in range(max(1, round(passes * count))):
            example = sampler.example(index)
            samples = example.samples[0 if augment else HISTORY_SAMPLES :]
            if len(example.notes):
                yield np.asarray(transform(samples)), example.notes


def train(
    notes: Notes,
    *,
    drums: bool,
    steps: int,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> dict[str, np.ndarray]:
    """Trains the parameters of one of the two velocity heads from the start.

    Args:
      notes: what `hear` returned.
      drums: whether these are drum hits.
      steps: of `CLIPS_PER_STEP` clips.
      seed: of all random draws.
      log: called with a line every now and then.

    Returns:
      Parameters by name, float32.
    """
    rng = np.random.default_rng([seed, drums])
    heads = initial_heads(rng, drums=drums)
    rate = optax.cosine_decay_schedule(_LEARNING_RATE, steps, 0.02)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=_WEIGHT_DECAY)
    )
    state = optimizer.init(heads)

    @jax.jit
    def step(heads, state, batch):
        def loss(heads):
            told = frame_heads.velocities(
                heads,
                batch["features"].astype(jnp.float32),
                batch["pitch"],
                batch["peak"][batch["clip"]][:, None],
                batch["power"][batch["clip"]],
                drums=drums,
            )
            total = velocity.grouped_loss(
                told,
                batch["velocity"],
                batch["clip"] * _PARTS + batch["part"],
                batch["known"],
                CLIPS_PER_STEP * _PARTS,
            )
            return total / jnp.maximum(jnp.sum(batch["known"]), 1)

        value, gradient = jax.value_and_grad(loss)(heads)
        updates, state = optimizer.update(gradient, state, heads)
        return optax.apply_updates(heads, updates), state, value

    recent = []
    for number in range(steps):
        batch = _batch(rng, notes, _MOST_NOTES[drums])
        heads, state, value = step(heads, state, batch)
        recent.append(value)
        if log is not None and (number + 1) % 100 == 0:
            mean = float(np.mean([float(value) for value in recent]))
            log(f"{'drums' if drums else 'notes'}: step {number + 1}, loss {mean:.5f}")
            recent = []
    return {name: np.asarray(value) for name, value in heads.items()}


def initial_heads(rng: np.random.Generator, *, drums: bool) -> dict[str, Any]:
    """Returns parameters from which training begins, float32."""
    heads = {}
    for name, shape in frame_heads.velocity_shapes(drums=drums).items():
        if name.endswith("bias"):
            value = np.zeros(shape)
        else:
            scale = 0.05 if name.endswith("pitch") else np.sqrt(1.0 / shape[0])
            value = rng.normal(0.0, scale, shape)
        heads[name] = jnp.asarray(value, jnp.float32)
    return heads


def _batch(rng: np.random.Generator, notes: Notes, most: int) -> dict[str, np.ndarray]:
    """Draws clips, and a louder recording around some of them."""
    count = len(notes.peak)
    drawn = rng.choice(count, CLIPS_PER_STEP, replace=count < CLIPS_PER_STEP)
    places, clip = [], []
    for number, index in enumerate(drawn):
        mine = np.arange(notes.first[index], notes.first[index + 1])
        places.append(mine)
        clip.append(np.full(len(mine), number))
    place = np.concatenate(places)[:most]
    loudest = notes.loudest[drawn]
    recording = np.maximum(loudest, rng.uniform(*_LOUDEST, len(drawn)) / MAX_VELOCITY)
    louder = _LAW * np.log(recording / loudest)
    louder += np.abs(rng.normal(0.0, _MISJUDGED_DB * _NEPERS_PER_DB, len(drawn)))
    louder = np.where(rng.random(len(drawn)) < _LOUDER, louder, 0.0)
    mean = louder * rng.uniform(*_MEAN_SHARE, len(drawn))

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, most - len(place))] + [(0, 0)] * (values.ndim - 1))

    return {
        "features": padded(notes.features[place]),
        "pitch": np.maximum(padded(notes.pitch[place]), harmonic_stem.LOWEST_PITCH),
        "velocity": padded(notes.velocity[place]),
        "part": padded(notes.part[place]),
        "clip": padded(np.concatenate(clip)[:most]),
        "known": padded(np.ones(len(place), bool)),
        "peak": np.float32(notes.peak[drawn] + louder),
        "power": np.float32(notes.power[drawn] * np.exp(2.0 * mean)[:, None]),
    }


def rank_correlation(
    heads: dict[str, np.ndarray], notes: Notes, *, drums: bool
) -> float:
    """Averages Spearman's correlation with the truth over the programs of clips."""
    from scipy import stats

    found = []
    for clip, (first, last) in enumerate(
        zip(notes.first, notes.first[1:], strict=False)
    ):
        told = frame_heads.velocities(
            heads,
            notes.features[first:last].astype(np.float32),
            notes.pitch[first:last],
            float(notes.peak[clip]),
            notes.power[clip],
            drums=drums,
        )
        true, program = notes.velocity[first:last], notes.program[first:last]
        for one in np.unique(program):
            mine = program == one
            if mine.sum() >= _FEWEST_NOTES and np.ptp(true[mine]):
                flat = not np.ptp(told[mine])
                ranks = 0.0 if flat else stats.spearmanr(told[mine], true[mine])[0]
                found.append(ranks)
    return float(np.mean(found)) if found else float("nan")
