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
# Keeps times: silence up to the first sample, and where samples are missing.
_FILL_GAPS = "aresample=async=1:first_pts=0"
_DAMAGE = re.compile("partial file|prematurely|rror while decoding|Invalid data")
_FRAME_TIMES = re.compile(rb"pts_time:(\S+) .*rate:(\d+) nb_samples:(\d+)")
_LEAST_GAP_SECONDS = 0.01


class FfmpegDecoder:
    """Decodes with the ffmpeg program, which writes an AU stream to a pipe.

    AU, since its header is 24 bytes that carry the rate and the channels and need
    no length. ffmpeg may open the file itself and nothing else: a playlist or a
    container cannot make it reach for the network. Where the container's times leave
    a gap, at the start of a video say, there is silence.

    Args:
      path: the file.
      name: what messages call it.
      program: path of ffmpeg.
      allow_truncated: puts silence where the file is damaged instead of raising.

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
            *(
                "-map",
                "0:a:0",
                "-af",
                _FILL_GAPS,
                *options,
                "-c:a",
                "pcm_f32be",
                "-f",
                "au",
                "pipe:1",
            ),
        ]

    def _gaps(self) -> list[tuple[float, float]]:
        """Returns the stretches, in seconds, between the frames that are decoded."""
        times = ("-af", "ashowinfo", "-f", "null", "-")
        command = self._command("info")
        result = subprocess.run(
            [*command[: command.index("-af")], *times],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        gaps, end = [], 0.0
        for match in _FRAME_TIMES.finditer(result.stderr):
            start, rate, samples = (float(number) for number in match.groups())
            if start - end > _LEAST_GAP_SECONDS:
                gaps.append((end, start))
            end = max(end, start + samples / rate)
        return gaps

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
        # At damage, and where a container was cut, ffmpeg ends with status 0.
        if status != 0 or _DAMAGE.search(said):
            self._report(start, done, said)

    def _report(self, start: int, done: int, said: str) -> None:
        """Raises, or warns of, damage that ffmpeg met."""
        rate = self.info.sample_rate
        # A gap before the first frame is where the sound of a video starts late.
        gaps = [gap for gap in self._gaps() if gap[0] and gap[1] > start / rate]
        where = ", ".join(f"from {first:.3f} s to {last:.3f} s" for first, last in gaps)
        if where:
            problem = f"ffmpeg cannot decode what lies {where}"
        else:
            problem = f"ffmpeg stopped after {done / rate:.3f} s"
        problem += f" ({_last_line(said)})"
        if not self._allow_truncated:
            raise _error(
                self.info.name,
                problem,
                "expected it to be whole (--allow-truncated reads what is there)",
            )
        if problem not in self.warnings:
            self.warnings.append(problem)

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
