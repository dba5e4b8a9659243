"""Audio in: formats, resampling without seams, and every bad file named."""

from __future__ import annotations

import gc
import io
import math
import os
import re
import struct
import sys
import tempfile
import threading

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from mt3 import cli
from mt3.audio import reading, resampling
from mt3.errors import AudioError
from tests.support import damaged_audio


def sine(seconds: float, sample_rate: int, hertz: float = 440.0) -> np.ndarray:
    """float32 [n] of a sine at half scale."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def wav_bytes(num_frames: int, data_size: int | None = None) -> bytes:
    """A 16-bit mono WAV at 8 kHz whose header may lie about its size."""
    data = (np.arange(num_frames) % 100 * 100).astype("<i2").tobytes()
    size = len(data) if data_size is None else data_size
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    riff = min(36 + size, 0xFFFFFFFF)
    header = b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form
    return header + b"data" + struct.pack("<I", size) + data


def error_of(path, **options) -> str:
    """The message of the AudioError that reading the file raises."""
    with pytest.raises(AudioError) as caught:
        reading.read_audio(path, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("extension", "tolerance"),
    [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05), ("mp3", 0.05), ("aiff", 1e-4)],
)
def test_formats(tmp_path, extension, tolerance):
    samples = sine(1.5, 16000)
    path = tmp_path / f"song one.{extension}"
    soundfile.write(path, samples, 16000)
    read = reading.read_audio(path)
    assert read.dtype == np.float32
    assert read.shape == samples.shape
    # Lossy coders are judged away from the sudden start and end.
    inner = slice(2000, -2000)
    assert np.abs(read[inner] - samples[inner]).max() < tolerance
    info = reading.open_audio(path).info
    assert (info.sample_rate, info.channels) == (16000, 1)
    assert info.format == extension.upper()
    assert info.duration == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_channels_are_mixed_by_their_mean(tmp_path, rng, channels, subtype):
    samples = rng.uniform(-0.9, 0.9, [500, channels])
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype=subtype)
    step = 2 / 256 if subtype == "PCM_U8" else 2 / 65536
    read = reading.read_audio(path)
    np.testing.assert_allclose(read, samples.mean(axis=1), rtol=0, atol=step)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_pitch_time_and_length(rate):
    source = reading.from_samples(sine(1.0, rate), rate)
    read = np.concatenate(list(source.blocks(16000)))
    assert len(read) == 16000
    inner = slice(1000, -1000)
    np.testing.assert_allclose(read[inner], sine(1.0, 16000)[inner], atol=2e-3)


@given(
    num_samples=st.integers(1, 3000),
    from_rate=st.sampled_from([7999, 8000, 11025, 16000, 22050, 44100, 48000]),
    to_rate=st.sampled_from([8000, 16000, 44100]),
    block=st.integers(1, 900),
)
def test_blocks_equal_resampling_at_once(num_samples, from_rate, to_rate, block):
    samples = np.random.default_rng(num_samples).uniform(-1, 1, num_samples)
    samples = samples.astype(np.float32)
    source = reading.from_samples(samples, from_rate)
    blocks = list(source.blocks(to_rate, block_seconds=block / from_rate))
    assert all(len(b) and b.dtype == np.float32 for b in blocks)
    streamed = np.concatenate(blocks)
    expected = resampling.resampled_length(num_samples, from_rate, to_rate)
    assert len(streamed) == expected
    assert abs(expected - num_samples * to_rate / from_rate) <= 0.5 or expected == 1
    at_once = soxr.resample(samples, from_rate, to_rate)
    shared = min(len(streamed), len(at_once))
    np.testing.assert_allclose(streamed[:shared], at_once[:shared], atol=1e-6)


@given(
    num_samples=st.integers(1, 2000),
    segment=st.integers(1, 700),
    block=st.integers(1, 700),
)
def test_segments_stitch_to_the_whole(num_samples, segment, block):
    samples = np.arange(num_samples, dtype=np.float32)
    parts = list(reading.segments(samples, sample_rate=16000, segment_samples=segment))
    assert [start for start, _ in parts] == list(range(0, num_samples, segment))
    assert {len(part) for _, part in parts[:-1]} <= {segment}
    assert 0 < len(parts[-1][1]) <= segment
    np.testing.assert_array_equal(np.concatenate([p for _, p in parts]), samples)
    source = reading.from_samples(samples, 16000)
    again = np.concatenate(list(source.blocks(16000, block_seconds=block / 16000)))
    np.testing.assert_array_equal(again, samples)


def test_segments_of_a_file_at_another_rate(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([sine(2, 44100)] * 2, axis=1), 44100)
    whole = reading.read_audio(path)
    parts = list(reading.segments(str(path), segment_samples=9000))
    assert [len(p) for _, p in parts] == [9000, 9000, 9000, 5000]
    np.testing.assert_allclose(np.concatenate([p for _, p in parts]), whole, atol=1e-6)


def test_a_source_can_be_read_again(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(0.5, 22050), 22050)
    source = reading.open_audio(path)
    first, second = (np.concatenate(list(source.blocks())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert source.duration == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 192000])
def test_one_sample_is_audio(tmp_path, rate):
    path = tmp_path / "one_sample.wav"
    soundfile.write(path, np.array([0.25]), rate)
    read = reading.read_audio(path)
    assert len(read) == max(1, round(16000 / rate))
    if rate >= 16000:
        np.testing.assert_allclose(read, [0.25], atol=1e-4)


class TestArrays:
    @pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint8", "uint16"])
    def test_integers_are_scaled_by_their_range(self, kind):
        limits = np.iinfo(kind)
        middle = (int(limits.max) + int(limits.min) + 1) // 2
        samples = np.array([limits.min, middle, limits.max], kind)
        (block,) = reading.from_samples(samples, 16000).blocks()
        np.testing.assert_allclose(block, [-1, 0, 1], atol=0.01)

    @pytest.mark.parametrize("kind", ["int64", "uint64"])
    @pytest.mark.parametrize("bits", [16, 24, 32, 64])
    def test_64_bit_integers_are_scaled_by_their_values(self, kind, bits):
        half = 2 ** (bits - 1)
        middle = 0 if kind == "int64" else half
        samples = np.array([middle - half, middle, middle + half - 1], kind)
        source = reading.from_samples(samples, 16000)
        (block,) = source.blocks()
        np.testing.assert_allclose(block, [-1, 0, 1], atol=1e-4)
        assert f"taken for {bits}-bit samples" in source.warnings[0]

    def test_half_and_double_precision(self):
        for kind in (np.float16, np.float64):
            (block,) = reading.from_samples(np.array([0.5, -1], kind), 16000).blocks()
            np.testing.assert_array_equal(block, np.array([0.5, -1], np.float32))

    @pytest.mark.parametrize(
        ("samples", "rate", "found"),
        [
            (np.zeros(4, complex), 16000, "complex128"),
            (np.array(["a"]), 16000, "<U1"),
            (np.zeros(4, bool), 16000, "bool"),
            (np.zeros([2, 2, 2]), 16000, r"\(2, 2, 2\)"),
            (np.float32(1), 16000, r"\(\)"),
            (np.zeros([2, 400]), 16000, "transpose"),
            (np.zeros(0), 16000, "found none"),
            (np.zeros([0, 2]), 16000, "found none"),
            (np.zeros(4), 0, "0"),
            (np.zeros(4), -16000, "-16000"),
            (np.zeros(4), math.nan, "nan"),
            (np.zeros(4), 44100.5, "44100.5"),
            (np.zeros(4), math.inf, "inf"),
        ],
    )
    def test_bad_arrays(self, samples, rate, found):
        with pytest.raises(AudioError, match=found):
            reading.from_samples(samples, rate)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -1e10])
    def test_samples_that_are_not_finite_are_named_with_their_time(self, bad):
        samples = np.zeros([44100 * 3, 2])
        samples[66150:, 1] = bad
        samples[66160:, 0] = -bad
        source = reading.from_samples(samples, 44100, name="mine")
        with pytest.raises(
            AudioError, match=rf"mine: .*{re.escape(f'{bad:g}')} at 1\.5000 s"
        ):
            list(source.blocks(block_seconds=0.4))

    def test_beyond_float32_is_not_finite(self):
        source = reading.from_samples(np.array([0.0, 1e300]), 16000)
        with pytest.raises(AudioError, match="sample 1"):
            list(source.blocks())

    def test_bad_block_rate_and_segment(self):
        source = reading.from_samples(np.zeros(4), 16000)
        for options in ({"target_sample_rate": 0}, {"block_seconds": math.nan}):
            with pytest.raises(AudioError, match="expected more than 0"):
                list(source.blocks(**options))
        with pytest.raises(AudioError, match="segment length"):
            list(reading.segments(np.zeros(4), segment_samples=0))


class TestInputs:
    """Paths, bytes, file objects and pipes, and what AudioSource says of them."""

    @pytest.fixture
    def song(self, tmp_path):
        path = tmp_path / "song.flac"
        soundfile.write(path, sine(1.0, 16000), 16000)
        return path

    def test_bytes_and_file_objects(self, song):
        whole = reading.read_audio(song)
        data = song.read_bytes()
        with song.open("rb") as file:
            again = [reading.read_audio(each) for each in (data, io.BytesIO(data))]
            source = reading.open_audio(file)
        assert source.name == str(song)
        again += [np.concatenate(list(source.blocks())) for _ in range(2)]
        for read in again:
            np.testing.assert_array_equal(read, whole)

    def test_a_copy_goes_with_its_source(self, song, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
        (tmp_path / "copies").mkdir()
        part = reading.open_audio(song.read_bytes()).part(0.5)
        assert len(list((tmp_path / "copies").iterdir())) == 1
        assert len(np.concatenate(list(part.blocks()))) == 8000
        del part
        gc.collect()
        assert not list((tmp_path / "copies").iterdir())

    def test_a_pipe(self, song, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[song.read_bytes()])
        writer.start()
        read = reading.read_audio(pipe)
        writer.join()
        np.testing.assert_array_equal(read, reading.read_audio(song))

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            (b"", "bytes: .*empty"),
            (io.BytesIO(b"no sound"), "BytesIO: .*text, not audio"),
            (io.StringIO("no sound"), "found text, expected a file opened in binary"),
            (7, "found int"),
            ("nul\0.wav", "null"),
            ("x" * 300 + ".wav", "too long"),
            ("/dev/null", "found a device"),
        ],
    )
    def test_bad_sources(self, source, found):
        with pytest.raises(AudioError, match=found):
            reading.open_audio(source)

    def test_a_name_that_is_not_utf8(self, song):
        path = os.fsdecode(os.fsencode(song.parent) + b"/caf\xe9.flac")
        song.rename(path)
        assert len(reading.read_audio(path)) == 16000

    @pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg"])
    def test_part(self, tmp_path, extension):
        path = tmp_path / f"a.{extension}"
        soundfile.write(path, sine(3.0, 16000, 220) * np.linspace(0, 1, 48000), 16000)
        source = reading.open_audio(path)
        whole = np.concatenate(list(source.blocks()))
        part = source.part(1.0, 2.5)
        assert part.duration == 1.5
        for block_seconds in (0.3, 10):
            read = np.concatenate(list(part.blocks(block_seconds=block_seconds)))
            np.testing.assert_allclose(read, whole[16000:40000], atol=1e-4)
        inner = part.part(0.5)
        read = np.concatenate(list(inner.blocks()))
        np.testing.assert_allclose(read, whole[24000:40000], atol=1e-4)
        rest = np.concatenate(list(source.part(2.5, 99).blocks()))
        np.testing.assert_allclose(rest, whole[40000:], atol=1e-4)

    def test_part_of_an_array(self):
        source = reading.from_samples(np.arange(8000) / 8000, 8000)
        (read,) = source.part(0.25, 0.5).blocks(8000)
        np.testing.assert_allclose(read, np.arange(2000, 4000) / 8000, atol=1e-6)

    @pytest.mark.parametrize(
        ("start", "end"),
        [(-1, 2), (1, 1), (2, 1), (math.nan, 2), (0, math.nan), ("0:01", 2), (0, "2")],
    )
    def test_bad_parts(self, start, end):
        source = reading.from_samples(np.zeros(8000), 8000)
        with pytest.raises(AudioError, match="0 <= start < end"):
            source.part(start, end)

    def test_a_part_past_the_end(self, song, tmp_path):
        with pytest.raises(AudioError, match=r"end at 1\.000 s.* not at 1\.000 s"):
            reading.open_audio(song).part(1.0)
        path = tmp_path / "a.ogg"
        soundfile.write(path, sine(1.0, 16000), 16000)
        with pytest.raises(AudioError, match="0 samples"):
            list(reading.open_audio(path).part(5.0).blocks())


class TestLevels:
    """What would not be heard is used all the same, or named."""

    def read(self, samples, rate=16000):
        source = reading.from_samples(samples, rate)
        return np.concatenate(list(source.blocks())), "\n".join(source.warnings)

    def test_opposite_phase_uses_the_louder_channel(self):
        wave = sine(12.0, 16000)
        read, said = self.read(np.stack([0.9 * wave, -wave], axis=1))
        np.testing.assert_array_equal(read, -wave)
        assert re.search("opposite in phase.*channel 2 was used", said)

    def test_silence_before_opposite_phase(self):
        wave = np.concatenate([np.zeros(160000, np.float32), sine(12.0, 16000)])
        read, said = self.read(np.stack([wave, -wave], axis=1))
        np.testing.assert_array_equal(read, wave)
        assert "opposite in phase" in said

    def test_opposite_phase_later_is_named(self):
        wave = sine(10.0, 16000)
        both = np.stack([np.tile(wave, 2), np.concatenate([wave, -wave])], axis=1)
        _, said = self.read(both)
        assert said == "from 10.0 s on the channels cancel one another in the mix"
        _, said = self.read(both[::-1])
        assert re.search("channel 1 was used alone", said)

    def test_wide_stereo_is_mixed(self, rng):
        samples = rng.uniform(-0.5, 0.5, [32000, 2]).astype(np.float32)
        read, said = self.read(samples)
        np.testing.assert_allclose(read, samples.mean(axis=1), atol=1e-7)
        assert not said

    @pytest.mark.parametrize(
        ("gain", "found"), [(0, "every sample is 0"), (5e-4, "very quiet"), (0.1, "^$")]
    )
    def test_quiet_recordings(self, gain, found):
        read, said = self.read(gain * sine(1.0, 16000))
        assert len(read) == 16000
        assert re.search(found, said)


class TestOffset:
    """Segments have no constant offset; ordinary recordings stay as they are."""

    def cut(self, samples):
        source = reading.from_samples(samples, 16000)
        parts = reading.segments(source, segment_samples=32768)
        return np.concatenate([part for _, part in parts]), source.warnings

    def test_is_subtracted_without_seams(self):
        wave = sine(25.0, 16000)
        cut, said = self.cut(wave + np.float32(0.3))
        np.testing.assert_allclose(cut, wave, atol=1e-4)
        assert said == ["a constant offset of 0.300 was subtracted"]

    def test_silence_before_the_sound_stays(self):
        wave = sine(25.0, 16000) + np.float32(0.1)
        cut, _ = self.cut(np.concatenate([np.zeros(200000, np.float32), wave]))
        assert not cut[:200000].any()
        np.testing.assert_allclose(cut[200000:], wave - 0.1, atol=2e-3)

    def test_ordinary_recordings_are_unchanged(self, rng):
        samples = rng.normal(0.005, 0.1, 400000).astype(np.float32)
        cut, said = self.cut(samples)
        np.testing.assert_array_equal(cut, samples)
        assert not said


class TestBadFiles:
    def test_missing_directory_and_empty(self, tmp_path):
        empty = tmp_path / "empty.wav"
        empty.touch()
        assert "no such file" in error_of(tmp_path / "nothing.wav")
        assert "directory" in error_of(tmp_path)
        message = error_of(empty)
        assert "empty (0 bytes)" in message
        assert str(empty) in message

    @pytest.mark.parametrize(
        ("name", "content", "found"),
        [
            ("text.wav", b"this is no sound\n" * 40, "text, not audio"),
            ("short.mp3", b"no!!", "text, not audio"),
            ("accents.flac", "é".encode() * 600, "text, not audio"),
            ("page.mp3", b"  <!DOCTYPE html><html>", "a web page"),
            ("list.mp3", b"#EXTM3U\nhttp://localhost/a", "playlist"),
            ("notes.wav", b"MThd\0\0\0\6\0\1\0\1", "MIDI file"),
            ("plain.raw", bytes(range(256)), "without a header"),
        ],
    )
    def test_other_kinds_of_files(self, tmp_path, name, content, found):
        path = tmp_path / name
        path.write_bytes(content)
        message = error_of(path)
        assert found in message
        assert "expected WAV, FLAC, MP3, OGG (" in message

    def test_unknown_format_says_how_to_get_ffmpeg(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        path = tmp_path / "song.m4a"
        path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\2\0isomiso2" + bytes(600))
        message = error_of(path)
        assert "ffmpeg program on the PATH" in message
        assert "apt install ffmpeg" in message

    def test_no_samples(self, tmp_path):
        path = tmp_path / "none.wav"
        soundfile.write(path, np.zeros(0), 16000)
        assert "0 samples" in error_of(path)

    def test_not_finite(self, tmp_path):
        path = tmp_path / "nan.wav"
        samples = sine(1.0, 16000)
        samples[8000] = np.nan
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        assert "nan at 0.5000 s" in error_of(path)

    @pytest.mark.parametrize("promised", [2001, 8000, 0x7FFF0000])
    def test_cut_wav(self, tmp_path, promised):
        path = tmp_path / "cut.wav"
        path.write_bytes(wav_bytes(1000, promised))
        message = error_of(path)
        assert f"promises {promised} bytes" in message
        assert "2000 are there" in message
        read = reading.read_audio(path, 8000, allow_truncated=True)
        assert len(read) == 1000

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
    def test_streaming_headers_are_fine(self, tmp_path, size):
        path = tmp_path / "streamed.wav"
        path.write_bytes(wav_bytes(1000, size))
        read = reading.read_audio(path, 8000)
        np.testing.assert_array_equal(read * 32768, np.arange(1000) % 100 * 100)

    def test_a_size_that_wrapped_at_4_gib(self, tmp_path):
        path = tmp_path / "long.wav"
        sound = 2**32 + 32000
        tone = (20000 * sine(1.0, 8000)).astype("<i2").tobytes()
        with path.open("wb") as file:
            file.write(wav_bytes(0, 32000)[:44])
            file.seek(44 + sound - len(tone))  # A hole: zeros that take no space.
            file.write(tone)
        source = reading.open_audio(path)
        assert source.duration == sound / 16000
        assert (
            "promises 32000 bytes of sound; all 4294999296 were" in source.warnings[0]
        )
        (read,) = source.part(source.duration - 1).blocks(8000)
        np.testing.assert_array_equal(read, np.frombuffer(tone, "<i2") / 32768)

    def test_empty_sound_before_another_chunk_is_no_stream(self, tmp_path):
        path = tmp_path / "none.wav"
        tags = b"LIST" + struct.pack("<I", 4) + b"INFO"
        path.write_bytes(wav_bytes(0) + tags)
        assert "0 samples" in error_of(path)

    def test_chunks_around_the_sound_are_fine(self, tmp_path):
        whole = wav_bytes(1000)
        path = tmp_path / "tagged.wav"
        extra = b"LIST" + struct.pack("<I", 5) + b"INFO!" + b"\0"
        path.write_bytes(whole[:36] + extra + whole[36:] + extra[:-4])
        assert len(reading.read_audio(path, 8000)) == 1000

    @pytest.mark.parametrize("format_", ["AIFF", "RF64", "WAV"])
    def test_cut_files_of_other_writers(self, tmp_path, format_):
        path = tmp_path / "cut.bin"
        soundfile.write(path, sine(1.0, 16000), 16000, format=format_)
        assert len(reading.read_audio(path)) == 16000
        path.write_bytes(path.read_bytes()[:-8000])
        assert "the file was cut" in error_of(path)
        assert 11000 < len(reading.read_audio(path, allow_truncated=True)) <= 12000

    def test_damage_in_the_middle_is_named_with_its_time(self, tmp_path, rng):
        for name in ("a.flac", "a.mp3"):
            path = tmp_path / name
            noise = rng.uniform(-0.5, 0.5, 16000 * 40)
            soundfile.write(path, noise, 16000)
            whole = reading.read_audio(path)
            data = bytearray(path.read_bytes())
            middle = len(data) // 2
            data[middle : middle + 8000] = rng.bytes(8000)
            path.write_bytes(data)
            message = error_of(path)
            assert "damaged or cut from" in message
            start, end = (float(each) for each in re.findall(r"(\d+\.\d+) s", message))
            assert 15 < start < end < 25
            read = reading.read_audio(path, allow_truncated=True)
            # The last frames build upon some that are lost.
            first, last = round(start * 16000) - 2304, round(end * 16000) + 2304
            assert len(read) == pytest.approx(16000 * 40, abs=3 * 576)
            assert not read[first + 2304 : last - 2304].any()
            tolerance = 1e-4 if name == "a.flac" else 0.25
            np.testing.assert_allclose(read[:first], whole[:first], atol=tolerance)
            if name == "a.flac":
                np.testing.assert_allclose(read[last:], whole[last:], atol=tolerance)

    def test_cut_flac(self, tmp_path, rng):
        path = tmp_path / "cut.flac"
        soundfile.write(path, rng.uniform(-0.5, 0.5, 16000 * 20), 16000)
        path.write_bytes(path.read_bytes()[:-100000])
        assert re.search(r"damaged or cut from .* to 20\.000 s", error_of(path))

    def test_wav_header_alone(self, tmp_path):
        path = tmp_path / "header.wav"
        path.write_bytes(wav_bytes(10)[:30])
        assert str(path) in error_of(path)


class TestCorpus:
    """Every kind of file: the seconds that are read, the message, the exit code."""

    @pytest.mark.parametrize("case", damaged_audio.CASES, ids=lambda case: case.name)
    def test_file(self, case, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("PATH", str(tmp_path))  # No ffmpeg.
        path = tmp_path / case.name
        path.write_bytes(case.make())
        if case.exit_code:
            message = error_of(path)
            assert re.search(case.error, message), message
            assert str(path) in message
        if case.seconds is not None:
            source = reading.open_audio(path, allow_truncated=bool(case.exit_code))
            read = np.concatenate(list(source.blocks()))
            assert len(read) / 16000 == pytest.approx(case.seconds, abs=0.006)
            said = "\n".join(source.warnings)
            expected = case.error or case.warning
            assert re.search(expected, said) if expected else not said, said
        assert capfd.readouterr() == ("", "")  # No chatter of the libraries.

    def test_the_command(self, tmp_path, tiny_weights, capsys):
        cases = {case.name: case for case in damaged_audio.CASES}
        line = ["transcribe", "--quiet", "--model", str(tiny_weights)]
        for name in ("hole.flac", "no_end_page.ogg"):
            case, path = cases[name], tmp_path / name
            path.write_bytes(case.make())
            assert cli.main([*line, str(path)]) == case.exit_code
            assert re.search(case.error or case.warning, capsys.readouterr().err)
            assert path.with_suffix(".mid").exists() == (case.exit_code == 0)
        path = tmp_path / "hole.flac"
        assert cli.main([*line, "--allow-truncated", str(path)]) == 0
        assert re.search(cases["hole.flac"].error, capsys.readouterr().err)
        assert path.with_suffix(".mid").exists()

    def test_silence_is_not_made_for_centuries(self, tmp_path):
        cases = {case.name: case for case in damaged_audio.CASES}
        path = tmp_path / "far.ogg"
        path.write_bytes(cases[path.name].make())
        message = error_of(path, allow_truncated=True)
        assert re.search("sound is missing for 6.* expected at most 3600 s", message)

    def test_corpus_is_large(self):
        names = [case.name for case in damaged_audio.CASES]
        assert len(set(names)) == len(names) >= 60


# Stands in for ffmpeg: knows FILE.fake, whose content is "rate channels frames".
FAKE_FFMPEG = """\
import struct, sys
options = dict(zip(sys.argv, sys.argv[1:]))
path = options["-i"].removeprefix("file:")
words = open(path, "rb").read()[4:].decode().split()
if options["-v"] == "info":
    print("  Duration: 00:01:02.50, start: 0.0", file=sys.stderr)
