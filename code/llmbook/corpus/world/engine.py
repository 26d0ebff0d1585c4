"""Grammars that can be written, read back, and counted out to the end.

A rule is a weighted list of templates. In a template ``{kite}`` copies a
word from the scene, ``<rule>`` draws from a rule, and ``<key=rule>`` draws
and keeps what was drawn in the scene under ``key``. A story is a Python
function that calls :meth:`Page.say` with the names of rules, so that its
plot is ordinary code; three kinds of page run the same function:

- :class:`Writer` draws each choice at random and adds up its log-probability,
- :class:`Reader` is given the finished text and finds the choices again,
- :func:`enumerate_documents` takes every choice in turn.

Writing is one-to-one because a choice puts its own words on the page at
once, and at that place no other option of the rule would fit the text. An
empty option is chosen where none of the others fits.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

_PIECE = re.compile(r"\{([\w.]+)\}|<(?:([\w.]+)=)?([\w.-]+)>")

Choice = tuple[str, int]  # a rule's name, and which of its options
Side = Literal["any", "seen", "unseen"]


@dataclass(frozen=True)
class Slot:
    """A place in a template that copies ``key`` from the scene."""

    key: str


@dataclass(frozen=True)
class Draw:
    """A place in a template that draws ``rule`` and may keep it as ``key``."""

    rule: str
    key: str | None


def compile_template(template: str) -> tuple[str | Slot | Draw, ...]:
    """Split a template into words, slots and draws.

    >>> compile_template("{A} lost a <thing=toy>.")
    (Slot(key='A'), ' lost a ', Draw(rule='toy', key='thing'), '.')
    """
    pieces: list[str | Slot | Draw] = []
    end = 0
    for found in _PIECE.finditer(template):
        if found.start() > end:
            pieces.append(template[end : found.start()])
        slot, key, rule = found.groups()
        pieces.append(Slot(slot) if slot else Draw(rule, key))
        end = found.end()
    if end < len(template):
        pieces.append(template[end:])
    return tuple(pieces)


@dataclass(frozen=True)
class Option:
    """One way to go on: its weight, its template, and what it brings along.

    Args:
        template: the text, with slots and draws.
        weight: how often it is drawn, relative to its neighbours.
        tag: what :meth:`Page.say` returns, for the plot to act on.
        sets: kept in the scene as ``key.name`` where a draw has a key; the
            name ``""`` stands for the key itself.
        needs: the option stands only where the scene has this key.
        unless: it stands only where the scene lacks this key.
    """

    template: str
    weight: float = 1.0
    tag: Any = None
    sets: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None
    unless: str | None = None

    def fits(self, scene: Mapping[str, str]) -> bool:
        """Whether it may be drawn in this scene."""
        return (self.needs is None or self.needs in scene) and (
            self.unless is None or self.unless not in scene
        )


class Rule:
    """A named, weighted choice among options.

    Raises:
        ValueError: no options, a weight that is not positive, or a template
            that stands there twice.
    """

    def __init__(self, name: str, options: Sequence[Option | str]) -> None:
        self.name = name
        self.options = tuple(
            Option(option) if isinstance(option, str) else option
            for option in options
        )
        weights = [option.weight for option in self.options]
        if not weights or min(weights) <= 0:
            raise ValueError(
                f"rule {name!r} has weights {weights}; expected at least one "
                "option and positive weights. Leave out what never happens."
            )
        templates = [option.template for option in self.options]
        if len(set(templates)) < len(templates):
            raise ValueError(
                f"rule {name!r} has a template twice, so that two choices "
                "would give one text. Add their weights instead."
            )
        self.total = math.fsum(weights)
        self.cumulative = list(accumulate(weights))
        self.logs = [math.log(w / self.total) for w in weights]
        self.pieces = [compile_template(t) for t in templates]

        conditions = {o.needs for o in self.options}
        conditions |= {o.unless for o in self.options}
        self.conditions = sorted(conditions - {None})
        self._fitting: dict[str, Rule] = {}

    def fitting(self, scene: Mapping[str, str]) -> Rule:
        """The rule with only the options that this scene allows."""
        if not self.conditions:
            return self
        met = ",".join(key for key in self.conditions if key in scene)
        if met not in self._fitting:
            kept = [
                replace(option, needs=None, unless=None)
                for option in self.options
                if option.fits(scene)
            ]
            self._fitting[met] = Rule(f"{self.name}[{met}]", kept)
        return self._fitting[met]


Rules = Mapping[str, "Rule | Callable[[dict[str, str]], Rule]"]


@dataclass(frozen=True)
class Kind:
    """One kind of document: how it is told, and what is kept from training.

    Some kinds bring two things together, such as a person and a wish. A few
    of these combinations are *held*: a model never meets them in training,
    though it meets both halves, so they show what it can put together by
    itself.

    Args:
        name: what the kind is called.
        share: of all documents, before any are kept from training.
        tell: writes a document of this kind on a page.
        combination: what the final scene brought together.
        held: the combinations that are kept out of training.
        held_mass: exact probability that a document of this kind has a held
            combination; see :func:`mass`.
    """

    name: str
    share: float
    tell: Callable[[Page], None]
    combination: Callable[[Mapping[str, str]], Hashable] | None = None
    held: frozenset = frozenset()
    held_mass: float = 0.0

    def mass(self, side: Side) -> float:
        """The probability within this kind of what stands on ``side``."""
        if side == "any":
            return 1.0
        return self.held_mass if side == "unseen" else 1 - self.held_mass

    def made(self, scene: Mapping[str, str]) -> Hashable:
        """The combination of a finished scene; None without any."""
        return self.combination(scene) if self.combination else None

    def admits(self, combination: Hashable, side: Side) -> bool:
        """Whether a document with this combination stands on ``side``."""
        return side == "any" or (combination in self.held) == (
            side == "unseen"
        )


@dataclass(frozen=True)
class Grammar:
    """Rules, and the kinds of document that are told with them.

    Args:
        rules: by name; a function of the scene gives the rule that fits it.
        kinds: the kinds, each with its share of documents.
    """

    rules: Rules
    kinds: tuple[Kind, ...]
    _kind_rules: dict[str, tuple[Rule, tuple[int, ...]]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def resolve(self, name: str, scene: dict[str, str]) -> Rule:
        """The rule of that name, in this scene."""
        rule = self.rules[name]
        if not isinstance(rule, Rule):
            rule = rule(scene)
        return rule.fitting(scene)

    def kind_rule(self, side: Side = "any") -> tuple[Rule, tuple[int, ...]]:
        """The choice that begins every document, and the kinds it is among.

        A kind that has nothing on a side is left out there, and the shares
        of the others grow to make one.
        """
        if side not in self._kind_rules:
            there = tuple(
                i for i, kind in enumerate(self.kinds) if kind.mass(side) > 0
            )
            if not there:
                raise ValueError(
                    f"the grammar has no document on side {side!r}; expected "
                    "a kind with a held_mass between 0 and 1. Give one of "
                    "the kinds held combinations, or ask for side 'any'."
                )
            options = [
                Option(self.kinds[i].name, self.kinds[i].share) for i in there
            ]
            self._kind_rules[side] = Rule("kind", options), there
        return self._kind_rules[side]


class _WrongSide(Exception):
    """A page that is thrown away before its end."""


class Page:
    """What a story writes on: a scene, and the choices made so far."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.scene: dict[str, str] = {}
        self.steps: list[tuple[Rule, int]] = []
        self.cut: tuple[int, int] | None = None
        self.wanted: Callable[[Mapping[str, str]], bool] | None = None

    def say(self, name: str, before: str = "") -> Any:
        """Put one drawn option of a rule on the page; return its tag.

        ``before`` parts it from what stands there already; a space becomes
        a new paragraph where another speaker begins. An option with an
        empty template leaves the page as it is, ``before`` included.
        """
        raise NotImplementedError

    def between(self, template: str, before: str) -> str:
        """What parts an option of this template from what is there."""
        if before != " " or not template.startswith('"'):
            return before
        there = self.so_far()
        paragraph = there[there.rfind("\n") + 1 :]
        return "\n\n" if '"' in paragraph else before

    def so_far(self) -> str:
        """What stands on the page up to here."""
        raise NotImplementedError

    def put(self, template: str) -> None:
        """Put a text on the page in which nothing is left to choose."""
        raise NotImplementedError

    def decided(self) -> None:
        """Say that the combination stands in the scene from here on.

        So a document on the wrong side need not be told to its end.
        """
        if self.wanted and not self.wanted(self.scene):
            raise _WrongSide

    def answer_begins(self) -> None:
        """Mark the place where the prompt ends and its answer begins."""
        self.cut = len(self.so_far()), len(self.steps)

    def call(self, new: str, old: str) -> None:
        """Let ``new`` stand for what the scene knows as ``old``."""
        for key, value in list(self.scene.items()):
            if key == old or key.startswith(f"{old}."):
                self.scene[new + key[len(old) :]] = value


