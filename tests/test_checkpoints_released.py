"""The released checkpoints as a user meets them: messages, and what a copy holds."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from mt3 import checkpoints, cli, inference
from mt3.checkpoints import released
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError

LOGITS = "target.decoder.logits_dense.kernel"


@pytest.fixture
def copy(golden_data, tmp_path):
    """A folder as `gsutil cp -r` makes it, of the form and not of the size."""
    with tarfile.open(golden_data / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    folder = tmp_path / "here" / "mt3"
    shutil.copytree(next((tmp_path / "unpacked").rglob("checkpoint_0")), folder)
    return folder


def fails(path) -> str:
    """Returns the message with which a path is refused."""
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(checkpoints.resolve(path))
    return str(error.value)


def test_sizes_are_those_of_the_shapes(golden_data):
    golden = json.loads((golden_data / "parameter_shapes.json").read_text())
    assert set(golden) < set(released.RELEASED)
    for name, model in released.RELEASED.items():
        shapes = checkpoints.expected_shapes(model.config)
        assert model.num_arrays == len(shapes)
        assert model.num_parameters == sum(map(math.prod, shapes.values()))
        if name in golden:
            assert shapes == {key: tuple(s) for key, s in golden[name].items()}


def test_settings_are_told_apart():
    known = {name: model.config for name, model in released.RELEASED.items()}
    pair = ["mt3", "ismir2022_small"]
    assert released.same_settings(known["mt3"]) == pair
    assert released.same_settings(known["ismir2022_small"]) == pair
    assert released.same_settings(known["ismir2021"]) == ["ismir2021"]
    assert released.same_settings(known["ismir2022_base"]) == ["ismir2022_base"]
    other = ModelConfig(network={"vocab_size": 1536, "emb_dim": 256})
    assert released.same_settings(other) == []


def test_a_copy_is_described(tmp_path, monkeypatch, capsys):
    """At the released size; zeros take no room."""
    model = released.RELEASED["ismir2021"]
    params = checkpoints.unflatten(
        {
            key: np.zeros(shape, np.float32)
            for key, shape in checkpoints.expected_shapes(model.config).items()
        }
    )
    checkpoints.save_t5x(tmp_path / "ismir2021", params, step=1234)
    monkeypatch.chdir(tmp_path)
    # The name means the copy that is here.
    assert cli.main(["models", "ismir2021", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_settings"] == ["ismir2021"]
    assert found["num_parameters"] == model.num_parameters
    assert (found["format"], found["step"]) == ("t5x", 1234)
    assert found["source"] == str(tmp_path / "ismir2021")
    assert found["config"]["vocabulary"]["num_velocity_bins"] == 127


def test_one_hash_in_every_form(copy, tmp_path, capsys):
    file = tmp_path / "mt3.safetensors"
    again = tmp_path / "again"
    assert cli.main(["models", "--convert", str(copy), str(file)]) == 0
    assert cli.main(["models", "--convert", str(file), str(again)]) == 0
    capsys.readouterr()
    digests = set()
    for path in (copy, file, again):
        assert cli.main(["models", str(path), "--num-heads", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == str(path)
        assert lines[1].endswith("parameters, float32")
        (line,) = [line for line in lines if "parameters' sha256" in line]
        digests.add(line.split()[-1])
    assert len(digests) == 1
    # And another for other weights.
    params = checkpoints.load(file).params
    params["decoder"]["decoder_norm"]["scale"][3] += 1e-3
    config = checkpoints.load(file).config
    other = checkpoints.save_safetensors(tmp_path / "o.safetensors", params, config)
    assert checkpoints.load(other).info["parameters_sha256"] not in digests


def test_transcribing_says_what_the_model_is(copy, tmp_path, monkeypatch, capsys):
    # Decoding itself is tested elsewhere.
    monkeypatch.setattr(inference.InferenceModel, "run", lambda *_: iter(()))
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 16000)
    run = ["transcribe", str(tmp_path / "a.wav"), "--num-heads", "2"]
    run += ["--model", str(copy.parent)]
    # Results name the weights by the same hash.
    digest = inference.InferenceModel(copy, num_heads=2).sha256
    assert cli.main([*run[:-1], str(copy)]) == 0
    told = capsys.readouterr().err
    for text in (
        f"mt3: model {copy}:",
        "T5X checkpoint (msgpack and zarr), step 0, 0.2 million parameters",
        "worked out from its shapes: 1 velocity bin, ties",
        digest,
    ):
        assert text in told
    assert cli.main([*run[:-1], str(copy), "-q"]) == 0
    assert capsys.readouterr().err == ""
    copy.rename(copy.parent / "checkpoint_7")
    copy.with_name("checkpoint_6").mkdir()
    assert cli.main(run) == 0
    assert f"mt3: model {copy.parent}/checkpoint_7:" in capsys.readouterr().err


@pytest.mark.parametrize("name", released.RELEASED)
def test_without_a_copy_the_command_is_told(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = f"gsutil -m cp -r gs://mt3/checkpoints/{name} ."
    (tmp_path / name).mkdir()  # In a source tree there is a folder `mt3`.
    soundfile.write("a.wav", np.zeros(4000), 16000)
    assert cli.main(["transcribe", "a.wav", "--model", name]) == 1
    message = capsys.readouterr().err
    assert command in message
    assert f"--model ./{name}; see {released.PAGE}" in message
    assert command in fails(f"checkpoints/{name}")
    web = f"https://storage.googleapis.com/mt3/checkpoints/{name}"
    assert command in fails(web)
    assert cli.main(["models"]) == 0
    assert f"\n  {name}: " in capsys.readouterr().out


def test_addresses(monkeypatch):
    assert released.PAGE in fails("https://example.com/mt3.zip")

    def offline(self, keys):
        raise CheckpointError(f"{self}: cannot be listed: offline")

    monkeypatch.setattr("mt3.checkpoints.storage.Folder._list", offline)
    message = fails("gs://bucket/other/")
    assert "offline" in message
    assert "gsutil -m cp -r gs://bucket/other/ ." in message
    assert "--model ./other;" in message


def test_a_folder_around_copies(copy, tmp_path):
    for name in ("ismir2021", "with space"):
        shutil.copytree(copy, copy.parent / name)
    (copy.parent / "ismir2021" / "checkpoint").unlink()
    (copy.parent / "songs" / "2021").mkdir(parents=True)
    message = fails(copy.parent)
    assert "3 checkpoints in it; expected one of" in message
    for name in ("ismir2021", "mt3", "with space"):
        assert str(copy.parent / name) in message
    assert "songs" not in message


def test_incomplete_copies(copy):
    chunk = copy / LOGITS / "0.0"
    chunk.rename(copy / LOGITS / "0.0_.gstmp")
    message = fails(copy)
    assert "1 of 51 arrays cannot be read" in message
    assert "decoder/logits_dense/kernel" in message
    assert "1 files are half copied (0.0_.gstmp): copy the folder again" in message
    assert released.PAGE in message
    (copy / "checkpoint").rename(copy / "checkpoint_.gstmp")
    message = fails(copy)
    assert "without its file `checkpoint`: the copy is not complete" in message


def test_archives_and_other_files(copy, tmp_path):
    made = shutil.make_archive(str(tmp_path / "mt3"), "zip", copy)
    assert "a zip archive; expected the folder in it" in fails(made)
    for kind in ("tar", "gztar", "xztar"):
        made = shutil.make_archive(str(tmp_path / "mt3"), kind, copy)
        assert "a packed file; expected the folder in it" in fails(made)
    with zipfile.ZipFile(tmp_path / "mt3.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert "PyTorch's weights" in fails(tmp_path / "mt3.pth")
    (tmp_path / "mt3.bin").write_bytes(b"PK\x05\x06 and nothing else")
    assert "not a safetensors file" in fails(tmp_path / "mt3.bin")


def test_other_sizes(copy):
    """Of another model, or arrays of two models in one folder."""
    for name in ("target.encoder.encoder_norm.scale", LOGITS):
        shutil.rmtree(copy / name)
    message = fails(copy)
    assert "2 of 51 arrays cannot be read" in message
    assert message.count("missing") == 2
