"""Slakh2100 and Cerberus4: songs rendered stem by stem.

    train/Track00001/metadata.yaml     what each stem is
    train/Track00001/mix.flac          (or .wav)
    train/Track00001/stems/S00.flac
    train/Track00001/MIDI/S00.mid
    train/Track00001/all_src.mid       not used, see 1

`train`, `validation` and `test` are folders; `omitted` (the duplicates of the "redux"
variant) is left alone. The original variant has all 2100 songs in the first three.

1. References are the stems' own MIDI files. `all_src.mid` is the MIDI that the stems
   were made of, which is not what sounds: scores against it come out ten points lower.
2. Left out, with their audio: stems that were not rendered or have no MIDI file, no
   notes, or no class (see `slakh_classes`). What is left of a song is the mix: the
   file `mix` if it is all that was rendered, else the sum of the stems.
3. Slakh's `train` has `subsets` (10) mixes of at least `min_stems` (4) stems of each
   song, drawn with a seed of the song's own: a size from 4 to all, then the stems.
   `validation` and `test` have each song as it is.
4. Cerberus4 has every quartet of one bass, drums, guitar and piano stem of a song, in
   all splits, as the paper says; `combinations` limits their number; they are drawn.
   Songs without all four are left out.
5. `stems` holds the stems' audio only if asked for: it is several times the size of
   everything else, and no task reads it. `stems_shape` tells: [stems, samples] or
   [stems, 0].
6. `plugin_name` is the CRC-32 of the plugin's name, `midi_class` the program divided
   by 8 (16 for drums), `slakh_class` the place in `slakh_classes.CLASSES`: the numbers
   in the published records have no published meaning, and no task reads them.

mirdata's loader would need an index from the network, and knows neither the original
variant nor mixes of some of the stems.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mt3.errors import ConfigError, DataError
from mt3.prepare import recordings, sequences, slakh_classes
from mt3.prepare.archives import (
    check_lengths,
    contents,
    find_root,
    random_seed,
    without_duplicates,
)
from mt3.prepare.items import Archive, Item, LeftOut, Listing, Problem, Record, Settings
from mt3.vocabularies import midi_class

SPLITS = ("train", "validation", "test")
AUDIO_SUFFIXES = (".flac", ".wav")


@dataclasses.dataclass(frozen=True)
class Stem:
    """One stem of a song that can be used.

    Attributes:
      source: its name, as "S00".
      kind: its class, or its part in a quartet.
      program: General MIDI program; that of `slakh_classes.DRUM_PROGRAM` for drums.
      plugin: what played it.
      audio: its file.
      sequence: its notes.
    """

    source: str
    kind: str
    program: int
    plugin: str
    audio: Path
    sequence: Any


@dataclasses.dataclass(frozen=True)
class Slakh(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    dataset: str
    subsets: int
    min_stems: int
    combinations: int
    with_stems: bool

    @classmethod
    def open(
        cls,
        source: str,
        settings: Settings,
        *,
        dataset: str = "slakh",
        subsets: int = 10,
        min_stems: int = 4,
        combinations: int = 0,
        with_stems: bool = False,
    ) -> Slakh:
        """Finds the songs' folders.

        Args:
          source: the archive's folder.
          settings: see `Settings`.
          dataset: "slakh" or "cerberus4".
          subsets: mixes of each song for training.
          min_stems: stems that such a mix has at least.
          combinations: the most quartets of a song; 0 for all.
          with_stems: store the stems' audio too.

        Raises:
          DataError: no such folders.
          ConfigError: numbers that make no sense.
        """
        options = subsets, min_stems, combinations, with_stems
        found = cls(Path(source), settings, dataset, *options)
        if found.subsets < 1 or found.min_stems < 1 or found.combinations < 0:
            raise ConfigError(
                f"{dataset}: subsets {found.subsets}, stems {found.min_stems}, "
                f"combinations {found.combinations}; expected at least 1, 1 and 0"
            )
        failure = None
        for split in SPLITS:
            try:
                root = find_root(source, [f"{split}/Track*/metadata.yaml"], "Slakh2100")
                return dataclasses.replace(found, root=root)
            except DataError as error:
                failure = failure or error
        raise DataError(
            f"{failure}. (BabySlakh, Track* without train/, validation/ and test/, has "
            "no splits.)"
        )

    def options(self) -> dict[str, Any]:
        """See `Archive`."""
        options: dict[str, Any] = {"stems": self.with_stems}
        if self.dataset == "cerberus4":
            return {**options, "combinations": self.combinations}
        return {**options, "subsets": self.subsets, "min_stems": self.min_stems}

    def listing(self) -> Listing:
        """See `Archive`."""
        splits: dict[str, list[Item]] = {}
        problems: list[Problem] = []
        seen: dict[str, str] = {}
        for split in SPLITS:
            items = []
            for folder in sorted((self.root / split).glob("Track*")):
                metadata = folder / "metadata.yaml"
                if not metadata.is_file():
                    reason = f"{folder}: no metadata.yaml; found {contents(folder)}"
                    problems.append(Problem(folder.name, reason, split=split))
                elif folder.name in seen:
                    reason = f"{folder}: is in {seen[folder.name]}, too"
                    problems.append(Problem(folder.name, reason, split=split))
                else:
                    seen[folder.name] = split
                    items.append(Item(folder.name, (metadata,), {"split": split}))
            splits[split], repeated = without_duplicates(split, items)
            problems += repeated
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        folder = item.files[0].parent
        stems, everything_used, remarks = self._read_stems(folder)
        choices = self._choose(item, stems)
        full = list(range(len(stems)))
        mix_file = _audio_file(folder, "mix") if everything_used else None
        # Everything is read before the first record is made: a damaged file must not
        # leave a song with some of its mixes.
        rate, whole = 0, None
        if mix_file and full in choices:
            whole, rate = recordings.read_audio(mix_file, self.settings.sample_rate)
        needed = {
            place
            for choice in choices
            if self.with_stems or whole is None or choice != full
            for place in choice
        }
        sounds: dict[int, np.ndarray] = {}
        for place in sorted(needed):
            path = stems[place].audio
            sounds[place], rate = self._read_audio(path, rate)
        lengths = [len(s) for s in (*sounds.values(), whole) if s is not None]
        check_lengths(
            str(folder),
            seconds=max(lengths) / rate,
            last_offset=sequences.last_offset(*(stem.sequence for stem in stems)),
            settings=self.settings,
        )
        for number, choice in enumerate(choices):
            name = item.id if len(choices) == 1 else f"{item.id}_{number:02d}"
            if whole is not None and choice == full:
                mix = whole
            else:
                mix = _sum([sounds[place] for place in choice])
            parts = [sounds[place] for place in choice] if self.with_stems else None
            chosen = [stems[place] for place in choice]
            yield self._record(name, chosen, mix, rate, parts, remarks)

    def _read_audio(self, path: Path, rate: int) -> tuple[np.ndarray, int]:
        """Reads a file that must have the rate of the others read, if any was."""
        samples, found = recordings.read_audio(path, self.settings.sample_rate)
        if rate and found != rate:
            raise DataError(f"{path}: {found} Hz; the song's other files have {rate}")
        return samples, found

    def _choose(self, item: Item, stems: Sequence[Stem]) -> list[list[int]]:
        """Returns the stems of each mix of a song."""
        rng = np.random.default_rng(random_seed(self.settings.seed, item.id))
        if self.dataset == "cerberus4":
            return _quartets(item.id, stems, self.combinations, rng)
        if item.data["split"] != "train":
            if not stems:
                raise LeftOut(f"{item.id}: no stem can be used")
            return [list(range(len(stems)))]
        if len(stems) < self.min_stems:
            raise LeftOut(
                f"{item.id}: {len(stems)} stems can be used; expected at least "
                f"{self.min_stems}"
            )
        sizes = rng.integers(self.min_stems, len(stems) + 1, self.subsets)
        return [
            sorted(rng.choice(len(stems), size, replace=False).tolist())
            for size in sizes
        ]

    def _read_stems(self, folder: Path) -> tuple[list[Stem], bool, tuple[str, ...]]:
        """Reads what can be used of a song, without its audio.

        Returns:
          The stems; whether they are all that sounds in the mix; what was left out.

        Raises:
          DataError: the metadata cannot be read, or a rendered stem is not there.
          MidiError: as `sequences.read_midi`.
        """
        is_quartet = self.dataset == "cerberus4"
        find = slakh_classes.quartet_part if is_quartet else slakh_classes.class_of
        stems, unused = [], []
        for source, values in _metadata(folder).items():
            if not values.get("audio_rendered", True):
                continue
            file = _audio_file(folder / "stems", source)
            if file is None:
                raise DataError(
                    f"{folder / 'stems'}: no {source}.flac or {source}.wav, which the "
                    "metadata says was rendered"
                )
            kind = find(values)
            sequence = None
            if kind and values.get("midi_saved", True):
                midi = folder / "MIDI" / f"{source}.mid"
                sequence = sequences.read_midi(midi, allow_empty=True)
            if sequence and sequence.notes:
                stems.append(_stem(source, kind, values, file, sequence))
            else:
                unused.append(f"{source} ({'no notes' if kind else 'no class'})")
        remarks = (f"left out: stems {', '.join(unused)}",) if unused else ()
        # A quartet leaves out most stems, so no remark is needed.
        return stems, not unused, () if is_quartet else remarks

    def _record(
        self,
        name: str,
        stems: Sequence[Stem],
        mix: np.ndarray,
        rate: int,
        parts: Sequence[np.ndarray] | None,
        remarks: tuple[str, ...],
    ) -> Record:
        flat = np.zeros(0, np.float32)
        if parts is not None:
            flat = np.concatenate([_fit(part, len(mix)) for part in parts])
        is_quartet = self.dataset == "cerberus4"
        features = {
            "audio_sample_rate": rate,
            "inst_names": [stem.kind for stem in stems],
            "midi_class": [midi_class(stem.program) for stem in stems],
            "mix": mix,
            "note_sequences": [stem.sequence.SerializeToString() for stem in stems],
            "plugin_name": [zlib.crc32(stem.plugin.encode()) for stem in stems],
            "program_num": [stem.program for stem in stems],
            "slakh_class": [_class_number(stem) for stem in stems],
            "src_ids": [stem.source for stem in stems],
            "stems": flat,
            "stems_shape": [len(stems), len(flat) // len(stems)],
            "target_type": "cerberus" if is_quartet else "full",
            "track_id": name,
        }
        count = sum(len(stem.sequence.notes) for stem in stems)
        return Record(name, features, len(mix) / rate, count, remarks)


def _stem(
    source: str, kind: str, values: dict[str, Any], file: Path, sequence: Any
) -> Stem:
    """Makes a stem, whose notes get its program: the metadata's, if it has one."""
    is_drum = slakh_classes.class_of(values) == slakh_classes.DRUMS
    program = values.get("program_num")
    if is_drum:
        program = slakh_classes.DRUM_PROGRAM
    elif not isinstance(program, int) or not 0 <= program < 128:
        program = sequence.notes[0].program
    for part in (sequence.notes, sequence.pitch_bends, sequence.control_changes):
        for event in part:
            event.is_drum = is_drum
            event.program = 0 if is_drum else program
    return Stem(
        source, kind, program, str(values.get("plugin_name", "")), file, sequence
    )


