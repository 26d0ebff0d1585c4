"""The built site in a real browser, with a record of what pages ask for."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from tests.browser.browsing import (
    CHROMIUM,
    HTML,
    QUIET,
    SilentHandler,
    Site,
    record,
)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The built site, served on a port of this machine."""
    if not (HTML / "index.html").is_file():
        pytest.fail("_build/html is missing: run `make book` first.")
    handler = functools.partial(SilentHandler, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Site(
        HTML, f"http://127.0.0.1:{server.server_port}/", f"{HTML.as_uri()}/"
    )
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    """Chromium: the system's, or what ``LLMBOOK_CHROMIUM`` names."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("LLMBOOK_CHROMIUM") or next(
        filter(None, map(shutil.which, CHROMIUM)), None
    )
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=found, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture
def new_page(browser, site):
    """Open a page of the site: ``new_page("book/05-attention.html")``.

    Returns (page, record); the contexts are closed after the test.
    """
    contexts = []

    def open_page(
        path: str = "",
        theme: str = "light",
        width: int = 1280,
        height: int = 900,
        scheme: str = "http",
    ):
        base = site.http if scheme == "http" else site.file
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        contexts.append(context)
        choice = f"localStorage.mode = localStorage.theme = '{theme}'"
        context.add_init_script(choice)
        page = context.new_page()
        kept = record(page, base)
        page.goto(base + path)
        page.wait_for_load_state("load")
        if page.locator(".math").count():
            page.wait_for_function("window.MathJax?.startup?.promise")
            page.evaluate("MathJax.startup.promise.then(() => true)")
        return page, kept

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page):
    """An empty page of the site's origin, for tests that go elsewhere."""
    return new_page("search.html")[0]
