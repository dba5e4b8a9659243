"""Where batches come from, and how training goes on at the exact next one.

A `DataSource` is an endless iterator of batches (dicts of NumPy arrays) that can
tell and take back its position. `as_data_source` makes one of

- an object with `batch(index)`: a pure function of the batch's number, the best
  kind, since any batch can be prepared by any worker. Other settings that its batches
  depend on are saved with `settings()` and restored with `apply_settings(dict)`;
- an iterator with `state()` and `restore(state)`;
- any other iterable: its position is the number of batches drawn, and going back
  to it draws and drops that many.

`Prefetcher` prepares batches in the background and passes on errors.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import itertools
import logging
import multiprocessing
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mt3 import terminal
from mt3.errors import ConfigError, DataError, MT3Error

Batch = Mapping[str, np.ndarray]


@runtime_checkable
class BatchFunction(Protocol):
    """Batches as a pure function of their number."""

    def batch(self, index: int) -> Batch:
        """Returns batch `index`, 0 for the first."""


@runtime_checkable
class DataSource(Protocol):
    """An iterator of batches that knows its position."""

    def __next__(self) -> Batch: ...

    def state(self) -> dict[str, Any]:
        """Returns the position as a dict that JSON can hold."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a position that `state` told."""


class IndexedSource:
    """Numbers the batches of a `BatchFunction`.

    With `num_workers` processes, several batches are prepared at once; the
    function must then be picklable. The order and the batches are the same. A function
    with a `pool` greater than 1 draws that many batches together: one process prepares
    the whole pool, so that no batch is drawn twice.
    """

    def __init__(self, function: BatchFunction, *, num_workers: int = 0):
        self._function = function
        self._num_workers = num_workers
        self._index = 0
        self._pool: concurrent.futures.Executor | None = None
        self._pending: collections.deque = collections.deque()
        # The batches of the current pool that are ready, and the number of the first
        # batch that no process has been asked for.
        self._ready: collections.deque = collections.deque()
        self._ahead = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._num_workers:
            batch = self._function.batch(self._index)
        else:
            while not self._ready:
                self._ready.extend(self._next_pool())
            batch = self._ready.popleft()
        self._index += 1
        return batch

    def _next_pool(self) -> list[Batch]:
        """Returns the batches from the next one to the end of its pool."""
        pool = max(int(getattr(self._function, "pool", 1)), 1)
        if not self._pending:
            self._ahead = self._index
        while len(self._pending) < 2 * self._num_workers:
            end = (self._ahead // pool + 1) * pool
            job = self._executor().submit(_worker_batches, self._ahead, end)
            self._pending.append(job)
            self._ahead = end
        return self._pending.popleft().result()

    def peek(self) -> Batch:
        """Returns the next batch without going on."""
        return self._function.batch(self._index)

    def state(self) -> dict[str, Any]:
        """Returns the number of the next batch, and the function's `settings()`."""
        settings = getattr(self._function, "settings", dict)
        return {**settings(), "batch": self._index}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the batch that `state` numbers."""
        if "batch" not in state:
            raise DataError(f"data position: no 'batch' in {dict(state)}")
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._ready.clear()
        self._index = int(state["batch"])
        if hasattr(self._function, "apply_settings"):
            self.close()
            self._function.apply_settings(state)

    def close(self) -> None:
        """Ends the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _executor(self) -> concurrent.futures.Executor:
        if self._pool is None:
            # Forking a process in which JAX runs threads can lock up.
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._function,),
            )
        return self._pool


_worker_function: BatchFunction | None = None


def _start_worker(function: BatchFunction) -> None:
    global _worker_function
    terminal.end_with_parent()
    _worker_function = function


def _worker_batches(first: int, end: int) -> list[Batch]:
    return [_worker_function.batch(index) for index in range(first, end)]


