"""What tests do with pages: open them, drop files, listen, look."""

from __future__ import annotations

import base64
import contextlib
import pathlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from playwright import sync_api

# A busy machine is no fault of the page.
_MOST_MILLISECONDS = 60_000
sync_api.expect.set_options(timeout=_MOST_MILLISECONDS)
_IN_PAGE = pathlib.Path(__file__).parent / "in_page.js"
# Pictures to look at.
PICTURES = pathlib.Path(__file__).parents[2] / "out" / "browser"


@contextlib.contextmanager
def clean_page(
    browser: sync_api.Browser, address: str, *, errors: str | None = None, **settings
) -> Iterator[sync_api.Page]:
    """Opens a page; in the end it has complained of nothing and asked nobody else.

    Args:
      browser: where.
      address: of the page.
      errors: words of complaints that are expected.
      settings: of the page (`Browser.new_page`).
    """
    page = browser.new_page(**settings)
    page.set_default_timeout(_MOST_MILLISECONDS)
    page.add_init_script(path=_IN_PAGE)
    complaints: list[str] = []
    hosts: set[str] = set()

    def listen(message: sync_api.ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} {message.location['url']}")

    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", listen)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(address)
    yield page
    page.close()
    assert [text for text in complaints if not errors or errors not in text] == []
    assert hosts <= {urlsplit(address).netloc, ""}


@contextlib.contextmanager
def local_page(
    browser: sync_api.Browser, server: str, **settings
) -> Iterator[sync_api.Page]:
    """Opens the local page, with settings of `clean_page`; it takes files."""
    with clean_page(browser, f"{server}/", **settings) as page:
        sync_api.expect(page.locator("#files")).to_be_enabled()
        yield page


def drop(page: sync_api.Page, path: pathlib.Path) -> None:
    """Drops a file onto a page."""
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate("([data, name]) => tests.drop(data, name)", [data, path.name])


def loudness(page: sync_api.Page, what: str) -> float:
    """Returns the loudest sample of some moments of the "notes" or the "recording"."""
    page.wait_for_timeout(450)  # what was to be heard before has faded
    peaks = []
    for _ in range(4):
        page.wait_for_timeout(150)
        peaks.append(page.evaluate("(what) => tests.peak(what)", what))
    return max(peaks)


def picture(page: sync_api.Page, name: str) -> None:
    """Keeps a picture of the page, to be looked at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def check_looks(page: sync_api.Page) -> None:
    """Checks that text is readable, and that the page is no wider than the screen."""
    assert page.evaluate("tests.faint()") == []
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen


def check_notes_drawn(page: sync_api.Page) -> None:
    """Checks that each lane of the piano roll shows more than its ground and lines."""
    counts = page.evaluate("tests.drawn()")
    assert counts
    assert min(counts) > 20
