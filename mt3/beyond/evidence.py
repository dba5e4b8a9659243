"""Joint decoding: the decoder's tokens, weighed by what the encoder hears in frames.

A decoder that has seen few examples writes plausible music rather than what is there.
Speech recognition has the same problem, and scores hypotheses by attention and by a
frame-wise model together (Watanabe et al. 2017, "Hybrid CTC/attention architecture").
Here the frame-wise model is the heads of `frame_heads`: probabilities that a note
begins or sounds, that a drum is hit, and which class a note belongs to. `FrameEvidence`
turns them into a distribution over the next token:

* At the present time, independent events may happen: notes that are likely to begin
  and drums that are likely to be hit, if they have not been written, and sounding notes
  that are likely to end. The probability that any of them happens is divided among the
  tokens that lead to them, and among programs by the notes' classes.
* Otherwise time moves on, to the first step at which anything happens, or to the end.

Its logarithm is added to the decoder's log-probabilities. `TypeFirst` then chooses
between staying, moving on and ending.

It follows the state of the grammar, so it contains the `GrammarMask`. It is not part of
the original; scores of sequences are no longer log-probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mt3 import frame_heads, harmonic_stem
from mt3.beyond.grids import NUM_CLASSES, frame_of_time
from mt3.configs import ModelConfig
from mt3.decoding.filters import LogitFilter
from mt3.decoding.masks import GrammarMask, GrammarState, pitches_in
from mt3.decoding.strategies import NEG_INF
from mt3.errors import ConfigError
from mt3.network import T5Config
from mt3.vocabularies import NUM_PITCHES, NUM_PROGRAMS, NUM_SPECIAL_IDS

Array = jax.Array

_NEVER = 1e-6
# A pitch that was written at this time is rarely written once more.
_TWICE = 0.02
# Steps after an onset in which a note does not end.
_SHORTEST = 3
_CLASS_SIZE = NUM_PROGRAMS // NUM_CLASSES


class Evidence(NamedTuple):
    """What is heard in a batch of segments, by time step: probabilities."""

    onset: Array  # [B, S, 128], only where an onset is likeliest
    drum: Array  # [B, S, 128], likewise
    sounding: Array  # [B, S, 128]
    classes: Array  # [B, S, 128, NUM_CLASSES]: of a note that begins
    quiet: Array  # [B, S]: log-probability that nothing begins


@dataclasses.dataclass(frozen=True)
class FrameEvidence(LogitFilter):
    """Allows what the grammar allows, and weighs it by what frames tell.

    It takes the grammar's place in a list of filters, since it needs to know where
    each row is in the grammar.

    Attributes:
      grammar: which tokens may come next.
      steps: time steps of a segment, S.
      steps_per_frame: of the input.
      centre: frames from the segment's start to the first frame's centre; below 0
        where context comes before the segment.
      weight: of the frames' log-probabilities.
      decoder_weight: of the decoder's; 0 leaves all to the frames.
      onset_bias: added to the log odds of onsets; above 0 finds more notes.
      drum_bias: likewise of drums.
      sounding_bias: likewise of sounding; above 0 makes notes longer.
      sharpness: by which the log odds of sounding are multiplied: what is 0.1 likely
        in each of many frames would otherwise be certain to happen in one.
      playing_weight: of which classes play in the frame, against a note's own class.

    Raises:
      ConfigError: a negative weight.
    """

    grammar: GrammarMask
    steps: int
    steps_per_frame: float
    centre: float
    weight: float = 1.0
    decoder_weight: float = 0.5
    onset_bias: float = 0.0
    drum_bias: float = -0.3
    sounding_bias: float = 0.4
    sharpness: float = 2.0
    playing_weight: float = 1.0

    def __post_init__(self):
        for name in ("weight", "decoder_weight", "sharpness", "playing_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"decoding: evidence's {name} is {getattr(self, name)}; expected "
                    "at least 0"
                )

    @classmethod
    def from_config(
        cls, config: ModelConfig, grammar: GrammarMask, **settings: float
    ) -> FrameEvidence:
        """Takes the rates of a model.

        Args:
          config: the model's.
          grammar: the model's.
          **settings: the other attributes.

        Raises:
          ConfigError: a setting that is not known, or out of range.
        """
        fields = dataclasses.fields(cls)
        known = {f.name for f in fields if f.default is not dataclasses.MISSING}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"decoding: evidence has no setting {unknown[0]!r}")
        steps_per_second = config.vocabulary.steps_per_second
        return cls(
            grammar,
            steps=int(np.ceil(config.segment_seconds * steps_per_second)),
            steps_per_frame=steps_per_second / config.spectrogram.frames_per_second,
            centre=-float(frame_of_time(0.0, config)),
            **settings,
        )

    def init(self, rows: int) -> GrammarState:
        """Returns the grammar's state; see `LogitFilter`."""
        return self.grammar.init(rows)

    def advance(self, state: GrammarState, tokens: Array) -> GrammarState:
        """Follows the grammar; see `LogitFilter`."""
        return self.grammar.advance(state, tokens)

    def take(self, params: Mapping[str, Any], config: T5Config) -> dict[str, Array]:
        """Returns the parameters of the frame heads; see `LogitFilter`."""
        return frame_heads.take(params, config)

    def hear(
        self, taken: Mapping[str, Array], encoded: Array, sown: Mapping[str, Any]
    ) -> Evidence:
        """Makes the evidence of a batch; see `LogitFilter`.

        Args:
          taken: parameters of the frame heads.
          encoded: the encoder's output, [B, T, emb_dim].
          sown: what the encoder's parts sow, the harmonic stem's among it.
        """
        encoded = encoded.astype(jnp.float32)
        described = sown["harmonic_stem"]["described"][0].astype(jnp.float32)
        logits = frame_heads.frame_logits(taken, encoded)
        refined = frame_heads.refined_logits(taken, encoded, described)
        low = harmonic_stem.LOWEST_PITCH
        known = slice(low, low + harmonic_stem.NUM_PITCHES)

        # Of pitches that the stem does not know, only the frame head knows.
        onset = logits.onsets.at[..., known].set(refined[..., 0]) + self.onset_bias
        drum = logits.drums + self.drum_bias
        # What was not asked for does not happen.
        onset = self._at_steps(onset) * self.grammar.pitched
        drum = self._at_steps(drum) * self.grammar.drums
        sounding = logits.sounding.at[..., known].set(refined[..., 1])
        sounding += self.sounding_bias
        frame = self._frames(sounding.shape[1])
        sounding = jax.nn.sigmoid(self.sharpness * sounding)[:, frame]
        sounding *= self.grammar.pitched
        for later in range(_SHORTEST):
            begun = jnp.pad(onset, ((0, 0), (later, 0), (0, 0)))[:, : self.steps]
            sounding = jnp.maximum(sounding, begun)
        quiet = jnp.sum(_log1m(onset), axis=-1) + jnp.sum(_log1m(drum), axis=-1)
        after = jnp.minimum(frame + 1, encoded.shape[1] - 1)
        outputs = frame_heads.note_outputs(taken, encoded, described)
        classes = outputs[..., :NUM_CLASSES]
        playing = jax.nn.log_sigmoid(logits.playing)[:, :, None]
        classes = jax.nn.log_softmax(classes + self.playing_weight * playing, axis=-1)
        # Of the other pitches, only what plays is known.
        shape = (*encoded.shape[:2], NUM_PITCHES, NUM_CLASSES)
        others = jax.nn.log_softmax(self.playing_weight * playing, axis=-1)
        others = jnp.broadcast_to(others, shape)
        classes = jnp.exp(others.at[:, :, known].set(classes))[:, after]
        return Evidence(onset, drum, sounding, classes, quiet)

    def _frames(self, count: int) -> np.ndarray:
        """Returns the frame that is centred on each step, int [S]."""
        frame = np.arange(self.steps) / self.steps_per_frame - self.centre
        return np.clip(np.rint(frame), 0, count - 1).astype(np.int32)

    def _at_steps(self, logits: Array) -> Array:
        """Returns the probabilities of onsets by step, where they are highest.

        Models are trained to mark an onset's frame and the next one, so a peak is where
        two frames together are highest. Without context, an onset before the first
        frame's centre shows in the first frame.
        """

        def moved(x: Array, frames: int) -> Array:
            """Returns for each frame the one after it (1) or before it (-1)."""
            filler = jnp.full_like(x[:, :1], -99.0)
            rest = [x[:, 1:], filler] if frames > 0 else [filler, x[:, :-1]]
            return jnp.concatenate(rest, axis=1)

        following = moved(logits, 1)
        pair = logits + jnp.maximum(following, -20.0)
        highest = (pair >= moved(pair, -1)) & (pair > moved(pair, 1))
        level = jax.nn.sigmoid(jnp.maximum(logits, following))
        peaks = jnp.where(highest, level, 0.0)
        frame = np.arange(logits.shape[1])
        step = (frame + self.centre) * self.steps_per_frame
        if self.centre > 0:
            step[0] = self.centre * self.steps_per_frame / 2
        step = np.rint(step).astype(np.int32)
        inside = (step >= 0) & (step < self.steps)
        steps = jnp.zeros((logits.shape[0], self.steps, NUM_PITCHES))
        return steps.at[:, step[inside]].max(peaks[:, inside])

    def silence(self, slots: int) -> Evidence:
        """Returns evidence of nothing; see `LogitFilter`."""
        nothing = jnp.zeros((slots, self.steps, NUM_PITCHES))
        classes = jnp.zeros((slots, self.steps, NUM_PITCHES, NUM_CLASSES))
        quiet = jnp.zeros((slots, self.steps))
        return Evidence(nothing, nothing, nothing, classes, quiet)

    def __call__(self, logits: Array, state: GrammarState, heard: Evidence) -> Array:
        """Returns weighed log-probabilities of the allowed tokens; see `LogitFilter`.

        Args:
          logits: the decoder's, [R, V].
          state: the grammar's, of each row.
          heard: of each row's segment.
        """
        allowed = self.grammar.allowed(state)
        frames = self.log_probabilities(heard, state, allowed)
        own = jax.nn.log_softmax(jnp.where(allowed, logits, -1e9), axis=-1)
        weighed = self.decoder_weight * own + self.weight * frames
        return jnp.where(allowed, weighed, NEG_INF)

    def log_probabilities(
        self, evidence: Evidence, state: GrammarState, allowed: Array
    ) -> Array:
        """Returns the frames' log-probabilities of the next token, [R, V].

        They are right for allowed tokens, bool [R, V], alone.
        """
        mask = self.grammar
        moved = state.total > 0
        now = jnp.clip(jnp.where(moved, state.total, state.time), 0, self.steps - 1)
        here = _Here.of(evidence, state, now, moved)
        stay, quiet = here.masses(mask, state)
        # Shares of the probability that anything happens here.
        stay = jnp.where(allowed[:, : stay.shape[1]], stay, 0.0)
        shares = stay / jnp.maximum(jnp.sum(stay, axis=1, keepdims=True), _NEVER)
        stay = shares * (-jnp.expm1(quiet))[:, None]
        ties = jnp.where(state.in_ties, quiet, -jnp.inf)
        tie_id = NUM_SPECIAL_IDS + mask.max_shift + 1 + NUM_PITCHES
        tie_id += mask.num_velocity_bins + 1
        stay = stay.at[:, tie_id].set(jnp.exp(ties))
        shifts, end = self._moving_on(evidence, here.sounding, now)
        leave = jnp.where(state.in_ties, 0.0, jnp.exp(quiet))[:, None]
        first = NUM_SPECIAL_IDS
        total = stay.at[:, first : first + mask.max_shift + 1].set(leave * shifts)
        total = total.at[:, 1].set(leave[:, 0] * end)
        rest = mask.vocab_size - total.shape[1]
        return jnp.log(jnp.pad(total, ((0, 0), (0, rest))) + _NEVER)

    def _moving_on(
        self, evidence: Evidence, sounding: Array, now: Array
    ) -> tuple[Array, Array]:
        """Returns the probabilities of each shift [R, shifts], and of none [R]."""
        ends = (1.0 - evidence.sounding) * sounding[:, None]
        quiet = evidence.quiet + jnp.sum(_log1m(ends), axis=-1)
        step = jnp.arange(self.steps)[None]
        quiet = jnp.where(step > now[:, None], quiet, 0.0)
        until = jnp.cumsum(quiet, axis=1)
        first = jnp.exp(until - quiet) * -jnp.expm1(quiet)
        size = self.grammar.max_shift + 1
        first = jnp.pad(first, ((0, 0), (0, max(0, size - self.steps))))[:, :size]
        return first, jnp.exp(until[:, -1])


