"""The MT3 model: network, loss, metrics, prediction and scoring of batches.

`ContinuousInputsEncoderDecoderModel` has the methods, names and signatures of T5X's
`EncoderDecoderModel`, so T5X's trainer, evaluator and inferer can call it as well as
`mt3.engine` does. It imports neither T5X nor seqio.

A batch has the features of T5X's encoder-decoder models, by these names:

    encoder_input_tokens    float [B, T, input_depth], spectrogram frames
    decoder_input_tokens    int32 [B, L], targets shifted right, 0 first
    decoder_target_tokens   int32 [B, L], 0 is padding
    decoder_loss_weights    float [B, L]; without it, 1 where a target is not padding
    {encoder,decoder}_{segment_ids,positions}   int32, for packed examples only

Differences from the original model:

1. Without `decoder_loss_weights` padding does not count in the loss; T5X fails.
2. `decode_fn` may also be the name of a strategy of `mt3.decoding` or the strategy
   itself. The default, `decoding.beam_search`, and strategies decode without T5X's
   cache, which gives the same tokens faster; any other function gets the cache, as in
   T5X. Beam search ignores prompts, so `prompt_with_targets` without a `decode_fn` that
   reads them is an error.
3. `loss_normalizing_factor` by name divides by 1, not 0, in a batch of padding.
4. Settings that cannot work raise `ConfigError` when the model is made.
5. Where seqio has not been imported, the class attribute `FEATURE_CONVERTER_CLS` is a
   placeholder; on a model it is always the class.
6. The metrics are those of T5X without its timing metrics, see `losses.batch_metrics`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from mt3 import decoding, losses
from mt3.decoding import flax_cache, strategies
from mt3.errors import TRAIN_EXTRA, ConfigError, DataError
from mt3.losses import Metrics
from mt3.vocabularies import EOS_ID

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]

BATCH_FEATURES = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
)
_OPTIONAL_FEATURES = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)


def __getattr__(name: str) -> Any:
    """Imports the feature converter when it is asked for: seqio is optional."""
    if name != "ContinuousInputsEncDecFeatureConverter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from mt3.data import feature_converters
    except ImportError as error:
        raise ConfigError(
            f"models: {name} needs seqio, which is not installed ({error}); install "
            f"{TRAIN_EXTRA}"
        ) from error
    return feature_converters.ContinuousInputsEncDecFeatureConverter


class _LazyFeatureConverter:
    """Gives the feature converter when a model, or a user of seqio, asks for it."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Gin and inspect look at all attributes of the class.
        if instance is None and "seqio" not in sys.modules:
            return self
        return __getattr__("ContinuousInputsEncDecFeatureConverter")


