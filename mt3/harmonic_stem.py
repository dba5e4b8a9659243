"""A front end for the encoder that hears every pitch in the same way.

MT3's encoder begins with a dense layer on each frame, so it has to learn anew for
every pitch and at every place of the spectrum what a note looks like. With bands in
equal steps of pitch (`SpectrogramConfig.scale="pitch"`) the harmonics of a note are
always the same number of bands away from its fundamental. The stem lays them side by
side for each of the 88 pitches of a piano (harmonic stacking: Bittner et al. 2017,
"Deep salience representations", and 2022, Basic Pitch) and applies small
convolutions whose weights all pitches share:

1. `relative_levels`: log magnitudes as 0..1 below the segment's loudest band, so that
   nothing depends on the recording's level.
2. `views`: the levels' contrast to the bands around (peaks, whatever the recording's
   tone colour), their change over two frames, and the levels themselves. Without the
   first two, learning takes several times as many steps.
3. `harmonics`: of each view, the bands around `HARMONICS` times each pitch, and a
   convolution over `TIME_TAPS` frames.
4. `octaves`: a residual convolution over the same note in the octaves below and
   above: is it a note, or somebody's harmonic?
5. `onsets`: a residual convolution over more frames and neighbouring pitches.
6. `block_0` and so on, `T5Config.stem_blocks` of them: each compares a pitch with those
   an octave, a twelfth and a fifth harmonic away (`HARMONIC_STEPS`, the distances at
   which notes are mistaken for one another; harmonic convolutions: Wei et al. 2022,
   HPPNet), and mixes the result over frames further and further apart. With blocks,
   the channels are normalised before 7.
7. `notes`: what is known of each note, `note_channels` numbers, and from these the
   probabilities that it begins and that it sounds; both are projected to the
   embedding, all pitches side by side.
8. What has no pitch takes another way: each frame's levels and their rise are
   projected through a hidden layer.

The sum of 7 and 8 takes the place of the dense layer. This is not part of the
original; `T5Config.harmonic_channels = 0` (the default) leaves it out. `frame_heads`
reads what the stem says of notes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes

from mt3 import layers

Array = jax.Array

LOWEST_PITCH = 21
NUM_PITCHES = 88
BANDS_PER_SEMITONE = 3
# From a third of a semitone below the lowest pitch to just below 7.6 kHz.
NUM_BANDS = 294
LO_HZ = 440.0 * 2 ** ((LOWEST_PITCH - 69 - 1 / BANDS_PER_SEMITONE) / 12)
HI_HZ = LO_HZ * 2 ** ((NUM_BANDS - 1) / (12 * BANDS_PER_SEMITONE))
HARMONICS = (0.5, 1, 2, 3, 4, 5, 6, 8)
TIME_TAPS = 3
# Semitones from a note to its second, third and fifth harmonic.
HARMONIC_STEPS = (12, 19, 28)
# Frames back with which levels are compared for the rise.
_RISES = (1, 3)
_CHANGE_FRAMES = 2
# Bands to either side that a band is compared with: two thirds of an octave in all.
_CONTRAST_BANDS = 12
# Scales under which the views have a size of about 1 in music.
_CONTRAST_GAIN = 6.0
_LEVEL_GAIN = 3.0
_USUAL_LEVEL = 0.6
# Dynamic range that is looked at, and the level below which a segment counts as
# silent (a full-scale sine has 6.2, half the window's sum).
_RANGE = float(np.log(10 ** (70 / 20)))
_QUIETEST_PEAK = 6.2 - float(np.log(10 ** (60 / 20)))


def relative_levels(frames: Array) -> Array:
    """Scales log magnitudes to 0..1, where 1 is the segment's loudest band.

    Args:
      frames: natural logarithms of magnitudes, [B, T, D].

    Returns:
      [B, T, D]; 0 is 70 dB or more below the loudest.
    """
    peak = jnp.max(frames, axis=(1, 2), keepdims=True)
    peak = jnp.maximum(peak, jnp.asarray(_QUIETEST_PEAK, frames.dtype))
    return jnp.clip(1.0 + (frames - peak) / _RANGE, 0.0, 1.0)


def views(levels: Array) -> tuple[Array, Array, Array]:
    """Returns contrast, change and level, each [B, T, D] of size about 1.

    Args:
      levels: from `relative_levels`, [B, T, D].
    """
    around = jnp.asarray(_smoothing(levels.shape[-1]), levels.dtype)
    contrast = _CONTRAST_GAIN * (levels - jnp.matmul(levels, around))
    change = _CONTRAST_GAIN * (levels - _earlier(levels, _CHANGE_FRAMES))
    return contrast, change, _LEVEL_GAIN * (levels - _USUAL_LEVEL)


def rises(levels: Array) -> Array:
    """Returns by how much levels rose over some frames, [B, T, len(_RISES) * D]."""
    parts = [nn.relu(levels - _earlier(levels, distance)) for distance in _RISES]
    return _CONTRAST_GAIN * jnp.concatenate(parts, axis=-1)


def _earlier(levels: Array, frames: int) -> Array:
    """Returns the levels some frames before, and the first frame's before that."""
    first = jnp.repeat(levels[:, :1], frames, axis=1)
    return jnp.concatenate([first, levels[:, :-frames]], axis=1)


