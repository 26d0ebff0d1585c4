"""What the benchmarks ask of a model, and our GPT behind that interface."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from llmbook.batching import (
    BATCH_SIZE,
    Prefix,
    common_prefix,
    generate_batch,
    score_pairs,
    shared_prefix,
)
from llmbook.checkpoint import unique_tensors
from llmbook.hashing import tensors_hash
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer

Ids = Sequence[int]
Pair = tuple[Ids, Ids]

WORTH_SHARING = 16  # tokens; below, reading them again is as quick


@dataclass(frozen=True)
class Scored:
    """How likely a continuation was, after its context.

    Args:
        logprobs: ln p of each of its tokens, in nats.
        greedy: whether each was the likeliest, so that decoding at
            temperature 0 would have written it.

    >>> Scored((-0.5, -1.5), greedy=False).logprob
    -2.0
    """

    logprobs: tuple[float, ...]
    greedy: bool

    @property
    def logprob(self) -> float:
        """ln p(continuation | context), in nats."""
        return math.fsum(self.logprobs)

    @property
    def tokens(self) -> int:
        """How many tokens were scored."""
        return len(self.logprobs)


class LanguageModel(Protocol):
    """Anything that turns text into ids, scores ids and writes on.

    ``prefix_token`` is what stands before a document, ``end_of_text`` what
    ends one; for GPT-2 and our models they are the same. ``packages`` are
    those whose versions may move a score.
    """

    name: str
    packages: tuple[str, ...]
    context_length: int
    prefix_token: int
    end_of_text: int

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; no text ever becomes a control token."""
        ...

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``, control tokens left out."""
        ...

    def loglikelihoods(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Score the second half of each pair, given the first."""
        ...

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Write on from each prompt, up to the first stop string."""
        ...

    def fingerprint(self) -> str:
        """A hash of the weights and of the tokenizer."""
        ...


def encode_pair(
    model: LanguageModel, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Ids of a context and of what follows it.

    Blanks at the context's end move over to the continuation, for tokens
    begin with a blank and do not end with one. The continuation is what the
    encoding of both together holds beyond the context's own. An empty
    context is the token that stands before every document. This is
    lm-evaluation-harness's rule (``TemplateLM._encode_pair``).

    Raises:
        ValueError: nothing is left to score.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    before = model.encode(kept) if kept else []
    after = model.encode(kept + continuation)[len(before) :]
    if not before:
        before = [model.prefix_token]
        after = after[1:] if after[:1] == before else after
    if not after:
        raise ValueError(
            f"the continuation {continuation!r} adds no token to its "
            "context; expected at least one to score."
        )
    return before, after


def fit_context(context: Ids, continuation: Ids, longest: int) -> Ids:
    """The end of ``context`` that leaves room for ``continuation``.

    A model that reads ``longest`` tokens scores one more, for its last
    token is predicted and not read. What does not fit is cut from the left,
    as lm-evaluation-harness does.

    Raises:
        ValueError: the continuation alone is too long.

    >>> fit_context([1, 2, 3, 4], [5, 6], longest=4)
    [2, 3, 4]
    """
    room = longest + 1 - len(continuation)
    if room < 1:
        raise ValueError(
            f"a continuation of {len(continuation)} tokens does not fit a "
            f"context of {longest}. Evaluate a model with a longer one, or "
            "leave the item out."
        )
    return context[-room:]


def fit_prompt(prompt: Ids, max_new_tokens: int, longest: int) -> Ids:
    """The end of ``prompt`` that leaves room for ``max_new_tokens``.

    Cut from the left, as lm-evaluation-harness does.

    Raises:
        ValueError: no room is left for the prompt.

    >>> fit_prompt([1, 2, 3, 4], max_new_tokens=2, longest=4)
    [3, 4]
    """
    room = longest - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, and the model reads "
            f"{longest} tokens; expected less. Set max_new_tokens to "
            f"{longest // 2}, say, which leaves as much for the prompt."
        )
    return prompt[-room:]


def cut_at(text: str, stop: Sequence[str]) -> str:
    """What stands in ``text`` before the stop strings, one after the other.

    >>> cut_at("42\\n\\nQuestion: and", ["Question:", "</s>"])
    '42\\n\\n'
    """
    for term in stop:
        text = text.partition(term)[0]
    return text


def stops(
    decode: Callable[[Ids], str], stop: Sequence[str]
) -> Callable[[Ids], bool]:
    """Whether new ids have just completed one of the stop strings.

    A token is a byte at least, so a string of n bytes that the last token
    completes lies within the last n tokens; only these are decoded.
    """
    reach = max((len(term.encode()) for term in stop), default=0)

    def completed(new: Ids) -> bool:
        tail = decode(new[-reach:]) if reach else ""
        return any(term in tail for term in stop)

    return completed


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hexadecimal) of every weight; those that are tied, once."""
    return tensors_hash(unique_tensors(model))


