"""Notes -> audio: on time, in tune, silent where there is no note."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mt3.errors import DataError
from mt3.midi import note_arrays
from mt3.note_sequences import Note
from mt3.synthesis import soundfont, synthesizers
from mt3.synthesis.soundfont import Sound

RATE = 16000


def test_decimating_by_blocks_changes_nothing(rng):
    audio = rng.normal(size=20_000).astype(np.float32)
    whole = soundfont._decimate([audio], len(audio))
    assert len(whole) == 10_000
    for size in (2, 64, 3000):
        pieces = [audio[n : n + size] for n in range(0, len(audio), size)]
        np.testing.assert_array_equal(soundfont._decimate(pieces, len(audio)), whole)


def test_long_audio_is_rendered_by_blocks(font, monkeypatch):
    notes = [Note(0.3 * n, 0.3 * n + 0.7, 60 + n) for n in range(12)]
    sounds = {(0, False): Sound(vibrato_cents=30.0)}
    whole = font.render(notes, seconds=4.5, sounds=sounds)
    monkeypatch.setattr(soundfont, "_BLOCK_SECONDS", 1)
    blocks = font.render(notes, seconds=4.5, sounds=sounds)
    # The synthesizer's envelopes move in steps that begin anew with each block.
    np.testing.assert_allclose(blocks, whole, atol=0.01 * np.abs(whole).max())


def test_audio_that_is_too_long_is_refused_before_it_is_taken(font):
    year = [Note(0, 1, 60), Note(365 * 86400, 365 * 86400 + 1, 60)]
    with pytest.raises(DataError, match=r"a\.mid: 8,760\.0 hours .* at most 18\.6"):
        font.render_song(note_arrays.to_array(year), name="a.mid")
    with pytest.raises(DataError, match="rendering: inf hours"):
        font.render(year, seconds=float("inf"))


@pytest.fixture(scope="module")
def font():
    return soundfont.open_soundfont(soundfont.default_soundfont())


def installed_synthesizers():
    """tinysoundfont, and FluidSynth where it is there."""
    try:
        import fluidsynth  # noqa: F401
    except ImportError:
        return [synthesizers.TinySoundFont]
    return [synthesizers.TinySoundFont, synthesizers.FluidSynth]


def onset_milliseconds(audio, expected):
    """Time at which the level reaches a tenth of the attack's, against expected."""
    level = np.abs(audio[: int((expected + 0.03) * RATE)])
    return 1000 * (np.argmax(level >= 0.1 * level.max()) / RATE - expected)


def peak_hertz(audio):
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return np.argmax(spectrum) * RATE / len(audio)


@pytest.mark.parametrize(
    ("program", "pitch", "is_drum"),
    [
        (0, 45, False),
        (0, 69, False),
        (0, 90, False),
        (11, 65, False),
        (24, 60, False),
        (27, 64, False),
        (33, 40, False),
        (56, 69, False),
        (80, 60, False),
        (0, 36, True),
        (0, 38, True),
        (0, 42, True),
        (0, 49, True),
    ],
)
@pytest.mark.parametrize("time", [0.25, 0.70303])
def test_attacks_sound_at_their_notes_time(font, program, pitch, is_drum, time):
    note = Note(time, time + 0.5, pitch, 100, program, is_drum)
    audio = font.render([note], seconds=1.5)
    assert abs(onset_milliseconds(audio, time)) < 3.0


