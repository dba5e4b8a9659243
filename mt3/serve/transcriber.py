"""One model that transcribes each recording in its own way."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterator

from mt3.audio.reading import AudioSource
from mt3.inference import FileResult, InferenceModel, SegmentNotes
from mt3.options import TranscribeOptions

# Arrangements of the weights beside the first: as many as are kept.
_MOST_ARRANGEMENTS = 3


class Transcriber:
    """Transcribes one recording after the other, each in its own way.

    Args:
      model: whose weights are used.
    """

    def __init__(self, model: InferenceModel):
        self._model = model
        self._others: collections.OrderedDict[Hashable, InferenceModel] = (
            collections.OrderedDict()
        )

    def __call__(
        self, source: AudioSource, options: TranscribeOptions
    ) -> Iterator[SegmentNotes | FileResult]:
        """Yields the segments of a recording, then its result."""
        return self._for(options).run([source])

    def _for(self, options: TranscribeOptions) -> InferenceModel:
        key = self._model.arrangement_for(options)
        if key == self._model.arrangement:
            return self._model.with_options(options)
        if key not in self._others:
            if len(self._others) == _MOST_ARRANGEMENTS:
                import jax

                self._others.popitem(last=False)
                # Its programs, too. Those that are still wanted are on disk.
                jax.clear_caches()
            self._others[key] = self._model.with_options(options)
        self._others.move_to_end(key)
        return self._others[key].with_options(options)
