"""Notes as NoteSequences, note events one by one and together, decoding event by event.

Values that are said to be the original's were made by running it.
"""

import dataclasses
import subprocess
import sys

import note_seq
import numpy as np
import pytest
from hypothesis import given

from mt3 import event_codec, note_sequences, run_length_encoding, vocabularies
from mt3.errors import ConfigError, MidiError, TokenError
from mt3.event_codec import Event
from mt3.note_sequences import Note, NoteDecodingState, NoteEventData
from mt3.vocabularies import VocabularyConfig
from tests.support.note_strategies import note_lists

CODEC = vocabularies.build_codec(VocabularyConfig())
SPECS = {
    "onsets": note_sequences.NoteOnsetEncodingSpec,
    "notes": note_sequences.NoteEncodingSpec,
    "ties": note_sequences.NoteEncodingWithTiesSpec,
}


def ids(*events):
    return [CODEC.encode_event(Event(kind, value)) for kind, value in events]


def rows(ns):
    names = ("start_time", "end_time", "pitch", "velocity", "program", "is_drum")
    return [tuple(getattr(note, name) for name in names) for note in ns.notes]


# Of two notes with one onset, the original keeps the second when it trims.
SEQUENCE = [
    Note(0.0, 2.0, 60, 80, 3),
    Note(1.0, 3.0, 60, 81, 3),
    Note(1.0, 2.0, 60, 82, 3),
    Note(0.0, 5.0, 60, 81, 4),
    Note(0.0, 2.0, 60, 80, 3, True),
    Note(0.5, 2.0, 60, 80, 3, True),
]
TRIMMED = [
    Note(0.0, 1.0, 60, 80, 3),
    Note(1.0, 2.0, 60, 82, 3),
    Note(0.0, 5.0, 60, 81, 4),
    Note(0.0, 0.5, 60, 80, 3, True),
    Note(0.5, 2.0, 60, 80, 3, True),
]


def test_trimming_keeps_the_kind_and_all_else():
    assert note_sequences.trim_overlapping_notes(SEQUENCE) == TRIMMED
    array = note_sequences.notes_to_array(SEQUENCE)
    trimmed = note_sequences.trim_overlapping_notes(array)
    assert note_sequences.array_to_notes(trimmed) == TRIMMED
    assert note_sequences.array_to_notes(array) == SEQUENCE
    ns = note_sequences.to_note_sequence(SEQUENCE)
    ns.control_changes.add(time=1, control_number=64, control_value=3)
    ns.notes[4].instrument = 4
    trimmed = note_sequences.trim_overlapping_notes(ns)
    assert note_sequences.array_to_notes(note_sequences.note_array(trimmed)) == TRIMMED
    assert trimmed.control_changes == ns.control_changes
    assert trimmed.notes[3].instrument == 4
    assert (trimmed.total_time, len(ns.notes)) == (5, 6)


@given(note_lists())
def test_note_sequences_come_back(notes):
    ns = note_sequences.to_note_sequence(notes)
    array = note_sequences.note_array(ns)
    assert array.dtype == note_sequences.NOTE_DTYPE
    assert note_sequences.array_to_notes(array) == notes
    assert note_sequences.note_array(array) is array
    assert note_sequences.note_array(notes).tolist() == array.tolist()
    assert ns.total_time == max((note.end_time for note in notes), default=0)
    assert ns.ticks_per_quarter == 220


def test_note_sequences_need_note_seq(monkeypatch):
    monkeypatch.setitem(sys.modules, "note_seq", None)
    with pytest.raises(ConfigError, match="note-seq"):
        note_sequences.to_note_sequence([])


def test_extract_track():
    ns = note_sequences.to_note_sequence(SEQUENCE)
    ns.id = "song"
    ns.notes[4].instrument = 4
    drums = note_sequences.extract_track(ns, 3, True)
    assert rows(drums) == [
        tuple(note_sequences.note_values(note).values()) for note in SEQUENCE[4:]
    ]
    assert [note.instrument for note in drums.notes] == [4, 9]
    assert (drums.total_time, drums.ticks_per_quarter, drums.id) == (2, 220, "")
    assert note_sequences.extract_track(ns, 3, False).total_time == 3
    assert not note_sequences.extract_track(ns, 9, False).notes


