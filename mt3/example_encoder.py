"""The work on one example, in NumPy: what fused and single pipeline stages share."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from mt3 import spectrograms
from mt3.configs import ModelConfig
from mt3.errors import DataError
from mt3.run_length_encoding import IndexedEvents
from mt3.tokenizer import NoteTokenizer

SequenceLength = Mapping[str, int] | None

_log = logging.getLogger(__name__)


class SegmentEncoder:
    """Events and frames of one example.

    Args:
      config: all settings.
      sequence_length: frames that silence fills up to; the model's if None.
    """

    def __init__(self, config: ModelConfig, sequence_length: SequenceLength = None):
        self.tokenizer = NoteTokenizer(config)
        self._config = config
        self._frames = (sequence_length or {}).get("inputs") or config.inputs_length

    def extract(
        self, part: IndexedEvents, first: int = 0, frames: int | None = None
    ) -> np.ndarray:
        """Returns a part's events, run-length coded, int32 [n].

        Args:
          part: a stream.
          first: the first of its frames.
          frames: how many; all if None.
        """
        return self.tokenizer.extract(part, first, frames)

    def reduce(self, events: np.ndarray) -> np.ndarray:
        """Returns events without redundant state changes, int32 [n]."""
        return self.tokenizer.reduce(events)

    def mel_frames(self, hops: np.ndarray) -> np.ndarray:
        """Returns the mel frames of hops [frames, hop_width], float32."""
        samples = spectrograms.flatten_frames(hops)
        if not len(samples):
            shape = (0, self._config.spectrogram.num_mel_bins)
            return np.zeros(shape, np.float32)
        if self._config.padding == "silence":
            full = self._frames * self._config.spectrogram.hop_width
            samples = np.pad(samples, (0, max(0, full - len(samples))))
        return spectrograms.compute_spectrogram(samples, self._config.spectrogram)


class LengthCheck:
    """Finds examples that are longer than the model takes.

    Args:
      sequence_length: most frames of `inputs` and ids of `targets`, EOS included;
        any number of what is not in it.
      skip: whether a report logs, or raises.
    """

    def __init__(self, sequence_length: SequenceLength, *, skip: bool):
        limits = sequence_length or {}
        self.max_frames: int | None = limits.get("inputs")
        self.max_ids: int | None = limits.get("targets")
        self._skip = skip
        self._skipped = 0

    def fits(self, frames: int, ids: int) -> bool:
        """Whether an example with these numbers of frames and ids is short enough."""
        return not self._problems(frames, ids)

    def report(self, unique_id: np.ndarray, frames: int, ids: int) -> np.bool_:
        """Reports an example that is too long.

        Args:
          unique_id: its name, or the names of what it was mixed of.
          frames: its frames.
          ids: its targets, EOS included.

        Returns:
          False, for a filter.

        Raises:
          DataError: too long examples are not to be skipped.
        """
        problems = "; ".join(self._problems(frames, ids))
        message = f"example {_text(unique_id)}: {problems}"
        if not self._skip:
            raise DataError(
                f"{message}. Raise that feature's length, or let examples that are "
                "too long be skipped"
            )
        self._skipped += 1
        # At 1, 2, 4, 8, ... so that a dense data set does not fill the log.
        if self._skipped & (self._skipped - 1) == 0:
            _log.warning("Skipping %s (%d skipped so far)", message, self._skipped)
        return np.False_

    def _problems(self, frames: int, ids: int) -> list[str]:
        counts = (
            (frames, self.max_frames, "frames of inputs"),
            (ids, self.max_ids, "targets with EOS"),
        )
        return [
            f"found {count} {what}, expected at most {limit}"
            for count, limit, what in counts
            if limit is not None and count > limit
        ]


def _text(unique_id: np.ndarray) -> str:
    return " + ".join(item.decode("utf-8", "replace") for item in np.ravel(unique_id))
