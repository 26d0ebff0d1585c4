"""The time machine in Chromium: dragged, by keyboard, from an address."""

import math

import pytest
from playwright.sync_api import expect

from llmbook.widgets import TimeMachine
from tests.browser import moments
from tests.browser.browsing import PIXEL, THEMES, WIDE, violations
from tests.browser.test_attention_page import AWKWARD

NARROW = {"width": 360, "height": 740}
LAST = len(moments.STEPS) - 1


@pytest.fixture(scope="module")
def figure():
    """Five moments of a run, two layers of four heads."""
    return moments.machine(layer=1, head=2, query=5, caption="A run.")


def slider(page):
    return page.get_by_role("slider", name="Step")


def cell(page, query, key):
    return page.locator(f'.cell[data-query="{query}"][data-key="{key}"]')


def fragment(page):
    return page.evaluate("location.hash")


def check(page, figure, moment):
    """Everything that the page shows is Python's at this moment."""
    step = moments.STEPS[moment]
    expect(page.locator(".readout b")).to_have_text(f"{step:,}")
    expect(slider(page)).to_have_value(str(moment))
    expect(slider(page)).to_have_attribute("aria-valuetext", f"step {step}")
    shown = page.locator(".samples .shown")
    expect(shown).to_have_text(figure.samples[moment], use_inner_text=True)
    value = float(page.locator("data.curve").get_attribute("value"))
    assert value == pytest.approx(figure.loss_at(moment), abs=1e-4)
    losses = page.locator(".reading data").evaluate_all(
        "all => all.map(d => Number(d.value))"
    )
    assert losses == pytest.approx(figure.losses[moment].tolist(), abs=1e-4)
    texts = page.locator(".cell:not(.masked)").evaluate_all(
        "all => all.map(c => Number(c.ariaLabel.split(': ').at(-1)))"
    )
    chosen = figure.weights[moment, figure.layer, figure.head]
    want = [w for q, row in enumerate(chosen) for w in row[: q + 1]]
    assert texts == pytest.approx([float(w) for w in want], abs=1e-4)


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_everything_follows_the_step(show, figure, scheme):
    page = show(figure, scheme=scheme)
    check(page, figure, LAST)
    for moment in (0, 3, 1):
        slider(page).fill(str(moment))
        check(page, figure, moment)


def test_the_keyboard_travels_alone(show, figure):
    page = show(figure)
    page.keyboard.press("Tab")
    expect(slider(page)).to_be_focused()
    for key, moment in (
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowUp", 2),
        ("ArrowLeft", 1),
        ("End", LAST),
    ):
        page.keyboard.press(key)
        check(page, figure, moment)
    outline = "c => getComputedStyle(c).outlineStyle"
    assert slider(page).evaluate(outline) == "solid"


def test_a_drag_over_the_curve_travels_too(show, figure):
    page = show(figure)
    rings = page.locator(".loss-curve .ring")
    expect(rings).to_have_count(LAST + 1)
    boxes = [rings.nth(m).bounding_box() for m in range(LAST + 1)]
    thumb = slider(page).bounding_box()
    for m, box in enumerate(boxes):  # the thumb stands under the ring
        middle = box["x"] + box["width"] / 2
        place = thumb["x"] + 8 + (thumb["width"] - 16) * m / LAST
        assert middle == pytest.approx(place, abs=2)
    page.mouse.move(boxes[1]["x"], boxes[1]["y"])
    page.mouse.down()
    check(page, figure, 1)
    page.mouse.move(boxes[3]["x"] + 5, boxes[3]["y"] - 40)
    check(page, figure, 3)
    page.mouse.move(5, 5)
    check(page, figure, 0)
    page.mouse.up()
    page.mouse.move(boxes[2]["x"], boxes[2]["y"])
    check(page, figure, 0)


def test_the_bars_are_probabilities(show, figure):
    page = show(figure)
    for moment in (0, LAST):
        slider(page).fill(str(moment))
        page.wait_for_timeout(60)
        heights = page.locator(".share i").evaluate_all(
            "all => all.map(b => parseFloat(b.style.height))"
        )
        want = [100 * math.exp(-loss) for loss in figure.losses[moment]]
        assert heights == pytest.approx(want, abs=0.02)


