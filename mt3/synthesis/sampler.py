"""Training segments from a corpus of rendered clips.

`ClipSampler.example(index)` is a function of the seed, the index and the shards in
use, and of nothing else: a run that stops resumes by asking for the next index, and
several processes share the work by taking different indices.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from mt3.errors import DataError, near_misses
from mt3.midi import note_arrays
from mt3.synthesis import corpus
from mt3.synthesis.augmentation import HISTORY_SAMPLES, AugmentationConfig

MOST_CLIPS = 4
_DEFAULT_AUGMENTATION = AugmentationConfig()


@dataclasses.dataclass(frozen=True)
class Example:
    """A training segment.

    Attributes:
      samples: float32 [samples], within -1..1.
      notes: array [n] of `note_sequences.NOTE_DTYPE`, times in seconds from the
        segment's start. Notes that sound at the start have their true, negative
        start time; those that sound at the end have their true end.
      kinds: kind of each clip that was mixed.
    """

    samples: np.ndarray
    notes: np.ndarray
    kinds: tuple[str, ...]


class ClipSampler:
    """Cuts, mixes and augments random segments of a corpus.

    Args:
      folder: a corpus made by `corpus.build_corpus`.
      segment_seconds: length of a segment (256 frames of 8 ms: 2.048).
      seed: examples are a function of it and of their index.
      mix: chance that another clip is added, and after that another, up to
        `MOST_CLIPS`.
      augmentation: how audio is changed. None: not at all, and examples have
        `HISTORY_SAMPLES` more samples at their beginning.
      num_shards: use the first so many shards (for an exact resume while the corpus
        still grows); all that are there if None.

    Raises:
      DataError: if the folder is no corpus, or has fewer shards.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        segment_seconds: float = 2.048,
        seed: int = 0,
        mix: float = 0.2,
        augmentation: AugmentationConfig | None = _DEFAULT_AUGMENTATION,
        num_shards: int | None = None,
    ):
        self.folder = Path(folder)
        self.config = corpus.read_config(folder)
        self.seed = seed
        self.mix = mix
        self.kinds = tuple(sorted(self.config.mixture))
        self.sample_rate = self.config.sample_rate
        self.num_samples = int(round(segment_seconds * self.sample_rate))
        self.segment_seconds = self.num_samples / self.sample_rate
        if segment_seconds > self.config.clip_seconds:
            raise DataError(
                f"{folder}: segments of {segment_seconds} s do not fit into clips of "
                f"{self.config.clip_seconds} s."
            )
        self._augment = None
        if augmentation is not None:
            self._augment = augmentation.augmenter(
                self.num_samples, sample_rate=self.sample_rate, seed=seed
            )
        self.num_shards = 0
        self.refresh(num_shards)

    def refresh(self, num_shards: int | None = None) -> int:
        """Takes up shards that were finished since; returns how many are in use."""
        folders = corpus.shard_folders(self.folder)
        if num_shards is not None:
            if len(folders) < num_shards:
                raise DataError(
                    f"{self.folder}: {num_shards} shards were asked for, "
                    f"{len(folders)} are there."
                )
            folders = folders[:num_shards]
        if not folders:
            raise DataError(f"{self.folder}: the corpus has no finished shard yet.")
        if len(folders) == self.num_shards:
            return self.num_shards
        self._audio = [np.load(f / "audio.npy", mmap_mode="r") for f in folders]
        self._notes = [np.load(f / "notes.npy") for f in folders]
        self._offsets = [np.load(f / "offsets.npy") for f in folders]
        clips = [np.load(f / "clips.npy") for f in folders]
        sizes = [len(c) for c in clips]
        self._clips = np.concatenate(clips)
        self._shard_of = np.repeat(np.arange(len(folders)), sizes)
        self._place_of = np.concatenate([np.arange(size) for size in sizes])
        self._eligible: dict[tuple, np.ndarray] = {}
        self.num_shards = len(folders)
        return self.num_shards

    @property
    def num_clips(self) -> int:
        """The clips in use."""
        return len(self._clips)

    def example(
        self,
        index: int,
        *,
        max_notes_per_second: float | None = None,
        max_parts: int | None = None,
        kinds: Collection[str] | None = None,
    ) -> Example:
        """Returns an example; a function of the seed, the index and the arguments.

        Args:
          index: 0 or greater.
          max_notes_per_second: only clips with at most so many notes per second on
            average, and no mixing beyond it: an easy beginning for a curriculum.
          max_parts: only clips in which at most so many programs play (drums count
            as one); the same for mixing.
          kinds: only clips of these kinds (`recipes.KINDS`).

        Raises:
          DataError: if no clip fits the limits.
        """
        rng = np.random.default_rng([self.seed, index])
        limits = (
            max_notes_per_second,
            max_parts,
            None if kinds is None else tuple(sorted(kinds)),
        )
        eligible = self._find_eligible(limits)
        clip = int(eligible[int(rng.integers(len(eligible)))])
        audio, notes = self._cut(rng, clip)
        used = [clip]
        for _ in range(MOST_CLIPS - 1):
            if rng.random() >= self.mix:
                break
            other = int(eligible[int(rng.integers(len(eligible)))])
            more, more_notes = self._cut(rng, other)
            if self._may_mix([*used, other], notes, more_notes, limits):
                gain = np.float32(10 ** (rng.uniform(-9, 3) / 20))
                audio += gain * more
                notes = note_arrays.sort(np.concatenate([notes, more_notes]))
                used.append(other)
        samples = audio if self._augment is None else self._augment(rng, audio)
        names = tuple(self.kinds[self._clips["kind"][i]] for i in used)
        return Example(samples, notes, names)

    def _find_eligible(self, limits: tuple) -> np.ndarray:
        if limits not in self._eligible:
            max_notes_per_second, max_parts, kinds = limits
            fits = np.ones(len(self._clips), bool)
            if max_notes_per_second is not None:
                fits &= self._clips["notes_per_second"] <= max_notes_per_second
            if max_parts is not None:
                fits &= self._clips["parts"] <= max_parts
            if kinds is not None:
                for kind in kinds:
                    if kind not in self.kinds:
                        raise DataError(
                            f"{self.folder}: the corpus has no clips of kind {kind!r}."
                            f"{near_misses(kind, self.kinds)}"
                        )
                fits &= np.isin(
                    self._clips["kind"], [self.kinds.index(kind) for kind in kinds]
                )
            if not fits.any():
                raise DataError(
                    f"{self.folder}: none of {len(fits)} clips has at most "
                    f"{max_notes_per_second} notes a second and {max_parts} programs, "
                    f"of the kinds {kinds or self.kinds}."
                )
            self._eligible[limits] = np.flatnonzero(fits)
        return self._eligible[limits]

    def _cut(
        self, rng: np.random.Generator, clip: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns [history + samples] of audio and the notes of a random segment."""
        shard, place = int(self._shard_of[clip]), int(self._place_of[clip])
        whole = self._audio[shard][place]
        start = int(rng.integers(len(whole) - self.num_samples + 1))
        audio = np.zeros(HISTORY_SAMPLES + self.num_samples, np.float32)
        before = min(start, HISTORY_SAMPLES)
        audio[HISTORY_SAMPLES - before :] = whole[
            start - before : start + self.num_samples
        ]
        audio *= np.float32(1 / 32768)
        first, last = self._offsets[shard][place : place + 2]
        seconds = start / self.sample_rate
        notes = note_arrays.window(
            self._notes[shard][first:last], seconds, seconds + self.segment_seconds
        )
        return audio, notes

    def _may_mix(
        self,
        clips: list[int],
        notes: np.ndarray,
        more_notes: np.ndarray,
        limits: tuple,
    ) -> bool:
        """Clips must not hold the same (program, pitch), nor break the limits."""
        max_notes_per_second, max_parts, _ = limits
        mixed = self._clips[clips]
        rate = float(mixed["notes_per_second"].sum())
        if max_notes_per_second is not None and rate > max_notes_per_second:
            return False
        if max_parts is not None and int(mixed["parts"].sum(dtype=int)) > max_parts:
            return False
        keys = note_arrays.part_keys(notes) * 128 + notes["pitch"]
        more_keys = note_arrays.part_keys(more_notes) * 128 + more_notes["pitch"]
        return len(set(clips)) == len(clips) and not np.isin(keys, more_keys).any()
