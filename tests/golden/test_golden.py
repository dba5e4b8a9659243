"""The original's outputs, checked through the adapter that outside checkers use.

Every test has a guard against a golden file that is missing or empty.
"""

import inspect
import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from mt3 import checkpoints, network
from tests.golden import adapter

DATA = pathlib.Path(__file__).parent / "data"
SIZES = {
    "vocab_size": 1536,
    "emb_dim": 32,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 16,
    "mlp_dim": 64,
}


def read_json(name):
    content = json.loads((DATA / name).read_text())
    assert content, f"{name} is empty"
    return content


def read_arrays(name):
    with np.load(DATA / name) as archive:
        content = dict(archive)
    assert content, f"{name} is empty"
    return content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The T5X checkpoint, unpacked."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(DATA / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "t5x_checkpoint" / "checkpoint_0"


@pytest.fixture(scope="module")
def params(checkpoint):
    return adapter.load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def outputs():
    return read_arrays("model.npz")


def test_adapter_has_the_agreed_signatures():
    expected = {
        "notes_to_tokens": "(notes, seconds, first_frame, num_frames, *, "
        "num_velocity_bins, ties, onsets_only, program_granularity)",
        "tokens_to_notes": "(predictions, *, num_velocity_bins, ties)",
        "log_mel": "(samples)",
        "scores": "(reference_notes, estimated_notes, track_specs=None)",
        "load_checkpoint": "(path)",
        "logits": "(params, sizes, inputs, targets)",
        "loss": "(params, sizes, inputs, targets)",
        "decode": "(params, sizes, inputs, max_length, method, beams=1)",
        "adafactor_steps": "(params, sizes, inputs, targets, learning_rate, steps)",
    }
    for name, signature in expected.items():
        function = inspect.signature(getattr(adapter, name))
        found = function.replace(
            parameters=[
                p.replace(annotation=inspect.Parameter.empty)
                for p in function.parameters.values()
            ],
            return_annotation=inspect.Signature.empty,
        )
        assert str(found) == signature


@pytest.mark.parametrize("case", range(10))
def test_notes_to_tokens(case):
    golden = read_json("notes_to_tokens.json")[case]
    options = {
        key: golden[key]
        for key in ("num_velocity_bins", "ties", "onsets_only", "program_granularity")
    }
    assert golden["notes"]
    assert golden["segments"]
    for segment in golden["segments"]:
        events, ids = adapter.notes_to_tokens(
            golden["notes"],
            golden["seconds"],
            segment["first_frame"],
            segment["num_frames"],
            **options,
        )
        assert events == segment["event_tokens"]
        assert ids == segment["vocabulary_ids"]


@pytest.mark.parametrize("case", range(10))
def test_tokens_to_notes(case):
    golden = read_json("tokens_to_notes.json")[case]
    notes, invalid, dropped = adapter.tokens_to_notes(
        golden["predictions"],
        num_velocity_bins=golden["num_velocity_bins"],
        ties=golden["ties"],
    )
    assert golden["notes"]
    assert (invalid, dropped) == (golden["invalid_events"], golden["dropped_events"])
    assert len(notes) == len(golden["notes"])
    for note, expected in zip(notes, golden["notes"], strict=True):
        for time in ("start_time", "end_time"):
            assert note.pop(time) == pytest.approx(expected.pop(time), abs=1e-9)
        assert note == expected


def test_spectrogram():
    golden = read_arrays("spectrogram.npz")
    samples, expected = golden["samples"], golden["log_mel"]
    found = adapter.log_mel(samples)
    assert found.shape == expected.shape == (256, 512)
    assert found.dtype == np.float32
    # A frame is silent when all the samples that it looks at are.
    padded = np.concatenate([samples, np.zeros(2048, samples.dtype)])
    silent = np.array([not padded[i * 128 : i * 128 + 2048].any() for i in range(256)])
    assert silent.any()
    assert not silent.all()
    np.testing.assert_allclose(found[silent], expected[silent], atol=1e-5)
    np.testing.assert_allclose(found[~silent], expected[~silent], atol=2e-3)


