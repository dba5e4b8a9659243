"""The same recording gives the same notes, whatever it is computed together with.

`benchmarks/determinism.py` asks the same of the default model, on real processors.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from benchmarks import determinism
from mt3 import checkpoints
from mt3.inference import InferenceModel
from mt3.options import TranscribeOptions
from tests.support import tiny_heads

SECONDS = (1.7, 0.3, 2.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights):
    """Two models, and three recordings of different lengths."""
    folder = tmp_path_factory.mktemp("determinism")
    (folder / "tokens.safetensors").symlink_to(tiny_weights)
    params = tiny_heads.make_params()
    checkpoints.save_safetensors(
        folder / "heads.safetensors", params, tiny_heads.CONFIG
    )
    rng = np.random.default_rng(18)
    for number, seconds in enumerate(SECONDS):
        samples = rng.normal(size=int(16000 * seconds)).astype(np.float32) / 4
        soundfile.write(folder / f"{number}.wav", samples, 16000)
    return folder


def options(folder: pathlib.Path, model: str) -> argparse.Namespace:
    files = [str(folder / f"{number}.wav") for number in range(len(SECONDS))]
    path = str(folder / f"{model}.safetensors")
    return determinism.parse_arguments([*files, "--model", path])


@pytest.fixture(scope="module")
def alone(folder):
    """What is heard in each recording alone, with either model."""
    heard = {}
    for model, decode in (("tokens", "greedy"), ("heads", "frames")):
        asked = options(folder, model)
        loaded = InferenceModel(asked.model, TranscribeOptions(decode=decode))
        heard[model] = determinism.transcribed(loaded, asked.files, None, "alone")
    return heard


def assert_equal(found, expected):
    """Asserts equal tokens, notes and numbers, to the last bit."""
    assert found.keys() == expected.keys()
    for name, heard in found.items():
        assert heard.notes
        assert heard.numbers
        assert heard == expected[name], name


@pytest.mark.parametrize("arrangement", ["together", "backwards", "samples"])
def test_frames_do_not_depend_on_what_goes_with_them(folder, alone, arrangement):
    asked = options(folder, "heads")
    model = InferenceModel(asked.model, TranscribeOptions(decode="frames"))
    found = determinism.transcribed(model, asked.files, None, arrangement)
    assert_equal(found, alone["heads"])


@pytest.mark.parametrize(
    ("slots", "arrangement"),
    [(None, "together"), (None, "backwards"), (1, "together"), (5, "samples")],
)
def test_tokens_do_not_depend_on_slots_and_order(folder, alone, slots, arrangement):
    asked = options(folder, "tokens")
    chosen = TranscribeOptions(decode="greedy", num_slots=slots)
    model = InferenceModel(asked.model, chosen)
    found = determinism.transcribed(model, asked.files, None, arrangement)
    expected = dict(alone["tokens"])
    # Other slots mean another program, other company may mean a longer cache: either
    # may change the last bits of scores.
    for name, heard in found.items():
        numbers = expected[name].numbers
        np.testing.assert_allclose(heard.numbers, numbers, atol=1e-4)
        expected[name] = expected[name]._replace(numbers=heard.numbers)
    assert_equal(found, expected)


def test_another_number_of_threads(folder, alone, repository, tmp_path):
    """In a process of its own, since XLA starts its threads once."""
    asked = options(folder, "tokens")
    command = [sys.executable, determinism.__file__, *asked.files]
    command += ["--model", asked.model, "--decode", "greedy"]
    command += ["--arrangements", "alone", "--worker", str(tmp_path)]
    # What XLA takes for the number of processors.
    threads = "2" if os.cpu_count() == 1 else "1"
    environment = {**os.environ, "NPROC": threads}
    subprocess.run(command, check=True, cwd=repository, env=environment)
    found = [
        determinism.Heard(*values)._replace(numbers=numbers.tolist())
        for values, numbers in zip(
            json.loads((tmp_path / "0.json").read_text()),
            np.load(tmp_path / "0.npz").values(),
            strict=True,
        )
    ]
    assert_equal(dict(zip(asked.files, found, strict=True)), alone["tokens"])
