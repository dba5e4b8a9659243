"""Notes read from frames: each rule, and that reading in segments changes nothing."""

import dataclasses
import itertools

import numpy as np
import pytest

from mt3 import configs, frame_heads, spectrograms
from mt3.beyond import frames
from mt3.errors import ConfigError
from mt3.frame_heads import NUM_CLASSES, Heard
from mt3.note_sequences import Note

LOW = 21
CONFIG = configs.ModelConfig(
    network={},
    spectrogram=spectrograms.SpectrogramConfig(hop_width=320, num_mel_bins=8),
    inputs_length=40,
    context_frames=5,
)
MIDDLE, CONTEXT = CONFIG.segment_frames, CONFIG.context_frames
CENTRE = 3.2  # Frames from a frame's beginning to its centre.
BANDS = 294
RNG = np.random.default_rng(8)
HEADS = {
    name: RNG.normal(0, 0.1, shape).astype(np.float32)
    for drums in (False, True)
    for name, shape in frame_heads.velocity_shapes(drums=drums).items()
}


def silence(count):
    """What is heard of nothing in `count` frames of the recording and around them."""
    length = -(-count // MIDDLE) * MIDDLE + 2 * CONTEXT
    pitched, drums = (length, 88), (length, 128)
    return Heard(
        onset=np.full(pitched, -9.0, np.float32),
        sounding=np.full(pitched, -9.0, np.float32),
        classes=np.zeros((*pitched, NUM_CLASSES), np.float32),
        time=np.zeros(pitched, np.float32),
        drum_onset=np.full(drums, -9.0, np.float32),
        drum_time=np.zeros(drums, np.float32),
        frames=np.random.default_rng(2).normal(-4, 2, (length, BANDS)),
    )


def play(heard, first, last, pitch, program=0, level=4.0):
    """Adds a note that begins in a frame of the recording and sounds until another."""
    first, last, row = first + CONTEXT, last + CONTEXT, pitch - LOW
    heard.onset[first : first + 2, row] = level, level - 1
    heard.sounding[first:last, row] = 5.0
    heard.classes[first, row, program // 8] = 6.0


def hit(heard, frame, key, level=4.0):
    heard.drum_onset[frame + CONTEXT : frame + CONTEXT + 2, key] = level, level - 1


def read(heard, count, **options):
    """Reads `count` frames segment by segment; the reader, and what it streamed."""
    reader = frames.FrameReader(CONFIG, HEADS, **options)
    segments = -(-count // MIDDLE)
    streamed = []
    for k in range(segments):
        rows = slice(k * MIDDLE, (k + 1) * MIDDLE + 2 * CONTEXT)
        part = Heard(*(x[rows] for x in heard))
        left = min(MIDDLE, count - k * MIDDLE)
        reader.add(part, num_frames=left, last=k == segments - 1)
        streamed.append(reader.take())
    return reader, streamed


def notes_of(heard, count, **options):
    return read(heard, count, **options)[0].finish()


def seconds(frame):
    return (frame + CENTRE) / 50


def spans(notes):
    return [(n.pitch, round(n.start_time, 4), round(n.end_time, 4)) for n in notes]


def naive(logits, sounding, threshold, h):
    """The rules of one pitch, word for word: onsets and ends."""
    count = len(logits)

    def odds(t):
        return logits[t] if 0 <= t < count else -1e9

    def pair(t):
        return odds(t) + max(odds(t + 1), -20.0) if t >= 0 else -np.inf

    def p(e):
        return 1 / (1 + np.exp(-sounding[e])) if e < count else 0.0

    onsets = [
        t
        for t in range(count)
        if pair(t) >= pair(t - 1)
        and pair(t) > pair(t + 1)
        and 1 / (1 + np.exp(-max(odds(t), odds(t + 1)))) > threshold
    ]
    found = []
    for t, n in zip(onsets, [*onsets[1:], 10 * count], strict=True):
        e = t + 2
        while e != n and (p(e) > h or (e + 1 < n and p(e + 1) > h and p(e) > 0.3 * h)):
            e += 1
        found.append((t, e))
    return found


@pytest.mark.parametrize("sensitivity", [0.5, 0.8])
def test_reading_in_segments_follows_the_rules_across_joins(rng, sensitivity):
    count = 4 * MIDDLE - 7
    heard = silence(count)
    shape = heard.onset.shape
    heard.onset[:] = rng.normal(-2, 3, shape)
    heard.sounding[:] = np.repeat(rng.normal(0, 3, (shape[0] // 5, 88)), 5, axis=0)
    heard.sounding[:] += rng.normal(0, 1, shape)
    heard.time[:] = rng.normal(0, 0.5, shape)
    heard.classes[..., 3] = 8.0
    heard.classes[..., 44 - LOW :, 0] = 20.0  # Pianos end by another threshold.
    threshold = frames.moved(0.4, sensitivity)
    wanted = []
    for row in range(88):
        # The last segment's context after the recording is not read.
        own = slice(0, CONTEXT + count)
        column, sounding = heard.onset[own, row], heard.sounding[own, row]
        usual = naive(column, sounding, threshold, 0.5)
        ends = naive(column, sounding, threshold, 0.8) if row >= 44 - LOW else usual
        for (t, end), (_, written) in zip(usual, ends, strict=True):
            move = np.clip(heard.time[t, row], -0.6, 0.6)
            start = max(0.0, float((t - CONTEXT + move + CENTRE) / 50))
            if (end - CONTEXT + CENTRE) / 50 - start < 0.04:
                continue
            stop = max((written - CONTEXT + CENTRE) / 50, start + 0.03)
            wanted.append((row + LOW, round(start, 4), round(stop, 4)))
    assert len(wanted) > 1000
    _, streamed = read(heard, count, sensitivity=sensitivity)
    notes = notes_of(heard, count, sensitivity=sensitivity)
    # Nothing is written twice, or kept back.
    wanted.sort()
    assert sorted(spans(sum(streamed, []))) == wanted
    # In the end, a note that is struck again ends exactly where the next one begins.
    for i, (here, after) in enumerate(itertools.pairwise(wanted)):
        if here[0] == after[0]:
            wanted[i] = (*here[:2], min(here[2], after[1]))
    assert sorted(spans(notes)) == sorted(wanted)


def test_the_first_chord_lies_before_the_first_frame():
    heard = silence(20)
    play(heard, -3, 10, 60)
    (note,) = notes_of(heard, 20)
    assert (note.pitch, note.program) == (60, 0)
    assert note.start_time == pytest.approx(0.004, abs=1e-6)
    assert note.confidence == pytest.approx(1 / (1 + np.exp(-4)))


def test_a_note_ends_once_it_has_stopped_sounding():
    heard = silence(60)
    play(heard, 5, 50, 60, program=24)
    heard.sounding[CONTEXT + 20, 39] = -1.5  # One unlikely frame does not end it.
    play(heard, 5, 50, 64, program=24)
    heard.sounding[CONTEXT + 20 : CONTEXT + 22, 43] = -1.5  # Two of them do.
    ends = {note.pitch: note.end_time for note in notes_of(heard, 60)}
    assert ends == pytest.approx({60: seconds(50), 64: seconds(20)})


def test_a_struck_note_ends_the_one_before_also_in_the_next_segment():
    heard = silence(60)
    play(heard, MIDDLE - 4, 60, 60)
    play(heard, MIDDLE + 1, 60, 60)
    heard.time[CONTEXT + MIDDLE + 1, 39] = -0.4
    first, second = notes_of(heard, 60)
    assert first.end_time == second.start_time == pytest.approx(seconds(MIDDLE + 0.6))
    assert second.end_time == pytest.approx(seconds(60))


def test_notes_that_are_too_short_are_dropped():
    heard = silence(30)
    play(heard, 5, 7, 60, program=24)
    heard.time[CONTEXT + 5, 39] = 0.1
    play(heard, 5, 7, 62, program=24)
    (note,) = notes_of(heard, 30)
    assert note.pitch == 62


def test_times_lie_between_frames():
    heard = silence(30)
    play(heard, 10, 20, 60)
    hit(heard, 10, 38)
    heard.time[CONTEXT + 10, 39] = -0.3
    heard.drum_time[CONTEXT + 10, 38] = 5.0  # Further than an onset can lie.
    note, drum = notes_of(heard, 30)
    assert note.start_time == pytest.approx(seconds(9.7))
    assert drum.start_time == pytest.approx(seconds(10.6))
    assert drum.end_time == pytest.approx(drum.start_time + 0.01)
    assert drum.is_drum


def test_velocities_go_by_the_loudness_of_the_recording():
    """Of all of it in the end, of what came until then in a stream."""
    heard = silence(90)
    heard.frames[CONTEXT + 60 :] += 3.0
    for k in range(8):
        play(heard, 3 + 10 * k, 8 + 10 * k, 50 + k)
        hit(heard, 3 + 10 * k, 36 + k)
    reader, streamed = read(heard, 90)

    def wanted(count):
        own = heard.frames[CONTEXT : CONTEXT + count]
        loudness = frame_heads.Loudness.silence(BANDS).add(own)
        velocities = {}
        for k in range(8):
            for drums, pitch in ((False, 50 + k), (True, 36 + k)):
                pitches = np.array([pitch])
                features = frame_heads.velocity_features(
                    heard.frames, np.array([CONTEXT + 3 + 10 * k]), pitches, drums=drums
                )
                velocities[pitch, drums] = frame_heads.midi_velocities(
                    HEADS, features.astype(np.float32), pitches, loudness, drums=drums
                )[0]
        return velocities

    found = {(n.pitch, n.is_drum): n.velocity for n in reader.finish()}
    assert found == wanted(90)
    assert len(set(found.values())) > 8
    early = {(n.pitch, n.is_drum): n.velocity for n in streamed[0]}
    assert early
    assert early.items() <= wanted(MIDDLE).items()
    assert not early.items() <= found.items()


def likely(probability):
    return float(np.log(probability / (1 - probability)))


def test_drums_have_a_threshold_of_the_recordings_own():
    heard = silence(300)
    for k in range(14):
        hit(heard, 20 * k, 38, likely(0.8))
        hit(heard, 20 * k + 10, 42, likely(0.3))
        hit(heard, 20 * k + 5, 49, likely(0.2))
    heights = [0.8] * 14 + [0.3] * 14 + [0.2] * 14
    assert 0.2 < 0.35 * np.percentile(heights, 90) < 0.3
    assert {n.pitch for n in notes_of(heard, 300)} == {38, 42}
    # With fewer sure hits, drums are found as notes are.
    reader, streamed = read(heard, 200)
    assert {n.pitch for n in reader.finish()} == {38}
    assert reader.drum_threshold() == pytest.approx(0.4)
    assert {n.pitch for n in sum(streamed, [])} == {38}


def test_sensitivity_finds_more_notes_and_drums(rng):
    heard = silence(90)
    heard.onset[CONTEXT:] = rng.normal(-4, 2, heard.onset[CONTEXT:].shape)
    heard.sounding[:] = 3.0
    heard.drum_onset[:] = rng.normal(-4, 2, heard.drum_onset.shape)
    found = [
        {(n.is_drum, n.pitch, n.start_time) for n in notes_of(heard, 90, sensitivity=s)}
        for s in (0.0, 0.3, 0.5, 0.7, 1.0)
    ]
    for fewer, more in zip(found, found[1:], strict=False):
        assert fewer < more
    drums = [sum(is_drum for is_drum, _, _ in each) for each in found]
    assert drums == sorted(set(drums))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            frames.FrameReader(CONFIG, HEADS, sensitivity=wrong)


def test_only_instruments_that_were_asked_for():
    heard = silence(60)
    for k in range(3):
        play(heard, 15 * k, 15 * k + 10, 60 + k, program=40 * (k % 2))
        hit(heard, 15 * k, 38)
    both = notes_of(heard, 60, programs=(42, 44), drums=True)
    assert [n.program for n in both if not n.is_drum] == [42] * 3
    assert sum(n.is_drum for n in both) == 3
    assert all(n.is_drum for n in notes_of(heard, 60, programs=(), drums=True))
    without = notes_of(heard, 60, programs=(0, 40), drums=False)
    assert len(without) == 3
    assert not any(n.is_drum for n in without)


def test_a_stream_keeps_running_shares():
    heard = silence(90)
    for k in range(8):
        play(heard, 10 * k, 10 * k + 8, 60 + k, program=40)
    heard.classes[CONTEXT + 70, 67 - LOW, [0, 5]] = 1.1, 1.0  # Could be a piano.
    _, streamed = read(heard, 90)
    assert [n.program for n in sum(streamed, [])] == [40] * 8


def test_notes_of_tokens_get_what_was_heard_of_them():
    heard = silence(90)
    play(heard, 10, 20, 60)
    heard.time[CONTEXT + 10, 39] = 0.4
    play(heard, 40, 50, 60, level=-1.0)
    hit(heard, 10, 38)
    reader, _ = read(heard, 90, sensitivity=1.0)
    tokens = [
        Note(0.26, 0.8, 60, 127, 24),
        Note(0.26, 0.27, 38, 127, 0, True),
        Note(0.85, 1.0, 60, 127, 24),
        Note(1.4, 1.5, 60, 127, 24),
        Note(0.26, 0.8, 61, 127, 24),
    ]
    velocities = {
        (round(n.start_time * 50 - CENTRE - 0.1), n.pitch): n.velocity
        for n in reader.finish()
    }
    assert len(set(velocities.values())) == 3
    other, drum, note, quiet, far = reader.detail(tokens)
    assert drum.velocity == velocities[10, 38]
    assert drum.is_drum
    assert drum.start_time == pytest.approx(seconds(10))
    assert (note.velocity, note.program) == (velocities[10, 60], 24)
    assert note.start_time == pytest.approx(seconds(10.4))
    assert note.end_time == pytest.approx(0.8 + seconds(10.4) - 0.26)
    assert note.confidence == pytest.approx(1 / (1 + np.exp(-4)))
    assert quiet.start_time == pytest.approx(seconds(40))
    assert quiet.confidence == pytest.approx(1 / (1 + np.exp(1)))
    for unheard, given in ((other, tokens[4]), (far, tokens[3])):
        assert (unheard.start_time, unheard.end_time) == (
            given.start_time,
            given.end_time,
        )
        usual = (velocities[10, 60] + velocities[40, 60]) // 2
        assert (unheard.velocity, unheard.confidence) == (usual, 0.0)


def test_notes_of_tokens_do_not_overlap_once_they_have_moved():
    heard = silence(90)
    play(heard, 10, 20, 60)
    play(heard, 20, 30, 60)
    heard.time[CONTEXT + 10, 39], heard.time[CONTEXT + 20, 39] = 0.5, -0.5
    reader, _ = read(heard, 90)
    first, second = reader.detail([Note(0.26, 0.46, 60), Note(0.46, 0.7, 60)])
    assert first.end_time == second.start_time == pytest.approx(seconds(19.5))


def test_notes_of_tokens_keep_a_length():
    """Of two near one onset one moves to it; doubled ones have a length too."""
    heard = silence(90)
    play(heard, 10, 20, 60)
    reader, _ = read(heard, 90)
    onset = seconds(10)
    near, far = reader.detail(
        [Note(onset + 0.01, 0.6, 60), Note(onset + 0.04, 0.6, 60)]
    )
    assert near.start_time == pytest.approx(onset)
    assert near.end_time == far.start_time == pytest.approx(onset + 0.04)
    for note in reader.detail([Note(onset, 0.6, 60), Note(onset, 0.6, 60)]):
        assert note.end_time - note.start_time > 0.0099


def test_segments_without_context_are_read_too():
    config = dataclasses.replace(CONFIG, context_frames=0)
    heard = silence(2 * 40 - 2 * CONTEXT)
    play(heard, 60 - CONTEXT, 70 - CONTEXT, 60)
    reader = frames.FrameReader(config, HEADS)
    for k in range(2):
        part = Heard(*(x[40 * k : 40 * (k + 1)] for x in heard))
        reader.add(part, last=k == 1)
    (note,) = reader.finish()
    assert note.start_time == pytest.approx(seconds(60))
