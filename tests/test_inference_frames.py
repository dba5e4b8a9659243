"""Recordings to notes by the frame heads: segments with context, default weights."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import soundfile

from mt3 import checkpoints, cli, decoding, frame_heads, inference
from mt3.beyond import frames
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import ConfigError
from mt3.inference import InferenceModel, SegmentNotes, TranscribeOptions
from mt3.midi import reader
from tests.support import tiny_heads

CONFIG = dataclasses.replace(
    tiny_heads.CONFIG, context_frames=10, padding="silence", targets_length=40
)
# Seconds: the grid of times in tokens.
STEP = 0.02


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights with frame heads, which are read from frames by default."""
    path = tmp_path_factory.mktemp("heads") / "heads.safetensors"
    params = tiny_heads.make_params()
    heads = params[frame_heads.HEADS]
    for name in ("velocity_out", "drum_velocity_out"):
        heads[name] = 0.1 * heads[name]  # Neither softest nor loudest.
    info = {"name": "heads", "decode": "frames", "grammar": True}
    return checkpoints.save_safetensors(path, params, CONFIG, info=info)


@pytest.fixture
def noise(rng):
    return (0.1 * rng.normal(size=5 * 16000)).astype(np.float32)


def test_no_decoder_is_made(weights, noise, monkeypatch):
    monkeypatch.setattr(decoding, "SegmentDecoder", None)
    model = InferenceModel(weights)
    assert model.resolved.decode == "frames"
    items = list(model.run([noise, noise[:7000]]))
    first, second = (item for item in items if not isinstance(item, SegmentNotes))
    notes = first.transcription.notes
    assert len(notes) > 50
    assert len({note.confidence for note in notes}) > 50
    assert len({note.velocity for note in notes}) > 5
    assert first.transcription.settings["decode"] == "frames"
    # Several recordings at once are read as one by one, whatever the batches.
    assert list(second.transcription.notes) == model(noise[:7000])
    ends = [x.end_time for x in items if x.file == 0 and isinstance(x, SegmentNotes)]
    assert ends[:9] == pytest.approx([0.6 * (k + 1) for k in range(8)] + [5.0])


def test_streamed_notes_are_the_final_ones_but_for_names_and_drums(weights, noise):
    model = InferenceModel(weights)
    segments = list(model.iter_notes(noise))
    assert sum(bool(segment.notes) for segment in segments) > 5
    streamed = [note for segment in segments for note in segment.notes]

    def starts(notes):
        return sorted((n.start_time, n.pitch) for n in notes if not n.is_drum)

    assert starts(streamed) == starts(model(noise))


def test_no_more_is_kept_than_is_needed(weights):
    """However long a recording is: two batches of segments, and the last of them."""
    model = InferenceModel(weights)
    feed = inference.Feed(model, [np.zeros(24 * CONFIG.segment_samples, np.float32)])
    pulled = most = count = 0

    def counted():
        nonlocal pulled
        for segment in feed.segments():
            pulled += 1
            yield segment

    for key, found in model._found(counted()):
        most = max(most, pulled - count)
        count += sum(isinstance(x, SegmentNotes) for x in feed.take(key, found))
        for recording in feed._open.values():
            reader = recording.notes._reader
            assert len(reader._parts) <= 2
            assert len(reader._rows[0]) <= 4
            assert not recording.waiting
    assert count == pulled == 24
    assert most <= 2 * frames.BATCH


def test_half_precision_hears_nearly_the_same(weights, noise):
    whole = InferenceModel(weights)(noise)
    half = InferenceModel(weights, TranscribeOptions(dtype="bfloat16"))(noise)
    assert len(half) == pytest.approx(len(whole), rel=0.2)


