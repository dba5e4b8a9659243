"""What is imported is declared, imports go down, the top of the package is small."""

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
    "google": "protobuf",
    "google_crc32c": "google-crc32c",
    "python_multipart": "python-multipart",
    "mido": "pretty_midi",
    "note_seq": "note-seq",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
# Come with what is declared: ml_dtypes and jaxlib with jax, etils, absl and PyYAML
# with flax.
IMPLIED = {"absl-py", "etils", "jaxlib", "ml_dtypes", "pyyaml"}
# Come with FastAPI, and with uvicorn.
IMPLIED_BY_SERVE = {"pydantic", "starlette", "h11"}
# Comes with TensorFlow and note_seq.
IMPLIED_BY_TRAIN = {"protobuf"}
# Found where they are installed, with a message how; never required.
OPTIONAL = {"apache_beam", "fluidsynth", "t5x", "tinysoundfont", "verovio"}
OPTIONAL |= {"parselmouth"}
# Who runs a notebook has them.
OPTIONAL |= {"IPython", "ipykernel"}
HEAVY = {"tensorflow", "seqio", "note_seq", "t5x", "clu", "mirdata"}
# Only these modules and folders may import TensorFlow and its like at module level,
# or one another.
DATA_LAYER = {
    "data",
    "engine/recorded_data.py",
    "engine/seqio_data.py",
    "mixing.py",
    "prepare",
    "preprocessors.py",
    "registered_tasks.py",
    "tasks.py",
}
MOST_FILES, MOST_FOLDERS = 34, 14


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


def own_imports(path: pathlib.Path) -> set[str]:
    """Paths within the package that a file imports at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {
        name.removeprefix("mt3.").replace(".", "/") + ".py"
        for name in found
        if name.startswith("mt3.")
    }


def in_data_layer(name: str) -> bool:
    """Says whether a path within the package belongs to the data layer."""
    return name in DATA_LAYER or name.split("/")[0].removesuffix(".py") in DATA_LAYER


def layers(repository: pathlib.Path) -> dict[str, int]:
    """The layer of each module or folder of the package; 0 is the top."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```layers\n(.*?)```", text, re.DOTALL)[1]
    lines = re.sub(r",\s+", ", ", block).strip().splitlines()
    listed = [line.strip().split(", ") for line in lines]
    found = {name: layer for layer, names in enumerate(listed) for name in names}
    assert len(found) == sum(map(len, listed)), "a name stands twice"
    return found


def imports_of_package(path: pathlib.Path) -> set[str]:
    """Dotted names below `mt3` that a file imports anywhere, functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found.discard("mt3.__version__")
    return {name.removeprefix("mt3.") for name in found if name.startswith("mt3.")}


def layer_name(name: str, known: dict[str, int]) -> str:
    """The entry of the list that a dotted name below `mt3` belongs to."""
    parts = name.split(".")
    both = ".".join(parts[:2])
    return both if both in known else parts[0]


@pytest.fixture(scope="module")
def modules(repository) -> list[pathlib.Path]:
    found = sorted((repository / "mt3").rglob("*.py"))
    assert len(found) > 20
    return found


@pytest.fixture(scope="module")
def lean_modules(repository, modules) -> list[pathlib.Path]:
    """The modules outside the data layer."""
    package = repository / "mt3"
    found = [m for m in modules if not in_data_layer(m.relative_to(package).as_posix())]
    assert len(modules) - len(found) >= len(DATA_LAYER)
    return found


def test_every_import_is_declared(repository, modules):
    lists = declared(repository)
    known = names(lists["INSTALL"]) | names(lists["TRAIN"]) | names(lists["SERVE"])
    known |= IMPLIED | OPTIONAL
    for path in modules:
        needed = {DISTRIBUTIONS.get(name, name) for name in imports(path)}
        assert needed <= known | IMPLIED_BY_TRAIN | IMPLIED_BY_SERVE, path


def test_transcribing_needs_the_base_install_only(repository, lean_modules):
    known = names(declared(repository)["INSTALL"]) | IMPLIED | OPTIONAL
    # flax requires it.
    known.add("optax")
    for path in lean_modules:
        if path.relative_to(repository / "mt3").parts[0] not in ("engine", "serve"):
            needed = imports(path, module_level=True)
            assert {DISTRIBUTIONS.get(n, n) for n in needed} <= known, path


def test_only_the_data_layer_imports_tensorflow(lean_modules):
    for path in lean_modules:
        assert not imports(path, module_level=True) & HEAVY, path
        assert not {name for name in own_imports(path) if in_data_layer(name)}, path


def test_imports_go_down(repository, modules):
    known = layers(repository)
    package = repository / "mt3"
    seen, up = set(), {}
    for path in modules:
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        if module in ("__init__", "__main__"):
            continue
        here = layer_name(module, known)
        seen.add(here)
        for name in imports_of_package(path):
            there = layer_name(name, known)
            assert {here, there} <= set(known), (
                f"{path}: no layer in CONTRIBUTING.md for {here} or {there}"
            )
            if known[there] < known[here]:
                up[module] = there
    assert not up
    assert set(known) - seen <= {"pretrained", "version"}


def test_the_top_of_the_package_is_small(repository):
    entries = [p for p in (repository / "mt3").iterdir() if not p.is_symlink()]
    files = [p for p in entries if p.suffix == ".py"]
    folders = [p for p in entries if p.is_dir() and p.name != "__pycache__"]
    assert 20 < len(files) <= MOST_FILES
    assert 8 < len(folders) <= MOST_FOLDERS


def test_the_command_line_imports_only_the_standard_library(repository):
    assert not imports(repository / "mt3" / "cli.py", module_level=True)


def test_the_tests_can_train(repository):
    lists = declared(repository)
    assert set(lists["TRAIN"]) < set(lists["TEST"])
    assert set(lists["ENGINE"]) < set(lists["TRAIN"]) < set(lists["CACHE"])


def test_every_requirement_has_a_floor(repository):
    lists = declared(repository)
    for key in (
        "INSTALL",
        "ENGINE",
        "TRAIN",
        "CACHE",
        "SCORE",
        "SERVE",
        "TEST",
        "NOTEBOOKS",
    ):
        assert lists[key]
        for requirement in lists[key]:
            assert re.fullmatch(r"[\w-]+>=[\d.]+(,<[\d.]+)?(;.*)?", requirement)


def test_the_version_is_read_from_the_package(repository):
    import mt3

    text = (repository / "mt3" / "version.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "([^"]+)"', text, re.M)[1] == mt3.__version__


def test_the_wheel_holds_gin_files_weights_and_pages(repository):
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    (patterns,) = (
        ast.literal_eval(node.value)["mt3"]
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "package_data"
    )
    package = repository / "mt3"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    wanted = {
        package / "gin" / path.relative_to(repository / "gin")
        for path in (repository / "gin").rglob("*.gin")
    }
    for folder in ("pretrained", "outputs/report_page", "serve/page"):
        wanted |= set((package / folder).iterdir())
    assert len(wanted) > 20
    assert {path.suffix for path in wanted} >= {".gin", ".safetensors", ".html"}
    assert wanted <= packed
