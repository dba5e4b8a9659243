"""Recordings in every format that libsndfile reads, through `mt3.audio`."""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import soundfile

from mt3.audio import flac, ogg, reading
from mt3.errors import AudioError
from tests.fuzz.target import Target
from tests.support import damaged_audio
from tests.support.damaged_audio import encoded

_SEGMENT = 32768
_SECONDS = 0.4
# No input has so much sound, and what a header promises is no reason to make it up.
_MOST_SECONDS = 3600.0


def _read(path: pathlib.Path) -> None:
    """Reads a file as `mt3 transcribe` does; if it fails, again what is there."""
    try:
        _check(path, allow_truncated=False)
    except AudioError:
        _check(path, allow_truncated=True)
        raise


def _check(path: pathlib.Path, *, allow_truncated: bool) -> None:
    source = reading.open_audio(path, allow_truncated=allow_truncated)
    done = 0
    for start, samples in reading.segments(source, segment_samples=_SEGMENT):
        assert start == done
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert 0 < len(samples) <= _SEGMENT
        assert np.isfinite(samples).all()
        done += len(samples)
        assert done <= _MOST_SECONDS * 16000, f"{done} samples"
    assert done > 0


def _target(name: str, files: Mapping[str, Callable[[], bytes]], **options) -> Target:
    def seeds(folder: pathlib.Path) -> list[pathlib.Path]:
        paths = []
        for file, make in files.items():
            paths.append(folder / file)
            paths[-1].write_bytes(make())
        return paths

    return Target(name, seeds, _read, **options)


def _of(container: str, subtype: str | None = None, **options) -> Callable[[], bytes]:
    options = {"seconds": _SECONDS} | options
    return functools.partial(encoded, container, subtype, **options)


_WAV = {
    "pcm16.wav": _of("WAV"),
    "pcm8.wav": _of("WAV", "PCM_U8", rate=8000),
    "pcm24.wav": _of("WAV", "PCM_24", channels=2),
    "float.wav": _of("WAV", "FLOAT", rate=22050),
    "double.wav": _of("WAV", "DOUBLE"),
    "ulaw.wav": _of("WAV", "ULAW"),
    "ima.wav": _of("WAV", "IMA_ADPCM"),
    "ms.wav": _of("WAV", "MS_ADPCM"),
    "gsm.wav": _of("WAV", "GSM610", rate=8000),
    "extensible.wav": _of("WAVEX", channels=6),
    "rf64.wav": _of("RF64"),
    "sony.w64": _of("W64"),
    "mp3.wav": lambda: damaged_audio.mp3_in_wav(_of("MP3", "MPEG_LAYER_III")(), 6400),
    "joined.wav": lambda: _of("WAV")() + _of("WAV", rate=22050, channels=2)(),
}
_FLAC = {
    "pcm16.flac": _of("FLAC"),
    "pcm24.flac": _of("FLAC", "PCM_24", channels=2, rate=44100),
    "pcm8.flac": _of("FLAC", "PCM_S8"),
    "joined.flac": lambda: 2 * _of("FLAC")(),
    "tags.flac": lambda: damaged_audio.ID3V2 + _of("FLAC")() + damaged_audio.ID3V1,
    "length_unknown.flac": lambda: damaged_audio.flac_total(_of("FLAC")(), 0),
    "length_36_bits.flac": lambda: damaged_audio.flac_total(_of("FLAC")(), 2**36 - 1),
}
_MP3 = {
    "constant.mp3": _of("MP3", "MPEG_LAYER_III"),
    "variable.mp3": _of("MP3", "MPEG_LAYER_III", variable=True),
    "stereo.mp3": _of("MP3", "MPEG_LAYER_III", channels=2, rate=44100),
    "telephone.mp3": _of("MP3", "MPEG_LAYER_III", rate=8000),
    "bare.mp3": lambda: damaged_audio.without_xing(_of("MP3", "MPEG_LAYER_III")()),
    "joined.mp3": lambda: 2 * (damaged_audio.ID3V2 + _of("MP3", "MPEG_LAYER_III")()),
    "tags.mp3": lambda: _of("MP3", "MPEG_LAYER_III")() + damaged_audio.APE,
}


