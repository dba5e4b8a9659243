"""Notes -> audio with a soundfont.

The synthesizer is `tinysoundfont`, driven by our own event loop (its sequencer's
time grows with the square of the number of events), or FluidSynth through
`pyfluidsynth` where the former is not installed. Both are imported on first use.

Two things make the audio fit its labels better than a plain rendering:

1. **Attacks are on time.** Blocks are rendered from event to event, so a note
   starts at its exact sample. What remains is the silence or the slow rise at the
   beginning of a preset's samples (0 to 7 ms late for sharp attacks): it is
   measured once per preset, and notes are started that much earlier.
2. **Little aliasing.** Soundfont samples are recorded at 44.1 kHz and interpolated
   linearly, so rendering at 16 kHz folds everything above 8 kHz back into the
   spectrum. Audio is rendered at twice the rate and then decimated.

Audio is rendered in blocks of a minute: beyond the samples that are returned, memory
does not grow with the length.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mt3.errors import DataError
from mt3.midi import general_midi, note_arrays
from mt3.note_sequences import Note
from mt3.synthesis.instruments import pitch_range
from mt3.synthesis.synthesizers import DRUM_BANK, open_synthesizer

# Of whole songs: audio after the last note's end, and the peak.
TAIL_SECONDS = 1.0
PEAK = 0.9
# 4 GiB in memory: 18.6 hours at 16 kHz, 6.8 at 44.1 kHz. WAV files have room for it.
MOST_SAMPLES = 2**30
# A drum hit rings at least this long, whatever length its MIDI note has.
DRUM_SECONDS = 0.4
# Slow attacks (strings, flutes) start softly on purpose: their label stays at the
# beginning of the rise, so no more than this is corrected.
MAX_LATENCY_SECONDS = 0.008
MIN_NOTE_SECONDS = 0.01
# The interval at which a vibrato's pitch is set.
VIBRATO_STEP_SECONDS = 0.01
# Rendering happens at this multiple of the sample rate.
_OVERSAMPLE = 2
_BLOCK_SECONDS = 60
# Programs and drum keys with which a soundfont's loudness is measured.
_LEVEL_PROGRAMS = (0, 4, 11, 16, 24, 27, 40, 48, 56, 61, 65, 71, 73, 80)
_DRUM_KEYS = (36, 38, 39, 45, 49, 54, 61, 75)
# Kinds of events; events at the same sample are handled in this order.
_OFF, _BEND, _ON = range(3)
# (sample, kind, channel, pitch or cents, velocity)
_Event = tuple[int, int, int, float, int]


@dataclasses.dataclass(frozen=True)
class Sound:
    """How one part is played.

    Attributes:
      gain: linear factor on the part's loudness.
      bank: soundfont bank (0: General MIDI; others contain variations); not for drums.
      kit: preset of the percussion bank, for drums only.
      cents: detuning of the part in hundredths of a semitone.
      vibrato_cents: amplitude of a vibrato.
      vibrato_hz: frequency of the vibrato.
    """

    gain: float = 1.0
    bank: int = 0
    kit: int = 0
    cents: float = 0.0
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5


def default_soundfont() -> Path:
    """Returns the General MIDI soundfont that the `pretty_midi` package contains.

    Raises:
      DataError: if the package or its soundfont is not there.
    """
    import importlib.util

    spec = importlib.util.find_spec("pretty_midi")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "TimGM6mb.sf2"
        if path.is_file():
            return path
    raise DataError(
        "No soundfont given, and the default one was not found: it comes with the "
        "package pretty_midi (TimGM6mb.sf2). Name a .sf2 or .sf3 file."
    )


class SoundFont:
    """A soundfont file, opened for rendering at one sample rate.

    Threads may share it (`open_soundfont` opens one for all): they render in turns.

    Args:
      path: a .sf2 or .sf3 file.
      sample_rate: of the audio that `render` returns, in Hz.
      exact: play only programs that the file has, instead of others of their class
        too: a cello alone is no violin.

    Raises:
      DataError: if the file is missing or damaged, or no synthesizer is installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sample_rate: int = 16000,
        *,
        exact: bool = False,
    ):
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.exact = exact
        self._rate = sample_rate * _OVERSAMPLE
        self._synth = open_synthesizer(self.path, self._rate)
        # The synthesizer has one set of channels: those who render share it in turns,
        # such as training, whose batches are made ahead, and evaluation.
        self._turn = threading.RLock()
        self._latencies: dict[tuple[int, int, int], float] = {}
        self._audible: dict[tuple[int, int, int], bool] = {}

    @functools.cached_property
    def kits(self) -> tuple[int, ...]:
        """The presets of the percussion bank."""
        return tuple(p for p in range(128) if self._synth.has_preset(DRUM_BANK, p))

    def banks(self, program: int) -> tuple[int, ...]:
        """Returns the banks that contain a program; bank 0 is General MIDI."""
        return tuple(b for b in range(128) if self._synth.has_preset(b, program))

    def preset(self, program: int, is_drum: bool, sound: Sound) -> tuple[int, int]:
        """Returns the (bank, preset) to play a part with.

        A missing preset is replaced by the nearest program of the same General MIDI
        family if the soundfont is not `exact`, a missing drum kit by the first one.

        Raises:
          DataError: if the soundfont has no such replacement.
        """
        if is_drum:
            if not self.kits:
                raise DataError(f"{self.path}: the soundfont has no drum kit.")
            return DRUM_BANK, sound.kit if sound.kit in self.kits else self.kits[0]
        if self._synth.has_preset(sound.bank, program):
            return sound.bank, program
        candidates = self._candidates(program)
        for candidate in sorted(candidates, key=lambda p: abs(p - program)):
            if self._synth.has_preset(0, candidate):
                return 0, candidate
        others = "" if self.exact else " or any other of its class"
        raise DataError(
            f"{self.path}: the soundfont has no preset for General MIDI program "
            f"{program}{others}."
        )

    def _candidates(self, program: int) -> Sequence[int]:
        """The programs that may play a program's notes."""
        return [program] if self.exact else general_midi.family_programs(program)

    def can_play(self, program: int, is_drum: bool) -> bool:
        """Tells whether there is a preset to play a part with; see `preset`."""
        if is_drum:
            return bool(self.kits)
        return any(self._synth.has_preset(0, p) for p in self._candidates(program))

    @functools.cached_property
    def level(self) -> float:
        """The soundfont's loudness: the median over some of its presets.

        The loudness of a preset is the root mean square of the first 0.3 s of a note.
        """
        tried = [(0, p, 60) for p in _LEVEL_PROGRAMS if self._synth.has_preset(0, p)]
        if self.exact:
            programs = [p for p in range(128) if self._synth.has_preset(0, p)]
            tried = [(0, p, sum(pitch_range(p)) // 2) for p in programs]
        tried += [(DRUM_BANK, kit, key) for kit in self.kits[:1] for key in _DRUM_KEYS]
        levels = [np.sqrt(np.mean(self._try_note(*t, 0.3) ** 2)) for t in tried]
        # Missing drum keys are silent.
        heard = [level for level in levels if level > 1e-5]
        return float(np.median(heard)) if heard else 1.0

    def latency(self, bank: int, preset: int, pitch: int) -> float:
        """Measures the delay of a preset's attack, in seconds.

        It is the time from the start of a note until its level first reaches a tenth
        of the maximum of the first 30 ms, at most `MAX_LATENCY_SECONDS`. Pitched
        presets are measured once per octave, drum kits once per key.
        """
        key = pitch if bank == DRUM_BANK else min(pitch // 12 * 12 + 6, 127)
        place = (bank, preset, key)
        if place not in self._latencies:
            level = np.abs(self._try_note(bank, preset, key, 0.03))
            late = int(np.argmax(level >= 0.1 * level.max())) / self._rate
            self._latencies[place] = min(late, MAX_LATENCY_SECONDS)
        return self._latencies[place]

    def audible(
        self,
        notes: np.ndarray,
        sounds: Mapping[tuple[int, bool], Sound] | None = None,
    ) -> np.ndarray:
        """Finds the notes that make a sound at all.

        Drum kits have no sample for some keys, and some presets do not cover the whole
        keyboard; a label without a sound would teach a network to guess.

        Args:
          notes: a note array.
          sounds: as for `render`.

        Returns:
          bool [len(notes)].
        """
        heard = np.ones(len(notes), bool)
        for index, note in enumerate(notes):
            part = (0, True) if note["is_drum"] else (int(note["program"]), False)
            preset = self.preset(*part, (sounds or {}).get(part, Sound()))
            place = (*preset, int(note["pitch"]))
            if place not in self._audible:
                self._audible[place] = bool(self._try_note(*place, 0.1).any())
            heard[index] = self._audible[place]
        return heard

    def _try_note(self, bank: int, preset: int, key: int, seconds: float) -> np.ndarray:
        """Renders a single note by itself, at the synthesizer's rate."""
        block = np.zeros(int(seconds * self._rate), np.float32)
        with self._turn:
            self._synth.reset()
            self._synth.start_channel(0, bank, preset, 1.0, 0.0)
            self._synth.note_on(0, key, 100)
            self._synth.render_into(block)
            self._synth.reset()
        return block

    def render(
        self,
        notes: Iterable[Note] | np.ndarray,
        *,
        seconds: float,
        start_time: float = 0.0,
        pre_roll: float = 2.0,
        sounds: Mapping[tuple[int, bool], Sound] | None = None,
        name: str = "rendering",
    ) -> np.ndarray:
        """Renders notes to mono audio.

        Args:
          notes: `Note` objects or a note array, times in seconds. Notes of one program
            and pitch should not overlap (`note_arrays.resolve_overlaps`).
          seconds: length of the audio.
          start_time: the time, on the notes' clock, at which the audio begins.
          pre_roll: notes held from before `start_time` are started at most this many
            seconds before it.
          sounds: how each (program, is_drum) part is played; `Sound()` if missing.
          name: what is rendered, for messages.

        Returns:
          float32 [round(seconds * sample_rate)]. The level is the soundfont's own: loud
          chords may exceed 1.

        Raises:
          DataError: if the soundfont has no preset for a part, or the audio would have
            more than `MOST_SAMPLES`.
        """
        check_length(seconds, self.sample_rate, name)
        array = note_arrays.to_array(notes)
        presets = {
            part: self.preset(*part, (sounds or {}).get(part, Sound()))
            for part in note_arrays.parts(array)
        }
        # Rendering begins before the window, so that notes held into it sound as
        # they do some time after their attack.
        first = float(array["start_time"].min(initial=start_time))
        before = min(start_time - first, pre_roll) + MAX_LATENCY_SECONDS
        lead = int(round(before * self._rate))
        # Whole output samples, so that decimation keeps the window's grid.
        lead += -lead % _OVERSAMPLE
        length = int(round(seconds * self.sample_rate)) * _OVERSAMPLE
        notes_events = self._events(
            array, presets, start_time - lead / self._rate, lead + length
        )
        events = [sorted(notes_events)]
        # Latencies have been measured by now, which resets the synthesizer.
        with self._turn:
            self._synth.reset()
            for channel, (part, place) in enumerate(presets.items()):
                sound = (sounds or {}).get(part, Sound())
                self._synth.start_channel(channel, *place, sound.gain, sound.cents)
                if sound.vibrato_cents and not part[1]:
                    events.append(self._vibrato(channel, sound, lead + length))
            blocks = self._play(heapq.merge(*events), lead + length)
            return _decimate(blocks, lead + length)[lead // _OVERSAMPLE :]

    def render_song(
        self,
        notes: np.ndarray,
        sounds: Mapping[tuple[int, bool], Sound] | None = None,
        *,
        name: str = "rendering",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Renders a whole song, with a peak of `PEAK`.

        Args:
          notes: a note array; notes of one program and pitch may overlap.
          sounds: as for `render`.
          name: as for `render`.

        Returns:
          The notes that sound, without overlaps, and float32 [samples] until
          `TAIL_SECONDS` after the last one's end.

        Raises:
          DataError: as `render`.
        """
        notes = note_arrays.resolve_overlaps(notes)
        notes = notes[self.audible(notes, sounds)]
        length = float(notes["end_time"].max(initial=0.0)) + TAIL_SECONDS
        samples = self.render(notes, seconds=length, sounds=sounds, name=name)
        peak = max(samples.max(initial=0.0), -samples.min(initial=0.0))
        samples *= np.float32(PEAK / float(peak) if peak > 0 else 1.0)
        return notes, samples

    def _events(
        self,
        array: np.ndarray,
        presets: Mapping[tuple[int, bool], tuple[int, int]],
        zero: float,
        length: int,
    ) -> list[_Event]:
        """Returns an event for each on and off."""
        channels = {part: channel for channel, part in enumerate(presets)}
        events = []
        shortest = int(MIN_NOTE_SECONDS * self._rate)
        for start, end, pitch, velocity, program, is_drum, _ in array.tolist():
            part = (0, True) if is_drum else (program, False)
            late = self.latency(*presets[part], pitch)
            if is_drum:
                end = max(end, start + DRUM_SECONDS)
            on = max(0, int(round((start - late - zero) * self._rate)))
            off = max(int(round((end - zero) * self._rate)), on + shortest)
            if on >= length or end <= zero:
                continue
            events.append((on, _ON, channels[part], pitch, max(velocity, 1)))
            events.append((off, _OFF, channels[part], pitch, 0))
        return events

    def _vibrato(self, channel: int, sound: Sound, length: int) -> Iterator[_Event]:
        """Yields a channel's pitch bends."""
        samples = np.arange(0, length, int(VIBRATO_STEP_SECONDS * self._rate))
        turns = samples / self._rate * sound.vibrato_hz
        cents = sound.vibrato_cents * np.sin(2 * np.pi * turns)
        for sample, bend in zip(samples, cents, strict=True):
            yield int(sample), _BEND, channel, float(bend), 0

    def _play(self, events: Iterable[_Event], length: int) -> Iterator[np.ndarray]:
        """Yields float32 [samples] of `_BLOCK_SECONDS` each, the last one shorter."""
        size = _BLOCK_SECONDS * self._rate
        events = iter(events)
        following = next(events, None)
        for start in range(0, length, size):
            block = np.zeros(min(size, length - start), np.float32)
            position, end = start, start + len(block)
            while following is not None and following[0] < end:
                sample, kind, channel, value, velocity = following
                if sample > position:
                    self._synth.render_into(block[position - start : sample - start])
                    position = sample
                if kind == _ON:
                    self._synth.note_on(channel, value, velocity)
                elif kind == _OFF:
                    self._synth.note_off(channel, value)
                else:
                    self._synth.bend(channel, value)
                following = next(events, None)
            if position < end:
                self._synth.render_into(block[position - start :])
            yield block


def check_length(seconds: float, sample_rate: int, name: str) -> None:
    """Refuses audio that is too long to be rendered, before memory is taken.

    Args:
      seconds: its length.
      sample_rate: Hz.
      name: what would be rendered, for the message.

    Raises:
      DataError: it would have more than `MOST_SAMPLES`.
    """
    if not seconds * sample_rate <= MOST_SAMPLES:
        raise DataError(
            f"{name}: {seconds / 3600:,.1f} hours of audio at {sample_rate} Hz; "
            f"expected at most {MOST_SAMPLES / sample_rate / 3600:.1f}"
        )


def _decimate(blocks: Iterable[np.ndarray], length: int) -> np.ndarray:
    """Returns every `_OVERSAMPLE`-th sample of blocks of even sizes, low-passed."""
    from scipy import signal

    # Samples to either side that a sample depends on, and whole output samples.
    margin = len(_low_pass()) - 1
    result = np.zeros(length // _OVERSAMPLE, np.float32)
    audio, start, done = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        audio = np.concatenate([audio, block])
        end = start + len(audio)
        ready = end if end == length else max(done, end - margin)
        piece = signal.resample_poly(audio, 1, _OVERSAMPLE, window=_low_pass())
        first, last = ((place - start) // _OVERSAMPLE for place in (done, ready))
        result[done // _OVERSAMPLE : ready // _OVERSAMPLE] = piece[first:last]
        done = ready
        audio, start = audio[max(0, done - margin - start) :], max(start, done - margin)
    return result


def open_soundfont(
    path: str | os.PathLike | None = None,
    sample_rate: int = 16000,
    *,
    exact: bool = False,
) -> SoundFont:
    """Opens a soundfont, once per process and arguments.

    Args:
      path: a .sf2 or .sf3 file; None for `default_soundfont`.
      sample_rate: of the audio that it renders, in Hz.
      exact: see `SoundFont`.

    Raises:
      DataError: as `SoundFont`.
    """
    return _open_cached(str(path or default_soundfont()), sample_rate, exact)


@functools.lru_cache(maxsize=128)
def _open_cached(path: str, sample_rate: int, exact: bool) -> SoundFont:
    return SoundFont(path, sample_rate, exact=exact)


@functools.cache
def _low_pass() -> np.ndarray:
    """A windowed-sinc low-pass of odd length: its delay is whole samples."""
    half = 16 * _OVERSAMPLE
    position = np.arange(-half, half + 1)
    taps = np.sinc(0.93 * position / _OVERSAMPLE) * np.kaiser(2 * half + 1, 6.0)
    return (taps / taps.sum()).astype(np.float32)
