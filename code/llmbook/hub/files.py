"""The files of a model's folder, as Hugging Face names them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"  # which shard holds which tensor
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
GENERATION = "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def shard_name(number: int, count: int) -> str:
    """What the hub calls shard ``number`` of ``count``.

    >>> shard_name(1, 3)
    'model-00001-of-00003.safetensors'
    """
    return f"model-{number:05}-of-{count:05}.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file: an object.

    Raises:
        ValueError: it is not valid JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Download it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected an object, "
            "{...}. Download it again."
        )
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` so that a person can read it."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
