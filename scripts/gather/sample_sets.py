"""Sampled instruments in other formats -> presets of a soundfont.

    gus_presets      a folder of Gravis patches (.pat), such as FreePats
    hydrogen_kits    a drum kit of the drum machine Hydrogen (drumkit.xml and samples)
    as_drum_font     a soundfont whose only preset is a drum kit in the wrong bank
    move_presets     a soundfont with presets in other places

`soundfont_writer.write_soundfont` writes the presets.
"""

from __future__ import annotations

import dataclasses
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mt3.errors import DataError

from .soundfont_writer import DRUM_BANK, Preset, Zone

# Longer drum samples are cut; even cymbals have faded by then.
_LONGEST_DRUM_SECONDS = 5.0
# The most presets of one Hydrogen drum kit; they differ in their kick, snare and so on.
_MOST_KITS = 4
# Sizes of the headers of a patch, its instrument, its layer and each sample.
_PATCH, _PATCH_INSTRUMENT, _PATCH_LAYER, _PATCH_SAMPLE = 129, 63, 47, 96
_WIDE, _UNSIGNED, _LOOPED, _BACK_AND_FORTH, _ENVELOPE = 1, 2, 4, 8, 64


def gus_presets(folder: str | os.PathLike) -> list[Preset]:
    """Reads Gravis patches whose names begin with their program or drum key.

    Args:
      folder: patches in a folder whose name begins with "Tone" are programs; those in
        one whose name begins with "Drum" make up one kit.

    Raises:
      DataError: if there is no patch, or one cannot be read.
    """
    presets, kit = [], []
    for path in sorted(Path(folder).rglob("*.pat")):
        number = re.match(r"\d+", path.name)
        if number is None:
            continue
        place = int(number.group())
        zones = _read_patch(path)
        if path.parent.name.startswith("Drum"):
            kit += [_as_drum(zone, place) for zone in zones[:1]]
        else:
            presets.append(Preset(path.stem, 0, place, tuple(zones)))
    if kit:
        presets.append(Preset("Drums", DRUM_BANK, 0, tuple(kit)))
    if not presets:
        raise DataError(
            f"{folder}: contains no Gravis patches whose names begin with a number "
            "(000_Acoustic_Grand_Piano.pat)."
        )
    return presets


def _as_drum(zone: Zone, key: int) -> Zone:
    exclusive = 1 if key in (42, 44, 46) else 0
    return Zone(
        samples=zone.samples,
        sample_rate=zone.sample_rate,
        keys=(key, key),
        release=1.0,
        fixed_pitch=True,
        exclusive=exclusive,
    )


def _read_patch(path: Path) -> list[Zone]:
    """Reads the samples of a Gravis patch (the GF1 format, version 1.1)."""
    data = path.read_bytes()
    if data[:8] != b"GF1PATCH":
        raise DataError(f"{path}: is not a Gravis patch: no GF1PATCH header.")
    layer = _PATCH + _PATCH_INSTRUMENT
    try:
        position, zones = layer + _PATCH_LAYER, []
        for _ in range(data[layer + 6]):
            zone, position = _read_patch_sample(data, position)
            zones.append(zone)
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(f"{path}: is a damaged Gravis patch: {error}.") from error
    # Where ranges overlap, the lower sample ends before the higher one.
    zones.sort(key=lambda zone: zone.keys)
    for place in range(len(zones) - 1):
        low, high = zones[place].keys
        high = min(high, max(zones[place + 1].keys[0] - 1, low))
        zones[place] = _with_keys(zones[place], low, high)
    if zones:
        zones[0] = _with_keys(zones[0], 0, zones[0].keys[1])
        zones[-1] = _with_keys(zones[-1], zones[-1].keys[0], 127)
    return zones


def _with_keys(zone: Zone, low: int, high: int) -> Zone:
    return dataclasses.replace(zone, keys=(low, high))


