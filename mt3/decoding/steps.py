"""The functions of decoding (encode, admit, step, run), and their compiled forms.

All segments in flight live in a `Carry` of S slots with N rows (beams) each. Slots
are independent: each has its own position, so a slot can take the next segment while
the others continue. `run_steps` is one `while_loop` over decoding steps on the device.

`layer_step` explains how arrays are laid out. Encoder layers are scanned: there the
copy that a scan makes of each layer does not matter.

The functions are pure. `Program` holds them compiled, once for each `Spec` and set of
shapes; `stream` chooses the shapes, and keeps them few. Arrays that a function returns
a new version of are donated, so that they are changed in place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import network
from mt3.decoding import layer_step
from mt3.decoding.filters import LogitFilter
from mt3.decoding.strategies import Beam, Strategy
from mt3.errors import CheckpointError, ShapeError

Array = jax.Array
KeysValues = tuple[tuple[Array, Array], ...]  # One pair a decoder layer.


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a compiled program is made for; hashable.

    Attributes:
      config: sizes of the network.
      strategy: how tokens are chosen.
      filters: rules about the next token, in the order in which they are applied.
      max_length: most tokens a segment may have.

    Raises:
      ShapeError: more tokens than the position table has rows.
    """

    config: network.T5Config
    strategy: Strategy
    filters: tuple[LogitFilter, ...]
    max_length: int

    def __post_init__(self):
        if not 1 <= self.max_length <= network.MAX_POSITIONS:
            raise ShapeError(
                f"decoding: max_length is {self.max_length}; expected 1 to "
                f"{network.MAX_POSITIONS}, the rows of the position table"
            )


class Weights(NamedTuple):
    """Parameters as decoding wants them."""

    encoder: Mapping[str, Any]  # without the layers
    encoder_layers: Any  # one layer's tree, stacked along a leading axis
    decoder: layer_step.DecoderWeights


class Carry(NamedTuple):
    """Everything that changes from step to step."""

    cross: KeysValues  # [S, H, D, T] and [S, H, T, D]
    cache: KeysValues  # [S * N, H, D, C] and [S * N, H, C, D]
    tokens: Array  # int32 [S, N]: fed in at the next step
    running: Array  # bool [S]: the slot holds an unfinished segment
    choice: Any  # state of the strategy
    states: tuple[Any, ...]  # of each filter, [S * N, ...]


# Compiled functions of one layer: within a program JAX traces them once, not once for
# each layer.
_project_cross = jax.jit(layer_step.project_cross, static_argnums=0)
_layer_step = jax.jit(layer_step.layer_step, static_argnums=0)


def split_weights(params: Mapping[str, Any], spec: Spec) -> Weights:
    """Arranges a parameter tree for decoding.

    Args:
      params: nested dict as in T5X checkpoints, with `encoder` and `decoder`.
      spec: what the program is made for.

    Raises:
      CheckpointError: a layer is missing.
    """
    config = spec.config
    encoder = params.get("encoder", {})
    encoder_names = _layer_names(encoder, "encoder", config.num_encoder_layers)
    encoder_layers = [encoder[name] for name in encoder_names]
    decoder = params.get("decoder", {})
    _layer_names(decoder, "decoder", config.num_decoder_layers)
    return Weights(
        encoder={key: encoder[key] for key in encoder if key not in encoder_names},
        encoder_layers=jax.tree.map(lambda *a: jnp.stack(a), *encoder_layers),
        decoder=layer_step.arrange(decoder, config, spec.max_length),
    )


def _layer_names(tree: Mapping[str, Any], part: str, count: int) -> list[str]:
    """Returns the names of the layers, all of which are there."""
    names = [f"layers_{i}" for i in range(count)]
    for name in names:
        if name not in tree:
            raise CheckpointError(
                f"decoding: parameters lack {part}/{name}; expected {count} layers in "
                f"{part}"
            )
    return names


def encode(spec: Spec, weights: Weights, frames: Array) -> KeysValues:
    """Encodes segments and projects them for the cross-attention of all layers.

    Args:
      spec: what the program is made for.
      weights: from `split_weights`.
      frames: float32 [B, T, input_depth].

    Returns:
      For each decoder layer keys [B, H, D, T] and values [B, H, T, D].
    """
    config = spec.config
    encoder = network.Encoder(config)
    layer = network.EncoderLayer(config)
    variables = {"params": weights.encoder}
    x = encoder.apply(variables, frames, method="embed_frames")

    def body(x, params):
        return layer.apply({"params": params}, x, deterministic=True), None

    x, _ = jax.lax.scan(body, x, weights.encoder_layers)
    encoded = encoder.apply(variables, x, deterministic=True, method="finish")
    memory = network.memory(encoded, config)
    return tuple(
        _project_cross(config, layer, memory) for layer in weights.decoder.layers
    )


