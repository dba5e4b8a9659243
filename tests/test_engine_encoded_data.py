"""Training of the decoder alone on stored outputs of an encoder."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import checkpoints, network
from mt3.beyond import decoder_model, guided, starts
from mt3.engine import encoded_data, optimizers, synthetic_data, trainer, utils
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import NOTE_DTYPE, Note, notes_to_array
from mt3.tokenizer import NoteTokenizer
from tests.support import drawn
from tests.support.tiny_guided import (
    CONFIG,
    SMALL_GUIDE,
    STEM_CONFIG,
    initial,
    make_model,
)

TINY = dataclasses.replace(CONFIG, targets_length=32)


class Noise:
    """Segments of noise with 0 to 5 notes."""

    def segment(self, key):
        rng = np.random.default_rng(key)
        notes = np.zeros(int(rng.integers(6)), NOTE_DTYPE)
        notes["start_time"] = 0.05 * np.arange(len(notes))
        notes["end_time"] = notes["start_time"] + 0.05
        notes["pitch"] = rng.integers(40, 80, len(notes))
        notes["velocity"] = 90
        samples = 0.1 * rng.normal(size=TINY.segment_samples)
        return samples.astype(np.float32), notes


def source(cfg):
    return synthetic_data.SegmentBatches(
        Noise(), TINY, cfg.batch_size, cfg.seed, cfg.split, length_multiple=4
    )


def dataset_config(split="train"):
    return utils.DatasetConfig(
        mixture_or_task_name="stored",
        task_feature_lengths={"inputs": TINY.inputs_length, "targets": 32},
        split=split,
        batch_size=2,
        shuffle=True,
        seed=1,
    )


def make_decoder_model(weights, **options):
    module = network.Transformer(network.T5Config.from_dict(TINY.network))
    return decoder_model.DecoderModel(
        module,
        None,
        None,
        options.pop("optimizer_def", None),
        input_depth=32,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
        config=TINY,
        guide=options.pop("guide", SMALL_GUIDE),
        initial_weights=str(weights),
        **options,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    params = starts.network_params(initial(make_model()))
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    checkpoints.save_safetensors(path, params, TINY, info={"name": "start"})
    return path


@pytest.fixture(scope="module")
def model(weights):
    """A model that starts from them."""
    return make_decoder_model(weights)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Four segments a file."""
    monkeypatch.setattr(encoded_data, "_SEGMENTS_PER_FILE", 4)


def corpus(model, folder, **changes):
    settings = {"segments": 11, "evaluation_segments": 4, "length_multiple": 8}
    return encoded_data.EncodedCorpus(
        model, source, source, str(folder), **settings | changes
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_have_what_the_encoder_says(model, tmp_path):
    batches = corpus(model, tmp_path)(dataset_config("validation"))
    params = initial(model)
    for index in range(2):
        batch, heard = batches.batch(index), source(dataset_config("validation"))
        heard = heard.batch(index)
        expected = model.encode(params, heard)
        assert batch["encoded"].dtype == np.float16
        np.testing.assert_allclose(batch["encoded"], expected, atol=2e-3, rtol=2e-3)
        for name in ("decoder_target_tokens", "decoder_input_tokens"):
            longest = max(batch[name].shape[1], heard[name].shape[1])
            wide = [
                np.pad(x[name], ((0, 0), (0, longest - x[name].shape[1])))
                for x in (batch, heard)
            ]
            np.testing.assert_array_equal(*wide)
        weights = batch["decoder_loss_weights"]
        np.testing.assert_array_equal(weights, batch["decoder_target_tokens"] > 0)


def test_computing_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    corpus(model, tmp_path)(dataset_config())
    before = contents(tmp_path)
    assert len([name for name in before if "encoded" in name]) == 3
    (tmp_path / "train_00001.encoded.npy").unlink()
    calls = []
    encode = decoder_model.DecoderModel.encode
    monkeypatch.setattr(
        model,
        "encode",
        lambda params, batch, rng: calls.append(1) or encode(model, params, batch, rng),
    )
    corpus(model, tmp_path)(dataset_config())
    assert contents(tmp_path) == before
    # Traced once, and not at all where nothing is missing.
    assert len(calls) == 1
    corpus(model, tmp_path)(dataset_config())
    assert len(calls) == 1


def test_outputs_of_another_encoder_are_refused(model, tmp_path, weights):
    corpus(model, tmp_path)(dataset_config("validation"))
    params = starts.network_params(initial(model))
    encoder = jax.tree.map(lambda leaf: leaf + 0.1, params["encoder"])
    other = weights.with_name("other.safetensors")
    checkpoints.save_safetensors(
        other, {**params, "encoder": encoder}, TINY, info={"name": "other"}
    )
    changed = make_decoder_model(other)
    with pytest.raises(DataError, match="validation.json.*another encoder"):
        corpus(changed, tmp_path)(dataset_config("validation"))
    (tmp_path / "validation.json").write_text("{")
    with pytest.raises(DataError, match="validation.json: not JSON"):
        corpus(model, tmp_path)(dataset_config("validation"))


def test_a_pass_takes_each_segment_once_in_a_new_order(model, tmp_path):
    batches = corpus(model, tmp_path, pool=2)(dataset_config())

    def rows(first):
        drawn = [batches.batch(first + i)["encoded"] for i in range(6)]
        return [row.tobytes() for batch in drawn for row in batch]

    one, two = rows(0), rows(6)
    assert len(set(one)) == 12
    assert sorted(one) == sorted(two)
    assert one != two
    assert rows(0) == one


def test_only_the_decoder_learns(weights, tmp_path):
    optimizer = optimizers.muon(trained=("decoder",), max_grad_norm=1.0)
    model = make_decoder_model(weights, optimizer_def=optimizer)
    batch = corpus(model, tmp_path)(dataset_config()).batch(0)
    params = initial(model)
    state = TrainState.create(params, optimizer)

    @jax.jit
    def step(state):
        grads, metrics = trainer.accumulate_gradients(
            model, state.params, batch, jax.random.key(0), None
        )
        new = optimizer.apply_gradient(
            state.params, state.opt_state, grads, learning_rate=3e-3
        )
        return TrainState(state.step + 1, *new), metrics

    losses = []
    for _ in range(5):
        state, metrics = step(state)
        losses.append(float(metrics["loss"][0]))
    assert losses[-1] < losses[0] - 0.1
    assert metrics["attention_loss"][0] > 0
    for part in params.keys() - {"decoder"}:
        jax.tree.map(np.testing.assert_array_equal, state.params[part], params[part])
    moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, params)
    assert all(jax.tree.leaves(moved["decoder"]))


