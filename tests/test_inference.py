"""Recordings to notes: order, many files at once, failures, what an hour holds."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

import gin
from mt3 import checkpoints, configs, decoding, inference, options, tokenizer
from mt3.audio import reading
from mt3.beats import Beats
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import AudioError, CheckpointError, ConfigError, DataError
from mt3.event_codec import Event
from mt3.inference import FileResult, InferenceModel, SegmentNotes, TranscribeOptions
from mt3.vocabularies import VocabularyConfig
from tests.support.tiny_model import CONFIG


@pytest.fixture(scope="module")
def model(tiny_weights):
    return InferenceModel(
        tiny_weights, TranscribeOptions(decode="greedy", grammar=True)
    )


@pytest.fixture
def audio(rng):
    return (0.1 * rng.normal(size=5 * 16000)).astype(np.float32)


def test_progress_is_told_segment_by_segment(model, audio):
    told = []
    result = model.transcribe(audio, start=1.0, progress=told.append)
    assert told == list(model.iter_notes(audio, start=1.0))
    assert [segment.end_time for segment in told][-1] == result.duration


def test_beats_are_found_given_or_left_out(model, audio, monkeypatch):
    def beats_of(part=(0.0, None), **options):
        options = dataclasses.replace(model.options, **options)
        monkeypatch.setattr(model, "options", options)
        monkeypatch.setattr(model, "resolved", options.resolve(model.info))
        result = model.transcribe(audio, start=part[0], end=part[1])
        assert result.settings["beats"] == (
            options.beats if isinstance(options.beats, str) else "given"
        )
        return result.beats

    assert beats_of(beats="off") is None
    assert beats_of(beats="track", tempo=90.0).tempo == pytest.approx(90.0)
    # Tracked beats count as notes do, given ones from the recording's start.
    late = beats_of((1.0, 4.0), tempo=240.0)
    assert 1.0 <= late.times[0] < 1.25
    assert late.times[-1] <= 4.0 + 1e-9
    assert beats_of((1.0, 4.0), tempo=240.0, times="part").times[0] < 0.25
    given = Beats([0.5, 1.5, 2.5, 3.5], [1, 2, 1, 2], beats_per_bar=2)
    assert beats_of(beats=given, tempo=None, times="recording") == given
    assert beats_of((1.0, 4.0)) == given
    moved = beats_of((1.0, 4.0), times="part")
    assert (moved.times.tolist(), moved.numbers.tolist()) == (
        [0.5, 1.5, 2.5],
        [2, 1, 2],
    )
    assert beats_of((3.0, 4.0), times="part") is None


def test_other_options_share_what_they_can(model, audio):
    part = model.with_options(dataclasses.replace(model.options, times="part"))
    assert part._decoder is model._decoder
    assert part.transcribe(audio, start=1.0).settings["times"] == "part"
    assert model.transcribe(audio, start=1.0).settings["times"] == "recording"
    drums = model.with_options(dataclasses.replace(model.options, programs=()))
    assert drums._decoder is not model._decoder
    assert drums.resolved.given.programs == ()
    with pytest.raises(ConfigError, match="frame heads"):
        model.with_options(TranscribeOptions(decode="frames"))


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


def test_threads_share_a_model(model, audio):
    parts = [audio[first:] for first in range(0, 4000, 1000)]
    wanted = [model(part) for part in parts]
    assert any(wanted)
    together = threading.Barrier(8)

    def one(number):
        together.wait(60)
        return [model(part) for part in parts[number % 4 :]]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(8)))
    assert found == [wanted[number % 4 :] for number in range(8)]


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


@pytest.mark.parametrize("rate", [0, -1, "16000"])
def test_wrong_sample_rates_are_named(model, audio, rate):
    with pytest.raises(AudioError, match=f"sample rate of {rate!r}"):
        model(audio, sample_rate=rate)


@pytest.mark.parametrize("padding", configs.PADDINGS)
def test_the_last_segment_is_padded_as_the_model_knows_it(padding):
    config = dataclasses.replace(CONFIG, padding=padding)
    frames = inference.segment_frames(np.full(1000, 0.1, np.float32), config)
    assert frames.shape == (64, 32)
    silence = 0.0 if padding == "zero_frames" else np.log(np.float32(1e-5))
    assert (frames[4:] == silence).all()


@pytest.mark.parametrize("times", options.TIMES)
def test_a_part_is_transcribed_as_if_it_were_cut_out(tiny_weights, audio, times):
    model = InferenceModel(
        tiny_weights,
        TranscribeOptions(
            decode="greedy",
            grammar=True,
            times=times,
            # Joins notes where segments meet, which the part moves.
            cleanup=CleanupOptions(merge_gap=0.2),
        ),
    )
    first, last = 20000, 61000
    cut = model.transcribe(audio[first:last])
    part = model.transcribe(audio, start=first / 16000, end=last / 16000)
    zero = first / 16000 if times == "recording" else 0.0
    assert cut.notes
    for found, wanted in zip(part.notes, cut.notes, strict=True):
        assert found.start_time == pytest.approx(wanted.start_time + zero)
        assert found.end_time == pytest.approx(wanted.end_time + zero)
    assert part.duration == pytest.approx(zero + cut.duration)
    assert (part.start, cut.start) == (first / 16000, 0.0)
    with pytest.raises(ConfigError, match="clean-up"):
        next(model.iter_notes(audio, start=1.0))
    with pytest.raises(AudioError, match=r"5\.000 s, expected a part"):
        model(audio, start=5.0)


def test_segments_of_a_part_count_times_likewise(model, audio):
    ends = [x.end_time for x in model.iter_notes(audio, start=1.5, end=3.0)]
    assert ends == pytest.approx([1.5 + 1.024, 3.0])
    (whole,) = (x for x in model.run([audio]) if isinstance(x, FileResult))
    assert list(whole.transcription.notes) == model(audio, end=99.0)


def test_what_reading_found_is_kept(model, audio, monkeypatch):
    monkeypatch.setattr(reading.AudioSource, "warnings", ["something is odd"])
    result = model.transcribe(audio)
    assert result.warnings == ("something is odd",)
    assert result.to_dict()["warnings"] == ["something is odd"]


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


VOCABULARY = VocabularyConfig(num_velocity_bins=1)
CODER = tokenizer.NoteTokenizer(configs.ModelConfig(network={}, vocabulary=VOCABULARY))


def ids_of(*events):
    """Ids of (type, value) events, with EOS and padding."""
    events = [Event(*event) for event in events]
    ids = CODER.to_ids([CODER.codec.encode_event(event) for event in events])
    return np.pad(ids, (0, 64 - len(ids)))


def write(path, predictions, **options):
    """Writes (id, start, ids) predictions; returns the lines, or raises."""
    examples = [
        {
            "unique_id": np.array([name.encode()], object),
            "input_times": np.arange(start, start + 2.048, 0.008).astype(np.float32),
        }
        for name, start, _ in predictions
    ]
    given = {"vocab_config": VOCABULARY, "onsets_only": False, "use_ties": True}
    inference.write_inferences_to_file(
        path,
        [ids for _, _, ids in predictions],
        examples,
        options.pop("mode", "predict"),
        **{"vocabulary": CODER.vocabulary, **given, **options},
    )
    return pathlib.Path(path).read_text().splitlines()


LONG = ids_of(
    ("tie", 0),
    ("shift", 50),
    ("program", 5),
    ("velocity", 1),
    ("pitch", 60),
    ("shift", 100),
    ("velocity", 0),
    ("pitch", 60),
)
OPEN = ids_of(("tie", 0), ("shift", 50), ("program", 5), ("velocity", 1), ("pitch", 61))
CLOSING = ids_of(
    ("program", 5),
    ("pitch", 61),
    ("tie", 0),
    ("shift", 50),
    ("velocity", 1),
    ("drum", 38),
    ("shift", 100),
    ("velocity", 0),
    ("program", 5),
    ("pitch", 61),
)


def line(name, *notes):
    """The original's line; notes are (start, end, pitch, program, is drum)."""
    rows = [
        {
            "start_time": start,
            "end_time": end,
            "pitch": pitch,
            "velocity": 127,
            "program": program,
            "is_drum": is_drum,
        }
        for start, end, pitch, program, is_drum in notes
    ]
    return json.dumps({"id": name, "est_notes": rows})


