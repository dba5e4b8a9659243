"""Decoding of whole segments: a batch, and streams through slots."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forced_lengths import ForcedLengths
from mt3 import configs, decoding, network
from mt3.decoding import steps
from mt3.decoding import stream as slots
from mt3.errors import CheckpointError, ConfigError, ShapeError

EOS = 1
MAX_LENGTH = 32
CONFIG = network.T5Config.from_dict(
    {
        "vocab_size": 24,
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "input_depth": 6,
    }
)


@pytest.fixture(scope="module")
def params():
    """A random network whose outputs are far from uniform and end now and then."""
    tokens = jnp.ones((1, 4), jnp.int32)
    frames = jnp.zeros((1, 5, CONFIG.input_depth))
    init = functools.partial(network.Transformer(CONFIG).init, enable_dropout=False)
    params = jax.jit(init)(jax.random.key(3), frames, tokens, tokens)["params"]
    kernel = np.array(params["decoder"]["logits_dense"]["kernel"]) * 3
    # The column of a token that many segments have, sooner or later.
    kernel[:, [EOS, 14]] = kernel[:, [14, EOS]]
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(kernel)
    return params


@pytest.fixture(scope="module")
def segments():
    """Eleven segments of 5 frames."""
    rng = np.random.default_rng(1)
    return 3 * rng.normal(size=(11, 5, CONFIG.input_depth)).astype(np.float32)


def stream(params, segments, order=None, **options):
    """Decodes segments in an order; returns the results in their own order."""
    options = {
        "max_length": MAX_LENGTH,
        "cache_sizes": (8, 16),
        "shrink": True,
        **options,
    }
    options = decoding.DecodeOptions(**options)
    decoder = decoding.SegmentDecoder(params, CONFIG, options)
    order = range(len(segments)) if order is None else order
    results = {r.key: r for r in decoder.run((i, segments[i]) for i in order)}
    assert len(results) == len(segments)
    return [results[i] for i in range(len(segments))]


@functools.cache
def teacher_forced(config=CONFIG):
    """Logits after each position, from the network's ordinary forward pass."""
    model = network.Transformer(config)

    @jax.jit
    def logits(params, frames, ids):
        inputs = jnp.pad(ids, ((0, 0), (1, 0)))[:, :-1]
        # No target is padding here, since 0 may be a token too.
        targets = jnp.ones_like(inputs)
        return model.apply(
            {"params": params}, frames, inputs, targets, enable_dropout=False
        )

    return logits


def plain_greedy(params, frames, config=CONFIG):
    """Greedy ids by running the whole decoder anew for each token."""
    ids = np.zeros((len(frames), MAX_LENGTH), np.int32)
    ended = np.zeros(len(frames), bool)
    for position in range(MAX_LENGTH):
        logits = teacher_forced(config)(params, frames, ids)[:, position]
        ids[:, position] = np.where(ended, 0, np.argmax(logits, axis=-1))
        ended |= ids[:, position] == EOS
    return ids


def test_greedy_equals_the_ordinary_forward_pass(params, segments):
    ids, scores = decoding.decode(
        params, CONFIG, segments, max_length=MAX_LENGTH, strategy=decoding.Greedy()
    )
    expected = plain_greedy(params, segments)
    np.testing.assert_array_equal(ids, expected)
    assert len(set((expected == EOS).argmax(1).tolist())) > 2  # Various lengths.
    logits = teacher_forced()(params, segments, expected)
    logprobs = jax.nn.log_softmax(logits)
    chosen = np.take_along_axis(np.asarray(logprobs), expected[:, :, None], 2)[..., 0]
    before_end = np.cumsum(expected == EOS, axis=1) - (expected == EOS) == 0
    np.testing.assert_allclose(scores, (chosen * before_end).sum(1), atol=1e-3)


def test_positions_of_the_memory_are_decoded_with(params, segments):
    config = dataclasses.replace(CONFIG, memory_positions=True)
    ids, _ = decoding.decode(
        params, config, segments, max_length=MAX_LENGTH, strategy=decoding.Greedy()
    )
    expected = plain_greedy(params, segments, config)
    np.testing.assert_array_equal(ids, expected)
    assert not np.array_equal(expected, plain_greedy(params, segments))


