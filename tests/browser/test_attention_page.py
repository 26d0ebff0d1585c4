"""The attention explorer in Chromium: sums, switches, keys, addresses."""

import math
import re

import pytest
import torch
from playwright.sync_api import expect

from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.widgets import AttentionExplorer
from llmbook.widgets.attention_sums import UNIT, written
from tests.browser import trained
from tests.browser.browsing import THEMES, WIDE, violations

NARROW = {"width": 360, "height": 740}
SCHEMES = ("file", "http")
AWKWARD = [
    "<img src=x onerror=\"document.title='taken'\">",
    "</script><script>document.title='taken'</script>",
    "שלום",
    " مرحبا",
    "😀👩‍🚀",
    "",
    " ",
    "\n\t",
    b"\xf0\x9f",
    "&amp;<b>",
    "kitekitekitekitekitekitekitekite",
    "\u202eabc",
]
OPEN = "layer1.head2.row7.col4.open"


@pytest.fixture(scope="module")
def figure():
    """The trained model on the book's sentence, 2 layers of 4 heads."""
    model, tokenizer = trained.trained()
    return AttentionExplorer.from_model(
        model, tokenizer, trained.SENTENCE, name="fig-one", caption="One."
    )


@pytest.fixture(scope="module")
def grouped():
    """Rotary, grouped and windowed: 16 numbers in each head."""
    _, tokenizer = trained.trained()
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=32,
        n_layer=1,
        n_head=2,
        n_kv_head=1,
        n_embd=32,
        positions="rotary",
        window=3,
        init_std=0.3,
    )
    model = GPT(config, torch.Generator().manual_seed(0))
    return AttentionExplorer.from_model(
        model, tokenizer, trained.SENTENCE, name="fig-grouped"
    )


def cell(page, query, key):
    return page.locator(f'.cell[data-query="{query}"][data-key="{key}"]')


def small(page, layer, head):
    return page.locator(f'.small[data-layer="{layer}"][data-head="{head}"]')


def fragment(page):
    return page.evaluate("location.hash")


def amounts(cells):
    """Shown numbers as ten-thousandths; empty cells as None."""
    texts = [text.strip().replace("−", "-") for text in cells]
    return [round(float(t) * UNIT) if t else None for t in texts]


def products_shown(page):
    """The listed products: number, query, key, product of each line."""
    lines = page.locator(".sum table").first.locator("tbody tr")
    return [
        line.locator("th, td").all_inner_texts()[:4] for line in lines.all()
    ]


def sums(figure, layer, head, query, key):
    """Python's steps to one cell; the figure stays as it is."""
    names = ("layer", "head", "query", "key")
    before = [getattr(figure, name) for name in names]
    for name, value in zip(names, (layer, head, query, key), strict=True):
        setattr(figure, name, value)
    row = figure.sums
    for name, value in zip(names, before, strict=True):
        setattr(figure, name, value)
    return row


# ------------------------------------------------------------- all heads


def test_every_head_stands_in_the_grid_painted_with_its_weights(show, figure):
    page = show(figure)
    expect(page.locator(".small")).to_have_count(8)
    pixels = (
        page.locator(".small canvas")
        .nth(6)
        .evaluate(
            """canvas => Array.from(canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height).data)"""
        )
    )
    T = len(figure.tokens)
    levels = [
        page.evaluate(
            """level => getComputedStyle(document.querySelector(
            ".llm-explorer > div").shadowRoot.querySelector(".root"))
            .getPropertyValue(`--llm-seq-${level}`)""",
            level,
        ).strip()
        for level in range(64)
    ]
    for query in range(T):
        for key in range(T):
            at = 4 * (query * T + key)
            red, green, blue, alpha = pixels[at : at + 4]
            if key > query:
                assert alpha == 0
                continue
            weight = float(figure.weights[1, 2, query, key])
            level = math.floor(63 * weight + 0.5)
            assert f"#{red:02x}{green:02x}{blue:02x}" == levels[level]