def test_what_frames_have_no_use_for_is_refused(weights, tiny_weights):
    with pytest.raises(ConfigError, match="no frame heads"):
        InferenceModel(tiny_weights, TranscribeOptions(decode="frames"))
    asked = {
        "grammar": {"grammar": True},
        "merge_gap": {"cleanup": CleanupOptions(merge_gap=0.1)},
        "unclosed_ties": {"unclosed_ties": "end"},
    }
    for name, options in asked.items():
        with pytest.raises(ConfigError, match=f"{name} with decode='frames'"):
            InferenceModel(weights, TranscribeOptions(**options))
    with pytest.raises(ConfigError, match=r"sensitivity is 2.0; expected a number"):
        InferenceModel(weights, TranscribeOptions(sensitivity=2.0))
    with pytest.raises(ConfigError, match=r"'best'. Known: frames, greedy, beam1"):
        InferenceModel(weights, TranscribeOptions(decode="best"))
    with pytest.raises(ConfigError, match="'greedy', which has no threshold"):
        TranscribeOptions(decode="greedy", sensitivity=0.6)
    with pytest.raises(ConfigError, match="'beam1', which has no threshold"):
        InferenceModel(tiny_weights, TranscribeOptions(sensitivity=0.6))


def test_tokens_get_details_from_the_frames(weights, noise):
    """Times off the grid, velocities, confidence; the faithful way has none of it."""
    options = TranscribeOptions(decode="greedy", programs=())
    notes = InferenceModel(weights, options)(noise)
    assert len({note.velocity for note in notes}) > 1
    assert all(0.0 <= note.confidence <= 1.0 for note in notes)
    assert any(abs(n.start_time / STEP % 1 - 0.5) < 0.4 for n in notes)
    plain = InferenceModel(weights, dataclasses.replace(options, details=False))(noise)
    assert InferenceModel(weights, options.faithful())._hearing is None
    for note in plain:
        assert (note.velocity, note.confidence) == (127, None)
        assert note.start_time / STEP == pytest.approx(round(note.start_time / STEP))

    def what(notes):
        return sorted((n.pitch, n.program, n.is_drum) for n in notes)

    assert what(notes) == what(plain)


@pytest.mark.parametrize(
    "options", [{"decode": "frames", "sensitivity": 1.0}, {"decode": "greedy"}]
)
def test_drums_alone(weights, noise, options):
    notes = InferenceModel(weights, TranscribeOptions(programs=(), **options))(noise)
    assert notes
    assert all(note.is_drum for note in notes)


def test_the_command_line_reads_frames(weights, noise, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise[:32000], 16000)
    common = ["transcribe", str(tmp_path / "a.wav"), "--model", str(weights), "-q"]
    common += ["--format", "json,mid", "--overwrite"]

    def notes(*arguments):
        assert cli.main([*common, "--decode", "frames", *arguments]) == 0
        record = json.loads((tmp_path / "a.json").read_text())
        assert record["settings"]["decode"] == "frames"
        return record["notes"]

    drums = notes("--instruments", "drums")
    assert drums
    assert all(note["is_drum"] for note in drums)
    assert (
        len(notes("--sensitivity", "0.2"))
        < len(notes())
        < len(notes("--sensitivity", "0.8"))
    )
    midi = reader.read_midi(tmp_path / "a.mid")
    assert len({note.velocity for note in midi}) > 5
    assert cli.main([*common, "--sensitivity", "1.5"]) == 1
    assert (
        "sensitivity is 1.5; expected a number from 0 to 1" in capsys.readouterr().err
    )


