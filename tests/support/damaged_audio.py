"""Small recordings of all formats and kinds of damage, and what reading them gives.

`CASES` is the table: for each file the seconds that are read, the exit code and the
message without and with `--allow-truncated`. Every file is made here, of 4 s of a
melody in noise at 16 kHz, quick to encode.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
from collections.abc import Callable

import numpy as np
import soundfile

from tests.support import checksums

RATE = 16000
SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Case:
    """A file and what reading it gives.

    Attributes:
      name: of the file.
      make: returns its bytes.
      seconds: that are read; with `--allow-truncated`, where the file is damaged. None
        where nothing is.
      error: what the error says without `--allow-truncated`, and the warning with it,
        as a regular expression; "" where the file is read without either.
      warning: of a file that is read all the same.
    """

    name: str
    make: Callable[[], bytes]
    seconds: float | None
    error: str = ""
    warning: str = ""

    @property
    def exit_code(self) -> int:
        """Of `mt3 transcribe` without `--allow-truncated`."""
        return 1 if self.error else 0


def melody(seconds: float = SECONDS, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Float32 [n], or [n, channels], of a scale with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(5).standard_normal(len(time))
    pitch = 220 * 2 ** (np.floor(time * 4) % 12 / 12)
    tone = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * noise
    tone = tone.astype(np.float32)
    return tone if channels == 1 else np.stack([tone] * channels, axis=1)


def _alac_table_end(last: bytes) -> bytes:
    """A CAF file with ALAC whose table of packet sizes ends with these bytes."""
    data = encoded("CAF", "ALAC_16")
    table = data.index(b"pakt")
    end = table + 12 + int.from_bytes(data[table + 4 : table + 12], "big")
    return data[: end - len(last)] + last + data[end:]


@functools.cache
def encoded(
    container: str,
    subtype: str | None = None,
    *,
    seconds: float = SECONDS,
    rate: int = RATE,
    channels: int = 1,
    variable: bool = False,
) -> bytes:
    """The bytes of a whole file."""
    stream = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.3} if variable else {}
    soundfile.write(
        stream,
        melody(seconds, rate, channels),
        rate,
        format=container,
        subtype=subtype,
        **options,
    )
    return stream.getvalue()


def noise(count: int) -> bytes:
    """Bytes that are nothing."""
    return np.random.default_rng(6).bytes(count)


def overwritten(data: bytes, at: float, count: int, by: bytes | None = None) -> bytes:
    """Bytes with some replaced, from a fraction of the length on."""
    start = round(len(data) * at)
    return data[:start] + (by or noise(count))[:count] + data[start + count :]


def removed(data: bytes, at: float, count: int) -> bytes:
    """Bytes with some taken out."""
    start = round(len(data) * at)
    return data[:start] + data[start + count :]


def cut(data: bytes, keep: float) -> bytes:
    """The first part of a file."""
    return data[: round(len(data) * keep)]


def with_field(data: bytes, position: int, form: str, value: int) -> bytes:
    """Bytes with one number changed."""
    size = struct.calcsize(form)
    return data[:position] + struct.pack(form, value) + data[position + size :]


def mp3(**options) -> bytes:
    """An MP3 with a Xing header."""
    return encoded("MP3", "MPEG_LAYER_III", **options)


def without_xing(data: bytes) -> bytes:
    """An MP3 without its first frame."""
    return data[data.index(b"\xff", data.index(b"LAME")) :]


def wav_size(data: bytes, value: int) -> bytes:
    """A WAV file with another size of its sound."""
    return with_field(data, data.index(b"data") + 4, "<I", value)


def mp3_in_wav(sound: bytes, frames: int) -> bytes:
    """MP3 frames in a WAV file, with the number of samples that its header states."""
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 288, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"fact" + struct.pack("<II", 4, frames)
    chunks += b"data" + struct.pack("<I", len(sound)) + sound
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def broken_frame(data: bytes, number: int) -> bytes:
    """An MP3 one of whose frames is nothing behind its header."""
    position = data.index(b"\xff")
    for _ in range(number):
        position = data.index(data[position : position + 2], position + 4)
    return data[: position + 4] + noise(60) + data[position + 64 :]


def flac_total(data: bytes, total: int) -> bytes:
    """A FLAC whose header states another number of samples."""
    packed = int.from_bytes(data[21:26], "big") & ~0xFFFFFFFFF | total
    return data[:21] + packed.to_bytes(5, "big") + data[26:]


def pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    found, position = [], 0
    while position < len(data):
        count = data[position + 26]
        size = 27 + count + sum(data[position + 27 : position + 27 + count])
        found.append(data[position : position + size])
        position += size
    return found


ID3V2 = b"ID3\x03\0\0\0\0\x01\0" + bytes(128)
ID3V1 = b"TAG" + b"a song".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0)
_LIST = b"LIST" + struct.pack("<I", 4) + b"INFO"


def _wav(**options) -> bytes:
    return encoded("WAV", **options)


def _flac(**options) -> bytes:
    return encoded("FLAC", **options)


def _vorbis(**options) -> bytes:
    return encoded("OGG", "VORBIS", **options)


def _opus(**options) -> bytes:
    return encoded("OGG", "OPUS", **options)


def _bare() -> bytes:
    return without_xing(mp3())


_WHOLE = (
    Case("pcm8.wav", lambda: encoded("WAV", "PCM_U8"), 4.0),
    Case("pcm16.wav", _wav, 4.0),
    Case("pcm24.wav", lambda: encoded("WAV", "PCM_24"), 4.0),
    Case("float.wav", lambda: encoded("WAV", "FLOAT"), 4.0),
    Case("ulaw.wav", lambda: encoded("WAV", "ULAW"), 4.0),
    Case("adpcm.wav", lambda: encoded("WAV", "IMA_ADPCM"), 4.004),
    Case("gsm.wav", lambda: encoded("WAV", "GSM610", rate=8000), 4.0),
    Case("six_channels.wav", lambda: _wav(channels=6), 4.0),
    Case("extensible.wav", lambda: encoded("WAVEX"), 4.0),
    Case("rf64.wav", lambda: encoded("RF64"), 4.0),
    Case("sony.w64", lambda: encoded("W64"), 4.0),
    Case("apple.aiff", lambda: encoded("AIFF"), 4.0),
    Case("sun.au", lambda: encoded("AU"), 4.0),
    Case("core.caf", lambda: encoded("CAF"), 4.0),
    Case("alac.caf", lambda: encoded("CAF", "ALAC_16"), 4.0),
    Case("pcm16.flac", _flac, 4.0),
    Case("pcm24.flac", lambda: encoded("FLAC", "PCM_24"), 4.0),
    Case("constant.mp3", mp3, 4.0),
    Case("variable.mp3", lambda: mp3(variable=True), 4.0),
    Case("stereo.mp3", lambda: mp3(channels=2, rate=44100, seconds=2), 2.0),
    Case("telephone.mp3", lambda: mp3(rate=8000), 4.0),
    Case("vorbis.ogg", _vorbis, 4.0),
    Case("opus.opus", _opus, 4.0),
    Case("mp3.wav", lambda: mp3_in_wav(mp3(), 64000), 4.0),
)
_WRONG_LENGTHS = (
    Case("no_xing.mp3", _bare, 4.07),
    Case(
        "no_xing_variable.mp3",
        lambda: without_xing(mp3(variable=True, rate=44100)),
        4.04,
    ),
    Case("joined.mp3", lambda: mp3() + mp3(), 8.0),
    Case("joined_bare.mp3", lambda: 2 * _bare(), 8.18),
    Case("joined_tags.mp3", lambda: 2 * (ID3V2 + mp3() + ID3V1), 8.0),
    Case("joined_rates.mp3", lambda: mp3() + mp3(rate=44100, channels=2), 8.0),
    Case("tags.mp3", lambda: ID3V2 + mp3() + APE + ID3V1, 4.0),
    Case("codec_delay.wav", lambda: mp3_in_wav(_bare(), 64000 + 2257), 4.07),
    Case("chained.ogg", lambda: 2 * _vorbis(), 8.0),
    Case("chained.opus", lambda: 2 * _opus(), 8.0),
    Case("chained_kinds.ogg", lambda: _vorbis(rate=44100) + _opus(channels=2), 8.0),
    Case("junk_behind.ogg", lambda: _vorbis() + bytes(500), 4.0),
    Case("joined.flac", lambda: 2 * _flac(), 8.0),
    Case("length_unknown.flac", lambda: flac_total(_flac(), 0), 4.0),
    Case("length_short.flac", lambda: flac_total(_flac(), RATE), 4.0),
    Case("tags.flac", lambda: ID3V2 + _flac() + ID3V1, 4.0),
    Case("size_0.wav", lambda: wav_size(_wav(), 0), 4.0),
    Case("size_unknown.wav", lambda: wav_size(_wav(), 0xFFFFFFFF), 4.0),
    Case(
        "size_wrapped.wav", lambda: wav_size(_wav(), 5000), 4.0, warning="size is wrong"
    ),
    Case("size_unknown.au", lambda: with_field(encoded("AU"), 8, ">I", 2**32 - 1), 4.0),
    Case("tags.wav", lambda: _wav() + _LIST, 4.0),
    Case("junk_behind.wav", lambda: _wav() + noise(300), 4.0),
    Case("joined.wav", lambda: _wav() + _wav(rate=22050, channels=2), 8.0),
    Case("joined.aiff", lambda: 2 * encoded("AIFF"), 8.0),
    Case(
        "no_end_page.ogg",
        lambda: b"".join(pages(_vorbis())[:-1]),
        3.66,
        warning=r"cut after 3\.656 s: it has no end-of-stream page",
    ),
    Case(
        "captured.mp3",
        lambda: _bare()[100:-50],
        3.96,
        warning="ends in the middle of a frame",
    ),
)
_CUT = (
    Case("cut.mp3", lambda: cut(mp3(), 0.5), 1.88, r"from 1\.875 s to 4\.035 s"),
    Case("zeros.mp3", lambda: cut(mp3(), 0.5) + bytes(9000), 1.91, "to 4.035 s"),
    Case("zeros_bare.mp3", lambda: cut(_bare(), 0.5) + bytes(8000), 1.98, "no MPEG"),
    Case("cut_mp3.wav", lambda: cut(mp3_in_wav(_bare(), 64000), 0.5), 1.95, "promises"),
    Case("cut.ogg", lambda: cut(_vorbis(), 0.5), 0.92, r"after 0\.920 s"),
    Case("cut.opus", lambda: cut(_opus(), 0.6), 1.97, r"after 1\.974 s"),
    Case("cut.flac", lambda: cut(_flac(), 0.9), 3.58, r"from 3\.584 s to 4\.000 s"),
    Case("long.flac", lambda: flac_total(_flac(), 128000), 4.0, "from 4.000 s to 8.0"),
    Case("cut.wav", lambda: cut(_wav(), 0.5), 2.0, r"after 1\.999 s.* 2\.001 s"),
    Case("cut_adpcm.wav", lambda: cut(encoded("WAV", "IMA_ADPCM"), 0.5), 2.03, "cut"),
    Case("cut_rf64.wav", lambda: cut(encoded("RF64"), 0.5), 2.0, "was cut"),
    Case("cut.w64", lambda: cut(encoded("W64"), 0.5), 2.0, "was cut"),
    Case("cut.aiff", lambda: cut(encoded("AIFF"), 0.5), 2.0, "was cut"),
    Case("cut.au", lambda: cut(encoded("AU"), 0.5), 2.0, "was cut"),
    Case("cut.caf", lambda: cut(encoded("CAF"), 0.5), 1.94, "was cut"),
)
_DAMAGED = (
    Case("hole.mp3", lambda: overwritten(mp3(), 0.5, 3000), 4.0, "1.911 s to 2.664 s"),
    Case("spot.mp3", lambda: overwritten(mp3(), 0.5, 60), 4.04, "1.911 s to 1.980 s"),
    Case(
        "zeroed.mp3",
        lambda: overwritten(mp3(), 0.5, 3000, bytes(3000)),
        4.0,
        r"from 1\.911 s to 2\.664 s",
    ),
    Case("frame.mp3", lambda: broken_frame(mp3(), 60), 4.0, "from 2.000 s to 2.250 s"),
    Case(
        "two_holes.mp3",
        lambda: overwritten(overwritten(mp3(variable=True), 0.3, 2000), 0.7, 2000),
        3.96,
        r"from 1\.083 s to 1\.548 s",
    ),
    Case(
        "hole_mp3.wav",
        lambda: mp3_in_wav(overwritten(_bare(), 0.5, 3000), 64000),
        4.04,
        r"from 1\.983 s to 2\.772 s",
    ),
    Case("page.ogg", lambda: overwritten(_vorbis(), 0.5, 3), 4.0, "0.920 s to 1.816 s"),
    Case(
        "pages.ogg",
        lambda: overwritten(_vorbis(), 0.5, 3000),
        4.0,
        "0.920 s to 2.760 s",
    ),
    Case(
        "page_gone.ogg",
        lambda: b"".join(pages(_vorbis())[:4] + pages(_vorbis())[5:]),
        4.0,
        r"from 1\.784 s to 2\.760 s",
    ),
    Case(
        "first_page_gone.ogg",
        lambda: b"".join(pages(_vorbis())[:2] + pages(_vorbis())[3:]),
        4.0,
        r"from 0\.000 s to 0\.952 s",
    ),
    Case(
        "page.opus", lambda: overwritten(_opus(), 0.3, 3), 3.994, "from 0.974 s to 1.9"
    ),
    Case(
        "second_header.ogg",
        lambda: _vorbis() + overwritten(_vorbis(), 0.02, 50),
        4.0,
        r"from 4\.000 s to 8\.000 s",
    ),
    Case("spot.flac", lambda: overwritten(_flac(), 0.5, 1), 4.0, "1.792 s to 2.048 s"),
    Case(
        "hole.flac", lambda: overwritten(_flac(), 0.5, 30000), 4.0, "1.792 s to 3.328 s"
    ),
    Case(
        "start.flac", lambda: overwritten(_flac(), 0.01, 50), 4.0, "0.000 s to 0.256 s"
    ),
    Case(
        "end.flac", lambda: overwritten(_flac(), 0.97, 99), 3.84, "3.840 s to 4.000 s"
    ),
    Case(
        "two_holes.flac",
        lambda: overwritten(overwritten(_flac(), 0.3, 99), 0.7, 99),
        4.0,
        r"from 1\.024 s to 1\.280 s",
    ),
    Case("gone.flac", lambda: removed(_flac(), 0.5, 9999), 4.0, "1.792 s to 2.560 s"),
    Case(
        "second_recording.flac",
        lambda: _flac() + overwritten(_flac(), 0.5, 99),
        8.0,
        r"from 5\.792 s to 6\.048 s",
    ),
)


def _far_frame() -> bytes:
    """A FLAC with a hole, the frame after which states a sample a month later."""
    data = overwritten(_flac(), 0.5, 99)
    start = data.index(b"\xff\xf8", len(data) * 4 // 5)
    number = b"\xfe" + b"\xbf" * 6
    data = (
        data[: start + 1]
        + b"\xf9"
        + data[start + 2 : start + 4]
        + number
        + data[start + 5 :]
    )
    return checksums.repair_flac(data)


def _later_page(data: bytes, number: int, samples: int) -> bytes:
    """An Ogg file of which one page and those after it state later times."""
    changed = [
        with_field(page, 6, "<q", struct.unpack("<q", page[6:14])[0] + samples)
        for page in pages(data)[number:]
    ]
    return checksums.repair_ogg(b"".join(pages(data)[:number] + changed))


_WRONG_TIMES = (
    Case("far_frame.flac", _far_frame, 4.0, "0.256 s to 0.512 s"),
    Case("far.opus", lambda: _later_page(_opus(), -2, 2**40), 1.97, "from 1.974 s"),
    Case(
        "far.ogg",
        lambda: _later_page(
            b"".join(pages(_vorbis())[:4] + pages(_vorbis())[5:]), 4, 2**40
        ),
        None,
        "from 1.784 s",
    ),
    Case(
        "negative.opus", lambda: _later_page(_opus(), -1, -(2**62)), 2.974, "cut after"
    ),
)
_REFUSED = (
    Case("empty.wav", lambda: b"", None, "empty"),
    Case("text.mp3", lambda: 9 * b"no sound", None, "text, not audio"),
    Case("notes.wav", lambda: b"MThd\0\0\0\6\0\1\0\1", None, "a MIDI file"),
    Case("page.html.ogg", lambda: b"<html>", None, "a web page"),
    Case("sampler.sds", lambda: encoded("SDS"), None, "a MIDI sample dump"),
    Case("packets.caf", lambda: _alac_table_end(b"\xff\xff"), None, "packet table"),
    Case("nothing.wav", lambda: _wav(seconds=0.0), None, "0 samples"),
    Case(
        "fast.wav", lambda: with_field(_wav(), 24, "<I", 2**30), None, "1073741824 Hz"
    ),
    Case("slow.wav", lambda: with_field(_wav(), 24, "<I", 1), None, "rate of 1 Hz"),
    Case("lost.w64", lambda: overwritten(encoded("W64"), 0, 99), None, "cannot read"),
    Case(
        "far.w64",
        lambda: with_field(encoded("W64"), 56, "<q", 2**63 - 1),
        None,
        "cannot read",
    ),
    Case("headless.ogg", lambda: _vorbis()[500:], None, "cannot read it"),
    Case("headless.flac", lambda: _flac()[200:], None, "cannot read it"),
    Case("archive.mp3", lambda: b"PK\3\4" + bytes(99), None, "no MP3 frame was found"),
    Case("video.mp4", lambda: b"\0\0\0 ftypisom" + bytes(99), None, "need the ffmpeg"),
)
CASES = _WHOLE + _WRONG_LENGTHS + _CUT + _DAMAGED + _WRONG_TIMES + _REFUSED