def start(spec: Spec, num_slots: int, num_frames: int, cache_length: int) -> Carry:
    """Returns a carry of empty slots."""
    config = spec.config
    heads, depth = config.num_heads, config.head_dim
    rows = num_slots * spec.strategy.beams

    def zeros(rows: int, length: int) -> KeysValues:
        return tuple(
            (
                jnp.zeros((rows, heads, depth, length), config.dtype),
                jnp.zeros((rows, heads, length, depth), config.dtype),
            )
            for _ in range(config.num_decoder_layers)
        )

    return Carry(
        cross=zeros(num_slots, num_frames),
        cache=zeros(rows, cache_length),
        tokens=jnp.zeros((num_slots, spec.strategy.beams), jnp.int32),
        running=jnp.zeros((num_slots,), bool),
        choice=spec.strategy.init(jnp.zeros((num_slots,), jnp.int32), spec.max_length),
        states=tuple(rule.init(rows) for rule in spec.filters),
    )


def admit(
    spec: Spec, carry: Carry, cross: KeysValues, row: Array, slot: Array, serial: Array
) -> Carry:
    """Puts one encoded segment into a slot.

    Args:
      spec: what the program is made for.
      carry: all slots.
      cross: of a batch of segments, from `encode`.
      row: int32 scalar, which segment of the batch.
      slot: int32 scalar, where to put it.
      serial: int32 scalar, the number of the segment in the run.
    """
    beams = spec.strategy.beams

    def place(whole: Array, part: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=0)

    def take(batch: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(batch, row, 1, axis=0)

    fresh = spec.strategy.init(serial[None], spec.max_length)
    states = tuple(rule.init(beams) for rule in spec.filters)
    return carry._replace(
        cross=jax.tree.map(
            lambda whole, batch: place(whole, take(batch), slot), carry.cross, cross
        ),
        tokens=place(carry.tokens, jnp.zeros((1, beams), jnp.int32), slot),
        running=carry.running.at[slot].set(True),
        choice=jax.tree.map(lambda w, p: place(w, p, slot), carry.choice, fresh),
        states=jax.tree.map(
            lambda w, p: place(w, p, slot * beams), carry.states, states
        ),
    )


def step(spec: Spec, weights: Weights, carry: Carry) -> Carry:
    """Appends one token to every running slot."""
    slots, beams = carry.tokens.shape
    index = carry.choice.index
    length = carry.cache[0][0].shape[-1]
    # Slots at rest are computed too, and ignored; they may stand past the end.
    position = jnp.repeat(jnp.minimum(index, length - 1), beams)
    y = layer_step.embed(weights.decoder, carry.tokens.reshape(-1), position)
    cache = []
    for layer, cross, (cache_k, cache_v) in zip(
        weights.decoder.layers, carry.cross, carry.cache, strict=True
    ):
        y, cache_k, cache_v = _layer_step(
            spec.config, layer, y, *cross, cache_k, cache_v, position
        )
        cache.append((cache_k, cache_v))
    logits = layer_step.to_logits(spec.config, weights.decoder, y)
    logits = logits.reshape(slots, beams, -1)
    # Without what the choice does not look at, its traced function serves all lengths
    # of the cache.
    light = carry._replace(cross=(), cache=())
    chosen, parents = _choose(spec, light, logits)
    if beams > 1:
        rows = _rows(parents)
        cache = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), cache)
    return chosen._replace(cross=carry.cross, cache=tuple(cache))


