"""What seqio's evaluation keeps of each example: tokens, time, identity, reference.

`postprocess` is called once with an example's targets and once with what the model
predicted for it. `mt3.metrics` joins the results to songs by `unique_id`.

Differences from the original, numbered:

1. `ref_ns`, which the first segment of a song carries, is the list of its notes
   rather than a NoteSequence, so that seqio's JSON logger can write it.
2. `raw_inputs` are kept of a song's first seconds only, for listening. All of them
   together are as large as the data set's audio.
3. A segment's start is rounded down to a step in integers (see `mt3.tokenizer`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mt3.configs import ModelConfig
from mt3.data import note_sequence_io
from mt3.errors import DataError
from mt3.tokenizer import NoteTokenizer
from mt3.vocabularies import DECODED_EOS_ID

RAW_INPUTS_SECONDS = 30.0


def postprocess(
    tokens: Sequence[int] | np.ndarray,
    example: Mapping[str, Any],
    is_target: bool,
    *,
    config: ModelConfig,
    raw_inputs_seconds: float = RAW_INPUTS_SECONDS,
) -> dict[str, Any]:
    """Turns one segment's decoded tokens into a record for the metrics.

    Args:
      tokens: event indices as the vocabulary decodes them: -1 from EOS on, -2 for
        ids that are no event.
      example: the segment's features: `unique_id`, `input_times` (seconds, float
        [frames]); `sequence` (a serialized NoteSequence of the whole song) in a
        song's first segment; `raw_inputs` (samples) if there are any.
      is_target: whether the tokens are the reference's.
      config: the encoding of the tokens and the frame rate.
      raw_inputs_seconds: samples are kept of segments that start before this time.

    Returns:
      For targets `unique_id` (str), `ref_ns` (list of `Note` in a song's first
      segment, else None) and `ref_tokens` (int32 [n], without EOS). For predictions
      `unique_id`, `raw_inputs` (float32 [samples] or None), `est_tokens` (int32 [n],
      without EOS) and `start_time` (seconds, rounded down to a step).

    Raises:
      DataError: a feature is missing, or the sequence cannot be read.
    """
    unique_id = _unique_id(example)
    first_frame = _first_frame(example, config, unique_id)
    tokens = _until_eos(tokens)
    if is_target:
        reference = _reference(example, unique_id) if first_frame == 0 else None
        return {"unique_id": unique_id, "ref_ns": reference, "ref_tokens": tokens}
    start_time = NoteTokenizer(config).segment_start_time(first_frame)
    samples = None
    if start_time < raw_inputs_seconds and "raw_inputs" in example:
        samples = np.asarray(example["raw_inputs"], np.float32).reshape(-1)
    return {
        "unique_id": unique_id,
        "raw_inputs": samples,
        "est_tokens": tokens,
        "start_time": start_time,
    }


def postprocess_fn(config: ModelConfig, **options: Any) -> Callable[..., Any]:
    """Returns `postprocess` for an encoding, as a seqio task takes it."""
    return functools.partial(postprocess, config=config, **options)


def _unique_id(example: Mapping[str, Any]) -> str:
    """Returns the song's id as text."""
    value = np.asarray(_feature(example, "unique_id", "")).reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _first_frame(
    example: Mapping[str, Any], config: ModelConfig, unique_id: str
) -> int:
    """Returns the segment's first frame, counted from the start of the song."""
    times = np.asarray(_feature(example, "input_times", unique_id)).reshape(-1)
    if not len(times):
        raise DataError(
            f"postprocess: {unique_id}: feature 'input_times' is empty; expected the "
            "time of each frame of the segment"
        )
    # Times are float32; a frame is 8 ms, far more than their rounding.
    return round(float(times[0]) * config.spectrogram.frames_per_second)


def _until_eos(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the event indices before EOS, int32 [n]."""
    tokens = np.asarray(tokens, np.int32).reshape(-1)
    ends = np.flatnonzero(tokens == DECODED_EOS_ID)
    return tokens[: ends[0]] if len(ends) else tokens


def _reference(example: Mapping[str, Any], unique_id: str) -> list[Any]:
    """Returns the notes of the whole song."""
    data = np.asarray(_feature(example, "sequence", unique_id)).reshape(-1)[0]
    name = f"postprocess: {unique_id}: feature 'sequence'"
    sequence = note_sequence_io.parse(data, name)
    # What the tasks stored has been checked; a look at others' data must not stop an
    # evaluation over a note without length, which the metrics leave out.
    return note_sequence_io.to_notes(
        sequence, pitch_bends="ignore", allow_empty=True, name=name
    )


def _feature(example: Mapping[str, Any], name: str, unique_id: str) -> Any:
    if name not in example:
        raise DataError(
            f"postprocess: {unique_id or 'an example'}: feature {name!r} is missing; "
            f"found {', '.join(sorted(example))}"
        )
    return example[name]
