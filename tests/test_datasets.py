"""The data sets: their files, what is missing, manifests, sizes."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mt3 import datasets
from mt3.errors import ConfigError, DataError

PUBLIC = {name: c for name, c in datasets.DATASETS.items() if c.bucket}
# Features of the published records, as (type, repeated).
TEXT, INTS, FLOATS = ("string", False), ("int64", True), ("float32", True)
TEXTS = ("string", True)
AUDIO_FILE = {"audio": TEXT, "sequence": TEXT, "id": TEXT}
FLOAT_AUDIO = {
    "id": TEXT,
    "sample_rate": ("float32", False),
    "audio": FLOATS,
    "sequence": TEXT,
}
STEMS = {
    "audio_sample_rate": ("int64", False),
    "inst_names": TEXTS,
    "midi_class": INTS,
    "mix": FLOATS,
    "note_sequences": TEXTS,
    "plugin_name": INTS,
    "program_num": INTS,
    "slakh_class": INTS,
    "src_ids": TEXTS,
    "stems": FLOATS,
    "stems_shape": INTS,
    "target_type": TEXT,
    "track_id": TEXT,
}
FEATURES = {
    "maestrov1": AUDIO_FILE,
    "maestrov3": AUDIO_FILE,
    "guitarset": {**AUDIO_FILE, "velocity_range": TEXT},
    "urmp": {
        **AUDIO_FILE,
        "tracks": INTS,
        "inst_names": TEXTS,
        "instrument_sequences": TEXTS,
    },
    "musicnet": FLOAT_AUDIO,
    "musicnet_em": FLOAT_AUDIO,
    "cerberus4": STEMS,
    "slakh": STEMS,
}
PUBLIC_SHARDS = {
    "datasets/maestro/v1.0.0/maestro-v1.0.0_ns_wav_train.tfrecord": 10,
    "datasets/maestro/v3.0.0/maestro-v3.0.0_ns_wav_test.tfrecord": 25,
    "datasets/guitarset/train.tfrecord": 19,
    "datasets/guitarset/validation.tfrecord": 6,
    "datasets/musicnet/musicnet-train.tfrecord": 36,
    "datasets/musicnet/musicnet-validation.tfrecord": 5,
    "datasets/musicnet/musicnet-test.tfrecord": 3,
    "datasets/musicnet_em/train.tfrecord": 103,
    "datasets/musicnet_em/validation.tfrecord": 5,
    "datasets/musicnet_em/test.tfrecord": 6,
    "datasets/cerberus4/slakh_multi_cerberus_train_bass:drums:guitar:piano.tfrecord": (
        286
    ),
    "datasets/slakh/slakh_multi_full_subsets_10_train_all_inst.tfrecord": 2307,
    "datasets/slakh/slakh_multi_full_validation_all_inst.tfrecord": 168,
    "datasets/slakh/slakh_multi_full_test_all_inst.tfrecord": 109,
}


def touch(root, name, shards, left_out=()):
    """Makes empty shards of a pattern's name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for shard in set(range(shards)) - set(left_out):
        path.with_name(f"{path.name}-{shard:05d}-of-{shards:05d}").touch()


def manifest(**changes):
    return {
        "format": "mt3-dataset",
        "version": 1,
        "name": "mine",
        "splits": {
            "train": {"pattern": "t-?????-of-?????", "num_examples": 3, "seconds": 99},
            "test": {"pattern": "e-?????-of-?????", "num_examples": 1, "seconds": 9.5},
        },
        **changes,
    }


def write_manifest(root, folder, **changes):
    path = root / "datasets" / folder / "dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest(**changes)), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FEATURES)
def test_record_features_are_the_published_ones(name):
    found = datasets.DATASETS[name].features
    assert {k: (s.dtype, s.repeated) for k, s in found.items()} == FEATURES[name]