@functools.partial(jax.jit, static_argnums=0)
def _choose(spec: Spec, carry: Carry, logits: Array) -> tuple[Carry, Array]:
    """Filters the logits [S, N, V], and lets the strategy choose the tokens.

    Returns:
      The carry, and which of its slot's rows each row continues, int32 [S, N].
    """
    _, beams = carry.tokens.shape
    states = carry.states
    rows = logits.reshape(-1, logits.shape[-1])
    for rule, state in zip(spec.filters, states, strict=True):
        rows = rule(rows, state)
    choice, tokens, parents = spec.strategy.advance(
        carry.choice, rows.reshape(logits.shape)
    )
    choice = jax.tree.map(
        lambda new, old: jnp.where(_like(carry.running, new), new, old),
        choice,
        carry.choice,
    )
    if beams > 1:
        order = _rows(parents)
        states = jax.tree.map(lambda x: jnp.take(x, order, axis=0), states)
    states = tuple(
        rule.advance(state, tokens.reshape(-1))
        for rule, state in zip(spec.filters, states, strict=True)
    )
    carry = carry._replace(
        tokens=tokens,
        running=carry.running & ~spec.strategy.done(choice),
        choice=choice,
        states=states,
    )
    return carry, parents


def _rows(parents: Array) -> Array:
    """Returns which of all rows each row continues, int [S * N]; parents [S, N]."""
    slots, beams = parents.shape
    return (jnp.arange(slots)[:, None] * beams + parents).reshape(-1)


def _like(flags: Array, x: Array) -> Array:
    """Gives flags [S] as many axes as x has."""
    return flags.reshape(flags.shape + (1,) * (x.ndim - 1))


def run_steps(
    spec: Spec, weights: Weights, carry: Carry, max_steps: Array, enough: Array
) -> Carry:
    """Runs decoding steps until the host is wanted.

    That is after `max_steps`, or once `enough` slots have finished, or when a running
    slot has filled the cache (`fit_cache` then).

    Args:
      spec: what the program is made for.
      weights: from `split_weights`.
      carry: all slots.
      max_steps: int32 scalar.
      enough: int32 scalar, at least 1.
    """
    length = carry.cache[0][0].shape[-1]
    at_start = jnp.sum(carry.running)

    def go_on(state):
        count, carry = state
        running = jnp.sum(carry.running)
        longest = jnp.max(jnp.where(carry.running, carry.choice.index, 0))
        return (
            (count < max_steps)
            & (running > 0)
            & (at_start - running < enough)
            & (longest < length)
        )

    def body(state):
        count, carry = state
        return count + 1, step(spec, weights, carry)

    _, carry = jax.lax.while_loop(go_on, body, (jnp.int32(0), carry))
    return carry


def fit_cache(cache: KeysValues, length: int) -> KeysValues:
    """Returns the self-attention cache cut or padded to another length.

    Args:
      cache: keys [R, H, D, C] and values [R, H, C, D] of each layer.
      length: not less than the position of any running row.
    """

    def fit(x: Array, axis: int) -> Array:
        x = jax.lax.slice_in_dim(x, 0, min(x.shape[axis], length), axis=axis)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, length - x.shape[axis])
        return jnp.pad(x, padding)

    return tuple((fit(k, 3), fit(v, 2)) for k, v in cache)


def take_slots(spec: Spec, carry: Carry, slots: Array) -> Carry:
    """Returns the carry of some slots, int32 [S'], in their new order."""
    beams = spec.strategy.beams
    rows = (slots[:, None] * beams + jnp.arange(beams)[None, :]).reshape(-1)

    def take(tree: Any, indices: Array) -> Any:
        return jax.tree.map(lambda x: jnp.take(x, indices, axis=0), tree)

    return Carry(
        cross=take(carry.cross, slots),
        cache=take(carry.cache, rows),
        tokens=take(carry.tokens, slots),
        running=take(carry.running, slots),
        choice=take(carry.choice, slots),
        states=take(carry.states, rows),
    )


@functools.partial(jax.jit, static_argnames="spec")
def _decode(spec: Spec, params: Any, frames: Array) -> tuple[Array, Array]:
    """Decodes one batch from start to end inside one program."""
    batch, num_frames, _ = frames.shape
    weights = split_weights(params, spec)
    carry = start(spec, batch, num_frames, spec.max_length)._replace(
        cross=encode(spec, weights, frames),
        running=jnp.ones((batch,), bool),
        choice=spec.strategy.init(jnp.arange(batch), spec.max_length),
    )
    limits = (jnp.int32(spec.max_length), jnp.int32(batch))
    return spec.strategy.result(run_steps(spec, weights, carry, *limits).choice)


