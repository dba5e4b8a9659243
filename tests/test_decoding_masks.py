"""The grammar mask allows what the tokenizer writes, and nothing that is invalid."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt3 import configs, network, tokenizer, vocabularies
from mt3.decoding import Beam, Temperature, decode
from mt3.decoding.masks import GrammarMask
from mt3.errors import ConfigError
from mt3.note_sequences import Note
from tests.support import drawn, note_strategies

EOS = 1
MAX_IDS = 200
FRAMES = 256


def make(bins=1, ties=True, onsets_only=False, granularity="full", **options):
    """Returns a tokenizer and the mask of the same settings."""
    tok = tokenizer.NoteTokenizer(
        configs.ModelConfig(
            network={},
            vocabulary=vocabularies.VocabularyConfig(num_velocity_bins=bins),
            include_ties=ties,
            onsets_only=onsets_only,
            program_granularity=granularity,
        )
    )
    mask = GrammarMask.from_codec(
        tok.codec,
        include_ties=ties,
        onsets_only=onsets_only,
        program_granularity=granularity,
        **options,
    )
    return tok, mask


SETTINGS = [
    {},
    {"bins": 127, "ties": False, "granularity": "flat"},
    {"bins": 5, "granularity": "midi_class", "max_steps": 205},
    {"ties": False, "onsets_only": True, "granularity": "flat"},
]


@functools.partial(jax.jit, static_argnums=0)
def follow(mask, ids):
    """Says for each of ids [L] whether it was allowed, and what is allowed after."""

    def step(state, token):
        allowed = mask.allowed(state)[0]
        return mask.advance(state, token[None]), (allowed[token], allowed)

    state, (accepted, allowed) = jax.lax.scan(step, mask.init(1), ids)
    return accepted, allowed, mask.allowed(state)[0]


def accepts(mask, ids):
    """Says whether ids [n], EOS last, are allowed one after another."""
    padded = np.zeros(MAX_IDS, np.int32)
    padded[: len(ids)] = ids
    return bool(np.all(follow(mask, padded)[0][: len(ids)]))


def allowed_after(mask, ids):
    """Returns the tokens allowed after ids, as a set."""
    padded = np.zeros(MAX_IDS, np.int32)
    padded[: len(ids)] = ids
    return set(np.flatnonzero(follow(mask, padded)[1][len(ids)]).tolist())


def without_overlaps(notes, tok):
    """Keeps notes that do not touch an earlier one of equal pitch and program."""
    program_of = vocabularies.program_granularity(
        tok.config.program_granularity
    ).program_map_fn
    ends, kept = {}, []
    for note in sorted(notes, key=lambda note: note.start_time):
        key = (note.pitch, program_of(note.program), note.is_drum)
        if note.start_time > ends.get(key, -1.0):
            kept.append(note)
            ends[key] = note.end_time
    return kept


@pytest.mark.parametrize("options", SETTINGS)
@settings(max_examples=25)
@given(
    notes=note_strategies.note_lists(max_size=20, max_step=250),
    first_frame=st.integers(0, 200),
)
def test_what_the_tokenizer_writes_is_allowed(options, notes, first_frame):
    tok, mask = make(**options)
    song = tok.encode_song(without_overlaps(notes, tok), 600)
    ids = tok.segment_ids(song, first_frame, FRAMES)
    assert accepts(mask, ids[:MAX_IDS])


def test_long_shifts_are_split():
    tok, mask = make(max_steps=5000)
    notes = [Note(t, t + 0.1, 60) for t in (0.0, 10.5, 11.2, 20.0, 35.7)]
    song = tok.encode_song(notes, 125 * 40)
    ids = tok.segment_ids(song, 0, 125 * 40)
    assert (ids == 3 + 1000).sum() > 3
    assert accepts(mask, ids)
    # After shifts that add up to 30 s in a segment that has reached 35.7 s.
    shifts = allowed_after(mask, ids[: np.flatnonzero(ids == 3 + 1000)[-1] + 1])
    assert shifts == set(range(3 + 571, 3 + 1001))


@pytest.fixture
def ids():
    """Returns a function from events as (type, value) to ids, without ties."""

    def to_ids(*events, bins=1):
        codec = vocabularies.build_codec(
            vocabularies.VocabularyConfig(num_velocity_bins=bins)
        )
        return [codec.event_type_range(kind)[0] + value + 3 for kind, value in events]

    return to_ids


NOTE = (("tie", 0), ("program", 5), ("velocity", 1), ("pitch", 60))


@pytest.mark.parametrize(
    ("events", "forbidden"),
    [
        ((), ("shift", 5)),  # before the tie event
        ((), ("pitch", 60)),  # no program yet
        ((), ("velocity", 1)),  # in the tie section
        ((("program", 5),), ("tie", 0)),  # program without a pitch
        ((("program", 5), ("pitch", 60)), ("pitch", 60)),  # the same twice
        ((("program", 5), ("pitch", 60)), ("program", 4)),  # not rising
        ((("tie", 0),), ("tie", 0)),  # a second tie
        ((("tie", 0),), ("velocity", 0)),  # nothing to end
        ((("tie", 0),), ("drum", 40)),  # no velocity yet
        ((("tie", 0), ("program", 5)), ("drum", 40)),
        ((("tie", 0), ("program", 5), ("velocity", 1)), ("drum", 40)),
        ((("tie", 0), ("velocity", 1)), ("pitch", 60)),  # no program yet
        (NOTE, ("program", 5)),  # no change
        (NOTE, ("velocity", 1)),  # no change
        ((*NOTE, ("velocity", 0)), ("pitch", 61)),  # silent
        ((*NOTE, ("velocity", 0)), ("drum", 40)),  # a drum's end
        ((*NOTE, ("velocity", 0), ("pitch", 60)), ("pitch", 60)),  # ended already
        ((*NOTE, ("velocity", 0), ("pitch", 60)), ("drum", 40)),
        ((*NOTE, ("program", 6)), ("velocity", 0)),  # sounds under program 5 only
        ((*NOTE, ("shift", 7)), ("shift", 8)),  # nothing between
        ((*NOTE, ("shift", 7), ("pitch", 60)), ("shift", 7)),  # time stands still
        ((*NOTE, ("shift", 7), ("pitch", 60)), ("shift", 6)),  # time runs back
    ],
)
def test_forbidden_events(ids, events, forbidden):
    _, mask = make()
    assert accepts(mask, ids(*events))
    assert not accepts(mask, ids(*events, forbidden))


@pytest.mark.parametrize(
    ("events", "ends"),
    [
        ((), False),
        ((("tie", 0),), True),
        (NOTE[:-1], False),
        (NOTE, True),
        ((*NOTE, ("shift", 3)), False),
    ],
)
def test_where_a_segment_may_end(ids, events, ends):
    _, mask = make()
    assert (EOS in allowed_after(mask, ids(*events))) == ends


def test_special_and_unused_ids_are_never_allowed(ids):
    tok, mask = make()
    allowed = np.asarray(follow(mask, np.array(ids(*NOTE), np.int32))[1])
    assert not allowed[:, [0, 2]].any()
    assert not allowed[:, tok.vocabulary.base_vocab_size :].any()
    assert allowed.shape[1] == 1536


def test_only_the_asked_for_instruments(ids):
    _, only_drums = make(programs=[], drums=True)
    assert allowed_after(only_drums, []) == set(ids(("tie", 0)))
    start = ids(("tie", 0))
    after = allowed_after(only_drums, start)
    assert set(ids(("velocity", 1))) <= after
    assert not after & set(ids(("program", 0), ("program", 33), ("pitch", 40)))

    _, bass = make(programs=[32, 33], drums=False)
    after = allowed_after(bass, start)
    assert after & set(ids(*[("program", p) for p in range(128)])) == set(
        ids(("program", 32), ("program", 33))
    )
    # A velocity alone could only lead to a drum.
    assert not after & set(ids(("velocity", 1)))

    _, classes = make(granularity="midi_class", programs=[33, 41])
    assert classes.programs == (32, 40)


@pytest.mark.parametrize(
    "options",
    [
        {"programs": [], "drums": False},
        {"programs": [128]},
        {"granularity": "flat", "programs": [0]},
        {"granularity": "flat", "onsets_only": True, "ties": False, "programs": [0]},
        {"max_steps": -1},
    ],
)
def test_impossible_masks(options):
    with pytest.raises(ConfigError, match="logit mask"):
        make(**options)


def network_of(mask):
    """Returns a tiny random network whose logits are far from uniform."""
    config = network.T5Config.from_dict(
        {
            "vocab_size": mask.vocab_size,
            "emb_dim": 8,
            "num_heads": 1,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "head_dim": 4,
            "mlp_dim": 8,
            "input_depth": 4,
        }
    )
    tokens = jnp.ones((1, 4), jnp.int32)
    init = functools.partial(network.Transformer(config).init, enable_dropout=False)
    params = drawn.parameters(init, jnp.zeros((1, 3, 4)), tokens, tokens)
    return params, config


def first_segment(tok, events):
    """Writes a segment in which everything sounds that a second one may tie or end."""
    codec = tok.codec
    sounding, program = set(), 0
    for index in events:
        event = codec.decode_event_index(int(index))
        if event.type == "tie":
            break
        program = event.value if event.type == "program" else program
        if event.type == "pitch":
            sounding.add((program, event.value))
    if not tok.config.include_ties:
        sounding = {(0, pitch) for pitch in range(128)}
    tie = [codec.event_type_range("tie")[0]] if tok.config.include_ties else []
    if tok.config.onsets_only:
        return [codec.event_type_range("pitch")[0] + pitch for _, pitch in sounding]
    out = [*tie, codec.event_type_range("velocity")[0] + 1]
    for program, pitch in sorted(sounding):
        if tok.config.program_granularity != "flat":
            out.append(codec.event_type_range("program")[0] + program)
        out.append(codec.event_type_range("pitch")[0] + pitch)
    return out


@pytest.mark.parametrize(
    ("options", "strategy"),
    [(options, Temperature(3.0)) for options in SETTINGS]
    + [({}, strategy) for strategy in (Beam(), Beam(3))],
)
def test_masked_decoding_gives_no_invalid_event(options, strategy):
    tok, mask = make(**options)
    params, config = network_of(mask)
    count = 24 if isinstance(strategy, Temperature) else 4
    rng = np.random.default_rng(5)
    frames = 9 * rng.normal(size=(count, 3, 4)).astype(np.float32)
    options = {"max_length": 96, "strategy": strategy, "filters": (mask,)}
    ids, _ = decode(params, config, frames, **options)
    if strategy.beams > 1:
        ids = ids[:, -1]
    written = 0
    for row in np.asarray(ids):
        events = tok.vocabulary.decode_array(row)
        ended = (row == EOS).any()
        # Without EOS, row is full; it never holds padding or unknown ids.
        events = events[events != vocabularies.DECODED_EOS_ID]
        assert (events >= 0).all()
        assert ended or len(events) == 96
        written += len(events)
        state = tok.spec.init_decoding_state_fn()
        for start, tokens in ((0.0, first_segment(tok, events)), (10.0, events)):
            tok.spec.begin_decoding_segment_fn(state)
            invalid, _ = tok.spec.decode_tokens(state, tokens, start, None, tok.codec)
            assert invalid == 0
    assert written > 2 * count


def test_nothing_begins_twice_at_one_time(ids):
    _, mask = make()
    begin = [("tie", 0), ("program", 8), ("velocity", 1), ("pitch", 60), ("drum", 38)]
    pitch, drum = ids(("pitch", 0))[0], ids(("drum", 0))[0]
    after = allowed_after(mask, ids(*begin))
    assert not {pitch + 60, drum + 38} & after
    assert {pitch + 61, drum + 37} <= after
    # Another program may have the pitch; the first still may not.
    other = allowed_after(mask, ids(*begin, ("program", 16)))
    assert pitch + 60 in other
    back = [("program", 16), ("pitch", 60), ("program", 8)]
    assert pitch + 60 not in allowed_after(mask, ids(*begin, *back))
    # Ended and begun again at one time would go on for ever; later it is fine.
    again = [("velocity", 0), ("pitch", 60), ("velocity", 1)]
    assert pitch + 60 not in allowed_after(mask, ids(*begin, *again))
    for later in ([("shift", 5)], [("shift", 5), ("pitch", 61)]):
        after = allowed_after(mask, ids(*begin, *later))
        assert {pitch + 60, drum + 38} <= after


def test_onsets_alone_begin_once_too(ids):
    _, mask = make(ties=False, onsets_only=True, granularity="flat")
    pitch = ids(("pitch", 0))[0]
    assert pitch + 60 not in allowed_after(mask, ids(("pitch", 60)))
    assert pitch + 60 in allowed_after(mask, ids(("pitch", 60), ("shift", 1)))
