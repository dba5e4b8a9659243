"""The synthesizers that play soundfonts, behind one small interface.

Both have a channel for each part, render mono blocks of any length, and are imported on
first use, since transcribing needs neither. tinysoundfont starts a note at its exact
sample, and its output repeats exactly. FluidSynth starts notes at multiples of 64
samples (2 ms at 32 kHz), counted across renderings.

In both, a note's amplitude is proportional to the square of its velocity, as the SF2
standard's default modulators have it (100, 64, 32 of 127: -4.2, -11.9, -23.9 dB). The
velocity itself chooses between samples where a preset has several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from mt3.errors import DataError

DRUM_BANK = 128
INSTALL_HELP = (
    "Rendering needs a synthesizer: run `pip install --no-deps tinysoundfont` "
    "(it declares pyaudio, which rendering does not use), or install FluidSynth "
    "with `pip install pyfluidsynth`."
)


class Synthesizer(Protocol):
    """The methods that rendering needs, for a synthesizer with a loaded soundfont."""

    def has_preset(self, bank: int, preset: int) -> bool:
        """Tells whether the soundfont has a preset; drum kits are in bank 128."""
        ...

    def reset(self) -> None:
        """Silences everything and forgets the channels' settings."""
        ...

    def start_channel(
        self, channel: int, bank: int, preset: int, gain: float, cents: float
    ) -> None:
        """Sets up a channel: preset, linear gain, detuning."""
        ...

    def bend(self, channel: int, cents: float) -> None:
        """Bends a channel's pitch, sounding notes included."""
        ...

    def note_on(self, channel: int, pitch: int, velocity: int) -> None:
        """Starts a note, whose amplitude goes with the square of the velocity."""
        ...

    def note_off(self, channel: int, pitch: int) -> None:
        """Ends the oldest note of a pitch."""
        ...

    def render_into(self, buffer: np.ndarray) -> None:
        """Renders the next samples into float32 [samples]."""
        ...


class TinySoundFont:
    """The `tinysoundfont` synthesizer: any number of channels, mono blocks."""

    def __init__(self, path: Path, sample_rate: int):
        from tinysoundfont import _tinysoundfont as tsf

        self._font = tsf.SoundFont(str(path))
        self._font.set_output(tsf.OutputMode.Mono, sample_rate, 0.0)
        self._fade = np.zeros(int(0.02 * sample_rate), np.float32)

    def has_preset(self, bank: int, preset: int) -> bool:
        """See `Synthesizer`."""
        return self._font.get_preset_index(bank, preset) >= 0

    def reset(self) -> None:
        """See `Synthesizer`."""
        self._font.reset()
        # Sounding notes fade out over 10 ms; discard that audio.
        self.render_into(self._fade)

    def start_channel(
        self, channel: int, bank: int, preset: int, gain: float, cents: float
    ) -> None:
        """See `Synthesizer`."""
        self._font.channel_set_bank(channel, bank)
        self._font.channel_set_preset_number(channel, preset, bank == DRUM_BANK)
        self._font.channel_set_volume(channel, gain)
        if cents:
            self._font.channel_set_tuning(channel, cents / 100.0)

    def bend(self, channel: int, cents: float) -> None:
        """See `Synthesizer`."""
        # The wheel's 8192 steps are two semitones.
        wheel = 8192 + int(round(cents / 200.0 * 8192))
        self._font.channel_set_pitch_wheel(channel, min(max(wheel, 0), 16383))

    def note_on(self, channel: int, pitch: int, velocity: int) -> None:
        """See `Synthesizer`."""
        # tinysoundfont multiplies by the velocity once, and by the volume that is set
        # when a note starts; notes that sound already keep theirs.
        self._font.set_volume(velocity / 127.0)
        self._font.channel_note_on(channel, pitch, velocity / 127.0)

    def note_off(self, channel: int, pitch: int) -> None:
        """See `Synthesizer`."""
        self._font.channel_note_off(channel, pitch)

    def render_into(self, buffer: np.ndarray) -> None:
        """See `Synthesizer`."""
        self._font.render(buffer.view(np.uint8), False)


class FluidSynth:
    """FluidSynth through `pyfluidsynth`, with 256 MIDI channels."""

    def __init__(self, path: Path, sample_rate: int):
        import fluidsynth

        # Settings have an effect only at construction. Effects are off, since rooms
        # are the task of augmentation.
        self._synth = fluidsynth.Synth(
            gain=0.5,
            samplerate=float(sample_rate),
            channels=256,
            **{"synth.reverb.active": 0, "synth.chorus.active": 0},
        )
        self._fade = np.zeros(int(0.02 * sample_rate), np.float32)
        self._cents: dict[int, float] = {}
        self._font = self._synth.sfload(str(path))
        if self._font < 0:
            raise RuntimeError("FluidSynth could not load the file")

    def has_preset(self, bank: int, preset: int) -> bool:
        """See `Synthesizer`."""
        return bool(self._synth.sfpreset_name(self._font, bank, preset))

    def reset(self) -> None:
        """See `Synthesizer`."""
        for channel in self._cents:
            self._synth.cc(channel, 120, 0)  # all sounds off
        self._cents.clear()
        self._synth.system_reset()
        # Even so, sounding notes fade out over some tenths of a second.
        for _ in range(100):
            self.render_into(self._fade)
            if np.abs(self._fade).max() < 1e-5:
                break

    def start_channel(
        self, channel: int, bank: int, preset: int, gain: float, cents: float
    ) -> None:
        """See `Synthesizer`."""
        self._synth.program_select(channel, self._font, bank, preset)
        # MIDI volume is quadratic in amplitude; 100 is the neutral setting.
        volume = 100.0 * np.sqrt(max(gain, 0.0))
        self._synth.cc(channel, 7, int(np.clip(round(volume), 0, 127)))
        self._cents[channel] = cents
        self.bend(channel, 0.0)

    def bend(self, channel: int, cents: float) -> None:
        """See `Synthesizer`."""
        # The wheel's 8192 steps are two semitones, and serve for tuning as well.
        wheel = int(round((cents + self._cents[channel]) / 200.0 * 8192))
        self._synth.pitch_bend(channel, min(max(wheel, -8192), 8191))

    def note_on(self, channel: int, pitch: int, velocity: int) -> None:
        """See `Synthesizer`."""
        self._synth.noteon(channel, pitch, velocity)

    def note_off(self, channel: int, pitch: int) -> None:
        """See `Synthesizer`."""
        self._synth.noteoff(channel, pitch)

    def render_into(self, buffer: np.ndarray) -> None:
        """See `Synthesizer`."""
        stereo = np.asarray(self._synth.get_samples(len(buffer)), np.float32)
        buffer[:] = stereo.reshape(-1, 2).mean(axis=1) / 32768.0


def open_synthesizer(path: Path, sample_rate: int) -> Synthesizer:
    """Opens a soundfont in the first synthesizer that is installed.

    Raises:
      DataError: if there is no such file, it is damaged, or no synthesizer is there.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such soundfont file.")
    for backend in (TinySoundFont, FluidSynth):
        try:
            return backend(path, sample_rate)
        except ImportError:
            continue
        except RuntimeError as error:
            raise DataError(
                f"{path}: cannot be read as a soundfont (.sf2 or .sf3): {error}"
            ) from error
    raise DataError(INSTALL_HELP)
