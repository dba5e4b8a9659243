"""Heads that say what each frame contains: notes that begin and sound, drums, details.

They read the encoder's output and the harmonic stem's description of each note
(`harmonic_stem`), and nothing in the network depends on them. Training uses them as
aids (`beyond.guided`); from weights that are exported with them
(`T5Config.frame_heads`) notes can be read without the token decoder
(`beyond.frames`).
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

* velocity: `velocity_*` for notes and `drum_velocity_*` for drum hits, on levels of the
  front end around an onset (`velocity_features`), through two hidden layers. The
  encoder hears levels relative to their neighbourhood alone, from which a note's
  velocity can't be told.

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
import numpy as np
from flax import linen as nn

from mt3 import vocabularies
from mt3.errors import CheckpointError, ConfigError
from mt3.harmonic_stem import BANDS_PER_SEMITONE, LOWEST_PITCH, NUM_PITCHES

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
VELOCITY_WIDTH = 96
# Frames around an onset whose levels tell a velocity, and where they are read: at a
# note's first partials, for drums in wide bands of four semitones.
_NOTE_FRAMES = np.arange(-2, 6)
_DRUM_FRAMES = np.arange(-1, 3)
_PARTIALS = np.rint(12 * BANDS_PER_SEMITONE * np.log2(np.arange(1, 7))).astype(int)
_WIDE_BANDS, _WIDE = 24, 12
# Levels below the recording's peak that are looked at, in dB, and their scale.
_DECIBELS = 20 / np.log(10)
_RANGE_DB, _SCALE_DB = 90.0, 30.0
_SILENCE = -30.0


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
    time: Array  # [B, T, 88], frames from the frame's centre to the onset
    drum_onset: Array  # [B, T, 128], log odds
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
            "decoding: frames are asked for, but these weights have no "
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
    _, drum_time = jnp.split(drums, 2, axis=-1)
    return Heard(
        onset=refined[..., 0],
        sounding=refined[..., 1],
        classes=notes[..., :NUM_CLASSES],
        time=notes[..., NUM_CLASSES + 1],
        drum_onset=frame_logits(heads, encoded).drums,
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
    for drums in (False, True):
        shapes |= velocity_shapes(drums=drums)
    return shapes


def velocity_shapes(*, drums: bool = False) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the velocity head's parameters."""
    name = "drum_velocity" if drums else "velocity"
    bands = _WIDE_BANDS if drums else len(_PARTIALS)
    frames = len(_DRUM_FRAMES if drums else _NOTE_FRAMES)
    pitches = vocabularies.NUM_PITCHES if drums else NUM_PITCHES
    return {
        f"{name}_levels": ((bands + 1) * frames + bands, VELOCITY_WIDTH),
        f"{name}_pitch": (pitches, VELOCITY_WIDTH),
        f"{name}_hidden": (VELOCITY_WIDTH, VELOCITY_WIDTH),
        f"{name}_hidden_bias": (VELOCITY_WIDTH,),
        f"{name}_out": (VELOCITY_WIDTH, 1),
        f"{name}_bias": (1,),
    }


class Loudness(NamedTuple):
    """How loud a recording is: what the levels of its notes are relative to.

    A finished result uses the whole recording's, a stream that of the part so far.
    """

    peak: float  # the largest value of the frames, a natural logarithm
    power: np.ndarray  # [bands], the mean square of the magnitudes
    frames: int  # that were heard

    @classmethod
    def silence(cls, bands: int) -> Loudness:
        """Returns that of a recording of which nothing was heard."""
        return cls(_SILENCE, np.zeros(bands), 0)

    def add(self, frames: np.ndarray) -> Loudness:
        """Returns the loudness with further frames [T, bands]."""
        count = self.frames + len(frames)
        if not len(frames):
            return self
        total = self.power * self.frames + np.exp(2.0 * frames).sum(axis=0)
        return Loudness(max(self.peak, float(frames.max())), total / count, count)


