"""Recordings in every format that libsndfile reads, through `mt3.audio`."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import soundfile

from mt3.audio import reading
from mt3.errors import AudioError
from tests.fuzz.target import Target
from tests.support import checksums, damaged_audio
from tests.support.damaged_audio import encoded

_SEGMENT = 32768
_SECONDS = 0.4
# No input has so much sound, and what a header promises is no reason to make it up.
_MOST_SECONDS = 2 * 3600


def _read(path: pathlib.Path) -> None:
    """Reads a file as `mt3 transcribe` does; if it fails, again what is there."""
    try:
        _digest(path, allow_truncated=False)
    except AudioError:
        first, again = (_digest(path, allow_truncated=True) for _ in range(2))
        # Else a decoder has returned what lay in its memory.
        assert first == again
        raise


def _digest(path: pathlib.Path, *, allow_truncated: bool) -> str:
    """Reads a file, checks its samples and returns their hash."""
    source = reading.open_audio(path, allow_truncated=allow_truncated)
    done, digest = 0, hashlib.sha256()
    for start, samples in reading.segments(source, segment_samples=_SEGMENT):
        assert start == done
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert 0 < len(samples) <= _SEGMENT
        assert np.isfinite(samples).all()
        digest.update(samples)
        done += len(samples)
        assert done <= _MOST_SECONDS * 16000, f"{done} samples"
    assert done > 0
    return digest.hexdigest()


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
    return checksums.repair_ogg(b"".join(pages))


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


TARGETS = (
    _target("wav", _WAV, quick=30),
    _target("flac", _FLAC, repair=checksums.repair_flac, quick=25),
    _target("mp3", _MP3, quick=25),
    _target("ogg", _OGG, repair=checksums.repair_ogg, quick=30),
    _target("other_audio", _others(), quick=30),
)
