"""Devices as a mesh of two axes, and which array axis goes on which.

The mesh has the axes `data` (batches are split over it) and `model` (parameters
are split over it by their logical axis names). Only the devices of one machine
are used; for pods the same gin files run on T5X.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from flax.linen import partitioning as flax_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError

LogicalAxisRules = Sequence[tuple[str, str | None]]


def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
    additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
    """Returns T5X's rules: logical axis name -> mesh axis, or None to replicate.

    Args:
      activation_partitioning_dims: 2 also splits activations' embedding axis.
      parameter_partitioning_dims: 2 also splits parameters over the data axis.
      additional_rules: appended to the standard ones.

    Raises:
      ConfigError: a number of dimensions other than 1 or 2.
    """
    dims = (activation_partitioning_dims, parameter_partitioning_dims)
    embed = {
        (1, 1): [("embed", None)],
        (2, 1): [("embed", "model")],
        (1, 2): [("embed", "data")],
        (2, 2): [("embed", "model"), ("embed", "data")],
    }
    if dims not in embed:
        raise ConfigError(
            "partitioning: (activation_partitioning_dims, "
            f"parameter_partitioning_dims) is {dims}; expected 1 or 2 each"
        )
    rules = [
        ("batch", "data"),
        ("vocab", "model"),
        ("mlp", "model"),
        ("heads", "model"),
        ("kv", None),
        ("joined_kv", "model"),
        *embed[dims],
    ]
    replicated = (
        "relpos_buckets",
        "abspos_buckets",
        "length",
        "layers",
        "stack",
        "mlp_activations",
    )
    rules.extend((name, None) for name in replicated)
    return (*rules, *(additional_rules or ()))


def logical_axis_names(variables: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Reads the logical axes that a model's variables carry.

    Args:
      variables: result of `model.get_initial_variables`; parameters made by
        `param_with_axes` have an entry `NAME_axes` in collection `params_axes`.

    Returns:
      Parameter name 'a/b/c' -> axis names; parameters without any are left out.
    """
    axes = flax.core.unfreeze(variables.get("params_axes", {}))
    flat = flax.traverse_util.flatten_dict(axes, sep="/")
    return {
        name.removesuffix("_axes"): tuple(metadata.names)
        for name, metadata in flat.items()
    }


class PjitPartitioner:
    """Places state and batches on all local devices."""

    def __init__(
        self,
        num_partitions: int | None = None,
        model_parallel_submesh: Sequence[int] | None = None,
        params_on_devices: bool = True,
        backend: str | None = None,
        ici_mesh_shape: Sequence[int] | None = None,
        dcn_mesh_shape: Sequence[int] | None = None,
        logical_axis_rules: LogicalAxisRules | None = None,
    ):
        """Builds the mesh.

        Args:
          num_partitions: size of the `model` axis; None for 1.
          model_parallel_submesh: its shape as a tile of a pod's torus; here only
            the product counts. Excludes `num_partitions`.
          params_on_devices: accepted for T5X's gin files; always true here.
          backend: platform whose devices are used; None for JAX's default.
          ici_mesh_shape: refused unless None (pods: T5X).
          dcn_mesh_shape: refused unless None (pods: T5X).
          logical_axis_rules: None for `standard_logical_axis_rules()`.

        Raises:
          ConfigError: the devices do not divide into such partitions.
        """
        del params_on_devices
        if ici_mesh_shape is not None or dcn_mesh_shape is not None:
            raise ConfigError(
                "partitioning: ici_mesh_shape and dcn_mesh_shape are for pods; "
                "train on T5X there, or leave them unset"
            )
        if num_partitions is not None and model_parallel_submesh is not None:
            raise ConfigError(
                "partitioning: num_partitions and model_parallel_submesh are both "
                "set; expected one of them"
            )
        model_size = num_partitions or math.prod(model_parallel_submesh or (1,))
        devices = jax.local_devices(backend=backend)
        if model_size < 1 or len(devices) % model_size:
            raise ConfigError(
                f"partitioning: {len(devices)} devices do not divide into "
                f"{model_size} model partitions"
            )
        self.mesh = jax.sharding.Mesh(
            np.asarray(devices).reshape(-1, model_size), ("data", "model")
        )
        self.logical_axis_rules = tuple(
            logical_axis_rules or standard_logical_axis_rules()
        )
        self.data_partition_spec = PartitionSpec("data")

    @property
    def data_mesh_size(self) -> int:
        """Devices along the data axis."""
        return self.mesh.shape["data"]

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """Sharding of batches: split along their first axis."""
        return NamedSharding(self.mesh, self.data_partition_spec)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Copies a batch to the devices, split along the first axis.

        Raises:
          ConfigError: the batch size does not divide by the data axis.
        """
        for name, array in batch.items():
            if len(array) % self.data_mesh_size:
                raise ConfigError(
                    f"partitioning: batch feature {name!r} has {len(array)} "
                    f"examples, which {self.data_mesh_size} devices along the data "
                    "axis do not divide"
                )
        return jax.device_put(dict(batch), self.batch_sharding)

    def state_shardings(
        self, state: TrainState, axis_names: Mapping[str, tuple[str, ...]]
    ) -> TrainState:
        """Returns a tree like `state` with one sharding per leaf.

        Optimiser leaves that have a parameter's path and shape are placed like
        that parameter; everything else is replicated.

        Args:
          state: arrays or their shapes.
          axis_names: from `logical_axis_names`.
        """
        flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(state.params))
        by_path = {
            path: (leaf.shape, self._parameter_sharding(path, leaf.shape, axis_names))
            for path, leaf in flat.items()
        }

        def place(path, leaf):
            names = tuple(key.key for key in path if hasattr(key, "key"))
            for start in range(len(names)):
                shape, sharding = by_path.get(names[start:], (None, None))
                if shape == leaf.shape:
                    return sharding
            return self.replicated

        return jax.tree_util.tree_map_with_path(place, state)

    def _parameter_sharding(self, path, shape, axis_names) -> NamedSharding:
        names = axis_names.get("/".join(path))
        if names is None or len(names) != len(shape):
            return self.replicated
        known = {name for name, _ in self.logical_axis_rules}
        spec = flax_partitioning.logical_to_mesh_axes(
            tuple(name if name in known else None for name in names),
            self.logical_axis_rules,
        )
        fitting = [
            axis if axis is None or size % self.mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, shape, strict=True)
        ]
        return NamedSharding(self.mesh, PartitionSpec(*fitting))

    def partition(
        self,
        function: Callable[..., Any],
        in_shardings: Any,
        out_shardings: Any,
        donate_argnums: Sequence[int] = (),
    ) -> Callable[..., Any]:
        """Compiles a function for the mesh, with the axis rules in force."""

        def with_rules(*args):
            with flax_partitioning.axis_rules(self.logical_axis_rules):
                return function(*args)

        return jax.jit(
            with_rules,
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            donate_argnums=donate_argnums,
        )
