"""TFRecord files: what is read, and what happens to damaged ones."""

from __future__ import annotations

import dataclasses
import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mt3 import datasets
from mt3.data import records, tf_bridge, tfrecords
from mt3.errors import ConfigError, DataError, OutputError
from tests.fuzz import targets_records
from tests.fuzz.target import try_some
from tests.support import record_files, tiny_datasets

# Length, checksum and checksum of the payload.
OVERHEAD = 8 + 4 + 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    names = ("guitarset", "slakh", "urmp")
    return tiny_datasets.write_all(
        tmp_path_factory.mktemp("data"), data_sets=names, seconds=3.0
    )


@pytest.fixture
def copied(root, tmp_path) -> pathlib.Path:
    """URMP's training file, three records, in a data root that may be damaged."""
    target = tmp_path / "datasets" / "urmp" / "train.tfrecord"
    target.parent.mkdir(parents=True)
    target.write_bytes((root / "datasets" / "urmp" / "train.tfrecord").read_bytes())
    return target


def source(root, name="urmp", **options):
    config = datasets.DATASETS[name]
    splits = {"train": "train", "eval": "validation"}
    return records.RecordDataSource(config, splits, root=str(root), **options)


def read(root, name="urmp", split="train", *, shuffle=False, seed=None, **options):
    ds = source(root, name, **options).get_dataset(split, shuffle=shuffle, seed=seed)
    return list(ds.as_numpy_iterator())


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def test_what_tensorflow_writes_is_read(tmp_path, rng):
    payloads = [rng.bytes(size) for size in (0, 1, 5000, 17)]
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for payload in payloads:
            writer.write(payload)
    assert list(record_files.read_records(path)) == payloads
    assert len(tfrecords.scan(path)) == 4


def test_what_is_written_tensorflow_reads(tmp_path, rng):
    payloads = [rng.bytes(size) for size in (3, 0, 70000, 1, 9)]
    path = tmp_path / "sub" / "x.tfrecord"
    with tfrecords.write_records(path) as write:
        for payload in payloads:
            write(payload)
        # It appears at the end.
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["x.tfrecord"]
    found = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    assert list(found) == payloads


def test_nothing_is_left_when_writing_ends_early(tmp_path):
    old = tmp_path / "x.tfrecord"
    old.write_bytes(b"old")

    def write_and_fail():
        with tfrecords.write_records(old) as write:
            write(b"a")
            raise KeyError

    with pytest.raises(KeyError):
        write_and_fail()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    def write(path):
        with tfrecords.write_records(path):
            pass

    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/x"):
        write(tmp_path / "file" / "x")


def test_records_have_the_used_features_and_a_name(root):
    found = read(root, "slakh")
    assert len(found) == tiny_datasets.NUM_SONGS["train"]
    used = {n for n, s in datasets.SLAKH_CONFIG.features.items() if s.used}
    assert "stems" not in used
    for example in found:
        assert set(example) == used | {"record"}
        assert example["mix"].dtype == np.float32
        assert example["mix"].shape == (3 * tiny_datasets.SAMPLE_RATE,)
        assert example["audio_sample_rate"] == tiny_datasets.SAMPLE_RATE
        assert list(example["inst_names"]) == [
            name.encode() for name, _ in tiny_datasets.PARTS["slakh"]
        ]
        path, index = example["record"].decode().split("#")
        payload = list(record_files.read_records(path))[int(index)]
        assert example["track_id"] in payload


def test_order_is_that_of_the_files_unless_shuffled(root):
    names = [example["id"].decode() for example in read(root, "guitarset")]
    assert names == [f"guitarset-train-{index}_mic" for index in (0, 2, 1)]
    orders = {
        tuple(e["id"] for e in read(root, "guitarset", shuffle=True, seed=seed))
        for seed in range(8)
    }
    assert len(orders) > 1
    assert {frozenset(order) for order in orders} == {
        frozenset(name.encode() for name in names)
    }
    again = read(root, "guitarset", shuffle=True, seed=3)
    first = read(root, "guitarset", shuffle=True, seed=3)
    assert [e["id"] for e in first] == [e["id"] for e in again]


def test_readers_share_the_files(root):
    import seqio

    one = source(root, "guitarset")
    parts = [
        one.get_dataset(
            "train", shuffle=False, shard_info=seqio.ShardInfo(index, num_shards=2)
        )
        for index in range(2)
    ]
    names = [[e["id"] for e in part.as_numpy_iterator()] for part in parts]
    assert sorted(map(len, names)) == [1, 2]
    with pytest.raises(DataError, match="2 files cannot be shared by 3 readers"):
        one.get_dataset("train", shard_info=seqio.ShardInfo(0, num_shards=3))


def test_seqio_is_not_told_the_number_of_examples(root):
    # It would keep the songs in memory.
    assert source(root).num_input_examples("train") is None


def test_a_split_that_the_task_does_not_have_is_an_error(root):
    with pytest.raises(ConfigError, match=r"'train', 'eval', not 'test'"):
        source(root).get_dataset("test")


