"""Training on seqio tasks: streams and positions, mistakes, an interrupted run."""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import seqio

from mt3.engine import checkpoints, data_sources, seqio_data, utils
from mt3.errors import ConfigError, DataError
from mt3.vocabularies import VocabularyConfig, build_codec, vocabulary_from_codec
from tests.support import tiny_training

pytestmark = pytest.mark.usefixtures("quick_start")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with GuitarSet's records."""
    root = tmp_path_factory.mktemp("data")
    tiny_training.write_data(root)
    return root


@pytest.fixture
def task(data):
    """The tasks, registered for the whole records."""
    tiny_training.register(data)


def open_source(cfg=None, **options):
    """Opens the training task."""
    model = tiny_training.make_model()
    return utils.get_dataset(
        cfg or tiny_training.train_config(),
        0,
        1,
        model.FEATURE_CONVERTER_CLS,
        **options,
    )


def take(batches, count):
    """Draws batches."""
    return list(itertools.islice(batches, count))


def assert_equal_batches(found, expected):
    """Asserts that two lists of batches are equal, and not all of one batch."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def seqio_pipeline(seed):
    """The batches that T5X's engine draws."""
    return seqio.get_dataset(
        f"{tiny_training.FAMILY}_train",
        task_feature_lengths=tiny_training.LENGTHS,
        feature_converter=tiny_training.make_model().FEATURE_CONVERTER_CLS(pack=False),
        dataset_split="train",
        shuffle=True,
        num_epochs=None,
        shard_info=seqio.ShardInfo(0, 1),
        seed=seed,
        batch_size=tiny_training.BATCH_SIZE,
    ).as_numpy_iterator()


def test_streams_are_seqios_pipelines_with_seeds_of_their_own(task):
    source = open_source(stream_batches=3)
    drawn = take(source, 5)
    for stream, part in enumerate((drawn[:3], drawn[3:])):
        seed = seqio_data.stream_seed(5, stream)
        assert_equal_batches(part, take(seqio_pipeline(seed), len(part)))
    assert seqio_data.stream_seed(5, 0) == 5
    assert not np.array_equal(
        drawn[0]["encoder_input_tokens"], drawn[3]["encoder_input_tokens"]
    )


def shuffled_numbers(stream_batches):
    """A source of batches of two numbers, cheaper than songs."""

    def make_dataset(seed):
        numbers = seqio_data.tf.data.Dataset.range(50).shuffle(50, seed=seed)
        return numbers.repeat().batch(2).map(lambda x: {"x": x})

    return seqio_data.SeqioSource(
        make_dataset, name="numbers", seed=7, stream_batches=stream_batches
    )


def test_positions_are_gone_back_to_across_streams():
    source = shuffled_numbers(3)
    batches, states = [], [source.state()]
    for _ in range(8):
        assert source.peek() is source.peek()
        batches.append(next(source))
        states.append(json.loads(json.dumps(source.state())))
    assert states[7] == {"stream": 2, "drawn": 1, "stream_batches": 3}
    assert not np.array_equal(batches[0]["x"], batches[3]["x"])
    for start in range(8):
        # Streams have the length of the run that told the position.
        resumed = shuffled_numbers(100)
        next(resumed)
        resumed.restore(states[start])
        assert_equal_batches(take(resumed, 8 - start), batches[start:])
        assert resumed.state() == states[8]


def test_shapes_are_known_without_reading(task, monkeypatch):
    source = open_source()
    monkeypatch.setattr(source, "_pull", lambda: pytest.fail("a batch was drawn"))
    specs = data_sources.batch_specs(source)
    monkeypatch.undo()
    batch = next(source)
    assert {name: (s.shape, s.dtype) for name, s in specs.items()} == {
        name: (array.shape, array.dtype) for name, array in batch.items()
    }
    assert source.model_config == tiny_training.model_config()


def test_epochs_end_and_too_few_examples_are_named(task):
    cfg = tiny_training.train_config(batch_size=1)
    source = open_source(cfg, num_epochs=2, stream_batches=1)
    assert len(list(source)) == 6
    assert list(source) == []
    large = tiny_training.train_config(batch_size=50)
    with pytest.raises(DataError, match="_train, split train: not a single batch"):
        next(open_source(large, num_epochs=1))


def test_a_position_of_another_source(task):
    source = open_source()
    with pytest.raises(DataError, match=r"is \{'batch': 3\}; expected stream, drawn"):
        source.restore({"batch": 3})


def test_a_stream_that_ends_early_goes_on_with_the_next(task):
    def short(seed):
        return seqio_data.tf.data.Dataset.from_tensors({"x": [seed]})

    source = seqio_data.SeqioSource(short, name="short", seed=1, stream_batches=9)
    drawn = [int(batch["x"][0]) for batch in take(source, 3)]
    assert drawn == [seqio_data.stream_seed(1, stream) for stream in range(3)]
    assert source.state()["stream"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixture_or_task_name": "guitarset_notes_ties_vb1_trian"},
            "Did you mean guitarset_notes_ties_vb1_train",
        ),
        ({"split": "trian"}, "no split 'trian'. Did you mean train"),
        ({"use_cached": True}, "USE_CACHED_TASKS = False"),
        ({"module": "mt3.no_such_tasks"}, "'mt3.no_such_tasks' cannot be imported"),
        ({"pack": True}, "pack"),
        ({"task_feature_lengths": {"inputs": 64}}, "targets"),
    ],
)
def test_mistakes_are_named(task, changes, message):
    with pytest.raises(ConfigError, match=message):
        next(open_source(tiny_training.train_config(**changes)))


