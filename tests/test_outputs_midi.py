"""MIDI files: what is written is what other readers read."""

from __future__ import annotations

import io

import mido
import pretty_midi
import pytest
import symusic
from hypothesis import given
from hypothesis import strategies as st

from mt3.beats import Beats
from mt3.errors import ConfigError
from mt3.midi import general_midi
from mt3.midi.reader import read_midi
from mt3.note_sequences import Note
from mt3.outputs import Transcription, midi
from tests.support.note_strategies import note_lists


def load(result, **options):
    return mido.MidiFile(file=io.BytesIO(midi.midi_bytes(result, **options)))


def save(tmp_path, file):
    path = tmp_path / "file.mid"
    file.save(path)
    return path


def as_pretty_midi(data):
    return sorted(
        Note(note.start, note.end, note.pitch, note.velocity, i.program, i.is_drum)
        for i in pretty_midi.PrettyMIDI(io.BytesIO(data)).instruments
        for note in i.notes
    )


def assert_same_notes(got, want, tolerance):
    assert [(n.pitch, n.velocity, n.program, n.is_drum) for n in got] == [
        (n.pitch, n.velocity, n.program, n.is_drum) for n in want
    ]
    for one, other in zip(got, want, strict=True):
        assert one.start_time == pytest.approx(other.start_time, abs=tolerance)
        assert one.end_time == pytest.approx(other.end_time, abs=tolerance)


def without_overlap(notes):
    """The notes that one MIDI file can hold as they are, sorted."""
    kept = []
    for note in sorted(notes):
        key = (note.pitch, note.program, note.is_drum)
        if not any(
            (o.pitch, o.program, o.is_drum) == key and o.end_time > note.start_time
            for o in kept
        ):
            kept.append(note)
    return kept


@given(note_lists(), st.floats(4, 1000))
def test_round_trip_at_any_tempo(tmp_path_factory, notes, tempo):
    notes = without_overlap(notes)
    data = midi.midi_bytes(Transcription(notes), tempo=tempo)
    path = tmp_path_factory.mktemp("midi") / "notes.mid"
    path.write_bytes(data)
    assert_same_notes(read_midi(path), notes, 0.0006)


@given(note_lists())
def test_the_ten_millisecond_grid_is_kept_exactly(notes):
    notes = without_overlap(notes)
    got = as_pretty_midi(midi.midi_bytes(Transcription(notes)))
    assert_same_notes(got, notes, 1e-9)


@given(note_lists(max_step=20))
def test_overlapping_notes_never_hang_or_die_early(notes):
    file = load(Transcription(notes))
    starts = {(n.pitch, 0 if n.is_drum else n.program, n.is_drum) for n in notes}
    sounding, heard = {}, set()
    tick = 0
    for message in mido.merge_tracks(file.tracks):
        tick += message.time
        if message.type not in ("note_on", "note_off"):
            continue
        key = (message.channel, message.note)
        if message.type == "note_on":
            assert key not in sounding
            sounding[key] = tick
            heard.add(key)
        else:
            assert tick > sounding.pop(key)
    assert not sounding
    assert len(heard) == len(starts)


def test_a_struck_again_note_is_cut_and_reported():
    notes = [Note(0, 2, 60), Note(1, 3, 60), Note(1, 1.5, 60), Note(1, 2, 62)]
    stream = io.BytesIO()
    warnings = midi.write_midi(Transcription(notes), stream)
    assert [w.split(":")[0] for w in warnings] == [
        "1 notes ended early",
        "1 notes left out",
    ]
    got = as_pretty_midi(stream.getvalue())
    assert [(n.start_time, n.end_time, n.pitch) for n in got] == [
        (0, 1, 60),
        (1, 2, 62),
        (1, 3, 60),
    ]


def test_layout_names_and_provenance():
    notes = [
        Note(0, 1, 60, program=40),
        Note(0, 1, 36, program=25, is_drum=True),
        Note(0, 1, 60, program=0),
    ]
    result = Transcription(
        notes, source="Bühne\n1.wav", model="small", model_sha256="ab" * 32
    )
    file = load(result, tempo=90)
    assert file.type == 1
    assert file.ticks_per_beat >= 480
    names = [track.name for track in file.tracks]
    assert names[1:] == ["Acoustic Grand Piano", "Violin", "Drums"]
    conductor = mido.MidiFile(
        file=io.BytesIO(midi.midi_bytes(result)), charset="utf-8"
    ).tracks[0]
    assert conductor.name == "Bühne 1.wav"
    assert any("ab" * 32 in m.text for m in conductor if m.type == "text")
    tempo = next(m.tempo for m in file.tracks[0] if m.type == "set_tempo")
    assert round(mido.tempo2bpm(tempo)) == 90
    channels = [
        {m.channel for m in track if m.type == "note_on"} for track in file.tracks[1:]
    ]
    assert channels == [{0}, {1}, {general_midi.DRUM_CHANNEL}]


