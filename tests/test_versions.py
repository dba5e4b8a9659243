"""The lock file fits setup.py; the rows of `make versions` are runs that exist."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import test_packaging, versions

EXTRAS = ("INSTALL", "TEST", "NOTEBOOKS", "DOCS")
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
}


@pytest.fixture(scope="module")
def locked(repository) -> list[tuple[Requirement, int]]:
    """Each entry of the lock file with its number of hashes."""
    text = (repository / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([^#\s].*?) \\\n((?:    --hash=sha256:.*\n)+)", text, re.M)
    assert len(entries) == len(re.findall("^[a-z]", text, re.M)) > 200
    return [(Requirement(line), hashes.count("sha256:")) for line, hashes in entries]


def test_the_lock_names_no_place(repository):
    text = (repository / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|@|^-", text, re.M)


def test_every_entry_is_one_version_with_hashes(locked):
    for requirement, hashes in locked:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert hashes


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_fits_what_setup_asks_for(repository, locked, python, system):
    place = {"python_version": python, "python_full_version": f"{python}.9"}
    place |= SYSTEMS[system]
    pinned: dict[str, str] = {}
    for requirement, _ in locked:
        if requirement.marker is None or requirement.marker.evaluate(place):
            name = canonicalize_name(requirement.name)
            assert name not in pinned, f"{name} has two versions"
            pinned[name] = next(iter(requirement.specifier)).version
    lists = test_packaging.declared(repository)
    for wanted in {text for key in EXTRAS for text in lists[key]}:
        requirement = Requirement(wanted)
        if requirement.marker and not requirement.marker.evaluate(place):
            continue
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"make lock: {wanted} has no version"
        assert requirement.specifier.contains(version, prereleases=True), wanted


def test_rows_run_files_that_exist(repository):
    for row in versions.ROWS:
        for name in row.tests:
            assert (repository / "tests" / name).is_file(), name


def test_classifiers_name_the_versions_that_are_tried(repository):
    text = (repository / "setup.py").read_text(encoding="utf-8")
    named = set(re.findall(r"Python :: (3\.\d+)", text))
    assert named == {row.python for row in versions.ROWS}
    lowest = re.search(r'python_requires=">=(3\.\d+)"', text)[1]
    assert lowest == min(named, key=lambda version: int(version.split(".")[1]))


def test_counts_come_from_the_end_of_a_run():
    counted = versions.count("x\n3 failed, 12 passed, 1 warning, 2 errors in 4.05s\n")
    assert counted == {"passed": 12, "failed": 5, "warnings": 1}
    assert versions.count("Killed\n") == {"passed": 0, "failed": 0, "warnings": 0}
    result = versions.Result({"python": "3.11.7", "jax": "0.10.2"}, 12, 5)
    lines = versions.table({"lowest-3.11": result}).splitlines()
    assert lines[2].startswith("| lowest-3.11 | 3.11.7 | 0.10.2 |  | ")
    assert lines[2].endswith("| 12 | 5 | 0 |  |")
