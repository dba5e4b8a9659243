"""Sound and pictures, and what TensorBoard gets of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import seqio
import soundfile
from PIL import Image

from mt3 import note_sequences, summaries
from mt3.errors import ConfigError
from mt3.note_sequences import Note, TrackSpec
from mt3.spectrograms import SpectrogramConfig
from tests.support.event_files import events

CONFIG = SpectrogramConfig()
RATE = CONFIG.sample_rate
REFERENCE = [Note(0.5, 1.0, 60, 100, 0), Note(1.5, 2.0, 64, 100, 40)]
ESTIMATE = [Note(0.5, 1.0, 60, 100, 24), Note(2.2, 2.7, 50, 100, 40)]
RED, GREEN, BLUE = [1, 0, 0], [0, 1, 0], [0, 0, 1]


def song(reference=REFERENCE, estimate=ESTIMATE, seconds=3.0):
    """A target and a prediction."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    target = {"unique_id": "a song", "ref_ns": reference}
    prediction = {"est_ns": estimate, "raw_inputs": wave, "start_times": [0.0, 2.0]}
    return target, prediction


def show(function, *songs, **options):
    return function(*(list(side) for side in zip(*songs, strict=True)), **options)


def transcriptions(*songs, **options):
    return show(
        summaries.transcription_summaries,
        *songs,
        spectrogram_config=CONFIG,
        **{"ns_feature_suffix": "ns", "num_seconds": 3.0, **options},
    )


def roll_picture(reference, estimate, name="pianoroll", **options):
    """Float [rows, frames, 3], at 10 frames per second."""
    values = transcriptions(
        song(reference, estimate), pianoroll_frames_per_second=10, **options
    )
    return values[name].image[0]


def test_tensorboard_gets_sound_and_pictures(tmp_path):
    songs = [song(), song(estimate=[], seconds=1.0)]
    options = {"spectrogram_config": CONFIG, "num_seconds": 2.0}
    values = show(summaries.audio_summaries, *songs, **options)
    values |= transcriptions(*songs, num_seconds=2.0)
    values |= show(summaries.instrument_summaries, *songs, **options)
    rolls = {"all": [(np.ones((128, 4)), np.ones((128, 4)))] * 2}
    values |= summaries.prettymidi_pianoroll(rolls, 62.5, 2.0)
    logger = seqio.loggers.TensorBoardLogger(str(tmp_path))
    logger("task", 7, values, None, None, None)
    found = events(tmp_path)
    assert list(values) == [
        "audio",
        "input_with_transcription",
        "pianoroll",
        "onset_pianoroll",
        summaries.REFERENCE_AUDIO,
        summaries.INSTRUMENTS,
        "all pretty_midi pianoroll",
    ]
    assert set(found) == {f"eval/{name}" for name in values}
    clips = [soundfile.read(io.BytesIO(clip))[0] for clip in found["eval/audio"][:, 0]]
    assert [len(clip) for clip in clips] == [2 * RATE, 2 * RATE]
    wave = songs[0][1]["raw_inputs"][: 2 * RATE]
    np.testing.assert_allclose(clips[0], wave, atol=1e-3)
    # The second recording is a second long; the rest is silence.
    assert not clips[1][RATE:].any()
    # Width and height, then one PNG for each song.
    name = summaries.INSTRUMENTS
    width, height, *pictures = found[f"eval/{name}"].tolist()
    assert len(pictures) == 2
    picture = np.asarray(Image.open(io.BytesIO(pictures[0])))
    assert picture.shape == (int(height), int(width), 3)
    np.testing.assert_array_equal(picture, values[name].image[0])


def test_sound_begins_with_the_notes():
    options = {"spectrogram_config": CONFIG, "num_seconds": 3.0}
    stereo = transcriptions(song())["input_with_transcription"].audiodata[0]
    np.testing.assert_allclose(stereo[:, 0], song()[1]["raw_inputs"])
    reference = show(summaries.instrument_summaries, song(), **options)
    heard = [
        np.abs(reference[summaries.REFERENCE_AUDIO].audiodata[0, :, 0]),
        np.abs(stereo[:, 1]),
    ]
    for wave in heard:
        assert not wave[: int(0.49 * RATE)].any()
        assert wave[int(0.5 * RATE) : int(0.7 * RATE)].max() > 0.05
    second = slice(int(1.6 * RATE), int(1.9 * RATE))
    assert heard[0][second].max() > 0.05
    assert heard[1][second].max() < 0.01


