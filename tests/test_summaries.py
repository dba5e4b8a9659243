"""Sound and pictures, and what TensorBoard gets of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import seqio
import soundfile
from PIL import Image

from mt3 import summaries
from mt3.errors import ConfigError
from mt3.note_sequences import Note
from mt3.summaries import SummarySong
from tests.support.event_files import events

RATE = 8000
REFERENCE = [Note(0.5, 1.0, 60, 100, 0), Note(1.5, 2.0, 64, 100, 40)]
ESTIMATE = [Note(0.5, 1.0, 60, 100, 24), Note(2.2, 2.7, 50, 100, 40)]


def song(reference=REFERENCE, estimate=ESTIMATE, seconds=3.0):
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    return SummarySong("a song", reference, estimate, wave)


def test_tensorboard_gets_sound_and_pictures(tmp_path):
    songs = [song(), song(estimate=[], seconds=1.0)]
    values = summaries.audio_summaries(songs, sample_rate=RATE, seconds=2.0)
    values |= summaries.image_summaries(songs, seconds=2.0)
    logger = seqio.loggers.TensorBoardLogger(str(tmp_path))
    logger("task", 7, values, None, None, None)
    found = events(tmp_path)
    assert set(found) == {f"eval/{name}" for name in values}
    assert len(found) == 5
    sound = found[f"eval/{summaries.INPUT_AUDIO}"]
    clips = [soundfile.read(io.BytesIO(clip))[0] for clip in sound[:, 0]]
    assert [len(clip) for clip in clips] == [2 * RATE, 2 * RATE]
    np.testing.assert_allclose(clips[0], songs[0].samples[: 2 * RATE], atol=1e-3)
    # The second recording is a second long; the rest is silence.
    assert not clips[1][RATE:].any()
    # Width and height, then one PNG for each song.
    width, height, *pictures = found[f"eval/{summaries.COMPARISON}"].tolist()
    assert len(pictures) == 2
    picture = np.asarray(Image.open(io.BytesIO(pictures[0])))
    assert picture.shape == (int(height), int(width), 3)
    np.testing.assert_array_equal(picture, values[summaries.COMPARISON].image[0])


def test_sound_begins_with_the_notes():
    values = summaries.audio_summaries([song()], sample_rate=RATE, seconds=3.0)
    heard = {
        name: np.abs(values[name].audiodata[0, :, 0])
        for name in (summaries.REFERENCE_AUDIO, summaries.ESTIMATE_AUDIO)
    }
    for wave in heard.values():
        assert not wave[: int(0.49 * RATE)].any()
        assert wave[int(0.5 * RATE) : int(0.7 * RATE)].max() > 0.05
    second = slice(int(1.6 * RATE), int(1.9 * RATE))
    assert heard[summaries.REFERENCE_AUDIO][second].max() > 0.05
    assert heard[summaries.ESTIMATE_AUDIO][second].max() < 0.01


def test_length_is_bounded():
    long = [Note(t, t + 5, 60, 100) for t in range(0, 600, 5)]
    values = summaries.audio_summaries(
        [song(long, long, 20.0)], sample_rate=RATE, seconds=2.5
    )
    assert {v.audiodata.shape for v in values.values()} == {(1, 2.5 * RATE, 1)}
    images = summaries.image_summaries([song(long, long)], seconds=2.5)
    assert {v.image.shape[0::2] for v in images.values()} == {(1, summaries.WIDTH)}


def colours(picture):
    """The share of the roll, below the header, that each colour has."""
    roll = picture[24:].reshape(-1, 3)
    found, counts = np.unique(roll, axis=0, return_counts=True)
    return {
        tuple(c): n
        for c, n in zip(found.tolist(), counts.tolist(), strict=True)
        if tuple(c) in (summaries.BOTH, summaries.MISSED, summaries.WRONG)
    }


def test_comparison_has_three_colours():
    def shares(reference, estimate):
        return colours(summaries.comparison_picture(song(reference, estimate), 4.0))

    both = shares(REFERENCE, REFERENCE)
    assert set(both) == {summaries.BOTH}
    # Two half seconds of 4 s, three pixels high; the last pixel of each is free.
    assert both[summaries.BOTH] == 2 * 3 * (summaries.WIDTH // 8 - 1)
    mixed = shares(REFERENCE, ESTIMATE)
    assert len(mixed) == 3
    assert len(set(mixed.values())) == 1
    assert set(shares(REFERENCE, [])) == {summaries.MISSED}
    assert set(shares([], ESTIMATE)) == {summaries.WRONG}
    assert shares([], []) == {}


def test_drums_and_extreme_pitches_are_seen():
    for note in (
        Note(1, 1.01, 36, 100, 0, True),
        Note(1, 2, 127, 100),
        Note(1, 2, 0, 100),
        Note(3.999, 9, 60, 100),
    ):
        picture = summaries.comparison_picture(song([note], []), 4.0)
        assert set(colours(picture)) == {summaries.MISSED}
    late = summaries.comparison_picture(song([Note(4, 5, 60)], []), 4.0)
    assert colours(late) == {}


def test_many_instruments_have_names_and_colours():
    notes = [Note(p / 10, p / 10 + 0.1, 40 + p, 100, 8 * p) for p in range(14)]
    picture = summaries.instruments_picture(song(notes, notes), 4.0)
    plain = summaries.instruments_picture(song([], []), 4.0)
    assert picture.shape == plain.shape
    assert (picture != plain).any(axis=(1, 2)).sum() > 100


def test_notes_that_cannot_be_played_are_left_out():
    odd = [Note(1, 0.5, 60), Note(-1, 1, 60), Note(0, 1, 60, 0)]
    values = summaries.audio_summaries([song(odd, [])], sample_rate=RATE)
    assert set(values) == {summaries.INPUT_AUDIO}


def test_nothing_to_show():
    assert summaries.audio_summaries([], sample_rate=RATE) == {}
    assert summaries.image_summaries([]) == {}
    with pytest.raises(ConfigError, match="0 seconds"):
        summaries.image_summaries([song()], seconds=0)
