"""What the browser tests share: the site, the browser's flags, a record."""

from __future__ import annotations

import base64
import http.server
import os
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("LLMBOOK_HTML") or ROOT / "_build" / "html")
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
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
WIDE = {"width": 900, "height": 900}
PIXEL = base64.b64decode(  # a picture of one pixel: drawing takes a second
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


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


def violations(page) -> list[tuple[str, str, str]]:
    """What axe finds: rule, markup and remedy of each element."""
    page.add_script_tag(path=AXE)
    # To name the elements that pass would take it five times as long.
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        (v["id"], n["html"][:120], n["failureSummary"])
        for v in found["violations"]
        for n in v["nodes"]
    ]
