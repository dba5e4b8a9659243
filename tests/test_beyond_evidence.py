"""Decoding by the decoder and by what the encoder hears in each frame."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt3 import decoding, event_codec, tokenizer
from mt3.beyond import evidence as evidence_module
from mt3.beyond import grids
from mt3.beyond.evidence import Evidence, FrameEvidence
from mt3.beyond.type_first import TypeFirst
from mt3.errors import CheckpointError, ConfigError
from mt3.note_sequences import NOTE_DTYPE
from tests.support.tiny_heads import CODEC, CONFIG, NETWORK, make_params

STEPS = 50
NEAR_ONE = 0.999
MASK = decoding.GrammarMask.from_codec(
    CODEC,
    vocab_size=NETWORK.vocab_size,
    program_granularity="midi_class",
    max_steps=STEPS,
)


def random_notes(rng, count=12, drums=4):
    """Notes on the grid of steps; no pitch overlaps itself. NOTE_DTYPE."""
    pitches = rng.choice(np.arange(30, 100), count, replace=False)
    rows = []
    for pitch in pitches:
        start = int(rng.integers(0, STEPS - 8))
        end = int(rng.integers(start + 4, STEPS + 20))
        rows.append((start, end, int(pitch), int(rng.integers(0, 16)) * 8, False))
    for _ in range(drums):
        start = int(rng.integers(0, STEPS))
        rows.append((start, start + 1, int(rng.integers(35, 50)), 0, True))
    notes = np.zeros(len(rows), NOTE_DTYPE)
    for row, (start, end, pitch, program, is_drum) in zip(notes, rows, strict=True):
        row["start_time"], row["end_time"] = start / 50, end / 50
        row["pitch"], row["program"], row["is_drum"] = pitch, program, is_drum
        row["velocity"] = 100
    return notes


def evidence_of(notes):
    """Says nearly surely what the notes are. Evidence without the batch axis."""
    onset = np.zeros((STEPS, 128), np.float32)
    drum, sounding = onset.copy(), onset.copy()
    classes = np.full((STEPS, 128, 16), 1e-3, np.float32)
    for note in notes:
        first = round(float(note["start_time"]) * 50)
        last = round(float(note["end_time"]) * 50)
        if note["is_drum"]:
            drum[first, note["pitch"]] = NEAR_ONE
            continue
        onset[first, note["pitch"]] = NEAR_ONE
        sounding[first:last, note["pitch"]] = NEAR_ONE
        classes[first, note["pitch"], note["program"] // 8] = 1.0
    quiet = np.log1p(-onset).sum(axis=1) + np.log1p(-drum).sum(axis=1)
    return Evidence(onset, drum, sounding, classes, quiet)


@functools.cache
def prepared_class():
    """`FrameEvidence` that hears what it is told."""

    @dataclasses.dataclass(frozen=True)
    class Prepared(FrameEvidence):
        seed: int = 0

        def hear(self, taken, encoded, sown):
            rng = np.random.default_rng(self.seed)
            parts = [evidence_of(random_notes(rng)) for _ in range(encoded.shape[0])]
            return jax.tree.map(lambda *x: jnp.stack(x), *parts)

    return Prepared


@pytest.fixture(scope="module")
def params():
    """A random network with frame heads."""
    return make_params()


def frames_of(count, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, CONFIG.inputs_length, NETWORK.input_depth)
    return rng.normal(-4, 2, shape).astype(np.float32)


def choose(evidence, **options):
    """Options of decoding by evidence and, with it, by type."""
    merged = TypeFirst.from_codec(CODEC, merged=True, reach=0)
    return {
        "filters": (evidence or MASK, merged),
        "strategy": decoding.Greedy(),
        **options,
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_that_are_sure_are_written_down(params, seed):
    """Without the decoder's word, the notes come out as they were heard."""
    prepared = prepared_class().from_config(CONFIG, MASK, decoder_weight=0.0, seed=seed)
    ids, _ = decoding.decode(
        params, NETWORK, frames_of(3), max_length=200, **choose(prepared)
    )
    rng = np.random.default_rng(seed)
    for row in np.asarray(ids):
        wanted = random_notes(rng)
        found = decoded_notes(row)
        assert onsets(found) == onsets(wanted)
        ends = {(n[1], n[2]): n[3] for n in found if not n[4]}
        for note in wanted:
            end = round(float(note["end_time"]) * 50)
            if not note["is_drum"] and end < STEPS:
                assert ends[note["pitch"], note["program"]] == end