class ContinuousInputsEncoderDecoderModel:
    """An encoder-decoder model whose inputs are frames and whose outputs are tokens.

    Attributes:
      module: the `network.Transformer`.
      input_vocabulary: vocabulary of the inputs (a pass-through), for seqio.
      output_vocabulary: vocabulary of the targets.
      optimizer_def: the engine's optimiser; not looked at here.
      input_depth: features of a frame.
      decode_fn: how predictions are decoded.
      FEATURE_CONVERTER_CLS: the seqio feature converter; asking a model for it raises
        ConfigError where seqio is not installed.
    """

    FEATURE_CONVERTER_CLS = _LazyFeatureConverter()

    def __init__(
        self,
        module: nn.Module,
        input_vocabulary: Any,
        output_vocabulary: Any,
        optimizer_def: Any,
        input_depth: int,
        decode_fn: Any = decoding.beam_search,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        loss_normalizing_factor: float | str | None = None,
        feature_converter_cls: Callable[..., Any] | None = None,
    ):
        """Makes a model.

        Args:
          module: the network. Where its `T5Config.input_depth` is `None`, it becomes
            `input_depth`.
          input_vocabulary: vocabulary of the inputs, for seqio; may be `None`.
          output_vocabulary: vocabulary of the targets, for seqio; may be `None`.
          optimizer_def: the engine's optimiser; may be `None`.
          input_depth: features of a frame; equal to the network's `input_depth`.
          decode_fn: a function with T5X's signature (see `decoding.beam_search`, the
            default, with one beam), the name of a strategy (`greedy`, `beam4`,
            `temperature0.8`), or a strategy.
          label_smoothing: probability spread over the other tokens, in [0, 1).
          z_loss: weight of the squared log of the softmax's denominator.
          loss_normalizing_factor: `None` sums the loss over all targets; a number
            divides it; a name of `losses.NORMALIZERS` divides it by counts.
          feature_converter_cls: another class for `FEATURE_CONVERTER_CLS`.

        Raises:
          ConfigError: a setting cannot work.
        """
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(
                f"models: label_smoothing is {label_smoothing}, expected [0, 1)"
            )
        if z_loss < 0.0:
            raise ConfigError(f"models: z_loss is {z_loss}, expected at least 0")
        config = getattr(module, "config", None)
        depth = getattr(config, "input_depth", input_depth)
        if depth is None:
            config = dataclasses.replace(config, input_depth=input_depth)
            module = module.clone(config=config)
        elif depth != input_depth:
            raise ConfigError(
                f"models: input_depth is {input_depth}, but the network's "
                f"T5Config.input_depth is {depth}; set both to the spectrogram's bands"
            )
        self.module = module
        self.input_vocabulary = input_vocabulary
        self.output_vocabulary = output_vocabulary
        self.optimizer_def = optimizer_def
        self.input_depth = input_depth
        self.decode_fn = decode_fn
        self._label_smoothing = label_smoothing
        self._z_loss = z_loss
        self._loss_normalizing_factor = losses.check_normalizing_factor(
            loss_normalizing_factor
        )
        if feature_converter_cls is not None:
            self.FEATURE_CONVERTER_CLS = feature_converter_cls

    def get_initial_variables(
        self,
        rng: Array,
        input_shapes: Mapping[str, tuple[int, ...]],
        input_types: Mapping[str, Any] | None = None,
    ) -> flax.core.FrozenDict:
        """Draws parameters.

        The values depend on `rng` and the network's sizes alone, so one example of
        the batch is enough.

        Args:
          rng: a key.
          input_shapes: shapes of the batch's features; the one of
            `encoder_input_tokens` may lack the depth.
          input_types: their types, by default float32 inputs and int32 tokens.

        Returns:
          Collections `params` and `params_axes` (logical axis names, for
          partitioners).

        Raises:
          DataError: a feature's shape is missing.
          ShapeError: a shape that the network can't take.
        """
        _require_features(input_shapes, BATCH_FEATURES[:2], "get_initial_variables")
        types = dict(input_types or {})
        frames_shape = tuple(input_shapes["encoder_input_tokens"])
        if len(frames_shape) == 2:
            frames_shape += (self.input_depth,)
        tokens_shape = tuple(input_shapes["decoder_input_tokens"])
        tokens = jnp.ones(
            (1, *tokens_shape[1:]), types.get("decoder_input_tokens", jnp.int32)
        )
        variables = self.module.init(
            rng,
            jnp.ones(
                (1, *frames_shape[1:]), types.get("encoder_input_tokens", jnp.float32)
            ),
            tokens,
            tokens,
            enable_dropout=False,
        )
        return flax.core.freeze(variables)

    def loss_fn(
        self, params: PyTree, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Array, Metrics]:
        """Computes the loss that training minimises.

        Args:
          params: the network's parameters.
          batch: see the module docstring.
          dropout_rng: a key, or `None` for no dropout.

        Returns:
          The loss (float32 scalar, with z-loss) and the metrics.

        Raises:
          DataError: a feature is missing.
          ShapeError: a feature is misshapen.
        """
        logits = self._compute_logits(params, batch, dropout_rng)
        return self.loss_from_logits(logits, batch)

    def loss_from_logits(self, logits: Array, batch: Batch) -> tuple[Array, Metrics]:
        """Computes loss and metrics of logits [B, L, V]; see `loss_fn`."""
        divisor, weights = losses.normalizing_factor_and_weights(
            self._loss_normalizing_factor, batch
        )
        targets = batch["decoder_target_tokens"]
        loss, z_loss = losses.weighted_cross_entropy(
            logits,
            targets,
            weights,
            z_loss=self._z_loss,
            label_smoothing=self._label_smoothing,
            loss_normalizing_factor=divisor,
        )
        metrics = self._compute_metrics(
            logits=logits, targets=targets, weights=weights, loss=loss, z_loss=z_loss
        )
        return loss, metrics

    def eval_fn(self, params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
        """Computes loss and metrics without dropout; see `loss_fn`."""
        return self.loss_fn(params, batch, None)

    def _compute_metrics(
        self,
        *,
        logits: Array,
        targets: Array,
        weights: Array,
        loss: Array,
        z_loss: Array,
    ) -> Metrics:
        """Makes the metrics of a batch; override it for others."""
        return losses.batch_metrics(
            logits=logits, targets=targets, weights=weights, loss=loss, z_loss=z_loss
        )

    def _compute_logits(
        self,
        params: PyTree,
        batch: Batch,
        dropout_rng: Array | None = None,
        mutable: Any = False,
        other_variables: PyTree | None = None,
    ) -> Any:
        """Returns logits [B, L, V], and changed collections if `mutable` names any."""
        _require_features(batch, BATCH_FEATURES, "batch")
        return self.module.apply(
            {"params": params, **(other_variables or {})},
            *(batch[name] for name in BATCH_FEATURES),
            **{name: batch.get(name) for name in _OPTIONAL_FEATURES},
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            mutable=mutable,
        )

    def score_batch(
        self, params: PyTree, batch: Batch, return_intermediates: bool = False
    ) -> Any:
        """Returns the log-likelihood of each target sequence.

        Z-loss and label smoothing are training's business and play no part.

        Args:
          params: the network's parameters.
          batch: see the module docstring.
          return_intermediates: also return what the network offers on the way
            (cross-attention weights), and targets, weights and scores per token.

        Returns:
          float32 [B], in nats; with `return_intermediates` a pair of it and a
          nested dict, whose leaves are tuples of one array each.
        """
        logits = self._compute_logits(
            params, batch, mutable=["intermediates"] if return_intermediates else False
        )
        intermediates = {}
        if return_intermediates:
            logits, variables = logits
            intermediates = flax.core.unfreeze(variables.get("intermediates", {}))
        targets = batch["decoder_target_tokens"]
        weights = losses.target_weights(batch)
        token_scores = -losses.cross_entropy(logits, targets)[0] * weights
        scores = jnp.sum(token_scores, axis=-1)
        if not return_intermediates:
            return scores
        intermediates.setdefault("decoder", {}).update(
            target_tokens=(targets,),
            loss_weights=(weights,),
            token_scores=(token_scores,),
        )
        return scores, intermediates

    def predict_batch(
        self, params: PyTree, batch: Batch, rng: Array | None = None
    ) -> Array:
        """Returns predicted ids, int32 [B, L]; see `predict_batch_with_aux`."""
        return self.predict_batch_with_aux(params, batch, rng)[0]

    def predict_batch_with_aux(
        self,
        params: PyTree,
        batch: Batch,
        rng: Array | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        return_all_decodes: bool = False,
        num_decodes: int | None = None,
        prompt_with_targets: bool = False,
    ) -> tuple[Array, dict[str, Array]]:
        """Decodes a batch.

        Args:
          params: the network's parameters.
          batch: `encoder_input_tokens` [B, T, input_depth], and
            `decoder_input_tokens` [B, L], of which only the length matters: it is
            the most tokens of a prediction.
          rng: a key, for decoding that draws at random.
          decoder_params: further arguments of `decode_fn`. Strategies know
            `decode_rng` (another place for `rng`), beam search `alpha` too.
          return_all_decodes: return every beam instead of the best one.
          num_decodes: sequences for each row; `None` for one, or for those of a
            strategy.
          prompt_with_targets: let `decode_fn` begin with `decoder_input_tokens`.

        Returns:
          Ids, int32 [B, L], 0 after EOS, and a mapping with `scores`, float32 [B];
          with `return_all_decodes` [B, N, L] and [B, N], the best last.

        Raises:
          ConfigError: an argument that can't be honoured.
          DataError: a feature is missing.
          ShapeError: the inputs are misshapen.
        """
        _require_features(batch, BATCH_FEATURES[:2], "batch")
        decoder_params = dict(decoder_params or {})
        if rng is not None:
            if decoder_params.get("decode_rng") is not None:
                raise ConfigError(
                    "models: a key both in rng and in decoder_params['decode_rng'], "
                    "expected one of them"
                )
            decoder_params["decode_rng"] = rng
        strategy = self.decoding_strategy()
        if strategy is None:
            ids, scores = self._decode_with_cache(
                params, batch, num_decodes or 1, prompt_with_targets, decoder_params
            )
        else:
            if prompt_with_targets:
                raise ConfigError(
                    "models: prompt_with_targets needs a decode_fn that reads prompts"
                )
            strategy = _with_settings(strategy, num_decodes, decoder_params)
            ids, scores = decoding.decode(
                params,
                self.module.config,
                batch["encoder_input_tokens"],
                max_length=batch["decoder_input_tokens"].shape[1],
                strategy=strategy,
            )
            # With one sequence a row there is no axis for it.
            if strategy.beams == 1:
                ids, scores = ids[:, jnp.newaxis], scores[:, jnp.newaxis]
        if not return_all_decodes:
            ids, scores = ids[:, -1], scores[:, -1]
        return ids, {"scores": scores}

    def decoding_strategy(self) -> decoding.Strategy | None:
        """Returns the strategy that `decode_fn` stands for; `None` for a function."""
        if self.decode_fn is decoding.beam_search:
            return strategies.Beam()
        if isinstance(self.decode_fn, str):
            return strategies.from_name(self.decode_fn)
        return self.decode_fn if hasattr(self.decode_fn, "advance") else None

    def _decode_with_cache(
        self,
        params: PyTree,
        batch: Batch,
        num_decodes: int,
        prompt_with_targets: bool,
        decoder_params: dict[str, Any],
    ) -> tuple[Array, Array]:
        """Lets `decode_fn` decode; ids [B, N, L] and scores [B, N], the best last."""
        frames, prompts = (batch[name] for name in BATCH_FEATURES[:2])
        eos_id = getattr(self.output_vocabulary, "eos_id", None) or EOS_ID
        # EOS would end the decoding right after the prompt.
        prompts = prompts * (prompts != eos_id) * prompt_with_targets
        encoded = self.module.apply(
            {"params": params}, frames, enable_dropout=False, method="encode"
        )
        # Hypotheses of a row lie side by side.
        rows = [jnp.repeat(x, num_decodes, axis=0) for x in (encoded, frames)]
        return self.decode_fn(
            inputs=prompts,
            cache=flax_cache.empty_cache(self.module, params, frames, prompts),
            tokens_to_logits=flax_cache.step_function(
                self.module, params, *rows, prompts.shape[1]
            ),
            num_decodes=num_decodes,
            **{"eos_id": eos_id, "cache_offset": 0, **decoder_params},
        )


def _with_settings(
    strategy: decoding.Strategy,
    num_decodes: int | None,
    decoder_params: Mapping[str, Any],
) -> decoding.Strategy:
    """Returns the decoding strategy for one call."""
    changes = {}
    settings = {"num_decodes": num_decodes, **decoder_params}
    for name, value in settings.items():
        if value is None or (name == "num_decodes" and value == strategy.beams):
            continue
        if name == "decode_rng":
            # Strategies that draw nothing have no use for a key.
            if isinstance(strategy, strategies.Temperature):
                changes["seed"] = _seed(value)
        elif name in ("alpha", "num_decodes") and isinstance(strategy, strategies.Beam):
            changes["num_beams" if name == "num_decodes" else name] = value
        else:
            raise ConfigError(
                f"models: {name}={value!r} means nothing to {strategy}; expected "
                "num_decodes or alpha with beam search, decode_rng, or a decode_fn "
                "that takes it"
            )
    return dataclasses.replace(strategy, **changes) if changes else strategy


def _seed(rng: Array) -> int:
    """Returns a number drawn from a key, for strategies are made outside of JAX."""
    if isinstance(rng, jax.core.Tracer):
        raise ConfigError(
            "models: predicting at random inside jax.jit needs a fixed seed; give "
            "decode_fn a Temperature with one, and no rng"
        )
    with jax.ensure_compile_time_eval():
        return int(jax.random.randint(rng, (), 0, 2**31 - 1))


def _require_features(
    features: Mapping[str, Any], names: tuple[str, ...], stage: str
) -> None:
    """Checks that all names are there."""
    missing = [name for name in names if name not in features]
    if missing:
        raise DataError(
            f"models: {stage} lacks {', '.join(missing)}; expected "
            f"{', '.join(names)}, got {', '.join(sorted(features)) or 'nothing'}"
        )
