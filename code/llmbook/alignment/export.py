"""A chat model for Hugging Face's libraries, with its template."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llmbook.hub import save_pretrained
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, Tokenizer

from .chat import END_OF_TURN, ROLE_TOKENS, control_ids

# What chat.render does, in Jinja. Libraries turn the result into ids all at
# once and cannot tell a message's letters from the template's tokens, so a
# message that spells a token out is refused. The generation block marks what
# the assistant wrote.
TEMPLATE = """\
{{- END_OF_TEXT }}
{%- set tokens = ROLE_TOKENS %}
{%- set begun = 1 if messages[0]['role'] == 'system' else 0 %}
{%- for message in messages %}
    {%- set content = message['content'] %}
    {%- if loop.index0 < begun %}
        {%- set turn = 'system' %}
    {%- else %}
        {%- set turn = ['user', 'assistant'][(loop.index0 - begun) % 2] %}
    {%- endif %}
    {%- if message['role'] != turn %}
        {{- raise_exception('expected a message of the role ' ~ turn) }}
    {%- endif %}
    {%- if content is not string %}
        {{- raise_exception('expected a content that is a string') }}
    {%- endif %}
    {%- for name in SPECIAL_TOKENS %}
        {%- if name in content %}
            {{- raise_exception('a message spells the token ' ~ name) }}
        {%- endif %}
    {%- endfor %}
    {{- tokens[turn] }}
    {%- if turn == 'assistant' %}
        {%- generation %}
            {{- content ~ END_OF_TURN }}
        {%- endgeneration %}
    {%- else %}
        {{- content ~ END_OF_TURN }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- tokens['assistant'] }}
{%- endif %}
"""


def jinja_template(tokenizer: Tokenizer) -> str:
    """The chat template of ``tokenizer`` for ``apply_chat_template``.

    It renders what :func:`~llmbook.alignment.chat.render` does, and refuses
    the same orders of roles. It also refuses messages that spell one of the
    special tokens: :func:`~llmbook.alignment.chat.encode` reads them as
    characters, where a library would take them for tokens.

    >>> from .vocabulary import BPETokenizer, with_chat_tokens
    >>> "'user'" in jinja_template(with_chat_tokens(BPETokenizer([])))
    True
    """
    control_ids(tokenizer)  # all are there
    values = {
        "SPECIAL_TOKENS": list(tokenizer.special_tokens),
        "ROLE_TOKENS": ROLE_TOKENS,
        "END_OF_TEXT": END_OF_TEXT,
        "END_OF_TURN": END_OF_TURN,
    }
    text = TEMPLATE
    for name, value in values.items():
        text = text.replace(name, json.dumps(value, ensure_ascii=False))
    return text.rstrip("\n")


def save_chat_model(
    model: GPT, tokenizer: Tokenizer, folder: str | os.PathLike[str]
) -> Path:
    """Write a chat model for transformers, whole or not at all.

    As :func:`llmbook.hub.save_pretrained`, with the chat template, and with
    ``<|end|>`` among the tokens at which ``generate`` stops.
    """
    return save_pretrained(
        model,
        tokenizer,
        folder,
        chat_template=jinja_template(tokenizer),
        stop_tokens=[END_OF_TURN],
    )
