"""Model weights: load, check, save, convert, list.

`load(path)` takes any kind of checkpoint (see `loading`); `registry` has the models
that come with the package, `released` what is known of Magenta's; `description` tells
what a checkpoint turned out to be. The modules underneath: `t5x` and `orbax_folder`
(training checkpoints), `safetensors_file` (the single-file form), `layout` (names and
shapes of the parameter tree), `sizes` (a configuration from shapes), `storage`
(folders, buckets and arrays).
"""

from mt3.checkpoints.description import describe, describe_lines
from mt3.checkpoints.layout import (
    check_parameters,
    expected_shapes,
    flatten,
    num_parameters,
    unflatten,
)
from mt3.checkpoints.loading import LoadedModel, convert, find_checkpoint, load
from mt3.checkpoints.orbax_folder import load_orbax
from mt3.checkpoints.registry import DEFAULT, ModelEntry, available, resolve
from mt3.checkpoints.safetensors_file import (
    load_safetensors,
    read_header,
    save_safetensors,
)
from mt3.checkpoints.sizes import infer_config
from mt3.checkpoints.t5x import load_t5x, save_t5x
from mt3.checkpoints.training_checkpoint import TrainingCheckpoint

__all__ = [
    "DEFAULT",
    "LoadedModel",
    "ModelEntry",
    "TrainingCheckpoint",
    "available",
    "check_parameters",
    "convert",
    "describe",
    "describe_lines",
    "expected_shapes",
    "find_checkpoint",
    "flatten",
    "infer_config",
    "load",
    "load_orbax",
    "load_safetensors",
    "load_t5x",
    "num_parameters",
    "read_header",
    "resolve",
    "save_safetensors",
    "save_t5x",
    "unflatten",
]
