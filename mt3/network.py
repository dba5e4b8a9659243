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

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mt3 import harmonic_stem, layers
from mt3 import network_shapes as shapes
from mt3.errors import ShapeError
from mt3.network_config import T5Config
from mt3.network_shapes import MAX_POSITIONS

Array = jax.Array

__all__ = [
    "MAX_POSITIONS",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "T5Config",
    "Transformer",
]


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
        shapes.check_frames(encoder_input_tokens, self.config)
        shape = encoder_input_tokens.shape[:2]
        shapes.check_like("encoder_segment_ids", encoder_segment_ids, shape)
        shapes.check_like("encoder_positions", encoder_positions, shape)
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
        shapes.check_tokens(encoded, decoder_input_tokens, self.config)
        shape = decoder_input_tokens.shape
        shapes.check_like("decoder_target_tokens", decoder_target_tokens, shape)
        shapes.check_like("decoder_segment_ids", decoder_segment_ids, shape)
        shapes.check_like("decoder_positions", decoder_positions, shape)
        shapes.check_like("encoder_segment_ids", encoder_segment_ids, encoded.shape[:2])
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
        shapes.check_length(name.split("_")[0], x.shape[1])
        return x + jnp.asarray(table[np.newaxis, : x.shape[1]], cfg.dtype)
    shapes.check_positions(name, positions)
    return x + jnp.take(jnp.asarray(table, cfg.dtype), positions, axis=0)