def test_scores_of_beams_equal_the_ordinary_forward_pass(params, segments):
    ids, scores = decoding.decode(
        params, CONFIG, segments, max_length=MAX_LENGTH, strategy=decoding.Beam(3)
    )
    ids, scores = np.asarray(ids), np.asarray(scores)
    assert ids.shape == (11, 3, MAX_LENGTH)
    assert (np.diff(scores, axis=1) >= 0).all()
    ends_all = (ids == EOS).any(2)
    assert ends_all.any()
    for beam in range(3):
        logits = teacher_forced()(params, segments, ids[:, beam])
        logprobs = np.asarray(jax.nn.log_softmax(logits))
        for slot in np.flatnonzero(ends_all[:, beam]):
            row = ids[slot, beam]
            length = int(np.argmax(row == EOS)) + 1
            logprob = logprobs[slot, np.arange(length), row[:length]].sum()
            expected = logprob / ((5 + length) / 6) ** 0.6
            assert scores[slot, beam] == pytest.approx(expected, abs=1e-3)


WAYS = {
    "one slot": {"num_slots": 1, "cache_sizes": ()},
    "short dispatches": {"num_slots": 3, "steps_per_dispatch": 5, "encode_batch": 2},
    "backwards": {"num_slots": 8, "encode_batch": 4, "order": range(10, -1, -1)},
}


@pytest.mark.parametrize(
    ("strategy", "way"),
    [
        (decoding.Beam(), "one slot"),
        (decoding.Beam(), "short dispatches"),
        (decoding.Greedy(), "short dispatches"),
        (decoding.Greedy(), "backwards"),
        (decoding.Beam(3), "short dispatches"),
        # Draws depend on a segment's place in the stream, not on what goes with it.
        (decoding.Temperature(1.5), "short dispatches"),
    ],
)
def test_tokens_do_not_depend_on_the_way(params, segments, strategy, way):
    ids, scores = decoding.decode(
        params, CONFIG, segments, max_length=MAX_LENGTH, strategy=strategy
    )
    if strategy.beams > 1:
        ids, scores = ids[:, -1], scores[:, -1]
    results = stream(params, segments, strategy=strategy, **WAYS[way])
    for result, expected, score in zip(results, ids, scores, strict=True):
        count = len(result.ids)
        np.testing.assert_array_equal(result.ids, expected[:count])
        assert not np.any(expected[count:])
        assert result.score == pytest.approx(float(score), abs=1e-4)
        assert result.ids.dtype == np.int32
        assert count <= result.steps <= MAX_LENGTH


def test_batch_decoding_can_be_traced(params, segments):
    @jax.jit
    def run(params, frames):
        return decoding.decode(params, CONFIG, frames, max_length=MAX_LENGTH)

    ids, scores = run(params, segments)
    expected = decoding.decode(params, CONFIG, segments, max_length=MAX_LENGTH)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)


def test_segments_are_pulled_lazily(params, segments):
    pulled = []

    def source():
        for i in itertools.count():
            pulled.append(i)
            yield i, segments[i % len(segments)]

    options = decoding.DecodeOptions(
        strategy=decoding.Greedy(),
        max_length=MAX_LENGTH,
        num_slots=3,
        cache_sizes=(),
        encode_batch=2,
    )
    decoder = decoding.SegmentDecoder(params, CONFIG, options)
    results = decoder.run(source())
    assert not pulled
    for count, _ in enumerate(itertools.islice(results, 30), start=1):
        assert len(pulled) <= count + 3 + 2 * 2
    results.close()


def test_number_of_compilations_does_not_grow_with_segments(params, segments):
    options = {"strategy": decoding.Greedy(), "num_slots": 8, "cache_sizes": (8,)}
    stream(params, segments, **options)
    compiled = (steps.encode, steps.admit, steps.run_steps, steps.take_slots)
    functions = [getattr(steps, f"_{function.__name__}") for function in compiled] + [
        steps._result,
        steps._fit_cache,
    ]
    before = [function._cache_size() for function in functions]
    many = np.concatenate([segments] * 5)
    stream(params, many, **options)
    assert [function._cache_size() for function in functions] == before
    assert all(before)


def test_no_segments(params):
    assert stream(params, []) == []


def test_half_precision_runs(params, segments):
    results = stream(
        params, segments[:2], dtype="bfloat16", num_slots=2, cache_sizes=()
    )
    assert all(result.ids.size for result in results)
    assert np.isfinite([result.score for result in results]).all()


