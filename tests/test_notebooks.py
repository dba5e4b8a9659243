"""The notebooks in `colab/`: how they are committed, and that they run.

They run from top to bottom in a kernel of their own, as for somebody who has installed
what their first cell names: without TensorFlow and seqio, the second without note-seq.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import pathlib
import sys
import types

import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

from mt3 import outputs
from mt3.midi.reader import read_midi
from mt3.note_sequences import Note
from tests.support import lookalike_archives

TRANSCRIBE = "music_transcription_with_transformers.ipynb"
RECONVAT = "mt3_reconvat_baseline.ipynb"
NOTEBOOKS = [TRANSCRIBE, RECONVAT]
# Cells that the tests replace.
TAGS = {"install", "upload", "record"}
EXTRAS = {TRANSCRIBE: {"score"}, RECONVAT: set()}
# What cells may import: the package, what it requires, and the notebook's own page.
IMPORTS = {"mt3", "numpy", "jax", "soundfile", "tqdm", "IPython", "google"}


def read(repository, name):
    return nbformat.read(repository / "colab" / name, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def source_of(notebook, cell_id):
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return cell.source


@pytest.fixture(params=NOTEBOOKS)
def notebook(request, repository):
    return read(repository, request.param)


def test_committed_as_written(notebook, repository):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
        assert tags(cell) <= TAGS
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) > 15
    names = {path.name for path in (repository / "colab").glob("*.ipynb")}
    assert names == set(NOTEBOOKS)


def test_what_needs_a_network_or_a_person_is_tagged(repository):
    tagged = [
        [(cell.id, *tags(cell)) for cell in code_cells(read(repository, name))]
        for name in NOTEBOOKS
    ]
    assert [[cell for cell in cells if len(cell) > 1] for cells in tagged] == [
        [("install", "install"), ("upload", "upload"), ("record", "record")],
        [("install", "install")],
    ]


def test_cells_import_nothing_that_sends(notebook):
    found = set()
    for cell in code_cells(notebook):
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    assert "mt3" in found
    assert found - IMPORTS <= {"dataclasses", "importlib", "pathlib", "sys"}


def test_the_first_notebook_has_ten_short_cells_and_one_of_our_own(repository):
    cells = code_cells(read(repository, TRANSCRIBE))
    first = [cell for cell in cells if not cell.id.startswith("own")]
    assert len(first) == 10
    assert max(len(cell.source.splitlines()) for cell in first) <= 20


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("..", "file://{parent}"),
        ("mt3_transcription-0.8.0-py3-none-any.whl", "file://{here}/{source}"),
        ("git+https://example.org/owner/mt3.git", "{source}"),
    ],
)
def test_installation_is_one_line_for_each_source(
    name, source, url, repository, tmp_path, monkeypatch
):
    cell = source_of(read(repository, name), "install")
    assert cell.count("pip") == 1
    lines = []
    namespace = {
        "get_ipython": lambda: types.SimpleNamespace(
            run_line_magic=lambda magic, line: lines.append((magic, line))
        )
    }
    code = TransformerManager().transform_cell(cell)
    # In a checkout, the package is there already.
    exec(code, namespace)
    assert not lines
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(code.replace('SOURCE = ".."', f"SOURCE = {source!r}"), namespace)
    ((magic, line),) = lines
    assert magic == "pip"
    line = line.format(source=namespace["source"])
    assert line.startswith('install --quiet "')
    requirement = Requirement(line.split('"')[1])
    assert requirement.name == "mt3-transcription"
    assert requirement.extras == EXTRAS[name]
    assert requirement.url == url.format(
        source=source, here=tmp_path, parent=tmp_path.parent
    )


@pytest.fixture
def run(repository, tmp_path, monkeypatch):
    """Returns a function that runs a notebook and returns its texts by cell."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(repository))

    def run(name, hidden, replaced):
        notebook = read(repository, name)
        hide = "\n".join(f"sys.modules[{module!r}] = None" for module in hidden)
        replaced = {
            "install": f"import importlib.util, sys\n{hide}\nfrom pathlib import Path",
            **replaced,
        }
        for cell in code_cells(notebook):
            for tag in tags(cell):
                cell.source = replaced[tag]
        folder = tmp_path / "notebook"
        folder.mkdir()
        nbclient.NotebookClient(
            notebook, timeout=None, resources={"metadata": {"path": str(folder)}}
        ).execute()
        return folder, {cell.id: cell.outputs for cell in code_cells(notebook)}

    return run


