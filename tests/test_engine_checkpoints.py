"""Checkpoints of runs: both of T5X's forms, the engine's first layout, damage."""

from __future__ import annotations

import json
import pathlib
import resource
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import SingleDeviceSharding

from mt3 import checkpoints as model_checkpoints
from mt3 import models, network
from mt3.engine import adafactor, checkpoints, optimizers
from mt3.engine.train_state import TrainState
from mt3.engine.utils import RestoreCheckpointConfig, SaveCheckpointConfig
from mt3.errors import CheckpointError

FORMS = pytest.mark.parametrize("use_orbax", [True, False], ids=["orbax", "legacy"])
OPTIMIZERS = {
    "adafactor": adafactor.Adafactor(),
    "adafactor with momentum": adafactor.Adafactor(beta1=0.9),
    "adamw": optimizers.adamw(weight_decay=0.01, max_grad_norm=1.0),
    "muon": optimizers.muon(max_grad_norm=1.0, trained=("dense",)),
    "sgd": optimizers.sgd(),
}
GOLDEN_STEPS = 10


def make_state(optimizer=OPTIMIZERS["adafactor"], *, step=3, width=130):
    """A state whose arrays all differ; `kernel` is factored, `scale` is not."""
    params = {"dense": {"kernel": jnp.zeros((width, 140))}, "scale": jnp.zeros((5,))}
    state = TrainState.create(params, optimizer)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(step)
    leaves = [
        jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
        if leaf.size > 1
        else jnp.full(leaf.shape, step if leaf.ndim == 0 else 0, leaf.dtype)
        for leaf in leaves
    ]
    return jax.tree.unflatten(tree, leaves)


def shardings(state):
    place = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: place, state)


def manager(folder, *, use_orbax=True, **config):
    return checkpoints.CheckpointManager(
        folder, SaveCheckpointConfig(**config), use_orbax=use_orbax
    )


def write(folder, *states, use_orbax=True, **config):
    """Saves states, and waits for them."""
    writer = manager(folder, use_orbax=use_orbax, **config)
    for state in states:
        writer.save(state, {"source": {"batch": int(state.step)}, "random_seed": 5})
    writer.close()


def restore_latest(folder, like):
    reader = manager(folder)
    try:
        return reader.restore_latest(jax.eval_shape(lambda: like), shardings(like))
    finally:
        reader.close()


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@FORMS
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_comes_back_bit_for_bit(tmp_path, use_orbax, name):
    state = make_state(OPTIMIZERS[name])
    write(tmp_path, state, use_orbax=use_orbax)
    restored, position = restore_latest(tmp_path, make_state(OPTIMIZERS[name], step=0))
    assert_equal(restored, state)
    assert position == {"source": {"batch": 3}, "random_seed": 5}
    # A training step takes all buffers over, so none may be there twice.
    jax.jit(lambda state: jax.tree.map(jnp.copy, state), donate_argnums=0)(restored)


@FORMS
def test_tree_is_the_one_of_t5x(tmp_path, use_orbax):
    write(tmp_path, make_state(), use_orbax=use_orbax)
    folder = tmp_path / "checkpoint_3"
    assert (folder / "checkpoint").is_file() is not use_orbax
    assert (folder / "state" / "_METADATA").is_file() is use_orbax
    read = model_checkpoints.load_t5x(folder, with_state=True)
    assert read.step == 3
    assert {k: v.shape for k, v in model_checkpoints.flatten(read.params).items()} == {
        "dense/kernel": (130, 140),
        "scale": (5,),
    }
    states = model_checkpoints.flatten(read.param_states)
    assert {name: value.shape for name, value in states.items()} == {
        "dense/kernel/m": (1,),
        "dense/kernel/v": (1,),
        "dense/kernel/v_col": (140,),
        "dense/kernel/v_row": (130,),
        "scale/m": (1,),
        "scale/v": (5,),
        "scale/v_col": (1,),
        "scale/v_row": (1,),
    }
    write(tmp_path / "adamw", make_state(OPTIMIZERS["adamw"]), use_orbax=use_orbax)
    read = model_checkpoints.load_t5x(tmp_path / "adamw/checkpoint_3", with_state=True)
    states = model_checkpoints.flatten(read.param_states)
    # The chain of clipping and AdamW, itself a chain; what is empty is left out.
    assert set(states) == {
        "1/0/count",
        "1/0/mu/dense/kernel",
        "1/0/mu/scale",
        "1/0/nu/dense/kernel",
        "1/0/nu/scale",
    }


