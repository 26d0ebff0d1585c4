"""The PDF: its text, fonts, pages, links and what it says of itself."""

from __future__ import annotations

import re

import pypdf
import pytest
import yaml

from tests.book.notebooks import all_chapters, read, text_of
from tools.chapters import number_of
from tools.common import BUILD, ROOT

pytestmark = pytest.mark.pdf
FEWEST_PAGES = 60
PAGE = (535.75, 697.32)  # points: 189 by 246 mm, crown quarto
WIDEST_OVERFULL = 12.0  # points that a line may stick out unseen
TALLEST_OVERFULL = 12.0  # points that a page may be too long
LOG = BUILD / "latex" / "llmbook.log"


@pytest.fixture(scope="module")
def reader(pdf):
    return pypdf.PdfReader(pdf)


@pytest.fixture(scope="module")
def texts(reader):
    return [page.extract_text() for page in reader.pages]


@pytest.fixture(scope="module")
def log(pdf):
    text = LOG.read_text("utf-8", "replace")
    return re.sub(r"(?<=.{79})\n", "", text)  # TeX breaks lines at 79


def plain(text: str) -> str:
    """Letters and digits alone: ligatures and line breaks do not count."""
    text = text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff")
    return re.sub(r"\W+", "", text).lower()


def test_it_has_the_pages_of_a_book_and_of_one_size(reader):
    assert len(reader.pages) >= FEWEST_PAGES
    for page in reader.pages:
        assert float(page.mediabox.width) == pytest.approx(PAGE[0], abs=1)
        assert float(page.mediabox.height) == pytest.approx(PAGE[1], abs=1)


def test_it_says_what_it_is(reader):
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert reader.metadata.title == config["title"]
    assert reader.metadata.author == config["author"]


def test_every_chapter_opens_with_its_number_and_title(reader):
    marks = []

    def visit(items):
        for item in items:
            if isinstance(item, list):
                visit(item)
            else:
                page = reader.get_destination_page_number(item)
                marks.append((plain(item.title), page))

    visit(reader.outline)
    for path in all_chapters():
        first = text_of(read(path)["cells"][0]).splitlines()[0]
        title = plain(first.removeprefix("# "))
        # A part may have the name of a chapter; it has a page of its own.
        found = [page for mark, page in marks if title in mark]
        assert found, f"{path.stem} is not in the outline"
        openers = [reader.pages[page].extract_text() for page in found]
        assert all(title in plain(opener) for opener in openers)
        number = rf"(?<!\d){int(number_of(path))}(?!\d)"
        assert any(re.search(number, opener) for opener in openers), path.stem


def test_no_reference_is_left_open(texts, log):
    assert "LaTeX Warning: There were undefined references" not in log
    for number, text in enumerate(texts, 1):
        assert "??" not in text, f"page {number}"
        assert "<IPython" not in text, f"page {number}"
        assert not re.search(r"<(Figure|Axes)\b", text), f"page {number}"


def test_no_glyph_is_missing(log):
    assert re.findall(r"Missing character: .*", log) == []


def test_nothing_is_cut_off_at_the_margin(log):
    widths = re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)
    assert max(map(float, widths), default=0) <= WIDEST_OVERFULL


def test_no_page_runs_off_its_foot(log):
    heights = re.findall(r"Overfull \\vbox \(([\d.]+)pt too high\) has", log)
    assert max(map(float, heights), default=0) <= TALLEST_OVERFULL


def test_every_font_is_embedded(reader):
    seen = set()
    for page in reader.pages:
        fonts = page.get("/Resources", {}).get("/Font", {})
        for reference in fonts.values():
            font = reference.get_object()
            name = font.get("/BaseFont", "")
            if name in seen or font.get("/Subtype") == "/Type3":
                continue
            seen.add(name)
            inner = font
            if "/DescendantFonts" in font:
                inner = font["/DescendantFonts"][0].get_object()
            descriptor = inner["/FontDescriptor"].get_object()
            kinds = ("/FontFile", "/FontFile2", "/FontFile3")
            assert any(kind in descriptor for kind in kinds), name
    assert seen


def test_links_inside_lead_to_places_that_exist(reader):
    places = set(reader.named_destinations)
    links = 0
    for page in reader.pages:
        for reference in page.get("/Annots", None) or []:
            annotation = reference.get_object()
            action = annotation.get("/A", {})
            target = annotation.get("/Dest", action.get("/D"))
            if isinstance(target, str | bytes):
                links += 1
                assert str(target) in places, target
            else:
                links += bool(action.get("/URI"))
    assert links > 50


def test_exercises_carry_their_chapter_s_number(texts):
    whole = "\n".join(texts)
    for path in all_chapters():
        number = int(number_of(path))
        found = re.findall(rf"Exercise\s+{number}\.(\d+)", whole)
        assert len(set(found)) >= 5, path.stem