def test_write_inferences_writes_what_the_original_writes(tmp_path):
    """Lines are those of magenta/mt3 for the same examples and ids, byte for byte."""
    joined = (
        (2.5399999618530273, 2.549999961853027, 38, 0, True),
        (0.5, 3.0399999618530273, 61, 5, False),
    )
    found = write(
        tmp_path / "x", [("b", 2.048, CLOSING), ("a", 0, LONG), ("b", 0, OPEN)]
    )
    assert found == [line("a", (0.5, 1.0, 60, 5, False)), line("b", *joined)]
    wrong = np.concatenate([[2, 0, 5, 1500, 3000], LONG])
    found = write(tmp_path / "x", [("a", 0, wrong), ("b", 0, ids_of())])
    assert found == [line("a", (0.5, 1.0, 60, 5, False)), line("b")]
    found = write(tmp_path / "x", [("a", 0.0, LONG), ("a", 0.0, CLOSING)])
    assert found == [line("a", (0.5, 1.0, 60, 5, False))]
    starts = [("a", 0.568, LONG), ("b", 0.576, LONG), ("c", 133.12, LONG)]
    assert write(tmp_path / "x", starts) == [
        line("a", (1.0600000023841858, 1.5600000023841858, 60, 5, False)),
        line("b", (1.0699999928474426, 1.5699999928474426, 60, 5, False)),
        # The segment starts a step early, at 133.11 s.
        line("c", (133.61000061035156, 134.11000061035156, 60, 5, False)),
    ]


