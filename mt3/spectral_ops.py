"""Short-time Fourier transform and band filters: MT3's mel bands, and others.

Written against an array module `xp`, so that one function serves hosts (NumPy)
and devices (`jax.numpy`). The conventions are those of `tf.signal`, which the
released models were trained on:

* periodic Hann window, no centring, zeros after the end;
* HTK mel scale, triangles of height one, no normalisation by area; many of the
  lowest of 512 bands fall between two FFT bins and stay empty;
* magnitudes, not powers; natural logarithm; only values <= 0 are replaced by
  1e-5, so values between 0 and 1e-5 keep their (lower) logarithm;
* window and filters are computed in float32 throughout. Their rounding is audible
  to the logarithm where a band almost cancels (3e-3 against 1e-3 in the golden
  comparison), so higher precision would be less faithful.

Beside the original's mel bands (`scale="mel"`) there are bands in equal steps of pitch
(`scale="pitch"`): the harmonics of every note are then the same number of bands away
from its fundamental, which `mt3.harmonic_stem` builds upon.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

LOG_FLOOR = 1e-5
# Frames that the NumPy path transforms at a time: 512 KB as complex numbers of 2048
# samples.
_BLOCK_FRAMES = 64
# Bytes; what TensorFlow asks of memory that it does not copy.
_ALIGNMENT = 64
_MEL_BREAK_HERTZ = np.float32(700.0)
_MEL_HIGH_Q = np.float32(1127.0)


def hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Converts frequencies in Hz to mel (HTK's formula), any shape."""
    hertz = np.asarray(hertz, np.float32)
    return _MEL_HIGH_Q * np.log(1 + hertz / _MEL_BREAK_HERTZ)


@functools.lru_cache(maxsize=8)
def mel_matrix(
    num_mel_bins: int, num_fft_bins: int, sample_rate: int, lo_hz: float, hi_hz: float
) -> np.ndarray:
    """Returns the filter bank, float32 [num_fft_bins, num_mel_bins].

    Args:
      num_mel_bins: number of triangles.
      num_fft_bins: FFT size / 2 + 1.
      sample_rate: in Hz.
      lo_hz: lower edge of the first triangle.
      hi_hz: upper edge of the last triangle.
    """
    # Triangles are linear on the mel scale; the bin at 0 Hz takes no part.
    nyquist = np.float32(sample_rate / 2)
    bins_mel = hertz_to_mel(np.linspace(0, nyquist, num_fft_bins, dtype=np.float32)[1:])
    edges = np.linspace(
        hertz_to_mel(lo_hz), hertz_to_mel(hi_hz), num_mel_bins + 2, dtype=np.float32
    )
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins_mel[:, None] - lower) / (centre - lower)
    falling = (upper - bins_mel[:, None]) / (upper - centre)
    weights = np.maximum(np.float32(0), np.minimum(rising, falling))
    matrix = np.concatenate([np.zeros((1, num_mel_bins), np.float32), weights])
    matrix.setflags(write=False)
    return matrix


