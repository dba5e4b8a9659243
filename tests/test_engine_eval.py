"""Evaluation by inference: predictions, restoring, metrics; in training and after."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import logging

import jax
import numpy as np
import pytest
import seqio

from mt3 import checkpoints as model_checkpoints
from mt3 import network
from mt3.engine import eval as eval_module
from mt3.engine import evaluation, partitioning, prediction, restoring, trainer, utils
from mt3.errors import CheckpointError, ConfigError, DataError, OutputError
from tests.support import drawn, tiny_model, tiny_training

pytestmark = pytest.mark.usefixtures("quick_start")
FAMILY = tiny_training.FAMILY
TASKS = (f"{FAMILY}_eval_train", f"{FAMILY}_validation")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with GuitarSet's records; its tasks are registered."""
    root = tmp_path_factory.mktemp("data")
    tiny_training.write_data(root)
    tiny_training.register(root, metric_options={"num_summary_examples": 0})
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Folder of a run of four steps, with checkpoints at 2 and 4, evaluated."""
    folder = tmp_path_factory.mktemp("run")
    tiny_training.train(
        folder,
        total_steps=4,
        period=2,
        eval_period=2,
        eval_steps=1,
        train_eval_dataset_cfg=tiny_training.dataset_config("eval"),
        infer_eval_dataset_cfg=tiny_training.dataset_config("eval"),
    )
    return folder


def lines(path):
    """Reads JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluate(
    output_dir, path, *, mode="specific", task="validation", model=None, **arguments
):
    """Evaluates checkpoints on a task or a mixture."""
    return eval_module.evaluate(
        model=model or tiny_training.make_model(),
        dataset_cfg=tiny_training.dataset_config(task),
        restore_checkpoint_cfg=utils.RestoreCheckpointConfig(path=path, mode=mode),
        partitioner=partitioning.PjitPartitioner(),
        output_dir=str(output_dir),
        **{"summarize_config_fn": lambda **_: None, **arguments},
    )


# ------------------- Predictions ----------------------------------------------


@pytest.fixture(scope="module")
def predictor():
    """A predictor of random weights that write more than EOS, and the weights."""
    model = tiny_training.make_model()
    shapes = {"encoder_input_tokens": (1, 8, 32), "decoder_input_tokens": (1, 12)}
    params = drawn.parameters(lambda rng: model.get_initial_variables(rng, shapes))
    partitioner = partitioning.PjitPartitioner()
    shardings = jax.tree.map(lambda leaf: partitioner.replicated, params)
    params = jax.device_put(params, shardings)
    return prediction.Predictor(model, partitioner, shardings, 4), params


def examples(rng, count=6):
    """Examples numbered from 10 on."""
    for number in range(10, 10 + count):
        targets = np.zeros(12, np.int32)
        targets[: number - 6] = rng.integers(3, 1000, number - 6)
        yield (
            number,
            {
                "encoder_input_tokens": rng.normal(size=(8, 32)).astype(np.float32),
                "decoder_target_tokens": targets,
                "decoder_input_tokens": np.roll(targets, 1),
                "decoder_loss_weights": (targets > 0).astype(np.int32),
            },
        )


def test_streamed_predictions_are_those_of_batches(predictor, rng, monkeypatch):
    predictor, params = predictor
    inputs = list(examples(rng))
    assert predictor.streams
    streamed, aux = predictor.run("predict_with_aux", params, inputs)
    scores = {n: s for (n, _), s in zip(streamed, aux["scores"], strict=True)}
    plain = dict(predictor.run("predict", params, inputs))
    monkeypatch.setattr(predictor, "streams", False)
    # Six examples are a batch of four and one of two that is filled up.
    batched, aux = predictor.run("predict_with_aux", params, inputs)
    assert [number for number, _ in batched] == list(range(10, 16))
    assert len(plain) == len(streamed) == 6
    assert len({tuple(ids) for _, ids in batched}) > 1
    for (number, ids), score in zip(batched, aux["scores"], strict=True):
        np.testing.assert_array_equal(ids, plain[number])
        np.testing.assert_array_equal(ids, dict(streamed)[number])
        assert score == pytest.approx(scores[number], rel=1e-4)


def test_scores_are_those_of_the_model(predictor, rng):
    predictor, params = predictor
    inputs = list(examples(rng))
    model = tiny_training.make_model()
    batch = {
        name: np.stack([features[name] for _, features in inputs])
        for name in inputs[0][1]
    }
    expected = np.asarray(jax.jit(model.score_batch)(params, batch))
    found = predictor.run("score", params, inputs)
    assert [number for number, _ in found] == list(range(10, 16))
    np.testing.assert_allclose([s for _, s in found], expected, rtol=1e-4)
    assert len(set(np.round(expected, 3))) == 6


