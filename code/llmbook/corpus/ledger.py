"""What a run has written so far, so that it can be killed at any moment."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from ..downloads import sha256_of
from .duplicates import Banding, DuplicateIndex
from .report import Prepared

_CACHE = 8  # MiB of the index that SQLite may hold in memory


class Ledger:
    """How far a run has come: one SQLite file, lasting a part at a time.

    The index of duplicates, the report and the number of documents read
    stand in one database and are committed together, after the part's text
    is safe on disk. A run killed at any moment goes on from the last part
    that was whole, and what it had begun of the next is written anew.
    """

    def __init__(self, path: Path, banding: Banding | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(
            path, timeout=0, isolation_level=None
        )
        try:
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.connection.execute(f"PRAGMA cache_size = {-_CACHE * 1024}")
            self.connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise ValueError(
                f"{path} cannot be used ({error}). If another run is at "
                "work in this folder, wait for it or choose another folder."
            ) from error
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS notes "
            "(name TEXT PRIMARY KEY, json TEXT)"
        )
        self.index = DuplicateIndex(self.connection, banding)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()  # forgets what was not committed

    def read(self, name: str, default: Any) -> Any:
        """A note, or ``default`` where there is none yet."""
        query = "SELECT json FROM notes WHERE name = ?"
        row = self.connection.execute(query, (name,)).fetchone()
        return json.loads(row[0]) if row else default

    def commit(self, **notes: Any) -> None:
        """Make all changes and these notes lasting, and go on."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO notes VALUES (?, ?)",
            [(name, json.dumps(value)) for name, value in notes.items()],
        )
        self.connection.execute("COMMIT")
        self.connection.execute("BEGIN EXCLUSIVE")


class PartFiles:
    """One file of JSON lines a side, each renamed into place when whole."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.number = folder, number
        self.open: dict[str, TextIO] = {}
        self.counts: Counter[str] = Counter()
        self.written: list[dict[str, Any]] = []

    def __enter__(self) -> PartFiles:
        return self

    def write(self, side: str, document: Prepared) -> None:
        """Add a document to a side's file."""
        if side not in self.open:
            name = f".{side}-{self.number:05d}.jsonl.part"
            path = self.folder / name
            self.open[side] = path.open("w", encoding="utf-8", newline="\n")
        record = {"id": document.id, "text": document.text}
        line = json.dumps(record, ensure_ascii=False)
        self.open[side].write(line + "\n")
        self.counts[side] += 1

    def __exit__(self, kind: type | None, *_: object) -> None:
        for side, file in sorted(self.open.items()):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            part = Path(file.name)
            if kind is not None:
                part.unlink()
                continue
            name = f"{side}-{self.number:05d}.jsonl"
            self.written.append(
                {
                    "file": f"text/{name}",
                    "side": side,
                    "documents": self.counts[side],
                    "bytes": part.stat().st_size,
                    "sha256": sha256_of(part),
                }
            )
            os.replace(part, self.folder / name)


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place and rename it."""
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}). It was changed since the "
            "pipeline wrote it: delete the folder and run again."
        ) from error
