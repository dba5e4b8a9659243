"""Starting points of a training run with aids, and the parameters of the aids.

`guided` adds losses; this module makes the parameters that a run starts from, either
new ones that make learning easier (`from_nothing`) or those of a file (`from_weights`),
and separates the network's parameters from those of the aids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import checkpoints, frame_heads, harmonic_stem, layers, vocabularies
from mt3.beyond import copying_start
from mt3.beyond.grids import NEXT_EVENT_CLASSES, frame_of_time
from mt3.configs import ModelConfig
from mt3.network import MAX_POSITIONS, T5Config

# The name of the heads' parameters while they are trained.
AUXILIARY = "auxiliary"
_HEAD_SCALE = 0.05
# Log-mel values vary by about 3 where there is sound; positions by 0.7.
_INPUT_SCALE = 0.3
# Neighbouring frames have nearly equal rows.
_TIME_GAIN = 2.0


def network_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those of the training aids."""
    aids = (AUXILIARY, frame_heads.HEADS)
    return {key: value for key, value in params.items() if key not in aids}


def trained_heads(
    params: Mapping[str, Any], config: ModelConfig
) -> dict[str, jax.Array]:
    """Returns the heads of a training run that decoding can use; may be empty.

    Args:
      params: parameters of a checkpoint, with or without those of training aids.
      config: the run's model configuration.

    Returns:
      The parameters for `frame_heads.HEADS`.
    """
    sizes = T5Config.from_dict(config.network)
    wanted = frame_heads.head_shapes(sizes.emb_dim, sizes.note_channels)
    heads = params.get(AUXILIARY, {})
    found = {name: heads[name] for name in wanted if name in heads}
    shapes = {name: tuple(np.shape(value)) for name, value in found.items()}
    return found if sizes.harmonic_channels and shapes == wanted else {}


def from_nothing(
    params: Mapping[str, Any], sizes: T5Config, config: ModelConfig
) -> dict[str, Any]:
    """Returns parameters of a new network and its heads, which make learning easier.

    * A decoder that sees the positions of frames begins by copying (`copying_start`);
      the next two points are for others.
    * Embeddings and output columns of time shifts start as a rotation of the position
      table's rows at the matching frames instead of as independent random rows.
    * With the harmonic stem, the cross-attention of the last decoder layer starts as
      the identity. The output columns of pitches start as the directions in which the
      stem marks pitches that begin, and those of time shifts as the position rows of
      the matching frames. A decoder that looks at the right frame then writes the right
      time and pitches. Nothing changes without the stem, or where the attention heads
      do not fill the embedding.
    * The projection of frames starts without a response to the common value of all
      bands (log-mel silence is far from 0), and smaller, so that it does not mask the
      positions that are added to it. A network with the harmonic stem, whose inputs lie
      within 0..1, has no such projection.

    Args:
      params: the network's random parameters.
      sizes: the network's sizes.
      config: rate of frames and of time shifts.
    """
    params = dict(params)
    heads = _initial_heads(params, sizes)
    if copying_start.fits(sizes):
        params["decoder"] = copying_start.copying_decoder(
            params["decoder"], heads, sizes, config
        )
    else:
        params["decoder"] = _with_smooth_time_tokens(params["decoder"], config)
        params["decoder"] = _with_copying_start(params, sizes, config)
    projection = params["encoder"].get("continuous_inputs_projection")
    if projection is not None:
        kernel = projection["kernel"]
        kernel = kernel - jnp.mean(kernel, axis=0, keepdims=True)
        projection = {**projection, "kernel": _INPUT_SCALE * kernel}
        encoder = {**params["encoder"], "continuous_inputs_projection": projection}
        params["encoder"] = encoder
    params[AUXILIARY] = heads
    return params


def from_weights(
    params: Mapping[str, Any], sizes: T5Config, config: ModelConfig, path: str
) -> dict[str, Any]:
    """Returns the parameters of a file, or of a training run's newest checkpoint.

    Args:
      params: the network's random parameters.
      sizes: the network's sizes, which the file must have, too.
      config: the model's configuration.
      path: the file, the folder of the run, or the name of a model. Heads of the same
        shapes are taken over; others start anew.

    Raises:
      CheckpointError: there is none, or it belongs to another network.
    """
    path = checkpoints.resolve(path)
    if Path(path).is_dir():
        loaded = checkpoints.load_orbax(checkpoints.find_checkpoint(path)).params
    else:
        loaded = checkpoints.load(path).params
    wanted = {**sizes.to_dict(), "frame_heads": False}
    network = network_params(loaded)
    checkpoints.check_parameters(
        network, dataclasses.replace(config, network=wanted), source=path
    )
    params = {**params, **jax.tree.map(jnp.asarray, network)}
    heads = _initial_heads(params, sizes)
    known = {**loaded.get(frame_heads.HEADS, {}), **loaded.get(AUXILIARY, {})}
    for name, value in known.items():
        if name in heads and jnp.shape(heads[name]) == np.shape(value):
            heads[name] = jnp.asarray(value)
    params[AUXILIARY] = heads
    return params


