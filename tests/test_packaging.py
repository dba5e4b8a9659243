"""What is imported is declared, and the layers' imports go one way."""

from __future__ import annotations

import ast
import pathlib
import re
import sys

import pytest

# Import names that differ from the distribution's name.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "gin": "gin-config",
    "mido": "pretty_midi",
    "note_seq": "note-seq",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
}
# Come with what is declared: ml_dtypes and jaxlib with jax, etils and absl with flax.
IMPLIED = {"absl-py", "etils", "jaxlib", "ml_dtypes"}
# Found where they are installed, with a message how; never required.
OPTIONAL = {"apache_beam", "fluidsynth", "t5x", "tinysoundfont"}
HEAVY = {"tensorflow", "seqio", "note_seq", "t5x", "clu", "mirdata"}
# Only these may import TensorFlow and its like at module level.
DATA_LAYER = {
    "datasets.py",
    "feature_converters.py",
    "mixing.py",
    "preprocessors.py",
    "summaries.py",
    "tasks.py",
}


def declared(repository: pathlib.Path) -> dict[str, list[str]]:
    """The lists of requirements in setup.py, without running it."""
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    lists: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            code = compile(ast.Expression(node.value), "setup.py", "eval")
            lists[node.targets[0].id] = eval(code, {}, dict(lists))
    return lists


def names(requirements: list[str]) -> set[str]:
    """Distribution names without versions."""
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def imports(path: pathlib.Path, *, module_level: bool = False) -> set[str]:
    """Top-level names of the third-party packages that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mt3"}


@pytest.fixture(scope="module")
def modules(repository) -> list[pathlib.Path]:
    found = sorted((repository / "mt3").rglob("*.py"))
    assert len(found) > 20
    return found


def test_every_import_is_declared(repository, modules):
    lists = declared(repository)
    known = names(lists["INSTALL"]) | names(lists["TRAIN"]) | IMPLIED | OPTIONAL
    for path in modules:
        needed = {DISTRIBUTIONS.get(name, name) for name in imports(path)}
        assert needed <= known, path


def test_transcribing_needs_the_base_install_only(repository, modules):
    known = names(declared(repository)["INSTALL"]) | IMPLIED | OPTIONAL
    # flax requires it.
    known.add("optax")
    for path in modules:
        folder = path.relative_to(repository / "mt3").parts[0]
        if folder not in DATA_LAYER | {"engine", "scripts"}:
            needed = imports(path, module_level=True)
            assert {DISTRIBUTIONS.get(n, n) for n in needed} <= known, path


def test_only_the_data_layer_imports_tensorflow(repository, modules):
    for path in modules:
        if path.relative_to(repository / "mt3").parts[0] not in DATA_LAYER:
            assert not imports(path, module_level=True) & HEAVY, path


def test_the_command_line_imports_only_the_standard_library(repository):
    assert not imports(repository / "mt3" / "cli.py", module_level=True)


def test_the_tests_need_no_tensorflow(repository):
    assert not names(declared(repository)["TEST"]) & {"tensorflow", "seqio"}


def test_every_requirement_has_a_floor(repository):
    lists = declared(repository)
    for key in ("INSTALL", "ENGINE", "TRAIN", "TEST", "NOTEBOOKS"):
        assert lists[key]
        for requirement in lists[key]:
            assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement)


def test_the_version_is_read_from_the_package(repository):
    import mt3

    text = (repository / "mt3" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "([^"]+)"', text, re.M)[1] == mt3.__version__
