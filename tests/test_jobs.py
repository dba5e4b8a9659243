"""Which recordings are found, where results go, and what is done already."""

import json
import os
import pathlib
import types

import numpy as np
import pretty_midi
import pytest
import soundfile

from mt3 import cli, files, jobs, outputs
from mt3.audio import formats, reading
from mt3.errors import ConfigError, OutputError

OURS = outputs.Transcription([])


@pytest.fixture
def noise(rng):
    return (0.1 * rng.normal(size=16000)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, noise):
    """A folder with two recordings."""
    path = tmp_path / "in"
    path.mkdir()
    for name in ("a", "b"):
        soundfile.write(path / f"{name}.wav", noise, 16000)
    return path


@pytest.fixture
def transcribe(tiny_weights):
    def run(*arguments):
        model = ["--model", str(tiny_weights), "--grammar"]
        return cli.main(["transcribe", *map(str, arguments), *model])

    return run


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def own_file(path, format):
    """Writes a file as if it were a result of an earlier run."""
    outputs.write_file(OURS, path, format)
    return path.read_bytes()


def names_below(root, found):
    return [pathlib.Path(path).relative_to(root).as_posix() for path in found]


def test_a_folder_is_searched_for_all_formats_and_nothing_hidden(tmp_path):
    wanted = [f"song{suffix}" for suffix in sorted(formats.SUFFIXES)]
    assert {".caf", ".w64", ".aifc", ".mov", ".mkv", ".wv"} < formats.SUFFIXES
    others = ["._song.wav", ".hidden/a.wav", "__MACOSX/._b.wav", "c.txt", "wav"]
    touch(tmp_path, *wanted, *others, "sub/LOUD.WAV")
    found = files.search(tmp_path, formats.SUFFIXES)
    assert names_below(tmp_path, found.files) == [*wanted, "sub/LOUD.WAV"]
    assert not found.problems


def test_the_page_lists_what_is_searched_for(repository):
    page = (repository / "docs" / "transcribe.md").read_text(encoding="utf-8")
    for each in formats.FORMATS:
        reader = "ffmpeg" if each.needs_ffmpeg else "libsndfile"
        assert f"\n| {each.name} | {' '.join(each.suffixes)} | {reader} |\n" in page
    assert page.count("| ffmpeg |") + page.count("| libsndfile |") == len(
        formats.FORMATS
    )


def test_linked_folders_are_entered_once(tmp_path):
    touch(tmp_path, "in/b/x.wav", "elsewhere/y.wav")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "in" / "b")
    (tmp_path / "in" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "in" / "self.wav").symlink_to(tmp_path / "in" / "self.wav")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    found = files.search(tmp_path / "in", {".wav"})
    # Whoever opens the link that leads nowhere says so; nobody waits for a pipe.
    names = names_below(tmp_path / "in", found.files)
    assert names == ["gone.wav", "a/y.wav", "b/x.wav"]
    (problem,) = found.problems
    assert "self.wav: cannot follow this link" in problem


def test_a_folder_that_cannot_be_entered_is_named(
    folder, transcribe, monkeypatch, capsys
):
    (folder / "closed").mkdir()
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert transcribe(folder, "-q") == 1
    message = f"{folder / 'closed'}: cannot enter this folder: Permission denied"
    assert message in capsys.readouterr().err
    assert (folder / "a.mid").exists()
    assert (folder / "b.mid").exists()


def test_places_of_results(tmp_path):
    touch(
        tmp_path,
        *(f"x/{n}" for n in ("a.wav", "a.mp3", "c.notes.wav", "sub/b.v2.flac")),
    )
    (tmp_path / "empty").mkdir()
    inputs = [str(tmp_path / "x"), str(tmp_path / "empty")]
    found, problems = jobs.find_jobs(inputs, "out")
    # Two recordings of one name keep their endings.
    assert [(names_below(tmp_path, [job.source]), job.stem) for job in found] == [
        (["x/a.mp3"], "out/a.mp3"),
        (["x/a.wav"], "out/a.wav"),
        (["x/sub/b.v2.flac"], "out/sub/b.v2"),
    ]
    assert problems == [f"{tmp_path / 'empty'}: found no audio files in this folder"]
    # Beside the recordings; what is named twice is done once.
    inputs = [str(tmp_path / "x" / "sub"), f"{tmp_path}/x/sub/", f"{tmp_path}/./x"]
    found, problems = jobs.find_jobs(inputs, None)
    stems = names_below(tmp_path, [job.stem for job in found])
    assert stems == ["x/sub/b.v2", "x/a.mp3", "x/a.wav"]
    assert not problems


