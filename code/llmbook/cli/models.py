"""The model that a command is asked to work with."""

from __future__ import annotations

from pathlib import Path

from llmbook import aligned, checkpoint, running, runtime
from llmbook.alignment import CHAT_TOKENS
from llmbook.evaluation.loading import read_trained
from llmbook.hub import (
    CONFIG,
    REPOSITORIES,
    WEIGHTS,
    HubTokenizer,
    from_pretrained,
    load_tokenizer,
)
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import CHECKPOINT_NAME

from .notes import note


def read_model(name_or_dir: str) -> tuple[GPT, Tokenizer]:
    """A GPT of ours with its tokenizer, by its folder or its name.

    Raises:
        ValueError: there is none, or it is built otherwise than a GPT-2, a
            Llama or a Mistral.
        OSError: it has to be downloaded, and that failed.
    """
    folder = Path(name_or_dir)
    if (folder / CONFIG).is_file():
        model, tokenizer = from_pretrained(folder), load_tokenizer(folder)
    elif (folder / WEIGHTS).is_file():
        model, tokenizer = read_trained(folder)
    elif name_or_dir in REPOSITORIES:
        model = from_pretrained(name_or_dir)
        tokenizer = load_tokenizer(name_or_dir)
    else:
        raise ValueError(_why_not(folder))
    return model.to(runtime.best_device()), tokenizer


def read_chat_model(name_or_dir: str) -> tuple[GPT, Tokenizer]:
    """A model that has learned to answer, as :func:`read_model` finds it.

    Raises:
        ValueError: it has not, or as there.
    """
    model, tokenizer = read_model(name_or_dir)
    if set(CHAT_TOKENS) - set(tokenizer.special_tokens):
        check_teachable(name_or_dir, tokenizer)
        raise ValueError(
            f"{name_or_dir} holds a model without chat tokens: it goes on "
            "with a text and answers nobody. Teach it to answer first: "
            f"llmbook align sft OUT --model {name_or_dir}"
        )
    return model, tokenizer


def check_teachable(name_or_dir: str, tokenizer: Tokenizer) -> None:
    """Refuse a model whose tokenizer cannot be given the chat's tokens.

    Raises:
        ValueError: it is one of the hub, with ids in an order of its own.
    """
    if isinstance(tokenizer, HubTokenizer):
        raise ValueError(
            f"{name_or_dir} cannot be taught to answer here: the ids of its "
            "tokenizer stand in an order of their own, like SmolLM2's, and "
            "llmbook adds the chat's tokens to others only. Begin with a "
            "GPT-2, or with a model of `llmbook train`."
        )


def own_chat_model(stage: str) -> tuple[GPT, Tokenizer]:
    """The book's own model after a stage of alignment.

    Where it has to be made first, that is said, for it takes minutes.
    """
    folder = running.models_folder() / aligned.fingerprint(stage)
    if not (folder / aligned.RESULT_NAME).is_file():
        note("the book's own model is made first, once; it takes minutes")
    own = aligned.load_aligned(stage)
    return own.model, own.tokenizer


def _why_not(folder: Path) -> str:
    if checkpoint.is_kept(folder / CHECKPOINT_NAME):
        return (
            f"{folder} holds a run that was stopped, and no model yet. Give "
            "its command again, with --resume."
        )
    return (
        f"{str(folder)!r} holds no model; expected a folder that `llmbook "
        "train` or `llmbook align` filled, one of a GPT-2, a Llama or a "
        "Mistral in Hugging Face's format, or one of "
        f"{', '.join(REPOSITORIES)}."
    )
