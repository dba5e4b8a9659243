"""Tests of `mt3.layers`."""

from __future__ import annotations

import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3 import layers
from mt3.errors import ConfigError, ShapeError


def init(module, *args, seed=0, **kwargs):
    return module.init(jax.random.key(seed), *args, **kwargs)


class TestPositions:
    def test_table_values(self):
        table = layers.sinusoidal_table(2048, 8)
        # Divisors 1, 10000 ** (1 / 3), 10000 ** (2 / 3), 10000.
        divisors = 10000.0 ** (np.arange(4) / 3)
        for position in (0, 1, 7, 2047):
            np.testing.assert_allclose(
                table[position],
                np.r_[np.sin(position / divisors), np.cos(position / divisors)],
                atol=1e-6,
            )
        assert table.dtype == np.float32
        assert table.shape == (2048, 8)

    def test_odd_feature_is_zero_and_table_is_read_only(self):
        table = layers.sinusoidal_table(5, 9)
        assert not table[:, -1].any()
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1.0

    def test_too_few_features(self):
        with pytest.raises(ConfigError, match="3 features, expected at least 4"):
            layers.sinusoidal_table(5, 3)


class TestMasks:
    def test_causal(self):
        mask = layers.make_causal_mask(jnp.zeros((2, 4), jnp.int32))
        assert mask.shape == (2, 1, 4, 4)
        assert mask.dtype == jnp.float32
        np.testing.assert_array_equal(mask[1, 0], np.tril(np.ones((4, 4), bool)))

    def test_attention_mask_of_queries_and_keys(self):
        mask = layers.make_attention_mask(
            jnp.array([[True, False]]), jnp.array([[True, True, False]])
        )
        np.testing.assert_array_equal(
            mask[0, 0], [[True, True, False], [False, False, False]]
        )

    def test_segments_see_themselves(self):
        ids = jnp.array([[1, 1, 2]])
        mask = layers.make_attention_mask(ids, ids, jnp.equal)
        np.testing.assert_array_equal(mask[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])

    def test_decoder_mask_is_causal_without_padding(self):
        mask = layers.make_decoder_mask(jnp.array([[5, 1, 0]]), jnp.float32)
        np.testing.assert_array_equal(mask[0, 0], [[1, 0, 0], [1, 1, 0], [0, 0, 0]])

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    def test_decoder_mask_by_its_rule(self, segments):
        ids = np.array([segments])
        targets = np.where(ids > 0, 9, 0)
        mask = layers.make_decoder_mask(
            jnp.asarray(targets), bool, decoder_segment_ids=jnp.asarray(ids)
        )
        for q, a in enumerate(segments):
            for k, b in enumerate(segments):
                assert bool(mask[0, 0, q, k]) == (k <= q and a == b and a > 0)

    def test_combine(self):
        a, b = jnp.array([True, True, False]), jnp.array([1.0, 0.0, 1.0])
        np.testing.assert_array_equal(
            layers.combine_masks(a, None, b), [True, False, False]
        )
        assert layers.combine_masks(a, dtype=bool).dtype == bool
        assert layers.combine_masks(None, None) is None
        np.testing.assert_array_equal(layers.combine_biases(b, None, b), [2, 0, 2])
        assert layers.combine_biases(None) is None
        with pytest.raises(ShapeError, match=r"\(3,\), \(1, 3\); expected equal ranks"):
            layers.combine_masks(a, b[None])

    def test_further_axes(self):
        x = jnp.ones((2, 3, 4))
        mask = layers.make_causal_mask(x, extra_batch_dims=2, dtype=jnp.int32)
        assert mask.shape == (1, 1, 2, 3, 1, 4, 4)
        np.testing.assert_array_equal(mask[0, 0, 1, 2, 0], np.tril(np.ones((4, 4))))

    def test_prefix_sees_itself(self):
        mask = layers.make_decoder_mask(
            jnp.array([[5, 6, 7, 0]]), bool, jnp.array([[1, 1, 0, 0]])
        )
        np.testing.assert_array_equal(
            mask[0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
        )


class TestDenseGeneral:
    def test_kernel_is_two_dimensional(self):
        x = jnp.ones((2, 3, 4))
        split = layers.DenseGeneral((5, 6), kernel_axes=("embed", "joined_kv"))
        variables = init(split, x)
        assert variables["params"]["kernel"].shape == (4, 30)
        assert split.apply(variables, x).shape == (2, 3, 5, 6)
        join = layers.DenseGeneral(7, axis=(-2, -1), kernel_axes=("joined_kv", "embed"))
        variables = init(join, jnp.ones((2, 3, 5, 6)))
        assert variables["params"]["kernel"].shape == (30, 7)
        assert join.apply(variables, jnp.ones((2, 3, 5, 6))).shape == (2, 3, 7)

    def test_product(self, rng):
        x = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
        dense = layers.DenseGeneral(3)
        variables = init(dense, x)
        np.testing.assert_allclose(
            dense.apply(variables, x), x @ variables["params"]["kernel"], rtol=1e-6
        )

    def test_initial_variance_is_one_over_inputs(self):
        variables = init(layers.DenseGeneral(400), jnp.ones((1, 100)))
        kernel = np.asarray(variables["params"]["kernel"])
        assert np.std(kernel) == pytest.approx(0.1, rel=0.02)
        # Truncated at two standard deviations (before the correction for that).
        assert np.abs(kernel).max() < 0.1 * 2 / 0.8796

    def test_logical_axes_are_recorded(self):
        dense = layers.DenseGeneral(4, kernel_axes=("embed", "mlp"))
        variables = init(dense, jnp.ones((1, 3)))
        assert variables["params_axes"]["kernel_axes"].names == ("embed", "mlp")


class TestEmbed:
    def test_lookup_and_initial_deviation(self):
        normal = jax.nn.initializers.normal(1.0)
        embed = layers.Embed(500, 64, embedding_init=normal)
        tokens = jnp.array([[3, 499], [0, 3]])
        variables = init(embed, tokens)
        table = variables["params"]["embedding"]
        np.testing.assert_array_equal(embed.apply(variables, tokens), table[tokens])
        assert float(jnp.std(table)) == pytest.approx(1.0, rel=0.02)
        assert variables["params_axes"]["embedding_axes"].names == ("vocab", "embed")

    def test_tokens_must_be_integers(self):
        with pytest.raises(ShapeError, match="type float32. Input type must be an int"):
            init(layers.Embed(5, 4), jnp.ones((1, 2)))
        embed = layers.Embed(5, 4, cast_input_dtype=jnp.int32)
        variables = init(embed, jnp.ones((1, 2)))
        np.testing.assert_array_equal(
            embed.apply(variables, jnp.array([[3.0]]))[0, 0],
            variables["params"]["embedding"][3],
        )

    def test_one_hot_finds_the_same(self):
        tokens = jnp.array([[3, 4], [0, 3]])
        variables = init(layers.Embed(5, 4), tokens)
        np.testing.assert_array_equal(
            layers.Embed(5, 4, one_hot=True).apply(variables, tokens),
            layers.Embed(5, 4).apply(variables, tokens),
        )

    def test_attend_in_its_own_type(self):
        embed = layers.Embed(5, 4, dtype="bfloat16", attend_dtype=jnp.float32)
        variables = init(embed, jnp.array([[1]]))
        query = jnp.ones((1, 1, 4), jnp.bfloat16)
        logits = embed.apply(variables, query, method="attend")
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(
            logits[0, 0], variables["params"]["embedding"].sum(1), rtol=1e-5
        )


class TestLayerNorm:
    def test_is_root_mean_square_without_bias(self, rng):
        x = jnp.asarray(rng.normal(loc=3.0, size=(2, 5, 8)), jnp.float32)
        scale = jnp.arange(1.0, 9.0)
        y = layers.LayerNorm().apply({"params": {"scale": scale}}, x)
        rms = np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(
            y, np.asarray(x) / rms * np.asarray(scale), rtol=1e-5
        )

    def test_mean_square_is_float32_in_bfloat16(self):
        x = jnp.full((1, 1, 64), 300.0, jnp.bfloat16)
        y = layers.LayerNorm(dtype="bfloat16").apply(
            {"params": {"scale": jnp.ones(64)}}, x
        )
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y.astype(jnp.float32), np.ones((1, 1, 64)))


