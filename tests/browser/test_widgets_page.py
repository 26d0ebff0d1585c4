"""The interactive figures in a page without a kernel, from ``file://``."""

import html
import json

import pytest
import torch
from playwright.sync_api import expect

from llmbook.widgets import AttentionExplorer, SamplingExplorer
from tests.browser import trained
from tests.browser.browsing import PIXEL, WIDE, violations

CONTEXTS = ("Ona lost the", "Ona lost the kite, but")
HOSTILE = "</script><script>document.title='taken'</script>\u2028<b>"
NARROW = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def attention():
    weights, tokens = trained.weights()
    return AttentionExplorer(weights, tokens, caption="Weights.")


@pytest.fixture(scope="module")
def sampling():
    rows, tokens = trained.logits(*CONTEXTS)
    return SamplingExplorer(rows, tokens, contexts=CONTEXTS, seed=3)


def cell(page, query, key):
    return page.locator(f'.cell[data-query="{query}"][data-key="{key}"]')


def shown_weights(page):
    """Every cell's spoken value, as a (T, T) list."""
    texts = page.locator(".cell").evaluate_all(
        "cells => cells.map(c => c.getAttribute('aria-label'))"
    )
    values = [text.rsplit(": ", 1)[1] for text in texts]
    T = round(len(values) ** 0.5)
    return [values[i * T : (i + 1) * T] for i in range(T)]


def spoken(explorer, layer, head, query, key):
    if key > query:
        return "masked"
    weight = float(explorer.weights[layer, head, query, key])
    return f"{weight:.6f}" if weight >= 5e-5 else f"{weight:.2e}"


def same_number(one, other):
    """Python writes 1.00e-06 and JavaScript 1.00e-6: compare the values."""
    return one == other or float(one) == float(other)


def test_every_cell_of_every_head_shows_pythons_weight(show, attention):
    page = show(attention)
    L, H, T, _ = attention.weights.shape
    for layer in range(L):
        page.get_by_role("combobox", name="Layer").select_option(str(layer))
        for head in range(H):
            page.get_by_role("combobox", name="Head").select_option(str(head))
            page.wait_for_timeout(30)
            rows = shown_weights(page)
            for query in range(T):
                for key in range(T):
                    want = spoken(attention, layer, head, query, key)
                    assert same_number(rows[query][key], want)


def test_the_mouse_on_a_cell_shows_its_weight_and_marks_its_lines(
    show, attention
):
    page = show(attention)
    cell(page, 7, 3).hover()
    want = spoken(attention, 0, 0, 7, 3)
    line = page.locator(".readout")
    expect(line).to_have_text(f"␣found looks at ␣kite with weight {want}")
    expect(page.locator(".rowheader.chosen")).to_have_text("␣found")
    expect(page.locator(".columnheader.chosen")).to_have_text("␣kite")
    value = page.locator(".readout data").get_attribute("value")
    assert float(value) == float(attention.weights[0, 0, 7, 3])


def test_a_masked_cell_is_hatched_and_says_so(show, attention):
    page = show(attention)
    cell(page, 2, 5).hover()
    expect(page.locator(".readout")).to_contain_text("masked: ␣but")
    image = cell(page, 2, 5).evaluate("c => getComputedStyle(c).background")
    assert "repeating-linear-gradient" in image
    assert (
        cell(page, 5, 2).evaluate("c => getComputedStyle(c).backgroundImage")
        == "none"
    )


def test_the_keyboard_alone_reaches_every_part_of_the_map(show, attention):
    page = show(attention)
    page.keyboard.press("Tab")  # the small maps
    page.keyboard.press("Tab")  # layer
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")  # head
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")  # the sentence: its chosen token
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".rowheader.chosen")).to_have_text("␣it")
    page.keyboard.press("Tab")  # the map: its chosen cell
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    want = spoken(attention, 1, 2, 7, 3)
    expect(page.locator(".readout")).to_contain_text(f"weight {want}")
    focused = page.locator(".cell:focus")
    expect(focused).to_have_attribute("data-query", "7")
    assert focused.evaluate("c => getComputedStyle(c).outlineStyle") == "solid"
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".cell:focus")).to_have_attribute("data-query", "0")
    page.keyboard.press("Tab")  # the table below
    page.keyboard.press("Enter")
    assert page.locator("details").get_attribute("open") is not None
    expect(page.locator("details tbody tr").first).to_contain_text("1.0")


def test_a_token_that_reads_as_a_tag_shows_as_text(show):
    weights = [[1.0, 0.0], [0.5, 0.5]]
    one = AttentionExplorer(weights, ["<script>", HOSTILE])
    other = SamplingExplorer(
        [2.0, 1.0], ["<script>", HOSTILE], contexts=[HOSTILE]
    )
    page = show(one, other)
    written = HOSTILE.replace("\u2028", "⟨U+2028⟩")
    expect(page.locator(".strip button").nth(0)).to_have_text("<script>")
    expect(page.locator(".strip button").nth(1)).to_have_text(written)
    expect(page.locator("tr.kept th").nth(1)).to_have_text(written)
    assert page.title() == "Page"
    assert page.locator("main b").count() == 0


