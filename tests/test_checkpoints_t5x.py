"""T5X checkpoints of both forms: reading, damage, writing."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from mt3 import checkpoints
from mt3.checkpoints import layout, storage
from mt3.errors import CheckpointError, OutputError

DATA = Path(__file__).parent / "golden" / "data"
LOGITS = "target.decoder.logits_dense.kernel"


def unpack(name: str, folder: Path) -> Path:
    archive = DATA / name
    assert archive.stat().st_size > 1000, f"golden file {archive} is empty"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def find(folder: Path, name: str) -> Path:
    return next(p for p in sorted(folder.rglob(name)) if p.is_dir())


@pytest.fixture
def t5x_folder(tmp_path):
    """The golden checkpoint of the released form."""
    return find(unpack("t5x_checkpoint.tar.gz", tmp_path / "t5x"), "checkpoint_0")


@pytest.fixture
def orbax_folder(tmp_path):
    """The golden checkpoint of the present form."""
    return find(
        unpack("t5x_orbax_checkpoint.tar.gz", tmp_path / "orbax"), "checkpoint_4"
    )


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (
            p.stat().st_mtime_ns,
            p.read_bytes() if p.is_file() else b"",
        )
        for p in sorted(folder.rglob("*"))
    }


def rewrite_index(folder: Path, change) -> None:
    """Rewrites the index with `change` applied to its tree."""
    file = folder / "checkpoint"
    index = serialization.msgpack_restore(file.read_bytes())
    file.write_bytes(serialization.msgpack_serialize(change(index), in_place=True))


def test_reads_the_golden_checkpoint_and_writes_nothing(t5x_folder):
    before = snapshot(t5x_folder.parent)
    read = checkpoints.load_t5x(t5x_folder)
    assert snapshot(t5x_folder.parent) == before
    assert read.step == 0
    assert read.param_states is None
    flat = checkpoints.flatten(read.params)
    assert len(flat) == 51
    assert all(value.dtype == np.float32 for value in flat.values())
    names = {p.name for p in t5x_folder.iterdir() if p.name.startswith("target.")}
    assert {"target." + name.replace("/", ".") for name in flat} == names
    # Initialised norm scales are near 1, kernels near 0 and not constant.
    assert abs(flat["decoder/decoder_norm/scale"].mean() - 1) < 0.5
    assert flat["decoder/logits_dense/kernel"].std() > 0.01


def test_reads_the_optimizer_state(t5x_folder):
    read = checkpoints.load_t5x(t5x_folder, with_state=True)
    flat = checkpoints.flatten(read.params)
    states = checkpoints.flatten(read.param_states)
    assert {name.rsplit("/", 1)[0] for name in states} == set(flat)
    for name, value in flat.items():
        assert states[f"{name}/v"].shape == value.shape
        for unused in ("m", "v_row", "v_col"):
            assert states[f"{name}/{unused}"].shape == (1,)


def test_reads_the_orbax_form(orbax_folder):
    expected = json.loads((DATA / "t5x_orbax_parameters.json").read_text())
    assert expected
    before = snapshot(orbax_folder)
    read = checkpoints.load_t5x(orbax_folder, with_state=True)
    assert snapshot(orbax_folder) == before
    assert read.step == 4
    flat = checkpoints.flatten(read.params)
    assert set(flat) == set(expected)
    for name, value in flat.items():
        assert list(value.shape) == expected[name]["shape"]
        norm = np.linalg.norm(value.astype(np.float64))
        assert norm == pytest.approx(expected[name]["l2"], rel=1e-6), name
    states = checkpoints.flatten(read.param_states)
    assert all(np.isfinite(value).all() for value in states.values())
    assert states["decoder/logits_dense/kernel/v"].any()


@pytest.mark.parametrize("form", ["t5x_folder", "orbax_folder"])
def test_a_url_reads_as_the_folder_does(form, request):
    folder = request.getfixturevalue(form)
    local = checkpoints.load(folder)
    remote = checkpoints.load(f"file://{folder}/")
    assert remote.config == local.config
    assert remote.info["step"] == local.info["step"]
    for name, value in checkpoints.flatten(local.params).items():
        np.testing.assert_array_equal(value, checkpoints.flatten(remote.params)[name])


def test_arrays_are_found_beside_the_index_wherever_it_was_written(t5x_folder):
    expected = checkpoints.flatten(checkpoints.load_t5x(t5x_folder).params)

    def change(index):
        index["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"] = {
            "driver": "zarr",
            "dtype": "float32",
            "kvstore": {"driver": "gcs", "bucket": "gone"},
            "path": f"models/checkpoint_0/{LOGITS}",
        }
        index["optimizer"]["target"]["decoder"]["decoder_norm"]["scale"] = (
            "PLACEHOLDER://target.decoder.decoder_norm.scale"
        )
        index["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"] = expected[
            "encoder/encoder_norm/scale"
        ]
        return index

    rewrite_index(t5x_folder, change)
    found = checkpoints.flatten(checkpoints.load_t5x(t5x_folder).params)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_stored_bfloat16_becomes_float32(t5x_folder):
    params = checkpoints.load_t5x(t5x_folder).params
    half = params["decoder"]["logits_dense"]["kernel"].astype(ml_dtypes.bfloat16)
    storage.write_array(t5x_folder, "half", half).result()

    def change(index):
        target = index["optimizer"]["target"]
        target["decoder"]["logits_dense"]["kernel"] = "PLACEHOLDER://half"
        return index

    rewrite_index(t5x_folder, change)
    found = checkpoints.load_t5x(t5x_folder).params["decoder"]["logits_dense"]["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half.astype(np.float32))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


DAMAGES = {
    "index cut short": (
        lambda f: cut_in_half(f / "checkpoint"),
        ["/checkpoint", "cut short or damaged"],
    ),
    "index empty": (
        lambda f: (f / "checkpoint").write_bytes(b""),
        ["/checkpoint", "damaged"],
    ),
    "index of garbage": (
        lambda f: (f / "checkpoint").write_bytes(b"\x93\xc1garbage" * 99),
        ["/checkpoint"],
    ),
    "index of another thing": (
        lambda f: (f / "checkpoint").write_bytes(
            serialization.msgpack_serialize({"weights": 3})
        ),
        ["optimizer/target", "found: weights"],
    ),
    "index is a number": (
        lambda f: (f / "checkpoint").write_bytes(b"\x07"),
        ["optimizer/target"],
    ),
    "array folder gone": (
        lambda f: [p.unlink() for p in (f / LOGITS).iterdir()] and (f / LOGITS).rmdir(),
        ["1 of", "decoder/logits_dense/kernel", "missing"],
    ),
    "array metadata garbage": (
        lambda f: (f / LOGITS / ".zarray").write_text("{"),
        ["decoder/logits_dense/kernel", "Invalid JSON"],
    ),
    "chunk gone": (
        lambda f: (f / LOGITS / "0.0").unlink(),
        ["decoder/logits_dense/kernel", "is missing"],
    ),
    "chunk cut short": (
        lambda f: cut_in_half(f / LOGITS / "0.0"),
        ["decoder/logits_dense/kernel", "truncated"],
    ),
    "chunk empty": (
        lambda f: (f / LOGITS / "0.0").write_bytes(b""),
        ["decoder/logits_dense/kernel"],
    ),
    "chunk with a flipped byte": (
        lambda f: flip_a_byte(f / LOGITS / "0.0"),
        ["decoder/logits_dense/kernel"],
    ),
    "array of another shape than the index says": (
        lambda f: (f / LOGITS / ".zarray").write_text(
            (f / LOGITS / ".zarray").read_text().replace("[32,1536]", "[32,1408]")
        ),
        ["decoder/logits_dense/kernel", "(32, 1408)", "(32, 1536)"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage, t5x_folder):
    apply, expected = DAMAGES[damage]
    apply(t5x_folder)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(t5x_folder)
    assert str(t5x_folder) in str(error.value)
    for text in expected:
        assert text in str(error.value)


def test_an_index_cut_anywhere_is_an_error(t5x_folder):
    file = t5x_folder / "checkpoint"
    data = file.read_bytes()
    for length in range(0, len(data), len(data) // 40):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="checkpoint"):
            checkpoints.load(t5x_folder)


def test_all_damaged_arrays_are_listed(t5x_folder):
    scales = sorted(t5x_folder.glob("target.*.scale"))
    for folder in scales:
        (folder / "0").unlink()
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(t5x_folder)
    message = str(error.value)
    assert f"{len(scales)} of " in message
    for folder in scales:
        name = folder.name.removeprefix("target.").replace(".", "/")
        assert name in message


def test_damage_to_the_orbax_form_is_an_error_or_harmless(orbax_folder):
    """Removes and cuts every file in turn: an error of ours, or the same result."""
    expected = checkpoints.flatten(checkpoints.load_t5x(orbax_folder).params)
    errors = 0
    for file in sorted(p for p in orbax_folder.rglob("*") if p.is_file()):
        data = file.read_bytes()
        for damaged in (None, data[: len(data) // 2], b"garbage"):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            try:
                found = checkpoints.flatten(checkpoints.load(orbax_folder).params)
            except CheckpointError:
                errors += 1
            else:
                assert set(found) == set(expected)
                for name in expected:
                    np.testing.assert_array_equal(found[name], expected[name])
            file.write_bytes(data)
    # The manifest, the database's index and the file with the values, at least.
    assert errors >= 9


def test_written_checkpoint_equals_the_golden_one(t5x_folder, tmp_path):
    """Same names, same metadata, same index bytes, equal arrays."""
    read = checkpoints.load_t5x(t5x_folder, with_state=True)
    written = checkpoints.save_t5x(
        tmp_path / "run" / "checkpoint_0",
        read.params,
        step=read.step,
        optimizer_state=read.param_states,
    )
    golden, own = snapshot(t5x_folder), snapshot(written)
    assert set(own) - set(golden) == {"checksums.json"}
    assert set(golden) <= set(own)
    for name, (_, data) in golden.items():
        if name.endswith(".zarray"):
            assert json.loads(own[name][1]) == json.loads(data), name
    assert own["checkpoint"][1] == golden["checkpoint"][1]
    again = checkpoints.load_t5x(written, with_state=True)
    for tree in ("params", "param_states"):
        expected = checkpoints.flatten(getattr(read, tree))
        found = checkpoints.flatten(getattr(again, tree))
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype
    assert sorted(p.name for p in written.parent.iterdir()) == ["checkpoint_0"]


def test_factored_optimizer_state_round_trips(tmp_path):
    """Rows and columns of factored moments stay in the index, as T5X has them."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(256, 128)).astype(np.float32)
    state = {
        "m": np.zeros(1, np.float32),
        "v": np.zeros(1, np.float32),
        "v_row": rng.random(128, np.float32),
        "v_col": rng.random(256, np.float32),
    }
    folder = checkpoints.save_t5x(
        tmp_path / "checkpoint_7",
        {"dense": {"kernel": kernel}},
        step=7,
        optimizer_state={"dense": {"kernel": state}},
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint",
        "checksums.json",
        "target.dense.kernel",
    ]
    read = checkpoints.load_t5x(folder, with_state=True)
    assert read.step == 7
    np.testing.assert_array_equal(read.params["dense"]["kernel"], kernel)
    for name, value in state.items():
        np.testing.assert_array_equal(read.param_states["dense"]["kernel"][name], value)


