"""Training in pieces: the bundle, its songs, a growing corpus, and the kept state."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import types
import zipfile

import bundle_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import make_bundle
from bundle import contents, growing, piece, rendering, songs, state, summary
from bundle.parts import Part, PartReader, PartWriter
from mt3 import checkpoints as model_checkpoints
from mt3.engine import checkpoints, optimizers, trainer
from mt3.engine.train_state import TrainState
from mt3.engine.utils import SaveCheckpointConfig
from mt3.errors import CheckpointError, ConfigError, DataError, OutputError
from mt3.synthesis import corpus
from tests.support.midi_files import make_library
from tests.support.soundfonts import tiny_font

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
POSITION = {"source": {"batch": 17}, "random_seed": 3}
# `synthetic_tiny.gin` on a corpus.
GIN = """
from __gin__ import dynamic_registration
from mt3.engine import synthetic_data
import __main__ as train_script
include 'gin/synthetic_tiny.gin'
CORPUS = %gin.REQUIRED
train_script.train.get_dataset_fn = @synthetic_data.Corpus()
synthetic_data.Corpus:
  model_config = %MODEL_CONFIG
  folder = %CORPUS
"""


def make_state(step):
    """A state of AdamW whose arrays are random."""
    params = {"dense": {"kernel": jnp.zeros((64, 48))}, "scale": jnp.zeros((5,))}
    made = TrainState.create(params, optimizers.adamw(learning_rate=0.1))
    leaves, tree = jax.tree.flatten(made)
    rng = np.random.default_rng(step)
    leaves = [
        jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        if leaf.ndim
        else jnp.full((), step, leaf.dtype)
        for leaf in leaves
    ]
    return jax.tree.unflatten(tree, leaves)


def save(folder, step):
    """Adds a checkpoint to a run's folder."""
    manager = checkpoints.CheckpointManager(folder, SaveCheckpointConfig())
    manager.save(make_state(step), POSITION)
    manager.close()


def restore(folder):
    """Reads the newest checkpoint of a run's folder: (state, position)."""
    like = make_state(1)
    place = SingleDeviceSharding(jax.devices()[0])
    manager = checkpoints.CheckpointManager(folder, SaveCheckpointConfig())
    try:
        return manager.restore_latest(like, jax.tree.map(lambda leaf: place, like))
    finally:
        manager.close()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save(folder, 4)
    save(folder, 7)
    (folder / "metrics.jsonl").write_text('{"step": 7}\n')
    return folder


@pytest.fixture
def kept(run_folder, tmp_path):
    folder = tmp_path / "kept"
    state.pack(run_folder, folder, part_bytes=9000, weights=False)
    return folder


# Parts


def test_a_stream_is_cut_into_files_and_joined_again(tmp_path, rng):
    data = rng.bytes(10_000)
    writer = PartWriter(tmp_path, "stream", part_bytes=3000)
    for start in range(0, len(data), 1234):
        writer.write(data[start : start + 1234])
    parts = writer.close()
    assert [part.name for part in parts] == [f"stream.part{n}" for n in (1, 2, 3, 4)]
    assert [part.size for part in parts] == [3000, 3000, 3000, 1000]
    with io.BufferedReader(PartReader(tmp_path, parts)) as reader:
        assert reader.read() == data


def test_a_file_is_compared_with_its_description(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    part = Part.of(path)
    part.check(tmp_path)
    assert Part(**part.to_dict()) == part


# State


def test_a_state_comes_back_as_it_was(run_folder, kept, tmp_path):
    manifest = state.read_manifest(kept)
    assert manifest["step"] == 7
    assert len(manifest["parts"]) > 2
    assert all(part["size"] <= 9000 for part in manifest["parts"])
    assert state.unpack(kept, tmp_path / "model") == 7
    found, position = restore(tmp_path / "model")
    assert position == POSITION
    jax.tree.map(np.testing.assert_array_equal, found, make_state(7))
    assert (tmp_path / "model" / "metrics.jsonl").read_text() == '{"step": 7}\n'


def test_moments_may_be_kept_in_half_the_bytes(run_folder, tmp_path):
    sizes = {}
    for moments in state.MOMENTS:
        manifest = state.pack(
            run_folder, tmp_path / moments, moments=moments, weights=False
        )
        sizes[moments] = sum(part["size"] for part in manifest["parts"])
    assert sizes["bfloat16"] < 0.75 * sizes["float32"]
    state.unpack(tmp_path / "bfloat16", tmp_path / "model")
    found, expected = restore(tmp_path / "model")[0], make_state(7)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    for one, other in zip(
        jax.tree.leaves(found.opt_state),
        jax.tree.leaves(expected.opt_state),
        strict=True,
    ):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2**-8)


