"""The attention explorer on Python's side: sums, switches, print."""

import base64
import copy
import io
import json
import math
from decimal import ROUND_HALF_UP, Decimal

import pypdf
import pytest
import torch

from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, BPETokenizer
from llmbook.widgets import AttentionExplorer
from llmbook.widgets._base import LIVE_VARIABLE
from llmbook.widgets.attention_sums import UNIT, rounded, units, written

TEXT = "Ona lost the kite, but Tam found it."
SHAPES = {
    "learned": {},
    "rotary, grouped heads, window": {
        "positions": "rotary",
        "n_kv_head": 2,
        "window": 3,
        "norm": "rmsnorm",
    },
    "alibi": {"positions": "alibi"},
    "none, multi-query": {"positions": "none", "n_kv_head": 1},
}
LAST_PLACE = Decimal("0.0001")


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(TEXT * 3, 270, special_tokens=[END_OF_TEXT])


def small_model(tokenizer, **shape):
    """A small model whose attention is far from even."""
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        n_layer=2,
        n_head=4,
        n_embd=32,
        init_std=0.4,
        **shape,
    )
    return GPT(config, torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name)
def model(request, tokenizer):
    return small_model(tokenizer, **SHAPES[request.param])


@pytest.fixture(scope="module")
def plain_model(tokenizer):
    return small_model(tokenizer)


@pytest.fixture(scope="module")
def figure(model, tokenizer):
    return AttentionExplorer.from_model(model, tokenizer, TEXT)


def each_cell(figure, layers=(0, 1), heads=(0, 3)):
    """Walk through cells of several heads: (layer, head, query, key)."""
    T = len(figure.tokens)
    for layer in layers:
        for head in heads:
            for query in range(0, T, 3):
                for key in range(0, T, 2):
                    figure.layer, figure.head = layer, head
                    figure.query, figure.key = query, key
                    yield layer, head, query, key


# ----------------------------------------------------------------- sums


def half_up(x):
    return x.quantize(LAST_PLACE, ROUND_HALF_UP)


def shown(amount):
    return Decimal(written(amount).replace("−", "-"))


def test_every_step_follows_from_the_numbers_of_the_step_before(figure):
    for layer, head, query, key in each_cell(figure):
        row = figure.sums
        q, k = (vectors[layer, head] for vectors in figure.vectors)
        pairs = zip(q[query].tolist(), k[key].tolist(), strict=True)
        products = [half_up(shown(a) * shown(b)) for a, b in pairs]
        assert list(map(shown, row.products)) == products
        total, root = shown(row.totals[key]), shown(row.root)
        assert total == sum(products)
        assert root == half_up(Decimal(len(products)).sqrt())
        assert shown(row.scores[key]) == half_up(total / root)
        if not row.open[key]:
            assert row.powers[key] == row.weights[key] == 0
            continue
        pairs = zip(row.scores, row.open, strict=True)
        most = max(shown(s) for s, is_open in pairs if is_open)
        power = half_up((shown(row.scores[key]) - most).exp())
        assert shown(row.powers[key]) == power
        share = power / sum(map(shown, row.powers))
        assert shown(row.weights[key]) == half_up(share)


def test_the_shown_weight_is_the_models_but_for_its_last_places(figure):
    for *_, key in each_cell(figure):
        gap = figure.sums.weights[key] / UNIT - (figure.weight or 0)
        assert abs(gap) < 5e-4


def test_the_mask_is_the_models(model, figure):
    T, window = len(figure.tokens), model.config.window
    for query in range(T):
        figure.query = query
        first = 0 if window is None else max(0, query - window + 1)
        opened = [first <= key <= query for key in range(T)]
        assert list(figure.sums.open) == opened


def test_weights_queries_and_keys_are_those_of_the_models_own_pass(
    model, tokenizer, figure
):
    ids = torch.tensor([tokenizer.encode(TEXT)])
    own = model.attention_weights(ids)[:, 0]
    torch.testing.assert_close(
        torch.from_numpy(figure.weights), own, atol=1e-5, rtol=0
    )
    group = 4 // model.config.kv_heads
    keys = figure.vectors[1]
    for head in range(4):
        first = head // group * group  # of those that share the keys
        assert (keys[:, head] == keys[:, first]).all()
    extra = 2 if model.config.positions == "alibi" else 0
    assert keys.shape[-1] == model.config.head_dim + extra
    assert bool(figure.data["note"]) == (
        model.config.positions in ("rotary", "alibi")
    )


def test_halves_are_rounded_away_from_zero_and_zero_has_no_sign():
    assert [rounded(x) for x in (0.5, -0.5, 1.4, -1.6)] == [1, -1, 1, -2]
    assert written(0) == "0.0000"
    assert units([[-0.00001]]).tolist() == [[0]]
    assert written(-1) == "−0.0001"


