"""The MT3 network: a T5 encoder-decoder whose inputs are spectrogram frames.

Encoder: a dense layer from the frame's features to the embedding, plus fixed
sinusoidal positions, plus pre-norm layers of self-attention and gated MLP. Nothing is
masked, so zero frames after the end of a recording are seen like any others. Decoder:
token embedding plus positions, pre-norm layers of causal self-attention,
cross-attention and gated MLP, and a separate dense layer to float32 logits. The
parameter tree is the one of the released T5X checkpoints.

Differences from the original network:

1. `decoder_positions` and `encoder_positions` are honoured (the original ignored
   them, so packed examples had wrong positions).
2. More than `MAX_POSITIONS` frames or tokens, and inputs of a wrong rank, depth or
   batch, raise `ShapeError` (the original returned NaN, or failed inside JAX).
3. Tied logits (`logits_via_embedding`) work.
4. Decoding step by step is functional and not part of the modules (`decoding.columns`):
   caches go in and come out, and cross-attention keys and values are computed once per
   segment.
5. With `T5Config.harmonic_channels` the dense layer on frames is `harmonic_stem`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mt3 import harmonic_stem, layers
from mt3.errors import ConfigError, ShapeError, near_misses

Array = jax.Array

# Rows of the position table; no segment and no target may be longer.
MAX_POSITIONS = 2048
_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of the network, checked when made; the defaults are those of `mt3`.

    Attributes:
      vocab_size: rows of the token embedding and number of logits
        (`vocabularies.num_embeddings`: a multiple of 128).
      dtype: computation type, `float32`, `bfloat16` or `float16`. Parameters,
        attention logits, softmax and output logits are float32 in any case.
      emb_dim: features of the residual stream; even, at least 4.
      num_heads: attention heads.
      num_encoder_layers: encoder layers.
      num_decoder_layers: decoder layers.
      head_dim: features of a head.
      mlp_dim: width of the feed-forward block.
      mlp_activations: names of the activations that gate each other.
      dropout_rate: in [0, 1).
      logits_via_embedding: use the token embedding for the logits, divided by the
        root of `emb_dim`, and no separate output layer.
      input_depth: features of an input frame (mel bands).
      harmonic_channels: channels of `harmonic_stem`, which then takes the place of
        the dense layer on frames (not part of the original); 0 for that layer.
      note_channels: numbers by which the stem describes each note.
      frame_heads: whether the parameters have `frame_heads` beside encoder and
        decoder; it needs the stem.

    Raises:
      ConfigError: a value cannot work; the message names the field.
    """

    vocab_size: int
    dtype: Any = "float32"
    emb_dim: int = 512
    num_heads: int = 6
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    head_dim: int = 64
    mlp_dim: int = 1024
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    input_depth: int = 512
    harmonic_channels: int = 0
    note_channels: int = 16
    frame_heads: bool = False

    def __post_init__(self):
        # JSON and gin give lists, NumPy integers and dtype objects; the network is a
        # Flax attribute and must be hashable.
        if isinstance(self.mlp_activations, str):
            raise ConfigError(
                "T5Config.mlp_activations: got a string, expected a list of names"
            )
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        object.__setattr__(self, "dtype", _dtype_name(self.dtype))
        for name in _POSITIVE_FIELDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ConfigError(
                    f"T5Config.{name}: got {value!r}, expected a positive integer"
                )
            object.__setattr__(self, name, int(value))
        if isinstance(self.harmonic_channels, bool) or not isinstance(
            self.harmonic_channels, int | np.integer
        ):
            raise ConfigError(
                f"T5Config.harmonic_channels: got {self.harmonic_channels!r}, expected "
                "an integer, 0 for no stem"
            )
        object.__setattr__(self, "harmonic_channels", int(self.harmonic_channels))
        self.validate()

    def validate(self) -> None:
        """Raises ConfigError if a value cannot work."""
        for name in _POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"T5Config.{name}: got {getattr(self, name)}, "
                    "expected a positive integer"
                )
        if self.emb_dim % 2 or self.emb_dim < 4:
            raise ConfigError(
                f"T5Config.emb_dim: got {self.emb_dim}, expected an even number of at "
                "least 4 (half of the position features are sines, half cosines)"
            )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(
                f"T5Config.dropout_rate: got {self.dropout_rate}, expected [0, 1)"
            )
        if self.harmonic_channels < 0:
            raise ConfigError(
                f"T5Config.harmonic_channels: got {self.harmonic_channels}, expected "
                "at least 0"
            )
        if self.harmonic_channels and self.input_depth != harmonic_stem.NUM_BANDS:
            raise ConfigError(
                f"T5Config.input_depth: got {self.input_depth}, expected "
                f"{harmonic_stem.NUM_BANDS}, the bands of the harmonic stem, since "
                "harmonic_channels is set"
            )
        if self.frame_heads and not self.harmonic_channels:
            raise ConfigError(
                "T5Config.frame_heads: set without harmonic_channels; expected both, "
                "since some heads read what the harmonic stem says of notes"
            )
        if not self.mlp_activations:
            raise ConfigError("T5Config.mlp_activations: empty, expected names")
        for name in self.mlp_activations:
            layers.activation(name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold."""
        fields = dataclasses.asdict(self)
        fields["mlp_activations"] = list(self.mlp_activations)
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> T5Config:
        """Makes a configuration from `to_dict`'s form.

        Raises:
          ConfigError: an unknown field, a missing `vocab_size`, or a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(
                    f"T5Config has no field {name!r}." + near_misses(str(name), known)
                )
        if "vocab_size" not in fields:
            raise ConfigError("T5Config.vocab_size is missing")
        return cls(**fields)


_POSITIVE_FIELDS = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "input_depth",
    "note_channels",
)