@functools.lru_cache(maxsize=8)
def pitch_matrix(
    num_bands: int, num_fft_bins: int, sample_rate: int, lo_hz: float, hi_hz: float
) -> np.ndarray:
    """Returns filters in equal steps of pitch, float32 [num_fft_bins, num_bands].

    The centres go from `lo_hz` to `hi_hz` inclusive. A triangle reaches to its
    neighbours' centres, but at least one FFT bin to either side: where bands are
    closer than bins, a band interpolates between the two bins next to its centre,
    so that none is empty. Each column sums to 1.

    Args:
      num_bands: number of bands, at least 2.
      num_fft_bins: FFT size / 2 + 1.
      sample_rate: in Hz.
      lo_hz: centre of the lowest band.
      hi_hz: centre of the highest band.
    """
    centre = np.geomspace(lo_hz, hi_hz, num_bands)
    ratio = (hi_hz / lo_hz) ** (1 / (num_bands - 1))
    bin_width = sample_rate / 2 / (num_fft_bins - 1)
    bins = np.arange(num_fft_bins)[:, None] * bin_width
    below = np.maximum(centre - centre / ratio, bin_width)
    above = np.maximum(centre * ratio - centre, bin_width)
    reach = np.where(bins < centre, below, above)
    weights = np.maximum(0.0, 1.0 - np.abs(bins - centre) / reach)
    matrix = (weights / weights.sum(axis=0)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


BAND_MATRICES = {"mel": mel_matrix, "pitch": pitch_matrix}


@functools.lru_cache(maxsize=8)
def _sparse_band_matrix(scale: str, *settings) -> Any:
    """Returns a band matrix transposed and sparse: few bands share an FFT bin."""
    import scipy.sparse

    return scipy.sparse.csr_array(BAND_MATRICES[scale](*settings).T)


@functools.lru_cache(maxsize=8)
def hann_window(size: int) -> np.ndarray:
    """Returns the periodic Hann window, float32 [size]."""
    phase = np.float32(2 * np.pi) * np.arange(size, dtype=np.float32) / size
    window = np.float32(0.5) - np.float32(0.5) * np.cos(phase)
    window.setflags(write=False)
    return window


def frame(samples: Any, size: int, hop: int, xp: Any = np) -> Any:
    """Cuts samples into overlapping frames, padding with zeros at the end.

    Args:
      samples: float [..., n].
      size: samples of a frame.
      hop: samples between the starts of two frames.
      xp: array module, `numpy` or `jax.numpy`.

    Returns:
      float [..., ceil(n / hop), size].
    """
    count = -(-samples.shape[-1] // hop)
    padding = (count - 1) * hop + size - samples.shape[-1]
    widths = [(0, 0)] * (samples.ndim - 1) + [(0, max(0, padding))]
    padded = xp.pad(samples, widths)
    if xp is np:
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=-1)
        return windows[..., : (count - 1) * hop + 1 : hop, :]
    indices = np.arange(count)[:, None] * hop + np.arange(size)[None, :]
    return padded[..., indices]


def _log_bands(samples: np.ndarray, fft_size: int, hop: int, bank: Any) -> np.ndarray:
    """Computes one recording's logarithms of bands with NumPy, some frames at a time.

    Args:
      samples: float32 [n].
      fft_size: samples of a frame.
      hop: samples between two frames.
      bank: sparse band matrix, float32 [num_bands, fft_size / 2 + 1].

    Returns:
      float32 [ceil(n / hop), num_bands].
    """
    # NumPy's FFT computes in double precision; SciPy's stays in float32.
    import scipy.fft

    frames = frame(samples, fft_size, hop)
    window = hann_window(fft_size)
    logs = aligned_empty((len(frames), bank.shape[0]))
    # A block's arrays stay in the processor's cache, and below the size from which
    # the C library hands memory back to the system, to ask for it again at once.
    windowed = np.empty((min(_BLOCK_FRAMES, len(frames)), fft_size), np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        part = np.multiply(block, window, out=windowed[: len(block)])
        # Frequencies first, which is how a sparse matrix wants them: the transform
        # gathers its samples anyway, and a transposing copy would cost half as much.
        magnitudes = np.abs(scipy.fft.rfft(part.T, axis=0))
        # 50 times less work than the dense product, which a device does not mind.
        bands = bank @ magnitudes
        # Weights and magnitudes are not negative: what is <= 0 is 0.
        bands += (bands <= 0.0) * np.float32(LOG_FLOOR)
        logs[start : start + len(block)] = np.log(bands, out=bands).T
    return logs


def aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a new float32 array that TensorFlow can take without copying it."""
    size = int(np.prod(shape))
    memory = np.empty(size + _ALIGNMENT // 4, np.float32)
    first = -memory.ctypes.data % _ALIGNMENT // 4
    return memory[first : first + size].reshape(shape)


def log_mel_spectrogram(
    samples: Any,
    *,
    sample_rate: int = 16000,
    hop_width: int = 128,
    fft_size: int = 2048,
    num_mel_bins: int = 512,
    lo_hz: float = 20.0,
    hi_hz: float = 7600.0,
    scale: str = "mel",
    xp: Any = np,
) -> Any:
    """Computes the logarithm of the magnitudes in bands.

    Args:
      samples: float32 [..., n], full scale 1.
      sample_rate: in Hz.
      hop_width: samples between two frames.
      fft_size: samples of a frame.
      num_mel_bins: number of bands.
      lo_hz: lower edge of the lowest band.
      hi_hz: upper edge of the highest band.
      scale: a key of `BAND_MATRICES`; with "pitch", `lo_hz` and `hi_hz` are centres.
      xp: array module, `numpy` or `jax.numpy`.

    Returns:
      float32 [..., ceil(n / hop_width), num_mel_bins].
    """
    samples = xp.asarray(samples, xp.float32)
    settings = (num_mel_bins, fft_size // 2 + 1, sample_rate, lo_hz, hi_hz)
    if xp is np:
        bank = _sparse_band_matrix(scale, *settings)
        if samples.ndim == 1:
            return _log_bands(samples, fft_size, hop_width, bank)
        shape = (*samples.shape[:-1], -(-samples.shape[-1] // hop_width), num_mel_bins)
        logs = np.empty(shape, np.float32)
        for index in np.ndindex(shape[:-2]):
            logs[index] = _log_bands(samples[index], fft_size, hop_width, bank)
        return logs
    frames = frame(samples, fft_size, hop_width, xp)
    window = hann_window(fft_size).reshape((1,) * (frames.ndim - 1) + (fft_size,))
    magnitudes = xp.abs(xp.fft.rfft(frames * window, axis=-1))
    mel = xp.matmul(magnitudes, BAND_MATRICES[scale](*settings))
    return xp.log(xp.where(mel <= 0.0, xp.float32(LOG_FLOOR), mel))
