"""A model as judge: its scores, its lean to a place and to a length."""

from __future__ import annotations

import math
from itertools import pairwise as neighbours
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmbook.config import GPTConfig
from llmbook.evaluation.judge import (
    ENDINGS,
    LengthBias,
    Pair,
    Verdicts,
    agreement,
    answer_scores,
    length_bias,
    pairwise,
    pointwise,
)
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.train import token_losses

TEXT = "Tam ate the kite. The goat told a story about the kite of Tam."


class Scripted:
    """A judge whose opinion of every text is written down beforehand.

    Its tokens are bytes. The log-odds of place A are ``lean`` plus the
    worth of what stands there minus that of what stands in place B.
    """

    prefix_token = 256

    def __init__(self, lean, worth):
        self.lean, self.worth = lean, worth
        self.seen = []

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode()

    def logprob(self, prompt, letter):
        places = dict(
            line.split(". ", 1)
            for line in prompt.splitlines()
            if line.startswith(("A. ", "B. "))
        )
        odds = self.lean + self.worth[places["A"]] - self.worth[places["B"]]
        return -math.log1p(math.exp(-odds if letter == " A" else odds))

    def loglikelihoods(self, asked):
        results = []
        for context, ids in asked:
            assert context[0] == self.prefix_token
            texts = self.decode(context[1:]), self.decode(ids)
            self.seen.append(texts)
            scored = self.logprob(*texts)
            results.append(SimpleNamespace(logprob=scored, tokens=len(ids)))
        return results


@pytest.fixture(scope="module")
def small():
    """A real model behind the same doors, one text at a time."""
    tokenizer = BPETokenizer.train([TEXT], 280)
    config = GPTConfig(
        vocab_size=280, context_length=64, n_layer=2, n_head=2, n_embd=16
    )
    model = GPT(config, torch.Generator().manual_seed(0)).eval()

    def loglikelihoods(asked):
        results = []
        for context, ids in asked:
            row = [*context[1:], *ids]
            assert context[0] == tokenizer.end_of_text
            losses = token_losses(model, row, context[0])[-len(ids) :]
            results.append(
                SimpleNamespace(logprob=-losses.sum().item(), tokens=len(ids))
            )
        return results

    return SimpleNamespace(
        encode=tokenizer.encode,
        decode=tokenizer.decode,
        prefix_token=tokenizer.end_of_text,
        loglikelihoods=loglikelihoods,
    )


PAIRS = [Pair("Once.", "kind", "rude"), Pair("Twice.", "warm", "a cold one")]
WORTH = {"kind": 0.5, "rude": 0.0, "warm": -0.3, "a cold one": 0.1}


def test_an_answer_s_score_is_its_log_probability_after_the_prompt(small):
    whole, prompt = "Tam ate the kite.", "Tam ate"
    ids = small.encode(whole)
    losses = token_losses_of(small, ids)
    first = len(small.encode(prompt))
    found = answer_scores(small, [(prompt, whole[len(prompt) :])])
    assert found == pytest.approx([-sum(losses[first:])], abs=1e-5)


def token_losses_of(model, ids):
    """−ln p of each token, by the differences of growing prefixes."""
    sums = [
        model.loglikelihoods([([model.prefix_token], ids[:stop])])[0].logprob
        for stop in range(1, len(ids) + 1)
    ]
    return [-(b - a) for a, b in neighbours([0.0, *sums])]


def test_scores_are_divided_by_tokens_or_by_bytes(small):
    asked = [("Tam ate", " the kite."), ("The goat", " — é")]
    whole = answer_scores(small, asked)
    tokens = [len(small.encode(answer)) for _, answer in asked]
    assert answer_scores(small, asked, "token") == pytest.approx(
        whole / tokens
    )
    assert answer_scores(small, asked, "byte") == pytest.approx(
        whole / [10, 7]
    )


def test_an_answer_to_nothing_begins_the_document_once(small):
    found = answer_scores(small, [("", TEXT[:12])])
    ids = small.encode(TEXT[:12])
    wanted = small.loglikelihoods([([small.prefix_token], ids)])[0].logprob
    assert found == pytest.approx([wanted])


