"""The token explorer in Chromium: the ids are Python's, for any text."""

import base64
import re
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

from llmbook.corpus import RUNNING_SENTENCE
from llmbook.tokenizer import BPETokenizer, gpt2
from llmbook.widgets import TokenExplorer, visible
from llmbook.widgets._base import source
from llmbook.widgets.token_explorer import MAX_CHARACTERS
from llmbook.widgets.token_tables import python_classes, tiktoken_classes
from tests.browser import trained
from tests.browser.browsing import ROOT, record

WIDE, NARROW = {"width": 900, "height": 900}, {"width": 390, "height": 800}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)
HOSTILE = "</script><script>document.title='taken'</script>\u2028<b>&amp;"
# What Python, Rust and JavaScript could take for different things: spaces
# and none, letters of this year's Unicode, marks, joiners, line ends, the
# edges of planes, contractions, digits of many scripts, a special token.
AWKWARD = [
    *"\x00\x09\x0a\x0b\x0c\x0d\x1c\x1d\x1e\x1f \x7f\x85\xa0\xad",
    *"\u0300\u0558\u058b\u088f\u0cdc\u1680\u180e\u200b\u200d\u2028\u2029",
    *"\u202f\u205f\u2060\u209d\u3000\ua7ce\ufe0f\ufeff\uffff\U00010000",
    *"\U000107bb\U00011de0\U0001246f\U0001f600\U0001f3fd\U0010ffff",
    *"aZé字日²½Ⅷ٣߀１",
    "'s",
    "'LL",
    "'re",
    " '",
    "  ",
    "\r\n",
    "<|endoftext|>",
    " the",
    "kite",
]
STRINGS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(AWKWARD), max_size=20).map("".join),
    st.text("abekit '\n", max_size=60),
)


@pytest.fixture(scope="module")
def tokenizer():
    """The world's words and some bytes of other scripts, 400 tokens."""
    text = trained._stories(300) + "été naïve 字字 日本 😀😀\r\n\t  it's " * 50
    return BPETokenizer.train(text, 330)


@pytest.fixture(scope="module")
def core(browser, tokenizer):
    """The page's own encoder: text to this tokenizer's ids and GPT-2's."""
    page = browser.new_page()
    page.add_script_tag(content=source("common.js", "tokens.js"))
    page.evaluate(
        """async (data) => {
            globalThis.book = new PageTokenizer(
                pairVocabulary(data.merges), data.classes);
            globalThis.gpt2 = await gpt2Tokenizer(data.gpt2);
        }""",
        TokenExplorer(tokenizer).data,
    )
    yield page
    page.close()


def page_ids(core, texts):
    return core.evaluate(
        "texts => texts.map(t => [book.encode(t), gpt2.encode(t)])", texts
    )


def python_ids(tokenizer, texts):
    other = gpt2().encoding
    return [
        [tokenizer.encode_ordinary(text), other.encode_ordinary(text)]
        for text in texts
    ]


# -------------------------------------------------------------- encoding


@settings(max_examples=120, deadline=None)
@given(texts=st.lists(STRINGS, min_size=10, max_size=10))
def test_the_page_gives_pythons_ids_and_tiktokens(core, tokenizer, texts):
    assert page_ids(core, texts) == python_ids(tokenizer, texts)


def test_each_class_ends_where_it_ends_in_python(core, tokenizer):
    edges = set(range(0x180))
    for classes in (python_classes(), tiktoken_classes()):
        for runs in classes.values():
            at = 0
            for distance in runs:
                at += distance
                edges |= {at - 1, at, at + 1}
    edges -= {*range(0xD800, 0xE000), 0x110000}
    # Each one after a letter, a digit, a space and another of its own.
    texts = [f"a{c}1{c} {c}{c}" for c in map(chr, sorted(edges))]
    assert page_ids(core, texts) == python_ids(tokenizer, texts)


def test_a_word_without_end_is_encoded_as_in_python(core, tokenizer):
    texts = ["a" * 2_000, "字" * 2_000, " " * 1_999 + "x", "kite" * 500]
    assert page_ids(core, texts) == python_ids(tokenizer, texts)


