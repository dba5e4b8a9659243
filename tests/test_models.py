"""Tests of `mt3.models` and `mt3.losses`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import decoding, losses, models, network
from mt3.errors import ConfigError, DataError, ShapeError
from tests.support import golden_model
from tests.support.golden_model import TINY, tiny_params


@functools.lru_cache(maxsize=64)
def golden(**options):
    return tiny(golden_model.CONFIG, **options)


@functools.lru_cache(maxsize=64)
def tiny(config=TINY, **options):
    return models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(config),
        None,
        None,
        None,
        config.input_depth,
        **{"z_loss": 1e-4, **options},
    )


@functools.lru_cache(maxsize=64)
def compiled(function, **options):
    """Compiles once: op by op is several times slower."""
    return jax.jit(
        functools.partial(function, **options), compiler_options=golden_model.QUICK
    )


def tiny_batch(**options):
    frames, inputs, targets = golden_model.tiny_batch(**options)
    return {
        "encoder_input_tokens": frames,
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(jnp.float32),
    }


def loss_of(model, batch, params=None, dropout_rng=None):
    params = tiny_params() if params is None else params
    return compiled(model.loss_fn)(params, batch, dropout_rng)


@functools.lru_cache(maxsize=64)
def gradient_function(model):
    return jax.grad(model.loss_fn, has_aux=True)


def gradient_of(model, batch):
    return compiled(gradient_function(model))(tiny_params(), batch, None)


def scores_of(model, batch, params=None, **options):
    params = tiny_params() if params is None else params
    return compiled(model.score_batch, **options)(params, batch)


def direct_loss(logits, targets, *, smoothing=0.0, z_loss=0.0):
    """Cross-entropy per token by its definition, in float64."""
    logits = np.float64(logits)
    size = logits.shape[-1]
    log_z = np.log(np.exp(logits).sum(-1))
    log_probs = logits - log_z[..., None]
    wanted = np.full(logits.shape, smoothing / (size - 1))
    np.put_along_axis(wanted, np.asarray(targets)[..., None], 1 - smoothing, -1)
    entropy = -(wanted * np.log(wanted, where=wanted > 0, out=wanted * 0)).sum(-1)
    return -(wanted * log_probs).sum(-1) - entropy + z_loss * log_z**2


class TestGolden:
    def test_loss_and_metrics(self):
        outputs = golden_model.outputs()
        loss, metrics = loss_of(
            golden(), golden_model.training_batch(), golden_model.params()
        )
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, outputs["loss"], rtol=1e-5)
        for name in (
            "accuracy",
            "cross_ent_loss",
            "cross_ent_loss_per_all_target_tokens",
            "loss",
            "loss_per_all_target_tokens",
            "loss_per_nonpadding_target_token",
            "non_padding_fraction/loss_weights",
            "z_loss",
            "z_loss_per_all_target_tokens",
        ):
            np.testing.assert_allclose(
                metrics.pop(name).compute(), outputs[f"metric/{name}"], rtol=1e-5
            )
        assert not metrics

    def test_scores(self):
        scores = scores_of(
            golden(), golden_model.training_batch(), golden_model.params()
        )
        golden_scores = golden_model.outputs()["score_batch"]
        assert scores.shape == golden_scores.shape == (4,)
        np.testing.assert_allclose(scores, golden_scores, rtol=1e-4, atol=1e-4)

    def test_predictions_inside_jit(self):
        outputs = golden_model.outputs()
        batch = {
            "encoder_input_tokens": jnp.asarray(outputs["inputs"][:2]),
            "decoder_input_tokens": jnp.zeros((2, 128), jnp.int32),
        }
        predict = compiled(golden().predict_batch_with_aux)
        ids, aux = predict(golden_model.params(), batch)
        np.testing.assert_array_equal(ids, outputs["beam1_ids"][:2])
        np.testing.assert_allclose(
            aux["scores"], outputs["beam1_scores"][:2], rtol=1e-4, atol=1e-4
        )


class TestLoss:
    @pytest.fixture
    def case(self, rng):
        logits = jnp.asarray(rng.normal(size=(2, 4, 7)) * 3, jnp.float32)
        targets = jnp.asarray(rng.integers(0, 7, size=(2, 4)), jnp.int32)
        return logits, targets

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
    @pytest.mark.parametrize("z_loss", [0.0, 1e-2])
    def test_against_definition(self, case, smoothing, z_loss):
        logits, targets = case
        loss, penalty = losses.cross_entropy(
            logits, targets, z_loss=z_loss, label_smoothing=smoothing
        )
        np.testing.assert_allclose(
            loss,
            direct_loss(logits, targets, smoothing=smoothing, z_loss=z_loss),
            rtol=1e-4,
            atol=1e-5,
        )
        log_z = np.log(np.exp(np.float64(logits)).sum(-1))
        np.testing.assert_allclose(penalty, z_loss * log_z**2, rtol=1e-4)

    def test_gradient_is_softmax_minus_target(self, case):
        logits, targets = case
        gradient = jax.grad(lambda x: jnp.sum(losses.cross_entropy(x, targets)[0]))(
            logits
        )
        wanted = jax.nn.softmax(logits) - jax.nn.one_hot(targets, 7)
        np.testing.assert_allclose(gradient, wanted, atol=1e-5)

    def test_smoothed_loss_can_reach_zero(self):
        smoothing, size = 0.1, 5
        probabilities = np.full(size, smoothing / (size - 1))
        probabilities[2] = 1 - smoothing
        loss, _ = losses.cross_entropy(
            jnp.log(jnp.asarray(probabilities, jnp.float32))[None, None],
            jnp.array([[2]]),
            label_smoothing=smoothing,
        )
        np.testing.assert_allclose(loss, [[0.0]], atol=1e-6)

    def test_targets_of_another_shape(self, case):
        with pytest.raises(ShapeError, match=r"shape \(2, 3\), expected \(2, 4\)"):
            losses.cross_entropy(case[0], case[1][:, :3])

    def test_model_loss_is_the_weighted_sum(self):
        batch = tiny_batch()
        batch["decoder_loss_weights"] = batch["decoder_loss_weights"].at[1, 0].set(0.5)
        model = tiny(label_smoothing=0.1, z_loss=1e-2)
        logits = compiled(model.module.apply, enable_dropout=False)(
            {"params": tiny_params()}, *(batch[name] for name in models.BATCH_FEATURES)
        )
        tokens = direct_loss(
            logits, batch["decoder_target_tokens"], smoothing=0.1, z_loss=1e-2
        )
        loss, metrics = loss_of(model, batch)
        wanted = (tokens * np.asarray(batch["decoder_loss_weights"])).sum()
        np.testing.assert_allclose(loss, wanted, rtol=1e-4)
        assert metrics["accuracy"].count == 13

    def test_padding_does_not_count_without_weights(self):
        batch = tiny_batch()
        loss, _ = loss_of(tiny(), batch)
        del batch["decoder_loss_weights"]
        assert loss_of(tiny(), batch)[0] == loss
        np.testing.assert_allclose(
            scores_of(tiny(), batch).sum(),
            -loss_of(tiny(z_loss=0.0), batch)[0],
            rtol=1e-5,
        )

    @pytest.mark.parametrize(
        ("factor", "divisor"),
        [(4.0, 4.0), ("num_real_target_tokens", 13), ("NUM_TOTAL_TARGET_TOKENS", 15)],
    )
    def test_normalizing_factor(self, factor, divisor):
        batch = tiny_batch()
        summed, _ = loss_of(tiny(), batch)
        loss, _ = loss_of(tiny(loss_normalizing_factor=factor), batch)
        np.testing.assert_allclose(loss, summed / divisor, rtol=1e-5)

    def test_average_per_sequence(self):
        batch = tiny_batch()
        means = []
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            loss, metrics = loss_of(tiny(), one)
            means.append(loss / metrics["accuracy"].count)
        loss, metrics = loss_of(
            tiny(loss_normalizing_factor="AVERAGE_PER_SEQUENCE"), batch
        )
        np.testing.assert_allclose(loss, np.mean(means), rtol=1e-5)
        assert metrics["accuracy"].count == 13

    def test_average_per_packed_sequence(self):
        batch = {
            "decoder_target_tokens": jnp.array([[5, 6, 7, 8, 0], [5, 0, 0, 0, 0]]),
            "decoder_segment_ids": jnp.array([[1, 1, 1, 2, 0], [1, 0, 0, 0, 0]]),
        }
        divisor, weights = losses.normalizing_factor_and_weights(
            "AVERAGE_PER_SEQUENCE", batch
        )
        third = 1 / 3
        np.testing.assert_allclose(
            weights, [[third, third, third, 1, 0], [1, 0, 0, 0, 0]], rtol=1e-6
        )
        assert divisor == pytest.approx(3.0)

    @pytest.mark.parametrize("factor", [None, *losses.NORMALIZERS])
    def test_batch_of_padding_has_loss_zero(self, factor):
        batch = tiny_batch()
        batch["decoder_target_tokens"] *= 0
        batch["decoder_loss_weights"] *= 0
        model = tiny(loss_normalizing_factor=factor)
        gradient, metrics = gradient_of(model, batch)
        assert metrics["loss"].total == metrics["accuracy"].count == 0
        for leaf in jax.tree.leaves(gradient):
            assert not leaf.any()


class TestTraining:
    def test_dropout_key_matters_and_none_is_deterministic(self):
        model, batch = tiny(), tiny_batch()
        draws = [
            loss_of(model, batch, dropout_rng=jax.random.key(seed))[0]
            for seed in (1, 1, 2)
        ]
        assert draws[0] == draws[1] != draws[2]
        plain = loss_of(model, batch)[0]
        assert plain not in draws
        assert plain == compiled(model.eval_fn)(tiny_params(), batch)[0]

    def test_metrics_of_two_batches_add_up(self):
        model = tiny(z_loss=1e-2)
        whole = tiny_batch(batch=4)
        parts = [
            {name: value[cut] for name, value in whole.items()}
            for cut in (slice(0, 1), slice(1, 4))
        ]
        total = loss_of(model, whole)[1]
        first, second = (loss_of(model, part)[1] for part in parts)
        added = jax.tree.map(jnp.add, first, second)
        for name in total.keys() - {"loss", "z_loss", "cross_ent_loss"}:
            assert total[name].total.dtype == jnp.float32
            np.testing.assert_allclose(
                added[name].compute(), total[name].compute(), rtol=1e-5
            )
        # These three are means over steps, and here are two of them.
        np.testing.assert_allclose(
            2 * added["loss"].compute(), total["loss"].compute(), rtol=1e-5
        )

    def test_every_parameter_gets_a_gradient(self):
        gradient, _ = gradient_of(tiny(), tiny_batch())
        flat = flax.traverse_util.flatten_dict(gradient, sep="/")
        assert [name for name, leaf in flat.items() if not leaf.any()] == []

    def test_bfloat16_gradients_are_float32(self):
        config = dataclasses.replace(TINY, dtype="bfloat16")
        gradient, metrics = gradient_of(tiny(config), tiny_batch())
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {
            jnp.dtype("float32")
        }
        expected = loss_of(tiny(), tiny_batch())[0]
        np.testing.assert_allclose(metrics["loss"].total, expected, rtol=0.05)

    def test_missing_feature_is_named(self):
        batch = tiny_batch()
        del batch["decoder_target_tokens"]
        with pytest.raises(DataError, match="lacks decoder_target_tokens; expected"):
            tiny().loss_fn(tiny_params(), batch, None)


class TestInitialVariables:
    SHAPES = {"encoder_input_tokens": (8, 6, 5), "decoder_input_tokens": (8, 7)}

    def test_parameters_and_axes(self):
        model = tiny()
        tokens = jnp.zeros((1, 2), jnp.int32)

        def found(key):
            return model.get_initial_variables(
                key, self.SHAPES, {"encoder_input_tokens": jnp.float32}
            )

        def expected(key):
            return model.module.init(
                key, jnp.zeros((1, 3, 5)), tokens, tokens, enable_dropout=False
            )

        key = jax.random.key(0)
        variables, plain = (jax.eval_shape(f, key) for f in (found, expected))
        assert set(variables) == {"params", "params_axes"}
        assert isinstance(variables, flax.core.FrozenDict)
        assert flax.core.unfreeze(variables["params"]) == plain["params"]

        def kernels(function):
            """Two of them: to compile the drawing of all takes several seconds."""
            params = function(key)["params"]
            return (
                params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"],
                params["decoder"]["logits_dense"]["kernel"],
            )

        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5),
            *(jax.jit(functools.partial(kernels, f))() for f in (found, expected)),
        )

    def test_depth_may_be_left_out(self):
        shapes = {**self.SHAPES, "encoder_input_tokens": (8, 6)}
        variables = jax.eval_shape(
            lambda: tiny().get_initial_variables(jax.random.key(0), shapes)["params"]
        )
        kernel = variables["encoder"]["continuous_inputs_projection"]["kernel"]
        assert kernel.shape == (5, 8)

    def test_too_many_frames(self):
        shapes = {**self.SHAPES, "encoder_input_tokens": (8, 3000, 5)}
        with pytest.raises(ShapeError, match="3000 frames"):
            jax.eval_shape(
                lambda: tiny().get_initial_variables(jax.random.key(0), shapes)
            )

    def test_missing_shape(self):
        with pytest.raises(DataError, match="lacks decoder_input_tokens"):
            tiny().get_initial_variables(
                jax.random.key(0), {"encoder_input_tokens": (1, 6, 5)}
            )


class TestScores:
    def test_intermediates(self):
        batch = tiny_batch()
        scores, found = scores_of(tiny(), batch, return_intermediates=True)
        np.testing.assert_allclose(scores, scores_of(tiny(), batch), rtol=1e-6)
        (tokens,) = found["decoder"]["token_scores"]
        np.testing.assert_allclose(tokens.sum(-1), scores, rtol=1e-6)
        assert (tokens <= 0).all()
        (weights,) = found["decoder"]["layers_0"]["encoder_decoder_attention"][
            "attention_weights"
        ]
        assert weights.shape == (3, 2, 5, 6)
        np.testing.assert_array_equal(
            found["decoder"]["target_tokens"][0], batch["decoder_target_tokens"]
        )

    def test_smoothing_and_z_loss_play_no_part(self):
        plain = scores_of(tiny(z_loss=0.0), tiny_batch())
        other = tiny(z_loss=1.0, label_smoothing=0.3)
        np.testing.assert_array_equal(scores_of(other, tiny_batch()), plain)


class TestPredictions:
    def run(self, model, **options):
        # Keys stay outside of the compiled part: strategies need their numbers.
        run = functools.partial(model.predict_batch_with_aux, **options)
        run = jax.jit(run, compiler_options=golden_model.QUICK)
        return run(tiny_params(), tiny_batch())

    def test_best_beam_is_returned(self):
        model = tiny(decode_fn="beam3")
        ids, aux = self.run(model)
        every, scores = self.run(model, return_all_decodes=True)
        assert every.shape == (3, 3, 5)
        np.testing.assert_array_equal(ids, every[:, -1])
        np.testing.assert_array_equal(aux["scores"], scores["scores"][:, -1])
        predict = compiled(model.predict_batch)
        np.testing.assert_array_equal(predict(tiny_params(), tiny_batch()), ids)

    def test_one_sequence_gets_an_axis_when_all_are_asked_for(self):
        ids, aux = self.run(tiny(decode_fn="greedy"), return_all_decodes=True)
        assert ids.shape == (3, 1, 5)
        assert aux["scores"].shape == (3, 1)

    def test_num_decodes(self):
        ids, _ = self.run(tiny(), num_decodes=2, return_all_decodes=True)
        assert ids.shape == (3, 2, 5)
        with pytest.raises(ConfigError, match="num_decodes=2 means nothing to Greedy"):
            self.run(tiny(decode_fn="greedy"), num_decodes=2)

    def test_alpha(self):
        found = models._with_settings(decoding.Beam(3), None, {"alpha": 0.3})
        assert found == decoding.Beam(3, alpha=0.3)

    @pytest.mark.parametrize("num_decodes", [1, 3])
    def test_beam_search_with_a_cache_is_the_fast_one(self, num_decodes):
        def search(**arguments):
            return decoding.beam_search(**arguments)

        options = {"num_decodes": num_decodes, "return_all_decodes": True}
        fast, fast_aux = self.run(tiny(), **options)
        ids, aux = self.run(tiny(decode_fn=search), **options)
        assert ids.shape == (3, num_decodes, 5)
        np.testing.assert_array_equal(ids, fast)
        np.testing.assert_allclose(aux["scores"], fast_aux["scores"], atol=1e-5)

    def test_decode_fn_gets_what_t5x_gives_it(self):
        seen = {}

        def decode_fn(inputs, cache, tokens_to_logits, **others):
            seen.update(others, inputs=inputs, cache=cache)
            ids = jnp.repeat(inputs[:, None], others["num_decodes"], axis=1)
            return ids, jnp.arange(6.0).reshape(3, 2)

        model = tiny(decode_fn=decode_fn)
        batch = tiny_batch()
        batch["decoder_input_tokens"] = jnp.asarray([[7, 1, 8, 0, 0]] * 3)
        key = jax.random.key(1)
        options = {"num_decodes": 2, "decoder_params": {"alpha": 0.3}, "rng": key}
        ids, aux = model.predict_batch_with_aux(
            tiny_params(), batch, prompt_with_targets=True, **options
        )
        # The prompt's EOS (1) is gone.
        np.testing.assert_array_equal(ids, [[7, 0, 8, 0, 0]] * 3)
        np.testing.assert_array_equal(aux["scores"], [1, 3, 5])
        flat = flax.traverse_util.flatten_dict(seen.pop("cache"), sep="/")
        layer = "decoder/layers_0/self_attention"
        assert flat[f"{layer}/cached_key"].shape == (3, 2, 3, 5)
        assert flat["decoder/FixedEmbed_0/position_embedder_index"] == 0
        np.testing.assert_array_equal(seen.pop("inputs"), [[7, 0, 8, 0, 0]] * 3)
        assert seen.pop("decode_rng") is key
        assert seen == {"num_decodes": 2, "alpha": 0.3, "eos_id": 1, "cache_offset": 0}
        ids, _ = model.predict_batch_with_aux(tiny_params(), batch, **options)
        assert not ids.any()

    def test_strategy_object(self):
        by_name, _ = self.run(tiny(decode_fn="greedy"))
        by_object, _ = self.run(tiny(decode_fn=decoding.Greedy()))
        np.testing.assert_array_equal(by_object, by_name)

    def test_key_decides_random_draws(self):
        model = tiny(decode_fn="temperature1.0")
        key = jax.random.key(5)
        first, _ = self.run(model, rng=key)
        again, _ = self.run(model, decoder_params={"decode_rng": key})
        other, _ = self.run(model, rng=jax.random.key(6))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_what_is_not_offered(self):
        key = jax.random.key(0)
        with pytest.raises(ConfigError, match="prompt_with_targets"):
            self.run(tiny(), prompt_with_targets=True)
        with pytest.raises(ConfigError, match="min_log_prob=-3.0 means nothing"):
            self.run(tiny(), decoder_params={"min_log_prob": -3.0})
        with pytest.raises(ConfigError, match="expected one of them"):
            self.run(tiny(), rng=key, decoder_params={"decode_rng": key})
        model = tiny(decode_fn="temperature1.0")
        with pytest.raises(ConfigError, match=r"inside jax\.jit needs a fixed seed"):
            jax.jit(model.predict_batch)(tiny_params(), tiny_batch(), key)


class TestConstruction:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
            ({"z_loss": -1.0}, "z_loss is -1.0"),
            ({"loss_normalizing_factor": "NUM_REAL"}, "loss_normalizing_factor"),
            ({"loss_normalizing_factor": 0}, "expected a positive number"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ConfigError, match=message):
            tiny(**options)

    def test_input_depth_must_be_the_networks(self):
        with pytest.raises(ConfigError, match=r"input_depth is 512.*is 5;"):
            models.ContinuousInputsEncoderDecoderModel(
                network.Transformer(TINY), None, None, None, 512
            )

    def test_input_depth_becomes_the_networks(self):
        module = network.Transformer(dataclasses.replace(TINY, input_depth=None))
        model = models.ContinuousInputsEncoderDecoderModel(module, None, None, None, 5)
        assert model.module.config == TINY

    def test_attributes_that_engines_read(self):
        marks = [object() for _ in range(4)]
        model = models.ContinuousInputsEncoderDecoderModel(
            network.Transformer(TINY),
            *marks[:3],
            input_depth=5,
            feature_converter_cls=marks[3],
        )
        assert model.input_vocabulary is marks[0]
        assert model.output_vocabulary is marks[1]
        assert model.optimizer_def is marks[2]
        assert model.FEATURE_CONVERTER_CLS is marks[3]

    def test_signatures_are_t5x_ones(self):
        wanted = {
            "loss_fn": ["params", "batch", "dropout_rng"],
            "eval_fn": ["params", "batch"],
            "predict_batch": ["params", "batch", "rng"],
            "predict_batch_with_aux": [
                "params",
                "batch",
                "rng",
                "decoder_params",
                "return_all_decodes",
                "num_decodes",
                "prompt_with_targets",
            ],
            "score_batch": ["params", "batch", "return_intermediates"],
            "get_initial_variables": ["rng", "input_shapes", "input_types"],
        }
        for name, parameters in wanted.items():
            method = getattr(models.ContinuousInputsEncoderDecoderModel, name)
            assert list(inspect.signature(method).parameters)[1:] == parameters

    def test_feature_converter_needs_the_train_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mt3.data.feature_converters", None)
        # `from mt3 import ...` looks at the package's attribute first.
        monkeypatch.delattr("mt3.data.feature_converters", raising=False)
        with pytest.raises(ConfigError, match=r"mt3-transcription\[train\]"):
            _ = tiny().FEATURE_CONVERTER_CLS

    def test_feature_converter_is_found_when_it_is_asked_for(self, monkeypatch):
        module = types.ModuleType("mt3.data.feature_converters")
        module.ContinuousInputsEncDecFeatureConverter = marker = object()
        monkeypatch.setitem(sys.modules, "mt3.data.feature_converters", module)
        monkeypatch.setattr("mt3.data.feature_converters", module, raising=False)
        assert tiny().FEATURE_CONVERTER_CLS is marker
        # On the class it stays unasked for: gin looks at every attribute.
        assert models.ContinuousInputsEncoderDecoderModel.FEATURE_CONVERTER_CLS


class TestMetrics:
    @flax.struct.dataclass
    class AveragePerStep:
        """Stands in for `t5x.metrics.AveragePerStep`."""

        total: jax.Array
        steps: int = 1

    @flax.struct.dataclass
    class Average:
        """Stands in for `clu.metrics.Average`."""

        total: jax.Array
        count: jax.Array

    def test_in_t5x_they_are_of_its_classes(self, monkeypatch):
        module = types.ModuleType("t5x.metrics")
        module.AveragePerStep = self.AveragePerStep
        module.clu_metrics = types.SimpleNamespace(Average=self.Average)
        ours = loss_of(tiny(), tiny_batch())[1]
        monkeypatch.setitem(sys.modules, "t5x.metrics", module)
        # Traced anew: the program compiled above would not ask again.
        theirs = jax.jit(lambda p, b: tiny().loss_fn(p, b, None)[1])(
            tiny_params(), tiny_batch()
        )
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            per_step = name in ("loss", "z_loss", "cross_ent_loss")
            assert type(value) is (self.AveragePerStep if per_step else self.Average)
            np.testing.assert_allclose(value.total, ours[name].total, rtol=1e-6)
        fraction = theirs["non_padding_fraction/loss_weights"]
        assert float(fraction.total / fraction.count) == pytest.approx(13 / 15)

    def test_a_subclass_may_count_other_things(self):
        class Model(models.ContinuousInputsEncoderDecoderModel):
            def _compute_metrics(self, *, logits, **others):
                return {"largest": jnp.max(logits)}

        model = Model(network.Transformer(TINY), None, None, None, 5)
        assert set(loss_of(model, tiny_batch())[1]) == {"largest"}
