"""Tiny Python functions from Lull, each with a docstring and a test.

They have the form of HumanEval (Chen et al. 2021): signature, one sentence,
an example; then the body; then an ``assert``. All of it is Python that runs,
and every value in it was computed by running the function. What is kept out
of training is a family with one of its constants ("add 7") or, where it has
none, with one of its names ("sum_pears").
"""

from __future__ import annotations

import ast
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import lexicon
from .engine import (
    Grammar,
    Kind,
    Option,
    Page,
    Rule,
    Rules,
    Side,
    Writer,
    at_random,
)

Scene = dict[str, str]

HELD_EVERY = 7  # of a family's constants, or names, one in seven is held
DIGITS = tuple("23456789")
FEW = ("2", "3", "4")  # letters of a word, so too few to hold one of them
LETTERS = tuple("aeinort")
THINGS = ("buns", "pears", "hats", "keys", "eggs", "bells", "boots", "plums",
          "shells", "snails", "spoons", "geese")  # fmt: skip
TEXTS = ("word", "name", "letter", "song", "sign", "secret", "wish", "note",
         "title", "rhyme", "riddle", "label")  # fmt: skip
STRINGS = ("moon", "goat", "kite", "pear", "bell", "snail", "swan", "honey",
           "lantern", "button", "fiddle", "candle", "tower", "ribbon",
           "letter", "orchard", "train", "feather")  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Functions that differ in a constant ``{k}`` and in names.

    Args:
        takes: what the parameter is: see ``PARAMETERS``.
        docs: the sentence, in several ways; ``{x}`` and ``{y}`` are the
            parameters, ``{noun}`` ends the function's name.
        bodies: the code, in several ways that mean the same.
        constants: what ``{k}`` may be; none where there is no ``{k}``.
    """

    takes: str
    docs: tuple[str, ...]
    bodies: tuple[str, ...]
    constants: tuple[str, ...] = ()

    @property
    def holds_constants(self) -> bool:
        """Whether its constants are held, rather than its names."""
        return len(self.constants) >= HELD_EVERY


PARAMETERS = {  # the names a parameter may have, by what it takes
    "number": ("n", "x", "m"),
    "many": ("n", "x", "m"),
    "more": ("n", "x", "m"),
    "two": ("a, b", "x, y", "m, n"),
    "list": ("xs", "numbers", "days"),
    "text": ("s", "text", "{noun}"),
    "texts": ("a, b", "s, t", "left, right"),
}

NUMBER_FAMILIES = {
    "add": Family(
        "number",
        ("Return {x} plus {k}.", "Put {k} more {noun} beside the first {x}."),
        ("return {x} + {k}", "total = {x} + {k}\nreturn total"),
        DIGITS,
    ),
    "lose": Family(
        "more",
        ("Return {x} minus {k}.",
         "The goat eats {k} of {x} {noun}, and we count the rest."),
        ("return {x} - {k}", "rest = {x} - {k}\nreturn rest"),
        DIGITS,
    ),
    "pack": Family(
        "number",
        ("Return {x} times {k}.",
         "Fill {x} boxes with {k} {noun} each and count them all."),
        ("return {x} * {k}", "return {k} * {x}"),
        DIGITS,
    ),
    "both": Family(
        "two",
        ("Return {x} plus {y}.", "Put {x} {noun} and {y} {noun} together."),
        ("return {x} + {y}", "total = {x} + {y}\nreturn total"),
    ),
    "double": Family(
        "number",
        ("Return twice {x} plus {k}.",
         "Two carts bring {x} {noun} each, and {k} come by boat."),
        ("return 2 * {x} + {k}", "return {x} + {x} + {k}"),
        DIGITS,
    ),
    "larger": Family(
        "two",
        ("Return the larger of {x} and {y}.",
         "Of {x} {noun} and {y} {noun}, take the larger heap."),
        ("return max({x}, {y})", "if {x} > {y}:\n    return {x}\nreturn {y}"),
    ),
    "enough": Family(
        "many",
        ("Return True if {x} is at least {k}.",
         "Tell whether {x} {noun} are enough for {k} guests."),
        ("return {x} >= {k}", "if {x} >= {k}:\n    return True\nreturn False"),
        DIGITS,
    ),
    "smaller": Family(
        "two",
        ("Return the smaller of {x} and {y}.",
         "Of {x} {noun} and {y} {noun}, take the smaller heap."),
        ("return min({x}, {y})", "if {x} < {y}:\n    return {x}\nreturn {y}"),
    ),
    "rows_of": Family(
        "two",
        ("Return {x} times {y}.",
         "Lay out {x} rows of {y} {noun} and count them."),
        ("return {x} * {y}", "total = {x} * {y}\nreturn total"),
    ),
    "share": Family(
        "many",
        ("Return how often {k} goes into {x}.",
         "Share {x} {noun} among {k} friends and cut none of them."),
        ("return {x} // {k}",),
        DIGITS,
    ),
    "same": Family(
        "two",
        ("Return True if {x} and {y} are the same.",
         "Tell whether {x} {noun} are as many as {y}."),
        ("return {x} == {y}",),
    ),
    "price_of": Family(
        "number",
        ("Return {k} times {x}, plus one.",
         "Pay {k} coins for each of {x} {noun}, and one for the bag."),
        ("return {k} * {x} + 1", "coins = {k} * {x}\nreturn coins + 1"),
        DIGITS,
    ),
    "load": Family(
        "many",
        ("Return {x}, but never more than {k}.",
         "The cart holds {k} {noun}, so take no more of {x}."),
        ("return min({x}, {k})", "if {x} > {k}:\n    return {k}\nreturn {x}"),
        DIGITS,
    ),
    "spare": Family(
        "many",
        ("Return what is left of {x} when divided by {k}.",
         "Deal {x} {noun} out to {k} friends and keep what is left over."),
        ("return {x} % {k}",),
        DIGITS,
    ),
    "too_few": Family(
        "many",
        ("Return True if {x} is less than {k}.",
         "Tell whether somebody among {k} guests gets none of {x} {noun}."),
        ("return {x} < {k}", "if {x} < {k}:\n    return True\nreturn False"),
        DIGITS,
    ),
    "keep": Family(
        "many",
        ("Return {x}, but never less than {k}.",
         "Nobody counts below {k} {noun} here, even if {x} is less."),
        ("return max({x}, {k})", "if {x} < {k}:\n    return {k}\nreturn {x}"),
        DIGITS,
    ),
    "all_of": Family(
        "number",
        ("Return True if {x} is exactly {k}.",
         "Tell whether {x} {noun} are the {k} that we had."),
        ("return {x} == {k}",),
        DIGITS,
    ),
    "fair": Family(
        "many",
        ("Return True if {k} divides {x}.",
         "Tell whether {k} friends can share {x} {noun} fairly."),
        ("return {x} % {k} == 0",),
        DIGITS,
    ),
    "between": Family(
        "two",
        ("Return how far {x} is from {y}.",
         "Tell how many {noun} more one has, of {x} and {y}."),
        ("return abs({x} - {y})",
         "if {x} > {y}:\n    return {x} - {y}\nreturn {y} - {x}"),
    ),
    "swap": Family(
        "two",
        ("Return {y} and then {x}.",
         "Two neighbours with {x} and {y} {noun} change places."),
        ("return {y}, {x}",),
    ),
}  # fmt: skip

LIST_FAMILIES = {
    "sum": Family(
        "list",
        ("Return the sum of {x}.", "Count all the {noun} in {x} together."),
        ("return sum({x})",
         "total = 0\nfor n in {x}:\n    total = total + n\nreturn total"),
    ),
    "grow": Family(
        "list",
        ("Add {k} to every number in {x}.",
         "Every day in {x} brings {k} {noun} more."),
        ("return [n + {k} for n in {x}]",
         "more = []\nfor n in {x}:\n    more.append(n + {k})\nreturn more"),
        DIGITS,
    ),
    "most": Family(
        "list",
        ("Return the largest number in {x}.",
         "On the best day in {x}, how many {noun} were there?"),
        ("return max({x})", "return sorted({x})[-1]"),
    ),
    "append": Family(
        "list",
        ("Put {k} at the end of {x}.",
         "A last day comes after {x}, with {k} {noun}."),
        ("return {x} + [{k}]",),
        DIGITS,
    ),
    "big": Family(
        "list",
        ("Keep the numbers in {x} that are above {k}.",
         "Heaps of {k} {noun} or fewer are too small, so leave them out."),
        ("return [n for n in {x} if n > {k}]",
         "kept = []\nfor n in {x}:\n    if n > {k}:\n"
         "        kept.append(n)\nreturn kept"),
        DIGITS,
    ),
    "first": Family(
        "list",
        ("Return the first number in {x}.",
         "How many {noun} were there on the first day in {x}?"),
        ("return {x}[0]",),
    ),
    "fewest": Family(
        "list",
        ("Return the smallest number in {x}.",
         "On the worst day in {x}, how many {noun} were there?"),
        ("return min({x})", "return sorted({x})[0]"),
    ),
    "begin": Family(
        "list",
        ("Put {k} at the front of {x}.",
         "A first day comes before {x}, with {k} {noun}."),
        ("return [{k}] + {x}",),
        DIGITS,
    ),
    "last": Family(
        "list",
        ("Return the last number in {x}.",
         "How many {noun} were there on the last day in {x}?"),
        ("return {x}[-1]",),
    ),
    "small": Family(
        "list",
        ("Keep the numbers in {x} that are below {k}.",
         "Leave out every heap of {k} {noun} or more."),
        ("return [n for n in {x} if n < {k}]",),
        DIGITS,
    ),
    "turn": Family(
        "list",
        ("Return {x} in reverse.",
         "As Hesper walks, so count the {noun} in {x}: backwards."),
        ("return {x}[::-1]", "return list(reversed({x}))"),
    ),
    "multiply": Family(
        "list",
        ("Multiply every number in {x} by {k}.",
         "For each of {x} we need {k} times as many {noun}."),
        ("return [{k} * n for n in {x}]", "return [n * {k} for n in {x}]"),
        DIGITS,
    ),
    "heaps_of": Family(
        "list",
        ("Return how many numbers there are in {x}.",
         "Count the heaps in {x}, and not the {noun}."),
        ("return len({x})",),
    ),
    "count": Family(
        "list",
        ("Count how often {k} stands in {x}.",
         "On how many days in {x} were there {k} {noun}?"),
        ("return {x}.count({k})",),
        DIGITS,
    ),
    "find": Family(
        "list",
        ("Return True if {k} is in {x}.",
         "Was there a day in {x} with {k} {noun}?"),
        ("return {k} in {x}",
         "for n in {x}:\n    if n == {k}:\n        return True\n"
         "return False"),
        DIGITS,
    ),
    "even": Family(
        "list",
        ("Keep the even numbers in {x}.",
         "Keep the heaps of {noun} in {x} that two can share."),
        ("return [n for n in {x} if n % 2 == 0]",),
    ),
    "odd": Family(
        "list",
        ("Keep the odd numbers in {x}.",
         "Keep the heaps of {noun} in {x} that two cannot share."),
        ("return [n for n in {x} if n % 2 == 1]",),
    ),
    "sort": Family(
        "list",
        ("Return {x} with the smallest number first.",
         "Put the heaps of {noun} in {x} in a row, the smallest first."),
        ("return sorted({x})",),
    ),
    "spread_of": Family(
        "list",
        ("Return the largest number in {x} minus the smallest.",
         "How many {noun} lie between the best and the worst day in {x}?"),
        ("return max({x}) - min({x})",
         "row = sorted({x})\nreturn row[-1] - row[0]"),
    ),
    "rest_of": Family(
        "list",
        ("Return {x} without the first number.",
         "The crow takes the first heap of {noun}, so return the rest."),
        ("return {x}[1:]",),
    ),
}  # fmt: skip

TEXT_FAMILIES = {
    "repeat": Family(
        "text",
        ("Return {x} {k} times in a row.",
         "Bo calls {x} {k} times into the well."),
        ("return {x} * {k}",),
        FEW,
    ),
    "join": Family(
        "texts",
        ("Return {x} and {y} as one word.",
         "Write {y} after {x} and leave no room between them."),
        ("return {x} + {y}",),
    ),
    "reverse": Family(
        "text",
        ("Return {x} in reverse.", "Read {x} backwards, as Hesper walks."),
        ("return {x}[::-1]",),
    ),
    "start_of": Family(
        "text",
        ("Return the first {k} letters of {x}.",
         "The rain spared {k} letters of {x}, the first."),
        ("return {x}[:{k}]",),
        FEW,
    ),
    "end": Family(
        "text",
        ("Return {x} with the letter '{k}' at the end.",
         "Write {x} on the wall, and after it the letter '{k}'."),
        ("return {x} + '{k}'",),
        LETTERS,
    ),
    "count_in": Family(
        "text",
        ("Count the letter '{k}' in {x}.",
         "How often must Ibby write '{k}' to write {x}?"),
        ("return {x}.count('{k}')",
         "count = 0\nfor c in {x}:\n    if c == '{k}':\n"
         "        count = count + 1\nreturn count"),
        LETTERS,
    ),
    "initial_of": Family(
        "text",
        ("Return the first letter of {x}.",
         "Which letter of {x} does Ibby write first?"),
        ("return {x}[0]",),
    ),
    "shout": Family(
        "text",
        ("Return {x} in capital letters.",
         "Shout {x} so that they hear it at the lighthouse."),
        ("return {x}.upper()",),
    ),
    "marry": Family(
        "texts",
        ("Put 'and' between {x} and {y}.",
         "Invite {x} and {y} in one letter, with an 'and'."),
        ("return {x} + ' and ' + {y}",),
    ),
    "open": Family(
        "text",
        ("Return {x} with the letter '{k}' in front.",
         "Write the letter '{k}' on the wall, and after it {x}."),
        ("return '{k}' + {x}",),
        LETTERS,
    ),
    "tail_of": Family(
        "text",
        ("Return {x} without its first {k} letters.",
         "A mouse ate the first {k} letters of {x}, so return the rest."),
        ("return {x}[{k}:]",),
        FEW,
    ),
    "measure": Family(
        "text",
        ("Return the number of letters in {x}.",
         "How many letters of ink does {x} cost?"),
        ("return len({x})",
         "count = 0\nfor c in {x}:\n    count = count + 1\nreturn count"),
    ),
    "final_of": Family(
        "text",
        ("Return the last letter of {x}.",
         "Which letter of {x} does Ibby write last?"),
        ("return {x}[-1]",),
    ),
    "greet": Family(
        "text",
        ("Return a greeting for {x}.", "Say hello to {x}, as Pim would."),
        ("return 'Hello, ' + {x}",),
    ),
    "look_in": Family(
        "text",
        ("Return True if the letter '{k}' is in {x}.",
         "Does Ibby need the letter '{k}' to write {x}?"),
        ("return '{k}' in {x}",),
        LETTERS,
    ),
    "strip": Family(
        "text",
        ("Return {x} without the letter '{k}'.",
         "Ibby has run out of the letter '{k}', so write {x} without it."),
        ("return {x}.replace('{k}', '')",
         "return ''.join(c for c in {x} if c != '{k}')"),
        LETTERS,
    ),
    "starts": Family(
        "text",
        ("Return True if {x} begins with '{k}'.",
         "Tell whether {x} stands under '{k}' in the dictionary."),
        ("return {x}[0] == '{k}'",),
        LETTERS,
    ),
    "ends": Family(
        "text",
        ("Return True if {x} ends with '{k}'.",
         "Tell whether Ibby writes '{k}' last when she writes {x}."),
        ("return {x}[-1] == '{k}'",),
        LETTERS,
    ),
    "cut": Family(
        "text",
        ("Return the first {k} letters of {x} and a dot.",
         "Write {k} letters of {x} and a dot, to save ink."),
        ("return {x}[:{k}] + '.'", "short = {x}[:{k}]\nreturn short + '.'"),
        FEW,
    ),
    "plural_of": Family(
        "text",
        ("Return {x} with an s at the end.", "Make several out of one {x}."),
        ("return {x} + 's'",),
    ),
    "frame": Family(
        "text",
        ("Return the first and the last letter of {x}.",
         "Fold {x} until only its two ends can be seen."),
        ("return {x}[0] + {x}[-1]",),
    ),
    "longer": Family(
        "texts",
        ("Return True if {x} is longer than {y}.",
         "Tell whether {x} costs more ink than {y}."),
        ("return len({x}) > len({y})",),
    ),
    "alike": Family(
        "texts",
        ("Return True if {x} and {y} begin with the same letter.",
         "Tell whether {x} and {y} stand on one page of the dictionary."),
        ("return {x}[0] == {y}[0]",),
    ),
}  # fmt: skip

GROUPS = (NUMBER_FAMILIES, LIST_FAMILIES, TEXT_FAMILIES)
FAMILIES = {name: made for group in GROUPS for name, made in group.items()}


# --- rules -----------------------------------------------------------------

ARGUMENTS = {  # what is drawn for a call, by what the function takes
    "number": "<code.number>",
    "many": "<code.many>",
    "more": "<code.more>",
    "two": "<code.digit>, <code.digit>",
    "text": "'<code.string>'",
    "texts": "'<code.any-string>', '<code.any-string>'",
}
LISTS = (
    "[<code.digit>, <code.digit>, <code.digit>]",
    "[<code.digit>, <code.digit>, <code.digit>, <code.digit>]",
)
NUMBER_MOST = 12
MANY_MOST = 20


@cache
def _all_but(name: str, among: tuple[str, ...], used: str) -> Rule:
    """What is left to draw when some of it was drawn before."""
    left = [one for one in among if one not in used.split()]
    return Rule(f"{name}.but.{used}", left)


def _unused(
    name: str, among: Callable[[Scene], tuple[str, ...]]
) -> Callable[[Scene], Rule]:
    return lambda scene: _all_but(name, among(scene), scene["used"])


def _numbers(first: int, last: int) -> tuple[str, ...]:
    return tuple(map(str, range(first, last + 1)))


def _drawn_once(template: str, key: str) -> str:
    """The template, with the first slot of ``key`` a draw of it.

    >>> _drawn_once("{x} plus {k}, {k}", "<k=code.k.add>")
    '{x} plus <k=code.k.add>, {k}'
    """
    return template.replace("{k}", key, 1)


def _indented(body: str) -> str:
    return "".join(f"    {line}\n" for line in body.split("\n"))


def _noun_rule(family: Family) -> str:
    return "code.text" if family.takes in ("text", "texts") else "code.thing"


def _family_rules(name: str, family: Family) -> dict[str, Rule]:
    docs = [_drawn_once(d, f"<k=code.k.{name}>") for d in family.docs]
    rules = {
        f"code.doc.{name}": Rule(f"code.doc.{name}", docs),
        f"code.body.{name}": Rule(
            f"code.body.{name}", [_indented(body) for body in family.bodies]
        ),
    }
    if family.constants:
        constants = Rule(f"code.k.{name}", family.constants)
        rules[constants.name] = constants
    return rules


def _names(families: Mapping[str, Family]) -> tuple[Option, ...]:
    """The names of functions, those of the first families more often."""
    options = [
        Option(f"{name}_<noun={_noun_rule(family)}>", sets={"family": name})
        for name, family in families.items()
    ]
    return lexicon.ranked("code.name", options).options


RULES: Rules = {
    "code.def": Rule("code.def", ["def <name=code.name>("]),
    "code.name": Rule("code.name", [o for g in GROUPS for o in _names(g)]),
    "code.thing": lexicon.words("code.thing", THINGS),
    "code.text": lexicon.words("code.text", TEXTS),
    **{
        f"code.in.{takes}": Rule(f"code.in.{takes}", names)
        for takes, names in PARAMETERS.items()
    },
    **{
        f"code.head.{takes}": Rule(
            f"code.head.{takes}", [f'<p=code.in.{takes}>):\n    """']
        )
        for takes in PARAMETERS
    },
    **{
        f"code.call.{takes}": Rule(
            f"code.call.{takes}", [f"{{name}}(<arguments=code.of.{takes}>)"]
        )
        for takes in PARAMETERS
    },
    **{
        f"code.of.{takes}": Rule(f"code.of.{takes}", [template])
        for takes, template in ARGUMENTS.items()
    },
    "code.of.list": Rule("code.of.list", LISTS),
    "code.digit": Rule("code.digit", _numbers(1, 9)),
    "code.number": _unused("number", lambda _: _numbers(1, NUMBER_MOST)),
    "code.many": _unused("many", lambda _: _numbers(1, MANY_MOST)),
    "code.more": _unused(
        "more", lambda scene: _numbers(int(scene["k"]), MANY_MOST)
    ),
    "code.any-string": lexicon.words("code.any-string", STRINGS),
    "code.string": _unused("string", lambda _: STRINGS),
    "code.again": Rule("code.again", [Option("\nassert ", 1, "again"), ""]),
    **{
        rule: made
        for name, family in FAMILIES.items()
        for rule, made in _family_rules(name, family).items()
    },
}


