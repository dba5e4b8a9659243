"""Small soundfonts of sine tones."""

from __future__ import annotations

import numpy as np

from gather import soundfont_writer

RATE = 16000


def tone(hertz, seconds=0.5, rate=RATE):
    time = np.arange(int(seconds * rate)) / rate
    return np.round(12000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def peak_hertz(audio):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
    return np.argmax(spectrum) * RATE / (1 << 16)


def tiny_font(path, seed=0, programs=(0,)):
    tone = np.sin(2 * np.pi * 440 * np.arange(800) / 16000 + seed)
    zone = soundfont_writer.Zone(np.round(9000 * tone).astype(np.int16), 16000, 69.0)
    presets = [
        *(soundfont_writer.Preset("Tone", 0, n, (zone,)) for n in programs),
        soundfont_writer.Preset("Kit", 128, 0, (zone,)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    return soundfont_writer.write_soundfont(path, path.stem, presets)
