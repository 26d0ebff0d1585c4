"""A language model as a judge of answers, and where its verdicts lean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import NamedTuple

import numpy as np

from llmbook.evaluation.models import LanguageModel, encode_pair

LETTERS = (" A", " B")  # as tokens: each comes with its blank
ENDINGS = (
    "{prompt}\n\nWhich is the better ending?\nA. {first}\nB. {second}\nAnswer:"
)
UNITS = ("answer", "token", "byte")  # what a log-probability is counted per


class Pair(NamedTuple):
    """A prompt and two answers, of which one is known to be better."""

    prompt: str
    better: str
    worse: str


def answer_scores(
    model: LanguageModel, asked: Sequence[tuple[str, str]], per: str = "answer"
) -> np.ndarray:
    """ln p(answer | prompt) of each (prompt, answer), in nats; shape (n,).

    The prompt is read as the beginning of a document; of one too long for
    the model only the end is read, as elsewhere. ``per`` divides by
    the answer's length: ``"answer"`` not at all, ``"token"`` by its tokens,
    ``"byte"`` by its UTF-8 bytes, which no tokenizer changes.

    Raises:
        ValueError: another ``per``, or an empty answer.
    """
    if per not in UNITS or not all(answer for _, answer in asked):
        raise ValueError(
            f"got per={per!r} and {len(asked)} answers; expected per to be "
            f"one of {', '.join(UNITS)}, and every answer to have text."
        )
    scored = model.loglikelihoods([_as_document(model, *a) for a in asked])
    length = {
        "answer": [1] * len(asked),
        "token": [s.tokens for s in scored],
        "byte": [len(answer.encode()) for _, answer in asked],
    }
    return np.array([s.logprob for s in scored]) / np.array(length[per])


def _as_document(
    model: LanguageModel, prompt: str, answer: str
) -> tuple[list[int], list[int]]:
    """The ids of both, after the token that documents begin with."""
    context, ids = encode_pair(model, prompt, answer)
    started = context[:1] == [model.prefix_token]  # there was no prompt
    return [*([] if started else [model.prefix_token]), *context], ids


def pointwise(
    model: LanguageModel, pairs: Sequence[Pair], per: str = "answer"
) -> np.ndarray:
    """By how much a judge that sees one answer at a time likes the better.

    The score of the better answer minus that of the worse, (n,); see
    :func:`answer_scores`. Where it is positive the judge is right.
    """
    better = answer_scores(model, [(p.prompt, p.better) for p in pairs], per)
    worse = answer_scores(model, [(p.prompt, p.worse) for p in pairs], per)
    return better - worse


@dataclass(frozen=True)
class Verdicts:
    """What a judge that sees both answers said about n pairs, in both orders.

    ``better_first`` and ``better_second`` (n,) hold ln p(A) − ln p(B), with
    the better answer in place A and in place B.
    """

    better_first: np.ndarray
    better_second: np.ndarray

    @property
    def lean(self) -> np.ndarray:
        """The log-odds of place A, whichever answer stands there, (n,)."""
        return (self.better_first + self.better_second) / 2

    @property
    def margins(self) -> np.ndarray:
        """The log-odds of the better answer over both orders, (n,).

        A lean that is the same in both orders cancels: calibration over
        positions, Wang et al. 2023, section 3.
        """
        return (self.better_first - self.better_second) / 2

    @property
    def first_share(self) -> float:
        """The share of the 2n verdicts that name the first place."""
        both = np.concatenate([self.better_first, self.better_second])
        return agreement(both)

    @property
    def consistency(self) -> float:
        """The share of pairs whose two verdicts name the same answer.

        Source: Zheng et al. 2023, section 3.3.
        """
        return float(
            (np.sign(self.better_first) == -np.sign(self.better_second)).mean()
        )


def pairwise(
    model: LanguageModel, pairs: Sequence[Pair], template: str = ENDINGS
) -> Verdicts:
    """Show both answers, ask for a letter, and ask again with them swapped.

    Args:
        template: text with ``{prompt}``, ``{first}`` and ``{second}``, after
            which the judge names the letter. An answer is put on one line.

    Source: Zheng et al. 2023, section 3.1, with the letters' log-
    probabilities in place of a written verdict.
    """
    fields = {name for _, name, _, _ in Formatter().parse(template) if name}
    if fields != {"prompt", "first", "second"}:
        raise ValueError(
            f"the template has the fields {sorted(fields)}; expected "
            "{prompt}, {first} and {second}. Double other braces."
        )
    asked = [
        (template.format(prompt=p.prompt, first=first, second=second), letter)
        for p in pairs
        for first, second in _both_orders(p)
        for letter in LETTERS
    ]
    scores = answer_scores(model, asked).reshape(len(pairs), 2, 2)
    odds = scores[:, :, 0] - scores[:, :, 1]  # (pair, order)
    return Verdicts(odds[:, 0], odds[:, 1])


def _both_orders(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    better, worse = (" ".join(text.split()) for text in pair[1:])
    return (better, worse), (worse, better)


def agreement(margins: np.ndarray) -> float:
    """How often the judge prefers the better answer; a tie counts half.

    >>> agreement(np.array([2.0, -1.0, 0.5, 0.0]))
    0.625
    """
    if len(margins) == 0 or not np.isfinite(margins).all():
        raise ValueError(
            f"got {len(margins)} margins; expected at least one, all finite."
        )
    return float((0.5 + 0.5 * np.sign(margins)).mean())


class LengthBias(NamedTuple):
    """What a judge does where one answer is longer than the other.

    ``longer`` is how often it prefers the longer one; ``better_longer`` and
    ``better_shorter`` how often it is right where the better answer is the
    longer, and the shorter, of the two. A judge without the bias has the
    last two alike.
    """

    longer: float
    better_longer: float
    better_shorter: float


def length_bias(margins: np.ndarray, pairs: Sequence[Pair]) -> LengthBias:
    """Whether a judge's ``margins`` (n,) follow the answers' lengths.

    Length is in characters; pairs of equal length say nothing and are left
    out. Source: Zheng et al. 2023, section 3.3, "verbosity bias".

    >>> pairs = [Pair("", "ab", "a"), Pair("", "a", "ab")]
    >>> length_bias(np.array([-1.0, 3.0]), pairs)  # always for the shorter
    LengthBias(longer=0.0, better_longer=0.0, better_shorter=1.0)
    """
    margins = np.asarray(margins)
    surplus = np.array([len(p.better) - len(p.worse) for p in pairs])
    if not (surplus > 0).any() or not (surplus < 0).any():
        raise ValueError(
            "in no pair is the better answer the longer, or in none the "
            "shorter; expected both. Give more pairs."
        )
    unequal = surplus != 0
    return LengthBias(
        agreement(margins[unequal] * np.sign(surplus[unequal])),
        agreement(margins[surplus > 0]),
        agreement(margins[surplus < 0]),
    )
