"""What belongs to a set of weights: sizes, tokens, spectrogram.

A `ModelConfig` travels with the weights (in the metadata of the single-file
form, as `model.json` beside a training run), so that a file alone rebuilds the
model. Standard library and NumPy only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt3.errors import ConfigError, check_number, near_misses
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import PROGRAM_GRANULARITIES, VocabularyConfig

PADDINGS = ("zero_frames", "silence")
# Frames or tokens of a segment: what still fits memory. 65536 frames are 524 s.
_MOST_LENGTH = 65536


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything but the parameters.

    Attributes:
      network: fields of `network.T5Config` that differ from those of `mt3`.
      vocabulary: resolution of time and velocity.
      spectrogram: how samples become input frames.
      include_ties: each segment begins with the notes that go on sounding from before.
      onsets_only: only pitches of onsets are transcribed.
      program_granularity: 'flat', 'midi_class' or 'full'.
      inputs_length: frames of one segment, context included.
      context_frames: of these, the first and the last that the encoder hears while the
        segment's tokens, and notes, begin and end in the middle; the next segment
        begins where the middle ends. 0 for the original's segments.
      targets_length: most tokens of one segment, EOS included.
      padding: how a short last segment is filled up: with "zero_frames" after the
        logarithm (the released models were trained so), or "silence" before it.
    """

    network: Mapping[str, Any]
    vocabulary: VocabularyConfig = VocabularyConfig(num_velocity_bins=1)
    spectrogram: SpectrogramConfig = SpectrogramConfig()
    include_ties: bool = True
    onsets_only: bool = False
    program_granularity: str = "full"
    inputs_length: int = 256
    context_frames: int = 0
    targets_length: int = 1024
    padding: str = "zero_frames"

    def __post_init__(self):
        # They come from files, so that anything may be in them.
        for name in ("include_ties", "onsets_only"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"model configuration: {name} is {getattr(self, name)!r}; expected "
                    "true or false"
                )
        granularity = str(self.program_granularity)
        if granularity not in PROGRAM_GRANULARITIES:
            raise ConfigError(
                f"model configuration: unknown program_granularity {granularity!r}."
                f"{near_misses(granularity, PROGRAM_GRANULARITIES)}"
            )
        if self.onsets_only and self.include_ties:
            raise ConfigError(
                "model configuration: onsets_only and include_ties are both set; "
                "ties need note offsets"
            )
        if self.padding not in PADDINGS:
            raise ConfigError(
                f"model configuration: unknown padding {self.padding!r}."
                f"{near_misses(str(self.padding), PADDINGS)}"
            )
        if self.network.get("harmonic_channels"):
            self._check_bands()
        for name in ("inputs_length", "targets_length", "context_frames"):
            least = int(name != "context_frames")
            check_number(
                f"model configuration: {name}",
                getattr(self, name),
                least,
                _MOST_LENGTH,
                whole=True,
            )
        if not 0 <= 2 * self.context_frames < self.inputs_length:
            raise ConfigError(
                f"model configuration: context_frames is {self.context_frames}; "
                f"expected 0 to less than half of the {self.inputs_length} frames of a "
                "segment"
            )

    def _check_bands(self) -> None:
        """Raises ConfigError unless the bands are those of the harmonic stem."""
        from mt3.harmonic_stem import HI_HZ, LO_HZ, NUM_BANDS

        found = self.spectrogram
        edges = np.allclose([found.lo_hz, found.hi_hz], [LO_HZ, HI_HZ], rtol=1e-3)
        if found.scale != "pitch" or found.num_mel_bins != NUM_BANDS or not edges:
            raise ConfigError(
                f"model configuration: the network's harmonic stem needs {NUM_BANDS} "
                f"bands on the scale 'pitch' from {LO_HZ:.3f} to {HI_HZ:.1f} Hz; the "
                f"spectrogram has {found.num_mel_bins} on the scale {found.scale!r} "
                f"from {found.lo_hz} to {found.hi_hz} Hz"
            )

    @property
    def input_samples(self) -> int:
        """Samples that the encoder hears of one segment, context included."""
        return self.inputs_length * self.spectrogram.hop_width

    @property
    def context_samples(self) -> int:
        """Samples before, and after, the middle of a segment."""
        return self.context_frames * self.spectrogram.hop_width

    @property
    def context_seconds(self) -> float:
        """Seconds before, and after, the middle of a segment."""
        return self.context_samples / self.spectrogram.sample_rate

    @property
    def segment_frames(self) -> int:
        """Frames of a segment's middle: what it adds to the ones before it."""
        return self.inputs_length - 2 * self.context_frames

    @property
    def segment_samples(self) -> int:
        """Samples of a segment's middle."""
        return self.segment_frames * self.spectrogram.hop_width

    @property
    def segment_seconds(self) -> float:
        """Seconds of a segment's middle."""
        return self.segment_samples / self.spectrogram.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict that can be written as JSON."""
        result = dataclasses.asdict(self)
        result["network"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.network.items()
        }
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuilds a configuration from `to_dict`'s result.

        Raises:
          ConfigError: a field is missing, unknown or of another type.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"model configuration: unknown field {name!r}."
                    f"{near_misses(name, known)}"
                )
        if not isinstance(values.get("network"), Mapping):
            raise ConfigError(
                "model configuration: field 'network' is missing; expected the "
                "network's sizes"
            )
        values = dict(values)
        try:
            if "vocabulary" in values:
                values["vocabulary"] = VocabularyConfig(**values["vocabulary"])
            if "spectrogram" in values:
                values["spectrogram"] = SpectrogramConfig(**values["spectrogram"])
            values["network"] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in values["network"].items()
            }
            return cls(**values)
        except TypeError as error:
            raise ConfigError(
                f"model configuration: a value of a wrong type: {error}"
            ) from error

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelConfig:
        """Rebuilds a configuration from JSON text; errors as `from_dict`."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"model configuration: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError("model configuration: expected a JSON object")
        return cls.from_dict(values)


_MT3_SIZES = {"vocab_size": 1536}
MT3 = ModelConfig(network=_MT3_SIZES)
ISMIR2021 = ModelConfig(
    network={"vocab_size": 1664},
    vocabulary=VocabularyConfig(num_velocity_bins=127),
    include_ties=False,
    program_granularity="flat",
    inputs_length=512,
)
