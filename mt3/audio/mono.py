"""Channels mixed to one by their mean, and warnings of what would not be heard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Below this share of the channels' power their mean is nearly silence: the channels
# are opposite in phase, as when one cable is wired the wrong way round.
_CANCELLED = 0.01
_SHORTEST_SECONDS = 0.5


class MonoMix:
    """Mixes one recording, block by block.

    The first block with sound decides: where the channels cancel one another, the
    loudest is used in place of the mean from there to the end.

    Args:
      sample_rate: Hz.
      note: takes a warning.
    """

    def __init__(self, sample_rate: int, note: Callable[[str], None]) -> None:
        self._sample_rate = sample_rate
        self._note = note
        self._is_decided = False
        self._channel: int | None = None
        self.peak = 0.0

    def mix(self, block: np.ndarray, position: int) -> np.ndarray:
        """Returns float32 [n].

        Args:
          block: float32 [n, channels].
          position: of its first frame in the recording.
        """
        mono = _mean(block) if self._channel is None else block[:, self._channel]
        if block.shape[1] > 1 and len(block) >= _SHORTEST_SECONDS * self._sample_rate:
            mono = self._judged(block, mono, position)
        if len(mono):
            self.peak = max(self.peak, float(mono.max()), -float(mono.min()))
        return mono

    def _judged(self, block: np.ndarray, mono: np.ndarray, position: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            powers = [float(np.dot(channel, channel)) for channel in block.T]
            cancelled = float(np.dot(mono, mono)) < _CANCELLED * np.mean(powers)
        if cancelled and not self._is_decided:
            self._channel = int(np.argmax(powers))
            self._note(
                "the channels are opposite in phase and their mix is silence: channel "
                f"{self._channel + 1} was used alone"
            )
            mono = block[:, self._channel]
        elif cancelled:
            what = "the channels cancel one another in the mix"
            if self._channel is not None:
                what = f"channel {self._channel + 1}, which is used alone, is silent"
            self._note(f"from {position / self._sample_rate:.1f} s on {what}")
        self._is_decided = self._is_decided or any(powers)
        return mono


def _mean(block: np.ndarray) -> np.ndarray:
    if block.shape[1] == 1:
        return block[:, 0]
    # float64: a sum of many loud channels must not overflow.
    total = block[:, 0].astype(np.float64)
    for channel in block.T[1:]:
        total += channel
    return (total / block.shape[1]).astype(np.float32)