def test_an_a_has_440_hertz_and_tuning_shifts_it(font):
    note = [Note(0.0, 2.0, 69, 100)]
    plain = font.render(note, seconds=2.0)[RATE // 4 :]
    assert peak_hertz(plain) == pytest.approx(440.0, abs=3.0)
    sharp = font.render(note, seconds=2.0, sounds={(0, False): Sound(cents=100.0)})[
        RATE // 4 :
    ]
    ratio = peak_hertz(sharp) / peak_hertz(plain)
    assert ratio == pytest.approx(2 ** (1 / 12), abs=0.005)


def test_vibrato_spreads_the_pitch(font):
    note = [Note(0.0, 2.0, 81, 100, 80)]

    def width(sounds):
        audio = font.render(note, seconds=2.0, sounds=sounds)[RATE // 4 :]
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
        bins = np.arange(len(spectrum)) * RATE / len(audio)
        near = (bins > 800) & (bins < 960)
        power = spectrum[near] ** 2 / np.sum(spectrum[near] ** 2)
        return np.sqrt(np.sum(power * (bins[near] - 880) ** 2))

    assert width({(80, False): Sound(vibrato_cents=40)}) > 2 * width(None) + 5


def test_silence_before_between_and_after_notes(font):
    notes = [Note(0.5, 0.7, 60), Note(3.0, 3.2, 64)]
    audio = font.render(notes, seconds=6.0)
    assert audio.dtype == np.float32
    assert audio.shape == (6 * RATE,)
    loud = np.abs(audio).max()
    assert np.abs(audio[: int(0.49 * RATE)]).max() < 0.01 * loud
    assert np.abs(audio[int(2.5 * RATE) : int(2.99 * RATE)]).max() < 0.01 * loud
    assert np.abs(audio[int(5.5 * RATE) :]).max() < 0.01 * loud
    assert not font.render([], seconds=0.5).any()


def test_rendering_is_repeatable_and_the_sum_of_its_parts(font):
    piano, drums = Note(0.2, 1.0, 60), Note(0.4, 0.5, 38, is_drum=True)
    both = font.render([piano, drums], seconds=1.5)
    again = font.render([piano, drums], seconds=1.5)
    np.testing.assert_array_equal(both, again)
    parts = [font.render([note], seconds=1.5) for note in (piano, drums)]
    difference = np.abs(both - parts[0] - parts[1]).max()
    assert difference < 0.05 * np.abs(both).max()


def test_threads_that_share_a_soundfont_render_in_turns(font, monkeypatch):
    """As training and evaluation do; they disturbed each other before 0.9.0."""
    first, second = [Note(0.1, 0.9, 60)], [Note(0.2, 0.8, 67, program=40)]
    expected = [font.render(notes, seconds=1.0) for notes in (first, second)]
    found, synth = [], font._synth
    other = threading.Thread(
        target=lambda: found.append(font.render(second, seconds=1.0))
    )
    render_into = synth.render_into

    def interrupted(buffer):
        render_into(buffer)
        if other.ident is None:
            other.start()
            other.join(0.3)

    monkeypatch.setattr(synth, "render_into", interrupted)
    found.append(font.render(first, seconds=1.0))
    other.join()
    assert len(found) == 2
    np.testing.assert_array_equal(found, expected)


def test_more_than_sixteen_programs_sound_at_once(font):
    notes = [Note(0.1, 0.9, 60, 100, program) for program in range(0, 40, 2)]
    full = font.render(notes, seconds=1.0)
    for left_out in (notes[0], notes[-1]):
        rest = [note for note in notes if note is not left_out]
        assert np.abs(full - font.render(rest, seconds=1.0)).max() > 0.01


def test_gains_scale_parts(font):
    note = [Note(0.0, 0.5, 60, 100, 24)]
    full = font.render(note, seconds=0.5)
    half = font.render(note, seconds=0.5, sounds={(24, False): Sound(gain=0.5)})
    np.testing.assert_allclose(half, 0.5 * full, atol=0.02 * np.abs(full).max())


def test_velocity_is_heard(font):
    soft, loud = (
        font.render([Note(0.0, 0.5, 60, velocity)], seconds=0.5)
        for velocity in (30, 110)
    )
    assert np.abs(loud).max() > 3 * np.abs(soft).max()


@pytest.mark.parametrize("backend", installed_synthesizers())
@pytest.mark.parametrize(
    ("velocity", "decibels"), [(100, -4.15), (64, -11.9), (32, -23.95)]
)
def test_loudness_goes_with_the_square_of_velocity(backend, velocity, decibels):
    """The SF2 standard's default modulator: 40 log10(127 / velocity) dB less."""
    synth = backend(soundfont.default_soundfont(), RATE)

    def level(struck):
        synth.reset()
        synth.start_channel(0, 0, 19, 1.0, 0.0)
        synth.note_on(0, 72, struck)
        block = np.zeros(RATE // 2, np.float32)
        synth.render_into(block)
        return 10 * np.log10(np.mean(block.astype(float) ** 2))

    assert level(velocity) - level(127) == pytest.approx(decibels, abs=0.15)


def test_a_sounding_note_keeps_its_loudness_when_another_begins(font):
    long, soft = Note(0.0, 2.0, 48, 127, 19), Note(1.0, 2.0, 84, 1, 19)
    alone = font.render([long], seconds=2.0)
    both = font.render([long, soft], seconds=2.0)
    assert np.abs(both - alone).max() < 0.01 * np.abs(alone).max()


def test_a_window_sounds_like_the_stretch_of_the_whole(font):
    notes = [Note(0.5, 3.5, 57, 100, 48), Note(2.25, 3.0, 72)]
    whole = font.render(notes, seconds=4.0)
    window = font.render(notes, seconds=2.0, start_time=2.0)
    expected = whole[2 * RATE :]
    assert np.abs(window - expected).max() < 0.1 * np.abs(expected).max()


def test_aliases_are_filtered_out(font):
    # The highest piano note's overtones lie above 8 kHz and must not fold down.
    audio = font.render([Note(0.0, 1.0, 108)], seconds=0.5)
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    bins = np.arange(len(spectrum)) * RATE / len(audio)
    near = np.abs(bins - 4186) < 150
    assert spectrum[near].sum() > 0.8 * spectrum[bins > 1000].sum()


def test_silent_drum_keys_are_known(font):
    notes = note_arrays.to_array(
        [Note(0, 1, 38, is_drum=True), Note(0, 1, 3, is_drum=True), Note(0, 1, 60)]
    )
    assert font.audible(notes).tolist() == [True, False, True]


def test_missing_presets_are_replaced_within_their_class(font):
    assert 0 in font.kits
    assert font.preset(40, False, Sound(bank=77)) == (0, 40)
    assert font.preset(0, True, Sound(kit=99)) == (synthesizers.DRUM_BANK, font.kits[0])


def test_bad_soundfonts_are_named(tmp_path):
    with pytest.raises(DataError, match="gone.sf2"):
        soundfont.SoundFont(tmp_path / "gone.sf2")
    bad = tmp_path / "bad.sf2"
    bad.write_bytes(b"RIFF nonsense")
    with pytest.raises(DataError, match="bad.sf2"):
        soundfont.SoundFont(bad)


def test_without_a_synthesizer_the_message_says_how_to_get_one(monkeypatch):
    class Missing:
        def __init__(self, path, sample_rate):
            raise ImportError

    monkeypatch.setattr(synthesizers, "TinySoundFont", Missing)
    monkeypatch.setattr(synthesizers, "FluidSynth", Missing)
    with pytest.raises(DataError, match="pip install --no-deps tinysoundfont"):
        soundfont.SoundFont(soundfont.default_soundfont())
