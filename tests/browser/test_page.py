"""The local page, as a user has it, from a dropped file to the saved score."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import pytest
import soundfile
from playwright.sync_api import expect

from mt3.midi.reader import read_midi
from tests.browser.pages import (
    check_looks,
    check_notes_drawn,
    drop,
    local_page,
    loudness,
    picture,
)


@pytest.fixture(scope="module")
def example(repository):
    return repository / "examples" / "example.flac"


@pytest.fixture(scope="module")
def excerpts(repository, tmp_path_factory):
    """Two short recordings of a piano."""
    samples, rate = soundfile.read(repository / "examples" / "piano.flac")
    folder = tmp_path_factory.mktemp("excerpts")
    paths = [folder / "one.wav", folder / "two.wav"]
    for i, path in enumerate(paths):
        soundfile.write(path, samples[3 * i * rate : 3 * (i + 1) * rate], rate)
    return paths


@pytest.fixture(scope="module")
def done(browser, server, example):
    """A page that has transcribed the example, with its score."""
    with local_page(browser, server, viewport={"width": 1200, "height": 900}) as page:
        drop(page, example)
        page.get_by_role("group", name="Acoustic Bass").wait_for()
        picture(page, "transcribing")
        page.locator(".sheet").wait_for()
        yield page


@pytest.fixture
def page(done):
    """That page: paused, at the beginning, as wide as at first."""
    done.emulate_media(color_scheme="light")
    done.set_viewport_size({"width": 1200, "height": 900})
    if done.get_by_role("button", name="Pause").count():
        done.get_by_role("button", name="Pause").click()
    done.get_by_label("Position").fill("0")
    return done


def seconds(page) -> float:
    """The time at the playhead."""
    return page.evaluate("tests.times()")[2]


def test_notes_appear_segment_by_segment(page):
    seen = page.evaluate("tests.seen")
    counts = [
        int(match[1])
        for text in seen
        if (match := re.fullmatch(r"Transcribing: .* of 0:30, (\d+) notes?", text))
    ]
    assert len(set(counts)) > 2
    assert counts == sorted(counts)
    (final,) = re.findall(r"Done: (\d+) notes", seen[-1])
    assert int(final) > 300
    assert counts[1] < int(final)
    check_notes_drawn(page)
    assert page.get_by_role("status").first.inner_text() == f"example.flac: {seen[-1]}"


def test_recording_and_notes_play_together(page):
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_timeout(1500)
    recording, audio, shown = page.evaluate("tests.times()")
    assert recording > 0.5
    assert audio > 0.5
    assert shown == pytest.approx(recording, abs=0.3)
    page.get_by_role("button", name="Pause").click()
    stopped = seconds(page)
    page.wait_for_timeout(400)
    assert seconds(page) == stopped
    assert page.evaluate("document.querySelector('#recording').paused")


def test_the_fader_goes_from_the_recording_to_the_notes(page):
    fader = page.get_by_label("Balance of recording and transcription")
    page.get_by_role("button", name="Play", exact=True).click()
    for value, heard in (("0", (1, 0)), ("50", (1, 1)), ("100", (0, 1))):
        fader.fill(value)
        levels = loudness(page, "recording"), loudness(page, "notes")
        assert tuple(level > 0.01 for level in levels) == heard, (value, levels)
    fader.fill("50")


def test_instruments_are_muted_and_played_alone(page):
    names = [text.strip() for text in page.locator(".lane .name").all_inner_texts()]
    assert len(names) > 2
    assert "Drums" in names
    page.get_by_role("button", name="Play", exact=True).click()
    for name in names:
        page.get_by_role("button", name=f"Mute {name}").click()
    assert page.locator(".lane.silent").count() == len(names)
    assert loudness(page, "notes") < 0.01 < loudness(page, "recording")
    for name in names:
        page.get_by_role("button", name=f"Mute {name}").click()
    solo = page.get_by_role("button", name="Solo Drums")
    solo.click()
    expect(solo).to_have_attribute("aria-pressed", "true")
    assert page.locator(".lane.silent").count() == len(names) - 1
    assert loudness(page, "notes") > 0.01
    solo.click()
    assert page.locator(".lane.silent").count() == 0


def test_a_click_moves_the_playhead(page):
    roll = page.get_by_role("group", name="Drums").locator(".view canvas")
    box = roll.bounding_box()
    roll.click(position={"x": box["width"] / 2, "y": 5})
    assert seconds(page) == pytest.approx(15, abs=1)
    first = page.locator(".sheet .measure.now").bounding_box()
    page.locator(".sheet .measure").last.click(force=True)
    assert seconds(page) > 20
    assert page.locator(".sheet .measure.now").bounding_box() != first


def test_what_is_downloaded_can_be_read(page, tmp_path):
    saved = {}
    for name in ("MIDI", "MusicXML", "PDF", "WAV", "CSV", "JSON", "Report"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        assert download.value.suggested_filename.startswith("example.")
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    (count,) = re.findall(r"Done: (\d+) notes", page.inner_text(".state"))
    assert len(read_midi(saved["MIDI"])) == int(count)
    assert ElementTree.parse(saved["MusicXML"]).getroot().tag == "score-partwise"
    assert saved["PDF"].read_bytes().startswith(b"%PDF")
    assert soundfile.info(saved["WAV"]).duration > 29
    with saved["CSV"].open(newline="") as table:
        assert len(list(csv.DictReader(table))) == int(count)
    assert len(json.loads(saved["JSON"].read_text())["notes"]) == int(count)
    assert b"<!DOCTYPE html>" in saved["Report"].read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_wide_and_narrow_screens(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.get_by_text("More options").click()
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.get_by_role("button", name="Whole piece").click()
        page.wait_for_timeout(200)
        check_looks(page)
        check_notes_drawn(page)
        picture(page, f"{scheme}-{width}")
    page.get_by_text("More options").click()


def test_the_keyboard_is_enough(open_page, excerpts):
    page = open_page()

    def tab_to(name: str) -> None:
        passed = []
        while not passed or not passed[-1].startswith(name):
            page.keyboard.press("Tab")
            passed.append(page.evaluate("tests.focused()"))
            assert len(passed) < 40, passed
        assert "nothing to be seen" not in passed

    # The page is ready.
    expect(page.locator("#files")).to_be_enabled()
    # Before the keys: a chooser that opens before the browser was told of this is lost.
    with page.expect_file_chooser() as chooser:
        tab_to("Choose files")
        page.keyboard.press("Enter")
    chooser.value.set_files(excerpts[0])
    page.get_by_text(re.compile("^Done: ")).wait_for()
    tab_to("More options")
    tab_to("Show one.wav")
    tab_to("Play")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Space")
    tab_to("Position")
    page.keyboard.press("End")
    assert seconds(page) > 2
    tab_to("Balance")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_label("Balance").input_value() == "45"
    tab_to("Piano roll")
    page.keyboard.press("Home")
    assert seconds(page) == 0
    page.keyboard.press("Shift+ArrowRight")
    assert seconds(page) == 1
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    tab_to("Mute")
    page.keyboard.press("Enter")
    expect(page.locator(".lane.silent")).to_have_count(1)
    tab_to("MIDI")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_several_recordings_go_one_after_another(open_page, excerpts, example):
    # There is no bass in them, so no beats are found, and no score is made.
    page = open_page(errors="/score")
    page.get_by_text("More options").click()
    page.get_by_label("Bass", exact=True).check()
    page.get_by_label("From").fill("0:02")
    page.set_input_files("#files", [example, *excerpts])
    rows = page.locator(".jobs li")
    assert rows.count() == 3
    expect(rows.nth(1)).to_contain_text("Waits for its turn")
    page.get_by_role("button", name="Cancel two.wav").click()
    expect(rows.nth(2)).to_contain_text("Cancelled")
    page.get_by_role("button", name="Cancel example.flac").click()
    expect(rows.nth(0)).to_contain_text("Cancelled")
    expect(rows.nth(1)).to_contain_text("Done: ")
    page.get_by_role("button", name="Try two.wav again").click()
    expect(rows.nth(2)).to_contain_text("Done: ")
    page.get_by_role("button", name="Show two.wav").click()
    assert {text.strip() for text in page.locator(".lane .name").all_inner_texts()} <= {
        "Acoustic Bass",
        "Electric Bass (finger)",
        "Electric Bass (pick)",
        "Fretless Bass",
        "Slap Bass 1",
        "Slap Bass 2",
        "Synth Bass 1",
        "Synth Bass 2",
    }
    page.get_by_role("button", name="Remove two.wav").click()
    assert rows.count() == 2


def test_what_is_wrong_is_said(open_page, tmp_path):
    # The browser says so too: it cannot play it, and the program refuses it.
    page = open_page(errors="the server responded with a status of 4")
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(pathlib.Path(__file__).read_bytes())
    drop(page, broken)
    row = page.locator(".jobs li.failed")
    expect(row).to_contain_text("found text, not audio")
    expect(page.locator("#result")).to_be_hidden()
    page.get_by_text("More options").click()
    page.get_by_label("From").fill("soon")
    drop(page, broken)
    expect(page.get_by_role("alert")).to_contain_text("A time is written like 1:30")
    assert page.locator(".jobs li").count() == 1
    check_looks(page)
    picture(page, "wrong")


def test_it_says_where_recordings_go(page):
    page.get_by_role("link", name="Nothing leaves this computer").click()
    text = page.locator("#private").inner_text()
    assert "deletes a recording as soon as it is transcribed" in text
    assert re.search(r"at the latest \d+ minutes after", text)
    assert page.context.cookies() == []