def test_a_head_is_described_opened_by_click_and_marked(show, figure):
    page = show(figure)
    weights = figure.weights[1, 3]
    before = sum(weights[i, i - 1] for i in range(1, len(weights)))
    share = math.floor(100 * before / (len(weights) - 1) + 0.5)
    node = small(page, 1, 3)
    expect(node).to_have_attribute(
        "aria-label",
        re.compile(rf"^Layer 1, head 3: .*{share} % on the token"),
    )
    node.click()
    expect(node).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("combobox", name="Layer")).to_have_value("1")
    expect(page.get_by_role("combobox", name="Head")).to_have_value("3")
    expect(page.locator('[aria-selected="true"]')).to_have_count(1)


def test_the_small_maps_follow_the_theme(show, figure):
    page = show(figure)
    picture = "canvas => canvas.toDataURL()"
    light = page.locator(".small canvas").first.evaluate(picture)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(50)
    assert page.locator(".small canvas").first.evaluate(picture) != light
    page.emulate_media(media="print")
    page.wait_for_timeout(50)
    assert page.locator(".small canvas").first.evaluate(picture) == light


# ------------------------------------------------------------------ arcs


def test_a_token_under_the_mouse_or_the_focus_sends_out_its_arcs(show, figure):
    page = show(figure, at="#fig-one=layer1.head0.row8.col0")
    buttons = page.locator(".strip button")
    for query, reach in ((3, lambda b: b.hover()), (5, lambda b: b.click())):
        reach(buttons.nth(query))
        weights = figure.weights[1, 0, query, : query + 1]
        wanted = sorted(max(7 * float(w), 0.4) for w in weights if w > 0.005)
        expect(page.locator(".arcs path")).to_have_count(len(wanted))
        drawn = page.locator(".arcs path").evaluate_all(
            "all => all.map(p => Number(p.getAttribute('stroke-width')))"
        )
        assert sorted(drawn) == pytest.approx(wanted, abs=1e-6)
    expect(page.locator(".arcs .marked")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".rowheader.chosen")).to_have_text(figure.tokens[4])
    expect(buttons.nth(4)).to_be_focused()


def test_passing_over_a_cell_shows_it_and_leaves_the_choice(show, figure):
    page = show(figure, at="#fig-one=layer0.head1.row8.col2")
    expect(page.locator(".rowheader.chosen")).to_have_text(figure.tokens[8])
    cell(page, 6, 1).hover()
    weight = float(figure.weights[0, 1, 6, 1])
    value = page.locator(".readout data").get_attribute("value")
    assert float(value) == weight
    page.mouse.move(5, 5)
    expect(page.locator(".rowheader.chosen")).to_have_text(figure.tokens[8])
    assert fragment(page) == "#fig-one=layer0.head1.row8.col2"


# ------------------------------------------------------------------- sums


def test_an_open_cells_numbers_add_up_and_are_pythons(show, figure):
    page = show(figure)
    small(page, 1, 2).click()
    cell(page, 7, 4).click()
    row = sums(figure, 1, 2, 7, 4)
    expect(page.locator(".panel .head").first).to_contain_text("row 7")
    lines = products_shown(page)
    assert len(lines) == len(row.products) == 8  # all of them
    for (number, *texts), product in zip(lines, row.products, strict=True):
        q, k, p = amounts(texts)
        assert p == product == round(q * k / UNIT), number
    total = page.locator(".sum table").first.locator("tfoot td").nth(2)
    assert amounts([total.inner_text()]) == [sum(row.products)]
    step = page.locator(".sum > li").nth(1)
    expect(step).to_contain_text(
        f"{written(row.totals[4])} / {written(row.root)} = "
        f"{written(row.scores[4])}"
    )
    expect(page.locator(".result")).to_contain_text(
        f"{written(row.powers[4])} / {written(sum(row.powers))} = "
        f"{written(row.weights[4])}"
    )
    expect(page.locator(".result")).to_contain_text(
        f"{float(figure.weights[1, 2, 7, 4]):.6f}"
    )


