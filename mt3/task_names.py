"""Names of tasks.

    {data set}_{encoding}[_{spectrogram}][_{vocabulary}][_{granularity}]_{suffix}

`maestrov3_notes_ties_vb1_train`: MAESTRO v3, notes with ties, one velocity bin, to be
trained on. Abbreviations stand only where a setting is not the default: `sr`, `hw`,
`mb` for sample rate, hop width and mel bands, `ss`, `ms`, `vb` for steps per second,
longest shift and velocity bins.

Difference from the original: the program granularity is in the name where it is not
the encoding's usual one ("full" with ties, else "flat"). There it is a global setting
that the name does not tell.
"""

from __future__ import annotations

import dataclasses
import re

from mt3 import vocabularies
from mt3.configs import ModelConfig
from mt3.errors import ConfigError, near_misses
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import VocabularyConfig

# Encoding -> (include_ties, onsets_only).
ENCODINGS = {
    "notes": (False, False),
    "notes_ties": (True, False),
    "onsets": (False, True),
}
_PREFIX = re.compile(rf"(\w+?)_({'|'.join(sorted(ENCODINGS, reverse=True))})")


@dataclasses.dataclass(frozen=True)
class TaskFamily:
    """Tasks that differ in their split alone.

    Attributes:
      source: a data set or a mixture of data sets.
      encoding: a key of `ENCODINGS`.
      vocabulary: resolution of time and velocity.
      spectrogram: how samples become frames.
      program_granularity: how finely instruments are distinguished; None for the
        encoding's usual one.
    """

    source: str
    encoding: str
    vocabulary: VocabularyConfig = VocabularyConfig()
    spectrogram: SpectrogramConfig = SpectrogramConfig()
    program_granularity: str | None = None

    def __post_init__(self):
        if self.encoding not in ENCODINGS:
            raise ConfigError(
                f"task: unknown encoding {self.encoding!r}."
                f"{near_misses(self.encoding, ENCODINGS)}"
            )
        if self.program_granularity is None:
            usual = usual_granularity(self.encoding)
            object.__setattr__(self, "program_granularity", usual)
        vocabularies.program_granularity(self.program_granularity)

    @property
    def prefix(self) -> str:
        """Data set and encoding."""
        return f"{self.source}_{self.encoding}"

    @property
    def name(self) -> str:
        """All of a task's name but the suffix."""
        parts = [
            self.prefix,
            self.spectrogram.abbrev_str,
            self.vocabulary.abbrev_str,
        ]
        if self.program_granularity != usual_granularity(self.encoding):
            parts.append(self.program_granularity)
        return "_".join(filter(None, parts))

    def task_name(self, suffix: str) -> str:
        """Returns the name of the task with a suffix."""
        return f"{self.name}_{suffix}"

    def model_config(self, padding: str) -> ModelConfig:
        """Returns the settings of the pipeline; network sizes are not part of them."""
        include_ties, onsets_only = ENCODINGS[self.encoding]
        return ModelConfig(
            network={},
            vocabulary=self.vocabulary,
            spectrogram=self.spectrogram,
            include_ties=include_ties,
            onsets_only=onsets_only,
            program_granularity=self.program_granularity,
            padding=padding,
        )


def usual_granularity(encoding: str) -> str:
    """Returns the granularity that a name does not mention."""
    return "full" if ENCODINGS[encoding][0] else "flat"


def split_prefix(prefix: str) -> tuple[str, str]:
    """Splits "maestrov3_notes_ties" into data set and encoding.

    Raises:
      ConfigError: it does not end in an encoding.
    """
    match = _PREFIX.fullmatch(prefix)
    if not match:
        raise ConfigError(
            f"task prefix {prefix!r}: expected a data set and one of "
            f"{', '.join(ENCODINGS)}, as in 'maestrov3_notes_ties'"
        )
    return match[1], match[2]
