"""Tasks: every registered one reads its data set and gives the notes back."""

from __future__ import annotations

import functools
import json
import logging

import numpy as np
import pytest
import seqio
import tensorflow as tf

import gin
from mt3 import datasets, note_sequences, preprocessors, tasks
from mt3.configs import ModelConfig
from mt3.data import registry, tf_bridge
from mt3.errors import ConfigError, DataError
from mt3.spectrograms import SpectrogramConfig
from mt3.tasks import TaskFamily
from mt3.tokenizer import NoteTokenizer, decode_predictions
from mt3.vocabularies import VocabularyConfig
from tests.support import tiny_datasets

LENGTHS = {"inputs": 256, "targets": 1024}
ONE_BIN = VocabularyConfig(num_velocity_bins=1)
USUAL = SpectrogramConfig()
PUBLIC = [name for name, config in datasets.DATASETS.items() if config.bucket]
SUBSET_SUFFIXES = (
    "train",
    "eval_train_full",
    "eval_train",
    "validation_full",
    "validation",
    "test",
)
SUFFIXES = {
    "maestrov1_notes": SUBSET_SUFFIXES,
    "maestrov3_notes": SUBSET_SUFFIXES,
    "maestrov3_notes_ties_vb1": SUBSET_SUFFIXES,
    "guitarset_notes_ties_vb1": ("train", "eval_train", "validation"),
    "urmp_notes_ties_vb1": ("train", "eval_train", "validation"),
    "musicnet_notes_ties_vb1": ("train", "eval_train", "validation", "test"),
    "musicnet_em_notes_ties_vb1": ("train", "eval_train", "validation", "test"),
    "cerberus4_notes_ties_vb1": SUBSET_SUFFIXES,
    "slakh_notes_ties_vb1": SUBSET_SUFFIXES,
}
MIXTURES = {
    *(f"{family}_eval" for family in SUFFIXES),
    *(
        f"{mega}_notes_ties_vb1_{suffix}"
        for mega in ("mega", "mega_iclr2022")
        for suffix in ("train", "eval", "test")
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_datasets.write_all(tmp_path_factory.mktemp("data"), seconds=3.0)


@pytest.fixture(autouse=True)
def empty_registries(monkeypatch):
    """Each test begins with nothing registered, and leaves nothing behind."""
    monkeypatch.delenv("MT3_DATA_DIR", raising=False)
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
    monkeypatch.setattr(tasks, "_ENVIRONMENT", {})


def examples(name, split, count=-1, **options):
    options = {"shuffle": False, "num_epochs": 1, **options}
    provider = seqio.get_mixture_or_task(name)
    ds = provider.get_dataset(LENGTHS, split=split, **options)
    return list(ds.take(count).as_numpy_iterator())


def notes_of(ids, config):
    """Decodes the ids of one segment, whose start is time 0."""
    tokenizer = NoteTokenizer(config)
    assert ids[-1] == tokenizer.vocabulary.eos_id
    events = tokenizer.predicted_events(ids)
    notes, invalid, dropped = decode_predictions([(0.0, events)], tokenizer)
    assert dropped == 0
    return notes, invalid


def test_the_names_are_the_published_ones(root):
    registered = tasks.register(root, data_sets=PUBLIC)
    expected = {
        f"{family}_{suffix}" for family, found in SUFFIXES.items() for suffix in found
    }
    assert len(expected) == 44
    assert set(seqio.TaskRegistry.names()) == expected
    assert set(seqio.MixtureRegistry.names()) == MIXTURES
    # No data set can take their names; `datasets` checks it.
    assert set(tasks.MIXTURES) == {"mega", "mega_iclr2022"}
    assert set(registered.names) == expected | MIXTURES
    assert len(registered.names) == len(set(registered.names))


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_tiny_songs_have_notes_held_from_segment_to_segment(name):
    for split in datasets.DATASETS[name].splits:
        for song in tiny_datasets.songs(name, split):
            assert any(n.start_time < 2.048 < n.end_time for n in song.notes)


def test_registering_reads_nothing(monkeypatch):
    def fail(*unused):
        raise AssertionError("a file was looked for")

    monkeypatch.setattr(datasets, "_glob", fail)
    registered = tasks.register()
    assert "mega_notes_ties_vb1_train" in registered.names
    # It is in no bucket.
    assert not any(name.startswith("synthetic") for name in registered.names)
    task = seqio.TaskRegistry.get("maestrov3_notes_train")
    # Nor are the public buckets read unasked.
    with pytest.raises(ConfigError, match="no data root is named"):
        task.get_dataset(LENGTHS, split="train")
    tasks.register("gs://")
    task = seqio.TaskRegistry.get("maestrov3_notes_train")
    with pytest.raises(AssertionError, match="looked for"):
        task.get_dataset(LENGTHS, split="train")


@pytest.mark.slow
@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_task_gives_the_notes_of_its_data_set(root, name):
    registered = tasks.register(root, data_sets=[name])
    families = [f"{name}_notes_ties_vb1"] * (name != "maestrov1")
    families += [f"{name}_notes"] * name.startswith("maestro")
    checked = set()
    for family in families:
        full = family.endswith("_notes")
        config = TaskFamily(
            name,
            "notes" if full else "notes_ties",
            VocabularyConfig() if full else ONE_BIN,
        ).model_config()
        for task_name in sorted(seqio.TaskRegistry.names()):
            if task_name.removeprefix(family) == task_name:
                continue
            if family.endswith("notes") and "ties" in task_name:
                continue
            checked.add(task_name)
            task = seqio.TaskRegistry.get(task_name)
            if task_name == f"{family}_train":
                assert set(task.splits) == {"train", "eval"}
                check_training(task, config, registered.data_sets[name])
            else:
                assert set(task.splits) == {"eval"}
                check_evaluation(task, config)
    assert checked == set(seqio.TaskRegistry.names())


def check_training(task, config: ModelConfig, dataset):
    """Checks shapes, and that every example's tokens are its part of the song."""
    found = examples(task.name, "train", seed=0)
    songs = {s.id: s for s in tiny_datasets.songs(dataset.name, "train", seconds=3.0)}
    assert len(found) == len(songs)
    num_notes = 0
    for example in found:
        frames, ids = example["inputs"], example["targets"]
        assert frames.dtype == np.float32
        assert 0 < len(frames) <= 256
        assert frames.shape[1] == config.spectrogram.num_mel_bins
        assert np.isfinite(frames).all()
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        assert "raw_inputs" not in example
        song = next(s for key, s in songs.items() if key in unique_id(example))
        start = float(example["input_times"][0])
        end = start + len(frames) / 125
        notes = note_sequences.trim_overlapping_notes(song.notes)
        found_notes, invalid = notes_of(ids, config)
        assert invalid == 0 or not config.include_ties or start > 0
        # What lies in the segment, but for its edges, where steps are rounded. Drums
        # have no end.
        expected = {
            (
                *key_of(n, config),
                steps(n.start_time),
                not n.is_drum and steps(n.end_time),
            )
            for n in notes
            if start + 0.02 < n.start_time < n.end_time < end - 0.02
        }
        shift = int(start * 100 + 1e-6) / 100
        given = {
            (
                *key_of(n, config),
                steps(n.start_time + shift),
                not n.is_drum and steps(n.end_time + shift),
            )
            for n in found_notes
        }
        assert expected <= given
        num_notes += len(expected)
    assert num_notes >= 4


def steps(seconds):
    return round(seconds * 100)


def key_of(note, config):
    flat = note.is_drum or config.program_granularity == "flat"
    return note.pitch, 0 if flat else note.program, note.is_drum


def unique_id(example):
    assert example["unique_id"].shape == (1,)
    return example["unique_id"][0].decode()


def check_evaluation(task, config: ModelConfig):
    """Checks the segments of all songs of a task's split."""
    found = examples(task.name, "eval")
    data_split = task.source.data_splits["eval"]
    songs = tiny_datasets.songs(task.source.dataset.name, data_split, seconds=3.0)
    # 3 s are 376 frames.
    assert len(found) == 2 * len(songs)
    by_song = {}
    for example in found:
        by_song.setdefault(unique_id(example), []).append(example)
        assert example["targets"].tolist() == [1]
        assert example["inputs"].dtype == np.float32
        assert example["raw_inputs"].shape == (len(example["inputs"]) * 128,)
    assert len(by_song) == len(songs)
    for song in songs:
        (segments,) = (s for key, s in by_song.items() if song.id in key)
        assert [len(s["inputs"]) for s in segments] == [256, 120]
        assert segments[1]["input_times"][0] == pytest.approx(2.048)
        assert segments[1]["sequence"] == b""
        audio = np.concatenate([s["raw_inputs"] for s in segments])
        expected = song.samples()
        assert np.abs(audio[: len(expected)] - expected).max() < 0.05
        postprocessed = task.postprocess_fn(
            np.zeros(0, np.int32), example=segments[0], is_target=True
        )
        check_reference(song.notes, postprocessed["ref_ns"])


def check_reference(expected, found):
    """Compares the notes to be found with a song's, whose times they have."""
    assert len(found) == len(expected)
    for one, other in zip(expected, sorted(found), strict=True):
        assert other.pitch == one.pitch
        assert other.program == one.program
        assert other.is_drum == one.is_drum
        assert other.velocity == one.velocity
        assert other.start_time == pytest.approx(one.start_time, abs=1e-6)
        assert other.end_time == pytest.approx(one.end_time, abs=1e-6)


def test_a_mixture_has_the_features_of_models(root):
    tasks.register(root, shuffle_buffer_size=4)
    mixture = seqio.MixtureRegistry.get("mega_notes_ties_vb1_train")
    assert {task.source.dataset.name for task in mixture.tasks} == set(
        tasks.MIXTURES["mega"]
    )
    found = examples(mixture.name, "train", 6, shuffle=True, seed=5, num_epochs=None)
    assert all(set(example) == {"inputs", "targets"} for example in found)
    assert all(example["targets"][-1] == 1 for example in found)


def test_vocabularies_of_tasks_and_models_agree(root):
    from mt3 import vocabularies

    tasks.register(root, data_sets=["urmp"])
    features = seqio.TaskRegistry.get("urmp_notes_ties_vb1_train").output_features
    codec = vocabularies.build_codec(ONE_BIN)
    model_vocabulary = vocabularies.vocabulary_from_codec(codec)
    assert features["targets"].vocabulary == model_vocabulary
    assert not features["targets"].vocabulary != model_vocabulary  # noqa: SIM202
    assert features["inputs"].vocabulary == seqio.PassThroughVocabulary(size=0)
    assert features["inputs"].rank == 2


def test_mixing_several_examples(root):
    tasks.register(
        root, data_sets=["synthetic"], max_examples_per_mix=3, shuffle_buffer_size=4
    )
    found = examples(
        "synthetic_notes_ties_vb1_train", "train", 8, seed=1, num_epochs=None
    )
    assert {len(e["unique_id"]) for e in found} > {1}
    config = TaskFamily("synthetic", "notes_ties", ONE_BIN).model_config()
    assert not any("raw_inputs" in example for example in found)
    # Some parts hold no note: they begin where the song has ended.
    counts = [len(notes_of(example["targets"], config)[0]) for example in found]
    assert sum(count > 10 for count in counts) >= 4


def test_registering_again_changes_nothing(root):
    first = tasks.register(root)
    before = {name: seqio.TaskRegistry.get(name) for name in seqio.TaskRegistry.names()}
    again = tasks.register(str(root))
    assert again.names == first.names
    for name, task in before.items():
        assert seqio.TaskRegistry.get(name) is task


def test_other_settings_replace_tasks_and_their_mixtures(root, caplog):
    caplog.set_level(logging.INFO, logger="mt3")
    tasks.register(root, data_sets=["guitarset"])
    name = "guitarset_notes_ties_vb1_train"
    before = seqio.TaskRegistry.get(name)
    mixture = seqio.MixtureRegistry.get("guitarset_notes_ties_vb1_eval")
    assert "anew" not in caplog.text
    tasks.register(root, data_sets=["guitarset"], on_too_long="stop")
    assert f"{name}: registered anew" in caplog.text
    assert seqio.TaskRegistry.get(name) is not before
    replaced = seqio.MixtureRegistry.get("guitarset_notes_ties_vb1_eval")
    assert replaced is not mixture
    assert set(replaced.tasks) == {
        seqio.TaskRegistry.get(f"guitarset_notes_ties_vb1_{suffix}")
        for suffix in ("eval_train", "validation")
    }


def test_a_name_of_someone_else_is_not_replaced(root):
    task = seqio.TaskRegistry.add(
        "urmp_notes_ties_vb1_train",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
        output_features={},
    )
    with pytest.raises(ConfigError, match="urmp_notes_ties_vb1_train.*not by mt3"):
        tasks.register(root, data_sets=["urmp"])
    assert seqio.TaskRegistry.get("urmp_notes_ties_vb1_train") is task


def test_mixing_rates_follow_from_hours(root):
    tasks.register(root)
    mixture = seqio.MixtureRegistry.get("mega_notes_ties_vb1_train")
    rates = {t.source.dataset.name: mixture.get_rate(t) for t in mixture.tasks}
    for name, rate in rates.items():
        size = datasets.DATASETS[name].num_chunks("train")
        assert rate == pytest.approx(size**0.3)
    assert rates["slakh"] > rates["maestrov3"] > rates["urmp"]


def test_mixing_rates_of_a_cache_count(root, tmp_path):
    name = "guitarset_notes_ties_vb1_train"
    tasks.register(root, data_sets=["guitarset"], cache_dirs=[tmp_path])
    folder = tmp_path / name
    folder.mkdir()
    (folder / "COMPLETED").write_text("", encoding="utf-8")
    (folder / "stats.train.json").write_text(json.dumps({"examples": 1000}))
    rate = registry.mixing_rate(seqio.TaskRegistry.get(name))
    assert rate == pytest.approx(1000**0.3)


def test_a_data_set_of_unknown_size_is_named(root, tmp_path):
    (tmp_path / "datasets").symlink_to(root / "datasets")
    data = tmp_path / "other" / "datasets" / "synthetic"
    data.mkdir(parents=True)
    tasks.register(tmp_path / "other", data_sets=["synthetic"])
    task = seqio.TaskRegistry.get("synthetic_notes_ties_vb1_train")
    with pytest.raises(ConfigError, match=r"'synthetic' is not known.*dataset\.json"):
        registry.mixing_rate(task)


@pytest.mark.parametrize(
    ("prefix", "settings", "suffix", "expected"),
    [
        ("maestrov1_notes", {}, "train", "maestrov1_notes_train"),
        (
            "mega_notes_ties",
            {"vocab_config": ONE_BIN},
            "eval",
            "mega_notes_ties_vb1_eval",
        ),
        ("slakh_onsets", {}, "test", "slakh_onsets_test"),
        (
            "musicnet_em_notes_ties",
            {"vocab_config": ONE_BIN, "program_granularity": "flat"},
            "train",
            "musicnet_em_notes_ties_vb1_flat_train",
        ),
        (
            "mega_notes_ties",
            {"vocab_config": ONE_BIN, "program_granularity": "midi_class"},
            "train",
            "mega_notes_ties_vb1_midi_class_train",
        ),
        ("urmp_notes", {"program_granularity": "flat"}, None, "urmp_notes"),
        ("urmp_notes", {"program_granularity": "full"}, None, "urmp_notes_full"),
        (
            "urmp_notes_ties",
            {
                "spectrogram_config": SpectrogramConfig(
                    hop_width=256, num_mel_bins=229
                ),
                "vocab_config": VocabularyConfig(steps_per_second=50),
            },
            "train",
            "urmp_notes_ties_hw256mb229_ss50_train",
        ),
    ],
)
def test_names(prefix, settings, suffix, expected):
    assert tasks.construct_task_name(prefix, task_suffix=suffix, **settings) == expected


def test_a_name_brings_its_family_with_it(root):
    registered = tasks.register(root)
    for prefix, granularity, name in (
        ("guitarset_onsets", None, "guitarset_onsets_validation"),
        ("mega_notes_ties", "midi_class", "mega_notes_ties_midi_class_validation"),
        ("guitarset_notes_ties", "flat", "guitarset_notes_ties_flat_validation"),
    ):
        suffix = "eval" if prefix.startswith("mega") else "validation"
        found = tasks.construct_task_name(
            prefix,
            task_suffix=suffix,
            program_granularity=granularity,
            registered=registered,
        )
        assert found == name.replace("validation", suffix)
        assert found in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    (example,) = examples("guitarset_onsets_validation", "eval", 1)
    assert example["inputs"].shape == (256, 512)


def test_granularity_is_part_of_the_tokens(root):
    registered = tasks.register(root, data_sets=["urmp"])
    programs = {}
    for granularity in ("flat", "midi_class", "full"):
        name = tasks.construct_task_name(
            "urmp_notes_ties",
            vocab_config=ONE_BIN,
            task_suffix="train",
            program_granularity=granularity,
            registered=registered,
        )
        config = TaskFamily(
            "urmp", "notes_ties", ONE_BIN, program_granularity=granularity
        ).model_config()
        programs[granularity] = {
            note.program
            for example in examples(name, "train", seed=0)
            for note in notes_of(example["targets"], config)[0]
        }
    assert programs == {"flat": {0}, "midi_class": {40, 72}, "full": {40, 42, 73}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slack_notes_ties", USUAL, ONE_BIN, "train"), "Did you mean slakh"),
        (("urmp_notes_ties", USUAL, ONE_BIN, "test"), "'urmp' has no 'test'"),
        (("urmp_notes_ties", USUAL, ONE_BIN, "validaton"), "vb1_validation"),
        (("urmp_ties", USUAL, ONE_BIN, "train"), "expected a data set and one of"),
        (("urmp_notes", USUAL, ONE_BIN, "train", "fine"), "fine"),
    ],
)
def test_unknown_names_are_explained(root, arguments, message):
    registered = tasks.register(root)
    with pytest.raises(ConfigError, match=message):
        tasks.construct_task_name(*arguments, registered=registered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_sets": ["guitar"]}, "Did you mean guitarset"),
        ({"on_corrupt": "no"}, "on_corrupt"),
        ({"on_too_long": "no"}, "on_too_long"),
        ({"padding": "no"}, "padding"),
        ({"max_examples_per_mix": 0}, "max_examples_per_mix is 0"),
    ],
)
def test_wrong_options_are_explained(root, options, message):
    with pytest.raises(ConfigError, match=message):
        tasks.register(root, **options)