def decoded_notes(ids):
    """(start step, pitch, program, end step, is drum) of what ids say."""
    note_tokenizer = tokenizer.NoteTokenizer(CONFIG)
    tokens = np.asarray(note_tokenizer.vocabulary.decode(ids.tolist()))
    notes, invalid, _ = tokenizer.decode_predictions(
        [(0.0, tokens[tokens >= 0])], note_tokenizer
    )
    assert invalid == 0
    return [
        (
            round(n.start_time * 50),
            n.pitch,
            n.program,
            round(n.end_time * 50),
            n.is_drum,
        )
        for n in notes
    ]


def onsets(notes):
    """The set of (step, pitch, program, drum), of an array or of tuples."""
    if isinstance(notes, np.ndarray):
        notes = [
            (
                round(float(n["start_time"]) * 50),
                int(n["pitch"]),
                int(n["program"]),
                0,
                bool(n["is_drum"]),
            )
            for n in notes
        ]
    return {(n[0], n[1], 0 if n[4] else n[2], n[4]) for n in notes}


def test_a_marked_onset_comes_out_at_its_step():
    """What training marks in frames is read back at the time that it stands for."""
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    rng = np.random.default_rng(5)
    notes = random_notes(rng, count=30, drums=0)
    notes = notes[notes["start_time"] < 0.85]
    rows = jnp.asarray(grids.note_rows(notes, 40))[None]
    grid = grids.onset_grid(rows, CONFIG)
    steps = np.asarray(evidence._at_steps(10.0 * (2 * grid - 1)))[0]
    for note in notes:
        marked = np.flatnonzero(steps[:, note["pitch"]] > 0.5)
        step = round(float(note["start_time"]) * 50)
        # Onsets before the first frame's centre (0.064 s) are not distinguished.
        assert len(marked) == 1
        assert abs(marked[0] - step) <= (2 if step <= 3 else 1)


def test_steps_are_those_between_the_contexts():
    """Onsets in the context before or after the segment are not the segment's."""
    config = dataclasses.replace(CONFIG, inputs_length=70, context_frames=10)
    evidence = FrameEvidence.from_config(config, MASK)
    logits = np.full((1, 70, 128), -20.0, np.float32)
    # An onset at step s lies in the frame that is centred there, 3.2 frames later.
    for step, pitch in ((-1, 40), (0, 41), (1, 42), (49, 43), (50, 44)):
        frame = round(10 + step - 3.2)
        logits[0, frame : frame + 2, pitch] = 9.0
    steps = np.asarray(evidence._at_steps(jnp.asarray(logits)))[0]
    found = np.argwhere(steps > 0.5).tolist()
    assert found == [[0, 41], [1, 42], [49, 43]]
    assert evidence._frames(70)[[0, 49]].tolist() == [7, 56]


@pytest.mark.parametrize(("programs", "drums"), [((), True), ((0, 8), False)])
def test_what_was_not_asked_for_is_not_heard(params, programs, drums):
    """Drums alone, or no drums: the rest is neither written nor waited for."""
    mask = decoding.GrammarMask.from_codec(
        CODEC,
        vocab_size=NETWORK.vocab_size,
        program_granularity="midi_class",
        programs=programs,
        drums=drums,
        max_steps=STEPS,
    )
    evidence = FrameEvidence.from_config(CONFIG, mask, onset_bias=9.0, drum_bias=9.0)
    ids, _ = decoding.decode(
        params, NETWORK, frames_of(1), max_length=60, **choose(evidence)
    )
    ids = np.asarray(ids)[0]
    events = [CODEC.decode_event_index(token - 3) for token in ids if token >= 3]
    found = {event.type for event in events} & {"pitch", "drum", "program"}
    assert found == ({"drum"} if drums else {"pitch", "program"})
    listed = {event.value for event in events if event.type == "program"}
    assert listed <= set(programs)


def test_probabilities_of_the_next_token_sum_to_one():
    """Wherever the grammar stands, as long as it allows to stay and to move on."""
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    rng = np.random.default_rng(3)
    heard = jax.tree.map(lambda x: jnp.asarray(x)[None], evidence_of(random_notes(rng)))
    heard = heard._replace(
        onset=jnp.minimum(heard.onset, 0.6), sounding=jnp.maximum(heard.sounding, 0.1)
    )
    quiet = jnp.sum(jnp.log1p(-heard.onset) + jnp.log1p(-heard.drum), axis=-1)
    heard = heard._replace(quiet=quiet)
    state = MASK.init(1)
    first = {name: CODEC.event_type_range(name)[0] + 3 for name in CODEC.types}
    walk = [
        first["tie"],
        first["shift"] + 6,
        first["program"] + 8,
        first["velocity"] + 1,
        first["pitch"] + 60,
        first["pitch"] + 64,
    ]
    sums = []
    for token in walk:
        state = MASK.advance(state, jnp.asarray([token], jnp.int32))
        allowed = MASK.allowed(state)
        logs = evidence.log_probabilities(heard, state, allowed)
        assert np.isfinite(np.asarray(logs)).all()
        probability = np.where(np.asarray(allowed), np.exp(np.asarray(logs)), 0.0)
        if bool(allowed[0, 1]):  # It may end: all is possible.
            sums.append(probability.sum())
    assert len(sums) == 3
    np.testing.assert_allclose(sums, 1.0, atol=0.01)