@functools.lru_cache(maxsize=2)
def _smoothing(bands: int) -> np.ndarray:
    """Returns a matrix [D, D] that averages the bands around each."""
    distance = np.abs(np.arange(bands)[:, None] - np.arange(bands))
    near = (distance <= _CONTRAST_BANDS).astype(np.float32)
    return near / near.sum(axis=0)


def stack_harmonics(levels: Array, middle_only: bool = False) -> Array:
    """Lays the bands around each pitch's harmonics side by side.

    Args:
      levels: [B, T, NUM_BANDS].
      middle_only: one band for each harmonic instead of three.

    Returns:
      [B, T, NUM_PITCHES, (1 or 3) * len(HARMONICS)]; 0 where a band lies outside.
    """
    octave = 12 * BANDS_PER_SEMITONE
    offsets = [int(round(octave * np.log2(harmonic))) for harmonic in HARMONICS]
    below = -min(offsets)
    above = max(offsets) + NUM_PITCHES * BANDS_PER_SEMITONE - NUM_BANDS
    padded = jnp.pad(levels, ((0, 0), (0, 0), (below, max(above, 0))))
    batch, length = levels.shape[:2]
    stacked = []
    for offset in offsets:
        first = below + offset
        part = padded[:, :, first : first + NUM_PITCHES * BANDS_PER_SEMITONE]
        part = part.reshape(batch, length, NUM_PITCHES, BANDS_PER_SEMITONE)
        stacked.append(part[..., 1:2] if middle_only else part)
    return jnp.concatenate(stacked, axis=-1)


