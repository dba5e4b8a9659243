"""Tests of `mt3.network`."""

from __future__ import annotations

import dataclasses
import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import network
from mt3.errors import ConfigError, ShapeError
from tests.support import drawn, golden_model
from tests.support.golden_model import TINY, tiny_batch, tiny_params

RELEASED = {
    "mt3": network.T5Config.from_dict({"vocab_size": 1536}),
    "ismir2021": network.T5Config.from_dict({"vocab_size": 1664}),
    "ismir2022_base": network.T5Config.from_dict(
        {
            "vocab_size": 1536,
            "emb_dim": 768,
            "num_heads": 12,
            "num_encoder_layers": 12,
            "num_decoder_layers": 12,
            "mlp_dim": 2048,
        }
    ),
}


def init_shapes(config):
    """Shapes of all variables, without computing any."""

    def init():
        tokens = jnp.zeros((1, 2), jnp.int32)
        return network.Transformer(config).init(
            jax.random.key(0),
            jnp.zeros((1, 3, config.input_depth)),
            tokens,
            tokens,
            enable_dropout=False,
        )

    return jax.eval_shape(init)


@functools.lru_cache(maxsize=64)
def compiled(module, **static):
    return jax.jit(
        functools.partial(module.apply, **static), compiler_options=golden_model.QUICK
    )


def apply(config, *args, params=None, rngs=None, method=None, mutable=False, **options):
    """Applies the network, compiled once: op by op is several times slower."""
    params = tiny_params(config) if params is None else params
    run = compiled(
        network.Transformer(config),
        method=method,
        mutable=mutable,
        enable_dropout=rngs is not None,
        **({"decode": True} if options.pop("decode", False) else {}),
    )
    return run({"params": params}, *args, rngs=rngs, **options)


class TestParameters:
    @pytest.mark.parametrize("name", RELEASED)
    def test_names_and_shapes_are_the_released_ones(self, name, golden_data):
        golden = json.loads((golden_data / "parameter_shapes.json").read_text())[name]
        assert len(golden) > 100
        params = init_shapes(RELEASED[name])["params"]
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        assert {key: list(leaf.shape) for key, leaf in flat.items()} == golden
        assert {leaf.dtype for leaf in flat.values()} == {jnp.dtype("float32")}

    def test_number_of_parameters(self):
        leaves = jax.tree.leaves(init_shapes(RELEASED["mt3"])["params"])
        assert sum(leaf.size for leaf in leaves) == pytest.approx(45.9e6, rel=2e-3)

    def test_every_parameter_has_logical_axes(self):
        variables = init_shapes(TINY)
        params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
        axes = flax.traverse_util.flatten_dict(variables["params_axes"], sep="/")
        assert set(axes) == {f"{name}_axes" for name in params}
        known = {"vocab", "embed", "mlp", "joined_kv"}
        for name, leaf in params.items():
            names = axes[f"{name}_axes"].names
            assert len(names) == leaf.ndim, name
            assert set(names) <= known, name

    def test_tied_logits_have_no_output_layer(self):
        tied = dataclasses.replace(TINY, logits_via_embedding=True)
        names = [
            set(init_shapes(config)["params"]["decoder"]) for config in (TINY, tied)
        ]
        assert names[0] - names[1] == {"logits_dense"}


class TestGolden:
    def test_teacher_forced_logits(self):
        golden = golden_model.outputs()["teacher_forced_logits"]
        batch = golden_model.training_batch()
        logits = apply(
            golden_model.CONFIG,
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            params=golden_model.params(),
        )
        assert logits.dtype == jnp.float32
        # Positions of padding too: there each row sees everything alike.
        np.testing.assert_allclose(logits[:, : golden.shape[1]], golden, atol=1e-4)

    def test_bfloat16_stays_near(self):
        golden = golden_model.outputs()["teacher_forced_logits"]
        batch = golden_model.training_batch()
        logits = apply(
            dataclasses.replace(golden_model.CONFIG, dtype="bfloat16"),
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"][:, :16],
            batch["decoder_target_tokens"][:, :16],
            params=golden_model.params(),
        )
        assert logits.dtype == jnp.float32
        real = np.asarray(batch["decoder_target_tokens"][:, :16]) > 0
        error = np.abs(np.asarray(logits) - golden)[real]
        # Eight bits of mantissa: relative error near 1/100 on logits of size 10.
        assert 0.0 < np.mean(error) < 0.1