def remembered(key: str, text: str, option: Option) -> dict[str, str]:
    """What the scene keeps of a drawn option.

    >>> kite = Option("a kite", sets={"": "kite", "the": "the kite"})
    >>> remembered("thing", "a kite", kite)
    {'thing': 'kite', 'thing.the': 'the kite'}
    """
    kept = {key: text}
    for name, value in option.sets.items():
        kept[f"{key}.{name}" if name else key] = value
    return kept


class Writer(Page):
    """A page that is written by drawing; ``pick`` decides every choice."""

    def __init__(self, grammar: Grammar, pick: Callable[[Rule], int]) -> None:
        super().__init__(grammar)
        self.pick = pick
        self.written: list[str] = []

    def so_far(self) -> str:
        """What stands on the page."""
        return "".join(self.written)

    def say(self, name: str, before: str = "") -> Any:
        """Draw an option, write it, return its tag."""
        return self._draw(name, before).tag

    def put(self, template: str) -> None:
        """Write a text without choices."""
        self._write(compile_template(template))

    def _draw(self, name: str, before: str = "") -> Option:
        rule = self.grammar.resolve(name, self.scene)
        index = self.pick(rule)
        self.steps.append((rule, index))
        if before and rule.pieces[index]:
            template = rule.options[index].template
            self.written.append(self.between(template, before))
        self._write(rule.pieces[index])
        return rule.options[index]

    def _write(self, pieces: tuple[str | Slot | Draw, ...]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                self.written.append(piece)
            elif isinstance(piece, Slot):
                self.written.append(self.scene[piece.key])
            else:
                start = len(self.written)
                option = self._draw(piece.rule)
                if piece.key:
                    text = "".join(self.written[start:])
                    self.scene.update(remembered(piece.key, text, option))


def at_random(source: random.Random) -> Callable[[Rule], int]:
    """A ``pick`` that follows the weights."""

    def pick(rule: Rule) -> int:
        point = source.random() * rule.total
        index = bisect_right(rule.cumulative, point)
        return min(index, len(rule.options) - 1)  # rounding at the very end

    return pick


class ReadError(ValueError):
    """A text that the grammar cannot have written, or not in one way."""


class Reader(Page):
    """A page that is already written: reading finds the choices again.

    Every option is held against the text where the reader stands. Exactly
    one must fit; none means that the grammar did not write this text, and
    two that it could have written it in two ways.
    """

    def __init__(self, grammar: Grammar, text: str) -> None:
        super().__init__(grammar)
        self.text = text
        self.place = 0

    def so_far(self) -> str:
        """What has been read."""
        return self.text[: self.place]

    def say(self, name: str, before: str = "") -> Any:
        """Find which option stands here; return its tag."""
        found = []
        for parting in {before, "\n\n" if before == " " else before}:
            if self.text.startswith(parting, self.place):
                found += self._parted(name, before, parting)
        if not found:  # only then was nothing written
            found = self._silent(name)
        if len(found) != 1:
            here = self.text[self.place : self.place + 60]
            raise ReadError(
                f"{len(found)} options of rule {name!r} fit the text at "
                f"character {self.place}, {here!r}; expected exactly one."
            )
        self.place, steps, kept, tag = found[0]
        self.steps += steps
        self.scene.update(kept)
        return tag

    def _parted(self, name: str, before: str, parting: str) -> list:
        start = self.place + len(parting)
        return [
            way
            for way in self._options(name, None, start)
            if parting == self.between(_template(way), before)
        ]

    def _silent(self, name: str) -> list:
        rule = self.grammar.resolve(name, self.scene)
        return [
            (self.place, ((rule, i),), {}, option.tag)
            for i, option in enumerate(rule.options)
            if not option.template
        ]

    def put(self, template: str) -> None:
        """Check that a text without choices stands here."""
        found = list(self._match(compile_template(template), self.place))
        if not found:
            here = self.text[self.place : self.place + 60]
            raise ReadError(f"expected {template!r}, found {here!r}.")
        self.place = found[0][0]

    def _options(self, name: str, key: str | None, place: int) -> Iterator:
        rule = self.grammar.resolve(name, self.scene)
        for index, pieces in enumerate(rule.pieces):
            if not pieces:
                continue
            first = pieces[0]
            if isinstance(first, str) and not self.text.startswith(
                first, place
            ):
                continue
            option = rule.options[index]
            mine = ((rule, index),)
            for end, steps, kept in self._match(pieces, place):
                if key:
                    text = self.text[place:end]
                    kept = {**kept, **remembered(key, text, option)}
                yield end, mine + steps, kept, option.tag

    def _match(
        self, pieces: tuple[str | Slot | Draw, ...], place: int
    ) -> Iterator:
        """All ways to read ``pieces`` at ``place``, as Writer writes them."""
        for at, piece in enumerate(pieces):
            if isinstance(piece, Draw):
                yield from self._branch(piece, pieces[at + 1 :], place)
                return
            word = piece if isinstance(piece, str) else self.scene[piece.key]
            if not self.text.startswith(word, place):
                return
            place += len(word)
        yield place, (), {}

    def _branch(self, draw: Draw, rest: tuple, place: int) -> Iterator:
        before = self.scene
        for end, steps, kept, _ in self._options(draw.rule, draw.key, place):
            self.scene = {**before, **kept} if kept else before
            for last, more, also in self._match(rest, end):
                yield last, steps + more, {**kept, **also}
        self.scene = before


def _template(way: tuple) -> str:
    rule, index = way[1][0]
    return rule.options[index].template


@dataclass(frozen=True)
class Written:
    """A document, the choices that made it, and its log-probability.

    Args:
        text: what is read.
        kind: the name of its kind.
        choices: each draw in turn.
        logprob: of the text, in nats, on the side that it was asked from.
        combination: what it brings together, where its kind has that.
        split: where in ``text`` the answer begins, where there is one.
        answer_logprob: of the answer in nats, given what stands before.
    """

    text: str
    kind: str
    choices: tuple[Choice, ...]
    logprob: float
    combination: Hashable = None
    split: int | None = None
    answer_logprob: float | None = None

    @property
    def prompt(self) -> str:
        """What stands before the answer: all, where there is no answer."""
        return self.text[: self.split]

    @property
    def answer(self) -> str:
        """What answers the prompt; empty where there is no answer."""
        return "" if self.split is None else self.text[self.split :]


def write(
    grammar: Grammar, pick: Callable[[Rule], int], side: Side = "any"
) -> Written:
    """Write one document: draw its kind, then tell it.

    A document on the wrong side is thrown away and told again, and the
    probability of those that are left grows by just what this takes away.
    """
    rule, there = grammar.kind_rule(side)
    index = there[pick(rule)]
    kind = grammar.kinds[index]

    def wanted(scene: Mapping[str, str]) -> bool:
        return kind.admits(kind.made(scene), side)

    while True:
        page = Writer(grammar, pick)
        page.wanted = wanted
        try:
            kind.tell(page)
            page.decided()
        except _WrongSide:
            continue
        return _written(grammar, index, page, side)


def _written(grammar: Grammar, index: int, page: Page, side: Side) -> Written:
    kind = grammar.kinds[index]
    rule, there = grammar.kind_rule(side)
    logs = [rule.logs[option] for rule, option in page.steps]
    begin = rule.logs[there.index(index)] - math.log(kind.mass(side))
    drawn = ((rule.name, option) for rule, option in page.steps)
    cut, step = page.cut or (None, None)
    return Written(
        page.so_far(),
        kind.name,
        (("kind", index), *drawn),
        math.fsum([begin, *logs]),
        kind.made(page.scene),
        cut,
        None if step is None else math.fsum(logs[step:]),
    )


def read(grammar: Grammar, text: str, side: Side = "any") -> Written:
    """Find the choices that wrote ``text``.

    Raises:
        ReadError: no document of the grammar, on this side, reads so.
    """
    found, reasons = [], []
    for index, kind in enumerate(grammar.kinds):
        page = Reader(grammar, text)
        try:
            kind.tell(page)
            if page.place < len(text):
                rest = text[page.place : page.place + 60]
                raise ReadError(f"the text goes on after its end: {rest!r}.")
            if not kind.admits(kind.made(page.scene), side):
                raise ReadError(f"it does not stand on side {side!r}.")
        except ReadError as error:
            reasons.append(f"as a {kind.name}: {error}")
            continue
        found.append((index, page))
    if len(found) != 1:
        raise ReadError(
            f"the text can be read in {len(found)} ways, expected one; "
            + "; ".join(reasons)
        )
    return _written(grammar, *found[0], side)


def retell(grammar: Grammar, choices: Sequence[Choice]) -> Written:
    """Write the document that these choices make."""
    tape = iter(choices)
    return write(grammar, lambda rule: next(tape)[1])


def _tapes(run: Callable[[Callable[[Rule], int]], Any]) -> Iterator:
    """What ``run(pick)`` gives for every way of picking, each in turn."""
    tape: list[int] = []
    while True:
        sizes: list[int] = []

        def pick(rule: Rule) -> int:
            if len(sizes) == len(tape):  # noqa: B023
                tape.append(0)
            sizes.append(len(rule.options))  # noqa: B023
            return tape[len(sizes) - 1]  # noqa: B023

        yield run(pick)
        while tape and tape[-1] == sizes[len(tape) - 1] - 1:
            tape.pop()
        if not tape:
            return
        tape[-1] += 1


def enumerate_documents(
    grammar: Grammar, side: Side = "any"
) -> Iterator[Written]:
    """Every document of a (small!) grammar, each choice taken in turn."""
    _, there = grammar.kind_rule(side)
    for index in there:
        kind = grammar.kinds[index]
        for page in _pages(grammar, kind.tell):
            if kind.admits(kind.made(page.scene), side):
                yield _written(grammar, index, page, side)


def _pages(grammar: Grammar, tell: Callable[[Page], None]) -> Iterator[Page]:
    def run(pick: Callable[[Rule], int]) -> Page:
        page = Writer(grammar, pick)
        tell(page)
        return page

    return _tapes(run)


def mass(rules: Rules, kind: Kind, tell: Callable[[Page], None]) -> float:
    """The exact probability that a combination of this kind is held.

    ``tell`` makes only the draws that decide the combination, so that all
    their outcomes can be counted out.
    """
    return math.fsum(
        math.exp(math.fsum(rule.logs[i] for rule, i in page.steps))
        for page in _pages(Grammar(rules, (kind,)), tell)
        if kind.made(page.scene) in kind.held
    )
