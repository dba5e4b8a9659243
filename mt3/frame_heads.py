"""Heads that say what each frame contains: notes that begin and sound, drums, details.

They read the encoder's output and the harmonic stem's description of each note
(`harmonic_stem`), and nothing in the network depends on them. Training uses them as
aids (`beyond.guided`); from weights that are exported with them
(`T5Config.frame_heads`) notes can be read without the token decoder
(`beyond.frames`), and the decoder's tokens can be weighed by them (`beyond.evidence`).
Their parameters stand under `frame_heads` in a model's tree (`auxiliary` while it is
trained). With `enc` [B, T, emb_dim] the encoder's output and `notes` [B, T, 88, K] the
stem's description:

* frame: `kernel`, `bias`, on `enc`: which pitches begin and sound, which drums are hit,
  which MIDI classes play.
* refined: `refine_*`, on `enc` and `notes` through a hidden layer: which pitches
  begin and sound, better than the frame head says.
* note: `note_*`, likewise: of which class a note is, its velocity, and where between
  two frames it begins.
* drums: `drum_details`, on `enc`: velocity and time of each drum.

A note's onset lies in the frame t whose centre is nearest. The note head and
`drum_details` are trained at frame t + 1, where more of the note is heard; `hear`
moves what they say to frame t. Velocities are given as velocity / 127 - 0.6, times in
frames after the centre of frame t.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mt3 import vocabularies
from mt3.errors import CheckpointError, ConfigError
from mt3.harmonic_stem import NUM_PITCHES

if TYPE_CHECKING:
    from mt3.network import T5Config

Array = jax.Array

HEADS = "frame_heads"
# MIDI classes: groups of eight programs.
NUM_CLASSES = 16
# Onsets, sounding, drum onsets by MIDI pitch; then sounding instrument classes.
FRAME_FEATURES = 3 * vocabularies.NUM_PITCHES + NUM_CLASSES
REFINED_WIDTH = 32
NOTE_WIDTH = 64
# The classes, velocity and time of a note.
NOTE_FEATURES = NUM_CLASSES + 2
# What is added to a head's output to get velocity / 127.
VELOCITY_OFFSET = 0.6


class FrameLogits(NamedTuple):
    """Log odds for each frame."""

    onsets: Array  # [B, T, 128]: a note of this pitch begins
    sounding: Array  # [B, T, 128]
    drums: Array  # [B, T, 128]: a drum is hit
    playing: Array  # [B, T, NUM_CLASSES]: a note of this MIDI class sounds


class Heard(NamedTuple):
    """What the heads say, each value at the frame of the onset that it belongs to.

    Pitches count from the stem's lowest where there are 88.
    """

    onset: Array  # [B, T, 88], log odds that a note begins
    sounding: Array  # [B, T, 88], log odds
    classes: Array  # [B, T, 88, NUM_CLASSES], logits of the note's MIDI class
    velocity: Array  # [B, T, 88], velocity / 127
    time: Array  # [B, T, 88], frames from the frame's centre to the onset
    drum_onset: Array  # [B, T, 128], log odds
    drum_velocity: Array  # [B, T, 128], velocity / 127
    drum_time: Array  # [B, T, 128], frames
    frames: Array  # [B, T, bands], what the encoder was given


def take(params: Mapping[str, Any], config: T5Config) -> dict[str, Array]:
    """Returns the heads' parameters of a model, float32.

    Args:
      params: nested dict with `frame_heads`.
      config: sizes of the network.

    Raises:
      ConfigError: the network has no heads.
      CheckpointError: a parameter is missing.
    """
    if not config.frame_heads:
        raise ConfigError(
            "decoding: frames or evidence are asked for, but these weights have no "
            "frame heads; expected weights that were exported with them"
        )
    heads = params.get(HEADS, {})
    parts = head_shapes(config.emb_dim, config.note_channels)
    missing = [name for name in parts if name not in heads]
    if missing:
        raise CheckpointError(f"decoding: parameters lack {HEADS}/{missing[0]}")
    return {name: jnp.asarray(heads[name], jnp.float32) for name in parts}


def frame_logits(heads: Mapping[str, Any], encoded: Array) -> FrameLogits:
    """Applies the frame head to the encoder's output [B, T, emb_dim]."""
    logits = _dense(encoded, heads["kernel"], heads["bias"])
    pitches = vocabularies.NUM_PITCHES
    parts = jnp.split(logits, [pitches, 2 * pitches, 3 * pitches], axis=-1)
    return FrameLogits(*parts)


