"""The training loop on a model of one matrix: resuming, stopping, microbatches."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import flax.linen.partitioning as flax_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mt3.checkpoints import t5x
from mt3.engine import (
    checkpoints,
    data_sources,
    metrics_writer,
    optimizers,
    partitioning,
    run_loop,
    trainer,
    utils,
)
from mt3.engine import train as train_module
from mt3.engine.train_state import TrainState
from mt3.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
)


class LinearModel:
    """Least squares with dropout on the inputs, in the shape of MT3's models."""

    FEATURE_CONVERTER_CLS = None

    def __init__(self, optimizer_def, dropout_rate=0.5):
        self.optimizer_def = optimizer_def
        self._dropout_rate = dropout_rate

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        depth = input_shapes["encoder_input_tokens"][-1]
        kernel = jax.random.normal(rng, (depth, 4))
        axes = flax_partitioning.AxisMetadata(("embed", "mlp"))
        return {
            "params": {"dense": {"kernel": kernel}, "shift": jnp.zeros((4,))},
            "params_axes": {"dense": {"kernel_axes": axes}},
        }

    def loss_fn(self, params, batch, dropout_rng):
        inputs = batch["encoder_input_tokens"]
        if dropout_rng is not None and self._dropout_rate:
            keep = jax.random.bernoulli(
                dropout_rng, 1 - self._dropout_rate, inputs.shape
            )
            inputs = inputs * keep
        outputs = inputs @ params["dense"]["kernel"] + params["shift"][None]
        loss = jnp.sum(jnp.square(outputs - batch["extra_target"]))
        return loss, {"loss": loss, "squares": jnp.sum(jnp.square(outputs))}

    def eval_fn(self, params, batch):
        return self.loss_fn(params, batch, None)


class LinearData:
    """Batches as a function of their number; `bad_batch` has one that is NaN."""

    def __init__(self, batch_size=8, bad_batch=None, failing_batch=None):
        self._batch_size = batch_size
        self._bad_batch = bad_batch
        self._failing_batch = failing_batch

    def batch(self, index):
        if index == self._failing_batch:
            raise OSError("the disk is gone")
        rng = np.random.default_rng([7, index])
        inputs = rng.normal(size=(self._batch_size, 6)).astype(np.float32)
        targets = inputs[:, :4] * 2
        if index == self._bad_batch:
            inputs[0] = np.nan
        return {
            "encoder_input_tokens": inputs,
            "extra_target": targets,
            "decoder_loss_weights": np.ones((self._batch_size, 4), np.float32),
        }