def _class_number(stem: Stem) -> int:
    """Returns a stem's place among `slakh_classes.CLASSES`; -1 for none."""
    kind = slakh_classes.class_of({"program_num": stem.program})
    return slakh_classes.CLASSES.index(kind) if kind else -1


def _quartets(
    song: str, stems: Sequence[Stem], limit: int, rng: np.random.Generator
) -> list[list[int]]:
    """Returns all quartets of a song, or a limited number of drawn ones.

    Raises:
      LeftOut: a part has no stem.
    """
    by_part = {
        part: [i for i, stem in enumerate(stems) if stem.kind == part]
        for part in slakh_classes.QUARTET
    }
    missing = [part for part, places in by_part.items() if not places]
    if missing:
        raise LeftOut(f"{song}: no stem for {', '.join(missing)}")
    count = math.prod(len(places) for places in by_part.values())
    quartets = [list(q) for q in itertools.product(*by_part.values())]
    if limit and limit < count:
        kept = sorted(rng.choice(count, limit, replace=False).tolist())
        quartets = [quartets[i] for i in kept]
    return quartets


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads what the stems of a song are, by name."""
    path = folder / "metadata.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        stems = content["stems"]
        if not all(isinstance(values, dict) for values in stems.values()):
            raise TypeError("a stem is not a table")
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except (
        yaml.YAMLError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise DataError(
            f"{path}: not metadata of a song with 'stems': {error!r}"
        ) from error
    return dict(sorted(stems.items()))


def _audio_file(folder: Path, stem: str) -> Path | None:
    """Returns a FLAC or WAV file by its name without ending, if there is one."""
    files = (folder / f"{stem}{suffix}" for suffix in AUDIO_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Adds sounds float32 [n]; shorter ones end in silence."""
    mix = np.zeros(max(map(len, parts)), np.float32)
    for part in parts:
        mix[: len(part)] += part
    return mix


def _fit(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], (0, max(0, length - len(samples))))
