"""Records of the data sets: from TFRecord files to tensors, as a seqio source.

Every record carries the feature `record`, "<path>#<index>", which later stages name
in their errors.

Differences from seqio's `FileDataSource`, numbered:

1. Damaged records: `on_corrupt="stop"` raises an error that names the record;
   "skip" logs the same words and goes on.
2. Missing shards are an error (see `datasets.files`).
3. When shuffling, records are shuffled too, not only files, before anything of them
   is read: a record is a whole song, and a buffer of songs would fill the memory.
4. The number of examples is not told to seqio, which would keep the decoded songs of
   any data set below 10,000 examples in memory. `registry.mixing_rate` has it from
   elsewhere.
5. Few records are read at a time, for the same reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mt3 import datasets
from mt3.data.tf_bridge import OK, keep_ok
from mt3.data.tfrecords import RecordSpan, read_payload, scan
from mt3.datasets import DatasetConfig, FeatureSpec
from mt3.errors import ConfigError, DataError

_LOG = logging.getLogger("mt3")

ON_CORRUPT = ("stop", "skip")
RECORD = "record"

# Files that are open for their lengths, records that are shuffled, and records that
# are in memory at a time: a song of MAESTRO is 100 MB.
_OPEN_FILES = 16
_SHUFFLED_RECORDS = 512
_PARALLEL_READS = 4

_DTYPES = {"string": tf.string, "float32": tf.float32, "int64": tf.int64}


def feature_description(features: Mapping[str, FeatureSpec]) -> dict[str, object]:
    """Returns the features that are used in TensorFlow's terms."""
    return {
        name: tf.io.FixedLenSequenceFeature([], _DTYPES[spec.dtype], allow_missing=True)
        if spec.repeated
        else tf.io.FixedLenFeature([], _DTYPES[spec.dtype])
        for name, spec in features.items()
        if spec.used
    }


def parse(
    payload: bytes, features: Mapping[str, FeatureSpec], name: str
) -> dict[str, tf.Tensor]:
    """Parses a tf.Example.

    Args:
      payload: its bytes.
      features: what it should hold.
      name: file and record, for the message.

    Returns:
      The used features: scalars, or [n] where repeated.

    Raises:
      DataError: not a tf.Example, or features are missing or of another type.
    """
    try:
        # TensorFlow's quick parser crashes on some bytes that this one refuses.
        found = tf.train.Example.FromString(payload).features.feature
    except Exception as error:  # protobuf's error classes differ by version.
        raise DataError(
            f"{name}: {len(payload)} bytes that are not a tf.Example"
        ) from error
    # TensorFlow would print of what is wrong, besides raising.
    if problems := _problems(found, features):
        raise DataError(_described(name, problems, found))
    try:
        with tf.device("CPU:0"):
            return tf.io.parse_single_example(payload, feature_description(features))
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        # TensorFlow puts the record into its message, and fails where it is no text.
        raise DataError(
            _described(name, ["TensorFlow cannot parse it"], found)
        ) from error


_KINDS = {"string": "bytes_list", "float32": "float_list", "int64": "int64_list"}


def _problems(
    found: Mapping[str, tf.train.Feature], features: Mapping[str, FeatureSpec]
) -> list[str]:
    """Says which features of a tf.Example are not those that it should hold."""
    problems = []
    for key, spec in features.items():
        kind = found[key].WhichOneof("kind") if key in found else None
        if not spec.used or (kind is None and spec.repeated):
            continue
        if kind is None:
            problems.append(f"{key} is missing")
        elif kind != _KINDS[spec.dtype]:
            problems.append(f"{key} is a {kind}, expected {_KINDS[spec.dtype]}")
        elif not spec.repeated and (n := len(getattr(found[key], kind).value)) != 1:
            problems.append(f"{key} has {n} values, expected 1")
    return problems


def _described(
    name: str, problems: list[str], found: Mapping[str, tf.train.Feature]
) -> str:
    held = ", ".join(sorted(found)) or "nothing"
    return f"{name}: {'; '.join(problems)}. The record has: {held}"