def test_stages_in_the_page_are_pythons(core, tokenizer):
    text = RUNNING_SENTENCE + " it's été\r\n"
    figure = TokenExplorer(tokenizer, text)
    stages = core.evaluate(
        """text => {
            const pieces = book.pieces(text);
            const ends = [N_BYTES - 1, ...book.merges(pieces)];
            return ends.map((end) => book.stage(pieces, end).flat());
        }""",
        text,
    )
    assert len(stages) == len(figure.merges) + 1
    for step, ids in enumerate(stages):
        figure.step = step
        assert ids == figure.ids


@settings(deadline=None)
@given(token=st.binary(max_size=8) | st.text(max_size=3).map(str.encode))
def test_a_token_is_written_as_in_python(core, token):
    shown = core.evaluate("bytes => visible(bytes)", token.decode("latin-1"))
    text = token.decode("utf-8", "ignore")
    # The browser's Unicode may be newer, and it knows more marks.
    assume(token and all(unicodedata.category(c) != "Cn" for c in text))
    assert shown.lstrip("◌") == visible(token).lstrip("◌")


def test_half_a_character_and_what_is_too_long_are_mended(core):
    half = core.evaluate(r"cleaned('a\ud83d' + 'bb', 10)")
    assert half == {"text": "a\ufffdbb", "cut": False}
    long = core.evaluate("cleaned('\ufeff😀😀😀', 3)")
    assert long == {"text": "\ufeff😀😀", "cut": True}


# ------------------------------------------------------------------ page


@pytest.fixture
def show(browser, tmp_path):
    """Open figures in a page; nothing may be asked for or complained of."""
    contexts, records = [], []

    def open_page(*figures, viewport=WIDE, theme="light"):
        body = "".join(f.to_html(PIXEL) for f in figures)
        file = tmp_path / "page.html"
        file.write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head>'
            '<meta charset="utf-8"><title>Page</title></head><body>'
            f"<main><h1>Page</h1>{body}</main></body></html>",
            "utf-8",
        )
        context = browser.new_context(viewport=viewport)
        contexts.append(context)
        page = context.new_page()
        records.append(record(page, file.as_uri()))
        page.goto(file.as_uri())
        page.locator(".comparison").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [kept.left() + kept.errors for kept in records] == [[]]


@pytest.fixture(scope="module")
def figure(tokenizer):
    return TokenExplorer(tokenizer, RUNNING_SENTENCE)


def field(page):
    return page.get_by_label("Your text")


def rows(page):
    return page.locator(".tokens").nth(0), page.locator(".tokens").nth(1)


def boxes(row):
    return row.locator(".box").all_text_contents()


def settled(page):
    """Two frames: what was typed is drawn."""
    page.evaluate(
        "new Promise(ok => requestAnimationFrame("
        "() => requestAnimationFrame(() => ok(null))))"
    )


@pytest.mark.parametrize(
    "text",
    ["Tam", "", "naïve 字\n\n  x", "<|endoftext|>", HOSTILE, "\t'll 1234"],
)
def test_typed_text_becomes_pythons_ids(show, figure, tokenizer, text):
    page = show(figure)
    field(page).fill(text)
    page.get_by_label("Boxes show").select_option(label="ids")
    settled(page)
    want = python_ids(tokenizer, [text])[0]
    for row, ids in zip(rows(page), want, strict=True):
        assert boxes(row) == list(map(str, ids))
    lists = page.locator("details code").all_text_contents()
    assert lists == list(map(str, want))
    assert page.title() == "Page" and page.locator("main b").count() == 0
    table = page.locator(".comparison tbody tr")
    for line, ids in zip(table.all(), want, strict=True):
        cells = line.locator("td").all_text_contents()
        per_token = [
            f"{len(whole) / len(ids):.2f}" if ids else "–"
            for whole in (text, text.encode())
        ]
        assert cells == [str(len(ids)), *per_token]


