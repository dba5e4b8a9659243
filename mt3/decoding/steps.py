"""The pure functions of decoding: encode, admit, step, run.

All segments in flight live in a `Carry` of S slots with N rows (beams) each. Slots
are independent: each has its own position, so a slot can take the next segment while
the others go on. `run_steps` is one `while_loop` over decoding steps on the device.

How arrays are laid out, and why, is told in `columns`. Encoder layers are scanned:
there the copy that a scan makes of each layer does not matter.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mt3 import harmonic_stem, network
from mt3.beyond.evidence import Evidence, FrameEvidence
from mt3.beyond.type_first import TypeFirst
from mt3.decoding import layer_step
from mt3.decoding.masks import GrammarMask, LogitMask
from mt3.decoding.strategies import NEG_INF, Strategy
from mt3.errors import CheckpointError, ConfigError

Array = jax.Array
KeysValues = tuple[tuple[Array, Array], ...]  # One pair a decoder layer.


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a compiled program is made for; hashable.

    Attributes:
      config: sizes of the network.
      strategy: how tokens are chosen.
      mask: which tokens may be chosen; `None` is all.
      max_length: most tokens a segment may have.
      type_first: changes the logits that the mask leaves; `None` for not.
      evidence: how to weigh tokens by what the encoder hears; `None` for not. It
        needs a mask that is a `GrammarMask`, and frame heads.

    Raises:
      ConfigError: evidence without the grammar, or of a network without the heads.
    """

    config: network.T5Config
    strategy: Strategy
    mask: LogitMask | None
    max_length: int
    type_first: TypeFirst | None = None
    evidence: FrameEvidence | None = None

    def __post_init__(self):
        if self.evidence is None:
            return
        if not isinstance(self.mask, GrammarMask):
            raise ConfigError(
                "decoding: evidence is asked for without the grammar, whose state it "
                "follows; expected both"
            )
        if not self.config.frame_heads:
            raise ConfigError(
                "decoding: evidence is asked for, but these weights have no frame "
                "heads; expected weights that were exported with them"
            )


class Weights(NamedTuple):
    """Parameters as decoding wants them."""

    encoder: Mapping[str, Any]  # without the layers
    encoder_layers: Any  # one layer's tree, stacked along a leading axis
    decoder: layer_step.DecoderWeights
    heads: Mapping[str, Any] | None = None  # of frames, where there is evidence


class Encoded(NamedTuple):
    """What decoding needs of a batch of segments."""

    cross: KeysValues  # [B, H, D, T] and [B, H, T, D]
    evidence: Evidence | None


class Carry(NamedTuple):
    """Everything that changes from step to step."""

    encoded: Encoded  # of S segments
    cache: KeysValues  # [S * N, H, D, C] and [S * N, H, C, D]
    tokens: Array  # int32 [S, N]: fed in at the next step
    running: Array  # bool [S]: the slot holds an unfinished segment
    choice: Any  # state of the strategy
    grammar: Any  # state of the mask, [S * N, ...]


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
        heads=_heads(params) if spec.evidence is not None else None,
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


def _heads(params: Mapping[str, Any]) -> Mapping[str, Any]:
    heads = params.get(harmonic_stem.HEADS, {})
    missing = [name for name in harmonic_stem.HEAD_PARTS if name not in heads]
    if missing:
        raise CheckpointError(
            f"decoding: parameters lack {harmonic_stem.HEADS}/{missing[0]}"
        )
    return {name: heads[name].astype(jnp.float32) for name in harmonic_stem.HEAD_PARTS}


def encode(spec: Spec, weights: Weights, frames: Array) -> Encoded:
    """Encodes segments and projects them for the cross-attention of all layers.

    Args:
      spec: what the program is made for.
      weights: from `split_weights`.
      frames: float32 [B, T, input_depth].

    Returns:
      For each decoder layer keys [B, H, D, T] and values [B, H, T, D]; and evidence.
    """
    config = spec.config
    encoder = network.Encoder(config)
    layer = network.EncoderLayer(config)
    variables = {"params": weights.encoder}
    x, sown = encoder.apply(
        variables, frames, method="embed_frames", mutable=["intermediates"]
    )

    def body(x, params):
        return layer.apply({"params": params}, x), None

    x, _ = jax.lax.scan(body, x, weights.encoder_layers)
    encoded = encoder.apply(variables, x, method="finish")
    cross = tuple(
        _project_cross(config, layer, encoded) for layer in weights.decoder.layers
    )
    evidence = None
    if spec.evidence is not None:
        stem = sown["intermediates"]["harmonic_stem"]
        evidence = spec.evidence.hear(weights.heads, encoded, stem)
    return Encoded(cross, evidence)


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
        encoded=Encoded(
            zeros(num_slots, num_frames),
            None if spec.evidence is None else spec.evidence.empty(num_slots),
        ),
        cache=zeros(rows, cache_length),
        tokens=jnp.zeros((num_slots, spec.strategy.beams), jnp.int32),
        running=jnp.zeros((num_slots,), bool),
        choice=spec.strategy.init(jnp.zeros((num_slots,), jnp.int32), spec.max_length),
        grammar=None if spec.mask is None else spec.mask.init(rows),
    )


