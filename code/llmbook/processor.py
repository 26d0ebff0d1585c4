"""Who made the processor, and how wide its arithmetic units are."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # widest first


@cache
def facts(path: Path = CPUINFO) -> dict[str, list[str]]:
    """What Linux says of the processor, each fact's words by its name.

    Empty where there is no such file. Of several processors the last.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.split() for name, _, value in lines}


def maker(path: Path = CPUINFO) -> str:
    """Its maker, ``"AuthenticAMD"`` say; what Python knows elsewhere."""
    return "".join(facts(path).get("vendor_id", [])) or platform.processor()


def widest_units(path: Path = CPUINFO) -> str:
    """The widest units of :data:`UNITS` that it has, or ``""``."""
    flags = facts(path).get("flags", [])
    return next((units for units in UNITS if units in flags), "")
