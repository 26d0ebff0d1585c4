"""Conversations as token ids: roles, turns, and what the assistant wrote.

    <|endoftext|><|user|>Who hums?<|end|><|assistant|>Ona.<|end|>

A conversation begins like any document, every turn with its role's token,
and ``<|end|>`` closes it. Nothing stands between: what is inside a turn is
the message, to the byte. The tokens are ids, not spellings. A message is
encoded by itself with all names of tokens read as characters, so whoever
types ``<|system|>`` has typed ten characters and opened no system turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice, takewhile
from typing import NamedTuple, TypedDict

from llmbook.batching import generate_batch
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, Tokenizer

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLE_TOKENS = {
    SYSTEM: "<|system|>",
    USER: "<|user|>",
    ASSISTANT: "<|assistant|>",
}
END_OF_TURN = "<|end|>"
CHAT_TOKENS = (*ROLE_TOKENS.values(), END_OF_TURN)


class Message(TypedDict):
    """Who says what; the form that most chat libraries share."""

    role: str
    content: str


Conversation = Sequence[Message]


class ChatIds(NamedTuple):
    """A conversation's ids, and for each whether the assistant wrote it."""

    ids: list[int]
    written: list[bool]


def system_messages(messages: Conversation) -> int:
    """How many of the messages are the system's: one at the start, or none.

    >>> system_messages([{"role": "user", "content": "Hi"}])
    0
    """
    return int(messages[0].get("role") == SYSTEM)


def roles_in_order(count: int, begun: int) -> list[str]:
    """Who speaks when, in ``count`` messages, ``begun`` by the system.

    >>> roles_in_order(4, begun=1)
    ['system', 'user', 'assistant', 'user']
    """
    turns = islice(cycle([USER, ASSISTANT]), count - begun)
    return [SYSTEM] * begun + list(turns)


def check_conversation(messages: Conversation) -> None:
    """Refuse what is no conversation.

    Raises:
        ValueError: there is no user's message, a role is unknown or speaks
            out of turn, or a content is no text; says which message.

    >>> check_conversation([{"role": "user", "content": "Who hums?"}])
    """
    roles = [message.get("role") for message in messages]
    if USER not in roles:
        raise ValueError(
            f"a conversation of the roles {roles} has no user's message; "
            'expected one at least: {"role": "user", "content": "..."}.'
        )
    expected = roles_in_order(len(roles), system_messages(messages))
    for place, wanted in enumerate(expected):
        content = messages[place].get("content")
        if roles[place] != wanted:
            raise ValueError(
                f"message {place} is by {roles[place]!r}, where it is the "
                f"turn of {wanted!r}; expected a system message first or "
                "none, then user and assistant by turns."
            )
        if not isinstance(content, str):
            raise ValueError(
                f"the content of message {place} is {content!r}; expected a "
                "string, which may be empty."
            )


def render(messages: Conversation, prompt: bool = False) -> str:
    """A conversation as people may read it; :func:`encode` does not.

    For text that holds the names of control tokens the string says less
    than the ids do, so it is never encoded again.

    Args:
        prompt: end with the token after which the assistant speaks.

    >>> render([{"role": "user", "content": "Hi"}], prompt=True)
    '<|endoftext|><|user|>Hi<|end|><|assistant|>'
    """
    check_conversation(messages)
    turns = [
        ROLE_TOKENS[message["role"]] + message["content"] + END_OF_TURN
        for message in messages
    ]
    opening = [ROLE_TOKENS[ASSISTANT]] if prompt else []
    return "".join([END_OF_TEXT, *turns, *opening])


def encode(
    tokenizer: Tokenizer, messages: Conversation, prompt: bool = False
) -> ChatIds:
    """A conversation's ids, and which of them the assistant wrote.

    It writes its messages and the ``<|end|>`` after each, without which it
    would not learn to stop; not the ``<|assistant|>`` before, for that is
    given. Messages cannot hold control tokens, whatever they spell.

    Args:
        prompt: end with the token after which the assistant speaks.

    Raises:
        ValueError: as in :func:`check_conversation`; the tokenizer lacks a
            chat token.
    """
    check_conversation(messages)
    token = control_ids(tokenizer)
    ids, written = [tokenizer.end_of_text], [False]
    for message in messages:
        content = tokenizer.encode(message["content"], on_special="text")
        turn = [*content, token[END_OF_TURN]]
        ids += [token[ROLE_TOKENS[message["role"]]], *turn]
        written += [False] + [message["role"] == ASSISTANT] * len(turn)
    if prompt:
        ids.append(token[ROLE_TOKENS[ASSISTANT]])
        written.append(False)
    return ChatIds(ids, written)


def control_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the chat's control tokens, by name.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    missing = [t for t in CHAT_TOKENS if t not in tokenizer.special_tokens]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {', '.join(missing)}. Take "
            "with_chat_tokens(tokenizer), and grow_vocabulary() for the model."
        )
    return {name: tokenizer.special_tokens[name] for name in CHAT_TOKENS}


def encode_prompt(
    tokenizer: Tokenizer, messages: Conversation, room: int
) -> list[int]:
    """The ids after which the assistant speaks, ``room`` at most.

    Of a long conversation the oldest exchanges are left out, whole; the
    system message and the last question stay.

    Raises:
        ValueError: these alone are too long, or the last message is not
            the user's.
    """
    check_conversation(messages)
    if messages[-1]["role"] != USER:
        raise ValueError(
            f"the last message is by {messages[-1]['role']!r}; expected the "
            "user's, which the assistant can answer."
        )
    begun = system_messages(messages)
    for first in range(begun, len(messages), 2):
        kept = [*messages[:begun], *messages[first:]]
        ids = encode(tokenizer, kept, prompt=True).ids
        if len(ids) <= room:
            return ids
    raise ValueError(
        f"the last question takes {len(ids)} tokens, with the system message "
        f"where there is one, and there is room for {room}. Shorten it, or "
        "ask for fewer new tokens."
    )


def encode_example(
    tokenizer: Tokenizer, messages: Conversation, context_length: int
) -> ChatIds | None:
    """A conversation to learn from, or None if no answer of it fits.

    Of a long one the last exchanges are left out, whole. So every answer
    that is learned is seen with all that led to it, and to its end. A last
    question without an answer is left out too.

    Args:
        context_length: the most tokens that the model reads; the last id is
            a target only, so there may be one more.
    """
    check_conversation(messages)
    begun = system_messages(messages)
    answers = (len(messages) - begun) // 2
    for kept in range(answers, 0, -1):
        found = encode(tokenizer, messages[: begun + 2 * kept])
        if len(found.ids) - 1 <= context_length:
            return found
    return None


def decode_reply(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of what the assistant wrote, up to its first control token."""
    control = set(tokenizer.special_tokens.values())
    return tokenizer.decode(takewhile(lambda i: i not in control, ids))


def answer(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    max_new_tokens: int,
    **choices: float | None,
) -> list[str]:
    """What the assistant says next in each conversation.

    Its turn is over at any control token, so it cannot go on as the user.

    Args:
        choices: as in :func:`llmbook.batching.generate_batch`.

    Raises:
        ValueError: as in :func:`encode_prompt`.
    """
    room = model.config.context_length - max_new_tokens
    replies = generate_batch(
        model,
        [encode_prompt(tokenizer, chat, room) for chat in conversations],
        max_new_tokens,
        stop_tokens=list(tokenizer.special_tokens.values()),
        **choices,
    )
    return [decode_reply(tokenizer, ids) for ids in replies]