def test_another_synthesizer_may_play():
    played = []

    def synthesize(notes, rate):
        played.append((notes, rate))
        return np.full(5, 0.25)

    values = transcriptions(song(), synthesize_fn=synthesize)
    right = values["input_with_transcription"].audiodata[0, :, 1]
    assert played == [(ESTIMATE, RATE)]
    assert right[:5].tolist() == [0.25] * 5
    assert not right[5:].any()


def test_length_is_bounded():
    long = [Note(t, t + 5, 60, 100) for t in range(0, 600, 5)]
    values = transcriptions(song(long, long, 20.0), num_seconds=2.5)
    assert values["input_with_transcription"].audiodata.shape == (1, 2.5 * RATE, 2)
    assert values["pianoroll"].image.shape == (1, 128, 37, 3)
    many = show(
        summaries.instrument_summaries,
        song(long, long),
        spectrogram_config=CONFIG,
        num_seconds=2.5,
    )
    short = show(
        summaries.instrument_summaries,
        song(long[:1], long[:1]),
        spectrogram_config=CONFIG,
        num_seconds=2.5,
    )
    name = summaries.INSTRUMENTS
    np.testing.assert_array_equal(many[name].image, short[name].image)


def test_colours_of_the_piano_roll():
    picture = roll_picture(REFERENCE, ESTIMATE)
    # Pitches go up the page.
    np.testing.assert_array_equal(picture[127 - 60, 5:10], [[0, 1, 1]] * 5)
    np.testing.assert_array_equal(picture[127 - 64, 15:20], [GREEN] * 5)
    np.testing.assert_array_equal(picture[127 - 50, 22:27], [BLUE] * 5)
    # Segments begin at 0 and 2 s, and the reference ends at 2 s.
    np.testing.assert_array_equal(picture[0, [0, 20]], [RED, [0, 0, 0]])
    assert picture.sum() == 2 * 5 + 5 + 5 + 128
    longer = roll_picture([*REFERENCE, Note(2, 3, 90)], ESTIMATE)
    np.testing.assert_array_equal(longer[0, [0, 20]], [RED, RED])


def test_onsets_take_one_frame():
    picture = roll_picture(REFERENCE, ESTIMATE, "onset_pianoroll")
    assert np.argwhere(picture[..., 1]).tolist() == [[127 - 64, 15], [127 - 60, 5]]
    assert np.argwhere(picture[..., 2]).tolist() == [[127 - 60, 5], [127 - 50, 22]]


def test_notes_cover_each_frame_that_they_touch():
    notes = [
        Note(0.25, 0.25, 60),
        Note(0.55, 0.71, 61),
        Note(1.0, 1.2, 62),
        Note(2.95, 9, 63),
        Note(3.5, 9, 64),
    ]
    picture = roll_picture(notes, [])
    frames = {
        pitch: np.flatnonzero(picture[127 - pitch, :, 1]).tolist()
        for pitch in range(60, 65)
    }
    assert frames == {60: [2], 61: [5, 6, 7], 62: [10, 11], 63: [29], 64: []}


def test_tracks_stand_below_one_another():
    specs = [TrackSpec("drums", is_drum=True), TrackSpec("violin", 40)]
    drum = Note(0.5, 0.6, 38, is_drum=True)
    picture = roll_picture([*REFERENCE, drum], ESTIMATE, track_specs=specs)
    assert picture.shape == (2 * 128 + 1, 30, 3)
    np.testing.assert_array_equal(picture[128], [RED] * 30)
    assert np.argwhere(picture[..., 1]).tolist() == [
        [127 - 38, 5],
        *([129 + 127 - 64, frame] for frame in range(15, 20)),
    ]
    # Neither has a piano track.
    assert picture[129:, :, 2].sum() == 5


