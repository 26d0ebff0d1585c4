"""Word problems of Lull: exact, well split, well told, and right."""

from __future__ import annotations

import json
import math
import os
import random
import re
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llmbook.corpus import benchmarks
from llmbook.corpus.world import engine, lexicon, sums, tales

GRAMMAR = engine.Grammar({**tales.WORDS, **sums.RULES}, (sums.KIND,))
EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
SIDES = ("seen", "unseen")


def documents(count, side="any", grammar=GRAMMAR, seed=0):
    for index in range(count):
        source = random.Random(f"{seed}/{side}/{index}")
        yield engine.write(grammar, engine.at_random(source), side)


@pytest.fixture(scope="module")
def sample():
    return {side: list(documents(1000, side)) for side in SIDES}


@pytest.fixture(scope="module")
def texts(sample):
    return [d.text for side in SIDES for d in sample[side]]


# --- right -----------------------------------------------------------------


def test_every_equation_is_true_and_the_last_one_is_the_answer(texts):
    for text in texts:
        found = EQUATION.findall(text)
        assert len(found) in (1, 2)
        for a, op, b, result in found:
            a, b = int(a), int(b)
            right = {"+": a + b, "-": a - b, "*": a * b}[op]
            assert int(result) == right, text
            assert 0 <= right <= 99
        assert text.endswith(f"\n#### {found[-1][3]}")


def test_a_worked_answer_uses_the_numbers_of_its_question(texts):
    for text in texts:
        question, worked = text.split("\nAnswer:")
        told = re.findall(r"\d+", question)
        steps = EQUATION.findall(worked)
        used = [steps[0][0], *(b for _, _, b, _ in steps)]
        assert told == used, text
        if len(steps) == 2:
            assert steps[1][0] == steps[0][3], text


def test_what_a_document_says_it_adds_up_is_what_it_adds_up(sample):
    for side in SIDES:
        for document in sample[side]:
            written = tuple(
                (op, int(a), int(b))
                for a, op, b, _ in EQUATION.findall(document.text)
            )
            assert document.combination == written


def test_one_thing_is_singular_and_several_are_plural(texts):
    one = {**sums.ITEMS, **sums.CREATURES}
    one |= {many: single for single, many in sums.GOODS.values()}
    known = "|".join(sorted({*one, *one.values()}, key=len, reverse=True))
    counted = Counter()
    for text in texts:
        for number, noun in re.findall(rf"\b(\d+) ({known})\b", text):
            assert (noun in one) == (number != "1"), text
            counted[number == "1"] += 1
    assert counted[True] > 100


def test_pronouns_agree_with_the_only_person_named(texts):
    seen = 0
    for text in texts:
        names = {n for n in lexicon.PEOPLE if re.search(rf"\b{n}\b", text)}
        if len(names) == 1:
            wrong = {"she": "he|him|his", "he": "she|her"}
            pronoun = lexicon.PEOPLE[names.pop()][0]
            assert not re.search(rf"(?i)\b({wrong[pronoun]})\b", text), text
            seen += 1
    assert seen > 500


def test_problems_are_short_and_well_formed(texts):
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 20 and max(lengths) <= 80
    for text in texts:
        assert not set(text) & set("{}<>") and "  " not in text
        assert re.fullmatch(
            r"Question: [A-Z][^\n]+\?\nAnswer: [^\n]+\.\n#### \d+", text
        )
        for sentence in re.split(r"(?<=[.?]) ", text.split("\n")[0][10:]):
            assert sentence[0].isupper() or sentence[0].isdigit(), text


def test_a_villager_sells_what_the_villager_sells_elsewhere():
    for name, (one, many) in sums.GOODS.items():
        assert lexicon.PEOPLE[name][1] in (many, one.rpartition(" of ")[2])
    assert set(sums.GOODS) == set(lexicon.PEOPLE)


# --- exact -----------------------------------------------------------------


def test_five_thousand_problems_read_back_to_their_choices():
    for document in documents(5000, seed="read"):
        assert engine.read(GRAMMAR, document.text) == document


def shrunken(seed: int) -> engine.Grammar:
    """Every plot and sign, over a few words and numbers."""

    def order(option):  # of a number, the same in every rule
        return random.Random(f"{seed}/{option.tag}").random()

    def cut(rule):
        kept, seen = [], Counter()
        for option in sorted(rule.options, key=order):
            number = isinstance(option.tag, int)
            mark = "number" if number else str(option.tag)[0]
            room = 3 if number else 2 if rule.conditions else 1
            if seen[mark] < room:
                seen[mark] += 1
                kept.append(option)
        return engine.Rule(rule.name, kept)

    def later(make, made):
        def rule(scene):
            full = make(scene)
            if full.name not in made:
                made[full.name] = cut(full)
            return made[full.name]

        return rule

    rules = {
        name: cut(rule) if isinstance(rule, engine.Rule) else later(rule, {})
        for name, rule in GRAMMAR.rules.items()
    }
    mass = math.fsum(
        p for c, p in sums.chances(rules).items() if c in sums.HELD
    )
    return engine.Grammar(rules, (replace(sums.KIND, held_mass=mass),))


