"""The public archives, as tiny look-alikes: splits, records, labels, read by tasks."""

from __future__ import annotations

import io
import json

import note_seq
import numpy as np
import pytest
import soundfile

from mt3 import datasets
from mt3.data import adapters, records
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import Note
from mt3.prepare import items, recordings, running, sequences
from mt3.prepare.archives import read_table
from mt3.prepare.guitarset import GuitarSet
from mt3.prepare.maestro import Maestro
from mt3.prepare.musicnet import TEST_IDS, VALIDATION_IDS, MusicNet, split_of
from mt3.prepare.slakh import Slakh
from mt3.prepare.urmp import Urmp
from tests.support import lookalike_archives as archives
from tests.support import record_files

SETTINGS = items.Settings()
RATE = 16000


def prepare(archive, root, **options):
    """Prepares, and makes sure that nothing was skipped by mistake."""
    report = running.prepare(
        archive,
        root,
        source="look-alike",
        options=running.Options(**options),
    )
    assert report.exit_code == 0, report.table()
    return report


def read(root, name, split):
    """Returns the parsed records of a split, with every feature."""
    config = datasets.available(root)[name]
    every = {
        key: datasets.FeatureSpec(spec.dtype, spec.repeated)
        for key, spec in config.features.items()
    }
    found = []
    for path in datasets.files(config, split, str(root)):
        for index, payload in enumerate(record_files.read_records(path)):
            place = f"{path}#{index}"
            parsed = records.parse(payload, every, place)
            found.append({k: v.numpy() for k, v in parsed.items()} | {"record": place})
    return found


def songs(root, name, split, *, training=False):
    """Returns a split's songs as the tasks get them, by id."""
    config = datasets.available(root)[name]
    adapter = adapters.of(config)
    made = [
        adapter(record, sample_rate=RATE, training=training)
        for record in read(root, name, split)
    ]
    return {song.id: song for song in made}


def close(notes, expected):
    """Whether notes are (onset, offset, pitch) up to MIDI's ticks."""
    found = sorted((n.start_time, n.end_time, n.pitch) for n in notes)
    return np.allclose(found, sorted(expected), atol=2e-3)


def sounds_like(song, notes):
    """Whether audio is what the look-alike rendered of notes."""
    truth = archives.sines(notes, rate=RATE)
    return (
        song.samples.shape == truth.shape
        and np.abs(song.samples - truth).mean() < 5e-3 < np.abs(truth).mean()
    )


@pytest.mark.parametrize(
    ("version", "name"), [("1.0.0", "maestrov1"), ("3.0.0", "maestrov3")]
)
def test_maestro(tmp_path, version, name):
    source = archives.maestro(tmp_path, version=version)
    prepare(Maestro.open(source, SETTINGS), tmp_path)
    found = songs(tmp_path, name, "train")
    prefix = "2018/MIDI-Unprocessed_train_"
    assert sorted(found) == [f"{prefix}{number}" for number in range(3)]
    song = found[f"{prefix}1"]
    assert sounds_like(song, archives.part(1))
    # The pedal is in the record, and lengthens what it holds when read.
    record = read(tmp_path, name, "train")[0]
    sequence = note_seq.NoteSequence.FromString(record["sequence"])
    controls = [(c.control_number, c.control_value) for c in sequence.control_changes]
    assert controls == [(64, 127), (64, 0)]
    first, *others = archives.part(1)
    assert close(song.notes, [(first[0], 0.9, first[2]), *others])
    assert len(read(tmp_path, name, "validation")) == 1


def test_maestro_finds_its_folder_one_level_up(tmp_path):
    archives.maestro(tmp_path)
    assert Maestro.open(tmp_path, SETTINGS).root == tmp_path / "maestro-v3.0.0"


def test_maestro_of_a_version_without_tasks(tmp_path):
    source = archives.maestro(tmp_path, version="2.0.0")
    with pytest.raises(DataError, match=r"maestro-v2.0.0.csv: .* version 1 or 3"):
        Maestro.open(source, SETTINGS)


