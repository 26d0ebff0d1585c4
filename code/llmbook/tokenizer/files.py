"""The file of a tokenizer: JSON with a checksum, written whole or not."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_FORMAT = "llmbook-bpe"
FILE_VERSION = 1
FIELDS = ("pattern", "special_tokens", "merges")


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of what a tokenizer's file says."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with its checksum to ``path``."""
    document = {
        "format": FILE_FORMAT,
        "version": FILE_VERSION,
        "sha256": checksum(content),
        **content,
    }
    write_atomically(path, json.dumps(document, indent=1) + "\n")


def read_document(path: Path) -> dict[str, Any]:
    """The content that :func:`write_document` wrote to ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, edited, or something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise ValueError(
            f"{path} is no whole tokenizer file ({error}). Was the copy cut "
            "short? Train and save the tokenizer again."
        ) from None
    if not isinstance(document, dict) or document.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{path} was not written by BPETokenizer.save: it has no "
            f'"format": "{FILE_FORMAT}".'
        )
    if document.get("version") != FILE_VERSION:
        raise ValueError(
            f"{path} has version {document.get('version')!r}; this llmbook "
            f"reads version {FILE_VERSION}. Update llmbook, or train again."
        )
    content = {name: document.get(name) for name in FIELDS}
    if checksum(content) != document.get("sha256"):
        raise ValueError(
            f"{path} was changed after it was saved: its content does not "
            "match its checksum. Restore it, or train and save the tokenizer "
            "again."
        )
    return content


def write_atomically(path: Path, text: str) -> None:
    """Write beside ``path`` and rename: no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp's own is for one user only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
