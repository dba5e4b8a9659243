"""`benchmarks/transcribe.py`: the plain decoder, the counts and the profile."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import decoding_costs, op_profile, plain_decoder, transcribe
from benchmarks.forced_lengths import ForcedLengths
from mt3 import configs, decoding, network
from tests.support import golden_model

CONFIG = golden_model.TINY
MAX_LENGTH = 16


@pytest.fixture(scope="module")
def params():
    """Random weights whose logits differ enough for tokens to depend on the frames."""
    params = golden_model.tiny_params()
    decoder = params["decoder"]
    kernel = 3 * jnp.asarray(decoder["logits_dense"]["kernel"])
    return {**params, "decoder": {**decoder, "logits_dense": {"kernel": kernel}}}


def test_plain_decoder_and_slots_choose_the_same_tokens(params):
    frames = (
        np.random.default_rng(1)
        .normal(size=(11, 6, CONFIG.input_depth))
        .astype(np.float32)
    )
    lengths = (5, 16, 1, 9, 12, 3)
    strategy = ForcedLengths(lengths)
    plain = plain_decoder.PlainDecoder(params, CONFIG, strategy, MAX_LENGTH, batch=4)
    options = decoding.DecodeOptions(
        strategy=strategy, max_length=MAX_LENGTH, num_slots=4, cache_sizes=(4, 8)
    )
    decoder = decoding.SegmentDecoder(params, CONFIG, options)
    streamed = {r.key: r.ids for r in decoder.run(enumerate(frames))}
    theirs = plain.run(frames)
    assert [len(ids) for ids in theirs] == [lengths[i % 6] for i in range(11)]
    for number, ids in enumerate(theirs):
        np.testing.assert_array_equal(streamed[number], ids)
        assert (ids == 1).sum() == 1, "EOS at the end, and nowhere else"
    assert len({tuple(ids) for ids in theirs}) > 6, "tokens that depend on the frames"


def test_costs_of_the_mt3_size():
    config = network.T5Config.from_dict(configs.MT3.network)
    # An attention block has four matrices of 512 x 384, an MLP three of 512 x 1024.
    attention, mlp = 4 * 512 * 384, 3 * 512 * 1024
    assert decoding_costs.step_parameters(config) == (
        8 * (attention + attention // 2 + mlp) + 512 * 1536
    )
    layer = 2 * (attention + mlp) * 256 + 2 * 2 * 256 * 256 * 384
    cross = 2 * 2 * 512 * 384 * 256
    assert decoding_costs.encoder_flops(config, 256) == (
        8 * layer + 8 * cross + 2 * 512 * 512 * 256
    )
    alone, eight = (
        decoding_costs.step_bytes(config, 256, 100, rows=rows) for rows in (1, 8)
    )
    assert eight - alone == 4 * 7 * 8 * 2 * 384 * 356
    assert decoding_costs.step_flops(config, 256, 100) == (
        2 * decoding_costs.step_parameters(config) + 8 * 4 * 384 * 356
    )


def test_profile_adds_up_operations_by_shape():
    hlo = """
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = f32[4,2]{1,0} parameter(1)
  %dot.7 = f32[8,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}
  %dot.9 = f32[8,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}
"""
    events = [
        {"ph": "X", "name": "dot.7", "dur": 2.0},
        {"ph": "X", "name": "dot.9", "dur": 4.0},
        {"ph": "X", "name": "something else", "dur": 100.0},
        {"ph": "M", "name": "dot.7"},
    ]
    (row,) = op_profile.add_up(events, hlo)
    assert row.what == "dot f32[8,2] of f32[8,4], f32[4,2]"
    assert row.count == 2
    assert row.seconds == pytest.approx(6e-6)
    assert "0.003    1.0 100.0%" in op_profile.table([row], per=2)


def test_command_line():
    options = transcribe.parse_arguments(["check", "startup", "--threads", "1", "2"])
    assert options.parts == ["check", "startup"]
    assert options.threads == [1, 2]
    assert transcribe.parse_arguments([]).parts == list(transcribe.PARTS)
    with pytest.raises(SystemExit):
        transcribe.parse_arguments(["chek"])