def test_data_roots_that_cannot_be_are_explained(root, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        tasks.register(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="needs a data root"):
        tasks.register(data_sets=["synthetic"])
    tasks.register(tmp_path, data_sets=["urmp"])
    with pytest.raises(DataError, match="has a folder 'datasets'"):
        examples("urmp_notes_ties_vb1_train", "train")


def test_the_environment_names_the_data_root(root, monkeypatch):
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    tasks.register(data_sets=["synthetic"])
    assert len(examples("synthetic_notes_ties_vb1_validation", "eval")) == 4


def test_a_data_set_of_ones_own(root, tmp_path):
    folder = tmp_path / "datasets" / "mine"
    (tmp_path / "datasets").mkdir()
    folder.symlink_to(root / "datasets" / "synthetic")
    with pytest.raises(DataError, match="'synthetic' is taken"):
        tasks.register(tmp_path)
    folder.unlink()
    folder.mkdir()
    manifest = json.loads(
        (root / "datasets" / "synthetic" / "dataset.json").read_text(encoding="utf-8")
    )
    for path in (root / "datasets" / "synthetic").glob("*.tfrecord*"):
        (folder / path.name).symlink_to(path)
    (folder / "dataset.json").write_text(json.dumps({**manifest, "name": "mine"}))
    registered = tasks.register(tmp_path, data_sets=["mine"])
    assert "mine_notes_ties_vb1_eval" in registered.names
    assert len(examples("mine_notes_ties_vb1_train", "train")) == 3
    assert registry.mixing_rate(
        seqio.TaskRegistry.get("mine_notes_ties_vb1_train")
    ) == pytest.approx(3**0.3)


@pytest.mark.parametrize("on_too_long", ["stop", "skip"])
def test_examples_with_too_many_tokens(root, on_too_long, caplog):
    tasks.register(root, data_sets=["cerberus4"], on_too_long=on_too_long)
    task = seqio.TaskRegistry.get("cerberus4_notes_ties_vb1_train")
    read = functools.partial(
        task.get_dataset, {"inputs": 256, "targets": 8}, split="train", shuffle=False
    )
    if on_too_long == "skip":
        # What is left begins where hardly a note sounds.
        assert all(len(example["targets"]) <= 8 for example in read())
        assert "targets with EOS, expected at most 8" in caplog.text
        return
    with pytest.raises(tf.errors.OpError) as error:
        list(read())
    found = tf_bridge.original_error(error.value)
    assert isinstance(found, DataError)
    assert "cerberus4-train-" in str(found)


def test_tasks_never_fill_the_memory(root, monkeypatch):
    tasks.register(root, data_sets=["urmp"])
    task = seqio.TaskRegistry.get("urmp_notes_ties_vb1_train")
    monkeypatch.setattr(task.source, "num_input_examples", lambda split: 3)

    def fail(*unused, **unused_options):
        raise AssertionError("kept in memory")

    monkeypatch.setattr(tf.data.Dataset, "cache", fail)
    task.get_dataset(LENGTHS, split="train", try_in_mem_cache=True)


def test_importing_registers(root, monkeypatch, tmp_path):
    import importlib

    from mt3 import registered_tasks

    seqio.TaskRegistry.reset()
    seqio.MixtureRegistry.reset()
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    monkeypatch.setenv("MT3_TASK_CACHE_DIRS", f"{tmp_path}/a:{tmp_path}/b")
    importlib.reload(registered_tasks)
    assert "mega_notes_ties_vb1_train" in registered_tasks.REGISTERED.names
    assert "synthetic_notes_ties_vb1_train" in seqio.TaskRegistry.names()
    assert seqio.utils.get_global_cache_dirs() == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_prefixes_are_split_at_the_encoding():
    assert tasks.split_prefix("musicnet_em_notes_ties") == (
        "musicnet_em",
        "notes_ties",
    )
    assert tasks.split_prefix("my_notes_notes") == ("my_notes", "notes")
    assert tasks.split_prefix("a_onsets") == ("a", "onsets")


# The original's own names: `construct_task_name` alone, tokenizers of one's own, gin.


def test_a_name_registers_what_it_names_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    for suffix in ("train", "eval"):
        name = tasks.construct_task_name(
            task_prefix="mega_notes_ties", vocab_config=ONE_BIN, task_suffix=suffix
        )
        assert name == f"mega_notes_ties_vb1_{suffix}"
        parts = {task.name for task in seqio.MixtureRegistry.get(name).tasks}
        constant = f"MIXTURE_{suffix.upper()}_TASK_NAMES"
        assert parts == set(getattr(tasks, constant))
    assert len(examples("urmp_notes_ties_vb1_validation", "eval")) == 4
    before = seqio.TaskRegistry.get("urmp_notes_ties_vb1_train")
    tasks.construct_task_name("urmp_notes_ties", USUAL, ONE_BIN, "train")
    assert seqio.TaskRegistry.get("urmp_notes_ties_vb1_train") is before


def test_a_name_follows_the_environment_but_no_explicit_root(
    root, monkeypatch, tmp_path
):
    name = "urmp_notes_ties_vb1_validation"
    arguments = ("urmp_notes_ties", USUAL, ONE_BIN, "validation")
    monkeypatch.setenv("MT3_DATA_DIR", str(tmp_path))
    assert tasks.construct_task_name(*arguments) == name
    with pytest.raises(DataError, match="has a folder 'datasets'"):
        examples(name, "eval")
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    tasks.construct_task_name(*arguments)
    assert len(examples(name, "eval")) == 4
    tasks.register(root, data_sets=["urmp"])
    monkeypatch.setenv("MT3_DATA_DIR", str(tmp_path))
    tasks.construct_task_name(*arguments)
    assert len(examples(name, "eval")) == 4


def test_names_that_no_data_set_has_are_names_all_the_same():
    assert tasks.construct_task_name("a_b", task_suffix="train") == "a_b_train"
    hop = SpectrogramConfig(hop_width=256)
    assert tasks.construct_task_name("a_b", hop, ONE_BIN, "x") == "a_b_hw256_vb1_x"
    assert tasks.construct_task_name("my_notes", task_suffix="x") == "my_notes_x"
    assert tasks.construct_task_name("a_b") == "a_b"
    assert seqio.TaskRegistry.names() == seqio.MixtureRegistry.names() == {}.keys()


def test_gin_bindings_reach_the_tasks(root, monkeypatch):
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    name = tasks.construct_task_name("urmp_notes_ties", USUAL, ONE_BIN, "train")

    def read(binding):
        with gin.unlock_config():
            gin.parse_config(binding)
        try:
            config = TaskFamily("urmp", "notes_ties", ONE_BIN).model_config()
            found = examples(name, "train", 6, seed=0, num_epochs=4)
        finally:
            gin.clear_config()
        notes = [n for e in found for n in notes_of(e["targets"], config)[0]]
        return {n.program for n in notes}, max(len(e["unique_id"]) for e in found)

    full = {40, 42, 73}
    granularity = "preprocessors.map_midi_programs.granularity_type"
    assert read(f"{granularity} = 'midi_class'") == ({40, 72}, 1)
    assert read(f"{granularity} = 'flat'") == ({0}, 1)
    most = "mixing.mix_transcription_examples.max_examples_per_mix"
    assert read(f"{most} = 2") == (full, 2)
    assert read(f"{most} = None") == (full, 1)


def test_a_tokenizer_of_ones_own(root, monkeypatch):
    monkeypatch.setenv("MT3_DATA_DIR", str(root))
    urmp = datasets.URMP_CONFIG
    feature = tf.io.FixedLenFeature([], tf.string)
    several = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
    config = datasets.DatasetConfig(
        name="mine",
        paths={name: str(root / path) for name, path in urmp.paths.items()},
        features={
            **dict.fromkeys(("id", "audio", "sequence"), feature),
            **dict.fromkeys(("inst_names", "instrument_sequences"), several),
        },
        train_split="train",
        train_eval_split="validation",
        infer_eval_splits=[datasets.InferEvalSplit("validation", "validation")],
    )
    tasks.add_transcription_task_to_registry(
        dataset_config=config,
        spectrogram_config=tasks.SPECTROGRAM_CONFIG,
        vocab_config=tasks.VOCAB_CONFIG_NOVELOCITY,
        tokenize_fn=functools.partial(
            preprocessors.tokenize_example_with_program_lookup,
            inst_name_to_program_fn=preprocessors.urmp_instrument_to_program,
            id_feature_key="id",
            stale_end_state=False,
        ),
        onsets_only=False,
        include_ties=True,
    )
    family = "mine_notes_ties_vb1"
    names = {f"{family}_train", f"{family}_validation"}
    assert set(seqio.TaskRegistry.names()) == names
    assert list(seqio.MixtureRegistry.names()) == [f"{family}_eval"]
    mine = examples(f"{family}_train", "train", seed=3)
    tasks.register(root, data_sets=["urmp"])
    theirs = examples("urmp_notes_ties_vb1_train", "train", seed=3)
    assert len(mine) == len(theirs) == 3
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one["targets"], other["targets"])
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
    task = seqio.TaskRegistry.get(f"{family}_validation")
    first, second, *_ = examples(task.name, "eval")
    reference = task.postprocess_fn([], example=first, is_target=True)["ref_ns"]
    (song, _) = tiny_datasets.songs("urmp", "validation", seconds=3.0)
    assert sorted(n.pitch for n in reference.notes) == sorted(
        n.pitch for n in song.notes
    )
    found = task.postprocess_fn([], example=second, is_target=False)
    assert found["start_time"] == np.float32(2.04)
    with pytest.raises(ConfigError, match="onsets_only and include_ties"):
        tasks.add_transcription_task_to_registry(
            config, USUAL, ONE_BIN, preprocessors.tokenize_guitarset_example, True, True
        )


def test_constants():
    assert tasks.MAX_NUM_CACHED_FRAMES == 2000
    assert SpectrogramConfig() == tasks.SPECTROGRAM_CONFIG
    assert tasks.VOCAB_CONFIG_FULL.num_velocity_bins == 127
    assert tasks.VOCAB_CONFIG_NOVELOCITY.num_velocity_bins == 1
    assert pytest.approx(10 / 3) == tasks.MIXING_TEMPERATURE
    assert set(tasks.MIXTURE_DATASET_NAMES) == set(tasks.MIXTURES["mega"])
    assert "urmp_notes_ties_vb1_validation" in tasks.MIXTURE_TEST_TASK_NAMES
    assert "slakh_notes_ties_vb1_test" in tasks.MIXTURE_TEST_TASK_NAMES
