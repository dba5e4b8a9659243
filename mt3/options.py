"""How to transcribe: options that check themselves, before anything heavy is loaded.

`TranscribeOptions` are what a caller asks for; `ResolvedOptions` are what is done once
the weights have said what they were measured to be better with. JAX is imported only
where a name of its decoding strategies has to be known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mt3.beats import MODES, NO_BEATS, Beats
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import ConfigError, check_choice, check_number, near_misses
from mt3.midi import general_midi
from mt3.midi.general_midi import TEMPO_RANGE
from mt3.vocabularies import NUM_PROGRAMS

if TYPE_CHECKING:
    from mt3 import decoding
    from mt3.configs import ModelConfig
    from mt3.event_codec import Codec

FRAMES = "frames"
"""Name of the strategy that reads notes from the frame heads alone."""
UNCLOSED_TIES = ("keep", "end")
DTYPES = ("float32", "bfloat16", "float16")
TIMES = ("recording", "part")
# Beyond these, memory ends before anything gets better.
_MOST_SLOTS, _MOST_TOKENS = 4096, 1 << 16


@dataclasses.dataclass(frozen=True)
class TranscribeOptions:
    """How to transcribe.

    Attributes:
      decode: decoding strategy by name: "beam1" (the original's), "greedy", "beam4",
        "temperature0.8", or "frames" for notes from the frame heads without the token
        decoder; None leaves it to the model, "beam1" where that says nothing.
      grammar: allow only tokens that mean something where they stand; None leaves
        it to the model (what was measured to be better for it).
      sensitivity: balance of missed and extra notes, 0..1: more finds more notes, and
        more that are not there (`beyond.frames`). Only with "frames".
      details: give notes that the decoder wrote the time, velocity and confidence that
        the frame heads hear, where the model has them.
      programs: General MIDI programs to transcribe; None for all.
      drums: whether to transcribe drums.
      unclosed_ties: "keep" or "end", see `note_sequences.NoteEncodingSpecType`.
      num_slots: segments decoded at once; None for the device's default.
      max_length: most tokens of a segment; None for the model's.
      dtype: computation type, e.g. "bfloat16"; None for the model's.
      allow_truncated: transcribe what is there of a file that was cut.
      times: what the times of a part of a recording count from: "recording" for the
        recording's start, "part" for the part's.
      beats: "track" finds the beats of the recording, "steady" those of one tempo,
        "follow" those of a tempo that changes ("track" decides between the two); "off"
        for none. Or the beats, if known, in seconds of the whole recording.
      tempo: beats per minute, if known: beats have exactly this tempo, or, with
        "follow", one near it.
      cleanup: what to correct in the notes of a whole recording (`beyond.cleanup`);
        None leaves it to the model. Streamed notes are as the model wrote them.

    Raises:
      ConfigError: a value that is unknown or out of range, nothing to transcribe, or
        two options that contradict each other.
    """

    decode: str | None = None
    grammar: bool | None = None
    sensitivity: float = 0.5
    details: bool = True
    programs: tuple[int, ...] | None = None
    drums: bool = True
    unclosed_ties: str = "keep"
    num_slots: int | None = None
    max_length: int | None = None
    dtype: str | None = None
    allow_truncated: bool = False
    times: str = "recording"
    beats: str | Beats = "track"
    tempo: float | None = None
    cleanup: CleanupOptions | None = None

    def __post_init__(self) -> None:
        check_number("sensitivity", self.sensitivity, 0.0, 1.0)
        if self.num_slots is not None:
            check_number("num_slots", self.num_slots, 1, _MOST_SLOTS, whole=True)
        if self.max_length is not None:
            check_number("max_length", self.max_length, 1, _MOST_TOKENS, whole=True)
        for program in self.programs or ():
            check_number("programs", program, 0, NUM_PROGRAMS - 1, whole=True)
        if self.programs is not None and not self.programs and not self.drums:
            raise ConfigError(
                "programs is empty and drums is off; expected something to transcribe"
            )
        check_choice("unclosed_ties", self.unclosed_ties, UNCLOSED_TIES)
        check_choice("times", self.times, TIMES)
        self._check_beats()
        if self.dtype is not None:
            check_choice("dtype", self.dtype, DTYPES)
        if self.decode is None:
            return
        if self.decode == FRAMES:
            self._check_frames()
            return
        from mt3 import decoding

        decoding.from_name(self.decode, others=[FRAMES])
        self._check_tokens(self.decode)

    def _check_beats(self) -> None:
        """Raises ConfigError for beats that are unknown, or known in two ways."""
        given = isinstance(self.beats, Beats)
        if not given:
            check_choice("beats", self.beats, (*MODES, NO_BEATS))
        if self.tempo is None:
            return
        check_number("tempo in beats per minute", self.tempo, *TEMPO_RANGE)
        if given or self.beats == NO_BEATS:
            raise ConfigError(
                f"tempo is {self.tempo:g} with {'given beats' if given else 'no beats'}"
                "; expected one or the other"
            )

    def _check_frames(self) -> None:
        """Raises ConfigError for what the frames alone have no use for."""
        asked = {
            "grammar": self.grammar,
            "unclosed_ties": self.unclosed_ties != "keep",
            "cleanup's merge_gap": self.cleanup and self.cleanup.merge_gap,
        }
        names = [name for name, given in asked.items() if given]
        if names:
            raise ConfigError(
                f"decoding: {', '.join(names)} with decode='frames', which writes no "
                "tokens and reads notes across segments; expected the one or the other"
            )

    def _check_tokens(self, decode: str) -> None:
        """Raises ConfigError for what the token decoder has no use for."""
        if self.sensitivity != 0.5:
            raise ConfigError(
                f"decoding: sensitivity is {self.sensitivity} with {decode!r}, which "
                "has no threshold; expected decode='frames'"
            )

    def faithful(self) -> TranscribeOptions:
        """Returns the options with all that the original does not do left out.

        Instruments that were not asked for stay left out, which needs the grammar.
        Beats that were asked for stay.
        """
        tracked = self.beats == MODES[0] and self.tempo is None
        return dataclasses.replace(
            self,
            decode="beam1",
            grammar=False,
            sensitivity=0.5,
            details=False,
            unclosed_ties="keep",
            beats=NO_BEATS if tracked else self.beats,
            cleanup=CleanupOptions(),
        )

    def resolve(self, info: Mapping[str, Any]) -> ResolvedOptions:
        """Decides what is left to the model.

        Args:
          info: what the weights say of themselves.

        Raises:
          ConfigError: the decisions contradict one another.
        """
        decode = self.decode or str(info.get("decode", "beam1"))
        cleanup = self.cleanup
        if cleanup is None:
            cleanup = CleanupOptions.from_dict(info.get("cleanup", {}))
        if decode == FRAMES:
            self._check_frames()
            return ResolvedOptions(self, decode, False, cleanup)
        self._check_tokens(decode)
        # Which program a pitch belongs to depends on what was written before it, so
        # that only the grammar can leave instruments out.
        grammar = self.grammar
        if grammar is None:
            grammar = bool(info.get("grammar"))
        grammar = grammar or self.programs is not None or not self.drums
        return ResolvedOptions(self, decode, grammar, cleanup)


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """What is done, once the options and the weights have been asked.

    Attributes:
      given: the options that were given.
      decode: name of the decoding strategy.
      grammar: whether only grammatical tokens are allowed.
      cleanup: what to correct in the notes of a whole recording.
    """

    given: TranscribeOptions
    decode: str
    grammar: bool
    cleanup: CleanupOptions

    def decode_options(
        self, config: ModelConfig, codec: Codec, vocab_size: int
    ) -> decoding.DecodeOptions:
        """Returns how the decoder decodes.

        Args:
          config: the model's.
          codec: the model's events.
          vocab_size: number of the decoder's logits.

        Raises:
          ConfigError: a setting that is unknown or out of range.
        """
        from mt3 import decoding

        given = self.given
        return decoding.DecodeOptions(
            strategy=decoding.from_name(self.decode, others=[FRAMES]),
            max_length=given.max_length or config.targets_length,
            num_slots=given.num_slots,
            dtype=given.dtype,
            filters=self._filters(config, codec, vocab_size),
        )

    def _filters(
        self, config: ModelConfig, codec: Codec, vocab_size: int
    ) -> tuple[decoding.LogitFilter, ...]:
        from mt3 import decoding

        if not self.grammar:
            return ()
        return (
            decoding.GrammarMask.from_codec(
                codec,
                vocab_size=vocab_size,
                include_ties=config.include_ties,
                onsets_only=config.onsets_only,
                program_granularity=config.program_granularity,
                programs=self.given.programs,
                drums=self.given.drums,
                max_steps=math.ceil(config.segment_seconds * codec.steps_per_second),
            ),
        )

    def settings(self) -> dict[str, Any]:
        """Returns what a result is made with, as JSON values."""
        values = dataclasses.asdict(self.given)
        values["decode"] = self.decode
        values["grammar"] = self.grammar
        values["cleanup"] = dataclasses.asdict(self.cleanup) if self.cleanup else None
        if isinstance(self.given.beats, Beats):
            values["beats"] = "given"
        return {key: value for key, value in values.items() if value is not None}


def parse_instruments(text: str) -> tuple[tuple[int, ...] | None, bool]:
    """Reads a list of instruments.

    Args:
      text: comma-separated General MIDI families ("piano", "synth lead") or
        instruments ("violin"), program numbers 0..127, or "drums".

    Returns:
      Programs (None when all are allowed), and whether drums are.

    Raises:
      ConfigError: a name that General MIDI does not have, or none at all.
    """
    families = {name.lower(): index for index, name in enumerate(general_midi.FAMILIES)}
    programs_by_name = {
        name.lower(): index for index, name in enumerate(general_midi.PROGRAMS)
    }
    numbers = {str(number): number for number in range(len(general_midi.PROGRAMS))}
    programs: set[int] = set()
    drums = False
    names = [name.strip().lower().replace("_", " ") for name in text.split(",")]
    for name in filter(None, names):
        if name == "drums":
            drums = True
        elif name in numbers:
            programs.add(numbers[name])
        elif name in families:
            first = families[name] * general_midi.FAMILY_SIZE
            programs.update(range(first, first + general_midi.FAMILY_SIZE))
        elif name in programs_by_name:
            programs.add(programs_by_name[name])
        else:
            known = [*families, *programs_by_name, "drums"]
            hint = near_misses(name, known)
            if hint.startswith(" Known"):
                hint = (
                    f" Families: {', '.join(families)}; or a program 0-127, or drums."
                )
            raise ConfigError(f"--instruments: unknown instrument {name!r}.{hint}")
    if not programs and not drums:
        raise ConfigError("--instruments: the list is empty")
    return tuple(sorted(programs)), drums
