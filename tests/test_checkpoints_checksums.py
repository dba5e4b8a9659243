"""Checksums of training checkpoints, and sizes in headers."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from mt3 import checkpoints
from mt3.checkpoints import checksums
from mt3.checkpoints.storage import Folder
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError, ConfigError

POSITION = {"source": {"batch": 3}, "random_seed": 5}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    return checkpoints.save_t5x(
        tmp_path / "checkpoint_7",
        {"dense": {"kernel": rng.normal(size=(6, 5))}},
        step=7,
        optimizer_state={"dense": {"kernel": {"v_row": rng.normal(size=6)}}},
        data_state=POSITION,
    )


def arrays(folder):
    read = checkpoints.load_t5x(folder, with_state=True)
    tree = {"target": read.params, "states": read.param_states, "step": read.step}
    return checkpoints.flatten(tree)


def test_every_changed_byte_is_found_or_harmless(folder):
    """The index and the metadata of arrays have no checksums of their own."""
    expected = arrays(folder)
    rng = np.random.default_rng(1)
    errors = 0
    for name in ("checkpoint", "target.dense.kernel/.zarray"):
        file = folder / name
        data = file.read_bytes()
        for position in rng.integers(0, len(data), 60):
            changed = bytearray(data)
            changed[position] ^= 1 << rng.integers(8)
            file.write_bytes(bytes(changed))
            try:
                found = arrays(folder)
            except CheckpointError:
                errors += 1
                continue
            assert found.keys() == expected.keys()
            for key, value in found.items():
                np.testing.assert_array_equal(value, expected[key], key)
        file.write_bytes(data)
    assert errors > 60


def test_another_order_of_axes_is_found(folder):
    file = folder / "target.dense.kernel" / ".zarray"
    file.write_text(file.read_text().replace('"order":"C"', '"order":"F"'))
    with pytest.raises(
        CheckpointError, match="target/dense/kernel: checksum .* written"
    ):
        checkpoints.load_t5x(folder)


def test_the_file_itself(folder):
    file = folder / "checksums.json"
    text = file.read_text()
    sums = json.loads(text)["crc32"]
    assert sums.keys() == {
        "target/dense/kernel",
        "state/step",
        "state/param_states/dense/kernel/v_row",
        "data",
    }
    for damaged in ("", "{", "[]", "{}", '{"crc32": 3}', "[" * 5000, "\0"):
        file.write_text(damaged)
        with pytest.raises(CheckpointError, match="checksums is damaged"):
            checkpoints.load_t5x(folder)
    file.write_text(text.replace("target/dense/kernel", "target/dense/kernem"))
    with pytest.raises(CheckpointError, match="2 of 4 checksums") as error:
        checkpoints.load_t5x(folder)
    assert "target/dense/kernem: missing" in str(error.value)
    # As T5X and earlier versions leave it.
    file.unlink()
    assert arrays(folder)["step"] == 7


def test_checksums_depend_on_type_shape_and_every_value():
    value = np.arange(6, dtype=np.float32)
    other = value.copy()
    other[5] = np.nextafter(other[5], 9)
    made = [
        value,
        other,
        value.reshape(2, 3),
        value.view(np.int32),
        value.astype(ml_dtypes.bfloat16),
        np.float32(3),
    ]
    assert len({checksums.of_array(each) for each in made}) == len(made)
    transposed = np.asfortranarray(value.reshape(2, 3))
    assert checksums.of_array(transposed) == checksums.of_array(made[2])
    assert checksums.of_data(POSITION) == checksums.of_data(
        json.loads(json.dumps(POSITION, indent=2))
    )


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ('"shape":[6,5]', '"shape":[100000,100000]'),
        ('"chunks":[6,5]', '"chunks":[131072,131072]'),
        ('"shape":[6,5]', '"shape":[1099511627776,1048576]'),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(text, changed, folder):
    """TensorStore ends the process where it gets none."""
    file = folder / "target.dense.kernel" / ".zarray"
    assert text in file.read_text()
    file.write_text(file.read_text().replace(text, changed))
    index = folder / "checkpoint"
    # The index promises the same.
    tree = serialization.msgpack_restore(index.read_bytes())
    del tree["optimizer"]["target"]["dense"]["kernel"]["metadata"]
    index.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="bytes, more than can be in"):
        checkpoints.load_t5x(folder)


def test_a_folder_that_goes_away_has_no_bytes(tmp_path):
    assert Folder.of(tmp_path / "gone").num_bytes() == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    assert Folder.of(tmp_path).num_bytes() == 3
    # Arrays may be kept elsewhere; a circle of links is none.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "array").symlink_to(tmp_path / "a")
    (tmp_path / "links" / "circle").symlink_to(tmp_path / "links")
    assert Folder.of(tmp_path / "links").num_bytes() == 3


@pytest.mark.parametrize("path", ["..", "a/../..", "/"])
def test_arrays_outside_the_folder_are_refused(path, folder):
    index = folder / "checkpoint"
    tree = serialization.msgpack_restore(index.read_bytes())
    tree["optimizer"]["target"]["dense"]["kernel"] = f"PLACEHOLDER://{path}"
    index.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="folder's name"):
        checkpoints.load_t5x(folder)


def test_an_index_without_parameters(folder):
    index = folder / "checkpoint"
    tree = serialization.msgpack_restore(index.read_bytes())
    tree["optimizer"]["target"] = {}
    (folder / "checksums.json").unlink()
    index.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(CheckpointError, match="names no parameters"):
        checkpoints.load_t5x(folder)


HEADERS = {
    "metadata is a list": {"__metadata__": ["format"]},
    "version is a number": {"__metadata__": {"format": "mt3", "format_version": 1}},
    "version is no digit": {"__metadata__": {"format": "mt3", "format_version": "²"}},
    "tensor is a number": {"a": 3},
    "shape is a text": {"a": {"dtype": "F32", "shape": "ab"}},
    "shape is infinite": {"a": {"dtype": "F32", "shape": [1e400]}},
    "configuration is deep": {"__metadata__": {"model_config": "[" * 100_000}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_safetensors(name, tmp_path):
    good = {
        "format": "mt3",
        "format_version": "1",
        "model_config": "{}",
        "parameters_sha256": "0",
    }
    header = dict(HEADERS[name])
    metadata = header.get("__metadata__", {})
    if isinstance(metadata, dict):
        header["__metadata__"] = good | metadata
    data = json.dumps(header).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(data)) + data)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        checkpoints.load(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs_length": "256"},
        {"inputs_length": 10**9},
        {"context_frames": None},
        {"include_ties": 1},
        {"program_granularity": ["full"]},
        {"padding": 3},
        {"vocabulary": {"steps_per_second": 10**12}},
        {"vocabulary": 3},
        {"spectrogram": {"fft_size": 10**12}},
        {"spectrogram": {"hi_hz": "7600"}},
        {"spectrogram": {"scale": ["mel"]}},
    ],
    ids=str,
)
def test_values_of_a_configuration_that_cannot_be(changes):
    values = {"network": {"vocab_size": 1536}}
    ModelConfig.from_dict(values)
    with pytest.raises(ConfigError, match="configuration|vocabulary|spectrogram"):
        ModelConfig.from_dict(values | changes)