@pytest.mark.parametrize(("name", "shards"), PUBLIC_SHARDS.items())
def test_the_published_shards_are_a_split_of_some_data_set(tmp_path, name, shards):
    touch(tmp_path, name, shards)
    whole = [
        (config, split)
        for config in PUBLIC.values()
        for split, pattern in config.paths.items()
        if pattern == f"{name}-?????-of-?????"
    ]
    assert len(whole) == 1
    found = datasets.files(*whole[0], str(tmp_path))
    assert len(found) == shards
    assert list(found) == sorted(found)


def test_urmp_is_single_files(tmp_path):
    path = tmp_path / "datasets" / "urmp" / "train.tfrecord"
    path.parent.mkdir(parents=True)
    path.touch()
    found = datasets.files(datasets.URMP_CONFIG, "train", str(tmp_path))
    assert found == (str(path),)


def test_buckets():
    maestro = datasets.pattern(datasets.MAESTROV3_CONFIG, "test")
    assert maestro.startswith("gs://magentadata/datasets/maestro/v3.0.0/")
    for name, config in PUBLIC.items():
        if not name.startswith("maestro"):
            full = datasets.pattern(config, "train")
            assert full.startswith(f"gs://mt3/data/datasets/{name}/")
            assert full == datasets.pattern(config, "train", "gs://")
    assert datasets.choose(None, "gs://") == PUBLIC


def test_nothing_is_read_over_the_network_unasked(monkeypatch):
    monkeypatch.setattr(datasets, "_glob", lambda pattern: [pattern])
    config = datasets.URMP_CONFIG
    with pytest.raises(ConfigError, match=r"no data root .* gs://.* over the network"):
        datasets.files(config, "train")
    (path,) = datasets.files(config, "train", datasets.PUBLIC_ROOT)
    assert path.startswith("gs://mt3/data/")


def test_splits_are_those_that_exist():
    suffixes = {
        name: {split.suffix for split in config.infer_eval_splits}
        for name, config in PUBLIC.items()
    }
    assert suffixes["guitarset"] == suffixes["urmp"] == {"eval_train", "validation"}
    assert suffixes["musicnet"] == {"eval_train", "validation", "test"}
    for name in ("maestrov1", "maestrov3", "cerberus4", "slakh"):
        assert suffixes[name] == {
            "eval_train",
            "eval_train_full",
            "validation",
            "validation_full",
            "test",
        }
    tasks = sum(len(found) + 1 for found in suffixes.values())
    # MAESTRO v3 is registered twice, with ties and without.
    assert tasks + len(suffixes["maestrov3"]) + 1 == 44


def test_whole_splits_and_tests_are_not_in_the_mixture():
    for config in datasets.DATASETS.values():
        for split in config.infer_eval_splits:
            whole = split.suffix == "test" or split.suffix.endswith("_full")
            assert split.include_in_mixture != whole


def test_a_subset_is_a_part_of_its_split(tmp_path):
    for config in PUBLIC.values():
        for split in config.splits:
            if not split.endswith("_subset"):
                continue
            whole = split.removesuffix("_subset")
            name = config.paths[whole].removesuffix("-?????-of-?????")
            touch(tmp_path, name, 120)
            part = datasets.files(config, split, str(tmp_path))
            assert set(part) < set(datasets.files(config, whole, str(tmp_path)))


def test_any_number_of_shards_is_read(tmp_path):
    touch(tmp_path, "datasets/guitarset/train.tfrecord", 3)
    found = datasets.files(datasets.GUITARSET_CONFIG, "train", str(tmp_path))
    assert len(found) == 3


def test_a_folder_name_with_wildcards_is_taken_as_it_is(tmp_path):
    root = tmp_path / "my [data]"
    touch(root, "datasets/guitarset/train.tfrecord", 2)
    assert len(datasets.files(datasets.GUITARSET_CONFIG, "train", str(root))) == 2