class TestMlp:
    def test_gate(self, rng):
        x = jnp.asarray(rng.normal(size=(1, 3, 4)), jnp.float32)
        mlp = layers.MlpBlock(6, activations=("gelu", "linear"))
        params = init(mlp, x, deterministic=True)["params"]
        assert set(params) == {"wi_0", "wi_1", "wo"}
        a, b = (x @ params[name]["kernel"] for name in ("wi_0", "wi_1"))
        gelu = 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
        np.testing.assert_allclose(
            mlp.apply({"params": params}, x, deterministic=True),
            (gelu * b) @ params["wo"]["kernel"],
            rtol=1e-5,
            atol=1e-6,
        )

    def test_single_activation_is_named_wi(self):
        params = init(layers.MlpBlock(6), jnp.ones((1, 2, 4)), deterministic=True)
        assert set(params["params"]) == {"wi", "wo"}

    def test_unknown_activation(self):
        with pytest.raises(ConfigError, match="'gelo' is not an activation.*gelu"):
            layers.activation("gelo")
        assert layers.activation(jnp.tanh) is jnp.tanh


class TestAttention:
    HEADS, DEPTH, OUT = 2, 3, 5

    def module(self, **options):
        return layers.MultiHeadDotProductAttention(
            num_heads=self.HEADS, head_dim=self.DEPTH, **options
        )

    @pytest.fixture
    def case(self, rng):
        q = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
        kv = jnp.asarray(rng.normal(size=(2, 6, 5)), jnp.float32)
        mask = jnp.asarray(rng.random((2, 1, 4, 6)) < 0.6)
        params = init(self.module(), q, kv)["params"]
        return params, q, kv, mask

    def reference(self, params, q, kv, mask):
        """Attention row by row in float64, logits not divided by anything."""
        kernels = {name: np.float64(params[name]["kernel"]) for name in params}
        q, kv = np.float64(q), np.float64(kv)
        result = np.zeros((*q.shape[:2], self.OUT))
        for b, i in np.ndindex(*q.shape[:2]):
            joined = []
            for h in range(self.HEADS):
                cut = slice(h * self.DEPTH, (h + 1) * self.DEPTH)
                query = q[b, i] @ kernels["query"][:, cut]
                logits = (kv[b] @ kernels["key"][:, cut]) @ query
                logits = np.where(mask[b, 0, i], logits, -1e10)
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                joined.append(weights @ (kv[b] @ kernels["value"][:, cut]))
            result[b, i] = np.concatenate(joined) @ kernels["out"]
        return result

    def test_against_definition(self, case):
        params, q, kv, mask = case
        np.testing.assert_allclose(
            self.module().apply({"params": params}, q, kv, mask),
            self.reference(params, q, kv, np.asarray(mask)),
            atol=1e-5,
        )

    def test_row_without_keys_is_the_mean_of_values(self, case):
        params, q, kv, mask = case
        out = self.module().apply({"params": params}, q, kv, jnp.zeros_like(mask))
        mean = kv.mean(1) @ params["value"]["kernel"] @ params["out"]["kernel"]
        assert jnp.isfinite(out).all()
        np.testing.assert_allclose(out[:, 0], mean, atol=1e-5)

    def test_query_initialiser_holds_the_head_size(self):
        module = layers.MultiHeadDotProductAttention(num_heads=8, head_dim=64)
        x = jnp.ones((1, 2, 256))
        params = init(module, x, x)["params"]
        deviation = {name: float(jnp.std(params[name]["kernel"])) for name in params}
        assert deviation["key"] == pytest.approx(1 / 16, rel=0.02)
        assert deviation["value"] == pytest.approx(1 / 16, rel=0.02)
        assert deviation["query"] == pytest.approx(1 / 16 / 8, rel=0.02)
        assert deviation["out"] == pytest.approx(1 / math.sqrt(512), rel=0.02)

    def test_logical_axes(self):
        x = jnp.ones((1, 2, 5))
        axes = init(self.module(), x, x)["params_axes"]
        for name in ("query", "key", "value"):
            assert axes[name]["kernel_axes"].names == ("embed", "joined_kv")
        assert axes["out"]["kernel_axes"].names == ("joined_kv", "embed")

    def test_weights_are_offered_only_where_asked_for(self, case):
        params, q, kv, mask = case
        for sow in (False, True):
            _, state = self.module(sow_weights=sow).apply(
                {"params": params}, q, kv, mask, mutable=["intermediates"]
            )
            assert ("intermediates" in state) == sow
        (weights,) = state["intermediates"]["attention_weights"]
        assert weights.shape == (2, 2, 4, 6)
        np.testing.assert_allclose(weights.sum(-1), np.ones((2, 2, 4)), atol=1e-6)

    def test_bfloat16_logits_and_softmax_are_float32(self, case):
        params, q, kv, mask = case
        module = self.module(dtype="bfloat16", float32_logits=True, sow_weights=True)
        out, state = module.apply(
            {"params": params}, q, kv, mask, mutable=["intermediates"]
        )
        assert out.dtype == jnp.bfloat16
        assert state["intermediates"]["attention_weights"][0].dtype == jnp.float32
        np.testing.assert_allclose(
            out.astype(jnp.float32),
            self.reference(params, q, kv, np.asarray(mask)),
            atol=0.05,
        )

    def test_dropout_is_shared_by_all_queries(self, case, key):
        params, _, kv, _ = case
        same = jnp.broadcast_to(kv[:, :1], (2, 4, 5))
        module = self.module(dropout_rate=0.5)
        out = module.apply(
            {"params": params}, same, kv, deterministic=False, rngs={"dropout": key}
        )
        for i in range(1, 4):
            np.testing.assert_array_equal(out[:, i], out[:, 0])
        plain = module.apply({"params": params}, same, kv, deterministic=True)
        assert not jnp.allclose(out, plain)

    def test_missing_dropout_key_is_an_error(self, case):
        params, q, kv, _ = case
        with pytest.raises(flax.errors.InvalidRngError):
            self.module(dropout_rate=0.5).apply(
                {"params": params}, q, kv, deterministic=False
            )

    def test_a_step_must_fit_the_cache(self):
        x = jnp.ones((2, 4, 5))
        variables = init(self.module(), x, x, decode=True)
        cache = variables["cache"]
        assert cache["cached_key"].shape == (2, 2, 3, 4)
        assert int(cache["cache_index"]) == 0
        with pytest.raises(ShapeError, match=r"shape \(2, 4, 2, 3\), expected \(2, 1"):
            self.module().apply(variables, x, x, decode=True, mutable=["cache"])

    @pytest.mark.parametrize("with_bias", [False, True])
    def test_steps_are_causal_attention(self, rng, with_bias):
        x = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
        bias = jnp.asarray(rng.normal(size=(1, 2, 4, 4)), jnp.float32)
        bias = bias if with_bias else None
        module = self.module()
        variables = init(module, x, x, decode=True)
        params = {"params": variables["params"]}
        whole = module.apply(params, x, x, layers.make_causal_mask(x[..., 0]), bias)
        for i in range(4):
            step, changed = module.apply(
                variables,
                x[:, i : i + 1],
                x[:, i : i + 1],
                bias=bias,
                decode=True,
                mutable=["cache"],
            )
            variables = {**params, **changed}
            np.testing.assert_allclose(step[:, 0], whole[:, i], atol=1e-6)


