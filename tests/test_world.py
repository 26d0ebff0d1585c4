"""The world: exact probabilities, one text for each way of writing it."""

from __future__ import annotations

import math
import os
import random
import re
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus import RUNNING_SENTENCE, world
from llmbook.corpus.world import (
    LULL,
    engine,
    facts,
    lexicon,
    questions,
    requests,
    tales,
)

# Words that carry grammar rather than content; the rest make a skeleton.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the this that these those and but or nor so for yet because
        although though while when whenever until after before if as than
        then whether who whom whose which what where why how i you he she it
        we they me him her us them my your his its our their hers himself
        herself somebody nobody anybody everybody someone anyone everyone
        something nothing anything everything one ones no not none is am are
        was were be been being has have had having do does did done will
        would shall should can could may might must cannot in on at by to of
        from with without into onto over under behind beside between through
        out off up down about against near past round across below above
        towards like apart there here now again just only even ever never
        still too very more most much many some any each every all both
        other others same such own half once twice also""",
    )
)
INVENTED = re.compile(
    f"({'|'.join(lexicon.NAME_STARTS)})({'|'.join(lexicon.NAME_ENDS)})", re.I
)


def sentences(text: str) -> list[str]:
    """A sentence ends where a capital follows its full stop."""
    return re.split(r'(?<=[.!?])"?\s+(?="?[A-Z])', text)


def skeleton(sentence: str) -> str:
    def blank(word: re.Match) -> str:
        lower = word.group().lower()
        return lower if lower in FUNCTION_WORDS else "_"

    return re.sub(r"[A-Za-z']+", blank, sentence).strip(' "')


@pytest.fixture(scope="module")
def sample() -> list[world.Written]:
    return list(world.documents(3000, "sample"))


@pytest.fixture(scope="module")
def stories(sample) -> list[str]:
    return [d.text for d in sample if d.kind == "story"][:1000]


# --- one text, one way of writing it ---------------------------------------


def _misread(block: range) -> list[int]:
    return [
        index
        for index in block
        if world.read(LULL, (d := world.document(index, "parse")).text) != d
    ]


@pytest.mark.slow
def test_a_hundred_thousand_documents_read_back_to_their_choices():
    blocks = [range(start, start + 2000) for start in range(0, 100_000, 2000)]
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        misread = [i for found in pool.map(_misread, blocks) for i in found]
    assert misread == []


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**64), st.integers(0, 2**32))
def test_any_document_of_any_seed_reads_back(index, seed):
    written = world.document(index, seed)
    found = world.read(LULL, written.text)
    assert found == written
    assert world.retell(LULL, found.choices).text == written.text


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_a_word_taken_out_is_noticed_or_makes_another_document(index, source):
    words = world.document(index).text.split(" ")
    del words[source.randrange(len(words))]
    changed = " ".join(words)
    try:
        found = world.read(LULL, changed)
    except world.ReadError:
        return
    assert world.retell(LULL, found.choices).text == changed


@pytest.mark.parametrize("text", ["", "x", " ", RUNNING_SENTENCE])
def test_a_text_from_elsewhere_cannot_be_read(text):
    with pytest.raises(world.ReadError, match="0 ways"):
        world.read(LULL, text)


def test_the_log_probability_of_a_text_is_read_off_it(sample):
    for written in sample[:20]:
        assert world.logprob(written.text) == written.logprob
    assert world.logprob(RUNNING_SENTENCE) == -math.inf


def test_a_document_with_a_tail_cannot_be_read():
    with pytest.raises(world.ReadError):
        world.read(LULL, world.document(1).text + " And more.")


# --- exact probabilities ---------------------------------------------------


class Fork(Exception):
    """The oracle stands before several ways to go on."""


class Oracle(engine.Page):
    """Scores a text by trying every derivation, in exact fractions.

    It shares nothing with Reader and Rule but the raw options: it scans
    templates letter by letter, divides the weights itself, and follows
    every way that fits instead of expecting one.
    """

    def __init__(self, text, plan):
        super().__init__(LULL)
        self.text, self.plan, self.place = text, list(plan), 0
        self.chance = Fraction(1)

    def options(self, name, scene):
        rule = LULL.rules[name]
        rule = rule if isinstance(rule, world.Rule) else rule(scene)
        kept = [
            o
            for o in rule.options
            if (not o.needs or o.needs in scene)
            and (not o.unless or o.unless not in scene)
        ]
        total = sum(Fraction(o.weight) for o in kept)
        return [(o, Fraction(o.weight) / total) for o in kept]

    def ways(self, template, place, scene):
        for at, letter in enumerate(template):
            if letter in "{<":
                end = template.index("}" if letter == "{" else ">", at)
                inner, rest = template[at + 1 : end], template[end + 1 :]
                if letter == "{":
                    yield from self.ways(scene[inner] + rest, place, scene)
                else:
                    yield from self.branches(inner, rest, place, scene)
                return
            if self.text[place : place + 1] != letter:
                return
            place += 1
        yield place, Fraction(1), scene

    def branches(self, inner, rest, place, scene):
        key, _, name = inner.rpartition("=")
        for option, chance in self.options(name, scene):
            for end, within, after in self.ways(option.template, place, scene):
                if key:
                    after = {**after, key: self.text[place:end]}
                    for part, value in option.sets.items():
                        after[f"{key}.{part}" if part else key] = value
                for last, more, final in self.ways(rest, end, after):
                    yield last, chance * within * more, final

    def say(self, name, before=""):
        if not self.plan:
            raise Fork(
                [
                    (end, chance * within, after, option.tag)
                    for option, chance in self.options(name, self.scene)
                    for end, within, after in self.ways(
                        self.parted(option.template, before),
                        self.place,
                        self.scene,
                    )
                ]
            )
        self.place, chance, scene, tag = self.plan.pop(0)
        self.chance *= chance
        self.scene.clear()  # the story may hold on to the same scene
        self.scene.update(scene)
        return tag

    def parted(self, template, before):
        """A second speaker in a paragraph begins another."""
        spoken = '"' in self.text[: self.place].split("\n\n")[-1]
        if template[:1] == '"' and before == " " and spoken:
            before = "\n\n"
        return before * bool(template) + template

    def so_far(self):
        return self.text[: self.place]

    def put(self, template):
        template = re.sub(r"{(.*?)}", lambda m: self.scene[m[1]], template)
        if not self.text.startswith(template, self.place):
            raise Fork([])
        self.place += len(template)


def exact_chance(text: str) -> Fraction:
    total = Fraction(0)
    shares = sum(Fraction(kind.share) for kind in LULL.kinds)
    for kind in LULL.kinds:
        plans = [[]]
        while plans:
            plan = plans.pop()
            page = Oracle(text, plan)
            try:
                kind.tell(page)
            except Fork as fork:
                plans += [[*plan, way] for way in fork.args[0]]
                continue
            if page.place == len(text):
                total += page.chance * Fraction(kind.share) / shares
    return total


def test_an_independent_scorer_finds_the_recorded_log_probability(sample):
    for written in sample[:150]:
        chance = exact_chance(written.text)
        exact = math.log(chance.numerator) - math.log(chance.denominator)
        assert written.logprob == pytest.approx(exact, abs=1e-9)


def shrunken(seed: int) -> engine.Grammar:
    """The real kinds, but for sums and code, over a few options of each rule.

    One option of each tag and each need is kept, so that every plot and
    every condition is still there, and in six rules a second one.
    """
    source = random.Random(seed)
    rich = set(source.sample(sorted(tales.RULES), 6))

    def cut(name, rule):
        kept, seen = [], Counter()
        for option in source_order(rule):
            # a template that draws a person may not be all a rule has
            mark = (option.tag, option.needs, option.unless)
            if seen[mark] <= (name in rich):
                seen[mark] += 1
                kept.append(option)
        return world.Rule(rule.name, kept)

    def source_order(rule):
        key = f"{seed}/{rule.name}"
        options = list(rule.options)
        random.Random(key).shuffle(options)
        return options

    def later(name, make):
        made = {}

        def rule(scene):
            full = make(scene)
            if name == "behind-letter":
                return four_at_most(full, scene)
            if full.name not in made:
                made[full.name] = cut(name, full)
            return made[full.name]

        return rule

    rules = {
        name: cut(name, rule)
        if isinstance(rule, world.Rule)
        else later(name, rule)
        for name, rule in LULL.rules.items()
    }
    return engine.Grammar(
        rules,
        (
            tales.story_kind(0.4, rules),
            engine.Kind("fact", 0.3, facts.tell_fact),
            questions.question_kind(0.1, rules),
            questions.choice_kind(0.1, rules),
            requests.instruction_kind(0.1, rules),
        ),
    )


def four_at_most(rule, scene):
    """Of the wrong answers to a question with letters, only three."""
    values = questions.VALUES[scene["topic"]]
    right = [v for v in values if scene["subject"] in values[v]]
    wrong = [v for v in values if v not in right][:3]
    kept = [o for o in rule.options if o.tag in right + wrong]
    return world.Rule(rule.name, kept)


@pytest.fixture(scope="module", params=range(3))
def small(request):
    grammar = shrunken(request.param)
    return grammar, list(world.enumerate_documents(grammar))


def test_the_probabilities_of_all_documents_sum_to_one(small):
    _, everything = small
    assert len(everything) > 500
    total = math.fsum(math.exp(d.logprob) for d in everything)
    assert total == pytest.approx(1, abs=1e-9)


def test_no_text_is_written_in_two_ways(small):
    _, everything = small
    texts = Counter(document.text for document in everything)
    assert texts.most_common(1)[0][1] == 1


def test_every_document_there_is_reads_back(small):
    grammar, everything = small
    source = random.Random(0)
    for written in source.sample(everything, min(1000, len(everything))):
        assert world.read(grammar, written.text) == written


def test_the_mean_of_sampled_surprises_is_the_entropy(small):
    grammar, everything = small
    entropy = -math.fsum(math.exp(d.logprob) * d.logprob for d in everything)
    surprises = [-d.logprob for d in world.documents(4000, 5, grammar=grammar)]
    error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - entropy) < 4 * error


def test_documents_are_drawn_as_often_as_they_claim(small):
    grammar, everything = small
    count = 4000
    drawn = Counter(d.text for d in world.documents(count, 6, grammar=grammar))
    claimed = {d.text: math.exp(d.logprob) * count for d in everything}
    assert set(drawn) <= set(claimed)
    often = [t for t, expected in claimed.items() if expected >= 10]
    for text in often:
        expected = claimed[text]
        assert abs(drawn[text] - expected) < 5 * math.sqrt(expected)


def test_a_forced_branch_costs_nothing():
    grammar = engine.Grammar(
        {"only": world.Rule("only", ["This."])},
        (engine.Kind("story", 1.0, lambda page: page.say("only")),),
    )
    (written,) = world.enumerate_documents(grammar)
    assert written.logprob == 0.0


def test_two_ways_to_one_text_are_refused_when_reading():
    rules = {"twice": world.Rule("twice", ["a <tail>", "a b"]),
             "tail": world.Rule("tail", ["b", "c"])}  # fmt: skip
    grammar = engine.Grammar(
        rules, (engine.Kind("story", 1.0, lambda page: page.say("twice")),)
    )
    with pytest.raises(world.ReadError, match="2 options"):
        world.read(grammar, "a b")


@pytest.mark.parametrize(
    "options, reason",
    [
        ([], "positive weights"),
        ([world.Option("a", 0)], "positive weights"),
        (["a", "a"], "twice"),
    ],
)
def test_a_rule_that_cannot_be_exact_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        world.Rule("broken", options)


# --- worth reading ---------------------------------------------------------


def test_the_language_is_rich_enough(sample):
    words = {
        word.lower()
        for document in sample
        for word in re.findall(r"[A-Za-z]+", document.text)
    }
    content = {
        word for word in words - FUNCTION_WORDS if not INVENTED.fullmatch(word)
    }
    assert len(content) >= 300
    assert len(LULL.rules) >= 40


def test_no_sentence_skeleton_is_worn_out(stories):
    assert len(stories) == 1000
    counts = Counter(
        skeleton(sentence) for text in stories for sentence in sentences(text)
    )
    _, most = counts.most_common(1)[0]
    assert most <= 0.02 * sum(counts.values())


def test_stories_have_sixty_to_two_hundred_and_fifty_words(stories):
    lengths = [len(text.split()) for text in stories]
    assert min(lengths) >= 60 and max(lengths) <= 250


def test_the_text_is_well_formed(sample):
    vowel = re.compile(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]")
    for document in sample:
        text = document.text
        assert text == text.strip()
        if document.kind == "function":
            continue
        assert not set(text) & set("{}<>") and "  " not in text
        assert not vowel.search(text), text
        if document.kind not in ("story", "fact"):
            continue
        assert text[-1] in '.!?"'
        for paragraph in text.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, paragraph
        for sentence in sentences(text):
            assert sentence.lstrip('"')[0].isupper(), sentence


def test_pronouns_agree_with_the_names_they_stand_for(stories):
    for text in stories:
        for name, pronoun in re.findall(
            r"\b([A-Z]\w+), (?:and|but) (he|she)\b", text
        ):
            if name in lexicon.PEOPLE and f"to {name}," not in text:
                assert lexicon.PEOPLE[name][0] == pronoun, text


def test_facts_hold_in_every_document(sample):
    sells = {name: facts[1] for name, facts in lexicon.PEOPLE.items()}
    claim = re.compile(r"(\w+)(?:, who sells| was selling) (\w+)")
    found = set()
    for document in sample:
        for name, goods in claim.findall(document.text):
            assert sells[name] == goods
            found.add(name)
    assert found == set(lexicon.PEOPLE)


def test_an_invented_name_is_used_again_in_its_story(stories):
    visits = [t for t in stories if INVENTED.search(t)]
    assert len(visits) > 100
    for text in visits:
        names = Counter(match.group() for match in INVENTED.finditer(text))
        assert len(names) == 1
        assert max(names.values()) >= 2, text


def test_what_changes_hands_is_there_when_the_wish_comes_true(sample):
    seen = Counter()
    tools = {past: tools for past, _, tools in lexicon.WISHES.values()}
    for document in sample:
        for past, (first, second) in tools.items():
            if document.kind == "story" and past in document.text:
                before = document.text.split(past)[0]
                assert re.search(rf"\b({first}|{second})\b", before)
                seen[past] += 1
    assert set(seen) == set(tools)


def test_who_lent_the_thing_gets_it_back(sample):
    borrowed = re.compile(r"gave the \w+ back to (\w+), not to (\w+)")
    found = 0
    for document in sample:
        if match := borrowed.search(document.text):
            owner, last = match.groups()
            names = re.findall(rf"\b(?:{owner}|{last})\b", document.text)
            assert names[0] == owner
            found += 1
    assert found >= 3


def test_the_grammar_utters_the_running_sentence():
    wanted = {
        "person": "Ona",
        "wish": "send a letter to the moon",
        "turn": "So {A.he} took the <look=look>",
        "loss": "{A} lost {thing.the}, but <B=partner>",
        "partner": "Tam",
    }

    def pick(rule):
        start = wanted.get(rule.name.split(":")[0].split("[")[0], "")
        fits = [o.template.startswith(start) for o in rule.options]
        return fits.index(True)

    written = world.write(LULL, pick)
    assert RUNNING_SENTENCE in written.text
    assert world.read(LULL, written.text) == written


def test_a_seed_gives_the_same_documents_in_any_process():
    program = (
        "from llmbook.corpus import world;"
        "print(repr([d.text for d in world.documents(50, 3)]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [document.text for document in world.documents(50, 3)]
    assert other.stdout.strip() == repr(here)


def test_other_seeds_give_other_documents():
    ours = {d.text for d in world.documents(200, 1)}
    theirs = {d.text for d in world.documents(200, 2)}
    assert not ours & theirs


def test_every_plot_and_every_villager_appears(sample):
    text = " ".join(document.text for document in sample)
    for name in (*lexicon.PEOPLE, *lexicon.PLACES, *lexicon.WISHES):
        assert name in text
    tags = {option.tag for option in tales.RULES["turn"].options}
    assert tags == {"lend", "lose", "swap", "share", "visit"}
