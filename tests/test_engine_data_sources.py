"""Data sources, prefetching, partitioning."""

from __future__ import annotations

import threading

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mt3.engine import data_sources, partitioning, utils
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError, DataError


def test_prefetcher_knows_what_was_handed_out():
    class Numbers:
        def batch(self, index):
            return {"x": np.array([index])}

    prefetcher = data_sources.Prefetcher(
        data_sources.as_data_source(Numbers()), depth=3
    )
    try:
        assert prefetcher.state() == {"batch": 0}
        assert [next(prefetcher)["x"][0] for _ in range(5)] == list(range(5))
        assert prefetcher.state() == {"batch": 5}
    finally:
        prefetcher.close()
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_prefetcher_ends_and_raises_again_and_again():
    ended = data_sources.Prefetcher(data_sources.as_data_source([{"x": np.ones(1)}]))
    assert len(list(ended)) == 1
    assert list(ended) == []
    ended.close()

    def failing(error):
        yield {"x": np.ones(1)}
        raise error

    # A worker process may have been interrupted.
    for error in (KeyError("lost"), KeyboardInterrupt("lost")):
        source = data_sources.as_data_source(failing(error))
        failed = data_sources.Prefetcher(source)
        next(failed)
        for _ in range(2):
            with pytest.raises(DataError, match=r"Key\w+: '?lost'?"):
                next(failed)
        failed.close()


@pytest.mark.parametrize("batch_size", [0, "many", 2.5, None])
def test_batch_sizes_that_are_none_name_the_setting(batch_size):
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size!r}"):
        utils.DatasetConfig("synthetic", {}, "train", batch_size, True, 1)


def test_evaluations_see_the_same_batches():
    def counting():
        return ({"x": np.array([index])} for index in range(9))

    streams = utils.get_training_eval_datasets(
        utils.DatasetConfig(
            mixture_or_task_name="synthetic",
            task_feature_lengths={"inputs": 32},
            split="train",
            batch_size=3,
            shuffle=True,
            seed=1,
        ),
        0,
        1,
        3,
        None,
        get_dataset_fn=lambda *arguments: counting(),
    )
    for _ in range(2):
        assert [batch["x"][0] for batch in streams["synthetic"]] == [0, 1, 2]


def test_what_is_no_source():
    with pytest.raises(ConfigError, match="int"):
        data_sources.as_data_source(3)


def test_parameters_go_where_their_axes_say():
    partitioner = partitioning.PjitPartitioner()
    params = {"dense": {"kernel": jnp.ones((6, 4))}, "scale": jnp.ones((6,))}
    state = TrainState(
        jnp.zeros((), jnp.int32), params, {"mu": params, "row": jnp.ones((4,))}
    )
    shardings = partitioner.state_shardings(
        state, {"dense/kernel": ("embed", "joined_kv"), "scale": ("unknown_axis",)}
    )
    kernel = shardings.params["dense"]["kernel"]
    assert kernel.spec == PartitionSpec(None, "model")
    assert shardings.opt_state["mu"]["dense"]["kernel"] == kernel
    assert shardings.params["scale"].spec == PartitionSpec(None)
    assert shardings.opt_state["row"].spec == PartitionSpec()


def test_partitions_must_divide_the_devices():
    with pytest.raises(ConfigError, match="3 model partitions"):
        partitioning.PjitPartitioner(num_partitions=3)
    with pytest.raises(ConfigError, match="expected one of them"):
        partitioning.PjitPartitioner(1, (1, 1, 1, 1))
    with pytest.raises(ConfigError, match="pods"):
        partitioning.PjitPartitioner(ici_mesh_shape=(1, 1))
