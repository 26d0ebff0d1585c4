"""The built site: links lead somewhere, and nothing comes from outside."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.book.notebooks import all_chapters, read, text_of
from tools.chapters import number_of
from tools.common import BUILD, read_json

pytestmark = pytest.mark.site
LOADS = {  # attributes by which a page asks for something at once
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
}
TOO_LONG = re.compile(  # the warning, and the line of the call that gave it
    r".*UserWarning: \w+: \d+ of \d+ prompts are longer than the model reads,"
    r".*\n.*\n"
)


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.headings: list[str] = []
        self.inside = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(values["id"])
        if tag == "a" and values.get("name"):
            self.ids.add(values["name"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("href"):
            kinds = (values.get("rel") or "").split()
            local = not {"canonical", "alternate", "license"} & set(kinds)
            (self.loads if local else self.links).append(values["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADS and values.get(name):
                self.loads.append(values[name])
        if tag == "h1":
            self.inside += 1
            self.headings.append("")

    def handle_endtag(self, tag):
        self.inside -= tag == "h1"

    def handle_data(self, data):
        if self.inside:
            self.headings[-1] += data


@cache
def page(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def reachable(target: Path, fragment: str) -> bool:
    """Whether a file is there, and has the place that a link names."""
    if not target.is_file():
        return False
    if not fragment or target.suffix != ".html":
        return True
    return fragment in page(target).ids


@pytest.fixture(scope="module")
def pages(site):
    templates = site / "_static"  # the theme leaves some of its own there
    found = sorted(site.rglob("*.html"))
    return [path for path in found if templates not in path.parents]


def test_links_inside_the_site_lead_somewhere(site, pages):
    broken = []
    for path in pages:
        for link in page(path).links + page(path).loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            name = unquote(parts.path)
            target = (path.parent / name).resolve() if name else path
            if target.is_dir():
                target /= "index.html"
            if not reachable(target, unquote(parts.fragment)):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


def test_pages_load_nothing_from_elsewhere(site, pages):
    for path in pages:
        for target in page(path).loads:
            parts = urlsplit(target)
            assert parts.scheme in ("", "data"), (path, target)
            assert not parts.netloc, (path, target)


def test_style_sheets_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.css"):
        text = path.read_text("utf-8", "replace")
        for target in re.findall(r"url\(\s*['\"]?([^'\")]+)", text):
            assert not re.match(r"(https?:)?//", target), (path, target)


def test_every_chapter_is_a_page_with_its_own_number(site):
    for path in all_chapters():
        built = site / "book" / f"{path.stem}.html"
        first = text_of(read(path)["cells"][0]).splitlines()[0]
        title = first.removeprefix("# ")
        # the theme adds a second heading, without number, for print
        heading = " ".join(page(built).headings[-1].split())
        assert heading.rstrip("#").rstrip().endswith(title), heading
        number = re.match(r"(?:Chapter )?(\d+)", heading)
        assert number, f"{path.stem} has no number: {heading}"
        assert int(number[1]) == int(number_of(path))


def test_exercises_of_a_page_carry_its_number(site):
    for path in all_chapters():
        built = site / "book" / f"{path.stem}.html"
        number = number_of(path)
        ids = {i for i in page(built).ids if re.fullmatch(r"ex-\d+-\d+", i)}
        assert len(ids) >= 5, path.stem
        assert {i.split("-")[1] for i in ids} == {number}


def test_the_executed_chapters_hold_no_warnings_and_no_errors():
    record = read_json(BUILD / "chapters.json")
    for path in all_chapters():
        small = record[path.stem]["budget"] == "smoke"
        notebook = read(BUILD / "executed" / path.name)
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                assert output["output_type"] != "error", cell["id"]
                if output.get("name") != "stderr":
                    continue
                said = "".join(output["text"])
                if small:  # the smallest model reads 128 tokens
                    said = TOO_LONG.sub("", said)
                assert said == "", f"{path.stem}, {cell['id']}"


def test_the_executed_chapters_are_the_committed_ones():
    for path in all_chapters():
        built = read(BUILD / "executed" / path.name)["cells"]
        here = read(path)["cells"]
        assert [c["id"] for c in built] == [c["id"] for c in here]
        assert [text_of(c) for c in built] == [text_of(c) for c in here]


def test_the_build_recorded_every_chapter():
    record = read_json(BUILD / "chapters.json")
    assert set(record) == {path.stem for path in all_chapters()}


def test_a_page_stays_light(site):
    most = 3_000_000  # bytes
    for path in all_chapters():
        size = (site / "book" / f"{path.stem}.html").stat().st_size
        assert size <= most, f"{path.stem}: {size:,} bytes"