def test_writing_without_state_and_from_bfloat16(tmp_path):
    params = {"norm": {"scale": np.ones(4, ml_dtypes.bfloat16)}}
    folder = checkpoints.save_t5x(tmp_path / "checkpoint_1", params, step=1)
    read = checkpoints.load_t5x(folder, with_state=True)
    assert read.param_states == {}
    assert read.params["norm"]["scale"].dtype == np.float32


def test_writing_refuses_to_overwrite_and_leaves_nothing_behind(tmp_path, monkeypatch):
    params = {"norm": {"scale": np.ones(4, np.float32)}}
    folder = checkpoints.save_t5x(tmp_path / "checkpoint_1", params, step=1)
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="not overwritten"):
        checkpoints.save_t5x(folder, params, step=1)

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(storage, "write_array", fail)
    with pytest.raises(OutputError, match="No space left"):
        checkpoints.save_t5x(tmp_path / "checkpoint_2", params, step=2)
    assert {k: v for k, v in snapshot(tmp_path).items()} == before
    with pytest.raises(OutputError, match="local folders only"):
        checkpoints.save_t5x("gs://bucket/checkpoint_2", params, step=2)


def test_tree_helpers_undo_each_other():
    tree = {"a": {"b": np.zeros(2), "c": {"d": np.ones(3)}}, "e": np.zeros(())}
    flat = layout.flatten(tree)
    assert list(flat) == ["a/b", "a/c/d", "e"]
    assert layout.flatten(layout.unflatten(flat)).keys() == flat.keys()
    with pytest.raises(CheckpointError, match="below another"):
        layout.unflatten({"a": np.zeros(1), "a/b": np.zeros(1)})
