"""Settings and fixtures that every test shares."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

# Before anything imports JAX. The suite must pass, and mean the same, on a machine
# with an accelerator as on one without.
os.environ["JAX_PLATFORMS"] = "cpu"
# The suite compiles tiny networks much longer than it runs them: LLVM need not
# optimise, fusions need no dialect of their own, and splitting a program among threads
# costs more than it gains. `make test` runs the golden tests and decoding with programs
# as for use.
_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
# JAX 0.12 knows this flag no more, and ends the process without a word over it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)
# The suite's processes, subprocesses included, share compiled programs, however small:
# the same tiny networks are compiled in many tests. The home folder is left alone.
_CACHE = str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla")
os.environ.setdefault("MT3_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.support import offline  # noqa: E402

# Nothing may leave this computer.
offline.forbid()

# A shape that broadcasts by accident is a defect here, not a convenience.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Derandomised: a failure in one run is a failure in the next. Timings say nothing on
# a shared machine, and a first call compiles.
hypothesis.settings.register_profile(
    "mt3", deadline=None, derandomize=True, max_examples=50, database=None
)
hypothesis.settings.load_profile("mt3")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GOLDEN_DATA = pathlib.Path(__file__).resolve().parent / "golden" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that all workers end at about one time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts the same in every test."""
    return np.random.default_rng(20240229)


@pytest.fixture
def key() -> jax.Array:
    """A JAX random key that starts the same in every test."""
    return jax.random.key(20240229)


@pytest.fixture(autouse=True)
def _seed_global_generator() -> None:
    # For third parties that draw from the global generator; ours never do.
    np.random.seed(20240229)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fails a test that wanted to leave this computer, even where that was caught."""
    before = len(offline.attempts)
    yield
    assert not offline.attempts[before:], "nothing here needs a network"


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees the compiled programs of a module's tests: the next one has others."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_start(tiny_weights: pathlib.Path) -> Iterator[None]:
    """Runs begin with parameters whose drawing need not be compiled.

    The tiny model comes first, so that its parameters are the same in all modules.
    """
    from tests.support import drawn

    with drawn.first_parameters():
        yield


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden_data() -> pathlib.Path:
    """The folder of the original system's outputs."""
    return GOLDEN_DATA


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny model with random weights (`tests.support.tiny_model`), as a file."""
    from tests.support import tiny_model

    path = tmp_path_factory.mktemp("tiny_model") / "tiny.safetensors"
    tiny_model.write(path)
    return path
