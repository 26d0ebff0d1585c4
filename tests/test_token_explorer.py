"""The token explorer on Python's side: stages, limits, data and print."""

import base64
import io
import itertools
import json
import zlib

import pypdf
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from llmbook import plots
from llmbook.corpus import RUNNING_SENTENCE
from llmbook.tokenizer import GPT2_PATTERN, BPETokenizer, CharTokenizer, gpt2
from llmbook.widgets import TokenExplorer, token_explorer
from llmbook.widgets._base import LIVE_VARIABLE, MAX_BYTES, WIDGET_MIME
from llmbook.widgets.token_tables import (
    CLASSES,
    gpt2_data,
    python_classes,
    tiktoken_classes,
)

PAIRS = [(b"l", b"o"), (b"lo", b"w"), (b" ", b"low"), (b"e", b"r")]


@pytest.fixture(scope="module")
def tokenizer():
    """Trained on text with accents, so that merges cross into characters."""
    text = "Ona lost the kite, but Tam found the café: été, naïve. " * 20
    return BPETokenizer.train(text, 290)


def explorer(text, **values):
    return TokenExplorer(BPETokenizer(PAIRS), text, **values)


# --------------------------------------------------------------- stages


def test_each_step_does_one_more_merge_everywhere():
    figure = explorer("low lower")
    assert figure.merges == [0, 1, 2, 3]
    written = []
    for step in range(5):
        figure.step = step
        written.append(b"|".join(figure.tokens).decode())
    assert written == [  # by hand
        "l|o|w| |l|o|w|e|r",
        "lo|w| |lo|w|e|r",
        "low| |low|e|r",
        "low| low|e|r",
        "low| low|er",
    ]


def test_a_merge_that_the_text_does_not_need_is_no_step():
    figure = explorer("slower")
    assert figure.merges == [0, 1, 3]
    figure.step = 2
    assert figure.tokens == [b"s", b"low", b"e", b"r"]


@given(text=st.text(max_size=60), share=st.floats(0, 1))
def test_the_last_stage_is_what_the_tokenizer_gives(tokenizer, text, share):
    figure = TokenExplorer(tokenizer, text)
    assert figure.ids == tokenizer.encode(text, on_special="text")
    figure.step = round(share * len(figure.merges))
    assert b"".join(figure.tokens) == text.encode()
    shown = [tokenizer.token_bytes(i) for i in figure.ids]
    assert shown == figure.tokens


def test_special_tokens_in_the_text_stay_characters(tokenizer):
    figure = TokenExplorer(tokenizer, "a<|endoftext|>")
    assert tokenizer.end_of_text not in figure.ids
    assert b"".join(figure.tokens) == b"a<|endoftext|>"


def test_a_text_with_fewer_merges_shows_all_of_them():
    figure = explorer("low lower", step=4)
    figure.text = "lot"
    assert figure.step is None
    assert figure.tokens == [b"lo", b"t"]
    figure.set_state({"text": "lower", "step": 1})  # as the page does
    assert figure.tokens == [b"lo", b"w", b"e", b"r"]


# --------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "a" * 2_001}, "2,001 characters"),
        ({"text": "a\ud83d"}, "lone surrogate"),
        ({"text": "low", "step": 3}, "step is 3; .* 0 to 2"),
        ({"text": "low", "step": -1}, "step is -1"),
    ],
)
def test_what_cannot_be_shown_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        explorer(**values)


def test_another_kind_of_tokenizer_or_pattern_is_refused():
    with pytest.raises(ValueError, match="CharTokenizer; expected a BPE"):
        TokenExplorer(CharTokenizer.train("abc"), "abc")
    with pytest.raises(ValueError, match="GPT-2's pattern only"):
        TokenExplorer(BPETokenizer(PAIRS, pattern=r"\S+|\s+"), "abc")


def test_a_vocabulary_that_no_page_holds_is_refused():
    single = [bytes([value]) for value in range(256)]
    merges = list(itertools.product(single, single))
    with pytest.raises(ValueError, match="smaller vocabulary"):
        TokenExplorer(BPETokenizer(merges), "a")


# ------------------------------------------------------------------- data


def members(runs):
    """The code points of runs (gap, length less one, ...)."""
    found, end = set(), 0
    for gap, more in zip(runs[::2], runs[1::2], strict=True):
        found.update(range(end + gap, end + gap + more + 1))
        end += gap + more
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_the_classes_are_those_of_the_regex_package(name):
    held = members(python_classes()[name])
    one = regex.compile(CLASSES[name].rstrip("+"))
    codes = set(range(0x110000)) - set(range(0xD800, 0xE000))
    assert held == {c for c in codes if one.match(chr(c))}