def _pages(container: str, *args, **options) -> bytes:
    """An Ogg file with the same serial number every time; libsndfile draws one."""
    data = encoded(container, *args, **({"seconds": _SECONDS} | options))
    pages = [page[:14] + b"\1\2\3\4" + page[18:] for page in damaged_audio.pages(data)]
    return _repair_ogg(b"".join(pages))


_OGG = {
    "vorbis.ogg": lambda: _pages("OGG", "VORBIS"),
    "stereo.ogg": lambda: _pages("OGG", "VORBIS", rate=44100, channels=2),
    "opus.opus": lambda: _pages("OGG", "OPUS"),
    "chained.ogg": lambda: _pages("OGG", "VORBIS") + _pages("OGG", "OPUS", channels=2),
    "long.ogg": lambda: _pages("OGG", "VORBIS", seconds=3.0),
}


def _others() -> dict[str, Callable[[], bytes]]:
    """One of each further container, in the first encoding that it takes, and ALAC."""
    known = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "MP3", "OGG"}
    # Without a header, in two files, refused.
    known |= {"RAW", "SD2", "SDS"}
    found = {"alac.caf": _of("CAF", "ALAC_16"), "float.aiff": _of("AIFF", "FLOAT")}
    for container in sorted(soundfile.available_formats().keys() - known):
        kinds = soundfile.available_subtypes(container)
        kind = "PCM_16" if "PCM_16" in kinds else min(kinds)
        rate = 8000 if container == "WVE" else damaged_audio.RATE
        found[f"{container.lower()}.{container.lower()}"] = _of(
            container, kind, rate=rate
        )
    return found


def _repair_ogg(data: bytes) -> bytes:
    """Makes the checksum of every page right that is there to its end."""
    data = bytearray(data)
    position = data.find(b"OggS")
    while 0 <= position <= len(data) - 27:
        count = data[position + 26]
        end = position + 27 + count + sum(data[position + 27 : position + 27 + count])
        if end <= len(data):
            checksum = ogg._checksum(bytes(data[position:end]))
            data[position + 22 : position + 26] = checksum.to_bytes(4, "little")
        position = data.find(b"OggS", position + 4)
    return bytes(data)


def _repair_flac(data: bytes) -> bytes:
    """Makes the checksums of what looks like frames right, headers' and data's."""
    data = bytearray(data)
    frames = []
    for match in re.finditer(rb"\xff[\xf8\xf9][^\x0f\x1f]", bytes(data)):
        start = match.start()
        first = (data[start + 4 : start + 5] or b"\0")[0]
        size = 5 if first < 0x80 else 4 + max(1, 8 - (first ^ 0xFF).bit_length())
        size += {6: 1, 7: 2}.get(data[start + 2] >> 4, 0)
        size += {12: 1, 13: 2, 14: 2}.get(data[start + 2] & 15, 0)
        if start + size < len(data):
            checksum = 0
            for byte in data[start : start + size]:
                checksum = flac._CRC[checksum ^ byte]
            data[start + size] = checksum
            frames.append(start)
    for start, end in itertools.pairwise([*frames, len(data)]):
        if end - start > 8:
            checksum = 0
            for byte in data[start : end - 2]:
                checksum = (checksum << 8 ^ _CRC16[checksum >> 8 ^ byte]) & 0xFFFF
            data[end - 2 : end] = checksum.to_bytes(2, "big")
    return bytes(data)


def _crc16_table() -> list[int]:
    table = []
    for value in range(256):
        value <<= 8
        for _ in range(8):
            value = value << 1 ^ (0x8005 if value & 0x8000 else 0)
        table.append(value & 0xFFFF)
    return table


_CRC16 = _crc16_table()
TARGETS = (
    _target("wav", _WAV, quick=60),
    _target("flac", _FLAC, repair=_repair_flac, quick=40),
    _target("mp3", _MP3, quick=40),
    _target("ogg", _OGG, repair=_repair_ogg, quick=40),
    _target("other_audio", _others(), quick=60),
)
