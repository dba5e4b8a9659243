"""The algorithm on docs/how-it-works.md is what the program computes."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
from PIL import Image

from mt3 import inference
from mt3.beyond.cleanup import CleanupOptions

# Long enough that segments end by themselves, and short enough for a test.
MAX_LENGTH = 48


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "how-it-works.md").read_text(encoding="utf-8")


def test_the_plain_loop_equals_the_program(page, repository, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(code.splitlines()) < 70
    names: dict = {}
    exec(compile(code, "how-it-works.md", "exec"), names)
    recording = repository / "examples" / "piano.flac"
    ids, notes = names["transcribe"](recording, max_length=MAX_LENGTH)

    options = inference.TranscribeOptions(
        decode="greedy",
        grammar=False,
        details=False,
        cleanup=CleanupOptions(),
        max_length=MAX_LENGTH,
        num_slots=4,
    )
    model = inference.InferenceModel("default", options)
    found = {}

    def run(segments, decode=model._decoder.run):
        for result in decode(segments):
            found[result.key] = result.ids
            yield result

    monkeypatch.setattr(model._decoder, "run", run)
    assert sorted(model(recording)) == sorted(notes)
    assert len(found) == len(ids) == 5
    for number, row in enumerate(ids):
        np.testing.assert_array_equal(found[0, number], row)
    lengths = [len(row) for row in ids]
    assert min(lengths) < max(lengths) == MAX_LENGTH
    assert len(notes) > 30


def test_the_picture_can_be_drawn_again(page, repository, tmp_path):
    (name,) = re.findall(r"!\[.*?\]\((.*?)\)", page)
    spec = importlib.util.spec_from_file_location(
        "how_it_works", repository / "docs" / "how_it_works.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path / "new.png")
    pictures = []
    for path in (repository / "docs" / name, tmp_path / "new.png"):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("L"), np.float32))
    # Fonts may differ by Pillow's release; what is drawn must not.
    assert pictures[0].shape == pictures[1].shape == (900, 1600)
    assert np.abs(pictures[0] - pictures[1]).mean() < 3
    assert pictures[1].std() > 20