def test_more_programs_than_channels_share_and_sound_right():
    # Programs 0..19 all play the same four pitches in turn and some at once.
    notes = [
        Note(step * 0.5, step * 0.5 + 0.5, 60 + step % 4, program=program)
        for program in range(20)
        for step in range(program, 24, 3)
    ]
    stream = io.BytesIO()
    warnings = midi.write_midi(Transcription(notes), stream)
    assert sum("shares channel" in warning for warning in warnings) == 5
    file = mido.MidiFile(file=io.BytesIO(stream.getvalue()))
    assert len(file.tracks) == 21
    # As a synthesizer hears it: all tracks merged, one program per channel.
    program, sounding, heard, tick = {}, {}, [], 0
    for message in mido.merge_tracks(file.tracks):
        tick += message.time
        if message.type == "program_change":
            program[message.channel] = message.program
        elif message.type == "note_on":
            key = (message.channel, message.note)
            assert key not in sounding
            sounding[key] = (tick, program[message.channel])
        elif message.type == "note_off":
            start, sound = sounding.pop((message.channel, message.note))
            heard.append((start / 1000, message.note, sound))
    assert not sounding
    assert 9 not in program
    wanted = {(n.start_time, n.pitch, n.program) for n in notes}
    lost = sum(int(w.split()[0]) for w in warnings if "left out" in w)
    assert set(heard) <= wanted
    assert len(heard) == len(wanted) - lost


def test_hours_stay_within_what_readers_accept():
    notes = [Note(0, 1, 60), Note(5 * 3600, 5 * 3600 + 0.01, 60)]
    got = as_pretty_midi(midi.midi_bytes(Transcription(notes)))
    assert got[1].start_time == pytest.approx(5 * 3600, abs=0.001)


@pytest.mark.parametrize("tempo", [0, -1, 3.9, 1001, float("nan")])
def test_impossible_tempos_are_refused(tempo):
    with pytest.raises(ConfigError, match="beats per minute"):
        midi.midi_bytes(Transcription([]), tempo=tempo)


BEATS = Beats([0.31, 0.8, 1.32, 1.8, 2.33, 2.8, 3.4], [4, 1, 2, 3, 1, 2, 3], 3)


@given(note_lists(), st.floats(0.0, 5.0), st.sampled_from([2, 4, 8]))
def test_notes_keep_their_times_under_a_tempo_map(tmp_path_factory, notes, first, unit):
    notes = without_overlap(notes)
    beats = Beats(BEATS.times + first, beat_unit=unit)
    path = tmp_path_factory.mktemp("midi") / "notes.mid"
    path.write_bytes(midi.midi_bytes(Transcription(notes, beats=beats)))
    assert_same_notes(read_midi(path), notes, 0.0006)


def test_beats_and_downbeats_lie_where_a_sequencer_has_them():
    result = Transcription([Note(0.8, 3.4, 60)], beats=BEATS)
    file = pretty_midi.PrettyMIDI(io.BytesIO(midi.midi_bytes(result)))
    beats = [0.0, *BEATS.times[:-1]]
    assert file.get_beats() == pytest.approx(beats, abs=0.0005)
    # A bar for the silence and the upbeat, then bars of three.
    assert file.get_downbeats() == pytest.approx([0.0, 0.8, 2.33], abs=0.0005)
    assert [(c.numerator, c.time) for c in file.time_signature_changes] == [
        (2, 0.0),
        (3, pytest.approx(0.8, abs=0.0005)),
    ]
    assert file.key_signature_changes[0].key_number == 0


def test_eighths_are_beats_of_six_eight():
    beats = Beats.steady(180.0, seconds=4.0, beats_per_bar=6, beat_unit=8)
    file = load(Transcription([Note(2.0, 3.0, 62)], beats=beats))
    tempos = [m.tempo for m in file.tracks[0] if m.type == "set_tempo"]
    assert tempos == [666_667]  # of a quarter
    (metre,) = (m for m in file.tracks[0] if m.type == "time_signature")
    assert (metre.numerator, metre.denominator) == (6, 8)
    (on,) = (m for m in mido.merge_tracks(file.tracks) if m.type == "note_on")
    assert on.time == 3 * file.ticks_per_beat


def test_a_steady_tempo_is_written_once():
    beats = Beats.steady(97.3, 0.2, seconds=600.0)
    file = load(Transcription([Note(0.2, 599.0, 60)], beats=beats))
    tempos = [m.tempo for m in file.tracks[0] if m.type == "set_tempo"]
    # The silence before the first beat, and the rest.
    assert len(tempos) == 2
    assert tempos[1] == round(60e6 / 97.3)


def test_other_libraries_read_the_same_notes_and_beats(tmp_path):
    notes = [Note(0.8 + k / 3, 1.1 + k / 3, 60 + k, 80 + k) for k in range(6)]
    data = midi.midi_bytes(Transcription(notes, beats=BEATS))
    path = tmp_path / "notes.mid"
    path.write_bytes(data)
    score = symusic.Score(path, ttype="second")
    assert_same_notes(
        [
            Note(n.time, n.time + n.duration, n.pitch, n.velocity)
            for n in score.tracks[0].notes
        ],
        as_pretty_midi(data),
        0.001,
    )
    assert [(t.numerator, t.denominator) for t in score.time_signatures] == [
        (2, 4),
        (3, 4),
    ]
