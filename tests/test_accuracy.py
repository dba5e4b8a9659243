"""`benchmarks/accuracy.py`: its pieces, its counts by group, and its tables."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from benchmarks import accuracy, estimates, group_scores, held_out, note_errors
from mt3 import outputs
from mt3.errors import ConfigError
from mt3.midi import reader
from mt3.note_sequences import Note
from mt3.synthesis import soundfont


def part(program, start, pitches, step=0.2):
    return [
        Note(start + i * step, start + i * step + 0.15, pitch, 90, program)
        for i, pitch in enumerate(pitches)
    ]


def beats(count):
    return [
        Note(i * 0.5, i * 0.5 + 0.05, 36 + 2 * (i % 2), 90, 0, True)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tunes(tmp_path_factory):
    """Two short tunes: three parts and drums; the second has a part doubled."""
    folder = tmp_path_factory.mktemp("tunes")
    flute = part(73, 0.0, [72 + i % 7 for i in range(24)])
    bass = part(33, 0.1, [40 + i % 5 for i in range(22)])
    piano = part(0, 0.05, [55 + (i * 5) % 11 for i in range(21)])
    doubled = [Note(n.start_time, n.end_time, n.pitch - 12, 90, 40) for n in flute]
    for name, notes in (
        ("first", [*flute, *bass, *piano, *beats(10)]),
        ("second", [*flute, *doubled, *bass, *beats(10)]),
    ):
        outputs.write(outputs.Transcription(notes), folder / name, ["mid"])
    return folder


@pytest.fixture(scope="module")
def font():
    return soundfont.open_soundfont(soundfont.default_soundfont(), 16000)


def make(tunes, font, seconds=4.0, **options):
    return held_out.make_pieces(reader.find_midi([tunes]), font, seconds, **options)


def test_two_versions_of_each_tune(tunes, font):
    sets = make(tunes, font)
    assert list(sets) == ["all instruments", "piano"]
    first, second = sets["all instruments"]
    assert first.name == "TimGM6mb/all-instruments/first"
    assert second.samples.shape == (4 * 16000,)
    assert np.abs(first.samples).max() == pytest.approx(0.7)
    assert {n.program for n in sets["piano"][0].notes} == {0}
    assert all(n.end_time <= 4.0 for n in first.notes)
    (whole, _) = make(tunes, font, None)["all instruments"]
    assert whole.seconds == pytest.approx(4.75 + 1.0, abs=0.01)


def test_solos_and_their_sums(tunes, font):
    sets = make(tunes, font, solos=True)
    names = [piece.name for piece in sets["solos"]]
    # The doubled part of the second tune is not one of the three that it would give.
    assert names == [
        "TimGM6mb/solos/piano-1-first",
        "TimGM6mb/solos/guitar-1-first",
        "TimGM6mb/solos/bass-1-second",
        "TimGM6mb/solos/strings-1-second",
    ]
    for piece in sets["solos"]:
        (program,) = {n.program for n in piece.notes}
        assert held_out.group_of(program) == piece.group
        assert not any(n.is_drum for n in piece.notes)
    sums = sets["sums"]
    assert [piece.name for piece in sums] == [
        "TimGM6mb/sums/first",
        "TimGM6mb/sums/second",
    ]
    assert {(n.program, n.is_drum) for n in sums[0].notes} == {
        (0, False),
        (25, False),
        (0, True),
    }
    pitched = sorted(n for n in sums[0].notes if not n.is_drum)
    assert pitched == sorted(n for p in sets["solos"][:2] for n in p.notes)


def test_rendering_does_not_depend_on_what_was_rendered_before(tunes, font):
    again = soundfont.SoundFont(soundfont.default_soundfont(), 16000)
    pieces = [p for s in make(tunes, font, solos=True).values() for p in s]
    others = [p for s in make(tunes, again, solos=True).values() for p in s]
    backwards = [p.samples for p in reversed(others)]
    for piece, samples in zip(pieces, reversed(backwards), strict=True):
        np.testing.assert_array_equal(piece.samples, samples)


def test_every_program_has_a_group():
    assert held_out.group_of(0, True) == "drums"
    groups = {held_out.group_of(program) for program in range(128)}
    assert groups == set(held_out.GROUPS) - {"drums"}
    for group, programs in held_out.SOLOISTS.items():
        assert {held_out.group_of(program) for program in programs} == {group}
        assert len(programs) == len(held_out.SOLOISTS["piano"])


def test_groups_are_counted_blind_and_by_instrument():
    reference = [
        Note(0, 1, 60, program=0),
        Note(0, 1, 60, program=25),
        Note(1, 2, 64, program=25),
        Note(2, 3, 40, program=33),
        Note(0, 0.1, 36, is_drum=True),
        Note(1, 1.1, 38, is_drum=True),
    ]
    estimate = [
        Note(0.02, 0.5, 60, program=0),
        Note(1.2, 2, 64, program=25),  # Too late.
        Note(2, 3, 40, program=73),  # Another instrument.
        Note(0, 0.1, 36, program=8, is_drum=True),
    ]
    counts = group_scores.count_groups(reference, estimate)
    Counts = group_scores.GroupCounts
    assert counts == {
        "piano": Counts(1, 1, 1, 1),
        "guitar": Counts(2, 1, 1, 0),
        "bass": Counts(1, 0, 1, 0),
        "winds": Counts(0, 1, 0, 0),
        "drums": Counts(2, 1, 1, 1),
    }
    assert counts["guitar"].scores() == {
        "found": 0.5,
        "precision": 0.0,
        "recall": 0.0,
        "F1": 0.0,
    }
    assert counts["drums"].scores()["F1"] == pytest.approx(2 / 3)
    assert np.isnan(counts["winds"].scores()["recall"])
    assert np.isnan(counts["bass"].scores()["precision"])
    total = group_scores.add_up([counts, counts])
    assert total["guitar"] == Counts(4, 2, 2, 0)
    assert list(total) == ["piano", "guitar", "bass", "winds", "drums"]


def test_polyphony_counts_what_sounds_at_each_onset():
    reference = [
        Note(0, 10, 40),  # 1
        Note(1, 2, 50),  # 2
        Note(1.5, 2, 51),  # 3, with the next one
        Note(1.5, 2, 52),
        Note(2, 3, 53),  # 2: the others have just ended.
        Note(2, 3, 36, is_drum=True),
    ]
    counts = group_scores.count_polyphony(reference, reference[1:3])
    Found = group_scores.FoundCounts
    expected = [Found(1, 0), Found(2, 1), Found(2, 1), Found(0, 0), Found(0, 0)]
    assert list(counts.values()) == expected


def test_a_solo_is_named_by_most_of_its_notes():
    from mt3.scoring import instruments

    def scores(*estimated):
        reference = [Note(i, i + 1, 60, program=40) for i in range(3)]
        found = [
            Note(i, i + 1, 60, program=p, is_drum=drum)
            for i, (p, drum) in enumerate(estimated)
        ]
        classes = instruments.count_instruments(reference, found).classes
        return list(group_scores.solo_scores(classes).values())

    violin, cello, flute, drums = (40, False), (42, False), (73, False), (0, True)
    assert scores(violin, cello) == [1.0, 1.0]
    assert scores(violin, violin, flute) == [1.0, 0.0]
    assert scores(violin, flute, flute) == [0.0, 0.0]
    assert scores(violin, drums, drums) == [0.0, 0.0]
    assert scores(flute) == [0.0, 1.0]
    assert scores() == [0.0, 0.0]


def test_errors_of_matched_notes():
    def song(late, program, velocities, is_drum=False):
        return [
            Note(i + late, i + late + 0.5, 60, velocity, program, is_drum)
            for i, velocity in enumerate(velocities)
        ]

    rising = range(20, 120, 5)
    reference = song(0, 0, rising) + song(0.5, 40, rising) + song(0, 0, rising, True)
    reference += song(0.25, 60, [90] * 20)
    estimate = song(0.01, 0, [v + 3 for v in rising])
    estimate += song(0.47, 80, [140 - v for v in rising]) + song(0.25, 7, [90] * 20)
    estimate += song(-0.08, 0, [64] * 20, True) + [Note(100, 101, 60)]
    errors = note_errors.note_errors(reference, estimate)
    assert list(errors) == list(note_errors.NAMES)
    assert errors["Onset error, mean (ms)"] == pytest.approx((10 - 30 + 0) / 3)
    assert errors["Onset error, median (ms)"] == pytest.approx(10)
    assert errors["Onset error, 95 % (ms)"] == pytest.approx(30)
    reversed_by = np.mean(np.abs([140 - 2 * v for v in rising]))
    assert errors["Velocity error"] == pytest.approx((3 + reversed_by + 0) / 3)
    # Of 60, all have one velocity: it has no ranks.
    assert errors["Velocity rank correlation"] == pytest.approx((1 - 1) / 2)
    assert errors["Drums: Onset error, mean (ms)"] == pytest.approx(-80)
    assert errors["Drums: Velocity rank correlation"] == 0.0
    nothing = note_errors.note_errors(reference, [])
    assert np.isnan(list(nothing.values())).all()


def test_options_are_read_by_name():
    read = estimates.parse_options
    assert read(["decode=greedy", "grammar=false", "min-duration=0.05"]) == {
        "decode": "greedy",
        "grammar": False,
        "min_duration": 0.05,
    }
    assert read(["programs=(0, 1)", "max_length=none"]) == {
        "programs": (0, 1),
        "max_length": None,
    }
    with pytest.raises(ConfigError, match="Did you mean grammar"):
        read(["gramar=false"])
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        read(["grammar"])


def test_columns_are_told_apart():
    columns = estimates.make_columns(
        ["default", "new=a/b.safetensors"],
        ["x/basic"],
        {"decode": "greedy"},
    )
    assert [(c.label, c.source, c.is_model) for c in columns] == [
        ("default", "default", True),
        ("new", "a/b.safetensors", True),
        ("basic", "x/basic", False),
    ]
    choices = estimates.make_columns(
        ["default"], [], {"decode": "greedy"}, ["grammar=true,merge_gap=0.1"]
    )
    assert [c.label for c in choices] == ["default", "grammar=true,merge_gap=0.1"]
    assert choices[1].options == {"decode": "greedy", "grammar": True, "merge_gap": 0.1}
    with pytest.raises(ConfigError, match="two columns are called 'a'"):
        estimates.make_columns(["a", "a=b"], [], {})


def run(tunes, *arguments):
    return accuracy.main(
        [
            "--midi",
            str(tunes),
            "--soundfont",
            str(soundfont.default_soundfont()),
            "--seconds",
            "3",
            *map(str, arguments),
        ]
    )


def test_the_references_score_perfectly(tunes, tmp_path, capsys):
    audio = tmp_path / "audio"
    assert run(tunes, "--solos", "--write-audio", audio) == 0
    assert capsys.readouterr().out == ""
    names = sorted(str(p.relative_to(audio)) for p in audio.rglob("*.wav"))
    assert len(names) == 2 + 2 + 4 + 2
    samples, rate = soundfile.read(audio / names[0], dtype="float32")
    assert rate == 16000
    assert samples.shape == (3 * 16000,)
    assert reader.read_midi((audio / names[0]).with_suffix(".mid"))
    path = tmp_path / "scores.json"
    code = run(tunes, "--solos", "--estimates", f"truth={audio}", "--json", path)
    assert code == 0
    record = json.loads(path.read_text())
    summaries = record["summaries"]["TimGM6mb"]["truth"]
    for kind, summary in summaries.items():
        assert summary["scores"]["Onset F1"] == 1.0, kind
        assert summary["scores"]["Instrument leakage (midi_class)"] == 1.0
        for counts in summary["groups"].values():
            assert counts["found"] == counts["recall"] == counts["F1"] == 1.0
        # MIDI has ticks.
        assert summary["scores"]["Onset error, 95 % (ms)"] < 1.0
        assert summary["scores"]["Velocity error"] == 0.0
    bass = summaries["solos"]["solos"]["bass"]
    assert bass["Group F1"] == bass["Right class"] == bass["One instrument"] == 1.0
    assert len(record["pieces"]["TimGM6mb"]["truth"]["solos"]) == 4
    table = capsys.readouterr().out
    assert "TimGM6mb, first 3 s" in table
    assert "solos: onset F1, by group" in table


def test_missing_and_longer_estimates_are_named(tunes, tmp_path, capsys):
    assert run(tunes, "--estimates", tmp_path) == 1
    assert "all-instruments/first.mid" in capsys.readouterr().err
    run(tunes, "--write-audio", tmp_path, "--seconds", "whole")
    assert run(tunes, "--estimates", tmp_path, "--seconds", "2") == 1
    assert "expected the transcription of 2 s" in capsys.readouterr().err
    assert run(tunes, "--option", "nonsense=1") == 1
    assert run(tunes, "--files", "0") == 1


def test_soundfonts_and_recordings_have_tables_of_their_own(tunes, tmp_path, capsys):
    first, other = tmp_path / "first", tmp_path / "Other.sf2"
    run(tunes, "--write-audio", first)
    recordings = tmp_path / "recordings"
    shutil.copytree(first / "TimGM6mb" / "piano", recordings / "concerts")
    (recordings / "concerts" / "first.mid").rename(recordings / "first.midi")
    (recordings / "concerts" / "first.wav").rename(recordings / "first.wav")
    other.symlink_to(soundfont.default_soundfont())
    arguments = ["--soundfont", other, "--recordings", recordings, "--seconds", "2"]
    audio, path = tmp_path / "audio", tmp_path / "scores.json"
    assert run(tunes, *arguments, "--write-audio", audio) == 0
    cut, _ = soundfile.read(audio / "recordings" / "first.wav", dtype="float32")
    whole, _ = soundfile.read(recordings / "first.wav", dtype="float32")
    np.testing.assert_array_equal(cut, whole[: 2 * 16000])
    estimates = ["--estimates", f"truth={audio}", "--json", path]
    assert run(tunes, *arguments, *estimates) == 0
    summaries = json.loads(path.read_text())["summaries"]
    rendered = ["all instruments", "piano"]
    assert {source: list(found["truth"]) for source, found in summaries.items()} == {
        "TimGM6mb": rendered,
        "Other": rendered,
        "recordings": ["concerts", "recordings"],
    }
    for found in summaries.values():
        for summary in found["truth"].values():
            assert summary["scores"]["Onset F1"] == 1.0
    assert "recordings, first 2 s\n\nconcerts: mean over 1" in capsys.readouterr().out
    (recordings / "first.midi").unlink()
    assert run(tunes, *arguments) == 1
    assert "first.wav: accuracy: has no notes" in capsys.readouterr().err
    assert run(tunes, "--soundfont", soundfont.default_soundfont()) == 1
    assert accuracy.main(["--midi", str(tunes)]) == 1
    assert accuracy.main([]) == 1


def test_tables_are_the_same_to_the_digit(tunes, tiny_weights, tmp_path, capsys):
    outcomes = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        arguments = ["--model", f"tiny={tiny_weights}", "--option", "grammar=true"]
        assert run(tunes, *arguments, "--json", path) == 0
        printed = capsys.readouterr()
        assert "times real time" in printed.err
        assert "times real time" not in printed.out
        outcomes.append((printed.out, path.read_bytes()))
    assert outcomes[0] == outcomes[1]
    assert "all instruments: mean over 2 pieces\n" in outcomes[0][0]


def test_choices_are_rows_and_mend_as_the_model_does(
    tunes, tiny_weights, font, tmp_path, capsys
):
    path = tmp_path / "scores.json"
    arguments = [
        *("--model", f"tiny={tiny_weights}"),
        *("--option", "grammar=true"),
        *("--compare", "grammar=true", "min_duration=0.1", "--json", path),
    ]
    assert run(tunes, *arguments) == 0
    printed = capsys.readouterr()
    # One pass over each of the two sets: the choices differ in nothing before that.
    assert printed.err.count("times real time") == 2
    rows = [line.split()[0] for line in printed.out.splitlines() if " 0." in line]
    assert rows[:3] == ["tiny", "grammar=true", "min_duration=0.1"]
    pieces = json.loads(path.read_text())["pieces"]["TimGM6mb"]
    assert pieces["tiny"] == pieces["grammar=true"]
    count = pieces["min_duration=0.1"]["piano"][0]["estimated_notes"]
    assert 0 < count < pieces["tiny"]["piano"][0]["estimated_notes"]
    from mt3 import inference
    from mt3.beyond import cleanup

    model = inference.InferenceModel(
        tiny_weights,
        inference.TranscribeOptions(
            grammar=True, cleanup=cleanup.CleanupOptions(min_duration=0.1)
        ),
    )
    assert len(model(make(tunes, font, 3.0)["piano"][0].samples)) == count
