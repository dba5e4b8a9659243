"""Magenta's released checkpoints: their names, addresses, sizes and settings.

They are not in this package and are never downloaded by it: messages and
`docs/released-checkpoints.md` tell how to copy them. Sizes are those of the networks'
shapes, since the files themselves were not available to this project; their hashes are
not known to it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mt3 import configs
from mt3.configs import ModelConfig
from mt3.errors import ConfigError

ROOT = "gs://mt3/checkpoints"
PAGE = "docs/released-checkpoints.md"
_WEB_ADDRESS = "https://storage.googleapis.com/"
_BASE_SIZES = {
    "vocab_size": 1536,
    "emb_dim": 768,
    "num_heads": 12,
    "num_encoder_layers": 12,
    "num_decoder_layers": 12,
    "head_dim": 64,
    "mlp_dim": 2048,
}


@dataclasses.dataclass(frozen=True)
class ReleasedModel:
    """One of the released checkpoints.

    Attributes:
      purpose: what it transcribes.
      config: its sizes and what its tokens mean.
      num_parameters: how many numbers it holds.
      num_arrays: in how many arrays they lie, a folder `target.*` each.
    """

    purpose: str
    config: ModelConfig
    num_parameters: int
    num_arrays: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the parameters as float32, before compression."""
        return 4 * self.num_parameters


RELEASED = {
    "mt3": ReleasedModel("any instruments, one velocity", configs.MT3, 45_896_704, 189),
    "ismir2021": ReleasedModel(
        "piano alone, with velocities", configs.ISMIR2021, 46_027_776, 189
    ),
    "ismir2022_small": ReleasedModel(
        "any instruments, one velocity; sizes and settings of mt3, first trained on "
        "mixtures",
        configs.MT3,
        45_896_704,
        189,
    ),
    "ismir2022_base": ReleasedModel(
        "any instruments, one velocity; larger network, first trained on mixtures",
        dataclasses.replace(configs.MT3, network=_BASE_SIZES),
        200_980_992,
        281,
    ),
}


def copy_command(address: str) -> str:
    """Returns the command that copies a folder of a bucket into the current one."""
    return f"gsutil -m cp -r {address} ."


def how_to_copy(address: str) -> str:
    """Returns a sentence on how to copy a bucket's folder, and then use it.

    Args:
      address: a URL such as `gs://mt3/checkpoints/mt3`.
    """
    name = address.rstrip("/").rsplit("/", 1)[-1]
    return f"Copy it ({copy_command(address)}) and give --model ./{name}; see {PAGE}"


def bucket_address(url: str) -> str | None:
    """Returns the bucket's address of a page of Google's storage, None of others."""
    if url.startswith(_WEB_ADDRESS):
        return "gs://" + url.removeprefix(_WEB_ADDRESS)
    return None


def same_settings(config: ModelConfig) -> list[str]:
    """Returns the names of the released models with these sizes and settings.

    More than one where they differ in nothing but the values of their parameters.
    """
    return [
        name
        for name, model in RELEASED.items()
        if _comparable(model.config) == _comparable(config)
    ]


def _comparable(config: ModelConfig) -> dict[str, Any] | None:
    """Returns a configuration with all of the network's fields, None if it has none."""
    from mt3 import network

    try:
        sizes = network.T5Config.from_dict(config.network)
    except (TypeError, ConfigError):
        return None
    # How a network is trained or computed is no part of what it is.
    return {
        **config.to_dict(),
        "network": dataclasses.replace(sizes, dropout_rate=0.0, dtype="float32"),
    }