def _dtype_name(dtype: Any) -> str:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _DTYPES:
        raise ConfigError(
            f"T5Config.dtype: got {name!r}, expected one of {', '.join(_DTYPES)}"
        )
    return name


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each after a norm and added to its input."""

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        self.pre_attention_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.attention = _attention(cfg, sow_weights=True)
        self.pre_mlp_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.mlp = _mlp(cfg)
        self.dropout = _dropout(cfg)

    def __call__(
        self, x: Array, mask: Array | None = None, *, deterministic: bool = True
    ) -> Array:
        """Maps [B, T, emb_dim] to [B, T, emb_dim].

        Args:
          x: [B, T, emb_dim].
          mask: bool [B, 1, T, T] or `None`.
          deterministic: no dropout.
        """
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, mask, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and MLP, each after a norm and added."""

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        self.pre_self_attention_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.self_attention = _attention(cfg)
        self.pre_cross_attention_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.encoder_decoder_attention = _attention(cfg, sow_weights=True)
        self.pre_mlp_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.mlp = _mlp(cfg)
        self.dropout = _dropout(cfg)

    def __call__(
        self,
        y: Array,
        encoded: Array,
        decoder_mask: Array | None = None,
        encoder_decoder_mask: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Maps [B, L, emb_dim] to [B, L, emb_dim], for all positions at once.

        Args:
          y: [B, L, emb_dim].
          encoded: encoder output, [B, T, emb_dim].
          decoder_mask: bool [B, 1, L, L].
          encoder_decoder_mask: bool [B, 1, L, T] or `None`.
          deterministic: no dropout.
        """
        x = self.pre_self_attention_layer_norm(y)
        x = self.self_attention(x, x, decoder_mask, deterministic=deterministic)
        y = y + self.dropout(x, deterministic=deterministic)
        x = self.pre_cross_attention_layer_norm(y)
        x = self.encoder_decoder_attention(
            x, encoded, encoder_decoder_mask, deterministic=deterministic
        )
        y = y + self.dropout(x, deterministic=deterministic)
        x = self.mlp(self.pre_mlp_layer_norm(y), deterministic=deterministic)
        return y + self.dropout(x, deterministic=deterministic)


class Encoder(nn.Module):
    """Frames to embeddings; `embed_frames`, the layers and `finish` one by one too."""

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        if cfg.harmonic_channels:
            self.harmonic_stem = harmonic_stem.HarmonicStem(
                cfg.emb_dim, cfg.harmonic_channels, cfg.note_channels, cfg.dtype
            )
        else:
            self.continuous_inputs_projection = layers.DenseGeneral(
                cfg.emb_dim, dtype=cfg.dtype, kernel_axes=("joined_kv", "embed")
            )
        self.layers = [EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.dropout = _dropout(cfg)
        # The one dropout that draws anew for every position (as in T5).
        self.final_dropout = nn.Dropout(cfg.dropout_rate)

    def __call__(
        self,
        encoder_input_tokens: Array,
        mask: Array | None = None,
        *,
        positions: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Maps frames [B, T, input_depth] to [B, T, emb_dim].

        Args:
          encoder_input_tokens: frames, [B, T, input_depth].
          mask: bool [B, 1, T, T] or `None`.
          positions: int [B, T]; `None` counts from 0.
          deterministic: no dropout.
        """
        x = self.embed_frames(encoder_input_tokens, positions)
        x = self.dropout(x, deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, mask, deterministic=deterministic)
        return self.finish(x, deterministic=deterministic)

    def embed_frames(self, frames: Array, positions: Array | None = None) -> Array:
        """Returns what enters the first layer: [B, T, emb_dim]."""
        if self.config.harmonic_channels:
            x = self.harmonic_stem(frames)
        else:
            x = self.continuous_inputs_projection(frames)
        return _add_positions(x, positions, self.config, "encoder_positions")

    def finish(self, x: Array, *, deterministic: bool = True) -> Array:
        """Applies what follows the last layer: norm and dropout."""
        return self.final_dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """Tokens to logits; `embed_tokens`, the layers and `to_logits` one by one too."""

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        self.token_embedder = layers.Embed(cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype)
        self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = layers.LayerNorm(dtype=cfg.dtype)
        if not cfg.logits_via_embedding:
            self.logits_dense = layers.DenseGeneral(
                cfg.vocab_size, dtype=jnp.float32, kernel_axes=("embed", "vocab")
            )
        self.dropout = _dropout(cfg)

    def __call__(
        self,
        encoded: Array,
        decoder_input_tokens: Array,
        decoder_mask: Array | None = None,
        encoder_decoder_mask: Array | None = None,
        *,
        positions: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Returns float32 logits [B, L, vocab_size], for all positions at once.

        Args:
          encoded: encoder output, [B, T, emb_dim].
          decoder_input_tokens: int [B, L].
          decoder_mask: bool [B, 1, L, L].
          encoder_decoder_mask: bool [B, 1, L, T] or `None`.
          positions: int [B, L]; `None` counts from 0.
          deterministic: no dropout.
        """
        y = self.embed_tokens(decoder_input_tokens, positions)
        y = self.dropout(y, deterministic=deterministic)
        for layer in self.layers:
            y = layer(
                y,
                encoded,
                decoder_mask,
                encoder_decoder_mask,
                deterministic=deterministic,
            )
        return self.to_logits(y, deterministic=deterministic)

    def embed_tokens(self, tokens: Array, positions: Array | None = None) -> Array:
        """Returns what enters the first layer.

        Args:
          tokens: int [B, L].
          positions: int [B, L], each below `MAX_POSITIONS`; `None` counts from 0.

        Returns:
          [B, L, emb_dim].
        """
        y = self.token_embedder(tokens)
        return _add_positions(y, positions, self.config, "decoder_positions")

    def to_logits(self, y: Array, *, deterministic: bool = True) -> Array:
        """Applies what follows the last layer: norm, dropout and output layer.

        Args:
          y: output of the last layer, [B, L, emb_dim].
          deterministic: no dropout.

        Returns:
          float32 logits [B, L, vocab_size].
        """
        y = self.dropout(self.decoder_norm(y), deterministic=deterministic)
        if self.config.logits_via_embedding:
            # The embedding has standard deviation 1; this brings the logits back.
            return self.token_embedder.attend(y) / np.float32(
                np.sqrt(self.config.emb_dim)
            )
        return self.logits_dense(y)


class Transformer(nn.Module):
    """The whole network."""

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(
        self,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        *,
        encoder_positions: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """Encodes segments of frames.

        Args:
          encoder_input_tokens: frames, float [B, T, input_depth], T at most 2048.
          encoder_segment_ids: int [B, T] for packed examples.
          encoder_positions: int [B, T]; `None` counts from 0.
          enable_dropout: draw dropout (needs the rng `dropout`).

        Returns:
          [B, T, emb_dim].

        Raises:
          ShapeError: the frames or an optional argument are misshapen.
        """
        _check_frames(encoder_input_tokens, self.config)
        shape = encoder_input_tokens.shape[:2]
        _check_like("encoder_segment_ids", encoder_segment_ids, shape)
        _check_like("encoder_positions", encoder_positions, shape)
        mask = None
        if encoder_segment_ids is not None:
            mask = layers.make_attention_mask(
                encoder_segment_ids, encoder_segment_ids, jnp.equal
            )
        return self.encoder(
            encoder_input_tokens,
            mask,
            positions=encoder_positions,
            deterministic=not enable_dropout,
        )

    def decode(
        self,
        encoded: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        *,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """Returns the logits of every position, given all tokens before it.

        Args:
          encoded: encoder output, [B, T, emb_dim].
          decoder_input_tokens: targets shifted right by one, int [B, L], L at most
            2048.
          decoder_target_tokens: int [B, L]; 0 is padding, which is masked.
          encoder_segment_ids: int [B, T] for packed examples.
          decoder_segment_ids: int [B, L] for packed examples.
          decoder_positions: int [B, L]; `None` counts from 0.
          enable_dropout: draw dropout (needs the rng `dropout`).

        Returns:
          float32 logits [B, L, vocab_size].

        Raises:
          ShapeError: an argument is misshapen.
        """
        _check_tokens(encoded, decoder_input_tokens, self.config)
        shape = decoder_input_tokens.shape
        _check_like("decoder_target_tokens", decoder_target_tokens, shape)
        _check_like("decoder_segment_ids", decoder_segment_ids, shape)
        _check_like("decoder_positions", decoder_positions, shape)
        _check_like("encoder_segment_ids", encoder_segment_ids, encoded.shape[:2])
        if (encoder_segment_ids is None) != (decoder_segment_ids is None):
            raise ShapeError(
                "decoder: encoder_segment_ids and decoder_segment_ids go together, got "
                "only one of them"
            )
        # Frames are never masked; rows of padded targets see nothing (all weights
        # are then equal), which matters only to who compares logits of padding.
        cross_mask = layers.make_attention_mask(
            decoder_target_tokens > 0, jnp.ones(encoded.shape[:2], bool)
        )
        if encoder_segment_ids is not None:
            cross_mask = layers.combine_masks(
                cross_mask,
                layers.make_attention_mask(
                    decoder_segment_ids, encoder_segment_ids, jnp.equal
                ),
            )
        return self.decoder(
            encoded,
            decoder_input_tokens,
            layers.make_decoder_mask(decoder_target_tokens, decoder_segment_ids),
            cross_mask,
            positions=decoder_positions,
            deterministic=not enable_dropout,
        )

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        *,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """Encodes and decodes; see `encode` and `decode` for the arguments.

        Returns:
          float32 logits [B, L, vocab_size].

        Raises:
          ShapeError: an argument is misshapen.
        """
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            encoder_positions=encoder_positions,
            enable_dropout=enable_dropout,
        )
        return self.decode(
            encoded,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids=encoder_segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            decoder_positions=decoder_positions,
            enable_dropout=enable_dropout,
        )


def _attention(
    cfg: T5Config, *, sow_weights: bool = False
) -> layers.MultiHeadDotProductAttention:
    return layers.MultiHeadDotProductAttention(
        num_heads=cfg.num_heads,
        head_dim=cfg.head_dim,
        out_features=cfg.emb_dim,
        dropout_rate=cfg.dropout_rate,
        dtype=cfg.dtype,
        sow_weights=sow_weights,
    )


def _mlp(cfg: T5Config) -> layers.MlpBlock:
    return layers.MlpBlock(
        cfg.mlp_dim,
        activations=cfg.mlp_activations,
        dropout_rate=cfg.dropout_rate,
        dtype=cfg.dtype,
    )


def _dropout(cfg: T5Config) -> nn.Dropout:
    return nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))


def _add_positions(
    x: Array, positions: Array | None, cfg: T5Config, name: str
) -> Array:
    """Adds rows of the position table to [B, L, emb_dim]."""
    table = layers.sinusoidal_table(MAX_POSITIONS, cfg.emb_dim)
    if positions is None:
        _check_length(name.split("_")[0], x.shape[1])
        return x + jnp.asarray(table[np.newaxis, : x.shape[1]], cfg.dtype)
    _check_positions(name, positions)
    return x + jnp.take(jnp.asarray(table, cfg.dtype), positions, axis=0)


def _check_length(stage: str, length: int) -> None:
    """Checks that the position table has a row for each of `length` positions."""
    if length > MAX_POSITIONS:
        unit = "frames" if stage == "encoder" else "tokens"
        raise ShapeError(
            f"{stage}: {length} {unit}, expected at most {MAX_POSITIONS} (the rows of "
            "the position table); use shorter segments"
        )


def _check_frames(frames: Array, cfg: T5Config) -> None:
    """Checks the encoder's inputs, float [B, T, input_depth]."""
    if frames.ndim != 3:
        raise ShapeError(
            f"encoder: inputs of shape {tuple(frames.shape)}, expected rank 3, "
            f"[batch, frames, {cfg.input_depth}]"
        )
    if frames.shape[-1] != cfg.input_depth:
        raise ShapeError(
            f"encoder: inputs of shape {tuple(frames.shape)} have "
            f"{frames.shape[-1]} features a frame, expected {cfg.input_depth}"
        )
    if not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ShapeError(
            f"encoder: inputs of type {frames.dtype}, expected floating point"
        )
    _check_length("encoder", frames.shape[1])


def _check_tokens(encoded: Array, tokens: Array, cfg: T5Config) -> None:
    """Checks the decoder's inputs: encoded [B, T, emb_dim] and tokens [B, L]."""
    if encoded.ndim != 3 or encoded.shape[-1] != cfg.emb_dim:
        raise ShapeError(
            f"decoder: encoded inputs of shape {tuple(encoded.shape)}, expected "
            f"[batch, frames, {cfg.emb_dim}]"
        )
    if tokens.ndim != 2:
        raise ShapeError(
            f"decoder: decoder_input_tokens of shape {tuple(tokens.shape)}, expected "
            "rank 2, [batch, length]"
        )
    if tokens.shape[0] != encoded.shape[0]:
        raise ShapeError(
            f"decoder: a batch of {tokens.shape[0]} token rows, expected "
            f"{encoded.shape[0]}, the batch of the encoder"
        )
    _check_length("decoder", tokens.shape[1])


def _check_like(name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    """Checks that an argument, if there is one, has the expected shape."""
    if array is not None and tuple(array.shape) != tuple(shape):
        raise ShapeError(f"{name}: shape {tuple(array.shape)}, expected {tuple(shape)}")


def _check_positions(name: str, positions: Array) -> None:
    """Checks explicit positions; outside of `jit` their values too."""
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ShapeError(f"{name}: type {positions.dtype}, expected integers")
    # Values are known outside of jit only; inside, a position beyond the table gives
    # NaN (jnp.take's rule), which no loss survives silently.
    if not isinstance(positions, jax.core.Tracer) and positions.size:
        low, high = int(positions.min()), int(positions.max())
        if low < 0 or high >= MAX_POSITIONS:
            raise ShapeError(
                f"{name}: values {low} to {high}, expected 0 to {MAX_POSITIONS - 1}"
            )