@FORMS
def test_newest_are_kept_and_a_step_is_saved_once(tmp_path, use_orbax):
    states = [make_state(step=step) for step in (1, 2, 3, 3)]
    write(tmp_path, *states, use_orbax=use_orbax, keep=2)
    assert checkpoints.checkpoint_steps(tmp_path) == [2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint_2",
        "checkpoint_3",
    ]
    before = (tmp_path / "checkpoint_3").stat().st_mtime_ns
    write(tmp_path, make_state(step=3), use_orbax=use_orbax, keep=2)
    assert (tmp_path / "checkpoint_3").stat().st_mtime_ns == before
    assert checkpoints.checkpoint_path(tmp_path, 2).name == "checkpoint_2"
    with pytest.raises(CheckpointError, match="step 7; found checkpoint_2, checkpoint"):
        checkpoints.checkpoint_path(tmp_path, 7)


def test_forms_may_follow_each_other_in_one_folder(tmp_path):
    write(tmp_path, make_state(step=1), use_orbax=False)
    write(tmp_path, make_state(step=2), use_orbax=True)
    assert int(restore_latest(tmp_path, make_state())[0].step) == 2
    write(tmp_path, make_state(step=4), use_orbax=False, keep=2)
    assert checkpoints.checkpoint_steps(tmp_path) == [2, 4]
    assert_equal(restore_latest(tmp_path, make_state())[0], make_state(step=4))


@FORMS
@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_the_state_of_that_moment(tmp_path, use_orbax, asynchronous):
    state = make_state()
    expected = jax.tree.map(np.array, state)
    writer = manager(tmp_path, use_orbax=use_orbax, asynchronous=asynchronous)
    writer.save(state, {})
    # As a training step that takes the arrays over.
    jax.tree.map(lambda leaf: leaf.delete(), state)
    writer.close()
    assert_equal(restore_latest(tmp_path, make_state())[0], expected)


@FORMS
def test_bfloat16_is_for_parameters_alone(tmp_path, use_orbax):
    state = make_state()
    write(tmp_path, state, use_orbax=use_orbax, dtype="bfloat16")
    restored, _ = restore_latest(tmp_path, state)
    assert_equal(restored.opt_state, state.opt_state)
    rounded = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), state.params
    )
    assert_equal(restored.params, rounded)


@FORMS
def test_damaged_checkpoint_is_put_aside(tmp_path, use_orbax, caplog):
    write(tmp_path, *(make_state(step=step) for step in (1, 2)), use_orbax=use_orbax)
    for path in (tmp_path / "checkpoint_2").rglob("*"):
        if path.is_file() and (path.parent.name == "d" or path.name == "0.0"):
            path.write_bytes(path.read_bytes()[:10])
    restored, position = restore_latest(tmp_path, make_state())
    assert_equal(restored, make_state(step=1))
    assert position["source"] == {"batch": 1}
    assert (tmp_path / "damaged_checkpoint_2").is_dir()
    assert "put aside as damaged_checkpoint_2" in caplog.text
    write(tmp_path, make_state(step=2), use_orbax=use_orbax)
    assert checkpoints.checkpoint_steps(tmp_path) == [1, 2]


@FORMS
def test_a_run_without_a_readable_checkpoint_does_not_begin_again(tmp_path, use_orbax):
    write(tmp_path, *(make_state(step=step) for step in (1, 2)), use_orbax=use_orbax)
    for path in tmp_path.glob("checkpoint_*/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    steps = checkpoints.checkpoint_steps(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint can be read, so the run"):
        restore_latest(tmp_path, make_state())
    assert checkpoints.checkpoint_steps(tmp_path) == steps == [1, 2]


@FORMS
def test_a_changed_bit_is_found_and_the_one_before_taken(tmp_path, use_orbax):
    write(tmp_path, *(make_state(step=step) for step in (1, 2)), use_orbax=use_orbax)
    files = [p for p in (tmp_path / "checkpoint_2").rglob("*") if p.is_file()]
    values = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(values.read_bytes())
    data[len(data) // 2] ^= 4
    values.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="kernel"):
        model_checkpoints.load_t5x(tmp_path / "checkpoint_2")
    assert_equal(restore_latest(tmp_path, make_state())[0], make_state(step=1))
    assert (tmp_path / "damaged_checkpoint_2").is_dir()


@FORMS
def test_a_changed_data_position_is_found(tmp_path, use_orbax):
    write(tmp_path, make_state(), use_orbax=use_orbax)
    folder = tmp_path / "checkpoint_3"
    file = folder / ("data/metadata" if use_orbax else "data.json")
    file.write_text(file.read_text().replace('"batch": 3', '"batch": 2'))
    with pytest.raises(CheckpointError, match="data position: damaged: checksum"):
        checkpoints.read_data_state(folder)


@FORMS
def test_a_folder_named_with_two_dots_is_read_again(tmp_path, use_orbax):
    (tmp_path / "here").mkdir()
    folder = tmp_path / "here" / ".." / "run"
    write(folder, make_state(), use_orbax=use_orbax)
    restored, _ = restore_latest(folder, make_state(step=0))
    assert_equal(restored, make_state())
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint_3")] == [
        "checkpoint_3"
    ]


