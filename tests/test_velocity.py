"""Velocities: what is read, what is trained, and that it tells soft from loud."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import train_velocity
from mt3 import checkpoints, configs, frame_heads, harmonic_stem, spectrograms
from mt3.beyond import grids, velocity
from mt3.engine import velocity as training
from mt3.errors import DataError
from mt3.inference import InferenceModel
from mt3.midi import note_arrays
from mt3.note_sequences import Note
from mt3.scoring import matching
from mt3.synthesis import corpus, soundfont
from tests.support import tiny_heads

CONFIG = configs.ModelConfig(
    network={},
    spectrogram=spectrograms.SpectrogramConfig(
        hop_width=320,
        num_mel_bins=harmonic_stem.NUM_BANDS,
        lo_hz=harmonic_stem.LO_HZ,
        hi_hz=harmonic_stem.HI_HZ,
        scale="pitch",
    ),
    inputs_length=200,
    context_frames=25,
)


@pytest.fixture
def heads(rng):
    """Of both kinds, as training begins."""
    return {
        name: np.asarray(value)
        for drums in (False, True)
        for name, value in training.initial_heads(rng, drums=drums).items()
    }


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches have room for the notes of the few clips here, not of a corpus."""
    monkeypatch.setattr(training, "_MOST_NOTES", {False: 1536, True: 768})


def test_shapes_are_among_those_of_the_heads(heads):
    shapes = frame_heads.head_shapes(256, 24)
    assert {name: value.shape for name, value in heads.items()}.items() <= (
        shapes.items()
    )


def test_loudness_does_not_depend_on_how_a_recording_is_cut(rng):
    frames = rng.normal(0, 2, (40, 294)).astype(np.float32)
    whole = frame_heads.Loudness.silence(294).add(frames)
    parts = frame_heads.Loudness.silence(294).add(frames[:7]).add(frames[7:])
    assert whole.peak == parts.peak == pytest.approx(frames.max())
    np.testing.assert_allclose(whole.power, parts.power, rtol=1e-5)
    np.testing.assert_allclose(
        whole.power, np.exp(2.0 * frames).mean(axis=0), rtol=1e-5
    )
    assert whole.add(frames[:0]) is whole


def test_levels_are_read_at_the_partials_around_the_onset():
    frames = np.full((30, 294), -9.0, np.float32)
    # The third partial of A3 (57) is E5 (76), heard a third of a semitone sharp.
    frames[12, 3 * (76 - 21) + 1 + 1] = 2.0
    features = frame_heads.velocity_features(
        frames, np.array([10, 10]), np.array([57, 60])
    )
    found = features[:, :48].reshape(2, 8, 6)
    assert np.argwhere(found[0] == 2.0).tolist() == [[4, 2]]
    assert (found[1] == -9.0).all()
    np.testing.assert_array_equal(features[:, 48:].argmax(axis=1), [4, 4])
    # A piano's highest key has partials above the highest band.
    high = frame_heads.velocity_features(frames, np.array([0]), np.array([108]))
    assert high[0, 5] < -20


@pytest.mark.parametrize("drums", [False, True])
def test_host_and_device_agree(rng, heads, drums):
    frames = rng.normal(0, 2, (40, 294)).astype(np.float32)
    frame, pitch = np.array([0, 17, 39]), np.array([21, 60, 108])
    loudness = frame_heads.Loudness.silence(294).add(frames)
    features = frame_heads.velocity_features(frames, frame, pitch, drums=drums)
    given = (features, pitch, loudness.peak, np.float32(loudness.power))
    here = frame_heads.velocities(heads, *given, drums=drums)
    there = frame_heads.velocities(heads, *map(jnp.asarray, given), drums=drums)
    assert isinstance(here, np.ndarray)
    assert isinstance(there, jax.Array)
    np.testing.assert_allclose(here, there, atol=1e-5)
    told = frame_heads.midi_velocities(heads, features, pitch, loudness, drums=drums)
    np.testing.assert_array_equal(told, np.clip(np.rint(127 * here), 1, 127))


@pytest.mark.parametrize("drums", [False, True])
def test_a_louder_copy_of_a_recording_has_the_same_velocities(rng, heads, drums):
    frames = rng.normal(0, 1, (40, 294)).astype(np.float32)
    frame, pitch = np.array([5, 20]), np.array([40, 70])

    def told(frames):
        loudness = frame_heads.Loudness.silence(294).add(frames)
        features = frame_heads.velocity_features(frames, frame, pitch, drums=drums)
        return frame_heads.velocities(
            heads, features, pitch, loudness.peak, loudness.power, drums=drums
        )

    np.testing.assert_allclose(told(frames), told(frames + 1.5), atol=1e-4)


def test_errors_count_within_one_instrument():
    true = jnp.array([0.2, 0.4, 0.6, 0.9])
    group = jnp.array([0, 0, 1, 1])
    known = jnp.array([True, True, True, False])
    shifted = true + jnp.array([0.1, 0.1, -0.3, 5.0])
    alone = velocity.grouped_loss(shifted, true, group, known, 2)
    assert alone == pytest.approx(velocity.PLAIN_SHARE * (0.01 + 0.01 + 0.09))
    uneven = true + jnp.array([0.1, -0.1, 0.0, 0.0])
    assert velocity.grouped_loss(uneven, true, group, known, 2) == pytest.approx(
        (1 + velocity.PLAIN_SHARE) * 0.02
    )


