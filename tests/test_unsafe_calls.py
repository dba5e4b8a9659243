"""No code runs that a file brought along: no pickle, no eval, no shell, no links out.

What gin files and checkpoints may do is in SECURITY.md.
"""

from __future__ import annotations

import ast
import io
import tarfile
import textwrap
from collections.abc import Iterator

import numpy as np
import pytest

from mt3.errors import DataError

FOLDERS = ("mt3", "scripts", "benchmarks", "examples", "docs")
# Modules that make objects, and so run code, from bytes; and those that reach out.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal"}
MODULES |= {"shelve", "torch", "urllib.request", "http.client", "requests", "httpx"}
MODULES |= {"ftplib", "smtplib", "telnetlib", "xmlrpc", "socketserver", "webbrowser"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
CALLS |= {"os.system", "os.popen", "tempfile.mktemp", "pty.spawn", "code.interact"}
CALLS |= {"yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "pd.read_pickle"}
# File and call, with the reason.
ALLOWED = {
    # The module that a gin file names: SECURITY.md.
    ("mt3/engine/seqio_data.py", "importlib.import_module(cfg.module)"),
    # The module that the option --module_import names.
    ("scripts/dump_task.py", "importlib.import_module(module)"),
    # CSafeLoader, or SafeLoader.
    ("mt3/prepare/slakh.py", "yaml.load(Loader=loader)"),
    # `zipfile` keeps names inside the folder and makes no links.
    ("scripts/bundle/contents.py", "archive.extractall"),
    ("scripts/gather/font_packages.py", "wheel.extractall"),
    # Other programs, to compare with.
    ("benchmarks/run_peers.py", "import torch"),
    ("benchmarks/torch_port.py", "import torch"),
    # A benchmark of `serve` is its client, on loopback.
    ("benchmarks/serve.py", "import http.client"),
    ("benchmarks/serve.py", "import httpx"),
}


def unsafe(source: str) -> Iterator[str]:
    """Yields what a module does that the lists above name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node)
            continue
        else:
            continue
        for name in names:
            if any(f"{name}.".startswith(f"{module}.") for module in MODULES):
                yield f"import {name}"


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    last = name.rpartition(".")[2]
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in CALLS:
        yield name
    if options.get("shell", "False") != "False":
        yield f"{name}(shell=...)"
    if options.get("allow_pickle", "False") != "False":
        yield f"{name}(allow_pickle=...)"
    if name == "yaml.load" and "SafeLoader" not in options.get("Loader", ""):
        yield f"yaml.load(Loader={options.get('Loader')})"
    if last == "extractall" and options.get("filter") != "'data'":
        yield name
    if last == "import_module":
        argument = ast.unparse(node.args[0])
        if not argument.startswith(("'", "f'mt3.", "f't5x.")):
            yield f"{name}({argument})"


def test_no_code_of_strangers_is_run(repository):
    found, count = set(), 0
    for folder in FOLDERS:
        for path in sorted((repository / folder).rglob("*.py")):
            name = path.relative_to(repository).as_posix()
            if not name.startswith(("mt3/examples/", "docs/api/")):
                count += 1
                text = path.read_text(encoding="utf-8")
                found |= {(name, what) for what in unsafe(text)}
    assert count > 150
    assert found - ALLOWED == set()
    used = {entry for entry in ALLOWED if (repository / entry[0]).exists()}
    assert not {e for e in used if not e[0].startswith("benchmarks/")} - found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n  import torch.serialization",
        "from urllib import request",
        "eval(text)",
        "__import__(name)",
        "importlib.import_module(name)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "archive.extractall(folder)",
        "archive.extractall(folder, filter='fully_trusted')",
        "os.system(line)",
    ],
)
def test_each_kind_is_found(source):
    assert len(list(unsafe(source))) >= 1


def test_what_is_safe_is_not_found():
    source = """
        import json
        importlib.import_module('mt3.network')
        importlib.import_module(f'mt3.outputs.{name}')
        subprocess.run(['ffmpeg', path], shell=False)
        np.load(path)
        yaml.load(text, Loader=yaml.SafeLoader)
        archive.extractall(folder, filter='data')
        parser.eval(text)
    """
    assert not list(unsafe(textwrap.dedent(source)))


def test_arrays_of_objects_are_not_read(tmp_path):
    """NumPy's files may hold pickled objects; nothing of ours reads them."""
    path = tmp_path / "clips.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(path)


@pytest.mark.parametrize("attack", ["above", "absolute", "link", "device"])
def test_archives_stay_in_their_folder(tmp_path, attack):
    """What `gather_music --local` unpacks."""
    from gather_music import Gathering

    archive = tmp_path / "songs.tar"
    outside = tmp_path / "outside.mid"
    with tarfile.open(archive, "w") as file:
        if attack == "link":
            link = tarfile.TarInfo("way")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            file.addfile(link)
        names = {"above": "../../../../outside.mid", "link": "way/outside.mid"}
        member = tarfile.TarInfo(names.get(attack, str(outside)))
        if attack == "device":
            member.name, member.type = "null.mid", tarfile.CHRTYPE
            member.devmajor, member.devminor = 1, 3
        member.size = 0 if attack == "device" else 4
        file.addfile(member, io.BytesIO(b"MThd"))
    gathering = Gathering(tmp_path / "out", [], [], lambda line: None)
    if attack == "absolute":
        # Python's filter makes the name a relative one.
        assert gathering._open_local(archive).is_dir()
    else:
        with pytest.raises(DataError, match=r"songs.tar: is neither"):
            gathering._open_local(archive)
    assert not outside.exists()
    assert not list(tmp_path.rglob("null.mid"))
