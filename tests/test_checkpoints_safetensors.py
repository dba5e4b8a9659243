"""The single-file form, conversion to it, and the models of the package."""

from __future__ import annotations

import json
import logging
import os
import struct
import tarfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mt3 import checkpoints
from mt3.checkpoints import safetensors_file
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError, ConfigError, OutputError
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import VocabularyConfig

CONFIG = ModelConfig(
    network={
        "vocab_size": 1664,
        "emb_dim": 8,
        "num_heads": 2,
        "head_dim": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "mlp_dim": 16,
        "mlp_activations": ("gelu", "linear"),
        "input_depth": 24,
    },
    vocabulary=VocabularyConfig(num_velocity_bins=127),
    spectrogram=SpectrogramConfig(num_mel_bins=24),
    include_ties=False,
    program_granularity="midi_class",
    inputs_length=64,
    targets_length=96,
)
INFO = {"name": "tiny", "licence": "CC0", "description": "A test.", "step": 12}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return checkpoints.unflatten(
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in checkpoints.expected_shapes(CONFIG).items()
        }
    )


@pytest.fixture
def file(params, tmp_path):
    path = tmp_path / "tiny.safetensors"
    return checkpoints.save_safetensors(path, params, CONFIG, info=INFO)


def assert_equal(found, expected) -> None:
    found, expected = checkpoints.flatten(found), checkpoints.flatten(expected)
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_file_alone_rebuilds_the_model(file, params):
    model = checkpoints.load(file)
    assert model.config == CONFIG
    assert_equal(model.params, params)
    assert model.info | INFO == model.info
    assert model.info["format"] == "safetensors"
    assert model.info["num_parameters"] == checkpoints.num_parameters(params)
    assert sorted(p.name for p in file.parent.iterdir()) == [file.name]


def test_other_programs_can_read_the_file(file, params):
    assert_equal(checkpoints.unflatten(load_file(file)), params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, params, tmp_path):
    path = tmp_path / "half.safetensors"
    checkpoints.save_safetensors(path, params, CONFIG, dtype=dtype)
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    expected = {
        name: value if value.ndim == 1 else value.astype(kind).astype(np.float32)
        for name, value in checkpoints.flatten(params).items()
    }
    assert_equal(checkpoints.load(path).params, checkpoints.unflatten(expected))
    assert checkpoints.read_header(path).dtypes == (
        ("F16", "F32") if dtype == "float16" else ("BF16", "F32")
    )


def test_values_beyond_float16_are_refused(params, tmp_path):
    params["decoder"]["logits_dense"]["kernel"][3, 4] = 1e6
    path = tmp_path / "half.safetensors"
    with pytest.raises(CheckpointError, match="decoder/logits_dense/kernel"):
        checkpoints.save_safetensors(path, params, CONFIG, dtype="float16")
    with pytest.raises(ConfigError, match="Did you mean float16, bfloat16"):
        checkpoints.save_safetensors(path, params, CONFIG, dtype="float61")
    assert not path.exists()


def test_saving_checks_and_does_not_overwrite(file, params, monkeypatch):
    before = file.read_bytes()
    with pytest.raises(OutputError, match="there already"):
        checkpoints.save_safetensors(file, params, CONFIG)
    broken = dict(params, extra={"kernel": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match="unexpected: extra/kernel"):
        checkpoints.save_safetensors(file, broken, CONFIG, overwrite=True)

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="No space left on device"):
            checkpoints.save_safetensors(file, params, CONFIG, overwrite=True)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    checkpoints.save_safetensors(file, params, CONFIG, overwrite=True)
    assert file.read_bytes() != before  # no provenance this time


def test_a_file_cut_anywhere_is_an_error(file):
    data = file.read_bytes()
    for length in [0, 4, 8, 9, *range(100, len(data), len(data) // 20), len(data) - 1]:
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=file.name):
            checkpoints.load(file)
    file.write_bytes(data + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(file)


def test_every_changed_byte_is_found(file, params):
    """In the parameters by the digest, in the header by one check or another."""
    data = file.read_bytes()
    header_size = struct.unpack("<Q", data[:8])[0]
    rng = np.random.default_rng(0)
    positions = [*range(8), *rng.integers(8 + header_size, len(data), 30)]
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError, match=file.name):
            checkpoints.load(file)
    # In the header a byte may be one of the provenance: never another kind of error.
    for position in rng.integers(8, 8 + header_size, 200):
        changed = bytearray(data)
        changed[position] = rng.integers(256)
        file.write_bytes(bytes(changed))
        message = file.name
        try:
            assert_equal(checkpoints.load(file).params, params)
        except CheckpointError as error:
            message = str(error)
        assert file.name in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "pt"}, "not one of mt3's"),
        ({"format_version": "2"}, "newer mt3"),
        ({"format_version": "x"}, "newer mt3"),
        ({"model_config": None}, "model_config.*missing"),
        ({"model_config": "{"}, "metadata"),
        ({"model_config": "3"}, "JSON objects"),
        ({"model_config": '{"network": {}}'}, "vocab_size is missing"),
        ({"model_config": '{"netwrok": {}}'}, "Did you mean network"),
        ({"model_config": '{"network": {"vocab_size": 1664}}'}, "misshapen: "),
        ({"info": "[]"}, "JSON objects"),
        ({"parameters_sha256": None}, "parameters_sha256.*missing"),
        ({"parameters_sha256": "0"}, "sha256"),
    ],
)
def test_metadata_is_checked(changes, expected, file):
    header = safetensors_file._read_raw_header(file)
    metadata = header["__metadata__"] | changes
    metadata = {key: value for key, value in metadata.items() if value is not None}
    save_file(load_file(file), file, metadata=metadata)
    with pytest.raises(CheckpointError, match=expected) as error:
        checkpoints.load(file)
    assert str(file) in str(error.value)


