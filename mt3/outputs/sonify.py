"""Notes made audible without a soundfont: one simple tone per instrument family.

Good for checking a transcription by ear, not for music. A tone is a stored period
of a few harmonics, read at the note's pitch, under an attack, a decay and a release;
drums are short bursts of noise and falling tones. Audio is made and written in
blocks, so memory does not grow with the length.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mt3 import errors
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.outputs.transcription import Transcription

if TYPE_CHECKING:
    from mt3.audio.reading import AudioSource

BLOCK_SECONDS = 10.0
# Added after the end, for tones to decay.
TAIL_SECONDS = 0.5
# Its sizes have 32 bits; some are for its header.
_MOST_WAV_BYTES = 2**32 - 2**16
_GAIN = 0.18
_TABLE_SIZE = 4096
_ATTENUATION_OF_NOTES = 60.0  # semitones over which loudness evens out
_MAX_DRUM_SECONDS = 1.2


@dataclasses.dataclass(frozen=True)
class _Timbre:
    """One family's tone.

    Attributes:
      harmonics: amplitudes of the fundamental and its multiples.
      attack: seconds to full level.
      decay: seconds until a held tone has fallen to 1/e; None to stay level.
      release: seconds until an ended tone has fallen to 1/e.
    """

    harmonics: tuple[float, ...]
    attack: float
    decay: float | None
    release: float


_TIMBRES = {
    "Piano": _Timbre((1, 0.5, 0.33, 0.18, 0.1, 0.06), 0.004, 0.9, 0.06),
    "Chromatic Percussion": _Timbre((1, 0.1, 0, 0.35, 0, 0.08), 0.002, 0.45, 0.15),
    "Organ": _Timbre((1, 0.7, 0.5, 0.5, 0, 0.25, 0, 0.2), 0.01, None, 0.02),
    "Guitar": _Timbre((1, 0.65, 0.4, 0.3, 0.2, 0.12, 0.08), 0.003, 0.6, 0.05),
    "Bass": _Timbre((1, 0.6, 0.35, 0.15, 0.08), 0.006, 0.9, 0.04),
    "Strings": _Timbre((1, 0.6, 0.45, 0.3, 0.22, 0.15, 0.1), 0.06, None, 0.06),
    "Ensemble": _Timbre((1, 0.5, 0.33, 0.25, 0.15, 0.1), 0.08, None, 0.1),
    "Brass": _Timbre((1, 0.9, 0.75, 0.55, 0.4, 0.25, 0.15), 0.03, None, 0.04),
    "Reed": _Timbre((1, 0.1, 0.6, 0.08, 0.4, 0.05, 0.2), 0.02, None, 0.04),
    "Pipe": _Timbre((1, 0.25, 0.08, 0.03), 0.03, None, 0.05),
    "Synth Lead": _Timbre((1, 0, 0.33, 0, 0.2, 0, 0.14), 0.005, None, 0.03),
    "Synth Pad": _Timbre((1, 0.4, 0.2, 0.1), 0.12, None, 0.2),
    "Ethnic": _Timbre((1, 0.7, 0.5, 0.35, 0.25, 0.15), 0.003, 0.4, 0.05),
}
_OTHER = _Timbre((1, 0.3, 0.15), 0.005, 0.5, 0.08)


def write_wav(
    result: Transcription,
    stream: BinaryIO,
    *,
    sample_rate: int = 22050,
    original: str | os.PathLike[str] | AudioSource | None = None,
) -> None:
    """Writes the notes as a 16-bit WAV file.

    Args:
      result: what to play.
      stream: binary file that can seek.
      sample_rate: Hz, at least 8000.
      original: the recording; then the file is stereo, recording left, notes right.

    Raises:
      OutputError: a sample rate below 8000 Hz, or more than a WAV file holds.
      AudioError: the recording cannot be read.
    """
    from mt3.audio import sndfile

    if sample_rate < 8000:
        raise errors.OutputError(
            f"WAV output: sample rate {sample_rate} Hz; expected 8000 or more"
        )
    blocks: Iterator[np.ndarray] = render(result, sample_rate)
    channels = 1
    longest = _MOST_WAV_BYTES / 2 / (2 if original is not None else 1) / sample_rate
    if result.end_time + TAIL_SECONDS > longest:
        raise errors.OutputError(
            f"{result.source or 'WAV output'}: {result.end_time / 3600:,.1f} hours of "
            f"notes; a WAV file of {sample_rate} Hz holds {longest / 3600:.1f}"
        )
    if original is not None:
        blocks, channels = _beside(_open(original), blocks, sample_rate), 2
    software = f"mt3 {result.version}"
    sndfile.write_wav(stream, blocks, sample_rate, channels=channels, software=software)


def render(result: Transcription, sample_rate: int) -> Iterator[np.ndarray]:
    """Renders a transcription block by block.

    Args:
      result: what to play.
      sample_rate: Hz.

    Yields:
      float32 [samples] within -1..1, up to 10 s each.
    """
    total = round((result.end_time + TAIL_SECONDS) * sample_rate)
    block_size = round(BLOCK_SECONDS * sample_rate)
    # Notes are sorted by onset: take those that have begun, drop those that are over.
    waiting, sounding = list(reversed(result.notes)), []
    for start in range(0, total, block_size):
        block = np.zeros(min(block_size, total - start))
        end_time = (start + len(block)) / sample_rate
        while waiting and waiting[-1].start_time < end_time:
            sounding.append(waiting.pop())
        for note in sounding:
            _add_note(block, start, note, sample_rate)
        start_time = (start + len(block)) / sample_rate
        sounding = [n for n in sounding if _audible_until(n) > start_time]
        # A soft limit: many notes at once must not clip.
        yield np.tanh(block).astype(np.float32)


def _audible_until(note: Note) -> float:
    """Returns the time in seconds after which a note cannot be heard."""
    if note.is_drum:
        return note.start_time + _MAX_DRUM_SECONDS
    return note.end_time + 6 * _timbre(note.program).release


def _timbre(program: int) -> _Timbre:
    family = general_midi.family_name(program)
    return _TIMBRES.get(family, _OTHER)


def _add_note(block: np.ndarray, start: int, note: Note, sample_rate: int) -> None:
    """Adds the part of a note that falls into a block beginning at sample `start`."""
    onset = round(note.start_time * sample_rate)
    end = round(_audible_until(note) * sample_rate)
    first, last = max(0, onset - start), min(len(block), end - start)
    if first >= last:
        return
    level = _GAIN * (note.velocity / 127) ** 0.7
    if note.is_drum:
        hit = _drum(note.pitch, sample_rate)
        piece = hit[first + start - onset : last + start - onset]
        block[first : first + len(piece)] += level * 1.5 * piece
        return
    timbre = _timbre(note.program)
    seconds = (np.arange(first, last) + (start - onset)) / sample_rate
    frequency = 440.0 * 2 ** ((note.pitch - 69) / 12)
    table = _period(timbre.harmonics, frequency, sample_rate)
    phase = (seconds * (frequency * _TABLE_SIZE)).astype(np.int64) % _TABLE_SIZE
    envelope = np.minimum(1.0, seconds / timbre.attack)
    if timbre.decay is not None:
        # Low strings ring longer.
        decay = timbre.decay * 2 ** ((60 - note.pitch) / 24)
        envelope *= np.exp(-seconds / decay)
    over = np.maximum(0.0, seconds - max(note.end_time - note.start_time, 0.02))
    envelope *= np.exp(-over / timbre.release)
    level *= 2 ** ((60 - note.pitch) / _ATTENUATION_OF_NOTES)
    block[first:last] += level * envelope * table[phase]


@functools.cache
def _period(
    harmonics: tuple[float, ...], frequency: float, sample_rate: int
) -> np.ndarray:
    """Returns one period, float64 [_TABLE_SIZE], of the harmonics below Nyquist."""
    time = np.arange(_TABLE_SIZE) * (2 * np.pi / _TABLE_SIZE)
    kept = [
        (number, amplitude)
        for number, amplitude in enumerate(harmonics, 1)
        if number * frequency < 0.47 * sample_rate
    ]
    wave = sum((a * np.sin(n * time) for n, a in kept), np.zeros(_TABLE_SIZE))
    return wave / np.sqrt(max(1.0, sum(a * a for a in harmonics)))


@functools.cache
def _drum(pitch: int, sample_rate: int) -> np.ndarray:
    """Returns one hit, float64 [samples], the same every time."""
    lane = general_midi.DRUM_LANES[general_midi.drum_lane(pitch)]
    length = {"Kick": 0.35, "Snare": 0.25, "Toms": 0.4, "Hi-hat": 0.12}.get(lane, 0.3)
    if lane == "Cymbals":
        length = _MAX_DRUM_SECONDS
    elif pitch == 46:  # open hi-hat
        length = 0.5
    time = np.arange(round(length * sample_rate)) / sample_rate
    fade = np.exp(-5 * time / length)
    noise = np.random.default_rng(zlib.crc32(bytes([pitch]))).uniform(-1, 1, len(time))
    bright = np.diff(noise, prepend=0.0)
    if lane == "Kick":
        return 1.6 * _falling_tone(time, 120, 45, 0.04) * fade
    if lane == "Toms":
        base = 60 * 2 ** ((pitch - 36) / 12)
        return 1.3 * _falling_tone(time, 1.6 * base, base, 0.06) * fade
    if lane == "Snare":
        return (0.7 * noise + 0.6 * np.sin(2 * np.pi * 185 * time)) * fade
    if lane in ("Hi-hat", "Cymbals"):
        return 0.55 * np.diff(bright, prepend=0.0) * fade
    return (0.4 * bright + 0.5 * np.sin(2 * np.pi * (300 + 8 * pitch) * time)) * fade


def _falling_tone(
    time: np.ndarray, high: float, low: float, seconds: float
) -> np.ndarray:
    """Returns a sine whose frequency falls from `high` to `low` Hz."""
    cycles = low * time + (high - low) * seconds * (1 - np.exp(-time / seconds))
    return np.sin(2 * np.pi * cycles)


def _open(original: str | os.PathLike[str] | AudioSource) -> AudioSource:
    if not isinstance(original, (str, os.PathLike)):
        return original
    from mt3.audio import reading

    return reading.open_audio(original)


def _beside(
    source: AudioSource, notes: Iterator[np.ndarray], sample_rate: int
) -> Iterator[np.ndarray]:
    """Yields float32 [samples, 2] blocks: recording left, notes right.

    The file is as long as the longer of the two.
    """
    left = _Reader(source.blocks(sample_rate))
    for block in notes:
        yield np.stack([left.take(len(block)), block], axis=1)
    while len(rest := left.take_some()):
        yield np.stack([rest, np.zeros_like(rest)], axis=1)


class _Reader:
    """Hands out blocks of any size from blocks of any size."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._held = np.zeros(0, np.float32)

    def take(self, size: int) -> np.ndarray:
        """Returns `size` samples, silence after the end."""
        pieces: Sequence[np.ndarray] = [self._held]
        while sum(map(len, pieces)) < size:
            block = next(self._blocks, None)
            if block is None:
                missing = size - sum(map(len, pieces))
                block = np.zeros(missing, np.float32)
            pieces.append(block)
        joined = np.concatenate(pieces)
        self._held = joined[size:]
        return joined[:size]

    def take_some(self) -> np.ndarray:
        """Returns what comes next, nothing after the end."""
        block, self._held = self._held, np.zeros(0, np.float32)
        return block if len(block) else next(self._blocks, block)
