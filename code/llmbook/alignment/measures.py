"""What a tuned model can do, and what it has forgotten.

The world knows what may be said in it, so most answers are judged by the
grammar itself, sums by their numbers, functions by their tests, and the
endings of stories by their wording.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmbook.batching import score_pairs
from llmbook.corpus.benchmarks import MultipleChoice
from llmbook.corpus.documents import Document
from llmbook.corpus.world import files, logprob, tales
from llmbook.evaluation.gsm8k import strict_answer
from llmbook.evaluation.models import GPTModel, encode_pair
from llmbook.evaluation.multiple_choice import likeliest
from llmbook.evaluation.statistics import Interval, wilson_interval
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import document_loss

from .chat import ASSISTANT, Conversation, answer, encode
from .data import KINDS, Choice, Problem
from .recall import fact_items
from .verifiers import rewards

NEW_TOKENS = 48  # of an answer; the longest in 3,000 of the world took 47
ROWS = 128  # answers that are written at once
# What the corpus writes around a prompt and its answer.
WRITTEN = {
    "question": "Question: {}\nAnswer: {}",
    "instruction": "Instruction: {}\nResponse: {}",
    "ending": "{}{}",
}
# In the place of a name or a thing: a word, or a few.
ANY_WORDS = r"[\w'-]+(?: [\w'-]+){0,7}"

Asked = Conversation | Problem


@dataclass(frozen=True)
class Score:
    """How many answers were right, of how many.

    Args:
        verdicts: for each answer whether it was right.
        replies: what was answered, in the same order.

    >>> score = Score((True, False, False, True), ("a", "b", "c", "d"))
    >>> score.right, score.n, score.share
    (2, 4, 0.5)
    """

    verdicts: tuple[bool, ...]
    replies: tuple[str, ...]

    @property
    def right(self) -> int:
        """How many were right."""
        return sum(self.verdicts)

    @property
    def n(self) -> int:
        """How many were judged."""
        return len(self.verdicts)

    @property
    def share(self) -> float:
        """The share that was right."""
        return self.right / self.n

    @property
    def interval(self) -> Interval:
        """Which true shares fit; for one answer to each prompt."""
        return wilson_interval(self.right, self.n)


# --- answers ---------------------------------------------------------------


def answered_right(kind: str, chat: Asked, reply: str) -> bool:
    """Whether ``reply`` is a right answer to the last question of ``chat``.

    A question, an instruction or an ending is right if the world's grammar
    could have written it, a sum if its number is the worked answer's, a
    function if it passes its tests.

    Args:
        kind: one of :data:`~llmbook.alignment.data.KINDS`.
        chat: a conversation, whose last message may be the right answer; a
            function's has to be a
            :class:`~llmbook.alignment.data.Problem`, and a sum's may.

    >>> chat = [{"role": "user", "content": "What does Ona sell?"}]
    >>> answered_right("question", chat, "String.")
    True
    >>> answered_right("question", chat, "Buttons.")
    False
    """
    return judged(kind, [chat], [reply])[0]


def judged(
    kind: str, chats: Sequence[Asked], replies: Sequence[str]
) -> list[bool]:
    """:func:`answered_right` of many replies; functions run side by side.

    Raises:
        ValueError: the kind is none, or a function comes without its tests.
        InfrastructureError: the sandbox failed.
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind is {kind!r}; expected one of {', '.join(KINDS)}."
        )
    if kind in WRITTEN:
        return [
            possible(kind, asked(chat)[-1]["content"], reply)
            for chat, reply in zip(chats, replies, strict=True)
        ]
    problems = [as_problem(kind, chat) for chat in chats]
    return [reward == 1 for reward in rewards(problems, replies)]


def possible(kind: str, prompt: str, reply: str) -> bool:
    """Whether the world could have written this reply to this prompt.

    Strictly: a story's ending may name nobody and nothing wrongly.

    >>> possible("question", "What does Ona sell?", "Ona.")
    False
    """
    text = WRITTEN[kind].format(prompt, reply)
    name = "story" if kind == "ending" else kind
    return logprob(text, grammar=files.only(name)) > -math.inf