def test_steps_by_slider_buttons_and_keys_are_pythons(show, figure, tokenizer):
    page = show(figure)
    mine = TokenExplorer(tokenizer, RUNNING_SENTENCE)
    last = len(mine.merges)
    slider = page.get_by_label("Merges done")

    def check(step):
        settled(page)
        mine.step = step
        assert boxes(rows(page)[0]) == list(map(visible, mine.tokens))
        said = page.locator(".merge").text_content()
        if step:
            rank = mine.merges[step - 1]
            pair = tokenizer.merges[rank]
            left, right = map(visible, pair)
            made = visible(b"".join(pair))
            assert said.startswith(
                f"Step {step} of {last}: {left} + {right} → {made}, "
                f"rank {rank} among {len(tokenizer.merges)} merges."
            )
            assert {*page.locator(".lit.box").all_text_contents()} == {made}
        else:
            assert "every byte is a token: 36 tokens" in said

    check(last)
    slider.fill("0")
    check(0)
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    check(2)
    page.get_by_role("button", name="Back").click()
    check(1)
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    check(4)
    page.keyboard.press("End")
    check(last)
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


def test_play_runs_through_all_merges_and_can_be_stopped(show, figure):
    page = show(figure)
    field(page).fill("kite")
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".merge")).to_contain_text("every byte is a token")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator(".merge")).to_contain_text("Now 2 tokens")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_hover_and_focus_tell_id_bytes_and_origin(show, figure, tokenizer):
    page = show(figure)
    row = rows(page)[0]
    line = page.locator(".readout").nth(0)
    row.locator(".box").nth(3).hover()
    (kite,) = tokenizer.encode(" kite")
    left, right = tokenizer.merges[kite - 256]
    want = (
        f"Token 4: ␣kite, id {kite}, bytes 20 6B 69 74 65, joined from "
        f"{visible(left)} and {visible(right)} by the merge of rank "
        f"{kite - 256}."
    )
    expect(line).to_have_text(want)
    page.locator("h1").hover()
    expect(line).to_have_text("Rest on a token to see its id and its bytes.")
    page.get_by_role("button", name="Back").focus()
    page.keyboard.press("Tab")  # the slider
    page.keyboard.press("Tab")  # the first token; Next is disabled
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(line).to_have_text(want)
    focused = row.locator(".box:focus")
    label = f"␣kite, id {kite}, bytes 20 6B 69 74 65"
    expect(focused).to_have_attribute("aria-label", label)
    assert focused.evaluate("b => getComputedStyle(b).outlineStyle") == "solid"
    page.keyboard.press("End")
    expect(line).to_contain_text("Token 10: .")
    page.keyboard.press("Tab")
    other = page.locator(".readout").nth(1)
    expect(other).to_contain_text("Token 1: On, id 2202, bytes 4F 6E.")


def test_boxes_show_bytes(show, figure):
    page = show(figure)
    field(page).fill("é!")
    page.get_by_label("Merges done").fill("0")
    settled(page)
    assert boxes(rows(page)[0]) == ["⟨C3⟩", "⟨A9⟩", "!"]
    page.get_by_label("Boxes show").select_option(label="bytes")
    settled(page)
    assert boxes(rows(page)[0]) == ["C3", "A9", "21"]


def test_too_much_text_is_cut_and_the_page_says_so(show, figure, tokenizer):
    page = show(figure)
    text = "the kité " * 1_000
    field(page).fill(text)
    settled(page)
    notice = page.locator(".notice")
    expect(notice).to_have_text(
        f"Only the first {MAX_CHARACTERS:,} characters are encoded here."
    )
    want = tokenizer.encode_ordinary(text[:MAX_CHARACTERS])
    lists = page.locator("details code").all_text_contents()
    assert lists[0] == str(want)
    page.get_by_label("Merges done").fill("0")
    settled(page)
    n_bytes = len(text[:MAX_CHARACTERS].encode())
    assert len(boxes(rows(page)[0])) == 1_000
    expect(page.locator(".left").nth(0)).to_have_text(
        f"{n_bytes - 1_000:,} more tokens are counted, not drawn."
    )
    page.get_by_role("button", name="Start again").click()
    expect(field(page)).to_have_value(RUNNING_SENTENCE)
    expect(notice).to_have_text("")


