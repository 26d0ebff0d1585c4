"""Conversations, preferences and problems that a user brings: JSON Lines.

One JSON object a line. What it holds is text and stays text: whoever writes
``<|end|>`` into a message has written seven characters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from llmbook.corpus.benchmarks import FINAL, CodeProblem, WordProblem
from llmbook.evaluation.gsm8k import (
    NOTHING_FOUND,
    exact_match,
    normalise_answer,
    strict_answer,
)

from .chat import USER, Conversation, check_conversation
from .data import Choice, Problem, exchange, user

Item = TypeVar("Item")
Row = Mapping[str, Any]


def read_chats(path: str | os.PathLike[str]) -> list[Conversation]:
    """Conversations to learn from.

    A line is ``{"messages": [{"role": ..., "content": ...}, ...]}``, or
    ``{"prompt": ..., "response": ...}``.

    Raises:
        ValueError: a line is neither, or the file holds none; names file
            and line.
    """
    return _read(path, _chat, '{"messages": [...]} or {"prompt", "response"}')


def read_preferences(path: str | os.PathLike[str]) -> list[Choice]:
    """Prompts with two replies each, the first preferred.

    A line is ``{"prompt": ..., "chosen": ..., "rejected": ...}``. The prompt
    is a text, or a list of messages that the user's is the last of.

    Raises:
        ValueError: a line is something else, or the file holds none; names
            file and line.
    """
    return _read(path, _choice, '{"prompt", "chosen", "rejected"}')


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Problems whose answers can be checked.

    A line is a row of GSM8K, ``{"question": ..., "answer": ...}`` with
    ``#### 7`` at the answer's end, or one of HumanEval.

    Raises:
        ValueError: a line is neither, or the file holds none; names file
            and line.
    """
    return _read(path, _problem, "a row of GSM8K or of HumanEval")


def _read(
    path: str | os.PathLike[str], make: Callable[[Row], Item], expected: str
) -> list[Item]:
    items = []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text ({error}). Save it as UTF-8."
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = read_row(line)
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__}, not an object")
            items.append(make(row))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {str(error).rstrip('.')}. Expected "
                f"one JSON object a line: {expected}."
            ) from None
    if not items:
        raise ValueError(
            f"{path} is empty. Expected one JSON object a line: {expected}."
        )
    return items


def read_row(line: str) -> Any:
    """A line's JSON, if it can be written as UTF-8 again.

    Raises:
        ValueError: it is no JSON, too deeply nested, or spells half of a
            character.
    """
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(
            f"it has a lone surrogate, {half!r}: half of a character."
        ) from None
    return row


def _chat(row: Row) -> Conversation:
    if "messages" in row:
        messages = _messages(row["messages"])
    else:
        messages = exchange(*_texts(row, "prompt", "response"))
    if not any(m["role"] == "assistant" for m in messages):
        raise ValueError("no message is the assistant's.")
    return messages


def _messages(value: Any) -> Conversation:
    if not isinstance(value, list) or not all(
        isinstance(message, dict) for message in value
    ):
        raise ValueError('"messages" is no list of objects.')
    check_conversation(value)
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _choice(row: Row) -> Choice:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        messages = _messages(prompt)
        if messages[-1]["role"] != USER:
            raise ValueError("the prompt's last message is not the user's.")
    else:
        messages = [user(*_texts(row, "prompt"))]
    chosen, rejected = _texts(row, "chosen", "rejected")
    if chosen == rejected:
        raise ValueError("both replies are the same.")
    return Choice(messages, chosen, rejected)


def _problem(row: Row) -> Problem:
    if "question" in row:
        problem = WordProblem(*_texts(row, "question", "answer"))
        if FINAL not in problem.answer or not is_number(problem.result):
            raise ValueError(f"the answer has no number after {FINAL}.")
        return Problem("sum", [user(problem.question)], problem.result)
    code = CodeProblem(*_texts(row, *(f.name for f in fields(CodeProblem))))
    return Problem("function", [user(code.prompt.rstrip("\n"))], code)


def is_number(result: str) -> bool:
    """Whether a reply can state this, and is then found to be right.

    >>> [is_number(text) for text in ("-7", "$1.50", "7 buns", "[invalid]")]
    [True, True, False, False]
    """
    number = normalise_answer(result)
    stated = strict_answer(f"{FINAL} {number}")
    return stated != NOTHING_FOUND and exact_match(stated, result)


def _texts(row: Row, *names: str) -> list[str]:
    missing = [n for n in names if not isinstance(row.get(n), str)]
    if missing:
        raise ValueError(f"no text under {', '.join(missing)}.")
    return [row[name] for name in names]
