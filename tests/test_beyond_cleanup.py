"""Clean-up of finished transcriptions; streaming is unchanged."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st

from mt3 import checkpoints, cli, inference
from mt3.beyond import cleanup
from mt3.beyond.cleanup import CleanupOptions, clean_up
from mt3.errors import ConfigError
from mt3.inference import FileResult, InferenceModel, SegmentNotes, TranscribeOptions
from mt3.note_sequences import Note
from tests.support import tiny_model

SEGMENT = 2.048


def cleaned(notes, **options):
    return clean_up(notes, CleanupOptions(**options), segment_seconds=SEGMENT)


def test_nothing_is_the_default():
    notes = [Note(0.0, 0.01, 60), Note(0.0, 0.01, 36, is_drum=True)]
    assert not CleanupOptions()
    assert not TranscribeOptions().cleanup
    assert cleaned(notes) == sorted(notes, key=lambda n: n.is_drum)
    assert cleaned([], min_duration=0.1, merge_gap=0.1, instrument_flicker=0.1) == []
    assert cleaned([], min_duration=0.1, short_notes="lengthen") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_duration": -0.1}, "min_duration is -0.1"),
        ({"min_duration": np.nan}, "min_duration is nan"),
        ({"merge_gap": "much"}, "merge_gap is 'much'"),
        ({"instrument_flicker": 1.0}, "instrument_flicker is 1.0; expected a share"),
        ({"short_notes": "hide"}, "short_notes is 'hide'; expected 'drop' or"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        CleanupOptions(**options)


def test_an_unknown_option_of_a_model_is_named():
    with pytest.raises(ConfigError, match="'min_durations'. Did you mean min_dur"):
        CleanupOptions.from_dict({"min_durations": 0.1})


def test_short_notes_are_dropped_and_drums_kept():
    short, exact, drum = Note(1, 1.04, 60), Note(1, 1.05, 62), Note(1, 1.01, 36)
    drum = dataclasses.replace(drum, is_drum=True)
    # 0.35 - 0.3 is a little less than 0.05.
    rounded = Note(0.3, 0.35, 64)
    found = cleaned([short, exact, drum, rounded], min_duration=0.05)
    assert found == [rounded, exact, drum]


def test_short_notes_are_lengthened_up_to_the_next():
    notes = [
        Note(1.0, 1.01, 60),
        Note(1.06, 2.0, 60),
        Note(1.0, 1.01, 60, program=40),
        Note(3.0, 3.5, 60),
    ]
    found = cleaned(notes, min_duration=0.1, short_notes="lengthen")
    assert [round(n.end_time, 6) for n in found] == [1.06, 1.1, 2.0, 3.5]


def test_cut_notes_are_joined_at_boundaries_only():
    notes = [
        Note(1.0, 2.04, 60, velocity=90),  # Cut twice: at 2.048 and 4.096.
        Note(2.05, 4.09, 60, velocity=80),
        Note(4.1, 5.0, 60, velocity=70),
        Note(1.0, 3.0, 62),  # Struck again in the middle of a segment.
        Note(3.02, 4.0, 62),
        Note(1.0, 1.9, 64),  # Too wide a gap.
        Note(2.05, 3.0, 64),
        Note(1.0, 2.04, 65),  # Another program.
        Note(2.05, 3.0, 65, program=8),
    ]
    found = cleaned(notes, merge_gap=0.1)
    assert len(found) == 7
    assert Note(1.0, 5.0, 60, velocity=90) in found
    assert sorted(n for n in found if n.pitch != 60) == sorted(notes[3:])


def test_confidence_is_kept():
    known, unknown = Note(0.0, 2.03, 60, confidence=0.75), Note(1.0, 2.0, 72)
    rest = Note(2.05, 3.0, 60, confidence=0.1)
    joined, alone = cleaned([known, rest, unknown], merge_gap=0.1, min_duration=0.1)
    assert (joined.end_time, joined.confidence) == (3.0, 0.75)
    assert alone.confidence is None


def test_the_beginning_of_a_recording_is_no_cut():
    notes = [Note(0.0, 0.01, 60), Note(0.02, 0.5, 60)]
    assert cleaned(notes, merge_gap=0.1) == notes


def test_pieces_of_a_cut_note_are_joined_before_short_ones_are_dropped():
    notes = [Note(2.02, 2.04, 60), Note(2.05, 2.08, 60)]
    assert cleaned(notes, min_duration=0.05) == []
    joined = cleaned(notes, min_duration=0.05, merge_gap=0.05)
    assert joined == [Note(2.02, 2.08, 60)]


def melody(program, start, count, pitch=60, length=0.5):
    return [
        Note(start + i * 0.5, start + i * 0.5 + length, pitch + i % 12, program=program)
        for i in range(count)
    ]


def test_rare_programs_go_to_what_plays_around_them():
    # Violins play first, then the ensemble; both are beside the cello's family.
    notes = [*melody(40, 0, 40), *melody(48, 20, 40, pitch=72)]
    early, late = Note(5.1, 5.4, 50, program=42), Note(30.1, 30.4, 50, program=42)
    found = cleaned([*notes, early, late], instrument_flicker=0.05)
    assert dataclasses.replace(early, program=40) in found
    assert dataclasses.replace(late, program=48) in found
    assert len(found) == 82


def test_rare_programs_stay_without_a_relative():
    notes = [*melody(0, 0, 60), Note(5.1, 5.4, 90, program=73)]
    assert cleaned(notes, instrument_flicker=0.05) == sorted(notes)


def test_programs_that_sound_long_are_not_rare():
    pad = Note(0.0, 30.0, 40, program=48)
    notes = [*melody(40, 0, 60), pad]
    assert pad in cleaned(notes, instrument_flicker=0.05)


def test_handing_on_makes_no_two_notes_of_one_pitch():
    notes = melody(40, 0, 60, length=0.4)
    twin = Note(10.02, 10.5, notes[20].pitch, program=42)
    held = Note(10.3, 10.6, notes[20].pitch, program=43)
    found = cleaned([*notes, twin, held], instrument_flicker=0.05)
    same = [n for n in found if n.pitch == twin.pitch and 9.9 < n.start_time < 11]
    assert [(n.start_time, n.end_time, n.program) for n in same] == [
        (10.0, 10.3, 40),
        (10.3, 10.6, 40),
    ]


NOTES = st.lists(
    st.builds(
        lambda start, length, pitch, program, drum: Note(
            start / 100, (start + length) / 100, pitch, 100, program, drum
        ),
        st.integers(0, 1000),
        st.integers(1, 300),
        st.integers(58, 62),
        st.sampled_from([0, 8, 16, 40, 48]),
        st.booleans(),
    ),
    max_size=40,
)


@hypothesis.given(NOTES, st.sampled_from(cleanup.SHORT_NOTES), st.booleans())
def test_cleaning_keeps_drums_and_makes_no_notes(notes, short_notes, reverse):
    options = {
        "min_duration": 0.1,
        "short_notes": short_notes,
        "merge_gap": 0.2,
        "instrument_flicker": 0.2,
    }
    found = cleaned(notes[::-1] if reverse else notes, **options)
    assert sorted(n for n in found if n.is_drum) == sorted(
        n for n in notes if n.is_drum
    )
    assert len(found) <= len(notes)
    assert {n.program for n in found} <= {n.program for n in notes}
    assert all(n.end_time > n.start_time for n in found)
    if short_notes == "drop":
        assert all(n.is_drum or n.end_time - n.start_time > 0.099 for n in found)


@pytest.fixture
def noise(rng):
    return (0.1 * rng.normal(size=3 * 16000)).astype(np.float32)


def test_whole_results_are_cleaned_and_segments_are_not(tiny_weights, noise):
    raw = InferenceModel(tiny_weights, TranscribeOptions(grammar=True))
    plain = raw(noise)
    long = [n for n in plain if n.is_drum or n.end_time - n.start_time >= 0.1]
    assert 0 < len(long) < len(plain)
    model = InferenceModel(
        tiny_weights,
        TranscribeOptions(grammar=True, cleanup=CleanupOptions(min_duration=0.1)),
    )
    segments, results = [], []
    for item in model.run([noise]):
        (segments if isinstance(item, SegmentNotes) else results).append(item)
    assert sorted(n for s in segments for n in s.notes) == sorted(plain)
    (result,) = results
    assert isinstance(result, FileResult)
    assert sorted(result.transcription.notes) == sorted(long)
    assert result.transcription.settings["cleanup"]["min_duration"] == 0.1
    assert "cleanup" not in raw.transcribe(noise).settings


def test_streaming_with_a_cleanup_is_refused(tiny_weights, noise):
    model = InferenceModel(
        tiny_weights, TranscribeOptions(cleanup=CleanupOptions(merge_gap=0.1))
    )
    with pytest.raises(ConfigError, match="merge_gap=0.1.* needs all notes"):
        next(model.iter_notes(noise))


def test_a_model_brings_its_own_cleanup(tiny_weights, tmp_path, noise):
    loaded = checkpoints.load(tiny_weights)
    path = tmp_path / "own.safetensors"
    info = {**loaded.info, "grammar": True, "cleanup": {"min_duration": 0.1}}
    checkpoints.save_safetensors(path, loaded.params, tiny_model.CONFIG, info=info)
    model = InferenceModel(path)
    assert model.resolved.cleanup == CleanupOptions(min_duration=0.1)
    off = InferenceModel(path, TranscribeOptions(cleanup=CleanupOptions()))
    assert len(model(noise)) < len(off(noise))
    # Not asked for, so streaming is not refused: it yields what the model wrote.
    streamed = [n for segment in model.iter_notes(noise) for n in segment.notes]
    assert sorted(streamed) == sorted(off(noise))
    faithful = TranscribeOptions(num_slots=2, decode="greedy").faithful()
    assert faithful == TranscribeOptions(
        decode="beam1",
        grammar=False,
        details=False,
        num_slots=2,
        cleanup=CleanupOptions(),
        beats="off",
    )
    assert not InferenceModel(path, faithful).resolved.grammar


def transcribe(*arguments, weights):
    return cli.main(["transcribe", *map(str, arguments), "--model", str(weights), "-q"])


def test_the_command_line_cleans_files(tiny_weights, noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    options = ["--grammar", "--format", "json,jsonl", "--min-duration", 0.1]
    assert (
        transcribe(
            tmp_path / "a.wav", "-o", tmp_path / "out", *options, weights=tiny_weights
        )
        == 0
    )
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["settings"]["cleanup"]["short_notes"] == "drop"
    assert record["notes"]
    for note in record["notes"]:
        assert note["is_drum"] or note["end_time"] - note["start_time"] > 0.099
    lines = (tmp_path / "out" / "a.jsonl").read_text().splitlines()
    assert len(lines) == len(record["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "-", "--format", "jsonl", "--merge-gap", "0.1"], "streamed"),
        (["--short-notes", "drop"], "expected --min-duration"),
        (["--min-duration", "-1"], "min_duration is -1.0"),
        (["--faithful", "--grammar"], "combined with --grammar, which"),
        (["--faithful", "--merge-gap", "0.1"], "combined with a clean-up"),
        (["--faithful", "--sensitivity", "0.6"], "combined with --sensitivity"),
        (["--faithful", "--decode", "frames"], "combined with --decode"),
    ],
)
def test_the_command_line_refuses_contradictions(options, message, tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"not read")
    assert transcribe(tmp_path / "a.wav", *options, weights="no model") == 1
    assert message in capsys.readouterr().err


def test_faithful_is_one_option(tiny_weights, noise, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    asked = []
    original = inference.InferenceModel.__init__

    def init(self, model, options, **kwargs):
        asked.append(options)
        original(self, model, options, **kwargs)

    monkeypatch.setattr(inference.InferenceModel, "__init__", init)
    transcribe(tmp_path / "a.wav", "--faithful", weights=tiny_weights)
    assert asked == [TranscribeOptions().faithful()]