def test_nothing_to_predict(predictor):
    predictor, params = predictor
    assert predictor.run("predict", params, []) == []
    assert predictor.run("predict_with_aux", params, []) == ([], {})
    assert predictor.run("score", params, []) == []


def test_models_with_their_own_predictions_are_not_streamed():
    class Own(type(tiny_training.make_model())):
        def predict_batch(self, params, batch, rng=None):
            return batch["decoder_target_tokens"][:, ::-1]

    model = tiny_training.make_model()
    model.__class__ = Own
    partitioner = partitioning.PjitPartitioner()
    predictor = prediction.Predictor(model, partitioner, partitioner.replicated, 2)
    batch = {"decoder_target_tokens": np.arange(4, dtype=np.int32)}
    found = predictor.run("predict", np.zeros(3), [(7, batch)])
    assert [(n, ids.tolist()) for n, ids in found] == [(7, [3, 2, 1, 0])]
    with pytest.raises(ConfigError, match="Did you mean predict"):
        predictor.run("predct", np.zeros(3), [])


# ------------------- During training ------------------------------------------


@pytest.mark.slow
def test_a_run_decodes_and_scores_along_the_way(run):
    found = lines(run / "metrics.jsonl")
    splits = [line["split"] for line in found]
    # The loss on both splits and on the mixture.
    assert set(splits) - {"train"} == {
        *TASKS,
        f"{FAMILY}_eval",
        *(f"inference_eval/{name}" for name in TASKS),
    }
    for name in TASKS:
        reported = [line for line in found if line["split"] == f"inference_eval/{name}"]
        assert [line["step"] for line in reported] == [2, 4]
        logged = lines(run / "inference_eval" / f"{name}-metrics.jsonl")
        assert [line["step"] for line in logged] == [2, 4]
        for one, other in zip(reported, logged, strict=True):
            assert 0 <= one["Onset F1"] == other["Onset F1"] <= 1
        assert list((run / "inference_eval" / name).glob("events*"))


class FakeEvaluator:
    """Stands for seqio's: one task, whose metrics fail or are given."""

    def __init__(self, result, **kwargs):
        self.kwargs = kwargs
        self.eval_tasks = ["task"]
        self._result = result

    def evaluate(self, *, step, **kwargs):
        future = concurrent.futures.Future()
        if isinstance(self._result, Exception):
            future.set_exception(self._result)
        else:
            future.set_result({"task": self._result})
        return future, {}

    def close(self):
        pass


def make_evaluator(result, tmp_path):
    """Makes an evaluator around a fake of seqio's, and a state to evaluate."""
    evaluator = evaluation.InferenceEvaluator(
        tiny_training.dataset_config("eval"),
        functools.partial(FakeEvaluator, result),
        tiny_training.make_model(),
        partitioning.PjitPartitioner(),
        tmp_path,
    )
    state = evaluation.TrainState(np.int32(7), {"w": jax.numpy.zeros(2)}, {})
    return evaluator, state


def test_failures_of_metrics_surface(data, tmp_path, caplog):
    evaluator, state = make_evaluator(ValueError("no notes"), tmp_path)
    evaluator.evaluate(state)
    with pytest.raises(DataError, match="_eval, split eval, step 7: no notes"):
        evaluator.finished()
    assert evaluator.finished(wait=True) == []
    evaluator.evaluate(state)
    with pytest.raises(DataError, match="no notes"):
        evaluator.evaluate(state)
    evaluator.evaluate(state)
    # Nobody asks any more.
    evaluator.close()
    assert "no notes" in caplog.text


def test_only_scalars_are_reported(data, tmp_path, caplog):
    values = {
        "Onset F1": seqio.metrics.Scalar(0.25),
        "plain": np.float32(0.5),
        "some histogram": seqio.metrics.Histogram(np.arange(3.0)),
        "words": seqio.metrics.Text("many"),
    }
    evaluator, state = make_evaluator(values, tmp_path)
    for _ in range(2):
        evaluator.evaluate(state)
    reports = evaluator.finished()
    assert (
        reports == [evaluation.Report(7, "task", {"Onset F1": 0.25, "plain": 0.5})] * 2
    )
    with caplog.at_level(logging.INFO, "mt3"):
        reports[0].log()
    assert "inference_eval/task step 7: Onset F1 0.2500" in caplog.text