def run(
    model_dir,
    *,
    total_steps,
    data=None,
    optimizer=None,
    period=None,
    keep=None,
    num_microbatches=None,
    seed=3,
    evaluate=False,
    restore=None,
    dropout_rate=0.5,
    **kwargs,
):
    """Trains the linear model; returns (step, state)."""
    data = data or LinearData()
    config = utils.DatasetConfig("linear", {}, "train", 8, True, 5)
    kwargs.setdefault("stats_period", 2)
    return train_module.train(
        model=LinearModel(
            optimizer or optimizers.adamw(weight_decay=0.01), dropout_rate
        ),
        train_dataset_cfg=config,
        train_eval_dataset_cfg=config if evaluate else None,
        checkpoint_cfg=utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=period, keep=keep), restore=restore
        ),
        partitioner=partitioning.PjitPartitioner(),
        trainer_cls=lambda **arguments: trainer.Trainer(
            **arguments,
            learning_rate_fn=utils.create_learning_rate_scheduler(
                factors="constant", base_learning_rate=0.05
            ),
            num_microbatches=num_microbatches,
        ),
        model_dir=str(model_dir),
        total_steps=total_steps,
        eval_steps=2,
        eval_period=4,
        random_seed=seed,
        get_dataset_fn=lambda *arguments: data,
        **kwargs,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The state after 12 uninterrupted steps."""
    return run(tmp_path_factory.mktemp("whole"), total_steps=12)[1]


def lines(model_dir):
    """Reads metrics.jsonl."""
    text = (model_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_equal_states(one, other):
    """Asserts that two states are equal bit for bit."""
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


def test_loss_falls_and_is_reported(tmp_path):
    step, state = run(tmp_path, total_steps=20, evaluate=True)
    assert step == int(state.step) == 20
    train_lines = [line for line in lines(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in train_lines] == list(range(2, 21, 2))
    assert train_lines[-1]["loss_per_token"] < 0.5 * train_lines[0]["loss_per_token"]
    last = train_lines[-1]
    assert last["learning_rate"] == pytest.approx(0.05)
    assert last["grad_norm"] > 0
    assert last["squares"] > 0
    assert last["steps_per_second"] > 0
    assert last["examples_per_second"] > 0
    assert last["seconds_left"] == 0
    evaluated = [line for line in lines(tmp_path) if line["split"] == "linear"]
    assert [line["step"] for line in evaluated] == [4, 8, 12, 16, 20]
    assert evaluated[-1]["loss"] < evaluated[0]["loss"]
    assert "dense/kernel" in (tmp_path / "model-info.txt").read_text()
    assert list((tmp_path / "train").glob("events*"))


def test_resumed_run_equals_uninterrupted_one(tmp_path, whole):
    run(tmp_path, total_steps=4)
    _, parts = run(tmp_path, total_steps=12)
    assert_equal_states(whole, parts)


def test_resuming_keeps_a_drawn_seed(tmp_path):
    run(tmp_path, total_steps=2, seed=None)
    first = checkpoints.read_data_state(tmp_path / "checkpoint_2")["random_seed"]
    run(tmp_path, total_steps=4, seed=None)
    last = checkpoints.read_data_state(tmp_path / "checkpoint_4")
    assert last == {"random_seed": first, "source": {"batch": 4}}


def test_resuming_counts_batches_of_a_plain_iterator(tmp_path, whole):
    def batches():
        for index in range(100):
            yield LinearData().batch(index)

    run(tmp_path, total_steps=3, data=batches())
    _, parts = run(tmp_path, total_steps=12, data=batches())
    assert_equal_states(whole, parts)


class StoppingData(LinearData):
    """Sends this process a signal while a batch is prepared."""

    def batch(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(index)


def test_sigterm_saves_and_the_run_goes_on_exactly(tmp_path, whole):
    before = signal.getsignal(signal.SIGTERM)
    step, _ = run(tmp_path, total_steps=12, data=StoppingData())
    assert 1 <= step < 12
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints.checkpoint_steps(tmp_path) == [step]
    step, parts = run(tmp_path, total_steps=12)
    assert step == 12
    assert_equal_states(whole, parts)


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path, whole):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys
            sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
            import test_engine_train as engine
            class Killing(engine.LinearData):
                def batch(self, index):
                    if index == 9:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return super().batch(index)
            engine.run({str(tmp_path / "parts")!r}, total_steps=12, period=2,
                       data=Killing())
            """
        )
    )
    process = subprocess.run(
        [sys.executable, script], env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert process.returncode == -signal.SIGKILL
    reached = checkpoints.checkpoint_steps(tmp_path / "parts")
    assert reached
    assert reached[-1] < 10
    _, parts = run(tmp_path / "parts", total_steps=12, period=2)
    assert_equal_states(whole, parts)


def test_max_minutes_stops_with_a_checkpoint(tmp_path):
    step, _ = run(tmp_path, total_steps=1000, max_minutes=0.0001)
    assert step < 1000
    assert checkpoints.checkpoint_steps(tmp_path) == [step]


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"is nan at step 6"):
        run(tmp_path, total_steps=20, data=LinearData(bad_batch=5), period=4)
    assert checkpoints.checkpoint_steps(tmp_path) == [4]


def test_data_errors_reach_the_caller(tmp_path):
    with pytest.raises(DataError, match="the disk is gone"):
        run(tmp_path, total_steps=20, data=LinearData(failing_batch=3))


def test_too_few_batches_are_an_error_after_a_checkpoint(tmp_path):
    batches = [LinearData().batch(index) for index in range(3)]
    with pytest.raises(DataError, match="after step 3"):
        run(tmp_path, total_steps=5, data=batches)
    assert checkpoints.checkpoint_steps(tmp_path) == [3]