def test_notes_may_come_as_sequences_or_as_arrays():
    want = transcriptions(song())["pianoroll"].image
    sides = [note_sequences.to_note_sequence(side) for side in (REFERENCE, ESTIMATE)]
    np.testing.assert_array_equal(transcriptions(song(*sides))["pianoroll"].image, want)
    target, prediction = {}, {"raw_inputs": np.zeros(9), "start_times": [0.0, 2.0]}
    for side, notes, prefix in (
        (target, REFERENCE, "ref"),
        (prediction, ESTIMATE, "est"),
    ):
        side[f"{prefix}_on"] = [note.start_time for note in notes]
        side[f"{prefix}_off"] = [note.end_time for note in notes]
        side[f"{prefix}_hz"] = [441 * 2 ** ((n.pitch - 69) / 12) for n in notes]
        side[f"{prefix}_loud"] = [0.5 for note in notes]
    suffixes = {
        "ns_feature_suffix": None,
        "note_onset_feature_suffix": "on",
        "note_frequency_feature_suffix": "hz",
    }
    ends = {
        "note_offset_feature_suffix": "off",
        "note_confidence_feature_suffix": "loud",
    }
    values = transcriptions((target, prediction), **suffixes, **ends)
    np.testing.assert_array_equal(values["pianoroll"].image, want)
    onsets = transcriptions((target, prediction), **suffixes)
    picture = onsets["pianoroll"].image
    np.testing.assert_array_equal(
        picture[..., 1:], onsets["onset_pianoroll"].image[..., 1:]
    )


def test_piano_rolls_of_the_frame_scores():
    estimate, reference = np.zeros((128, 3)), np.zeros((128, 50))
    estimate[60], reference[70] = 90, 30
    values = summaries.prettymidi_pianoroll({"bass": [(estimate, reference)]}, 10, 2)
    image = values["bass pretty_midi pianoroll"].image
    assert image.shape == (1, 128, 20, 3)
    np.testing.assert_array_equal(image[0, 60, :4, 2], [90, 90, 90, 0])
    np.testing.assert_array_equal(image[0, 70, :, 1], np.full(20, 30))
    assert image.sum() == 3 * 90 + 20 * 30


def test_many_instruments_have_names_and_colours():
    notes = [Note(p / 10, p / 10 + 0.1, 40 + p, 100, 8 * p) for p in range(14)]
    options = {"spectrogram_config": CONFIG, "num_seconds": 4.0}
    values = show(
        summaries.instrument_summaries, song(notes, notes), song([], []), **options
    )
    pictures = values[summaries.INSTRUMENTS].image
    reference, estimate = np.split(pictures[0], 2)
    assert (reference != estimate).any(axis=(1, 2)).sum() < 40  # The titles differ.
    colours = {tuple(colour) for colour in reference.reshape(-1, 3).tolist()}
    assert {(31, 111, 180), (217, 84, 30)} < colours
    assert (pictures[0] != pictures[1]).any(axis=(1, 2)).sum() > 100


def test_notes_that_cannot_be_played_are_left_out():
    odd = [Note(1, 0.5, 60), Note(-1, 1, 60), Note(0, 1, 60, 0)]
    values = transcriptions(song(odd, odd))
    assert not values["input_with_transcription"].audiodata[0, :, 1].any()
    values = show(
        summaries.instrument_summaries, song(odd, []), spectrogram_config=CONFIG
    )
    assert not values[summaries.REFERENCE_AUDIO].audiodata.any()


def test_nothing_to_show():
    assert summaries.audio_summaries([], [], CONFIG) == {}
    assert summaries.instrument_summaries([], [], CONFIG) == {}
    empty = summaries.transcription_summaries([], [], CONFIG, ns_feature_suffix="ns")
    assert empty == {}


def test_features_must_be_named():
    with pytest.raises(ConfigError, match="one of onsets"):
        transcriptions(song(), ns_feature_suffix=None)
    with pytest.raises(ConfigError, match="one of onsets"):
        transcriptions(song(), note_onset_feature_suffix="on")
    with pytest.raises(ConfigError, match="frequencies"):
        transcriptions(song(), ns_feature_suffix=None, note_onset_feature_suffix="on")
