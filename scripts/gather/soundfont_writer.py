"""Sampled instruments -> a soundfont file (.sf2).

A small writer of the SoundFont 2.01 format, for instruments in other formats
(`sample_sets`): mono samples, one instrument for each preset, no modulators. Chapter
numbers in comments refer to E-mu's specification.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mt3.errors import DataError

DRUM_BANK = 128
# Generators (8.1.2).
_KEY_RANGE, _VELOCITY_RANGE, _INSTRUMENT, _SAMPLE = 43, 44, 41, 53
_ATTACK, _DECAY, _SUSTAIN, _RELEASE = 34, 36, 37, 38
_ATTENUATION, _SCALE_TUNING, _LOOP, _EXCLUSIVE = 48, 56, 54, 57
# Silence that must follow every sample (7.10).
_GAP = 46


@dataclasses.dataclass(frozen=True)
class Zone:
    """A sample and the keys and velocities that play it.

    Attributes:
      samples: int16 [samples], mono.
      sample_rate: in Hz.
      root: the key at which it sounds as recorded; 60.5 is a quarter tone above 60.
      keys: lowest and highest key.
      velocities: lowest and highest velocity.
      loop: start and end (exclusive) of the part that is repeated while a key is down;
        None for a sample that is played once.
      attack: seconds until full loudness.
      decay: seconds from full loudness to that of `sustain_db`.
      sustain_db: attenuation of held notes.
      release: seconds until silence after the key is released.
      attenuation_db: of the whole zone.
      fixed_pitch: all keys sound as recorded (drums).
      exclusive: if not 0, a zone silences others with the same number (hi-hats).
    """

    samples: np.ndarray
    sample_rate: int
    root: float = 60.0
    keys: tuple[int, int] = (0, 127)
    velocities: tuple[int, int] = (0, 127)
    loop: tuple[int, int] | None = None
    attack: float = 0.001
    decay: float = 0.001
    sustain_db: float = 0.0
    release: float = 0.1
    attenuation_db: float = 0.0
    fixed_pitch: bool = False
    exclusive: int = 0


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset: bank 128 contains drum kits, other banks programs."""

    name: str
    bank: int
    number: int
    zones: tuple[Zone, ...]


def write_soundfont(
    path: str | os.PathLike, name: str, presets: Sequence[Preset]
) -> Path:
    """Writes a soundfont, completely or not at all.

    Args:
      path: the .sf2 file.
      name: the bank's name.
      presets: its presets; a sample shared by zones (one array) is stored once.

    Raises:
      DataError: if there is nothing to write.
    """
    path = Path(path)
    presets = sorted(presets, key=lambda p: (p.bank, p.number))
    if not any(preset.zones for preset in presets):
        raise DataError(f"{path}: no preset has a sample to write.")
    samples: dict[tuple, Zone] = {}
    for preset in presets:
        for zone in preset.zones:
            samples.setdefault(_sample_key(zone), zone)
    data = _riff(name, presets, samples)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return path


def _sample_key(zone: Zone) -> tuple:
    """Returns the same key for zones with the same data, pitch and loop."""
    return id(zone.samples), zone.sample_rate, zone.root, zone.loop


def _riff(name: str, presets: Sequence[Preset], samples: dict[tuple, Zone]) -> bytes:
    info = (
        _chunk(b"ifil", struct.pack("<HH", 2, 1))
        + _chunk(b"isng", b"EMU8000\0")
        + _chunk(b"INAM", _text(name, 60) + b"\0\0")
    )
    pool, headers, start = [], b"", 0
    for number, zone in enumerate(samples.values()):
        length = len(zone.samples)
        loop = zone.loop or (0, length)
        key = int(np.floor(zone.root + 0.5))
        # The correction is what must be added to the recorded pitch (7.10).
        cents = int(round((key - zone.root) * 100))
        headers += struct.pack(
            "<20sIIIIIBbHH",
            f"sample {number}".encode(),
            start,
            start + length,
            start + loop[0],
            start + loop[1],
            zone.sample_rate,
            min(max(key, 0), 127),
            cents,
            0,
            1,
        )
        pool.append(np.asarray(zone.samples, "<i2").tobytes() + bytes(2 * _GAP))
        start += length + _GAP
    headers += struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    sound = _chunk(b"smpl", b"".join(pool))
    tables = _tables(presets, list(samples)) + _chunk(b"shdr", headers)
    body = b"sfbk" + b"".join(
        _chunk(b"LIST", kind + content)
        for kind, content in ((b"INFO", info), (b"sdta", sound), (b"pdta", tables))
    )
    return _chunk(b"RIFF", body)


def _tables(presets: Sequence[Preset], samples: list[tuple]) -> bytes:
    """Returns the chunks that map keys to samples (7.2 to 7.9)."""
    places = {key: number for number, key in enumerate(samples)}
    phdr = pbag = pgen = inst = ibag = igen = b""
    zone_count = generator_count = 0
    for number, preset in enumerate(presets):
        title = _text(preset.name, 19)
        phdr += struct.pack(
            "<20sHHHIII", title, preset.number, preset.bank, number, 0, 0, 0
        )
        pbag += struct.pack("<HH", number, 0)
        pgen += struct.pack("<HH", _INSTRUMENT, number)
        inst += struct.pack("<20sH", title, zone_count)
        for zone in preset.zones:
            generators = _generators(zone, places[_sample_key(zone)])
            ibag += struct.pack("<HH", generator_count, 0)
            igen += generators
            zone_count += 1
            generator_count += len(generators) // 4
    count = len(presets)
    phdr += struct.pack("<20sHHHIII", b"EOP", 0, 0, count, 0, 0, 0)
    pbag += struct.pack("<HH", count, 0)
    pgen += bytes(4)
    inst += struct.pack("<20sH", b"EOI", zone_count)
    ibag += struct.pack("<HH", generator_count, 0)
    igen += bytes(4)
    return b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"phdr", phdr),
            (b"pbag", pbag),
            (b"pmod", bytes(10)),
            (b"pgen", pgen),
            (b"inst", inst),
            (b"ibag", ibag),
            (b"imod", bytes(10)),
            (b"igen", igen),
        )
    )


def _generators(zone: Zone, sample: int) -> bytes:
    """Returns a zone's generators; ranges come first and the sample last (8.1.2)."""
    rows = [
        (_KEY_RANGE, zone.keys[0] | zone.keys[1] << 8),
        (_VELOCITY_RANGE, zone.velocities[0] | zone.velocities[1] << 8),
        (_ATTACK, _timecents(zone.attack)),
        (_DECAY, _timecents(zone.decay)),
        (_SUSTAIN, min(max(int(round(10 * zone.sustain_db)), 0), 1440)),
        (_RELEASE, _timecents(zone.release)),
        (_ATTENUATION, min(max(int(round(10 * zone.attenuation_db)), 0), 1440)),
        (_SCALE_TUNING, 0 if zone.fixed_pitch else 100),
        (_LOOP, 0 if zone.loop is None else 1),
        (_EXCLUSIVE, zone.exclusive),
        (_SAMPLE, sample),
    ]
    return b"".join(struct.pack("<HH", kind, amount & 0xFFFF) for kind, amount in rows)


def _timecents(seconds: float) -> int:
    return int(np.clip(round(1200 * np.log2(max(seconds, 1e-4))), -12000, 8000))


def _text(text: str, size: int) -> bytes:
    return text.encode("ascii", "replace")[:size]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
