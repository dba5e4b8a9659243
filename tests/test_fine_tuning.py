"""Training on prepared recordings: their segments, and the page that shows it."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from mt3 import checkpoints, cli, models, network
from mt3.beyond import guided
from mt3.engine import partitioning, recorded_data, restoring, utils
from mt3.errors import ConfigError
from mt3.note_sequences import Note, notes_to_array
from mt3.synthesis.augmentation import HISTORY_SAMPLES
from tests.support import drawn, page_commands, tiny_datasets

TINY = {
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 16,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "harmonic_channels": 4,
    "note_channels": 4,
    "stem_blocks": 1,
}


@pytest.fixture(scope="module")
def config():
    """The default weights' configuration, with a tiny network."""
    found = checkpoints.load(checkpoints.resolve("default")).config
    return dataclasses.replace(found, network={**found.network, **TINY})


def segments(config, samples, notes):
    return recorded_data.RecordedSegments(config, [(samples, notes_to_array(notes))])


def test_segments_have_the_sound_around_them(config, rng):
    samples = rng.integers(1, 30000, 10 * 16000).astype(np.int16)
    notes = [Note(start, start + 0.4, 60, 90, 0) for start in np.arange(0, 9.5, 0.5)]
    source = segments(config, samples, notes)
    before = HISTORY_SAMPLES + config.context_samples
    silence = np.zeros(before + config.input_samples, np.int16)
    whole = np.concatenate([silence, samples, silence])
    places = []
    for number in range(30):
        found, rows = source.segment((number,))
        assert found.shape == (HISTORY_SAMPLES + config.input_samples,)
        found = np.round(found * 32768).astype(np.int16)
        # Where the segment's middle begins in the recording.
        start = samples.tobytes().find(found[before : before + 32].tobytes()) // 2
        places.append(start)
        first = len(silence) + start - before
        np.testing.assert_array_equal(found, whole[first : first + len(found)])
        seconds = start / 16000
        heard = [
            note
            for note in notes
            if note.start_time < seconds + 3.5 and note.end_time > seconds - 0.5
        ]
        expected = [note.start_time - seconds for note in heard]
        np.testing.assert_allclose(rows["start_time"], expected, atol=1e-6)
    assert 0 in places
    assert max(places) > len(samples) - config.segment_samples
    assert len(set(places)) > 10


def test_recordings_of_any_length_are_drawn(config):
    short = np.arange(1, 16001, dtype=np.int16)
    found, rows = segments(config, short, [Note(0.5, 0.7, 60, 90, 0)]).segment((3,))
    assert np.count_nonzero(found) > 8000
    assert len(rows) == 1


def test_velocities_that_nobody_played_are_not_known(tmp_path, config):
    notes = notes_to_array(
        [Note(0, 1, 60, 90), Note(1, 2, 60, 90), Note(0, 1, 36, 80, is_drum=True)]
    )
    known = recorded_data._with_known_velocities(notes)
    assert known["velocity"].tolist() == [0, 0, 0]
    notes["velocity"][1] = 91
    known = recorded_data._with_known_velocities(notes)
    assert known["velocity"].tolist() == [90, 91, 0]
    # Tokens are the same; the rows say so.
    root = tiny_datasets.write_all(tmp_path, data_sets=["synthetic"], seconds=2.0)
    data = recorded_data.Recordings(config, "synthetic", str(root), length_multiple=64)
    lengths = {"inputs": config.inputs_length, "targets": config.targets_length}
    cfg = utils.DatasetConfig("synthetic", lengths, "train", 2, True, 1)
    batch = data(cfg).batch(0)
    assert batch["samples"].dtype == np.int16
    assert batch["notes"].shape == (2, 320, 5)
    assert (batch["decoder_target_tokens"] > 0).any(axis=1).all()
    other = data(dataclasses.replace(cfg, split="validation")).batch(0)
    assert not np.array_equal(batch["samples"], other["samples"])
    with pytest.raises(ConfigError, match="not known"):
        dataclasses.replace(data, data_set="sinthetic")(cfg)