def test_write_inferences_with_our_corrections(tmp_path):
    options = {"float_modulo": False, "check": True, "counts": True}
    (found,) = write(tmp_path / "x", [("c", 133.12, LONG)], **options)
    found = json.loads(found)
    assert found["est_notes"][0]["start_time"] == 133.62
    assert (found["invalid_events"], found["dropped_events"]) == (0, 0)
    with pytest.raises(DataError, match="two segments of 'a' begin at 0.000 s"):
        write(tmp_path / "y", [("a", 0, LONG), ("a", 0, LONG)], **options)
    examples = [{"unique_id": "a", "input_times": [0.0]}] * 2
    given = {"vocab_config": VOCABULARY, "onsets_only": False, "use_ties": True}
    arguments = ([LONG], examples, "predict", CODER.vocabulary)
    with pytest.raises(DataError, match="1 predictions for 2 examples"):
        inference.write_inferences_to_file(
            tmp_path / "y", *arguments, **given, check=True
        )
    assert not (tmp_path / "y").exists()
    inference.write_inferences_to_file(tmp_path / "y", *arguments, **given)
    assert (tmp_path / "y").exists()


def test_a_segment_starts_at_its_step():
    """However late in a recording, and although times are float32."""
    for segment in range(3000):
        frame = 256 * segment
        example = {"unique_id": [b"a"], "input_times": np.float32([frame / 125])}
        expected = ("a", frame * 100 // 125 / 100)
        assert tokenizer.segment_of(example, 100) == expected


def test_write_inferences_takes_pairs(tmp_path):
    examples = [{"unique_id": "x", "input_times": [0.0]}]
    inference.write_inferences_to_file(
        tmp_path / "x",
        ([LONG], {"scores": [0.0]}),
        examples,
        "predict",
        CODER.vocabulary,
        VOCABULARY,
        False,
        True,
    )
    assert (tmp_path / "x").read_text() == line("x", (0.5, 1.0, 60, 5, False)) + "\n"


def test_write_inferences_errors(tmp_path):
    with pytest.raises(ConfigError, match="mode is 'score'"):
        write(tmp_path / "x", [], mode="score")
    with pytest.raises(ConfigError, match="vocabulary is missing"):
        write(tmp_path / "x", [], vocabulary=None)
    with pytest.raises(ConfigError, match="vocab_config is missing"):
        inference.write_inferences_to_file(
            tmp_path / "x", [], [], "predict", CODER.vocabulary
        )
    with pytest.raises(ConfigError, match="ties"):
        write(tmp_path / "x", [], onsets_only=True)
    for example in ({"unique_id": "a"}, {"unique_id": "a", "input_times": []}):
        with pytest.raises(DataError, match="'input_times' is missing or empty"):
            tokenizer.segment_of(example, 100)
    assert not (tmp_path / "x").exists()


def test_write_inferences_is_configurable(tmp_path):
    """Gin fills in what it must, as in the original's files."""
    text = """
from __gin__ import dynamic_registration
from mt3 import inference
from mt3 import vocabularies
vocabularies.VocabularyConfig.num_velocity_bins = 1
inference.write_inferences_to_file:
  vocab_config = @vocabularies.VocabularyConfig()
  onsets_only = False
  use_ties = True
"""
    with gin.unlock_config():
        gin.parse_config(text)
    try:
        configured = gin.get_configurable("inference.write_inferences_to_file")
        examples = [{"unique_id": "x", "input_times": [0.0]}]
        configured(tmp_path / "x", [LONG], examples, "predict", CODER.vocabulary)
        assert json.loads((tmp_path / "x").read_text())["id"] == "x"
        gin.clear_config()
        with pytest.raises(RuntimeError, match="vocab_config"):
            configured(tmp_path / "x", [LONG], examples, "predict", CODER.vocabulary)
    finally:
        gin.clear_config()


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
