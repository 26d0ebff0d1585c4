"""A model by its folder or its name, ready to be evaluated."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmbook import checkpoint, runtime
from llmbook.batching import BATCH_SIZE
from llmbook.evaluation.models import GPTModel, LanguageModel
from llmbook.evaluation.transformers_model import TransformersModel
from llmbook.hub import (
    CONFIG,
    REPOSITORIES,
    TOKENIZER,
    WEIGHTS,
    config_from_hub,
    from_pretrained,
    load_tokenizer,
)
from llmbook.hub.files import read_json
from llmbook.model import GPT
from llmbook.tokenizer import END_OF_TEXT, Tokenizer

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_model(
    name_or_dir: str | os.PathLike[str], batch_size: int = BATCH_SIZE
) -> LanguageModel:
    """The model that ``name_or_dir`` names.

    A folder of ``llmbook train``; a folder in Hugging Face's format; one of
    :data:`~llmbook.hub.REPOSITORIES`; or another causal model's name on the
    hub. What our GPT can be is computed by our own code, other models by
    transformers.

    Raises:
        ValueError: there is no such folder, or it holds no model.
        OSError: the hub cannot be reached, or has no such model; the
            message says what to do.
        ImportError: it takes transformers, which is missing.
    """
    name, path = os.fspath(name_or_dir), Path(name_or_dir)
    if path.is_dir():
        return _from_folder(path, batch_size)
    if name in REPOSITORIES:
        model = from_pretrained(name).to(runtime.best_device())
        return GPTModel(model, load_tokenizer(name), batch_size, name)
    if path.exists() or not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is neither a folder nor a name on the hub; expected "
            "a folder that `llmbook train` filled, one in Hugging Face's "
            f"format, or a name such as {', '.join(REPOSITORIES)} or "
            '"owner/model".'
        )
    return TransformersModel.load(name)


def read_trained(folder: Path) -> tuple[GPT, Tokenizer]:
    """What ``llmbook train`` or ``llmbook align`` left in ``folder``.

    Where ``align`` began with GPT-2's own tokenizer, it is written as
    Hugging Face writes it.
    """
    return checkpoint.load_model(folder / WEIGHTS), load_tokenizer(folder)


def _from_folder(folder: Path, batch_size: int) -> LanguageModel:
    if (folder / CONFIG).is_file():
        tokenizer = _own_kind(folder)
        if tokenizer is None:
            return TransformersModel.load(folder)
        model = from_pretrained(folder)
    elif (folder / WEIGHTS).is_file():
        model, tokenizer = read_trained(folder)
    else:
        raise ValueError(
            f"{folder} holds no model; expected {WEIGHTS} and {TOKENIZER}, "
            f"as `llmbook train` leaves them, or {CONFIG} with safetensors."
        )
    model = model.to(runtime.best_device())
    return GPTModel(model, tokenizer, batch_size, folder.name)


def _own_kind(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, where it and the model are of our kind.

    Ours begin a document with the end of the one before it; a model that
    was trained to begin with another token is not of our kind.
    """
    settings = read_json(folder / CONFIG)
    try:
        config_from_hub(settings)
        tokenizer = load_tokenizer(folder)
    except ValueError:
        return None
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    begins_alike = settings.get("bos_token_id") in (None, end)
    return tokenizer if end is not None and begins_alike else None