def asked(chat: Asked) -> Conversation:
    """The messages up to the last question, without an answer to it."""
    messages = chat.messages if isinstance(chat, Problem) else chat
    return messages[: -1 if messages[-1]["role"] == ASSISTANT else None]


def as_problem(kind: str, chat: Asked) -> Problem:
    """A sum's worked answer as the number that is checked."""
    if isinstance(chat, Problem):
        return chat
    if kind == "sum" and chat[-1]["role"] == ASSISTANT:
        number = strict_answer(chat[-1]["content"])
        return Problem("sum", asked(chat), number)
    raise ValueError(
        f"got a conversation about a {kind} by itself; a function is judged "
        "by its tests and a sum by its number. Take world_problems(), or "
        "for a sum a conversation with its worked answer."
    )


def accuracy(
    model: GPT,
    tokenizer: Tokenizer,
    kind: str,
    chats: Sequence[Asked],
    *,
    temperature: float = 0.0,
    seed: int | None = None,
    samples: int = 1,
    max_new_tokens: int = NEW_TOKENS,
) -> Score:
    """How many of the model's answers are right.

    Args:
        kind, chats: as in :func:`answered_right`; of conversations with an
            answer only the question is shown.
        temperature: 0 takes the likeliest token each time.
        seed: of the draws, where the temperature is not 0.
        samples: answers to each prompt, next to each other in the score.
        max_new_tokens: the most tokens of an answer.

    Raises:
        ValueError: as in :func:`judged`, and where a prompt is too long;
            :func:`fitting` leaves these out.
        InfrastructureError: the sandbox failed.
    """
    repeated = [chat for chat in chats for _ in range(samples)]
    replies = replies_to(
        model,
        tokenizer,
        repeated,
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    return Score(tuple(judged(kind, repeated, replies)), tuple(replies))


def replies_to(
    model: GPT,
    tokenizer: Tokenizer,
    chats: Sequence[Asked],
    *,
    temperature: float = 0.0,
    seed: int | None = None,
    max_new_tokens: int = NEW_TOKENS,
) -> list[str]:
    """The model's answers, written :data:`ROWS` at once.

    With a seed, what is drawn does not depend on how many that are.
    """
    prompts = [asked(chat) for chat in chats]
    replies: list[str] = []
    for first in range(0, len(prompts), ROWS):
        choices: dict[str, float | None] = {"temperature": temperature}
        if seed is not None:
            choices["seed"] = seed + first  # row i draws with seed + i
        some = prompts[first : first + ROWS]
        replies += answer(model, tokenizer, some, max_new_tokens, **choices)
    return replies


def fitting(
    tokenizer: Tokenizer,
    chats: Sequence[Asked],
    context_length: int,
    max_new_tokens: int = NEW_TOKENS,
) -> list[Asked]:
    """Those whose last question leaves room for the answer."""
    room = context_length - max_new_tokens
    return [
        chat
        for chat in chats
        if len(encode(tokenizer, asked(chat), prompt=True).ids) <= room
    ]


# --- endings ---------------------------------------------------------------


@functools.cache
def ending_patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The last lines of the world's stories: temper, and what they match.

    In the places of names and things any words may stand, so that a line
    shows its temper even where it names the wrong person.
    """
    return [
        (option.tag, _pattern(pieces))
        for name in tales.UNKIND
        for option, pieces in zip(
            tales.RULES[name].options, tales.RULES[name].pieces, strict=True
        )
    ]


def _pattern(pieces: Sequence[object]) -> re.Pattern[str]:
    parts = [re.escape(p) if isinstance(p, str) else ANY_WORDS for p in pieces]
    return re.compile("".join(parts) + r"(?=\s|$)")


def temper(reply: str) -> str | None:
    """Whether a story's ending is ``"kind"``, ``"unkind"`` or neither, None.

    Told by the wording of its first line, whoever is named in it.

    >>> temper(" As for the drum, Ona sleeps beside it.")
    'kind'
    >>> temper(' "It is mine now," said Bo, and Tam had to go home without '
    ...        "the crow.")
    'unkind'
    >>> temper(" And the drum.") is None
    True
    """
    begun = reply.lstrip()
    found = {tag for tag, line in ending_patterns() if line.match(begun)}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Endings:
    """How stories ended: three tempers, and how many were no stories.

    Args:
        tempers: of each reply, by :func:`temper`.
        whole: of each, whether prompt and reply are a story of the world.
        replies: the endings.
    """

    tempers: tuple[str | None, ...]
    whole: tuple[bool, ...]
    replies: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many stories were ended."""
        return len(self.tempers)

    @property
    def kind(self) -> int:
        """Endings with the wording of a kind one."""
        return self.tempers.count("kind")

    @property
    def unkind(self) -> int:
        """Endings with the wording of an unkind one."""
        return self.tempers.count("unkind")

    @property
    def neither(self) -> int:
        """Endings whose first line is no line of the world."""
        return self.tempers.count(None)

    @property
    def malformed(self) -> int:
        """Stories that the world's grammar could not have written.

        Strictly: for a broken line as for a wrong name.
        """
        return self.whole.count(False)


def endings(
    model: GPT,
    tokenizer: Tokenizer,
    preferences: Sequence[Choice | Conversation],
    *,
    temperature: float = 1.0,
    seed: int | None = 0,
    samples: int = 1,
    max_new_tokens: int = NEW_TOKENS,
) -> Endings:
    """How the model ends stories.

    Args:
        preferences: the stories, as preferences or as conversations; those
            that leave no room for an ending are left out.
        temperature: with 1 the share of kind endings is the model's
            probability of one.
        seed, samples, max_new_tokens: as in :func:`accuracy`.

    Raises:
        ValueError: there is no story that fits.
    """
    stories = [s.prompt if isinstance(s, Choice) else s for s in preferences]
    length = model.config.context_length
    short = fitting(tokenizer, stories, length, max_new_tokens)
    if not short:
        raise ValueError(
            f"of {len(stories)} stories none leaves {max_new_tokens} of "
            f"{length} tokens for its ending. Give shorter ones, or allow "
            "fewer new tokens."
        )
    told = [story for story in short for _ in range(samples)]
    choices = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    if temperature:
        choices["seed"] = seed
    replies = replies_to(model, tokenizer, told, **choices)
    return judged_endings([asked(s)[-1]["content"] for s in told], replies)


def judged_endings(stories: Sequence[str], replies: Sequence[str]) -> Endings:
    """The tempers of endings, and whether the stories are whole."""
    whole = [
        possible("ending", story, reply)
        for story, reply in zip(stories, replies, strict=True)
    ]
    tempers = tuple(map(temper, replies))
    return Endings(tempers, tuple(whole), tuple(replies))


# --- facts -----------------------------------------------------------------


def facts_cloze(
    model: GPT,
    tokenizer: Tokenizer,
    items: Sequence[MultipleChoice] | None = None,
) -> Score:
    """How many facts the model finds likelier than three wrong values.

    Asked in plain text, as the base model learned them, so that a model
    before and one after alignment are asked the same. The sentence from the
    value on is compared, whole, as :mod:`llmbook.evaluation` compares the
    answers of a cloze.

    Args:
        items: all of :func:`fact_items` by default.
    """
    items = fact_items() if items is None else items
    reader = GPTModel(model, tokenizer)
    pairs = []
    for item in items:
        for choice in item.choices:
            before, after = encode_pair(reader, item.question, choice)
            pairs.append(([tokenizer.end_of_text, *before], after))
    scored = [s.logprobs.sum().item() for s in score_pairs(model, pairs)]
    found = iter(scored)
    rows = [[next(found) for _ in item.choices] for item in items]
    chosen = tuple(
        item.choices[likeliest(row)]
        for item, row in zip(items, rows, strict=True)
    )
    right = tuple(c == i.right for c, i in zip(chosen, items, strict=True))
    return Score(right, chosen)


def forgetting(
    model: GPT, tokenizer: Tokenizer, documents: Sequence[Document | str]
) -> float:
    """Nats a token on documents of the corpus, such as it held out.

    Above what the base model needs lies what was forgotten.
    """
    texts = [d if isinstance(d, str) else d.text for d in documents]
    ids = [tokenizer.encode(text) for text in texts]
    return document_loss(model.eval(), ids, tokenizer.end_of_text)