def test_misshapen_segments(params, segments):
    decoder = decoding.SegmentDecoder(
        params, CONFIG, decoding.DecodeOptions(max_length=MAX_LENGTH, num_slots=3)
    )
    with pytest.raises(ShapeError, match=r"segment 'a' has shape \(5, 7\).*6"):
        list(decoder.run([("a", np.zeros((5, 7), np.float32))]))
    with pytest.raises(ShapeError, match=r"'b'.*\(4, 6\).*\(5, 6\), as the first"):
        list(decoder.run([("a", segments[0]), ("b", segments[0, :4])]))
    with pytest.raises(ShapeError, match="expected"):
        decoding.decode(params, CONFIG, segments[0])
    with pytest.raises(ShapeError, match="max_length is 4000"):
        decoding.decode(params, CONFIG, segments, max_length=4000)
    with pytest.raises(ShapeError, match="max_length is 4000"):
        decoding.SegmentDecoder(params, CONFIG, decoding.DecodeOptions(max_length=4000))


def test_missing_layer(params):
    lacking = {**params, "decoder": dict(params["decoder"])}
    del lacking["decoder"]["layers_1"]
    with pytest.raises(CheckpointError, match="lack decoder/layers_1"):
        decoding.SegmentDecoder(lacking, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_length": 0},
        {"num_slots": 0},
        {"encode_batch": -1},
        {"cache_sizes": (16, 8)},
        {"cache_sizes": (0, 8)},
    ],
)
def test_impossible_options(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        decoding.DecodeOptions(**wrong)


def test_cache_sizes_end_at_the_maximum_length():
    sizes = (64, 128, 256)
    assert slots.usable_cache_sizes(sizes, 200) == (64, 128, 200)
    assert slots.usable_cache_sizes(sizes, 256) == (64, 128, 256)
    assert slots.usable_cache_sizes((), 7) == (7,)


def test_shapes_do_not_depend_on_the_number_of_segments(params, segments, monkeypatch):
    """Nor is there one slot, which would be summed in another order."""

    def slots_of(number, **options):
        options = {"strategy": decoding.Greedy(), "max_length": MAX_LENGTH, **options}
        decoder = decoding.SegmentDecoder(
            params, CONFIG, decoding.DecodeOptions(**options)
        )
        made, start = [], decoder.program.start
        monkeypatch.setattr(
            decoder.program,
            "start",
            lambda size, *rest: made.append(size) or start(size, *rest),
        )
        assert len(list(decoder.run(enumerate(segments[:number])))) == number
        (size,) = made
        return size

    assert slots_of(1, num_slots=8) == slots_of(11, num_slots=8) == 8
    assert slots_of(3, num_slots=8, shrink=True) == 4
    assert slots_of(3, num_slots=1) == 2


def test_only_large_networks_go_through_many_shapes(params, segments, monkeypatch):
    large = network.T5Config.from_dict(configs.MT3.network)
    assert slots.is_large(large)
    assert not slots.is_large(CONFIG)
    assert slots.default_cache_sizes(large) == (64, 128, 256, 512, 1024)
    decoder = decoding.SegmentDecoder(
        params, CONFIG, decoding.DecodeOptions(num_slots=16)
    )
    assert decoder.cache_sizes == (128, 1024)
    assert not decoder.shrink

    ends = [1, 2, 4, 8] * 4  # Different lengths, so that slots become free in turn.
    options = {"strategy": ForcedLengths(tuple(ends)), "num_slots": 16}
    for shrink, expected in ((False, []), (True, [8, 4])):
        decoder = decoding.SegmentDecoder(
            params,
            CONFIG,
            decoding.DecodeOptions(max_length=MAX_LENGTH, shrink=shrink, **options),
        )
        sizes, take = [], decoder.program.take_slots
        monkeypatch.setattr(
            decoder.program,
            "take_slots",
            lambda carry, kept, sizes=sizes, take=take: (
                sizes.append(len(kept)) or take(carry, kept)
            ),
        )
        results = list(decoder.run((i, segments[i % len(segments)]) for i in range(16)))
        assert sizes == expected
        assert [len(r.ids) for r in sorted(results, key=lambda r: r.key)] == ends