def test_options_are_checked(root):
    with pytest.raises(ConfigError, match="on_corrupt is 'ignore'"):
        source(root, on_corrupt="ignore")


@pytest.mark.parametrize("wrong", ["payload", "parsing"])
def test_a_damaged_payload_costs_one_record(copied, tmp_path, caplog, wrong):
    second = tfrecords.scan(str(copied))[1]
    if wrong == "payload":
        flip(copied, second.offset + 12 + 40)
        problem = "checksum"
    else:
        payloads = list(record_files.read_records(str(copied)))
        payloads[1] = b"no example"
        with tfrecords.write_records(copied) as write:
            for payload in payloads:
                write(payload)
        problem = "not a tf.Example"
    with pytest.raises(tf.errors.OpError) as error:
        read(tmp_path)
    found = tf_bridge.original_error(error.value)
    assert isinstance(found, DataError)
    assert str(copied) in str(found)
    assert problem in str(found)
    if wrong == "payload":
        assert f"record 1 at byte {second.offset}:" in str(found)
        # The length stands as it was.
        assert len(tfrecords.scan(str(copied))) == 3

    caplog.set_level(logging.WARNING, logger="mt3")
    names = [e["id"] for e in read(tmp_path, on_corrupt="skip")]
    assert names == [b"urmp-train-0", b"urmp-train-2"]
    assert any(problem in record.getMessage() for record in caplog.records)


def test_a_damaged_length_costs_the_rest_of_the_file(copied, tmp_path, caplog):
    second = tfrecords.scan(str(copied))[1]
    flip(copied, second.offset + 2)
    with pytest.raises(DataError, match="record 1 at byte .*rest of the file is lost"):
        list(record_files.read_records(str(copied)))
    with pytest.raises(tf.errors.OpError, match="rest of the file is lost"):
        read(tmp_path)
    caplog.set_level(logging.WARNING, logger="mt3")
    assert [e["id"] for e in read(tmp_path, on_corrupt="skip")] == [b"urmp-train-0"]
    assert "rest of the file is lost" in caplog.text


@pytest.mark.parametrize("left", [5, OVERHEAD, 1000])
def test_a_file_that_is_cut_off_is_noticed(copied, left):
    third = tfrecords.scan(str(copied))[2]
    copied.write_bytes(copied.read_bytes()[: third.offset + left])
    with pytest.raises(DataError, match="record 2 at byte .*file ends"):
        list(record_files.read_records(str(copied)))
    kept = tfrecords.scan(str(copied))[:2]
    assert all(tfrecords.read_payload(str(copied), span) for span in kept)


def test_a_file_that_shrinks_after_the_scan_is_noticed(copied):
    last = tfrecords.scan(str(copied))[2]
    copied.write_bytes(copied.read_bytes()[:-1])
    with pytest.raises(DataError, match="ends within the record"):
        tfrecords.read_payload(str(copied), last)


def test_wrong_features_are_listed(root, capfd):
    payload = next(
        record_files.read_records(str(root / "datasets" / "urmp" / "train.tfrecord"))
    )
    features = {
        **datasets.URMP_CONFIG.features,
        "velocity": datasets.FeatureSpec("string"),
        "sequence": datasets.FeatureSpec("float32"),
        "inst_names": datasets.FeatureSpec("string"),
        "unused": datasets.FeatureSpec("string", used=False),
    }
    with pytest.raises(DataError) as error:
        records.parse(payload, features, "file#0")
    text = str(error.value)
    assert text.startswith("file#0: ")
    assert "velocity is missing" in text
    assert "sequence is a bytes_list, expected float_list" in text
    assert "inst_names has 3 values, expected 1" in text
    assert "unused" not in text
    assert "The record has: audio, id, inst_names" in text
    # TensorFlow prints of such records.
    assert capfd.readouterr() == ("", "")


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "x").touch()
    assert len(tfrecords.scan(str(tmp_path / "x"))) == 0
    with pytest.raises(DataError, match="cannot be opened"):
        list(record_files.read_records(str(tmp_path / "y")))


def test_missing_files_are_an_error_before_reading(tmp_path):
    config = dataclasses.replace(datasets.GUITARSET_CONFIG)
    with pytest.raises(DataError, match="no file matches"):
        records.RecordDataSource(
            config, {"train": "train"}, root=str(tmp_path)
        ).get_dataset("train")


def test_damaged_bytes_behind_right_checksums(tmp_path):
    (tmp_path / "seeds").mkdir()
    (target,) = targets_records.TARGETS
    seeds = target.seeds(tmp_path / "seeds")
    answers = try_some(target, seeds, tmp_path, 60)
    assert answers.keys() == {"read", "DataError"}


def test_tensorflow_is_not_asked_about_bytes_that_crash_it(monkeypatch):
    monkeypatch.setattr(tf.io, "parse_single_example", None)
    features = datasets.DATASETS["urmp"].features
    with pytest.raises(DataError, match="x: 3 bytes that are not a tf.Example"):
        records.parse(b"\xff\xfe\xfd", features, "x")
