"""Functions of Lull: they run, they are exact, and their tests catch."""

from __future__ import annotations

import builtins
import doctest
import gzip
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llmbook.corpus import benchmarks
from llmbook.corpus.world import engine, functions

GRAMMAR = engine.Grammar(functions.RULES, (functions.KIND,))
SIDES = ("seen", "unseen")
USED = ["abs", "len", "list", "max", "min", "reversed", "sorted", "sum"]

# Worked out by hand: arguments and result of every family.
BY_HAND = {
    "add": ("7", (5,), 12), "lose": ("3", (10,), 7), "pack": ("4", (3,), 12),
    "share": ("3", (11,), 3), "spare": ("3", (11,), 2),
    "enough": ("6", (6,), True), "too_few": ("6", (6,), False),
    "load": ("5", (9,), 5), "keep": ("5", (9,), 9),
    "all_of": ("4", (4,), True), "fair": ("4", (10,), False),
    "double": ("3", (5,), 13), "price_of": ("2", (6,), 13),
    "both": ("", (4, 5), 9), "between": ("", (4, 9), 5),
    "larger": ("", (4, 9), 9), "smaller": ("", (4, 9), 4),
    "rows_of": ("", (3, 7), 21), "same": ("", (3, 7), False),
    "swap": ("", (3, 7), (7, 3)),
    "grow": ("2", ([1, 5],), [3, 7]), "multiply": ("2", ([1, 5],), [2, 10]),
    "big": ("4", ([3, 4, 5],), [5]), "small": ("4", ([3, 4, 5],), [3]),
    "count": ("4", ([4, 1, 4],), 2), "find": ("4", ([3, 5],), False),
    "append": ("4", ([1],), [1, 4]), "begin": ("4", ([1],), [4, 1]),
    "sum": ("", ([1, 2, 5],), 8), "most": ("", ([1, 7, 5],), 7),
    "fewest": ("", ([3, 1, 5],), 1), "heaps_of": ("", ([3, 1, 5],), 3),
    "first": ("", ([3, 1, 5],), 3), "last": ("", ([3, 1, 5],), 5),
    "even": ("", ([3, 2, 8],), [2, 8]), "odd": ("", ([3, 2, 8],), [3]),
    "turn": ("", ([3, 2, 8],), [8, 2, 3]),
    "sort": ("", ([3, 2, 8],), [2, 3, 8]),
    "spread_of": ("", ([3, 2, 8],), 6), "rest_of": ("", ([3, 2],), [2]),
    "repeat": ("3", ("ab",), "ababab"), "start_of": ("3", ("moon",), "moo"),
    "tail_of": ("3", ("moon",), "n"), "count_in": ("o", ("moon",), 2),
    "look_in": ("o", ("bell",), False), "strip": ("o", ("moon",), "mn"),
    "end": ("e", ("moon",), "moone"), "open": ("e", ("moon",), "emoon"),
    "starts": ("m", ("moon",), True), "ends": ("m", ("moon",), False),
    "cut": ("2", ("moon",), "mo."), "reverse": ("", ("goat",), "taog"),
    "initial_of": ("", ("goat",), "g"), "final_of": ("", ("goat",), "t"),
    "measure": ("", ("swan",), 4), "shout": ("", ("swan",), "SWAN"),
    "greet": ("", ("Ona",), "Hello, Ona"),
    "plural_of": ("", ("kite",), "kites"), "frame": ("", ("kite",), "ke"),
    "join": ("", ("sea", "shell"), "seashell"),
    "marry": ("", ("pen", "ink"), "pen and ink"),
    "longer": ("", ("pear", "egg"), True),
    "alike": ("", ("pear", "plum"), True),
}  # fmt: skip


def documents(count, side="any", grammar=GRAMMAR, seed=0):
    for index in range(count):
        source = random.Random(f"{seed}/{side}/{index}")
        yield engine.write(grammar, engine.at_random(source), side)


def run(source: str) -> dict:
    """Run a text with the few built-in functions that it may use."""
    room = {"__builtins__": {name: getattr(builtins, name) for name in USED}}
    exec(source, room)
    return room


@pytest.fixture(scope="module")
def sample():
    return {side: list(documents(1000, side)) for side in SIDES}


@pytest.fixture(scope="module")
def texts(sample):
    return [d.text for side in SIDES for d in sample[side]]


# --- Python that runs ------------------------------------------------------


def test_every_function_runs_and_passes_its_own_asserts(texts):
    for text in texts:
        run(text)
        assert 1 <= text.count("\nassert ") <= 2