def test_space_is_what_unicode_says_and_not_what_javascript_says():
    for classes in (python_classes(), tiktoken_classes()):
        spaces = members(classes["spaces"])
        assert {0x85, 0xA0, 0x2028, 0x3000} <= spaces
        assert not {0x1C, 0x1F, 0x200B, 0xFEFF} & spaces


def test_the_packed_vocabulary_is_all_of_gpt2():
    data = gpt2_data()
    content = zlib.decompress(base64.b64decode(data["tokens"]))
    at, tokens = data["count"], []
    for length in content[: data["count"]]:
        tokens.append(content[at : at + length])
        at += length
    assert at == len(content)
    peer = gpt2().encoding
    assert tokens == [peer.decode_single_token_bytes(i) for i in range(50_256)]


def test_a_vocabulary_of_8192_fits_into_a_page():
    single = [bytes([value]) for value in range(256)]
    merges = list(itertools.product(single, single))[: 8_192 - 257]
    figure = TokenExplorer(BPETokenizer(merges), "the kite")
    assert figure.tokenizer.vocab_size == 8_192
    assert len(figure.to_html(b"")) < MAX_BYTES


def test_without_gpt2_the_figure_shows_the_books_tokens(monkeypatch):
    def absent():
        raise RuntimeError("no network, no cache")

    monkeypatch.setattr(token_explorer, "gpt2_data", absent)
    figure = explorer("low")
    assert figure.data["gpt2"] is None
    assert "GPT-2" not in printed(figure)


# ------------------------------------------------------------------ print


def printed(figure):
    """The text of the figure's one printed page."""
    pdf = base64.b64decode(figure._repr_mimebundle_()["application/pdf"])
    (page,) = pypdf.PdfReader(io.BytesIO(pdf)).pages
    assert page.mediabox.width <= 72 * plots.WIDTH + 1
    return page.extract_text()


def test_print_shows_pre_tokens_bytes_stages_ids_and_gpt2(tokenizer):
    figure = TokenExplorer(tokenizer, RUNNING_SENTENCE)
    text = printed(figure)
    for word in ("pre-tokens", "bytes", "after 0 merges: 36 tokens"):
        assert word in text
    n = len(figure.merges)
    assert f"after {n} merges: {len(figure.tokens)} tokens" in text
    assert "GPT-2: 12 tokens" in text
    for token in [*figure.ids, *gpt2().encode(RUNNING_SENTENCE)]:
        assert str(token) in text


def test_print_stops_at_the_step_that_is_set(tokenizer):
    text = printed(TokenExplorer(tokenizer, RUNNING_SENTENCE, step=1))
    assert "after 1 merge: " in text
    assert "after 2" not in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text",
    ["", "$x$ \\frac", "😀🏽 字\n\u200b\x00", "word " * 300, "\u0301" * 50],
)
def test_any_text_can_be_printed(tokenizer, text):
    page = printed(TokenExplorer(tokenizer, text))
    assert ("the first 36 of" in page) == (len(text.encode()) > 36)


def test_the_stored_figure_is_a_page_without_a_widget(tokenizer):
    figure = TokenExplorer(tokenizer, "</script><b>", name="fig-tokens")
    bundle = figure._repr_mimebundle_()
    assert figure.comm is None and WIDGET_MIME not in bundle
    markup = bundle["text/html"]
    assert markup.count("</script>") == 2 and "<b>" not in markup
    start = markup.index('<script type="application/json">') + 32
    data = json.loads(markup[start : markup.index("</script>", start)])
    assert data["state"] == {"text": "</script><b>", "step": None}
    assert len(markup) < MAX_BYTES
    assert tokenizer.pattern == GPT2_PATTERN


def test_a_live_notebook_keeps_one_copy_of_the_data(tokenizer, monkeypatch):
    monkeypatch.setenv(LIVE_VARIABLE, "1")
    figure = TokenExplorer(tokenizer, "the kite")
    bundle = figure._repr_mimebundle_()
    assert bundle[WIDGET_MIME]["model_id"] == figure.model_id
    assert plots.FIGURE_MIME not in bundle
    size = sum(len(value) for value in bundle.values())
    assert size < 2 * MAX_BYTES
    figure.close()
