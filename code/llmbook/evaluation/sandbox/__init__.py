"""Where a model's program runs, and where it is judged.

Two processes, and between them plain data: a worker shut in, which holds the
program and answers calls, and a judge of ours, which holds the tests.
"""

from llmbook.evaluation.sandbox.checking import STATUSES, Verdict, check
from llmbook.evaluation.sandbox.pipes import Stopped
from llmbook.evaluation.sandbox.tiers import (
    TIERS,
    InfrastructureError,
    Limits,
    SandboxUnavailable,
    available_tiers,
    best_tier,
    start,
)

__all__ = [
    "STATUSES",
    "TIERS",
    "InfrastructureError",
    "Limits",
    "SandboxUnavailable",
    "Stopped",
    "Verdict",
    "available_tiers",
    "best_tier",
    "check",
    "start",
]
