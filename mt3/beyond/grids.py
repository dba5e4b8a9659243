"""Which notes begin and sound in each frame: targets of the training aids.

The host sends the notes of a segment as rows of five numbers (`note_rows`). The device
computes grids of frames and pitches from them, which are a hundred times larger. Times
count from the segment's first frame, and where the segment has context
(`ModelConfig.context_frames`) from the first frame of its middle; grids have all
frames.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import vocabularies
from mt3.configs import ModelConfig
from mt3.frame_heads import NUM_CLASSES

DRUMS = NUM_CLASSES
# Frames until the next event; the last class means "later, or never".
NEXT_EVENT_CLASSES = 64
_NO_NOTE = -1
_CLASS_SIZE = vocabularies.NUM_PROGRAMS // NUM_CLASSES


def frame_of_time(seconds: Any, config: ModelConfig) -> Any:
    """Returns the (fractional) frame, of all, whose window is centred on a time."""
    spectrogram = config.spectrogram
    centre = spectrogram.fft_size / (2 * spectrogram.hop_width)
    return seconds * spectrogram.frames_per_second - centre + config.context_frames


def note_rows(notes: np.ndarray, max_notes: int) -> np.ndarray | None:
    """Packs the notes of a segment as rows of numbers.

    Args:
      notes: NOTE_DTYPE [n], times in seconds.
      max_notes: rows.

    Returns:
      float32 [max_notes, 5]: start, end, pitch, MIDI class or `DRUMS`, velocity 1..127
      or 0 where it is not known; rows without a note are -1. None if there are more
      notes than rows.
    """
    if len(notes) > max_notes:
        return None
    rows = np.full((max_notes, 5), _NO_NOTE, np.float32)
    rows[: len(notes), 0] = notes["start_time"]
    rows[: len(notes), 1] = notes["end_time"]
    rows[: len(notes), 2] = notes["pitch"]
    classes = notes["program"] // _CLASS_SIZE
    rows[: len(notes), 3] = np.where(notes["is_drum"], DRUMS, classes)
    rows[: len(notes), 4] = notes["velocity"]
    return rows


def onset_grid(rows: jax.Array, config: ModelConfig, drums: bool = False) -> jax.Array:
    """Marks the frame of each onset and the frame after it.

    Onsets whose window would begin before the segment are marked in its first frames.

    Args:
      rows: [B, N, 5], see `note_rows`.
      config: frames of the segment and their rate.
      drums: mark drum hits instead of pitched notes.

    Returns:
      float32 [B, T, 128].
    """
    first, _ = _spans(rows, config)
    wanted = rows[..., 3] == DRUMS if drums else _is_pitched(rows)
    begins = wanted & _begins(rows, config)
    grid = _scatter(rows[..., 2], first, begins, config, vocabularies.NUM_PITCHES)
    grid = jnp.minimum(grid, 1.0)
    return jnp.maximum(grid, jnp.pad(grid, ((0, 0), (1, 0), (0, 0)))[:, :-1])


def sounding_grid(
    rows: jax.Array, config: ModelConfig, classes: bool = False
) -> jax.Array:
    """Marks the frames in which each pitch sounds, or each MIDI class plays.

    Args:
      rows: [B, N, 5], see `note_rows`; a note sounds in one frame at least.
      config: frames of the segment and their rate.
      classes: mark MIDI classes instead of pitches.

    Returns:
      float32 [B, T, 128], or [B, T, NUM_CLASSES].
    """
    first, last = _spans(rows, config)
    pitched = _is_pitched(rows)
    column = rows[..., 3] if classes else rows[..., 2]
    width = NUM_CLASSES if classes else vocabularies.NUM_PITCHES
    change = _scatter(column, first, pitched, config, width)
    change -= _scatter(column, jnp.maximum(last, first + 1), pitched, config, width)
    # The product with a triangle of ones is a cumulative sum, which is slow on CPUs.
    before = np.tril(np.ones((config.inputs_length,) * 2, np.float32))
    return jnp.minimum(jnp.einsum("st,btp->bsp", before, change), 1.0)


class Places(NamedTuple):
    """Where a grid of frames and pitches describes each note of some rows.

    A note is described one frame after its onset, where more of it is heard. All
    attributes are [B, N]; frames and pitches lie within the grid, whatever the note.
    """

    frame: jax.Array  # int: the frame after the onset's; 1 for a note from before
    pitch: jax.Array  # int: steps above the grid's lowest
    begins: jax.Array  # bool: the note begins in the segment and lies in the grid
    tied: jax.Array  # bool: it began before, and still sounds in frame 1
    time: jax.Array  # frames from the centre of the onset's frame to the onset
    timed: jax.Array  # bool: it begins, and `time` is within -0.5..0.5


def places(
    rows: jax.Array, config: ModelConfig, low: int, pitches: int, drums: bool = False
) -> Places:
    """Finds where pitched notes, or drum hits, are described.

    Args:
      rows: [B, N, 5], see `note_rows`.
      config: frames of the segment and their rate.
      low: the grid's lowest pitch.
      pitches: its number of pitches.
      drums: find drum hits instead of pitched notes.
    """
    frames = config.inputs_length
    first, last = _spans(rows, config)
    pitch = rows[..., 2].astype(jnp.int32) - low
    wanted = rows[..., 3] == DRUMS if drums else _is_pitched(rows)
    wanted &= (pitch >= 0) & (pitch < pitches) & (first + 1 < frames)
    begins = wanted & _begins(rows, config)
    time = frame_of_time(rows[..., 0], config) - first
    return Places(
        frame=jnp.clip(first + 1, 0, frames - 1),
        pitch=jnp.clip(pitch, 0, pitches - 1),
        begins=begins,
        tied=wanted & ~_begins(rows, config) & (last > 1),
        time=time,
        # What begins within the first window has its onset before frame 0.
        timed=begins & (time >= -0.5),
    )


def next_event(rows: jax.Array, config: ModelConfig) -> jax.Array:
    """Counts the frames from each frame to the next onset or offset after it.

    Args:
      rows: [B, N, 5], see `note_rows`; drums have no offsets.
      config: frames of the segment and their rate.

    Returns:
      int32 [B, T], 0..`NEXT_EVENT_CLASSES` - 1.
    """
    length = config.inputs_length
    is_note, pitched = rows[..., 3] >= 0, rows[..., 3] < DRUMS
    times = jnp.concatenate([rows[..., 0], rows[..., 1]], axis=1)
    counts = jnp.concatenate([is_note, is_note & pitched], axis=1)
    counts &= times >= -config.context_seconds
    frame = jnp.rint(frame_of_time(times, config)).astype(jnp.int32)
    frame = jnp.where(counts & (frame >= 0), frame, length)
    batch = jnp.arange(rows.shape[0])[:, None]
    marked = jnp.zeros((rows.shape[0], length + 1), jnp.int32)
    marked = marked.at[batch, jnp.minimum(frame, length)].max(1)[:, :length]
    never = length + NEXT_EVENT_CLASSES
    place = jnp.where(marked > 0, jnp.arange(length)[None], never)
    following = jax.lax.cummin(place, axis=1, reverse=True)
    following = jnp.pad(following[:, 1:], ((0, 0), (0, 1)), constant_values=never)
    distance = following - jnp.arange(length)[None]
    return jnp.minimum(distance, NEXT_EVENT_CLASSES - 1).astype(jnp.int32)


def _spans(rows: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Returns each note's first frame and the frame after its last, int32 [B, N]."""
    first = jnp.rint(frame_of_time(rows[..., 0], config)).astype(jnp.int32)
    last = jnp.rint(frame_of_time(rows[..., 1], config)).astype(jnp.int32)
    return jnp.maximum(first, 0), jnp.maximum(last, 0)


def _begins(rows: jax.Array, config: ModelConfig) -> jax.Array:
    """Returns which notes begin in the segment or its context, bool [B, N]."""
    return rows[..., 0] >= -config.context_seconds


def _is_pitched(rows: jax.Array) -> jax.Array:
    return (rows[..., 3] >= 0) & (rows[..., 3] < DRUMS)


def _scatter(
    column: jax.Array,
    frame: jax.Array,
    counts: jax.Array,
    config: ModelConfig,
    width: int,
) -> jax.Array:
    """Adds 1 at (frame, column) for each note that counts and lies in the segment."""
    length = config.inputs_length
    batch = jnp.broadcast_to(jnp.arange(frame.shape[0])[:, None], frame.shape)
    column = jnp.clip(column.astype(jnp.int32), 0, width - 1)
    grid = jnp.zeros((frame.shape[0], length + 1, width), jnp.float32)
    place = grid.at[batch, jnp.minimum(frame, length), column]
    return place.add(counts.astype(jnp.float32))[:, :length]
