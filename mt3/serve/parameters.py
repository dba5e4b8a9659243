"""How a request wants its recording transcribed: the settings in its address.

They have the names, the meaning and the checks of the options of `mt3 transcribe`, with
`_` for `-`. What names a file or a resource of the server's is not among them.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from mt3 import outputs, transcribe
from mt3.beats import MODES, NO_BEATS
from mt3.errors import ConfigError, check_choice, check_number, near_misses
from mt3.serve.queue import Request

_LONGEST_TEXT = 2000
# What `mt3 transcribe` has where an option is not given, and None is not the default.
_DEFAULTS = {
    "sensitivity": 0.5,
    "unclosed_ties": "keep",
    "allow_truncated": False,
    "times": "recording",
    "faithful": False,
    "num_slots": None,
    "dtype": None,
}
# What errors of types are called in messages.
_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


def _text(description: str) -> Any:
    return Field(None, description=description, max_length=_LONGEST_TEXT)


def _value(description: str) -> Any:
    return Field(None, description=description)


class Notation(BaseModel):
    """How a result is written. What is left out is as the job was started with."""

    model_config = ConfigDict(extra="forbid")

    quantize: str | None = _text(
        "grid that notes move to: 1/4, 1/8, 1/16, 1/32, 1/4T, 1/8T, 1/16T or auto"
    )
    swing: float | None = _value("share of a beat that its first half takes, 0.5-0.75")
    no_velocity: bool | None = _value("all notes equally loud")
    tablature: bool | None = _value("sheet music: strings of guitars and basses")

    def output_options(self, before: outputs.OutputOptions) -> outputs.OutputOptions:
        """Returns settings of the formats: those given, else those of `before`.

        Raises:
          ConfigError: a setting that is unknown or out of range.
        """
        given = self.model_dump(include={"quantize", "swing", "tablature"})
        given = {name: value for name, value in given.items() if value is not None}
        if self.no_velocity is not None:
            given["velocities"] = not self.no_velocity
        return dataclasses.replace(before, **given)


class ResultQuery(Notation):
    """What result is wanted."""

    format: str = Field(
        "mid",
        description=f"one of {', '.join(outputs.FORMATS)}",
        max_length=_LONGEST_TEXT,
    )


class Settings(Notation):
    """How to transcribe: the options of `mt3 transcribe`."""

    instruments: str | None = _text(
        "the instruments that play: General MIDI families or instruments, program "
        "numbers 0-127, drums; e.g. piano,bass,drums"
    )
    decode: str | None = _text("frames, beam1, greedy, beam4 or temperature0.8")
    sensitivity: float | None = _value("0..1; more finds more notes; with frames")
    grammar: bool | None = _value("allow only tokens that mean something")
    unclosed_ties: str | None = _text("keep or end")
    faithful: bool | None = _value("nothing that the original does not do")
    min_duration: float | None = _value("pitched notes shorter than this are too short")
    short_notes: str | None = _text("drop or lengthen those")
    merge_gap: float | None = _value("join two notes with a shorter gap, seconds")
    instrument_flicker: float | None = _value("share below which instruments are left")
    start: float | None = _value("begin here, seconds")
    end: float | None = _value("stop here, seconds")
    times: str | None = _text("what times count from: recording or part")
    allow_truncated: bool | None = _value("transcribe what is there of a cut file")
    beats: str | None = _text("steady, follow, track or off")
    tempo: float | None = _value("beats per minute, if known")

    def request(self, formats: tuple[str, ...]) -> Request:
        """Returns how to transcribe.

        Args:
          formats: in which results may be wanted.

        Raises:
          ConfigError: a setting that is unknown or out of range, or two that
            contradict each other.
        """
        start = 0.0 if self.start is None else self.start
        check_number("start in seconds", start, 0.0)
        if self.end is not None:
            check_number("end in seconds", self.end, 0.0)
            if self.end <= start:
                raise ConfigError(
                    f"end is {self.end:g} s; expected more than start, {start:g}"
                )
        if self.beats is not None:
            # The command line takes the name of a file, too.
            check_choice("beats", self.beats, (*MODES, NO_BEATS))
        given = {name: getattr(self, name) for name in type(self).model_fields}
        for name, default in _DEFAULTS.items():
            if given.get(name) is None:
                given[name] = default
        before = outputs.OutputOptions()
        if self.tempo is not None:
            before = outputs.OutputOptions(tempo=self.tempo)
        return Request(
            transcribe.decoding_options(argparse.Namespace(**given), formats),
            self.output_options(before),
            start,
            self.end,
        )


class TranscribeQuery(Settings, ResultQuery):
    """How to transcribe, and what result is wanted."""


def message_of(error: RequestValidationError) -> str:
    """Returns what is wrong with the settings of a request, as our messages say it."""
    first = error.errors()[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        known = TranscribeQuery.model_fields
        return f"unknown setting {name[:100]!r}.{near_misses(name[:100], known)}"
    found = str(first.get("input"))[:100]
    expected = _EXPECTED.get(first["type"], first["msg"])
    return f"{name} is {found!r}; expected {expected}"
