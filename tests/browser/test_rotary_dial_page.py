"""The rotary dial in Chromium: its numbers are those of positions.rotate."""

import re

import pytest
from playwright.sync_api import expect

from llmbook.widgets import RotaryDial
from tests.browser.browsing import PIXEL, WIDE, violations

NARROW = {"width": 390, "height": 800}
QUERY, KEY = [1.0, 0.2, 0.3, 0.9], [0.8, -0.5, 0.6, 0.7]
EXACT = 1e-9


def new_dial(**values):
    return RotaryDial(
        QUERY, KEY, theta=100.0, query_position=8, key_position=3, **values
    )


def settled(page):
    """Two frames: what was chosen is drawn."""
    page.evaluate(
        "new Promise(ok => requestAnimationFrame("
        "() => requestAnimationFrame(() => ok(null))))"
    )


def slider(page, name):
    return page.get_by_label(name)


def shown(page):
    """The whole product, then what each pair adds."""
    settled(page)
    return page.locator("data.product, data.part").evaluate_all(
        "all => all.map(d => Number(d.value))"
    )


def check(page, figure):
    """Product, parts, hands and distance are Python's."""
    whole, *parts = shown(page)
    assert whole == pytest.approx(figure.product, abs=EXACT)
    assert parts == pytest.approx(figure.products.tolist(), abs=EXACT)
    words = page.locator(".dial").all_inner_texts()
    for i, text in enumerate(words):
        for name, x, position in (
            ("query", figure.query, figure.query_position),
            ("key", figure.key, figure.key_position),
        ):
            hand = figure.turned(x, position).view(2, -1)[:, i].tolist()
            a, b = (f"{v:.3f}".replace("-", "−") for v in hand)
            assert f"{name} ({a}, {b})" in text
    sign = f"{figure.distance}".replace("-", "−")
    expect(page.locator(".readout")).to_contain_text(f"distance {sign}:")


def test_hands_and_products_are_pythons_wherever_both_stand(show):
    figure = new_dial()
    page = show(figure)
    check(page, figure)
    for query, key in ((0, 0), (31, 0), (0, 31), (12, 11), (5, 30)):
        slider(page, "query at").fill(str(query))
        slider(page, "key at").fill(str(key))
        figure.query_position, figure.key_position = query, key
        check(page, figure)


def test_moving_both_leaves_the_product_and_moving_one_does_not(show):
    figure = new_dial()
    page = show(figure)
    before = shown(page)
    both = slider(page, "both")
    expect(both).to_have_value("3")
    assert both.get_attribute("max") == "26"  # the query is 5 further on
    for start in (0, 14, 26):
        both.fill(str(start))
        assert shown(page) == pytest.approx(before, abs=EXACT)
        expect(slider(page, "query at")).to_have_value(str(start + 5))
        expect(slider(page, "key at")).to_have_value(str(start))
    slider(page, "key at").fill("20")
    assert abs(shown(page)[0] - before[0]) > 0.01


