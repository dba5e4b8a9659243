"""Recordings to notes: order, many files at once, failures, what an hour holds."""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mt3 import checkpoints, configs, decoding, inference, tokenizer
from mt3.audio import reading
from mt3.errors import AudioError, CheckpointError, ConfigError, DataError
from mt3.inference import FileResult, InferenceModel, SegmentNotes, TranscribeOptions
from mt3.note_sequences import Note
from tests.support.tiny_model import CONFIG


@pytest.fixture(scope="module")
def model(tiny_weights):
    return InferenceModel(
        tiny_weights, TranscribeOptions(decode="greedy", grammar=True)
    )


@pytest.fixture
def audio(rng):
    return (0.1 * rng.normal(size=5 * 16000)).astype(np.float32)


def test_array_and_file_give_the_same_notes(model, tiny_weights, audio, tmp_path):
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    from_array = model(audio)
    from_file = model(tmp_path / "a.wav")
    assert from_array
    assert from_array == from_file
    assert from_array == sorted(from_array, key=lambda note: note.start_time)
    record = model.transcribe(tmp_path / "a.wav")
    assert record.duration == 5.0
    assert record.source == "a.wav"
    assert record.model == "tiny"
    assert record.model_sha256 == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    assert record.invalid_events == 0
    assert record.settings["decode"] == "greedy"
    assert record.settings["grammar"] is True


def test_many_at_once_equal_one_by_one(model, audio):
    pieces = [audio[:length] for length in (80000, 1, 30000, 16384, 65000)]
    alone = [model(recording) for recording in pieces]
    results = {}
    ends = {index: [0.0] for index in range(len(pieces))}
    for item in model.run(pieces):
        if isinstance(item, SegmentNotes):
            assert item.file not in results
            ends[item.file].append(item.end_time)
        else:
            results[item.file] = list(item.transcription.notes)
    assert [results[index] for index in range(len(pieces))] == alone
    for index, times in ends.items():
        assert times == sorted(times)
        assert times[-1] == pytest.approx(len(pieces[index]) / 16000)


def test_notes_come_segment_by_segment(model, audio):
    segments = list(model.iter_notes(audio))
    assert len(segments) == 5  # 80000 samples of 16384
    together = [note for segment in segments for note in segment.notes]
    assert sorted(together) == sorted(model(audio))


def test_a_recording_that_fails_does_not_stop_the_others(model, audio, tmp_path):
    bad = audio.copy()
    bad[40000] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    pieces = [audio[:20000], tmp_path / "nan.wav", tmp_path / "none.wav", audio]
    results = {
        item.file: item for item in model.run(pieces) if isinstance(item, FileResult)
    }
    assert list(results[0].transcription.notes) == model(audio[:20000])
    assert list(results[3].transcription.notes) == model(audio)
    assert "nan.wav" in str(results[1].error)
    assert "2.5" in str(results[1].error)
    assert "none.wav" in str(results[2].error)
    with pytest.raises(AudioError, match=r"nan\.wav"):
        model(tmp_path / "nan.wav")


class _CountedSlots:
    """Counts how far the segments are pulled ahead of the results."""

    def __init__(self, decoder):
        self._decoder = decoder
        self.most = 0

    def run(self, segments):
        pulled = 0

        def counted():
            nonlocal pulled
            for segment in segments:
                pulled += 1
                yield segment

        for done, result in enumerate(self._decoder.run(counted())):
            self.most = max(self.most, pulled - done)
            yield result


def test_look_ahead_is_bounded(tiny_weights):
    model = InferenceModel(
        tiny_weights, TranscribeOptions(decode="greedy", num_slots=4, max_length=4)
    )
    model._decoder = counter = _CountedSlots(model._decoder)
    long = np.zeros(100 * CONFIG.segment_samples, np.float32)
    assert len(list(model.iter_notes(long))) == 101
    assert 4 <= counter.most <= 24


def test_instruments_are_restricted(tiny_weights, audio):
    options = TranscribeOptions(decode="greedy", programs=(40, 41), drums=False)
    notes = InferenceModel(tiny_weights, options)(audio)
    assert notes
    assert {note.program for note in notes} <= {40, 41}
    assert not any(note.is_drum for note in notes)


def test_sample_rates_of_arrays(model, audio):
    twice = np.repeat(audio, 2)
    assert model.transcribe(twice, sample_rate=32000).duration == 5.0
    stereo = np.stack([audio, audio], axis=1)
    assert model(stereo) == model(audio)


@pytest.mark.parametrize("padding", configs.PADDINGS)
def test_the_last_segment_is_padded_as_the_model_knows_it(padding):
    config = dataclasses.replace(CONFIG, padding=padding)
    frames = inference.segment_frames(np.full(1000, 0.1, np.float32), config)
    assert frames.shape == (64, 32)
    silence = 0.0 if padding == "zero_frames" else np.log(np.float32(1e-5))
    assert (frames[4:] == silence).all()