@pytest.mark.parametrize(
    ("start", "end", "velocity", "problem"),
    [
        (1.0, 1.0, 3, "start time 1.000000 >= end time 1.000000"),
        (1.0, 0.5, 3, "start time 1.000000 >= end time 0.500000"),
        (1.0, 2.0, 0, "zero velocity"),
        # As in the original, nothing else is checked.
        (-1.0, 2.0, 200, None),
    ],
)
def test_validate_note_sequence(start, end, velocity, problem):
    ns = note_sequences.to_note_sequence(SEQUENCE)
    ns.notes.add(start_time=start, end_time=end, velocity=velocity, is_drum=True)
    if problem is None:
        note_sequences.validate_note_sequence(ns)
        return
    with pytest.raises(MidiError, match=f"note 6 has {problem}"):
        note_sequences.validate_note_sequence(ns)


def test_note_arrays_to_note_sequence():
    """The original's outputs."""
    make = note_sequences.note_arrays_to_note_sequence
    ns = make([0.5, 0.1], [60, 61])
    assert rows(ns) == [(0.5, 0.51, 60, 100, 0, False), (0.1, 0.11, 61, 100, 0, False)]
    assert ns.total_time == 0.51
    ns = make(
        np.array([0.5, 0.1, 0.2]),
        np.array([60, 61, 38]),
        [1.0, 3.0, 0.3],
        velocities=[1, 0, 3],
        programs=np.array([3, 4, 5]),
        is_drums=[False, False, True],
    )
    assert rows(ns) == [
        (0.5, 1.0, 60, 1, 3, False),
        (0.1, 3.0, 61, 0, 4, False),
        (0.2, 0.3, 38, 3, 5, True),
    ]
    assert [note.instrument for note in ns.notes] == [0, 1, 9]
    assert make([], []) == note_seq.NoteSequence(ticks_per_quarter=220)
    with pytest.raises(MidiError, match=r"\[2, 2, 1, 2, 2, 2\]"):
        make([0.5, 0.1], [60])


