"""Gravis patches and Hydrogen drum kits as soundfonts."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from gather import sample_sets
from gather.soundfont_writer import Preset, Zone, write_soundfont
from mt3.errors import DataError
from mt3.note_sequences import Note
from mt3.synthesis import soundfont
from tests.support.soundfonts import RATE, peak_hertz, tone


def patch(waves, modes):
    """A Gravis patch of (samples bytes, loop, rate, low, high, root) waves."""
    data = b"GF1PATCH110\0ID#000002\0".ljust(129, b"\0")
    data += bytes(63) + bytes(6) + bytes([len(waves)]) + bytes(40)
    for raw, loop, rate, low, high, root in waves:
        header = bytes(8) + struct.pack("<III", len(raw), *loop)
        header += struct.pack("<HIII", rate, low, high, root) + bytes(3)
        header += bytes([63, 63, 63, 141, 63, 63]) + bytes([246, 246, 246, 0, 0, 0])
        header += bytes(6) + bytes([modes]) + bytes(40)
        data += header + raw
    return data


def test_gravis_patches_keep_pitch_loop_and_ranges(tmp_path):
    low, high = tone(200).astype("<i2").tobytes(), tone(800).astype("<i2").tobytes()
    waves = [
        (low, (0, len(low)), RATE, 8_175, 300_000, 200_000),
        (high, (0, len(high)), RATE, 300_000, 8_000_000, 800_000),
    ]
    folder = tmp_path / "Tone_000"
    folder.mkdir()
    (folder / "024_Guitar.pat").write_bytes(patch(waves, modes=0b1000101))
    drums = tmp_path / "Drum_000"
    drums.mkdir()
    unsigned = (tone(500, 0.1) >> 8).astype(np.int8).view(np.uint8) ^ 0x80
    wave = (unsigned.tobytes(), (0, 0), RATE, 8_175, 8_000_000, 261_626)
    (drums / "038_Snare.pat").write_bytes(patch([wave], modes=0b10))
    presets = sample_sets.gus_presets(tmp_path)
    assert [(p.bank, p.number) for p in presets] == [(0, 24), (128, 0)]
    zones = presets[0].zones
    assert zones[0].keys[0] == 0
    assert zones[0].keys[1] + 1 == zones[1].keys[0]
    assert zones[1].keys[1] == 127
    assert zones[0].release == pytest.approx(246 * 8192 / (13 * 8 * 44100))
    font = soundfont.SoundFont(write_soundfont(tmp_path / "a.sf2", "x", presets))
    for pitch, hertz in ((57, 220.0), (81, 880.0)):
        audio = font.render([Note(0.0, 1.5, pitch, 100, 24)], seconds=1.5)
        assert peak_hertz(audio[2000:]) == pytest.approx(hertz, rel=0.003)
    hit = font.render([Note(0.0, 0.1, 38, 100, is_drum=True)], seconds=0.3)
    assert peak_hertz(hit) == pytest.approx(500, abs=20)


@pytest.mark.parametrize("modes", [0b1, 0b1101])
def test_loops_that_go_back_and_forth_are_unrolled(tmp_path, modes):
    raw = np.arange(100, dtype="<i2").tobytes()
    (tmp_path / "000_x.pat").write_bytes(
        patch([(raw, (40, 160), RATE, 8_175, 9_000_000, 440_000)], modes)
    )
    ((zone,),) = (preset.zones for preset in sample_sets.gus_presets(tmp_path))
    if modes == 1:
        assert zone.loop is None
    else:
        assert zone.loop == (20, 140)
        np.testing.assert_array_equal(zone.samples[80:140], np.arange(20, 80)[::-1])


def test_damaged_patches_are_named(tmp_path):
    (tmp_path / "000_x.pat").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"000_x\.pat.*GF1PATCH"):
        sample_sets.gus_presets(tmp_path)
    whole = patch([(bytes(100), (0, 0), RATE, 1, 2, 440_000)], 1)
    (tmp_path / "000_x.pat").write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"000_x\.pat.*cut short"):
        sample_sets.gus_presets(tmp_path)


def hydrogen(folder, names):
    folder.mkdir()
    rows = []
    for place, name in enumerate(names):
        soundfile.write(
            folder / f"{place}.flac", tone(200 + 100 * place, 0.2) / 32768, RATE
        )
        rows.append(
            f"<instrument><name>{name}</name><volume>1</volume><layer>"
            f"<filename>{place}.flac</filename><min>0</min><max>1</max><gain>0.5</gain>"
            "</layer></instrument>"
        )
    text = f"<drumkit_info>{''.join(rows)}</drumkit_info>"
    (folder / "drumkit.xml").write_text(text)
    return folder


def test_hydrogen_drums_are_told_by_their_names(tmp_path):
    names = ["Kick 1", "Pearl Snare", "Hat Closed", "HH Open", "Tom Low", "Snare Roll"]
    names += ["Kick 2", "Kick 3", "Whale"]
    kits = sample_sets.hydrogen_kits(hydrogen(tmp_path / "kit", names), 3)
    assert [(kit.bank, kit.number) for kit in kits] == [(128, 3), (128, 4)]
    by_key = {zone.keys[0]: zone for zone in kits[0].zones}
    # Keys that it lacks are played by their neighbours.
    assert set(by_key) == {35, 36, 38, 40, 41, 42, 43, 44, 45, 46, 47, 48, 50}
    assert by_key[38].samples is by_key[40].samples
    assert by_key[36].attenuation_db == pytest.approx(6.02, abs=0.01)
    assert by_key[42].exclusive == by_key[46].exclusive == 1
    font = soundfont.SoundFont(write_soundfont(tmp_path / "a.sf2", "x", kits))
    assert font.kits == (3, 4)
    hit = font.render([Note(0.0, 0.1, 38, 100, is_drum=True)], seconds=0.3)
    assert peak_hertz(hit) == pytest.approx(300, abs=10)
    assert font.level > 0.001


def test_kits_without_known_drums_or_samples_are_named(tmp_path):
    with pytest.raises(DataError, match=r"drumkit\.xml.*cannot be read"):
        sample_sets.hydrogen_kits(tmp_path)
    folder = hydrogen(tmp_path / "kit", ["Whale"])
    with pytest.raises(DataError, match="known drum"):
        sample_sets.hydrogen_kits(folder)
    folder = hydrogen(tmp_path / "other", ["Kick", "Snare"])
    (folder / "0.flac").unlink()
    (kit,) = sample_sets.hydrogen_kits(folder)
    assert {zone.keys[0] for zone in kit.zones} == {38, 40}
    (folder / "1.flac").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"1\.flac"):
        sample_sets.hydrogen_kits(folder)


def test_a_kit_in_a_melodic_bank_becomes_a_drum_kit(tmp_path):
    zone = Zone(tone(300, 0.2), RATE, keys=(38, 38), fixed_pitch=True)
    source = write_soundfont(tmp_path / "a.sf2", "x", [Preset("Kit", 0, 0, (zone,))])
    target = sample_sets.as_drum_font(source, tmp_path / "b.sf2")
    font = soundfont.SoundFont(target)
    assert font.kits == (0,)
    assert not font.can_play(0, False)
    with pytest.raises(DataError, match="not a soundfont"):
        sample_sets.as_drum_font(__file__, tmp_path / "c.sf2")
