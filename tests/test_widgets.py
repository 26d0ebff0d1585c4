import base64
import io
import itertools
import math
import statistics

import ipywidgets
import numpy as np
import pypdf
import pytest
import torch
import traitlets

from llmbook import plots
from llmbook.attention import causal_mask, naive_attention
from llmbook.widgets import AttentionExplorer, SamplingExplorer, visible
from llmbook.widgets._base import (
    ENOUGH_CONTRAST,
    LIVE_VARIABLE,
    MAX_BYTES,
    WIDGET_MIME,
    contrast,
    escaped_json,
    text_on,
)
from llmbook.widgets.draws import draw, uniforms

TOKENS = ["Ona", " lost", " the", " kite"]


def attention_weights(L=2, H=3, T=4):
    """Real weights: naive attention over seeded queries and keys."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, L, H, T, 8, generator=generator)
    return naive_attention(q, k, v, causal_mask(T))[1]


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv(LIVE_VARIABLE, "1")


# --------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("token", "written"),
    [
        (" kite", "␣kite"),
        ("\n", "↵"),
        ("\t", "⇥"),
        (b"\xe2\x82", "⟨E2 82⟩"),
        (b"\xe2\x82\xac", "€"),
        ("", "⟨empty⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u2028", "⟨U+2028⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\u0301", "◌\u0301"),
        ("<script>", "<script>"),
        ("字", "字"),
    ],
)
def test_nothing_in_a_token_stays_hidden(token, written):
    assert visible(token) == written


def test_json_in_a_script_closes_nothing():
    text = escaped_json({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)


# ---------------------------------------------------------------- draws


def test_uniforms_are_uniform_and_their_own_for_each_seed():
    numbers = list(itertools.islice(uniforms(5), 20_000))
    assert all(0 <= u < 1 for u in numbers)
    assert statistics.mean(numbers) == pytest.approx(0.5, abs=0.01)
    tenths = np.histogram(numbers, bins=10, range=(0, 1))[0]
    chi_square = ((tenths - 2000) ** 2 / 2000).sum()
    assert chi_square < 27.9  # 0.999 quantile at 9 degrees of freedom
    assert next(uniforms(5)) != next(uniforms(6))


def test_draws_follow_the_probabilities_and_never_take_what_is_cut():
    p = [0.5, 0.0, 0.3, 0.2]
    drawn = draw(p, [0, 2, 3, 1], n=20_000, seed=1)
    shares = np.bincount(drawn, minlength=4) / 20_000
    assert shares[1] == 0
    assert shares == pytest.approx(p, abs=0.015)


# ------------------------------------------------------------ attention


def test_the_explorer_gives_the_weight_of_the_chosen_cell():
    weights = attention_weights()
    figure = AttentionExplorer(weights, TOKENS, layer=1, head=2)
    assert (figure.query, figure.key) == (3, int(weights[1, 2, 3].argmax()))
    figure.query, figure.key = 2, 1
    assert figure.weight == weights[1, 2, 2, 1].item()
    figure.key = 3
    assert figure.weight is None  # masked


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 1, 3, 4, 4)])
def test_fewer_axes_and_a_batch_of_one_are_understood(shape):
    weights = attention_weights()
    given = {2: weights[0, 0], 3: weights[0], 5: weights[:, None]}[len(shape)]
    figure = AttentionExplorer(given, TOKENS)
    assert figure.weights.shape[-2:] == (4, 4)
    assert figure.weights.ndim == 4


@pytest.mark.parametrize(
    ("weights", "tokens", "message"),
    [
        (torch.eye(3), TOKENS, "4 tokens"),
        (torch.ones(2, 2) / 2, TOKENS[:2], "causal_mask"),
        (torch.tensor([[2.0, 0.0], [1.0, 3.0]]), TOKENS[:2], "softmax"),
        (torch.eye(65), ["a"] * 65, "at most 64"),
        (torch.ones(0, 0), [], "expected"),
        (torch.tensor([[1.0, 0.0], [2.0, -1.0]]), TOKENS[:2], "negative"),
        (torch.tensor([[1.0, 0.0], [math.nan, 0.5]]), TOKENS[:2], "NaN"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, tokens, message):
    with pytest.raises(ValueError, match=message):
        AttentionExplorer(weights, tokens)


def test_too_many_heads_are_refused_with_the_mend():
    weights = torch.eye(64).expand(8, 12, 64, 64)
    with pytest.raises(ValueError, match="fewer layers"):
        AttentionExplorer(weights, ["a"] * 64)


def test_attention_that_looks_both_ways_is_shown_when_asked_for():
    figure = AttentionExplorer(
        torch.ones(2, 2) / 2, TOKENS[:2], causal=False, query=0, key=1
    )
    assert figure.weight == 0.5


def test_a_choice_out_of_range_is_an_error_that_names_the_range():
    figure = AttentionExplorer(attention_weights(), TOKENS)
    with pytest.raises(ValueError, match=r"layer is 2; .* 0 to 1"):
        figure.layer = 2
    with pytest.raises(traitlets.TraitError):
        figure.head = "first"
    assert figure.layer == 0
    for wrong in ({"layer": 2}, {"head": 3}, {"query": 4}, {"query": -1}):
        with pytest.raises(ValueError, match=r"expected a value from 0"):
            AttentionExplorer(attention_weights(), TOKENS, **wrong)


# ------------------------------------------------------------- sampling


def test_probabilities_are_temperature_top_k_top_p_min_p_in_that_order():
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0])
    figure = SamplingExplorer(
        logits, list("abcde"), temperature=2.0, top_k=4, top_p=0.8, min_p=0.5
    )
    p = [math.exp(x / 2) for x in (3, 2, 1, 0)]  # after temperature, top-k
    # p/sum = .455 .276 .167 .102: top-p 0.8 needs three of them, and of
    # these min-p wants at least half the first one's, .228: two stay.
    want = [p[0] / (p[0] + p[1]), p[1] / (p[0] + p[1]), 0, 0, 0]
    assert figure.probabilities.tolist() == pytest.approx(want, rel=1e-7)


def test_temperature_zero_is_greedy_and_none_switches_a_filter_off():
    figure = SamplingExplorer(
        [1.0, 2.0, 2.0], list("abc"), top_k=None, top_p=None, min_p=None
    )
    assert (figure.top_k, figure.top_p, figure.min_p) == (0, 1.0, 0.0)
    assert (figure.probabilities > 0).all()
    figure.temperature = 0
    assert figure.probabilities.tolist() == [0, 1, 0]
    figure.draws = 7
    assert figure.counts() == {1: 7}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 4}, "top_k is 4"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"choice": 1}, "choice is 1"),
        ({"draws": 10_001}, "draws is 10001"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingExplorer([0.0, 1.0, 2.0], list("abc"), **values)


def test_logits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="expected 2 logits"):
        SamplingExplorer([0.0, 1.0, 2.0], list("ab"))
    with pytest.raises(ValueError, match="before any filter"):
        SamplingExplorer([0.0, -math.inf], list("ab"))
    with pytest.raises(ValueError, match="one context a row"):
        SamplingExplorer([0.0, 1.0], list("ab"), contexts=["x", "y"])
    with pytest.raises(TypeError, match="top_q"):
        SamplingExplorer([0.0, 1.0], list("ab"), top_q=0.5)


# -------------------------------------------------------- page and print


def figures():
    return [
        AttentionExplorer(attention_weights(), TOKENS, name="fig-a"),
        SamplingExplorer([2.0, 1.0, 0.0], list("abc"), top_k=2, draws=20),
    ]


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.kind)
def test_a_stored_page_holds_the_figure_without_a_widget_manager(figure):
    bundle = figure._repr_mimebundle_()
    assert figure.comm is None
    assert WIDGET_MIME not in bundle
    assert bundle["text/plain"] == figure.alt
    assert bundle[plots.FIGURE_MIME]["name"] == figure.name
    assert len(bundle["text/html"]) < MAX_BYTES
    assert bundle["text/html"].count("</script>") == 2


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.kind)
def test_print_is_one_vector_page_with_readable_numbers(figure):
    pdf = base64.b64decode(figure._repr_mimebundle_()["application/pdf"])
    (page,) = pypdf.PdfReader(io.BytesIO(pdf)).pages
    text = page.extract_text()
    if figure.kind == "attention":
        for weight in figure.weights[0, 0][np.tri(4, dtype=bool)]:
            assert f"{weight:.2f}" in text
    else:
        assert "0.7311" in text and "cut" in text
    assert page.mediabox.width <= 72 * plots.WIDTH + 1


@pytest.mark.parametrize("theme", ["LIGHT", "DARK"])
def test_numbers_are_read_on_every_level_of_the_scale(theme):
    for color in getattr(plots, f"SEQUENTIAL_{theme}"):
        assert contrast(text_on(color), color) >= ENOUGH_CONTRAST


# ----------------------------------------------------------------- live


def test_a_live_figure_is_a_widget_that_links(live):
    figure = AttentionExplorer(attention_weights(), TOKENS)
    assert figure.comm is not None
    bundle = figure._repr_mimebundle_()
    assert bundle[WIDGET_MIME]["model_id"] == figure.model_id
    box = ipywidgets.IntSlider(max=2)
    ipywidgets.link((figure, "head"), (box, "value"))
    box.value = 2
    assert figure.head == 2
    figure.set_state({"layer": 1})  # as a message from the page does
    assert figure.layer == 1
    figure.close()


def test_a_figure_in_a_box_opens_its_model_wherever_it_is_built():
    figure = SamplingExplorer([0.0, 1.0], list("ab"))
    assert figure.comm is None
    box = ipywidgets.VBox([figure])
    assert box.get_state()["children"] == [f"IPY_MODEL_{figure.model_id}"]
    assert figure.widget() is figure
