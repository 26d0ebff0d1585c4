"""From a model that continues text to one that answers.

:mod:`.chat` says how a conversation becomes tokens and which of them are
learned, :mod:`.vocabulary` makes room for its control tokens,
:mod:`.packing` lays conversations into rows, :mod:`.export` hands the whole
to Hugging Face's libraries.
"""

from __future__ import annotations

from .chat import (
    ASSISTANT,
    CHAT_TOKENS,
    END_OF_TURN,
    ROLE_TOKENS,
    SYSTEM,
    USER,
    ChatIds,
    Conversation,
    Message,
    answer,
    check_conversation,
    decode_reply,
    encode,
    encode_example,
    encode_prompt,
    render,
)
from .export import jinja_template, save_chat_model
from .packing import (
    IGNORED,
    PackedChats,
    best_fit,
    inputs_and_targets,
    pack,
    packed_loss,
)
from .vocabulary import grow_vocabulary, with_chat_tokens

__all__ = [
    "ASSISTANT",
    "CHAT_TOKENS",
    "END_OF_TURN",
    "IGNORED",
    "ROLE_TOKENS",
    "SYSTEM",
    "USER",
    "ChatIds",
    "Conversation",
    "Message",
    "PackedChats",
    "answer",
    "best_fit",
    "check_conversation",
    "decode_reply",
    "encode",
    "encode_example",
    "encode_prompt",
    "grow_vocabulary",
    "inputs_and_targets",
    "jinja_template",
    "pack",
    "packed_loss",
    "render",
    "save_chat_model",
    "with_chat_tokens",
]
