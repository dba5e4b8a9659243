"""The example recordings are what their program makes, and what the README says."""

from __future__ import annotations

import numpy as np
import pytest

from examples import make_example
from mt3.audio import reading


@pytest.mark.parametrize("name", ["example", "piano"])
def test_midi_is_what_the_program_writes(repository, tmp_path, name):
    piece = {"example": make_example.ode_to_joy, "piano": make_example.minuet}[name]
    notes, beats_per_minute = piece()
    make_example.write_midi(tmp_path / "again.mid", notes, beats_per_minute)
    again = make_example.read_midi(tmp_path / "again.mid")
    kept = make_example.read_midi(repository / "examples" / f"{name}.mid")

    def instruments(notes):
        return sorted((n.is_drum, n.program, n.pitch) for n in notes)

    assert instruments(again) == instruments(kept)
    # Not to the tick: NumPy may change what a seed draws; players stay within 12 ms.
    starts = [sorted(n.start_time for n in notes) for notes in (again, kept)]
    np.testing.assert_allclose(starts[0], starts[1], atol=0.03)


@pytest.mark.parametrize(
    ("name", "pitched", "hits", "programs"),
    [("example", 353, 128, {0, 24, 32, 40, 73}), ("piano", 49, 0, {0})],
)
def test_counts_in_the_readme(repository, name, pitched, hits, programs):
    notes = make_example.read_midi(repository / "examples" / f"{name}.mid")
    assert sum(not n.is_drum for n in notes) == pitched
    assert sum(n.is_drum for n in notes) == hits
    assert {n.program for n in notes if not n.is_drum} == programs
    text = (repository / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"{pitched} pitched" in text


@pytest.mark.parametrize("name", ["example", "piano"])
def test_sound_belongs_to_the_midi(repository, name):
    notes = make_example.read_midi(repository / "examples" / f"{name}.mid")
    path = repository / "examples" / f"{name}.flac"
    info = reading.open_audio(path).info
    end = max(n.end_time for n in notes)
    assert info.duration == pytest.approx(end + make_example.TAIL_SECONDS, abs=0.01)
    assert path.stat().st_size < 700_000
    samples = reading.read_audio(path)
    assert 0.4 < np.abs(samples).max() <= 0.61
    # Something new sounds at the attacks: spectral flux there against elsewhere.
    hop = 160
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::hop]
    spectrum = np.log1p(100 * np.abs(np.fft.rfft(frames * np.hanning(1024))))
    flux = np.maximum(np.diff(spectrum, axis=0), 0).sum(axis=1)
    onsets = np.unique([round(n.start_time * 16000 / hop) - 3 for n in notes])
    at_onsets = onsets[onsets > 3][:, None] + np.arange(-3, 4)
    near = flux[np.clip(at_onsets, 0, len(flux) - 1)].max(axis=1)
    assert np.median(near) > 2 * np.median(flux)
