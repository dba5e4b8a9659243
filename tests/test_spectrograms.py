"""Frames, filters and logarithms."""

import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import spectral_ops, spectrograms
from mt3.errors import ConfigError, ShapeError
from mt3.spectrograms import SpectrogramConfig


def test_rates_by_exact_division():
    config = SpectrogramConfig()
    assert config.frames_per_second == 125
    assert config.abbrev_str == ""
    assert SpectrogramConfig(hop_width=256, num_mel_bins=229).abbrev_str == "hw256mb229"


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (127, 1), (128, 2), (129, 2)])
def test_a_recording_is_always_padded(samples, frames):
    split = spectrograms.split_recording(np.ones(samples), SpectrogramConfig())
    assert split.shape == (frames, 128)
    assert spectrograms.number_of_frames(samples, SpectrogramConfig()) == frames
    assert spectrograms.flatten_frames(split).sum() == samples


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (127, 1), (128, 1), (129, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_split_audio_fills_up_the_last_hop(samples, frames, dtype):
    whole = np.arange(1, samples + 1).astype(dtype)
    split = spectrograms.split_audio(whole, SpectrogramConfig())
    assert split.shape == (frames, 128)
    assert split.dtype == dtype
    flat = spectrograms.flatten_frames(split)
    np.testing.assert_array_equal(flat[:samples], whole)
    assert not flat[samples:].any()


class TestKindsOfArrays:
    """NumPy, JAX and TensorFlow (eager and in `tf.data`) get the same values."""

    @pytest.fixture
    def samples(self):
        rng = np.random.default_rng(3)
        time = np.arange(3000) / 16000
        tone = np.sin(2 * np.pi * 440 * time)
        return (tone + rng.normal(0, 0.1, 3000)).astype(np.float32)

    @pytest.fixture
    def tf(self):
        import tensorflow

        return tensorflow

    FUNCTIONS = (
        spectral_ops.stft,
        spectral_ops.compute_mag,
        spectral_ops.compute_mel,
        spectral_ops.compute_logmel,
        lambda x: spectral_ops.stft(x, 511, 0.3),
        lambda x: spectral_ops.compute_mel(x, 50.0, 3000.0, 20, 512, 0.5, False, 8000),
        lambda x: spectrograms.compute_spectrogram(x, SpectrogramConfig()),
        lambda x: spectrograms.split_audio(x, SpectrogramConfig()),
        lambda x: spectrograms.flatten_frames(spectral_ops.frame(x, 64, 32)),
        lambda x: spectral_ops.safe_log(x, eps=0.1),
        spectral_ops.tf_float32,
    )

    @pytest.mark.parametrize("number", range(len(FUNCTIONS)))
    def test_are_returned_as_they_come(self, number, samples, tf):
        function = self.FUNCTIONS[number]
        host = function(samples)
        device = function(jnp.asarray(samples))
        eager = function(tf.constant(samples))
        assert type(host) is np.ndarray
        assert isinstance(device, jnp.ndarray)
        assert tf.is_tensor(eager)
        dataset = tf.data.Dataset.from_tensors(samples).map(function)
        (graph,) = dataset.as_numpy_iterator()
        for other in (device, eager.numpy(), graph):
            assert other.dtype == host.dtype
            np.testing.assert_allclose(other, host, rtol=1e-3, atol=2e-3)

    def test_against_tf_signal(self, samples, tf):
        expected = tf.signal.stft(samples, 500, 125, pad_end=True)
        np.testing.assert_allclose(
            spectral_ops.stft(samples, 500), expected, rtol=1e-4, atol=1e-4
        )
        matrix = tf.signal.linear_to_mel_weight_matrix(64, 1025, 16000, 80.0, 7600.0)
        magnitudes = tf.abs(tf.signal.stft(samples, 2048, 512, pad_end=True))
        np.testing.assert_allclose(
            spectral_ops.compute_logmel(samples),
            np.log(magnitudes.numpy() @ matrix.numpy()),
            atol=1e-3,
        )

    def test_channels(self, samples):
        mono = spectral_ops.stft(samples)
        batch = spectral_ops.stft(np.stack([samples, samples])[..., None])
        np.testing.assert_allclose(batch, [mono, mono], atol=1e-4)
        with pytest.raises(ShapeError, match="expected one channel"):
            spectral_ops.stft(np.zeros((2, 100, 2)))
        with pytest.raises(ConfigError, match="at least one sample"):
            spectral_ops.stft(samples, overlap=1.0)


def test_frames_end_in_zeros():
    frames = spectral_ops.frame(np.arange(1.0, 11.0), 6, 4)
    assert frames.tolist() == [
        [1, 2, 3, 4, 5, 6],
        [5, 6, 7, 8, 9, 10],
        [9, 10, 0, 0, 0, 0],
    ]


def test_numpy_and_jax_agree():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(2, 8192)).astype(np.float32)
    config = SpectrogramConfig()
    host = spectrograms.compute_spectrogram(samples, config)
    device = spectrograms.compute_spectrogram(jnp.asarray(samples), config)
    assert host.shape == device.shape == (2, 64, 512)
    assert host.dtype == device.dtype == np.float32
    np.testing.assert_allclose(host, device, atol=2e-3)


