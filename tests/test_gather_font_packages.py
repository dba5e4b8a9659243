"""Soundfonts from what Debian packages hold."""

from __future__ import annotations

import pytest

from gather import font_packages, sample_sets
from mt3.errors import DataError
from mt3.synthesis import soundfont
from tests.support.soundfonts import tiny_font


def test_packages_become_soundfonts(tmp_path):
    kinds = {package.form: package for package in font_packages.FONT_PACKAGES}
    tiny_font(tmp_path / "plain" / "usr" / "Plain.sf2")
    made = font_packages.make_fonts(kinds["soundfont"], tmp_path / "plain", tmp_path)
    assert [path.name for path in made] == ["Plain.sf2"]
    moved = font_packages.make_fonts(
        kinds["drums"], tmp_path / "plain", tmp_path / "drums"
    )
    font = soundfont.SoundFont(moved[0])
    assert font.kits == (0,)
    assert not font.can_play(0, False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no soundfont"):
        font_packages.make_fonts(kinds["soundfont"], tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match="Gravis"):
        sample_sets.gus_presets(tmp_path / "empty")