def decode(
    params: Mapping[str, Any],
    config: network.T5Config,
    inputs: jax.Array,
    *,
    max_length: int = 1024,
    strategy: Strategy | None = None,
    filters: Sequence[LogitFilter] = (),
) -> tuple[Array, Array]:
    """Decodes one batch from start to end; can be traced (inside `jax.jit`).

    It ends when the last segment has ended. For many segments `SegmentDecoder` is
    faster.

    Args:
      params: nested dict as in T5X checkpoints, `encoder` and `decoder`.
      config: sizes of the network.
      inputs: frames, float [B, T, input_depth].
      max_length: most tokens a segment may have, EOS included.
      strategy: `Beam()` if `None`, which is one-beam search.
      filters: rules about the next token, in the order in which they are applied.

    Returns:
      ids int32 [B, max_length], 0 after EOS, and scores float32 [B]. With several
      beams [B, N, max_length] and [B, N] in rising order of score.

    Raises:
      ShapeError: inputs or `max_length` do not fit the network.
      CheckpointError: a layer's parameters are missing.
    """
    if inputs.ndim != 3 or inputs.shape[-1] != config.input_depth:
        raise ShapeError(
            f"decoding: inputs of shape {tuple(inputs.shape)}; expected "
            f"[batch, frames, {config.input_depth}]"
        )
    spec = Spec(config, strategy or Beam(), tuple(filters), max_length)
    ids, scores = _decode(spec, params, jnp.asarray(inputs, jnp.float32))
    if spec.strategy.beams == 1:
        return ids[:, 0], scores[:, 0]
    return ids, scores


_split_weights = jax.jit(split_weights, static_argnames="spec")
_encode = jax.jit(encode, static_argnames="spec")
_start = jax.jit(
    start, static_argnames=("spec", "num_slots", "num_frames", "cache_length")
)
_admit = jax.jit(admit, static_argnames="spec", donate_argnames="carry")
_run_steps = jax.jit(run_steps, static_argnames="spec", donate_argnames="carry")
_fit_cache = jax.jit(fit_cache, static_argnames="length")
_take_slots = jax.jit(take_slots, static_argnames="spec")


@functools.partial(jax.jit, static_argnames="spec")
def _result(spec: Spec, choice: Any) -> tuple[Array, Array]:
    return spec.strategy.result(choice)


class Program:
    """The compiled functions bound to one set of parameters; see the functions."""

    def __init__(self, params: Mapping[str, Any], spec: Spec):
        """Arranges the parameters.

        Raises:
          CheckpointError: a layer is missing.
        """
        self.spec = spec
        self._weights = _split_weights(dict(params), spec)

    def encode(self, frames: np.ndarray) -> KeysValues:
        """Encodes segments [B, T, input_depth]."""
        return _encode(self.spec, self._weights, jnp.asarray(frames))

    def start(self, num_slots: int, num_frames: int, cache_length: int) -> Carry:
        """Returns a carry of empty slots."""
        return _start(self.spec, num_slots, num_frames, cache_length)

    def admit(
        self, carry: Carry, cross: KeysValues, row: int, slot: int, serial: int
    ) -> Carry:
        """Puts one encoded segment into a slot. `carry` must not be used again."""
        numbers = (np.int32(row), np.int32(slot), np.int32(serial))
        # Without the cache, whose length would make another program.
        admitted = _admit(self.spec, carry._replace(cache=()), cross, *numbers)
        return admitted._replace(cache=carry.cache)

    def run(self, carry: Carry, max_steps: int, enough: int) -> Carry:
        """Runs steps until the host is wanted. `carry` must not be used again."""
        limits = (np.int32(max_steps), np.int32(enough))
        return _run_steps(self.spec, self._weights, carry, *limits)

    def fit_cache(self, carry: Carry, length: int) -> Carry:
        """Changes the length of the self-attention cache."""
        return carry._replace(cache=_fit_cache(carry.cache, length))

    def take_slots(self, carry: Carry, slots: np.ndarray) -> Carry:
        """Keeps some slots, int [S'], in that order."""
        return _take_slots(self.spec, carry, np.asarray(slots, np.int32))

    def status(self, carry: Carry) -> tuple[np.ndarray, np.ndarray]:
        """Returns which slots run, bool [S], and their positions, int32 [S]."""
        # Copies: views would keep the buffers from being donated.
        return np.array(carry.running), np.array(carry.choice.index)

    def result(self, carry: Carry) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [S, N, max_length] and scores float32 [S, N]."""
        ids, scores = _result(self.spec, carry.choice)
        return np.asarray(ids), np.asarray(scores)
