"""The one family of errors that `mt3` raises on bad input.

Every message names the file (where there is one), the stage, what was found and
what was expected. Command-line programs print the message without a traceback;
anything that is not an `MT3Error` is a defect of the program itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f" Did you mean {', '.join(close)}?"
    return f" Known: {', '.join(known) or 'none'}."