if options["-f"] == "null":
    for time in (0.0, 0.5, 1.0) if "gap" not in words[3:] else (0.0, 1.0):
        frame = f"n:0 pts_time:{time} fmt:flt rate:16000 nb_samples:8000"
        print(frame, file=sys.stderr)
    sys.exit()
if "broken" in words[3:]:
    sys.exit("moov atom not found")
rate, channels, frames = map(int, words[:3])
out = sys.stdout.buffer
out.write(struct.pack(">4s5I8x", b".snd", 32, 0xFFFFFFFF, 6, rate, channels))
if "-t" not in options:
    out.write(struct.pack(">f", 0.25) * (channels * frames))
    if "gap" in words[3:]:
        print("Error while decoding stream #0:0", file=sys.stderr)
    if "cut" in words[3:]:
        sys.exit("Error while decoding stream")
"""


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A folder whose only program is a stand-in for ffmpeg, and the PATH."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    script = tmp_path / "fake_ffmpeg.py"
    script.write_text(FAKE_FFMPEG)
    # Through the shell: a path with a space cannot stand after "#!".
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return tmp_path


class TestFfmpeg:
    def test_reads_rate_channels_duration_and_samples(self, fake_ffmpeg):
        path = fake_ffmpeg / "-song.m4a"
        path.write_bytes(b"\0\xff\0\xff48000 2 96000")
        info = reading.open_audio(path).info
        assert (info.sample_rate, info.channels, info.duration) == (48000, 2, 62.5)
        assert info.format == "ffmpeg"
        read = reading.read_audio(path)
        assert len(read) == 32000
        np.testing.assert_allclose(read[1000:-1000], 0.25, atol=1e-3)

    def test_stops_when_the_caller_stops(self, fake_ffmpeg):
        path = fake_ffmpeg / "long.m4a"
        path.write_bytes(b"\0\xff\0\xff16000 1 16000000")
        blocks = reading.open_audio(path).blocks(block_seconds=0.1)
        assert len(next(blocks)) == 1600
        blocks.close()

    def test_no_sound_found(self, fake_ffmpeg):
        path = fake_ffmpeg / "broken.m4a"
        path.write_bytes(b"\0\xff\0\xff48000 2 96000 broken")
        assert "moov atom not found" in error_of(path)

    def test_damage_is_named_with_its_time(self, fake_ffmpeg):
        path = fake_ffmpeg / "cut.m4a"
        path.write_bytes(b"\0\xff\0\xff16000 2 24000 cut")
        message = error_of(path)
        assert "ffmpeg stopped after 1.500 s" in message
        assert "Error while decoding" in message
        assert len(reading.read_audio(path, allow_truncated=True)) == 24000
        path.write_bytes(b"\0\xff\0\xff16000 2 24000 gap")
        assert "cannot decode what lies from 0.500 s to 1.000 s" in error_of(path)
        source = reading.open_audio(path, allow_truncated=True)
        assert len(np.concatenate(list(source.blocks()))) == 24000
        assert "from 0.500 s to 1.000 s" in source.warnings[0]
        assert list(source.part(1.0).blocks())  # The gap lies before it.


def test_a_part_behind_the_end_of_an_mp3_names_its_start(tmp_path):
    # Whose header only estimates the length.
    soundfile.write(tmp_path / "a.mp3", np.full(16000, 0.1), 16000)
    part = reading.open_audio(tmp_path / "a.mp3").part(5.0)
    with pytest.raises(AudioError, match=r"expected sound from 5\.000 s on"):
        list(part.blocks())
