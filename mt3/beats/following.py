"""Pulses that follow a tempo that changes: `librosa`'s tempogram and beat tracker.

The tempo of the whole recording is estimated first; around it, where it goes from
second to second; then the dynamic programming of `librosa.beat` finds the series of
strong onsets that agrees with it best. Importing `librosa.beat` takes seconds, which
recordings of one tempo (`pulse`) need not wait for.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from mt3.beats.onsets import Onsets

RATE = 100
"""Frames per second of onset envelopes."""

# Width of an onset in the envelope, frames.
_ONSET_WIDTH = 1.5
_WINDOW_SECONDS = 8.0
# The local tempo may differ from the recording's by about this, octaves.
_TEMPO_OCTAVES = 0.25
_FASTEST = 320.0
# Local tempos jump; what follows them should not.
_SMOOTH_SECONDS = 3.0
# Longer recordings have their tempo estimated in pieces: a tempogram is large.
_PIECE_SECONDS = 300
# Tempograms need no finer envelope than this.
_TEMPO_RATE = 50
FEWEST_SECONDS = 4.0


def envelope(onsets: Onsets) -> np.ndarray:
    """Returns the strength of onsets, float32 [frames at `RATE`]."""
    frame = np.round(onsets.time * RATE).astype(np.int64)
    strength = np.sqrt(np.bincount(frame, onsets.weight, frame[-1] + RATE))
    return scipy.ndimage.gaussian_filter1d(strength, _ONSET_WIDTH).astype(np.float32)


def follow(strength: np.ndarray, tempo: float | None = None) -> np.ndarray:
    """Returns the seconds of pulses, ascending; fewer than two where there are none.

    Args:
      strength: of onsets, float32 [frames at `RATE`].
      tempo: about which the pulses lie, beats per minute; None to estimate it.
    """
    if len(strength) < FEWEST_SECONDS * RATE or not strength.any():
        return np.zeros(0)
    import librosa

    _, frames = librosa.beat.beat_track(
        onset_envelope=strength,
        sr=RATE,
        hop_length=1,
        bpm=_local_tempo(strength, tempo),
        trim=False,
    )
    return frames / RATE


def _local_tempo(strength: np.ndarray, tempo: float | None) -> np.ndarray:
    """Returns beats per minute, [frames]."""
    import librosa

    step = RATE // _TEMPO_RATE
    padded = np.pad(strength, (0, -len(strength) % step))
    coarse = padded.reshape(-1, step).mean(axis=1)
    settings = {
        "sr": _TEMPO_RATE,
        "hop_length": 1,
        "ac_size": _WINDOW_SECONDS,
        "max_tempo": _FASTEST,
    }
    pieces = np.array_split(coarse, -(-len(coarse) // (_PIECE_SECONDS * _TEMPO_RATE)))
    if tempo is None:
        guesses = [librosa.feature.tempo(onset_envelope=x, **settings) for x in pieces]
        tempo = float(np.median(guesses))
    local = np.concatenate(
        [
            librosa.feature.tempo(
                onset_envelope=piece,
                start_bpm=tempo,
                std_bpm=_TEMPO_OCTAVES,
                aggregate=None,
                **settings,
            )
            for piece in pieces
        ]
    )
    width = round(_SMOOTH_SECONDS * _TEMPO_RATE)
    smooth = scipy.ndimage.median_filter(np.log(local), width, mode="nearest")
    smooth = scipy.ndimage.gaussian_filter1d(smooth, width / 3, mode="nearest")
    return np.repeat(np.exp(smooth), step)[: len(strength)]