@pytest.fixture
def tiny_default(config, tmp_path, monkeypatch):
    """Lets a tiny file with random numbers be the default weights."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr("mt3.checkpoints.registry.PRETRAINED_FOLDER", folder)
    sizes = network.T5Config.from_dict({**config.network, "frame_heads": False})
    model = guided.GuidedModel(
        *(network.Transformer(sizes), None, None, None),
        input_depth=sizes.input_depth,
        config=config,
        guide=guided.GuideConfig(local_weight=0.0, local_distances=()),
    )
    shapes = {"decoder_input_tokens": (1, 8), "decoder_target_tokens": (1, 8)}
    params = drawn.parameters(lambda key: model.get_initial_variables(key, shapes))
    heads = dict(params.pop("auxiliary"))
    heads.pop("next_event")
    params["frame_heads"] = heads
    path = folder / "tiny.safetensors"
    info = {"name": "tiny", "decode": "frames"}
    checkpoints.save_safetensors(path, params, config, info=info)
    return path


def test_evaluation_loads_the_network_alone(config, tiny_default):
    """By the name of the package's model, without the heads of its file."""
    sizes = network.T5Config.from_dict({**config.network, "frame_heads": False})
    model = models.ContinuousInputsEncoderDecoderModel(
        *(network.Transformer(sizes), None, None, None), input_depth=sizes.input_depth
    )
    specs = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((1, 200, 294), np.float32),
        "decoder_input_tokens": jax.ShapeDtypeStruct((1, 8), np.int32),
        "decoder_target_tokens": jax.ShapeDtypeStruct((1, 8), np.int32),
    }
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    loader = restoring.WeightLoader(model, specs, partitioner)
    found = checkpoints.flatten(loader.load("default").params)
    expected = checkpoints.load(tiny_default).params
    heads = expected.pop("frame_heads")
    assert heads
    assert found.keys() == checkpoints.flatten(expected).keys()
    for name, value in checkpoints.flatten(expected).items():
        np.testing.assert_array_equal(found[name], value)


def test_the_pages_commands(config, tiny_default, tmp_path, monkeypatch):
    """A few steps on rendered music, and a transcription with the result."""
    blocks = page_commands.blocks("docs/fine-tuning.md")
    blocks = [block for block in blocks if not block.needs]
    monkeypatch.chdir(tmp_path)
    names = []
    for program, *arguments in itertools.chain(*map(page_commands.commands, blocks)):
        if program == "python":
            assert arguments[0] == "-c"
            exec(arguments[1], {})
            continue
        names.append(arguments[0])
        if arguments[0] == "train":
            sizes = (f"network.T5Config.{name}={size}" for name, size in TINY.items())
            arguments += [f"--gin.{binding}" for binding in ("EVAL_STEPS=1", *sizes)]
        assert cli.main(arguments) == 0, arguments
    assert names == ["synthesize", "prepare", "train", "transcribe"]
    text = (tmp_path / "runs/mine/metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["split"] for line in lines} == {"train", "synthetic_eval"}
    assert all(np.isfinite(line["velocity_loss"]) for line in lines)

    start, end = checkpoints.load(tiny_default), checkpoints.load("mine.safetensors")
    before, after = (
        network.T5Config.from_dict({**config.network, "float32_logits": True})
        for config in (start.config, end.config)
    )
    assert after == before
    assert dataclasses.replace(end.config, network=start.config.network) == start.config
    assert end.info["decode"] == "frames"
    assert end.params.keys() == {"encoder", "decoder", "frame_heads"}
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, end.params)
    moved = checkpoints.flatten(moved)
    # Two small steps from the file's own parameters, not from new ones.
    assert max(moved.values()) < 0.01
    assert np.mean([change > 0 for change in moved.values()]) > 0.8
    assert [p.suffix for p in (tmp_path / "transcriptions").iterdir()] == [".mid"]