# --- telling ---------------------------------------------------------------


@cache
def meaning(family: str, constant: str) -> Callable[..., Any]:
    """The function that this family makes with this constant.

    >>> meaning("add", "7")(5)
    12
    """
    body = _indented(FAMILIES[family].bodies[0])
    source = body.format(x="x", y="y", k=constant)
    two = FAMILIES[family].takes in ("two", "texts")
    room: dict[str, Any] = {}
    exec(f"def made({'x, y' if two else 'x'}):\n{source}", room)
    return room["made"]


def arguments(text: str) -> tuple[Any, ...]:
    """The values of the arguments of a call.

    >>> arguments("3, 'moon'")
    (3, 'moon')
    """
    return ast.literal_eval(f"({text},)")


def tell_function(page: Page) -> None:
    """Signature, docstring with an example, body, and a test or two."""
    page.say("code.def")
    scene = page.scene
    name = scene["name.family"]
    page.say(f"code.head.{FAMILIES[name].takes}")
    scene["x"], _, scene["y"] = scene["p"].partition(", ")
    page.say(f"code.doc.{name}")
    scene["used"] = ""
    page.put("\n    >>> ")
    _call(page, "\n    ")
    page.put('\n    """\n')
    page.answer_begins()
    page.say(f"code.body.{name}")
    page.put("\nassert ")
    _call(page, " == ")
    if page.say("code.again") == "again":
        _call(page, " == ")