def _read_patch_sample(data: bytes, position: int) -> tuple[Zone, int]:
    """Returns a sample of a patch, and the position after it."""
    header = data[position : position + _PATCH_SAMPLE]
    size, loop_start, loop_end, rate = struct.unpack("<IIIH", header[8:22])
    low, high, root = struct.unpack("<III", header[22:34])
    rates, offsets, modes = header[37:43], header[43:49], header[55]
    position += _PATCH_SAMPLE
    raw = data[position : position + size]
    if len(raw) < size or not size or not root:
        raise ValueError("a sample is cut short")
    width = 2 if modes & _WIDE else 1
    samples = np.frombuffer(raw[: size // width * width], "<i2" if width == 2 else "i1")
    if width == 1:
        samples = samples.astype("<i2") << 8
    if modes & _UNSIGNED:
        samples = samples ^ np.int16(-32768)
    loop = None
    if modes & _LOOPED and loop_end > loop_start + 8 * width:
        loop = (loop_start // width, min(loop_end // width, len(samples)))
        if modes & _BACK_AND_FORTH:
            start, end = loop
            back = samples[start:end][::-1]
            samples = np.concatenate([samples[:end], back])
            loop = (start, end + len(back))
    attack = decay = 0.001
    sustain_db, release = 0.0, 0.1
    if modes & _ENVELOPE:
        attack = _stage_seconds(rates[0], offsets[0])
        decay = _stage_seconds(rates[1], abs(offsets[0] - offsets[1]))
        decay += _stage_seconds(rates[2], abs(offsets[1] - offsets[2]))
        sustain_db = 20 * np.log10(max(offsets[0], 1) / max(offsets[2], 1))
        release = _stage_seconds(rates[3], abs(offsets[2] - offsets[3]))
    zone = Zone(
        samples=samples,
        sample_rate=rate,
        root=_key_of(root),
        keys=(
            int(np.clip(round(_key_of(low)), 0, 127)),
            int(np.clip(round(_key_of(high)), 0, 127)),
        ),
        loop=loop,
        attack=min(attack, 0.5),
        decay=min(decay, 10.0),
        sustain_db=max(sustain_db, 0.0),
        release=float(np.clip(release, 0.03, 3.0)),
    )
    return zone, position + size


def _key_of(millihertz: int) -> float:
    return 69 + 12 * float(np.log2(max(millihertz, 1) / 440_000))


def _stage_seconds(rate: int, distance: int) -> float:
    """Returns the duration of a stage of a Gravis envelope.

    The lower six bits of the rate are added to a counter, at every tick or at every
    8th, 64th or 512th, according to the upper two bits. A tick is 1/44100 s, and the
    counter has 4 * 512 * 4 steps for each of the 255 steps of loudness.
    """
    speed = (rate & 63) << 3 * (3 - (rate >> 6))
    return distance * 8192 / (max(speed, 1) * 44100)


# General MIDI keys of a Hydrogen instrument, by its name. The first matching pattern
# decides; without keys the sound is not used.
_DRUM_NAMES = [
    (re.compile(pattern, re.IGNORECASE), keys)
    for pattern, keys in (
        (r"roll|flam|drag|swell|semi|free|swish|choke|flink|reverse|loop|\bfx\b", ()),
        (r"kick|bass ?drum|\bbd\b", (36, 35)),
        (r"side ?stick|rim ?click|\bstick\b", (37,)),
        (r"snare|\bsd\b", (38, 40)),
        (r"clap", (39,)),
        (r"(hat|hh).*(clos|\bcl\b)|(clos|\bcl\b).*(hat|hh)", (42,)),
        (r"(hat|hh).*(ped|\bpd\b)|ped.*(hat|hh)", (44,)),
        (r"(hat|hh).*op|op.*(hat|hh)", (46,)),
        (r"floor|tom.*(low|\blo\b)|(low|\blo\b).*tom", (41, 43)),
        (r"tom.*(mid|2)|mid.*tom", (45, 47)),
        (r"tom.*(hi|1)|hi.*tom|^tom$", (48, 50)),
        (r"splash", (55,)),
        (r"china", (52,)),
        (r"cow ?bell", (56,)),
        (r"(ride|paiste|cup).*(bell|cup)|^bell", (53,)),
        (r"crash|^cymbal", (49, 57)),
        (r"ride", (51, 59)),
        (r"tambourine", (54,)),
        (r"maraca|shaker", (70,)),
        (r"bongo.*hi", (60,)),
        (r"bongo.*lo", (61,)),
        (r"conga", (63,)),
        (r"clave", (75,)),
        (r"wood ?block.*hi", (76,)),
        (r"wood ?block.*lo", (77,)),
    )
]
# Keys whose sound replaces that of a key that a kit lacks.
_STAND_INS = {
    35: (36,),
    36: (35,),
    38: (40,),
    40: (38,),
    44: (42,),
    49: (57,),
    57: (49,),
    51: (59,),
    59: (51,),
    41: (43, 45),
    43: (41, 45),
    45: (47, 43),
    47: (45, 48),
    48: (50, 47),
    50: (48, 47),
}


def hydrogen_kits(folder: str | os.PathLike, first_number: int = 0) -> list[Preset]:
    """Reads a drum kit of Hydrogen; names identify the instruments.

    Args:
      folder: the folder of its drumkit.xml.
      first_number: number of the first preset. A kit with several kicks or snares
        becomes several presets with different ones.

    Raises:
      DataError: if it cannot be read or has no known instrument.
    """
    import xml.etree.ElementTree as ElementTree

    path = Path(folder) / "drumkit.xml"
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as a drum kit: {error}.") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    found: dict[tuple[int, ...], list[list[Zone]]] = {}
    for instrument in root.iter("instrument"):
        keys = _general_midi_keys(instrument.findtext("name") or "")
        zones = list(_hydrogen_zones(path.parent, instrument)) if keys else []
        if zones:
            found.setdefault(keys, []).append(zones)
    if not found:
        raise DataError(f"{path}: none of its instruments is a known drum.")
    count = min(max(-(-len(v) // len(k)) for k, v in found.items()), _MOST_KITS)
    return [
        Preset(
            f"{path.parent.name} {number}",
            DRUM_BANK,
            first_number + number,
            tuple(_kit_zones(found, number)),
        )
        for number in range(count)
    ]


def _general_midi_keys(name: str) -> tuple[int, ...]:
    for pattern, keys in _DRUM_NAMES:
        if pattern.search(name):
            return keys
    return ()


def _kit_zones(
    found: dict[tuple[int, ...], list[list[Zone]]], number: int
) -> Iterator[Zone]:
    """Yields the zones of a kit: for each key one of its possible instruments."""
    chosen = {}
    for keys, instruments in found.items():
        for place, key in enumerate(keys[: len(instruments)]):
            chosen[key] = instruments[(number * len(keys) + place) % len(instruments)]
    for key, others in _STAND_INS.items():
        for other in others:
            if key not in chosen and other in chosen:
                chosen[key] = chosen[other]
    for key, zones in sorted(chosen.items()):
        for zone in zones:
            exclusive = 1 if key in (42, 44, 46) else 0
            yield dataclasses.replace(zone, keys=(key, key), exclusive=exclusive)


def _hydrogen_zones(folder: Path, instrument) -> Iterator[Zone]:
    """Yields a zone for each velocity layer of an instrument."""
    volume = float(instrument.findtext("volume") or 1.0)
    layers = list(instrument.iter("layer"))
    if not layers and instrument.findtext("filename"):
        layers = [instrument]  # the form of the first versions
    for layer in layers:
        samples, rate = _read_drum(folder / (layer.findtext("filename") or ""))
        if samples is None:
            continue
        low = float(layer.findtext("min") or 0.0)
        high = float(layer.findtext("max") or 1.0)
        gain = volume * float(layer.findtext("gain") or 1.0)
        yield Zone(
            samples=samples,
            sample_rate=rate,
            velocities=(
                int(np.ceil(low * 127)),
                127 if high >= 1 else max(int(np.ceil(high * 127)) - 1, 0),
            ),
            release=1.5,
            attenuation_db=float(-20 * np.log10(np.clip(gain, 0.05, 1.0))),
            fixed_pitch=True,
        )


def _read_drum(path: Path) -> tuple[np.ndarray | None, int]:
    """Returns a sample as mono int16 without leading silence, and its rate.

    Returns None for silent samples and missing files.
    """
    import soundfile

    if not path.is_file():
        return None, 0
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise DataError(f"{path}: a drum's sample cannot be read: {error}.") from error
    mono = audio.mean(axis=1)[: int(_LONGEST_DRUM_SECONDS * rate)]
    peak = float(np.abs(mono).max(initial=0.0))
    if peak < 1e-3:
        return None, rate
    begin = int(np.argmax(np.abs(mono) > 0.003 * peak))
    mono = mono[max(0, begin - rate // 1000) :]
    return np.round(np.clip(mono, -1, 1) * 32767).astype(np.int16), rate


def as_drum_font(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Copies a soundfont, with its presets of bank 0 moved to the drum bank.

    Raises:
      DataError: if the source is no soundfont.
    """
    return move_presets(
        source, target, lambda bank, number: (bank or DRUM_BANK, number)
    )


def move_presets(
    source: str | os.PathLike,
    target: str | os.PathLike,
    move: Callable[[int, int], tuple[int, int]],
) -> Path:
    """Copies a soundfont, with its presets in other places.

    Args:
      source: a .sf2 or .sf3 file.
      target: the copy.
      move: called with the bank and number of each preset; returns the new ones.

    Raises:
      DataError: if the source is no soundfont.
    """
    data = bytearray(Path(source).read_bytes())
    place = data.rfind(b"phdr")
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk" or place < 0:
        raise DataError(f"{source}: is not a soundfont (.sf2).")
    (size,) = struct.unpack_from("<I", data, place + 4)
    for header in range(place + 8, place + 8 + size - 38, 38):
        number, bank = struct.unpack_from("<HH", data, header + 20)
        bank, number = move(bank, number)
        struct.pack_into("<HH", data, header + 20, number, bank)
    target = Path(target)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, target)
    return target
