"""Training on a corpus that is still being rendered.

The engine's own `synthetic_data.Corpus` keeps to the shards that were there at the
start, and a run that is resumed to those it had, so that batches repeat exactly. A
piece of training has a corpus of its own instead, and takes up shards as they come.
The batch's number goes on from piece to piece; which segments it has does not repeat.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.engine.synthetic_data import Corpus, SegmentBatches
from mt3.engine.utils import DatasetConfig
from mt3.synthesis import corpus

# New shards mean opening all of them again, so they are taken up seldom.
_SECONDS_BETWEEN_LOOKS = 5.0
_LEAST_GROWTH = 1.1


class GrowingCorpus:
    """A `get_dataset_fn` around `synthetic_data.Corpus`."""

    uses_feature_converter = False

    def __init__(self, dataset: Corpus, folder: str):
        """Wraps a corpus.

        Args:
          dataset: the corpus as the gin file configures it.
          folder: the corpus's folder.
        """
        self.model_config = dataset.model_config
        self._dataset = dataset
        self._folder = folder

    def __call__(self, cfg: DatasetConfig, *args: Any, **options: Any) -> Any:
        """Returns the batches of a dataset configuration; evaluation's do not grow."""
        batches = self._dataset(cfg, *args, **options)
        if cfg.split != "train":
            return batches
        return GrowingBatches(batches, self._folder)


class GrowingBatches:
    """Batches by their number, of the shards that are there when they are asked for."""

    def __init__(self, batches: SegmentBatches, folder: str):
        self._batches = batches
        self._folder = folder
        self._shards = len(corpus.shard_folders(folder))
        self._next_look = 0.0

    @property
    def pool(self) -> int:
        """Batches that are best drawn by one process, one after the other."""
        return self._batches.pool

    def settings(self) -> dict[str, Any]:
        """Returns nothing: the next piece has another corpus."""
        return {}

    def apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Leaves the number of shards as it is."""

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """Returns batch `index` of what is there."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _SECONDS_BETWEEN_LOOKS
            found = len(corpus.shard_folders(self._folder))
            if found >= self._shards * _LEAST_GROWTH:
                self._shards = found
                self._batches.apply_settings({"num_shards": found})
        return self._batches.batch(index)