@FORMS
def test_unfinished_checkpoint_does_not_count(tmp_path, use_orbax):
    write(tmp_path, make_state(step=1), use_orbax=use_orbax)
    (tmp_path / "checkpoint_2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / ".checkpoint_2.tmp-abc").mkdir()
    (tmp_path / "checkpoint_3").mkdir()
    assert checkpoints.checkpoint_steps(tmp_path) == [1]
    assert int(restore_latest(tmp_path, make_state())[0].step) == 1


@FORMS
@pytest.mark.parametrize("asynchronous", [True, False])
def test_full_disk_is_named_and_leaves_nothing_whole(tmp_path, use_orbax, asynchronous):
    """No file may grow beyond some bytes: what a full disk does to a large array."""
    write(tmp_path, make_state(step=1), use_orbax=use_orbax)
    writer = manager(tmp_path, use_orbax=use_orbax, asynchronous=asynchronous)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = make_state(step=2, width=4000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))

    def save():
        writer.save(large, {})
        writer.close()

    try:
        with pytest.raises(CheckpointError, match="checkpoint_2 failed") as error:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(error.value)
    writer.close()
    assert checkpoints.checkpoint_steps(tmp_path) == [1]
    assert_equal(restore_latest(tmp_path, make_state())[0], make_state(step=1))
    # With room again, the same step can be saved.
    write(tmp_path, make_state(step=2), use_orbax=use_orbax)
    assert checkpoints.checkpoint_steps(tmp_path) == [1, 2]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for use_orbax in (True, False):
        with pytest.raises(CheckpointError, match="file/run: cannot be used"):
            manager(tmp_path / "file" / "run", use_orbax=use_orbax)


def test_other_models_and_optimizers_are_named(tmp_path):
    write(tmp_path, make_state())
    other = make_state(OPTIMIZERS["adamw"])
    with pytest.raises(
        CheckpointError, match=r"another optimiser: missing state/param"
    ):
        restore_latest(tmp_path, other)
    narrow = make_state(width=128)
    with pytest.raises(
        CheckpointError,
        match=r"another model: .*target/dense/kernel is \(130, 140\), expected \(128",
    ):
        restore_latest(tmp_path, narrow)
    assert checkpoints.checkpoint_steps(tmp_path) == [3]


def save_first_layout(folder, params, opt_state, step):
    """Writes what the engine's first version wrote."""
    tree = {"params": params, "opt_state": opt_state, "step": jnp.asarray(step)}
    with ocp.CheckpointManager(
        folder,
        item_names=("state", "data"),
        options=ocp.CheckpointManagerOptions(step_prefix="checkpoint"),
    ) as writer:
        writer.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree),
                data=ocp.args.JsonSave({"source": {"batch": step}}),
            ),
        )


@pytest.mark.parametrize("momentum", [False, True])
def test_first_layout_with_adafactor(tmp_path, momentum):
    name = "adafactor with momentum" if momentum else "adafactor"
    state = make_state(OPTIMIZERS[name])
    old = state.opt_state
    chain = (
        optax.FactoredState(old.count, old.v_row, old.v_col, old.v),
        optax.EmptyState(),
        optax.ScaleState(),
        optax.EmptyState(),
        *((optax.EmaState(old.count, old.m),) if momentum else ()),
        optax.ScaleState(),
    )
    save_first_layout(tmp_path, state.params, chain, 3)
    restored, position = restore_latest(tmp_path, state)
    assert_equal(restored, state)
    assert position == {"source": {"batch": 3}}


def test_first_layout_with_an_optax_optimizer(tmp_path):
    state = make_state(OPTIMIZERS["adamw"])
    save_first_layout(tmp_path, state.params, state.opt_state, 3)
    assert_equal(restore_latest(tmp_path, state)[0], state)


