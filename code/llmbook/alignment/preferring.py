"""Preference tuning: learning which of two replies is better."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import train

from .data import Choice, encode_preference
from .dpo import PreferenceBatches, preference_loss
from .sequences import preference_logprobs
from .sft import LoRAChoice, Tuned, check_some, data_seed, prepared
from .vocabulary import with_chat_tokens

RUN = ("run_dir", "resume", "callbacks", "progress")  # options of train()


def prefer(
    model: GPT,
    tokenizer: Tokenizer,
    preferences: Sequence[Choice],
    config: TrainConfig,
    *,
    lora: LoRAChoice | None = None,
    validation: Sequence[Choice] = (),
    **options: Any,
) -> Tuned:
    """Teach ``model`` to prefer the chosen replies, by DPO or its kin.

    The model that is given stays as it is, and is the reference: what it
    thinks of all replies is asked once, before the first step.

    Args:
        lora: train adapters alone, with AdamW.
        validation: preferences that the loss is also measured on.
        options: of the loss, ``beta``, ``kind``, ``label_smoothing``,
            ``per`` and ``sft``, as in
            :func:`~llmbook.alignment.dpo.preference_outcome`; and of the
            run, as in :func:`~llmbook.alignment.sft.fine_tune`.

    Raises:
        ValueError: as in ``fine_tune``; an option of the loss is none.
    """
    run = options_of_run(options)
    tokenizer = with_chat_tokens(tokenizer)
    tuned = prepared(model, tokenizer, config, lora)
    batches, left_out = choice_batches(tuned, tokenizer, preferences, config)
    if validation:
        run["validation"], _ = choice_batches(
            tuned, tokenizer, validation, config
        )
    loss = partial(preference_loss, **options)
    history = train(tuned, batches, config, loss_function=loss, **run)
    return Tuned(tuned.eval(), tokenizer, history, left_out)


def options_of_run(options: dict[str, Any]) -> dict[str, Any]:
    """Take from ``options`` those that the training loop is told.

    >>> options = {"beta": 0.1, "progress": False}
    >>> options_of_run(options), options
    ({'progress': False}, {'beta': 0.1})
    """
    return {name: options.pop(name) for name in RUN if name in options}


def choice_batches(
    reference: GPT,
    tokenizer: Tokenizer,
    preferences: Sequence[Choice],
    config: TrainConfig,
) -> tuple[PreferenceBatches, int]:
    """Preferences with the reference's log-probabilities; how many not fit."""
    T = reference.config.context_length
    encoded = [encode_preference(tokenizer, *p, T) for p in preferences]
    kept = [preference for preference in encoded if preference is not None]
    check_some(kept, encoded, T)
    batches = PreferenceBatches(
        kept,
        preference_logprobs(reference, kept).cpu(),  # batches are made there
        config.batch_size,
        data_seed(config),
    )
    return batches, len(encoded) - len(kept)
