"""Recordings from a notebook's page: what it is asked for, and what comes back."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import sys
import types

import pytest

from mt3.audio import browser
from mt3.errors import AudioError

KERNEL = "d9a1f6f2-0000-4000-8000-1234567890ab"


@pytest.fixture
def pages(monkeypatch, tmp_path):
    """A notebook in whose folder we are; returns the pages that it has shown."""
    shown = []

    class Handle:
        def update(self, page):
            shown.append(page.data)

    def display(page, display_id):
        assert display_id
        shown.append(page.data)
        return Handle()

    monkeypatch.chdir(tmp_path)
    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr("IPython.display.display", display)
    connection = f"/runtime/kernel-{KERNEL}.json"
    monkeypatch.setattr("ipykernel.connect.get_connection_file", lambda: connection)
    return shown


def settings_of(page):
    return json.loads(re.search(r"const settings = ({.*});", page)[1])


def test_jupyter_stores_the_file_and_the_cell_finds_it(pages, monkeypatch, capsys):
    def store(content):
        # What Jupyter's server does: the file is there while it is written.
        settings = settings_of(pages[0])
        folder = pathlib.Path(settings["folder"])
        (folder / "unrelated-song.wav").write_bytes(b"other")
        (folder / f"{settings['token']}-5-my song.wav").write_bytes(content)

    contents = iter([b"", b"so", b"sound"])
    monkeypatch.setattr(browser.time, "sleep", lambda seconds: store(next(contents)))
    path = browser.upload()
    assert path == pathlib.Path("recordings", "my song.wav")
    assert path.read_bytes() == b"sound"
    settings = settings_of(pages[0])
    assert settings["kind"] == "upload"
    assert settings["kernel"] == KERNEL
    assert f'id="mt3-{settings["token"]}"' in pages[0]
    assert pages[1:] == [""]
    assert capsys.readouterr().out == f"{path}\n"


def test_recordings_replace_earlier_ones(pages, monkeypatch):
    def record(content):
        def store(seconds):
            token = settings_of(pages[-1])["token"]
            pathlib.Path("takes", f"{token}-3-recording.wav").write_bytes(content)

        monkeypatch.setattr(browser.time, "sleep", store)
        return browser.record("takes")

    assert record(b"one").read_bytes() == b"one"
    path = record(b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["recording.wav"]


def test_colab_hands_over_the_content(pages, monkeypatch):
    asked = []

    def eval_js(expression):
        asked.append(expression)
        content = base64.b64encode(b"sound").decode()
        return {"name": "../up/song.mp3", "content": content}

    output = types.SimpleNamespace(eval_js=eval_js)
    colab = types.SimpleNamespace(output=output)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    path = browser.record()
    assert path == pathlib.Path("recordings", "song.mp3")
    assert path.read_bytes() == b"sound"
    settings = settings_of(pages[0])
    assert settings["kernel"] == ""
    assert asked == [f"mt3Recordings['{settings['token']}']"]


def test_interrupting_the_cell_ends_the_wait(pages, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(browser.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        browser.record()


@pytest.mark.parametrize("ask", [browser.upload, browser.record])
def test_outside_a_notebook(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match=f"{ask.__name__}: there is no browser here"):
        ask()
    assert not list(tmp_path.iterdir())


def test_the_page_loads_nothing_and_sends_to_its_own_server_alone(repository):
    page = (repository / "mt3" / "audio" / "browser.html").read_text(encoding="utf-8")
    assert "//" not in re.sub(r"^\s*//.*|;\s+//.*", "", page, flags=re.MULTILINE)
    fetched = re.findall(r"fetch\(([^,)]*)", page)
    assert len(fetched) == 2
    assert all(address.startswith("base + ") for address in fetched)
