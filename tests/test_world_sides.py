"""What is held out of training: exactly, by combination, on both sides."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from functools import cache

import pytest

from llmbook.corpus import load_corpus, world
from llmbook.corpus.world import (
    LULL,
    engine,
    facts,
    functions,
    lexicon,
    questions,
    requests,
    sums,
    tales,
)

SIDES = ("seen", "unseen")
HOLDING = [kind for kind in LULL.kinds if kind.held]
MINE = ("story", "fact", "question", "choice", "instruction")
KEPT = {  # of the rules that decide a combination: two of each, some held
    "person": ("Ona", "Tam"),
    "who": ("Ona", "Tam"),
    "where": ("mill", "pond"),
    "wish": ("see the far side of the sea", "open the blue door in the wood"),
    "what": ("see the far side of the sea", "open the blue door in the wood"),
    "noun": ("kite", "balloon"),
    "a-noun": ("a kite", "a balloon"),
}
ASKED = ("sells", "fears", "odd", "forbidden", "tools")  # with letters


def cut(name, rule):
    """One option of each tag and need; of names and nouns, two."""
    kept, seen = [], set()
    for option in rule.options:
        mark = (option.tag, option.needs, option.unless)
        if name in KEPT:
            fits = option.template in KEPT[name]
        elif name == "stem":
            fits = mark not in seen and option.tag.split()[1] in ASKED
        else:
            fits = mark not in seen
        if fits:
            seen.add(mark)
            kept.append(option)
    return world.Rule(rule.name, kept)


def cut_later(name, make):
    def rule(scene):
        full = make(scene)
        if name != "behind-letter":
            return cut(name, full)
        values = questions.VALUES[scene["topic"]]
        right = [v for v in values if scene["subject"] in values[v]]
        wrong = [v for v in values if v not in right][:3]
        kept = [o for o in full.options if o.tag in right + wrong]
        return world.Rule(full.name, kept)

    return rule


@cache
def small(kind_name: str) -> engine.Grammar:
    """A grammar of one real kind over few words."""
    rules = {
        name: (cut if isinstance(rule, world.Rule) else cut_later)(name, rule)
        for name, rule in LULL.rules.items()
    }
    make = {
        "story": tales.story_kind,
        "fact": lambda share, rules: engine.Kind(
            "fact", share, facts.tell_fact
        ),
        "question": questions.question_kind,
        "choice": questions.choice_kind,
        "instruction": requests.instruction_kind,
    }
    return engine.Grammar(rules, (make[kind_name](1.0, rules),))


@cache
def everything(kind_name: str, side: str) -> list[world.Written]:
    return list(world.enumerate_documents(small(kind_name), side))


HAS_SIDE = [
    (k, s) for k in MINE for s in SIDES if (k, s) != ("fact", "unseen")
]


@pytest.mark.parametrize("kind, side", HAS_SIDE)
def test_on_each_side_all_documents_of_a_kind_sum_to_one(kind, side):
    documents = everything(kind, side)
    total = math.fsum(math.exp(d.logprob) for d in documents)
    assert total == pytest.approx(1, abs=1e-9)
    assert len({d.text for d in documents}) == len(documents) > 5


@pytest.mark.parametrize("name", [k for k in MINE if k != "fact"])
def test_the_held_mass_is_what_counting_all_documents_gives(name):
    (kind,) = small(name).kinds
    held = math.fsum(
        math.exp(d.logprob)
        for d in everything(name, "any")
        if d.combination in kind.held
    )
    assert 0 < held < 1
    assert kind.held_mass == pytest.approx(held, abs=1e-12)


@pytest.mark.parametrize("kind, side", HAS_SIDE)
def test_sampled_surprises_have_the_mean_that_counting_gives(kind, side):
    everyone = everything(kind, side)
    entropy = -math.fsum(math.exp(d.logprob) * d.logprob for d in everyone)
    drawn = world.documents(1500, 1, side, small(kind))
    surprises = [-d.logprob for d in drawn]
    error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - entropy) < 4 * error + 1e-9


@pytest.mark.parametrize("kind, side", HAS_SIDE)
def test_each_document_of_a_side_reads_back_on_that_side_alone(kind, side):
    grammar = small(kind)
    other = "seen" if side == "unseen" else "unseen"
    for written in everything(kind, side)[::7]:
        assert world.read(grammar, written.text, side) == written
        if kind != "fact":
            assert world.logprob(written.text, other, grammar) == -math.inf


@pytest.fixture(scope="module")
def sample():
    return list(world.documents(10_000, "sides"))


def test_the_held_share_of_a_large_sample_is_the_held_mass(sample):
    for kind in HOLDING:
        held = [
            d.combination in kind.held for d in sample if d.kind == kind.name
        ]
        error = math.sqrt(kind.held_mass * (1 - kind.held_mass) / len(held))
        assert abs(statistics.mean(held) - kind.held_mass) < 4 * error


def test_kinds_come_in_their_shares(sample):
    counts = Counter(d.kind for d in sample)
    assert math.fsum(k.share for k in LULL.kinds) == pytest.approx(1)
    for kind in LULL.kinds:
        error = math.sqrt(kind.share * (1 - kind.share) / len(sample))
        found = counts[kind.name] / len(sample)
        assert abs(found - kind.share) < 4 * error


def test_documents_read_back_to_their_choices_as_one_kind(sample):
    for written in sample[::10]:  # more of them in the slow test below
        assert world.read(LULL, written.text) == written


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_twenty_thousand_documents_of_a_side_read_back_to_theirs(side):
    for written in world.documents(20_000, "many", side):
        assert world.read(LULL, written.text, side) == written


@pytest.mark.parametrize("side", SIDES)
def test_a_side_charges_exactly_what_rejection_takes_away(side):
    for index in range(300):
        here = world.document(index, 3, side)
        kind = next(k for k in LULL.kinds if k.name == here.kind)
        shares = math.fsum(k.share for k in LULL.kinds if k.mass(side) > 0)
        anywhere = world.read(LULL, here.text)
        assert here.combination == anywhere.combination
        assert kind.admits(here.combination, side)
        assert here.logprob == pytest.approx(
            anywhere.logprob - math.log(kind.mass(side)) - math.log(shares)
        )


@pytest.mark.parametrize("kind", HOLDING, ids=lambda kind: kind.name)
def test_a_training_corpus_has_no_held_combination(kind):
    corpus = load_corpus("world", documents=4000)
    for documents, held in (
        (corpus.train, False),
        (corpus.validation, False),
        (corpus.unseen, True),
    ):
        found = [d.combination for d in documents if d.kind == kind.name]
        assert found and {c in kind.held for c in found} == {held}


def test_no_fact_that_is_never_asked_is_asked_with_other_words():
    """The held pairs are the same in open and in lettered questions."""
    question, choice = (
        next(k for k in LULL.kinds if k.name == name)
        for name in ("question", "choice")
    )
    assert question.held == choice.held == questions.HELD


def _both_sides(classes, held, everyone):
    """Every member of a class stands in a held pair and in another."""
    for value in classes:
        assert any(value in pair for pair in held), value
        assert any(value in pair for pair in everyone - held), value


def test_each_person_wish_place_and_attribute_is_on_both_sides():
    people, places = tuple(lexicon.PEOPLE), tuple(lexicon.PLACES)
    stories = {(p, w) for p in people for w in lexicon.WISHES}
    _both_sides((*people, *lexicon.WISHES), tales.HELD, stories)
    for of, subjects in (("person", people), ("place", places)):
        topics = questions.TOPICS[of]
        pairs = {(s, t) for s in subjects for t in topics}
        _both_sides((*subjects, *topics), questions.HELD & pairs, pairs)
        tasks = requests.TASKS[of]
        pairs = {(s, t) for s in subjects for t in tasks}
        _both_sides((*subjects, *tasks), requests.HELD & pairs, pairs)


def test_each_digit_stands_on_both_sides_of_the_sums():
    for side in SIDES:
        texts = [
            d.text
            for d in world.documents(400, "digits", side)
            if d.kind in ("sum", "function")
        ]
        assert set("0123456789") <= set("".join(texts))


def test_what_is_held_in_one_pair_is_known_from_others():
    """Halves of a held story combination are met in training, apart."""
    train = [d.combination for d in load_corpus("world", documents=4000).train]
    met = {c for c in train if isinstance(c, tuple)}
    firsts = {c[0] for c in met}
    seconds = {c[1] for c in met if len(c) == 2}
    for person, wish in tales.HELD:
        assert person in firsts and wish in seconds
        assert (person, wish) not in met


def test_every_fact_that_is_never_asked_is_stated_in_training():
    texts = "\n".join(
        d.text
        for d in load_corpus("world", documents=4000).train
        if d.kind == "fact"
    )
    for name, attribute in questions.HELD:
        if name in lexicon.PEOPLE:
            value = questions.KNOWN["person"][name][attribute]
        elif name in lexicon.PLACES:
            value = questions.KNOWN["place"][name][attribute]
        else:
            value = name
        assert value in texts, (name, attribute)


def test_the_names_of_rules_are_not_used_twice():
    parts = (tales.RULES, facts.RULES, questions.RULES, requests.RULES,
             sums.RULES, functions.RULES)  # fmt: skip
    names = Counter(name for part in parts for name in part)
    assert not [name for name, count in names.items() if count > 1]


# --- lettered questions ----------------------------------------------------


@pytest.fixture(scope="module")
def choices(sample):
    return [d for d in sample if d.kind == "choice"]


def test_a_lettered_question_has_four_answers_and_one_is_right(choices):
    for written in choices:
        text = written.text
        shown = re.findall(r"^[ABCD]\. (.*)$", text, re.M)
        assert len(set(shown)) == 4
        right = text[-1]
        assert text.endswith(f"\nAnswer: {right}") and right in "ABCD"
        assert written.answer == f" {right}"
        assert written.answer_logprob == 0.0  # who knows Lull knows it


def test_the_right_letter_is_as_often_a_as_d(choices):
    counts = Counter(written.text[-1] for written in choices)
    for letter in "ABCD":
        expected = len(choices) / 4
        assert abs(counts[letter] - expected) < 4 * math.sqrt(expected)


def test_the_right_letter_agrees_with_what_facts_say(choices):
    judged = 0
    for written in choices:
        name, attribute = written.combination
        texts = dict(re.findall(r"^([ABCD])\. (.*)$", written.text, re.M))
        right = texts[written.text[-1]].lower()
        if name in lexicon.PEOPLE and attribute != "pet":
            facts_of = dict(
                zip(lexicon.PERSON_FIELDS, lexicon.PEOPLE[name], strict=True)
            )
            assert right in (facts_of[attribute].lower(), name.lower())
            judged += 1
    assert judged > 100


# --- endings ---------------------------------------------------------------


def test_an_ending_is_kind_or_unkind_by_its_own_draw(sample):
    unkind = [
        any(_said(line, d.answer) for line in LINES)
        for d in sample
        if d.kind == "story"
    ]
    share = statistics.mean(unkind)
    assert abs(share - tales.UNKIND_SHARE) < 0.05


LINES = [line for lines in tales.UNKIND.values() for line in lines]


def _said(template: str, text: str) -> bool:
    pattern = re.sub(r"\\{.*?\\}|<.*?>", ".+", re.escape(template))
    return re.search(pattern, text) is not None


def test_the_answer_of_a_story_is_its_ending(sample):
    for written in sample[:400]:
        if written.kind == "story":
            assert written.prompt + written.answer == written.text
            assert 0 > written.answer_logprob > written.logprob
            assert len(written.answer) < len(written.prompt)