def _call(page: Page, then: str) -> None:
    """A call with drawn arguments, and what it gives."""
    scene = page.scene
    name = scene["name.family"]
    page.say(f"code.call.{FAMILIES[name].takes}")
    drawn = scene["arguments"]
    scene["used"] += " " + drawn.strip("'")
    value = meaning(name, scene.get("k", ""))(*arguments(drawn))
    page.put(f"{then}{value!r}")


# --- what is held ----------------------------------------------------------


def combination(scene: Mapping[str, str]) -> tuple[str, str]:
    """The family of a finished function, and its constant or else its noun."""
    name = scene["name.family"]
    return name, scene["k" if FAMILIES[name].holds_constants else "noun"]


def chances(rules: Rules) -> dict[tuple[str, str], float]:
    """The exact probability of every combination."""
    found = {}
    names = rules["code.name"]
    for option, log in zip(names.options, names.logs, strict=True):
        name = option.sets["family"]
        family = FAMILIES[name]
        rule = rules[
            f"code.k.{name}" if family.holds_constants else _noun_rule(family)
        ]
        for value, part in zip(rule.options, rule.logs, strict=True):
            found[name, value.template] = math.exp(log + part)
    return found


def _held() -> Iterator[tuple[str, str]]:
    """One value in seven of every family, another one in the next."""
    rows: Counter = Counter()  # of the families that share their values
    for name, family in FAMILIES.items():
        nouns = TEXTS if _noun_rule(family) == "code.text" else THINGS
        values = family.constants if family.holds_constants else nouns
        for column, value in enumerate(values):
            if (3 * rows[values] + column) % HELD_EVERY == 0:
                yield name, value
        rows[values] += 1