def velocity_features(
    frames: Array, frame: Array, pitch: Array, *, drums: bool = False
) -> Array:
    """Reads the levels from which a velocity can be told.

    Args:
      frames: what the encoder was given, [T, bands], natural logarithms.
      frame: int [n], the frame of each onset; frames beyond either end repeat the
        outermost.
      pitch: int [n], MIDI pitch; not used for drums.
      drums: whether these are drum hits.

    Returns:
      [n, F]: around the onset, the largest level near each partial (of each wide band
      for drums), and each frame's largest level. NumPy arrays for NumPy arrays.
    """
    module = np if isinstance(frames, np.ndarray) else jnp
    around = _DRUM_FRAMES if drums else _NOTE_FRAMES
    places = module.clip(frame[:, None] + around[None], 0, frames.shape[0] - 1)
    if drums:
        wide = frames[:, : _WIDE_BANDS * _WIDE]
        levels = wide.reshape(-1, _WIDE_BANDS, _WIDE).max(axis=-1)[places]
    else:
        near = _near_partials(module, frames)
        levels = near[places[:, :, None], _partial_bands(pitch)[:, None, :]]
    levels = levels.reshape(len(frame), levels.shape[1] * levels.shape[2])
    return module.concatenate([levels, frames.max(axis=-1)[places]], axis=-1)


def velocities(
    heads: Mapping[str, Any],
    features: Array,
    pitch: Array,
    peak: Any,
    power: Array,
    *,
    drums: bool = False,
) -> Array:
    """Estimates velocities from levels.

    Args:
      heads: the parameters.
      features: [n, F], see `velocity_features`.
      pitch: int [n], MIDI pitch or drum key.
      peak: the largest level of the recording; a number, or [n, 1].
      power: its mean power in each band, [bands], or [n, bands].
      drums: whether these are drum hits.

    Returns:
      [n], velocity / 127, not limited. NumPy arrays for NumPy arrays.
    """
    module = np if isinstance(features, np.ndarray) else jnp
    name, low = ("drum_velocity", 0) if drums else ("velocity", LOWEST_PITCH)
    if drums:
        wide = power[..., : _WIDE_BANDS * _WIDE]
        wide = wide.reshape(*wide.shape[:-1], _WIDE_BANDS, _WIDE).mean(axis=-1)
        usual = module.log(wide + np.exp(2 * _SILENCE)) / 2
        usual = module.broadcast_to(usual, (len(features), _WIDE_BANDS))
    else:
        usual = _near_partials(module, module.log(power + np.exp(2 * _SILENCE)) / 2)
        bands = _partial_bands(pitch)
        if usual.ndim == 1:
            usual = usual[bands]
        else:
            usual = module.take_along_axis(usual, bands, axis=-1)
    levels = module.concatenate([features, usual], axis=-1) - peak
    levels = module.clip(levels * _DECIBELS, -_RANGE_DB, 0.0) / _SCALE_DB + 1.5
    hidden = module.take(heads[f"{name}_pitch"], pitch - low, axis=0)
    hidden += levels @ heads[f"{name}_levels"]
    hidden = _gelu(module, hidden) @ heads[f"{name}_hidden"]
    hidden = _gelu(module, hidden + heads[f"{name}_hidden_bias"][None])
    told = hidden @ heads[f"{name}_out"] + heads[f"{name}_bias"][None]
    return told[:, 0] + VELOCITY_OFFSET


def midi_velocities(
    heads: Mapping[str, Any],
    features: np.ndarray,
    pitch: np.ndarray,
    loudness: Loudness,
    *,
    drums: bool = False,
) -> np.ndarray:
    """Returns the velocities of found notes, int [n], 1..127; see `velocities`."""
    told = velocities(
        heads, features, pitch, loudness.peak, loudness.power, drums=drums
    )
    return np.clip(np.rint(127 * told), 1, vocabularies.MAX_VELOCITY).astype(int)


def _near_partials(module: Any, levels: Array) -> Array:
    """Returns the largest of each band [..., bands] and its two neighbours.

    There are further bands, which are silent, for partials above the highest.
    """
    beyond = int(_PARTIALS[-1]) + BANDS_PER_SEMITONE
    padding = [(0, 0)] * (levels.ndim - 1) + [(1, beyond)]
    x = module.pad(levels, padding, constant_values=_SILENCE)
    pairs = module.maximum(x[..., :-1], x[..., 1:])
    return module.maximum(pairs[..., :-1], pairs[..., 1:])


def _partial_bands(pitch: Array) -> Array:
    """Returns the band of each pitch's partials, int [n, partials]."""
    return BANDS_PER_SEMITONE * (pitch[:, None] - LOWEST_PITCH) + 1 + _PARTIALS[None]


def _gelu(module: Any, x: Array) -> Array:
    """The tanh approximation, as in the other heads."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + module.tanh(inner))
