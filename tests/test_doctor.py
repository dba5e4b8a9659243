"""`mt3 doctor`: what it says of a whole installation, and of broken ones."""

from __future__ import annotations

import json
import re
from importlib import metadata

import pytest
import yaml

from mt3 import cli, doctor, inference
from mt3.checkpoints import registry
from mt3.errors import CheckpointError

NAMES = ["mt3", "system", "variables", "packages", "devices", "models", "cache"]
NAMES += ["ffmpeg", "extras", "terminal", "self-test"]


@pytest.fixture
def no_test(monkeypatch):
    """Leaves out the transcription."""
    passed = doctor.Check("self-test", doctor.OK, "")
    monkeypatch.setattr(doctor, "_self_test", lambda: passed)


def check(name: str) -> doctor.Check:
    return next(check for check in doctor.examine() if check.name == name)


def test_this_installation_works(capsys):
    """The default model hears the tone."""
    status = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == 0, report
    assert report["ok"] is True
    assert [row["name"] for row in report["checks"]] == NAMES
    found = {row["name"]: row["found"] for row in report["checks"]}
    assert "pitch 69 at 0.2" in found["self-test"]
    assert registry.available()[0].sha256 in found["models"]
    assert f"numpy {metadata.version('numpy')}" in found["packages"]
    assert "cpu" in found["devices"]


def test_lines_for_people(no_test, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MT3_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.split()[1] for line in lines if not line.startswith(" ")]
    assert found == NAMES
    (line,) = [line for line in lines if line.startswith("note   ffmpeg")]
    assert line.endswith("not found")
    # Reports are public.
    assert str(tmp_path) not in "\n".join(lines)
    assert "MT3_CACHE_DIR=~/cache" in "\n".join(lines)


def test_a_wrong_transcription_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(inference, "InferenceModel", lambda: lambda *_, **__: [])
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr()
    assert "broken self-test one second of A4: found no notes" in printed.out
    assert printed.err == "mt3: error: doctor: broken: self-test\n"


def test_damaged_weights_are_broken_and_the_rest_is_told(monkeypatch, capsys):
    def damaged():
        raise CheckpointError("weights: damaged")

    monkeypatch.setattr(inference, "InferenceModel", damaged)
    monkeypatch.setattr(registry, "available", list)
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    broken = {r["name"]: r["found"] for r in report["checks"] if r["state"] == "broken"}
    assert broken == {
        "models": "no default model",
        "self-test": "CheckpointError: weights: damaged",
    }


def test_packages_that_are_too_old_or_missing(no_test, monkeypatch):
    requires = ["numpy>=999.1", "nosuch>=1", 'gone>=2; extra == "score"']
    requires += [
        f'{name}>=1; python_version >= "{version}" and extra == "serve"'
        for name, version in (("present", "3.9"), ("future", "3.99"))
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    found = check("packages")
    assert found.state == doctor.BROKEN
    version = re.escape(metadata.version("numpy"))
    assert re.search(f"numpy is {version}, expected 999.1 or newer", found.found)
    assert "nosuch is not installed" in found.found
    assert "gone" not in found.found
    extras = check("extras")
    assert extras.state == doctor.NOTE
    assert "score (sheet music: MusicXML, PDF): gone is not installed" in extras.found
    assert "mt3 serve): present is not installed\n" in extras.found
    assert "pip install 'mt3-transcription[NAME]'" in extras.hint
    assert doctor._numbers("2.10.0rc1") > doctor._numbers("2.9")


def test_a_gpu_that_jax_does_not_use(no_test, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    found = doctor._devices()
    assert found.state == doctor.NOTE
    assert "pip install 'jax[cuda13]'" in found.hint


def test_the_form_for_bad_transcriptions(repository):
    """It asks for what a report needs, by fields that exist."""
    forms = sorted((repository / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.name for form in forms] == ["bad-transcription.yml"]
    form = yaml.safe_load(forms[0].read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    for name in ("audio", "times", "command", "doctor"):
        assert fields[name]["validations"]["required"] is True
    assert all(field["attributes"]["label"] for field in fields.values())
    (options,) = re.findall(r"'options': (.*)\}\}", str(fields["tried"]))
    known = cli._parsers()[1]["transcribe"]._option_string_actions
    named = re.findall(r"--[\w-]+", options)
    assert named
    assert set(named) <= known.keys()
