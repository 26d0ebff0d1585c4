"""What the world states, as texts that break off before the fact."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence

from llmbook.corpus.benchmarks import LETTERS, MultipleChoice
from llmbook.corpus.world import LULL, lexicon
from llmbook.corpus.world.engine import compile_template
from llmbook.corpus.world.facts import OPENINGS, STATED
from llmbook.corpus.world.questions import KEYS, KNOWN

TOOL, SPOT = "<thing=a-tool>", "{wish.at}"  # in the templates of wishes


@functools.cache
def fact_items() -> tuple[MultipleChoice, ...]:
    """Every fact that the world states, each in every wording.

    ``question`` is a document of the corpus up to the fact, and the choices
    are the rest of the sentence, with the right value and with three others
    of the same kind. All of these facts stand in what a model learns from.

    >>> first = fact_items()[0]
    >>> first.question, first.right
    ('Ask anyone in Lull about Ona. She sells', ' string.')
    """
    return (*_of_people_and_places(), *_of_wishes())


def _of_people_and_places() -> Iterator[MultipleChoice]:
    for of, wordings in STATED.items():
        for name, known in KNOWN[of].items():
            for attribute, templates in wordings.items():
                values = [other[attribute] for other in KNOWN[of].values()]
                slot = f"{{{KEYS[of]}.{attribute}}}"
                for number, template in enumerate(templates):
                    start = f"{_opening(of, number)} {template}"
                    right = [known[attribute]]
                    yield _item(of, name, start, slot, right, values)


def _of_wishes() -> Iterator[MultipleChoice]:
    """A tool that fits each wish, one of two, and the right place for it."""
    wishes = KNOWN["wish"]
    tools = {
        name: [lexicon.article(tool) for tool in known["tools"].split()]
        for name, known in wishes.items()
    }
    every = [tool for some in tools.values() for tool in some]
    places = [known["at"] for known in wishes.values()]
    for name, known in wishes.items():
        for number, template in enumerate(OPENINGS["tool-for"]):
            start = f"{_opening('wish', number)} {template}"
            place = OPENINGS["place-for"][number]
            one, two = tools[name]
            yield _item("wish", name, start, TOOL, [one, two], every)
            yield _item("wish", name, start, TOOL, [two, one], every)
            start = f"{start.replace(TOOL, one)} {place}"
            yield _item("wish", name, start, SPOT, [known["at"]], places)


def _opening(of: str, number: int) -> str:
    openings = [o.template for o in OPENINGS["about"] if o.tag == of]
    return openings[number % len(openings)]


def _item(
    of: str,
    name: str,
    template: str,
    slot: str,
    right: Sequence[str],
    values: Sequence[str],
) -> MultipleChoice:
    """A question with the first of ``right``, and three that are not."""
    scene = {
        f"{KEYS[of]}.{key}" if key else KEYS[of]: value
        for key, value in KNOWN[of][name].items()
    }
    before, after = (_told(half, scene) for half in template.split(slot))
    question = before.rstrip()
    source = random.Random(question + right[0])  # the same at every call
    others = sorted(set(values) - set(right))
    among = [right[0], *source.sample(others, len(LETTERS) - 1)]
    source.shuffle(among)
    gap = before[len(question) :]
    choices = tuple(gap + value + after for value in among)
    letter = LETTERS[among.index(right[0])]
    return MultipleChoice(of, question, choices, letter)


def _told(template: str, scene: Mapping[str, str]) -> str:
    """A template's words: what the scene holds, or the first of a rule's."""
    words = []
    for piece in compile_template(template):
        if isinstance(piece, str):
            words.append(piece)
        elif piece.key in scene:
            words.append(scene[piece.key])
        else:
            rule = LULL.resolve(piece.rule, {})
            words.append(rule.options[0].template)
    return "".join(words)