class CountedSource:
    """Any iterable of batches; its position is the number of batches drawn."""

    def __init__(self, batches: Iterable[Batch]):
        self._batches = batches
        self._iterator = iter(batches)
        self._drawn = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._drawn += 1
        return batch

    def peek(self) -> Batch:
        """Returns the next batch without going on.

        Raises:
          DataError: there is none.
        """
        first = next(self._iterator, None)
        if first is None:
            raise DataError("data source: it has no batch at all")
        self._iterator = itertools.chain([first], self._iterator)
        return first

    def state(self) -> dict[str, Any]:
        """Returns the number of batches drawn."""
        return {"drawn": self._drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Starts over, then draws and drops batches up to the position.

        Raises:
          DataError: the iterable ended before, or cannot start over.
        """
        if self._drawn:
            if iter(self._batches) is self._batches:
                raise DataError("data position: an iterator cannot start over")
            self._iterator = iter(self._batches)
        wanted = int(state["drawn"])
        dropped = sum(1 for _ in itertools.islice(self._iterator, wanted))
        if dropped < wanted:
            raise DataError(
                f"data position: the source ended after {dropped} batches; expected "
                f"at least {wanted}"
            )
        self._drawn = wanted


def as_data_source(data: Any, *, num_workers: int = 0) -> DataSource:
    """Turns what a `get_dataset_fn` returned into a `DataSource`.

    Args:
      data: see the module docstring.
      num_workers: processes for a `BatchFunction`; other sources ignore it.

    Raises:
      ConfigError: not a source of batches.
    """
    if isinstance(data, BatchFunction):
        return IndexedSource(data, num_workers=num_workers)
    if isinstance(data, DataSource):
        return data
    if isinstance(data, Iterable):
        return CountedSource(data)
    raise ConfigError(
        f"get_dataset_fn: got {type(data).__name__}; expected an iterable of "
        "batches, or an object with batch(index)"
    )


def batch_specs(source: DataSource) -> Mapping[str, Any]:
    """Returns a batch's features as objects with shape and dtype.

    A source may know them (`specs`). Otherwise they come from the next batch, which
    costs as much as drawing it.
    """
    specs = source.specs() if hasattr(source, "specs") else None
    return peek(source) if specs is None else specs


def peek(source: DataSource) -> Batch:
    """Returns a source's next batch, and leaves the source where it is."""
    if hasattr(source, "peek"):
        return source.peek()
    position = source.state()
    batch = next(source)
    source.restore(position)
    return batch


class Prefetcher:
    """Draws from a source in a background thread, a bounded number ahead.

    Each batch comes with the source's position after it, so that a checkpoint
    holds the position of what was trained on, not of what was prepared.
    """

    def __init__(self, source: DataSource, *, depth: int = 2):
        """Starts drawing.

        Args:
          source: used by the background thread alone from now on.
          depth: batches kept ready.
        """
        self._source = source
        self._position = source.state()
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch; raises what the source raised."""
        kind, value, position = self._queue.get()
        if kind == "batch":
            self._position = position
            return value
        # Later calls raise the same again.
        self._queue.put((kind, value, position))
        if kind == "end":
            raise StopIteration
        raise value

    def state(self) -> dict[str, Any]:
        """Returns the source's position after the last batch handed out."""
        return self._position

    def close(self) -> None:
        """Stops the thread and the source's workers."""
        self._stopped.set()
        while self._thread.is_alive():
            # The thread may be waiting for room.
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)
        if hasattr(self._source, "close"):
            self._source.close()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    batch = next(self._source)
                except StopIteration:
                    self._put(("end", None, None))
                    return
                self._put(("batch", batch, self._source.state()))
        except MT3Error as error:
            self._put(("error", error, None))
        except BaseException as error:  # the training thread raises it
            logging.getLogger("mt3").debug("data source", exc_info=error)
            failure = DataError(f"data source: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._put(("error", failure, None))

    def _put(self, item: tuple) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


class FirstBatches:
    """The same first batches of a data set, each time it is iterated."""

    def __init__(self, data: Any, count: int, keep: bool):
        """Takes the data.

        Args:
          data: what `as_data_source` takes.
          count: batches of one iteration.
          keep: keep them in memory.
        """
        self._data = data
        self._count = count
        self._keep = keep
        self._kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        batches = itertools.islice(as_data_source(self._data), self._count)
        if not self._keep:
            return batches
        self._kept = list(batches)
        return iter(self._kept)
