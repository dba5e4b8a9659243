"""Names of General MIDI: complete, in the standard's order."""

from __future__ import annotations

from mt3.midi import general_midi


def test_there_is_a_name_for_every_program_and_family():
    assert len(set(general_midi.PROGRAMS)) == 128
    size = general_midi.FAMILY_SIZE
    assert len(set(general_midi.FAMILIES)) == 128 // size
    # Programs as the standard numbers them, from 1.
    for number, name, family in [
        (1, "Acoustic Grand Piano", "Piano"),
        (8, "Clavinet", "Piano"),
        (9, "Celesta", "Chromatic Percussion"),
        (41, "Violin", "Strings"),
        (57, "Trumpet", "Brass"),
        (74, "Flute", "Pipe"),
        (128, "Gunshot", "Sound Effects"),
    ]:
        assert general_midi.instrument_name(number - 1) == name
        assert general_midi.family_name(number - 1) == family
        programs = general_midi.family_programs(number - 1)
        assert {general_midi.family_name(p) for p in programs} == {family}
        assert len(programs) == size
    assert general_midi.instrument_name(5, is_drum=True) == general_midi.DRUMS


def test_pitches_and_drums():
    assert general_midi.pitch_name(60) == "C4"
    assert general_midi.pitch_name(21) == "A0"
    lanes = {general_midi.DRUM_LANES[general_midi.drum_lane(p)] for p in range(128)}
    assert lanes == set(general_midi.DRUM_LANES)
    assert general_midi.DRUM_LANES[general_midi.drum_lane(36)] == "Kick"
    assert general_midi.DRUM_LANES[general_midi.drum_lane(75)] == "Other"