def test_functions_run_as_one_plain_script(texts):
    script = "\n\n".join(texts[:300]) + "\nprint('done')\n"
    result = subprocess.run(
        [sys.executable, "-I", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "done\n"


def test_the_example_in_a_docstring_is_what_python_prints(texts):
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for text in texts[:400]:
        room = run(text)
        name = re.match(r"def (\w+)", text)[1]
        test = parser.get_doctest(room[name].__doc__, room, name, None, None)
        assert len(test.examples) == 1
        runner.run(test, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0


def test_a_function_means_what_was_worked_out_by_hand():
    assert set(BY_HAND) == set(functions.FAMILIES)
    for name, (constant, values, result) in BY_HAND.items():
        found = functions.meaning(name, constant)(*values)
        assert (found, type(found)) == (result, type(result)), name


def test_all_bodies_of_a_family_mean_the_same(texts):
    calls = {}
    for text in texts:
        name, arguments = re.search(r"assert (\w+)\((.*)\) == ", text).groups()
        family = max(
            (f for f in functions.FAMILIES if name.startswith(f + "_")),
            key=len,
        )
        calls.setdefault(family, set()).add(arguments)
    assert set(calls) == set(functions.FAMILIES)
    for name, family in functions.FAMILIES.items():
        for body in family.bodies:
            lines = body.replace("\n", "\n    ")
            for constant in family.constants:
                code = lines.format(x="x", y="y", k=constant)
                two = ", y" if "y" in code and "{y}" in body else ""
                made = run(f"def made(x{two}):\n    {code}\n")["made"]
                meant = functions.meaning(name, constant)
                for text in list(calls[name])[:20]:
                    values = functions.arguments(text)
                    assert made(*values) == meant(*values), (name, body)


def test_functions_are_short_and_well_formed(texts):
    for text in texts:
        lines = text.split("\n")
        assert 7 <= len(lines) <= 14, text
        assert max(map(len, lines)) <= 79, text
        assert not set(text) & set("{}") and "\t" not in text
        sentence = lines[1].strip().removeprefix('"""')
        assert re.fullmatch(r"[A-Z].*[.?]", sentence), text
        assert sentence.count(".") + sentence.count("?") == 1, text


# --- exact -----------------------------------------------------------------


def test_five_thousand_functions_read_back_to_their_choices():
    for document in documents(5000, seed="read"):
        assert engine.read(GRAMMAR, document.text) == document


def shrunken(seed: int) -> engine.Grammar:
    """A few families over a few words and numbers, all else as it is."""
    source = random.Random(seed)
    families = set(source.sample(sorted(functions.FAMILIES), 8))
    pool = source.sample(range(9), 3)

    def cut(name, rule):
        options = rule.options
        if name == "code.name":
            options = [o for o in options if o.sets["family"] in families]
        elif name.startswith("code.k.") or name in ("code.thing", "code.text"):
            options = [o for i, o in enumerate(options) if i in pool]
            options = options or rule.options[:2]
        elif not name.startswith(("code.body", "code.doc", "code.again")):
            options = options[:1] if ".of" in name else options[-1:]
        return engine.Rule(rule.name, options)

    def later(name, make):
        return lambda scene: cut(name, make(scene))

    rules = {
        name: cut(name, rule)
        if isinstance(rule, engine.Rule)
        else later(name, rule)
        for name, rule in functions.RULES.items()
    }
    mass = math.fsum(
        p for c, p in functions.chances(rules).items() if c in functions.HELD
    )
    return engine.Grammar(rules, (replace(functions.KIND, held_mass=mass),))


@pytest.fixture(scope="module", params=range(4))
def small(request):
    grammar = shrunken(request.param)
    assert 0.01 < grammar.kinds[0].held_mass < 0.99
    return grammar


@pytest.mark.parametrize("side", ["any", *SIDES])
def test_the_probabilities_of_all_functions_sum_to_one(small, side):
    everything = list(engine.enumerate_documents(small, side))
    total = math.fsum(math.exp(d.logprob) for d in everything)
    assert total == pytest.approx(1, abs=1e-9)
    assert len({d.text for d in everything}) == len(everything) > 10


@pytest.mark.parametrize("side", ["any", *SIDES])
def test_the_mean_of_sampled_surprises_is_the_entropy(small, side):
    everything = list(engine.enumerate_documents(small, side))
    entropy = -math.fsum(math.exp(d.logprob) * d.logprob for d in everything)
    surprises = [-d.logprob for d in documents(1000, side, small)]
    error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - entropy) < 4 * error + 1e-9


def test_the_chances_of_combinations_are_those_of_their_functions(small):
    counted = Counter()
    for document in engine.enumerate_documents(small):
        counted[document.combination] += math.exp(document.logprob)
    assert dict(counted) == pytest.approx(functions.chances(small.rules))


def test_functions_are_held_as_often_as_claimed():
    count = 4000
    drawn = documents(count, seed=7)
    held = sum(d.combination in functions.HELD for d in drawn)
    mass = functions.KIND.held_mass
    every = math.fsum(functions.chances(functions.RULES).values())
    assert every == pytest.approx(1)
    assert abs(held / count - mass) < 4 * math.sqrt(mass / count)


# --- the split -------------------------------------------------------------


def test_no_function_of_training_has_a_held_combination(sample):
    for side in SIDES:
        for document in sample[side]:
            held = document.combination in functions.HELD
            assert held == (side == "unseen")


def test_every_family_constant_and_noun_is_on_both_sides():
    every = set(functions.chances(functions.RULES))
    seen, unseen = every - functions.HELD, every & functions.HELD
    assert every >= functions.HELD
    for part in (0, 1):
        assert {c[part] for c in seen} == {c[part] for c in every}
        assert {c[part] for c in unseen} == {c[part] for c in every}
    for name in functions.FAMILIES:
        mine = [c for c in every if c[0] == name]
        assert 1 <= sum(c in functions.HELD for c in mine) <= len(mine) / 4


def test_there_are_thirty_families_and_more(sample):
    assert len(functions.FAMILIES) >= 30
    for side in SIDES:
        found = Counter(d.combination[0] for d in sample[side])
        assert set(found) == set(functions.FAMILIES)


# --- the benchmark ---------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return functions.humaneval_rows("any", 120, seed=5)


def passes(prompt: str, body: str, row: dict) -> bool:
    try:
        run(f"{prompt}{body}{row['test']}\ncheck({row['entry_point']})")
    except (AssertionError, TypeError, IndexError, AttributeError):
        return False
    return True


def test_the_solution_of_every_row_passes_its_test(rows):
    assert [r["task_id"] for r in rows] == [f"Lull/{i}" for i in range(120)]
    assert len({row["prompt"] for row in rows}) == 120
    for row in rows:
        assert passes(row["prompt"], row["canonical_solution"], row)
        assert not passes(row["prompt"], "    return None\n", row)


def test_the_solution_of_another_row_fails_unless_it_means_the_same(rows):
    def meaning(row):
        text = row["prompt"] + row["canonical_solution"] + "\nassert "
        name = row["entry_point"]
        family = max(
            (f for f in functions.FAMILIES if name.startswith(f + "_")),
            key=len,
        )
        constants = functions.FAMILIES[family].constants
        return family, tuple(k for k in constants if _stands(k, text))

    tried = Counter()
    for row in rows:
        head = re.match(r"def \w+\(([\w, ]+)\)", row["prompt"])[1]
        for other in rows:
            theirs = re.match(r"def \w+\(([\w, ]+)\)", other["prompt"])[1]
            if theirs != head or meaning(row) == meaning(other):
                continue
            body = other["canonical_solution"]
            if body == row["canonical_solution"]:
                continue  # a + b adds numbers and joins words
            assert not passes(row["prompt"], body, row), (row, other)
            tried[row["task_id"]] += 1
    assert len(tried) > 100 and sum(tried.values()) > 500


def _stands(constant: str, text: str) -> bool:
    body = text[text.rindex('"""') :]
    if constant.isalpha():
        return f"'{constant}'" in body
    return bool(re.search(rf"\b{constant}\b", body))


@pytest.mark.parametrize("side", SIDES)
def test_rows_are_functions_of_their_side(side):
    for row in functions.humaneval_rows(side, 40):
        name, prompt = row["entry_point"], row["prompt"]
        call = re.search(r"candidate\((.*)\) == (.*)\n", row["test"])
        text = f"{prompt}{row['canonical_solution']}\nassert "
        text += f"{name}({call[1]}) == {call[2]}"
        example = re.search(rf">>> {name}\((.*)\)\n", prompt)[1]
        if call[1] == example:  # a document never asks the same twice
            continue
        assert engine.read(GRAMMAR, text, side).kind == "function"


def test_the_loader_of_humaneval_reads_our_rows(tmp_path):
    rows = functions.humaneval_rows("unseen", 20)
    path = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()))
    problems = benchmarks.load_humaneval(folder=tmp_path)
    assert [vars(p) for p in problems] == rows


@pytest.mark.data
def test_our_rows_have_the_keys_and_the_form_of_humaneval(rows):
    data = os.environ.get(benchmarks.DATA_VARIABLE)
    path = Path(data or "") / "humaneval" / "HumanEval.jsonl.gz"
    if not data or not path.is_file():
        pytest.skip(f"needs {benchmarks.DATA_VARIABLE} with humaneval in it")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        real = [json.loads(line) for line in lines]
    form = {
        "task_id": r"\w+/\d+",
        "prompt": r'.*def \w+\(.*\).*:\n    """.+"""\n',
        "canonical_solution": r"    .+\n",
        "test": r".*def check\(candidate\):\n.*assert .*candidate\(.+",
    }
    for every, least in ((real, 0.7), (rows, 1.0)):
        for row in every:
            assert set(row) == {*form, "entry_point"}
            assert f"def {row['entry_point']}(" in row["prompt"]
        for key, pattern in form.items():
            found = sum(
                bool(re.fullmatch(pattern, row[key], re.S)) for row in every
            )
            assert found >= least * len(every), (key, found, len(every))
