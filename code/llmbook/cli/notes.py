"""What a command says beside its result."""

from __future__ import annotations

import sys


def note(text: object) -> None:
    """Say something on stderr, on a line that names the program."""
    print(f"llmbook: {text}", file=sys.stderr, flush=True)