class TestForward:
    def test_shapes(self):
        frames, inputs, targets = tiny_batch(batch=3, frames=6, length=5)
        assert apply(TINY, frames, inputs, targets).shape == (3, 5, 24)
        encoded = apply(TINY, frames, method="encode")
        assert encoded.shape == (3, 6, 8)

    def test_encode_then_decode_is_call(self):
        frames, inputs, targets = tiny_batch()
        encoded = apply(TINY, frames, method="encode")
        np.testing.assert_array_equal(
            apply(TINY, encoded, frames, inputs, targets, method="decode"),
            apply(TINY, frames, inputs, targets),
        )

    def test_later_tokens_do_not_matter(self):
        frames, inputs, targets = tiny_batch()
        changed = inputs.at[:, 3:].set(7)
        before = apply(TINY, frames, inputs, targets)
        after = apply(TINY, frames, changed, targets)
        np.testing.assert_allclose(after[1:, :3], before[1:, :3], atol=1e-6)
        assert not np.allclose(after[1:, 3:], before[1:, 3:], atol=1e-3)

    def test_rows_of_a_batch_are_independent(self):
        frames, inputs, targets = tiny_batch()
        alone = apply(TINY, frames[1:2], inputs[1:2], targets[1:2])
        together = apply(TINY, frames, inputs, targets)
        np.testing.assert_allclose(alone[0], together[1], atol=1e-6)

    def test_silent_frames_after_the_end_are_seen(self):
        frames, inputs, targets = tiny_batch()
        longer = jnp.pad(frames, ((0, 0), (0, 2), (0, 0)))
        assert not np.allclose(
            apply(TINY, frames, inputs, targets),
            apply(TINY, longer, inputs, targets),
            atol=1e-4,
        )

    def test_half_precision_inputs_are_taken(self):
        frames, inputs, targets = tiny_batch()
        half = frames.astype(jnp.float16)
        np.testing.assert_array_equal(
            apply(TINY, half, inputs, targets),
            apply(TINY, half.astype(jnp.float32), inputs, targets),
        )

    def test_tied_logits(self):
        config = dataclasses.replace(TINY, logits_via_embedding=True)
        params = tiny_params(config)
        frames, inputs, targets = tiny_batch()
        y, state = network.Transformer(config).apply(
            {"params": params},
            frames,
            inputs,
            targets,
            enable_dropout=False,
            capture_intermediates=lambda module, _: module.name == "decoder_norm",
        )
        (normed,) = state["intermediates"]["decoder"]["decoder_norm"]["__call__"]
        table = np.asarray(params["decoder"]["token_embedder"]["embedding"])
        np.testing.assert_allclose(
            y, np.asarray(normed) @ table.T / np.sqrt(8.0), rtol=1e-4, atol=1e-5
        )

    def test_attention_weights_are_offered(self):
        frames, inputs, targets = tiny_batch()
        _, state = apply(TINY, frames, inputs, targets, mutable="intermediates")
        decoder = state["intermediates"]["decoder"]
        assert set(state["intermediates"]) == {"encoder", "decoder"}
        for layer in state["intermediates"]["encoder"].values():
            (weights,) = layer["attention"]["attention_weights"]
            assert weights.shape == (3, 2, 6, 6)
        assert set(decoder) == {"layers_0"}
        for layer in decoder.values():
            assert set(layer) == {"encoder_decoder_attention"}
            (weights,) = layer["encoder_decoder_attention"]["attention_weights"]
            assert weights.shape == (3, 2, 5, 6)


