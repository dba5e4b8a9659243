"""The grammar: which tokens may come next.

`GrammarMask` is a logit filter: an automaton that follows each row's tokens and allows
exactly what the encoder of notes can write (see `run_length_encoding` and `tokenizer`),
restricted to the instruments asked for:

  sequence  = [ties "tie"] groups EOS
  ties      = {program pitch {pitch}}       programs rising, no pitch twice
  groups    = [events] {shift events}       absolute time rising, events not empty
  events    = {[program] [velocity] pitch | [velocity] drum}

Further: a program or velocity that equals the present one is never repeated; a note
needs a program and a velocity set before in the segment; velocity bin 0 (note off)
comes only before a pitch that sounds under the present program, never before a drum.
Notes sound from their tie or onset until their note-off. Without a tie section, notes
of earlier segments may still sound, so the first note-off of a pitch is always
allowed. At one time each pitch of a program begins at most once, and so does each
drum: a weak model that repeats itself is stopped at once, not at the longest target.
(Two notes that the program granularity makes one may stand twice in training data; a
reader could not use the second.) `flat` granularity has no programs; with onsets only
there are neither programs, velocities nor drums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import event_codec, vocabularies
from mt3.decoding.filters import LogitFilter
from mt3.decoding.strategies import NEG_INF
from mt3.errors import ConfigError
from mt3.vocabularies import NUM_PITCHES, NUM_PROGRAMS, NUM_SPECIAL_IDS

Array = jax.Array

_WORD_BITS = 32
_PITCH_WORDS = NUM_PITCHES // _WORD_BITS

# What came last. START is the beginning, or just after the tie event.
_START, _EVENT, _SHIFT, _PROGRAM, _VELOCITY, _PROGRAM_VELOCITY = range(6)


class GrammarState(NamedTuple):
    """Where each row is in the grammar."""

    in_ties: Array  # bool [R]
    last: Array  # int32 [R]: _START, ...
    time: Array  # int32 [R]: steps of the latest group of events
    total: Array  # int32 [R]: sum of the shifts since then
    may_shift_on: Array  # bool [R]: the last shift was the longest, more may follow
    program: Array  # int32 [R]: -1 none yet
    velocity: Array  # int32 [R]: bin, -1 none yet
    sounding: Array  # uint32 [R, P, 4]: bit set of pitches by program
    begun: Array  # uint32 [R, P, 4]: those that began at the present time
    hit: Array  # uint32 [R, 4]: drums of the present time


@dataclasses.dataclass(frozen=True)
class GrammarMask(LogitFilter):
    """Allows grammatical events of the asked-for instruments; see the module.

    Make one with `from_codec`.

    Attributes:
      vocab_size: rows of the logits, V.
      max_shift: longest single shift, in steps.
      num_velocity_bins: bins besides bin 0.
      ties: whether segments begin with a tie section.
      velocities: whether there are velocities (and drums); not with onsets only.
      programs: the program tokens allowed; `None` where the model has no programs.
      pitched: whether notes other than drums are allowed.
      drums: whether drums are allowed.
      max_steps: the latest time of an event, in steps from the segment's start.
    """

    vocab_size: int
    max_shift: int
    num_velocity_bins: int
    ties: bool
    velocities: bool
    programs: tuple[int, ...] | None
    pitched: bool
    drums: bool
    max_steps: int

    @classmethod
    def from_codec(
        cls,
        codec: event_codec.Codec,
        *,
        vocab_size: int | None = None,
        include_ties: bool = True,
        onsets_only: bool = False,
        program_granularity: str = "full",
        programs: Iterable[int] | None = None,
        drums: bool = True,
        max_steps: int | None = None,
    ) -> GrammarMask:
        """Builds the mask of a model.

        Args:
          codec: MT3's codec.
          vocab_size: size of the logits; the codec's embedding rows if `None`.
          include_ties: the model writes a tie section.
          onsets_only: the model writes pitches alone.
          program_granularity: `flat`, `midi_class` or `full`.
          programs: General MIDI programs (0..127) to allow; `None` means all.
          drums: whether to allow drums.
          max_steps: latest time of an event in steps from the segment's start;
            the longest shift if `None`.

        Raises:
          ConfigError: programs out of range, asked for where the model does not tell
            programs apart, or nothing is left to transcribe.
        """
        granularity = vocabularies.program_granularity(program_granularity)
        has_programs = program_granularity != "flat" and not onsets_only
        allowed = _allowed_programs(programs, granularity, has_programs)
        pitched = allowed is None or bool(allowed)
        drums = drums and not onsets_only
        if not pitched and not drums:
            raise ConfigError("logit mask: neither programs nor drums are allowed")
        if max_steps is None:
            max_steps = codec.max_shift_steps
        if max_steps < 0:
            raise ConfigError(f"logit mask: max_steps is {max_steps}; expected >= 0")
        vocabulary = vocabularies.token_vocabulary(codec)
        return cls(
            vocab_size=vocab_size or vocabularies.num_embeddings(vocabulary),
            max_shift=codec.max_shift_steps,
            num_velocity_bins=vocabularies.num_velocity_bins_from_codec(codec),
            ties=include_ties,
            velocities=not onsets_only,
            programs=allowed,
            pitched=pitched,
            drums=drums,
            max_steps=max_steps,
        )

    def init(self, rows: int) -> GrammarState:
        """Returns the state of fresh rows; see `LogitFilter`."""
        zeros = jnp.zeros((rows,), jnp.int32)
        programs = 1 if self.programs is None else NUM_PROGRAMS
        # Without ties nobody has said what sounds, so anything may.
        words = 0 if self.ties else 0xFFFFFFFF
        return GrammarState(
            in_ties=jnp.full((rows,), self.ties),
            last=jnp.full((rows,), _START, jnp.int32),
            time=zeros,
            total=zeros,
            may_shift_on=jnp.zeros((rows,), bool),
            program=zeros - 1,
            velocity=zeros - 1,
            sounding=jnp.full((rows, programs, _PITCH_WORDS), words, jnp.uint32),
            begun=jnp.zeros((rows, programs, _PITCH_WORDS), jnp.uint32),
            hit=jnp.zeros((rows, _PITCH_WORDS), jnp.uint32),
        )

    def __call__(self, logits: Array, state: GrammarState) -> Array:
        """Forbids what is not grammatical; see `LogitFilter`."""
        return jnp.where(self.allowed(state), logits, NEG_INF)

    def allowed(self, state: GrammarState) -> Array:
        """Says which tokens may come next, bool [R, V]; at least one in each row."""
        rows = state.last.shape[0]
        between = (state.last == _START) | (state.last == _EVENT)
        body = ~state.in_ties
        moved_on = (state.last == _SHIFT) & (state.total > state.time)
        can_begin = body & (between | moved_on)
        nothing = jnp.zeros((rows, 1), bool)
        special = [nothing, (body & between)[:, None], nothing]  # PAD, EOS, UNK
        parts = [
            *special,
            self._shifts(state, body & between),
            self._pitches(state, can_begin),
            self._velocities(state, can_begin),
            (state.in_ties & between)[:, None],
            self._programs(state, can_begin, state.in_ties & between),
            self._drums(state, can_begin),
        ]
        known = sum(part.shape[1] for part in parts)
        parts.append(jnp.zeros((rows, self.vocab_size - known), bool))
        return jnp.concatenate(parts, axis=1)

    def _shifts(self, state: GrammarState, may_start: Array) -> Array:
        """Shift tokens: time rises strictly; beyond `max_shift` in several tokens."""
        value = jnp.arange(self.max_shift + 1)[None, :]
        may_go_on = (state.last == _SHIFT) & state.may_shift_on
        total = jnp.where(may_go_on, state.total, 0)[:, None] + value
        arrives = (total > state.time[:, None]) & (total <= self.max_steps)
        leads_on = (value == self.max_shift) & (total < self.max_steps)
        leads_on &= (state.time < self.max_steps)[:, None]
        return (may_start | may_go_on)[:, None] & (arrives | leads_on) & (value > 0)

    def _pitches(self, state: GrammarState, can_begin: Array) -> Array:
        """Pitch tokens: onsets of any pitch, offsets of sounding ones, ties once."""
        fresh = ~pitches_in(self._words(state, state.begun))
        if not self.velocities:
            return can_begin[:, None] & (fresh | _moved(state)[:, None])
        # A shift has led away from what began; it is forgotten at the next event.
        fresh |= _moved(state)[:, None]
        sounds = pitches_in(self._words(state, state.sounding))
        has_program = self._has_program(state)
        inside = (state.last >= _PROGRAM) & ~state.in_ties
        ready = (can_begin | inside) & has_program
        onset = (ready & (state.velocity > 0))[:, None] & fresh
        offset = (ready & (state.velocity == 0))[:, None] & sounds
        tie = (state.in_ties & has_program)[:, None] & ~sounds
        return onset | offset | tie

    def _velocities(self, state: GrammarState, can_begin: Array) -> Array:
        """Velocity tokens: a change; bin 0 only where a pitch can be ended."""
        value = jnp.arange(self.num_velocity_bins + 1)[None, :]
        if not self.velocities:
            return jnp.zeros((state.last.shape[0], value.shape[1]), bool)
        after_program = (state.last == _PROGRAM) & ~state.in_ties
        for_pitch = (can_begin | after_program) & self._has_program(state)
        for_drum = can_begin & self.drums
        sounds = jnp.any(self._words(state, state.sounding) != 0, axis=1)
        offset = (value == 0) & (for_pitch & sounds)[:, None]
        onset = (value > 0) & (for_pitch | for_drum)[:, None]
        return (offset | onset) & (value != state.velocity[:, None])

    def _programs(self, state: GrammarState, can_begin: Array, ties: Array) -> Array:
        """Program tokens: a change, to an allowed program; rising among ties."""
        value = jnp.arange(NUM_PROGRAMS)[None, :]
        if self.programs is None:
            return jnp.zeros((state.last.shape[0], NUM_PROGRAMS), bool)
        changes = can_begin[:, None] & (value != state.program[:, None])
        rises = ties[:, None] & (value > state.program[:, None])
        listed = np.isin(np.arange(NUM_PROGRAMS), self.programs)[None, :]
        return (changes | rises) & listed

    def _drums(self, state: GrammarState, can_begin: Array) -> Array:
        """Drum tokens: with a velocity that is not 0, never after a program."""
        ready = (can_begin | (state.last == _VELOCITY)) & (state.velocity > 0)
        ready = (ready & self.drums)[:, None]
        return ready & (~pitches_in(state.hit) | _moved(state)[:, None])

    def _has_program(self, state: GrammarState) -> Array:
        """Whether a pitch may follow as far as programs go."""
        if self.programs is None:
            return jnp.full(state.last.shape, self.pitched)
        return state.program >= 0

    def _words(self, state: GrammarState, sets: Array) -> Array:
        """The present program's set of pitches among `sets`, uint32 [R, 4]."""
        program = 0 if self.programs is None else jnp.maximum(state.program, 0)
        index = jnp.broadcast_to(program, state.last.shape)[:, None, None]
        return jnp.take_along_axis(sets, index, axis=1)[:, 0, :]

    def advance(self, state: GrammarState, tokens: Array) -> GrammarState:
        """Follows tokens int32 [R]; padding and EOS change nothing."""
        first = NUM_SPECIAL_IDS
        sizes = (
            self.max_shift + 1,
            NUM_PITCHES,
            self.num_velocity_bins + 1,
            1,
            NUM_PROGRAMS,
            NUM_PITCHES,
        )
        kinds = []
        for size in sizes:
            kinds.append((tokens - first, (tokens >= first) & (tokens < first + size)))
            first += size
        (shift, is_shift), (pitch, is_pitch), (velocity, is_velocity) = kinds[:3]
        (_, is_tie), (program, is_program), (drum, is_drum) = kinds[3:]

        # A tie section's pitch is an event of that section; _START is before any.
        last = state.last
        after_velocity = jnp.where(last == _PROGRAM, _PROGRAM_VELOCITY, _VELOCITY)
        for condition, value in (
            (is_shift, _SHIFT),
            (is_pitch | is_drum, _EVENT),
            (is_velocity, after_velocity),
            (is_program, _PROGRAM),
            (is_tie, _START),
        ):
            last = jnp.where(condition, value, last)
        begins = (is_pitch | is_drum | is_velocity | is_program) & (state.total > 0)
        begun = jnp.where(begins[:, None, None], jnp.uint32(0), state.begun)
        hit = jnp.where(begins[:, None], jnp.uint32(0), state.hit)
        starts = is_pitch & (~state.in_ties & (state.velocity != 0))
        total = jnp.where(is_shift, state.total + shift, state.total)
        return GrammarState(
            in_ties=state.in_ties & ~is_tie,
            last=last,
            time=jnp.where(begins, state.total, state.time),
            total=jnp.where(begins, 0, total),
            may_shift_on=is_shift & (shift == self.max_shift),
            program=jnp.where(is_program, program, state.program),
            velocity=jnp.where(is_velocity, velocity, state.velocity),
            sounding=self._follow_notes(state, pitch, is_pitch),
            begun=begun | self._bits(state, pitch, starts),
            hit=hit | _bit_of(drum, is_drum),
        )

    def _bits(self, state: GrammarState, pitch: Array, where: Array) -> Array:
        """Sets with one pitch of the present program, uint32 [R, P, 4]."""
        bits = _bit_of(pitch, where)[:, None, :]
        if self.programs is None:
            return bits
        here = jnp.arange(NUM_PROGRAMS)[None, :] == state.program[:, None]
        return jnp.where(here[:, :, None], bits, jnp.uint32(0))

    def _follow_notes(self, state: GrammarState, pitch: Array, is_pitch: Array):
        """Returns `sounding` after an onset, a tie or an offset."""
        if not self.velocities:
            return state.sounding
        starts = state.in_ties | (state.velocity > 0)
        bits = self._bits(state, pitch, is_pitch)
        starts = starts[:, None, None]
        return jnp.where(starts, state.sounding | bits, state.sounding & ~bits)


