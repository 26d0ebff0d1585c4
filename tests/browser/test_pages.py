"""The site: nothing leaves it, nothing fails, everybody can use it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.browser.browsing import HTML, THEMES, record, violations

# Code that is unfolded fades in; half-faded ink has too little contrast.
SETTLED = """Promise.all(document.getAnimations()
    .filter(a => a.effect.getComputedTiming().endTime < Infinity)
    .map(a => a.finished.catch(() => {})))"""
PAGES = sorted(
    path.relative_to(HTML).as_posix() for path in HTML.glob("book/*.html")
)
CHAPTERS = [page for page in PAGES if re.search(r"/\d\d-", page)]
each_page = pytest.mark.parametrize("opened", PAGES, indirect=True)
each_chapter = pytest.mark.parametrize("opened", CHAPTERS, indirect=True)


def test_there_is_a_site_to_test():
    assert PAGES and CHAPTERS


@each_page
def test_a_page_asks_the_network_for_nothing_and_logs_no_error(opened):
    _, page, kept = opened
    page.wait_for_timeout(200)
    assert kept.left() == []
    assert kept.errors == []


@each_chapter
def test_mathematics_is_typeset(opened):
    _, page, _ = opened
    wanted = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container svg").count() >= wanted
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0


@each_chapter
def test_a_chapter_s_number_is_its_file_s(opened):
    path, page, _ = opened
    number = int(Path(path).name[:2])
    assert page.locator("h1 .section-number").inner_text().strip() == str(
        number
    )
    for numbered in page.locator("figcaption .caption-number").all():
        text = numbered.text_content()
        assert re.match(rf"Figure {number}\.\d+", text)
    for equation in page.locator(".eqno").all():
        assert equation.text_content().startswith(f"({number}.")


@each_chapter
def test_launch_buttons_open_this_chapter(opened):
    path, page, _ = opened
    links = page.locator(".dropdown-launch-buttons a").evaluate_all(
        "links => links.map(a => decodeURIComponent(a.href))"
    )
    notebook = path.replace(".html", ".ipynb")
    assert any("mybinder.org" in u and notebook in u for u in links)
    assert any("colab.research" in u and notebook in u for u in links)


@each_chapter
def test_ids_are_unique_on_a_page(opened):
    _, page, _ = opened
    ids = page.locator("[id]").evaluate_all("all => all.map(n => n.id)")
    assert sorted(ids) == sorted(set(ids))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(new_page, path, theme):
    page, _ = new_page(path, theme=theme)
    assert page.locator(f"html[data-theme={theme}]").count() == 1
    page.evaluate(
        "document.querySelectorAll('details').forEach(d => d.open = true)"
    )
    page.evaluate(SETTLED)
    assert violations(page) == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_from_the_disk_is_as_quiet_and_fits_a_phone(new_page, path):
    page, kept = new_page(path, width=390, height=800, scheme="file")
    page.wait_for_timeout(200)
    assert kept.left() == []
    assert kept.errors == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390


def test_search_finds_a_word_of_a_chapter(new_page):
    page, kept = new_page("search.html?q=attention")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    hrefs = page.locator("#search-results li a").evaluate_all(
        "links => links.map(a => a.getAttribute('href'))"
    )
    assert any("book/" in href for href in hrefs)
    assert kept.left() == []


def test_the_theme_button_turns_figures_dark(new_page):
    path = next(p for p in CHAPTERS if "llm-svg" in (HTML / p).read_text())
    page, _ = new_page(path)
    ink = "getComputedStyle(document.documentElement).getPropertyValue"
    light = page.evaluate(f"{ink}('--llm-ink')")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(f"{ink}('--llm-ink')") != light
    assert "var(--llm-ink" in page.locator("svg.llm-svg").first.inner_html()


def test_a_code_cell_s_copy_button_copies_its_source(browser, site):
    context = browser.new_context()
    context.grant_permissions(
        ["clipboard-read", "clipboard-write"], origin=site.http.rstrip("/")
    )
    page = context.new_page()
    kept = record(page, site.http)
    page.goto(site.http + CHAPTERS[0])
    cell = page.locator("div.cell_input:visible").first
    cell.hover()
    cell.locator("button.copybtn").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip()
    assert kept.left() == []
    context.close()


def test_the_search_index_is_local_and_holds_every_page():
    text = (HTML / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert {f"{name}.html" for name in index["docnames"]} >= set(PAGES)
