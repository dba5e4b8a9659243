"""Training aids for small models: where to look, and what is there.

A sequence model sees for a long time only the statistics of its targets before its
cross-attention locks on to the audio. Three aids bring that moment forward; none
of them changes the network that is shipped:

1. *Frame head*: a linear layer on the encoder's output that says, frame by frame,
   which pitches begin and sound, which drums are hit, which instrument classes
   play, and how far away the next onset or offset is. The last makes time shifts
   readable at the frame that the decoder already looks at. It is a training-time
   parameter (`auxiliary`) and is dropped on export.
2. *Guided attention*: one head of each later decoder layer is rewarded for looking
   at a certain time, which is known from the targets (Tachibana et al. 2018 did this
   for speech synthesis): the last layer at the time of the event that it is about to
   write, the layers before it at the time of the event just written.
3. *Local attention*: some heads of the encoder are rewarded for looking a few frames
   back or ahead, so that onsets, which are differences between frames, are seen
   early on.
4. *Smooth time tokens*: embeddings and output columns of time shifts start as a
   rotation of the position table's rows at the matching frames instead of as
   independent random rows.
5. *Centred inputs*: the projection of frames starts without a response to what all
   bands have in common (log-mel silence is far from 0), and smaller, so that it
   does not drown the positions that are added to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mt3 import checkpoints, layers, losses, models, vocabularies
from mt3.configs import ModelConfig
from mt3.errors import ConfigError
from mt3.network import MAX_POSITIONS

NUM_CLASSES = 16
# Onsets, sounding, drum onsets by pitch; then sounding instrument classes.
FRAME_FEATURES = 3 * vocabularies.NUM_PITCHES + NUM_CLASSES
# Frames until the next event; the last class is "later, or never".
NEXT_EVENT_CLASSES = 64
AUXILIARY = "auxiliary"


@dataclasses.dataclass(frozen=True)
class GuideConfig:
    """Weights of the aids; 0 switches one off.

    Attributes:
      frame_weight: of the frame head's binary cross-entropy, summed over frames and
        features, against the tokens' summed cross-entropy.
      next_event_weight: of the cross-entropy of the distance to the next event,
        summed over frames.
      attention_weight: of -log(attention mass near the event) per token.
      attention_reach: frames before and after the event that count as near.
      local_weight: of -log(attention at a head's own distance) per frame.
      local_distances: frames from each position to where the encoder's first
        heads are to look, one head each, in all layers but the last.
      first_guided_layer: decoder layers from this on have a guided head.
      smooth_time_tokens: whether time shifts start smooth.
      centred_inputs: whether the input projection starts centred.
    """

    frame_weight: float = 0.1
    next_event_weight: float = 0.1
    attention_weight: float = 0.3
    attention_reach: tuple[int, int] = (3, 3)
    local_weight: float = 0.05
    local_distances: tuple[int, ...] = (-2, -1, 1, 2)
    first_guided_layer: int = 1
    smooth_time_tokens: bool = True
    centred_inputs: bool = True


# Log-mel values vary by about 3 where there is sound; positions by 0.7.
_INPUT_SCALE = 0.3


def frame_of_time(seconds: Any, config: ModelConfig) -> Any:
    """Returns the (fractional) frame whose window is centred on a time."""
    spectrogram = config.spectrogram
    centre = spectrogram.fft_size / (2 * spectrogram.hop_width)
    return seconds * spectrogram.frames_per_second - centre


def frame_targets(notes: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Marks what happens in each frame of a segment.

    Args:
      notes: structured array [n] of `note_sequences.NOTE_DTYPE`, seconds from the
        segment's start.
      config: frames of the segment and their rate.

    Returns:
      uint8 [inputs_length, FRAME_FEATURES].
    """
    frames, pitches = config.inputs_length, vocabularies.NUM_PITCHES
    result = np.zeros((frames, FRAME_FEATURES), np.uint8)
    start = np.rint(frame_of_time(notes["start_time"], config)).astype(int)
    end = np.rint(frame_of_time(notes["end_time"], config)).astype(int)
    for note, first, last in zip(notes, start, end, strict=True):
        pitch = int(note["pitch"])
        # Windows of the first frames reach back before the segment, so an onset
        # at its very start is seen there.
        first_shown = max(first, 0)
        if note["start_time"] >= 0 and first_shown < frames:
            column = pitch + (2 * pitches if note["is_drum"] else 0)
            result[first_shown : first_shown + 2, column] = 1
        if not note["is_drum"] and last >= 0:
            sounding = slice(first_shown, max(last, first_shown + 1))
            result[sounding, pitches + pitch] = 1
            result[sounding, 3 * pitches + int(note["program"]) // 8] = 1
    return result


def next_event_targets(notes: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Counts the frames from each frame's centre to the next onset or offset.

    Args:
      notes: as for `frame_targets`; drums have no offsets.
      config: frames of the segment and their rate.

    Returns:
      int32 [inputs_length], 0..`NEXT_EVENT_CLASSES` - 1.
    """
    times = np.concatenate([notes["start_time"], notes["end_time"][~notes["is_drum"]]])
    events = np.sort(frame_of_time(times[(times >= 0)], config))
    events = events[events <= frame_of_time(config.segment_seconds, config)]
    frames = np.arange(config.inputs_length)
    # An event of this very frame is not the next one.
    following = np.searchsorted(events, frames + 0.5, side="right")
    distance = np.append(events, np.inf)[following] - frames
    last = NEXT_EVENT_CLASSES - 1
    return np.rint(np.minimum(distance, last)).astype(np.int32)


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

    Its batches have two more keys, `frame_targets` [B, T, FRAME_FEATURES] and
    `next_event` [B, T]. Only `loss_fn` and the initial parameters differ;
    `network_params` leaves the network's own.
    """

    def __init__(
        self,
        *args,
        config: ModelConfig,
        guide: GuideConfig | None = None,
        initial_weights: str | None = None,
        **kwargs,
    ):
        """Takes the model's arguments and those of the aids.

        Args:
          *args: as the base class.
          config: frames and tokens.
          guide: weights of the aids.
          initial_weights: checkpoint to start the network from; the aids start
            anew.
          **kwargs: as the base class.

        Raises:
          ConfigError: more local heads than heads, or as the base class.
        """
        super().__init__(*args, **kwargs)
        self.config = config
        self.guide = guide or GuideConfig()
        heads = self.module.config.num_heads
        if len(self.guide.local_distances) > heads:
            raise ConfigError(
                f"guided: {len(self.guide.local_distances)} local_distances for "
                f"{heads} heads; expected at most one each"
            )
        self._initial_weights = initial_weights

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        """Returns the network's variables, the frame head and smooth time tokens."""
        variables = flax.core.unfreeze(
            super().get_initial_variables(rng, input_shapes, input_types)
        )
        params = variables["params"]
        if self._initial_weights is not None:
            loaded = checkpoints.load(self._initial_weights)
            checkpoints.check_parameters(loaded.params, self._sizes())
            params.update(jax.tree.map(jnp.asarray, loaded.params))
        elif self.guide.smooth_time_tokens:
            params["decoder"] = _with_smooth_time_tokens(params["decoder"], self.config)
        if self.guide.centred_inputs and self._initial_weights is None:
            projection = params["encoder"]["continuous_inputs_projection"]
            kernel = projection["kernel"]
            kernel = kernel - jnp.mean(kernel, axis=0, keepdims=True)
            projection["kernel"] = _INPUT_SCALE * kernel
        depth = self.module.config.emb_dim
        params[AUXILIARY] = {
            "kernel": jnp.zeros((depth, FRAME_FEATURES), jnp.float32),
            # Events are rare; start there instead of learning it.
            "bias": jnp.full((FRAME_FEATURES,), -5.0, jnp.float32),
            "next_event": jnp.zeros((depth, NEXT_EVENT_CLASSES), jnp.float32),
        }
        return flax.core.freeze(variables)

    def _sizes(self) -> ModelConfig:
        network_fields = self.module.config.to_dict()
        return dataclasses.replace(self.config, network=network_fields)

    def loss_fn(self, params, batch, dropout_rng):
        """Returns the sum of the token loss and the aids, and metrics.

        Without `dropout_rng`, or without `frame_targets` in the batch, this is the
        plain loss.
        """
        network = network_params(params)
        if dropout_rng is None or "frame_targets" not in batch:
            return super().loss_fn(network, batch, dropout_rng)
        encode_rng, decode_rng = jax.random.split(dropout_rng)
        encoded, sown = self.module.apply(
            {"params": network},
            batch["encoder_input_tokens"],
            rngs={"dropout": encode_rng},
            mutable=["intermediates"],
            method="encode",
        )
        local_loss = self._local_loss(sown["intermediates"])
        logits, sown = self.module.apply(
            {"params": network},
            encoded,
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            rngs={"dropout": decode_rng},
            mutable=["intermediates"],
            method="decode",
        )
        loss, metrics = self.loss_from_logits(logits, batch)
        head = params[AUXILIARY]
        frame_logits = jnp.matmul(encoded, head["kernel"]) + head["bias"][None, None]
        frame_loss = jnp.sum(
            optax.sigmoid_binary_cross_entropy(frame_logits, batch["frame_targets"])
        )
        next_event_loss = jnp.sum(
            optax.softmax_cross_entropy_with_integer_labels(
                jnp.matmul(encoded, head["next_event"]), batch["next_event"]
            )
        )
        attention_loss = self._attention_loss(sown["intermediates"], batch)
        metrics = {
            **metrics,
            "frame_loss": frame_loss,
            "next_event_loss": next_event_loss,
            "attention_loss": attention_loss,
            "local_loss": local_loss,
        }
        aids = (
            self.guide.frame_weight * frame_loss
            + self.guide.next_event_weight * next_event_loss
            + self.guide.attention_weight * attention_loss
            + self.guide.local_weight * local_loss
        )
        # The aids' weights are relative to the token loss, however that is scaled.
        divisor, _ = losses.normalizing_factor_and_weights(
            self._loss_normalizing_factor, batch
        )
        return loss + (aids if divisor is None else aids / divisor), metrics

    def _attention_loss(self, intermediates: Mapping[str, Any], batch) -> jax.Array:
        targets = batch["decoder_target_tokens"]
        near_input = self._near(batch["decoder_input_tokens"], batch)
        near_target = self._near(targets, batch)
        last = self.module.config.num_decoder_layers - 1
        total = 0.0
        for index in range(self.guide.first_guided_layer, last + 1):
            layer = intermediates["decoder"][f"layers_{index}"]
            weights = layer["encoder_decoder_attention"]["attention_weights"][0]
            near = near_target if index == last else near_input
            mass = jnp.sum(weights[:, 0] * near, axis=-1)
            total += jnp.sum(jnp.where(targets > 0, -jnp.log(mass + 1e-6), 0.0))
        return total

    def _local_loss(self, intermediates: Mapping[str, Any]) -> jax.Array:
        """Returns how little the local heads look where they should."""
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
        frames = batch["encoder_input_tokens"].shape[1]
        centre = frame_of_time(event_times(tokens, self.config), self.config)
        centre = jnp.clip(centre, 0, frames - 1)[..., None]
        before, after = self.guide.attention_reach
        position = jnp.arange(frames)[None, None, :]
        return (position >= centre - before) & (position <= centre + after)


def network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of training aids."""
    return {key: value for key, value in params.items() if key != AUXILIARY}


def _with_smooth_time_tokens(decoder, config: ModelConfig):
    """Replaces the rows and columns of time shifts by rotated positions."""
    decoder = dict(decoder)
    table = np.asarray(decoder["token_embedder"]["embedding"]).copy()
    depth = table.shape[1]
    rate = config.vocabulary.steps_per_second
    steps = np.arange(int(config.segment_seconds * rate) + 2)
    positions = layers.sinusoidal_table(MAX_POSITIONS, depth)
    frames = np.clip(frame_of_time(steps / rate, config), 0, MAX_POSITIONS - 1)
    whole = np.floor(frames).astype(int)
    part = (frames - whole)[:, None]
    rows = (1 - part) * positions[whole] + part * positions[whole + 1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(depth, depth)))
    # Rows of the position table have half the power of random embeddings.
    smooth = (np.sqrt(2.0) * rows @ rotation).astype(np.float32)
    ids = vocabularies.NUM_SPECIAL_IDS + steps
    table[ids] = smooth
    decoder["token_embedder"] = {"embedding": jnp.asarray(table)}
    if "logits_dense" in decoder:
        kernel = np.asarray(decoder["logits_dense"]["kernel"]).copy()
        kernel[:, ids] = smooth.T / np.sqrt(depth)
        decoder["logits_dense"] = {"kernel": jnp.asarray(kernel)}
    return decoder