EVENTS = [
    Note(0.5, 1.0, 62, 80, 5),
    Note(0.5, 1.0, 60, 90, 5),
    Note(0.2, 0.7, 70, 90, 3),
    Note(0.2, 0.3, 38, 90, 0, True),
]
# The original's times and events of these, in its order.
LISTS = {
    "note_sequence_to_onsets": [
        (0.2, NoteEventData(38)),
        (0.5, NoteEventData(60)),
        (0.5, NoteEventData(62)),
        (0.2, NoteEventData(70)),
    ],
    "note_sequence_to_onsets_and_offsets": [
        (0.3, NoteEventData(38, 0)),
        (1.0, NoteEventData(60, 0)),
        (1.0, NoteEventData(62, 0)),
        (0.7, NoteEventData(70, 0)),
        (0.2, NoteEventData(38, 90)),
        (0.5, NoteEventData(60, 90)),
        (0.5, NoteEventData(62, 80)),
        (0.2, NoteEventData(70, 90)),
    ],
    "note_sequence_to_onsets_and_offsets_and_programs": [
        (0.7, NoteEventData(70, 0, 3, False)),
        (1.0, NoteEventData(60, 0, 5, False)),
        (1.0, NoteEventData(62, 0, 5, False)),
        (0.2, NoteEventData(70, 90, 3, False)),
        (0.5, NoteEventData(60, 90, 5, False)),
        (0.5, NoteEventData(62, 80, 5, False)),
        (0.2, NoteEventData(38, 90, 0, True)),
    ],
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("kind", [note_sequences.to_note_sequence, list])
def test_note_events_of_notes(name, kind):
    times, values = getattr(note_sequences, name)(kind(EVENTS))
    assert list(zip(times.tolist(), values, strict=True)) == LISTS[name]
    assert isinstance(values[1:], note_sequences.NoteEvents)
    assert list(values[1:]) == list(values)[1:]


@pytest.mark.parametrize(
    ("value", "events", "active"),
    [
        (NoteEventData(60), [("pitch", 60)], {}),
        (NoteEventData(60, None, 3), [("pitch", 60)], {}),
        (NoteEventData(60, 9), [("velocity", 9), ("pitch", 60)], {(60, 0): 9}),
        (NoteEventData(60, 0), [("velocity", 0), ("pitch", 60)], {(60, 0): 0}),
        (
            NoteEventData(60, 9, 3, False),
            [("program", 3), ("velocity", 9), ("pitch", 60)],
            {(60, 3): 9},
        ),
        (NoteEventData(60, 9, 3, True), [("velocity", 9), ("drum", 60)], {}),
        # The original looks at drums only where there are programs.
        (
            NoteEventData(60, 9, None, True),
            [("velocity", 9), ("pitch", 60)],
            {(60, 0): 9},
        ),
    ],
)
def test_events_of_one_note_event(value, events, active):
    expected = [Event(kind, number) for kind, number in events]
    state = note_sequences.NoteEncodingState()
    found = note_sequences.note_event_data_to_events(state, value, CODEC)
    assert found == expected
    assert state.active_pitches == active
    assert note_sequences.note_event_data_to_events(None, value, CODEC) == expected


def test_events_of_a_state():
    """By program, then pitch; the original's order."""
    state = note_sequences.NoteEncodingState(
        {(60, 3): 1, (50, 7): 1, (70, 1): 0, (40, 3): 5}
    )
    found = note_sequences.note_encoding_state_to_events(state)
    assert [(event.type, event.value) for event in found] == [
        *[("program", 3), ("pitch", 40), ("program", 3), ("pitch", 60)],
        *[("program", 7), ("pitch", 50), ("tie", 0)],
    ]


PITCHES = event_codec.Codec(100, 100, [event_codec.EventRange("pitch", 0, 127)])


def test_codecs_without_velocities_or_programs():
    def encode(function, notes, codec):
        return run_length_encoding.encode_and_index_events(
            None,
            *function(notes),
            note_sequences.note_event_data_to_events,
            codec,
            [0.0],
        ).events.tolist()

    notes = [Note(0.0, 0.01, 60)]
    onsets = note_sequences.note_sequence_to_onsets
    assert encode(onsets, notes, PITCHES) == [161, 1]
    both = note_sequences.note_sequence_to_onsets_and_offsets
    with pytest.raises(TokenError, match="velocity"):
        encode(both, notes, PITCHES)
    assert encode(both, [], PITCHES) == [1]
    no_drums = event_codec.Codec(
        *(100, 100),
        [event_codec.EventRange("velocity", 0, 1), PITCHES.event_ranges[1]],
    )
    assert encode(both, notes, no_drums) == [102, 163, 1, 101, 163]
    whole = note_sequences.note_sequence_to_onsets_and_offsets_and_programs
    with pytest.raises(TokenError, match="program"):
        encode(whole, notes, no_drums)
    with pytest.raises(TokenError, match="drum"):
        encode(whole, [Note(0.0, 0.01, 60, is_drum=True)], no_drums)
    # Decoding: every pitch is an onset with the default velocity.
    state = NoteDecodingState()
    tokens = [5, 161, 30, 161, 30, 162]
    counts = run_length_encoding.decode_events(
        state, tokens, 0.0, None, PITCHES, note_sequences.decode_note_event
    )
    assert counts == (0, 0)
    assert state.finish() == [
        Note(0.05, 0.3, 60, 100),
        Note(0.3, 0.31, 60, 100),
        Note(0.3, 0.31, 61, 100),
    ]


# Segments of event tokens and, for each encoding, what the original makes of them: the
# counts of each segment, time, velocity and program at the end, notes.
SEGMENTS = [
    ids(
        *[("program", 3), ("pitch", 60), ("tie", 0), ("velocity", 90), ("pitch", 60)],
        *[("shift", 50), ("drum", 38), ("pitch", 62), ("shift", 60), ("velocity", 0)],
        *[("pitch", 62), ("pitch", 99), ("drum", 38), ("tie", 0)],
    ),
    [
        *ids(("pitch", 60), ("pitch", 60), ("pitch", 61), ("velocity", 70)),
        *ids(("drum", 40), ("tie", 0), ("shift", 10), ("pitch", 64), ("program", 9)),
        *[-1, 5000, *ids(("pitch", 64), ("shift", 12), ("pitch", 60))],
    ],
    ids(("shift", 30), ("pitch", 64), ("shift", 40), ("pitch", 65)),
]
DECODED = {
    "onsets": (
        [(7, 0), (6, 0), (0, 0)],
        (
            *(0.0, 100, 0),
            [],
            False,
        ),
        [
            (0.0, 0.01, 60, 100, 0, False, 0),
            (0.0, 0.01, 60, 100, 0, False, 0),
            (0.5, 0.51, 62, 100, 0, False, 0),
            (0.6, 0.61, 62, 100, 0, False, 0),
            (0.6, 0.61, 99, 100, 0, False, 0),
            (1.0, 1.01, 60, 100, 0, False, 0),
            (1.0, 1.01, 60, 100, 0, False, 0),
            (1.0, 1.01, 61, 100, 0, False, 0),
            (1.1, 1.11, 64, 100, 0, False, 0),
            (1.1, 1.11, 64, 100, 0, False, 0),
            (1.12, 1.1300000000000001, 60, 100, 0, False, 0),
            (2.3, 2.3099999999999996, 64, 100, 0, False, 0),
            (2.4, 2.4099999999999997, 65, 100, 0, False, 0),
        ],
        2.4099999999999997,
    ),
    "notes": (
        [(4, 0), (5, 0), (0, 0)],
        (
            *(2.4, 70, 9),
            [
                ((60, 9), (1.12, 70)),
                ((64, 3), (1.1, 70)),
                ((64, 9), (2.3, 70)),
                ((65, 9), (2.4, 70)),
            ],
            False,
        ),
        [
            (0.0, 0.01, 60, 100, 3, False, 0),
            (0.5, 0.51, 38, 90, 0, True, 9),
            (0.5, 0.6, 62, 90, 3, False, 0),
            (0.0, 1.0, 60, 90, 3, False, 0),
            (1.0, 1.01, 40, 70, 0, True, 9),
            (1.1, 2.3, 64, 70, 9, False, 1),
            (1.1, 2.4099999999999997, 64, 70, 3, False, 0),
            (1.12, 2.4099999999999997, 60, 70, 9, False, 1),
            (2.3, 2.4099999999999997, 64, 70, 9, False, 1),
            (2.4, 2.4099999999999997, 65, 70, 9, False, 1),
        ],
        2.4099999999999997,
    ),
    "ties": (
        [(4, 0), (4, 0), (1, 0)],
        (
            *(2.4, 70, 9),
            [
                ((60, 3), (0.0, 90)),
                ((60, 9), (1.12, 70)),
                ((64, 3), (1.1, 70)),
                ((64, 9), (1.1, 70)),
            ],
            True,
        ),
        [
            (0.5, 0.51, 38, 90, 0, True, 9),
            (0.5, 0.6, 62, 90, 3, False, 0),
            (1.0, 1.01, 40, 70, 0, True, 9),
            (0.0, 2.4, 60, 90, 3, False, 0),
            (1.1, 2.4, 64, 70, 3, False, 0),
            (1.1, 2.4, 64, 70, 9, False, 1),
            (1.12, 2.4, 60, 70, 9, False, 1),
        ],
        2.4,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_decoding_as_the_original(name):
    spec = SPECS[name]
    counts, at_end, notes, total_time = DECODED[name]
    state = spec.init_decoding_state_fn()
    found, taken = [], []
    for number, tokens in enumerate(SEGMENTS):
        spec.begin_decoding_segment_fn(state)
        limit = None if number == 2 else number + 1.0
        found.append(spec.decode_tokens(state, tokens, float(number), limit, CODEC))
        taken += state.take_notes()
    assert found == counts
    assert at_end == (
        state.current_time,
        state.current_velocity,
        state.current_program,
        sorted(state.active_pitches.items()),
        state.is_tie_section,
    )
    ns = spec.flush_decoding_state_fn(state)
    instruments = [note.instrument for note in ns.notes]
    assert [
        (*row, number) for row, number in zip(rows(ns), instruments, strict=True)
    ] == notes
    assert ns.total_time == total_time
    # The same notes, each handed out once, in the order in which they ended.
    taken += state.take_notes()
    assert taken == state.notes == [Note(*row[:-1]) for row in notes]
    assert not state.active_pitches


@pytest.mark.parametrize(
    "event", [("drum", 60), ("velocity", 5), ("program", 3), ("tie", 0), ("shift", 3)]
)
def test_onsets_are_pitches_alone(event):
    state = NoteDecodingState(current_time=2.0)
    with pytest.raises(TokenError, match=f"{event[0]}.*expected a pitch"):
        note_sequences.decode_note_onset_event(state, 2.0, Event(*event), CODEC)
    # As in the original, times may go back, and the state knows no time.
    note_sequences.decode_note_onset_event(state, 1.0, Event("pitch", 60), CODEC)
    assert state.notes == [Note(1.0, 1.01, 60)]
    assert state.current_time == 2.0


@pytest.mark.parametrize(
    ("time", "event", "problem"),
    [
        (0.5, ("pitch", 60), "at 0.500000 s; expected none before 1.000000 s"),
        (1.5, ("shift", 3), "expected an event of a note"),
        (1.5, ("pitch", 70), "value=70.*program 0; expected an offset of"),
        (1.5, ("drum", 70), "expected a velocity above 0"),
        (1.5, ("tie", 0), "expected ties in a tie section"),
    ],
)
def test_events_that_are_not_valid(time, event, problem):
    active = {(60, 0): (0.995, 50)}
    state = NoteDecodingState(
        current_time=1.0, current_velocity=0, active_pitches=dict(active)
    )
    with pytest.raises(TokenError, match=problem):
        note_sequences.decode_note_event(state, time, Event(*event), CODEC)
    assert (state.active_pitches, state.notes) == (active, [])
    # An event in time moves the time even so, as in the original.
    assert state.current_time == max(time, 1.0)


def test_tie_sections():
    sounding = {(60, 0): (0.5, 50), (62, 3): (0.7, 40), (64, 3): (0.998, 40)}
    state = NoteDecodingState(active_pitches=dict(sounding), tied_pitches={(62, 3)})
    note_sequences.begin_tied_pitches_section(state)
    assert (state.tied_pitches, state.is_tie_section) == (set(), True)

    def take(*event):
        note_sequences.decode_note_event(state, 1.0, Event(*event), CODEC)

    take("pitch", 60)
    for pitch in (60, 61):
        with pytest.raises(TokenError, match=f"value={pitch}.*expected a tie of"):
            take("pitch", pitch)
    # Drums may sound in a tie section.
    take("drum", 38)
    take("tie", 0)
    assert state.active_pitches == {(60, 0): (0.5, 50)}
    assert state.notes == [
        Note(1.0, 1.01, 38, 100, 0, True),
        Note(0.7, 1.0, 62, 40, 3),
        # Never shorter than 10 ms.
        Note(0.998, 1.008, 64, 40, 3),
    ]


def test_a_decoding_state_and_its_note_sequence():
    ns = note_sequences.to_note_sequence(SEQUENCE)
    state = NoteDecodingState(note_sequence=ns)
    assert state.notes == SEQUENCE
    assert rows(state.note_sequence) == rows(ns)
    assert state.note_sequence.total_time == 5
    empty = note_seq.NoteSequence(ticks_per_quarter=220)
    assert NoteDecodingState().note_sequence == empty


def test_decoding_needs_no_note_seq():
    program = (
        "import sys\n"
        "from mt3 import configs, tokenizer\n"
        "from mt3.note_sequences import Note\n"
        "tok = tokenizer.NoteTokenizer(configs.MT3)\n"
        "song = tok.encode_song([Note(0.1, 0.5, 60)], 100)\n"
        "events = tok.segment_events(song, 0, 100)\n"
        "print(tokenizer.decode_predictions([(0.0, events)], tok)[0])\n"
        "print({'note_seq', 'seqio', 'tensorflow'} & set(sys.modules))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    expected = [Note(0.1, 0.5, 60, 127)]
    assert run.stdout.splitlines() == [str(expected), "set()"]


def test_encodings_by_their_settings():
    choose = note_sequences.note_encoding_spec
    assert choose(True, False) is SPECS["onsets"]
    assert choose(False, False) is SPECS["notes"]
    assert choose(False, True) is SPECS["ties"]
    ending = choose(False, True, unclosed_ties="end")
    assert dataclasses.replace(ending, unclosed_ties="keep") == SPECS["ties"]
    with pytest.raises(ConfigError, match="unclosed_ties is 'maybe'"):
        choose(False, True, unclosed_ties="maybe")
    with pytest.raises(ConfigError, match="onsets have no ties"):
        choose(True, True)


def test_track_specs():
    assert note_sequences.TrackSpec("bass") == note_sequences.TrackSpec(
        "bass", 0, False
    )


def test_trim_overlapping_notes():
    notes = [Note(0, 2, 60), Note(1, 3, 60), Note(0, 2, 60, program=1), Note(1, 4, 61)]
    trimmed = note_sequences.trim_overlapping_notes(notes)
    assert trimmed == [Note(0, 1, 60), *notes[1:]]
    assert note_sequences.trim_overlapping_notes([]) == []


def test_trimming_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    # Times on a coarse grid, so that many are equal.
    notes = [
        Note(start, start + rng.integers(1, 6), 60 + p, 100 + v, program, bool(is_drum))
        for start, p, v, program, is_drum in rng.integers(0, [30, 2, 3, 2, 2], (300, 5))
    ]
    last, expected = {}, list(notes)
    for index in sorted(range(len(notes)), key=lambda i: notes[i].start_time):
        note = notes[index]
        key = (note.pitch, note.program, note.is_drum)
        if key in last:
            before = expected[last[key]]
            end = min(before.end_time, note.start_time)
            expected[last[key]] = dataclasses.replace(before, end_time=end)
        last[key] = index
    expected = [note for note in expected if note.end_time > note.start_time]
    assert 20 < len(expected) < 300
    assert note_sequences.trim_overlapping_notes(notes) == expected


def test_assign_instruments():
    programs = [5, 5, 7, *range(20, 29)]
    notes = [Note(0, 1, 60, program=p) for p in programs]
    notes.insert(2, Note(0, 1, 38, is_drum=True))
    ns = note_sequences.to_note_sequence(notes)
    expected = [0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert [note.instrument for note in ns.notes] == expected
    for note in ns.notes:
        note.instrument = 3
    assert note_sequences.assign_instruments(ns) is None
    assert [note.instrument for note in ns.notes] == expected


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        (Note(1.0, 0.5, 60), "before its onset"),
        (Note(-1.0, 0.5, 60), "before 0 s"),
        (Note(0.0, float("nan"), 60), "not finite"),
        (Note(0.0, 1.0, 128), "pitch"),
        (Note(0.0, 1.0, 60, 0), "velocity"),
        (Note(0.0, 1.0, 60, 100, 128), "program"),
    ],
)
def test_validate_notes(note, problem):
    with pytest.raises(MidiError, match=f"song.mid: note 1: .*{problem}"):
        note_sequences.validate_notes([Note(0, 1, 60), note], "song.mid")
