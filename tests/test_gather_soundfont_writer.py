"""Soundfonts that we write ourselves."""

from __future__ import annotations

import numpy as np
import pytest

from gather.soundfont_writer import Preset, Zone, write_soundfont
from mt3.errors import DataError
from mt3.note_sequences import Note
from mt3.synthesis import soundfont
from tests.support.soundfonts import RATE, peak_hertz, tone


def test_a_written_soundfont_sounds_as_it_was_meant_to(tmp_path):
    looped = Zone(
        tone(440), RATE, root=69.0, keys=(0, 70), loop=(0, 8000), release=0.05
    )
    sharp = Zone(tone(1000), RATE, root=83.2131, keys=(71, 127), loop=(0, 8000))
    once = Zone(tone(700, 0.2), RATE, keys=(38, 38), fixed_pitch=True)
    soft = Zone(tone(300, 0.2), RATE, keys=(36, 36), velocities=(0, 63))
    hard = Zone(tone(600, 0.2), RATE, keys=(36, 36), velocities=(64, 127))
    presets = [
        Preset("Kit", 128, 0, (once, soft, hard)),
        Preset("A very long name of a preset", 0, 5, (looped, sharp)),
    ]
    font = soundfont.SoundFont(write_soundfont(tmp_path / "a.sf2", "Test", presets))
    assert font.kits == (0,)
    assert font.banks(5) == (0,)
    for pitch, hertz in ((57, 220.0), (69, 440.0), (84, 1046.5)):
        audio = font.render([Note(0.0, 1.5, pitch, 100, 5)], seconds=1.9)
        assert peak_hertz(audio[2000:20000]) == pytest.approx(hertz, rel=0.003)
        assert np.abs(audio[int(1.8 * RATE) :]).max() < 0.05 * np.abs(audio).max()
    hit = font.render([Note(0.0, 0.1, 38, 100, is_drum=True)], seconds=0.5)
    assert peak_hertz(hit) == pytest.approx(700, abs=10)
    for velocity, hertz in ((30, 75.0), (100, 150.0)):
        # Played two octaves below its root.
        hit = font.render([Note(0.0, 0.5, 36, velocity, is_drum=True)], seconds=0.5)
        assert peak_hertz(hit) == pytest.approx(hertz, abs=5)


def test_nothing_is_no_soundfont(tmp_path):
    with pytest.raises(DataError, match=r"a\.sf2.*no preset"):
        write_soundfont(tmp_path / "a.sf2", "Test", [Preset("x", 0, 0, ())])
    assert not list(tmp_path.iterdir())