def test_note_sequence(model, audio):
    sequence = model(audio, as_note_sequence=True)
    notes = model(audio)
    assert len(sequence.notes) == len(notes)
    assert sequence.total_time == max(note.end_time for note in notes)
    for found, note in zip(sequence.notes, notes, strict=True):
        assert (found.pitch, found.program, found.is_drum) == (
            note.pitch,
            note.program,
            note.is_drum,
        )
        assert (found.instrument == 9) == note.is_drum


def test_a_model_that_is_not_there():
    with pytest.raises(CheckpointError, match="no_such_model"):
        InferenceModel("no_such_model")
    with pytest.raises(CheckpointError, match="gs://mt3/checkpoints"):
        InferenceModel("mt3")


def test_import_is_light():
    program = (
        "import sys, mt3.inference\n"
        "heavy = {'tensorflow', 'seqio', 'note_seq', 't5x', 'matplotlib', 'torch'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def _write(path, predictions, **options):
    tokens = [np.asarray(tokens) for _, _, tokens in predictions]
    examples = [
        {"unique_id": [name.encode()], "input_times": np.float32([start, start + 1])}
        for name, start, _ in predictions
    ]
    inference.write_inferences_to_file(path, tokens, examples, "predict", **options)
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_write_inferences(model, tmp_path):
    tok = tokenizer.NoteTokenizer(dataclasses.replace(CONFIG, include_ties=True))
    notes = [Note(0.5, 1.5, 60, 127, 8), Note(1.2, 3.0, 64, 127, 40)]
    song = tok.encode_song(notes, 300)
    predictions = [
        ("b", frame / 62.5, tok.segment_events(song, frame, 64))
        for frame in (64, 0, 128, 192)
    ]
    rows = _write(tmp_path / "out.jsonl", [*predictions, ("a", 0.0, [])])
    assert [row["unique_id"] for row in rows] == ["b", "a"]
    found = [Note(**note) for note in rows[0]["est_notes"]]
    assert [(n.pitch, n.program) for n in found] == [(60, 8), (64, 40)]
    for note, expected in zip(found, notes, strict=True):
        assert note.start_time == pytest.approx(expected.start_time, abs=0.011)
        assert note.end_time == pytest.approx(expected.end_time, abs=0.011)
    assert rows[1]["est_notes"] == []
    assert rows[0]["invalid_events"] == rows[0]["dropped_events"] == 0


def test_write_inferences_decodes_ids_and_takes_pairs(model, tmp_path):
    ids = [model.tokenizer.encode_segment([Note(0.1, 0.3, 50, 127)])]
    examples = [{"unique_id": "x", "input_times": [0.0]}]
    inference.write_inferences_to_file(
        tmp_path / "out.jsonl",
        (ids, {"scores": [0.0]}),
        examples,
        "predict",
        model.tokenizer.vocabulary,
        use_ties=False,
    )
    (row,) = [json.loads((tmp_path / "out.jsonl").read_text())]
    assert [note["pitch"] for note in row["est_notes"]] == [50]


def test_write_inferences_errors(tmp_path):
    with pytest.raises(ConfigError, match="score"):
        inference.write_inferences_to_file(tmp_path / "x", [], [], "score")
    with pytest.raises(DataError, match="1 predictions for 0 examples"):
        inference.write_inferences_to_file(tmp_path / "x", [[1]], [], "predict")
    with pytest.raises(DataError, match="input_times"):
        inference.write_inferences_to_file(
            tmp_path / "x", [[1]], [{"unique_id": "a"}], "predict"
        )
    song = {"unique_id": "a", "input_times": [0.0, 0.008]}
    with pytest.raises(DataError, match="two segments of 'a' begin at 0.000 s"):
        inference.write_inferences_to_file(
            tmp_path / "x", [[1], [1]], [song, song], "predict"
        )
    assert not (tmp_path / "x").exists()


def test_golden_checkpoint_transcribes(golden_data, tmp_path, audio):
    import tarfile

    with tarfile.open(golden_data / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "t5x_checkpoint" / "checkpoint_0"
    golden = InferenceModel(folder, TranscribeOptions(max_length=16), num_heads=2)
    record = golden.transcribe(audio)
    assert record.duration == 5.0
    # The decoder's own result on the same frames, segment by segment.
    feed = inference.Feed(golden, [audio])
    frames = np.stack([frames for _, frames in feed.segments()])
    ids, _ = decoding.decode(
        checkpoints.load(folder, num_heads=2).params,
        golden.network_config,
        frames,
        max_length=16,
    )
    predictions = [
        (
            golden.tokenizer.segment_start_time(256 * i),
            golden.tokenizer.predicted_events(row),
        )
        for i, row in enumerate(np.asarray(ids))
    ]
    notes, invalid, dropped = tokenizer.decode_predictions(
        predictions, golden.tokenizer
    )
    assert sorted(notes) == sorted(record.notes)
    assert (invalid, dropped) == (record.invalid_events, record.dropped_events)


def test_sources_can_be_handed_in(model, audio):
    source = reading.from_samples(audio, 16000, name="live")
    assert model.transcribe(source).source == "live"
