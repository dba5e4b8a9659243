"""Training aids for small models and short runs.

A sequence model of this kind learns little until its decoder has found out which
frames belong to the token it is writing. These aids bring that forward. They
change the loss and the starting point, never the network or what it outputs. Their
parameters are not part of the network; of the heads, export keeps what decoding can
use (`frame_heads`).

1. The harmonic stem's probabilities that a note begins or sounds are trained as such,
   and a *class head* says of which MIDI class the note is that begins. *Frame heads*
   on the encoder's output say which pitches begin and sound, which drums are hit,
   which classes play, and how far away the next event is. The heads' weights live
   beside the network's (`auxiliary`).
2. *Guided attention*: heads of the later decoder layers are rewarded for looking at a
   certain time, which is known from the targets (Tachibana et al. 2018 did this for
   speech synthesis): all or one of the last layer's at the time of the event that it
   is about to write, one of each layer before it at that of the event just written.
3. *Local attention*: some heads of the encoder are rewarded for looking a few frames
   back or ahead, so that onsets, which are differences between frames, are seen
   early on.
4. *Smooth time tokens*: embeddings and output columns of time shifts start as a
   rotation of the position table's rows at the matching frames instead of as
   independent random rows.
5. *Centred inputs*: the projection of frames starts without a response to what all
   bands have in common (log-mel silence is far from 0), and smaller, so that it
   does not drown the positions that are added to it. With the harmonic stem, whose
   inputs lie within 0..1, this does nothing.

6. *Copying start*: with the harmonic stem, the last decoder layer's cross-attention
   starts by handing on the frames that it looks at unchanged; the output columns of
   pitches start as the directions in which the stem marks them as beginning, those of
   time shifts as the position rows of the matching frames. A decoder that looks at
   the right frame then writes the right time and pitches.

Batches may hold samples instead of frames: augmentation and spectrogram are then
computed here, on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mt3 import (
    checkpoints,
    harmonic_stem,
    layers,
    losses,
    models,
    spectrograms,
    vocabularies,
)
from mt3.beyond import grids
from mt3.beyond.grids import NEXT_EVENT_CLASSES, NUM_CLASSES, frame_of_time
from mt3.configs import ModelConfig
from mt3.errors import ConfigError
from mt3.network import MAX_POSITIONS, T5Config

AUXILIARY = "auxiliary"
_CLASS_WEIGHT = 3.0
_HEAD_SCALE = 0.05
# Neighbouring frames have nearly equal rows.
_TIME_GAIN = 2.0


@dataclasses.dataclass(frozen=True)
class GuideConfig:
    """Weights of the aids; 0 switches one off.

    Attributes:
      token_weight: of the tokens' loss; 0 trains the encoder alone, and leaves the
        decoder's work undone.
      note_weight: of the cross-entropy of the stem's probabilities and of the class
        head, summed over frames and pitches, against the tokens' summed one.
      frame_weight: of the frame head's binary cross-entropy, summed over frames and
        features, against the tokens' summed cross-entropy.
      next_event_weight: of the cross-entropy of the distance to the next event,
        summed over frames.
      attention_weight: of -log(attention mass near the event) per token.
      guide_all_heads: guide all heads of the last decoder layer instead of one.
      attention_reach: frames before and after the event that count as near.
      local_weight: of -log(attention at a head's own distance) per frame.
      local_distances: frames from each position to where the encoder's first
        heads are to look, one head each, in all layers but the last.
      first_guided_layer: decoder layers from this on have a guided head.
      smooth_time_tokens: whether time shifts start smooth.
      centred_inputs: whether the input projection starts centred.
      copying_start: whether the last decoder layer starts by copying.
    """

    token_weight: float = 1.0
    note_weight: float = 0.1
    frame_weight: float = 0.1
    next_event_weight: float = 0.1
    attention_weight: float = 0.3
    guide_all_heads: bool = False
    attention_reach: tuple[int, int] = (3, 3)
    local_weight: float = 0.05
    local_distances: tuple[int, ...] = (-2, -1, 1, 2)
    first_guided_layer: int = 1
    smooth_time_tokens: bool = True
    centred_inputs: bool = True
    copying_start: bool = True


# Log-mel values vary by about 3 where there is sound; positions by 0.7.
_INPUT_SCALE = 0.3


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

    Its batches hold `notes` [B, N, 4] (`grids.note_rows`) beside the tokens, and
    frames or `samples` int16 [B, history + segment]. Only the losses and the initial
    parameters differ; `network_params` leaves the network's own.
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
            samples; None leaves them as they are.
          initial_weights: file, or folder of a training run, to start the network
            from; heads of the same shapes are taken over, others start anew.
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
                config.segment_samples, sample_rate=config.spectrogram.sample_rate
            )
        heads = self.module.config.num_heads
        if len(self.guide.local_distances) > heads:
            raise ConfigError(
                f"guided: {len(self.guide.local_distances)} local_distances for "
                f"{heads} heads; expected at most one each"
            )
        self._initial_weights = initial_weights

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        """Returns the network's variables, the heads and smooth time tokens."""
        input_shapes = {
            **input_shapes,
            "encoder_input_tokens": (1, self.config.inputs_length, self.input_depth),
        }
        variables = flax.core.unfreeze(
            super().get_initial_variables(rng, input_shapes, input_types)
        )
        params = variables["params"]
        loaded: dict[str, Any] = {}
        if self._initial_weights is not None:
            loaded = self._read_weights(self._initial_weights)
            params.update(jax.tree.map(jnp.asarray, network_params(loaded)))
        else:
            if self.guide.smooth_time_tokens:
                params["decoder"] = _with_smooth_time_tokens(
                    params["decoder"], self.config
                )
            if self.guide.copying_start:
                params["decoder"] = with_copying_start(
                    params, self.module.config, self.config
                )
        projection = params["encoder"].get("continuous_inputs_projection")
        fresh = self._initial_weights is None
        if projection is not None and fresh and self.guide.centred_inputs:
            kernel = projection["kernel"]
            kernel = kernel - jnp.mean(kernel, axis=0, keepdims=True)
            projection["kernel"] = _INPUT_SCALE * kernel
        # The heads begin from what the network marks, so they come last.
        heads = self._initial_heads(params)
        known = {**loaded.get(harmonic_stem.HEADS, {}), **loaded.get(AUXILIARY, {})}
        for name, value in known.items():
            if name in heads and jnp.shape(heads[name]) == np.shape(value):
                heads[name] = jnp.asarray(value)
        params[AUXILIARY] = heads
        return flax.core.freeze(variables)

    def _initial_heads(self, params) -> dict[str, jax.Array]:
        sizes = self.module.config
        rng = np.random.default_rng(0)

        def kernel(depth: int, width: int) -> jax.Array:
            # Not zero, or nothing would be passed on to the encoder at first.
            return jnp.asarray(rng.normal(0, _HEAD_SCALE, (depth, width)), jnp.float32)

        # Events are rare; the biases start there instead of learning it.
        heads = {
            "kernel": kernel(sizes.emb_dim, harmonic_stem.FRAME_FEATURES),
            "bias": jnp.full((harmonic_stem.FRAME_FEATURES,), -5.0, jnp.float32),
            "next_event": kernel(sizes.emb_dim, NEXT_EVENT_CLASSES),
        }
        if sizes.harmonic_channels:
            pitches, low = harmonic_stem.NUM_PITCHES, harmonic_stem.LOWEST_PITCH
            for kind, marks in enumerate(_note_directions(params)):
                first = kind * vocabularies.NUM_PITCHES + low
                columns = slice(first, first + pitches)
                heads["kernel"] = heads["kernel"].at[:, columns].set(marks.T)
            heads["class_kernel"] = kernel(sizes.note_channels, NUM_CLASSES)
            heads["class_bias"] = jnp.zeros((pitches, NUM_CLASSES), jnp.float32)
        return heads

    def _read_weights(self, path: str) -> dict[str, Any]:
        """Returns a checkpoint's parameters, the network's checked, heads kept."""
        if Path(path).is_dir():
            folder = checkpoints.find_checkpoint(path)
            params = dict(checkpoints.load_orbax(folder).params)
        else:
            params = dict(checkpoints.load(path).params)
        network = {**self.module.config.to_dict(), "frame_heads": False}
        sizes = dataclasses.replace(self.config, network=network)
        checkpoints.check_parameters(network_params(params), sizes, source=path)
        return params

    def input_frames(self, batch, rng: jax.Array | None = None) -> jax.Array:
        """Returns the batch's frames, computed of its samples where it has those.

        Args:
          batch: with `encoder_input_tokens` or `samples`.
          rng: a key for augmentation; None for none.
        """
        if "samples" not in batch:
            return batch["encoder_input_tokens"]
        audio = batch["samples"].astype(jnp.float32) / 32768.0
        augmenter = self.augmenter if rng is not None else None
        if augmenter is None:
            audio = audio[:, -self.config.segment_samples :]
        else:
            audio_rng, frames_rng = jax.random.split(rng)
            audio = augmenter.batch(audio_rng, audio)
        frames = spectrograms.compute_spectrogram(
            audio, self.config.spectrogram, xp=jnp
        )
        return frames if augmenter is None else augmenter.frames(frames_rng, frames)

    def loss_fn(self, params, batch, dropout_rng):
        """Returns the sum of the token loss and the aids, and metrics.

        Without `notes` in the batch this is the plain loss.
        """
        network = network_params(params)
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
            params[AUXILIARY], encoded, sown["intermediates"], batch["notes"]
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

    def _encoder_aids(self, heads, encoded, intermediates, notes):
        """Returns the weighted losses of what is guided in the encoder, and metrics."""
        guide, config = self.guide, self.config
        begin = grids.onset_grid(notes, config)
        sound = grids.sounding_grid(notes, config)
        hits = grids.onset_grid(notes, config, drums=True)
        playing = grids.sounding_grid(notes, config, classes=True)
        targets = jnp.concatenate([begin, sound, hits, playing], axis=-1)
        logits = harmonic_stem.frame_logits(heads, encoded)
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
            note_loss, counts = self._note_loss(heads, sown, targets, notes)
            metrics |= {"note_loss": note_loss, **counts}
            aids += guide.note_weight * note_loss
        return aids, metrics

    def _note_loss(self, heads, sown, targets, notes):
        """Returns the loss of what the harmonic stem says of notes, and metrics."""
        described, logits = sown["described"][0], sown["note_logits"][0]
        low = harmonic_stem.LOWEST_PITCH
        targets = targets[:, :, low : low + harmonic_stem.NUM_PITCHES]
        there, begins = grids.at_onsets(described, notes, self.config, low)
        pitch = jnp.clip(
            notes[..., 2].astype(jnp.int32) - low, 0, len(heads["class_bias"]) - 1
        )
        classes = harmonic_stem.class_logits(heads, there, pitch)
        wanted = jnp.clip(notes[..., 3].astype(jnp.int32), 0, NUM_CLASSES - 1)
        class_loss = optax.softmax_cross_entropy_with_integer_labels(classes, wanted)
        right = begins & (jnp.argmax(classes, axis=-1) == wanted)
        metrics = {
            "notes": jnp.sum(begins, dtype=jnp.float32),
            "classes_right": jnp.sum(right, dtype=jnp.float32),
            **_counts("stem_onset", logits[..., 0], targets[..., 0]),
        }
        # A class counts for as much as a few of the cells that its note fills.
        loss = _binary_loss(logits, targets)
        return loss + _CLASS_WEIGHT * jnp.sum(class_loss * begins), metrics

    def _attention_loss(self, intermediates: Mapping[str, Any], batch) -> jax.Array:
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
        frames = self.config.inputs_length
        centre = frame_of_time(event_times(tokens, self.config), self.config)
        centre = jnp.clip(centre, 0, frames - 1)[..., None]
        before, after = self.guide.attention_reach
        position = jnp.arange(frames)[None, None, :]
        return (position >= centre - before) & (position <= centre + after)


def _binary_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets))


