"""Short-time Fourier transform and band filters: MT3's mel bands, and others.

Each function takes an array of NumPy, JAX or TensorFlow (or a list) and returns the
same kind: hosts, devices and `tf.data` share one implementation. TensorFlow is used
where its tensors come in, and never imported otherwise. The conventions are those of
`tf.signal`, which the released models were trained on:

* periodic Hann window, no centring, zeros after the end;
* frames are transformed at the next power of two of their length;
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

Difference from the original, which returned TensorFlow's tensors whatever came in: see
above. `ConfigError` and `ShapeError` take the place of TensorFlow's own errors.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import numpy as np

from mt3.errors import ConfigError, ShapeError

LOG_FLOOR = 1e-5
# Frames that the NumPy path transforms at a time: 512 KB as complex numbers of 2048
# samples.
_BLOCK_FRAMES = 64
# Bytes; what TensorFlow asks of memory that it does not copy.
_ALIGNMENT = 64
_MEL_BREAK_HERTZ = np.float32(700.0)
_MEL_HIGH_Q = np.float32(1127.0)


def array_module(x: Any) -> Any:
    """Returns what computes with arrays of the kind of `x`.

    Returns:
      `numpy`, `jax.numpy`, or a namespace with the same functions for TensorFlow, as
      far as this module and `spectrograms` need them.
    """
    jax, tf = sys.modules.get("jax"), sys.modules.get("tensorflow")
    if jax is not None and isinstance(x, jax.Array):
        return jax.numpy
    if tf is not None and tf.is_tensor(x):
        return _tensorflow_module()
    return np


@functools.lru_cache(maxsize=1)
def _tensorflow_module() -> Any:
    import tensorflow as tf

    return types.SimpleNamespace(
        asarray=lambda x, dtype: tf.cast(x, tf.as_dtype(np.dtype(dtype))),
        float32=np.float32,
        abs=tf.abs,
        log=tf.math.log,
        matmul=tf.matmul,
        reshape=lambda x, shape: tf.reshape(x, np.atleast_1d(shape)),
        squeeze=lambda x, axis: tf.squeeze(x, axis=axis),
        where=tf.where,
        fft=types.SimpleNamespace(rfft=lambda x, n: tf.signal.rfft(x, [n])),
        frame=lambda x, size, hop, pad_end: tf.signal.frame(
            x, size, hop, pad_end=pad_end
        ),
    )


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


def _band_matrix(
    scale: str, bins: int, fft_bins: int, sample_rate: int, lo_hz: float, hi_hz: float
) -> np.ndarray:
    """Returns the filters of a scale, float32 [fft_bins, bins]."""
    if not 0.0 <= lo_hz < hi_hz <= sample_rate / 2:
        raise ConfigError(
            f"spectrogram: bands from {lo_hz} to {hi_hz} Hz do not fit below half the "
            f"sample rate, {sample_rate / 2} Hz"
        )
    return BAND_MATRICES[scale](bins, fft_bins, sample_rate, lo_hz, hi_hz)


@functools.lru_cache(maxsize=8)
def _sparse_band_matrix(scale: str, *settings) -> Any:
    """Returns a band matrix transposed and sparse: few bands share an FFT bin."""
    import scipy.sparse

    return scipy.sparse.csr_array(_band_matrix(scale, *settings).T)


@functools.lru_cache(maxsize=8)
def hann_window(size: int) -> np.ndarray:
    """Returns the Hann window, float32 [size]: periodic, but symmetric for odd sizes.

    That is what `tf.signal` does.
    """
    period = max(size - size % 2, 1)
    phase = np.float32(2 * np.pi) * np.arange(size, dtype=np.float32) / period
    window = np.float32(0.5) - np.float32(0.5) * np.cos(phase)
    window.setflags(write=False)
    return window


def frame(samples: Any, size: int, hop: int, pad_end: bool = True) -> Any:
    """Cuts samples into overlapping frames.

    Args:
      samples: [..., n].
      size: samples of a frame.
      hop: samples between the starts of two frames.
      pad_end: fill the last frames up with zeros, instead of leaving out those that
        reach beyond the end.

    Returns:
      [..., frames, size], with ceil(n / hop) frames, or those that fit.
    """
    xp = array_module(samples)
    if hasattr(xp, "frame"):
        return xp.frame(samples, size, hop, pad_end)
    length = samples.shape[-1]
    if pad_end:
        count = -(-length // hop)
        missing = max(0, (count - 1) * hop + size - length)
        samples = xp.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
    else:
        count = max(0, (length - size) // hop + 1)
    if not count:
        return xp.zeros((*samples.shape[:-1], 0, size), samples.dtype)
    if xp is np:
        windows = np.lib.stride_tricks.sliding_window_view(samples, size, axis=-1)
        return windows[..., : (count - 1) * hop + 1 : hop, :]
    indices = np.arange(count)[:, None] * hop + np.arange(size)[None, :]
    return samples[..., indices]


def tf_float32(x: Any) -> Any:
    """Returns `x` as float32, of its own kind (see the module docstring)."""
    xp = array_module(x)
    return xp.asarray(x, xp.float32)


def safe_log(x: Any, eps: float = LOG_FLOOR) -> Any:
    """Returns the natural logarithm in float32, of `eps` where `x` is 0 or less."""
    xp = array_module(x)
    x = xp.asarray(x, xp.float32)
    return xp.log(xp.where(x <= 0.0, xp.asarray(eps, xp.float32), x))


def _window_and_hop(frame_size: int, overlap: float) -> tuple[int, int, int]:
    """Returns samples of a frame, samples between frames, and length of the FFT."""
    hop = int(frame_size * (1.0 - overlap))
    if hop < 1:
        raise ConfigError(
            f"stft: frames of {frame_size} samples that overlap by {overlap}, expected "
            "at least one sample from frame to frame"
        )
    return int(frame_size), hop, 1 << (int(frame_size) - 1).bit_length()


def _mono(audio: Any) -> Any:
    """Returns float32 [..., n]; [batch, n, 1] loses its last axis."""
    audio = tf_float32(audio)
    if len(audio.shape) != 3:
        return audio
    if audio.shape[-1] != 1:
        raise ShapeError(
            f"stft: audio of shape {tuple(audio.shape)}, expected one channel"
        )
    return array_module(audio).squeeze(audio, axis=-1)


def stft(
    audio: Any, frame_size: int = 2048, overlap: float = 0.75, pad_end: bool = True
) -> Any:
    """Returns the short-time Fourier transform.

    Args:
      audio: [n], [batch, n] or [batch, n, 1].
      frame_size: samples of a frame.
      overlap: the part of a frame that the next one sees too, in [0, 1).
      pad_end: fill the last frames up with zeros, instead of leaving them out.

    Returns:
      complex64 [..., frames, fft_size / 2 + 1], fft_size the next power of two of
      `frame_size`.

    Raises:
      ConfigError: frames that do not move.
      ShapeError: several channels.
    """
    size, hop, fft_size = _window_and_hop(frame_size, overlap)
    frames = frame(_mono(audio), size, hop, pad_end)
    window = hann_window(size).reshape((1,) * (len(frames.shape) - 1) + (size,))
    xp = array_module(frames)
    if xp is np:
        # NumPy's FFT computes in double precision; SciPy's stays in float32.
        import scipy.fft

        return scipy.fft.rfft(frames * window, n=fft_size)
    return xp.fft.rfft(frames * window, n=fft_size)


def compute_mag(
    audio: Any, size: int = 2048, overlap: float = 0.75, pad_end: bool = True
) -> Any:
    """Returns the magnitudes of `stft`, float32 [..., frames, fft_size / 2 + 1]."""
    transformed = stft(audio, size, overlap, pad_end)
    return array_module(transformed).abs(transformed)


def compute_mel(
    audio: Any,
    lo_hz: float = 0.0,
    hi_hz: float = 8000.0,
    bins: int = 64,
    fft_size: int = 2048,
    overlap: float = 0.75,
    pad_end: bool = True,
    sample_rate: int = 16000,
    scale: str = "mel",
) -> Any:
    """Returns the magnitudes in bands, float32 [..., frames, bins].

    Args:
      audio: [n], [batch, n] or [batch, n, 1].
      lo_hz: lower edge of the lowest band.
      hi_hz: upper edge of the highest band, at most half the sample rate.
      bins: number of bands.
      fft_size: samples of a frame.
      overlap: the part of a frame that the next one sees too, in [0, 1).
      pad_end: fill the last frames up with zeros, instead of leaving them out.
      sample_rate: in Hz.
      scale: a key of `BAND_MATRICES`; with "pitch", `lo_hz` and `hi_hz` are centres.

    Raises:
      ConfigError: bands beyond half the sample rate, or frames that do not move.
      ShapeError: several channels.
    """
    magnitudes = compute_mag(audio, fft_size, overlap, pad_end)
    settings = (bins, int(magnitudes.shape[-1]), sample_rate, lo_hz, hi_hz)
    return array_module(magnitudes).matmul(magnitudes, _band_matrix(scale, *settings))


def compute_logmel(
    audio: Any,
    lo_hz: float = 80.0,
    hi_hz: float = 7600.0,
    bins: int = 64,
    fft_size: int = 2048,
    overlap: float = 0.75,
    pad_end: bool = True,
    sample_rate: int = 16000,
    scale: str = "mel",
) -> Any:
    """Returns the logarithms (`safe_log`) of `compute_mel`; see there."""
    if array_module(audio) is not np:
        mel = compute_mel(
            audio, lo_hz, hi_hz, bins, fft_size, overlap, pad_end, sample_rate, scale
        )
        return safe_log(mel)
    audio = _mono(audio)
    size, hop, padded_size = _window_and_hop(fft_size, overlap)
    bank = _sparse_band_matrix(
        scale, bins, padded_size // 2 + 1, sample_rate, lo_hz, hi_hz
    )
    frames = frame(audio, size, hop, pad_end)
    if frames.ndim == 2:
        return _log_bands(frames, padded_size, bank)
    logs = np.empty((*frames.shape[:-1], bins), np.float32)
    for index in np.ndindex(frames.shape[:-2]):
        logs[index] = _log_bands(frames[index], padded_size, bank)
    return logs


def _log_bands(frames: np.ndarray, fft_size: int, bank: Any) -> np.ndarray:
    """Computes one recording's logarithms of bands with NumPy, some frames at a time.

    Args:
      frames: float32 [frames, samples].
      fft_size: length of the transform.
      bank: sparse band matrix, float32 [bands, fft_size / 2 + 1].

    Returns:
      float32 [frames, bands].
    """
    import scipy.fft

    count, size = frames.shape
    window = hann_window(size)
    logs = aligned_empty((count, bank.shape[0]))
    # A block's arrays stay in the processor's cache, and below the size from which
    # the C library hands memory back to the system, to ask for it again at once.
    windowed = np.empty((min(_BLOCK_FRAMES, count), size), np.float32)
    for start in range(0, count, _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        part = np.multiply(block, window, out=windowed[: len(block)])
        # Frequencies first, which is how a sparse matrix wants them: the transform
        # gathers its samples anyway, and a transposing copy would cost half as much.
        magnitudes = np.abs(scipy.fft.rfft(part.T, n=fft_size, axis=0))
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
