"""The built site in a real browser, with a record of what pages ask for."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.browser.browsing import (
    CHROMIUM,
    HTML,
    PIXEL,
    QUIET,
    WIDE,
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


@contextlib.contextmanager
def opener(browser, site) -> Iterator[Callable]:
    """Open pages of the site; their contexts are closed at the end."""
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
def new_page(browser, site):
    """Open a page of the site: ``new_page("book/05-attention.html")``.

    Returns (page, record); the contexts are closed after the test.
    """
    with opener(browser, site) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def opened(browser, site, request):
    """(path, page, record), once for all tests that only read the page."""
    with opener(browser, site) as open_page:
        yield request.param, *open_page(request.param)


@pytest.fixture
def page(new_page):
    """An empty page of the site's origin, for tests that go elsewhere."""
    return new_page("search.html")[0]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder that is read from disk and served, and both addresses."""
    path = tmp_path_factory.mktemp("pages")
    handler = functools.partial(SilentHandler, directory=str(path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served = f"http://127.0.0.1:{server.server_port}"
    yield path, {"file": path.as_uri(), "http": served}
    server.shutdown()
    server.server_close()


@pytest.fixture
def show(browser, folder):
    """Open figures in a page; nothing may be asked for or complained of."""
    contexts, records = [], []
    path, bases = folder

    def open_page(
        *figures, at="", viewport=WIDE, theme="light", scheme="file", **more
    ):
        body = "".join(f.to_html(PIXEL) for f in figures)
        (path / "page.html").write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head>'
            '<meta charset="utf-8"><title>Page</title>'
            '<link rel="icon" href="data:,"></head><body>'
            f'<main><h1 id="top">Page</h1>{body}</main></body></html>',
            "utf-8",
        )
        context = browser.new_context(viewport=viewport, **more)
        contexts.append(context)
        page = context.new_page()
        records.append(record(page, bases[scheme]))
        page.goto(f"{bases[scheme]}/page.html{at}")
        page.locator(".root[data-theme]").first.wait_for()
        page.wait_for_timeout(60)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [kept.left() + kept.errors for kept in records] == [[]] * len(
        records
    )
