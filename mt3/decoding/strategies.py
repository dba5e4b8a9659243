"""Decoding strategies: how the next tokens are chosen from logits.

All are written for S slots that are independent of one another: each slot has its
own position, so segments may start and end at any time. A strategy keeps `beams`
hypotheses (rows) a slot. Its interface:

  init(serials, max_length) -> state        arrays with a leading slot axis
  advance(state, logits)    -> (state, tokens [S, N], parents [S, N])
  done(state)               -> bool [S]
  result(state)             -> (ids [S, N, max_length], scores [S, N])

`state.index` is the number of tokens that a slot has emitted. `parents` says which
row each new row continues, so that the caller can reorder its own arrays by row. All
functions are pure and can be traced.

Differences from T5X's `decoding` module:

1. Beam search ends for each slot alone, not for the batch when its last row ends.
   A slot that has met the condition can't change its result any more, so the tokens
   are equal.
2. Hypotheses are kept as back pointers, not as copied token arrays.
3. A hypothesis whose log probability is below half of `NEG_INF` (only reached by a
   token that a logit mask forbids) never counts as finished.
4. Scores of `Greedy` and `Temperature` are the model's log probability of the tokens.
   T5X's are those of the truncated distribution, always 0 for greedy.
5. The random draws of `Temperature` depend on seed, segment number and position
   alone, so they do not change with the number of slots.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mt3.errors import ConfigError, check_number
from mt3.vocabularies import EOS_ID

Array = jax.Array

NEG_INF = -1.0e7
"""T5X's stand-in for minus infinity; scores of empty hypotheses have this value."""

MOST_BEAMS = 64
"""More cost memory and find nothing better."""


class Strategy(Protocol):
    """What the step function asks of a strategy (see the module docstring)."""

    @property
    def beams(self) -> int:
        """Rows a slot."""

    def init(self, serials: Array, max_length: int) -> Any:
        """Returns the state of fresh slots; `serials` int32 [S] numbers segments."""

    def advance(self, state: Any, logits: Array) -> tuple[Any, Array, Array]:
        """Appends a token to every row, given float32 logits [S, N, V]."""

    def done(self, state: Any) -> Array:
        """Says which slots have their final result, bool [S]."""

    def result(self, state: Any) -> tuple[Array, Array]:
        """Returns ids int32 [S, N, max_length] and scores, best hypothesis last."""


def brevity_penalty(alpha: float, length: Array | int) -> Array:
    """Returns ((5 + length) / 6) ** alpha, by which log probabilities are divided."""
    return jnp.power((5.0 + length) / 6.0, alpha)


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """Returns the k largest values of [S, n] in falling order and their indices.

    Of equal values the first comes first, as with `jax.lax.top_k`. For the one or two
    values that one beam asks for, repeated maxima are much cheaper than a sort.
    """
    if k > 2:
        return jax.lax.top_k(x, k)
    values, indices = [], []
    for _ in range(k):
        index = jnp.argmax(x, axis=-1)
        indices.append(index)
        values.append(jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0])
        x = jnp.where(jnp.arange(x.shape[-1])[None, :] == index[:, None], -jnp.inf, x)
    return jnp.stack(values, -1), jnp.stack(indices, -1).astype(jnp.int32)


def _write(history: Array, index: Array, values: Array) -> Array:
    """Returns history [S, L, N] with values [S, N] written at index [S]."""
    here = jnp.arange(history.shape[1])[None, :] == index[:, None]
    return jnp.where(here[:, :, None], values[:, None, :], history)


