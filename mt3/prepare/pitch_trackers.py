"""Pitch trackers by name: samples -> a pitch and a confidence for every 10 ms.

`pyin`
  librosa's probabilistic YIN (Mauch and Dixon, ICASSP 2014), which is installed with
  this package. Its probability that a frame is voiced says how periodic the sound is:
  0.98 for one steady tone, 0.8 for a fifth, 0.4 for a triad, 0.01 for noise; 0.76 is
  the median of rendered solos, 0.3 of duets, 0.02 of whole songs. The confidence is
  this to the power of 0.05, so that 0.95 stands for 0.36: of itself the probability
  hardly ever reaches 0.95 in music, since a window holds the end of one note and the
  beginning of the next, or room.
`praat`
  Praat's autocorrelation (Boersma 1993), where `praat-parselmouth` is installed; ten
  times faster. The confidence is the autocorrelation at the period: 0.99 is the median
  of solos, 0.96 of duets, 0.78 of whole songs.

Neither fetches anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

from mt3.errors import ConfigError, check_choice

SAMPLE_RATE = 16000
FRAMES_PER_SECOND = 100
_HOP = SAMPLE_RATE // FRAMES_PER_SECOND
# C1 to C7. Two periods of C1 just fit into pYIN's window of 64 ms; a longer one finds
# the beginnings of notes later.
_LOWEST, _HIGHEST = 32.703, 2093.0
_PYIN_WINDOW = 1024
_PYIN_POWER = 0.05
# Of pYIN's grid of pitches, in semitones. Its time grows with the square of their
# number; on a grid that begins with C1, steps of 0.25 have every pitch of the scale.
_RESOLUTION = 0.25

# float32 samples [n] at 16 kHz -> (frequencies in Hz, confidences 0..1), each [frames]
# with frame i at i / 100 s.
Tracker = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def track(samples: np.ndarray, tracker: str) -> tuple[np.ndarray, np.ndarray]:
    """Follows the pitch of a recording.

    Args:
      samples: float32 [n], at 16 kHz.
      tracker: a key of `TRACKERS`.

    Returns:
      (pitches in semitones, 69 is 440 Hz; confidences 0..1), float64 [n // 160], where
      frame i is at i / 100 s. Where the confidence is 0, the pitch may be NaN.

    Raises:
      ConfigError: an unknown tracker, or one that is not installed.
    """
    check_choice("tracker", tracker, TRACKERS)
    count = len(samples) // _HOP
    frequencies, confidences = TRACKERS[tracker](samples)
    known = np.isfinite(frequencies) & (frequencies > 0) & (confidences > 0)
    pitches = np.full(len(frequencies), np.nan)
    pitches[known] = 69 + 12 * np.log2(frequencies[known] / 440)
    return pitches[:count], np.where(known, confidences, 0.0)[:count]


def check_installed(tracker: str) -> None:
    """Raises ConfigError if a tracker's package is not installed."""
    if tracker == "praat":
        _parselmouth()


def _pyin(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import librosa

    frequencies, _, confidences = librosa.pyin(
        samples,
        sr=SAMPLE_RATE,
        hop_length=_HOP,
        frame_length=_PYIN_WINDOW,
        fmin=_LOWEST,
        fmax=_HIGHEST,
        resolution=_RESOLUTION,
        fill_na=None,
    )
    # Rounding may lift a probability above 1.
    return frequencies, np.clip(confidences, 0, 1) ** _PYIN_POWER


def _praat(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = _parselmouth().Sound(samples, SAMPLE_RATE)
    pitch = found.to_pitch_ac(
        time_step=1 / FRAMES_PER_SECOND, pitch_floor=_LOWEST, pitch_ceiling=_HIGHEST
    )
    # Its first frame is where a whole window fits; the nearest one counts.
    times = np.arange(len(samples) // _HOP) / FRAMES_PER_SECOND
    nearest = np.rint((times - pitch.x1) * FRAMES_PER_SECOND).astype(int)
    frames = pitch.selected_array[np.clip(nearest, 0, pitch.n_frames - 1)]
    return frames["frequency"], frames["strength"]


def _parselmouth() -> ModuleType:
    try:
        import parselmouth
    except ImportError as error:
        raise ConfigError(
            "tracker 'praat' needs the package praat-parselmouth "
            f"(pip install praat-parselmouth): {error}"
        ) from error
    return parselmouth


TRACKERS: Mapping[str, Tracker] = {"pyin": _pyin, "praat": _praat}
