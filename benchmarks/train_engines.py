"""What `train_step.py` measures: a model, a batch, and two engines that train it.

Each engine is built of the public pieces that its `train` function puts together, with
the settings of `gin/train.gin`: one model partition, no microbatches, Adafactor at a
constant rate of 0.001, the state donated to the step. Both begin with
`split(PRNGKey(seed))`, one half for the parameters and one for the dropout, so that
they draw the same numbers. (Without a seed T5X changes to JAX's `unsafe_rbg` numbers,
which this does not measure.)

Nothing here imports JAX or an engine before it is asked to: the process that prints the
table stays small, and each engine has a process of its own.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import resource
import time
import traceback
from typing import Any

import numpy as np

# Gin files of each size, and what of them is the network: 8, 512 and 768 features. The
# last one is the recipe of the default weights, with its losses, augmentation and
# optimiser, encoder and heads alone.
SIZES = {
    "tiny": ("mt3.gin", "model.gin", "local_tiny.gin"),
    "small": ("mt3.gin", "model.gin"),
    "base": ("mt3.gin", "ismir2022/base.gin"),
    "default": ("synthetic.gin",),
}
_UNUSED = {"default": ("MODEL_DIR = ''", "CORPUS = ''")}
_NOTES = 60
SEED = 42
LEARNING_RATE = {"factors": "constant", "base_learning_rate": 0.001}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
      size: a name of `SIZES`.
      batch: examples of a step.
      frames: spectrogram frames of an example.
      tokens: targets of an example, padding included.
      dtype: of the computation; parameters are float32.
    """

    size: str
    batch: int
    frames: int
    tokens: int
    dtype: str = "float32"


class EngineMissingError(Exception):
    """The engine cannot be imported; the text says why."""


# What is trained.


def make_model(size: str, dtype: str) -> Any:
    """Makes the model of a size as its gin files say, but for the computation type.

    The optimiser is that of the module that goes by the name `t5x` at the time.
    """
    import gin
    from mt3.engine import gin_utils

    gin.clear_config()
    bindings = (*_UNUSED.get(size, ()), f"network.T5Config.dtype = {dtype!r}")
    gin_utils.parse_gin_flags([], SIZES[size], bindings)
    try:
        if size == "default":
            return gin.get_configurable("guided.GuidedModel")()
        make = gin.get_configurable("models.ContinuousInputsEncoderDecoderModel")
        # Tasks have one; the benchmark has no tasks.
        return make(input_vocabulary=None)
    finally:
        gin.clear_config()