class BeamState(NamedTuple):
    """State of beam search; `live` rows are in rising order of log probability."""

    index: Array  # int32 [S]
    tokens: Array  # int32 [S, L, N]: token of each live row at each position
    parents: Array | None  # int32 [S, L, N]: the row before; None with one beam
    live_logprobs: Array  # float32 [S, N]
    finished: Array  # bool [S, N]
    finished_scores: Array  # float32 [S, N], rising
    finished_ends: Array  # int32 [S, N]: position of EOS
    finished_rows: Array  # int32 [S, N]: live row before EOS


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search as in T5X; with one beam it is not greedy.

    Each step takes the 2N best continuations. Those that end join the N finished
    hypotheses if their score, log probability / ((5 + length) / 6) ** alpha (EOS
    counts in the length), is among the best; the N best others stay alive. A slot is
    done when no live hypothesis can beat the worst finished one any more, or at the
    maximum length. If none has finished by then, the live ones are the result, with
    bare log probabilities for scores.

    Attributes:
      num_beams: hypotheses kept, N.
      alpha: strength of the length normalisation; 0 is none.

    Raises:
      ConfigError: fewer than one beam, more than `MOST_BEAMS`, or a negative alpha.
    """

    num_beams: int = 1
    alpha: float = 0.6

    def __post_init__(self):
        check_number("num_beams", self.num_beams, 1, MOST_BEAMS, whole=True)
        check_number("alpha", self.alpha, 0.0)

    @property
    def beams(self) -> int:
        """Rows a slot."""
        return self.num_beams

    def init(self, serials: Array, max_length: int) -> BeamState:
        """Returns the state of fresh slots; see `Strategy`."""
        slots, beams = serials.shape[0], self.num_beams
        history = jnp.zeros((slots, max_length, beams), jnp.int32)
        zeros = jnp.zeros((slots, beams), jnp.int32)
        # Typed: a weak type would make JAX trace the same functions twice.
        nothing = jnp.float32(NEG_INF)
        first_only = jnp.where(jnp.arange(beams) == 0, jnp.float32(0), nothing)
        return BeamState(
            index=jnp.zeros((slots,), jnp.int32),
            tokens=history,
            parents=history if beams > 1 else None,
            live_logprobs=jnp.broadcast_to(first_only, (slots, beams)),
            finished=jnp.zeros((slots, beams), bool),
            finished_scores=jnp.full((slots, beams), nothing),
            finished_ends=zeros,
            finished_rows=zeros,
        )

    def advance(
        self, state: BeamState, logits: Array
    ) -> tuple[BeamState, Array, Array]:
        """Appends a token to every live row; see `Strategy`."""
        slots, beams, vocab = logits.shape
        logprobs = jax.nn.log_softmax(logits) + state.live_logprobs[:, :, None]
        best, where = top_k(logprobs.reshape(slots, beams * vocab), 2 * beams)
        ids, rows = where % vocab, where // vocab
        is_eos = ids == EOS_ID

        alive = jnp.where(is_eos, best + NEG_INF, best)
        _, keep = top_k(alive, beams)
        keep = jnp.flip(keep, axis=1)
        pick = _picker(keep)
        tokens, parents = pick(ids), pick(rows)

        scores = best / brevity_penalty(self.alpha, state.index + 1)[:, None]
        ended = is_eos & (best > NEG_INF / 2)
        scores = jnp.concatenate(
            [state.finished_scores, jnp.where(ended, scores, scores + NEG_INF)], 1
        )
        _, keep_finished = top_k(scores, beams)
        keep_finished = jnp.flip(keep_finished, axis=1)
        pick_finished = _picker(keep_finished)
        ends = jnp.broadcast_to(state.index[:, None], ids.shape)

        def merge(old, new):
            return pick_finished(jnp.concatenate([old, new], 1))

        state = BeamState(
            index=state.index + 1,
            tokens=_write(state.tokens, state.index, tokens),
            parents=(
                _write(state.parents, state.index, parents) if beams > 1 else None
            ),
            live_logprobs=pick(alive),
            finished=merge(state.finished, ended),
            finished_scores=pick_finished(scores),
            finished_ends=merge(state.finished_ends, ends),
            finished_rows=merge(state.finished_rows, rows),
        )
        return state, tokens, parents

    def done(self, state: BeamState) -> Array:
        """Says which slots have their final result; see `Strategy`."""
        max_length = state.tokens.shape[1]
        best_live = state.live_logprobs[:, -1]
        # T5X counts its start token in the maximum length, hence the 1.
        reachable = best_live / brevity_penalty(self.alpha, max_length + 1)
        worst = jnp.min(state.finished_scores, axis=1)
        settled = jnp.all(state.finished, axis=1) & (worst > reachable)
        nothing_alive = (best_live <= NEG_INF / 2) & (state.index > 0)
        return settled | nothing_alive | (state.index >= max_length)

    def result(self, state: BeamState) -> tuple[Array, Array]:
        """Returns ids and scores in rising order; see `Strategy`."""
        finished_any = jnp.any(state.finished, axis=1)[:, None]
        live_rows = jnp.arange(self.num_beams)[None, :]
        # An empty place among the finished has no tokens at all.
        ends = jnp.where(state.finished, state.finished_ends, 0)
        ends = jnp.where(finished_any, ends, state.index[:, None])
        rows = jnp.where(finished_any, state.finished_rows, live_rows)
        ids = _backtrack(state, ends, rows, ends_in_eos=state.finished)
        scores = jnp.where(finished_any, state.finished_scores, state.live_logprobs)
        return ids, scores


def _picker(columns: Array):
    """Returns a function that takes these columns [S, n] of an array [S, m]."""
    return lambda x: jnp.take_along_axis(x, columns, axis=1)


def _backtrack(
    state: BeamState, ends: Array, rows: Array, *, ends_in_eos: Array
) -> Array:
    """Follows back pointers from live rows [S, N] just before positions `ends`.

    Returns:
      int32 [S, N, L]: tokens before `ends`, EOS there where asked for, then 0.
    """
    max_length = state.tokens.shape[1]
    tokens = jnp.swapaxes(state.tokens, 1, 2)
    if state.parents is not None:
        parents = jnp.swapaxes(state.parents, 1, 2)

        def step(row, position):
            token = jnp.take_along_axis(tokens[:, :, position], row, axis=1)
            parent = jnp.take_along_axis(parents[:, :, position], row, axis=1)
            return jnp.where(position < ends, parent, row), token

        positions = jnp.arange(max_length)
        _, tokens = jax.lax.scan(step, rows, positions, reverse=True)
        tokens = jnp.moveaxis(tokens, 0, -1)
    position = jnp.arange(max_length)[None, None, :]
    at_end = (position == ends[:, :, None]) & ends_in_eos[:, :, None]
    tail = jnp.where(at_end, EOS_ID, 0)
    return jnp.where(position < ends[:, :, None], tokens, tail)


class SamplerState(NamedTuple):
    """State of a strategy with one row a slot."""

    index: Array  # int32 [S]
    tokens: Array  # int32 [S, L, 1]
    logprob: Array  # float32 [S]
    ended: Array  # bool [S]
    serials: Array  # int32 [S]


class _OneRow:
    """What `Greedy` and `Temperature` share: one token at a time, until EOS."""

    beams = 1

    def _choose(self, state: SamplerState, logits: Array) -> Array:
        """Returns the tokens int32 [S] chosen from logits [S, V]."""
        raise NotImplementedError

    def init(self, serials: Array, max_length: int) -> SamplerState:
        """Returns the state of fresh slots; see `Strategy`."""
        slots = serials.shape[0]
        return SamplerState(
            index=jnp.zeros((slots,), jnp.int32),
            tokens=jnp.zeros((slots, max_length, 1), jnp.int32),
            logprob=jnp.zeros((slots,), jnp.float32),
            ended=jnp.zeros((slots,), bool),
            serials=serials.astype(jnp.int32),
        )

    def advance(
        self, state: SamplerState, logits: Array
    ) -> tuple[SamplerState, Array, Array]:
        """Appends a token to every slot; see `Strategy`."""
        logits = logits[:, 0, :]
        token = self._choose(state, logits)[:, None]
        # The log of the softmax at one token, without making the whole array.
        logit = jnp.take_along_axis(logits, token, axis=1)[:, 0]
        logprob = logit - jax.nn.logsumexp(logits, axis=-1)
        state = SamplerState(
            index=state.index + 1,
            tokens=_write(state.tokens, state.index, token),
            logprob=state.logprob + logprob,
            ended=token[:, 0] == EOS_ID,
            serials=state.serials,
        )
        return state, token, jnp.zeros_like(token)

    def done(self, state: SamplerState) -> Array:
        """Says which slots have their final result; see `Strategy`."""
        return state.ended | (state.index >= state.tokens.shape[1])

    def result(self, state: SamplerState) -> tuple[Array, Array]:
        """Returns ids and log probabilities; see `Strategy`."""
        position = jnp.arange(state.tokens.shape[1])[None, None, :]
        tokens = jnp.swapaxes(state.tokens, 1, 2)
        ids = jnp.where(position < state.index[:, None, None], tokens, 0)
        return ids, state.logprob[:, None]


@dataclasses.dataclass(frozen=True)
class Greedy(_OneRow):
    """Takes the most probable token until EOS; of equal ones the smallest id."""

    def _choose(self, state: SamplerState, logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Temperature(_OneRow):
    """Draws tokens from softmax(logits / temperature) until EOS.

    Attributes:
      temperature: above 0; 1 is the model's own distribution.
      top_k: draw among the k most probable tokens only; 0 means all.
      seed: of the random draws.

    Raises:
      ConfigError: a temperature that is not above 0, or a negative top_k.
    """

    temperature: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self):
        if not self.temperature > 0 or self.top_k < 0:
            raise ConfigError(
                f"temperature sampling: temperature={self.temperature}, "
                f"top_k={self.top_k}; expected temperature > 0 (use greedy decoding "
                "for 0) and top_k >= 0"
            )

    def _choose(self, state: SamplerState, logits: Array) -> Array:
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            lowest = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
            logits = jnp.where(logits >= lowest, logits, NEG_INF)
        base = jax.random.key(self.seed)

        def draw(serial, index, row):
            key = jax.random.fold_in(jax.random.fold_in(base, serial), index)
            return jax.random.categorical(key, row)

        tokens = jax.vmap(draw)(state.serials, state.index, logits)
        return tokens.astype(jnp.int32)


def from_name(name: str, *, seed: int = 0, others: Sequence[str] = ()) -> Strategy:
    """Returns the strategy that a short name stands for.

    Args:
      name: `greedy`, `beam` or `beam1` (the original's way), `beam4` and so on, or
        `temperature0.8` and so on.
      seed: of the random draws of `temperature`.
      others: names that the caller knows besides, for the message.

    Raises:
      ConfigError: there is no strategy of that name.
    """
    if name == "greedy":
        return Greedy()
    if match := re.fullmatch(r"beam(\d{0,6})", name):
        return Beam(num_beams=int(match[1] or 1))
    if match := re.fullmatch(r"temperature(\d{1,6}(?:\.\d+)?)", name):
        return Temperature(temperature=float(match[1]), seed=seed)
    known = [*others, "greedy", "beam1", "beam4 (any number)"]
    raise ConfigError(
        f"decoding: unknown strategy {name!r}. Known: {', '.join(known)}, "
        "temperature0.8 (any number above 0)"
    )