def test_a_page_without_gpt2_says_so(show, tokenizer):
    figure = TokenExplorer(tokenizer, "the kite")
    figure.data = {**figure.data, "gpt2": None}
    page = show(figure)
    expect(page.locator(".readout").nth(1)).to_contain_text("not at hand")
    assert boxes(rows(page)[0]) == list(map(visible, figure.tokens))


def test_two_explorers_on_a_page_keep_to_themselves(show, figure):
    page = show(figure, figure)
    page.get_by_label("Your text").nth(0).fill("x")
    settled(page)
    expect(page.get_by_label("Your text").nth(1)).to_have_value(
        RUNNING_SENTENCE
    )
    assert len(boxes(page.locator(".tokens").nth(2))) == 10


@pytest.mark.parametrize("text", [RUNNING_SENTENCE, "", HOSTILE * 2])
@pytest.mark.parametrize(
    ("theme", "viewport"), [("light", WIDE), ("dark", NARROW)]
)
def test_axe_finds_nothing_and_nothing_sticks_out(
    show, tokenizer, text, theme, viewport
):
    page = show(TokenExplorer(tokenizer, text), theme=theme, viewport=viewport)
    page.locator("details").evaluate_all("all => all.map(d => d.open = true)")
    page.get_by_role("button", name="Back").click(force=True)
    settled(page)
    page.add_script_tag(path=ROOT / "node_modules/axe-core/axe.min.js")
    found = page.evaluate("axe.run()")["violations"]
    assert [
        (v["id"], n["html"][:120], n["failureSummary"])
        for v in found
        for n in v["nodes"]
    ] == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]


def test_on_paper_only_the_tokens_remain(show, figure):
    page = show(figure, theme="dark")
    page.emulate_media(media="print")
    expect(page.locator(".root")).to_have_attribute("data-theme", "light")
    for name in (".steps", ".try"):
        expect(page.locator(name)).to_be_hidden()
    expect(rows(page)[1].locator(".box").first).to_be_visible()


# ------------------------------------------------------------------ live

MODEL = """async ([script, values]) => {
    const listeners = {};
    globalThis.sent = [];
    globalThis.model = {
        get: (name) => values[name],
        set: (name, value) => { values[name] = value; sent.push(name);
            (listeners[`change:${name}`] ?? []).forEach((f) => f()); },
        save_changes: () => sent.push("saved"),
        on: (event, f) => (listeners[event] ??= []).push(f),
        off: (event, f) => { listeners[event] =
            listeners[event].filter((other) => other !== f); },
    };
    const blob = new Blob([script], { type: "text/javascript" });
    const { default: widget } = await import(URL.createObjectURL(blob));
    document.body.innerHTML = "";
    globalThis.unmount = widget.render({ model, el: document.body });
}"""


def test_a_live_model_and_the_page_move_each_other(show, figure):
    page = show(figure)
    values = {"data": figure.data, "text": "the kite", "step": 0}
    page.evaluate(MODEL, [figure._esm, values])
    settled(page)
    assert "".join(boxes(rows(page)[0])) == "the␣kite"
    page.get_by_role("button", name="Next").click()
    assert page.evaluate("[model.get('step'), sent.at(-1)]") == [1, "saved"]
    field(page).fill("Tam")
    assert page.evaluate("model.get('text')") == "Tam"
    page.evaluate("model.set('text', 'Ona'), model.set('step', null)")
    expect(field(page)).to_have_value("Ona")
    settled(page)
    assert boxes(rows(page)[0]) == ["Ona"]
    page.evaluate("void (document.onkeydown = () => sent.push('heard'))")
    field(page).press("Enter")  # a notebook would leave the field
    assert page.evaluate("model.get('text')") == "Ona\n"
    assert not page.evaluate("sent.includes('heard')")
    page.evaluate("unmount()")
    assert not re.search("Ona", page.content())
