"""The training aids say what they should, and leave the network as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import (
    checkpoints,
    harmonic_stem,
    models,
    network,
    spectrograms,
    tokenizer,
)
from mt3.beyond import grids, guided, starts
from mt3.errors import ConfigError
from mt3.note_sequences import notes_to_array
from mt3.synthesis.augmentation import HISTORY_SAMPLES, AugmentationConfig
from tests.support.tiny_guided import (
    CONFIG,
    NOTES,
    SMALL_GUIDE,
    STEM_CONFIG,
    make_model,
    make_stem_model,
    random,
)


@pytest.fixture(scope="module")
def batch():
    ids = tokenizer.NoteTokenizer(CONFIG).encode_segment(notes_to_array(NOTES))
    targets = np.zeros((2, 32), np.int32)
    targets[:, : len(ids)] = ids
    inputs = np.zeros_like(targets)
    inputs[:, 1:] = targets[:, :-1]
    frames = np.random.default_rng(0).normal(size=(2, 64, 32)).astype(np.float32)
    rows = grids.note_rows(notes_to_array(NOTES), 8)
    return {
        "encoder_input_tokens": frames,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "notes": np.stack([rows, rows]),
    }


def test_layers_before_the_last_look_at_the_event_just_written(batch):
    config = dataclasses.replace(
        CONFIG, network={**CONFIG.network, "num_decoder_layers": 3}
    )
    module = network.Transformer(network.T5Config.from_dict(config.network))
    model = guided.GuidedModel(
        module, None, None, None, 32, config=config, guide=SMALL_GUIDE
    )
    on_input = _attention_at(batch["decoder_input_tokens"])
    on_target = _attention_at(batch["decoder_target_tokens"])

    def loss(first, second):
        layers = {
            "layers_1": {"encoder_decoder_attention": {"attention_weights": (first,)}},
            "layers_2": {"encoder_decoder_attention": {"attention_weights": (second,)}},
        }
        return float(model._attention_loss({"decoder": layers}, batch))

    assert loss(on_input, on_target) == pytest.approx(0.0, abs=1e-3)
    assert loss(on_target, on_input) > 10


def test_local_heads_look_at_their_distance():
    guide = guided.GuideConfig(local_distances=(-2, 1))
    model = make_model(guide)

    def loss(*distances):
        heads = [np.eye(64, k=distance) for distance in distances]
        layer = {"attention": {"attention_weights": (jnp.asarray([heads]),)}}
        return float(model._local_loss({"encoder": {"layers_0": layer}}))

    assert loss(-2, 1) == pytest.approx(0.0, abs=1e-2)
    assert loss(1, -2) > 1000
    with pytest.raises(ConfigError, match="3 local_distances for 2 heads"):
        make_model(guided.GuideConfig(local_distances=(-1, 0, 1)))


def test_event_times(batch):
    tok = tokenizer.NoteTokenizer(CONFIG)
    ids = batch["decoder_target_tokens"][0]
    times = np.asarray(guided.event_times(jnp.asarray(ids)[None], CONFIG))[0]
    expected, now = [], 0.0
    for token in tok.vocabulary.decode_array(ids):
        if token >= 0:
            event = tok.codec.decode_event_index(int(token))
            now = event.value / 100 if event.type == "shift" else now
        expected.append(now)
    np.testing.assert_allclose(times, expected, atol=1e-6)
    assert set(np.round(times, 2)) == {0.0, 0.3, 0.4, 0.5, 0.9} or times.max() > 0.8


def test_without_notes_the_loss_is_the_plain_one(batch, key):
    model = make_model()
    params = random(model)
    plain = models.ContinuousInputsEncoderDecoderModel(
        model.module, None, None, None, 32, z_loss=1e-4
    )
    expected, _ = jax.jit(plain.loss_fn)(starts.network_params(params), batch, None)
    loss_fn = jax.jit(model.loss_fn)
    without = {name: value for name, value in batch.items() if name != "notes"}
    found, _ = loss_fn(params, without, None)
    assert float(found) == float(expected)
    guided_loss, metrics = loss_fn(params, batch, key)
    aids = (
        0.2 * metrics["frame_loss"]
        + 0.1 * metrics["next_event_loss"]
        + 0.3 * metrics["attention_loss"]
        + 0.05 * metrics["local_loss"]
    )
    assert float(guided_loss) == pytest.approx(float(expected + aids), rel=1e-5)


def test_each_aid_has_gradients(batch, key):
    model = make_model()
    names = ("frame_loss", "next_event_loss", "attention_loss", "local_loss")

    def aids(params):
        _, metrics = model.loss_fn(params, batch, key)
        return jnp.stack([metrics[name] for name in names])

    jacobian = jax.jit(jax.jacrev(aids))(random(model))

    def largest(aid, *path):
        leaf = jacobian
        for name in path:
            leaf = leaf[name]
        return float(jnp.abs(leaf[names.index(aid)]).max())

    assert largest("frame_loss", "auxiliary", "kernel") > 0
    assert largest("frame_loss", "auxiliary", "next_event") == 0
    assert largest("next_event_loss", "auxiliary", "next_event") > 0
    cross = ("decoder", "layers_1", "encoder_decoder_attention")
    assert largest("attention_loss", *cross, "query", "kernel") > 0
    assert largest("attention_loss", *cross, "key", "kernel") > 0
    own = ("encoder", "layers_0", "attention")
    assert largest("local_loss", *own, "query", "kernel") > 0
    assert largest("local_loss", *own, "key", "kernel") > 0
    assert largest("local_loss", *cross, "query", "kernel") == 0


@pytest.fixture(scope="module")
def sample_batch(batch):
    size = HISTORY_SAMPLES + STEM_CONFIG.input_samples
    samples = np.random.default_rng(0).normal(0, 3000, (2, size)).astype(np.int16)
    tokens = {k: v for k, v in batch.items() if k != "encoder_input_tokens"}
    return {**tokens, "samples": samples}


def test_samples_become_frames(sample_batch, key):
    model = make_stem_model(augmentation=AugmentationConfig())
    segment = sample_batch["samples"][:, HISTORY_SAMPLES:].astype(np.float32) / 32768
    expected = spectrograms.compute_spectrogram(segment, STEM_CONFIG.spectrogram)
    plain = jax.jit(model.input_frames)(sample_batch)
    np.testing.assert_allclose(plain, expected, atol=2e-3)
    changed = jax.jit(model.input_frames)(sample_batch, key)
    assert changed.shape == plain.shape
    assert np.isfinite(changed).all()
    assert float(jnp.abs(changed - plain).max()) > 0.1


def test_note_heads_teach_the_stem(sample_batch, key):
    model = make_stem_model()
    params = random(model)
    loss = jax.jit(jax.value_and_grad(lambda p: model.loss_fn(p, sample_batch, key)[0]))
    value, gradient = loss(params)
    assert np.isfinite(value)
    for name, leaf in checkpoints.flatten(gradient["encoder"]["harmonic_stem"]).items():
        assert float(jnp.abs(leaf).max()) > 0, name
    for name, leaf in gradient["auxiliary"].items():
        assert float(jnp.abs(leaf).max()) > 0, name


def test_losses_of_single_notes(sample_batch):
    """Heads that say what is true cost nothing; each error counts where it should."""
    model = make_stem_model()
    rows = jnp.asarray(sample_batch["notes"])
    shape = (2, 64, harmonic_stem.NUM_PITCHES, 4)
    sown = {
        "described": (jnp.zeros(shape),),
        "note_logits": (jnp.zeros((*shape[:3], 2)),),
    }
    targets = jnp.zeros((2, 64, 128, 2))
    heads = jax.tree.map(jnp.zeros_like, random(model)["auxiliary"])
    encoded = jnp.zeros((2, 64, 16))

    # Compiled: op by op is several times slower.
    losses = jax.jit(
        lambda heads, rows: model._note_losses(heads, encoded, sown, targets, rows)
    )

    def found(rows=rows, **changes):
        return losses({**heads, **changes}, rows)

    plain = found()
    # One note begins in the segment and one sounds from before.
    assert float(plain["notes"]) == 2
    np.testing.assert_allclose(plain["class_loss"], 4 * np.log(16), rtol=1e-6)
    velocity = (100 / 127 - 0.6) ** 2
    np.testing.assert_allclose(plain["velocity_loss"], 4 * velocity, rtol=1e-5)
    exact = np.array([0.4, 0.5]) / 0.016 - 4
    time = np.square(exact - np.round(exact)).sum()
    np.testing.assert_allclose(plain["time_loss"], 2 * time, atol=1e-5)
    # Class 1 for all notes: right for the one that begins, wrong for class 5.
    bias = heads["note_bias"].at[1].set(20.0).at[16].set(100 / 127 - 0.6)
    told = found(note_bias=bias)
    np.testing.assert_allclose(told["class_loss"], 2 * 20, rtol=1e-3)
    assert float(told["classes_right"]) == 2
    np.testing.assert_allclose(told["velocity_loss"], 2 * velocity, rtol=1e-5)
    drums = heads["drum_details_bias"].at[38].set(100 / 127 - 0.6)
    told = found(note_bias=bias, drum_details_bias=drums)
    np.testing.assert_allclose(told["velocity_loss"], 0.0, atol=1e-8)
    # A velocity that is not known asks for none.
    assert float(found(rows=rows.at[..., 4].set(0.0))["velocity_loss"]) == 0
    # The stem's and the refined probabilities count 0.4 and 0.6.
    cells = 2 * 64 * 88 * 2
    np.testing.assert_allclose(plain["note_loss"], cells * np.log(2), rtol=1e-5)
    sure = found(refine_bias=jnp.full(2, -30.0))
    np.testing.assert_allclose(sure["note_loss"], 0.4 * cells * np.log(2), rtol=1e-5)


def test_without_token_weight_the_decoder_is_left_alone(sample_batch, key):
    model = make_stem_model(guide=dataclasses.replace(SMALL_GUIDE, token_weight=0.0))
    gradient = jax.jit(jax.grad(lambda p: model.loss_fn(p, sample_batch, key)[0]))(
        random(model)
    )
    assert all(
        float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(gradient["decoder"])
    )
    assert float(jnp.abs(gradient["auxiliary"]["kernel"]).max()) > 0


def _attention_at(tokens):
    """Attention [B, H, L, T] on the frame of each token's time alone."""
    times = guided.event_times(jnp.asarray(tokens), CONFIG)
    frame = jnp.clip(jnp.round(guided.frame_of_time(times, CONFIG)), 0, 63)
    one = jax.nn.one_hot(frame.astype(int), 64)
    return jnp.repeat(one[:, None], 2, axis=1)


def test_attention_on_the_event_costs_nothing(batch):
    model = make_model()
    weights = _attention_at(batch["decoder_target_tokens"])
    layer = {"encoder_decoder_attention": {"attention_weights": (weights,)}}
    sown = {"decoder": {"layers_1": layer}}
    assert float(model._attention_loss(sown, batch)) == pytest.approx(0.0, abs=1e-3)
    away = jnp.roll(weights, 20, axis=-1)
    layer["encoder_decoder_attention"]["attention_weights"] = (away,)
    assert float(model._attention_loss(sown, batch)) > 100