def test_maestro_missing_and_repeated_songs(tmp_path):
    source = archives.maestro(tmp_path)
    table = source / "maestro-v3.0.0.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n")
    (source / "2018/MIDI-Unprocessed_train_2.wav").unlink()
    listing = Maestro.open(source, SETTINGS).listing()
    assert len(listing.splits["train"]) == 2
    missing, repeated = listing.problems
    assert "no such file" in missing.reason
    assert missing.id == "2018/MIDI-Unprocessed_train_2"
    assert (
        repeated.reason.endswith("train_0.midi") or "has the id of" in repeated.reason
    )
    assert all(problem.is_error for problem in listing.problems)


def test_guitarset(tmp_path):
    source = archives.guitarset(tmp_path)
    prepare(GuitarSet.open(source, SETTINGS), tmp_path)
    train = songs(tmp_path, "guitarset", "train")
    assert sorted(train) == [
        "00_BN1-129-Eb_comp_mic",
        "00_BN1-129-Eb_comp_mix",
        "01_Rock2-85-F_solo_mic",
        "01_Rock2-85-F_solo_mix",
    ]
    # Progression 3 of each style is for validation.
    validation = songs(tmp_path, "guitarset", "validation")
    assert sorted(validation) == ["02_Jazz3-150-C_comp_mic", "02_Jazz3-150-C_comp_mix"]
    song = train["01_Rock2-85-F_solo_mic"]
    assert close(song.notes, archives.part(1))
    assert sounds_like(song, archives.part(1))
    assert {note.program for note in song.notes} == {24}
    record = read(tmp_path, "guitarset", "train")[0]
    velocities = note_seq.protobuf.music_pb2.VelocityRange.FromString(
        record["velocity_range"]
    )
    assert velocities.min == velocities.max == 100


def test_guitarset_with_one_kind_of_recordings(tmp_path):
    source = archives.guitarset(tmp_path)
    report = prepare(GuitarSet.open(source, SETTINGS, recordings=["mix"]), tmp_path)
    assert [split.num_records for split in report.splits] == [2, 1]
    assert all(song.endswith("_mix") for song in songs(tmp_path, "guitarset", "train"))


def test_guitarset_without_audio(tmp_path):
    source = archives.guitarset(tmp_path, recordings=())
    with pytest.raises(DataError, match=r"audio_mono-mic or .*; found annotation/"):
        GuitarSet.open(source, SETTINGS)
    with pytest.raises(ConfigError, match="no recording hex; there are mic, mix"):
        GuitarSet.open(source, SETTINGS, recordings=["hex"])


def test_urmp(tmp_path):
    prepare(Urmp.open(archives.urmp(tmp_path), SETTINGS), tmp_path)
    assert list(songs(tmp_path, "urmp", "validation")) == ["01_Jupiter_vn_vc"]
    train = songs(tmp_path, "urmp", "train")
    song = train["04_Allegro_fl_fl_hn"]
    by_program = {73: [*archives.part(0), *archives.part(1)], 60: archives.part(2)}
    for program, expected in by_program.items():
        assert close([n for n in song.notes if n.program == program], expected)
    assert sounds_like(song, [n for i in range(3) for n in archives.part(i)])
    record = read(tmp_path, "urmp", "train")[-1]
    assert record["tracks"].tolist() == [1, 2, 3]
    assert record["inst_names"].tolist() == [b"fl", b"fl", b"hn"]
    # The sequence of all parts tells the two flutes apart.
    sequence = note_seq.NoteSequence.FromString(record["sequence"])
    parts = {(note.instrument, note.program) for note in sequence.notes}
    assert parts == {(0, 73), (1, 73), (2, 60)}