def test_the_row_shows_every_score_the_mask_and_shares_that_add_up(
    show, figure
):
    page = show(figure, at=f"#fig-one={OPEN}")
    row = sums(figure, 1, 2, 7, 4)
    lines = page.locator(".rows tbody tr").all()
    assert len(lines) == len(figure.tokens)
    for key, line in enumerate(lines):
        score, mask, power, weight = line.locator("td").all_inner_texts()
        assert score == written(row.scores[key])
        assert mask == ("open" if key <= 7 else "−∞")
        wanted = [written(row.powers[key]), written(row.weights[key])]
        assert [power, weight] == (wanted if key <= 7 else ["0", "0"])
    foot = page.locator(".rows tfoot td").all_inner_texts()
    assert foot[2:] == [written(sum(row.powers)), written(sum(row.weights))]
    current = page.locator('.rows [aria-current="true"] th')
    expect(current).to_have_text(figure.tokens[4])


def test_of_many_products_the_largest_are_listed_with_the_rest_as_one(
    show, grouped
):
    page = show(grouped, at="#fig-grouped=layer0.head1.row6.col5.open")
    row = sums(grouped, 0, 1, 6, 5)
    assert len(row.products) == 16
    expect(page.locator(".sum caption").first).to_have_text(
        "The 8 largest of 16 products"
    )
    lines = products_shown(page)
    largest = sorted(row.products, key=abs)[-8:]
    shown = [amounts(texts)[2] for _, *texts in lines[:8]]
    assert sorted(shown, key=abs) == largest
    assert lines[8][0] == "8 more"
    rest = amounts(lines[8][1:])[2]
    assert sum(shown) + rest == row.totals[5]
    more = page.get_by_role("button", name="All 16 products")
    more.click()
    expect(page.locator(".sum caption").first).to_have_text("All 16 products")
    assert len(products_shown(page)) == 16
    bars = page.locator(".signed i").evaluate_all(
        "bars => bars.map(bar => parseFloat(bar.style.width))"
    )
    top = max(map(abs, row.products))
    wanted = [50 * abs(p) / top for p in row.products]
    assert bars == pytest.approx(wanted, abs=1e-3)
    fewer = page.get_by_role("button", name="Only the 8 largest")
    expect(fewer).to_be_focused()
    expect(page.locator(".sum li").first).to_contain_text("turned by")


def test_a_closed_cell_says_why_and_has_a_score_all_the_same(
    show, figure, grouped
):
    page = show(figure, grouped)
    one, other = page.locator(".llm-explorer").all()
    one.locator('.cell[data-query="2"][data-key="5"]').click()
    row = sums(figure, 0, 0, 2, 5)
    steps = one.locator(".sum > li")
    expect(steps.nth(1)).to_contain_text(written(row.scores[5]))
    after = f"{figure.tokens[5]} stands after {figure.tokens[2]}"
    expect(steps.nth(2)).to_contain_text(f"The mask is closed. {after}")
    expect(one.locator(".result")).to_have_count(0)
    other.locator('.cell[data-query="6"][data-key="2"]').click()
    steps = other.locator(".sum > li")
    expect(steps.nth(2)).to_contain_text("stands 4 tokens before")
    expect(steps.nth(2)).to_contain_text("looks back over 3 tokens")
    closed = other.locator(".cell").evaluate_all(
        "cells => cells.map(c => c.classList.contains('masked'))"
    )
    assert closed == (~grouped.mask).flatten().tolist()
    background = other.locator('.cell[data-query="6"][data-key="2"]').evaluate(
        "c => getComputedStyle(c).backgroundImage"
    )
    assert "repeating-linear-gradient" in background