def test_the_keyboard_alone_turns_every_hand(show):
    figure = new_dial()
    page = show(figure)
    for keys in (["ArrowRight"] * 2, ["ArrowLeft"], ["ArrowUp"] * 3):
        page.keyboard.press("Tab")
        for key in keys:
            page.keyboard.press(key)
            settled(page)
    figure.query_position, figure.key_position = 8 + 2 + 3, 3 - 1 + 3
    check(page, figure)
    focused = page.locator("input:focus")
    expect(focused).to_have_attribute("aria-valuetext", "13, 5")
    assert focused.evaluate("c => getComputedStyle(c).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("details").get_attribute("open") is not None


def test_the_table_has_the_product_at_every_distance(show):
    figure = new_dial(positions=6 + 3)
    page = show(figure)
    page.locator("summary").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(17)
    values = page.locator("details data").evaluate_all(
        "all => all.map(d => Number(d.value))"
    )
    for distance, value in zip(range(-8, 9), values, strict=True):
        at = max(distance, 0), max(-distance, 0)
        want = figure.products_at(*at).sum().item()
        assert value == pytest.approx(want, abs=EXACT)
    expect(rows.first).to_contain_text("−8")


def test_the_dials_say_in_words_where_the_hands_point(show):
    figure = RotaryDial([1.0, 0.0], [0.0, 1.0])
    page = show(figure)
    face = page.locator(".dial svg")
    expect(face).to_have_attribute(
        "aria-label",
        "the pair: the query points to 0°, the key points to 90°",
    )
    slider(page, "query at").fill("1")  # one radian
    expect(face).to_have_attribute(
        "aria-label",
        "the pair: the query points to 57°, the key points to 90°",
    )


def test_the_curve_s_axis_fits_whatever_the_size_of_the_numbers(show):
    page = show(
        RotaryDial([0.1, 0.2], [0.05, 0.1]), RotaryDial([1e3, 2e3], [500, 100])
    )
    curves = page.locator(".curve")
    expect(curves.nth(0).get_by_text("0.025", exact=True)).to_be_visible()
    expect(curves.nth(1).get_by_text("−1.1M", exact=True)).to_be_visible()


def test_a_hand_of_no_length_points_nowhere(show):
    page = show(RotaryDial([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]))
    faces = page.locator(".dial svg")
    for i, words in enumerate(
        (
            "the query is zero, the key points to 45°",
            "the query points to 45°, the key is zero",
        )
    ):
        name = re.compile(words + "$")
        expect(faces.nth(i)).to_have_attribute("aria-label", name)
    expect(faces.nth(0).locator(".head.query")).to_be_hidden()


def test_two_dials_on_a_page_keep_to_themselves(show):
    page = show(new_dial(), new_dial())
    slider(page, "key at").nth(0).fill("9")
    settled(page)
    expect(slider(page, "key at").nth(1)).to_have_value("3")


def test_without_scripts_the_picture_stands_there(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    figure = new_dial()
    page.set_content(figure.to_html(PIXEL))
    picture = page.locator(".llm-explorer img")
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt") == figure.alt
    context.close()


@pytest.mark.parametrize(
    ("pairs", "theme", "viewport"),
    [(1, "light", NARROW), (2, "light", WIDE), (4, "dark", NARROW)],
)
def test_axe_finds_nothing_and_nothing_sticks_out(
    show, pairs, theme, viewport
):
    numbers = [1.0, -0.4] * pairs
    figure = RotaryDial(numbers, numbers[::-1], query_position=9)
    page = show(figure, theme=theme, viewport=viewport)
    page.locator("details").evaluate_all("all => all.map(d => d.open = true)")
    settled(page)
    assert violations(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]


def test_the_theme_follows_the_page_and_print_is_light(show):
    page = show(new_dial(), theme="dark")
    root = page.locator(".root")
    expect(root).to_have_attribute("data-theme", "dark")
    page.emulate_media(media="print")
    expect(root).to_have_attribute("data-theme", "light")
    expect(page.locator(".try")).to_be_hidden()
    expect(page.locator(".dial svg").first).to_be_visible()


# ------------------------------------------------------------------ live

MODEL = """async ([script, values]) => {
    const listeners = {};
    globalThis.saved = 0;
    globalThis.model = {
        get: (name) => values[name],
        set: (name, value) => { values[name] = value;
            (listeners[`change:${name}`] ?? []).forEach((f) => f()); },
        save_changes: () => { saved += 1; },
        on: (event, f) => (listeners[event] ??= []).push(f),
        off: (event, f) => { listeners[event] =
            listeners[event].filter((other) => other !== f); },
    };
    const blob = new Blob([script], { type: "text/javascript" });
    const { default: widget } = await import(URL.createObjectURL(blob));
    globalThis.unmount = widget.render({ model, el: document.body });
}"""


def test_a_live_dial_shares_its_positions_with_python(browser):
    page = browser.new_page()
    figure = new_dial(caption="Two hands.")
    values = {name: getattr(figure, name) for name in figure.shared}
    page.evaluate(MODEL, [figure._esm, {"data": figure.data, **values}])
    expect(page.get_by_text("Two hands.")).to_be_visible()
    slider(page, "both").fill("10")  # by hand
    settled(page)
    state = "[model.get('query_position'), model.get('key_position'), saved]"
    assert page.evaluate(state) == [15, 10, 1]
    page.evaluate("model.set('key_position', 2)")  # as Python does
    figure.query_position, figure.key_position = 15, 2
    check(page, figure)
    page.evaluate("unmount()")
    expect(page.locator(".dial")).to_have_count(0)
    page.close()
