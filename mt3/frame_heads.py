"""What the encoder says of each frame: which notes begin and sound, what plays.

Linear layers on the encoder's output and on the harmonic stem's description of each
note. Training uses them as aids (`guided`); weights that are exported with them
(`T5Config.frame_heads`) can weigh the decoder's tokens by them (`decoding.evidence`).
They are not part of the original, and nothing depends on them in the network.

Parameters, under `frame_heads` in a model's tree (`auxiliary` while it is trained):
`kernel` [emb_dim, FRAME_FEATURES] and `bias` on the encoder's output, `class_kernel`
[note_channels, NUM_CLASSES] and `class_bias` [pitches, NUM_CLASSES] on the stem's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mt3 import harmonic_stem, vocabularies
from mt3.beyond.grids import NUM_CLASSES

PARAMETERS = "frame_heads"
PARTS = ("kernel", "bias", "class_kernel", "class_bias")
_PITCHES = vocabularies.NUM_PITCHES
# Onsets, sounding, drum onsets by pitch; then sounding instrument classes.
FRAME_FEATURES = 3 * _PITCHES + NUM_CLASSES


class FrameLogits(NamedTuple):
    """Log odds for each frame."""

    onsets: jax.Array  # [B, T, 128]: a note of this pitch begins
    sounding: jax.Array  # [B, T, 128]
    drums: jax.Array  # [B, T, 128]: a drum is hit
    playing: jax.Array  # [B, T, NUM_CLASSES]: a note of this MIDI class sounds


def frame_logits(heads: Mapping[str, Any], encoded: jax.Array) -> FrameLogits:
    """Applies the heads to the encoder's output [B, T, emb_dim]."""
    logits = jnp.matmul(encoded, heads["kernel"]) + heads["bias"][None, None]
    parts = jnp.split(logits, [_PITCHES, 2 * _PITCHES, 3 * _PITCHES], axis=-1)
    return FrameLogits(*parts)


def class_logits(
    heads: Mapping[str, Any], described: jax.Array, pitch: jax.Array | None = None
) -> jax.Array:
    """Says of which MIDI class a note is that begins.

    Args:
      heads: the parameters.
      described: what the stem says of a note in the frame after its onset,
        [..., note_channels].
      pitch: int [...], steps above the stem's lowest; None where the axis before the
        last of `described` is the pitch.

    Returns:
      Logits [..., NUM_CLASSES].
    """
    bias = heads["class_bias"]
    if pitch is None:
        bias = bias.reshape((1,) * (described.ndim - 2) + bias.shape)
    else:
        bias = bias[pitch]
    return jnp.matmul(described, heads["class_kernel"]) + bias


def parameter_shapes(emb_dim: int, note_channels: int) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the heads' parameters."""
    return {
        "kernel": (emb_dim, FRAME_FEATURES),
        "bias": (FRAME_FEATURES,),
        "class_kernel": (note_channels, NUM_CLASSES),
        "class_bias": (harmonic_stem.NUM_PITCHES, NUM_CLASSES),
    }
