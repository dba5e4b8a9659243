"""The MT3 network: a T5 encoder-decoder whose inputs are spectrogram frames.

Encoder: a dense layer from the frame's features to the embedding, plus fixed
sinusoidal positions, plus pre-norm layers of self-attention and gated MLP. Nothing is
masked, so zero frames after the end of a recording are seen like any others. Decoder:
token embedding plus positions, pre-norm layers of causal self-attention,
cross-attention and gated MLP, and a separate dense layer to the logits. The
parameter tree is the one of the released T5X checkpoints, and equal keys give the
original's initial parameters and dropout.

Differences from the original network:

1. The original takes `decoder_positions` and `encoder_positions` and ignores them, so
   packed examples have wrong positions. With `T5Config.use_positions` (off by default)
   they count.
2. More than `MAX_POSITIONS` frames or tokens, and inputs of a wrong type, rank, depth
   or batch, raise `ShapeError`. The original returned NaN, or failed inside JAX.
3. Tied logits (`logits_via_embedding`) work; the original failed.
4. With `T5Config.float32_logits` (off by default) attention logits, softmax and the
   network's logits are float32 in half precision too. In float32 it changes nothing.
5. With `T5Config.harmonic_channels` the dense layer on frames is `harmonic_stem`.
6. With `T5Config.memory_positions` the decoder attends to the encoder's output plus the
   sinusoidal positions of its frames (the idea is DETR's, Carion et al. 2020).

Decoding step by step (`decode=True`) uses Flax's collection `cache`, for T5X and other
callers of that interface. `mt3.decoding`, which this package uses itself, passes its
caches in and out and computes cross-attention keys and values once per segment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mt3 import harmonic_stem, layers
from mt3.errors import ConfigError, ShapeError, check_number, near_misses

Array = jax.Array

# Rows of the position table; no segment and no target may be longer.
MAX_POSITIONS = 2048
_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of the network, checked when made.

    The defaults are the original's, which are those of no released model; `from_dict`
    fills in the sizes of `mt3` instead.

    Attributes:
      vocab_size: rows of the token embedding and number of logits
        (`vocabularies.num_embeddings`: a multiple of 128).
      dtype: computation type, `float32`, `bfloat16` or `float16`; kept as its name.
        Parameters are float32 in any case.
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
      input_depth: features of an input frame (mel bands); `None` takes frames of any
        depth, and the model class fills in its own.
      harmonic_channels: channels of `harmonic_stem`, which then takes the place of
        the dense layer on frames (not part of the original); 0 for that layer.
      note_channels: numbers by which the stem describes each note.
      stem_blocks: blocks of the stem that compare harmonics.
      frame_heads: whether the parameters have `frame_heads` beside encoder and
        decoder; it needs the stem.
      memory_positions: whether the decoder attends to the encoder's output plus the
        positions of its frames, keys and values alike.
      use_positions: whether `encoder_positions` and `decoder_positions` count.
      float32_logits: compute attention logits, softmax and output logits in float32.

    Raises:
      ConfigError: a value cannot work; the message names the field.
    """

    vocab_size: int
    dtype: Any = jnp.float32
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    input_depth: int | None = None
    harmonic_channels: int = 0
    note_channels: int = 16
    stem_blocks: int = 0
    frame_heads: bool = False
    memory_positions: bool = False
    use_positions: bool = False
    float32_logits: bool = False

    def __post_init__(self):
        # JSON and gin give lists, NumPy integers and dtype objects; the network is a
        # Flax attribute and must be hashable.
        if isinstance(self.mlp_activations, str):
            raise ConfigError(
                "T5Config.mlp_activations: got a string, expected a list of names"
            )
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        object.__setattr__(self, "dtype", _dtype_name(self.dtype))
        for name in _INTEGER_FIELDS:
            value = getattr(self, name)
            if name == "input_depth" and value is None:
                continue
            least = 0 if name in ("harmonic_channels", "stem_blocks") else 1
            most = _MOST_LAYERS if name in _LAYER_FIELDS else _MOST_FEATURES
            check_number(f"T5Config.{name}", value, least, most, whole=True)
            object.__setattr__(self, name, int(value))
        if self.emb_dim % 2 or self.emb_dim < 4:
            raise ConfigError(
                f"T5Config.emb_dim: got {self.emb_dim}, expected an even number of at "
                "least 4 (half of the position features are sines, half cosines)"
            )
        check_number("T5Config.dropout_rate", self.dropout_rate, 0, 1)
        if self.dropout_rate == 1:
            raise ConfigError(
                f"T5Config.dropout_rate: got {self.dropout_rate}, expected [0, 1)"
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

        Fields that are left out are those of the released model `mt3`, since files of
        weights leave them out, and `float32_logits`.

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
        return cls(**{**_MT3_SIZES, **fields})


_MT3_SIZES = {
    "num_heads": 6,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "mlp_dim": 1024,
    "mlp_activations": ("gelu", "linear"),
    "input_depth": 512,
    "float32_logits": True,
}
# A file can ask for any number; the list of the parameters alone would fill memory.
_MOST_LAYERS = 1000
_MOST_FEATURES = 10_000_000
_LAYER_FIELDS = ("num_encoder_layers", "num_decoder_layers", "stem_blocks")
_INTEGER_FIELDS = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "input_depth",
    "harmonic_channels",
    "note_channels",
    "stem_blocks",
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
    """Self-attention and MLP, each after a norm and added to its input.

    Attributes:
      config: sizes of the network.
    """

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        self.pre_attention_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.attention = _attention(cfg, sow_weights=True)
        self.pre_mlp_layer_norm = layers.LayerNorm(dtype=cfg.dtype)
        self.mlp = _mlp(cfg)
        self.Dropout = _dropouts(cfg, 2)

    def __call__(
        self,
        inputs: Array,
        encoder_mask: Array | None = None,
        deterministic: bool = False,
    ) -> Array:
        """Maps [B, T, emb_dim] to [B, T, emb_dim].

        Args:
          inputs: [B, T, emb_dim].
          encoder_mask: [B, 1, T, T], or `None` to mask nothing.
          deterministic: no dropout.
        """
        after_attention, after_mlp = self.Dropout
        x = inputs
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, encoder_mask, deterministic=deterministic)
        x = x + after_attention(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + after_mlp(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and MLP, each after a norm and added.

    Attributes:
      config: sizes of the network.
    """

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
        self.Dropout = _dropouts(cfg, 3)

    def __call__(
        self,
        inputs: Array,
        encoded: Array,
        decoder_mask: Array | None = None,
        encoder_decoder_mask: Array | None = None,
        deterministic: bool = False,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> Array:
        """Maps [B, L, emb_dim] to [B, L, emb_dim], or one position of a cache.

        Args:
          inputs: [B, L, emb_dim]; a decoding step has L = 1.
          encoded: encoder output, [B, T, emb_dim].
          decoder_mask: [B, 1, L, L]; `None` masks nothing.
          encoder_decoder_mask: [B, 1, L, T]; `None` masks nothing.
          deterministic: no dropout.
          decode: use the cache, see `layers.MultiHeadDotProductAttention`.
          max_decode_length: of no effect here; `Decoder` checks it.
        """
        del max_decode_length
        after_self, after_cross, after_mlp = self.Dropout
        y = inputs
        x = self.pre_self_attention_layer_norm(y)
        x = self.self_attention(
            x, x, decoder_mask, decode=decode, deterministic=deterministic
        )
        y = y + after_self(x, deterministic=deterministic)
        x = self.pre_cross_attention_layer_norm(y)
        x = self.encoder_decoder_attention(
            x, encoded, encoder_decoder_mask, deterministic=deterministic
        )
        y = y + after_cross(x, deterministic=deterministic)
        x = self.mlp(self.pre_mlp_layer_norm(y), deterministic=deterministic)
        return y + after_mlp(x, deterministic=deterministic)


class Encoder(nn.Module):
    """Frames to embeddings; `embed_frames`, the layers and `finish` one by one too.

    Attributes:
      config: sizes of the network.
    """

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        if cfg.harmonic_channels:
            self.harmonic_stem = harmonic_stem.HarmonicStem(
                cfg.emb_dim,
                cfg.harmonic_channels,
                cfg.note_channels,
                cfg.stem_blocks,
                cfg.dtype,
            )
        else:
            self.continuous_inputs_projection = layers.DenseGeneral(
                cfg.emb_dim, dtype=cfg.dtype, kernel_axes=("vocab", "embed")
            )
        self.FixedEmbed = _position_table(cfg)
        self.layers = [EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = layers.LayerNorm(dtype=cfg.dtype)
        # The last is the one dropout that draws anew for every position (as in T5).
        self.Dropout = [*_dropouts(cfg, 1), nn.Dropout(cfg.dropout_rate)]

    def __call__(
        self,
        encoder_input_tokens: Array,
        encoder_mask: Array | None = None,
        deterministic: bool = False,
        positions: Array | None = None,
    ) -> Array:
        """Maps frames [B, T, input_depth] to [B, T, emb_dim].

        Args:
          encoder_input_tokens: frames, [B, T, input_depth].
          encoder_mask: [B, 1, T, T], or `None` to mask nothing.
          deterministic: no dropout.
          positions: int [B, T]; `None` counts from 0.
        """
        x = self.embed_frames(encoder_input_tokens, positions)
        x = self.Dropout[0](x, deterministic=deterministic).astype(self.config.dtype)
        for layer in self.layers:
            x = layer(x, encoder_mask, deterministic)
        return self.finish(x, deterministic)

    def embed_frames(self, frames: Array, positions: Array | None = None) -> Array:
        """Returns what enters the first layer: [B, T, emb_dim]."""
        if self.config.harmonic_channels:
            x = self.harmonic_stem(frames)
        else:
            x = self.continuous_inputs_projection(frames)
        if positions is None:
            _check_length("encoder", frames.shape[1])
            positions = np.arange(frames.shape[1])[np.newaxis]
        return x + self.FixedEmbed[0](positions)

    def finish(self, x: Array, deterministic: bool = False) -> Array:
        """Applies what follows the last layer: norm and dropout."""
        return self.Dropout[1](self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """Tokens to logits.

    Attributes:
      config: sizes of the network.
    """

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        cfg = self.config
        self.token_embedder = layers.Embed(
            cfg.vocab_size,
            cfg.emb_dim,
            dtype=cfg.dtype,
            attend_dtype=jnp.float32,
            embedding_init=nn.initializers.normal(stddev=1.0),
        )
        self.FixedEmbed = _position_table(cfg)
        self.layers = [DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = layers.LayerNorm(dtype=cfg.dtype)
        if not cfg.logits_via_embedding:
            self.logits_dense = layers.DenseGeneral(
                cfg.vocab_size, dtype=jnp.float32, kernel_axes=("embed", "vocab")
            )
        self.Dropout = _dropouts(cfg, 2)

    def __call__(
        self,
        encoded: Array,
        decoder_input_tokens: Array,
        decoder_positions: Array | None = None,
        decoder_mask: Array | None = None,
        encoder_decoder_mask: Array | None = None,
        deterministic: bool = False,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> Array:
        """Returns float32 logits [B, L, vocab_size].

        Without `decode` these are the logits of all positions at once. With it, a first
        call on tokens of the full length L creates the cache, and each later call takes
        the next token of each row, int [B, 1].

        Args:
          encoded: encoder output, [B, T, emb_dim].
          decoder_input_tokens: int [B, L].
          decoder_positions: int [B, L]; it counts where `T5Config.use_positions` is
            set, and only without `decode`. `None` counts from 0.
          decoder_mask: [B, 1, L, L]; `None` masks nothing.
          encoder_decoder_mask: [B, 1, L, T]; `None` masks nothing.
          deterministic: no dropout.
          decode: use the cache.
          max_decode_length: most tokens that are going to be decoded.

        Raises:
          ShapeError: more tokens than the position table has rows.
        """
        length = decoder_input_tokens.shape[1]
        _check_length("decoder", max(length, max_decode_length or 0))
        if decoder_positions is None or not self.config.use_positions:
            decoder_positions = np.arange(length)[np.newaxis]
        encoded = memory(encoded, self.config)
        y = self.token_embedder(decoder_input_tokens)
        positions = self.FixedEmbed[0](decoder_positions, decode=decode)
        y = y + (positions[np.newaxis] if decode else positions)
        y = self.Dropout[0](y, deterministic=deterministic).astype(self.config.dtype)
        for layer in self.layers:
            y = layer(
                y,
                encoded,
                decoder_mask,
                encoder_decoder_mask,
                deterministic,
                decode,
                max_decode_length,
            )
        y = self.Dropout[1](self.decoder_norm(y), deterministic=deterministic)
        if self.config.logits_via_embedding:
            # The embedding has standard deviation 1; this brings the logits back.
            scale = np.float32(np.sqrt(self.config.emb_dim))
            return self.token_embedder.attend(y.astype(jnp.float32)) / scale
        return self.logits_dense(y)


class Transformer(nn.Module):
    """The whole network.

    Attributes:
      config: sizes of the network.
    """

    config: T5Config

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(
        self,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        enable_dropout: bool = True,
        encoder_positions: Array | None = None,
    ) -> Array:
        """Encodes segments of frames.

        Args:
          encoder_input_tokens: frames, float [B, T, input_depth], T at most 2048.
          encoder_segment_ids: int [B, T] for packed examples.
          enable_dropout: draw dropout (needs the rng `dropout`).
          encoder_positions: int [B, T]; it counts where `T5Config.use_positions` is
            set. `None` counts from 0.

        Returns:
          [B, T, emb_dim].

        Raises:
          ShapeError: the frames or an optional argument are misshapen.
        """
        _check_frames(encoder_input_tokens, self.config)
        shape = encoder_input_tokens.shape[:2]
        _check_like("encoder_segment_ids", encoder_segment_ids, shape)
        _check_positions("encoder_positions", encoder_positions, shape)
        mask = None
        if encoder_segment_ids is not None:
            mask = layers.make_attention_mask(
                encoder_segment_ids, encoder_segment_ids, jnp.equal, dtype=bool
            )
        return self.encoder(
            encoder_input_tokens,
            mask,
            not enable_dropout,
            positions=encoder_positions if self.config.use_positions else None,
        )

    def decode(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> Array:
        """Returns the logits of every position, given all tokens before it.

        Args:
          encoded: encoder output, [B, T, emb_dim].
          encoder_input_tokens: frames, [B, T, ...]; only the shape matters.
          decoder_input_tokens: targets shifted right by one, int [B, L], L at most
            2048. With `decode` see `Decoder`.
          decoder_target_tokens: int [B, L]; 0 is padding, which is masked (but not
            with `decode`).
          encoder_segment_ids: int [B, T] for packed examples.
          decoder_segment_ids: int [B, L] for packed examples.
          decoder_positions: int [B, L]; it counts where `T5Config.use_positions` is
            set. `None` counts from 0.
          enable_dropout: draw dropout (needs the rng `dropout`).
          decode: decode step by step, see `Decoder`.
          max_decode_length: most tokens that are going to be decoded.

        Returns:
          Logits [B, L, vocab_size].

        Raises:
          ShapeError: an argument is misshapen.
        """
        _check_tokens(encoded, decoder_input_tokens, self.config)
        frames = encoded.shape[:2]
        depth = encoder_input_tokens.shape[2:]
        _check_like("encoder_input_tokens", encoder_input_tokens, (*frames, *depth))
        shape = decoder_input_tokens.shape
        _check_like("decoder_target_tokens", decoder_target_tokens, shape)
        _check_like("decoder_segment_ids", decoder_segment_ids, shape)
        _check_positions("decoder_positions", decoder_positions, shape)
        _check_like("encoder_segment_ids", encoder_segment_ids, frames)
        if (encoder_segment_ids is None) != (decoder_segment_ids is None):
            raise ShapeError(
                "decoder: encoder_segment_ids and decoder_segment_ids go together, got "
                "only one of them"
            )
        own_mask = cross_mask = None
        if not decode:
            own_mask = layers.make_decoder_mask(
                decoder_target_tokens, bool, decoder_segment_ids=decoder_segment_ids
            )
            # Frames are never masked. Rows of padded targets see nothing: all their
            # weights are equal.
            cross_mask = layers.make_attention_mask(
                decoder_target_tokens > 0, jnp.ones(frames, bool), dtype=bool
            )
        if encoder_segment_ids is not None:
            segments = layers.make_attention_mask(
                decoder_segment_ids, encoder_segment_ids, jnp.equal, dtype=bool
            )
            cross_mask = layers.combine_masks(cross_mask, segments, dtype=bool)
        logits = self.decoder(
            encoded,
            decoder_input_tokens,
            decoder_positions,
            own_mask,
            cross_mask,
            not enable_dropout,
            decode,
            max_decode_length,
        )
        return (
            logits if self.config.float32_logits else logits.astype(self.config.dtype)
        )

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_positions: Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> Array:
        """Encodes and decodes; see `encode` and `decode` for the arguments.

        Returns:
          Logits [B, L, vocab_size].

        Raises:
          ShapeError: an argument is misshapen.
        """
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            enable_dropout,
            encoder_positions,
        )
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
            decode,
        )


def _attention(
    cfg: T5Config, *, sow_weights: bool = False
) -> layers.MultiHeadDotProductAttention:
    return layers.MultiHeadDotProductAttention(
        num_heads=cfg.num_heads,
        head_dim=cfg.head_dim,
        dtype=cfg.dtype,
        dropout_rate=cfg.dropout_rate,
        float32_logits=cfg.float32_logits,
        sow_weights=sow_weights,
    )


def _mlp(cfg: T5Config) -> layers.MlpBlock:
    return layers.MlpBlock(
        cfg.mlp_dim,
        activations=cfg.mlp_activations,
        intermediate_dropout_rate=cfg.dropout_rate,
        dtype=cfg.dtype,
    )


def memory(encoded: Array, config: T5Config) -> Array:
    """Returns what the decoder attends to: [B, T, emb_dim].

    Args:
      encoded: the encoder's output, [B, T, emb_dim].
      config: sizes of the network.
    """
    if not config.memory_positions:
        return encoded
    table = layers.sinusoidal_table(MAX_POSITIONS, config.emb_dim)
    positions = jnp.asarray(table[: encoded.shape[1]], encoded.dtype)
    return encoded + positions[None]


# Flax names the elements of these lists after the attribute, `Dropout_0` and so on.
# Those are the original's names, and a random draw depends on its module's name.
def _dropouts(cfg: T5Config, count: int) -> list[nn.Dropout]:
    return [nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,)) for _ in range(count)]


def _position_table(cfg: T5Config) -> list[layers.FixedEmbed]:
    return [layers.FixedEmbed(cfg.emb_dim, MAX_POSITIONS)]


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
            f"[batch, frames, {cfg.input_depth or 'features'}]"
        )
    if cfg.input_depth not in (None, frames.shape[-1]):
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


def _check_positions(
    name: str, positions: Array | None, shape: tuple[int, ...]
) -> None:
    """Checks explicit positions; `layers.FixedEmbed` checks their values."""
    _check_like(name, positions, shape)
    if positions is not None and not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ShapeError(f"{name}: type {positions.dtype}, expected integers")