def test_only_the_newest_state_is_kept(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    save(run, 1)
    state.pack(run, kept, part_bytes=5000, weights=False)
    save(run, 2)
    state.pack(run, kept, part_bytes=9000, weights=False, about={"pieces": [1]})
    manifest = state.check(kept)
    assert (manifest["step"], manifest["pieces"]) == (2, [1])
    names = {path.name for path in kept.iterdir()}
    assert names == {"state.json", *(part["name"] for part in manifest["parts"])}
    state.amend(kept, {"pieces": [1, 2]})
    assert state.check(kept) == {**manifest, "pieces": [1, 2]}


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_a_part_that_is_not_whole_is_named(kept, tmp_path, damage):
    path = kept / "state_00000007.part2"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[:-1])
    else:
        data[100] ^= 1
        path.write_bytes(data)
    what = {
        "missing": "missing; expected a file of 9000 bytes",
        "short": "has 8999 bytes, expected 9000",
        "changed": "damaged: its SHA-256 begins with",
    }
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {what[damage]}")):
        state.unpack(kept, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_list_that_is_missing_or_damaged_is_named(kept, tmp_path):
    path = kept / "state.json"
    manifest = json.loads(path.read_text())
    for text, message in [
        (json.dumps({**manifest, "format": 99}), "expected the list of a state"),
        (json.dumps({**manifest, "parts": [{"name": "a"}]}), "its list of files"),
        (json.dumps({**manifest, "parts": []}), "lists no files"),
        ("{", "damaged"),
        (None, "cannot be read"),
    ]:
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(CheckpointError, match=f"state.json: .*{message}"):
            state.check(kept)


def test_parts_in_the_wrong_order_are_refused(kept, tmp_path):
    manifest = state.read_manifest(kept)
    state.amend(kept, {"parts": manifest["parts"][::-1]})
    with pytest.raises(CheckpointError, match="what is in them cannot be read"):
        state.unpack(kept, tmp_path / "model")


def test_a_state_is_not_mixed_with_another_run(kept, run_folder):
    with pytest.raises(CheckpointError, match=r"without checkpoints.*\[4, 7\]"):
        state.unpack(kept, run_folder)


def test_what_is_too_large_is_not_written(run_folder, tmp_path):
    with pytest.raises(state.TooLargeError, match="expected 1000 at most: moments"):
        state.pack(run_folder, tmp_path / "kept", most_bytes=1000, weights=False)
    assert not list((tmp_path / "kept").iterdir())
    with pytest.raises(ConfigError, match="moments are 'int8'"):
        state.pack(run_folder, tmp_path / "kept", moments="int8")
    with pytest.raises(CheckpointError, match="any complete checkpoint"):
        state.pack(tmp_path, tmp_path / "kept")


def test_the_newest_compiled_programs_are_kept(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for number in range(4):
        (cache / f"program{number}").write_bytes(bytes(50_000))
        os.utime(cache / f"program{number}", (number, number))
    archive = tmp_path / "compiled.tar"
    assert state.pack_folder(cache, archive, most_bytes=130_000) == 2
    assert archive.stat().st_size <= 130_000
    state.unpack_folder(archive, tmp_path / "again")
    found = {path.name for path in (tmp_path / "again").iterdir()}
    assert found == {"program2", "program3"}
    archive.write_bytes(b"no archive")
    state.unpack_folder(archive, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert state.pack_folder(tmp_path / "nothing", archive) == 0


# Songs and corpora


@pytest.fixture(scope="module")
def midi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("midi")
    make_library(folder)
    (folder / "broken.mid").unlink()
    return folder


def test_songs_come_back_as_they_were(midi, tmp_path):
    (midi / "broken.mid").write_bytes(b"no MIDI")
    found, problems = songs.read_midi_folders([midi])
    (midi / "broken.mid").unlink()
    assert len(found) > 2
    assert "broken.mid" in problems[0]
    assert all(song.name.startswith(f"{midi.name}/") for song in found)
    songs.write_songs(tmp_path / "songs.npz", found)
    again = songs.read_songs(tmp_path / "songs.npz")
    for one, other in zip(again, found, strict=True):
        assert (one.name, one.beats_per_minute) == (other.name, other.beats_per_minute)
        for name in other.notes.dtype.names:
            tolerance = 5.1e-6 if name.endswith("_time") else 0
            np.testing.assert_allclose(
                one.notes[name].astype(float),
                other.notes[name].astype(float),
                rtol=0,
                atol=tolerance,
            )


def test_songs_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "songs.npz"
    for data in (None, b"no archive"):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(DataError, match=r"songs.npz: cannot be read"):
            songs.read_songs(path)
    songs.write_songs(path, [])
    assert songs.read_songs(path) == []


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A small soundfont that plays every program."""
    path = tmp_path_factory.mktemp("fonts") / "bank.sf2"
    return tiny_font(path, programs=range(128))


def test_a_corpus_is_rendered_and_taken_up_as_it_grows(midi, bank, tmp_path):
    songs.write_songs(tmp_path / "songs.npz", songs.read_midi_folders([midi])[0])
    config = corpus.CorpusConfig(
        soundfonts=(str(bank),),
        clip_seconds=3.0,
        clips_per_shard=2,
        mixture={"solo": 1.0},
    )
    folder = tmp_path / "corpus"
    shards = rendering.render(
        folder, config, tmp_path / "songs.npz", hours=17 / 3600, workers=1
    )
    assert next(shards) == 1
    assert corpus.read_config(folder) == config

    taken_up = []
    inner = types.SimpleNamespace(
        pool=8,
        batch=lambda index: {"index": index},
        apply_settings=lambda settings: taken_up.append(settings),
    )
    batches = growing.GrowingBatches(inner, str(folder))
    assert batches.batch(5) == {"index": 5}
    assert list(shards) == [2, 3]
    batches.batch(6)
    assert taken_up == []  # It looks now and then only.
    batches._next_look = 0.0
    batches.batch(7)
    assert taken_up == [{"num_shards": 3}]
    # What a checkpoint of another corpus says does not count.
    batches.apply_settings({"num_shards": 99})
    assert (batches.settings(), len(taken_up)) == ({}, 1)


def test_evaluation_keeps_to_what_was_there(tmp_path):
    made = object()
    dataset = types.SimpleNamespace(model_config=None)
    grown = growing.GrowingCorpus(dataset, str(tmp_path))
    grown._dataset = lambda cfg, *args, **options: made
    assert grown(types.SimpleNamespace(split="validation")) is made
    assert grown(types.SimpleNamespace(split="train"))._batches is made


# Figures


def test_a_piece_is_summarised_from_its_own_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    common = {"split": "train", "data_wait_seconds": 2.0}
    lines = [
        {**common, "time": 1.0, "loss_per_token": 9.0},
        {**common, "time": 5.0, "loss_per_token": 4.0, "mfu": None},
        {**common, "time": 6.0, "loss_per_token": 3.0, "mfu": 0.1, "data_share": 0.5},
        {**common, "time": 7.0, "loss_per_token": 2.0, "mfu": 0.3, "data_share": 0.1},
        {"split": "eval", "time": 8.0, "loss_per_token": 1.0},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"cut')
    found = summary.summarize(path, since=4.0)
    assert found["reports"] == 3
    assert (found["first_loss"], found["last_loss"]) == (4.0, 2.0)
    assert found["mfu"] == pytest.approx(0.2)
    assert found["data_share"] == pytest.approx(0.3)
    assert found["data_wait_seconds"] == 6.0
    assert summary.summarize(tmp_path / "none", 0.0)["reports"] == 0


def test_peaks_are_listed_measured_or_said():
    def device(kind, platform="gpu"):
        return types.SimpleNamespace(device_kind=kind, platform=platform)

    for kind, peak in [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
    ]:
        assert trainer.device_peak("auto", device(kind)) == peak
    assert trainer.device_peak(5e12, device("any")) == 5e12
    assert trainer.device_peak(None, device("any")) is None
    assert trainer.measure_peak(jax.devices("cpu")[0], tries=1) > 1e8
    for wrong in ("fast", 0, -1.0):
        with pytest.raises(ConfigError, match="peak_flops"):
            trainer.device_peak(wrong, device("any"))


# Bundles


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Wheels without content, so that the installed packages are used."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in make_bundle.PACKAGES:
        name = package.replace("-", "_")
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}-1.0.info/METADATA", f"Name: {package}\n")
    return folder


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, bank, wheels):
    """Arguments of a tiny bundle."""
    path = tmp_path_factory.mktemp("gin") / "tiny_corpus.gin"
    path.write_text(GIN)
    return [
        f"--gin_file={path}",
        f"--soundfont={bank}",
        f"--exact={tiny_font(path.with_name('real.sf2'))}",
        f"--wheels={wheels}",
        f"--python={PYTHON}",
        "--preset=0",
        "--gin_bindings=EVAL_STEPS = 1",
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, arguments, midi):
    """An unpacked tiny bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    archive = folder / "bundle.tar.xz"
    assert make_bundle.main([*arguments, f"--midi={midi}", f"--output={archive}"]) == 0
    assert archive.stat().st_size < 2_000_000
    with tarfile.open(archive) as stream:
        members = stream.getmembers()
        stream.extractall(folder, filter="data")
    assert all(member.name.split("/")[0] == "mt3-bundle" for member in members)
    assert {(member.uname, member.mtime) for member in members} == {("", 0)}
    return folder / "mt3-bundle"


def test_a_bundle_holds_what_it_lists(bundle, midi):
    found = contents.Contents.read(bundle)
    assert found.gin_file == "gin/tiny_corpus.gin"
    assert found.bindings == ("EVAL_STEPS = 1",)
    assert found.python == PYTHON
    assert len(songs.read_songs(bundle / found.songs)) == len(list(midi.rglob("*.mid")))
    assert len(found.soundfonts) == 1
    assert found.exact_soundfonts == ("exact/real.sf2",)
    assert not (bundle / "mt3" / "pretrained").exists()
    assert "CORPUS" in contents.used_macros(found.gin_file, bundle)
    assert "MODEL_DIR" in contents.used_macros(found.gin_file, bundle)


def test_the_default_weights_can_be_sent_along(tmp_path, capsys):
    assert make_bundle._copy_weights(None, tmp_path) is None
    name = make_bundle._copy_weights("default", tmp_path)
    path = tmp_path / name
    assert model_checkpoints.read_header(path).info["default"]
    assert make_bundle._copy_weights(str(path), tmp_path / "again") == name
    with pytest.raises(CheckpointError, match="no such file"):
        make_bundle._copy_weights("missing.safetensors", tmp_path)


def test_a_bundle_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"bundle.json: cannot be read"):
        contents.Contents.read(tmp_path)
    contents.Contents("3.12", "gin/a.gin", soundfonts=("a.sf2",)).write(tmp_path)
    with pytest.raises(DataError, match=r"a.sf2: missing, though bundle.json lists it"):
        contents.Contents.read(tmp_path)
    (tmp_path / "a.whl").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a.whl: is not a wheel"):
        contents.install_wheels(tmp_path, ["a.whl"], tmp_path / "site")
    with pytest.raises(ConfigError, match=r"wheels are for 2.7"):
        contents.check_python("2.7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--soundfont=missing.sf2"], "missing.sf2: there is no such file"),
        (["--midi=missing"], "missing: there is no such MIDI file"),
        (["--gin_bindings=EVAL_STEPS"], "expected NAME=VALUE"),
        (["--gin_file=missing.gin"], "missing.gin: no such gin file"),
        (["--wheels=missing"], "missing: there is no such folder"),
        (["--wheels=."], "expected one wheel of gin-config, found none"),
        (["--soundfont={font}"], "two files are named"),
    ],
)
def test_what_cannot_be_bundled_is_named(
    arguments, tmp_path, capsys, monkeypatch, change, message
):
    font = next(a for a in arguments if a.startswith("--soundfont")).split("=")[1]
    change = [argument.format(font=font) for argument in change]
    output = tmp_path / "bundle.tar.xz"
    monkeypatch.chdir(tmp_path)
    assert make_bundle.main([*arguments, *change, f"--output={output}"]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_is_too_large_is_not_written(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(make_bundle, "MOST_BYTES", 100_000)
    options = make_bundle._parser().parse_args(
        [*arguments, f"--output={tmp_path / 'bundle.tar.xz'}"]
    )
    assert isinstance(options, argparse.Namespace)
    with pytest.raises(OutputError, match="expected less than 0 MB"):
        make_bundle.make(options, print)
    assert not list(tmp_path.iterdir())


def test_only_its_own_folder_is_emptied(bundle, tmp_path):
    (tmp_path / "work").mkdir()
    precious = tmp_path / "work" / "precious"
    precious.touch()
    options = piece.PieceOptions(
        bundle=bundle, out=tmp_path / "out", minutes=1.0, work=tmp_path / "work"
    )
    with pytest.raises(ConfigError, match="files of something else"):
        piece.Piece(options, 0.0)
    assert precious.exists()
    for name in ("bundle", "out", "resume"):
        inside = dataclasses.replace(
            options, work=tmp_path / "new", **{name: tmp_path / "new" / "inside"}
        )
        if name == "bundle":
            inside = dataclasses.replace(options, work=bundle.parent)
        with pytest.raises(ConfigError, match="which is emptied"):
            piece.Piece(inside, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0}, "--minutes is 0"),
        ({"first_hours": 50.0}, "--first_hours is 50.0; expected --hours, 40.0"),
        ({"moments": "int8"}, "--moments is 'int8'"),
    ],
)
def test_options_that_cannot_work_are_named(bundle, tmp_path, change, message):
    options = {"bundle": bundle, "out": tmp_path, "minutes": 1.0, **change}
    with pytest.raises(ConfigError, match=message):
        piece.PieceOptions(**options).check()


