"""The bytes of a record: features as a tf.Example, written without TensorFlow.

TensorFlow takes many seconds to import, in each process; and its own way of filling
a float list, value by value, takes minutes for an hour of audio. A tf.Example is a
protocol buffer of four nested messages:

    Example.features (1) -> Features.feature (1), a map: key (1), value (2)
    value: bytes_list (1), float_list (2) or int64_list (3), each with value (1),
    where floats and integers are packed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.datasets import FeatureSpec
from mt3.errors import DataError

# The limit of protocol buffers.
_MAX_BYTES = 2**31 - 1
_KINDS = {"string": 1, "float32": 2, "int64": 3}
# Wire type of everything that is written here: a length, then that number of bytes.
_LENGTH_DELIMITED = 2


def encode(
    features: Mapping[str, Any], specs: Mapping[str, FeatureSpec], name: str
) -> bytes:
    """Returns a serialized tf.Example.

    Args:
      features: text, bytes or a number by name, or sequences of these.
      specs: what the data set's records hold.
      name: of the song, for messages.

    Raises:
      DataError: other features than the data set has, or more than 2 GB.
    """
    if features.keys() != specs.keys():
        different = sorted(features.keys() ^ specs.keys())
        raise DataError(
            f"{name}: features {', '.join(different)} are missing or unknown; expected "
            f"{', '.join(specs)}"
        )
    size = sum(getattr(value, "nbytes", 0) for value in features.values())
    if size > _MAX_BYTES:
        raise DataError(
            f"{name}: {size / 2**30:.1f} GB of audio; a record can hold 2 GB. Choose a "
            "lower sample rate with --sample-rate, or no stems"
        )
    entries = []
    for key in sorted(specs):
        spec = specs[key]
        values = features[key] if spec.repeated else [features[key]]
        value = _field(_KINDS[spec.dtype], _list(values, spec.dtype))
        entry = _field(1, key.encode("utf-8")) + _field(2, value)
        entries.append(_field(1, entry))
    return _field(1, b"".join(entries))


def _list(values: Any, dtype: str) -> bytes:
    """Returns a BytesList, FloatList or Int64List."""
    if dtype == "string":
        texts = (v.encode("utf-8") if isinstance(v, str) else v for v in values)
        return b"".join(_field(1, text) for text in texts)
    if dtype == "float32":
        packed = np.asarray(values, "<f4").tobytes()
    else:
        # A negative number is written as its two's complement of 64 bits.
        packed = b"".join(_varint(int(value) & (1 << 64) - 1) for value in values)
    return _field(1, packed) if packed else b""


def _field(number: int, content: bytes) -> bytes:
    """Returns a field of a message whose content is bytes."""
    tag = number << 3 | _LENGTH_DELIMITED
    return _varint(tag) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Returns a whole number, seven bits a byte, the lowest first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