def test_a_tone_is_loudest_in_its_band():
    time = np.arange(16000) / 16000
    config = SpectrogramConfig()
    mel = spectrograms.compute_spectrogram(np.sin(2 * np.pi * 1000 * time), config)
    edges = np.linspace(
        spectral_ops.hertz_to_mel(20), spectral_ops.hertz_to_mel(7600), 514
    )
    band = np.abs(edges[1:-1] - spectral_ops.hertz_to_mel(1000)).argmin()
    assert abs(int(mel[40].argmax()) - band) <= 1


def test_silence_is_the_floor():
    mel = spectrograms.compute_spectrogram(np.zeros(1000), SpectrogramConfig())
    assert (mel == np.log(np.float32(1e-5))).all()


def test_quiet_is_below_the_floor():
    # Only values <= 0 are replaced; quieter sounds than the floor keep their logarithm.
    rng = np.random.default_rng(0)
    mel = spectrograms.compute_spectrogram(
        1e-9 * rng.normal(size=4096), SpectrogramConfig()
    )
    assert mel.min() < np.log(1e-5)


@pytest.mark.parametrize("scale", spectral_ops.BAND_MATRICES)
def test_blocks_of_frames_are_the_whole(scale, monkeypatch):
    samples = np.random.default_rng(0).normal(0, 0.1, 30 * 128 + 5).astype(np.float32)
    samples[: 20 * 128] = 0
    options = {"scale": scale, "lo_hz": 30.0, "overlap": 1 - 128 / 2048}
    whole = spectral_ops.compute_logmel(samples, **options)
    frames = spectral_ops.frame(samples, 2048, 128) * spectral_ops.hann_window(2048)
    magnitudes = np.abs(np.fft.rfft(frames))
    matrix = spectral_ops.BAND_MATRICES[scale](64, 1025, 16000, 30.0, 7600.0)
    bands = magnitudes @ matrix
    np.testing.assert_allclose(
        whole, np.log(np.where(bands <= 0, 1e-5, bands)), atol=1e-3
    )
    assert whole.shape == (31, 64)
    assert whole.ctypes.data % 64 == 0  # TensorFlow would copy it.
    monkeypatch.setattr(spectral_ops, "_BLOCK_FRAMES", 7)
    blocks = spectral_ops.compute_logmel(samples, **options)
    np.testing.assert_array_equal(blocks, whole)
    both = spectral_ops.compute_logmel(np.stack([samples, samples]), **options)
    np.testing.assert_array_equal(both, [whole, whole])


@pytest.mark.parametrize("count", [1, 128, 300])
def test_whole_numbers_are_split_as_floats_are(count):
    whole = np.random.default_rng(0).integers(-32768, 32767, count, np.int16)
    floats = whole.astype(np.float32) / 32768
    hops = spectrograms.split_recording(whole, SpectrogramConfig())
    assert hops.dtype == np.float32
    np.testing.assert_array_equal(
        hops, spectrograms.split_recording(floats, SpectrogramConfig())
    )
    np.testing.assert_array_equal(hops.reshape(-1)[:count], floats)
    assert not hops.reshape(-1)[count:].any()


def test_bad_settings_and_shapes():
    with pytest.raises(ConfigError, match="half the sample rate"):
        spectrograms.compute_spectrogram(
            np.zeros(100), SpectrogramConfig(sample_rate=8000)
        )
    with pytest.raises(ConfigError, match="hop_width"):
        SpectrogramConfig(hop_width=0)
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        spectrograms.split_recording(np.zeros((2, 3)), SpectrogramConfig())


class TestPitchScale:
    CONFIG = SpectrogramConfig(
        num_mel_bins=85, scale="pitch", lo_hz=55.0, hi_hz=55.0 * 2**7, hop_width=256
    )

    @pytest.mark.parametrize("band", [0, 12, 37, 60, 84])
    def test_bands_are_equal_steps_of_pitch(self, band):
        # A semitone each, from 55 Hz.
        time = np.arange(16000) / 16000
        tone = np.sin(2 * np.pi * 55.0 * 2 ** (band / 12) * time)
        levels = spectrograms.compute_spectrogram(tone, self.CONFIG)
        assert abs(int(levels[20].argmax()) - band) <= (1 if band < 30 else 0)

    def test_no_band_is_empty(self):
        matrix = spectral_ops.pitch_matrix(85, 1025, 16000, 55.0, 55.0 * 2**7)
        np.testing.assert_allclose(matrix.sum(axis=0), 1.0, atol=1e-6)

    def test_numpy_and_jax_agree(self):
        samples = np.random.default_rng(0).normal(size=8192).astype(np.float32)
        host = spectrograms.compute_spectrogram(samples, self.CONFIG)
        device = spectrograms.compute_spectrogram(jnp.asarray(samples), self.CONFIG)
        np.testing.assert_allclose(host, device, atol=2e-3)

    def test_names(self):
        assert SpectrogramConfig(scale="pitch").abbrev_str == "pitch"
        with pytest.raises(ConfigError, match="unknown scale 'pich'.*pitch"):
            SpectrogramConfig(scale="pich")