class RecordDataSource(seqio.FileDataSource):
    """The records of a data set, as a seqio source.

    Attributes:
      dataset: the data set.
      data_splits: the data set's split for each of the source's splits.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        data_splits: Mapping[str, str],
        *,
        root: str | None = None,
        on_corrupt: str = "stop",
    ):
        """Notes what to read; looks at no file.

        Args:
          dataset: the data set.
          data_splits: the source's splits, and which of the data set's they are.
          root: the data root; `gs://` for the public buckets.
          on_corrupt: "stop" at a damaged record, or "skip" it.

        Raises:
          ConfigError: an unknown `on_corrupt` or split, or there is no root.
        """
        if on_corrupt not in ON_CORRUPT:
            raise ConfigError(
                f"on_corrupt is {on_corrupt!r}; expected one of {ON_CORRUPT}"
            )
        self.dataset = dataset
        self.data_splits = dict(data_splits)
        self._root = root
        self._on_corrupt = on_corrupt
        patterns = {
            name: datasets.pattern(dataset, split, root)
            for name, split in data_splits.items()
        }
        super().__init__(read_file_fn=self._read_file, split_to_filepattern=patterns)

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns the files of a split.

        Raises:
          ConfigError: there is no such split.
          DataError: files are missing.
        """
        return datasets.files(self.dataset, self._data_split(split), self._root)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused_options: object,
    ) -> tf.data.Dataset:
        """Returns the records: the used features, and `record`.

        Args:
          split: one of the source's splits.
          shuffle: whether to shuffle files, and records within a window.
          seed: for shuffling.
          shard_info: which share of the files to read.
          **unused_options: what seqio's interface has besides.

        Raises:
          ConfigError: there is no such split.
          DataError: files are missing, or fewer than shards were asked for.
        """
        paths = self.list_shards(split)
        if shard_info and len(paths) < shard_info.num_shards:
            raise DataError(
                f"data set {self.dataset.name!r}, split {split!r}: {len(paths)} files "
                f"cannot be shared by {shard_info.num_shards} readers"
            )
        if shard_info:
            paths = paths[shard_info.index :: shard_info.num_shards]
        ds = tf.data.Dataset.from_tensor_slices(list(paths))
        if shuffle:
            ds = ds.shuffle(len(paths), seed=seed)
        ds = ds.interleave(
            self._spans, cycle_length=_OPEN_FILES if shuffle else 1, block_length=1
        )
        if shuffle:
            ds = ds.shuffle(_SHUFFLED_RECORDS, seed=seed)
        return self._read(ds)

    def _data_split(self, split: str) -> str:
        if split not in self.data_splits:
            raise ConfigError(
                f"data set {self.dataset.name!r}: this task has the splits "
                f"{', '.join(map(repr, self.data_splits))}, not {split!r}"
            )
        return self.data_splits[split]

    def _read_file(self, path: tf.Tensor) -> tf.data.Dataset:
        """Reads one file, as seqio asks of a `read_file_fn`."""
        return self._read(self._spans(path))

    def _spans(self, path: tf.Tensor) -> tf.data.Dataset:
        """Returns (path, index, offset, length, problem) of a file's records."""

        def list_spans(path: bytes) -> tuple[np.ndarray, np.ndarray]:
            spans = scan(path.decode())
            numbers = [(span.index, span.offset, span.length) for span in spans]
            problems = [span.problem.encode() for span in spans]
            return (
                np.array(numbers, np.int64).reshape(-1, 3),
                np.array(problems, dtype=object),
            )

        numbers, problems = tf.numpy_function(
            list_spans, [path], (tf.int64, tf.string), stateful=False
        )
        numbers.set_shape([None, 3])
        problems.set_shape([None])
        ds = tf.data.Dataset.from_tensor_slices((numbers, problems))
        return ds.map(lambda numbers, problem: (path, numbers, problem))

    def _read(self, spans: tf.data.Dataset) -> tf.data.Dataset:
        """Reads and parses records by their spans."""
        used = {name: s for name, s in self.dataset.features.items() if s.used}
        types = [_DTYPES[spec.dtype] for spec in used.values()]
        shapes = [[None] if spec.repeated else [] for spec in used.values()]
        empty = [
            tf.zeros([0] * len(shape), dtype)
            for shape, dtype in zip(shapes, types, strict=True)
        ]

        def read(
            path: tf.Tensor, numbers: tf.Tensor, problem: tf.Tensor
        ) -> list[tf.Tensor]:
            file = path.numpy().decode()
            span = RecordSpan(*numbers.numpy().tolist(), problem.numpy().decode())
            try:
                payload = read_payload(file, span)
                parsed = parse(payload, self.dataset.features, f"{file}#{span.index}")
            except DataError as error:
                if self._on_corrupt == "stop":
                    raise
                _LOG.warning("skipped: %s", error)
                return [tf.constant(False), *empty]
            return [tf.constant(True), *(parsed[name] for name in used)]

        def element(
            path: tf.Tensor, numbers: tf.Tensor, problem: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            # Not a NumPy function: its arrays would copy 100 MB of audio.
            good, *values = tf.py_function(
                read, [path, numbers, problem], [tf.bool, *types]
            )
            good.set_shape([])
            result = {OK: good}
            for name, value, shape in zip(used, values, shapes, strict=True):
                value.set_shape(shape)
                result[name] = value
            index = tf.strings.as_string(numbers[0])
            result[RECORD] = tf.strings.join([path, "#", index])
            return result

        ds = spans.map(element, num_parallel_calls=_PARALLEL_READS)
        return keep_ok(ds)
