"""The one family of errors that `mt3` raises on bad input.

Every message names the file (where there is one), the stage, what was found and
what was expected. Command-line programs print the message without a traceback;
anything that is not an `MT3Error` is a defect of the program itself.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

# pip's name of what training and evaluating on data sets need beyond transcribing.
TRAIN_EXTRA = "mt3-transcription[train]"


class MT3Error(Exception):
    """Base of all errors about what a user handed in."""


class ConfigError(MT3Error, ValueError):
    """A setting, name or combination of settings that cannot work."""


class AudioError(MT3Error, ValueError):
    """An audio file or array that cannot be read or used."""


class MidiError(MT3Error, ValueError):
    """A MIDI file or note list that cannot be read or used."""


class CheckpointError(MT3Error, ValueError):
    """Model weights that are missing, damaged or of another shape."""


class ShapeError(MT3Error, ValueError):
    """An array whose shape or type does not fit."""


class TokenError(MT3Error, ValueError):
    """An event or token outside the codec."""


class OutputError(MT3Error, RuntimeError):
    """A result that cannot be written."""


class DiskFullError(OutputError):
    """A result for which a disk, or a user's share of it, has no room.

    What follows would find none either: a command that writes many results ends.
    """


class StreamError(OutputError):
    """Standard output or standard error no longer takes what is written to it.

    Nothing that follows can be written there either: a program ends.
    """


class DataError(MT3Error, ValueError):
    """A data set, record or corpus that cannot be used."""


class PitchBendError(DataError):
    """A sequence with pitch bends, where notes must have the pitch of their key."""


class TrainingError(MT3Error, RuntimeError):
    """A training run that must not go on (a loss that is not finite, say)."""


def near_misses(name: str, known: Iterable[str]) -> str:
    """Returns "did you mean ...?" for a mistyped name, else the known names.

    Args:
      name: what was asked for.
      known: the names that exist.

    Returns:
      A clause to append to an error message, beginning with a space.
    """
    known = set(known)
    names = ", ".join(sorted(known)) or "none"
    return did_you_mean(name, known) or f" Known: {names}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """As `near_misses`, but returns "" where no known name is like it."""
    known = sorted(known, key=lambda entry: (len(entry), entry))
    # "xml" rather means "musicxml" than "mxl", and "smal" first of all "small".
    close = [entry for entry in known if len(name) > 2 and name in entry][:3]
    close = close or difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {', '.join(close)}?" if close else ""


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False
) -> None:
    """Raises ConfigError unless a setting is a number from `low` to `high`.

    Infinity and NaN are no such numbers, nor are True and False.

    Args:
      name: of the setting.
      value: what was given.
      low: smallest number allowed.
      high: largest number allowed.
      whole: whether it must be a whole number.
    """
    kind = numbers.Integral if whole else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if is_number and low <= value <= high and math.isfinite(value):
        return
    what = "a whole number" if whole else "a number"
    limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"from {low:g} on"
    raise ConfigError(f"{name} is {value!r}; expected {what} {limits}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ConfigError unless a setting is one of some names."""
    choices = tuple(choices)
    if value not in choices:
        raise ConfigError(
            f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}"
        )
