"""Predictions and scores of many examples, in whatever order they finish.

Examples come with their number, and results are returned with it, as seqio's
evaluator wants them. On one device, MT3's model decodes them as a stream of segments
(`decoding.SegmentDecoder`), in which nothing waits for the slowest; the tokens are
the ones `predict_batch` gives. Otherwise batches go through the model's own methods,
compiled once and split over the devices; the last batch is padded with copies of an
example, whose results are dropped.

Differences from T5X's `get_infer_fn`:

1. The model gets no key: strategies that draw at random have their own seed.
2. Results are NumPy arrays, not lists of numbers.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mt3 import decoding, models, network
from mt3.decoding.stream import default_num_slots
from mt3.engine.partitioning import PjitPartitioner
from mt3.errors import ConfigError, near_misses

Example = tuple[int, Mapping[str, np.ndarray]]
Numbered = list[tuple[int, Any]]

# Mode of inference -> the model's method.
METHODS = {
    "predict": "predict_batch",
    "predict_with_aux": "predict_batch_with_aux",
    "score": "score_batch",
}
_BATCHES_IN_FLIGHT = 2


class Predictor:
    """Runs one model; its weights can be exchanged."""

    def __init__(
        self,
        model: Any,
        partitioner: PjitPartitioner,
        param_shardings: Any,
        batch_size: int,
    ):
        """Sets up the functions (compiled at their first call).

        Args:
          model: offers the methods in `METHODS`.
          partitioner: the devices.
          param_shardings: one sharding per parameter.
          batch_size: examples that are decoded or scored at once.
        """
        self._model = model
        self._partitioner = partitioner
        self._param_shardings = param_shardings
        self._batch_size = batch_size
        self._compiled: dict[str, Any] = {}
        self.streams = partitioner.mesh.size == 1 and _decodes_as_published(model)

    def run(
        self, mode: str, params: Any, examples: Iterable[Example]
    ) -> Numbered | tuple[Numbered, dict[str, list[Any]]]:
        """Computes the results of one pass over examples.

        Args:
          mode: 'predict', 'predict_with_aux' or 'score'.
          params: placed as `param_shardings` says.
          examples: (number, model features without a batch axis) pairs.

        Returns:
          (number, result) pairs, results being int32 [L] ids, 0 after EOS, or a
          float score; with auxiliary values also name -> list, in the same order.

        Raises:
          ConfigError: another mode.
        """
        if mode not in METHODS:
            raise ConfigError(
                f"mode {mode!r} is unknown.{near_misses(str(mode), METHODS)}"
            )
        if mode != "score" and self.streams:
            return self._stream(params, examples, with_aux=mode != "predict")
        numbers: list[int] = []
        parts: list[Any] = []
        for batch_numbers, result in self._batches(mode, params, examples):
            numbers += batch_numbers
            parts.append(result)
        if not parts:
            return ([], {}) if mode == "predict_with_aux" else []
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        if isinstance(joined, tuple):
            outputs, aux = joined
            return (
                list(zip(numbers, outputs, strict=True)),
                jax.tree.map(list, aux),
            )
        return list(zip(numbers, joined, strict=True))

    def _stream(
        self, params: Any, examples: Iterable[Example], *, with_aux: bool
    ) -> Any:
        examples = iter(examples)
        first = next(examples, None)
        if first is None:
            return ([], {}) if with_aux else []
        length = first[1]["decoder_input_tokens"].shape[0]
        options = decoding.DecodeOptions(
            strategy=self._model.decoding_strategy(),
            max_length=length,
            num_slots=min(self._batch_size, default_num_slots()),
        )
        decoder = decoding.SegmentDecoder(params, self._model.module.config, options)
        segments = (
            (number, features["encoder_input_tokens"])
            for number, features in itertools.chain([first], examples)
        )
        outputs, scores = [], []
        for result in decoder.run(segments):
            ids = np.zeros(length, np.int32)
            ids[: len(result.ids)] = result.ids
            outputs.append((result.key, ids))
            scores.append(np.float32(result.score))
        return (outputs, {"scores": scores}) if with_aux else outputs

    def _batches(
        self, mode: str, params: Any, examples: Iterable[Example]
    ) -> Iterator[tuple[list[int], Any]]:
        """Yields (numbers, results on the host) of batch after batch."""
        step = self._step(mode)
        pending: collections.deque[tuple[list[int], Any]] = collections.deque()

        def oldest():
            numbers, result = pending.popleft()
            host = jax.device_get(result)
            return numbers, jax.tree.map(lambda leaf: leaf[: len(numbers)], host)

        for group in _groups(examples, self._batch_size):
            numbers = [number for number, _ in group]
            rows = [features for _, features in group]
            rows += rows[:1] * (self._batch_size - len(rows))
            batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            pending.append((numbers, step(params, self._partitioner.put_batch(batch))))
            if len(pending) >= _BATCHES_IN_FLIGHT:
                yield oldest()
        while pending:
            yield oldest()

    def _step(self, mode: str) -> Any:
        if mode not in self._compiled:
            method = getattr(self._model, METHODS[mode])
            self._compiled[mode] = self._partitioner.partition(
                lambda params, batch: method(params, batch),
                in_shardings=(self._param_shardings, self._partitioner.batch_sharding),
                out_shardings=self._partitioner.replicated,
            )
        return self._compiled[mode]


def _groups(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    examples = iter(examples)
    while group := list(itertools.islice(examples, size)):
        yield group


def _decodes_as_published(model: Any) -> bool:
    """Whether the model's predictions are those of `decoding` with its settings."""
    base = models.ContinuousInputsEncoderDecoderModel
    return (
        isinstance(model, base)
        and all(
            getattr(type(model), METHODS[mode]) is getattr(base, METHODS[mode])
            for mode in ("predict", "predict_with_aux")
        )
        and isinstance(getattr(model.module, "config", None), network.T5Config)
        and model.decoding_strategy() is not None
    )