def _counts(name: str, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Counts cells found, cells marked and cells found rightly, for an F-score."""
    found = logits > 0
    return {
        f"{name}_found": jnp.sum(found, dtype=jnp.float32),
        f"{name}_marked": jnp.sum(targets > 0, dtype=jnp.float32),
        f"{name}_right": jnp.sum(found & (targets > 0), dtype=jnp.float32),
    }


def network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of training aids."""
    aids = (AUXILIARY, harmonic_stem.HEADS)
    return {key: value for key, value in params.items() if key not in aids}


def trained_heads(
    params: Mapping[str, Any], config: ModelConfig
) -> dict[str, jax.Array]:
    """Returns what `frame_heads` needs of a training run's parameters; may be empty.

    Args:
      params: of a checkpoint, with or without those of training aids.
      config: the run's model.
    """
    sizes = T5Config.from_dict(config.network)
    wanted = harmonic_stem.head_shapes(sizes.emb_dim, sizes.note_channels)
    heads = params.get(AUXILIARY, {})
    found = {name: heads[name] for name in harmonic_stem.HEAD_PARTS if name in heads}
    shapes = {name: tuple(np.shape(value)) for name, value in found.items()}
    return found if sizes.harmonic_channels and shapes == wanted else {}


def _with_smooth_time_tokens(decoder, config: ModelConfig):
    """Replaces the rows and columns of time shifts by rotated positions."""
    decoder = dict(decoder)
    table = np.asarray(decoder["token_embedder"]["embedding"]).copy()
    depth = table.shape[1]
    ids, rows = _time_rows(depth, config)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(depth, depth)))
    # Rows of the position table have half the power of random embeddings.
    smooth = (np.sqrt(2.0) * rows @ rotation).astype(np.float32)
    table[ids] = smooth
    decoder["token_embedder"] = {"embedding": jnp.asarray(table)}
    if "logits_dense" in decoder:
        kernel = np.asarray(decoder["logits_dense"]["kernel"]).copy()
        kernel[:, ids] = smooth.T / np.sqrt(depth)
        decoder["logits_dense"] = {"kernel": jnp.asarray(kernel)}
    return decoder