# ------------------------------------------------------------- switches


def without(model, heads):
    """A copy of ``model`` whose ``heads`` are cut out of the projection."""
    other = copy.deepcopy(model)
    D = model.config.head_dim
    for layer, head in heads:
        output = other.blocks[layer].attention.output
        with torch.no_grad():
            output.weight[:, head * D : (head + 1) * D] = 0
    return other


@pytest.mark.parametrize("off", [[(1, 2)], [(0, 1), (1, 0), (1, 3)]])
def test_the_prediction_is_that_of_a_model_without_the_heads(
    model, tokenizer, off
):
    figure = AttentionExplorer.from_model(model, tokenizer, TEXT, off=off)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    with torch.no_grad():
        before = model(ids)[0][0].softmax(-1)
        after = without(model, off)(ids)[0][0].softmax(-1)
    names = [tokenizer.decode([i]) for i in range(256, tokenizer.vocab_size)]
    for place in range(0, len(figure.tokens), 4):
        figure.query = place
        b, a = before[place], after[place]
        listed = figure.prediction
        assert listed[0][1] == pytest.approx(b.max().item(), rel=1e-4)
        best = max(p for _, _, p in listed)
        assert best == pytest.approx(a.max().item(), rel=1e-4)
        ranked = [p for _, p, _ in listed]
        assert ranked == sorted(ranked, reverse=True)
        for name, one, other in listed:
            if name.replace("␣", " ") not in names:
                continue
            i = 256 + names.index(name.replace("␣", " "))
            assert one == pytest.approx(b[i].item(), rel=1e-4)
            assert other == pytest.approx(a[i].item(), rel=1e-4)


def test_a_page_holds_every_single_switch_and_the_model_stays_as_it_was(
    model, tokenizer, figure
):
    rows = figure.data["singly"]["rows"]
    singles = [f"{layer}-{head}" for layer in (0, 1) for head in range(4)]
    assert list(rows) == ["", *singles]
    ids = torch.tensor([tokenizer.encode(TEXT)])
    after = without(model, [(1, 3)])(ids)[0][0].softmax(-1)
    for place, listed in enumerate(rows["1-3"]):
        for i, _, p in listed:
            assert p == pytest.approx(after[place, i].item(), rel=1e-4)
    assert figure.outcome == {}
    following = [row[0] for row in rows[""][0]]
    assert ids[0, 1].item() in following  # what the text goes on with


def test_several_heads_bring_their_outcome_along(model, tokenizer):
    figure = AttentionExplorer.from_model(model, tokenizer, TEXT)
    figure.off = [(1, 2), (0, 1)]
    assert figure.off == [[0, 1], [1, 2]]
    assert figure.outcome["name"] == "0-1.1-2"
    listed = figure.outcome["rows"][-1]
    figure.query = len(figure.tokens) - 1
    assert [p for _, _, p in listed] == [p for _, _, p in figure.prediction]
    assert json.loads(json.dumps(figure.outcome))


def test_a_training_model_trains_on_and_drops_nothing_here(tokenizer):
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, n_head=2, n_embd=8, dropout=0.5
    )
    model = GPT(config).train()
    one, other = (
        AttentionExplorer.from_model(model, tokenizer, TEXT).data
        for _ in range(2)
    )
    assert model.training
    assert one["singly"] == other["singly"]
    assert one["weights"] == other["weights"]


# ------------------------------------------------------------- refusals


def test_what_cannot_be_opened_or_switched_is_refused(figure):
    plain = AttentionExplorer([[1.0, 0.0], [0.5, 0.5]], ["a", "b"])
    assert plain.sums is None and plain.prediction == []
    with pytest.raises(ValueError, match="queries= and keys="):
        plain.opened = True
    with pytest.raises(ValueError, match="from_model"):
        plain.off = [(0, 0)]
    for wrong in ([(2, 0)], [(0, 4)], [(-1, 0)], [(0,)], [(0.5, 1)], [0, 1]):
        with pytest.raises(ValueError, match="heads 0 to 3"):
            figure.off = wrong
    assert plain.opened is False and figure.off == []


def test_a_head_named_twice_is_off_once(plain_model, tokenizer):
    figure = AttentionExplorer.from_model(
        plain_model, tokenizer, TEXT, off=[(1, 2), (1, 2)]
    )
    assert figure.off == [[1, 2]] and figure.outcome == {}


def test_what_is_shown_stays_when_the_model_is_trained_on(tokenizer):
    model = small_model(tokenizer)
    figure = AttentionExplorer.from_model(model, tokenizer, TEXT, off=[(0, 1)])
    before = figure.prediction
    with torch.no_grad():
        model.blocks[0].attention.output.weight.mul_(-1)
    assert figure.prediction == before


