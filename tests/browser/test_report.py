"""The HTML report, opened as the file that it is."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from mt3 import outputs
from mt3.beats import Beats
from mt3.note_sequences import Note
from tests.browser.pages import (
    check_looks,
    check_notes_drawn,
    clean_page,
    loudness,
    picture,
)


def opened(browser, folder, result, **settings):
    (written,) = outputs.write(result, folder / "report", ["html"])
    return clean_page(browser, written.path.as_uri(), **settings)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_play_and_show_notes_and_score(browser, tmp_path, scheme):
    notes = [
        note
        for i in range(32)
        for note in (
            Note(i / 2, i / 2 + 0.5, 60 + i % 12, 90, 40),
            Note(i / 2, i / 2 + 0.1, 36 + 2 * (i % 4), 60 + i, 0, is_drum=True),
        )
    ]
    beats = Beats(np.arange(36) / 2, np.arange(36) % 4 + 1)
    result = outputs.Transcription(notes, beats=beats, source="song.wav")
    with opened(browser, tmp_path, result, color_scheme=scheme) as page:
        check_notes_drawn(page)
        page.get_by_role("button", name="Play").click()
        assert loudness(page, "notes") > 0.01
        assert page.inner_text("#clock") > "0:00.5"
        page.get_by_role("button", name="Pause").click()
        page.locator(".sheet .measure").nth(2).click(force=True)
        expect(page.locator("#clock")).to_contain_text("0:04.0")
        expect(page.locator(".sheet .measure.now")).to_have_count(1)
        page.locator("#filter").select_option("Violin")
        assert page.locator("#rows tr").count() == 32
        for width in (1200, 360):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(200)
            check_looks(page)
            check_notes_drawn(page)
            picture(page, f"report-{scheme}-{width}")


def test_long_pieces_are_drawn_to_their_end(browser, tmp_path):
    starts = np.linspace(0, 3600, 50_000)
    notes = [
        Note(t, t + 0.3, 40 + i % 50, 90, i % 3 * 24) for i, t in enumerate(starts)
    ]
    with opened(browser, tmp_path, outputs.Transcription(notes)) as page:
        check_notes_drawn(page)
        page.locator(".scroller").press("End")
        page.wait_for_timeout(200)
        expect(page.locator("#clock")).to_contain_text("1:00:00")
        check_notes_drawn(page)
        page.get_by_role("button", name="Whole piece").click()
        page.wait_for_timeout(200)
        check_notes_drawn(page)