def test_musicnet(tmp_path):
    source = archives.musicnet(tmp_path)
    prepare(MusicNet.open(source, SETTINGS), tmp_path)
    # The splits of the paper, not the archive's folders.
    assert sorted(songs(tmp_path, "musicnet", "train")) == ["1727", "2303"]
    assert sorted(songs(tmp_path, "musicnet", "validation")) == ["2336"]
    found = songs(tmp_path, "musicnet", "test")
    assert sorted(found) == ["2118"]
    song = found["2118"]
    assert sounds_like(song, [*archives.part(0), *archives.part(1)])
    for program, expected in ((0, archives.part(0)), (40, archives.part(1))):
        assert close([n for n in song.notes if n.program == program], expected)
    record = read(tmp_path, "musicnet", "test")[0]
    assert record["sample_rate"] == RATE
    assert record["audio"].dtype == np.float32


def test_musicnet_splits_are_the_papers():
    assert len(TEST_IDS) == len(VALIDATION_IDS) == 15
    assert not TEST_IDS & VALIDATION_IDS
    assert [split_of(n) for n in ("2507", "2504", "1727")] == [
        "test",
        "validation",
        "train",
    ]


def test_musicnet_em(tmp_path):
    source = archives.musicnet(tmp_path, em=("1727", "2118"))
    report = prepare(MusicNet.open_em(source, SETTINGS), tmp_path)
    found = songs(tmp_path, "musicnet_em", "train") | songs(
        tmp_path, "musicnet_em", "test"
    )
    assert sorted(found) == ["1727", "2118"]
    assert close(found["2118"].notes, archives.part(0))
    assert {note.program for note in found["2118"].notes} == {42}
    # Recordings without labels are no error, but are told.
    left_out = {(p.id, p.is_error) for p in report.all_problems}
    assert left_out == {("2303", False), ("2336", False)}


def test_musicnet_em_labels_elsewhere(tmp_path):
    source = archives.musicnet(tmp_path)
    with pytest.raises(DataError, match=r"MusicNetEM's labels: .*--labels"):
        MusicNet.open_em(source, SETTINGS)
    archives.write_midi(tmp_path / "em" / "solo" / "1727_em.mid", archives.part(3))
    archive = MusicNet.open_em(source, SETTINGS, labels=tmp_path / "em")
    assert [item.id for item in archive.listing().splits["train"]] == ["1727"]


def test_slakh_validation_has_whole_songs(tmp_path):
    source = archives.slakh(tmp_path)
    report = prepare(Slakh.open(source, SETTINGS), tmp_path, splits=("validation",))
    (record,) = read(tmp_path, "slakh", "validation")
    assert record["track_id"] == b"Track01501"
    assert record["src_ids"].tolist() == [b"S%02d" % number for number in range(6)]
    assert record["inst_names"].tolist() == [
        b"Acoustic Piano",
        b"Electric Bass",
        b"Clean Electric Guitar",
        b"Drums",
        b"Distorted Electric Guitar",
        b"String Ensemble",
    ]
    assert record["program_num"].tolist() == [1, 34, 27, 128, 30, 44]
    assert record["midi_class"].tolist() == [0, 4, 3, 16, 3, 5]
    (song,) = songs(tmp_path, "slakh", "validation").values()
    # S06 has no class: neither its notes nor its sound are there, and a remark says so.
    parts = {0: 0, 33: 1, 26: 2, 29: 4, 48: 5}
    pitched = [note for note in song.notes if not note.is_drum]
    assert {note.program for note in pitched} == set(parts)
    for program, number in parts.items():
        notes = [note for note in pitched if note.program == program]
        assert close(notes, archives.part(number))
    drums = [note for note in song.notes if note.is_drum]
    assert [note.pitch for note in drums] == [36, 38, 42]
    heard = [n for number in parts.values() for n in archives.part(number)]
    assert sounds_like(song, [*heard, *archives.DRUM_NOTES])
    (split,) = report.splits
    assert split.states[0].remarks == {
        "Track01501": ("left out: stems S06 (no class)",)
    }