def test_given_configuration_and_heads(file):
    flat = ModelConfig.from_dict(CONFIG.to_dict() | {"program_granularity": "flat"})
    model = checkpoints.load(file, config=flat)
    assert model.config.program_granularity == "flat"
    assert model.info["config_origin"] == "given"
    with pytest.raises(CheckpointError, match="configuration says 2"):
        checkpoints.load(file, num_heads=1)
    wide = CONFIG.to_dict()
    wide["network"]["mlp_dim"] = 17
    with pytest.raises(CheckpointError, match="expected \\(17, 8\\)"):
        checkpoints.load(file, config=ModelConfig.from_dict(wide))


def test_conversion_from_t5x_and_back(golden_data, tmp_path):
    with tarfile.open(golden_data / "t5x_checkpoint.tar.gz") as tar:
        tar.extractall(tmp_path / "golden", filter="data")
    source = next((tmp_path / "golden").rglob("checkpoint_0"))
    original = checkpoints.load(source, num_heads=2)
    file = checkpoints.convert(
        source, tmp_path / "a.safetensors", num_heads=2, info={"licence": "Apache-2.0"}
    )
    converted = checkpoints.load(file)
    assert converted.config == original.config
    assert converted.info["licence"] == "Apache-2.0"
    assert_equal(converted.params, original.params)
    provenance = checkpoints.read_header(file).info
    assert provenance == {"licence": "Apache-2.0", "source": "checkpoint_0", "step": 0}
    with pytest.raises(OutputError, match="there already"):
        checkpoints.convert(source, file, num_heads=2)
    checkpoints.convert(source, file, num_heads=2, dtype="bfloat16", overwrite=True)
    back = checkpoints.convert(
        tmp_path / "a.safetensors", tmp_path / "run" / "checkpoint_0"
    )
    assert checkpoints.load(back, num_heads=2).info["format"] == "t5x"


@pytest.fixture
def pretrained(params, tmp_path):
    """A folder of two models, the second one the default."""
    folder = tmp_path / "pretrained"
    for name, info in (("big", {}), ("small", {"default": True})):
        checkpoints.save_safetensors(
            folder / f"{name}.safetensors", params, CONFIG, info=INFO | info
        )
    return folder


def test_available_lists_models(pretrained, caplog):
    (pretrained / "broken.safetensors").write_bytes(b"abc")
    (pretrained / "README.md").write_text("model card")
    with caplog.at_level(logging.WARNING):
        small, big = checkpoints.available(pretrained)
    assert "broken.safetensors" in caplog.text
    assert (small.name, small.is_default) == ("small", True)
    assert (big.name, big.is_default) == ("big", False)
    assert big.licence == "CC0"
    assert big.description == "A test."
    assert big.size == big.path.stat().st_size
    shapes = checkpoints.expected_shapes(CONFIG).values()
    assert big.num_parameters == sum(int(np.prod(shape)) for shape in shapes)
    assert len(big.sha256) == 64
    assert big.sha256 != small.sha256
    assert checkpoints.available(pretrained / "nothing") == []


def test_names_are_resolved(pretrained, tmp_path, monkeypatch):
    small = str(pretrained / "small.safetensors")
    assert checkpoints.resolve("small", folder=pretrained) == small
    assert checkpoints.resolve("default", folder=pretrained) == small
    assert checkpoints.resolve(small, folder=pretrained) == small
    url = "gs://bucket/checkpoint_1"
    assert checkpoints.resolve(url, folder=pretrained) == url
    with pytest.raises(CheckpointError, match="Did you mean small"):
        checkpoints.resolve("smal", folder=pretrained)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        checkpoints.resolve("models/smal", folder=pretrained)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert checkpoints.resolve("mine", folder=pretrained) == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "name", ["mt3", "ismir2021", "ismir2022_small", "ismir2022_base"]
)
def test_released_names_say_where_they_live(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # in a source tree there is a folder `mt3`
    assert checkpoints.resolve(f"./{name}", folder=tmp_path) == str(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"gs://mt3/checkpoints/{name}") as error:
        checkpoints.resolve(name, folder=tmp_path)
    assert f"--model ./{name};" in str(error.value)


def test_default_without_a_clear_default(pretrained, params):
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoints.resolve("default", folder=pretrained / "nothing")
    checkpoints.save_safetensors(
        pretrained / "small.safetensors", params, CONFIG, overwrite=True
    )
    with pytest.raises(CheckpointError, match="none of big, small is marked"):
        checkpoints.resolve("default", folder=pretrained)
    assert not any(e.is_default for e in checkpoints.available(pretrained))
    (pretrained / "small.safetensors").unlink()
    big = pretrained / "big.safetensors"
    assert checkpoints.resolve("default", folder=pretrained) == str(big)
    assert [e.is_default for e in checkpoints.available(pretrained)] == [True]


def test_header_text_is_plain_json(file):
    """What the documentation of the format says, read without the library."""
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    metadata = header["__metadata__"]
    assert metadata["format"] == "mt3"
    assert metadata["format_version"] == "1"
    assert json.loads(metadata["model_config"])["inputs_length"] == 64
    assert json.loads(metadata["info"]) == INFO
