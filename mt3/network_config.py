"""Sizes of the network, checked when a configuration is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mt3.errors import ConfigError, near_misses
from mt3.harmonic_stem import NUM_BANDS
from mt3.layers import activation

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
        if self.harmonic_channels and self.input_depth != NUM_BANDS:
            raise ConfigError(
                f"T5Config.input_depth: got {self.input_depth}, expected {NUM_BANDS}, "
                "the bands of the harmonic stem, since harmonic_channels is set"
            )
        if self.frame_heads and not self.harmonic_channels:
            raise ConfigError(
                "T5Config.frame_heads: set without harmonic_channels; expected both, "
                "since some heads read what the harmonic stem says of notes"
            )
        if not self.mlp_activations:
            raise ConfigError("T5Config.mlp_activations: empty, expected names")
        for name in self.mlp_activations:
            activation(name)

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
