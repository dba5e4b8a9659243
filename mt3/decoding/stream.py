"""Decodes any number of segments through a fixed number of slots.

Segments are pulled from an iterable, encoded in small batches, and put into free slots.
A finished segment leaves its slot to the next one, so nothing waits for the slowest
segment. Look-ahead is bounded: besides the segments in slots, at most one encoder batch
waits. Memory does not grow with the number of segments.

There are few shapes, and therefore few programs to compile or to load. The
self-attention cache has one of `DecodeOptions.cache_sizes`, as the longest running
segment needs it. The number of slots is `num_slots`; for large networks a half, a
quarter, ... of it if there are fewer segments, or once the last ones end.

What goes through the other slots, their order and the number of threads change no bit
of a segment's logits: in a matrix product each row is summed in an order of its own,
which depends on the shapes alone. Another number of slots is another shape, and may
change last bits (`benchmarks/determinism.py` measures it). Least alike is a product
with a single row, which XLA hands to other code, so there are two slots at least.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mt3 import network
from mt3.decoding.filters import LogitFilter
from mt3.decoding.steps import Carry, KeysValues, Program, Spec
from mt3.decoding.strategies import Beam, Strategy
from mt3.errors import ConfigError, ShapeError
from mt3.vocabularies import EOS_ID

# A matrix times a vector is summed in another order than a matrix times two.
_LEAST_SLOTS = 2
# Below this many slots a step costs the same (it is bound by reading parameters).
_FEWEST_SLOTS = 4


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """How to decode.

    Attributes:
      strategy: `Beam()` is what the released models are decoded with.
      max_length: most tokens a segment may have, EOS included.
      num_slots: segments in flight, at least two; `None` is 16 on CPU and 128 on
        accelerators.
      cache_sizes: lengths of the self-attention cache, rising; those below
        `max_length` count, and `max_length` itself. `None` follows the network's size,
        see `default_cache_sizes`.
      shrink: use fewer slots when there are, or are left, fewer segments; `None` does
        so for large networks only.
      steps_per_dispatch: most decoding steps before the host looks again.
      encode_batch: segments that are encoded together.
      dtype: computation type; `None` is the model's.
      filters: rules about the next token, in the order in which they are applied.

    Raises:
      ConfigError: a number below 1, or cache sizes that do not rise.
    """

    strategy: Strategy = Beam()
    max_length: int = 1024
    num_slots: int | None = None
    cache_sizes: tuple[int, ...] | None = None
    shrink: bool | None = None
    steps_per_dispatch: int = 128
    encode_batch: int = 8
    dtype: str | None = None
    filters: tuple[LogitFilter, ...] = ()

    def __post_init__(self):
        for name in ("max_length", "num_slots", "steps_per_dispatch", "encode_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"decoding: {name} is {value}; expected at least 1")
        if self.cache_sizes is None:
            return
        object.__setattr__(self, "cache_sizes", tuple(self.cache_sizes))
        rising = sorted(set(self.cache_sizes))
        if list(self.cache_sizes) != rising or (rising and rising[0] < 1):
            raise ConfigError(
                f"decoding: cache_sizes are {self.cache_sizes}; expected positive "
                "lengths in rising order"
            )


def usable_cache_sizes(sizes: Iterable[int], max_length: int) -> tuple[int, ...]:
    """Returns the sizes below `max_length`, and `max_length`."""
    return (*(size for size in sizes if size < max_length), max_length)


class Result(NamedTuple):
    """What was decoded from one segment.

    Attributes:
      key: the segment's key, as it was handed in.
      ids: vocabulary ids, int32 [n]; EOS is the last unless `max_length` came first.
      score: as the strategy defines it; higher is better.
      steps: decoding steps that the segment took.
    """

    key: Hashable
    ids: np.ndarray
    score: float
    steps: int


class _Segment(NamedTuple):
    """A segment that is encoded, or in a slot."""

    serial: int
    key: Hashable
    cross: KeysValues | None  # of its whole encoder batch
    row: int


class SegmentDecoder:
    """Decodes segments of one model; keep it, since it holds the parameters."""

    def __init__(
        self,
        params: Mapping[str, Any],
        config: network.T5Config,
        options: DecodeOptions | None = None,
    ):
        """Arranges the parameters for decoding.

        Args:
          params: nested dict as in T5X checkpoints, `encoder` and `decoder`.
          config: sizes of the network.
          options: how to decode; the defaults if `None`.

        Raises:
          CheckpointError: a layer is missing.
          ShapeError: `max_length` is more than the network has positions.
        """
        self.options = options or DecodeOptions()
        if self.options.dtype is not None:
            config = dataclasses.replace(config, dtype=self.options.dtype)
        self.config = config
        self.program = Program(
            params,
            Spec(
                config,
                self.options.strategy,
                tuple(self.options.filters),
                self.options.max_length,
            ),
        )
        slots = self.options.num_slots or default_num_slots()
        self.num_slots = max(slots, _LEAST_SLOTS)
        sizes = self.options.cache_sizes
        self.cache_sizes = usable_cache_sizes(
            default_cache_sizes(config) if sizes is None else sizes,
            self.options.max_length,
        )
        shrink = self.options.shrink
        self.shrink = is_large(config) if shrink is None else shrink

    def run(self, segments: Iterable[tuple[Hashable, np.ndarray]]) -> Iterator[Result]:
        """Decodes segments as they come.

        Args:
          segments: (key, frames [T, input_depth]) pairs, pulled lazily. All have the
            same T; pad short ones as the model knows it.

        Yields:
          Results as segments finish, not in the order of the segments.

        Raises:
          ShapeError: frames of another shape than the first ones', or that the
            network can't take.
        """
        return _Run(self, segments).results()


def default_num_slots() -> int:
    """Returns how many segments are decoded at once: 16 on CPU, else 128."""
    return 16 if jax.default_backend() == "cpu" else 128


def is_large(config: network.T5Config) -> bool:
    """Says whether a step takes so long that more programs pay for their loading.

    A program is loaded in half a second or more; the steps of a small network, one
    whose decoder layers have less than 8 million parameters, take a few milliseconds
    whatever the shape.
    """
    heads = config.num_heads * config.head_dim
    middle = (len(config.mlp_activations) + 1) * config.mlp_dim
    layer = config.emb_dim * (8 * heads + middle)
    return config.num_decoder_layers * layer >= 8_000_000


def default_cache_sizes(config: network.T5Config) -> tuple[int, ...]:
    """Returns the lengths of the cache: 64, doubled up to 1024; 128 if small."""
    return (64, 128, 256, 512, 1024) if is_large(config) else (128,)


def slot_sizes(num_slots: int) -> tuple[int, ...]:
    """Returns the numbers of slots that can occur, rising: halves of `num_slots`."""
    sizes = [num_slots]
    while sizes[0] // 2 >= _FEWEST_SLOTS:
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


class _Run:
    """One call of `SegmentDecoder.run`."""

    def __init__(
        self,
        decoder: SegmentDecoder,
        segments: Iterable[tuple[Hashable, np.ndarray]],
    ):
        self._program = decoder.program
        self._options = decoder.options
        self._cache_sizes = decoder.cache_sizes
        self._shrink = decoder.shrink
        sizes = slot_sizes(decoder.num_slots)
        # A step of a small network costs about the same for any number of slots.
        self._slot_sizes = sizes if self._shrink else sizes[-1:]
        self._source = enumerate(segments)
        self._exhausted = False
        self._shape: tuple[int, ...] | None = None
        self._ready: collections.deque[_Segment] = collections.deque()
        self._slots: list[_Segment | None] = []
        self._carry: Carry | None = None
        self._cache_length = self._cache_sizes[0]

    def results(self) -> Iterator[Result]:
        """Runs until the segments are used up."""
        self._look_ahead(self._slot_sizes[-1])
        if not self._ready:
            return
        self._open()
        while True:
            self._fill()
            busy = sum(segment is not None for segment in self._slots)
            if not busy:
                return
            self._carry = self._program.run(
                self._carry, self._options.steps_per_dispatch, self._enough(busy)
            )
            running, index = self._program.status(self._carry)
            yield from self._collect(running, index)
            self._fit(index)

    def _look_ahead(self, count: int) -> None:
        """Encodes batches until `count` segments wait, or there are no more."""
        while not self._exhausted and len(self._ready) < count:
            size = self._options.encode_batch
            batch = list(itertools.islice(self._source, size))
            self._exhausted = len(batch) < size
            if batch:
                self._encode(batch)

    def _encode(self, batch: list[tuple[int, tuple[Hashable, np.ndarray]]]) -> None:
        """Encodes a batch, filled up to a power of two so that shapes are few."""
        frames = []
        for _, (key, segment) in batch:
            segment = np.asarray(segment, np.float32)
            self._check(key, segment.shape)
            frames.append(segment)
        size = min(self._options.encode_batch, 1 << (len(batch) - 1).bit_length())
        frames += [np.zeros_like(frames[0])] * (size - len(frames))
        cross = self._program.encode(np.stack(frames))
        for row, (serial, (key, _)) in enumerate(batch):
            self._ready.append(_Segment(serial, key, cross, row))

    def _check(self, key: Hashable, shape: tuple[int, ...]) -> None:
        """Raises ShapeError unless frames are as those before and as the network's."""
        config = self._program.spec.config
        if self._shape is None:
            wanted = f"[frames, {config.input_depth}]"
            fits = len(shape) == 2 and shape[1] == config.input_depth
            fits = fits and 1 <= shape[0] <= network.MAX_POSITIONS
            self._shape = shape
        else:
            wanted = f"{self._shape}, as the first segment"
            fits = shape == self._shape
        if not fits:
            raise ShapeError(
                f"decoding: segment {key!r} has shape {shape}; expected {wanted}"
            )

    def _open(self) -> None:
        """Makes as many slots as the first segments need."""
        waiting = len(self._ready)
        size = next((s for s in self._slot_sizes if s >= waiting), self._slot_sizes[-1])
        self._slots = [None] * size
        self._carry = self._program.start(size, self._shape[0], self._cache_length)

    def _fill(self) -> None:
        """Puts waiting segments into free slots."""
        for slot, segment in enumerate(self._slots):
            if segment is not None:
                continue
            self._look_ahead(1)
            if not self._ready:
                return
            segment = self._ready.popleft()
            self._carry = self._program.admit(
                self._carry, segment.cross, segment.row, slot, segment.serial
            )
            self._slots[slot] = segment._replace(cross=None)

    def _enough(self, busy: int) -> int:
        """Returns after how many finished segments the host has work to do."""
        if self._ready or not self._exhausted:
            return 1
        if not self._shrink:
            return busy
        smaller = [size for size in self._slot_sizes if size < len(self._slots)]
        return busy - smaller[-1] if smaller and busy > smaller[-1] else busy

    def _collect(self, running: np.ndarray, index: np.ndarray) -> Iterator[Result]:
        """Yields the results of slots that have finished, and frees them."""
        finished = [
            slot
            for slot, segment in enumerate(self._slots)
            if segment is not None and not running[slot]
        ]
        if not finished:
            return
        ids, scores = self._program.result(self._carry)
        for slot in finished:
            best = ids[slot, -1]
            ends = np.flatnonzero(best == EOS_ID)
            count = int(ends[0]) + 1 if len(ends) else int(index[slot])
            result = Result(
                key=self._slots[slot].key,
                ids=best[:count].copy(),
                score=float(scores[slot, -1]),
                steps=int(index[slot]),
            )
            self._slots[slot] = None
            yield result

    def _fit(self, index: np.ndarray) -> None:
        """Changes the cache's length and the number of slots where that pays."""
        busy = [slot for slot, segment in enumerate(self._slots) if segment is not None]
        longest = max((int(index[slot]) for slot in busy), default=0)
        length = next(size for size in self._cache_sizes if size > longest)
        if length < self._cache_length and 2 * longest > length:
            length = self._cache_length  # It would soon have to grow again.
        if length != self._cache_length:
            self._carry = self._program.fit_cache(self._carry, length)
            self._cache_length = length
        if self._ready or not self._exhausted or not busy or not self._shrink:
            return
        count = next(size for size in self._slot_sizes if size >= len(busy))
        if count < len(self._slots):
            idle = [slot for slot in range(len(self._slots)) if slot not in busy]
            keep = (busy + idle)[:count]
            self._carry = self._program.take_slots(self._carry, np.array(keep))
            self._slots = [self._slots[slot] for slot in keep]