def test_microbatches_equal_the_whole_batch(tmp_path):
    kwargs = {"total_steps": 5, "dropout_rate": 0.0}
    _, whole = run(tmp_path / "whole", **kwargs)
    _, parts = run(tmp_path / "parts", num_microbatches=4, **kwargs)
    for one, other in zip(
        jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert lines(tmp_path / "whole")[-1]["loss"] == pytest.approx(
        lines(tmp_path / "parts")[-1]["loss"], rel=1e-5
    )


def test_microbatches_must_divide_the_batch(tmp_path):
    with pytest.raises(ConfigError, match="3 microbatches do not divide a batch of 8"):
        run(tmp_path, total_steps=1, num_microbatches=3)


def no_space(*arguments, **options):
    """Stands for whatever writes to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("use_orbax", [True, False])
def test_full_disk_stops_the_run_at_the_last_whole_checkpoint(
    tmp_path, monkeypatch, whole, use_orbax
):
    def full_from_the_second_call_on(owner, name):
        function, calls = getattr(owner, name), []

        def call(*arguments, **options):
            calls.append(name)
            return (function if len(calls) == 1 else no_space)(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    # Beneath both forms: the last act of Orbax, all of the other's.
    full_from_the_second_call_on(ocp.PyTreeCheckpointHandler, "finalize")
    full_from_the_second_call_on(t5x, "_write_checkpoint")
    kwargs = {"period": 3, "use_orbax": use_orbax}
    with pytest.raises(CheckpointError, match=r"checkpoint_6 failed: .*No space left"):
        run(tmp_path, total_steps=12, **kwargs)
    assert checkpoints.checkpoint_steps(tmp_path) == [3]
    monkeypatch.undo()
    _, parts = run(tmp_path, total_steps=12, **kwargs)
    assert_equal_states(whole, parts)


def test_what_describes_a_run_stays_on_a_full_disk(tmp_path, monkeypatch):
    run(tmp_path, total_steps=2)
    before = (tmp_path / "model-info.txt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(OutputError, match=r"model-info\.txt: cannot write: "):
            run(tmp_path, total_steps=4)
    assert (tmp_path / "model-info.txt").read_bytes() == before


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    class Second(LinearData):
        def batch(self, index):
            if index == 2:
                with pytest.raises(OutputError, match="train: .*another run is"):
                    run(tmp_path, total_steps=12)
            return super().batch(index)

    run(tmp_path, total_steps=3, data=Second())
    assert checkpoints.checkpoint_steps(tmp_path) == [3]


def test_metrics_that_cannot_be_written_do_not_stop_the_run(
    tmp_path, monkeypatch, caplog
):
    class Full(io.FileIO):
        """A file whose third line finds room for some bytes only."""

        count = 0

        def write(self, data):
            self.count += 1
            if self.count == 2:
                no_space()
            return super().write(data[:9] if self.count == 3 else data)

    writer = metrics_writer.MetricsWriter(tmp_path)
    writer._lines.close()
    writer._lines = Full(tmp_path / "metrics.jsonl", "ab")
    for step in range(5):
        writer.write("train", step, {"loss": 0.5})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [0, 3, 4]
    assert caplog.text.count("cannot write metrics.jsonl: ") == 2


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"train: .*file/run: cannot write: "):
        run(tmp_path / "file" / "run", total_steps=1)


def test_keeps_the_newest_checkpoints(tmp_path):
    run(tmp_path, total_steps=10, period=2, keep=2)
    assert checkpoints.checkpoint_steps(tmp_path) == [8, 10]


def test_damaged_newest_checkpoint_is_put_aside(tmp_path):
    _, whole = run(tmp_path, total_steps=6, period=3)
    for path in (tmp_path / "checkpoint_6" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"")
    _, again = run(tmp_path, total_steps=6, period=3)
    assert_equal_states(whole, again)
    assert (tmp_path / "damaged_checkpoint_6").is_dir()


def test_a_checkpoint_that_is_removed_while_it_is_read(tmp_path, monkeypatch, caplog):
    run(tmp_path, total_steps=6, period=3)
    load, removed = checkpoints.load_t5x, tmp_path / "checkpoint_6"

    def load_what_goes(path, **options):
        shutil.rmtree(removed, ignore_errors=True)
        return load(path, **options)

    monkeypatch.setattr(checkpoints, "load_t5x", load_what_goes)
    with caplog.at_level("WARNING", "mt3"):
        _, again = run(tmp_path, total_steps=5, period=3)
    assert "checkpoint_6 was removed while it was read" in caplog.text
    assert int(again.step) == 5
    assert not list(tmp_path.glob("damaged*"))


def test_checkpoint_of_another_optimizer_is_named(tmp_path):
    run(tmp_path, total_steps=2)
    with pytest.raises(CheckpointError, match="another optimiser: missing"):
        run(tmp_path, total_steps=4, optimizer=optimizers.sgd(momentum=0.9))


def test_starts_from_another_run(tmp_path):
    _, first = run(tmp_path / "first", total_steps=4)
    restore = utils.RestoreCheckpointConfig(
        path=str(tmp_path / "first" / "checkpoint_4"), mode="specific"
    )
    step, state = run(tmp_path / "second", total_steps=4, restore=restore)
    assert step == 4
    assert_equal_states(first, state)


def test_total_steps_below_the_checkpoint(tmp_path):
    run(tmp_path, total_steps=4)
    with pytest.raises(ConfigError, match="total_steps is 2"):
        run(tmp_path, total_steps=2)


def test_a_run_that_is_told_to_end_saves_and_does_not_evaluate(tmp_path):
    step, _ = run(tmp_path, total_steps=12, data=StoppingData(), evaluate=True)
    evaluated = [line["step"] for line in lines(tmp_path) if line["split"] != "train"]
    assert step not in evaluated
    assert checkpoints.checkpoint_steps(tmp_path) == [step]


def test_a_request_that_comes_while_reporting_saves_too(tmp_path, monkeypatch):
    def log_line(split, step, values):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(metrics_writer, "log_line", log_line)
    step, _ = run(tmp_path, total_steps=12, period=10, stats_period=3)
    assert step == 3
    assert checkpoints.checkpoint_steps(tmp_path) == [3]


def test_options_that_are_not_offered(tmp_path):
    restore = utils.RestoreCheckpointConfig(path="x", mode="all")
    with pytest.raises(ConfigError, match="mode is 'all'"):
        run(tmp_path, total_steps=1, restore=restore)
    with pytest.raises(ConfigError, match="actions"):
        run(tmp_path, total_steps=1, actions={"TRAIN": [1]})


class PooledData(LinearData):
    """Draws four batches together."""

    pool = 4


@pytest.mark.parametrize("kind", [LinearData, PooledData])
def test_workers_prepare_the_same_batches(kind):
    plain = data_sources.as_data_source(LinearData())
    source = data_sources.as_data_source(kind(), num_workers=1)
    try:
        # The second start is in the middle of a pool, with batches still waiting.
        for start in (3, 5):
            source.restore({"batch": start})
            plain.restore({"batch": start})
            for _ in range(6):
                one, other = next(plain), next(source)
                np.testing.assert_array_equal(
                    one["encoder_input_tokens"], other["encoder_input_tokens"]
                )
            assert source.state() == {"batch": start + 6}
    finally:
        source.close()


def test_starting_from_exported_weights(tiny_weights, monkeypatch):
    from mt3 import checkpoints as model_checkpoints
    from mt3 import models, network
    from tests.support.tiny_model import CONFIG

    loaded = model_checkpoints.load(tiny_weights).params
    model = models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(network.T5Config.from_dict(CONFIG.network)),
        None,
        None,
        optimizers.adamw(),
        input_depth=32,
    )
    zeros = jax.tree.map(jnp.zeros_like, loaded)
    like = TrainState(
        jnp.zeros((), jnp.int32), zeros, model.optimizer_def.init_state(zeros)
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda leaf: place, like)

    def start(like, path):
        config = utils.RestoreCheckpointConfig(path=str(path), mode="specific")
        return checkpoints.restore_for_finetuning(
            config, like, shardings, model.optimizer_def
        )

    state, position = start(like, tiny_weights)
    assert int(state.step) == 0
    assert position is None
    for found, expected in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(loaded), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    other = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), zeros)
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: .* another model"):
        start(like.replace(params=other), tiny_weights)
    asked = []

    def find(path):
        asked.append(path)
        raise CheckpointError("nothing there")

    monkeypatch.setattr(checkpoints, "find_checkpoint", find)
    with pytest.raises(CheckpointError, match="nothing there"):
        start(like, "gs://bucket/checkpoint_1")
    assert asked == ["gs://bucket/checkpoint_1"]


def test_checkpoints_by_the_clock():
    save = utils.SaveCheckpointConfig(period=None, minutes=3)
    periods = run_loop.Periods.of(10, None, save, 100)
    assert periods.next_pause(7) == 10
    assert not periods.checkpoint_due(10, 179.0)
    assert periods.checkpoint_due(10, 180.0)
    without = run_loop.Periods.of(10, None, utils.SaveCheckpointConfig(period=20), 100)
    assert not without.checkpoint_due(10, 1e6)
    assert without.checkpoint_due(20)
    with pytest.raises(ConfigError, match="minutes are 0"):
        utils.SaveCheckpointConfig(minutes=0)