@pytest.mark.parametrize("context", [0, 10, 20])
def test_segments_hear_what_lies_around_them(weights, rng, context):
    """Each is a stretch of the recording with silence around it, however it comes."""
    model = InferenceModel(weights)
    model.config = dataclasses.replace(CONFIG, context_frames=context)
    length, around = model.config.segment_samples, 320 * context
    for samples in (1, 320, length - 1, length, length + 1, 2 * length + around, 90000):
        audio = rng.normal(size=samples).astype(np.float32)
        feed = inference.Feed(model, [audio])
        recording = inference._Recording("", None, model.opened(audio))
        pieces = list(feed._cut(recording))
        frames = -(-samples // 320)
        count = -(-frames // model.config.segment_frames)
        if not context:
            count = samples // length + 1
        assert recording.num_segments == len(pieces) == count
        silence = np.zeros(around + count * length + around, np.float32)
        silence[around : around + samples] = audio
        for k, piece in enumerate(pieces):
            wanted = silence[k * length : (k + 1) * length + 2 * around]
            piece = np.pad(piece, (0, len(wanted) - len(piece)))
            np.testing.assert_array_equal(piece, wanted)


@pytest.fixture(scope="module")
def default():
    """The weights in the package."""
    return InferenceModel("default", TranscribeOptions(decode="frames"))


@pytest.mark.parametrize("name", ["example.flac", "piano.flac"])
def test_notes_are_those_of_another_implementation(
    default, name, repository, golden_data, monkeypatch
):
    """Golden notes, by the recording's shares alone: no names by further rules."""
    rows = json.loads((golden_data / "frame_notes.json").read_text())[name]
    assert len(rows) > 50

    def by_shares(notes, allowed):
        odds = np.exp(notes.logits.astype(float))
        weighed = odds / odds.sum(axis=1, keepdims=True)
        for _ in range(10):
            weighed = odds * weighed.mean(axis=0)
            weighed /= weighed.sum(axis=1, keepdims=True)
        return weighed.argmax(axis=1)

    reader = frames.FrameReader(default.config, default._hearing.heads, name=by_shares)
    monkeypatch.setattr(default, "reader", lambda: reader)
    found = [
        [n.start_time, n.end_time, n.pitch, n.program, n.is_drum]
        for n in default(repository / "examples" / name)
    ]
    wanted = [[*row[:3], *row[4:]] for row in rows]
    for notes in (found, wanted):
        notes.sort(key=lambda row: (row[2:], row[0]))
    # There, notes that are struck again end at a frame, here where the next begins.
    for row, following in itertools.pairwise(wanted):
        if row[2:] == following[2:]:
            row[1] = min(row[1], following[0])
    assert len(found) == len(wanted)
    assert [row[2:] for row in found] == [row[2:] for row in wanted]
    times = np.array([row[:2] for row in found]) - [row[:2] for row in wanted]
    assert np.abs(times).max() < 0.002


def tones(starts, pitches, seconds):
    """A recording of short tones with four harmonics, 16 kHz."""
    audio = np.zeros(round(seconds * 16000), np.float32)
    time = np.arange(4800) / 16000
    shape = np.exp(-8 * time) * np.minimum(1, time / 0.003) * (time < 0.28)
    for start, pitch in zip(starts, pitches, strict=True):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        wave = sum(np.sin(2 * np.pi * k * hz * time) / k for k in (1, 2, 3, 4))
        first = round(start * 16000)
        audio[first : first + len(wave)] += 0.2 * shape * wave
    return audio


def test_onsets_are_found_at_every_phase_of_a_segment(default):
    """As well in the first 60 ms as later; also at the recording's start."""
    phases = np.concatenate([np.arange(12) * 0.005, np.arange(1, 50) * 0.06])
    # Up to three tones a segment, none of which rings into the next.
    starts = 3.0 * (np.arange(len(phases)) % 21) + phases
    assert np.diff(np.sort(starts)).min() > 0.4
    pitches = 50 + np.arange(len(starts)) * 7 % 24
    notes = default(tones(starts, pitches, 3.0 * 21 + 1.0))
    found = np.array(
        [
            any(n.pitch == pitch and abs(n.start_time - start) < 0.03 for n in notes)
            for start, pitch in zip(starts, pitches, strict=True)
        ]
    )
    early = phases < 0.06
    assert early.sum() == 12
    assert found[~early].mean() > 0.9
    assert abs(found[early].mean() - found[~early].mean()) <= 0.02