def with_copying_start(params, sizes: T5Config, config: ModelConfig) -> dict[str, Any]:
    """Returns the decoder's parameters for a start by copying what is marked.

    Args:
      params: the network's parameters.
      sizes: its sizes; without a harmonic stem, or where the heads do not fill the
        embedding, nothing changes.
      config: rate of frames and time shifts.
    """
    decoder = dict(params["decoder"])
    joined = sizes.num_heads * sizes.head_dim
    if not sizes.harmonic_channels or joined != sizes.emb_dim:
        return decoder
    name = f"layers_{sizes.num_decoder_layers - 1}"
    layer = dict(decoder[name])
    attention = dict(layer["encoder_decoder_attention"])
    attention["value"] = {"kernel": jnp.eye(joined, dtype=jnp.float32)}
    attention["out"] = {"kernel": jnp.eye(joined, dtype=jnp.float32)}
    layer["encoder_decoder_attention"] = attention
    decoder[name] = layer
    if "logits_dense" not in decoder:
        return decoder
    begins, _ = _note_directions(params)
    codec = vocabularies.build_codec(config.vocabulary)
    first = vocabularies.NUM_SPECIAL_IDS + codec.event_type_range("pitch")[0]
    first += harmonic_stem.LOWEST_PITCH
    kernel = np.asarray(decoder["logits_dense"]["kernel"]).copy()
    kernel[:, first : first + len(begins)] = begins.T
    ids, rows = _time_rows(sizes.emb_dim, config)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kernel[:, ids] = _TIME_GAIN * rows.T
    decoder["logits_dense"] = {"kernel": jnp.asarray(kernel)}
    return decoder


def _note_directions(params) -> tuple[np.ndarray, np.ndarray]:
    """Returns how the stem marks each pitch as beginning and sounding, [88, D] each."""
    stem = params["encoder"]["harmonic_stem"]
    marks = np.asarray(stem["probabilities_projection"]["kernel"])
    marks = marks.reshape(harmonic_stem.NUM_PITCHES, 2, -1)
    marks = marks / np.linalg.norm(marks, axis=-1, keepdims=True)
    return marks[:, 0], marks[:, 1]


def _time_rows(depth: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of a segment's time shifts, and position rows [n, depth]."""
    rate = config.vocabulary.steps_per_second
    steps = np.arange(int(config.segment_seconds * rate) + 2)
    positions = layers.sinusoidal_table(MAX_POSITIONS, depth)
    frames = np.clip(frame_of_time(steps / rate, config), 0, MAX_POSITIONS - 1)
    whole = np.floor(frames).astype(int)
    part = (frames - whole)[:, None]
    rows = (1 - part) * positions[whole] + part * positions[whole + 1]
    return vocabularies.NUM_SPECIAL_IDS + steps, rows
