"""What makes a release reproducible, small and described; `make dist` runs it all."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile

import pytest

import make_release
from mt3.checkpoints import registry

EPOCH = 1_790_000_000


def archive(names, *, time, user, mode):
    """A `.tar.gz` as different computers make it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime, member.uname, member.uid = time, user, len(user)
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o700
            else:
                member.size, member.mode = len(name), mode
            file.addfile(member, io.BytesIO(name.encode()))
    return data.getvalue()


def test_source_archives_differ_in_their_files_only():
    names = ["mt3/", "mt3/b.py", "mt3/a.py", "setup.py"]
    first = archive(names, time=1, user="ann", mode=0o644)
    second = archive(names[::-1], time=2.5, user="bo", mode=0o664)
    packed = make_release.repacked(first, EPOCH)
    assert packed == make_release.repacked(second, EPOCH) != first
    with tarfile.open(fileobj=io.BytesIO(packed)) as file:
        assert file.getnames() == ["mt3", "mt3/a.py", "mt3/b.py", "setup.py"]
        assert file.extractfile("mt3/b.py").read() == b"mt3/b.py"
        assert {member.mtime for member in file} == {EPOCH}
        assert {(m.uname, m.uid) for m in file} == {("", 0)}
    # In gzip's header as well.
    assert int.from_bytes(packed[4:8], "little") == EPOCH
    changed = archive([*names, "mt3/c.py"], time=1, user="ann", mode=0o644)
    assert make_release.repacked(changed, EPOCH) != packed
    assert gzip.decompress(packed)


def wheel(folder, *, code=100, weights=200, more=()):
    path = folder / "mt3_transcription-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mt3/cli.py", bytes(code))
        file.writestr("mt3/pretrained/a.safetensors", bytes(weights))
        file.writestr("mt3_transcription-1.0.dist-info/METADATA", b"")
        for name in more:
            file.writestr(name, b"")
    return path


def test_wheels_are_small_and_hold_the_package_alone(tmp_path):
    make_release.check_wheel(wheel(tmp_path))
    for changes, message in (
        ({"code": make_release.MOST_BYTES + 1}, "expected at most 3000000 more"),
        ({"weights": 0}, "expected at most"),
        ({"more": ["tests/test_audio.py"]}, "holds mt3, mt3_.*, tests"),
    ):
        with pytest.raises(make_release.ReleaseError, match=message):
            make_release.check_wheel(wheel(tmp_path, **changes))


def test_the_weights_are_those_of_the_model_card():
    (entry,) = registry.available()
    card = entry.path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"sha256 `{entry.sha256}`" in card
    # The list of models is not what says so.
    assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256


def component(name, purl="pkg:pypi/x@1"):
    return {"name": name, "type": "library", "version": "1", "purl": purl}


def test_the_bill_of_materials_is_about_this_package():
    ours = component("mt3-transcription")
    parts = [component("jax"), ours, component("numpy")]
    made = make_release.described({"metadata": {}, "components": parts})
    assert made["metadata"]["component"]["name"] == "mt3-transcription"
    assert [part["name"] for part in made["components"]] == ["jax", "numpy"]


@pytest.mark.parametrize(
    "parts",
    [
        [component("jax")],
        [component("mt3-transcription"), component("jax", "pkg:generic/jax@1")],
    ],
)
def test_what_cannot_be_described_is_not_released(parts):
    with pytest.raises(make_release.ReleaseError, match="no "):
        make_release.described({"metadata": {}, "components": parts})


def test_what_is_not_committed_is_not_released(monkeypatch, tmp_path):
    monkeypatch.setattr(make_release, "_git", lambda *arguments: " M setup.py")
    with pytest.raises(make_release.ReleaseError, match="commit first"):
        make_release.make(tmp_path, tmp_path / "dist")
