"""Several devices: the same numbers, arrays in pieces, checkpoints across meshes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mt3.engine import partitioning
from mt3.errors import ConfigError


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """What `tests.support.eight_devices` found."""
    folder = tmp_path_factory.mktemp("devices")
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.eight_devices", folder],
        cwd=request.config.rootpath,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + " --xla_force_host_platform_device_count=8",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads((folder / "results.json").read_text())
    assert found["devices"] == 8
    return found


@pytest.mark.slow
def test_losses_equal_those_of_one_device(results):
    losses = results["losses"]
    assert len(losses) == 2
    assert losses["1x1"][-1] < losses["1x1"][0]
    for name, values in losses.items():
        assert values == pytest.approx(losses["1x1"], rel=1e-5), name


@pytest.mark.slow
def test_parameters_are_in_pieces(results):
    split = results["split"]
    assert split["1x1"] == {}
    # Data parallel alone: everything everywhere.
    assert split["8x1"] == {}
    pieces = {
        "target/encoder/layers_0/mlp/wi_0/kernel": [[128, 256], [128, 128]],
        "target/encoder/layers_0/mlp/wo/kernel": [[256, 128], [128, 128]],
        "target/encoder/layers_0/attention/query/kernel": [[128, 16], [128, 8]],
        "target/decoder/token_embedder/embedding": [[256, 128], [128, 128]],
        "target/decoder/logits_dense/kernel": [[128, 256], [128, 128]],
        # And what the optimiser keeps of them.
        "state/param_states/encoder/layers_0/attention/query/kernel/v": [
            [128, 16],
            [128, 8],
        ],
    }
    for name, shapes in pieces.items():
        assert split["4x2"][name] == shapes, name
    both = split["4x2, parameters over both axes"]
    name = "target/encoder/layers_0/mlp/wi_0/kernel"
    assert both[name] == [[128, 256], [32, 128]]
    assert len(both) > len(split["4x2"])


@pytest.mark.slow
def test_checkpoints_go_from_mesh_to_mesh(results):
    continued = results["continued"]
    assert len(continued) == 9
    for name, losses in continued.items():
        assert losses == pytest.approx(continued["uninterrupted"], rel=1e-5), name
    split = results["split"]
    for name in ("1x1", "8x1", "4x2", "4x2, parameters over both axes"):
        assert split[f"orbax, {name}"] == split[f"legacy, {name}"] == split[name]


@pytest.mark.slow
def test_what_does_not_divide_is_named(results):
    batch, partitions = results["errors"]
    assert "12 examples, which 8 devices along the data axis do not divide" in batch
    assert "8 devices do not divide into 3 model partitions" in partitions


def test_dimension_that_does_not_divide_is_not_split():
    partitioner = partitioning.PjitPartitioner()
    # A mesh that says two, whatever devices there are.
    partitioner.mesh = jax.sharding.AbstractMesh((1, 2), ("data", "model"))
    sharding = partitioner._parameter_sharding(
        ("kernel",), (8, 7), {"kernel": ("embed", "mlp")}
    )
    assert sharding.spec == jax.sharding.PartitionSpec(None, None)
    sharding = partitioner._parameter_sharding(
        ("kernel",), (8, 6), {"kernel": ("embed", "mlp")}
    )
    assert sharding.spec == jax.sharding.PartitionSpec(None, "model")


def test_standard_rules_are_those_of_t5x():
    rules = dict(partitioning.standard_logical_axis_rules())
    assert rules["batch"] == "data"
    assert rules["embed"] is None
    for name in ("vocab", "mlp", "heads", "joined_kv"):
        assert rules[name] == "model"
    two = partitioning.standard_logical_axis_rules(2, 2, [("mine", "data")])
    assert [axis for name, axis in two if name == "embed"] == ["model", "data"]
    assert two[-1] == ("mine", "data")
    with pytest.raises(ConfigError, match=r"is \(3, 1\)"):
        partitioning.standard_logical_axis_rules(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ici_mesh_shape": (1, 1)}, "pods"),
        ({"num_partitions": 1, "model_parallel_submesh": (1, 1, 1, 1)}, "both"),
        ({"num_partitions": -1}, "do not divide"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        partitioning.PjitPartitioner(**options)


def test_batches_are_put_along_the_data_axis():
    partitioner = partitioning.PjitPartitioner()
    placed = partitioner.put_batch({"x": np.arange(8.0).reshape(4, 2)})
    assert placed["x"].sharding.spec == jax.sharding.PartitionSpec("data")
    np.testing.assert_array_equal(placed["x"], np.arange(8.0).reshape(4, 2))
