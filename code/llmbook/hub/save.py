"""A model's folder, as Hugging Face's libraries read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from llmbook.lora import adapters
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, Tokenizer

from .files import (
    CONFIG,
    GENERATION,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    write_json,
)
from .names import config_to_hub, their_state
from .tokens import tokenizer_to_hub

FILES = {CONFIG, WEIGHTS, GENERATION, TOKENIZER, TOKENIZER_CONFIG}


def save_pretrained(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    chat_template: str | None = None,
    stop_tokens: Sequence[str] = (),
) -> Path:
    """Write ``model`` and ``tokenizer`` for transformers, whole or not at all.

    ``AutoModelForCausalLM`` and ``AutoTokenizer`` read the folder with no
    network and give the same logits and ids; here,
    :func:`from_pretrained_gpt2` and :func:`load_tokenizer` do. A folder that
    this function wrote before is replaced.

    Their tokenizer turns the names of special tokens in a text into special
    tokens, unless it is called with ``split_special_tokens=True``; then it
    reads them as characters, as ours does with ``on_special="text"``.

    Args:
        chat_template: what ``apply_chat_template`` renders, in Jinja.
        stop_tokens: special tokens that end a text besides the end of text.

    Raises:
        ValueError: the tokenizer has more tokens than the model, or is no
            byte-level BPE; the model has adapters that are not merged;
            ``folder`` holds files of something else.
    """
    folder = Path(folder)
    _check_folder(folder)
    _check_model(model, tokenizer)
    contents = _contents(model, tokenizer)
    _add_chat(contents, tokenizer, chat_template, stop_tokens)
    _write(contents, model, folder)
    return folder


def _write(contents: dict[str, Any], model: GPT, folder: Path) -> None:
    """Write a folder beside ``folder``, and put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        beside.mkdir()
        for name, content in contents.items():
            write_json(beside / name, content)
        metadata = {"format": "pt"}  # transformers reads no file without it
        save_file(their_state(model), beside / WEIGHTS, metadata)
        _put(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _contents(model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    """What the folder's JSON files say."""
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    name = None if end is None else END_OF_TEXT
    return {
        CONFIG: config_to_hub(model.config, end),
        GENERATION: dict.fromkeys(
            ("bos_token_id", "eos_token_id", "pad_token_id"), end
        ),
        TOKENIZER: tokenizer_to_hub(tokenizer),
        TOKENIZER_CONFIG: {
            # GPT2Tokenizer would put its own pattern for ours.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.config.context_length,
            # No token types: GPT-2 would add an embedding for each.
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,  # decode what was written
            "bos_token": name,
            "eos_token": name,
        },
    }


def _add_chat(
    contents: dict[str, Any],
    tokenizer: Tokenizer,
    chat_template: str | None,
    stop_tokens: Sequence[str],
) -> None:
    """Let the files say how a chat looks, and where an answer ends."""
    if chat_template is not None:
        contents[TOKENIZER_CONFIG]["chat_template"] = chat_template
    if stop_tokens:
        names = [END_OF_TEXT, *stop_tokens]
        special = tokenizer.special_tokens
        ends = [special[name] for name in names if name in special]
        contents[GENERATION]["eos_token_id"] = ends


def _check_model(model: GPT, tokenizer: Tokenizer) -> None:
    """Refuse a model that the files cannot hold."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
            f"knows {model.config.vocab_size}. Save each model with the "
            "tokenizer that it was trained with."
        )
    if adapters(model):
        raise ValueError(
            "the model has adapters beside its matrices, and a GPT-2 of "
            "transformers has none. Merge them first: lora.merge(model)."
        )


def _check_folder(folder: Path) -> None:
    """Refuse to replace what :func:`save_pretrained` did not write."""
    if folder.is_dir():
        foreign = sorted({path.name for path in folder.iterdir()} - FILES)
    else:
        foreign = [folder.name] if folder.exists() else []
    if foreign:
        raise ValueError(
            f"{folder} holds {', '.join(foreign[:3])}, which belongs to no "
            "model that save_pretrained wrote. Give a new or an empty folder."
        )


def _put(beside: Path, folder: Path) -> None:
    """Rename ``beside`` to ``folder``; what was there goes when it is."""
    older = folder.with_name(f"{beside.name}.older")
    if folder.exists():
        folder.rename(older)
    try:
        beside.rename(folder)
    except OSError:
        if older.exists():
            older.rename(folder)
        raise
    shutil.rmtree(older, ignore_errors=True)
