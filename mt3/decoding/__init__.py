"""From encoder inputs to token ids.

`SegmentDecoder` decodes any number of segments as a stream; `decode` one batch.
A strategy chooses tokens (`Beam`, `Greedy`, `Temperature`); logit filters are rules
about them that come before the choice (`GrammarMask` allows what is grammatical).
"""

from __future__ import annotations

from mt3.decoding.compilation import (
    cache_folder,
    choose_device,
    enable_compilation_cache,
)
from mt3.decoding.filters import LogitFilter
from mt3.decoding.flax_cache import beam_search
from mt3.decoding.masks import GrammarMask
from mt3.decoding.steps import decode
from mt3.decoding.strategies import (
    Beam,
    Greedy,
    Strategy,
    Temperature,
    from_name,
)
from mt3.decoding.stream import (
    DecodeOptions,
    Result,
    SegmentDecoder,
)

__all__ = [
    "Beam",
    "DecodeOptions",
    "GrammarMask",
    "Greedy",
    "LogitFilter",
    "Result",
    "SegmentDecoder",
    "Strategy",
    "Temperature",
    "beam_search",
    "cache_folder",
    "choose_device",
    "decode",
    "enable_compilation_cache",
    "from_name",
]
