"""Training of the decoder alone, on stored outputs of an encoder.

An encoder with its heads learns from frames, and its outputs can be kept
(`engine.encoded_data`). A step of the decoder alone costs a fraction of one of both,
and every parameter outside `decoder` stays what it was: no loss depends on them here,
and an optimiser with `trained = ('decoder',)` has no state for them.
"""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp

from mt3 import losses, models, vocabularies
from mt3.beyond import copying_start, guided, starts
from mt3.errors import ConfigError


class DecoderModel(guided.GuidedModel):
    """The model with its encoder's outputs as inputs.

    Its batches have `encoded` [B, T, D] in place of frames. The losses are that of the
    tokens and, with `GuideConfig.attention_weight`, that of guided attention. Metrics
    have the accuracy of the next token by its type.
    """

    def __init__(
        self,
        *args: Any,
        initial_weights: str | None = None,
        new_decoder: bool = False,
        **kwargs: Any,
    ):
        """Takes the arguments of `guided.GuidedModel`.

        Args:
          *args: as the base class.
          initial_weights: file, or folder of a training run, to start from.
          new_decoder: take the encoder and the heads from there, and begin with a new
            decoder (`copying_start`).
          **kwargs: as the base class.

        Raises:
          ConfigError: without `initial_weights`, or as the base class.
        """
        if initial_weights is None:
            raise ConfigError(
                "DecoderModel: no initial_weights; expected the file or the run whose "
                "encoder is kept"
            )
        super().__init__(*args, initial_weights=initial_weights, **kwargs)
        sizes = self.module.config
        if new_decoder and not copying_start.fits(sizes):
            raise ConfigError(
                "DecoderModel: new_decoder needs a network with memory_positions and "
                f"three or more heads that fill the embedding; found {sizes}"
            )
        self._new_decoder = new_decoder

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        """Returns the parameters of the weights, with a new decoder where asked for."""
        variables = super().get_initial_variables(rng, input_shapes, input_types)
        if not self._new_decoder:
            return variables
        variables = flax.core.unfreeze(variables)
        params = variables["params"]
        # Matrices that the start leaves as they are must not be the trained ones.
        frames = (1, self.config.inputs_length, self.input_depth)
        plain = models.ContinuousInputsEncoderDecoderModel.get_initial_variables(
            self, rng, {**input_shapes, "encoder_input_tokens": frames}, input_types
        )
        params["decoder"] = copying_start.copying_decoder(
            plain["params"]["decoder"],
            params[starts.AUXILIARY],
            self.module.config,
            self.config,
        )
        return flax.core.freeze(variables)

    def encode(self, params, batch, rng: jax.Array | None = None) -> jax.Array:
        """Returns the encoder's outputs.

        Args:
          params: of the network.
          batch: with `samples` or `encoder_input_tokens`.
          rng: a key for augmentation; None for no augmentation.

        Returns:
          float32 [B, T, D].
        """
        frames = self.input_frames(batch, rng)
        return self.module.apply(
            {"params": starts.network_params(params)},
            frames,
            enable_dropout=False,
            method="encode",
        ).astype(jnp.float32)

    def loss_fn(self, params, batch, dropout_rng):
        """Returns the loss of the tokens and of guided attention, and metrics."""
        encoded = batch["encoded"].astype(jnp.float32)
        logits, sown = self.module.apply(
            {"params": starts.network_params(params)},
            encoded,
            encoded,
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            mutable=["intermediates"],
            method="decode",
        )
        loss, metrics = self.loss_from_logits(logits, batch)
        metrics |= self._accuracies(logits, batch["decoder_target_tokens"])
        if self.guide.attention_weight:
            attention = self._attention_loss(sown["intermediates"], batch)
            divisor, weights = losses.normalizing_factor_and_weights(
                self._loss_normalizing_factor, batch
            )
            guided_loss = self.guide.attention_weight * attention
            loss += guided_loss if divisor is None else guided_loss / divisor
            count = jnp.sum(weights > 0, dtype=jnp.float32)
            metrics["attention_loss"] = losses.Average(attention, count)
        return loss, metrics

    def _accuracies(self, logits: jax.Array, targets: jax.Array) -> dict[str, Any]:
        """Returns the share of right tokens of each type; logits [B, L, V]."""
        codec = vocabularies.build_codec(self.config.vocabulary)
        right = jnp.argmax(logits, axis=-1) == targets

        def are(name: str) -> jax.Array:
            first, last = codec.event_type_range(name)
            first, last = (end + vocabularies.NUM_SPECIAL_IDS for end in (first, last))
            return (targets >= first) & (targets <= last)

        # A pitch is an onset where the last velocity before it is not 0; pitches of the
        # tie section have none before them.
        first_velocity, _ = codec.event_type_range("velocity")
        loud = targets > first_velocity + vocabularies.NUM_SPECIAL_IDS
        place = 2 * jnp.arange(targets.shape[1])[None]
        velocity = jax.lax.cummax(jnp.where(are("velocity"), place + loud, 0), axis=1)
        kinds = {
            "time": are("shift"),
            "onset_pitch": are("pitch") & (velocity % 2 == 1),
            "program": are("program"),
            "drum": are("drum"),
        }
        return {
            f"accuracy_{name}": losses.Average(
                jnp.sum(right & kind, dtype=jnp.float32),
                jnp.sum(kind, dtype=jnp.float32),
            )
            for name, kind in kinds.items()
        }