class TestDropout:
    def run(self, seed=None):
        frames, inputs, targets = tiny_batch()
        config = dataclasses.replace(TINY, dropout_rate=0.3)
        if seed is None:
            return apply(config, frames, inputs, targets)
        rngs = {"dropout": jax.random.key(seed)}
        return apply(config, frames, inputs, targets, rngs=rngs)

    def test_off_is_deterministic_and_needs_no_key(self):
        np.testing.assert_array_equal(self.run(), self.run())

    def test_on_depends_on_the_key_alone(self):
        np.testing.assert_array_equal(self.run(1), self.run(1))
        assert not np.allclose(self.run(1), self.run(2))
        assert not np.allclose(self.run(1), self.run())

    def test_encoder_draws_per_position_only_at_its_end(self):
        config = dataclasses.replace(TINY, dropout_rate=0.5, emb_dim=64)
        x = jnp.ones((2, 40, 64))
        rngs = {"dropout": jax.random.key(0)}

        def number_of_draws(module, method, *args):
            run = compiled(module, method=method, deterministic=False)
            return len(np.unique(run(*args, rngs=rngs)[0] == 0, axis=0))

        params = {"params": {"encoder_norm": {"scale": jnp.ones(64)}}}
        encoder = network.Encoder(config)
        assert number_of_draws(encoder, "finish", params, x) == 40
        # A layer's own draws are shared by all positions.
        layer = network.EncoderLayer(config)
        init = functools.partial(layer.init, deterministic=True)
        params = {"params": drawn.parameters(init, x)}
        zero = {"params": jax.tree.map(jnp.zeros_like, params["params"])}
        zero["params"]["mlp"] = params["params"]["mlp"]
        zero["params"]["pre_mlp_layer_norm"] = params["params"]["pre_mlp_layer_norm"]
        run = compiled(layer, deterministic=False)
        change = run(zero, x, rngs=rngs) - x
        assert len(np.unique(change[0] == 0, axis=0)) == 1
        assert (change[0] == 0).any()

    def test_decoder_steps(self):
        """Step by step through the cache, logits are the teacher-forced ones."""
        frames, inputs, targets = tiny_batch(length=6)
        targets = jnp.where(targets == 0, 5, targets)
        inputs = golden_model.shift_right(targets)
        module = network.Transformer(TINY)
        params = {"params": tiny_params()}
        forced = apply(TINY, frames, inputs, targets)
        _, state = apply(TINY, frames, inputs, targets, mutable=("cache",), decode=True)
        cache = state["cache"]
        flat = flax.traverse_util.flatten_dict(cache, sep="/")
        layer = "decoder/layers_0/self_attention"
        assert {name: leaf.shape for name, leaf in flat.items()} == {
            "decoder/FixedEmbed_0/position_embedder_index": (),
            f"{layer}/cache_index": (),
            f"{layer}/cached_key": (3, 2, 3, 6),
            f"{layer}/cached_value": (3, 2, 3, 6),
        }
        assert not any(leaf.any() for leaf in flat.values())
        encoded = apply(TINY, frames, method="encode")
        step = compiled(
            module,
            method="decode",
            mutable=("cache",),
            enable_dropout=False,
            decode=True,
            max_decode_length=6,
        )
        for i in range(6):
            token = inputs[:, i : i + 1]
            logits, state = step(
                {**params, "cache": cache}, encoded, frames, token, token
            )
            cache = state["cache"]
            np.testing.assert_allclose(logits[:, 0], forced[:, i], atol=1e-5)
        assert int(cache["decoder"]["FixedEmbed_0"]["position_embedder_index"]) == 6


POSITIONED = dataclasses.replace(TINY, use_positions=True)


