"""`benchmarks/run_peers.py`, with stand-ins for the programs that it runs."""

import sys
import types

import numpy as np
import pytest
import soundfile

from benchmarks import run_peers
from mt3.midi import reader
from mt3.note_sequences import Note


class Harmonica:
    """Hears one note, as long as the recording."""

    def __init__(self, device):
        assert device == "cpu"

    def transcribe(self, wav):
        seconds = soundfile.info(wav).duration
        return types.SimpleNamespace(
            onsets=np.array([0.5, 0.0]),
            offsets=np.array([seconds, 0.25]),
            pitches=np.array([60, 64], np.int16),
            velocities=np.array([100, 1], np.uint8),
        )


def predict(wav, model):
    print(f"predicting {wav}")
    return None, None, [(0.5, 1.0, 60, 100 / 127, [0, 0]), (0.0, 0.25, 64, 0.0, [])]


@pytest.fixture
def programs(monkeypatch):
    inference = types.SimpleNamespace(Model=str, predict=predict)
    basic_pitch = types.ModuleType("basic_pitch")
    basic_pitch.inference = inference
    basic_pitch.FilenameSuffix = types.SimpleNamespace(onnx="onnx")
    basic_pitch.build_icassp_2022_model_path = str
    harmonica = types.ModuleType("harmonica")
    harmonica.Harmonica = Harmonica
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "basic_pitch", basic_pitch)
    monkeypatch.setitem(sys.modules, "harmonica", harmonica)
    # Basic Pitch's warnings are switched off for the whole process.
    monkeypatch.setattr(run_peers.logging, "disable", lambda level: None)


@pytest.mark.parametrize("program", sorted(run_peers.PROGRAMS))
def test_notes_and_velocities_are_written_beside_no_other_file(
    program, programs, tmp_path, capsys
):
    audio, found = tmp_path / "audio", tmp_path / "found"
    (audio / "set").mkdir(parents=True)
    soundfile.write(audio / "set" / "tune.wav", np.zeros(16000), 16000)
    arguments = [program, str(audio), str(found)]
    assert run_peers.main(arguments) == 0
    assert capsys.readouterr().out == "set/tune.mid: 2 notes\n"
    (midi,) = (path for path in found.rglob("*") if path.is_file())
    notes = reader.read_midi(midi)
    assert notes == [Note(0.0, 0.25, 64, 1), Note(0.5, 1.0, 60, 100)]
    assert run_peers.main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_missing_programs_and_audio_are_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no WAV files"):
        run_peers.main(["harmonica", str(tmp_path), str(tmp_path)])
    soundfile.write(tmp_path / "tune.wav", np.zeros(1600), 16000)
    monkeypatch.setitem(sys.modules, "harmonica", None)
    with pytest.raises(SystemExit, match="environment that has harmonica"):
        run_peers.main(["harmonica", str(tmp_path), str(tmp_path)])