@pytest.mark.slow
def test_two_pieces_are_one_run(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    common = [
        "--minutes=20",
        f"--work={tmp_path / 'work'}",
        "--hours=0.004",
        "--first_hours=0.004",
        "--clips_per_shard=2",
        "--render_workers=1",
        "--peak_tflops=0.1",
        "--gin.train_script.train.stats_period=2",
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    program = [sys.executable, str(bundle / "bundle_run.py"), "train", *common]
    done = subprocess.run(
        [*program, f"--out={first}", "--gin.TRAIN_STEPS=4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    output = done.stdout
    assert done.returncode == 0, output
    assert "steps 0 to 4" in output
    (made,) = (tmp_path / "work").rglob("corpus.json")
    (real,) = corpus.read_config(made.parent).exact_soundfonts
    assert real == str(bundle / "exact" / "real.sf2")
    assert "model FLOP utilisation" in output
    assert "of the time waiting for batches" in output
    assert {path.name for path in first.iterdir()} == {
        "compiled.tar",
        "log.txt",
        "state.json",
        "state_00000004.part1",
        "weights.safetensors",
    }
    # Where the first one left off, on another corpus. In this process, as from a
    # checkout: only its renderer and its training are others.
    again = ["train", *common, f"--bundle={bundle}", f"--resume={first}"]
    again += [
        "--gin.TRAIN_STEPS=6",
        "--gin.train_script.train.train_eval_dataset_cfg=None",
    ]
    code = bundle_run.main([*again, f"--out={second}"])
    output = capsys.readouterr().out
    assert code == 0, output
    assert "rendering a corpus with seed 4" in output
    assert "steps 4 to 6" in output
    pieces = state.check(second)["pieces"]
    assert [(p["first_step"], p["last_step"]) for p in pieces] == [(0, 4), (4, 6)]
    assert bundle_run.main(["unpack", str(second), str(tmp_path / "model")]) == 0
    assert checkpoints.checkpoint_path(tmp_path / "model").name == "checkpoint_6"
    # A damaged state is refused before anything is started.
    (second / "state_00000006.part1").unlink()
    capsys.readouterr()
    again = [f"--bundle={bundle}", f"--out={first}", f"--resume={second}"]
    assert bundle_run.main(["train", *common, *again]) == 1
    printed = "".join(capsys.readouterr())
    assert "state_00000006.part1: missing" in printed
    assert "rendering" not in printed