def make_batch(settings: Settings, depth: int, vocab_size: int) -> dict[str, Any]:
    """Draws a batch: noise for frames, random tokens with padding behind them.

    Args:
      settings: the shapes.
      depth: features of a frame.
      vocab_size: tokens are below it, and 0 is padding.
    """
    rng = np.random.default_rng(SEED)
    frames = rng.normal(size=(settings.batch, settings.frames, depth))
    shape = (settings.batch, settings.tokens)
    lengths = rng.integers(settings.tokens // 2, settings.tokens + 1, settings.batch)
    real = np.arange(settings.tokens) < lengths[:, np.newaxis]
    targets = np.where(real, rng.integers(1, vocab_size, shape), 0).astype(np.int32)
    return {
        "encoder_input_tokens": frames.astype(np.float32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": real.astype(np.float32),
    }


def make_guided_batch(settings: Settings, model: Any) -> dict[str, Any]:
    """Draws a batch for a model that makes the frames itself: noise and random notes.

    Args:
      settings: examples and tokens; the frames are the model's.
      model: a `guided.GuidedModel`.
    """
    from mt3.beyond import grids
    from mt3.note_sequences import NOTE_DTYPE
    from mt3.synthesis.augmentation import HISTORY_SAMPLES

    rng = np.random.default_rng(SEED)
    plain = make_batch(settings, 1, model.module.config.vocab_size)
    seconds = model.config.segment_seconds
    rows = []
    for _ in range(settings.batch):
        notes = np.zeros(_NOTES, NOTE_DTYPE)
        notes["start_time"] = rng.uniform(0, seconds - 0.5, _NOTES)
        notes["end_time"] = notes["start_time"] + 0.5
        notes["pitch"] = rng.integers(30, 90, _NOTES)
        notes["velocity"] = rng.integers(30, 120, _NOTES)
        rows.append(grids.note_rows(notes, settings.tokens // 2))
    shape = (settings.batch, HISTORY_SAMPLES + model.config.input_samples)
    return {
        **{name: array for name, array in plain.items() if "decoder" in name},
        "samples": rng.normal(0, 3000, shape).astype(np.int16),
        "notes": np.stack(rows),
    }


def step_flops(config: Any, batch: int, frames: int, tokens: int) -> int:
    """Counts the floating-point operations of one forward and backward step.

    Matrix products alone, two operations for each multiplication, and twice the forward
    products for the backward ones; but no gradient of the frames, which nobody needs.
    Masked attention counts in full: either engine computes it. The optimiser's work, a
    few operations for each parameter, is left out.

    Args:
      config: the `T5Config`, without a harmonic stem.
      batch: examples.
      frames: frames of each.
      tokens: tokens of each.
    """
    width, inner = config.emb_dim, config.num_heads * config.head_dim

    def attention(queries: int, keys: int) -> int:
        projections = 2 * (queries + keys) * width * inner
        return projections + 2 * queries * keys * inner

    mlp = (len(config.mlp_activations) + 1) * width * config.mlp_dim
    encoder = config.num_encoder_layers * (attention(frames, frames) + frames * mlp)
    decoder = config.num_decoder_layers * (
        attention(tokens, tokens) + attention(tokens, frames) + tokens * mlp
    )
    logits = tokens * width * config.vocab_size
    inputs = frames * config.input_depth * width
    return 2 * batch * (3 * (encoder + decoder + logits) + 2 * inputs)


# The engines.


class Subject:
    """Something that takes turns.

    Attributes:
      flops: floating-point operations of a step.
    """

    flops: int

    def turn(self, steps: int) -> float:
        """Takes steps; returns the seconds that they took."""
        import jax

        started = time.perf_counter()
        jax.block_until_ready(self._steps(steps))
        return time.perf_counter() - started

    def _steps(self, steps: int) -> Any:
        """Starts steps; returns arrays that are ready when all of them are."""
        raise NotImplementedError


class Engine(Subject):
    """A trainer with its state, made by a subclass.

    Attributes:
      trainer: the engine's own `Trainer`.
    """

    trainer: Any

    def __init__(self, settings: Settings):
        self.imported = peak_memory()
        self.model = self._make_model(settings)
        config = self.model.module.config
        if settings.size == "default":
            self.batch = make_guided_batch(settings, self.model)
            self._make_trainer()
            # XLA's own count, which has the stem's convolutions.
            self.flops = round(self.trainer.step_flops(self.batch))
            return
        self.batch = make_batch(settings, config.input_depth, config.vocab_size)
        self.flops = step_flops(
            config, settings.batch, settings.frames, settings.tokens
        )
        self._make_trainer()

    def _make_model(self, settings: Settings) -> Any:
        raise NotImplementedError

    def _make_trainer(self) -> None:
        raise NotImplementedError

    def _compile_step(self) -> Any:
        raise NotImplementedError

    def losses(self, steps: int) -> list[float]:
        """Takes steps; returns the summed loss of each."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Compiles the step; returns the seconds, XLA's memory in bytes, and sizes."""
        import jax

        started = time.perf_counter()
        analysis = self._compile_step().memory_analysis()
        seconds = time.perf_counter() - started
        needed = None
        if analysis is not None:
            needed = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
            # Donated arguments are outputs in the same place.
            needed += analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        leaves = jax.tree.leaves(self.trainer.train_state.params)
        return {
            "compile_seconds": seconds,
            "xla_bytes": needed,
            "flops": self.flops,
            "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
        }

    def memory(self) -> dict[str, Any]:
        """Returns the peak memory so far, and that of the imports alone, in bytes."""
        return {"peak_bytes": peak_memory(), "import_bytes": self.imported}


class OurEngine(Engine):
    """`mt3.engine`, as `mt3 train` runs it."""

    def _make_model(self, settings: Settings) -> Any:
        from mt3.engine import launch

        with launch.engine_as_t5x():
            return make_model(settings.size, settings.dtype)

    def _make_trainer(self) -> None:
        import jax

        from mt3.engine import partitioning, train_state, trainer, utils

        model, batch = self.model, self.batch
        partitioner = partitioning.PjitPartitioner(num_partitions=1)
        shapes = {name: array.shape for name, array in batch.items()}
        types = {name: array.dtype for name, array in batch.items()}

        def create(rng):
            variables = dict(model.get_initial_variables(rng, shapes, types))
            params = variables.pop("params")
            return train_state.TrainState.create(params, model.optimizer_def), variables

        init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(SEED))
        like, variables = jax.eval_shape(create, init_rng)
        names = partitioning.logical_axis_names(variables)
        shardings = partitioner.state_shardings(like, names)
        initialize = jax.jit(lambda rng: create(rng)[0], out_shardings=shardings)
        self.trainer = trainer.Trainer(
            model=model,
            train_state=initialize(init_rng),
            partitioner=partitioner,
            eval_names=(),
            summary_dir=None,
            train_state_axes=shardings,
            rng=trainer_rng,
            learning_rate_fn=utils.create_learning_rate_scheduler(**LEARNING_RATE),
            peak_flops=1.0,
        )
        self._batches = itertools.repeat(batch)

    def _compile_step(self) -> Any:
        # JAX keeps what is compiled here for the trainer's own calls.
        placed = self.trainer._partitioner.put_batch(self.batch)
        return self.trainer._train_step.lower(
            self.trainer.train_state, placed
        ).compile()

    def losses(self, steps: int) -> list[float]:
        """Takes steps; returns the summed loss of each."""
        result = self.trainer.train(self._batches, steps)
        return [metrics["loss"][0] for metrics in result.steps]

    def _steps(self, steps: int) -> Any:
        self.trainer.train(self._batches, steps)
        return self.trainer.train_state


class T5XEngine(Engine):
    """T5X's trainer, as `python -m t5x.train` runs it."""

    def __init__(self, settings: Settings):
        if settings.size == "default":
            raise EngineMissingError("it has no such network")
        try:
            for name in ("partitioning", "trainer", "utils"):
                importlib.import_module(f"t5x.{name}")
        # With a JAX that it does not know, its import fails in other ways as well.
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            raise EngineMissingError(f"{type(error).__name__}: {text}") from error
        from absl import logging

        # It warns of each parameter that its factor rules do not apply to.
        logging.set_verbosity(logging.ERROR)
        super().__init__(settings)

    def _make_model(self, settings: Settings) -> Any:
        return make_model(settings.size, settings.dtype)

    def _make_trainer(self) -> None:
        import jax
        from t5x import partitioning, trainer, utils

        partitioner = partitioning.PjitPartitioner(
            num_partitions=1,
            logical_axis_rules=partitioning.standard_logical_axis_rules(),
        )
        shapes = {name: array.shape for name, array in self.batch.items()}
        initializer = utils.TrainStateInitializer(
            optimizer_def=self.model.optimizer_def,
            init_fn=self.model.get_initial_variables,
            input_shapes=shapes,
            input_types={name: array.dtype for name, array in self.batch.items()},
            partitioner=partitioner,
        )
        init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(SEED))
        self.trainer = trainer.Trainer(
            model=self.model,
            train_state=initializer.from_scratch(init_rng),
            partitioner=partitioner,
            eval_names=(),
            summary_dir=None,
            train_state_axes=initializer.train_state_axes,
            rng=trainer_rng,
            learning_rate_fn=utils.create_learning_rate_scheduler(**LEARNING_RATE),
            num_microbatches=None,
        )
        # Batches reach the devices in its iterator; with us in the trainer.
        self._batches = utils.ShardedDatasetIterator(
            itertools.repeat(self.batch), partitioner, shapes
        )

    def _compile_step(self) -> Any:
        self.trainer.compile_train(next(self._batches))
        return self.trainer._compiled_train_step

    def losses(self, steps: int) -> list[float]:
        """Takes steps; returns the summed loss of each."""
        # It averages the losses of a call.
        summaries = [
            self.trainer.train(self._batches, 1).result() for _ in range(steps)
        ]
        return [float(summary["loss"].value) for summary in summaries]

    def _steps(self, steps: int) -> Any:
        self.trainer.train(self._batches, steps).result()
        return self.trainer.train_state


class MatrixProduct(Subject):
    """What the machine can do: large float32 products, all devices together.

    At JAX's default precision, which the models have too: on some GPUs that is TF32.
    """

    def __init__(self, settings: Settings | None = None):
        import jax
        import jax.numpy as jnp

        del settings
        device = jax.devices()[0]
        size = 2048 if device.platform == "cpu" else 8192
        self.flops = 2 * size**3
        self._devices = jax.device_count()
        self._matrix = jax.random.normal(jax.random.key(0), (size, size))
        self._product = jax.jit(jnp.dot)
        self._machine = {
            "devices": f"{self._devices} x {device.device_kind}",
            "backend": jax.default_backend(),
            "jax": jax.__version__,
        }

    def facts(self) -> dict[str, Any]:
        """Returns what the machine is, and the operations of a step."""
        # One device is timed, and the others are taken to be like it.
        return {**self._machine, "flops": self.flops * self._devices}

    def _steps(self, steps: int) -> Any:
        return [self._product(self._matrix, self._matrix) for _ in range(steps)][-1]


ENGINES = {"ours": OurEngine, "T5X": T5XEngine}
SUBJECTS = {**ENGINES, "product": MatrixProduct}


def peak_memory() -> int:
    """Returns the most bytes so far: a device's, where it tells, or the process's."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(connection: Any, subject: str, settings: Settings) -> None:
    """Makes a subject and answers requests, in a process of its own.

    Args:
      connection: end of a pipe. First `("ready", None)`, `("missing", why)` or
        `("error", traceback)` is sent; then for each (method, arguments) received
        `("ready", result)` or `("error", traceback)`. None ends it.
      subject: a name of `SUBJECTS`.
      settings: what is trained.
    """
    try:
        served = SUBJECTS[subject](settings)
        connection.send(("ready", None))
        while (request := connection.recv()) is not None:
            method, arguments = request
            connection.send(("ready", getattr(served, method)(*arguments)))
    except EngineMissingError as error:
        connection.send(("missing", str(error)))
    except EOFError:
        pass  # whoever asked was ended
    except Exception:
        connection.send(("error", traceback.format_exc()))
