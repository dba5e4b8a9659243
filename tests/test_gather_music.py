"""The program that gathers music: held-out tunes, resuming, licences, what fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile

import pytest

import gather_music
from gather import font_packages
from mt3.errors import DataError
from mt3.midi import note_arrays
from mt3.outputs import midi
from mt3.outputs.transcription import Transcription
from mt3.synthesis import orchestration, soundfont
from tests.support.songs import tune
from tests.support.soundfonts import tiny_font


def write(path, notes):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = Transcription(note_arrays.to_notes(notes), duration=60.0, source="x")
    with path.open("wb") as stream:
        midi.write_midi(result, stream)


@pytest.fixture
def material(tmp_path):
    """Local folders: two tunes to train on, one held out, and its copies."""
    root = tmp_path / "music"
    write(root / "midi" / "test" / "games" / "secret.mid", tune(1))
    write(root / "midi" / "train" / "nott" / "free.mid", tune(2))
    write(root / "midi" / "train" / "other" / "free2.mid", tune(3))
    moved = orchestration.transpose(tune(1), 3)
    moved = orchestration.change_tempo(moved[~moved["is_drum"]], 1.2)
    write(root / "midi" / "train" / "other" / "innocent name.mid", moved)
    (root / "midi" / "train" / "other" / "broken.mid").write_bytes(b"no")
    tiny_font(root / "soundfonts" / "test" / "kept_out.sf2", seed=1)
    tiny_font(root / "soundfonts" / "train" / "Plain.sf2", seed=2)
    copy = root / "soundfonts" / "train" / "renamed.sf2"
    shutil.copy(root / "soundfonts" / "test" / "kept_out.sf2", copy)
    return root


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def gathered(folder, kind):
    return sorted(p.name for p in (folder / kind).rglob("*") if p.is_file())


def test_held_out_tunes_and_soundfonts_are_refused_under_any_name(material, tmp_path):
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--local", str(material), "--offline"]
    assert gather_music.main([*arguments, "--skip", "mma"]) == 0
    assert gathered(out, "midi") == ["free.mid", "free2.mid"]
    assert gathered(out, "soundfonts") == ["Plain.sf2"]
    sources = manifest(out)["sources"]
    assert sources["nott"]["licence"] == "GPL-3"
    assert sources["nott"]["files"] == 1
    assert sources["nott"]["notes"] == 180
    assert "innocent name.mid" in sources["other"]["refused"][0]
    assert "secret.mid" in sources["other"]["refused"][0]
    assert "broken.mid" in sources["other"]["failures"][0]
    assert "held-out" in sources["renamed"]["refused"][0]
    assert manifest(out)["held_out"]["tunes"] == 1


def test_what_is_held_out_later_is_taken_away_again(material, tmp_path):
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--local", str(material), "--offline"]
    arguments += ["--skip", "mma"]
    gather_music.main(arguments)
    kept = (out / "midi" / "nott" / "free.mid").stat().st_mtime_ns
    more = tmp_path / "more.mid"
    write(more, orchestration.transpose(tune(3), -2))
    gather_music.main([*arguments, "--held-out", str(more)])
    assert gathered(out, "midi") == ["free.mid"]
    assert (out / "midi" / "nott" / "free.mid").stat().st_mtime_ns == kept


def test_archives_are_opened_and_a_corpus_is_made(material, tmp_path):
    archive = tmp_path / "midi.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(material / "midi", "midi")
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--local", str(archive), "--offline"]
    arguments += ["--local", str(material / "soundfonts"), "--skip", "mma"]
    made = []

    def synthesize(inputs, **options):
        made.append((inputs, options))
        return dataclasses.make_dataclass("Result", ["failures"])(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather_music.command, "synthesize", synthesize)
        assert gather_music.main([*arguments, "--hours", "2"]) == 0
    assert gathered(out, "midi") == ["free.mid", "free2.mid"]
    ((inputs, options),) = made
    assert inputs == [out / "midi"]
    assert options["hours"] == 2
    assert [path.name for path in options["soundfonts"]] == ["Plain.sf2"]


def test_a_source_that_fails_is_reported_and_tried_again(tmp_path, monkeypatch):
    out = tmp_path / "out"
    skip = [p.name for p in font_packages.FONT_PACKAGES[1:]] + ["music21", "mma"]
    arguments = ["-o", str(out), *(a for name in skip for a in ("--skip", name))]

    def fail(name, folder):
        raise DataError(f"{name}: no network")

    monkeypatch.setattr(font_packages, "download_debian", fail)
    assert gather_music.main(arguments) == 1
    source = manifest(out)["sources"]["timgm6mb-soundfont"]
    assert source["state"] == "failed"
    assert "no network" in source["failures"][0]

    def succeed(name, folder):
        tiny_font(folder / name / "usr" / "TimGM6mb.sf2")
        return folder / name

    monkeypatch.setattr(font_packages, "download_debian", succeed)
    assert gather_music.main(arguments) == 0
    assert gathered(out, "soundfonts") == ["TimGM6mb.sf2"]
    # A call that skips it keeps it.
    again = [*arguments, "--skip", "timgm6mb-soundfont"]
    assert gather_music.main(again) == 0
    assert manifest(out)["sources"]["timgm6mb-soundfont"]["files"] == 1


def test_the_output_may_be_a_relative_folder(material, tmp_path, monkeypatch):
    """Each of these programs runs in a folder of its own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    font = tiny_font(tmp_path / "font.sf2")
    (programs / "apt-get").write_text('#!/bin/sh\necho > "$2_1_all.deb"\n')
    (programs / "dpkg").write_text(
        f'#!/bin/sh\ntest -f "$2" && mkdir "$3" && cp "{font}" "$3/TimGM6mb.sf2"\n'
    )
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    skip = [p.name for p in font_packages.FONT_PACKAGES[1:]] + ["music21", "mma"]
    arguments = ["-o", "gathered", "--local", material.name]
    arguments += (a for name in skip for a in ("--skip", name))
    assert gather_music.main(arguments) == 0
    out = tmp_path / "gathered"
    assert gathered(out, "soundfonts") == ["Plain.sf2", "TimGM6mb.sf2"]
    assert gathered(out, "midi") == ["free.mid", "free2.mid"]


