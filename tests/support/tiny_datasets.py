"""Tiny look-alikes of the data sets: published layout, published features.

A song is a few seconds of sines, rendered from its notes, so that audio and notes
agree. `songs` gives what a transcription should find; `write_all` writes the records:

* MAESTRO holds keys' releases and a pedal; `TinySong.notes` has the pedal applied.
* GuitarSet and URMP hold notes without programs, Slakh and Cerberus4 General MIDI
  programs, and the first song of Slakh's train split has overlapping notes of one
  pitch; `TinySong.notes` has the programs that the data sets stand for.
* The monophonic clips are one line of notes; their ids are names and offsets.
* MusicNet is stored at 22050 Hz, GuitarSet as stereo; the others at 16 kHz, mono.

Everything is the same at every call.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import soundfile
import tensorflow as tf
from note_seq.protobuf import music_pb2

from mt3 import datasets
from mt3.note_sequences import Note, assign_instruments

SAMPLE_RATE = 16000
SECONDS = 4.0
NUM_SHARDS = 2
NUM_SONGS = {"train": 3, "validation": 2, "test": 2}
# MAESTRO's pedal is down in this time, seconds.
PEDAL = (0.5, 1.4)

# Parts of a song: name in the record, program that it stands for (None for drums).
PARTS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "maestrov1": (("Piano", 0),),
    "maestrov3": (("Piano", 0),),
    "guitarset": (("Clean Guitar", 24),),
    "urmp": (("vn", 40), ("vc", 42), ("fl", 73)),
    "musicnet": (("Piano", 0), ("Violin", 40)),
    "musicnet_em": (("Piano", 0), ("Cello", 42)),
    "cerberus4": (("bass", 32), ("drums", None), ("guitar", 24), ("piano", 0)),
    "slakh": (
        ("Electric Bass", 33),
        ("Drums", None),
        ("Violin", 40),
        ("Acoustic Piano", 0),
    ),
    "synthetic": (("Piano", 0), ("Drums", None), ("Strings", 48)),
    "monophonic": (("Flute", 73),),
}
# What a Slakh stem's own file says; the data set stands for the class instead.
_STEM_PROGRAMS = {33: 35, 32: 36, 24: 27, 40: 40, 0: 1}


@dataclasses.dataclass(frozen=True)
class TinySong:
    """One song.

    Attributes:
      id: the record's own id.
      parts: names of the parts.
      part_notes: notes of each part, as they sound.
      seconds: length.
    """

    id: str
    parts: tuple[tuple[str, int | None], ...]
    part_notes: tuple[tuple[Note, ...], ...]
    seconds: float

    @property
    def notes(self) -> list[Note]:
        """All notes, by onset."""
        return sorted(note for part in self.part_notes for note in part)

    def samples(self, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """Audio, float32 [round(seconds * sample_rate)]."""
        return sum(render(part, self.seconds, sample_rate) for part in self.part_notes)


def render(notes: Iterable[Note], seconds: float, sample_rate: int) -> np.ndarray:
    """Renders notes as sines and drums as noise, float32 [samples]."""
    audio = np.zeros(round(seconds * sample_rate), np.float32)
    for note in notes:
        first = round(note.start_time * sample_rate)
        last = min(len(audio), round(note.end_time * sample_rate))
        time = np.arange(max(0, last - first), dtype=np.float32) / sample_rate
        if note.is_drum:
            wave = np.random.default_rng(note.pitch).uniform(-1, 1, len(time))
        else:
            wave = np.sin(2 * np.pi * 440 * 2 ** ((note.pitch - 69) / 12) * time)
        fade = np.minimum(1, time / 0.004) * np.minimum(1, time[::-1] / 0.004)
        audio[first : first + len(time)] += 0.1 * note.velocity / 127 * fade * wave
    return audio


def songs(
    data_set: str, split: str, *, seconds: float = SECONDS
) -> tuple[TinySong, ...]:
    """Returns the songs of a split; of a `_subset`, those in its shards.

    Args:
      data_set: a name of `datasets.DATASETS`.
      split: a split.
      seconds: length of each song, at least 3.
    """
    whole = split.removesuffix("_subset")
    result = [
        _song(data_set, whole, index, seconds) for index in range(NUM_SONGS[whole])
    ]
    if split == "train_subset" and data_set.startswith("maestro"):
        result = result[::NUM_SHARDS]
    return tuple(result)


def _song(data_set: str, split: str, index: int, seconds: float) -> TinySong:
    name = f"{data_set}-{split}-{index}"
    if data_set == "guitarset":
        name += "_mic"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    parts = PARTS[data_set]
    notes = [_part(rng, program, seconds) for _, program in parts]
    if data_set.startswith("maestro"):
        notes = [_with_pedal(part) for part in notes]
    if data_set == "slakh" and split == "train" and index == 0:
        program = parts[0][1]
        pair = Note(2.2, 2.9, 28, 90, program), Note(2.5, 3.3, 28, 80, program)
        notes[0] = (*notes[0], *pair)
    return TinySong(name, parts, tuple(map(tuple, notes)), seconds)


def _part(rng: np.random.Generator, program: int | None, seconds: float) -> list[Note]:
    """A line of notes without overlaps of one pitch; one is held across 2.048 s."""
    notes, time, low = [], 0.1 + 0.1 * rng.random(), 40 + int(rng.integers(0, 20))
    pitches = iter(low + rng.permutation(24))
    while time < seconds - 0.6:
        length = 0.15 + 0.3 * rng.random()
        if time < 2.0 < time + 2 * length:
            length = 2.3 - time
        if program is None:
            pitch, length = (36, 38, 42)[int(rng.integers(3))], 0.1
        else:
            pitch = int(next(pitches))
        start, end = round(time, 3), round(time + length, 3)
        velocity = int(rng.integers(40, 120))
        notes.append(Note(start, end, pitch, velocity, program or 0, program is None))
        time += length + (0.15 if program is None else -0.05) + 0.1 * rng.random()
    return notes


def _with_pedal(notes: Iterable[Note]) -> list[Note]:
    down, up = PEDAL
    return [
        dataclasses.replace(note, end_time=up) if down < note.end_time < up else note
        for note in notes
    ]


def _raw_maestro_notes(song: TinySong) -> list[Note]:
    """The keys: notes that the pedal holds were released earlier."""
    down, up = PEDAL
    return [
        dataclasses.replace(note, end_time=max(note.start_time, down) + 0.1)
        if note.end_time == up
        else note
        for note in song.notes
    ]


def write_all(
    root: str | pathlib.Path,
    *,
    data_sets: Iterable[str] | None = None,
    splits: Iterable[str] = ("train", "validation", "test"),
    seconds: float = SECONDS,
) -> pathlib.Path:
    """Writes the records of data sets below a data root.

    Args:
      root: the data root; made if it is not there.
      data_sets: names of `datasets.DATASETS`; all by default.
      splits: those of the data set's splits to write.
      seconds: length of each song.

    Returns:
      The data root.
    """
    root = pathlib.Path(root)
    for name in data_sets or datasets.DATASETS:
        config = datasets.DATASETS[name]
        wanted = [split for split in splits if split in config.paths]
        for split in wanted:
            records = [record(name, s) for s in songs(name, split, seconds=seconds)]
            _write(root, config.paths[split], records)
        if name == "synthetic":
            _write_manifest(root, wanted, seconds)
    return root


def record(data_set: str, song: TinySong) -> bytes:
    """Returns a song's record, a serialized tf.Example."""
    if data_set in ("cerberus4", "slakh"):
        return _example(_stem_features(data_set, song))
    if data_set == "monophonic":
        return _example(
            {
                "audio": song.samples(),
                "filename": song.id.encode(),
                "offset": 80000,
                "sampling_rate": float(SAMPLE_RATE),
                "sequence": sequence(song.notes, song),
            }
        )
    features: dict[str, object] = {"id": song.id.encode()}
    if data_set.startswith("musicnet"):
        samples = song.samples(22050)
        features |= {"sample_rate": 22050.0, "audio": samples}
    else:
        features["audio"] = wav(song.samples(), 2 if data_set == "guitarset" else 1)
    notes = song.notes
    if data_set.startswith("maestro"):
        features["sequence"] = sequence(_raw_maestro_notes(song), song, pedal=PEDAL)
        return _example(features)
    if data_set in ("guitarset", "urmp"):
        notes = [dataclasses.replace(note, program=0) for note in notes]
    features["sequence"] = sequence(notes, song)
    if data_set == "guitarset":
        features["velocity_range"] = _velocity_range()
    if data_set == "urmp":
        features |= _urmp_features(song)
    return _example(features)


