"""Corpora, samplers and the command."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
import soundfile

from mt3 import files
from mt3.errors import ConfigError, DataError, DiskFullError, OutputError
from mt3.midi import reader as midi_reader
from mt3.note_sequences import NOTE_DTYPE
from mt3.synthesis import corpus, recipes
from mt3.synthesis.augmentation import NO_AUGMENTATION
from mt3.synthesis.command import synthesize
from mt3.synthesis.sampler import ClipSampler
from mt3.synthesis.soundfont import SoundFont
from tests.support.midi_files import make_library, off, on, tempo, write_midi
from tests.support.soundfonts import tiny_font

OPTIONS = {"seed": 5, "clip_seconds": 3.0, "clips_per_shard": 8}
SHARD_HOURS = 8 * 3.0 / 3600


@pytest.fixture(scope="module")
def midi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("midi")
    make_library(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, midi):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build_corpus(folder, hours=2 * SHARD_HOURS, midi_folders=[midi], **OPTIONS)
    return folder


def shard_arrays(folder, shard):
    return {
        path.name: np.load(path)
        for path in sorted((folder / f"shard_{shard:05d}").iterdir())
    }


def test_shards_hold_audio_and_matching_notes(built):
    for shard in range(2):
        arrays = shard_arrays(built, shard)
        audio, notes = arrays["audio.npy"], arrays["notes.npy"]
        offsets = arrays["offsets.npy"]
        assert audio.shape == (8, 48000)
        assert audio.dtype == np.int16
        assert notes.dtype == NOTE_DTYPE
        assert offsets.shape == (9,)
        assert offsets[-1] == len(notes)
        assert (notes["start_time"] < 3.0).all()
        assert (notes["end_time"] > 0.0).all()
        assert (notes["end_time"] > notes["start_time"]).all()
        for place in range(8):
            some_notes = offsets[place + 1] > offsets[place]
            assert some_notes == (np.abs(audio[place].astype(int)).max() > 20000)


def test_a_stopped_build_goes_on_and_comes_to_the_same(built, midi, tmp_path):
    folder = tmp_path / "corpus"
    corpus.build_corpus(folder, hours=SHARD_HOURS, midi_folders=[midi], **OPTIONS)
    kept = (folder / "shard_00000" / "audio.npy").stat().st_mtime_ns
    (folder / "shard_00001.1.partial").mkdir()  # what a killed process leaves
    calls = []
    corpus.build_corpus(
        folder,
        hours=2 * SHARD_HOURS,
        midi_folders=[midi],
        progress=lambda *done: calls.append(done),
        **OPTIONS,
    )
    assert calls == [(2, 2)]
    assert not list(folder.glob("*.partial"))
    assert (folder / "shard_00000" / "audio.npy").stat().st_mtime_ns == kept
    for shard in range(2):
        ours, theirs = shard_arrays(folder, shard), shard_arrays(built, shard)
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name])


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DiskFullError, match=r"shard_00000: cannot write.*make room"):
        corpus.build_corpus(tmp_path, hours=0.01, mixture={"random": 1.0}, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with (
        files.sole_writer(tmp_path, "test"),
        pytest.raises(OutputError, match="synthesize: .*another run is writing"),
    ):
        corpus.build_corpus(tmp_path, hours=0.01)
    assert not list(tmp_path.iterdir())


def test_another_corpus_is_not_mixed_in(built, midi):
    options = OPTIONS | {"seed": 6}
    with pytest.raises(DataError, match="seed 5, now asked for with 6"):
        corpus.build_corpus(built, hours=0.01, midi_folders=[midi], **options)


def test_wrong_mixtures_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean solo_piano"):
        corpus.build_corpus(tmp_path, hours=0.01, mixture={"solo_pino": 1.0})
    with pytest.raises(ConfigError, match="empty"):
        corpus.build_corpus(tmp_path, hours=0.01, mixture={"solo": 0.0})


def test_two_workers_make_the_same_corpus(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for workers, folder in enumerate(folders, start=1):
        corpus.build_corpus(
            folder,
            hours=2 * 2 / 3600,
            seed=1,
            clip_seconds=1.0,
            clips_per_shard=2,
            mixture={"random": 1.0},
            workers=workers,
        )
    for shard in range(2):
        one, two = (shard_arrays(folder, shard) for folder in folders)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("kind", sorted(recipes.KINDS))
@pytest.mark.parametrize("with_songs", [True, False])
def test_every_kind_of_clip_can_be_drawn(kind, with_songs, midi, rng):
    from mt3.synthesis import song_library, soundfont

    library = song_library.load_library([midi])[0] if with_songs else None
    font = soundfont.open_soundfont(soundfont.default_soundfont())
    for _ in range(5):
        clip = recipes.draw_clip(rng, kind, library, [font], 4.0)
        assert (clip.notes["start_time"] < 4.0).all()
        parts = {(int(n["program"]), bool(n["is_drum"])) for n in clip.notes}
        assert parts <= set(clip.sounds)
        if kind in ("solo", "solo_piano"):
            assert len(parts) <= 1
            assert not clip.notes["is_drum"].any()
        if kind == "solo_piano":
            assert (clip.notes["program"] < 8).all()


def test_examples_are_a_function_of_seed_and_index(built):
    first = ClipSampler(built, segment_seconds=1.024, seed=3)
    in_order = [first.example(index) for index in range(12)]
    second = ClipSampler(built, segment_seconds=1.024, seed=3)
    for index in reversed(range(12)):
        example = second.example(index)
        np.testing.assert_array_equal(example.samples, in_order[index].samples)
        np.testing.assert_array_equal(example.notes, in_order[index].notes)
        assert example.kinds == in_order[index].kinds
    other = ClipSampler(built, segment_seconds=1.024, seed=4).example(0)
    assert not np.array_equal(other.samples, in_order[0].samples)


def test_examples_have_the_right_form(built):
    sampler = ClipSampler(built, segment_seconds=1.024, seed=0, mix=1.0)
    mixed = held = 0
    for index in range(60):
        example = sampler.example(index)
        assert example.samples.shape == (16384,)
        assert example.samples.dtype == np.float32
        assert np.abs(example.samples).max() <= 1.0
        notes = example.notes
        assert notes.dtype == NOTE_DTYPE
        assert (notes["start_time"] < 1.024).all()
        assert ((notes["end_time"] > 0) | notes["is_drum"]).all()
        assert (notes["start_time"][notes["is_drum"]] >= 0).all()
        held += int((notes["start_time"] < 0).sum())
        mixed += len(example.kinds) >= 2
        keys = notes[["program", "is_drum", "pitch"]]
        order = np.lexsort((notes["start_time"], notes["pitch"], notes["program"]))
        for a, b in zip(order[:-1], order[1:], strict=True):
            if keys[a] == keys[b]:
                assert notes["end_time"][a] <= notes["start_time"][b] + 1e-9
    assert held
    assert mixed


def similarity(clip, segment):
    """The greatest correlation of a segment with any stretch of a clip."""
    from scipy import signal

    product = signal.fftconvolve(clip, segment[::-1], "valid")
    power = signal.fftconvolve(clip**2, np.ones(len(segment)), "valid")
    norms = np.sqrt(np.maximum(power, 1.0)) * np.linalg.norm(segment)
    return np.max(product / norms)


def test_segments_match_their_clips_audio(built):
    sampler = ClipSampler(
        built, segment_seconds=0.512, mix=0.0, augmentation=NO_AUGMENTATION
    )
    clips = np.concatenate(
        [shard_arrays(built, shard)["audio.npy"] for shard in range(2)]
    ).astype(np.float64)
    for index in range(4):
        samples = sampler.example(index).samples.astype(np.float64)
        if not samples.any():
            continue
        best = max(similarity(clip, samples) for clip in clips)
        assert best > 0.999


def test_limits_make_easy_examples(built):
    sampler = ClipSampler(built, segment_seconds=1.024, mix=1.0)
    for index in range(20):
        example = sampler.example(index, max_parts=1, kinds=["solo", "solo_piano"])
        assert set(example.kinds) <= {"solo", "solo_piano"}
        assert len(np.unique(example.notes["program"])) <= 1
    with pytest.raises(DataError, match="none of 16 clips"):
        sampler.example(0, max_notes_per_second=0.0)
    with pytest.raises(DataError, match="Did you mean"):
        sampler.example(0, kinds=["solos"])


def test_new_shards_are_taken_up_and_old_counts_can_be_kept(built, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(built, folder)
    shutil.move(folder / "shard_00001", folder / "later")
    sampler = ClipSampler(folder, segment_seconds=1.024)
    before = sampler.example(7)
    assert sampler.num_shards == 1
    shutil.move(folder / "later", folder / "shard_00001")
    assert ClipSampler(folder, segment_seconds=1.024).num_shards == 2
    resumed = ClipSampler(folder, segment_seconds=1.024, num_shards=1)
    np.testing.assert_array_equal(resumed.example(7).samples, before.samples)
    with pytest.raises(DataError, match="3 shards"):
        ClipSampler(folder, num_shards=3)


def test_folders_that_are_no_corpus_are_named(tmp_path):
    with pytest.raises(DataError, match="mt3 synthesize"):
        ClipSampler(tmp_path)


def test_the_command_writes_pairs_and_skips_what_is_there(midi, tmp_path):
    lines = []
    result = synthesize(
        [midi], output=tmp_path, random=1, seconds=1.0, log=lines.append
    )
    assert [path.name for path in result.written] == [
        "band.wav",
        "groove.wav",
        "score.wav",
        "tiny.wav",
        "random_00000.wav",
    ]
    assert len(result.failures) == 1
    assert "broken.mid" in result.failures[0]
    for path in result.written:
        samples, rate = soundfile.read(path)
        notes = midi_reader.read_midi(path.with_suffix(".mid"))
        assert rate == 16000
        assert len(notes)
        assert len(samples) / rate >= max(n.end_time for n in notes) - 0.01
    again = synthesize([midi], output=tmp_path, random=1, seconds=1.0)
    assert not again.written
    assert len(again.skipped) == 5


def test_a_song_that_fails_costs_itself_alone(midi, tmp_path, monkeypatch):
    odd = tmp_path / "odd"
    write_midi(odd / "a.mid", [on(0, 60), off(10, 60)])
    write_midi(
        odd / "hostile.mid",
        [tempo(0, 0xFFFFFF), on(0x0FFFFFFF, 60), off(24, 60)],
        ticks_per_beat=24,
    )
    write_midi(odd / "long.mid", [on(0, 60), off(10, 60), on(960 * 3700 * 20, 60)])
    write_midi(odd / "memory.mid", [on(0, 61), off(10, 61)])
    data = bytearray((odd / "a.mid").read_bytes())
    data[11] += 1  # A track more than there are.
    (odd / "a.mid").write_bytes(data)
    (odd / "._a.mid").write_bytes(b"resource fork")
    render = SoundFont.render

    def failing(self, notes, **options):
        if 61 in notes["pitch"]:
            raise MemoryError
        return render(self, notes, **options)

    monkeypatch.setattr(SoundFont, "render", failing)
    lines = []
    result = synthesize([odd], output=tmp_path / "out", log=lines.append)
    assert [path.name for path in result.written] == ["a.wav"]
    wanted = (
        "hostile.mid: the last note ends after 52,125 hours; expected at most 24",
        "long.mid: 20.6 hours of audio at 16000 Hz; expected at most 18.6",
        "memory.mid: cannot be rendered: MemoryError",
    )
    for failure, message in zip(result.failures, wanted, strict=True):
        assert message in failure
        assert f"mt3: error: {failure}" in lines
    assert f"{odd / 'a.mid'}: only 1 of 2 tracks are there" in lines


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seconds", float("nan")),
        ("seconds", 1e9),
        ("seconds", 0.0),
        ("hours", float("nan")),
        ("hours", -1.0),
        ("random", -1),
        ("sample_rate", 0),
    ],
)
def test_numbers_without_sense_are_refused(tmp_path, setting, value):
    name = setting.replace("_", " ")
    with pytest.raises(ConfigError, match=f"{name} is {value!r}; expected"):
        synthesize(output=tmp_path, **{"random": 1, setting: value})
    assert not list(tmp_path.iterdir())


def test_the_command_re_orchestrates_by_seed(midi, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesize(
            [midi / "score.mid"], output=tmp_path / name, seed=seed, reorchestrate=True
        )
    a, b, c = ((tmp_path / n / "score.wav").read_bytes() for n in "abc")
    assert a == b != c


def test_the_command_makes_a_corpus(midi, tmp_path):
    result = synthesize(
        [midi], output=tmp_path / "corpus", hours=0.001, clips_per_shard=2
    )
    assert result.written == (tmp_path / "corpus",)
    assert "broken.mid" in result.failures[0]
    assert len(corpus.shard_folders(tmp_path / "corpus")) == 1


def test_exact_soundfonts_play_in_a_corpus_and_only_there(tmp_path):
    kit = str(tiny_font(tmp_path / "kit.sf2"))
    options = {"exact_soundfonts": [kit], "clips_per_shard": 16}
    synthesize(output=tmp_path / "corpus", hours=0.01, **options)
    assert corpus.read_config(tmp_path / "corpus").exact_soundfonts == (kit,)
    (shard,) = corpus.shard_folders(tmp_path / "corpus")
    assert set(np.load(shard / "clips.npy")["soundfont"]) == {0, 1}
    with pytest.raises(ConfigError, match="are for a corpus"):
        synthesize(output=tmp_path, random=1, exact_soundfonts=[kit])


def test_the_command_refuses_to_destroy_or_to_do_nothing(midi, tmp_path):
    with pytest.raises(ConfigError, match="Nothing to render"):
        synthesize(output=tmp_path)
    with pytest.raises(ConfigError, match="overwritten"):
        synthesize([midi], output=midi)
