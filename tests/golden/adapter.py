"""The stable test surface: golden files and outside checkers call these functions.

A thin layer over the public API. Notes are dicts with start_time, end_time, pitch,
velocity, program and is_drum; `sizes` is a dict of `network.T5Config` fields.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mt3 import spectrograms, tokenizer
from mt3.configs import ModelConfig
from mt3.note_sequences import Note, TrackSpec, note_values
from mt3.vocabularies import VocabularyConfig


def _tokenizer(num_velocity_bins, ties, onsets_only=False, granularity="full"):
    return tokenizer.NoteTokenizer(
        ModelConfig(
            network={},
            vocabulary=VocabularyConfig(num_velocity_bins=num_velocity_bins),
            include_ties=ties,
            onsets_only=onsets_only,
            program_granularity=granularity,
        )
    )


def _notes(dicts: Sequence[Mapping[str, Any]]) -> list[Note]:
    return [Note(**note) for note in dicts]


def notes_to_tokens(
    notes,
    seconds,
    first_frame,
    num_frames,
    *,
    num_velocity_bins,
    ties,
    onsets_only,
    program_granularity,
):
    """Returns event tokens and vocabulary ids (with EOS) of one segment, as lists."""
    tok = _tokenizer(num_velocity_bins, ties, onsets_only, program_granularity)
    samples = round(seconds * tok.spectrogram.sample_rate)
    frames = spectrograms.number_of_frames(samples, tok.spectrogram)
    song = tok.encode_song(_notes(notes), frames)
    events = tok.segment_events(song, first_frame, num_frames)
    return events.tolist(), tok.to_ids(events).tolist()


def tokens_to_notes(predictions, *, num_velocity_bins, ties):
    """Returns notes (dicts), invalid and dropped event counts of a song.

    Args:
      predictions: dicts with `start_time` (seconds) and `tokens`.
      num_velocity_bins: of the codec.
      ties: whether segments begin with a tie section.
    """
    pairs = [(item["start_time"], item["tokens"]) for item in predictions]
    notes, invalid, dropped = tokenizer.decode_predictions(
        pairs, _tokenizer(num_velocity_bins, ties)
    )
    return [note_values(note) for note in notes], invalid, dropped


def log_mel(samples) -> np.ndarray:
    """Returns the log-mel spectrogram, float32 [frames, 512]."""
    from mt3 import spectrograms

    config = spectrograms.SpectrogramConfig()
    return spectrograms.compute_spectrogram(np.asarray(samples), config)


def scores(reference_notes, estimated_notes, track_specs=None) -> dict[str, float]:
    """Returns the mean of all metrics over songs, as the original computes them.

    Args:
      reference_notes: one list of notes per song.
      estimated_notes: likewise.
      track_specs: [name, program, is_drum] of tracks to score apart.
    """
    from mt3.scoring import counts

    specs = [TrackSpec(*spec) for spec in track_specs or ()]
    songs = [
        counts.song_counts(
            _notes(reference),
            _notes(estimate),
            specs,
            original_side_effects=True,
            original_drum_programs=True,
            reference_instruments=0,
        )
        for reference, estimate in zip(reference_notes, estimated_notes, strict=True)
    ]
    return counts.mean_metrics(
        [counts.scores_of_counts(song, empty="zero") for song in songs]
    )


def load_checkpoint(path) -> dict[str, Any]:
    """Returns the parameters of a checkpoint, a nested dict of arrays."""
    from mt3 import checkpoints

    return checkpoints.load(path).params


def _network_config(sizes):
    from mt3 import network

    return network.T5Config.from_dict(dict(sizes))


def _model(sizes):
    from mt3 import models, network

    config = _network_config(sizes)
    return models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(config),
        input_vocabulary=None,
        output_vocabulary=None,
        optimizer_def=None,
        input_depth=config.input_depth,
        z_loss=1e-4,
    )


def _batch(inputs, targets):
    targets = np.asarray(targets, np.int32)
    decoder_inputs = np.zeros_like(targets)
    decoder_inputs[:, 1:] = targets[:, :-1]
    return {
        "encoder_input_tokens": np.asarray(inputs, np.float32),
        "decoder_input_tokens": decoder_inputs,
        "decoder_target_tokens": targets,
    }


def logits(params, sizes, inputs, targets) -> np.ndarray:
    """Returns teacher-forced logits, float32 [batch, length, vocabulary].

    Args:
      params: as `load_checkpoint` returns them.
      sizes: `network.T5Config` fields.
      inputs: frames, float32 [batch, frames, depth].
      targets: ids, int32 [batch, length], 0 is padding.
    """
    import jax

    from mt3 import network

    batch = _batch(inputs, targets)
    module = network.Transformer(_network_config(sizes))
    apply = jax.jit(functools.partial(module.apply, enable_dropout=False))
    return np.asarray(apply({"params": params}, *batch.values()))


def loss(params, sizes, inputs, targets) -> float:
    """Returns the training loss: summed cross-entropy and z-loss, no dropout."""
    import jax

    loss_fn = jax.jit(lambda p, batch: _model(sizes).loss_fn(p, batch, None)[0])
    return float(loss_fn(params, _batch(inputs, targets)))


def decode(params, sizes, inputs, max_length, method, beams=1):
    """Decodes a batch.

    Args:
      params: as `load_checkpoint` returns them.
      sizes: `network.T5Config` fields.
      inputs: frames, float32 [batch, frames, depth].
      max_length: most tokens.
      method: "beam" or "greedy".
      beams: for "beam".

    Returns:
      ids, int32 [batch, max_length] or, with several beams, [batch, beams,
      max_length] in ascending order of score; and scores.
    """
    from mt3 import decoding

    strategy = (
        decoding.Greedy() if method == "greedy" else decoding.Beam(num_beams=beams)
    )
    ids, scores = decoding.decode(
        params,
        _network_config(sizes),
        np.asarray(inputs, np.float32),
        max_length=max_length,
        strategy=strategy,
    )
    return np.asarray(ids), np.asarray(scores)


def adafactor_steps(params, sizes, inputs, targets, learning_rate, steps):
    """Takes Adafactor steps on one batch, without dropout.

    Returns:
      The loss before each step, and the parameters after the last.
    """
    import jax

    from mt3.engine import adafactor

    optimizer = adafactor.Adafactor()
    loss_fn = _model(sizes).loss_fn
    batch = _batch(inputs, targets)

    @jax.jit
    def step(params, state):
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch, None
        )
        updated = optimizer.apply_gradient(
            params, state, grads, learning_rate=learning_rate
        )
        return *updated, loss

    losses, state = [], optimizer.init_state(params)
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return losses, jax.tree.map(np.asarray, params)