def test_a_model_that_broke_down_is_refused_with_the_reason(tokenizer):
    model = small_model(tokenizer)
    with torch.no_grad():
        model.final_norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="NaN as logits"):
        AttentionExplorer.from_model(model, tokenizer, TEXT)


def test_numbers_too_large_for_their_last_place_are_refused():
    q = torch.full((1, 1, 2, 4), 3e5)
    weights = [[1.0, 0.0], [0.5, 0.5]]
    k = torch.zeros_like(q)
    with pytest.raises(ValueError, match="hold 300000"):
        AttentionExplorer(weights, ["a", "b"], queries=q, keys=k)


def test_queries_and_keys_of_another_head_are_refused():
    T, D = 3, 4
    q, k = torch.randn(2, 1, 2, T, D, generator=torch.manual_seed(1))
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)
    closed = torch.ones(T, T).triu(1).bool()
    weights = scores.masked_fill(closed, -math.inf).softmax(-1)
    tokens = list("abc")
    AttentionExplorer(weights, tokens, queries=q, keys=k)
    with pytest.raises(ValueError, match="other weights"):
        AttentionExplorer(weights, tokens, queries=q, keys=k.flip(1))
    with pytest.raises(ValueError, match="give both"):
        AttentionExplorer(weights, tokens, queries=q)
    with pytest.raises(ValueError, match="Repeat keys"):
        AttentionExplorer(weights, tokens, queries=q, keys=k[:, :1])
    with pytest.raises(ValueError, match="mask is closed"):
        AttentionExplorer(weights, tokens, window=2)


def test_too_much_for_a_page_is_refused_and_fits_without_the_numbers(
    tokenizer,
):
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, n_layer=2, n_head=4, n_embd=512
    )
    model, ids = GPT(config), tokenizer.encode(TEXT * 2)[:40]
    with pytest.raises(ValueError, match="numbers=False"):
        AttentionExplorer.from_model(model, tokenizer, ids)
    figure = AttentionExplorer.from_model(model, tokenizer, ids, numbers=False)
    assert figure.weights.shape == (2, 4, 40, 40)
    assert figure.sums is None


# ------------------------------------------------------- page and print


def printed(figure):
    """The figure's one page as text."""
    pdf = base64.b64decode(figure._repr_mimebundle_()["application/pdf"])
    (page,) = pypdf.PdfReader(io.BytesIO(pdf)).pages
    return page.extract_text()


def test_the_running_models_figure_is_a_modest_part_of_a_page(tokenizer):
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        n_layer=3,
        n_head=4,
        n_embd=128,
        init_std=0.2,
    )
    ids = tokenizer.encode(TEXT)[:12]
    figure = AttentionExplorer.from_model(GPT(config), tokenizer, ids)
    assert len(figure.figure().to_html()) < 300_000


def test_print_shows_the_sum_and_the_switch(plain_model, tokenizer):
    figure = AttentionExplorer.from_model(
        plain_model,
        tokenizer,
        TEXT,
        layer=1,
        head=2,
        query=5,
        key=3,
        opened=True,
        off=[(1, 2)],
    )
    text = printed(figure)
    row = figure.sums
    assert written(row.totals[3]) in text
    if row.open[3]:
        assert f"the model, which rounds nothing: {figure.weight:.6f}" in text
    for product in sorted(row.products, key=abs)[-3:]:
        assert written(product) in text
    assert "crossed out" in text
    for _, before, after in figure.prediction:
        assert f"{before:.4f} → {after:.4f}" in text


def test_print_says_that_a_closed_cell_weighs_nothing(plain_model, tokenizer):
    figure = AttentionExplorer.from_model(
        plain_model, tokenizer, TEXT, query=1, key=4, opened=True
    )
    assert figure.weight is None
    assert "closed by the mask: the weight is 0" in printed(figure)


def test_tokens_that_read_as_mathematics_are_printed_as_they_are():
    weights = [[1.0, 0.0], [0.5, 0.5]]
    q = k = torch.zeros(1, 1, 2, 4)
    figure = AttentionExplorer(
        weights, ["$x$", "a$"], queries=q, keys=k, opened=True
    )
    assert "a$ asks $x$" in printed(figure)


def test_print_counts_many_heads_that_are_off(plain_model, tokenizer):
    off = [(0, head) for head in range(4)]
    figure = AttentionExplorer.from_model(
        plain_model, tokenizer, TEXT, off=off
    )
    assert "filled: 4 heads off" in printed(figure)


def test_live_python_runs_what_the_page_asks_for(
    plain_model, tokenizer, monkeypatch
):
    monkeypatch.setenv(LIVE_VARIABLE, "1")
    figure = AttentionExplorer.from_model(plain_model, tokenizer, TEXT)
    figure.set_state({"off": [[1, 3], [0, 0]], "opened": True})
    assert figure.outcome["name"] == "0-0.1-3"
    assert figure.opened
    figure.close()
