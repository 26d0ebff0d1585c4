"""A journal of an evaluation: what was scored, line by line, on disk.

The first line says what is evaluated, each further one is a record. A
process may end at any moment: a line without its end is dropped, and the
next run goes on after the last whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from llmbook.evaluation.tasks import Record

SHOWN = 40  # characters of a value that differs; hashes are longer


class Journal:
    """The records of a run, appended as they come.

    Args:
        path: the file; its folder is made where it is missing.
        key: what is evaluated, and how. A journal of another key is refused.
        restart: throw away what an earlier run left.

    Raises:
        ValueError: the file belongs to another evaluation, is damaged, or
            is being written by another process.
    """

    def __init__(
        self, path: Path, key: Mapping[str, Any], restart: bool = False
    ) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another process writes to {path}. Wait for it, or choose "
                "another file for the results."
            ) from None
        try:
            if restart:
                path.unlink(missing_ok=True)
            self.records = self._take_up(key)
            self._file = open(path, "ab")  # noqa: SIM115
        except BaseException:
            self._lock.release()
            raise

    def _take_up(self, key: Mapping[str, Any]) -> dict[str, Record]:
        """The whole lines that are there; a new file gets its first."""
        key = json.loads(json.dumps(key))
        lines = whole_lines(self.path)
        if not lines:
            self.path.write_text(json.dumps({"key": key}) + "\n", "utf-8")
            return {}
        first, *records = read_lines(self.path, lines)
        differing = differences(first.get("key"), key)
        if differing:
            raise ValueError(
                f"{self.path} is the journal of another evaluation: "
                f"{'; '.join(differing)}. Repeat that one to go on with it, "
                "choose another file for the results, or start anew with "
                "restart."
            )
        return {f"{row['task']} {row['id']}": row for row in records}

    def add(self, records: Sequence[Record]) -> None:
        """Write records down, and make sure that they are on the disk."""
        lines = "".join(
            json.dumps(row, allow_nan=False) + "\n" for row in records
        )
        self._file.write(lines.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        for row in records:
            self.records[f"{row['task']} {row['id']}"] = row

    def get(self, task: str, item: str) -> Record | None:
        """The record of an item, where there is one."""
        return self.records.get(f"{task} {item}")

    def close(self) -> None:
        """Let go of the file; the next run may take it up."""
        self._file.close()
        self._lock.release()

    def remove(self) -> None:
        """Delete the file: its records are kept elsewhere now."""
        self.close()
        self.path.unlink(missing_ok=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that were written to their end.

    What stands behind the last of them is cut off in the file too.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with open(path, "r+b") as file:
            file.truncate(end)
    return content[:end].splitlines()


def read_lines(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The objects in a journal's lines.

    Raises:
        ValueError: a line is no JSON object.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, is damaged ({error}). Start anew "
                "with restart."
            ) from error
        rows.append(row)
    return rows


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two keys differ, in words.

    >>> differences({"options": {"limit": 5}}, {"options": {"limit": 9}})
    ['options.limit was 5 and is 9']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys([*new, *old]):
            place = f"{name}.{key}" if name else key
            found += differences(old.get(key), new.get(key), place)
        return found
    if old == new:
        return []
    return [f"{name} was {old!r:.{SHOWN}} and is {new!r:.{SHOWN}}"]