def admit(
    spec: Spec, carry: Carry, encoded: Encoded, row: Array, slot: Array, serial: Array
) -> Carry:
    """Puts one encoded segment into a slot.

    Args:
      spec: what the program is made for.
      carry: all slots.
      encoded: a batch of segments, from `encode`.
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
    grammar = carry.grammar
    if spec.mask is not None:
        grammar = jax.tree.map(
            lambda whole, part: place(whole, part, slot * beams),
            grammar,
            spec.mask.init(beams),
        )
    return carry._replace(
        encoded=jax.tree.map(
            lambda whole, batch: place(whole, take(batch), slot), carry.encoded, encoded
        ),
        tokens=place(carry.tokens, jnp.zeros((1, beams), jnp.int32), slot),
        running=carry.running.at[slot].set(True),
        choice=jax.tree.map(lambda w, p: place(w, p, slot), carry.choice, fresh),
        grammar=grammar,
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
        weights.decoder.layers, carry.encoded.cross, carry.cache, strict=True
    ):
        y, cache_k, cache_v = _layer_step(
            spec.config, layer, y, *cross, cache_k, cache_v, position
        )
        cache.append((cache_k, cache_v))
    logits = layer_step.to_logits(spec.config, weights.decoder, y)
    logits = logits.reshape(slots, beams, -1)
    encoded = carry.encoded
    # Without what the choice does not look at, its traced function serves all lengths
    # of the cache.
    light = carry._replace(encoded=encoded._replace(cross=()), cache=())
    chosen, parents = _choose(spec, light, logits)
    if beams > 1:
        rows = _rows(parents)
        cache = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), cache)
    return chosen._replace(encoded=encoded, cache=tuple(cache))


@functools.partial(jax.jit, static_argnums=0)
def _choose(spec: Spec, carry: Carry, logits: Array) -> tuple[Carry, Array]:
    """Lets mask and strategy choose the tokens; returns the rows they continue too."""
    _, beams = carry.tokens.shape
    if spec.mask is not None:
        allowed = spec.mask.allowed(carry.grammar).reshape(logits.shape)
        if spec.evidence is not None:
            logits = _weighed(spec, carry, logits, allowed)
        logits = jnp.where(allowed, logits, NEG_INF)
    if spec.type_first is not None:
        logits = spec.type_first(logits)
    choice, tokens, parents = spec.strategy.advance(carry.choice, logits)
    choice = jax.tree.map(
        lambda new, old: jnp.where(_like(carry.running, new), new, old),
        choice,
        carry.choice,
    )
    grammar = carry.grammar
    if beams > 1:
        rows = _rows(parents)
        grammar = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), grammar)
    if spec.mask is not None:
        grammar = spec.mask.advance(grammar, tokens.reshape(-1))
    carry = carry._replace(
        tokens=tokens,
        running=carry.running & ~spec.strategy.done(choice),
        choice=choice,
        grammar=grammar,
    )
    return carry, parents


def _rows(parents: Array) -> Array:
    """Returns which of all rows each row continues, int [S * N]; parents [S, N]."""
    slots, beams = parents.shape
    return (jnp.arange(slots)[:, None] * beams + parents).reshape(-1)


def _weighed(spec: Spec, carry: Carry, logits: Array, allowed: Array) -> Array:
    """Weighs logits [S, N, V] by the evidence of each slot."""
    beams = logits.shape[1]
    evidence = carry.encoded.evidence
    if beams > 1:
        evidence = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), evidence)
    rows = logits.reshape(-1, logits.shape[-1])
    rows = spec.evidence(
        rows, evidence, spec.mask, carry.grammar, allowed.reshape(rows.shape)
    )
    return rows.reshape(logits.shape)


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
        encoded=take(carry.encoded, slots),
        cache=take(carry.cache, rows),
        tokens=take(carry.tokens, slots),
        running=take(carry.running, slots),
        choice=take(carry.choice, slots),
        grammar=take(carry.grammar, rows),
    )
