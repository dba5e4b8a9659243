"""Metrics of training: sums and their counts, T5X's names with T5X's values."""

from __future__ import annotations

import json
import tarfile

import jax
import jax.numpy as jnp
import pytest

from mt3.engine import launch, metrics_writer, trainer
from tests.support import fixed_batches


@pytest.mark.slow
def test_metrics_of_a_run_are_those_that_t5x_writes(tmp_path):
    """Ten steps from T5X's checkpoint and two evaluations, beside T5X's own."""
    with tarfile.open(fixed_batches.DATA / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (start,) = tmp_path.rglob("checkpoint_0")
    (tmp_path / "run.gin").write_text(fixed_batches.GIN)
    launch.run(
        [
            f"--gin_file={tmp_path / 'run.gin'}",
            f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
            f"--gin.utils.RestoreCheckpointConfig.path='{start}'",
        ]
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = {(line["split"], line["step"]): line for line in map(json.loads, lines)}
    expected = json.loads(fixed_batches.EXPECTED.read_text())
    steps = {"train": range(1, 11), "first": (5, 10), "second": (5, 10)}
    assert expected.keys() == steps.keys()
    for split, names in expected.items():
        assert {"accuracy", "loss", "loss_per_nonpadding_target_token"} < names.keys()
        for name, values in names.items():
            ours = [found[split, step][name] for step in steps[split]]
            assert ours == pytest.approx(values, rel=1e-5), (split, name)


def test_metrics_are_sums_with_their_counts():
    class Model:
        _loss_normalizing_factor = "NUM_REAL_TARGET_TOKENS"

    class Average:
        def __init__(self, total, count):
            self.total, self.count = jnp.float32(total), jnp.int32(count)

    batch = {"decoder_target_tokens": jnp.array([[5, 6, 0, 0], [7, 1, 0, 0]])}
    metrics = {
        "loss": Average(2.0, 1),
        "non_padding_fraction/loss_weights": Average(4.0, 8),
        "accuracy": Average(3.0, 4),
        "note_loss": jnp.float32(0.25),
    }
    sums = trainer.metric_sums(Model(), jnp.float32(3.5), metrics, batch)
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, sums))
    sums = metrics_writer.to_host([sums])[0]
    assert sums == {
        # Once per step; in microbatches too.
        "loss": (2.0,),
        "non_padding_fraction/loss_weights": (4.0, 8.0),
        "accuracy": (3.0, 4.0),
        "note_loss": (0.25,),
        # The loss before the model divided it by four tokens.
        "loss_per_token": (8.0, 4.0),
        "objective": (3.5,),
    }
    second = {name: tuple(3 * part for part in value) for name, value in sums.items()}
    assert metrics_writer.summarize([sums, second]) == {
        "loss": 4.0,
        "non_padding_fraction/loss_weights": 0.5,
        "accuracy": 0.75,
        "note_loss": 0.5,
        "loss_per_token": 2.0,
        "objective": 7.0,
    }
    nothing = {"accuracy": (0.0, 0.0)}
    assert metrics_writer.summarize([nothing]) == {"accuracy": 0.0}
    assert metrics_writer.summarize([]) == {}