def test_accuracy_by_type(model):
    notes = notes_to_array(
        [
            # Sounds already; ends; the same pitch again; another instrument; a drum.
            Note(-0.5, 0.3, 50, 100, 40),
            Note(0.4, 0.9, 50, 100, 40),
            Note(0.4, 0.9, 60, 100, 9),
            Note(0.5, 0.51, 38, 100, 0, is_drum=True),
        ]
    )
    features = synthetic_data.token_features(
        notes, NoteTokenizer(dataclasses.replace(TINY, targets_length=48))
    )
    targets = features["decoder_target_tokens"][None]
    right = 10.0 * jax.nn.one_hot(targets, 1536)
    metrics = model._accuracies(right, jnp.asarray(targets))
    counts = {name: (m.total, m.count) for name, m in metrics.items()}
    # Times of the end, of the two onsets, of the hit, and of the two ends.
    assert counts["accuracy_time"] == (4, 4)
    assert counts["accuracy_onset_pitch"] == (2, 2)
    assert counts["accuracy_drum"] == (1, 1)
    wrong = model._accuracies(jnp.roll(right, 1, axis=-1), jnp.asarray(targets))
    assert all(m.total == 0 and m.count > 0 for m in wrong.values())


def test_a_model_without_weights_is_refused():
    with pytest.raises(ConfigError, match="no initial_weights"):
        decoder_model.DecoderModel(
            network.Transformer(network.T5Config.from_dict(TINY.network)),
            None,
            None,
            None,
            input_depth=32,
            config=TINY,
        )


def test_a_new_decoder_looks_at_the_right_frames(tmp_path):
    """The guided attention of a copying start is near its targets at once."""
    sizes = dataclasses.replace(
        network.T5Config.from_dict(STEM_CONFIG.network),
        emb_dim=64,
        num_heads=4,
        head_dim=16,
        memory_positions=True,
    )
    config = dataclasses.replace(STEM_CONFIG, network=sizes.to_dict())
    module = network.Transformer(sizes)
    shapes = {
        "encoder_input_tokens": (1, 64, sizes.input_depth),
        "decoder_input_tokens": (1, 32),
    }

    options = {
        "input_depth": sizes.input_depth,
        "config": config,
        "guide": dataclasses.replace(SMALL_GUIDE, first_guided_layer=0),
    }
    base = guided.GuidedModel(module, None, None, None, **options)
    known = drawn.parameters(
        lambda key: base.get_initial_variables(key, shapes), seed=1
    )
    path = tmp_path / "known.safetensors"
    weights = starts.network_params(known)
    checkpoints.save_safetensors(path, weights, config, info={"name": "known"})

    times = (10, 30, 70)
    # Each time and a pitch, then the end.
    targets = np.array([[i for step in times for i in (3 + step, 1064)] + [1]])
    rng = np.random.default_rng(0)
    batch = {
        "encoded": 0.3 * rng.normal(size=(1, 64, 64)).astype(np.float16),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    }
    cost = {}
    for new in (False, True):
        model = decoder_model.DecoderModel(
            module,
            None,
            None,
            None,
            initial_weights=str(path),
            new_decoder=new,
            **options,
        )
        params = initial(model, shapes)
        _, metrics = jax.jit(model.loss_fn)(params, batch, None)
        cost[new] = float(metrics["attention_loss"].compute())
        encoder = checkpoints.flatten(params["encoder"])
        for name, value in checkpoints.flatten(known["encoder"]).items():
            np.testing.assert_array_equal(encoder[name], value)
    assert cost[True] < 0.6 * cost[False]
