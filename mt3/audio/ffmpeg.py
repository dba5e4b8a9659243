"""Decoding with the ffmpeg program."""

from __future__ import annotations

import contextlib
import pathlib
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator

import numpy as np

from mt3.audio import formats
from mt3.audio.decoders import AudioInfo
from mt3.audio.headers import audio_error as _error

_AU_HEADER_BYTES = 24


class FfmpegDecoder:
    """Decodes with the ffmpeg program, which writes an AU stream to a pipe.

    AU, since its header is 24 bytes that carry the rate and the channels and need
    no length. ffmpeg may open the file itself and nothing else: a playlist or a
    container cannot make it reach for the network.

    Args:
      path: the file.
      name: what messages call it.
      program: path of ffmpeg.
      allow_truncated: stops quietly at damage instead of raising.

    Raises:
      AudioError: ffmpeg finds no sound in the file.
    """

    def __init__(
        self, path: pathlib.Path, name: str, program: str, allow_truncated: bool
    ) -> None:
        self._path = path
        self.warnings: list[str] = []
        self._program = program
        self._allow_truncated = allow_truncated
        result = subprocess.run(
            self._command("info", "-t", "0.01"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        chatter = result.stderr.decode(errors="replace")
        header = _parse_au_header(result.stdout)
        if header is None and "matches no streams" in chatter:
            raise _error(name, "the file holds no sound", "expected some")
        if header is None:
            raise _error(
                name,
                f"neither libsndfile nor ffmpeg can read it ({_last_line(chatter)})",
                f"expected {formats.SUPPORTED}, or a format that ffmpeg knows",
            )
        sample_rate, channels, _ = header
        self.info = AudioInfo(
            name=name,
            format="ffmpeg",
            sample_rate=sample_rate,
            channels=channels,
            duration=_parse_duration(chatter),
        )

    def _command(self, verbosity: str, *options: str) -> list[str]:
        return [
            *(self._program, "-hide_banner", "-nostdin", "-v", verbosity),
            *("-protocol_whitelist", "file,pipe", "-i", f"file:{self._path}"),
            *("-map", "0:a:0", *options, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
        ]

    def blocks(self, block_frames: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Decoder.blocks`."""
        channels, done = self.info.channels, 0
        with self._running() as (process, errors):
            header = _parse_au_header(process.stdout.read(_AU_HEADER_BYTES))
            if header is not None:
                process.stdout.read(header[2] - _AU_HEADER_BYTES)
            while True:
                # A buffered pipe: a short read means the end.
                data = process.stdout.read(block_frames * channels * 4)
                whole = len(data) // (4 * channels)
                if not whole:
                    break
                block = np.frombuffer(data, ">f4", count=whole * channels)
                block = block.astype(np.float32).reshape(whole, channels)
                skipped = max(0, start - done)
                done += whole
                if skipped < whole:
                    yield block[skipped:]
            status = process.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        # A container cut short makes ffmpeg say so and end with status 0.
        broken = status != 0 or "partial file" in said
        if broken and not self._allow_truncated:
            raise _error(
                self.info.name,
                f"ffmpeg stopped after {done / self.info.sample_rate:.3f} s "
                f"({_last_line(said)})",
                "expected it to be whole",
            )

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple]:
        """The decoding process and what it says; ended when the caller stops early."""
        # To a file: a full pipe that nobody reads would stop ffmpeg.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._command("error"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                yield process, errors
            finally:
                process.kill()
                process.stdout.close()
                process.wait()


def _parse_au_header(data: bytes) -> tuple[int, int, int] | None:
    """Returns (sample rate, channels, offset of the samples) of an AU stream."""
    if len(data) < _AU_HEADER_BYTES or data[:4] != b".snd":
        return None
    header = struct.unpack(">5I", data[4:_AU_HEADER_BYTES])
    offset, _, _, sample_rate, channels = header
    usable = offset >= _AU_HEADER_BYTES and sample_rate and channels
    return (sample_rate, channels, offset) if usable else None


def _parse_duration(chatter: str) -> float | None:
    """Seconds from ffmpeg's "Duration: 00:03:21.45"."""
    match = re.search(r"Duration: (\d+):(\d+):(\d+(?:\.\d+)?)", chatter)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _last_line(chatter: str) -> str:
    lines = [line.strip() for line in chatter.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