class SharedConv(nn.Module):
    """A convolution over frames and pitches, with a bias.

    Attributes:
      features: channels that come out.
      taps: frames and pitches that are looked at.
      dilation: steps between those frames and pitches.
      dtype: what inputs and weights are cast to.
      bias_init: the bias at the start.
    """

    features: int
    taps: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    dtype: str = "float32"
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, T, P, C] to [B, T, P, features]."""
        shape = (*self.taps, x.shape[-1], self.features)
        # Two axes, as all kernels have here; partitioners know `embed` and `mlp`.
        kernel = param_with_axes(
            "kernel",
            nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
            (int(np.prod(shape[:-1])), self.features),
            jnp.float32,
            axes=("embed", "mlp"),
        )
        bias = param_with_axes(
            "bias",
            nn.initializers.constant(self.bias_init),
            (self.features,),
            jnp.float32,
            axes=("mlp",),
        )
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.reshape(shape).astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class HarmonicStem(nn.Module):
    """Frames to embeddings; see the module docstring.

    Attributes:
      emb_dim: features of the embedding.
      channels: of the shared convolutions.
      note_channels: numbers that describe a note.
      blocks: number of the blocks that compare harmonics.
      dtype: computation type.
    """

    emb_dim: int
    channels: int
    note_channels: int
    blocks: int = 0
    dtype: str = "float32"

    def setup(self):
        """Makes the sublayers; Flax calls it."""
        width, dtype = self.channels, self.dtype
        self.harmonics = SharedConv(width, (TIME_TAPS, 1), dtype=dtype)
        self.octaves = SharedConv(width, (1, 3), (1, 12), dtype=dtype)
        self.onsets = SharedConv(width, (3, 3), (2, 1), dtype=dtype)
        for i in range(self.blocks):
            setattr(self, f"block_{i}_norm", layers.LayerNorm(dtype=dtype))
            for step in HARMONIC_STEPS:
                conv = SharedConv(width, (1, 3), (1, step), dtype=dtype)
                setattr(self, f"block_{i}_harmonic_{step}", conv)
            mix = SharedConv(width, (3, 3), (2**i, 1), dtype=dtype)
            setattr(self, f"block_{i}_mix", mix)
        if self.blocks:
            self.out_norm = layers.LayerNorm(dtype=dtype)
        self.notes = SharedConv(self.note_channels, (1, 1), dtype=dtype)
        axes = ("joined_kv", "embed")
        self.notes_projection = layers.DenseGeneral(
            self.emb_dim, axis=(2, 3), dtype=dtype, kernel_axes=axes
        )
        # Notes are rare; the bias starts there instead of learning it.
        self.probabilities = SharedConv(2, (1, 1), dtype=dtype, bias_init=-5.0)
        self.probabilities_projection = layers.DenseGeneral(
            self.emb_dim,
            axis=(2, 3),
            dtype=dtype,
            # A note that is there should count for as much as a position does.
            kernel_init=nn.initializers.normal(0.5),
            kernel_axes=axes,
        )
        self.frame_hidden = layers.DenseGeneral(
            self.emb_dim, dtype=dtype, kernel_axes=axes
        )
        self.frame_projection = layers.DenseGeneral(
            self.emb_dim, dtype=dtype, kernel_axes=axes
        )

    def __call__(self, frames: Array) -> Array:
        """Maps log magnitudes [B, T, NUM_BANDS] to [B, T, emb_dim]."""
        levels = relative_levels(frames).astype(self.dtype)
        contrast, change, level = views(levels)
        parts = [
            stack_harmonics(contrast),
            stack_harmonics(change),
            stack_harmonics(level, middle_only=True),
        ]
        x = nn.gelu(self.harmonics(jnp.concatenate(parts, axis=-1)))
        x = x + nn.gelu(self.octaves(x))
        x = x + nn.gelu(self.onsets(x))
        for i in range(self.blocks):
            x = x + self._compared(i, x)
        if self.blocks:
            x = self.out_norm(x)
        notes = nn.gelu(self.notes(x))
        logits = self.probabilities(notes)
        self.sow("intermediates", "described", notes)
        self.sow("intermediates", "note_logits", logits)
        flat = jnp.concatenate([level, rises(levels)], axis=-1)
        hidden = nn.gelu(self.frame_hidden(flat))
        return (
            self.notes_projection(notes)
            + self.probabilities_projection(nn.sigmoid(logits))
            + self.frame_projection(hidden)
        )

    def _compared(self, i: int, x: Array) -> Array:
        """Returns what block i adds to the channels [B, T, P, C]."""
        x = getattr(self, f"block_{i}_norm")(x)
        compared = [
            getattr(self, f"block_{i}_harmonic_{step}")(x) for step in HARMONIC_STEPS
        ]
        return getattr(self, f"block_{i}_mix")(nn.gelu(sum(compared)))


def parameter_shapes(
    emb_dim: int, channels: int, note_channels: int, blocks: int = 0
) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the stem's parameters."""
    stacked = (2 * BANDS_PER_SEMITONE + 1) * len(HARMONICS)
    shapes: dict[str, tuple[int, ...]] = {"out_norm/scale": (channels,)}
    for i in range(blocks):
        shapes[f"block_{i}_norm/scale"] = (channels,)
        convolutions = {f"harmonic_{step}": 3 for step in HARMONIC_STEPS} | {"mix": 9}
        for name, taps in convolutions.items():
            shapes[f"block_{i}_{name}/kernel"] = (taps * channels, channels)
            shapes[f"block_{i}_{name}/bias"] = (channels,)
    return (shapes if blocks else {}) | {
        "harmonics/kernel": (TIME_TAPS * stacked, channels),
        "harmonics/bias": (channels,),
        "octaves/kernel": (3 * channels, channels),
        "octaves/bias": (channels,),
        "onsets/kernel": (9 * channels, channels),
        "onsets/bias": (channels,),
        "notes/kernel": (channels, note_channels),
        "notes/bias": (note_channels,),
        "notes_projection/kernel": (NUM_PITCHES * note_channels, emb_dim),
        "probabilities/kernel": (note_channels, 2),
        "probabilities/bias": (2,),
        "probabilities_projection/kernel": (NUM_PITCHES * 2, emb_dim),
        "frame_hidden/kernel": ((1 + len(_RISES)) * NUM_BANDS, emb_dim),
        "frame_projection/kernel": (emb_dim, emb_dim),
    }
