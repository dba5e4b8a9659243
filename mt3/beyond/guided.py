"""Training aids for small models and short runs.

A sequence model of this kind learns little until its decoder has found out which
frames belong to the token it is writing. These aids bring that moment forward. They
change the loss and the starting point (`starts`), never the network or its outputs.
The parameters of the heads are not part of the network; export keeps those that
decoding can use (`frame_heads.HEADS`).

1. *Heads* (`frame_heads`): the probabilities that a note begins or sounds are trained
   in the harmonic stem, on the encoder's output and on both; the class of each note,
   its velocity and exact time in the frame after its onset; likewise those of drums.
   The class is also trained in frame 1 for notes that sound from before. One more head
   predicts the distance to the next event. All frames count, those of the context, too.
   The weights of the heads are in the parameters under `starts.AUXILIARY`.
2. *Guided attention*: heads of the later decoder layers are rewarded for looking at a
   certain time, which is known from the targets (Tachibana et al. 2018 did this for
   speech synthesis). In the last layer, all heads or one look at the event that the
   decoder is about to write; in each layer before it, one head looks at the event just
   written.
3. *Local attention*: some heads of the encoder are rewarded for looking a few frames
   back or ahead, so that onsets, which are differences between frames, are recognised
   early.

A batch may contain samples instead of frames: augmentation and spectrogram are then
computed here, on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from mt3 import (
    frame_heads,
    harmonic_stem,
    losses,
    models,
    spectrograms,
    vocabularies,
)
from mt3.beyond import grids, starts, velocity
from mt3.beyond.grids import NUM_CLASSES, frame_of_time
from mt3.configs import ModelConfig
from mt3.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class GuideConfig:
    """Weights of the aids; 0 switches one off.

    All losses are sums, so the weights are relative to the summed loss of the tokens.

    Attributes:
      token_weight: weight of the tokens' loss; 0 trains the encoder alone and does not
        run the decoder.
      frame_weight: weight of the frame head's binary cross-entropy, summed over frames
        and features.
      note_weight: weight of the binary cross-entropy of the stem's and the refined
        head's probabilities, summed over frames and pitches.
      refined_share: the refined head's share of that.
      class_weight: weight of the cross-entropy of classes, summed over notes.
      velocity_weight: weight of the squared error of velocity / 127, summed over notes
        and drum hits whose velocity is known, and of the velocity heads' loss
        (`velocity`).
      time_weight: weight of the squared error of the onset in frames, likewise.
      next_event_weight: weight of the cross-entropy of the distance to the next event,
        summed over frames.
      attention_weight: weight of -log(attention mass near the event) per token.
      guide_all_heads: guide all heads of the last decoder layer instead of one.
      attention_reach: frames before and after the event that count as near.
      local_weight: weight of -log(attention at a head's own distance) per frame.
      local_distances: distance in frames at which each of the encoder's first heads
        looks, in all layers but the last.
      first_guided_layer: the first decoder layer with a guided head.
    """

    token_weight: float = 1.0
    frame_weight: float = 0.2
    note_weight: float = 0.4
    refined_share: float = 0.6
    class_weight: float = 1.0
    velocity_weight: float = 5.0
    time_weight: float = 1.0
    next_event_weight: float = 0.1
    attention_weight: float = 0.3
    guide_all_heads: bool = False
    attention_reach: tuple[int, int] = (3, 3)
    local_weight: float = 0.05
    local_distances: tuple[int, ...] = (-2, -1, 1, 2)
    first_guided_layer: int = 1


def event_times(target_tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Returns the time of each target token from the segment's start.

    Args:
      target_tokens: int [B, L], vocabulary ids; shifts are absolute.
      config: resolution of time.

    Returns:
      float32 [B, L], seconds; the tie section is at 0.
    """
    value = target_tokens - vocabularies.NUM_SPECIAL_IDS
    longest = config.vocabulary.steps_per_second * config.vocabulary.max_shift_seconds
    steps = jnp.where((value >= 0) & (value <= longest), value, 0)
    steps = jax.lax.cummax(steps, axis=1)
    return steps.astype(jnp.float32) / config.vocabulary.steps_per_second


class GuidedModel(models.ContinuousInputsEncoderDecoderModel):
    """The model with training aids.

    Its batches contain `notes` [B, N, 5] (`grids.note_rows`) besides the tokens, and
    frames or `samples` int16 [B, history + input_samples]. Only the losses and the
    initial parameters differ from the base class; `starts.network_params` selects
    those of the network.
    """

    def __init__(
        self,
        *args,
        config: ModelConfig,
        guide: GuideConfig | None = None,
        augmentation: Any = None,
        initial_weights: str | None = None,
        **kwargs,
    ):
        """Takes the model's arguments and those of the aids.

        Args:
          *args: as the base class.
          config: frames and tokens.
          guide: weights of the aids.
          augmentation: `augmentation.AugmentationConfig` for training batches of
            samples; None for no augmentation. Its `augmenter` method makes the
            augmenter, so that this module needs no synthesis code.
          initial_weights: file, or folder of a training run, to start from; see
            `starts.from_weights`.
          **kwargs: as the base class.

        Raises:
          ConfigError: more local heads than heads, or as the base class.
        """
        super().__init__(*args, **kwargs)
        self.config = config
        self.guide = guide or GuideConfig()
        self.augmenter = None
        if augmentation is not None:
            self.augmenter = augmentation.augmenter(
                config.input_samples, sample_rate=config.spectrogram.sample_rate
            )
        heads = self.module.config.num_heads
        if self.guide.local_weight and len(self.guide.local_distances) > heads:
            raise ConfigError(
                f"guided: {len(self.guide.local_distances)} local_distances for "
                f"{heads} heads; expected at most one each"
            )
        self._initial_weights = initial_weights

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        """Returns the network's variables and the heads; see `starts`."""
        input_shapes = {
            **input_shapes,
            "encoder_input_tokens": (1, self.config.inputs_length, self.input_depth),
        }
        variables = flax.core.unfreeze(
            super().get_initial_variables(rng, input_shapes, input_types)
        )
        sizes = self.module.config
        if self._initial_weights is not None:
            variables["params"] = starts.from_weights(
                variables["params"], sizes, self.config, self._initial_weights
            )
        else:
            variables["params"] = starts.from_nothing(
                variables["params"], sizes, self.config
            )
        return flax.core.freeze(variables)

    def input_frames(self, batch, rng: jax.Array | None = None) -> jax.Array:
        """Returns the batch's frames, computed from its samples if it has those.

        Args:
          batch: with `encoder_input_tokens` or `samples`.
          rng: a key for augmentation; None for no augmentation.
        """
        if "samples" not in batch:
            return batch["encoder_input_tokens"]
        audio = batch["samples"].astype(jnp.float32) / 32768.0
        augmenter = self.augmenter if rng is not None else None
        if augmenter is None:
            audio = audio[:, -self.config.input_samples :]
        else:
            audio_rng, frames_rng = jax.random.split(rng)
            audio = augmenter.batch(audio_rng, audio)
        frames = spectrograms.compute_spectrogram(audio, self.config.spectrogram)
        return frames if augmenter is None else augmenter.frames(frames_rng, frames)

    def loss_fn(self, params, batch, dropout_rng):
        """Returns the sum of the token loss and the aids, and metrics.

        Without `notes` in the batch this is the plain loss.
        """
        network = starts.network_params(params)
        rngs = [None] * 3
        if dropout_rng is not None:
            rngs = list(jax.random.split(dropout_rng, 3))
        frames = self.input_frames(batch, rngs[0])
        if "notes" not in batch:
            batch = {**batch, "encoder_input_tokens": frames}
            return super().loss_fn(network, batch, dropout_rng)
        encoded, sown = self.module.apply(
            {"params": network},
            frames,
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": rngs[1]},
            mutable=["intermediates"],
            method="encode",
        )
        aids, metrics = self._encoder_aids(
            params[starts.AUXILIARY],
            frames,
            encoded,
            sown["intermediates"],
            batch["notes"],
        )
        # The aids' weights are relative to the token loss, however that is scaled.
        divisor, _ = losses.normalizing_factor_and_weights(
            self._loss_normalizing_factor, batch
        )
        loss = jnp.zeros((), jnp.float32)
        if self.guide.token_weight:
            logits, sown = self.module.apply(
                {"params": network},
                encoded,
                frames,
                batch["decoder_input_tokens"],
                batch["decoder_target_tokens"],
                enable_dropout=dropout_rng is not None,
                rngs=None if dropout_rng is None else {"dropout": rngs[2]},
                mutable=["intermediates"],
                method="decode",
            )
            token_loss, token_metrics = self.loss_from_logits(logits, batch)
            loss = self.guide.token_weight * token_loss
            attention = self._attention_loss(sown["intermediates"], batch)
            aids += self.guide.attention_weight * attention
            metrics = {**token_metrics, **metrics, "attention_loss": attention}
        return loss + (aids if divisor is None else aids / divisor), metrics

    def _encoder_aids(self, heads, frames, encoded, intermediates, notes):
        """Returns the weighted sum of the encoder's aids, and metrics."""
        guide, config = self.guide, self.config
        begin = grids.onset_grid(notes, config)
        sound = grids.sounding_grid(notes, config)
        hits = grids.onset_grid(notes, config, drums=True)
        playing = grids.sounding_grid(notes, config, classes=True)
        targets = jnp.concatenate([begin, sound, hits, playing], axis=-1)
        logits = frame_heads.frame_logits(heads, encoded)
        loss = _binary_loss(jnp.concatenate(logits, axis=-1), targets)
        metrics = {"frame_loss": loss}
        metrics |= _counts("onset", logits.onsets, begin)
        metrics |= _counts("drum", logits.drums, hits)
        metrics["next_event_loss"] = jnp.sum(
            optax.softmax_cross_entropy_with_integer_labels(
                jnp.matmul(encoded, heads["next_event"]),
                grids.next_event(notes, config),
            )
        )
        metrics["local_loss"] = jnp.zeros((), jnp.float32)
        if guide.local_weight:
            metrics["local_loss"] = self._local_loss(intermediates)
        aids = (
            guide.frame_weight * metrics["frame_loss"]
            + guide.next_event_weight * metrics["next_event_loss"]
            + guide.local_weight * metrics["local_loss"]
        )
        if self.module.config.harmonic_channels:
            sown = intermediates["encoder"]["harmonic_stem"]
            targets = jnp.stack([begin, sound], axis=-1)
            metrics |= self._note_losses(heads, encoded, sown, targets, notes)
            metrics["velocity_loss"] += velocity.segment_loss(
                heads, frames, notes, self.config
            )
            aids += (
                guide.note_weight * metrics["note_loss"]
                + guide.class_weight * metrics["class_loss"]
                + guide.velocity_weight * metrics["velocity_loss"]
                + guide.time_weight * metrics["time_loss"]
            )
        return aids, metrics

    def _note_losses(self, heads, encoded, sown, targets, rows):
        """Returns the losses of what is said of single notes, and counts."""
        described, stem = sown["described"][0], sown["note_logits"][0]
        low, pitches = harmonic_stem.LOWEST_PITCH, harmonic_stem.NUM_PITCHES
        targets = targets[:, :, low : low + pitches]
        refined = frame_heads.refined_logits(heads, encoded, described)
        share = self.guide.refined_share
        note_loss = share * _binary_loss(refined, targets)
        note_loss += (1 - share) * _binary_loss(stem, targets)

        batch = jnp.arange(len(rows))[:, None]
        notes = grids.places(rows, self.config, low, pitches)
        outputs = frame_heads.note_outputs_at(
            heads,
            encoded[batch, notes.frame],
            described[batch, notes.frame, notes.pitch],
            notes.pitch,
        )
        classes = outputs[..., :NUM_CLASSES]
        wanted = jnp.clip(rows[..., 3].astype(jnp.int32), 0, NUM_CLASSES - 1)
        class_loss = optax.softmax_cross_entropy_with_integer_labels(classes, wanted)
        right = notes.begins & (jnp.argmax(classes, axis=-1) == wanted)

        every = vocabularies.NUM_PITCHES
        hits = grids.places(rows, self.config, 0, every, drums=True)
        details = frame_heads.drum_details(heads, encoded)[batch, hits.frame]
        velocity, time = (
            jnp.take_along_axis(part, hits.pitch[..., None], axis=-1)[..., 0]
            for part in jnp.split(details, 2, axis=-1)
        )
        told = [(notes, *jnp.moveaxis(outputs[..., NUM_CLASSES:], -1, 0))]
        told.append((hits, velocity, time))
        true = rows[..., 4] / 127 - frame_heads.VELOCITY_OFFSET
        known = rows[..., 4] > 0
        return {
            "note_loss": note_loss,
            "class_loss": _sum_where(notes.begins | notes.tied, class_loss),
            "velocity_loss": sum(
                _sum_where(where.begins & known, jnp.square(velocity - true))
                for where, velocity, _ in told
            ),
            "time_loss": sum(
                _sum_where(where.timed, jnp.square(time - where.time))
                for where, _, time in told
            ),
            "notes": jnp.sum(notes.begins, dtype=jnp.float32),
            "classes_right": jnp.sum(right, dtype=jnp.float32),
            **_counts("stem_onset", stem[..., 0], targets[..., 0]),
            **_counts("refined_onset", refined[..., 0], targets[..., 0]),
        }

    def _attention_loss(self, intermediates: Mapping[str, Any], batch) -> jax.Array:
        """Returns the loss of guided attention, summed over tokens and layers."""
        targets = batch["decoder_target_tokens"]
        near_input = self._near(batch["decoder_input_tokens"], batch)
        near_target = self._near(targets, batch)
        last = self.module.config.num_decoder_layers - 1
        every = self.guide.guide_all_heads
        total = 0.0
        for index in range(self.guide.first_guided_layer, last + 1):
            layer = intermediates["decoder"][f"layers_{index}"]
            weights = layer["encoder_decoder_attention"]["attention_weights"][0]
            near = near_target if index == last else near_input
            heads = slice(None) if index == last and every else slice(0, 1)
            mass = jnp.sum(weights[:, heads] * near[:, None], axis=-1)
            cost = jnp.mean(-jnp.log(mass + 1e-6), axis=1)
            total += jnp.sum(jnp.where(targets > 0, cost, 0.0))
        return total

    def _local_loss(self, intermediates: Mapping[str, Any]) -> jax.Array:
        """Returns the loss of local attention, summed over frames and heads."""
        total = jnp.zeros((), jnp.float32)
        for index in range(self.module.config.num_encoder_layers - 1):
            layer = intermediates["encoder"][f"layers_{index}"]
            weights = layer["attention"]["attention_weights"][0]
            for head, distance in enumerate(self.guide.local_distances):
                there = jnp.diagonal(weights[:, head], distance, axis1=1, axis2=2)
                total -= jnp.sum(jnp.log(there + 1e-6))
        return total

    def _near(self, tokens: jax.Array, batch) -> jax.Array:
        """Marks the frames near each token's time, bool [B, L, T]."""
        frames = self.config.inputs_length
        centre = frame_of_time(event_times(tokens, self.config), self.config)
        centre = jnp.clip(centre, 0, frames - 1)[..., None]
        before, after = self.guide.attention_reach
        position = jnp.arange(frames)[None, None, :]
        return (position >= centre - before) & (position <= centre + after)


def _binary_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets))


def _sum_where(chosen: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(chosen, values, 0.0))


def _counts(name: str, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Counts cells found, marked, and both found and marked, for an F-score."""
    found = logits > 0
    return {
        f"{name}_found": jnp.sum(found, dtype=jnp.float32),
        f"{name}_marked": jnp.sum(targets > 0, dtype=jnp.float32),
        f"{name}_right": jnp.sum(found & (targets > 0), dtype=jnp.float32),
    }