class TestDotProductAttention:
    def test_against_definition(self, rng):
        shapes = [(2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 6), (2, 2, 3, 5)]
        query, key, value, bias = (
            jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
        )
        logits = np.einsum("bqhd,bkhd->bhqk", query, key) + bias
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        seen = []
        found = layers.dot_product_attention(
            query, key, value, bias, see_weights=seen.append
        )
        np.testing.assert_allclose(
            found, np.einsum("bhqk,bkhd->bqhd", weights, value), atol=1e-5
        )
        np.testing.assert_allclose(seen[0], weights, atol=1e-6)

    def test_dropout_keeps_the_mean(self, key):
        value = jnp.ones((1, 4000, 1, 1))
        query = jnp.zeros((1, 2, 1, 3))
        found = layers.dot_product_attention(
            query,
            jnp.zeros((1, 4000, 1, 3)),
            value,
            dropout_rng=key,
            dropout_rate=0.25,
        )
        assert found[0, 0] == found[0, 1]
        assert float(found[0, 0, 0, 0]) == pytest.approx(1.0, abs=0.03)
        assert float(found[0, 0, 0, 0]) != 1.0

    def test_shapes_that_do_not_fit(self):
        x = jnp.ones((1, 2, 3, 4))
        with pytest.raises(ShapeError, match=r"key \(1, 2, 3, 5\)"):
            layers.dot_product_attention(x, jnp.ones((1, 2, 3, 5)), x)