def test_without_scripts_the_picture_stands_there(attention, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(attention.to_html(PIXEL))
    picture = page.locator(".llm-explorer img")
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt") == attention.alt
    context.close()


@pytest.mark.parametrize(
    ("theme", "viewport"), [("light", WIDE), ("dark", NARROW)]
)
def test_axe_finds_nothing_and_nothing_sticks_out(
    show, attention, sampling, theme, viewport
):
    page = show(attention, sampling, theme=theme, viewport=viewport)
    page.locator("details").evaluate_all("all => all.map(d => d.open = true)")
    page.get_by_label("top-p").fill("0.5")
    page.get_by_role("button", name="Draw 100").click()
    page.wait_for_timeout(50)
    assert violations(page) == []
    assert (
        page.evaluate("document.documentElement.scrollWidth")
        <= (viewport["width"])
    )


def test_the_theme_follows_the_page_and_print_is_light(show, attention):
    page = show(attention, theme="dark")
    root = page.locator(".root")
    expect(root).to_have_attribute("data-theme", "dark")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    expect(root).to_have_attribute("data-theme", "light")
    page.evaluate("delete document.documentElement.dataset.theme")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    expect(root).to_have_attribute("data-theme", "dark")
    page.emulate_media(media="print")
    expect(root).to_have_attribute("data-theme", "light")
    expect(page.locator(".try")).to_be_hidden()
    expect(cell(page, 1, 1)).to_be_visible()


# ------------------------------------------------------------- sampling


def candidates(page):
    """The listed rows: token, logit, probability, draws, cut or kept."""
    return page.locator("tr.kept, tr.cut").evaluate_all(
        """rows => rows.map(row => [
            row.querySelector("th").textContent,
            ...[...row.querySelectorAll("data")].map(d => Number(d.value)),
            row.querySelector(".fate").textContent])"""
    )


def check_candidates(page, figure):
    """What the page lists is what Python computes, in the same order."""
    page.wait_for_timeout(60)
    order, p, counts = figure.ranking, figure.probabilities, figure.counts()
    rows = candidates(page)
    for row, i in zip(rows, order, strict=False):
        assert row[0] == figure._labels()[i]
        assert row[1] == float(figure.logits[figure.choice, i])
        assert row[2] == pytest.approx(p[i], rel=1e-12)
        assert row[3] == counts.get(i, 0)
        assert bool(row[4]) == (p[i] == 0)
    kept = page.locator(".readout .kept").get_attribute("value")
    assert int(kept) == (p > 0).sum()
    entropy = page.locator(".readout .entropy").get_attribute("value")
    log_p = torch.from_numpy(p).clamp_min(1e-300).log().numpy()
    assert float(entropy) == pytest.approx(-(p * log_p).sum(), abs=1e-9)


def move(page, figure, **values):
    """Set sliders in the page and the same traits in Python."""
    names = {"top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}
    for trait, value in values.items():
        place = value
        if trait == "top_k":  # its slider counts steps; the last one is off
            last = page.get_by_label("top-k").get_attribute("max")
            place = value - 1 if value else last
        page.get_by_label(names.get(trait, trait)).fill(str(place))
        setattr(figure, trait, value)


OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7, "top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"temperature": 1.35, "top_k": 12, "top_p": 0.85, "min_p": 0.05},
    {"temperature": 0.0},
    {"top_p": 0.01},
    {"min_p": 1.0},
]


def test_every_setting_shows_pythons_probabilities_and_draws(show):
    rows, tokens = trained.logits(*CONTEXTS)
    figure = SamplingExplorer(rows, tokens, contexts=CONTEXTS, seed=3)
    page = show(figure)
    for _ in range(3):
        page.get_by_role("button", name="Show more").click()
        page.wait_for_timeout(30)
    assert len(candidates(page)) == 12 + 3 * 20
    page.get_by_role("button", name="Draw 100").click()
    figure.draws = 100
    for i, setting in enumerate(SETTINGS):
        page.get_by_label("Context").select_option(str(i % 2))
        figure.choice = i % 2
        move(page, figure, **{**OFF, **setting})
        check_candidates(page, figure)


def test_equal_logits_are_treated_as_in_python(show):
    logits = [1.0, 3.0, 2.0, 2.0, 3.0, 2.0]
    figure = SamplingExplorer(logits, list("abcdef"), draws=50)
    page = show(figure)
    check_candidates(page, figure)
    for setting in ({"top_k": 3}, {"top_k": 1}, {"top_p": 0.7}):
        move(page, figure, **setting)
        check_candidates(page, figure)


def test_seed_draws_and_reset_by_keyboard(show, sampling):
    page = show(sampling)
    page.get_by_label("Seed").fill("11")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Draw 1", exact=True).focus()
    for _ in range(5):
        page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # Draw 100
    page.keyboard.press("Space")
    figure = SamplingExplorer(
        list(torch.from_numpy(sampling.logits)),
        sampling.tokens,
        contexts=CONTEXTS,
        seed=11,
        draws=105,
    )
    check_candidates(page, figure)
    labels = [figure._labels()[i] for i in figure.drawn()[-12:]]
    expect(page.locator(".last")).to_have_text(
        "Last drawn: " + "  ".join(labels), use_inner_text=False
    )
    slider = page.get_by_label("temperature")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("output").first).to_have_text("1.20")
    figure.temperature = 1.2
    check_candidates(page, figure)
    page.get_by_role("button", name="Reset").focus()
    page.keyboard.press("Enter")
    check_candidates(page, sampling)


def test_a_large_vocabulary_fits_and_counts_every_token(show):
    spread = torch.linspace(8, -8, 50_257)
    figure = SamplingExplorer(spread, [f" t{i}" for i in range(50_257)])
    page = show(figure)
    check_candidates(page, figure)
    total = page.locator("tr.kept data, tr.rest td:nth-child(4) data")
    assert total.count() > 12
    rest = page.locator("tr.rest data").first.get_attribute("value")
    p = figure.probabilities
    assert float(rest) == pytest.approx(1 - p[:12].sum(), rel=1e-9)


def test_the_data_cannot_close_their_script(attention):
    text = attention.to_html(PIXEL)
    start = text.index('<script type="application/json">') + 32
    data = text[start : text.index("</script>", start)]
    assert json.loads(data)["tokens"] == attention.tokens
    assert "<" not in data
    assert html.escape(attention.alt) in text