def test_slakh_uses_the_mix_where_all_stems_are_used(tmp_path):
    source = archives.slakh(tmp_path, stems=("S00", "S01", "S02", "S03", "S07"))
    for folder in (source / "validation").glob("Track*"):
        samples = archives.sines([(0.2, 1.9, 90)])
        archives.write_audio(folder / "mix.flac", samples)
    prepare(Slakh.open(source, SETTINGS), tmp_path, splits=("validation",))
    (song,) = songs(tmp_path, "slakh", "validation").values()
    assert sounds_like(song, [(0.2, 1.9, 90)])


def test_slakh_train_has_subsets(tmp_path):
    source = archives.slakh(tmp_path)
    prepare(Slakh.open(source, SETTINGS), tmp_path, splits=("train",))
    found = read(tmp_path, "slakh", "train")
    assert len(found) == 2 * 10
    by_song = {}
    for record in found:
        song = record["track_id"].decode().split("_")[0]
        by_song.setdefault(song, []).append(tuple(record["src_ids"].tolist()))
        assert len(record["note_sequences"]) == len(record["inst_names"])
    assert sorted(by_song) == ["Track00001", "Track00002"]
    sizes = {len(chosen) for chosen in by_song["Track00001"]}
    assert sizes == {4, 5, 6}
    assert by_song["Track00001"] != by_song["Track00002"]
    # The same again, whatever else is prepared; other with another seed.
    again, other = tmp_path / "again", tmp_path / "other"
    archive = Slakh.open(source, SETTINGS)
    prepare(archive, again, splits=("train",), limit=1, num_shards=1)
    chosen = [tuple(r["src_ids"].tolist()) for r in read(again, "slakh", "train")]
    assert chosen == by_song["Track00001"]
    seeded = items.Settings(seed=1)
    archive = Slakh.open(source, seeded)
    prepare(archive, other, splits=("train",), limit=1)
    changed = [tuple(r["src_ids"].tolist()) for r in read(other, "slakh", "train")]
    assert changed != chosen


def test_a_subset_sounds_as_its_stems(tmp_path):
    source = archives.slakh(tmp_path)
    prepare(Slakh.open(source, SETTINGS, subsets=3), tmp_path, splits=("train",))
    for record in read(tmp_path, "slakh", "train"):
        notes = []
        for stem in record["src_ids"].tolist():
            is_drum = stem == b"S03"
            notes += archives.DRUM_NOTES if is_drum else archives.part(int(stem[1:]))
        truth = archives.sines(notes, rate=RATE)
        assert np.abs(record["mix"] - truth).mean() < 5e-3


def test_slakh_songs_with_too_few_stems_are_left_out(tmp_path):
    source = archives.slakh(tmp_path, stems=("S00", "S01", "S03"))
    report = prepare(Slakh.open(source, SETTINGS), tmp_path)
    counts = {split.plan.split: split.num_records for split in report.splits}
    assert counts == {"train": 0, "validation": 1, "test": 1}
    assert "3 stems can be used; expected at least 4" in report.all_problems[0].reason
    # A split without records is not in the manifest.
    manifest = datasets.read_manifest(report.folder / "dataset.json")
    assert sorted(manifest["splits"]) == ["test", "validation"]


def test_slakh_stems_on_request(tmp_path):
    source = archives.slakh(tmp_path)
    archive = Slakh.open(source, SETTINGS, with_stems=True)
    report = prepare(archive, tmp_path, splits=("test",))
    (record,) = read(tmp_path, "slakh", "test")
    stems = record["stems"].reshape(record["stems_shape"])
    assert stems.shape == (6, len(record["mix"]))
    np.testing.assert_allclose(stems.sum(axis=0), record["mix"], atol=1e-6)
    assert report.splits[0].num_records == 1