class TestPositionsAndPacking:
    def test_positions_from_zero_are_the_default(self):
        frames, inputs, targets = tiny_batch(batch=3, frames=6, length=5)
        explicit = apply(
            POSITIONED,
            frames,
            inputs,
            targets,
            encoder_positions=jnp.tile(jnp.arange(6)[None], (3, 1)),
            decoder_positions=jnp.tile(jnp.arange(5)[None], (3, 1)),
        )
        default = apply(TINY, frames, inputs, targets)
        np.testing.assert_allclose(explicit, default, atol=1e-6)

    @pytest.mark.parametrize("name", ["encoder_positions", "decoder_positions"])
    def test_positions_are_honoured(self, name):
        frames, inputs, targets = tiny_batch(batch=3, frames=5, length=5)
        shifted = jnp.tile(jnp.arange(7, 12)[None], (3, 1))
        plain = apply(TINY, frames, inputs, targets)
        found = apply(POSITIONED, frames, inputs, targets, **{name: shifted})
        assert not np.allclose(found, plain, atol=1e-3)
        # As in the original they are ignored otherwise.
        ignored = apply(TINY, frames, inputs, targets, **{name: shifted})
        np.testing.assert_array_equal(ignored, plain)

    def test_packed_examples_do_not_see_each_other(self):
        frames, inputs, targets = tiny_batch(batch=2, frames=4, length=3, seed=3)
        targets = targets.at[:].set(jnp.maximum(targets, 3))
        inputs = golden_model.shift_right(targets)
        apart = apply(TINY, frames, inputs, targets)

        def pack(x):
            return jnp.concatenate([x[:1], x[1:]], axis=1)

        def ids(length):
            return jnp.array([[1] * length + [2] * length])

        def positions(length):
            return jnp.array([list(range(length)) * 2])

        packed = apply(
            POSITIONED,
            pack(frames),
            pack(inputs),
            pack(targets),
            encoder_segment_ids=ids(4),
            decoder_segment_ids=ids(3),
            encoder_positions=positions(4),
            decoder_positions=positions(3),
        )
        np.testing.assert_allclose(packed, pack(apart), atol=1e-5)


class TestParts:
    def test_encoder_in_parts_equals_the_encoder(self):
        frames, *_ = tiny_batch()
        encoder = network.Encoder(TINY)
        params = {"params": tiny_params()["encoder"]}
        layer = {"params": params["params"]["layers_0"]}
        x = compiled(encoder, method="embed_frames")(params, frames)
        x = compiled(network.EncoderLayer(TINY), deterministic=True)(layer, x)
        np.testing.assert_allclose(
            compiled(encoder, method="finish", deterministic=True)(params, x),
            apply(TINY, frames, method="encode"),
            atol=1e-6,
        )


class TestShapeErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"frames": (3, 5)}, r"shape \(3, 5\), expected rank 3"),
            ({"frames": (3, 6, 4)}, "4 features a frame, expected 5"),
            ({"frames": (3, 2049, 5)}, "encoder: 2049 frames, expected at most 2048"),
            ({"frames": (2, 6, 5)}, "a batch of 3 token rows, expected 2"),
            ({"inputs": (15,)}, r"shape \(15,\), expected rank 2"),
            (
                {"inputs": (3, 2049), "targets": (3, 2049)},
                "decoder: 2049 tokens, expected at most 2048",
            ),
            (
                {"targets": (3, 4)},
                r"decoder_target_tokens: shape \(3, 4\), expected \(3, 5\)",
            ),
        ],
    )
    def test_shapes(self, change, message):
        shapes = {"frames": (3, 6, 5), "inputs": (3, 5), "targets": (3, 5), **change}

        def run():
            return apply(
                TINY,
                jnp.zeros(shapes["frames"]),
                jnp.zeros(shapes["inputs"], jnp.int32),
                jnp.zeros(shapes["targets"], jnp.int32),
                params=tiny_params(),
            )

        with pytest.raises(ShapeError, match=message):
            jax.eval_shape(run)

    def test_longest_inputs_are_allowed(self):
        tokens = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
        frames = jax.ShapeDtypeStruct((1, 2048, 5), jnp.float32)
        run = functools.partial(network.Transformer(TINY).apply, enable_dropout=False)
        out = jax.eval_shape(run, {"params": tiny_params()}, frames, tokens, tokens)
        assert out.shape == (1, 2048, 24)

    def test_types(self):
        frames, inputs, targets = tiny_batch()
        with pytest.raises(ShapeError, match="type int32, expected floating point"):
            apply(TINY, frames.astype(jnp.int32), inputs, targets)
        with pytest.raises(ShapeError, match="decoder_positions: type float32"):
            apply(TINY, frames, inputs, targets, decoder_positions=jnp.zeros((3, 5)))

    @pytest.mark.parametrize("value", [-2049, 2048])
    def test_position_beyond_the_table(self, value):
        frames, inputs, targets = tiny_batch()
        positions = jnp.full((3, 5), value)
        run = functools.partial(
            network.Transformer(POSITIONED).apply,
            {"params": tiny_params()},
            frames,
            inputs,
            targets,
            enable_dropout=False,
        )
        with pytest.raises(ShapeError, match=f"values {value} to {value}, expected 0"):
            run(decoder_positions=positions)

    def test_segment_ids_go_together(self):
        frames, inputs, targets = tiny_batch()
        with pytest.raises(ShapeError, match="go together"):
            apply(
                TINY, frames, inputs, targets, decoder_segment_ids=jnp.ones((3, 5), int)
            )
        with pytest.raises(ShapeError, match=r"encoder_segment_ids: shape \(3, 5\)"):
            apply(
                TINY, frames, inputs, targets, encoder_segment_ids=jnp.ones((3, 5), int)
            )


