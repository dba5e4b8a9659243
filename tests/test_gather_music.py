"""The program that gathers music: held-out tunes, resuming, licences, what fails."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import tarfile

import numpy as np
import pytest

from mt3.errors import DataError
from mt3.midi import library, note_arrays
from mt3.outputs import midi
from mt3.outputs.transcription import Transcription
from mt3.synthesis import (
    font_packages,
    held_out,
    orchestration,
    sample_sets,
    score_sources,
    soundfont,
    soundfont_writer,
)


@pytest.fixture(scope="module")
def gather_music(repository):
    path = repository / "scripts" / "gather_music.py"
    spec = importlib.util.spec_from_file_location("gather_music", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tune(seed, notes=60):
    """A tune of two parts and drums; every seed is another tune."""
    rng = np.random.default_rng(seed)
    parts = []
    for track, (program, low) in enumerate([(0, 60), (33, 36)]):
        part = np.zeros(notes, note_arrays.PART_DTYPE)
        part["start_time"] = np.arange(notes) * 0.25 + 0.5
        part["end_time"] = part["start_time"] + 0.2
        part["pitch"] = low + rng.integers(0, 20, notes)
        part["velocity"], part["program"], part["track"] = 80, program, track
        parts.append(part)
    drums = parts[0].copy()
    drums["pitch"], drums["is_drum"], drums["program"] = 38, True, 0
    return note_arrays.sort(np.concatenate([*parts, drums]))


def write(path, notes):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = Transcription(note_arrays.to_notes(notes), duration=60.0, source="x")
    with path.open("wb") as stream:
        midi.write_midi(result, stream)


def tiny_font(path, seed=0):
    tone = np.sin(2 * np.pi * 440 * np.arange(800) / 16000 + seed)
    zone = soundfont_writer.Zone(np.round(9000 * tone).astype(np.int16), 16000, 69.0)
    presets = [
        soundfont_writer.Preset("Tone", 0, 0, (zone,)),
        soundfont_writer.Preset("Kit", 128, 0, (zone,)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    return soundfont_writer.write_soundfont(path, path.stem, presets)


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


def test_held_out_tunes_and_soundfonts_are_refused_under_any_name(
    gather_music, material, tmp_path
):
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


def test_what_is_held_out_later_is_taken_away_again(gather_music, material, tmp_path):
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


def test_archives_are_opened_and_a_corpus_is_made(gather_music, material, tmp_path):
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


def test_a_source_that_fails_is_reported_and_tried_again(
    gather_music, tmp_path, monkeypatch
):
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


def test_wrong_names_are_explained(gather_music, tmp_path, capsys):
    assert gather_music.main(["-o", str(tmp_path), "--skip", "frepats"]) == 1
    assert "Did you mean freepats" in capsys.readouterr().err
    assert gather_music.main(["-o", str(tmp_path), "--local", "/no/such"]) == 1
    assert "/no/such" in capsys.readouterr().err
    with pytest.raises(DataError, match="not the name of a package"):
        font_packages.download_debian("../x*", tmp_path / "y")


def test_other_tunes_are_not_taken_for_held_out_ones():
    def song(seed):
        return library.Song(f"tune {seed}", tune(seed))

    known = held_out.HeldOut([song(1), song(2)])
    assert len(known) == 2
    assert known.find(song(2)) == "tune 2"
    assert all(known.find(song(seed)) is None for seed in range(3, 20))
    # Scales and tremolos say nothing about a tune; drums alone must be the same.
    scale = tune(5)
    scale["pitch"] = 60 + np.arange(len(scale)) % 12
    assert held_out.HeldOut([library.Song("s", scale)]).find(song(5)) is None
    drums = tune(1)[tune(1)["is_drum"]]
    assert known.find(library.Song("d", drums)) is None
    same = held_out.HeldOut([library.Song("d", drums)])
    assert same.find(library.Song("e", drums)) == "d"


def score(words=""):
    notes = "".join(
        f"<note><pitch><step>{step}</step><octave>4</octave></pitch>"
        "<duration>1</duration><type>quarter</type></note>"
        for step in "CDEF"
    )
    return (
        '<score-partwise version="3.1"><identification>'
        f"<rights>{words}</rights></identification><part-list>"
        '<score-part id="P1"><part-name>x</part-name></score-part></part-list>'
        '<part id="P1"><measure number="1"><attributes><divisions>1</divisions>'
        f"</attributes>{notes}</measure></part></score-partwise>"
    )


def test_only_free_scores_of_composers_long_dead_are_used(tmp_path):
    for name, words in (
        ("bach/free.xml", "Public Domain"),
        ("bach/not.xml", "Non-commercial use only"),
        ("webern/late.xml", ""),
        ("unknown/x.xml", ""),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(score(words))
    used, refused = score_sources.free_scores(tmp_path)
    assert [path.name for path in used] == ["free.xml"]
    reasons = {path.name: reason for path, reason in refused.items()}
    assert "Non-commercial" in reasons["not.xml"]
    assert "1945 is not before 1926" in reasons["late.xml"]
    assert "not known" in reasons["x.xml"]
    later, _ = score_sources.free_scores(tmp_path, died_before=1950)
    assert [path.name for path in later] == ["free.xml", "late.xml"]


def fake_verovio(folder):
    """A stand-in for Verovio that converts, refuses or dies as the score says."""
    folder.mkdir()
    (folder / "verovio.py").write_text(
        "import base64, os\n"
        "LOG_OFF = 0\n"
        "def enableLog(level): pass\n"
        "class toolkit:\n"
        "    def loadData(self, text):\n"
        "        if 'DIE' in text: os._exit(11)\n"
        "        self.text = text\n"
        "        return 'REFUSE' not in text\n"
        "    def renderToMIDI(self):\n"
        "        return base64.b64encode(self.text.encode())\n"
    )
    return folder


def test_a_score_that_brings_the_converter_down_takes_no_other_along(tmp_path):
    root = tmp_path / "scores"
    root.mkdir()
    (root / "a.abc").write_text("%abc\nX:1\nT:one\nX:2\nT:two\n")
    (root / "b.xml").write_text("DIE")
    (root / "c.xml").write_text("good")
    (root / "d.xml").write_text("REFUSE")
    files = sorted(root.iterdir())
    verovio = fake_verovio(tmp_path / "python")
    out = tmp_path / "out"
    count, failures = score_sources.convert_scores(files, root, out, verovio)
    assert count == 2
    assert failures["b.xml"] == "exit code 11"
    assert "could not" in failures["d.xml"]
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a.0000.mid", "a.0001.mid", "c.0000.mid"]
    assert (out / "a.0001.mid").read_text() == "X:2\nT:two\n"


def test_songs_for_mma_have_grooves_and_chords(rng, tmp_path):
    (tmp_path / "x.mma").write_text("  DefGroove Swing  A swing.\nDefGroove Waltz\n")
    grooves = score_sources.grooves_of(tmp_path)
    assert grooves == ["Swing", "Waltz"]
    lines = score_sources.random_song(rng, grooves, bars=8).splitlines()
    assert lines[0].startswith("Tempo ")
    assert lines[-1].startswith("8 ")
    program = tmp_path / "mma"
    program.write_text('#!/bin/sh\ngrep -q Tempo "$3" && cp "$3" "$2"\n')
    program.chmod(0o755)
    out = tmp_path / "songs"
    assert score_sources.make_songs(str(program), tmp_path, out, 3, 0) == (3, {})
    assert len(list(out.iterdir())) == 3
    program.write_text("#!/bin/sh\necho bad chord; exit 1\n")
    count, failures = score_sources.make_songs(str(program), tmp_path, out, 4, 0)
    assert (count, failures) == (3, {"mma_0_00003.mid": "bad chord"})


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
