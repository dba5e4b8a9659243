"""Files written whole or not at all, what killed processes leave, locks."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from mt3 import files
from mt3.errors import OutputError

ABANDONED = f".mt3-{'0' * 16}.tmp"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which nothing was tidied yet."""
    monkeypatch.setattr(files, "_tidied", set())
    return tmp_path


@pytest.mark.parametrize("call", ["replace", "fsync", "dup"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room and run"), (errno.EROFS, "name a folder that you may")],
)
def test_what_cannot_be_written_leaves_the_old_file(
    folder, monkeypatch, call, number, advice
):
    path = folder / "a.txt"
    files.write_text(path, "old")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    def write():
        with files.atomic_file(path) as file:
            file.write(b"new")
            os.fsync(file.fileno())

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=rf"a\.txt: cannot write: .*; {advice}"):
        write()
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a.txt": "old"}


def test_a_file_that_gets_its_name_is_closed(folder, monkeypatch):
    """Windows, which has no locks, renames no file that is open."""
    monkeypatch.setattr(files, "fcntl", None)
    replace, descriptors = os.replace, []

    def open_descriptors():
        return set(map(int, os.listdir("/dev/fd")))

    def watched(*arguments):
        descriptors.append(open_descriptors())
        replace(*arguments)

    before = open_descriptors()
    monkeypatch.setattr(os, "replace", watched)
    files.write_text(folder / "a.txt", "a")
    assert descriptors == [before]


def test_what_killed_processes_left_is_removed(folder):
    for name in (ABANDONED, ".mt3-notours.tmp", "mt3.tmp"):
        (folder / name).write_bytes(b"half")
    with files.atomic_file(folder / "a.txt") as file:
        # Another process that begins to write now.
        files._tidied.clear()
        files.write_text(folder / "b.txt", "b")
        file.write(b"a")
    left = sorted(path.name for path in folder.iterdir())
    assert left == [".mt3-notours.tmp", "a.txt", "b.txt", "mt3.tmp"]


def test_a_file_that_another_process_took_for_abandoned_is_made_again(
    folder, monkeypatch
):
    lock, taken = files.lock, []

    def removed_before(file):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(files, "lock", removed_before)
    files.write_text(folder / "a.txt", "a")
    assert taken
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


def test_disks_without_locks(folder, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    (folder / ABANDONED).write_bytes(b"perhaps another machine's")
    files.write_text(folder / "a.txt", "a")
    with files.sole_writer(folder, "one"), files.sole_writer(folder, "two"):
        pass
    assert sorted(path.name for path in folder.iterdir()) == [ABANDONED, "a.txt"]


def test_one_run_writes_to_a_folder(folder):
    new = folder / "new" / "run"
    for _ in range(2):
        with (
            files.sole_writer(new, "train"),
            pytest.raises(OutputError, match=r"^prepare: .*run: another run is"),
            files.sole_writer(new, "prepare"),
        ):
            pass
    assert not list(new.iterdir())
    (folder / "file").write_bytes(b"")
    with (
        pytest.raises(OutputError, match="^train: .*file: cannot write: File exists"),
        files.sole_writer(folder / "file", "train"),
    ):
        pass
