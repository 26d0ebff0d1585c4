"""Conversations, preferences and problems from a user's JSON Lines."""

from __future__ import annotations

import os

from .chat import Conversation
from .data import Choice, Problem


def read_chats(path: str | os.PathLike[str]) -> list[Conversation]:
    """Conversations: ``{"messages": [...]}`` or ``{"prompt", "response"}``.

    Raises:
        ValueError: a line is neither; names file and line.
    """
    raise NotImplementedError


def read_preferences(path: str | os.PathLike[str]) -> list[Choice]:
    """Preferences: ``{"prompt", "chosen", "rejected"}``.

    A prompt is a text or a list of messages.

    Raises:
        ValueError: a line is none; names file and line.
    """
    raise NotImplementedError


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Problems: rows of GSM8K, or of HumanEval.

    Raises:
        ValueError: a line is neither; names file and line.
    """
    raise NotImplementedError