class TestConfig:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"vocab_size": 0}, "vocab_size is 0"),
            ({"num_heads": -1}, "num_heads is -1"),
            ({"mlp_dim": 1.5}, "mlp_dim is 1.5"),
            ({"num_encoder_layers": True}, "num_encoder_layers is True"),
            ({"num_decoder_layers": 10**9}, "num_decoder_layers is 10.*to 1000"),
            ({"dropout_rate": "0.1"}, "dropout_rate is '0.1'"),
            ({"emb_dim": 7}, "emb_dim: got 7, expected an even number"),
            ({"emb_dim": 2}, "emb_dim: got 2"),
            ({"dropout_rate": 1.0}, r"dropout_rate: got 1.0, expected \[0, 1\)"),
            ({"dtype": "float64"}, "dtype: got 'float64', expected one of float32"),
            ({"dtype": "flaot32"}, "dtype: got 'flaot32'"),
            ({"mlp_activations": ()}, "mlp_activations: empty"),
            ({"mlp_activations": "gelu"}, "mlp_activations: got a string"),
            ({"mlp_activations": ("gelu", "liner")}, "mlp_activations: 'liner'"),
        ],
    )
    def test_bad_values_name_the_field(self, fields, message):
        with pytest.raises(ConfigError, match=message):
            network.T5Config(**{"vocab_size": 16, **fields})

    def test_values_from_gin_and_json_are_normalised(self):
        config = network.T5Config(
            vocab_size=np.int64(16), dtype=jnp.bfloat16, mlp_activations=["relu"]
        )
        assert config.dtype == "bfloat16"
        assert type(config.vocab_size) is int
        assert config.mlp_activations == ("relu",)
        assert hash(config) == hash(dataclasses.replace(config))

    def test_round_trip_through_json(self):
        text = json.dumps(golden_model.CONFIG.to_dict())
        assert network.T5Config.from_dict(json.loads(text)) == golden_model.CONFIG

    def test_from_dict_names_what_is_wrong(self):
        with pytest.raises(ConfigError, match="'num_head'.*num_heads"):
            network.T5Config.from_dict({"vocab_size": 16, "num_head": 2})
        with pytest.raises(ConfigError, match="vocab_size is missing"):
            network.T5Config.from_dict({"emb_dim": 16})

    def test_defaults(self):
        """The original's by itself, those of `mt3` in what files leave out."""
        config = network.T5Config(vocab_size=16)
        assert (config.num_heads, config.mlp_activations) == (8, ("relu",))
        config = network.T5Config.from_dict({"vocab_size": 16})
        assert (config.num_heads, config.mlp_activations) == (6, ("gelu", "linear"))

    def test_frames_of_any_depth(self):
        config = dataclasses.replace(TINY, input_depth=None)
        params = init_shapes(dataclasses.replace(TINY, input_depth=9))["params"]
        kernel = params["encoder"]["continuous_inputs_projection"]["kernel"]
        assert kernel.shape == (9, 8)
        frames, inputs, targets = tiny_batch()
        np.testing.assert_array_equal(
            apply(config, frames, inputs, targets, params=tiny_params()),
            apply(TINY, frames, inputs, targets),
        )

    def test_logits_of_half_precision(self):
        frames, inputs, targets = tiny_batch()
        for wide in (False, True):
            config = dataclasses.replace(TINY, dtype="bfloat16", float32_logits=wide)
            logits = apply(config, frames, inputs, targets, params=tiny_params())
            assert logits.dtype == (jnp.float32 if wide else jnp.bfloat16)
