"""Training batches from prepared recordings, for models with training aids.

The tasks of `mt3.tasks` give a model frames and tokens. `beyond.guided` also learns
from the notes themselves, with their velocities; `Recordings` gives it those, and
samples, of a data set that `mt3 prepare` wrote. It is bound in gin as
`train.get_dataset_fn = @recorded_data.Recordings()`.

A split's recordings are kept in memory as 16-bit samples, 115 MB an hour. A batch is a
function of (seed, split, number) alone; see `synthetic_data`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from mt3 import datasets
from mt3.configs import ModelConfig
from mt3.data import adapters, records, tfrecords
from mt3.engine.synthetic_data import SegmentBatches, check_lengths
from mt3.engine.utils import DatasetConfig
from mt3.errors import ConfigError, DataError
from mt3.midi import note_arrays
from mt3.note_sequences import NOTE_DTYPE
from mt3.synthesis.augmentation import HISTORY_SAMPLES


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Random segments of a data set's recordings.

    Attributes:
      model_config: sizes, tokens and spectrogram.
      data_set: its name, as `mt3 prepare` gave it.
      data_root: the folder that `mt3 prepare` filled; None for `MT3_DATA_DIR`.
      length_multiple: see `SegmentBatches`.
      pool: see `SegmentBatches`.
    """

    uses_feature_converter = False

    model_config: ModelConfig
    data_set: str
    data_root: str | None = None
    length_multiple: int | None = None
    pool: int = 1

    def __call__(self, cfg: DatasetConfig, *_: Any, **__: Any) -> SegmentBatches:
        """Returns the batches; the shard and the converter of T5X have no meaning.

        Raises:
          ConfigError: no such data set, or it has nothing to evaluate on.
          DataError: records are missing or damaged.
        """
        check_lengths(cfg, self.model_config)
        root = datasets.resolve_root(self.data_root)
        data_set = datasets.choose([self.data_set], root)[self.data_set]
        training = cfg.split == "train"
        split = data_set.train_split if training else data_set.train_eval_split
        if split is None:
            raise ConfigError(
                f"data set {self.data_set!r} has no split to "
                f"{'train' if training else 'evaluate'} on; found "
                f"{', '.join(data_set.splits)}"
            )
        sample_rate = self.model_config.spectrogram.sample_rate
        return SegmentBatches(
            RecordedSegments(
                self.model_config, read_songs(data_set, split, root, sample_rate)
            ),
            self.model_config,
            cfg.batch_size,
            cfg.seed,
            cfg.split,
            on_device=True,
            length_multiple=self.length_multiple,
            pool=self.pool,
        )


@dataclasses.dataclass(frozen=True)
class RecordedSegments:
    """Segments that begin at any sample of any recording, equally often.

    Attributes:
      model_config: length of a segment and its context.
      songs: (samples int16 [n], notes NOTE_DTYPE [n]) of each recording.
    """

    model_config: ModelConfig
    songs: list[tuple[np.ndarray, np.ndarray]]

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Where each recording would end if all were laid end to end."""
        return np.cumsum([len(samples) for samples, _ in self.songs])

    def segment(self, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (samples, notes); see `SegmentFunction`.

        Samples begin `HISTORY_SAMPLES` earlier. Outside the recording there is silence;
        a recording's beginning is drawn more often, with the silence before it.
        """
        config = self.model_config
        rng = np.random.default_rng(key)
        place = int(rng.integers(self._ends[-1]))
        samples, notes = self.songs[int(np.searchsorted(self._ends, place, "right"))]
        latest = max(len(samples) - config.segment_samples, 0) + config.context_samples
        start = max(int(rng.integers(-config.context_samples, latest + 1)), 0)
        first = start - config.context_samples
        segment = _cut(
            samples, first - HISTORY_SAMPLES, HISTORY_SAMPLES + config.input_samples
        )
        rate = config.spectrogram.sample_rate
        window = note_arrays.window(
            notes, first / rate, (first + config.input_samples) / rate
        )
        window["start_time"] -= config.context_seconds
        window["end_time"] -= config.context_seconds
        return segment.astype(np.float32) / 32768.0, window


def read_songs(
    data_set: datasets.DatasetConfig, split: str, root: str | None, sample_rate: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reads all recordings of a split.

    Args:
      data_set: what to read.
      split: which part of it.
      root: the data root.
      sample_rate: Hz.

    Returns:
      (samples int16 [n], notes NOTE_DTYPE [n]) of each. Where all pitched notes of a
      recording have one velocity, or all its drums have, nobody wrote it down: it is 0.

    Raises:
      DataError: files are missing, a record is damaged, or there is none.
    """
    songs = []
    adapter = adapters.of(data_set)
    for path in datasets.files(data_set, split, root):
        for span in tfrecords.scan(path):
            name = f"{path}#{span.index}"
            payload = tfrecords.read_payload(path, span)
            parsed = records.parse(payload, data_set.features, name)
            record = {key: value.numpy() for key, value in parsed.items()}
            song = adapter(
                {**record, records.RECORD: name.encode()},
                sample_rate=sample_rate,
                training=True,
            )
            audio = song.audio
            if audio.dtype != np.int16:
                audio = np.round(np.clip(audio, -1.0, 1.0) * 32767).astype(np.int16)
            songs.append((audio, _with_known_velocities(song.note_array)))
    if not songs:
        raise DataError(
            f"data set {data_set.name!r}, split {split!r}: not a single recording"
        )
    return songs


def _with_known_velocities(notes: np.ndarray) -> np.ndarray:
    notes = notes.astype(NOTE_DTYPE)
    for drums in (False, True):
        chosen = notes["is_drum"] == drums
        if len(np.unique(notes["velocity"][chosen])) < 2:
            notes["velocity"][chosen] = 0
    return notes


def _cut(samples: np.ndarray, first: int, length: int) -> np.ndarray:
    """Returns samples [first, first + length), silence outside the recording."""
    inside = samples[max(first, 0) : max(first + length, 0)]
    before = min(max(-first, 0), length)
    return np.pad(inside, (before, length - before - len(inside)))
