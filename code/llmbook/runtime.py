"""The machine a run happens on: seed, device, number format, budget."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from typing import TypeVar

import numpy as np
import torch

BUDGETS = ("smoke", "quick", "laptop", "gpu")
SWITCH = ("auto", "on", "off")
BUDGET_VARIABLE = "LLMBOOK_BUDGET"
DTYPE_VARIABLE = "LLMBOOK_DTYPE"  # float32 or bfloat16 overrides "auto"
SEED_VARIABLE = "LLMBOOK_SEED"  # added to every seed: tests of luck use it
MOST_OFFSET = 10**12  # as large as a seed may be
MALLOC_VARIABLE = "LLMBOOK_MALLOC"  # "system" leaves the C library alone
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
TOP_PAD = 64 * 2**20  # bytes asked for at once when the heap grows

Value = TypeVar("Value")


def budget() -> str:
    """How much computing a training cell may use: ``LLMBOOK_BUDGET``.

    ``smoke`` proves that a cell runs, ``quick`` (the default) builds the
    book in minutes on two cores, ``laptop`` takes about two hours, ``gpu``
    is for a machine that has one.

    Raises:
        ValueError: the variable holds something else.
    """
    value = os.environ.get(BUDGET_VARIABLE, "quick")
    if value not in BUDGETS:
        raise ValueError(
            f"{BUDGET_VARIABLE} is {value!r}; expected one of "
            f"{', '.join(BUDGETS)}."
        )
    return value


def pick(**choices: Value) -> Value:
    """The choice for the current budget, or the nearest smaller one.

    >>> pick(smoke=1, quick=1)
    1

    Raises:
        ValueError: a name is no budget, or ``smoke`` is missing.
    """
    unknown = set(choices) - set(BUDGETS)
    if unknown or "smoke" not in choices:
        raise ValueError(
            f"pick() got {sorted(choices)}; expected 'smoke' and any of "
            f"{', '.join(BUDGETS)}."
        )
    allowed = BUDGETS[: BUDGETS.index(budget()) + 1]
    return choices[[name for name in allowed if name in choices][-1]]


def switch(variable: str, wanted: str = "auto") -> str:
    """``auto``, ``on`` or ``off``: what the variable holds, or ``wanted``.

    Raises:
        ValueError: the variable holds something else.
    """
    value = os.environ.get(variable, wanted)
    if value not in SWITCH:
        raise ValueError(
            f"{variable} is {value!r}; expected one of {', '.join(SWITCH)}."
        )
    return value


def seed_everything(seed: int = 0) -> torch.Generator:
    """Seed Python, NumPy and PyTorch; return a generator of that seed.

    >>> seed_everything(7).initial_seed() == 7 + seed_offset()
    True
    """
    seed = seed + seed_offset()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def seed_offset() -> int:
    """What ``LLMBOOK_SEED`` adds to every seed of the book (default 0)."""
    text = os.environ.get(SEED_VARIABLE, "0")
    if not text.isdecimal() or int(text) > MOST_OFFSET:
        raise ValueError(
            f"{SEED_VARIABLE} is {text!r}; expected a whole number from 0 to "
            f"{MOST_OFFSET:,}."
        )
    return int(text)


def best_device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether ``device`` multiplies matrices in bfloat16 natively."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return False


def best_dtype(
    device: torch.device | str, wanted: str = "auto"
) -> torch.dtype:
    """The number format that training uses on ``device``.

    ``wanted`` is ``"float32"``, ``"bfloat16"`` or ``"auto"``; ``auto`` takes
    bfloat16 where :func:`computes_bfloat16`, and ``LLMBOOK_DTYPE`` overrides
    it.

    >>> best_dtype("cpu", "float32")
    torch.float32
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if wanted == "auto":
        wanted = os.environ.get(DTYPE_VARIABLE, "auto")
    if wanted == "auto":
        wanted = "bfloat16" if computes_bfloat16(device) else "float32"
    if wanted not in names:
        raise ValueError(
            f"dtype is {wanted!r}; expected 'auto', 'float32' or 'bfloat16'."
        )
    return names[wanted]


def autocast(
    device: torch.device | str, dtype: torch.dtype
) -> contextlib.AbstractContextManager:
    """A context in which matrix products run in ``dtype``."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def keep_freed_memory() -> bool:
    """Let the C library reuse freed memory instead of giving it back.

    A training step frees and asks again for the same large blocks; each
    time the system clears them page by page. Returns whether it was done:
    not without glibc, and not where ``LLMBOOK_MALLOC`` is ``system``. The
    process keeps its largest size from then on.

    Raises:
        ValueError: the variable holds something else.
    """
    wanted = os.environ.get(MALLOC_VARIABLE, "keep")
    if wanted not in ("keep", "system"):
        raise ValueError(
            f"{MALLOC_VARIABLE} is {wanted!r}; expected 'system', or "
            "'keep', the default."
        )
    if wanted == "system":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too ...
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # ... which is never cut back
    mallopt(M_TOP_PAD, TOP_PAD)
    return True
