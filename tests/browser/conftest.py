"""The built site in a real browser, with a record of what pages ask for."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
THEMES = ("light", "dark")


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *words: object) -> None:
        pass


@dataclass(frozen=True)
class Site:
    """The built site: its folder, and its addresses over http and file."""

    path: Path
    http: str
    file: str

    def pages(self) -> list[str]:
        """Every page of the book, as paths from the site's root."""
        found = [
            path.relative_to(self.path).as_posix()
            for path in sorted((self.path / "book").glob("*.html"))
        ]
        return [*found, "search.html", "genindex.html"]


@dataclass
class Record:
    """What a page asked for and complained about."""

    base: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def left(self) -> list[str]:
        """The requests that left the site."""
        kept = (self.base, "data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(kept)]


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


def record(page, base: str) -> Record:
    """Write down a page's requests and errors from now on."""
    kept = Record(base)
    page.on("request", lambda request: kept.requests.append(request.url))
    page.on("pageerror", lambda error: kept.errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            kept.errors.append(message.text)
            if message.type == "error"
            else None
        ),
    )
    return kept


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
