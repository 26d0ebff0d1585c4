"""A model's folder, as Hugging Face's libraries read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llmbook.lora import adapters
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, Tokenizer

from .families import config_to_hub
from .files import (
    CONFIG,
    GENERATION,
    INDEX,
    SHARD,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    shard_name,
    write_json,
)
from .names import their_tensors
from .tokens import tokenizer_to_hub

FILES = {CONFIG, WEIGHTS, INDEX, GENERATION, TOKENIZER, TOKENIZER_CONFIG}


def save_pretrained(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    chat_template: str | None = None,
    stop_tokens: Sequence[str] = (),
    max_shard_size: int | None = None,
) -> Path:
    """Write ``model`` and ``tokenizer`` for transformers, whole or not at all.

    The model becomes what its parts make it, a GPT-2, Llama or Mistral.
    ``AutoModelForCausalLM`` and ``AutoTokenizer`` read the folder, as do
    :func:`from_pretrained` and :func:`load_tokenizer`. An older model in it
    is replaced. Their tokenizer turns names of special tokens in a text into
    special tokens unless called with ``split_special_tokens=True``.

    Args:
        chat_template: what ``apply_chat_template`` renders, in Jinja.
        stop_tokens: special tokens that end a text besides the end of text.
        max_shard_size: bytes of weights in a file, a larger tensor alone
            excepted; None writes one file.

    Raises:
        ValueError: no family has the model's parts; the tokenizer does not
            fit, or is no byte-level BPE; adapters are not merged; ``folder``
            holds other files, or the program runs inside it; a stop token
            is none of the tokenizer's.
        OSError: it could not be written; what was there is untouched.
    """
    folder = Path(folder)
    _check_folder(folder)
    _check_model(model, tokenizer)
    contents = _contents(model, tokenizer)
    _add_chat(contents, tokenizer, chat_template, stop_tokens)
    _write(contents, _shards(model, max_shard_size), folder)
    return folder


def _write(
    contents: dict[str, Any], shards: list[dict[str, Tensor]], folder: Path
) -> None:
    """Write ``folder``, or say that it could not be done."""
    try:
        _write_beside(contents, shards, folder.resolve())
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{folder} could not be written ({error}). Choose a folder that "
            "you may write to, on a disk that has room."
        ) from error


def _write_beside(
    contents: dict[str, Any], shards: list[dict[str, Tensor]], folder: Path
) -> None:
    """Write a folder beside ``folder``, and put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.part")
    _clear(beside, folder)
    try:
        beside.mkdir()
        for name, content in contents.items():
            write_json(beside / name, content)
        _write_weights(shards, beside)
        _put(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _shards(model: GPT, most: int | None) -> list[dict[str, Tensor]]:
    """The model's tensors by transformers' names, cut into files."""
    if most is not None and not (isinstance(most, int) and most >= 1):
        raise ValueError(
            f"max_shard_size is {most!r}; expected a number of bytes, or "
            "None for one file."
        )
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in their_tensors(model):
        if shards[-1] and most is not None and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _write_weights(shards: list[dict[str, Tensor]], folder: Path) -> None:
    """Write each shard, and where there are several, which holds what."""
    count, weight_map = len(shards), {}
    for number, shard in enumerate(shards, start=1):
        file = WEIGHTS if count == 1 else shard_name(number, count)
        weight_map |= dict.fromkeys(shard, file)
        packed = {name: t.cpu().contiguous() for name, t in shard.items()}
        metadata = {"format": "pt"}  # transformers reads no file without it
        save_file(packed, folder / file, metadata)
    if count > 1:
        total = sum(t.nbytes for shard in shards for t in shard.values())
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )


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
    special = tokenizer.special_tokens
    unknown = [name for name in stop_tokens if name not in special]
    if unknown:
        raise ValueError(
            f"stop_tokens has {unknown}; expected a list of the tokenizer's "
            f"special tokens, {list(special)}."
        )
    if stop_tokens:
        names = dict.fromkeys([END_OF_TEXT, *stop_tokens])
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
            "the model has adapters beside its matrices, and a model of "
            "transformers has none. Merge them first: lora.merge(model)."
        )


def _check_folder(folder: Path) -> None:
    """Refuse to replace what :func:`save_pretrained` did not write."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{str(folder)!r} is the folder that the program runs in, or "
            "above it, and cannot be replaced. Give one inside it, by name."
        )
    if folder.is_dir():
        found = {path.name for path in folder.iterdir()} - FILES
        foreign = sorted(n for n in found if not SHARD.fullmatch(n))
    else:
        foreign = [folder.name] if folder.exists() else []
    if foreign:
        raise ValueError(
            f"{folder} holds {', '.join(foreign[:3])}, which belongs to no "
            "model that save_pretrained wrote. Give a new or an empty folder."
        )


def _clear(beside: Path, folder: Path) -> None:
    """Remove what a save that was killed has left, but the only model."""
    older = _older(beside)
    if older.exists() and not folder.exists():
        older.rename(folder)  # it died between the two renames
    for left in (beside, older):
        shutil.rmtree(left, ignore_errors=True)


def _older(beside: Path) -> Path:
    return beside.with_name(f"{beside.name}.older")


def _put(beside: Path, folder: Path) -> None:
    """Rename ``beside`` to ``folder``; what was there goes when it is."""
    older = _older(beside)
    if folder.exists():
        folder.rename(older)
    try:
        beside.rename(folder)
    except OSError:
        if older.exists():
            older.rename(folder)
        raise
    shutil.rmtree(older, ignore_errors=True)