class TestFixedEmbed:
    def test_rows_and_steps(self):
        table = layers.sinusoidal_table(9, 8)
        embed = layers.FixedEmbed(features=8, max_length=9)
        positions = jnp.array([[0, 8, 3]])
        np.testing.assert_array_equal(embed.apply({}, positions), table[positions])
        variables = embed.init(jax.random.key(0), positions, decode=True)
        assert variables["cache"]["position_embedder_index"].dtype == jnp.uint32
        for i in range(3):
            row, variables = embed.apply(
                variables, positions[:, :1], decode=True, mutable=["cache"]
            )
            np.testing.assert_array_equal(row, table[i : i + 1])
            assert int(variables["cache"]["position_embedder_index"]) == i + 1

    def test_position_beyond_the_table(self):
        embed = layers.FixedEmbed(features=8, max_length=9)
        with pytest.raises(ShapeError, match="values 2 to 9, expected 0 to 8"):
            embed.apply({}, np.array([[2, 9]]))
        inside = jax.jit(lambda x: embed.apply({}, x))(jnp.array([[2, 9]]))
        assert jnp.isnan(inside[0, 1]).all()

    def test_initialiser_takes_scales(self):
        found = layers.sinusoidal(min_scale=2.0, max_scale=50.0)(None, (3, 6))
        np.testing.assert_allclose(
            found[1, :3], np.sin([2.0, np.sqrt(2.0 * 0.08), 0.08]), rtol=1e-5
        )
        with pytest.raises(ConfigError, match=r"shape \(3,\), expected \(positions"):
            layers.sinusoidal()(None, (3,))
