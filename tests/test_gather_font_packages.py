"""Soundfonts from what Debian packages hold."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

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
    with pytest.raises(DataError, match="contains no soundfont"):
        font_packages.make_fonts(kinds["soundfont"], tmp_path / "empty", tmp_path)
    with pytest.raises(DataError, match="Gravis"):
        sample_sets.gus_presets(tmp_path / "empty")


def program(folder, name, lines):
    path = folder / name
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)


def test_packages_are_downloaded_to_relative_folders(tmp_path, monkeypatch):
    """The programs run in that folder, where its relative path means another one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", 'echo archive > "$2_1_all.deb"\n')
    program(programs, "dpkg", 'test -f "$2" && mkdir "$3" && cp "$2" "$3/file"\n')
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    unpacked = font_packages.download_debian("some-font", Path("a/b"))
    assert unpacked == tmp_path / "a" / "b" / "some-font"
    assert (unpacked / "file").read_text() == "archive\n"
    with zipfile.ZipFile(tmp_path / "made.whl", "w") as wheel:
        wheel.writestr("some/data.txt", "data")
        wheel.writestr("other.txt", "other")

    def run(command, folder, what):
        place = Path(folder, command[command.index("--dest") + 1])
        shutil.copy(tmp_path / "made.whl", place / "some-1.0-py3-none-any.whl")

    monkeypatch.setattr(font_packages, "_run", run)
    unpacked = font_packages.download_wheel("some", Path("c/d"), "some/")
    assert [path.name for path in unpacked.rglob("*.txt")] == ["data.txt"]