def refined_logits(heads: Mapping[str, Any], encoded: Array, described: Array) -> Array:
    """Says which pitches begin and sound, from both sources.

    Args:
      heads: the parameters.
      encoded: the encoder's output, [B, T, emb_dim].
      described: the stem's description of each note, [B, T, 88, note_channels].

    Returns:
      Log odds [B, T, 88, 2].
    """
    return _of_notes(heads, "refine", encoded, described)


def note_outputs(heads: Mapping[str, Any], encoded: Array, described: Array) -> Array:
    """Describes the note of each pitch that began a frame before.

    Args:
      heads: the parameters.
      encoded: the encoder's output, [B, T, emb_dim].
      described: the stem's description of each note, [B, T, 88, note_channels].

    Returns:
      [B, T, 88, NOTE_FEATURES]: class logits, velocity, time.
    """
    return _of_notes(heads, "note", encoded, described)


def note_outputs_at(
    heads: Mapping[str, Any], encoded: Array, described: Array, pitch: Array
) -> Array:
    """Describes single notes; `note_outputs` describes all that might be.

    Args:
      heads: the parameters.
      encoded: the encoder's output one frame after each onset, [B, N, emb_dim].
      described: the stem's description of the note there, [B, N, note_channels].
      pitch: int [B, N], steps above the stem's lowest.

    Returns:
      [B, N, NOTE_FEATURES].
    """
    hidden = jnp.matmul(described, heads["note_described"])
    hidden += jnp.matmul(encoded, heads["note_encoded"]) + heads["note_pitch"][pitch]
    return _dense(nn.gelu(hidden), heads["note_out"], heads["note_bias"])


def _of_notes(
    heads: Mapping[str, Any], name: str, encoded: Array, described: Array
) -> Array:
    hidden = jnp.matmul(described, heads[f"{name}_described"])
    hidden += jnp.matmul(encoded, heads[f"{name}_encoded"])[:, :, None]
    hidden = nn.gelu(hidden + heads[f"{name}_pitch"][None, None])
    return _dense(hidden, heads[f"{name}_out"], heads[f"{name}_bias"])


def _dense(x: Array, kernel: Array, bias: Array) -> Array:
    return jnp.matmul(x, kernel) + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def drum_details(heads: Mapping[str, Any], encoded: Array) -> Array:
    """Describes the drums that were hit a frame before.

    Args:
      heads: the parameters.
      encoded: the encoder's output, [B, T, emb_dim].

    Returns:
      [B, T, 256]: velocities of 128 drums, then their times.
    """
    return _dense(encoded, heads["drum_details"], heads["drum_details_bias"])


def hear(
    heads: Mapping[str, Any], frames: Array, encoded: Array, described: Array
) -> Heard:
    """Applies all heads.

    Args:
      heads: the parameters.
      frames: what the encoder was given, [B, T, bands].
      encoded: its output, [B, T, emb_dim].
      described: the stem's description of each note, [B, T, 88, note_channels].
    """
    refined = refined_logits(heads, encoded, described)
    notes = _from_next(note_outputs(heads, encoded, described))
    drums = _from_next(drum_details(heads, encoded))
    drum_velocity, drum_time = jnp.split(drums, 2, axis=-1)
    return Heard(
        onset=refined[..., 0],
        sounding=refined[..., 1],
        classes=notes[..., :NUM_CLASSES],
        velocity=notes[..., NUM_CLASSES] + VELOCITY_OFFSET,
        time=notes[..., NUM_CLASSES + 1],
        drum_onset=frame_logits(heads, encoded).drums,
        drum_velocity=drum_velocity + VELOCITY_OFFSET,
        drum_time=drum_time,
        frames=frames,
    )


def _from_next(x: Array) -> Array:
    """Returns at each frame [B, T, ...] what the one after it says."""
    return jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)


def head_shapes(emb_dim: int, note_channels: int) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the heads' parameters."""
    shapes: dict[str, tuple[int, ...]] = {
        "kernel": (emb_dim, FRAME_FEATURES),
        "bias": (FRAME_FEATURES,),
        "drum_details": (emb_dim, 2 * vocabularies.NUM_PITCHES),
        "drum_details_bias": (2 * vocabularies.NUM_PITCHES,),
    }
    sizes = {"refine": (REFINED_WIDTH, 2), "note": (NOTE_WIDTH, NOTE_FEATURES)}
    for name, (hidden, features) in sizes.items():
        shapes |= {
            f"{name}_described": (note_channels, hidden),
            f"{name}_encoded": (emb_dim, hidden),
            f"{name}_pitch": (NUM_PITCHES, hidden),
            f"{name}_out": (hidden, features),
            f"{name}_bias": (features,),
        }
    return shapes
