"""From a model that continues text to one that answers.

:mod:`.chat` says how a conversation becomes tokens and which of them are
learned, :mod:`.vocabulary` makes room for its control tokens,
:mod:`.packing` lays conversations into rows, :mod:`.export` hands the whole
to Hugging Face's libraries.

:func:`fine_tune` learns from answers, :func:`prefer` from which of two is
better (:mod:`.dpo`; a model of rewards is in :mod:`.reward`), and
:func:`reinforce` from checks (:mod:`.verifiers`, :mod:`.grpo`); all by the
loop of :func:`llmbook.train.train`. :mod:`.data` cuts what they learn from
out of the world, :mod:`.readers` reads a user's own, and :mod:`.measures`
says what came of it.
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
from .data import (
    KINDS,
    Choice,
    Problem,
    encode_preference,
    training_chats,
    world_chats,
    world_preferences,
    world_problems,
)
from .export import jinja_template, save_chat_model
from .grpo import RECIPES
from .measures import (
    accuracy,
    answered_right,
    endings,
    facts_cloze,
    forgetting,
    temper,
)
from .packing import (
    IGNORED,
    PackedChats,
    best_fit,
    inputs_and_targets,
    pack,
)
from .preferring import prefer
from .readers import read_chats, read_preferences, read_problems
from .reinforcing import reinforce
from .sft import LoRAChoice, Tuned, fine_tune
from .verifiers import sum_reward, verifier
from .vocabulary import grow_vocabulary, with_chat_tokens

__all__ = [
    "ASSISTANT",
    "CHAT_TOKENS",
    "END_OF_TURN",
    "IGNORED",
    "KINDS",
    "RECIPES",
    "ROLE_TOKENS",
    "SYSTEM",
    "USER",
    "ChatIds",
    "Choice",
    "Conversation",
    "LoRAChoice",
    "Message",
    "PackedChats",
    "Problem",
    "Tuned",
    "accuracy",
    "answer",
    "answered_right",
    "best_fit",
    "check_conversation",
    "decode_reply",
    "encode",
    "encode_example",
    "encode_preference",
    "encode_prompt",
    "endings",
    "facts_cloze",
    "fine_tune",
    "forgetting",
    "grow_vocabulary",
    "inputs_and_targets",
    "jinja_template",
    "pack",
    "prefer",
    "read_chats",
    "read_preferences",
    "read_problems",
    "reinforce",
    "render",
    "save_chat_model",
    "sum_reward",
    "temper",
    "training_chats",
    "verifier",
    "with_chat_tokens",
    "world_chats",
    "world_preferences",
    "world_problems",
]