def _urmp_features(song: TinySong) -> dict[str, object]:
    return {
        "tracks": np.arange(1, len(song.parts) + 1),
        "inst_names": [name.encode() for name, _ in song.parts],
        "instrument_sequences": [
            sequence([dataclasses.replace(n, program=0) for n in part], song)
            for part in song.part_notes
        ],
    }


def _stem_features(data_set: str, song: TinySong) -> dict[str, object]:
    programs = [_STEM_PROGRAMS.get(program, 0) for _, program in song.parts]
    stems = np.stack(
        [render(part, song.seconds, SAMPLE_RATE) for part in song.part_notes]
    )
    sequences = []
    for part, program in zip(song.part_notes, programs, strict=True):
        notes = [dataclasses.replace(note, program=program) for note in part]
        sequences.append(sequence(notes, song, bend=bool(program)))
    count = len(song.parts)
    return {
        "audio_sample_rate": SAMPLE_RATE,
        "inst_names": [name.encode() for name, _ in song.parts],
        "midi_class": np.array(programs) // 8,
        "mix": stems.sum(axis=0),
        "note_sequences": sequences,
        "plugin_name": np.arange(count),
        "program_num": np.array(programs),
        "slakh_class": np.arange(count),
        "src_ids": [f"S{index:02d}".encode() for index in range(count)],
        "stems": stems.ravel(),
        "stems_shape": np.array(stems.shape),
        "target_type": b"cerberus" if data_set == "cerberus4" else b"full",
        "track_id": song.id.encode(),
    }


