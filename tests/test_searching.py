"""Beam search, against transformers, a plain search and every text."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmbook.config import GPTConfig
from llmbook.hub import gpt_from_tensors
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.searching import beam_search, extend, wu_penalty
from tests.peers import SMALL, peer_gpt2
from tests.references import LLAMA, spread

TINY = GPTConfig(
    vocab_size=4, context_length=8, n_layer=2, n_head=2, n_embd=16
)
PROMPT = [3, 1, 4]


def no_penalty(length: int) -> float:
    return 1.0


def opinionated(config: GPTConfig, seed: int = 0) -> GPT:
    model = spread(config, seed).double()
    with torch.no_grad():
        model.head_weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def pair():
    """transformers' GPT-2 with spread logits, and ours with its weights."""
    theirs = peer_gpt2(tie_word_embeddings=True)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.mul_(6.0)
    config = GPTConfig(
        vocab_size=SMALL["vocab_size"],
        context_length=SMALL["n_positions"],
        n_layer=SMALL["n_layer"],
        n_head=SMALL["n_head"],
        n_embd=SMALL["n_embd"],
    )
    return theirs, gpt_from_tensors(theirs.state_dict(), config).eval()


@pytest.mark.parametrize("beams", [2, 3, 8])
@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("stops", [(), (7, 20, 33)])
def test_beams_equal_transformers(pair, beams, power, stops):
    theirs, ours = pair
    expected = theirs.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, 3),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        max_new_tokens=9,
        length_penalty=power,
        early_stopping="never",
        eos_token_id=list(stops) or None,
        pad_token_id=59,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = beam_search(
        ours,
        PROMPT,
        9,
        beams=beams,
        stop_tokens=stops,
        penalty=lambda length: length**power,
    )
    rows = [row[3:] for row in expected.sequences.tolist()]
    for mine, row in zip(found, rows, strict=True):
        assert mine.ids + [59] * (len(row) - len(mine.ids)) == row
    torch.testing.assert_close(
        torch.tensor([f.score for f in found]),
        expected.sequences_scores,
        atol=1e-4,
        rtol=1e-4,
    )


def every_text(model: GPT, prompt: list[int], count: int, stop: int):
    """All continuations and their log-probabilities, one by one."""
    V = model.config.vocab_size
    texts = {
        tuple(
            itertools.chain(
                itertools.takewhile(lambda t: t != stop, row),
                [stop] if stop in row else [],
            )
        )
        for row in itertools.product(range(V), repeat=count)
    }
    for text in texts:
        logits, _ = model(torch.tensor([[*prompt, *text]]))
        logprobs = logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(text) - 1)
        yield (
            text,
            math.fsum(
                float(logprobs[place, token])
                for place, token in zip(places, text, strict=True)
            ),
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [no_penalty, wu_penalty])
def test_with_room_for_all_texts_the_best_of_all_is_found(seed, penalty):
    model = opinionated(TINY, seed)
    with torch.no_grad():
        every = {
            text: total / penalty(len(text))
            for text, total in every_text(model, [1, 2], 4, stop=0)
        }
    found = beam_search(
        model, [1, 2], 4, beams=len(every), stop_tokens=[0], penalty=penalty
    )
    ranked = sorted(every, key=every.get, reverse=True)
    assert [tuple(f.ids) for f in found[:20]] == ranked[:20]
    for one in found:
        assert math.isclose(one.score, every[tuple(one.ids)], rel_tol=1e-9)


def plain_search(model, prompt, count, beams):
    """The same without a cache, without stopping, in lists."""
    live = [([], 0.0)]
    for _ in range(count):
        longer = []
        for text, total in live:
            logits, _ = model(torch.tensor([[*prompt, *text]]))
            row = logits[0, -1].log_softmax(-1).tolist()
            longer += [([*text, i], total + x) for i, x in enumerate(row)]
        live = sorted(longer, key=lambda pair: -pair[1])[:beams]
    return live


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 1, "window": 3}])
def test_the_cache_follows_the_beams_of_any_model(changes):
    config = GPTConfig(
        vocab_size=11,
        context_length=12,
        n_layer=2,
        n_head=2,
        n_embd=16,
        **LLAMA,
        **changes,
    )
    model = opinionated(config, seed=5)
    found = beam_search(model, [1, 2, 3], 8, beams=5, penalty=no_penalty)
    with torch.no_grad():
        plain = plain_search(model, [1, 2, 3], 8, beams=5)
    assert [f.ids for f in found] == [text for text, _ in plain]
    for one, (_, total) in zip(found, plain, strict=True):
        assert math.isclose(one.logprob, total, rel_tol=1e-9)


def test_one_beam_is_greedy(pair):
    ours = pair[1]
    [found] = beam_search(ours, PROMPT, 10, beams=1)
    greedy = generate(ours, PROMPT, 10, temperature=0)
    assert found.ids == greedy[len(PROMPT) :]


def test_the_best_text_need_not_begin_with_the_best_token():
    first = torch.tensor([[0.6, 0.4]]).log()
    rows, tokens, totals = extend(torch.zeros(1), first, 2)
    assert tokens.tolist() == [0, 1]
    # After token 0 all is open, after token 1 all is clear.
    then = torch.tensor([[0.5, 0.5], [0.95, 0.05]]).log()
    rows, tokens, totals = extend(totals, then, 1)
    assert (rows.tolist(), tokens.tolist()) == ([1], [0])
    assert math.isclose(totals.exp().item(), 0.38, rel_tol=1e-6)


def test_the_length_penalty_worked_by_hand():
    assert wu_penalty(1) == wu_penalty(9, alpha=0.0) == 1.0
    assert wu_penalty(7, alpha=1.0) == 2.0
    assert math.isclose(wu_penalty(19, alpha=0.5), 2.0)


def test_searching_leaves_the_mode_of_the_model_as_it_was(pair):
    ours = pair[1].train()
    beam_search(ours, PROMPT, 2)
    assert ours.training
    ours.eval()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"beams": True}, "beams is True"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 14}, "context of 16"),
        ({"prompt": []}, "at least one token"),
    ],
)
def test_what_cannot_be_searched_is_refused(pair, changes, words):
    arguments = {"prompt": PROMPT, "max_new_tokens": 4, **changes}
    with pytest.raises(ValueError, match=words):
        beam_search(pair[1], **arguments)


def test_a_broken_model_is_refused_by_name():
    model = spread(TINY, 0)
    with torch.no_grad():
        model.head_weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="a row of logits has NaN"):
        beam_search(model, [3, 1], 3)
