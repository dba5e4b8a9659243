"""What happens to music on its way into a file, as pure functions of audio.

`augmentation.Augmenter` draws the parameters. Filters are frequency responses (one
factor for each frequency), so that several of them cost one multiplication:

| effect | what it imitates | parameters |
|---|---|---|
| `low_pass` | worn tapes, low bit rates | cut-off in Hz, 48 dB per octave |
| `high_pass` | small loudspeakers and microphones | cut-off in Hz, 24 dB per octave |
| `comb` | stereo folded down to mono, a reflecting wall | delay in s, gain -1..1 |
| `limit` | compressors and limiters | threshold, ratio, release in s |
| `soft_clip` | tape, valves | drive |
| `codec` | MP3 and the like at low rates | depth and coarseness in dB |
| `change_speed` | tape and turntable speed, other tuning | cents |

Only the last one changes times; it is used where the notes are known. Functions with
the parameter `xp` (`numpy` or `jax.numpy`) take one segment with scalars as parameters,
or a batch [B, samples] with columns [B, 1].
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

# Length of the blocks whose peaks drive the limiter.
LIMITER_BLOCK_SECONDS = 0.004
# Frames of the codec: long enough that its noise is audible before attacks.
CODEC_FRAME = 512
_CODEC_HOP = CODEC_FRAME // 2
# First bins of the bands within which a codec shares its bits, of `CODEC_FRAME`.
_CODEC_BANDS = (0, 2, 4, 6, 8, 10, 13, 16, 20, 24, 30, 38, 48, 60, 76, 98, 128, 180)


def low_pass(frequencies: np.ndarray, cut: Any) -> Any:
    """Returns the factor for each frequency: 1/2 at the cut-off."""
    return 1.0 / (1.0 + (frequencies / cut) ** 8)


def high_pass(frequencies: np.ndarray, cut: Any) -> Any:
    """Returns the factor for each frequency: 1/2 at the cut-off."""
    return 1.0 / (1.0 + (cut / np.maximum(frequencies, 1.0)) ** 4)


def comb(frequencies: np.ndarray, delay: Any, gain: Any, xp: ModuleType = np) -> Any:
    """Returns the response of adding the sound again, `delay` seconds later."""
    return 1.0 + gain * xp.exp(1j * ((-2 * np.pi * delay) * frequencies))


def limit(
    audio: Any,
    threshold: Any,
    ratio: Any,
    release: Any,
    sample_rate: int,
    *,
    xp: ModuleType = np,
) -> Any:
    """Turns loud passages down at once, and up again slowly.

    Args:
      audio: float32 [..., samples].
      threshold: peak of a block above which it is turned down.
      ratio: this many dB more at the input give one dB more at the output.
      release: seconds in which the meter falls by 20 dB.
      sample_rate: in Hz.
      xp: `numpy` or `jax.numpy`.
    """
    samples, axes = audio.shape[-1], audio.ndim - 1
    block = max(int(LIMITER_BLOCK_SECONDS * sample_rate), 1)
    count = -(-samples // block)
    padding = [(0, 0)] * axes + [(0, count * block - samples)]
    blocks = xp.pad(xp.abs(audio), padding).reshape(*audio.shape[:-1], count, block)
    peaks = xp.log(xp.maximum(xp.max(blocks, axis=-1), 1e-6))
    # The meter follows rises at once and falls along a line in decibels: it is the
    # maximum of the lines that start at all earlier peaks.
    fall = np.log(10.0) * block / (release * sample_rate)
    slope = fall * np.arange(count).reshape((1,) * axes + (-1,))
    if xp is np:
        maximum = np.maximum.accumulate
    else:
        from jax.lax import cummax as maximum
    meter = maximum(peaks + slope, axis=axes) - slope
    over = xp.maximum(meter - xp.log(threshold), 0.0)
    gains = xp.exp(-over * (1.0 - 1.0 / ratio))
    # Each gain belongs to the middle of its block; between them the gain is linear.
    place = np.clip(np.arange(samples) / block - 0.5, 0, count - 1)
    before = np.floor(place).astype(np.int32)
    after = np.minimum(before + 1, count - 1)
    part = (place - before).reshape((1,) * axes + (-1,))
    smooth = (1 - part) * gains[..., before] + part * gains[..., after]
    return audio * smooth.astype(np.float32)


def soft_clip(audio: Any, drive: Any, xp: ModuleType = np) -> Any:
    """Bends the waveform: values that are large against 1 / `drive` are squeezed."""
    return xp.tanh(audio * drive) / drive


def codec(audio: np.ndarray, depth_db: float, step_db: float) -> np.ndarray:
    """Imitates a lossy codec at a low rate.

    Spectra of overlapping frames are rounded, in each band in steps that depend on its
    level, so that weak components between strong ones vanish (holes) and the others
    become inexact, with noise of the spectrum's shape. Components far below the
    loudest one of the frame are lost entirely.

    Args:
      audio: float32 [samples].
      depth_db: how far below its loudest component a frame keeps anything (35: very
        low rates; 60: hardly audible).
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

    The times of notes must be divided by the factor len(audio) / num_samples, whose
    1200 * log2 is the change of pitch in cents.

    Args:
      audio: float32 [samples].
      num_samples: number of samples in the result.
    """
    from scipy import signal

    if len(audio) == num_samples:
        return audio
    # The transform is circular: silence separates the end from the beginning.
    pad = max(len(audio) // 64, 1)
    factor = num_samples / len(audio)
    longer = np.pad(audio, (pad, pad))
    out = signal.resample(longer, int(round(len(longer) * factor)))
    start = int(round(pad * factor))
    return out[start : start + num_samples].astype(np.float32)