def sequence(
    notes: Sequence[Note],
    song: TinySong,
    *,
    pedal: tuple[float, float] | None = None,
    bend: bool = False,
) -> bytes:
    """Returns a serialized NoteSequence, with a pedal or a pitch bend if asked for."""
    result = music_pb2.NoteSequence(ticks_per_quarter=220, total_time=song.seconds)
    for note in notes:
        result.notes.add(
            start_time=note.start_time,
            end_time=note.end_time,
            pitch=note.pitch,
            velocity=note.velocity,
            program=note.program,
            is_drum=note.is_drum,
        )
    assign_instruments(result)
    for time, value in zip(pedal or (), (127, 0), strict=False):
        result.control_changes.add(time=time, control_number=64, control_value=value)
    if bend:
        result.pitch_bends.add(time=1.0, bend=100)
    return result.SerializeToString()


def wav(samples: np.ndarray, channels: int = 1) -> bytes:
    """Returns a 16-bit WAV file of samples [n] on some equal channels."""
    stream = io.BytesIO()
    data = np.repeat(samples[:, None], channels, axis=1)
    soundfile.write(stream, data, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def _velocity_range() -> bytes:
    return music_pb2.VelocityRange(min=0, max=127).SerializeToString()


def _example(features: Mapping[str, object]) -> bytes:
    """Returns a serialized tf.Example; the Python type decides the feature's type."""
    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif np.issubdtype(np.asarray(value).dtype, np.integer):
            feature.int64_list.value.extend(np.atleast_1d(value).tolist())
        else:
            feature.float_list.value.extend(np.atleast_1d(value).tolist())
    return example.SerializeToString()


def _write(root: pathlib.Path, pattern: str, records: Sequence[bytes]) -> None:
    """Writes records to shards, dealt out in turn."""
    sharded = "?????" in pattern
    count = NUM_SHARDS if sharded else 1
    for shard in range(count):
        name = pattern.replace("?????", "%05d") % ((shard, count) if sharded else ())
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for serialized in records[shard::count]:
                writer.write(serialized)


def _write_manifest(root: pathlib.Path, splits: Iterable[str], seconds: float) -> None:
    manifest = {
        "format": datasets.MANIFEST_FORMAT,
        "version": datasets.MANIFEST_VERSION,
        "name": "synthetic",
        "description": "sines",
        "splits": {
            split: {
                "pattern": f"{split}.tfrecord-?????-of-{NUM_SHARDS:05d}",
                "num_examples": NUM_SONGS[split],
                "seconds": NUM_SONGS[split] * seconds,
            }
            for split in splits
        },
    }
    path = root / "datasets" / "synthetic" / datasets.MANIFEST_NAME
    path.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
