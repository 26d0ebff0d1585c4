"""Supervised fine-tuning: a model learns to answer from answers.

:func:`fine_tune` puts together what the modules beside it are made of:
the control tokens, the rows of packed conversations, the loss on the
assistant's tokens alone, and the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from llmbook import lora as low_rank
from llmbook import runtime
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import History, packed_loss, train

from .chat import ChatIds, Conversation, control_ids, encode_example
from .packing import PackedChats
from .vocabulary import grow_vocabulary, with_chat_tokens


@dataclass(frozen=True)
class LoRAChoice:
    """Adapters to train in place of the model's own weights."""

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = low_rank.TARGETS
    dropout: float = 0.0


@dataclass
class Tuned:
    """A model after fine-tuning, and what belongs to it.

    Args:
        model: the tuned one; with adapters on it where these were trained.
        tokenizer: the one given, with the chat's control tokens.
        history: of the run.
        left_out: examples that do not fit into the model's context, and
            were not learned from.
        measured: what :func:`~llmbook.alignment.reinforce` saw in each
            step: ``reward``, ``length``, ``kl``, ``clipped``, ``equal``.
    """

    model: GPT
    tokenizer: Tokenizer
    history: History
    left_out: int = 0
    measured: list[dict[str, float]] = field(default_factory=list)


def fine_tune(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    config: TrainConfig,
    *,
    lora: LoRAChoice | None = None,
    replay: Sequence[str] = (),
    validation: Sequence[Conversation] = (),
    **run: Any,
) -> Tuned:
    """Teach ``model`` the assistant's turns of ``conversations``.

    The model that is given stays as it is.

    Args:
        lora: train adapters alone, with AdamW; merge them afterwards with
            :func:`llmbook.lora.merge`, or save them with ``lora.save``.
        replay: texts that the model has learned from before and should not
            forget, learned whole (:func:`as_document`).
        validation: conversations that the loss is also measured on.
        run: ``run_dir``, ``resume``, ``callbacks``, ``progress``, as in
            :func:`llmbook.train.train`.

    Raises:
        ValueError: Muon is chosen for adapters; the model has adapters
            already; no conversation fits, or too few for a batch.
    """
    tokenizer = with_chat_tokens(tokenizer)
    tuned = prepared(model, tokenizer, config, lora)
    batches, left_out = chat_batches(
        tuned, tokenizer, conversations, config, replay
    )
    if validation:
        run["validation"], _ = chat_batches(
            tuned, tokenizer, validation, config
        )
    loss = partial(packed_loss, end_of_text=tokenizer.end_of_text)
    history = train(tuned, batches, config, loss_function=loss, **run)
    return Tuned(tuned.eval(), tokenizer, history, left_out)


def chat_batches(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    config: TrainConfig,
    replay: Sequence[str] = (),
) -> tuple[PackedChats, int]:
    """Conversations as packed rows, and how many do not fit into any.

    ``replay`` is as in :func:`fine_tune`.
    """
    T = model.config.context_length
    encoded = [encode_example(tokenizer, c, T) for c in conversations]
    kept = [chat for chat in encoded if chat is not None]
    check_some(kept, encoded, T)
    batches = PackedChats(
        [*kept, *(as_document(tokenizer, text, T) for text in replay)],
        T,
        config.batch_size,
        tokenizer.end_of_text,
        data_seed(config),
    )
    return batches, len(encoded) - len(kept)


def as_document(
    tokenizer: Tokenizer, text: str, context_length: int
) -> ChatIds:
    """A text of the corpus for the rows of conversations, learned whole.

    With its end; cut where it is longer than the context.

    >>> from llmbook.tokenizer import BPETokenizer
    >>> as_document(BPETokenizer([]), "Hi", context_length=8).ids
    [256, 72, 105, 256]
    """
    end = tokenizer.end_of_text
    ids = [end, *tokenizer.encode(text, on_special="text"), end]
    ids = ids[: context_length + 1]
    return ChatIds(ids, [False] + [True] * (len(ids) - 1))


def prepared(
    model: GPT,
    tokenizer: Tokenizer,
    config: TrainConfig,
    lora: LoRAChoice | None = None,
) -> GPT:
    """A copy of ``model`` to be tuned, which knows the chat's tokens.

    With ``lora`` the copy has adapters, and the control tokens' rows learn
    too. As long as nothing is learned it computes what ``model`` does.

    Raises:
        ValueError: as in :func:`fine_tune`.
    """
    if low_rank.adapters(model):
        raise ValueError(
            "the model has adapters. Merge them with lora.merge(model), or "
            "give the model that they were trained on."
        )
    device = next(model.parameters()).device
    tuned = grow_vocabulary(model, tokenizer.vocab_size).to(device)
    if lora is None:
        return tuned
    if config.optimizer != "adamw":
        raise ValueError(
            f"optimizer is {config.optimizer!r}; expected 'adamw' for "
            "adapters: Muon's steps are made for whole matrices, and A and "
            "B are thin ones."
        )
    return low_rank.apply(
        tuned,
        lora.rank,
        lora.alpha,
        lora.targets,
        dropout=lora.dropout,
        rows=list(control_ids(tokenizer).values()),
        generator=torch.Generator().manual_seed(data_seed(config)),
    )


def data_seed(config: TrainConfig) -> int:
    """The seed of a run's data: its own, and the machine's offset."""
    return config.seed + runtime.seed_offset()


def check_some(kept: Sequence, given: Sequence, context_length: int) -> None:
    """Refuse to learn from nothing.

    >>> check_some(["a text that fits"], ["a text that fits", None], 8)
    """
    if not kept:
        raise ValueError(
            f"none of {len(given)} examples has an answer that fits into "
            f"{context_length} tokens with all before it. Give shorter ones, "
            "or take a model with a longer context."
        )