@pytest.mark.parametrize("case", range(4))
def test_metrics(case):
    golden = read_json("metrics.json")[case]
    scores = adapter.scores(
        golden["reference_notes"], golden["estimated_notes"], golden["track_specs"]
    )
    # These two cannot be known from notes.
    expected = {
        name: value
        for name, value in golden["scores"].items()
        if name not in ("Invalid events", "Dropped events")
    }
    assert len(expected) >= 60
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("name", ["mt3", "ismir2021", "ismir2022_base"])
def test_parameter_shapes(name):
    expected = read_json("parameter_shapes.json")[name]
    rows, depth = expected["decoder/token_embedder/embedding"]
    layers = {
        side: sum(
            f"{side}/layers_" in key and key.endswith("mlp/wo/kernel")
            for key in expected
        )
        for side in ("encoder", "decoder")
    }
    joined = expected["encoder/layers_0/attention/query/kernel"][1]
    config = network.T5Config.from_dict(
        {
            "vocab_size": rows,
            "emb_dim": depth,
            "num_heads": joined // 64,
            "num_encoder_layers": layers["encoder"],
            "num_decoder_layers": layers["decoder"],
            "mlp_dim": expected["encoder/layers_0/mlp/wo/kernel"][0],
        }
    )
    module = network.Transformer(config)
    variables = jax.eval_shape(
        lambda key: module.init(
            key,
            np.zeros((1, 4, 512), np.float32),
            np.ones((1, 4), np.int32),
            np.ones((1, 4), np.int32),
            enable_dropout=False,
        ),
        jax.random.key(0),
    )
    found = checkpoints.flatten(variables["params"])
    assert {key: list(value.shape) for key, value in found.items()} == expected


def test_logits(params, outputs):
    found = adapter.logits(
        params, SIZES, outputs["train_inputs4"], outputs["train_targets4"]
    )
    expected = outputs["teacher_forced_logits"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :16], expected, atol=1e-4)


def test_loss(params, outputs):
    found = adapter.loss(
        params, SIZES, outputs["train_inputs4"], outputs["train_targets4"]
    )
    assert found == pytest.approx(float(outputs["loss"]), rel=1e-5)


def test_greedy(params, outputs):
    ids, _ = adapter.decode(params, SIZES, outputs["inputs"], 128, "greedy")
    assert (ids == outputs["greedy_ids"]).all()


@pytest.mark.parametrize("beams", [1, 4])
def test_beams(params, outputs, beams):
    ids, scores = adapter.decode(params, SIZES, outputs["inputs"], 128, "beam", beams)
    assert (ids == outputs[f"beam{beams}_ids"]).all()
    np.testing.assert_allclose(scores, outputs[f"beam{beams}_scores"], rtol=1e-4)


def test_greedy_and_one_beam_differ(outputs):
    differs = (outputs["greedy_ids"] != outputs["beam1_ids"]).any(axis=1)
    assert 0 < differs.sum() < len(differs)


def test_adafactor(params, outputs):
    golden = read_json("adafactor_steps.json")
    losses, after = adapter.adafactor_steps(
        params,
        SIZES,
        outputs["train_inputs4"],
        outputs["train_targets4"],
        golden["learning_rate"],
        len(golden["losses"]),
    )
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4)
    flat = checkpoints.flatten(after)
    assert flat.keys() == golden["parameter_l2_after"].keys()
    for name, value in flat.items():
        norm = np.linalg.norm(value.astype(np.float64))
        assert norm == pytest.approx(golden["parameter_l2_after"][name], rel=1e-4)
        first = value.reshape(-1)[:4]
        expected = golden["parameter_first4_after"][name]
        np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-6)


def test_orbax_checkpoint(tmp_path):
    golden = read_json("t5x_orbax_parameters.json")
    with tarfile.open(DATA / "t5x_orbax_checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = [path for path in tmp_path.rglob("checkpoint_4") if path.is_dir()]
    flat = checkpoints.flatten(adapter.load_checkpoint(folder))
    assert flat.keys() == golden.keys()
    for name, value in flat.items():
        assert list(value.shape) == golden[name]["shape"]
        norm = np.linalg.norm(value.astype(np.float64))
        assert norm == pytest.approx(golden[name]["l2"], rel=1e-6)
