"""Strategies against plain re-implementations on toy language models.

A toy model is a table of logits [slots, length, vocabulary, vocabulary]: what follows
a token at a position.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3.decoding import strategies
from mt3.errors import ConfigError

EOS = 1


@pytest.fixture
def table(rng) -> np.ndarray:
    """Logits of 3 slots, 6 positions, 7 tokens."""
    return 2 * rng.normal(size=(3, 6, 7, 7)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run_compiled(strategy, table, serials):
    slots, length = table.shape[:2]

    def step(carry, position):
        state, tokens = carry
        logits = table[jnp.arange(slots)[:, None], position, tokens]
        done = strategy.done(state)
        new, tokens, _ = strategy.advance(state, logits)
        state = jax.tree.map(
            lambda n, o: jnp.where(done.reshape(-1, *[1] * (n.ndim - 1)), o, n),
            new,
            state,
        )
        return (state, tokens), None

    tokens = jnp.zeros((slots, strategy.beams), jnp.int32)
    carry = (strategy.init(serials, length), tokens)
    (state, _), _ = jax.lax.scan(step, carry, jnp.arange(length))
    return (*strategy.result(state), state.index, strategy.done(state))


def run(strategy, table, serials=None):
    """Decodes a toy model; slots stand still once they are done."""
    serials = np.arange(len(table)) if serials is None else np.array(serials)
    ids, scores, index, done = run_compiled(strategy, table, serials)
    assert np.all(done)
    return np.asarray(ids), np.asarray(scores), np.asarray(index)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def plain_beam_search(table, beams, alpha):
    """Beam search over lists of tuples, for one slot's table [L, V, V]."""
    max_length = len(table)
    live, finished, steps = [(0.0, ())], [], 0
    for position in range(max_length):
        steps += 1
        candidates = []
        for logprob, ids in live:
            row = log_softmax(table[position, ids[-1] if ids else 0].astype(float))
            candidates += [(logprob + p, (*ids, v)) for v, p in enumerate(row)]
        candidates = sorted(candidates, reverse=True)[: 2 * beams]
        live = [c for c in candidates if c[1][-1] != EOS][:beams]
        finished += [
            (p / penalty(position + 1, alpha), ids)
            for p, ids in candidates
            if ids[-1] == EOS
        ]
        finished = sorted(finished, reverse=True)[:beams]
        bound = live[0][0] / penalty(max_length + 1, alpha)
        if len(finished) == beams and finished[-1][0] > bound:
            break
    return (finished or live)[::-1], steps


@pytest.mark.parametrize(("beams", "alpha"), [(1, 0.6), (2, 0.0), (3, 1.5), (5, 0.6)])
def test_beam_search_equals_plain_search(table, beams, alpha):
    table[0, :, :, EOS] += 2  # Ends early.
    table[1, :, :, EOS] -= 50  # Never ends.
    ids, scores, index = run(strategies.Beam(beams, alpha), table)
    for slot in range(len(table)):
        expected, steps = plain_beam_search(table[slot], beams, alpha)
        for (score, tokens), got_ids, got in zip(
            expected[::-1], ids[slot, ::-1], scores[slot, ::-1], strict=False
        ):
            assert got == pytest.approx(score, abs=1e-4)
            assert got_ids[: len(tokens)].tolist() == list(tokens)
            assert not got_ids[len(tokens) :].any()
        assert index[slot] == steps


def test_wide_beam_finds_the_best_of_all_sequences(rng):
    table = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    ids, scores, _ = run(strategies.Beam(64, 0.6), table)
    best = -np.inf
    for length in range(1, 4):
        for body in itertools.product([0, 2, 3], repeat=length - 1):
            tokens = (*body, EOS)
            previous = (0, *tokens)
            logprob = sum(
                log_softmax(table[0, t, previous[t]])[tokens[t]] for t in range(length)
            )
            if logprob / penalty(length, 0.6) > best:
                best, best_tokens = logprob / penalty(length, 0.6), tokens
    assert scores[0, -1] == pytest.approx(best, abs=1e-5)
    assert ids[0, -1, : len(best_tokens)].tolist() == list(best_tokens)