def test_cerberus4_has_every_quartet(tmp_path):
    source = archives.slakh(tmp_path)
    prepare(Slakh.open(source, SETTINGS, dataset="cerberus4"), tmp_path)
    found = read(tmp_path, "cerberus4", "validation")
    # There are two guitars.
    chosen = [record["src_ids"].tolist() for record in found]
    assert chosen == [
        [b"S01", b"S03", b"S02", b"S00"],
        [b"S01", b"S03", b"S04", b"S00"],
    ]
    names = [b"bass", b"drums", b"guitar", b"piano"]
    assert all(record["inst_names"].tolist() == names for record in found)
    second = list(songs(tmp_path, "cerberus4", "validation").values())[1]
    assert {n.program for n in second.notes if not n.is_drum} == {32, 24, 0}
    assert close([n for n in second.notes if n.program == 24], archives.part(4))
    heard = [n for number in (1, 4, 0) for n in archives.part(number)]
    assert sounds_like(second, [*heard, *archives.DRUM_NOTES])


def test_cerberus4_with_fewer_combinations(tmp_path):
    source = archives.slakh(tmp_path)
    archive = Slakh.open(source, SETTINGS, dataset="cerberus4", combinations=1)
    report = prepare(archive, tmp_path)
    assert [split.num_records for split in report.splits] == [2, 1, 1]


def test_cerberus4_without_a_part(tmp_path):
    source = archives.slakh(tmp_path, stems=("S00", "S01", "S03"))
    archive = Slakh.open(source, SETTINGS, dataset="cerberus4")
    report = prepare(archive, tmp_path)
    assert {p.reason for p in report.all_problems} >= {"Track00001: no stem for guitar"}


def test_slakh_of_damaged_songs(tmp_path):
    source = archives.slakh(tmp_path, suffix=".wav")
    (source / "validation/Track01501/stems/S02.wav").unlink()
    (source / "test/Track01876/metadata.yaml").write_text("stems: [1, 2]")
    archive = Slakh.open(source, SETTINGS)
    report = running.prepare(
        archive,
        tmp_path,
        source="look-alike",
        options=running.Options(splits=("validation", "test")),
    )
    assert report.exit_code == 1
    lost, unreadable = report.all_problems
    assert "no S02.flac or S02.wav" in lost.reason
    assert "metadata.yaml: not metadata" in unreadable.reason


def test_babyslakh_is_told_from_slakh(tmp_path):
    source = archives.slakh(tmp_path)
    with pytest.raises(DataError, match="BabySlakh"):
        Slakh.open(source / "train", SETTINGS)


def test_the_wrong_folder_is_named_with_what_is_in_it(tmp_path):
    source = archives.guitarset(tmp_path)
    for opened in (Maestro.open, Urmp.open, MusicNet.open, MusicNet.open_em):
        with pytest.raises(DataError, match=r"looked for .*; found annotation/, audio"):
            opened(source, SETTINGS)
    with pytest.raises(DataError, match="expected the folder of URMP, found nothing"):
        Urmp.open(tmp_path / "nowhere", SETTINGS)


def test_two_copies_of_an_archive(tmp_path):
    archives.maestro(tmp_path / "one")
    archives.maestro(tmp_path / "two")
    with pytest.raises(DataError, match="several times; name one"):
        Maestro.open(tmp_path, SETTINGS)


def test_tables_with_faults(tmp_path):
    source = archives.musicnet(tmp_path)
    labels = source / "train_labels" / "1727.csv"
    text = labels.read_text()
    labels.write_text(text.replace(",41,", ",violin,"))
    (source / "test_labels" / "2303.csv").write_text("start,end\n1,2\n")
    report = running.prepare(MusicNet.open(source, SETTINGS), tmp_path, source="")
    reasons = sorted(problem.reason for problem in report.all_problems)
    assert "2303.csv: lacks the columns" in reasons[0]
    assert "1727.csv: line 5:" in reasons[1]
    assert "'violin'" in reasons[1]


