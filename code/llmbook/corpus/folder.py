"""Texts from a folder, with nothing guessed about broken bytes."""

from __future__ import annotations

import os
from pathlib import Path


def read_folder(path: str | os.PathLike[str]) -> list[str]:
    """The ``.txt`` files of a folder (or one such file), in name order.

    Folders inside it are read too; files of nothing but white space are
    left out.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no text in it, or bytes that are not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no corpus {str(path)!r}; expected 'world', 'austen' "
            "or the path of a folder with .txt files."
        )
    files = [path] if path.is_file() else sorted(path.rglob("*.txt"))
    texts = [text for text in map(read_text, files) if text.strip()]
    if not texts:
        raise ValueError(
            f"{path} holds {len(files)} .txt files and no text in them; "
            "expected at least one with text (UTF-8)."
        )
    return texts


def read_text(path: Path) -> str:
    """A file's text, line ends as ``\\n``, a byte-order mark taken off.

    Raises:
        ValueError: bytes that are not UTF-8, named with file and offset.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[offset]:02x} at offset "
            f"{offset} ({error.reason}). Save the file as UTF-8, or take it "
            "out of the folder."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
