"""One server with the default weights, and one browser."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright import sync_api

from tests.browser import chromium

pytest.register_assert_rewrite("tests.browser.pages")

from tests.browser.pages import local_page  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mt3 serve`."""
    log = tmp_path_factory.mktemp("server") / "log"
    # Programs as for use; `tests/conftest.py` has them less optimised.
    environment = {**os.environ, "XLA_FLAGS": ""}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "mt3", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        address = process.stdout.readline().strip().rstrip("/")
        assert address.startswith("http://127.0.0.1:"), log.read_text()
        yield address
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    """Chromium without a window."""
    path = chromium.find()
    assert path, "no Chromium: run python -m tests.browser.chromium"
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox it runs as root, too; it opens nothing but our pages.
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server) -> Iterator[Callable[..., sync_api.Page]]:
    """Opens the local page, with settings of `clean_page`."""
    with contextlib.ExitStack() as pages:
        yield lambda **settings: pages.enter_context(
            local_page(browser, server, **settings)
        )