def test_empty_places_have_no_tokens():
    # Only one hypothesis can end: EOS is likely at once, impossible later.
    table = np.zeros((1, 2, 5, 5), np.float32)
    table[0, 1:, :, EOS] = -1e9
    ids, scores, _ = run(strategies.Beam(4), table)
    assert ids[0, -1].tolist() == [EOS, 0]
    assert scores[0, -1] > -10
    assert not ids[0, :-1].any()
    assert (scores[0, :-1] == strategies.NEG_INF).all()


def test_one_beam_is_not_greedy():
    # EOS has probability .4 against .6, then two tokens share what follows.
    table = np.full((1, 3, 4, 4), -30, np.float32)
    table[0, 0, :, [EOS, 2]] = np.log([[0.4], [0.6]])
    table[0, 1:, :, 2:] = np.log(0.5)
    beam, _, _ = run(strategies.Beam(), table)
    greedy, _, _ = run(strategies.Greedy(), table)
    assert beam[0, 0].tolist() == [EOS, 0, 0]
    assert greedy[0, 0].tolist() == [2, 2, 2]


def test_greedy_takes_the_most_probable_token_until_eos(table):
    ids, scores, index = run(strategies.Greedy(), table)
    for slot in range(len(table)):
        expected, logprob, last = [], 0.0, 0
        for position in range(table.shape[1]):
            row = log_softmax(table[slot, position, last])
            last = int(row.argmax())
            expected.append(last)
            logprob += row[last]
            if last == EOS:
                break
        assert index[slot] == len(expected)
        assert ids[slot, 0].tolist() == expected + [0] * (6 - len(expected))
        assert scores[slot, 0] == pytest.approx(logprob, abs=1e-4)


def test_draws_do_not_depend_on_the_other_slots(table):
    strategy = strategies.Temperature(temperature=1.5, seed=3)
    together, scores, _ = run(strategy, table, [4, 5, 6])
    alone, alone_scores, _ = run(strategy, table[1:2], [5])
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(scores[1], alone_scores[0])
    other_seed, _, _ = run(strategies.Temperature(1.5, seed=4), table, [4, 5, 6])
    assert (other_seed != together).any()


def test_draws_follow_the_distribution():
    row = np.log([0.5, 0.05, 0.3, 0.15]).astype(np.float32)
    count = 4000
    table = np.broadcast_to(row, (count, 1, 4, 4))

    def frequencies(**options):
        ids, _, _ = run(strategies.Temperature(**options), table)
        return np.bincount(ids[:, 0, 0], minlength=4) / count

    np.testing.assert_allclose(frequencies(), np.exp(row), atol=0.03)
    squared = np.exp(2 * row) / np.exp(2 * row).sum()
    np.testing.assert_allclose(frequencies(temperature=0.5), squared, atol=0.03)
    truncated = np.array([0.5, 0, 0.3, 0]) / 0.8
    np.testing.assert_allclose(frequencies(top_k=2), truncated, atol=0.03)


def test_drawing_from_the_best_token_alone_is_greedy(table):
    drawn, scores, _ = run(strategies.Temperature(temperature=2.0, top_k=1), table)
    greedy, greedy_scores, _ = run(strategies.Greedy(), table)
    np.testing.assert_array_equal(drawn, greedy)
    np.testing.assert_array_equal(scores, greedy_scores)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_takes_the_first_of_equal_values(k):
    x = np.array([[1, 3, 3, 2, 3, 0], [-1, -1e7, -1, -5, -9, -1]], np.float32)
    values, indices = strategies.top_k(jnp.asarray(x), k)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


def test_names():
    assert strategies.from_name("greedy") == strategies.Greedy()
    assert strategies.from_name("beam1") == strategies.Beam()
    assert strategies.from_name("beam12") == strategies.Beam(num_beams=12)
    assert strategies.from_name("temperature0.5", seed=2) == strategies.Temperature(
        0.5, seed=2
    )
    with pytest.raises(ConfigError, match="'bean1'.*beam4"):
        strategies.from_name("bean1")


@pytest.mark.parametrize(
    "make",
    [
        lambda: strategies.Beam(0),
        lambda: strategies.Beam(alpha=-1.0),
        lambda: strategies.Temperature(0.0),
        lambda: strategies.Temperature(top_k=-1),
        lambda: strategies.from_name("beam0"),
        lambda: strategies.from_name("temperature0"),
    ],
)
def test_impossible_settings(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
