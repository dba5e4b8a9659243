"""What becomes of examples that are longer than the model takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from mt3.errors import DataError

SequenceLength = Mapping[str, int] | None

_log = logging.getLogger("mt3.preprocessors")


class LengthCheck:
    """Finds examples that are longer than the model takes.

    Attributes:
      limits: the greatest length by feature, EOS included.

    Args:
      sequence_length: the limits; what is not in it may have any length.
      skip: whether a report logs, or raises.
    """

    _WORDS = {"inputs": "frames of inputs", "targets": "targets with EOS"}

    def __init__(self, sequence_length: SequenceLength, *, skip: bool):
        self.limits = {n: v for n, v in (sequence_length or {}).items() if v}
        self._skip = skip
        self._skipped = 0

    def problems(self, **lengths: int) -> list[str]:
        """Returns what is too long, in words."""
        return [
            f"found {count} {self._WORDS.get(name, name)}, expected at most "
            f"{self.limits[name]}"
            for name, count in lengths.items()
            if count > self.limits.get(name, count)
        ]

    def report(self, unique_id: np.ndarray, **lengths: int) -> np.bool_:
        """Reports an example that is too long.

        Args:
          unique_id: its name, or the names of the examples that it was mixed from.
          **lengths: by feature, EOS included.

        Returns:
          False, for a filter.

        Raises:
          DataError: examples that are too long are not to be skipped.
        """
        names = " + ".join(
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
            for item in np.ravel(unique_id)
        )
        message = f"example {names}: {'; '.join(self.problems(**lengths))}"
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