def test_the_root_folder_keeps_its_names(monkeypatch):
    found = files.Found(["/a.wav", "/b/c.wav"], [])
    monkeypatch.setattr(files, "search", lambda *unused: found)
    assert [job.stem for job in jobs.find_jobs(["/"], "out")[0]] == ["out/a", "out/b/c"]


def test_same_place_from_two_folders(tmp_path):
    touch(tmp_path, "x/a.wav", "y/a.wav", "y/b.wav")
    inputs = [str(tmp_path / name) for name in ("x/a.wav", "y/a.wav", "y/b.wav")]
    found, problems = jobs.find_jobs(inputs, "out")
    assert [job.source for job in found] == [inputs[0], inputs[2]]
    (problem,) = problems
    assert problem.startswith(f"{inputs[1]}: its results would overwrite those of ")


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ([""], None, "empty"),
        (["a.wav"], "", "empty"),
        (["a.wav", "b.wav"], "song.mid", "one file for several recordings"),
        (["."], "song.mid", "one file for several recordings"),
        (["a.wav"], __file__, "found a file; expected a folder"),
    ],
)
def test_paths_that_cannot_work(inputs, output, message):
    with pytest.raises(ConfigError, match=message):
        jobs.find_jobs(inputs, output)


def test_a_file_that_is_called_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "live:").mkdir()
    (tmp_path / "live:" / "a.wav").touch()
    (job,), problems = jobs.find_jobs(["live://a.wav"], "out")
    assert (job.source, problems) == (os.path.join("live:", "a.wav"), [])


def test_one_file_to_write(folder, transcribe, tmp_path, capsys):
    source = folder / "a.wav"
    for name, start in (
        ("new/song.MID", b"MThd"),
        ("song.midi", b"MThd"),
        ("song.json", b"{"),
        ("song.xml", b"<?xml"),
        ("song.wav", b"RIFF"),
    ):
        assert transcribe(source, "-o", tmp_path / name) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert sorted(os.listdir(folder)) == ["a.wav", "b.wav"]
    # Other names are those of folders.
    (tmp_path / "old.mid").mkdir()
    for name in ("old.mid", "song.v2"):
        assert transcribe(source, "-o", tmp_path / name) == 0
        assert os.listdir(tmp_path / name) == ["a.mid"]
    capsys.readouterr()
    for listed in ("json", "mid,json"):
        assert transcribe(source, "-o", tmp_path / "x.mid", "--format", listed) == 1
        assert "expected a folder, or no --format" in capsys.readouterr().err
    assert transcribe(source, "-o", tmp_path / "x.mid", "--format", "mid") == 0
    # It may be another recording's.
    assert transcribe(folder / "b.wav", "-o", tmp_path / "x.mid") == 1
    assert "maybe of another recording than" in capsys.readouterr().err
    assert transcribe(folder / "b.wav", "-o", tmp_path / "x.mid", "--overwrite") == 0


def test_the_recording_is_never_replaced(folder, transcribe, capsys):
    source = folder / "a.wav"
    before = source.read_bytes()
    assert transcribe(source, "-o", source, "--overwrite") == 1
    assert "did not write" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_files_of_others_stay(folder, transcribe, capsys, overwrite):
    own = folder / "a.mid"
    pretty_midi.PrettyMIDI().write(str(own))
    before = own.read_bytes()
    assert transcribe(folder, "-q", *overwrite) == 1
    message = f"mt3: error: {own}: found a file that mt3 did not write"
    assert capsys.readouterr().err.startswith(message)
    assert own.read_bytes() == before
    assert (folder / "b.mid").exists()


def test_a_file_that_comes_up_during_the_run_stays(
    folder, transcribe, monkeypatch, capsys
):
    opened = reading.open_audio

    def open_audio(*arguments, **options):
        (folder / "a.mid").write_bytes(b"saved meanwhile")
        return opened(*arguments, **options)

    monkeypatch.setattr(reading, "open_audio", open_audio)
    assert transcribe(folder / "a.wav", "-q") == 1
    assert "a.mid: found a file that mt3 did not write" in capsys.readouterr().err
    assert (folder / "a.mid").read_bytes() == b"saved meanwhile"


