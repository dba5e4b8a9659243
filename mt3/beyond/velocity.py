"""The loss of the velocity head.

What a level says of a velocity is known but for a constant: how loud the instrument is
in the mix, and how loud the recording. So errors count as they differ within one
instrument of one stretch of music, and little as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mt3 import frame_heads, harmonic_stem, vocabularies
from mt3.beyond import grids
from mt3.configs import ModelConfig

# Weight of the plain squared error.
PLAIN_SHARE = 0.2


def grouped_loss(
    told: jax.Array, true: jax.Array, group: jax.Array, known: jax.Array, groups: int
) -> jax.Array:
    """Returns the sum of squared errors, mostly of those within each group.

    Args:
      told: velocity / 127, [N].
      true: likewise.
      group: int [N], 0..groups - 1: notes of one instrument of one segment.
      known: bool [N], which notes count.
      groups: the number of groups.
    """
    error = jnp.where(known, told - true, 0.0)
    counts = jax.ops.segment_sum(known.astype(jnp.float32), group, groups)
    mean = jax.ops.segment_sum(error, group, groups) / jnp.maximum(counts, 1.0)
    within = jnp.where(known, error - mean[group], 0.0)
    return jnp.sum(jnp.square(within)) + PLAIN_SHARE * jnp.sum(jnp.square(error))


def segment_loss(
    heads: Mapping[str, Any], frames: jax.Array, rows: jax.Array, config: ModelConfig
) -> jax.Array:
    """Returns the loss of a batch of segments, whose own loudness is the reference.

    Args:
      heads: the parameters of the heads.
      frames: what the encoder is given, [B, T, bands].
      rows: [B, N, 5], see `grids.note_rows`; velocity 0 is not known.
      config: frames of the segment and their rate.
    """
    batch = len(rows)
    peak = jnp.max(frames, axis=(1, 2))
    power = jnp.mean(jnp.exp(2.0 * frames), axis=1)
    group = jnp.arange(batch)[:, None] * (grids.DRUMS + 1)
    group += jnp.clip(rows[..., 3].astype(jnp.int32), 0, grids.DRUMS)
    total = jnp.zeros((), jnp.float32)
    for drums in (False, True):
        low = 0 if drums else harmonic_stem.LOWEST_PITCH
        pitches = vocabularies.NUM_PITCHES if drums else harmonic_stem.NUM_PITCHES
        places = grids.places(rows, config, low, pitches, drums=drums)
        told = jax.vmap(
            lambda frames, frame, pitch, peak, power, drums=drums: (
                frame_heads.velocities(
                    heads,
                    frame_heads.velocity_features(frames, frame, pitch, drums=drums),
                    pitch,
                    peak,
                    power,
                    drums=drums,
                )
            )
        )(frames, places.frame - 1, places.pitch + low, peak, power)
        total += grouped_loss(
            told.reshape(-1),
            rows[..., 4].reshape(-1) / vocabularies.MAX_VELOCITY,
            group.reshape(-1),
            (places.begins & (rows[..., 4] > 0)).reshape(-1),
            batch * (grids.DRUMS + 1),
        )
    return total