def test_other_sample_rates(tmp_path):
    source = archives.guitarset(tmp_path, recordings=["mic"])
    for rate, expected in ((8000, 8000), (0, archives.RATE)):
        settings = items.Settings(sample_rate=rate)
        root = tmp_path / f"at_{rate}"
        prepare(GuitarSet.open(source, settings), root)
        record = read(root, "guitarset", "validation")[0]
        info = soundfile.info(io.BytesIO(record["audio"]))
        assert (info.samplerate, info.channels, info.subtype) == (expected, 1, "PCM_16")
        assert info.frames == archives.SECONDS * expected


def test_published_features_and_counts(tmp_path):
    """Every feature that the published records have, and the manifest's numbers."""
    source = archives.slakh(tmp_path)
    made = {
        "maestrov3": Maestro.open(archives.maestro(tmp_path), SETTINGS),
        "guitarset": GuitarSet.open(archives.guitarset(tmp_path), SETTINGS),
        "urmp": Urmp.open(archives.urmp(tmp_path), SETTINGS),
        "musicnet": MusicNet.open(archives.musicnet(tmp_path), SETTINGS),
        "slakh": Slakh.open(source, SETTINGS, subsets=2),
        "cerberus4": Slakh.open(source, SETTINGS, dataset="cerberus4"),
    }
    import tensorflow as tf

    for name, archive in made.items():
        prepare(archive, tmp_path)
        config = datasets.available(tmp_path)[name]
        for split in ("train", "validation"):
            payloads = [
                payload
                for path in datasets.files(config, split, str(tmp_path))
                for payload in record_files.read_records(path)
            ]
            assert config.num_examples[split] == len(payloads) > 0
            hours = len(payloads) * archives.SECONDS / 3600
            assert config.hours[split] == pytest.approx(hours, rel=1e-3)
            example = tf.train.Example.FromString(payloads[0])
            assert set(example.features.feature) == set(config.features)


def test_notes_of_no_length_are_left_out_with_a_remark(tmp_path):
    path = archives.write_audio(tmp_path / "a.wav", archives.sines([], 5.0))
    item = items.Item("song", (path,))
    notes = [Note(1.0, 1.0, 60), Note(2.0, 2.0, 36, is_drum=True), Note(3.0, 4.0, 62)]
    sequence = sequences.from_notes(notes)
    record = recordings.make_record(item, sequence, SETTINGS, extra=1)
    assert [note.pitch for note in sequence.notes] == [36, 62]
    assert record.remarks == ("1 notes of no length were left out",)
    assert (record.num_notes, record.seconds) == (2, 5.0)
    assert set(record.features) == {"id", "audio", "sequence", "extra"}
    again = recordings.make_record(item, sequence, SETTINGS)
    assert again.remarks == ()
    assert again.features["sequence"] == record.features["sequence"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "lacks the columns c; found a, b"),
        ("", "lacks the columns a, c; found none"),
        ("a,c\n1,2\n3\n", "line 3: expected a, c"),
        ("a,c\n1,\n", "line 2: expected a, c"),
        ("a,c\n1,\xff\n", "is not a table"),
        (None, "cannot read: No such file"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path, text, message):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=f"table.csv: .*{message}"):
        list(read_table(path, ("a", "c")))


def test_jams_without_notes(tmp_path):
    source = archives.guitarset(tmp_path, recordings=["mic"])
    (source / "annotation" / "00_BN1-129-Eb_comp.jams").write_text("{")
    archives.write_jams(source / "annotation" / "01_Rock2-85-F_solo.jams", [])
    report = running.prepare(GuitarSet.open(source, SETTINGS), tmp_path, source="")
    first, second = (problem.reason for problem in report.all_problems)
    assert "not a readable JAMS file" in first
    assert "holds no notes" in second
    stored = json.loads((report.folder / "prepare-report.json").read_text())
    assert [row["kind"] for row in stored["splits"]["train"]["skipped"]] == [
        "error",
        "error",
    ]
