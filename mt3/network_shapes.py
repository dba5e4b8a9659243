"""Shape checks of the network's arguments: what was got, what was expected.

Shapes and types are known while JAX traces, so the checks cost nothing in a compiled
program. Each raises `ShapeError`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mt3.errors import ShapeError
from mt3.network_config import T5Config

Array = jax.Array

# Rows of the position table; no segment and no target may be longer.
MAX_POSITIONS = 2048


def check_length(stage: str, length: int) -> None:
    """Checks that the position table has a row for each of `length` positions."""
    if length > MAX_POSITIONS:
        unit = "frames" if stage == "encoder" else "tokens"
        raise ShapeError(
            f"{stage}: {length} {unit}, expected at most {MAX_POSITIONS} (the rows of "
            "the position table); use shorter segments"
        )


def check_frames(frames: Array, cfg: T5Config) -> None:
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
    check_length("encoder", frames.shape[1])


def check_tokens(encoded: Array, tokens: Array, cfg: T5Config) -> None:
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
    check_length("decoder", tokens.shape[1])


def check_like(name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    """Checks that an argument, if there is one, has the expected shape."""
    if array is not None and tuple(array.shape) != tuple(shape):
        raise ShapeError(f"{name}: shape {tuple(array.shape)}, expected {tuple(shape)}")


def check_positions(name: str, positions: Array) -> None:
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
