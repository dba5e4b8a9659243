"""Scores that may be used, their conversion, and songs for MMA."""

from __future__ import annotations

from gather import score_sources


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
