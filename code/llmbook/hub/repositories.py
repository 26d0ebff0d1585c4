"""Models of the hub by their names, downloaded once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llmbook import downloads

from .files import CONFIG, TOKENIZER, WEIGHTS

REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "HuggingFaceTB/SmolLM2-135M": "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M": "HuggingFaceTB/SmolLM2-360M",
    "HuggingFaceTB/SmolLM2-1.7B": "HuggingFaceTB/SmolLM2-1.7B",
}
GPT2_SIZES = tuple(name for name in REPOSITORIES if name.startswith("gpt2"))
ENDPOINT_VARIABLE = "HF_ENDPOINT"  # the hub's own variable, for mirrors
ENDPOINT = "https://huggingface.co"


def download(
    name: str, files: Sequence[str] = (CONFIG, WEIGHTS), progress: bool = True
) -> Path:
    """Fetch files of a model into the cache, once; return its folder.

    The SHA-256 of each file is recorded when it first arrives, and verified
    at every later use.

    Raises:
        ValueError: no model of that name is known, or a file is damaged.
        OSError: the download failed; the message says what to do.
    """
    if name not in REPOSITORIES:
        raise ValueError(
            f"{name!r} is neither a folder nor a known model; expected a "
            f"folder or one of {', '.join(REPOSITORIES)}."
        )
    endpoint = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
    base = f"{endpoint}/{REPOSITORIES[name]}/resolve/main"
    mend = f"Or pass a folder that holds {CONFIG}, {WEIGHTS} and {TOKENIZER}."
    for file in files:
        path = downloads.fetch(
            f"{base}/{file}", f"{name}/{file}", mend=mend, progress=progress
        )
    return path.parent
