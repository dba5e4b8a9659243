"""Pulses that follow a tempo that changes: `librosa`'s tempogram, and Ellis's tracker.

The tempo of the whole recording is estimated first; around it, where it goes from
second to second; then dynamic programming finds the series of strong onsets that agrees
with it best (Ellis, Beat Tracking by Dynamic Programming, 2007). The latter is that of
`librosa.beat.beat_track`, whose results it has (a test compares them), without the
seconds that Numba needs to compile that module at every start.
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
# How much a beat's distance from the one before counts against its strength.
_TIGHTNESS = 100.0
# Beats lie on onsets: the strength around them counts within this share of a beat.
_BEAT_WIDTH = 1 / 32


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
    tempos = _local_tempo(strength, tempo)
    return _track(strength, np.round(60.0 * RATE / tempos).astype(np.int64)) / RATE


def _track(strength: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Returns the frames of beats, ascending.

    Args:
      strength: of onsets, float32 [frames], not all 0.
      period: frames from beat to beat, int [frames].
    """
    score = _beat_strength(strength, period)
    before, total = _best_beats_before(score, period)
    beats = [_last_beat(total)]
    while before[beats[-1]] >= 0:
        beats.append(before[beats[-1]])
    frames = np.array(beats[::-1])
    heard = np.flatnonzero(score > 0)
    return frames[(frames >= heard[0]) & (frames <= heard[-1])]


def _beat_strength(strength: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Returns how strong the onsets around each frame are, [frames]."""
    level = strength / strength.std(ddof=1)
    score = np.zeros(len(strength))
    for width in np.unique(period):
        offsets = np.arange(-width, width + 1)
        window = np.exp(-0.5 * (offsets / (width * _BEAT_WIDTH)) ** 2)
        here = period == width
        score[here] = np.convolve(level, window)[width:-width][here]
    return score


def _best_beats_before(
    score: np.ndarray, period: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each frame's best beat before it, -1 for none, and the sum up to it."""
    before = np.full(len(score), -1)
    total = score.copy()
    # By period: distances to the beat before, from half to twice it, and their cost.
    costs = {}
    for width in np.unique(period):
        distance = np.arange(round(width / 2), 2 * width + 1)
        costs[width] = _TIGHTNESS * (np.log(distance) - np.log(width)) ** 2
    begun, quiet = False, 0.01 * score.max()
    for frame, width in enumerate(period):
        nearest = frame - round(width / 2)
        if nearest < 0:
            best = -1
        else:
            sums = total[max(0, frame - 2 * width) : nearest + 1][::-1]
            best = nearest - int(np.argmax(sums - costs[width][: len(sums)]))
            total[frame] += total[best] - costs[width][nearest - best]
        begun = begun or score[frame] >= quiet
        if begun:
            before[frame] = best
    return before, total


def _last_beat(total: np.ndarray) -> int:
    """Returns the last peak that is not low, the last frame if there is none."""
    following = np.append(total[1:], -np.inf)
    peaks = np.flatnonzero((total[1:] > total[:-1]) & (total[1:] >= following[1:])) + 1
    high = peaks[total[peaks] >= 0.5 * np.median(total[peaks])] if len(peaks) else peaks
    return int(high[-1]) if len(high) else len(total) - 1


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