def test_the_open_cell_follows_the_arrow_keys(show, figure):
    page = show(figure, at=f"#fig-one={OPEN}")
    cell(page, 7, 4).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    row = sums(figure, 1, 2, 6, 3)
    expect(page.locator(".result data")).to_have_text(written(row.weights[3]))


# --------------------------------------------------------------- switches


def guesses(page):
    """The listed next tokens: text and shown probabilities."""
    lines = page.locator(".guesses tbody tr:not(.rest)")
    return [
        line.locator("th bdi, .amount").all_inner_texts()
        for line in lines.all()
    ]


def test_a_head_switched_off_moves_the_next_token_and_back(show, figure):
    page = show(figure)
    small(page, 1, 1).click()
    cell(page, 3, 2).click()
    page.get_by_role("button", name="Close").click()
    said = page.locator(".said")
    expect(said).to_contain_text("All heads are on. Likeliest is")
    page.get_by_role("button", name="Switch layer 1, head 1 off").click()
    rows = figure.switchboard.rows([(1, 1)])
    words = figure.switchboard.words(rows)
    listed = [(words[i], p, after) for i, p, after in rows[3]]
    assert [row[0] for row in guesses(page)] == [name for name, _, _ in listed]
    for row, (_, before, after) in zip(guesses(page), listed, strict=True):
        assert float(row[1]) == pytest.approx(before, abs=6e-5)
        assert float(row[2]) == pytest.approx(after, abs=6e-5)
    _, before, after = listed[0]
    nats = float(said.locator(".nats").get_attribute("value"))
    assert nats == pytest.approx(math.log(after / before), abs=1e-5)
    expect(said).to_contain_text(f"{abs(nats):.3f} nats")
    for name, value in (("before", before), ("after", after)):
        shown = said.locator(f".{name}").inner_text()
        assert float(shown) == pytest.approx(value, rel=1e-4)
    expect(small(page, 1, 1)).to_have_class("small off")
    expect(page.get_by_role("status")).to_contain_text("nats")
    page.get_by_role("button", name="head 1 on again").click()
    expect(said).to_contain_text("All heads are on")
    expect(page.locator(".small.off")).to_have_count(0)


def test_a_page_without_a_kernel_has_one_head_off_at_a_time(show, figure):
    page = show(figure, at="#fig-one=layer0.head0.row3.col3.off0-2")
    expect(small(page, 0, 2)).to_have_class("small off")
    small(page, 1, 3).click()
    page.get_by_role("button", name="Switch layer 1, head 3 off").click()
    expect(page.locator(".small.off")).to_have_count(1)
    expect(small(page, 1, 3)).to_have_class("small off")
    small(page, 0, 0).click()
    page.get_by_role("button", name="All heads on").click()
    expect(page.locator(".small.off")).to_have_count(0)
    toggle = page.get_by_role("button", name="Switch layer 0, head 0 off")
    expect(toggle).to_be_focused()


def test_several_heads_that_the_author_switched_off_come_back(show):
    model, tokenizer = trained.trained()
    pair = [(0, 2), (1, 1)]
    figure = AttentionExplorer.from_model(
        model, tokenizer, trained.SENTENCE, off=pair, name="fig-pair"
    )
    page = show(figure)
    both = "Without layer 0, head 2 and layer 1, head 1"
    expect(page.locator(".said")).to_contain_text(both)
    small(page, 1, 1).click()
    page.get_by_role("button", name="All heads on").click()
    expect(page.locator(".said")).to_contain_text("All heads are on")
    page.go_back()
    expect(page.locator(".said")).to_contain_text(both)
    expect(page.locator(".small.off")).to_have_count(2)


def test_the_listed_and_the_others_make_up_the_whole(show, figure):
    page = show(figure, at="#fig-one=layer1.head1.row3.col3.off1-1")
    for column in (1, 2):
        listed = sum(float(row[column]) for row in guesses(page))
        rest = page.locator(".guesses .rest .amount").nth(column - 1)
        assert listed + float(rest.inner_text()) == pytest.approx(1, abs=5e-4)


