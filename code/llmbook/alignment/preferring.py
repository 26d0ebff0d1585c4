"""Preference tuning: learning which of two replies is better."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import Callback, train

from .data import Choice, encode_preference
from .dpo import BETA, PreferenceBatches, preference_loss
from .sequences import preference_logprobs
from .sft import LoRAChoice, Tuned, check_some, data_seed, prepared
from .vocabulary import with_chat_tokens


def prefer(
    model: GPT,
    tokenizer: Tokenizer,
    preferences: Sequence[Choice],
    config: TrainConfig,
    *,
    beta: float = BETA,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
    per: str = "answer",
    sft: float = 0.0,
    lora: LoRAChoice | None = None,
    validation: Sequence[Choice] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Tuned:
    """Teach ``model`` to prefer the chosen replies, by DPO or its kin.

    The model that is given stays as it is, and is the reference: what it
    thinks of all replies is asked once, before the first step.

    Args:
        beta, kind, label_smoothing, per, sft: as in
            :func:`~llmbook.alignment.dpo.preference_outcome`.
        lora: train adapters alone, with AdamW.
        validation: preferences that the loss is also measured on.
        run_dir, resume, callbacks, progress: as in
            :func:`llmbook.train.train`.

    Raises:
        ValueError: as in :func:`~llmbook.alignment.sft.fine_tune`; a choice
            is none.
    """
    tokenizer = with_chat_tokens(tokenizer)
    tuned = prepared(model, tokenizer, config, lora)
    batches, left_out = choice_batches(tuned, tokenizer, preferences, config)
    judged = None
    if validation is not None:
        judged, _ = choice_batches(tuned, tokenizer, validation, config)
    loss = partial(
        preference_loss,
        beta=beta,
        kind=kind,
        label_smoothing=label_smoothing,
        per=per,
        sft=sft,
    )
    history = train(
        tuned,
        batches,
        config,
        validation=judged,
        run_dir=run_dir,
        resume=resume,
        callbacks=callbacks,
        progress=progress,
        loss_function=loss,
    )
    return Tuned(tuned.eval(), tokenizer, history, left_out)


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
