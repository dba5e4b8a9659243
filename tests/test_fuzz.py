"""A few damaged inputs of every kind: the quick part of `python -m tests.fuzz`."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import AudioError, ConfigError
from mt3.options import TranscribeOptions
from mt3.outputs import OutputOptions
from tests.fuzz import mutation
from tests.fuzz.target import (
    Result,
    Target,
    find_targets,
    limited_memory,
    make_input,
    summary,
    try_input,
    try_some,
)

TARGETS = find_targets()
# The others are tried by the tests of their own modules, which import much.
QUICK = [name for name, target in TARGETS.items() if target.quick]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The seeds of a target by its name, made once."""
    made = {}

    def of(target: Target):
        if target.name not in made:
            made[target.name] = target.seeds(tmp_path_factory.mktemp(target.name))
            # Imports and compiles, which no input shall answer for.
            target.run(made[target.name][0])
        return made[target.name]

    return of


@pytest.mark.parametrize("name", QUICK)
def test_damaged_input_gives_our_errors(name, seeds, tmp_path):
    target = TARGETS[name]
    answers = try_some(target, seeds(target), tmp_path, target.quick)
    # Neither is everything refused nor everything read. Errors of a command line are
    # exit codes, those of a request are answers.
    assert len(answers) > 1 or name in ("commands", "http")


@pytest.mark.parametrize("name", QUICK)
def test_inputs_can_be_made_again(name, seeds, tmp_path):
    target = TARGETS[name]
    number = len(seeds(target)) + 1
    folders = tmp_path / "first", tmp_path / "again"
    for folder in folders:
        folder.mkdir()
    first, again = (
        make_input(target, seeds(target), number, 0, folder) for folder in folders
    )
    assert _content(first) == _content(again)


def _content(path):
    if path.is_file():
        return path.read_bytes()
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def _tried(tmp_path, run):
    path = tmp_path / "input"
    path.write_bytes(b"1")
    return try_input(Target("made", lambda folder: [path], run), path)


def _raise(error):
    raise error


def test_errors_of_ours_are_answers_and_all_others_failures(tmp_path):
    assert _tried(tmp_path, lambda path: None) == Result("read")
    assert (
        _tried(tmp_path, lambda path: _raise(AudioError("no"))).answer == "AudioError"
    )
    for error in (ValueError("defect"), SystemExit(3), AssertionError("wrong")):
        result = _tried(tmp_path, lambda path, error=error: _raise(error))
        assert type(error).__name__ in result.failure


def test_memory_that_a_header_asks_for_is_refused(tmp_path):
    result = _tried(tmp_path, lambda path: np.empty(2 << 30, np.uint8))
    assert "MemoryError" in result.failure
    # The limit is gone afterwards, and is not in the way of ordinary input.
    with limited_memory():
        np.empty(8 << 20, np.uint8)
    np.empty(2 << 30, np.uint8)


def test_failures_of_one_cause_are_one(tmp_path):
    here = 'File "/a/mt3/audio/ogg.py", line 7, in f\n  File "/b/x.py", line 9\n'
    assert summary(f"{here}ValueError: 12 of 3") == summary(f"{here}ValueError: 4 of 5")
    assert summary(f"{here}KeyError: 1").startswith("mt3/audio/ogg.py:7: KeyError")


def test_mutations_keep_to_their_generator():
    data = bytes(range(200))
    made = [mutation.mutated(data, random.Random(n), data[::-1]) for n in range(300)]
    assert made == [
        mutation.mutated(data, random.Random(n), data[::-1]) for n in range(300)
    ]
    assert len(set(made)) > 280
    assert mutation.mutated(b"", random.Random(1)) is not None


def test_words_take_the_place_of_numbers_in_text():
    text = b"60,0.5,true\n"
    made = {mutation.mutated(text, random.Random(n), text) for n in range(400)}
    assert any(b"NaN" in each for each in made)
    assert any(b"9" * 5000 in each for each in made)


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@pytest.mark.parametrize("kind", [TranscribeOptions, OutputOptions, CleanupOptions])
def test_any_values_make_options_or_our_error(kind):
    names = [field.name for field in dataclasses.fields(kind)]

    # A number where a list is expected is a defect of the caller's program.
    @settings(max_examples=30)
    @given(st.dictionaries(st.sampled_from(names), NUMBERS, max_size=3))
    def holds(values):
        values.pop("programs", None)
        if not isinstance(values.get("decode"), str):
            values.pop("decode", None)
        with contextlib.suppress(ConfigError):
            made = kind(**values)
            assert dataclasses.replace(made) is not None

    holds()
