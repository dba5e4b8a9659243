"""The same few batches for either engine, from the golden files; nothing is random.

`GIN` is a run of ten steps on them from the golden T5X checkpoint. T5X takes
TensorFlow's datasets only: there `training.tensorflow` and `evaluation.tensorflow` are
bound to True.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "golden" / "data"
STEPS = 10
EVAL_STEPS = 2
# T5X's values of this run, as its TensorBoard files have them: split -> name -> step
# -> value.
EXPECTED = DATA / "t5x_run_metrics.json"

GIN = """
from __gin__ import dynamic_registration

import __main__ as train_script
from mt3 import network
from t5x import utils
from tests.support import fixed_batches

include 'gin/model.gin'
include 'gin/synthetic_run.gin'

TRAIN_STEPS = 10
BATCH_SIZE = 4
INPUTS_LENGTH = 256
TARGETS_LENGTH = 128
DROPOUT_RATE = 0.0
EVAL_PERIOD = 5
CHECKPOINT_PERIOD = 5

train_script.train:
  stats_period = 1
  get_dataset_fn = @fixed_batches.training
  train_eval_get_dataset_fn = @fixed_batches.evaluation

utils.CheckpointConfig.restore = @utils.RestoreCheckpointConfig()
utils.RestoreCheckpointConfig:
  path = %gin.REQUIRED
  mode = 'specific'
utils.create_learning_rate_scheduler:
  factors = 'constant * linear_warmup'
  base_learning_rate = 0.001
  warmup_steps = 20

network.T5Config:
  emb_dim = 32
  num_heads = 2
  num_encoder_layers = 2
  num_decoder_layers = 2
  head_dim = 16
  mlp_dim = 64
"""


def batches(count: int, first: int = 0, tensorflow: bool = False) -> Any:
    """Returns batches of four examples, each with fewer targets than the one before.

    Args:
      count: batches.
      first: number of the first one.
      tensorflow: return a `tf.data.Dataset`.
    """
    arrays = np.load(DATA / "model.npz")
    made = [
        batch(arrays["train_inputs4"], arrays["train_targets4"], first + index)
        for index in range(count)
    ]
    if not tensorflow:
        return made
    import tensorflow as tf

    stacked = {name: np.stack([one[name] for one in made]) for name in made[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def batch(
    inputs: np.ndarray, targets: np.ndarray, index: int
) -> Mapping[str, np.ndarray]:
    """Makes a batch of golden examples: rows rotated, targets of odd lengths."""
    targets = np.roll(targets, index, axis=0).astype(np.int32)
    for row, length in enumerate(np.count_nonzero(targets, axis=1)):
        targets[row, length * (index + 2) // (index + row + 3) :] = 0
    return {
        "encoder_input_tokens": np.roll(inputs, index, axis=0).astype(np.float32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }


def training(cfg: Any, *arguments: Any, tensorflow: bool = False) -> Any:
    """A `get_dataset_fn`."""
    del cfg, arguments
    return batches(STEPS, tensorflow=tensorflow)


def evaluation(
    cfg: Any, *arguments: Any, tensorflow: bool = False
) -> Mapping[str, Any]:
    """A `train_eval_get_dataset_fn`: two streams."""
    del cfg, arguments
    return {
        "first": batches(EVAL_STEPS, tensorflow=tensorflow),
        "second": batches(EVAL_STEPS, first=5, tensorflow=tensorflow),
    }
