"""What one program may use, and the errors of a sandbox."""

from __future__ import annotations

import sys
from dataclasses import dataclass

MIB = 1 << 20
MOST_FILES = 1000  # an empty file costs memory too


class InfrastructureError(RuntimeError):
    """The sandbox failed, which says nothing about the program."""


class SandboxUnavailable(InfrastructureError):
    """This machine cannot give the isolation that was asked for."""


@dataclass(frozen=True)
class Limits:
    """What one program may use; each is set inside, but the last three.

    Attributes:
        memory_bytes: Address space of a process; not enforced by macOS.
        processes: Processes and threads at once, itself among them. Only
            ``bubblewrap`` gives more than one: it alone can end them all.
        file_bytes: The size of a file.
        open_files: Descriptors at once.
        cpu_seconds: Processor time, whole seconds.
        scratch_bytes: All files together, :data:`MOST_FILES` at most; in
            ``limits`` those that one folder shows.
        wall_seconds: Time on the clock, once it began.
        output_bytes: All its answers and its log together.
    """

    memory_bytes: int = 512 * MIB
    processes: int = 1
    file_bytes: int = 16 * MIB
    open_files: int = 32
    cpu_seconds: int = 10
    scratch_bytes: int = 16 * MIB
    wall_seconds: float = 15.0
    output_bytes: int = MIB

    def words(self, processes: int) -> tuple[str, ...]:
        """The limits as :func:`.inside.set_limits` takes them.

        >>> Limits(cpu_seconds=2).words(1)[-4]
        'FSIZE=16777216'
        """
        named = {
            "AS": self.memory_bytes,
            "CORE": 0,
            "CPU": self.cpu_seconds,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
            "NPROC": processes,
            "STACK": 8 * MIB,  # the usual size, so that recursion ends alike
        }
        if sys.platform == "darwin":
            del named["AS"]  # refused there
        return tuple(f"{name}={value}" for name, value in named.items())