# --------------------------------------------------------------- keyboard


def test_the_keyboard_alone_goes_in_and_out_again(show, figure):
    page = show(figure)
    page.keyboard.press("Tab")  # the small maps: the open head
    expect(small(page, 0, 0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(small(page, 1, 1)).to_be_focused()
    expect(page.get_by_role("combobox", name="Head")).to_have_value("0")
    outline = small(page, 1, 1).evaluate(
        "c => getComputedStyle(c).outlineStyle"
    )
    assert outline == "solid"
    page.keyboard.press("Enter")  # opens the head, goes to its map
    expect(page.get_by_role("combobox", name="Head")).to_have_value("1")
    T = len(figure.tokens)
    expect(page.locator(".cell:focus")).to_have_attribute(
        "data-query", str(T - 1)
    )
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # opens the cell, goes to its panel
    panel = page.get_by_role("group", name="The sum behind one weight")
    expect(panel).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(cell(page, T - 2, 0)).to_be_focused()
    page.keyboard.press("Space")
    expect(panel).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # its Close button
    expect(cell(page, T - 2, 0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(small(page, 1, 1)).to_be_focused()
    page.keyboard.press("Control+Home")
    expect(small(page, 0, 0)).to_be_focused()
    page.keyboard.press("End")
    expect(small(page, 0, 3)).to_be_focused()
    expect(page.locator('.small[tabindex="0"]')).to_have_count(1)
    expect(page.locator('.cell[tabindex="0"]')).to_have_count(1)


def test_the_switch_is_reached_and_worked_by_keys(show, figure):
    page = show(figure)
    for _ in range(5):  # heads, layer, head, sentence, map
        page.keyboard.press("Tab")
    expect(page.locator(".cell:focus")).to_have_count(1)
    page.keyboard.press("Tab")
    toggle = page.get_by_role("button", name="Switch layer 0, head 0 off")
    expect(toggle).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("nats")
    again = page.get_by_role("button", name="on again")
    expect(again).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator(".said")).to_contain_text("All heads are on")


# ---------------------------------------------------------------- address


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_view_can_be_linked_to_reloaded_and_left(show, figure, scheme):
    page = show(figure, scheme=scheme)
    start = f"layer0.head0.row{figure.query}.col{figure.key}"
    assert fragment(page) == ""
    small(page, 1, 2).click()
    cell(page, 7, 4).click()
    page.get_by_role("button", name="Switch layer 1, head 2 off").click()
    assert fragment(page) == f"#fig-one={OPEN}.off1-2"
    page.reload()
    expect(page.locator(".result")).to_be_visible()
    expect(small(page, 1, 2)).to_have_class("small off")
    expect(page.locator(".rowheader.chosen")).to_have_text(figure.tokens[7])
    page.go_back()
    expect(page.locator(".small.off")).to_have_count(0)
    expect(page.locator(".result")).to_be_visible()
    page.go_back()
    expect(page.locator(".result")).to_be_hidden()
    expect(page.get_by_role("combobox", name="Head")).to_have_value("2")
    page.go_back()
    expect(page.get_by_role("combobox", name="Head")).to_have_value("0")
    assert fragment(page) in ("", f"#fig-one={start}")
    page.go_forward()
    page.go_forward()
    expect(page.locator(".result")).to_be_visible()


def test_the_link_is_the_view_and_small_steps_make_no_history(show, figure):
    page = show(figure)
    entries = page.evaluate("history.length")
    cell(page, 5, 5).focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    link = page.get_by_role("link", name="Link to this view")
    wanted = "#fig-one=layer0.head0.row5.col2"
    expect(link).to_have_attribute("href", wanted)
    page.wait_for_function(f"location.hash === '{wanted}'")
    assert page.evaluate("history.length") == entries
    page.reload()
    expect(page.locator(".rowheader.chosen")).to_have_text(figure.tokens[5])


def test_two_figures_keep_apart_in_the_address(show, figure, grouped):
    page = show(figure, grouped, figure)
    one, two, three = page.locator(".llm-explorer").all()
    one.locator('.small[data-layer="1"][data-head="0"]').click()
    two.locator('.small[data-layer="0"][data-head="1"]').click()
    three.locator('.small[data-layer="0"][data-head="3"]').click()
    parts = fragment(page)[1:].split("&")
    assert [part.split("=")[0] for part in parts] == [
        "fig-one",
        "fig-grouped",
        "fig-one-2",
    ]
    page.reload()
    for host, head in ((one, "0"), (two, "1"), (three, "3")):
        chosen = host.get_by_role("combobox", name="Head")
        expect(chosen).to_have_value(head)
    page.go_back()
    expect(three.get_by_role("combobox", name="Head")).to_have_value("0")
    expect(two.get_by_role("combobox", name="Head")).to_have_value("1")


@pytest.mark.parametrize(
    "wrong",
    [
        "fig-one=layer9.head-1.row99.col1e9.off7-7.open9",
        "fig-one=",
        "fig-one=%3Cimg%20src=x%20onerror=alert(1)%3E",
        "fig-one",
        "&&=&fig-one==layer1",
        "top",
        "other=layer1.head1",
    ],
)
def test_an_address_that_asks_for_nothing_possible_changes_nothing(
    show, figure, wrong
):
    page = show(figure, at=f"#{wrong}")
    expect(page.get_by_role("combobox", name="Layer")).to_have_value("0")
    expect(page.get_by_role("combobox", name="Head")).to_have_value("0")
    expect(page.locator(".small.off")).to_have_count(0)
    expect(page.locator(".result")).to_have_count(0)


def test_a_link_brings_its_figure_to_the_reader(show, figure, grouped):
    page = show(figure, grouped, at="#fig-grouped=layer0.head1.row6.col5.open")
    page.wait_for_function("scrollY > 300")
    top = page.locator(".llm-explorer").nth(1).bounding_box()["y"]
    assert -5 < top < 60


def test_a_jump_to_a_heading_leaves_the_figure_as_it_is(show, figure):
    page = show(figure)
    small(page, 1, 2).click()
    page.evaluate("location.hash = '#top'")
    page.wait_for_timeout(50)
    expect(page.get_by_role("combobox", name="Head")).to_have_value("2")


# -------------------------------------------------------- everybody, always


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_and_nothing_sticks_out(
    show, figure, grouped, theme, viewport
):
    at = (
        f"#fig-one={OPEN}.off1-2"
        "&fig-grouped=layer0.head1.row6.col2.open.off0-0"
    )
    page = show(figure, grouped, at=at, theme=theme, viewport=viewport)
    page.locator("details").evaluate_all("all => all.map(d => d.open = true)")
    page.get_by_role("button", name="All 16 products").click()
    assert violations(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]


def awkward_figure():
    """Tokens that are markup, run from the right, or are nothing at all."""
    T, D = len(AWKWARD), 12
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 2, 2, T, D, generator=generator)
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    closed = torch.ones(T, T).triu(1).bool()
    weights = scores.masked_fill(closed, -math.inf).softmax(-1)
    return AttentionExplorer(
        weights, AWKWARD, queries=q, keys=k, name="fig-awkward", opened=True
    )


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_token_is_data_wherever_it_stands(show, viewport):
    figure = awkward_figure()
    page = show(figure, viewport=viewport)
    places = [
        page.locator(".strip button"),
        page.locator(".grid .rowheader"),
        page.locator(".grid .columnheader"),
        page.locator(".rows tbody th"),
    ]
    for query in range(len(AWKWARD)):
        page.locator(".strip button").nth(query).click()
        expect(page.locator(".panel .head")).to_contain_text(
            figure.tokens[query]
        )
        for place in places:
            expect(place.nth(query)).to_have_text(
                figure.tokens[query], use_inner_text=False
            )
    page.get_by_text("This query’s weights as a table").click()
    assert page.title() == "Page"
    assert page.locator("main img, main b").count() == 0
    assert violations(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]


def test_what_is_said_never_moves_the_map_from_under_the_pointer(show):
    page = show(awkward_figure(), viewport=NARROW)
    places = set()
    for query, key in ((0, 0), (11, 1), (1, 11), (10, 10)):
        cell(page, query, key).hover()
        page.wait_for_timeout(40)
        box = cell(page, 5, 5).bounding_box()
        places.add(box["y"] + page.evaluate("scrollY"))
    assert len(places) == 1


def test_a_screen_reader_has_tables_names_and_one_status(show, figure):
    page = show(figure, at=f"#fig-one={OPEN}")
    expect(
        page.get_by_role("grid", name="All layers and heads")
    ).to_be_visible()
    expect(page.get_by_role("grid", name="Attention weights")).to_be_visible()
    for name in ("products", "softmax"):
        expect(page.get_by_role("table", name=name)).to_be_visible()
    page.get_by_text("This query’s weights as a table").click()
    lines = page.locator("details tbody tr")
    expect(lines).to_have_count(len(figure.tokens))
    weight = float(figure.weights[1, 2, 7, 4])
    expect(lines.nth(4)).to_contain_text(f"{weight:.6f}")
    expect(lines.nth(8)).to_contain_text("masked")
    expect(page.get_by_role("status")).to_have_count(1)


def test_nothing_moves_by_itself_for_those_who_want_rest(show, figure):
    page = show(figure, at=f"#fig-one={OPEN}.off1-2", reduced_motion="reduce")
    small(page, 0, 1).click()
    page.get_by_role("button", name="Switch layer 0, head 1 off").click()
    running = page.evaluate(
        """document.querySelector(".llm-explorer > div").shadowRoot
        .getAnimations().length"""
    )
    assert running == 0


def test_print_keeps_the_maps_and_leaves_the_buttons_out(show, figure):
    page = show(figure, at=f"#fig-one={OPEN}", theme="dark")
    page.emulate_media(media="print")
    expect(page.locator(".root")).to_have_attribute("data-theme", "light")
    expect(page.get_by_role("button", name="Close")).to_be_hidden()
    expect(page.locator(".link")).to_be_hidden()
    expect(page.locator(".result")).to_be_visible()
    expect(page.locator(".small").first).to_be_visible()


def test_one_head_alone_needs_no_grid_and_weights_alone_open_nothing(show):
    figure = AttentionExplorer([[1.0, 0.0], [0.25, 0.75]], ["a", " b"])
    page = show(figure)
    expect(page.locator(".heads")).to_have_count(0)
    cell(page, 1, 0).click()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator(".panel")).to_have_count(0)
    expect(page.locator(".readout")).to_contain_text("0.250000")
    expect(cell(page, 1, 0)).to_be_focused()


@pytest.mark.parametrize("T", [1, 64])
def test_one_token_and_the_most_fit_a_phone(show, T):
    q, k = torch.randn(2, 1, 2, T, 8, generator=torch.manual_seed(0))
    closed = torch.ones(T, T).triu(1).bool()
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(
        closed, -math.inf
    )
    figure = AttentionExplorer(
        scores.softmax(-1), [f" t{i}" for i in range(T)], queries=q, keys=k
    )
    page = show(figure, viewport=NARROW)
    cell(page, T - 1, 0).click()
    row = sums(figure, 0, 0, T - 1, 0)
    expect(page.locator(".result data")).to_have_text(written(row.weights[0]))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    rows = page.locator(".rowheader")
    heights = {rows.nth(i).bounding_box()["height"] for i in (0, T - 1)}
    assert heights == {cell(page, 0, 0).bounding_box()["width"]}  # square
    if T == 1:  # axe compares each cell with each: minutes for 64 x 64
        assert violations(page) == []
