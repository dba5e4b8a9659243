"""How much arithmetic and memory traffic transcribing asks for, from the sizes alone.

A multiplication and an addition count as two operations. Counted are the matrix
products and what they have to read at least once: parameters, and keys and values of
the attention. Norms, softmax and the choice of tokens are left out; they are small.
"""

from __future__ import annotations

from mt3.network import T5Config


def attention_size(config: T5Config) -> int:
    """Returns the parameters of one attention block."""
    return 4 * config.emb_dim * config.num_heads * config.head_dim


def mlp_size(config: T5Config) -> int:
    """Returns the parameters of one feed-forward block."""
    return (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim


def encoder_flops(config: T5Config, frames: int) -> int:
    """Returns the operations that encode one segment, cross-projections included.

    The harmonic stem, where there is one, is not counted.
    """
    width = config.num_heads * config.head_dim
    layer = 2 * (attention_size(config) + mlp_size(config)) + 4 * frames * width
    cross = 2 * 2 * config.emb_dim * width
    dense = 0 if config.harmonic_channels else 2 * config.input_depth * config.emb_dim
    return frames * (
        config.num_encoder_layers * layer + config.num_decoder_layers * cross + dense
    )


def step_parameters(config: T5Config) -> int:
    """Returns the parameters that a decoding step reads."""
    cross = attention_size(config) // 2  # Queries and outputs.
    layer = attention_size(config) + cross + mlp_size(config)
    return config.num_decoder_layers * layer + config.emb_dim * config.vocab_size


def step_flops(config: T5Config, frames: int, length: float) -> float:
    """Returns the operations of one step of one segment.

    Args:
      config: sizes of the network.
      frames: of the segment.
      length: tokens so far that the step attends to.
    """
    width = config.num_heads * config.head_dim
    attention = config.num_decoder_layers * 4 * width * (frames + length)
    return 2 * step_parameters(config) + attention


def step_bytes(
    config: T5Config, frames: int, length: float, rows: int, itemsize: int = 4
) -> float:
    """Returns the bytes that one step of `rows` segments has to read."""
    width = config.num_heads * config.head_dim
    attended = config.num_decoder_layers * 2 * width * (frames + length)
    return itemsize * (step_parameters(config) + rows * attended)
