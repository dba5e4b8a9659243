"""Reading TensorBoard event files."""

from __future__ import annotations

import tensorflow as tf


def events(folder):
    """The summaries in a folder's event files, by tag."""
    found = {}
    for path in sorted(folder.rglob("events.out.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            for value in tf.compat.v1.Event.FromString(record).summary.value:
                found[value.tag] = tf.make_ndarray(value.tensor)
    return found