SHARE = 0.1
HELD = frozenset(_held())
KIND = Kind(
    "function",
    SHARE,
    tell_function,
    combination,
    HELD,
    math.fsum(p for c, p in chances(RULES).items() if c in HELD),
)


# --- the benchmark ---------------------------------------------------------

ALIKE = {"many": "number", "more": "number"}  # they take the same values
FEWEST_TESTS = 3
TESTS_DRAWN = 60  # of which those are kept that tell a rival apart


def humaneval_rows(
    side: Side, count: int, seed: int | str = 0
) -> list[dict[str, str]]:
    """``count`` different functions in the form of HumanEval's file.

    >>> humaneval_rows("unseen", 1)[0]["task_id"]
    'Lull/0'
    """
    grammar = Grammar(RULES, (KIND,))
    rows: dict[str, dict[str, str]] = {}
    index = 0
    while len(rows) < count:
        source = random.Random(f"humaneval/{seed}/{index}")
        page = Writer(grammar, at_random(source))
        tell_function(page)
        if KIND.admits(combination(page.scene), side):
            row = _row(page)
            rows.setdefault(row["prompt"], row)
        index += 1
    return [
        {"task_id": f"Lull/{number}", **row}
        for number, row in enumerate(rows.values())
    ]


def _row(page: Page) -> dict[str, str]:
    text, (split, _) = page.so_far(), page.cut
    return {
        "prompt": text[:split],
        "entry_point": page.scene["name"],
        "canonical_solution": text[split : text.index("\nassert ")],
        "test": _check(page),
    }


