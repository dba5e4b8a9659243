"""A program that reads with tf.data ends, whatever it left behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent(
    """
    import time

    import tensorflow as tf

    from mt3.data import tf_bridge

    def slow(value):
        time.sleep(0.01)
        return value

    numbers = tf.data.Dataset.range(10**6).map(lambda number: {"number": number})
    spec = {"number": tf.TensorSpec([], tf.int64)}
    numbers = tf_bridge.numpy_map(numbers, slow, ["number"], spec).prefetch(4)
    # An iterator in use that is part of a cycle, as those of tracebacks are.
    cycle = [numbers.as_numpy_iterator()]
    print(next(cycle[0])["number"], flush=True)
    cycle.append(cycle)
    del cycle
    """
)


def test_a_program_ends_though_an_iterator_is_left():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "0\n")