def text(outputs):
    """What a cell printed."""
    return "".join(out.text for out in outputs if out.output_type == "stream")


def shown(outputs, kind):
    """What a cell displayed of a MIME type."""
    return [out.data[kind] for out in outputs if kind in out.get("data", {})]


def table(markdown):
    """The cells of a table by row and column."""
    heads, _, *rows = (
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in markdown.replace("|  |", "| - |").splitlines()
    )
    return {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_transcription_from_top_to_bottom(run, repository):
    piano = repository / "examples" / "piano.flac"
    folder, cells = run(
        TRANSCRIBE,
        ["tensorflow", "seqio"],
        {"upload": f"recording = Path({str(piano)!r})", "record": ""},
    )
    progress = text(cells["transcribe"])
    assert "100%" in progress
    assert "notes of Acoustic Grand Piano" in progress
    assert len(shown(cells["listen"], "text/html")) == 3
    (picture,) = shown(cells["piano-roll"], "image/png")
    assert len(picture) > 5000
    assert "<svg" in shown(cells["score"], "text/html")[0]
    assert "piano.mid" in shown(cells["download"], "text/html")[0]
    found = read_midi(folder / "transcribed" / "piano.mid")
    assert 45 <= len(found) <= 55
    with open(folder / "transcribed" / "piano.both.wav", "rb") as file:
        assert file.read(24)[22:24] == b"\2\0"  # channels
    own = text(cells["own-run"])
    assert " 49 in the piece" in own
    assert float(own.split("Onset F1 ")[1].split()[0]) > 0.8
    assert "pitch: " in own


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_baseline_from_top_to_bottom(run, monkeypatch):
    # The default weights hear 43 s: quicker when optimised as they are for use.
    monkeypatch.setenv("XLA_FLAGS", "")
    folder, cells = run(RECONVAT, ["tensorflow", "seqio", "note_seq"], {})
    names = {path.stem for path in (folder / "chunks").glob("*.flac")}
    assert names == {"example_00000", "example_00020", "piano_00000"}
    (markdown,) = shown(cells["table"], "text/markdown")
    published, micro, macro = zip(
        *map(dict.values, table(markdown).values()), strict=True
    )
    assert published[::3] == ("0.480", "0.295", "0.113")
    assert micro != macro
    assert all(0.2 < float(value) < 0.8 for value in (*micro, *macro))
    (markdown,) = shown(cells["comparison"], "text/markdown")
    systems = table(markdown)
    assert (
        systems["ReconVAT, published (MusicNet, test)"]["Onset F1 (micro)"] == "0.295"
    )
    ours = systems["mt3, rendered-medium (the examples)"]
    baseline = systems["stand-in for ReconVAT (the examples)"]
    assert baseline["Onset F1 (micro)"] == micro[3]
    assert baseline["Onset F1 (macro)"] == macro[3]
    for metric in ours:
        assert float(ours[metric]) > float(baseline[metric])
    (markdown,) = shown(cells["whole"], "text/markdown")
    rows = table(markdown)
    published = rows["MT3, trained on all data sets, published (MusicNet, test)"]
    assert published["Onset F1"] == "0.502"
    assert float(rows["mt3, rendered-medium (the examples)"]["Onset F1"]) > 0.8


def test_baseline_with_musicnet_and_the_files_of_reconvat(
    repository, tmp_path, monkeypatch, capsys
):
    """The cells one by one, here: perfect notes score 1, a missing file is named."""
    root = lookalike_archives.musicnet(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda item: shown.append(item.data))
    notebook = read(repository, RECONVAT)
    namespace = {"Path": pathlib.Path}
    settings = source_of(notebook, "settings")
    settings = settings.replace('MUSICNET = ""', f"MUSICNET = {str(root)!r}")
    settings = settings.replace('RECONVAT = ""', 'RECONVAT = "Output"')
    settings = settings.replace("SYSTEMS = {}", 'SYSTEMS = {"perfect": "whole"}')
    exec(settings, namespace)
    for name in ("songs", "chunks"):
        exec(source_of(notebook, name), namespace)
    printed = capsys.readouterr().out
    assert "1729" in printed.split("Not in")[1]
    assert list(namespace["songs"]) == ["2118"]
    pathlib.Path("Output").mkdir()
    with pytest.raises(FileNotFoundError, match=r"ReconVAT-2118_00000\.mid"):
        exec(source_of(notebook, "reconvat"), namespace)
    notes = namespace["songs"]["2118"][1]
    perfect = outputs.Transcription(notes=notes)
    outputs.write(perfect, "Output/ReconVAT-2118_00000", ["mid"])
    outputs.write(perfect, "whole/2118", ["mid"])
    for name in ("reconvat", "table", "systems", "comparison", "whole"):
        exec(source_of(notebook, name), namespace)
    rows = table(shown[1])
    assert set(rows["ReconVAT (MusicNet, test)"].values()) == {"1.000"}
    assert rows["perfect (MusicNet, test)"] == rows["ReconVAT (MusicNet, test)"]
    assert table(shown[2])["perfect (MusicNet, test)"]["Frame F1"] == "1.000"


def test_a_stand_in_stays_one_when_its_cell_runs_again(
    repository, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    notes = [Note(time, time + 1.0, 60) for time in range(9)]
    namespace = {"Path": pathlib.Path, "RECONVAT": "", "dataclasses": dataclasses}
    namespace |= {"chunks": ["a_00000"], "references": {"a_00000": notes}}
    namespace["read_midi"] = read_midi
    for _ in range(2):
        exec(source_of(read(repository, RECONVAT), "reconvat"), namespace)
        assert list(namespace["estimates"]) == ["stand-in for ReconVAT"]


def test_colab_saves_the_midi_file(repository, tmp_path, monkeypatch):
    saved = []
    colab = types.SimpleNamespace(files=types.SimpleNamespace(download=saved.append))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    namespace = {
        "outputs": outputs,
        "result": outputs.Transcription(notes=[Note(0.0, 1.0, 60)]),
        "stem": tmp_path / "song",
    }
    exec(source_of(read(repository, TRANSCRIBE), "download"), namespace)
    assert saved == [str(tmp_path / "song.mid")]
    assert len(read_midi(saved[0])) == 1


def test_chunks_keep_the_notes_that_begin_in_them(repository):
    source = source_of(read(repository, RECONVAT), "chunks")
    tree = ast.parse(source)
    kept = [n for n in tree.body if isinstance(n, (ast.Import, ast.FunctionDef))]
    namespace = {}
    exec(compile(ast.Module(kept, []), "chunks", "exec"), namespace)
    notes = [Note(19.0, 21.0, 60), Note(20.0, 30.0, 62), Note(39.0, 45.0, 64)]
    assert namespace["cut"](notes, 20, 40) == [
        Note(0.0, 10.0, 62),
        Note(19.0, 20.0, 64),
    ]
    assert np.isclose(namespace["cut"](notes, 0, 20)[0].end_time, 20.0)


def test_kernels_are_this_python():
    # The notebooks ask for "python3", which another environment may have, too.
    from jupyter_client.kernelspec import get_kernel_spec

    program = get_kernel_spec("python3").argv[0]
    assert os.path.basename(program).startswith("python")
    assert os.path.dirname(program) in ("", os.path.dirname(sys.executable))