# ------------------- T5X's own checkpoints ------------------------------------
@pytest.fixture(scope="module")
def golden(request, tmp_path_factory):
    """Folder with T5X's checkpoints, steps 0 and 4."""
    folder = tmp_path_factory.mktemp("golden")
    data = request.config.rootpath / "tests" / "golden" / "data"
    for name in ("t5x_checkpoint", "t5x_orbax_checkpoint"):
        with tarfile.open(data / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


def golden_model(width=16):
    """The model of T5X's Orbax checkpoint; that of the other form is twice as wide."""
    config = network.T5Config.from_dict(
        {
            "vocab_size": 1536,
            "emb_dim": width,
            "num_heads": width // 16,
            "num_encoder_layers": width // 16,
            "num_decoder_layers": width // 16,
            "head_dim": 16,
            "mlp_dim": 2 * width,
        }
    )
    return models.ContinuousInputsEncoderDecoderModel(
        network.Transformer(config), None, None, adafactor.Adafactor(), 512, z_loss=1e-4
    )


def fresh_state(model):
    shapes = {"encoder_input_tokens": (1, 4, 512), "decoder_input_tokens": (1, 4)}

    def create():
        variables = model.get_initial_variables(jax.random.PRNGKey(0), shapes)
        return TrainState.create(variables["params"].unfreeze(), model.optimizer_def)

    return jax.eval_shape(create)


@pytest.mark.parametrize(
    ("name", "width"), [("t5x_checkpoint/checkpoint_0", 32), ("checkpoint_4", 16)]
)
def test_t5x_checkpoint_is_restored_with_its_optimizer_state(golden, name, width):
    path = golden / name
    model = golden_model(width)
    like = fresh_state(model)
    config = RestoreCheckpointConfig(path=str(path), mode="specific")
    state, position = checkpoints.restore_for_finetuning(
        config, like, shardings(like), model.optimizer_def
    )
    assert position is None
    read = model_checkpoints.load_t5x(path, with_state=True)
    assert int(state.step) == read.step == int(path.name.removeprefix("checkpoint_"))
    tree = state.state_dict()
    expected = model_checkpoints.flatten(read.param_states)
    found = model_checkpoints.flatten(tree["state"]["param_states"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert int(state.opt_state.count) == read.step
    if read.step:
        assert any(value.any() for value in expected.values())


def test_t5x_run_goes_on_with_t5x_losses(golden, golden_data, tmp_path):
    """T5X's ten steps from its checkpoint, with one of ours of each form on the way."""
    expected = json.loads((golden_data / "adafactor_steps.json").read_text())
    arrays = np.load(golden_data / "model.npz")
    model = golden_model(32)
    targets = arrays["train_targets4"]
    batch = {
        "encoder_input_tokens": arrays["train_inputs4"],
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    }

    @jax.jit
    def step(state):
        gradient = jax.value_and_grad(model.loss_fn, has_aux=True)
        (loss, _), grads = gradient(state.params, batch, None)
        params, opt_state = model.optimizer_def.apply_gradient(
            state.params,
            state.opt_state,
            grads,
            learning_rate=expected["learning_rate"],
        )
        return TrainState(state.step + 1, params, opt_state), loss

    like = fresh_state(model)
    state, position = checkpoints.restore(
        golden / "t5x_checkpoint" / "checkpoint_0", like, shardings(like)
    )
    assert position == {}
    losses = []
    for _ in expected["losses"]:
        state, loss = step(state)
        losses.append(float(loss))
        if int(state.step) in (4, 7):
            write(tmp_path, state, use_orbax=int(state.step) == 4)
            state, _ = restore_latest(tmp_path, like)
    assert int(state.step) == GOLDEN_STEPS
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-4)


def test_folder_of_t5x_checkpoints_gives_its_newest(golden):
    model = golden_model()
    like = fresh_state(model)
    config = RestoreCheckpointConfig(path=[str(golden)], mode="latest")
    state, _ = checkpoints.restore_for_finetuning(
        config, like, shardings(like), model.optimizer_def
    )
    assert int(state.step) == 4


def test_other_optimizer_starts_anew_where_that_is_asked_for(golden):
    model = golden_model()
    model.optimizer_def = optimizers.adamw()
    like = fresh_state(model)
    path = str(golden / "checkpoint_4")

    def start(**kwargs):
        config = RestoreCheckpointConfig(path=path, mode="specific", **kwargs)
        return checkpoints.restore_for_finetuning(
            config, like, shardings(like), model.optimizer_def
        )[0]

    with pytest.raises(
        CheckpointError, match=r"another optimiser[\s\S]*strict = False"
    ):
        start()
    state = start(strict=False)
    assert int(state.step) == 0
    params = model_checkpoints.load_t5x(path).params
    assert_equal(jax.tree.map(np.asarray, state.params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))


def test_weights_without_an_optimizer_state_start_anew(golden, tmp_path):
    model = golden_model()
    like = fresh_state(model)
    read = model_checkpoints.load_t5x(golden / "checkpoint_4")
    folder = model_checkpoints.save_t5x(
        tmp_path / "checkpoint_4", read.params, step=read.step
    )
    config = RestoreCheckpointConfig(path=str(folder), mode="specific")
    state, _ = checkpoints.restore_for_finetuning(
        config, like, shardings(like), model.optimizer_def
    )
    assert int(state.step) == 0


def test_data_position_that_is_damaged_is_named(tmp_path):
    write(tmp_path, make_state(), use_orbax=False)
    pathlib.Path(tmp_path / "checkpoint_3" / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match="checkpoint_3: data position"):
        checkpoints.read_data_state(tmp_path / "checkpoint_3")