def test_settings_that_do_not_fit(task):
    cfg = tiny_training.train_config()
    with pytest.raises(ConfigError, match="3 shards do not divide a batch of 4"):
        utils.get_dataset(cfg, 0, 3, None)
    with pytest.raises(ConfigError, match="FEATURE_CONVERTER_CLS"):
        next(utils.get_dataset(cfg, 0, 1, None))
    with pytest.raises(ConfigError, match="stream_batches is 0"):
        open_source(stream_batches=0)


def test_without_seqio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mt3.engine.seqio_data", None)
    with pytest.raises(ConfigError, match=r"install mt3-transcription\[train\]"):
        open_source()


def test_which_data_functions_read_seqio():
    assert utils.reads_seqio(functools.partial(utils.get_dataset, stream_batches=3))
    assert not utils.reads_seqio(open_source)


def test_vocabularies_must_match(task):
    cfg = tiny_training.train_config()
    model = tiny_training.make_model()
    utils.verify_matching_vocabs(cfg, model)
    model.output_vocabulary = vocabulary_from_codec(build_codec(VocabularyConfig()))
    with pytest.raises(
        ConfigError, match="output vocabulary is GenericTokenVocabulary of"
    ):
        utils.verify_matching_vocabs(cfg, model)
    model.output_vocabulary = None
    utils.verify_matching_vocabs(cfg, model)


def eval_streams(cfg, **options):
    """Opens the evaluation streams."""
    model = tiny_training.make_model()
    return utils.get_training_eval_datasets(
        cfg, 0, 1, 2, model.FEATURE_CONVERTER_CLS, **options
    )


def test_a_mixture_has_a_stream_for_each_task(task):
    family = tiny_training.FAMILY
    streams = eval_streams(tiny_training.dataset_config("eval"))
    names = {f"{family}_eval_train", f"{family}_validation", f"{family}_eval"}
    assert streams.keys() == names
    batches = list(streams[f"{family}_validation"])
    assert len(batches) == 2
    assert batches[0]["encoder_input_tokens"].shape == (4, 64, 32)
    # The six segments of the two songs, then the first ones again.
    np.testing.assert_array_equal(
        batches[0]["encoder_input_tokens"][:2], batches[1]["encoder_input_tokens"][2:]
    )


@pytest.mark.parametrize("keep", [True, False])
def test_evaluations_see_the_same_batches(task, keep):
    cfg = tiny_training.dataset_config("train", use_memory_cache=keep)
    (stream,) = eval_streams(cfg).values()
    assert_equal_batches(list(stream), list(stream))


def damage(path: pathlib.Path) -> None:
    """Changes a byte in the middle of a file's first record."""
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_record_stops_the_run_or_is_skipped(data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    shard = sorted(root.rglob("train.tfrecord*"))[0]
    damage(shard)
    tiny_training.register(root, on_corrupt="stop")
    with pytest.raises(DataError, match=rf"{shard.name}.*record 0"):
        tiny_training.train(tmp_path / "stopped", total_steps=2)
    tiny_training.register(root, on_corrupt="skip")
    step, _ = tiny_training.train(tmp_path / "skipped", total_steps=1)
    assert step == 1


def test_an_error_in_the_pipeline_keeps_its_message(task):
    def failing(ds):
        return ds.map(lambda x: seqio_data.tf.debugging.check_numerics(x, "not finite"))

    dataset = failing(seqio_data.tf.data.Dataset.from_tensors([np.nan]))
    with pytest.raises(DataError, match=r"^some data: not finite : Tensor had NaN"):
        list(seqio_data.iterate(dataset, "some data"))


STEPS = 8


def losses(folder):
    """Reads the training losses."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        line["step"]: line["loss_per_token"]
        for line in lines
        if line["split"] == "train"
    }


@pytest.mark.slow
def test_interrupted_run_goes_on_exactly(task, tmp_path, monkeypatch):
    """`test_engine_train` kills a whole process."""
    _, whole = tiny_training.train(tmp_path / "whole", total_steps=STEPS)
    found = losses(tmp_path / "whole")
    assert found[STEPS] < found[2] - 0.5
    parts = tmp_path / "parts"

    class Interrupting(seqio_data.SeqioSource):
        def __next__(self):
            if (self._stream, self._drawn) == (2, 1):
                raise OSError("the disk is gone")
            return super().__next__()

    with monkeypatch.context() as patch:
        patch.setattr(seqio_data, "SeqioSource", Interrupting)
        with pytest.raises(DataError, match="the disk is gone"):
            tiny_training.train(parts, total_steps=STEPS, period=2)
    reached = checkpoints.checkpoint_steps(parts)
    assert reached
    assert reached[-1] < STEPS
    position = checkpoints.read_data_state(parts / f"checkpoint_{reached[-1]}")
    source = position["source"]
    assert 3 * source["stream"] + source["drawn"] == reached[-1]
    _, resumed = tiny_training.train(parts, total_steps=STEPS)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    config = checkpoints.read_model_config(parts)
    assert config.spectrogram == tiny_training.SPECTROGRAM
    assert config.network["emb_dim"] == 16
