"""From a task's features to the model's: padding, and the decoder's shifted inputs.

`inputs`, float32 [frames, depth], become

    encoder_input_tokens      float32 [T, depth]

and `targets`, int32 [ids], become

    decoder_target_tokens     int32 [L]
    decoder_input_tokens      int32 [L], the targets shifted by one, padding first
    decoder_loss_weights      int32 [L], 1 where there is a target

T and L are the lengths that the configuration gives; shorter examples are padded with
zeros, which for `inputs` is in spectrogram space.

Difference from the original: packing is refused by name, since spectrograms cannot be
packed, where the original fails inside seqio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from mt3.errors import ConfigError


class ContinuousInputsEncDecFeatureConverter(seqio.FeatureConverter):
    """Encoder-decoder features with continuous inputs."""

    TASK_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {
        "inputs": seqio.FeatureConverter.FeatureSpec(dtype=tf.float32, rank=2),
        "targets": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    MODEL_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {
        "encoder_input_tokens": seqio.FeatureConverter.FeatureSpec(
            dtype=tf.float32, rank=2
        ),
        "decoder_target_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "decoder_input_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "decoder_loss_weights": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    PACKING_FEATURE_DTYPES: Mapping[str, tf.dtypes.DType] = {}

    def __init__(
        self,
        pack: bool = False,
        use_custom_packing_ops: bool = False,
        apply_length_check: bool = True,
        bos_id: int = 0,
        passthrough_features: (
            Mapping[str, seqio.FeatureConverter.FeatureSpec] | None
        ) = None,
    ):
        """Takes seqio's arguments.

        Args:
          pack: must be False.
          use_custom_packing_ops: of no effect without packing.
          apply_length_check: whether a length beyond the configured one is an error.
          bos_id: first decoder input.
          passthrough_features: features to keep as they are.

        Raises:
          ConfigError: packing was asked for.
        """
        if pack:
            raise ConfigError(
                "feature converter: pack is True; spectrograms cannot be packed. Set "
                "DatasetConfig.pack = False"
            )
        super().__init__(
            pack=False,
            use_custom_packing_ops=use_custom_packing_ops,
            apply_length_check=apply_length_check,
            bos_id=bos_id,
            passthrough_features=passthrough_features,
        )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **options: Any) -> tf.data.Dataset:
        """As seqio's, without AutoGraph: it takes long, and no step needs it."""
        return super().__call__(*args, **options)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Pads, and makes the decoder's features."""

        def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            targets = example["targets"]
            return {
                "encoder_input_tokens": example["inputs"],
                "decoder_target_tokens": targets,
                "decoder_input_tokens": seqio.feature_converters.autoregressive_inputs(
                    targets, bos_id=self.bos_id
                ),
                "decoder_loss_weights": seqio.feature_converters.non_padding_position(
                    targets
                ),
                **{name: example[name] for name in self._passthrough_features},
            }

        ds = self._pack_or_pad(ds, task_feature_lengths)
        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> dict[str, int]:
        """Returns the length of each model feature."""
        lengths = {
            "encoder_input_tokens": task_feature_lengths["inputs"],
            "decoder_target_tokens": task_feature_lengths["targets"],
            "decoder_input_tokens": task_feature_lengths["targets"],
            "decoder_loss_weights": task_feature_lengths["targets"],
        }
        for name in self._passthrough_features:
            lengths[name] = task_feature_lengths[name]
        return lengths
