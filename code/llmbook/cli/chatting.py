"""``llmbook chat``: a conversation in the terminal, word by word."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from llmbook.alignment import chat
from llmbook.alignment.chat import (
    ASSISTANT,
    ROLE_TOKENS,
    SYSTEM,
    USER,
    Message,
)
from llmbook.model import GPT
from llmbook.sampling import sample, stream
from llmbook.tokenizer import Tokenizer

from .models import own_chat_model, read_chat_model
from .notes import note, visible

STAGE = "dpo"  # of the book's own model
REPLY_SHARE = 4  # a reply may fill a quarter of the context
PROMPT = "> "
RESET, QUIT = "/reset", "/quit"
HINT = f"{RESET} begins anew, {QUIT} ends, Ctrl-C stops a reply."


class Talk:
    """A conversation under way.

    Args:
        choices: ``temperature``, ``top_k`` and ``top_p``, as in
            :func:`llmbook.sampling.stream`.

    Raises:
        ValueError: the model has no chat tokens, a value is out of range,
            or there is no room for a question.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
        **choices: float | None,
    ) -> None:
        self.model, self.tokenizer, self.choices = model, tokenizer, choices
        T = model.config.context_length
        if max_new_tokens is None:
            max_new_tokens = max(1, T // REPLY_SHARE)
        self.longest_reply, self.room = max_new_tokens, T - max_new_tokens
        self.generator = torch.Generator().manual_seed(seed)
        self.start = [] if system is None else [said_by(SYSTEM, system)]
        self.cut = False
        self.reset()
        self._check()

    def reset(self) -> None:
        """Forget what was said, but for the system's message."""
        self.messages, self.full = list(self.start), False

    def prompt(self, text: str) -> list[int]:
        """Take up a question: the ids after which the assistant speaks.

        Exchanges that fall out of the context are forgotten, and ``full``
        is set.

        Raises:
            ValueError: it is too long, or no text. It is forgotten.
        """
        asked = [*self.messages, said_by(USER, text)]
        ids = chat.encode_prompt(self.tokenizer, asked, self.room)
        # A message cannot spell a role's token, so these are the turns.
        turn = chat.control_ids(self.tokenizer)[ROLE_TOKENS[USER]]
        kept = 2 * ids.count(turn) - 1
        self.full = self.full or len(self.start) + kept < len(asked)
        self.messages = [*self.start, *asked[-kept:]]
        return ids

    def reply(self, ids: list[int]) -> Iterator[str]:
        """What the assistant says after ``ids``, piece by piece.

        It counts as said as far as it was taken from the iterator. ``cut``
        is set where it stopped for its length alone.
        """
        said = said_by(ASSISTANT, "")
        self.messages.append(said)
        tokens = self._tokens(ids)
        for piece in whole_characters(map(self.tokenizer.token_bytes, tokens)):
            said["content"] += piece
            yield piece

    def _tokens(self, ids: list[int]) -> Iterator[int]:
        """The reply's ids, up to the first control token."""
        self.cut = True
        control = set(self.tokenizer.special_tokens.values())
        for token in stream(
            self.model,
            ids,
            self.longest_reply,
            generator=self.generator,
            **self.choices,
        ):
            if token in control:
                self.cut = False
                return
            yield token

    def _check(self) -> None:
        """Refuse now what would fail at the first reply."""
        T, longest = self.model.config.context_length, self.longest_reply
        if not 1 <= longest < T:
            raise ValueError(
                f"max_new_tokens is {longest}; expected at least 1, and "
                f"fewer than the {T} of the context."
            )
        sample(torch.zeros(1, 2), **self.choices)
        shortest = [*self.start, said_by(USER, "")]
        used = len(chat.encode(self.tokenizer, shortest, prompt=True).ids)
        if used >= self.room:
            raise ValueError(
                f"of the context's {T} tokens a reply may take {longest}, "
                f"and {used} are taken before the first question; expected "
                "some to be left for it. Shorten the system message, or "
                "lower max_new_tokens."
            )


def said_by(role: str, content: str) -> Message:
    """A message."""
    return {"role": role, "content": content}


def whole_characters(parts: Iterable[bytes]) -> Iterator[str]:
    """The text of UTF-8 in parts, as soon as its characters are whole.

    What is no UTF-8 becomes U+FFFD, as in ``bytes.decode``.

    >>> list(whole_characters([b"n", b"\\xc3", b"\\xa9", b"e\\xc3"]))
    ['n', 'é', 'e', '\\ufffd']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        if text := decoder.decode(part):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


@dataclass
class Chat:
    """Talk with a model that has learned to answer.

    Each line is a message. /reset begins anew, /quit or Ctrl-D ends; Ctrl-C
    stops a reply, and a second one ends. Lines from a file or a pipe are
    answered in turn.
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """A folder that `align` filled, or that holds a chat model in Hugging
    Face's format; else the book's own model."""
    message: str | None = None
    """Ask this alone, print the reply and end."""
    system: str | None = None
    """What the model is told before the conversation."""
    temperature: float = 0.2
    """0 always takes the likeliest token."""
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    """The longest reply; else a quarter of the context."""
    seed: int = 0

    def run(self) -> str:
        for output in (sys.stdout, sys.stderr):  # whatever they can encode
            output.reconfigure(errors="backslashreplace")
        name, model, tokenizer = self._model()
        talk = Talk(
            model,
            tokenizer,
            system=self.system,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )
        if self.message is not None:
            speak(talk, talk.prompt(self.message))
            return ""
        if sys.stdin is None:
            raise ValueError("the input is closed. Ask with --message TEXT.")
        sys.stdin.reconfigure(errors="replace")
        if sys.stdin.isatty() and sys.stdout.isatty():
            size = sum(p.numel() for p in model.parameters())
            print(f"{visible(name)}, {size:,} parameters. {HINT}")
            with_a_person(talk)
        else:
            with_lines(talk, sys.stdin)
        return ""

    def _model(self) -> tuple[str, GPT, Tokenizer]:
        """A name to show, the model, and its tokenizer."""
        if self.model is None:
            return "The book's aligned model", *own_chat_model(STAGE)
        model, tokenizer = read_chat_model(self.model)
        return Path(self.model).resolve().name, model, tokenizer


def with_a_person(talk: Talk) -> None:
    """Ask for messages and answer them, until the person leaves.

    Raises:
        KeyboardInterrupt: two in a row, with no message between them.
    """
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401 - lets input() edit and recall lines
    stopped = False
    while True:
        try:
            text = input(PROMPT)
            stopped = False
            if text.strip() == QUIT:
                return
            take_turn(talk, text)
        except KeyboardInterrupt:
            print()
            if stopped:
                raise
            stopped = True
            note("Ctrl-C again ends, a message goes on")
        except EOFError:
            print()
            return


def with_lines(talk: Talk, lines: Iterable[str]) -> None:
    """Answer line by line, without prompts.

    Raises:
        ValueError: at the end, if some lines got no answer.
    """
    unanswered = 0
    for line in lines:
        text = line.removesuffix("\n")
        if text.strip() == QUIT:
            break
        unanswered += not take_turn(talk, text)
    if unanswered:
        raise ValueError(f"{unanswered} of the lines got no answer")


def take_turn(talk: Talk, text: str) -> bool:
    """Do what a line asks for; False if it asks what cannot be answered."""
    if text.strip() == RESET:
        talk.reset()
        note("begun anew")
        return True
    if not text.strip():
        note("an empty line asks nothing")
        return True
    was_full = talk.full
    try:
        ids = talk.prompt(text)
    except ValueError as error:
        note(error)
        return False
    if talk.full and not was_full:
        T = talk.model.config.context_length
        note(
            f"the conversation has outgrown the {T} tokens of the context; "
            "from now on the model forgets its beginning"
        )
    speak(talk, ids)
    return True


def speak(talk: Talk, ids: list[int]) -> None:
    """Print the reply as it comes."""
    for piece in talk.reply(ids):
        print(visible(piece), end="", flush=True)
    print(flush=True)
    if talk.cut:
        note(
            f"cut after {talk.longest_reply} tokens; --max-new-tokens allows "
            "more"
        )