def test_segments_notes_are_found_in_their_rows(rng, heads):
    """A note outside the segment, or of unknown velocity, has no loss."""
    frames = jnp.asarray(rng.normal(0, 2, (2, 200, 294)), jnp.float32)
    notes = note_arrays.to_array(
        [
            Note(0.5, 1.0, 60, 90),
            Note(0.7, 1.0, 64, 30),
            Note(1.0, 1.1, 38, 70, 0, True),
        ]
    )
    rows = np.stack([grids.note_rows(notes, 8)] * 2)
    loss = velocity.segment_loss(heads, frames, jnp.asarray(rows), CONFIG)
    expected = 0.0
    for segment in np.asarray(frames):
        loudness = frame_heads.Loudness.silence(294).add(segment)
        for drums, chosen in ((False, notes[:2]), (True, notes[2:])):
            onset = np.rint(grids.frame_of_time(chosen["start_time"], CONFIG))
            pitch = chosen["pitch"].astype(int)
            features = frame_heads.velocity_features(
                segment, onset.astype(int), pitch, drums=drums
            )
            told = frame_heads.velocities(
                heads, features, pitch, loudness.peak, loudness.power, drums=drums
            )
            error = told - chosen["velocity"] / 127
            within = error - error.mean()
            expected += (within**2).sum()
            expected += velocity.PLAIN_SHARE * (error**2).sum()
    assert loss == pytest.approx(expected, rel=1e-3)
    rows[..., 4] = 0
    assert velocity.segment_loss(heads, frames, jnp.asarray(rows), CONFIG) == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A corpus of solos, eight clips of 4 s."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build_corpus(
        folder,
        hours=8 * 4 / 3600,
        mixture={"solo": 0.5, "drums": 0.5},
        clip_seconds=4.0,
        clips_per_shard=8,
        seed=3,
    )
    return folder


def test_clips_are_heard_with_their_notes(built):
    heard = training.hear([built], CONFIG, augment=False, mix=0.0)
    again = training.hear([built], CONFIG, augment=False, mix=0.0)
    for drums, notes in heard.items():
        count = len(notes.pitch)
        assert count == notes.first[-1] > 20
        assert len(notes.first) == len(notes.peak) + 1 == len(notes.power) + 1
        assert notes.features.shape == (count, 100 if drums else 56)
        assert (notes.part == 16).all() == drums
        assert 0 < notes.velocity.min() < notes.velocity.max() <= 1
        # Nothing is louder than its clip.
        clip = np.repeat(np.arange(len(notes.peak)), np.diff(notes.first))
        assert (notes.features <= notes.peak[clip, None] + 0.01).all()
        np.testing.assert_array_equal(notes.features, again[drums].features)


def test_other_sample_rates_are_refused(built):
    other = spectrograms.SpectrogramConfig(sample_rate=8000)
    config = configs.ModelConfig(network={}, spectrogram=other)
    with pytest.raises(DataError, match="16000 samples per second"):
        training.hear([built], config)


def test_training_learns_to_tell_soft_from_loud(built):
    notes = training.hear([built], CONFIG, augment=False, mix=0.0)[False]
    heads = training.train(notes, drums=False, steps=40, log=print)
    assert training.rank_correlation(heads, notes, drums=False) > 0.8
    silent = {name: np.zeros_like(value) for name, value in heads.items()}
    assert training.rank_correlation(silent, notes, drums=False) == 0


def swell(program):
    """Quarter seconds whose velocities rise from 30 to 110 and fall again, 16 s."""
    rng = np.random.default_rng(program)
    times = np.arange(0.2, 16.0, 0.25)
    loud = np.rint(30 + 80 * (1 - np.abs(times / 8 - 1))).astype(int)
    pitches = 60 + rng.integers(0, 13, len(times))
    return [
        Note(float(t), float(t) + 0.24, int(p), int(v), program)
        for t, p, v in zip(times, pitches, loud, strict=True)
    ]


@pytest.fixture(scope="module")
def model():
    """The default weights."""
    return InferenceModel("default")


@pytest.mark.parametrize("program", [0, 48])
def test_a_swell_over_many_segments_comes_out_as_one(model, program):
    notes = swell(program)
    font = soundfont.open_soundfont(soundfont.default_soundfont())
    samples = font.render(notes, seconds=16.5)
    samples *= np.float32(0.7) / np.abs(samples).max()
    true = matching.note_array(notes)
    found = matching.note_array(model.transcribe(samples).notes)
    pairs = matching.match_notes(true, found, onset_tolerance=0.05, offset_ratio=None)
    assert len(pairs) > 0.8 * len(notes)
    true, found = (
        array["velocity"][pairs[:, place]].astype(float)
        for place, array in enumerate((true, found))
    )
    assert stats.spearmanr(true, found).statistic > 0.85
    assert found[true > 95].mean() - found[true < 50].mean() > 30


def test_the_command_changes_the_velocity_heads_alone(built, tmp_path, capsys):
    model, new = tmp_path / "tiny.safetensors", tmp_path / "new.safetensors"
    config = tiny_heads.CONFIG
    checkpoints.save_safetensors(
        model, tiny_heads.make_params(), config, info={"name": "tiny"}
    )
    arguments = [str(built), "-o", str(new), "--model", str(model), "--steps", "2"]
    assert train_velocity.main([*arguments, "--validation", str(built)]) == 0
    assert capsys.readouterr().out.count("rank correlation") == 2
    before, after = (checkpoints.load(path) for path in (model, new))
    assert after.info["name"] == "tiny"
    for name, value in checkpoints.flatten(before.params).items():
        same = np.array_equal(value, checkpoints.flatten(after.params)[name])
        assert same != ("velocity" in name), name
    assert train_velocity.main(arguments) == 1
    assert "there already" in capsys.readouterr().err