@pytest.fixture(scope="module", params=range(4))
def small(request):
    grammar = shrunken(request.param)
    if not 0 < grammar.kinds[0].held_mass < 1:
        pytest.skip("nothing of so small a grammar is held")
    return grammar


@pytest.mark.parametrize("side", ["any", *SIDES])
def test_the_probabilities_of_all_problems_sum_to_one(small, side):
    everything = list(engine.enumerate_documents(small, side))
    total = math.fsum(math.exp(d.logprob) for d in everything)
    assert total == pytest.approx(1, abs=1e-9)
    assert len({d.text for d in everything}) == len(everything) > 30


@pytest.mark.parametrize("side", ["any", *SIDES])
def test_the_mean_of_sampled_surprises_is_the_entropy(small, side):
    everything = list(engine.enumerate_documents(small, side))
    entropy = -math.fsum(math.exp(d.logprob) * d.logprob for d in everything)
    surprises = [-d.logprob for d in documents(1000, side, small)]
    error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - entropy) < 4 * error + 1e-9


def test_the_chances_of_combinations_are_those_of_their_problems(small):
    counted = Counter()
    for document in engine.enumerate_documents(small):
        counted[document.combination] += math.exp(document.logprob)
    assert dict(counted) == pytest.approx(sums.chances(small.rules))


def test_sums_are_held_as_often_as_claimed():
    count = 4000
    held = sum(d.combination in sums.HELD for d in documents(count, seed=7))
    mass = sums.KIND.held_mass
    assert math.fsum(sums.chances(sums.RULES).values()) == pytest.approx(1)
    assert abs(held / count - mass) < 4 * math.sqrt(mass / count)


# --- the split -------------------------------------------------------------


def test_no_problem_of_training_has_a_held_sum(sample):
    for side in SIDES:
        for document in sample[side]:
            held = any(map(sums.is_held, document.combination))
            assert held == (side == "unseen")


def test_every_digit_of_every_number_is_on_both_sides():
    steps = {step for both in sums.chances(sums.RULES) for step in both}
    sides = {True: set(), False: set()}
    for op, a, b in steps:
        result = {"+": a + b, "-": a - b, "*": a * b}[op]
        for place, number in (("a", a), ("b", b), ("result", result)):
            sides[sums.is_held((op, a, b))] |= {
                (op, place, "units", number % 10),
                (op, place, "tens", number // 10),
            }
    assert sides[True] == sides[False]
    assert {op for op, *_ in sides[True]} == set("+-*")
    for op in "+-*":
        both = [d for o, p, w, d in sides[True] if (o, p) == (op, "result")]
        assert set(both) == set(range(10))


def test_every_villager_thing_and_plot_is_on_both_sides(sample):
    for side in SIDES:
        text = " ".join(d.text for d in sample[side])
        for word in (*lexicon.PEOPLE, *sums.ITEMS, *sums.CREATURES):
            assert re.search(rf"\b{word}\b", text), (side, word)
        steps = Counter(
            tuple(op for op, _, _ in d.combination) for d in sample[side]
        )
        assert set(steps) >= {
            (first,) if second == "" else (first, second)
            for first in "+-*"
            for second in ("", "+", "-")
        }


# --- the benchmark ---------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_rows_of_gsm8k_are_problems_of_their_side(side):
    rows = sums.gsm8k_rows(side, 200, seed=3)
    assert len({row["question"] for row in rows}) == 200
    for row in rows:
        plain = re.sub("<<.*?>>", "", row["answer"])
        text = f"Question: {row['question']}\nAnswer: {plain}"
        found = engine.read(GRAMMAR, text, side)
        assert found.kind == "sum"
        notes = re.findall(r"<<(\d+)([-+*])(\d+)=(\d+)>>", row["answer"])
        assert notes == EQUATION.findall(plain)
    assert rows == sums.gsm8k_rows(side, 200, seed=3)


def test_the_loader_of_gsm8k_reads_our_rows(tmp_path):
    rows = sums.gsm8k_rows("unseen", 20)
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.parent.mkdir()
    lines = (json.dumps(row) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    problems = benchmarks.load_gsm8k("test", folder=tmp_path)
    assert [p.question for p in problems] == [r["question"] for r in rows]
    for problem in problems:
        assert EQUATION.findall(
            re.sub("<<.*?>>", "", problem.answer)
        )[-1][3] == problem.result  # fmt: skip


@pytest.mark.data
def test_our_rows_have_the_keys_and_the_form_of_gsm8k():
    data = os.environ.get(benchmarks.DATA_VARIABLE)
    path = Path(data or "") / "gsm8k" / "test.jsonl"
    if not data or not path.is_file():
        pytest.skip(f"needs {benchmarks.DATA_VARIABLE} with gsm8k in it")
    lines = path.read_text(encoding="utf-8").splitlines()
    real = [json.loads(line) for line in lines]
    ours = sums.gsm8k_rows("seen", 50)
    form = re.compile(r".+<<[^<>]+=[^<>]+>>.+\n#### -?[\d,]+", re.S)
    assert {tuple(row) for row in real} == {tuple(row) for row in ours}
    for rows, least in ((real, 0.95), (ours, 1.0)):
        matching = sum(bool(form.fullmatch(row["answer"])) for row in rows)
        assert matching >= least * len(rows)
