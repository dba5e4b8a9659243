"""Tiny look-alikes of the public archives, as they unpack, for tests.

Each function writes one archive below a folder and returns the folder that a user
would name. Songs last two or three seconds: notes are sines, so that audio and labels
agree. `NOTES` are the notes of every pitched part, shifted by octaves from part to
part.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pretty_midi
import soundfile

# (onset, offset, pitch) of a part.
NOTES = ((0.1, 0.6, 60), (0.5, 1.1, 64), (1.2, 1.7, 67))
DRUM_NOTES = ((0.1, 0.2, 36), (0.6, 0.7, 38), (1.1, 1.2, 42))
SECONDS = 2.0
RATE = 22050

MAESTRO_SPLITS = {"train": 3, "validation": 1, "test": 1}
GUITARSET_EXCERPTS = ("00_BN1-129-Eb_comp", "01_Rock2-85-F_solo", "02_Jazz3-150-C_comp")
URMP_PIECES = {
    "01_Jupiter_vn_vc": ("vn", "vc"),  # validation
    "03_Dance_fl_cl": ("fl", "cl"),
    "04_Allegro_fl_fl_hn": ("fl", "fl", "hn"),
}
# One of the validation ids, one of the test ids, two others.
MUSICNET_IDS = {"train": ("1727", "2336", "2118"), "test": ("2303",)}
# MIDI names of stems: metadata of a song of Slakh.
SLAKH_STEMS = {
    "S00": {"inst_class": "Piano", "program_num": 1, "plugin_name": "grand.nkm"},
    "S01": {"inst_class": "Bass", "program_num": 34, "plugin_name": "bass.nkm"},
    "S02": {"inst_class": "Guitar", "program_num": 27, "plugin_name": "strat.nkm"},
    "S03": {"inst_class": "Drums", "program_num": 128, "plugin_name": "kit.nkm"},
    "S04": {"inst_class": "Guitar", "program_num": 30, "plugin_name": "dist.nkm"},
    "S05": {"inst_class": "Strings", "program_num": 44, "plugin_name": "strings.nkm"},
    # Rendered, but of no class.
    "S06": {"inst_class": "Ethnic", "program_num": 105, "plugin_name": "banjo.nkm"},
    # Not rendered.
    "S07": {"inst_class": "Sound Effects", "program_num": 120, "plugin_name": "None"},
}


def sines(notes: Sequence[tuple], seconds: float = SECONDS, rate: int = RATE):
    """Renders notes as sines, float32 [samples]."""
    audio = np.zeros(round(seconds * rate), np.float32)
    for onset, offset, pitch in notes:
        first, last = round(onset * rate), min(len(audio), round(offset * rate))
        time = np.arange(last - first) / rate
        audio[first:last] += 0.1 * np.sin(
            2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time
        )
    return audio


def part(number: int) -> list[tuple[float, float, int]]:
    """Returns the notes of a part: `NOTES`, some semitones away."""
    return [(on, off, pitch - 12 + 5 * number) for on, off, pitch in NOTES]


def write_audio(path: pathlib.Path, samples, rate: int = RATE) -> pathlib.Path:
    """Writes a WAV or FLAC file by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def write_midi(
    path: pathlib.Path,
    notes: Sequence[tuple],
    *,
    program: int = 0,
    is_drum: bool = False,
    pedal: Sequence[tuple[float, int]] = (),
) -> pathlib.Path:
    """Writes a MIDI file of one part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=125)
    instrument = pretty_midi.Instrument(program, is_drum)
    for onset, offset, pitch in notes:
        instrument.notes.append(pretty_midi.Note(90, pitch, onset, offset))
    for time, value in pedal:
        instrument.control_changes.append(pretty_midi.ControlChange(64, value, time))
    midi.instruments.append(instrument)
    midi.write(str(path))
    return path


def maestro(root: pathlib.Path, *, version: str = "3.0.0") -> pathlib.Path:
    """Writes MAESTRO: stereo WAV files and MIDI files with pedal, by year."""
    root = root / f"maestro-v{version}"
    rows = []
    for split, count in MAESTRO_SPLITS.items():
        for number in range(count):
            name = f"2018/MIDI-Unprocessed_{split}_{number}"
            samples = sines(part(number))
            write_audio(root / f"{name}.wav", np.stack([samples, samples], axis=1))
            pedal = [(0.3, 127), (0.9, 0)]
            write_midi(root / f"{name}.midi", part(number), pedal=pedal)
            rows.append(
                {
                    "canonical_composer": "Anonymous",
                    "canonical_title": f"Piece {number}, slow",
                    "split": split,
                    "year": "2018",
                    "midi_filename": f"{name}.midi",
                    "audio_filename": f"{name}.wav",
                    "duration": f"{SECONDS}",
                }
            )
    write_table(root / f"maestro-v{version}.csv", rows)
    return root


def write_table(path: pathlib.Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows as CSV with a heading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def guitarset(
    root: pathlib.Path, *, recordings: Sequence[str] = ("mic", "mix")
) -> pathlib.Path:
    """Writes GuitarSet: JAMS files, and recordings of the microphone and pickup."""
    root = root / "GuitarSet"
    folders = {"mic": "audio_mono-mic", "mix": "audio_mono-pickup_mix"}
    for number, name in enumerate(GUITARSET_EXCERPTS):
        for kind in recordings:
            path = root / folders[kind] / f"{name}_{kind}.wav"
            write_audio(path, sines(part(number)))
        write_jams(root / "annotation" / f"{name}.jams", part(number))
    return root


def write_jams(path: pathlib.Path, notes: Sequence[tuple]) -> None:
    """Writes notes in turn to the six strings of a JAMS file, a little off pitch."""
    annotations = [{"namespace": "beat_position", "data": [{"time": 0.0}]}]
    for string in range(6):
        data = [
            {
                "time": onset,
                "duration": offset - onset,
                "value": pitch + 0.2,
                "confidence": None,
            }
            for onset, offset, pitch in notes[string::6]
        ]
        metadata = {"data_source": str(string)}
        annotations += [
            {"namespace": "pitch_contour", "data": {}, "annotation_metadata": metadata},
            {"namespace": "note_midi", "data": data, "annotation_metadata": metadata},
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"annotations": annotations}), encoding="utf-8")


def urmp(root: pathlib.Path) -> pathlib.Path:
    """Writes URMP: a folder for each piece, a table of notes for each part."""
    root = root / "Dataset"
    for piece, instruments in URMP_PIECES.items():
        folder, title = root / piece, "_".join(piece.split("_")[:2])
        samples = sum(sines(part(n)) for n in range(len(instruments)))
        write_audio(folder / f"AuMix_{piece}.wav", samples)
        write_midi(folder / f"Sco_{piece}.mid", part(0))
        for number, instrument in enumerate(instruments):
            end = f"{number + 1}_{instrument}_{title}"
            write_audio(folder / f"AuSep_{end}.wav", sines(part(number)))
            lines = [
                f"{on:.3f}\t{440 * 2 ** ((pitch - 69) / 12):.3f}\t{off - on:.3f}\n"
                for on, off, pitch in part(number)
            ]
            (folder / f"Notes_{end}.txt").write_text("".join(lines))
    return root


def musicnet(root: pathlib.Path, *, em: Sequence[str] | None = None) -> pathlib.Path:
    """Writes MusicNet; with `em`, labels of MusicNetEM for these recordings, too."""
    root = root / "musicnet"
    for part_name, ids in MUSICNET_IDS.items():
        for song in ids:
            samples = sines([*part(0), *part(1)])
            write_audio(root / f"{part_name}_data" / f"{song}.wav", samples)
            rows = [
                {
                    "start_time": round(on * 44100),
                    "end_time": round(off * 44100),
                    "instrument": instrument,
                    "note": pitch,
                    "start_beat": 1.0,
                    "end_beat": 0.5,
                    "note_value": "Eighth",
                }
                for number, instrument in ((0, 1), (1, 41))  # piano, violin
                for on, off, pitch in part(number)
            ]
            write_table(root / f"{part_name}_labels" / f"{song}.csv", rows)
    for song in em or ():
        path = root.parent / "musicnet_em" / f"{song}.mid"
        write_midi(path, part(0), program=42)
    return root


def slakh(
    root: pathlib.Path,
    *,
    songs: Mapping[str, Sequence[str]] | None = None,
    stems: Sequence[str] = tuple(SLAKH_STEMS),
    suffix: str = ".flac",
) -> pathlib.Path:
    """Writes Slakh2100 (redux): songs of the same stems in each split."""
    import yaml

    root = root / "slakh2100_flac_redux"
    songs = songs or {
        "train": ("Track00001", "Track00002"),
        "validation": ("Track01501",),
        "test": ("Track01876",),
        "omitted": ("Track00049",),
    }
    for split, names in songs.items():
        for name in names:
            folder = root / split / name
            metadata, mix = {}, np.zeros(round(SECONDS * RATE), np.float32)
            for number, stem in enumerate(stems):
                is_drum = SLAKH_STEMS[stem]["inst_class"] == "Drums"
                rendered = stem != "S07"
                metadata[stem] = {
                    **SLAKH_STEMS[stem],
                    "is_drum": is_drum,
                    "audio_rendered": rendered,
                    "midi_saved": True,
                    "integrated_loudness": -18.5,
                }
                notes = DRUM_NOTES if is_drum else part(number)
                program = 0 if is_drum else SLAKH_STEMS[stem]["program_num"]
                midi = folder / "MIDI" / f"{stem}.mid"
                write_midi(midi, notes, program=program, is_drum=is_drum)
                if rendered:
                    samples = sines(notes)
                    mix += samples
                    write_audio(folder / "stems" / f"{stem}{suffix}", samples)
            write_audio(folder / f"mix{suffix}", mix)
            write_midi(folder / "all_src.mid", part(0))
            content = {"UUID": "0", "normalized": True, "stems": metadata}
            (folder / "metadata.yaml").write_text(yaml.safe_dump(content))
    return root


def songs(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """Writes pairs of a FLAC and a MIDI file by name, which may hold folders."""
    root = root / "songs"
    for number, name in enumerate(names):
        path = root / name
        write_audio(path.parent / f"{path.name}.flac", sines(part(number % 4)))
        write_midi(path.parent / f"{path.name}.mid", part(number % 4), program=40)
    return root
