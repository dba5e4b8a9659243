"""Caching with seqio's own program on Beam's local runner, and reading the cache.

The program runs once for all tests, in this process: importing TensorFlow and Beam
takes longer than the work.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import seqio
from absl import flags

from mt3 import tasks, vocabularies
from tests.support import tiny_datasets

DATA_SETS = ("guitarset", "urmp")
FAMILY = "notes_ties_vb1"
TRAIN = tuple(f"{name}_{FAMILY}_train" for name in DATA_SETS)
EVALUATION = f"guitarset_{FAMILY}_validation"
LENGTHS = {"inputs": 64, "targets": 256}
SECONDS = 3.0


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tiny_datasets.write_all(
        tmp_path_factory.mktemp("data"),
        data_sets=DATA_SETS,
        splits=("train", "validation"),
        seconds=SECONDS,
    )


@pytest.fixture(scope="module")
def program():
    """`seqio_cache_tasks` as a function of its arguments."""
    with warnings.catch_warnings():
        # Beam's and Google's libraries speak of their own future.
        warnings.simplefilter("ignore")
        from seqio.scripts import cache_tasks_main

    def run(*arguments):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["seqio_cache_tasks", *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache_tasks_main.main([])

    return run


@pytest.fixture(scope="module")
def cache(data_root, program, tmp_path_factory):
    """The folder with the cached tasks; they are registered with it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MT3_DATA_DIR", str(data_root))
        # As in the fresh process that the program has to itself.
        patch.delitem(sys.modules, "mt3.registered_tasks", raising=False)
        program(
            f"--tasks={','.join([*TRAIN, EVALUATION])}",
            f"--output_cache_dir={folder}",
            "--module_import=mt3.registered_tasks",
            "--pipeline_options=--runner=FnApiRunner",
            "--min_shards=2",
        )
    tasks.register(data_root, cache_dirs=[folder])
    yield folder
    seqio.utils._GLOBAL_CACHE_DIRECTORIES.remove(str(folder))


def examples(name, split, **options):
    """A task's examples, whose order a cache changes, by song and time."""
    ds = seqio.get_mixture_or_task(name).get_dataset(
        LENGTHS, split=split, shuffle=False, seed=0, **options
    )
    found = list(ds.as_numpy_iterator())
    assert found
    return sorted(
        found, key=lambda e: (e["unique_id"].tolist(), e["input_times"].tolist())
    )


@pytest.mark.slow
def test_whole_songs_come_out_as_they_would_uncached(cache):
    cached = examples(EVALUATION, "eval", use_cached=True)
    direct = examples(EVALUATION, "eval", use_cached=False)
    assert len(cached) == len(direct) >= 10
    for one, other in zip(cached, direct, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_training_examples_are_of_the_same_kind(cache, name):
    task = seqio.TaskRegistry.get(name)
    assert task.cache_dir == str(cache / name)
    assert task.get_cached_stats("train")["examples"] == 3

    def kinds(**options):
        found = examples(name, "train", **options)
        assert all(len(e["targets"]) > 1 and e["targets"][-1] == 1 for e in found)
        assert all(e["inputs"].any() for e in found)
        return [
            (e["unique_id"].tolist(), {k: (v.dtype, np.ndim(v)) for k, v in e.items()})
            for e in map(_as_arrays, found)
        ]

    assert kinds(use_cached=True) == kinds(use_cached=False)


def _as_arrays(example):
    return {name: np.asarray(value) for name, value in example.items()}


@pytest.mark.slow
def test_a_mixture_of_data_sets_reads_the_cache(cache, data_root, monkeypatch):
    monkeypatch.setattr(tasks, "MIXTURES", {"mega": DATA_SETS})
    tasks.register(data_root, data_sets=DATA_SETS)
    mixture = seqio.MixtureRegistry.get(f"mega_{FAMILY}_train")
    assert {task.name for task in mixture.tasks} == set(TRAIN)
    # Three songs each, as the cache counts them.
    assert [mixture.get_rate(task) for task in mixture.tasks] == [3**0.3] * 2
    away = data_root / "away"
    (data_root / "datasets").rename(away)
    try:
        ds = mixture.get_dataset(
            LENGTHS, split="train", use_cached=True, shuffle=False, seed=0
        )
        targets = [e["targets"] for e in ds.take(20).as_numpy_iterator()]
    finally:
        away.rename(data_root / "datasets")
        seqio.MixtureRegistry.remove(mixture.name)
    vocabulary = mixture.output_features["targets"].vocabulary
    codec = vocabularies.build_codec(vocabularies.VocabularyConfig(num_velocity_bins=1))
    events = np.concatenate([vocabulary.decode_array(ids)[:-1] for ids in targets])
    programs = codec.values(events[codec.is_type(events, "program")])
    assert set(programs.tolist()) == {24, 40, 42, 73}
