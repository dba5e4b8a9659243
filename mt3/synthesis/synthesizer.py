"""The synthesizer that plays soundfonts, behind a small interface.

It has a channel for each part and renders mono blocks of any length. A note starts at
its exact sample, and the output repeats exactly. `tinysoundfont` is imported on first
use, since transcribing does not need it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mt3.errors import DataError

DRUM_BANK = 128
INSTALL_HELP = (
    "Rendering needs a synthesizer: run `pip install --no-deps tinysoundfont` "
    "(it declares pyaudio, which rendering does not use)."
)


class TinySoundFont:
    """The `tinysoundfont` synthesizer: any number of channels, mono blocks."""

    def __init__(self, path: Path, sample_rate: int):
        from tinysoundfont import _tinysoundfont as tsf

        self._font = tsf.SoundFont(str(path))
        self._font.set_output(tsf.OutputMode.Mono, sample_rate, 0.0)
        self._fade = np.zeros(int(0.02 * sample_rate), np.float32)

    def has_preset(self, bank: int, preset: int) -> bool:
        """Tells whether the soundfont has a preset; drum kits are in bank 128."""
        return self._font.get_preset_index(bank, preset) >= 0

    def reset(self) -> None:
        """Silences everything and forgets the channels' settings."""
        self._font.reset()
        # Sounding notes fade out over 10 ms; discard that audio.
        self.render_into(self._fade)

    def start_channel(
        self, channel: int, bank: int, preset: int, gain: float, cents: float
    ) -> None:
        """Sets up a channel: preset, linear gain, detuning."""
        self._font.channel_set_bank(channel, bank)
        self._font.channel_set_preset_number(channel, preset, bank == DRUM_BANK)
        self._font.channel_set_volume(channel, gain)
        if cents:
            self._font.channel_set_tuning(channel, cents / 100.0)

    def bend(self, channel: int, cents: float) -> None:
        """Bends a channel's pitch, sounding notes included."""
        # The wheel's 8192 steps are two semitones.
        wheel = 8192 + int(round(cents / 200.0 * 8192))
        self._font.channel_set_pitch_wheel(channel, min(max(wheel, 0), 16383))

    def note_on(self, channel: int, pitch: int, velocity: int) -> None:
        """Starts a note."""
        self._font.channel_note_on(channel, pitch, velocity / 127.0)

    def note_off(self, channel: int, pitch: int) -> None:
        """Ends the oldest note of a pitch."""
        self._font.channel_note_off(channel, pitch)

    def render_into(self, buffer: np.ndarray) -> None:
        """Renders the next samples into float32 [samples]."""
        self._font.render(buffer.view(np.uint8), False)


def open_synthesizer(path: Path, sample_rate: int) -> TinySoundFont:
    """Opens a soundfont.

    Raises:
      DataError: if there is no such file, it is damaged, or the synthesizer is not
        installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such soundfont file.")
    try:
        return TinySoundFont(path, sample_rate)
    except ImportError as error:
        raise DataError(INSTALL_HELP) from error
    except RuntimeError as error:
        raise DataError(
            f"{path}: cannot be read as a soundfont (.sf2 or .sf3): {error}"
        ) from error