def test_a_written_note_is_not_written_twice():
    """The probability of a note falls once it stands there, of any instrument."""
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    notes = np.zeros(1, NOTE_DTYPE)
    notes["end_time"], notes["pitch"], notes["program"] = 0.5, 60, 8
    heard = jax.tree.map(lambda x: jnp.asarray(x)[None], evidence_of(notes))
    first = {name: CODEC.event_type_range(name)[0] + 3 for name in CODEC.types}
    state = MASK.init(1)
    tokens = [first["tie"], first["program"] + 8, first["velocity"] + 1]
    for token in tokens:
        state = MASK.advance(state, jnp.asarray([token], jnp.int32))

    def probability(state):
        logs = evidence.log_probabilities(heard, state, MASK.allowed(state))
        return float(jnp.exp(logs[0, first["pitch"] + 60]))

    before = probability(state)
    state = MASK.advance(state, jnp.asarray([first["pitch"] + 60], jnp.int32))
    other = MASK.advance(state, jnp.asarray([first["program"] + 16], jnp.int32))
    assert before > 0.9
    assert probability(other) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [decoding.Beam(), decoding.Beam(3)])
def test_streams_decode_as_single_segments_do(params, strategy):
    """Slots keep each segment's own evidence, in any order and number."""
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    frames = frames_of(5, seed=2)
    options = choose(evidence, strategy=strategy, max_length=48)
    decoder = decoding.SegmentDecoder(
        params,
        NETWORK,
        decoding.DecodeOptions(
            **options, num_slots=2, cache_sizes=(16,), encode_batch=2
        ),
    )
    found = {result.key: result.ids for result in decoder.run(enumerate(frames))}
    ids, _ = decoding.decode(params, NETWORK, frames, **options)
    ids = np.asarray(ids).reshape(5, -1, 48)[:, -1]
    for key, row in enumerate(ids):
        count = len(found[key])
        np.testing.assert_array_equal(found[key], row[:count])
        assert not row[count:].any()
    assert len({tuple(row) for row in ids}) > 1


@pytest.mark.slow
def test_evidence_changes_what_is_decoded(params):
    """And only as far as its weight goes."""
    frames = frames_of(2, seed=2)

    def ids(**settings):
        evidence = FrameEvidence.from_config(CONFIG, MASK, **settings)
        found, _ = decoding.decode(
            params, NETWORK, frames, max_length=40, **choose(evidence)
        )
        return np.asarray(found)

    alone = choose(None)
    alone, _ = decoding.decode(params, NETWORK, frames, max_length=40, **alone)
    np.testing.assert_array_equal(ids(weight=0.0), np.asarray(alone))
    assert (ids() != np.asarray(alone)).any()


def test_settings_are_checked():
    """Bad settings and missing parts are named."""
    with pytest.raises(ConfigError, match="no setting 'loudness'"):
        FrameEvidence.from_config(CONFIG, MASK, loudness=1.0)
    with pytest.raises(ConfigError, match="evidence's weight is -1"):
        FrameEvidence.from_config(CONFIG, MASK, weight=-1.0)
    with pytest.raises(ConfigError, match="no setting 'steps'"):
        FrameEvidence.from_config(CONFIG, MASK, steps=3)
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    without = dataclasses.replace(NETWORK, frame_heads=False)
    options = decoding.DecodeOptions(filters=(evidence,))
    with pytest.raises(ConfigError, match="no frame heads"):
        decoding.SegmentDecoder(make_params(), without, options)
    with pytest.raises(ConfigError, match="frame_heads"):
        dataclasses.replace(NETWORK, harmonic_channels=0)


def test_missing_heads_are_named(params):
    """Weights that claim to have heads and do not."""
    evidence = FrameEvidence.from_config(CONFIG, MASK)
    tree = {key: params[key] for key in ("encoder", "decoder")}
    options = decoding.DecodeOptions(**choose(evidence))
    with pytest.raises(CheckpointError, match="frame_heads/kernel"):
        decoding.SegmentDecoder(tree, NETWORK, options)


def test_types_are_the_codecs():
    """The order of token types that the evidence relies on is the codec's."""
    assert isinstance(CODEC, event_codec.Codec)
    names = ["shift", "pitch", "velocity", "tie", "program", "drum"]
    assert list(CODEC.types) == names
    assert evidence_module._CLASS_SIZE == 8