def test_a_pointwise_margin_is_better_minus_worse(small):
    pair = Pair("Tam ate", " the kite.", " the goat of Tam.")
    for per in ("answer", "token", "byte"):
        scores = answer_scores(
            small, [(pair.prompt, pair.better), (pair.prompt, pair.worse)], per
        )
        found = pointwise(small, [pair], per)
        assert found == pytest.approx([scores[0] - scores[1]])
        turned = Pair(pair.prompt, pair.worse, pair.better)
        assert pointwise(small, [turned], per) == pytest.approx(-found)


def test_both_orders_are_shown_and_both_letters_asked_for():
    judge = Scripted(0.0, WORTH)
    pairwise(judge, PAIRS[:1])
    shown = ENDINGS.format(prompt="Once.", first="kind", second="rude")
    turned = ENDINGS.format(prompt="Once.", first="rude", second="kind")
    assert judge.seen == [
        (text, letter) for text in (shown, turned) for letter in (" A", " B")
    ]


def test_an_answer_is_shown_on_one_line():
    judge = Scripted(0.0, {"one two": 0.0, "three": 0.0})
    pairwise(judge, [Pair("P", "\n\none\n two", " three ")])
    assert "A. one two\nB. three\n" in judge.seen[0][0]


@pytest.mark.parametrize("lean", [0.0, 0.9, -2.0])
def test_two_orders_tell_the_lean_from_the_opinion(lean):
    verdicts = pairwise(Scripted(lean, WORTH), PAIRS)
    assert verdicts.lean == pytest.approx([lean, lean])
    assert verdicts.margins == pytest.approx([0.5, -0.4])


def test_a_strong_lean_names_one_place_and_contradicts_itself():
    fair = pairwise(Scripted(0.0, WORTH), PAIRS)
    assert (fair.first_share, fair.consistency) == (0.5, 1.0)
    biased = pairwise(Scripted(3.0, WORTH), PAIRS)
    assert (biased.first_share, biased.consistency) == (1.0, 0.0)
    slight = pairwise(Scripted(0.45, WORTH), PAIRS)  # decides the second pair
    assert (slight.first_share, slight.consistency) == (0.75, 0.5)
    turned = pairwise(Scripted(-3.0, WORTH), PAIRS)
    assert (turned.first_share, turned.consistency) == (0.0, 0.0)


def test_a_judge_without_an_opinion_has_a_tie_and_it_counts_half():
    zeros = np.zeros(3)
    verdicts = Verdicts(zeros, zeros)
    assert verdicts.first_share == 0.5
    assert agreement(verdicts.margins) == 0.5


def test_agreement_counts_what_is_positive():
    assert agreement(np.array([3.0, 0.1, -5.0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("margins", [[], [1.0, math.nan], [math.inf]])
def test_agreement_wants_finite_margins(margins):
    with pytest.raises(ValueError, match="finite"):
        agreement(np.array(margins))


def test_a_judge_of_length_alone_is_found_out():
    pairs = [
        Pair("", "long one", "short"),
        Pair("", "long two", "short"),
        Pair("", "short", "long one"),
        Pair("", "equal", "alike"),
    ]
    surplus = np.array([len(p.better) - len(p.worse) for p in pairs])
    assert length_bias(-surplus, pairs) == LengthBias(0.0, 0.0, 1.0)
    assert length_bias(surplus, pairs) == LengthBias(1.0, 1.0, 0.0)
    fair = length_bias(np.array([1.0, 1.0, 1.0, -9.0]), pairs)
    assert fair == (pytest.approx(2 / 3), 1.0, 1.0)


def test_lengths_that_all_go_one_way_are_refused():
    with pytest.raises(ValueError, match="more pairs"):
        length_bias(np.array([1.0]), [Pair("", "longer", "short")])


@pytest.mark.parametrize(
    "template",
    ["{prompt} {first}", "{prompt} {first} {second} {third}", "no field"],
)
def test_a_template_has_its_three_fields(template):
    with pytest.raises(ValueError, match="template has the fields"):
        pairwise(Scripted(0.0, WORTH), PAIRS, template)


@pytest.mark.parametrize(
    "asked, per", [([("P", "answer")], "word"), ([("P", "")], "token")]
)
def test_an_unknown_unit_and_an_empty_answer_are_refused(asked, per):
    with pytest.raises(ValueError, match="answer, token, byte"):
        answer_scores(Scripted(0.0, WORTH), asked, per)