def test_a_failing_evaluation_costs_no_training(data, tmp_path):
    with pytest.raises(DataError, match="no notes"):
        tiny_training.train(
            tmp_path,
            total_steps=4,
            eval_period=2,
            infer_eval_dataset_cfg=tiny_training.dataset_config("eval"),
            inference_evaluator_cls=functools.partial(
                FakeEvaluator, ValueError("no notes")
            ),
            concurrent_metrics=False,
            period=2,
        )
    assert model_checkpoints.load(tmp_path).info["step"] == 2


# ------------------- Checkpoints ----------------------------------------------


def test_which_checkpoints_are_meant(run, tmp_path):
    def found(path, mode):
        config = utils.RestoreCheckpointConfig(path=path, mode=mode)
        return restoring.checkpoint_paths(config)

    both = [str(run / "checkpoint_2"), str(run / "checkpoint_4")]
    (tmp_path / "checkpoint_9").mkdir()
    assert found(str(run), "all") == both
    assert found([str(run), str(run)], "latest") == [both[1]] * 2
    assert found(both[0], "specific") == both[:1]
    assert found(both[0], "latest") == both[:1]
    for path, mode, message in (
        ([], "latest", "no path"),
        (None, "specific", "no path"),
        (str(tmp_path / "nothing"), "latest", "no such folder"),
        (str(tmp_path), "all", "checkpoint_N folders; found checkpoint_9"),
        (str(tmp_path), "latest", "no checkpoint here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            found(path, mode)


def test_evaluating_every_checkpoint_once(run, tmp_path):
    found = evaluate(tmp_path, str(run), mode="all", task="eval")
    assert found.keys() == {2, 4}
    logged = lines(run / "metrics.jsonl")
    for step, by_task in found.items():
        assert set(by_task) == set(TASKS)
        for name, values in by_task.items():
            # What the run itself measured.
            (line,) = [
                line
                for line in logged
                if (line["split"], line["step"]) == (f"inference_eval/{name}", step)
            ]
            assert values == {key: line[key] for key in values}
    done = (tmp_path / f"eval.{FAMILY}_eval.ckpt").read_text().split()
    assert done == [str(run / "checkpoint_2"), str(run / "checkpoint_4")]
    assert evaluate(tmp_path, str(run), mode="all", task="eval") == {}
    for name in TASKS:
        path = tmp_path / "inference_eval" / f"{name}-metrics.jsonl"
        assert [line["step"] for line in lines(path)] == [2, 4]


def test_the_loss_is_evaluated_too_and_files_are_read(run, tmp_path):
    path = tmp_path / "weights.safetensors"
    model_checkpoints.convert(run / "checkpoint_4", path)
    found = evaluate(
        tmp_path / "out",
        [str(path)],
        task="eval",
        training_evaluator_cls=trainer.Trainer,
        train_eval_get_dataset_fn=functools.partial(
            utils.get_training_eval_datasets, eval_steps=1
        ),
    )
    trained = [
        line
        for line in lines(run / "metrics.jsonl")
        if (line["split"], line["step"]) == (f"{FAMILY}_eval", 4)
    ]
    loss = found[4][f"{FAMILY}_eval"]["loss"]
    assert loss == pytest.approx(trained[0]["loss"], rel=1e-5)
    assert (
        "decoder/logits_dense/kernel" in (tmp_path / "out/model-info.txt").read_text()
    )


def test_weights_of_another_model(run, tmp_path, tiny_weights):
    model = tiny_training.make_model()
    sizes = {**tiny_model.CONFIG.network, "num_decoder_layers": 2}
    model.module = network.Transformer(network.T5Config.from_dict(sizes))
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: .* missing decoder"):
        evaluate(tmp_path, str(tiny_weights), model=model)


def test_evaluation_mistakes(data, tmp_path):
    with pytest.raises(CheckpointError, match="no path"):
        evaluate(tmp_path, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        evaluate(tmp_path / "file" / "out", "weights")
    cfg = tiny_training.dataset_config("train", "train")
    with pytest.raises(ConfigError, match="no task of .*_train' has a metric"):
        eval_module.evaluate(
            model=tiny_training.make_model(),
            dataset_cfg=cfg,
            restore_checkpoint_cfg=utils.RestoreCheckpointConfig("x", "specific"),
            partitioner=partitioning.PjitPartitioner(),
            output_dir=str(tmp_path),
            summarize_config_fn=lambda **_: None,
        )