def _initial_heads(params: Mapping[str, Any], sizes: T5Config) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)

    def kernel(depth: int, width: int) -> jax.Array:
        # With zeros, no gradient would reach the encoder at first.
        return jnp.asarray(rng.normal(0, _HEAD_SCALE, (depth, width)), jnp.float32)

    # Events are rare: the biases start there, so that this need not be learned.
    heads = {
        "kernel": kernel(sizes.emb_dim, frame_heads.FRAME_FEATURES),
        "bias": jnp.full((frame_heads.FRAME_FEATURES,), -5.0, jnp.float32),
        "next_event": kernel(sizes.emb_dim, NEXT_EVENT_CLASSES),
    }
    if sizes.harmonic_channels:
        shapes = frame_heads.head_shapes(sizes.emb_dim, sizes.note_channels)
        for name in shapes.keys() - heads.keys():
            biased = name.endswith("_bias")
            shape = shapes[name]
            heads[name] = jnp.zeros(shape, jnp.float32) if biased else kernel(*shape)
        heads["refine_bias"] -= 5.0
        pitches, low = harmonic_stem.NUM_PITCHES, harmonic_stem.LOWEST_PITCH
        for kind, marks in enumerate(_note_directions(params)):
            first = kind * vocabularies.NUM_PITCHES + low
            columns = slice(first, first + pitches)
            heads["kernel"] = heads["kernel"].at[:, columns].set(marks.T)
    return heads


def _with_smooth_time_tokens(decoder, config: ModelConfig):
    """Replaces the rows and columns of time shifts by rotated positions."""
    decoder = dict(decoder)
    table = jnp.asarray(decoder["token_embedder"]["embedding"])
    depth = table.shape[1]
    ids, rows = _time_rows(depth, config)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(depth, depth)))
    # Rows of the position table have half the power of random embeddings.
    smooth = (np.sqrt(2.0) * rows @ rotation).astype(np.float32)
    decoder["token_embedder"] = {"embedding": table.at[ids].set(smooth)}
    if "logits_dense" in decoder:
        kernel = jnp.asarray(decoder["logits_dense"]["kernel"])
        kernel = kernel.at[:, ids].set((smooth.T / np.sqrt(depth)).astype(np.float32))
        decoder["logits_dense"] = {"kernel": kernel}
    return decoder


def _with_copying_start(params, sizes: T5Config, config: ModelConfig) -> dict[str, Any]:
    """Returns the decoder's parameters for a copying start; see `from_nothing`."""
    decoder = dict(params["decoder"])
    joined = sizes.num_heads * sizes.head_dim
    if not sizes.harmonic_channels or joined != sizes.emb_dim:
        return decoder
    name = f"layers_{sizes.num_decoder_layers - 1}"
    layer = dict(decoder[name])
    attention = dict(layer["encoder_decoder_attention"])
    attention["value"] = {"kernel": jnp.eye(joined, dtype=jnp.float32)}
    attention["out"] = {"kernel": jnp.eye(joined, dtype=jnp.float32)}
    layer["encoder_decoder_attention"] = attention
    decoder[name] = layer
    if "logits_dense" not in decoder:
        return decoder
    begins, _ = _note_directions(params)
    codec = vocabularies.build_codec(config.vocabulary)
    first = vocabularies.NUM_SPECIAL_IDS + codec.event_type_range("pitch")[0]
    first += harmonic_stem.LOWEST_PITCH
    kernel = jnp.asarray(decoder["logits_dense"]["kernel"])
    kernel = kernel.at[:, first : first + len(begins)].set(begins.T)
    ids, rows = _time_rows(sizes.emb_dim, config)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = kernel.at[:, ids].set((_TIME_GAIN * rows.T).astype(np.float32))
    decoder["logits_dense"] = {"kernel": kernel}
    return decoder


def _note_directions(params) -> tuple[jax.Array, jax.Array]:
    """Returns the directions that mark a pitch as beginning and sounding, [88, D]."""
    stem = params["encoder"]["harmonic_stem"]
    marks = jnp.asarray(stem["probabilities_projection"]["kernel"])
    marks = marks.reshape(harmonic_stem.NUM_PITCHES, 2, -1)
    marks = marks / jnp.linalg.norm(marks, axis=-1, keepdims=True)
    return marks[:, 0], marks[:, 1]


def _time_rows(depth: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of a segment's time shifts and their position rows [n, depth]."""
    rate = config.vocabulary.steps_per_second
    steps = np.arange(int(config.segment_seconds * rate) + 2)
    positions = layers.sinusoidal_table(MAX_POSITIONS, depth)
    frames = np.clip(frame_of_time(steps / rate, config), 0, MAX_POSITIONS - 1)
    whole = np.floor(frames).astype(int)
    part = (frames - whole)[:, None]
    rows = (1 - part) * positions[whole] + part * positions[whole + 1]
    return vocabularies.NUM_SPECIAL_IDS + steps, rows
