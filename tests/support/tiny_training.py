"""A tiny model and a tiny task on rendered audio, for tests of the engine on seqio.

The task is GuitarSet's, of the records that `tiny_datasets` writes, with a small
spectrogram.
"""

from __future__ import annotations

import functools
import pathlib

import seqio

from mt3 import decoding, models, network, tasks
from mt3.configs import ModelConfig
from mt3.data import feature_converters
from mt3.engine import adafactor, partitioning, trainer, utils
from mt3.engine import train as train_module
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import (
    VocabularyConfig,
    build_codec,
    num_embeddings,
    vocabulary_from_codec,
)
from tests.support import tiny_datasets

LENGTHS = {"inputs": 64, "targets": 64}
SPECTROGRAM = SpectrogramConfig(hop_width=256, num_mel_bins=32, fft_size=1024)
VOCABULARY = VocabularyConfig(num_velocity_bins=1)
OUTPUT_VOCABULARY = vocabulary_from_codec(build_codec(VOCABULARY))
BATCH_SIZE = 4
FAMILY = "guitarset_notes_ties_hw256mb32_vb1"


def write_data(root: pathlib.Path) -> None:
    """Writes the records."""
    tiny_datasets.write_all(
        root, data_sets=["guitarset"], splits=("train", "validation"), seconds=3.0
    )


def register(root: pathlib.Path, **options) -> tasks.Registered:
    """Registers the tasks; what is compiled is kept for the next test."""
    decoding.enable_compilation_cache()
    registered = tasks.register(
        root, data_sets=["guitarset"], shuffle_buffer_size=8, **options
    )
    name = tasks.construct_task_name(
        "guitarset_notes_ties",
        SPECTROGRAM,
        VOCABULARY,
        "train",
        registered=registered,
    )
    assert name == f"{FAMILY}_train"
    return registered


def make_model(**options) -> models.ContinuousInputsEncoderDecoderModel:
    """Makes the model, as gin files do."""
    sizes = network.T5Config.from_dict(
        {
            "vocab_size": num_embeddings(OUTPUT_VOCABULARY),
            "emb_dim": 16,
            "num_heads": 2,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "head_dim": 8,
            "mlp_dim": 16,
            "dropout_rate": 0.1,
            "input_depth": SPECTROGRAM.num_mel_bins,
        }
    )
    return models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(sizes),
        input_vocabulary=seqio.PassThroughVocabulary(size=0),
        output_vocabulary=OUTPUT_VOCABULARY,
        optimizer_def=adafactor.Adafactor(),
        input_depth=SPECTROGRAM.num_mel_bins,
        feature_converter_cls=(
            feature_converters.ContinuousInputsEncDecFeatureConverter
        ),
        **{"z_loss": 1e-4, **options},
    )


def dataset_config(suffix: str, split: str = "eval", **changes) -> utils.DatasetConfig:
    """Returns the configuration of one of the tasks."""
    values = {
        "mixture_or_task_name": f"{FAMILY}_{suffix}",
        "task_feature_lengths": LENGTHS,
        "split": split,
        "batch_size": BATCH_SIZE,
        "shuffle": False,
        "seed": 42,
    }
    return utils.DatasetConfig(**{**values, **changes})


def train_config(**changes) -> utils.DatasetConfig:
    """Returns the configuration of the training task."""
    changes = {"split": "train", "shuffle": True, "seed": 5, **changes}
    return dataset_config("train", **changes)


def train(
    model_dir: pathlib.Path,
    *,
    total_steps: int,
    stream_batches: int = 3,
    train_cfg: utils.DatasetConfig | None = None,
    model=None,
    period: int | None = None,
    **arguments,
):
    """Trains the model on the task; returns (step, state)."""
    arguments = {
        "train_eval_dataset_cfg": None,
        "get_dataset_fn": functools.partial(
            utils.get_dataset, stream_batches=stream_batches
        ),
        "stats_period": 2,
        "random_seed": 0,
        "checkpoint_cfg": utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=period)
        ),
        **arguments,
    }
    return train_module.train(
        model=model or make_model(),
        train_dataset_cfg=train_cfg or train_config(),
        partitioner=partitioning.PjitPartitioner(),
        trainer_cls=functools.partial(
            trainer.Trainer,
            learning_rate_fn=utils.create_learning_rate_scheduler(
                factors="constant", base_learning_rate=0.05
            ),
        ),
        model_dir=str(model_dir),
        total_steps=total_steps,
        **arguments,
    )


def model_config() -> ModelConfig:
    """What the task's tokens and frames are."""
    return ModelConfig(
        network={},
        vocabulary=VOCABULARY,
        spectrogram=SPECTROGRAM,
        inputs_length=LENGTHS["inputs"],
        targets_length=LENGTHS["targets"],
    )