def _check(page: Page) -> str:
    """The source of ``check``: it catches every other function of Lull."""
    name, constant = page.scene["name.family"], page.scene.get("k", "")
    drawn = list(dict.fromkeys(_more_arguments(page)))
    values = [arguments(text) for text in drawn]
    ours = [meaning(name, constant)(*value) for value in values]
    kept = set(range(FEWEST_TESTS))
    for rival in _rivals(name):
        theirs = [meaning(*rival)(*value) for value in values]
        apart = [i for i, gives in enumerate(ours) if gives != theirs[i]]
        if apart and not kept & set(apart):
            kept.add(apart[0])
    lines = [
        f"    assert candidate({drawn[i]}) == {ours[i]!r}\n"
        for i in sorted(kept)
    ]
    head = "\n\nMETADATA = {}\n\n\ndef check(candidate):\n"
    return head + "".join(lines)


def _more_arguments(page: Page) -> Iterator[str]:
    takes = FAMILIES[page.scene["name.family"]].takes
    page.scene["used"] = ""
    for _ in range(TESTS_DRAWN):
        page.say(f"code.call.{takes}")
        yield page.scene["arguments"]


def _rivals(name: str) -> Iterator[tuple[str, str]]:
    """Every function that takes the same values, with every constant."""
    takes = FAMILIES[name].takes
    for other, family in FAMILIES.items():
        if ALIKE.get(family.takes, family.takes) == ALIKE.get(takes, takes):
            for constant in family.constants or ("",):
                yield other, constant