def test_missing_shards_are_named(tmp_path):
    touch(tmp_path, "datasets/guitarset/train.tfrecord", 19, left_out=(0, 7, 18))
    with pytest.raises(DataError, match=r"3 of 19 shards.*-00000-of-00019, .*-00007-"):
        datasets.files(datasets.GUITARSET_CONFIG, "train", str(tmp_path))


def test_a_missing_shard_outside_a_subset_does_not_matter_to_it(tmp_path):
    name = "datasets/maestro/v3.0.0/maestro-v3.0.0_ns_wav_validation.tfrecord"
    touch(tmp_path, name, 25, left_out=(20,))
    config = datasets.MAESTROV3_CONFIG
    assert len(datasets.files(config, "validation_subset", str(tmp_path))) == 3
    with pytest.raises(DataError, match="00020-of-00025"):
        datasets.files(config, "validation", str(tmp_path))


def test_shards_of_two_sets_are_not_mixed(tmp_path):
    touch(tmp_path, "datasets/guitarset/train.tfrecord", 2)
    touch(tmp_path, "datasets/guitarset/train.tfrecord", 4)
    with pytest.raises(DataError, match="of-00002, of-00004"):
        datasets.files(datasets.GUITARSET_CONFIG, "train", str(tmp_path))


def test_what_is_missing_of_a_split_is_named(tmp_path):
    touch(tmp_path, "datasets/musicnet/musicnet-train.tfrecord", 4, left_out=(2,))
    touch(tmp_path, "datasets/musicnet/musicnet-test.tfrecord", 1)
    config = datasets.MUSICNET_CONFIG
    with pytest.raises(DataError, match="'train'.*-00002-of-00004"):
        datasets.files(config, "train", str(tmp_path))
    with pytest.raises(DataError, match="'validation'"):
        datasets.files(config, "validation", str(tmp_path))
    assert len(datasets.files(config, "test", str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("folder", "hint"),
    [("nowhere", "does not exist"), ("datasets", "folder above"), ("", "There: urmp")],
)
def test_a_wrong_data_root_is_explained(tmp_path, folder, hint):
    (tmp_path / "datasets" / "urmp").mkdir(parents=True)
    with pytest.raises(DataError, match=hint):
        datasets.files(datasets.GUITARSET_CONFIG, "train", str(tmp_path / folder))


def test_a_folder_that_is_no_data_root_is_explained(tmp_path):
    with pytest.raises(DataError, match="has a folder 'datasets'"):
        datasets.files(datasets.GUITARSET_CONFIG, "train", str(tmp_path))


def test_unknown_names_come_with_near_misses():
    with pytest.raises(ConfigError, match="Did you mean guitarset"):
        datasets.choose(["guitar_set"], None)
    with pytest.raises(ConfigError, match="Did you mean validation"):
        datasets.pattern(datasets.URMP_CONFIG, "valid", "root")


def test_unpublished_data_need_a_root():
    with pytest.raises(ConfigError, match="MT3_DATA_DIR"):
        datasets.pattern(datasets.SYNTHETIC_CONFIG, "train")


def test_resolve_root(monkeypatch, tmp_path):
    monkeypatch.delenv("MT3_DATA_DIR", raising=False)
    assert datasets.resolve_root() is None
    monkeypatch.setenv("MT3_DATA_DIR", "/there")
    assert datasets.resolve_root() == "/there"
    assert datasets.resolve_root(tmp_path) == str(tmp_path)
    assert datasets.resolve_root("gs://mine/data") == "gs://mine/data"


def test_a_split_needs_a_path():
    with pytest.raises(ConfigError, match="split 'training' has no path"):
        dataclasses.replace(datasets.URMP_CONFIG, train_split="training")


def test_chunks_follow_from_hours():
    # 16 s each; a song's last one is half full on average.
    config = dataclasses.replace(
        datasets.URMP_CONFIG, num_examples={"train": 10}, hours={"train": 1.0}
    )
    assert config.num_chunks("train") == 3600 / 16 + 5
    assert config.num_chunks("validation") is None
    short = dataclasses.replace(config, hours={"train": 0.001})
    assert short.num_chunks("train") == 10


def test_the_sizes_are_those_of_the_papers():
    songs = {name: c.num_examples for name, c in PUBLIC.items()}
    assert tuple(songs["maestrov1"].values()) == (954, 105, 125)
    assert tuple(songs["maestrov3"].values()) == (962, 137, 177)
    assert sum(songs["musicnet"].values()) == 330
    assert sum(songs["urmp"].values()) == 44
    hours = {name: sum(c.hours.values()) for name, c in PUBLIC.items()}
    assert hours["maestrov3"] == pytest.approx(198.7, abs=0.2)
    assert hours["musicnet"] == pytest.approx(34, abs=0.1)
    assert hours["urmp"] == pytest.approx(1.3, abs=0.01)
    assert hours["cerberus4"] == pytest.approx(542.6, abs=0.1)
    for config in PUBLIC.values():
        # A song lasts between half a minute and a quarter of an hour.
        for split, count in config.num_examples.items():
            assert 25 < config.hours[split] * 3600 / count < 900


def test_own_data_set(tmp_path):
    write_manifest(tmp_path, "my_folder")
    (config,) = datasets.find_custom(tmp_path).values()
    assert config.name == "mine"
    assert config.adapter == "folder"
    assert config.paths["train"] == "datasets/my_folder/t-?????-of-?????"
    assert config.num_examples == {"train": 3, "test": 1}
    assert config.hours["train"] == pytest.approx(99 / 3600)
    assert config.train_eval_split == "test"
    suffixes = [(s.suffix, s.include_in_mixture) for s in config.infer_eval_splits]
    assert suffixes == [("eval_train", True), ("test", True)]
    assert datasets.available(tmp_path)["mine"] == config


def test_own_data_set_to_be_scored_alone(tmp_path):
    write_manifest(tmp_path, "mine", splits={"solo": {"pattern": "solo.tfrecord"}})
    config = datasets.available(tmp_path)["mine"]
    assert config.train_split is None
    assert config.train_eval_split is None
    assert config.num_chunks("solo") is None


def test_no_root_has_no_own_data_sets():
    assert datasets.find_custom(None) == {}
    assert datasets.find_custom("gs://bucket") == {}


def test_a_manifest_overrides_the_published_sizes(tmp_path):
    write_manifest(tmp_path, "guitarset", name="guitarset")
    config = datasets.available(tmp_path)["guitarset"]
    assert config.num_examples["train"] == 3
    assert config.hours["train"] == pytest.approx(99 / 3600)
    assert config.num_examples["validation"] == 238
    assert config.paths == datasets.GUITARSET_CONFIG.paths
    assert datasets.find_custom(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "other"}, '"format": "mt3-dataset"'),
        ({"version": 2}, "reads version 1"),
        ({"name": "two words"}, "letters, digits"),
        ({"splits": {}}, "no splits"),
        ({"splits": {"train": {}}}, "'pattern' is missing"),
        ({"splits": {"a": {"pattern": "x", "seconds": -1}}}, "seconds is -1"),
        ({"splits": {"a": {"pattern": "x", "num_examples": "3"}}}, "is '3'"),
        ({"splits": {"eval": {"pattern": "x"}}}, "kept for a mixture"),
        ({"name": "slakh"}, "'slakh' is taken"),
        ({"name": "mega"}, "'mega' is taken"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, changes, problem):
    path = write_manifest(tmp_path, "mine", **changes)
    with pytest.raises(DataError, match=problem) as error:
        datasets.find_custom(tmp_path)
    assert str(path) in str(error.value)


def test_a_manifest_that_is_no_json_is_named(tmp_path):
    path = write_manifest(tmp_path, "mine")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read"):
        datasets.available(tmp_path)