class _Here(NamedTuple):
    """What may happen at each row's present time: probabilities."""

    onset: Array  # [R, 128], not yet written
    drum: Array  # [R, 128], not yet written
    classes: Array  # [R, 128, NUM_CLASSES]
    ends: Array  # [R, 128]: a note of this pitch ends, if it sounds
    tied: Array  # [R, 128]: it sounds at the beginning, and does not begin there
    sounding: Array  # bool [R, 128]: of any program

    @classmethod
    def of(
        cls, evidence: Evidence, state: GrammarState, now: Array, moved: Array
    ) -> _Here:
        """Looks evidence up at the time `now`, int32 [R]."""

        def at(x: Array) -> Array:
            index = now.reshape((-1,) + (1,) * (x.ndim - 1))
            return jnp.take_along_axis(x, index, axis=1)[:, 0]

        any_of = jax.lax.reduce(
            state.begun, jnp.uint32(0), jax.lax.bitwise_or, dimensions=(1,)
        )
        begun = pitches_in(any_of) & ~moved[:, None]
        hit = pitches_in(state.hit) & ~moved[:, None]
        sounding = jax.lax.reduce(
            state.sounding, jnp.uint32(0), jax.lax.bitwise_or, dimensions=(1,)
        )
        sounding = pitches_in(sounding)
        ends = jnp.where(begun, 0.0, 1.0 - at(evidence.sounding))
        tied = evidence.sounding[:, 0]
        for early in range(_SHORTEST):
            tied = tied * (1.0 - evidence.onset[:, early])
        return cls(
            onset=at(evidence.onset) * jnp.where(begun, _TWICE, 1.0),
            drum=at(evidence.drum) * jnp.where(hit, _TWICE, 1.0),
            classes=at(evidence.classes),
            ends=ends,
            tied=jnp.where(sounding, 0.0, tied),
            sounding=sounding,
        )

    def masses(self, mask: GrammarMask, state: GrammarState) -> tuple[Array, Array]:
        """Returns how likely each token is to lead to what happens here.

        Returns:
          Sums of probabilities [R, tokens], with 0 for special tokens and shifts,
          and log-probabilities that nothing happens, [R].
        """
        ties = state.in_ties[:, None]
        begins = jnp.where(ties, self.tied, self.onset)
        ends = jnp.where(ties, 0.0, self.ends)
        drum = jnp.where(ties, 0.0, self.drum)
        quiet = jnp.sum(_log1m(begins) + _log1m(drum), axis=1)
        quiet += jnp.sum(_log1m(ends * self.sounding), axis=1)
        if mask.programs is None:
            onsets = begins
            offsets = ends * self.sounding
            programs = jnp.zeros((begins.shape[0], NUM_PROGRAMS))
        else:
            listed = np.asarray(mask.programs, np.int64)  # None for drums alone.
            counts = np.bincount(listed // _CLASS_SIZE, minlength=NUM_CLASSES)
            # A class is shared out among its programs.
            share = jnp.asarray(1.0 / np.maximum(counts, 1), jnp.float32)
            by_class = begins[..., None] * self.classes * share[None, None]
            program = jnp.clip(state.program, 0, NUM_PROGRAMS - 1)
            present = (program // _CLASS_SIZE)[:, None, None]
            onsets = jnp.take_along_axis(by_class, present, axis=2)[..., 0]
            words = jnp.take_along_axis(state.sounding, program[:, None, None], axis=1)
            offsets = ends * pitches_in(words[:, 0])
            words = state.sounding[:, listed]
            sounds = pitches_in(words.reshape(-1, words.shape[-1]))
            sounds = sounds.reshape(*words.shape[:2], NUM_PITCHES)
            beginning = jnp.sum(by_class, axis=1)[:, listed // _CLASS_SIZE]
            ending = jnp.sum(ends[:, None] * sounds, axis=2)
            programs = jnp.zeros((begins.shape[0], NUM_PROGRAMS))
            programs = programs.at[:, listed].set(beginning + ending)
        off = (state.velocity == 0)[:, None] & ~ties
        has_velocity = (state.velocity >= 0)[:, None] | ties
        pitch = jnp.where(off, offsets, jnp.where(has_velocity, onsets, 0.0))
        bins = mask.num_velocity_bins
        begin = jnp.sum(onsets, axis=1) + jnp.sum(drum, axis=1)
        velocity = jnp.concatenate(
            [
                jnp.sum(offsets, axis=1)[:, None],
                jnp.repeat(begin[:, None] / bins, bins, axis=1),
            ],
            axis=1,
        )
        before = jnp.zeros((begins.shape[0], NUM_SPECIAL_IDS + mask.max_shift + 1))
        tie = jnp.zeros((begins.shape[0], 1))
        parts = [before, pitch, velocity, tie, programs, drum]
        return jnp.concatenate(parts, axis=1), quiet


def _log1m(probability: Array) -> Array:
    """Returns log(1 - p), finite."""
    return jnp.log1p(-jnp.minimum(probability, 1.0 - _NEVER))
