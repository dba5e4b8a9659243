"""What `mt3/audio/browser.html` does in a browser: files and the microphone."""

from __future__ import annotations

import base64
import io
import json
import string

import numpy as np
import pytest
import soundfile

ADDRESS = "http://localhost/lab"
# In place of a microphone: a tone of 440 Hz.
MICROPHONE = """
Object.defineProperty(navigator.mediaDevices, "getUserMedia", {value: async () => {
  const context = new AudioContext(), tone = context.createOscillator();
  const out = context.createMediaStreamDestination();
  tone.connect(out);
  tone.start();
  return out.stream;
}});
"""


@pytest.fixture
def notebook(browser, repository):
    """Returns a function that shows the controls; and what the server was sent."""
    template = (repository / "mt3" / "audio" / "browser.html").read_text("utf-8")
    sent = []
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(MICROPHONE)

    def answer(route):
        request = route.request
        if request.url == ADDRESS:
            route.fulfill(body=shown[0], content_type="text/html")
        elif request.url.endswith("/base/api/sessions"):
            others = {"path": "other.ipynb", "kernel": {"id": "other"}}
            ours = {"path": "my music/song.ipynb", "kernel": {"id": "ours"}}
            route.fulfill(json=[others, ours])
        else:
            sent.append(request)
            route.fulfill(status=shown[1], json={})

    shown = []

    def show(kind, status=201):
        settings = {"kind": kind, "token": "t1", "folder": "takes", "kernel": "ours"}
        controls = string.Template(template).substitute(
            token="t1", settings=json.dumps(settings)
        )
        config = json.dumps({"baseUrl": "/base/"})
        shown[:] = (
            f'<script id="jupyter-config-data" type="application/json">{config}'
            f'</script>{controls}<script>document.cookie = "_xsrf=secret"</script>',
            status,
        )
        page.goto(ADDRESS)
        return page

    page.route("**/*", answer)
    yield show, sent
    context.close()


def content(request):
    body = request.post_data_json
    assert (body["type"], body["format"]) == ("file", "base64")
    return base64.b64decode(body["content"])


def test_a_file_is_stored_in_the_folder_of_the_notebook(notebook, repository):
    show, sent = notebook
    page = show("upload")
    song = repository / "examples" / "piano.flac"
    page.get_by_label("Recording").set_input_files(song)
    page.get_by_text("Stored piano.flac").wait_for()
    (request,) = sent
    assert request.method == "PUT"
    path = "/base/api/contents/my%20music/takes/t1"
    assert request.url == f"http://localhost{path}-{song.stat().st_size}-piano.flac"
    assert request.headers["x-xsrftoken"] == "secret"
    assert content(request) == song.read_bytes()


def test_the_microphone_is_recorded_as_wav(notebook):
    show, sent = notebook
    page = show("record")
    page.get_by_role("button", name="Record").click()
    stop = page.get_by_role("button", name="Stop")
    page.get_by_text("0:01").wait_for()
    stop.click()
    page.get_by_text("Stored recording.wav").wait_for()
    (request,) = sent
    assert request.url.endswith(f"/takes/t1-{len(content(request))}-recording.wav")
    samples, rate = soundfile.read(io.BytesIO(content(request)))
    assert samples.ndim == 1
    assert 0.5 < len(samples) / rate < 10
    middle = samples[len(samples) // 2 :][: rate // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * rate / len(middle) - 440) < 10


def test_what_the_server_refuses_can_be_saved(notebook, repository):
    show, _ = notebook
    page = show("upload", status=413)
    song = repository / "examples" / "piano.flac"
    page.get_by_label("Recording").set_input_files(song)
    page.get_by_text("Jupyter's server answers 413").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save it").click()
    assert download.value.suggested_filename == "piano.flac"
    with open(download.value.path(), "rb") as file:
        assert file.read() == song.read_bytes()