class GPTModel:
    """Our GPT and its tokenizer as a :class:`LanguageModel`.

    Contexts that begin alike are read once (:mod:`llmbook.batching`).

    Args:
        model: its weights may be on any device.
        tokenizer: the one that it was trained with.
        batch_size: rows in a forward pass.
        name: what results call it.
    """

    packages = ("torch",)

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        batch_size: int = BATCH_SIZE,
        name: str = "gpt",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.name = batch_size, name
        self.context_length = model.config.context_length
        self.end_of_text = self.prefix_token = tokenizer.end_of_text
        self._control = frozenset(tokenizer.special_tokens.values())
        self._read: tuple[list[tuple[int, int]], Prefix] | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; a control token's name is plain characters."""
        return self.tokenizer.encode(text, on_special="text")

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``, control tokens left out."""
        return self.tokenizer.decode(i for i in ids if i not in self._control)

    def loglikelihoods(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Score the second half of each pair, given the first.

        Contexts that are too long lose their first tokens
        (:func:`fit_context`).
        """
        fitted = [
            (fit_context(before, after, self.context_length), after)
            for before, after in pairs
        ]
        prefix = self._shared([before for before, _ in fitted])
        scores = score_pairs(
            self.model, fitted, prefix=prefix, batch_size=self.batch_size
        )
        return [
            Scored(tuple(s.logprobs.tolist()), bool(s.greedy.all()))
            for s in scores
        ]

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Write on from each prompt, up to the first stop string.

        The end-of-text token ends a text too. Row i draws with ``seed + i``.
        """
        fitted = [
            fit_prompt(prompt, max_new_tokens, self.context_length)
            for prompt in prompts
        ]
        terms = [*stop, *self._end_names()]
        rows: list[list[int]] = []
        for first in range(0, len(fitted), self.batch_size):
            batch = fitted[first : first + self.batch_size]
            rows += generate_batch(
                self.model,
                batch,
                max_new_tokens,
                prefix=self._shared(batch),
                stop_tokens=[self.end_of_text],
                stop=stops(self.decode, terms),
                seed=None if seed is None else seed + first,
                temperature=temperature,
                top_p=top_p,
            )
        return [cut_at(self.decode(row), terms) for row in rows]

    def fingerprint(self) -> str:
        """SHA-256 of every weight, and of the tokenizer."""
        parts = weights_hash(self.model) + self.tokenizer.fingerprint()
        return hashlib.sha256(parts.encode()).hexdigest()

    def _end_names(self) -> list[str]:
        """How the end of a text would look, were it spelled out."""
        return [
            name
            for name, token in self.tokenizer.special_tokens.items()
            if token == self.end_of_text
        ]

    def _shared(self, rows: Sequence[Ids]) -> Prefix | None:
        """What all rows begin with, read once, where that saves work.

        What was read for the rows before serves again, unless these have
        much more in common, or a weight has changed since.
        """
        shared = common_prefix(rows) if len(rows) > 1 else []
        if len(shared) < WORTH_SHARING:
            return None
        weights = [(p.data_ptr(), p._version) for p in self.model.parameters()]
        if self._read is not None and self._read[0] == weights:
            prefix = self._read[1]
            same = tuple(shared[: len(prefix)]) == prefix.ids
            if same and len(shared) - len(prefix) < WORTH_SHARING:
                return prefix
        self._read = (weights, shared_prefix(self.model, shared))
        return self._read[1]