def test_heads_are_opened_and_the_map_walked_without_a_mouse(show, figure):
    page = show(figure)
    slider(page).focus()
    page.keyboard.press("Tab")
    small = page.locator(".small:focus")
    expect(small).to_have_attribute("data-head", "2")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(cell(page, 5, figure.key)).to_be_focused()
    assert "layer1.head1" in fragment(page)
    page.keyboard.press("Control+End")
    T = len(figure.tokens)
    expect(cell(page, T - 1, T - 1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(small).to_have_attribute("data-head", "1")


def test_a_head_is_described_anew_at_every_step(show, figure):
    page = show(figure)
    small = page.locator('.small[data-layer="1"][data-head="2"]')
    names = set()
    for moment in (0, LAST):
        slider(page).fill(str(moment))
        page.wait_for_timeout(60)
        map = figure.weights[moment, 1, 2][1:]
        share = round(100 * float(map[:, 0].mean()))
        name = small.get_attribute("aria-label")
        assert f"{share} % on the first token" in name
        names.add(name)
    assert len(names) == 2


def test_the_pointer_reads_a_weight_in_passing(show, figure):
    page = show(figure)
    cell(page, 6, 2).hover()
    weight = page.locator("data.weight")
    want = float(figure.map[6, 2])
    expect(weight).to_have_text(f"{want:.2f}")
    slider(page).hover()
    expect(weight).to_have_text(f"{float(figure.map[5, figure.key]):.2f}")


# ------------------------------------------------------------- the address


def test_a_view_has_an_address_and_opens_from_it(show, figure):
    page = show(figure)
    slider(page).fill("2")
    page.locator('.small[data-layer="0"][data-head="3"]').click()
    cell(page, 4, 1).click()
    page.wait_for_timeout(350)
    want = "#fig-run=step5.layer0.head3.row4.col1"
    assert fragment(page) == want
    link = page.get_by_role("link", name="Link to this view")
    assert link.evaluate("a => a.hash") == want
    again = show(figure, at=want)
    expect(slider(again)).to_have_value("2")
    expect(again.locator(".cell.chosen")).to_have_attribute("data-key", "1")
    assert fragment(again) == want


def test_back_returns_to_the_head_and_passes_over_steps(show, figure):
    page = show(figure)
    slider(page).fill("1")
    page.wait_for_timeout(350)
    page.locator('.small[data-layer="0"][data-head="3"]').click()
    slider(page).fill("3")
    page.wait_for_timeout(350)
    page.go_back()
    expect(slider(page)).to_have_value("1")
    page.go_forward()
    expect(slider(page)).to_have_value("3")


@pytest.mark.parametrize(
    "wrong",
    [
        "fig-run=step26.layer9.head-1.row99.col1e9",
        "fig-run=",
        "fig-run=%3Cimg%20src=x%20onerror=alert(1)%3E",
        "other=step0",
    ],
)
def test_an_address_of_nothing_recorded_changes_nothing(show, figure, wrong):
    page = show(figure, at=f"#{wrong}")
    check(page, figure, LAST)


def test_two_machines_keep_apart(show, figure):
    page = show(figure, figure)
    slider(page).nth(1).fill("0")
    page.wait_for_timeout(350)
    assert fragment(page).startswith("#fig-run-2=step0.")
    expect(slider(page).nth(0)).to_have_value(str(LAST))


# -------------------------------------------------------- everybody, always


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_and_nothing_sticks_out(
    show, figure, theme, viewport
):
    page = show(figure, theme=theme, viewport=viewport)
    page.locator("summary").click()
    page.wait_for_timeout(60)
    assert violations(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]


def test_nothing_moves_when_the_sample_changes(show, figure):
    page = show(figure)
    places = set()
    for moment in range(LAST + 1):
        slider(page).fill(str(moment))
        page.wait_for_timeout(60)
        places.add(cell(page, 3, 3).bounding_box()["y"])
    assert len(places) == 1


def test_the_tables_hold_every_number(show, figure):
    page = show(figure)
    page.locator("summary").click()
    losses, weights, samples = page.locator("details table").all()
    for m, step in enumerate(moments.STEPS):
        want = [figure.loss_at(m), *figure.losses[m]]
        row = losses.locator("tbody tr").nth(m)
        texts = row.locator("th, td").all_inner_texts()
        assert texts == [f"{step}", *(f"{x:.2f}" for x in want)]
        row = weights.locator("tbody tr").nth(m)
        shares = figure.weights[m, 1, 2, 5, :6]
        texts = row.locator("td").all_inner_texts()
        assert [float(t) for t in texts] == pytest.approx(shares, abs=0.006)
        row = samples.locator("tbody tr").nth(m)
        expect(row.locator("td")).to_have_text(figure.samples[m])


def test_tokens_and_samples_are_data_never_markup(show):
    T = len(AWKWARD)
    weights = [[1 / (q + 1)] * (q + 1) + [0] * (T - q - 1) for q in range(T)]
    figure = TimeMachine(
        [0, 7],
        AWKWARD,
        [[[weights]]] * 2,
        [[1.0] * (T - 1)] * 2,
        [AWKWARD[0] + AWKWARD[1], "\n".join(AWKWARD[2:5])],
        [2.0] * 8,
        marks={AWKWARD[0]: 1.0},
    )
    page = show(figure, viewport=NARROW)
    slider(page).fill("0")
    expect(page.locator(".samples .shown")).to_have_text(figure.samples[0])
    names = page.locator(".reading bdi")
    for i, token in enumerate(figure.tokens[1:]):
        expect(names.nth(i)).to_have_text(token, use_inner_text=False)
    page.locator("summary").click()
    assert page.title() == "Page"
    assert page.locator("main img, main b > *").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_scripts_the_picture_stands_there(browser, figure):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(figure.to_html(PIXEL))
    picture = page.locator(".llm-explorer img")
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt") == figure.alt
    context.close()


def test_print_is_light_and_shows_one_sample(show, figure):
    page = show(figure, theme="dark")
    page.emulate_media(media="print")
    root = page.locator(".root")
    expect(root).to_have_attribute("data-theme", "light")
    expect(slider(page)).to_be_hidden()
    expect(page.locator(".link")).to_be_hidden()
    expect(page.locator(".samples p:visible")).to_have_count(1)
    expect(page.locator(".loss-curve")).to_be_visible()


def test_one_layer_one_head_and_two_tokens_suffice(show):
    maps = [[[[[1.0, 0.0], [0.5, 0.5]]]]] * 2
    losses, curve = [[0.7], [0.2]], [0.7, 0.4]
    page = show(TimeMachine([0, 1], "ab", maps, losses, ["", "b"], curve))
    slider(page).fill("0")
    expect(page.locator(".samples .shown")).to_have_text("(nothing)")
