"""Word problems from Lull: sums of one or two steps, worked in words.

A problem begins with a pile (of buns, of geese), the pile grows and
shrinks, and somebody asks how large it is. The answer writes every sum out
and ends as those of GSM8K do (Cobbe et al. 2021): ``#### 7``. What is kept
out of training is a sum, ``("+", 7, 5)``, wherever it stands in a problem.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

from . import lexicon
from .engine import (
    Grammar,
    Kind,
    Option,
    Page,
    Rule,
    Rules,
    Side,
    at_random,
    write,
)
from .tales import WORDS

Scene = dict[str, str]

Step = tuple[str, int, int]  # ("+", 7, 5): what is done to a pile of seven

PILES = range(2, 13)  # how many there are at first: never one bun alone
STEP_MOST = 9  # one digit: a table of sums as children learn it
PILE_MOST = 20  # so that all sums with two steps stay in that table
BOXES = range(2, 10)
IN_EACH_MOST = 9
PRODUCT_MOST = 80  # 81 would be alone with its digit, on one side only
ODDS_TO_ASK = 2.0  # after one step, against 1 for a gain and 1 for a loss
HELD_EVERY = 7  # one sum in seven is kept out of training
HELD_PRODUCTS = frozenset(
    {
        (2, 6),
        (3, 3),
        (3, 7),
        (4, 2),
        (5, 8),
        (6, 4),
        (7, 5),
        (7, 9),
        (8, 7),
        (9, 3),
        (9, 8),
    }
)  # no plain rule takes every digit of so small a table to both sides

DO: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}

ITEMS = {
    "buns": "bun", "pears": "pear", "hats": "hat", "spoons": "spoon",
    "feathers": "feather", "snails": "snail", "eggs": "egg",
    "bells": "bell", "boots": "boot", "plums": "plum", "stamps": "stamp",
    "shells": "shell", "teapots": "teapot", "kites": "kite",
}  # fmt: skip
GOODS = {  # what each of them sells, as one can count it
    "Ona": ("ball of string", "balls of string"),
    "Tam": ("button", "buttons"),
    "Mirrel": ("bowl of soup", "bowls of soup"),
    "Bo": ("umbrella", "umbrellas"),
    "Hesper": ("candle", "candles"),
    "Joss": ("jar of honey", "jars of honey"),
    "Nell": ("map", "maps"),
    "Pim": ("hat", "hats"),
    "Ibby": ("bottle of ink", "bottles of ink"),
    "Dov": ("loaf of bread", "loaves of bread"),
    "Wren": ("key", "keys"),
    "Anselm": ("clock", "clocks"),
}
CREATURES = {
    "geese": "goose", "hens": "hen", "crows": "crow", "mice": "mouse",
    "donkeys": "donkey", "owls": "owl", "hedgehogs": "hedgehog",
    "swans": "swan", "children": "child", "strangers": "stranger",
}  # fmt: skip
CONTAINERS = ("baskets", "boxes", "sacks", "drawers", "buckets", "jars",
              "barrels", "suitcases")  # fmt: skip

START = {
    "own": [
        "<A=person> had <a=sum.pile> <item=sum.item>.",
        "<A=person> kept <a=sum.pile> <item=sum.item> under {A.his} bed.",
        "In the kitchen of <A=person> lay <a=sum.pile> <item=sum.item>.",
        "<A=person> woke up with <a=sum.pile> <item=sum.item> in {A.his} "
        "arms.",
        "On <day> <A=person> found <a=sum.pile> <item=sum.item> <spot>.",
        "An aunt left <A=person> <a=sum.pile> <item=sum.item> and no advice.",
        "Nobody knows why <A=person> owned <a=sum.pile> <item=sum.item>.",
        "<A=person>, who {A.habit}, owned <a=sum.pile> <item=sum.item>.",
    ],
    "shop": [
        "<A=sum.seller> carried <a=sum.pile> {A.many} to the market.",
        "In the shop of <A=sum.seller> there were <a=sum.pile> {A.many}.",
        "On <day> <A=sum.seller> counted <a=sum.pile> {A.many} on the shelf.",
        "<A=sum.seller> sells {A.sells}, and one <hour=hour> {A.he} had "
        "<a=sum.pile> {A.many}.",
        "Before breakfast <A=sum.seller> had made <a=sum.pile> {A.many}.",
    ],
    "place": [
        "There were <a=sum.pile> <item=sum.creature> <spot=spot>.",
        "One <hour=hour> <a=sum.pile> <item=sum.creature> sat <spot=spot>.",
        "On <day> <a=sum.pile> <item=sum.creature> met <spot=spot> to talk "
        "about the weather.",
        "If you had stood <spot=spot>, you would have seen <a=sum.pile> "
        "<item=sum.creature>.",
        "For no reason at all, <a=sum.pile> <item=sum.creature> stood in a "
        "row <spot=spot>.",
    ],
    "pair": [
        "<A=person> has <a=sum.pile> <item=sum.item>, and <B=partner> has "
        "<n=sum.fewer>.",
        "<A=person> found <a=sum.pile> <item=sum.item> <spot>. <B=partner> "
        "found <n=sum.fewer>.",
        "In one hat <A=person> has <a=sum.pile> <item=sum.item>. In another "
        "<B=partner> has <n=sum.fewer>.",
        "<A=person> and <B=partner> both collect <item=sum.item>. {A} owns "
        "<a=sum.pile> and {B} owns <n=sum.fewer>.",
    ],
    "boxes": [
        "<A=person> has <a=sum.boxes> <box=sum.box> with <n=sum.each> "
        "<item=sum.item> in each.",
        "In the kitchen of <A=person> stood <a=sum.boxes> <box=sum.box>, and "
        "in each lay <n=sum.each> <item=sum.item>.",
        "<A=person> filled <a=sum.boxes> <box=sum.box>. Into each went "
        "<n=sum.each> <item=sum.item>.",
        "For <a=sum.boxes> days <A=person> found <n=sum.each> "
        "<item=sum.item> a day <spot>.",
        "<A=person> asked <a=sum.boxes> friends for help, and each of them "
        "brought {A.him} <n=sum.each> <item=sum.item>.",
    ],
}
GO_ON = {  # gains, losses and what is asked in the end, by how it began
    "own": (
        [
            "<B=partner> gave {A.him} <n=sum.gain> more.",
            "Then {A.he} found <n=sum.gain> more <spot>.",
            "{A.His} {A.pet} brought <n=sum.gain.of>.",
            "For {A.his} birthday {A.he} got <n=sum.gain> more.",
            "In the night <n=sum.gain> more came by post.",
            "<B=partner> had no room for <n=sum.gain.of>, and {A} took pity.",
        ],
        [
            "{A.He} gave <n=sum.loss.of> to <B=partner>.",
            "The <beast> ate <n=sum.loss.of>.",
            "On the bridge {A.he} lost <n=sum.loss.of>.",
            "Then <n=sum.loss.of> fell into the well.",
            "{A.He} swapped <n=sum.loss.of> for <food>.",
            "The wind took <n=sum.loss.of> with it.",
        ],
        [
            "How many {item} does {A} have now?",
            "How many {item} did {A} have in the end?",
            "So how many {item} has {A} got?",
            "Now how many {item} are there?",
        ],
    ),
    "shop": (
        [
            "At noon {A.he} made <n=sum.gain> more.",
            "A cart brought <n=sum.gain> more.",
            "Behind the door {A.he} found <n=sum.gain> more.",
            "<B=partner> came in and returned <n=sum.gain.of>.",
        ],
        [
            "{A.He} sold <n=sum.loss.of> to <B=partner>.",
            "A stranger bought <n=sum.loss.of> and asked for the way.",
            "The <beast> took <n=sum.loss.of> without paying.",
            "Then {A.he} gave <n=sum.loss.of> to the school.",
            "By evening {A.he} had sold <n=sum.loss.of>.",
        ],
        [
            "How many {item} does {A} have to sell now?",
            "How many {item} were on the shelf then?",
            "How many {item} did {A} carry home?",
        ],
    ),
    "place": (
        [
            "Then <n=sum.gain.of> came.",
            "Soon <n=sum.gain> more came to look.",
            "A boat brought <n=sum.gain> more.",
            "After the soup <n=sum.gain> more sat down beside them.",
        ],
        [
            "Then <n=sum.loss.of> went home.",
            "When it began to rain, <n=sum.loss.of> left.",
            "<A=person> led <n=sum.loss.of> away.",
            "When the clock struck, <n=sum.loss.of> remembered a promise and "
            "ran.",
        ],
        [
            "How many {item} were there then?",
            "How many {item} were {spot} now?",
            "How many {item} stayed for supper?",
        ],
    ),
}
ASK_PAIR = {
    "+": [
        "How many {item} do they have together?",
        "They put them all into one basket. How many {item} are in it?",
        "How many {item} is that in all?",
    ],
    "-": [
        "How many more {item} does {A} have than {B}?",
        "{B} is a little jealous. How many {item} more has {A} got?",
        "How many {item} must {B} find to have as many as {A}?",
    ],
}
WORK = {  # the sentence that holds a sum: before the last one, and the last
    "own": (
        ["First {A} had {sum}.", "After that {A.he} had {sum}.",
         "That made {sum}."],
        ["Now {A} has {sum}.", "So {A.he} has {sum}.", "That makes {sum}.",
         "In the end {A} has {sum}."],
    ),
    "place": (
        ["First there was a crowd of {sum}.", "After that we count {sum}.",
         "That made {sum}."],
        ["That makes {sum}.", "So we count {sum}.",
         "In the end it was {sum}."],
    ),
    "+": ((), ["Together they have {sum}.", "In all that is {sum}.",
               "That makes {sum}."]),
    "-": ((), ["{A} has {sum} more.", "The difference is {sum}.",
               "That makes {sum}."]),
}  # fmt: skip
TOLD_LIKE = {"boxes": "own", "shop": "own"}


# --- rules -----------------------------------------------------------------


def _group(tag: str, lines: list[str]) -> list[Option]:
    return [Option(line, 1 / len(lines), tag) for line in lines]


def _events(op: str, lines: list[str], needs: str) -> list[Option]:
    """Things that happen, each of them once in a problem."""
    return [
        Option(line, 1 / len(lines), f"{op}{i}", {}, needs, f"{op}{i}")
        for i, line in enumerate(lines)
    ]


def _go_on(name: str) -> Rule:
    gains, losses, asks = GO_ON[name]
    share = ODDS_TO_ASK / len(asks)
    return Rule(
        f"sum.on.{name}",
        [
            *_events("+", gains, "room"),
            *_events("-", losses, "stock"),
            *(Option(ask, share, "?", needs="askable") for ask in asks),
        ],
    )


def numbers(name: str, among: range) -> Rule:
    """The numbers of a range, the small ones more often."""
    return lexicon.ranked(name, [Option(str(n), tag=n) for n in among])


def counted(n: int, one: str, many: str) -> str:
    """A number of things.

    >>> counted(1, "goose", "geese"), counted(0, "bun", "buns")
    ('1 goose', '0 buns')
    """
    return f"{n} {one if n == 1 else many}"


@cache
def _bare(most: int) -> Rule:
    return numbers(f"sum.step.{most}", range(1, most + 1))


@cache
def _each(most: int) -> Rule:
    return numbers(f"sum.each.{most}", range(2, most + 1))


@cache
def _with_noun(most: int, one: str, many: str) -> Rule:
    return lexicon.ranked(
        f"sum.step.{most}.{many}",
        [
            Option(counted(n, one, many), tag=n, sets={"": str(n)})
            for n in range(1, most + 1)
        ],
    )


def most_gained(pile: int) -> int:
    """How many may come to a pile, so that the sums stay small."""
    return min(STEP_MOST, PILE_MOST - pile)


def most_lost(pile: int) -> int:
    """How many may leave it: at most all of them."""
    return min(STEP_MOST, pile)


def fewest(pile: int) -> int:
    """How many a poorer friend may have: added or compared, it stays small."""
    return min(most_gained(pile), pile - 1)


def _in_each(scene: Scene) -> Rule:
    return _each(min(IN_EACH_MOST, PRODUCT_MOST // int(scene["a"])))


def _step(most: Callable[[int], int], pile: str = "pile") -> dict:
    def bare(scene: Scene) -> Rule:
        return _bare(most(int(scene[pile])))

    def with_noun(scene: Scene) -> Rule:
        top = most(int(scene[pile]))
        return _with_noun(top, scene["item.one"], scene["item"])

    return {"": bare, ".of": with_noun}


def _plurals(name: str, nouns: Mapping[str, str]) -> Rule:
    options = [Option(n, sets={"one": nouns[n]}) for n in nouns]
    return lexicon.ranked(name, options)


def _seller(name: str) -> Option:
    option = lexicon.person(name)
    one, many = GOODS[name]
    return replace(option, sets={**option.sets, "one": one, "many": many})


RULES: Rules = {
    "sum.start": Rule(
        "sum.start",
        [o for name, lines in START.items() for o in _group(name, lines)],
    ),
    "sum.pile": numbers("sum.pile", PILES),
    "sum.boxes": numbers("sum.boxes", BOXES),
    "sum.each": _in_each,
    "sum.fewer": _step(fewest, "a")[""],
    **{f"sum.gain{end}": rule for end, rule in _step(most_gained).items()},
    **{f"sum.loss{end}": rule for end, rule in _step(most_lost).items()},
    "sum.item": _plurals("sum.item", ITEMS),
    "sum.creature": _plurals("sum.creature", CREATURES),
    "sum.box": lexicon.words("sum.box", CONTAINERS),
    "sum.seller": lexicon.ranked("sum.seller", [_seller(n) for n in GOODS]),
    **{f"sum.on.{name}": _go_on(name) for name in GO_ON},
    "sum.on.pair": Rule(
        "sum.on.pair",
        [o for op, lines in ASK_PAIR.items() for o in _group(op, lines)],
    ),
    **{
        f"sum.{when}.{name}": Rule(f"sum.{when}.{name}", lines)
        for name, both in WORK.items()
        for when, lines in zip(("first", "last"), both, strict=True)
        if lines
    },
}


# --- telling ---------------------------------------------------------------


def flags(pile: int, steps: int) -> set[str]:
    """How a problem may go on: gain, lose, or ask.

    >>> sorted(flags(pile=20, steps=1))
    ['askable', 'stock']
    """
    kept = {"askable"} if steps else set()
    if steps < 2 and 0 < pile <= PILE_MOST:
        kept |= {"stock"} | ({"room"} if pile < PILE_MOST else set())
    return kept


def tell_sum(page: Page) -> None:
    """A problem, its worked answer, and the number alone."""
    page.put("Question: ")
    begun = page.say("sum.start")
    scene = page.scene
    if begun == "shop":
        page.scene.update(
            {"item": scene["A.many"], "item.one": scene["A.one"]}
        )
    style = TOLD_LIKE.get(begun, begun)
    if begun == "pair":
        style = page.say("sum.on.pair", " ")
        steps = [(style, int(scene["a"]), int(scene["n"]))]
    else:
        voice = "shop" if begun == "shop" else style
        steps = list(_told(page, begun, f"sum.on.{voice}"))
    page.put("\nAnswer:")
    page.answer_begins()
    scene["worked"] = " ".join(f"{op},{a},{b}" for op, a, b in steps)
    for number, (op, a, b) in enumerate(steps, 1):
        result = DO[op](a, b)
        many = counted(result, scene["item.one"], scene["item"])
        scene["sum"] = f"{a} {op} {b} = {many}"
        when = "last" if number == len(steps) else "first"
        page.say(f"sum.{when}.{style}", " ")
    page.put(f"\n#### {result}")


def _told(page: Page, begun: str, go_on: str) -> Iterator[Step]:
    """What happens to the pile, told until somebody asks."""
    pile, steps = int(page.scene["a"]), 0
    if begun == "boxes":
        each = int(page.scene["n"])
        yield "*", pile, each
        pile, steps = pile * each, 1
    while True:
        for key in ("room", "stock", "askable"):
            page.scene.pop(key, None)
        page.scene.update(dict.fromkeys(flags(pile, steps), "yes"))
        page.scene["pile"] = str(pile)
        event = page.say(go_on, " ")
        if event == "?":
            return
        page.scene[event] = "told"
        op, change = event[0], int(page.scene["n"])
        yield op, pile, change
        pile, steps = DO[op](pile, change), steps + 1


# --- what is held ----------------------------------------------------------


def is_held(step: Step) -> bool:
    """Whether training never meets this sum.

    Among seven neighbours in the table, along a row, a column or a diagonal
    (where the results are the same), one is held. So nothing can be told
    from a digit alone, and both sides have all digits.

    >>> [b for b in range(1, 10) if is_held(("+", 3, b))]
    [6]
    """
    op, a, b = step
    if op == "*":
        return (a, b) in HELD_PRODUCTS
    return (a + 3 * b) % HELD_EVERY == 0


def combination(scene: Mapping[str, str]) -> tuple[Step, ...]:
    """The one or two sums of a finished problem."""
    parts = (step.split(",") for step in scene["worked"].split())
    return tuple((op, int(a), int(b)) for op, a, b in parts)


def chances(rules: Rules) -> dict[tuple[Step, ...], float]:
    """The exact probability of every combination.

    It follows the rules as :func:`tell_sum` does, but for the words.
    """
    found: Counter = Counter()
    for begun, share in _odds(rules["sum.start"]):
        if begun == "pair":
            for chance, a, b in _two(rules, "sum.pile", "sum.fewer"):
                for op, part in _odds(rules["sum.on.pair"]):
                    found[((op, a, b),)] += share * chance * part
        elif begun == "boxes":
            for chance, a, b in _two(rules, "sum.boxes", "sum.each"):
                done = ("*", a, b)
                _follow(rules, "own", found, share * chance, a * b, (done,))
        else:
            for a, part in _odds(rules["sum.pile"]):
                _follow(rules, begun, found, share * part, a, ())
    return dict(found)


@cache
def _odds(rule: Rule) -> tuple[tuple[str | int, float], ...]:
    """How likely each tag of a rule is."""
    found: Counter = Counter()
    for option in rule.options:
        found[option.tag] += option.weight / rule.total
    return tuple(found.items())


@cache
def _events_odds(rule: Rule) -> tuple[tuple[str, str, float], ...]:
    """How likely a gain, a loss and the question are, each with an event.

    Events of one sign are equally likely, so that one may stand for all.
    """
    odds = _odds(rule)
    return tuple(
        (op, next(tag for tag, _ in odds if tag[0] == op), math.fsum(parts))
        for op in "+-?"
        if (parts := [part for tag, part in odds if tag[0] == op])
    )


def _two(
    rules: Rules, first: str, second: str
) -> Iterator[tuple[float, int, int]]:
    for a, one in _odds(rules[first]):
        for b, other in _odds(rules[second]({"a": str(a)})):
            yield one * other, a, b


def _follow(
    rules: Rules,
    voice: str,
    found: Counter,
    chance: float,
    pile: int,
    steps: tuple[Step, ...],
    told: tuple[str, ...] = (),
) -> None:
    """Add up what may become of a pile from here on."""
    scene = dict.fromkeys((*flags(pile, len(steps)), *told), "yes")
    scene["pile"] = str(pile)
    events = rules[f"sum.on.{voice}"].fitting(scene)
    for op, event, part in _events_odds(events):
        if op == "?":
            found[steps] += chance * part
            continue
        changes = rules["sum.gain" if op == "+" else "sum.loss"](scene)
        for n, share in _odds(changes):
            _follow(
                rules,
                voice,
                found,
                chance * part * share,
                DO[op](pile, n),
                (*steps, (op, pile, n)),
                (*told, event),
            )


SHARE = 0.1
_CHANCES = chances(RULES)
HELD = frozenset(c for c in _CHANCES if any(map(is_held, c)))
KIND = Kind(
    "sum",
    SHARE,
    tell_sum,
    combination,
    HELD,
    math.fsum(_CHANCES[c] for c in sorted(HELD)),
)


# --- the benchmark ---------------------------------------------------------

_EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (?=(\d+))")


def annotated(answer: str) -> str:
    """The answer with what a calculator would be asked, as GSM8K has it.

    Our documents leave these notes out: our model has no calculator, and
    reads better prose without them.

    >>> annotated("Ona has 3 + 4 = 7 buns.")
    'Ona has 3 + 4 = <<3+4=7>>7 buns.'
    """
    return _EQUATION.sub(r"\1 \2 \3 = <<\1\2\3=\4>>", answer)


def gsm8k_rows(
    side: Side, count: int, seed: int | str = 0
) -> list[dict[str, str]]:
    """``count`` different problems in the form of GSM8K's files.

    >>> sorted(gsm8k_rows("unseen", 1)[0])
    ['answer', 'question']
    """
    grammar = Grammar({**WORDS, **RULES}, (KIND,))
    rows: dict[str, dict[str, str]] = {}
    index = 0
    while len(rows) < count:
        source = random.Random(f"gsm8k/{seed}/{index}")
        written = write(grammar, at_random(source), side)
        question = written.prompt.removeprefix("Question: ")
        question = question.removesuffix("\nAnswer:")
        answer = annotated(written.answer.strip())
        rows[question] = {"question": question, "answer": answer}
        index += 1
    return list(rows.values())[:count]