def test_only_what_is_missing_is_written(folder, transcribe, capsys):
    first = own_file(folder / "a.mid", "mid")
    second = own_file(folder / "b.mid", "mid")
    own_file(folder / "b.json", "json")
    assert transcribe(folder, "--format", "mid,json") == 0
    assert "1 of 2 done already" in capsys.readouterr().err
    assert (folder / "a.mid").read_bytes() == first
    assert json.loads((folder / "a.json").read_text())["source"] == "a.wav"
    assert json.loads((folder / "b.json").read_text())["source"] == ""
    assert transcribe(folder, "--overwrite", "-q") == 0
    assert (folder / "a.mid").read_bytes() != first
    assert (folder / "b.mid").read_bytes() != second


def test_standard_input(folder, transcribe, monkeypatch, tmp_path, capfdbinary):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def pipe(*arguments):
        with (folder / "a.wav").open("rb") as stream:
            monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=stream))
            return transcribe("-", *arguments)

    assert pipe() == 0
    first = (work / "stdin.mid").read_bytes()
    assert b"stdin" in first
    # It may be another recording, so it is neither done nor replaced unasked.
    assert pipe() == 1
    assert b"stdin.mid: is there already" in capfdbinary.readouterr().err
    assert pipe("--overwrite", "--format", "mid,wav") == 0
    assert sorted(os.listdir(work)) == ["stdin.mid", "stdin.notes.wav"]
    assert pipe("-o", "song.json") == 0
    assert json.loads((work / "song.json").read_text())["source"] == "stdin"
    capfdbinary.readouterr()
    assert pipe("-o", "-", "-q") == 0
    assert capfdbinary.readouterr().out == first


def test_recordings_are_opened_as_they_are_needed(
    tmp_path, transcribe, noise, monkeypatch
):
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", noise[:4000], 16000)
    opened, opened_at_first_result = [], []
    open_audio, write_file = reading.open_audio, outputs.write_file

    def counted(path, **options):
        opened.append(path)
        return open_audio(path, **options)

    def write(*arguments):
        opened_at_first_result.append(len(opened))
        return write_file(*arguments)

    monkeypatch.setattr(reading, "open_audio", counted)
    monkeypatch.setattr(outputs, "write_file", write)
    assert transcribe(tmp_path, "-q", "--slots", "2") == 0
    assert len(opened) == 40
    assert opened_at_first_result[0] < 10


def test_without_a_recording_no_model_is_loaded(folder, capsys):
    (folder / "text.wav").write_text("not audio at all\n" * 9)
    weights = folder / "weights"
    weights.write_text("none at all")
    arguments = ["transcribe", str(folder / "text.wav"), "--model", str(weights)]
    assert cli.main(arguments) == 1
    assert "text.wav" in capsys.readouterr().err


@pytest.mark.parametrize("name", outputs.FORMATS)
def test_results_carry_a_mark(name, tmp_path):
    for source in ("", "ä" * 250 + ".wav"):
        result = outputs.Transcription([], source=source, model="m" * 99)
        (written,) = outputs.write(result, tmp_path / "song", [name])
        assert outputs.is_ours(written.path, name)
        assert outputs.format_of(written.path) == name
    others = [other for other in outputs.FORMATS if other not in (name, "jsonl")]
    assert not any(outputs.is_ours(written.path, other) for other in others)


def test_files_of_others_have_no_mark(tmp_path, noise):
    from PIL import Image

    path = tmp_path / "file"
    pretty_midi.PrettyMIDI().write(str(path))
    assert not outputs.is_ours(path, "mid")
    Image.new("RGB", (9, 9)).save(path, "PNG")
    assert not outputs.is_ours(path, "png")
    soundfile.write(path, noise, 16000, format="WAV")
    assert not outputs.is_ours(path, "wav")
    for text in ('{"format": "other"}\n', "start_time,end_time\n", "<!DOCTYPE html>\n"):
        path.write_text(text)
        assert not any(outputs.is_ours(path, name) for name in outputs.FORMATS)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        assert not outputs.is_ours(other, "mid")


def test_a_folder_in_the_place_of_a_result_is_named(tmp_path):
    (tmp_path / "a.mid").mkdir()
    job = jobs.Job("a.wav", str(tmp_path / "a"))
    with pytest.raises(OutputError, match="did not write"):
        job.missing(["mid"], overwrite=True)
