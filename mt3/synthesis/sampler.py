"""Training segments from a corpus of rendered clips.

`ClipSampler.example(index)` depends only on the seed, the index and the shards in use.
A run that was stopped resumes with the next index, and several processes share the work
by taking different indices.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection

import numpy as np

from mt3.errors import DataError, near_misses
from mt3.midi import note_arrays
from mt3.synthesis import corpus
from mt3.synthesis.augmentation import HISTORY_SAMPLES, AugmentationConfig, Augmenter

MOST_CLIPS = 4


@dataclasses.dataclass(frozen=True)
class Example:
    """A training segment.

    Attributes:
      samples: float32 [samples], within -1..1.
      notes: NOTE_DTYPE [n], times in seconds from the end of the context before the
        segment. Notes that sound at the start keep their true start time, and notes
        that sound at the end their true end.
      kinds: kind of each clip in the mix.
    """

    samples: np.ndarray
    notes: np.ndarray
    kinds: tuple[str, ...]


@dataclasses.dataclass
class ClipSampler:
    """Cuts, mixes and augments random segments of a corpus.

    It opens the files when the first example is asked for, and is sent to other
    processes as its settings alone.

    Attributes:
      folder: a corpus made by `corpus.build_corpus`.
      segment_seconds: length of a segment (256 frames of 8 ms: 2.048), context
        included.
      context_seconds: how much of that at the beginning, and at the end, is context.
      seed: examples are a function of it and of their index.
      mix: chance that another clip is added, and after that another, up to
        `MOST_CLIPS`.
      augmentation: how audio is changed. None: not at all, and examples have
        `HISTORY_SAMPLES` more samples at their beginning.
      num_shards: number of shards in use, from the first on; None is replaced by the
        number of those that are finished.

    Raises:
      DataError: if the folder is not a corpus, has fewer shards, or its clips are
        shorter than a segment.
    """

    folder: str | os.PathLike
    _: dataclasses.KW_ONLY
    segment_seconds: float = 2.048
    context_seconds: float = 0.0
    seed: int = 0
    mix: float = 0.2
    augmentation: AugmentationConfig | None = AugmentationConfig()
    num_shards: int | None = None

    def __post_init__(self):
        config = corpus.read_config(self.folder)
        found = len(corpus.shard_folders(self.folder))
        wanted = found if self.num_shards is None else self.num_shards
        if found < wanted:
            raise DataError(
                f"{self.folder}: {wanted} shards were asked for, {found} exist."
            )
        if not wanted:
            raise DataError(f"{self.folder}: the corpus has no finished shard yet.")
        if self.segment_seconds > config.clip_seconds:
            raise DataError(
                f"{self.folder}: segments of {self.segment_seconds} s do not fit into "
                f"clips of {config.clip_seconds} s."
            )
        self.num_shards = wanted
        self.kinds = tuple(sorted(config.mixture))
        self.sample_rate = config.sample_rate
        self.num_samples = int(round(self.segment_seconds * config.sample_rate))
        self._eligible: dict[tuple, np.ndarray] = {}

    def __reduce__(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return functools.partial(ClipSampler, **fields), ()

    @functools.cached_property
    def _shards(self) -> list[dict[str, np.ndarray]]:
        """The arrays of each shard; audio is memory-mapped."""
        modes = {"audio": "r", "notes": None, "offsets": None, "clips": None}
        return [
            {name: np.load(folder / f"{name}.npy", modes[name]) for name in modes}
            for folder in corpus.shard_folders(self.folder)[: self.num_shards]
        ]

    @functools.cached_property
    def _clips(self) -> np.ndarray:
        """What is known about each clip, CLIP_DTYPE [clips]."""
        return np.concatenate([shard["clips"] for shard in self._shards])

    @functools.cached_property
    def _places(self) -> list[tuple[dict[str, np.ndarray], int]]:
        """The shard of each clip and its place there."""
        return [
            (shard, place)
            for shard in self._shards
            for place in range(len(shard["clips"]))
        ]

    @functools.cached_property
    def _augmenter(self) -> Augmenter:
        return self.augmentation.augmenter(
            self.num_samples, sample_rate=self.sample_rate, seed=self.seed
        )

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
          max_notes_per_second: the most notes per second on average, of a clip and
            of a mix: an easy beginning for a curriculum.
          max_parts: the most programs (drums count as one), of a clip and of a mix.
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
        samples = audio if self.augmentation is None else self._augmenter(rng, audio)
        names = tuple(self.kinds[self._clips["kind"][i]] for i in used)
        return Example(samples, notes, names)

    def _find_eligible(self, limits: tuple) -> np.ndarray:
        """Returns the numbers of the clips within the limits."""
        if limits in self._eligible:
            return self._eligible[limits]
        max_notes_per_second, max_parts, kinds = limits
        fits = np.ones(len(self._clips), bool)
        if max_notes_per_second is not None:
            fits &= self._clips["notes_per_second"] <= max_notes_per_second
        if max_parts is not None:
            fits &= self._clips["parts"] <= max_parts
        for kind in kinds or ():
            if kind not in self.kinds:
                raise DataError(
                    f"{self.folder}: the corpus has no clips of kind {kind!r}."
                    f"{near_misses(kind, self.kinds)}"
                )
        if kinds is not None:
            numbers = [self.kinds.index(kind) for kind in kinds]
            fits &= np.isin(self._clips["kind"], numbers)
        if not fits.any():
            raise DataError(
                f"{self.folder}: none of {len(fits)} clips has at most "
                f"{max_notes_per_second} notes a second and {max_parts} programs, "
                f"of the kinds {kinds or self.kinds}."
            )
        return self._eligible.setdefault(limits, np.flatnonzero(fits))

    def _cut(
        self, rng: np.random.Generator, clip: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns [history + samples] of audio and the notes of a random segment."""
        shard, place = self._places[clip]
        whole = shard["audio"][place]
        start = int(rng.integers(len(whole) - self.num_samples + 1))
        audio = np.zeros(HISTORY_SAMPLES + self.num_samples, np.float32)
        before = min(start, HISTORY_SAMPLES)
        audio[HISTORY_SAMPLES - before :] = whole[
            start - before : start + self.num_samples
        ]
        audio *= np.float32(1 / 32768)
        first, last = shard["offsets"][place : place + 2]
        begin = start / self.sample_rate
        end = begin + self.num_samples / self.sample_rate
        notes = note_arrays.window(shard["notes"][first:last], begin, end)
        notes["start_time"] -= self.context_seconds
        notes["end_time"] -= self.context_seconds
        return audio, notes

    def _may_mix(
        self,
        clips: list[int],
        notes: np.ndarray,
        more_notes: np.ndarray,
        limits: tuple,
    ) -> bool:
        """Clips may not share a (program, pitch), nor exceed the limits together."""
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
