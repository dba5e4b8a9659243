"""NumPy functions and our errors inside tf.data.

Errors inside tf.data arrive as `tf.errors.OpError` with the message; `original_error`
turns one into an `MT3Error` again. TensorFlow is imported by the functions.

Importing this module has one effect: iterators that nobody uses any more (those of an
error's traceback, say) are freed before the interpreter shuts down. Freeing one waits
for TensorFlow's threads, and these wait for Python, which no longer answers while it
shuts down: the program would never end.
"""

from __future__ import annotations

import atexit
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mt3.errors import MT3Error

if TYPE_CHECKING:
    import tensorflow as tf

Features = dict[str, Any]
# Feature that says whether an element stays; see `keep_ok`.
OK = "_ok"


@atexit.register
def _free_iterators() -> None:
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    gc.collect()


def numpy_map(
    ds: tf.data.Dataset,
    function: Callable[..., Any],
    inputs: Sequence[str],
    outputs: Mapping[str, tf.TensorSpec],
    *,
    drop: Sequence[str] = (),
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Maps a NumPy function over a data set, in order.

    Args:
      ds: elements are dicts.
      function: gets the features `inputs`, returns `outputs` (a tuple if several).
      inputs: features by name, in the function's order.
      outputs: what it returns, with shapes and types.
      drop: features to leave out, before the outputs are added.
      num_parallel_calls: elements to work on at a time; tf.data decides if None.

    Returns:
      The elements with the outputs.
    """
    import tensorflow as tf

    def apply(element: Features) -> Features:
        values = tf.numpy_function(
            function,
            [element[name] for name in inputs],
            [spec.dtype for spec in outputs.values()],
            stateful=False,
        )
        kept = {name: value for name, value in element.items() if name not in drop}
        for (name, spec), value in zip(outputs.items(), values, strict=True):
            kept[name] = tf.ensure_shape(value, spec.shape)
        return kept

    parallel = num_parallel_calls or tf.data.AUTOTUNE
    return ds.map(apply, num_parallel_calls=parallel, deterministic=True)


def keep_ok(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves out the elements whose `OK` is false, and that feature."""
    ds = ds.filter(lambda element: element[OK])
    return ds.map(
        lambda element: {name: v for name, v in element.items() if name != OK}
    )


def empty_values(features: Mapping[str, tf.TensorSpec]) -> list[Any]:
    """Returns values of the right shape and type for an element that is left out."""
    import tensorflow as tf

    return [
        np.full(
            [size or 0 for size in spec.shape],
            b"" if spec.dtype == tf.string else 0,
            object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype,
        )
        for spec in features.values()
    ]


def original_error(error: BaseException) -> MT3Error | None:
    """Finds the `MT3Error` behind an error that tf.data raised.

    TensorFlow keeps a Python error's class name and message, not the object, and may
    hand it on from another process; so both are read from the text.

    Args:
      error: what iterating over a data set raised.

    Returns:
      An error of the original's class with its message; None if there is none.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, MT3Error):
            return current
        seen.add(id(current))
        match = _ERROR_TEXT.search(str(current))
        if match:
            return _ERROR_CLASSES[match[1]](match[2].strip())
        current = current.__cause__ or current.__context__
    return None


def _subclasses(kind: type[MT3Error]) -> dict[str, type[MT3Error]]:
    found = {kind.__name__: kind}
    for subclass in kind.__subclasses__():
        found |= _subclasses(subclass)
    return found


_ERROR_CLASSES = _subclasses(MT3Error)
# "DataError: the message", up to the traceback or to what TensorFlow adds.
_ERROR_TEXT = re.compile(
    rf"\b({'|'.join(_ERROR_CLASSES)}): (.*?)"
    r"(?=\s+Traceback \(most recent call last\)|\s+\[\[|\Z)",
    re.DOTALL,
)
