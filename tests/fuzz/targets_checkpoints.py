"""Checkpoints of all forms, any file damaged: the right parameters or an error."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pathlib
import tarfile

import numpy as np

from mt3 import checkpoints
from mt3.checkpoints import checksums
from mt3.configs import ModelConfig
from tests.fuzz.target import Target

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "data"
_TINY = {
    "vocab_size": 1536,
    "emb_dim": 4,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "head_dim": 2,
    "mlp_dim": 4,
    "input_depth": 8,
}


@functools.cache
def _tiny() -> tuple[dict, ModelConfig]:
    """Parameters that bfloat16 stores exactly, and their model."""
    config = ModelConfig(network=_TINY)
    rng = np.random.default_rng(0)
    flat = {
        name: rng.integers(-99, 99, shape).astype(np.float32)
        for name, shape in sorted(checkpoints.expected_shapes(config).items())
    }
    return checkpoints.unflatten(flat), config


def _safetensors(folder: pathlib.Path) -> list[pathlib.Path]:
    params, config = _tiny()
    return [
        checkpoints.save_safetensors(
            folder / f"{dtype}.safetensors",
            params,
            config,
            info={"step": 3},
            dtype=dtype,
        )
        for dtype in ("float32", "bfloat16")
    ]


def _t5x(folder: pathlib.Path) -> list[pathlib.Path]:
    """A run's folder with a checkpoint in the form of the released weights."""
    params, config = _tiny()
    moments = {"v_row": np.arange(6, dtype=np.float32), "m": np.ones(1, np.float32)}
    checkpoints.save_t5x(
        folder / "run" / "checkpoint_7",
        params,
        step=7,
        optimizer_state={"kernel": moments},
        data_state={"source": {"batch": 3}},
    )
    text = json.dumps(config.to_dict())
    (folder / "run" / "model.json").write_text(text, encoding="utf-8")
    return [folder / "run"]


def _orbax(folder: pathlib.Path) -> list[pathlib.Path]:
    """T5X's own checkpoint in Orbax's form, with the checksums that the engine adds."""
    with tarfile.open(_GOLDEN / "t5x_orbax_checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    found = next(folder.rglob("checkpoint_4"))
    read = checkpoints.load_t5x(found, with_state=True)
    state = {"step": np.asarray(read.step, np.int32), "param_states": read.param_states}
    sums = checksums.of_tree({"target": read.params, "state": state})
    (found / checksums.ITEM).mkdir()
    text = json.dumps(checksums.to_json(sums))
    (found / checksums.ITEM / "metadata").write_text(text, encoding="utf-8")
    return [found]


@functools.cache
def _golden_params() -> dict[str, np.ndarray]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (found,) = _orbax(pathlib.Path(folder))
        return checkpoints.flatten(checkpoints.load_t5x(found).params)


def _read_file(path: pathlib.Path) -> None:
    """Reads a file as `mt3 models PATH` does."""
    model = checkpoints.load(path)
    checkpoints.describe_lines(model.info, model.config)
    _assert_equal(model.params, checkpoints.flatten(_tiny()[0]))


def _read_run(path: pathlib.Path) -> None:
    _read_folder(path, checkpoints.flatten(_tiny()[0]))


def _read_orbax(path: pathlib.Path) -> None:
    _read_folder(path, _golden_params())


@contextlib.contextmanager
def _without_warnings():
    """What a log says is no failure: heads are not recorded, or a file is damaged."""
    logger = logging.getLogger("mt3")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@_without_warnings()
def _read_folder(path: pathlib.Path, expected: dict[str, np.ndarray]) -> None:
    """Reads a folder as transcribing does, and as resuming a run does."""
    folder = checkpoints.find_checkpoint(path)
    whole = checksums.read(folder) is not None
    model = checkpoints.load(path)
    checkpoints.describe_lines(model.info, model.config)
    if whole:
        _assert_equal(model.params, expected)
    read = checkpoints.load_t5x(folder, with_state=True)
    if whole:
        _assert_equal(read.params, expected)
        assert read.step in (4, 7)


def _assert_equal(params: dict, expected: dict[str, np.ndarray]) -> None:
    found = checkpoints.flatten(params)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], name)


TARGETS = (
    Target("safetensors", _safetensors, _read_file),
    Target("t5x", _t5x, _read_run, quick=10),
    Target("orbax", _orbax, _read_orbax, quick=10),
)
