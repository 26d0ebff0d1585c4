"""The world of Lull: a small language whose entropy is known exactly.

It has seven kinds of document. Six of them bring things together (a person
and a wish, a fact and a question, two numbers in a sum), and some of these
combinations are held: they stand on the side ``"unseen"``, training on the
side ``"seen"``. Facts have no such combination, for what is never stated
cannot be known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from . import functions, sums
from .engine import (
    Grammar,
    Kind,
    Option,
    ReadError,
    Rule,
    Rules,
    Side,
    Written,
    at_random,
    enumerate_documents,
    read,
    retell,
    write,
)
from .facts import RULES as FACT_RULES
from .facts import tell_fact
from .questions import RULES as QUESTION_RULES
from .questions import choice_kind, question_kind
from .requests import RULES as REQUEST_RULES
from .requests import instruction_kind
from .tales import RULES as TALE_RULES
from .tales import story_kind

__all__ = [
    "LULL",
    "Grammar",
    "Kind",
    "Option",
    "ReadError",
    "Rule",
    "Side",
    "Written",
    "document",
    "documents",
    "enumerate_documents",
    "logprob",
    "read",
    "retell",
    "write",
]

# Of documents. A story is three times as long as a fact and eight times as
# long as a question, so that five words in six stand in stories.
SHARES = {
    "story": 0.55,
    "fact": 0.11,
    "question": 0.10,
    "choice": 0.09,
    "instruction": 0.05,
    "sum": 0.07,
    "function": 0.03,
}


def _joined(*parts: Rules) -> Rules:
    """The rules of all parts, which must not share a name."""
    rules: dict[str, Any] = {}
    for part in parts:
        if twice := rules.keys() & part.keys():
            raise ValueError(
                f"two parts of the grammar have rules named {sorted(twice)}; "
                "expected every name once. Rename them in one part."
            )
        rules |= part
    return rules


RULES = _joined(
    TALE_RULES,
    FACT_RULES,
    QUESTION_RULES,
    REQUEST_RULES,
    sums.RULES,
    functions.RULES,
)
LULL = Grammar(
    RULES,
    (
        story_kind(SHARES["story"], RULES),
        Kind("fact", SHARES["fact"], tell_fact),
        question_kind(SHARES["question"], RULES),
        choice_kind(SHARES["choice"], RULES),
        instruction_kind(SHARES["instruction"], RULES),
        replace(sums.KIND, share=SHARES["sum"]),
        replace(functions.KIND, share=SHARES["function"]),
    ),
)


def document(
    index: int,
    seed: int | str = 0,
    side: Side = "any",
    grammar: Grammar = LULL,
) -> Written:
    """Document number ``index`` of the endless corpus of ``seed``.

    Args:
        index: which one.
        seed: which corpus.
        side: ``"seen"`` leaves out the combinations that are held, as
            training does; ``"unseen"`` has only them.
        grammar: whose documents.

    >>> document(3).text == document(3).text
    True
    """
    source = random.Random(f"{seed}/{index}")
    return write(grammar, at_random(source), side)


def documents(
    count: int,
    seed: int | str = 0,
    side: Side = "any",
    grammar: Grammar = LULL,
) -> Iterator[Written]:
    """The first ``count`` documents of the corpus of ``seed``."""
    for index in range(count):
        yield document(index, seed, side, grammar)


def logprob(text: str, side: Side = "any", grammar: Grammar = LULL) -> float:
    """Log-probability in nats with which the grammar writes ``text``.

    Minus infinity for a text that it cannot write: so it also tells whether
    a model's sample is a document of Lull.

    >>> logprob("Tam ate the kite.")
    -inf
    """
    try:
        return read(grammar, text, side).logprob
    except ReadError:
        return -math.inf
