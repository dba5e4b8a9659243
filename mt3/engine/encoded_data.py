"""Encoder outputs of training segments, computed once and kept in files.

A run that trains the decoder alone (`gin/decoder.gin`) needs the outputs of an encoder
that does not change: a step then costs the decoder's work only. `EncodedCorpus` is
bound in gin as `train.get_dataset_fn`. Before the first step it computes the files that
are missing from its folder:

    train.json                what the outputs were computed from
    train_00000.encoded.npy   float16 [segments, frames, emb_dim], to be memory-mapped
    train_00000.tokens.npy    int16 [segments, targets_length], 0 for padding

and the same for other splits. A file is written completely or not at all, and is a
function of the encoder, the seed, its number and the source of segments, so computing
continues where it was stopped. Training visits all segments in a new order in each
pass; evaluation takes them in the order of the files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mt3.beyond.decoder_model import DecoderModel
from mt3.engine.synthetic_data import SegmentBatches
from mt3.engine.utils import DatasetConfig
from mt3.errors import DataError
from mt3.files import atomic_file

_LOG = logging.getLogger("mt3")
# About 25 MB with 200 frames of 256 features.
_SEGMENTS_PER_FILE = 256


@dataclasses.dataclass(frozen=True)
class EncodedCorpus:
    """Stored encoder outputs with their tokens, as `train.get_dataset_fn`.

    Attributes:
      model: its encoder hears the segments.
      source: makes the training segments (`synthetic_data.Corpus` with `on_device`).
      evaluation_source: makes the segments of other splits.
      folder: of the files.
      segments: number of training segments, rounded up to whole files.
      evaluation_segments: the same for every other split.
      length_multiple: see `synthetic_data.SegmentBatches`.
      pool: see `synthetic_data.SegmentBatches`.
    """

    uses_feature_converter = False

    model: DecoderModel
    source: Callable[..., SegmentBatches]
    evaluation_source: Callable[..., SegmentBatches]
    folder: str
    segments: int
    evaluation_segments: int
    length_multiple: int = 64
    pool: int = 8

    @property
    def model_config(self):
        """The model's configuration."""
        return self.model.config

    def __call__(self, cfg: DatasetConfig, *_: Any, **__: Any) -> EncodedBatches:
        """Computes what is missing; returns the batches.

        Raises:
          ConfigError: settings that do not fit the model, as the source says.
          DataError: the folder holds outputs of another encoder or other segments.
          OutputError: the folder cannot be written to.
        """
        training = cfg.split == "train"
        source = (self.source if training else self.evaluation_source)(cfg)
        wanted = self.segments if training else self.evaluation_segments
        batches_per_file = max(_SEGMENTS_PER_FILE // cfg.batch_size, 1)
        files = -(-wanted // (batches_per_file * cfg.batch_size))
        stems = [Path(self.folder) / f"{cfg.split}_{i:05d}" for i in range(files)]
        self._compute(source, cfg, stems, batches_per_file)
        return EncodedBatches(
            stems,
            cfg.batch_size,
            seed=cfg.seed if training else None,
            length_multiple=self.length_multiple,
            pool=self.pool if training else 1,
        )

    def _compute(
        self,
        source: SegmentBatches,
        cfg: DatasetConfig,
        stems: list[Path],
        batches_per_file: int,
    ) -> None:
        """Writes the files that are missing."""
        length = self.model_config.targets_length
        shapes = {"decoder_input_tokens": (1, length)}
        variables = self.model.get_initial_variables(jax.random.PRNGKey(0), shapes)
        params = variables["params"]
        self._check_origin(params["encoder"], cfg)
        missing = [stem for stem in stems if not _path(stem, "encoded").exists()]
        encode = jax.jit(self.model.encode)
        rng = jax.random.PRNGKey(cfg.seed) if cfg.split == "train" else None
        for stem in missing:
            encoded, tokens = [], []
            first = stems.index(stem) * batches_per_file
            for index in range(first, first + batches_per_file):
                batch = source.batch(index)
                targets = batch.pop("decoder_target_tokens")
                heard = {k: v for k, v in batch.items() if not k.startswith("decoder_")}
                key = None if rng is None else jax.random.fold_in(rng, index)
                encoded.append(np.asarray(encode(params, heard, key), np.float16))
                tokens.append(np.pad(targets, ((0, 0), (0, length - targets.shape[1]))))
            # A file of outputs says that its file of tokens is there, too.
            _save(_path(stem, "tokens"), np.concatenate(tokens).astype(np.int16))
            _save(_path(stem, "encoded"), np.concatenate(encoded))
            _LOG.info("%s: outputs of the encoder written", stem)

    def _check_origin(self, encoder: Any, cfg: DatasetConfig) -> None:
        """Compares what the files were computed from, or writes it down."""
        checksum = 0
        for leaf in jax.tree.leaves(encoder):
            checksum = zlib.crc32(np.asarray(leaf, np.float32).tobytes(), checksum)
        wanted = {
            "encoder": f"{checksum:08x}",
            "seed": cfg.seed,
            "batch_size": cfg.batch_size,
            "config": self.model_config.to_dict(),
        }
        path = Path(self.folder) / f"{cfg.split}.json"
        text = json.dumps(wanted, indent=1)
        if not path.exists():
            with atomic_file(path) as file:
                file.write(text.encode())
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not JSON: {error}") from error
        wanted = json.loads(text)
        if found != wanted:
            names = [name for name in wanted if found.get(name) != wanted[name]]
            raise DataError(
                f"{path}: the encoder outputs in this folder belong to another "
                f"{' and '.join(names)}; expected that of the model and the settings: "
                "use another folder"
            )


class EncodedBatches:
    """Batches of stored encoder outputs, as a function of their number."""

    def __init__(
        self,
        stems: list[Path],
        batch_size: int,
        *,
        seed: int | None,
        length_multiple: int,
        pool: int,
    ):
        """Opens the files.

        Args:
          stems: their paths, without what follows the number.
          batch_size: segments in a batch.
          seed: of the order; None for that of the files.
          length_multiple: see `synthetic_data.SegmentBatches`.
          pool: see `synthetic_data.SegmentBatches`.
        """
        self._tokens = np.concatenate([np.load(_path(s, "tokens")) for s in stems])
        self._encoded = [np.load(_path(s, "encoded"), mmap_mode="r") for s in stems]
        self._batch_size = batch_size
        self._seed = seed
        self._multiple = length_multiple
        self._pool = pool
        self._pass: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """Returns batch `index`.

        Returns:
          encoded float16 [B, T, D]; decoder_target_tokens and decoder_input_tokens
          int32 [B, L], where L fits the longest, and decoder_loss_weights float32
          [B, L].
        """
        number, place = divmod(index, len(self._tokens) // self._batch_size)
        if self._pass[0] != number:
            self._pass = (number, self._draw_order(number))
        rows = self._pass[1][place]
        longest = int((self._tokens[rows] > 0).sum(axis=1).max())
        length = -(-longest // self._multiple) * self._multiple
        targets = self._tokens[rows, :length].astype(np.int32)
        per_file = len(self._encoded[0])
        return {
            "encoded": np.stack(
                [self._encoded[row // per_file][row % per_file] for row in rows]
            ),
            "decoder_target_tokens": targets,
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }

    def _draw_order(self, number: int) -> list[np.ndarray]:
        """Returns the segments of each batch of a pass."""
        size = self._batch_size
        segments = np.arange(len(self._tokens))
        if self._seed is None:
            return np.split(segments, len(segments) // size)
        rng = np.random.default_rng([self._seed, number])
        rng.shuffle(segments)
        lengths = (self._tokens > 0).sum(axis=1)
        batches = []
        for first in range(0, len(segments), self._pool * size):
            part = segments[first : first + self._pool * size]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += np.split(part, len(part) // size)
        return [batches[i] for i in rng.permutation(len(batches))]


def _path(stem: Path, name: str) -> Path:
    return stem.parent / f"{stem.name}.{name}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as file:
        np.save(file, array)
