"""What happens to music on its way into a file, as pure functions of audio.

Each takes its parameters outright; `augmentation.Augmenter` draws them. Filters are
given as responses (the factor for each frequency), so that several cost one product:

| effect | what it imitates | parameters |
|---|---|---|
| `low_pass` | worn tapes, low bit rates | cut-off in Hz, 48 dB an octave |
| `high_pass` | small loudspeakers and microphones | cut-off in Hz, 24 dB an octave |
| `comb` | stereo folded down to mono, a reflecting wall | delay in s, gain -1..1 |
| `limit` | compressors and limiters | threshold, ratio, release in s |
| `soft_clip` | tape, valves | drive |
| `hard_clip` | overloaded converters | ceiling |
| `codec` | MP3 and the like at low rates | depth and coarseness in dB |
| `change_speed` | tape and turntable speed, other tuning | cents |

All but the last keep times; the last is used where the notes are known.
"""

from __future__ import annotations

import numpy as np

# Blocks of the limiter's level meter.
LIMITER_BLOCK_SECONDS = 0.004
# Frames of the codec: long enough that its noise is heard before attacks.
CODEC_FRAME = 512
_CODEC_HOP = CODEC_FRAME // 2
# Upper ends of bands within which a codec shares its bits, in bins of `CODEC_FRAME`.
_CODEC_BANDS = (0, 2, 4, 6, 8, 10, 13, 16, 20, 24, 30, 38, 48, 60, 76, 98, 128, 180)


def low_pass(frequencies: np.ndarray, cut: float) -> np.ndarray:
    """Returns the factor for each frequency: 1/2 at the cut-off."""
    return 1.0 / (1.0 + (frequencies / np.float32(cut)) ** 8)


def high_pass(frequencies: np.ndarray, cut: float) -> np.ndarray:
    """Returns the factor for each frequency: 1/2 at the cut-off."""
    return 1.0 / (1.0 + (np.float32(cut) / np.maximum(frequencies, 1.0)) ** 4)


def comb(frequencies: np.ndarray, delay: float, gain: float) -> np.ndarray:
    """Returns the response of adding the sound once more, `delay` seconds later."""
    turns = np.float32(-2 * np.pi * delay) * frequencies
    return 1.0 + np.float32(gain) * np.exp(1j * turns)


def limit(
    audio: np.ndarray,
    *,
    threshold: float,
    ratio: float,
    release: float,
    sample_rate: int,
) -> np.ndarray:
    """Turns loud passages down, at once, and up again slowly.

    Args:
      audio: float32 [samples].
      threshold: peak of a block from which on it is turned down.
      ratio: so many dB more going in make one dB more coming out.
      release: seconds in which the meter falls by 20 dB.
      sample_rate: in Hz.
    """
    block = max(int(LIMITER_BLOCK_SECONDS * sample_rate), 1)
    count = -(-len(audio) // block)
    padded = np.zeros(count * block, np.float32)
    padded[: len(audio)] = np.abs(audio)
    peaks = np.log(np.maximum(padded.reshape(count, block).max(axis=1), 1e-6))
    # The meter follows rises at once and falls along a line in decibels: the highest
    # of all lines that earlier peaks have left.
    fall = np.log(10.0) * block / (max(release, 1e-3) * sample_rate)
    slope = fall * np.arange(count)
    meter = np.maximum.accumulate(peaks + slope) - slope
    over = np.maximum(meter - np.log(threshold), 0.0)
    gains = np.exp(-over * (1.0 - 1.0 / ratio))
    middles = (np.arange(count) + 0.5) * block
    smooth = np.interp(np.arange(len(audio)), middles, gains)
    return audio * smooth.astype(np.float32)


def soft_clip(audio: np.ndarray, drive: float) -> np.ndarray:
    """Bends the waveform: what is loud against 1 / `drive` is squeezed."""
    return np.tanh(audio * np.float32(drive)) / np.float32(drive)


def hard_clip(audio: np.ndarray, ceiling: float) -> np.ndarray:
    """Cuts the waveform off at +-`ceiling`."""
    return np.clip(audio, np.float32(-ceiling), np.float32(ceiling))


def codec(audio: np.ndarray, *, depth_db: float, step_db: float) -> np.ndarray:
    """Imitates a lossy codec of a low rate.

    Spectra of overlapping frames are rounded, in each band in steps that depend on its
    level, so that weak components between strong ones vanish (holes) and the rest is
    a little wrong, with noise of the spectrum's shape. What lies far below the frame's
    loudest component is lost as a whole.

    Args:
      audio: float32 [samples].
      depth_db: how far below its loudest component a frame keeps anything (35: very
        low rates; 60: hardly heard).
      step_db: size of the rounding step against the band's root mean square; 0 dB loses
        about half of the components, -12 dB few.
    """
    window = np.sqrt(np.hanning(CODEC_FRAME + 1)[:-1]).astype(np.float32)
    count = -(-len(audio) // _CODEC_HOP) + 1
    padded = np.zeros((count + 1) * _CODEC_HOP, np.float32)
    padded[_CODEC_HOP : _CODEC_HOP + len(audio)] = audio
    frames = np.lib.stride_tricks.sliding_window_view(padded, CODEC_FRAME)
    spectrum = np.fft.rfft(frames[::_CODEC_HOP] * window, axis=1)
    size = np.abs(spectrum)
    power = np.add.reduceat(size**2, _CODEC_BANDS, axis=1)
    widths = np.diff((*_CODEC_BANDS, size.shape[1]))
    steps = np.sqrt(power / widths) * 10 ** (step_db / 20)
    step = np.maximum(np.repeat(steps, widths, axis=1), 1e-9)
    floor = size.max(axis=1, keepdims=True) * 10 ** (-depth_db / 20)
    kept = np.where(size < floor, 0.0, np.round(size / step) * step)
    spectrum *= kept / np.maximum(size, 1e-12)
    coded = np.fft.irfft(spectrum, axis=1) * window
    halves = coded.reshape(count, 2, _CODEC_HOP)
    whole = np.zeros((count + 1, _CODEC_HOP))
    whole[:-1] += halves[:, 0]
    whole[1:] += halves[:, 1]
    start = _CODEC_HOP
    return whole.reshape(-1)[start : start + len(audio)].astype(np.float32)


def change_speed(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Plays audio faster or slower, and so higher or lower, without aliasing.

    Notes' times are to be divided by the factor len(audio) / num_samples, whose
    1200 * log2 is the change of pitch in cents.

    Args:
      audio: float32 [samples].
      num_samples: the samples that come out.
    """
    from scipy import signal

    if len(audio) == num_samples:
        return audio
    # The transform takes the end for the beginning's past: give it some silence.
    pad = max(len(audio) // 64, 1)
    factor = num_samples / len(audio)
    longer = np.pad(audio, (pad, pad))
    out = signal.resample(longer, int(round(len(longer) * factor)))
    start = int(round(pad * factor))
    return out[start : start + num_samples].astype(np.float32)