def _moved(state: GrammarState) -> Array:
    """Whether a shift has led on since the latest event, bool [R]."""
    return state.total > 0


def pitches_in(words: Array) -> Array:
    """Unpacks bit sets uint32 [R, 4] to bool [R, 128]."""
    bits = jnp.arange(_WORD_BITS, dtype=jnp.uint32)
    unpacked = (words[:, :, None] >> bits[None, None, :]) & 1
    return unpacked.reshape(-1, NUM_PITCHES) != 0


def _bit_of(pitch: Array, where: Array) -> Array:
    """Bit sets uint32 [R, 4] of one pitch each, empty except `where`."""
    pitch = jnp.clip(pitch, 0, NUM_PITCHES - 1)
    bit = jnp.uint32(1) << (pitch % _WORD_BITS).astype(jnp.uint32)
    word = jnp.arange(_PITCH_WORDS)[None, :] == (pitch // _WORD_BITS)[:, None]
    return jnp.where(word & where[:, None], bit[:, None], jnp.uint32(0))


def _allowed_programs(
    programs: Iterable[int] | None,
    granularity: vocabularies.ProgramGranularity,
    has_programs: bool,
) -> tuple[int, ...] | None:
    """Returns the program tokens to allow; `None` where the model has none."""
    if not has_programs:
        if programs is not None:
            raise ConfigError(
                "logit mask: programs were asked for, but this model does not tell "
                "programs apart; expected no restriction"
            )
        return None
    if programs is None:
        programs = range(NUM_PROGRAMS)
    programs = [int(program) for program in programs]
    wrong = [p for p in programs if not 0 <= p < NUM_PROGRAMS]
    if wrong:
        raise ConfigError(f"logit mask: program {wrong[0]}; expected 0..127")
    return tuple(sorted({granularity.program_map_fn(p) for p in programs}))