def test_wrong_names_are_explained(tmp_path, capsys):
    assert gather_music.main(["-o", str(tmp_path), "--skip", "frepats"]) == 1
    assert "Did you mean freepats" in capsys.readouterr().err
    assert gather_music.main(["-o", str(tmp_path), "--local", "/no/such"]) == 1
    assert "/no/such" in capsys.readouterr().err
    with pytest.raises(DataError, match="not the name of a package"):
        font_packages.download_debian("../x*", tmp_path / "y")


def test_real_samples_are_moved_to_their_programs_and_licences_listed(
    material, tmp_path, capsys
):
    real = tmp_path / "real"
    tiny_font(real / "cello.sf2", seed=5)
    tiny_font(real / "deep" / "plain.sf2", seed=6)
    shutil.copy(material / "soundfonts" / "test" / "kept_out.sf2", real / "copy.sf2")
    cello = {"programs": {"42": [0, 0]}, "licence": "CC0", "origin": "a friend"}
    (real / "banks.json").write_text(json.dumps({"cello.sf2": cello}))
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--local", str(material), "--offline"]
    arguments += ["--exact", str(real), "--skip", "mma", "--hours", "1"]
    made = []

    def synthesize(inputs, **options):
        made.append(options)
        return dataclasses.make_dataclass("Result", ["failures"])(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather_music.command, "synthesize", synthesize)
        assert gather_music.main(arguments) == 0
    (options,) = made
    assert [path.name for path in options["soundfonts"]] == ["Plain.sf2"]
    names = [path.name for path in options["exact_soundfonts"]]
    assert names == ["cello.sf2", "plain.sf2"]
    found, plain = (
        soundfont.SoundFont(path, exact=True) for path in options["exact_soundfonts"]
    )
    assert [p for p in range(128) if found.can_play(p, False)] == [42]
    # The kit is not named.
    assert not found.kits
    assert plain.can_play(0, False)
    assert plain.kits == (0,)
    assert "held-out" in manifest(out)["sources"]["copy"]["refused"][0]
    licences = (out / "licences.txt").read_text().splitlines()
    assert "exact soundfont cello: CC0; a friend" in licences
    assert any(line.startswith("music nott: GPL-3; ") for line in licences)
    assert not any("copy" in line for line in licences)
    for wrong, message in (
        ({"cello.sf2": {"programs": {"42": [0, 9]}}}, "has no preset [bank, preset]"),
        ({"cello.sf2": {"programs": {"200": [0, 0]}}}, "programs are 0 to 127"),
        ({"cello.sf2": {"programs": {"1": [0, 0], "2": [0, 0]}}}, "named twice"),
        ({"violin.sf2": {}}, "names violin.sf2, which is not there"),
        ([], "expected an object"),
    ):
        (real / "banks.json").write_text(json.dumps(wrong))
        assert gather_music.main([*arguments, "--hours", "0"]) == 1
        assert message in capsys.readouterr().err
    (real / "banks.json").unlink()
    assert gather_music.main([*arguments, "--exact", str(material / "midi")]) == 1
    assert "contains no soundfont" in capsys.readouterr().err
